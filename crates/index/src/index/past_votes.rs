//! Finds a validator's stored votes by its seat: at one epoch, and from an epoch onward in both
//! directions.

use crate::newest_votes::NO_EPOCH;
use crate::storage::{Cf, SetKey};
use crate::sums::row_covers;
use crate::tables::VoteSpan;
use crate::{Index, IndexError};
use consensus::{Epoch, ValidatorIndex};

impl Index {
    /// All stored votes of a validator for one target epoch, on every branch.
    pub(super) fn votes_at(&self, validator: ValidatorIndex, epoch: Epoch) -> Result<Vec<VoteSpan>, IndexError> {
        let mut handles = Vec::new();
        self.handles_in(SetKey::seat_range(epoch, None), validator.as_u64() as u32, &mut handles)?;
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
            votes.push(row.span());
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
    pub(super) fn chain_before(
        &self,
        validator: ValidatorIndex,
        below: Epoch,
        outside: &[u32],
        visit: &mut dyn FnMut(&VoteSpan) -> bool,
    ) -> Result<(), IndexError> {
        let mut below = below.min(NO_EPOCH);
        while let Some((top, bottom)) = self.summary.block_below(&self.db, validator, below)? {
            for epoch in (bottom.as_u64()..=top.as_u64()).rev().map(Epoch::new) {
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
    pub(super) fn chain_after(
        &self,
        validator: ValidatorIndex,
        above: Epoch,
        end: Epoch,
        outside: &[u32],
        visit: &mut dyn FnMut(&VoteSpan) -> bool,
    ) -> Result<(), IndexError> {
        let end = end.min(NO_EPOCH);
        let mut from = above.saturating_add(1);
        while from < end
            && let Some((first, block_end)) = self.summary.block_from(&self.db, validator, from)?
        {
            for epoch in (first.as_u64()..block_end.min(end).as_u64()).map(Epoch::new) {
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
        validator: ValidatorIndex,
        epoch: Epoch,
        outside: &[u32],
        visit: &mut dyn FnMut(&VoteSpan) -> bool,
    ) -> Result<bool, IndexError> {
        let votes = self.votes_at(validator, epoch)?;
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
