//! Messages that wait for their verdict. A ticket is a number that only grows, so the table is a
//! ring: the position of a ticket is its distance from the oldest one.
//!
//! gossipsub keeps a message only for some heartbeats, so a later verdict has no effect. Tickets
//! therefore expire together with their messages. When the table is full, the oldest ticket is
//! dropped. Both cases are counted. The message is then neither forwarded nor counted against its
//! sender, as with `Ignore`.

use libp2p::PeerId;
use libp2p::gossipsub::MessageId;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use verify::Ticket;

/// Greatest number of tickets. This is enough for 13 seconds of mainnet's peak rate (10 000
/// attestations a second), at 150 bytes each.
pub(super) const MAX_PENDING: usize = 131_072;

/// The table of open tickets.
pub(super) struct Tickets {
    /// The number of the first ticket in `pending`.
    first: u64,
    pending: VecDeque<Option<Pending>>,
    n_open: usize,
    lifetime: Duration,
    max: usize,
}

/// A message that waits for its verdict, and the peer that sent it.
pub(super) struct Pending {
    pub message: MessageId,
    pub peer: PeerId,
    /// Whether it is a single vote, of which there are very many.
    pub is_vote: bool,
    issued: Instant,
}

impl Tickets {
    pub fn new(lifetime: Duration, max: usize) -> Self {
        Self { first: 1, pending: VecDeque::new(), n_open: 0, lifetime, max: max.max(1) }
    }

    /// Issues a ticket for a message. Also returns how many older tickets were dropped for it.
    pub fn issue(&mut self, message: MessageId, peer: PeerId, is_vote: bool, now: Instant) -> (Ticket, usize) {
        let mut given_up = 0;
        while self.pending.len() >= self.max {
            given_up += self.drop_first();
        }
        let ticket = Ticket(self.first.saturating_add(self.pending.len() as u64));
        self.pending.push_back(Some(Pending { message, peer, is_vote, issued: now }));
        self.n_open += 1;
        (ticket, given_up)
    }

    /// Removes a ticket and returns its message. Returns `None` if the ticket has expired, was
    /// taken before, or never existed.
    pub fn take(&mut self, ticket: Ticket) -> Option<Pending> {
        let at = usize::try_from(ticket.0.checked_sub(self.first)?).ok()?;
        let taken = self.pending.get_mut(at)?.take();
        self.n_open -= usize::from(taken.is_some());
        while matches!(self.pending.front(), Some(None)) {
            self.drop_first();
        }
        taken
    }

    /// Removes the tickets whose messages gossipsub no longer keeps. Returns how many of them were
    /// still open.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while let Some(first) = self.pending.front() {
            match first {
                Some(pending) if now.duration_since(pending.issued) < self.lifetime => break,
                _ => expired += self.drop_first(),
            }
        }
        expired
    }

    /// Number of tickets that wait for a verdict.
    pub fn n_open(&self) -> usize {
        self.n_open
    }

    /// Removes the oldest ticket. Returns 1 if it was open, otherwise 0.
    fn drop_first(&mut self) -> usize {
        let open = usize::from(matches!(self.pending.pop_front(), Some(Some(_))));
        self.first = self.first.saturating_add(1);
        self.n_open -= open;
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> MessageId {
        MessageId::from(n.to_le_bytes().to_vec())
    }

    #[test]
    fn tickets_are_taken_once_in_any_order() {
        let (mut tickets, peer, now) = (Tickets::new(Duration::from_secs(8), 100), PeerId::random(), Instant::now());
        let issued: Vec<Ticket> = (0..10).map(|n| tickets.issue(id(n), peer, true, now).0).collect();
        for (n, ticket) in issued.iter().enumerate().rev() {
            assert_eq!(tickets.take(*ticket).unwrap().message, id(n as u64));
            assert!(tickets.take(*ticket).is_none());
            assert_eq!(tickets.n_open(), n);
        }
        for foreign in [0, 11, u64::MAX] {
            assert!(tickets.take(Ticket(foreign)).is_none());
        }
        assert!(tickets.pending.is_empty());
        let (next, _) = tickets.issue(id(99), peer, true, now);
        assert!(!issued.contains(&next), "numbers are not used again");
    }

    #[test]
    fn old_and_too_many_tickets_are_given_up_and_counted() {
        let (mut tickets, peer, now) = (Tickets::new(Duration::from_secs(8), 4), PeerId::random(), Instant::now());
        let first = tickets.issue(id(0), peer, true, now).0;
        for n in 1..4 {
            assert_eq!(tickets.issue(id(n), peer, true, now + Duration::from_secs(5)).1, 0);
        }
        assert_eq!(tickets.expire(now + Duration::from_secs(9)), 1);
        assert!(tickets.take(first).is_none());
        assert_eq!(tickets.issue(id(4), peer, true, now).1, 0);
        assert_eq!(tickets.issue(id(5), peer, true, now).1, 1);
        assert_eq!(tickets.n_open(), 4);
        assert_eq!(tickets.expire(now + Duration::from_secs(60)), 4);
        assert_eq!(tickets.n_open(), 0);
    }
}
