//! Opening, the last part: newest votes and summary of the *tail*, the last epochs, from their rows.
//!
//! Who sits behind a row's bits follows from the epoch's shuffling, which is computed anew (some 0.04 s per million
//! validators and epoch): most of what opening costs. So threads read epochs and turn them into lists of validators, and the opening
//! thread takes those in. The order of epochs does not matter: the two newest are the two newest however they come.

use crate::heads::{NONE, Remembered};
use crate::shelf::{EpochVotes, Shelf};
use crate::{Index, IndexError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Threads that read epochs, at most; each holds up to 16 MB per million validators.
const MAX_READERS: usize = 4;

impl Index {
    /// Heads and summary of the last epochs.
    pub(crate) fn read_tail(&mut self) -> Result<(), IndexError> {
        let Self { db, table, data, sets, heads, summary, offenders, state, .. } = self;
        let shelf = Shelf { db, table, data, sets };
        let epochs = epochs_between(&shelf, state.tail_from, state.reach)?;
        let n_readers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_READERS).min(epochs.len());
        let next = AtomicUsize::new(0);
        let mut counts = Vec::new();
        std::thread::scope(|scope| {
            // Full when the opening thread has one epoch to take in: readers do not pile up more than they hold.
            let (sender, receiver) = sync_channel(1);
            for _ in 0..n_readers {
                let (sender, shelf, epochs, next) = (sender.clone(), &shelf, &epochs, &next);
                scope.spawn(move || {
                    while let Some(epoch) = epochs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let votes = shelf.votes_of_epoch(*epoch);
                        let failed = votes.is_err();
                        // Nobody receives any more after an error elsewhere.
                        if sender.send(votes).is_err() || failed {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for votes in receiver {
                let EpochVotes { epoch, rows, voters } = votes?;
                for (row, validators) in rows {
                    counts.push((row.target(), validators.len() as u64));
                    let Some(source) = u32::try_from(row.source()).ok().filter(|source| *source < NONE) else { continue };
                    let vote = Remembered { source, target: epoch, handle: row.handle };
                    let mut apart = Vec::new();
                    heads.observe_all(&validators, vote, &mut apart);
                    for validator in apart {
                        if !offenders.list(db, validator)?.has(row.handle) {
                            heads.observe(validator, vote, false);
                        }
                    }
                }
                summary.mark(db, epoch, &voters, false)?;
                summary.settle(db)?;
            }
            Ok(())
        })?;
        counts.into_iter().for_each(|(epoch, n_votes)| self.count_epoch(epoch, n_votes));
        Ok(())
    }
}

/// Epochs with rows, on disk or still growing, that heads can name; ascending. Those past `reach` hold far votes only, which
/// are found through their validators' lists.
fn epochs_between(shelf: &Shelf<'_>, tail_from: u64, reach: u32) -> Result<Vec<u32>, IndexError> {
    let mut epochs = Vec::new();
    let mut from = tail_from;
    while let Some(epoch) =
        shelf.first_epoch_from(from)?.and_then(|epoch| u32::try_from(epoch).ok()).filter(|epoch| *epoch <= reach.min(NONE - 1))
    {
        epochs.push(epoch);
        from = u64::from(epoch) + 1;
    }
    Ok(epochs)
}
