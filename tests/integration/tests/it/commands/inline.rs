//! Commands that stand in tables: with a VM, a file or a name for each word in capitals.

use super::stage::{Endpoint, Stage, Started};

pub(super) struct Inline {
    /// As it is documented.
    pub(super) span: &'static str,
    how: How,
}

enum How {
    /// As this line, which ends with this code.
    Run(&'static str, i32),
    /// Another test runs it.
    Elsewhere(&'static str),
}

const fn run(span: &'static str, line: &'static str) -> Inline {
    ends(span, line, 0)
}

const fn ends(span: &'static str, line: &'static str, code: i32) -> Inline {
    Inline {
        span,
        how: How::Run(line, code),
    }
}

/// Goes on and on: Ctrl-C ends it.
const INTERRUPTED: i32 = 130;

const fn elsewhere(span: &'static str, test: &'static str) -> Inline {
    Inline {
        span,
        how: How::Elsewhere(test),
    }
}

const DISTRIBUTION: &str = "`distribution::registry`";
const OFFLINE: &str = "`measured::offline`";

pub(super) const INLINE: &[Inline] = &[
    // README.md
    run(
        "casemate vm stop ID...",
        "casemate vm stop first second && casemate vm start first second",
    ),
    run(
        "casemate vm create --wait",
        "casemate vm create --wait | grep 'state: *running'",
    ),
    run(
        "casemate vm create --file vm.yaml",
        "echo 'name: of-a-file' > vm.yaml; casemate vm create --file vm.yaml | grep of-a-file",
    ),
    run(
        "casemate vm create --secret NAME=FILE",
        "echo s > token.txt; casemate vm create --secret token=token.txt",
    ),
    run(
        "casemate vm create --idempotency-key KEY",
        "casemate vm create --idempotency-key once",
    ),
    run(
        "casemate vm create --label team=blue",
        "casemate vm create --label team=blue | grep team=blue",
    ),
    run(
        "vm list --label team=blue --state running",
        "casemate vm create --label team=blue && casemate vm list --label team=blue --state running | grep team=blue",
    ),
    run(
        "casemate vm start ID...",
        "casemate vm stop --force first second && casemate vm start first second",
    ),
    run("vm restart", "casemate vm restart --force first"),
    run(
        "casemate vm create --restart on-failure",
        "casemate vm create --restart on-failure | grep on-failure",
    ),
    run(
        "casemate vm extend ID... --ttl 2h",
        "casemate vm extend first second --ttl 2h && casemate vm extend first second --forever",
    ),
    run(
        "casemate vm stop ID --expect-generation N",
        "casemate vm stop first --expect-generation $(casemate vm show first --format json | jq .generation) && casemate vm start first",
    ),
    run(
        "casemate vm pause ID...",
        "casemate vm pause first second && casemate vm resume first second",
    ),
    run(
        "vm resume ID...",
        "casemate vm pause first second && casemate vm resume first second",
    ),
    run("casemate vm reset ID...", "casemate vm reset first second"),
    ends(
        "casemate vm list --watch",
        "timeout --preserve-status -s INT 3 casemate vm list --watch",
        INTERRUPTED,
    ),
    ends(
        "vm show ID --watch",
        "timeout --preserve-status -s INT 3 casemate vm show first --watch",
        INTERRUPTED,
    ),
    ends(
        "vm watch",
        "timeout --preserve-status -s INT 3 casemate vm watch",
        INTERRUPTED,
    ),
    ends(
        "casemate vm logs --follow ID",
        "timeout --preserve-status -s INT 3 casemate vm logs --follow first",
        INTERRUPTED,
    ),
    run(
        "vm logs --previous 1 ID",
        "casemate vm logs --previous 1 first",
    ),
    run("casemate plan", "casemate plan | grep -- -machine"),
    // Nobody could verify one of `plain-kvm`, which refuses it; `guard` has those that are carried.
    ends(
        "casemate vm create --identity sha-256:HEX",
        "casemate vm create --identity sha-256:$(echo | sha256sum | cut -c1-64)",
        4,
    ),
    // Of `plain-kvm` there is none; `measured` has those that there are.
    ends(
        "casemate vm measurement ID",
        "casemate vm measurement first",
        6,
    ),
    elsewhere(
        "casemate measure --backend sev-snp --firmware FILE --vcpus N --cpu MODEL …",
        OFFLINE,
    ),
    elsewhere(
        "casemate plan --standalone > start.sh; sh start.sh",
        "`cli::the_standalone_script_boots_the_guest`",
    ),
    run("casemate doctor", "casemate doctor"),
    elsewhere(
        "casemate backend pull REFERENCE --key cosign.pub",
        DISTRIBUTION,
    ),
    elsewhere("backend push", DISTRIBUTION),
    elsewhere("casemate backend pin", DISTRIBUTION),
    run("backend check NAME", "casemate backend check plain-kvm"),
    run(
        "casemate context set NAME --endpoint URL …",
        "casemate context set here --endpoint $CASEMATE_ENDPOINT",
    ),
    run(
        "context use NAME",
        "casemate context use here && casemate context show | grep here",
    ),
    run(
        "casemate completions bash",
        "casemate completions bash | grep _casemate",
    ),
    run(
        "casemate man --dir FOLDER",
        "mkdir man && casemate man --dir man && ls man/casemate-vm-create.1",
    ),
    run(
        "casemate backend list",
        "casemate backend list | grep plain-kvm",
    ),
    run(
        "casemate backend show NAME",
        "casemate backend show plain-kvm",
    ),
    run(
        "casemate config explain",
        "casemate config explain | grep state_dir",
    ),
    elsewhere(
        "casemate backend new",
        "`vendor::two_printed_commands_make_a_backend_that_starts_a_vm`",
    ),
    run("casemate backend reload", "casemate backend reload"),
    ends(
        "casemate backend watch",
        "timeout --preserve-status -s INT 3 casemate backend watch",
        INTERRUPTED,
    ),
    run("casemated --check-config", "casemated --check-config"),
    // docs/cli.md
    run("vm create", "casemate vm create --format json | jq -e .id"),
    run(
        "vm show",
        "casemate vm show first --format yaml | grep 'state: running'",
    ),
    run(
        "vm create --dry-run",
        "casemate vm create --dry-run --format json | jq -e '.plan | type == \"object\"'",
    ),
    run(
        "vm list",
        "casemate vm list --format json | jq -e 'length == 2'",
    ),
    run(
        "vm start",
        "casemate vm start first --format json | jq -e '.[0] | has(\"started\")'",
    ),
    run(
        "vm remove",
        "casemate vm create --name gone && casemate vm remove gone --format json | jq -e '.[0].removed'",
    ),
    // Of `plain-kvm` there is none.
    ends(
        "vm measurement",
        "casemate vm measurement first --format json",
        6,
    ),
    ends(
        "vm list --watch",
        "timeout --preserve-status -s INT 3 casemate vm list --watch --format json",
        INTERRUPTED,
    ),
    ends(
        "vm show --watch",
        "timeout --preserve-status -s INT 3 casemate vm show first --watch --format yaml",
        INTERRUPTED,
    ),
    run(
        "backend list",
        "casemate backend list --format json | jq -e '.[0].name'",
    ),
    run(
        "backend show",
        "casemate backend show plain-kvm --format json | jq -e .grants",
    ),
    run(
        "backend check",
        "casemate backend check plain-kvm --format json | jq -e .usable",
    ),
    elsewhere(
        "backend build",
        "`vendor::a_crate_in_another_folder_is_built_to_where_it_is_wanted`",
    ),
    elsewhere("backend pull", DISTRIBUTION),
    elsewhere("backend pin", DISTRIBUTION),
    elsewhere("backend verify", DISTRIBUTION),
    elsewhere("backend inspect", DISTRIBUTION),
    ends(
        "backend watch",
        "timeout --preserve-status -s INT 3 casemate backend watch --format json",
        INTERRUPTED,
    ),
    run(
        "backend reload",
        "casemate backend reload --format json | jq -e '.backends[0].change == \"unchanged\"'",
    ),
    run(
        "config explain",
        "casemate config explain --format json | jq -e '.[0].key'",
    ),
    run(
        "context list",
        "casemate context list --format json | jq -e length",
    ),
    run(
        "context show",
        "casemate context show --format json | jq -e .endpoint.source",
    ),
    // docs/configuration.md
    run(
        "printf %s \"$TOKEN\" | sha256sum",
        "TOKEN=test; printf %s \"$TOKEN\" | sha256sum | grep ^9f86d081884c7d65",
    ),
    run(
        "openssl x509 -in FILE -outform DER | sha256sum",
        "openssl req -x509 -newkey ed25519 -nodes -keyout k.pem -out c.pem -subj /CN=a && openssl x509 -in c.pem -outform DER | sha256sum",
    ),
    // docs/errors.md
    run(
        "casemate config default",
        "casemate config default | grep state_dir",
    ),
    run("casemate vm list", "casemate vm list | grep first"),
    ends(
        "casemate vm measurement",
        "casemate vm measurement first",
        6,
    ),
    run(
        "casemate vm start --accept-measurement",
        "casemate vm stop --force first && casemate vm start --accept-measurement first",
    ),
    run(
        "casemate plan --standalone",
        "casemate plan --standalone | sh -n",
    ),
    run("casemate vm show", "casemate vm show first"),
    run("casemate context list", "casemate context list | grep here"),
    run(
        "casemate context set NAME --endpoint URL",
        "casemate context set there --endpoint https://there.example:7001",
    ),
    elsewhere("casemate measure", OFFLINE),
    elsewhere("casemate … --format corim > policy.corim", OFFLINE),
    run(
        "casemate plan --format json",
        "casemate plan --format json | jq -e '.facts | type == \"array\"'",
    ),
    run(
        "vm create --wait",
        "casemate vm create --wait --wait-timeout 5m",
    ),
    run("casemate vm logs ID", "casemate vm logs second"),
    // docs/measurement.md
    ends(
        "casemate vm measurement ID --format json",
        "casemate vm measurement first --format json",
        6,
    ),
    elsewhere("casemate measure … --format json", OFFLINE),
];

/// A daemon with two VMs that run.
pub(super) fn stage() -> Stage {
    let stage = Stage::new(super::setup(), Started::Beforehand, Endpoint::Variable);
    for name in ["first", "second"] {
        let (code, said) = stage.run(&format!("casemate vm create --name {name}"));
        assert_eq!(code, Some(0), "{said}");
    }
    stage
}

impl Inline {
    /// Runs it, and takes away what VMs it made.
    pub(super) fn run(&self, stage: &Stage) -> Result<(), String> {
        let How::Run(line, wanted) = self.how else {
            if let How::Elsewhere(test) = self.how {
                println!("`{}`: {test}", self.span);
            }
            return Ok(());
        };
        if !has_words(self.span, line) {
            return Err(format!("`{line}` is another command"));
        }
        let (code, said) = stage.run(line);
        stage.run(
            "casemate vm list --format json | jq -r '.[] | select(.name != \"first\" and .name != \"second\") | .id' | xargs -r casemate vm remove",
        );
        if code == Some(wanted) {
            Ok(())
        } else {
            Err(format!("`{line}` ended with {code:?}: {said}"))
        }
    }
}

/// Whether a line has all words of a command in their order, but for those that stand for others.
fn has_words(span: &str, line: &str) -> bool {
    let mut words = line.split_whitespace();
    span.split_whitespace()
        .filter(|word| {
            let stands_for_another = word.contains(|c: char| c.is_ascii_uppercase() || c == '…');
            !stands_for_another
        })
        .all(|wanted| words.any(|word| word.trim_end_matches(';') == wanted))
}
