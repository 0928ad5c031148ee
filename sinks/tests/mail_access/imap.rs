//! One IMAP session over sockets.

use std::collections::VecDeque;

use chasqui_protocol::imap::client::{Client, Command, Event, Status, UidRange};
use chasqui_runtime::net::TcpStream;

use crate::support::{CLOSED, Lines, PASSWORD, Site, USER, connect, message, with_site};

/// A client with its connection; what it hears waits in a queue, bodies in one piece.
struct Reader {
    stream: TcpStream,
    client: Client,
    events: VecDeque<Event<'static>>,
}

impl Reader {
    async fn connect(site: &Site) -> Reader {
        let mut reader =
            Reader { stream: connect(site.imap).await, client: Client::new(), events: VecDeque::new() };
        assert_eq!(reader.next().await, Event::Greeting);
        reader.client.login(USER, PASSWORD).unwrap();
        reader.completed(Command::Login).await;
        reader
    }

    async fn next(&mut self) -> Event<'static> {
        loop {
            let output = std::mem::take(self.client.output());
            if !output.is_empty() {
                self.stream.write_all(output).await.unwrap();
            }
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let received = self.stream.read().await.unwrap();
            assert!(!received.is_empty(), "the server closed");
            let mut input: &[u8] = &received;
            loop {
                let (used, event) = self.client.handle_input(input).unwrap();
                input = &input[used..];
                match event {
                    Event::NeedInput => break,
                    Event::Body(bytes) => self.events.push_back(Event::Body(bytes.into_owned().into())),
                    event => self.events.push_back(own(event)),
                }
            }
        }
    }

    /// Everything heard up to the completion of this command, which must be OK.
    async fn completed(&mut self, command: Command) -> Vec<Event<'static>> {
        let mut heard = Vec::new();
        loop {
            match self.next().await {
                Event::Completed { command: completed, status, text } if completed == command => {
                    assert_eq!(status, Status::Ok, "{command:?}: {text}");
                    return heard;
                }
                event => heard.push(event),
            }
        }
    }
}

/// Events other than bodies borrow nothing.
fn own(event: Event<'_>) -> Event<'static> {
    match event {
        Event::NeedInput => Event::NeedInput,
        Event::Greeting => Event::Greeting,
        Event::Idling => Event::Idling,
        Event::Exists(count) => Event::Exists(count),
        Event::Recent(count) => Event::Recent(count),
        Event::Expunged(seq) => Event::Expunged(seq),
        Event::UidValidity(value) => Event::UidValidity(value),
        Event::UidNext(value) => Event::UidNext(value),
        Event::Search(found) => Event::Search(found),
        Event::Fetch { seq, uid, size, flags } => Event::Fetch { seq, uid, size, flags },
        Event::BodyStart { seq, uid, size } => Event::BodyStart { seq, uid, size },
        Event::Body(bytes) => Event::Body(bytes.into_owned().into()),
        Event::BodyEnd { seq, uid } => Event::BodyEnd { seq, uid },
        Event::Completed { command, status, text } => Event::Completed { command, status, text },
        Event::Bye(text) => Event::Bye(text),
        Event::DeriveKeys => Event::DeriveKeys,
    }
}

/// The bodies among events, by UID.
fn bodies(events: Vec<Event<'static>>) -> Vec<(u32, Vec<u8>)> {
    let mut bodies: Vec<(u32, Vec<u8>)> = Vec::new();
    for event in events {
        match event {
            Event::BodyStart { uid, .. } => bodies.push((uid.unwrap(), Vec::new())),
            Event::Body(bytes) => bodies.last_mut().unwrap().1.extend_from_slice(&bytes),
            _ => {}
        }
    }
    bodies
}

/// Messages of all sorts and sizes come back byte for byte, and are gone after deletion.
#[test]
fn messages_come_back() {
    with_site(|site| async move {
        let mut expected: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut deliver = |message: Vec<u8>| expected.push((site.deliver(&message), message));
        (0..200).for_each(|n| deliver(message(n, n * 40, n % 3 == 0)));
        deliver(Vec::new());
        deliver(message(1, 25 << 20, true));
        let mut reader = Reader::connect(&site).await;
        assert!(reader.client.has_capability("IDLE") && reader.client.has_capability("UIDPLUS"));
        reader.client.select("inbox").unwrap();
        let heard = reader.completed(Command::Select).await;
        assert!(heard.contains(&Event::Exists(202)) && heard.contains(&Event::Recent(202)));
        assert!(heard.contains(&Event::UidNext(203)));
        reader.client.uid_fetch_bodies(UidRange { first: 1, last: None });
        assert!(bodies(reader.completed(Command::Fetch).await) == expected);
        reader.client.uid_store_deleted(UidRange { first: 1, last: Some(201) });
        reader.client.expunge();
        reader.completed(Command::Store).await;
        assert_eq!(reader.completed(Command::Expunge).await.len(), 201);
        reader.client.uid_search_all();
        assert_eq!(reader.completed(Command::Search).await, [Event::Search(vec![202])]);
        reader.client.logout();
        assert!(matches!(reader.completed(Command::Logout).await[..], [Event::Bye(_)]));
        let state = site.store.open(USER).unwrap();
        assert_eq!(state.lock().messages().len(), 1);
    });
}

/// A reader that idles hears of a delivery at once, fetches it, and hears of the next.
#[test]
fn idle_announces_deliveries() {
    with_site(|site| async move {
        let mut reader = Reader::connect(&site).await;
        reader.client.select("INBOX").unwrap();
        reader.completed(Command::Select).await;
        for number in 1..=3u32 {
            reader.client.idle();
            assert_eq!(reader.next().await, Event::Idling);
            site.deliver(&message(number as usize, 500, false));
            assert_eq!(reader.next().await, Event::Exists(number));
            reader.client.done();
            reader.client.uid_fetch_bodies(UidRange { first: number, last: None });
            reader.completed(Command::Idle).await;
            let fetched = bodies(reader.completed(Command::Fetch).await);
            assert_eq!(fetched, [(number, message(number as usize, 500, false))]);
        }
    });
}

/// Sections, partial texts, sizes, dates and flags are as RFC 3501 wants them.
#[test]
fn fetch_items() {
    with_site(|site| async move {
        site.deliver(b"Subject: x\r\nTo: y\r\n\r\nbody of it\r\n");
        let mut lines = Lines::selected(&site).await;
        let fetched = lines.command("a FETCH 1 (FLAGS UID RFC822.SIZE INTERNALDATE)").await;
        let date = "INTERNALDATE \"14-Nov-2023 22:13:20 +0000\"";
        assert_eq!(
            fetched,
            format!("* 1 FETCH (FLAGS (\\Recent) UID 1 RFC822.SIZE 33 {date})\na OK fetched")
        );
        assert!(lines.command("b FETCH 1 FAST").await.contains("RFC822.SIZE 33"));
        for (item, response) in [
            ("BODY.PEEK[HEADER.FIELDS (SUBJECT)]", "BODY[HEADER.FIELDS (SUBJECT)] {14}|Subject: x||"),
            ("BODY.PEEK[HEADER.FIELDS.NOT (Subject)]", "BODY[HEADER.FIELDS.NOT (Subject)] {9}|To: y||"),
            ("BODY.PEEK[HEADER]", "BODY[HEADER] {21}|Subject: x|To: y||"),
            ("BODY.PEEK[TEXT]<5.2>", "BODY[TEXT]<5> {2}|of"),
            ("BODY.PEEK[]<21.4096>", "BODY[]<21> {12}|body of it|"),
            ("BODY.PEEK[]<33.1>", "BODY[]<33> {0}|"),
            ("RFC822.HEADER", "RFC822.HEADER {21}|Subject: x|To: y||"),
        ] {
            lines.send(&format!("c UID FETCH 1 {item}\r\n")).await;
            let expected = format!("* 1 FETCH (UID 1 {response})").replace('|', "\r\n");
            assert_eq!(lines.bytes(expected.len()).await, expected);
            assert_eq!(lines.until("c ").await, "\nc OK fetched");
        }
        // Without PEEK the message becomes \Seen, and the response says so.
        let seen = lines.command("d FETCH 1 (BODY[TEXT])").await;
        assert!(seen.ends_with(" FLAGS (\\Seen \\Recent))\nd OK fetched"), "{seen}");
        assert_eq!(
            lines.command("e FETCH 1 FLAGS").await,
            "* 1 FETCH (FLAGS (\\Seen \\Recent))\ne OK fetched"
        );
    });
}

/// Lines that are too long, rubbish and wrong states are answered, and the session lives.
#[test]
fn rubbish_is_answered() {
    with_site(|site| async move {
        let mut lines = Lines::connect(site.imap).await;
        assert!(lines.line().await.starts_with("* OK [CAPABILITY IMAP4rev1"));
        lines.send(&"x".repeat(100_000)).await;
        lines.send("\r\n").await;
        assert_eq!(lines.line().await, "* BAD the command is too long");
        assert_eq!(lines.command("a SELECT INBOX").await, "a BAD log in first");
        assert_eq!(lines.command("b IDLE").await, "b BAD log in first");
        assert_eq!(
            lines.command("c LOGIN u1@example.org chasqui").await,
            "c NO invalid user name or password"
        );
        assert!(lines.command(&format!("d LOGIN {USER} {PASSWORD}")).await.contains("d OK"));
        assert_eq!(lines.command("e FETCH 1 FLAGS").await, "e BAD select a mailbox first");
        assert!(lines.command("f SELECT Drafts").await.starts_with("f NO"));
        assert!(lines.command("g SELECT INBOX").await.contains("g OK [READ-WRITE]"));
        assert_eq!(lines.command("h FETCH 1:2 FLAGS").await, "h BAD no such message");
        assert_eq!(lines.command("i FETCH 1:* FLAGS").await, "i OK fetched");
        assert!(lines.command("j FETCH 1:* ENVELOPE").await.starts_with("j NO"));
        assert_eq!(lines.command("k LIST \"\" \"\"").await, "* LIST (\\Noselect) \"/\" \"\"\nk OK listed");
        assert_eq!(lines.command("l LIST \"\" *").await, "* LIST (\\Noinferiors) \"/\" INBOX\nl OK listed");
        assert!(lines.command("m CREATE Sent").await.starts_with("m NO"));
        lines.send("n IDLE\r\nnonsense\r\n").await;
        assert_eq!(lines.line().await, "+ idling");
        assert_eq!(lines.line().await, "n BAD DONE was expected");
        assert!(lines.command("o UNSELECT").await.contains("o OK"));
        lines.send("p LOGOUT\r\n").await;
        assert!(lines.line().await.starts_with("* BYE"));
        assert!(lines.line().await.starts_with("p OK"));
        assert_eq!(lines.line().await, CLOSED);
    });
}

/// Each item of STATUS is told once, and right after flags and messages have come and gone.
#[test]
fn status_items_are_told_once() {
    with_site(|site| async move {
        (0..4).for_each(|_| assert!(site.deliver(b"12345") > 0));
        let mut lines = Lines::selected(&site).await;
        lines.command("a STORE 1:2 FLAGS (\\Seen \\Deleted)").await;
        lines.command("a STORE 2:3 FLAGS (\\Deleted)").await;
        let items = "UNSEEN DELETED UNSEEN MESSAGES DELETED-STORAGE UNSEEN DELETED";
        let said = lines.command(&format!("b STATUS INBOX ({items})")).await;
        assert_eq!(said, "* STATUS INBOX (UNSEEN 3 DELETED 3 MESSAGES 4 DELETED-STORAGE 15)\nb OK counted");
        lines.command("c UID EXPUNGE 1:2").await;
        let said = lines.command("d STATUS INBOX (UNSEEN DELETED)").await;
        assert_eq!(said, "* STATUS INBOX (UNSEEN 2 DELETED 1)\nd OK counted");
    });
}

/// NUL is in no literal: it goes out as the octet 128, with the sizes as they are, and one that comes in is refused.
#[test]
fn literals_have_no_nul() {
    with_site(|site| async move {
        site.deliver(b"A: \0\r\n\r\nb\0\r\n");
        let mut lines = Lines::selected(&site).await;
        for (item, expected) in [
            ("BODY.PEEK[]", b"{12}\r\nA: \x80\r\n\r\nb\x80\r\n".as_slice()),
            ("BODY.PEEK[TEXT]<1.1>", b"<1> {1}\r\n\x80"),
            ("BODY.PEEK[HEADER.FIELDS (A)]", b"{8}\r\nA: \x80\r\n\r\n"),
        ] {
            lines.send(&format!("a FETCH 1 {item}\r\n")).await;
            let mut said = Vec::new();
            while !said.ends_with(b"OK fetched\r\n") {
                said.extend_from_slice(&lines.stream.read().await.unwrap());
            }
            assert!(said.windows(expected.len()).any(|part| part == expected), "{:?}", said.escape_ascii());
        }
        lines.send("b SEARCH SUBJECT {3}\r\n").await;
        assert!(lines.line().await.starts_with('+'));
        lines.send("a\0b\r\n").await;
        assert!(lines.line().await.starts_with("b BAD"));
    });
}
