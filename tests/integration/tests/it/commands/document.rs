//! Commands as the documents have them: blocks of a shell, and words in tables.

use std::path::PathBuf;

use crate::tidy;

/// A command of a block, and the lines that it is said to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) line: String,
    pub(super) printed: Vec<String>,
}

/// A block of a document, which has one command at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) commands: Vec<Command>,
}

/// README.md and all of `docs/`, by their path in the tree.
pub(super) fn all() -> Vec<(String, String)> {
    let root = tidy::workspace();
    let pages = std::fs::read_dir(root.join("docs")).expect("the folder is there");
    let pages = pages.map(|page| page.expect("a file").path());
    let mut paths: Vec<PathBuf> = pages
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    paths.push(root.join("README.md"));
    paths.sort();
    let named = paths.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).expect("a text");
        let name = path.strip_prefix(&root).expect("below it");
        (name.display().to_string(), text)
    });
    named.collect()
}

/// The blocks ```` ```console ```` and ```` ```sh ```` of a document. Of `sh` the whole block is one
/// command, and the `text` that follows the word `prints` is what it prints.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = text.lines();
    let mut prints = false;
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            prints = line == "prints" || (prints && line.is_empty());
            continue;
        };
        let body: Vec<String> = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .map(str::to_owned)
            .collect();
        match kind {
            "console" => blocks.push(Block {
                commands: console(&body),
            }),
            "sh" => blocks.push(Block {
                commands: vec![Command {
                    line: body.join("\n"),
                    printed: Vec::new(),
                }],
            }),
            "text" if prints => {
                let last = blocks
                    .last_mut()
                    .and_then(|block| block.commands.last_mut());
                last.expect("a command prints").printed = body;
            }
            _ => {}
        }
        prints = false;
    }
    blocks
}

/// `$ ` begins a command; the rest is what it prints.
fn console(lines: &[String]) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    for line in lines {
        if let Some(line) = line.strip_prefix("$ ") {
            commands.push(Command {
                line: line.to_owned(),
                printed: Vec::new(),
            });
        } else {
            let last = commands.last_mut();
            last.expect("a block of the console begins with `$ `")
                .printed
                .push(line.clone());
        }
    }
    commands
}

/// Words that begin a command in a table. `casemate` is left out before those of its own.
const PROGRAMS: [&str; 12] = [
    "casemate",
    "casemated",
    "vm",
    "backend",
    "context",
    "config",
    "curl",
    "grpcurl",
    "openssl",
    "printf",
    "cargo",
    "systemctl",
];

/// Commands that stand in the tables of a document.
pub(super) fn in_tables(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let spans = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let commands = spans.filter(|span| {
        let first = span.split_once(' ').map(|(first, _)| first);
        first.is_some_and(|first| PROGRAMS.contains(&first))
    });
    // A bar in a table is written so.
    commands.map(|span| span.replace("\\|", "|")).collect()
}

#[test]
fn blocks_and_words_are_found() {
    let text = "# T\n\n```console\n$ a b\nout\n$ c\n```\n\n```sh\nx\ny\n```\n\nprints\n\n```text\nz\n```\n\n```toml\n$ no\n```\n| `vm stop ID` | `key` | `printf a \\| b` |\n`vm start ID`\n";
    let command = |line: &str, printed: &[&str]| Command {
        line: line.to_owned(),
        printed: printed.iter().map(|line| (*line).to_owned()).collect(),
    };
    let found: Vec<Vec<Command>> = blocks(text).into_iter().map(|b| b.commands).collect();
    assert_eq!(
        found,
        [
            vec![command("a b", &["out"]), command("c", &[])],
            vec![command("x\ny", &["z"])],
        ]
    );
    assert_eq!(in_tables(text), ["vm stop ID", "printf a | b"]);
}
