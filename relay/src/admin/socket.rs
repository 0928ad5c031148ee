//! The control socket: one JSON line in, JSON lines out, any number of times in one connection.
//!
//! What cannot be done is answered with `{"error":"…"}`; behind a line that is no JSON the connection is closed. Of clients
//! that ask nothing the one that has been silent longest makes way for the 33rd.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::control::{Request, RequestError};
use chasqui_runtime::{spawn, timeout};
use chasqui_transport::{Acceptor, Stream};

use super::clients::{Client, Clients, Request as Asked};
use super::queries::{Queries, refusal};
use crate::process::Process;
use crate::suspensions::Suspended;

/// Time a client may take to take a page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers clients for as long as the shard lives.
pub(crate) async fn serve(process: Arc<Process>, acceptor: Acceptor, suspended: Suspended) {
    let clients = Clients::new();
    let queries = Rc::new(Queries::new(process, suspended));
    while let Some(stream) = acceptor.next().await {
        let Some(client) = clients.enter() else { continue };
        let queries = queries.clone();
        spawn(async move {
            // A client that goes away has what it wanted.
            let _gone = converse(&queries, client, &stream).await;
        });
    }
}

async fn converse(queries: &Queries, mut client: Client, stream: &Stream) -> io::Result<()> {
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

async fn send(stream: &Stream, lines: Vec<u8>) -> io::Result<()> {
    timeout(CLIENT_TIMEOUT, stream.write_all(lines)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(())
}
