//! Kill switches: they read the recorded findings and stop a group's validator clients, once for
//! each group.
//!
//! The whole state is one checkpoint, which is written in one piece ([`KillSwitchState`]). It holds
//! the number of the last finding that was examined, and for each group that fired the finding that
//! caused it and the result. The order of writes makes sure that a group is ordered once, even over
//! a crash:
//!
//! 1. The finding is on disk and the store has reported it. If the store refused to write it, the
//!    engine has passed it on directly.
//! 2. The order is written to the ledger.
//! 3. The program runs or the address is called.
//! 4. The result is written to the ledger.
//!
//! If step 2 fails (for example because the disk is full), step 3 happens anyway, and the write is
//! tried again. Keys that continue to sign cost more than a second stop after a restart. After a
//! crash between steps 2 and 4 it is unknown whether anything was stopped. Then the order is given
//! again at the next start, with `attempt` 2. To stop what already stands still costs nothing, but
//! keys that continue to sign can cost their whole stake.
//!
//! A group that fired keeps that state until `slashwatch killswitch rearm`.

use crate::config::KillSwitchConfig;
use crate::error::{ActionError, error_chain};
use crate::follower::{Follower, RETRY_AFTER};
use crate::lists::reload::ActiveConfig;
use alert::killswitch::{ActionConfig, KillSwitch, OrderReport};
use alert::{NetworkName, SecretSource, SwitchNote, SwitchNotes};
use consensus::{Epoch, ForkName, Network, Offence, Root, Slot};
use detect::watch::{Label, SharedWatchState};
use evidence::{Evidence, EvidenceKind, Finding, Punishable, Slashable, Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod members;
pub mod rearm;
mod rules;
#[cfg(test)]
mod tests;

pub(crate) use members::names_nobody;
use members::{MemberSet, Named};
use rules::{ConfiguredSwitch, NotFiredReason, SwitchDecision};

const LEDGER: &str = "killswitches";

/// State of all kill switches, as it is stored on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitchState {
    /// Number of the last finding that was examined. It is `None` while no switch is configured, so
    /// findings from that time do not fire a switch later.
    pub seen: Option<u64>,
    /// Kill switches that fired, by group.
    pub fired: BTreeMap<String, Fired>,
    /// By group: the number of the last finding at the moment when the switch was made ready again.
    /// Findings up to this number do not fire it.
    #[serde(default)]
    pub armed_again: BTreeMap<String, u64>,
    /// By group: the finding that fired the switch before it was made ready again. A finding that
    /// the store had refused is recorded, and numbered, only after that. It does not fire again.
    #[serde(default)]
    pub fired_before: BTreeMap<String, Root>,
    /// By group: the last finding that concerned the group but did not fire its switch.
    #[serde(default)]
    pub held_back: BTreeMap<String, NotFired>,
}

/// A finding that concerned a switch and did not fire it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFired {
    /// Id of the last such finding.
    pub finding: Root,
    pub kind: String,
    pub at: Time,
    pub reason: String,
    /// Number of such findings in total.
    pub times: u64,
}

impl NotFired {
    /// Returns a notice for the operator, shown on the status page.
    pub fn notice(&self, group: &str) -> String {
        let Self { finding, kind, at, reason, times } = self;
        format!("the kill switch of group {group} did not fire for {kind} {finding} at {at} ({times} such in all): {reason}")
    }
}

/// A switch that was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    pub finding: Root,
    pub kind: String,
    pub ordered_at: Time,
    pub attempts: u32,
    /// Result of the order. It is `None` while the order runs, or after a crash.
    pub result: Option<OrderResult>,
}

/// Result of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderResult {
    pub done: bool,
    pub took_ms: u64,
    /// Answer of the program or receiver, or the reason why the order failed.
    pub answer: String,
}

impl OrderResult {
    /// Returns a text that may be shown to anybody. `answer` itself may contain paths, hosts or
    /// secrets.
    pub fn in_our_words(&self) -> &'static str {
        match self.done {
            true => "done",
            false => "FAILED: stop the validator clients by hand; the log and `slashwatch inspect` say why it failed",
        }
    }
}

impl Fired {
    /// Returns a notice for the operator, shown on the status page.
    pub fn notice(&self, group: &str) -> String {
        let how = match &self.result {
            None => "it has not ended yet".to_owned(),
            Some(outcome @ OrderResult { done: true, .. }) => {
                format!("{}; `slashwatch killswitch rearm {group}` makes it ready again", outcome.in_our_words())
            }
            Some(outcome) => outcome.in_our_words().to_owned(),
        };
        format!("the kill switch of group {group} fired at {} because of {} {}: {how}", self.ordered_at, self.kind, self.finding)
    }
}

impl KillSwitchState {
    /// Reads the ledger from the store. A missing or unreadable one gives the default.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        // A ledger that does not parse is treated as missing. Then nothing counts as fired, and the
        // next offence fires the switch.
        Ok(store.checkpoint(LEDGER)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.put_checkpoint(LEDGER, &serde_json::to_vec(self).expect("names and numbers"))
    }

    /// Makes a group's switch ready again. Returns `false` if it had not fired.
    pub fn rearm(store: &Store, group: &str) -> Result<bool, StoreError> {
        let mut ledger = Self::read(store)?;
        let had = ledger.make_ready(group, store.last_seq());
        ledger.write(store)?;
        Ok(had)
    }

    /// Only this group ignores the findings up to `last_seq`. For other groups they may still have
    /// to be examined.
    fn make_ready(&mut self, group: &str, last_seq: u64) -> bool {
        self.armed_again.insert(group.to_owned(), last_seq);
        let fired = self.fired.remove(group);
        self.fired_before.extend(fired.as_ref().map(|fired| (group.to_owned(), fired.finding)));
        fired.is_some()
    }
}

/// Facts from outside that a switch needs in order to judge a finding.
#[derive(Clone)]
pub struct SwitchContext {
    pub network: Arc<Network>,
    /// Labels and public keys of the validators, shared with the engine.
    pub desk: SharedWatchState,
    /// The data directory, which also holds the requests to make a switch ready again.
    pub dir: PathBuf,
    pub now: fn() -> Time,
}

impl SwitchContext {
    /// Applies a switch's rules to a finding, with the public keys that the registry has.
    fn verdict(&self, armed: &ConfiguredSwitch, finding: &Finding, now: Time) -> Option<SwitchDecision> {
        let labels = self.desk.labels();
        armed.verdict(finding, now, &self.network, &|index| labels.pubkey(index))
    }
}

/// Reads the findings and orders the switches that they fire.
pub struct KillSwitches {
    store: Store,
    follower: Follower,
    surroundings: SwitchContext,
    armed: Arc<BTreeMap<String, ConfiguredSwitch>>,
    ledger: KillSwitchState,
    /// Whether the ledger on disk is older than the one in memory.
    is_unwritten: bool,
    shown: watch::Sender<Arc<KillSwitchState>>,
    in_use: watch::Sender<Arc<BTreeMap<String, ConfiguredSwitch>>>,
}

impl KillSwitches {
    /// Reads the ledger. No switch is in use until [`Self::arm`].
    pub fn new(store: Store, surroundings: SwitchContext) -> Result<Self, StoreError> {
        let ledger = KillSwitchState::read(&store)?;
        let (shown, _) = watch::channel(Arc::new(ledger.clone()));
        let (in_use, _) = watch::channel(Arc::default());
        let follower = Follower::new(store.clone());
        Ok(Self { store, follower, surroundings, armed: Arc::default(), ledger, is_unwritten: false, shown, in_use })
    }

    /// Returns a receiver that shows the ledger as it changes.
    pub fn ledger(&self) -> watch::Receiver<Arc<KillSwitchState>> {
        self.shown.subscribe()
    }

    /// Returns the function that tells a delivery what the switches do with a finding. It applies
    /// the same rules to the same facts as [`Self::run`], so its answer does not depend on which of
    /// the two examines the finding first.
    pub fn notes(&self) -> SwitchNotes {
        let (in_use, shown) = (self.in_use.subscribe(), self.shown.subscribe());
        let (surroundings, store) = (self.surroundings.clone(), self.store.clone());
        Arc::new(move |finding: &Finding, now: Time| {
            let (armed, ledger) = (in_use.borrow().clone(), shown.borrow().clone());
            let number = store.finding(finding.id).ok().flatten().map(|(seq, _)| seq);
            let note = |group: &String, armed: &ConfiguredSwitch| -> Option<SwitchNote> {
                let fired = ledger.fired.get(group);
                if fired.is_some_and(|fired| fired.finding == finding.id) {
                    return Some(SwitchNote { group: group.clone(), fires: true, reason: None });
                }
                let reason = match (surroundings.verdict(armed, finding, now)?, fired) {
                    (SwitchDecision::NotFiredReason(why), _) => Some(why.to_string()),
                    (SwitchDecision::Fires, Some(fired)) => {
                        Some(format!("it has fired because of {} {}", fired.kind, fired.finding))
                    }
                    (SwitchDecision::Fires, None) if number.is_some() && ledger.armed_again.get(group) >= number.as_ref() => {
                        Some("it was made ready again after this was found".to_owned())
                    }
                    (SwitchDecision::Fires, None) => None,
                };
                Some(SwitchNote { group: group.clone(), fires: reason.is_none(), reason })
            };
            armed.iter().filter_map(|(group, armed)| note(group, armed)).collect()
        })
    }

    /// Uses the switches of a configuration. A switch that cannot be made ready is a problem of the
    /// configuration.
    pub fn arm(&mut self, in_force: &ActiveConfig) -> Result<(), ActionError> {
        let network = &self.surroundings.network;
        let name = crate::alerts::name_of(network);
        self.armed = Arc::new(armed(in_force, &name)?);
        self.in_use.send_replace(self.armed.clone());
        match (self.armed.is_empty(), self.ledger.seen) {
            (true, Some(_)) => self.ledger.seen = None,
            (false, None) => self.ledger.seen = Some(self.store.last_seq()),
            (true, None) | (false, Some(_)) => return Ok(()),
        }
        Ok(self.write()?)
    }

    /// Runs until cancelled. Then it still examines what was found up to that moment, and waits for
    /// the orders under way. `unrecorded` receives findings that were proven and could not be
    /// written.
    pub async fn run(
        mut self,
        mut changed: watch::Receiver<Arc<ActiveConfig>>,
        mut unrecorded: mpsc::Receiver<Vec<Finding>>,
        cancel: CancellationToken,
    ) {
        let mut requests = tokio::time::interval(rearm::LOOK);
        let mut orders: JoinSet<(String, OrderReport)> = JoinSet::new();
        self.repeat_unfinished(&mut orders);
        loop {
            // This is read before the findings are examined, so everything that was recorded before
            // the stop is examined in any case.
            let is_last = cancel.is_cancelled();
            let looked = self.look(&mut orders);
            if let Err(error) = &looked {
                tracing::error!(%error, "kill switches cannot read the findings or write down what they ordered");
            }
            while let Ok(findings) = unrecorded.try_recv() {
                self.look_at_unrecorded(&findings, &mut orders);
            }
            if is_last {
                break;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.follower.recorded() => {}
                () = tokio::time::sleep(RETRY_AFTER), if looked.is_err() => {}
                Some(findings) = unrecorded.recv() => self.look_at_unrecorded(&findings, &mut orders),
                Some(ended) = orders.join_next() => self.ended(ended),
                _ = requests.tick() => self.make_ready_on_request(),
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

    /// Gives the orders for what was found since the last call. If the ledger cannot be written,
    /// the orders of the current page are given anyway. Further recorded findings are then examined
    /// only after a later write has succeeded.
    fn look(&mut self, orders: &mut JoinSet<(String, OrderReport)>) -> Result<(), StoreError> {
        if self.is_unwritten {
            self.write()?;
        }
        while let Some(seen) = self.ledger.seen {
            let page = self.follower.after(seen)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let mut to_order = Vec::new();
            for (seq, finding) in &page {
                to_order.extend(self.fired_by(finding, Some(*seq)));
            }
            self.ledger.seen = Some(*last);
            let written = self.write();
            self.order_all(to_order, orders);
            written?;
        }
        Ok(())
    }

    /// A finding that could not be recorded is still proven. Keys that continue to sign cost more
    /// than an order whose finding nobody can look up.
    fn look_at_unrecorded(&mut self, findings: &[Finding], orders: &mut JoinSet<(String, OrderReport)>) {
        let mut to_order = Vec::new();
        for finding in findings {
            to_order.extend(self.fired_by(finding, None));
        }
        if to_order.is_empty() {
            return;
        }
        if let Err(error) = self.write() {
            tracing::error!(%error, "kill switches cannot write down what they order; it is ordered all the same");
        }
        self.order_all(to_order, orders);
    }

    /// Returns the switches that a finding fires now, and marks them as fired. `seq` is the number
    /// of the finding if it is recorded.
    fn fired_by(&mut self, finding: &Finding, seq: Option<u64>) -> Vec<(Arc<KillSwitch>, Finding)> {
        let armed = self.armed.clone();
        let now = (self.surroundings.now)();
        let mut to_order = Vec::new();
        for (group, armed) in armed.iter() {
            let was_before = seq.is_some() && self.ledger.armed_again.get(group) >= seq.as_ref();
            let has_fired_it = self.ledger.fired_before.get(group) == Some(&finding.id);
            if was_before || has_fired_it || self.ledger.fired.contains_key(group) {
                continue;
            }
            match self.surroundings.verdict(armed, finding, now) {
                None => {}
                Some(SwitchDecision::NotFiredReason(why)) => self.hold_back(group, finding, &why, now),
                Some(SwitchDecision::Fires) => {
                    let kind = finding.kind.to_string();
                    let fired = Fired { finding: finding.id, kind, ordered_at: now, attempts: 1, result: None };
                    self.ledger.fired.insert(group.clone(), fired);
                    to_order.push((armed.switch.clone(), finding.clone()));
                }
            }
        }
        to_order
    }

    /// Notes that a finding concerned a group and did not fire its switch.
    fn hold_back(&mut self, group: &str, finding: &Finding, why: &NotFiredReason, now: Time) {
        let times = self.ledger.held_back.get(group).map_or(0, |before| before.times).saturating_add(1);
        // Somebody who can send one such message can send thousands, so only each power of two is
        // logged.
        if times.is_power_of_two() {
            tracing::warn!(group, kind = finding.kind.as_str(), finding = %finding.id, reason = %why, times, "kill switch does not fire");
        }
        let (finding, kind, reason) = (finding.id, finding.kind.to_string(), why.to_string());
        self.ledger.held_back.insert(group.to_owned(), NotFired { finding, kind, at: now, reason, times });
    }

    fn order_all(&self, to_order: Vec<(Arc<KillSwitch>, Finding)>, orders: &mut JoinSet<(String, OrderReport)>) {
        for (switch, finding) in to_order {
            tracing::warn!(group = switch.group(), kind = finding.kind.as_str(), finding = %finding.id, place = switch.place(), "kill switch fires");
            self.order(switch, finding, 1, orders);
        }
    }

    /// Answers the requests that `slashwatch killswitch rearm` leaves in the data directory while
    /// this watcher runs. A request stays, and is tried again, until the change is on disk.
    fn make_ready_on_request(&mut self) {
        for request in rearm::requests(&self.surroundings.dir) {
            // The changed ledger is written first. A change that would not survive a restart is not
            // made.
            let mut changed = self.ledger.clone();
            changed.make_ready(&request.group, self.store.last_seq());
            if let Err(error) = changed.write(&self.store) {
                tracing::error!(%error, group = request.group, "a kill switch cannot be made ready: the ledger cannot be written");
                continue;
            }
            self.is_unwritten = false;
            self.shown.send_replace(Arc::new(changed.clone()));
            self.ledger = changed;
            tracing::warn!(group = request.group, "kill switch is ready again, as was asked for");
            if let Err(error) = request.answer() {
                tracing::error!(%error, "the request cannot be removed from the data directory; remove it by hand");
            }
        }
    }

    /// Writes the ledger to disk and publishes it.
    fn write(&mut self) -> Result<(), StoreError> {
        self.shown.send_replace(Arc::new(self.ledger.clone()));
        let written = self.ledger.write(&self.store);
        self.is_unwritten = written.is_err();
        written
    }

    fn order(&self, switch: Arc<KillSwitch>, finding: Finding, attempt: u32, orders: &mut JoinSet<(String, OrderReport)>) {
        let now = (self.surroundings.now)();
        orders.spawn(async move { (switch.group().to_owned(), switch.fire(&finding, attempt, now).await) });
    }

    /// Repeats the orders that were interrupted by a crash.
    fn repeat_unfinished(&mut self, orders: &mut JoinSet<(String, OrderReport)>) {
        // A finding that a full disk refused is not in the store. Its switch is made ready again,
        // because otherwise it would wait for ever.
        let store = &self.store;
        self.ledger.fired.retain(|group, fired| {
            let is_lost = fired.result.is_none() && matches!(store.finding(fired.finding), Ok(None));
            if is_lost {
                tracing::error!(%group, "an order was cut off and what it was for was never written: the switch is ready again");
            }
            !is_lost
        });
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

    /// Notes the result of an order.
    fn ended(&mut self, ended: Result<(String, OrderReport), tokio::task::JoinError>) {
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
            fired.result = Some(OrderResult { done, took_ms: report.took.as_millis() as u64, answer });
        }
        if let Err(error) = self.write() {
            tracing::error!(%error, "a kill switch's result cannot be written; if it stays so the order is repeated at the next start");
        }
    }
}

/// Makes the switches of all groups that have one, by group.
fn armed(in_force: &ActiveConfig, network: &NetworkName) -> Result<BTreeMap<String, ConfiguredSwitch>, ActionError> {
    let mut switches = BTreeMap::new();
    for group in &in_force.config.groups {
        let Some(config) = &group.kill_switch else { continue };
        let usage = |error: alert::AlertError| {
            ActionError::Usage(format!("kill switch of group {:?}: {}", group.name, error_chain(&error)))
        };
        let switch = ready(&group.name, config).map_err(usage)?;
        let switch = Arc::new(switch.about(network.clone()));
        let entries = in_force.list.entries();
        let ours = || entries.iter().filter(|entry| entry.group.as_deref() == Some(group.name.as_str()));
        let is_kin = |label: &&Label| in_force.config.kin_labels.contains(&label.key);
        let kin_labels: BTreeSet<&Label> = ours().flat_map(|entry| entry.labels.iter()).filter(is_kin).collect();
        let kin = entries.iter().filter(|entry| entry.labels.iter().any(|label| kin_labels.contains(label)));
        let members = config.members;
        let own =
            MemberSet { named: Named::of(ours()), labels: BTreeSet::from([format!("{}={}", Label::GROUP, group.name)]), members };
        let kin = MemberSet { named: Named::of(kin), labels: kin_labels.iter().map(ToString::to_string).collect(), members };
        switches.insert(
            group.name.clone(),
            ConfiguredSwitch { switch, on: config.on.clone(), max_age_epochs: config.max_age_epochs, own, kin },
        );
    }
    Ok(switches)
}

/// Makes a group's switch from its configuration, and loads its secret.
fn ready(group: &str, config: &KillSwitchConfig) -> Result<KillSwitch, alert::AlertError> {
    let action = match (&config.url, &config.secret_file, &config.secret_env) {
        (Some(url), Some(file), _) => ActionConfig::Call { url: url.clone(), secret: SecretSource::File(file.clone()) },
        (Some(url), None, Some(name)) => ActionConfig::Call { url: url.clone(), secret: SecretSource::Variable(name.clone()) },
        // The check of the configuration refuses a call without a secret.
        (Some(_), None, None) | (None, _, _) => ActionConfig::Command(config.command.clone()),
    };
    KillSwitch::new(group, &action, config.timeout)
}

/// Makes a double vote of a key of the group for a test order. Its id belongs to no real finding,
/// and its proof is empty.
fn made_up(armed: &ConfiguredSwitch, group: &str, now: Time) -> Finding {
    let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, Vec::new(), serde_json::json!({}));
    let (index, pubkey) = armed.own.named.first();
    let facts = Slashable {
        genesis_validators_root: Root::ZERO,
        offence: Offence::DoubleVote,
        roots: [Root::ZERO; 2],
        slot: Slot::new(1),
        epoch: Epoch::new(0),
        sources: vec!["gossip".into()],
        fork: ForkName::Fulu,
        punishable: Punishable::Yes,
        validator: index.unwrap_or_default(),
        pubkey: pubkey.unwrap_or_default(),
        labels: vec![format!("{}={group}", Label::GROUP)],
        seen: [now; 2],
        recorded_at: now,
    };
    Finding::slashable(facts, &evidence)
}

/// Orders a group's switch as a test and returns what was answered.
pub async fn test(in_force: &ActiveConfig, network: &NetworkName, group: &str, now: Time) -> Result<String, ActionError> {
    let armed = armed(in_force, network)?;
    let Some(armed) = armed.get(group) else {
        let known: Vec<&str> = armed.keys().map(String::as_str).collect();
        return Err(ActionError::Usage(format!(
            "group {group:?} has no kill switch; there are: {}. Add `kill_switch` to the group under `watch.groups`",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    };
    let report = armed.switch.test(&made_up(armed, group, now), now).await;
    match report.result {
        Ok(answer) => Ok(format!("kill switch of {group} took {:.0?}: {answer}", report.took)),
        Err(reason) => Err(ActionError::Failed(format!(
            "kill switch of {group} failed after {:.0?}: {reason}. As it is, an offence would stop nothing: correct it and test again",
            report.took
        ))),
    }
}
