//! Firmware descriptors: JSON files in which packages of firmware say what it is for and what it
//! has (QEMU, docs/interop/firmware.json). They choose a firmware where nobody named one.
//!
//! Of several folders the first weighs most: a file there hides those of its name in the others,
//! and an empty one hides them without a word. What is left counts in the order of its names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::regular_file::{self, ReadError};

/// Bytes of a descriptor; those of distributions have one or two thousand.
const MAX_BYTES: u64 = 64 << 10;
/// Files of one folder that are looked at; distributions have some dozens.
const MAX_FILES: usize = 256;
/// The device of firmware that is one file and no flash chip.
const MEMORY: &str = "memory";

#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    #[error("it cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("its folder cannot be listed: {0}")]
    Folder(std::io::Error),
    #[error("it is no text")]
    NotText,
    #[error("it is no firmware descriptor: {0}")]
    Form(#[from] serde_json::Error),
    #[error("its firmware has no absolute path")]
    NoPath,
}

/// A descriptor as it lies in its folder.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub content: Result<String, DescriptorError>,
}

/// What all of them say.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Firmware in one file, best first.
    combined: Vec<Combined>,
    /// Files that are skipped, and why.
    pub broken: Vec<Broken>,
    /// Descriptors that can be read, flash chips and others among them.
    pub count: usize,
}

#[derive(Debug)]
pub struct Broken {
    pub path: PathBuf,
    pub reason: DescriptorError,
}

#[derive(Debug)]
struct Combined {
    file: PathBuf,
    architectures: Vec<String>,
    features: Vec<String>,
}

/// The members that matter here; the format has more.
#[derive(Debug, Deserialize)]
struct Document {
    mapping: Mapping,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Mapping {
    device: String,
    /// Where the device takes one file.
    #[serde(default)]
    filename: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
}

/// All descriptors of `folders`, the folder that weighs most first. A folder need not be there.
pub fn read(folders: impl IntoIterator<Item = PathBuf>) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in folders {
        match list(&folder) {
            Ok(paths) => sources.extend(paths.into_iter().map(|path| Source {
                content: content(&path),
                path,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => sources.push(Source {
                path: folder.join("*.json"),
                content: Err(DescriptorError::Folder(error)),
            }),
        }
    }
    sources
}

/// Paths of a folder's descriptors, by name.
fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths.truncate(MAX_FILES);
    Ok(paths)
}

fn content(path: &Path) -> Result<String, DescriptorError> {
    let bytes = regular_file::read(path, MAX_BYTES)?;
    String::from_utf8(bytes).map_err(|_| DescriptorError::NotText)
}

impl Descriptors {
    /// `sources` as `read` gives them: those that weigh most come first.
    pub fn of(sources: Vec<Source>) -> Self {
        let mut by_name: BTreeMap<OsString, Source> = BTreeMap::new();
        for source in sources {
            let name = source.path.file_name().unwrap_or_default().to_owned();
            by_name.entry(name).or_insert(source);
        }
        let mut found = Self::default();
        for Source { path, content } in by_name.into_values() {
            if content.as_ref().is_ok_and(String::is_empty) {
                continue;
            }
            match content.and_then(|text| combined(&text)) {
                Ok(combined) => {
                    found.count += 1;
                    found.combined.extend(combined);
                }
                Err(reason) => found.broken.push(Broken { path, reason }),
            }
        }
        found
    }

    /// Firmware in one file for `architecture` that has all of `features`, best first. Who wants no
    /// feature gets none: any firmware would fit.
    pub fn fitting(&self, architecture: &str, features: &[String]) -> impl Iterator<Item = &Path> {
        self.combined
            .iter()
            .filter(move |_| !features.is_empty())
            .filter(move |one| one.architectures.iter().any(|name| name == architecture))
            .filter(move |one| features.iter().all(|wanted| one.features.contains(wanted)))
            .map(|one| one.file.as_path())
    }
}

/// None: a descriptor of firmware for another device.
fn combined(text: &str) -> Result<Option<Combined>, DescriptorError> {
    let document: Document = serde_json::from_str(text)?;
    if document.mapping.device != MEMORY {
        return Ok(None);
    }
    let file = document.mapping.filename;
    let file = file.filter(|path| path.is_absolute());
    let targets = document.targets.into_iter();
    Ok(Some(Combined {
        file: file.ok_or(DescriptorError::NoPath)?,
        architectures: targets.map(|target| target.architecture).collect(),
        features: document.features,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of those that Debian's packages `ovmf-amdsev` and `ovmf` install.
    fn memory(file: &str, architecture: &str, features: &str) -> String {
        format!(
            r#"{{"description": "x", "interface-types": ["uefi"],
                "mapping": {{"device": "memory", "filename": "{file}"}},
                "targets": [{{"architecture": "{architecture}", "machines": ["pc-q35-*"]}}],
                "features": [{features}], "tags": []}}"#
        )
    }

    const FLASH: &str = r#"{"description": "x", "interface-types": ["uefi"],
        "mapping": {"device": "flash", "mode": "split",
            "executable": {"filename": "/flash/code.fd", "format": "raw"},
            "nvram-template": {"filename": "/flash/vars.fd", "format": "raw"}},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["one", "two"], "tags": []}"#;

    fn of(files: &[(&str, &str)]) -> Descriptors {
        let source = |(path, text): &(&str, &str)| Source {
            path: path.into(),
            content: Ok((*text).to_owned()),
        };
        Descriptors::of(files.iter().map(source).collect())
    }

    fn chosen(descriptors: &Descriptors, features: &[&str]) -> Vec<String> {
        let features: Vec<String> = features.iter().map(|name| (*name).to_owned()).collect();
        let fitting = descriptors.fitting("x86_64", &features);
        fitting.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_first_by_name_that_has_every_feature_is_best() {
        let a = memory("/fw/a", "x86_64", r#""one""#);
        let b = memory("/fw/b", "x86_64", r#""one", "two", "three""#);
        let c = memory("/fw/c", "x86_64", r#""two", "one""#);
        let other = memory("/fw/arm", "aarch64", r#""one", "two""#);
        // Wanted is what the text of the format says of names and features.
        let found = of(&[
            ("/usr/70-c.json", &c),
            ("/usr/10-flash.json", FLASH),
            ("/usr/20-arm.json", &other),
            ("/usr/60-b.json", &b),
            ("/usr/50-a.json", &a),
        ]);
        assert_eq!((found.count, found.broken.len()), (5, 0));
        for (features, files) in [
            (&["one"][..], &["/fw/a", "/fw/b", "/fw/c"][..]),
            (&["one", "two"], &["/fw/b", "/fw/c"]),
            (&["three"], &["/fw/b"]),
            (&["four"], &[]),
            (&[], &[]),
        ] {
            assert_eq!(chosen(&found, features), files, "{features:?}");
        }
    }

    #[test]
    fn a_folder_that_weighs_more_hides_files_of_the_same_name() {
        let own = memory("/fw/own", "x86_64", r#""one""#);
        let packaged = memory("/fw/packaged", "x86_64", r#""one""#);
        let later = memory("/fw/later", "x86_64", r#""one""#);
        for (in_etc, files) in [
            (
                &[("/etc/50.json", own.as_str())][..],
                &["/fw/own", "/fw/later"][..],
            ),
            (&[("/etc/50.json", "")], &["/fw/later"]),
            (&[("/etc/50.json", "{")], &["/fw/later"]),
            (
                &[("/etc/70.json", own.as_str())],
                &["/fw/packaged", "/fw/later", "/fw/own"],
            ),
            (&[("/etc/50.json", ""), ("/etc/60.json", "")], &[]),
        ] {
            let packaged = [
                ("/usr/50.json", packaged.as_str()),
                ("/usr/60.json", &later),
            ];
            let found = of(&[in_etc, &packaged].concat());
            assert_eq!(chosen(&found, &["one"]), files, "{in_etc:?}");
        }
    }

    #[test]
    fn what_is_no_descriptor_is_skipped_and_told() {
        let relative = memory("fw.fd", "x86_64", r#""one""#);
        let nameless = r#"{"mapping": {"device": "memory"}, "features": ["one"]}"#;
        for (text, reason) in [
            ("{", "it is no firmware descriptor: EOF"),
            ("[]", "it is no firmware descriptor: "),
            (r#"{"mapping": 1}"#, "it is no firmware descriptor: "),
            (r#"{"features": ["one"]}"#, "missing field `mapping`"),
            (relative.as_str(), "its firmware has no absolute path"),
            (nameless, "its firmware has no absolute path"),
        ] {
            let sound = memory("/fw/sound", "x86_64", r#""one""#);
            let found = of(&[("/usr/10.json", text), ("/usr/20.json", &sound)]);
            assert_eq!(chosen(&found, &["one"]), ["/fw/sound"], "{text}");
            let told = found.broken.first().expect("it is told");
            assert_eq!(told.path, Path::new("/usr/10.json"));
            assert!(told.reason.to_string().contains(reason), "{}", told.reason);
        }
    }

    #[test]
    fn folders_are_read_and_need_not_be_there() {
        let temp = tempfile::tempdir().unwrap();
        let folder = |name: &str| temp.path().join(name);
        std::fs::create_dir(folder("etc")).unwrap();
        std::fs::write(folder("etc/b.json"), [0xff]).unwrap();
        std::fs::write(folder("etc/a.json"), "text").unwrap();
        std::fs::write(folder("etc/a.json.orig"), "text").unwrap();
        std::fs::create_dir(folder("etc/c.json")).unwrap();
        std::fs::write(folder("file"), "").unwrap();
        let sources = read([folder("etc"), folder("none"), folder("file")]);
        let told: Vec<(String, String)> = sources
            .iter()
            .map(|source| {
                let path = source.path.strip_prefix(temp.path()).unwrap();
                let content = match &source.content {
                    Ok(text) => text.clone(),
                    Err(error) => error.to_string(),
                };
                (path.display().to_string(), content)
            })
            .collect();
        let parts = [
            ("etc/a.json", "text"),
            ("etc/b.json", "it is no text"),
            ("etc/c.json", "it cannot be read: it is not a regular file"),
            ("file/*.json", "its folder cannot be listed"),
        ];
        assert_eq!(told.len(), parts.len(), "{told:?}");
        for ((path, content), (wanted, part)) in told.iter().zip(parts) {
            assert_eq!(path, wanted);
            assert!(content.contains(part), "{path}: {content}");
        }
    }
}
