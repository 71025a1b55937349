//! How often a peer may ask. More is answered with an error, which costs nothing but its bytes.

use super::Protocol;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);

/// Requests of one peer in the current ten seconds, per protocol.
#[derive(Debug)]
pub(in crate::gossip) struct Quotas {
    since: Instant,
    used: [u32; 6],
}

impl Quotas {
    pub fn new(now: Instant) -> Self {
        Self { since: now, used: [0; 6] }
    }

    /// Whether one more is within the quota.
    pub fn allow(&mut self, protocol: Protocol, now: Instant) -> bool {
        if now.duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let (slot, limit) = match protocol {
            Protocol::StatusV1 | Protocol::StatusV2 => (0, 10),
            Protocol::Ping => (1, 10),
            Protocol::MetadataV1 | Protocol::MetadataV2 | Protocol::MetadataV3 => (2, 10),
            Protocol::Goodbye => (3, 2),
            Protocol::BlocksByRangeV1 | Protocol::BlocksByRangeV2 => (4, 20),
            Protocol::BlocksByRootV1 | Protocol::BlocksByRootV2 => (5, 50),
        };
        self.used[slot] = self.used[slot].saturating_add(1);
        self.used[slot] <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_per_protocol_and_ten_seconds() {
        let now = Instant::now();
        let mut quotas = Quotas::new(now);
        assert_eq!((0..30).filter(|_| quotas.allow(Protocol::Ping, now)).count(), 10);
        assert!(quotas.allow(Protocol::StatusV2, now));
        assert!(!quotas.allow(Protocol::Ping, now + Duration::from_secs(9)));
        assert!(quotas.allow(Protocol::Ping, now + Duration::from_secs(10)));
    }
}
