//! The flags of a message: the five system flags a client can change, and `\Recent`.

use imap_codec::imap_types::flag::{Flag, FlagFetch};

/// A set of flags (RFC 3501 section 2.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// `\Seen`
    pub const SEEN: Flags = Flags(1);
    /// `\Answered`
    pub const ANSWERED: Flags = Flags(2);
    /// `\Flagged`
    pub const FLAGGED: Flags = Flags(4);
    /// `\Deleted`
    pub const DELETED: Flags = Flags(8);
    /// `\Draft`
    pub const DRAFT: Flags = Flags(16);
    /// `\Recent`: this session is the first to be told of the message. No client can change it.
    pub const RECENT: Flags = Flags(32);

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// This set without the other.
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// The set of what a client named. Keywords and unknown system flags are left out: no mailbox here keeps them,
    /// and PERMANENTFLAGS says so.
    pub fn from_named(flags: &[Flag<'_>]) -> Flags {
        flags.iter().fold(Flags::NONE, |set, flag| set.with(Flags::one(flag)))
    }

    /// The set that a FETCH response carries.
    pub fn from_fetched(flags: &[FlagFetch<'_>]) -> Flags {
        flags.iter().fold(Flags::NONE, |set, flag| {
            set.with(match flag {
                FlagFetch::Recent => Flags::RECENT,
                FlagFetch::Flag(flag) => Flags::one(flag),
            })
        })
    }

    /// The flags as they stand in a list, separated by spaces.
    pub fn write(self, output: &mut Vec<u8>) {
        const NAMES: [(Flags, &[u8]); 6] = [
            (Flags::ANSWERED, b"\\Answered"),
            (Flags::FLAGGED, b"\\Flagged"),
            (Flags::DELETED, b"\\Deleted"),
            (Flags::SEEN, b"\\Seen"),
            (Flags::DRAFT, b"\\Draft"),
            (Flags::RECENT, b"\\Recent"),
        ];
        let start = output.len();
        for (flag, name) in NAMES {
            if self.contains(flag) {
                if output.len() > start {
                    output.push(b' ');
                }
                output.extend_from_slice(name);
            }
        }
    }

    fn one(flag: &Flag<'_>) -> Flags {
        match flag {
            Flag::Answered => Flags::ANSWERED,
            Flag::Deleted => Flags::DELETED,
            Flag::Draft => Flags::DRAFT,
            Flag::Flagged => Flags::FLAGGED,
            Flag::Seen => Flags::SEEN,
            Flag::Extension(_) | Flag::Keyword(_) => Flags::NONE,
        }
    }
}
