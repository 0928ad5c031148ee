//! The server's end of an SMTP connection: a stream and [`smtp::server`](chasqui_protocol::smtp::server) together, with the time limits.
//!
//! [`ServerConnection::next_event`] reads, feeds, flushes and keeps the limits; what a client asks for is decided by whoever
//! asks for the events.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use chasqui_protocol::deadline::MailDeadline;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{self, Event, Hello, Session};
use chasqui_runtime::net::Received;
use chasqui_runtime::sync::Notified;
use chasqui_runtime::{timeout, turn_time};

use crate::drain::Drain;
use crate::stream::Stream;
use crate::tls::{Agreed, EXPORTED_OCTETS, HANDSHAKE_LIMIT, HandshakeError, ServerTls};

/// How long a client may take (RFC 5321 section 4.5.3.2.7 asks for 5 minutes between commands).
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// For a command line, for a pause within a message, and for taking what it is answered.
    pub idle: Duration,
    /// For a message as a whole.
    pub message: Duration,
    /// Until the next message is accepted; none: for ever.
    pub without_mail: Option<Duration>,
}

/// A client's connection, from the greeting to the last reply.
pub struct ServerConnection {
    stream: Stream,
    session: Session,
    limits: Rc<TimeLimits>,
    /// For what the client is sending.
    deadline: MailDeadline,
    drain: Drain,
    drained: Notified,
    /// What the client has sent last, used up to `used`.
    input: Option<Received>,
    used: usize,
    next: Next,
    /// The session was ended while the client may be sending.
    is_aborted: bool,
}

/// What the next event needs before the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    /// More input.
    Input,
    /// That the client takes what it was answered.
    Flush,
}

/// What a wait for the client ends with.
enum Woken {
    Piece(Received),
    Silence,
    Drain,
}

impl ServerConnection {
    /// A connection that has just been accepted, and is in TLS already where TLS comes first. When `drain` begins it ends, as soon as it is in no transaction.
    pub fn new(
        stream: Stream,
        options: Rc<server::Options>,
        limits: Rc<TimeLimits>,
        drain: Drain,
    ) -> ServerConnection {
        let mut session = Session::new(options);
        if stream.agreed().is_some() {
            session.secured(stream.exporter().is_some());
        }
        if stream.has_unread() {
            session.spoken_early();
        }
        ServerConnection {
            deadline: MailDeadline::new(limits.idle, limits.without_mail),
            drained: drain.notified(),
            stream,
            session,
            limits,
            drain,
            input: None,
            used: 0,
            next: Next::Input,
            is_aborted: false,
        }
    }

    /// Waits for what the client wants.
    ///
    /// [`Event::NeedInput`] and [`Event::OutputFull`] are dealt with by the next call. [`Event::Quit`] and
    /// [`Event::TooManyErrors`] say that it is over, also because the client is gone, was silent for too long, or because of the
    /// drain: [`ServerConnection::close`] is next. An event that is to be decided is decided before the next call. An error
    /// is that of the stream, which is of no more use.
    pub async fn next_event(&mut self) -> io::Result<Event<'_>> {
        match self.next {
            Next::Nothing => {}
            Next::Input => {
                if !self.fill().await? {
                    return Ok(Event::Quit);
                }
            }
            Next::Flush => {
                self.flush().await?;
                self.deadline.renew();
            }
        }
        let input = self.input.as_deref().unwrap_or_default();
        let (used, event) = self.session.handle_input(&input[self.used..]);
        self.used += used;
        self.next = match event {
            Event::NeedInput => Next::Input,
            Event::OutputFull => Next::Flush,
            _ => Next::Nothing,
        };
        self.is_aborted = matches!(event, Event::TooManyErrors);
        Ok(event)
    }

    /// Goes over to TLS after [`Event::StartTls`]. A client that has said more by then is refused by the next event instead.
    /// After an error the connection is of no more use.
    pub async fn start_tls(&mut self, tls: &ServerTls) -> Result<(), HandshakeError> {
        let is_used_up = self.input.as_ref().is_none_or(|input| input.len() == self.used);
        if !is_used_up || self.stream.has_received() {
            return Ok(());
        }
        self.release_input();
        // Few connections stand here at a time; none keeps room for it.
        Box::pin(async {
            let late = || HandshakeError::Connection(io::ErrorKind::TimedOut.into());
            let output = std::mem::take(self.session.output());
            let limit = self.limits.idle.min(HANDSHAKE_LIMIT);
            timeout(limit, self.stream.write_all(output)).await.map_err(|_| late())??;
            self.stream.accept_tls(tls, limit, &self.drain).await
        })
        .await?;
        self.session.secured(self.stream.exporter().is_some());
        self.next = Next::Input;
        Ok(())
    }

    /// Another client speaks from now on (XCLIENT), and these are its limits.
    pub fn begin_anew(&mut self, limits: Rc<TimeLimits>) {
        self.deadline = MailDeadline::new(limits.idle, limits.without_mail);
        self.limits = limits;
    }

    /// Goes on with AUTH: see [`Session::challenge`].
    pub fn challenge(&mut self, octets: &[u8]) {
        self.session.challenge(octets);
    }

    /// See [`Stream::exporter`].
    pub fn exporter(&self) -> Option<[u8; EXPORTED_OCTETS]> {
        self.stream.exporter()
    }

    /// What was agreed on for TLS; none: the connection is plain.
    pub fn agreed(&self) -> Option<Agreed> {
        self.stream.agreed()
    }

    /// Gives a buffer that is used up back to the shard: for whoever is about to wait long before a decision.
    pub fn release_input(&mut self) {
        if self.input.as_ref().is_some_and(|input| input.len() == self.used) {
            (self.input, self.used) = (None, 0);
        }
    }

    /// What the client called itself, once it has.
    pub fn hello(&self) -> Option<&Hello> {
        self.session.hello()
    }

    /// Decides MAIL, RCPT or DATA in the client's favour.
    pub fn accept(&mut self) {
        self.session.accept();
        if self.session.is_receiving_body() {
            self.deadline.begin_message(self.limits.message);
        }
    }

    /// Takes the message: 250 2.0.0 and this text of one line.
    pub fn accept_message(&mut self, text: &str) {
        self.deadline.mail_accepted(self.limits.without_mail);
        self.session.accept_message(text);
    }

    /// Refuses what is to be decided.
    pub fn reject(&mut self, reply: &Reply) {
        self.session.reject(reply);
    }

    /// Sends the last that is answered, and waits until everything is gone, and a client that may be sending has heard it. What
    /// a transaction holds is given back before.
    pub async fn close(&mut self) -> io::Result<()> {
        (self.input, self.used) = (None, 0);
        let output = std::mem::take(self.session.output());
        timeout(self.limits.idle, self.stream.write_last(output))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        if self.is_aborted {
            self.stream.linger().await;
        }
        Ok(())
    }

    /// See [`Stream::shutdown`].
    pub fn shutdown(&self) {
        self.stream.shutdown();
    }

    /// Sends what is answered, then waits for more input; false: it is over.
    async fn fill(&mut self) -> io::Result<bool> {
        (self.input, self.used) = (None, 0);
        if !self.session.output().is_empty() {
            // Whatever is complete has its reply.
            self.deadline.renew();
        }
        loop {
            if self.drain.has_begun() && !self.session.is_in_transaction() {
                self.session.close_with(&Reply::new(421, "4.3.2", "Shutting down"));
                return Ok(false);
            }
            self.flush().await?;
            match self.wait().await? {
                Woken::Drain => {}
                Woken::Silence => {
                    let why = self.deadline.passed(self.session.is_receiving_body());
                    self.session.close_with(&Reply::new(421, "4.4.2", why));
                    return Ok(false);
                }
                Woken::Piece(piece) if piece.is_empty() => return Ok(false),
                Woken::Piece(piece) => {
                    if self.session.is_receiving_body() {
                        self.deadline.received(piece.len());
                    }
                    self.input = Some(piece);
                    return Ok(true);
                }
            }
        }
    }

    /// Sends what has been answered, in one write. A reply that is not taken has one deadline.
    async fn flush(&mut self) -> io::Result<()> {
        if self.session.must_wait() && self.stream.has_received() {
            self.session.spoken_early();
        }
        let posted = timeout(self.limits.idle, self.stream.post(self.session.output())).await;
        posted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits for input until its deadline. Within a transaction a drain waits for its end.
    async fn wait(&mut self) -> io::Result<Woken> {
        let is_receiving_body = self.session.is_receiving_body();
        let may_drain = !self.session.is_in_transaction();
        let drained = &mut self.drained;
        let mut read = pin!(self.stream.read());
        let either = poll_fn(|context| {
            if let Poll::Ready(piece) = read.as_mut().poll(context) {
                return Poll::Ready(piece.map(Woken::Piece));
            }
            if may_drain && Pin::new(&mut *drained).poll(context).is_ready() {
                return Poll::Ready(Ok(Woken::Drain));
            }
            Poll::Pending
        });
        let begun = turn_time();
        let woken = timeout(self.deadline.left(is_receiving_body), either).await;
        self.deadline.waited(turn_time() - begun);
        woken.unwrap_or(Ok(Woken::Silence))
    }
}
