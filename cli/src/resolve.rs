//! From what a person types to a VM: its ID, the beginning of its ID, or its name.

use casemate_proto::v1::{ListVmsRequest, Vm};

use crate::client::Client;
use crate::error::CliError;
use crate::plain_text;

/// Asks the daemon for its VMs.
pub(crate) async fn id(client: &mut Client, wanted: &str) -> Result<String, CliError> {
    let vms = client.list_vms(ListVmsRequest::default()).await?;
    Ok(one(&vms, wanted)?.id.clone())
}

/// A full ID always means that VM. Otherwise name and beginning of an ID count alike, and only one
/// VM may fit: a removal must not guess.
pub(crate) fn one<'a>(vms: &'a [Vm], wanted: &str) -> Result<&'a Vm, CliError> {
    if let Some(vm) = vms.iter().find(|vm| vm.id == wanted) {
        return Ok(vm);
    }
    let fits = |vm: &&Vm| !wanted.is_empty() && (vm.name == wanted || vm.id.starts_with(wanted));
    let found: Vec<&Vm> = vms.iter().filter(fits).collect();
    match found.as_slice() {
        [vm] => Ok(vm),
        [] => Err(CliError::NoSuchVm {
            wanted: wanted.to_owned(),
        }),
        several => Err(CliError::AmbiguousVm {
            wanted: wanted.to_owned(),
            candidates: several
                .iter()
                .map(|vm| plain_text::stripped(format!("  {}  {}", vm.id, vm.name).trim_end()))
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(id: &str, name: &str) -> Vm {
        Vm {
            id: id.to_owned(),
            name: name.to_owned(),
            ..Vm::default()
        }
    }

    #[test]
    fn a_vm_is_found_or_the_choice_is_shown() {
        let vms = [
            vm("aa11", "web"),
            vm("aa22", "db"),
            vm("bb33", "db"),
            vm("cc44", "aa2"),
            vm("dd55", "bb33"),
            vm("ee66", ""),
        ];
        for (wanted, expected) in [
            ("aa11", Ok("aa11")),
            ("aa1", Ok("aa11")),
            ("web", Ok("aa11")),
            ("c", Ok("cc44")),
            ("bb33", Ok("bb33")),
            ("db", Err(4)),
            ("aa", Err(4)),
            ("aa2", Err(4)),
            ("x", Err(3)),
            ("we", Err(3)),
            ("", Err(3)),
        ] {
            let found = one(&vms, wanted);
            let found = found.as_ref().map(|vm| vm.id.as_str());
            assert_eq!(
                found.map_err(|error| error.exit_code()),
                expected,
                "{wanted}"
            );
        }
    }

    #[test]
    fn the_choice_names_ids() {
        let vms = [vm("aa11", "web"), vm("aa22", "")];
        let Err(error) = one(&vms, "aa") else {
            panic!("two VMs fit");
        };
        assert_eq!(
            error.to_string(),
            "\"aa\" fits several VMs:\n  aa11  web\n  aa22"
        );
    }
}
