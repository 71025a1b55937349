//! Kill switches against real programs and a real receiver on loopback.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use alert::killswitch::{ActionConfig, KillSwitch, Report};
use alert::{SecretSource, webhook};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use consensus::{Epoch, ForkName, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Anomaly, Finding, Severity, Subject, Time};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

fn finding() -> Finding {
    Finding::anomaly(Anomaly {
        id: Root::repeat_byte(7),
        kind: "dormant_key_signed",
        severity: Severity::Critical,
        slot: Slot::new(9),
        epoch: Epoch::new(1),
        // Labels are the operator's, but a test may as well see that nothing here is ever a command.
        validator: Some(Subject {
            index: ValidatorIndex::new(5),
            pubkey: PubkeyBytes::repeat_byte(1),
            labels: vec!["x=$(touch pwned); `touch pwned`".into()],
        }),
        first_seen: Time::from_unix_ns(1),
        second_seen: None,
        recorded_at: Time::from_unix_ns(2),
        sources: vec!["gossip".into()],
        fork: ForkName::Fulu,
        details: serde_json::Map::new(),
    })
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("switch.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

async fn fire(dir: &Path, text: &str, timeout: Duration) -> Report {
    let words = vec![script(dir, text).display().to_string(), dir.display().to_string(), "a b; $HOME".into()];
    let switch = KillSwitch::new("acme", &ActionConfig::Command(words), timeout).unwrap();
    switch.fire(&finding(), 1, Time::from_unix_ns(3)).await
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_program_gets_its_words_as_they_are_and_the_finding_as_data() {
    let dir = tempfile::tempdir().unwrap();
    let text = "cd \"$1\"; cat > order.json; printf '%s' \"$2\" > second; env | grep -c SECRET; echo $SLASHWATCH_GROUP $SLASHWATCH_VALIDATOR";
    let report = fire(dir.path(), text, LONG).await;
    assert!(report.result.as_ref().unwrap().ends_with(": 0 acme 5"), "{report:?}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("second"), "a b; $HOME", "no shell in between");
    let order: serde_json::Value = serde_json::from_str(&read("order.json")).unwrap();
    assert_eq!(order["kill_switch"], "acme");
    assert_eq!(order["finding"]["validator"]["index"], "5");
    assert_eq!(order["test"], false);
    assert!(!dir.path().join("pwned").exists());
}

#[tokio::test]
async fn what_fails_or_takes_too_long_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let report = fire(dir.path(), "echo no such unit >&2; exit 3", LONG).await;
    let told = report.result.unwrap_err();
    assert!(told.contains("exit status: 3") && told.contains("no such unit"), "{told}");
    let told = fire(dir.path(), "exec sleep 1000", Duration::from_millis(300)).await.result.unwrap_err();
    assert!(told.contains("broken off"), "{told}");
    let missing = ActionConfig::Command(vec!["/nowhere/at/all".into()]);
    let told = KillSwitch::new("acme", &missing, LONG).unwrap().test(Time::from_unix_ns(3)).await.result.unwrap_err();
    assert!(told.contains("cannot be run"), "{told}");
}

#[tokio::test]
async fn noise_and_children_left_behind_do_not_hold_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let report = fire(dir.path(), "sleep 1000 & yes | head -c 1000000; echo $! >&2", LONG).await;
    let told = report.result.clone().unwrap();
    let pid: u32 = told.rsplit(' ').next().unwrap().parse().unwrap();
    let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
    assert!(report.took < LONG, "{report:?}");
}

#[tokio::test]
async fn a_call_is_signed_and_a_refusal_reported() {
    let (sender, mut received) = mpsc::channel(16);
    let handler = move |headers: HeaderMap, body: String| {
        let sender = sender.clone();
        async move {
            sender.send((headers, body.clone())).await.unwrap();
            if body.contains("\"test\":true") { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/stop", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/stop", post(handler))).await });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "hunter2").unwrap();
    let action = ActionConfig::Call { url, secret: SecretSource::File(file) };
    let switch = KillSwitch::new("acme", &action, LONG).unwrap();
    let now = Time::from_unix_ns(1_700_000_000_000_000_000);
    switch.test(now).await.result.unwrap();
    let (headers, body) = received.recv().await.unwrap();
    let wanted = webhook::signature(&alert::Secret::new("hunter2"), "1700000000", body.as_bytes());
    assert_eq!(headers["x-slashwatch-signature"], wanted.as_str());
    let told = switch.fire(&finding(), 1, now).await.result.unwrap_err();
    assert!(told.contains("403"), "{told}");
    let (headers, body) = received.recv().await.unwrap();
    assert_eq!(headers["idempotency-key"], format!("killswitch:acme:{}", Root::repeat_byte(7)).as_str());
    assert!(body.contains("\"kill_switch\":\"acme\"") && body.contains("\"test\":false"), "{body}");
}
