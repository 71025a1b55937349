//! The state of all kill switches, as it is stored on disk: one checkpoint of the store.

use consensus::Root;
use evidence::{Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the checkpoint.
const CHECKPOINT: &str = "killswitches";

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
    pub fn public_text(&self) -> &'static str {
        match self.done {
            true => "done",
            false => "FAILED: stop the validator clients by hand; the log and slashwatch inspect say why it failed",
        }
    }
}

impl Fired {
    /// Returns a notice for the operator, shown on the status page.
    pub fn notice(&self, group: &str) -> String {
        let how = match &self.result {
            None => "it has not ended yet".to_owned(),
            Some(outcome @ OrderResult { done: true, .. }) => {
                format!("{}; slashwatch killswitch rearm {group} --config FILE makes it ready again", outcome.public_text())
            }
            Some(outcome) => outcome.public_text().to_owned(),
        };
        format!("the kill switch of group {group} fired at {} because of {} {}: {how}", self.ordered_at, self.kind, self.finding)
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
        store.put_checkpoint(CHECKPOINT, &serde_json::to_vec(self).expect("names and numbers"))
    }

    /// Makes a group's switch ready again. Returns `false` if it had not fired.
    pub fn rearm(store: &Store, group: &str) -> Result<bool, StoreError> {
        let mut state = Self::read(store)?;
        let had = state.rearm_group(group, store.last_seq());
        state.write(store)?;
        Ok(had)
    }

    /// Only this group ignores the findings up to `last_seq`. For other groups they may still have
    /// to be examined.
    pub(super) fn rearm_group(&mut self, group: &str, last_seq: u64) -> bool {
        self.armed_again.insert(group.to_owned(), last_seq);
        let fired = self.fired.remove(group);
        self.fired_before.extend(fired.as_ref().map(|fired| (group.to_owned(), fired.finding)));
        fired.is_some()
    }
}
