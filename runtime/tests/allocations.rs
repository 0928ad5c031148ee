//! A test binary of its own, because it counts the allocations of the whole process.

#[path = "../src/counting.rs"]
#[expect(unreachable_pub, reason = "it is public in the crate that it is taken from")]
mod counting;

use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, Parts, Stream, TcpListener, TcpStream};
use chasqui_runtime::{Config, run, spawn, timeout};
use counting::{Counting, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: Duration = Duration::from_secs(20);

/// Questions and answers on a connection that stands cost no allocation: receives, posted and awaited sends, sends of
/// several parts, time limits and wake-ups.
#[test]
fn a_standing_connection_allocates_nothing() {
    run(Config::default(), || async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
        let address = listener.local_addr();
        let connecting =
            spawn(async move { TcpStream::connect(address, &ConnectOptions::default()).await.unwrap() });
        let (server, _) = listener.accept().await.unwrap();
        let client = connecting.await;
        let _answering = spawn(async move {
            let mut answer = Vec::with_capacity(64);
            loop {
                let mut missing = 12;
                while missing > 0 {
                    missing -= piece(&server).await;
                }
                answer.extend_from_slice(b"answer");
                timeout(LIMIT, server.post(&mut answer)).await.unwrap().unwrap();
            }
        });
        let mut question = Vec::with_capacity(64);
        let mut counted = 0;
        for round in 0..3000 {
            if round == 1000 {
                counted = allocations();
            }
            question.extend_from_slice(b"post");
            client.post(&mut question).await.unwrap();
            question.extend_from_slice(b"wait");
            question = client.write_all(question).await.unwrap();
            client.send(Parts::new().fixed(b"pa").fixed(b"rt")).await.unwrap();
            let mut missing = 6;
            while missing > 0 {
                missing -= piece(&client).await;
            }
        }
        assert_eq!(allocations() - counted, 0, "of 2000 rounds");
    })
    .unwrap();
}

async fn piece(stream: &Stream) -> usize {
    let piece = timeout(LIMIT, stream.read()).await.unwrap().unwrap();
    assert!(!piece.is_empty(), "nobody closes");
    piece.len()
}
