//! Whatever bytes come from the network, the POP3 and IMAP state machines neither panic nor grow without bound.

use chasqui_protocol::imap::client::Client as ImapClient;
use chasqui_protocol::imap::client::{Event as ImapEvent, UidRange};
use chasqui_protocol::imap::server::{Commands, Event as CommandsEvent, Limits};
use chasqui_protocol::pop3::client::{Client as Pop3Client, Event as Pop3Event};
use chasqui_protocol::pop3::server::{Event as SessionEvent, Listed, Listing, Offer, Refusal, Session};
use chasqui_protocol::sasl::mechanism::Mechanisms;
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes made of pieces that matter to the grammars, and of anything.
fn rubbish() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 44] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"{5}\r\n",
        b"{5+}\r\n",
        b"{4294967295}\r\n",
        b"{0}\r\n",
        b"(",
        b")",
        b"\"",
        b"\\",
        b"* ",
        b"+ ",
        b"a1 ",
        b"c1 ",
        b"c2 ",
        b"OK ",
        b"NO ",
        b"BYE x",
        b"1 FETCH (",
        b"UID 1 ",
        b"BODY[] ",
        b"FLAGS (",
        b"[UIDNEXT 1] ",
        b"LOGIN u p",
        b"IDLE",
        b"DONE",
        b"UID FETCH 1:* ",
        b"BODY.PEEK[]<0.1>",
        b"SEARCH ",
        b"OR NOT ",
        b"1:*,",
        b"+OK ",
        b"-ERR ",
        b".",
        b".\r\n",
        b"RETR 1",
        b"TOP 1 1",
        b"DELE ",
        b"USER u",
        b"PASS p",
        b"LIST",
        b"\0\xff",
    ];
    let piece = prop_oneof![
        4 => (0..PIECES.len()).prop_map(|index| PIECES[index].to_vec()),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// The servers' parsers.
    #[test]
    fn servers_survive(input in rubbish(), chunk in 1usize..40) {
        let limits = Limits { command_octets: 200, literal_octets: 50, errors: 10 };
        let mut commands = Commands::new(limits);
        let mut session = Session::new("test", Offer { starttls: true, mechanisms: Mechanisms::ALL });
        'input: for piece in input.chunks(chunk) {
            commands.handle_input(piece);
            while let Some(event) = commands.poll_event() {
                match event {
                    CommandsEvent::TooManyErrors => break 'input,
                    // Whatever the command was, its next line may be a response.
                    CommandsEvent::Command(command) if command.tag.as_ref().len() > 2 => {
                        commands.challenge(b"who");
                    }
                    _ => {}
                }
            }
        }
        'input: for piece in input.chunks(chunk) {
            let mut rest = piece;
            loop {
                let (used, event) = session.handle_input(rest);
                rest = &rest[used..];
                match event {
                    SessionEvent::NeedInput => break,
                    SessionEvent::OutputFull => session.output().clear(),
                    SessionEvent::Login { .. } => {
                        let messages = vec![Listed { uid: 1, size: 3 }];
                        session.accept_login(Listing { uid_validity: 1, messages });
                    }
                    SessionEvent::StartTls if rest.is_empty() => session.secured(Offer::default()),
                    SessionEvent::StartTls => {}
                    SessionEvent::Authenticate { .. } => session.challenge(b"who"),
                    SessionEvent::Response(_) => session.refuse_login(Refusal::Response),
                    SessionEvent::Retrieve { index } | SessionEvent::Top { index, .. } => {
                        prop_assert_eq!(index, 0);
                        session.begin_message(3);
                    }
                    SessionEvent::Quit { .. } | SessionEvent::TooManyErrors => break 'input,
                }
            }
        }
        prop_assert!(commands.output().len() < 100 * (input.len() + 1));
        prop_assert!(session.output().len() < 100 * (input.len() + 1));
    }

    /// The clients' parsers, with commands under way.
    #[test]
    fn clients_survive(input in rubbish(), chunk in 1usize..40) {
        let mut imap = ImapClient::new();
        prop_assert!(matches!(imap.handle_input(b"* OK hi\r\n"), Ok((_, ImapEvent::Greeting))));
        imap.uid_fetch_bodies(UidRange { first: 0, last: None });
        imap.idle();
        'input: for piece in input.chunks(chunk) {
            let mut rest = piece;
            loop {
                match imap.handle_input(rest) {
                    Err(_) => break 'input,
                    Ok((_, ImapEvent::NeedInput)) => break,
                    Ok((used, _)) => rest = &rest[used..],
                }
            }
        }
        let mut pop3 = Pop3Client::new("u", "p").unwrap();
        for greeting in ["+OK\r\n", "+OK\r\nPIPELINING\r\n.\r\n", "+OK\r\n", "+OK\r\n"] {
            let _ = pop3.handle_input(greeting.as_bytes());
        }
        pop3.list();
        pop3.retr(1);
        pop3.uidl();
        'input: for piece in input.chunks(chunk) {
            let mut rest = piece;
            loop {
                match pop3.handle_input(rest) {
                    Err(_) => break 'input,
                    Ok((_, Pop3Event::NeedInput)) => break,
                    Ok((used, _)) => rest = &rest[used..],
                }
            }
        }
    }
}
