//! Messages that name a validator which no state so far contains. A later state in the capture may
//! contain it, and then these messages are judged like any other. Without such a state they end as
//! `unknown_validator`.
//!
//! The number of kept messages is bounded. Only an index that a later state could contain is
//! accepted, because anybody can write any number into a message.

use verify::{RawMessage, greatest_index_named};

const MAX_MESSAGES: usize = 16_384;
const MAX_BYTES: usize = 32 << 20;
/// Between two states a registry grows by less than this number, or by less than its own size.
const NEWCOMERS: u64 = 65_536;

/// Holds such messages until a larger registry is known.
#[derive(Default)]
pub(super) struct LateValidators {
    waiting: Vec<RawMessage>,
    n_bytes: usize,
}

impl LateValidators {
    /// Keeps a message for later if it names an unknown validator and there is room. Otherwise
    /// returns it.
    pub(super) fn keep(&mut self, message: RawMessage, n_validators: usize) -> Option<RawMessage> {
        let known = n_validators as u64;
        let later = known.saturating_add(known.max(NEWCOMERS));
        let is_late = greatest_index_named(&message).is_some_and(|index| (known..later).contains(&index));
        let has_room = self.waiting.len() < MAX_MESSAGES && self.n_bytes + message.bytes.len() <= MAX_BYTES;
        if !is_late || !has_room {
            return Some(message);
        }
        self.n_bytes += message.bytes.len();
        self.waiting.push(message);
        None
    }

    /// Returns all messages that were kept, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<RawMessage> {
        self.n_bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}
