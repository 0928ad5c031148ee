//! The control socket: one JSON line in, JSON lines out, any number of times in one connection.
//!
//! What cannot be done is answered with `{"error":"…"}`; behind a line that is no JSON the connection is closed. Of clients
//! that ask nothing the one that has been silent longest makes way for the 33rd.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::control::{Request, RequestError};
use chasqui_runtime::net::{UnixListener, UnixStream};
use chasqui_runtime::{Seldom, sleep, spawn, timeout};

use super::clients::{Client, Clients, Request as Asked};
use super::queries::{Queries, refusal};
use crate::process::Process;
use crate::suspensions::Suspended;

/// Time a client may take to take a page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after an accept failed.
const FAULT_PAUSE: Duration = Duration::from_millis(100);

/// Answers clients for as long as the shard lives.
pub(crate) async fn serve(process: Arc<Process>, listener: UnixListener, suspended: Suspended) {
    let clients = Clients::new();
    let queries = Rc::new(Queries::new(process, suspended));
    let faults = Seldom::default();
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let Some(client) = clients.enter() else { continue };
                let queries = queries.clone();
                spawn(async move {
                    // A client that goes away has what it wanted.
                    let _gone = converse(&queries, client, &stream).await;
                });
            }
            Err(error) => {
                if let Some(times) = faults.happened() {
                    log::warn!("cannot accept on {} ({times} times): {error}", listener.path().display());
                }
                sleep(FAULT_PAUSE).await;
            }
        }
    }
}

async fn converse(queries: &Queries, mut client: Client, stream: &UnixStream) -> io::Result<()> {
    loop {
        let line = match client.request(stream).await? {
            Asked::Line(line) => line,
            Asked::TooLong => return send(stream, refusal("request too long")).await,
            Asked::End => return Ok(()),
        };
        let _turn = client.turn().await;
        match Request::decode(&line) {
            Ok(request) => {
                let mut answer = queries.answer(request).await;
                while let Some(lines) = answer.next().await {
                    send(stream, lines).await?;
                }
            }
            Err(error @ RequestError::Unknown(_)) => send(stream, refusal(&error.to_string())).await?,
            // Its next line may look like a request.
            Err(error @ RequestError::Foreign(_)) => return send(stream, refusal(&error.to_string())).await,
        }
    }
}

async fn send(stream: &UnixStream, lines: Vec<u8>) -> io::Result<()> {
    timeout(CLIENT_TIMEOUT, stream.write_all(lines)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(())
}
