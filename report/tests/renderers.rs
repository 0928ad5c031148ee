//! What a reader is told about a run that failed in every way, and the files a run leaves.

mod common;

use chasqui_report::{Gate, Milestone, Run, RunFolder, TlsMode, Verdict, render};

/// A run whose ledger, schedule and gates all failed.
fn failed_run() -> Run {
    let mut run = common::run(&common::recording());
    run.ledger.verified = Some(43_991);
    run.ledger.lost = Some(7);
    run.ledger.missing = Some(0);
    run.ledger.pending = Some(2);
    run.ledger.duplicated = Some(5);
    run.ledger.duplicated_with_cause = Some(1);
    run.latency_us.visible = None;
    run.throughput.verified_per_s = None;
    run.warnings.push("busy <cores> & \"others\" \u{1b}[31m".to_owned());
    run.validity =
        run.validity.map(|validity| chasqui_report::Validity { late_while_free_share: 0.12, ..validity });
    run.connections =
        run.connections.map(|all| chasqui_report::Connections { reached: 9, replies_421: 40, ..all });
    run.due = run.due.map(|due| chasqui_report::Due { unsent: 4000, ..due });
    let gates = ["accept.p99 < 5ms", "visible.p99 < 1s"].map(|expr| Gate::parse(expr).expect("well formed"));
    run.judge(&gates);
    run
}

fn first_line(run: &Run) -> String {
    render::terminal(run, false).lines().next().unwrap_or_default().to_owned()
}

/// The summary begins with the verdict and every reason for it, and has no escape sequence without colour, not even
/// one from outside.
#[test]
fn terminal_says_why_first() {
    let run = failed_run();
    assert_eq!(run.verdict, Verdict::DeliveryFailed);
    let text = render::terminal(&run, false);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("DELIVERY FAILED  2,000/s · open loop · 2KiB"), "{}", lines[0]);
    assert!(lines[0].contains("9 of 16 connections were reached: 40 replies of 421"), "{}", lines[0]);
    let reasons = [
        "7 lost: accepted, then neither delivered, bounced nor queued",
        "2 pending: still queued or unread when the drain ended",
        "4 duplicated without a cause",
        "12.0 % of the due sends began over 10 ms late while a connection was free (limit 1 %): the load generator could not keep its schedule",
        "4000 of the 40000 messages that were due in the window were never sent (--allow-unsent 1 %)",
        "gate accept.p99 < 5ms: is 7.76 ms",
        "gate visible.p99 < 1s: the run does not know this figure",
    ];
    assert_eq!(lines[1..8], reasons.map(|reason| format!("  ✗ {reason}")));
    assert!(text.contains("verified –"), "an unknown rate is not 0:\n{text}");
    assert!(
        text.contains("= verified 43,991 + bounced 0 + corrupted 0 + lost 7 + missing 0 + pending 2"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(render::terminal(&run, true).starts_with("\u{1b}[1;31mDELIVERY FAILED\u{1b}[0m"));
}

/// What is censored is told beside the figures that it bounds from below, and in the first line what kept the server from
/// taking more; the mailbox that is told of leads, and the polled one comes with its interval.
#[test]
fn bounds_and_saturation_are_told() {
    let mut run = common::run(&common::recording());
    let accept = run.latency_us.accept.as_mut().expect("it was measured");
    let p50 = Some(accept.p50);
    accept.censored = 120;
    accept.upper = Some(chasqui_report::Upper { p50, ..chasqui_report::Upper::default() });
    run.validity = run.validity.map(|validity| chasqui_report::Validity { late_share: 0.4, ..validity });
    let text = render::terminal(&run, false);
    let line = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).expect(name);
    assert!(
        text.lines().next().is_some_and(|line| line.contains("saturated: 40.0 % of the due sends")),
        "{text}"
    );
    assert_eq!(line("accept  ").matches('≥').count(), 4, "{text}");
    assert!(line("censored").contains("accept: 120 of 40,000 messages"), "{text}");
    let position = |name: &str| text.find(name).expect(name);
    assert!(position("visible_imap") < position("accept  "), "{text}");
    assert!(position("visible_pop3 (asked every 100 ms)") > position("arrive  "), "{text}");
    assert!(text.contains("by the time of the event"), "{text}");
}

/// The first line tells of TLS and of what is weaker than usual about it; few connections are a row of the table like any other.
#[test]
fn tls_and_its_connections_are_told() {
    let mut run = common::run(&common::recording());
    let told = render::terminal(&run, false);
    assert!(
        told.lines().next().is_some_and(|line| {
            line.contains("16 connections · STARTTLS · AUTH by 10 accounts · POP3 STLS, IMAPS · ")
        }),
        "{told}"
    );
    for name in ["connect  ", "tls  ", "auth  "] {
        let row = told.lines().find(|line| line.trim_start().starts_with(name)).expect(name);
        assert!(row.trim_end().ends_with(" 16"), "{told}");
    }
    let scenario = run.scenario.as_mut().expect("it is known");
    (scenario.tls_verified, scenario.tls_resumption) = (Some(false), Some(false));
    scenario.messages_per_connection = Some(1);
    let told = first_line(&run);
    assert!(told.contains("1 message a connection · STARTTLS, any certificate, no resumption · "), "{told}");
    run.scenario = run.scenario.map(|scenario| chasqui_report::Scenario {
        tls: TlsMode::Off,
        pop3_tls: None,
        imap_tls: Some(TlsMode::Off),
        accounts: Some(1),
        ..scenario
    });
    assert!(!first_line(&run).contains("TLS") && first_line(&run).contains("AUTH by 1 account · "));
}

/// One test case for delivery, one for validity, one for the load, one per gate; what failed is a failure; text from outside is escaped.
#[test]
fn junit_has_a_case_per_condition() {
    let run = failed_run();
    let xml = render::junit(&run);
    assert!(xml.contains(
        r#"<testsuite name="chasqui" tests="5" failures="5" errors="0" skipped="0" time="23.400""#
    ));
    assert!(
        xml.contains(r#"<testcase classname="chasqui.gate" name="accept.p99 &lt; 5ms" time="0.000">"#),
        "{xml}"
    );
    assert!(xml.contains(r#"<failure message="is 7.76 ms" type="gate">is 7.76 ms</failure>"#), "{xml}");
    let passed = render::junit(&common::run(&common::recording()));
    assert!(passed.contains(r#"tests="5" failures="0""#) && !passed.contains("<failure"), "{passed}");
}

/// The page loads nothing from anywhere, runs no script, and shows text from outside as text.
#[test]
fn page_is_self_contained() {
    let page = render::html(&failed_run(), &common::recording());
    for foreign in ["http:", "https:", "<script", "<link", "@import", "url(", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("busy &lt;cores&gt; &amp; &quot;others&quot; \u{fffd}[31m"));
    assert!(page.contains("DELIVERY FAILED"));
    let plots = page.matches("role=\"img\"").count();
    assert_eq!(plots, 1 + 1 + 3, "percentiles, throughput, one course per milestone");
}

/// A run's folder holds exactly the files that README.md lists, complete, and run.json reads back as the run.
#[test]
fn folder_holds_every_file_and_no_temporary() {
    let base = tempfile::tempdir().expect("a temporary folder");
    let recording = common::recording();
    let run = common::run(&recording);
    RunFolder::create(base.path())
        .and_then(|folder| folder.write_all(&run, &recording))
        .expect("it is written");

    let mut names: Vec<_> = std::fs::read_dir(base.path())
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("names are ASCII"))
        .collect();
    names.sort();
    let mut expected: Vec<_> =
        Milestone::ALL.iter().map(|milestone| format!("{}.hgrm", milestone.name())).collect();
    expected
        .extend(["junit.xml", "latency.hlog", "report.html", "run.json", "summary.md"].map(str::to_owned));
    expected.sort();
    assert_eq!(names, expected);
    let text = std::fs::read_to_string(base.path().join("run.json")).expect("it is there");
    assert_eq!(Run::from_json(&text).expect("it reads back"), run);
}
