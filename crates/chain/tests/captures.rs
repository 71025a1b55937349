//! Committees and proposers of captures. Those computed from a genesis state and the randao reveals
//! of blocks must be those that the validators of the executable specification used.
#![allow(clippy::unwrap_used)]

mod common;

use chain::{Chain, Contexts, Extension};
use common::{chain_of, facts, small_capture};
use consensus::{Attestation, AttestationData, Checkpoint, Epoch, Root, SignedAggregate, ValidatorIndex};
use test_support::capture::Capture;

/// Adds all blocks, then looks up the committee position of each single vote. Returns the number of
/// votes that agree and the number of all votes.
fn seats(capture: &Capture) -> (usize, usize) {
    let mut chain = with_blocks(capture);
    let votes = capture.singles();
    let mut agree = 0;
    for vote in &votes {
        agree += usize::from(is_seated(&mut chain, vote.attester_index, vote.committee_index, &vote.data));
    }
    (agree, votes.len())
}

fn with_blocks(capture: &Capture) -> Chain {
    let mut chain = chain_of(capture);
    let network = chain.network().clone();
    for block in capture.blocks(&network) {
        let result = chain.extend(&facts(&block));
        assert!(!matches!(result, Extension::Refused(_) | Extension::TooOld), "{result:?}");
    }
    chain
}

fn is_seated(chain: &mut Chain, who: ValidatorIndex, committee: consensus::CommitteeIndex, data: &AttestationData) -> bool {
    let shufflings = match chain.contexts(data) {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings,
        Contexts::Unknown => return false,
    };
    shufflings
        .iter()
        .any(|shuffling| shuffling.seat(who).is_some_and(|seat| seat.slot == data.slot && seat.committee == committee))
}

#[test]
fn the_committed_captures_votes_sit_where_we_say() {
    let (agree, all) = seats(&small_capture());
    assert!(all > 100 && agree * 100 >= all * 90, "{agree} of {all}");
}

#[test]
fn votes_of_electra_and_later_sit_where_we_say() {
    let names = ["electra_6", "electra_7_wave", "fulu_4", "fulu_43_inblock", "fulu_52_ops", "gloas_12", "fulu_14_mainnetpreset"];
    for capture in Capture::named_any_of(&names) {
        let (name, (agree, all)) = (&capture.name, seats(&capture));
        eprintln!("{name}: {agree} of {all} votes sit where their committee index says");
        assert!(agree * 100 >= all * 90, "{name}: {agree} of {all}");
    }
}

/// Before Electra a vote does not name its validator, so this check is weaker: the number of bits
/// must be the size of the committee.
#[test]
fn bits_of_earlier_votes_fit_their_committees() {
    for capture in Capture::named_any_of(&["phase0_2", "altair_8", "bellatrix_10", "deneb_3"]) {
        let name = &capture.name;
        let mut chain = with_blocks(&capture);
        let network = chain.network().clone();
        let fork = capture.fork();
        let (mut agree, mut all) = (0, 0);
        for bytes in capture.named("beacon_attestation_") {
            let vote = Attestation::from_ssz(fork, network.preset(), &bytes).unwrap();
            all += 1;
            agree += usize::from(fits(&mut chain, &vote));
        }
        for bytes in capture.named("beacon_aggregate_and_proof") {
            let aggregate = SignedAggregate::from_ssz(fork, network.preset(), &bytes).unwrap();
            all += 1;
            agree += usize::from(fits(&mut chain, &aggregate.aggregate));
        }
        eprintln!("{name}: {agree} of {all} fit");
        assert!(agree * 100 >= all * 95, "{name}: {agree} of {all}");
    }
}

fn fits(chain: &mut Chain, vote: &Attestation) -> bool {
    match chain.contexts(&vote.data) {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings.iter().any(|shuffling| {
            shuffling
                .committee(vote.data.slot, vote.data.index)
                .is_some_and(|committee| committee.len() == vote.aggregation_bits.len())
        }),
        Contexts::Unknown => false,
    }
}

#[test]
fn blocks_in_any_order_give_the_same_committees() {
    let capture = small_capture();
    let mut chain = chain_of(&capture);
    let network = chain.network().clone();
    let mut blocks = capture.blocks(&network);
    blocks.reverse();
    for block in &blocks {
        chain.extend(&facts(block));
    }
    let mut in_order = with_blocks(&capture);
    assert_eq!(chain.stats().orphans, in_order.stats().orphans);
    assert_eq!(chain.stats().blocks, in_order.stats().blocks);
    for vote in capture.singles() {
        assert_eq!(ids(chain.contexts(&vote.data)), ids(in_order.contexts(&vote.data)));
    }
}

fn ids(contexts: Contexts) -> (u8, Vec<consensus::ShufflingId>) {
    let ids = |shufflings: Vec<std::sync::Arc<consensus::Shuffling>>| {
        let mut ids: Vec<_> = shufflings.iter().map(|shuffling| shuffling.id()).collect();
        ids.sort();
        ids
    };
    match contexts {
        Contexts::Certain(shufflings) => (0, ids(shufflings)),
        Contexts::Candidates(shufflings) => (1, ids(shufflings)),
        Contexts::Unknown => (2, Vec::new()),
    }
}

/// On every fork, the blocks of the executable specification have the proposers that we compute.
#[test]
fn blocks_are_by_the_proposers_that_we_expect() {
    let names = [
        "phase0_2",
        "altair_8",
        "bellatrix_10",
        "deneb_3",
        "electra_6",
        "electra_7_wave",
        "fulu_4",
        "fulu_14_mainnetpreset",
        "gloas_12",
    ];
    for capture in Capture::named_any_of(&names) {
        let (name, (agree, all)) = (&capture.name, proposers(&capture));
        eprintln!("{name}: {agree} of {all} blocks are by whom we expect");
        assert!(all > 4 && agree == all, "{name}: {agree} of {all}");
    }
}

#[test]
fn the_committed_captures_blocks_are_by_the_proposers_that_we_expect() {
    let (agree, all) = proposers(&small_capture());
    assert!(all > 4 && agree == all, "{agree} of {all}");
}

fn proposers(capture: &Capture) -> (usize, usize) {
    let mut chain = with_blocks(capture);
    let network = chain.network().clone();
    let blocks = capture.blocks(&network);
    let last = blocks.iter().map(|block| block.signed_header.message.slot).max().unwrap();
    chain.tick(last);
    let is_expected = |block: &consensus::SignedBlock| {
        let header = &block.signed_header.message;
        let expected = chain.proposers(header.slot.epoch(network.preset())).unwrap();
        expected[(header.slot.as_u64() % network.preset().slots_per_epoch) as usize] == header.proposer_index
    };
    (blocks.iter().filter(|block| is_expected(block)).count(), blocks.len())
}

/// One wrong answer of a node would otherwise be believed for ever.
#[test]
fn finality_of_epochs_that_have_not_begun_is_not_believed() {
    let mut chain = with_blocks(&small_capture());
    let checkpoint = |epoch: u64| Checkpoint { epoch: Epoch::new(epoch), root: Root::repeat_byte(9) };
    let before = (chain.justified(), chain.finalized());
    chain.note_finality(checkpoint(u64::MAX), checkpoint(u64::MAX));
    chain.note_finality(checkpoint(u64::MAX), before.1);
    assert_eq!((chain.justified(), chain.finalized()), before);
    chain.note_finality(checkpoint(1), checkpoint(1));
    assert_eq!((chain.justified(), chain.finalized()), (checkpoint(1), checkpoint(1)));
}
