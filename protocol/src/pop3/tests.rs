//! POP3 session and client, alone and back to back.

use super::super::client::{Client, Event as ClientEvent};
use super::super::dots::Stuffer;
use super::*;
use crate::sasl::Nonce;
use crate::sasl::prepare::Password;
use crate::sasl::scram::ScramVerifier;
use crate::sasl::server::{Exchange, Failure, Step};

/// A maildrop in memory behind a session.
struct Maildrop {
    session: Session,
    messages: Vec<Vec<u8>>,
    locked: bool,
    removed: Vec<usize>,
    closed: bool,
    exchange: Option<Exchange>,
    /// STLS that were begun.
    secured: usize,
    /// Octets of output since a message was sent.
    sent: usize,
}

impl Maildrop {
    fn new(messages: &[&[u8]]) -> Maildrop {
        Maildrop {
            session: Session::new("pop.test", Offer::default()),
            messages: messages.iter().map(|message| message.to_vec()).collect(),
            locked: false,
            removed: Vec::new(),
            closed: false,
            exchange: None,
            secured: 0,
            sent: 0,
        }
    }

    fn listing(&self) -> Listing {
        let listed = |(index, message): (usize, &Vec<u8>)| Listed {
            uid: index as u32 + 1,
            size: message.len() as u32,
        };
        Listing { uid_validity: 7, messages: self.messages.iter().enumerate().map(listed).collect() }
    }

    /// Feeds input and returns everything that is to be sent.
    fn feed(&mut self, mut input: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        loop {
            let (used, event) = self.session.handle_input(input);
            input = &input[used..];
            if !matches!(event, Event::Retrieve { .. } | Event::Top { .. }) {
                assert!(self.session.output().len() <= 8192 + self.sent, "{}", self.session.output().len());
                self.sent = 0;
                said.append(self.session.output());
            }
            match event {
                Event::NeedInput => return said,
                Event::OutputFull => {}
                Event::Login { user, password } => {
                    match (user == "user" && password == "pass word", self.locked) {
                        (true, false) => {
                            let listing = self.listing();
                            self.session.accept_login(listing);
                        }
                        (true, true) => self.session.refuse_login(Refusal::InUse),
                        _ => self.session.refuse_login(Refusal::Credentials),
                    }
                }
                Event::Retrieve { index } => self.send(index, usize::MAX),
                Event::Top { index, lines } => self.send(index, lines as usize),
                Event::StartTls => self.secured += 1,
                Event::Authenticate { mechanism, initial } => {
                    let mut exchange = Exchange::new(mechanism, None, Nonce([7; 18]));
                    let step = exchange.start(initial.as_deref());
                    self.exchange = Some(exchange);
                    self.go_on(step);
                }
                Event::Response(Ok(response)) => {
                    let step = self.exchange.as_mut().unwrap().handle_response(&response);
                    self.go_on(step);
                }
                Event::Response(Err(_)) => self.session.refuse_login(Refusal::Response),
                Event::Quit { deleted } => {
                    self.removed = deleted;
                    self.session.goodbye(true);
                    self.closed = true;
                }
                Event::TooManyErrors => {
                    self.closed = true;
                    return said;
                }
            }
        }
    }

    fn go_on(&mut self, step: Result<Step, Failure>) {
        let is_admitted = match step {
            Ok(Step::Lookup { .. }) => {
                let password = Password::prepare(b"pass word").unwrap();
                let verifier = ScramVerifier::derive(&password, b"salt and salt", 4096);
                let step = self.exchange.as_mut().unwrap().use_verifier(&verifier);
                return self.go_on(step);
            }
            Ok(Step::Challenge(octets)) => return self.session.challenge(&octets),
            Ok(Step::Password(shown)) => shown.user == "user" && shown.password.as_bytes() == b"pass word",
            Ok(Step::Done { user }) => user == "user",
            Err(Failure::Malformed) => return self.session.refuse_login(Refusal::Response),
            Err(_) => false,
        };
        match is_admitted {
            true => {
                let listing = self.listing();
                self.session.accept_login(listing);
            }
            false => self.session.refuse_login(Refusal::Credentials),
        }
    }

    fn send(&mut self, index: usize, lines: usize) {
        let message = &self.messages[index];
        self.session.begin_message(message.len() as u32);
        let mut stuffer = Stuffer::default();
        for line in message.split_inclusive(|&byte| byte == b'\n').take(lines) {
            stuffer.push(line, self.session.output());
        }
        stuffer.finish(self.session.output());
        self.sent = self.session.output().len();
    }

    fn text(&mut self, input: &str) -> String {
        String::from_utf8(self.feed(input.as_bytes())).unwrap()
    }
}

fn logged_in(messages: &[&[u8]]) -> Maildrop {
    let mut maildrop = Maildrop::new(messages);
    maildrop.feed(b"USER user\r\nPASS pass word\r\n");
    maildrop
}

/// Every command answers as RFC 1939 says, and deletions are handed over at QUIT alone.
#[test]
fn commands_answer() {
    let mut maildrop = Maildrop::new(&[b"one\r\n", b"three\r\n"]);
    assert_eq!(maildrop.text(""), "+OK pop.test POP3 ready\r\n");
    assert_eq!(maildrop.text("STAT\r\n"), "-ERR log in first\r\n");
    assert_eq!(
        maildrop.text("user user\r\npass pass word\r\n"),
        "+OK send PASS\r\n+OK maildrop has 2 messages\r\n"
    );
    assert_eq!(maildrop.text("STAT\r\n"), "+OK 2 12\r\n");
    assert_eq!(maildrop.text("LIST\r\n"), "+OK 2 messages (12 octets)\r\n1 5\r\n2 7\r\n.\r\n");
    assert_eq!(maildrop.text("LIST 2\r\n"), "+OK 2 7\r\n");
    assert_eq!(maildrop.text("UIDL 2\r\n"), "+OK 2 00000007.00000002\r\n");
    assert_eq!(maildrop.text("RETR 1\r\n"), "+OK 5 octets\r\none\r\n.\r\n");
    assert_eq!(maildrop.text("DELE 1\r\n"), "+OK deleted\r\n");
    assert_eq!(maildrop.text("RETR 1\r\n"), "-ERR that message is deleted\r\n");
    assert_eq!(maildrop.text("STAT\r\n"), "+OK 1 7\r\n");
    assert_eq!(maildrop.text("LIST\r\n"), "+OK 1 messages (7 octets)\r\n2 7\r\n.\r\n");
    assert_eq!(
        maildrop.text("RSET\r\nDELE 2\r\nNOOP\r\n"),
        "+OK nothing is deleted\r\n+OK deleted\r\n+OK done\r\n"
    );
    assert_eq!(maildrop.text("DELE 3\r\nDELE 0\r\nDELE x\r\n").matches("-ERR no such message").count(), 3);
    assert!(maildrop.removed.is_empty());
    assert_eq!(maildrop.text("QUIT\r\n"), "+OK bye\r\n");
    assert_eq!(maildrop.removed, [1]);
}

/// 100,000 bytes without a line end, then a line end: one -ERR, and the session lives.
#[test]
fn overlong_line_is_refused_once() {
    let mut maildrop = logged_in(&[b"one\r\n"]);
    for _ in 0..100 {
        assert_eq!(maildrop.text(&"x".repeat(1000)), "");
    }
    assert_eq!(maildrop.text("\r\nNOOP\r\n"), "-ERR line too long\r\n+OK done\r\n");
    assert!(maildrop.session.line.capacity() <= 8 * MAX_LINE);
}

/// A line without end is not read for ever.
#[test]
fn an_endless_line_ends_the_session() {
    let mut maildrop = logged_in(&[b"one\r\n"]);
    let said: Vec<String> = (0..150).map(|_| maildrop.text(&"x".repeat(1000))).collect();
    assert!(maildrop.closed && said.concat().starts_with("-ERR too many errors\r\n"), "{said:?}");
}

/// Commands without a login end the session, however good they are; with one they go on.
#[test]
fn commands_before_the_login_are_limited() {
    let mut maildrop = Maildrop::new(&[]);
    let told = maildrop.text(&"CAPA\r\n".repeat(1000));
    assert!(maildrop.closed);
    assert_eq!(told.matches("+OK capabilities").count(), MAX_LINES_BEFORE_LOGIN as usize, "{told}");
    let mut maildrop = logged_in(&[b"one\r\n"]);
    assert_eq!(maildrop.text(&"NOOP\r\n".repeat(1000)).matches("+OK").count(), 1000);
}

/// Guessing passwords and sending rubbish ends the connection.
#[test]
fn errors_are_limited() {
    let mut maildrop = Maildrop::new(&[]);
    let mut tries = 0;
    while !maildrop.closed {
        maildrop.feed(b"USER user\r\nPASS wrong\r\n\xff\r\n");
        tries += 1;
        assert!(tries <= MAX_ERRORS);
    }
}

/// Client and server back to back at every chunk size: all messages arrive unchanged and in order.
#[test]
fn client_reads_server() {
    let messages: &[&[u8]] = &[b"", b".\r\n", b"a: b\r\n\r\n.dot\r\n..two\r\nend\r\n", &[0xff, b'\r', b'\n']];
    for chunk in [1, 2, 3, 7, 4096] {
        let mut maildrop = Maildrop::new(messages);
        let mut client = Client::new("user", "pass word").unwrap();
        let mut to_client = maildrop.feed(b"");
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut deleted = 0;
        let mut goodbye = false;
        while !goodbye {
            assert!(!to_client.is_empty(), "both sides wait");
            for piece in to_client.chunks(chunk) {
                let mut input = piece;
                loop {
                    let (used, event) = client.handle_input(input).unwrap();
                    input = &input[used..];
                    match event {
                        ClientEvent::NeedInput => break,
                        ClientEvent::Ready { pipelining } => {
                            assert!(pipelining);
                            client.stat();
                        }
                        ClientEvent::Stat { messages, .. } => {
                            for number in 1..=messages {
                                client.retr(number);
                                client.dele(number);
                            }
                            client.quit();
                        }
                        ClientEvent::MessageStart { .. } => seen.push(Vec::new()),
                        ClientEvent::Body(bytes) => seen.last_mut().unwrap().extend_from_slice(bytes),
                        ClientEvent::MessageEnd { number } => assert_eq!(number as usize, seen.len()),
                        ClientEvent::Deleted { .. } => deleted += 1,
                        ClientEvent::Goodbye { committed } => goodbye = committed,
                        event => panic!("{event:?}"),
                    }
                }
            }
            to_client = maildrop.feed(&std::mem::take(client.output()));
        }
        assert_eq!(seen, messages);
        assert_eq!((deleted, client.outstanding()), (messages.len(), 0));
        assert_eq!(maildrop.removed.len(), messages.len());
    }
}

/// A server without CAPA gets one command at a time.
#[test]
fn client_without_pipelining_waits() {
    let mut client = Client::new("user", "pass").unwrap();
    client.handle_input(b"+OK hi\r\n").unwrap();
    assert_eq!(std::mem::take(client.output()), b"CAPA\r\n");
    client.handle_input(b"-ERR what\r\n").unwrap();
    assert_eq!(std::mem::take(client.output()), b"USER user\r\n");
    client.handle_input(b"+OK\r\n").unwrap();
    assert_eq!(std::mem::take(client.output()), b"PASS pass\r\n");
    let (_, event) = client.handle_input(b"+OK\r\n").unwrap();
    assert_eq!(event, ClientEvent::Ready { pipelining: false });
    client.retr(1);
    client.dele(1);
    assert_eq!(std::mem::take(client.output()), b"RETR 1\r\n");
    let mut input: &[u8] = b"+OK\r\nbody\r\n.\r\n";
    let mut events = 0;
    while !input.is_empty() {
        let (used, _) = client.handle_input(input).unwrap();
        input = &input[used..];
        events += 1;
    }
    assert_eq!(events, 3);
    assert_eq!(std::mem::take(client.output()), b"DELE 1\r\n");
}

/// A locked maildrop and a wrong password are told apart; rubbish is an error, not a panic.
#[test]
fn client_reports_refusals() {
    let mut maildrop = Maildrop::new(&[]);
    maildrop.locked = true;
    let mut client = Client::new("user", "pass word").unwrap();
    let mut input = maildrop.feed(b"");
    let refused = loop {
        let (_, event) = client.handle_input(&input).unwrap();
        if event != ClientEvent::NeedInput {
            break event;
        }
        input = maildrop.feed(&std::mem::take(client.output()));
    };
    assert!(matches!(refused, ClientEvent::LoginRefused { in_use: true, .. }), "{refused:?}");
    assert!(Client::new("user", "x").unwrap().handle_input(b"HTTP/1.1 400\r\n").is_err());
    assert!(Client::new("user", "x").unwrap().handle_input(&[b'a'; 5000]).is_err());
    assert!(Client::new("us er", "x").is_err() && Client::new("user", "x\r\nDELE 1").is_err());
}

/// What belongs to HTTP or TLS ends the connection at once, and before the login a few unknown commands do.
#[test]
fn other_protocols_end_the_connection() {
    for input in [
        b"POST / HTTP/1.1\r\nUSER user\r\n".as_slice(),
        b"get /\r\nUSER user\r\n",
        b"USER / HTTP/1.1\r\nUSER user\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"A: b\r\nB: c\r\nC: d\r\nD: e\r\nUSER user\r\n",
    ] {
        let mut maildrop = Maildrop::new(&[]);
        let said = maildrop.feed(input);
        assert!(maildrop.closed && said.ends_with(b"-ERR too many errors\r\n"), "{input:?}");
        assert!(maildrop.session.handle_input(b"USER user\r\n").1 == Event::TooManyErrors);
    }
    let mut maildrop = Maildrop::new(&[]);
    maildrop.feed(b"A: b\r\nB: c\r\nC: d\r\nUSER user\r\nPASS pass word\r\nA: b\r\nB: c\r\n");
    assert!(!maildrop.closed, "after the login they are borne for longer");
}

/// A listing of many messages goes out in pieces, also when it is asked for many times in one breath.
#[test]
fn listings_go_out_in_pieces() {
    let messages = vec![b"x\r\n".as_slice(); 3000];
    let mut maildrop = logged_in(&messages);
    let said = maildrop.text("LIST\r\nDELE 2\r\nUIDL\r\nUIDL 3000\r\nNOOP\r\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.len(), lines[3000], lines[3001]), (3002 + 1 + 3001 + 2, "3000 3", "."));
    assert_eq!(
        (lines[3002], lines[3004], lines[3005]),
        ("+OK deleted", "1 00000007.00000001", "3 00000007.00000003")
    );
    assert_eq!(lines[6003..], [".", lines[6004], "+OK done"], "{}", lines[6004]);
    assert_eq!(maildrop.text(&"LIST\r\n".repeat(50)).lines().count(), 50 * 3001);
}

mod authorization {
    //! STLS and AUTH, alone and back to back.

    use super::super::super::client::{ClientError, Options, Sasl};
    use super::*;
    use crate::sasl::base64;

    fn secure() -> Maildrop {
        let mut maildrop = Maildrop::new(&[b"one\r\n"]);
        let offer = Offer { starttls: true, mechanisms: Mechanisms::ALL };
        maildrop.session = Session::new("pop.test", offer);
        maildrop.feed(b"");
        maildrop
    }

    /// The session goes over: what it was told is forgotten, and the offer is what TLS has.
    #[test]
    fn stls_begins_anew() {
        let mut maildrop = secure();
        assert!(maildrop.text("CAPA\r\n").contains("\r\nSTLS\r\nSASL SCRAM-SHA-256-PLUS"));
        assert!(maildrop.text("STLS now\r\n").starts_with("-ERR"));
        maildrop.text("USER user\r\n");
        assert_eq!(maildrop.text("STLS\r\n"), "+OK begin TLS\r\n");
        assert_eq!(maildrop.secured, 1);
        maildrop.session.secured(Offer { starttls: false, mechanisms: Mechanisms::parse(b"PLAIN") });
        assert_eq!(maildrop.text("PASS pass word\r\n"), "-ERR send USER first\r\n");
        let capabilities = maildrop.text("CAPA\r\n");
        assert!(capabilities.contains("\r\nSASL PLAIN\r\n") && !capabilities.contains("STLS"));
        assert!(maildrop.text("STLS\r\n").starts_with("-ERR"));
        assert!(maildrop.text("AUTH SCRAM-SHA-256\r\n").starts_with("-ERR"), "it is not offered");
    }

    /// What was sent together with STLS is no command, on neither side of it: the session ends.
    #[test]
    fn what_is_pipelined_behind_stls_is_refused() {
        for behind in ["USER user\r\nPASS pass word\r\n", "x", "\r\n"] {
            let mut maildrop = secure();
            let said = maildrop.text(&format!("STLS\r\n{behind}"));
            assert_eq!(said, "+OK begin TLS\r\n-ERR too many errors\r\n", "{behind:?}");
            assert!(maildrop.closed);
        }
        assert!(secure().text("STLS\r\n").starts_with("+OK"));
    }

    /// PLAIN with and without an initial response, refused, cancelled, too long and no base64 at all; the session goes on after
    /// each of them.
    #[test]
    fn plain_and_what_is_none() {
        let plain = |user: &str, password: &str| base64::encode(format!("\0{user}\0{password}"));
        let mut maildrop = secure();
        for (first, second, answer) in [
            ("AUTH PLAIN *", "", "-ERR the authentication is cancelled\r\n"),
            ("AUTH PLAIN ?", "", "-ERR the response is no base64\r\n"),
            ("AUTH", "", "-ERR not supported: CAPA names the mechanisms\r\n"),
            ("AUTH CRAM-MD5", "", "-ERR not supported: CAPA names the mechanisms\r\n"),
            ("AUTH PLAIN", "*", "-ERR the authentication is over without a login\r\n"),
            ("AUTH PLAIN", "QUIT", "-ERR the authentication is over without a login\r\n"),
            ("AUTH PLAIN", "eHh4", "-ERR the authentication is over without a login\r\n"),
            ("AUTH PLAIN", &"A".repeat(20_000), "-ERR the authentication is over without a login\r\n"),
            ("AUTH plain", &plain("user", "wrong"), "-ERR invalid user name or password\r\n"),
            ("AUTH PLAIN =", "", "-ERR the authentication is over without a login\r\n"),
            ("AUTH PLAIN", &plain("user", "pass word"), "+OK maildrop has 1 messages\r\n"),
        ] {
            let begun = maildrop.text(&format!("{first}\r\n"));
            let said = if second.is_empty() {
                begun
            } else {
                assert_eq!(begun, "+ \r\n", "{first}");
                maildrop.text(&format!("{second}\r\n"))
            };
            assert_eq!(said, answer, "{first} {second}");
        }
        assert!(maildrop.text("AUTH PLAIN\r\n").starts_with("-ERR already"));
        assert_eq!(maildrop.text("STAT\r\n"), "+OK 1 5\r\n");
        let one = format!("AUTH PLAIN {}\r\n", plain("user", "pass word"));
        assert!(secure().text(&one).starts_with("+OK maildrop"));
    }

    fn client(mechanisms: Mechanisms, password: &str, starttls: bool) -> Client {
        let sasl = Sasl {
            mechanisms,
            nonce: Nonce([1; 18]),
            keys: None,
            channel_binding: None,
            may_show_password: true,
        };
        Client::with_options("user", password, Options { starttls, sasl: Some(sasl) }).unwrap()
    }

    /// The client logs in over STLS with each mechanism, and is refused with a wrong password.
    #[test]
    fn back_to_back() {
        for mechanism in [Mechanism::Plain, Mechanism::ScramSha256] {
            for password in ["pass word", "wrong"] {
                let mut maildrop = secure();
                let mut client = client(Mechanisms::NONE.with(mechanism), password, true);
                let mut input = b"+OK hi\r\n".to_vec();
                let end = loop {
                    let taken = input.clone();
                    let (used, event) = client.handle_input(&taken).unwrap();
                    input.drain(..used);
                    match event {
                        ClientEvent::NeedInput => {
                            let said = std::mem::take(client.output());
                            assert!(!said.is_empty(), "both wait");
                            input = maildrop.feed(&said);
                        }
                        ClientEvent::StartTls => {
                            maildrop.session.secured(Offer { starttls: false, mechanisms: Mechanisms::ALL });
                            client.secured(None);
                            input = maildrop.feed(&std::mem::take(client.output()));
                        }
                        ClientEvent::DeriveKeys => {
                            let keys = client.take_derivation().unwrap().derive();
                            client.use_keys(&keys).unwrap();
                        }
                        ClientEvent::Ready { pipelining } => break pipelining,
                        ClientEvent::LoginRefused { .. } => break false,
                        event => panic!("{event:?}"),
                    }
                };
                assert_eq!((maildrop.secured, end), (1, password != "wrong"), "{mechanism} {password}");
            }
        }
    }

    /// A server that sends more behind its +OK to STLS gets nothing more, and one without STLS, or without a mechanism that may be
    /// used, no password.
    #[test]
    fn a_client_gives_its_password_to_no_other() {
        let mut early = client(Mechanisms::ALL, "pass word", true);
        early.handle_input(b"+OK hi\r\n").unwrap();
        let ended = early.handle_input(b"+OK begin\r\n+OK capabilities follow\r\nSASL PLAIN\r\n.\r\n");
        assert_eq!(ended, Err(ClientError::Early));

        let mut plain = client(Mechanisms::ALL, "pass word", true);
        plain.handle_input(b"+OK hi\r\n").unwrap();
        let (_, refused) = plain.handle_input(b"-ERR what?\r\n").unwrap();
        assert!(matches!(refused, ClientEvent::LoginRefused { .. }));
        assert_eq!(plain.output(), b"STLS\r\n");

        let mut scram = client(Mechanisms::parse(b"SCRAM-SHA-256"), "pass word", false);
        scram.handle_input(b"+OK hi\r\n").unwrap();
        let ended = scram.handle_input(b"+OK\r\nSASL PLAIN LOGIN\r\n.\r\n");
        assert!(matches!(ended, Err(ClientError::Sasl(_))), "{ended:?}");
        assert_eq!(scram.output(), b"CAPA\r\n");
    }
}
