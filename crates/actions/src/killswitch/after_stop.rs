//! What the keys of a group do after an order: silence is the proof that a stop has worked.
//!
//! ```text
//! order ended          grace                keys sign for two slots: `signing`, since the first
//! ----|-------- an epoch ---------|------------------------------------------------>
//!                                           no key signs in two epochs that were heard: `silent`
//! ```
//!
//! What a client answers is not believed, and neither is what is not heard. A message counts if it
//! is for a slot more than [`GRACE_EPOCHS`] after the order ended, so that nothing counts that was
//! signed before and came late. A machine whose clock is ahead, which is a cause of many double
//! votes, signs for later slots than that, and somebody may hold such a message back until its slot
//! comes. So one slot is not enough: who signs goes on, and a lone key does so in the next epoch.
//! Epochs without a message count only if the whole network was heard in them
//! ([`detect::watch::HeardRun`]).

use consensus::{Slot, ValidatorIndex};
use detect::watch::WatchReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Messages for a slot up to this number of epochs after the end of the order do not count.
pub(super) const GRACE_EPOCHS: u64 = 1;
/// Number of epochs in a row without a message after which a group is silent.
const SILENT_EPOCHS: u64 = 2;
/// Limit on the keys that are named.
pub(super) const MAX_KEYS: usize = 10;

/// What a group's keys did since its order ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterStop {
    /// Slot in which the order ended.
    pub stopped_in: Slot,
    /// `None` while no key signs.
    pub signing: Option<StillSigning>,
    /// What was signed for a single slot so far, and may be from before the stop.
    #[serde(default)]
    pub once: Option<StillSigning>,
    /// The slot since which no key has signed. `None` before that is certain.
    pub silent_since: Option<Slot>,
}

/// Keys that sign although they should be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillSigning {
    /// Slot of the first message.
    pub since: Slot,
    /// Slot of the latest message.
    pub last: Slot,
    /// Some of the keys, [`MAX_KEYS`] at most.
    pub keys: BTreeSet<ValidatorIndex>,
    /// Number of keys that were seen to sign. After a restart those of before count only if they
    /// are named.
    pub n_keys: u64,
}

impl AfterStop {
    pub fn new(stopped_in: Slot) -> Self {
        Self { stopped_in, signing: None, once: None, silent_since: None }
    }

    /// Takes in what was heard of the `members` of the group up to the end of a slot. Returns
    /// whether anything changed.
    pub fn look(&mut self, members: &[ValidatorIndex], report: &WatchReport, slots_per_epoch: u64) -> bool {
        let before = self.clone();
        let counts_from = self.stopped_in.saturating_add(1 + GRACE_EPOCHS * slots_per_epoch);
        let from = self.silent_since.map_or(counts_from, |since| since.max(counts_from));
        let last_signed = |member: &ValidatorIndex| {
            let at = report.keys.binary_search_by_key(member, |key| key.validator).ok()?;
            report.keys[at].last_signed
        };
        let signed: Vec<(ValidatorIndex, Slot)> =
            members.iter().filter_map(|member| Some((*member, last_signed(member).filter(|slot| *slot >= from)?))).collect();
        let slots = || signed.iter().map(|(_, slot)| *slot);
        if let (Some(first), Some(last)) = (slots().min(), slots().max()) {
            let new = || StillSigning { since: first, last, keys: BTreeSet::new(), n_keys: 0 };
            let mut signing = self.signing.take().unwrap_or_else(|| {
                let once = self.once.take().unwrap_or_else(new);
                StillSigning { since: once.since.min(first), ..once }
            });
            signing.last = signing.last.max(last);
            for (key, _) in &signed {
                if signing.keys.len() < MAX_KEYS {
                    signing.keys.insert(*key);
                }
            }
            signing.n_keys = signing.n_keys.max(signed.len() as u64).max(signing.keys.len() as u64);
            if signing.since < signing.last {
                (self.signing, self.silent_since) = (Some(signing), None);
            } else {
                self.once = Some(signing);
            }
        }
        let heard_last = self.signing.as_ref().or(self.once.as_ref());
        let quiet_from = heard_last.map_or(self.stopped_in, |signing| signing.last).saturating_add(1);
        let is_silent = report
            .heard
            .is_some_and(|run| run.until >= run.since.max(quiet_from).saturating_add(SILENT_EPOCHS * slots_per_epoch));
        if is_silent && (self.silent_since.is_none() || self.once.is_some()) {
            *self = Self { silent_since: Some(quiet_from), ..Self::new(self.stopped_in) };
        }
        *self != before
    }

    /// Whether it is not known yet if the keys sign or are silent.
    pub fn is_undecided(&self) -> bool {
        self.signing.is_none() && self.silent_since.is_none()
    }

    /// In words, for the operator. `None` while it is not known.
    pub fn notice(&self) -> Option<String> {
        match (&self.signing, self.silent_since) {
            (Some(StillSigning { since, keys, n_keys, .. }), _) => {
                let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
                let more = n_keys.saturating_sub(keys.len() as u64);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let (noun, verb) = if *n_keys == 1 { ("key", "signs") } else { ("keys", "sign") };
                Some(format!(
                    "{noun} {}{more} still {verb} since slot {since}: stop the machine that signs by hand",
                    names.join(", ")
                ))
            }
            (None, Some(since)) => Some(format!("its keys are silent since slot {since}")),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use detect::watch::{ChainState, HeardRun, KeyStatus};

    const PER_EPOCH: u64 = 32;

    /// The last signed slots of keys 5, 6 and 7, and the epochs that were heard.
    fn report(signed: [u64; 3], heard: Option<[u64; 2]>) -> WatchReport {
        let key = |(nth, slot): (u64, u64)| KeyStatus {
            validator: ValidatorIndex::new(5 + nth),
            pubkey: Default::default(),
            state: ChainState::ActiveOngoing,
            effective_balance: Default::default(),
            last_vote: None,
            last_signed: (slot > 0).then(|| Slot::new(slot)),
            missed_in_a_row: 0,
            due: 0,
            voted: 0,
            proposals: Default::default(),
            newest_source: None,
            effectiveness_permille: None,
        };
        let run =
            |[since, until]: [u64; 2]| HeardRun { since: Slot::new(since * PER_EPOCH), until: Slot::new(until * PER_EPOCH) };
        WatchReport { keys: (0..).zip(signed).map(key).collect(), heard: heard.map(run), ..WatchReport::default() }
    }

    fn look(after: &mut AfterStop, signed: [u64; 3], heard: Option<[u64; 2]>) -> String {
        let members = [5, 6].map(ValidatorIndex::new);
        after.look(&members, &report(signed, heard), PER_EPOCH);
        after.notice().unwrap_or_default()
    }

    #[test]
    fn keys_sign_or_are_silent_and_deafness_is_neither() {
        let mut after = AfterStop::new(Slot::new(100));
        let both = "keys 5, 6 still sign since slot 133: stop the machine that signs by hand";
        assert_eq!(look(&mut after, [100, 132, 999], Some([0, 4])), "", "late, and another group's");
        assert_eq!(look(&mut after, [0, 133, 0], Some([0, 5])), "", "one that was signed ahead of its slot");
        assert_eq!(look(&mut after, [0, 133, 0], Some([0, 5])), "", "the same again");
        assert_eq!(
            look(&mut after.clone(), [0, 134, 0], Some([0, 5])),
            "key 6 still signs since slot 133: stop the machine that signs by hand"
        );
        assert_eq!(look(&mut after, [140, 0, 0], Some([0, 5])), both, "after a restart");
        assert_eq!(look(&mut after, [150, 151, 0], Some([0, 6])), both);
        // Slot 151 is in epoch 4. Two whole epochs after it end with epoch 6.
        assert!(look(&mut after, [150, 151, 0], Some([0, 6])).contains("still sign"));
        assert!(look(&mut after, [150, 151, 0], None).contains("still sign"), "deaf");
        assert!(look(&mut after, [150, 151, 0], Some([8, 9])).contains("still sign"), "deaf until epoch 8");
        assert_eq!(look(&mut after, [150, 151, 0], Some([8, 10])), "its keys are silent since slot 152");
        assert!(!after.look(&[ValidatorIndex::new(5)], &report([150, 151, 0], Some([8, 11])), PER_EPOCH), "nothing new");
        // A supervisor starts a client again.
        assert_eq!(look(&mut after, [400, 151, 0], Some([8, 12])), "its keys are silent since slot 152");
        assert_eq!(
            look(&mut after, [431, 151, 0], Some([8, 13])),
            "key 5 still signs since slot 400: stop the machine that signs by hand"
        );
        assert_eq!(look(&mut after, [431, 151, 0], Some([8, 16])), "its keys are silent since slot 432");
    }

    /// Two messages that were held back, weeks apart, are not a machine that signs.
    #[test]
    fn single_messages_with_silence_between_them_are_no_signing() {
        let mut after = AfterStop::new(Slot::new(100));
        for (slot, epoch) in [(140, 4), (400, 12), (4_000, 125)] {
            assert!(!look(&mut after, [slot, 0, 0], Some([0, epoch])).contains("still sign"), "slot {slot}");
            let silent = format!("its keys are silent since slot {}", slot + 1);
            assert_eq!(look(&mut after, [slot, 0, 0], Some([0, epoch + 3])), silent);
        }
    }

    #[test]
    fn a_stop_that_works_is_confirmed_by_two_epochs_of_silence() {
        let mut after = AfterStop::new(Slot::new(100));
        assert_eq!(look(&mut after, [99, 100, 0], Some([0, 5])), "");
        assert_eq!(look(&mut after, [99, 100, 0], Some([0, 6])), "its keys are silent since slot 101");
    }
}
