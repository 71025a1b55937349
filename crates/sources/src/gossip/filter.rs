//! The topics to which this node and its peers may subscribe.
//!
//! gossipsub's default filter counts to 100 and drops a whole RPC above that number, so a peer on
//! all 128 column subnets would seem to be on none. This filter keeps only topics that are read
//! here under a fork digest of this network. So the number of such names bounds what a peer can
//! make this node remember. Other topics of an RPC are skipped without a penalty. The limit on
//! their number is a second bound.

use crate::topic::Topic;
use consensus::{DATA_COLUMN_SIDECAR_SUBNET_COUNT, ForkDigests};
use libp2p::gossipsub::{MaxCountSubscriptionFilter, TopicHash, TopicSubscriptionFilter};
use std::sync::Arc;

/// Topics that are remembered for one peer, and that one RPC may name. There are 210 names under 4
/// digests.
const MAX_TOPICS_PER_PEER: usize = 1024;
/// The subnet numbers of every kind are below this.
const MAX_SUBNET: u64 = DATA_COLUMN_SIDECAR_SUBNET_COUNT;

pub(super) type Filter = MaxCountSubscriptionFilter<KnownTopics>;

pub(super) fn filter(digests: Arc<ForkDigests>) -> Filter {
    MaxCountSubscriptionFilter {
        filter: KnownTopics { digests },
        max_subscribed_topics: MAX_TOPICS_PER_PEER,
        max_subscriptions_per_request: MAX_TOPICS_PER_PEER,
    }
}

/// Accepts the topics that are read here under a fork digest of this network.
pub(super) struct KnownTopics {
    digests: Arc<ForkDigests>,
}

impl TopicSubscriptionFilter for KnownTopics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        Topic::parse(topic.as_str()).is_ok_and(|topic| {
            self.digests.contains(topic.digest) && topic.kind.number().is_none_or(|number| number < MAX_SUBNET)
        })
    }
}
