//! The faults that can be planted, to show that what they spoil is found: the one list of them.

use super::world::world;

/// The faults, each with its name on the command line, what it spoils, and what must find it.
macro_rules! planted_faults {
    ($($fault:ident, $name:literal, $spoils:literal, $found_by:literal;)*) => {
        /// A fault that can be planted in a simulation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PlantedFault {
            $(#[doc = $spoils] $fault,)*
        }

        impl PlantedFault {
            /// All of them.
            pub const ALL: &[PlantedFault] = &[$(PlantedFault::$fault,)*];

            /// Whether it is planted here. Always false outside of the simulator.
            pub fn is_planted(self) -> bool {
                world().is_some_and(|world| world.options.planted == Some(self))
            }

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(PlantedFault::$fault => $name,)* }
            }

            /// What is wrong with it.
            pub fn spoils(self) -> &'static str {
                match self { $(PlantedFault::$fault => $spoils,)* }
            }

            /// Which judgement must find it.
            pub fn found_by(self) -> &'static str {
                match self { $(PlantedFault::$fault => $found_by,)* }
            }
        }
    };
}

planted_faults! {
    AckBeforeSync, "ack-before-sync", "the spool promises a message before the sync that covers it",
        "the ledger: recipients lost at a power cut";
    RewriteDurableBlock, "rewrite-durable-block", "a group of the spool begins in the last block of a durable one",
        "the ledger and the drain: recipients changed, lost or stuck after a power cut";
    NoUnstuffing, "no-unstuffing", "the sinks keep the dots that the wire form puts before dots",
        "the ledger: recipients changed";
    LostLeaseWaiter, "lost-lease-waiter", "who waits for a site's lease is not told that it is free",
        "the drain: recipients stuck";
    EarlyTombstone, "early-tombstone", "a segment goes whose states speak of messages that are still on disk",
        "the oracle: duplicated without cause after a restart";
    RecycleUnderLease, "recycle-under-lease", "a segment comes back into use while a send still reads it",
        "the ledger and the oracle: recipients changed, or bounced without cause";
    AppendAfterRecovery, "append-after-recovery", "a segment that recovery has read is appended to",
        "a panic, or the ledger after the next power cut";
    DropReplyAtClose, "drop-reply-at-close", "a reply before the end of a connection is forgotten",
        "the oracle: tried again though refused";
    StallOn421, "stall-on-421", "a 421 to one message holds up its site",
        "the watched mail: kept waiting";
    NoReserve, "no-reserve", "no connection is kept free for sites that are not slow",
        "the watched mail: kept waiting";
}
