//! Tokens, limits for each address, origins of other pages, and TLS, over real connections.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use api::{OwnKeys, Scope, TlsFiles};
use common::*;
use evidence::{Kind, Severity, Time};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::json;
use std::num::NonZeroU32;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// An API beyond loopback that hides watched keys, with a token of each scope. Tokens are in use
/// from the start, so the API knows the file.
struct WithTokens {
    api: Api,
    read: String,
    watch: String,
    admin: String,
    expired: String,
}

impl WithTokens {
    async fn start(read_needs_token: bool) -> Self {
        let api = Api::start_as(Options { own_keys: OwnKeys::Hidden, read_needs_token, ..Options::default() }).await;
        let new = |scope, name: &str, made: Time, valid_for| api.tokens.create(scope, Some(name), made, valid_for).unwrap().0;
        let (read, watch, admin) = (
            new(Scope::Read, "read", Time::now(), None),
            new(Scope::Watch, "watch", Time::now(), Some(DAY)),
            new(Scope::Admin, "admin", Time::now(), Some(DAY)),
        );
        let expired = new(Scope::Admin, "old", Time::from_unix_ns(1), Some(DAY));
        let started = Self { api, read, watch, admin, expired };
        started.wait_until_accepted(&started.admin).await;
        started
    }

    fn asked(&self, path: &str, token: &str) -> RequestBuilder {
        self.api.client.get(self.api.url(path)).bearer_auth(token)
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        self.asked(path, token).send().await.unwrap()
    }

    /// A running API looks at the file once a second. Until then it does not know the token.
    async fn wait_until_accepted(&self, token: &str) {
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.get("/v1/watch/groups", token).await.status() != StatusCode::OK {
            assert!(tokio::time::Instant::now() < until, "the new token is not accepted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn counted(&self, outcome: &str) -> u64 {
        let text = self.api.get("/metrics").await.text().await.unwrap();
        let line = format!("slashwatch_api_tokens_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn a_scope_includes_the_smaller_ones_and_nothing_else() {
    let with = WithTokens::start(false).await;
    with.api.store.record_anomalies(vec![anomaly(Kind::SecondSigner, Severity::Critical, 101)], &[]).unwrap();
    for (token, sees_keys, sees_addresses) in [
        (None, false, false),
        (Some(&with.read), false, false),
        (Some(&with.watch), true, false),
        (Some(&with.admin), true, true),
    ] {
        let get = async |path: &str| match token {
            Some(token) => with.get(path, token).await,
            None => with.api.get(path).await,
        };
        let groups = if sees_keys { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(get("/v1/watch/groups").await.status(), groups, "{token:?}");
        let findings: serde_json::Value = get("/v1/findings").await.json().await.unwrap();
        assert_eq!(findings["findings"].as_array().unwrap().len(), usize::from(sees_keys), "{token:?}");
        let status = get("/v1/status").await.text().await.unwrap();
        assert_eq!(status.contains("10.0.0.5"), sees_addresses, "{token:?}: {status}");
    }
    let whose = with.get("/v1/token", &with.watch).await.json::<serde_json::Value>().await.unwrap();
    assert_eq!((&whose["name"], &whose["scope"]), (&json!("watch"), &json!("watch")));
    let nobody = with.api.get("/v1/token").await;
    assert_eq!(nobody.headers().get_all("www-authenticate").iter().count(), 2, "so that a browser asks for a password");
    assert_problem(nobody, StatusCode::UNAUTHORIZED, "needs a token").await;
    let answer = with.get("/v1/watch/groups", &with.read).await;
    assert!(answer.headers()["www-authenticate"].to_str().unwrap().contains("insufficient_scope"), "{answer:?}");
    assert_problem(answer, StatusCode::FORBIDDEN, "scope watch").await;
    // Browsers send a token as a password.
    let answer = with.api.client.get(with.api.url("/v1/watch/groups")).basic_auth("me", Some(&with.watch)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // Nothing can be changed with any token.
    for token in [&with.read, &with.admin] {
        let answer = with.api.client.post(with.api.url("/v1/watch/groups")).bearer_auth(token).send().await.unwrap();
        assert_problem(answer, StatusCode::METHOD_NOT_ALLOWED, "only reads").await;
    }
}

#[tokio::test]
async fn wrong_and_expired_tokens_are_refused_everywhere_and_counted() {
    let with = WithTokens::start(false).await;
    let before = (with.counted("wrong").await, with.counted("expired").await, with.counted("scope_too_small").await);
    for path in ["/v1/findings", "/v1/events", "/", "/nothing", "/healthz"] {
        for (token, word) in [("nonsense", "wrong"), (with.expired.as_str(), "expired")] {
            let answer = with.get(path, token).await;
            let asks: Vec<_> = answer.headers().get_all("www-authenticate").iter().cloned().collect();
            assert!(asks[0].to_str().unwrap().contains("error=\"invalid_token\"") && asks.len() == 2, "{asks:?}");
            assert_problem(answer, StatusCode::UNAUTHORIZED, word).await;
        }
    }
    with.get("/v1/watch/groups", &with.read).await;
    let after = (with.counted("wrong").await, with.counted("expired").await, with.counted("scope_too_small").await);
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (5, 5, 1));
    assert_eq!(with.counted("missing").await, 0, "reading needs none here");
}

#[tokio::test]
async fn where_reading_needs_a_token_health_metrics_and_the_page_that_asks_for_it_do_without() {
    let with = WithTokens::start(true).await;
    for path in [
        "/docs",
        "/findings/a/b",
        "/page/none.js",
        "/v1/status",
        "/v1/findings",
        "/v1/events",
        "/eth/v1/events?topics=attester_slashing",
        "/openapi.json",
        "/x",
    ] {
        let answer = with.api.get(path).await;
        assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{path}");
        assert_problem(answer, StatusCode::UNAUTHORIZED, "slashwatch token new").await;
    }
    assert_eq!(with.counted("missing").await, 9);
    for path in ["/healthz", "/readyz", "/metrics", "/", "/page/app.js", "/findings/0x00", "/incidents", "/slots/7"] {
        assert_eq!(with.api.get(path).await.status(), StatusCode::OK, "{path}");
    }
    // The browser must not ask for a password where the page asks for a token.
    for path in ["/v1/status", "/v1/token"] {
        let answer = with.api.client.get(with.api.url(path)).header("x-requested-with", "slashwatch-page").send().await.unwrap();
        let asks: Vec<&str> = answer.headers().get_all("www-authenticate").iter().map(|ask| ask.to_str().unwrap()).collect();
        assert_eq!((answer.status(), asks), (StatusCode::UNAUTHORIZED, vec!["Bearer realm=\"slashwatch\""]), "{path}");
    }
    for path in ["/", "/v1/status", "/v1/findings", "/v1/events"] {
        assert_eq!(with.get(path, &with.read).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_revoked_token_stops_working_without_a_restart() {
    let with = WithTokens::start(true).await;
    assert_eq!(with.get("/v1/status", &with.watch).await.status(), StatusCode::OK);
    with.api.tokens.revoke("watch").unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while with.get("/v1/status", &with.watch).await.status() == StatusCode::OK {
        assert!(tokio::time::Instant::now() < until, "it is still accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_problem(with.get("/v1/status", &with.watch).await, StatusCode::UNAUTHORIZED, "revoked").await;
    assert_eq!(with.get("/v1/status", &with.read).await.status(), StatusCode::OK, "the others stay");
}

/// A reverse proxy may ask for a password of its own and pass it on.
#[tokio::test]
async fn a_password_is_ignored_while_there_are_no_tokens() {
    let api = Api::start().await;
    let answer = api.client.get(api.url("/v1/status")).basic_auth("proxy", Some("secret")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn one_address_cannot_take_the_api_from_others() {
    let limit = NonZeroU32::new(2).unwrap();
    let api = Api::start_as(Options { requests_per_second: Some(limit), ..Options::default() }).await;
    let (token, _) = api.tokens.create(Scope::Read, None, Time::now(), None).unwrap();
    // The API is behind a proxy on the same machine.
    let from = |address: &str| api.client.get(api.url("/v1/forks")).header("x-forwarded-for", address);
    let mut refused = None;
    for _ in 0..100 {
        let answer = from("198.51.100.7").send().await.unwrap();
        if answer.status() != StatusCode::OK {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("100 requests in much less than a minute are too many");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(wait, 1);
    assert_problem(refused, StatusCode::TOO_MANY_REQUESTS, "Retry-After").await;
    assert_eq!(from("198.51.100.8").send().await.unwrap().status(), StatusCode::OK, "another address");
    for _ in 0..100 {
        assert_eq!(api.get("/v1/forks").await.status(), StatusCode::OK, "this machine");
    }
    let metrics = api.get("/metrics").await.text().await.unwrap();
    let counted = metrics.lines().find_map(|line| line.strip_prefix("slashwatch_api_rate_limited_total ")).unwrap();
    assert_eq!(counted, "1");
    // With a token it is 20 in a second. The API needs a moment until it knows the token.
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while from("198.51.100.7").bearer_auth(&token).send().await.unwrap().status() != StatusCode::OK {
        assert!(tokio::time::Instant::now() < until, "the token is not accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..20 {
        assert_eq!(from("198.51.100.7").bearer_auth(&token).send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn pages_of_configured_origins_may_read_and_others_may_not() {
    let origins = vec!["https://status.example".to_owned(), "http://localhost:3000".to_owned()];
    let api = Api::start_as(Options { cors_origins: origins.clone(), read_needs_token: true, ..Options::default() }).await;
    let get =
        async |api: &Api, origin: &str| api.client.get(api.url("/v1/status")).header("origin", origin).send().await.unwrap();
    for origin in &origins {
        let asked = api.client.request(reqwest::Method::OPTIONS, api.url("/v1/findings"));
        let asked = asked.header("origin", origin).header("access-control-request-method", "GET");
        let answer = asked.header("access-control-request-headers", "authorization").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "a browser asks without a token");
        assert_eq!(answer.headers()["access-control-allow-origin"], origin.as_str());
        assert_eq!(answer.headers()["access-control-allow-methods"], "GET,HEAD");
        // Also a refusal can be read, so that the page can say what is wrong.
        let answer = get(&api, origin).await;
        assert_eq!(
            (answer.status(), &answer.headers()["access-control-allow-origin"]),
            (StatusCode::UNAUTHORIZED, &origin.parse().unwrap())
        );
        assert!(answer.headers().get("access-control-allow-credentials").is_none());
    }
    assert!(get(&api, "https://evil.example").await.headers().get("access-control-allow-origin").is_none());
    let closed = Api::start().await;
    assert!(get(&closed, "https://status.example").await.headers().get("access-control-allow-origin").is_none());
}

/// Writes a certificate for localhost and its key, and returns it in DER.
fn new_certificate(files: &TlsFiles) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.key_pair.serialize_pem()).unwrap();
    made.cert.der().to_vec()
}

#[tokio::test]
async fn with_a_certificate_the_api_speaks_tls_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    let certificate = new_certificate(&files);
    let api = Api::start_as(Options { tls: Some(files), ..Options::default() }).await;
    let trusting = Client::builder().tls_certs_only([reqwest::Certificate::from_der(&certificate).unwrap()]).build().unwrap();
    let answer = trusting.get(api.url("/v1/status")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["network"], json!("testnet"));
    assert!(api.client.get(api.url("/v1/status")).send().await.is_err(), "who does not trust the certificate");
    assert!(api.client.get(format!("http://{}/v1/status", api.address)).send().await.is_err(), "without TLS");
    let metrics = trusting.get(api.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let failed = metrics.lines().find_map(|line| line.strip_prefix("slashwatch_api_tls_handshakes_failed_total ")).unwrap();
    assert!(failed.parse::<u64>().unwrap() >= 1, "{failed}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    let other = TlsFiles { certificate: dir.path().join("cert2.pem"), key: dir.path().join("key2.pem") };
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    new_certificate(&files);
    new_certificate(&other);
    let none = dir.path().join("none.pem");
    for (certificate, key, words) in [
        (&none, &files.key, ["none.pem", "cannot be read"]),
        (&files.certificate, &none, ["none.pem", "cannot be read"]),
        (&empty, &files.key, ["empty.pem", "fullchain.pem"]),
        (&files.key, &files.key, ["key.pem", "fullchain.pem"]),
        (&files.certificate, &files.certificate, ["cert.pem", "privkey.pem"]),
        (&files.certificate, &other.key, ["key2.pem", "does not belong"]),
    ] {
        let listener = api::bind(anywhere()).await.unwrap();
        let error = listener.with_tls(&TlsFiles { certificate: certificate.clone(), key: key.clone() }).unwrap_err();
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
}
