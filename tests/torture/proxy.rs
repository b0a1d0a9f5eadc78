//! A TCP proxy for every directed link between nodes: where the network misbehaves.
//!
//! Node A knows node B under the address that [`addresses`](super::cluster) gives the pair; this
//! proxy listens there and passes on to B's own address. What happens to bytes is decided per
//! direction of travel and not per connection: a rule for A → B holds for what A says on its own
//! connections to B and for what A answers on those of B. So a network in which A's packets do not
//! arrive and B's do is one rule.
//!
//! Bytes are delayed or held, never changed, lost or reordered within a connection, as TCP has it;
//! what cannot be delivered is lost with its connection. One thread serves all connections, without
//! blocking. Buffers are bounded: a full one is not read into, so that the sender's own buffers
//! fill, as with a slow network.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

/// Bytes held per direction of a connection.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Bytes read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Connections held at once; the oldest of the same link goes when there is one more.
const CONNECTIONS_MAX: usize = 512;

/// What happens to bytes on their way from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// They pass.
    Pass,
    /// Connections that would carry them are reset, at once and when they are made.
    Refuse,
    /// They are taken and kept until the rule changes.
    Hold,
    /// They take so much longer.
    Delay(Duration),
    /// So many of them pass per second.
    Throttle(u64),
}

/// The end of a link: which node at which address.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Who connects.
    pub from: u16,
    /// Whom they mean.
    pub to: u16,
    /// Where they connect to.
    pub listen: IpAddr,
    /// Where that leads.
    pub target: IpAddr,
}

enum Order {
    Rule { from: u16, to: u16, rule: Rule },
    Reset { from: u16, to: u16 },
    Stop,
}

/// A running proxy; it ends when this is dropped.
pub struct Proxy {
    orders: Sender<Order>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `ports` of every route.
    pub fn start(routes: &[Route], ports: &[u16]) -> io::Result<Proxy> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let (orders, received) = channel();
        let mut doors = Vec::new();
        for route in routes {
            for &port in ports {
                let mut listener = TcpListener::bind(SocketAddr::new(route.listen, port))?;
                let token = Token(FIRST + doors.len());
                poll.registry().register(&mut listener, token, Interest::READABLE)?;
                doors.push(Door { listener, route: *route, port });
            }
        }
        let nodes = routes.iter().map(|route| route.from.max(route.to)).max().unwrap_or(0);
        let side = usize::from(nodes) + 1;
        let rules = vec![vec![Rule::Pass; side]; side];
        let first_connection = FIRST + doors.len();
        let mut relay = Relay {
            poll,
            doors,
            connections: Vec::new(),
            first_connection,
            rules,
            born: 0,
            orders: received,
        };
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || relay.run())?;
        Ok(Proxy { orders, waker, thread: Some(thread) })
    }

    /// Sets the rule for what `from` sends to `to`.
    pub fn set(&self, from: u16, to: u16, rule: Rule) {
        self.order(Order::Rule { from, to, rule });
    }

    /// Resets the connections that `from` has opened to `to`, with whatever they hold.
    pub fn reset(&self, from: u16, to: u16) {
        self.order(Order::Reset { from, to });
    }

    fn order(&self, order: Order) {
        // A proxy that has ended takes no orders, and no test runs on without it: its end is a
        // panic that `drop` reports.
        if self.orders.send(order).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.order(Order::Stop);
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended
            && !std::thread::panicking()
        {
            panic!("the proxy ended with a panic");
        }
    }
}

const WAKER: Token = Token(0);
/// The token of the first listener.
const FIRST: usize = 1;

struct Door {
    listener: TcpListener,
    route: Route,
    port: u16,
}

/// One end of a connection.
struct Side {
    stream: TcpStream,
    readable: bool,
    writable: bool,
}

/// Bytes under way in one direction.
#[derive(Default)]
struct Flow {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The sender has closed,
    is_finished: bool,
    /// or has broken the connection.
    is_reset: bool,
    /// The receiver was told so.
    is_shut: bool,
    /// From when on the next byte may pass a throttle.
    free_from: Option<Instant>,
}

struct Connection {
    born: u64,
    route: Route,
    port: u16,
    near: Side,
    /// Made when the first bytes may pass, as the packets that would make it are held as well.
    far: Option<Side>,
    forth: Flow,
    back: Flow,
}

/// What became of a connection.
#[derive(PartialEq, Eq)]
enum Fate {
    Stays,
    Closes,
    Breaks,
}

struct Relay {
    poll: Poll,
    doors: Vec<Door>,
    connections: Vec<Option<Connection>>,
    first_connection: usize,
    rules: Vec<Vec<Rule>>,
    born: u64,
    orders: Receiver<Order>,
}

impl Relay {
    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        let mut due: Option<Instant> = None;
        loop {
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            // A millisecond more, because a timeout is rounded down.
            let timeout = timeout.map(|timeout| timeout + Duration::from_millis(1));
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("the proxy cannot poll: {error}"),
            }
            let mut touched = Vec::new();
            let mut is_woken = due.is_some_and(|due| due <= Instant::now());
            for event in &events {
                match event.token().0 {
                    token if token == WAKER.0 => is_woken = true,
                    token if token < self.first_connection => self.accept(token - FIRST),
                    token => {
                        let place = (token - self.first_connection) / 2;
                        let is_far = (token - self.first_connection) % 2 == 1;
                        let is_readable = event.is_readable() || event.is_error();
                        self.note(place, is_far, is_readable, event.is_writable());
                        touched.push(place);
                    }
                }
            }
            if is_woken {
                while let Ok(order) = self.orders.try_recv() {
                    if !self.obey(order) {
                        return;
                    }
                }
                touched = (0..self.connections.len()).collect();
            }
            for place in touched {
                self.move_bytes(place);
            }
            due = self.connections.iter().flatten().filter_map(|c| c.due(&self.rules)).min();
        }
    }

    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Rule { from, to, rule } => {
                self.rules[usize::from(from)][usize::from(to)] = rule;
            }
            Order::Reset { from, to } => {
                for slot in &mut self.connections {
                    if slot.as_ref().is_some_and(|c| (c.route.from, c.route.to) == (from, to)) {
                        slot.take().into_iter().for_each(Connection::break_off);
                    }
                }
            }
            Order::Stop => return false,
        }
        true
    }

    fn note(&mut self, place: usize, is_far: bool, readable: bool, writable: bool) {
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        let side = match is_far {
            true => connection.far.as_mut(),
            false => Some(&mut connection.near),
        };
        if let Some(side) = side {
            side.readable |= readable;
            side.writable |= writable;
        }
    }

    fn accept(&mut self, door: usize) {
        while let Ok((stream, _)) = self.doors[door].listener.accept() {
            let _ = stream.set_nodelay(true);
            self.make_room();
            let Door { route, port, .. } = self.doors[door];
            self.born += 1;
            let near = Side { stream, readable: true, writable: true };
            let connection = Connection {
                born: self.born,
                route,
                port,
                near,
                far: None,
                forth: Flow::default(),
                back: Flow::default(),
            };
            let place = match self.connections.iter().position(Option::is_none) {
                Some(place) => place,
                None => {
                    self.connections.push(None);
                    self.connections.len() - 1
                }
            };
            self.connections[place] = Some(connection);
            if self.register(place, false) {
                self.move_bytes(place);
            } else {
                self.connections[place] = None;
            }
        }
    }

    /// Breaks the oldest connection off when there are too many.
    fn make_room(&mut self) {
        let standing = || self.connections.iter().flatten();
        if standing().count() < CONNECTIONS_MAX {
            return;
        }
        let oldest = standing().map(|connection| connection.born).min();
        for slot in &mut self.connections {
            if slot.as_ref().map(|connection| connection.born) == oldest {
                slot.take().into_iter().for_each(Connection::break_off);
            }
        }
    }

    fn register(&mut self, place: usize, is_far: bool) -> bool {
        let token = Token(self.first_connection + 2 * place + usize::from(is_far));
        let Some(connection) = self.connections[place].as_mut() else { return false };
        let side = match is_far {
            true => connection.far.as_mut(),
            false => Some(&mut connection.near),
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        side.is_some_and(|side| side.stream.register(self.poll.registry(), token, interest).is_ok())
    }

    fn move_bytes(&mut self, place: usize) {
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        let now = Instant::now();
        let mut fate = connection.advance(&self.rules, now);
        if fate == Fate::Stays && connection.wants_far(&self.rules, now) {
            let target = SocketAddr::new(connection.route.target, connection.port);
            match TcpStream::connect(target) {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    connection.far = Some(Side { stream, readable: false, writable: false });
                    if !self.register(place, true) {
                        fate = Fate::Breaks;
                    }
                }
                Err(_) => fate = Fate::Breaks,
            }
        }
        let gone = match fate {
            Fate::Stays => return,
            Fate::Closes | Fate::Breaks => self.connections[place].take(),
        };
        if let Some(connection) = gone.filter(|_| fate == Fate::Breaks) {
            connection.break_off();
        }
    }
}

impl Connection {
    fn rules(&self, rules: &[Vec<Rule>]) -> (Rule, Rule) {
        let (from, to) = (usize::from(self.route.from), usize::from(self.route.to));
        (rules[from][to], rules[to][from])
    }

    /// Reads and writes what can be read and written under the rules.
    fn advance(&mut self, rules: &[Vec<Rule>], now: Instant) -> Fate {
        let (forth, back) = self.rules(rules);
        if forth == Rule::Refuse || back == Rule::Refuse {
            return Fate::Breaks;
        }
        // Emptying a buffer makes room to read on, and no event tells of that.
        let mut moved = true;
        while moved {
            moved = self.forth.fill(&mut self.near, forth, now);
            if let Some(far) = &mut self.far {
                moved |= self.back.fill(far, back, now);
                moved |= self.forth.drain(far, forth, now);
            }
            moved |= self.back.drain(&mut self.near, back, now);
        }
        let is_reset = |flow: &Flow, rule| flow.is_reset && rule != Rule::Hold;
        let is_over = self.forth.is_shut && self.back.is_shut;
        // A connection that was given up before its first byte got through never was one.
        let has_gone = self.forth.is_finished || self.forth.is_reset;
        let is_void = self.far.is_none() && has_gone && forth == Rule::Hold;
        if is_reset(&self.forth, forth) || is_reset(&self.back, back) || is_void {
            return Fate::Breaks;
        }
        match is_over {
            true => Fate::Closes,
            false => Fate::Stays,
        }
    }

    fn wants_far(&self, rules: &[Vec<Rule>], now: Instant) -> bool {
        let (forth, back) = self.rules(rules);
        let may_pass = forth != Rule::Hold && back != Rule::Hold;
        let is_due = self.forth.chunks.front().is_some_and(|(due, _)| *due <= now);
        self.far.is_none() && may_pass && (is_due || self.forth.is_finished)
    }

    /// When bytes may pass that may not pass now.
    fn due(&self, rules: &[Vec<Rule>]) -> Option<Instant> {
        let (forth, back) = self.rules(rules);
        let of = |flow: &Flow, rule: Rule| match rule {
            Rule::Hold => None,
            _ => {
                let (due, _) = flow.chunks.front()?;
                Some((*due).max(flow.free_from.unwrap_or(*due)))
            }
        };
        let now = Instant::now();
        // What is due already waits for room, which is an event and not a time.
        of(&self.forth, forth)
            .into_iter()
            .chain(of(&self.back, back))
            .filter(|due| *due > now)
            .min()
    }

    /// Resets both ends.
    fn break_off(self) {
        for side in std::iter::once(self.near).chain(self.far) {
            // Closing with a linger of zero sends a reset; if that fails the close will do.
            let _ = socket2::SockRef::from(&side.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Flow {
    /// Reads from the sender until the buffer is full. Says whether anything came.
    fn fill(&mut self, from: &mut Side, rule: Rule, now: Instant) -> bool {
        let delay = match rule {
            Rule::Delay(delay) => delay,
            _ => Duration::ZERO,
        };
        let before = self.bytes;
        let is_open = |flow: &Flow| !flow.is_finished && !flow.is_reset;
        while from.readable && is_open(self) && self.bytes < BUFFER_BYTES_MAX {
            let mut chunk = vec![0; CHUNK_BYTES];
            match from.stream.read(&mut chunk) {
                Ok(0) => self.is_finished = true,
                Ok(count) => {
                    chunk.truncate(count);
                    let earliest = self.chunks.back().map_or(now, |(due, _)| *due);
                    self.bytes += count;
                    self.chunks.push_back(((now + delay).max(earliest), chunk));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => from.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.is_reset = true,
            }
        }
        self.bytes != before
    }

    /// Writes to the receiver what may pass. Says whether anything went.
    fn drain(&mut self, to: &mut Side, rule: Rule, now: Instant) -> bool {
        let before = self.bytes;
        while to.writable && rule != Rule::Hold {
            let Some((due, chunk)) = self.chunks.front_mut() else { break };
            if *due > now || self.free_from.is_some_and(|free| free > now) {
                break;
            }
            match to.stream.write(chunk) {
                Ok(count) => {
                    self.bytes -= count;
                    chunk.drain(..count);
                    if chunk.is_empty() {
                        self.chunks.pop_front();
                    }
                    self.free_from = match rule {
                        Rule::Throttle(rate) => {
                            Some(now + Duration::from_secs(1).mul_f64(count as f64 / rate as f64))
                        }
                        _ => None,
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the receiver has to say about it is told by what it sends, or by its end.
                Err(_) => {
                    self.chunks.clear();
                    self.bytes = 0;
                    to.writable = false;
                    to.readable = true;
                }
            }
        }
        if self.is_finished && self.chunks.is_empty() && !self.is_shut && rule != Rule::Hold {
            self.is_shut = true;
            let _ = to.stream.shutdown(Shutdown::Write);
        }
        self.bytes != before
    }
}
