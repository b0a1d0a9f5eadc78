//! Which of many sockets have something to receive, learnt with one call for all of them.
//!
//! To ask the executor for each socket by itself costs a request and a completion per wait. Here a
//! socket is registered once, edge-triggered, in an epoll set of the executor's own; one task asks
//! the executor for the readiness of the set, collects what became ready and wakes who waits. That
//! task also decides when it looks: what is not collected wakes nobody.
//!
//! An edge is told once. Whoever was woken must receive until fewer bytes come than there was room
//! for, or none, before it waits again; the end of the stream and errors are remembered, so that
//! they are found even if they came with the last bytes.
//!
//! Invariants: at most one task waits for a socket; a place belongs to one registration at a time,
//! and an event of a former one is recognised by its generation.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::runtime::Watched;

/// Sockets told of by one call. Those beyond it are told by the next.
const EVENTS_MAX: usize = 256;

/// The sockets of an executor that wait for input.
#[derive(Debug)]
pub struct ReadySet {
    epoll: Watched<OwnedFd>,
    places: RefCell<Places>,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    is_ready: bool,
    /// Nothing more will come, or an error waits to be received.
    has_ended: bool,
    waiter: Option<Waker>,
}

impl ReadySet {
    /// An empty set.
    ///
    /// # Errors
    /// If the kernel has no descriptor for it, or the executor does not take that.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = Watched::new(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Rc::new(ReadySet { epoll, places: RefCell::default() }))
    }

    /// Registers a socket, which must be closed when the registration is dropped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn register(self: &Rc<Self>, socket: impl AsFd) -> io::Result<Registration> {
        let mut places = self.places.borrow_mut();
        let number = places.free.pop().unwrap_or_else(|| {
            places.all.push(Place::default());
            (places.all.len() - 1) as u32
        });
        let generation = places.all[number as usize].generation;
        let data = EventData::new_u64(u64::from(generation) << 32 | u64::from(number));
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(self.epoll.get(), socket, data, flags) {
            places.free.push(number);
            return Err(error.into());
        }
        Ok(Registration { set: self.clone(), number })
    }

    /// Waits until some registered socket has become ready since the last
    /// [`collect`](Self::collect).
    ///
    /// # Errors
    /// If the executor cannot watch the set.
    pub async fn wait(&self) -> io::Result<()> {
        self.epoll.readable().await
    }

    /// Wakes whoever waits for a socket that has become ready. Returns whether any had.
    ///
    /// # Errors
    /// If the kernel does not tell, which it has no reason for.
    pub fn collect(&self) -> io::Result<bool> {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let events = match epoll::wait(self.epoll.get(), &mut events, Some(&at_once)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let mut places = self.places.borrow_mut();
        for event in events.iter() {
            let (data, flags) = (event.data.u64(), event.flags);
            let (generation, number) = ((data >> 32) as u32, data as u32);
            let Some(place) = places.all.get_mut(number as usize) else { continue };
            if place.generation != generation {
                continue;
            }
            place.is_ready = true;
            let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            place.has_ended |= flags.intersects(ended);
            if let Some(waiter) = place.waiter.take() {
                waiter.wake();
            }
        }
        Ok(!events.is_empty())
    }
}

/// A socket's place in a [`ReadySet`].
#[derive(Debug)]
pub struct Registration {
    set: Rc<ReadySet>,
    number: u32,
}

impl Registration {
    /// Waits until the socket has become ready since this was last waited for.
    pub async fn ready(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut places = self.set.places.borrow_mut();
        let place = &mut places.all[self.number as usize];
        if std::mem::take(&mut place.is_ready) || place.has_ended {
            return Poll::Ready(());
        }
        match &mut place.waiter {
            Some(waiter) => waiter.clone_from(context.waker()),
            None => place.waiter = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut places = self.set.places.borrow_mut();
        let place = &mut places.all[self.number as usize];
        *place = Place { generation: place.generation.wrapping_add(1), ..Place::default() };
        places.free.push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::Socket;

    use super::*;
    use crate::net::runtime::{ExecutorSettings, spawn, start_executor, yield_now};
    use crate::net::stream::{Stream, Transfer, Transport};

    fn on_an_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
        let settings =
            ExecutorSettings { name: "ready".to_owned(), cpu: None, spin: Duration::ZERO };
        start_executor(&settings, test).expect("an executor").join().expect("the test holds");
    }

    fn pair(set: &Rc<ReadySet>) -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("an address"));
        let (near, _) = listener.accept().expect("accepted");
        let near = Stream::in_set(Socket::from(near), set).expect("registered");
        (near, far.expect("connected"))
    }

    fn attend(set: &Rc<ReadySet>) {
        let set = set.clone();
        spawn(async move {
            while Rc::strong_count(&set) > 1 {
                if !set.collect().expect("collected") {
                    set.wait().await.expect("watched");
                }
                yield_now().await;
            }
        });
    }

    fn receive(stream: &Stream) -> Transfer {
        stream.receive(&mut [MaybeUninit::uninit(); 64]).expect("no error")
    }

    #[test]
    fn an_end_that_came_with_the_last_bytes_is_found() {
        on_an_executor(|| async {
            let set = ReadySet::new().expect("a set");
            let (near, mut far) = pair(&set);
            attend(&set);
            far.write_all(b"last").expect("written");
            drop(far);
            near.readable().await.expect("readable");
            // The end may still be on its way when the bytes are there.
            assert_eq!(receive(&near), Transfer::Bytes(4));
            near.readable().await.expect("readable");
            assert_eq!(receive(&near), Transfer::End);
        });
    }

    #[test]
    fn more_sockets_than_one_call_tells_of_are_all_told() {
        on_an_executor(|| async {
            let set = ReadySet::new().expect("a set");
            let pairs: Vec<_> = (0..EVENTS_MAX + 50).map(|_| pair(&set)).collect();
            attend(&set);
            for round in 0..3 {
                for (_, far) in &pairs {
                    (&*far).write_all(&[round]).expect("written");
                }
                for (near, _) in &pairs {
                    while receive(near) == Transfer::WouldBlock {
                        near.readable().await.expect("readable");
                    }
                }
            }
        });
    }

    #[test]
    fn a_place_tells_nothing_of_the_socket_that_had_it_before() {
        on_an_executor(|| async {
            let set = ReadySet::new().expect("a set");
            let (near, mut far) = pair(&set);
            far.write_all(b"x").expect("written");
            // The former socket stays open, so that its event is still told.
            let Stream { socket, arrivals } = near;
            drop(arrivals);
            let (next, _next_far) = pair(&set);
            assert!(set.collect().expect("collected"));
            let arrivals = next.arrivals.as_ref().expect("registered");
            let place = &set.places.borrow().all[arrivals.number as usize];
            assert!(!place.is_ready, "told of a socket that it is not");
            drop(socket);
        });
    }
}
