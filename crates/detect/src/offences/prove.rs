//! The second proof of a conflict, and the finding that follows from it.

use base::BoundedMap;
use chain::{Chain, SignedWith};
use consensus::{
    AttestationData, AttesterSlashing, Epoch, ForkName, ForkVersion, IndexedAttestation, Offence, ProposerSlashing, Root,
    SignatureBytes, SignedBeaconBlockHeader, Slot, ValidatorIndex, is_double_proposal, is_slashable_attestation_data, sha256,
};
use evidence::{Evidence, EvidenceKind, Finding, OffenceFacts, Time, finding_id};
use index::{Conflict, StoredProposal, StoredVote};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use verify::{Arrival, SlashingBody, SlashingOp};

/// A proven offence: the finding and its proof.
#[derive(Clone, Debug)]
pub struct ProvenConflict {
    pub finding: Finding,
    pub evidence: Arc<Evidence>,
}

/// A conflict that the second proof did not confirm. It accuses nobody; it shows that this program
/// has a defect.
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

/// What was already checked. Conflicts of many validators share slashings, and even more of them
/// share one of the two messages. So what is proven is kept for the rest of its batch. That a
/// signature holds is remembered longer, for the last [`MAX_VERIFIED`] signatures.
pub struct Proofs {
    /// By the addresses of the two votes in memory. Thousands of offenders share a pair, and each
    /// list of signers is just as long, so comparing the content would be slow.
    pairs: HashMap<[usize; 2], Pair>,
    /// By evidence id.
    slashings: HashMap<Root, Result<Proof, Unproven>>,
    /// The version with which a signature holds, by a hash of everything that the check depends on.
    verified: BoundedMap<Root, ForkVersion>,
}

impl Default for Proofs {
    fn default() -> Self {
        Self { pairs: HashMap::new(), slashings: HashMap::new(), verified: BoundedMap::new(MAX_VERIFIED) }
    }
}

/// Evidence, and the versions with which the signatures of its two sides hold.
#[derive(Clone)]
struct Proof {
    evidence: Arc<Evidence>,
    versions: [ForkVersion; 2],
}

/// The proof of a pair of votes. It keeps the votes alive, so that their addresses are not used
/// again.
struct Pair {
    _votes: [Arc<StoredVote>; 2],
    proof: Result<Proof, Unproven>,
}

/// Number of signatures that are remembered as valid: 2 MB.
const MAX_VERIFIED: usize = 16_384;

/// What a finding would be about, before it is proven a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub offence: Offence,
    pub validator: ValidatorIndex,
    /// Hash-tree-roots of the two messages.
    pub roots: [Root; 2],
    /// Target epochs of the two votes. For proposals, the epoch of their slot.
    pub epochs: [Epoch; 2],
    /// Arrivals of the two messages, in any order.
    pub arrivals: [Arrival; 2],
}

impl Candidate {
    /// The candidate of a conflict from the index.
    pub fn of(conflict: &Conflict, chain: &Chain) -> Self {
        match conflict {
            Conflict::DoubleVote { validator, first, second, arrivals } => {
                Self::votes(Offence::DoubleVote, *validator, first, second, *arrivals)
            }
            Conflict::Surround { validator, surrounding, surrounded, arrivals } => {
                Self::votes(Offence::SurroundVote, *validator, surrounding, surrounded, *arrivals)
            }
            Conflict::DoubleProposal { validator, first, second } => Self {
                offence: Offence::DoubleProposal,
                validator: *validator,
                roots: [first.root, second.root],
                epochs: [first.header.slot, second.header.slot].map(|slot| slot.epoch(chain.network().preset())),
                arrivals: [first.heard.arrival(), second.heard.arrival()],
            },
        }
    }

    fn votes(offence: Offence, validator: ValidatorIndex, one: &StoredVote, two: &StoredVote, arrivals: [Arrival; 2]) -> Self {
        let epochs = [one.data.target.epoch, two.data.target.epoch];
        Self { offence, validator, roots: [one.data_root, two.data_root], epochs, arrivals }
    }

    /// The id that the finding would have.
    pub fn id(&self, genesis_validators_root: Root) -> Root {
        let [one, two] = self.roots;
        finding_id(genesis_validators_root, self.offence, self.validator, one, two)
    }

    /// The order in which the candidates of one batch are handled. It depends on the messages only
    /// and not on the batch.
    pub fn order(&self) -> impl Ord + use<> {
        let [one, two] = self.arrivals;
        let [root, other] = self.roots;
        (one.max(two), one.min(two), self.validator, self.offence, root.min(other), root.max(other))
    }
}

/// Proves a conflict from the index a second time and makes the finding.
pub fn prove_conflict(conflict: &Conflict, chain: &Chain, proofs: &mut Proofs) -> Result<ProvenConflict, Unproven> {
    match conflict {
        Conflict::DoubleVote { validator, first, second, arrivals } => {
            // Either order is a double vote. This order does not depend on which vote came first.
            let (one, two) = if first.data_root <= second.data_root { (first, second) } else { (second, first) };
            prove_votes(Offence::DoubleVote, *validator, one, two, *arrivals, chain, proofs)
        }
        Conflict::Surround { validator, surrounding, surrounded, arrivals } => {
            prove_votes(Offence::SurroundVote, *validator, surrounding, surrounded, *arrivals, chain, proofs)
        }
        Conflict::DoubleProposal { validator, first, second } => prove_proposals(*validator, first, second, chain, proofs),
    }
}

/// The validators that a slashing operation accuses, each once, before anything is proven a second
/// time.
pub fn accused(operation: &SlashingOp, chain: &Chain) -> Vec<Candidate> {
    let arrivals = [operation.heard.arrival(); 2];
    match &operation.body {
        SlashingBody::Attester(slashing) => {
            let (one, two) = (&slashing.attestation_1, &slashing.attestation_2);
            let Some(offence) = offence_of(&one.data, &two.data) else { return Vec::new() };
            let roots = [one.data.root(), two.data.root()];
            let epochs = [one.data.target.epoch, two.data.target.epoch];
            let both = one.attesting_indices.iter().filter(|index| two.attesting_indices.binary_search(index).is_ok());
            both.map(|validator| Candidate { offence, validator: *validator, roots, epochs, arrivals }).collect()
        }
        SlashingBody::Proposer(slashing) => {
            let [one, two] = [&slashing.signed_header_1.message, &slashing.signed_header_2.message];
            if !is_double_proposal(one, two) {
                return Vec::new();
            }
            vec![Candidate {
                offence: Offence::DoubleProposal,
                validator: one.proposer_index,
                roots: [one.root(), two.root()],
                epochs: [one.slot, two.slot].map(|slot| slot.epoch(chain.network().preset())),
                arrivals,
            }]
        }
    }
}

/// Proves a slashing operation that somebody else made. It proves the offence of each of
/// `validators`, which must be among the [`accused`], with the operation as evidence.
pub fn prove_operation(
    operation: &SlashingOp,
    validators: &[ValidatorIndex],
    chain: &Chain,
    proofs: &mut Proofs,
) -> Result<Vec<ProvenConflict>, Unproven> {
    if validators.is_empty() {
        return Ok(Vec::new());
    }
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
            let Some(offence) = offence_of(&slashing.attestation_1.data, &slashing.attestation_2.data) else {
                return Ok(Vec::new());
            };
            let (one, two) = (stored(&slashing.attestation_1), stored(&slashing.attestation_2));
            let arrivals = [heard.arrival(); 2];
            validators.iter().map(|index| prove_votes(offence, *index, &one, &two, arrivals, chain, proofs)).collect()
        }
        SlashingBody::Proposer(slashing) => {
            let stored = |side: &SignedBeaconBlockHeader| StoredProposal {
                header: side.message,
                root: side.message.root(),
                signature: side.signature,
                heard: heard.clone(),
            };
            let (one, two) = (stored(&slashing.signed_header_1), stored(&slashing.signed_header_2));
            validators.iter().map(|index| prove_proposals(*index, &one, &two, chain, proofs)).collect()
        }
    }
}

/// Merges the findings of one batch, so that each finding is there once. A finding from both an
/// operation and the index gets the times and sources of the index, which knows when either message
/// first came. Its evidence is that of the operation, unless the index had both messages before the
/// operation came: then the index's proof stays.
pub fn merge(from_operations: Vec<ProvenConflict>, from_index: Vec<ProvenConflict>) -> Vec<ProvenConflict> {
    let mut indexed: HashMap<Root, ProvenConflict> = HashMap::new();
    let mut order = Vec::new();
    for proven in from_index {
        order.push(proven.finding.id);
        indexed.entry(proven.finding.id).or_insert(proven);
    }
    let mut merged = Vec::new();
    for mut proven in from_operations {
        let Some(known) = indexed.remove(&proven.finding.id) else {
            merged.push(proven);
            continue;
        };
        let before_operation = known.finding.second_seen < Some(proven.finding.first_seen);
        if before_operation {
            merged.push(known);
        } else {
            // Whatever else follows from times and sources has to be taken over here too.
            let Finding { first_seen, second_seen, sources, .. } = known.finding;
            proven.finding = Finding { first_seen, second_seen, sources, ..proven.finding };
            merged.push(proven);
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

/// `arrivals` are those of this validator's two messages, in any order.
fn prove_votes(
    offence: Offence,
    validator: ValidatorIndex,
    one: &Arc<StoredVote>,
    two: &Arc<StoredVote>,
    arrivals: [Arrival; 2],
    chain: &Chain,
    proofs: &mut Proofs,
) -> Result<ProvenConflict, Unproven> {
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
    let finding = TwoMessages { offence, validator, slot, epoch, fork, signed, roots, arrivals };
    Ok(finding.proven(chain, evidence))
}

fn prove_proposals(
    validator: ValidatorIndex,
    first: &StoredProposal,
    second: &StoredProposal,
    chain: &Chain,
    proofs: &mut Proofs,
) -> Result<ProvenConflict, Unproven> {
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
    let finding = TwoMessages {
        offence: Offence::DoubleProposal,
        validator,
        slot,
        epoch,
        fork,
        signed: versions.map(|version| SignedWith { epoch, version }),
        roots: [one.root, two.root],
        arrivals: [one.heard.arrival(), two.heard.arrival()],
    };
    Ok(finding.proven(chain, evidence))
}

fn indexed(vote: &StoredVote) -> IndexedAttestation {
    IndexedAttestation { attesting_indices: vote.indices.clone(), data: vote.data, signature: vote.signature }
}

impl Proofs {
    fn pair(&mut self, fork: ForkName, votes: [&Arc<StoredVote>; 2], chain: &Chain) -> Result<Proof, Unproven> {
        let place = votes.map(|vote| Arc::as_ptr(vote).addr());
        if let Some(pair) = self.pairs.get(&place) {
            return pair.proof.clone();
        }
        let [attestation_1, attestation_2] = votes.map(|vote| indexed(vote));
        let proof = self.attester(fork, AttesterSlashing { attestation_1, attestation_2 }, chain);
        self.pairs.insert(place, Pair { _votes: votes.map(Arc::clone), proof: proof.clone() });
        proof
    }

    fn attester(&mut self, fork: ForkName, slashing: AttesterSlashing, chain: &Chain) -> Result<Proof, Unproven> {
        let evidence = evidence(EvidenceKind::AttesterSlashing, fork, slashing.to_ssz(), &slashing);
        if let Some(known) = self.slashings.get(&evidence.id) {
            return known.clone();
        }
        let first = self.side(&slashing.attestation_1, chain);
        let checked = first.and_then(|first| Ok([first, self.side(&slashing.attestation_2, chain)?]));
        self.checked(evidence, checked)
    }

    /// Checks one message of the slashing. The first check takes about 1 ms.
    fn side(&mut self, side: &IndexedAttestation, chain: &Chain) -> Result<ForkVersion, Unproven> {
        let root = side.data.root();
        if side.attesting_indices.is_empty() || !side.attesting_indices.is_sorted_by(|a, b| a < b) {
            return Err(Unproven::Indices(root));
        }
        self.version_of(root, &side.signature, &side.attesting_indices, || verify::version_of_indexed_attestation(chain, side))
    }

    fn proposer(&mut self, fork: ForkName, slashing: ProposerSlashing, chain: &Chain) -> Result<Proof, Unproven> {
        let evidence = evidence(EvidenceKind::ProposerSlashing, fork, slashing.to_ssz(), &slashing);
        if let Some(known) = self.slashings.get(&evidence.id) {
            return known.clone();
        }
        let mut check = |side: &SignedBeaconBlockHeader| {
            let (root, signers) = (side.message.root(), [side.message.proposer_index]);
            self.version_of(root, &side.signature, &signers, || verify::version_of_signed_header(chain, side))
        };
        let first = check(&slashing.signed_header_1);
        let checked = first.and_then(|first| Ok([first, check(&slashing.signed_header_2)?]));
        self.checked(evidence, checked)
    }

    /// The version with which the signature of this message by these signers holds. `check` is
    /// called only if the result is not remembered.
    fn version_of(
        &mut self,
        root: Root,
        signature: &SignatureBytes,
        signers: &[ValidatorIndex],
        check: impl FnOnce() -> Option<ForkVersion>,
    ) -> Result<ForkVersion, Unproven> {
        let mut bytes = [root.as_slice(), signature.as_slice()].concat();
        bytes.extend(signers.iter().flat_map(|signer| signer.as_u64().to_le_bytes()));
        let hash = Root::from(sha256(&bytes));
        if let Some(version) = self.verified.get(&hash) {
            return Ok(*version);
        }
        let version = check().ok_or(Unproven::Signature(root))?;
        self.verified.insert(hash, version);
        Ok(version)
    }

    /// Ends the batch: drops everything that keeps its messages in memory.
    pub fn end_batch(&mut self) {
        self.pairs.clear();
        self.slashings.clear();
    }

    fn checked(&mut self, evidence: Evidence, checked: Result<[ForkVersion; 2], Unproven>) -> Result<Proof, Unproven> {
        let id = evidence.id;
        let proof = checked.map(|versions| Proof { evidence: Arc::new(evidence), versions });
        self.slashings.entry(id).or_insert(proof).clone()
    }
}

/// The two messages of one offence, as a finding tells of them.
struct TwoMessages {
    offence: Offence,
    validator: ValidatorIndex,
    slot: Slot,
    epoch: Epoch,
    fork: ForkName,
    signed: [SignedWith; 2],
    roots: [Root; 2],
    /// Arrivals of the two messages, in any order.
    arrivals: [Arrival; 2],
}

impl TwoMessages {
    fn proven(self, chain: &Chain, evidence: Arc<Evidence>) -> ProvenConflict {
        let facts = OffenceFacts {
            genesis_validators_root: chain.network().genesis_validators_root,
            offence: self.offence,
            validator: self.validator,
            pubkey: chain.registry().pubkey_bytes(self.validator).unwrap_or_default(),
            labels: Vec::new(),
            roots: self.roots,
            slot: self.slot,
            epoch: self.epoch,
            seen: self.arrivals.map(|arrival| Time::from_unix_ns(arrival.at.0)),
            // Whoever stores the finding sets this time, because nothing here reads a clock.
            recorded_at: Time::default(),
            sources: self.arrivals.iter().map(|arrival| arrival.source.label().to_owned()).collect(),
            fork: self.fork,
            punishable: chain.punishable(self.validator, self.signed),
        };
        ProvenConflict { finding: Finding::slashable(facts, &evidence), evidence }
    }
}

fn evidence(kind: EvidenceKind, fork: ForkName, ssz: Vec<u8>, object: &impl Serialize) -> Evidence {
    let json = serde_json::to_value(object).expect("containers are numbers, strings and lists");
    Evidence::new(kind, fork, ssz, json)
}
