//! The receivers' proxies: what the relay connects to. A proxy hands every command and message on to the sinks and their
//! replies back, does to them what the seed has drawn, and tells what it sees to the [`Oracle`]. It keeps nothing of
//! its own, so that a node of proxies can die without losing mail that was taken.

mod lines;
mod treat;

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{Instant, now, rng, sleep, spawn, timeout};
use chasqui_sinks::behaviour::{GREETING_WITH_TWO_CODES, Habits, Slowness, Stage};

use crate::addresses::{Host, SINK, receiver, second_receiver};
use crate::oracle::{Entry, Key, Oracle};
use crate::plan::{Domain, Plan, RELAY_LIMIT_MIN, Trouble, has_second};
use lines::{BODY_BEGINS, BODY_ENDS, Lines, PATIENCE};

/// Longest time for which a message is not read on.
const STALL_MS_MAX: u64 = 10_000;
/// So much of a notification is looked at.
const NOTIFICATION_MAX: usize = 64 * 1024;

/// What all proxies share.
pub(crate) struct Proxies {
    pub(crate) oracle: RefCell<Oracle>,
    pub(crate) domains: Vec<Domain>,
    pub(crate) trouble: Trouble,
    pub(crate) habits: Habits,
    /// Longest time that the relay may wait for a reply.
    pub(crate) reply_limit: Duration,
    /// Connections so far.
    pub(crate) connections: Cell<u64>,
    /// When the load begins.
    pub(crate) start: Cell<Option<Instant>>,
    /// The trouble is over.
    pub(crate) calm: Arc<AtomicBool>,
}

impl Proxies {
    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }
}

/// What the proxies of a node listen on.
pub(crate) fn addresses(plan: &Plan, proxy: usize) -> Vec<(SocketAddr, Host)> {
    let count = plan.domains.len();
    let at = |address: Ipv4Addr| SocketAddr::new(address.into(), 25);
    let served =
        |number: &usize| number % plan.proxies == proxy && plan.domains.get(*number) != Some(&Domain::Deaf);
    let mut addresses = Vec::new();
    for number in (0..=count).filter(served) {
        let (domain, is_preferred) =
            (Some(number).filter(|it| *it < count), has_second(&plan.habits, number));
        addresses.push((at(receiver(number)), Host { domain, is_preferred }));
        if is_preferred {
            addresses.push((at(second_receiver(number)), Host { domain, is_preferred: false }));
        }
    }
    addresses
}

/// Serves the receivers at these addresses.
pub(crate) async fn serve(proxies: Rc<Proxies>, addresses: Vec<(SocketAddr, Host)>) {
    for (address, host) in addresses {
        let listener = TcpListener::bind(address, &ListenOptions::default());
        let listener = listener.expect("the address is this node's own");
        let domain = host.domain.map_or(Domain::Good, |number| proxies.domains[number]);
        let proxies = proxies.clone();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut session = Session::new(proxies.clone(), host, domain, stream);
                // A connection that breaks is over; the oracle knows what happened before.
                spawn(async move { drop(timeout(PATIENCE * 4, session.run()).await) });
            }
        });
    }
    std::future::pending().await
}

/// A connection to a receiver.
pub(crate) struct Session {
    pub(crate) proxies: Rc<Proxies>,
    pub(crate) host: Host,
    pub(crate) domain: Domain,
    pub(crate) client: Lines,
    /// The message whose reply the client may not have read yet.
    pub(crate) last: Option<Entry>,
    /// Recipients that the transaction under way, or the last one, was refused for good.
    pub(crate) refused: Vec<Key>,
    /// No later than the client began to wait for the transaction's first reply: when the reply was said that it must have
    /// read before it began the transaction.
    pub(crate) since: Instant,
    /// When the last reply but those to RSET was said, which goes out before a transaction's commands.
    spoke: Instant,
    /// Something was said after which the client may leave without reading on.
    pub(crate) may_leave: bool,
}

/// The transaction under way.
pub(crate) struct Transaction {
    began: Instant,
    /// Of the reverse-path; `None` is the null one's.
    pub(crate) sequence: Option<u64>,
    pub(crate) recipients: Vec<String>,
}

impl Session {
    fn new(proxies: Rc<Proxies>, host: Host, domain: Domain, stream: TcpStream) -> Session {
        Session {
            proxies,
            host,
            domain,
            client: Lines::new(stream),
            last: None,
            refused: Vec::new(),
            since: now(),
            spoke: now(),
            may_leave: false,
        }
    }

    pub(crate) fn oracle(&self) -> RefMut<'_, Oracle> {
        self.proxies.oracle.borrow_mut()
    }

    fn falls(&self, share: impl Fn(Trouble) -> f64) -> bool {
        !self.proxies.is_calm() && rng().unit() < share(self.proxies.trouble)
    }

    /// Answers a command other than RSET.
    pub(crate) async fn say(&mut self, reply: impl Into<Vec<u8>>) -> io::Result<()> {
        self.spoke = now();
        self.client.send(reply).await
    }

    /// These are refused for good.
    pub(crate) fn refuse(&mut self, keys: Vec<Key>) {
        self.oracle().refuse(keys.iter().cloned());
        if !self.may_leave {
            self.refused.extend(keys);
        }
    }

    /// A command has come that the client sends when it has read every reply to the transaction before.
    fn goes_on(&mut self, word: &[u8]) {
        let refused = std::mem::take(&mut self.refused);
        if self.is_in_time() {
            self.oracle().read(refused, now());
        }
        if word == b"MAIL" {
            self.since = self.spoke;
        }
    }

    /// The client has closed its side. Within its time limits it does so when it has read what was said.
    pub(crate) fn left(&mut self) {
        let (last, refused) = (self.last.take(), std::mem::take(&mut self.refused));
        if self.is_in_time() && !self.may_leave {
            let mut oracle = self.proxies.oracle.borrow_mut();
            oracle.read(refused, now());
            if let Some(last) = last {
                oracle.left(&last);
            }
        }
    }

    fn is_in_time(&self) -> bool {
        now() < self.since + RELAY_LIMIT_MIN
    }

    async fn command(&mut self) -> io::Result<Vec<u8>> {
        let command = self.client.line().await;
        if command.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            self.left();
        }
        command
    }

    /// Greets with what the sinks say; `None`: it has refused.
    async fn greet(&mut self) -> io::Result<Option<Lines>> {
        self.dawdles(&[Slowness::Greeting, Slowness::DrippingGreeting]).await?;
        if self.falls(|trouble| trouble.greeting) {
            if rng().below(2) == 0 {
                sleep(PATIENCE).await; // half open
            }
            self.client.send("421 4.3.2 Not now\r\n").await?;
            return Ok(None);
        }
        let connection = self.proxies.connections.get();
        self.proxies.connections.set(connection + 1);
        if !self.proxies.is_calm() && self.proxies.habits.refuses_in_greeting(connection) {
            self.client.send(GREETING_WITH_TWO_CODES).await?;
            return Ok(None);
        }
        let sink = TcpStream::connect(SINK, &ConnectOptions::default()).await?;
        let mut sink = Lines::new(sink);
        self.say(sink.reply().await?).await?;
        Ok(Some(sink))
    }

    async fn run(&mut self) -> io::Result<()> {
        let Some(mut sink) = self.greet().await? else { return Ok(()) };
        let mut transaction = Transaction::new(None);
        loop {
            let command = self.command().await?;
            if let Some(heard) = self.last.take() {
                self.oracle().heard(&heard);
            }
            let word = command[..command.len().min(4)].to_ascii_uppercase();
            match &word[..] {
                b"MAIL" => {
                    self.goes_on(&word);
                    transaction = Transaction::new(None);
                }
                b"RSET" | b"QUIT" => self.goes_on(&word),
                b"RCPT" => self.tried(&transaction, &command),
                b"EHLO" => self.dawdles(&[Slowness::Hello]).await?,
                _ => {}
            }
            if self.mistreats(&word, &command, &mut sink, &mut transaction).await? {
                continue;
            }
            if let Some(refusal) = self.refusal(&word, &command, &transaction) {
                let sequence = transaction.sequence.filter(|_| word == b"RCPT");
                let reply = self.formed(sequence, Stage::Recipient, refusal.into());
                self.say(reply).await?;
                continue;
            }
            if word == b"DATA" {
                self.data(&mut sink, &command, std::mem::replace(&mut transaction, Transaction::new(None)))
                    .await?;
                continue;
            }
            sink.send(command.clone()).await?;
            let reply = sink.reply().await?;
            let mut stage = None;
            if reply.starts_with(b"2") {
                match &word[..] {
                    b"MAIL" => {
                        transaction = Transaction::new(sequence_of(&address_in(&command)));
                        stage = Some(Stage::Mail);
                    }
                    b"RCPT" => {
                        transaction.recipients.push(address_in(&command));
                        stage = Some(Stage::Recipient);
                    }
                    _ => {}
                }
            }
            match stage {
                _ if word == b"RSET" => self.client.send(reply).await?,
                Some(stage) => self.say(self.formed(transaction.sequence, stage, reply)).await?,
                None => self.say(reply).await?,
            }
            if word == b"QUIT" {
                return Ok(());
            }
        }
    }

    /// The client tries a recipient.
    fn tried(&self, transaction: &Transaction, command: &[u8]) {
        if let Some(sequence) = transaction.sequence {
            self.oracle().tried(Key { sequence, recipient: address_in(command) }, self.since, now());
        }
    }

    /// A reply in the form that this host has for the message.
    fn formed(&self, sequence: Option<u64>, stage: Stage, reply: Vec<u8>) -> Vec<u8> {
        let form = sequence.and_then(|sequence| self.proxies.habits.form(sequence, stage));
        form.map_or_else(|| reply.clone(), |form| form.of(reply.clone()))
    }

    /// What a command is answered in place of the sinks.
    fn refusal(&mut self, word: &[u8], command: &[u8], transaction: &Transaction) -> Option<&'static str> {
        let is_busy = self.domain == Domain::Busy && !self.proxies.is_calm();
        match word {
            b"MAIL" if self.domain == Domain::Deferring => Some("451 4.3.0 Never now\r\n"),
            b"MAIL" if is_busy && rng().below(3) > 0 => Some("450 4.7.1 Busy, come back later\r\n"),
            b"RCPT" if is_busy && rng().below(4) == 0 => Some("451 4.7.1 Come back later for this one\r\n"),
            b"RCPT" if self.domain == Domain::Refusing => {
                self.refuse(transaction.key(command));
                Some("550 5.1.1 Nobody here\r\n")
            }
            b"RCPT" | b"MAIL" if self.falls(|trouble| trouble.deferral) => Some("451 4.3.0 Not now\r\n"),
            // Refused for good is only what can go back to its sender.
            b"RCPT" if transaction.sequence.is_some() && self.falls(|trouble| trouble.refusal) => {
                self.refuse(transaction.key(command));
                Some("550 5.1.1 No such user\r\n")
            }
            _ => None,
        }
    }

    async fn data(&mut self, sink: &mut Lines, command: &[u8], transaction: Transaction) -> io::Result<()> {
        let keys = transaction.keys();
        if !transaction.recipients.is_empty() && self.falls(|trouble| trouble.deferral) {
            return self.refuse_message(sink, "451 4.3.0 Not this one now\r\n".into()).await;
        }
        if !keys.is_empty() && self.falls(|trouble| trouble.refusal) {
            self.refuse(keys);
            let refusal = self.formed(transaction.sequence, Stage::Dot, "554 5.6.0 Not this one\r\n".into());
            return self.refuse_message(sink, refusal).await;
        }
        if let Some(treatment) = self.treatment_of_message(&transaction) {
            return self.mistreat_message(sink, treatment, &transaction).await;
        }
        sink.send(command).await?;
        let reply = sink.reply().await?;
        let goes_on = reply.starts_with(b"354");
        self.say(self.formed(transaction.sequence, Stage::Data, reply)).await?;
        if !goes_on {
            return Ok(());
        }
        if self.falls(|trouble| trouble.stall) {
            sleep(Duration::from_millis(rng().below(STALL_MS_MAX))).await;
        }
        let cut = self.falls(|trouble| trouble.cut);
        let mut notification = transaction.is_notification().then(Vec::new);
        let mut matched = BODY_BEGINS;
        loop {
            let piece = self.client.body_piece(&mut matched).await?;
            let ended = matched == BODY_ENDS;
            if cut && (ended || rng().below(3) == 0) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Some(notification) = notification.as_mut().filter(|it| it.len() < NOTIFICATION_MAX) {
                notification.extend_from_slice(&piece);
            }
            if !ended {
                sink.send(piece).await?;
                continue;
            }
            let entry = self.oracle().sent(transaction.began, now(), &keys);
            sink.send(piece).await?;
            let reply = sink.reply().await?;
            let taken = reply.starts_with(b"2");
            self.oracle().answered(&entry, taken);
            if let Some(notification) = notification.filter(|_| taken) {
                self.oracle().bounce(now(), given_up(&notification, &transaction.recipients));
            }
            if taken && self.falls(|trouble| trouble.lost_reply) {
                return match rng().below(3) {
                    // It lies: the relay will try again.
                    0 => self.say("451 4.3.0 Lost it\r\n").await,
                    _ => Err(io::ErrorKind::ConnectionAborted.into()),
                };
            }
            self.say(self.formed(transaction.sequence, Stage::Dot, reply)).await?;
            self.last = taken.then_some(entry);
            return Ok(());
        }
    }

    /// Reads a message that nobody gets, and refuses it.
    async fn refuse_message(&mut self, sink: &mut Lines, refusal: Vec<u8>) -> io::Result<()> {
        self.say("354 Go on\r\n").await?;
        let mut matched = BODY_BEGINS;
        while matched < BODY_ENDS {
            self.client.body_piece(&mut matched).await?;
        }
        reset(sink).await?;
        self.say(refusal).await
    }
}

/// Has the sinks forget the transaction.
pub(crate) async fn reset(sink: &mut Lines) -> io::Result<()> {
    sink.send("RSET\r\n").await?;
    sink.reply().await.map(drop)
}

impl Transaction {
    pub(crate) fn new(sequence: Option<u64>) -> Transaction {
        Transaction { began: now(), sequence, recipients: Vec::new() }
    }

    /// The recipient of a command.
    pub(crate) fn key(&self, command: &[u8]) -> Vec<Key> {
        let of = |sequence| Key { sequence, recipient: address_in(command) };
        self.sequence.map(of).into_iter().collect()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let of = |sequence| {
            self.recipients.iter().map(move |recipient| Key { sequence, recipient: recipient.clone() })
        };
        self.sequence.into_iter().flat_map(of).collect()
    }

    fn is_notification(&self) -> bool {
        self.sequence.is_none()
    }
}

/// The address between the brackets of a command, in lower case.
pub(crate) fn address_in(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command);
    let address = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    address.map_or_else(String::new, |(address, _)| address.to_ascii_lowercase())
}

/// The sequence in a reverse-path of the load generator, `<run>.<sequence>@<zone>`.
pub(crate) fn sequence_of(address: &str) -> Option<u64> {
    let (local, _) = address.split_once('@')?;
    local.split_once('.')?.1.parse().ok()
}

/// The recipients that a notification to `returned_to` says have failed.
fn given_up(notification: &[u8], returned_to: &[String]) -> Vec<Key> {
    let text = String::from_utf8_lossy(notification);
    let mut keys = Vec::new();
    let mut recipient = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim().to_ascii_lowercase();
        if name.eq_ignore_ascii_case("Final-Recipient") {
            recipient = value.split_once(';').map(|(_, address)| address.trim().to_owned());
        } else if name.eq_ignore_ascii_case("Action")
            && value == "failed"
            && let Some(recipient) = recipient.take()
        {
            let sequences = returned_to.iter().filter_map(|address| sequence_of(address));
            keys.extend(sequences.map(|sequence| Key { sequence, recipient: recipient.clone() }));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a proxy reads from commands and notifications is what they say.
    #[test]
    fn envelopes_and_notifications_are_read() {
        assert_eq!(address_in(b"RCPT TO:<U1@d2.test> NOTIFY=NEVER\r\n"), "u1@d2.test");
        assert_eq!(address_in(b"MAIL FROM:<>\r\n"), "");
        assert_eq!(sequence_of("00000000000000ab.17@bounce.test"), Some(17));
        assert_eq!(sequence_of(""), None);
        let text = b"Reporting-MTA: dns; relay.test\r\n\r\nFinal-Recipient: rfc822; U1@d2.test\r\nAction: failed\r\n\r\n\
            Final-Recipient: rfc822; u2@d2.test\r\nAction: delayed\r\n";
        let returned_to = vec!["00000000000000ab.17@bounce.test".to_owned()];
        let expected = vec![Key { sequence: 17, recipient: "u1@d2.test".into() }];
        assert_eq!(given_up(text, &returned_to), expected);
    }
}
