//! One client's connection: from the greeting to the last reply.
//!
//! The protocol is [`chasqui_protocol::smtp::server`]'s; here are the decisions (who may relay, is there room), the
//! way of the message into the spool, and the time limits. Nothing is answered 250 before the spool has committed.

use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use chasqui_protocol::deadline::MailDeadline;
use chasqui_protocol::smtp::address::Mailbox;
use chasqui_protocol::smtp::dsn::{Parameters, RcptParameters};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{BodyInfo, Event, MailRequest, RcptRequest, Session};
use chasqui_protocol::trace::{HopCounter, Received};
use chasqui_runtime::net::{self, TcpStream};
use chasqui_runtime::sync::Notified;
use chasqui_runtime::{Elapsed, timeout, turn_time, wall_clock};

use super::policy::{self, Client};
use super::rates::Counted;
use super::space::{PeerSpace, Share};
use super::{Server, admission};
use crate::context::Context;
use crate::spool::{Envelope, Reservation, SpoolError, Writer};
use crate::tasks::Guard;

/// Octets of a Received field, by a wide margin.
const TRACE_MAX: u64 = 4096;
/// Octets that an address takes beside its text.
const ADDRESS_OCTETS: usize = 64;
/// How long is read what a client goes on to send after its session was ended.
const LINGER: Duration = Duration::from_secs(5);

/// A transaction between MAIL and the end of its message.
struct Transaction {
    /// Of an earlier message, perhaps: with these recipients at its start, and more behind them.
    envelope: Rc<Envelope>,
    recipients: usize,
    /// What was said of notifications, if anything.
    dsn: Option<Box<Parameters>>,
    /// What SIZE said, or 0.
    declared: u64,
    /// Of the peer's part of the spool's space. Both from the first recipient on.
    share: Share,
    reservation: Option<Reservation>,
    message: Option<Incoming>,
}

/// A message on its way into the spool.
struct Incoming {
    writer: Writer,
    hops: HopCounter,
    /// Octets of what we put in front.
    trace: u64,
    /// A piece of it has come.
    begun: bool,
    /// Why it cannot be kept; the rest is read and thrown away.
    failure: Option<SpoolError>,
}

/// What becomes of the connection after a piece of input.
enum Next {
    Read,
    Close,
    /// The session was ended while the client may be sending.
    Abort,
}

/// What is left to do of an event.
enum Step<'a> {
    Go,
    Flush,
    Data,
    Body(&'a [u8]),
    BodyEnd(BodyInfo),
    Done(Next),
}

/// Serves a connection until it ends. `_counted` keeps it counted among the sessions.
pub(super) async fn serve(server: Rc<Server>, stream: TcpStream, client: Client, _counted: Guard) {
    let Client { peer, may_relay } = client;
    let limits = &server.context.config.limits;
    let mut connection = Connection {
        space: server.space.of(peer, may_relay),
        deadline: MailDeadline::new(limits.idle, (!may_relay).then_some(limits.without_mail)),
        session: Session::new(server.options.clone()),
        client,
        transaction: None,
        server,
        stream,
        trace: Vec::new(),
        id: String::new(),
    };
    if connection.stream.has_unread() {
        connection.session.spoken_early();
    }
    // A connection that fails is closed; what it had not finished is forgotten, as the client knows.
    let _lost = connection.run().await;

    connection.stream.shutdown();
}

struct Connection {
    server: Rc<Server>,
    stream: TcpStream,
    client: Client,
    space: Rc<PeerSpace>,
    /// For what the client is sending.
    deadline: MailDeadline,
    session: Session,
    transaction: Option<Transaction>,
    /// The Received field, and a text with the message's id: for that field, or for the reply. Kept for their memory.
    trace: Vec<u8>,
    id: String,
}

/// What a session waits for. What the client sends has a deadline as a whole ([`MailDeadline`]).
enum Input {
    Piece(net::Received),
    Silence,
    Drain,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        let notify = self.server.context.drain_begins.clone();
        let mut drain = pin!(notify.notified());
        loop {
            let drained = self.server.context.is_draining();
            if drained && !self.session.is_in_transaction() {
                self.session.close_with(&shutting_down());
                return self.finish().await;
            }
            self.flush().await?;
            match self.input(drain.as_mut(), drained).await? {
                Input::Drain => {}
                Input::Silence => {
                    let why = self.deadline.passed(self.session.is_receiving_body());
                    self.session.close_with(&Reply::new(421, "4.4.2", why));
                    return self.finish().await;
                }
                Input::Piece(piece) if piece.is_empty() => return self.finish().await,
                Input::Piece(piece) => {
                    if self.session.is_receiving_body() {
                        self.deadline.received(piece.len());
                    }
                    match self.handle(&piece).await? {
                        // Whatever is complete has its reply.
                        Next::Read if !self.session.output().is_empty() => self.deadline.renew(),
                        Next::Read => {}
                        Next::Close => return self.finish().await,
                        Next::Abort => {
                            self.finish().await?;
                            return self.linger().await;
                        }
                    }
                }
            }
        }
    }

    /// Sends what has been answered, in one write.
    async fn flush(&mut self) -> io::Result<()> {
        if self.session.must_wait() && self.stream.has_received() {
            self.session.spoken_early();
        }
        let limit = self.server.context.config.limits.idle;
        timeout(limit, self.stream.post(self.session.output())).await.map_err(too_slow)?
    }

    /// Sends the last that is answered, and waits until everything is gone. A transaction comes to nothing, so that it holds
    /// nothing meanwhile.
    async fn finish(&mut self) -> io::Result<()> {
        self.transaction = None;
        let limit = self.server.context.config.limits.idle;
        let output = std::mem::take(self.session.output());
        timeout(limit, self.stream.write_all(output)).await.map_err(too_slow)?.map(drop)
    }

    /// Reads on until the client has heard why: to close on what it sends would reset the connection, and take the reply
    /// from it.
    async fn linger(&self) -> io::Result<()> {
        self.stream.shutdown();
        let unheard = async { while self.stream.read().await.is_ok_and(|piece| !piece.is_empty()) {} };
        let _slow = timeout(LINGER, unheard).await;
        Ok(())
    }

    async fn input(&mut self, mut drain: Pin<&mut Notified>, drained: bool) -> io::Result<Input> {
        let mut read = pin!(self.stream.read());
        let either = poll_fn(|context| {
            if let Poll::Ready(piece) = read.as_mut().poll(context) {
                return Poll::Ready(piece.map(Input::Piece));
            }
            if !drained && drain.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(Input::Drain));
            }
            Poll::Pending
        });
        let begun = turn_time();
        let input = timeout(self.deadline.left(self.session.is_receiving_body()), either)
            .await
            .unwrap_or(Ok(Input::Silence));
        self.deadline.waited(turn_time() - begun);
        input
    }

    async fn handle(&mut self, mut rest: &[u8]) -> io::Result<Next> {
        loop {
            let (used, event) = self.session.handle_input(rest);
            rest = &rest[used..];
            match self.step(event) {
                Step::Go => {}
                Step::Done(next) => return Ok(next),
                Step::Flush => {
                    self.flush().await?;
                    self.deadline.renew();
                }
                Step::Data => {
                    self.data().await;
                    self.deadline.begin_message(self.server.context.config.limits.message_time);
                }
                Step::Body(piece) => {
                    if let Some(Transaction { message: Some(message), share, .. }) = &mut self.transaction {
                        message.cover(piece.len(), share, &self.server);
                        message.write(piece, self.server.context.config.hostname.as_str()).await;
                    }
                }
                Step::BodyEnd(info) => self.body_end(info).await,
            }
        }
    }

    /// Does what needs no waiting. An event is large, and kept by none who waits.
    fn step<'a>(&mut self, event: Event<'a>) -> Step<'a> {
        match event {
            Event::NeedInput => return Step::Done(Next::Read),
            Event::Quit => return Step::Done(Next::Close),
            Event::TooManyErrors => return Step::Done(Next::Abort),
            Event::OutputFull => return Step::Flush,
            Event::Data => return Step::Data,
            Event::Body(piece) => return Step::Body(piece),
            Event::BodyEnd(info) => return Step::BodyEnd(info),
            Event::Hello { .. } => {}
            Event::Mail(request) => self.mail(request),
            Event::Rcpt(request) => self.rcpt(request),
            Event::BodyRefused | Event::Reset => self.transaction = None,
        }
        Step::Go
    }

    fn mail(&mut self, request: MailRequest<'_>) {
        if self.server.context.spool.sealed().is_some() {
            return self.session.reject(&refusal(&SpoolError::Closed));
        }
        if let Some(shortage) = admission::shortage(&self.server) {
            return self.session.reject(&Reply::new(452, "4.3.1", shortage));
        }
        // Compared alone (RFC 1870 section 6.1): space is kept for those who have a recipient.
        let declared = request.size.unwrap_or(0);
        if let Err(error) = self.server.context.spool.check_room(declared) {
            return self.session.reject(&refusal(&error));
        }
        if !self.server.shared.rates.take(Counted::Message, self.client.peer, self.client.may_relay) {
            return self.session.reject(&too_many("messages"));
        }
        let dsn = (!request.dsn.is_empty())
            .then(|| Box::new(Parameters { mail: request.dsn, recipients: Vec::new() }));
        self.server.shared.memory.take(dsn.as_ref().map_or(0, |dsn| dsn.octets()));
        self.transaction = Some(Transaction {
            envelope: self.server.context.envelopes.take(request.reverse_path.as_str()),
            recipients: 0,
            dsn,
            declared,
            share: Share::new(&self.space),
            reservation: None,
            message: None,
        });
        self.session.accept();
    }

    fn rcpt(&mut self, request: RcptRequest<'_>) {
        if let Err(reply) = policy::decide(self.client, &request) {
            return self.session.reject(&reply);
        }
        let Some(transaction) = &mut self.transaction else { return self.session.reject(&no_transaction()) };
        // Before space is kept: who has sent too much keeps none.
        if !self.server.shared.rates.take(Counted::Recipient, self.client.peer, self.client.may_relay) {
            return self.session.reject(&too_many("recipients"));
        }
        if let Err(reply) = transaction.admit_recipient(&self.server) {
            return self.session.reject(&reply);
        }
        match request.postmaster {
            true => transaction.add_postmaster(request, &self.server),
            false => transaction.add_recipient(request.mailbox, request.dsn, &self.server),
        }
        self.session.accept();
    }

    async fn data(&mut self) {
        let Some(transaction) = &mut self.transaction else { return self.session.reject(&no_transaction()) };
        if self.server.shared.memory.is_short() {
            return self.session.reject(&Reply::new(452, "4.3.1", admission::MEMORY));
        }
        let writer = self.server.context.spool.begin(transaction.reservation.take());
        self.id.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.id, "{}", writer.id());
        let hello = self.session.hello();
        let mut trace = std::mem::take(&mut self.trace);
        trace.clear();
        Received {
            helo: hello.map_or("unknown", |hello| &hello.name),
            peer: self.client.peer,
            host: self.server.context.config.hostname.as_str(),
            esmtp: hello.is_some_and(|hello| hello.esmtp),
            id: &self.id,
            time: wall_clock(),
        }
        .write(&mut trace);
        let (hops, octets) = (HopCounter::new(), trace.len() as u64);
        let mut message = Incoming { writer, hops, trace: octets, begun: false, failure: None };
        message.keep(&trace).await;
        trace.clear();
        self.trace = trace;
        transaction.message = Some(message);
        self.session.accept();
    }

    async fn body_end(&mut self, info: BodyInfo) {
        match self.take_message(info).await {
            Ok(()) => {
                let without_mail = self.server.context.config.limits.without_mail;
                self.deadline.mail_accepted((!self.client.may_relay).then_some(without_mail));
                self.session.accept_message(&self.id);
            }
            Err(reply) => self.session.reject(&reply),
        }
    }

    /// Commits the message and hands it to the queue. The text of the 250 is in `id` on success.
    async fn take_message(&mut self, info: BodyInfo) -> Result<(), Reply> {
        let no_message = || Reply::new(451, "4.3.0", "No message");
        let transaction = self.transaction.take().ok_or_else(no_message)?;
        let Incoming { writer, hops, trace, failure, .. } = transaction.message.ok_or_else(no_message)?;
        if let Some(failure) = failure {
            return Err(refusal(&failure));
        }
        let limits = &self.server.context.config.limits;
        if hops.hops() >= limits.hops {
            return Err(Reply::new(554, "5.4.6", "Too many Received fields: the message loops"));
        }
        if hops.own_hops() > limits.own_hops {
            return Err(Reply::new(554, "5.4.6", "Too many Received fields of ours: the message loops"));
        }
        let mut envelope = transaction.envelope;
        let BodyInfo { size, eight_bit, form } = info;
        let filled = Rc::make_mut(&mut envelope);
        filled.recipients.truncate(transaction.recipients);
        (filled.arrived_ms, filled.lead_ms) = self.server.context.clock.stamp();
        filled.size = trace + size;
        (filled.eight_bit, filled.form, filled.dsn) = (eight_bit, form, transaction.dsn);
        let id = writer.commit(&envelope).await.map_err(|failure| refusal(&failure))?;
        self.server.context.counters.accept(envelope.recipients.len());
        let Context { queue, router, clock, .. } = &*self.server.context;
        queue.borrow_mut().submit(router, id, envelope, clock.now_ms());
        self.id.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.id, "Ok: queued as {id}");
        Ok(())
    }
}

impl Transaction {
    /// Whether there is room for one more recipient; the first one has space kept for the message.
    fn admit_recipient(&mut self, server: &Server) -> Result<(), Reply> {
        if server.shared.memory.is_short() {
            return Err(Reply::new(452, "4.3.1", admission::MEMORY));
        }
        if self.reservation.is_none() {
            // With what we put in front.
            if !self.share.cover(self.declared + TRACE_MAX, || server.context.spool.free()) {
                return Err(refusal(&SpoolError::NoSpace));
            }
            self.reservation =
                Some(server.context.spool.reserve(self.declared).map_err(|error| refusal(&error))?);
        }
        Ok(())
    }

    fn add_recipient(&mut self, mailbox: Mailbox<'_>, dsn: RcptParameters, server: &Server) {
        if !dsn.is_empty() {
            let said = &mut self.dsn.get_or_insert_default().recipients;
            let silent = self.recipients - said.len();
            server.shared.memory.take(silent * size_of::<RcptParameters>() + dsn.octets());
            said.resize(self.recipients, RcptParameters::default());
            said.push(dsn);
        }
        let recipients = &mut Rc::make_mut(&mut self.envelope).recipients;
        match recipients.get_mut(self.recipients) {
            Some(spent) => mailbox.as_str().clone_into(spent),
            None => {
                server.shared.memory.take(mailbox.as_str().len() + ADDRESS_OCTETS);
                recipients.push(mailbox.into_string());
            }
        }
        self.recipients += 1;
    }

    /// Adds the postmaster at the address that is configured, if one is; once, so that nobody can have a thousand copies
    /// sent there.
    fn add_postmaster(&mut self, request: RcptRequest<'_>, server: &Server) {
        let configured = server.context.config.postmaster.as_ref();
        let configured = configured.and_then(|address| address.as_str().parse().ok());
        let mailbox = configured.unwrap_or(request.mailbox);
        let others = &self.envelope.recipients[..self.recipients];
        if !others.iter().any(|other| other.eq_ignore_ascii_case(mailbox.as_str())) {
            self.add_recipient(mailbox, request.dsn, server);
        }
    }
}

impl Incoming {
    /// Has the peer's share cover `more` octets; if it may not, the message fails.
    fn cover(&mut self, more: usize, share: &mut Share, server: &Server) {
        let length = self.writer.len() + more as u64;
        if self.failure.is_none() && !share.cover(length, || server.context.spool.free()) {
            self.failure = Some(SpoolError::NoSpace);
        }
    }

    async fn write(&mut self, piece: &[u8], host: &str) {
        if !std::mem::replace(&mut self.begun, true) && matches!(piece.first(), Some(b' ' | b'\t')) {
            // It would go on with our Received field. Behind an empty line it is text.
            const EMPTY_LINE: &[u8] = b"\r\n";
            self.hops.push(EMPTY_LINE, host);
            self.trace += EMPTY_LINE.len() as u64;
            self.keep(EMPTY_LINE).await;
        }
        self.hops.push(piece, host);
        self.keep(piece).await;
    }

    async fn keep(&mut self, bytes: &[u8]) {
        if self.failure.is_none() {
            self.failure = self.writer.write(bytes).await.err();
        }
    }
}

/// The reply to a command that needs a transaction.
fn no_transaction() -> Reply {
    Reply::new(503, "5.5.1", "No transaction")
}

/// The reply to a client whose message the spool does not take.
fn refusal(error: &SpoolError) -> Reply {
    match error {
        SpoolError::NoSpace => Reply::new(452, "4.3.1", "Insufficient system storage"),
        SpoolError::TooLarge => Reply::new(552, "5.3.4", "Message exceeds what the spool can hold"),
        SpoolError::RawBody => Reply::new(554, "5.6.1", "Raw bodies are not supported"),
        SpoolError::DiskFails(_) | SpoolError::Sealed(_) | SpoolError::Closed => {
            Reply::new(451, "4.3.0", "Mail system failure, try again later")
        }
    }
}

/// The reply to a peer that sends more a minute than it may.
fn too_many(what: &str) -> Reply {
    Reply::new(452, "4.7.0", format!("Too many {what} from your address, try again later"))
}

/// The reply with which a connection ends when the relay does.
pub(super) fn shutting_down() -> Reply {
    Reply::new(421, "4.3.2", "Shutting down")
}

fn too_slow(_: Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Rc<Server>, TcpStream, Client, Guard) -> F) -> usize {
        size_of::<F>()
    }

    /// A session's future stays small: every connection holds one, idle or not.
    #[test]
    fn size_of_a_session() {
        assert!(size(serve) <= 1700, "{}", size(serve));
    }
}
