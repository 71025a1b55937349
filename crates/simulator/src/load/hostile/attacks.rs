//! The attacks. Each is a function that creates the attack's `nth` message.

use super::{Arsenal, Attack, LoadMessage, Moment, Shot};
use crate::containers::{aggregate_and_proof, attester_slashing, proposer_slashing, signed, single_attestation};
use consensus::ForkName::{Electra, Fulu};
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, DomainType, Epoch, MessageKind, Root, SignatureBytes, SignedAggregate, Slot,
    ValidatorIndex,
};

/// All attacks. A home connection can send their rates together without effort.
pub const ATTACKS: &[Attack] = &[
    Attack { name: "proposer slashings of withdrawn keys", per_slot: 600, make: slash_withdrawn_proposers },
    Attack { name: "votes of one key around all its others", per_slot: 300, make: surround_with_falling_targets },
    Attack { name: "a thousand data of one key for one target", per_slot: 400, make: vote_for_a_thousand_heads },
    Attack { name: "forged proposer slashings", per_slot: 120, make: forge_proposer_slashings },
    Attack { name: "forged attester slashings", per_slot: 60, make: forge_attester_slashings },
    Attack { name: "slashings that were punished long ago", per_slot: 24, make: replay_old_slashings },
    Attack { name: "operations under a wrong fork version", per_slot: 60, make: sign_for_another_fork },
    Attack { name: "blocks of withdrawn keys out of turn", per_slot: 64, make: propose_out_of_turn },
    Attack { name: "orphans in future slots", per_slot: 64, make: orphans_of_the_future },
    Attack { name: "indices beyond the registry", per_slot: 120, make: name_nobody },
    Attack { name: "junk", per_slot: 300, make: junk },
    Attack { name: "snappy bombs", per_slot: 60, make: bombs },
    Attack { name: "messages of 10 MiB", per_slot: 2, make: ten_mebibytes },
    Attack { name: "targets that buy a shuffling each", per_slot: 60, make: buy_shufflings },
    Attack { name: "honest votes with another committee", per_slot: 200, make: change_committees },
    Attack { name: "forged twins of offences", per_slot: 60, make: forge_twins },
    Attack { name: "votes of one key each around the last", per_slot: 60, make: nest },
    Attack { name: "votes of withdrawn keys for a rival head", per_slot: 64, make: back_a_rival },
    Attack { name: "honest aggregates under withdrawn aggregators", per_slot: 60, make: wrap_aggregates },
];

/// Length of the longest gossip message in bytes, decompressed.
const MAX_MESSAGE: usize = 10 << 20;
/// Number of votes side by side that a key casts first, so that a later vote surrounds all of them.
const RUNGS: u64 = 64;
/// A number of epochs ago for which no state knows an offence as punishable any more.
const LONG_AGO: u64 = 3000;
/// Number of epochs for votes that surround each other.
const EPOCHS_TO_NEST_IN: u64 = 2000;
/// Number of signers of every eighth forged slashing.
const CROWD: u64 = 2048;

/// Valid proposer slashings of 416 bytes: two headers of a withdrawn key for one slot, each time
/// different ones.
fn slash_withdrawn_proposers(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let by = arsenal.key(nth);
    let side = |n| arsenal.signed(arsenal.header(moment.slot, by, n), by, None);
    let ssz = proposer_slashing(&side(nth << 1), &side(nth << 1 | 1)).to_ssz();
    arsenal.shot(moment, nth, MessageKind::ProposerSlashing, &ssz)
}

/// One key votes (s, s + 1) for many s, and then (0, T) with a falling T. Each of the later votes
/// surrounds all of the first ones, and no two of them have the same target.
fn surround_with_falling_targets(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let data = if nth < RUNGS {
        arsenal.data(Epoch::new(100 + nth), Epoch::new(101 + nth), nth)
    } else {
        arsenal.data(Epoch::new(0), arsenal.epoch(moment).saturating_sub(nth % (LONG_AGO - RUNGS)), nth)
    };
    arsenal.vote(moment, nth, arsenal.key(0), &data)
}

/// One key votes for another head with each message, always for the same target.
fn vote_for_a_thousand_heads(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let epoch = arsenal.epoch(moment);
    arsenal.vote(moment, nth, arsenal.key(1), &arsenal.data(epoch.saturating_sub(1), epoch, nth))
}

/// Two headers in the name of an active validator, signed by another key.
fn forge_proposer_slashings(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let victim = arsenal.victim(nth * 7);
    let side = |n| arsenal.signed(arsenal.header(moment.slot, victim, n), arsenal.key(n), None);
    let ssz = proposer_slashing(&side(nth << 1), &side(nth << 1 | 1)).to_ssz();
    arsenal.shot(moment, nth, MessageKind::ProposerSlashing, &ssz)
}

/// Two votes in the names of active validators, either one or about two thousand of them, signed by
/// another key.
fn forge_attester_slashings(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let epoch = arsenal.epoch(moment);
    let n = if nth.is_multiple_of(8) { CROWD } else { 1 };
    let mut victims: Vec<ValidatorIndex> = (0..n).map(|i| arsenal.victim(nth * 11 + i)).collect();
    victims.sort();
    victims.dedup();
    let side = |salt| {
        let honest = arsenal.side(&[arsenal.key(nth)], arsenal.data(epoch.saturating_sub(1), epoch, salt), None);
        crate::containers::VotesByBits { signers: victims.clone(), ..honest }
    };
    let ssz = attester_slashing(Fulu, &arsenal.load.preset, &side(nth << 1), &side(nth << 1 | 1)).to_ssz();
    arsenal.shot(moment, nth, MessageKind::AttesterSlashing, &ssz)
}

/// Public and valid slashings that were punished months ago. Anybody can copy them from an old
/// block.
fn replay_old_slashings(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let signer = [arsenal.slashed[nth as usize % arsenal.slashed.len()]];
    let epoch = arsenal.epoch(moment).saturating_sub(LONG_AGO + nth);
    let side = |salt| arsenal.side(&signer, arsenal.data(epoch.saturating_sub(1), epoch, salt), None);
    let ssz = attester_slashing(Fulu, &arsenal.load.preset, &side(nth << 1), &side(nth << 1 | 1)).to_ssz();
    arsenal.shot(moment, nth, MessageKind::AttesterSlashing, &ssz)
}

/// Messages that are signed by the keys that they name, but for another fork than that of their
/// epoch. No chain accepts them.
fn sign_for_another_fork(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let version = Some(crate::genesis::fork_version(Electra));
    // An attacker may also own the key of an active validator.
    let by = if nth.is_multiple_of(4) { arsenal.victim(nth) } else { arsenal.key(nth) };
    if nth.is_multiple_of(2) {
        let side = |n| arsenal.signed(arsenal.header(moment.slot, by, n), by, version);
        let ssz = proposer_slashing(&side(nth << 1), &side(nth << 1 | 1)).to_ssz();
        return arsenal.shot(moment, nth, MessageKind::ProposerSlashing, &ssz);
    }
    let epoch = arsenal.epoch(moment);
    let side = |salt| arsenal.side(&[by], arsenal.data(epoch.saturating_sub(1), epoch, salt), version);
    let ssz = attester_slashing(Fulu, &arsenal.load.preset, &side(nth << 1), &side(nth << 1 | 1)).to_ssz();
    arsenal.shot(moment, nth, MessageKind::AttesterSlashing, &ssz)
}

/// Pairs of blocks for one slot, on the parent of the newest block, by keys that were not the
/// proposers of that slot.
fn propose_out_of_turn(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let (_, ssz) = arsenal.block(moment.slot, arsenal.key(nth / 2), arsenal.parent(), nth);
    arsenal.shot(moment, nth, MessageKind::Block, &ssz)
}

/// Two keys create blocks for the next slots on parents that nobody has, so that a watcher requests
/// these parents.
fn orphans_of_the_future(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let parent = arsenal.any_root("hostile orphan's parent", &[nth]);
    let (_, ssz) = arsenal.block(moment.slot.saturating_add(1 + nth % 64), arsenal.key(nth % 2), parent, nth);
    arsenal.shot(moment, nth, MessageKind::Block, &ssz)
}

/// Votes and operations of validators that do not exist, with indices slightly or far beyond the
/// registry.
fn name_nobody(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let beyond = if nth.is_multiple_of(2) { arsenal.load.plan.n_registered as u64 + nth } else { (1 << 40) + nth };
    let nobody = ValidatorIndex::new(beyond);
    let epoch = arsenal.epoch(moment);
    let data = |salt| arsenal.data(epoch.saturating_sub(1), epoch, salt);
    let point = |salt| arsenal.side(&[arsenal.key(nth)], data(salt), None);
    match nth % 3 {
        0 => {
            let ssz = single_attestation(CommitteeIndex::new(0), nobody, &data(nth), &point(nth).signature).to_ssz();
            arsenal.shot(moment, nth, MessageKind::Attestation { subnet: nth % 64 }, &ssz)
        }
        1 => {
            let side = |salt| crate::containers::VotesByBits { signers: vec![nobody], ..point(salt) };
            let ssz = attester_slashing(Fulu, &arsenal.load.preset, &side(nth << 1), &side(nth << 1 | 1)).to_ssz();
            arsenal.shot(moment, nth, MessageKind::AttesterSlashing, &ssz)
        }
        _ => {
            let side = |n| arsenal.signed(arsenal.header(moment.slot, nobody, n), arsenal.key(n), None);
            let ssz = proposer_slashing(&side(nth << 1), &side(nth << 1 | 1)).to_ssz();
            arsenal.shot(moment, nth, MessageKind::ProposerSlashing, &ssz)
        }
    }
}

const TOPICS: [MessageKind; 6] = [
    MessageKind::Block,
    MessageKind::Aggregate,
    MessageKind::Attestation { subnet: 5 },
    MessageKind::AttesterSlashing,
    MessageKind::ProposerSlashing,
    MessageKind::DataColumnSidecar { index: 3 },
];

/// Random bytes on each topic, three in four of them as valid snappy.
fn junk(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let bytes = arsenal.any_bytes(64 + nth as usize % 700, "hostile junk", nth);
    let topic = TOPICS[nth as usize % TOPICS.len()];
    match nth % 4 {
        0 => arsenal.payload(moment, nth, topic, bytes),
        _ => arsenal.shot(moment, nth, topic, &bytes),
    }
}

/// A few bytes that claim to be gigabytes, and half a mebibyte that decompresses to ten.
fn bombs(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let topic = TOPICS[nth as usize % TOPICS.len()];
    if nth.is_multiple_of(20) {
        let mut zeros = vec![0; MAX_MESSAGE];
        zeros[..8].copy_from_slice(&nth.to_le_bytes());
        return arsenal.shot(moment, nth, MessageKind::Block, &zeros);
    }
    // 4 GiB less one byte, as snappy's varint.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    let rest = arsenal.any_bytes(300, "hostile bomb", nth);
    arsenal.payload(moment, nth, topic, claim.into_iter().chain(rest).collect())
}

/// A message as long as a block may be, without content.
fn ten_mebibytes(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    // Decompressed it must be within the limit, and random bytes do not compress.
    let mut bytes = arsenal.any_bytes(1 << 20, "hostile heap", nth).repeat(10);
    bytes.truncate(MAX_MESSAGE);
    let mut block = vec![100, 0, 0, 0];
    block.extend_from_slice(&bytes[..MAX_MESSAGE - 4]);
    arsenal.shot(moment, nth, MessageKind::Block, &block)
}

/// Aggregates for two and three epochs ahead, whose committees depend on a block that the attackers
/// have just created. Each such block can cost the watcher new shufflings.
fn buy_shufflings(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let preset = &arsenal.load.preset;
    // Groups of three: the block, and then two aggregates for the epochs whose committees only this
    // block decides.
    let (root, block) = arsenal.block(moment.slot, arsenal.key(40 + nth / 3 % 16), arsenal.parent(), (1 << 40) | (nth / 3));
    if nth.is_multiple_of(3) {
        return arsenal.shot(moment, nth, MessageKind::Block, &block);
    }
    let epoch = arsenal.epoch(moment).saturating_add(1 + nth % 3);
    let data = AttestationData {
        slot: epoch.start_slot(preset).saturating_add(nth % preset.slots_per_epoch),
        index: CommitteeIndex::new(0),
        beacon_block_root: root,
        source: Checkpoint { epoch: epoch.saturating_sub(1), root },
        target: Checkpoint { epoch, root },
    };
    arsenal.shot(moment, nth, MessageKind::Aggregate, &aggregate(arsenal, nth, data, moment.slot))
}

/// An aggregate by a withdrawn aggregator, with the bits of all members of a committee set.
fn aggregate(arsenal: &Arsenal<'_>, nth: u64, data: AttestationData, slot: Slot) -> Vec<u8> {
    let by = arsenal.key(nth);
    let size = arsenal.load.shuffling.committee(slot, CommitteeIndex::new(0)).map_or(1, <[u32]>::len);
    let votes = crate::containers::VotesByBits {
        committees: vec![CommitteeIndex::new(0)],
        bits: vec![true; size],
        signature: arsenal.side(&[by], data, None).signature,
        ..arsenal.no_votes(data)
    };
    gathered(arsenal, nth, &votes)
}

/// Votes in an aggregate of a withdrawn aggregator, whose own signatures are valid.
fn gathered(arsenal: &Arsenal<'_>, nth: u64, votes: &crate::containers::VotesByBits) -> Vec<u8> {
    let (by, epoch) = (arsenal.key(nth), votes.data.target.epoch);
    let sign = |root: Root, kind| arsenal.load.keys.sign(by, arsenal.root_to_sign(root, kind, epoch));
    let mut slot_root = [0; 32];
    slot_root[..8].copy_from_slice(&votes.data.slot.as_u64().to_le_bytes());
    let proof: SignatureBytes = sign(Root::from(slot_root), DomainType::SelectionProof);
    let attestation = crate::containers::attestation(Fulu, &arsenal.load.preset, votes);
    let message = aggregate_and_proof(by, attestation, &proof);
    let over_it = sign(message.root(), DomainType::AggregateAndProof);
    signed(message, &over_it).to_ssz()
}

/// An honest vote with another committee index, which no signature covers. It arrives just before
/// the original.
fn change_committees(_: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let votes: Vec<&LoadMessage> = moment.honest.iter().filter(|message| is_vote(message)).collect();
    before(votes[nth as usize * 31 % votes.len()], |ssz| {
        // `committee_index` is the first field.
        ssz[0] ^= 1;
    })
}

/// The vote that completes an offence (or any vote, in slots without an offence), with a signature
/// by another key. It arrives just before the original. A watcher that identifies messages by
/// content alone would then treat the original as known.
fn forge_twins(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let mut halves: Vec<&LoadMessage> = moment.honest.iter().filter(|message| message.crime.is_some()).collect();
    if halves.is_empty() {
        halves = moment.honest.iter().filter(|message| is_vote(message)).collect();
    }
    let half = halves[nth as usize % halves.len()];
    before(half, |ssz| {
        // The signature is the last field.
        let epoch = arsenal.epoch(moment);
        let signature = arsenal.side(&[arsenal.key(nth)], arsenal.data(epoch, epoch, nth), None).signature;
        let at = ssz.len() - signature.as_slice().len();
        ssz[at..].copy_from_slice(signature.as_slice());
    })
}

/// Whether the message is a vote. A load may also have junk on the topics of votes.
fn is_vote(message: &LoadMessage) -> bool {
    message.topic.contains("/beacon_attestation_") && snap::raw::Decoder::new().decompress_vec(&message.payload).is_ok()
}

/// Changes an honest message and sends it before the original.
fn before(honest: &LoadMessage, change: impl FnOnce(&mut Vec<u8>)) -> Shot {
    const AHEAD: u64 = 20_000_000;
    let mut ssz = unpacked(honest);
    change(&mut ssz);
    Shot { at_ns: honest.at_ns.saturating_sub(AHEAD), topic: honest.topic.clone(), payload: super::packed(&ssz) }
}

fn unpacked(honest: &LoadMessage) -> Vec<u8> {
    snap::raw::Decoder::new().decompress_vec(&honest.payload).expect("packed by ourselves")
}

/// One key votes (n, T - n). Each vote is surrounded by all votes before it.
fn nest(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let n = nth % (EPOCHS_TO_NEST_IN / 2 - 1);
    let target = arsenal.epoch(moment).saturating_sub(1);
    let data = arsenal.data(target.saturating_sub(EPOCHS_TO_NEST_IN - n), target.saturating_sub(n), nth);
    arsenal.vote(moment, nth, arsenal.key(2), &data)
}

/// All withdrawn keys vote for a block of one of them, in the slot in which the honest votes are
/// being sent.
fn back_a_rival(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let (root, block) = arsenal.block(moment.slot, arsenal.key(60), arsenal.parent(), 2 << 40);
    if nth.is_multiple_of(64) {
        return Shot { at_ns: moment.honest[0].at_ns, ..arsenal.shot(moment, nth, MessageKind::Block, &block) };
    }
    let data = AttestationData { beacon_block_root: root, ..arsenal.load.data(moment.slot, 0) };
    arsenal.vote(moment, nth, arsenal.key(nth), &data)
}

/// Honest votes in an aggregate by a validator that was not chosen as aggregator. No full node
/// accepts that.
fn wrap_aggregates(arsenal: &Arsenal<'_>, moment: &Moment<'_>, nth: u64) -> Shot {
    let preset = &arsenal.load.preset;
    let is_aggregate = |message: &&LoadMessage| message.topic.contains("/beacon_aggregate_and_proof/");
    // A load may have junk of its own.
    let read = |message: &'_ LoadMessage| -> Option<(u64, String, _)> {
        let ssz = snap::raw::Decoder::new().decompress_vec(&message.payload).ok()?;
        Some((message.at_ns, message.topic.clone(), SignedAggregate::from_ssz(Fulu, preset, &ssz).ok()?.aggregate))
    };
    let n_messages = moment.honest.iter().filter(is_aggregate).count();
    let from = nth as usize * 7 % n_messages;
    let honest = moment.honest.iter().filter(is_aggregate).cycle().skip(from).take(n_messages);
    let (at_ns, topic, aggregate) = honest.filter_map(read).next().expect("aggregates among the honest messages");
    let votes = crate::containers::VotesByBits {
        committees: aggregate.committees(),
        bits: aggregate.aggregation_bits.iter().collect(),
        signature: aggregate.signature,
        ..arsenal.no_votes(aggregate.data)
    };
    let ssz = gathered(arsenal, nth, &votes);
    Shot { at_ns, topic, payload: super::packed(&ssz) }
}
