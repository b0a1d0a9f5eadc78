//! From a key to its slot.
//!
//! The table holds slot numbers, and the key stands only in the entry. Beside the number it keeps
//! 32 bits of the key's hash: growing then reads the table alone and not every entry, and the slot
//! needs no room for the hash. It is cut into parts that grow one by one, so that no single write
//! pays for moving a whole shard's index.
//!
//! The hash is seeded per process, against keys chosen to collide. It never leaves this module:
//! nothing that is replicated depends on it.

use super::slab::Slab;
use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Parts of the table, as a power of two.
const PART_BITS: u32 = 6;

/// The hash of a key: 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash(u32);

impl KeyHash {
    /// The bits, for tests that look for collisions.
    #[cfg(test)]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The part that the key belongs to: the high bits, while places within take the low ones.
    fn part(self) -> usize {
        (self.0 >> (32 - PART_BITS)) as usize
    }

    /// The hash as the table wants it, with seven good bits at the top.
    fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u32,
    hash: KeyHash,
}

/// Collects keys for a table that is built at once: part by part, so that the part that is filled
/// stays in the caches.
pub(super) struct TableBuilder {
    table: Table,
    /// What goes into each part.
    places: Vec<Vec<Place>>,
}

impl TableBuilder {
    /// Without keys, but with room for about `keys` of them.
    pub fn new(hash_seed: u64, keys: usize) -> Self {
        let table = Table::new(hash_seed);
        let keys_per_part = keys >> PART_BITS;
        let places = table.parts.iter().map(|_| Vec::with_capacity(keys_per_part)).collect();
        TableBuilder { table, places }
    }

    /// Adds a key that will stand in `slot`.
    #[inline]
    pub fn push(&mut self, key: &[u8], slot: u32) {
        let hash = self.table.hash(key);
        self.places[hash.part()].push(Place { slot, hash });
    }

    /// The table, or nothing if a key occurs twice.
    pub fn build(self, slab: &Slab) -> Option<Table> {
        let mut table = self.table;
        for (part, places) in table.parts.iter_mut().zip(self.places) {
            *part = HashTable::with_capacity(places.len());
            table.len += places.len();
            for place in places {
                let is_same = |other: &Place| {
                    other.hash == place.hash && slab[other.slot].key() == slab[place.slot].key()
                };
                match part.entry(place.hash.spread(), is_same, |place| place.hash.spread()) {
                    Entry::Vacant(vacant) => vacant.insert(place),
                    Entry::Occupied(_) => return None,
                };
            }
        }
        Some(table)
    }
}

/// Finds slots by key.
pub(super) struct Table {
    parts: Vec<HashTable<Place>>,
    hasher: RandomState,
    len: usize,
}

impl Table {
    /// An empty table.
    pub fn new(hash_seed: u64) -> Self {
        let [first, second, third, fourth] =
            [1u64, 2, 3, 4].map(|word| super::digest::absorb(hash_seed, [word]));
        Table {
            parts: (0..1 << PART_BITS).map(|_| HashTable::new()).collect(),
            hasher: RandomState::with_seeds(first, second, third, fourth),
            len: 0,
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash_one(key) as u32)
    }

    /// The slot of `key`.
    #[inline]
    pub fn find(&self, slab: &Slab, hash: KeyHash, key: &[u8]) -> Option<u32> {
        let is_it = |place: &Place| place.hash == hash && slab[place.slot].key() == key;
        self.parts[hash.part()].find(hash.spread(), is_it).map(|place| place.slot)
    }

    /// The slot that a key with this hash most likely has: no key is compared.
    #[inline]
    pub fn candidate(&self, hash: KeyHash) -> Option<u32> {
        self.parts[hash.part()].find(hash.spread(), |place| place.hash == hash).map(|p| p.slot)
    }

    /// Adds a key that is not in the table.
    pub fn insert(&mut self, hash: KeyHash, slot: u32) {
        let place = Place { slot, hash };
        self.parts[hash.part()].insert_unique(hash.spread(), place, |place| place.hash.spread());
        self.len += 1;
    }

    /// Removes the key that stands in `slot`.
    pub fn remove(&mut self, hash: KeyHash, slot: u32) {
        let found = self.parts[hash.part()].find_entry(hash.spread(), |place| place.slot == slot);
        let removed = found.map(|entry| entry.remove()).is_ok();
        assert!(removed, "the entry in slot {slot} is not in the table");
        self.len -= 1;
    }

    /// Removes all keys and gives the memory back.
    pub fn clear(&mut self) {
        self.parts.iter_mut().for_each(|part| *part = HashTable::new());
        self.len = 0;
    }

    /// Checks that the table holds `len` places, for tests.
    pub fn check_len(&self) {
        assert_eq!(self.parts.iter().map(HashTable::len).sum::<usize>(), self.len);
    }
}
