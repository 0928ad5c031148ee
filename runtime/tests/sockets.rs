//! Sockets of the runtime against each other.

use std::net::SocketAddr;
use std::time::Duration;

use chasqui_runtime::net::{
    ConnectOptions, ListenOptions, Parts, TcpListener, TcpStream, UnixListener, UnixStream,
};
use chasqui_runtime::{Config, fs::Segment, run, sleep, spawn, timeout};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    let client = spawn(async move { TcpStream::connect(address, &ConnectOptions::default()).await.unwrap() });
    let (server, _) = listener.accept().await.unwrap();
    (client.await, server)
}

async fn read_exactly(stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let piece = stream.read().await.unwrap();
        assert!(!piece.is_empty(), "the peer closed too early");
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len(), count);
    bytes
}

/// Bytes go both ways, and the end of one side is seen as an empty piece while the other goes on.
#[test]
fn half_close() {
    run(Config::default(), || async {
        let (client, server) = pair().await;
        client.write_all(b"question".to_vec()).await.unwrap();
        client.shutdown();
        assert_eq!(read_exactly(&server, 8).await, b"question");
        assert!(server.read().await.unwrap().is_empty());
        server.write_all(b"answer".to_vec()).await.unwrap();
        assert_eq!(read_exactly(&client, 6).await, b"answer");
        drop(server);
        assert!(client.read().await.unwrap().is_empty());
    })
    .unwrap();
}

/// A closed stream with a receive still standing sends its FIN.
#[test]
fn drop_with_standing_read_closes() {
    run(Config::default(), || async {
        let (client, server) = pair().await;
        assert!(timeout(Duration::from_millis(5), server.read()).await.is_err());
        drop(server);
        let end = timeout(Duration::from_secs(5), client.read()).await.unwrap().unwrap();
        assert!(end.is_empty());
    })
    .unwrap();
}

/// A cancelled read loses no bytes.
#[test]
fn cancelled_read_loses_nothing() {
    run(Config::default(), || async {
        let (client, server) = pair().await;
        let writer = spawn(async move {
            for byte in 0..100u8 {
                client.write_all(vec![byte; 100]).await.unwrap();
                sleep(Duration::from_micros(300)).await;
            }
            client
        });
        let mut bytes = Vec::new();
        while bytes.len() < 10_000 {
            if let Ok(piece) = timeout(Duration::from_micros(100), server.read()).await {
                bytes.extend_from_slice(&piece.unwrap());
            }
        }
        let expected: Vec<u8> = (0..100u8).flat_map(|byte| [byte; 100]).collect();
        assert_eq!(bytes, expected);
        drop(writer.await);
    })
    .unwrap();
}

/// More bytes than all buffers of the shard hold reach a slow reader whole, and others are served meanwhile.
#[test]
fn slow_reader_holds_few_buffers() {
    const TOTAL: usize = 24 * 1024 * 1024;
    run(Config::default(), || async {
        let (client, server) = pair().await;
        let writer = spawn(async move {
            let bytes: Vec<u8> = (0..TOTAL).map(|index| (index % 251) as u8).collect();
            client.write_all(bytes).await.unwrap();
        });
        sleep(Duration::from_millis(20)).await;
        let (other, echo) = pair().await;
        other.write_all(vec![7; 1000]).await.unwrap();
        assert_eq!(read_exactly(&echo, 1000).await, vec![7; 1000]);
        let bytes = read_exactly(&server, TOTAL).await;
        assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8));
        writer.await;
    })
    .unwrap();
}

/// 200 connections that send more than the buffer pool holds while nobody reads all get their bytes at last.
#[test]
fn starved_receives_recover() {
    run(Config::default(), || async {
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for _ in 0..200 {
            let (client, server) = pair().await;
            writers.push(spawn(
                async move { client.write_all(vec![1; 300_000]).await.map(|_| client).unwrap() },
            ));
            // Arms the receive, so that buffers are taken while nobody reads.
            assert!(timeout(Duration::ZERO, server.read()).await.is_err());
            readers.push(server);
        }
        sleep(Duration::from_millis(50)).await;
        for server in &readers {
            assert_eq!(read_exactly(server, 300_000).await.len(), 300_000);
        }
        for writer in writers {
            writer.await;
        }
    })
    .unwrap();
}

/// Parts arrive in order, also when they are larger than one send, and leases end with the send.
#[test]
fn parts_and_leases() {
    run(Config::default(), || async {
        let segment = Segment::anonymous(4 << 20).unwrap();
        let body: Vec<u8> = (0..3_000_000u32).map(|index| (index % 253) as u8).collect();
        segment.append_at(100, &[&body[..1000], &[], &body[1000..]]).unwrap();
        let (client, server) = pair().await;
        let parts =
            Parts::new().bytes(b"start".to_vec()).slice(segment.slice(100, body.len() as u32)).fixed(b"end");
        assert_eq!((parts.len(), segment.leases()), (body.len() + 8, 1));
        let sender = spawn(async move { client.send(parts).await.unwrap() });
        let received = read_exactly(&server, body.len() + 8).await;
        sender.await;
        assert_eq!(segment.leases(), 0);
        assert_eq!((&received[..5], &received[body.len() + 5..]), (&b"start"[..], &b"end"[..]));
        assert_eq!(&received[5..body.len() + 5], &body);
    })
    .unwrap();
}

/// A send that is cancelled keeps its bytes and lease until the kernel is done, then gives them up.
#[test]
fn cancelled_send_gives_up_its_lease() {
    run(Config::default(), || async {
        let segment = Segment::anonymous(32 << 20).unwrap();
        let (client, server) = pair().await;
        let parts = Parts::new().slice(segment.slice(0, 32 << 20));
        assert!(timeout(Duration::from_millis(20), client.send(parts)).await.is_err());
        drop(client);
        timeout(Duration::from_secs(5), async {
            while segment.leases() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        drop(server);
    })
    .unwrap();
}

/// Unix sockets carry bytes, and a stale socket file is taken over.
#[test]
fn unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    run(Config::default(), move || {
        let path = path.clone();
        async move {
            let listener = UnixListener::bind(&path).unwrap();
            let client = UnixStream::connect(&path).await.unwrap();
            let server = listener.accept().await.unwrap();
            client.write_all(b"hello".to_vec()).await.unwrap();
            assert_eq!(&*server.read().await.unwrap(), b"hello");
            assert!(UnixListener::bind(&path).is_err(), "a socket in use is not taken over");
            drop(listener);
            assert!(!path.exists());
        }
    })
    .unwrap();
}

/// A connection to a port that nobody listens on fails, and one within a limit is cancelled cleanly.
#[test]
fn connect_errors() {
    run(Config::default(), || async {
        let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
        let address = listener.local_addr();
        drop(listener);
        let error = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let source = ConnectOptions { local: Some("127.0.0.7".parse().unwrap()) };
        let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
        let client = TcpStream::connect(listener.local_addr(), &source).await.unwrap();
        let (_server, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.7");
        assert_eq!(client.peer_addr(), listener.local_addr());
    })
    .unwrap();
}
