//! Handshakes of both ends, what goes through, what is trusted and what is resumed.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use chasqui_runtime::net::{ListenOptions, Parts, TcpListener};
use chasqui_runtime::{Config, run, spawn};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Certificates, ClientTls, HANDSHAKE_LIMIT, HandshakeError, ServerTls, Trust};
use crate::{Drain, Stream};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// PEM texts of a certificate for `names` and of its key.
fn issue(authority: &Authority, names: &[&str], expired: bool) -> (String, String) {
    let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).expect("names");
    if expired {
        params.not_after = date_time_ymd(2020, 1, 1);
        params.not_before = date_time_ymd(2019, 1, 1);
    }
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, authority).expect("signed").pem(), key.serialize_pem())
}

/// Certificates read from files, as an operator gives them.
fn certificates(folder: &Path, pairs: &[(String, String)]) -> Certificates {
    let mut files = Vec::new();
    for (place, (chain, key)) in pairs.iter().enumerate() {
        let paths = (folder.join(format!("{place}.pem")), folder.join(format!("{place}.key")));
        std::fs::write(&paths.0, chain).expect("written");
        std::fs::write(&paths.1, key).expect("written");
        files.push(paths);
    }
    Certificates::read(files.iter().map(|(chain, key)| (chain.as_path(), key.as_path()))).expect("read")
}

/// A server that sends back what it gets.
fn echo(tls: ServerTls) -> SocketAddr {
    let any = ListenOptions { reuse_port: false, backlog: 16 };
    let listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"), &any).expect("bound");
    let address = listener.local_addr();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            spawn(async move {
                let mut stream = Stream::from(stream);
                if stream.accept_tls(&tls, HANDSHAKE_LIMIT, &Drain::default()).await.is_err() {
                    return;
                }
                // A client that trusts nobody closes, which is its own test's matter.
                while let Ok(piece) = stream.read().await {
                    if piece.is_empty() {
                        let _gone = stream.write_last(Vec::new()).await;
                        return;
                    }
                    let _gone = stream.post(&mut piece.to_vec()).await;
                }
            });
        }
    });
    address
}

async fn connect(
    address: SocketAddr,
    tls: &ClientTls,
    trust: Trust,
    host: &str,
) -> Result<Stream, HandshakeError> {
    let mut stream = Stream::connect(address, None).await?;
    stream.connect_tls(tls, trust, host).await?;
    Ok(stream)
}

/// Sends `sent` and reads as much back.
async fn converse(stream: &Stream, sent: &[u8]) -> io::Result<Vec<u8>> {
    let sending = stream.clone();
    let bytes = Rc::new(sent.to_vec());
    let sender = spawn({
        let bytes = bytes.clone();
        async move { sending.send(Parts::new().bytes(bytes.to_vec()).fixed(b"")).await }
    });
    let mut back = Vec::new();
    while back.len() < sent.len() {
        let piece = stream.read().await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        back.extend_from_slice(&piece);
    }
    sender.await?;
    Ok(back)
}

fn in_runtime<F: Future<Output = ()> + 'static>(test: impl Fn() -> F + Send + Sync + 'static) {
    run(Config::default(), test).expect("the runtime runs");
}

fn roots(folder: &Path, authority: &Authority) -> std::path::PathBuf {
    let path = folder.join("roots.pem");
    std::fs::write(&path, authority.pem()).expect("written");
    path
}

/// Octets of every length go through unchanged, both ways, and a second connection resumes the session of the first, also after
/// the certificates were replaced.
#[test]
fn octets_go_through_and_sessions_are_resumed() {
    in_runtime(|| async {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority();
        let roots = roots(folder.path(), &authority);
        let pairs = [issue(&authority, &["mx.test"], false)];
        let server = ServerTls::new(certificates(folder.path(), &pairs)).expect("a server");
        let address = echo(server.clone());
        let client = ClientTls::new(Some(&roots), true).expect("a client");
        for (trust, resumes) in [Trust::Any, Trust::Verified].into_iter().zip([true, true]) {
            for round in 0..3 {
                let stream = connect(address, &client, trust, "mx.test").await.expect("connected");
                for length in [1, 100, 16_384, 16_385, 1_000_000] {
                    let octets = (0..length).map(|place| (place * 7 + length) as u8).collect::<Vec<_>>();
                    assert_eq!(converse(&stream, &octets).await.expect("echoed"), octets);
                }
                let agreed = stream.agreed().expect("in TLS");
                assert_eq!((agreed.version, agreed.resumed), ("TLS1.3", resumes && round > 0), "{round}");
                assert!(agreed.cipher.starts_with("TLS_"), "{agreed:?}");
                stream.write_last(Vec::new()).await.expect("sent");
                assert!(stream.read().await.expect("the end").is_empty());
                server.replace(certificates(folder.path(), &[issue(&authority, &["mx.test"], false)]));
            }
        }
        let none = ClientTls::new(Some(&roots), false).expect("a client");
        for _ in 0..2 {
            let stream = connect(address, &none, Trust::Verified, "mx.test").await.expect("connected");
            converse(&stream, b"octets").await.expect("echoed");
            assert!(!stream.agreed().expect("in TLS").resumed);
        }
    });
}

/// Connections to one host that are open at the same time all resume when as many were open before them, whoever it is trusted by.
#[test]
fn connections_in_parallel_are_resumed() {
    const PARALLEL: usize = 50;
    in_runtime(|| async {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority();
        let roots = roots(folder.path(), &authority);
        let pairs = [issue(&authority, &["mx.test"], false)];
        let address = echo(ServerTls::new(certificates(folder.path(), &pairs)).expect("a server"));
        let client = ClientTls::new(Some(&roots), true).expect("a client");
        for trust in [Trust::Any, Trust::Verified] {
            for round in 0..3 {
                let mut streams = Vec::new();
                for _ in 0..PARALLEL {
                    streams.push(connect(address, &client, trust, "mx.test").await.expect("connected"));
                }
                let is_resumed = |stream: &&Stream| stream.agreed().expect("in TLS").resumed;
                let resumed = streams.iter().filter(is_resumed).count();
                assert_eq!(resumed, if round == 0 { 0 } else { PARALLEL }, "round {round}");
                for stream in &streams {
                    // The ticket comes with what is read.
                    converse(stream, b"octets").await.expect("echoed");
                }
            }
        }
    });
}

/// Who verifies takes a certificate for the name, that leads to a root and is in force, and no other; who does not takes any, and
/// a session of the latter is not resumed by the former.
#[test]
fn trust() {
    in_runtime(|| async {
        let folder = tempfile::tempdir().expect("a folder");
        let (authority, stranger) = (authority(), super::tests::authority());
        let roots = roots(folder.path(), &authority);
        let client = ClientTls::new(Some(&roots), true).expect("a client");
        for (issuer, names, expired, is_good) in [
            (&authority, ["mx.d.test"].as_slice(), false, true),
            (&authority, ["other.test", "*.d.test"].as_slice(), false, true),
            (&authority, ["mx.d.test"].as_slice(), true, false),
            (&authority, ["other.test"].as_slice(), false, false),
            (&stranger, ["mx.d.test"].as_slice(), false, false),
        ] {
            let pairs = [issue(issuer, names, expired)];
            let address = echo(ServerTls::new(certificates(folder.path(), &pairs)).expect("a server"));
            let any = connect(address, &client, Trust::Any, "mx.d.test").await.expect("any will do");
            converse(&any, b"octets").await.expect("echoed");
            let verified = connect(address, &client, Trust::Verified, "mx.d.test").await;
            assert_eq!(verified.is_ok(), is_good, "{names:?}, expired: {expired}: {verified:?}");
            assert!(verified.is_err() || verified.is_ok_and(|stream| !stream.agreed().expect("TLS").resumed));
        }
    });
}

/// A server shows the certificate for the name that it is asked for, and its first one to others.
#[test]
fn names() {
    in_runtime(|| async {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority();
        let roots = roots(folder.path(), &authority);
        let pairs =
            [["first.test"], ["MX.second.test"], ["*.third.test"]].map(|it| issue(&authority, &it, false));
        let address = echo(ServerTls::new(certificates(folder.path(), &pairs)).expect("a server"));
        let client = ClientTls::new(Some(&roots), false).expect("a client");
        for (host, is_good) in [
            ("first.test", true),
            ("mx.second.test", true),
            ("any.third.test.", true),
            ("a.b.third.test", false),
            ("fourth.test", false),
            ("127.0.0.1", false),
        ] {
            let connected = connect(address, &client, Trust::Verified, host).await;
            assert_eq!(connected.is_ok(), is_good, "{host}: {connected:?}");
        }
        let unnamed = connect(address, &client, Trust::Verified, "under_score.-").await;
        assert!(matches!(unnamed, Err(HandshakeError::Name(_))), "{unnamed:?}");
        connect(address, &client, Trust::Any, "under_score.-").await.expect("any will do");
    });
}

/// A peer that talks no TLS, or breaks off, ends the handshake with its reason, on either side.
#[test]
fn handshakes_that_fail() {
    in_runtime(|| async {
        let folder = tempfile::tempdir().expect("a folder");
        let pairs = [issue(&authority(), &["mx.test"], false)];
        let address = echo(ServerTls::new(certificates(folder.path(), &pairs)).expect("a server"));
        let plain = Stream::connect(address, None).await.expect("connected");
        plain.write_all(b"EHLO client.test\r\n".to_vec()).await.expect("sent");
        let alert = plain.read().await.expect("an alert");
        assert_eq!(alert.first(), Some(&21), "an alert record");
        let any = ListenOptions { reuse_port: false, backlog: 16 };
        let listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"), &any).expect("bound");
        let address = listener.local_addr();
        spawn(async move {
            for words in [b"220 mx.test ESMTP\r\n".as_slice(), b""] {
                let (stream, _) = listener.accept().await.expect("accepted");
                let _hello = stream.read().await.expect("a hello");
                stream.write_all(words.to_vec()).await.expect("sent");
            }
        });
        let client = ClientTls::new(None, true).expect("a client");
        let talks = connect(address, &client, Trust::Any, "mx.test").await;
        assert!(matches!(talks, Err(HandshakeError::Tls(_))), "{talks:?}");
        let closes = connect(address, &client, Trust::Any, "mx.test").await;
        assert!(matches!(closes, Err(HandshakeError::Connection(_))), "{closes:?}");
    });
}

/// A file that is not what it should be is named, with what is wrong.
#[test]
fn files_that_are_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let (chain, key) = issue(&authority(), &["mx.test"], false);
    let (_, other_key) = issue(&authority(), &["mx.test"], false);
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let (chain_file, key_file) = (file("chain.pem", &chain), file("key.pem", &key));
    for (chain, key, wrong) in [
        (folder.path().join("none.pem"), key_file.clone(), "none.pem: No such file"),
        (file("empty.pem", ""), key_file.clone(), "empty.pem: no certificate in PEM form"),
        (chain_file.clone(), file("nokey.pem", &chain), "nokey.pem: no private key in PEM form"),
        (chain_file.clone(), file("other.pem", &other_key), "chain.pem: keys may not be consistent"),
        (file("cut.pem", &chain[..chain.len() / 2]), key_file.clone(), "cut.pem: "),
    ] {
        let line = Certificates::read([(chain.as_path(), key.as_path())]).unwrap_err().to_string();
        assert!(line.contains(wrong), "{line}");
    }
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(vec![0x30, 0]));
    assert!(Certificates::from_der(Vec::new(), der).is_err());
    assert!(Certificates::read([]).is_err());
}

/// What the fuzzer of records (relay/fuzz) has found runs again without a broken promise; and so do connections that nobody meddles
/// with, however their records are cut.
#[test]
fn hostile_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = issue(&authority(), &["server.test"], false);
    let server = ServerTls::new(certificates(folder.path(), &[pair])).expect("a server");
    let client = ClientTls::new(None, false).expect("a client");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relay/fuzz/corpus/tls_records");
    let mut inputs = 0;
    for entry in std::fs::read_dir(&corpus).expect("a corpus") {
        let input = std::fs::read(entry.expect("an entry").path()).expect("read");
        super::fuzzing::hostile_records(&server, &client, &input);
        inputs += 1;
    }
    assert!(inputs >= 10, "{inputs} inputs in {}", corpus.display());
    for cut in [16, 17, 100, 1000] {
        let program = [1, 0, cut as u8].repeat(500);
        super::fuzzing::hostile_records(&server, &client, &[&[2, 0x90, 1], &program[..]].concat());
    }
}
