//! Which engine a process runs on.

use std::fmt;
use std::str::FromStr;

use super::{ProbeError, glommio, uring};

/// The engines of real processes; the simulator is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring, directly on its ring (Linux 6.1 and later).
    #[default]
    Uring,
    /// The crate glommio, which asks less of the kernel's io_uring.
    Glommio,
}

impl EngineKind {
    /// Checks on the calling thread that the kernel has what the engine needs.
    pub(crate) fn check(self) -> Result<(), ProbeError> {
        match self {
            Self::Uring => uring::probe::check(|_| true),
            Self::Glommio => glommio::check(),
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Glommio => "glommio",
        })
    }
}

/// An engine as a user asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// uring where the kernel has what it needs, else glommio.
    #[default]
    Auto,
    /// This one.
    Fixed(EngineKind),
}

impl EngineChoice {
    /// The engine to run on. Logs what uring lacks when that is why it is another one.
    pub fn resolve(self) -> EngineKind {
        match self {
            Self::Auto => {
                let (engine, why) = best(|_| true);
                if let Some(why) = why {
                    log::warn!("{why}");
                }
                engine
            }
            Self::Fixed(engine) => engine,
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(engine) => engine.fmt(f),
        }
    }
}

/// No engine has this name; for who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no engine is called {0:?}; there are auto, uring and glommio")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        match name {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Fixed(EngineKind::Uring)),
            "glommio" => Ok(Self::Fixed(EngineKind::Glommio)),
            other => Err(UnknownEngine(other.to_owned())),
        }
    }
}

/// The best engine of this kernel, without the operations of io_uring that `mask` denies, and why it is not uring.
fn best(mask: impl Fn(u8) -> bool) -> (EngineKind, Option<String>) {
    match uring::probe::check(mask) {
        Ok(()) => (EngineKind::Uring, None),
        Err(lack) if glommio::check().is_ok() => {
            (EngineKind::Glommio, Some(format!("running on engine glommio, not uring: {lack}")))
        }
        // Neither runs here. The start on uring fails and says what to mend.
        Err(_) => (EngineKind::Uring, None),
    }
}

#[cfg(test)]
mod tests {
    use io_uring::opcode;

    use super::*;

    /// `auto` takes uring on a kernel that has everything, and glommio on one without multishot receive or without
    /// another operation, with a line that names it and the kernel that brings it.
    #[test]
    fn auto_takes_what_the_kernel_has() {
        assert_eq!(best(|_| true), (EngineKind::Uring, None));
        let lacking = [
            (opcode::SendZc::CODE, "IORING_OP_SEND_ZC (the mark of multishot receive): Linux 6.0 brings it"),
            (opcode::Connect::CODE, "IORING_OP_CONNECT: Linux 5.5 brings it"),
        ];
        for (missing, name) in lacking {
            let (engine, why) = best(|code| code != missing);
            assert_eq!(engine, EngineKind::Glommio);
            assert_eq!(why.unwrap(), format!("running on engine glommio, not uring: io_uring lacks {name}"));
        }
        assert_eq!(EngineChoice::Auto.resolve(), EngineKind::Uring);
    }

    /// Names are read as they are written, others refused with those there are.
    #[test]
    fn names() {
        for name in ["auto", "uring", "glommio"] {
            assert_eq!(name.parse::<EngineChoice>().unwrap().to_string(), name);
        }
        assert!("steam".parse::<EngineChoice>().unwrap_err().to_string().contains("auto, uring and glommio"));
    }
}
