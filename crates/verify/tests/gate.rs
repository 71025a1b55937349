//! Tests what the verifier must refuse, what must not be proven twice, and what must not be lost
//! while it waits.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{Capture, capture, captures};
use consensus::ssz_schema::{json_to_ssz, ssz_to_json};
use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, DomainType, Epoch, ForkName, IndexedAttestation,
    ProposerSlashing, Root, SignatureBytes, SignedAggregate, SignedBeaconBlockHeader, SignedBlock, SingleAttestation, Slot,
    ValidatorIndex, signing_root,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use verify::{
    About, HistoryCheck, MessageKind, Outcome, ParkingLimits, RawMessage, SinglesProof, Time, Triage, Verdict, Verified,
    Verifier, VerifyConfig,
};

fn labels(verified: &Verified) -> Vec<&'static str> {
    verified.outcomes.iter().map(|(.., outcome)| outcome.label()).collect()
}

fn singles(capture: &Capture) -> impl Iterator<Item = &RawMessage> {
    capture.messages.iter().filter(|message| matches!(message.kind, MessageKind::Attestation { .. }))
}

/// The first single vote with a valid signature, and its decoded form. A new verifier proves it.
fn good_single(capture: &Capture) -> (RawMessage, SingleAttestation) {
    for message in singles(capture) {
        let mut chain = capture.chain();
        let verified =
            Verifier::seeded(VerifyConfig::default(), 1).process(&mut chain, vec![message.clone()], message.received_at);
        if labels(&verified) == ["proven"] {
            return (message.clone(), SingleAttestation::from_ssz(&message.bytes).unwrap());
        }
    }
    panic!("no honest single in {}", capture.name);
}

/// Changed bytes, truncated messages and wrong kinds: each message gets one outcome and nothing
/// panics.
#[test]
fn no_bytes_make_it_panic() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for capture in captures() {
        let mut chain = capture.chain();
        let mut verifier = Verifier::seeded(VerifyConfig::replay(), seed);
        for _ in 0..6 {
            let mut batch = Vec::new();
            for _ in 0..8 {
                let message = &capture.messages[rng.random_range(0..capture.messages.len())];
                batch.push(message.changed(|parts| {
                    for _ in 0..rng.random_range(0..4) {
                        let at = rng.random_range(0..parts.bytes.len());
                        parts.bytes[at] = rng.random();
                    }
                    if rng.random_bool(0.3) {
                        parts.bytes.truncate(rng.random_range(0..parts.bytes.len()));
                    }
                    if rng.random_bool(0.3) {
                        parts.kind = MessageKind::ALL[rng.random_range(0..MessageKind::ALL.len())].with_number(1);
                    }
                    parts.origin.fork = match rng.random_range(0..10) {
                        0 => None,
                        1 => Some(ForkName::ALL[rng.random_range(0..ForkName::ALL.len())]),
                        _ => parts.origin.fork,
                    };
                    parts.bytes.truncate(parts.kind.max_ssz_len(parts.origin.fork));
                }));
            }
            let (n, now) = (batch.len(), batch[0].received_at);
            let before = verifier.parked();
            let verified = verifier.process(&mut chain, batch, now);
            let settled = verified.outcomes.iter().filter(|(.., outcome)| outcome.is_final()).count();
            assert_eq!(before + n, settled + verifier.parked());
        }
    }
}

/// A validator that was deposited after our state is unknown, and nobody is at fault. For a
/// validator that cannot have been deposited yet, the sender is at fault.
#[test]
fn an_index_that_no_deposit_can_have_made_is_its_senders_fault() {
    let capture = capture("electra_6");
    let (message, single) = good_single(&capture);
    let mut chain = capture.chain();
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let (stranger, nobody) = ("unknown_validator", "malformed");
    let n_validators = chain.registry().len() as u64;
    // The validators at genesis, plus 64 epochs of 8 slots with 16 deposits in each slot, plus 16
    // more at the end of each epoch.
    let most = n_validators + 64 * (8 * 16 + 16);
    let expected =
        [(1 << 63, nobody), (u64::MAX, nobody), (n_validators, stranger), (most - 1, stranger), (most + 100_000, nobody)];
    for (index, expected) in expected.into_iter().chain([(u64::from(u32::MAX) + 1, nobody)]) {
        let huge = SingleAttestation { attester_index: ValidatorIndex::new(index), ..single };
        let verified =
            verifier.process(&mut chain, vec![message.changed(|parts| parts.bytes = huge.to_ssz())], message.received_at);
        assert_eq!(labels(&verified), [expected], "{index}");
        let verdict = if expected == nobody { Verdict::Reject } else { Verdict::Ignore };
        assert_eq!(verified.outcomes[0].3.verdict(), verdict, "{index}");
    }
    let side = |index| IndexedAttestation {
        attesting_indices: vec![ValidatorIndex::new(1), ValidatorIndex::new(index)],
        data: single.data,
        signature: single.signature,
    };
    for (index, expected) in [(n_validators, stranger), (u64::MAX, nobody)] {
        let slashing = AttesterSlashing { attestation_1: side(index), attestation_2: side(1 + index / 2) };
        let message = message.changed(|parts| (parts.kind, parts.bytes) = (MessageKind::AttesterSlashing, slashing.to_ssz()));
        let verified = verifier.process(&mut chain, vec![message.clone()], message.received_at);
        assert_eq!(labels(&verified), [expected], "{index}");
    }
}

/// A forged slashing operation and its sender are remembered like a forged vote and its sender. The
/// same operation costs no equation when it comes again. Another operation of this sender waits
/// behind the messages of everybody else.
#[test]
fn a_forged_slashing_operation_is_judged_once() {
    let capture = capture("electra_6");
    let (good, single) = good_single(&capture);
    let header = |body: u8| {
        let body_root = consensus::Root::repeat_byte(body);
        let message = BeaconBlockHeader { proposer_index: ValidatorIndex::new(3), body_root, ..BeaconBlockHeader::default() };
        // The signature is valid, but for another message.
        SignedBeaconBlockHeader { message, signature: single.signature }
    };
    let proposer = ProposerSlashing { signed_header_1: header(1), signed_header_2: header(2) }.to_ssz();
    let side = |head: u8| {
        let data = AttestationData { beacon_block_root: consensus::Root::repeat_byte(head), ..single.data };
        IndexedAttestation { attesting_indices: vec![ValidatorIndex::new(3)], data, signature: single.signature }
    };
    let attester = AttesterSlashing { attestation_1: side(1), attestation_2: side(2) }.to_ssz();
    for (kind, bytes) in [(MessageKind::ProposerSlashing, proposer), (MessageKind::AttesterSlashing, attester)] {
        let mut chain = capture.chain();
        let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
        let message = good.changed(|parts| (parts.kind, parts.bytes) = (kind, bytes));
        for repeated in 0..3 {
            let verified = verifier.process(&mut chain, vec![message.clone()], message.received_at);
            assert_eq!((labels(&verified), verifier.stats().repeated_forgeries), (vec!["bad_signature"], repeated), "{kind:?}");
        }
        assert_eq!(verifier.peer_reputation(message.origin.peer.as_ref()), verify::PeerReputation::Bad, "{kind:?}");
    }
}

/// In sigp/lighthouse#10085 a replay with another unsigned field caused unlimited work.
#[test]
fn unsigned_fields_buy_no_second_verification() {
    let capture = capture("electra_6");
    let (message, single) = good_single(&capture);
    let mut chain = capture.chain();
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let now = message.received_at;
    let moved = SingleAttestation { committee_index: consensus::CommitteeIndex::new(1 << 40), ..single };
    let moved = message.changed(|parts| parts.bytes = moved.to_ssz());
    // The copy comes in the same batch and in the next one.
    let verified = verifier.process(&mut chain, vec![message.clone(), moved.clone()], now);
    assert_eq!((labels(&verified), verified.votes.len()), (vec!["proven", "duplicate"], 1));
    let verified = verifier.process(&mut chain, vec![moved.clone()], now);
    assert_eq!((labels(&verified), verified.votes.len()), (vec!["duplicate"], 0));
    // Alone, the copy is proven like the original, but it is not forwarded.
    let verified = Verifier::seeded(VerifyConfig::default(), 1).process(&mut chain, vec![moved], now);
    assert!(matches!(verified.outcomes[0].3, Outcome::Proven { forwardable: false }));

    // An aggregate with another aggregator. Its members are already proven.
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let mut n_aggregates = 0;
    for message in &capture.messages {
        let verified = verifier.process(&mut chain, vec![message.clone()], message.received_at);
        if message.kind != MessageKind::Aggregate || labels(&verified) != ["proven"] {
            continue;
        }
        let mut bytes = message.bytes.clone();
        // `aggregator_index` is at byte 100, after the offset and the outer signature.
        bytes[100] ^= 1;
        let changed = SignedAggregate::from_ssz(ForkName::Electra, &capture.spec.preset, &bytes).unwrap();
        let original = SignedAggregate::from_ssz(ForkName::Electra, &capture.spec.preset, &message.bytes).unwrap();
        assert!(changed.aggregator_index != original.aggregator_index && changed.aggregate == original.aggregate);
        let verified = verifier.process(&mut chain, vec![message.changed(|parts| parts.bytes = bytes)], message.received_at);
        assert_eq!((labels(&verified), verified.votes.len()), (vec!["duplicate"], 0));
        n_aggregates += 1;
    }
    assert!(n_aggregates > 0);
}

/// A forged copy comes before the valid vote, in one batch and in two.
#[test]
fn a_forgery_hides_nothing() {
    let capture = capture("electra_6");
    let (good, single) = good_single(&capture);
    let other = singles(&capture).map(|message| SingleAttestation::from_ssz(&message.bytes).unwrap());
    let foreign = other.map(|other| other.signature).find(|signature| *signature != single.signature).unwrap();
    let forged = good.changed(|parts| parts.bytes = SingleAttestation { signature: foreign, ..single }.to_ssz());
    for singles in [SinglesProof::Sums, SinglesProof::RandomCombination] {
        let config = VerifyConfig { singles, ..VerifyConfig::default() };
        let mut chain = capture.chain();
        let mut verifier = Verifier::seeded(config, 1);
        let verified = verifier.process(&mut chain, vec![forged.clone(), good.clone()], good.received_at);
        assert_eq!((labels(&verified), verified.votes.len()), (vec!["bad_signature", "proven"], 1), "{singles:?}");
        let mut verifier = Verifier::seeded(config, 1);
        let verified = verifier.process(&mut chain, vec![forged.clone()], good.received_at);
        assert_eq!((labels(&verified), verified.votes.len()), (vec!["bad_signature"], 0), "{singles:?}");
        let verified = verifier.process(&mut chain, vec![good.clone()], good.received_at);
        assert_eq!((labels(&verified), verified.votes.len()), (vec!["proven"], 1), "{singles:?}");
    }
}

/// The same forgery costs no second equation when it comes again, even if an unsigned field is
/// changed. The valid vote is still proven.
#[test]
fn a_forgery_is_judged_once() {
    let capture = capture("electra_6");
    let (good, single) = good_single(&capture);
    let other = singles(&capture).map(|message| SingleAttestation::from_ssz(&message.bytes).unwrap());
    let foreign = other.map(|other| other.signature).find(|signature| *signature != single.signature).unwrap();
    let forged = |committee: u64| {
        let committee_index = consensus::CommitteeIndex::new(committee);
        let bytes = SingleAttestation { signature: foreign, committee_index, ..single }.to_ssz();
        good.changed(|parts| parts.bytes = bytes)
    };
    let mut chain = capture.chain();
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    for (committee, repeated) in [(0, 0), (0, 1), (5, 2), (1 << 40, 3)] {
        let verified = verifier.process(&mut chain, vec![forged(committee)], good.received_at);
        assert_eq!((labels(&verified), verifier.stats().repeated_forgeries), (vec!["bad_signature"], repeated));
    }
    assert_eq!(verifier.peer_reputation(good.origin.peer.as_ref()), verify::PeerReputation::Bad);
    let verified = verifier.process(&mut chain, vec![good.clone()], good.received_at);
    assert_eq!((labels(&verified), verified.votes.len()), (vec!["proven"], 1));
}

/// What a message would be if it were true: it is known after it was proven, and it is a
/// contradiction after a different one was proven.
#[test]
fn a_first_look_tells_what_matters() {
    let capture = capture("electra_6");
    let (good, single) = good_single(&capture);
    let mut chain = capture.chain();
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let slots_per_epoch = capture.spec.preset.slots_per_epoch;
    let ask = |verifier: &mut Verifier, message: &RawMessage, history: HistoryCheck| {
        verifier.triage(message, slots_per_epoch, single.data.slot, |_, _, _| history, |_, _| false)
    };
    let look = |verifier: &mut Verifier, message: &RawMessage| ask(verifier, message, HistoryCheck::Fits);
    assert_eq!(look(&mut verifier, &good), Triage::Ordinary);
    verifier.process(&mut chain, vec![good.clone()], good.received_at);
    assert_eq!(look(&mut verifier, &good), Triage::Known);
    let changed = |change: fn(&mut SingleAttestation)| {
        let mut other = single;
        change(&mut other);
        good.changed(|parts| parts.bytes = other.to_ssz())
    };
    let other_head = changed(|single| single.data.beacon_block_root = consensus::Root::repeat_byte(1));
    assert_eq!(look(&mut verifier, &other_head), Triage::Contradiction);
    let stranger = changed(|single| single.attester_index = ValidatorIndex::new(single.attester_index.as_u64() ^ 1));
    assert_eq!(look(&mut verifier, &stranger), Triage::Ordinary);
    let by_history = [HistoryCheck::Fits, HistoryCheck::Contradicts, HistoryCheck::Unclear]
        .map(|glance| ask(&mut verifier, &stranger, glance));
    assert_eq!(by_history, [Triage::Ordinary, Triage::Contradiction, Triage::Ordinary]);
    let far = changed(|single| single.data.target.epoch = consensus::Epoch::new(1 << 40));
    let by_history = [HistoryCheck::Fits, HistoryCheck::Unclear].map(|glance| ask(&mut verifier, &far, glance));
    assert_eq!(by_history, [Triage::Ordinary, Triage::Contradiction]);
    let huge = changed(|single| single.attester_index = ValidatorIndex::MAX);
    assert_eq!(look(&mut verifier, &huge), Triage::Ordinary);
    let block = capture.messages.iter().find(|message| message.kind == MessageKind::Block).unwrap();
    assert_eq!(look(&mut verifier, block), Triage::Context);
    assert_eq!(look(&mut verifier, &good.changed(|parts| parts.bytes = vec![1; 7])), Triage::Ordinary);
}

/// A message that only settled validators have signed is recognized. If it names one other
/// validator, it is judged like any other message.
#[test]
fn a_first_look_tells_what_only_settled_validators_have_signed() {
    use consensus::{AttesterSlashing, BeaconBlockHeader, IndexedAttestation, ProposerSlashing, SignedBeaconBlockHeader};
    let capture = capture("electra_6");
    let (good, single) = good_single(&capture);
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let settled = |index: ValidatorIndex, _: About| index.as_u64() >= 1000;
    let mut look = |kind: MessageKind, bytes: Vec<u8>| {
        let message = good.changed(|parts| (parts.kind, parts.bytes) = (kind, bytes));
        verifier.triage(&message, 8, single.data.slot, |_, _, _| HistoryCheck::Contradicts, settled)
    };
    let index = ValidatorIndex::new;
    let vote = |attester_index| SingleAttestation { attester_index, ..single }.to_ssz();
    assert_eq!(look(good.kind, vote(index(1000))), Triage::Settled(index(1000)), "whatever it contradicts");
    assert_eq!(look(good.kind, vote(index(999))), Triage::Contradiction);
    let header = |proposer_index| SignedBeaconBlockHeader {
        message: BeaconBlockHeader { proposer_index, ..BeaconBlockHeader::default() },
        signature: single.signature,
    };
    let proposals = |one, two| {
        let (signed_header_1, signed_header_2) = (header(index(one)), header(index(two)));
        ProposerSlashing { signed_header_1, signed_header_2 }.to_ssz()
    };
    let by_proposers =
        [(1001, 1002), (1001, 5), (5, 1001)].map(|(one, two)| look(MessageKind::ProposerSlashing, proposals(one, two)));
    assert_eq!(by_proposers, [Triage::Settled(index(1001)), Triage::Contradiction, Triage::Contradiction]);
    let side = |signers: &[u64]| IndexedAttestation {
        attesting_indices: signers.iter().copied().map(ValidatorIndex::new).collect(),
        data: single.data,
        signature: single.signature,
    };
    let votes = |one: &[u64], two: &[u64]| AttesterSlashing { attestation_1: side(one), attestation_2: side(two) }.to_ssz();
    assert_eq!(look(MessageKind::AttesterSlashing, votes(&[1001, 1003], &[1002])), Triage::Settled(index(1001)));
    assert_eq!(look(MessageKind::AttesterSlashing, votes(&[1001, 1003], &[5, 1001])), Triage::Contradiction);
    assert_eq!(look(MessageKind::AttesterSlashing, votes(&[], &[])), Triage::Contradiction, "nobody is named");
    assert_eq!(look(MessageKind::AttesterSlashing, vec![9; 20]), Triage::Contradiction);
    assert_eq!(look(MessageKind::Header, header(index(1004)).to_ssz()), Triage::Settled(index(1004)));
    assert_eq!(look(MessageKind::Header, header(index(4)).to_ssz()), Triage::Context);
    let mut block = vec![0; 400];
    block[100..108].copy_from_slice(&77u64.to_le_bytes());
    block[108..116].copy_from_slice(&1005u64.to_le_bytes());
    assert_eq!(look(MessageKind::Block, block.clone()), Triage::Settled(index(1005)));
    let message = good.changed(|parts| (parts.kind, parts.bytes) = (MessageKind::Block, block));
    let asked = std::cell::Cell::new(None);
    verifier.triage(
        &message,
        8,
        single.data.slot,
        |_, _, _| HistoryCheck::Fits,
        |_, about| {
            asked.set(Some(about));
            false
        },
    );
    assert_eq!(asked.get(), Some(About::Block(consensus::Slot::new(77))), "by the slot that the block claims");
}

/// A header that was proven or judged forged is not judged a second time, whichever operation
/// contains it. The same holds for a side of an attester slashing.
#[test]
fn headers_and_sides_are_proven_once_true_or_forged() {
    let capture = capture("ops_electra");
    let mut n_repeated = 0;
    for kind in [MessageKind::ProposerSlashing, MessageKind::AttesterSlashing] {
        let good = capture.messages.iter().find(|message| message.kind == kind).unwrap();
        // The byte to change is the last one of the second side's signature. In an attester
        // slashing it comes before the indices.
        let at = match kind {
            MessageKind::ProposerSlashing => good.bytes.len() - 1,
            _ => {
                let second = u32::from_le_bytes(good.bytes[4..8].try_into().unwrap()) as usize;
                second + 4 + 128 + 95
            }
        };
        let forged = good.changed(|parts| parts.bytes[at] ^= 1);
        let mut chain = capture.chain();
        let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
        for _ in 0..3 {
            let verified = verifier.process(&mut chain, vec![forged.clone()], good.received_at);
            assert!(!labels(&verified).contains(&"proven"), "{kind:?}");
        }
        n_repeated += verifier.stats().repeated_forgeries;
        let verified = verifier.process(&mut chain, vec![good.clone()], good.received_at);
        assert_eq!(labels(&verified), ["proven"], "{kind:?}");
    }
    assert_eq!(n_repeated, 4, "the second and the third time of each");
}

/// A vote by bits for an epoch that the chain does not know waits, is counted, and expires. If the
/// parking place is full, a vote is refused.
#[test]
fn waiting_is_bounded_and_ends() {
    let capture = capture("phase0_2");
    let mut chain = capture.chain();
    let parking = ParkingLimits { messages: 3, messages_per_peer: 2, ..ParkingLimits::default() };
    let mut verifier = Verifier::seeded(VerifyConfig { parking, ..VerifyConfig::default() }, 1);
    let template = singles(&capture).next().unwrap();
    let now = template.received_at;
    let strange = |target: u64, peer: u8| {
        template.changed(|parts| {
            // The layout of an attestation: offset 4, then data with slot 8, index 8, root 32,
            // source 40 and the target's epoch.
            parts.bytes[4..12].copy_from_slice(&(target * 8).to_le_bytes());
            parts.bytes[92..100].copy_from_slice(&target.to_le_bytes());
            parts.origin.peer = Some(verify::PeerBytes::from([peer]));
        })
    };
    let batch = vec![strange(90_000, 1), strange(u64::MAX / 8, 1), strange(90_001, 1), strange(90_002, 2), strange(90_003, 3)];
    let verified = verifier.process(&mut chain, batch, now);
    // The third vote exceeds its peer's share. The fifth vote makes the first one give way.
    assert_eq!(labels(&verified), ["parked", "refused", "parked", "refused", "parked", "parked"]);
    assert_eq!((verifier.parked(), verifier.stats().parked), (3, 3));
    let epoch_ns = 8 * 6_000_000_000;
    let verified = verifier.process(&mut chain, Vec::new(), Time(now.0 + 3 * epoch_ns));
    assert!(verified.outcomes.is_empty());
    let verified = verifier.process(&mut chain, Vec::new(), Time(now.0 + 5 * epoch_ns));
    assert_eq!(labels(&verified), ["expired"; 3]);
    assert_eq!((verifier.parked(), verifier.stats().parked_bytes), (0, 0));
}

/// With a worker that computes shufflings, votes stay parked until their shuffling is there. In the
/// end, the same votes are proven as when the test waits for each answer, for all batch sizes.
///
/// If votes are proven in sums, a forged vote may be counted as proven. Example: something is added
/// to one signature and subtracted from another one. Neither of them holds, but their sum does.
/// Whether the two meet in one sum depends on the times at which they are tried. So for sums, only
/// the votes that hold by themselves must be the same. No offence is missed because of that, since
/// no client accepts a message whose own signature does not hold.
#[test]
fn a_vote_waits_for_its_shuffling_and_is_proven_all_the_same() {
    for capture in captures() {
        let run = |singles: SinglesProof, on_worker: bool, batch_len: usize| {
            let mut chain = capture.chain();
            if on_worker {
                chain.compute_on_worker();
            }
            let mut verifier = Verifier::seeded(VerifyConfig { singles, ..VerifyConfig::replay() }, 1);
            let mut proven = BTreeSet::new();
            let mut keep = |verified: Verified| {
                for vote in &verified.votes {
                    proven.extend(vote.get().indices.iter().map(|index| (vote.get().data_root, *index)));
                }
            };
            let mut now = Time(0);
            for batch in capture.messages.chunks(batch_len) {
                now = batch.iter().map(|message| message.received_at).max().unwrap().max(now);
                chain.tick(chain.network().slot_at(now.0));
                keep(verifier.process(&mut chain, batch.to_vec(), now));
            }
            keep(verifier.finish(&mut chain, now));
            proven
        };
        let in_sums = run(SinglesProof::Sums, false, 64);
        assert!(!in_sums.is_empty(), "{}", capture.name);
        let has_cancelling = capture.name.starts_with("cancelling");
        let by_itself = has_cancelling.then(|| run(SinglesProof::RandomCombination, false, 64));
        for batch_len in [64, 1000] {
            let proven = run(SinglesProof::Sums, true, batch_len);
            let Some(by_itself) = &by_itself else {
                let n = [proven.len(), in_sums.len()];
                assert!(proven == in_sums, "{}: {n:?} proven, the latter when waited for", capture.name);
                continue;
            };
            assert!(proven.is_superset(by_itself) && in_sums.is_superset(by_itself), "{}", capture.name);
            let proven = run(SinglesProof::RandomCombination, true, batch_len);
            assert!(proven == *by_itself, "{}: {} proven, {} when waited for", capture.name, proven.len(), by_itself.len());
        }
    }
}

/// Signs with the key of a validator of the `gloas_12` capture. Its keys are 1, 2, 3 and so on.
fn sign(validator: ValidatorIndex, signing_root: Root) -> SignatureBytes {
    let mut scalar = [0; 32];
    scalar[24..].copy_from_slice(&(validator.as_u64() + 1).to_be_bytes());
    let secret = blst::min_pk::SecretKey::from_bytes(&scalar).unwrap();
    SignatureBytes::from(secret.sign(signing_root.as_slice(), b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_", &[]).to_bytes())
}

/// Before a fork two versions are possible. What holds with neither is nobody's fault and costs two
/// equations, so a peer has a budget of it in each slot: also of slashing operations, and within
/// one batch. What holds is proven however much of it there is.
#[test]
fn what_holds_with_no_version_is_tried_within_a_budget_and_what_holds_is_always_proven() {
    let mut capture = capture("gloas_12");
    let next = consensus::Fork { name: ForkName::Heze, epoch: Epoch::new(100), version: [8, 0, 0, 1] };
    capture.spec.forks.push(next);
    let mut chain = capture.chain();
    let network = chain.network().clone();
    let (message, single) = good_single(&capture);
    let data = |head: u8, target: u64| {
        let target = Checkpoint { epoch: Epoch::new(target), root: Root::ZERO };
        AttestationData {
            slot: target.epoch.start_slot(network.preset()),
            target,
            beacon_block_root: Root::repeat_byte(head),
            ..single.data
        }
    };
    let today = network.domain_of(DomainType::BeaconAttester, network.spec.fork_at(Epoch::new(0)).version);
    let signed = |validator: u64, data: &AttestationData| sign(ValidatorIndex::new(validator), signing_root(data.root(), today));
    let raw = |kind, bytes| message.changed(|parts| (parts.kind, parts.bytes, parts.ticket) = (kind, bytes, None));
    let vote = |validator: u64, data: AttestationData, signature| {
        let attester_index = ValidatorIndex::new(validator);
        raw(MessageKind::Attestation { subnet: 0 }, SingleAttestation { attester_index, data, signature, ..single }.to_ssz())
    };
    let junk_operation = |nth: u64| {
        let side = |head: u8| IndexedAttestation {
            attesting_indices: vec![ValidatorIndex::new(3)],
            data: data(head, 200 + nth),
            signature: single.signature,
        };
        raw(MessageKind::AttesterSlashing, AttesterSlashing { attestation_1: side(1), attestation_2: side(2) }.to_ssz())
    };
    let held: Vec<RawMessage> = (0..200)
        .map(|nth| {
            let data = data(7, 200 + nth);
            vote(nth % 16, data, signed(nth % 16, &data))
        })
        .collect();
    let junk_votes: Vec<RawMessage> = (0..100).map(|nth| vote(5, data(9, 200 + nth), single.signature)).collect();
    let now = message.received_at;
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    // Operations, batch by batch.
    for first in [0, 100] {
        let verified = verifier.process(&mut chain, (first..first + 100).map(junk_operation).collect(), now);
        assert_eq!(labels(&verified), ["unknown_fork"; 100]);
        assert!(verifier.stats().tried_again <= 64, "{} tried", verifier.stats().tried_again);
    }
    assert_eq!(verifier.peer_reputation(message.origin.peer.as_ref()), verify::PeerReputation::Unknown, "nobody is blamed");
    // In one batch with votes that hold, 63 of another peer's that do not.
    let of_another =
        |message: RawMessage| message.changed(|parts| parts.origin.peer = Some(verify::PeerBytes::from(b"another".as_slice())));
    let batch = junk_votes[..63].iter().chain(&held).chain(&junk_votes[63..]).cloned().map(of_another).collect();
    let before = verifier.stats().tried_again;
    let verified = verifier.process(&mut chain, batch, now);
    assert_eq!(labels(&verified)[63..263], ["proven"; 200]);
    let tried = verifier.stats().tried_again - before;
    assert!(
        (264..280).contains(&tried),
        "{tried} tried: 200 that hold, 64 that do not, and those tried together with the last of these"
    );
}

/// For a fork that this program does not know, too, nobody is blamed for a forged vote, which then
/// costs two equations. The same budget holds for it.
#[test]
fn forged_votes_for_an_unknown_fork_are_tried_within_the_budget() {
    let mut capture = capture("gloas_12");
    let later = consensus::LaterFork { name: "i_star".into(), epoch: Epoch::new(100), version: [9, 0, 0, 1] };
    capture.spec.later_forks.push(later);
    let mut chain = capture.chain();
    let (message, single) = good_single(&capture);
    let forged = |target: u64| {
        let target = Checkpoint { epoch: Epoch::new(target), root: Root::ZERO };
        let slot = target.epoch.start_slot(&capture.spec.preset);
        let data = AttestationData { slot, target, ..single.data };
        message.changed(|parts| (parts.bytes, parts.ticket) = (SingleAttestation { data, ..single }.to_ssz(), None))
    };
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    for first in [200, 300, 400] {
        let verified = verifier.process(&mut chain, (first..first + 100).map(forged).collect(), message.received_at);
        assert_eq!(labels(&verified), ["unknown_fork"; 100]);
        assert!(verifier.stats().tried_again <= 64 + 15, "{} tried", verifier.stats().tried_again);
    }
    assert!(verifier.stats().tried_again >= 64);
    assert_eq!(verifier.peer_reputation(message.origin.peer.as_ref()), verify::PeerReputation::Unknown, "nobody is blamed");
}

/// Another draft of Heze: what does not decode is seen, until blocks show that the network follows
/// our draft. In a fork that is no draft it is malformed.
#[test]
fn what_another_draft_sends_is_seen_and_not_provable() {
    let capture = capture("gloas_12");
    let mut spec = capture.spec.clone();
    spec.forks.push(consensus::Fork { name: ForkName::Heze, epoch: Epoch::new(2), version: [8, 0, 0, 1] });
    let slots_per_epoch = spec.preset.slots_per_epoch;
    let mut chain = chain::Chain::from_state(spec, &capture.state, &mut chain::PubkeyCache::in_memory(), &mut |_| ()).unwrap();
    let network = chain.network().clone();
    let block = capture.messages.iter().find(|message| message.kind == MessageKind::Block).unwrap();
    let at = |fork: ForkName, slot: u64, len: usize| {
        block.changed(|parts| {
            parts.origin.fork = Some(fork);
            parts.bytes[100..108].copy_from_slice(&slot.to_le_bytes());
            parts.bytes.truncate(len);
            (parts.ticket, parts.received_at) = (None, Time(network.slot_start_ns(consensus::Slot::new(slot))));
        })
    };
    let heze = 2 * slots_per_epoch;
    let batch = vec![
        at(ForkName::Heze, heze, 400),
        at(ForkName::Heze, heze + 1, 300),
        // Not one slot of that fork, not even the fields before the body, and a fork that is no
        // draft.
        at(ForkName::Heze, heze - 1, 400),
        at(ForkName::Heze, heze, 150),
        at(ForkName::Gloas, heze - 1, 400),
    ];
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let now = |slot: u64| Time(network.slot_start_ns(consensus::Slot::new(slot)));
    let verified = verifier.process(&mut chain, batch, now(heze));
    let wanted = ["seen_not_provable", "seen_not_provable", "malformed", "malformed", "malformed"];
    assert_eq!(labels(&verified), wanted);
    assert!(verified.outcomes[..2].iter().all(|(.., outcome)| outcome.verdict() == Verdict::Ignore));
    assert!(verified.votes.is_empty() && verified.proposals.is_empty() && verified.blocks.is_empty());
    assert!(!verifier.sees_other_draft(slots_per_epoch), "one block says nothing");
    verifier.process(&mut chain, vec![at(ForkName::Heze, heze + 2, 400)], now(heze + 2 * slots_per_epoch));
    assert!(verifier.sees_other_draft(slots_per_epoch), "no block was proven for two epochs");
}

/// The owner of one key signs blocks of our draft, out of turn and before the fork, on a network
/// that follows another draft. That must not make those malformed who follow it. Blocks in turn in
/// most slots settle it.
#[test]
fn one_owner_of_a_key_does_not_settle_which_draft_the_network_follows() {
    let mut capture = capture("gloas_12");
    capture.spec.forks.push(consensus::Fork { name: ForkName::Heze, epoch: Epoch::new(2), version: [8, 0, 0, 1] });
    let mut chain = capture.chain();
    let network = chain.network().clone();
    let preset = network.preset();
    assert_eq!(preset.slots_per_epoch, 8);
    let template = capture.messages.iter().find(|message| message.kind == MessageKind::Block).unwrap();
    let mut block = ssz_to_json(ForkName::Gloas, preset, "SignedBeaconBlock", &template.bytes).unwrap();
    let body = block["message"]["body"].as_object_mut().unwrap();
    assert!(body.remove("eth1_data").is_some() && body.remove("deposits").is_some());
    body["attestations"] = json!([]);
    body["signed_execution_payload_bid"]["message"]["inclusion_list_bits"] = json!("0x0000");
    let now = |slot: u64| Time(network.slot_start_ns(Slot::new(slot)));
    // A block of our draft, and its root.
    let made = |slot: u64, parent: Root, proposer: ValidatorIndex| {
        let epoch = Slot::new(slot).epoch(preset);
        let signed = |kind, root| json!(sign(proposer, signing_root(root, network.domain(kind, epoch))));
        let mut block = block.clone();
        let mut epoch_root = Root::ZERO;
        epoch_root[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
        block["message"]["body"]["randao_reveal"] = signed(DomainType::Randao, epoch_root);
        block["message"]["slot"] = json!(slot.to_string());
        block["message"]["parent_root"] = json!(parent);
        block["message"]["proposer_index"] = json!(proposer.as_u64().to_string());
        let ssz = |block: &Value| json_to_ssz(ForkName::Heze, preset, "SignedBeaconBlock", block).unwrap();
        let root = SignedBlock::from_ssz(ForkName::Heze, preset, &ssz(&block)).unwrap().root;
        block["signature"] = signed(DomainType::BeaconProposer, root);
        let message = template.changed(|parts| {
            (parts.origin.fork, parts.bytes, parts.ticket, parts.received_at) =
                (Some(ForkName::Heze), ssz(&block), None, now(slot));
        });
        (message, root)
    };
    let of_another_draft = |slot: u64| {
        template.changed(|parts| {
            parts.origin.fork = Some(ForkName::Heze);
            parts.bytes[100..108].copy_from_slice(&slot.to_le_bytes());
            parts.bytes.truncate(400);
            (parts.ticket, parts.received_at) = (None, now(slot));
        })
    };
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let genesis = chain.head().root;
    let mut step = |chain: &mut chain::Chain, slot: u64, block: Option<RawMessage>| {
        chain.tick(Slot::new(slot));
        let n_blocks = block.iter().len();
        let verified = verifier.process(chain, block.into_iter().collect(), now(slot));
        assert!(verified.blocks.len() == n_blocks && verified.blocks.iter().all(|block| block.randao_proven), "{slot}");
        let verified = verifier.process(chain, vec![of_another_draft(slot)], now(slot));
        (labels(&verified)[0], verifier.sees_other_draft(preset.slots_per_epoch))
    };
    let owner = ValidatorIndex::new(3);
    step(&mut chain, 15, Some(made(15, genesis, owner).0));
    for slot in 16..24 {
        let is_due = chain.proposer_on(&genesis, Slot::new(slot)) == Some(owner);
        let block = (!is_due).then(|| made(slot, genesis, owner).0);
        assert_eq!(step(&mut chain, slot, block), ("seen_not_provable", false), "{slot}");
    }
    let mut parent = genesis;
    for slot in 24..29 {
        let due = chain.proposer_on(&parent, Slot::new(slot)).unwrap();
        let (block, root) = made(slot, parent, due);
        parent = root;
        assert_eq!(step(&mut chain, slot, Some(block)), ("seen_not_provable", false), "{slot}");
        assert!(chain.is_in_turn(&root), "{slot}");
    }
    for slot in 29..60 {
        assert_eq!(step(&mut chain, slot, None), ("malformed", false), "five of the last eight slots had a block of our draft");
    }
}
