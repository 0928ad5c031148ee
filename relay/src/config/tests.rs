//! Tests of the configuration as its users meet it.

use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../relay.example.toml");
const LEAST: &str = "hostname = \"relay.test\"\nspool.directory = \"/var/spool/chasqui\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("relay.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("refused").to_string()
}

/// The reference file has every key of every table, and no other.
#[test]
fn example_has_every_key() {
    parse(EXAMPLE).expect("the example is accepted");
    let document: toml::Table = EXAMPLE.parse().expect("the example is TOML");
    for table in [
        "", "spool", "delivery", "tls", "auth", "dns", "retry", "limits", "control", "bounce", "compat",
        "listener",
    ] {
        let bogus = match table {
            "" => format!("qqqqqqqqqqqqqq = 1\n{LEAST}"),
            "listener" => format!("{LEAST}[[listener]]\nqqqqqqqqqqqqqq = 1\n"),
            _ => format!("{LEAST}{table}.qqqqqqqqqqqqqq = 1\n"),
        };
        // The refusal of an unknown key lists the keys of the struct.
        let refusal = refusal(&bogus);
        let (_, keys) = refusal.split_once("use one of: ").expect("the refusal lists the keys");
        let written = match table {
            "" => &document,
            "listener" => document[table][0].as_table().expect("a table"),
            table => document[table].as_table().expect("a table"),
        };
        for key in keys.split(", ") {
            assert!(written.contains_key(key), "relay.example.toml lacks {table}.{key}");
        }
    }
}

/// What the reference file shows as a default is the default.
#[test]
fn example_shows_defaults() {
    let mut shown = parse(EXAMPLE).expect("the example is accepted");
    let default = parse(LEAST).expect("the least configuration is accepted");
    // These are marked "required" or "example" in the file.
    shown.hostname = default.hostname.clone();
    shown.spool.directory = default.spool.directory.clone();
    shown.postmaster = None;
    shown.routes.clear();
    shown.listener.clear();
    shown.delivery.helo = None;
    shown.delivery.source_address = None;
    shown.tls.certificates.clear();
    shown.auth.users = None;
    shown.auth.credentials = None;
    shown.tls.roots = None;
    shown.tls.domains.clear();
    shown.control.socket = None;
    shown.bounce.postmaster = None;
    assert_eq!(shown, default);
}

/// Each kind of mistake gets one line with file, line and fix.
#[test]
fn mistakes_are_named_with_line_and_fix() {
    let least = |rest: &str| format!("{LEAST}{rest}\n");
    for (text, said) in [
        (least("[delivery]\nprot = 25"), "relay.toml:4: unknown key `prot`; did you mean `port`?"),
        (
            least("[retry]\nzzz = 25"),
            "relay.toml:4: unknown key `zzz`; remove it, or use one of: first, factor, max, jitter, max_age",
        ),
        (least("[limitz]"), "relay.toml:3: unknown key `limitz`; did you mean `limits`?"),
        (
            least("[retry]\n\nfirst = \"5 weeks\""),
            "relay.toml:5: `5 weeks` is refused; write a duration such as \"250ms\", \"30s\", \"5m\", \"4h\" or \"5d\"",
        ),
        (
            least("[retry]\nfirst = 5"),
            "relay.toml:4: found integer `5`; write a duration such as \"250ms\", \"30s\", \"5m\", \"4h\" or \"5d\"",
        ),
        (
            least("[spool]\nclass = \"sync\"").replace("spool.directory", "#"),
            "relay.toml:4: unknown value `sync`; did you mean `synced`?",
        ),
        (
            least("[retry]\nmax = \"1s\""),
            "relay.toml:4: max = 1s is refused; write a duration from 60s to 31536000s",
        ),
        (least("[retry]\njitter = 2.0"), "relay.toml:4: jitter = 2 is refused; write a number from 0 to 0.9"),
        (
            least("[limits]\nmessage_size = \"1KiB\""),
            "relay.toml:4: message_size = 1KiB is refused; write a size from 64KiB to 4GiB",
        ),
        (
            least("[routes]\n\"a b\" = [\"mx\"]"),
            "relay.toml:4: `a b` is no domain; write a domain such as \"example.org\", or \"*\"",
        ),
        (
            least("[routes]\n\"a.b\" = []"),
            "relay.toml:4: the route has no next hop; write at least one, or remove the line",
        ),
        (
            least("[routes]\n\"a.b\" = [\"mx:0\"]"),
            "relay.toml:4: `mx:0` is refused; write a next hop such as \"mx.example.org\", \"192.0.2.1:2525\" or \"[2001:db8::1]:25\"",
        ),
        (
            format!("networks = [\n\"10.0.0.0/8\",\n\"all\"]\n{LEAST}"),
            "relay.toml:3: `all` is refused; write a network such as \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.1\"",
        ),
        (
            format!("networks = [\"::ffff:10.0.0.0/8\"]\n{LEAST}"),
            "relay.toml:1: `::ffff:10.0.0.0/8` is refused; write a network such as \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.1\"",
        ),
        (format!("listen = []\n{LEAST}"), "relay.toml:1: no address to listen on; write at least one"),
        (
            format!("listen = [\"25\"]\n{LEAST}"),
            "relay.toml:1: `25` is refused; write an address with a port such as \"127.0.0.1:25\", \"[::1]:25\" or \"localhost:25\"",
        ),
        (
            "spool.directory = \"x\"".to_owned(),
            "relay.toml:1: the key `hostname` is missing; add it (relay/relay.example.toml documents every key)",
        ),
        (least("[retry]\nmax = "), "relay.toml:4: string values must be quoted, expected literal string"),
        (least("[retry]\nfirst = \"1m\"\nfirst = \"2m\""), "relay.toml:5: duplicate key; remove one of them"),
    ] {
        assert_eq!(refusal(&text), said, "for:\n{text}");
    }
}

/// A file that is not there is named.
#[test]
fn missing_file() {
    let error = Config::load(Path::new("no/such/relay.toml")).expect_err("refused").to_string();
    assert!(error.starts_with("no/such/relay.toml: cannot be read: "), "{error}");
}

/// A listener of its own takes the place of the default address, and stands beside addresses that are written.
#[test]
fn listeners() {
    let addresses = |text: &str| -> Vec<String> {
        let config =
            parse(&format!("{text}{LEAST}[[listener]]\naddress = \"127.0.0.1:26\"\n")).expect("accepted");
        config.listeners().iter().map(|listener| listener.address.to_string()).collect()
    };
    assert_eq!(addresses(""), ["127.0.0.1:26"]);
    assert_eq!(addresses("listen = [\"127.0.0.1:25\"]\n"), ["127.0.0.1:25", "127.0.0.1:26"]);
    for (line, said) in [
        ("", "address"),
        ("address = \"127.0.0.1:26\"\nkind = \"relais\"", "did you mean `relay`?"),
        ("address = \"127.0.0.1:26\"\nconnections = 0", "connections = 0 is refused"),
        ("address = \"127.0.0.1:26\"\nnetworks = [\"all\"]", "write a network"),
        ("address = \"127.0.0.1:26\"\nproxy_from = [\"haproxy\"]", "`haproxy` is refused; write a network"),
        ("address = \"127.0.0.1:26\"\nxclient_from = \"10.0.0.2\"", "write a sequence"),
    ] {
        let line = refusal(&format!("{LEAST}[[listener]]\n{line}\n"));
        assert!(line.contains(said), "{line}");
    }
}

/// Networks of proxies that have room for strangers are warned of: whoever stands in them says who it is.
#[test]
fn wide_networks_of_proxies_are_warned_of() {
    let warned = |keys: &str| {
        let config = parse(&format!("{LEAST}[[listener]]\naddress = \"127.0.0.1:26\"\n{keys}\n"));
        let warnings = config.expect("accepted").warnings();
        warnings.into_iter().filter(|warning| warning.starts_with("listener.")).collect::<Vec<_>>()
    };
    assert!(warned("proxy_from = [\"10.0.0.0/8\", \"fc00::/7\"]\nxclient_from = [\"192.0.2.1\"]").is_empty());
    let warnings = warned("proxy_from = [\"0.0.0.0/0\"]\nxclient_from = [\"::/0\"]");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0]
            .starts_with("listener.proxy_from: 0.0.0.0/0 lets strangers say that they are in `networks`")
    );
    assert!(warnings[1].starts_with("listener.xclient_from: ::/0 lets"));
}

/// A time for a message that a client with little bandwidth cannot keep is warned of, and the default is not.
#[test]
fn short_message_time_is_warned_of() {
    let warned = |limits: &str| {
        let config = parse(&format!("{LEAST}[limits]\n{limits}\n")).expect("accepted");
        config.warnings().into_iter().find(|warning| warning.starts_with("limits.message_time"))
    };
    assert_eq!(warned(""), None);
    assert_eq!(warned("message_size = \"1MiB\"\nmessage_time = \"10s\""), None);
    let warning = warned("message_size = \"2MiB\"\nmessage_time = \"4s\"").expect("a warning");
    assert!(warning.contains("less than 512 KiB a second") && warning.contains("to 16s"), "{warning}");
}
