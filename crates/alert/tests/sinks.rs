//! Every sink against a real server on loopback that is slow, refuses, is busy, fails, answers
//! garbage, and dies in the middle. Nothing is lost, and nothing comes twice that was accepted. The
//! server speaks HTTP, and SMTP for email.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use alert::{
    Context, Dispatcher, Heartbeat, HeartbeatConfig, NetworkName, RetryPolicy, RouteConfig, RouteCounts, Routes, SinkConfig,
};
use base::Backoff;
use consensus::{ForkName, Root, Slot, ValidatorIndex};
use evidence::{Anomaly, Evidence, EvidenceKind, Finding, Kind, OffenceFacts, OutboxCounts, Severity, Store, Time, anomaly_id};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::http::anywhere;
use test_support::samples::NETWORK;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// Takes it.
    Accepts,
    /// Answers nothing until the client gives up.
    Hangs,
    /// Answers with this status, and asks to wait.
    Busy(u16),
    Fails(u16),
    /// Answers with bytes that are no HTTP.
    Garbage,
    /// Closes the connection after half of the request, or in the middle of an email.
    DiesBefore,
    /// Takes the request and closes the connection in the middle of its status line. The client
    /// cannot know that it was taken.
    DiesAfter,
}

use Behaviour::{Accepts, Busy, DiesAfter, DiesBefore, Fails, Garbage, Hangs};

/// A request that the server took. Of an email `line` has the commands before its text, and `body`
/// is the text.
#[derive(Clone, Debug)]
struct Taken {
    line: String,
    headers: BTreeMap<String, String>,
    body: Value,
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
    requests: Arc<Mutex<Vec<Behaviour>>>,
}

impl Server {
    /// Behaves as `script` says, one request after the other, and accepts all further ones. The
    /// server of the sink `email` is a mail server.
    async fn start(sink: &str, script: &[Behaviour]) -> Self {
        let is_mail = sink == "email";
        let listener = TcpListener::bind(anywhere()).await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), taken: Arc::default(), requests: Arc::default() };
        let left = Arc::new(Mutex::new(script.iter().copied().rev().collect::<Vec<_>>()));
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match is_mail {
                    true => drop(tokio::spawn(this.clone().serve_mail(stream, left.clone()))),
                    false => drop(tokio::spawn(this.clone().serve(stream, left.clone()))),
                }
            }
        });
        server
    }

    async fn serve(self, stream: TcpStream, left: Arc<Mutex<Vec<Behaviour>>>) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let behaviour = left.lock().unwrap().pop().unwrap_or(Accepts);
            self.requests.lock().unwrap().push(behaviour);
            if behaviour == DiesBefore {
                return;
            }
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).await.unwrap();
                match line.trim_end().split_once(": ") {
                    Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
                    None => break,
                }
            }
            let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).await.unwrap();
            let taken = Taken { line: line.trim_end().into(), headers, body: serde_json::from_slice(&body).unwrap() };
            let stream = reader.get_mut();
            let answer = match behaviour {
                Accepts => {
                    self.taken.lock().unwrap().push(taken);
                    "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"ok\":true}".to_owned()
                }
                DiesAfter => {
                    self.taken.lock().unwrap().push(taken);
                    let _ = stream.write_all(b"HTTP/1.").await;
                    return;
                }
                DiesBefore => return,
                Hangs => return std::future::pending().await,
                Busy(status) => format!("HTTP/1.1 {status} Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"),
                Fails(status) => format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\n\r\nno"),
                Garbage => {
                    let _ = stream.write_all(b"\x00\xff 220 hello\r\n\r\n").await;
                    return;
                }
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// One connection of SMTP, with one behaviour. `Busy(429)` is 421 at the greeting, `Busy` with
    /// another number is 451 for the recipient, `Fails(500)` is 451 for the message, `Fails(400)` is
    /// 550 for the recipient, and `Fails` with another number is 554 for the message.
    async fn serve_mail(self, stream: TcpStream, left: Arc<Mutex<Vec<Behaviour>>>) {
        let behaviour = left.lock().unwrap().pop().unwrap_or(Accepts);
        self.requests.lock().unwrap().push(behaviour);
        let mut reader = BufReader::new(stream);
        let greeting: &[u8] = match behaviour {
            Hangs => return std::future::pending().await,
            Garbage => b"\x00\xff HTTP/1.1 200 OK\r\n\r\n",
            Busy(429) => b"421 4.7.0 too many connections\r\n",
            _ => b"220 mail.test ESMTP\r\n",
        };
        reader.get_mut().write_all(greeting).await.unwrap();
        let (mut commands, mut line) = (Vec::new(), String::new());
        while reader.read_line(&mut line).await.unwrap_or(0) > 0 {
            let command = std::mem::take(&mut line).trim_end().to_owned();
            let answer = match command.split([' ', ':']).next().unwrap() {
                "EHLO" => "250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n",
                "AUTH" => "235 2.7.0 welcome\r\n",
                "RCPT" if behaviour == Fails(400) => "550 5.1.1 no such user here\r\n",
                "RCPT" if command.contains("gone@") => "550 5.1.1 gone\r\n",
                "RCPT" if matches!(behaviour, Busy(_)) => "451 4.7.1 greylisted, try again\r\n",
                "DATA" => "354 go on\r\n",
                "QUIT" => "221 bye\r\n",
                _ => "250 ok\r\n",
            };
            reader.get_mut().write_all(answer.as_bytes()).await.unwrap();
            commands.push(command.clone());
            if command != "DATA" {
                continue;
            }
            let mut text = String::new();
            while !text.ends_with("\r\n.\r\n") {
                if behaviour == DiesBefore || reader.read_line(&mut text).await.unwrap() == 0 {
                    return;
                }
            }
            let answer = match behaviour {
                Fails(500) => "451 4.3.0 disk full\r\n",
                Fails(_) => "554 5.7.1 looks like spam\r\n",
                _ => {
                    self.taken.lock().unwrap().push(email(&commands, &text));
                    "250 2.0.0 queued\r\n"
                }
            };
            if behaviour == DiesAfter {
                return;
            }
            reader.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

/// An email, as it was sent.
fn email(commands: &[String], text: &str) -> Taken {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let unfolded = head.replace("\r\n ", " ");
    let headers = unfolded.split("\r\n").map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Taken { line: commands.join("|"), headers, body: body.replace("=\r\n", "").replace("=3D", "=").into() }
}

/// All sinks that send to a server, each with this one as its receiver.
fn sinks(dir: &Path, address: SocketAddr) -> Vec<(&'static str, SinkConfig)> {
    let secret = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let url = format!("http://{address}");
    let hook = secret("hook", &format!("{url}/services/T0/B0/hunter2"));
    let token = secret("token", "hunter2");
    let config = |value: Value| serde_json::from_value(value).unwrap();
    vec![
        ("webhook", config(json!({ "type": "webhook", "url": format!("{url}/hook"), "secret_file": token }))),
        ("alertmanager", config(json!({ "type": "alertmanager", "url": url, "secret_file": token }))),
        ("slack", config(json!({ "type": "slack", "secret_file": hook }))),
        ("discord", config(json!({ "type": "discord", "secret_file": hook }))),
        ("telegram", config(json!({ "type": "telegram", "url": url, "chat_id": "-100", "secret_file": token }))),
        ("pagerduty", config(json!({ "type": "pagerduty", "url": url, "secret_file": token }))),
        ("ntfy", config(json!({ "type": "ntfy", "url": url, "topic": "mine", "secret_file": token }))),
        (
            "email",
            config(json!({
                "type": "email", "server": address.ip(), "port": address.port(), "encryption": "none", "timeout": "300ms",
                "from": "Slashwatch <watch@acme.test>", "to": ["oncall@acme.test", "gone@acme.test"],
                "user": "watch", "secret_file": token,
            })),
        ),
    ]
}

fn quick() -> RetryPolicy {
    let pauses = Backoff::new(Duration::from_millis(2), Duration::from_millis(10));
    RetryPolicy { pauses, timeout: Duration::from_millis(300), ..RetryPolicy::DEFAULT }
}

fn routes(name: &str, sink: SinkConfig) -> Routes {
    let network = NetworkName { name: "hoodi".into(), genesis_validators_root: Some(NETWORK) };
    let context = Context { network, public_url: Some("https://watch.example.org".into()), ..Context::default() };
    Routes::new(&[RouteConfig::new(name, sink)], quick()).unwrap().about(context)
}

async fn until(dispatcher: &Dispatcher, wanted: impl Fn(&RouteCounts) -> bool) -> RouteCounts {
    let mut counts = dispatcher.counts();
    let waited = counts.wait_for(|counts| counts.values().any(&wanted));
    let counts = tokio::time::timeout(Duration::from_secs(60), waited).await.expect("within a minute").unwrap();
    *counts.values().next().unwrap()
}

/// The double vote of a validator.
fn offence(validator: u64, labels: &[&str]) -> (Finding, Arc<Evidence>) {
    let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, validator.to_le_bytes().to_vec(), ().into());
    let facts = OffenceFacts {
        validator: ValidatorIndex::new(validator),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        recorded_at: Time::now(),
        ..OffenceFacts::sample()
    };
    (Finding::slashable(facts, &evidence), Arc::new(evidence))
}

/// The announcement of an incident.
fn announcement(kind: Kind, news: Option<&str>) -> Finding {
    let mut details = serde_json::Map::new();
    details.insert("incident".into(), json!(Root::repeat_byte(9)));
    details.insert("validators".into(), json!("3000"));
    details.extend(news.map(|news| ("news".to_owned(), json!(news))));
    Finding::anomaly(Anomaly {
        id: anomaly_id(NETWORK, &kind, news.unwrap_or_default().as_bytes()),
        severity: Severity::Critical,
        slot: Slot::new(1),
        recorded_at: Time::now(),
        details,
        ..Anomaly::sample(kind)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sink_loses_or_repeats_what_a_bad_receiver_did_not_take() {
    // The refusals are fewer than those after which a delivery is given up.
    let bad = [Hangs, Busy(429), Busy(503), Fails(500), Fails(400), Fails(404), Garbage, DiesBefore];
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<&str> = sinks(dir.path(), anywhere()).into_iter().map(|(name, _)| name).collect();
    for (nth, name) in names.into_iter().enumerate() {
        let server = Server::start(name, &bad).await;
        let (_, sink) = sinks(dir.path(), server.address).swap_remove(nth);
        let store = Store::open(&dir.path().join(name), NETWORK).unwrap();
        let routes = routes(name, sink);
        store.record(vec![offence(5, &["group=acme-1"])], &routes.names()).unwrap();
        let dispatcher = Dispatcher::start(store.clone(), routes, Time::now);
        let counts = until(&dispatcher, |counts| counts.delivered + counts.given_up == 1).await;
        dispatcher.stop().await;
        assert_eq!(*server.requests.lock().unwrap(), [&bad[..], &[Accepts]].concat(), "{name}");
        assert_eq!((counts.delivered, counts.retried), (1, bad.len() as u64), "{name}");
        assert_eq!(store.outbox_counts(), OutboxCounts { pending: 0, delivered: 1, given_up: 0 }, "{name}");
        assert_eq!(server.taken().len(), 1, "{name}: taken once");
    }
}

/// Only if a receiver takes a message and its answer is lost, the message comes again. Receivers
/// can tell by its key that it is the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_without_an_answer_comes_again_under_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    type KeyOf = fn(&Taken) -> String;
    let key_of: [(&str, KeyOf); 5] = [
        ("webhook", |one| one.headers["idempotency-key"].clone()),
        ("alertmanager", |one| one.body[0]["labels"].to_string()),
        ("pagerduty", |one| one.body["dedup_key"].to_string()),
        ("telegram", |one| one.body["text"].to_string()),
        ("email", |one| one.headers["message-id"].clone()),
    ];
    for (wanted, key) in key_of {
        let server = Server::start(wanted, &[DiesAfter]).await;
        let (name, sink) = sinks(dir.path(), server.address).into_iter().find(|(name, _)| *name == wanted).unwrap();
        let store = Store::open(&dir.path().join(name), NETWORK).unwrap();
        let routes = routes(name, sink);
        store.record(vec![offence(5, &[])], &routes.names()).unwrap();
        let dispatcher = Dispatcher::start(store, routes, Time::now);
        until(&dispatcher, |counts| counts.delivered == 1).await;
        dispatcher.stop().await;
        let keys: Vec<String> = server.taken().iter().map(key).collect();
        assert_eq!(keys.len(), 2, "{name}");
        assert_eq!(keys[0], keys[1], "{name}");
    }
}

#[tokio::test]
async fn each_receiver_gets_what_its_api_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let (web, mail) = (Server::start("webhook", &[]).await, Server::start("email", &[]).await);
    let mut taken = BTreeMap::new();
    for (nth, (name, _)) in sinks(dir.path(), web.address).into_iter().enumerate() {
        let server = if name == "email" { &mail } else { &web };
        let (_, sink) = sinks(dir.path(), server.address).swap_remove(nth);
        let store = Store::open(&dir.path().join(name), NETWORK).unwrap();
        let routes = routes(name, sink);
        let preview = routes.get(name).unwrap().preview(&offence(5, &[]).0.kind, &Context::default());
        assert!(!preview.contains("hunter2"), "{name}: a preview shows no secret");
        assert!(!format!("{routes:?}").contains("hunter2"), "{name}");
        store.record(vec![offence(5, &["group=acme-1", "operator=<acme>"])], &routes.names()).unwrap();
        let dispatcher = Dispatcher::start(store, routes, Time::now);
        until(&dispatcher, |counts| counts.delivered == 1).await;
        dispatcher.stop().await;
        taken.insert(name, server.taken().pop().unwrap());
    }
    let id = offence(5, &[]).0.id.to_string();
    let link = format!("https://watch.example.org/findings/{id}");
    let title = "hoodi: double vote by validator 5 (0x000000..000000, group=acme-1, operator=<acme>)";

    let one = &taken["alertmanager"];
    assert_eq!(one.line, "POST /api/v2/alerts HTTP/1.1");
    assert_eq!(one.headers["authorization"], "Bearer hunter2");
    let alert = &one.body[0];
    let labels = json!({
        "alertname": "slashwatch_double_vote", "network": "hoodi", "severity": "critical", "group": "acme-1", "alert": id,
    });
    assert_eq!(alert["labels"], labels);
    assert_eq!((&alert["annotations"]["summary"], &alert["generatorURL"]), (&json!(title), &json!(link)));
    let time = |key: &str| alert[key].as_str().unwrap().parse::<Time>().unwrap();
    assert!(time("endsAt").since(Time::now()) > Duration::from_secs(23 * 3600), "{alert}");

    let one = &taken["slack"];
    assert_eq!(one.line, "POST /services/T0/B0/hunter2 HTTP/1.1");
    let text = one.body["text"].as_str().unwrap();
    assert!(text.starts_with(&title.replace("<acme>", "&lt;acme&gt;")) && text.ends_with(&link), "{text}");

    let one = &taken["discord"];
    assert_eq!(one.line, "POST /services/T0/B0/hunter2?wait=true HTTP/1.1");
    assert_eq!(one.body["allowed_mentions"], json!({ "parse": [] }));
    assert!(one.body["content"].as_str().unwrap().starts_with(title), "{one:?}");

    let one = &taken["telegram"];
    assert_eq!((one.line.as_str(), &one.body["chat_id"]), ("POST /bothunter2/sendMessage HTTP/1.1", &json!("-100")));
    assert!(one.body["text"].as_str().unwrap().contains("What now: stop every machine"), "{one:?}");

    let one = &taken["pagerduty"];
    assert_eq!((one.line.as_str(), &one.body["routing_key"]), ("POST /v2/enqueue HTTP/1.1", &json!("hunter2")));
    assert_eq!((&one.body["event_action"], &one.body["dedup_key"]), (&json!("trigger"), &json!(id)));
    let payload = &one.body["payload"];
    assert_eq!((&payload["summary"], &payload["severity"]), (&json!(title), &json!("critical")));

    let one = &taken["ntfy"];
    assert_eq!((one.line.as_str(), &one.body["topic"], &one.body["priority"]), ("POST / HTTP/1.1", &json!("mine"), &json!(5)));
    assert_eq!((&one.body["title"], &one.body["click"]), (&json!(title), &json!(link)));

    let one = &taken["email"];
    let login = "AUTH PLAIN AHdhdGNoAGh1bnRlcjI=";
    let envelope = "MAIL FROM:<watch@acme.test>|RCPT TO:<oncall@acme.test>|RCPT TO:<gone@acme.test>|DATA";
    assert_eq!(one.line, format!("EHLO [127.0.0.1]|{login}|{envelope}"));
    let header = |name: &str| one.headers[name].as_str();
    assert_eq!((header("subject"), header("auto-submitted")), (title, "auto-generated"));
    assert_eq!((header("to"), header("mime-version")), ("oncall@acme.test, gone@acme.test", "1.0"));
    assert_eq!(header("message-id"), format!("<{id}-1.email@acme.test>"));
    assert_eq!((header("in-reply-to"), header("references")), (&*format!("<{id}.email@acme.test>"), header("in-reply-to")));
    let text = one.body.as_str().unwrap();
    assert!(text.starts_with(title) && text.contains("What now: stop every machine") && text.contains(&link), "{text}");

    let one = &taken["webhook"];
    assert_eq!((&one.body["finding"]["id"], one.body.get("merged")), (&json!(id), None), "one finding a message");
}

#[tokio::test]
async fn telegram_that_answers_no_with_200_is_asked_again() {
    // The server of these tests answers `{"ok":true}`. A proxy in between may not.
    let dir = tempfile::tempdir().unwrap();
    let n_asked = std::sync::atomic::AtomicU32::new(0);
    let address = test_support::http::serve_bodies(anywhere(), move |_| {
        let is_first = n_asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        Some(if is_first { b"{\"ok\":false}".to_vec() } else { b"{\"ok\":true}".to_vec() })
    });
    let (_, sink) = sinks(dir.path(), address).into_iter().find(|(name, _)| *name == "telegram").unwrap();
    let store = Store::open(&dir.path().join("db"), NETWORK).unwrap();
    let routes = routes("telegram", sink);
    store.record(vec![offence(5, &[])], &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store, routes, Time::now);
    let counts = until(&dispatcher, |counts| counts.delivered == 1).await;
    assert_eq!(counts.retried, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_program_gets_the_text_and_says_whether_to_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("alert.sh");
    // Busy at first (75 is EX_TEMPFAIL), then it takes the message.
    let text = "#!/bin/sh\ncd \"$1\"; echo x >> runs; test $(wc -l < runs) -ge 3 || exit 75\n\
                cat > body.json; printf '%s' \"$SLASHWATCH_SEVERITY $SLASHWATCH_TEXT\" > text\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = json!({ "type": "program", "command": [script, dir.path()] });
    let store = Store::open(&dir.path().join("db"), NETWORK).unwrap();
    let routes = routes("program", serde_json::from_value(config).unwrap());
    store.record(vec![offence(5, &[])], &routes.names()).unwrap();
    let dispatcher = Dispatcher::start(store, routes, Time::now);
    let counts = until(&dispatcher, |counts| counts.delivered == 1).await;
    assert_eq!(counts.retried, 2);
    dispatcher.stop().await;
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(read("text").starts_with("critical hoodi: double vote by validator 5 "), "{}", read("text"));
    let body: Value = serde_json::from_str(&read("body.json")).unwrap();
    assert_eq!(body["finding"]["kind"], "double_vote");
}

/// A wave of 3 000 keys, recorded in batches as it is received, with the announcement of its
/// incident, among it two groups of one's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wave_of_3000_keys_makes_at_most_20_messages_and_own_keys_have_their_own() {
    const KEYS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start("pagerduty", &[Fails(500), Busy(429)]).await;
    let (_, sink) = sinks(dir.path(), server.address).into_iter().find(|(name, _)| *name == "pagerduty").unwrap();
    let store = Store::open(&dir.path().join("db"), NETWORK).unwrap();
    let routes = routes("pager", sink.clone());
    let mut dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
    let group_of = |validator: u64| match validator {
        1000..1003 => vec!["group=acme-1"],
        2000 => vec!["group=acme-2"],
        _ => Vec::new(),
    };
    let taken_at_least = async |n: usize| {
        let waited = async {
            while server.taken().len() < n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("messages come");
    };
    for first in (0..KEYS).step_by(100) {
        let batch = (first..first + 100).map(|validator| offence(validator, &group_of(validator))).collect();
        store.record(batch, &routes.names()).unwrap();
        match first {
            0 => taken_at_least(1).await,
            500 => drop(store.record_anomalies(vec![announcement(Kind::SlashingWave, None)], &routes.names()).unwrap()),
            // The wave's first message, an update, and the first of an own group.
            1000 => taken_at_least(3).await,
            // A restart in the middle tells nothing again.
            1500 => {
                dispatcher.stop().await;
                dispatcher = Dispatcher::start(store.clone(), routes.clone(), Time::now);
            }
            _ => {}
        }
    }
    store.record_anomalies(vec![announcement(Kind::SlashingWave, Some("over"))], &routes.names()).unwrap();
    let all_delivered = async {
        while store.outbox_counts().delivered < KEYS + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_delivered).await.expect("the end tells everything that waits");
    dispatcher.stop().await;
    let taken = server.taken();
    println!("{} messages about {KEYS} keys", taken.len());
    assert!(taken.len() <= 20, "{} messages", taken.len());
    let wave = &taken[0].body["dedup_key"];
    let of_wave: Vec<&Value> =
        taken.iter().filter(|one| one.body["dedup_key"] == *wave).map(|one| &one.body["event_action"]).collect();
    assert!(of_wave.len() >= 3, "the first, updates, and the recovery: {of_wave:?}");
    assert_eq!(of_wave.last(), Some(&&json!("resolve")), "under the key with which it began");
    assert_eq!(taken.iter().filter(|one| one.body["event_action"] == "resolve").count(), 1);
    for (group, first) in [("group=acme-1", 1000), ("group=acme-2", 2000)] {
        let own: Vec<&Taken> = taken.iter().filter(|one| one.body["payload"]["custom_details"]["labels"][0] == group).collect();
        let summary = own[0].body["payload"]["summary"].as_str().unwrap();
        assert!(summary.contains(&format!("double vote by validator {first} (")), "a message of its own: {summary}");
        assert_eq!(own[0].body["payload"]["custom_details"]["merged"]["findings"], 1);
        assert_ne!(own[0].body["dedup_key"], *wave);
    }
    let merged = |one: &Taken| one.body["payload"]["custom_details"]["merged"]["new_findings"].as_u64().unwrap();
    assert_eq!(taken.iter().map(merged).sum::<u64>(), KEYS + 2, "each finding once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heart_beats_only_while_the_network_is_heard() {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let n_calls = Arc::new(AtomicU32::new(0));
    let counted = n_calls.clone();
    // The first call fails, which stops nothing.
    let address = test_support::http::serve(anywhere(), move |request| {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/ping/8f2c"));
        if counted.fetch_add(1, Ordering::SeqCst) == 0 { "500 No" } else { "200 OK" }
    });
    let file = dir.path().join("heartbeat.url");
    std::fs::write(&file, format!("http://{address}/ping/8f2c\n")).unwrap();
    let config = HeartbeatConfig { secret_file: Some(file), secret_env: None, every: Duration::from_millis(5) };
    let (is_well, n_looks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (well, looks) = (is_well.clone(), n_looks.clone());
    let look = move || {
        looks.fetch_add(1, Ordering::SeqCst);
        well.load(Ordering::SeqCst)
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    let beating = tokio::spawn(Heartbeat::new(&config).unwrap().run(look, cancel.clone()));
    let more = async |counter: &AtomicU32, n: u32| {
        let wanted = counter.load(Ordering::SeqCst) + n;
        let waited = async {
            while counter.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("it goes on");
    };
    more(&n_calls, 3).await;
    is_well.store(false, Ordering::SeqCst);
    // A call may be under way.
    more(&n_looks, 2).await;
    let calls = n_calls.load(Ordering::SeqCst);
    more(&n_looks, 5).await;
    assert_eq!(n_calls.load(Ordering::SeqCst), calls, "a watcher that hears nothing is silent");
    is_well.store(true, Ordering::SeqCst);
    more(&n_calls, 1).await;
    cancel.cancel();
    beating.await.unwrap();
}
