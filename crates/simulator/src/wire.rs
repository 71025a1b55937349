//! The topic of a message, and the root that its signature covers. Scenarios and loads share this
//! code.

use consensus::{ATTESTATION_SUBNET_COUNT, CommitteeIndex, DomainType, Epoch, MessageKind, Network, Root, Slot, signing_root};
use sources::topic::Topic;

/// `compute_subnet_for_attestation`.
pub(crate) fn subnet(network: &Network, committees_per_slot: u64, slot: Slot, committee: CommitteeIndex) -> MessageKind {
    let since_epoch = slot.as_u64() % network.preset().slots_per_epoch;
    MessageKind::Attestation { subnet: (committees_per_slot * since_epoch + committee.as_u64()) % ATTESTATION_SUBNET_COUNT }
}

/// A topic with the fork digest of `slot`.
pub(crate) fn topic(network: &Network, slot: Slot, kind: MessageKind) -> Topic {
    Topic { digest: network.fork_digest_at(slot.epoch(network.preset())), kind }
}

/// The root that is signed for `root` in `epoch`.
pub(crate) fn root_to_sign(network: &Network, root: Root, kind: DomainType, epoch: Epoch) -> Root {
    signing_root(root, network.domain(kind, epoch))
}
