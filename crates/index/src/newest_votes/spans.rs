//! Source and target of every data that a remembered vote refers to, by handle. They are stored in
//! pages, which are allocated when needed and dropped when no vote refers to them.

use super::decide::NO_VOTE;
use crate::tables::VoteSpan;
use consensus::Epoch;

/// Stands for "no vote".
pub(crate) const NO_HANDLE: u32 = u32::MAX >> 1;
/// Number of handles per page.
pub(crate) const HANDLES: usize = 1 << 10;

/// Source and target of `HANDLES` data.
type SpanPage = Box<[(u32, u32); HANDLES]>;

/// The table from handle to source and target.
#[derive(Default)]
pub(crate) struct SpanTable(Vec<Option<SpanPage>>);

impl SpanTable {
    /// The vote with this handle. [`NO_VOTE`] for [`NO_HANDLE`].
    #[inline]
    pub fn span(&self, handle: u32) -> VoteSpan {
        match self.0.get(handle as usize / HANDLES) {
            Some(Some(page)) if handle != NO_HANDLE => {
                let (source, target) = page[handle as usize % HANDLES];
                VoteSpan { source: Epoch::new(u64::from(source)), target: Epoch::new(u64::from(target)), handle }
            }
            _ => NO_VOTE,
        }
    }

    /// Makes the entry of a vote's handle.
    #[inline]
    pub fn note(&mut self, vote: VoteSpan) {
        let at = vote.handle as usize / HANDLES;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        let page = self.0[at].get_or_insert_with(|| Box::new([(0, u32::MAX); HANDLES]));
        page[vote.handle as usize % HANDLES] = (packed(vote.source), packed(vote.target));
    }

    /// Drops the pages in which no handle is in `named`. Without this a long-lived process would
    /// keep every handle that it ever met.
    pub fn keep_named(&mut self, named: impl Iterator<Item = u32>) {
        let mut is_named = vec![false; self.0.len()];
        for handle in named.filter(|handle| *handle != NO_HANDLE) {
            is_named[handle as usize / HANDLES] = true;
        }
        self.0.iter_mut().zip(is_named).filter(|(_, is_named)| !is_named).for_each(|(page, _)| *page = None);
    }
}

/// An epoch in four bytes. Only epochs below [`NO_EPOCH`](super::NO_EPOCH) are remembered.
#[inline]
pub(super) fn packed(epoch: Epoch) -> u32 {
    epoch.as_u64() as u32
}
