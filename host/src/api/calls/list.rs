//! Which VMs a list has, and in which pages: pure.
//!
//! A page begins after a *place* in the order of creation, not after a number of VMs: what comes and
//! goes between two pages neither hides nor doubles another VM.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use casemate_proto::v1;
use jiff::Timestamp;

use crate::api::from_proto::{self, SpecError};
use crate::spec::VmId;
use crate::vm::status::VmStatus;

/// Most VMs of one answer: with some hundred bytes each they stay far below gRPC's 4 MiB.
const MAX_PAGE: u32 = 1_000;

/// What VMs have to be like to be in a list.
#[derive(Debug, Default)]
pub(super) struct Filter {
    name: Option<String>,
    backend: Option<String>,
    states: Vec<v1::VmState>,
    labels: BTreeMap<String, String>,
}

impl Filter {
    pub(super) fn of_request(request: v1::ListVmsRequest) -> Result<Self, SpecError> {
        let states = request
            .states
            .iter()
            .map(|number| from_proto::vm_state(*number));
        Ok(Self {
            states: states.collect::<Result<_, _>>()?,
            name: Some(request.name).filter(|name| !name.is_empty()),
            backend: Some(request.backend).filter(|name| !name.is_empty()),
            labels: from_proto::labels(request.labels)?,
        })
    }

    fn takes(&self, vm: &VmStatus) -> bool {
        let backend = vm.planned.as_ref().map(|planned| planned.backend.as_str());
        self.name.as_ref().is_none_or(|name| *name == vm.name)
            && self
                .backend
                .as_deref()
                .is_none_or(|name| backend == Some(name))
            && (self.states.is_empty()
                || self
                    .states
                    .contains(&crate::api::to_proto::vm_state(&vm.state)))
            && self
                .labels
                .iter()
                .all(|(key, value)| vm.labels.get(key) == Some(value))
    }
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    size: usize,
    after: Option<Place>,
}

impl Page {
    pub(super) fn of_request(request: &v1::ListVmsRequest) -> Result<Self, SpecError> {
        let size = match request.page_size {
            0 => MAX_PAGE,
            size @ 1..=MAX_PAGE => size,
            size => return Err(from_proto::page_size_error(size)),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(Place::parse(token).ok_or_else(from_proto::page_token_error)?),
        };
        Ok(Self {
            size: usize::try_from(size).unwrap_or(usize::MAX),
            after,
        })
    }
}

/// Where a VM stands in the order of creation. As a text it is opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    created_at: Timestamp,
    id: VmId,
}

impl Place {
    fn of(vm: &VmStatus) -> Self {
        let (created_at, id) = vm.place();
        Self { created_at, id }
    }

    /// `SECONDS.NANOSECONDS.ID`, the numbers in hexadecimal.
    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, '.');
        let mut number = |most: usize| {
            let digits = parts.next()?;
            let is_number =
                (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_number.then(|| i64::from_str_radix(digits, 16).ok())?
        };
        // So many digits that every number is a time, up to the year 4147.
        let (seconds, nanoseconds) = (number(9)?, number(8)?.min(999_999_999));
        Some(Self {
            created_at: Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()?,
            id: VmId::parse(parts.next()?)?,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = (
            self.created_at.as_second(),
            self.created_at.subsec_nanosecond(),
        );
        write!(f, "{seconds:x}.{nanoseconds:x}.{}", self.id)
    }
}

/// The VMs of a page, and where the next one begins; none: there is none. `all` is in order.
pub(super) fn page<'a>(
    all: &'a [Arc<VmStatus>],
    filter: &Filter,
    page: &Page,
) -> (Vec<&'a VmStatus>, Option<Place>) {
    let start = page
        .after
        .map_or(0, |after| all.partition_point(|vm| Place::of(vm) <= after));
    let mut fitting = all[start..]
        .iter()
        .map(AsRef::as_ref)
        .filter(|vm| filter.takes(vm));
    let vms: Vec<&VmStatus> = fitting.by_ref().take(page.size).collect();
    let next = match (vms.last(), fitting.next()) {
        (Some(last), Some(_)) => Some(Place::of(last)),
        _ => None,
    };
    (vms, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::status::VmState;

    fn vm(second: i64, name: &str, labels: &[(&str, &str)]) -> Arc<VmStatus> {
        let mut vm = VmStatus::unknown(VmId::random(), VmState::Running);
        vm.created_at = Timestamp::new(second, 7).unwrap();
        vm.name = name.to_owned();
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        vm.labels = labels.collect();
        Arc::new(vm)
    }

    fn names(vms: &[&VmStatus]) -> String {
        vms.iter().map(|vm| vm.name.as_str()).collect()
    }

    fn page_of(size: u32, token: &str) -> Page {
        let request = v1::ListVmsRequest {
            page_size: size,
            page_token: token.to_owned(),
            ..v1::ListVmsRequest::default()
        };
        Page::of_request(&request).unwrap()
    }

    #[test]
    fn pages_neither_hide_nor_double_what_stays() {
        let mut all: Vec<_> = ["a", "b", "c", "d", "e"]
            .into_iter()
            .zip(1..)
            .map(|(name, second)| vm(second, name, &[]))
            .collect();
        let filter = Filter::default();
        let (first, next) = page(&all, &filter, &page_of(2, ""));
        assert_eq!(names(&first), "ab");
        let token = next.unwrap().to_string();
        // The last one of the first page goes, and one comes.
        all.remove(1);
        all.push(vm(9, "f", &[]));
        let (second, next) = page(&all, &filter, &page_of(2, &token));
        assert_eq!(names(&second), "cd");
        let token = next.unwrap().to_string();
        let (last, next) = page(&all, &filter, &page_of(2, &token));
        assert_eq!((names(&last).as_str(), next), ("ef", None));
    }

    #[test]
    fn all_that_a_filter_says_has_to_fit() {
        let all = [
            vm(1, "a", &[("env", "prod"), ("team", "x")]),
            vm(2, "b", &[("env", "prod")]),
            vm(3, "c", &[]),
        ];
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let any = v1::ListVmsRequest::default;
        for (request, wanted) in [
            (any(), "abc"),
            (
                v1::ListVmsRequest {
                    name: "b".to_owned(),
                    ..any()
                },
                "b",
            ),
            (
                v1::ListVmsRequest {
                    backend: "other".to_owned(),
                    ..any()
                },
                "",
            ),
            (
                v1::ListVmsRequest {
                    labels: labels(&[("env", "prod")]),
                    ..any()
                },
                "ab",
            ),
            (
                v1::ListVmsRequest {
                    labels: labels(&[("env", "prod"), ("team", "x")]),
                    ..any()
                },
                "a",
            ),
            (
                v1::ListVmsRequest {
                    states: vec![v1::VmState::Running.into()],
                    ..any()
                },
                "abc",
            ),
            (
                v1::ListVmsRequest {
                    states: vec![v1::VmState::Lost.into()],
                    ..any()
                },
                "",
            ),
        ] {
            let filter = Filter::of_request(request.clone()).unwrap();
            let (vms, _) = page(&all, &filter, &page_of(0, ""));
            assert_eq!(names(&vms), wanted, "{request:?}");
        }
    }

    #[test]
    fn a_token_is_a_place_and_nothing_else() {
        let place = Place::of(&vm(1_700_000_000, "a", &[]));
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for token in [
            "x",
            "1.2",
            "1.2.3",
            "-1.2.",
            "1..",
            "ffffffffffffffffff.0.x",
        ] {
            assert_eq!(Place::parse(token), None, "{token}");
        }
        let id = place.id;
        assert_eq!(Place::parse(&format!("+1.0.{id}")), None);
        assert_eq!(Place::parse(&format!("7fffffffffffffff.0.{id}")), None);
    }
}
