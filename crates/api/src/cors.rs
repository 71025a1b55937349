//! Which pages of other origins may read this API through a visitor's browser. None may, unless
//! `api.cors_origins` names them.

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long browsers remember what is allowed.
const REMEMBERED: Duration = Duration::from_secs(3600);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const CONSENSUS_VERSION: HeaderName = HeaderName::from_static("eth-consensus-version");

/// Returns true if an entry of `api.cors_origins` is an origin as browsers send it: scheme, host,
/// and a port if it is not the usual one, in lower case and without a path.
pub fn is_origin(entry: &str) -> bool {
    let Ok(uri) = entry.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let usual_port = if scheme == "https" { 443 } else { 80 };
    matches!(scheme, "http" | "https")
        && !authority.host().is_empty()
        && authority.port_u16() != Some(usual_port)
        && entry == format!("{scheme}://{authority}").to_ascii_lowercase()
        && !entry.contains('@')
}

/// The layer that tells browsers which origins may read. `None` if there are none.
pub(crate) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    if origins.is_empty() {
        return None;
    }
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::HEAD])
            .allow_headers([header::AUTHORIZATION, header::IF_NONE_MATCH, LAST_EVENT_ID])
            .expose_headers([header::ETAG, header::RETRY_AFTER, CONSENSUS_VERSION])
            .max_age(REMEMBERED),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for entry in ["https://watch.example", "http://localhost:3000", "https://watch.example:8443", "http://[::1]:3000"] {
            assert!(is_origin(entry), "{entry}");
        }
        for entry in [
            "",
            "*",
            "null",
            "watch.example",
            "https://watch.example/",
            "https://watch.example/x",
            "https://Watch.example",
            "https://watch.example:443",
            "http://watch.example:80",
            "ftp://watch.example",
            "https://*.example/",
            "https://u@h",
        ] {
            assert!(!is_origin(entry), "{entry}");
        }
    }
}
