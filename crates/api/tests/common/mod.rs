//! Starts an API on loopback with an empty store, and builds findings for it.
#![allow(dead_code, reason = "each test file uses its part")]

use api::{ApiParts, Gap, Head, NodeState, Readiness, Status, StatusSource};
use consensus::{Checkpoint, Epoch, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Evidence, Finding, Kind, Severity, Store, Time};
use prometheus::{IntCounter, Registry};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
pub use test_support::http::anywhere;
use test_support::samples;
pub use test_support::samples::{NETWORK, labelled_offence};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Largest number of event streams of a test's API.
pub const MAX_STREAMS: usize = 4;
pub const MAX_CONNECTIONS: usize = 16;

pub struct Api {
    pub store: Store,
    pub status: Arc<TestStatus>,
    pub client: Client,
    pub stop: CancellationToken,
    pub serving: JoinHandle<Result<(), api::ApiError>>,
    scheme: &'static str,
    pub address: SocketAddr,
    /// Its tokens. There are none, and tokens are not in use, until a test makes one.
    pub tokens: api::TokenFile,
    _dir: TempDir,
}

/// How a test's API differs from that of other tests.
pub struct Options {
    pub listen: SocketAddr,
    pub header_timeout: std::time::Duration,
    pub own_keys: api::OwnKeys,
    pub max_streams: usize,
    pub max_connections: usize,
    pub read_needs_token: bool,
    pub requests_per_second: Option<std::num::NonZeroU32>,
    pub cors_origins: Vec<String>,
    pub tls: Option<api::TlsFiles>,
    pub observed: Arc<dyn api::ObservedSource>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: anywhere(),
            header_timeout: api::HEADER_TIMEOUT,
            own_keys: api::OwnKeys::Shown,
            max_streams: MAX_STREAMS,
            max_connections: MAX_CONNECTIONS,
            read_needs_token: false,
            requests_per_second: None,
            cors_origins: Vec::new(),
            tls: None,
            observed: Arc::new(TestObserved),
        }
    }
}

impl Api {
    pub async fn start() -> Self {
        Self::start_with(api::HEADER_TIMEOUT, api::OwnKeys::Shown).await
    }

    pub async fn start_with(header_timeout: std::time::Duration, own_keys: api::OwnKeys) -> Self {
        Self::start_at(anywhere(), header_timeout, own_keys).await
    }

    pub async fn start_at(listen: SocketAddr, header_timeout: std::time::Duration, own_keys: api::OwnKeys) -> Self {
        Self::start_as(Options { listen, header_timeout, own_keys, ..Options::default() }).await
    }

    pub async fn start_as(options: Options) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("evidence"), NETWORK).unwrap();
        let status = Arc::new(TestStatus { listening: AtomicBool::new(true) });
        let registry = Registry::new();
        let counter = IntCounter::new("test_counter", "of somebody else").unwrap();
        counter.inc_by(3);
        registry.register(Box::new(counter)).unwrap();
        let mut listener = api::bind(options.listen).await.unwrap();
        if let Some(files) = &options.tls {
            listener = listener.with_tls(files).unwrap();
        }
        let (scheme, address) = (listener.scheme(), SocketAddr::from(([127, 0, 0, 1], listener.address().port())));
        let stop = CancellationToken::new();
        let tokens = api::TokenFile::in_data_dir(dir.path());
        let parts = ApiParts {
            store: store.clone(),
            status: status.clone(),
            registry,
            max_streams: options.max_streams,
            max_connections: options.max_connections,
            header_timeout: options.header_timeout,
            watch: Arc::new(TestKeys),
            observed: options.observed,
            own_keys: options.own_keys,
            hosts: vec!["watch.example".into()],
            tokens: Some(tokens.clone()),
            read_needs_token: options.read_needs_token,
            requests_per_second: options.requests_per_second,
            proxies: Vec::new(),
            cors_origins: options.cors_origins,
        };
        let serving = tokio::spawn(api::serve(listener, parts, stop.clone()));
        Self { store, status, client: Client::new(), stop, serving, scheme, address, tokens, _dir: dir }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }
}

pub struct TestStatus {
    listening: AtomicBool,
}

impl TestStatus {
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::SeqCst);
    }
}

impl StatusSource for TestStatus {
    fn status(&self) -> Status {
        Status {
            version: "0.0.0".into(),
            network: "testnet".into(),
            genesis_validators_root: NETWORK,
            clock_slot: Slot::new(1000),
            head: Head { slot: Slot::new(999), root: NETWORK },
            finalized: Some(Checkpoint { epoch: Epoch::new(29), root: NETWORK }),
            peers: 12,
            gossip_peers: vec![api::PeerView {
                peer: "/ip4/10.0.0.5/tcp/9000".into(),
                agent: None,
                configured: true,
                connected: false,
                goodbye: None,
                next_attempt_seconds: None,
            }],
            connections: Some(api::Connections { inbound: 3, outbound: 9, known_nodes: Some(200), ..Default::default() }),
            validators: 64,
            stages: BTreeMap::from([("verify".into(), BTreeMap::from([("proven".into(), 5)]))]),
            index: BTreeMap::from([("votes".into(), 77)]),
            gaps: vec![Gap { from_slot: Slot::new(10), to_slot: Slot::new(20), reason: "not running".into() }],
            node: NodeState::Away { reason: "http://10.0.0.5:5052: timed out".into() },
            notices: vec!["configured peer /ip4/10.0.0.5/tcp/9000/p2p/16Uiu2 is not connected".into()],
            recording: false,
            data_dir: Some("/var/lib/slashwatch".into()),
        }
    }

    fn coverage(&self) -> Option<api::Coverage> {
        let row = |client: &str, peers, first_hand| api::ClientShare { client: client.into(), peers, first_hand };
        let label = |label: &str| api::LabelShare { label: label.into(), validators: 20, first_hand: 0.5 };
        Some(api::Coverage {
            epoch: Some(Epoch::new(30)),
            attested_gwei: consensus::Gwei::new(2_048_000_000_000),
            first_hand: Some(0.3125),
            last_epoch: Some(0.25),
            claimed: Some(0.3125),
            votes_needed: 2,
            epochs: 8,
            peers: 9,
            by_client: vec![row("lighthouse", 8, 0.25), row("lodestar", 1, 0.0625)],
            by_label: vec![label("pool=b"), label("group=acme")],
            punished: api::Punished { days: 30, validators: 4, heard: 3 },
            peering: Some(api::Peering::new("16Uiu2", &["/ip4/10.0.0.9/tcp/9000".to_owned()])),
            ..api::Coverage::default()
        })
    }

    fn readiness(&self) -> Readiness {
        let listening = self.listening.load(Ordering::SeqCst);
        Readiness {
            listening,
            context_loaded: true,
            index_open: true,
            last_message: Some(Time::from_unix_ns(7_000_000_000)),
            since: (!listening).then_some(Time::from_unix_ns(7_000_000_000)),
            advice: if listening { Vec::new() } else { vec!["give peers; http://10.0.0.5:5052 answers nothing".into()] },
        }
    }
}

/// Asserts that the answer has this status and is a problem whose detail contains `word`.
pub async fn assert_problem(answer: Response, status: StatusCode, word: &str) {
    let place = answer.url().path().to_owned();
    assert_eq!(answer.status(), status, "{place}");
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{place}");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{place}");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16(), "{place}");
    assert!(problem["type"].as_str().unwrap().starts_with("urn:slashwatch:problem:"), "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].as_str().unwrap().contains(word), "{place}: {problem}");
}

/// A double vote of a validator whose label looks like HTML.
pub fn double_vote(validator: u64, slot: u64) -> (Finding, Arc<Evidence>) {
    labelled_offence(Offence::DoubleVote, validator, slot, &["<b>ours=1</b>"])
}

/// An anomaly with a detail.
pub fn anomaly(kind: Kind, severity: Severity, slot: u64) -> Finding {
    let details = Map::from_iter([("ahead_slots".into(), json!("1200"))]);
    Finding { details: Some(details), ..samples::anomaly(kind, severity, slot) }
}

/// A group of 25 keys. Every fifth key misses its duties.
pub struct TestKeys;

impl TestKeys {
    /// In slot 1000 one key has voted for epoch 33, two for the current one.
    fn signed() -> api::SignedView {
        let network = api::ObservedSource::network(&TestObserved);
        let mut signed = api::SignedView::default();
        for (slot, source) in [(990, 29), (1000, 30), (1060, 30)] {
            signed.add(Slot::new(slot), Some(Epoch::new(source)), Slot::new(1000), &network);
        }
        signed
    }
}

impl api::WatchSource for TestKeys {
    fn groups(&self) -> Vec<api::WatchGroup> {
        let kill_switch = api::KillSwitchView {
            state: "ready".into(),
            dry_run: false,
            finding: None,
            kind: None,
            ordered_at: None,
            attempts: 0,
            took_ms: None,
            answer: None,
            after_stop: None,
            armed_again_at: Some(Time::from_unix_ns(200)),
            earlier: None,
            held_back: None,
        };
        vec![api::WatchGroup {
            name: "acme".into(),
            validators: 25,
            unknown_keys: 1,
            missing: 5,
            missed_in_a_row: 3,
            effectiveness: Some(0.987),
            first_hand: Some(api::GroupHeard {
                heard: 24,
                since: Some(Time::from_unix_ns(7_000_000_000)),
                peers: 9,
                missing: vec![ValidatorIndex::new(7)],
            }),
            kill_switch: Some(kill_switch),
            labels: vec!["operator=a".into()],
            indices: api::index_ranges((0..25).map(ValidatorIndex::new)),
            signed: Some(Self::signed()),
        }]
    }

    fn keys(&self, after: Option<ValidatorIndex>, wanted: &api::KeyFilter, limit: usize) -> api::WatchPage {
        let key = |index: u64| api::WatchedKey {
            index: ValidatorIndex::new(index),
            pubkey: PubkeyBytes::repeat_byte(index as u8),
            groups: vec!["acme".into()],
            labels: vec!["group=acme".into()],
            duty: "active".into(),
            state: "active_ongoing".into(),
            effective_balance: consensus::Gwei::new(32_000_000_000),
            last_vote: Some(Slot::new(900 + index)),
            missed_in_a_row: if index.is_multiple_of(5) { 3 } else { 0 },
            duties: 64,
            voted: 61,
            proposals: 2,
            proposed: 1,
            effectiveness: Some(0.95),
        };
        let first = after.map_or(0, |after| after.as_u64() + 1);
        let has_label = wanted.label.as_ref().is_none_or(|label| label == "group=acme");
        let is_wanted = |key: &api::WatchedKey| has_label && key.missed_in_a_row >= wanted.missed_in_a_row;
        let matching: Vec<_> = (first..25).map(key).filter(is_wanted).collect();
        api::WatchPage { has_more: matching.len() > limit, keys: matching.into_iter().take(limit).collect() }
    }

    fn groups_of(&self, validator: ValidatorIndex) -> Vec<String> {
        if validator.as_u64() < 25 { vec!["acme".into()] } else { Vec::new() }
    }

    /// Nothing is reported yet of the keys with the label `operator=new`.
    fn has_label(&self, label: &str) -> bool {
        label == "group=acme" || label == "operator=new"
    }

    fn is_private(&self, label: &str) -> bool {
        !label.starts_with("pool=")
    }

    /// All keys but 8 are in a list of other people's keys too.
    fn listed_labels(&self, validator: ValidatorIndex) -> Vec<String> {
        if validator == ValidatorIndex::new(8) { Vec::new() } else { vec!["pool=blue".into()] }
    }
}

/// A network on which three validators vote for a slot with two blocks of one proposer. What came
/// before slot 900 is stored, the rest is in memory.
pub struct TestObserved;

impl TestObserved {
    fn slot(slot: u64, origin: api::SlotSource) -> api::ObservedSlot {
        let network = api::ObservedSource::network(&Self);
        let block = |byte: u8, offset_ms: u64| api::ObservedBlock {
            root: Root::repeat_byte(byte),
            parent: Root::repeat_byte(1),
            proposer: ValidatorIndex::new(7),
            client: Some("teku"),
            heard: api::Heard {
                at: Time::from_unix_ns(network.slot_start_ns(Slot::new(slot)) + offset_ms * 1_000_000),
                source: "gossip",
            },
            attestations: Some(3),
            is_backed: Some(true),
        };
        let label = |label: &str| api::LabelVotes { label: label.into(), votes: 2 };
        let votes = |byte: u8, votes: u64| api::ObservedVotes {
            head: Root::repeat_byte(byte),
            source: Checkpoint { epoch: Epoch::new(29), root: NETWORK },
            target: Checkpoint { epoch: Epoch::new(30), root: NETWORK },
            tally: api::VoteTally {
                votes,
                stake_gwei: Some(consensus::Gwei::new(votes * 32_000_000_000)),
                by_client: vec![api::ClientVotes { client: "teku", votes }],
                by_label: vec![label("group=acme"), label("pool=blue")],
                labels_partial: false,
            },
        };
        api::ObservedSlot {
            slot: Slot::new(slot),
            blocks: vec![block(2, 1500), block(3, 4500)],
            votes: vec![votes(2, 2), votes(9, 1)],
            voters: 3,
            voters_in_blocks: Some(2),
            by_client: vec![api::ClientVotes { client: "teku", votes: 3 }],
            seats: Some(4),
            origin,
            ..api::ObservedSlot::default()
        }
    }
}

impl api::ObservedSource for TestObserved {
    fn network(&self) -> Arc<consensus::Network> {
        Arc::new(consensus::Network::builtin("mainnet").unwrap())
    }

    fn recent(&self) -> Arc<api::Recent> {
        let block = |byte: u8, parent: u8, slot: u64| api::TreeBlock {
            root: Root::repeat_byte(byte),
            parent: Some(Root::repeat_byte(parent)),
            slot: Slot::new(slot),
            proposer: Some(ValidatorIndex::new(7)),
            in_turn: Some(true),
        };
        let slots = (900..=1000).map(|slot| (Slot::new(slot), Arc::new(Self::slot(slot, api::SlotSource::Memory))));
        Arc::new(api::Recent {
            now: Slot::new(1000),
            head: Head { slot: Slot::new(1000), root: Root::repeat_byte(2) },
            justified: Some(Checkpoint { epoch: Epoch::new(30), root: NETWORK }),
            finalized: None,
            complete_from: Slot::new(900),
            slots: slots.collect(),
            blocks: vec![block(1, 0, 999), block(2, 1, 1000), block(3, 1, 1000)],
            peers: vec![api::PeersAtHead {
                client: "teku",
                head_root: Some(Root::repeat_byte(2)),
                head_slot: Some(Slot::new(1000)),
                peers: 3,
            }],
            traffic: api::Traffic {
                slots: 32,
                by_subnet: vec![5, 6],
                offsets: vec![0, 1, 2],
                bucket: std::time::Duration::from_millis(500),
                longest_wait: std::time::Duration::from_millis(12),
                early_votes: 1,
                early_blocks: 2,
            },
        })
    }

    fn stored_slots(&self, first: Slot, last: Slot) -> Result<Vec<api::ObservedSlot>, api::ReadError> {
        match first.as_u64() {
            0..=31 => Ok(Vec::new()),
            64..=95 => Err(api::ReadError::Busy),
            _ => Ok((first.as_u64()..=last.as_u64()).map(|slot| Self::slot(slot, api::SlotSource::Index)).collect()),
        }
    }

    fn validator(&self, query: &api::ValidatorQuery) -> Result<Option<api::ObservedValidator>, api::ReadError> {
        let known = [api::ValidatorKey::Index(ValidatorIndex::new(7)), api::ValidatorKey::Pubkey(PubkeyBytes::repeat_byte(7))];
        if !known.contains(&query.key) {
            return Ok(None);
        }
        let heard = api::Heard { at: Time::from_unix_ns(1_606_824_023_500_000_000), source: "gossip" };
        let vote = |epoch: u64| api::ObservedVote {
            slot: Slot::new(epoch * 32),
            source: Checkpoint { epoch: Epoch::new(epoch - 1), root: NETWORK },
            target: Checkpoint { epoch: Epoch::new(epoch), root: NETWORK },
            head: Root::repeat_byte(2),
            data_root: Root::repeat_byte(epoch as u8),
            heard: Some(heard),
            contradicts: epoch == 28,
        };
        let epochs = [30, 28, 25].into_iter().filter(|epoch| Epoch::new(*epoch) < query.before_epoch).take(query.limit);
        let votes: Vec<api::ObservedVote> = epochs.map(vote).collect();
        Ok(Some(api::ObservedValidator {
            index: ValidatorIndex::new(7),
            pubkey: Some(PubkeyBytes::repeat_byte(7)),
            registry: None,
            client: Some("teku"),
            labels: vec!["group=acme".into(), "pool=blue".into()],
            groups: vec!["acme".into()],
            first_epoch: Some(Epoch::new(25)),
            last_epoch: Some(Epoch::new(30)),
            last_heard: Some((Slot::new(0), heard)),
            next: votes.last().map(|vote| vote.target.epoch).filter(|last| *last > Epoch::new(25)),
            votes,
            proposals: vec![api::ObservedProposal { slot: Slot::new(0), root: Root::repeat_byte(2), parent: Root::ZERO, heard }],
        }))
    }

    fn labelled(&self, label: &str, after: Option<ValidatorIndex>, limit: usize) -> Vec<api::LabelledValidator> {
        let first = after.map_or(0, |after| after.as_u64() + 1);
        let all = (first..3).filter(|_| label == "pool=blue" || label == "group=acme");
        let row = |index| api::LabelledValidator {
            index: ValidatorIndex::new(index),
            pubkey: None,
            labels: vec!["group=acme".into(), "pool=blue".into()],
            groups: vec!["acme".into()],
        };
        all.take(limit).map(row).collect()
    }
}
