//! Whole runs of the load generator against a small SMTP server that treats messages as each test wants.

mod beginnings;
mod connections;
mod failures;
mod fates;
mod overload;
mod support;
mod tls_server;
mod world;
