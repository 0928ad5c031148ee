//! Connected streams: order, ends, slow readers, and connections that stand idle.

use std::time::Duration;

use chasqui_runtime::net::{
    ConnectOptions, ListenOptions, TcpListener, TcpStream, UnixListener, UnixStream, buffer,
};
use chasqui_runtime::{sleep, spawn, timeout};

use crate::{Folder, loopback, on_every_engine, pair, pattern, read_exactly, read_to_end, scaled};

on_every_engine!(
    half_close,
    drop_with_standing_read_closes,
    unread_bytes_reset_the_peer,
    sends_after_the_peers_end_fail,
    posted_bytes_arrive_in_order,
    large_buffers_are_used_again,
    posts_after_the_peers_end_fail,
    dropped_posts_do_not_keep_the_connection,
    slow_reader_holds_few_buffers,
    starved_receives_recover,
    idle_connections_wait,
    both_directions_at_once,
    unix_sockets,
    connect_errors,
);

/// Bytes go both ways, and the end of one side is seen as an empty piece while the other goes on.
async fn half_close() {
    let (client, server) = pair().await;
    client.write_all(b"question".to_vec()).await.unwrap();
    client.shutdown();
    assert_eq!(read_exactly(&server, 8).await, b"question");
    assert!(server.read().await.unwrap().is_empty());
    assert!(server.read().await.unwrap().is_empty(), "the end stays");
    server.write_all(b"answer".to_vec()).await.unwrap();
    assert_eq!(read_exactly(&client, 6).await, b"answer");
    drop(server);
    assert!(client.read().await.unwrap().is_empty());
}

/// A closed stream with a receive still standing sends its FIN.
async fn drop_with_standing_read_closes() {
    let (client, server) = pair().await;
    assert!(timeout(Duration::from_millis(5), server.read()).await.is_err());
    drop(server);
    let end = timeout(Duration::from_secs(5), client.read()).await.unwrap().unwrap();
    assert!(end.is_empty());
}

/// Whoever closes without having read what has come resets the connection.
async fn unread_bytes_reset_the_peer() {
    let (client, server) = pair().await;
    client.write_all(b"nobody reads this".to_vec()).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    drop(server);
    let error = timeout(Duration::from_secs(5), client.read()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Sending to a peer that has closed fails after a while, and does not hang.
async fn sends_after_the_peers_end_fail() {
    let (client, server) = pair().await;
    drop(server);
    assert!(client.read().await.unwrap().is_empty());
    let failing = async {
        loop {
            if let Err(error) = client.write_all(vec![1; 1000]).await {
                return error;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let error = timeout(Duration::from_secs(10), failing).await.unwrap();
    let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
}

/// What is posted arrives whole and in order, also in front of what is written with waiting, and the buffers come back
/// empty.
async fn posted_bytes_arrive_in_order() {
    let total = scaled(3_000_000, 60_000);
    let (client, server) = pair().await;
    let writer = spawn(async move {
        let bytes = pattern(total);
        let mut buffer = Vec::new();
        for (index, piece) in bytes.chunks(total / 7).enumerate() {
            buffer.extend_from_slice(piece);
            if index % 3 == 2 {
                buffer = client.write_all(buffer).await.unwrap();
            } else {
                client.post(&mut buffer).await.unwrap();
            }
            assert!(buffer.is_empty());
        }
        client.write_all(Vec::new()).await.unwrap();
        client.shutdown();
        client
    });
    assert!(read_to_end(&server).await.unwrap() == pattern(total));
    writer.await;
}

/// The buffer of a large post serves the next one, empty.
async fn large_buffers_are_used_again() {
    let (client, server) = pair().await;
    let mut bytes = buffer(100_000);
    bytes.extend_from_slice(&pattern(100_000));
    let address = bytes.as_ptr();
    client.post(&mut bytes).await.unwrap();
    assert!(read_exactly(&server, 100_000).await == pattern(100_000));
    // Waits until the first is over.
    client.post(&mut vec![1]).await.unwrap();
    let again = buffer(50_000);
    assert_eq!((again.as_ptr(), again.len()), (address, 0));
    assert!(again.capacity() >= 100_000);
}

/// A post to a peer that has closed is told of by a later one, and by what is written.
async fn posts_after_the_peers_end_fail() {
    let (client, server) = pair().await;
    drop(server);
    assert!(client.read().await.unwrap().is_empty());
    let failing = async {
        loop {
            if let Err(error) = client.post(&mut vec![1; 1000]).await {
                return error;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let error = timeout(Duration::from_secs(10), failing).await.unwrap();
    let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert!(kinds.contains(&client.write_all(vec![1]).await.unwrap_err().kind()));
}

/// A stream that is dropped while its peer does not read what was posted is closed all the same.
async fn dropped_posts_do_not_keep_the_connection() {
    let (client, server) = pair().await;
    client.post(&mut vec![1; 8_000_000]).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    assert!(timeout(Duration::from_millis(20), client.post(&mut vec![2])).await.is_err(), "one at a time");
    drop(client);
    sleep(Duration::from_millis(20)).await;
    let end = timeout(Duration::from_secs(10), read_to_end(&server)).await.unwrap();
    assert!(end.is_err() || end.unwrap().len() < 8_000_000);
}

/// More bytes than all buffers of the shard hold reach a slow reader whole, and others are served meanwhile.
async fn slow_reader_holds_few_buffers() {
    let total = scaled(24 * 1024 * 1024, 200_000);
    let (client, server) = pair().await;
    let writer = spawn(async move { client.write_all(pattern(total)).await.unwrap() });
    sleep(Duration::from_millis(20)).await;
    let (other, echo) = pair().await;
    other.write_all(vec![7; 1000]).await.unwrap();
    assert_eq!(read_exactly(&echo, 1000).await, vec![7; 1000]);
    assert!(read_exactly(&server, total).await == pattern(total));
    writer.await;
}

/// Connections that send more than the buffer pool holds while nobody reads all get their bytes at last.
async fn starved_receives_recover() {
    let (connections, length) = (scaled(200, 20), scaled(300_000, 20_000));
    let mut readers = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..connections {
        let (client, server) = pair().await;
        writers.push(spawn(async move { client.write_all(vec![1; length]).await.map(|_| client).unwrap() }));
        // Arms the receive, so that buffers are taken while nobody reads.
        assert!(timeout(Duration::ZERO, server.read()).await.is_err());
        readers.push(server);
    }
    sleep(Duration::from_millis(50)).await;
    for server in &readers {
        assert_eq!(read_exactly(server, length).await.len(), length);
    }
    for writer in writers {
        writer.await;
    }
}

/// Connections without traffic stay as they are, and the first byte wakes their reader.
async fn idle_connections_wait() {
    let mut clients = Vec::new();
    let mut readers = Vec::new();
    for index in 0..20u8 {
        let (client, server) = pair().await;
        clients.push(client);
        readers.push(spawn(async move { (index, read_exactly(&server, 1).await[0]) }));
    }
    sleep(Duration::from_millis(30)).await;
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    for (index, client) in clients.iter().enumerate().rev() {
        client.write_all(vec![index as u8]).await.unwrap();
    }
    for reader in readers {
        let (index, byte) = reader.await;
        assert_eq!(index, byte);
    }
}

/// Both sides send more than the windows hold at once, and both read it all.
async fn both_directions_at_once() {
    let length = scaled(2_000_000, 50_000);
    let (client, server) = pair().await;
    let work = |stream: TcpStream| {
        spawn(async move {
            let writer = stream.clone();
            let writing = spawn(async move {
                writer.write_all(pattern(length)).await.unwrap();
                writer.shutdown();
            });
            let bytes = read_to_end(&stream).await.unwrap();
            writing.await;
            bytes
        })
    };
    let (one, other) = (work(client), work(server));
    assert!(one.await == pattern(length));
    assert!(other.await == pattern(length));
}

/// Unix sockets carry bytes, one in use is not taken over, and its place is free again after it.
async fn unix_sockets() {
    let folder = Folder::new().await;
    let path = folder.join("socket");
    let missing = UnixStream::connect(&path).await.unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).await.unwrap();
    let server = listener.accept().await.unwrap();
    client.write_all(b"hello".to_vec()).await.unwrap();
    assert_eq!(read_exactly(&server, 5).await, b"hello");
    assert!(UnixListener::bind(&path).is_err(), "a socket in use is not taken over");
    drop(listener);
    sleep(Duration::from_millis(1)).await;
    UnixListener::bind(&path).unwrap();
}

/// A connection to a port that nobody listens on fails, and a source address is kept.
async fn connect_errors() {
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    drop(listener);
    let error = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let source = ConnectOptions { local: Some("127.0.0.7".parse().unwrap()) };
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let client = TcpStream::connect(listener.local_addr(), &source).await.unwrap();
    let (_server, peer) = listener.accept().await.unwrap();
    assert_eq!((peer.ip().to_string(), peer), ("127.0.0.7".into(), client.local_addr()));
    assert_eq!(client.peer_addr(), listener.local_addr());
}
