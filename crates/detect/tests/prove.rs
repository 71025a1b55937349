//! The second proof: a mistake of the index accuses nobody.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use chain::Chain;
use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, DomainType, Epoch, Offence, ProposerSlashing, Root, Slot,
    ValidatorIndex, signing_root,
};
use detect::{Proofs, ProvenConflict, Unproven, accused, prove_conflict, prove_operation};
use evidence::finding_id;
use index::{Conflict, StoredProposal, StoredVote};
use simulator::Scenario;
use simulator::keys::Keyring;
use std::sync::Arc;
use verify::{Arrival, FirstSeen, SlashingBody, SlashingOp, SourceKind, Time};

struct Setup {
    chain: Chain,
    keys: Keyring,
}

impl Setup {
    fn new() -> Self {
        let scenario = Scenario::quiet(64);
        Self { chain: common::quiet_chain(&scenario), keys: Keyring::from_seed(scenario.seed) }
    }

    fn vote(&self, source: u64, target: u64, head: u8, signers: &[u64], at: u64) -> Arc<StoredVote> {
        let checkpoint = |epoch| Checkpoint { epoch: Epoch::new(epoch), root: Root::ZERO };
        let data = AttestationData {
            slot: Slot::new(target * 8),
            beacon_block_root: Root::repeat_byte(head),
            source: checkpoint(source),
            target: checkpoint(target),
            ..AttestationData::default()
        };
        let indices: Vec<ValidatorIndex> = signers.iter().map(|index| ValidatorIndex::new(*index)).collect();
        let domain = self.chain.network().domain(DomainType::BeaconAttester, data.target.epoch);
        let signature = self.keys.sign_together(&indices, signing_root(data.root(), domain));
        Arc::new(StoredVote { data, data_root: data.root(), indices, signature, heard: heard(at) })
    }

    fn proposal(&self, slot: u64, body: u8, proposer: u64) -> StoredProposal {
        let header = BeaconBlockHeader {
            slot: Slot::new(slot),
            proposer_index: ValidatorIndex::new(proposer),
            body_root: Root::repeat_byte(body),
            ..BeaconBlockHeader::default()
        };
        let domain = self.chain.network().domain(DomainType::BeaconProposer, Epoch::new(slot / 8));
        let signature = self.keys.sign(header.proposer_index, signing_root(header.root(), domain));
        StoredProposal { header, root: header.root(), signature, heard: heard(slot) }
    }

    fn proven(&self, conflict: &Conflict) -> Result<ProvenConflict, Unproven> {
        prove_conflict(conflict, &self.chain, &mut Proofs::default())
    }

    /// What an operation proves about all validators that it accuses.
    fn prove_operation(&self, operation: &SlashingOp) -> Result<Vec<ProvenConflict>, Unproven> {
        let validators: Vec<ValidatorIndex> = accused(operation, &self.chain).iter().map(|one| one.validator).collect();
        prove_operation(operation, &validators, &self.chain, &mut Proofs::default())
    }
}

fn heard(at: u64) -> FirstSeen {
    FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: None }
}

/// Both votes in one slashing, as a block or a peer would send them.
fn slashing_of(one: &StoredVote, two: &StoredVote) -> AttesterSlashing {
    let side = |vote: &StoredVote| consensus::IndexedAttestation {
        attesting_indices: vote.indices.clone(),
        data: vote.data,
        signature: vote.signature,
    };
    AttesterSlashing { attestation_1: side(one), attestation_2: side(two) }
}

fn double_vote(validator: u64, first: &Arc<StoredVote>, second: &Arc<StoredVote>) -> Conflict {
    let arrivals = [first.heard.arrival(), second.heard.arrival()];
    Conflict::DoubleVote { validator: ValidatorIndex::new(validator), first: first.clone(), second: second.clone(), arrivals }
}

fn surround(validator: u64, surrounding: &Arc<StoredVote>, surrounded: &Arc<StoredVote>) -> Conflict {
    Conflict::Surround {
        validator: ValidatorIndex::new(validator),
        surrounding: surrounding.clone(),
        surrounded: surrounded.clone(),
        arrivals: [surrounding.heard.arrival(), surrounded.heard.arrival()],
    }
}

#[test]
fn a_double_vote_is_the_same_finding_in_either_order() {
    let setup = Setup::new();
    let (a, b) = (setup.vote(0, 1, 1, &[3, 5, 9], 20), setup.vote(0, 1, 2, &[5], 10));
    let one = setup.proven(&double_vote(5, &a, &b)).unwrap();
    let other = setup.proven(&double_vote(5, &b, &a)).unwrap();
    assert_eq!(one.finding, other.finding);
    assert_eq!(one.evidence, other.evidence);
    let root = setup.chain.network().genesis_validators_root;
    assert_eq!(one.finding.id, finding_id(root, Offence::DoubleVote, ValidatorIndex::new(5), a.data_root, b.data_root));
    assert!(one.finding.first_seen < one.finding.second_seen.unwrap());
}

#[test]
fn a_findings_times_and_sources_are_those_of_the_validators_own_messages() {
    let setup = Setup::new();
    let (a, b) = (setup.vote(0, 1, 1, &[3, 5, 9], 10), setup.vote(0, 1, 2, &[5, 9], 20));
    let Conflict::DoubleVote { validator, first, second, .. } = double_vote(5, &a, &b) else { unreachable!() };
    let arrival = |at, source| Arrival { at: Time(at), source };
    let (block, api) = (arrival(400, SourceKind::Block), arrival(300, SourceKind::Api));
    for arrivals in [[block, api], [api, block]] {
        let (first, second) = (first.clone(), second.clone());
        let conflict = Conflict::DoubleVote { validator, first, second, arrivals };
        let finding = setup.proven(&conflict).unwrap().finding;
        assert_eq!((finding.first_seen.as_unix_ns(), finding.second_seen.map(|at| at.as_unix_ns())), (300, Some(400)));
        assert_eq!(finding.sources, ["api", "block"], "the sums they were proven in came by gossip");
    }
}

#[test]
fn what_the_index_knows_goes_before_what_an_operation_tells() {
    let setup = Setup::new();
    let (a, b) = (setup.vote(0, 1, 1, &[3, 5, 9], 1), setup.vote(0, 1, 2, &[2, 5, 9], 2));
    let body = slashing_of(&a, &b);
    let heard = FirstSeen { at: Time(50), source: SourceKind::SlashingOp, peer: None };
    let operation = SlashingOp {
        body: SlashingBody::Attester(Box::new(body)),
        fork: consensus::ForkName::Fulu,
        heard: heard.clone(),
        included_in: None,
    };
    let operation_findings = || setup.prove_operation(&operation).unwrap();
    // The second vote of validator 5 is known from the operation only. That of validator 9 came
    // before the operation.
    let alone =
        |validator: u64, heard: FirstSeen| Arc::new(StoredVote { heard, ..(*setup.vote(0, 1, 2, &[validator], 0)).clone() });
    let gossip = |at| FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: None };
    let known = [double_vote(5, &a, &alone(5, heard)), double_vote(9, &a, &alone(9, gossip(49)))];
    let known = || known.iter().map(|conflict| setup.proven(conflict).unwrap()).collect::<Vec<_>>();
    let merged = detect::merge(operation_findings(), known());
    let times = |one: &ProvenConflict| (one.finding.first_seen.as_unix_ns(), one.finding.second_seen.map(|at| at.as_unix_ns()));
    assert_eq!(merged.iter().map(times).collect::<Vec<_>>(), [(1, Some(50)), (1, Some(49))]);
    assert_eq!((&merged[0].evidence, &merged[1].evidence), (&operation_findings()[0].evidence, &known()[1].evidence));
    assert_eq!(
        (merged[0].finding.sources.join(" "), merged[1].finding.sources.join(" ")),
        ("gossip slashing_op".into(), "gossip".into())
    );
    assert_eq!(merged[0].finding.evidence.as_ref().map(|evidence| evidence.id), Some(merged[0].evidence.id));
    assert_eq!(detect::merge(operation_findings(), Vec::new()).len(), 2);
    assert_eq!(detect::merge(Vec::new(), [known(), known()].concat()).len(), 2, "each once");
}

#[test]
fn a_surround_names_the_surrounding_vote_first() {
    let setup = Setup::new();
    let (outer, inner) = (setup.vote(0, 3, 1, &[7], 1), setup.vote(1, 2, 2, &[7, 8], 2));
    let proven = setup.proven(&surround(7, &outer, &inner)).unwrap();
    assert_eq!(proven.evidence.json["attestation_1"]["data"]["target"]["epoch"], "3");
    assert_eq!((proven.finding.slot, proven.finding.epoch), (Slot::new(24), Epoch::new(3)));
    assert_eq!(setup.proven(&surround(7, &inner, &outer)).unwrap_err(), Unproven::Predicate(ValidatorIndex::new(7)));
}

#[test]
fn what_does_not_contradict_or_was_not_signed_accuses_nobody() {
    let setup = Setup::new();
    let (a, b, later) = (setup.vote(0, 1, 1, &[3, 5], 1), setup.vote(0, 1, 2, &[5], 2), setup.vote(1, 2, 2, &[5], 3));
    let validator = ValidatorIndex::new;
    assert_eq!(setup.proven(&double_vote(5, &a, &a)).unwrap_err(), Unproven::Predicate(validator(5)));
    assert_eq!(setup.proven(&double_vote(5, &a, &later)).unwrap_err(), Unproven::Predicate(validator(5)));
    assert_eq!(setup.proven(&double_vote(3, &a, &b)).unwrap_err(), Unproven::NotASigner(validator(3)));
    // A signer too many, a signer too few: the aggregate signature no longer holds for exactly its
    // signers.
    for signers in [&[3u64, 5, 6][..], &[5]] {
        let indices = signers.iter().map(|index| validator(*index)).collect();
        let tampered = Arc::new(StoredVote { indices, ..(*a).clone() });
        assert_eq!(setup.proven(&double_vote(5, &tampered, &b)).unwrap_err(), Unproven::Signature(a.data_root));
    }
    let repeated = Arc::new(StoredVote { indices: vec![validator(5), validator(5)], ..(*a).clone() });
    assert_eq!(setup.proven(&double_vote(5, &repeated, &b)).unwrap_err(), Unproven::Indices(a.data_root));
    let stranger = Arc::new(StoredVote { indices: vec![validator(5), validator(1 << 63)], ..(*a).clone() });
    assert_eq!(setup.proven(&double_vote(5, &stranger, &b)).unwrap_err(), Unproven::Signature(a.data_root));
}

#[test]
fn a_double_proposal_needs_two_headers_of_one_proposer_and_slot() {
    let setup = Setup::new();
    let conflict = |first, second| Conflict::DoubleProposal { validator: ValidatorIndex::new(4), first, second };
    let (a, b) = (setup.proposal(9, 1, 4), setup.proposal(9, 2, 4));
    let proven = setup.proven(&conflict(a.clone(), b.clone())).unwrap();
    assert_eq!(proven.finding, setup.proven(&conflict(b.clone(), a.clone())).unwrap().finding);
    let refused = Err(Unproven::Predicate(ValidatorIndex::new(4)));
    for other in [setup.proposal(10, 2, 4), setup.proposal(9, 2, 5), a.clone()] {
        assert_eq!(setup.proven(&conflict(a.clone(), other)).map(|_| ()), refused);
    }
    let forged = StoredProposal { signature: b.signature, ..a.clone() };
    assert_eq!(setup.proven(&conflict(forged, b)).unwrap_err(), Unproven::Signature(a.root));
}

#[test]
fn an_operation_accuses_everyone_who_is_in_both_sides_and_carries_itself_as_evidence() {
    let setup = Setup::new();
    let (a, b) = (setup.vote(0, 1, 1, &[3, 5, 9], 1), setup.vote(0, 1, 2, &[2, 5, 9], 2));
    let slashing = slashing_of(&a, &b);
    let operation = |body| SlashingOp { body, fork: consensus::ForkName::Fulu, heard: heard(5), included_in: None };
    let proven = setup.prove_operation(&operation(SlashingBody::Attester(Box::new(slashing.clone())))).unwrap();
    let accused: Vec<u64> = proven.iter().map(|one| one.finding.validator.as_ref().unwrap().index.as_u64()).collect();
    assert_eq!(accused, [5, 9]);
    assert!(proven.iter().all(|one| one.evidence.ssz == slashing.to_ssz()));

    let (one, two) = (setup.proposal(9, 1, 4), setup.proposal(9, 2, 4));
    let signed = |side: &StoredProposal| consensus::SignedBeaconBlockHeader { message: side.header, signature: side.signature };
    let slashing = ProposerSlashing { signed_header_1: signed(&one), signed_header_2: signed(&two) };
    let proven = setup.prove_operation(&operation(SlashingBody::Proposer(Box::new(slashing)))).unwrap();
    assert_eq!(proven.len(), 1);
}
