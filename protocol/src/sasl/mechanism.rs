//! The mechanisms of SASL that are spoken here, and sets of them.

use std::fmt;

/// A mechanism. The order is that of preference, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): the password is proved, not sent, and the proof holds for this TLS connection
    /// alone.
    ScramSha256Plus,
    /// SCRAM-SHA-256 (RFC 5802, RFC 7677): the password is proved, not sent.
    ScramSha256,
    /// PLAIN (RFC 4616): name and password in one response.
    Plain,
    /// LOGIN (draft-murchison-sasl-login): name and password in two responses. For clients that know nothing else.
    Login,
}

impl Mechanism {
    /// Every mechanism, best first.
    pub const ALL: [Mechanism; 4] =
        [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

    /// The registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// The mechanism of a name, in whatever case.
    pub fn from_name(name: &[u8]) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether the server, and who listens, sees the password: such a mechanism is for TLS alone (RFC 4954 section 4).
    pub const fn shows_password(self) -> bool {
        matches!(self, Mechanism::Plain | Mechanism::Login)
    }

    /// Whether it needs a channel binding.
    pub const fn needs_channel_binding(self) -> bool {
        matches!(self, Mechanism::ScramSha256Plus)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A set of mechanisms. Displays as their names with blanks between, best first, as EHLO has them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Mechanisms(u8);

impl Mechanisms {
    /// No mechanism.
    pub const NONE: Mechanisms = Mechanisms(0);
    /// Every mechanism.
    pub const ALL: Mechanisms = Mechanisms((1 << Mechanism::ALL.len()) - 1);

    /// Those that are named between blanks. Names that are not known are passed over.
    pub fn parse(names: &[u8]) -> Mechanisms {
        names.split(|byte| byte.is_ascii_whitespace()).filter_map(Mechanism::from_name).collect()
    }

    /// The same and one more.
    #[must_use]
    pub const fn with(self, mechanism: Mechanism) -> Mechanisms {
        Mechanisms(self.0 | mechanism.bit())
    }

    /// Those of them that show no password: what is left without TLS.
    #[must_use]
    pub fn without_passwords(self) -> Mechanisms {
        self.iter().filter(|mechanism| !mechanism.shows_password()).collect()
    }

    /// Those of them that need no channel binding.
    #[must_use]
    pub fn without_channel_binding(self) -> Mechanisms {
        self.iter().filter(|mechanism| !mechanism.needs_channel_binding()).collect()
    }

    /// Whether a mechanism is among them.
    pub const fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & mechanism.bit() != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The mechanisms, best first.
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |mechanism| self.contains(*mechanism))
    }
}

impl FromIterator<Mechanism> for Mechanisms {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(mechanisms: I) -> Mechanisms {
        mechanisms.into_iter().fold(Mechanisms::NONE, Mechanisms::with)
    }
}

impl fmt::Display for Mechanisms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mechanism) in self.iter().enumerate() {
            let blank = if at == 0 { "" } else { " " };
            write!(formatter, "{blank}{mechanism}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mechanisms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_mechanisms_and_back() {
        // Proves: each mechanism is found by its name in either case, and by no other.
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::from_name(mechanism.name().as_bytes()), Some(mechanism));
            let lower = mechanism.name().to_ascii_lowercase();
            assert_eq!(Mechanism::from_name(lower.as_bytes()), Some(mechanism));
        }
        for name in ["", "PLAI", "PLAINS", "SCRAM-SHA-1", "SCRAM-SHA-256-", "CRAM-MD5"] {
            assert_eq!(Mechanism::from_name(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn sets_are_in_order_of_preference() {
        // Proves: a set forgets order, doubles and strangers, and its subsets are what the channel allows.
        let set = Mechanisms::parse(b"LOGIN X-OTHER plain  SCRAM-SHA-256-PLUS LOGIN SCRAM-SHA-256");
        assert_eq!(set, Mechanisms::ALL);
        assert_eq!(set.to_string(), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
        assert_eq!(set.without_passwords().to_string(), "SCRAM-SHA-256-PLUS SCRAM-SHA-256");
        assert_eq!(set.without_channel_binding().to_string(), "SCRAM-SHA-256 PLAIN LOGIN");
        assert!(set.without_passwords().without_channel_binding().contains(Mechanism::ScramSha256));
        assert!(Mechanisms::parse(b"GSSAPI").is_empty());
        assert_eq!(Mechanisms::NONE.with(Mechanism::Login).iter().collect::<Vec<_>>(), [Mechanism::Login]);
    }
}
