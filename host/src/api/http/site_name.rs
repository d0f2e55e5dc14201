//! Keeps web pages out of a daemon that asks nobody who he is.
//!
//! Where no client is configured, whoever reaches a loopback listener may do everything, and a browser
//! on this host reaches it. A page whose name its owner lets resolve to 127.0.0.1 (DNS rebinding) would
//! be of the same origin. So the name by which the daemon was called has to be an address or
//! `localhost`, and so has the page that calls.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use casemate_catalogue::ErrorId;

use super::problem::problem;
use crate::api::access::Caller;

/// Refuses what a page of another site may have sent.
pub(super) async fn own_names_only(request: Request, next: Next) -> Response {
    let caller = Caller::of(request.extensions());
    if caller.is_anybody_on_loopback() && !is_of_this_host(request.headers(), request.uri()) {
        return problem(
            ErrorId::ForeignHost,
            "the request is for a name, or from a page, that is not this host's: without clients in the \
             config only addresses and `localhost` are served",
        );
    }
    next.run(request).await
}

fn is_of_this_host(headers: &HeaderMap, target: &Uri) -> bool {
    let hosts = headers.get_all(header::HOST).iter().map(is_own_host);
    let origins = headers.get_all(header::ORIGIN).iter().map(is_own_origin);
    let target = target.authority().is_none_or(is_own);
    hosts.chain(origins).all(|is_own| is_own) && target
}

fn is_own_host(value: &HeaderValue) -> bool {
    let authority = value.to_str().ok().and_then(|text| text.parse().ok());
    // Of HTTP/1.0, which needs none.
    value.is_empty() || authority.is_some_and(|authority| is_own(&authority))
}

fn is_own_origin(value: &HeaderValue) -> bool {
    let origin = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok());
    origin.is_some_and(|origin| origin.authority().is_some_and(is_own))
}

fn is_own(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_this_host() {
        for (host, origin, is_own) in [
            (Some("127.0.0.1:7003"), None, true),
            (Some("localhost:7003"), Some("http://localhost:7003"), true),
            (Some("[::1]:7003"), Some("http://[::1]:7003"), true),
            (None, None, true),
            (Some(""), None, true),
            (Some("evil.example:7003"), None, false),
            (Some("127.0.0.1.evil.example"), None, false),
            (Some("localhost.evil.example"), None, false),
            (Some("127.0.0.1:7003"), Some("https://evil.example"), false),
            (Some("127.0.0.1:7003"), Some("null"), false),
            (Some("a b"), None, false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            let found = is_of_this_host(&headers, &Uri::from_static("/v1/vms"));
            assert_eq!(found, is_own, "{host:?} {origin:?}");
        }
        let absolute = Uri::from_static("http://evil.example/v1/vms");
        assert!(!is_of_this_host(&HeaderMap::new(), &absolute));
    }
}
