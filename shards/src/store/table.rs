//! From a key to its entry.
//!
//! A table of four-byte addresses in chunks of one cache line: twelve addresses, a byte of each
//! key's hash beside it, and a count of the keys that found their chunk full and went on to a later
//! one. A search looks at the bytes first, follows only those that match, and ends at the first
//! chunk that nobody went beyond; so nothing has to be left behind where a key was removed. (The
//! layout follows F14: N. Bronson, X. Shi, "Open-sourcing F14 for faster, more memory-efficient
//! hash tables", 2019.)
//!
//! The table is cut into parts by the hash. Each grows on its own, by a seventh to a fourth, when
//! it is nine tenths full: no single write pays for moving a whole shard's index, and a table
//! stands at about 6.5 bytes per key. A part has as many chunks as fill one of the sizes that an
//! allocator has four of between each power of two and the next. The hash is not kept; growing asks
//! for it again, once per key of the part, and so reads all its entries: many at once, because in a
//! large store each of them is a miss of the processor's caches.
//!
//! The hash is keyed with a secret that all replicas of a shard share, against keys chosen to
//! collide. It names keys in touches; where a key stands here is each replica's own affair.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::arena::Address;

/// Parts of a table, as a power of two.
const PART_BITS: u32 = 8;
/// Addresses of a chunk.
const WIDTH: usize = 12;
/// Entries that are read at once where a part is resized.
const READ_AT_ONCE: usize = 64;
/// What stands for no address in a chunk. No key has it for a tag.
const NO_TAG: u8 = 0;
/// Keys per hundred chunks from which on a part grows.
const KEYS_PER_HUNDRED_CHUNKS_MAX: usize = 1_080;
/// Keys per hundred chunks below which a part shrinks.
const KEYS_PER_HUNDRED_CHUNKS_MIN: usize = 300;
/// Keys per hundred chunks in a part that was just built, at most.
const KEYS_PER_HUNDRED_CHUNKS_BUILT: usize = 1_000;
/// A count of passing keys that cannot be kept any more.
const UNCOUNTED: u8 = u8::MAX;

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    /// The hash of `key` under a shard's secret.
    #[inline]
    pub fn of(key: &[u8], secret: u64) -> Self {
        KeyHash(xxh3_64_with_seed(key, secret))
    }

    /// The 48 bits that stand for the key in a touch.
    #[inline]
    pub fn name(self) -> KeyName {
        KeyName(self.0 >> 16)
    }

    #[inline]
    fn part(self) -> usize {
        (self.0 >> (u64::BITS - PART_BITS)) as usize
    }

    /// The chunk where a search begins, of so many.
    #[inline]
    fn home(self, chunks: usize) -> usize {
        let bits = self.0 >> 24 & 0xffff_ffff;
        ((bits * chunks as u64) >> 32) as usize
    }

    #[inline]
    fn tag(self) -> u8 {
        (self.0 >> 16) as u8 | u8::from(self.0 >> 16 & 0xff == 0)
    }
}

/// 48 bits of a key's hash: enough to find the key, and to tell it from nearly all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyName(u64);

impl KeyName {
    /// Bytes of an encoded name.
    pub const BYTES: usize = 6;

    /// The name as bytes, the lowest first.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [a, b, c, d, e, f, ..] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// The name that these bytes stand for.
    pub fn from_bytes([a, b, c, d, e, f]: [u8; Self::BYTES]) -> Self {
        KeyName(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// A hash that is searched for in the same places.
    #[inline]
    pub fn hash(self) -> KeyHash {
        KeyHash(self.0 << 16)
    }
}

/// Where the keys are that the addresses of a table lead to.
pub(super) trait Keys {
    /// The hash of the key of the entry at `address`.
    fn hash(&self, address: Address) -> KeyHash;

    /// Reads something of the entry, so that it is in the caches when its hash is asked for.
    fn first_byte(&self, address: Address) -> u8;
}

/// One cache line of a part: tags, the number of keys that found no room here and went on (or
/// [`UNCOUNTED`]), three bytes of nothing, addresses.
///
/// Bytes, because the allocator rounds up what is aligned to more: to the next of its sizes. Blocks
/// of these sizes lie on cache lines all the same.
#[derive(Clone, Debug)]
struct Chunk([u8; CHUNK_BYTES]);

const CHUNK_BYTES: usize = 64;
const PASSED_AT: usize = WIDTH;
const ADDRESSES_AT: usize = CHUNK_BYTES - 4 * WIDTH;

impl Chunk {
    const EMPTY: Chunk = Chunk([NO_TAG; CHUNK_BYTES]);

    #[inline]
    fn tags(&self) -> &[u8] {
        &self.0[..WIDTH]
    }

    #[inline]
    fn passed(&self) -> u8 {
        self.0[PASSED_AT]
    }

    #[inline]
    fn address(&self, place: usize) -> Address {
        let at = ADDRESSES_AT + 4 * place;
        let mut bits = [0; 4];
        bits.copy_from_slice(&self.0[at..at + 4]);
        Address::from_bits(u32::from_le_bytes(bits))
    }

    #[inline]
    fn set(&mut self, place: usize, tag: u8, address: Address) {
        let at = ADDRESSES_AT + 4 * place;
        self.0[place] = tag;
        self.0[at..at + 4].copy_from_slice(&address.bits().to_le_bytes());
    }

    /// The addresses that it holds.
    fn addresses(&self) -> impl Iterator<Item = Address> {
        (0..WIDTH).filter(|place| self.tags()[*place] != NO_TAG).map(|place| self.address(place))
    }

    /// A mask with a bit for each place whose tag is `tag`.
    #[inline]
    fn matches(&self, tag: u8) -> u32 {
        let mut mask = 0;
        for (place, other) in self.tags().iter().enumerate() {
            mask |= u32::from(*other == tag) << place;
        }
        mask
    }
}

/// The number of chunks that a part has next, if so many are too few.
fn more_chunks(chunks: usize) -> usize {
    let power = chunks.checked_ilog2().map_or(0, |bits| 1 << bits);
    chunks + (power / 4).max(1)
}

/// The number of chunks for a part that holds so many keys and some more.
fn chunks_for(keys: usize) -> usize {
    let least = (keys * 100).div_ceil(KEYS_PER_HUNDRED_CHUNKS_BUILT).max(1);
    // From a power of two below it takes eight steps at most.
    std::iter::successors(Some(1 << least.ilog2()), |chunks| Some(more_chunks(*chunks)))
        .find(|chunks| *chunks >= least)
        .unwrap_or(least)
}

/// The places of a mask, lowest first.
fn places(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (mask != 0).then(|| mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        place
    })
}

#[derive(Debug, Default)]
struct Part {
    chunks: Vec<Chunk>,
    len: usize,
}

/// A chunk and a place in it.
type Place = (usize, usize);

impl Part {
    fn with_room_for(keys: usize) -> Self {
        Part { chunks: vec![Chunk::EMPTY; chunks_for(keys)], len: 0 }
    }

    /// The chunks that a search comes by, in order.
    #[inline]
    fn route(&self, hash: KeyHash) -> impl Iterator<Item = usize> + use<> {
        let count = self.chunks.len();
        let home = hash.home(count);
        (home..count).chain(0..home)
    }

    /// The first place with the key's tag for which `is_it` holds.
    #[inline]
    fn find(&self, hash: KeyHash, mut is_it: impl FnMut(Address) -> bool) -> Option<Place> {
        for chunk_number in self.route(hash) {
            let chunk = &self.chunks[chunk_number];
            for place in places(chunk.matches(hash.tag())) {
                if is_it(chunk.address(place)) {
                    return Some((chunk_number, place));
                }
            }
            if chunk.passed() == 0 {
                return None;
            }
        }
        None
    }

    /// Adds a key, for which there is room.
    fn insert(&mut self, hash: KeyHash, address: Address) {
        for chunk_number in self.route(hash) {
            let chunk = &mut self.chunks[chunk_number];
            if let Some(place) = places(chunk.matches(NO_TAG)).next() {
                chunk.set(place, hash.tag(), address);
                self.len += 1;
                return;
            }
            chunk.0[PASSED_AT] = chunk.passed().saturating_add(1);
        }
        unreachable!("a part grows before it is full");
    }

    fn remove(&mut self, hash: KeyHash, (at, place): Place) {
        let home = hash.home(self.chunks.len());
        let count = self.chunks.len();
        let mut passed = home;
        while passed != at {
            let chunk = &mut self.chunks[passed];
            if chunk.passed() != UNCOUNTED {
                chunk.0[PASSED_AT] -= 1;
            }
            passed = if passed + 1 == count { 0 } else { passed + 1 };
        }
        self.chunks[at].0[place] = NO_TAG;
        self.len -= 1;
    }

    /// Moves all keys to a part of another size.
    #[cold]
    fn resize(&mut self, chunks: usize, keys: &impl Keys) {
        let resized = Part { chunks: vec![Chunk::EMPTY; chunks], len: 0 };
        let former = std::mem::replace(self, resized);
        for chunks in former.chunks.chunks(READ_AT_ONCE / WIDTH) {
            let addresses = || chunks.iter().flat_map(Chunk::addresses);
            let bytes = addresses().map(|address| u64::from(keys.first_byte(address)));
            // The loads are the point; without a use of their sum they could be left out.
            std::hint::black_box(bytes.fold(0, u64::wrapping_add));
            for address in addresses() {
                self.insert(keys.hash(address), address);
            }
        }
    }
}

/// Finds entries by key.
#[derive(Debug)]
pub(super) struct Table {
    parts: Vec<Part>,
    len: usize,
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Table { parts: (0..1 << PART_BITS).map(|_| Part::default()).collect(), len: 0 }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The entry of the key with this hash for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: KeyHash, is_it: impl Fn(Address) -> bool) -> Option<Address> {
        let part = &self.parts[hash.part()];
        let (chunk, place) = part.find(hash, is_it)?;
        Some(part.chunks[chunk].address(place))
    }

    /// The entry that a key with this hash most likely has: no key is compared.
    #[inline]
    pub fn candidate(&self, hash: KeyHash) -> Option<Address> {
        self.find(hash, |_| true)
    }

    /// The entry whose key has this name; nothing if there are two.
    pub fn named(&self, name: KeyName, keys: &impl Keys) -> Option<Address> {
        let mut found = None;
        let mut count = 0;
        self.parts[name.hash().part()].find(name.hash(), |address| {
            if keys.hash(address).name() == name {
                found = Some(address);
                count += 1;
            }
            false
        });
        found.filter(|_| count == 1)
    }

    /// Adds a key that is not in the table; `keys` are those that are.
    pub fn insert(&mut self, hash: KeyHash, address: Address, keys: &impl Keys) {
        let part = &mut self.parts[hash.part()];
        let chunks = part.chunks.len();
        if (part.len + 1) * 100 > chunks * KEYS_PER_HUNDRED_CHUNKS_MAX {
            part.resize(more_chunks(chunks), keys);
        }
        part.insert(hash, address);
        self.len += 1;
    }

    /// Makes room for so many keys in all, if that is at least twice what there are: otherwise
    /// growing on the way costs no more. [`Table::fit`] gives back what was not needed.
    pub fn reserve(&mut self, keys_count: usize, keys: &impl Keys) {
        if keys_count < 2 * self.len {
            return;
        }
        let share = keys_count >> PART_BITS;
        // Two standard deviations more, so that few parts have to grow all the same.
        let chunks = chunks_for(share + 2 * share.isqrt());
        for part in self.parts.iter_mut().filter(|part| part.chunks.len() < chunks) {
            part.resize(chunks, keys);
        }
    }

    /// Gives back room that was reserved for keys which did not come.
    pub fn fit(&mut self, keys: &impl Keys) {
        for part in &mut self.parts {
            let chunks = chunks_for(part.len);
            if part.chunks.len() > more_chunks(chunks) {
                part.resize(chunks, keys);
            }
        }
    }

    /// Removes the key whose entry is at `address`.
    pub fn remove(&mut self, hash: KeyHash, address: Address, keys: &impl Keys) {
        let part = &mut self.parts[hash.part()];
        let Some(place) = part.find(hash, |other| other == address) else {
            self.remove_damaged(address);
            return;
        };
        part.remove(hash, place);
        self.len -= 1;
        let chunks = part.chunks.len();
        if part.len * 100 < chunks * KEYS_PER_HUNDRED_CHUNKS_MIN && chunks > 1 {
            part.resize(chunks_for(part.len), keys);
        }
    }

    /// Lets a key lead to another address.
    pub fn replace(&mut self, hash: KeyHash, old: Address, new: Address) {
        let number = hash.part();
        let found = self.parts[number].find(hash, |other| other == old);
        let found = found.map(|(chunk, place)| (number, chunk, place));
        if let Some((part, chunk, place)) = found.or_else(|| self.search(old)) {
            let chunk = &mut self.parts[part].chunks[chunk];
            chunk.set(place, chunk.tags()[place], new);
        }
    }

    /// Removes the key whose entry is at `address`, where the entry does not tell any more which it
    /// was: its memory is damaged, which ends with the store's being thrown away, and must not end
    /// with the process. The counts of keys that passed stay too high, which costs a few looks.
    #[cold]
    fn remove_damaged(&mut self, address: Address) {
        if let Some((part, chunk, place)) = self.search(address) {
            let part = &mut self.parts[part];
            part.chunks[chunk].0[place] = NO_TAG;
            part.len -= 1;
            self.len -= 1;
        }
    }

    /// Part, chunk and place of an address, found by looking at all of them.
    #[cold]
    fn search(&self, address: Address) -> Option<(usize, usize, usize)> {
        self.parts.iter().enumerate().find_map(|(number, part)| {
            part.chunks.iter().enumerate().find_map(|(chunk_number, chunk)| {
                let is_it = |place: &usize| {
                    chunk.tags()[*place] != NO_TAG && chunk.address(*place) == address
                };
                (0..WIDTH).find(is_it).map(|place| (number, chunk_number, place))
            })
        })
    }

    /// Gives the memory of up to `count_max` parts back, for a table that is not needed any more.
    /// Returns how many.
    pub fn tear_down(&mut self, count_max: usize) -> usize {
        let count = count_max.min(self.parts.len());
        self.parts.truncate(self.parts.len() - count);
        count
    }

    /// Counts the keys anew, for tests.
    pub fn check(&self, keys: &impl Keys) {
        let mut len = 0;
        for part in &self.parts {
            let mut passed = vec![0_u32; part.chunks.len()];
            for (number, chunk) in part.chunks.iter().enumerate() {
                for place in (0..WIDTH).filter(|place| chunk.tags()[*place] != NO_TAG) {
                    let hash = keys.hash(chunk.address(place));
                    assert_eq!(hash.tag(), chunk.tags()[place]);
                    part.route(hash).take_while(|at| *at != number).for_each(|at| passed[at] += 1);
                    len += 1;
                }
            }
            for (chunk, passed) in part.chunks.iter().zip(passed) {
                assert!(chunk.passed() == UNCOUNTED || u32::from(chunk.passed()) == passed);
            }
        }
        assert_eq!(len, self.len);
        assert_eq!(self.parts.iter().map(|part| part.len).sum::<usize>(), self.len);
    }
}

/// Collects keys for a table that is built at once: part by part, so that the part that is filled
/// stays in the caches.
pub(super) struct TableBuilder {
    parts: Vec<Vec<(KeyHash, Address)>>,
}

impl TableBuilder {
    /// Without keys, but with room for about `keys` of them.
    pub fn new(keys: usize) -> Self {
        let keys_per_part = keys >> PART_BITS;
        let parts = (0..1 << PART_BITS).map(|_| Vec::with_capacity(keys_per_part)).collect();
        TableBuilder { parts }
    }

    /// Adds a key.
    #[inline]
    pub fn push(&mut self, hash: KeyHash, address: Address) {
        self.parts[hash.part()].push((hash, address));
    }

    /// The table, or nothing if a key occurs twice, which `is_same` tells of two entries.
    pub fn build(self, is_same: impl Fn(Address, Address) -> bool) -> Option<Table> {
        let mut table = Table::new();
        for (part, keys) in table.parts.iter_mut().zip(self.parts) {
            *part = Part::with_room_for(keys.len());
            table.len += keys.len();
            for (hash, address) in keys {
                if part.find(hash, |other| is_same(other, address)).is_some() {
                    return None;
                }
                part.insert(hash, address);
            }
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(address: Address) -> KeyHash {
        KeyHash::of(&address.bits().to_le_bytes(), 7)
    }

    /// Keys that are computed from their addresses.
    struct Computed<F>(F);

    impl<F: Fn(Address) -> KeyHash> Keys for Computed<F> {
        fn hash(&self, address: Address) -> KeyHash {
            self.0(address)
        }

        fn first_byte(&self, _address: Address) -> u8 {
            0
        }
    }

    const KEYS: Computed<fn(Address) -> KeyHash> = Computed(hash_of);

    #[test]
    fn it_finds_what_is_there_and_nothing_else_while_it_grows_and_shrinks() {
        let mut table = Table::new();
        let count = 60_000;
        for round in 0..2 {
            for number in 0..count {
                let address = Address::from_bits(number);
                table.insert(hash_of(address), address, &KEYS);
            }
            table.check(&KEYS);
            for number in 0..2 * count {
                let address = Address::from_bits(number);
                let found = table.find(hash_of(address), |other| other == address);
                assert_eq!(found, (number < count).then_some(address), "round {round}");
                assert_eq!(table.named(hash_of(address).name(), &KEYS), found);
            }
            for number in (0..count).rev() {
                let address = Address::from_bits(number);
                table.remove(hash_of(address), address, &KEYS);
            }
            table.check(&KEYS);
            let chunks: usize = table.parts.iter().map(|part| part.chunks.len()).sum();
            assert!(chunks <= table.parts.len(), "{chunks} chunks without keys");
        }
    }

    #[test]
    fn room_for_keys_that_do_not_come_is_given_back() {
        let chunks =
            |table: &Table| table.parts.iter().map(|part| part.chunks.len()).sum::<usize>();
        let fill = |table: &mut Table, numbers: std::ops::Range<u32>| {
            for address in numbers.map(Address::from_bits) {
                table.insert(hash_of(address), address, &KEYS);
            }
        };
        let mut grown = Table::new();
        fill(&mut grown, 0..100_000);
        let mut table = Table::new();
        fill(&mut table, 0..10_000);
        table.reserve(19_999, &KEYS);
        assert!(chunks(&table) * WIDTH < 15_000, "growing on the way costs no more");
        table.reserve(100_000, &KEYS);
        let reserved = chunks(&table);
        fill(&mut table, 10_000..100_000);
        assert!(chunks(&table) <= reserved + reserved / 10, "the room was there already");
        table.check(&KEYS);
        table.reserve(1_000_000, &KEYS);
        table.fit(&KEYS);
        table.check(&KEYS);
        assert!(chunks(&table) * 10 <= chunks(&grown) * 11, "{} chunks", chunks(&table));
    }

    #[test]
    fn a_large_table_takes_seven_bytes_per_key_or_less() {
        let mut table = Table::new();
        let mut next = 0;
        for count in [200_000, 300_000, 500_000, 1_000_000] {
            while next < count {
                let address = Address::from_bits(next);
                table.insert(hash_of(address), address, &KEYS);
                next += 1;
            }
            let chunks: usize = table.parts.iter().map(|part| part.chunks.len()).sum();
            let bytes = chunks * size_of::<Chunk>();
            assert!(bytes <= 8 * count as usize, "{bytes} bytes for {count} keys");
        }
    }

    #[test]
    fn keys_with_one_hash_are_all_found_and_have_no_name() {
        let same = |_: Address| KeyHash(0x1234_5678_9abc_def0);
        let mut table = Table::new();
        for number in 0..700 {
            table.insert(same(Address::NONE), Address::from_bits(number), &Computed(same));
        }
        for number in 0..700 {
            let address = Address::from_bits(number);
            assert_eq!(table.find(same(address), |other| other == address), Some(address));
        }
        assert_eq!(table.named(same(Address::NONE).name(), &Computed(same)), None);
        for number in 0..699 {
            table.remove(same(Address::NONE), Address::from_bits(number), &Computed(same));
        }
        assert_eq!(
            table.named(same(Address::NONE).name(), &Computed(same)),
            Some(Address::from_bits(699))
        );
    }

    #[test]
    fn an_entry_whose_key_is_damaged_leaves_the_table_all_the_same() {
        let mut table = Table::new();
        for number in 0..5_000 {
            table.insert(hash_of(Address::from_bits(number)), Address::from_bits(number), &KEYS);
        }
        let wrong = |address: Address| hash_of(Address::from_bits(address.bits() ^ 1 << 20));
        for number in (0..5_000).step_by(7) {
            let (old, new) = (Address::from_bits(number), Address::from_bits(number + 10_000));
            table.replace(wrong(old), old, new);
            assert_eq!(table.find(hash_of(old), |other| other == new), Some(new));
            table.remove(wrong(new), new, &KEYS);
            assert_eq!(table.find(hash_of(old), |other| other == new), None);
        }
        assert_eq!(table.len(), 5_000 - 5_000_usize.div_ceil(7));
    }

    #[test]
    fn a_table_is_built_at_once_unless_a_key_is_there_twice() {
        for twice in [false, true] {
            let mut builder = TableBuilder::new(10_000);
            for number in (0..10_000).chain(twice.then_some(77)) {
                let address = Address::from_bits(number);
                builder.push(hash_of(address), address);
            }
            let table = builder.build(|one, other| one == other);
            assert_eq!(table.is_none(), twice);
            if let Some(table) = table {
                table.check(&KEYS);
                assert_eq!(table.len(), 10_000);
            }
        }
    }
}
