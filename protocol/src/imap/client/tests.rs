//! The IMAP client against transcripts, at every split.

use super::*;

/// Feeds input in pieces of at most `chunk` octets; bodies are gathered into one piece.
fn feed(client: &mut Client, input: &[u8], chunk: usize) -> Vec<Event<'static>> {
    let mut events: Vec<Event<'static>> = Vec::new();
    for piece in input.chunks(chunk) {
        let mut rest = piece;
        loop {
            let (used, event) = client.handle_input(rest).unwrap();
            rest = &rest[used..];
            match event {
                Event::NeedInput => break,
                Event::Body(bytes) => match events.last_mut() {
                    Some(Event::Body(all)) => all.to_mut().extend_from_slice(&bytes),
                    _ => events.push(Event::Body(Cow::Owned(bytes.into_owned()))),
                },
                Event::DeriveKeys => events.push(Event::DeriveKeys),
                Event::Greeting => events.push(Event::Greeting),
                Event::Idling => events.push(Event::Idling),
                Event::Exists(count) => events.push(Event::Exists(count)),
                Event::Recent(count) => events.push(Event::Recent(count)),
                Event::Expunged(seq) => events.push(Event::Expunged(seq)),
                Event::UidValidity(value) => events.push(Event::UidValidity(value)),
                Event::UidNext(value) => events.push(Event::UidNext(value)),
                Event::Search(found) => events.push(Event::Search(found)),
                Event::Fetch { seq, uid, size, flags } => events.push(Event::Fetch { seq, uid, size, flags }),
                Event::BodyStart { seq, uid, size } => events.push(Event::BodyStart { seq, uid, size }),
                Event::BodyEnd { seq, uid } => events.push(Event::BodyEnd { seq, uid }),
                Event::Completed { command, status, text } => {
                    events.push(Event::Completed { command, status, text });
                }
                Event::Bye(text) => events.push(Event::Bye(text)),
            }
        }
    }
    events
}

fn completed(command: Command, text: &str) -> Event<'static> {
    Event::Completed { command, status: Status::Ok, text: text.to_owned() }
}

fn body(bytes: &[u8]) -> Event<'static> {
    Event::Body(Cow::Owned(bytes.to_vec()))
}

/// A session with login, selection, bodies that look like responses, and expunging, at several chunk sizes.
#[test]
fn session_at_every_chunk() {
    for chunk in [1, 2, 5, 4096] {
        let mut client = Client::new();
        assert_eq!(
            feed(&mut client, b"* OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS] hi\r\n", chunk),
            [Event::Greeting]
        );
        assert!(client.has_capability("uidplus") && !client.has_capability("MOVE"));
        client.login("u1@d2.test", "pass\"word").unwrap();
        client.select("INBOX").unwrap();
        assert_eq!(
            std::mem::take(client.output()),
            b"c1 LOGIN u1@d2.test \"pass\\\"word\"\r\nc2 SELECT INBOX\r\n"
        );
        let events = feed(
            &mut client,
            b"c1 OK in {3}\r\n* FLAGS (\\Seen)\r\n* 3 EXISTS\r\n* 1 RECENT\r\n* OK [UIDVALIDITY 9] v\r\n\
              * OK [UIDNEXT 8] n\r\nc2 OK [READ-WRITE] done\r\n",
            chunk,
        );
        assert_eq!(
            events,
            [
                completed(Command::Login, "in {3}"),
                Event::Exists(3),
                Event::Recent(1),
                Event::UidValidity(9),
                Event::UidNext(8),
                completed(Command::Select, "done"),
            ]
        );
        client.uid_fetch_bodies(UidRange { first: 5, last: None });
        client.uid_store_deleted(UidRange { first: 5, last: Some(7) });
        assert_eq!(
            std::mem::take(client.output()),
            b"c3 UID FETCH 5:* (UID BODY.PEEK[])\r\nc4 UID STORE 5:7 +FLAGS.SILENT (\\Deleted)\r\n"
        );
        let events = feed(
            &mut client,
            b"* 1 FETCH (UID 5 BODY[] {17}\r\n* 9 EXISTS\r\n)\r\nx\r)\r\n* 2 FETCH (BODY[] {0}\r\n UID 6)\r\n\
              * 3 FETCH (UID 7 BODY[] \"a b\")\r\nc3 OK fetched\r\nc4 OK stored\r\n",
            chunk,
        );
        assert_eq!(
            events,
            [
                Event::BodyStart { seq: 1, uid: Some(5), size: 17 },
                body(b"* 9 EXISTS\r\n)\r\nx\r"),
                Event::BodyEnd { seq: 1, uid: Some(5) },
                Event::BodyStart { seq: 2, uid: None, size: 0 },
                Event::BodyEnd { seq: 2, uid: Some(6) },
                Event::BodyStart { seq: 3, uid: Some(7), size: 3 },
                body(b"a b"),
                Event::BodyEnd { seq: 3, uid: Some(7) },
                completed(Command::Fetch, "fetched"),
                completed(Command::Store, "stored"),
            ]
        );
        assert_eq!(client.outstanding(), 0);
    }
}

/// Commands given while IDLE is in force go out behind DONE, and DONE never goes out before the continuation.
#[test]
fn idle_holds_commands_back() {
    let mut client = Client::new();
    feed(&mut client, b"* OK hi\r\n", 99);
    client.idle();
    client.done();
    client.noop();
    assert_eq!(std::mem::take(client.output()), b"c1 IDLE\r\n");
    assert_eq!(feed(&mut client, b"+ idling\r\n", 99), [Event::Idling]);
    assert_eq!(std::mem::take(client.output()), b"DONE\r\nc2 NOOP\r\n");
    let events = feed(&mut client, b"* 4 EXISTS\r\nc1 OK a\r\nc2 OK b\r\n", 99);
    assert_eq!(events, [Event::Exists(4), completed(Command::Idle, "a"), completed(Command::Noop, "b")]);
    client.idle();
    client.noop();
    feed(&mut client, b"c3 NO not now\r\n", 99);
    assert_eq!(std::mem::take(client.output()), b"c3 IDLE\r\nc4 NOOP\r\n");
}

/// Flags, sizes and searches are understood; data of unknown extensions and other literals do no harm.
#[test]
fn other_data_is_understood() {
    let mut client = Client::new();
    feed(&mut client, b"* OK hi\r\n", 99);
    let events = feed(
        &mut client,
        b"* XYZ what {3}\r\nabc ever\r\n* LIST () \"/\" {5}\r\nINBOX\r\n* SEARCH 3 9\r\n* SEARCH\r\n\
          * 2 FETCH (FLAGS (\\Seen \\Recent $Forwarded) RFC822.SIZE 77)\r\n* 1 EXPUNGE\r\n* BYE so long\r\n",
        3,
    );
    assert_eq!(
        events,
        [
            Event::Search(vec![3, 9]),
            Event::Search(vec![]),
            Event::Fetch { seq: 2, uid: None, size: Some(77), flags: Some(Flags::SEEN.with(Flags::RECENT)) },
            Event::Expunged(1),
            Event::Bye("so long".to_owned()),
        ]
    );
}

/// Rubbish is an error, not a panic; and what cannot stand on a line is refused before it is sent.
#[test]
fn rubbish_is_an_error() {
    assert!(Client::new().handle_input(b"+OK POP3\r\n").is_err());
    let mut client = Client::new();
    feed(&mut client, b"* OK hi\r\n", 99);
    assert!(client.handle_input(b"c9 OK who\r\n").is_err());
    assert!(client.handle_input(b"+ go on\r\n").is_err());
    assert_eq!(client.login("u\r\n", "p"), Err(InvalidArgument));
    assert_eq!(client.login("u", "p\u{e9}"), Err(InvalidArgument));
    assert!(client.output().is_empty());
}

mod authentication {
    //! STARTTLS and AUTHENTICATE against transcripts and against the server's side of SASL.

    use super::*;
    use crate::sasl::accounts::Account;
    use crate::sasl::client::{Exchange, Options};
    use crate::sasl::line::response;
    use crate::sasl::mechanism::{Mechanism, Mechanisms};
    use crate::sasl::prepare::Password;
    use crate::sasl::scram::ScramVerifier;
    use crate::sasl::{Nonce, base64, server};

    fn greeted(capabilities: &str) -> Client {
        let mut client = Client::new();
        feed(&mut client, format!("* OK [CAPABILITY IMAP4rev1 {capabilities}] hi\r\n").as_bytes(), 99);
        client
    }

    fn exchange(client: &Client, mechanisms: Mechanisms) -> Exchange {
        let offered = client.mechanisms().iter().filter(|&one| mechanisms.contains(one)).collect();
        let options = Options { offered, channel_binding: None, may_show_password: true };
        Exchange::new(&options, &Account::new("u", "pw").unwrap(), Nonce([1; 18]), None).unwrap()
    }

    fn said(client: &mut Client) -> String {
        String::from_utf8(std::mem::take(client.output())).unwrap()
    }

    /// In TLS nothing counts that the server was said to be before, and what stands behind its OK is no response in TLS.
    #[test]
    fn starttls_begins_anew() {
        let mut client = greeted("STARTTLS AUTH=PLAIN");
        client.starttls();
        assert_eq!(said(&mut client), "c1 STARTTLS\r\n");
        let ok = b"c1 OK begin\r\n";
        assert_eq!(feed(&mut client, ok, 99), [completed(Command::StartTls, "begin")]);
        client.secured();
        assert!(!client.has_capability("STARTTLS") && client.mechanisms().is_empty());
        for behind in ["* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", "x", "c2 OK logged in\r\n"] {
            let mut client = greeted("STARTTLS");
            client.starttls();
            let input = format!("c1 OK begin\r\n{behind}");
            assert_eq!(client.handle_input(input.as_bytes()), Err(ClientError::Early), "{behind}");
            let mut client = greeted("STARTTLS");
            client.starttls();
            feed(&mut client, ok, 99);
            assert_eq!(client.handle_input(behind.as_bytes()), Err(ClientError::Early), "{behind}");
        }
    }

    /// PLAIN goes with its command where the server takes that, else after an empty challenge, and after no other.
    #[test]
    fn plain_with_and_without_an_initial_response() {
        let mut client = greeted("SASL-IR AUTH=PLAIN AUTH=X");
        client.authenticate(exchange(&client, Mechanisms::ALL));
        assert_eq!(said(&mut client), "c1 AUTHENTICATE PLAIN AHUAcHc=\r\n");
        assert_eq!(feed(&mut client, b"c1 OK in\r\n", 3), [completed(Command::Authenticate, "in")]);

        for empty in ["+ \r\n", "+\r\n"] {
            let mut client = greeted("AUTH=PLAIN");
            client.authenticate(exchange(&client, Mechanisms::ALL));
            assert_eq!(said(&mut client), "c1 AUTHENTICATE PLAIN\r\n");
            assert_eq!(feed(&mut client, empty.as_bytes(), 1), []);
            assert_eq!(said(&mut client), "AHUAcHc=\r\n");
            let no = feed(&mut client, b"c1 NO wrong\r\n", 99);
            assert!(matches!(no[..], [Event::Completed { status: Status::No, .. }]), "{no:?}");
        }
        let mut client = greeted("AUTH=PLAIN");
        client.authenticate(exchange(&client, Mechanisms::ALL));
        assert!(matches!(client.handle_input(b"+ eHh4\r\n"), Err(ClientError::Sasl(_))));
        assert_eq!(said(&mut client), "c1 AUTHENTICATE PLAIN\r\n", "no password is sent");
    }

    /// SCRAM ends well with a server that knows the password; one that says OK before it has proved that is none.
    #[test]
    fn scram_is_mutual() {
        for is_early in [false, true] {
            let mut client = greeted("SASL-IR AUTH=PLAIN AUTH=SCRAM-SHA-256");
            client.authenticate(exchange(&client, client.mechanisms()));
            let first = said(&mut client);
            let initial = first.trim_end().strip_prefix("c1 AUTHENTICATE SCRAM-SHA-256 ").unwrap();
            let mut server = server::Exchange::new(Mechanism::ScramSha256, None, Nonce([2; 18]));
            server.start(Some(&response(initial.as_bytes()).unwrap())).unwrap();
            let verifier = ScramVerifier::derive(&Password::prepare(b"pw").unwrap(), b"salt and salt", 4096);
            let server::Step::Challenge(challenge) = server.use_verifier(&verifier).unwrap() else {
                panic!("no challenge")
            };
            let line = format!("+ {}\r\n", base64::encode(challenge));
            assert_eq!(feed(&mut client, line.as_bytes(), 7), [Event::DeriveKeys]);
            let keys = client.take_derivation().unwrap().derive();
            client.use_keys(&keys).unwrap();
            if is_early {
                let early = client.handle_input(b"c1 OK come in\r\n");
                assert!(matches!(early, Err(ClientError::Sasl(_))), "{early:?}");
                continue;
            }
            let proof = response(said(&mut client).trim_end().as_bytes()).unwrap();
            let server::Step::Challenge(signature) = server.handle_response(&proof).unwrap() else {
                panic!("no signature")
            };
            let line = format!("+ {}\r\n", base64::encode(signature));
            assert_eq!(feed(&mut client, line.as_bytes(), 99), []);
            assert_eq!(said(&mut client), "\r\n");
            assert_eq!(feed(&mut client, b"c1 OK in\r\n", 99), [completed(Command::Authenticate, "in")]);
        }
    }
}
