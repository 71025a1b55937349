//! The first minute of a new user: nodes that hang, are away, are no beacon nodes or are on another
//! network, and a data directory of a recording to look at.

mod common;

use common::slashwatch;
use serde_json::Value;
use simulator::{Scenario, SimNetwork};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::capture;
use test_support::findings::findings;
use test_support::http::{free_port, get, get_any, get_text};
use test_support::program::{Running, TEST_TIMEOUT, run, runtime, stderr};

/// What a node answers to a path.
enum Answer {
    Json(String),
    Ssz(Vec<u8>),
    Html,
    Missing,
    /// Accepts the request and never answers.
    Silence,
    /// Starts a long answer and stops in the middle.
    Stuck,
}

/// Starts a simple HTTP node. It serves one request per connection.
fn node(address: SocketAddr, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        // The connections stay open, because a closed connection would be an error and not a
        // silence.
        let mut kept: Vec<TcpStream> = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Some(path) = asked_for(&stream) else { continue };
            let (status, kind, body) = match answer(&path) {
                Answer::Json(text) => ("200 OK", "application/json", text.into_bytes()),
                Answer::Ssz(bytes) => ("200 OK", "application/octet-stream", bytes),
                Answer::Html => {
                    ("200 OK", "text/html; charset=utf-8", b"<!DOCTYPE html><html><body>explorer</body></html>".to_vec())
                }
                Answer::Missing => ("404 Not Found", "application/json", b"{}".to_vec()),
                Answer::Silence => {
                    kept.push(stream);
                    continue;
                }
                Answer::Stuck => {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 10000000\r\n\r\n";
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[0; 2_000_000]));
                    kept.push(stream);
                    continue;
                }
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // The client may have closed the connection.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    address
}

fn asked_for(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut path = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
        if line.trim().is_empty() {
            return path;
        }
    }
}

/// Returns the answer of `/eth/v1/config/spec` for a built-in network.
fn spec_json(network: &str) -> String {
    let spec = consensus::Spec::builtin(network).expect("built in");
    let data: serde_json::Map<String, Value> = spec
        .to_yaml()
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.trim_matches(['\'', '"']).into()))
        .collect();
    serde_json::json!({ "data": data }).to_string()
}

fn genesis_json(root: &str) -> String {
    serde_json::json!({"data": {"genesis_time": "1606824023", "genesis_validators_root": root, "genesis_fork_version": "0x00000000"}}).to_string()
}

/// Writes a configuration that asks this node, in an empty directory.
fn config(dir: &Path, network: &str, node: SocketAddr) -> PathBuf {
    let text = format!(
        "data_dir = \"data\"\n{network}[nodes]\nurls = [\"http://{node}\"]\ntimeout = \"60s\"\n[gossip]\n\
         listen = [\"/ip4/127.0.0.1/tcp/0\"]\n[api]\nlisten = \"{}\"\n",
        free_port()
    );
    let path = dir.join("slashwatch.toml");
    std::fs::write(&path, text).expect("writable");
    path
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

const MAINNET: &str = "[network]\nname = \"mainnet\"\n";
const A_ROOT: &str = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95";
const ANOTHER_ROOT: &str = "0x212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f";

/// Runs `run`, which must end by itself, and returns its exit code and output.
fn run_to_its_end(config: &Path) -> (Option<i32>, String) {
    let output = run(slashwatch().arg("run").arg("--config").arg(config));
    (output.status.code(), stderr(&output))
}

#[test]
fn a_hanging_node_is_named_with_what_is_awaited_and_how_much_has_come() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let silent = node(anywhere(), |_| Answer::Silence);
    let file = config(dir.path(), MAINNET, silent);
    let running = Running::start(slashwatch(), &file);
    let line = running.wait_for("waiting for a beacon node's answer");
    // The health endpoints answer meanwhile.
    let text = std::fs::read_to_string(&file).expect("readable");
    let (_, api) = text.rsplit_once("listen = ").expect("an API");
    let api: SocketAddr = api.trim().trim_matches('"').parse().expect("an address");
    assert_eq!(get_text(api, "/healthz").expect("alive").trim(), "ok");
    let (status, told) = get_any(api, "/readyz").expect("an answer");
    assert!(status == 503 && told.contains("it is starting"), "{status} {told}");
    assert_eq!(get(api, "/v1/submissions"), None, "it knows nothing yet, which is no list");
    assert!(line.contains(&silent.to_string()) && line.contains("/eth/v1/config/spec"), "{line}");
    // The program can be stopped while it waits.
    assert_eq!(running.terminate(), Some(0));

    let dir = tempfile::tempdir().expect("a fresh directory");
    let stuck = node(anywhere(), |path| match path {
        "/eth/v1/config/spec" => Answer::Json(spec_json("mainnet")),
        "/eth/v1/beacon/genesis" => Answer::Json(genesis_json(A_ROOT)),
        _ => Answer::Stuck,
    });
    let running = Running::start(slashwatch(), &config(dir.path(), MAINNET, stuck));
    let line = running.wait_for("reading a beacon node's answer");
    for part in [&stuck.to_string(), "/eth/v2/debug/beacon/states/finalized", "2.0", "10.0", "mb_per_second"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_node_of_another_network_is_named_as_that() {
    // The fork version shows the difference.
    let dir = tempfile::tempdir().expect("a fresh directory");
    let of_hoodi = |path: &str| match path {
        "/eth/v1/config/spec" => Answer::Json(spec_json("hoodi")),
        "/eth/v1/beacon/genesis" => Answer::Json(genesis_json(ANOTHER_ROOT)),
        _ => Answer::Ssz(vec![7; 100_000]),
    };
    let (code, told) = run_to_its_end(&config(dir.path(), MAINNET, node(anywhere(), of_hoodi)));
    assert_eq!(code, Some(64), "{told}");
    assert!(
        told.contains("is of another network (hoodi)") && told.contains("its fork version at genesis is 0x10000910"),
        "{told}"
    );
    assert!(!told.contains("cannot be read"), "{told}");
    // The genesis validators root shows the difference. Only the data directory knows the expected
    // one.
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = watcher::datadir::DataDir::open(&dir.path().join("data")).expect("writable");
    let spec = consensus::Spec::builtin("hoodi").expect("built in");
    let genesis_validators_root = A_ROOT.parse().expect("a root");
    data.bind(&consensus::Network { spec, genesis_time: 7, genesis_validators_root }).expect("new");
    drop(data);
    let (code, told) = run_to_its_end(&config(dir.path(), "", node(anywhere(), of_hoodi)));
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("genesis validators root is 0x212f13fc") && told.contains("0x4b363db9"), "{told}");
}

/// The node does not report its network, and a state file names none. The fork version in the state
/// shows the difference.
#[test]
fn a_state_of_another_network_is_named_as_that() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let network = runtime().block_on(SimNetwork::start(Scenario::quiet(64))).expect("loopback has free ports");
    let mut state = network.state_ssz().to_vec();
    // The slot and the fork are those of hoodi.
    state[40..48].copy_from_slice(&1_600_000u64.to_le_bytes());
    state[48..52].copy_from_slice(&[0x60, 0, 0x09, 0x10]);
    state[52..56].copy_from_slice(&[0x70, 0, 0x09, 0x10]);
    let served = state.clone();
    let quiet =
        node(anywhere(), move |path| if path.contains("/states/") { Answer::Ssz(served.clone()) } else { Answer::Missing });
    let (code, told) = run_to_its_end(&config(dir.path(), MAINNET, quiet));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("the state belongs to another network: its fork version 0x70000910"), "{told}");
}

#[test]
fn an_address_that_answers_with_a_web_page_is_named_as_that() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    for network in [MAINNET, ""] {
        let explorer = node(anywhere(), |_| Answer::Html);
        let (code, told) = run_to_its_end(&config(dir.path(), network, explorer));
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("with a web page") && told.contains(&explorer.to_string()), "{told}");
    }
}

#[test]
fn a_node_that_is_away_at_the_start_is_asked_again_until_it_is_there() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let slots = Scenario { slot_duration: Duration::from_secs(12), ..Scenario::quiet(64) };
    let network = runtime().block_on(SimNetwork::start(slots)).expect("loopback has free ports");
    std::fs::write(dir.path().join("network.yaml"), network.config_yaml()).expect("writable");
    let address = free_port();
    let running = Running::start(slashwatch(), &config(dir.path(), "[network]\nconfig = \"network.yaml\"\n", address));
    let line = running.wait_for("no beacon node answers yet");
    assert!(line.contains(&address.to_string()), "{line}");
    let state = network.state_ssz().to_vec();
    node(address, move |path| if path.contains("/states/finalized") { Answer::Ssz(state.clone()) } else { Answer::Missing });
    running.wait_for("watching");
    assert_eq!(running.terminate(), Some(0));
}

/// Starts `slashwatch serve` and returns its address.
fn serve(data: &Path) -> (std::process::Child, SocketAddr) {
    let mut command = slashwatch();
    command.arg("serve").arg("--data-dir").arg(data).arg("--listen").arg("127.0.0.1:0");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    let Some(address) = line.trim().rsplit("http://").next().and_then(|text| text.parse().ok()) else {
        let mut told = String::new();
        let _ = child.stderr.take().expect("piped").read_to_string(&mut told);
        panic!("no address in {line:?}: {told}");
    };
    (child, address)
}

/// Returns the status and the body.
fn ask(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("writable");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("readable");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let status = String::from_utf8_lossy(&bytes[..end]).lines().next().expect("a line").to_owned();
    (status, bytes[end + 4..].to_vec())
}

/// `slashwatch serve | head -1` may close the pipe before the address is written.
#[test]
fn whoever_does_not_read_the_address_is_served_all_the_same() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    let output = run(slashwatch().arg("replay").arg(capture("fulu_4")).arg("--data-dir").arg(&data));
    assert!(output.status.success(), "{}", stderr(&output));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let address = test_support::http::free_port();
    let mut command = slashwatch();
    command.arg("serve").arg("--data-dir").arg(&data).arg("--listen").arg(address.to_string());
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let until = std::time::Instant::now() + test_support::program::TEST_TIMEOUT;
    while get(address, "/v1/status").is_none() {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none() && std::time::Instant::now() < until, "{ended:?}");
        std::thread::yield_now();
    }
    let _ = std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_recorded_directory_is_served_read_only() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |name: &str| dir.path().join(name);
    let file = capture("electra_7_wave");
    let mut replay = slashwatch();
    replay.arg("replay").arg(&file).arg("--data-dir").arg(at("data")).arg("--findings").arg(at("found.jsonl"));
    let output = run(replay.arg("--incidents").arg(at("incidents.jsonl")).arg("--evidence-dir").arg(at("proofs")));
    assert!(output.status.success(), "{}", stderr(&output));
    let (found, incidents) = (findings(&at("found.jsonl")), findings(&at("incidents.jsonl")));
    assert!(!found.is_empty() && !incidents.is_empty());
    let before = listing(&at("data"));

    let (mut child, address) = serve(&at("data"));
    let shown = get(address, "/v1/findings?limit=500").expect("findings");
    assert_eq!(shown["findings"].as_array().expect("a list").len(), found.len().min(500));
    let one = found.iter().find(|finding| !finding["evidence"].is_null()).expect("an offence");
    let id = one["id"].as_str().expect("id");
    assert_eq!(get(address, &format!("/v1/findings/{id}")).expect("it is there")["kind"], one["kind"]);
    let (status, ssz) = ask(address, &format!("/v1/findings/{id}/evidence.ssz"));
    assert!(status.contains("200"), "{status}");
    let on_disk = std::fs::read(at("proofs").join(one["evidence"]["ssz"].as_str().expect("a name"))).expect("written");
    assert_eq!(ssz, on_disk, "the proof, byte for byte");
    let told = get(address, "/v1/incidents?limit=500").expect("incidents");
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].to_string()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ids(told["incidents"].as_array().expect("a list")), ids(&incidents));
    let (page, html) = ask(address, "/");
    assert!(page.contains("200") && String::from_utf8_lossy(&html).contains("slashwatch"), "{page}");
    // The data is a recording, and the API reports that.
    let (ready, detail) = ask(address, "/readyz");
    let detail = String::from_utf8_lossy(&detail);
    assert!(ready.contains("503") && detail.contains("this is a recording"), "{ready} {detail}");
    let status = get(address, "/v1/status").expect("status");
    assert!(status["notices"][0].as_str().expect("a notice").contains("this is a recording"), "{status}");
    assert_eq!(status["recording"], true, "the page shows a recording, and no watcher that receives nothing");
    assert_eq!(status["findings"].as_u64(), Some(found.len() as u64));
    // Statistics of the recording process are not stored, and this process does no work, so they
    // are absent.
    let names: Vec<&String> = status["index"].as_object().expect("numbers").keys().collect();
    assert_eq!(names, ["different_data", "table_bytes", "validators"]);
    assert!(status["index"]["validators"].as_u64() > Some(0), "{status}");
    let inspected = run(slashwatch().arg("inspect").arg("--data-dir").arg(at("data")));
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert!(inspected["index"].get("votes").is_none() && inspected["index"]["validators"] == status["index"]["validators"]);
    let mut by_kind = std::collections::BTreeMap::<(&str, &str), u64>::new();
    for incident in &incidents {
        *by_kind.entry((incident["kind"].as_str().expect("kind"), incident["state"].as_str().expect("state"))).or_default() += 1;
    }
    assert!(stderr(&output).contains(&format!("{} incidents", incidents.len())), "{}", stderr(&output));
    for ((kind, state), count) in by_kind {
        assert_eq!(inspected["incidents"][kind][state], count, "{inspected}");
        let line = stderr(&output).lines().find(|line| line.contains(&format!("{kind} ("))).expect("a line each").to_owned();
        assert!(line.contains(&format!("{count} {state}")), "{line}");
    }
    // Several processes may read at the same time. None may write.
    let (mut other, _) = serve(&at("data"));
    let refused = run(slashwatch().arg("replay").arg(&file).arg("--data-dir").arg(at("data")));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("in use by another slashwatch"), "{}", stderr(&refused));
    for child in [&mut child, &mut other] {
        let _ = std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
    assert_eq!(listing(&at("data")), before, "nothing was written");
}

/// Returns every file with its length and modification time, except the databases' own logs, which
/// record every opening.
fn listing(folder: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable")) {
        let meta = entry.metadata().expect("readable");
        if meta.is_dir() {
            files.extend(listing(&entry.path()));
        } else if !entry.file_name().to_string_lossy().starts_with("LOG") {
            files.push((entry.path(), meta.len(), meta.modified().expect("a time")));
        }
    }
    files.sort();
    files
}

#[test]
fn a_directory_that_a_watcher_uses_or_that_is_none_is_refused() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = watcher::datadir::DataDir::open(&dir.path().join("data")).expect("writable");
    let spec = consensus::Spec::builtin("mainnet").expect("built in");
    let network = consensus::Network { spec, genesis_time: 7, genesis_validators_root: consensus::Root::ZERO };
    data.bind(&network).expect("new");
    let refused = |path: &Path| {
        let until = Instant::now() + TEST_TIMEOUT;
        let output = run(slashwatch().arg("serve").arg("--data-dir").arg(path).arg("--listen").arg("127.0.0.1:0"));
        assert!(Instant::now() < until);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let told = refused(&dir.path().join("data"));
    assert!(told.contains("in use by another slashwatch process"), "{told}");
    let told = refused(dir.path());
    assert!(told.contains("not a slashwatch data directory"), "{told}");
}
