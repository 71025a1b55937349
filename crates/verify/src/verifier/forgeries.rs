//! Remembers what was found forged, so that the same forgery costs nothing when it comes again.

use base::BoundedMap;
use consensus::Root;

/// Votes, headers, statements and slashing operations that were found forged, by a hash of
/// everything that the finding depends on.
#[derive(Debug)]
pub(super) struct Forgeries {
    known: BoundedMap<Root, ()>,
    n_repeated: u64,
}

impl Forgeries {
    pub(super) fn new(limit: usize) -> Self {
        Self { known: BoundedMap::new(limit), n_repeated: 0 }
    }

    /// Whether exactly the same message was found forged before. The hash is computed only if any
    /// forgery is remembered.
    pub(super) fn is_known(&mut self, fingerprint: impl FnOnce() -> Root) -> bool {
        let is_known = !self.known.is_empty() && self.known.contains(&fingerprint());
        self.n_repeated += u64::from(is_known);
        is_known
    }

    pub(super) fn remember(&mut self, fingerprint: Root) {
        self.known.insert(fingerprint, ());
    }

    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }

    /// How many forged messages came again.
    pub(super) fn n_repeated(&self) -> u64 {
        self.n_repeated
    }
}
