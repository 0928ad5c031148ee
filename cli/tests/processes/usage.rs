//! The command line: help, usage errors and their exit codes.

use std::net::{IpAddr, Ipv4Addr};

use chasqui_sinks::{CertificateFiles, write_certificate};

use crate::support::{run, text};

/// Every subcommand with its options that need no default: switches, and what has to be given.
const SUBCOMMANDS: &[(&str, &[&str])] = &[
    ("bench", &["--json", "--oversubscribe", "--no-resumption", "--auth", "--help"]),
    ("relay", &["--config", "--check", "--help"]),
    ("sink", &["--discard", "--allow-early-talkers", "--help"]),
    ("load", &["--target", "--json", "--insecure", "--no-resumption", "--help"]),
    ("retry", &["--control", "--help"]),
    ("simulate", &["--first", "--list-bugs", "--neighbours", "--verbose", "--help"]),
    ("password", &["--stdin", "--help"]),
    ("spool inspect", &["--json", "--help"]),
    ("spool verify", &["--json", "--help"]),
    ("spool export", &["--out", "--quarantine", "--json", "--help"]),
];

#[test]
fn help_shows_the_default_of_every_option() {
    // Proves: each option of each subcommand is explained together with its default.
    for (subcommand, without_default) in SUBCOMMANDS {
        let words: Vec<&str> = subcommand.split(' ').chain(["--help"]).collect();
        let output = run(&words);
        assert!(output.status.success(), "{subcommand} --help");
        let help = String::from_utf8(output.stdout).expect("UTF-8 help");
        let mut options = 0;
        for entry in help.split("\n  ").map(str::trim_start).filter(|entry| entry.starts_with('-')) {
            // The text of an option may be wrapped over lines that are indented further.
            let name =
                entry.split([' ', ',', '\n']).find(|word| word.starts_with("--")).expect("a long name");
            let rest = &help[help.find(entry).expect("the entry is in the help")..];
            let text =
                rest.split("\n  -").next().expect("a first part").split("\n      --").next().expect("a part");
            options += 1;
            assert!(
                without_default.contains(&name) || text.contains("[default:"),
                "{subcommand} {name} shows no default:\n{text}"
            );
        }
        assert!(options >= without_default.len(), "{subcommand}: {help}");
    }
}

#[test]
fn help_names_every_subcommand() {
    // Proves: there are exactly these subcommands, each with a line of help.
    let help = String::from_utf8(run(&["--help"]).stdout).expect("UTF-8 help");
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .collect();
    assert_eq!(
        commands,
        [
            "bench",
            "relay",
            "retry",
            "sink",
            "load",
            "spool",
            "password",
            "simulate",
            "completions",
            "man",
            "help"
        ]
    );
}

#[test]
fn without_a_command_the_commands_are_told() {
    // Proves: `chasqui` alone lists what there is, on stderr and with the exit code of a usage error.
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    for command in ["bench", "relay", "sink", "load", "man"] {
        assert!(told.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {told}");
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    // Proves: a script for each shell that knows the options, and one manual page for each command.
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && script.contains("poll-interval"), "{shell}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(run(&["man", "--out", &text(folder.path())]).status.success());
    for page in ["chasqui.1", "chasqui-load.1", "chasqui-spool-verify.1"] {
        let page = std::fs::read_to_string(folder.path().join(page)).expect("the page");
        assert!(page.contains(".SH OPTIONS"), "{page}");
    }
}

#[test]
fn a_usage_error_is_one_line_and_status_2() {
    // Proves: what a user gets wrong is answered in one line that names it, with exit code 2, before anything runs.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("relay.toml");
    std::fs::write(&file, "hostname = \"relay.test\"\nlisten = [\"127.0.0.1:0\"]\nlisten_to = 3\n")
        .expect("written");
    let (full, config) = (text(folder.path()), text(&file));
    let cases: &[(&[&str], &str)] = &[
        (&["fly"], "fly"),
        (&["bench", "--rate", "fast"], "fast"),
        (&["bench", "--rate", "-5"], "-5"),
        (&["bench", "--rat", "5"], "--rat"),
        (&["bench", "--duration", "10"], "500ms"),
        (&["bench", "--connections", "0"], "--connections"),
        (&["bench", "--size", "tiny"], "tiny"),
        (&["bench", "--size", "10"], "10"),
        (&["bench", "--verify", "never"], "never"),
        (&["bench", "--durability", "eternal"], "eternal"),
        (&["bench", "--engine", "steam"], "steam"),
        (&["bench", "--gate", "accept.p99"], "accept.p99"),
        (&["bench", "--out", &full], &full),
        (&["bench", "--shards", "9999"], "--oversubscribe"),
        (&["bench", "--allow-rejected", "2"], "2%"),
        (&["load", "--target", "no.such.name.invalid:25"], "no.such.name.invalid"),
        (&["load", "--target", "localhost"], "NAME:PORT"),
        (
            &["load", "--target", "localhost:1", "--pop3", "localhost:1", "--password-file", "no/such"],
            "no/such",
        ),
        (&["bench", "--spool", "/dev/shm"], "--durability buffered"),
        (&["relay"], "--config"),
        (&["relay", "--config", "no/such/file.toml"], "no/such/file.toml"),
        (&["relay", "--config", &config], "listen_to"),
        (&["relay", "--config", &config], "relay.toml:3"),
        (&["sink", "--cores", "x"], "--cores"),
        (&["load"], "--target"),
        (&["load", "--target", "192.0.2.1:25"], "--allow-target"),
        (&["load", "--target", "127.0.0.1:25", "--rate", "max"], "rate"),
        (&["simulate", "--seeds", "0"], "--seeds"),
        (&["simulate", "--bug", "off-by-one"], "no-unstuffing"),
        (&["password"], "NAME"),
        (&["password", "a b"], "NAME"),
        (&["password", "ann"], "the password is empty"),
        (&["password", "ann", "--scheme", "md5"], "scram-sha-256"),
        (&["password", "ann", "--iterations", "5000"], "--scheme"),
        (&["password", "ann", "--scheme", "scram-sha-256", "--iterations", "5"], "4096"),
        (&["spool", "mend", "."], "mend"),
        (&["spool", "verify"], "DIR"),
        (&["spool", "verify", "no/such/spool"], "spool.directory"),
        (&["spool", "inspect", "/"], "spool.directory"),
        (&["spool", "inspect", &full, "--id", "7"], "16 hexadecimal digits"),
        (&["spool", "export", &full], "--out"),
        (&["spool", "export", "/", "--out", &full], &full),
    ];
    refused(cases);
}

#[test]
fn mistakes_about_connections_are_refused() {
    // Proves: options of TLS that do not go together, and connections that cannot be, are usage errors before anything is sent.
    refused(&[
        (&["load", "--target", "127.0.0.1:25", "--tls=some"], "starttls"),
        (&["load", "--target", "127.0.0.1:25", "--tls", "--ca", "a.pem", "--insecure"], "--ca"),
        (&["load", "--target", "127.0.0.1:25", "--ca", "a.pem"], "add --tls"),
        (&["load", "--target", "127.0.0.1:25", "--insecure"], "add --tls"),
        (&["load", "--target", "127.0.0.1:25", "--tls=off", "--no-resumption"], "add --tls"),
        (
            &["load", "--target", "127.0.0.1:25", "--verify=none", "--tls", "--ca", "no/such.pem"],
            "no/such.pem",
        ),
        (&["load", "--target", "127.0.0.1:25", "--verify=none", "--source", "::1"], "IPv4"),
        (
            &["load", "--target", "127.0.0.1:25", "--messages-per-connection", "0"],
            "--messages-per-connection",
        ),
        (&["bench", "--no-resumption"], "--tls"),
        (&["bench", "--auth"], "--tls"),
        (&["bench", "--auth", "--tls=off"], "add --tls"),
        (&["bench", "--tls=implicit"], "add --auth"),
        (&["bench", "--recipients", "0"], "recipients per message"),
        (&["bench", "--recipients", "5..1"], "write a number as 3"),
        (&["load", "--target", "127.0.0.1:25", "--verify=none", "--recipients", "1..101"], "1 to 100"),
        (&["load", "--target", "127.0.0.1:25", "--reader-tls", "implicit"], "--imaps"),
        (&["load", "--target", "127.0.0.1:25", "--imap", "127.0.0.1:1", "--imaps", "127.0.0.1:2"], "--imap"),
        (&["load", "--target", "127.0.0.1:25", "--auth", "no/such/accounts"], "no/such/accounts"),
        (&["load", "--target", "127.0.0.1:25", "--auth", "/dev/null"], "user:password"),
        (&["load", "--target", "127.0.0.1:25", "--auth-user", "ann"], "CHASQUI_AUTH_PASSWORD"),
        (&["load", "--target", "127.0.0.1:25", "--auth-mechanism", "PLAIN"], "--auth-user"),
        (&["load", "--target", "127.0.0.1:25", "--auth-mechanism", "CRAM-MD5"], "SCRAM-SHA-256 PLAIN LOGIN"),
        (&["sink", "--auth", "no/such/accounts"], "no/such/accounts"),
        (&["sink", "--smtps-port", "0"], "--certificate"),
    ]);
}

/// Runs the program with each of these arguments: it must answer in one line that names the mistake, with exit code 2.
fn refused(cases: &[(&[&str], &str)]) {
    for (arguments, named) in cases {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?} is not one line: {said}");
        assert!(said.contains(named), "{arguments:?} does not name {named}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
    }
}

#[test]
fn a_good_configuration_checks() {
    // Proves: `relay --check` accepts the example configuration, in folders that there are, and starts nothing.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let example = include_str!("../../../relay/relay.example.toml");
    let file = folder.path().join("relay.toml");
    let there = text(folder.path());
    let at = |name: &str| folder.path().join(name);
    let files = CertificateFiles { chain: at("fullchain.pem"), key: at("privkey.pem"), root: at("root.pem") };
    write_certificate("relay.example.org", IpAddr::V4(Ipv4Addr::LOCALHOST), &files).expect("a certificate");
    let stored = "SCRAM-SHA-256$4096:QUFBQUFBQUFBQUFBQUFBQQ==$\
                  tHyptQ6SJaCqkMxpDwH5pOsgUzpqcGDyXAUbU1HGX40=:tHyptQ6SJaCqkMxpDwH5pOsgUzpqcGDyXAUbU1HGX40=";
    std::fs::write(at("users"), format!("ann {stored}\n")).expect("written");
    std::fs::write(at("credentials"), "smtp.example.net ann:a password\n").expect("written");
    let written = example
        .replace("/run/chasqui", &there)
        .replace("/var/spool", &there)
        .replace("/etc/chasqui", &there)
        .replace("/etc/ssl/certs/ca-certificates.crt", &text(&files.root));
    std::fs::write(&file, written).expect("written");
    let output = run(&["relay", "--check", "--config", &text(&file)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
