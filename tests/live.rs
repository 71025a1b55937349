//! `slashwatch run` as users run it: a network of real libp2p nodes on loopback, a webhook receiver
//! that is down for a while, a killed process, a node that is away, a port that is in use, a full
//! disk.

mod common;

use common::{slashwatch, stage};
use simulator::{Scenario, SimNetwork};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use test_support::capture;
use test_support::http::{anywhere, free_port, get, serve, wait_until};
use test_support::program::{Running, TEST_TIMEOUT, run, runtime, stderr};

/// Accepts webhook deliveries and sends `(finding id, idempotency key)` of each to the returned
/// channel.
fn receiver(address: SocketAddr) -> Receiver<(String, String)> {
    let (sender, received) = sync_channel(10_000);
    serve(address, move |request| {
        let finding = request.json()["finding"].clone();
        let id = finding["id"].as_str().expect("an id").to_owned();
        let key = request.headers.get("idempotency-key").cloned().unwrap_or_default();
        assert!(request.headers.contains_key("x-slashwatch-signature"), "unsigned delivery");
        // The end of the network is reported too and is left out here. The send may fail, because
        // the test may have ended.
        if finding["details"]["subnets"] != "all" {
            let _ = sender.send((id, key));
        }
        "204 No Content"
    });
    received
}

#[test]
fn every_crime_is_found_live_and_told_once_though_the_receiver_was_down_and_the_process_killed() {
    let runtime = runtime();
    let scenario = Scenario { slots: 12, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    println!("seed {}", scenario.seed);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let hook = free_port();
    let stage =
        stage(&network, &format!("[[alerts.routes]]\nname = \"ops\"\nurl = \"http://{hook}/\"\nsecret_file = \"secret\"\n"));
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    let committed: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    assert!(!committed.is_empty());
    let until = Instant::now() + TEST_TIMEOUT;
    let mut found = BTreeSet::new();
    while found.len() < committed.len() && Instant::now() < until {
        let page = get(stage.api, "/v1/findings?limit=500").expect("the API answers");
        let proven = page["findings"].as_array().expect("a list").iter().filter(|finding| !finding["evidence"].is_null());
        found = proven.map(|f| f["id"].as_str().expect("id").to_owned()).collect();
        std::thread::yield_now();
    }
    assert_eq!(found, committed);
    let incidents = get(stage.api, "/v1/incidents").expect("the API answers");
    let wave = incidents["incidents"].as_array().expect("a list").iter().find(|incident| incident["kind"] == "slashing_wave");
    let wave = wave.expect("twelve keys of one operator are a wave")["id"].as_str().expect("id").to_owned();
    // Nothing could be delivered so far. The process is killed, and the next process has to
    // deliver.
    running.kill();
    let received = receiver(hook);
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let mut told = BTreeSet::new();
    // The wave is announced with the findings, under the id of its incident.
    while told.len() < committed.len() + 1 {
        let (id, key) = received.recv_timeout(TEST_TIMEOUT).expect("a delivery for every finding");
        assert_eq!(id, key, "the same finding under another id");
        told.insert(id);
    }
    assert!(told.remove(&wave));
    assert_eq!(told, committed);
    assert_eq!(running.terminate(), Some(0));
    drop(stage.dir);
}

#[test]
fn a_port_in_use_and_a_node_that_is_away_are_told_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let away = free_port();
    let config = dir.path().join("slashwatch.toml");
    let write = |api: SocketAddr| {
        let text = format!(
            "[network]\nname = \"mainnet\"\n[nodes]\nurls = [\"http://{away}\"]\ntimeout = \"1s\"\n[gossip]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
             [api]\nlisten = \"{api}\"\n"
        );
        std::fs::write(&config, text).expect("writable");
    };
    write(address);
    let output = test_support::program::run(slashwatch().arg("run").arg("--config").arg(&config));
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains(&address.to_string()) && told.contains("api.listen"), "{told}");
    write(free_port());
    // The program repeats the request until a node answers, and it can be stopped meanwhile.
    let running = Running::start(slashwatch(), &config);
    let told = running.wait_for("no beacon node answers yet");
    assert!(told.contains(&away.to_string()), "{told}");
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn without_any_node_it_goes_on_from_the_state_of_the_last_run_and_says_so() {
    let runtime = runtime();
    let scenario = Scenario { slots: 8, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 8) };
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let dir = tempfile::tempdir().expect("a fresh directory");
    // The files that a run with a node leaves.
    let left = watcher::datadir::DataDir::open(&dir.path().join("data")).expect("writable");
    let spec = consensus::Spec::from_yaml(network.config_yaml()).expect("valid");
    let (genesis_time, genesis_validators_root) = (network.genesis_time(), network.genesis_validators_root());
    left.bind(&consensus::Network { spec, genesis_time, genesis_validators_root }).expect("new");
    left.write("state.ssz", network.state_ssz()).expect("writable");
    drop(left);
    let (api, away) = (free_port(), free_port());
    let config = dir.path().join("slashwatch.toml");
    let text = format!(
        "data_dir = \"data\"\n[nodes]\nurls = [\"http://{away}\"]\ntimeout = \"1s\"\n[gossip]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
         peers = {:?}\n[api]\nlisten = \"{api}\"\n",
        network.peers()
    );
    std::fs::write(&config, text).expect("writable");
    let running = Running::start(slashwatch(), &config);
    running.wait_for("the watcher starts from the state of the last run");
    running.wait_for("watching");
    let status = get(api, "/v1/status").expect("the API answers");
    assert_eq!(status["node"]["state"], "away", "{status}");
    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    assert!(!truth.crimes.is_empty());
    let until = Instant::now() + TEST_TIMEOUT;
    let mut n_found = 0;
    while n_found < truth.crimes.len() && Instant::now() < until {
        n_found = get(api, "/v1/findings?limit=500").expect("the API answers")["findings"].as_array().expect("a list").len();
        std::thread::yield_now();
    }
    assert_eq!(n_found, truth.crimes.len());
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_full_disk_is_told_and_what_was_written_stays_good() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    let file = capture("fulu_4");
    // A limit on the file size replaces the full disk. Writes fail at the same place, and no mount
    // is needed.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" replay \"$1\" --data-dir \"$2\"";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_slashwatch")])
        .arg(&file)
        .arg(&data)
        .output()
        .expect("bash runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("data") && !told.contains("panicked"), "{told}");
    let after = common::replay(&file, &data, &dir.path().join("after.jsonl"));
    assert_eq!(test_support::findings::pairs(&after), test_support::findings::expected(&file));
}

/// If a client bans six peer ids of one address, it blocks the address, and with it the operator's
/// own node there.
#[test]
fn the_peer_id_is_the_same_after_a_restart_and_the_status_shows_each_peer() {
    let runtime = runtime();
    let network = runtime.block_on(SimNetwork::start(Scenario::staked(64, 1))).expect("loopback has free ports");
    let stage = stage(&network, "");
    let mut ids = Vec::new();
    for signal in ["KILL", "TERM"] {
        let running = Running::start(slashwatch(), &stage.config);
        let line = running.wait_for("gossip listens");
        let (_, id) = line.split_once("/p2p/").expect("its address names it");
        ids.push(id.trim().to_owned());
        let is_whole = |status: &serde_json::Value| {
            status["gossip_peers"].as_array().is_some_and(|peers| peers.len() == network.peers().len())
        };
        let status = wait_until(stage.api, "/v1/status", is_whole);
        let peers = status["gossip_peers"].as_array().expect("a list");
        assert!(peers.iter().all(|peer| peer["configured"] == true && peer["goodbye"].is_null()), "{peers:?}");
        running.signal(signal);
    }
    assert_eq!(ids[0], ids[1]);
    let key = std::fs::metadata(stage.dir.path().join("data/node.key")).expect("the key is kept");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
}

/// Alerts can be tried without a network.
#[test]
fn the_demo_tells_a_webhook() {
    let (tell, told) = sync_channel(1000);
    let hook = serve(anywhere(), move |request: test_support::http::Request| {
        assert!(request.headers.contains_key("x-slashwatch-signature"));
        let _ = tell.send(request.json());
        "204 No Content"
    });
    let mut command = slashwatch();
    command.args(["demo", "--slots", "10", "--slot-ms", "1000", "--validators", "64", "--listen", "127.0.0.1:0", "--webhook"]);
    let mut demo = command.arg(format!("http://{hook}/")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let told = std::iter::from_fn(|| told.recv_timeout(TEST_TIMEOUT).ok());
    let offence = told.map(|delivery| delivery["finding"].clone()).find(|finding| finding["kind"] == "double_vote");
    let _ = demo.kill();
    let _ = demo.wait();
    assert!(offence.expect("an offence is told")["evidence"].is_object());
}

/// An incident is compared with the scenario once, although its announcement to a route, which has
/// an earlier slot, is a finding too.
#[test]
fn the_demo_counts_a_wave_once() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let scenario = dir.path().join("wave.toml");
    let acts = [(8, 1, 2), (9, 9, 12)]
        .map(|(first, n, from)| format!("[[acts]]\ndeed = \"double_vote\"\nfirst = {first}\nn = {n}\nfrom = {from}\n"));
    let text = format!(
        "seed = 11\nvalidators = 64\nslots = 20\noperator = [8, 10]\n{}[[incidents]]\nkind = \"slashing_wave\"\nonset = 12\nwithin = 8\n",
        acts.concat()
    );
    std::fs::write(&scenario, text).expect("writable");
    let mut command = slashwatch();
    command.args(["demo", "--slot-ms", "1000", "--listen", "127.0.0.1:0", "--webhook"]);
    let hook = serve(anywhere(), |_| "204 No Content");
    let done = command.arg(format!("http://{hook}/")).arg("--scenario").arg(&scenario).output().expect("it runs");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(told.contains("found   slashing_wave"), "{told}{}", stderr(&done));
    assert!(!told.contains("FALSE   slashing_wave"), "{told}");
}

/// A rehearsal with one's own groups comes to its end: the machines stop, so `preflight` says SAFE
/// of the keys that are not lost, and the kill switch is made ready again.
#[test]
fn a_rehearsal_comes_to_safe_and_the_switch_is_made_ready() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (config, data, file) = (dir.path().join("sw.toml"), dir.path().join("data"), dir.path().join("exported.json"));
    let text = "network.name = \"hoodi\"\nnodes.urls = [\"http://127.0.0.1:1\"]\n[[watch.groups]]\nname = \"eu-1\"\nkeys = [\"0-9\"]\nkill_switch = { command = [\"/bin/true\"] }\n";
    std::fs::write(&config, text).expect("writable");
    let mut command = slashwatch();
    command.args(["demo", "--scenario", "rehearsal", "--slot-ms", "700", "--listen", "127.0.0.1:0"]);
    command.arg("--config").arg(&config).arg("--data-dir").arg(&data);
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let told: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("slot ")).collect();
    assert!(told.contains(&"group eu-1 has 40 simulated keys: validators 100 to 139".to_owned()), "{told:?}");
    let rows: String = (100..140).map(|index| format!("\"eu-1\",{index}\n")).collect();
    assert_eq!(std::fs::read_to_string(data.join("keys.csv")).expect("a list"), format!("group,key\n{rows}"));

    let preflight = |validators: &str| {
        let mut export = slashwatch();
        export.args(["export", "interchange", "--validators", validators, "--data-dir"]).arg(&data);
        std::fs::write(&file, run(&mut export).stdout).expect("writable");
        let mut preflight = slashwatch();
        preflight.args(["preflight", "--validators", validators, "--interchange"]).arg(&file).arg("--data-dir").arg(&data);
        run(&mut preflight)
    };
    assert_eq!(preflight("106-139").status.code(), Some(1), "they sign");
    let until = Instant::now() + TEST_TIMEOUT;
    loop {
        let answer = preflight("106-139");
        if answer.status.success() {
            break;
        }
        assert!(Instant::now() < until, "it never is SAFE: {}", String::from_utf8_lossy(&answer.stdout));
    }
    let all = preflight(&format!("@{},group=eu-1", data.join("keys.csv").display()));
    let told = String::from_utf8_lossy(&all.stdout).into_owned();
    assert!(told.contains("6 keys contradicted themselves") && all.status.code() == Some(1), "{told}{}", stderr(&all));
    let mut rearm = slashwatch();
    let rearmed = run(rearm.args(["killswitch", "rearm", "eu-1", "--data-dir"]).arg(&data));
    assert!(rearmed.status.success(), "{}", stderr(&rearmed));
    let _ = Command::new("kill").arg("-INT").arg(demo.id().to_string()).status();
    assert_eq!(demo.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_demo_that_is_stopped_leaves_no_files() {
    let temporary = tempfile::tempdir().expect("a fresh directory");
    let mut command = slashwatch();
    command.args(["demo", "--slots", "100", "--slot-ms", "500", "--validators", "64", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = command.spawn().expect("it starts");
    let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let has_begun = lines.any(|line| line.starts_with("slot "));
    let is_kept = std::fs::read_dir(temporary.path()).expect("a folder").count() > 0;
    let _ = Command::new("kill").arg("-INT").arg(demo.id().to_string()).status();
    let code = demo.wait().expect("it ends").code();
    assert!(has_begun && is_kept, "it had begun, and its files were there");
    assert_eq!((code, std::fs::read_dir(temporary.path()).expect("a folder").count()), (Some(0), 0));
}
