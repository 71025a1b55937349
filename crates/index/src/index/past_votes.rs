//! Finds a validator's stored votes by its seat: at one epoch, and from an epoch onward in both
//! directions.

use crate::newest_votes::{NONE, Remembered};
use crate::storage::{Cf, SetKey};
use crate::sums::row_covers;
use crate::{Index, IndexError};

/// A stored vote, with what is needed to judge another vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastVote {
    pub source: u64,
    pub target: u64,
    pub handle: u32,
}

impl From<Remembered> for PastVote {
    fn from(vote: Remembered) -> Self {
        Self { source: u64::from(vote.source), target: u64::from(vote.target), handle: vote.handle }
    }
}

impl Index {
    /// All stored votes of a validator for one target epoch, on every branch.
    pub(crate) fn votes_at(&self, validator: u32, epoch: u64) -> Result<Vec<PastVote>, IndexError> {
        let mut handles = Vec::new();
        self.handles_in(SetKey::seat_range(epoch, None), validator, &mut handles)?;
        for seating in self.shufflings.of_epoch(&self.db, epoch)?.iter() {
            if let Some((slot, position)) = seating.locate(validator) {
                self.handles_in(SetKey::seat_range(epoch, Some((seating.id, slot))), position, &mut handles)?;
            }
        }
        handles.sort_unstable();
        handles.dedup();
        let mut votes = Vec::with_capacity(handles.len());
        for handle in handles {
            let Some(row) = self.data.row(&self.db, epoch, handle)? else {
                return Err(self.db.corrupt(format!("the data of a vote row of epoch {epoch} is missing")));
            };
            votes.push(PastVote { source: row.source(), target: epoch, handle });
        }
        Ok(votes)
    }

    fn handles_in(&self, (first, last): (SetKey, SetKey), member: u32, handles: &mut Vec<u32>) -> Result<(), IndexError> {
        for (key, set) in self.sets.range(first..=last) {
            if set.covers(member) {
                handles.push(key.handle);
            }
        }
        let seating = self.seating_of(&first)?;
        let geometry = seating.as_ref().map(|seating| &seating.geometry);
        self.db.scan(Cf::Votes, &first.to_bytes(), &last.to_bytes(), |key, value| {
            let unreadable = || self.db.corrupt(format!("a vote row of epoch {} does not parse", first.epoch));
            let key = SetKey::from_bytes(key).ok_or_else(unreadable)?;
            if !self.sets.contains_key(&key) && row_covers(value, &key, geometry, member).ok_or_else(unreadable)? {
                handles.push(key.handle);
            }
            Ok(true)
        })
    }

    /// Visits the chain votes before `below`, newest first, while `visit` returns `true`. `outside`
    /// lists the handles of votes that are not part of the chain.
    pub(crate) fn chain_before(
        &self,
        validator: u32,
        below: u64,
        outside: &[u32],
        visit: &mut dyn FnMut(&PastVote) -> bool,
    ) -> Result<(), IndexError> {
        let mut below = below.min(u64::from(NONE)) as u32;
        while let Some((top, bottom)) = self.summary.block_below(&self.db, validator, below)? {
            for epoch in (bottom..=top).rev() {
                if !self.visit_chain_at(validator, epoch, outside, visit)? {
                    return Ok(());
                }
            }
            below = bottom;
        }
        Ok(())
    }

    /// Visits the chain votes after `above` and before `end`, oldest first, while `visit` returns
    /// `true`.
    pub(crate) fn chain_after(
        &self,
        validator: u32,
        above: u64,
        end: u64,
        outside: &[u32],
        visit: &mut dyn FnMut(&PastVote) -> bool,
    ) -> Result<(), IndexError> {
        let (above, end) = (above.min(u64::from(NONE)) as u32, end.min(u64::from(NONE)) as u32);
        let mut from = above.saturating_add(1);
        while from < end
            && let Some((first, block_end)) = self.summary.block_from(&self.db, validator, from)?
        {
            for epoch in first..block_end.min(end) {
                if !self.visit_chain_at(validator, epoch, outside, visit)? {
                    return Ok(());
                }
            }
            from = block_end;
        }
        Ok(())
    }

    fn visit_chain_at(
        &self,
        validator: u32,
        epoch: u32,
        outside: &[u32],
        visit: &mut dyn FnMut(&PastVote) -> bool,
    ) -> Result<bool, IndexError> {
        let votes = self.votes_at(validator, u64::from(epoch))?;
        let mut chain = votes.iter().filter(|vote| !outside.contains(&vote.handle)).peekable();
        // There is normally one vote. There can be more if the list was cut. In that case the walk
        // continues if any of them contradicts.
        let mut goes_on = chain.peek().is_none();
        for vote in chain {
            goes_on |= visit(vote);
        }
        Ok(goes_on)
    }
}
