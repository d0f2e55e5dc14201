//! `casemate backend new`: a project that builds, passes its tests and conforms as it comes.
//!
//! The files are those of `cli/templates/backend`, with the contract and the SDK of this version, so
//! that a vendor needs nothing but Cargo's registry.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::refused::Refused;
use crate::error::CliError;
use crate::screen::Screen;

static TEMPLATE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates/backend");
static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../sdk/src");
static FIRMWARE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/firmware/src");
static CONTRACT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../wit");
/// With it a new project builds from the versions that this one was tested with. Cargo drops what
/// the project has not.
static LOCK: &str = include_str!("../../../Cargo.lock");

/// Below the project: each with the folder that it is written to.
const PARTS: [(&str, &Dir<'_>); 3] = [
    ("casemate/sdk/src", &SDK),
    ("casemate/firmware/src", &FIRMWARE),
    ("casemate/wit", &CONTRACT),
];
/// Cargo and git would take these files for theirs where the template lies.
const RENAMED: [(&str, &str); 2] = [
    ("Cargo.toml.template", "Cargo.toml"),
    ("gitignore.template", ".gitignore"),
];
/// What stands for the name in the template.
const NAME: &str = "my-tee";
/// Longest name: it becomes the name of a file and of a crate.
const MAX_NAME: usize = 63;

#[derive(Debug, clap::Args)]
pub(crate) struct NewArguments {
    /// Name of the backend: lower-case letters, digits and `-`, with a letter first.
    name: String,
    /// Folder of the project; the name, if this is left out.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &NewArguments, screen: &Screen) -> Result<(), CliError> {
    let name = &arguments.name;
    if !is_project_name(name) {
        return Err(Refused::ProjectName { name: name.clone() }.into());
    }
    let folder = arguments.dir.clone().unwrap_or_else(|| name.into());
    let made = Half::make(&folder)?;
    write_all(&TEMPLATE, &folder, &|text| text.replace(NAME, name))?;
    for (below, part) in PARTS {
        write_all(part, &folder.join(below), &str::to_owned)?;
    }
    write(&folder.join("Cargo.lock"), LOCK.as_bytes())?;
    made.keep();
    screen.write_text(&next_steps(name, &folder))
}

fn next_steps(name: &str, folder: &Path) -> String {
    let mut text = String::new();
    let folder = folder.display().to_string();
    let folder = shlex::try_quote(&folder).unwrap_or_else(|_| folder.as_str().into());
    let _ = writeln!(
        text,
        "{name} is in {folder}; README.md there says what is what.\n"
    );
    let _ = writeln!(text, "  cd {folder}");
    text.push_str("  cargo test\n  casemate backend build\n");
    text
}

fn is_project_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A project that goes again unless all of it was written.
struct Half<'a> {
    folder: &'a Path,
    is_whole: bool,
}

impl<'a> Half<'a> {
    fn make(folder: &'a Path) -> Result<Self, Refused> {
        match std::fs::create_dir(folder) {
            Ok(()) => Ok(Self {
                folder,
                is_whole: false,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Refused::ProjectExists {
                    path: folder.to_owned(),
                })
            }
            Err(source) => Err(Refused::Unwritable {
                path: folder.to_owned(),
                source,
            }),
        }
    }

    fn keep(mut self) {
        self.is_whole = true;
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = std::fs::remove_dir_all(self.folder);
        }
    }
}

fn write_all(
    part: &Dir<'_>,
    to: &Path,
    as_written: &dyn Fn(&str) -> String,
) -> Result<(), Refused> {
    for file in part.files() {
        let mut path = to.join(file.path());
        for (from, renamed) in RENAMED {
            if path.ends_with(from) {
                path.set_file_name(renamed);
            }
        }
        match file.contents_utf8() {
            Some(text) => write(&path, as_written(text).as_bytes())?,
            None => write(&path, file.contents())?,
        }
    }
    for folder in part.dirs() {
        write_all(folder, to, as_written)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<(), Refused> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|source| Refused::Unwritable {
            path: path.to_owned(),
            source,
        })
}
