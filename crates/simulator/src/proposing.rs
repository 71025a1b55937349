//! Blocks: the honest ones and the second ones.

use crate::block::{BlockBody, max_attestations};
use crate::conditions::Condition;
use crate::containers::{VotesByBits, data_column_sidecar, proposer_slashing};
use crate::ground_truth::Claim;
use crate::message::{Nature, Sent, moment};
use crate::scenario::Deed;
use crate::slasher::{Charge, Operations};
use crate::world::{MAIN, World};
use consensus::{
    BeaconBlockHeader, DomainType, ForkName, MessageKind, Root, SignatureBytes, SignedBeaconBlockHeader, Slot, ValidatorIndex,
};

/// The text that clients write into blocks if the operator sets none.
const GRAFFITI: [(&str, &str); 6] = [
    ("lighthouse", "Lighthouse/v8.0.0"),
    ("prysm", "prysm-v7.0.0"),
    ("teku", "teku/v25.11.0"),
    ("nimbus", "Nimbus/v25.11.0"),
    ("lodestar", "Lodestar-v1.36.0"),
    ("grandine", "Grandine/2.0.0"),
];
/// The operator in the incident runs one client.
const OPERATOR_CLIENT: &str = "prysm";
const OPERATOR_GRAFFITI: &str = "prysm-v7.0.0 operator";
/// Subnet of the columns that contain a hidden block's header.
const COLUMN: u64 = 0;

impl World {
    pub(crate) fn propose(&mut self, slot: Slot, branch: usize, out: &mut Vec<Sent>) {
        let proposer = self.proposer(slot, branch);
        let random = self.scenario.random();
        if branch == MAIN {
            self.head_is_late = false;
        }
        let about = [slot.as_u64()];
        // Blocks of slashed validators are invalid.
        if branch == MAIN && self.slashed_in(proposer).is_some() {
            return;
        }
        if self.branch_of(slot, proposer) != branch || random.percent(self.scenario.missed_blocks_percent, "missed block", &about)
        {
            return;
        }
        let wear = self.scenario.wear;
        let is_reorged = branch == MAIN && random.percent(wear.reorged_blocks, "reorged block", &about);
        let mut leaves = moment::BLOCK;
        if is_reorged || branch == MAIN && random.percent(wear.late_blocks, "late block", &about) {
            leaves = moment::LATE_BLOCK;
        }
        for condition in self.conditions(slot, proposer) {
            match condition {
                Condition::Offline | Condition::NoBlocks | Condition::ClockAhead(_) => return,
                Condition::LateBlocks(thousandths) => leaves = thousandths,
                Condition::StaleView(_) | Condition::OtherBranch => {}
            }
        }
        let fork = self.fork(slot);
        let deed = self.acts.deed(slot, proposer, |deed| {
            branch == MAIN && deed.is_proposal() && (deed != Deed::DoubleProposalInColumn || fork == ForkName::Fulu)
        });
        let parent = self.branches[branch].head();
        let mut body = self.body(slot, branch, proposer);
        if branch == MAIN && !is_reorged {
            body.slashings = self.slashings_for_block(slot);
            body.operations = self.operations(slot);
        }
        let block = self.sign_block(slot, proposer, parent, &body);
        out.push(self.block_message(slot, &block, &body, leaves, self.scenario.honest_node(proposer.as_u64())));
        if let Some(deed) = deed {
            let second_body = BlockBody { graffiti: graffiti("second machine"), ..body.clone() };
            let second = self.sign_block(slot, proposer, parent, &second_body);
            out.push(self.second_proposal(deed, slot, &block, &second, &second_body));
        }
        if is_reorged {
            return;
        }
        if branch == MAIN {
            self.head_is_late = leaves >= moment::VOTES;
        }
        self.branches[branch].extend(block.message, body.randao_reveal.as_slice(), &self.preset);
        if branch == MAIN {
            self.apply_to_registry(slot, &body);
        }
    }

    fn body(&mut self, slot: Slot, branch: usize, proposer: ValidatorIndex) -> BlockBody {
        let epoch = slot.epoch(&self.preset);
        let fork = self.fork(slot);
        let epoch_root = {
            let mut chunk = [0; 32];
            chunk[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
            Root::from(chunk)
        };
        let oldest = slot.saturating_sub(self.preset.slots_per_epoch);
        // At Electra, votes in the old format are left out.
        let first_of_shape = match self.network.spec.forks.iter().find(|f| f.name >= ForkName::Electra) {
            Some(electra) if fork.has_single_attestations() => electra.epoch.start_slot(&self.preset),
            _ => Slot::new(0),
        };
        let mut pool = std::mem::take(&mut self.branches[branch].pool);
        let mut attestations =
            pool.pack(oldest.max(first_of_shape), max_attestations(fork) as usize, |data, signers| self.sum(data, signers));
        self.branches[branch].pool = pool;
        let of_operator = self.scenario.operator.contains(&proposer);
        let client = if of_operator { OPERATOR_CLIENT } else { self.scenario.client_of(proposer) };
        let is_custom = self.scenario.random().percent(self.scenario.custom_graffiti, "custom graffiti", &[proposer.as_u64()]);
        let text = match (is_custom, of_operator) {
            (true, _) => "gm",
            (false, true) => OPERATOR_GRAFFITI,
            (false, false) => version_of(client),
        };
        arrange(client, &mut attestations);
        BlockBody {
            randao_reveal: self.keys.sign(proposer, self.signing_root(epoch_root, DomainType::Randao, epoch)),
            graffiti: graffiti(text),
            attestations,
            slashings: Operations::default(),
            operations: Vec::new(),
        }
    }

    fn slashings_for_block(&mut self, slot: Slot) -> Operations {
        let fork = self.fork(slot);
        let charges = self.slasher.as_mut().map(|slasher| slasher.include(slot, fork)).unwrap_or_default();
        let mut operations = Operations::default();
        for charge in charges {
            match charge {
                Charge::Votes(validator, sides) => operations.attester.push(sides.map(|data| self.sum(&data, &[validator]))),
                Charge::Headers(headers) => operations.proposer.push(headers.map(|message| SignedBeaconBlockHeader {
                    message,
                    signature: self.sign_header(&message, message.proposer_index),
                })),
            }
        }
        operations
    }

    /// Signs the header of a block with this body. The state root is an arbitrary hash, because
    /// nothing is executed.
    pub(crate) fn sign_block(
        &self,
        slot: Slot,
        proposer: ValidatorIndex,
        parent: Root,
        body: &BlockBody,
    ) -> SignedBeaconBlockHeader {
        let message = BeaconBlockHeader {
            slot,
            proposer_index: proposer,
            parent_root: parent,
            state_root: Root::from(self.scenario.random().hash("state root", &[slot.as_u64()])),
            body_root: body.root(self.fork(slot), &self.preset),
        };
        SignedBeaconBlockHeader { message, signature: self.sign_header(&message, proposer) }
    }

    pub(crate) fn sign_header(&self, header: &BeaconBlockHeader, by: ValidatorIndex) -> SignatureBytes {
        let epoch = header.slot.epoch(&self.preset);
        self.keys.sign(by, self.signing_root(header.root(), DomainType::BeaconProposer, epoch))
    }

    fn block_message(&self, slot: Slot, block: &SignedBeaconBlockHeader, body: &BlockBody, moment: u64, node: usize) -> Sent {
        let votes = body.attestations.iter().map(|votes| Claim::Vote { data: votes.data, signers: votes.signers.clone() });
        Sent {
            at_ns: self.at(slot, moment),
            node,
            topic: self.topic(slot, MessageKind::Block),
            ssz: body.signed_block(self.fork(slot), &self.preset, block).to_ssz(),
            nature: Nature::Signed,
            claims: std::iter::once(Claim::Proposal(block.message)).chain(votes).chain(body.slashings.claims()).collect(),
        }
    }

    fn second_proposal(
        &self,
        deed: Deed,
        slot: Slot,
        first: &SignedBeaconBlockHeader,
        second: &SignedBeaconBlockHeader,
        second_body: &BlockBody,
    ) -> Sent {
        let node = self.scenario.second_node();
        let (kind, value) = match deed {
            Deed::DoubleProposalInColumn => {
                (MessageKind::DataColumnSidecar { index: COLUMN }, data_column_sidecar(COLUMN, second))
            }
            Deed::DoubleProposalInOperation => (MessageKind::ProposerSlashing, proposer_slashing(first, second)),
            _ => return self.block_message(slot, second, second_body, moment::SECOND_BLOCK, node),
        };
        let sides = [first, second].into_iter().skip(usize::from(deed == Deed::DoubleProposalInColumn));
        Sent {
            at_ns: self.at(slot, moment::SECOND_BLOCK),
            node,
            topic: self.topic(slot, kind),
            ssz: value.to_ssz(),
            nature: Nature::Signed,
            claims: sides.map(|block| Claim::Proposal(block.message)).collect(),
        }
    }
}

/// Sorts a block's attestations, because each client uses its own order. The assignment of orders
/// to clients is invented, but it is true that orders differ.
fn arrange(client: &str, attestations: &mut [VotesByBits]) {
    let place = |votes: &VotesByBits| (votes.data.slot, votes.committees.first().copied());
    match client {
        "prysm" => attestations.sort_by_key(|votes| std::cmp::Reverse((votes.signers.len(), place(votes)))),
        "lighthouse" => attestations.sort_by_key(place),
        "teku" => attestations.sort_by_key(|votes| std::cmp::Reverse(place(votes))),
        _ => {}
    }
}

/// The name and version that a client writes into a block or reports to a peer.
pub(crate) fn version_of(client: &str) -> &str {
    GRAFFITI.iter().find(|(name, _)| *name == client).map_or(client, |(_, version)| version)
}

pub(crate) fn graffiti(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let n = text.len().min(32);
    bytes[..n].copy_from_slice(&text.as_bytes()[..n]);
    bytes
}
