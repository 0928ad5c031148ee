//! A whole sink process's worth of parts, started by `chasqui_sinks::start` and used over real sockets.

mod arrivals;
mod mailbox_tls;
mod receiving;
mod serving;
mod support;
