//! A growing array in pages of fixed length.
//!
//! A plain vector copies everything when it grows: tens of milliseconds for a million entries,
//! felt by whoever waits behind that one write. Pages never move, so growth costs one allocation
//! and, seldom, a copy of the list of pages, which is less than a hundredth of the elements. An
//! index takes one step more.
//!
//! Invariant: every page but the last used one is full; at most one empty page follows, kept so
//! that a length that swings around a page's border does not allocate each time.

use std::ops::{Index, IndexMut};

/// Elements of one page, as a power of two.
///
/// Small pages, because an allocator rounds large blocks up by more.
const PAGE_BITS: u32 = 6;
/// Elements of one page.
const PAGE: usize = 1 << PAGE_BITS;

/// A growing array whose elements never move.
#[derive(Debug)]
pub(super) struct Pages<T> {
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Pages { pages: Vec::new(), len: 0 }
    }
}

impl<T> Pages<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an element behind the last. Inlined, so that a large element is built where it stays.
    #[inline(always)]
    pub fn push(&mut self, element: T) {
        let page = self.len >> PAGE_BITS;
        if page == self.pages.len() {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages[page].push(element);
        self.len += 1;
    }

    /// Takes the last element away.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        let page = self.len >> PAGE_BITS;
        let element = self.pages[page].pop();
        self.pages.truncate(page + 2);
        element
    }

    /// The first element.
    pub fn first(&self) -> Option<&T> {
        self.pages.first().and_then(|page| page.first())
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// Gives up to `count_max` pages back with what is in them. Returns how many.
    pub fn tear_down(&mut self, count_max: usize) -> usize {
        let count = count_max.min(self.pages.len());
        self.pages.truncate(self.pages.len() - count);
        self.len = self.len.min(self.pages.len() << PAGE_BITS);
        count
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.pages[index >> PAGE_BITS][index & (PAGE - 1)]
    }
}

impl<T> IndexMut<usize> for Pages<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pages[index >> PAGE_BITS][index & (PAGE - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_vector_it_stands_for() {
        let mut pages = Pages::default();
        let mut vector = Vec::new();
        for round in 0..6 {
            for number in 0..PAGE * 3 + round {
                pages.push(number);
                vector.push(number);
            }
            for _ in 0..PAGE * 2 + 7 {
                assert_eq!(pages.pop(), vector.pop());
            }
            assert_eq!(pages.len(), vector.len());
            assert_eq!(pages.first(), vector.first());
            assert!(pages.iter().eq(vector.iter()));
            assert!(pages.pages.len() <= vector.len() / PAGE + 2);
        }
        pages[3] = 77;
        assert_eq!(pages[3], 77);
        let count = pages.pages.len();
        assert_eq!(pages.tear_down(2), 2);
        assert_eq!(pages.len(), vector.len().min((count - 2) * PAGE));
        assert_eq!((pages.tear_down(count), pages.len()), (count - 2, 0));
    }
}
