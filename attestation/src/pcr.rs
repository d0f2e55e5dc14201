//! Values that a guest's TPM is to have in its registers, from a file that an operator gives.
//!
//! ```json
//! {"pcr_values": {"sha256": {"0": "<64 hexadecimal digits>"}, "sha384": {"0": "<96>"}}}
//! ```
//!
//! The file becomes a policy, so it is read strictly: a key that means nothing here, or one given
//! twice, of which a map would silently keep the last, is refused with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::register::{Algorithm, hexadecimal};

/// All registers in both banks, with the white space of any editor, are a tenth of this.
pub const LARGEST_FILE: usize = 64 * 1024;

/// A TPM has 24 registers.
pub const HIGHEST_INDEX: u8 = 23;

/// The document, `pcr_values` and a bank.
const DEEPEST: usize = 3;

/// How much of a text that is wrong is shown.
const SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bank {
    Sha256,
    Sha384,
}

impl Bank {
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha384];

    /// As a key of the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }

    #[must_use]
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Sha256 => Algorithm::Sha256,
            Self::Sha384 => Algorithm::Sha384,
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
        }
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a file of PCR values is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PcrError {
    #[error(
        "the PCR values have {size} bytes, and at most {LARGEST_FILE} are read; give the \
         document {{\"pcr_values\": {{…}}}} only"
    )]
    TooLarge { size: usize },
    #[error("the PCR values are not the JSON that is wanted, {{\"pcr_values\": {{…}}}}")]
    Json(#[source] serde_json::Error),
    #[error("{place} has to be an object, {wanted}")]
    NotObject { place: String, wanted: &'static str },
    #[error(
        "the document has no \"pcr_values\"; wanted is {{\"pcr_values\": {{\"sha256\": {{\"0\": \"…\"}}}}}}"
    )]
    Missing,
    #[error("the document has the key {key:?}, which means nothing here; keep \"pcr_values\" only")]
    Key { key: String },
    #[error("{place} has the key {key:?} twice; keep the one that is meant")]
    Duplicate { place: String, key: String },
    #[error("{place} is empty; give at least one value, or leave it out")]
    Empty { place: String },
    #[error(
        "pcr_values has the bank \"sha1\", whose digests can be forged; give the values of \
         \"sha256\" or \"sha384\""
    )]
    Sha1,
    #[error("pcr_values has the bank {bank:?}; wanted are \"sha256\" and \"sha384\"")]
    Bank { bank: String },
    #[error(
        "pcr_values.{bank} has the index {index:?}; wanted is 0 to {HIGHEST_INDEX}, in decimal \
         without a sign or a leading zero"
    )]
    Index { bank: Bank, index: String },
    #[error("pcr_values.{bank}.{index} is not text; wanted are {} hexadecimal digits in quotes", .bank.digits())]
    NotText { bank: Bank, index: u8 },
    #[error(
        "pcr_values.{bank}.{index} has {digits} characters; wanted are {} hexadecimal digits",
        .bank.digits()
    )]
    Length {
        bank: Bank,
        index: u8,
        digits: usize,
    },
    #[error(
        "pcr_values.{bank}.{index} has {found:?}, which is no hexadecimal digit; wanted are {} of \
         them without a prefix or spaces",
        .bank.digits()
    )]
    NotHexadecimal { bank: Bank, index: u8, found: char },
    #[error(
        "pcr_values.{bank}.{index} is zeros only, which a register has before anything is \
         measured; give the value of a guest that has started, or leave the register out"
    )]
    AllZero { bank: Bank, index: u8 },
}

/// Values by bank and index, of which there is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValues {
    banks: BTreeMap<Bank, BTreeMap<u8, Vec<u8>>>,
}

impl PcrValues {
    /// # Errors
    ///
    /// With the bank and the index of what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, PcrError> {
        if bytes.len() > LARGEST_FILE {
            return Err(PcrError::TooLarge { size: bytes.len() });
        }
        let members = object(
            read(bytes).map_err(PcrError::Json)?,
            "the document",
            "{\"pcr_values\": {…}}",
        )?;
        let mut values = None;
        for (key, node) in members {
            if key != "pcr_values" {
                return Err(PcrError::Key { key: cut(&key) });
            }
            values = Some(node);
        }
        let banks = object(
            values.ok_or(PcrError::Missing)?,
            "pcr_values",
            "{\"sha256\": {…}, \"sha384\": {…}}",
        )?;
        let mut taken = BTreeMap::new();
        for (name, node) in banks {
            let bank = match Bank::parse(&name) {
                Some(bank) => bank,
                None if name == "sha1" => return Err(PcrError::Sha1),
                None => return Err(PcrError::Bank { bank: cut(&name) }),
            };
            taken.insert(bank, registers(bank, node)?);
        }
        if taken.is_empty() {
            return Err(PcrError::Empty {
                place: "pcr_values".to_owned(),
            });
        }
        Ok(Self { banks: taken })
    }

    #[must_use]
    pub fn value(&self, bank: Bank, index: u8) -> Option<&[u8]> {
        self.banks.get(&bank)?.get(&index).map(Vec::as_slice)
    }

    /// Every index that any bank has, in order.
    pub fn indices(&self) -> impl Iterator<Item = u8> {
        let indices: BTreeSet<u8> = self.iter().map(|(_, index, _)| index).collect();
        indices.into_iter()
    }

    /// By bank, then by index.
    pub fn iter(&self) -> impl Iterator<Item = (Bank, u8, &[u8])> {
        self.banks.iter().flat_map(|(bank, registers)| {
            registers
                .iter()
                .map(|(index, value)| (*bank, *index, value.as_slice()))
        })
    }
}

/// As in the file, below `pcr_values`.
impl Serialize for PcrValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut banks = serializer.serialize_map(Some(self.banks.len()))?;
        for (bank, registers) in &self.banks {
            let registers: BTreeMap<u8, String> = registers
                .iter()
                .map(|(index, value)| (*index, hexadecimal::text(value)))
                .collect();
            banks.serialize_entry(bank.as_str(), &registers)?;
        }
        banks.end()
    }
}

fn registers(bank: Bank, node: Node) -> Result<BTreeMap<u8, Vec<u8>>, PcrError> {
    let place = format!("pcr_values.{bank}");
    let members = object(node, &place, "{\"0\": \"…\"}")?;
    if members.is_empty() {
        return Err(PcrError::Empty { place });
    }
    members
        .into_iter()
        .map(|(key, node)| {
            let index = index(&key).ok_or_else(|| PcrError::Index {
                bank,
                index: cut(&key),
            })?;
            Ok((index, value(bank, index, node)?))
        })
        .collect()
}

fn index(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading = text.len() > 1 && text.starts_with('0');
    if !plain || leading {
        return None;
    }
    text.parse().ok().filter(|index| *index <= HIGHEST_INDEX)
}

fn value(bank: Bank, index: u8, node: Node) -> Result<Vec<u8>, PcrError> {
    let Node::Text(text) = node else {
        return Err(PcrError::NotText { bank, index });
    };
    if let Some(found) = text.chars().find(|digit| !digit.is_ascii_hexdigit()) {
        return Err(PcrError::NotHexadecimal { bank, index, found });
    }
    let wrong_length = PcrError::Length {
        bank,
        index,
        digits: text.len(),
    };
    if text.len() != bank.digits() {
        return Err(wrong_length);
    }
    let value = hexadecimal::bytes(&text).map_err(|_| wrong_length)?;
    if value.iter().all(|byte| *byte == 0) {
        return Err(PcrError::AllZero { bank, index });
    }
    Ok(value)
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// JSON that has not been judged, with every member that the text has.
enum Node {
    Object(Vec<(String, Node)>),
    Text(String),
    Other,
}

fn object(node: Node, place: &str, wanted: &'static str) -> Result<Vec<(String, Node)>, PcrError> {
    let Node::Object(members) = node else {
        return Err(PcrError::NotObject {
            place: place.to_owned(),
            wanted,
        });
    };
    let mut seen = BTreeSet::new();
    for (key, _) in &members {
        if !seen.insert(key) {
            return Err(PcrError::Duplicate {
                place: place.to_owned(),
                key: cut(key),
            });
        }
    }
    Ok(members)
}

fn read(bytes: &[u8]) -> Result<Node, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let node = Below(DEEPEST).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(node)
}

/// Reads with at most this many objects inside one another.
#[derive(Clone, Copy)]
struct Below(usize);

impl<'de> DeserializeSeed<'de> for Below {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        // What is deeper than the document's form is passed over without going down into it.
        let Some(depth) = self.0.checked_sub(1) else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Node::Other);
        };
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            members.push((key, map.next_value_seed(Self(depth))?));
        }
        Ok(Node::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }
}
