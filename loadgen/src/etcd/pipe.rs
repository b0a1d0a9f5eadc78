//! Memory in the place of a socket: what HTTP/2 reads from and writes to.
//!
//! The event loop owns the sockets. It lays what it has received into the pipe's input, lets the
//! HTTP/2 connection work, and takes what is to be sent from the output. Nobody is woken: who fills
//! the input polls the connection next.
//!
//! The output is bounded by the requests in flight, which the event loop bounds.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Buffers {
    input: BytesMut,
    output: Vec<u8>,
}

/// One end of the pipe. Its clones are the same end.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe(Rc<RefCell<Buffers>>);

impl Pipe {
    /// Adds what has been received.
    pub fn feed(&self, received: &[u8]) {
        self.0.borrow_mut().input.extend_from_slice(received);
    }

    /// Moves what is to be sent to the end of `output`.
    pub fn drain(&self, output: &mut Vec<u8>) {
        let written = &mut self.0.borrow_mut().output;
        if output.is_empty() {
            std::mem::swap(output, written);
        } else {
            output.append(written);
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let input = &mut self.0.borrow_mut().input;
        if input.is_empty() {
            return Poll::Pending;
        }
        let length = input.len().min(into.remaining());
        into.put_slice(input.get(..length).unwrap_or_default());
        input.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
