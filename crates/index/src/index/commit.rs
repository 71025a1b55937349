//! Commits: one atomic write each, whose size depends on what is new.
//!
//! A set that arrives almost complete (one batch per slot) is written as a row at once. A set that
//! arrives in parts is kept in the log, each part once. It becomes a row when nothing was added to
//! it for [`QUIET_COMMITS`] commits, or when it has been in the log for [`MAX_LOG_ENTRIES`]
//! entries. Then its signatures are added up, and its log entries are deleted in the same batch.
//!
//! Every few epochs a checkpoint writes what cannot be rebuilt from the rows of the last epochs
//! when the index is opened: the newest votes of validators that stopped voting, and the summary.

use super::shape::{FORMAT, put_shape};
use super::state::State;
use crate::newest_votes::NO_EPOCH;
use crate::storage::{Cf, SetKey, WriteBuffer, put_varint};
use crate::sums::put_record;
use crate::{Index, IndexError};
use consensus::Epoch;
use std::collections::BTreeSet;

/// The key of the owner's mark in the column family `default`.
pub(super) const MARK_KEY: &[u8] = b"mark";
/// A set is closed after this many commits without an addition.
const QUIET_COMMITS: u64 = 64;
/// A set stays in the log for at most this many entries.
const MAX_LOG_ENTRIES: u64 = 256;
/// The largest number of sets in memory, up to about 20 KB each. Those of the oldest epochs are
/// closed first.
const MAX_OPEN_SETS: usize = 1024;
/// A set is written as a row at once if it covers this many eighths of its slot when it first
/// arrives.
const COMPLETE_EIGHTHS: u32 = 6;
/// Opening reads at least this many epochs with many votes again, and at most twice as many.
const TAIL_EPOCHS: usize = 4;
/// An epoch has many votes if it has at least one in `CROWD` of the votes since the tail began, and
/// at least one vote for every `4 * CROWD` validators. So single votes for far epochs do not move
/// the tail.
const CROWD: u64 = 64;

/// What a commit does to a set.
enum SetCommit {
    Logged,
    Written,
    Closed,
}

impl Index {
    /// Writes everything staged in one atomic batch, which is durable when this returns. On error
    /// nothing of it is on disk and everything is still staged, so this may be called again.
    pub fn commit(&mut self) -> Result<(), IndexError> {
        self.commit_with(false)
    }

    /// Commits and folds the log, so that all history is in rows. Used before a prune, before a
    /// backup, and before closing for a long time.
    pub fn flush(&mut self) -> Result<(), IndexError> {
        self.commit_with(true)?;
        self.db.flush_and_wait()
    }

    /// Commits. `close_all` writes every set as a row and empties the log.
    pub(crate) fn commit_with(&mut self, close_all: bool) -> Result<(), IndexError> {
        let checkpoint = self.due_checkpoint(close_all);
        let mut state = self.state;
        let mut batch = self.db.batch();
        let mut done = Vec::new();
        let mut entry = Vec::new();
        if !close_all {
            self.stage_changed_sets(&mut batch, &mut entry, &mut done)?;
        }
        let closing = self.sets_to_close(close_all);
        for key in closing.iter().copied() {
            let geometry = self.seating_of(&key)?.map(|seating| seating.geometry);
            let set = self.sets.get_mut(&key).expect("its key was just listed");
            if set.changed || !set.staged.is_empty() {
                set.merge(geometry.map_or(0, |geometry| geometry.slot_len(key.slot)));
                batch.put(Cf::Votes, &key.to_bytes(), &set.encode(&key, geometry.as_ref()));
            }
            done.push((key, SetCommit::Closed));
        }

        let sequence = state.log_next;
        if !entry.is_empty() {
            batch.put(Cf::Log, &sequence.to_be_bytes(), &entry);
            state.log_next += 1;
        }
        // A set that is logged and closed in the same commit is in the log and in a row. The row
        // contains everything.
        let still = self.sets.iter().filter(|(key, set)| set.logged_from.is_some() && !closing.contains(key));
        let still = still.filter_map(|(_, set)| set.logged_from).min();
        let logged_now = !entry.is_empty();
        let floor = still.unwrap_or(if logged_now { sequence } else { state.log_next });
        if floor > state.log_floor {
            batch.delete_range(Cf::Log, &state.log_floor.to_be_bytes(), &floor.to_be_bytes());
            state.log_floor = floor;
        }

        self.data.stage(&mut batch);
        self.shufflings.stage(&mut batch);
        self.peers.stage(&mut batch);
        self.offenders.stage(&mut batch);
        self.proposals.stage(&mut batch);
        self.newest.stage_late(&mut batch);
        if let Some(tail_from) = checkpoint {
            self.newest.stage_dormant(&mut batch, tail_from);
            state.tail_from = tail_from;
        }
        self.summary.stage(&mut batch, checkpoint.is_some());
        state.next_handle = self.data.next_handle;
        state.reach = self.reach;
        state.newest = self.peers.newest;
        if self.format < FORMAT {
            put_shape(&mut batch, &self.shape);
        }
        let mark = self.mark.filter(|mark| self.written_mark != Some(*mark));
        if let Some(mark) = mark {
            batch.put(Cf::Meta, MARK_KEY, &mark.to_be_bytes());
        }
        if !batch.is_empty() || state != self.state {
            batch.put(Cf::Meta, State::key(), &state.encode());
            #[cfg(test)]
            super::crash_tests::abort_point("before the write", self.n_commits);
            batch.write()?;
            #[cfg(test)]
            super::crash_tests::abort_point("after the write", self.n_commits);
        }
        self.written_mark = mark.or(self.written_mark);
        self.committed(state, checkpoint, &done, sequence);
        Ok(())
    }

    /// Stages what is new in each set: a complete set as its row, other sets as part of the log's
    /// next entry.
    fn stage_changed_sets(
        &self,
        batch: &mut WriteBuffer<'_>,
        entry: &mut Vec<u8>,
        done: &mut Vec<(SetKey, SetCommit)>,
    ) -> Result<(), IndexError> {
        for key in &self.dirty {
            let Some(set) = self.sets.get(key).filter(|set| !set.staged.is_empty()) else { continue };
            let geometry = self.seating_of(key)?.map(|seating| seating.geometry);
            let slot_len = geometry.map_or(u32::MAX, |geometry| geometry.slot_len(key.slot));
            let complete = u64::from(set.n_covered()) * 8 >= u64::from(slot_len) * u64::from(COMPLETE_EIGHTHS);
            if complete && !set.on_disk && set.logged_from.is_none() {
                batch.put(Cf::Votes, &key.to_bytes(), &set.encode(key, geometry.as_ref()));
                done.push((*key, SetCommit::Written));
            } else {
                entry.extend_from_slice(&key.to_bytes());
                put_varint(entry, set.staged.len() as u64);
                set.staged.iter().for_each(|sum| put_record(entry, sum, key, geometry.as_ref()));
                done.push((*key, SetCommit::Logged));
            }
        }
        Ok(())
    }

    /// The sets that are quiet, that hold back the log, or that are too many.
    fn sets_to_close(&self, close_all: bool) -> BTreeSet<SetKey> {
        let n_excess = self.sets.len().saturating_sub(MAX_OPEN_SETS);
        let due = self.sets.iter().filter(|(_, set)| {
            let quiet = set.staged.is_empty() && self.n_commits - set.touched >= QUIET_COMMITS;
            let old = set.logged_from.is_some_and(|from| from + MAX_LOG_ENTRIES <= self.state.log_next);
            close_all || quiet || old
        });
        let excess = self.sets.iter().filter(|(_, set)| set.staged.is_empty()).take(n_excess);
        due.chain(excess).map(|(key, _)| *key).collect()
    }

    /// Updates the state in memory after the write succeeded.
    fn committed(&mut self, state: State, checkpoint: Option<Epoch>, done: &[(SetKey, SetCommit)], sequence: u64) {
        for (key, how) in done {
            let Some(set) = self.sets.get_mut(key) else { continue };
            match how {
                SetCommit::Logged => {
                    set.logged_from.get_or_insert(sequence);
                }
                SetCommit::Written => {
                    set.on_disk = true;
                    set.changed = false;
                }
                SetCommit::Closed => {}
            }
            set.staged = Vec::new();
            if matches!(how, SetCommit::Closed) {
                self.sets.remove(key);
            }
        }
        self.dirty.clear();
        self.data.committed();
        self.shufflings.committed();
        self.peers.committed();
        self.offenders.committed();
        self.proposals.committed();
        self.newest.committed_late();
        if let Some(tail_from) = checkpoint {
            self.newest.committed_dormant();
            self.epochs_seen.retain(|epoch, _| *epoch >= tail_from);
        }
        self.summary.committed(checkpoint.is_some());
        self.state = state;
        self.format = FORMAT;
        self.n_commits += 1;
    }

    /// The first epoch of the new tail, if it is time to move it. The tail consists of the last
    /// epochs with many votes, up to one epoch after the network's own. If the owner has not set
    /// the network's epoch, there is no upper limit.
    fn due_checkpoint(&self, close_all: bool) -> Option<Epoch> {
        let last = self.limits.now().map_or(Epoch::MAX, |now| now.saturating_add(1));
        let total: u64 = self.epochs_seen.values().sum();
        let crowd = (total / CROWD).max(self.newest.n_validators / CROWD / 4).max(1);
        let crowded = self.epochs_seen.range(..=last).rev().filter(|(_, n)| **n >= crowd).map(|(epoch, _)| *epoch);
        let crowded: Vec<Epoch> = crowded.take(2 * TAIL_EPOCHS).collect();
        let due = if close_all { TAIL_EPOCHS } else { 2 * TAIL_EPOCHS };
        if crowded.len() < due {
            return None;
        }
        let tail_from = *crowded.get(TAIL_EPOCHS - 1)?;
        (tail_from > self.state.tail_from && tail_from < NO_EPOCH).then_some(tail_from)
    }
}
