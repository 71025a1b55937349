//! Offenders of the window while there is no wave. There is one entry per validator, however often
//! it offends.

use super::{MAX_MEMBERS, WaveCase};
use consensus::{Epoch, Offence, ValidatorIndex};
use evidence::{Count, OffenceCounts};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A validator with its first offence of the window, and the counts of its offences.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Suspect {
    pub(super) case: WaveCase,
    pub(super) offences: OffenceCounts,
    /// Epoch of its latest offence. It decides when the entry leaves the window.
    latest: Epoch,
}

impl Suspect {
    pub(super) fn new(case: WaveCase) -> Self {
        let one = |of: Offence| Count(u64::from(case.offence == of));
        let offences = OffenceCounts {
            double_vote: one(Offence::DoubleVote),
            surround_vote: one(Offence::SurroundVote),
            double_proposal: one(Offence::DoubleProposal),
        };
        Self { latest: case.epoch, offences, case }
    }
}

pub(super) fn add(sum: &mut OffenceCounts, more: OffenceCounts) {
    for (sum, n) in [
        (&mut sum.double_vote, more.double_vote),
        (&mut sum.surround_vote, more.surround_vote),
        (&mut sum.double_proposal, more.double_proposal),
    ] {
        sum.0 = sum.0.saturating_add(n.0);
    }
}

#[derive(Debug, Default)]
pub(super) struct RecentOffences {
    suspects: BTreeMap<ValidatorIndex, Suspect>,
    by_latest: BTreeSet<(Epoch, ValidatorIndex)>,
}

impl RecentOffences {
    pub(super) fn add(&mut self, suspect: Suspect) {
        let validator = suspect.case.validator;
        let latest = match self.suspects.get_mut(&validator) {
            Some(known) => {
                self.by_latest.remove(&(known.latest, validator));
                add(&mut known.offences, suspect.offences);
                known.latest = known.latest.max(suspect.latest);
                known.latest
            }
            None => {
                let latest = suspect.latest;
                self.suspects.insert(validator, suspect);
                latest
            }
        };
        self.by_latest.insert((latest, validator));
    }

    /// Removes those whose latest offence is before `oldest`, and the oldest ones if there is no
    /// room.
    pub(super) fn leave(&mut self, oldest: Epoch) -> Vec<Suspect> {
        let mut gone = Vec::new();
        while let Some((latest, validator)) = self.by_latest.first().copied() {
            if latest >= oldest && self.suspects.len() < MAX_MEMBERS {
                break;
            }
            self.by_latest.pop_first();
            gone.extend(self.suspects.remove(&validator));
        }
        gone
    }

    /// Number of different validators.
    pub(super) fn len(&self) -> usize {
        self.suspects.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Suspect> {
        self.suspects.values()
    }

    /// Takes all of them, in the order in which their first offences became known.
    pub(super) fn drain(&mut self) -> Vec<Suspect> {
        self.by_latest.clear();
        let mut all: Vec<Suspect> = std::mem::take(&mut self.suspects).into_values().collect();
        all.sort_by_key(|suspect| (suspect.case.at, suspect.case.id));
        all
    }
}
