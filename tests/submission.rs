//! The running program submits proofs to a beacon node, and is killed twice meanwhile.

mod common;

use common::{slashwatch, stage};
use consensus::Spec;
use serde_json::Value;
use simulator::{Scenario, SimNetwork};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc::sync_channel};
use std::time::Duration;
use test_support::http::{Request, anywhere, serve, wait_until};
use test_support::program::{Running, run, runtime};

const SLOT_MS: u64 = 1000;

/// A proof that reached the node.
#[derive(Clone, Debug)]
struct Arrival {
    proof: String,
    at_ms: u64,
}

/// Returns the number of accepted submissions in the API's answer.
fn n_accepted(page: &Value) -> usize {
    page["submissions"].as_array().expect("a list").iter().filter(|one| one["state"] == "accepted").count()
}

#[test]
fn each_proof_reaches_the_node_once_though_the_process_is_killed() {
    let runtime = runtime();
    let scenario = Scenario { slots: 8, slot_duration: Duration::from_millis(SLOT_MS), ..Scenario::staked(64, 8) };
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let arrivals: Arc<Mutex<Vec<Arrival>>> = Arc::default();
    let is_mute = Arc::new(AtomicBool::new(true));
    let (tell, first) = sync_channel(1000);
    let node = {
        let (arrivals, is_mute) = (arrivals.clone(), is_mute.clone());
        serve(anywhere(), move |request: Request| {
            if request.method == "GET" {
                return "404 Not Found";
            }
            assert_eq!(request.headers.get("eth-consensus-version").map(String::as_str), Some("fulu"));
            assert_eq!(request.path, "/eth/v2/beacon/pool/attester_slashings");
            let at_ms = base::Time::now().0 / 1_000_000;
            arrivals.lock().expect("unpoisoned").push(Arrival { proof: request.json().to_string(), at_ms });
            let _ = tell.send(());
            // The node does not answer until the process is killed. Then nobody can know whether
            // the node accepted the proof.
            while is_mute.load(Ordering::SeqCst) {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            "200 OK"
        })
    };
    let stage =
        stage(&network, &format!("[nodes]\nurls = [\"http://{node}\"]\ntimeout = \"60s\"\n[submission]\nenabled = true\n"));
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    assert!(truth.crimes.len() >= 4, "{} crimes", truth.crimes.len());
    first.recv_timeout(test_support::program::TEST_TIMEOUT).expect("a proof is sent");
    let page = wait_until(stage.api, "/v1/submissions", |page| page["submissions"][0]["attempts"] == 1);
    assert_eq!((&page["submissions"][0]["state"], page["submissions"].as_array().map(Vec::len)), (&"pending".into(), Some(1)));
    running.kill();
    is_mute.store(false, Ordering::SeqCst);
    let unanswered: BTreeSet<String> = arrivals.lock().expect("unpoisoned").drain(..).map(|arrival| arrival.proof).collect();
    assert_eq!(unanswered.len(), 1);

    let running = Running::start(slashwatch(), &stage.config);
    let page = wait_until(stage.api, "/v1/submissions", |page| page["submissions"][0]["state"] == "accepted");
    assert_eq!(page["submissions"][0]["attempts"], 2, "what got no answer is sent again");
    wait_until(stage.api, "/v1/submissions", |page| n_accepted(page) >= 2);
    running.kill();

    let running = Running::start(slashwatch(), &stage.config);
    let page = wait_until(stage.api, "/v1/submissions", |page| n_accepted(page) >= 3);
    assert_eq!(page["submissions"][0]["nodes"][0], format!("http://{node}"));
    assert_eq!(running.terminate(), Some(0));
    let arrivals = arrivals.lock().expect("unpoisoned").clone();
    let mut by_proof: BTreeMap<&str, usize> = BTreeMap::new();
    for arrival in &arrivals {
        *by_proof.entry(&arrival.proof).or_default() += 1;
    }
    // The second kill may have cut off an attempt. The record of the attempt shows that.
    let inspected = run(slashwatch().arg("inspect").arg("--data-dir").arg(stage.dir.path().join("data")));
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    let counts = &inspected["submissions"];
    assert_eq!(counts["refused"], 0, "{counts}");
    let repeated = by_proof.values().filter(|n| **n > 1).count();
    assert!(repeated <= 1 && arrivals.len() >= 3, "{by_proof:?}");
    let spec = Spec::from_yaml(network.config_yaml()).expect("valid");
    assert_eq!(spec.slot_duration, Duration::from_millis(SLOT_MS));
    let slot = |arrival: &Arrival| (arrival.at_ms - network.genesis_time() * 1000) / SLOT_MS;
    for pair in arrivals.windows(2).filter(|pair| pair[0].proof != pair[1].proof) {
        assert!(slot(&pair[0]) < slot(&pair[1]), "one fits into a block: {} ms apart", pair[1].at_ms - pair[0].at_ms);
    }
}
