//! The keys whose offences may fire a kill switch: those that the operator named one by one.
//!
//! A group may also be given by withdrawal credentials or by a fee recipient. Anybody can make
//! their own key match these. A deposit of 1 ETH with the group's credentials makes a validator
//! that counts as a member. Whoever holds the key of any validator, even of an exited one, can sign
//! a block that names the group's fee recipient. It costs such a stranger nothing to sign a
//! contradiction afterwards. The stranger's key gets the label, and there is an alert. But it stops
//! the group's validators only if the operator chose [`MembersConfig::All`], and then only if a
//! block can punish the offence. For the same reason only these keys are listened to after an
//! order: a stranger who goes on voting must not make it look as if the stop had failed.

use crate::config::MembersConfig;
use consensus::{PubkeyBytes, ValidatorIndex};
use detect::watch::{Entry, Selector, WatchList};
use evidence::Finding;
use std::collections::{BTreeSet, HashSet};

/// Returns whether a group has entries, but none of them names a key.
pub(crate) fn names_nobody(list: &WatchList, group: &str) -> bool {
    let ours = || list.entries().iter().filter(|entry| entry.group.as_deref() == Some(group));
    ours().next().is_some() && Named::of(ours()).is_empty()
}

/// Keys that are named by index, range or public key.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    /// First and last index of each range, both inclusive, ascending by the first.
    ranges: Vec<(u64, u64)>,
    pubkeys: HashSet<PubkeyBytes>,
}

impl Named {
    /// Collects the named keys of these entries. Overlapping ranges are merged.
    pub fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut named = Self::default();
        for entry in entries {
            match &entry.selector {
                Selector::Index(index) => named.ranges.push((index.as_u64(), index.as_u64())),
                Selector::Range { first, last } => named.ranges.push((first.as_u64(), last.as_u64())),
                Selector::Pubkey(pubkey) => {
                    named.pubkeys.insert(*pubkey);
                }
                Selector::WithdrawalCredentials(_) | Selector::FeeRecipient(_) => {}
            }
        }
        named.ranges.sort_unstable();
        named.ranges.dedup_by(|next, kept| {
            let overlaps = next.0 <= kept.1;
            kept.1 = if overlaps { kept.1.max(next.1) } else { kept.1 };
            overlaps
        });
        named
    }

    /// Returns one of the keys, by its index, or by its public key if no index is named.
    pub fn first(&self) -> (Option<ValidatorIndex>, Option<PubkeyBytes>) {
        let index = self.ranges.first().map(|(first, _)| ValidatorIndex::new(*first));
        (index, self.pubkeys.iter().min().copied().filter(|_| index.is_none()))
    }

    /// The keys that are named by their public key.
    pub fn pubkeys(&self) -> impl Iterator<Item = PubkeyBytes> {
        self.pubkeys.iter().copied()
    }

    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.pubkeys.is_empty()
    }

    /// Returns whether the validator is named, by its index or by its public key.
    pub fn has(&self, index: ValidatorIndex, pubkey: PubkeyBytes) -> bool {
        let index = index.as_u64();
        let at = self.ranges.partition_point(|(first, _)| *first <= index);
        let in_range = at.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| index <= *last);
        in_range || self.pubkeys.contains(&pubkey)
    }
}

/// A set of validators: those that are named, and those that have one of the labels for any reason.
#[derive(Clone, Debug)]
pub(super) struct MemberSet {
    pub named: Named,
    pub labels: BTreeSet<String>,
    pub members: MembersConfig,
}

impl MemberSet {
    /// Returns whether what a member does counts: it is named, or the operator chose
    /// [`MembersConfig::All`].
    pub fn counts(&self, index: ValidatorIndex, pubkey: PubkeyBytes) -> bool {
        self.members == MembersConfig::All || self.named.has(index, pubkey)
    }

    /// Returns whether a finding is about a validator with one of the labels. A named key must have
    /// the label too, because nothing is reported about keys beyond the limit of what can be
    /// watched.
    pub fn concerns(&self, finding: &Finding) -> bool {
        finding.validator.as_ref().is_some_and(|subject| subject.labels.iter().any(|label| self.labels.contains(label)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{ExecutionAddress, Root};
    use detect::watch::{Duty, WatchList};

    #[test]
    fn only_indices_ranges_and_public_keys_name_a_key() {
        let pubkey = PubkeyBytes::repeat_byte(0xab);
        let mut list = WatchList::default();
        for text in ["5", "10-19", "15-16", "18-25", "30"].map(str::to_owned).into_iter().chain([
            pubkey.to_string(),
            Root::repeat_byte(1).to_string(),
            ExecutionAddress::repeat_byte(2).to_string(),
        ]) {
            list.add(Some("g"), text.parse().unwrap(), &[], Duty::Active).unwrap();
        }
        let named = Named::of(list.entries().iter());
        let has = |index: u64, pubkey: u8| named.has(ValidatorIndex::new(index), PubkeyBytes::repeat_byte(pubkey));
        let found: Vec<u64> = (0..40).filter(|index| has(*index, 0)).collect();
        let wanted: Vec<u64> = [5].into_iter().chain(10..=25).chain([30]).collect();
        assert_eq!(found, wanted);
        assert!(has(100, 0xab) && !has(u64::MAX, 1) && !has(100, 2));
    }
}
