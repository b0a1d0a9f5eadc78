//! Memory for entries: items of a few dozen sizes in pages of 16 KiB.
//!
//! A general allocator spends a header or a coarse size class on each block, and a pointer of eight
//! bytes on whoever refers to it. Here an address has four bytes (page and offset), sizes go up in
//! steps of eight bytes where entries are small, and a page knows its size once for all its items.
//!
//! Items of one size class share pages. Pages that have become sparse are emptied: while more than
//! a sixteenth of a class is free, [`Arena::next_to_move`] names items of its emptier pages, and
//! the caller moves them elsewhere, a few at a time. So a change in the sizes of values does not
//! leave memory behind that only the old size can use. A page without items is given back.
//!
//! Where an item lies is each replica's own affair and leaves no trace in what is replicated.
//!
//! Invariants: the first eight bytes of an item in use are not all zero, those of a free one are; a
//! page stands in its class' list of partial pages if it has room and is not being emptied.

use super::pieces::Pieces;

/// Bytes of a region of pages.
const REGION_BYTES: usize = 4 << 20;
/// Bytes of a page.
const PAGE_BYTES: usize = 1 << PAGE_BITS;
const PAGE_BITS: u32 = 14;
/// Addresses count in units of so many bytes.
const UNIT_BYTES: usize = 8;
/// Bits of an address that name the unit within the page.
const UNIT_BITS: u32 = PAGE_BITS - UNIT_BYTES.trailing_zeros();
/// Pages that addresses can name.
const PAGES_MAX: usize = 1 << (u32::BITS - UNIT_BITS);
/// Bytes that an arena can hold.
pub(super) const ARENA_BYTES_MAX: u64 = (PAGES_MAX * PAGE_BYTES) as u64;
/// The largest item.
pub(super) const ITEM_BYTES_MAX: usize = PAGE_BYTES / 8;
/// The smallest item.
const ITEM_BYTES_MIN: usize = 24;
/// Where a unit or a place is expected: none.
const NO_UNIT: u16 = u16::MAX;
const NO_PLACE: u32 = u32::MAX;
/// A class is sparse when more than one in so many of its items is free, beyond those of one page,
/// which fit into no other. With replacements at random, two items in a hundred writes are moved
/// more than with one in eight, which would leave twice as much unused.
const FREE_SHARE: usize = 16;
/// Partial pages that are looked at for the emptiest.
const CANDIDATES: usize = 8;

/// Size classes, with the bytes of their items.
const CLASSES: usize = 70;
const CLASS_BYTES: [u16; CLASSES] = class_bytes();
/// For each number of units the smallest class that has room for them.
const CLASS_OF_UNITS: [u8; ITEM_BYTES_MAX / UNIT_BYTES + 1] = class_of_units();

const fn class_bytes() -> [u16; CLASSES] {
    let mut bytes = [0; CLASSES];
    let mut class = 0;
    let mut size = ITEM_BYTES_MIN;
    while size <= 1_024 {
        bytes[class] = size as u16;
        class += 1;
        // A step is a thirty-second of the size at most, but for the smallest.
        size += if size < 256 {
            8
        } else if size < 512 {
            16
        } else {
            32
        };
    }
    // Above, a page is divided by a whole number, so that no piece is left over.
    let mut items = 15;
    while items >= PAGE_BYTES / ITEM_BYTES_MAX {
        bytes[class] = ((PAGE_BYTES / items) & !(UNIT_BYTES - 1)) as u16;
        class += 1;
        items -= 1;
    }
    assert!(class == CLASSES);
    bytes
}

const fn class_of_units() -> [u8; ITEM_BYTES_MAX / UNIT_BYTES + 1] {
    let mut classes = [0; ITEM_BYTES_MAX / UNIT_BYTES + 1];
    let mut units = 0;
    let mut class = 0;
    while units < classes.len() {
        if (CLASS_BYTES[class] as usize) < units * UNIT_BYTES {
            class += 1;
        }
        classes[units] = class as u8;
        units += 1;
    }
    classes
}

/// The size class of an item of so many bytes, at most [`ITEM_BYTES_MAX`].
#[inline]
fn class_of(bytes: usize) -> usize {
    usize::from(CLASS_OF_UNITS[bytes.div_ceil(UNIT_BYTES)])
}

/// The bytes that an item of `bytes` bytes takes, `bytes` being at most [`ITEM_BYTES_MAX`].
#[inline]
pub(super) fn item_bytes(bytes: usize) -> usize {
    usize::from(CLASS_BYTES[class_of(bytes)])
}

/// Where an item lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address(u32);

impl Address {
    /// No item.
    pub const NONE: Address = Address(u32::MAX);
    /// The lowest address.
    pub const FIRST: Address = Address(0);

    fn new(page: usize, unit: u16) -> Self {
        Address((page as u32) << UNIT_BITS | u32::from(unit))
    }

    /// The address as a number.
    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The address that [`Address::bits`] gave.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        Address(bits)
    }

    /// Whether it is an item's.
    #[inline]
    pub fn is_some(self) -> bool {
        self != Address::NONE
    }

    /// The address, or nothing for [`Address::NONE`].
    #[inline]
    pub fn some(self) -> Option<Address> {
        self.is_some().then_some(self)
    }

    /// The next address, whether or not an item begins there.
    pub fn following(self) -> Address {
        Address(self.0.saturating_add(1))
    }

    #[inline]
    fn page(self) -> usize {
        (self.0 >> UNIT_BITS) as usize
    }

    #[inline]
    fn page_number(self) -> u32 {
        self.0 >> UNIT_BITS
    }

    #[inline]
    fn unit(self) -> u16 {
        (self.0 & ((1 << UNIT_BITS) - 1)) as u16
    }

    #[inline]
    fn offset(self) -> usize {
        usize::from(self.unit()) * UNIT_BYTES
    }
}

/// What is known of a page besides its bytes.
#[derive(Debug)]
struct Page {
    /// Items in use.
    used: u16,
    /// The unit of the free item that is used next, or [`NO_UNIT`]. The others follow from it.
    free: u16,
    /// Items that were ever in use.
    begun: u16,
    class: u8,
    /// Its place among the partial pages of its class, or [`NO_PLACE`].
    place: u32,
}

#[derive(Debug, Default)]
struct Class {
    /// Pages with room, but for one that is being emptied.
    partial: Vec<u32>,
    /// Free items in partial pages.
    free: usize,
    /// Items that all pages have room for.
    room: usize,
    /// Where the search for the emptiest page goes on.
    search_at: usize,
}

/// A page whose items are moved away.
#[derive(Clone, Copy, Debug)]
struct Emptied {
    page: u32,
    /// Items before this one have been looked at.
    item: u16,
}

/// Pages of items.
#[derive(Debug)]
pub(super) struct Arena {
    /// The bytes of each page.
    bytes: Pieces<PAGE_BYTES, REGION_BYTES>,
    /// Without items where a page was given back.
    pages: Vec<Page>,
    classes: Vec<Class>,
    emptied: Option<Emptied>,
    /// A class that may be sparse.
    suspect: Option<u8>,
}

impl Arena {
    /// An arena without pages.
    pub fn new() -> Self {
        Arena {
            bytes: Pieces::default(),
            pages: Vec::new(),
            classes: (0..CLASSES).map(|_| Class::default()).collect(),
            emptied: None,
            suspect: None,
        }
    }

    /// The bytes from an item's first to the end of its page.
    #[inline]
    pub fn item(&self, address: Address) -> &[u8] {
        &self.bytes.get(address.page_number())[address.offset()..]
    }

    /// The same, to be written.
    #[inline]
    pub fn item_mut(&mut self, address: Address) -> &mut [u8] {
        &mut self.bytes.get_mut(address.page_number())[address.offset()..]
    }

    /// Whether an item of `bytes` bytes can stay where one is.
    #[inline]
    pub fn fits(&self, address: Address, bytes: usize) -> bool {
        usize::from(self.pages[address.page()].class) == class_of(bytes)
    }

    /// Room for an item of `bytes` bytes, which are at most [`ITEM_BYTES_MAX`]. The first eight are
    /// zero, and the caller must see to it that they are not while the item is in use.
    pub fn allocate(&mut self, bytes: usize) -> Address {
        let class = class_of(bytes);
        let number = match self.classes[class].partial.last() {
            Some(number) => *number,
            None => self.add_page(class),
        };
        let page = &mut self.pages[number as usize];
        let size = usize::from(CLASS_BYTES[class]);
        let unit = if page.free == NO_UNIT {
            let unit = usize::from(page.begun) * size / UNIT_BYTES;
            page.begun += 1;
            unit as u16
        } else {
            page.free
        };
        page.used += 1;
        let is_full = usize::from(page.used) == PAGE_BYTES / size;
        let address = Address::new(number as usize, unit);
        let item = &mut self.bytes.get_mut(number)[address.offset()..];
        if page.free == NO_UNIT {
            item[..8].fill(0);
        } else {
            page.free = u16::from_le_bytes([item[8], item[9]]);
        }
        self.classes[class].free -= 1;
        if is_full {
            self.unlist(number);
        }
        address
    }

    /// Frees an item.
    pub fn release(&mut self, address: Address) {
        let number = address.page();
        let item = &mut self.bytes.get_mut(number as u32)[address.offset()..];
        let page = &mut self.pages[number];
        item[..8].fill(0);
        item[8..10].copy_from_slice(&page.free.to_le_bytes());
        page.free = address.unit();
        page.used -= 1;
        let class = usize::from(page.class);
        let is_emptied = self.emptied.is_some_and(|emptied| emptied.page as usize == number);
        if page.used == 0 {
            self.give_back(number as u32);
        } else if !is_emptied {
            if page.place == NO_PLACE {
                let free = self.free_items(number);
                self.list(number as u32);
                self.classes[class].free += free;
            } else {
                self.classes[class].free += 1;
            }
        }
        if self.is_sparse(class) {
            self.suspect = Some(class as u8);
        }
    }

    /// An item that should be moved, for its page to become empty; nothing while no class is
    /// sparse. Whoever asks allocates anew, copies, and releases it, before asking again.
    pub fn next_to_move(&mut self) -> Option<Address> {
        if self.emptied.is_none() {
            let class = usize::from(self.suspect.take()?);
            if !self.is_sparse(class) {
                return None;
            }
            self.suspect = Some(class as u8);
            let page = self.emptiest(class);
            self.classes[class].free -= self.free_items(page as usize);
            self.unlist(page);
            self.emptied = Some(Emptied { page, item: 0 });
        }
        let emptied = self.emptied.as_mut()?;
        let page = &self.pages[emptied.page as usize];
        let size = usize::from(CLASS_BYTES[usize::from(page.class)]);
        let bytes = self.bytes.get(emptied.page);
        while emptied.item < page.begun {
            let at = usize::from(emptied.item) * size;
            if bytes[at..at + 8] != [0; 8] {
                let unit = (at / UNIT_BYTES) as u16;
                return Some(Address::new(emptied.page as usize, unit));
            }
            emptied.item += 1;
        }
        unreachable!("a page whose last item was released is given back");
    }

    /// The first item in use at or behind an address.
    pub fn next_in_use(&self, from: Address) -> Option<Address> {
        let mut offset = from.offset();
        for (number, page) in self.pages.iter().enumerate().skip(from.page()) {
            let size = usize::from(CLASS_BYTES[usize::from(page.class)]);
            let first = offset.div_ceil(size);
            offset = 0;
            if page.used == 0 {
                continue;
            }
            let bytes = self.bytes.get(number as u32);
            let items = bytes.chunks_exact(size).take(usize::from(page.begun)).enumerate();
            let in_use = items.skip(first).find(|(_, item)| item[..8] != [0; 8]);
            if let Some((item, _)) = in_use {
                return Some(Address::new(number, (item * size / UNIT_BYTES) as u16));
            }
        }
        None
    }

    /// How many bytes an item that lies at `address` has room for.
    #[inline]
    pub fn room(&self, address: Address) -> usize {
        usize::from(CLASS_BYTES[usize::from(self.pages[address.page()].class)])
    }

    /// Gives about `count_max` pages back at once, with whatever lies in them. Returns how many.
    /// The arena cannot be used any more.
    pub fn tear_down(&mut self, count_max: usize) -> usize {
        self.bytes.tear_down(count_max * PAGE_BYTES) / PAGE_BYTES
    }

    /// Pages in use, for tests and figures.
    #[cfg(test)]
    pub fn pages(&self) -> usize {
        self.bytes.in_use()
    }

    fn is_sparse(&self, class: usize) -> bool {
        let Class { free, room, .. } = self.classes[class];
        free > room / FREE_SHARE + PAGE_BYTES / usize::from(CLASS_BYTES[class])
    }

    fn free_items(&self, page: usize) -> usize {
        let Page { class, used, .. } = self.pages[page];
        PAGE_BYTES / usize::from(CLASS_BYTES[usize::from(class)]) - usize::from(used)
    }

    /// The page with the fewest items among some partial ones.
    fn emptiest(&mut self, class: usize) -> u32 {
        let Class { partial, search_at, .. } = &mut self.classes[class];
        let candidates =
            (0..CANDIDATES).map(|offset| partial[(*search_at + offset) % partial.len()]);
        let page = candidates.min_by_key(|page| self.pages[*page as usize].used);
        *search_at = search_at.wrapping_add(CANDIDATES) % partial.len();
        page.unwrap_or(partial[0])
    }

    fn add_page(&mut self, class: usize) -> u32 {
        let page = Page { used: 0, free: NO_UNIT, begun: 0, class: class as u8, place: NO_PLACE };
        let number = self.bytes.add();
        assert!((number as usize) < PAGES_MAX, "a shard's entries take 32 GiB at most");
        match self.pages.get_mut(number as usize) {
            Some(vacant) => *vacant = page,
            None => self.pages.push(page),
        }
        let items = PAGE_BYTES / usize::from(CLASS_BYTES[class]);
        self.classes[class].room += items;
        self.classes[class].free += items;
        self.list(number);
        number
    }

    /// Gives a page without items back.
    fn give_back(&mut self, number: u32) {
        let page = &self.pages[number as usize];
        let class = usize::from(page.class);
        let items = PAGE_BYTES / usize::from(CLASS_BYTES[class]);
        let is_emptied = self.emptied.is_some_and(|emptied| emptied.page == number);
        if is_emptied {
            self.emptied = None;
        } else if page.place != NO_PLACE {
            // Its last item is not counted as free yet.
            self.classes[class].free -= items - 1;
            self.unlist(number);
        }
        self.classes[class].room -= items;
        self.bytes.release(number);
    }

    fn list(&mut self, number: u32) {
        let partial = &mut self.classes[usize::from(self.pages[number as usize].class)].partial;
        self.pages[number as usize].place = partial.len() as u32;
        partial.push(number);
    }

    fn unlist(&mut self, number: u32) {
        let page = &mut self.pages[number as usize];
        let place = std::mem::replace(&mut page.place, NO_PLACE) as usize;
        let partial = &mut self.classes[usize::from(page.class)].partial;
        partial.swap_remove(place);
        if let Some(&moved) = partial.get(place) {
            self.pages[moved as usize].place = place as u32;
        }
    }

    /// Checks the invariants by counting anew, for tests.
    pub fn check(&self) {
        let mut free = [0; CLASSES];
        let mut room = [0; CLASSES];
        let mut pages = 0;
        for (number, page) in self.pages.iter().enumerate() {
            if page.used == 0 {
                assert_eq!(page.place, NO_PLACE, "the list of the vacant page {number}");
                continue;
            }
            let bytes = self.bytes.get(number as u32);
            pages += 1;
            let class = usize::from(page.class);
            let size = usize::from(CLASS_BYTES[class]);
            let begun = usize::from(page.begun);
            let used = bytes.chunks_exact(size).take(begun).filter(|item| item[..8] != [0; 8]);
            assert_eq!(used.count(), usize::from(page.used), "items of page {number}");
            let is_emptied = self.emptied.is_some_and(|emptied| emptied.page as usize == number);
            let is_full = self.free_items(number) == 0;
            assert_eq!(page.place == NO_PLACE, is_emptied || is_full, "the list of page {number}");
            room[class] += PAGE_BYTES / size;
            if page.place != NO_PLACE {
                assert_eq!(self.classes[class].partial[page.place as usize], number as u32);
                free[class] += self.free_items(number);
            }
        }
        assert_eq!(pages, self.bytes.in_use());
        for (class, state) in self.classes.iter().enumerate() {
            assert_eq!((state.free, state.room), (free[class], room[class]), "class {class}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(arena: &mut Arena, address: Address, mark: u64) {
        arena.item_mut(address)[..8].copy_from_slice(&mark.to_le_bytes());
    }

    #[test]
    fn a_class_has_room_for_every_size_and_wastes_little() {
        for bytes in ITEM_BYTES_MIN..=ITEM_BYTES_MAX {
            let size = item_bytes(bytes);
            assert!(size >= bytes, "{bytes} bytes do not fit into {size}");
            assert!(size - bytes <= (bytes / 7).max(7), "{size} bytes for {bytes}");
        }
        assert!(CLASS_BYTES.is_sorted());
    }

    #[test]
    fn items_do_not_overlap_and_free_ones_are_used_again() {
        let mut arena = Arena::new();
        let mut live: Vec<(Address, u64, usize)> = Vec::new();
        let mut random = 1_u64;
        for round in 1..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            let pick = (random >> 33) as usize;
            if live.len() < 300 || pick.is_multiple_of(2) {
                let bytes = ITEM_BYTES_MIN + pick % (ITEM_BYTES_MAX - ITEM_BYTES_MIN);
                let address = arena.allocate(bytes);
                assert_eq!(arena.item(address)[..8], [0; 8]);
                arena.item_mut(address)[..bytes].fill(round as u8 | 1);
                mark(&mut arena, address, round);
                live.push((address, round, bytes));
            } else {
                let (address, round, bytes) = live.swap_remove(pick % live.len());
                assert_eq!(arena.item(address)[..8], round.to_le_bytes());
                assert!(arena.item(address)[8..bytes].iter().all(|byte| *byte == round as u8 | 1));
                arena.release(address);
            }
        }
        arena.check();
        live.into_iter().for_each(|(address, ..)| arena.release(address));
        arena.check();
        assert_eq!(arena.pages(), 0);
    }

    #[test]
    fn a_sparse_class_is_emptied_down_to_a_sixteenth() {
        let mut arena = Arena::new();
        let live: Vec<Address> = (1..=20_000)
            .map(|number| {
                let address = arena.allocate(104);
                mark(&mut arena, address, number);
                address
            })
            .collect();
        let before = arena.pages();
        assert_eq!(arena.next_to_move(), None);
        // What stays is spread over all pages.
        let (kept, released): (Vec<_>, Vec<_>) =
            live.into_iter().enumerate().partition(|(number, _)| number % 5 == 0);
        released.into_iter().for_each(|(_, address)| arena.release(address));
        assert_eq!(arena.pages(), before);
        let mut moves = 0;
        while let Some(old) = arena.next_to_move() {
            let item = arena.item(old)[..104].to_vec();
            let new = arena.allocate(104);
            arena.item_mut(new)[..104].copy_from_slice(&item);
            arena.release(old);
            moves += 1;
            assert!(moves <= kept.len(), "no item has to be moved twice");
        }
        arena.check();
        assert!(arena.pages() <= before / 5 * 17 / 16 + 4, "{} of {before} pages", arena.pages());
    }
}
