//! What a rule is given to judge.

use std::collections::BTreeMap;

use crate::arguments::{Arguments, Cpu};
use crate::item::Item;
use crate::world::World;

pub(crate) const SNP_GUEST: &str = "sev-snp-guest";
pub(crate) const TDX_GUEST: &str = "tdx-guest";
/// Objects that this crate has rules for.
pub(crate) const GUARDS: [&str; 2] = [SNP_GUEST, TDX_GUEST];
pub(crate) const IGVM: &str = "igvm-cfg";
/// How types of objects that hold guest memory begin.
pub(crate) const MEMORY_BACKEND: &str = "memory-backend-";

/// A list and its world, with what many rules look at.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) world: &'a World,
    pub(crate) machine: BTreeMap<String, String>,
    pub(crate) guard: Option<&'a Item>,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) vcpus: Option<u64>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(arguments: &'a Arguments, world: &'a World) -> Self {
        Self {
            arguments,
            world,
            machine: arguments.merged("machine"),
            guard: arguments.guard(),
            cpu: arguments.cpu(),
            vcpus: arguments.vcpus(),
        }
    }

    /// A property of the machine.
    pub(crate) fn machine(&self, name: &str) -> Option<&str> {
        self.machine.get(name).map(String::as_str)
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &'a Item> {
        self.arguments.items("device")
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &'a Item> {
        self.arguments.items("object")
    }

    /// The object that the machine has its memory from.
    pub(crate) fn memory_backend(&self) -> Option<&'a Item> {
        let object = self.arguments.object(self.machine("memory-backend")?)?;
        object.kind.starts_with(MEMORY_BACKEND).then_some(object)
    }

    /// Whether the guest starts from an IGVM file instead of firmware.
    pub(crate) fn has_igvm(&self) -> bool {
        self.machine("igvm-cfg").is_some() || self.objects().any(|object| object.kind == IGVM)
    }

    /// What of the list is a pflash chip, in any of the ways to write one.
    pub(crate) fn pflash(&self) -> Vec<String> {
        let drives = self.arguments.items("drive");
        let drives = drives
            .filter(|drive| drive.text("if").value() == Some("pflash"))
            .map(|_| "-drive if=pflash".to_owned());
        let short = self.arguments.texts("pflash").map(|_| "-pflash".to_owned());
        let properties = self.machine.keys().filter(|key| key.starts_with("pflash"));
        let properties = properties.map(|key| format!("-machine {key}="));
        let devices = self
            .devices()
            .filter(|device| device.kind.starts_with("cfi.pflash"));
        let devices = devices.map(|device| format!("-device {}", device.kind));
        drives
            .chain(short)
            .chain(properties)
            .chain(devices)
            .collect()
    }
}
