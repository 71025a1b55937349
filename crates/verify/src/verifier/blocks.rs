//! Proves blocks and headers. A header is proven by its proposer's signature. The body belongs to
//! the header because the header contains the body's root, so everything in a proven block was put
//! there by its proposer. A proven block extends the chain if its randao reveal is proven too.

use super::{Signers, SortedBatch, Verifier, without_key};
use crate::batch::{BatchResult, Judgement, SignatureClaim};
use crate::claim_set::{ClaimRef, ClaimSet};
use crate::decode::VoteMessage;
use crate::outcome_collector::{OutcomeCollector, PendingOutcome};
use crate::verifier::named::SlashingJob;
use crate::{FirstSeen, Inclusion, InnerKind, Outcome, ProvenBlock, SourceKind, UnixNs, forward};
use chain::{BlockFacts, Chain};
use consensus::{
    BeaconBlockHeader, Epoch, ForkName, Network, RegistryChange, Root, SignatureBytes, SignedBeaconBlockHeader, SignedBlock,
    Slot, ValidatorIndex,
};
use std::collections::HashSet;

/// A block before the equation.
pub(super) struct BlockJob {
    pub(super) item: PendingOutcome,
    pub(super) heard: FirstSeen,
    pub(super) block: Box<SignedBlock>,
    pub(super) fork: ForkName,
    pub(super) n_bytes: usize,
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
    /// this signature was judged forged before.
    Forged,
    /// The equation decides. The value is the claim's position in the docket.
    Asked(ClaimRef),
}

impl PriorResult {
    pub(super) fn judgement(self, judged: &BatchResult) -> Judgement {
        match self {
            Self::Known => Judgement::Proven { alone: true },
            Self::Forged => Judgement::Forged,
            Self::Asked(place) => judged.judgement(place.claim),
        }
    }

    /// Whether the same claim was proven before, or an earlier message of this batch makes it too.
    pub(super) fn is_repeat(self) -> bool {
        match self {
            Self::Known => true,
            Self::Forged => false,
            Self::Asked(place) => !place.first,
        }
    }
}

impl Verifier {
    fn turn(&mut self, slot: Slot, proposer: ValidatorIndex, root: Root) -> ProposalOrder {
        match self.first_blocks.get(&(slot, proposer)) {
            Some(first) if *first != root => ProposalOrder::Second,
            Some(_) => ProposalOrder::First,
            None => {
                self.first_blocks.insert((slot, proposer), root);
                ProposalOrder::First
            }
        }
    }

    /// Proves the blocks and headers of a batch, all of them together.
    pub(super) fn prove_blocks(
        &mut self,
        chain: &mut Chain,
        intake: &mut SortedBatch,
        now: UnixNs,
        ledger: &mut OutcomeCollector,
    ) {
        let network = chain.network().clone();
        let mut docket = ClaimSet::default();
        let headers: Vec<(HeaderJob, PriorResult)> = std::mem::take(&mut intake.headers)
            .into_iter()
            .map(|job| {
                let standing = self.ask_header(&mut docket, chain, &job.header, job.header.message.root(), &job.heard, None);
                (job, standing)
            })
            .collect();
        let mut blocks: Vec<(BlockJob, PriorResult, ClaimRef)> = std::mem::take(&mut intake.blocks)
            .into_iter()
            .map(|job| {
                let standing = self.ask_header(&mut docket, chain, &job.block.signed_header, job.block.root, &job.heard, None);
                let reveal = docket.add(reveal_claim(&network, &job));
                (job, standing, reveal)
            })
            .collect();
        if headers.is_empty() && blocks.is_empty() {
            return;
        }
        let judged = self.judge(chain, docket, Signers::Certain, ledger);
        for (job, standing) in headers {
            self.remember(standing, &judged);
            let outcome = match standing.judgement(&judged) {
                Judgement::Proven { .. } if standing.is_repeat() => Outcome::Duplicate,
                // The sidecar around the header is not checked, so it is not forwarded.
                Judgement::Proven { .. } => Outcome::Proven { forwardable: false },
                Judgement::Forged => Outcome::BadSignature,
                Judgement::NoKey => without_key(chain, job.header.message.proposer_index, &job.heard),
                Judgement::NoVersion => Outcome::UnknownFork,
            };
            ledger.settle(job.item, outcome);
        }
        // Parents come before their children.
        blocks.sort_by_key(|(job, ..)| job.block.signed_header.message.slot);
        for (job, standing, reveal) in blocks {
            self.remember(standing, &judged);
            match standing.judgement(&judged) {
                Judgement::Proven { .. } if self.blocks.contains(&job.block.root) => ledger.settle(job.item, Outcome::Duplicate),
                Judgement::Proven { .. } => {
                    self.blocks.insert(job.block.root, ());
                    let header = job.block.signed_header.message;
                    let turn = self.turn(header.slot, header.proposer_index, job.block.root);
                    take_block(chain, intake, job, judged.judgement(reveal.claim), turn, now, ledger);
                }
                Judgement::Forged => ledger.settle(job.item, Outcome::BadSignature),
                Judgement::NoKey => {
                    let proposer = job.block.signed_header.message.proposer_index;
                    ledger.settle(job.item, without_key(chain, proposer, &job.heard));
                }
                Judgement::NoVersion => ledger.settle(job.item, Outcome::UnknownFork),
            }
        }
    }

    /// Adds a claim for a header, unless its root was proven before or this very signature was
    /// judged forged before. `block_epoch` is the epoch of the block that contains the header in a
    /// slashing operation.
    pub(super) fn ask_header(
        &mut self,
        docket: &mut ClaimSet,
        chain: &Chain,
        header: &SignedBeaconBlockHeader,
        root: Root,
        heard: &FirstSeen,
        block_epoch: Option<Epoch>,
    ) -> PriorResult {
        let network = chain.network();
        let (epoch, now) = (header.message.slot.epoch(network.preset()), chain.now().epoch(network.preset()));
        match self.proposals.get(&root) {
            Some(signature) if *signature == header.signature => PriorResult::Known,
            // Before a scheduled fork happens, a valid signature exists for each of the two
            // versions.
            Some(_) if !network.spec.is_version_uncertain(epoch, block_epoch.unwrap_or(now)) => PriorResult::Forged,
            Some(_) | None => {
                let claim = proposal_claim(network, header.message, root, header.signature, heard);
                // A signature that was judged forged with the scheduled version may be valid with
                // another one.
                let is_certain = !network.spec.is_version_uncertain(epoch, block_epoch.unwrap_or(now));
                if is_certain && self.is_known_forgery(|| claim.fingerprint()) {
                    return PriorResult::Forged;
                }
                PriorResult::Asked(docket.add(claim.in_block_of(block_epoch)))
            }
        }
    }
}

impl Verifier {
    /// Remembers the result for a header or for a side of an attester slashing, so that the same
    /// one costs no pairing when it comes again, whether it is valid or forged. Proven headers are
    /// remembered in `judge`.
    pub(super) fn remember(&mut self, standing: PriorResult, judged: &BatchResult) {
        let PriorResult::Asked(place) = standing else { return };
        let claim = judged.claim(place.claim);
        match judged.judgement(place.claim) {
            Judgement::Forged => self.forgeries.insert(claim.fingerprint(), ()),
            // A claim that was proven only within a sum is not proven by itself.
            Judgement::Proven { alone: true } if claim.vote().is_some() => self.sides.insert(claim.fingerprint(), ()),
            Judgement::Proven { .. } | Judgement::NoKey | Judgement::NoVersion => {}
        }
    }
}

fn proposal_claim(
    network: &Network,
    header: BeaconBlockHeader,
    root: Root,
    signature: SignatureBytes,
    heard: &FirstSeen,
) -> SignatureClaim {
    SignatureClaim::proposal(network, header, root, signature, heard.clone())
}

fn reveal_claim(network: &Network, job: &BlockJob) -> SignatureClaim {
    let header = &job.block.signed_header.message;
    let epoch = header.slot.epoch(network.preset());
    SignatureClaim::randao_reveal(network, header.proposer_index, epoch, job.block.randao_reveal, job.heard.clone())
}

/// Whether the proposer already had a different block for this slot. Gossipsub forwards only the
/// first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProposalOrder {
    First,
    Second,
}

/// The validators that leave because of a block, in the order in which the block is processed:
/// first the slashed ones, then the voluntary exits.
fn leaving(block: &SignedBlock) -> Vec<ValidatorIndex> {
    let mut leaving: Vec<ValidatorIndex> =
        block.proposer_slashings.iter().map(|slashing| slashing.signed_header_1.message.proposer_index).collect();
    for slashing in &block.attester_slashings {
        let second: HashSet<&ValidatorIndex> = slashing.attestation_2.attesting_indices.iter().collect();
        leaving.extend(slashing.attestation_1.attesting_indices.iter().filter(|validator| second.contains(validator)));
    }
    leaving.extend(&block.voluntary_exits);
    leaving
}

/// Processes a block whose proposer's signature is proven: extends the chain and passes on what the
/// block contains.
fn take_block(
    chain: &mut Chain,
    intake: &mut SortedBatch,
    job: BlockJob,
    reveal: Judgement,
    turn: ProposalOrder,
    now: UnixNs,
    ledger: &mut OutcomeCollector,
) {
    let BlockJob { item, heard, block, fork, n_bytes } = job;
    let header = block.signed_header.message;
    let (randao_proven, reveal) = match reveal {
        Judgement::Proven { alone } => (true, Outcome::Proven { forwardable: alone }),
        Judgement::Forged => (false, Outcome::BadSignature),
        Judgement::NoKey => (false, Outcome::UnknownValidator),
        Judgement::NoVersion => (false, Outcome::UnknownFork),
    };
    ledger.settle(item.inside(InnerKind::RandaoReveal), reveal);
    if randao_proven {
        chain.extend(&BlockFacts {
            root: block.root,
            slot: header.slot,
            parent_root: header.parent_root,
            proposer_index: header.proposer_index,
            randao_reveal: block.randao_reveal,
        });
        if block.registry_change == RegistryChange::Possible {
            chain.note_registry_change(header.slot);
            chain.note_exits(block.root, header.slot, leaving(&block));
        }
    }
    let included_in = Some(Inclusion { block: block.root, slot: header.slot });
    let inside = |source| FirstSeen { source, ..heard.clone() };
    for attestation in block.attestations.iter().cloned() {
        let n_bytes = attestation.aggregation_bits.as_slice().len() + consensus::SingleAttestation::SSZ_LEN;
        let ballot = VoteMessage::ByBits { attestation: Box::new(attestation), aggregator: None };
        let data_root = ballot.data().root();
        intake.take_vote(item.inside(InnerKind::Attestation), inside(SourceKind::Block), ballot, data_root, n_bytes, now);
    }
    for slashing in &block.attester_slashings {
        let item = item.inside(InnerKind::AttesterSlashing);
        let heard = inside(SourceKind::SlashingOp);
        intake.slashings.push(SlashingJob::attester(item, heard, Box::new(slashing.clone()), fork, included_in));
    }
    for slashing in &block.proposer_slashings {
        let item = item.inside(InnerKind::ProposerSlashing);
        let heard = inside(SourceKind::SlashingOp);
        intake.slashings.push(SlashingJob::proposer(item, heard, Box::new(*slashing), fork, included_in));
    }
    let welcome = turn == ProposalOrder::First && randao_proven && forward::block(chain, &header, &block.root, now);
    ledger.settle(item, Outcome::Proven { forwardable: welcome });
    ledger.verified.blocks.push(ProvenBlock { block: *block, fork, randao_proven, heard, n_bytes });
}
