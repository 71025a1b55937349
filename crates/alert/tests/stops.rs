//! Kill switches that stop clients by themselves, against small servers on loopback that behave as
//! the keymanager API, Docker's API and Kubernetes' API say, and against some that do not.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use alert::killswitch::containers::ContainersConfig;
use alert::killswitch::keymanager::{ClientConfig, KeymanagerConfig, KeysToDelete};
use alert::killswitch::kubernetes::KubernetesConfig;
use alert::killswitch::systemd::SystemdConfig;
use alert::killswitch::{ActionConfig, KillSwitch, KillSwitchParts, OrderReport, Unlocked};
use alert::{RetryPolicy, SecretSource};
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use consensus::PubkeyBytes;
use evidence::{Anomaly, Finding, Kind, Time};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

const TOKEN: &str = "api-token-0x1234";
const LONG: Duration = Duration::from_secs(60);
/// For orders that cannot succeed.
const SHORT: Duration = Duration::from_secs(3);
const NOW: Time = Time::from_unix_ns(1_700_000_000_000_000_000);

fn key(nth: u8) -> PubkeyBytes {
    PubkeyBytes::repeat_byte(nth)
}

fn finding() -> Finding {
    Finding::anomaly(Anomaly::sample(Kind::DormantKeySigned))
}

/// How a validator client treats the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Manner {
    #[default]
    Honest,
    /// Says that keys are deleted and keeps them.
    Lies,
    /// Takes the request and never answers.
    Hangs,
    /// Has an internal problem in its first two answers.
    FailsTwice,
    /// Answers with JSON of another form.
    Garbage,
    /// Says `error` for each key, and keeps them.
    Errors,
    /// Has no list of remote keys.
    NoRemoteKeys,
    /// Signs remotely only.
    NoKeystores,
    /// Refuses what is asked of its keystores.
    BadKeystores,
    /// Hangs when it is asked about its keystores.
    HangingKeystores,
    /// Exports `null` instead of protection data.
    NullProtection,
    /// Says that keys are deleted, and removes them at the second request only, as Lodestar does
    /// with keys that have signed.
    DeletesAtSecond,
}

/// A validator client with a keymanager API.
#[derive(Clone, Default)]
struct Client {
    manner: Manner,
    local: Arc<Mutex<BTreeSet<PubkeyBytes>>>,
    remote: Arc<Mutex<BTreeSet<PubkeyBytes>>>,
    n_requests: Arc<Mutex<u32>>,
    n_deletes: Arc<Mutex<u32>>,
}

impl Client {
    fn new(manner: Manner, local: impl IntoIterator<Item = u8>, remote: impl IntoIterator<Item = u8>) -> Self {
        let set = |keys: Vec<u8>| Arc::new(Mutex::new(keys.into_iter().map(key).collect()));
        let (local, remote) = (set(local.into_iter().collect()), set(remote.into_iter().collect()));
        Self { manner, local, remote, ..Self::default() }
    }

    async fn start(&self) -> String {
        let app = Router::new().route("/eth/v1/{list}", any(keymanager)).with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        format!("http://{address}/")
    }

    fn left(&self) -> usize {
        self.local.lock().unwrap().len() + self.remote.lock().unwrap().len()
    }
}

async fn keymanager(
    State(client): State<Client>,
    UrlPath(list): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "message": "no token" }))).into_response();
    }
    let nth = {
        let mut n = client.n_requests.lock().unwrap();
        *n += 1;
        *n
    };
    match client.manner {
        Manner::Hangs => return std::future::pending().await,
        Manner::FailsTwice if nth <= 2 => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::Garbage => return Json(json!({ "data": "none" })).into_response(),
        Manner::NoRemoteKeys if list == "remotekeys" => return StatusCode::NOT_FOUND.into_response(),
        Manner::NoKeystores if list == "keystores" => return StatusCode::NOT_FOUND.into_response(),
        Manner::BadKeystores if list == "keystores" => return StatusCode::BAD_REQUEST.into_response(),
        Manner::HangingKeystores if list == "keystores" => return std::future::pending().await,
        _ => {}
    }
    let keys = if list == "keystores" { &client.local } else { &client.remote };
    let mut keys = keys.lock().unwrap();
    if method == Method::GET {
        let name = if list == "keystores" { "validating_pubkey" } else { "pubkey" };
        let data: Vec<Value> = keys.iter().map(|key| json!({ name: key, "readonly": false })).collect();
        return Json(json!({ "data": data })).into_response();
    }
    assert_eq!(method, Method::DELETE);
    let is_first = {
        let mut n_deletes = client.n_deletes.lock().unwrap();
        *n_deletes += u32::from(list == "keystores");
        *n_deletes == 1
    };
    let keeps = client.manner == Manner::Lies || (client.manner == Manner::DeletesAtSecond && is_first);
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let mut deleted = Vec::new();
    let statuses: Vec<Value> = asked["pubkeys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pubkey| {
            let pubkey: PubkeyBytes = serde_json::from_value(pubkey.clone()).unwrap();
            let is_there = keys.contains(&pubkey);
            if client.manner == Manner::Errors && is_there {
                return json!({ "status": "error", "message": "keystore is locked" });
            }
            if !keeps {
                keys.remove(&pubkey);
            }
            if is_there {
                deleted.push(json!({ "pubkey": pubkey, "signed_blocks": [], "signed_attestations": [] }));
            }
            json!({ "status": if is_there { "deleted" } else { "not_found" } })
        })
        .collect();
    let interchange = json!({ "metadata": { "interchange_format_version": "5" }, "data": deleted }).to_string();
    let protection = if client.manner == Manner::NullProtection { Value::Null } else { interchange.into() };
    match list.as_str() {
        "keystores" => Json(json!({ "data": statuses, "slashing_protection": protection })).into_response(),
        _ => Json(json!({ "data": statuses })).into_response(),
    }
}

struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn token(&self) -> SecretSource {
        SecretSource::File(self.path("token"))
    }

    fn keymanager(&self, urls: &[String], keys: KeysToDelete) -> ActionConfig {
        let clients = urls.iter().map(|url| ClientConfig { url: url.clone(), token: Some(self.token()) }).collect();
        ActionConfig::Keymanager(KeymanagerConfig { clients, has_remote_keys: true, keys })
    }

    fn switch(&self, action: ActionConfig, timeout: Duration, dry_run: bool) -> KillSwitch {
        let lock_file = Some(self.path("acme.lock"));
        let parts = KillSwitchParts { group: "acme".into(), action, timeout, lock_file, dry_run };
        // As people name a data directory: relative to where they are.
        let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
        let folder = format!("{up}{}", self.dir.path().strip_prefix("/").unwrap().display());
        KillSwitch::new(parts).unwrap().keeping_in(Path::new(&folder))
    }

    async fn fire(&self, action: ActionConfig, keys: &[PubkeyBytes], timeout: Duration) -> OrderReport {
        self.switch(action, timeout, false).fire(&finding(), keys, 1, NOW).await
    }

    /// The kept files whose names end so, with their contents.
    fn kept(&self, ending: &str) -> Vec<(PathBuf, Value)> {
        let Ok(files) = std::fs::read_dir(self.path("killswitch")) else { return Vec::new() };
        let paths = files.map(|file| file.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(ending));
        paths.map(|path| (path.clone(), serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())).collect()
    }
}

#[tokio::test]
async fn keys_are_deleted_from_all_clients_at_once_and_their_protection_data_is_kept() {
    let stage = Stage::new();
    let clients = [
        Client::new(Manner::Honest, 1..=8, [100]),
        Client::new(Manner::FailsTwice, [200], 9..=12),
        Client::new(Manner::NoRemoteKeys, 13..=16, []),
    ];
    let mut urls = Vec::new();
    for client in &clients {
        urls.push(client.start().await);
    }
    let keys: Vec<PubkeyBytes> = (1..=16).map(key).collect();
    let report = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &keys, LONG).await;
    let told = report.result.unwrap();
    assert!(told.contains("keys 8 deleted, 8 not there") && told.contains("keys 4 deleted"), "{told}");
    // The keys of others stay.
    assert_eq!(clients.each_ref().map(Client::left), [1, 1, 0]);
    let kept = stage.kept(".slashing-protection.json");
    let n_records = |(_, one): &(PathBuf, Value)| one["data"].as_array().unwrap().len();
    assert_eq!(kept.iter().map(n_records).sum::<usize>(), 8 + 4, "of local keys; a remote signer has its own");
    for (path, _) in &kept {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let report = &stage.kept(".keys.json")[0].1;
    let deleted = report.as_array().unwrap().iter().filter(|row| row["status"] == "deleted").count();
    assert_eq!(deleted, 16, "what became of each key: {report}");
    let lock = std::fs::read_to_string(stage.path("acme.lock")).unwrap();
    assert!(lock.ends_with("}\n"), "a supervisor prints it between its own lines: {lock}");
    let lock: Value = serde_json::from_str(&lock).unwrap();
    assert_eq!((&lock["kill_switch"], &lock["kind"]), (&json!("acme"), &json!("dormant_key_signed")));
    let note = lock["note"].as_str().unwrap();
    let [preflight, rearm] =
        ["says SAFE: slashwatch preflight --data-dir /", "Then: slashwatch killswitch rearm acme --data-dir /"]
            .map(|part| note.find(part).unwrap_or_else(|| panic!("{part:?} is not in {note}")));
    assert!(preflight < rearm, "{note}");
    let unlock = |group: &str| KillSwitch::unlock(&stage.path("acme.lock"), group).unwrap();
    assert_eq!(unlock("blue"), Unlocked::IsOf("acme".into()));
    assert_eq!((unlock("acme"), unlock("acme")), (Unlocked::Removed, Unlocked::WasNone));
}

/// The bounty of 2020: the second signer's keys stop within a second.
#[tokio::test]
async fn honest_clients_with_many_keys_are_stopped_within_a_second() {
    let stage = Stage::new();
    let clients = [Client::new(Manner::Honest, 0..=200, []), Client::new(Manner::Honest, [], 0..=200)];
    let urls = [clients[0].start().await, clients[1].start().await];
    let keys: Vec<PubkeyBytes> = (0..=200).map(key).collect();
    let report = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &keys, LONG).await;
    assert!(report.result.is_ok(), "{report:?}");
    assert!(report.took < Duration::from_secs(1), "{report:?}");
}

#[tokio::test]
async fn keys_that_are_still_listed_are_deleted_again_without_a_pause() {
    let pause = RetryPolicy::DEFAULT.order_pauses.pause(1);
    let mut took = Vec::new();
    // With a pause all attempts take longer. Without one, a busy machine may delay a single attempt.
    for _ in 0..5 {
        let stage = Stage::new();
        let client = Client::new(Manner::DeletesAtSecond, 1..=2, []);
        let urls = [client.start().await];
        let report = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &[key(1), key(2)], LONG).await;
        let told = report.result.unwrap();
        assert!(told.contains("keys 2 deleted;"), "{told}");
        assert_eq!((client.left(), *client.n_deletes.lock().unwrap()), (0, 2));
        took.push(report.took);
    }
    assert!(took.iter().min() < Some(&pause), "{took:?}");
}

#[tokio::test]
async fn a_client_that_does_not_do_it_is_named_and_does_not_hold_up_the_others() {
    let short = Duration::from_millis(1500);
    for (manner, wanted) in [
        (Manner::Lies, "still lists 2 of the keys"),
        (Manner::Hangs, "not done within 1.5s"),
        (Manner::Garbage, "is not what the API says"),
        (Manner::Errors, "keystore is locked"),
    ] {
        let stage = Stage::new();
        let (bad, good) = (Client::new(manner, 1..=2, []), Client::new(Manner::Honest, 3..=4, []));
        let urls = [bad.start().await, good.start().await];
        let keys: Vec<PubkeyBytes> = (1..=4).map(key).collect();
        let told = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &keys, short).await.result.unwrap_err();
        assert!(told.contains(wanted), "{manner:?}: {told}");
        assert!(told.contains(&format!("FAILED {}", urls[0].trim_end_matches('/'))), "{manner:?}: {told}");
        assert!(!told.contains(&format!("FAILED {}", urls[1].trim_end_matches('/'))), "{manner:?}: {told}");
        assert_eq!((bad.left(), good.left()), (2, 0), "{manner:?}");
        assert!(stage.path("acme.lock").exists(), "{manner:?}: the lock is there all the same");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_the_keystores_the_remote_keys_are_deleted() {
    for (manner, keystores, wanted) in [
        (Manner::NoKeystores, 0, None),
        (Manner::BadKeystores, 2, Some("400")),
        (Manner::HangingKeystores, 2, Some("not done within 4s")),
        (Manner::Honest, 2, Some("cannot be kept")),
    ] {
        let stage = Stage::new();
        if manner == Manner::Honest {
            std::fs::write(stage.path("killswitch"), "a file where the folder should be").unwrap();
        }
        let client = Client::new(manner, (1..=2).take(keystores), 3..=4);
        let urls = [client.start().await];
        let keys: Vec<PubkeyBytes> = (1..=4).map(key).collect();
        let report = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &keys, Duration::from_secs(4)).await;
        assert!(client.remote.lock().unwrap().is_empty(), "{manner:?}: {report:?}");
        match (wanted, &report.result) {
            (None, Ok(told)) => assert!(told.contains("2 deleted"), "{manner:?}: {told}"),
            (Some(wanted), Err(told)) => {
                assert!(told.contains(wanted), "{manner:?}: {told}");
                let n_deleted = if manner == Manner::Honest { "4 deleted" } else { "2 deleted" };
                assert!(told.contains(n_deleted), "{manner:?}: {told}");
            }
            (_, result) => panic!("{manner:?}: {result:?}"),
        }
    }
}

/// Keys are deleted in several requests. What is wrong after the first one holds up no other.
#[tokio::test]
async fn many_keys_are_all_deleted_although_their_protection_data_cannot_be_kept() {
    let stage = Stage::new();
    std::fs::write(stage.path("killswitch"), "a file where the folder should be").unwrap();
    let client = Client::new(Manner::Honest, [], []);
    let keys: Vec<PubkeyBytes> = (1..=1_200).map(|nth| format!("0x{nth:096x}").parse().unwrap()).collect();
    client.local.lock().unwrap().extend(keys.iter().copied());
    let report = stage.fire(stage.keymanager(&[client.start().await], KeysToDelete::Group), &keys, SHORT).await;
    assert_eq!(client.left(), 0, "{report:?}");
    // Three for each list and two looks whether they are gone, and all of it once more because of
    // the data.
    assert_eq!(*client.n_requests.lock().unwrap(), 16);
    assert!(report.result.unwrap_err().contains("1200 deleted"));
}

#[tokio::test]
async fn a_wrong_token_is_reported_at_once() {
    let stage = Stage::new();
    let client = Client::new(Manner::Honest, 1..=2, []);
    let url = client.start().await;
    std::fs::write(stage.path("token"), "another").unwrap();
    let switch = stage.switch(stage.keymanager(&[url], KeysToDelete::Group), LONG, false);
    let report = switch.fire(&finding(), &[key(1)], 1, NOW).await;
    let told = report.result.unwrap_err();
    assert!(told.contains("401") && told.contains("its token") && !told.contains("another"), "{told}");
    assert!(report.took < LONG / 2, "it is not tried again");
    assert!(!format!("{switch:?}").contains("another"));
    let told = switch.test(&finding(), &[key(1)], NOW).await.result.unwrap_err();
    assert!(told.contains("401"), "and a drill shows it: {told}");
}

#[tokio::test]
async fn an_order_that_stops_nothing_has_failed() {
    let stage = Stage::new();
    let client = Client::new(Manner::Honest, 1..=2, []);
    let urls = [client.start().await];
    let told = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &[key(7)], LONG).await.result.unwrap_err();
    assert!(told.contains("no client has any of these keys"), "{told}");
    let told = stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &[], LONG).await.result.unwrap_err();
    assert!(told.contains("no public key of the group is known"), "{told}");
    assert_eq!(client.left(), 2);
    let told = stage.fire(stage.keymanager(&urls, KeysToDelete::All), &[], LONG).await.result.unwrap();
    assert!(told.contains("2 deleted"), "{told}");
    assert_eq!(client.left(), 0);
}

#[tokio::test]
async fn null_protection_data_is_not_kept_and_the_keys_are_gone() {
    let stage = Stage::new();
    let client = Client::new(Manner::NullProtection, 1..=2, []);
    let urls = [client.start().await];
    stage.fire(stage.keymanager(&urls, KeysToDelete::Group), &[key(1), key(2)], LONG).await.result.unwrap();
    assert_eq!((client.left(), stage.kept(".slashing-protection.json").len()), (0, 0));
}

#[tokio::test]
async fn a_drill_and_a_dry_run_stop_nothing() {
    let stage = Stage::new();
    let client = Client::new(Manner::Honest, 1..=3, []);
    let urls = [client.start().await];
    let keys = [key(1), key(2)];
    let action = || stage.keymanager(&urls, KeysToDelete::Group);
    let drill = stage.switch(action(), LONG, false).test(&finding(), &keys, NOW).await.result.unwrap();
    assert!(drill.contains("has 2 keys of the group and 1 others, 2 would be deleted"), "{drill}");
    let dry = stage.switch(action(), LONG, true).fire(&finding(), &keys, 1, NOW).await.result.unwrap();
    assert!(dry.starts_with("dry run, nothing was stopped: ") && dry.contains("2 would be deleted"), "{dry}");
    assert_eq!(client.left(), 3);
    assert!(!stage.path("acme.lock").exists());
    assert_eq!(stage.kept("").len(), 0);
}

#[tokio::test]
async fn a_lock_that_cannot_be_written_is_reported_and_the_keys_are_stopped() {
    let stage = Stage::new();
    let client = Client::new(Manner::Honest, 1..=2, []);
    let action = stage.keymanager(&[client.start().await], KeysToDelete::Group);
    let lock_file = Some(stage.path("nowhere/acme.lock"));
    let parts = KillSwitchParts { group: "acme".into(), action, timeout: LONG, lock_file, dry_run: false };
    let switch = KillSwitch::new(parts).unwrap();
    let told = switch.test(&finding(), &[key(1)], NOW).await.result.unwrap_err();
    assert!(told.contains("lock file") && told.contains("could not be written"), "{told}");
    let told = switch.fire(&finding(), &[key(1), key(2)], 1, NOW).await.result.unwrap_err();
    assert!(told.contains("2 deleted") && told.contains("lock file"), "{told}");
    assert_eq!(client.left(), 0);
}

/// A container as Docker has it.
#[derive(Clone, Debug, Default)]
struct Container {
    running: bool,
    policy: String,
    /// Whether it comes back by itself although it was stopped.
    undead: bool,
    /// How many orders to stop it fail first.
    fails: u32,
}

type Containers = Arc<Mutex<std::collections::BTreeMap<String, Container>>>;

async fn docker(
    State((containers, has_update)): State<(Containers, bool)>,
    UrlPath((name, what)): UrlPath<(String, String)>,
    body: Bytes,
) -> Response {
    let mut containers = containers.lock().unwrap();
    let Some(container) = containers.get_mut(&name) else {
        return (StatusCode::NOT_FOUND, Json(json!({ "message": format!("No such container: {name}") }))).into_response();
    };
    match what.as_str() {
        "stop" if container.fails > 0 => {
            container.fails -= 1;
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "message": "dial unix: transient" }))).into_response()
        }
        "stop" if !container.running => StatusCode::NOT_MODIFIED.into_response(),
        "stop" => {
            container.running = container.undead;
            StatusCode::NO_CONTENT.into_response()
        }
        "update" if !has_update => StatusCode::NOT_FOUND.into_response(),
        "update" => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            container.policy = body["RestartPolicy"]["Name"].as_str().unwrap().to_owned();
            Json(json!({ "Warnings": null })).into_response()
        }
        "json" => Json(json!({ "Id": name, "State": { "Running": container.running } })).into_response(),
        other => panic!("nobody asks for {other}"),
    }
}

#[tokio::test]
async fn containers_stop_over_the_unix_socket_and_are_not_restarted() {
    for has_update in [true, false] {
        let stage = Stage::new();
        let socket = stage.path("docker.sock");
        let running = |policy: &str, undead| Container { running: true, policy: policy.into(), undead, fails: 0 };
        let containers: Containers = Arc::default();
        containers.lock().unwrap().extend([
            ("vc-1".to_owned(), Container { fails: 2, ..running("always", false) }),
            ("vc-2".to_owned(), Container { running: false, ..running("always", false) }),
            ("undead".to_owned(), running("no", true)),
        ]);
        let app = Router::new().route("/containers/{name}/{what}", any(docker)).with_state((containers.clone(), has_update));
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let action = |names: &[&str]| {
            let containers = names.iter().map(|name| (*name).to_owned()).collect();
            ActionConfig::Containers(ContainersConfig { containers, socket: socket.clone() })
        };
        let drill = stage.switch(action(&["vc-1", "vc-2"]), LONG, false).test(&finding(), &[], NOW).await.result.unwrap();
        assert!(drill.contains("vc-1: runs and would be stopped") && drill.contains("vc-2: does not run"), "{drill}");
        let told = stage.fire(action(&["vc-1", "vc-2"]), &[], LONG).await.result.unwrap();
        let policy = if has_update { "no" } else { "always" };
        let wanted = if has_update {
            "vc-1: stopped, and is not restarted"
        } else {
            "taking its restart policy away was answered with 404"
        };
        assert!(told.contains(wanted), "{told}");
        for name in ["vc-1", "vc-2"] {
            let container = containers.lock().unwrap()[name].clone();
            assert_eq!((container.running, container.policy.as_str()), (false, policy), "{name}");
        }
        let told = stage.fire(action(&["vc-3", "undead"]), &[], SHORT).await.result.unwrap_err();
        assert!(told.contains("No such container: vc-3") && told.contains("runs although it was stopped"), "{told}");
    }
    let stage = Stage::new();
    let away = ContainersConfig { containers: vec!["vc-1".into()], socket: stage.path("away.sock") };
    let told = stage.fire(ActionConfig::Containers(away), &[], SHORT).await.result.unwrap_err();
    assert!(told.contains("away.sock"), "{told}");
}

#[tokio::test]
async fn workloads_are_scaled_to_zero_and_waited_for() {
    let stage = Stage::new();
    // Each look finds one pod less.
    let pods = Arc::new(Mutex::new((2u64, 2u64)));
    let n_patches = Arc::new(std::sync::atomic::AtomicU32::new(0));
    type Pods = (Arc<Mutex<(u64, u64)>>, Arc<std::sync::atomic::AtomicU32>);
    let scale = |State((pods, n_patches)): State<Pods>, method: Method, headers: HeaderMap, body: Bytes| async move {
        if headers["authorization"] != format!("Bearer {TOKEN}") {
            return (StatusCode::FORBIDDEN, Json(json!({ "message": "statefulsets.apps is forbidden" }))).into_response();
        }
        let (wanted, running) = &mut *pods.lock().unwrap();
        if method == Method::PATCH {
            if n_patches.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "message": "etcdserver: leader changed" })))
                    .into_response();
            }
            assert_eq!(headers["content-type"], "application/merge-patch+json");
            let patch: Value = serde_json::from_slice(&body).unwrap();
            *wanted = patch["spec"]["replicas"].as_u64().unwrap();
        } else if running > wanted {
            *running -= 1;
        }
        // As in the API, a wanted number of 0 is left out.
        let spec = if *wanted == 0 { json!({}) } else { json!({ "replicas": *wanted }) };
        Json(json!({ "kind": "Scale", "spec": spec, "status": { "replicas": *running } })).into_response()
    };
    let path = "/apis/apps/v1/namespaces/eth/statefulsets/validator/scale";
    let app = Router::new().route(path, get(scale).patch(scale)).with_state((pods.clone(), n_patches.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let action = |workload: &str| {
        ActionConfig::Kubernetes(KubernetesConfig {
            url: url.clone(),
            token: stage.token(),
            ca_file: None,
            namespace: "eth".into(),
            workloads: vec![workload.parse().unwrap()],
        })
    };
    let drill = stage.switch(action("statefulset/validator"), LONG, false).test(&finding(), &[], NOW).await.result.unwrap();
    assert!(drill.contains("validator: has 2 pods and would be scaled to 0"), "{drill}");
    let told = stage.fire(action("statefulset/validator"), &[], LONG).await.result.unwrap();
    assert_eq!((told.as_str(), *pods.lock().unwrap()), ("validator: scaled to 0", (0, 0)));
    assert_eq!(n_patches.load(std::sync::atomic::Ordering::Relaxed), 2, "one that failed for a moment, and one that did not");
    let told = stage.fire(action("deployment/other"), &[], LONG).await.result.unwrap_err();
    assert!(told.contains("404"), "{told}");
    *pods.lock().unwrap() = (2, u64::MAX);
    let told = stage.fire(action("statefulset/validator"), &[], SHORT).await.result.unwrap_err();
    assert!(told.contains("scaled to 0, and its pods are still there"), "{told}");
    // In a pod the token is replaced every hour, while the switch is ready.
    let ready = stage.switch(action("statefulset/validator"), LONG, false);
    std::fs::write(stage.path("token"), "another").unwrap();
    let told = stage.fire(action("statefulset/validator"), &[], LONG).await.result.unwrap_err();
    assert!(told.contains("403") && told.contains("is forbidden"), "{told}");
    *pods.lock().unwrap() = (2, 2);
    assert!(ready.fire(&finding(), &[], 1, NOW).await.result.unwrap_err().contains("403"));
    std::fs::write(stage.path("token"), TOKEN).unwrap();
    ready.fire(&finding(), &[], 1, NOW).await.result.unwrap();
    assert_eq!(*pods.lock().unwrap(), (0, 0));
}

/// A `systemctl` that keeps the state of units in files.
fn systemctl(dir: &Path) -> PathBuf {
    let path = dir.join("systemctl");
    let text = format!(
        "#!/bin/sh\ncd {}\ncase \"$1\" in\n\
         stop) test -e \"$2.fails\" && {{ rm \"$2.fails\"; echo 'not connected' >&2; exit 1; }}\n\
         test -e \"$2.hangs\" && exec sleep 1000; test -e \"$2.immortal\" || rm -f \"$2.active\";;\n\
         kill) test -e \"$3.immortal\" || rm -f \"$3.active\";;\n\
         mask) test -e \"$2.etc\" && {{ echo 'File already exists.' >&2; exit 1; }}; touch \"$2.masked\";;\n\
         show) test -e \"$3.unit\" && echo LoadState=loaded || echo LoadState=not-found\n\
         test -e \"$3.active\" && echo ActiveState=active || echo ActiveState=inactive;;\nesac\n",
        dir.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn units_are_stopped_and_masked() {
    let stage = Stage::new();
    let systemctl = systemctl(stage.dir.path());
    let unit = |name: &str, marks: &[&str]| {
        for mark in [&["unit", "active"], marks].concat() {
            std::fs::write(stage.path(&format!("{name}.{mark}")), []).unwrap();
        }
    };
    unit("good.service", &[]);
    unit("slow.service", &["hangs"]);
    unit("etc.service", &["etc"]);
    unit("flaky.service", &["fails"]);
    unit("immortal.service", &["immortal"]);
    let action = |names: &[&str]| {
        let units = names.iter().map(|name| (*name).to_owned()).collect();
        ActionConfig::Systemd(SystemdConfig { units, systemctl: systemctl.clone() })
    };
    let is_active = |name: &str| stage.path(&format!("{name}.active")).exists();
    let drill = stage.switch(action(&["good.service"]), LONG, false).test(&finding(), &[], NOW).await.result.unwrap();
    assert!(drill.contains("good.service: is active and would be stopped and masked"), "{drill}");
    let drill = stage.switch(action(&["nosuch.service"]), LONG, false).test(&finding(), &[], NOW).await.result.unwrap_err();
    assert!(drill.contains("there is no such unit"), "{drill}");
    assert!(is_active("good.service"));

    let told = stage
        .fire(action(&["good.service", "slow.service", "etc.service", "flaky.service"]), &[], Duration::from_secs(4))
        .await
        .result
        .unwrap();
    assert!(told.contains("good.service: stopped and masked"), "{told}");
    assert!(told.contains("slow.service: stopped, by force and masked"), "{told}");
    assert!(told.contains("flaky.service: stopped, by force and masked"), "{told}");
    assert!(told.contains("etc.service: stopped; not masked") && told.contains("the lock file holds it"), "{told}");
    assert!(!is_active("good.service") && !is_active("slow.service") && !is_active("etc.service"));
    assert!(stage.path("good.service.masked").exists());
    let told = stage.fire(action(&["immortal.service"]), &[], SHORT).await.result.unwrap_err();
    assert!(told.contains("immortal.service: not done within 3s; last: it is still active"), "{told}");
    // Without a lock file nothing holds a unit that cannot be masked.
    let parts = KillSwitchParts {
        group: "acme".into(),
        action: action(&["etc.service"]),
        timeout: LONG,
        lock_file: None,
        dry_run: false,
    };
    let told = KillSwitch::new(parts).unwrap().fire(&finding(), &[], 1, NOW).await.result.unwrap_err();
    assert!(told.contains("without a lock file anything may start it"), "{told}");
}
