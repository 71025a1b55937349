//! Goodbyes with a lasting reason, and how long the peer is not dialled after one.
//!
//! A client that rejects a peer sends it a goodbye with a reason: too many peers, bad score,
//! banned. Each attempt to come back costs further points at that client. After some attempts the
//! client bans the address, together with all other nodes on it. So the pause is several minutes,
//! and it doubles with each goodbye:
//!
//! ```text
//! goodbye 250, 5 min, goodbye 251, 10 min, closed without a goodbye, 20 min, ... at most 12 h
//! ```
//!
//! The pauses start again from the first one after a connection that lasts longer than the last
//! pause, and after the goodbye of a client that shuts down.

use super::rpc::goodbye;
use base::Backoff;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The last goodbye of a peer, as status pages show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerGoodbye {
    pub code: u64,
    pub reason: &'static str,
    /// Number of goodbyes in succession.
    pub times: u32,
}

/// The goodbyes that a peer has sent in succession.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goodbyes {
    code: u64,
    times: u32,
    pause: Duration,
    /// The peer is not dialled before this time.
    until: Instant,
}

/// A client that still bans a peer closes the connection within this time. A connection that lasted
/// longer was lost because of the network or a restart.
const BANNED_WITHIN: Duration = Duration::from_secs(60);

impl Goodbyes {
    /// The state after a goodbye with `code`, at the end of a connection that lasted for `lasted`.
    pub fn after(earlier: Option<Self>, code: u64, lasted: Duration, pauses: Backoff, now: Instant) -> Option<Self> {
        if !goodbye::is_lasting(code) {
            return earlier.filter(|_| code != goodbye::CLIENT_SHUTDOWN);
        }
        let times = earlier.filter(|earlier| lasted < earlier.pause).map_or(0, |earlier| earlier.times);
        let times = times.saturating_add(1);
        let pause = pauses.pause(times);
        Some(Self { code, times, pause, until: now + pause })
    }

    /// The state after a connection was closed without a goodbye, which is what a client does that
    /// still bans us.
    pub fn after_silence(self, lasted: Duration, pauses: Backoff, now: Instant) -> Option<Self> {
        if lasted < self.pause.min(BANNED_WITHIN) { Self::after(Some(self), self.code, lasted, pauses, now) } else { None }
    }

    /// The time before which the peer is not dialled.
    pub fn until(&self) -> Instant {
        self.until
    }

    pub fn shown(&self) -> PeerGoodbye {
        PeerGoodbye { code: self.code, reason: goodbye::text(self.code), times: self.times }
    }
}
