//! Tests against a minimal HTTP server in this file, because the tests need the faults of real
//! servers.

use super::*;
use consensus::{ForkName, Spec};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use verify::{MessageKind, SourceKind};

const PATIENCE: Duration = Duration::from_secs(20);
const HEADERS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

fn network() -> Arc<Network> {
    let spec = Spec::from_yaml("PRESET_BASE: minimal\nELECTRA_FORK_EPOCH: 0\n").unwrap();
    Arc::new(Network { spec, genesis_time: 1_700_000_000, genesis_validators_root: Root::ZERO })
}

fn config() -> StreamConfig {
    StreamConfig { reconnect: Backoff::new(Duration::from_millis(5), Duration::from_millis(20)), ..StreamConfig::default() }
}

async fn listen() -> (TcpListener, NodeSet) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, NodeSet::new(&[url], NodeConfig::default()).unwrap())
}

/// Returns the next request whose path contains `wanted`, with the connection to answer on. Other
/// requests stay open and unanswered, as some nodes do for topics that they do not know.
async fn accept(listener: &TcpListener, wanted: &str) -> (String, TcpStream) {
    let found = async {
        let mut hanging = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let path = read_request(&mut socket).await;
            if path.contains(wanted) {
                // The unanswered connections live as long as the test.
                std::mem::forget(hanging);
                return (path, socket);
            }
            hanging.push(socket);
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the request comes")
}

async fn read_request(socket: &mut TcpStream) -> String {
    let (mut path, mut reader) = (String::new(), BufReader::new(socket));
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if line.trim().is_empty() {
            return path;
        }
    }
}

const FIRST: &str = "topics=block&topics=attestation";

async fn next(handle: &mut StreamHandle) -> SourceEvent {
    tokio::time::timeout(PATIENCE, handle.events.recv()).await.expect("an event comes").expect("streams run")
}

async fn next_message(handle: &mut StreamHandle) -> RawMessage {
    loop {
        if let SourceEvent::Message(message) = next(handle).await {
            return message.raw;
        }
    }
}

async fn next_problem(handle: &mut StreamHandle) -> String {
    loop {
        if let SourceEvent::Connection { up: false, problem: Some(problem), .. } = next(handle).await {
            return problem;
        }
    }
}

fn single(attester: u64) -> String {
    let (root, signature) = (format!("0x{}", "11".repeat(32)), format!("0x{}", "22".repeat(96)));
    let json = serde_json::json!({"committee_index": "1", "attester_index": attester.to_string(), "signature": signature,
        "data": {"slot": "8", "index": "0", "beacon_block_root": root, "source": {"epoch": "0", "root": root},
        "target": {"epoch": "1", "root": root}}});
    format!("event: single_attestation\ndata: {json}\n\n")
}

fn attester_of(message: &RawMessage) -> u64 {
    consensus::SingleAttestation::from_ssz(&message.bytes).unwrap().attester_index.as_u64()
}

fn block(slot: u64) -> Vec<u8> {
    let mut ssz = vec![0u8; 400];
    ssz[0] = 100;
    ssz[100..108].copy_from_slice(&slot.to_le_bytes());
    ssz
}

#[tokio::test]
async fn votes_come_from_the_stream_and_blocks_from_the_same_node() {
    let (listener, nodes) = listen().await;
    let metrics = SourceMetrics::unregistered();
    let mut handle = start(&nodes, config(), network(), metrics.clone()).unwrap();
    let (path, mut stream) = accept(&listener, FIRST).await;
    assert_eq!(path, "/eth/v1/events?topics=block&topics=attestation");
    let root = format!("0x{}", "ab".repeat(32));
    let announced = format!("{{\"slot\":\"9\",\"block\":\"{root}\"}}");
    // The headers come only with the first event. A root that is announced twice is fetched once.
    let text = format!(
        "{HEADERS}: keep-alive\n\nevent: block_gossip\ndata: {announced}\n\nevent: block\ndata: {announced}\n\n{}",
        single(77)
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let (path, mut answer) = accept(&listener, "/blocks/").await;
    assert_eq!(path, format!("/eth/v2/beacon/blocks/{root}"));
    let ssz = block(9);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nEth-Consensus-Version: electra\r\nContent-Length: {}\r\n\r\n",
        ssz.len()
    );
    answer.write_all(head.as_bytes()).await.unwrap();
    answer.write_all(&ssz).await.unwrap();
    let (mut vote, mut fetched) = (None, None);
    while vote.is_none() || fetched.is_none() {
        let message = next_message(&mut handle).await;
        assert_eq!((message.origin.source, message.origin.fork), (SourceKind::Api, Some(ForkName::Electra)));
        assert_eq!(message.origin.peer.as_deref(), Some(nodes.label(0).as_bytes()));
        match message.kind {
            MessageKind::Block => fetched = Some(message.bytes.clone()),
            _ => vote = Some(attester_of(&message)),
        }
    }
    assert_eq!((vote, fetched), (Some(77), Some(ssz)));
    assert_eq!(metrics.fetched_blocks.with_label_values(&["fetched"]).get(), 1);
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again() {
    let (listener, nodes) = listen().await;
    let mut handle = start(&nodes, config(), network(), SourceMetrics::unregistered()).unwrap();
    for attester in 0..3 {
        let (_, mut stream) = accept(&listener, FIRST).await;
        stream.write_all(format!("{HEADERS}{}", single(attester)).as_bytes()).await.unwrap();
        drop(stream);
        // The end of the stream and the event in it arrive on different channels, so in any order.
        let (mut came, mut ended) = (None, None);
        while came.is_none() || ended.is_none() {
            match next(&mut handle).await {
                SourceEvent::Message(message) => came = Some(attester_of(&message.raw)),
                SourceEvent::Connection { up: false, problem, .. } => ended = problem,
                SourceEvent::Connection { up: true, .. } | SourceEvent::Peer(_) | SourceEvent::ListeningOn(_) => {}
            }
        }
        assert_eq!(came, Some(attester));
        assert!(ended.unwrap().contains("closed"));
    }
}

#[tokio::test]
async fn a_node_that_refuses_or_hangs_is_asked_again() {
    let (listener, nodes) = listen().await;
    let config = StreamConfig { silence: Some(Duration::from_millis(200)), ..config() };
    let mut handle = start(&nodes, config, network(), SourceMetrics::unregistered()).unwrap();
    let (_, mut refused) = accept(&listener, FIRST).await;
    refused.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(next_problem(&mut handle).await.contains("status 503"));
    let (_, hanging) = accept(&listener, FIRST).await;
    assert!(next_problem(&mut handle).await.contains("nothing came"));
    drop(hanging);
    let (_, mut stream) = accept(&listener, FIRST).await;
    stream.write_all(format!("{HEADERS}{}", single(5)).as_bytes()).await.unwrap();
    assert_eq!(attester_of(&next_message(&mut handle).await), 5);
}

#[tokio::test]
async fn later_topics_have_streams_of_their_own() {
    let (listener, nodes) = listen().await;
    let mut handle = start(&nodes, config(), network(), SourceMetrics::unregistered()).unwrap();
    let (path, mut stream) = accept(&listener, "single_attestation").await;
    assert_eq!(path, "/eth/v1/events?topics=single_attestation");
    stream.write_all(format!("{HEADERS}{}", single(6)).as_bytes()).await.unwrap();
    assert_eq!(attester_of(&next_message(&mut handle).await), 6);
}

#[tokio::test]
async fn an_event_without_end_ends_the_stream() {
    let (listener, nodes) = listen().await;
    let mut handle = start(&nodes, config(), network(), SourceMetrics::unregistered()).unwrap();
    let (_, mut stream) = accept(&listener, FIRST).await;
    stream.write_all(format!("{HEADERS}event: attestation\ndata: ").as_bytes()).await.unwrap();
    let flood = tokio::spawn(async move {
        let piece = vec![b'x'; 1 << 20];
        // The write fails when the reader closes the stream.
        while stream.write_all(&piece).await.is_ok() {}
    });
    let problem = next_problem(&mut handle).await;
    assert!(problem.contains("it broke"), "{problem}");
    flood.await.unwrap();
}

#[tokio::test]
async fn lines_in_any_pieces_are_the_same_lines() {
    let text = b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n: tail";
    for size in 1..text.len() {
        let pieces = futures::stream::iter(text.chunks(size).map(Ok::<_, io::Error>));
        let lines: Vec<Vec<u8>> = whole_lines(pieces, Arc::default()).map(Result::unwrap).collect().await;
        assert!(lines.iter().all(|lines| lines.ends_with(b"\n")), "{size}");
        assert_eq!(lines.concat(), text[..text.len() - 6], "{size}: what is not whole yet is not given");
    }
}

#[tokio::test]
async fn nonsense_events_are_counted_and_do_no_harm() {
    let (listener, nodes) = listen().await;
    let metrics = SourceMetrics::unregistered();
    let mut handle = start(&nodes, config(), network(), metrics.clone()).unwrap();
    let (_, mut stream) = accept(&listener, FIRST).await;
    let text = format!("{HEADERS}event: single_attestation\ndata: {{}}\n\nevent: head\ndata: {{}}\n\ndata: 7\n\n{}", single(1));
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(attester_of(&next_message(&mut handle).await), 1);
    assert_eq!(metrics.refused.with_label_values(&["bad_event"]).get(), 1);
    assert_eq!(metrics.refused.with_label_values(&["event_not_read"]).get(), 2);
}

/// Votes do not wait for blocks that the node announces and does not serve. Beyond a bound such
/// blocks are given up, and counted.
#[tokio::test]
async fn blocks_that_are_never_served_hold_up_no_votes() {
    let (listener, nodes) = listen().await;
    let metrics = SourceMetrics::unregistered();
    let mut handle = start(&nodes, config(), network(), metrics.clone()).unwrap();
    let (_, mut stream) = accept(&listener, FIRST).await;
    let mut text = HEADERS.to_owned();
    for nth in 0..MAX_FETCHES + MAX_WAITING + 10 {
        text.push_str(&format!("event: block\ndata: {{\"slot\":\"9\",\"block\":\"0x{nth:064x}\"}}\n\n"));
    }
    text.push_str(&single(7));
    // The blocks are asked for, and never answered.
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        while let Ok(connection) = listener.accept().await {
            hanging.push(connection);
        }
    });
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(attester_of(&next_message(&mut handle).await), 7);
    assert_eq!(metrics.fetched_blocks.with_label_values(&["not_asked"]).get(), 10);
}
