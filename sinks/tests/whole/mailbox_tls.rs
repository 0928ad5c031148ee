//! POP3 and IMAP in TLS, and logins by SASL: by the clients of `protocol`, and line by line.

use std::path::Path;

use chasqui_protocol::imap::client as imap;
use chasqui_protocol::pop3::client as pop3;
use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::client::{Exchange, Options};
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_protocol::sasl::{Nonce, base64};
use chasqui_runtime::secret;
use chasqui_sinks::{CertificateSource, Config, SinkReady, StartError, start};
use chasqui_transport::Stream;
use chasqui_transport::tls::{ClientTls, Trust};

use super::support::{config, with_sinks};

const USER: &str = "u1@d1.chasqui.test";
const PASSWORD: &str = "chasqui";
/// What [`Lines::line`] gives at the end of the stream.
const CLOSED: &str = "(closed)";
/// In TLS 1.3, best first.
const OFFERED: [Mechanism; 3] = [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain];

/// With a certificate whose root is in `directory`, and everything that listens.
fn secure(directory: &Path) -> Config {
    let root = Some(directory.join("root.pem"));
    let config = config(directory);
    Config {
        certificate: Some(CertificateSource::SelfSigned { root }),
        pop3s: config.pop3,
        imaps: config.imap,
        ..config
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Starttls,
    Implicit,
}

/// A connection that is in TLS where `mode` says so from the start.
async fn connect(ready: &SinkReady, is_imap: bool, mode: Mode, tls: &ClientTls) -> Stream {
    let address = match (is_imap, mode) {
        (false, Mode::Implicit) => ready.pop3s,
        (false, _) => ready.pop3,
        (true, Mode::Implicit) => ready.imaps,
        (true, _) => ready.imap,
    };
    let mut stream = Stream::connect(address.unwrap(), None).await.unwrap();
    if mode == Mode::Implicit {
        go_over(&mut stream, tls).await;
    }
    stream
}

async fn go_over(stream: &mut Stream, tls: &ClientTls) {
    stream.connect_tls(tls, Trust::Verified, "127.0.0.1").await.expect("the root is trusted");
}

/// Logs in by IMAP; the server's text when it refuses.
async fn imap_login(
    ready: &SinkReady,
    mode: Mode,
    tls: &ClientTls,
    mechanism: Mechanism,
    password: &str,
) -> Result<(), String> {
    let mut stream = connect(ready, true, mode, tls).await;
    let mut client = imap::Client::new();
    let authenticate = |client: &mut imap::Client, stream: &Stream| {
        assert!(client.mechanisms().contains(mechanism), "{mechanism} {mode:?}: {:?}", client.mechanisms());
        // A client that can bind and says that it is not offered is being deceived.
        let exported = stream.exporter().filter(|_| mechanism == Mechanism::ScramSha256Plus);
        let channel_binding = exported.map(ChannelBinding::TlsExporter);
        let offered = Mechanisms::NONE.with(mechanism);
        let options = Options { offered, channel_binding, may_show_password: true };
        let account = Account::new(USER, password).unwrap();
        client.authenticate(Exchange::new(&options, &account, Nonce(secret()), None).unwrap());
    };
    loop {
        let output = std::mem::take(client.output());
        stream.write_all(output).await.unwrap();
        let received = stream.read().await.unwrap();
        assert!(!received.is_empty(), "the server closed");
        let mut input = &received[..];
        let mut is_turning = false;
        loop {
            let (used, event) = client.handle_input(input).unwrap();
            input = &input[used..];
            match event {
                imap::Event::NeedInput => break,
                imap::Event::Greeting if mode == Mode::Starttls => client.starttls(),
                imap::Event::Greeting => authenticate(&mut client, &stream),
                imap::Event::DeriveKeys => {
                    let keys = client.take_derivation().unwrap().derive();
                    client.use_keys(&keys).unwrap();
                }
                imap::Event::Completed { command, status, text } => match (command, status) {
                    (imap::Command::StartTls, imap::Status::Ok) => is_turning = true,
                    (imap::Command::Capability, imap::Status::Ok) => authenticate(&mut client, &stream),
                    (imap::Command::Authenticate, imap::Status::Ok) => return Ok(()),
                    _ => return Err(text),
                },
                event => panic!("{event:?}"),
            }
        }
        drop(received);
        if is_turning {
            go_over(&mut stream, tls).await;
            client.secured();
            client.capability();
        }
    }
}

/// The same by POP3.
async fn pop3_login(
    ready: &SinkReady,
    mode: Mode,
    tls: &ClientTls,
    mechanism: Mechanism,
    password: &str,
) -> Result<(), String> {
    let mut stream = connect(ready, false, mode, tls).await;
    let binding = |stream: &Stream| stream.exporter().map(ChannelBinding::TlsExporter);
    let sasl = pop3::Sasl {
        mechanisms: Mechanisms::NONE.with(mechanism),
        nonce: Nonce(secret()),
        keys: None,
        channel_binding: binding(&stream),
        may_show_password: true,
    };
    let options = pop3::Options { starttls: mode == Mode::Starttls, sasl: Some(sasl) };
    let mut client = pop3::Client::with_options(USER, password, options).unwrap();
    loop {
        let output = std::mem::take(client.output());
        stream.write_all(output).await.unwrap();
        let received = stream.read().await.unwrap();
        assert!(!received.is_empty(), "the server closed");
        let mut input = &received[..];
        let mut is_turning = false;
        loop {
            let (used, event) = client.handle_input(input).unwrap();
            input = &input[used..];
            match event {
                pop3::Event::NeedInput => break,
                pop3::Event::StartTls => is_turning = true,
                pop3::Event::DeriveKeys => {
                    let keys = client.take_derivation().unwrap().derive();
                    client.use_keys(&keys).unwrap();
                }
                pop3::Event::Ready { .. } => return Ok(()),
                pop3::Event::LoginRefused { text, .. } => return Err(text),
                event => panic!("{event:?}"),
            }
        }
        drop(received);
        if is_turning {
            go_over(&mut stream, tls).await;
            client.secured(binding(&stream));
        }
    }
}

/// Proves that POP3 and IMAP let the right password in and no other, by every mechanism, in TLS from the start and after STLS or
/// STARTTLS, with a certificate that leads to the root that was written; in plain text by SCRAM alone.
#[test]
fn every_mechanism_in_every_mode() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root.pem");
    with_sinks(secure(directory.path()), move |ready| {
        let root = root.clone();
        async move {
            let tls = ClientTls::new(Some(&root), false).unwrap();
            for mode in [Mode::Plain, Mode::Starttls, Mode::Implicit] {
                for mechanism in OFFERED {
                    if mode == Mode::Plain && mechanism != Mechanism::ScramSha256 {
                        continue;
                    }
                    for password in [PASSWORD, "wrong"] {
                        let is_right = password == PASSWORD;
                        let imap = imap_login(&ready, mode, &tls, mechanism, password).await;
                        let pop3 = pop3_login(&ready, mode, &tls, mechanism, password).await;
                        let told = format!("{mode:?} {mechanism} {password}: {imap:?} {pop3:?}");
                        assert_eq!((imap.is_ok(), pop3.is_ok()), (is_right, is_right), "{told}");
                    }
                }
            }
        }
    });
}

/// A connection that speaks in lines.
struct Lines {
    stream: Stream,
    input: Vec<u8>,
}

impl Lines {
    async fn connect(ready: &SinkReady, is_imap: bool) -> Lines {
        let tls = ClientTls::new(None, false).unwrap();
        let stream = connect(ready, is_imap, Mode::Plain, &tls).await;
        let mut lines = Lines { stream, input: Vec::new() };
        lines.line().await;
        lines
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(newline) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=newline).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            let received = self.stream.read().await.unwrap();
            if received.is_empty() {
                return CLOSED.to_owned();
            }
            self.input.extend_from_slice(&received);
        }
    }

    /// Sends text and gives the next line.
    async fn say(&mut self, text: &str) -> String {
        self.stream.write_all(text.as_bytes().to_vec()).await.unwrap();
        self.line().await
    }
}

/// Proves that what is pipelined behind STLS and STARTTLS ends the session, unread on either side of TLS (CVE-2011-0411).
#[test]
fn what_is_pipelined_behind_starttls_ends_the_session() {
    let directory = tempfile::tempdir().unwrap();
    with_sinks(secure(directory.path()), |ready| async move {
        for behind in ["x", "USER a\r\nPASS b\r\n"] {
            let mut pop3 = Lines::connect(&ready, false).await;
            assert_eq!(pop3.say(&format!("STLS\r\n{behind}")).await, "+OK begin TLS");
            assert_eq!(pop3.line().await, "-ERR too many errors");
            assert_eq!(pop3.line().await, CLOSED);
        }
        for behind in ["x", "b LOGIN u p\r\n"] {
            let mut imap = Lines::connect(&ready, true).await;
            assert_eq!(imap.say(&format!("a STARTTLS\r\n{behind}")).await, "a OK begin TLS");
            assert_eq!(imap.line().await, "* BYE nothing may follow STARTTLS");
            assert_eq!(imap.line().await, CLOSED);
        }
    });
}

/// Proves that IMAP's AUTHENTICATE is refused where it is not offered, cancelled by `*`, survives rubbish, and ends the session
/// at the fifth wrong password.
#[test]
fn authenticate_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    with_sinks(secure(directory.path()), |ready| async move {
        let mut lines = Lines::connect(&ready, true).await;
        let plain = base64::encode(format!("\0{USER}\0{PASSWORD}"));
        let refused = lines.say(&format!("a AUTHENTICATE PLAIN {plain}\r\n")).await;
        assert!(refused.starts_with("a NO "), "PLAIN is for TLS: {refused}");
        let tls = ClientTls::new(None, false).unwrap();
        assert_eq!(lines.say("b STARTTLS\r\n").await, "b OK begin TLS");
        lines.stream.connect_tls(&tls, Trust::Any, "localhost").await.unwrap();
        let offered = lines.say("c CAPABILITY\r\n").await;
        assert_eq!(
            offered,
            "* CAPABILITY IMAP4rev1 IDLE UNSELECT UIDPLUS SASL-IR AUTH=SCRAM-SHA-256-PLUS AUTH=SCRAM-SHA-256 AUTH=PLAIN"
        );
        assert!(lines.line().await.starts_with("c OK"));
        assert!(lines.say("d STARTTLS\r\n").await.starts_with("d BAD"));
        for (response, answer) in [
            ("*\r\n", "e BAD the authentication is cancelled"),
            ("?\r\n", "e BAD the response is no base64"),
            ("eHh4\r\n", "e BAD the response is none of this mechanism"),
            (&format!("{}\r\n", "A".repeat(20_000)), "e BAD the response is too long"),
        ] {
            assert_eq!(lines.say("e AUTHENTICATE PLAIN\r\n").await, "+");
            assert_eq!(lines.say(response).await, answer);
        }
        let wrong = base64::encode(format!("\0{USER}\0wrong"));
        for _ in 0..5 {
            let refused = lines.say(&format!("f AUTHENTICATE PLAIN {wrong}\r\n")).await;
            assert_eq!(refused, "f NO invalid user name or password");
        }
        assert_eq!(lines.line().await, "* BYE too many failed logins");
        assert_eq!(lines.line().await, CLOSED);
    });
}

/// Proves that without a certificate there is neither STLS nor STARTTLS, and TLS from the start is refused in one line; and that
/// names and passwords go in plain text as before.
#[test]
fn without_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let refused = start(Config { certificate: None, ..secure(directory.path()) }).err().expect("refused");
    assert!(matches!(&refused, StartError::Config(line) if line.contains("certificate")), "{refused}");
    with_sinks(config(directory.path()), |ready| async move {
        assert_eq!((ready.pop3s, ready.imaps), (None, None));
        let mut pop3 = Lines::connect(&ready, false).await;
        assert!(pop3.say("STLS\r\n").await.starts_with("-ERR"));
        pop3.say(&format!("USER {USER}\r\n")).await;
        assert!(pop3.say(&format!("PASS {PASSWORD}\r\n")).await.starts_with("+OK"));
        let mut imap = Lines::connect(&ready, true).await;
        assert!(imap.say("a STARTTLS\r\n").await.starts_with("a BAD"));
        assert!(imap.say(&format!("b LOGIN {USER} {PASSWORD}\r\n")).await.starts_with("b OK"));
    });
}
