//! Tests with a registry that is older than it looks: validators became active or left without a
//! block that shows it. Committees that are computed from such a registry are wrong. Nobody may be
//! blamed for that, and nothing may be lost.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use blst::min_pk::{AggregateSignature, SecretKey};
use chain::{Chain, Contexts, PubkeyCache};
use common::{Capture, capture, captures};
use consensus::ssz_schema::{json_to_ssz, ssz_to_json};
use consensus::{
    Attestation, AttestationData, Checkpoint, CommitteeIndex, DomainType, Epoch, ForkName, Root, SignatureBytes, SignedBlock,
    Slot, signing_root,
};
use serde_json::{Value, json};
use verify::{
    InnerKind, MessageKind, MessageParts, Origin, Outcome, PeerBytes, PeerReputation, RawMessage, SourceKind, Time, Verifier,
    VerifyConfig,
};

const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

fn chain_of(capture: &Capture, fork: ForkName, change: impl FnOnce(&mut Value)) -> Chain {
    let preset = &capture.spec.preset;
    let mut state = ssz_to_json(fork, preset, "BeaconState", &capture.state).unwrap();
    change(&mut state);
    let ssz = json_to_ssz(fork, preset, "BeaconState", &state).unwrap();
    Chain::from_state(capture.spec.clone(), &ssz, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

/// Adds a pending deposit to the state. Whose deposit it is does not matter. What matters is that
/// nobody can know which validator it will make active.
fn with_a_deposit(state: &mut Value) {
    state["pending_deposits"] = json!([{
        "pubkey": format!("0x{}", "ab".repeat(48)), "withdrawal_credentials": format!("0x{}", "00".repeat(32)),
        "amount": "32000000000", "signature": format!("0x{}", "cd".repeat(96)), "slot": "1",
    }]);
}

/// Keys that are independent of each other, as on a real network.
fn secrets() -> Vec<SecretKey> {
    (0..64u8).map(|n| SecretKey::key_gen(&[n; 32], &[]).unwrap()).collect()
}

fn with_keys(state: &mut Value, secrets: &[SecretKey]) {
    for (nth, secret) in secrets.iter().enumerate() {
        state["validators"][nth]["pubkey"] = format!("0x{}", hex::encode(secret.sk_to_pk().compress())).into();
    }
}

/// An attestation by three quarters of a committee, signed by all of them, or by other validators
/// if `forged` is true. The committees are those of `truth`. The genesis block is that of `told`,
/// whose state has other contents and therefore another root.
fn aggregate(truth: &mut Chain, told: &Chain, secrets: &[SecretKey], epoch: u64, forged: bool) -> RawMessage {
    let network = truth.network().clone();
    let genesis = told.head().root;
    let slot = Slot::new(epoch * network.preset().slots_per_epoch + 1);
    let data = AttestationData {
        slot,
        index: CommitteeIndex::new(0),
        beacon_block_root: genesis,
        source: Checkpoint { epoch: Epoch::new(epoch - 1), root: if forged { Root::repeat_byte(1) } else { genesis } },
        target: Checkpoint { epoch: Epoch::new(epoch), root: genesis },
    };
    let target = Checkpoint { root: truth.head().root, ..data.target };
    let Contexts::Certain(shufflings) = truth.contexts(&AttestationData { target, ..data }) else { panic!("genesis decides") };
    let committee = shufflings[0].committee(slot, CommitteeIndex::new(0)).unwrap();
    let mut bits = consensus::AggregationBits::with_capacity(committee.len()).unwrap();
    let domain = network.domain(DomainType::BeaconAttester, data.target.epoch);
    let message = signing_root(data.root(), domain);
    let mut signatures = Vec::new();
    for (position, member) in committee.iter().enumerate().take(committee.len() * 3 / 4) {
        bits.set(position, true).unwrap();
        let signer = if forged { (*member as usize + 1) % secrets.len() } else { *member as usize };
        signatures.push(secrets[signer].sign(message.as_slice(), DST, &[]));
    }
    let sum = AggregateSignature::aggregate(&signatures.iter().collect::<Vec<_>>(), false).unwrap().to_signature();
    let attestation =
        Attestation { aggregation_bits: bits, data, committee_bits: Some(1), signature: SignatureBytes::from(sum.compress()) };
    let parts = MessageParts {
        origin: Origin {
            source: SourceKind::Gossip,
            peer: Some(PeerBytes::from([7])),
            fork: Some(ForkName::Electra),
            subscribed: None,
        },
        kind: MessageKind::AttestationByBits,
        received_at: Time(network.slot_start_ns(slot)),
        bytes: attestation.to_ssz(network.preset()),
        ticket: None,
    };
    RawMessage::new(parts).unwrap()
}

fn labels(verified: &verify::Verified) -> Vec<&'static str> {
    verified.outcomes.iter().map(|(.., outcome)| outcome.label()).collect()
}

#[test]
fn committees_of_an_old_registry_blame_nobody_until_somebody_signed_by_them() {
    let capture = capture("electra_6");
    let secrets = secrets();
    let mut truth = chain_of(&capture, ForkName::Electra, |state| with_keys(state, &secrets));
    assert!(!truth.registry().has_related_keys());
    let epoch_ns = capture.spec.preset.slots_per_epoch * capture.spec.slot_duration.as_nanos() as u64;
    let epoch = 6;

    // A deposit has made a validator active that this state lacks. An honest aggregate fails, and
    // nobody is blamed.
    let mut stale = chain_of(&capture, ForkName::Electra, |state| {
        with_keys(state, &secrets);
        with_a_deposit(state);
        state["validators"][3]["activation_epoch"] = u64::MAX.to_string().into();
        state["validators"][3]["activation_eligibility_epoch"] = u64::MAX.to_string().into();
        state["validators"][3]["effective_balance"] = "1000000000".into();
    });
    let network = stale.network().clone();
    let good = aggregate(&mut truth, &stale, &secrets, epoch, false);
    let at = good.received_at;
    let later = Time(at.0 + 2 * epoch_ns);
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    let mut told = Vec::new();
    for now in [at, later] {
        stale.tick(network.slot_at(now.0));
        let batch = if now == at { vec![good.clone()] } else { Vec::new() };
        told.extend(labels(&verifier.process(&mut stale, batch, now)));
    }
    assert_eq!((told, verifier.parked()), (vec!["parked"], 1));
    assert_ne!(verifier.peer_reputation(good.origin.peer.as_ref()), PeerReputation::Bad);

    // The deposit has made nobody active yet. Once most members of a committee were proven to have
    // signed, the shuffling is known to be right, and a forgery is called one.
    let mut right = chain_of(&capture, ForkName::Electra, |state| {
        with_keys(state, &secrets);
        with_a_deposit(state);
    });
    let [good, forged] = [false, true].map(|forged| aggregate(&mut truth, &right, &secrets, epoch, forged));
    let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
    right.tick(network.slot_at(at.0));
    assert_eq!(labels(&verifier.process(&mut right, vec![good, forged.clone()], at)), ["parked", "parked"]);
    right.tick(network.slot_at(later.0));
    let verified = verifier.process(&mut right, Vec::new(), later);
    assert_eq!((labels(&verified), verified.votes.len(), verifier.parked()), (vec!["proven"], 1, 1));
    assert_eq!(labels(&verifier.process(&mut right, vec![forged], later)), ["bad_signature"]);
}

/// A block is judged only once, so a slashing in it that names a validator of a later registry must
/// wait for that registry.
#[test]
fn a_slashing_in_a_block_waits_for_a_registry_that_knows_its_validators() {
    let mut n_tried = 0;
    for capture in captures() {
        let chain = capture.chain();
        let network = chain.network().clone();
        let fork = network.spec.fork_name_at(Epoch::new(0));
        for message in capture.messages.iter().filter(|message| message.kind == MessageKind::Block) {
            let Ok(block) = SignedBlock::from_ssz(fork, network.preset(), &message.bytes) else { continue };
            // Other slashings in the same block could be proven at once, so only a block with
            // exactly one slashing is used.
            let ([slashing], []) = (&block.attester_slashings[..], &block.proposer_slashings[..]) else { continue };
            let Some(last) = slashing.attestation_1.attesting_indices.last() else { continue };
            let (last, proposer) = (last.as_u64(), block.signed_header.message.proposer_index.as_u64());
            if proposer >= last {
                continue;
            }
            // This registry ends before the slashed validator.
            let mut young = chain_of(&capture, fork, |state| {
                for list in
                    ["validators", "balances", "previous_epoch_participation", "current_epoch_participation", "inactivity_scores"]
                {
                    if let Some(list) = state[list].as_array_mut() {
                        list.truncate(last as usize);
                    }
                }
            });
            let mut verifier = Verifier::seeded(VerifyConfig::replay(), 1);
            let now = message.received_at;
            let slashings = |verified: &verify::Verified| -> Vec<Outcome> {
                let of_kind = verified.inner.iter().filter(|(kind, _)| *kind == InnerKind::AttesterSlashing);
                of_kind.map(|(_, outcome)| outcome.clone()).collect()
            };
            let verified = verifier.process(&mut young, vec![message.clone()], now);
            assert_eq!(labels(&verified), ["proven"], "{}", capture.name);
            assert!(slashings(&verified).contains(&Outcome::Parked), "{}: {:?}", capture.name, slashings(&verified));
            assert!(verified.slashings.is_empty());
            young.add_state(&capture.state, &mut PubkeyCache::in_memory()).unwrap();
            // The slashing is proven with the next batch, or by `finish` if there is none.
            let verified = match n_tried % 2 {
                0 => verifier.process(&mut young, Vec::new(), now),
                _ => verifier.finish(&mut young, now),
            };
            assert!(slashings(&verified).iter().all(|outcome| outcome.label() == "proven"), "{:?}", slashings(&verified));
            assert!(!verified.slashings.is_empty() && verified.slashings.iter().all(|one| one.included_in.is_some()));
            n_tried += 1;
            break;
        }
    }
    assert!(n_tried > 0, "no block with a slashing");
}
