//! The whole chain in the deterministic simulator, in search of lost mail: relay, sinks and load generator as nodes of one
//! simulation, with receivers between relay and sinks that misbehave.
//!
//! A seed's plan says what the chain is like and what goes wrong in it; proxies before the sinks carry out what it says
//! of receivers, a supervisor keeps the relay running, and the runner lets everything happen and asks the oracle what follows
//! from what was seen. A [`Series`] plays many.

mod addresses;
mod delays;
mod names;
mod oracle;
mod plan;
mod programs;
mod proxies;
mod runner;
mod series;
mod supervisor;

pub use series::{Said, Series};
