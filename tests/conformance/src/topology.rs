//! How many vCPUs a plan's `smp` makes, as QEMU reckons it: what is not said is filled in, cores first,
//! and the product has to be `maxcpus` (QEMU, `machine_parse_smp_config`).

use casemate_host::spec::plan::{Property, Value};

/// Levels of a topology that QEMU never fills in: one where nothing is said.
const FURTHER: [&str; 5] = ["drawers", "books", "dies", "clusters", "modules"];

/// Why `smp` does not fit a request of so many vCPUs.
pub(crate) fn problem(smp: &[Property], vcpus: u32) -> Option<String> {
    let said = |name: &str| smp.iter().find(|one| one.path == name).map(number);
    let vcpus = u128::from(vcpus);
    let most = said("maxcpus").unwrap_or(vcpus);
    if most < vcpus {
        return Some(format!(
            "maxcpus is {most}, and the request has {vcpus} vCPUs"
        ));
    }
    let further = FURTHER
        .iter()
        .filter_map(|name| said(name))
        .fold(1, u128::saturating_mul);
    let (sockets, cores, threads) = match (said("sockets"), said("cores"), said("threads")) {
        (sockets, None, threads) => {
            let (sockets, threads) = (sockets.unwrap_or(1), threads.unwrap_or(1));
            (sockets, left(most, &[further, sockets, threads]), threads)
        }
        (None, Some(cores), threads) => {
            let threads = threads.unwrap_or(1);
            (left(most, &[further, cores, threads]), cores, threads)
        }
        (Some(sockets), Some(cores), None) => {
            (sockets, cores, left(most, &[further, sockets, cores]))
        }
        (Some(sockets), Some(cores), Some(threads)) => (sockets, cores, threads),
    };
    let product = [further, sockets, cores, threads]
        .into_iter()
        .fold(1, u128::saturating_mul);
    (product != most).then(|| {
        format!("sockets, cores and threads make {product} vCPUs, and the plan has {most} at most")
    })
}

/// What is no number is none that QEMU takes.
fn number(property: &Property) -> u128 {
    match property.value {
        Value::Unsigned(number) => u128::from(number),
        Value::Integer(number) => u128::try_from(number).unwrap_or(0),
        _ => 0,
    }
}

fn left(most: u128, others: &[u128]) -> u128 {
    let product = others.iter().copied().fold(1, u128::saturating_mul);
    most.checked_div(product).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_takes_is_told_from_what_it_refuses() {
        for (said, vcpus, fits) in [
            (&[][..], 3, true),
            (&[("sockets", 1), ("cores", 1)], 2, true),
            (&[("sockets", 1), ("cores", 1), ("threads", 1)], 2, false),
            (&[("sockets", 1), ("cores", 2), ("threads", 1)], 2, true),
            (&[("sockets", 2)], 4, true),
            (&[("sockets", 2)], 3, false),
            (&[("cores", 3)], 4, false),
            (&[("threads", 2)], 4, true),
            (&[("dies", 2), ("cores", 2)], 4, true),
            (
                &[("maxcpus", 8), ("sockets", 2), ("cores", 4), ("threads", 1)],
                2,
                true,
            ),
            (&[("maxcpus", 8), ("cores", 3), ("threads", 1)], 2, false),
            (&[("maxcpus", 1)], 2, false),
            (&[("cores", 0)], 2, false),
        ] {
            let smp: Vec<Property> = said
                .iter()
                .map(|(path, number)| Property {
                    path: (*path).to_owned(),
                    value: Value::Unsigned(*number),
                })
                .collect();
            assert_eq!(problem(&smp, vcpus).is_none(), fits, "{said:?} of {vcpus}");
        }
    }
}
