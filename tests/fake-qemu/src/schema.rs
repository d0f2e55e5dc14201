//! What `query-qmp-schema` answers: a small introspection of this fake, in the form of QEMU 10.0.
//!
//! A reader that follows `object-add` through `arg-type`, `variants`, `case`, `type` and `members`
//! finds a few object types with the members that the real ones have. Types have numbers for
//! names, as in QEMU, so that nobody relies on them.

use serde_json::{Map, Value, json};

use crate::script::Objects;

/// Each command here, with the members of its arguments.
const COMMANDS: &[(&str, &[(&str, &str)])] = &[
    ("cont", &[]),
    ("device-list-properties", &[("typename", "str")]),
    (
        "human-monitor-command",
        &[("command-line", "str"), ("cpu-index?", "int")],
    ),
    ("object-del", &[("id", "str")]),
    ("qmp_capabilities", &[("enable?", "[str]")]),
    ("qom-get", &[("path", "str"), ("property", "str")]),
    ("qom-list-properties", &[("typename", "str")]),
    (
        "qom-list-types",
        &[("implements?", "str"), ("abstract?", "bool")],
    ),
    ("query-commands", &[]),
    ("query-fdsets", &[]),
    ("query-kvm", &[]),
    ("query-machines", &[("compat-props?", "bool")]),
    ("query-name", &[]),
    ("query-qmp-schema", &[]),
    ("query-status", &[]),
    ("query-uuid", &[]),
    ("query-version", &[]),
    ("quit", &[]),
    (
        "set-action",
        &[
            ("reboot?", "RebootAction"),
            ("shutdown?", "ShutdownAction"),
            ("panic?", "PanicAction"),
            ("watchdog?", "WatchdogAction"),
        ],
    ),
    ("stop", &[]),
    ("system_powerdown", &[]),
    ("system_reset", &[]),
];

const ENUMS: &[(&str, &[&str])] = &[
    (
        "HostMemPolicy",
        &["default", "preferred", "bind", "interleave"],
    ),
    ("OnOffAuto", &["auto", "on", "off"]),
    (
        "PanicAction",
        &["pause", "shutdown", "exit-failure", "none"],
    ),
    ("RebootAction", &["reset", "shutdown"]),
    ("ShutdownAction", &["poweroff", "pause"]),
    (
        "WatchdogAction",
        &[
            "reset",
            "shutdown",
            "poweroff",
            "pause",
            "debug",
            "none",
            "inject-nmi",
        ],
    ),
    ("NetFilterDirection", &["all", "rx", "tx"]),
    ("QCryptoSecretFormat", &["raw", "base64"]),
];

/// What all memory backends have.
const MEMORY_MEMBERS: &[(&str, &str)] = &[
    ("dump?", "bool"),
    ("host-nodes?", "[int]"),
    ("merge?", "bool"),
    ("policy?", "HostMemPolicy"),
    ("prealloc?", "bool"),
    ("prealloc-threads?", "int"),
    ("prealloc-context?", "str"),
    ("share?", "bool"),
    ("reserve?", "bool"),
    ("size", "int"),
    ("x-use-canonical-path-for-ramblock-id?", "bool"),
];

/// Object types and their own members; a `?` marks what may be left out.
const OBJECTS: &[(&str, &[(&str, &str)])] = &[
    (
        "filter-dump",
        &[
            ("netdev", "str"),
            ("queue?", "NetFilterDirection"),
            ("status?", "str"),
            ("position?", "str"),
            ("insert?", "str"),
            ("file", "str"),
            ("maxlen?", "int"),
        ],
    ),
    (
        "iothread",
        &[
            ("aio-max-batch?", "int"),
            ("thread-pool-min?", "int"),
            ("thread-pool-max?", "int"),
            ("poll-max-ns?", "int"),
            ("poll-grow?", "int"),
            ("poll-shrink?", "int"),
        ],
    ),
    (
        "memory-backend-file",
        &[
            ("align?", "int"),
            ("offset?", "int"),
            ("discard-data?", "bool"),
            ("mem-path", "str"),
            ("pmem?", "bool"),
            ("readonly?", "bool"),
            ("rom?", "OnOffAuto"),
        ],
    ),
    (
        "memory-backend-memfd",
        &[
            ("hugetlb?", "bool"),
            ("hugetlbsize?", "int"),
            ("seal?", "bool"),
        ],
    ),
    ("memory-backend-ram", &[]),
    ("rng-random", &[("filename?", "str")]),
    (
        "secret",
        &[
            ("format?", "QCryptoSecretFormat"),
            ("keyid?", "str"),
            ("iv?", "str"),
            ("data?", "str"),
            ("file?", "str"),
        ],
    ),
];

const OBJECT_TYPE_ENUM: &str = "ObjectType";
const EMPTY_OBJECT: &str = "0";

pub(crate) fn version() -> Value {
    json!({
        "qemu": {"major": 10, "minor": 0, "micro": 2},
        "package": "fake",
    })
}

pub(crate) fn commands() -> Value {
    let names = COMMANDS.iter().map(|(name, _)| *name);
    names
        .chain(["object-add"])
        .map(|name| json!({"name": name}))
        .collect()
}

/// The arguments that a command has, with a `?` after those that may be left out; `None` where
/// there is no such command.
pub(crate) fn arguments_of(command: &str) -> Option<&'static [(&'static str, &'static str)]> {
    if command == "object-add" {
        // Its members are another set for each type.
        return Some(&[]);
    }
    let mut commands = COMMANDS.iter();
    commands
        .find(|(name, _)| *name == command)
        .map(|(_, arguments)| *arguments)
}

/// `more` are object types that a script adds.
pub(crate) fn schema(more: &Objects) -> Value {
    let mut entries = Entries::default();
    for (name, json_type) in [
        ("str", "string"),
        ("int", "int"),
        ("bool", "boolean"),
        ("any", "value"),
    ] {
        entries.push(json!({"name": name, "meta-type": "builtin", "json-type": json_type}));
    }
    for element in ["str", "int", "any"] {
        entries.push(json!({
            "name": format!("[{element}]"),
            "meta-type": "array",
            "element-type": element,
        }));
    }
    entries.push(json!({"name": EMPTY_OBJECT, "meta-type": "object", "members": []}));
    for (name, values) in ENUMS {
        entries.push_enum(name, values);
    }
    for (name, members) in COMMANDS {
        let argument = entries.push_object(members);
        entries.push_command(name, &argument);
    }
    entries.push_object_add(more);
    entries.finish()
}

#[derive(Default)]
struct Entries {
    entries: Vec<Value>,
    /// How many objects and enums have got a number so far.
    numbered: usize,
    /// Number of each enum, by its source name.
    enums: Map<String, Value>,
}

impl Entries {
    fn push(&mut self, entry: Value) {
        self.entries.push(entry);
    }

    fn next_number(&mut self) -> String {
        self.numbered += 1;
        self.numbered.to_string()
    }

    fn push_enum(&mut self, source_name: &str, values: &[&str]) {
        let number = self.next_number();
        let members: Vec<Value> = values.iter().map(|name| json!({"name": name})).collect();
        self.push(json!({
            "name": number,
            "meta-type": "enum",
            "members": members,
            "values": values,
        }));
        self.enums.insert(source_name.to_owned(), number.into());
    }

    /// The number of an object with these members.
    fn push_object(&mut self, members: &[(&str, &str)]) -> String {
        if members.is_empty() {
            return EMPTY_OBJECT.to_owned();
        }
        let number = self.next_number();
        let members: Vec<Value> = members
            .iter()
            .map(|(name, type_name)| self.member(name, type_name))
            .collect();
        self.push(json!({"name": number, "meta-type": "object", "members": members}));
        number
    }

    fn member(&self, name: &str, type_name: &str) -> Value {
        let type_name = match self.enums.get(type_name) {
            Some(number) => number.clone(),
            None => type_name.into(),
        };
        match name.strip_suffix('?') {
            // The schema says "optional" by the presence of a default, which is always null.
            Some(name) => json!({"name": name, "default": null, "type": type_name}),
            None => json!({"name": name, "type": type_name}),
        }
    }

    fn push_command(&mut self, name: &str, argument: &str) {
        self.push(json!({
            "name": name,
            "meta-type": "command",
            "arg-type": argument,
            "ret-type": EMPTY_OBJECT,
        }));
    }

    fn push_object_add(&mut self, more: &Objects) {
        let own = OBJECTS.iter().map(|(kind, _)| *kind);
        let kinds: Vec<&str> = own.chain(more.keys().map(String::as_str)).collect();
        self.push_enum(OBJECT_TYPE_ENUM, &kinds);
        let mut variants = Vec::new();
        for (kind, own) in OBJECTS {
            let mut members = Vec::new();
            if kind.starts_with("memory-backend-") {
                members.extend_from_slice(MEMORY_MEMBERS);
            }
            members.extend_from_slice(own);
            let number = self.push_object(&members);
            variants.push(json!({"case": kind, "type": number}));
        }
        for (kind, members) in more {
            let members: Vec<(&str, &str)> = members
                .iter()
                .map(|(name, type_name)| (name.as_str(), type_name.as_str()))
                .collect();
            let number = self.push_object(&members);
            variants.push(json!({"case": kind, "type": number}));
        }
        let number = self.next_number();
        let members = [
            self.member("qom-type", OBJECT_TYPE_ENUM),
            self.member("id", "str"),
        ];
        self.push(json!({
            "name": number,
            "meta-type": "object",
            "members": members,
            "tag": "qom-type",
            "variants": variants,
        }));
        self.push_command("object-add", &number);
    }

    fn finish(self) -> Value {
        Value::Array(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(schema: &'a Value, name: &str) -> &'a Value {
        let mut entries = schema.as_array().unwrap().iter();
        entries.find(|entry| entry["name"] == name).unwrap()
    }

    #[test]
    fn a_reader_finds_the_members_of_an_object_type() {
        let schema = schema(&Objects::new());
        let command = entry(&schema, "object-add");
        let argument = entry(&schema, command["arg-type"].as_str().unwrap());
        assert_eq!(argument["tag"], "qom-type");
        for (kind, wanted) in [
            ("memory-backend-memfd", "share"),
            ("memory-backend-file", "mem-path"),
            ("memory-backend-ram", "size"),
            ("iothread", "poll-max-ns"),
            ("secret", "file"),
            ("filter-dump", "file"),
        ] {
            let mut variants = argument["variants"].as_array().unwrap().iter();
            let variant = variants.find(|variant| variant["case"] == kind).unwrap();
            let object = entry(&schema, variant["type"].as_str().unwrap());
            let mut members = object["members"].as_array().unwrap().iter();
            assert!(members.any(|member| member["name"] == wanted), "{kind}");
        }
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        let schema = schema(&Objects::new());
        for owner in schema.as_array().unwrap() {
            for member in owner["members"].as_array().into_iter().flatten() {
                if let Some(name) = member["type"].as_str() {
                    entry(&schema, name);
                }
            }
            for key in ["arg-type", "ret-type", "element-type"] {
                if let Some(name) = owner[key].as_str() {
                    entry(&schema, name);
                }
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let schema = schema(&Objects::new());
        let mut names: Vec<&str> = schema
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
