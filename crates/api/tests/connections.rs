//! Those who open connections and say nothing.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.address).await.unwrap()
}

/// Everything the server says until it closes; empty if it closes at once.
async fn last_words(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let api = Api::start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = connect(&api).await;
        // Until it is answered it is not certain that it was accepted.
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        idle.push(stream);
    }
    assert_eq!(last_words(connect(&api).await).await, "");
    idle.truncate(1);
    // The others' ends take a moment to be noticed.
    let mut answer = String::new();
    for _ in 0..1000 {
        let mut stream = connect(&api).await;
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        answer = last_words(stream).await;
        if !answer.is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let refused = answer.lines().find_map(|line| line.strip_prefix("slashwatch_api_connections_refused_total "));
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 1, "{answer}");
}

/// A request that comes a byte at a time and never ends.
#[tokio::test]
async fn a_head_that_never_ends_is_waited_for_in_vain_only_so_long() {
    let api = Api::start_with(std::time::Duration::from_millis(50), api::OwnKeys::Shown).await;
    let mut stream = connect(&api).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let told = last_words(stream).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
}
