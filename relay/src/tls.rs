//! TLS as the configuration wants it, for a start and for what looks whether one would succeed.

use chasqui_transport::tls::{ClientTls, ServerTls};

use crate::config::Config;
use crate::error::TlsError;

/// Of the listeners; none: there are no certificates. Blocks the thread.
pub(crate) fn of_listeners(config: &Config) -> Result<Option<ServerTls>, TlsError> {
    Ok(config.tls.read_certificates()?.map(ServerTls::new).transpose()?)
}

/// Of connections to next hops, with the roots where one has to be verified. Blocks the thread.
pub(crate) fn of_next_hops(config: &Config) -> Result<ClientTls, TlsError> {
    let tls = ClientTls::new(config.tls.roots.as_deref(), true)?;
    if config.verifies_next_hops() {
        tls.load_roots()?;
    }
    Ok(tls)
}
