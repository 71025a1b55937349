//! The finalized epoch of a branch, as far as its blocks tell. It decides when a validator becomes
//! active.
//!
//! An attestation in a block names the epoch that was justified when its target's epoch began. From
//! these epochs the finalized epoch follows by the rules of `weigh_justification_and_finalization`.
//! Two things stay open. If an epoch was not justified at its end but the next one was, late votes
//! have most likely justified it too; blocks do not name it. And blocks may name no epoch at all.
//! Then [`BranchFinality::least`] and [`BranchFinality::most`] differ.

use consensus::Epoch;
use std::collections::{BTreeMap, BTreeSet};

/// Number of past epochs that the rules look at.
const REACH: u64 = 6;

#[derive(Clone, Debug, Default)]
pub(crate) struct BranchFinality {
    /// Maps an epoch to the epoch that was justified when it began.
    named: BTreeMap<Epoch, Epoch>,
    justified: BTreeSet<Epoch>,
    /// Epochs that late votes have most likely justified.
    late: BTreeSet<Epoch>,
    /// Other epochs that may be justified.
    perhaps: BTreeSet<Epoch>,
    /// Epochs that ended before a block named what was justified when the next one began.
    unnamed: BTreeSet<Epoch>,
    /// The most likely finalized epoch.
    pub(crate) finalized: Epoch,
    /// The branch has finalized at least this epoch.
    pub(crate) least: Epoch,
    /// The branch has finalized at most this epoch.
    pub(crate) most: Epoch,
}

impl BranchFinality {
    /// Begins with what a state in `epoch` says. Bit n of `bits` is about the epoch n epochs before
    /// the previous one.
    pub(crate) fn of_state(epoch: Epoch, bits: u8, [previous, current]: [Epoch; 2], finalized: Epoch) -> Self {
        let mut begun = Self { finalized, least: finalized, most: finalized, ..Self::default() };
        begun.justified = (0..4).filter(|nth| bits >> nth & 1 == 1).filter_map(|nth| epoch.checked_sub(1 + nth)).collect();
        begun.named.insert(epoch, current);
        if let Some(before) = epoch.checked_sub(1) {
            begun.named.insert(before, previous);
        }
        begun
    }

    /// Records that epoch `justified` was justified when epoch `at` began. The first value stays.
    pub(crate) fn name(&mut self, at: Epoch, justified: Epoch) {
        if justified < at {
            self.named.entry(at).or_insert(justified);
        }
    }

    /// Whether no block after `epoch` can still name what an epoch end before lacked. An
    /// attestation about an epoch is in a block of that epoch or of the next one.
    pub(crate) fn is_settled(&self, epoch: Epoch) -> bool {
        self.unnamed.iter().all(|ended| ended.saturating_add(2) < epoch)
    }

    /// Goes past the end of `epoch`.
    pub(crate) fn end_epoch(&mut self, epoch: Epoch) {
        // The specification does nothing in the first two epochs.
        let (Some(before), true) = (epoch.checked_sub(1), epoch.as_u64() > 1) else { return };
        match self.named.get(&epoch.saturating_add(1)) {
            Some(next) if *next == epoch => {
                self.justified.insert(epoch);
                self.late.insert(before);
            }
            Some(next) if *next == before => {
                self.justified.insert(before);
            }
            Some(_) => {}
            None => {
                self.perhaps.extend([before, epoch]);
                self.unnamed.insert(epoch);
            }
        }
        let current = self.named.get(&epoch).copied();
        let previous = self.named.get(&before).copied();
        let by = |is_justified: &dyn Fn(Epoch) -> bool| {
            let all = |nths: [u64; 2]| (nths[0]..=nths[1]).all(|nth| epoch.checked_sub(nth).is_some_and(is_justified));
            let rules = [(previous, [1, 3], 3), (previous, [1, 2], 2), (current, [0, 2], 2), (current, [0, 1], 1)];
            let holds = |(source, nths, age): &(Option<Epoch>, [u64; 2], u64)| {
                source.filter(|source| source.saturating_add(*age) == epoch && all(*nths))
            };
            rules.iter().filter_map(holds).max()
        };
        let least = by(&|at| self.justified.contains(&at));
        let likely = by(&|at| self.justified.contains(&at) || self.late.contains(&at));
        let most = by(&|at| [&self.justified, &self.late, &self.perhaps].iter().any(|known| known.contains(&at)));
        // Without the justified epoch the latest one that is possible counts.
        let unnamed = current.is_none().then_some(before);
        self.least = self.least.max(least.unwrap_or_default());
        self.finalized = self.finalized.max(self.least).max(likely.unwrap_or_default());
        self.most = self.most.max(self.finalized).max(most.unwrap_or_default()).max(unnamed.unwrap_or_default());
        let floor = epoch.saturating_sub(REACH);
        self.named.retain(|at, _| *at >= floor);
        self.justified.retain(|at| *at >= floor);
        self.late.retain(|at| *at >= floor);
        self.perhaps.retain(|at| *at >= floor);
        self.unnamed.retain(|at| *at >= floor);
    }
}
