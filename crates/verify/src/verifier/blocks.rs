//! Proves blocks and headers. A header is proven by its proposer's signature. The body belongs to
//! the header because the header contains the body's root, so everything in a proven block was put
//! there by its proposer. A proven block extends the chain if its randao reveal is proven too.

use super::named::SlashingJob;
use super::prover::Signers;
use super::{OutcomeCollector, PendingOutcome, SortedBatch, Verifier, without_key};
use crate::batch::{BatchResult, ClaimRef, ClaimResult, ClaimSet, SignatureClaim};
use crate::check;
use crate::decode::VoteByBits;
use crate::parking::Job;
use crate::{FirstSeen, Inclusion, InnerKind, NotProvable, Outcome, ProvenBlock, SourceKind, Time, forward};
use base::BoundedMap;
use chain::{BlockFacts, Chain, Extension};
use consensus::{Epoch, ForkName, Network, Root, SignatureBytes, SignedBeaconBlockHeader, SignedBlock, Slot, ValidatorIndex};

/// Maximum number of blocks of one slot that are checked with the key of a deposit. A check takes
/// some 10 ms at most. Blocks that we have asked for are not limited by it.
const MAX_NEWCOMER_CHECKS: u32 = 64;
/// The same for one peer. Anybody can send a forged block before the genuine one.
const MAX_NEWCOMER_CHECKS_OF_PEER: u32 = 2;

/// A block before the equation.
pub(super) struct BlockJob {
    pub(super) item: PendingOutcome,
    pub(super) heard: FirstSeen,
    pub(super) block: Box<SignedBlock>,
    pub(super) fork: ForkName,
    pub(super) ssz: Vec<u8>,
}

/// A header before the equation.
pub(super) struct HeaderJob {
    pub(super) item: PendingOutcome,
    pub(super) heard: FirstSeen,
    pub(super) header: SignedBeaconBlockHeader,
}

/// What is known about a header, a side of an attester slashing or a statement before the equation.
#[derive(Clone, Copy)]
pub(super) enum PriorResult {
    /// Exactly this signature was proven before.
    Known,
    /// This signature is forged: another one was proven, and only one BLS signature is valid; or
    /// this signature was found forged before.
    Forged,
    /// The equation decides. The value is the claim's position.
    Pending(ClaimRef),
}

impl PriorResult {
    pub(super) fn result(self, proofs: &BatchResult) -> ClaimResult {
        match self {
            Self::Known => ClaimResult::Proven { alone: true },
            Self::Forged => ClaimResult::Forged,
            Self::Pending(place) => proofs.of(place.claim),
        }
    }

    /// Whether the same claim was proven before, or an earlier message of this batch makes it too.
    pub(super) fn is_repeat(self) -> bool {
        match self {
            Self::Known => true,
            Self::Forged => false,
            Self::Pending(place) => !place.first,
        }
    }
}

/// The headers and blocks that were proven before.
#[derive(Debug)]
pub(super) struct SeenBlocks {
    /// Proven headers by root, with their only valid signature.
    proposals: BoundedMap<Root, SignatureBytes>,
    blocks: BoundedMap<Root, ()>,
    /// The first proven block of each slot and proposer. A second one is not forwarded.
    first: BoundedMap<(Slot, ValidatorIndex), Root>,
    /// Number of blocks by proposers without a key that were checked, by slot of the block, in all
    /// and for each peer.
    newcomer_checks: BoundedMap<(Slot, Option<Root>), u32>,
}

impl Verifier {
    /// Whether the proposer's signature of this block was proven, not long ago.
    pub fn has_proven_block(&self, root: &Root) -> bool {
        self.blocks.blocks.contains(root)
    }
}

impl SeenBlocks {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            proposals: BoundedMap::new(limit),
            blocks: BoundedMap::new(limit),
            first: BoundedMap::new(limit),
            newcomer_checks: BoundedMap::new(limit),
        }
    }

    pub(super) fn remember_proposal(&mut self, root: Root, signature: SignatureBytes) {
        self.proposals.insert(root, signature);
    }

    /// The root of the first proven block of this slot and proposer.
    pub(super) fn first_of(&self, slot: Slot, proposer: ValidatorIndex) -> Option<&Root> {
        self.first.get(&(slot, proposer))
    }

    /// Remembers a proven block. Returns whether it is the first one of its proposer for the slot.
    /// Gossipsub forwards only that one.
    fn insert(&mut self, slot: Slot, proposer: ValidatorIndex, root: Root) -> bool {
        self.blocks.insert(root, ());
        match self.first.get(&(slot, proposer)) {
            Some(first) => *first == root,
            None => {
                self.first.insert((slot, proposer), root);
                true
            }
        }
    }
}

impl Verifier {
    /// Proves the blocks and headers of a batch, all of them together.
    pub(super) fn prove_blocks(
        &mut self,
        chain: &mut Chain,
        sorted: &mut SortedBatch,
        now: Time,
        collector: &mut OutcomeCollector,
    ) {
        let network = chain.network().clone();
        let mut claims = ClaimSet::default();
        let headers: Vec<(HeaderJob, PriorResult)> = std::mem::take(&mut sorted.headers)
            .into_iter()
            .map(|job| {
                let prior = self.prior_of_header(&mut claims, chain, &job.header, job.header.message.root(), &job.heard, None);
                (job, prior)
            })
            .collect();
        let mut blocks: Vec<(BlockJob, PriorResult, ClaimRef)> = std::mem::take(&mut sorted.blocks)
            .into_iter()
            .map(|job| {
                let prior = self.prior_of_header(&mut claims, chain, &job.block.signed_header, job.block.root, &job.heard, None);
                let reveal = claims.add(reveal_claim(&network, &job));
                (job, prior, reveal)
            })
            .collect();
        if headers.is_empty() && blocks.is_empty() {
            return;
        }
        let proofs = self.prove_and_remember(chain, claims, Signers::Certain, collector);
        for (job, prior) in headers {
            self.remember(prior, &proofs);
            let outcome = match prior.result(&proofs) {
                ClaimResult::Proven { .. } if prior.is_repeat() => Outcome::Duplicate,
                // The sidecar around the header is not checked, so it is not forwarded.
                ClaimResult::Proven { .. } => Outcome::Proven { forwardable: false },
                ClaimResult::Forged => Outcome::BadSignature,
                ClaimResult::NoKey => without_key(chain, job.header.message.proposer_index, &job.heard),
                ClaimResult::NoVersion => Outcome::UnknownFork,
            };
            collector.record(job.item, outcome);
        }
        // Parents come before their children.
        blocks.sort_by_key(|(job, ..)| job.block.signed_header.message.slot);
        for (job, prior, reveal) in blocks {
            self.remember(prior, &proofs);
            match prior.result(&proofs) {
                ClaimResult::Proven { .. } if self.blocks.blocks.contains(&job.block.root) => {
                    collector.record(job.item, Outcome::Duplicate)
                }
                ClaimResult::Proven { .. } => {
                    let header = job.block.signed_header.message;
                    let is_first = self.blocks.insert(header.slot, header.proposer_index, job.block.root);
                    let by = ProvenBy::State { is_first };
                    apply_block(chain, sorted, job, proofs.of(reveal.claim), by, now, collector);
                }
                // Another draft may have the same fields and other roots.
                ClaimResult::Forged if self.draft.may_be_other(job.fork) => {
                    self.draft.unread(self.slot);
                    collector.record(job.item, Outcome::SeenNotProvable(NotProvable::OtherDraft));
                }
                ClaimResult::Forged => collector.record(job.item, Outcome::BadSignature),
                ClaimResult::NoKey if self.is_by_newcomer(chain, &job.block, &job.heard) => {
                    self.blocks.blocks.insert(job.block.root, ());
                    let reveal = ClaimResult::Proven { alone: true };
                    apply_block(chain, sorted, job, reveal, ProvenBy::Deposit, now, collector);
                }
                ClaimResult::NoKey => {
                    let proposer = job.block.signed_header.message.proposer_index;
                    collector.record(job.item, without_key(chain, proposer, &job.heard));
                }
                ClaimResult::NoVersion => collector.record(job.item, Outcome::UnknownFork),
            }
        }
    }

    /// Whether a block was made by a validator that a deposit on its branch has added, and that no
    /// state has named yet. Nothing is proven about a validator by that.
    fn is_by_newcomer(&mut self, chain: &mut Chain, block: &SignedBlock, heard: &FirstSeen) -> bool {
        let header = &block.signed_header.message;
        if self.blocks.blocks.contains(&block.root) {
            return false;
        }
        let peer = Root::from(consensus::sha256(heard.peer.as_deref().unwrap_or_default()));
        let limits = [(None, MAX_NEWCOMER_CHECKS), (Some(peer), MAX_NEWCOMER_CHECKS_OF_PEER)];
        let counted = limits.map(|(whose, limit)| {
            let n = self.blocks.newcomer_checks.get(&(header.slot, whose)).copied().unwrap_or(0);
            (whose, n, n >= limit && heard.source != SourceKind::Api)
        });
        if counted.iter().any(|(.., is_spent)| *is_spent) {
            return false;
        }
        let Some(key) = chain.newcomer_key(&header.parent_root, header.slot, header.proposer_index) else { return false };
        for (whose, n, _) in counted {
            self.blocks.newcomer_checks.insert((header.slot, whose), n + 1);
        }
        check::is_block_of(&key, chain.network(), &block.signed_header, &block.randao_reveal)
    }

    /// Adds a claim for a header, unless its root was proven before or this very signature was
    /// found forged before. `block_epoch` is the epoch of the block that contains the header in a
    /// slashing operation.
    pub(super) fn prior_of_header(
        &mut self,
        claims: &mut ClaimSet,
        chain: &Chain,
        header: &SignedBeaconBlockHeader,
        root: Root,
        heard: &FirstSeen,
        block_epoch: Option<Epoch>,
    ) -> PriorResult {
        let network = chain.network();
        let (epoch, now) = (header.message.slot.epoch(network.preset()), chain.now().epoch(network.preset()));
        match self.blocks.proposals.get(&root) {
            Some(signature) if *signature == header.signature => PriorResult::Known,
            // Before a scheduled fork happens, a valid signature exists for each of the two
            // versions.
            Some(_) if !network.spec.is_version_uncertain(epoch, block_epoch.unwrap_or(now)) => PriorResult::Forged,
            Some(_) | None => {
                let claim = SignatureClaim::proposal(network, header.message, root, header.signature, heard.clone());
                // A signature that was found forged with the scheduled version may be valid with
                // another one.
                let is_certain = !network.spec.is_version_uncertain(epoch, block_epoch.unwrap_or(now));
                if is_certain && self.forgeries.is_known(|| claim.fingerprint()) {
                    return PriorResult::Forged;
                }
                PriorResult::Pending(claims.add(claim.in_block_of(block_epoch)))
            }
        }
    }

    /// Remembers the result for a header or for a side of an attester slashing, so that the same
    /// one costs no pairing when it comes again, whether it is valid or forged. Proven headers are
    /// remembered by [`Verifier::prove_and_remember`].
    pub(super) fn remember(&mut self, prior: PriorResult, proofs: &BatchResult) {
        let PriorResult::Pending(place) = prior else { return };
        let claim = proofs.claim(place.claim);
        match proofs.of(place.claim) {
            ClaimResult::Forged => self.forgeries.remember(claim.fingerprint()),
            // A claim that was proven only within a sum is not proven by itself.
            ClaimResult::Proven { alone: true } if claim.vote().is_some() => {
                self.operations.remember_side(claim.fingerprint());
            }
            ClaimResult::Proven { .. } | ClaimResult::NoKey | ClaimResult::NoVersion => {}
        }
    }
}

fn reveal_claim(network: &Network, job: &BlockJob) -> SignatureClaim {
    let header = &job.block.signed_header.message;
    let epoch = header.slot.epoch(network.preset());
    SignatureClaim::randao_reveal(network, header.proposer_index, epoch, job.block.randao_reveal, job.heard.clone())
}

/// How it is known who made a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProvenBy {
    /// A state names the proposer's key. `is_first` is whether it is the first block of its
    /// proposer for the slot.
    State { is_first: bool },
    /// Only a deposit in a block names it. The chain goes on, and the message stays one of an
    /// unknown validator until a state names the key.
    Deposit,
}

/// Processes a block whose proposer's signature is proven: extends the chain and passes on what the
/// block contains.
fn apply_block(
    chain: &mut Chain,
    sorted: &mut SortedBatch,
    job: BlockJob,
    reveal: ClaimResult,
    by: ProvenBy,
    now: Time,
    collector: &mut OutcomeCollector,
) {
    let BlockJob { item, heard, block, fork, ssz } = job;
    let header = block.signed_header.message;
    let (randao_proven, reveal) = match reveal {
        ClaimResult::Proven { alone } => (true, Outcome::Proven { forwardable: alone }),
        ClaimResult::Forged => (false, Outcome::BadSignature),
        ClaimResult::NoKey => (false, Outcome::UnknownValidator),
        ClaimResult::NoVersion => (false, Outcome::UnknownFork),
    };
    collector.record(item.inside(InnerKind::RandaoReveal), reveal);
    if randao_proven {
        let extension = chain.extend(&BlockFacts {
            root: block.root,
            slot: header.slot,
            parent_root: header.parent_root,
            proposer_index: header.proposer_index,
            randao_reveal: block.randao_reveal,
        });
        match extension {
            Extension::Attached | Extension::Known | Extension::Orphan { .. } => chain.note_registry_moves(&block, fork),
            Extension::TooOld | Extension::Refused(_) => {}
        }
    }
    let included_in = Some(Inclusion { block: block.root, slot: header.slot });
    let inside = |source| FirstSeen { source, ..heard.clone() };
    for attestation in block.attestations.iter().cloned() {
        let n_bytes = attestation.aggregation_bits.as_slice().len() + consensus::SingleAttestation::SSZ_LEN;
        let data_root = attestation.data.root();
        let vote = VoteByBits::Alone(Box::new(attestation));
        let (item, heard) = (item.inside(InnerKind::Attestation), inside(SourceKind::Block));
        sorted.by_bits.push(Job { item, heard, vote, data_root, n_bytes, since: now, tried: Vec::new() });
    }
    for slashing in &block.attester_slashings {
        let item = item.inside(InnerKind::AttesterSlashing);
        let heard = inside(SourceKind::SlashingOp);
        sorted.slashings.push(SlashingJob::attester(item, heard, Box::new(slashing.clone()), fork, included_in));
    }
    for slashing in &block.proposer_slashings {
        let item = item.inside(InnerKind::ProposerSlashing);
        let heard = inside(SourceKind::SlashingOp);
        sorted.slashings.push(SlashingJob::proposer(item, heard, Box::new(*slashing), fork, included_in));
    }
    let outcome = match by {
        ProvenBy::State { is_first } => {
            Outcome::Proven { forwardable: is_first && randao_proven && forward::block(chain, &header, &block.root, now) }
        }
        ProvenBy::Deposit => Outcome::UnknownValidator,
    };
    collector.record(item, outcome);
    collector.verified.blocks.push(ProvenBlock { block: *block, fork, randao_proven, heard, n_bytes: ssz.len(), ssz });
}
