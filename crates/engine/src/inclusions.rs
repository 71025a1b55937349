//! Which proven offences are punished: a block's word counts when the chain has built on it for a while, and no longer than that.
//!
//! Anyone with a key can sign a block that carries a slashing, and an honest one may be orphaned. So what a block carries is a *claim*: it
//! is taken for true when the block is an ancestor of the head and [`CONFIRMED_AFTER_EPOCHS`] old, and taken back if the head leaves it. The
//! head is the one that most proposers build on, not the latest: one key can sign a block on any other. Claims are looked at once a slot and kept
//! for [`KEPT_EPOCHS`].
//!
//! **Stored** beside the findings, version 2: a row for each block, named [`PREFIX`], its slot in 20 digits, and its root; the value is JSON,
//! `[slot, root, {"findings": [id, ..], "holds": bool}]`. Only rows that changed are written. Version 1 was one note, [`NOTE`], with the list
//! of all of them, written anew with every change; it is taken over and dropped.
//!
//! **Bounds.** [`MAX_BLOCKS`] blocks with [`MAX_FINDINGS`] findings together, none later than [`MAX_AHEAD_EPOCHS`] from now; past that those are forgotten first
//! on which the head does not stand, then the oldest: their offences stay unpunished until the registry says otherwise.

use chain::Chain;
use consensus::{Root, Slot};
use evidence::{Included, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Name of the one checkpoint of version 1.
const NOTE: &str = "inclusions";
/// Of the checkpoints' names.
const PREFIX: &str = "inclusion:";
/// A block that old is hardly left by the chain.
pub const CONFIRMED_AFTER_EPOCHS: u64 = 2;
/// A block that old is not left any more.
const KEPT_EPOCHS: u64 = 64;
const MAX_BLOCKS: usize = 4_096;
/// As many as validators of mainnet in one block.
const MAX_FINDINGS: usize = 1_048_576;
/// A source without a clock may be behind its blocks.
const MAX_AHEAD_EPOCHS: u64 = 1;

/// Claims by block.
#[derive(Debug, Default)]
pub struct Inclusions {
    claims: BTreeMap<(Slot, Root), Claim>,
    /// In all claims.
    n_findings: usize,
    looked_at: Option<Slot>,
    /// Blocks whose rows are not on disk as they are here.
    changed: BTreeSet<(Slot, Root)>,
    /// The note of version 1 is on disk.
    has_note: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    findings: BTreeSet<Root>,
    /// Taken for true.
    holds: bool,
}

/// When the chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// More will be built.
    Between,
    /// The source has no more to say: a block is not asked for its age.
    TheEnd,
}

/// What is different now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub included: Vec<(Root, Included)>,
    /// Included until now.
    pub reopened: Vec<Root>,
}

/// Checkpoints to be written and dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub changed: Vec<(String, Vec<u8>)>,
    pub dropped: Vec<String>,
}

impl Inclusions {
    /// What an earlier run knew; of damaged rows nothing.
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        let note = store.checkpoint(NOTE)?;
        Ok(Self::read(&store.checkpoints(PREFIX, PREFIX, 2 * MAX_BLOCKS)?, note.as_deref()))
    }

    fn read(rows: &[(String, Vec<u8>)], note: Option<&[u8]>) -> Self {
        type Row = (Slot, Root, Claim);
        let of_note: Vec<Row> = note.and_then(|note| serde_json::from_slice(note).ok()).unwrap_or_default();
        let changed = of_note.iter().map(|(slot, root, _)| (*slot, *root)).collect();
        let of_rows = rows.iter().filter_map(|(_, value)| serde_json::from_slice::<Row>(value).ok());
        // A block that is in both was written as a row later.
        let claims: BTreeMap<_, _> =
            of_note.into_iter().chain(of_rows).map(|(slot, root, claim)| ((slot, root), claim)).collect();
        let n_findings = claims.values().map(|claim| claim.findings.len()).sum();
        Self { claims, n_findings, changed, has_note: note.is_some(), looked_at: None }
    }

    /// What is other than before, to be stored.
    pub fn rows(&mut self) -> Rows {
        let mut rows = Rows::default();
        for block in std::mem::take(&mut self.changed) {
            let name = format!("{PREFIX}{:020}:{}", block.0.as_u64(), block.1);
            match self.claims.get(&block) {
                Some(claim) => {
                    rows.changed.push((name, serde_json::to_vec(&(block.0, block.1, claim)).expect("numbers and roots")))
                }
                None => rows.dropped.push(name),
            }
        }
        if std::mem::take(&mut self.has_note) {
            rows.dropped.push(NOTE.to_owned());
        }
        rows
    }

    /// A proven block carries the slashing of a finding. What is of the future is not taken.
    pub fn claim(&mut self, finding: Root, included: Included, chain: &Chain) {
        let ahead = MAX_AHEAD_EPOCHS * chain.network().preset().slots_per_epoch;
        if included.slot > chain.now().saturating_add(ahead) {
            return;
        }
        let block = (included.slot, included.block_root);
        let claim = self.claims.entry(block).or_default();
        if claim.findings.insert(finding) {
            // Looked at again, for this one too.
            claim.holds = false;
            self.changed.insert(block);
            self.n_findings += 1;
        }
    }

    /// Forgets what is too much: first what `head` does not stand on, the oldest of it first.
    fn keep_within_bounds(&mut self, chain: &Chain, head: &Root) {
        if self.claims.len() <= MAX_BLOCKS && self.n_findings <= MAX_FINDINGS {
            return;
        }
        let stands = |(slot, root): &(Slot, Root)| chain.ancestor_at(head, *slot) == Some(*root);
        let (standing, others): (Vec<_>, Vec<_>) = self.claims.keys().copied().partition(stands);
        for block in others.into_iter().chain(standing) {
            if self.claims.len() <= MAX_BLOCKS && self.n_findings <= MAX_FINDINGS {
                break;
            }
            self.n_findings -= self.claims.remove(&block).map_or(0, |claim| claim.findings.len());
            self.changed.insert(block);
        }
    }

    /// Asks the chain, once for each slot of its head.
    pub fn settle(&mut self, chain: &Chain, moment: Moment) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let head = chain.backed_head();
        let at_the_end = moment == Moment::TheEnd;
        if self.claims.is_empty() || (!at_the_end && self.looked_at == Some(head.slot) && self.changed.is_empty()) {
            return verdicts;
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
            let stands = chain.ancestor_at(&head.root, *slot) == Some(*root);
            let is_old = slot.saturating_add(CONFIRMED_AFTER_EPOCHS * per_epoch) <= head.slot;
            if stands && !claim.holds && (is_old || at_the_end) {
                claim.holds = true;
                self.changed.insert((*slot, *root));
                let included = Included { slot: *slot, block_root: *root };
                verdicts.included.extend(claim.findings.iter().map(|finding| (*finding, included)));
            } else if !stands && claim.holds && chain.is_known_block(root) {
                claim.holds = false;
                self.changed.insert((*slot, *root));
                verdicts.reopened.extend(&claim.findings);
            }
        }
        // On a branch of its own another block may carry it as well.
        verdicts.reopened.retain(|finding| !self.claims.values().any(|claim| claim.holds && claim.findings.contains(finding)));
        verdicts
    }
}

#[cfg(test)]
mod tests;
