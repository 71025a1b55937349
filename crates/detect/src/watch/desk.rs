//! What the detector of watched keys shares with the rest of the program: it reads who is watched, it leaves what it knows of
//! them. Both are snapshots, made whole and then only read.
//!
//! **Why two locks.** The page reads the report on its own threads while the engine's thread goes on, and the engine tells a detector that it
//! owns as a trait object who is watched. A channel that keeps the last value would do, but it belongs to an async runtime, which this
//! crate must not know. A lock here is held for as long as it takes to copy a pointer, a few times a slot; nothing is ever done under it.

use super::{KeyStatus, Labels};
use consensus::Slot;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of all watched keys at the end of a slot, or when other keys began to be watched.
#[derive(Clone, Debug, Default)]
pub struct WatchReport {
    /// The slot that ended last.
    pub slot: Slot,
    pub labels: Arc<Labels>,
    /// Ascending by validator; exactly those that `labels` watches.
    pub keys: Vec<KeyStatus>,
}

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedWatchState {
    labels: Arc<Mutex<Arc<Labels>>>,
    report: Arc<Mutex<Arc<WatchReport>>>,
}

impl SharedWatchState {
    /// Who is watched from now on.
    pub fn set_labels(&self, labels: Arc<Labels>) {
        *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
    }

    pub fn labels(&self) -> Arc<Labels> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, report: WatchReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    pub fn report(&self) -> Arc<WatchReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
