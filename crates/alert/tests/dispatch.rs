//! The dispatcher against a real receiver on loopback: signatures, outages, restarts, refusals.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use alert::{
    Context, Dispatcher, NetworkName, RetryPolicy, RouteConfig, RouteCounts, Routes, SinkConfig, SwitchNote, WebhookConfig,
};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::routing::post;
use base::Backoff;
use consensus::{ForkName, Root, Slot, ValidatorIndex};
use evidence::{
    Anomaly, DeliveryId, DeliveryState, Evidence, EvidenceKind, Finding, Kind, OffenceFacts, OutboxCounts, Punishable, RouteName,
    Severity, Store, Time, anomaly_id,
};
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::http::anywhere;
use test_support::samples::NETWORK;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const SECRET: &str = "a shared secret";

/// One request as it arrived.
struct ReceivedRequest {
    headers: HeaderMap,
    body: Value,
}

impl ReceivedRequest {
    fn key(&self) -> &str {
        self.headers["idempotency-key"].to_str().unwrap()
    }
}

/// Decides the answer to the next request of a receiver.
type Answer = Arc<Mutex<dyn FnMut(&Value) -> (StatusCode, Vec<(HeaderName, String)>) + Send>>;

struct Receiver {
    address: SocketAddr,
    heard: mpsc::Receiver<ReceivedRequest>,
    server: tokio::task::JoinHandle<()>,
}

/// Listens on `address`, verifies each signature as a receiver should, and answers as `answer`
/// says.
async fn receiver_at(
    address: SocketAddr,
    answer: impl FnMut(&Value) -> (StatusCode, Vec<(HeaderName, String)>) + Send + 'static,
) -> Receiver {
    let (tell, heard) = mpsc::channel(1000);
    let answer: Answer = Arc::new(Mutex::new(answer));
    let app = Router::new().route("/hook", post(hook)).with_state((tell, answer));
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Receiver { address, heard, server }
}

async fn hook(
    State((tell, answer)): State<(mpsc::Sender<ReceivedRequest>, Answer)>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap) {
    let timestamp = headers["x-slashwatch-timestamp"].to_str().unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(&body);
    let signature = headers["x-slashwatch-signature"].to_str().unwrap();
    let signature = hex::decode(signature.strip_prefix("sha256=").unwrap()).unwrap();
    if mac.verify_slice(&signature).is_err() {
        return (StatusCode::UNAUTHORIZED, HeaderMap::new());
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let (status, extra) = (answer.lock().unwrap())(&body);
    tell.send(ReceivedRequest { headers, body }).await.unwrap();
    (status, extra.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect())
}

fn always(status: StatusCode) -> impl FnMut(&Value) -> (StatusCode, Vec<(HeaderName, String)>) + Send + 'static {
    move |_| (status, Vec::new())
}

fn quick() -> RetryPolicy {
    RetryPolicy { pauses: Backoff::new(Duration::from_millis(4), Duration::from_millis(20)), ..RetryPolicy::DEFAULT }
}

fn routes(dir: &Path, address: SocketAddr, policy: RetryPolicy) -> Routes {
    let secret = dir.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let sink = webhook(&format!("http://{address}/hook"), &secret);
    Routes::new(&[RouteConfig { min_severity: Severity::Warning, ..RouteConfig::new("ops", sink) }], policy).unwrap()
}

fn webhook(url: &str, secret: &Path) -> SinkConfig {
    SinkConfig::Webhook(WebhookConfig { url: url.into(), secret_file: Some(secret.into()), secret_env: None })
}

fn finding(nth: u64, severity: Severity) -> Finding {
    Finding::anomaly(Anomaly {
        id: anomaly_id(NETWORK, &Kind::ClockSkew, &nth.to_le_bytes()),
        severity,
        slot: Slot::new(nth),
        first_seen: Time::now(),
        recorded_at: Time::now(),
        ..Anomaly::sample(Kind::ClockSkew)
    })
}

fn ops(seq: u64) -> DeliveryId {
    DeliveryId { seq, route: RouteName::new("ops").unwrap() }
}

/// Waits until the route's counters satisfy `wanted`.
async fn until(dispatcher: &Dispatcher, wanted: impl Fn(&RouteCounts) -> bool) -> RouteCounts {
    let mut counts = dispatcher.counts();
    let counts = counts.wait_for(|counts| counts.values().any(&wanted)).await.unwrap();
    *counts.values().next().unwrap()
}

#[tokio::test]
async fn a_finding_arrives_signed_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = receiver_at(anywhere(), always(StatusCode::NO_CONTENT)).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let routes = routes(dir.path(), receiver.address, quick());
    let dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
    let findings = vec![finding(1, Severity::Info), finding(2, Severity::Warning)];
    let warning = findings[1].clone();
    store.record_anomalies(findings, &routes.names()).unwrap();

    let heard = receiver.heard.recv().await.unwrap();
    assert_eq!(heard.key(), warning.id.to_string(), "the first is not severe enough");
    assert_eq!(heard.body["schema"], 1);
    assert_eq!(heard.body["delivery"], format!("{}:ops", warning.id));
    assert_eq!(heard.body["attempt"], 1);
    assert_eq!(heard.body["finding"], serde_json::to_value(&warning).unwrap());
    assert_eq!(heard.body.get("test"), None);
    let sent: u64 = heard.headers["x-slashwatch-timestamp"].to_str().unwrap().parse().unwrap();
    assert!(Time::now().as_unix_ns() / 1_000_000_000 - sent < 60);

    let counts = until(&dispatcher, |counts| counts.delivered == 1).await;
    assert_eq!(counts, RouteCounts { attempts: 1, delivered: 1, ..RouteCounts::default() });
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 0, delivered: 1, given_up: 0 });
    dispatcher.stop().await;
    assert!(receiver.heard.try_recv().is_err(), "nothing came twice");
}

#[tokio::test]
async fn down_then_up_with_a_restart_in_between() {
    let dir = tempfile::tempdir().unwrap();
    // A port that nobody listens on: it is bound once and released.
    let address = TcpListener::bind(anywhere()).await.unwrap().local_addr().unwrap();
    let store = Store::open(&dir.path().join("db"), NETWORK).unwrap();
    let routes = routes(dir.path(), address, quick());
    let dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
    let findings: Vec<Finding> = (1..=20).map(|nth| finding(nth, Severity::Critical)).collect();
    let mut wanted: Vec<String> = findings.iter().map(|finding| finding.id.to_string()).collect();
    store.record_anomalies(findings, &routes.names()).unwrap();
    let counts = until(&dispatcher, |counts| counts.retried >= 10).await;
    assert_eq!(counts.delivered, 0);
    dispatcher.stop().await;
    drop(store);

    // Another process opens the same outbox, and the receiver is up again.
    let store = Store::open(&dir.path().join("db"), NETWORK).unwrap();
    assert_eq!(store.outbox_counts().pending, 20);
    let DeliveryState::Pending { .. } = store.delivery(&ops(1)).unwrap().unwrap().state else { panic!("waits") };
    let told = store.delivery(&ops(1)).unwrap().unwrap().last_error.unwrap();
    assert!(told.contains("was not reached") && !told.contains("/hook"), "{told}");
    let mut receiver = receiver_at(address, always(StatusCode::OK)).await;
    let dispatcher = Dispatcher::start(store.clone(), routes, Time::now);
    let mut keys = Vec::new();
    for _ in 0..20 {
        let heard = receiver.heard.recv().await.unwrap();
        assert_eq!(heard.body["delivery"], format!("{}:ops", heard.key()));
        keys.push(heard.key().to_string());
    }
    until(&dispatcher, |counts| counts.delivered == 20).await;
    dispatcher.stop().await;
    keys.sort();
    wanted.sort();
    assert_eq!(keys, wanted, "each once, under its own id");
    assert!(receiver.heard.try_recv().is_err());
}

#[tokio::test]
async fn a_retry_has_the_same_ids_and_a_higher_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut n_requests = 0;
    let mut receiver = receiver_at(anywhere(), move |_| {
        n_requests += 1;
        let busy = (StatusCode::TOO_MANY_REQUESTS, vec![(axum::http::header::RETRY_AFTER, "0".to_string())]);
        if n_requests < 3 { busy } else { (StatusCode::OK, Vec::new()) }
    })
    .await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let routes = routes(dir.path(), receiver.address, quick());
    let dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
    store.record_anomalies(vec![finding(1, Severity::Critical)], &routes.names()).unwrap();
    let mut ids = Vec::new();
    for attempt in 1..=3 {
        let heard = receiver.heard.recv().await.unwrap();
        assert_eq!(heard.body["attempt"], attempt);
        ids.push((heard.key().to_string(), heard.body["delivery"].clone()));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let counts = until(&dispatcher, |counts| counts.delivered == 1).await;
    assert_eq!((counts.attempts, counts.retried), (3, 2));
}

fn busy_for_long() -> (StatusCode, Vec<(HeaderName, String)>) {
    (StatusCode::SERVICE_UNAVAILABLE, vec![(axum::http::header::RETRY_AFTER, "3000".to_string())])
}

#[tokio::test]
async fn retry_after_is_followed_and_for_what_is_critical_only_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver_at(anywhere(), move |_| busy_for_long()).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let routes = routes(dir.path(), receiver.address, quick());
    let findings = vec![finding(1, Severity::Critical), finding(2, Severity::Warning)];
    store.record_anomalies(findings, &routes.names()).unwrap();
    let started = Time::now();
    let dispatcher = Dispatcher::start(store.clone(), routes, Time::now);
    until(&dispatcher, |counts| counts.retried == 2).await;
    for (seq, wanted) in [(1, 300), (2, 3000)] {
        let delivery = store.delivery(&ops(seq)).unwrap().unwrap();
        let DeliveryState::Pending { next_attempt } = delivery.state else { panic!("{delivery:?}") };
        let wait = next_attempt.since(started).as_secs();
        assert!((wanted..wanted + 30).contains(&wait), "delivery {seq} waits {wait} s");
    }
    dispatcher.stop().await;
}

/// The whole route pauses while its receiver is busy. A receiver that asks for an hour must not
/// silence what becomes critical meanwhile.
#[tokio::test]
async fn a_receiver_that_asks_for_an_hour_gets_what_is_critical_before() {
    let dir = tempfile::tempdir().unwrap();
    let is_warning = |body: &Value| body["finding"]["severity"] == "warning";
    let receiver =
        receiver_at(anywhere(), move |body| if is_warning(body) { busy_for_long() } else { (StatusCode::OK, Vec::new()) }).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let policy = RetryPolicy { max_retry_after_critical: Duration::from_millis(50), ..quick() };
    let routes = routes(dir.path(), receiver.address, policy);
    store.record_anomalies(vec![finding(1, Severity::Warning)], &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
    until(&dispatcher, |counts| counts.retried == 1).await;
    store.record_anomalies(vec![finding(2, Severity::Critical)], &routes.names()).unwrap();
    let counts = tokio::time::timeout(Duration::from_secs(60), until(&dispatcher, |counts| counts.delivered == 1)).await;
    assert_eq!(counts.expect("within a minute").retried, 1, "the warning waits as long as was asked");
    dispatcher.stop().await;
}

/// A clock that can be set, for one test.
static CLOCK_AHEAD_SECONDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

fn wrong_clock() -> Time {
    Time::now().after(Duration::from_secs(CLOCK_AHEAD_SECONDS.load(std::sync::atomic::Ordering::SeqCst)))
}

#[tokio::test]
async fn a_clock_that_was_ahead_holds_nothing_back_when_it_is_right_again() {
    let set = |seconds| CLOCK_AHEAD_SECONDS.store(seconds, std::sync::atomic::Ordering::SeqCst);
    let dir = tempfile::tempdir().unwrap();
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = is_up.clone();
    let answer = move || if up.load(std::sync::atomic::Ordering::SeqCst) { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let receiver = receiver_at(anywhere(), move |_| (answer(), Vec::new())).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let routes = routes(dir.path(), receiver.address, quick());
    let ahead = |nth: u64| Finding { recorded_at: wrong_clock(), ..finding(nth, Severity::Critical) };
    let delivered = async |dispatcher: &Dispatcher, n: u64| {
        let waited = until(dispatcher, |counts| counts.delivered == n);
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("within a minute, and not in four hours");
    };
    // It is set right while the watcher runs, between two attempts.
    set(4 * 3600);
    store.record_anomalies(vec![ahead(1)], &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store.clone(), routes.clone(), wrong_clock);
    until(&dispatcher, |counts| counts.retried >= 1).await;
    set(0);
    is_up.store(true, std::sync::atomic::Ordering::SeqCst);
    delivered(&dispatcher, 1).await;
    dispatcher.stop().await;
    // It is set right while the watcher does not run.
    set(4 * 3600);
    store.record_anomalies(vec![ahead(2)], &routes.names()).unwrap();
    set(0);
    let dispatcher = Dispatcher::start(store.clone(), routes, wrong_clock);
    delivered(&dispatcher, 1).await;
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 0, delivered: 2, given_up: 0 });
    dispatcher.stop().await;
}

#[tokio::test]
async fn no_is_taken_for_an_answer_and_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let poisoned = finding(1, Severity::Critical);
    let id = poisoned.id.to_string();
    let mut receiver = receiver_at(anywhere(), move |body| {
        let refused = body["finding"]["id"] == id.as_str();
        (if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, Vec::new())
    })
    .await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let routes = routes(dir.path(), receiver.address, RetryPolicy { max_refusals: 3, ..quick() });
    let rest = (2..=12).map(|nth| finding(nth, Severity::Critical));
    store.record_anomalies(std::iter::once(poisoned).chain(rest).collect(), &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store.clone(), routes, Time::now);
    let counts = until(&dispatcher, |counts| counts.delivered + counts.given_up == 12).await;
    assert_eq!(counts, RouteCounts { attempts: 14, delivered: 11, retried: 2, given_up: 1, store_errors: 0 });
    let DeliveryState::GivenUp { reason, .. } = store.delivery(&ops(1)).unwrap().unwrap().state else { panic!("given up") };
    assert!(reason.starts_with("refused 3 times, last: http://127.0.0.1"), "{reason}");
    assert!(reason.ends_with("422 Unprocessable Entity"), "{reason}");
    let mut n_heard = 0;
    while receiver.heard.try_recv().is_ok() {
        n_heard += 1;
    }
    assert_eq!(n_heard, 14);
}

/// A refusal is not an outage: each delivery is given up after its own eight refusals, however many
/// others wait. With a pause for the whole route, 12 attempts in 18 minutes were those of 12
/// deliveries, and none was given up.
#[tokio::test]
async fn a_receiver_that_refuses_everything_is_given_up_delivery_by_delivery() {
    const N: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver_at(anywhere(), always(StatusCode::BAD_REQUEST)).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    // The real policy, a hundred times as fast: its eighth refusal comes at most 2.5 s after the
    // first.
    let real = RetryPolicy::DEFAULT;
    let fast = |length: Duration| length / 100;
    let policy = RetryPolicy { pauses: Backoff::new(fast(real.pauses.first), fast(real.pauses.greatest)), ..real };
    let routes = routes(dir.path(), receiver.address, policy);
    store.record_anomalies((1..=N).map(|nth| finding(nth, Severity::Critical)).collect(), &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store.clone(), routes, Time::now);
    let ended = until(&dispatcher, |counts| counts.given_up == N);
    let counts = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("100 times as fast as four minutes");
    let refusals = u64::from(policy.max_refusals);
    assert_eq!((counts.attempts, counts.retried), (N * refusals, N * (refusals - 1)));
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 0, delivered: 0, given_up: N });
    dispatcher.stop().await;
}

/// 5 000 findings about a key that cannot be slashed any more wait already when a watched key signs
/// a conflicting message.
#[tokio::test]
async fn a_watched_keys_alert_goes_before_thousands_of_worthless_ones() {
    const WORTHLESS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = receiver_at(anywhere(), always(StatusCode::OK)).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let routes = routes(dir.path(), receiver.address, quick());
    let worthless = (0..WORTHLESS).map(|nth| offence(999, nth, &[], Punishable::Withdrawable)).collect();
    store.record(worthless, &routes.names()).unwrap();
    let stranger = offence(7, 1, &[], Punishable::Yes);
    let watched = offence(5, 1, &["group=acme"], Punishable::Yes);
    let wanted = [&watched, &stranger].map(|(finding, _)| finding.id.to_string());
    store.record(vec![stranger, watched], &routes.names()).unwrap();
    let side_by_side = routes.policy().concurrency;
    let dispatcher = Dispatcher::start(store.clone(), routes, Time::now);
    let mut first = Vec::new();
    for _ in 0..side_by_side {
        first.push(receiver.heard.recv().await.unwrap().key().to_owned());
    }
    // Deliveries are sent concurrently, so the order within the first few is not defined.
    assert!(wanted.iter().all(|id| first.contains(id)), "{first:?}");
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_delivery_names_its_network_and_tells_people_what_it_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = receiver_at(anywhere(), always(StatusCode::OK)).await;
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let network = NetworkName { name: "hoodi".into(), genesis_validators_root: Some(NETWORK) };
    let note =
        SwitchNote { group: "acme".into(), fires: false, reason: Some("nobody can punish it any more".into()), result: None };
    let context = Context {
        network,
        public_url: Some("https://watch.example.org/".into()),
        switches: Some(Arc::new(move |_: &Finding, _: Time| vec![note.clone()])),
        ..Context::default()
    };
    let routes = routes(dir.path(), receiver.address, quick()).about(context);
    let found = offence(5, 1, &["group=acme"], Punishable::AlreadySlashed);
    let id = found.0.id;
    store.record(vec![found], &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store, routes.clone(), Time::now);
    let heard = receiver.heard.recv().await.unwrap().body;
    assert_eq!(heard["network"], serde_json::json!({ "name": "hoodi", "genesis_validators_root": NETWORK.to_string() }));
    assert_eq!(heard["link"], format!("https://watch.example.org/findings/{id}"));
    assert_eq!(
        heard["kill_switches"],
        serde_json::json!([{ "group": "acme", "fires": false, "reason": "nobody can punish it any more" }])
    );
    let text = heard["text"].as_str().unwrap();
    assert!(text.starts_with("hoodi: double vote by validator 5 (0x"), "{text}");
    assert!(text.ends_with("The kill switch of group acme does not fire: nobody can punish it any more."), "{text}");
    dispatcher.stop().await;
    routes.test("ops", Time::now()).await.unwrap().result.unwrap();
    let test = receiver.heard.recv().await.unwrap().body;
    assert_eq!((&test["network"]["name"], &test["link"]), (&"hoodi".into(), &"https://watch.example.org/".into()));
}

/// The nth double vote of a validator.
fn offence(validator: u64, nth: u64, labels: &[&str], punishable: Punishable) -> (Finding, Arc<Evidence>) {
    let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, nth.to_le_bytes().to_vec(), ().into());
    let mut root = [0; 32];
    root[..8].copy_from_slice(&(nth + 1).to_le_bytes());
    let facts = OffenceFacts {
        validator: ValidatorIndex::new(validator),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        roots: [Root::ZERO, Root::from(root)],
        recorded_at: Time::now(),
        punishable,
        ..OffenceFacts::sample()
    };
    // The route accepts critical findings only. An offence that cannot be punished is critical only
    // for watched keys.
    let finding = Finding { severity: Severity::Critical, ..Finding::slashable(facts, &evidence) };
    (finding, Arc::new(evidence))
}

#[tokio::test]
async fn a_receiver_that_never_answers_delays_no_recording_and_no_stop() {
    let dir = tempfile::tempdir().unwrap();
    // This socket accepts connections into its backlog and never answers.
    let silent = TcpListener::bind(anywhere()).await.unwrap();
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let policy = RetryPolicy { timeout: Duration::from_secs(3600), grace: Duration::from_millis(10), ..quick() };
    let routes = routes(dir.path(), silent.local_addr().unwrap(), policy);
    let dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
    store.record_anomalies(vec![finding(1, Severity::Critical)], &routes.names()).unwrap();
    let (_held, _) = silent.accept().await.unwrap();
    for nth in 2..100 {
        store.record_anomalies(vec![finding(nth, Severity::Critical)], &routes.names()).unwrap();
    }
    tokio::time::timeout(Duration::from_secs(30), dispatcher.stop()).await.expect("ends after its grace");
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 99, delivered: 0, given_up: 0 });
    assert_eq!(store.delivery(&ops(1)).unwrap().unwrap().attempts, 0, "to be made again");
}

#[tokio::test]
async fn a_test_message_says_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = receiver_at(anywhere(), always(StatusCode::OK)).await;
    let routes = routes(dir.path(), receiver.address, quick());
    let report = routes.test("ops", Time::now()).await.unwrap();
    assert_eq!(report.result.unwrap(), format!("http://{} answered 200 OK", receiver.address));
    let heard = receiver.heard.recv().await.unwrap();
    assert_eq!((&heard.body["test"], &heard.body["finding"]), (&Value::Bool(true), &Value::Null));

    let unknown = routes.test("opps", Time::now()).await.unwrap_err().to_string();
    assert!(unknown.contains("there are: ops"), "{unknown}");
    receiver.server.abort();
    let _ = receiver.server.await;
    let away = routes.test("ops", Time::now()).await.unwrap().result.unwrap_err();
    assert!(away.contains("was not reached") && away.contains("check the route's address"), "{away}");
}

#[tokio::test]
async fn a_wrong_secret_shows_in_the_test_message() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver_at(anywhere(), always(StatusCode::OK)).await;
    let path = dir.path().join("wrong");
    std::fs::write(&path, "another secret").unwrap();
    let sink = webhook(&format!("http://{}/hook", receiver.address), &path);
    let routes = Routes::new(&[RouteConfig::new("ops", sink)], quick()).unwrap();
    let refused = routes.test("ops", Time::now()).await.unwrap().result.unwrap_err();
    assert!(refused.contains("401 Unauthorized") && refused.contains("its secret"), "{refused}");
    assert!(!format!("{routes:?}").contains("another secret"));
}

#[test]
fn all_problems_of_the_routes_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let route = |name: &str, url: &str| RouteConfig::new(name, webhook(url, &secret));
    let configs = [
        route("a", "https://example.org/x"),
        route("a", "https://example.org/x"),
        route("b c", "https://example.org/x"),
        route("d", "ftp://example.org"),
        route("e", "nonsense"),
    ];
    let told: Vec<String> = Routes::new(&configs, RetryPolicy::DEFAULT).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    for (problem, word) in told.iter().zip(["twice", "b c", "neither http nor https", "not valid"]) {
        assert!(problem.contains(word), "{problem}");
    }
}
