//! A connection of a task on a shard, or of a thread.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chasqui_runtime::{net, sleep};

use crate::PATIENCE;

/// What is read at once.
const PIECE: usize = 64 * 1024;

/// A connection. On one of the standard library every method blocks its thread, so that its future is ready at once.
pub trait Stream {
    /// The next octets; none at the end of the stream.
    fn receive(&self) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Sends octets.
    fn send(&self, octets: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Ends what is sent; the other side may go on.
    fn finish(&self);
    /// Lets time go by.
    fn pause(&self, time: Duration) -> impl Future<Output = ()>;
    /// Does nothing any more.
    fn hang(&self) -> impl Future<Output = Infallible>;
}

impl Stream for net::TcpStream {
    async fn receive(&self) -> io::Result<Vec<u8>> {
        self.read().await.map(|received| received.to_vec())
    }

    async fn send(&self, octets: &[u8]) -> io::Result<()> {
        if octets.is_empty() {
            return Ok(());
        }
        self.write_all(octets.to_vec()).await.map(drop)
    }

    fn finish(&self) {
        self.shutdown();
    }

    async fn pause(&self, time: Duration) {
        sleep(time).await;
    }

    async fn hang(&self) -> Infallible {
        std::future::pending().await
    }
}

impl Stream for TcpStream {
    async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; PIECE];
        let length = loop {
            match (&*self).read(&mut buffer) {
                // A read with a time limit can be interrupted without a signal handler.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        buffer.truncate(length);
        Ok(buffer)
    }

    async fn send(&self, octets: &[u8]) -> io::Result<()> {
        (&*self).write_all(octets)
    }

    fn finish(&self) {
        // The other side may be gone.
        drop(self.shutdown(Shutdown::Write));
    }

    async fn pause(&self, time: Duration) {
        let (_held, nothing) = channel::<()>();
        nothing.recv_timeout(time).expect_err("nothing is sent");
    }

    async fn hang(&self) -> Infallible {
        loop {
            self.pause(PATIENCE).await;
        }
    }
}

/// Limits the wait of every read to [`PATIENCE`].
pub(crate) fn limited(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
    stream
}

/// The result of a future on a connection of this thread.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a task's connection is used by a thread"),
    }
}
