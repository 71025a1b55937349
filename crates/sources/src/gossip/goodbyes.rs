//! Goodbyes with a reason that lasts, and for how long the peer is then left alone.
//!
//! A client that has had enough of a peer says so (too many peers, bad score, banned) and counts each return further against
//! it; after some, the address is closed with whoever else is on it. So the pause is minutes, and doubles with each goodbye:
//!
//! ```text
//! goodbye 250, 5 min, goodbye 251, 10 min, closed without a word, 20 min, ... at most 12 h
//! ```
//!
//! A connection that lasts longer than the pause before it starts over, and so does a goodbye of a client that shuts down.

use super::rpc::goodbye;
use serde::Serialize;
use std::time::{Duration, Instant};

/// A peer's goodbye as status pages show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerGoodbye {
    pub code: u64,
    pub reason: &'static str,
    /// How often in a row.
    pub times: u32,
}

/// Goodbyes in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goodbyes {
    code: u64,
    times: u32,
    pause: Duration,
    /// The peer is not dialled before.
    until: Instant,
}

/// A client that still bans closes within so long. What lasted longer and was cut is a line or a restart.
const BANNED_WITHIN: Duration = Duration::from_secs(60);

impl Goodbyes {
    /// After a goodbye with `code`, at the end of a connection that lasted for `lasted`. `pauses`: the first and the greatest.
    pub fn after(earlier: Option<Self>, code: u64, lasted: Duration, pauses: (Duration, Duration), now: Instant) -> Option<Self> {
        if !goodbye::is_lasting(code) {
            return earlier.filter(|_| code != goodbye::CLIENT_SHUTDOWN);
        }
        let times = earlier.filter(|earlier| lasted < earlier.pause).map_or(0, |earlier| earlier.times);
        let pause = super::peers::pause(times, pauses.0, pauses.1);
        Some(Self { code, times: times.saturating_add(1), pause, until: now + pause })
    }

    /// After a connection was closed without a word: so does a client that still bans.
    pub fn after_silence(self, lasted: Duration, pauses: (Duration, Duration), now: Instant) -> Option<Self> {
        if lasted < self.pause.min(BANNED_WITHIN) { Self::after(Some(self), self.code, lasted, pauses, now) } else { None }
    }

    pub fn until(&self) -> Instant {
        self.until
    }

    pub fn shown(&self) -> PeerGoodbye {
        PeerGoodbye { code: self.code, reason: goodbye::text(self.code), times: self.times }
    }
}
