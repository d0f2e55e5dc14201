//! What sources say together: precedence, conflicts, the choice of a backend, and the words for all
//! that is wrong.

use super::environment::predecessor::{Meaning, VARIABLES};
use super::*;
use crate::vm::catalogued::Catalogued;

/// A config of a file, variables and flags.
struct Case {
    folder: tempfile::TempDir,
    inputs: Inputs,
}

fn case(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, file).unwrap();
    Case {
        inputs: Inputs {
            file: ConfigFile::Named(path),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            environment: variables
                .iter()
                .map(|(name, value)| Given {
                    name: (*name).to_owned(),
                    value: Some((*value).to_owned()),
                })
                .collect(),
        },
        folder,
    }
}

impl Case {
    fn load(&self) -> Loaded {
        match self.inputs.load() {
            Ok(loaded) => loaded,
            Err(errors) => panic!("{errors}"),
        }
    }

    fn errors(&self) -> Vec<String> {
        let errors = self.inputs.load().expect_err("it is refused").0;
        errors
            .iter()
            .map(|error| {
                assert!(!error.remedy().is_empty());
                error.to_string()
            })
            .collect()
    }

    /// The only error.
    fn error(&self) -> String {
        let mut errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }
}

const BACKENDS: &str = "[[backend]]\nname = \"plain-kvm\"\npath = \"a\"\n\
    [[backend]]\nname = \"sev-snp\"\npath = \"b\"\n[[backend]]\nname = \"tdx\"\npath = \"c\"\n";

#[test]
fn nothing_at_all_is_all_defaults() {
    let inputs = Inputs {
        file: ConfigFile::Usual("/no/such/file".into()),
        flags: Vec::new(),
        environment: Vec::new(),
    };
    let config = inputs.load().unwrap().config;
    assert_eq!(
        config.grpc.listener.address(),
        "127.0.0.1:7001".parse().unwrap()
    );
    assert_eq!(
        config.http.listener.address(),
        "127.0.0.1:7003".parse().unwrap()
    );
    assert_eq!(config.max_vms, 10);
    assert_eq!(config.vm.memory, 2048 << 20);
    assert_eq!(config.network.ports, Some(6100..=6200));
    assert_eq!(config.vm.origin("vm.cpu"), Origin::BuiltIn);
}

#[test]
fn defaults_are_of_their_form_and_variables_meet_declared_keys() {
    let names: Vec<&str> = keys().map(|key| key.name).collect();
    for key in keys() {
        if let key::Default::Value(text) = key.default {
            assert!(key.form.parse(text).is_some(), "{}", key.name);
        }
        assert_eq!(names.iter().filter(|name| **name == key.name).count(), 1);
    }
    for variable in VARIABLES {
        let keys: &[&str] = match variable.meaning {
            Meaning::Key(key) | Meaning::Wish(key) | Meaning::Words { key, .. } => &[key],
            Meaning::Listener { host, port } => &[host, port],
            _ => &[],
        };
        for key in keys {
            assert!(names.contains(key), "{:?}: {key}", variable.names);
        }
        // The predecessor's default is the default here.
        if let Meaning::Key(key) | Meaning::Wish(key) = variable.meaning
            && let Some(entry) = declared(key)
            && let key::Default::Value(default) = entry.default
            && !variable.default.is_empty()
        {
            assert_eq!(variable.default, default, "{key}");
        }
        if !variable.default.is_empty() {
            assert!(
                variable.form.parse(variable.default).is_some(),
                "{:?}",
                variable.names
            );
        }
    }
}

#[test]
fn the_strongest_source_wins_and_the_others_are_told() {
    let file = "max_vms = 1\n";
    let manager = ("MANAGER_MAX_VMS", "2");
    let own = ("CASEMATE_MAX_VMS", "3");
    for (variables, flags, wins, source) in [
        (&[][..], &[][..], 1, "c.toml:1"),
        (&[manager][..], &[][..], 2, "MANAGER_MAX_VMS"),
        (&[manager, own][..], &[][..], 3, "CASEMATE_MAX_VMS"),
        (&[manager, own][..], &["max_vms=4"][..], 4, "--set"),
        // An empty value was not given.
        (
            &[manager, ("CASEMATE_MAX_VMS", "")][..],
            &[][..],
            2,
            "MANAGER_MAX_VMS",
        ),
    ] {
        let loaded = case(file, variables, flags).load();
        assert_eq!(loaded.config.max_vms, wins, "{source}");
        let entry = loaded.effective.get("max_vms").unwrap();
        assert!(entry.source.to_string().ends_with(source), "{source}");
        let given = variables
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .count();
        assert_eq!(entry.unused.len(), given + flags.len(), "{source}");
    }
}

#[test]
fn what_is_wrong_is_told_with_place_value_and_form() {
    let file_cases: &[(&str, &[&str])] = &[
        ("max_vmss = 1", &["c.toml:1", "\"max_vmss\"", "\"max_vms\""]),
        (
            "\n\nmax_vms = \"x\"",
            &["c.toml:3: max_vms is \"\\\"x\\\"\"", "a whole number"],
        ),
        (
            "[vm]\nmemory = \"2 G\"",
            &["c.toml:2: vm.memory", "a size", "2048M"],
        ),
        ("[vm]\nmemory = 5", &["vm.memory", "a multiple of 1 MiB"]),
        ("[vm]\nvcpus = 0", &["vm.vcpus", "a whole number from 1"]),
        ("[vm]\nkernel = \"\"", &["vm.kernel", "the path"]),
        (
            "[vm]\nkernel_cmdline = \"a\\nb\"",
            &["vm.kernel_cmdline", "on one line"],
        ),
        (
            "[vm]\nidentity = \"AAAA\"",
            &["vm.identity", "base64 of 32 bytes"],
        ),
        (
            "[network]\nports = \"9-1\"",
            &["network.ports", "6100-6200"],
        ),
        (
            "[network]\nhost_address = \"::1\"",
            &["network.host_address", "IPv4"],
        ),
        (
            "[network]\nid = \"disk0\"",
            &["an id that no other device has"],
        ),
        (
            "[network.properties]\nmq = [1]",
            &["network.properties.mq", "a text"],
        ),
        ("[qemu]\nuids = \"0-999\"", &["qemu.uids", "from 1000 up"]),
        ("[qemu]\nbinary = 1", &["qemu.binary", "path"]),
        ("qemu = 1", &["there is no key \"qemu\""]),
        ("[vm.memory]\nsize = 1", &["vm.memory", "a size"]),
        (
            "[grpc]\nhost = \"0.0.0.0\"\nserver_cert = \"c\"\nserver_key = \"k\"",
            &["without TLS and authentication"],
        ),
        ("[grpc]\ntimeout = \"60\"", &["grpc.timeout", "90s"]),
        (
            "[http]\ntimeout = \"60s\"",
            &["there is no key \"http.timeout\""],
        ),
        ("[grpc]\nserver_certs = \"c\"", &["\"grpc.server_cert\""]),
        ("log = \"infoo\"", &["log is", "debug, info"]),
        (
            "[grpc]\nhost = \"0.0.0.0\"",
            &["gRPC listener", "0.0.0.0:7001", "c.toml:2"],
        ),
        ("[http]\nhost = \"::\"", &["HTTP listener"]),
        (
            "default_backend = \"x\"",
            &["c.toml:1", "\"x\"", "configured are none"],
        ),
        (
            "[[backend]]\nname = \"a\"\npath = \"a\"\n[[backend]]\nname = \"a\"\npath = \"b\"",
            &["two backends", "\"a\""],
        ),
        (
            "[[backend]]\nname = \"a\"\npath = \"a\"\n[backend.grants]\nobject = 1",
            &["object", "line 5"],
        ),
        ("[vm", &["c.toml", "line 1"]),
    ];
    for (file, parts) in file_cases {
        let error = case(file, &[], &[]).error();
        for part in *parts {
            assert!(error.contains(part), "{file:?}: {error}");
        }
    }
    type Variables = &'static [(&'static str, &'static str)];
    let variable_cases: &[(Variables, &[&str])] = &[
        (
            &[("MANAGER_QEMU_CPUU", "x")],
            &["MANAGER_QEMU_CPUU", "closest one is MANAGER_QEMU_CPU"],
        ),
        (
            &[("CASEMATE_MAX_VM", "1")],
            &["closest one is CASEMATE_MAX_VMS"],
        ),
        (&[("CASEMATE_", "1")], &["there is no variable CASEMATE_"]),
        (
            &[("MANAGER_QEMU_MEMORY_SIZE", "much")],
            &["MANAGER_QEMU_MEMORY_SIZE is \"much\"", "wanted is a size"],
        ),
        (
            &[("MANAGER_QEMU_ENABLE_KVM", "yes")],
            &[
                "MANAGER_QEMU_ENABLE_KVM is \"yes\"",
                "on, off, true, false, 1 or 0",
            ],
        ),
        (
            &[("MANAGER_GRPC_URL", "here")],
            &["MANAGER_GRPC_URL", "host:port"],
        ),
        (
            &[
                ("MANAGER_GRPC_URL", "127.0.0.1:1"),
                ("MANAGER_GRPC_PORT", "2"),
            ],
            &["MANAGER_GRPC_URL says 1", "MANAGER_GRPC_PORT says 2"],
        ),
        (
            &[
                ("MANAGER_QEMU_SEV_SNP_CBITPOS", "51"),
                ("MANAGER_QEMU_SEV_SNP_CBIT_POS", "47"),
            ],
            &["CBITPOS says 51", "CBIT_POS says 47"],
        ),
        (
            &[("MANAGER_QEMU_HOST_DATA", "x")],
            &["MANAGER_QEMU_HOST_DATA", "base64 of 32 bytes"],
        ),
        (
            &[("MANAGER_QEMU_OVMF_CODE_IF", "ide")],
            &["MANAGER_QEMU_OVMF_CODE_IF", "one of pflash"],
        ),
        (
            &[("MANAGER_QEMU_OVMF_VARS_IF", "ide")],
            &["MANAGER_QEMU_OVMF_VARS_IF", "one of pflash"],
        ),
        (&[("MANAGER_QEMU_GPU_BDF", "gpu")], &["0000:01:00.0"]),
        (
            &[("MANAGER_QEMU_GPU_BDF", "0000:01:00.0")],
            &["MANAGER_QEMU_GPU_BDF=0000:01:00.0", "does not have"],
        ),
        (
            &[("COCOS_JAEGER_TRACE_RATIO", "2")],
            &["COCOS_JAEGER_TRACE_RATIO", "from 0.0 to 1.0"],
        ),
        (
            &[("MANAGER_HTTP_HOST", "0.0.0.0")],
            &["HTTP listener", "http.host from MANAGER_HTTP_HOST"],
        ),
    ];
    for (variables, parts) in variable_cases {
        let error = case("", variables, &[]).error();
        for part in *parts {
            assert!(error.contains(part), "{variables:?}: {error}");
        }
    }
    for (flag, part) in [
        ("max_vms", "KEY=VALUE"),
        ("max_vmss=1", "the closest one is \"max_vms\""),
        ("max_vms=x", "--set max_vms is \"x\""),
        ("vm.kernel_cmdline=a\nb", "on one line"),
    ] {
        let error = case("", &[], &[flag]).error();
        assert!(error.contains(part), "{flag:?}: {error}");
    }
    // All at once, not one for each start.
    let many = case("a = 1\nmax_vms = \"x\"", &[("CASEMATE_LOG", "")], &["x"]);
    assert_eq!(many.errors().len(), 3);
    let missing = Inputs {
        file: ConfigFile::Named(many.folder.path().join("none")),
        ..many.inputs
    };
    let errors = missing.load().unwrap_err().to_string();
    assert!(errors.contains("cannot be read"), "{errors}");
}

#[test]
fn exposure_is_accepted_or_not_by_one_word() {
    for file in [
        "insecure = true\n[grpc]\nhost = \"0.0.0.0\"",
        "[grpc]\nhost = \"::1\"",
        "[grpc]\nhost = \"::ffff:127.0.0.1\"",
        "[grpc]\nhost = \"localhost\"",
        "[grpc]\nhost = \"127.200.3.4\"",
        "[grpc]\nhost = \"0.0.0.0\"\nserver_cert = \"c\"\nserver_key = \"k\"\nclient_ca_certs = \"a\"",
    ] {
        case(file, &[], &[]).load();
    }
    // A token keeps strangers out where it is not sent in the open; a user of a socket is no help.
    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let token = format!("token_sha256 = \"{DIGEST}\"");
    let tls = "server_cert = \"c\"\nserver_key = \"k\"";
    for (files, mark, is_closed) in [
        (tls, &*token, true),
        (tls, "uid = 0", false),
        ("", &*token, false),
    ] {
        let file = format!(
            "[grpc]\nhost = \"::\"\n{files}\n[[client]]\nname = \"a\"\nroles = [\"viewer\"]\n{mark}"
        );
        let loaded = case(&file, &[], &[]).inputs.load();
        assert_eq!(loaded.is_ok(), is_closed, "{file}: {loaded:?}");
    }
    case(
        "",
        &[
            ("MANAGER_GRPC_HOST", "0.0.0.0"),
            ("CASEMATE_INSECURE", "true"),
        ],
        &[],
    )
    .load();
}

#[test]
fn all_sources_of_the_default_backend_have_to_agree() {
    const SNP: &str = "MANAGER_QEMU_ENABLE_SEV_SNP";
    const TDX: &str = "MANAGER_QEMU_ENABLE_TDX";
    const OWN: &str = "CASEMATE_BACKEND";
    type Variables = &'static [(&'static str, &'static str)];
    type Wanted = Result<Option<&'static str>, &'static [&'static str]>;
    let cases: &[(&str, Variables, Wanted)] = &[
        ("", &[], Ok(None)),
        ("", &[(SNP, "")], Ok(None)),
        ("", &[(TDX, "false")], Ok(None)),
        ("", &[(SNP, "true")], Ok(Some("sev-snp"))),
        ("", &[(SNP, "true"), (TDX, "false")], Ok(Some("sev-snp"))),
        ("", &[(TDX, "true")], Ok(Some("tdx"))),
        ("", &[(SNP, "false"), (TDX, "true")], Ok(Some("tdx"))),
        ("", &[(SNP, "false"), (TDX, "false")], Ok(Some("plain-kvm"))),
        ("", &[(SNP, "0")], Ok(Some("plain-kvm"))),
        (
            "default_backend = \"tdx\"\n",
            &[(TDX, "1")],
            Ok(Some("tdx")),
        ),
        (
            "default_backend = \"tdx\"\n",
            &[(OWN, "tdx")],
            Ok(Some("tdx")),
        ),
        (
            "",
            &[(SNP, "true"), (TDX, "true")],
            Err(&[
                "MANAGER_QEMU_ENABLE_SEV_SNP=true",
                "MANAGER_QEMU_ENABLE_TDX=true",
            ]),
        ),
        (
            "default_backend = \"plain-kvm\"\n",
            &[(SNP, "true")],
            Err(&["c.toml:1: default_backend", "\"plain-kvm\"", "\"sev-snp\""]),
        ),
        (
            "default_backend = \"tdx\"\n",
            &[(OWN, "plain-kvm")],
            Err(&["CASEMATE_BACKEND", "c.toml:1", "two sources name different"]),
        ),
        (
            "",
            &[(OWN, "sev-snp"), (SNP, "false")],
            Err(&["MANAGER_QEMU_ENABLE_SEV_SNP=false", "\"plain-kvm\""]),
        ),
        (
            "",
            &[(OWN, "other")],
            Err(&["CASEMATE_BACKEND", "sev-snp, tdx"]),
        ),
    ];
    for (file, variables, wanted) in cases {
        let case = case(&format!("{file}{BACKENDS}"), variables, &[]);
        match wanted {
            Ok(backend) => assert_eq!(
                case.load().config.default_backend.as_deref(),
                *backend,
                "{variables:?}"
            ),
            Err(parts) => {
                let error = case.error();
                for part in *parts {
                    assert!(error.contains(part), "{variables:?}: {error}");
                }
            }
        }
    }
}

#[test]
fn warnings_are_for_what_has_no_effect() {
    let loaded = case(
        "",
        &[
            ("MANAGER_PORT_7001_TCP", "tcp://10.0.0.1:7001"),
            ("COCOS_OTHER", "1"),
            ("MANAGER_QEMU_USE_SUDO", "true"),
            ("MANAGER_QEMU_NO_GRAPHIC", "true"),
            ("MANAGER_QEMU_DISK_IMG_KERNEL_FILE", "/no/such/kernel"),
        ],
        &[],
    )
    .load();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for part in [
        "MANAGER_PORT_7001_TCP",
        "COCOS_OTHER",
        "sudo",
        "/no/such/kernel",
    ] {
        assert!(
            warnings.iter().any(|warning| warning.contains(part)),
            "{part}: {warnings:?}"
        );
    }
}

#[test]
fn a_first_port_counts_where_nobody_set_a_range() {
    let first = ("MANAGER_QEMU_HOST_FWD_AGENT", "7020");
    let range = ("MANAGER_QEMU_HOST_FWD_RANGE", "6100-6101");
    let ports = |file: &str, variables: &[(&str, &str)]| {
        case(file, variables, &[]).load().config.network.ports
    };
    assert_eq!(ports("", &[first]), Some(7020..=65535));
    assert_eq!(ports("", &[first, range]), Some(6100..=6101));
    assert_eq!(ports("[network]\nports = \"any\"", &[first]), None);
}

#[test]
fn a_reload_applies_what_it_can_and_names_what_it_cannot() {
    let old = case("max_vms = 1\n[grpc]\nport = 1\n", &[], &[]).load();
    let new = case("max_vms = 2\n[grpc]\nport = 2\n[vm]\nvcpus = 1", &[], &[]).load();
    let reloaded = old.effective.reloaded(&new.effective);
    let keys = |changes: &[sources::Changed]| -> Vec<String> {
        changes.iter().map(|change| change.key.clone()).collect()
    };
    assert_eq!(keys(&reloaded.applied), ["max_vms", "vm.vcpus"]);
    assert_eq!(keys(&reloaded.waiting), ["grpc.port"]);
    let config = Config::from_effective(&reloaded.effective, Tables::default()).unwrap();
    assert_eq!((config.max_vms, config.grpc.listener.port), (2, 1));
    // TLS is read again where it stays on, and is turned on by a restart.
    let tls = |files: &str| case(&format!("[http]\n{files}"), &[], &[]).load().effective;
    let (off, on) = (tls(""), tls("server_cert = \"a\"\nserver_key = \"k\""));
    let other = tls("server_cert = \"b\"\nserver_key = \"k\"\nclient_ca_certs = \"a\"");
    let both = ["http.server_cert", "http.server_key"];
    assert_eq!(keys(&off.reloaded(&on).waiting), both);
    assert_eq!(keys(&on.reloaded(&off).waiting), both);
    let changed = on.reloaded(&other);
    assert_eq!(
        keys(&changed.applied),
        ["http.client_ca_certs", "http.server_cert"]
    );
    assert!(changed.waiting.is_empty());
    // A second reload of the same file names it again.
    let again = reloaded.effective.reloaded(&new.effective);
    assert_eq!(keys(&again.waiting), ["grpc.port"]);
    assert!(again.applied.is_empty());
}

#[test]
fn the_documented_file_is_valid_and_says_the_defaults() {
    let text = document::default_file();
    let loaded = case(&text, &[], &[]).load();
    let names = loaded.config.backends.iter().map(|backend| &*backend.name);
    assert!(names.eq(["plain-kvm", "sev-snp", "tdx"]));
    for (key, entry) in loaded.effective.entries() {
        assert_eq!(entry.source, Source::Default, "{key}");
    }
    // Every commented default is one that the file could have.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.split_once(" = ").is_some_and(|(key, _)| {
                    key.bytes()
                        .all(|b| b.is_ascii_lowercase() || b"_-".contains(&b))
                }) && !rest.starts_with("allow_unpinned")
                    && !rest.starts_with("tier")
                    && !rest.starts_with("sha256")
                    && !rest.starts_with("identity")
                    && !rest.starts_with("first_port")
                    && !rest.starts_with("instance_id") =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let given = case(&uncommented, &[], &[]).load();
    for key in keys().filter(|key| matches!(key.default, key::Default::Value(_))) {
        assert!(given.effective.is_given(key.name), "{}", key.name);
        assert_eq!(
            given.effective.get(key.name).map(|entry| &entry.value),
            loaded.effective.get(key.name).map(|entry| &entry.value),
            "{}",
            key.name
        );
    }
}

/// Each key has a variable of its own, and each setting.
#[test]
fn every_key_can_be_set_by_its_variable_and_by_a_flag() {
    let mut names = std::collections::BTreeSet::new();
    for key in keys() {
        let text = match (key.default, key.example) {
            (key::Default::Value(text), _) if !text.is_empty() => text,
            (_, Some(example)) if key.form.parse(example).is_some() => example,
            _ if key.form == Form::Base64(32) => "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            _ if key.form == Form::Sha256 => {
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            }
            _ => "x",
        };
        assert!(
            names.insert(key.variable()),
            "{} is there twice",
            key.variable()
        );
        let backends = if key.name == "default_backend" {
            BACKENDS
        } else {
            ""
        };
        let tls = if key.name.ends_with("_cert") || key.name.ends_with("_key") {
            "insecure = true\n"
        } else {
            ""
        };
        let file = format!("{tls}{backends}");
        let variable = case(&file, &[(&key.variable(), text)], &[]).load();
        let entry = variable.effective.get(key.name).unwrap();
        assert_eq!(
            entry.source,
            Source::Variable(key.variable()),
            "{}",
            key.name
        );
        let flag = case(&file, &[], &[&format!("{}={text}", key.name)]).load();
        assert_eq!(flag.effective.get(key.name).unwrap().source, Source::Flag);
        assert_eq!(flag.effective.get(key.name).unwrap().value, entry.value);
    }
    let settings = case("", &[("CASEMATE_SETTINGS_MEMORY_SLOTS", "3")], &[]).load();
    let shared = Config::shared_settings(&settings.effective);
    assert_eq!(
        (&*shared[0].key, &*shared[0].place),
        ("memory-slots", "CASEMATE_SETTINGS_MEMORY_SLOTS")
    );
}

#[test]
fn a_client_that_nobody_can_see_is_a_warning() {
    const SOCKET: &str = "http.socket = \"/run/s\"\n";
    const AUTHORITY: &str = "grpc.client_ca_certs = \"/ca\"\n";
    for (head, marks, needs) in [
        ("", "uid = 1", Some("grpc.socket")),
        (SOCKET, "uid = 1", None),
        ("", "certificate_dns = \"a\"", Some("client_ca_certs")),
        (AUTHORITY, "certificate_dns = \"a\"", None),
        (SOCKET, "certificate_dns = \"a\"\nuid = 1", None),
        (SOCKET, "certificate_uri = \"a:b\"", Some("client_ca_certs")),
    ] {
        let file = format!("{head}[[client]]\nname = \"x\"\nroles = [\"viewer\"]\n{marks}\n");
        let warnings = case(&file, &[], &[]).load().warnings;
        let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown.len(),
            usize::from(needs.is_some()),
            "{file}: {shown:?}"
        );
        if let Some(needs) = needs {
            assert!(
                shown[0].contains(needs) && shown[0].contains("\"x\""),
                "{shown:?}"
            );
        }
    }
}
