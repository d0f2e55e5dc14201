//! How messages look as JSON: names of the fields as in the `.proto` files, enumerations by name,
//! sizes as numbers, bytes in base64, and JSON within a message as JSON.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};

/// An enumeration by the number that a message has, shown by its name.
pub fn name<E, S>(number: &i32, serializer: S) -> Result<S::Ok, S::Error>
where
    E: TryFrom<i32> + Serialize,
    S: Serializer,
{
    let known = E::try_from(*number);
    known
        .map_err(|_| S::Error::custom(format_args!("{number} is no value of the enumeration")))?
        .serialize(serializer)
}

/// The number of an enumeration's name.
pub fn number<'de, E, D>(deserializer: D) -> Result<i32, D::Error>
where
    E: Deserialize<'de> + Into<i32>,
    D: Deserializer<'de>,
{
    E::deserialize(deserializer).map(Into::into)
}

/// Longest message; a name that is wrong may be as long as a request.
const MAX_MESSAGE: usize = 500;

/// serde's words on what it could not read, without the value, which it repeats and which may be a
/// secret. Names of fields are none.
pub fn without_the_value(reason: &str) -> String {
    const NAMES: [&str; 3] = ["unknown field", "missing field", "duplicate field"];
    let said = if NAMES.iter().any(|name| reason.starts_with(name)) {
        reason.to_owned()
    } else {
        match reason.rsplit_once(", expected ") {
            Some((_, wanted)) => match wanted.split(" at line ").next() {
                Some("u32" | "u64") => "wanted is a number of its range".to_owned(),
                Some(wanted) => format!("wanted is {wanted}"),
                None => reason.to_owned(),
            },
            None => reason.to_owned(),
        }
    };
    said.chars().take(MAX_MESSAGE).collect()
}

/// A whole number, also where it is written with a fraction of zero: JSON Schema, as JavaScript, makes
/// no difference between `2` and `2.0`.
pub fn whole<'de, N, D>(deserializer: D) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u64),
        Fraction(f64),
    }
    /// Up to here a fraction stands for one whole number only.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let wanted = || D::Error::custom("wanted is a number of its range");
    let number = match Number::deserialize(deserializer).map_err(|_| wanted())? {
        Number::Whole(number) => number,
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole, not below zero, and exact"
        )]
        Number::Fraction(number) if number.fract() == 0.0 && (0.0..=EXACT).contains(&number) => {
            number as u64
        }
        Number::Fraction(_) => return Err(wanted()),
    };
    N::try_from(number).map_err(|_| wanted())
}

/// The same, or nothing.
pub fn whole_or_none<'de, N, D>(deserializer: D) -> Result<Option<N>, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    struct Whole<N>(N);
    impl<'de, N: TryFrom<u64>> Deserialize<'de> for Whole<N> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            whole(deserializer).map(Self)
        }
    }
    let number = Option::<Whole<N>>::deserialize(deserializer)?;
    Ok(number.map(|Whole(number)| number))
}

/// A text that is JSON; `null` where it is empty.
pub fn embedded<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let value = match text {
        "" => serde_json::Value::Null,
        text => serde_json::from_str(text).map_err(S::Error::custom)?,
    };
    value.serialize(serializer)
}

/// Bytes, in base64 (RFC 4648, section 4) with padding.
pub mod base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{Deserialize as _, Deserializer, Serializer};
    use serde::de::Error as _;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        decode(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// The text is not part of the error: it may be a key.
    pub(super) fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
        STANDARD
            .decode(text)
            .map_err(|_| "it is no base64 (RFC 4648, section 4, with padding)")
    }
}

/// Bytes by name.
pub mod base64_map {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{BTreeMap, Deserialize as _, Deserializer, Serialize as _, Serializer};
    use serde::de::Error as _;

    pub fn serialize<S: Serializer>(
        map: &BTreeMap<String, Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let encoded: BTreeMap<_, _> = map
            .iter()
            .map(|(name, bytes)| (name, STANDARD.encode(bytes)))
            .collect();
        encoded.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Vec<u8>>, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer)?
            .into_iter()
            .map(|(name, text)| {
                let bytes = super::base64::decode(&text).map_err(D::Error::custom)?;
                Ok((name, bytes))
            })
            .collect()
    }
}

/// Without bits after the last byte, which a strict reader refuses.
const BASE64: &str =
    r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)?$";

fn text(pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
}

fn one_of(values: &[&str]) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values.iter().copied()))
        .into()
}

fn map(keys: ObjectBuilder, values: ObjectBuilder, most: usize) -> Schema {
    ObjectBuilder::new()
        .property_names(Some(Schema::from(keys)))
        .additional_properties(Some(AdditionalProperties::RefOr(
            Schema::from(values).into(),
        )))
        .max_properties(Some(most))
        .into()
}

pub(crate) fn environment() -> Schema {
    let keys = text(r"^(?!AGENT_CVM_ID$)[A-Za-z_][A-Za-z0-9_]*$").max_length(Some(128));
    let values = text(r"^[^\x00\n\r\x0b\x0c\x85\u2028\u2029]*$").max_length(Some(65_536));
    map(keys, values, 256)
}

pub(crate) fn settings() -> Schema {
    let any = || ObjectBuilder::new().schema_type(Type::String);
    map(any(), any(), 256)
}

pub(crate) fn labels() -> Schema {
    let keys = text(r"^[A-Za-z0-9._/-]+$").max_length(Some(63));
    let values = text(r"^[^\x00-\x1f\x7f-\x9f]*$").max_length(Some(255));
    map(keys, values, 64)
}

pub(crate) fn secrets() -> Schema {
    let keys = text(r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$").max_length(Some(63));
    let values = text(BASE64)
        .content_encoding("base64")
        .max_length(Some(87_384));
    map(keys, values, 64)
}

pub(crate) fn pem() -> Schema {
    text(BASE64)
        .content_encoding("base64")
        .max_length(Some(349_528))
        .into()
}

/// An identity: digests have the length of their algorithm, and `raw` has 1 to 64 bytes.
pub(crate) fn identity() -> Schema {
    const RAW: &str = r"^(([A-Za-z0-9+/]{4}){1,21}|([A-Za-z0-9+/]{4}){0,20}[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|([A-Za-z0-9+/]{4}){0,21}[A-Za-z0-9+/][AQgw]==)$";
    let of = |algorithm: &str, digest: &str| {
        ObjectBuilder::new()
            .property("algorithm", one_of(&[algorithm]))
            .property("digest", text(digest).content_encoding("base64"))
            .required("algorithm")
            .required("digest")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
    };
    OneOfBuilder::new()
        .item(of("sha-256", r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"))
        .item(of("sha-384", r"^[A-Za-z0-9+/]{64}$"))
        .item(of("sha-512", r"^[A-Za-z0-9+/]{85}[AQgw]==$"))
        .item(of("raw", RAW))
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .description(Some(
            "What the guest's attestation reports carry. Carried by the backend or refused, at every \
             start the same. Left out: the operator's, or the digest of the VM's configuration \
             (docs/identity.md).",
        ))
        .into()
}

pub(crate) fn disk_format() -> Schema {
    one_of(&["raw", "qcow2"])
}

pub(crate) fn optional_disk_format() -> Schema {
    one_of(&["", "raw", "qcow2"])
}
