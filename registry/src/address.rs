//! Addresses of registries, mirrors and what they refer to: `http` and `https`, with a host that
//! means one thing only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hyper::Uri;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn usual_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: Scheme,
    /// In lower case; of IPv6 with its brackets.
    host: String,
    port: Option<u16>,
    /// Begins with `/`.
    path: String,
    query: Option<String>,
}

impl Address {
    /// None: it is no such address, or has a user in it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let scheme = match uri.scheme_str()? {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = uri.host()?.to_ascii_lowercase();
        if authority.as_str().contains('@') || !is_host(&host) || text.contains('#') {
            return None;
        }
        // One that is no number is left out by the parser, and would be taken for the usual one.
        let port = uri.port_u16();
        if port.is_none() && authority.as_str().len() != host.len() {
            return None;
        }
        Some(Self {
            scheme,
            host,
            port,
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }

    pub(crate) fn of(scheme: Scheme, authority: &str) -> Option<Self> {
        Self::parse(&format!("{}://{authority}/", scheme.text()))
    }

    /// Where an answer of this address refers to: an address, or a path of the same host.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme.text()));
        }
        match location.starts_with('/') {
            true => Self::parse(&format!("{}{location}", self.origin())),
            false => Self::parse(location),
        }
    }

    pub(crate) fn with_path(&self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            query: None,
            ..self.clone()
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn has_query(&self) -> bool {
        self.query.is_some()
    }

    /// Further parameters, which are encoded already.
    pub(crate) fn with_query(mut self, further: &str) -> Self {
        self.query = Some(match self.query {
            Some(query) => format!("{query}&{further}"),
            None => further.to_owned(),
        });
        self
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or(self.scheme.usual_port())
    }

    /// Whether a parameter is there already.
    pub(crate) fn has_parameter(&self, name: &str) -> bool {
        let query = self.query.as_deref().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == name)
    }

    /// Host and port, as far as it is not the usual one.
    pub(crate) fn authority(&self) -> String {
        match self.port.filter(|port| *port != self.scheme.usual_port()) {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme.text(), self.authority())
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    pub(crate) fn uri(&self) -> Option<Uri> {
        let query = self.query.as_ref().map(|query| format!("?{query}"));
        let query = query.unwrap_or_default();
        format!("{self}{query}").parse().ok()
    }
}

/// Without a query, which may hold what lets its holder in.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

/// A host that a user allows something: at that port, or at any if none is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(Address);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("wanted is HOST or HOST:PORT")]
pub struct HostError;

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let address = Address::of(Scheme::Https, text);
        let host = address.filter(|address| address.path == "/" && address.query.is_none());
        host.map(Self).ok_or(HostError)
    }
}

impl Host {
    pub(crate) fn is_of(&self, url: &Address) -> bool {
        self.0.host == url.host && self.0.port.is_none_or(|port| port == url.port())
    }
}

/// `localhost`, or a loopback address.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || ip(host).is_some_and(|address| address.to_canonical().is_loopback())
}

fn ip(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

/// A name or an IP address as it is usually written. Resolvers take `127.1` and `0x7f.1` for
/// addresses as well: such a host is not what it seems.
pub(crate) fn is_host(host: &str) -> bool {
    if ip(host).is_some() {
        return true;
    }
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_letter)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_digit());
    host.len() <= 253 && !is_number && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_is_named_with_its_port_or_without() {
        for (named, url, is_of) in [
            ("cdn.example", "https://cdn.example/a", true),
            ("CDN.example", "http://cdn.example:8080/a", true),
            ("cdn.example:443", "https://cdn.example/a", true),
            ("cdn.example:443", "http://cdn.example/a", false),
            ("cdn.example:8443", "https://cdn.EXAMPLE:8443/a", true),
            ("cdn.example:8443", "https://cdn.example/a", false),
            ("cdn.example", "https://a.cdn.example/a", false),
            ("[::1]:5000", "http://[::1]:5000/a", true),
        ] {
            let host: Host = named.parse().unwrap();
            assert_eq!(
                host.is_of(&Address::parse(url).unwrap()),
                is_of,
                "{named} {url}"
            );
        }
        for none in [
            "",
            "a/b",
            "https://a.example",
            "a.example?b",
            "u@a.example",
            "a.example:x",
        ] {
            assert_eq!(none.parse::<Host>(), Err(HostError), "{none}");
        }
    }

    proptest! {
        /// A reader who is sent on is on the host that the address says, or nowhere.
        #[test]
        fn no_location_leads_to_a_host_that_is_not_seen(
            location in "(https?:)?/{0,3}[a-z0-9:@.\\[\\]\\\\?#/ -]{0,40}|\\PC{0,40}",
        ) {
            let base = Address::parse("https://r.example/v2/").unwrap();
            if let Some(next) = base.join(&location) {
                let uri = next.uri().unwrap();
                prop_assert_eq!(uri.host(), Some(next.host.as_str()));
                prop_assert!(next.host.as_str() == "r.example" || location.to_lowercase().contains(next.host.as_str()));
            }
        }
    }

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (text, origin, shown) in [
            (
                "https://R.example/a?b=c",
                "https://r.example",
                "https://r.example/a",
            ),
            (
                "http://127.0.0.1:5000",
                "http://127.0.0.1:5000",
                "http://127.0.0.1:5000/",
            ),
            (
                "https://r.example:443/",
                "https://r.example",
                "https://r.example/",
            ),
            ("http://[::1]:80/x", "http://[::1]", "http://[::1]/x"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.origin(), origin);
            assert_eq!(address.to_string(), shown);
            assert!(address.uri().is_some());
        }
        for text in [
            "",
            "r.example",
            "ftp://r.example/",
            "https:///a",
            "https://u:p@r.example/",
            "https://127.1/",
            "https://0x7f.1/",
            "https://r.example:port/",
            "https://r.example/#a",
            "https://[::1/",
            "https://a b/",
            "https://2130706433/",
        ] {
            assert!(Address::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_location_is_joined_without_surprise() {
        let base = Address::parse("https://r.example:5000/v2/a?x=y").unwrap();
        for (location, joined) in [
            ("/b", Some("https://r.example:5000/b")),
            ("https://other.example/b", Some("https://other.example/b")),
            ("//other.example/b", Some("https://other.example/b")),
            ("b", None),
            ("javascript:x", None),
        ] {
            let found = base.join(location).map(|address| address.to_string());
            assert_eq!(found.as_deref(), joined, "{location}");
        }
    }
}
