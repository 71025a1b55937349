//! Kill switches: the one thing to do at once when a group's keys begin to sign against themselves.
//!
//! An order runs a program or calls an address, with a timeout, and ends with a [`Report`]. Whether and when to order, and
//! that it happens once, is the caller's business; nothing here remembers anything.
//!
//! Nothing that came from the network decides what is run: program, arguments and address are the configuration's, handed over
//! as they are, without a shell. The finding goes in as data: JSON on the standard input or in the body.

mod call;
mod exec;

use crate::webhook::{self, Webhook};
use crate::{AlertError, NetworkName, Policy, Secret, SecretSource};
use evidence::{Finding, Time};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Version of the JSON that an order hands over.
const SCHEMA: u64 = 1;
/// Bytes kept of what a program or a receiver says.
pub const MAX_ANSWER_BYTES: usize = 2048;

/// What a switch does, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionConfig {
    /// Program and arguments.
    Command(Vec<String>),
    Call {
        url: String,
        secret: SecretSource,
    },
}

/// A switch that is ready: its secret is loaded, its address is valid.
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

/// What an order hands over.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Order<'a> {
    schema: u64,
    pub kill_switch: &'a str,
    /// From 1; more only when a crash left it unknown how the one before ended.
    pub attempt: u32,
    /// Only proves the wiring: nothing is to be stopped.
    pub test: bool,
    pub network: &'a NetworkName,
    /// In a test, one that is made up.
    pub finding: Option<&'a Finding>,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub took: Duration,
    /// What the program or receiver said, or why it did not do it.
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
                let client = webhook::client(&Policy { timeout, ..Policy::default() })?;
                Action::Call(Webhook::new(group, client, url, Secret::load(secret)?)?)
            }
        };
        Ok(Self { group: group.into(), network: NetworkName::default(), action, timeout })
    }

    /// The same switch, whose orders name this network.
    pub fn about(self, network: NetworkName) -> Self {
        Self { network, ..self }
    }

    /// The group whose clients it stops.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The program, or scheme, host and port of the receiver; nothing secret.
    pub fn place(&self) -> String {
        match &self.action {
            Action::Command { program, .. } => program.clone(),
            Action::Call(webhook) => webhook.place(),
        }
    }

    /// Does it because of a finding. `now` is the wall clock.
    pub async fn fire(&self, finding: &Finding, attempt: u32, now: Time) -> Report {
        self.order(Order { attempt, test: false, finding: Some(finding), ..self.test_order() }, now).await
    }

    /// Proves the wiring: the same program or address gets what an order would hand over, and is
    /// told that it is a test. `finding` is made up.
    pub async fn test(&self, finding: &Finding, now: Time) -> Report {
        self.order(Order { finding: Some(finding), ..self.test_order() }, now).await
    }

    fn test_order(&self) -> Order<'_> {
        Order { schema: SCHEMA, kill_switch: &self.group, attempt: 1, test: true, network: &self.network, finding: None }
    }

    async fn order(&self, order: Order<'_>, now: Time) -> Report {
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
        Report { took: started.elapsed(), result }
    }
}
