//! Kill switches: the action to take at once when a group's keys begin to sign slashable messages.
//!
//! An order writes the lock file, stops the clients in one of the ways below within a timeout, and
//! ends with an [`OrderReport`]. The caller decides whether and when to give an order, and ensures
//! that it happens only once. This module keeps no state.
//!
//! | action | stops by |
//! |---|---|
//! | program, address | what the operator has written |
//! | [`keymanager`] | deleting the group's keys from validator clients, or from a Web3Signer |
//! | [`systemd`] | stopping and masking units |
//! | [`containers`] | stopping containers of Docker or Podman, without a restart policy |
//! | [`kubernetes`] | scaling to zero |
//!
//! The lock file ([`lock_file`](KillSwitchParts::lock_file)) is there before anything is stopped. A
//! supervisor that asks for it starts no client again until the switch is made ready again.
//!
//! No input from the network decides what is run. Programs, addresses and names come from the
//! configuration and are used unchanged, without a shell. The finding is passed as data: JSON on
//! the standard input or in the body.

mod call;
pub mod containers;
pub mod keymanager;
pub mod kubernetes;
pub mod systemd;

use crate::exec;
use crate::retry::{Failure, FailureKind, RetryPolicy};
use crate::sink::Sink as _;
use crate::sink::webhook::Webhook;
use crate::{AlertError, NetworkName, Secret, SecretSource};
use base::http;
use consensus::{PubkeyBytes, Root};
use containers::{Containers, ContainersConfig};
use evidence::{Finding, Time};
use keymanager::{Keymanager, KeymanagerConfig};
use kubernetes::{Kubernetes, KubernetesConfig};
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use systemd::{Systemd, SystemdConfig};

/// Version of the JSON format of an order.
const SCHEMA: u64 = 1;
/// What an action may take longer than its timeout, to say how far it came.
const REPORT_TIME: Duration = Duration::from_secs(1);
/// How long the order waits for the lock file.
const LOCK_TIME: Duration = Duration::from_secs(1);
/// Limit on what is read of a lock file, in bytes.
const MAX_LOCK_BYTES: u64 = 64 << 10;
/// Limit on the parts of a report, such as keys or containers, that are named.
const MAX_NAMED: usize = 10;

/// The action of a kill switch, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionConfig {
    /// Program and arguments.
    Command(Vec<String>),
    Call {
        url: String,
        secret: SecretSource,
    },
    Keymanager(KeymanagerConfig),
    Systemd(SystemdConfig),
    Containers(ContainersConfig),
    Kubernetes(KubernetesConfig),
}

/// What a kill switch is made of.
#[derive(Clone, Debug)]
pub struct KillSwitchParts {
    pub group: String,
    pub action: ActionConfig,
    pub timeout: Duration,
    /// The file that keeps clients from starting again. `None` writes none.
    pub lock_file: Option<PathBuf>,
    /// Whether orders only say what they would do.
    pub dry_run: bool,
}

/// A kill switch that is ready: its secrets are loaded and its addresses are valid.
#[derive(Clone, Debug)]
pub struct KillSwitch {
    group: String,
    network: NetworkName,
    /// Where what clients hand over is kept. `None` keeps nothing, as in a test.
    folder: Option<PathBuf>,
    action: Action,
    timeout: Duration,
    lock_file: Option<PathBuf>,
    dry_run: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Command { program: String, arguments: Vec<String> },
    Call(Webhook),
    Keymanager(Keymanager),
    Systemd(Systemd),
    Containers(Containers),
    Kubernetes(Kubernetes),
}

/// The JSON that an order passes to the program or receiver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SwitchOrder<'a> {
    schema: u64,
    pub kill_switch: &'a str,
    /// Number of the attempt, from 1. It is greater than 1 if the previous attempt failed, or if a
    /// crash left its result unknown.
    pub attempt: u32,
    /// If true, the order only tests the connection, and nothing is to be stopped.
    pub test: bool,
    pub network: &'a NetworkName,
    /// In a test, one that is made up.
    pub finding: Option<&'a Finding>,
    /// The public keys of the group, as far as they are known.
    #[serde(skip)]
    pub keys: &'a [PubkeyBytes],
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderReport {
    pub took: Duration,
    /// The output of the program or the answer of the receiver, or the reason why the order failed.
    pub result: Result<String, String>,
}

/// What became of a lock file that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlocked {
    Removed,
    WasNone,
    /// The switch of this group has written it, and it stays.
    IsOf(String),
}

/// The content of a lock file.
#[derive(Serialize)]
struct LockFile<'a> {
    kill_switch: &'a str,
    network: &'a str,
    finding: String,
    kind: &'a str,
    at: Time,
    /// What to do, for whoever wonders why a client does not start.
    note: String,
}

impl KillSwitch {
    /// Loads the secrets and checks the addresses.
    pub fn new(parts: KillSwitchParts) -> Result<Self, AlertError> {
        let KillSwitchParts { group, action, timeout, lock_file, dry_run } = parts;
        let action = match action {
            ActionConfig::Command(words) => {
                let (program, arguments) = words.split_first().ok_or(AlertError::NoCommand { group: group.clone() })?;
                Action::Command { program: program.clone(), arguments: arguments.to_vec() }
            }
            ActionConfig::Call { url, secret } => {
                // A proxy in between could answer that it is done.
                let client = http::client_builder(true).no_proxy().timeout(timeout).build();
                let client = client.map_err(|error| AlertError::Client(http::failure_reason(error)))?;
                Action::Call(Webhook::new(&group, client, &url, Secret::load(&secret)?)?)
            }
            ActionConfig::Keymanager(config) => Action::Keymanager(Keymanager::new(&group, config, timeout)?),
            ActionConfig::Systemd(config) => Action::Systemd(Systemd::new(config, timeout)),
            ActionConfig::Containers(config) => Action::Containers(Containers::new(config, timeout)?),
            ActionConfig::Kubernetes(config) => Action::Kubernetes(Kubernetes::new(&group, config, timeout)?),
        };
        Ok(Self { group, network: NetworkName::default(), folder: None, action, timeout, lock_file, dry_run })
    }

    /// Returns the same switch, with this network named in its orders.
    pub fn about(self, network: NetworkName) -> Self {
        Self { network, ..self }
    }

    /// Returns the same switch, which keeps in this folder what clients hand over.
    pub fn keeping_in(self, folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()), ..self }
    }

    /// The group whose clients the switch stops.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether its orders only say what they would do.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The program, or the scheme, host and port of the receiver. It contains nothing secret.
    pub fn place(&self) -> String {
        match &self.action {
            Action::Command { program, .. } => program.clone(),
            Action::Call(webhook) => webhook.place(),
            Action::Keymanager(keymanager) => keymanager.place(),
            Action::Systemd(systemd) => systemd.place(),
            Action::Containers(containers) => containers.place(),
            Action::Kubernetes(kubernetes) => kubernetes.place(),
        }
    }

    /// Executes the switch because of a finding. `keys` are those of the group, and `now` is the
    /// wall clock.
    pub async fn fire(&self, finding: &Finding, keys: &[PubkeyBytes], attempt: u32, now: Time) -> OrderReport {
        let order = SwitchOrder { attempt, test: self.dry_run, finding: Some(finding), keys, ..self.test_order() };
        if self.dry_run {
            let report = self.order(order, now).await;
            let said = |text: String| format!("dry run, nothing was stopped: {text}");
            return OrderReport { result: report.result.map(said).map_err(said), ..report };
        }
        let locked = self.lock(finding, now).await;
        let report = self.order(order, now).await;
        let result = match (report.result, locked) {
            (result, Ok(())) => result,
            (Ok(done), Err(lock)) => Err(format!("{done}. But {lock}")),
            (Err(failed), Err(lock)) => Err(format!("{failed}. And {lock}")),
        };
        OrderReport { result, ..report }
    }

    /// Proves the wiring. A program or an address gets what an order would hand over, and is told
    /// that it is a test. The other actions ask for what they would stop, and stop nothing.
    /// `finding` is made up.
    pub async fn test(&self, finding: &Finding, keys: &[PubkeyBytes], now: Time) -> OrderReport {
        let report = self.order(SwitchOrder { finding: Some(finding), keys, ..self.test_order() }, now).await;
        let Some(path) = &self.lock_file else { return report };
        // An order must not be the first to find out that it may not write there.
        let result = match (report.result, writable(path)) {
            (Ok(answer), Ok(())) => Ok(format!("{answer}; the lock file would be {}", path.display())),
            (Ok(answer), Err(lock)) => Err(format!("{answer}. But {lock}")),
            (Err(failed), _) => Err(failed),
        };
        OrderReport { result, ..report }
    }

    /// Removes the lock file of a group, so that its clients may start again. That of another group
    /// stays, because it keeps that group's clients from starting.
    pub fn unlock(lock_file: &Path, group: &str) -> std::io::Result<Unlocked> {
        if let Some(owner) = lock_owner(lock_file).filter(|owner| owner.kill_switch != group) {
            return Ok(Unlocked::IsOf(owner.kill_switch));
        }
        match std::fs::remove_file(lock_file) {
            Ok(()) => Ok(Unlocked::Removed),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Unlocked::WasNone),
            Err(error) => Err(error),
        }
    }

    /// The id of the finding because of which a lock file was written. `None` if that cannot be
    /// read from it.
    pub fn lock_finding(lock_file: &Path) -> Option<Root> {
        lock_owner(lock_file)?.finding?.parse().ok()
    }

    /// Writes the lock file. A folder that hangs, such as one of a server that is away, must not
    /// keep the order from being given.
    async fn lock(&self, finding: &Finding, now: Time) -> Result<(), String> {
        let Some(path) = &self.lock_file else { return Ok(()) };
        // Whoever reads the file at night is in another folder.
        let data_dir = self.folder.as_ref().map_or_else(String::new, |folder| {
            let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            format!(" --data-dir {}", absolute.display())
        });
        // It says whose key is watched, so only its owner may read it.
        let content = LockFile {
            kill_switch: &self.group,
            network: &self.network.name,
            finding: finding.id.to_string(),
            kind: finding.kind.as_str(),
            at: now,
            note: format!(
                "Keys of this group signed a slashable message. Start no validator client with them before the cause is known and this \
                 says SAFE: slashwatch preflight{data_dir} --interchange EXPORT.json --validators KEYS. Then: slashwatch killswitch rearm \
                 {group}{data_dir}",
                group = self.group,
            ),
        };
        let mut bytes = serde_json::to_vec_pretty(&content).expect("names and numbers");
        // Supervisors print the file into their logs.
        bytes.push(b'\n');
        let to = path.clone();
        let writing = tokio::task::spawn_blocking(move || evidence::replace_owners_file(&to, &bytes));
        let written = match tokio::time::timeout(LOCK_TIME, writing).await {
            Ok(Ok(written)) => written.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("its folder does not answer within {LOCK_TIME:?}")),
        };
        written.map_err(|reason| format!("the lock file {} cannot be written: {reason}", path.display()))
    }

    fn test_order(&self) -> SwitchOrder<'_> {
        let network = &self.network;
        SwitchOrder { schema: SCHEMA, kill_switch: &self.group, attempt: 1, test: true, network, finding: None, keys: &[] }
    }

    async fn order(&self, order: SwitchOrder<'_>, now: Time) -> OrderReport {
        let started = Instant::now();
        let mut last_failure = None;
        let (limit, acting): (Duration, futures::future::BoxFuture<'_, Result<String, String>>) = match &self.action {
            Action::Command { program, arguments } => (self.timeout, Box::pin(run(program, arguments, order))),
            Action::Call(webhook) => {
                let last = &mut last_failure;
                (self.timeout, Box::pin(async move { call::call(webhook, &order, now, self.timeout / 4, last).await }))
            }
            // These keep the timeout for each of their parts, and say what became of each.
            Action::Keymanager(keymanager) => {
                (self.timeout + REPORT_TIME, Box::pin(keymanager.order(order, self.folder.as_deref(), now)))
            }
            Action::Systemd(systemd) => {
                (self.timeout + REPORT_TIME, Box::pin(systemd.order(order.test, self.lock_file.is_some())))
            }
            Action::Containers(containers) => (self.timeout + REPORT_TIME, Box::pin(containers.order(order.test))),
            Action::Kubernetes(kubernetes) => (self.timeout + REPORT_TIME, Box::pin(kubernetes.order(order.test))),
        };
        let ended = tokio::time::timeout(limit, acting).await;
        let result = ended.unwrap_or_else(|_| {
            let why = last_failure.map_or(String::new(), |reason| format!("; last: {reason}"));
            Err(format!("{} was not done within {:?} and was broken off{why}", self.place(), self.timeout))
        });
        OrderReport { took: started.elapsed(), result }
    }
}

/// Runs a program with an order.
async fn run(program: &str, arguments: &[String], order: SwitchOrder<'_>) -> Result<String, String> {
    let mut variables = vec![
        ("SLASHWATCH_GROUP", order.kill_switch.to_owned()),
        ("SLASHWATCH_ATTEMPT", order.attempt.to_string()),
        ("SLASHWATCH_NETWORK", order.network.name.clone()),
        ("SLASHWATCH_TEST", if order.test { "1" } else { "0" }.to_owned()),
    ];
    if let Some(finding) = order.finding {
        variables.push(("SLASHWATCH_FINDING", finding.id.to_string()));
        variables.push(("SLASHWATCH_KIND", finding.kind.to_string()));
        if let Some(subject) = &finding.validator {
            variables.push(("SLASHWATCH_VALIDATOR", subject.index.to_string()));
            variables.push(("SLASHWATCH_PUBKEY", subject.pubkey.to_string()));
        }
    }
    let mut body = serde_json::to_vec(&order).expect("a finding has string keys only");
    body.push(b'\n');
    exec::run(program, arguments, &variables, &body).await.map_err(|error| error.reason)
}

/// What is read from a lock file.
#[derive(Deserialize)]
struct LockOwner {
    /// The group whose switch has written it.
    kill_switch: String,
    /// The id of the finding that fired it.
    #[serde(default)]
    finding: Option<String>,
}

/// What a lock file says. `None` if that cannot be read from it.
fn lock_owner(lock_file: &Path) -> Option<LockOwner> {
    // To open a pipe would wait for a writer.
    std::fs::metadata(lock_file).ok().filter(std::fs::Metadata::is_file)?;
    let mut text = Vec::new();
    std::fs::File::open(lock_file).ok()?.take(MAX_LOCK_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether a file could be written at this path. The folder is asked, and nothing is left in it.
fn writable(path: &Path) -> Result<(), String> {
    // A name that nothing in the folder has: another file or link must not be emptied or removed.
    let probe = path.with_file_name(format!(".slashwatch-test-{:016x}", rand::random::<u64>()));
    let tried = std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe));
    tried.map_err(|error| format!("the lock file {} could not be written: {error}; check its folder", path.display()))
}

/// Repeats a part of an order that failed for a reason that may pass. `last` receives the reason of
/// each failure, for a caller that drops this at its timeout.
async fn repeated<F: Future<Output = Result<String, Failure>>>(
    attempt: impl Fn() -> F,
    last: &mut Option<String>,
) -> Result<String, String> {
    let mut n_failures = 0;
    loop {
        match attempt().await {
            Ok(report) => return Ok(report),
            Err(Failure { kind: FailureKind::Refused, reason }) => return Err(reason),
            Err(Failure { reason, .. }) => *last = Some(reason),
        }
        n_failures += 1;
        tokio::time::sleep(RetryPolicy::DEFAULT.order_pauses.pause(n_failures)).await;
    }
}

/// A failure that may pass.
fn passing(reason: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Unavailable, reason: reason.into() }
}

/// Joins the reports of the parts of an order: done if all are, and failed if one is.
fn joined(reports: Vec<Result<String, String>>) -> Result<String, String> {
    let is_done = reports.iter().all(Result::is_ok);
    let texts: Vec<String> = reports
        .into_iter()
        .map(|report| match report {
            Ok(text) => text,
            Err(text) => format!("FAILED {text}"),
        })
        .collect();
    if is_done { Ok(texts.join("; ")) } else { Err(texts.join("; ")) }
}
