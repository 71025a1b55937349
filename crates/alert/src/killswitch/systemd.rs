//! Stops and masks units of systemd.
//!
//! `systemctl stop` ends a client in order, and systemd does not restart what was stopped so. A
//! unit that has not ended after half of the timeout is killed. `systemctl mask` keeps it from
//! being started by anything. A unit file in `/etc/systemd/system` cannot be masked: there only a
//! lock file does that (docs/watching.md has the lines for the unit).

use super::{joined, passing, repeated};
use crate::exec;
use crate::retry::{Failure, FailureKind};
use futures::future::join_all;
use std::path::PathBuf;
use std::time::Duration;

/// What to stop, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdConfig {
    pub units: Vec<String>,
    pub systemctl: PathBuf,
}

/// Units that are ready to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Systemd {
    units: Vec<String>,
    systemctl: String,
    timeout: Duration,
}

impl Systemd {
    pub(super) fn new(config: SystemdConfig, timeout: Duration) -> Self {
        Self { units: config.units, systemctl: config.systemctl.display().to_string(), timeout }
    }

    pub(super) fn place(&self) -> String {
        format!("systemd: {}", self.units.join(", "))
    }

    /// Stops all units at once. In a test it looks whether they are there. `has_lock` is whether a
    /// lock file keeps the clients from starting.
    pub(super) async fn order(&self, is_test: bool, has_lock: bool) -> Result<String, String> {
        let orders = self.units.iter().map(|unit| async move {
            let mut last = None;
            let acting = async {
                match is_test {
                    true => self.look(unit).await,
                    false => repeated(|| self.stop(unit, has_lock), &mut last).await,
                }
            };
            match tokio::time::timeout(self.timeout, acting).await {
                Ok(report) => report.map_err(|reason| format!("{unit}: {reason}")),
                Err(_) => {
                    let last = last.unwrap_or_else(|| "systemctl did not end".into());
                    Err(format!("{unit}: not done within {:?}; last: {last}", self.timeout))
                }
            }
        });
        joined(join_all(orders).await)
    }

    async fn stop(&self, unit: &str, has_lock: bool) -> Result<String, Failure> {
        let stopped = tokio::time::timeout(self.timeout / 2, self.systemctl(&["stop", unit])).await;
        let mut note = String::new();
        // A client that does not stop in order is killed, and whatever became of that, masked.
        if !matches!(stopped, Ok(Ok(_))) {
            let killed = self.systemctl(&["kill", "--signal=SIGKILL", unit]).await;
            note = match (stopped, killed) {
                (_, Ok(_)) => ", by force".into(),
                (Ok(Err(reason)), Err(_)) => format!(" (systemctl stop: {reason})"),
                (_, Err(reason)) => format!(" (systemctl kill: {reason})"),
            };
        }
        let masked = self.systemctl(&["mask", unit]).await;
        let state = self.state(unit).await.map_err(passing)?;
        if !state.is_loaded {
            return Err(Failure { kind: FailureKind::Refused, reason: format!("there is no such unit{note}") });
        }
        if state.is_active {
            return Err(passing(format!("it is still {}{note}", state.words)));
        }
        match masked {
            Ok(_) => Ok(format!("{unit}: stopped{note} and masked")),
            Err(reason) if has_lock => Ok(format!("{unit}: stopped{note}; not masked ({reason}), the lock file holds it")),
            Err(reason) => Err(Failure {
                kind: FailureKind::Refused,
                reason: format!(
                    "stopped{note}, but it could not be masked, and without a lock file anything may start it: {reason}"
                ),
            }),
        }
    }

    async fn look(&self, unit: &str) -> Result<String, String> {
        let state = self.state(unit).await?;
        if !state.is_loaded {
            return Err("there is no such unit; check its name with `systemctl status`".into());
        }
        Ok(format!("{unit}: is {} and would be stopped and masked", state.words))
    }

    async fn state(&self, unit: &str) -> Result<UnitState, String> {
        let answer = self.systemctl(&["show", "--property=LoadState,ActiveState", unit]).await?;
        let value =
            |name: &str| answer.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap_or("unknown").to_owned();
        let (load, active) = (value("LoadState="), value("ActiveState="));
        let is_active = !matches!(active.as_str(), "inactive" | "failed");
        Ok(UnitState { is_loaded: matches!(load.as_str(), "loaded" | "masked"), is_active, words: active })
    }

    async fn systemctl(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        exec::run(&self.systemctl, &arguments, &[], &[]).await.map_err(|error| error.reason)
    }
}

struct UnitState {
    is_loaded: bool,
    is_active: bool,
    /// `ActiveState` of systemd.
    words: String,
}
