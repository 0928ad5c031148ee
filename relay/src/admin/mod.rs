//! What operators and programs ask of a relay, and what it answers (`chasqui_protocol::control`).
//!
//! `{"command":"queue"}` lists every recipient that is still to be served, `sites` the sites and the suspended domains, `stats` the
//! counters; `suspend` and `resume` stop delivery at a site or domain and let it go on; `retry` tries what is deferred now.
//!
//! [`queries`] answers a request by rows, whoever asked; [`socket`] is the unix socket on which requests come; [`orders`] is the
//! shards' part. A listing is asked of the shards page by page, so that it takes as long as its reader does and holds up nothing.

mod clients;
mod flush;
mod orders;
mod queries;
mod sites;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use orders::answer;
pub(crate) use socket::serve;
