//! Sinks: the ways to deliver an alert.
//!
//! The file of a sink holds its part of the configuration ([`SinkSettings`]) and how one message is
//! sent ([`Sink`]). [`SinkConfig`] is the list of all of them. Names, severities and labels of
//! routes, the outbox, and retries are the same for every sink.

pub mod webhook;

use crate::retry::Failure;
use crate::{AlertError, NetworkName, SwitchNote};
use evidence::{Finding, Time};
use futures::future::BoxFuture;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The list of all sinks. `type` in the configuration of a route selects one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SinkConfig {
    Webhook(webhook::WebhookConfig),
}

impl SinkConfig {
    /// The `type` of a route that names none.
    pub(crate) const DEFAULT: &'static str = "webhook";

    fn settings(&self) -> &dyn SinkSettings {
        match self {
            Self::Webhook(config) => config,
        }
    }

    fn settings_mut(&mut self) -> &mut dyn SinkSettings {
        match self {
            Self::Webhook(config) => config,
        }
    }

    /// Reports what is wrong: the key, and a text that says what to do.
    pub fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        self.settings().problems(wrong);
    }

    /// The file with the secret, if there is one.
    pub fn secret_file(&self) -> Option<&Path> {
        self.settings().secret_file()
    }

    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        if let Some(path) = self.settings_mut().secret_file_mut().filter(|path| path.is_relative()) {
            *path = folder.join(&path);
        }
    }

    pub(crate) fn open(&self, route: &str, client: &Client) -> Result<Arc<dyn Sink>, AlertError> {
        self.settings().open(route, client)
    }
}

/// The keys of a route that belong to one sink. The type reads them with
/// `#[serde(deny_unknown_fields)]`.
pub(crate) trait SinkSettings {
    /// Reports what is wrong: the key, and a text that says what to do.
    fn problems(&self, wrong: &mut dyn FnMut(&str, String));

    /// The file with the secret. The route is opened again when this file changes.
    fn secret_file(&self) -> Option<&Path>;

    /// The same file, to make its path relative to the configuration file.
    fn secret_file_mut(&mut self) -> Option<&mut PathBuf>;

    /// Loads the secret and checks the address. `client` is shared by all sinks and has their
    /// timeout.
    fn open(&self, route: &str, client: &Client) -> Result<Arc<dyn Sink>, AlertError>;
}

/// A sink that is ready: its secret is loaded and its address is valid.
pub(crate) trait Sink: fmt::Debug + Send + Sync {
    /// Scheme, host and port of the receiver. It contains nothing secret.
    fn place(&self) -> String;

    /// Sends one message, once. Returns the receiver's successful answer as one line of text. `now`
    /// is the wall clock.
    fn send<'a>(&'a self, message: &'a Message<'a>, now: Time) -> BoxFuture<'a, Result<String, Failure>>;
}

/// One message to one receiver.
pub(crate) struct Message<'a> {
    pub(crate) delivery: String,
    pub(crate) idempotency_key: String,
    /// Number of the attempt, from 1.
    pub(crate) attempt: u32,
    pub(crate) network: &'a NetworkName,
    /// The summary for people.
    pub(crate) text: String,
    /// The address with further details.
    pub(crate) link: Option<String>,
    pub(crate) switches: Vec<SwitchNote>,
    /// `None` in a test message.
    pub(crate) finding: Option<&'a Finding>,
}

/// Returns whether a text is an `http` or `https` address with a host.
pub fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}
