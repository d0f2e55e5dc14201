//! Where a daemon is: a URL of HTTP/2, or a socket of this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tonic::transport::Uri;

use crate::error::CliError;

/// Forms of an endpoint, as messages name them.
const WANTED: &str = "wanted is http://HOST:PORT, https://HOST:PORT or unix:///PATH";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Unencrypted.
    Http {
        url: String,
        reach: Reach,
    },
    Https {
        url: String,
        reach: Reach,
    },
    /// A socket in the file system.
    Unix(PathBuf),
}

/// Whether what is sent leaves this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    ThisMachine,
    Network,
}

impl Address {
    /// `HOST:PORT` is short for `http://HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let refused = |reason: &str| CliError::Endpoint {
            endpoint: text.to_owned(),
            reason: reason.to_owned(),
        };
        let url = match text.split_once("://") {
            Some(("unix", path)) if Path::new(path).is_absolute() => {
                return Ok(Self::Unix(PathBuf::from(path)));
            }
            Some(("unix", _)) => return Err(refused("the path of a socket begins with /")),
            Some(("http" | "https", _)) => text.to_owned(),
            Some(_) => return Err(refused(WANTED)),
            None => format!("http://{text}"),
        };
        let uri: Uri = url
            .parse()
            .map_err(|error| refused(&format!("{error}; {WANTED}")))?;
        let authority = uri.authority().map(|authority| authority.as_str());
        if authority.is_some_and(|authority| authority.contains('@')) {
            // It may be a password, which is not to be repeated.
            return Err(CliError::Endpoint {
                endpoint: "the endpoint".to_owned(),
                reason: "it names a user; who calls is said with --token-file or --client-cert"
                    .to_owned(),
            });
        }
        let host = match uri.host() {
            None | Some("") => return Err(refused("it names no host")),
            Some(host) => host,
        };
        if uri.port().is_none() {
            return Err(refused("it names no port"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(refused("nothing may follow the port"));
        }
        let reach = reach_of(host);
        Ok(match uri.scheme_str() {
            Some("https") => Self::Https { url, reach },
            _ => Self::Http { url, reach },
        })
    }

    pub(crate) fn reach(&self) -> Reach {
        match self {
            Self::Http { reach, .. } | Self::Https { reach, .. } => *reach,
            Self::Unix(_) => Reach::ThisMachine,
        }
    }
}

/// `localhost` is this machine by RFC 6761; any other name may be anything.
pub(crate) fn reach_of(host: &str) -> Reach {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback());
    if is_loopback {
        Reach::ThisMachine
    } else {
        Reach::Network
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let http = |url: &str, reach| Address::Http {
            url: url.to_owned(),
            reach,
        };
        let https = |url: &str, reach| Address::Https {
            url: url.to_owned(),
            reach,
        };
        use Reach::{Network, ThisMachine};
        for (text, expected) in [
            (
                "http://127.0.0.1:7001",
                Some(http("http://127.0.0.1:7001", ThisMachine)),
            ),
            (
                "http://[::1]:7001",
                Some(http("http://[::1]:7001", ThisMachine)),
            ),
            (
                "http://localhost:7001/",
                Some(http("http://localhost:7001/", ThisMachine)),
            ),
            (
                "127.8.0.1:7001",
                Some(http("http://127.8.0.1:7001", ThisMachine)),
            ),
            (
                "host.example:7001",
                Some(http("http://host.example:7001", Network)),
            ),
            (
                "http://localhost.example:1",
                Some(http("http://localhost.example:1", Network)),
            ),
            (
                "http://10.0.0.1:1",
                Some(http("http://10.0.0.1:1", Network)),
            ),
            (
                "https://127.0.0.1:7001",
                Some(https("https://127.0.0.1:7001", ThisMachine)),
            ),
            (
                "https://a.example:7001",
                Some(https("https://a.example:7001", Network)),
            ),
            (
                "unix:///run/c.sock",
                Some(Address::Unix("/run/c.sock".into())),
            ),
            ("unix://run/c.sock", None),
            ("unix://", None),
            ("ftp://a:1", None),
            ("http://127.0.0.1", None),
            ("https://a.example", None),
            ("http://:7001", None),
            ("http://a:1/vms", None),
            ("http://a:1?x", None),
            ("http://a:99999", None),
            ("two words:1", None),
            ("", None),
        ] {
            assert_eq!(Address::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        let error = Address::parse("http://me:hidden@a:1").unwrap_err();
        assert!(!error.to_string().contains("hidden"), "{error}");
        assert!(error.to_string().contains("--token-file"), "{error}");
        assert!(!error.to_json().to_string().contains("hidden"));
    }
}
