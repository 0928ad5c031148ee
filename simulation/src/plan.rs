//! What a seed draws: the chain, its load, and what goes wrong in it. Nothing here runs.

mod dice;
mod habits;
pub(crate) mod neighbours;

use std::time::Duration;

use chasqui_loadgen::{ArrivalProcess, Rate, RecipientDistribution, Scenario, SizeDistribution, Verify};
use chasqui_runtime::SeededRng;
use chasqui_runtime::sim::{
    DiskFaults, DiskOperation, DiskOptions, Kill, NetworkOptions, Options, PlantedFault,
};
use chasqui_sinks::behaviour::Habits;

use crate::addresses::{self, CONTROL, RELAY, SLACK};
use dice::Dice;

/// Messages that a seed sends at least.
pub(crate) const MESSAGES_MIN: u64 = 200;
/// Segments that a seed's spool takes into use again at least.
pub(crate) const RECYCLED_MIN: u64 = 20;
/// The smallest segment that the relay can be told of.
const SEGMENT: u64 = 64 << 10;
/// Segments of a spool at most: at a later start one shard may have all of them, and a table of them must fit into one.
const SEGMENTS_MAX: u64 = 192;
/// How long the load goes on at least when the trouble is over.
const CATCH_UP: Duration = Duration::from_secs(25);
/// The same with much mail, which the spool must give back first.
const CATCH_UP_HEAVY: Duration = Duration::from_secs(60);
/// Mail that lives no longer has no time to wait for its turn.
const SHORT_LIFE: Duration = Duration::from_secs(300);
/// How many seeds have much mail in a short time.
const HEAVY: f64 = 0.1;
/// How many seeds have no trouble but with the mail of some senders, for the sake of all others.
const WATCHED: f64 = 0.08;
/// The relay waits this long for everything at least, and at most for a part of its age limit between both ends.
pub(crate) const RELAY_LIMIT_MIN: Duration = Duration::from_secs(3);
const RELAY_LIMIT_MAX_MS: (u64, u64) = (4_000, 60_000);
/// Domains of the zone.
pub(crate) const DOMAINS: usize = 6;

/// One seed's world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) options: Options,
    /// The relay's configuration in TOML.
    pub(crate) relay: String,
    /// Shards of the relay at its first start.
    pub(crate) shards: usize,
    /// How often another number of shards is drawn when the relay is started again.
    pub(crate) other_shards: f64,
    /// After this long an undelivered message goes back.
    pub(crate) age_max: Duration,
    pub(crate) load: Scenario,
    /// Shards of the load generator.
    pub(crate) generators: usize,
    /// Shards of the sinks.
    pub(crate) sinks: usize,
    /// What each domain's receiver is like; mail to `d<k>` goes to the k-th.
    pub(crate) domains: Vec<Domain>,
    /// Nodes over which the receivers are spread.
    pub(crate) proxies: usize,
    /// How often what is not doomed fails until the trouble is over.
    pub(crate) trouble: Trouble,
    /// How receivers treat some of their mail.
    pub(crate) habits: Habits,
    /// The relay's longest wait for a reply.
    pub(crate) reply_limit: Duration,
    /// Whose delays are told.
    pub(crate) watch: Option<Watch>,
    /// When the trouble is over: everything that can heal has healed.
    pub(crate) calm_after: Duration,
    /// What happens, from the start of the load on, in order of time.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// The relay is killed at this operation of its disk, counted from its first start.
    pub(crate) crash: Option<(u64, Kill)>,
    /// How often the start after a crash is to be cut short by another one.
    pub(crate) crash_at_start: f64,
    /// Segments that are recycled at least.
    pub(crate) recycled_min: u64,
}

/// Mail that nothing is done to, and is not to suffer from what is done to other mail.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// Whose mail is not meant: those that these habits treat, and to hosts that are slow by them.
    pub(crate) treated: Habits,
    /// How long all other mail may take.
    pub(crate) delay_max: Option<Duration>,
}

/// What a domain does with its mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// Takes it, but for the trouble that everybody has.
    Good,
    /// Refuses much of it for the time being, until the trouble is over.
    Busy,
    /// Its name is never resolved: SERVFAIL.
    ServFail,
    /// Its name servers never answer.
    Silent,
    /// It does not exist.
    Unknown,
    /// Nobody listens at its address.
    Deaf,
    /// It answers every transaction with 451.
    Deferring,
    /// It answers every recipient with 550.
    Refusing,
}

impl Domain {
    /// Its mail can only go back.
    pub(crate) fn is_doomed(self) -> bool {
        !matches!(self, Domain::Good | Domain::Busy)
    }
}

/// How often a receiver does something to a connection, command or message. Shares of 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// 421 or silence in place of a greeting.
    pub(crate) greeting: f64,
    /// 4xx to a command.
    pub(crate) deferral: f64,
    /// 5xx to a command.
    pub(crate) refusal: f64,
    /// The connection ends in the middle of a message.
    pub(crate) cut: f64,
    /// A message is not read on for a while.
    pub(crate) stall: f64,
    /// The message is taken, and its reply lost.
    pub(crate) lost_reply: f64,
    /// A name's lookup ends with SERVFAIL, or with nothing after a long time.
    pub(crate) lookup: f64,
}

/// Something that happens to a node or between two.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The relay dies, and is started again some time later.
    Crash { how: Kill, down: Duration },
    /// The same at the disk operation that comes after so many others.
    CrashAtDisk { operations: u64, how: Kill, down: Duration },
    /// The relay is told to end, and is started again.
    Restart { down: Duration },
    /// A node of receivers dies.
    ProxyCrash { proxy: usize, how: Kill, down: Duration },
    /// Nothing comes through between the relay and a node of receivers.
    ProxyPartition { proxy: usize, lasts: Duration },
    /// Nothing comes through between the load generator and the relay.
    LoadPartition { lasts: Duration },
    /// Operations of the relay's disk fail; the relay is killed or told to end some time later.
    DiskFailure { operation: DiskOperation, count: u32, lasts: Duration },
    /// Operations of the relay's disk fail at random.
    DiskFailures { faults: DiskFaults, lasts: Duration },
    /// The relay's disk has room for so many bytes more.
    DiskFull { left: u64, lasts: Duration },
    /// The relay dies, and finds its disk full when it is started again, with room for so many bytes.
    FullStart { how: Kill, left: u64, lasts: Duration },
    /// The wall clock of the relay's machine is set so far ahead, or behind; the relay dies before, or lives on.
    Clock { ahead_s: i64, dies: bool },
}

impl Plan {
    /// The world of a seed, with one planted fault or none.
    pub(crate) fn of(seed: u64, planted: Option<PlantedFault>) -> Plan {
        if Dice(SeededRng::new(seed ^ 0x7761_7463_6865_6421)).chance(WATCHED) {
            return neighbours::plan_watched(seed, planted);
        }
        let mut dice = Dice(SeededRng::new(seed ^ 0x6368_6173_7175_6921));
        // So much mail in so short a time that segments come back into use while receivers stall.
        let heavy = dice.chance(HEAVY);
        let age_max = if heavy { dice.seconds(600.0, 1200.0) } else { dice.seconds(60.0, 3600.0) };
        // A notification that is written before it must have several tries after it.
        let calm_after =
            Duration::from_secs_f64((age_max.as_secs_f64() * dice.spread(0.2, 0.45)).min(if heavy {
                30.0
            } else {
                240.0
            }));
        let proxies = dice.number(1, 3) as usize;
        let shards = dice.number(1, 3) as usize;
        let domains = domains(&mut dice);
        let trouble = Trouble {
            greeting: dice.share(0.1),
            deferral: dice.share(0.08),
            refusal: dice.share(0.01),
            cut: dice.share(0.04),
            stall: if heavy { 0.2 } else { dice.share(0.1) },
            lost_reply: dice.share(0.04),
            lookup: dice.share(0.3),
        };
        let mut faults = faults(&mut dice, calm_after, proxies);
        faults.extend(wrong_worlds(seed, calm_after));
        faults.sort_by_key(|(at, _)| *at);
        Plan {
            seed,
            options: options(&mut dice, heavy, planted),
            relay: relay(&mut dice, age_max, heavy),
            shards,
            other_shards: if dice.chance(0.3) { 0.5 } else { 0.0 },
            age_max,
            load: load(&mut dice, seed, heavy, calm_after, age_max),
            generators: dice.number(1, 2) as usize,
            sinks: dice.number(1, 2) as usize,
            domains,
            proxies,
            trouble,
            habits: habits::draw(seed, calm_after, heavy),
            reply_limit: Duration::from_millis(relay_limit_max_ms(age_max)),
            watch: None,
            calm_after,
            faults,
            crash: None,
            crash_at_start: 0.25,
            recycled_min: RECYCLED_MIN,
        }
    }

    /// A world in which nothing goes wrong but a crash of the relay at one operation of its disk: 200 messages in a
    /// short time.
    pub(crate) fn quiet(seed: u64, crash: Option<(u64, Kill)>) -> Plan {
        let mut dice = Dice(SeededRng::new(seed));
        let (age_max, calm_after) = (Duration::from_secs(120), Duration::from_secs(5));
        let mut load = load(&mut dice, seed, false, calm_after, age_max);
        load.rate = Rate::PerSecond(MESSAGES_MIN as f64 / load.duration.as_secs_f64());
        (load.arrivals, load.verify) = (ArrivalProcess::Constant, Some(Verify::Arrival));
        load.recipients_per_message = RecipientDistribution::Fixed(1);
        let mut options = options(&mut dice, false, None);
        (options.network.reset, options.network.tiny_window, options.network.slow_reader) = (0.0, 0.0, 0.0);
        Plan {
            seed,
            options,
            relay: relay(&mut dice, age_max, false),
            shards: 1,
            other_shards: 0.0,
            age_max,
            load,
            generators: 1,
            sinks: 1,
            domains: vec![Domain::Good; DOMAINS],
            proxies: 1,
            trouble: Trouble::default(),
            habits: Habits::default(),
            reply_limit: Duration::from_millis(relay_limit_max_ms(age_max)),
            watch: None,
            calm_after,
            faults: Vec::new(),
            crash,
            crash_at_start: 0.0,
            recycled_min: 0,
        }
    }
}

/// Whether a domain has two hosts.
pub(crate) fn has_second(habits: &Habits, number: usize) -> bool {
    habits.host(number).is_some_and(|host| host.first_of_two.is_some())
}

fn domains(dice: &mut Dice) -> Vec<Domain> {
    use Domain::{Busy, Deaf, Deferring, Good, Refusing, ServFail, Silent, Unknown};
    let mut domains = vec![Good; DOMAINS];
    if dice.chance(0.5) {
        domains[1] = Busy;
    }
    if dice.chance(0.5) {
        domains[2] = dice.one_of(&[ServFail, Silent, Unknown, Deaf, Deferring, Refusing]);
    }
    domains
}

fn options(dice: &mut Dice, heavy: bool, planted: Option<PlantedFault>) -> Options {
    let far = dice.spread(200.0, 20_000.0) as u64;
    let window = if heavy { dice.spread(3_072.0, 8_192.0) } else { dice.spread(2_048.0, 65_536.0) } as usize;
    let network = NetworkOptions {
        latency_us: 20..far,
        jitter_us: 0..dice.number(1, far / 4 + 1),
        // Small ones keep more of a message in its segment while its receiver stalls.
        buffer_bytes: 4 << 10..if heavy { 8 << 10 } else { 64 << 10 },
        window_bytes: window..window * 2,
        tiny_window: dice.share(0.01),
        reset: dice.share(0.1),
        slow_reader: dice.share(0.1),
        slow_reader_us: 500..20_000,
        reset_at_heal: 0.3,
        give_up_s: dice.number(20, 900),
    };
    let disk = DiskOptions {
        operation_us: 5..dice.number(20, 400),
        sync_us: 100..dice.spread(500.0, 40_000.0) as u64,
        stall: dice.share(0.02),
        stall_us: 100_000..3_000_000,
        ..DiskOptions::default()
    };
    Options { network, disk, planted, ..Options::default() }
}

fn load(dice: &mut Dice, seed: u64, heavy: bool, calm_after: Duration, age_max: Duration) -> Scenario {
    let reply_timeout = dice.seconds(3.0, (calm_after.as_secs_f64() / 4.0).clamp(4.0, 30.0));
    // So long that what waited for a connection that hung is sent at last.
    let duration = calm_after + reply_timeout + if heavy { CATCH_UP_HEAVY } else { CATCH_UP };
    let messages = dice.number(MESSAGES_MIN * 3 / 2, MESSAGES_MIN * 2);
    let size = if heavy {
        SizeDistribution::Uniform { min: 20_000, max: 80_000 }
    } else if dice.chance(0.8) {
        SizeDistribution::Uniform { min: 1500, max: dice.number(12_000, 20_000) }
    } else {
        // Some in several pieces.
        SizeDistribution::Mix(vec![(1500, 50), (9_000, 40), (40_000, 8), (dice.number(70_000, 300_000), 2)])
    };
    Scenario {
        rate: Rate::PerSecond(messages as f64 / duration.as_secs_f64()),
        arrivals: dice.one_of(&[ArrivalProcess::Constant, ArrivalProcess::Poisson]),
        seed,
        warmup: Duration::ZERO,
        duration,
        // Nothing moves while all that is left waits to become too old.
        drain: age_max + SLACK * 2,
        connections: dice.number(if heavy { 10 } else { 3 }, if heavy { 20 } else { 12 }) as usize,
        size,
        recipients_per_message: RecipientDistribution::Fixed(dice.one_of(&[
            1,
            1,
            2,
            if heavy { 2 } else { 3 },
        ])),
        domains: DOMAINS,
        mailboxes_per_domain: 4,
        verify: Some(dice.one_of(&[Verify::Arrival, Verify::Arrival, Verify::Arrival, Verify::After])),
        reply_timeout,
        // Only mailboxes that are read after the window are polled, and they may be for an hour.
        pop3_poll: age_max / 40,
        ..addresses::endpoints()
    }
}

fn relay(dice: &mut Dice, age_max: Duration, heavy: bool) -> String {
    let age_ms = age_max.as_millis() as u64;
    let first_ms = dice.number(500, 5_000);
    // A dead domain's mail must not be tried thousands of times.
    let least_ms = first_ms.max(age_ms / 30);
    // What waits takes space that much mail needs.
    let most_ms = (age_ms / 6).min(if heavy { 40_000 } else { 300_000 });
    let max_ms = dice.number(least_ms, most_ms.max(least_ms));
    // A connection that hangs is given up early enough for another try.
    let limit =
        |dice: &mut Dice| dice.number(RELAY_LIMIT_MIN.as_millis() as u64, relay_limit_max_ms(age_max));
    let limits = [limit(dice), limit(dice), limit(dice), limit(dice), limit(dice)];
    let [connect_ms, greeting_ms, command_ms, block_ms, final_ms] = limits;
    let warning_ms = if dice.chance(0.3) { age_ms / 3 } else { 0 };
    let rate = if dice.chance(0.1) { dice.number(5, 50) } else { 0 };
    format!(
        "hostname = \"relay.test\"
listen = [\"{listen}\"]
control.socket = \"{control}\"
bounce.delay_warning = \"{warning_ms}ms\"
[spool]
directory = \"/spool\"
segment_size = \"{SEGMENT}B\"
space = \"{space}B\"
[retry]
first = \"{first_ms}ms\"
factor = {factor:.1}
max = \"{max_ms}ms\"
jitter = {jitter:.2}
max_age = \"{age_ms}ms\"
[delivery]
connections = {connections}
connections_per_site = {per_site}
rate_per_site = {rate}
messages_per_connection = {per_connection}
recipients_per_transaction = {recipients}
idle = \"{idle_ms}ms\"
connect_timeout = \"{connect_ms}ms\"
greeting_timeout = \"{greeting_ms}ms\"
command_timeout = \"{command_ms}ms\"
block_timeout = \"{block_ms}ms\"
final_timeout = \"{final_ms}ms\"
[limits]
idle = \"{session_ms}ms\"
drain = \"{drain_ms}ms\"
",
        listen = RELAY,
        control = CONTROL,
        space = SEGMENT * dice.number(SEGMENTS_MAX / 2, SEGMENTS_MAX),
        factor = 1.5 + dice.0.unit() * 2.0,
        jitter = dice.0.unit() * 0.5,
        // As many as carry the load in a short life.
        connections = dice.number(if age_max < SHORT_LIFE { 8 } else { 4 }, 30),
        per_site = dice.number(1, 4),
        per_connection = dice.number(1, 60),
        recipients = dice.number(1, 4),
        idle_ms = dice.number(100, 20_000),
        session_ms = dice.number(30_000, 300_000),
        drain_ms = dice.number(200, 5_000),
    )
}

fn relay_limit_max_ms(age_max: Duration) -> u64 {
    let (least, most) = RELAY_LIMIT_MAX_MS;
    (age_max.as_millis() as u64 / 12).clamp(least, most)
}

fn faults(dice: &mut Dice, calm_after: Duration, proxies: usize) -> Vec<(Duration, Fault)> {
    let count = dice.number(2, 7);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let at = calm_after.mul_f64(0.05 + 0.9 * dice.0.unit());
            (at, fault(dice, proxies, calm_after - at))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Disks that are full at a start, and clocks that jump. Drawn apart, so that all else of a seed stays as it was.
fn wrong_worlds(seed: u64, calm_after: Duration) -> Vec<(Duration, Fault)> {
    let mut dice = Dice(SeededRng::new(seed ^ 0x636c_6f63_6b73_2121));
    let mut faults = Vec::new();
    let at = |dice: &mut Dice| calm_after.mul_f64(0.05 + 0.9 * dice.0.unit());
    if dice.chance(0.25) {
        let at = at(&mut dice);
        let lasts = dice.seconds(1.0, 20.0).min(calm_after - at);
        let little = dice.number(0, 40) * 4096;
        let left = dice.one_of(&[0, 0, little]);
        faults.push((at, Fault::FullStart { how: dice.kill(), left, lasts }));
    }
    if dice.chance(0.3) {
        for _ in 0..dice.number(1, 3) {
            let size_s = dice.spread(60.0, 1e8) as i64;
            let ahead_s = dice.one_of(&[size_s, size_s, -size_s, 0]);
            let dies = dice.chance(0.5);
            faults.push((at(&mut dice), Fault::Clock { ahead_s, dies }));
        }
    }
    faults
}

fn fault(dice: &mut Dice, proxies: usize, left: Duration) -> Fault {
    let down = dice.seconds(0.01, 3.0).min(left);
    let lasts = dice.seconds(0.1, 20.0).min(left);
    let proxy = dice.0.below(proxies as u64) as usize;
    match dice.0.below(16) {
        0..4 => Fault::Crash { how: dice.kill(), down },
        4..8 => Fault::CrashAtDisk { operations: dice.number(1, 300), how: dice.kill(), down },
        8 => Fault::Restart { down },
        9 => Fault::ProxyCrash { proxy, how: dice.kill(), down: lasts },
        10 => Fault::ProxyPartition { proxy, lasts },
        11 => Fault::LoadPartition { lasts },
        12 => {
            let operation = dice.one_of(&[DiskOperation::Sync, DiskOperation::Write]);
            Fault::DiskFailure { operation, count: dice.number(1, 3) as u32, lasts: down }
        }
        13 => Fault::DiskFailures { faults: DiskFaults { read: 0.2, ..DiskFaults::default() }, lasts },
        14 => {
            let faults = DiskFaults { read: 0.0, write: 0.02, sync: 0.02 };
            Fault::DiskFailures { faults, lasts: down }
        }
        _ => Fault::DiskFull { left: dice.number(0, 40) * 4096, lasts },
    }
}
