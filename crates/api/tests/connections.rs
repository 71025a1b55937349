//! Clients that open connections and send nothing, or send very slowly.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.address).await.unwrap()
}

/// Returns everything that the server sends until it closes. The text is empty if the server closes
/// at once.
async fn last_words(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset also ends the connection.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

async fn ask(api: &Api, path: &str, host: &str) -> String {
    let mut stream = connect(api).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    last_words(stream).await
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_counted() {
    let api = Api::start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = connect(&api).await;
        // Only an answer shows that the connection was accepted.
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        idle.push(stream);
    }
    let told = ask(&api, "/v1/findings", "localhost").await;
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("too-many-connections"), "{told}");
    let answer = ask(&api, "/metrics", "localhost").await;
    let refused = answer.lines().find_map(|line| line.strip_prefix("slashwatch_api_connections_refused_total "));
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 2, "{answer}");
    idle.clear();
    // The server needs a moment to notice that the other connections have ended.
    for _ in 0..1000 {
        if ask(&api, "/v1/findings", "localhost").await.starts_with("HTTP/1.1 200") {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("places do not come back");
}

/// Many more sockets than places are opened again and again, and nothing is sent on them. Meanwhile
/// a monitoring system asks for the health.
#[tokio::test]
async fn half_open_sockets_do_not_silence_those_who_watch_the_watcher() {
    let api = Api::start().await;
    let mut half_open = Vec::new();
    let mut answered = Vec::new();
    for _ in 0..5 {
        for _ in 0..2 * (MAX_CONNECTIONS + api::PROBE_CONNECTIONS) {
            half_open.push(connect(&api).await);
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = ask(&api, path, "localhost").await;
            answered.push((path, answer.lines().next().unwrap_or("closed without a word").to_owned()));
        }
    }
    assert!(answered.iter().all(|(_, status)| status == "HTTP/1.1 200 OK"), "{answered:?}");
}

/// DNS rebinding: the name of a foreign page suddenly resolves to this machine.
#[tokio::test]
async fn only_names_of_this_machine_and_configured_ones_are_answered_on_loopback() {
    let api = Api::start().await;
    let port = api.address.port();
    for path in ["/", "/v1/status", "/v1/findings", "/v1/watch/groups", "/v1/events", "/metrics", "/healthz"] {
        for host in ["evil.example".to_owned(), format!("evil.example:{port}"), "127.0.0.1.evil.example".into(), "0.0.0.0".into()]
        {
            let told = ask(&api, path, &host).await;
            assert!(told.starts_with("HTTP/1.1 403") && told.contains("wrong-host"), "{path} {host}: {told}");
        }
    }
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}"), "watch.example".into()] {
        assert!(ask(&api, "/v1/status", &host).await.starts_with("HTTP/1.1 200"), "{host}");
    }
}

/// A request that arrives slowly and never ends.
#[tokio::test]
async fn a_head_that_never_ends_is_waited_for_in_vain_only_so_long() {
    let api = Api::start_with(std::time::Duration::from_millis(50), api::OwnKeys::Shown).await;
    let mut stream = connect(&api).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let told = last_words(stream).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
}
