//! Which topics may be subscribed to, by us and by peers.
//!
//! gossipsub's own default counts to 100 and drops a whole RPC above it, so that a peer on all 128 column subnets would be
//! on none. Here only topics that can be read under a digest of this network are kept, so what peers can make us remember
//! is bounded by the names there are; the rest of an RPC is not held against it. The count on top is a second belt.

use crate::topic::{DigestTable, Topic};
use libp2p::gossipsub::{MaxCountSubscriptionFilter, TopicHash, TopicSubscriptionFilter};
use std::sync::Arc;

/// Topics remembered of one peer, and named in one RPC: 210 names under 4 digests.
const MAX_TOPICS_PER_PEER: usize = 1024;
/// No subnet of any network has a number this high.
const MAX_SUBNET: u64 = 128;

pub(super) type Filter = MaxCountSubscriptionFilter<KnownTopics>;

pub(super) fn filter(digests: Arc<DigestTable>) -> Filter {
    MaxCountSubscriptionFilter {
        filter: KnownTopics { digests },
        max_subscribed_topics: MAX_TOPICS_PER_PEER,
        max_subscriptions_per_request: MAX_TOPICS_PER_PEER,
    }
}

/// Lets through what can be read under a digest of this network.
pub(super) struct KnownTopics {
    digests: Arc<DigestTable>,
}

impl TopicSubscriptionFilter for KnownTopics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        Topic::parse(topic.as_str())
            .is_ok_and(|topic| self.digests.fork(topic.digest).is_some() && topic.name.subnet() < MAX_SUBNET)
    }
}
