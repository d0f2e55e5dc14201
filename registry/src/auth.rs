//! How a registry is told who asks: its challenge (`WWW-Authenticate`), answered with a password or
//! with a token that another service gives out for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use http_auth::{ChallengeRef, parser::ChallengeParser};
use hyper::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::address::Address;
use crate::credentials::{Credential, Secret};
use crate::error::RegistryError;
use crate::transport::{Ask, Length, Transport, refused};

/// Largest answer of a service for tokens; they have some KiB.
const LARGEST_TOKEN: u64 = 64 << 10;
/// Under which the service sees this program.
const CLIENT_ID: &str = "casemate";
/// For messages.
const TOKEN: &str = "a token of the registry";
const FORM: &str = "application/x-www-form-urlencoded";

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

#[derive(Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

/// The header that answers a refusal of `registry`. None where nothing would help.
///
/// What the token is for is said by this program alone: a registry that names another scope would have
/// a token to push given out for a pull.
pub(crate) async fn answer(
    transport: &Transport,
    registry: &Address,
    headers: &HeaderMap,
    credential: Option<&Credential>,
    wanted_scope: &str,
) -> Result<Option<HeaderValue>, RegistryError> {
    match (challenge(headers), credential) {
        (Some(Challenge::Bearer { realm, service }), _) => {
            let service = service.as_deref();
            let realm = realm_of(registry, &realm)?;
            let token = token(transport, realm, service, wanted_scope, credential).await?;
            Ok(header(&format!("Bearer {}", &*token)))
        }
        (Some(Challenge::Basic), Some(credential)) => Ok(basic(credential)),
        (Some(Challenge::Basic) | None, _) => Ok(None),
    }
}

/// The first that can be answered; a token before a password.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in ChallengeParser::new(text).map_while(Result::ok) {
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let realm = parameter(&challenge, "realm");
                if let Some(realm) = realm {
                    return Some(Challenge::Bearer {
                        realm,
                        service: parameter(&challenge, "service"),
                    });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let mut parameters = challenge.params.iter();
    let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_unescaped())
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Password { user, password } = credential else {
        return None;
    };
    let both = Zeroizing::new(format!("{user}:{}", &**password));
    header(&format!("Basic {}", STANDARD.encode(both.as_bytes())))
}

fn header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Where a token is asked for. Registries have such a service on another host; on this machine it is
/// one only for a registry that is here as well.
fn realm_of(registry: &Address, realm: &str) -> Result<Address, RegistryError> {
    let form = |reason: &str| RegistryError::Form {
        what: TOKEN.to_owned(),
        reason: reason.to_owned(),
    };
    let realm = Address::parse(realm).ok_or_else(|| form("its realm is no address"))?;
    if realm.is_loopback() && !registry.is_loopback() {
        return Err(form(
            "its realm is an address of this machine, and the registry is elsewhere",
        ));
    }
    // Services take several, and would give a token for all of them.
    match realm.has_parameter("scope") {
        true => Err(form("its realm says what the token is for")),
        false => Ok(realm),
    }
}

async fn token(
    transport: &Transport,
    url: Address,
    service: Option<&str>,
    scope: &str,
    credential: Option<&Credential>,
) -> Result<Secret, RegistryError> {
    let what = TOKEN;
    let form = |reason: String| RegistryError::Form {
        what: what.to_owned(),
        reason,
    };
    transport.check_scheme(&url)?;
    let mut pairs = Serializer::new(String::new());
    pairs.extend_pairs(service.map(|service| ("service", service)));
    pairs.append_pair("scope", scope);
    let mut ask = Ask::get(url.clone());
    let sent;
    match credential {
        Some(Credential::Identity(refresh)) => {
            pairs.append_pair("grant_type", "refresh_token");
            pairs.append_pair("client_id", CLIENT_ID);
            pairs.append_pair("refresh_token", refresh);
            sent = Zeroizing::new(pairs.finish());
            ask.method = Method::POST;
            ask.body = Some((FORM, sent.as_bytes()));
        }
        credential => {
            let asked = pairs.finish();
            ask.url = url.with_query(&asked);
            ask.authorization = credential.and_then(basic);
        }
    }
    let answer = transport.send(&ask).await?;
    if answer.status != StatusCode::OK {
        return Err(refused(answer, what, credential.is_some()).await);
    }
    let text = answer
        .body(what, Length::AtMost(LARGEST_TOKEN), |_| Ok(()))
        .await?;
    let text = Zeroizing::new(text);
    let token: Token = serde_json::from_slice(&text)
        .map_err(|_| form("the answer is no JSON of one".to_owned()))?;
    let token = token.token.or(token.access_token);
    token.ok_or_else(|| form("the answer has none in it".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_for_tokens_is_on_this_machine_only_beside_the_registry() {
        for (registry, realm, is_asked) in [
            ("https://r.example/v2/", "https://r.example/token", true),
            ("https://r.example/v2/", "https://auth.example/token", true),
            (
                "https://r.example/v2/",
                "http://127.0.0.1:8080/token",
                false,
            ),
            ("https://r.example/v2/", "https://localhost/token", false),
            (
                "https://r.example/v2/",
                "https://[::ffff:127.0.0.1]/token",
                false,
            ),
            (
                "http://127.0.0.1:5000/v2/",
                "http://127.0.0.1:5001/token",
                true,
            ),
            ("https://r.example/v2/", "file:///etc/passwd", false),
            ("https://r.example/v2/", "https://t.example/?a=scope", true),
            (
                "https://r.example/v2/",
                "https://t.example/?a=b&sc%6fpe=repository:x:push",
                false,
            ),
        ] {
            let registry = Address::parse(registry).unwrap();
            let found = realm_of(&registry, realm);
            assert_eq!(found.is_ok(), is_asked, "{realm}: {found:?}");
        }
    }

    #[test]
    fn a_challenge_is_read_however_it_is_written() {
        let bearer = |service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: "https://t.example/token".to_owned(),
                service: service.map(str::to_owned),
            })
        };
        for (values, expected) in [
            (&[r#"Basic realm="r""#][..], Some(Challenge::Basic)),
            (
                &[r#"Bearer realm="https://t.example/token",service="s, \"x\"""#],
                bearer(Some("s, \"x\"")),
            ),
            (
                &[r#"Basic realm="r", bearer REALM="https://t.example/token""#],
                bearer(None),
            ),
            (
                &[
                    r#"Basic realm="r""#,
                    r#"Bearer realm="https://t.example/token""#,
                ],
                bearer(None),
            ),
            (&["Bearer"], None),
            (&["Negotiate"], None),
            (&["\"", ",,"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(challenge(&headers), expected, "{values:?}");
        }
    }
}
