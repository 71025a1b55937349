//! The state of all kill switches, as it is stored on disk: one checkpoint of the store.

use super::after_stop::AfterStop;
use super::alarms::OpenAlarm;
use super::rules::held_back_until;
use alert::SwitchNote;
use alert::killswitch::KillSwitch;
use consensus::{Network, Root, Slot};
use detect::watch::ProofOutcome;
use engine::metrics::SwitchStage;
use evidence::{Finding, Kind, Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the checkpoint.
const CHECKPOINT: &str = "killswitches";

/// State of all kill switches, as it is stored on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KillSwitchState {
    /// Number of the last finding that was examined. It is `None` while no switch is configured, so
    /// findings from that time do not fire a switch later.
    pub seen: Option<u64>,
    /// The groups that had a switch in the configuration that was used last.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// By group: the number of the last finding that was examined for its switch, if that is before
    /// `seen`: a change of the configuration took the switch away, or a proof was not genuine, and
    /// what came during its check is examined again.
    #[serde(default)]
    pub behind: BTreeMap<String, u64>,
    /// Kill switches that fired, by group.
    pub fired: BTreeMap<String, Fired>,
    /// By group: the number of the last finding at the moment when the switch was made ready again.
    /// Findings up to this number do not fire it.
    #[serde(default)]
    pub armed_again: BTreeMap<String, u64>,
    /// By group: when the switch was made ready again after it had fired.
    #[serde(default)]
    pub armed_again_at: BTreeMap<String, Time>,
    /// By group: the order that was over when the switch was made ready again, for reports.
    #[serde(default)]
    pub earlier: BTreeMap<String, Fired>,
    /// By group: the finding that fired the switch before it was made ready again. A finding that
    /// the store had refused is recorded, and numbered, only after that. It does not fire again.
    #[serde(default)]
    pub fired_before: BTreeMap<String, Root>,
    /// By group: when the order was given that was over when the switch was made ready again. What
    /// was signed before may be held back, and fires nothing.
    #[serde(default)]
    pub ordered_before: BTreeMap<String, Time>,
    /// By group: the last finding that concerned the group but did not fire its switch.
    #[serde(default)]
    pub held_back: BTreeMap<String, NotFired>,
    /// Incidents about orders that alert routes were told of, and that are not over.
    #[serde(default)]
    pub alarms: BTreeMap<String, OpenAlarm>,
    /// By group: the last proof that the second check did not confirm.
    #[serde(default)]
    pub unconfirmed: BTreeMap<String, Unconfirmed>,
}

/// A proof that another implementation did not confirm before an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    pub finding: Root,
    pub outcome: ProofOutcome,
    pub reason: String,
    pub at: Time,
    /// Whether alert routes were told.
    pub is_told: bool,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fired {
    pub finding: Root,
    pub kind: String,
    pub ordered_at: Time,
    pub attempts: u32,
    /// Result of the order. It is `None` while the order runs, or after a crash.
    pub result: Option<OrderResult>,
    /// Whether the order only said what it would do.
    #[serde(default)]
    pub dry_run: bool,
    /// What the group's keys did since the order ended. `None` before that.
    #[serde(default)]
    pub after_stop: Option<AfterStop>,
    /// Number of the last finding that was examined for the group when it fired.
    #[serde(default)]
    pub examined: u64,
    /// The finding, if it could not be recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<Box<Finding>>,
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
    pub fn public_text(&self) -> &'static str {
        match self.done {
            true => "done",
            false => "FAILED: stop the validator clients by hand; the log and slashwatch inspect say why it failed",
        }
    }
}

impl Unconfirmed {
    /// Returns a notice for the operator, shown on the status page.
    pub fn notice(&self, group: &str) -> String {
        let Self { finding, reason, at, .. } = self;
        match self.outcome {
            ProofOutcome::NotGenuine => format!(
                "the kill switch of group {group} did not fire for {finding} at {at}: the second check says that the proof is not genuine \
                 ({reason}); check it by hand, and stop the validator clients if it holds"
            ),
            ProofOutcome::NotChecked => {
                format!(
                    "the kill switch of group {group} fired for {finding} at {at} without the second check of the proof ({reason})"
                )
            }
        }
    }
}

impl Fired {
    /// The finding that caused the order. `None` if it can be read nowhere.
    pub(super) fn cause(&self, store: &Store) -> Option<Finding> {
        let recorded = || store.finding(self.finding).ok().flatten().map(|(_, finding)| finding);
        self.unrecorded.as_deref().cloned().or_else(recorded)
    }

    /// Whether the order is done, as far as can be known: no part of it failed, and no key signs.
    /// `None` before it has ended.
    pub fn is_done(&self) -> Option<bool> {
        let signs = self.after_stop.as_ref().is_some_and(|after| after.signing.is_some());
        self.result.as_ref().map(|result| result.done && !signs)
    }

    /// How far it is.
    pub fn stage(&self) -> SwitchStage {
        let after = self.after_stop.as_ref();
        let signs = after.is_some_and(|after| after.signing.is_some());
        let is_silent = after.is_some_and(|after| after.silent_since.is_some());
        match &self.result {
            _ if self.dry_run => SwitchStage::Ready,
            None => SwitchStage::Ordered,
            Some(result) if !result.done && !is_silent => SwitchStage::Failed,
            Some(result) if result.done && signs => SwitchStage::Signing,
            Some(_) => SwitchStage::Done,
        }
    }

    /// The last slot for which offences do not fire the switch once it is made ready again
    /// ([`super::rules`]). `None` for a dry run, which holds nothing back.
    pub fn held_back_until(&self, network: &Network) -> Option<Slot> {
        (!self.dry_run).then(|| held_back_until(self.ordered_at, network))
    }

    /// Returns a notice for the operator, shown on the status page.
    pub fn notice(&self, group: &str) -> String {
        let how = match &self.result {
            None => "it has not ended yet".to_owned(),
            Some(OrderResult { done: true, .. }) if self.is_done() == Some(false) => "its order was done".to_owned(),
            Some(outcome @ OrderResult { done: true, .. }) => {
                format!("{}; slashwatch killswitch rearm {group} --config FILE makes it ready again", outcome.public_text())
            }
            Some(outcome) => outcome.public_text().to_owned(),
        };
        let after = self.after_stop.as_ref().and_then(AfterStop::notice).map_or_else(String::new, |after| format!("; {after}"));
        let did = if self.dry_run { "made a dry run, which stopped nothing," } else { "fired" };
        format!(
            "the kill switch of group {group} {did} at {} because of {} {}: {how}{after}",
            self.ordered_at, self.kind, self.finding
        )
    }
}

impl KillSwitchState {
    /// Reads the state from the store. A missing or unreadable one gives the default.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        // A state that does not parse is treated as missing. Then nothing counts as fired, and the
        // next offence fires the switch.
        Ok(store.checkpoint(CHECKPOINT)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    pub(super) fn write(&self, store: &Store) -> Result<(), StoreError> {
        let (name, bytes) = self.checkpoint();
        store.put_checkpoint(&name, &bytes)
    }

    /// Name and content of the checkpoint.
    pub(super) fn checkpoint(&self) -> (String, Vec<u8>) {
        (CHECKPOINT.to_owned(), serde_json::to_vec(self).expect("names and numbers"))
    }

    /// Why the second check of a finding's proof kept a group's switch from firing, if it did.
    pub(super) fn not_genuine(&self, group: &str, finding: Root) -> Option<String> {
        let unconfirmed = self.unconfirmed.get(group)?;
        (unconfirmed.finding == finding && unconfirmed.outcome == ProofOutcome::NotGenuine)
            .then(|| format!("the second check says that its proof is not genuine: {}", unconfirmed.reason))
    }

    /// What to tell with a finding about an order: how far the order is now. `None` for other
    /// findings.
    pub(super) fn note_about(&self, finding: &Finding) -> Option<SwitchNote> {
        let group = finding.details.as_ref()?.get("group")?.as_str()?;
        let fired = self.fired.get(group);
        let (fires, result) = match finding.kind {
            Kind::KillSwitchFailed | Kind::SignsAfterStop => {
                let fired = fired?;
                let after = fired.after_stop.as_ref().and_then(AfterStop::notice);
                let order = fired.result.as_ref().map(|result| {
                    let how = if result.done { "is done" } else { "FAILED" };
                    format!("its order {how} (attempt {}): {}", fired.attempts, result.answer)
                });
                (true, order.into_iter().chain(after).collect::<Vec<_>>().join("; "))
            }
            Kind::ProofNotConfirmed => {
                let unconfirmed = self.unconfirmed.get(group)?;
                match unconfirmed.outcome {
                    ProofOutcome::NotGenuine => (false, format!("it stopped nothing: {}", unconfirmed.reason)),
                    ProofOutcome::NotChecked => {
                        (true, format!("it was ordered without the second check: {}", unconfirmed.reason))
                    }
                }
            }
            _ => return None,
        };
        Some(SwitchNote { group: group.to_owned(), fires, reason: None, result: Some(result) })
    }

    /// The groups of which this state knows a switch: those of the configuration that was used
    /// last, and those that fired.
    pub fn known_groups(&self) -> BTreeSet<&str> {
        let groups = self.groups.iter().chain(self.fired.keys()).chain(self.armed_again_at.keys());
        groups.map(String::as_str).collect()
    }

    /// Whether a stop of the group known here can have written its lock file: one that goes on, or
    /// the one that is over, if the file names its finding.
    pub fn explains_lock(&self, group: &str, lock_file: &Path) -> bool {
        let of_earlier = || self.fired_before.get(group).is_some_and(|id| KillSwitch::lock_finding(lock_file) == Some(*id));
        self.fired.get(group).is_some_and(|fired| !fired.dry_run) || of_earlier()
    }

    /// The groups that are stopped: their switch has fired, and not as a dry run.
    pub fn stopped_groups(&self) -> BTreeSet<String> {
        self.fired.iter().filter(|(_, fired)| !fired.dry_run).map(|(group, _)| group.clone()).collect()
    }

    /// In words, which keys of a group sign although its switch has stopped them. `None` if none is
    /// known to.
    pub fn signing_notice(&self, group: &str) -> Option<String> {
        let after = self.fired.get(group)?.after_stop.as_ref()?;
        after.signing.as_ref().and_then(|_| after.notice())
    }

    /// Makes a group's switch ready again. Returns `false` if it had not fired.
    pub fn rearm(store: &Store, group: &str, now: Time) -> Result<bool, StoreError> {
        let mut state = Self::read(store)?;
        let had = state.rearm_group(group, store.last_seq(), now);
        state.write(store)?;
        Ok(had)
    }

    /// Only this group ignores the findings up to `last_seq`. For other groups they may still have
    /// to be examined.
    pub(super) fn rearm_group(&mut self, group: &str, last_seq: u64, now: Time) -> bool {
        self.armed_again.insert(group.to_owned(), last_seq);
        self.unconfirmed.remove(group);
        let fired = self.fired.remove(group);
        let Some(fired) = fired else { return false };
        self.armed_again_at.insert(group.to_owned(), now);
        self.fired_before.insert(group.to_owned(), fired.finding);
        if !fired.dry_run {
            self.ordered_before.insert(group.to_owned(), fired.ordered_at);
        }
        self.earlier.insert(group.to_owned(), fired);
        true
    }
}
