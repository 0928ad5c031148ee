//! The receivers' fronts: what the relay connects to. A front hands every command and message on to the sinks and their
//! replies back, does to them what the seed has drawn, and enters what it sees into the [`Book`]. It keeps nothing of
//! its own, so that a node of fronts can die without losing mail that was taken.

use std::cell::{RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{Instant, now, rng, sleep, spawn, timeout};

use super::book::{Book, Entry, Key};
use super::chain;
use super::draw::{Domain, Trouble};

/// Longest line of a command or reply.
const LINE_MAX: usize = 4096;
/// A client or sink that is silent for longer is left.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest time for which a message is not read on.
const STALL_MS_MAX: u64 = 10_000;
/// So much of a notification is looked at.
const NOTIFICATION_MAX: usize = 64 * 1024;
/// The end of a message; its first line end may be that of the command before.
const END: &[u8] = b"\r\n.\r\n";

/// What all fronts share.
pub(super) struct Fronts {
    pub(super) book: RefCell<Book>,
    pub(super) domains: Vec<Domain>,
    pub(super) trouble: Trouble,
    /// The trouble is over.
    pub(super) calm: Arc<AtomicBool>,
}

impl Fronts {
    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }
}

/// Serves the receivers at these addresses, each with the number of its domain; `None` is the bounce domain's.
pub(super) async fn serve(fronts: Rc<Fronts>, addresses: Vec<(SocketAddr, Option<usize>)>) {
    for (address, domain) in addresses {
        let listener = TcpListener::bind(address, &ListenOptions::default());
        let listener = listener.expect("the address is this node's own");
        let domain = domain.map_or(Domain::Good, |number| fronts.domains[number]);
        let fronts = fronts.clone();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut session =
                    Session { fronts: fronts.clone(), domain, client: Lines::new(stream), last: None };
                // A connection that breaks is over; the book has what happened before.
                spawn(async move { drop(timeout(PATIENCE * 4, session.run()).await) });
            }
        });
    }
    std::future::pending().await
}

/// A stream that is read by lines.
struct Lines {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Lines {
    fn new(stream: TcpStream) -> Lines {
        Lines { stream, unread: Vec::new() }
    }

    /// Reads more; an error at the end of the stream.
    async fn fill(&mut self) -> io::Result<()> {
        let piece = timeout(PATIENCE, self.stream.read()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&piece);
        Ok(())
    }

    /// The next line, with its end.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            if self.unread.len() > LINE_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.fill().await?;
        }
    }

    /// A whole reply.
    async fn reply(&mut self) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        loop {
            let line = self.line().await?;
            let is_last = line.get(3) != Some(&b'-');
            reply.extend(line);
            if is_last {
                return Ok(reply);
            }
        }
    }

    async fn send(&self, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes.into())).await;
        sent.map_err(|_| io::ErrorKind::TimedOut)?.map(drop)
    }
}

struct Session {
    fronts: Rc<Fronts>,
    domain: Domain,
    client: Lines,
    /// The message whose reply the client may not have read yet.
    last: Option<Entry>,
}

/// The transaction under way.
struct Transaction {
    began: Instant,
    /// Of the reverse-path; `None` is the null one's.
    sequence: Option<u64>,
    recipients: Vec<String>,
}

impl Session {
    fn book(&self) -> RefMut<'_, Book> {
        self.fronts.book.borrow_mut()
    }

    fn falls(&self, share: impl Fn(Trouble) -> f64) -> bool {
        !self.fronts.is_calm() && rng().unit() < share(self.fronts.trouble)
    }

    async fn run(&mut self) -> io::Result<()> {
        if self.falls(|trouble| trouble.greeting) {
            if rng().below(2) == 0 {
                sleep(PATIENCE).await; // half open
            }
            return self.client.send("421 4.3.2 Not now\r\n").await;
        }
        let sink = TcpStream::connect(chain::SINK, &ConnectOptions::default()).await?;
        let mut sink = Lines::new(sink);
        self.client.send(sink.reply().await?).await?;
        let mut transaction = Transaction::new(None);
        loop {
            let command = self.client.line().await?;
            if let Some(heard) = self.last.take() {
                self.book().heard(&heard);
            }
            let word = command[..command.len().min(4)].to_ascii_uppercase();
            if let Some(refusal) = self.refusal(&word, &command, &transaction) {
                self.client.send(refusal).await?;
                continue;
            }
            if word == b"DATA" {
                self.data(&mut sink, &command, std::mem::replace(&mut transaction, Transaction::new(None)))
                    .await?;
                continue;
            }
            sink.send(command.clone()).await?;
            let reply = sink.reply().await?;
            if reply.starts_with(b"2") {
                match &word[..] {
                    b"MAIL" => {
                        transaction = Transaction::new(sequence_of(&address_in(&command)));
                    }
                    b"RCPT" => transaction.recipients.push(address_in(&command)),
                    _ => {}
                }
            }
            self.client.send(reply).await?;
            if word == b"QUIT" {
                return Ok(());
            }
        }
    }

    /// What a command is answered in place of the sinks.
    fn refusal(&self, word: &[u8], command: &[u8], transaction: &Transaction) -> Option<&'static str> {
        let is_busy = self.domain == Domain::Busy && !self.fronts.is_calm();
        match word {
            b"MAIL" if self.domain == Domain::Deferring => Some("451 4.3.0 Never now\r\n"),
            b"MAIL" if is_busy && rng().below(3) > 0 => Some("450 4.7.1 Busy, come back later\r\n"),
            b"RCPT" if is_busy && rng().below(4) == 0 => Some("451 4.7.1 Come back later for this one\r\n"),
            b"RCPT" if self.domain == Domain::Refusing => Some("550 5.1.1 Nobody here\r\n"),
            b"RCPT" | b"MAIL" if self.falls(|trouble| trouble.deferral) => Some("451 4.3.0 Not now\r\n"),
            // Refused for good is only what can go back to its sender.
            b"RCPT" if transaction.sequence.is_some() && self.falls(|trouble| trouble.refusal) => {
                let sequence = transaction.sequence.into_iter();
                let recipient = address_in(command);
                self.book().refuse(sequence.map(|sequence| Key { sequence, recipient: recipient.clone() }));
                Some("550 5.1.1 No such user\r\n")
            }
            _ => None,
        }
    }

    async fn data(&mut self, sink: &mut Lines, command: &[u8], transaction: Transaction) -> io::Result<()> {
        let keys = transaction.keys();
        if !transaction.recipients.is_empty() && self.falls(|trouble| trouble.deferral) {
            return self.refuse_message(sink, "451 4.3.0 Not this one now\r\n").await;
        }
        if !keys.is_empty() && self.falls(|trouble| trouble.refusal) {
            self.book().refuse(keys);
            return self.refuse_message(sink, "554 5.6.0 Not this one\r\n").await;
        }
        sink.send(command).await?;
        let reply = sink.reply().await?;
        let goes_on = reply.starts_with(b"354");
        self.client.send(reply).await?;
        if !goes_on {
            return Ok(());
        }
        if self.falls(|trouble| trouble.stall) {
            sleep(Duration::from_millis(rng().below(STALL_MS_MAX))).await;
        }
        let cut = self.falls(|trouble| trouble.cut);
        let mut notification = transaction.is_notification().then(Vec::new);
        let mut matched = 2;
        loop {
            let piece = self.body_piece(&mut matched).await?;
            let ended = matched == END.len();
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
            let entry = self.book().sent(transaction.began, now(), &keys);
            sink.send(piece).await?;
            let reply = sink.reply().await?;
            let taken = reply.starts_with(b"2");
            self.book().answered(&entry, taken);
            if let Some(notification) = notification.filter(|_| taken) {
                self.book().bounce(now(), given_up(&notification, &transaction.recipients));
            }
            if taken && self.falls(|trouble| trouble.lost_reply) {
                return match rng().below(3) {
                    // It lies: the relay will try again.
                    0 => self.client.send("451 4.3.0 Lost it\r\n").await,
                    _ => Err(io::ErrorKind::ConnectionAborted.into()),
                };
            }
            self.client.send(reply).await?;
            self.last = taken.then_some(entry);
            return Ok(());
        }
    }

    /// Reads a message that nobody gets, and refuses it.
    async fn refuse_message(&mut self, sink: &mut Lines, refusal: &str) -> io::Result<()> {
        self.client.send("354 Go on\r\n").await?;
        let mut matched = 2;
        while matched < END.len() {
            self.body_piece(&mut matched).await?;
        }
        sink.send("RSET\r\n").await?;
        sink.reply().await?;
        self.client.send(refusal).await
    }

    /// The next octets of a message. `matched` is how much of [`END`] the last of them are; all of it: this was the
    /// last piece.
    async fn body_piece(&mut self, matched: &mut usize) -> io::Result<Vec<u8>> {
        if self.client.unread.is_empty() {
            self.client.fill().await?;
        }
        let mut length = 0;
        for byte in &self.client.unread {
            length += 1;
            *matched = match byte {
                byte if *byte == END[*matched] => *matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if *matched == END.len() {
                break;
            }
        }
        let rest = self.client.unread.split_off(length);
        Ok(std::mem::replace(&mut self.client.unread, rest))
    }
}

impl Transaction {
    fn new(sequence: Option<u64>) -> Transaction {
        Transaction { began: now(), sequence, recipients: Vec::new() }
    }

    fn keys(&self) -> Vec<Key> {
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
fn address_in(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command);
    let address = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    address.map_or_else(String::new, |(address, _)| address.to_ascii_lowercase())
}

/// The sequence in a reverse-path of the load generator, `<run>.<sequence>@<zone>`.
fn sequence_of(address: &str) -> Option<u64> {
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

    /// What a front reads from commands and notifications is what they say.
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
