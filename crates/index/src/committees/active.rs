//! The set of validators that are active in an epoch, with rank and select. Seats in an old epoch
//! are computed from it.
//!
//! Only a few validators become active or leave from one epoch to the next. So a set consists of a
//! *base* and the differences from it. The base is a bitmap that many epochs share. It is stored
//! once, and a hash of its content is its key. For a million validators a base takes 125 KB, and
//! each epoch takes only a few bytes.

use crate::storage::{ByteReader, put_ascending, put_varint, read_ascending};
use std::sync::Arc;

/// A set with more differences than this becomes a base of its own.
pub(crate) const MAX_DIFFERENCES: usize = 2048;

/// Number of words, of 64 validators each, per rank sample.
const WORDS_PER_SAMPLE: usize = 8;

/// A bitmap of validators. The rank is stored for every 512th validator.
#[derive(Debug)]
pub(crate) struct Base {
    pub id: [u8; 8],
    words: Vec<u64>,
    /// Number of members before each sample.
    samples: Vec<u32>,
    len: u32,
}

impl Base {
    /// Makes a base. `members` must be ascending.
    pub fn new(members: &[u32]) -> Self {
        let mut words = vec![0u64; members.last().map_or(0, |last| *last as usize / 64 + 1)];
        for member in members {
            words[*member as usize / 64] |= 1 << (member % 64);
        }
        Self::from_words(words)
    }

    fn from_words(words: Vec<u64>) -> Self {
        let mut samples = Vec::with_capacity(words.len() / WORDS_PER_SAMPLE + 1);
        let mut len = 0u32;
        for chunk in words.chunks(WORDS_PER_SAMPLE) {
            samples.push(len);
            len += chunk.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let hash = consensus::sha256(&bytes);
        let id = hash[..8].try_into().expect("a hash has 32 bytes");
        Self { id, words, samples, len }
    }

    /// The words in big-endian order. The id is a hash of these bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// Reads a base. `None` if the hash of the bytes is not `id`.
    pub fn from_bytes(id: [u8; 8], bytes: &[u8]) -> Option<Self> {
        let words = bytes.chunks_exact(8).map(|chunk| u64::from_be_bytes(chunk.try_into().expect("eight bytes"))).collect();
        Some(Self::from_words(words)).filter(|base| base.id == id && bytes.len().is_multiple_of(8))
    }

    fn contains(&self, validator: u32) -> bool {
        self.words.get(validator as usize / 64).is_some_and(|word| word >> (validator % 64) & 1 == 1)
    }

    /// Number of members below `validator`.
    fn rank(&self, validator: u32) -> u32 {
        let at = validator as usize / 64;
        if at >= self.words.len() {
            return self.len;
        }
        let sample = at / WORDS_PER_SAMPLE;
        let whole: u32 = self.words[sample * WORDS_PER_SAMPLE..at].iter().map(|word| word.count_ones()).sum();
        self.samples[sample] + whole + (self.words[at] & ((1u64 << (validator % 64)) - 1)).count_ones()
    }

    fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    at as u32 * 64 + bit
                })
            })
        })
    }
}

/// The active validators of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct ActiveSet {
    base: Arc<Base>,
    /// Members that are not in the base, in ascending order.
    added: Vec<u32>,
    /// Members of the base that are not in this set, in ascending order.
    removed: Vec<u32>,
}

impl ActiveSet {
    /// The set as differences from `base`. `None` if there are too many differences. `members` must
    /// be ascending.
    pub fn by_difference(base: &Arc<Base>, members: &[u32]) -> Option<Self> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let mut theirs = base.members().peekable();
        for member in members {
            while let Some(gone) = theirs.next_if(|their| their < member) {
                removed.push(gone);
            }
            if theirs.next_if_eq(member).is_none() {
                added.push(*member);
            }
            if added.len() + removed.len() > MAX_DIFFERENCES {
                return None;
            }
        }
        for gone in theirs {
            removed.push(gone);
            if added.len() + removed.len() > MAX_DIFFERENCES {
                return None;
            }
        }
        Some(Self { base: base.clone(), added, removed })
    }

    pub fn of_base(base: Arc<Base>) -> Self {
        Self { base, added: Vec::new(), removed: Vec::new() }
    }

    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    pub fn len(&self) -> u32 {
        self.base.len + self.added.len() as u32 - self.removed.len() as u32
    }

    /// The position of a validator among the active ones.
    pub fn rank_of(&self, validator: u32) -> Option<u32> {
        let added = self.added.binary_search(&validator);
        let removed = self.removed.binary_search(&validator);
        if added.is_err() && (removed.is_ok() || !self.base.contains(validator)) {
            return None;
        }
        Some(self.rank(validator))
    }

    /// The active validator at a position.
    pub fn select(&self, position: u32) -> Option<u32> {
        if position >= self.len() {
            return None;
        }
        let end = (self.base.words.len() as u32 * 64).max(self.added.last().map_or(0, |last| last + 1));
        // The greatest validator that has exactly `position` members below it is the wanted member.
        let (mut low, mut high) = (0, end);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.rank(middle) <= position {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    /// All members, in ascending order.
    pub fn to_vec(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.base.members().filter(|member| self.removed.binary_search(member).is_err()).collect();
        if !self.added.is_empty() {
            all.extend_from_slice(&self.added);
            all.sort_unstable();
        }
        all
    }

    /// Writes the base's id and the differences from the base.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.id);
        for list in [&self.added, &self.removed] {
            put_varint(out, list.len() as u64);
            put_ascending(out, list.iter().copied());
        }
    }

    /// Reads a set. `base_of` finds the base by its id. `None` if the value does not parse or does
    /// not fit its base.
    pub fn decode(reader: &mut ByteReader<'_>, base_of: impl FnOnce([u8; 8]) -> Option<Arc<Base>>) -> Option<Self> {
        let base = base_of(reader.array()?)?;
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            let n = reader.varint().filter(|n| *n <= MAX_DIFFERENCES as u64)?;
            read_ascending(reader, n, |member| list.push(member))?;
        }
        let [added, removed] = lists;
        // The lengths are subtracted later, so added members must not be in the base and removed
        // members must be in it.
        let sound = added.iter().all(|member| !base.contains(*member)) && removed.iter().all(|member| base.contains(*member));
        sound.then_some(Self { base, added, removed })
    }

    fn rank(&self, validator: u32) -> u32 {
        let added = self.added.partition_point(|member| *member < validator) as u32;
        let removed = self.removed.partition_point(|member| *member < validator) as u32;
        self.base.rank(validator) + added - removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn rank_and_select_agree_with_the_list(base: BTreeSet<u16>, change: BTreeSet<u16>) {
            let list = |set: &BTreeSet<u16>| set.iter().map(|m| u32::from(*m)).collect::<Vec<u32>>();
            let members = list(&base.symmetric_difference(&change).copied().collect());
            let base = Arc::new(Base::new(&list(&base)));
            let set = ActiveSet::by_difference(&base, &members).unwrap();
            prop_assert_eq!(set.to_vec(), members.clone());
            for (position, member) in members.iter().enumerate() {
                prop_assert_eq!(set.rank_of(*member), Some(position as u32));
                prop_assert_eq!(set.select(position as u32), Some(*member));
            }
            prop_assert_eq!(set.select(members.len() as u32), None);
            prop_assert_eq!(set.rank_of(70_000), None);
            let mut bytes = Vec::new();
            set.encode(&mut bytes);
            let back = ActiveSet::decode(&mut ByteReader(&bytes), |id| {
                Base::from_bytes(id, &base.to_bytes()).map(Arc::new)
            }).unwrap();
            prop_assert_eq!(back.to_vec(), members);
        }
    }
}
