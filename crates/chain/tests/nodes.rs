//! Tests with a set of beacon nodes, some of which misbehave.
#![allow(clippy::unwrap_used)]

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chain::node::{BlockId, NodeConfig, NodeError, NodeSet, ResponseLimits, StateId};
use consensus::{Epoch, ForkName, Root, SignedBlock, Slot, Spec, ValidatorIndex};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// Returns the URL of a port on which nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn quick() -> NodeConfig {
    NodeConfig {
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(500),
        move_on_after: Duration::from_millis(500),
        request_timeout: Duration::from_millis(500),
        state_timeout: Duration::from_secs(2),
        state_window: Duration::from_millis(100),
        least_state_bytes: 1_000,
        rounds: 2,
        pauses: base::Backoff::new(Duration::from_millis(1), Duration::from_millis(1)),
        limits: ResponseLimits { small_bytes: 100_000, block_bytes: 2_000_000, state_bytes: 5_000_000 },
    }
}

fn set(urls: &[&String]) -> NodeSet {
    NodeSet::new(&urls.iter().map(|url| (*url).clone()).collect::<Vec<_>>(), quick()).unwrap()
}

fn genesis_router(asked: Arc<AtomicUsize>) -> Router {
    Router::new().route(
        "/eth/v1/beacon/genesis",
        get(move || async move {
            asked.fetch_add(1, Ordering::Relaxed);
            Json(json!({"data": {"genesis_time": "1606824023", "genesis_validators_root": Root::repeat_byte(7), "genesis_fork_version": "0x00000001"}}))
        }),
    )
}

fn failing_router(asked: Arc<AtomicUsize>, status: StatusCode) -> Router {
    Router::new().fallback(move || async move {
        asked.fetch_add(1, Ordering::Relaxed);
        (status, "{\"code\":500,\"message\":\"database on fire\"}")
    })
}

#[tokio::test]
async fn the_next_node_is_asked_and_then_kept() {
    let (bad_asked, good_asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let dead = nobody().await;
    let bad = serve(failing_router(bad_asked.clone(), StatusCode::INTERNAL_SERVER_ERROR)).await;
    let good = serve(genesis_router(good_asked.clone())).await;
    let nodes = set(&[&dead, &bad, &good]);
    for _ in 0..3 {
        let genesis = nodes.genesis().await.unwrap();
        assert_eq!((genesis.genesis_time, genesis.genesis_validators_root), (1_606_824_023, Root::repeat_byte(7)));
    }
    assert_eq!((bad_asked.load(Ordering::Relaxed), good_asked.load(Ordering::Relaxed)), (1, 3));
}

#[tokio::test]
async fn when_all_fail_every_node_and_what_to_do_is_named() {
    let asked = Arc::new(AtomicUsize::new(0));
    let dead = nobody().await;
    let bad = serve(failing_router(asked.clone(), StatusCode::INTERNAL_SERVER_ERROR)).await;
    let error = set(&[&dead, &bad]).genesis().await.unwrap_err().to_string();
    assert!(error.contains(&dead) && error.contains(&bad), "{error}");
    assert!(error.contains("database on fire") && error.contains("check that it runs"), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "two rounds");
}

#[tokio::test]
async fn a_node_that_hangs_is_left() {
    let slow = serve(Router::new().fallback(|| async { std::future::pending::<()>().await })).await;
    let error = set(&[&slow]).syncing().await.unwrap_err();
    assert!(matches!(error, NodeError::Unreachable { .. }) && error.to_string().contains("timed out"), "{error}");
    let good = serve(genesis_router(Arc::default())).await;
    set(&[&slow, &good]).genesis().await.unwrap();
}

/// All else would wait for minutes: what is told apart is who begins to answer.
fn patient() -> NodeConfig {
    let long = Duration::from_secs(600);
    NodeConfig {
        read_timeout: long,
        request_timeout: long,
        state_timeout: long,
        move_on_after: Duration::from_millis(100),
        ..quick()
    }
}

#[tokio::test]
async fn the_next_node_is_asked_long_before_a_hanging_ones_time_is_over() {
    let slow = serve(Router::new().fallback(|| async { std::future::pending::<()>().await })).await;
    let state = Router::new().route("/eth/v2/debug/beacon/states/finalized", get(|| async { vec![7u8; 1000] }));
    let good = serve(genesis_router(Arc::default()).merge(state)).await;
    let nodes = NodeSet::new(&[slow, good], patient()).unwrap();
    let asked = std::time::Instant::now();
    assert_eq!(nodes.state_ssz(StateId::Finalized).await.unwrap().len(), 1000);
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
}

/// A node that takes longer than others are kept waiting for, and is the only one that has the
/// answer.
#[tokio::test]
async fn a_slow_node_is_given_its_time_once_nobody_else_answers() {
    let late = get(|| async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Json(
            json!({"data": {"genesis_time": "7", "genesis_validators_root": Root::repeat_byte(7), "genesis_fork_version": "0x00000001"}}),
        )
    });
    let slow = serve(Router::new().route("/eth/v1/beacon/genesis", late)).await;
    // One that is away, and one that answers with 404 because it lacks what is asked for.
    for other in [nobody().await, serve(Router::new()).await] {
        let nodes = NodeSet::new(&[slow.clone(), other], patient()).unwrap();
        assert_eq!(nodes.genesis().await.unwrap().genesis_time, 7);
    }
}

#[tokio::test]
async fn who_did_not_say_its_network_is_asked_after_the_others() {
    let asked = Arc::new(AtomicUsize::new(0));
    let bad = serve(failing_router(asked.clone(), StatusCode::INTERNAL_SERVER_ERROR)).await;
    let spec = Router::new().route(
        "/eth/v1/config/spec",
        get(|| async { Json(json!({"data": {"PRESET_BASE": "mainnet", "CONFIG_NAME": "mainnet"}})) }),
    );
    let good = serve(genesis_router(Arc::default()).merge(spec)).await;
    let nodes = set(&[&bad, &good]);
    let networks = nodes.networks().await;
    assert!(networks[0].1.is_err() && networks[1].1.is_ok(), "{networks:?}");
    let before = asked.load(Ordering::Relaxed);
    nodes.genesis().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), before, "it was asked first all the same");
}

#[tokio::test]
async fn answers_are_bounded_whatever_they_announce() {
    let flood = Router::new().route("/eth/v1/node/syncing", get(|| async { vec![b' '; 200_000] })).route(
        "/eth/v1/node/identity",
        get(|| async {
            // The body has no announced length and no end.
            Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 10_000])))
        }),
    );
    let nodes = set(&[&serve(flood).await]);
    assert!(matches!(nodes.syncing().await, Err(NodeError::TooLarge { limit: 100_000, .. })));
    assert!(matches!(nodes.identity().await, Err(NodeError::TooLarge { .. })));
}

#[tokio::test]
async fn nonsense_is_refused_and_the_next_node_asked() {
    let liar = serve(
        Router::new().fallback(|| async { Json(json!({"data": {"genesis_time": "-1", "genesis_validators_root": "0x12"}})) }),
    )
    .await;
    let good = serve(genesis_router(Arc::default())).await;
    assert!(matches!(set(&[&liar]).genesis().await, Err(NodeError::Malformed { .. })));
    set(&[&liar, &good]).genesis().await.unwrap();
}

#[tokio::test]
async fn addresses_are_checked_and_passwords_not_shown() {
    for (url, reason) in [
        ("ftp://host", "http and https"),
        ("host:80", "http and https"),
        ("http://", "write it like"),
        ("http://h/?q=1", "query"),
    ] {
        let error = NodeSet::new(&[url.to_owned()], NodeConfig::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(NodeSet::new(&[], NodeConfig::default()).is_err());
    let host = nobody().await.replace("http://", "http://user:secret@");
    let nodes = set(&[&host]);
    let error = nodes.genesis().await.unwrap_err().to_string();
    assert!(!error.contains("secret") && !nodes.label(0).contains("secret"), "{error}");
}

/// The address of an explorer, or the login page of a proxy. It is detected for every request and
/// for every status of a refusal.
#[tokio::test]
async fn a_web_page_is_named_as_that() {
    let page = "\n<!DOCTYPE html><html><head><title>Explorer</title></head></html>";
    let html = || async { axum::response::Html("<html></html>") };
    let unlabelled = serve(Router::new().fallback(move || async move { page })).await;
    let labelled = serve(Router::new().fallback(html)).await;
    let missing = serve(Router::new().fallback(move || async move { (StatusCode::NOT_FOUND, page) })).await;
    for url in [&unlabelled, &labelled, &missing] {
        let nodes = set(&[url]);
        let errors = [
            nodes.genesis().await.unwrap_err(),
            nodes.config_spec().await.unwrap_err(),
            nodes.state_ssz(StateId::Finalized).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, NodeError::WebPage { .. }) && !error.is_transient(), "{error}");
            assert!(error.to_string().contains(url) && error.to_string().contains("web page"), "{error}");
        }
    }
    // A proxy whose node is down may reach it again in a moment.
    let gateway = serve(Router::new().fallback(move || async move { (StatusCode::BAD_GATEWAY, page) })).await;
    assert!(set(&[&gateway]).genesis().await.unwrap_err().is_transient());
    let good = serve(genesis_router(Arc::default())).await;
    set(&[&labelled, &good]).genesis().await.unwrap();
}

fn spec(network: &str) -> Spec {
    Spec::from_yaml(&test_support::text(&format!("vectors/networks/{network}/config.yaml"))).unwrap()
}

/// A real Capella block: from a node that serves only JSON (Lodestar 1.5.1), from a node that
/// serves SSZ, and from a node that does not have it.
#[tokio::test]
async fn blocks_come_as_ssz_or_as_json() {
    let spec = spec("mainnet");
    let document = test_support::json("vectors/mainnet_blocks/slot_7109344.capella.signed_block.json");
    let data = document.get("data").cloned().unwrap_or(document);
    let ssz = SignedBlock::ssz_from_json(ForkName::Capella, &spec.preset, &data).unwrap();
    let expected = SignedBlock::from_ssz(ForkName::Capella, &spec.preset, &ssz).unwrap();

    let path = "/eth/v2/beacon/blocks/{id}";
    let as_json = move |with_version: bool, data: Value| {
        move || async move { Json(if with_version { json!({"version": "capella", "data": data}) } else { json!({"data": data}) }) }
    };
    let with_version = serve(Router::new().route(path, get(as_json(true, data.clone())))).await;
    let without = serve(Router::new().route(path, get(as_json(false, data.clone())))).await;
    let body = ssz.clone();
    let as_ssz = serve(Router::new().route(
        path,
        get(|| async move {
            (
                [
                    (header::CONTENT_TYPE, "application/octet-stream"),
                    (header::HeaderName::from_static("eth-consensus-version"), "capella"),
                ],
                body,
            )
        }),
    ))
    .await;
    let picky_data = data.clone();
    let picky = serve(Router::new().route(
        path,
        get(|headers: HeaderMap| async move {
            let wants_ssz = headers[header::ACCEPT].to_str().unwrap().contains("octet");
            if wants_ssz {
                StatusCode::NOT_ACCEPTABLE.into_response()
            } else {
                Json(json!({"version": "capella", "data": picky_data})).into_response()
            }
        }),
    ))
    .await;
    for url in [&with_version, &without, &as_ssz, &picky] {
        let block = set(&[url]).block_ssz(BlockId::Root(expected.root), &spec).await.unwrap().unwrap();
        assert_eq!((block.fork, &block.ssz), (ForkName::Capella, &ssz));
    }

    let empty = serve(failing_router(Arc::default(), StatusCode::NOT_FOUND)).await;
    let dead = nobody().await;
    assert_eq!(set(&[&empty]).block_ssz(BlockId::Head, &spec).await.unwrap(), None);
    assert_eq!(set(&[&dead, &empty]).block_ssz(BlockId::Head, &spec).await.unwrap(), None);
    assert!(set(&[&dead]).block_ssz(BlockId::Head, &spec).await.is_err());
    assert!(set(&[&empty, &as_ssz]).block_ssz(BlockId::Head, &spec).await.unwrap().is_some(), "another node has it");

    let mut broken = data;
    broken["message"]["body"] = json!({"graffiti": "0x"});
    let liar =
        serve(Router::new().route(path, get(move || async move { Json(json!({"version": "capella", "data": broken})) }))).await;
    let error = set(&[&liar]).block_ssz(BlockId::Head, &spec).await.unwrap_err();
    assert!(matches!(error, NodeError::Malformed { .. }) && error.to_string().contains(&liar), "{error}");
}

#[tokio::test]
async fn states_come_as_ssz_only() {
    let states = Router::new().route(
        "/eth/v2/debug/beacon/states/{id}",
        get(|Path(id): Path<String>, headers: HeaderMap| async move {
            assert_eq!(headers[header::ACCEPT], "application/octet-stream");
            match id.as_str() {
                "finalized" => ([(header::CONTENT_TYPE, "application/octet-stream")], vec![1u8, 2, 3]).into_response(),
                "head" => Json(json!({"data": {}})).into_response(),
                _ => vec![0u8; 6_000_000].into_response(),
            }
        }),
    );
    let nodes = set(&[&serve(states).await]);
    assert_eq!(nodes.state_ssz(StateId::Finalized).await.unwrap(), [1, 2, 3]);
    let error = nodes.state_ssz(StateId::Head).await.unwrap_err().to_string();
    assert!(error.contains("serves states as SSZ"), "{error}");
    assert!(matches!(nodes.state_ssz(StateId::Slot(Slot::new(3))).await, Err(NodeError::TooLarge { .. })));
}

/// A node that sends its state byte by byte would hold up a start for as long as it likes. It is
/// left, the error says why, and the next node is asked.
#[tokio::test]
async fn a_state_that_drips_is_given_up_and_the_next_node_asked() {
    let drip = |piece: Vec<u8>| {
        get(move || {
            let piece = piece.clone();
            async move {
                Body::from_stream(futures::stream::unfold(piece, |piece| async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((Ok::<_, std::io::Error>(piece.clone()), piece))
                }))
            }
        })
    };
    let path = "/eth/v2/debug/beacon/states/{id}";
    let dripping = serve(Router::new().route(path, drip(vec![7]))).await;
    // Slow, but fast enough. It has no end, so the limit ends it.
    let steady = serve(Router::new().route(path, drip(vec![7; 100_000]))).await;
    let good = Router::new().route(path, get(|| async { ([(header::CONTENT_TYPE, "application/octet-stream")], vec![1u8, 2]) }));
    let good = serve(good).await;
    let error = set(&[&dripping]).state_ssz(StateId::Finalized).await.unwrap_err();
    assert!(matches!(error, NodeError::TooSlow { least: 1_000, received: 1..1_000, .. }), "{error}");
    assert!(error.to_string().contains("too slowly") && error.to_string().contains(&dripping), "{error}");
    assert!(matches!(set(&[&steady]).state_ssz(StateId::Finalized).await, Err(NodeError::TooLarge { .. })));
    assert_eq!(set(&[&dripping, &good]).state_ssz(StateId::Finalized).await.unwrap(), [1, 2]);
}

/// The responses of a real node.
#[tokio::test]
async fn documents_of_sepolia_are_read() {
    let document = |name: &str| test_support::json(&format!("vectors/sepolia_live_2025-05-23/{name}.json"));
    let (spec, headers, validators) = (document("spec"), document("headers_by_slot"), document("validators_7687968"));
    let one = headers.as_object().unwrap().values().next().unwrap().clone();
    let router = Router::new()
        .route("/eth/v1/config/spec", get(move || async move { Json(spec) }))
        .route("/eth/v1/beacon/headers/{id}", get(move || async move { Json(one) }))
        .route(
            "/eth/v1/beacon/states/head/validators",
            get(move |Query(query): Query<HashMap<String, String>>| async move {
                let wanted: Vec<&str> = query["id"].split(',').collect();
                assert!(wanted.len() <= 64);
                let mut answer: Vec<Value> = validators["data"].as_array().unwrap().clone();
                answer.retain(|validator| wanted.contains(&validator["index"].as_str().unwrap()));
                Json(json!({"data": answer}))
            }),
        )
        .route(
            "/eth/v1/beacon/states/head/finality_checkpoints",
            get(|| async {
                let checkpoint = |epoch: &str| json!({"epoch": epoch, "root": Root::repeat_byte(1)});
                Json(json!({"data": {"previous_justified": checkpoint("8"), "current_justified": checkpoint("9"), "finalized": checkpoint("8")}}))
            }),
        )
        .route(
            "/eth/v1/node/syncing",
            get(|| async { Json(json!({"data": {"head_slot": "7", "sync_distance": "1", "is_syncing": false, "el_offline": true}})) }),
        )
        .route(
            "/eth/v1/node/identity",
            get(|| async {
                Json(json!({"data": {"peer_id": "16Uiu2", "enr": "enr:-x", "p2p_addresses": ["/ip4/127.0.0.1/tcp/9000"], "metadata": {"seq_number": "1"}}}))
            }),
        );
    let nodes = set(&[&serve(router).await]);

    let spec = nodes.config_spec().await.unwrap();
    assert_eq!((spec.config_name.as_str(), spec.preset.slots_per_epoch), ("sepolia", 32));
    assert_eq!(spec.fork_name_at(Epoch::new(240_249)), ForkName::Electra);

    let head = nodes.header(chain::node::BlockId::Head).await.unwrap().unwrap();
    assert_eq!(head.header.message.root(), head.root);
    assert_eq!(nodes.head_root().await.unwrap(), Some(head.root));

    let indices: Vec<ValidatorIndex> = (0..100).chain([5_000_000]).map(ValidatorIndex::new).collect();
    let statuses = nodes.validator_statuses(&indices).await.unwrap();
    assert_eq!(statuses.len(), 100, "two requests, one validator unknown");
    assert_eq!((statuses[99].index, statuses[0].status.as_str()), (ValidatorIndex::new(99), "active_ongoing"));

    assert_eq!(nodes.finality().await.unwrap().current_justified.epoch, Epoch::new(9));
    assert!(nodes.syncing().await.unwrap().el_offline);
    assert_eq!(nodes.identity().await.unwrap().p2p_addresses.len(), 1);
    assert_eq!(nodes.identities().await.len(), 1);
}

type Posts = Arc<Mutex<Vec<(String, Option<String>)>>>;

async fn pool(State(posts): State<Posts>, path: axum::http::Uri, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let version = headers.get("eth-consensus-version").map(|value| value.to_str().unwrap().to_owned());
    posts.lock().unwrap().push((path.path().to_owned(), version));
    match body["refuse"].as_bool() {
        Some(true) => (StatusCode::BAD_REQUEST, "attester slashing is not for us").into_response(),
        _ => StatusCode::OK.into_response(),
    }
}

#[tokio::test]
async fn slashings_go_to_every_node_and_to_v1_where_v2_is_unknown() {
    let (old, new): (Posts, Posts) = Default::default();
    let old_node = Router::new()
        .route("/eth/v1/beacon/pool/attester_slashings", post(pool))
        .route("/eth/v1/beacon/pool/proposer_slashings", post(pool))
        .with_state(old.clone());
    let new_node = Router::new()
        .route("/eth/v2/beacon/pool/attester_slashings", post(pool))
        .route("/eth/v1/beacon/pool/proposer_slashings", post(pool))
        .with_state(new.clone());
    let (dead, old_node, new_node) = (nobody().await, serve(old_node).await, serve(new_node).await);
    let nodes = set(&[&dead, &old_node, &new_node]);
    let taken = nodes.submit_attester_slashing(ForkName::Electra, &json!({})).await.unwrap();
    assert_eq!(taken, [old_node.clone(), new_node.clone()]);
    assert_eq!(*old.lock().unwrap(), [("/eth/v1/beacon/pool/attester_slashings".to_owned(), Some("electra".to_owned()))]);
    assert_eq!(*new.lock().unwrap(), [("/eth/v2/beacon/pool/attester_slashings".to_owned(), Some("electra".to_owned()))]);
    nodes.submit_proposer_slashing(ForkName::Electra, &json!({})).await.unwrap();
    assert_eq!(old.lock().unwrap().len(), 2);

    let error = nodes.submit_attester_slashing(ForkName::Electra, &json!({"refuse": true})).await.unwrap_err().to_string();
    assert!(error.contains("not for us") && error.contains(&new_node), "{error}");
}
