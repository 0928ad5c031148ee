//! TLS on the connections of POP3 and IMAP.

use std::io;
use std::time::Duration;

use chasqui_runtime::timeout;
use chasqui_transport::tls::ServerTls;
use chasqui_transport::{Drain, Stream};
use futures_lite::future::or;

/// What a client may take for its part of a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(60);

/// Goes over to TLS, unless the sinks shut down meanwhile. Clones of `stream` that were made before stay plain.
pub(crate) async fn accept_tls(stream: &mut Stream, tls: &ServerTls, drain: &Drain) -> io::Result<()> {
    let drained = drain.notified();
    // Few connections stand here at a time; none keeps room for it.
    let handshake = Box::pin(async {
        let accepted = timeout(HANDSHAKE_LIMIT, stream.accept_tls(tls)).await;
        accepted.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)
    });
    let ended = async {
        drained.await;
        Err(io::ErrorKind::ConnectionAborted.into())
    };
    if drain.has_begun() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    or(handshake, ended).await
}
