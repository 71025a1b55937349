//! Reads the finding log: pages of the findings that were recorded after a position, and a wake-up
//! when there are more.
//!
//! A follower does not store its own position. Kill switches and submission each keep it in a
//! checkpoint of their own, because each has different work to finish before it may continue.

use evidence::{Finding, Store, StoreError, Subscription};
use std::sync::Arc;
use tokio::sync::Notify;

/// Findings read at once.
const PAGE: usize = 1024;

/// One reader of the finding log.
pub(crate) struct Follower {
    store: Store,
    recorded: Arc<Notify>,
    _subscription: Subscription,
}

impl Follower {
    pub(crate) fn new(store: Store) -> Self {
        let recorded = Arc::new(Notify::new());
        let notify = recorded.clone();
        // `notify_one` keeps one permit, so a finding that is recorded while the follower is busy
        // is not missed.
        let subscription = store.subscribe(move |_| notify.notify_one());
        Self { store, recorded, _subscription: subscription }
    }

    /// Completes when something was recorded since the last call.
    pub(crate) async fn recorded(&self) {
        self.recorded.notified().await;
    }

    /// Returns the next findings after `position`, with their numbers in the log. The result is
    /// empty at the end of the log.
    pub(crate) fn after(&self, position: u64) -> Result<Vec<(u64, Finding)>, StoreError> {
        self.store.findings_after(position, PAGE)
    }
}
