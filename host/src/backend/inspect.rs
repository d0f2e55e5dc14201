//! What a component says of itself without being run: names of what it imports and exports, and its
//! metadata. Nothing is compiled, so that a component may be looked at that no host would load.

use wasmparser::{Parser, Payload};

use crate::spec::printable;

/// Longest text of metadata that is kept; a description has a sentence or two.
const LONGEST_TEXT: usize = 4 << 10;
/// Imports and exports that are kept. A backend has some ten.
const MOST_NAMES: usize = 1000;
const BACKEND: &str = "casemate:tee/backend@";

#[derive(Debug, thiserror::Error)]
#[error("it is not a valid component: {0}")]
pub struct InspectError(String);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub metadata: Metadata,
}

/// Custom sections that `wasm-tools metadata add` writes, and `wkg` makes annotations of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub version: Option<String>,
    pub description: Option<String>,
    pub authors: Option<String>,
    pub licenses: Option<String>,
    pub source: Option<String>,
    pub homepage: Option<String>,
    pub revision: Option<String>,
}

impl Inspected {
    /// Version of the contract that it was built against. None: it is no backend.
    pub fn contract(&self) -> Option<&str> {
        let mut exports = self.exports.iter();
        exports.find_map(|name| name.strip_prefix(BACKEND))
    }
}

impl Metadata {
    fn take(&mut self, name: &str, data: &[u8]) {
        let field = match name {
            "version" => &mut self.version,
            "description" => &mut self.description,
            "authors" => &mut self.authors,
            "licenses" => &mut self.licenses,
            "source" => &mut self.source,
            "homepage" => &mut self.homepage,
            "revision" => &mut self.revision,
            _ => return,
        };
        if data.len() <= LONGEST_TEXT
            && let Ok(text) = std::str::from_utf8(data)
        {
            *field = Some(printable(text.trim()));
        }
    }
}

/// Reads the outermost component; what is nested in it speaks for itself alone.
pub fn inspect(bytes: &[u8]) -> Result<Inspected, InspectError> {
    let invalid =
        |error: wasmparser::BinaryReaderError| InspectError(printable(&error.to_string()));
    let mut inspected = Inspected::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        match payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ if depth != 1 => {}
            Payload::ComponentImportSection(section) => {
                for import in section {
                    keep(&mut inspected.imports, import.map_err(invalid)?.name.name);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    keep(&mut inspected.exports, export.map_err(invalid)?.name.name);
                }
            }
            Payload::CustomSection(section) => {
                inspected.metadata.take(section.name(), section.data());
            }
            _ => {}
        }
    }
    Ok(inspected)
}

fn keep(names: &mut Vec<String>, name: &str) {
    if names.len() < MOST_NAMES {
        names.push(printable(name));
    }
}
