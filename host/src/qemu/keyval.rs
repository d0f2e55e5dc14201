//! QEMU's two option syntaxes: keyval (`-machine pc,smm=off`) and JSON (`-object '{…}'`).
//!
//! In keyval a comma in a value is doubled (QEMU, docs: "Command-line options: keyval"); nothing
//! else has a meaning. In JSON dots nest, a segment of digits is a list index, numbers are numbers.

use serde_json::{Map, Value as Json};

/// An option such as `pc-q35-10.0,smm=off`, built part by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVal(String);

impl KeyVal {
    /// Starts with the implied key's value, such as the machine's or the device's type.
    pub fn new(head: &str) -> Self {
        Self(escape(head))
    }

    /// Starts with nothing, for options without an implied key.
    pub fn empty() -> Self {
        Self(String::new())
    }

    pub fn push(&mut self, key: &str, value: &str) -> &mut Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(value));
        self
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.push(key, value);
        self
    }

    pub fn finish(self) -> String {
        self.0
    }
}

/// A value with its commas doubled.
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NestError {
    #[error("{path:?} is set both as a value and as a structure")]
    Conflict { path: String },
    #[error("list {path:?} has a gap: its indices must be 0, 1, 2, …")]
    Gap { path: String },
}

/// A JSON object from dotted paths, in the order given.
pub fn nest(
    entries: impl IntoIterator<Item = (String, Json)>,
) -> Result<Map<String, Json>, NestError> {
    let mut root = Map::new();
    for (path, value) in entries {
        let segments: Vec<&str> = path.split('.').collect();
        let (last, parents) = segments
            .split_last()
            .expect("split yields one segment at least");
        let mut map = &mut root;
        for parent in parents {
            let slot = map
                .entry(*parent)
                .or_insert_with(|| Json::Object(Map::new()));
            map = slot
                .as_object_mut()
                .ok_or_else(|| NestError::Conflict { path: path.clone() })?;
        }
        if map.insert((*last).to_owned(), value).is_some() {
            return Err(NestError::Conflict { path });
        }
    }
    let mut object = Map::new();
    for (key, value) in root {
        let value = fold_lists(&key, value)?;
        object.insert(key, value);
    }
    Ok(object)
}

/// Turns every map whose keys are all digits into a list.
fn fold_lists(path: &str, value: Json) -> Result<Json, NestError> {
    let Json::Object(map) = value else {
        return Ok(value);
    };
    let is_list = !map.is_empty()
        && map
            .keys()
            .all(|key| key.bytes().all(|b| b.is_ascii_digit()));
    let mut folded = Vec::with_capacity(map.len());
    for (key, value) in map {
        let value = fold_lists(&format!("{path}.{key}"), value)?;
        folded.push((key, value));
    }
    if !is_list {
        return Ok(Json::Object(folded.into_iter().collect()));
    }
    let mut items: Vec<Option<Json>> = (0..folded.len()).map(|_| None).collect();
    for (key, value) in folded {
        let slot = key
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get_mut(index));
        match slot {
            Some(slot @ None) => *slot = Some(value),
            _ => {
                return Err(NestError::Gap {
                    path: path.to_owned(),
                });
            }
        }
    }
    items
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .map(Json::Array)
        .ok_or_else(|| NestError::Gap {
            path: path.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn commas_are_doubled_and_nothing_else_changes() {
        let option = KeyVal::new("pc")
            .with("a", "x,y")
            .with("b", "\"ü = '")
            .finish();
        assert_eq!(option, "pc,a=x,,y,b=\"ü = '");
        assert_eq!(KeyVal::empty().with("size", "1M").finish(), "size=1M");
    }

    #[test]
    fn dots_nest_and_digits_index() {
        let nested = nest([
            ("qom-type".to_owned(), json!("t")),
            ("quote-generation-socket.type".to_owned(), json!("vsock")),
            ("quote-generation-socket.cid".to_owned(), json!("2")),
            ("host-nodes.1".to_owned(), json!(3)),
            ("host-nodes.0".to_owned(), json!(1)),
        ]);
        assert_eq!(
            Json::Object(nested.unwrap()),
            json!({
                "qom-type": "t",
                "quote-generation-socket": {"type": "vsock", "cid": "2"},
                "host-nodes": [1, 3],
            })
        );
        let error = |entries: &[(&str, Json)]| {
            nest(
                entries
                    .iter()
                    .map(|(path, value)| ((*path).to_owned(), value.clone())),
            )
            .unwrap_err()
            .to_string()
        };
        assert!(error(&[("a.1", json!(1))]).contains("gap"));
        assert!(error(&[("a.0", json!(1)), ("a.00", json!(1))]).contains("gap"));
        assert!(error(&[("a", json!(1)), ("a.b", json!(1))]).contains("both"));
        assert!(error(&[("a.b", json!(1)), ("a", json!(1))]).contains("both"));
    }
}
