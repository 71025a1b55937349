//! A network that forks to something that this program does not know: what can be read is counted
//! as seen and not provable, nobody is blamed, nothing becomes a finding, and the operator is told.

mod common;

use common::slashwatch;
use consensus::{Epoch, ForkName, MessageFields, Network, PresetName, Slot, Spec};
use simulator::{Noise, Scenario, SimNetwork, write_capture};
use sources::capture::{CaptureFile, CaptureWriter, Entry};
use sources::limits::{pack, unpack};
use sources::topic::{Topic, split};
use std::collections::BTreeSet;
use std::path::Path;
use test_support::findings::{findings, ids};
use test_support::http::wait_until;
use test_support::program::{Running, WatcherFolder, run, runtime, stderr};

/// The epoch at which the network of the capture forks.
const FORK_EPOCH: u64 = 4;
const FORK: &str = "\nI_STAR_FORK_VERSION: 0x09000001\nI_STAR_FORK_EPOCH: ";

/// Writes the network's traffic as if it had forked, and returns how many messages are of the new
/// fork. Without `has_fork` they are left out.
fn write_forked(from: &Path, to: &Path, has_fork: bool) -> usize {
    let file = CaptureFile::open(from).expect("opens");
    let config = format!("{}{FORK}{FORK_EPOCH}\n", file.first_config().expect("reads").expect("has one"));
    let spec = Spec::from_yaml(&config).expect("valid");
    let state = file.first_state().expect("reads").expect("has one");
    let genesis_validators_root = consensus::Root::from_slice(&state[8..40]);
    let network = Network { spec, genesis_time: 0, genesis_validators_root };
    let digest = network.fork_digest_at(Epoch::new(FORK_EPOCH));
    let mut writer = CaptureWriter::create(to).expect("a new file");
    writer.config(&config).expect("written");
    let mut n_later = 0;
    for located in file.entries().expect("opens") {
        let entry = located.expect("whole").entry;
        let Entry::Gossip(mut message) = entry else {
            if !matches!(entry, Entry::Config(_) | Entry::Version) {
                writer.entry(&entry).expect("written");
            }
            continue;
        };
        let topic = Topic::parse(&message.topic).expect("a topic that is read");
        let mut ssz = unpack(&message.payload, 10 << 20).expect("snappy");
        let slot = MessageFields::of(topic.kind, Some(ForkName::Fulu), &ssz).slot().expect("long enough");
        if slot.epoch(network.preset()) >= Epoch::new(FORK_EPOCH) {
            if !has_fork {
                continue;
            }
            n_later += 1;
            // The body of its blocks, and what is in its aggregates, have another form.
            let kept = ssz.len().min(240);
            ssz[kept..].fill(0xee);
            message.topic = Topic { digest, ..topic }.to_string();
            message.payload = pack(&ssz).expect("short");
        }
        writer.gossip(&message).expect("written");
    }
    writer.flush().expect("written");
    n_later
}

fn replay(capture: &Path, out: &Path) -> (String, BTreeSet<String>) {
    let replayed = run(slashwatch().arg("replay").arg(capture).arg("--findings").arg(out));
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    (stderr(&replayed), ids(&findings(out)))
}

fn count(told: &str, outcome: &str) -> usize {
    let mut rows = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find_map(|row| (row.len() == 2 && row[1] == outcome).then(|| row[0].parse().ok())?).unwrap_or(0)
}

#[test]
fn messages_of_a_later_fork_are_seen_and_not_provable() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let path = |name: &str| dir.path().join(name);
    let noise = Noise::default();
    let scenario = Scenario { noise, ..Scenario::every_crime(ForkName::Fulu, PresetName::Minimal, 64) };
    println!("seed {}", scenario.seed);
    write_capture(&scenario, &path("played.e2s")).expect("the scenario can be played");
    assert_eq!(write_forked(&path("played.e2s"), &path("before.e2s"), false), 0);
    let n_later = write_forked(&path("played.e2s"), &path("forked.e2s"), true);
    assert!(n_later > 100, "{n_later}");
    let (before, found_before) = replay(&path("before.e2s"), &path("before.jsonl"));
    let (told, found) = replay(&path("forked.e2s"), &path("found.jsonl"));
    assert_eq!(found, found_before, "nothing of the later fork becomes a finding, and nothing before it is lost");
    assert!(!found.is_empty());
    assert_eq!(count(&told, "seen_not_provable"), n_later, "{told}");
    for outcome in ["malformed", "bad_signature", "unknown_fork", "refused"] {
        assert_eq!(count(&told, outcome), count(&before, outcome), "{outcome}: {told}");
    }
    let notice = "forks to i_star at epoch 4, which this version of slashwatch does not know";
    assert_eq!(told.matches(notice).count(), 1, "one loud hint: {told}");
}

/// The messages of such a topic are read by no rule of ours: whatever they hold, nobody is blamed.
#[test]
fn what_cannot_be_read_of_a_later_fork_is_counted_apart() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let path = |name: &str| dir.path().join(name);
    write_capture(&Scenario::quiet(16), &path("played.e2s")).expect("the scenario can be played");
    write_forked(&path("played.e2s"), &path("before.e2s"), false);
    let file = CaptureFile::open(&path("before.e2s")).expect("opens");
    let spec = Spec::from_yaml(&file.first_config().expect("reads").expect("has one")).expect("valid");
    let state = file.first_state().expect("reads").expect("has one");
    let network = Network { spec, genesis_time: 0, genesis_validators_root: consensus::Root::from_slice(&state[8..40]) };
    let digest = network.fork_digest_at(Epoch::new(FORK_EPOCH));
    let mut writer = CaptureWriter::create(&path("odd.e2s")).expect("a new file");
    let mut last = None;
    for located in file.entries().expect("opens") {
        let entry = located.expect("whole").entry;
        if !matches!(entry, Entry::Version) {
            writer.entry(&entry).expect("written");
        }
        if let Entry::Gossip(message) = entry {
            last = Some(message);
        }
    }
    let like = last.expect("it has messages");
    assert!(split(&like.topic).is_some());
    let slot_of_fork = Slot::new(FORK_EPOCH * 8).as_u64().to_le_bytes();
    let mut block = vec![0; 500];
    block[0] = 100;
    block[100..108].copy_from_slice(&slot_of_fork);
    let mut misplaced = block.clone();
    misplaced[0] = 104;
    for (name, ssz) in [
        ("beacon_block", &block[..]),
        ("beacon_block", &misplaced),
        ("beacon_block", &block[..150]),
        ("beacon_block", &[0; 500]),
        ("beacon_attestation_3", &[]),
        ("beacon_attestation_3", &[7; 12]),
    ] {
        let topic = format!("/eth2/{digest}/{name}/ssz_snappy");
        writer
            .gossip(&sources::capture::GossipEntry { topic, payload: pack(ssz).expect("short"), ..like.clone() })
            .expect("written");
    }
    writer.flush().expect("written");
    let (before, _) = replay(&path("before.e2s"), &path("before.jsonl"));
    let (told, found) = replay(&path("odd.e2s"), &path("found.jsonl"));
    assert_eq!((count(&told, "seen_not_provable"), count(&told, "unknown_fork")), (1, 5), "{told}");
    assert_eq!(
        (count(&told, "malformed"), count(&told, "bad_signature")),
        (count(&before, "malformed"), count(&before, "bad_signature"))
    );
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_running_watcher_says_so_before_it_happens() {
    let runtime = runtime();
    let scenario = Scenario { slots: 6, ..Scenario::quiet(16) };
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let config = format!("{}{FORK}1000\n", network.config_yaml());
    let stage = WatcherFolder::new(&config, network.state_ssz(), network.peers(), "");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("forks to i_star at epoch 1000");
    let status = wait_until(stage.api, "/v1/status", |status| status["notices"].to_string().contains("i_star"));
    let notices = status["notices"].to_string();
    assert!(notices.contains("seen but cannot be proven") && notices.contains("update slashwatch"), "{notices}");
    assert!(status["readiness"]["advice"].to_string().contains("i_star"), "{status}");
    assert_eq!(running.terminate(), Some(0));
}
