//! The numbers of findings, as readers see them in cursors and as the ids of events.
//!
//! The store numbers all findings in the order of recording. Readers who may not see the kinds
//! about watched keys get numbers that count only what they may see. Otherwise a gap would tell
//! them that there is such a finding, and the finding before it would tell whose key is watched.
//!
//! What is hidden goes by the kind, which never changes, so the numbers do not change either.

use crate::privacy::OwnKeys;
use crate::server::Shared;
use evidence::{SortOrder, Store, StoreError};
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers of the findings that are hidden from some readers, as far as they were read.
#[derive(Default)]
pub(crate) struct HiddenNumbers(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The number up to which the list is complete.
    until: u64,
    /// Ascending.
    hidden: Arc<Vec<u64>>,
}

/// Translates between the store's numbers and those that readers see.
pub(crate) struct Numbers {
    hidden: Arc<Vec<u64>>,
}

impl Shared {
    /// The numbers as these readers see them. It must be called after the findings were read whose
    /// numbers are translated. The first call of the process reads what is hidden, later ones what
    /// came since.
    pub(crate) fn numbers(&self, store: &Store) -> Result<Numbers, StoreError> {
        match self.privacy.own_keys {
            OwnKeys::Shown => Ok(Numbers { hidden: Arc::default() }),
            OwnKeys::Hidden => self.hidden_numbers.read(store),
        }
    }
}

impl HiddenNumbers {
    fn read(&self, store: &Store) -> Result<Numbers, StoreError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = store.last_seq();
        if last > known.until {
            let more = store.numbers_of_private_kinds(known.until + 1, last)?;
            if !more.is_empty() {
                Arc::make_mut(&mut known.hidden).extend(more);
            }
            known.until = last;
        }
        Ok(Numbers { hidden: known.hidden.clone() })
    }
}

impl Numbers {
    /// Number of findings up to and including this one that the reader may see. It is the number of
    /// a finding that the reader may see.
    pub(crate) fn shown(&self, stored: u64) -> u64 {
        stored - self.hidden.partition_point(|hidden| *hidden <= stored) as u64
    }

    /// The store's number of the finding that has this number for the reader.
    pub(crate) fn stored(&self, shown: u64) -> u64 {
        // Before the nth hidden finding, counted from 0, there are n others that are hidden.
        let (mut low, mut high) = (0, self.hidden.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.hidden[middle] - middle as u64 <= shown {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        shown.saturating_add(low as u64)
    }

    /// A cursor that a store gave, as the reader sees it. A cursor is the number of the last
    /// finding that was looked at, and that one may be hidden.
    pub(crate) fn shown_cursor(&self, stored: u64, order: SortOrder) -> u64 {
        match order {
            SortOrder::OldestFirst => self.shown(stored),
            // The last one that the reader has seen, or may have skipped, comes after it.
            SortOrder::NewestFirst => self.shown(stored.saturating_sub(1)) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a list that is counted by hand: what is hidden, and the numbers without it.
    #[test]
    fn numbers_count_what_is_shown_and_lead_back() {
        for hidden in [vec![], vec![1], vec![1, 2], vec![3, 4, 7], vec![9, 10], (1..=10).collect()] {
            let numbers = Numbers { hidden: Arc::new(hidden.clone()) };
            let shown: Vec<u64> = (1..=10).filter(|seq| !hidden.contains(seq)).collect();
            for (nth, seq) in (1..).zip(&shown) {
                assert_eq!((numbers.shown(*seq), numbers.stored(nth)), (nth, *seq), "{hidden:?}");
            }
            assert_eq!((numbers.shown(0), numbers.stored(0)), (0, 0), "{hidden:?}");
            assert!(numbers.stored(shown.len() as u64 + 1) > 10, "{hidden:?}: past the end");
            assert_eq!(numbers.stored(u64::MAX), u64::MAX);
            for at in 1..=10u64 {
                // Reading goes on with the same findings, whether or not the last one was hidden.
                let after = numbers.stored(numbers.shown_cursor(at, SortOrder::OldestFirst));
                let rest = |after: u64| shown.iter().filter(move |seq| **seq > after).collect::<Vec<_>>();
                assert_eq!(rest(after), rest(at), "{hidden:?}, oldest first after {at}");
                let before = numbers.stored(numbers.shown_cursor(at, SortOrder::NewestFirst));
                let rest = |before: u64| shown.iter().filter(move |seq| **seq < before).collect::<Vec<_>>();
                assert_eq!(rest(before), rest(at), "{hidden:?}, newest first before {at}");
            }
        }
    }
}
