//! Checks the `Host` of a request, against DNS rebinding.
//!
//! In this attack, the name of a foreign web page suddenly resolves to 127.0.0.1. A visitor's
//! browser then sends requests to this API as if it were the page's own server, and the page can
//! read the answers. The browser still sends the foreign name in `Host`. So an API on a loopback
//! address accepts only names of this machine and the configured ones.
//!
//! An API on a public address accepts every name, because a stranger can request all its content
//! directly.

use axum::extract::Request;
use axum::http::{Uri, header, uri::Authority};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The accepted names.
#[derive(Clone)]
pub(crate) enum Hosts {
    All,
    /// `localhost`, loopback addresses, and these names, in lower case.
    Own(Vec<String>),
}

impl Hosts {
    pub fn of(address: SocketAddr, configured: &[String]) -> Self {
        if address.ip().is_loopback() {
            Self::Own(configured.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect())
        } else {
            Self::All
        }
    }

    /// Returns true if the request may be answered. A request without any name does not come from a
    /// browser and is accepted.
    pub fn admit(&self, request: &Request) -> bool {
        let Self::Own(names) = self else { return true };
        let named = request.headers().get_all(header::HOST).iter().all(|host| {
            let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            authority.is_some_and(|authority| is_own(authority.host(), names))
        });
        named && request.uri().host().is_none_or(|host| is_own(host, names))
    }
}

/// Returns true if an entry of `api.hosts` can match the name in a request. It must be a host name
/// or an address, without scheme, port or path.
pub fn is_host(entry: &str) -> bool {
    let name = entry.trim_end_matches('.');
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    let address = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    address.map_or(!name.is_empty() && is_name(name), |address| address.parse::<Ipv6Addr>().is_ok())
}

/// Returns the host in a URL.
pub fn host_of(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.host().map(str::to_owned)
}

fn is_own(host: &str, names: &[String]) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&host);
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) || names.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_host_and_nothing_more() {
        for entry in ["watch.example", "Watch.Example.", "watch", "my_host-1", "192.168.0.7", "[fe80::1]"] {
            assert!(is_host(entry), "{entry}");
        }
        for entry in [
            "",
            ".",
            "https://watch.example",
            "watch.example/",
            "watch.example:443",
            "watch.example:x",
            "a b",
            "*.example",
            "u@h",
            "[x]",
            "fe80::1",
        ] {
            assert!(!is_host(entry), "{entry}");
        }
        assert_eq!(host_of("https://watch.example:8443/x?y").as_deref(), Some("watch.example"));
        assert_eq!(host_of("watch.example/x"), None);
    }

    #[test]
    fn a_loopback_api_answers_to_this_machines_names_only() {
        let asked = |listen: &str, host: Option<&str>, uri: &str| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let request = request.body(axum::body::Body::empty()).unwrap();
            Hosts::of(listen.parse().unwrap(), &["Watch.Example".to_owned()]).admit(&request)
        };
        let own = [
            "localhost",
            "LOCALHOST:5080",
            "127.0.0.1:5080",
            "127.0.0.1",
            "[::1]:5080",
            "[::1]",
            "localhost.",
            "watch.example:443",
        ];
        for host in own {
            assert!(asked("127.0.0.1:5080", Some(host), "/"), "{host}");
            assert!(asked("[::1]:5080", Some(host), "/"), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.7", "", "a b", "evil.example:5080"]
        {
            assert!(!asked("127.0.0.1:5080", Some(host), "/"), "{host}");
            assert!(asked("0.0.0.0:5080", Some(host), "/"), "{host}");
        }
        assert!(asked("127.0.0.1:5080", None, "/"), "no browser leaves it out");
        assert!(
            !asked("127.0.0.1:5080", Some("localhost"), "http://evil.example/"),
            "the form for proxies names it in the address"
        );
    }
}
