//! The state behind the monitor: names, objects, user networks and passed descriptors. Whether the
//! machine runs is the guest's (`guest`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::descriptors::Sets;
use crate::options::Options;
use crate::usernet::Network;

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// The versioned name; `none` for a probing run.
    pub(crate) kind: String,
    pub(crate) guard: String,
    pub(crate) accelerator: String,
    /// By id.
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) networks: Vec<Network>,
    pub(crate) sets: Sets,
}

impl Machine {
    pub(crate) fn new(options: &Options, sets: Sets) -> Result<Self, String> {
        let mut machine = Self {
            name: options.name.clone(),
            uuid: options.uuid.clone(),
            kind: versioned(&options.machine).to_owned(),
            guard: options.guard.clone(),
            accelerator: options.accelerator.clone(),
            objects: BTreeMap::new(),
            networks: Vec::new(),
            sets,
        };
        for object in &options.objects {
            machine.add_object(object)?;
        }
        for network in &options.networks {
            let mut opened = Network::new(&network.id);
            for rule in &network.forwards {
                opened
                    .add_forward(rule)
                    .map_err(|refusal| refusal.message(rule))?;
            }
            machine.networks.push(opened);
        }
        Ok(machine)
    }

    pub(crate) fn add_object(&mut self, object: &Value) -> Result<(), String> {
        let id = object["id"]
            .as_str()
            .ok_or("Parameter 'id' is missing")?
            .to_owned();
        if object["qom-type"].as_str().is_none() {
            return Err("Parameter 'qom-type' is missing".to_owned());
        }
        if self.objects.contains_key(&id) {
            return Err(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ));
        }
        self.objects.insert(id, object.clone());
        Ok(())
    }

    pub(crate) fn remove_object(&mut self, id: &str) -> Result<(), String> {
        match self.objects.remove(id) {
            Some(_) => Ok(()),
            None => Err(format!("object '{id}' not found")),
        }
    }

    /// The network that a monitor command names, or the only one.
    pub(crate) fn network(&mut self, id: Option<&str>) -> Option<&mut Network> {
        match id {
            Some(id) => self.networks.iter_mut().find(|network| network.id() == id),
            None => self.networks.first_mut(),
        }
    }

    /// A property by its QOM path; a link is the path of what it points at.
    pub(crate) fn property(&self, path: &str, property: &str) -> Option<Value> {
        if path == "/machine" {
            return match property {
                "type" => Some(format!("{}-machine", self.kind).into()),
                "confidential-guest-support" if self.guard.is_empty() => Some("".into()),
                "confidential-guest-support" => Some(format!("/objects/{}", self.guard).into()),
                _ => None,
            };
        }
        let id = path.strip_prefix("/objects/")?;
        let object = self.objects.get(id)?;
        match property {
            "type" => object.get("qom-type").cloned(),
            _ => object.get(property).cloned(),
        }
    }
}

fn versioned(machine: &str) -> &str {
    match machine {
        "q35" | "" => "pc-q35-10.0",
        "pc" => "pc-i440fx-10.0",
        other => other,
    }
}
