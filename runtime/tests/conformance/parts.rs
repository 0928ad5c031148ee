//! Vectored sends and the leases of segments.

use chasqui_runtime::fs::Segment;
use chasqui_runtime::net::Parts;
use chasqui_runtime::{sleep, spawn};

use crate::{Folder, on_every_engine, pair, read_exactly, scaled};

on_every_engine!(parts_and_leases, leases_are_counted, a_send_fails_with_its_connection);

/// Parts arrive in order, also when they are larger than one send, and leases end with the send.
async fn parts_and_leases() {
    let folder = Folder::new().await;
    let length = scaled(3_000_000, 600_000);
    let segment = Segment::create(&folder.join("segment"), 4 << 20).await.unwrap();
    let body: Vec<u8> = (0..length).map(|index| (index % 253) as u8).collect();
    segment.append_at(100, &[&body[..1000], &[], &body[1000..]]).unwrap();
    let (client, server) = pair().await;
    let parts = Parts::new()
        .bytes(b"start".to_vec())
        .bytes(Vec::new())
        .slice(segment.slice(100, length as u32))
        .fixed(b"end");
    assert_eq!((parts.len(), segment.leases()), (length + 8, 1));
    let sender = spawn(async move { client.send(parts).await.unwrap() });
    let received = read_exactly(&server, length + 8).await;
    sender.await;
    assert_eq!(segment.leases(), 0);
    assert_eq!((&received[..5], &received[length + 5..]), (&b"start"[..], &b"end"[..]));
    assert!(received[5..length + 5] == body);
}

/// Every copy of a slice is a lease of its own.
async fn leases_are_counted() {
    let segment = Segment::anonymous(1000).unwrap();
    let slice = segment.slice(0, 10);
    let copy = slice.clone();
    assert_eq!((segment.leases(), copy.len()), (2, 10));
    drop(slice);
    assert_eq!(segment.leases(), 1);
    drop(copy);
    assert_eq!(segment.leases(), 0);
    assert!(segment.slice(1000, 0).is_empty());
}

/// A send to a peer that goes away in the middle fails, and gives up its lease.
async fn a_send_fails_with_its_connection() {
    let length = scaled(32 << 20, 1 << 20) as u32;
    let segment = Segment::anonymous(u64::from(length)).unwrap();
    let (client, server) = pair().await;
    let parts = Parts::new().slice(segment.slice(0, length));
    let sender = spawn(async move { client.send(parts).await });
    read_exactly_some(&server).await;
    sleep(std::time::Duration::from_millis(5)).await;
    drop(server);
    assert!(sender.await.is_err());
    assert_eq!(segment.leases(), 0);
}

async fn read_exactly_some(stream: &chasqui_runtime::net::TcpStream) {
    assert!(!stream.read().await.unwrap().is_empty());
}
