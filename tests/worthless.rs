//! Floods of messages that are properly signed but worthless. A key that left long ago can sign
//! anything for nothing. Each message is proven. None of them may delay or push out a contradiction
//! of a key that can still be punished.

mod common;

use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, CommitteeIndex, DomainType, Epoch, ForkName,
    IndexedAttestation, MessageKind, Network, ProposerSlashing, Root, SignatureBytes, SignedBeaconBlockHeader, SingleAttestation,
    Slot, Spec, ValidatorIndex, signing_root,
};
use evidence::{Finding, Severity};
use offline::bench::cpu_seconds;
use serde_json::Value;
use simulator::keys::Keyring;
use simulator::load::{Load, LoadPlan};
use sources::capture::{CaptureWriter, GossipEntry};
use sources::topic::Topic;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use verify::{MessageParts, Origin, PeerBytes, RawMessage, SourceKind, Time};
use watcher::config::{Config, GossipSection, NetworkSection};
use watcher::run::Watcher;

/// Time limit of every wait. What has not come by then will not come.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Limit on the time from the arrival of a second message to its finding on disk.
const IN_TIME: Duration = Duration::from_millis(250);
/// Number of active validators that vote twice during the flood.
const VICTIMS: usize = 20;
const SLOT: Slot = Slot::new(5);
/// Each test measures time and needs the machine for itself.
static ALONE: Mutex<()> = Mutex::new(());

fn now_ns() -> u64 {
    base::Time::now().0
}

/// A network in which half of the keys are withdrawn.
struct Keys {
    keys: Keyring,
    network: Network,
    active: Vec<ValidatorIndex>,
    withdrawn: ValidatorIndex,
}

/// A watcher of that network.
struct Stage {
    watcher: Watcher,
    keys: Keys,
    _dir: tempfile::TempDir,
}

/// The network, with its genesis time in seconds.
fn load(genesis_time: u64) -> Load {
    let plan = LoadPlan { n_registered: 256, ..LoadPlan::quiet(128, 1) };
    Load::new(plan, genesis_time).expect("it can be played")
}

impl Stage {
    async fn new(queue_messages: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let load = load(now_ns() / 1_000_000_000 - SLOT.as_u64() * 12);
        let (config, state) = (dir.path().join("config.yaml"), dir.path().join("state.ssz"));
        std::fs::write(&config, load.config_yaml()).expect("writable");
        std::fs::write(&state, load.state_ssz()).expect("writable");
        let mut options = Config {
            data_dir: dir.path().join("data"),
            network: NetworkSection { config: Some(config), state: Some(state), ..NetworkSection::default() },
            gossip: GossipSection { enabled: false, queue_messages, ..GossipSection::default() },
            ..Config::default()
        };
        options.api.enabled = false;
        let watcher = Watcher::start(options).await.expect("it starts");
        Self { watcher, keys: Keys::of(&load), _dir: dir }
    }
}

impl Keys {
    fn of(load: &Load) -> Self {
        // The load makes every second key active.
        let active = (0..256).filter(|index| index % 2 == 1).map(ValidatorIndex::new).collect();
        let keys = Keyring::from_seed(LoadPlan::quiet(128, 1).seed);
        Self { keys, network: load.network().clone(), active, withdrawn: ValidatorIndex::new(100) }
    }

    fn message(&self, kind: MessageKind, peer: &str, bytes: Vec<u8>) -> RawMessage {
        let origin = Origin {
            source: SourceKind::Gossip,
            peer: Some(PeerBytes::from(peer.as_bytes())),
            fork: Some(ForkName::Fulu),
            subscribed: None,
        };
        let received_at = Time(0);
        RawMessage::new(MessageParts { origin, kind, received_at, bytes, ticket: None }).expect("short enough for its kind")
    }

    fn vote(&self, validator: ValidatorIndex, peer: &str, source: u64, target: u64, head: u8) -> RawMessage {
        let vote = self.single(validator, source, target, head);
        self.message(MessageKind::Attestation { subnet: 0 }, peer, vote.to_ssz())
    }

    /// An operation with two votes for target 0.
    fn attester_slashing(&self, validator: ValidatorIndex, heads: [u8; 2]) -> RawMessage {
        let [attestation_1, attestation_2] = heads.map(|head| {
            let SingleAttestation { data, signature, .. } = self.single(validator, 0, 0, head);
            IndexedAttestation { attesting_indices: vec![validator], data, signature }
        });
        let slashing = AttesterSlashing { attestation_1, attestation_2 };
        self.message(MessageKind::AttesterSlashing, "flooder", slashing.to_ssz())
    }

    fn single(&self, validator: ValidatorIndex, source: u64, target: u64, head: u8) -> SingleAttestation {
        let checkpoint = |epoch| Checkpoint { epoch: Epoch::new(epoch), root: Root::ZERO };
        let slot = if target == 0 { SLOT } else { Slot::new(target * 32) };
        let data = AttestationData {
            slot,
            index: CommitteeIndex::new(0),
            beacon_block_root: Root::repeat_byte(head),
            source: checkpoint(source),
            target: checkpoint(target),
        };
        let domain = self.network.domain(DomainType::BeaconAttester, data.target.epoch);
        let signature = self.keys.sign(validator, signing_root(data.root(), domain));
        SingleAttestation { committee_index: CommitteeIndex::new(0), attester_index: validator, data, signature }
    }

    fn header(&self, proposer: ValidatorIndex, slot: Slot, nth: u64) -> SignedBeaconBlockHeader {
        let mut body_root = Root::ZERO;
        body_root[..8].copy_from_slice(&nth.to_le_bytes());
        let message = BeaconBlockHeader { slot, proposer_index: proposer, body_root, ..BeaconBlockHeader::default() };
        let domain = self.network.domain(DomainType::BeaconProposer, slot.epoch(self.network.preset()));
        let signature: SignatureBytes = self.keys.sign(proposer, signing_root(message.root(), domain));
        SignedBeaconBlockHeader { message, signature }
    }

    /// `n` operations, each with two headers that nobody has seen. There are 16 headers in each
    /// slot.
    fn proposer_slashings(&self, n: u64) -> Vec<RawMessage> {
        let slashing = |nth: u64| {
            let slot = Slot::new(1 + nth / 8);
            let [signed_header_1, signed_header_2] = [0, 1].map(|side| self.header(self.withdrawn, slot, 2 * nth + side));
            let bytes = ProposerSlashing { signed_header_1, signed_header_2 }.to_ssz();
            self.message(MessageKind::ProposerSlashing, "flooder", bytes)
        };
        (0..n).map(slashing).collect()
    }

    /// A history of 64 votes, followed by votes (0, T) with falling T. Each of these surrounds the
    /// whole history.
    fn falling_votes(&self, n: u64) -> Vec<RawMessage> {
        let history = (1..=64).map(|source| self.vote(self.withdrawn, "flooder", source, source + 1, 1));
        let falling = (0..n).rev().map(|nth| self.vote(self.withdrawn, "flooder", 0, 66 + nth, 1));
        history.chain(falling).collect()
    }
}

impl Stage {
    /// Waits until `n` messages have a final outcome.
    async fn settled(&self, n: u64) {
        let mut judged = self.watcher.snapshots();
        let settled = tokio::time::timeout(TEST_TIMEOUT, async {
            while self.watcher.status().stages["messages"].values().sum::<u64>() < n {
                judged.changed().await.expect("the watcher runs");
            }
        });
        settled.await.expect("every message has its outcome");
    }

    /// Sends the first votes of the victims, and then the whole flood with the victims' second
    /// votes spread through it.
    async fn flood(&self, flood: Vec<RawMessage>) -> Report {
        let feed = self.watcher.feed().expect("it runs");
        let victims: Vec<ValidatorIndex> = self.keys.active.iter().copied().take(VICTIMS).collect();
        let send = async |message: RawMessage| {
            assert!(feed.send(message.arrived_at(Time::now())).await, "the watcher ended");
        };
        for victim in &victims {
            send(self.keys.vote(*victim, "honest", 0, 0, 1)).await;
        }
        self.settled(VICTIMS as u64).await;
        let n_flood = flood.len();
        let mut seconds: Vec<RawMessage> = victims.iter().map(|victim| self.keys.vote(*victim, "honest", 0, 0, 2)).collect();
        let before = cpu_seconds();
        for (nth, message) in flood.into_iter().enumerate() {
            send(message).await;
            if (nth + 1) % (n_flood / VICTIMS) == 0
                && let Some(second) = seconds.pop()
            {
                send(second).await;
            }
        }
        assert!(seconds.is_empty(), "all were sent");
        drop(feed);
        self.settled((n_flood + 2 * VICTIMS) as u64).await;
        let cpu_ms = (cpu_seconds() - before) * 1000.0 / n_flood as f64;
        let findings: Vec<Finding> = self.watcher.store().all_findings().map(|row| row.expect("readable").1).collect();
        let (mut latencies, mut of_flooder) = (Vec::new(), BTreeMap::<String, Vec<Finding>>::new());
        for finding in findings {
            let index = finding.validator.as_ref().expect("somebody's").index;
            if index == self.keys.withdrawn {
                of_flooder.entry(finding.kind.to_string()).or_default().push(finding);
            } else {
                assert!(victims.contains(&index) && finding.severity == Severity::Critical, "{finding:?}");
                latencies.push(finding.recorded_at.since(finding.second_seen.expect("two messages")));
            }
        }
        latencies.sort();
        let shed = |why: &str| self.watcher.metrics().shed.with_label_values(&[why]).get();
        let report = Report { found: latencies.len(), worst: latencies.pop().unwrap_or_default(), of_flooder, cpu_ms };
        println!(
            "{n_flood} worthless messages: {:.2} ms of CPU each, {} findings of their key; of {VICTIMS} second votes {} found, the last after {:?}; shed: {} settled, {} overload",
            report.cpu_ms,
            report.of_flooder.values().map(Vec::len).sum::<usize>(),
            report.found,
            report.worst,
            shed("settled"),
            shed("overload"),
        );
        assert_eq!(shed("overload"), 0, "nothing of honest peers");
        report
    }
}

struct Report {
    found: usize,
    worst: Duration,
    of_flooder: BTreeMap<String, Vec<Finding>>,
    cpu_ms: f64,
}

impl Report {
    /// `kinds` are the kinds of offences that the flooding key committed.
    fn check(&self, kinds: &[&str]) {
        assert_eq!(self.found, VICTIMS, "of the second votes");
        assert!(self.worst < IN_TIME, "a second vote was found after {:?}", self.worst);
        assert_eq!(self.of_flooder.keys().collect::<Vec<_>>(), kinds, "an offender has a finding in each kind");
        for findings in self.of_flooder.values() {
            assert_eq!(findings.len(), 1, "one finding of a key that cannot be punished, its kind and day");
            assert_eq!(findings[0].severity, Severity::Info);
        }
        assert!(self.cpu_ms < 5.0, "{} ms of CPU for each worthless message", self.cpu_ms);
    }
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

#[test]
fn proposer_slashings_of_a_withdrawn_key_delay_nobody() {
    let _alone = alone();
    runtime().block_on(async {
        let stage = Stage::new(65_536).await;
        stage.flood(stage.keys.proposer_slashings(800)).await.check(&["double_proposal"]);
        stage.watcher.stop().await.expect("a clean stop");
    });
}

#[test]
fn votes_with_falling_targets_of_a_withdrawn_key_delay_nobody() {
    let _alone = alone();
    runtime().block_on(async {
        let stage = Stage::new(65_536).await;
        stage.flood(stage.keys.falling_votes(600)).await.check(&["surround_vote"]);
        stage.watcher.stop().await.expect("a clean stop");
    });
}

#[test]
fn with_a_small_queue_nothing_honest_is_shed() {
    let _alone = alone();
    runtime().block_on(async {
        let stage = Stage::new(64).await;
        stage.flood(stage.keys.proposer_slashings(800)).await.check(&["double_proposal"]);
        stage.watcher.stop().await.expect("a clean stop");
    });
}

/// Messages in the order of their arrival, as a capture that can be replayed.
struct Recorded {
    dir: tempfile::TempDir,
}

impl Recorded {
    /// Each of the `messages` has the slot in which it arrives.
    fn new(config: &str, state: &[u8], network: &Network, messages: impl IntoIterator<Item = (Slot, RawMessage)>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut writer = CaptureWriter::create(&dir.path().join("messages.e2s")).expect("writable");
        writer.config(config).expect("writable");
        writer.state(state).expect("writable");
        for (nth, (slot, message)) in (0..).zip(messages) {
            let digest = network.fork_digest_at(slot.epoch(network.preset()));
            let payload = snap::raw::Encoder::new().compress_vec(&message.bytes).expect("short");
            let entry = GossipEntry {
                received_at: Time(network.slot_start_ns(slot) + nth),
                peer: b"flooder".to_vec(),
                topic: Topic { digest, kind: message.kind }.to_string(),
                payload,
            };
            writer.gossip(&entry).expect("writable");
        }
        writer.flush().expect("writable");
        Self { dir }
    }

    /// Replays the capture in batches of at most `size` messages and returns all findings. Runs
    /// with the same size share a data directory.
    fn replay(&self, size: &str, run: &str) -> Vec<Value> {
        let out = self.dir.path().join(format!("{size}-{run}.jsonl"));
        let mut command = common::slashwatch();
        command.env("SLASHWATCH_BATCH_MESSAGES", size).arg("replay").arg(self.dir.path().join("messages.e2s"));
        command.arg("--findings").arg(&out).arg("--data-dir").arg(self.dir.path().join(size));
        let output = test_support::program::run(&mut command);
        assert!(output.status.success(), "{}", test_support::program::stderr(&output));
        let mut findings = test_support::findings::findings(&out);
        findings.iter_mut().for_each(|finding| drop(finding["recorded_at"].take()));
        findings.sort_by_key(|finding| (finding["kind"].to_string(), finding["id"].to_string()));
        findings
    }
}

/// The listed findings of the key and the counts are the same for all batch sizes, and in a second
/// run.
#[test]
fn what_is_listed_does_not_depend_on_batches() {
    let load = load(1_767_225_600);
    let keys = Keys::of(&load);
    let doubles = (1..=4).map(|head| keys.vote(keys.withdrawn, "flooder", 0, 0, head));
    let votes: Vec<RawMessage> = keys.falling_votes(60).into_iter().chain(doubles).collect();
    let mut messages = keys.proposer_slashings(40);
    messages.extend(votes);
    // Twenty messages arrive in each slot.
    let messages = messages.into_iter().enumerate().map(|(nth, one)| (Slot::new(SLOT.as_u64() + nth as u64 / 20), one));
    let recorded = Recorded::new(&load.config_yaml(), &load.state_ssz(), &keys.network, messages);
    let one_by_one = recorded.replay("1", "first");
    let counts: Vec<_> =
        one_by_one.iter().map(|one| (&one["kind"], &one["severity"], &one["details"]["further_pairs"])).collect();
    // There are sixteen headers in each of five slots (120 pairs each), four votes for one target
    // (6 pairs), and sixty votes that each surround sixty-four. One pair of each kind is listed,
    // and the others are counted.
    let [proposals, doubles, surrounds] = [5 * 120 - 1, 6 - 1, 60 * 64 - 1].map(|n: u64| n.to_string());
    let wanted = [("double_proposal", proposals), ("double_vote", doubles), ("surround_vote", surrounds)];
    assert_eq!(counts.len(), wanted.len(), "{counts:?}");
    for ((kind, severity, further), (wanted_kind, n)) in counts.into_iter().zip(&wanted) {
        assert_eq!((kind, severity, further), (&wanted_kind.to_string().into(), &"info".into(), &n.clone().into()));
    }
    for size in ["7", "100000"] {
        assert_eq!(recorded.replay(size, "first"), one_by_one, "batches of {size}");
    }
    assert_eq!(recorded.replay("7", "second"), one_by_one, "a second run over the same data");
}

/// A validator signs more than is listed in an epoch. Which pairs are listed follows from the order
/// of arrival. It does not follow from the order in which the messages of a batch are proven, where
/// operations come before single votes.
#[test]
fn which_pairs_are_listed_of_too_many_does_not_depend_on_batches() {
    let load = load(1_767_225_600);
    let keys = Keys::of(&load);
    let [double, surround] = [keys.active[0], keys.active[1]];
    // 20 votes that surround 20 others (400 pairs) alternate with 40 votes for one target (780
    // pairs). All of them come in one slot.
    let doubles = (1..=40).map(|head| keys.vote(double, "flooder", 0, 0, head));
    let inner = (1..=20).map(|source| keys.vote(surround, "flooder", 20 + source, 21 + source, 1));
    let outer = (1..=20u64).map(|nth| keys.vote(surround, "flooder", nth % 7, 62 - nth, 1));
    let singles = doubles.zip(inner.chain(outer)).flat_map(|(one, two)| [one, two]);
    // Operations bring twelve more votes, with 66 pairs among themselves.
    let operations = (0..6).map(|nth| keys.attester_slashing(double, [41, 42].map(|head| head + 2 * nth)));
    let messages = singles.chain(operations).map(|message| (SLOT, message));
    let recorded = Recorded::new(&load.config_yaml(), &load.state_ssz(), &keys.network, messages);
    let one_by_one = recorded.replay("1", "first");
    let n_of = |kind: &str| one_by_one.iter().filter(|finding| finding["kind"] == kind).count();
    assert_eq!([n_of("double_vote"), n_of("surround_vote")], [64, 64]);
    for size in ["7", "100000"] {
        assert_eq!(recorded.replay(size, "first"), one_by_one, "batches of {size}");
    }
}

/// Votes from before the last two forks cannot be used in a slashing any more. So any key can
/// contradict itself in such votes for nothing. However many there are, the offences for which the
/// key can still be punished are listed.
#[test]
fn what_no_fork_checks_any_more_hides_nothing_that_can_be_punished() {
    let load = load(1_767_225_600);
    let never = Epoch::FAR_FUTURE;
    let config = load
        .config_yaml()
        .replace(&format!("GLOAS_FORK_EPOCH: {never}"), "GLOAS_FORK_EPOCH: 3")
        .replace(&format!("HEZE_FORK_EPOCH: {never}"), "HEZE_FORK_EPOCH: 5");
    let spec = Spec::from_yaml(&config).expect("two forks more");
    let mut keys = Keys::of(&load);
    keys.network.spec = spec;
    let (key, now) = (keys.active[0], Slot::new(6 * 32));
    // 105 pairs are too old, and one is not.
    let old = (1..=15).map(|head| keys.vote(key, "flooder", 0, 1, head));
    let new = (1..=2).map(|head| keys.vote(key, "flooder", 0, 6, head));
    let messages: Vec<RawMessage> = old.chain(new).collect();
    let messages = messages.into_iter().map(|message| (now, message));
    let recorded = Recorded::new(&config, &load.state_ssz(), &keys.network, messages);
    let one_by_one = recorded.replay("1", "first");
    let told: Vec<_> = one_by_one.iter().map(|one| (&one["kind"], &one["epoch"], &one["punishable"])).collect();
    let mut wanted = vec![("1", "fork_expired"), ("6", "yes")];
    for (kind, epoch, punishable) in &told {
        assert_eq!(*kind, "double_vote");
        wanted.retain(|(e, p)| (*epoch, *punishable) != (&(*e).into(), &(*p).into()));
    }
    assert!(wanted.is_empty() && told.len() == 2, "{told:?}");
    for size in ["7", "100000"] {
        assert_eq!(recorded.replay(size, "first"), one_by_one, "batches of {size}");
    }
}
