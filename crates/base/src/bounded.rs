//! Collections with a limit. At the limit the oldest entry is forgotten.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A map that forgets the entry that was inserted first. A new value for a key that is there does
/// not change the key's age.
#[derive(Clone, Debug)]
pub struct BoundedMap<K, V> {
    entries: HashMap<K, V>,
    /// The keys of `entries`, oldest first.
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Copy + Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map. It never has more than `limit` entries.
    pub fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// Removes an entry. Takes time for each entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.entries.remove(key)?;
        self.order.retain(|other| other != key);
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
    }
}

/// A set that forgets the entry that was inserted first.
#[derive(Clone, Debug)]
pub struct BoundedSet<K>(BoundedMap<K, ()>);

impl<K: Copy + Eq + Hash> BoundedSet<K> {
    /// An empty set. It never has more than `limit` entries.
    pub fn new(limit: usize) -> Self {
        Self(BoundedMap::new(limit))
    }

    pub fn contains(&self, key: &K) -> bool {
        self.0.contains(key)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Inserts an entry. Returns whether it is new.
    pub fn insert(&mut self, key: K) -> bool {
        let is_new = !self.0.contains(&key);
        self.0.insert(key, ());
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_is_forgotten() {
        let mut map = BoundedMap::new(2);
        for (key, value) in [(1, "a"), (2, "b"), (1, "c")] {
            map.insert(key, value);
        }
        assert_eq!((map.get(&1), map.len()), (Some(&"c"), 2));
        map.insert(3, "d");
        assert_eq!([1, 2, 3].map(|key| map.contains(&key)), [false, true, true], "1 came first, whatever was written to it");
        assert_eq!([map.remove(&2), map.remove(&2)], [Some("b"), None]);
        map.insert(4, "e");
        assert_eq!([3, 4].map(|key| map.contains(&key)), [true, true], "a removed entry leaves its place");
        map.clear();
        assert!(map.is_empty() && !map.contains(&1));
    }

    #[test]
    fn a_set_with_no_room_keeps_nothing() {
        let mut one = BoundedSet::new(1);
        assert_eq!([1, 1, 2, 1].map(|key| one.insert(key)), [true, false, true, true]);
        let mut set = BoundedSet::new(0);
        assert!(set.insert(1) && set.insert(1));
        assert!(set.is_empty() && !set.contains(&1));
    }
}
