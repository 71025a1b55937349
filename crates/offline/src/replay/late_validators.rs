//! Messages that name a validator which no state so far contains. A later state in the capture may
//! contain it, and then these messages are judged like any other. Without such a state they end as
//! `unknown_validator`.
//!
//! A block is judged at once, too: the chain may be able to go on from it ([`COPY`]).
//!
//! The number of kept messages is bounded. Only an index that a later state could contain is
//! accepted, because anybody can write any number into a message.

use verify::{MessageKind, RawMessage, Ticket, greatest_index_named};

const MAX_MESSAGES: usize = 16_384;
const MAX_BYTES: usize = 32 << 20;
/// The ticket of a copy of a kept block. Its outcome is not counted, because the kept one's is.
pub(super) const COPY: Ticket = Ticket(u64::MAX);
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
    /// returns it. A copy of a kept block is returned.
    pub(super) fn keep(&mut self, message: RawMessage, n_validators: usize) -> Option<RawMessage> {
        let known = n_validators as u64;
        let later = known.saturating_add(known.max(NEWCOMERS));
        let is_late = greatest_index_named(&message).is_some_and(|index| (known..later).contains(&index));
        let has_room = self.waiting.len() < MAX_MESSAGES && self.n_bytes + message.bytes.len() <= MAX_BYTES;
        if !is_late || !has_room {
            return Some(message);
        }
        self.n_bytes += message.bytes.len();
        let copy = (message.kind == MessageKind::Block).then(|| message.clone().with_ticket(COPY));
        self.waiting.push(message);
        copy
    }

    /// Returns all messages that were kept, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<RawMessage> {
        self.n_bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}
