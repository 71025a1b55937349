//! How much is heard first-hand: a simulated network of which it is known who runs where, from its
//! messages to the answers of the API.

mod common;

use chain::{Chain, PubkeyCache};
use consensus::{Gwei, MessageKind, Slot, Spec, ValidatorIndex};
use detect::coverage::CoverageReport;
use detect::watch::{Duty, WatchList};
use detect::{DetectConfig, PeerFact, PeerNews};
use engine::metrics::Metrics;
use engine::{Engine, EngineParts, WatchParts};
use serde_json::Value;
use simulator::{Act, Deed, Scenario, Who, write_capture};
use sources::capture::{CaptureFile, Entry};
use sources::convert::MessageConverter;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use verify::{PeerBytes, RawMessage, Time, Verifier, VerifyConfig};

const VALIDATORS: usize = 64;
const BALANCE: u64 = 32_000_000_000;

/// The simulated network: its messages, and the node of each validator.
struct Played {
    engine: Engine,
    /// Messages and peer events, by slot.
    slots: Vec<(Vec<RawMessage>, Vec<PeerNews>, Time)>,
    home: BTreeMap<ValidatorIndex, PeerBytes>,
    _dir: tempfile::TempDir,
}

/// Each node is subscribed to eight subnets of 64, so a vote in eight says nothing.
fn is_subscribed(peer: &PeerBytes, subnet: u64) -> bool {
    peer.last().is_some_and(|last| u64::from(*last) % 8 == subnet % 8)
}

/// The time of the messages that are being processed, in Unix nanoseconds.
static NOW: AtomicU64 = AtomicU64::new(0);

fn time_of_messages() -> Time {
    Time(NOW.load(Ordering::Relaxed))
}

impl Played {
    fn new(n_nodes: usize, n_slots: u64) -> Self {
        Self::of(&Scenario { n_nodes, slots: n_slots, ..Scenario::quiet(VALIDATORS) })
    }

    fn of(scenario: &Scenario) -> Self {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let path = dir.path().join("x.e2s");
        println!("seed {}", scenario.seed);
        write_capture(scenario, &path).expect("played");
        let engine = open(dir.path());
        let network = engine.chain().network().clone();
        let file = CaptureFile::open(&path).expect("written");
        let converter = MessageConverter::new(network.clone());
        let mut slots: Vec<(Vec<RawMessage>, Vec<PeerNews>, Time)> = Vec::new();
        let mut home = BTreeMap::new();
        for entry in file.entries().expect("readable") {
            let (message, news, at) = match entry.expect("an entry").entry {
                Entry::Gossip(entry) => {
                    let Ok(message) = converter.gossip(&entry) else { continue };
                    let at = message.received_at;
                    (Some(with_subscription(message, &mut home)), None, at)
                }
                Entry::PeerEvent(entry) => (None, watcher::peer_news::peer_news(&entry), entry.at),
                _ => continue,
            };
            if slots.last().is_none_or(|(.., now)| network.slot_at(now.0) < network.slot_at(at.0)) {
                slots.push((Vec::new(), Vec::new(), at));
            }
            let (messages, events, now) = slots.last_mut().expect("just pushed");
            *now = at.max(*now);
            messages.extend(message);
            events.extend(news);
        }
        Self { engine, slots, home, _dir: dir }
    }

    fn play(&mut self) {
        self.play_slots(self.slots.len());
    }

    /// Plays the next `n` slots.
    fn play_slots(&mut self, n: usize) {
        for (messages, events, now) in self.slots.drain(..n).collect::<Vec<_>>() {
            events.into_iter().for_each(|news| self.engine.note_peer(news));
            NOW.store(now.0, Ordering::Relaxed);
            self.engine.process(messages, now).expect("processed");
        }
    }

    fn report(&self) -> Arc<CoverageReport> {
        self.engine.coverage().report()
    }

    /// The validators of a node, by the truth.
    fn validators_of(&self, peer: &PeerBytes) -> Vec<ValidatorIndex> {
        self.home.iter().filter(|(_, node)| *node == peer).map(|(validator, _)| *validator).collect()
    }
}

/// Opens or creates an engine in `dir`, from the state of the capture there.
fn open(dir: &Path) -> Engine {
    let file = CaptureFile::open(&dir.join("x.e2s")).expect("written");
    let spec = Spec::from_yaml(&file.first_config().expect("readable").expect("there")).expect("valid");
    let state = file.first_state().expect("readable").expect("there");
    let mut keys = PubkeyCache::in_memory();
    let chain = Chain::from_state(spec, &state, &mut keys, &mut |_| ()).expect("a good state");

    let mut list = WatchList::default();
    list.add(Some("acme"), "0-9".parse().expect("a range"), &[], Duty::Active).expect("valid");
    for index in ["0-31", "32-63"] {
        let label = if index == "0-31" { "pool=low" } else { "pool=high" };
        list.add(None, index.parse().expect("a range"), &[label.parse().expect("a label")], Duty::Active).expect("valid");
    }
    let few = "few=15".parse().expect("a label");
    list.add(None, "40-54".parse().expect("a range"), &[few], Duty::Active).expect("valid");
    let parts = EngineParts {
        chain,
        keys,
        verifier: Verifier::new(VerifyConfig::replay()),
        history_epochs: 64,
        fold_after_epochs: 0,
        detect: DetectConfig::default(),
        watch: WatchParts { list: Arc::new(list), ..WatchParts::default() },
        routes: Vec::new(),
        unrecorded: None,
        metrics: Metrics::new(),
        clock: time_of_messages,
    };
    Engine::open(&dir.join("index"), &dir.join("evidence"), parts).expect("opened")
}

/// The message with what gossip would know of its sender. Notes who voted at which node.
fn with_subscription(message: RawMessage, home: &mut BTreeMap<ValidatorIndex, PeerBytes>) -> RawMessage {
    let (Some(peer), MessageKind::Attestation { subnet }) = (message.origin.peer.clone(), message.kind) else { return message };
    if let Some(claim) = verify::single_vote_claimed(&message) {
        home.insert(claim.voter, peer.clone());
    }
    message.changed(|parts| parts.origin.subscribed = Some(is_subscribed(&peer, subnet)))
}

#[test]
fn the_figures_are_those_of_the_simulated_network() {
    let mut played = Played::new(6, 56);
    played.play();
    let report = played.report();
    let measured = report.measured.as_ref().expect("epochs have ended");
    let n_attested = measured.attested.as_u64() / BALANCE;
    assert_eq!(n_attested, VALIDATORS as u64, "all of them vote");
    // With a vote in eight unseen, a few validators may have no two votes yet.
    let heard = report.sums.first_hand.as_u64() / BALANCE;
    assert!((60..=64).contains(&heard), "{heard}");
    let last = report.sums.last_epoch.as_u64() / BALANCE;
    assert!((44..64).contains(&last), "seven in eight of the last epoch's votes: {last}");
    assert_eq!((report.sums.claimed, report.sums.n_discarded), (report.sums.first_hand, 0));
    // For the choice of peers: each with the stake of its own validators, and no more.
    let nodes: BTreeSet<PeerBytes> = played.home.values().cloned().collect();
    assert_eq!(report.by_peer.keys().cloned().collect::<BTreeSet<_>>(), nodes);
    for (peer, stake) in report.by_peer.iter() {
        let truth = played.validators_of(peer).len() as u64;
        let stake = stake.as_u64() / BALANCE;
        assert!(stake <= truth && stake + 4 >= truth, "{stake} of {truth}");
    }
    let labels: Vec<(&str, u64)> = measured.by_label.iter().map(|row| (row.label.as_str(), row.n_validators)).collect();
    assert_eq!(labels, [("pool=high", 32), ("pool=low", 32)], "labels of fewer than 16 validators are not reported");
    let of_labels: u64 = measured.by_label.iter().map(|row| row.first_hand.as_u64()).sum();
    assert!(Gwei::new(of_labels) <= measured.attested && of_labels > 0);
    let group = &report.groups[0];
    assert_eq!((group.name.as_str(), group.n_keys), ("acme", 10));
    assert_eq!(group.n_heard + group.missing.len() as u64, 10);
    assert!(group.n_heard >= 8 && group.since.is_some());
    let homes: BTreeSet<&PeerBytes> = (0..10).map(|index| &played.home[&ValidatorIndex::new(index)]).collect();
    assert!(group.n_peers <= homes.len() as u64 && group.n_peers > 0);
}

/// A peer that leaves takes its keys with it at the end of the slot, and its stake with the next
/// measurement.
#[test]
fn who_disconnects_is_heard_no_more() {
    let mut played = Played::new(6, 60);
    played.play_slots(44);
    let before = played.report();
    let home = played.home[&ValidatorIndex::new(0)].clone();
    let of_home = played.validators_of(&home);
    let watched = of_home.iter().filter(|validator| validator.as_u64() < 10 && !before.groups[0].missing.contains(validator));
    let gone: Vec<ValidatorIndex> = watched.copied().collect();
    assert!(!gone.is_empty() && before.by_peer[&home] > Gwei::new(0));
    let at = played.slots[0].2;
    played.engine.note_peer(PeerNews { at, peer: home.clone(), what: PeerFact::Disconnected });
    played.play_slots(3);
    let after = played.report();
    assert!(gone.iter().all(|validator| after.groups[0].missing.contains(validator)), "{:?}", after.groups);
    played.play();
    let measured = played.report();
    assert_eq!(measured.by_peer.get(&home), None);
    let others: u64 = measured.by_peer.values().map(|stake| stake.as_u64()).sum();
    assert_eq!(measured.sums.first_hand, Gwei::new(others));
    assert!(others < BALANCE * (VALIDATORS - of_home.len() + 1) as u64);
}

/// Everything that leaves the process: no peer, no validator, and no field that could hold a pair.
#[test]
fn no_answer_and_no_metric_ties_a_peer_to_a_validator() {
    let mut played = Played::new(6, 48);
    played.play();
    let view = watcher::coverage::view(played.engine.coverage(), None);
    assert!(view.first_hand.is_some_and(|share| share > 0.9), "there is something to give away");
    let json = serde_json::to_value(&view).expect("serializable");
    let fields: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    let known = [
        "attested_gwei",
        "by_client",
        "by_label",
        "claimed",
        "epoch",
        "epochs",
        "first_hand",
        "last_epoch",
        "peering",
        "peers",
        "peers_discarded",
        "punished",
        "votes_needed",
    ];
    assert_eq!(fields.iter().copied().collect::<BTreeSet<_>>(), known.into_iter().collect(), "a new field may say too much");
    let keys_of = |rows: &Value| -> BTreeSet<String> {
        rows.as_array().into_iter().flatten().flat_map(|row| row.as_object().expect("a row").keys().cloned()).collect()
    };
    assert_eq!(keys_of(&json["by_client"]), ["client", "first_hand", "peers"].map(str::to_owned).into());
    assert_eq!(keys_of(&json["by_label"]), ["first_hand", "label", "validators"].map(str::to_owned).into());
    let metrics = Metrics::new();
    metrics.show_coverage(&played.report(), played.engine.coverage().punished());
    let mut text = Vec::new();
    prometheus::Encoder::encode(&prometheus::TextEncoder::new(), &metrics.registry.gather(), &mut text).expect("encoded");
    let text = String::from_utf8(text).expect("text");
    let shown = text.lines().find(|line| line.starts_with("slashwatch_coverage_stake_ratio{what=\"first_hand\"} "));
    assert!(
        shown.is_some_and(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 0.9)),
        "{shown:?}"
    );
    for text in [&text, &json.to_string()] {
        assert!(!text.contains("simulated-node"), "a peer is named: {text}");
    }
    // Nothing of it is on disk either.
    let checkpoints = played.engine.store().checkpoints("", "", 1_000).expect("readable");
    assert!(checkpoints.iter().all(|(name, value)| !name.contains("coverage") && !contains(value, b"simulated-node")));
}

/// Two validators vote twice and only one of the votes is heard; the third vote twice is heard. A
/// block slashes all three. The figure survives a restart, because the findings are its record.
#[test]
fn a_slashing_of_what_was_not_heard_counts_against_the_figure() {
    let act = |deed, validators: &[u64]| {
        let who = Who::Validators(validators.iter().copied().map(ValidatorIndex::new).collect());
        Act { deed, who, from: Slot::new(12) }
    };
    let acts = vec![act(Deed::DoubleVoteUnheard, &[5, 30]), act(Deed::DoubleVote, &[7])];
    let mut played = Played::of(&Scenario { acts, slots: 48, slashings_after: Some(3), ..Scenario::quiet(VALIDATORS) });
    let now = played.slots.last().expect("slots").2;
    played.play();
    let counts = |engine: &Engine| {
        let counts = engine.coverage().punished();
        (counts.n_heard, counts.n_validators)
    };
    assert_eq!(counts(&played.engine), (1, 3));
    let view = watcher::coverage::view(played.engine.coverage(), None);
    assert_eq!((view.punished.days, view.punished.validators, view.punished.heard), (30, 3, 1));
    let Played { engine, _dir: dir, .. } = played;
    drop(engine);
    let mut again = open(dir.path());
    again.process(Vec::new(), now).expect("processed");
    assert_eq!(counts(&again), (1, 3), "after a restart");
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
