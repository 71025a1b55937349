//! A watcher that receives nothing reports it: it is not ready, the status shows it, the slots are
//! a gap, an incident is open, and every alert route gets one report.

mod common;

use common::{slashwatch, stage};
use serde_json::Value;
use simulator::{Scenario, SimNetwork};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::http::{anywhere, get, serve, wait_until};
use test_support::program::{Running, WatcherFolder, run, runtime, stderr};

/// Accepts webhook deliveries and keeps the findings in them.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Value>>>);

impl Receiver {
    fn start() -> (SocketAddr, Self) {
        let receiver = Self::default();
        let kept = receiver.clone();
        let address = serve(anywhere(), move |request| {
            kept.0.lock().expect("no other panicked").push(request.json()["finding"].clone());
            "204 No Content"
        });
        (address, receiver)
    }

    /// Returns the reports about silences of the whole network: `opened` or `over`.
    fn silences(&self) -> Vec<String> {
        let told = self.0.lock().expect("no other panicked");
        let silences = told.iter().filter(|finding| finding["kind"] == "subnet_silent" && finding["details"]["subnets"] == "all");
        silences.map(|finding| finding["details"]["news"].as_str().unwrap_or("opened").to_owned()).collect()
    }
}

/// One route for critical findings, and one for a label that nobody has.
fn routes(all: SocketAddr, labelled: SocketAddr) -> String {
    format!(
        "[[alerts.routes]]\nname = \"ops\"\nurl = \"http://{all}/\"\nsecret_file = \"secret\"\nmin_severity = \"critical\"\n\
         [[alerts.routes]]\nname = \"acme\"\nurl = \"http://{labelled}/\"\nsecret_file = \"secret\"\nlabels = [\"operator=nobody\"]\n"
    )
}

/// A network with slots of one second that runs for `slots` slots.
fn network(runtime: &tokio::runtime::Runtime, slots: u64) -> SimNetwork {
    let scenario = Scenario { slots, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    println!("seed {}", scenario.seed);
    runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports")
}

fn text(address: SocketAddr, path: &str) -> (String, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("the API listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.lines().next().unwrap_or_default().to_owned();
    (status, answer)
}

fn last_message(address: SocketAddr) -> u64 {
    let (_, metrics) = text(address, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("slashwatch_last_message_timestamp_seconds "));
    line.expect("it exists from the start").parse().expect("whole seconds")
}

/// Waits until the silence has lasted `slots` slots more. The gap in the status shows its length.
fn let_it_go_on(stage: &WatcherFolder, slots: u64) -> Value {
    let end = |status: &Value| {
        let gaps = status["gaps"].as_array().cloned().unwrap_or_default();
        let silent = gaps.into_iter().rfind(|gap| gap["reason"].as_str().is_some_and(|why| why.contains("no vote or block")));
        silent.and_then(|gap| gap["to_slot"].as_str()?.parse::<u64>().ok())
    };
    let begun = wait_until(stage.api, "/v1/status", |status| end(status).is_some());
    let until = end(&begun).expect("just seen") + slots;
    wait_until(stage.api, "/v1/status", |status| end(status).is_some_and(|end| end >= until))
}

/// Checks what the API reports while nothing is received.
fn assert_deaf(stage: &WatcherFolder, advice: &str) {
    let status = let_it_go_on(stage, 4);
    assert_eq!(status["ready"], false, "{status}");
    assert!(status["readiness"]["since"].is_string(), "{status}");
    let notices = status["notices"].to_string();
    assert!(notices.contains("no vote or block has come since") && notices.contains(advice), "{notices}");
    let (code, body) = text(stage.api, "/readyz");
    assert!(code.contains("503") && body.contains(" since ") && body.contains(advice), "{body}");
    assert!(text(stage.api, "/healthz").0.contains("200"));
    let incidents = get(stage.api, "/v1/incidents").expect("the API answers");
    let silent: Vec<&Value> = incidents["incidents"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|incident| incident["details"]["subnets"] == "all" && incident["state"] != "closed")
        .collect();
    assert_eq!(
        (silent.len(), &silent[0]["state"], &silent[0]["severity"]),
        (1, &"open".into(), &"critical".into()),
        "{incidents}"
    );
}

#[test]
fn a_watcher_without_a_single_peer_is_red_and_every_route_is_told_once_also_over_a_restart() {
    let runtime = runtime();
    let network = network(&runtime, 4);
    let (ops, told_ops) = Receiver::start();
    let (acme, told_acme) = Receiver::start();
    let stage = stage(&network, &routes(ops, acme));
    let config =
        std::fs::read_to_string(&stage.config).expect("written").replace(&format!("peers = {:?}", network.peers()), "peers = []");
    std::fs::write(&stage.config, config).expect("writable");
    let checked = run(slashwatch().arg("config").arg("check").arg(&stage.config));
    assert_eq!(checked.status.code(), Some(0), "a warning is no error: {}", stderr(&checked));
    assert!(stderr(&checked).contains("warning: gossip.peers"), "{}", stderr(&checked));

    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    assert_eq!(last_message(stage.api), 0);
    assert_deaf(&stage, "`gossip.peers` is empty");
    for told in [&told_ops, &told_acme] {
        wait_until(stage.api, "/v1/status", |_| !told.silences().is_empty());
    }
    assert_eq!(running.terminate(), Some(0));
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let_it_go_on(&stage, 6);
    assert_eq!((told_ops.silences(), told_acme.silences()), (vec!["opened".into()], vec!["opened".into()]), "once");
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn peers_that_go_silent_are_noticed_and_told_of() {
    let runtime = runtime();
    let network = network(&runtime, 10);
    let (ops, told_ops) = Receiver::start();
    let (acme, told_acme) = Receiver::start();
    let stage = stage(&network, &routes(ops, acme));
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let (readiness, status) = std::thread::scope(|scope| {
        let play = scope.spawn(|| runtime.block_on(network.run()).expect("the simulation runs to its end"));
        let readiness = wait_until(stage.api, "/readyz", |answer| answer["listening"] == true);
        let status = get(stage.api, "/v1/status").expect("the API answers");
        play.join().expect("it ends");
        (readiness, status)
    });
    assert!(readiness["since"].is_null() && readiness["last_message"].is_string(), "{readiness}");
    assert_eq!(status["ready"], true, "{status}");
    let heard = last_message(stage.api);
    assert!(heard > 0);
    assert_deaf(&stage, "peer");
    assert!(last_message(stage.api) <= heard + 10, "the time of the last message stands still");
    for told in [&told_ops, &told_acme] {
        wait_until(stage.api, "/v1/status", |_| told.silences().last().is_some_and(|last| last == "opened"));
        let silences = told.silences();
        // Before genesis there may have been a silence. The reports of such a silence come in
        // pairs.
        let pairs: Vec<&str> = silences.iter().map(String::as_str).collect();
        assert!(pairs.chunks(2).all(|pair| matches!(pair, ["opened", "over"] | ["opened"])), "{silences:?}");
    }
    assert_eq!(told_ops.silences(), told_acme.silences());
    assert_eq!(running.terminate(), Some(0));
}
