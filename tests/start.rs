//! How a watcher starts: from names, folders, state files and endpoints for checkpoint sync.

mod common;

use common::slashwatch;
use consensus::{Epoch, Root, Slot, Spec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use test_support::capture;
use test_support::http::{anywhere, free_port, get_any, serve_bodies};
use test_support::program::{Running, run, stderr};

const USAGE: i32 = 64;

/// The network of a capture: its configuration, and the state at its start.
struct Recorded {
    yaml: String,
    state: Vec<u8>,
    spec: Spec,
    /// The block that the state belongs to.
    root: Root,
}

fn recorded() -> Recorded {
    let file = sources::capture::CaptureFile::open(&capture("fulu_4")).expect("readable");
    let yaml = file.first_config().expect("readable").expect("every capture has one");
    let state = file.first_state().expect("readable").expect("this capture has one");
    let spec = Spec::from_yaml(&yaml).expect("valid");
    let mut keys = chain::PubkeyCache::in_memory();
    let chain = chain::Chain::from_state(spec.clone(), &state, &mut keys, &mut |_| ()).expect("a valid state");
    Recorded { yaml, spec, root: chain.head().root, state }
}

/// An endpoint that answers what a test sets.
#[derive(Clone, Default)]
struct Endpoint {
    answers: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    n_states: Arc<AtomicUsize>,
}

impl Endpoint {
    fn of(network: &Recorded, epoch: u64, root: Root) -> Self {
        let endpoint = Self::default();
        endpoint.set_spec(&network.spec, &[]);
        let genesis = json!({
            "genesis_time": u64::from_le_bytes(network.state[..8].try_into().expect("8 bytes")).to_string(),
            "genesis_validators_root": Root::from_slice(&network.state[8..40]),
            "genesis_fork_version": "0x00000000",
        });
        endpoint.set("/eth/v1/beacon/genesis", &json!({ "data": genesis }));
        let checkpoint = json!({ "epoch": epoch.to_string(), "root": root });
        let finality = json!({ "previous_justified": checkpoint, "current_justified": checkpoint, "finalized": checkpoint });
        endpoint.set("/eth/v1/beacon/states/head/finality_checkpoints", &json!({ "data": finality }));
        endpoint.put("/eth/v2/debug/beacon/states/finalized", network.state.clone());
        endpoint
    }

    fn set_spec(&self, spec: &Spec, more: &[(&str, String)]) {
        let rows = spec.to_yaml();
        let rows = rows.lines().filter_map(|line| line.split_once(": "));
        let mut data: serde_json::Map<String, Value> =
            rows.map(|(key, value)| (key.to_owned(), value.trim_matches(['\'', '"']).into())).collect();
        data.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())));
        self.set("/eth/v1/config/spec", &json!({ "data": data }));
    }

    fn set(&self, path: &str, answer: &Value) {
        self.put(path, answer.to_string().into_bytes());
    }

    fn put(&self, path: &str, answer: Vec<u8>) {
        self.answers.lock().expect("not poisoned").insert(path.to_owned(), answer);
    }

    fn serve(&self) -> SocketAddr {
        let endpoint = self.clone();
        serve_bodies(anywhere(), move |request| {
            if request.path.ends_with("states/finalized") {
                endpoint.n_states.fetch_add(1, Ordering::SeqCst);
            }
            endpoint.answers.lock().expect("not poisoned").get(&request.path).cloned()
        })
    }
}

/// A folder as networks are published, beside a configuration without network and nodes.
struct Folder {
    dir: tempfile::TempDir,
    config: PathBuf,
    api: SocketAddr,
}

impl Folder {
    fn new(network: &Recorded) -> Self {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let api = free_port();
        std::fs::create_dir(dir.path().join("network")).expect("writable");
        std::fs::write(dir.path().join("network/config.yaml"), &network.yaml).expect("writable");
        let text = format!("data_dir = \"data\"\n[gossip]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n[api]\nlisten = \"{api}\"\n");
        let config = dir.path().join("slashwatch.toml");
        std::fs::write(&config, text).expect("writable");
        Self { dir, config, api }
    }

    fn network(&self) -> PathBuf {
        self.dir.path().join("network")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, checkpoints: &[&str]) -> std::process::Command {
        let mut command = slashwatch();
        command.arg("run").arg("--config").arg(&self.config).arg("--network").arg(self.network());
        for one in checkpoints {
            command.args(["--checkpoint", one]);
        }
        command
    }

    /// Runs until it ends by itself.
    fn run(&self, checkpoints: &[&str]) -> (Option<i32>, String) {
        let output = run(&mut self.command(checkpoints));
        (output.status.code(), stderr(&output))
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[test]
fn endpoints_that_agree_are_enough_and_are_asked_for_one_state() {
    let network = recorded();
    let earlier = Endpoint::of(&network, 8, network.root);
    let later = Endpoint::of(&network, 8, network.root);
    let folder = Folder::new(&network);
    let addresses = [url(earlier.serve()), url(later.serve())];
    let given: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let running = Running::of(folder.command(&given));
    running.wait_for("checkpoint endpoints agree");
    running.wait_for("watching");
    let (status, _) = get_any(folder.api, "/healthz").expect("an answer");
    assert_eq!(status, 200);
    assert_eq!(running.terminate(), Some(0));
    assert_eq!([&earlier, &later].map(|endpoint| endpoint.n_states.load(Ordering::SeqCst)), [1, 0]);
    // The next start does not load the same state again.
    let running = Running::of(folder.command(&given));
    running.wait_for("the state of the last run is recent enough");
    running.wait_for("watching");
    drop(running);
    assert_eq!([&earlier, &later].map(|endpoint| endpoint.n_states.load(Ordering::SeqCst)), [1, 0]);
    // Nor does a start without any endpoint need one.
    let running = Running::of(folder.command(&[]));
    running.wait_for("watching");
}

#[test]
fn endpoints_that_disagree_stop_the_start_with_both_named() {
    let network = recorded();
    let other = Root::repeat_byte(7);
    let honest = Endpoint::of(&network, 8, network.root);
    let same_epoch = Endpoint::of(&network, 8, other);
    // At a later epoch, and with another block in the first slot of the honest one's.
    let later = Endpoint::of(&network, 9, other);
    let slot: Slot = Epoch::new(8).start_slot(&network.spec.preset);
    later.set(&format!("/eth/v1/beacon/blocks/{slot}/root"), &json!({ "data": { "root": other } }));
    let honest = url(honest.serve());
    for liar in [same_epoch, later] {
        let folder = Folder::new(&network);
        let liar = url(liar.serve());
        for order in [[&honest, &liar], [&liar, &honest]] {
            let (code, told) = folder.run(&order.map(String::as_str));
            assert_eq!(code, Some(USAGE), "{told}");
            assert!(told.contains("disagree about the finalized block of epoch 8"), "{told}");
            assert!(told.contains(&honest) && told.contains(&liar), "{told}");
        }
        assert!(!folder.data().join("state.ssz").exists());
    }
}

#[test]
fn an_endpoint_that_claims_a_later_epoch_and_knows_nothing_else_is_not_believed() {
    let network = recorded();
    let (honest, liar) = (Endpoint::of(&network, 8, network.root), Endpoint::of(&network, 9, Root::repeat_byte(7)));
    let (honest, liar) = (url(honest.serve()), url(liar.serve()));
    let folder = Folder::new(&network);
    let (code, told) = folder.run(&[&liar, &honest]);
    assert_eq!(code, Some(USAGE), "{told}");
    assert!(told.contains("cannot be compared") && told.contains(&honest) && told.contains(&liar), "{told}");
    // A third one that agrees with one of them decides.
    let third = Endpoint::of(&network, 8, network.root);
    let running = Running::of(folder.command(&[&liar, &honest, &url(third.serve())]));
    running.wait_for("the finalized block commits to the fetched state");
    running.wait_for("watching");
}

#[test]
fn before_the_first_finality_the_genesis_state_is_the_finalized_one() {
    let network = recorded();
    let folder = Folder::new(&network);
    let addresses = [0, 1].map(|_| url(Endpoint::of(&network, 0, Root::ZERO).serve()));
    let running = Running::of(folder.command(&[&addresses[0], &addresses[1]]));
    running.wait_for("the finalized block commits to the fetched state");
    running.wait_for("watching");
}

#[test]
fn a_damaged_state_of_the_last_run_is_fetched_again() {
    let network = recorded();
    let folder = Folder::new(&network);
    let endpoint = Endpoint::of(&network, 8, network.root);
    let address = url(endpoint.serve());
    let running = Running::of(folder.command(&[&address]));
    running.wait_for("watching");
    assert_eq!(running.terminate(), Some(0));
    std::fs::write(folder.data().join("state.ssz"), "<html>this is no state, but it is long enough to have a slot</html>")
        .expect("writable");
    let running = Running::of(folder.command(&[&address]));
    running.wait_for("the state of the last run cannot be used");
    running.wait_for("watching");
}

#[test]
fn a_state_of_another_block_than_the_finalized_one_is_refused() {
    let network = recorded();
    let folder = Folder::new(&network);
    let endpoint = Endpoint::of(&network, 8, Root::repeat_byte(7));
    let (code, told) = folder.run(&[&url(endpoint.serve())]);
    assert_eq!(code, Some(USAGE), "{told}");
    assert!(told.contains(&network.root.to_string()) && told.contains("is finalized there"), "{told}");
    assert!(!folder.data().join("state.ssz").exists());
}

#[test]
fn an_endpoint_that_is_away_does_not_stop_the_others() {
    let network = recorded();
    let folder = Folder::new(&network);
    let endpoint = Endpoint::of(&network, 8, network.root);
    let (away, here) = (url(free_port()), url(endpoint.serve()));
    let running = Running::of(folder.command(&[&away, &here]));
    running.wait_for("it is not compared");
    running.wait_for("watching");
}

#[test]
fn a_folder_with_a_genesis_state_needs_nothing_else() {
    let network = recorded();
    let folder = Folder::new(&network);
    let (code, told) = folder.run(&[]);
    assert_eq!(code, Some(USAGE), "{told}");
    assert!(told.contains("--checkpoint"), "it says what to do: {told}");
    std::fs::write(folder.network().join("genesis.ssz"), &network.state).expect("writable");
    Running::of(folder.command(&[])).wait_for("watching");
}

#[test]
fn the_later_one_of_a_given_state_and_that_of_the_last_run_is_used() {
    let network = recorded();
    let folder = Folder::new(&network);
    let given = folder.dir.path().join("checkpoint.ssz");
    std::fs::write(&given, &network.state).expect("writable");
    let given = given.display().to_string();
    let running = Running::of(folder.command(&[&given]));
    running.wait_for("watching");
    assert_eq!(running.terminate(), Some(0));
    // As if a later state had been fetched since.
    let mut later = network.state.clone();
    later[40..48].copy_from_slice(&9u64.to_le_bytes());
    std::fs::write(folder.data().join("state.ssz"), later).expect("writable");
    Running::of(folder.command(&[&given])).wait_for("the state of the last run is later than the given one");
}

#[test]
fn wrong_words_on_the_command_line_say_what_to_write() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let case = |arguments: &[&str], wanted: &[&str]| {
        let output = run(slashwatch().current_dir(dir.path()).arg("run").args(arguments));
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {told}");
        wanted.iter().for_each(|text| assert!(told.contains(text), "{arguments:?}: {text:?} is not in {told}"));
    };
    case(&[], &["--network", "--checkpoint"]);
    case(&["--network", "hodi"], &["hodi is neither a built-in network", "hoodi", "config.yaml"]);
    case(&["--network", "hoodi"], &["no state to start from", "--checkpoint URL"]);
    case(&["--network", "hoodi", "--checkpoint", "missing.ssz"], &["missing.ssz is not a file"]);
    case(&["--network", "hoodi", "--checkpoint", "a.ssz", "--checkpoint", "b.ssz"], &["\"b.ssz\" is a second state file"]);
    case(&["--network", "hoodi", "--checkpoint", "ftp://x"], &["\"ftp://x\" is not an http or https address"]);
    assert!(!Path::new(dir.path()).join("slashwatch-data").exists(), "nothing is made before it is right");
}

/// A node gets a new version in which a fork comes at another epoch, while the watcher runs.
#[test]
fn a_fork_that_the_node_postpones_is_followed_and_one_of_the_past_is_not() {
    let mut network = recorded();
    let genesis_time = u64::from_le_bytes(network.state[..8].try_into().expect("8 bytes"));
    let now = (base::Time::now().0 / 1_000_000_000 - genesis_time) * 4 / network.spec.preset.slots_per_epoch;
    let gloas = format!("GLOAS_FORK_VERSION: 0x70000001\nGLOAS_FORK_EPOCH: {}\n", now + 500_000);
    network.yaml = format!("{}\nSLOT_DURATION_MS: 250\n{gloas}", network.yaml);
    network.spec = Spec::from_yaml(&network.yaml).expect("valid");
    assert_eq!(network.spec.slot_duration.as_millis(), 250);
    let node = Endpoint::of(&network, 8, network.root);
    let folder = Folder::new(&network);
    let text = std::fs::read_to_string(&folder.config).expect("readable");
    std::fs::write(&folder.config, format!("{text}[nodes]\nurls = [\"{}\"]\n", url(node.serve()))).expect("writable");
    let running = Running::of(folder.command(&[]));
    running.wait_for("watching");
    let schedule = |epoch: u64| {
        let fork = [("GLOAS_FORK_VERSION", "0x70000001".to_owned()), ("GLOAS_FORK_EPOCH", epoch.to_string())];
        node.set_spec(&network.spec, &fork);
    };
    schedule(now - 100);
    let line = running.wait_for("it is not followed while the watcher runs");
    assert!(line.contains(&format!("gloas at epoch {}", now - 100)), "{line}");
    schedule(now + 1_000_000);
    let line = running.wait_for("it starts again and follows it");
    assert!(line.contains(&format!("gloas at epoch {}", now + 1_000_000)), "{line}");
    running.wait_for("watching");
    let followed = std::fs::read_to_string(folder.data().join("config.yaml")).expect("readable");
    assert!(followed.contains(&format!("GLOAS_FORK_EPOCH: {}", now + 1_000_000)), "{followed}");
    let (status, _) = get_any(folder.api, "/healthz").expect("an answer");
    assert_eq!(status, 200);
    assert_eq!(running.terminate(), Some(0));
}
