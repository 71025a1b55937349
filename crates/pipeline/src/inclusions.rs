//! Which proven offences are punished: a block's word counts when the chain has built on it for a while, and no longer than that.
//!
//! Anyone with a key can sign a block that carries a slashing, and an honest one may be orphaned. So what a block carries is a *claim*: it
//! is taken for true when the block is an ancestor of the head and [`CONFIRMED_AFTER_EPOCHS`] old, and taken back if the head leaves it. The
//! head is the one that most proposers build on, not the latest: one key can sign a block on any other. Claims are looked at once a slot, kept
//! for [`KEPT_EPOCHS`], and stored beside the findings (JSON, [`NOTE`]) whenever they change.
//!
//! **Bounds.** [`MAX_BLOCKS`] blocks with [`MAX_FINDINGS`] findings together, none later than [`MAX_AHEAD_EPOCHS`] from now; past that those are forgotten first
//! on which the head does not stand, then the oldest: their offences stay unpunished until the registry says otherwise.

use chain::Chain;
use consensus::{Root, Slot};
use evidence::Included;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Name of the checkpoint.
pub const NOTE: &str = "inclusions";
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
    changed: bool,
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

impl Inclusions {
    /// What an earlier run knew; of damaged bytes nothing.
    pub fn read(bytes: &[u8]) -> Self {
        let rows: Vec<(Slot, Root, Claim)> = serde_json::from_slice(bytes).unwrap_or_default();
        let claims: BTreeMap<_, _> = rows.into_iter().map(|(slot, root, claim): (_, _, Claim)| ((slot, root), claim)).collect();
        let n_findings = claims.values().map(|claim| claim.findings.len()).sum();
        Self { claims, n_findings, ..Self::default() }
    }

    /// To be stored, if it is other than before.
    pub fn note(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.changed).then(|| {
            let rows: Vec<(Slot, Root, &Claim)> = self.claims.iter().map(|((slot, root), claim)| (*slot, *root, claim)).collect();
            serde_json::to_vec(&rows).expect("numbers and roots")
        })
    }

    /// A proven block carries the slashing of a finding. What is of the future is not taken.
    pub fn claim(&mut self, finding: Root, included: Included, chain: &Chain) {
        let ahead = MAX_AHEAD_EPOCHS * chain.network().preset().slots_per_epoch;
        if included.slot > chain.now().saturating_add(ahead) {
            return;
        }
        let claim = self.claims.entry((included.slot, included.block_root)).or_default();
        if claim.findings.insert(finding) {
            // Looked at again, for this one too.
            claim.holds = false;
            self.changed = true;
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
            self.changed = true;
        }
    }

    /// Asks the chain, once for each slot of its head.
    pub fn settle(&mut self, chain: &Chain, moment: Moment) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let head = chain.backed_head();
        let at_the_end = moment == Moment::TheEnd;
        if self.claims.is_empty() || (!at_the_end && self.looked_at == Some(head.slot) && !self.changed) {
            return verdicts;
        }
        self.looked_at = Some(head.slot);
        let per_epoch = chain.network().preset().slots_per_epoch;
        let n_before = self.claims.len();
        self.claims.retain(|(slot, _), _| slot.saturating_add(KEPT_EPOCHS * per_epoch) >= head.slot);
        if self.claims.len() < n_before {
            self.changed = true;
            self.n_findings = self.claims.values().map(|claim| claim.findings.len()).sum();
        }
        self.keep_within_bounds(chain, &head.root);
        for ((slot, root), claim) in &mut self.claims {
            let stands = chain.ancestor_at(&head.root, *slot) == Some(*root);
            let is_old = slot.saturating_add(CONFIRMED_AFTER_EPOCHS * per_epoch) <= head.slot;
            if stands && !claim.holds && (is_old || at_the_end) {
                claim.holds = true;
                self.changed = true;
                let included = Included { slot: *slot, block_root: *root };
                verdicts.included.extend(claim.findings.iter().map(|finding| (*finding, included)));
            } else if !stands && claim.holds && chain.is_known_block(root) {
                claim.holds = false;
                self.changed = true;
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
