//! Kill switches against real programs and a real receiver on loopback.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use alert::killswitch::{ActionConfig, KillSwitch, KillSwitchParts, OrderReport};
use alert::{SecretSource, webhook};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use consensus::{PubkeyBytes, Root, ValidatorIndex};
use evidence::{Anomaly, Finding, Kind, Subject, Time};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

fn finding() -> Finding {
    Finding::anomaly(Anomaly {
        // Labels come from the operator, but the test shows that their content is never run as a
        // command.
        validator: Some(Subject {
            index: ValidatorIndex::new(5),
            pubkey: PubkeyBytes::repeat_byte(1),
            labels: vec!["x=$(touch pwned); `touch pwned`".into()],
        }),
        first_seen: Time::from_unix_ns(1),
        recorded_at: Time::from_unix_ns(2),
        ..Anomaly::sample(Kind::DormantKeySigned)
    })
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("switch.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

async fn fire(dir: &Path, text: &str, timeout: Duration) -> OrderReport {
    let words = vec![script(dir, text).display().to_string(), dir.display().to_string(), "a b; $HOME".into()];
    let switch = switch(ActionConfig::Command(words), timeout);
    switch.fire(&finding(), &[], 1, Time::from_unix_ns(3)).await
}

fn switch(action: ActionConfig, timeout: Duration) -> KillSwitch {
    KillSwitch::new(KillSwitchParts { group: "acme".into(), action, timeout, lock_file: None, dry_run: false }).unwrap()
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
    let told = switch(missing, LONG).test(&finding(), &[], Time::from_unix_ns(3)).await.result.unwrap_err();
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

/// A receiver on loopback, and a switch that calls it. `answer` gets the number of earlier calls.
async fn receiver(
    timeout: Duration,
    answer: impl Fn(usize, &str) -> Response + Clone + Send + Sync + 'static,
) -> (KillSwitch, mpsc::Receiver<(HeaderMap, String)>) {
    let (sender, received) = mpsc::channel(16);
    let n_calls = Arc::new(AtomicUsize::new(0));
    let handler = move |headers: HeaderMap, body: String| {
        let (sender, nth, answer) = (sender.clone(), n_calls.fetch_add(1, Ordering::SeqCst), answer.clone());
        async move {
            let answer = answer(nth, &body);
            sender.send((headers, body)).await.unwrap();
            answer
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/stop", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/stop", post(handler))).await });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "hunter2").unwrap();
    let action = ActionConfig::Call { url, secret: SecretSource::File(file) };
    (switch(action, timeout), received)
}

#[tokio::test]
async fn a_busy_receiver_is_called_again_when_it_said_with_the_time_of_that_call() {
    let (switch, mut received) = receiver(LONG, |nth, _| match nth {
        0 => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
    .await;
    let began = Instant::now();
    switch.fire(&finding(), &[], 1, Time::from_unix_ns(1_700_000_000_000_000_000)).await.result.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "it waited as it was asked to");
    for wanted in 0..2u64 {
        let (headers, body) = received.recv().await.unwrap();
        let stamp: u64 = headers["x-slashwatch-timestamp"].to_str().unwrap().parse().unwrap();
        assert!(stamp >= 1_700_000_000 + wanted, "{stamp}");
        let signed = webhook::signature(&alert::Secret::new("hunter2"), &stamp.to_string(), body.as_bytes());
        assert_eq!(headers["x-slashwatch-signature"], signed.as_str());
    }
}

#[tokio::test]
async fn what_ended_the_last_attempt_is_told_when_time_is_up() {
    let timeout = Duration::from_millis(400);
    let busy = |_, _: &str| (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3600")], "in maintenance").into_response();
    let (switch, mut received) = receiver(timeout, busy).await;
    let told = switch.fire(&finding(), &[], 1, Time::from_unix_ns(3)).await.result.unwrap_err();
    assert!(told.contains("broken off") && told.contains("503") && told.contains("in maintenance"), "{told}");
    received.close();
    let mut n_calls = 0;
    while received.recv().await.is_some() {
        n_calls += 1;
    }
    assert!(n_calls >= 2, "an hour is longer than it has: it asked again");
}

#[tokio::test]
async fn a_call_is_signed_and_a_refusal_reported() {
    let (switch, mut received) = receiver(LONG, |_, body| {
        if body.contains("\"test\":true") {
            StatusCode::NO_CONTENT.into_response()
        } else {
            StatusCode::FORBIDDEN.into_response()
        }
    })
    .await;
    let now = Time::from_unix_ns(1_700_000_000_000_000_000);
    switch.test(&finding(), &[], now).await.result.unwrap();
    let (headers, body) = received.recv().await.unwrap();
    assert!(body.contains("\"test\":true") && body.contains("\"finding\":{"), "{body}");
    let wanted = webhook::signature(&alert::Secret::new("hunter2"), "1700000000", body.as_bytes());
    assert_eq!(headers["x-slashwatch-signature"], wanted.as_str());
    let told = switch.fire(&finding(), &[], 1, now).await.result.unwrap_err();
    assert!(told.contains("403"), "{told}");
    let (headers, body) = received.recv().await.unwrap();
    assert_eq!(headers["idempotency-key"], format!("killswitch:acme:{}", Root::repeat_byte(7)).as_str());
    assert!(body.contains("\"kill_switch\":\"acme\"") && body.contains("\"test\":false"), "{body}");
}

/// Whoever may write into the folder of the lock file may put links there.
#[tokio::test]
async fn a_test_leaves_the_folder_of_the_lock_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, victim) = (dir.path().join("locks"), dir.path().join("victim"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.join("acme.test")).unwrap();
    let lock_file = Some(folder.join("acme.lock"));
    let action = ActionConfig::Command(vec!["/bin/true".into()]);
    let parts = KillSwitchParts { group: "acme".into(), action, timeout: LONG, lock_file, dry_run: false };
    let told = KillSwitch::new(parts).unwrap().test(&finding(), &[], Time::from_unix_ns(3)).await.result.unwrap();
    assert!(told.contains("the lock file would be"), "{told}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["acme.test"]);
}

/// The environment of a process is read when a client is made, so a process of its own calls the
/// receiver.
#[tokio::test]
async fn an_address_is_called_past_the_proxy_of_the_environment() {
    const INNER: &str = "SLASHWATCH_TEST_BEHIND_PROXY";
    if std::env::var_os(INNER).is_some() {
        let (switch, mut received) = receiver(Duration::from_secs(5), |_, _| StatusCode::NO_CONTENT.into_response()).await;
        switch.fire(&finding(), &[], 1, Time::from_unix_ns(3)).await.result.unwrap();
        return received.try_recv().map(drop).expect("the receiver itself was called");
    }
    // This port answers nobody.
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let mut inner = tokio::process::Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "an_address_is_called_past_the_proxy_of_the_environment"]).env(INNER, "1");
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        inner.env(name, &address);
    }
    let output = inner.env_remove("no_proxy").env_remove("NO_PROXY").output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}
