//! Sets of signers: bits over the seats of a slot, or explicit validator indices.

use crate::storage::ones;

/// The signers of one sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetMembers {
    /// Bits over positions in a slot. The committees of the slot follow one after another, each in
    /// committee order.
    Seats(Bits),
    /// Validator indices, in ascending order.
    Listed(Vec<u32>),
}

impl SetMembers {
    pub fn len(&self) -> u32 {
        match self {
            Self::Seats(bits) => bits.len(),
            Self::Listed(list) => list.len() as u32,
        }
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Seats(a), Self::Seats(b)) => a.is_disjoint(b),
            (Self::Listed(a), Self::Listed(b)) => intersects(a, b).is_none(),
            // One set contains only one sort of members, so different sorts are never merged.
            (Self::Seats(_), Self::Listed(_)) | (Self::Listed(_), Self::Seats(_)) => false,
        }
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Seats(a), Self::Seats(b)) => a.is_subset(b),
            (Self::Listed(a), Self::Listed(b)) => {
                let mut rest = b.iter();
                a.iter().all(|x| rest.by_ref().any(|y| y == x))
            }
            (Self::Seats(_), Self::Listed(_)) | (Self::Listed(_), Self::Seats(_)) => false,
        }
    }

    pub fn union_with(&mut self, other: &Self) {
        match (self, other) {
            (Self::Seats(a), Self::Seats(b)) => a.union_with(b),
            (Self::Listed(a), Self::Listed(b)) => {
                if a.last() < b.first() {
                    a.extend_from_slice(b);
                } else {
                    a.extend_from_slice(b);
                    // These are two ascending runs, so the stable sort merges them in one pass.
                    a.sort();
                    a.dedup();
                }
            }
            (Self::Seats(_), Self::Listed(_)) | (Self::Listed(_), Self::Seats(_)) => {
                debug_assert!(false, "one set holds one sort of members");
            }
        }
    }

    /// The members that are not in `other`, in ascending order.
    pub fn without(&self, other: &Self) -> Vec<u32> {
        match (self, other) {
            (Self::Seats(a), Self::Seats(b)) => {
                let rest = a.numbered().map(|(at, word)| word & !b.word(at)).collect();
                Bits { first_word: a.first_word, words: rest }.iter().collect()
            }
            (Self::Listed(list), _) => list.iter().copied().filter(|member| !other.contains(*member)).collect(),
            (Self::Seats(bits), Self::Listed(_)) => bits.iter().collect(),
        }
    }

    /// Whether `member` is in the set. It is a position in the slot or a validator index, depending
    /// on the sort of the set.
    pub fn contains(&self, member: u32) -> bool {
        match self {
            Self::Seats(bits) => bits.contains(member),
            Self::Listed(list) => list.binary_search(&member).is_ok(),
        }
    }
}

fn intersects(a: &[u32], b: &[u32]) -> Option<u32> {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => return Some(a[i]),
        }
    }
    None
}

/// A bit set over a stretch of positions. Words before and after the stretch are not stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    first_word: u32,
    words: Vec<u64>,
}

impl Bits {
    /// An empty set with room for the positions `start..start + len`.
    pub fn with_span(start: u32, len: u32) -> Self {
        let first_word = start / 64;
        let end = start.saturating_add(len).div_ceil(64);
        Self { first_word, words: vec![0; end.saturating_sub(first_word) as usize] }
    }

    /// Adds a position. If it is not in the stretch that was given at creation, the set grows.
    pub fn insert(&mut self, position: u32) {
        let word = position / 64;
        if word < self.first_word {
            let missing = (self.first_word - word) as usize;
            self.words.splice(0..0, std::iter::repeat_n(0, missing));
            self.first_word = word;
        }
        let at = (word - self.first_word) as usize;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (position % 64);
    }

    /// Adds a position if `wanted` is true, without a branch. The position must be in the stretch
    /// that was given at creation.
    #[inline]
    pub fn insert_if(&mut self, position: u32, wanted: bool) {
        self.words[(position / 64 - self.first_word) as usize] |= u64::from(wanted) << (position % 64);
    }

    pub fn contains(&self, position: u32) -> bool {
        self.word(position / 64) >> (position % 64) & 1 == 1
    }

    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.numbered().all(|(at, word)| word & other.word(at) == 0)
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        self.numbered().all(|(at, word)| word & !other.word(at) == 0)
    }

    pub fn union_with(&mut self, other: &Self) {
        if self.words.is_empty() {
            *self = other.clone();
            return;
        }
        let end = (self.first_word as usize + self.words.len()).max(other.first_word as usize + other.words.len());
        if other.first_word < self.first_word {
            let missing = (self.first_word - other.first_word) as usize;
            self.words.splice(0..0, std::iter::repeat_n(0, missing));
            self.first_word = other.first_word;
        }
        self.words.resize(end - self.first_word as usize, 0);
        for (at, word) in other.numbered() {
            self.words[(at - self.first_word) as usize] |= word;
        }
    }

    /// The positions, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let first = self.first_word * 64;
        ones(self.words.iter().copied()).map(move |at| first + at)
    }

    /// The positions `start..start + len` as new words, counted from `start`.
    pub fn stretch(&self, start: u32, len: u32) -> impl Iterator<Item = u64> + '_ {
        let (first, shift) = (start / 64, start % 64);
        (0..len.div_ceil(64)).map(move |at| {
            let low = self.word(first + at) >> shift;
            // The shift is done in two steps, because a shift by 64 at once is not allowed.
            let high = self.word(first + at + 1) << (63 - shift) << 1;
            let rest = len - at * 64;
            (low | high) & if rest < 64 { (1 << rest) - 1 } else { u64::MAX }
        })
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (self.first_word..).zip(self.words.iter().copied())
    }

    fn word(&self, at: u32) -> u64 {
        at.checked_sub(self.first_word).and_then(|at| self.words.get(at as usize)).copied().unwrap_or(0)
    }
}

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        self.is_subset(other) && other.is_subset(self)
    }
}

impl Eq for Bits {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn both_sorts_behave_like_a_set(a: BTreeSet<u16>, b: BTreeSet<u16>) {
            let union: BTreeSet<u16> = a.union(&b).copied().collect();
            let seats = |set: &BTreeSet<u16>| {
                let mut bits = Bits::default();
                set.iter().rev().for_each(|x| bits.insert(u32::from(*x)));
                SetMembers::Seats(bits)
            };
            let listed = |set: &BTreeSet<u16>| SetMembers::Listed(set.iter().map(|x| u32::from(*x)).collect());
            for (x, y, all) in [(seats(&a), seats(&b), seats(&union)), (listed(&a), listed(&b), listed(&union))] {
                prop_assert_eq!(x.is_disjoint(&y), a.is_disjoint(&b));
                let rest: Vec<u32> = a.difference(&b).map(|m| u32::from(*m)).collect();
                prop_assert_eq!(x.without(&y), rest);
                prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
                let mut both = x.clone();
                both.union_with(&y);
                prop_assert_eq!(&both, &all);
                prop_assert_eq!(both.len() as usize, union.len());
                prop_assert!(a.iter().all(|m| both.contains(u32::from(*m))));
            }
            if let (SetMembers::Seats(bits), Some(least), Some(greatest)) = (seats(&a), a.first(), a.last()) {
                let (start, len) = (u32::from(*least), u32::from(*greatest - *least) + 1);
                let again: Vec<u32> = ones(bits.stretch(start, len)).map(|at| start + at).collect();
                prop_assert_eq!(again, a.iter().map(|x| u32::from(*x)).collect::<Vec<_>>());
                let inner = ones(bits.stretch(start + 1, len - 1)).map(|at| start + 1 + at);
                prop_assert!(inner.eq(a.iter().skip(1).map(|x| u32::from(*x))), "what lies before is left out");
                prop_assert!(bits.stretch(start, len / 2).all(|word| word.count_ones() <= len / 2));
                prop_assert_eq!(bits.iter().collect::<Vec<_>>(), a.iter().map(|x| u32::from(*x)).collect::<Vec<_>>());
            }
        }
    }
}
