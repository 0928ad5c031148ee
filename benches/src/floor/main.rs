//! The floor: what moving a message costs when nothing but the moving is done.
//!
//! Three processes, as in `chasqui bench`: generator → relay → sink. Each shard is one pinned thread that enters its
//! ring, takes what has completed and answers it. There is no parsing (replies and commands are counted, not read), no
//! queue but a list of what no outgoing connection was free for, and no checksum. What remains is what every relay
//! has to do that keeps the same promise: the bytes, the round trips, the append and the fdatasync.
//!
//! One message, as the real chain's parts say it to one another on a connection that stays (texts and lengths in
//! [`dialogue`]):
//!
//! ```text
//! generator                      relay                                    sink
//!   MAIL RCPT DATA, one send  →
//!                             ←  250 250 354, one send
//!   message and dot, one send →
//!                                append to the open group; one pwrite
//!                                and one fdatasync for each group
//!                             ←  250, after the fdatasync
//!                                MAIL RCPT DATA, one send              →
//!                                                                      ←  250 250 354, one send
//!                                Received, message and dot, one send
//!                                from the segment's mapping            →
//!                                                                      ←  250
//!                                a state of 64 octets enters the next group
//! ```
//!
//! So the relay sends four times and receives four times a message. Its ring is entered once for everything that has
//! gathered (SINGLE_ISSUER, DEFER_TASKRUN), receives are multishot from provided buffers, and a send that succeeds has no
//! completion: the peer's next word proves it.
//!
//! `floor [--connections 200] [--seconds 6] [--warmup 2] [--size 2048] [--relay-cores 0] [--sink-cores 1]
//! [--generator-cores 1] [--spool DIR]` prints one line of JSON. `scripts/floor` compares it with the real chain.
#![expect(
    unsafe_code,
    reason = "straight on the io-uring crate: what it measures is the cost without a runtime"
)]

mod arguments;
mod bench;
mod counts;
mod dialogue;
mod generator;
mod process;
mod relay;
mod ring;
mod segments;
mod shards;
mod sink;

use std::process::ExitCode;

use arguments::{Options, Role};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(line) => {
            eprintln!("floor: {line}");
            return ExitCode::from(2);
        }
    };
    let outcome = match options.role {
        Role::Bench => bench::run(&options),
        Role::Relay => relay::run(&options),
        Role::Sink => sink::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}
