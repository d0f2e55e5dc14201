//! `docs/errors.md`.

use std::fmt::Write as _;

use crate::{Answer, Entry, ErrorId, Stage};

const INTRODUCTION: &str = "\
# Errors

Made from the catalogue (`catalogue/src/table.rs`); change it there, and run the tests with `CASEMATE_UPDATE_DOCS=1`.

An error says what happened, what QEMU said about it, what to do, and which error of this page it is:

```text
the kernel file \"/no/such/kernel\" cannot be used: No such file or directory (os error 2)
remedy: put the file there, or set `vm.kernel` in the config file
error: file-unusable (stage plan, subject kernel)
```

The lines are always in this order:

| line | when |
|---|---|
| what happened | always, on one line |
| `QEMU said:` and QEMU's last lines | where QEMU said anything |
| `remedy: …` | always, on one line |
| `error: ID (stage STAGE, subject SUBJECT)` | always, on the last line; the subject where there is one |

The *id* does not change between versions; the words do. The *subject* is what the error is about: a field of the request, the role of a file, a path, the key of a setting, the name of a backend, `qemu`. It has at most 64 characters.

## For programs

- A gRPC status has the text above as its message. Its details (`grpc-status-details-bin`, a `google.rpc.Status`) hold one `google.rpc.ErrorInfo`: `domain` is `casemate`, `reason` is the id in upper case with `_` (`FILE_UNUSABLE`), and `metadata` has `stage`, `remedy` and, where there is one, `subject`.
- A problem over HTTP is RFC 9457: `type` is `urn:casemate:error:ID`, beside `title`, `status`, `detail` and `remedy`.
- `casemate --format json` writes one object to standard error: `{\"error\": {\"id\", \"message\", \"code\", \"stage\", \"subject\", \"remedy\"}}`, and `qemu_stderr` where QEMU said anything. `code` is the name of the gRPC code, and null for errors of `casemate` itself; `subject` and `remedy` may be null.

The exit code is that of `casemate`; for the stage `start-up` it is that of `casemated`. `casemate` ends by class: 2 the command line, 3 not found, 4 the request, 5 used up, 6 this host or QEMU, 7 not reached or not in time, 8 the daemon or a backend, 9 who calls, 10 an idempotency key that was used for something else, 11 a component that was not taken (it is not what was pinned, signed or asked for, or no component), 130 Ctrl-C, 1 anything else. A command line that cannot be read at all is answered by its parser, with exit code 2, in the parser's own form and under no id. `casemated` ends with 78 (EX_CONFIG) for a config that has to be changed, and with 1 otherwise.
";

/// The page: an introduction, and a table for each stage.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for stage in Stage::ALL {
        let entries: Vec<&Entry> = ErrorId::ALL
            .iter()
            .map(|id| id.entry())
            .filter(|entry| entry.stage == stage)
            .collect();
        if entries.is_empty() {
            continue;
        }
        // A String takes whatever is written to it.
        let _ = write!(
            page,
            "\n## Stage `{stage}`\n\n{}\n\n\
             | id | gRPC | HTTP | exit | cause | remedy |\n|---|---|---|---|---|---|\n",
            stage.explanation()
        );
        for entry in entries {
            let _ = writeln!(
                page,
                "| <a id=\"{id}\"></a>`{id}` | {grpc} | {http} | {exit} | {cause} | {remedy} |",
                id = entry.id,
                grpc = entry.grpc().map_or("", |code| code.name()),
                http = number(entry.http_status()),
                exit = match entry.answer {
                    Answer::ExitOfItsCause => "that of its cause".to_owned(),
                    _ => number(entry.exit_code()),
                },
                cause = cell(entry.cause),
                remedy = cell(entry.remedy),
            );
        }
    }
    page
}

fn number<N: ToString>(number: Option<N>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// A bar would begin another cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
