//! What the detector of watched keys shares with the rest of the program: it reads which keys are
//! watched, and it publishes what it knows about them. Both are snapshots, which are made as a
//! whole and then only read.
//!
//! **Why two locks.** The page reads the report on its own threads while the engine thread runs.
//! The engine owns the detector as a trait object, and still must tell it which keys are watched. A
//! channel that keeps the last value would also work, but it belongs to an async runtime, which
//! this crate must not depend on. Each lock is held only while a pointer is copied, a few times per
//! slot. Nothing else is done under it.

use super::{KeyStatus, Labels};
use consensus::Slot;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of all watched keys at the end of a slot, or when the set of watched keys changed.
#[derive(Clone, Debug, Default)]
pub struct WatchReport {
    /// The slot that ended last.
    pub slot: Slot,
    pub labels: Arc<Labels>,
    /// Ascending by validator; exactly the validators that `labels` watches.
    pub keys: Vec<KeyStatus>,
}

/// The shared place for the labels and the report. All clones share one content.
#[derive(Clone, Debug, Default)]
pub struct SharedWatchState {
    labels: Arc<Mutex<Arc<Labels>>>,
    report: Arc<Mutex<Arc<WatchReport>>>,
}

impl SharedWatchState {
    /// Replaces the labels, and so the set of watched keys.
    pub fn set_labels(&self, labels: Arc<Labels>) {
        *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
    }

    /// The current labels.
    pub fn labels(&self) -> Arc<Labels> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, report: WatchReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// The latest report of the detector.
    pub fn report(&self) -> Arc<WatchReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
