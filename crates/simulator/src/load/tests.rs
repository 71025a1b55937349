//! The messages of a load are read by the watcher's decoders and verified with a few lines of blst.

use super::*;
use crate::keys::verifies;
use consensus::state::{StateView, fork_of_state};
use consensus::{MessageKind, Offence, PubkeyBytes, SignedAggregate, SignedBlock, SingleAttestation};
use sources::topic::Topic;
use std::collections::BTreeSet;

fn plan() -> LoadPlan {
    LoadPlan {
        n_active: 4096,
        n_registered: 10_000,
        slots: 3,
        copies: 2,
        forged_percent: 10,
        junk_percent: 20,
        offenders: 9,
        surrounders: 5,
        ..LoadPlan::quiet(4096, 3)
    }
}

fn ssz(message: &LoadMessage) -> Option<Vec<u8>> {
    snap::raw::Decoder::new().decompress_vec(&message.payload).ok()
}

#[test]
fn the_state_is_one_of_its_fork_with_the_planned_validators() {
    let load = Load::new(plan(), 1_700_000_000).unwrap();
    for (slot, ssz) in [(1, load.state_ssz()), (0, load.state_to_be_hashed())] {
        let spec = &load.network.spec;
        let view = StateView::parse(fork_of_state(spec, &ssz).unwrap(), &spec.preset, &ssz).unwrap();
        assert_eq!((view.slot().as_u64(), view.n_validators(), view.genesis_time()), (slot, 10_000, 1_700_000_000));
        let active: Vec<u32> =
            (0..).zip(view.validators()).filter(|(_, v)| v.exit_epoch == Epoch::FAR_FUTURE).map(|(i, _)| i).collect();
        assert_eq!(active, **load.active);
        let pubkeys: Vec<PubkeyBytes> = view.validators().map(|v| v.pubkey).collect();
        assert_eq!(pubkeys, load.keys.pubkeys(10_000));
        let root = view.latest_block_root();
        assert_eq!(root == load.blocks[0].1, slot == 1);
    }
}

#[test]
fn every_honest_message_is_signed_and_every_offence_is_one() {
    let mut load = Load::new(plan(), 0).unwrap();
    let pubkeys = load.keys.pubkeys(10_000);
    let (mut offences, mut checked) = (BTreeSet::new(), 0);
    for slot in (1..=3).map(Slot::new) {
        let messages = load.play(slot);
        assert!(messages.is_sorted_by_key(|message| message.at_ns));
        let count = |prefix: &str| messages.iter().filter(|message| message.sender.starts_with(prefix)).count();
        assert_eq!((count("forger-"), count("vandal-")), (12, 25), "of 128 votes");
        assert_eq!(count("publisher-0"), count("publisher-1"));
        for message in messages.iter().filter(|message| message.sender == "publisher-0") {
            let topic = Topic::parse(&message.topic).unwrap();
            let ssz = ssz(message).unwrap();
            match topic.kind {
                MessageKind::Block => {
                    let block = SignedBlock::from_ssz(ForkName::Fulu, &load.preset, &ssz).unwrap();
                    let header = block.signed_header.message;
                    let proposer = pubkeys[header.proposer_index.as_u64() as usize];
                    let root = load.signing_root(header.root(), DomainType::BeaconProposer, slot);
                    assert!(verifies(&[proposer], root, &block.signed_header.signature));
                    assert_eq!(block.attestations.len(), usize::from(slot > Slot::new(1)));
                }
                MessageKind::Aggregate => {
                    let signed = SignedAggregate::from_ssz(ForkName::Fulu, &load.preset, &ssz).unwrap();
                    let members = signed.aggregate.attesting_indices(&load.shuffling).unwrap();
                    let keys: Vec<PubkeyBytes> = members.iter().map(|m| pubkeys[m.as_u64() as usize]).collect();
                    assert!(verifies(&keys, load.vote_root(&signed.aggregate.data), &signed.aggregate.signature));
                    let outer = load.signing_root(signed.message_root, DomainType::AggregateAndProof, slot);
                    let aggregator = pubkeys[signed.aggregator_index.as_u64() as usize];
                    assert!(verifies(&[aggregator], outer, &signed.signature));
                    assert!(members.len() >= 126, "{} of 128", members.len());
                }
                MessageKind::Attestation { .. } => {
                    let vote = SingleAttestation::from_ssz(&ssz).unwrap();
                    // Pairings are slow and the votes are alike, so only some are verified.
                    if vote.attester_index.as_u64().is_multiple_of(16) || message.crime.is_some() {
                        let key = pubkeys[vote.attester_index.as_u64() as usize];
                        assert!(verifies(&[key], load.vote_root(&vote.data), &vote.signature));
                        checked += 1;
                    }
                    if let Some(crime) = &message.crime {
                        assert_eq!(crime.validator, vote.attester_index);
                        assert!(crime.first_message_sent_at < crime.second_message_sent_at);
                        assert!(crime.roots.contains(&vote.data.root()));
                        assert!(offences.insert((crime.kind, crime.validator)));
                    }
                }
                other => panic!("nobody honest sends {other:?}"),
            }
        }
    }
    let count = |wanted| offences.iter().filter(|(kind, _)| *kind == wanted).count();
    assert_eq!((count(Offence::DoubleVote), count(Offence::SurroundVote)), (9, 5));
    assert!(checked > 20);
}

#[test]
fn a_load_may_begin_when_its_network_is_old() {
    let old = LoadPlan { epochs_before: 5000, slashed: 3, ..plan() };
    let mut load = Load::new(old, 0).unwrap();
    let spec = &load.network.spec;
    let ssz = load.state_ssz();
    let view = StateView::parse(fork_of_state(spec, &ssz).unwrap(), &spec.preset, &ssz).unwrap();
    assert_eq!(view.slot(), Slot::new(5000 * 32 + 1));
    let slashed: Vec<usize> = (0..).zip(view.validators()).filter(|(_, v)| v.slashed).map(|(i, _)| i).collect();
    assert_eq!(slashed, [0, 1, 3]);
    assert_eq!(view.latest_block_root(), load.head().1);
    let slots: Vec<Slot> = old.each_slot().collect();
    assert_eq!(slots, [160_001, 160_002, 160_003].map(Slot::new));
    let crimes: usize = slots.iter().map(|slot| load.play(*slot).iter().filter(|message| message.crime.is_some()).count()).sum();
    assert_eq!(crimes, 14);
}

/// No two messages of an attack are the same, so gossip treats each as new. None of them accuses a
/// validator whose key the attackers do not have.
#[test]
fn attacks_differ_from_message_to_message() {
    let mut load = Load::new(LoadPlan { epochs_before: 5000, slashed: 3, ..plan() }, 0).unwrap();
    let slots: Vec<Slot> = load.plan().each_slot().collect();
    let mut all = BTreeSet::new();
    for (nth, slot) in (0..).zip(slots) {
        let honest = load.play(slot);
        let arsenal = hostile::Arsenal::new(&load);
        for attack in hostile::ATTACKS {
            let shots = arsenal.play(attack, &hostile::Moment { slot, honest: &honest }, nth);
            assert_eq!(shots.len() as u64, attack.per_slot);
            let n_before = all.len();
            for shot in shots {
                assert!(Topic::parse(&shot.topic).is_ok(), "{}", shot.topic);
                assert!((slot.as_u64() * 12..slot.as_u64() * 12 + 12).contains(&(shot.at_ns / 1_000_000_000)));
                all.insert((shot.topic, sha256(&shot.payload)));
            }
            // A slot may have no offences to imitate, and fewer votes than an attack wants to
            // change.
            assert!((all.len() - n_before) as u64 * 4 >= attack.per_slot, "{} repeats itself", attack.name);
        }
        for withdrawn in arsenal.withdrawn().iter().chain(arsenal.slashed()) {
            assert!(load.active().binary_search(&(withdrawn.as_u64() as u32)).is_err());
        }
    }
}

#[test]
fn forged_votes_are_points_and_not_signed() {
    let mut load = Load::new(plan(), 0).unwrap();
    let pubkeys = load.keys.pubkeys(10_000);
    load.play(Slot::new(1));
    for message in load.play(Slot::new(2)).iter().filter(|message| message.sender.starts_with("forger-")) {
        let vote = SingleAttestation::from_ssz(&ssz(message).unwrap()).unwrap();
        assert!(blst::min_pk::Signature::sig_validate(vote.signature.as_slice(), true).is_ok());
        let key = pubkeys[vote.attester_index.as_u64() as usize];
        assert!(!verifies(&[key], load.vote_root(&vote.data), &vote.signature));
    }
}

#[test]
fn a_capture_says_where_its_offences_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("load.e2s");
    let truth = write_load(plan(), &path, &mut |_| ()).unwrap();
    let file = sources::capture::CaptureFile::open(&path).unwrap();
    let entries = file.entries().unwrap().filter_map(|entry| match entry.unwrap().entry {
        sources::capture::Entry::Gossip(gossip) => Some(gossip),
        _ => None,
    });
    let gossip: Vec<_> = entries.collect();
    assert_eq!((gossip.len() as u64, truth.crimes.len()), (truth.messages, 14));
    for crime in &truth.crimes {
        let payload = &gossip[crime.message as usize].payload;
        let vote = SingleAttestation::from_ssz(&snap::raw::Decoder::new().decompress_vec(payload).unwrap()).unwrap();
        assert_eq!(vote.attester_index, crime.validator);
        assert!(crime.message > truth.messages_of_first_slot);
    }
}

#[test]
fn what_cannot_be_played_is_refused() {
    let refused = |plan: LoadPlan| Load::new(plan, 0).err().expect("refused").to_string();
    assert!(refused(LoadPlan::quiet(31, 1)).contains("number of validators"));
    assert!(refused(LoadPlan { n_registered: 100, ..LoadPlan::quiet(200, 1) }).contains("200 of 100"));
    assert!(refused(LoadPlan { offenders: 1, ..LoadPlan::quiet(64, 1) }).contains("offenders"));
    assert!(refused(LoadPlan { surrounders: 1, ..LoadPlan::quiet(64, 32) }).contains("fewer than 32"));
    assert!(refused(LoadPlan { copies: 0, ..LoadPlan::quiet(64, 1) }).contains("copies"));
}
