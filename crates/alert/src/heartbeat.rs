//! The heartbeat: a GET of one address at intervals, for services that raise an alarm when it stops
//! (healthchecks.io, Uptime Kuma, Dead Man's Snitch). A watcher that has died cannot say so itself.
//!
//! The address is called only while the watcher receives the network. So a watcher that runs and
//! hears nothing raises the same alarm as one that is gone.

use crate::AlertError;
use crate::secret::{self, Secret, SecretSource};
use crate::sink::http;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Longest time that a call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds of the interval. Services count in minutes.
const EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// The keys of `[alerts.heartbeat]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// File with the address. Whoever knows it can hide that the watcher is gone, so it is a
    /// secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    #[serde(with = "humantime_serde", default = "one_minute")]
    pub every: Duration,
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

impl HeartbeatConfig {
    /// Reports what is wrong: the key, and a text that says what to do.
    pub fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        let (file, variable) = (self.secret_file.as_deref(), self.secret_env.as_deref());
        if let Some((key, text)) = secret::problem(file, variable, "the address to call is the secret") {
            wrong(key, text);
        } else if let Err(error) = Heartbeat::new(self) {
            wrong(if file.is_some() { "secret_file" } else { "secret_env" }, error.to_string());
        }
        if !EVERY.contains(&self.every) {
            wrong("every", "must be between 1s and 1day".into());
        }
    }

    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        if let Some(path) = self.secret_file.as_mut().filter(|path| path.is_relative()) {
            *path = folder.join(&path);
        }
    }
}

/// A heartbeat that is ready.
pub struct Heartbeat {
    client: Client,
    url: Url,
    every: Duration,
}

impl Heartbeat {
    /// Loads the address.
    pub fn new(config: &HeartbeatConfig) -> Result<Self, AlertError> {
        const NAME: &str = "heartbeat";
        let source = SecretSource::of(config.secret_file.as_deref(), config.secret_env.as_deref())
            .ok_or_else(|| AlertError::NoSecret { name: NAME.into() })?;
        let url = http::parse_url(NAME, Secret::load(&source)?.as_str())?;
        Ok(Self { client: http::client(TIMEOUT)?, url, every: config.every })
    }

    /// Calls the address until cancelled, at each interval at which `is_well` holds.
    pub async fn run(self, is_well: impl Fn() -> bool + Send, cancel: CancellationToken) {
        let place = http::place_of(&self.url);
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if !is_well() {
                continue;
            }
            let called = tokio::select! {
                () = cancel.cancelled() => return,
                called = http::send(self.client.get(self.url.clone()), &place, evidence::Time::default()) => called,
            };
            match called {
                Ok(_) => fails = false,
                Err(failure) => {
                    if !fails {
                        tracing::warn!(
                            reason = failure.reason,
                            "the heartbeat does not arrive; it is tried again at each interval"
                        );
                    }
                    fails = true;
                }
            }
        }
    }
}
