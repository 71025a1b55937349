//! The settings that all HTTP clients of the program share.

use crate::innermost_cause;
use reqwest::ClientBuilder;

pub use reqwest::Client;

/// Begins a client. It follows no redirects, so that credentials and signed bodies go only to the
/// address of the configuration. The caller adds its timeouts.
///
/// TLS uses the `rustls` provider of the process if one is installed, otherwise ring. The system's
/// root certificates, which may be missing, are loaded only if `needs_tls` is set: if one of the
/// addresses is `https`.
pub fn client_builder(needs_tls: bool) -> ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread has installed one in the meantime.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("slashwatch/", env!("CARGO_PKG_VERSION")));
    if needs_tls { builder } else { builder.tls_certs_only([]) }
}

/// Why a request has failed, without its address, which may contain a password or a token.
pub fn failure_reason(error: reqwest::Error) -> String {
    let is_timeout = error.is_timeout();
    let reason = innermost_cause(&error.without_url());
    if is_timeout { format!("timed out ({reason})") } else { reason }
}
