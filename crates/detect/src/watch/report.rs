//! What the rest of the program reads about watched keys: which keys are watched, and how they do.
//!
//! **Why locks.** The page reads the report on its own threads while the engine thread runs. A
//! channel that keeps the last value would also work, but it belongs to an async runtime, which
//! this crate must not depend on. Each lock is held only while a pointer is copied, a few times per
//! slot. Nothing else is done under it.

use super::Labels;
use chain::Record;
use consensus::{Epoch, Gwei, PubkeyBytes, Slot, ValidatorIndex};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of all watched keys at the end of a slot, or when the set of watched keys changed.
#[derive(Clone, Debug, Default)]
pub struct WatchReport {
    /// The slot that ended last.
    pub slot: Slot,
    pub labels: Arc<Labels>,
    /// Epochs in a row, up to the last one that was judged, in which the network was heard. `None` if
    /// it was not heard in that one.
    pub heard: Option<HeardRun>,
    /// Ascending by validator; exactly the validators that `labels` watches.
    pub keys: Vec<KeyStatus>,
}

/// A row of epochs in which the whole network was heard, so that silence of a key means that it did
/// not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardRun {
    /// First slot of the first of them.
    pub since: Slot,
    /// First slot after the last of them.
    pub until: Slot,
}

/// The current labels and the latest report. All clones share one content.
#[derive(Clone, Debug, Default)]
pub struct SharedWatchState {
    labels: Arc<Mutex<Arc<Labels>>>,
    report: Arc<Mutex<Arc<WatchReport>>>,
    stopped: Arc<Mutex<Arc<BTreeSet<String>>>>,
}

impl SharedWatchState {
    /// Replaces the labels. The engine calls this whenever it resolves them.
    pub fn set_labels(&self, labels: Arc<Labels>) {
        *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
    }

    /// The current labels. They may be newer than those of the report.
    pub fn labels(&self) -> Arc<Labels> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the names of the groups whose kill switch has fired, so that their keys are silent
    /// on purpose.
    pub fn set_stopped(&self, groups: BTreeSet<String>) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(groups);
    }

    /// The groups whose kill switch has fired.
    pub fn stopped(&self) -> Arc<BTreeSet<String>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the report. The detector calls this at the end of each slot.
    pub fn publish(&self, report: WatchReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// The latest report of the detector.
    pub fn report(&self) -> Arc<WatchReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A key's proposals since the start, those that could be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proposals {
    pub due: u32,
    /// Those whose block others voted for or built on.
    pub made: u32,
}

/// The state of a validator on the chain, in the terms of the beacon API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainState {
    Pending,
    ActiveOngoing,
    ActiveExiting,
    ActiveSlashed,
    ExitedUnslashed,
    ExitedSlashed,
    WithdrawalPossible,
    /// The validator is not in our registry.
    Unknown,
}

impl ChainState {
    /// The state in epoch `now` according to the registry.
    pub fn of(record: Option<&Record>, now: Epoch) -> Self {
        let Some(record) = record else { return Self::Unknown };
        if now < record.activation_epoch {
            Self::Pending
        } else if now >= record.withdrawable_epoch {
            Self::WithdrawalPossible
        } else {
            match (record.slashed, now >= record.exit_epoch) {
                (true, false) => Self::ActiveSlashed,
                (true, true) => Self::ExitedSlashed,
                (false, true) => Self::ExitedUnslashed,
                (false, false) if record.exit_epoch == Epoch::FAR_FUTURE => Self::ActiveOngoing,
                (false, false) => Self::ActiveExiting,
            }
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::ActiveOngoing => "active_ongoing",
            Self::ActiveExiting => "active_exiting",
            Self::ActiveSlashed => "active_slashed",
            Self::ExitedUnslashed => "exited_unslashed",
            Self::ExitedSlashed => "exited_slashed",
            Self::WithdrawalPossible => "withdrawal_possible",
            Self::Unknown => "unknown",
        }
    }
}

/// What is published about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    pub validator: ValidatorIndex,
    pub pubkey: PubkeyBytes,
    pub state: ChainState,
    pub effective_balance: Gwei,
    /// Slot of its newest vote that was received since the start.
    pub last_vote: Option<Slot>,
    /// Slot of its newest vote or block that was received since the start, or that in which it came
    /// if its own was still ahead. What came ahead of its time does not count again later.
    pub last_signed: Option<Slot>,
    pub missed_in_a_row: u32,
    /// Number of judged epochs in which it was on duty; the last 64 are counted.
    pub due: u32,
    /// Number of those epochs in which it voted.
    pub voted: u32,
    pub proposals: Proposals,
    /// Highest source epoch of its votes that were received since the start.
    pub newest_source: Option<Epoch>,
    pub effectiveness_permille: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_the_beacon_apis() {
        let epoch = Epoch::new;
        let never = Epoch::FAR_FUTURE;
        let record = |exit, withdrawable, slashed| Record {
            activation_epoch: epoch(5),
            exit_epoch: exit,
            withdrawable_epoch: withdrawable,
            slashed,
            effective_balance: Gwei::new(0),
        };
        let at = |record: Record, now| ChainState::of(Some(&record), epoch(now)).as_str();
        assert_eq!(at(record(never, never, false), 4), "pending");
        assert_eq!(at(record(never, never, false), 5), "active_ongoing");
        assert_eq!(at(record(epoch(9), epoch(20), false), 8), "active_exiting");
        assert_eq!(at(record(epoch(9), epoch(20), true), 8), "active_slashed");
        assert_eq!(at(record(epoch(9), epoch(20), false), 9), "exited_unslashed");
        assert_eq!(at(record(epoch(9), epoch(20), true), 19), "exited_slashed");
        assert_eq!(at(record(epoch(9), epoch(20), true), 20), "withdrawal_possible");
    }
}
