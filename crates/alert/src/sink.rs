//! Sinks: the ways to deliver an alert.
//!
//! The file of a sink holds its part of the configuration ([`SinkSettings`]) and how one message is
//! sent ([`Sink`]). Most of them post JSON to an address and differ in that JSON only: these
//! implement [`http::Channel`]. [`SinkConfig`] is the list of all sinks. Names, severities and
//! labels of routes, the outbox, merging and retries are the same for every sink.

pub mod alertmanager;
pub mod discord;
pub mod email;
pub mod http;
pub mod ntfy;
pub mod pagerduty;
pub mod program;
pub mod slack;
pub mod telegram;
pub mod webhook;

use crate::retry::Failure;
use crate::secret::{self, Secret, SecretSource};
use crate::{AlertError, NetworkName, SwitchNote};
use evidence::{Finding, Severity, Time};
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
    Alertmanager(alertmanager::AlertmanagerConfig),
    Slack(slack::SlackConfig),
    Discord(discord::DiscordConfig),
    Telegram(telegram::TelegramConfig),
    #[serde(rename = "pagerduty")]
    PagerDuty(pagerduty::PagerDutyConfig),
    Ntfy(ntfy::NtfyConfig),
    Email(email::EmailConfig),
    Program(program::ProgramConfig),
}

impl SinkConfig {
    /// The `type` of a route that names none.
    pub(crate) const DEFAULT: &'static str = "webhook";

    fn settings(&self) -> &dyn SinkSettings {
        match self {
            Self::Webhook(config) => config,
            Self::Alertmanager(config) => config,
            Self::Slack(config) => config,
            Self::Discord(config) => config,
            Self::Telegram(config) => config,
            Self::PagerDuty(config) => config,
            Self::Ntfy(config) => config,
            Self::Email(config) => config,
            Self::Program(config) => config,
        }
    }

    fn settings_mut(&mut self) -> &mut dyn SinkSettings {
        match self {
            Self::Webhook(config) => config,
            Self::Alertmanager(config) => config,
            Self::Slack(config) => config,
            Self::Discord(config) => config,
            Self::Telegram(config) => config,
            Self::PagerDuty(config) => config,
            Self::Ntfy(config) => config,
            Self::Email(config) => config,
            Self::Program(config) => config,
        }
    }

    /// Whether a route of this sink merges findings if its configuration does not say so. People
    /// want few messages. A program of the operator's own wants every finding.
    pub(crate) fn merges_by_default(&self) -> bool {
        !matches!(self, Self::Webhook(_) | Self::Program(_))
    }

    /// Reports what is wrong: the key, and a text that says what to do.
    pub fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        let settings = self.settings();
        settings.problems(wrong);
        let SecretKeys { file, variable, need } = settings.secret();
        let is_given = file.is_some() || variable.is_some();
        let problem = match need {
            SecretNeed::Required(what_for) => secret::problem(file, variable, what_for),
            SecretNeed::Optional if is_given => secret::problem(file, variable, ""),
            SecretNeed::None if is_given => Some(("secret_file", "a program gets no secret; leave it out".into())),
            SecretNeed::Optional | SecretNeed::None => None,
        };
        if let Some((key, text)) = problem {
            wrong(key, text);
            return;
        }
        // A secret that cannot be loaded is a problem above.
        let secret = SecretSource::of(file, variable).and_then(|source| Secret::load(&source).ok());
        if let Some(text) = secret.and_then(|secret| settings.secret_problem(&secret)) {
            wrong(if file.is_some() { "secret_file" } else { "secret_env" }, text);
        }
    }

    /// The files beside the configuration that the sink reads: that with its secret, and that with
    /// certificates.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.settings().secret().file.into_iter().chain(self.settings().ca_file())
    }

    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        let anchored = |path: Option<&mut PathBuf>| {
            if let Some(path) = path.filter(|path| path.is_relative()) {
                *path = folder.join(&path);
            }
        };
        anchored(self.settings_mut().secret_file_mut().and_then(Option::as_mut));
        anchored(self.settings_mut().ca_file_mut());
    }

    pub(crate) fn open(&self, route: &str, client: &Client) -> Result<Arc<dyn Sink>, AlertError> {
        let SecretKeys { file, variable, need } = self.settings().secret();
        let secret = SecretSource::of(file, variable).map(|source| Secret::load(&source)).transpose()?;
        if secret.is_none() && matches!(need, SecretNeed::Required(_)) {
            return Err(AlertError::NoSecret { name: route.into() });
        }
        self.settings().open(route, client, secret)
    }
}

/// The keys of a route that belong to one sink. The type reads them with
/// `#[serde(deny_unknown_fields)]`.
pub(crate) trait SinkSettings {
    /// Reports what is wrong with the keys beside the secret: the key, and a text that says what to
    /// do.
    fn problems(&self, wrong: &mut dyn FnMut(&str, String));

    /// Where the secret is. The route is opened again when its file changes.
    fn secret(&self) -> SecretKeys<'_>;

    /// What is wrong with the content of the secret, without repeating it.
    fn secret_problem(&self, _secret: &Secret) -> Option<String> {
        None
    }

    /// The file of [`Self::secret`], to make its path relative to the configuration file.
    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>>;

    /// The file with certificates of the receiver, if the sink has such a key. The route is opened
    /// again when it changes.
    fn ca_file(&self) -> Option<&Path> {
        None
    }

    /// The file of [`Self::ca_file`], to make its path relative to the configuration file.
    fn ca_file_mut(&mut self) -> Option<&mut PathBuf> {
        None
    }

    /// Makes the sink. `client` is shared by all sinks and has their timeout. The secret is loaded
    /// from where [`Self::secret`] says, and is there if it is required.
    fn open(&self, route: &str, client: &Client, secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError>;
}

/// The keys `secret_file` and `secret_env` of a sink.
pub(crate) struct SecretKeys<'a> {
    pub(crate) file: Option<&'a Path>,
    pub(crate) variable: Option<&'a str>,
    pub(crate) need: SecretNeed,
}

impl<'a> SecretKeys<'a> {
    pub(crate) fn new(file: &'a Option<PathBuf>, variable: &'a Option<String>, need: SecretNeed) -> Self {
        Self { file: file.as_deref(), variable: variable.as_deref(), need }
    }
}

/// Whether a sink has a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretNeed {
    /// With what the secret is for, as the end of a sentence.
    Required(&'static str),
    Optional,
    None,
}

/// A sink that is ready: its secret is loaded and its address is valid.
pub(crate) trait Sink: fmt::Debug + Send + Sync {
    /// Scheme, host and port of the receiver. It contains nothing secret.
    fn place(&self) -> String;

    /// Sends one message, once. Returns the receiver's successful answer as one line of text. `now`
    /// is the wall clock.
    fn send<'a>(&'a self, message: &'a Message<'a>, now: Time) -> BoxFuture<'a, Result<String, Failure>>;

    /// The body that [`Self::send`] would send, without secrets, for people to read.
    fn preview(&self, message: &Message<'_>) -> String;
}

/// One message to one receiver.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) delivery: String,
    pub(crate) idempotency_key: String,
    /// Number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The wall clock at this attempt.
    pub(crate) now: Time,
    pub(crate) network: &'a NetworkName,
    /// The text for people: a headline, and lines that explain it. It does not contain the link.
    pub(crate) text: String,
    /// The address with further details.
    pub(crate) link: Option<String>,
    pub(crate) severity: Severity,
    /// Name of the kind, or `test`.
    pub(crate) kind: &'a str,
    /// The same for all messages about one thing, from the first one to its recovery.
    pub(crate) alert_key: String,
    pub(crate) state: AlertState,
    /// When that thing began.
    pub(crate) since: Time,
    /// Labels of the validators concerned, such as `group=acme-1`.
    pub(crate) labels: Vec<String>,
    pub(crate) switches: Vec<SwitchNote>,
    /// What the message is about: the first of all findings that it tells of. `None` in a test
    /// message.
    pub(crate) finding: Option<&'a Finding>,
    /// If the route merges findings: how many the message and its predecessors tell of.
    pub(crate) merged: Option<Merged>,
}

/// Whether the thing that a message is about goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlertState {
    Firing,
    Resolved,
}

/// How much one alert has told so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Merged {
    pub(crate) findings: u64,
    pub(crate) validators: u64,
    /// Of the findings, those that no earlier message of this alert told of.
    pub(crate) new_findings: u64,
}

impl Message<'_> {
    /// The first line of the text.
    pub(crate) fn title(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// The text after its first line.
    pub(crate) fn details(&self) -> &str {
        self.text.split_once('\n').map_or("", |(_, rest)| rest.trim())
    }

    /// The text and the link, each on lines of their own.
    pub(crate) fn text_with_link(&self) -> String {
        match &self.link {
            Some(link) => format!("{}\n{link}", self.text),
            None => self.text.clone(),
        }
    }
}

/// Cuts a text to at most `most` bytes, at the boundary of a character, and marks the cut.
pub(crate) fn cut(text: &str, most: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &text[..end])
}

/// Returns whether a text is an `http` or `https` address with a host.
pub fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}
