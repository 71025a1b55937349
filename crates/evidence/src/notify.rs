//! Calls listeners when there is something new, without knowing their runtime.

use std::sync::{Arc, Mutex, PoisonError, Weak};

type Callback = Arc<dyn Fn(u64) + Send + Sync>;

/// The registered callbacks. There is one entry per part of the program (API, dispatcher), not one
/// per client.
#[derive(Default)]
pub(crate) struct Listeners {
    callbacks: Mutex<Vec<(u64, Callback)>>,
}

/// Keeps a callback registered until it is dropped.
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    key: u64,
    listeners: Weak<Listeners>,
}

impl Listeners {
    pub(crate) fn add(self: &Arc<Self>, callback: Callback) -> Subscription {
        let mut callbacks = self.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = callbacks.last().map_or(0, |(last, _)| last + 1);
        callbacks.push((key, callback));
        Subscription { key, listeners: Arc::downgrade(self) }
    }

    /// Calls all callbacks without holding the lock, so that a callback may subscribe or
    /// unsubscribe.
    pub(crate) fn notify(&self, last_seq: u64) {
        let callbacks: Vec<Callback> =
            self.callbacks.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, callback)| callback.clone()).collect();
        for callback in callbacks {
            callback(last_seq);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(listeners) = self.listeners.upgrade() {
            listeners.callbacks.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _)| *key != self.key);
        }
    }
}
