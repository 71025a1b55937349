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
//! 2. The order is written to the state.
//! 3. The program runs or the address is called.
//! 4. The result is written to the state.
//!
//! If step 2 fails (for example because the disk is full), step 3 happens anyway, and the write is
//! tried again. Keys that continue to sign cost more than a second stop after a restart. After a
//! crash between steps 2 and 4 it is unknown whether anything was stopped. Then the order is given
//! again at the next start, with `attempt` 2. To stop what already stands still costs nothing, but
//! keys that continue to sign can cost their whole stake.
//!
//! An order that fails is given again ([`RetryPolicy::order_again`]), and alert routes are told once
//! ([`alarms`]). After an order the group's keys are listened to ([`after_stop`]).
//!
//! A group that fired keeps that state until `slashwatch killswitch rearm`.

use crate::config::WatchConfig;
use crate::error::ActionError;
use crate::follower::Follower;
use crate::lists::reload::ActiveConfig;
use alert::killswitch::{KillSwitch, OrderReport, Unlocked};
use alert::{RetryPolicy, Routes, SwitchNote, SwitchNotes};
use base::Backoff;
use consensus::{Network, PubkeyBytes, Root, Slot, ValidatorIndex};
use detect::watch::{Label, ProofOutcome, SharedWatchState, WatchReport};
use engine::metrics::{Metrics, SwitchStage};
use evidence::{Changes, Finding, Store, StoreError, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod after_stop;
mod alarms;
mod configured;
mod members;
mod proof_check;
pub mod rearm;
mod rules;
mod state;
#[cfg(test)]
mod tests;

pub use after_stop::{AfterStop, StillSigning};
pub use alarms::OpenAlarm;
use configured::configured_switches;
pub use configured::test;
pub(crate) use members::names_nobody;
use proof_check::{CheckResult, ProofCheck};
use rules::{ConfiguredSwitch, NotFiredReason, SwitchDecision};
pub use state::{Fired, KillSwitchState, NotFired, OrderResult, Unconfirmed};

/// Facts that a switch needs in order to decide about a finding.
#[derive(Clone)]
pub struct SwitchContext {
    pub network: Arc<Network>,
    /// Labels and public keys of the validators, shared with the engine.
    pub watched: SharedWatchState,
    /// The data directory, which also holds the requests to make a switch ready again.
    pub dir: PathBuf,
    /// The executable of slashwatch, for the second check of proofs.
    pub program: PathBuf,
    /// Counts the switches by how far they are.
    pub metrics: Metrics,
    pub now: fn() -> Time,
}

impl SwitchContext {
    /// Applies a switch's rules to a finding, with the public keys that the registry has.
    fn decide(
        &self,
        configured: &ConfiguredSwitch,
        state: &KillSwitchState,
        finding: &Finding,
        now: Time,
    ) -> Option<SwitchDecision> {
        let labels = self.watched.labels();
        let last_order = state.ordered_before.get(configured.switch.group()).copied();
        configured.decide(finding, last_order, now, &self.network, &|index| labels.pubkey(index))
    }
}

/// How an order ended.
struct EndedOrder {
    group: String,
    /// The finding that caused it.
    finding: Root,
    /// The second check of its proof. `None` if none was asked for.
    check: Option<CheckResult>,
    /// `None` if the check kept it from being carried out.
    report: Option<OrderReport>,
}

/// Reads the findings and orders the switches that they fire.
pub struct KillSwitches {
    store: Store,
    follower: Follower,
    context: SwitchContext,
    switches: Arc<BTreeMap<String, ConfiguredSwitch>>,
    state: KillSwitchState,
    /// By group: the first finding that could not be recorded and came during an order that a
    /// second check may keep from being carried out. What is recorded is in the store.
    came_during_check: BTreeMap<String, Finding>,
    /// Whether the state on disk is older than the one in memory.
    is_unsaved: bool,
    /// The alert routes in use.
    routes: Routes,
    /// The pauses before an order that failed is given again.
    order_again: Backoff,
    /// When that is, by group.
    again_at: BTreeMap<String, Instant>,
    /// The slot of the last report that was looked at.
    looked_at: Slot,
    /// Shows the state to the status page and to [`Self::notes`].
    shown: watch::Sender<Arc<KillSwitchState>>,
    /// Shows the switches to [`Self::notes`].
    in_use: watch::Sender<Arc<BTreeMap<String, ConfiguredSwitch>>>,
}

impl KillSwitches {
    /// Reads the state. No switch is in use until [`Self::arm`].
    pub fn new(store: Store, context: SwitchContext) -> Result<Self, StoreError> {
        let state = KillSwitchState::read(&store)?;
        let (shown, _) = watch::channel(Arc::new(state.clone()));
        let (in_use, _) = watch::channel(Arc::default());
        let follower = Follower::new(store.clone());
        Ok(Self {
            store,
            follower,
            context,
            switches: Arc::default(),
            state,
            came_during_check: BTreeMap::new(),
            is_unsaved: false,
            routes: Routes::default(),
            order_again: RetryPolicy::DEFAULT.order_again,
            again_at: BTreeMap::new(),
            looked_at: Slot::new(0),
            shown,
            in_use,
        })
    }

    /// Returns a receiver that shows the state as it changes.
    pub fn state(&self) -> watch::Receiver<Arc<KillSwitchState>> {
        self.shown.subscribe()
    }

    /// Returns the function that tells a delivery what the switches do with a finding. It applies
    /// the same rules to the same facts as [`Self::run`], so its answer does not depend on which of
    /// the two examines the finding first.
    pub fn notes(&self) -> SwitchNotes {
        let (in_use, shown) = (self.in_use.subscribe(), self.shown.subscribe());
        let (context, store) = (self.context.clone(), self.store.clone());
        Arc::new(move |finding: &Finding, now: Time| {
            let (switches, state) = (in_use.borrow().clone(), shown.borrow().clone());
            if let Some(note) = state.note_about(finding) {
                return vec![note];
            }
            let number = store.finding(finding.id).ok().flatten().map(|(seq, _)| seq);
            let note = |group: &String, configured: &ConfiguredSwitch| -> Option<SwitchNote> {
                let fired = state.fired.get(group);
                if fired.is_some_and(|fired| fired.finding == finding.id) {
                    return Some(SwitchNote { group: group.clone(), fires: true, reason: None, result: None });
                }
                let decision = context.decide(configured, &state, finding, now)?;
                if let Some(reason) = state.not_genuine(group, finding.id) {
                    return Some(SwitchNote { group: group.clone(), fires: false, reason: Some(reason), result: None });
                }
                let reason = match (decision, fired) {
                    (SwitchDecision::NotFiredReason(why), _) => Some(why.to_string()),
                    (SwitchDecision::Fires, Some(fired)) => {
                        Some(format!("it has fired already, because of {} at {}", fired.kind, fired.ordered_at))
                    }
                    (SwitchDecision::Fires, None) if number.is_some() && state.armed_again.get(group) >= number.as_ref() => {
                        Some("it was made ready again after this was found".to_owned())
                    }
                    (SwitchDecision::Fires, None) => None,
                };
                Some(SwitchNote { group: group.clone(), fires: reason.is_none(), reason, result: None })
            };
            switches.iter().filter_map(|(group, configured)| note(group, configured)).collect()
        })
    }

    /// Starts with the switches of a configuration. Without any, what is found from now on fires
    /// none that are configured before a later start.
    pub fn arm(&mut self, active: &ActiveConfig) -> Result<(), ActionError> {
        self.use_switches(active)?;
        let switches = self.switches.clone();
        self.state.behind.retain(|group, _| switches.contains_key(group));
        if self.switches.is_empty() && self.state.seen.take().is_some() {
            self.write()?;
        }
        Ok(())
    }

    /// Uses the switches of a configuration. A switch that cannot be made ready is a problem of the
    /// configuration. If a change takes a switch away, what is found meanwhile is examined for it
    /// when it is back, because that may have been a mistake.
    fn use_switches(&mut self, active: &ActiveConfig) -> Result<(), ActionError> {
        let network = &self.context.network;
        let name = crate::alerts::name_of(network);
        let before =
            std::mem::replace(&mut self.switches, Arc::new(configured_switches(active, &name, Some(&self.context.dir))?));
        let seen = self.state.seen.unwrap_or_default();
        for group in before.keys().filter(|group| !self.switches.contains_key(*group)) {
            self.state.behind.entry(group.clone()).or_insert(seen);
        }
        self.in_use.send_replace(self.switches.clone());
        self.show();
        self.routes = active.routes.clone();
        let groups: BTreeSet<String> = self.switches.keys().cloned().collect();
        let is_changed = std::mem::replace(&mut self.state.groups, groups) != self.state.groups;
        if !self.switches.is_empty() && self.state.seen.is_none() {
            self.state.seen = Some(self.store.last_seq());
            self.write()?;
        } else if is_changed {
            // Only commands read it, so no finding waits for it on a full disk. The next write has
            // it.
            let was_unsaved = self.is_unsaved;
            self.save("which groups have one");
            self.is_unsaved = was_unsaved;
        }
        Ok(())
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
        let mut requests = tokio::time::interval(rearm::LOOK_EVERY);
        let mut orders: JoinSet<EndedOrder> = JoinSet::new();
        self.plan_repeats();
        self.repeat_orders(&mut orders);
        // What was made ready again without a watcher is over, and routes are told so.
        if !self.state.fired.is_empty() || !self.state.alarms.is_empty() {
            self.save("what is told of orders");
        }
        loop {
            // This is read before the findings are examined, so everything that was recorded before
            // the stop is examined in any case.
            let is_last = cancel.is_cancelled();
            let examined = self.examine(&mut orders);
            if let Err(error) = &examined {
                tracing::error!(%error, "kill switches cannot read the findings or save their state; check the disk of the data directory");
            }
            while let Ok(findings) = unrecorded.try_recv() {
                self.examine_unrecorded(&findings, &mut orders);
            }
            if is_last {
                // A proof that is not genuine leaves what came during its check to be examined.
                match orders.join_next().await {
                    Some(ended) => self.record_result(ended),
                    None => break,
                }
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.follower.recorded() => {}
                () = tokio::time::sleep(RetryPolicy::DEFAULT.store_pause), if examined.is_err() => {}
                Some(findings) = unrecorded.recv() => self.examine_unrecorded(&findings, &mut orders),
                Some(ended) = orders.join_next() => self.record_result(ended),
                _ = requests.tick() => {
                    self.answer_rearm_requests();
                    self.listen_to_keys();
                    self.repeat_orders(&mut orders);
                }
                Ok(()) = changed.changed() => {
                    let active = changed.borrow_and_update().clone();
                    if let Err(error) = self.use_switches(&active) {
                        tracing::error!(%error, "changed kill switches cannot be used; the old ones stay in use; correct the configuration");
                    }
                }
            }
        }
    }

    /// Gives the orders for what was found since the last call. If the state cannot be written,
    /// the orders of the current page are given anyway. Further recorded findings are then examined
    /// only after a later write has succeeded.
    fn examine(&mut self, orders: &mut JoinSet<EndedOrder>) -> Result<(), StoreError> {
        let (waiting, free): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.came_during_check).into_iter().partition(|(group, _)| self.state.fired.contains_key(group));
        self.came_during_check = waiting;
        self.examine_unrecorded(&free.into_values().collect::<Vec<_>>(), orders);
        if self.is_unsaved {
            self.write()?;
        }
        self.examine_missed(orders)?;
        while let Some(seen) = self.state.seen.filter(|_| !self.switches.is_empty()) {
            let page = self.follower.after(seen)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let mut to_order = Vec::new();
            for (seq, finding) in &page {
                to_order.extend(self.fire_for(finding, Some(*seq), None));
            }
            self.state.seen = Some(*last);
            let written = self.write();
            self.order_all(to_order, orders);
            written?;
        }
        Ok(())
    }

    /// Gives the orders for what was found while a switch was away that is back now, or while the
    /// check of a proof that is not genuine went on.
    fn examine_missed(&mut self, orders: &mut JoinSet<EndedOrder>) -> Result<(), StoreError> {
        let seen = self.state.seen.unwrap_or_default();
        let behind: Vec<String> = self.state.behind.keys().filter(|group| self.switches.contains_key(*group)).cloned().collect();
        for group in behind {
            while let Some(from) = self.state.behind.get(&group).copied().filter(|from| *from < seen) {
                let page = self.follower.after(from)?;
                let mut to_order = Vec::new();
                for (seq, finding) in page.iter().filter(|(seq, _)| *seq <= seen) {
                    to_order.extend(self.fire_for(finding, Some(*seq), Some(&group)));
                }
                self.state.behind.insert(group.clone(), page.last().map_or(seen, |(last, _)| *last));
                let written = self.write();
                self.order_all(to_order, orders);
                written?;
            }
            self.state.behind.remove(&group);
        }
        Ok(())
    }

    /// A finding that could not be recorded is still proven. Keys that continue to sign cost more
    /// than an order whose finding nobody can look up.
    fn examine_unrecorded(&mut self, findings: &[Finding], orders: &mut JoinSet<EndedOrder>) {
        let mut to_order = Vec::new();
        for finding in findings {
            to_order.extend(self.fire_for(finding, None, None));
        }
        if to_order.is_empty() {
            return;
        }
        if let Err(error) = self.write() {
            tracing::error!(%error, "the state of the kill switches cannot be saved; the order is given nevertheless; check the disk of the data directory");
        }
        self.order_all(to_order, orders);
    }

    /// Returns the switches that a finding fires now, and marks them as fired. `seq` is the number
    /// of the finding if it is recorded. `only` names the group to look at, if it is not all.
    fn fire_for(&mut self, finding: &Finding, seq: Option<u64>, only: Option<&str>) -> Vec<(Arc<KillSwitch>, Finding)> {
        let switches = self.switches.clone();
        let now = (self.context.now)();
        let mut to_order = Vec::new();
        for (group, configured) in switches.iter().filter(|(group, _)| only.is_none_or(|only| only == *group)) {
            let was_before = seq.is_some() && self.state.armed_again.get(group) >= seq.as_ref();
            let has_fired_it = self.state.fired_before.get(group) == Some(&finding.id);
            // A dry run stopped nothing, so it does not keep an order from being given.
            let has_fired = |fired: &Fired| !fired.dry_run || configured.switch.is_dry_run();
            if was_before || has_fired_it {
                continue;
            }
            if let Some(fired) = self.state.fired.get(group).filter(|fired| has_fired(fired)) {
                let is_checked = seq.is_none() && configured.second_check && fired.result.is_none();
                if is_checked && self.context.decide(configured, &self.state, finding, now) == Some(SwitchDecision::Fires) {
                    self.came_during_check.entry(group.clone()).or_insert_with(|| finding.clone());
                }
                continue;
            }
            match self.context.decide(configured, &self.state, finding, now) {
                None => {}
                Some(SwitchDecision::NotFiredReason(why)) => self.note_not_fired(group, finding, &why, now),
                Some(SwitchDecision::Fires) => {
                    let kind = finding.kind.to_string();
                    let behind = self.state.behind.get(group).copied();
                    let fired = Fired {
                        finding: finding.id,
                        kind,
                        ordered_at: now,
                        attempts: 1,
                        result: None,
                        dry_run: configured.switch.is_dry_run(),
                        after_stop: None,
                        examined: seq.or_else(|| behind.or(self.state.seen)).unwrap_or_default(),
                        unrecorded: seq.is_none().then(|| Box::new(finding.clone())),
                    };
                    self.state.fired.insert(group.clone(), fired);
                    to_order.push((configured.switch.clone(), finding.clone()));
                }
            }
        }
        to_order
    }

    /// Notes that a finding concerned a group and did not fire its switch.
    fn note_not_fired(&mut self, group: &str, finding: &Finding, why: &NotFiredReason, now: Time) {
        let times = self.state.held_back.get(group).map_or(0, |before| before.times).saturating_add(1);
        // Somebody who can send one such message can send thousands, so only each power of two is
        // logged.
        if times.is_power_of_two() {
            tracing::warn!(group, kind = finding.kind.as_str(), finding = %finding.id, reason = %why, times, "kill switch does not fire");
        }
        let (finding, kind, reason) = (finding.id, finding.kind.to_string(), why.to_string());
        self.state.held_back.insert(group.to_owned(), NotFired { finding, kind, at: now, reason, times });
    }

    fn order_all(&self, to_order: Vec<(Arc<KillSwitch>, Finding)>, orders: &mut JoinSet<EndedOrder>) {
        for (switch, finding) in to_order {
            tracing::warn!(group = switch.group(), kind = finding.kind.as_str(), finding = %finding.id, place = switch.place(), "kill switch fires");
            self.order(switch, finding, 1, orders);
        }
    }

    /// Answers the requests that `slashwatch killswitch rearm` leaves in the data directory while
    /// this watcher runs. A request stays, and is tried again, until the change is on disk.
    fn answer_rearm_requests(&mut self) {
        for request in rearm::requests(&self.context.dir) {
            // The changed state is written first. A change that would not survive a restart is not
            // made.
            let lock_file = self.switches.get(&request.group).and_then(|configured| configured.lock_file.clone());
            let is_explained = lock_file.as_deref().is_some_and(|path| self.state.explains_lock(&request.group, path));
            let mut changed = self.state.clone();
            changed.rearm_group(&request.group, self.store.last_seq(), (self.context.now)());
            if let Err(error) = changed.write(&self.store) {
                tracing::error!(%error, group = request.group, "a kill switch cannot be made ready, because the state cannot be saved; check the disk of the data directory");
                continue;
            }
            self.is_unsaved = false;
            self.state = changed;
            self.show();
            self.again_at.remove(&request.group);
            self.came_during_check.remove(&request.group);
            tracing::warn!(group = request.group, "kill switch is ready again, as was asked for");
            self.save("what is told of orders");
            if let Some(path) = lock_file {
                unlock(&request.group, &path, is_explained);
            }
            if let Err(error) = request.answer() {
                tracing::error!(%error, "the request cannot be removed from the data directory; remove it by hand");
            }
        }
    }

    /// Writes the state to disk and publishes it, with what alert routes have to be told because of
    /// it.
    fn write(&mut self) -> Result<(), StoreError> {
        let mut state = self.state.clone();
        let labels_of = |group: &str| match self.switches.get(group) {
            Some(configured) => configured.labels.clone(),
            None => vec![format!("{}={group}", Label::GROUP)],
        };
        let told = alarms::report(&mut state, &labels_of, &self.context.network, (self.context.now)());
        let changes = Changes { checkpoints: vec![state.checkpoint()], ..told };
        let written = self.store.apply(changes, &self.routes.names());
        self.is_unsaved = written.is_err();
        // What could not be written was not told. It is told with the next write.
        if written.is_ok() {
            self.state = state;
        }
        self.show();
        written.map(drop)
    }

    /// Publishes the state, how many switches are how far, and which groups are stopped.
    fn show(&self) {
        self.shown.send_replace(Arc::new(self.state.clone()));
        let not_fired = self.switches.keys().filter(|group| !self.state.fired.contains_key(*group));
        let stages = not_fired.map(|_| SwitchStage::Ready).chain(self.state.fired.values().map(Fired::stage));
        self.context.metrics.show_switches(&stages.collect::<Vec<_>>());
        self.context.watched.set_stopped(self.state.stopped_groups());
    }

    /// The same where nobody waits for it. An error is logged, and the write is tried again.
    fn save(&mut self, what: &str) {
        if let Err(error) = self.write() {
            tracing::error!(%error, what, "the state of the kill switches cannot be saved; check the disk of the data directory");
        }
    }

    fn order(&self, switch: Arc<KillSwitch>, finding: Finding, attempt: u32, orders: &mut JoinSet<EndedOrder>) {
        let now = (self.context.now)();
        let keys = self.keys_of(switch.group(), &finding);
        let check = self.second_check(switch.group(), &finding);
        orders.spawn(async move {
            let checked = match check {
                Some(check) => Some(check.run().await),
                None => None,
            };
            let report = match checked {
                Some(CheckResult::NotGenuine(_)) => None,
                Some(CheckResult::Genuine | CheckResult::NotChecked(_)) | None => {
                    Some(switch.fire(&finding, &keys, attempt, now).await)
                }
            };
            EndedOrder { group: switch.group().to_owned(), finding: finding.id, check: checked, report }
        });
    }

    /// The second check of the proof before an order. `None` if none is asked for, if there is no
    /// proof, or if this order repeats one that was carried out.
    fn second_check(&self, group: &str, finding: &Finding) -> Option<ProofCheck> {
        let was_carried_out = self.state.fired.get(group).is_some_and(|fired| fired.result.is_some());
        let is_wanted = self.switches.get(group).is_some_and(|configured| configured.second_check);
        let reference = finding.evidence.as_ref().filter(|_| is_wanted && !was_carried_out)?;
        let evidence = self.store.evidence(reference.id).ok().flatten();
        Some(ProofCheck::new(&self.context.program, &self.context.dir, finding, evidence))
    }

    /// Notes that the second check did not confirm a proof, for alert routes to be told.
    fn note_check(&mut self, group: &str, finding: Root, check: CheckResult) {
        let (outcome, reason) = match check {
            CheckResult::Genuine => return,
            CheckResult::NotGenuine(reason) => {
                tracing::error!(group, %finding, reason, "kill switch does NOT fire: the second check says that the proof is not genuine; check it by hand, and stop the validator clients if it holds");
                (ProofOutcome::NotGenuine, reason)
            }
            CheckResult::NotChecked(reason) => {
                tracing::error!(group, %finding, reason, "kill switch fired without the second check of the proof, which could not be made");
                (ProofOutcome::NotChecked, reason)
            }
        };
        let at = (self.context.now)();
        self.state.unconfirmed.insert(group.to_owned(), Unconfirmed { finding, outcome, reason, at, is_told: false });
    }

    /// Looks at what the keys did that were stopped, once for each slot.
    fn listen_to_keys(&mut self) {
        let fired = self.state.fired.values().any(|fired| !fired.dry_run && fired.result.is_some());
        let report = self.context.watched.report();
        if !fired || report.slot == self.looked_at {
            return;
        }
        self.looked_at = report.slot;
        let labels = report.labels.clone();
        let mut is_changed = false;
        for members in labels.groups() {
            is_changed |= self.hear(&members.name, &members.validators, &report);
        }
        if is_changed {
            self.save("what the stopped keys do");
        }
    }

    /// Takes in what the keys of a group did, if it was ordered to stop. Who only has the group's
    /// withdrawal credentials or names its fee recipient does not count, as for an order. Returns
    /// whether anything changed.
    fn hear(&mut self, group: &str, members: &[ValidatorIndex], report: &WatchReport) -> bool {
        let fired = self.state.fired.get_mut(group).filter(|fired| !fired.dry_run && fired.result.is_some());
        let Some(fired) = fired else { return false };
        let configured = self.switches.get(group);
        let counts = |member: &ValidatorIndex| {
            let at = report.keys.binary_search_by_key(member, |key| key.validator);
            let pubkey = at.map_or(PubkeyBytes::ZERO, |at| report.keys[at].pubkey);
            configured.is_none_or(|configured| configured.own.counts(*member, pubkey))
        };
        let members: Vec<ValidatorIndex> = members.iter().copied().filter(counts).collect();
        // An order of an earlier version has none, because that did not listen.
        let after = fired.after_stop.get_or_insert_with(|| AfterStop::new(report.slot));
        let n_before = after.signing.as_ref().map(|signing| signing.n_keys);
        let silent_before = after.silent_since;
        if !after.look(&members, report, self.context.network.preset().slots_per_epoch) {
            return false;
        }
        if let Some(signing) = after.signing.as_ref().filter(|signing| n_before != Some(signing.n_keys)) {
            tracing::error!(group, since = %signing.since, n_keys = signing.n_keys, "keys sign after the stop: find the machine and switch it off");
        } else if let Some(since) = after.silent_since.filter(|_| after.silent_since != silent_before) {
            tracing::warn!(group, %since, "the keys of the group are silent");
        }
        true
    }

    /// Plans the next attempts of orders that failed or were interrupted before this start.
    fn plan_repeats(&mut self) {
        // An order of an earlier version whose finding a full disk refused. Its switch is made
        // ready again, because otherwise it would wait for ever.
        let store = &self.store;
        self.state.fired.retain(|group, fired| {
            let is_lost =
                fired.result.is_none() && fired.unrecorded.is_none() && matches!(store.finding(fired.finding), Ok(None));
            if is_lost {
                tracing::error!(%group, "an order was interrupted, and its finding was never recorded; the switch is ready again");
            }
            !is_lost
        });
        let now = Instant::now();
        let again = self.state.fired.iter().filter_map(|(group, fired)| {
            let pause = match &fired.result {
                None => Duration::ZERO,
                Some(result) if !result.done => self.order_again.pause(fired.attempts),
                Some(_) => return None,
            };
            Some((group.clone(), now + pause))
        });
        self.again_at = again.collect();
    }

    /// Gives the orders again that failed or were interrupted, when it is time. What a dry run said
    /// is not repeated. An order whose switch a reload has taken away stays due until it is back.
    fn repeat_orders(&mut self, orders: &mut JoinSet<EndedOrder>) {
        let now = Instant::now();
        let due: Vec<String> = self.again_at.iter().filter(|(_, at)| **at <= now).map(|(group, _)| group.clone()).collect();
        for group in due {
            let waiting = self.state.fired.get_mut(&group).filter(|fired| match &fired.result {
                None => true,
                Some(result) => !result.done && !fired.dry_run && fired.attempts < RetryPolicy::DEFAULT.max_orders,
            });
            let Some(fired) = waiting else {
                self.again_at.remove(&group);
                continue;
            };
            let (Some(configured), Some(finding)) = (self.switches.get(&group), fired.cause(&self.store)) else { continue };
            self.again_at.remove(&group);
            fired.attempts = fired.attempts.saturating_add(1);
            let why = if fired.result.is_some() { "it has failed" } else { "the last run ended before the result was known" };
            let (switch, attempt) = (configured.switch.clone(), fired.attempts);
            self.save("an order that is repeated");
            tracing::warn!(group, attempt, place = switch.place(), "kill switch fires again, because {why}");
            self.order(switch, finding, attempt, orders);
        }
    }

    /// The public keys of a group, as far as they are known: those of its members, those that its
    /// entries name, and that of the accused if it is a member.
    fn keys_of(&self, group: &str, finding: &Finding) -> Vec<PubkeyBytes> {
        let labels = self.context.watched.labels();
        let members = labels.groups().iter().find(|members| *members.name == *group);
        let known = members.iter().flat_map(|members| {
            let registered = members.validators.iter().filter_map(|index| labels.pubkey(*index));
            registered.chain(members.unknown.iter().copied())
        });
        let mut keys: BTreeSet<PubkeyBytes> = known.collect();
        if let Some(configured) = self.switches.get(group) {
            keys.extend(configured.own.named.pubkeys());
            keys.extend(finding.validator.iter().filter(|_| configured.own.concerns(finding)).map(|subject| subject.pubkey));
        }
        keys.into_iter().collect()
    }

    /// Notes the result of an order.
    fn record_result(&mut self, ended: Result<EndedOrder, tokio::task::JoinError>) {
        let EndedOrder { group, finding, check, report } = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an order of a kill switch ended early; it is repeated at the next start");
                return;
            }
        };
        if let Some(check) = check {
            self.note_check(&group, finding, check);
        }
        let Some(report) = report else {
            // Nothing was stopped, and the switch is ready for what came during the check, and for
            // the next finding.
            if let Some(fired) = self.state.fired.get(&group).filter(|fired| fired.finding == finding) {
                self.state.behind.insert(group.clone(), fired.examined);
                self.state.fired.remove(&group);
                self.state.fired_before.insert(group, finding);
            }
            self.save("that an order was not carried out");
            return;
        };
        self.came_during_check.remove(&group);
        let took_ms = report.took.as_millis() as u64;
        let (done, answer) = match report.result {
            Ok(answer) => {
                tracing::warn!(group, took_ms, answer, "kill switch done");
                (true, answer)
            }
            Err(answer) => {
                tracing::error!(group, took_ms, answer, "kill switch FAILED: stop the validator clients by hand");
                (false, answer)
            }
        };
        let ended_in = self.context.network.slot_at((self.context.now)().as_unix_ns());
        // The switch may have been made ready again meanwhile, and may have fired again.
        if let Some(fired) = self.state.fired.get_mut(&group).filter(|fired| fired.finding == finding) {
            let has_failed = fired.result.as_ref().is_none_or(|result| !result.done);
            fired.result = Some(OrderResult { done, took_ms, answer });
            if fired.after_stop.is_none() || (done && has_failed) {
                fired.after_stop = Some(AfterStop::new(ended_in));
            }
            if !done && !fired.dry_run {
                self.again_at.insert(group, Instant::now() + self.order_again.pause(fired.attempts));
            }
        }
        self.save("the result of an order, which is repeated at the next start");
    }
}

/// The lock file of a group, if it has one.
fn lock_file_of<'a>(config: &'a WatchConfig, group: &str) -> Option<&'a Path> {
    let switches = config.groups.iter().filter(|known| known.name == group).filter_map(|known| known.kill_switch.as_ref());
    switches.filter_map(|switch| switch.lock_file.as_deref()).next()
}

/// The lock file of a group, if it is there although the state knows of no stop that could have
/// written it. Then it is perhaps that of another watcher, and still keeps clients from starting.
pub fn contradicting_lock<'a>(config: &'a WatchConfig, state: &KillSwitchState, group: &str) -> Option<&'a Path> {
    lock_file_of(config, group).filter(|path| path.symlink_metadata().is_ok() && !state.explains_lock(group, path))
}

/// Removes the lock file of a group whose switch is made ready again without a watcher. Returns a
/// text that says so, or that it cannot be removed.
pub fn unlock_group(config: &WatchConfig, group: &str) -> Result<Option<String>, ActionError> {
    let Some(path) = lock_file_of(config, group) else { return Ok(None) };
    match KillSwitch::unlock(path, group) {
        Ok(Unlocked::Removed) => Ok(Some(format!(
            "the lock file {} is removed: start no client before `slashwatch preflight` says SAFE",
            path.display()
        ))),
        Ok(Unlocked::WasNone) => Ok(None),
        Ok(Unlocked::IsOf(other)) => Ok(Some(format!("the lock file {} is that of group {other} and stays", path.display()))),
        Err(error) => Err(ActionError::Failed(format!(
            "the lock file {} cannot be removed: {error}. Remove it by hand, or no client starts",
            path.display()
        ))),
    }
}

/// Removes the lock file of a group whose switch is ready again. One that no stop known here has
/// written stays.
fn unlock(group: &str, path: &Path, is_explained: bool) {
    if !is_explained {
        if path.symlink_metadata().is_ok() {
            tracing::error!(group, path = %path.display(), "the lock file stays, because no stop known here has written it; find the watcher that did, or remove it by hand");
        }
        return;
    }
    match KillSwitch::unlock(path, group) {
        Ok(Unlocked::Removed) => {
            tracing::warn!(group, path = %path.display(), "the lock file is removed; start no client before `slashwatch preflight` says SAFE");
        }
        Ok(Unlocked::WasNone) => {}
        Ok(Unlocked::IsOf(other)) => {
            tracing::error!(group, path = %path.display(), other, "the lock file is that of another group and stays; give each group its own");
        }
        Err(error) => {
            tracing::error!(group, path = %path.display(), %error, "the lock file cannot be removed; remove it by hand, or no client starts");
        }
    }
}
