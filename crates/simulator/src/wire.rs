//! The topic of a message, and the root that its signature covers. Scenarios and loads share this
//! code.

use consensus::{CommitteeIndex, DomainType, Epoch, Network, Root, Slot, signing_root};
use sources::topic::{Topic, TopicName};

/// The protocol's `ATTESTATION_SUBNET_COUNT`.
const SUBNETS: u64 = 64;

/// `compute_subnet_for_attestation`.
pub(crate) fn subnet(network: &Network, committees_per_slot: u64, slot: Slot, committee: CommitteeIndex) -> TopicName {
    let since_epoch = slot.as_u64() % network.preset().slots_per_epoch;
    TopicName::Attestation((committees_per_slot * since_epoch + committee.as_u64()) % SUBNETS)
}

/// A topic with the fork digest of `slot`.
pub(crate) fn topic(network: &Network, slot: Slot, name: TopicName) -> Topic {
    Topic { digest: network.fork_digest_at(slot.epoch(network.preset())), name }
}

/// The root that is signed for `root` in `epoch`.
pub(crate) fn root_to_sign(network: &Network, root: Root, kind: DomainType, epoch: Epoch) -> Root {
    signing_root(root, network.domain(kind, epoch))
}
