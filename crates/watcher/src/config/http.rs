//! The section `[api]`: where the API listens, its limits, who may read and who sees watched keys.

use actions::config::Problem;
use alert::is_http;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// Largest number of open event streams.
    pub max_streams: usize,
    /// Largest number of open connections, event streams included.
    pub max_connections: usize,
    /// Host names that an API on a loopback address accepts, besides this machine's own names.
    pub hosts: Vec<String>,
    /// The address under which people reach the web page and the API. Links in alerts use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Who sees watched keys, kill switches and the labels of groups.
    pub show_watched: ShowWatched,
    /// Whether all but `/healthz`, `/readyz` and `/metrics` needs a token.
    pub read_needs_token: bool,
    /// Requests per second that each address may send; 0 for no limit.
    pub requests_per_second: u32,
    /// Reverse proxies that name their clients in `X-Forwarded-For`, besides this machine.
    pub proxies: Vec<IpAddr>,
    /// Origins whose pages may read the API through a visitor's browser.
    pub cors_origins: Vec<String>,
    /// Certificate and key. The API then speaks TLS and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// The files of a certificate, in PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Who sees watched keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShowWatched {
    /// Every client sees them while the API listens on a loopback address. Otherwise nobody does.
    #[default]
    Loopback,
    Always,
    Never,
}

impl ApiConfig {
    /// Returns the host names that an API on a loopback address accepts: those of `hosts`, and the
    /// one that links in alerts use.
    pub fn admitted_hosts(&self) -> Vec<String> {
        let linked = self.public_url.as_deref().and_then(api::host_of);
        self.hosts.iter().cloned().chain(linked).collect()
    }

    /// Returns the limit for each address, if there is one.
    pub fn request_limit(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.requests_per_second)
    }

    pub fn tls_files(&self) -> Option<api::TlsFiles> {
        self.tls.as_ref().map(|tls| api::TlsFiles { certificate: tls.certificate.clone(), key: tls.key.clone() })
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |path: String, text: String| problems.push(Problem { path, text });
        for (key, value) in [("max_streams", self.max_streams), ("max_connections", self.max_connections)] {
            if value == 0 {
                wrong(format!("api.{key}"), "must be at least 1".into());
            }
        }
        for (nth, host) in self.hosts.iter().enumerate().filter(|(_, host)| !api::is_host(host)) {
            let text = format!(
                "{host:?} is not a host: write its name or address alone, as in \"watch.example.org\", without scheme, port or path"
            );
            wrong(format!("api.hosts[{nth}]"), text);
        }
        for (nth, origin) in self.cors_origins.iter().enumerate().filter(|(_, origin)| !api::is_origin(origin)) {
            let text = format!(
                "{origin:?} is not an origin: write scheme and host in lower case, and a port if it is not the usual one, as in \
                 \"https://status.example.org\""
            );
            wrong(format!("api.cors_origins[{nth}]"), text);
        }
        if let Some(url) = self.public_url.as_deref().filter(|url| !is_http(url) || api::host_of(url).is_none()) {
            wrong("api.public_url".into(), format!("{url:?} is not an http(s) address"));
        }
    }

    pub(super) fn warnings(&self, warnings: &mut Vec<Problem>) {
        if !self.listen.ip().is_loopback() && !self.hosts.is_empty() {
            let text = format!(
                "has no effect: an API that listens on {}, which is no loopback address, answers to every name",
                self.listen.ip()
            );
            warnings.push(Problem { path: "api.hosts".into(), text });
        }
    }

    pub fn own_keys(&self) -> api::OwnKeys {
        let is_shown = match self.show_watched {
            ShowWatched::Loopback => self.listen.ip().is_loopback(),
            ShowWatched::Always => true,
            ShowWatched::Never => false,
        };
        if is_shown { api::OwnKeys::Shown } else { api::OwnKeys::Hidden }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 5080)),
            max_streams: 2048,
            max_connections: 4096,
            hosts: Vec::new(),
            public_url: None,
            show_watched: ShowWatched::Loopback,
            read_needs_token: false,
            requests_per_second: 100,
            proxies: Vec::new(),
            cors_origins: Vec::new(),
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_checked_and_the_one_that_alerts_link_to_is_among_them() {
        let reported = |text: &str| {
            let config: ApiConfig = toml::from_str(text).unwrap();
            let (mut problems, mut warnings) = (Vec::new(), Vec::new());
            config.problems(&mut problems);
            config.warnings(&mut warnings);
            let paths = |reported: Vec<Problem>| reported.into_iter().map(|one| one.path).collect::<Vec<_>>();
            (paths(problems), paths(warnings), config.admitted_hosts())
        };
        let (wrong, warned, _) =
            reported("hosts = [\"watch.example\", \"https://watch.example\", \"a/b\", \"watch.example:port\"]\n");
        assert_eq!((wrong.join(" "), warned.len()), ("api.hosts[1] api.hosts[2] api.hosts[3]".into(), 0));
        let (wrong, warned, hosts) =
            reported("listen = \"0.0.0.0:5080\"\nhosts = [\"a.example\"]\npublic_url = \"https://b.example:8443/x\"\n");
        assert_eq!((wrong.len(), warned.join(" ")), (0, "api.hosts".into()));
        assert_eq!(hosts, ["a.example", "b.example"]);
        assert_eq!(reported("public_url = \"https://\"\n").0, ["api.public_url"]);
        assert_eq!(
            reported("cors_origins = [\"https://a.example\", \"https://a.example/\", \"*\"]\n").0,
            ["api.cors_origins[1]", "api.cors_origins[2]"]
        );
    }

    #[test]
    fn watched_keys_are_not_shown_beyond_loopback_unless_that_is_wanted() {
        for (listen, show, wanted) in [
            ("127.0.0.1:5080", "loopback", api::OwnKeys::Shown),
            ("[::1]:5080", "loopback", api::OwnKeys::Shown),
            ("0.0.0.0:5080", "loopback", api::OwnKeys::Hidden),
            ("0.0.0.0:5080", "always", api::OwnKeys::Shown),
            ("127.0.0.1:5080", "never", api::OwnKeys::Hidden),
        ] {
            let config: ApiConfig = toml::from_str(&format!("listen = {listen:?}\nshow_watched = {show:?}\n")).unwrap();
            assert_eq!(config.own_keys(), wanted, "{listen} {show}");
        }
    }
}
