//! A campaign with the load of a mainnet and 64 hostile peers. The peers have 64 withdrawn keys,
//! and do everything at once to fool the watcher, to flood it or to cut it off.
//!
//! The watcher is the program as its users run it, in its own process. It receives everything over
//! libp2p on loopback:
//!
//! | who | how many | what |
//! |---|---|---|
//! | publishers | 2 | bring the load, and half of the offences each; one configured, one dials in |
//! | neighbour | 1 | receives what the watcher forwards, and sends nothing |
//! | attackers | 62 | share the attacks of `simulator::load::hostile::ATTACKS` |
//! | liars | 2 | receive too, and claim that the head of the chain is genesis |
//!
//! The test checks what an operator relies on. Every offence of a key in use is found. The kill
//! switches and alerts of watched keys come. No switch fires for old offences. No honest peer is
//! disconnected. Honest votes are forwarded, and no message of an attacker is. Memory and disk stay
//! bounded. Times are only printed, because a benchmark measures them.
//!
//! The short form takes a minute. `SLASHWATCH_CAMPAIGN_SLOTS=50` is the long form, which takes ten
//! minutes with a million validators. `SLASHWATCH_CAMPAIGN_VALIDATORS` changes the number of
//! validators.

mod common;

use common::slashwatch;
use consensus::{Network, Root, Slot, ValidatorIndex};
use offline::bench::Latency;
use serde_json::Value;
use simulator::Crime;
use simulator::load::hostile::{ATTACKS, Arsenal, Moment};
use simulator::load::{Load, LoadPlan};
use sources::gossip::{GossipConfig, GossipControl, GossipService, Identity, PeerAddress, PeerEventKind, StatusView};
use sources::metrics::SourceMetrics;
use sources::source::{ReceivedAs, SourceEvent};
use sources::topic::Topic;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use test_support::http::{anywhere, free_port, get, get_text, serve};
use test_support::program::{Running, WatcherFolder, runtime};
use tokio::sync::watch;

const SLOT: Duration = Duration::from_secs(12);
/// The network is three weeks old. So there are epochs to vote about, and offences from long ago.
const EPOCHS_BEFORE: u64 = 5000;
const OFFENCES: usize = 100;
/// Number of offenders that are watched. Each has its own kill switch.
const WATCHED: usize = 4;
const ATTACKERS: usize = 62;
const LIARS: usize = 2;
/// Number of keys in a watched group that left after they were slashed.
const SLASHED: usize = 8;
/// Limit on the messages that are handed to a node at the same time.
const TOGETHER: usize = 64;
/// Time limit after the last message. What has not come by then will not come.
const SETTLED: Duration = Duration::from_secs(60);
/// Limit on the watcher's memory beyond the memory at its start, in bytes: a fixed part, and a part
/// for each honest message. gossipsub has to remember the id of each message for two epochs, which
/// is longer than the campaign.
const MEMORY: u64 = 500 << 20;
const MEMORY_PER_MESSAGE: u64 = 300;
/// Limit on the growth of the data directory, in bytes. At the start it holds a state and the keys
/// of all validators.
const DISK: u64 = 200 << 20;
/// Limit on findings about keys that cannot be punished: 72 keys, three kinds and two days, doubled
/// because of the anomalies that go with them.
const WORTHLESS_FINDINGS: usize = 72 * 3 * 2 * 2;

/// A message that a node is to publish.
struct Due {
    /// Nanoseconds since genesis.
    at_ns: u64,
    topic: Topic,
    payload: Arc<[u8]>,
    /// The finding of the offence that this message completes.
    completes: Option<Root>,
}

/// All messages that are going to be sent.
struct Script {
    publishers: [Vec<Due>; 2],
    attackers: Vec<Vec<Due>>,
    crimes: Vec<Crime>,
    /// The newest block in each slot.
    heads: Vec<(Slot, Root)>,
    /// For each payload: the name of its attack, or `None` if it belongs to the load.
    known: HashMap<Arc<[u8]>, Option<&'static str>>,
    withdrawn: Vec<ValidatorIndex>,
    slashed: Vec<ValidatorIndex>,
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

fn plan() -> LoadPlan {
    let slots = variable("SLASHWATCH_CAMPAIGN_SLOTS");
    let n_active =
        variable("SLASHWATCH_CAMPAIGN_VALIDATORS").unwrap_or(if slots.is_some() { 1_000_000 } else { 65_536 }) as usize;
    let slots = slots.unwrap_or(3);
    // Surround votes are up to two epochs ahead, and honest votes would contradict them later on.
    let surrounders = if slots < 32 { OFFENCES / 4 } else { 0 };
    LoadPlan {
        n_registered: n_active * 2,
        epochs_before: EPOCHS_BEFORE,
        slashed: SLASHED,
        offenders: OFFENCES - surrounders,
        surrounders,
        ..LoadPlan::quiet(n_active, slots)
    }
}

/// Makes the messages of the load and the attacks in advance, so that this costs no time while they
/// are sent.
fn write_script(plan: &LoadPlan) -> Script {
    let mut load = Load::new(*plan, 0).expect("the plan can be played");
    let mut script = Script {
        publishers: [Vec::new(), Vec::new()],
        attackers: (0..ATTACKERS).map(|_| Vec::new()).collect(),
        crimes: Vec::new(),
        heads: Vec::new(),
        known: HashMap::new(),
        withdrawn: Vec::new(),
        slashed: Vec::new(),
    };
    for (nth, slot) in (0..).zip(plan.each_slot()) {
        let messages = load.play(slot);
        script.heads.push(load.head());
        let arsenal = Arsenal::new(&load);
        let moment = Moment { slot, honest: &messages };
        for (number, attack) in ATTACKS.iter().enumerate() {
            let peers: Vec<usize> = (number..ATTACKERS).step_by(ATTACKS.len()).collect();
            let first = nth * attack.per_slot;
            for (n, shot) in (first..).zip(arsenal.play(attack, &moment, nth)) {
                let topic = Topic::parse(&shot.topic).expect("attacks are sent on topics that are read");
                let payload: Arc<[u8]> = Arc::from(shot.payload);
                script.known.insert(payload.clone(), Some(attack.name));
                script.attackers[peers[n as usize % peers.len()]].push(Due {
                    at_ns: shot.at_ns,
                    topic,
                    payload,
                    completes: None,
                });
            }
        }
        (script.withdrawn, script.slashed) = (arsenal.withdrawn().to_vec(), arsenal.slashed().to_vec());
        for message in messages {
            let topic = Topic::parse(&message.topic).expect("a load is sent on topics that are read");
            let payload: Arc<[u8]> = Arc::from(message.payload);
            let completes = message.crime.as_ref().map(|crime| crime.finding_id);
            // The message that completes an offence comes from one peer only. If the watcher does
            // not listen to that peer, it misses the offence.
            let senders = if completes.is_some() { &[script.crimes.len() % 2][..] } else { &[0, 1] };
            for sender in senders {
                script.publishers[*sender].push(Due { at_ns: message.at_ns, topic, payload: payload.clone(), completes });
            }
            script.known.insert(payload, None);
            script.crimes.extend(message.crime);
        }
    }
    for dues in script.publishers.iter_mut().chain(&mut script.attackers) {
        dues.sort_by_key(|due| due.at_ns);
    }
    script
}

fn unix_ns() -> u64 {
    base::Time::now().0
}

/// A node on loopback.
struct Peer {
    name: &'static str,
    /// The address that it listens on.
    address: String,
    control: GossipControl,
}

struct PeerOptions {
    name: &'static str,
    number: usize,
    dials: Option<PeerAddress>,
    subscribes: bool,
    status: watch::Receiver<StatusView>,
}

/// The messages and events that a peer received.
#[derive(Default)]
struct FirstSeen {
    /// Goodbyes that it received, and lost connections.
    sent_away: Vec<String>,
    /// Payloads, each with the time of arrival.
    messages: Vec<(u64, Arc<[u8]>)>,
}

/// Starts a node. It ends when the sender of `stop` is dropped. If `heard` is given, received
/// messages and events are noted there.
async fn start(
    options: PeerOptions,
    network: Arc<Network>,
    mut stop: watch::Receiver<()>,
    heard: Option<Arc<Mutex<FirstSeen>>>,
) -> Peer {
    let PeerOptions { name, number, dials, subscribes, status } = options;
    let config = GossipConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")],
        peers: dials.into_iter().collect(),
        identity: Identity::Secret(consensus::sha256(format!("{name} {number}").as_bytes())),
        agent: format!("{name}/{number}"),
        subscribe: subscribes,
        send_queue_messages: 65_536,
        ..GossipConfig::default()
    };
    let mut handle = GossipService::start(config, network, status, SourceMetrics::unregistered()).expect("it starts");
    let address = loop {
        if let Some(SourceEvent::ListeningOn(address)) = handle.events.recv().await {
            break address.to_string();
        }
    };
    let control = handle.control();
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                _ = stop.changed() => break,
                event = handle.events.recv() => event,
            };
            let Some(event) = event else { break };
            let Some(heard) = &heard else { continue };
            let mut heard = heard.lock().expect("nobody panics with it");
            match event {
                SourceEvent::Message(message) => {
                    if let ReceivedAs::Gossip { payload, .. } = message.received_as {
                        heard.messages.push((unix_ns(), Arc::from(payload)));
                    }
                }
                SourceEvent::Peer(event) => match event.what {
                    PeerEventKind::Goodbye { sent: false, code, reason } => {
                        heard.sent_away.push(format!("{name}: goodbye {code} ({reason})"));
                    }
                    PeerEventKind::Disconnected { reason } => heard.sent_away.push(format!("{name}: disconnected ({reason})")),
                    _ => {}
                },
                SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => {}
            }
        }
        handle.shutdown().await;
    });
    Peer { name, address, control }
}

/// Publishes each message when it is due, and sleeps until then. The load follows the clock of its
/// network here, and where heads are reported. The test never waits in this way for the watcher to
/// keep up. Returns the sending time of each message that completes an offence.
async fn send(control: GossipControl, dues: Vec<Due>, genesis_ns: u64) -> Vec<(Root, u64)> {
    let mut left_at = Vec::new();
    let mut under_way = tokio::task::JoinSet::new();
    for due in dues {
        let (at, now) = (genesis_ns + due.at_ns, unix_ns());
        if at > now {
            tokio::time::sleep(Duration::from_nanos(at - now)).await;
        }
        while under_way.len() >= TOGETHER {
            left_at.extend(under_way.join_next().await.and_then(Result::ok).flatten());
        }
        let control = control.clone();
        under_way.spawn(async move {
            let left_at = unix_ns();
            let sent = control.publish_payload(due.topic, &due.payload).await;
            due.completes.filter(|_| sent.is_ok()).map(|id| (id, left_at))
        });
    }
    while let Some(one) = under_way.join_next().await {
        left_at.extend(one.ok().flatten());
    }
    left_at
}

/// Requests of the watcher to alert routes and kill switches: time, path and finding.
type Told = Arc<Mutex<Vec<(u64, String, Value)>>>;

/// Answers the requests of alerts and kill switches, which have different paths.
fn receiver() -> (std::net::SocketAddr, Told) {
    let told = Told::default();
    let noted = told.clone();
    let address = serve(anywhere(), move |request| {
        let finding = request.json()["finding"].clone();
        noted.lock().expect("nobody panics with it").push((unix_ns(), request.path, finding));
        "204 No Content"
    });
    (address, told)
}

/// Writes a configuration for a load, with groups, kill switches and alerts.
fn set_up(load: &Load, script: &Script, peer: &str, hook: std::net::SocketAddr) -> WatcherFolder {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("writable");
    write("network.yaml", load.config_yaml().as_bytes());
    write("state.ssz", &load.state_ssz());
    write("secret", b"hunter2");
    let api = free_port();
    let mut text = format!(
        "data_dir = \"data\"\n[network]\nconfig = \"network.yaml\"\nstate = \"state.ssz\"\n\
         [gossip]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\npeers = [{peer:?}]\n[api]\nlisten = \"{api}\"\n\
         [[alerts.routes]]\nname = \"ops\"\nurl = \"http://{hook}/alerts\"\nsecret_file = \"secret\"\nmin_severity = \"critical\"\n"
    );
    let mut group = |name: &str, keys: Vec<String>| {
        text += &format!(
            "[[watch.groups]]\nname = \"{name}\"\nkeys = {keys:?}\n\
             kill_switch = {{ url = \"http://{hook}/switches/{name}\", secret_file = \"secret\" }}\n"
        );
    };
    for (name, crime) in watched(script) {
        group(&name, vec![crime.validator.to_string()]);
    }
    let each = |keys: &[ValidatorIndex]| keys.iter().map(ToString::to_string).collect();
    group("slashed", each(&script.slashed));
    group("withdrawn", each(&script.withdrawn));
    let config = dir.path().join("slashwatch.toml");
    std::fs::write(&config, text).expect("writable");
    WatcherFolder { dir, config, api }
}

/// Offenders that are watched, spread over all offences, with the names of their groups. Each with
/// its first offence, because a kill switch fires once.
fn watched(script: &Script) -> impl Iterator<Item = (String, &Crime)> {
    let mut seen = BTreeSet::new();
    let firsts: Vec<&Crime> = script.crimes.iter().filter(|crime| seen.insert(crime.validator)).collect();
    let every = firsts.len() / WATCHED;
    firsts.into_iter().step_by(every).take(WATCHED).enumerate().map(|(n, crime)| (format!("offender-{n}"), crime))
}

/// Reads a number of kB from `/proc/PID/status`, in bytes.
fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// Seconds of CPU that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // A file that RocksDB deletes meanwhile is not counted.
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Counters of a metrics page whose names begin with `name`, by their labels.
fn counters(page: &str, name: &str) -> BTreeMap<String, u64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    lines
        .map(|(labels, number)| (labels.to_owned(), number.parse::<f64>().unwrap_or(0.0) as u64))
        .filter(|(_, n)| *n > 0)
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn milliseconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

fn print_latency(what: &str, all: Vec<f64>) {
    let n = all.len();
    match Latency::of(all) {
        Some(Latency { p50, p99, max }) => println!("{what}: p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms of {n}"),
        None => println!("{what}: none"),
    }
}

#[test]
fn everything_at_once_neither_fools_nor_floods_nor_deafens() {
    let plan = plan();
    println!("seed {}, {} of {} validators, {} slots", plan.seed, plan.n_active, plan.n_registered, plan.slots);
    let began = Instant::now();
    let script = write_script(&plan);
    let n_hostile = script.known.values().flatten().count();
    let n_honest = script.known.len() - n_hostile;
    println!("made {n_honest} honest and {n_hostile} hostile messages in {:?}", began.elapsed());
    assert_eq!(script.crimes.len(), OFFENCES);

    // Checking two million keys takes minutes, and what is sent meanwhile would come all at once. A
    // first run does that in advance, and leaves the checked keys to the one that counts.
    let (hook, told) = receiver();
    let checked_keys = {
        let load = Load::new(plan, unix_ns() / 1_000_000_000).expect("the plan can be played");
        let stage = set_up(&load, &script, "/ip4/127.0.0.1/tcp/9", hook);
        let running = Running::start(slashwatch(), &stage.config);
        running.wait_for("watching");
        assert_eq!(running.terminate(), Some(0));
        std::fs::read(stage.dir.path().join("data/pubkeys")).expect("the checked keys are kept")
    };
    told.lock().expect("nobody panics with it").clear();

    // The messages do not depend on the genesis time. From here on, the time of the test counts.
    let first_slot = plan.each_slot().next().expect("at least one");
    let lead = 20 + plan.n_registered as u64 / 50_000;
    let genesis_time = unix_ns() / 1_000_000_000 + lead - first_slot.as_u64() * SLOT.as_secs();
    let genesis_ns = genesis_time * 1_000_000_000;
    let load = Load::new(plan, genesis_time).expect("the plan can be played");
    let network = Arc::new(load.network().clone());
    let runtime = runtime();
    let (keep, stop) = watch::channel(());
    let (tell_status, status) = watch::channel(StatusView { head_slot: first_slot.saturating_sub(1), ..StatusView::default() });
    let (_genesis, genesis_status) = watch::channel(StatusView::default());
    let sent_away: Arc<Mutex<FirstSeen>> = Arc::default();
    let heard: Arc<Mutex<FirstSeen>> = Arc::default();
    let peer = |name, number, dials: Option<&PeerAddress>, subscribes, status: &watch::Receiver<StatusView>, heard| {
        let options = PeerOptions { name, number, dials: dials.cloned(), subscribes, status: status.clone() };
        runtime.block_on(start(options, network.clone(), stop.clone(), heard))
    };
    let publisher = peer("publisher", 0, None, true, &status, Some(sent_away.clone()));

    let stage = set_up(&load, &script, &publisher.address, hook);
    std::fs::create_dir(stage.dir.path().join("data")).expect("writable");
    std::fs::write(stage.dir.path().join("data/pubkeys"), checked_keys).expect("writable");
    drop(load);
    let running = Running::start(slashwatch(), &stage.config);
    let line = running.wait_for("listening for peers");
    let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next()).expect("it says where");
    let watcher: PeerAddress = address.parse().expect("a multiaddr");
    running.wait_for("watching");
    let memory_at_start = memory(running.id(), "VmRSS");
    let disk_at_start = bytes_in(&stage.dir.path().join("data"));
    let publishers = [publisher, peer("publisher", 1, Some(&watcher), true, &status, Some(sent_away.clone()))];
    let neighbour = peer("neighbour", 0, Some(&watcher), true, &status, Some(heard.clone()));
    for honest in publishers.iter().chain([&neighbour]) {
        let connected = async {
            let mut peers = honest.control.watch_peers();
            let _ = peers.wait_for(|peers| peers.iter().any(|peer| peer.connected && peer.topics > 0)).await;
        };
        let connected = runtime.block_on(async { tokio::time::timeout(SETTLED, connected).await });
        assert!(connected.is_ok(), "the {} is not let in", honest.name);
    }
    let attackers: Vec<Peer> = (0..ATTACKERS).map(|n| peer("attacker", n, Some(&watcher), false, &status, None)).collect();
    let liars: Vec<Peer> = (0..LIARS).map(|n| peer("liar", n, Some(&watcher), true, &genesis_status, None)).collect();
    println!("all of them are there {:.1} s before the first slot", {
        (genesis_ns + first_slot.as_u64() * SLOT.as_nanos() as u64) as f64 / 1e9 - unix_ns() as f64 / 1e9
    });

    let (started, cpu_before) = (Instant::now(), [cpu_seconds(running.id()), cpu_seconds(std::process::id())]);
    let Script { publishers: honest_dues, attackers: hostile_dues, .. } = &script;
    assert!(honest_dues.iter().chain(hostile_dues).all(|dues| !dues.is_empty()));
    let mut script = script;
    let controls = publishers.iter().chain(&attackers).map(|peer| peer.control.clone());
    let dues = std::mem::take(&mut script.publishers).into_iter().chain(std::mem::take(&mut script.attackers));
    let sending: Vec<_> = controls.zip(dues).map(|(control, dues)| runtime.spawn(send(control, dues, genesis_ns))).collect();
    let heads = script.heads.clone();
    runtime.spawn(async move {
        for (head_slot, head_root) in heads {
            let at = genesis_ns + head_slot.as_u64() * SLOT.as_nanos() as u64 + 400_000_000;
            tokio::time::sleep(Duration::from_nanos(at.saturating_sub(unix_ns()))).await;
            tell_status.send_replace(StatusView { head_root, head_slot, ..StatusView::default() });
        }
        // The status stays the same until the end.
        std::future::pending::<()>().await;
    });
    let mut sent = BTreeMap::new();
    for one in sending {
        sent.extend(runtime.block_on(one).expect("sending does not panic"));
    }
    println!("all is sent {:?} after the beginning", began.elapsed());
    let [watcher_cpu, peers_cpu] = [cpu_seconds(running.id()) - cpu_before[0], cpu_seconds(std::process::id()) - cpu_before[1]];
    println!("CPU: watcher {watcher_cpu:.0} s, its peers {peers_cpu:.0} s of {:.0} s", started.elapsed().as_secs_f64());

    let crimes: BTreeSet<String> = script.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    let until = Instant::now() + SETTLED;
    let is_settled = || {
        let told = told.lock().expect("nobody panics with it");
        let came = |path: &str, id: &str| told.iter().any(|(_, at, finding)| at == path && text(&finding["id"]) == id);
        watched(&script).all(|(name, crime)| {
            let id = crime.finding_id.to_string();
            came("/alerts", &id) && came(&format!("/switches/{name}"), &id)
        })
    };
    let mut findings = stage.all("findings");
    let found = |findings: &[Value]| findings.iter().filter(|finding| crimes.contains(text(&finding["id"]))).count();
    while (found(&findings) < crimes.len() || !is_settled()) && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(500));
        findings = stage.all("findings");
    }

    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: String| {
        println!("{} {what}", if holds { "holds:" } else { "WRONG:" });
        if !holds {
            wrong.push(what);
        }
    };
    check(sent.len() == OFFENCES, format!("{} of {OFFENCES} offences were sent", sent.len()));
    check(found(&findings) == OFFENCES, format!("{} of {OFFENCES} offences of keys in use are found", found(&findings)));
    let time = |value: &Value| text(value).parse::<evidence::Time>().map_or(0, |time| time.as_unix_ns());
    let of_crimes = || findings.iter().filter(|finding| crimes.contains(text(&finding["id"])));
    print_latency(
        "second message sent to finding",
        of_crimes()
            .filter_map(|finding| Some((sent.get(&text(&finding["id"]).parse::<Root>().ok()?)?, finding)))
            .map(|(sent, finding)| milliseconds(*sent, time(&finding["recorded_at"])))
            .collect(),
    );
    print_latency(
        "second message heard to finding",
        of_crimes().map(|finding| milliseconds(time(&finding["second_seen"]), time(&finding["recorded_at"]))).collect(),
    );

    let mut slowest: Vec<(f64, String)> = of_crimes()
        .map(|finding| {
            let (heard, recorded) = (time(&finding["second_seen"]), time(&finding["recorded_at"]));
            let into = milliseconds(genesis_ns, heard) % 12_000.0;
            (
                milliseconds(heard, recorded),
                format!("{} {:.0} ms into slot {}", text(&finding["kind"]), into, text(&finding["slot"])),
            )
        })
        .collect();
    slowest.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("slowest: {:?}", &slowest[..slowest.len().min(10)]);

    let hostile: BTreeSet<String> = script.withdrawn.iter().chain(&script.slashed).map(ToString::to_string).collect();
    let accused = |finding: &&Value| !finding["evidence"].is_null() && !crimes.contains(text(&finding["id"]));
    let (worthless, falsely): (Vec<&Value>, Vec<&Value>) =
        findings.iter().filter(accused).partition(|finding| hostile.contains(text(&finding["validator"]["index"])));
    check(falsely.is_empty(), format!("{} keys in use are accused falsely: {:?}", falsely.len(), falsely.first()));
    check(
        findings.len() <= OFFENCES * 2 + WORTHLESS_FINDINGS,
        format!("{} findings in all, {} proofs against keys that cannot be punished", findings.len(), worthless.len()),
    );
    let kinds = |findings: &[Value]| {
        let mut kinds = BTreeMap::new();
        findings
            .iter()
            .for_each(|finding| *kinds.entry(format!("{} {}", finding["kind"], finding["severity"])).or_insert(0u32) += 1);
        kinds
    };
    println!("findings: {:?}", kinds(&findings));
    println!("incidents: {:?}", kinds(&stage.all("incidents")));

    {
        let told = told.lock().expect("nobody panics with it");
        let first = |path: &str, id: &str| {
            told.iter().find(|(_, at, finding)| at == path && text(&finding["id"]) == id).map(|(at, ..)| *at)
        };
        for (name, crime) in watched(&script) {
            let id = crime.finding_id.to_string();
            let after = |at: Option<u64>| match (at, sent.get(&crime.finding_id)) {
                (Some(at), Some(sent)) => format!("after {:.0} ms", milliseconds(*sent, at)),
                _ => "never".to_owned(),
            };
            let (alert, switch) = (first("/alerts", &id), first(&format!("/switches/{name}"), &id));
            check(alert.is_some() && switch.is_some(), format!("{name}: switch {}, alert {}", after(switch), after(alert)));
        }
        let count = |path: &str| told.iter().filter(|(_, at, _)| at == path).count();
        check(count("/switches/slashed") == 0, format!("{} orders because of old slashings", count("/switches/slashed")));
        check(count("/switches/withdrawn") == 0, format!("{} orders because of withdrawn keys", count("/switches/withdrawn")));
        println!("{} alerts", count("/alerts"));
    }

    {
        let heard = heard.lock().expect("nobody panics with it");
        let (mut honest, mut hostile) = (BTreeMap::<u64, u64>::new(), BTreeMap::<&str, u64>::new());
        for (at, payload) in &heard.messages {
            match script.known.get(payload) {
                Some(Some(attack)) => *hostile.entry(attack).or_default() += 1,
                _ => *honest.entry((at - genesis_ns) / SLOT.as_nanos() as u64 - first_slot.as_u64() + 1).or_default() += 1,
            }
        }
        check(hostile.is_empty(), format!("attackers' messages that were passed on: {hostile:?}"));
        let silent: Vec<u64> = (1..=plan.slots).filter(|slot| !honest.contains_key(slot)).collect();
        check(silent.is_empty(), format!("honest messages are passed on in each slot but {silent:?}: {honest:?}"));
        let sent_away = sent_away.lock().expect("nobody panics with it");
        let complaints: Vec<&String> = sent_away.sent_away.iter().chain(&heard.sent_away).collect();
        check(complaints.is_empty(), format!("honest peers are sent away: {complaints:?}"));
    }

    let page = get_text(stage.api, "/metrics").expect("the API answers");
    println!("outcomes: {:?}", counters(&page, "slashwatch_messages_total"));
    println!("shed: {:?}", counters(&page, "slashwatch_shed_messages_total"));
    println!("shed at the door: {:?}", counters(&page, "slashwatch_sources_shed_events_total"));
    println!("verdicts: {:?}", counters(&page, "slashwatch_sources_verdicts_total"));
    println!("peers: {:?}", get(stage.api, "/v1/status").map(|status| (status["peers"].clone(), status["notices"].clone())));
    let peak = memory(running.id(), "VmHWM");
    let grown = peak.saturating_sub(memory_at_start);
    let room = MEMORY + MEMORY_PER_MESSAGE * n_honest as u64;
    check(grown < room, format!("memory: {} MB at the start, {} MB at the most", memory_at_start >> 20, peak >> 20));
    let disk = bytes_in(&stage.dir.path().join("data"));
    let written = disk.saturating_sub(disk_at_start);
    check(written < DISK, format!("disk: {} MB at the start, {} MB at the end", disk_at_start >> 20, disk >> 20));
    drop((keep, publishers, neighbour, attackers, liars));
    assert_eq!(running.terminate(), Some(0));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
