//! Kill switches: followed from the findings' store like any other reader, ordered once per group, durably.
//!
//! All that is remembered is one checkpoint, written in one piece ([`Ledger`]): how far the findings have been looked at, and
//! for each group that fired, because of which finding and how it ended. The order of writes makes "once" hold over a crash:
//!
//! 1. the finding is on disk (the store told us of it);
//! 2. "ordered" is written;
//! 3. the program runs or the address is called;
//! 4. the result is written.
//!
//! If 2 fails (a full disk), 3 happens all the same, and the write is tried again: keys that go on signing cost more than a second
//! stop after a restart. A crash between 2 and 4 leaves it unknown whether anything was stopped. Then the order is given again at the next start,
//! with `attempt` 2: stopping what stands still costs nothing, keys that go on signing cost all of it.
//!
//! A group that fired stays so until `slashwatch killswitch rearm`.

use crate::config::{KillSwitchConfig, TriggerConfig};
use crate::error::PipelineError;
use crate::replay::error_chain;
use crate::watch::members::{Circle, Named};
use crate::watch::reload::InForce;
use alert::SecretSource;
use alert::killswitch::{ActionConfig, KillSwitch, Report};
use consensus::Root;
use detect::watch::Label;
use evidence::{Finding, Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

const LEDGER: &str = "killswitches";
/// What was heard longer ago when it was recorded comes from a replayed capture, not from machines that are running.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Findings looked at in one go.
const PAGE: usize = 1024;
/// After a read or write that failed, it is tried again so much later, though nothing new is found.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is remembered on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Findings up to this number have been looked at. `None` while no switch was configured: what was found then fires none.
    pub seen: Option<u64>,
    /// By group.
    pub fired: BTreeMap<String, Fired>,
    /// Findings up to this number do not fire the switch of a group that was made ready again.
    #[serde(default)]
    pub armed_again: BTreeMap<String, u64>,
}

/// A switch that was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    pub finding: Root,
    pub kind: String,
    pub ordered_at: Time,
    pub attempts: u32,
    /// `None` while it runs, or after a crash.
    pub result: Option<Outcome>,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub done: bool,
    pub took_ms: u64,
    /// What the program or receiver said, or why it was not done.
    pub answer: String,
}

impl Outcome {
    /// What may be shown: the answer may have paths, hosts and worse in it.
    pub fn in_our_words(&self) -> &'static str {
        match self.done {
            true => "done",
            false => "FAILED: stop the validator clients by hand; the log and `slashwatch inspect` say why it failed",
        }
    }
}

impl Fired {
    /// For the operator, on the status page.
    pub fn notice(&self, group: &str) -> String {
        let how = match &self.result {
            None => "it has not ended yet".to_owned(),
            Some(outcome @ Outcome { done: true, .. }) => {
                format!("{}; `slashwatch killswitch rearm {group}` makes it ready again", outcome.in_our_words())
            }
            Some(outcome) => outcome.in_our_words().to_owned(),
        };
        format!("the kill switch of group {group} fired at {} because of {} {}: {how}", self.ordered_at, self.kind, self.finding)
    }
}

impl Ledger {
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        // A note that does not parse is as none: then nothing counts as fired, and the next offence fires.
        Ok(store.checkpoint(LEDGER)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.put_checkpoint(LEDGER, &serde_json::to_vec(self).expect("names and numbers"))
    }

    /// Makes a group's switch ready again. `false` if it had not fired.
    pub fn rearm(store: &Store, group: &str) -> Result<bool, StoreError> {
        let mut ledger = Self::read(store)?;
        let had = ledger.fired.remove(group).is_some();
        // What was found up to now was the reason of the last time; for other groups it may still have to be looked at.
        ledger.armed_again.insert(group.to_owned(), store.last_seq());
        ledger.write(store)?;
        Ok(had)
    }
}

/// A switch with what fires it.
#[derive(Clone)]
struct Armed {
    switch: Arc<KillSwitch>,
    on: Vec<TriggerConfig>,
    /// The group's members: `group=NAME`.
    own: Circle,
    /// Whoever shares one of the group's labels whose holders' offences concern it.
    kin: Circle,
}

/// Follows findings and orders.
pub struct Switches {
    store: Store,
    armed: BTreeMap<String, Armed>,
    ledger: Ledger,
    /// The ledger on disk is behind the one in memory.
    is_unwritten: bool,
    now: fn() -> Time,
    shown: watch::Sender<Arc<Ledger>>,
}

impl Switches {
    pub fn new(store: Store, now: fn() -> Time) -> Result<Self, StoreError> {
        let ledger = Ledger::read(&store)?;
        let (shown, _) = watch::channel(Arc::new(ledger.clone()));
        Ok(Self { store, armed: BTreeMap::new(), ledger, is_unwritten: false, now, shown })
    }

    /// What fired, as it changes.
    pub fn ledger(&self) -> watch::Receiver<Arc<Ledger>> {
        self.shown.subscribe()
    }

    /// Takes what is configured; a switch that cannot be made ready is a problem of the configuration.
    pub fn arm(&mut self, in_force: &InForce) -> Result<(), PipelineError> {
        self.armed = armed(in_force)?;
        match (self.armed.is_empty(), self.ledger.seen) {
            (true, Some(_)) => self.ledger.seen = None,
            (false, None) => self.ledger.seen = Some(self.store.last_seq()),
            (true, None) | (false, Some(_)) => return Ok(()),
        }
        Ok(self.write()?)
    }

    /// Runs until cancelled; then what was found up to this moment is still looked at, and orders under way are finished.
    pub async fn run(mut self, mut changed: watch::Receiver<Arc<InForce>>, cancel: CancellationToken) {
        let bell = Arc::new(Notify::new());
        let ring = bell.clone();
        let _subscription = self.store.subscribe(move |_| ring.notify_one());
        let mut orders: JoinSet<(String, Report)> = JoinSet::new();
        self.repeat_unfinished(&mut orders);
        loop {
            // Asked before looking: what was recorded before the stop is looked at in any case.
            let is_last = cancel.is_cancelled();
            let looked = self.look(&mut orders);
            if let Err(error) = &looked {
                tracing::error!(%error, "kill switches cannot read the findings or write down what they ordered");
            }
            if is_last {
                break;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = bell.notified() => {}
                () = tokio::time::sleep(TRY_AGAIN), if looked.is_err() => {}
                Some(ended) = orders.join_next() => self.ended(ended),
                Ok(()) = changed.changed() => {
                    let in_force = changed.borrow_and_update().clone();
                    if let Err(error) = self.arm(&in_force) {
                        tracing::error!(%error, "changed kill switches cannot be used; the old ones stay");
                    }
                }
            }
        }
        while let Some(ended) = orders.join_next().await {
            self.ended(ended);
        }
    }

    /// Gives orders for what was found since the last look. On an error the orders are given all the same.
    fn look(&mut self, orders: &mut JoinSet<(String, Report)>) -> Result<(), StoreError> {
        if self.is_unwritten {
            self.write()?;
        }
        while let Some(seen) = self.ledger.seen {
            let page = self.store.findings_after(seen, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let mut to_order = Vec::new();
            for (seq, finding) in &page {
                for (group, armed) in &self.armed {
                    let is_settled = self.ledger.fired.contains_key(group) || self.ledger.armed_again.get(group) >= Some(seq);
                    if is_settled || !armed.is_fired_by(finding) {
                        continue;
                    }
                    let fired = Fired {
                        finding: finding.id,
                        kind: finding.kind.clone(),
                        ordered_at: (self.now)(),
                        attempts: 1,
                        result: None,
                    };
                    self.ledger.fired.insert(group.clone(), fired);
                    to_order.push((armed.switch.clone(), finding.clone()));
                }
            }
            self.ledger.seen = Some(*last);
            let written = self.write();
            for (switch, finding) in to_order {
                tracing::warn!(group = switch.group(), kind = finding.kind, finding = %finding.id, place = switch.place(), "kill switch fires");
                self.order(switch, finding, 1, orders);
            }
            written?;
        }
        Ok(())
    }

    /// The ledger as it is now, to disk and to those who show it.
    fn write(&mut self) -> Result<(), StoreError> {
        self.shown.send_replace(Arc::new(self.ledger.clone()));
        let written = self.ledger.write(&self.store);
        self.is_unwritten = written.is_err();
        written
    }

    fn order(&self, switch: Arc<KillSwitch>, finding: Finding, attempt: u32, orders: &mut JoinSet<(String, Report)>) {
        let now = (self.now)();
        orders.spawn(async move { (switch.group().to_owned(), switch.fire(&finding, attempt, now).await) });
    }

    /// Orders that a crash cut off.
    fn repeat_unfinished(&mut self, orders: &mut JoinSet<(String, Report)>) {
        let mut again = Vec::new();
        for (group, fired) in self.ledger.fired.iter_mut().filter(|(_, fired)| fired.result.is_none()) {
            let (Some(armed), Ok(Some((_, finding)))) = (self.armed.get(group), self.store.finding(fired.finding)) else {
                continue;
            };
            fired.attempts += 1;
            again.push((armed.switch.clone(), finding, fired.attempts));
        }
        if again.is_empty() {
            return;
        }
        if let Err(error) = self.write() {
            tracing::error!(%error, "the kill switches' ledger cannot be written");
        }
        for (switch, finding, attempt) in again {
            tracing::warn!(
                group = switch.group(),
                attempt,
                "kill switch fires again: the last run ended before it was known to be done"
            );
            self.order(switch, finding, attempt, orders);
        }
    }

    fn ended(&mut self, ended: Result<(String, Report), tokio::task::JoinError>) {
        let (group, report) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an order broke off; it is repeated at the next start");
                return;
            }
        };
        let (done, answer) = match report.result {
            Ok(answer) => {
                tracing::warn!(group, took_ms = report.took.as_millis() as u64, answer, "kill switch done");
                (true, answer)
            }
            Err(answer) => {
                tracing::error!(
                    group,
                    took_ms = report.took.as_millis() as u64,
                    answer,
                    "kill switch FAILED: stop the validator clients by hand"
                );
                (false, answer)
            }
        };
        if let Some(fired) = self.ledger.fired.get_mut(&group) {
            fired.result = Some(Outcome { done, took_ms: report.took.as_millis() as u64, answer });
        }
        if let Err(error) = self.write() {
            tracing::error!(%error, "a kill switch's result cannot be written; if it stays so the order is repeated at the next start");
        }
    }
}

impl Armed {
    fn is_fired_by(&self, finding: &Finding) -> bool {
        let heard = finding.second_seen.unwrap_or(finding.first_seen);
        if finding.recorded_at.since(heard) > MAX_AGE {
            return false;
        }
        let is_offence = finding.offence().is_some();
        self.on.iter().any(|trigger| match trigger {
            TriggerConfig::Offence => is_offence && self.own.counts(finding),
            TriggerConfig::KinOffence => is_offence && self.kin.counts(finding),
            TriggerConfig::DormantKeySigned => finding.kind == "dormant_key_signed" && self.own.counts(finding),
        })
    }
}

fn armed(in_force: &InForce) -> Result<BTreeMap<String, Armed>, PipelineError> {
    let mut switches = BTreeMap::new();
    for group in &in_force.config.groups {
        let Some(config) = &group.kill_switch else { continue };
        let usage = |error: alert::AlertError| {
            PipelineError::Usage(format!("kill switch of group {:?}: {}", group.name, error_chain(&error)))
        };
        let switch = Arc::new(ready(&group.name, config).map_err(usage)?);
        let entries = in_force.list.entries();
        let ours = || entries.iter().filter(|entry| entry.group.as_deref() == Some(group.name.as_str()));
        let is_kin = |label: &&Label| in_force.config.kin_labels.contains(&label.key);
        let kin_labels: BTreeSet<&Label> = ours().flat_map(|entry| entry.labels.iter()).filter(is_kin).collect();
        let kin = entries.iter().filter(|entry| entry.labels.iter().any(|label| kin_labels.contains(label)));
        let members = config.members;
        let own =
            Circle { named: Named::of(ours()), labels: BTreeSet::from([format!("{}={}", Label::GROUP, group.name)]), members };
        let kin = Circle { named: Named::of(kin), labels: kin_labels.iter().map(ToString::to_string).collect(), members };
        switches.insert(group.name.clone(), Armed { switch, on: config.on.clone(), own, kin });
    }
    Ok(switches)
}

fn ready(group: &str, config: &KillSwitchConfig) -> Result<KillSwitch, alert::AlertError> {
    let action = match (&config.url, &config.secret_file, &config.secret_env) {
        (Some(url), Some(file), _) => ActionConfig::Call { url: url.clone(), secret: SecretSource::File(file.clone()) },
        (Some(url), None, Some(name)) => ActionConfig::Call { url: url.clone(), secret: SecretSource::Variable(name.clone()) },
        // The configuration's check refuses a call without a secret.
        (Some(_), None, None) | (None, _, _) => ActionConfig::Command(config.command.clone()),
    };
    KillSwitch::new(group, &action, config.timeout)
}

/// Orders a group's switch as a test; what was answered.
pub fn test(in_force: &InForce, group: &str) -> Result<String, PipelineError> {
    let armed = armed(in_force)?;
    let Some(armed) = armed.get(group) else {
        let known: Vec<&str> = armed.keys().map(String::as_str).collect();
        return Err(PipelineError::Usage(format!(
            "group {group:?} has no kill switch; there are: {}. Add `kill_switch` to the group under `watch.groups`",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    };
    let report = crate::run::runtime()?.block_on(armed.switch.test(crate::alerts::now()));
    match report.result {
        Ok(answer) => Ok(format!("kill switch of {group} took {:.0?}: {answer}", report.took)),
        Err(reason) => Err(PipelineError::Failed(format!(
            "kill switch of {group} failed after {:.0?}: {reason}. As it is, an offence would stop nothing: correct it and test again",
            report.took
        ))),
    }
}
