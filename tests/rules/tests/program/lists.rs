//! Lists that break no rule, and ways to change them.
//!
//! They follow the composition that the research on QEMU recommends for each technology. No machine
//! at hand can start them: that the rules agree with hardware is shown by their sources alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_rules::{Debugging, Firmware, Smt, World, check};
use serde_json::{Value, json};

/// Digest of a configuration, of the size of SHA-256.
pub(crate) const IDENTITY: [u8; 32] = [7; 32];
/// Id of the guard in every list.
const GUARD: &str = "cgs0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Firmware, and a kernel that it measures.
    Snp,
    SnpIgvm,
    Tdx,
    Plain,
}

impl Base {
    pub(crate) const ALL: [Self; 4] = [Self::Snp, Self::SnpIgvm, Self::Tdx, Self::Plain];
    pub(crate) const CONFIDENTIAL: [Self; 2] = [Self::Snp, Self::Tdx];
}

/// A list and its world.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) argv: Vec<String>,
    pub(crate) world: World,
}

/// One change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    /// More arguments at the end.
    With(&'static [&'static str]),
    /// An option goes, with its value if it has one.
    Without(&'static str),
    /// Another value for an option that is there once.
    Value(&'static str, &'static str),
    /// A property of the machine; the empty name is the machine's own name.
    Machine(&'static str, &'static str),
    NoMachine(&'static str),
    /// A property of the guard, as JSON.
    Guard(&'static str, &'static str),
    NoGuard(&'static str),
    /// A property of the guard: base64 of so many bytes.
    GuardBytes(&'static str, usize),
    World(fn(&mut World)),
}

pub(crate) fn world() -> World {
    World {
        cbit: Some(51),
        cpus: 64,
        smt: Smt::On,
        snp_policy_bits: None,
        snp_abi: Some((1, 55)),
        debugging: Debugging::NotAsked,
        identity: Some(IDENTITY.to_vec()),
        firmware: Firmware {
            size: 4 << 20,
            sev_metadata: true,
            kernel_hash_area: true,
            tdvf: true,
        },
    }
}

pub(crate) fn owned(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|argument| (*argument).to_owned()).collect()
}

/// Ids of the rules that are broken, each once, in the table's order.
pub(crate) fn broken(launch: &Launch) -> Vec<&'static str> {
    let violations = check(&launch.argv, &launch.world);
    let mut ids: Vec<_> = violations.iter().map(|violation| violation.rule).collect();
    ids.dedup();
    ids
}

pub(crate) fn base64_of(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The identity, then zeros.
fn padded(size: usize) -> String {
    let mut bytes = IDENTITY.to_vec();
    bytes.resize(size, 0);
    base64_of(&bytes)
}

#[rustfmt::skip]
const COMMON: &[&str] = &[
    "-name", "guest=vm", "-S", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
    "-accel", "kvm", "-smp", "4", "-m", "2048M",
    "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile=",
];
const KERNEL: &[&str] = &[
    "-kernel",
    "bzImage",
    "-initrd",
    "rootfs",
    "-append",
    "quiet a,b",
];
const MEMFD: &str =
    r#"{"qom-type":"memory-backend-memfd","id":"ram0","size":2147483648,"share":true}"#;
const RAM: &str = r#"{"qom-type":"memory-backend-ram","id":"ram0","size":2147483648}"#;

impl Launch {
    pub(crate) fn of(base: Base) -> Self {
        let mut argv = owned(COMMON);
        let mut more = |arguments: &[&str]| argv.extend(owned(arguments));
        match base {
            Base::Snp | Base::SnpIgvm => {
                let machine = "pc-q35-10.0,kernel-irqchip=split,smm=off,hpet=off,vmport=off,memory-backend=ram0,confidential-guest-support=cgs0";
                let mut guard = json!({
                    "qom-type": "sev-snp-guest", "id": GUARD, "cbitpos": 51,
                    "reduced-phys-bits": 1, "policy": 196_608, "host-data": padded(32),
                });
                more(&["-cpu", "EPYC-v4", "-object", MEMFD]);
                if base == Base::Snp {
                    more(&["-machine", machine, "-bios", "OVMF.amdsev.fd"]);
                    more(KERNEL);
                    guard["kernel-hashes"] = json!(true);
                } else {
                    more(&["-machine", &format!("{machine},igvm-cfg=igvm0")]);
                    more(&["-object", "igvm-cfg,id=igvm0,file=coconut-qemu.igvm"]);
                }
                more(&["-object", &guard.to_string()]);
            }
            Base::Tdx => {
                let machine = "pc-q35-10.1,kernel-irqchip=split,smm=off,hpet=off,vmport=off,memory-backend=ram0,confidential-guest-support=cgs0";
                let guard = json!({
                    "qom-type": "tdx-guest", "id": GUARD, "mrconfigid": padded(48),
                    "quote-generation-socket": {"type": "unix", "path": "/var/run/tdx-qgs/qgs.socket"},
                });
                more(&["-cpu", "host", "-object", RAM, "-machine", machine]);
                more(&["-bios", "OVMF.inteltdx.fd", "-object", &guard.to_string()]);
                more(KERNEL);
            }
            Base::Plain => {
                more(&["-cpu", "EPYC", "-object", RAM]);
                more(&["-machine", "pc-q35-10.0,memory-backend=ram0"]);
                more(&["-bios", "OVMF.fd"]);
                more(KERNEL);
            }
        }
        let world = world();
        Self { argv, world }
    }

    pub(crate) fn edited(mut self, edits: &[Edit]) -> Self {
        for edit in edits {
            self.apply(edit);
        }
        self
    }

    fn apply(&mut self, edit: &Edit) {
        match *edit {
            Edit::With(arguments) => self.argv.extend(owned(arguments)),
            Edit::Without(option) => self.remove(option),
            Edit::Value(option, value) => value.clone_into(self.value(option)),
            Edit::Machine(name, value) => self.machine(name, Some(value)),
            Edit::NoMachine(name) => self.machine(name, None),
            Edit::Guard(name, value) => {
                let value = serde_json::from_str(value).expect("the table has JSON");
                self.guard(name, Some(value));
            }
            Edit::NoGuard(name) => self.guard(name, None),
            Edit::GuardBytes(name, count) => {
                let text = base64_of(&vec![9; count]);
                self.guard(name, Some(Value::String(text)));
            }
            Edit::World(change) => change(&mut self.world),
        }
    }

    fn position(&self, option: &str) -> usize {
        let found = self.argv.iter().position(|argument| argument == option);
        found.unwrap_or_else(|| panic!("the list has no {option}"))
    }

    fn remove(&mut self, option: &str) {
        let at = self.position(option);
        let has_value = self
            .argv
            .get(at + 1)
            .is_some_and(|next| !next.starts_with('-'));
        self.argv.drain(at..=at + usize::from(has_value));
    }

    fn value(&mut self, option: &str) -> &mut String {
        let at = self.position(option);
        &mut self.argv[at + 1]
    }

    fn machine(&mut self, name: &str, value: Option<&str>) {
        let text = self.value("-machine");
        let (kind, properties) = text.split_once(',').expect("there are properties");
        if name.is_empty() {
            *text = format!("{},{properties}", value.expect("a machine has a name"));
            return;
        }
        let prefix = format!("{name}=");
        let mut parts: Vec<_> = properties
            .split(',')
            .filter(|part| !part.starts_with(&prefix))
            .map(str::to_owned)
            .collect();
        parts.extend(value.map(|value| format!("{name}={value}")));
        parts.insert(0, kind.to_owned());
        *text = parts.join(",");
    }

    fn guard(&mut self, name: &str, value: Option<Value>) {
        let id = format!(r#""id":"{GUARD}""#);
        let text = self.argv.iter_mut().find(|text| text.contains(&id));
        let text = text.expect("the list has a guard");
        let mut guard: Value = serde_json::from_str(text).expect("it is JSON");
        let properties = guard.as_object_mut().expect("it is an object");
        match value {
            Some(value) => {
                properties.insert(name.to_owned(), value);
            }
            None => {
                properties.remove(name).expect("it was there");
            }
        }
        *text = guard.to_string();
    }
}

#[test]
fn the_lists_break_no_rule() {
    for base in Base::ALL {
        let launch = Launch::of(base);
        assert_eq!(check(&launch.argv, &launch.world), [], "{base:?}");
    }
}
