//! The making of a connection: connect, greeting, EHLO, and TLS and AUTH where they are wanted. Without what is wanted there is none.

use chasqui_protocol::smtp::client::{Event, Extension};
use chasqui_report::{Milestone, TlsMode};
use chasqui_runtime::{Instant, now, timeout, turn_time};
use chasqui_transport::Stream;
use chasqui_transport::smtp_client::{ClientConnection, Login, WaitLimit};
use chasqui_transport::tls::{ClientTls, HandshakeError};

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::broken::Broken;
use super::shard::Shard;
use crate::scenario::Target;

/// Time for connecting, again for the greeting, TLS and EHLO, and for AUTH.
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
    let mode = shard.plan.scenario.target_tls;
    if let (TlsMode::Implicit, Some(tls)) = (mode, &shard.plan.tls) {
        handshake(shard, &mut stream, tls, target, by).await?;
    }
    let mut connection = ClientConnection::new(stream, &format!("loadgen.{}", shard.plan.scenario.zone));
    await_ready(&mut connection, by).await?;
    if let (TlsMode::Starttls, Some(tls)) = (mode, &shard.plan.tls) {
        start_tls(shard, &mut connection, tls, target, by).await?;
    }
    Box::pin(log_in(shard, &mut connection, target)).await?;
    Ok(connection)
}

/// Puts a connection that is ready into TLS.
async fn start_tls(
    shard: &Shard,
    connection: &mut ClientConnection,
    tls: &ClientTls,
    target: &Target,
    by: Instant,
) -> Result<(), Broken> {
    if !connection.capabilities().has(Extension::StartTls) {
        return Err(Broken::NoStartTls);
    }
    connection.request_tls(by).await?;
    let begun = now();
    connection.handshake(tls, shard.plan.trust(), &target.name, by).await?;
    shard.record_connection(Milestone::Tls, begun, now());
    await_ready(connection, by).await
}

/// Puts a connection into TLS before anything is said.
async fn handshake(
    shard: &Shard,
    stream: &mut Stream,
    tls: &ClientTls,
    target: &Target,
    by: Instant,
) -> Result<(), Broken> {
    let begun = now();
    let shaken = timeout(by - turn_time(), stream.connect_tls(tls, shard.plan.trust(), &target.name)).await;
    let late = |_| HandshakeError::Connection(io::ErrorKind::TimedOut.into());
    shaken.map_err(late).flatten()?;
    shard.record_connection(Milestone::Tls, begun, now());
    Ok(())
}

/// Logs in with the account whose turn it is, where there are accounts.
async fn log_in(shard: &Shard, connection: &mut ClientConnection, target: &Target) -> Result<(), Broken> {
    let Some((number, wanted)) = shard.next_login() else { return Ok(()) };
    let login = Login {
        account: &wanted.accounts[number],
        mechanisms: wanted.mechanisms,
        may_show_password: connection.agreed().is_some() || target.is_here(),
    };
    let mut keys = shard.keys_of(number);
    let begun = now();
    let by = turn_time() + OPEN_LIMIT;
    let logged_in = connection.authenticate(login, &mut keys, by).await;
    shard.keep_keys(number, keys);
    logged_in?;
    shard.record_connection(Milestone::Auth, begun, now());
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
