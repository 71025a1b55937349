//! The second proof, and the finding that it allows.

use chain::{Chain, SignedWith};
use consensus::{
    AttestationData, AttesterSlashing, Epoch, ForkName, ForkVersion, IndexedAttestation, Offence, ProposerSlashing, Root,
    SignatureBytes, SignedBeaconBlockHeader, Slot, ValidatorIndex, is_double_proposal, is_slashable_attestation_data,
};
use evidence::{Evidence, EvidenceKind, Finding, Slashable, Time};
use index::{Conflict, StoredProposal, StoredVote};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use verify::{Arrival, SlashingBody, SlashingOp};

/// A proven offence: what is told, and what proves it.
#[derive(Clone, Debug)]
pub struct Judged {
    pub finding: Finding,
    pub evidence: Arc<Evidence>,
}

/// A conflict that the second proof did not confirm. It accuses nobody; it says that we have a defect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("the predicate does not hold on the pair of validator {0}")]
    Predicate(ValidatorIndex),
    #[error("validator {0} is not among the signers of both messages")]
    NotASigner(ValidatorIndex),
    #[error("the indices of the message with data {0} are not ascending and unique")]
    Indices(Root),
    #[error("the signature of the message with root {0} does not hold for exactly its signers")]
    Signature(Root),
}

/// What was already checked of a batch: conflicts of many validators share slashings, and more of them share a side.
#[derive(Default)]
pub struct Proofs {
    /// By the two votes' places in memory: thousands of offenders share a pair, and each list of signers is as long.
    pairs: HashMap<[*const StoredVote; 2], Pair>,
    /// By evidence id.
    slashings: HashMap<Root, Result<Proof, Unproven>>,
    sides: HashMap<Side, Result<ForkVersion, Unproven>>,
}

/// Evidence, and the versions with which the signatures of its two sides hold.
#[derive(Clone)]
struct Proof {
    evidence: Arc<Evidence>,
    versions: [ForkVersion; 2],
}

/// Two votes, kept so that their places stay theirs.
struct Pair {
    _votes: [Arc<StoredVote>; 2],
    proof: Result<Proof, Unproven>,
}

/// Data, signature, signers: all that a check depends on.
type Side = (Root, SignatureBytes, Vec<ValidatorIndex>);

/// Proves a conflict from the index a second time and makes the finding.
pub fn judge(conflict: &Conflict, chain: &Chain, proofs: &mut Proofs) -> Result<Judged, Unproven> {
    match conflict {
        Conflict::DoubleVote { validator, first, second, arrivals } => {
            // Either order is a double vote: the one that does not depend on which came first.
            let (one, two) = if first.data_root <= second.data_root { (first, second) } else { (second, first) };
            judge_votes(Offence::DoubleVote, *validator, one, two, *arrivals, chain, proofs)
        }
        Conflict::Surround { validator, surrounding, surrounded, arrivals } => {
            judge_votes(Offence::SurroundVote, *validator, surrounding, surrounded, *arrivals, chain, proofs)
        }
        Conflict::DoubleProposal { validator, first, second } => judge_proposals(*validator, first, second, chain, proofs),
    }
}

/// Judges a slashing operation that somebody else made. All its offenders are named, with the operation as evidence.
pub fn judge_operation(operation: &SlashingOp, chain: &Chain) -> Result<Vec<Judged>, Unproven> {
    let mut proofs = Proofs::default();
    let heard = &operation.heard;
    match &operation.body {
        SlashingBody::Attester(slashing) => {
            let stored = |side: &IndexedAttestation| {
                Arc::new(StoredVote {
                    data: side.data,
                    data_root: side.data.root(),
                    indices: side.attesting_indices.clone(),
                    signature: side.signature,
                    heard: heard.clone(),
                })
            };
            let (one, two) = (stored(&slashing.attestation_1), stored(&slashing.attestation_2));
            let Some(offence) = offence_of(&one.data, &two.data) else { return Ok(Vec::new()) };
            let both = one.indices.iter().filter(|index| two.indices.binary_search(index).is_ok());
            both.map(|index| judge_votes(offence, *index, &one, &two, [heard.arrival(); 2], chain, &mut proofs)).collect()
        }
        SlashingBody::Proposer(slashing) => {
            let stored = |side: &SignedBeaconBlockHeader| StoredProposal {
                header: side.message,
                root: side.message.root(),
                signature: side.signature,
                heard: heard.clone(),
            };
            let (one, two) = (stored(&slashing.signed_header_1), stored(&slashing.signed_header_2));
            if !is_double_proposal(&one.header, &two.header) {
                return Ok(Vec::new());
            }
            Ok(vec![judge_proposals(one.header.proposer_index, &one, &two, chain, &mut proofs)?])
        }
    }
}

/// Findings of one batch, each once. What an operation shows and the index shows as well has the times and sources of the index, which
/// knows when either message came first. Its evidence is the operation only if it is known from nothing else: if the index had both
/// sides before the operation came, the index's proof stays.
pub fn merge(from_operations: Vec<Judged>, from_index: Vec<Judged>) -> Vec<Judged> {
    let mut indexed: HashMap<Root, Judged> = HashMap::new();
    let mut order = Vec::new();
    for judged in from_index {
        order.push(judged.finding.id);
        indexed.entry(judged.finding.id).or_insert(judged);
    }
    let mut merged = Vec::new();
    for mut judged in from_operations {
        let Some(known) = indexed.remove(&judged.finding.id) else {
            merged.push(judged);
            continue;
        };
        let before_operation = known.finding.second_seen < Some(judged.finding.first_seen);
        if before_operation {
            merged.push(known);
        } else {
            let Finding { first_seen, second_seen, sources, .. } = known.finding;
            judged.finding = Finding { first_seen, second_seen, sources, ..judged.finding };
            merged.push(judged);
        }
    }
    merged.extend(order.iter().filter_map(|id| indexed.remove(id)));
    merged
}

fn offence_of(data_1: &AttestationData, data_2: &AttestationData) -> Option<Offence> {
    if consensus::is_double_vote(data_1, data_2) {
        Some(Offence::DoubleVote)
    } else if consensus::surrounds(data_1, data_2) {
        Some(Offence::SurroundVote)
    } else {
        None
    }
}

/// `arrivals`: of this validator's two messages, in any order.
fn judge_votes(
    offence: Offence,
    validator: ValidatorIndex,
    one: &Arc<StoredVote>,
    two: &Arc<StoredVote>,
    arrivals: [Arrival; 2],
    chain: &Chain,
    proofs: &mut Proofs,
) -> Result<Judged, Unproven> {
    if offence_of(&one.data, &two.data) != Some(offence) || !is_slashable_attestation_data(&one.data, &two.data) {
        return Err(Unproven::Predicate(validator));
    }
    for side in [one, two] {
        if side.indices.binary_search(&validator).is_err() {
            return Err(Unproven::NotASigner(validator));
        }
    }
    let later =
        if (two.data.slot, two.data.target.epoch) >= (one.data.slot, one.data.target.epoch) { &two.data } else { &one.data };
    let (slot, epoch) = (later.slot, later.target.epoch);
    let fork = chain.network().spec.fork_name_at(epoch);
    let Proof { evidence, versions } = proofs.pair(fork, [one, two], chain)?;
    let epochs = [one.data.target.epoch, two.data.target.epoch];
    let signed = [0, 1].map(|side| SignedWith { epoch: epochs[side], version: versions[side] });
    let roots = [one.data_root, two.data_root];
    let finding = Subject { offence, validator, slot, epoch, fork, signed, roots, arrivals };
    Ok(finding.judged(chain, evidence))
}

fn judge_proposals(
    validator: ValidatorIndex,
    first: &StoredProposal,
    second: &StoredProposal,
    chain: &Chain,
    proofs: &mut Proofs,
) -> Result<Judged, Unproven> {
    let (one, two) = if first.root <= second.root { (first, second) } else { (second, first) };
    if !is_double_proposal(&one.header, &two.header) || one.header.proposer_index != validator {
        return Err(Unproven::Predicate(validator));
    }
    let slot = one.header.slot;
    let epoch = slot.epoch(chain.network().preset());
    let fork = chain.network().spec.fork_name_at(epoch);
    let signed = |side: &StoredProposal| SignedBeaconBlockHeader { message: side.header, signature: side.signature };
    let Proof { evidence, versions } =
        proofs.proposer(fork, ProposerSlashing { signed_header_1: signed(one), signed_header_2: signed(two) }, chain)?;
    let finding = Subject {
        offence: Offence::DoubleProposal,
        validator,
        slot,
        epoch,
        fork,
        signed: versions.map(|version| SignedWith { epoch, version }),
        roots: [one.root, two.root],
        arrivals: [one.heard.arrival(), two.heard.arrival()],
    };
    Ok(finding.judged(chain, evidence))
}

fn indexed(vote: &StoredVote) -> IndexedAttestation {
    IndexedAttestation { attesting_indices: vote.indices.clone(), data: vote.data, signature: vote.signature }
}

impl Proofs {
    fn pair(&mut self, fork: ForkName, votes: [&Arc<StoredVote>; 2], chain: &Chain) -> Result<Proof, Unproven> {
        let place = votes.map(Arc::as_ptr);
        if let Some(pair) = self.pairs.get(&place) {
            return pair.proof.clone();
        }
        let [attestation_1, attestation_2] = votes.map(|vote| indexed(vote));
        let proof = self.attester(fork, AttesterSlashing { attestation_1, attestation_2 }, chain);
        self.pairs.insert(place, Pair { _votes: votes.map(Arc::clone), proof: proof.clone() });
        proof
    }

    fn attester(&mut self, fork: ForkName, slashing: AttesterSlashing, chain: &Chain) -> Result<Proof, Unproven> {
        let evidence = proof(EvidenceKind::AttesterSlashing, fork, slashing.to_ssz(), &slashing);
        if let Some(known) = self.slashings.get(&evidence.id) {
            return known.clone();
        }
        let first = self.side(&slashing.attestation_1, chain);
        let checked = first.and_then(|first| Ok([first, self.side(&slashing.attestation_2, chain)?]));
        self.checked(evidence, checked)
    }

    /// About 1 ms, the first time.
    fn side(&mut self, side: &IndexedAttestation, chain: &Chain) -> Result<ForkVersion, Unproven> {
        let root = side.data.root();
        let key = (root, side.signature, side.attesting_indices.clone());
        let check = || {
            if side.attesting_indices.is_empty() || !side.attesting_indices.is_sorted_by(|a, b| a < b) {
                return Err(Unproven::Indices(root));
            }
            verify::version_of_indexed_attestation(chain, side).ok_or(Unproven::Signature(root))
        };
        self.sides.entry(key).or_insert_with(check).clone()
    }

    fn proposer(&mut self, fork: ForkName, slashing: ProposerSlashing, chain: &Chain) -> Result<Proof, Unproven> {
        let evidence = proof(EvidenceKind::ProposerSlashing, fork, slashing.to_ssz(), &slashing);
        if let Some(known) = self.slashings.get(&evidence.id) {
            return known.clone();
        }
        let check = |side: &SignedBeaconBlockHeader| {
            verify::version_of_signed_header(chain, side).ok_or_else(|| Unproven::Signature(side.message.root()))
        };
        let first = check(&slashing.signed_header_1);
        let checked = first.and_then(|first| Ok([first, check(&slashing.signed_header_2)?]));
        self.checked(evidence, checked)
    }

    fn checked(&mut self, evidence: Evidence, checked: Result<[ForkVersion; 2], Unproven>) -> Result<Proof, Unproven> {
        let id = evidence.id;
        let proof = checked.map(|versions| Proof { evidence: Arc::new(evidence), versions });
        self.slashings.entry(id).or_insert(proof).clone()
    }
}

/// What a finding is about.
struct Subject {
    offence: Offence,
    validator: ValidatorIndex,
    slot: Slot,
    epoch: Epoch,
    fork: ForkName,
    signed: [SignedWith; 2],
    roots: [Root; 2],
    /// Of its two messages, in any order.
    arrivals: [Arrival; 2],
}

impl Subject {
    fn judged(self, chain: &Chain, evidence: Arc<Evidence>) -> Judged {
        let facts = Slashable {
            genesis_validators_root: chain.network().genesis_validators_root,
            offence: self.offence,
            validator: self.validator,
            pubkey: chain.registry().pubkey_bytes(self.validator).unwrap_or_default(),
            labels: Vec::new(),
            roots: self.roots,
            slot: self.slot,
            epoch: self.epoch,
            seen: self.arrivals.map(|arrival| Time::from_unix_ns(arrival.at.0)),
            // Stamped by whoever writes it down: nothing here reads a clock.
            recorded_at: Time::default(),
            sources: self.arrivals.iter().map(|arrival| arrival.source.label().to_owned()).collect(),
            fork: self.fork,
            punishable: chain.punishable(self.validator, self.signed),
        };
        Judged { finding: Finding::slashable(facts, &evidence), evidence }
    }
}

fn proof(kind: EvidenceKind, fork: ForkName, ssz: Vec<u8>, object: &impl Serialize) -> Evidence {
    let json = serde_json::to_value(object).expect("containers are numbers, strings and lists");
    Evidence::new(kind, fork, ssz, json)
}
