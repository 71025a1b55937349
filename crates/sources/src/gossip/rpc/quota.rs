//! Limits on how often a peer may send requests. A request above the limit is answered with an
//! error, which costs only its bytes.

use super::{DataProtocol, Protocol};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);

/// Number of quotas for status, ping, metadata and goodbye, which come before those for data.
const N_OF_OURS: usize = 4;
const N_QUOTAS: usize = N_OF_OURS + DataProtocol::ALL.len();

/// The requests of one peer in the current window of ten seconds, for each protocol.
#[derive(Debug)]
pub(in crate::gossip) struct Quotas {
    since: Instant,
    used: [u32; N_QUOTAS],
}

impl Quotas {
    pub fn new(now: Instant) -> Self {
        Self { since: now, used: [0; N_QUOTAS] }
    }

    /// Counts one more request. Returns whether it is within the quota.
    pub fn allow(&mut self, protocol: Protocol, now: Instant) -> bool {
        if now.duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let (slot, limit) = match protocol {
            Protocol::StatusV1 | Protocol::StatusV2 => (0, 10),
            Protocol::Ping => (1, 10),
            Protocol::MetadataV1 | Protocol::MetadataV2 | Protocol::MetadataV3 => (2, 10),
            Protocol::Goodbye => (3, 2),
            Protocol::Data(data) => (N_OF_OURS + data as usize, 50),
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
        for data in DataProtocol::ALL {
            assert_eq!((0..99).filter(|_| quotas.allow(Protocol::Data(data), now)).count(), 50, "{data:?}");
        }
    }
}
