//! Which VMs `vm list` is about. The daemon chooses them; a watch, which is of all VMs, is chosen
//! from here.

use casemate_proto::v1::{ListVmsRequest, Vm, VmState};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::spec;
use crate::vm::state_name;

/// What a VM can be in, in the order of its life.
const STATES: [VmState; 11] = [
    VmState::Creating,
    VmState::Starting,
    VmState::Running,
    VmState::Paused,
    VmState::Unresponsive,
    VmState::Stopping,
    VmState::Stopped,
    VmState::Exited,
    VmState::Failed,
    VmState::Removing,
    VmState::Lost,
];

/// Only VMs that fit all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Filter {
    /// Only VMs of exactly this name.
    #[arg(long)]
    name: Option<String>,

    /// Only VMs of this backend.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Only VMs in this state; may be repeated, and one of them has to fit.
    #[arg(long, value_name = "STATE", value_parser = state_parser())]
    state: Vec<VmState>,

    /// Only VMs with this label; may be repeated, and all of them have to fit.
    #[arg(long, value_name = "KEY=VALUE", value_parser = spec::assignment)]
    label: Vec<(String, String)>,
}

impl Filter {
    pub(super) fn request(&self) -> ListVmsRequest {
        ListVmsRequest {
            name: self.name.clone().unwrap_or_default(),
            backend: self.backend.clone().unwrap_or_default(),
            states: self.state.iter().map(|state| i32::from(*state)).collect(),
            labels: self.label.iter().cloned().collect(),
            ..ListVmsRequest::default()
        }
    }

    /// No VM has two values of one label, and a request has one of them alone.
    pub(super) fn is_impossible(&self) -> bool {
        let mut labels = self.label.iter();
        labels.any(|(key, value)| {
            let mut others = self.label.iter();
            others.any(|(other, another)| other == key && another != value)
        })
    }

    /// As the daemon's own choice.
    pub(super) fn admits(&self, vm: &Vm) -> bool {
        self.name.as_ref().is_none_or(|name| *name == vm.name)
            && self
                .backend
                .as_ref()
                .is_none_or(|backend| *backend == vm.backend)
            && (self.state.is_empty() || self.state.contains(&vm.state()))
            && self
                .label
                .iter()
                .all(|(key, value)| vm.labels.get(key) == Some(value))
    }

    pub(super) fn admits_all(&self) -> bool {
        *self == Self::default()
    }
}

fn state_parser() -> impl TypedValueParser<Value = VmState> {
    PossibleValuesParser::new(STATES.map(state_name)).try_map(|name| {
        let found = STATES.into_iter().find(|state| state_name(*state) == name);
        found.ok_or("it is no state")
    })
}

#[cfg(test)]
pub(super) fn named(name: &str) -> Filter {
    Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        filter: Filter,
    }

    fn filter(line: &[&str]) -> Filter {
        let words = ["casemate"].iter().chain(line);
        Wrapper::try_parse_from(words).unwrap().filter
    }

    #[test]
    fn what_is_asked_is_sent_and_chosen_the_same() {
        let vm = Vm {
            name: "web".to_owned(),
            backend: "plain-kvm".to_owned(),
            state: VmState::Running.into(),
            labels: [("a", "1"), ("b", "2=x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Vm::default()
        };
        for (line, admits) in [
            (&[][..], true),
            (&["--name=web", "--backend=plain-kvm"], true),
            (&["--name=we"], false),
            (&["--backend=tdx"], false),
            (&["--state=exited", "--state=running"], true),
            (&["--state=exited"], false),
            (&["--label=a=1", "--label=b=2=x"], true),
            (&["--label=a=1", "--label=b=3"], false),
            (&["--label=c=1"], false),
            (&["--label=a="], false),
        ] {
            assert_eq!(filter(line).admits(&vm), admits, "{line:?}");
            assert_eq!(filter(line).admits_all(), line.is_empty());
        }
        for (line, is_impossible) in [
            (&["--label=a=1", "--label=a=1", "--label=b=2"][..], false),
            (&["--label=a=1", "--label=b=2", "--label=a=3"], true),
        ] {
            assert_eq!(filter(line).is_impossible(), is_impossible, "{line:?}");
        }
        let all = filter(&[
            "--name=web",
            "--backend=x",
            "--state=exited",
            "--state=lost",
            "--label=a=1",
        ]);
        assert_eq!(
            all.request(),
            ListVmsRequest {
                name: "web".to_owned(),
                backend: "x".to_owned(),
                states: vec![VmState::Exited.into(), VmState::Lost.into()],
                labels: [("a".to_owned(), "1".to_owned())].into(),
                ..ListVmsRequest::default()
            }
        );
        assert!(Wrapper::try_parse_from(["casemate", "--state=unspecified"]).is_err());
    }

    #[test]
    fn every_state_can_be_asked_for() {
        for number in 1..=i32::from(u8::MAX) {
            if let Ok(state) = VmState::try_from(number) {
                assert!(STATES.contains(&state), "{state:?}");
            }
        }
    }
}
