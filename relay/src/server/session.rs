//! One client's connection: from the greeting to the last reply.
//!
//! The protocol and its time limits are [`ServerConnection`]'s; here are the decisions (who may relay, is there room), and the
//! way of the message into the spool. Nothing is answered 250 before the spool has committed.

use std::fmt::Write as _;
use std::io;
use std::rc::Rc;

use chasqui_protocol::smtp::address::Mailbox;
use chasqui_protocol::smtp::dsn::{Parameters, RcptParameters};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{
    AuthRequest, BodyInfo, Event, Hello, MailRequest, RcptRequest, Said, XclientRequest,
};
use chasqui_protocol::trace::{HopCounter, Received};
use chasqui_runtime::wall_clock;
use chasqui_transport::Stream;
use chasqui_transport::smtp_server::ServerConnection;
use chasqui_transport::tls::{Agreed, HANDSHAKE_LIMIT};

use super::auth::{Authenticated, Authentication, Identity};
use super::connection_limits::Place;
use super::policy::{self, Client, Speaker};
use super::rates::Counted;
use super::space::{PeerSpace, Share};
use super::{Server, admission};
use crate::config::ListenerKind;
use crate::context::Context;
use crate::spool::{Envelope, Reservation, SpoolError, Writer};

/// Octets of a Received field, by a wide margin.
const TRACE_MAX: u64 = 4096;
/// Octets that an address takes beside its text.
const ADDRESS_OCTETS: usize = 64;

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

/// What is left to do of an event.
enum Step<'a> {
    Go,
    Accept,
    Reject(Reply),
    StartTls,
    Xclient(Box<XclientRequest>),
    Auth(AuthRequest),
    AuthResponse(Vec<u8>),
    Data,
    Body(&'a [u8]),
    BodyEnd(BodyInfo),
    Close,
}

/// Serves a connection until it ends.
pub(super) async fn serve(server: Rc<Server>, stream: Stream, speaker: Box<Speaker>, place: Place) {
    let mut stream = stream;
    if speaker.listener.kind == ListenerKind::Submissions
        && let Some(tls) = &server.shared.tls
        && stream.accept_tls(tls, HANDSHAKE_LIMIT, &server.context.drain).await.is_err()
    {
        return;
    }
    let options = server.options[speaker.listener.kind as usize][usize::from(speaker.may_xclient)].clone();
    let drain = server.context.drain.clone();
    let mut connection = ServerConnection::new(stream, options, server.limits_of(&speaker.client), drain);
    let mut session = Session {
        space: server.space.of(speaker.client.peer, speaker.client.may_relay),
        client: speaker.client,
        speaker,
        transaction: None,
        agreed: connection.agreed(),
        authentication: None,
        identity: None,
        server,
        trace: Vec::new(),
        id: String::new(),
    };
    // A connection that fails is closed; what it had not finished is forgotten, as the client knows.
    let _lost = session.run(&mut connection, &place).await;

    connection.shutdown();
}

struct Session {
    server: Rc<Server>,
    speaker: Box<Speaker>,
    client: Client,
    space: Rc<PeerSpace>,
    transaction: Option<Transaction>,
    /// None: the connection is plain.
    agreed: Option<Agreed>,
    /// An exchange under way, and the user that the client has proved to be.
    authentication: Option<Box<Authentication>>,
    identity: Option<Box<Identity>>,
    /// The Received field, and a text with the message's id: for that field, or for the reply. Kept for their memory.
    trace: Vec<u8>,
    id: String,
}

impl Session {
    async fn run(&mut self, connection: &mut ServerConnection, place: &Place) -> io::Result<()> {
        loop {
            match self.step(connection.next_event().await?) {
                Step::Go => {}
                Step::Accept => connection.accept(),
                Step::Reject(reply) => connection.reject(&reply),
                Step::StartTls => {
                    // It was offered because there are certificates. A handshake that fails ends the session.
                    let Some(tls) = &self.server.shared.tls else { return Ok(()) };
                    connection.start_tls(tls).await.map_err(io::Error::other)?;
                    self.agreed = connection.agreed();
                    self.identity = None;
                }
                Step::Xclient(request) => self.speak_for(*request, connection, place),
                Step::Auth(request) => {
                    let Some(auth) = self.server.shared.auth.clone() else { return Ok(()) };
                    let (peer, exporter) = (self.client.peer, connection.exporter());
                    // A password may be verified for long, and the buffer is the shard's.
                    connection.release_input();
                    // Few sessions stand here at a time; none keeps room for it.
                    let begun = Box::pin(Authentication::begin(&auth, peer, request, exporter)).await;
                    self.authenticated(connection, begun);
                }
                Step::AuthResponse(response) => {
                    let Some(under_way) = self.authentication.take() else { return Ok(()) };
                    connection.release_input();
                    let answered = Box::pin(under_way.response(&response)).await;
                    self.authenticated(connection, answered);
                }
                Step::Data => match self.data(connection.hello()).await {
                    Ok(()) => connection.accept(),
                    Err(reply) => connection.reject(&reply),
                },
                Step::Body(piece) => {
                    if let Some(Transaction { message: Some(message), share, .. }) = &mut self.transaction {
                        message.cover(piece.len(), share, &self.server);
                        message.write(piece, self.server.context.config.hostname.as_str()).await;
                    }
                }
                Step::BodyEnd(info) => match self.take_message(info).await {
                    Ok(()) => connection.accept_message(&self.id),
                    Err(reply) => connection.reject(&reply),
                },
                Step::Close => {
                    // It comes to nothing, and holds nothing while the last words are on their way.
                    self.transaction = None;
                    return connection.close().await;
                }
            }
        }
    }

    /// Does what needs no waiting. An event is large, and kept by none who waits.
    fn step<'a>(&mut self, event: Event<'a>) -> Step<'a> {
        let decision = match event {
            Event::NeedInput | Event::OutputFull | Event::Hello { .. } => return Step::Go,
            Event::Quit | Event::TooManyErrors => return Step::Close,
            Event::StartTls => return Step::StartTls,
            Event::Xclient(request) => return Step::Xclient(Box::new(request)),
            Event::Auth(request) => return Step::Auth(request),
            Event::AuthResponse(response) => return Step::AuthResponse(response),
            Event::AuthCancelled => {
                self.authentication = None;
                return Step::Go;
            }
            Event::Data => return Step::Data,
            Event::Body(piece) => return Step::Body(piece),
            Event::BodyEnd(info) => return Step::BodyEnd(info),
            Event::BodyRefused | Event::Reset => {
                self.transaction = None;
                return Step::Go;
            }
            Event::Mail(request) => self.mail(request),
            Event::Rcpt(request) => self.rcpt(request),
        };
        decision.map_or_else(Step::Reject, |()| Step::Accept)
    }

    /// Serves another client from now on, as if that had just connected.
    fn speak_for(&mut self, request: XclientRequest, connection: &mut ServerConnection, place: &Place) {
        let client = self.speaker.speaks_for(&self.server.context.config, self.client, &request.address);
        if let Err(reached) = place.pass_to(&client) {
            return connection.reject(&Reply::new(421, "4.7.0", reached.to_string()));
        }
        self.client = client;
        self.space = self.server.space.of(client.peer, client.may_relay);
        match request.name {
            Said::Value(name) => self.speaker.client_name = Some(name),
            Said::Unknown => self.speaker.client_name = None,
            // Another address has another name.
            Said::Nothing if request.address != Said::Nothing => self.speaker.client_name = None,
            Said::Nothing => {}
        }
        (self.transaction, self.authentication, self.identity) = (None, None, None);
        connection.begin_anew(self.server.limits_of(&client));
        connection.accept();
    }

    /// Tells the client what came of its exchange, or asks it on.
    fn authenticated(&mut self, connection: &mut ServerConnection, authenticated: Authenticated) {
        match authenticated {
            Authenticated::Challenge(under_way, octets) => {
                self.authentication = Some(Box::new(under_way));
                connection.challenge(&octets);
            }
            Authenticated::Yes(identity) => {
                self.identity = Some(Box::new(identity));
                connection.accept();
            }
            Authenticated::No(reply) => connection.reject(&reply),
        }
    }

    fn mail(&mut self, request: MailRequest<'_>) -> Result<(), Reply> {
        policy::decide_sender(self.identity.as_deref(), &request.reverse_path)?;
        if self.server.context.spool.failed().is_some() {
            return Err(refusal(&SpoolError::Closed));
        }
        if let Some(shortage) = admission::shortage(&self.server) {
            return Err(Reply::new(452, "4.3.1", shortage));
        }
        // Compared alone (RFC 1870 section 6.1): space is kept for those who have a recipient.
        let declared = request.size.unwrap_or(0);
        self.server.context.spool.check_room(declared).map_err(|error| refusal(&error))?;
        if !self.may_have_more(Counted::Message) {
            return Err(too_many("messages"));
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
        Ok(())
    }

    /// Counts one more of the peer's and of the user's, if they may have that.
    fn may_have_more(&self, what: Counted) -> bool {
        let shared = &self.server.shared;
        let of_user = || match (&self.identity, &shared.auth) {
            (Some(identity), Some(auth)) => {
                let limits = &identity.user.limits;
                let limit = match what {
                    Counted::Message => limits.messages_per_minute,
                    Counted::Recipient => limits.recipients_per_minute,
                };
                auth.rates.take_of_user(what, limit, &identity.name)
            }
            _ => true,
        };
        let is_trusted = self.client.may_relay || self.identity.is_some();
        shared.rates.take(what, self.client.peer, is_trusted) && of_user()
    }

    fn rcpt(&mut self, request: RcptRequest<'_>) -> Result<(), Reply> {
        policy::decide(self.client, self.identity.as_deref(), &request)?;
        if self.transaction.is_none() {
            return Err(no_transaction());
        }
        // Before space is kept: who has sent too much keeps none.
        if !self.may_have_more(Counted::Recipient) {
            return Err(too_many("recipients"));
        }
        let transaction = self.transaction.as_mut().ok_or_else(no_transaction)?;
        transaction.admit_recipient(&self.server)?;
        match request.postmaster {
            true => transaction.add_postmaster(request, &self.server),
            false => transaction.add_recipient(request.mailbox, request.dsn, &self.server),
        }
        Ok(())
    }

    async fn data(&mut self, hello: Option<&Hello>) -> Result<(), Reply> {
        let transaction = self.transaction.as_mut().ok_or_else(no_transaction)?;
        if self.server.shared.memory.is_short() {
            return Err(Reply::new(452, "4.3.1", admission::MEMORY));
        }
        let writer = self.server.context.spool.begin(transaction.reservation.take());
        self.id.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.id, "{}", writer.id());
        let mut trace = std::mem::take(&mut self.trace);
        trace.clear();
        Received {
            helo: hello.map_or("unknown", |hello| &hello.name),
            peer: self.client.peer,
            name: self.speaker.client_name.as_deref(),
            host: self.server.context.config.hostname.as_str(),
            esmtp: hello.is_some_and(|hello| hello.esmtp),
            tls: self.agreed.map(|agreed| (agreed.version, agreed.cipher)),
            authenticated: self.identity.is_some(),
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
        Ok(())
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
        SpoolError::DiskFails(_) | SpoolError::Failed(_) | SpoolError::Closed => {
            Reply::new(451, "4.3.0", "Mail system failure, try again later")
        }
    }
}

/// The reply to a peer that sends more a minute than it may.
fn too_many(what: &str) -> Reply {
    Reply::new(452, "4.7.0", format!("Too many {what} from your address, try again later"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Rc<Server>, Stream, Box<Speaker>, Place) -> F) -> usize {
        size_of::<F>()
    }

    /// A session's future stays small: every connection holds one, idle or not.
    #[test]
    fn size_of_a_session() {
        assert!(size(serve) <= 1700, "{}", size(serve));
    }
}
