//! Kill switches: the action to take at once when a group's keys begin to sign slashable messages.
//!
//! An order runs a program or calls an address, with a timeout, and ends with a [`OrderReport`].
//! The caller decides whether and when to give an order, and ensures that it happens only once.
//! This module keeps no state.
//!
//! No input from the network decides what is run. The program, its arguments and the address come
//! from the configuration and are used unchanged, without a shell. The finding is passed as data:
//! JSON on the standard input or in the body.

mod call;
mod exec;

use crate::sink::Sink as _;
use crate::sink::webhook::{self, Webhook};
use crate::{AlertError, NetworkName, Secret, SecretSource};
use evidence::{Finding, Time};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Version of the JSON format of an order.
const SCHEMA: u64 = 1;
/// Number of bytes that are kept of the output of a program or the answer of a receiver.
pub const MAX_ANSWER_BYTES: usize = 2048;

/// The action of a kill switch, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionConfig {
    /// Program and arguments.
    Command(Vec<String>),
    Call {
        url: String,
        secret: SecretSource,
    },
}

/// A kill switch that is ready: its secret is loaded and its address is valid.
#[derive(Clone, Debug)]
pub struct KillSwitch {
    group: String,
    network: NetworkName,
    action: Action,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Action {
    Command { program: String, arguments: Vec<String> },
    Call(Webhook),
}

/// The JSON that an order passes to the program or receiver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SwitchOrder<'a> {
    schema: u64,
    pub kill_switch: &'a str,
    /// Number of the attempt, from 1. It is greater than 1 only after a crash that left the result
    /// of the previous attempt unknown.
    pub attempt: u32,
    /// If true, the order only tests the connection, and nothing is to be stopped.
    pub test: bool,
    pub network: &'a NetworkName,
    /// In a test, one that is made up.
    pub finding: Option<&'a Finding>,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderReport {
    pub took: Duration,
    /// The output of the program or the answer of the receiver, or the reason why the order failed.
    pub result: Result<String, String>,
}

impl KillSwitch {
    /// Loads the secret and checks the address.
    pub fn new(group: &str, action: &ActionConfig, timeout: Duration) -> Result<Self, AlertError> {
        let action = match action {
            ActionConfig::Command(words) => {
                let (program, arguments) = words.split_first().ok_or(AlertError::NoCommand { group: group.into() })?;
                Action::Command { program: program.clone(), arguments: arguments.to_vec() }
            }
            ActionConfig::Call { url, secret } => {
                let client = webhook::client(timeout)?;
                Action::Call(Webhook::new(group, client, url, Secret::load(secret)?)?)
            }
        };
        Ok(Self { group: group.into(), network: NetworkName::default(), action, timeout })
    }

    /// Returns the same switch, with this network named in its orders.
    pub fn about(self, network: NetworkName) -> Self {
        Self { network, ..self }
    }

    /// The group whose clients the switch stops.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The program, or the scheme, host and port of the receiver. It contains nothing secret.
    pub fn place(&self) -> String {
        match &self.action {
            Action::Command { program, .. } => program.clone(),
            Action::Call(webhook) => webhook.place(),
        }
    }

    /// Executes the switch because of a finding. `now` is the wall clock.
    pub async fn fire(&self, finding: &Finding, attempt: u32, now: Time) -> OrderReport {
        self.order(SwitchOrder { attempt, test: false, finding: Some(finding), ..self.test_order() }, now).await
    }

    /// Proves the wiring: the same program or address gets what an order would hand over, and is
    /// told that it is a test. `finding` is made up.
    pub async fn test(&self, finding: &Finding, now: Time) -> OrderReport {
        self.order(SwitchOrder { finding: Some(finding), ..self.test_order() }, now).await
    }

    fn test_order(&self) -> SwitchOrder<'_> {
        SwitchOrder { schema: SCHEMA, kill_switch: &self.group, attempt: 1, test: true, network: &self.network, finding: None }
    }

    async fn order(&self, order: SwitchOrder<'_>, now: Time) -> OrderReport {
        let started = Instant::now();
        let mut last_failure = None;
        let acting = async {
            match &self.action {
                Action::Command { program, arguments } => exec::run(program, arguments, &order).await,
                Action::Call(webhook) => call::call(webhook, &order, now, self.timeout / 4, &mut last_failure).await,
            }
        };
        let ended = tokio::time::timeout(self.timeout, acting).await;
        let result = ended.unwrap_or_else(|_| {
            let why = last_failure.map_or(String::new(), |reason| format!("; last: {reason}"));
            Err(format!("{} was not done within {:?} and was broken off{why}", self.place(), self.timeout))
        });
        OrderReport { took: started.elapsed(), result }
    }
}
