//! One SMTP client: bytes to events, events to replies.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::arrival::{Kind, Record};
use chasqui_protocol::deadline::MailDeadline;
use chasqui_protocol::smtp::address::Mailbox;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{Event, RcptRequest, Session};
use chasqui_protocol::stamp::{Verdict, Verification, parse_reverse_path, recipient_hash};
use chasqui_protocol::trace;
use chasqui_runtime::net::{Received, TcpStream};
use chasqui_runtime::sync::Notified;
use chasqui_runtime::{Elapsed, now, shard, timeout, turn_time, wall_clock};
use futures_lite::future::or;

use super::message::{Incoming, Keep, may_fit};
use super::{Receiver, bounce};
use crate::mailbox::{DeliverError, Dropped, Origin};
use crate::zone::ZoneName;

/// How long is read what a client goes on to send after its session was ended.
const LINGER: Duration = Duration::from_secs(5);

/// Talks to a client until it leaves, breaks off, or is sent away.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, receiver: &Rc<Receiver>) -> io::Result<()> {
    let mut session = Session::new(receiver.options.clone());
    if stream.has_unread() {
        session.spoken_early();
    }
    let limits = &receiver.config.limits;
    let connection = Connection {
        session,
        incoming: Incoming::new(receiver.clone(), peer.ip()),
        drain: receiver.drain.notified(),
        deadline: MailDeadline::new(limits.idle_timeout, Some(limits.without_mail_timeout)),
        receiver: receiver.clone(),
        reverse_path: String::new(),
        declared: 0,
        recipients: Vec::new(),
        id: String::new(),
        stream,
        peer,
    };
    connection.run().await
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    receiver: Rc<Receiver>,
    session: Session,
    incoming: Incoming,
    drain: Notified,
    /// For what the client is sending.
    deadline: MailDeadline,
    /// Empty is the null reverse-path.
    reverse_path: String,
    /// SIZE of the MAIL command, or 0.
    declared: u64,
    recipients: Vec<Recipient>,
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
enum Next {
    Input,
    /// Memory is needed before DATA is answered.
    Prepare,
    Close,
    /// The session was ended while the client may be sending.
    Abort,
}

/// What a wait ends with.
enum Woken {
    Input(Received),
    Idle,
    Draining,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        loop {
            self.flush().await?;
            let received = match self.wait().await? {
                Woken::Input(received) if received.is_empty() => return self.finish().await,
                Woken::Input(received) => received,
                Woken::Idle => {
                    let why = self.deadline.passed(self.session.is_receiving_body());
                    return self.close("4.4.2", why).await;
                }
                Woken::Draining => return self.close("4.3.2", "Shutting down").await,
            };
            if self.session.is_receiving_body() {
                self.deadline.received(received.len());
            }
            let mut received = Some(received);
            let mut at = 0;
            while let Some(piece) = &received {
                let (used, event) = self.session.handle_input(&piece[at..]);
                at += used;
                match event {
                    Event::NeedInput => break,
                    Event::OutputFull => {
                        self.flush().await?;
                        self.deadline.renew();
                        continue;
                    }
                    _ => {}
                }
                match self.handle(event) {
                    Next::Input => {}
                    Next::Prepare => {
                        // Who waits for memory must not sit on a buffer of the shard.
                        if at == piece.len() {
                            received = None;
                        }
                        self.prepare().await;
                        self.deadline.begin_message(self.receiver.config.limits.message_timeout);
                    }
                    Next::Close => return self.finish().await,
                    Next::Abort => return self.abort().await,
                }
            }
            if !self.session.output().is_empty() {
                self.deadline.renew(); // whatever is complete has its reply
            }
        }
    }

    /// Waits for input, until its deadline. Within a transaction a shutdown waits for it.
    async fn wait(&mut self) -> io::Result<Woken> {
        let between = !self.session.is_in_transaction();
        if between && self.receiver.draining.get() {
            return Ok(Woken::Draining);
        }
        let stream = &self.stream;
        let read = async { stream.read().await.map(Woken::Input) };
        let (begun, limit) = (turn_time(), self.deadline.left(self.session.is_receiving_body()));
        let woken = if between && !self.receiver.draining.get() {
            let drain = async {
                (&mut self.drain).await;
                Ok(Woken::Draining)
            };
            timeout(limit, or(read, drain)).await
        } else {
            timeout(limit, read).await
        };
        self.deadline.waited(turn_time() - begun);
        woken.unwrap_or_else(|Elapsed| Ok(Woken::Idle))
    }

    async fn close(mut self, enhanced: &str, text: &'static str) -> io::Result<()> {
        self.session.close_with(&Reply::new(421, enhanced, text));
        self.finish().await
    }

    /// Sends what has been answered. A reply that is not read has one deadline.
    async fn flush(&mut self) -> io::Result<()> {
        if self.session.must_wait() && self.stream.has_received() {
            self.session.spoken_early();
        }
        let limit = self.receiver.config.limits.idle_timeout;
        timeout(limit, self.stream.post(self.session.output())).await.map_err(too_slow)?
    }

    /// Sends the last that is answered, and waits until everything is gone.
    async fn finish(&mut self) -> io::Result<()> {
        let limit = self.receiver.config.limits.idle_timeout;
        let output = std::mem::take(self.session.output());
        timeout(limit, self.stream.write_all(output)).await.map_err(too_slow)?.map(drop)
    }

    /// As [`Connection::finish`]; then reads on until the client has heard why: to close on what it sends would reset the
    /// connection, and take the reply from it.
    async fn abort(&mut self) -> io::Result<()> {
        self.finish().await?;
        self.stream.shutdown();
        let unheard = async { while self.stream.read().await.is_ok_and(|piece| !piece.is_empty()) {} };
        let _slow = timeout(LINGER, unheard).await;
        Ok(())
    }

    fn handle(&mut self, event: Event<'_>) -> Next {
        match event {
            Event::Body(piece) => self.incoming.push(piece),
            Event::Mail(request) => {
                request.reverse_path.as_str().clone_into(&mut self.reverse_path);
                self.declared = request.size.unwrap_or(0);
                self.recipients.clear();
                // Compared alone (RFC 1870 section 6.1): memory is taken at DATA.
                match self.receiver.store.is_none() || may_fit(&self.receiver.memory, self.declared) {
                    true => self.session.accept(),
                    false => self.session.reject(&Reply::new(552, "5.3.4", "More than there is memory for")),
                }
            }
            Event::Rcpt(RcptRequest { mailbox: address, .. }) => match self.recipient(&address) {
                Some(recipient) => {
                    self.recipients.push(recipient);
                    self.session.accept();
                }
                None => {
                    self.receiver.count(|stats| stats.refused_recipients += 1);
                    self.session.reject(&refusal(&self.receiver, &address));
                }
            },
            Event::Data => return Next::Prepare,
            Event::BodyEnd(info) => {
                match self.deliver(info.size) {
                    Ok(()) => {
                        let without_mail = self.receiver.config.limits.without_mail_timeout;
                        self.deadline.mail_accepted(Some(without_mail));
                        self.session.accept();
                    }
                    Err(reply) => {
                        self.receiver.count(|stats| stats.refused_messages += 1);
                        self.session.reject(&reply);
                    }
                }
                self.incoming.reset();
            }
            Event::BodyRefused => {
                self.receiver.count(|stats| stats.refused_messages += 1);
                self.incoming.reset();
            }
            Event::Quit => return Next::Close,
            Event::TooManyErrors => return Next::Abort,
            Event::NeedInput | Event::OutputFull | Event::Hello { .. } | Event::Reset => {}
        }
        Next::Input
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

    /// Answers DATA once there is memory for the message.
    async fn prepare(&mut self) {
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
            self.session.reject(&Reply::new(452, "4.3.1", "No memory for this message now"));
            return;
        }
        if stored {
            self.write_trace_fields();
        }
        self.session.accept();
    }

    /// What a host that makes final delivery adds (RFC 5321, section 4.4).
    fn write_trace_fields(&mut self) {
        let number = self.receiver.next_id.replace(self.receiver.next_id.get() + 1);
        self.id.clear();
        // Writing to a String does not fail.
        let _ = write!(self.id, "{:x}-{number:x}", shard());
        let hello = self.session.hello();
        let received = trace::Received {
            helo: hello.map_or("unknown", |hello| &hello.name),
            peer: self.peer.ip(),
            host: &self.receiver.config.hostname,
            esmtp: hello.is_some_and(|hello| hello.esmtp),
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

fn too_slow(_: Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
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
