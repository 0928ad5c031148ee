//! The test zone: which names exist in it, and which of them take mail.
//!
//! The DNS authority and the SMTP receiver both read names through [`Zone::classify`], so that a name
//! which resolves to a receiver is a name which that receiver accepts, and the other way round.
//!
//! | name | what it is |
//! |---|---|
//! | `d<k>`, k < domains | a mail domain: `MX 10 mx.d<k>`, which has an address |
//! | `bounce` | takes DSNs, for any `<run>.<sequence>` |
//! | `nullmx` | `MX 0 .` (RFC 7505) |
//! | `implicit` | an address and no MX |
//! | `manymx` | so many MX records that the answer does not fit into UDP |
//! | `alias` | `CNAME d0` |
//! | `servfail`, `refused` | answered with that response code |
//! | `slow`, `timeout` | never answered |

/// Number of MX records of `manymx.<zone>`: about 3 KiB of answer, more than EDNS carries over UDP.
pub(crate) const MANY_MX: u16 = 128;

/// The names of one test zone.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    name: String,
    domains: u32,
}

/// What a name is in a [`Zone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZoneName {
    /// The zone itself.
    Apex,
    /// `ns.<zone>`, the authority.
    NameServer,
    /// `d<k>.<zone>`.
    Domain(u32),
    /// `mx.d<k>.<zone>`.
    DomainMx(u32),
    /// `bounce.<zone>`.
    Bounce,
    /// `mx.bounce.<zone>`.
    BounceMx,
    /// `nullmx.<zone>`.
    NullMx,
    /// `implicit.<zone>`.
    Implicit,
    /// `manymx.<zone>`.
    ManyMx,
    /// `mx<i>.manymx.<zone>`.
    ManyMxHost(u16),
    /// `alias.<zone>`.
    Alias,
    /// `servfail.<zone>` and below.
    ServFail,
    /// `refused.<zone>` and below.
    Refused,
    /// `slow.<zone>`, `timeout.<zone>` and below.
    Silent,
    /// Inside the zone and not in it.
    Unknown,
    /// Outside the zone.
    Foreign,
}

impl Zone {
    /// A zone `name` (lower case, no trailing dot) with mail domains `d0` to `d<domains - 1>`.
    pub(crate) fn new(name: &str, domains: u32) -> Zone {
        Zone { name: name.to_owned(), domains }
    }

    /// The zone's own name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What `name` (lower case, no trailing dot) is.
    pub(crate) fn classify(&self, name: &str) -> ZoneName {
        let Some(rest) = name.strip_suffix(self.name.as_str()) else { return ZoneName::Foreign };
        if rest.is_empty() {
            return ZoneName::Apex;
        }
        let Some(labels) = rest.strip_suffix('.') else { return ZoneName::Foreign };
        if let Some(k) = self.domain_number(labels) {
            return ZoneName::Domain(k);
        }
        match labels {
            "bounce" => return ZoneName::Bounce,
            "mx.bounce" => return ZoneName::BounceMx,
            "ns" => return ZoneName::NameServer,
            "nullmx" => return ZoneName::NullMx,
            "implicit" => return ZoneName::Implicit,
            "manymx" => return ZoneName::ManyMx,
            "alias" => return ZoneName::Alias,
            _ => {}
        }
        if let Some(k) = labels.strip_prefix("mx.").and_then(|domain| self.domain_number(domain)) {
            return ZoneName::DomainMx(k);
        }
        if let Some(host) = labels.strip_suffix(".manymx").and_then(|host| host.strip_prefix("mx")) {
            return match canonical_number(host) {
                Some(i) if i < u32::from(MANY_MX) => ZoneName::ManyMxHost(i as u16),
                _ => ZoneName::Unknown,
            };
        }
        match labels.rsplit('.').next() {
            Some("servfail") => ZoneName::ServFail,
            Some("refused") => ZoneName::Refused,
            Some("slow" | "timeout") => ZoneName::Silent,
            _ => ZoneName::Unknown,
        }
    }

    fn domain_number(&self, label: &str) -> Option<u32> {
        label.strip_prefix('d').and_then(canonical_number).filter(|&k| k < self.domains)
    }
}

/// A decimal number without sign or leading zeros: each number has one spelling, each domain one name.
fn canonical_number(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that every kind of name is told apart, and that near misses are not taken for domains.
    #[test]
    fn names_are_classified() {
        let zone = Zone::new("chasqui.test", 100);
        for (name, kind) in [
            ("chasqui.test", ZoneName::Apex),
            ("d0.chasqui.test", ZoneName::Domain(0)),
            ("d99.chasqui.test", ZoneName::Domain(99)),
            ("d100.chasqui.test", ZoneName::Unknown),
            ("d01.chasqui.test", ZoneName::Unknown),
            ("d+1.chasqui.test", ZoneName::Unknown),
            ("d.chasqui.test", ZoneName::Unknown),
            ("d99999999999.chasqui.test", ZoneName::Unknown),
            ("mx.d7.chasqui.test", ZoneName::DomainMx(7)),
            ("mx.d100.chasqui.test", ZoneName::Unknown),
            ("bounce.chasqui.test", ZoneName::Bounce),
            ("mx.bounce.chasqui.test", ZoneName::BounceMx),
            ("mx3.manymx.chasqui.test", ZoneName::ManyMxHost(3)),
            ("mx128.manymx.chasqui.test", ZoneName::Unknown),
            ("servfail.chasqui.test", ZoneName::ServFail),
            ("mx.servfail.chasqui.test", ZoneName::ServFail),
            ("timeout.chasqui.test", ZoneName::Silent),
            ("xchasqui.test", ZoneName::Foreign),
            ("d0.example.org", ZoneName::Foreign),
            ("", ZoneName::Foreign),
        ] {
            assert_eq!(zone.classify(name), kind, "{name}");
        }
    }
}
