//! One SMTP client: what is decided of what it asks for.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use chasqui_protocol::arrival::{Kind, Record};
use chasqui_protocol::smtp::address::Mailbox;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{AuthRequest, Event, Hello, MailRequest, RcptRequest};
use chasqui_protocol::stamp::{Verdict, Verification, parse_reverse_path, recipient_hash};
use chasqui_protocol::trace;
use chasqui_runtime::{now, shard, sleep, wall_clock};
use chasqui_transport::Stream;
use chasqui_transport::smtp_server::ServerConnection;
use chasqui_transport::tls::Agreed;

use super::message::{Incoming, Keep, may_fit};
use super::{Receiver, bounce};
use crate::authentication::{Answer, Authentication};
use crate::mailbox::{DeliverError, Dropped, Origin, delay_of_failure};
use crate::zone::ZoneName;

/// Talks to a client until it leaves, breaks off, or is sent away.
pub(super) async fn serve(stream: Stream, peer: SocketAddr, receiver: &Rc<Receiver>) -> io::Result<()> {
    let is_here = peer.ip().to_canonical().is_loopback();
    let options = if is_here { receiver.options_here.clone() } else { receiver.options.clone() };
    let limits = receiver.time_limits.clone();
    let mut connection = ServerConnection::new(stream, options, limits, receiver.drain.clone());
    let mut client = Client {
        incoming: Incoming::new(receiver.clone(), peer.ip()),
        receiver: receiver.clone(),
        reverse_path: String::new(),
        declared: 0,
        recipients: Vec::new(),
        agreed: connection.agreed(),
        authentication: None,
        failures: 0,
        is_authenticated: false,
        id: String::new(),
        peer,
    };
    loop {
        match client.handle(connection.next_event().await?) {
            Step::Go => {}
            Step::Accept => connection.accept(),
            Step::AcceptMessage => connection.accept_message("Ok"),
            Step::Reject(reply) => connection.reject(&reply),
            Step::Prepare => {
                // Who waits for memory must not sit on a buffer of the shard.
                connection.release_input();
                match client.prepare().await {
                    Ok(is_kept) => {
                        if is_kept {
                            client.write_trace_fields(connection.hello());
                        }
                        connection.accept();
                    }
                    Err(reply) => connection.reject(&reply),
                }
            }
            Step::StartTls => {
                // It was offered because there is a certificate. A handshake that fails ends the session.
                let Some(tls) = &receiver.tls else { return Ok(()) };
                connection.start_tls(tls).await.map_err(io::Error::other)?;
                client.agreed = connection.agreed();
                client.is_authenticated = false;
            }
            Step::Auth(request) => {
                let Some(senders) = &receiver.senders else { return Ok(()) };
                let initial = request.initial.as_deref();
                let (begun, answer) =
                    Authentication::begin(&**senders, connection.exporter(), request.mechanism, initial);
                client.authentication = Some(begun);
                client.answer(answer, &mut connection).await;
            }
            Step::AuthResponse(response) => {
                let (Some(senders), Some(under_way)) = (&receiver.senders, &mut client.authentication) else {
                    return Ok(());
                };
                let answer = under_way.respond(&**senders, &response);
                client.answer(answer, &mut connection).await;
            }
            Step::Close => return connection.close().await,
        }
    }
}

/// What is known of a client, and of the message that it is sending.
struct Client {
    peer: SocketAddr,
    receiver: Rc<Receiver>,
    incoming: Incoming,
    /// Empty is the null reverse-path.
    reverse_path: String,
    /// SIZE of the MAIL command, or 0.
    declared: u64,
    recipients: Vec<Recipient>,
    /// None: the connection is plain.
    agreed: Option<Agreed>,
    /// An exchange under way.
    authentication: Option<Authentication>,
    /// Exchanges that came to nothing.
    failures: u32,
    is_authenticated: bool,
    /// Kept for its memory.
    id: String,
}

/// Where a message goes.
enum Recipient {
    /// Into the mailbox of this address, in lower case.
    Mailbox(String),
    /// Nowhere: it tells of the failure of this message.
    Bounce { run: u64, sequence: u64 },
}

/// What there is to do after an event.
enum Step {
    Go,
    Accept,
    AcceptMessage,
    Reject(Reply),
    /// Memory is needed before DATA is answered.
    Prepare,
    StartTls,
    Auth(AuthRequest),
    AuthResponse(Vec<u8>),
    Close,
}

impl Client {
    fn handle(&mut self, event: Event<'_>) -> Step {
        match event {
            Event::Body(piece) => self.incoming.push(piece),
            Event::Mail(request) => return self.mail(&request),
            Event::Rcpt(RcptRequest { mailbox: address, .. }) => {
                let Some(recipient) = self.recipient(&address) else {
                    self.receiver.count(|stats| stats.refused_recipients += 1);
                    return Step::Reject(refusal(&self.receiver, &address));
                };
                self.recipients.push(recipient);
                return Step::Accept;
            }
            Event::StartTls => return Step::StartTls,
            Event::Data => return Step::Prepare,
            Event::BodyEnd(info) => {
                let delivered = self.deliver(info.size);
                self.incoming.reset();
                let Err(reply) = delivered else { return Step::AcceptMessage };
                self.receiver.count(|stats| stats.refused_messages += 1);
                return Step::Reject(reply);
            }
            Event::BodyRefused => {
                self.receiver.count(|stats| stats.refused_messages += 1);
                self.incoming.reset();
            }
            Event::Quit | Event::TooManyErrors => return Step::Close,
            Event::NeedInput | Event::OutputFull | Event::Hello { .. } | Event::Reset => {}
            Event::Auth(request) => return Step::Auth(request),
            Event::AuthResponse(response) => return Step::AuthResponse(response),
            Event::AuthCancelled => self.authentication = None,
            // XCLIENT is not offered.
            Event::Xclient(_) => {}
        }
        Step::Go
    }

    /// Tells the client how its exchange goes on, or what came of it; of a wrong password after a while.
    async fn answer(&mut self, answer: Answer, connection: &mut ServerConnection) {
        if let Answer::Challenge(octets) = &answer {
            return connection.challenge(octets);
        }
        self.authentication = None;
        let refusal = match answer {
            Answer::User(_) => {
                self.is_authenticated = true;
                return connection.accept();
            }
            Answer::Malformed => Reply::new(501, "5.5.2", "This is no response of the mechanism"),
            Answer::Refused | Answer::Challenge(_) => {
                self.failures += 1;
                connection.release_input();
                sleep(delay_of_failure(self.failures)).await;
                Reply::new(535, "5.7.8", "Authentication credentials invalid")
            }
        };
        self.receiver.count(|stats| stats.refused_logins += 1);
        connection.reject(&refusal);
    }

    fn mail(&mut self, request: &MailRequest<'_>) -> Step {
        request.reverse_path.as_str().clone_into(&mut self.reverse_path);
        self.declared = request.size.unwrap_or(0);
        self.recipients.clear();
        // Compared alone (RFC 1870 section 6.1): memory is taken at DATA.
        match self.receiver.store.is_none() || may_fit(&self.receiver.memory, self.declared) {
            true => Step::Accept,
            false => Step::Reject(Reply::new(552, "5.3.4", "More than there is memory for")),
        }
    }

    fn recipient(&self, address: &Mailbox<'_>) -> Option<Recipient> {
        let domain = address.domain_lower();
        match self.receiver.zone.classify(&domain) {
            ZoneName::Domain(_) | ZoneName::Implicit | ZoneName::ManyMx | ZoneName::Alias => {}
            ZoneName::Bounce => match parse_reverse_path(address.as_str()) {
                Some((run, sequence)) => return Some(Recipient::Bounce { run, sequence }),
                None if self.receiver.config.catch_all => {}
                None => return None,
            },
            // RFC 5321, section 4.5.1: the postmaster of the host itself.
            _ if self.receiver.config.catch_all => {}
            _ if *domain == *self.receiver.config.hostname
                && address.local_part().eq_ignore_ascii_case("postmaster") => {}
            _ => return None,
        }
        Some(Recipient::Mailbox(address.as_str().to_ascii_lowercase()))
    }

    /// Gets ready for a message, once there is memory for it; whether it is kept, and so has trace fields.
    async fn prepare(&mut self) -> Result<bool, Reply> {
        let stored = self.receiver.store.is_some()
            && self.recipients.iter().any(|recipient| matches!(recipient, Recipient::Mailbox(_)));
        let bounced = self.recipients.iter().any(|recipient| matches!(recipient, Recipient::Bounce { .. }));
        let keep = match (stored, bounced) {
            (true, _) => Keep::Everything,
            (false, true) => Keep::Start,
            (false, false) => Keep::Nothing,
        };
        if !self.incoming.begin(keep, self.declared).await {
            self.receiver.count(|stats| stats.refused_messages += 1);
            return Err(Reply::new(452, "4.3.1", "No memory for this message now"));
        }
        Ok(stored)
    }

    /// What a host that makes final delivery adds (RFC 5321, section 4.4).
    fn write_trace_fields(&mut self, hello: Option<&Hello>) {
        let number = self.receiver.next_id.replace(self.receiver.next_id.get() + 1);
        self.id.clear();
        // Writing to a String does not fail.
        let _ = write!(self.id, "{:x}-{number:x}", shard());
        let received = trace::Received {
            helo: hello.map_or("unknown", |hello| &hello.name),
            peer: self.peer.ip(),
            name: None,
            host: &self.receiver.config.hostname,
            esmtp: hello.is_some_and(|hello| hello.esmtp),
            tls: self.agreed.map(|agreed| (agreed.version, agreed.cipher)),
            authenticated: self.is_authenticated,
            id: &self.id,
            time: wall_clock(),
        };
        let reverse_path = &self.reverse_path;
        self.incoming.write_prefix(|bytes| {
            bytes.extend_from_slice(b"Return-Path: <");
            bytes.extend_from_slice(reverse_path.as_bytes());
            bytes.extend_from_slice(b">\r\n");
            received.write(bytes);
        });
    }

    /// Puts the message into every mailbox, then tells of it. When a mailbox refuses, the ones before it
    /// keep their copy, and the client will try all of them again: SMTP has one reply for all.
    fn deliver(&mut self, size: u64) -> Result<(), Reply> {
        let Some(verification) = self.incoming.finish() else {
            return Err(Reply::new(452, "4.3.1", "No memory for a message of this size"));
        };
        // A stamp that was lost or damaged on the way must not make the message a stranger: the envelope names it too.
        let (run, sequence) = match verification.verdict {
            Verdict::NoStamp => parse_reverse_path(&self.reverse_path).unwrap_or_default(),
            _ => (verification.run, verification.sequence),
        };
        let record = Record {
            run,
            sequence,
            recipient: 0,
            time_ns: now().as_nanos(),
            size: u32::try_from(size).unwrap_or(u32::MAX),
            kind: Kind::Delivery,
            verdict: verification.verdict,
        };
        self.store(&record)?;
        let mut bounces = 0;
        for recipient in &self.recipients {
            match recipient {
                Recipient::Mailbox(address) => {
                    let recipient = recipient_hash(address);
                    self.receiver.arrivals.record(&Record { recipient, ..record });
                }
                Recipient::Bounce { run, sequence } => {
                    bounces += 1;
                    self.record_bounce(Record {
                        run: *run,
                        sequence: *sequence,
                        kind: Kind::Bounce,
                        ..record
                    });
                }
            }
        }
        self.count_delivered(size, bounces, &verification);
        Ok(())
    }

    /// Puts the message into the mailboxes, and tells of those that made room for it unread.
    fn store(&self, record: &Record) -> Result<(), Reply> {
        let Some(store) = &self.receiver.store else { return Ok(()) };
        let (date, text, mut dropped) = (wall_clock(), self.incoming.bytes(), Vec::new());
        let mut mailboxes = self.recipients.iter().filter_map(|recipient| match recipient {
            Recipient::Mailbox(address) => Some(address),
            Recipient::Bounce { .. } => None,
        });
        let stored = mailboxes.try_for_each(|address| {
            let recipient = recipient_hash(address);
            let origin = Origin { run: record.run, sequence: record.sequence, recipient };
            store.deliver_from(address, &[text], date, origin, &mut dropped).map(drop)
        });
        for Dropped { origin: Origin { run, sequence, recipient }, size } in &dropped {
            let (run, sequence, recipient, size) = (*run, *sequence, *recipient, *size);
            let (kind, verdict) = (Kind::Dropped, Verdict::Unchecked);
            let time_ns = record.time_ns;
            self.receiver.arrivals.record(&Record { run, sequence, recipient, time_ns, size, kind, verdict });
        }
        self.receiver.count(|stats| stats.dropped_unread += dropped.len() as u64);
        stored.map_err(undeliverable)
    }

    fn record_bounce(&self, record: Record) {
        let record = Record { verdict: Verdict::Unchecked, ..record };
        match bounce::failed_recipients(self.incoming.received()) {
            Some(failed) => {
                for address in failed {
                    self.receiver.arrivals.record(&Record { recipient: recipient_hash(&address), ..record });
                }
            }
            None => self.receiver.arrivals.record(&record),
        }
    }

    fn count_delivered(&self, size: u64, bounces: u64, verification: &Verification) {
        let recipients = self.recipients.len() as u64;
        // A bounce carries no stamp of its own.
        let not_intact = verification.verdict != Verdict::Intact && bounces < recipients;
        self.receiver.count(|stats| {
            stats.messages += 1;
            stats.recipients += recipients;
            stats.bytes += size;
            stats.bounces += bounces;
            stats.not_intact += u64::from(not_intact);
        });
    }
}

fn refusal(receiver: &Receiver, address: &Mailbox<'_>) -> Reply {
    match receiver.zone.classify(&address.domain_lower()) {
        ZoneName::Foreign => Reply::new(550, "5.7.1", "Relaying denied"),
        ZoneName::Bounce => Reply::new(550, "5.1.1", "Not the reverse-path of a message of a run"),
        _ => Reply::new(550, "5.1.2", "No such domain here"),
    }
}

fn undeliverable(error: DeliverError) -> Reply {
    match error {
        DeliverError::Full | DeliverError::TooManyMailboxes => {
            Reply::new(452, "4.2.2", "The mailboxes are full")
        }
        DeliverError::TooLarge => Reply::new(552, "5.3.4", "Too large for a mailbox"),
        DeliverError::Io(error) => {
            log::error!("a mailbox cannot be written: {error}");
            Reply::new(451, "4.3.0", "The mailbox cannot be written")
        }
    }
}
