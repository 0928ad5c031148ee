//! Listening sockets: storms of connections, several sockets on one address, and the end of one.

use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{sleep, spawn, timeout};

use crate::{loopback, on_every_engine, read_to_end, scaled};

on_every_engine!(accept_storm, accept_is_cancelled_cleanly, shared_port, closing_resets_the_backlog);

/// Many connections at once are all accepted, each once, while the listener is slow.
async fn accept_storm() {
    let count = scaled(600, 120);
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    let clients: Vec<_> = (0..count as u32)
        .map(|number| {
            spawn(async move {
                let stream = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap();
                stream.write_all(number.to_le_bytes().to_vec()).await.unwrap();
                stream.shutdown();
                assert!(read_to_end(&stream).await.unwrap().is_empty());
            })
        })
        .collect();
    sleep(Duration::from_millis(10)).await;
    let mut seen = Vec::new();
    for _ in 0..count {
        let (stream, _) = listener.accept().await.unwrap();
        let bytes = read_to_end(&stream).await.unwrap();
        seen.push(u32::from_le_bytes(bytes.try_into().unwrap()));
    }
    for client in clients {
        client.await;
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..count as u32));
    assert!(timeout(Duration::from_millis(20), listener.accept()).await.is_err(), "nobody is accepted twice");
}

/// An accept that is given up loses no connection.
async fn accept_is_cancelled_cleanly() {
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    let client = spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..20 {
            sleep(Duration::from_micros(300)).await;
            streams.push(TcpStream::connect(address, &ConnectOptions::default()).await.unwrap());
        }
        streams
    });
    let mut accepted = 0;
    while accepted < 20 {
        if timeout(Duration::from_micros(200), listener.accept()).await.is_ok() {
            accepted += 1;
        }
    }
    drop(client.await);
}

/// Two sockets share an address when both ask for it, and every connection reaches one of them.
async fn shared_port() {
    let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let first = TcpListener::bind(loopback(), &shared).unwrap();
    let address = first.local_addr();
    let second = TcpListener::bind(address, &shared).unwrap();
    assert!(TcpListener::bind(address, &ListenOptions::default()).is_err(), "who does not share is refused");
    let serve = |listener: TcpListener| {
        spawn(async move {
            let mut count = 0;
            while let Ok(Ok(_)) = timeout(Duration::from_millis(100), listener.accept()).await {
                count += 1;
            }
            count
        })
    };
    let (first, second) = (serve(first), serve(second));
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(TcpStream::connect(address, &ConnectOptions::default()).await.unwrap());
    }
    let (one, other) = (first.await, second.await);
    assert_eq!(one + other, 40);
    assert!(one > 0 && other > 0, "both get some: {one} and {other}");
}

/// A listener that closes resets the connections that nobody has accepted.
async fn closing_resets_the_backlog() {
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let client = TcpStream::connect(listener.local_addr(), &ConnectOptions::default()).await.unwrap();
    sleep(Duration::from_millis(5)).await;
    drop(listener);
    let error = timeout(Duration::from_secs(5), client.read()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
