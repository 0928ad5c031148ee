//! The check that a scenario can be run, before anything is started.

use std::fmt;
use std::time::Duration;

use chasqui_report::{Rate, Verify};

use super::{ByteSize, Scenario};
use crate::message::smallest_message;

/// Most connections of one run: open files are limited to 20,000 on many machines.
const CONNECTIONS_MAX: usize = 16_384;
/// Most mailboxes of one run: 12 octets each in every generator shard, a hash and the newest message.
const MAILBOXES_MAX: usize = 1_000_000;
/// Most mailboxes that live readers watch: each holds a connection of its own, on top of [`CONNECTIONS_MAX`].
const LIVE_MAILBOXES_MAX: usize = 4_096;
/// Most recipients of one message (RFC 5321, 4.5.3.1.8: every server takes 100).
const RECIPIENTS_MAX: usize = 100;
/// Most arrival streams, targets, or allowed networks: a sink has one stream a core.
pub(crate) const ENDPOINTS_MAX: usize = 1_024;
/// Longest zone: a domain in it, and the local part of a bounce before it, stay below 255 octets (RFC 5321, 4.5.3.1.2 and 4.5.3.1.3).
const ZONE_OCTETS_MAX: usize = 150;
/// Longest of all times: who asks for more has mistaken the unit.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A scenario that cannot be run. One line: which setting, why, and how to mend it. The user acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError(String);

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// Whether this can be run; the first thing that stands against it.
    pub fn check(&self) -> Result<(), ScenarioError> {
        self.check_amounts()?;
        self.check_times()?;
        self.check_names()?;
        self.check_endpoints()?;
        self.check_verification()
    }

    fn check_amounts(&self) -> Result<(), ScenarioError> {
        if let Rate::PerSecond(rate) = self.rate
            && !(rate > 0.0 && rate.is_finite())
        {
            return refuse(format!(
                "rate: {rate} messages a second cannot be sent: ask for more than 0, or max"
            ));
        }
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within(
            "messages per connection",
            self.messages_per_connection.map_or(1, |it| it as usize),
            1,
            usize::MAX,
        )?;
        within("outstanding", self.outstanding(), 1, usize::MAX)?;
        within("domains", self.domains, 1, MAILBOXES_MAX)?;
        within("mailboxes per domain", self.mailboxes_per_domain, 1, MAILBOXES_MAX)?;
        within("domains × mailboxes per domain", self.mailboxes(), 1, MAILBOXES_MAX)?;
        let recipients_max = RECIPIENTS_MAX.min(self.mailboxes());
        for count in [self.recipients_per_message.least(), self.recipients_per_message.most()] {
            within("recipients per message", count, 1, recipients_max)?;
        }
        if let Some(smallest) = self.size.smallest()
            && smallest < self.smallest_message()
        {
            let needed = ByteSize(self.smallest_message());
            return refuse(format!(
                "size: {} is too small for the header section: ask for at least {needed}",
                ByteSize(smallest)
            ));
        }
        for (name, share) in
            [("late share", self.limits.late_share_max), ("achieved share", self.limits.achieved_share_min)]
        {
            if !(0.0..=1.0).contains(&share) {
                return refuse(format!("{name}: {share} is no share: give a number from 0 to 1"));
            }
        }
        Ok(())
    }

    /// The smallest size that every message can be held to: its largest header section.
    fn smallest_message(&self) -> u64 {
        let last = self.mailboxes().saturating_sub(1);
        let (domain, user) = (last / self.mailboxes_per_domain.max(1), self.mailboxes_per_domain);
        let widest = format!("u{user}@d{domain}.{}", self.zone);
        smallest_message(&vec![widest; self.recipients_per_message.most()], &self.zone, &self.bounce_zone())
    }

    fn check_times(&self) -> Result<(), ScenarioError> {
        let ms = Duration::from_millis;
        let times = [
            ("warmup", self.warmup, Duration::ZERO),
            ("duration", self.duration, ms(1)),
            ("drain", self.drain, ms(1)),
            ("POP3 poll interval", self.pop3_poll, ms(10)),
            ("reply timeout", self.reply_timeout, ms(10)),
            ("late after", self.late_after, Duration::ZERO),
        ];
        for (name, time, least) in times {
            if time < least || time > DURATION_MAX {
                return refuse(format!("{name}: {time:?} is out of range: give {least:?} to 30 days"));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ScenarioError> {
        for zone in [self.zone.clone(), self.bounce_zone()] {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            };
            if zone.len() > ZONE_OCTETS_MAX || !zone.split('.').all(label) {
                return refuse(format!(
                    "zone: `{zone}` is no domain of at most {ZONE_OCTETS_MAX} lower-case characters: give one like chasqui.test"
                ));
            }
        }
        let printable = self.password.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
        if !printable || !(1..=64).contains(&self.password.len()) {
            return refuse("password: give 1 to 64 printable ASCII characters without spaces".into());
        }
        Ok(())
    }

    fn check_endpoints(&self) -> Result<(), ScenarioError> {
        within("targets", self.targets.len(), 1, ENDPOINTS_MAX)?;
        within("arrival streams", self.arrival_streams.len(), 0, ENDPOINTS_MAX)?;
        within("allowed networks", self.allow_target.len(), 0, ENDPOINTS_MAX)?;
        within("sources", self.sources.len(), 0, ENDPOINTS_MAX)?;
        if let Some(authentication) = &self.authentication {
            within("accounts", authentication.accounts.len(), 1, usize::MAX)?;
        }
        let addresses = self.targets.iter().map(|target| &target.address);
        for address in addresses.clone() {
            if !self.sources.is_empty() && self.sources.iter().all(|it| it.is_ipv4() != address.is_ipv4()) {
                let kind = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                return refuse(format!("sources: none of them can reach {address}: add one of {kind}"));
            }
        }
        let readers = [&self.pop3, &self.imap].into_iter().flatten().map(|server| &server.target.address);
        for address in addresses.chain(readers) {
            let ip = address.ip().to_canonical();
            if !ip.is_loopback() && !self.allow_target.iter().any(|network| network.contains(&ip)) {
                return refuse(format!(
                    "target: {address} is not on the loopback: allow it with --allow-target {ip}/{}",
                    if ip.is_ipv4() { 32 } else { 128 }
                ));
            }
        }
        Ok(())
    }

    fn check_verification(&self) -> Result<(), ScenarioError> {
        let verify = self.verify();
        if verify == Verify::Nothing {
            return Ok(());
        }
        if self.rate == Rate::Max && self.arrival_streams.is_empty() {
            return refuse(
                "rate: max needs the sinks' arrival streams to bound what is outstanding: name them, or give a fixed rate"
                    .into(),
            );
        }
        if verify == Verify::Arrival {
            if self.arrival_streams.is_empty() {
                return refuse("verify: arrival needs the sinks' arrival streams: name them".into());
            }
            return Ok(());
        }
        if self.pop3.is_none() && self.imap.is_none() {
            return refuse(format!(
                "verify: {verify} needs a POP3 or an IMAP server of the mailboxes: name one"
            ));
        }
        if verify == Verify::Live && self.mailboxes() > LIVE_MAILBOXES_MAX {
            return refuse(format!(
                "verify: live readers hold a connection for each of the {} mailboxes: ask for at most {LIVE_MAILBOXES_MAX}, or for --verify after",
                self.mailboxes()
            ));
        }
        Ok(())
    }
}

fn refuse(reason: String) -> Result<(), ScenarioError> {
    Err(ScenarioError(reason))
}

fn within(name: &str, value: usize, least: usize, most: usize) -> Result<(), ScenarioError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = if most == usize::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
    Err(ScenarioError(format!("{name}: {value} is out of range: give {range}")))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::scenario::{RecipientDistribution, SizeDistribution, ValidityLimits};

    fn sound() -> Scenario {
        Scenario {
            targets: vec![SocketAddr::from(([127, 0, 0, 1], 25)).into()],
            pop3: Some(SocketAddr::from(([127, 0, 0, 1], 110)).into()),
            arrival_streams: vec!["arrivals.0".into()],
            ..Scenario::default()
        }
    }

    /// The defaults with endpoints pass; verification and outstanding resolve as documented.
    #[test]
    fn defaults() {
        assert_eq!(sound().check(), Ok(()));
        assert_eq!(sound().verify(), Verify::Live);
        let max = Scenario { rate: Rate::Max, ..sound() };
        assert_eq!((max.check(), max.verify(), max.outstanding()), (Ok(()), Verify::After, 1600));
    }

    /// Every bad setting is refused in one line that names it and the way to mend it.
    #[test]
    fn refusals() {
        let far = SocketAddr::from(([192, 0, 2, 1], 25));
        let cases: Vec<(&str, Scenario)> = vec![
            ("connections", Scenario { connections: 0, ..sound() }),
            ("messages per connection", Scenario { messages_per_connection: Some(0), ..sound() }),
            ("sources", Scenario { sources: vec!["::1".parse().expect("an address")], ..sound() }),
            ("outstanding", Scenario { outstanding: Some(0), ..sound() }),
            ("domains", Scenario { domains: 1001, mailboxes_per_domain: 1000, ..sound() }),
            (
                "recipients",
                Scenario {
                    recipients_per_message: RecipientDistribution::Uniform { min: 1, max: 101 },
                    ..sound()
                },
            ),
            ("size", Scenario { size: SizeDistribution::Fixed(100), ..sound() }),
            ("duration", Scenario { duration: Duration::ZERO, ..sound() }),
            ("zone", Scenario { zone: "Chasqui.test".into(), ..sound() }),
            ("password", Scenario { password: "a b".into(), ..sound() }),
            ("targets", Scenario { targets: vec![], ..sound() }),
            ("target", Scenario { targets: vec![far.into()], ..sound() }),
            ("target", Scenario { pop3: Some(far.into()), ..sound() }),
            ("rate", Scenario { rate: Rate::Max, arrival_streams: vec![], ..sound() }),
            ("rate", Scenario { rate: Rate::PerSecond(0.0), ..sound() }),
            ("verify", Scenario { pop3: None, ..sound() }),
            ("verify", Scenario { pop3: None, verify: Some(Verify::After), ..sound() }),
            ("verify", Scenario { verify: Some(Verify::Arrival), arrival_streams: vec![], ..sound() }),
            ("verify", Scenario { domains: 500, ..sound() }),
            (
                "late share",
                Scenario {
                    limits: ValidityLimits { late_share_max: 1.5, ..ValidityLimits::default() },
                    ..sound()
                },
            ),
        ];
        for (setting, scenario) in cases {
            let error = scenario.check().expect_err(setting).to_string();
            assert!(error.starts_with(setting) && error.contains(": ") && !error.contains('\n'), "{error}");
        }
    }

    /// Against a server of which nothing else is known accept alone can be measured, at a rate and at full speed.
    #[test]
    fn verify_none_needs_nothing_else() {
        for rate in [Rate::PerSecond(1.0), Rate::Max] {
            let blind = Scenario {
                rate,
                verify: Some(Verify::Nothing),
                pop3: None,
                arrival_streams: vec![],
                ..sound()
            };
            assert_eq!(blind.check(), Ok(()));
        }
    }

    /// A target off the loopback runs when a network covers it.
    #[test]
    fn allowed_target() {
        let allowed = vec!["192.0.2.0/24".parse().expect("a network")];
        let target = SocketAddr::from(([192, 0, 2, 1], 25));
        assert_eq!(
            Scenario { targets: vec![target.into()], allow_target: allowed, ..sound() }.check(),
            Ok(())
        );
    }
}
