//! The open connections of a core, found by the number that the engine carries as a token.
//!
//! A number is an index and a generation, so that a reply for a connection that has closed never
//! reaches the next one in its place. Generations come round after 4,096 connections; therefore a
//! place whose connection closed with requests under way also stays reserved until all their
//! replies have come. The engine answers every request, so they do come; a place is set free
//! after [`RESERVED_SECONDS_MAX`] all the same, which is far beyond every deadline.

/// Identifies a connection of this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);

/// Bits of a number that are the index; the others are the generation.
const INDEX_BITS: u32 = 20;
/// Connections of one core, at most.
pub const CONNECTIONS_MAX: usize = 1 << INDEX_BITS;
/// How long a closed connection's place waits for replies.
pub const RESERVED_SECONDS_MAX: u64 = 300;

impl ConnectionId {
    fn new(index: usize, generation: u32) -> Self {
        ConnectionId(generation << INDEX_BITS | index as u32)
    }

    fn index(self) -> usize {
        (self.0 as usize) & (CONNECTIONS_MAX - 1)
    }
}

#[derive(Debug)]
struct Place<T> {
    /// The number of the connection that is, was last, or will be first in this place.
    id: ConnectionId,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Free,
    Open(Box<T>),
    Reserved { replies: u32, since_second: u64 },
}

/// The connections of a core.
#[derive(Debug)]
pub struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    open: usize,
    reserved: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { places: Vec::new(), free: Vec::new(), open: 0, reserved: 0 }
    }
}

impl<T> Table<T> {
    /// Takes a connection in, which `make` builds for its number; `None` if the table is full.
    pub fn insert(&mut self, make: impl FnOnce(ConnectionId) -> T) -> Option<ConnectionId> {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.places.len() < CONNECTIONS_MAX => {
                let index = self.places.len();
                self.places.push(Place { id: ConnectionId::new(index, 0), content: Content::Free });
                index
            }
            None => return None,
        };
        let place = &mut self.places[index];
        place.content = Content::Open(Box::new(make(place.id)));
        self.open += 1;
        Some(place.id)
    }

    /// The connection, unless it has closed.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        let place = self.places.get_mut(id.index())?;
        match &mut place.content {
            Content::Open(connection) if place.id == id => Some(connection),
            _ => None,
        }
    }

    /// Takes a connection out, which has so many replies to come.
    pub fn remove(&mut self, id: ConnectionId, replies: u32, now_second: u64) -> Option<T> {
        let place = self.places.get_mut(id.index()).filter(|place| place.id == id)?;
        let content = std::mem::replace(&mut place.content, Content::Free);
        let Content::Open(connection) = content else {
            place.content = content;
            return None;
        };
        self.open -= 1;
        if replies == 0 {
            self.set_free(id.index());
        } else {
            place.content = Content::Reserved { replies, since_second: now_second };
            self.reserved += 1;
        }
        Some(*connection)
    }

    /// Notes that a reply came for a connection that [`get_mut`](Self::get_mut) did not find.
    pub fn count_late_reply(&mut self, id: ConnectionId) {
        let Some(place) = self.places.get_mut(id.index()).filter(|place| place.id == id) else {
            return;
        };
        if let Content::Reserved { replies, .. } = &mut place.content {
            *replies -= 1;
            if *replies == 0 {
                self.reserved -= 1;
                self.set_free(id.index());
            }
        }
    }

    /// Sets places free that have waited for replies long enough, and returns their number.
    pub fn release_overdue(&mut self, now_second: u64) -> usize {
        if self.reserved == 0 {
            return 0;
        }
        let overdue = |place: &Place<T>| match place.content {
            Content::Reserved { since_second, .. } => {
                now_second.saturating_sub(since_second) > RESERVED_SECONDS_MAX
            }
            _ => false,
        };
        let indices: Vec<usize> =
            (0..self.places.len()).filter(|&index| overdue(&self.places[index])).collect();
        for &index in &indices {
            self.reserved -= 1;
            self.set_free(index);
        }
        indices.len()
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.open
    }

    /// All open connections.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionId, &mut T)> {
        self.places.iter_mut().filter_map(|place| match &mut place.content {
            Content::Open(connection) => Some((place.id, connection.as_mut())),
            _ => None,
        })
    }

    fn set_free(&mut self, index: usize) {
        let place = &mut self.places[index];
        place.content = Content::Free;
        // The generation's bits are the uppermost, so they wrap round by themselves.
        place.id = ConnectionId(place.id.0.wrapping_add(1 << INDEX_BITS));
        self.free.push(index as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reply_never_finds_the_next_connection() {
        let mut table = Table::default();
        let mut seen = std::collections::HashSet::new();
        for round in 0..4_096_u32 {
            let id = table.insert(|_| round).expect("room");
            assert!(seen.insert(id), "{id:?} came twice");
            assert_eq!(table.get_mut(id), Some(&mut round.clone()));
            assert_eq!(table.remove(id, 0, 0), Some(round));
            assert_eq!(table.get_mut(id), None);
            assert_eq!(table.remove(id, 0, 0), None);
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_place_with_replies_to_come_is_reserved_until_they_came() {
        let mut table = Table::default();
        let first = table.insert(|_| 'a').expect("room");
        table.remove(first, 2, 0);
        let second = table.insert(|_| 'b').expect("room");
        assert_ne!(first.index(), second.index());
        table.count_late_reply(first);
        let third = table.insert(|_| 'c').expect("room");
        assert_ne!(first.index(), third.index());
        table.count_late_reply(first);
        // One reply too many changes nothing.
        table.count_late_reply(first);
        let fourth = table.insert(|_| 'd').expect("room");
        assert_eq!(first.index(), fourth.index());
        assert_ne!(first, fourth);
        table.count_late_reply(first);
        assert_eq!(table.get_mut(fourth), Some(&mut 'd'));
        assert_eq!(table.iter_mut().map(|(_, name)| *name).collect::<String>(), "dbc");
    }

    #[test]
    fn a_place_whose_replies_never_come_is_set_free_in_the_end() {
        let mut table = Table::default();
        let id = table.insert(|_| ()).expect("room");
        table.remove(id, 1, 10);
        assert_eq!(table.release_overdue(10 + RESERVED_SECONDS_MAX), 0);
        assert_eq!(table.release_overdue(11 + RESERVED_SECONDS_MAX), 1);
        assert_eq!(table.release_overdue(11 + RESERVED_SECONDS_MAX), 0);
        assert_eq!(table.insert(|_| ()).expect("room").index(), id.index());
    }
}
