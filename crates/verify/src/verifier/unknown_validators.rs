//! Keeps slashing operations from proven blocks that name validators that our registry does not
//! have yet. A block is processed only once, so its operations must wait here until a later state
//! contains these validators.
//!
//! The limits are [`MAX_WAITING`] operations with [`MAX_MEMBERS`] members in total. When a limit is
//! reached, the oldest operations are removed. There is no time limit, because a registry may be
//! refreshed hours later.

use super::named::SlashingJob;
use std::collections::VecDeque;

const MAX_WAITING: usize = 256;
/// Each member takes 8 bytes.
const MAX_MEMBERS: usize = 1 << 20;

/// The operations that wait.
#[derive(Debug, Default)]
pub(super) struct UnknownValidators {
    jobs: VecDeque<SlashingJob>,
    n_members: usize,
}

impl UnknownValidators {
    /// Keeps an operation. Returns the operations that were removed to make room.
    pub(super) fn keep(&mut self, job: SlashingJob) -> Vec<SlashingJob> {
        self.n_members += job.n_members();
        self.jobs.push_back(job);
        let mut evicted = Vec::new();
        while self.jobs.len() > MAX_WAITING || (self.n_members > MAX_MEMBERS && self.jobs.len() > 1) {
            let Some(oldest) = self.jobs.pop_front() else { break };
            self.n_members -= oldest.n_members();
            evicted.push(oldest);
        }
        evicted
    }

    /// Removes and returns all waiting operations, in order of arrival.
    pub(super) fn take(&mut self) -> VecDeque<SlashingJob> {
        self.n_members = 0;
        std::mem::take(&mut self.jobs)
    }
}
