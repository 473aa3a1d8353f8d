//! Maps that only ever answer for one key: for what is looked up far more often than it is listed.
//!
//! Invariant: they cannot be walked, so the order of their entries, which differs between replicas, reaches nothing (I6).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

#[expect(clippy::disallowed_types, reason = "hidden in here, where nothing can walk it")]
type Map<V> = std::collections::HashMap<Vec<u8>, V, Seeded>;

#[derive(Debug)]
pub(crate) struct Lookup<V>(Map<V>);

impl<V> Default for Lookup<V> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<V> Lookup<V> {
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.0.get(key)
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        self.0.get_mut(key)
    }

    /// What stood there before.
    pub fn insert(&mut self, key: Vec<u8>, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        self.0.remove(key)
    }
}

/// Keys hold names that strangers choose: without a seed that nobody knows they could choose ones that collide.
#[derive(Debug, Clone)]
struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0u8))
    }
}

impl BuildHasher for Seeded {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.0)
    }
}

struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The length, which comes ahead of the bytes.
    fn write_usize(&mut self, len: usize) {
        self.0 ^= len as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The places of things in a list, found by their keys, which only the list holds.
#[derive(Debug)]
pub(crate) struct Places {
    places: hashbrown::HashTable<usize>,
    seed: Seeded,
}

/// The rows of a few messages. To grow is to hash every key again.
const PLACES: usize = 56;

impl Default for Places {
    fn default() -> Self {
        Self { places: hashbrown::HashTable::with_capacity(PLACES), seed: Seeded::default() }
    }
}

impl Places {
    /// `key_at` says what key stands at a place.
    pub fn get<'k>(&self, key: &[u8], key_at: impl Fn(usize) -> &'k [u8]) -> Option<usize> {
        self.places.find(self.seed.hash_one(key), |place| key_at(*place) == key).copied()
    }

    /// Of a key that is not here yet.
    pub fn insert<'k>(&mut self, key: &[u8], place: usize, key_at: impl Fn(usize) -> &'k [u8]) {
        let hash = |key: &[u8]| self.seed.hash_one(key);
        self.places.insert_unique(hash(key), place, |place| hash(key_at(*place)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_last_is_found_under_its_own_key() {
        let mut lookup = Lookup::default();
        for n in 0..1_000u32 {
            assert_eq!(lookup.insert(n.to_be_bytes().to_vec(), n), None);
        }
        assert_eq!(lookup.insert(7u32.to_be_bytes().to_vec(), 70), Some(7));
        assert_eq!(lookup.remove(&8u32.to_be_bytes()), Some(8));
        let found = |n: u32| lookup.get(&n.to_be_bytes()).copied();
        assert_eq!((found(6), found(7), found(8), found(1_000)), (Some(6), Some(70), None, None));
        assert_eq!(lookup.get(&[]), None);
    }

    #[test]
    fn places_are_found_by_the_keys_of_the_list() {
        let list: Vec<Vec<u8>> = (0..1_000u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let key_at = |place: usize| list[place].as_slice();
        let mut places = Places::default();
        for place in 0..999 {
            places.insert(key_at(place), place, key_at);
        }
        for (place, key) in list.iter().enumerate() {
            assert_eq!(places.get(key, key_at), (place < 999).then_some(place));
        }
    }
}
