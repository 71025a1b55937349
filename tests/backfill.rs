//! `slashwatch backfill`: past blocks of a node are judged like those of a recording, and a
//! backfill that was stopped goes on.

mod common;

use common::{replay, slashwatch};
use consensus::{MessageKind, Network, Spec, block_prefix};
use serde_json::json;
use sources::capture::{CaptureFile, CaptureWriter, Entry};
use sources::convert::MessageConverter;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use test_support::capture;
use test_support::findings::{findings, ids};
use test_support::http::{anywhere, serve_bodies};
use test_support::program::{run, stderr};

/// The blocks of a capture, by slot, one per slot, and what they need to be judged.
struct Blocks {
    yaml: String,
    state: Vec<u8>,
    by_slot: BTreeMap<u64, Vec<u8>>,
}

fn blocks() -> Blocks {
    let file = CaptureFile::open(&capture("fulu_52_ops")).expect("readable");
    let yaml = file.first_config().expect("readable").expect("every capture has one");
    let state = file.first_state().expect("readable").expect("this capture has one");
    let spec = Spec::from_yaml(&yaml).expect("valid");
    let mut keys = chain::PubkeyCache::in_memory();
    let chain = chain::Chain::from_state(spec, &state, &mut keys, &mut |_| ()).expect("a valid state");
    let network: Arc<Network> = chain.network().clone();
    let converter = MessageConverter::new(network);
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
    Blocks { yaml, state, by_slot }
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
    let recorded = dir.path().join("blocks.e2s");
    let mut writer = CaptureWriter::create(&recorded).expect("writable");
    writer.config(&blocks.yaml).expect("writable");
    writer.state(&blocks.state).expect("writable");
    blocks.by_slot.values().for_each(|ssz| writer.block(ssz).expect("writable"));
    writer.sync().expect("writable");
    let wanted = replay(&recorded, &dir.path().join("replayed"), &dir.path().join("wanted.jsonl"));
    assert!(!wanted.is_empty());

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
    let found = || {
        let out = dir.path().join("found.jsonl");
        // A replay of a file without messages writes what is in the directory.
        let empty = dir.path().join("empty.e2s");
        let mut writer = CaptureWriter::create(&empty).expect("writable");
        writer.config(&blocks.yaml).expect("writable");
        writer.state(&blocks.state).expect("writable");
        writer.sync().expect("writable");
        let output = run(slashwatch().arg("replay").arg(&empty).arg("--data-dir").arg(&data).arg("--findings").arg(&out));
        assert!(output.status.success(), "{}", stderr(&output));
        findings(&out).into_iter().filter(|row| !row["evidence"].is_null()).collect::<Vec<_>>()
    };
    let wanted: Vec<_> = wanted.into_iter().filter(|row| !row["evidence"].is_null()).collect();
    assert_eq!(ids(&found()), ids(&wanted), "{told}");

    // What is done is not asked for again.
    let before = n_asked.load(Ordering::SeqCst);
    let (code, told) = fill(&data, node, last);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("0 blocks now"), "{told}");
    assert_eq!(n_asked.load(Ordering::SeqCst), before);
}
