//! Random requests to every address: nothing fails inside, nothing panics, and memory does not
//! grow. The seed is printed; `SEED` and `REQUESTS` choose others.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use api::Scope;
use common::*;
use evidence::{Incident, Kind, Severity, Time};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Growth of the process that is allowed, in KiB. The allocator keeps some of what was freed.
const GROWTH_KIB: u64 = 16 << 10;

/// What random requests are made of.
struct Ingredients {
    paths: Vec<String>,
    parameters: Vec<String>,
    values: Vec<String>,
    token: String,
}

impl Ingredients {
    async fn of(api: &Api) -> Self {
        let mut findings: Vec<_> = (1..=40).map(|nth| double_vote(nth % 5, nth * 20)).collect();
        findings[0].0.validator.as_mut().unwrap().labels = vec!["group=acme".into()];
        let (finding, proof) = (findings[0].0.id, findings[0].1.id);
        api.store.record(findings, &[]).unwrap();
        api.store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Warning, 9)], &[]).unwrap();
        api.store.put_incidents(&[Incident::sample()]).unwrap();
        let document: Value = serde_json::from_str(&api::openapi_json()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let named = paths.values().flat_map(|path| path["get"]["parameters"].as_array().cloned().unwrap_or_default());
        let parameters = named.filter_map(|parameter| Some(parameter["name"].as_str()?.to_owned())).collect();
        let pages = ["/", "/docs", "/findings/{id}", "/slots/{slot}", "/page/{file}", "/{rest}"];
        let pubkey = format!("0x{}", "07".repeat(48));
        let (finding, proof, incident) = (finding.to_string(), proof.to_string(), Incident::sample().id.to_string());
        let known = [
            "7",
            "0",
            "31",
            "64",
            "100",
            "1000",
            "18446744073709551615",
            "18446744073709551616",
            "-1",
            "1e3",
            "asc",
            "desc",
            "double_vote",
            "critical",
            "group=acme",
            "acme",
            "pool=blue",
            "json",
            "ssz",
            "true",
            "false",
            "attester_slashing",
            "head,proposer_slashing",
            "",
            "%",
            "%00",
            "%ff",
            "%F0%9F%92%A9",
            "..%2f..",
            "a%0d%0ab",
            "'",
            "\"",
            "<b>",
            "0x",
            "0xzz",
            &pubkey,
            &finding,
            &proof,
            &incident,
        ];
        Self {
            paths: paths.keys().cloned().chain(pages.map(str::to_owned)).collect(),
            parameters,
            values: known.into_iter().map(str::to_owned).collect(),
            token: api.tokens.create(Scope::Admin, None, Time::now(), None).unwrap().0,
        }
    }

    fn value(&self, rng: &mut StdRng) -> String {
        match rng.random_range(0..10) {
            0 => rng.random::<u64>().to_string(),
            1 => format!("0x{}", "ab".repeat(rng.random_range(0..50))),
            2 => "9".repeat(rng.random_range(0..3000)),
            3 => (0..rng.random_range(0..40)).map(|_| format!("%{:02x}", rng.random::<u8>())).collect(),
            _ => pick(&self.values, rng).clone(),
        }
    }

    fn address(&self, rng: &mut StdRng) -> String {
        let mut address = String::new();
        for part in pick(&self.paths, rng).split_inclusive('/') {
            let (name, slash) = part.strip_suffix('/').map_or((part, ""), |name| (name, "/"));
            if name.starts_with('{') && rng.random_bool(0.95) {
                address += &self.value(rng);
            } else {
                address += name;
            }
            address += slash;
        }
        for nth in 0..rng.random_range(0..4) {
            let parameter = if rng.random_bool(0.9) { pick(&self.parameters, rng).clone() } else { self.value(rng) };
            address += &format!("{}{parameter}={}", if nth == 0 { '?' } else { '&' }, self.value(rng));
        }
        // Spaces end an address. Whatever else is wrong with it is for the API to refuse.
        address.replace(' ', "+")
    }

    fn headers(&self, rng: &mut StdRng) -> String {
        const NAMES: [&str; 16] = [
            "Accept",
            "Accept-Encoding",
            "If-None-Match",
            "Last-Event-ID",
            "Range",
            "Expect",
            "Origin",
            "Cookie",
            "X-Forwarded-For",
            "Access-Control-Request-Method",
            "Upgrade",
            "Te",
            "Content-Type",
            "If-Modified-Since",
            "Authorization",
            "Forwarded",
        ];
        const VALUES: [&str; 20] = [
            "*/*",
            "application/json",
            "application/octet-stream;q=0.1",
            "text/csv",
            "gzip",
            "gzip;q=0, identity",
            "*",
            "W/\"0\"",
            "bytes=0-1",
            "bytes=9-",
            "100-continue",
            "h2c",
            "Bearer x",
            "Basic eDp4",
            "Basic",
            "\u{e4}\u{f6}",
            "1",
            "0",
            "-5",
            "203.0.113.9, 10.0.0.1",
        ];
        let mut headers = format!("Host: {}\r\n", if rng.random_bool(0.95) { "localhost" } else { "evil.example" });
        for _ in 0..rng.random_range(0..5) {
            let value = if rng.random_bool(0.7) { pick(&VALUES, rng).to_string() } else { "x".repeat(rng.random_range(0..4000)) };
            headers += &format!("{}: {value}\r\n", pick(&NAMES, rng));
        }
        if rng.random_bool(0.3) {
            headers += &format!("Authorization: Bearer {}\r\n", self.token);
        }
        headers
    }

    /// A request, not always well-formed.
    fn request(&self, rng: &mut StdRng) -> Vec<u8> {
        let method = match rng.random_range(0..10) {
            0 => "HEAD",
            1 => *pick(&["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW"], rng),
            _ => "GET",
        };
        let mut head = format!("{method} {} HTTP/1.1\r\n{}Connection: close\r\n", self.address(rng), self.headers(rng));
        let body: Vec<u8> = (0..rng.random_range(0..3000)).map(|_| rng.random()).collect();
        let mut sent = Vec::new();
        match rng.random_range(0..10) {
            0 => head += &format!("Content-Length: {}\r\n", body.len()),
            1 => head += "Content-Length: 99999999999999999999\r\n",
            2 => head += "Transfer-Encoding: chunked\r\n",
            _ => {}
        }
        sent.extend_from_slice(head.as_bytes());
        sent.extend_from_slice(b"\r\n");
        if rng.random_bool(0.2) {
            sent.extend_from_slice(&body);
        }
        sent
    }
}

fn pick<'a, T>(of: &'a [T], rng: &mut StdRng) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

/// Sends a request and returns the head of the answer. Event streams do not end, so the rest is not
/// waited for.
async fn answer_to(api: &Api, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    // The server may refuse a request before it has read all of it.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut part = [0; 16 << 10];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match tokio::time::timeout(Duration::from_secs(20), stream.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(n)) => answer.extend_from_slice(&part[..n]),
            Err(_) => panic!("no answer to {:?}", String::from_utf8_lossy(request)),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn whatever_is_asked_nothing_fails_inside_and_nothing_grows() {
    let number = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (seed, requests) = (number("SEED", 15), number("REQUESTS", 6_000));
    println!("SEED={seed} REQUESTS={requests}");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        hook(info);
    }));
    // Streams of the requests before may still be open.
    let api = Api::start_as(Options { max_streams: 256, max_connections: 512, ..Options::default() }).await;
    let ingredients = Ingredients::of(&api).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut by_status = std::collections::BTreeMap::new();
    let mut resident = 0;
    for nth in 0..requests {
        if nth == requests / 3 {
            resident = resident_kib();
        }
        let request = ingredients.request(&mut rng);
        let answer = answer_to(&api, &request).await;
        let shown = || format!("request {nth} of SEED={seed}: {:?}\n{answer}", String::from_utf8_lossy(&request));
        // Bytes after a request that has no body are another request, which may be refused, or the
        // connection may be reset before the first answer is read.
        let Some(status) = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok()) else {
            assert!(answer.is_empty(), "{}", shown());
            *by_status.entry(0).or_insert(0) += 1;
            continue;
        };
        // Busy is an answer, and says when to ask again.
        assert!(status < 500 || (status == 503 && answer.contains("retry-after: ")), "{}", shown());
        *by_status.entry(status).or_insert(0) += 1;
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    println!("answers by status, 0 for none: {by_status:?}");
    assert!(
        by_status.get(&0).is_none_or(|n| *n < requests / 10)
            && by_status[&200] > requests / 20
            && by_status[&400] > requests / 20,
        "{by_status:?}"
    );
    let grown = resident_kib().saturating_sub(resident);
    assert!(grown < GROWTH_KIB, "{grown} KiB more after {requests} requests");
    assert_eq!(api.get("/healthz").await.status(), 200);
}
