//! The making of a connection: connect, greeting, EHLO, and TLS where it is wanted. Without the TLS that is wanted there is none.

use chasqui_protocol::smtp::client::{Event, Extension};
use chasqui_report::Milestone;
use chasqui_runtime::{Instant, now, timeout, turn_time};
use chasqui_transport::Stream;
use chasqui_transport::smtp_client::{ClientConnection, WaitLimit};
use chasqui_transport::tls::{ClientTls, HandshakeError, Trust};

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::broken::Broken;
use super::shard::Shard;
use crate::scenario::Target;

/// Time for connecting, and again for the greeting, TLS and EHLO.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Opens a connection to `target`, from `source` or the address that the system chooses; it is ready for a transaction.
pub(super) async fn open(
    shard: &Shard,
    target: &Target,
    source: Option<IpAddr>,
) -> Result<ClientConnection, Broken> {
    let _permit = shard.connecting.acquire(1).await;
    let begun = now();
    let connected = timeout(OPEN_LIMIT, Stream::connect(target.address, source)).await;
    let mut stream = connected.map_err(|_| Broken::TimedOut("connection"))?.map_err(Broken::Connect)?;
    shard.record_connection(Milestone::Connect, begun, now());

    let by = turn_time() + OPEN_LIMIT;
    let helo = format!("loadgen.{}", shard.plan.scenario.zone);
    let tls = shard.plan.scenario.tls.as_ref().zip(shard.plan.tls.as_ref());
    let Some((wanted, tls)) = tls else {
        let mut connection = ClientConnection::new(stream, &helo);
        await_ready(&mut connection, by).await?;
        return Ok(connection);
    };
    let trust = if wanted.verifies() { Trust::Verified } else { Trust::Any };
    if wanted.implicit {
        handshake(shard, &mut stream, tls, trust, target, by).await?;
        let mut connection = ClientConnection::new(stream, &helo);
        await_ready(&mut connection, by).await?;
        return Ok(connection);
    }
    let mut connection = ClientConnection::new(stream, &helo);
    await_ready(&mut connection, by).await?;
    if !connection.capabilities().has(Extension::StartTls) {
        return Err(Broken::NoStartTls);
    }
    connection.request_tls(by).await?;
    let begun = now();
    connection.handshake(tls, trust, &target.name, by).await?;
    shard.record_connection(Milestone::Tls, begun, now());
    await_ready(&mut connection, by).await?;
    Ok(connection)
}

/// Puts a connection into TLS before anything is said.
async fn handshake(
    shard: &Shard,
    stream: &mut Stream,
    tls: &ClientTls,
    trust: Trust,
    target: &Target,
    by: Instant,
) -> Result<(), Broken> {
    let begun = now();
    let shaken = timeout(by - turn_time(), stream.connect_tls(tls, trust, &target.name)).await;
    let late = |_| HandshakeError::Connection(io::ErrorKind::TimedOut.into());
    shaken.map_err(late).flatten()?;
    shard.record_connection(Milestone::Tls, begun, now());
    Ok(())
}

/// Waits until a transaction can begin.
async fn await_ready(connection: &mut ClientConnection, by: Instant) -> Result<(), Broken> {
    loop {
        let event = connection.next_event(WaitLimit::Until(by)).await;
        match event.map_err(Broken::awaiting("greeting"))? {
            Event::Ready => return Ok(()),
            Event::Refused(reply) | Event::Closing(reply) => return Err(Broken::refused(&reply)),
            Event::Closed => return Err(Broken::Closed),
            // Nothing has been asked for that these answer.
            _ => {}
        }
    }
}
