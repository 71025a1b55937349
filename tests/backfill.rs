//! `slashwatch backfill`: past blocks of a node, of peers or of files are judged like those of a
//! recording, and a backfill that was stopped goes on. The peers are real ones, on loopback.

mod common;

use common::{replay, slashwatch};
use consensus::{MessageKind, Network, Root, SignedBlock, Slot, Spec, block_prefix};
use serde_json::{Value, json};
use simulator::{Act, Deed, Scenario, Who};
use sources::block_store::{BlockStore, NewBlock, StoreLimits};
use sources::capture::{CaptureFile, CaptureReader, CaptureWriter, Entry};
use sources::convert::MessageConverter;
use sources::gossip::{GossipConfig, GossipHandle, GossipService, StatusView, listen_address};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::capture;
use test_support::findings::ids;
use test_support::http::{anywhere, free_port, serve_bodies};
use test_support::program::{TEST_TIMEOUT, WatcherFolder, run, runtime, stderr};
use tokio::sync::watch;

/// The blocks of a capture, by slot, one per slot, and what they need to be judged.
struct Blocks {
    yaml: String,
    state: Vec<u8>,
    network: Arc<Network>,
    by_slot: BTreeMap<u64, Vec<u8>>,
}

impl Blocks {
    /// Writes the blocks of these slots, and what they need, into a recording.
    fn record(&self, path: &Path, slots: impl Fn(u64) -> bool) {
        let mut writer = CaptureWriter::create(path).expect("writable");
        writer.config(&self.yaml).expect("writable");
        writer.state(&self.state).expect("writable");
        for (_, ssz) in self.by_slot.iter().filter(|(slot, _)| slots(**slot)) {
            writer.block(ssz).expect("writable");
        }
        writer.sync().expect("writable");
    }

    /// What a recording of the blocks of these slots gives.
    fn wanted(&self, dir: &Path, slots: impl Fn(u64) -> bool) -> (PathBuf, Vec<Value>) {
        let recorded = dir.join("blocks.e2s");
        self.record(&recorded, slots);
        let wanted = proven(replay(&recorded, &dir.join("replayed"), &dir.join("wanted.jsonl")));
        assert!(!wanted.is_empty());
        (recorded, wanted)
    }

    /// The findings of a data directory. A replay of a file without messages writes them.
    fn found(&self, dir: &Path, data: &Path) -> Vec<Value> {
        let (out, empty) = (dir.join("found.jsonl"), dir.join("empty.e2s"));
        if !empty.is_file() {
            self.record(&empty, |_| false);
        }
        proven(replay(&empty, data, &out))
    }
}

fn proven(findings: Vec<Value>) -> Vec<Value> {
    findings.into_iter().filter(|row| !row["evidence"].is_null()).collect()
}

fn blocks() -> Blocks {
    let file = CaptureFile::open(&capture("fulu_52_ops")).expect("readable");
    let yaml = file.first_config().expect("readable").expect("every capture has one");
    let state = file.first_state().expect("readable").expect("this capture has one");
    let spec = Spec::from_yaml(&yaml).expect("valid");
    let mut keys = chain::PubkeyCache::in_memory();
    let chain = chain::Chain::from_state(spec, &state, &mut keys, &mut |_| ()).expect("a valid state");
    let network: Arc<Network> = chain.network().clone();
    let converter = MessageConverter::new(network.clone());
    let mut by_slot = BTreeMap::new();
    for located in file.entries().expect("readable") {
        if let Entry::Gossip(entry) = located.expect("undamaged").entry
            && let Ok(message) = converter.gossip(&entry)
            && message.kind == MessageKind::Block
        {
            let slot = block_prefix(&message.bytes).expect("a block").slot.as_u64();
            by_slot.entry(slot).or_insert_with(|| message.bytes.to_vec());
        }
    }
    assert!(by_slot.len() > 8, "{}", by_slot.len());
    Blocks { yaml, state, network, by_slot }
}

/// A node with these blocks up to `last`, whose state says that it is finalized.
fn node(blocks: &Blocks, last: u64, n_asked: &Arc<AtomicUsize>, missing: Arc<Mutex<bool>>) -> SocketAddr {
    let mut answers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let spec = Spec::from_yaml(&blocks.yaml).expect("valid");
    let rows = spec.to_yaml();
    let data: serde_json::Map<String, serde_json::Value> = rows
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.trim_matches(['\'', '"']).into()))
        .collect();
    answers.insert("/eth/v1/config/spec".into(), json!({ "data": data }).to_string().into_bytes());
    let genesis = json!({
        "genesis_time": u64::from_le_bytes(blocks.state[..8].try_into().expect("8 bytes")).to_string(),
        "genesis_validators_root": consensus::Root::from_slice(&blocks.state[8..40]),
        "genesis_fork_version": "0x00000000",
    });
    answers.insert("/eth/v1/beacon/genesis".into(), json!({ "data": genesis }).to_string().into_bytes());
    answers.insert("/eth/v2/debug/beacon/states/finalized".into(), blocks.state.clone());
    let checkpoint = json!({ "epoch": (last / 8 + 1).to_string(), "root": consensus::Root::ZERO });
    let finality = json!({ "previous_justified": checkpoint, "current_justified": checkpoint, "finalized": checkpoint });
    answers
        .insert("/eth/v1/beacon/states/head/finality_checkpoints".into(), json!({ "data": finality }).to_string().into_bytes());
    for (slot, ssz) in blocks.by_slot.range(..=last) {
        answers.insert(format!("/eth/v2/beacon/blocks/{slot}"), ssz.clone());
    }
    let n_asked = n_asked.clone();
    serve_bodies(anywhere(), move |request| {
        if request.path.starts_with("/eth/v2/beacon/blocks/") {
            n_asked.fetch_add(1, Ordering::SeqCst);
            if *missing.lock().expect("not poisoned") {
                return None;
            }
        }
        answers.get(&request.path).cloned()
    })
}

fn fill(data: &Path, node: SocketAddr, last: u64) -> (Option<i32>, String) {
    let mut command = slashwatch();
    command.args(["backfill", "--node", &format!("http://{node}"), "--data-dir"]).arg(data);
    command.args(["--from", "0", "--to", &(last / 8).to_string()]);
    let output = run(&mut command);
    (output.status.code(), stderr(&output))
}

#[test]
fn the_blocks_of_a_node_give_what_the_same_blocks_in_a_recording_give() {
    let blocks = blocks();
    let last = *blocks.by_slot.keys().last().expect("there are some");
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (recorded, wanted) = blocks.wanted(dir.path(), |_| true);

    let (n_asked, missing) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(true)));
    let node = node(&blocks, last, &n_asked, missing.clone());
    let data = dir.path().join("filled");
    // A node without old blocks is not taken for empty slots.
    let (code, told) = fill(&data, node, last);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("have no blocks of"), "{told}");
    *missing.lock().expect("not poisoned") = false;
    let (code, told) = fill(&data, node, last);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(ids(&blocks.found(dir.path(), &data)), ids(&wanted), "{told}");

    // What is done is not asked for again.
    let before = n_asked.load(Ordering::SeqCst);
    let (code, told) = fill(&data, node, last);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("0 blocks now"), "{told}");
    assert_eq!(n_asked.load(Ordering::SeqCst), before);

    // Files go through the same reader as in a replay.
    let data = dir.path().join("from files");
    let output = run(slashwatch().arg("backfill").arg(&recorded).arg("--data-dir").arg(&data));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(ids(&blocks.found(dir.path(), &data)), ids(&wanted));
}

const SLOTS: u64 = 80;
/// A peer that keeps more than a watcher: its epochs are longer.
const PEER_LIMITS: StoreLimits = StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: 64 };

/// Plays a network whose last slot is the present one. The state is the last one that the recording
/// has, which is later than the blocks.
fn played() -> Blocks {
    let act = |deed, from| Act { deed, who: Who::OnDuty(1), from: Slot::new(from) };
    let acts = vec![
        act(Deed::DoubleVoteInBlock, 20),
        act(Deed::DoubleVoteInBlock, 42),
        act(Deed::DoubleVoteUnheard, 50),
        act(Deed::DoubleVoteUnheard, 66),
    ];
    let slot_duration = Duration::from_secs(12);
    let scenario = Scenario { slots: SLOTS, slot_duration, acts, slashings_after: Some(2), ..Scenario::quiet(64) };
    println!("seed {}", scenario.seed);
    let genesis_time = base::Time::now().0 / 1_000_000_000 - SLOTS * slot_duration.as_secs();
    let (bytes, _) = simulator::record::capture_bytes_since(&scenario, genesis_time).expect("it can be played");
    let entries: Vec<Entry> = CaptureReader::new(&bytes[..]).map(|entry| entry.expect("undamaged").entry).collect();
    let yaml = entries.iter().find_map(|entry| if let Entry::Config(text) = entry { Some(text.clone()) } else { None });
    let yaml = yaml.expect("every capture has one");
    let states = entries.iter().rev();
    let state = states.clone().find_map(|entry| if let Entry::State(ssz) = entry { Some(ssz.clone()) } else { None });
    let state = state.expect("there are states");
    let spec = Spec::from_yaml(&yaml).expect("valid");
    let mut keys = chain::PubkeyCache::in_memory();
    let chain = chain::Chain::from_state(spec, &state, &mut keys, &mut |_| ()).expect("a valid state");
    let (network, last) = (chain.network().clone(), chain.head().slot.as_u64());
    assert!((64..SLOTS).contains(&last), "{last}: the state is after most blocks");
    let converter = MessageConverter::new(network.clone());
    let mut by_slot = BTreeMap::new();
    for entry in entries {
        if let Entry::Gossip(entry) = entry
            && let Ok(message) = converter.gossip(&entry)
            && message.kind == MessageKind::Block
        {
            let slot = block_prefix(&message.bytes).expect("a block").slot.as_u64();
            assert!(by_slot.insert(slot, message.bytes.to_vec()).is_none(), "one block in each slot");
        }
    }
    by_slot.retain(|slot, _| *slot <= last);
    Blocks { yaml, state, network, by_slot }
}

/// What a peer does with its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Honest,
    /// Has no blocks of an epoch, and says that it has.
    LeavesAnEpochOut,
    /// Has a past of its own.
    InventsBlocks,
    /// Has the blocks with the signature of another one.
    ForgesSignatures,
}

/// A real peer that serves blocks, with its counters.
async fn peer(blocks: &Blocks, kind: Peer, dir: &Path, port: u16) -> (GossipHandle, String, SourceMetrics) {
    let store = BlockStore::open(&dir.join(format!("{kind:?}")), PEER_LIMITS).expect("writable");
    let (mut parent, mut signature) = (Root::ZERO, None);
    for (slot, ssz) in &blocks.by_slot {
        let (slot, mut ssz) = (Slot::new(*slot), ssz.clone());
        let epoch = slot.epoch(blocks.network.preset());
        if kind == Peer::LeavesAnEpochOut && epoch.as_u64() == 4 {
            continue;
        }
        // A message begins with an offset and the signature, then slot, proposer and parent.
        let signature = signature.get_or_insert_with(|| ssz[4..100].to_vec());
        if kind == Peer::ForgesSignatures {
            ssz[4..100].copy_from_slice(signature);
        } else if kind == Peer::InventsBlocks {
            ssz[116..148].copy_from_slice(parent.as_slice());
        }
        let digest = blocks.network.fork_digest_at(epoch);
        let fork = blocks.network.fork_of_digest(digest).expect("scheduled");
        let block = SignedBlock::from_ssz(fork, blocks.network.preset(), &ssz).expect("a block");
        let (root, proposer) = (block.root, block.signed_header.message.proposer_index);
        let new = NewBlock { slot, root, parent, proposer, is_in_turn: true, digest, ssz: &ssz };
        store.keep(&new, Slot::new(SLOTS)).expect("writable");
        parent = root;
    }
    store.set_head(parent);
    let listen = vec![listen_address(&format!("/ip4/127.0.0.1/tcp/{port}")).expect("an address")];
    let (config, metrics) =
        (GossipConfig { listen, blocks: Some(store), ..GossipConfig::default() }, SourceMetrics::unregistered());
    let (_, status) = watch::channel(StatusView::default());
    let mut handle = GossipService::start(config, blocks.network.clone(), status, metrics.clone()).expect("it starts");
    loop {
        if let Some(SourceEvent::ListeningOn(address)) = handle.events.recv().await {
            return (handle, address.to_string(), metrics);
        }
    }
}

/// Three peers lie, each in its way. Only when all of them have been asked, an honest one comes.
#[test]
fn the_blocks_of_peers_give_what_the_same_blocks_in_a_recording_give_whoever_lies() {
    let blocks = played();
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (_, wanted) = blocks.wanted(dir.path(), |slot| slot >= 16);
    let runtime = runtime();
    let liars: Vec<_> = [Peer::LeavesAnEpochOut, Peer::InventsBlocks, Peer::ForgesSignatures]
        .map(|kind| runtime.block_on(peer(&blocks, kind, dir.path(), 0)))
        .into();
    let port = free_port().port();
    let mut addresses: Vec<String> = liars.iter().map(|(_, address, _)| address.clone()).collect();
    addresses.push(format!("/ip4/127.0.0.1/tcp/{port}"));
    let stage = WatcherFolder::new(&blocks.yaml, &blocks.state, &addresses, "");
    let data = stage.dir.path().join("data");
    let fill = |from: &str| {
        let output = run(slashwatch().args(["backfill", "--from-peers", "--from", from, "--config"]).arg(&stage.config));
        (output.status.code(), stderr(&output))
    };

    let (code, told) = fill("0");
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("which begin with epoch 2: give --from 2"), "{told}");

    let honest = std::thread::scope(|scope| {
        let filled = scope.spawn(|| fill("2"));
        let honest = runtime.block_on(async {
            let all_asked = async {
                for (node, _, metrics) in &liars {
                    let mut views = node.control.watch_peers();
                    while metrics.served_blocks.get() == 0 {
                        views.changed().await.expect("the node runs");
                    }
                }
            };
            tokio::time::timeout(TEST_TIMEOUT, all_asked).await.expect("all of them are asked");
            peer(&blocks, Peer::Honest, dir.path(), port).await
        });
        let (code, told) = filled.join().expect("no panic");
        assert_eq!(code, Some(0), "{told}");
        honest
    });
    assert_eq!(ids(&blocks.found(dir.path(), &data)), ids(&wanted));

    // What is done is not asked for again.
    for (node, ..) in liars.into_iter().chain([honest]) {
        runtime.block_on(node.shutdown());
    }
    let (code, told) = fill("2");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("0 blocks now"), "{told}");
}
