//! The durability classes of a relay: the one list of them, for its configuration, its spool and the record of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What has happened to a message before it is answered 250, and so what it survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// It is written, and an fdatasync that covers it has completed. Refused on tmpfs.
    #[default]
    Synced,
    /// It is in the page cache.
    Buffered,
    /// Nothing. It is written when it has to wait, and survives as in `buffered` from then on.
    Memory,
}

impl Durability {
    /// Every class, the strongest first.
    pub const ALL: [Durability; 3] = [Durability::Synced, Durability::Buffered, Durability::Memory];

    /// The name in configuration, options and `run.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Durability::Synced => "synced",
            Durability::Buffered => "buffered",
            Durability::Memory => "memory",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Durability> {
        Durability::ALL.into_iter().find(|class| class.name() == name)
    }

    /// What it survives, in a few words.
    pub const fn survives(self) -> &'static str {
        match self {
            Durability::Synced => "survives power loss",
            Durability::Buffered => "survives the death of the process, not power loss",
            Durability::Memory => "survives nothing until it has to wait",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
