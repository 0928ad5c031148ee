//! The program as its users run it: command lines, the whole chain over real sockets and files, crashes, edges.

mod chain;
mod crash;
mod edges;
mod outputs;
mod password;
mod serving;
mod simulate;
mod spool;
mod support;
mod usage;
mod verdicts;
mod waiting;
