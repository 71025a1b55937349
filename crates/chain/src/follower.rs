//! Follows the registry on every branch ([`FollowedRegistry`]), and compares it with later states.
//!
//! It begins at the latest state. The result for recent decision blocks and for the head is kept,
//! so going on costs only the new blocks. A result is never gone on from while a later block can
//! name a justified epoch that it lacked: the activations of that time depend on it. When old
//! blocks are discarded, the beginning moves along the branch with the most backing, so that a
//! watcher without a new state does not forget them.

use crate::follow::{Differences, Doubt, FollowContext, FollowedRegistry};
use crate::moves::{BlockMoves, Moves};
use crate::tree::Tree;
use consensus::state::StateView;
use consensus::{Epoch, MAX_SEED_LOOKAHEAD, Root, Slot, ValidatorIndex};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tracing::{info, warn};

/// Maximum number of epochs without a block after which it can still be told who is active. It is
/// as many as the chain keeps.
const MAX_EMPTY_EPOCHS: u64 = 256;
/// Maximum number of blocks for which the registry is kept.
const MAX_RECENT: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct RegistryFollower {
    pub(crate) moves: Moves,
    base: Option<FollowStart>,
    recent: VecDeque<(Root, Arc<FollowedRegistry>)>,
    /// The registry after the head.
    head: Option<(Root, Arc<FollowedRegistry>)>,
    /// Blocks before this slot have been discarded.
    floor: Slot,
    /// Validators that are proven to have signed contradicting messages. All of them are in a
    /// state.
    slashable: HashSet<ValidatorIndex>,
    /// Number of states with which the followed registry was compared.
    pub(crate) n_compared: u64,
    /// Number of those states that differed from it.
    pub(crate) n_differed: u64,
    /// Number of validators that differed, in all compared states.
    pub(crate) n_differences: u64,
}

#[derive(Debug)]
struct FollowStart {
    block: Root,
    slot: Slot,
    registry: Arc<FollowedRegistry>,
}

impl RegistryFollower {
    /// Begins again with a state, which is the new content of the registry.
    pub(crate) fn begin(&mut self, view: &StateView<'_>, block: Root, context: FollowContext<'_>) {
        let registry = Arc::new(FollowedRegistry::of_state(view, context.registry, context.spec));
        self.base = Some(FollowStart { block, slot: view.latest_block_header().slot, registry });
        self.recent.clear();
        self.head = None;
    }

    /// Notes validators that are proven to be slashable. Returns whether a kept block slashes one
    /// of them of which that was not known. Then what was computed from blocks is discarded.
    pub(crate) fn note_slashable(&mut self, validators: &[ValidatorIndex]) -> bool {
        let new: HashSet<ValidatorIndex> =
            validators.iter().filter(|validator| self.slashable.insert(**validator)).copied().collect();
        let is_slashed = !new.is_empty() && self.moves.slashes_any(&new);
        if is_slashed {
            self.recent.clear();
            self.head = None;
        }
        is_slashed
    }

    /// Returns the registry after the block `tip`, and keeps it.
    pub(crate) fn at(&mut self, tip: Root, tree: &Tree, context: FollowContext<'_>) -> Option<Arc<FollowedRegistry>> {
        let registry = self.compute(tip, tree, context)?;
        let is_kept =
            self.base.as_ref().is_some_and(|base| base.block == tip) || self.recent.iter().any(|(root, _)| *root == tip);
        if !is_kept {
            if self.recent.len() >= MAX_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back((tip, registry.clone()));
        }
        Some(registry)
    }

    /// Goes on to the head, unless it is not known yet what its block tells.
    pub(crate) fn follow_head(&mut self, head: Root, tree: &Tree, context: FollowContext<'_>) {
        let is_told = self.moves.of(&head).is_some() || self.base.as_ref().is_some_and(|base| base.block == head);
        if is_told && self.head.as_ref().is_none_or(|(root, _)| *root != head) {
            self.head = self.compute(head, tree, context).map(|registry| (head, registry));
        }
    }

    fn kept(&self, block: &Root) -> Option<&Arc<FollowedRegistry>> {
        self.recent.iter().chain(&self.head).find(|(root, _)| root == block).map(|(_, registry)| registry)
    }

    fn compute(&self, tip: Root, tree: &Tree, context: FollowContext<'_>) -> Option<Arc<FollowedRegistry>> {
        let base = self.base.as_ref()?;
        let mut blocks: Vec<Arc<BlockMoves>> = Vec::new();
        let mut at = tip;
        let mut knows_all = true;
        let begun = loop {
            if at == base.block {
                break &base.registry;
            }
            if let Some(known) = self.kept(&at).filter(|known| at == tip || known.is_settled()) {
                break known;
            }
            let slot = tree.slot_of(&at)?;
            let parent = tree.parent_of(&at);
            // A branch that leaves the chain before the base has the base's registry, too.
            let (Some(parent), true) = (parent, slot > base.slot) else {
                knows_all = false;
                break &base.registry;
            };
            match self.moves.of(&at) {
                Some(moves) => blocks.push(moves.clone()),
                None => knows_all = false,
            }
            at = parent;
        };
        if blocks.is_empty() && knows_all {
            return Some(begun.clone());
        }
        blocks.reverse();
        let mut registry = (**begun).clone();
        if !knows_all {
            registry.note_doubt(Doubt::Blocks);
        }
        registry.apply(&blocks, &self.slashable, context);
        Some(Arc::new(registry))
    }

    /// Returns the registry after a block if it has been computed recently.
    pub(crate) fn known(&self, block: &Root) -> Option<&FollowedRegistry> {
        let base = self.base.as_ref().filter(|base| base.block == *block).map(|base| &base.registry);
        base.or_else(|| self.kept(block)).map(|registry| &**registry)
    }

    /// Returns the registry that decides who is active in `epoch` on a branch with this decision
    /// block. Who is active is decided five epochs before, so the slots between that time and the
    /// block count as empty.
    pub(crate) fn before(
        &mut self,
        decision: Root,
        epoch: Epoch,
        tree: &Tree,
        context: FollowContext<'_>,
    ) -> Option<Arc<FollowedRegistry>> {
        let mut registry = self.at(decision, tree, context)?;
        let decided = epoch.saturating_sub(MAX_SEED_LOOKAHEAD);
        // Each epoch costs a pass over the registry, and the epoch may be one that somebody made
        // up.
        if registry.epoch().saturating_add(MAX_EMPTY_EPOCHS) < decided {
            return None;
        }
        if registry.epoch() < decided {
            Arc::make_mut(&mut registry).advance(decided, context);
        }
        Some(registry)
    }

    /// Compares with a later state, whose latest block is `block`, before it is taken.
    pub(crate) fn compare(&mut self, view: &StateView<'_>, block: Root, tree: &Tree, context: FollowContext<'_>) {
        let is_later = self.base.as_ref().is_some_and(|base| view.slot() > base.slot && block != base.block);
        if !is_later {
            return;
        }
        let Some(followed) = self.at(block, tree, context) else { return };
        let mut followed = (*followed).clone();
        // Blocks after the state would name these.
        let epoch = view.epoch();
        followed.name_justified(epoch, view.current_justified_checkpoint().epoch);
        followed.name_justified(epoch.saturating_sub(1), view.previous_justified_checkpoint().epoch);
        followed.advance(epoch, context);
        let Differences { slashed, activation, exit, withdrawable, existing } = followed.differences(context.registry, view);
        let total = slashed + activation + exit + withdrawable + existing;
        self.n_compared += 1;
        self.n_differences += total;
        let slot = view.slot();
        if total == 0 {
            info!(%slot, "the registry that blocks told is that of the state");
            return;
        }
        self.n_differed += 1;
        let doubts: Vec<&str> = followed.doubts().map(Doubt::label).collect();
        let doubts = doubts.join(", ");
        warn!(%slot, slashed, activation, exit, withdrawable, existing, doubts, "the registry that blocks told differs from the state, which counts");
    }

    /// Discards blocks before `floor`. The beginning moves along the branch of `head` to its last
    /// block before the floor. Call it before the tree discards these blocks.
    pub(crate) fn prune(&mut self, floor: Slot, head: Root, tree: &Tree, context: FollowContext<'_>) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let begins_at = tree.last_before(head, floor).and_then(|root| Some((root, tree.slot_of(&root)?)));
        let is_later = |slot: Slot| self.base.as_ref().is_some_and(|base| slot > base.slot);
        if let Some((block, slot)) = begins_at.filter(|(_, slot)| is_later(*slot))
            && let Some(registry) = self.at(block, tree, context)
        {
            self.base = Some(FollowStart { block, slot, registry });
        }
        self.moves.prune(floor);
    }
}

#[cfg(test)]
mod tests;
