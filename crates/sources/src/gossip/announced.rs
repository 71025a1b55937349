//! Which attestation subnets a peer is subscribed to, or was a moment ago.
//!
//! A peer forwards messages only on topics that it is subscribed to. What it sends on other topics
//! it has published itself. A message that waits in the peer's queue can be sent after the end of
//! the subscription, and the peer still answers requests for it from its cache. So a subnet counts
//! as announced for some time longer. A new peer counts as subscribed to all subnets for as long,
//! until its subscriptions have surely come.

use crate::topic::Topic;
use consensus::{ForkDigest, MessageKind};
use std::collections::BTreeMap;

/// The subnets of one peer. Bit n of a number stands for subnet n.
#[derive(Debug)]
pub(super) struct AnnouncedSubnets {
    /// Subscribed to now, by fork digest. The subscription filter admits only digests of our
    /// network, so there are few.
    now: BTreeMap<ForkDigest, u64>,
    /// Subscribed to at some time of the running period, and of the one before.
    lately: [u64; 2],
}

impl Default for AnnouncedSubnets {
    fn default() -> Self {
        Self { now: BTreeMap::new(), lately: [u64::MAX; 2] }
    }
}

impl AnnouncedSubnets {
    /// Records a subscription of the peer, or its end.
    pub fn set(&mut self, topic: &Topic, subscribed: bool) {
        let Some(bit) = bit(topic.kind) else { return };
        if subscribed {
            *self.now.entry(topic.digest).or_default() |= bit;
            self.lately[0] |= bit;
        } else if let Some(bits) = self.now.get_mut(&topic.digest) {
            *bits &= !bit;
            if *bits == 0 {
                self.now.remove(&topic.digest);
            }
        }
    }

    /// Begins a new period. A subscription that has ended counts for one period at least, and for
    /// two at most.
    pub fn next_period(&mut self) {
        self.lately = [self.now.values().fold(0, |all, bits| all | bits), self.lately[0]];
    }

    /// Whether the peer may have forwarded a message of this kind. `None` for kinds of which that
    /// is not followed.
    pub fn contains(&self, kind: MessageKind) -> Option<bool> {
        let bit = bit(kind)?;
        Some((self.lately[0] | self.lately[1]) & bit != 0)
    }
}

fn bit(kind: MessageKind) -> Option<u64> {
    let MessageKind::Attestation { subnet } = kind else { return None };
    1u64.checked_shl(u32::try_from(subnet).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(digest: u8, subnet: u64) -> Topic {
        Topic { digest: ForkDigest([digest; 4]), kind: MessageKind::Attestation { subnet } }
    }

    #[test]
    fn a_new_peer_may_be_subscribed_to_everything_for_a_while() {
        let mut announced = AnnouncedSubnets::default();
        let contains = |announced: &AnnouncedSubnets, nth| announced.contains(subnet(0, nth).kind).unwrap();
        announced.set(&subnet(1, 3), true);
        announced.next_period();
        assert!((0..64).all(|nth| contains(&announced, nth)), "its other subscriptions may be under way");
        announced.next_period();
        assert!((0..64).all(|nth| contains(&announced, nth) == (nth == 3)));
        assert_eq!(announced.contains(MessageKind::Block), None);
        assert_eq!(announced.contains(MessageKind::Attestation { subnet: 64 }), None, "no such subnet");
    }

    #[test]
    fn a_subscription_counts_for_a_while_after_its_end() {
        let mut announced = AnnouncedSubnets::default();
        announced.next_period();
        announced.next_period();
        let contains = |announced: &AnnouncedSubnets| announced.contains(subnet(0, 7).kind).unwrap();
        assert!(!contains(&announced));
        announced.set(&subnet(1, 7), true);
        announced.set(&subnet(1, 7), false);
        assert!(contains(&announced), "however short it was");
        announced.next_period();
        assert!(contains(&announced));
        announced.next_period();
        assert!(!contains(&announced));
        // At a fork it joins the new topic and leaves the old one.
        announced.set(&subnet(1, 7), true);
        announced.set(&subnet(2, 7), true);
        announced.set(&subnet(1, 7), false);
        (0..5).for_each(|_| announced.next_period());
        assert!(contains(&announced));
        announced.set(&subnet(1, 7), false);
        announced.set(&subnet(2, 7), false);
        announced.set(&subnet(3, 7), false);
        (0..2).for_each(|_| announced.next_period());
        assert!(!contains(&announced));
    }
}
