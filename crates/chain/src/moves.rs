//! What proven blocks tell about the registry: who is slashed, who exits, who is added, and which
//! checkpoint the branch has justified.
//!
//! Bounds: [`MAX_MOVES`] operations in [`MAX_NODES`] blocks. Blocks older than the kept blocks are
//! discarded.

use crate::tree::MAX_NODES;
use consensus::{ConsolidationRequest, DepositData, Epoch, ForkName, Root, SignedBlock, Slot, ValidatorIndex, WithdrawalRequest};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Maximum number of operations that are kept: a quarter of mainnet that exits at once.
const MAX_MOVES: usize = 262_144;

/// One operation of a block, in the form in which it changes the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Its signatures are not checked yet.
    Slashing(ValidatorIndex),
    Exit(ValidatorIndex),
    /// A deposit of the old kind.
    Deposit(Arc<DepositData>),
    /// A deposit request with its number.
    DepositRequest(Arc<DepositData>, u64),
    Withdrawal(Arc<WithdrawalRequest>),
    Consolidation(Arc<ConsolidationRequest>),
}

/// What one block tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockMoves {
    pub slot: Slot,
    /// In the order of processing.
    pub moves: Vec<Move>,
    /// For the target epoch of an attestation: the epoch of its source. In a valid block that is
    /// the epoch that was justified when the target's epoch began.
    pub justified: Vec<(Epoch, Epoch)>,
}

impl BlockMoves {
    pub(crate) fn of(block: &SignedBlock, fork: ForkName) -> Self {
        let mut operations: Vec<Move> = Vec::new();
        operations.extend(block.proposer_slashings.iter().map(|one| Move::Slashing(one.signed_header_1.message.proposer_index)));
        for slashing in &block.attester_slashings {
            let second: HashSet<&ValidatorIndex> = slashing.attestation_2.attesting_indices.iter().collect();
            let both = slashing.attestation_1.attesting_indices.iter().filter(|index| second.contains(index));
            operations.extend(both.copied().map(Move::Slashing));
        }
        let requests = &block.registry_requests;
        operations.extend(requests.deposits.iter().cloned().map(Arc::new).map(Move::Deposit));
        operations.extend(block.voluntary_exits.iter().copied().map(Move::Exit));
        let mut requested: Vec<Move> = Vec::new();
        requested.extend(
            requests.deposit_requests.iter().map(|(deposit, index)| Move::DepositRequest(Arc::new(deposit.clone()), *index)),
        );
        requested.extend(requests.withdrawals.iter().cloned().map(Arc::new).map(Move::Withdrawal));
        requested.extend(requests.consolidations.iter().cloned().map(Arc::new).map(Move::Consolidation));
        // From Gloas on the requests are those of the parent's payload, which is processed first.
        let moves = match fork >= ForkName::Gloas {
            true => requested.into_iter().chain(operations).collect(),
            false => operations.into_iter().chain(requested).collect(),
        };
        let mut justified: Vec<(Epoch, Epoch)> = Vec::new();
        for data in block.attestations.iter().map(|attestation| &attestation.data) {
            let names = (data.target.epoch, data.source.epoch);
            // An attestation can only be about two epochs.
            if justified.len() < 2 && !justified.contains(&names) {
                justified.push(names);
            }
        }
        Self { slot: block.signed_header.message.slot, moves, justified }
    }
}

/// The moves of the blocks that are kept.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    by_block: HashMap<Root, Arc<BlockMoves>>,
    n_moves: usize,
    /// Number of operations that were refused because a bound was reached.
    pub(crate) refused: u64,
}

impl Moves {
    /// Records what a proven block tells.
    pub(crate) fn note(&mut self, block: Root, moves: BlockMoves) {
        if self.by_block.contains_key(&block) {
            return;
        }
        // Whoever owns a key can sign blocks full of operations. They give way to those with fewer.
        while self.n_moves + moves.moves.len() > MAX_MOVES {
            let most = self.by_block.iter().map(|(root, held)| (held.moves.len(), *root)).max();
            let Some((_, root)) = most.filter(|(n, _)| *n > moves.moves.len()) else { break };
            self.n_moves -= self.by_block.remove(&root).map_or(0, |held| held.moves.len());
            self.refused += 1;
        }
        if self.n_moves + moves.moves.len() > MAX_MOVES || self.by_block.len() >= MAX_NODES {
            self.refused += moves.moves.len().max(1) as u64;
            return;
        }
        self.n_moves += moves.moves.len();
        self.by_block.insert(block, Arc::new(moves));
    }

    pub(crate) fn of(&self, block: &Root) -> Option<&Arc<BlockMoves>> {
        self.by_block.get(block)
    }

    /// Whether a block slashes one of these validators.
    pub(crate) fn slashes_any(&self, validators: &HashSet<ValidatorIndex>) -> bool {
        let mut moves = self.by_block.values().flat_map(|block| &block.moves);
        moves.any(|one| matches!(one, Move::Slashing(validator) if validators.contains(validator)))
    }

    /// Discards blocks before `floor`.
    pub(crate) fn prune(&mut self, floor: Slot) {
        self.by_block.retain(|_, block| block.slot >= floor);
        self.n_moves = self.by_block.values().map(|block| block.moves.len()).sum();
    }
}
