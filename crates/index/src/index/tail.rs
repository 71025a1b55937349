//! The last part of opening: rebuilds heads and summary of the *tail*, which consists of the last
//! epochs, from their rows.
//!
//! The validators behind a row's bits follow from the epoch's shuffling, which is computed again
//! (about 0.04 s per million validators and epoch). This is most of the cost of opening. So several
//! threads read epochs and turn them into lists of validators, and the opening thread adds those.
//! The order of the epochs does not matter, because the two newest votes are the same in any order.

use crate::epochs::{EpochReader, EpochVotes};
use crate::newest_votes::NO_EPOCH;
use crate::{Index, IndexError};
use consensus::Epoch;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// The largest number of threads that read epochs. Each holds up to 16 MB per million validators.
const MAX_READERS: usize = 4;

impl Index {
    /// Rebuilds heads and summary of the last epochs.
    pub(crate) fn read_tail(&mut self) -> Result<(), IndexError> {
        let Self { db, shufflings, data, sets, newest, summary, offenders, state, .. } = self;
        let reader = EpochReader { db, shufflings, data, sets };
        let epochs = epochs_between(&reader, state.tail_from, state.reach)?;
        let n_readers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_READERS).min(epochs.len());
        let next = AtomicUsize::new(0);
        let mut counts = Vec::new();
        std::thread::scope(|scope| {
            // The channel is full if one epoch waits for the opening thread. So each reader holds
            // at most one more epoch.
            let (sender, receiver) = sync_channel(1);
            for _ in 0..n_readers {
                let (sender, reader, epochs, next) = (sender.clone(), &reader, &epochs, &next);
                scope.spawn(move || {
                    while let Some(epoch) = epochs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let votes = reader.votes_of_epoch(*epoch);
                        let failed = votes.is_err();
                        // After an error in another thread nobody receives.
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
                    if row.source() >= NO_EPOCH {
                        continue;
                    }
                    let vote = row.span();
                    let mut outside = Vec::new();
                    newest.observe_all(&validators, vote, &mut outside);
                    for validator in outside {
                        if !offenders.list(db, validator)?.has(row.handle) {
                            newest.observe(validator, vote, false);
                        }
                    }
                }
                summary.mark(db, epoch, &voters, false)?;
                summary.add_marked(db)?;
            }
            Ok(())
        })?;
        counts.into_iter().for_each(|(epoch, n_votes)| self.count_epoch(epoch, n_votes));
        Ok(())
    }
}

/// The epochs with rows (on disk, or in memory and still growing) that a head can contain, in
/// ascending order. Epochs after `reach` contain far votes only, which are found through their
/// validators' lists.
fn epochs_between(reader: &EpochReader<'_>, tail_from: Epoch, reach: Epoch) -> Result<Vec<Epoch>, IndexError> {
    let mut epochs = Vec::new();
    let mut from = tail_from;
    let last = reach.min(NO_EPOCH.saturating_sub(1));
    while let Some(epoch) = reader.first_epoch_from(from)?.filter(|epoch| *epoch <= last) {
        epochs.push(epoch);
        from = epoch.saturating_add(1);
    }
    Ok(epochs)
}
