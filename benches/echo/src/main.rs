//! A server that has no store: it answers GET and SET with the frames that Coracle would send, and
//! does nothing besides. What Coracle costs beyond it, per request, is what Coracle does.
//!
//! The same executor as Coracle's, on one thread: a task per connection receives whatever is there
//! into a buffer that all connections share, answers every whole request in it and sends once. The
//! listening socket and the executor have the settings of Coracle's own (`src/net/`), and the
//! buffer has the size of Coracle's. It waits for each socket by itself, as glommio's own sockets
//! do, but receives first and asks only when nothing is there.
//!
//! It keeps no limits on clients and no deadlines: it is for measurements on this machine.

mod requests;

use std::cell::RefCell;
use std::error::Error;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use glommio::io::PollableFd;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use mimalloc::MiMalloc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use requests::Answers;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Size of the buffer that is received into, in bytes. A longer request ends its connection.
const BUFFER_BYTES: usize = 256 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// Memory that the executor registers for file IO, which it does not use, in bytes.
const IO_MEMORY_BYTES: usize = 256 << 10;
/// How long tasks may run until the executor looks at sockets and timers again.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long the executor sleeps at most: it may take a round that the kernel interrupted for an
/// idle one and sleep although tasks could run.
const SLEEP_INTERVAL_MAX: Duration = Duration::from_millis(20);
/// How long to wait after the process ran out of descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long the kernel may take to let go of the port of a server that was just ended.
const BIND_DEADLINE: Duration = Duration::from_secs(10);

/// Answers GET and SET without a store, to compare Coracle with.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where to listen; with port 0 the kernel chooses one, and the first line of output tells it.
    #[arg(long, default_value = "127.0.0.1:7400")]
    addr: SocketAddr,
    /// Length of every value that is answered, in bytes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(0..=4096))]
    value_bytes: u16,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    answers: Answers,
    buffers: RefCell<Buffers>,
}

#[derive(Debug)]
struct Buffers {
    received: Box<[u8]>,
    answers: Vec<u8>,
}

/// What a connection waits for next.
#[derive(Debug)]
enum Next {
    /// Input.
    Readable,
    /// Its turn: there may be more.
    Again,
    /// Room for these bytes.
    Writable(Vec<u8>),
    /// Nothing: it has ended.
    End,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let listener = bind(options.addr)?;
    let address = listener.local_addr()?.as_socket().ok_or("an address of another kind")?;
    println!("listening on {address}");
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(POLL_INTERVAL)
        .spin_before_park(Duration::ZERO)
        .make()?;
    executor.run(async move {
        limit_sleep();
        let buffers = Buffers { received: vec![0; BUFFER_BYTES].into(), answers: Vec::new() };
        let answers = Answers::new(options.value_bytes.into());
        accept(listener, &Rc::new(Shared { answers, buffers: RefCell::new(buffers) })).await
    })?;
    Ok(())
}

/// Binds and listens, with the options of Coracle's own ports.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let deadline = Instant::now() + BIND_DEADLINE;
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        match socket.bind(&SockAddr::from(address)) {
            Ok(()) => {
                socket.listen(BACKLOG)?;
                return Ok(socket);
            }
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(BACK_OFF),
        }
    }
}

/// Wakes the executor from a thread of its own every so often: a wake-up from outside is the one
/// thing that its own timers cannot miss.
fn limit_sleep() {
    let (sender, receiver) = mpsc::channel::<Waker>();
    thread::spawn(move || {
        let Ok(waker) = receiver.recv() else { return };
        loop {
            thread::sleep(SLEEP_INTERVAL_MAX);
            waker.wake_by_ref();
        }
    });
    let mut sender = Some(sender);
    spawn(poll_fn(move |context| {
        if let Some(sender) = sender.take() {
            // The thread waits for it, and ends only with the process.
            let _ = sender.send(context.waker().clone());
        }
        Poll::Pending
    }));
}

fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// Accepts for ever, and serves each connection in a task of its own.
async fn accept(listener: Socket, shared: &Rc<Shared>) -> io::Result<()> {
    let listener = PollableFd::new(listener)?;
    loop {
        match listener.get_ref().accept() {
            Ok((socket, _)) => {
                let shared = shared.clone();
                spawn(async move {
                    // A connection that broke has ended, and nobody is to be told.
                    let _ = serve(&shared, socket).await;
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                listener.readable().await?;
            }
            Err(_) => {
                Timer::new(BACK_OFF).await;
            }
        }
    }
}

async fn serve(shared: &Shared, socket: Socket) -> io::Result<()> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    let stream = PollableFd::new(stream)?;
    let mut kept = Vec::new();
    loop {
        match shared.exchange(stream.get_ref(), &mut kept)? {
            Next::Readable => stream.readable().await?,
            Next::Again => glommio::yield_if_needed().await,
            Next::Writable(rest) => send(&stream, &rest).await?,
            Next::End => return Ok(()),
        }
    }
}

/// Sends what found no room at once.
async fn send(stream: &PollableFd<TcpStream>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.get_ref().write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Shared {
    /// Receives once, answers every whole request and sends once. `kept` is the beginning of a
    /// request that came before, and afterwards that of the one whose end has not come.
    fn exchange(&self, mut stream: &TcpStream, kept: &mut Vec<u8>) -> io::Result<Next> {
        let mut buffers = self.buffers.borrow_mut();
        let Buffers { received, answers } = &mut *buffers;
        let start = kept.len();
        if start == received.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let count = match stream.read(&mut received[start..]) {
            Ok(0) => return Ok(Next::End),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Readable),
            Err(error) => return Err(error),
        };
        received[..start].copy_from_slice(kept);
        let bytes = &received[..start + count];
        answers.clear();
        let used = self.answers.answer(bytes, answers);
        kept.clear();
        kept.extend_from_slice(&bytes[used.unwrap_or(bytes.len())..]);
        let mut sent = 0;
        if !answers.is_empty() {
            match stream.write(answers) {
                Ok(count) => sent = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if used.is_err() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if sent < answers.len() {
            return Ok(Next::Writable(answers[sent..].to_vec()));
        }
        // Fewer bytes than there was room for were all that waited.
        Ok(if start + count < received.len() { Next::Readable } else { Next::Again })
    }
}
