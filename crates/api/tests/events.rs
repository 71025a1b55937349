//! The event stream: a client misses nothing when it reconnects, and a stop ends the stream.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::*;
use eventsource_stream::{Event, Eventsource as _};
use evidence::{Count, Incident, IncidentState};
use futures::{Stream, StreamExt as _};
use reqwest::StatusCode;
use std::pin::Pin;
use std::time::Duration;

type Events = Pin<Box<dyn Stream<Item = Event>>>;

/// Opens a stream that contains only findings.
async fn connect(api: &Api, path: &str, last_event_id: Option<&str>) -> Events {
    let mut request = api.client.get(api.url(path));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let events = answer.bytes_stream().eventsource();
    Box::pin(events.filter_map(async |event| event.ok().filter(|event| event.event == "finding")))
}

async fn ids(events: &mut Events, n: usize) -> Vec<u64> {
    events.take(n).map(|event| event.id.parse::<u64>().unwrap()).collect().await
}

#[tokio::test]
async fn begins_where_asked_and_goes_on_live() {
    let api = Api::start().await;
    api.store.record((1..=100).map(|nth| double_vote(nth, nth)).collect(), &[]).unwrap();
    let mut all = connect(&api, "/v1/events?after=0", None).await;
    let mut some = connect(&api, "/v1/events?after=40", Some("97")).await;
    let mut live = connect(&api, "/v1/events", None).await;
    let mut foreign = connect(&api, "/v1/events", Some("5000")).await;
    assert_eq!(ids(&mut all, 100).await, (1..=100).collect::<Vec<_>>());
    api.store.record(vec![double_vote(101, 101)], &[]).unwrap();
    assert_eq!(ids(&mut some, 4).await, [98, 99, 100, 101], "the header goes before the parameter");
    assert_eq!(ids(&mut all, 1).await, [101]);
    let event = live.next().await.unwrap();
    assert_eq!(event.id, "101");
    let (finding, _) = double_vote(101, 101);
    assert_eq!(event.data, serde_json::to_string(&finding).unwrap());
    assert_eq!(ids(&mut foreign, 101).await, (1..=101).collect::<Vec<_>>(), "another database's number: from the beginning");
}

/// A client is disconnected again and again while findings are recorded. It sees each finding
/// exactly once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resumes_without_a_gap_while_findings_come() {
    const N_FINDINGS: u64 = 600;
    let api = Api::start().await;
    let store = api.store.clone();
    let recorder = std::thread::spawn(move || {
        let mut next = 1;
        while next <= N_FINDINGS {
            let batch: Vec<_> = (next..(next + 1 + next % 5).min(N_FINDINGS + 1)).map(|nth| double_vote(nth, nth)).collect();
            next += batch.len() as u64;
            store.record(batch, &[]).unwrap();
        }
    });
    let mut seen: Vec<u64> = Vec::new();
    let mut length = 1;
    while (seen.len() as u64) < N_FINDINGS {
        let last = seen.last().copied().unwrap_or(0).to_string();
        let mut events = connect(&api, "/v1/events?after=0", (!seen.is_empty()).then_some(last.as_str())).await;
        let left = N_FINDINGS as usize - seen.len();
        length = (length * 7 + 3) % 61 + 1;
        seen.extend(ids(&mut events, length.min(left)).await);
        // The stream is dropped here, with the events that were already sent.
    }
    recorder.join().unwrap();
    assert_eq!(seen, (1..=N_FINDINGS).collect::<Vec<_>>());
}

#[tokio::test]
async fn streams_are_bounded_counted_and_given_back() {
    let api = Api::start().await;
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        open.push(connect(&api, "/v1/events", None).await);
    }
    let refused = api.get("/v1/events").await;
    assert_eq!(refused.headers()["retry-after"], "30");
    assert_problem(refused, StatusCode::SERVICE_UNAVAILABLE, "all 4 event streams are taken").await;
    let text = api.get("/metrics").await.text().await.unwrap();
    assert!(text.contains("slashwatch_api_streams 4") && text.contains("slashwatch_api_streams_refused_total 1"), "{text}");
    // A wrong request takes no place.
    assert_problem(api.get("/v1/events?after=x").await, StatusCode::BAD_REQUEST, "after").await;

    drop(open.pop());
    // The server notices that a connection is gone when it writes to it. A finding makes it write.
    let mut nth = 0;
    loop {
        nth += 1;
        api.store.record(vec![double_vote(nth, nth)], &[]).unwrap();
        let again = api.client.get(api.url("/v1/events")).send().await.unwrap();
        if again.status() == StatusCode::OK {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stop_ends_streams_and_the_server() {
    let api = Api::start().await;
    let mut events = connect(&api, "/v1/events", None).await;
    // A client connects and then reads nothing.
    let _idle = tokio::net::TcpStream::connect(api.url("").trim_start_matches("http://")).await.unwrap();
    api.stop.cancel();
    assert!(events.next().await.is_none());
    tokio::time::timeout(Duration::from_secs(30), api.serving).await.expect("ends").unwrap().unwrap();
}

/// Incidents come when they change, and again when a client reconnects. The numbers of the findings
/// do not change.
#[tokio::test]
async fn incidents_come_in_the_same_stream() {
    let api = Api::start().await;
    let mut incident = wave();
    let next = async |events: &mut Events| events.next().await.map(|event| (event.event, event.id, event.data)).unwrap();
    let open = |path: &'static str| {
        let request = api.client.get(api.url(path));
        async move {
            let events = request.send().await.unwrap().bytes_stream().eventsource();
            Box::pin(events.filter_map(async |event| event.ok().filter(|event| !event.data.is_empty()))) as Events
        }
    };
    let mut live = open("/v1/events").await;
    api.store.put_incidents(std::slice::from_ref(&incident)).unwrap();
    let (event, id, data) = next(&mut live).await;
    assert_eq!((event.as_str(), id.as_str()), ("incident", ""));
    assert_eq!(data, serde_json::to_string(&incident).unwrap());
    api.store.record(vec![double_vote(1, 1)], &[]).unwrap();
    assert_eq!(next(&mut live).await.1, "1");
    incident.state = IncidentState::Growing;
    api.store.put_incidents(std::slice::from_ref(&incident)).unwrap();
    assert!(next(&mut live).await.2.contains("growing"));
    let mut back = open("/v1/events?after=1").await;
    assert_eq!(next(&mut back).await.2, serde_json::to_string(&incident).unwrap(), "its present state, once");
    let listed = api.json("/v1/incidents").await;
    assert_eq!(listed["incidents"], serde_json::json!([incident]));
    assert_eq!(listed["next"], serde_json::Value::Null);
    assert_eq!(api.json(&format!("/v1/incidents/{}", incident.id)).await, serde_json::to_value(&incident).unwrap());
    assert_eq!(api.get("/v1/incidents/0x00").await.status(), StatusCode::BAD_REQUEST);
}

/// One incident that changes all the time does not displace the others from what a reconnecting
/// client gets.
#[tokio::test]
async fn who_comes_back_is_told_of_incidents_that_changed_long_before_the_busiest_one() {
    let api = Api::start().await;
    let quiet = Incident { id: consensus::Root::repeat_byte(8), ..wave() };
    api.store.put_incidents(std::slice::from_ref(&quiet)).unwrap();
    let mut busy = wave();
    for nth in 0..300 {
        busy.last_slot = consensus::Slot::new(10 + nth);
        api.store.put_incidents(std::slice::from_ref(&busy)).unwrap();
    }
    api.store.record(vec![double_vote(1, 1)], &[]).unwrap();
    for path in ["/v1/events?after=1", "/v1/events?after=0"] {
        let events = api.get(path).await.bytes_stream().eventsource();
        let incidents = events.filter_map(async |event| event.ok().filter(|event| event.event == "incident"));
        let told: Vec<String> = incidents.take(2).map(|event| event.data).collect().await;
        assert_eq!(told, [&quiet, &busy].map(|incident| serde_json::to_string(incident).unwrap()), "{path}");
    }
}

fn wave() -> Incident {
    Incident { validators: Some(Count(3)), ..Incident::sample() }
}

/// Streams that are opened while findings come, next to those that are there all the time. Each
/// gets every finding after its beginning once, in order, whoever reads it from the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_streams_get_the_same_whenever_they_were_opened() {
    const N_FINDINGS: u64 = 900;
    const N_STREAMS: usize = 40;
    let api = Api::start_as(Options { max_streams: N_STREAMS, max_connections: 2 * N_STREAMS, ..Options::default() }).await;
    let store = api.store.clone();
    let mut streams = vec![(0, connect(&api, "/v1/events?after=0", None).await)];
    let recorder = std::thread::spawn(move || {
        let mut next = 1;
        while next <= N_FINDINGS {
            // One alone, and then more than a batch at once.
            let until = (next + if next % 2 == 0 { 1 } else { 100 }).min(N_FINDINGS + 1);
            store.record((next..until).map(|nth| double_vote(nth, nth)).collect(), &[]).unwrap();
            next = until;
        }
    });
    for nth in 1..N_STREAMS as u64 {
        let after = nth * 7;
        streams.push((after, connect(&api, &format!("/v1/events?after={after}"), None).await));
    }
    recorder.join().unwrap();
    // Those that asked for a number that was not there yet begin at the start.
    for (after, mut events) in streams {
        let first = events.next().await.unwrap().id.parse::<u64>().unwrap();
        assert!(first == after + 1 || first == 1, "{first} after {after}");
        let rest = ids(&mut events, (N_FINDINGS - first) as usize).await;
        assert_eq!(rest, (first + 1..=N_FINDINGS).collect::<Vec<_>>(), "after {after}");
    }
}

/// A client reads nothing while more comes than is kept for it, and then goes on. Nothing is
/// missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_for_a_while_misses_nothing() {
    const PER_WRITE: u64 = 64;
    const N_FINDINGS: u64 = 256 * PER_WRITE;
    let api = Api::start().await;
    let mut slow = connect(&api, "/v1/events", None).await;
    let mut quick = connect(&api, "/v1/events", None).await;
    for first in (1..N_FINDINGS).step_by(PER_WRITE as usize) {
        api.store.record((first..first + PER_WRITE).map(|nth| double_vote(nth, nth)).collect(), &[]).unwrap();
        assert_eq!(ids(&mut quick, PER_WRITE as usize).await.last(), Some(&(first + PER_WRITE - 1)));
    }
    assert_eq!(ids(&mut slow, N_FINDINGS as usize).await, (1..=N_FINDINGS).collect::<Vec<_>>());
}
