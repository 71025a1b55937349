//! Decides which proven offences are punished. A block counts when the chain has built on it for a
//! while, and only as long as the chain keeps it.
//!
//! Anyone with a key can sign a block that carries a slashing, and an honest block may be orphaned.
//! So the content of a block is a *claim*. A claim holds when the block is an ancestor of the head
//! and [`CONFIRMED_AFTER_EPOCHS`] old. It is taken back if the head leaves the block. The head is
//! the block that most proposers build on and not the latest one, because one key can sign a block
//! on any parent. Claims are checked once per slot and kept for [`KEPT_EPOCHS`].
//!
//! **Format.** Claims are stored with the findings, in version 2. There is one checkpoint per
//! block. Its name is [`Inclusions::PREFIX`], the slot in 20 digits, and the block root. Its value
//! is JSON: `[slot, root, {"findings": [id, ..], "holds": bool}]`. Only changed rows are written.
//! Version 1 was a single checkpoint, [`Inclusions::NOTE`], with the list of all claims. It was
//! written again with every change. It is converted to rows and dropped.
//!
//! **Bounds.** [`MAX_BLOCKS`] blocks with [`MAX_FINDINGS`] findings together, none later than
//! [`MAX_AHEAD_EPOCHS`] from now. If there are more, the claims whose blocks are not ancestors of
//! the head are dropped first, then the oldest ones. Their offences stay unpunished until the
//! registry shows the slashing.

use chain::Chain;
use consensus::{Root, Slot};
use evidence::Included;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The chain hardly ever leaves a block of this age.
pub const CONFIRMED_AFTER_EPOCHS: u64 = 2;
/// The chain does not leave a block of this age any more.
const KEPT_EPOCHS: u64 = 64;
const MAX_BLOCKS: usize = 4_096;
/// As many as mainnet has validators, all in one block.
const MAX_FINDINGS: usize = 1_048_576;
/// A source without a clock may be behind its own blocks.
const MAX_AHEAD_EPOCHS: u64 = 1;

/// The claims, by block.
#[derive(Debug, Default)]
pub struct Inclusions {
    claims: BTreeMap<(Slot, Root), InclusionClaim>,
    /// Number of findings in all claims.
    n_findings: usize,
    looked_at: Option<Slot>,
    /// Blocks whose rows on disk differ from the claims in memory.
    changed: BTreeSet<(Slot, Root)>,
    /// True if the checkpoint of version 1 is still on disk.
    has_note: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct InclusionClaim {
    findings: BTreeSet<Root>,
    /// True if the claim counts at present.
    holds: bool,
}

/// Whether the source has more messages when the chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// More blocks will come.
    Open,
    /// The source has no more messages. A block then counts whatever its age is.
    Ended,
}

/// The changes since the last call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InclusionChanges {
    /// Findings that count as included now, with their blocks.
    pub included: Vec<(Root, Included)>,
    /// Findings that were included until now.
    pub reopened: Vec<Root>,
}

/// Checkpoints to write and to drop.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InclusionRows {
    /// Names and values of the checkpoints to write.
    pub changed: Vec<(String, Vec<u8>)>,
    /// Names of the checkpoints to drop.
    pub dropped: Vec<String>,
}

impl Inclusions {
    /// Name of the single checkpoint of version 1.
    pub const NOTE: &str = "inclusions";
    /// Prefix of the names of the checkpoints of version 2.
    pub const PREFIX: &str = "inclusion:";
    /// Largest number of checkpoints of version 2 that need to be read.
    pub const MAX_ROWS: usize = 2 * MAX_BLOCKS;

    /// Restores the claims of an earlier run from its checkpoints of both versions. Damaged rows
    /// are skipped.
    pub fn restore(rows: &[(String, Vec<u8>)], note: Option<&[u8]>) -> Self {
        type Row = (Slot, Root, InclusionClaim);
        let of_note: Vec<Row> = note.and_then(|note| serde_json::from_slice(note).ok()).unwrap_or_default();
        let changed = of_note.iter().map(|(slot, root, _)| (*slot, *root)).collect();
        let of_rows = rows.iter().filter_map(|(_, value)| serde_json::from_slice::<Row>(value).ok());
        // If a block is in both, the row was written later.
        let claims: BTreeMap<_, _> =
            of_note.into_iter().chain(of_rows).map(|(slot, root, claim)| ((slot, root), claim)).collect();
        let n_findings = claims.values().map(|claim| claim.findings.len()).sum();
        Self { claims, n_findings, changed, has_note: note.is_some(), looked_at: None }
    }

    /// Returns the rows that have changed, for the store.
    pub fn rows(&mut self) -> InclusionRows {
        let mut rows = InclusionRows::default();
        for block in std::mem::take(&mut self.changed) {
            let name = format!("{}{:020}:{}", Self::PREFIX, block.0.as_u64(), block.1);
            match self.claims.get(&block) {
                Some(claim) => {
                    rows.changed.push((name, serde_json::to_vec(&(block.0, block.1, claim)).expect("numbers and roots")))
                }
                None => rows.dropped.push(name),
            }
        }
        if std::mem::take(&mut self.has_note) {
            rows.dropped.push(Self::NOTE.to_owned());
        }
        rows
    }

    /// Records that a proven block carries the slashing of a finding. A block from the future is
    /// ignored.
    pub fn claim(&mut self, finding: Root, included: Included, chain: &Chain) {
        let ahead = MAX_AHEAD_EPOCHS * chain.network().preset().slots_per_epoch;
        if included.slot > chain.now().saturating_add(ahead) {
            return;
        }
        let block = (included.slot, included.block_root);
        let claim = self.claims.entry(block).or_default();
        if claim.findings.insert(finding) {
            // The claim is checked again, because it has one more finding.
            claim.holds = false;
            self.changed.insert(block);
            self.n_findings += 1;
        }
    }

    /// Drops claims above the limits: first those whose blocks are not ancestors of `head`, oldest
    /// first, then the oldest of the others.
    fn keep_within_bounds(&mut self, chain: &Chain, head: &Root) {
        if self.claims.len() <= MAX_BLOCKS && self.n_findings <= MAX_FINDINGS {
            return;
        }
        let is_ancestor = |(slot, root): &(Slot, Root)| chain.ancestor_at(head, *slot) == Some(*root);
        let (ancestors, others): (Vec<_>, Vec<_>) = self.claims.keys().copied().partition(is_ancestor);
        for block in others.into_iter().chain(ancestors) {
            if self.claims.len() <= MAX_BLOCKS && self.n_findings <= MAX_FINDINGS {
                break;
            }
            self.n_findings -= self.claims.remove(&block).map_or(0, |claim| claim.findings.len());
            self.changed.insert(block);
        }
    }

    /// Asks the chain about each claim, once for each slot of its head.
    pub fn check_claims(&mut self, chain: &Chain, source: SourceState) -> InclusionChanges {
        let mut changes = InclusionChanges::default();
        let head = chain.backed_head();
        let at_the_end = source == SourceState::Ended;
        if self.claims.is_empty() || (!at_the_end && self.looked_at == Some(head.slot) && self.changed.is_empty()) {
            return changes;
        }
        self.looked_at = Some(head.slot);
        let per_epoch = chain.network().preset().slots_per_epoch;
        while let Some((block, _)) = self.claims.first_key_value()
            && block.0.saturating_add(KEPT_EPOCHS * per_epoch) < head.slot
            && let Some((block, claim)) = self.claims.pop_first()
        {
            self.n_findings -= claim.findings.len();
            self.changed.insert(block);
        }
        self.keep_within_bounds(chain, &head.root);
        for ((slot, root), claim) in &mut self.claims {
            let is_ancestor = chain.ancestor_at(&head.root, *slot) == Some(*root);
            let is_old = slot.saturating_add(CONFIRMED_AFTER_EPOCHS * per_epoch) <= head.slot;
            if is_ancestor && !claim.holds && (is_old || at_the_end) {
                claim.holds = true;
                self.changed.insert((*slot, *root));
                let included = Included { slot: *slot, block_root: *root };
                changes.included.extend(claim.findings.iter().map(|finding| (*finding, included)));
            } else if !is_ancestor && claim.holds && chain.is_known_block(root) {
                claim.holds = false;
                self.changed.insert((*slot, *root));
                changes.reopened.extend(&claim.findings);
            }
        }
        // Another block that still counts may carry the same slashing.
        changes.reopened.retain(|finding| !self.claims.values().any(|claim| claim.holds && claim.findings.contains(finding)));
        changes
    }
}

#[cfg(test)]
mod tests;
