//! Neighbours: what the mail of all others suffers when receivers misbehave with a tenth of the senders. Such a world has no
//! other trouble, little room at each site, and a load that makes messages queue there.

use std::time::Duration;

use chasqui_loadgen::{ArrivalProcess, Rate, RecipientDistribution, Scenario, SizeDistribution, Verify};
use chasqui_runtime::SeededRng;
use chasqui_runtime::sim::{DiskOptions, NetworkOptions, Options, PlantedFault};
use chasqui_sinks::behaviour::{Habits, HostHabits, Kind, Slowness, Stage};

use super::dice::Dice;
use super::{DOMAINS, Domain, Plan, Trouble, Watch};
use crate::addresses::{self, CONTROL, RELAY, SLACK};

/// What is done to a tenth of the senders.
const SHARES: [(Kind, f64); 4] =
    [(Kind::Closing, 0.025), (Kind::Busy, 0.025), (Kind::Gone, 0.025), (Kind::Deferred, 0.025)];
/// Longest delay of anybody else's message.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// Connections of the relay where they are not scarce.
const CONNECTIONS: usize = 30;
/// Domains whose hosts are slow, each a site of its own.
const SLOW_SITES: usize = 3;
/// Longest delay of mail to the other hosts: until it is clear who is slow, a new site may have to wait.
const DELAY_BESIDE_SLOW_MAX: Duration = Duration::from_secs(45);
/// The same beside hosts that get a message whole and are silent then: an end might make a duplicate, so they are waited for
/// for a minute.
const DELAY_BESIDE_SILENT_MAX: Duration = Duration::from_secs(75);
/// How often something travels for a message on a standing connection: twice to and fro between relay and proxy, and with
/// each of MAIL, RCPT, DATA and the message between proxy and sinks.
const TRANSACTION_LATENCIES: f64 = 12.0;
/// Sites share the domains, and the largest has this many of them.
const DOMAINS_PER_SITE: f64 = 2.0;

/// A seed's world. `treated`: receivers misbehave; otherwise they do not, and all else is the same.
pub(crate) fn plan(seed: u64, treated: bool, planted: Option<PlantedFault>) -> Plan {
    let mut dice = Dice(SeededRng::new(seed ^ 0x6e65_6967_6862_6f72));
    let per_site = dice.number(1, 3);
    let (rate, busy) = (dice.spread(8.0, 40.0), dice.spread(0.1, 0.25));
    // The network is as slow as keeps the connections of the largest site busy for that share of the time.
    let transaction_s = busy * per_site as f64 * DOMAINS as f64 / DOMAINS_PER_SITE / rate;
    let far_us = (transaction_s / TRANSACTION_LATENCIES * 2.0 * 1e6) as u64;
    let duration = dice.seconds(40.0, 60.0);
    let age_max = Duration::from_secs(3_600);
    let habits = Habits { seed, shares: SHARES.to_vec(), ..Habits::default() };
    let load = Scenario {
        rate: Rate::PerSecond(rate),
        arrivals: ArrivalProcess::Constant,
        seed,
        warmup: Duration::ZERO,
        duration,
        drain: age_max + SLACK * 2,
        connections: 40,
        size: SizeDistribution::Uniform { min: 1_500, max: 8_000 },
        recipients_per_message: RecipientDistribution::Fixed(1),
        domains: DOMAINS,
        mailboxes_per_domain: 4,
        verify: Some(Verify::Arrival),
        reply_timeout: Duration::from_secs(60),
        ..addresses::endpoints()
    };
    Plan {
        seed,
        options: options(far_us, planted),
        relay: relay(&mut dice, per_site, CONNECTIONS, age_max),
        shards: dice.number(1, 2) as usize,
        other_shards: 0.0,
        age_max,
        generators: 1,
        sinks: 1,
        domains: vec![Domain::Good; DOMAINS],
        proxies: dice.number(1, 3) as usize,
        trouble: Trouble::default(),
        habits: if treated { habits.clone() } else { Habits::default() },
        reply_limit: SLACK,
        watch: Some(Watch { treated: habits, delay_max: None }),
        calm_after: duration,
        faults: Vec::new(),
        crash: None,
        crash_at_start: 0.0,
        recycled_min: 0,
        load,
    }
}

/// The same as one of the ordinary seeds: nobody else's mail may wait for long.
pub(crate) fn plan_watched(seed: u64, planted: Option<PlantedFault>) -> Plan {
    if seed.is_multiple_of(2) {
        return plan_slow(seed, planted);
    }
    let mut plan = plan(seed, true, planted);
    let refuses_reset = seed % 4 == 3;
    plan.habits.hosts = vec![HostHabits { refuses_reset, ..HostHabits::default() }; DOMAINS];
    plan.watch = plan.watch.map(|watch| Watch { delay_max: Some(DELAY_MAX), ..watch });
    plan
}

/// Hosts with as many connections as there are in all are slow with everything: mail to the others may not wait for long.
fn plan_slow(seed: u64, planted: Option<PlantedFault>) -> Plan {
    let mut plan = plan(seed, false, planted);
    let mut dice = Dice(SeededRng::new(seed ^ 0x736c_6f77_686f_7374));
    let mut hosts = vec![HostHabits::default(); DOMAINS];
    let mut delay_max = DELAY_BESIDE_SLOW_MAX;
    for host in &mut hosts[..SLOW_SITES] {
        let slowness = dice.one_of(&Slowness::ALL);
        if slowness == Slowness::Transaction(Stage::Body) {
            delay_max = DELAY_BESIDE_SILENT_MAX;
        }
        host.slow = Some(slowness);
    }
    plan.habits = Habits { seed, hosts, ..Habits::default() };
    plan.watch = Some(Watch { treated: plan.habits.clone(), delay_max: Some(delay_max) });
    let per_site = dice.number(2, 3) as usize;
    plan.relay = relay(&mut dice, per_site as u64, SLOW_SITES * per_site, plan.age_max);
    for limit in ["greeting", "command", "block", "final"] {
        // Of the table that stands last.
        plan.relay.push_str(&format!("{limit}_timeout = \"{}s\"\n", plan.reply_limit.as_secs()));
    }
    plan
}

fn options(far_us: u64, planted: Option<PlantedFault>) -> Options {
    let network = NetworkOptions {
        latency_us: 20..far_us,
        jitter_us: 0..far_us / 10,
        buffer_bytes: 32 << 10..64 << 10,
        window_bytes: 32 << 10..64 << 10,
        tiny_window: 0.0,
        reset: 0.0,
        slow_reader: 0.0,
        ..NetworkOptions::default()
    };
    let disk = DiskOptions { stall: 0.0, ..DiskOptions::default() };
    Options { network, disk, planted, ..Options::default() }
}

fn relay(dice: &mut Dice, per_site: u64, connections: usize, age_max: Duration) -> String {
    format!(
        "hostname = \"relay.test\"
listen = [\"{listen}\"]
control.socket = \"{control}\"
[spool]
directory = \"/spool\"
segment_size = \"1MiB\"
space = \"64MiB\"
[retry]
first = \"{first_ms}ms\"
factor = 2.0
max = \"300s\"
jitter = 0.1
max_age = \"{age_s}s\"
[delivery]
connections = {connections}
connections_per_site = {per_site}
messages_per_connection = {per_connection}
",
        listen = RELAY,
        control = CONTROL,
        first_ms = dice.spread(1_000.0, 60_000.0) as u64,
        age_s = age_max.as_secs(),
        per_connection = dice.number(20, 100),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both runs of a seed are the same but for what the receivers do.
    #[test]
    fn both_worlds_are_one() {
        let (without, with) = (plan(5, false, None), plan(5, true, None));
        assert_eq!((&without.relay, without.shards), (&with.relay, with.shards));
        assert_eq!(format!("{:?}", without.load), format!("{:?}", with.load));
        let treated = |plan: &Plan| (0..10_000).filter(|it| plan.habits.treatment(*it).is_some()).count();
        assert_eq!(treated(&without), 0);
        assert!((900..1_100).contains(&treated(&with)));
    }
}
