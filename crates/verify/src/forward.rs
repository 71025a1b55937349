//! Checks the conditions under which other clients accept a message, as far as they can be checked
//! with what is known here. A proven message that fails one of them is still full evidence, but it
//! is not forwarded. The source is `p2p-interface.md` of each fork: the [REJECT] conditions, and
//! the time windows of the [IGNORE] conditions.
//!
//! Two more kinds of messages are not forwarded:
//!
//! - Messages about branches that compete with each other. A peer that follows the other branch
//!   lacks the blocks of this one, requests them from us, and lowers our score because we have
//!   none.
//! - A block whose proposer did not have the slot, as far as this is known, and any message that
//!   builds on such a block. Anybody with a key can sign such a block. Every full node refuses it
//!   and lowers the score of the peer that sent it.
//!
//! Whether blocks are valid in other respects is not checked here.

use crate::{Time, resolve};
use chain::{Chain, Contexts, SignedWith};
use consensus::{
    ATTESTATION_SUBNET_COUNT, AttestationData, BeaconBlockHeader, CommitteeIndex, ForkName, MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS,
    Punishable, Root, Seat, Shuffling, SignedAggregate, ValidatorIndex, sha256,
};
use std::sync::Arc;

/// `ATTESTATION_PROPAGATION_SLOT_RANGE`, which applies before Deneb.
const PROPAGATION_SLOTS: u64 = 32;
/// `TARGET_AGGREGATORS_PER_COMMITTEE`.
const TARGET_AGGREGATORS: u64 = 16;

/// The conditions for every vote on gossip.
pub(crate) fn vote(chain: &Chain, data: &AttestationData, now: Time) -> bool {
    let network = chain.network();
    let preset = network.preset();
    let fork = network.spec.fork_name_at(data.target.epoch);
    let early = network.slot_at(now.0.saturating_add(MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS));
    let late = network.slot_at(now.0.saturating_sub(MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS));
    let in_window = data.slot <= early
        && if fork >= ForkName::Deneb {
            data.target.epoch.saturating_add(1) >= late.epoch(preset)
        } else {
            data.slot.saturating_add(PROPAGATION_SLOTS) >= late
        };
    let head_slot = chain.block_slot(&data.beacon_block_root);
    let index_fits = if fork >= ForkName::Gloas {
        // A vote of the block's own slot cannot know yet whether the payload was revealed.
        data.index.as_u64() < 2 && (data.index.as_u64() == 0 || head_slot != Some(data.slot))
    } else {
        fork < ForkName::Electra || data.index.as_u64() == 0
    };
    in_window
        && index_fits
        && data.slot.epoch(preset) == data.target.epoch
        && head_slot.is_some_and(|slot| slot <= data.slot)
        && !chain.is_contested(&data.beacon_block_root)
        && chain.is_branch_in_turn(&data.beacon_block_root, data.target.epoch.start_slot(preset))
        && chain.ancestor_at(&data.beacon_block_root, data.target.epoch.start_slot(preset)) == Some(data.target.root)
}

/// The conditions for a single vote on its subnet. `committee` is the committee index that the vote
/// names. Since Electra it is not part of what is signed.
pub(crate) fn single(
    contexts: &Contexts,
    data: &AttestationData,
    validator: ValidatorIndex,
    committee: CommitteeIndex,
    subnet: Option<u64>,
) -> bool {
    let Some((shuffling, seat)) = certain_seat(contexts, validator) else { return false };
    let offset = data.slot.as_u64() % shuffling.slots_per_epoch();
    let wanted = (shuffling.committees_per_slot().saturating_mul(offset) + seat.committee.as_u64()) % ATTESTATION_SUBNET_COUNT;
    seat.slot == data.slot && seat.committee == committee && subnet == Some(wanted)
}

/// The conditions for an aggregate of one committee that one of the committee's aggregators made.
pub(crate) fn aggregate(contexts: &Contexts, signed: &SignedAggregate) -> bool {
    let attestation = &signed.aggregate;
    let Some((shuffling, seat)) = certain_seat(contexts, signed.aggregator_index) else { return false };
    let Some(committee) = shuffling.committee(seat.slot, seat.committee) else { return false };
    let modulo = (committee.len() as u64 / TARGET_AGGREGATORS).max(1);
    let mut first = [0u8; 8];
    first.copy_from_slice(&sha256(signed.selection_proof.as_slice())[..8]);
    seat.slot == attestation.data.slot && attestation.committees() == [seat.committee] && u64::from_le_bytes(first) % modulo == 0
}

/// The conditions for a block: it is not from the future, its parent is known, and its proposer had
/// the slot. The block is already in the chain's tree.
pub(crate) fn block(chain: &Chain, header: &BeaconBlockHeader, root: &Root, now: Time) -> bool {
    let network = chain.network();
    let early = network.slot_at(now.0.saturating_add(MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS));
    header.slot <= early
        && header.slot > chain.finalized().epoch.start_slot(network.preset())
        && chain.block_slot(&header.parent_root).is_some_and(|parent| parent < header.slot)
        && !chain.is_contested(&header.parent_root)
        && chain.is_branch_in_turn(root, header.slot.epoch(network.preset()).saturating_sub(1).start_slot(network.preset()))
        && chain.registry().record(header.proposer_index).is_some_and(|record| !record.slashed)
        && descends_from_finalized(chain, header)
}

/// Whether the block descends from the finalized block. True if the finalized block is not known.
fn descends_from_finalized(chain: &Chain, header: &BeaconBlockHeader) -> bool {
    let finalized = chain.finalized();
    let slot = finalized.epoch.start_slot(chain.network().preset());
    !chain.is_known_block(&finalized.root) || chain.ancestor_at(&header.parent_root, slot) == Some(finalized.root)
}

/// The condition for a slashing operation: a chain can include it now. That is, at least one of
/// `subjects` can be slashed for two messages that are signed with these versions.
pub(crate) fn slashing(chain: &Chain, mut subjects: impl Iterator<Item = ValidatorIndex>, signed: [SignedWith; 2]) -> bool {
    subjects.any(|subject| chain.punishable(subject, signed) == Punishable::Yes)
}

fn certain_seat(contexts: &Contexts, validator: ValidatorIndex) -> Option<(&Arc<Shuffling>, Seat)> {
    let only = resolve::only(contexts)?;
    only.seat(validator).map(|seat| (only, seat))
}
