//! Watched keys through the binary: labels on findings, kill switches that stop a second machine,
//! and lists that are read again at run time.

mod common;

use common::{slashwatch, stage};
use consensus::state::{StateView, fork_of_state};
use consensus::{ForkName, PresetName, Spec, ValidatorIndex};
use serde_json::Value;
use simulator::{STAKED_KEYS, Scenario, SecondMachine, SimNetwork, write_capture};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use test_support::http::{anywhere, get_text, serve, wait_until};
use test_support::program::{Running, TEST_TIMEOUT, run, runtime, stderr};

/// Starts a receiver that stops the second machine when it is called, like the switch of a remote
/// signer. Returns its address and the bodies that it received.
fn signer(second_machine: SecondMachine) -> (SocketAddr, Receiver<Value>) {
    let (sender, received) = sync_channel(64);
    let address = serve(anywhere(), move |request| {
        second_machine.stop();
        sender.send(request.json()).expect("the test listens to its end");
        "204 No Content"
    });
    (address, received)
}

/// Plays Staked's incident of 2 February 2021 live, and returns the number of keys that
/// contradicted themselves.
fn staked(with_kill_switch: bool) -> usize {
    let runtime = runtime();
    let scenario = Scenario { slots: 16, slot_duration: Duration::from_millis(1500), ..Scenario::staked(256, STAKED_KEYS) };
    let (first, last) = (scenario.operator[0], scenario.operator[STAKED_KEYS - 1]);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let (signer, called) = signer(network.second_machine());
    let kill_switch = format!("kill_switch = {{ url = \"http://{signer}/disable\", secret_file = \"secret\" }}\n");
    let group =
        format!("[[watch.groups]]\nname = \"staked\"\nkeys = [\"{first}-{last}\"]\nlabels = {{ operator = \"staked\" }}\n");
    let stage = stage(&network, &(group + if with_kill_switch { &kill_switch } else { "" }));
    std::fs::write(stage.dir.path().join("secret"), "hunter2").expect("writable");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    let lost: BTreeSet<u64> = truth.crimes.iter().map(|crime| crime.validator.as_u64()).collect();
    println!("with a kill switch: {with_kill_switch}; {} keys lost, {} messages unheard", lost.len(), truth.unheard);
    let found = wait_until(stage.api, "/v1/findings?kind=double_vote&limit=500", |page| {
        page["findings"].as_array().is_some_and(|found| found.len() >= lost.len())
    });
    for finding in found["findings"].as_array().expect("a list") {
        assert_eq!(finding["validator"]["labels"], serde_json::json!(["group=staked", "operator=staked"]));
    }
    if with_kill_switch {
        running.wait_for("kill switch done");
    }
    let orders: Vec<Value> = called.try_iter().collect();
    if with_kill_switch {
        assert_eq!(orders.len(), 1, "once, whatever follows: {orders:?}");
        let finding = &orders[0]["finding"];
        assert_eq!((&orders[0]["kill_switch"], &orders[0]["test"]), (&"staked".into(), &false.into()));
        assert_eq!(finding["id"], found["findings"][0]["id"], "the first one");
        let inspected = run(slashwatch().arg("inspect").arg("--data-dir").arg(stage.dir.path().join("data")));
        let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
        let fired = &inspected["kill_switches"]["fired"]["staked"];
        assert_eq!((&fired["attempts"], &fired["result"]["done"]), (&1.into(), &true.into()), "{inspected}");
        let time = |value: &Value| value.as_str().expect("text").parse::<evidence::Time>().expect("a time");
        let second_seen = time(&found["findings"][0]["second_seen"]);
        let to_order = time(&fired["ordered_at"]).since(second_seen);
        println!("ordered {to_order:?} after the second message came");
        assert!(to_order < Duration::from_secs(1));
        println!("ordered {}, done after {} ms", fired["ordered_at"], fired["result"]["took_ms"]);
        assert!(fired["result"]["took_ms"].as_u64() < Some(1000), "{fired}");
    } else {
        assert!(orders.is_empty());
    }
    assert_eq!(running.terminate(), Some(0));
    lost.len()
}

#[test]
fn a_kill_switch_saves_most_of_an_operators_keys() {
    let without = staked(false);
    let with = staked(true);
    println!("keys lost without a kill switch: {without}, with one: {with}");
    assert_eq!(without, STAKED_KEYS);
    assert!(with >= 1 && with * 3 <= without, "{with} of {without}");
}

fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < until, "it never came to be");
        std::thread::yield_now();
    }
}

/// Writes a script that adds a line to `fired` each time it runs.
fn script(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("stop.sh");
    let text = format!(
        "#!/bin/sh\necho \"$SLASHWATCH_GROUP $SLASHWATCH_TEST $SLASHWATCH_ATTEMPT $1\" >> {}/fired\n{more}\n",
        dir.display()
    );
    std::fs::write(&path, text).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("ours");
    path
}

#[test]
fn it_fires_once_over_restarts_until_it_is_made_ready_again_and_its_wiring_can_be_proven() {
    let runtime = runtime();
    let scenario = Scenario { slots: 10, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    let (first, last) = (scenario.operator[0], scenario.operator[11]);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let stage = stage(&network, "");
    // The first command does not end, so that the process can be killed while the command runs.
    let stop = script(stage.dir.path(), "[ $SLASHWATCH_TEST$SLASHWATCH_ATTEMPT = 01 ] && exec sleep 60; echo stopped");
    let fired = || std::fs::read_to_string(stage.dir.path().join("fired")).unwrap_or_default();
    let group = format!(
        "[[watch.groups]]\nname = \"acme\"\nkeys = [\"{first}-{last}\"]\nkill_switch = {{ command = [{:?}, \"a b; exit\"] }}\n",
        stop.display().to_string()
    );
    let text = std::fs::read_to_string(&stage.config).expect("there");
    std::fs::write(&stage.config, text + &group).expect("writable");

    let proven = run(slashwatch().args(["killswitch", "test", "acme", "--config"]).arg(&stage.config));
    assert!(proven.status.success(), "{}", stderr(&proven));
    assert!(String::from_utf8_lossy(&proven.stdout).contains("stopped"), "{proven:?}");
    assert_eq!(fired(), "acme 1 1 a b; exit\n");
    let other = run(slashwatch().args(["killswitch", "test", "acmee", "--config"]).arg(&stage.config));
    assert_eq!(other.status.code(), Some(64));
    assert!(stderr(&other).contains("there are: acme"), "{}", stderr(&other));

    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    runtime.block_on(network.run()).expect("the simulation runs to its end");
    running.wait_for("kill switch fires");
    wait_for(|| fired().lines().count() == 2);
    running.kill();
    // Nobody knows how far the command came. It runs once more, and the log says so.
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("kill switch fires again");
    running.wait_for("kill switch done");
    assert_eq!(running.terminate(), Some(0));
    assert_eq!(
        fired(),
        "acme 1 1 a b; exit\nacme 0 1 a b; exit\nacme 0 2 a b; exit\n",
        "once for many offences, and once for the crash"
    );

    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    running.kill();
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    assert_eq!(fired().lines().count(), 3, "not again, whether it was stopped or killed");
    // The command works while the watcher runs, and once more without a watcher.
    for told in ["is ready again", "had not fired"] {
        let rearmed = run(slashwatch().args(["killswitch", "rearm", "acme", "--config"]).arg(&stage.config));
        assert!(rearmed.status.success(), "{}", stderr(&rearmed));
        assert!(String::from_utf8_lossy(&rearmed.stdout).contains(told), "{rearmed:?}");
    }
    running.wait_for("kill switch is ready again, as was asked for");
    let groups = test_support::http::get(stage.api, "/v1/watch/groups").expect("the API answers");
    assert_eq!(groups["groups"][0]["kill_switch"]["state"], "ready", "{groups}");
    assert_eq!(running.terminate(), Some(0));
    // The directory alone is enough.
    let data = stage.dir.path().join("data");
    let rearmed = run(slashwatch().args(["killswitch", "rearm", "acme", "--data-dir"]).arg(&data));
    assert!(rearmed.status.success(), "{}", stderr(&rearmed));
    let mistyped = run(slashwatch().args(["killswitch", "rearm", "acmee", "--data-dir"]).arg(&data));
    assert_eq!(mistyped.status.code(), Some(64));
    assert!(stderr(&mistyped).contains("it knows acme"), "{}", stderr(&mistyped));
    // With both, the directory is the one that is given.
    for (dir, code) in [(data, 0), (stage.dir.path().join("typo"), 1)] {
        for command in [&["status"][..], &["rearm", "acme"]] {
            let mut asked = slashwatch();
            asked.arg("killswitch").args(command).arg("--config").arg(&stage.config).arg("--data-dir").arg(&dir);
            let answered = run(&mut asked);
            assert_eq!(answered.status.code(), Some(code), "{command:?}: {}", stderr(&answered));
        }
    }
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    assert_eq!(running.terminate(), Some(0));
    assert_eq!(fired().lines().count(), 3, "what was found before is no reason to fire again");
    std::fs::write(&stop, "#!/bin/sh\necho broken >&2\nexit 7\n").expect("writable");
    let failing = run(slashwatch().args(["killswitch", "test", "acme", "--config"]).arg(&stage.config));
    assert_eq!(failing.status.code(), Some(1));
    assert!(stderr(&failing).contains("exit status: 7: broken"), "{}", stderr(&failing));
}

/// Sets the flag `slashed` of these validators in a state. Everything else stays as it is.
fn slash(state: &mut [u8], spec: &Spec, validators: &[ValidatorIndex]) {
    let copy = state.to_vec();
    let fork = fork_of_state(spec, &copy).expect("the simulator's own");
    let view = StateView::parse(fork, &spec.preset, &copy).expect("the simulator's own");
    for validator in validators {
        let record = view.validator(*validator).expect("it is in the state");
        // Public key, withdrawal credentials, effective balance, slashed. The public key alone is
        // not unique, because it also occurs in the sync committee.
        let start = [record.pubkey.as_slice(), record.withdrawal_credentials.as_slice()].concat();
        let at = copy.windows(start.len()).position(|bytes| bytes == start).expect("it is in the state");
        state[at + start.len() + 8] = 1;
    }
}

/// Anyone who has the old messages of a slashed key, or the key itself, can prove offences of it
/// forever. Such offences stop no validators. Each is reported with the reason. Routes are added at
/// run time.
#[test]
fn offences_of_keys_that_are_slashed_already_stop_nobody_and_are_told_with_the_reason() {
    let runtime = runtime();
    let scenario = Scenario { slots: 12, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    let operator = scenario.operator.clone();
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let spec = Spec::from_yaml(network.config_yaml()).expect("the simulator's own");
    let (slashed, others) = operator.split_at(6);
    let (sender, orders) = sync_channel(64);
    let signer = serve(anywhere(), move |request| {
        let _ = sender.send(request.json());
        "204 No Content"
    });
    let group = |name: &str, members: &[ValidatorIndex]| {
        let keys: Vec<String> = members.iter().map(ToString::to_string).collect();
        let switch = format!("{{ url = \"http://{signer}/disable\", secret_file = \"secret\" }}");
        format!("[[watch.groups]]\nname = {name:?}\nkeys = {keys:?}\nkill_switch = {switch}\n")
    };
    let watch = format!("[watch]\nreload = \"0s\"\n{}{}", group("gone", slashed), group("alive", others));
    let stage = stage(&network, &watch);
    let state = stage.dir.path().join("genesis.ssz");
    let mut ssz = std::fs::read(&state).expect("there");
    slash(&mut ssz, &spec, slashed);
    std::fs::write(&state, ssz).expect("writable");

    let checked = run(slashwatch().args(["config", "check"]).arg(&stage.config));
    assert!(checked.status.success(), "{}", stderr(&checked));
    let told = stderr(&checked);
    assert!(told.contains("group gone: 6 of 6 known members are slashed"), "{told}");
    assert!(told.contains(&format!(": {}", slashed[0])) && !told.contains("group alive"), "{told}");

    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let (sender, told) = sync_channel(10_000);
    let hook = serve(anywhere(), move |request| {
        let _ = sender.send(request.json());
        "204 No Content"
    });
    let route = format!("[[alerts.routes]]\nname = \"ops\"\nurl = \"http://{hook}/\"\nsecret_file = \"secret\"\n");
    let text = std::fs::read_to_string(&stage.config).expect("there");
    std::fs::write(&stage.config, text + &route).expect("writable");
    running.signal("HUP");
    running.wait_for("alert routes have changed");

    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    let of_gone = |validator: &ValidatorIndex| slashed.contains(validator);
    let mut waited_for: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    assert!(truth.crimes.iter().any(|crime| of_gone(&crime.validator)), "seed {}", truth.crimes.len());
    assert!(truth.crimes.iter().any(|crime| !of_gone(&crime.validator)), "seed {}", truth.crimes.len());
    let mut n_held_back = 0;
    while !waited_for.is_empty() {
        let delivery = told.recv_timeout(TEST_TIMEOUT).expect("a delivery for every finding");
        assert_eq!(delivery["network"]["name"], spec.config_name, "{delivery}");
        assert!(delivery["network"]["genesis_validators_root"].as_str().is_some_and(|root| root.starts_with("0x")), "{delivery}");
        let finding = &delivery["finding"];
        if !waited_for.remove(finding["id"].as_str().expect("an id")) {
            continue;
        }
        let switch = &delivery["kill_switches"][0];
        if finding["punishable"] == "already_slashed" {
            assert_eq!((&switch["group"], &switch["fires"]), (&"gone".into(), &false.into()), "{delivery}");
            let reason = switch["reason"].as_str().expect("a reason");
            assert!(reason.contains("the key is slashed already"), "{reason}");
            assert!(delivery["text"].as_str().expect("text").contains(reason), "{delivery}");
            n_held_back += 1;
        } else {
            assert_eq!(switch["group"], "alive", "{delivery}");
        }
    }
    println!("{n_held_back} of {} offences held back", truth.crimes.len());
    assert!(n_held_back > 0);
    running.wait_for("kill switch done");
    let groups = test_support::http::get(stage.api, "/v1/watch/groups").expect("the API answers");
    let groups = groups["groups"].as_array().expect("a list").clone();
    let by_name =
        |name: &str| groups.iter().find(|group| group["name"] == name).expect("it is configured")["kill_switch"].clone();
    assert_eq!((&by_name("gone")["state"], &by_name("alive")["state"]), (&"ready".into(), &"done".into()));
    assert_eq!(by_name("gone")["held_back"]["times"], n_held_back);
    assert_eq!(running.terminate(), Some(0));
    let orders: Vec<Value> = orders.try_iter().collect();
    assert_eq!(orders.len(), 1, "{orders:?}");
    assert_eq!((&orders[0]["kill_switch"], &orders[0]["network"]["name"]), (&"alive".into(), &spec.config_name.clone().into()));
}

/// On a full disk nothing can be written: no progress, no vote, no finding. A kill switch still
/// fires for what is proven.
#[test]
fn a_kill_switch_fires_on_a_full_disk() {
    let runtime = runtime();
    let scenario = Scenario { slots: 12, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    let (first, last) = (scenario.operator[0], scenario.operator[11]);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let (signer, called) = signer(network.second_machine());
    let kill_switch = format!("kill_switch = {{ url = \"http://{signer}/disable\", secret_file = \"secret\" }}\n");
    let stage = stage(&network, &format!("[[watch.groups]]\nname = \"acme\"\nkeys = [\"{first}-{last}\"]\n{kill_switch}"));
    let running = Running::start_on_a_small_disk(&slashwatch(), &stage.config);
    running.wait_for("watching");
    running.fill_disk();
    let truth = std::thread::scope(|scope| {
        let play = scope.spawn(|| runtime.block_on(network.run()).expect("the simulation runs to its end"));
        // The disk is the cause, and not the peers.
        let status = wait_until(stage.api, "/v1/status", |status| {
            status["readiness"]["index_open"] == false && status["readiness"]["listening"] == true
        });
        assert!(status["ready"] == false && status["notices"].to_string().contains("the disk refuses writes"), "{status}");
        let (code, told) = test_support::http::get_any(stage.api, "/readyz").expect("the API answers");
        assert!(code == 503 && told.contains("the disk refuses writes"), "{code} {told}");
        play.join().expect("it ends")
    });
    assert!(!truth.crimes.is_empty());
    let order = called.recv_timeout(TEST_TIMEOUT).expect("an order, although nothing can be written");
    assert_eq!((&order["kill_switch"], &order["test"]), (&"acme".into(), &false.into()));
    let committed: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    assert!(committed.contains(order["finding"]["id"].as_str().expect("an id")), "{order}");
    running.wait_for("nothing can be written");
    assert_eq!(running.terminate(), Some(1), "and it is told as failed at the end");
    assert!(called.try_recv().is_err(), "once");
}

/// The program of the kill switch takes longer than any other wait of the stop.
#[test]
fn a_stop_waits_for_a_kill_switch_under_way() {
    let runtime = runtime();
    let scenario = Scenario { slots: 10, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    let (first, last) = (scenario.operator[0], scenario.operator[11]);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let stage = stage(&network, "");
    let stop = script(stage.dir.path(), "sleep 12; echo stopped at last");
    let switch = format!("{{ command = [{:?}, \"x\"], timeout = \"5m\" }}", stop.display().to_string());
    let group = format!("[[watch.groups]]\nname = \"acme\"\nkeys = [\"{first}-{last}\"]\nkill_switch = {switch}\n");
    let text = std::fs::read_to_string(&stage.config).expect("there");
    std::fs::write(&stage.config, text + &group).expect("writable");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    runtime.spawn(async move { network.run().await });
    running.wait_for("kill switch fires");
    assert_eq!(running.terminate(), Some(0));
    let inspected = run(slashwatch().arg("inspect").arg("--data-dir").arg(stage.dir.path().join("data")));
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    let result = &inspected["kill_switches"]["fired"]["acme"]["result"];
    assert_eq!(result["done"], true, "{inspected}");
    assert!(result["answer"].as_str().expect("text").contains("stopped at last"), "{result}");
}

#[test]
fn lists_are_read_again_while_it_runs_and_bad_ones_change_nothing() {
    let runtime = runtime();
    let scenario = Scenario { slots: 60, slot_duration: Duration::from_millis(1000), ..Scenario::quiet(64) };
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let stage = stage(&network, "[watch]\nfiles = [\"keys.csv\"]\nreload = \"0s\"\n");
    let keys = stage.dir.path().join("keys.csv");
    std::fs::write(&keys, "group,key\nacme,1-3\n").expect("writable");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    std::fs::write(&keys, "group,key\nacme,zebra\n").expect("writable");
    running.signal("HUP");
    let told = running.wait_for("what was in force stays");
    assert!(told.contains("keys.csv") && told.contains("line 2"), "{told}");
    wait_until(stage.api, "/v1/status", |status| {
        let notices = status["notices"].to_string();
        notices.contains("what was in force stays") && notices.contains("line 2")
    });
    std::fs::write(&keys, "group,key\nacme,1-9\nblue,20\n").expect("writable");
    running.signal("HUP");
    running.wait_for("lists of watched keys are read again");
    wait_until(stage.api, "/v1/status", |status| !status["notices"].to_string().contains("what was in force stays"));
    assert_eq!(running.terminate(), Some(0));
}

/// The reason why a list cannot be used names its file. On a public address it is in the log only,
/// even where watched keys are shown.
#[test]
fn a_rejected_list_is_not_named_on_a_public_address() {
    let runtime = runtime();
    let scenario = Scenario { slots: 60, slot_duration: Duration::from_millis(1000), ..Scenario::quiet(64) };
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let stage = stage(&network, "show_watched = \"always\"\n[watch]\nfiles = [\"keys.csv\"]\nreload = \"0s\"\n");
    let text = std::fs::read_to_string(&stage.config).expect("written");
    let public = format!("0.0.0.0:{}", stage.api.port());
    std::fs::write(&stage.config, text.replace(&stage.api.to_string(), &public)).expect("writable");
    let keys = stage.dir.path().join("keys.csv");
    std::fs::write(&keys, "group,key\nacme,1-3\n").expect("writable");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    std::fs::write(&keys, "group,key\nacme,zebra\n").expect("writable");
    running.signal("HUP");
    running.wait_for("what was in force stays");
    wait_until(stage.api, "/v1/status", |status| status["notices"].to_string().contains("what was in force stays"));
    let status = get_text(stage.api, "/v1/status").expect("an answer");
    assert!(!status.contains("keys.csv") && status.contains("the log says why"), "{status}");
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn replayed_findings_carry_the_labels_of_the_lists() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let capture = dir.path().join("simulated.e2s");
    let truth = write_capture(&Scenario::every_crime(ForkName::Fulu, PresetName::Minimal, 64), &capture).expect("played");
    let list = dir.path().join("keys.csv");
    std::fs::write(&list, "group,key,operator\nall,0-63,acme\n").expect("writable");
    let out = dir.path().join("found.jsonl");
    let mut command = slashwatch();
    command.arg("replay").arg(&capture).arg("--watch").arg(&list).arg("--findings").arg(&out);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = test_support::findings::findings(&out);
    let slashable: Vec<&Value> = found.iter().filter(|finding| !finding["evidence"].is_null()).collect();
    assert_eq!(slashable.len(), truth.crimes.len());
    for finding in slashable {
        assert_eq!(finding["validator"]["labels"], serde_json::json!(["group=all", "operator=acme"]));
    }
    std::fs::write(&list, "group,key\nall,x\n").expect("writable");
    let mut command = slashwatch();
    command.arg("replay").arg(&capture).arg("--watch").arg(&list);
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    assert!(stderr(&output).contains("line 2"), "{}", stderr(&output));
}

/// Two groups whose stop does not do what it should. That of `broken` fails at first. That of
/// `deaf` says that it is done, and its keys sign on. The proof of the second one is checked before
/// by another library.
#[test]
fn a_stop_that_fails_and_keys_that_sign_on_are_told() {
    let runtime = runtime();
    let scenario = Scenario { slots: 48, slot_duration: Duration::from_millis(600), ..Scenario::staked(64, 12) };
    let operator = scenario.operator.clone();
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let (sender, told) = sync_channel(10_000);
    let hook = serve(anywhere(), move |request| {
        let _ = sender.send(request.json());
        "204 No Content"
    });
    let stage = stage(&network, "");
    let dir = stage.dir.path();
    std::fs::write(dir.join("secret"), "hunter2").expect("writable");
    let stop =
        script(dir, "date +%s%N >> $(dirname $0)/at\n[ $SLASHWATCH_GROUP$SLASHWATCH_ATTEMPT = broken1 ] && exit 1; exit 0");
    let group = |name: &str, members: &[ValidatorIndex], more: &str| {
        let keys: Vec<String> = members.iter().map(ToString::to_string).collect();
        format!("[[watch.groups]]\nname = {name:?}\nkeys = {keys:?}\nkill_switch = {{ command = [{stop:?}]{more} }}\n")
    };
    let (broken, deaf) = operator.split_at(6);
    let route = "[[alerts.routes]]\nname = \"pager\"\nmin_severity = \"critical\"\nsecret_file = \"secret\"\n";
    let text = std::fs::read_to_string(&stage.config).expect("there")
        + &group("broken", broken, "")
        + &group("deaf", deaf, ", second_check = true")
        + &format!("{route}url = \"http://{hook}/\"\n");
    std::fs::write(&stage.config, text).expect("writable");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    runtime.block_on(network.run()).expect("the simulation runs to its end");

    let is_about_orders = |kind: &str| ["kill_switch_failed", "signs_after_stop", "proof_not_confirmed"].contains(&kind);
    let mut texts: Vec<String> = Vec::new();
    // The keys of `broken` are told of too, once its stop was done after all.
    let is_deaf = |text: &String| text.contains("keys sign after the stop") && text.contains("group=deaf");
    while !(texts.iter().any(|text| text.contains("STOPPED AFTER ALL")) && texts.iter().any(is_deaf)) {
        let delivery = told.recv_timeout(TEST_TIMEOUT).unwrap_or_else(|_| panic!("only these were told: {texts:?}"));
        if is_about_orders(delivery["finding"]["kind"].as_str().expect("a kind")) {
            texts.push(delivery["text"].as_str().expect("text").to_owned());
        }
    }
    texts.iter().for_each(|text| println!("{text}\n"));
    let of = |part: &str| texts.iter().filter(|text| text.lines().next().is_some_and(|line| line.ends_with(part))).count();
    assert_eq!(of("a kill switch failed (group=broken)"), 2, "its beginning and its end: {texts:?}");
    assert!(texts[0].contains("its order FAILED (attempt 1): ") && texts[0].contains("exit status: 1"), "{}", texts[0]);
    assert!(!texts.iter().any(|text| text.contains("a proof was not confirmed")), "the proof is genuine: {texts:?}");
    let groups = test_support::http::get(stage.api, "/v1/watch/groups").expect("the API answers");
    let deaf = groups["groups"].as_array().expect("a list").iter().find(|group| group["name"] == "deaf").expect("it is there");
    let switch = &deaf["kill_switch"];
    assert_eq!((&switch["state"], &switch["after_stop"]["state"]), (&"failed".into(), &"signing".into()), "{switch}");
    assert!(switch["after_stop"]["keys"].as_u64().is_some_and(|keys| (1..=6).contains(&keys)), "{switch}");
    let status = run(slashwatch().args(["killswitch", "status", "--config"]).arg(&stage.config));
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("group deaf fired") && status.contains("still sign"), "{status}");
    // How long a stop takes with the second check in it.
    let found = test_support::http::get(stage.api, "/v1/findings?group=deaf&kind=double_vote&limit=1").expect("the API answers");
    let second_seen = found["findings"][0]["second_seen"].as_str().expect("text").parse::<evidence::Time>().expect("a time");
    let ran: Vec<(String, u64)> = std::fs::read_to_string(dir.join("fired"))
        .expect("it ran")
        .lines()
        .zip(std::fs::read_to_string(dir.join("at")).expect("it ran").lines())
        .map(|(fired, at)| (fired.to_owned(), at.parse().expect("nanoseconds")))
        .collect();
    let stopped = ran.iter().find(|(fired, _)| fired.starts_with("deaf ")).expect("it ran");
    let took = evidence::Time::from_unix_ns(stopped.1).since(second_seen);
    println!("with the second check, the stop began {took:?} after the second message came");
    assert_eq!(running.terminate(), Some(0));
}
