//! Tests of notifications.

use std::time::Duration;

use chasqui_protocol::smtp::dsn::{EnvelopeId, MailParameters, OriginalRecipient};

use super::*;

fn notification(headers: &[u8], text: &str) -> String {
    let envelope = Envelope {
        reverse_path: "sender@example.org".into(),
        recipients: vec!["u1@d1.test".into(), "u2@d2.test".into(), "\"odd user\"@d3.test".into()],
        arrived_ms: 784_903_526_000,
        lead_ms: 0,
        size: 1000,
        eight_bit: true,
        form: Default::default(),
        dsn: None,
    };
    let said = |status: &'static str, text: &str, remote: Option<&str>| Reason {
        status: status.into(),
        text: text.into(),
        remote: remote.map(Rc::from),
    };
    let failed = |recipient, reason| Notice { recipient, action: Action::Failed, reason };
    let notices = [
        failed(2, said("5.1.1", text, Some("mx.d3.test"))),
        failed(0, said("5.1.2", "no such domain", None)),
    ];
    let report = Report {
        hostname: "relay.test",
        postmaster: "postmaster@relay.test",
        id: MessageId::from(0xabc),
        envelope: &envelope,
        notices: &notices,
        original: Original::Headers(headers.to_vec()),
        eight_bit: false,
        random: 7,
        now: Duration::from_secs(784_903_600),
        max_age: Duration::from_secs(5 * 86_400),
    };
    String::from_utf8(report.write()).expect("7-bit")
}

/// A notification is RFC 3464's: three parts, one block per failed recipient and none for others.
#[test]
fn form_of_a_notification() {
    let text = notification(b"Subject: hello\r\nX: \xe9\r\n", "550 5.1.1 no such user");
    let parts: Vec<&str> = text.split("--=_chasqui_0000000000000abc_0000000000000007").collect();
    let [header, plain, status, headers, end] = parts.as_slice() else { panic!("five pieces: {parts:#?}") };
    for line in [
        "Date: Tue, 15 Nov 1994 12:46:40 +0000\r\n",
        "From: Mail Delivery System <postmaster@relay.test>\r\n",
        "To: <sender@example.org>\r\n",
        "Auto-Submitted: auto-replied\r\n",
        "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"=_chasqui_",
    ] {
        assert!(header.contains(line), "{line} in {header}");
    }
    assert!(plain.contains("<\"odd user\"@d3.test>:\r\n    mx.d3.test said: 550 5.1.1 no such user\r\n"));
    assert_eq!(
        *status,
        "\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; relay.test\r\nArrival-Date: Tue, 15 Nov 1994 12:45:26 +0000\r\n\r\n\
         Final-Recipient: rfc822; \"odd user\"@d3.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Remote-MTA: dns; mx.d3.test\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\
         Last-Attempt-Date: Tue, 15 Nov 1994 12:46:40 +0000\r\n\r\n\
         Final-Recipient: rfc822; u1@d1.test\r\nAction: failed\r\nStatus: 5.1.2\r\n\
         Diagnostic-Code: x-chasqui; no such domain\r\n\r\n"
    );
    assert_eq!(*headers, "\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: hello\r\nX: ?\r\n\r\n");
    assert_eq!(*end, "--\r\n");
}

/// Whatever a next hop says and the original holds, a notification stays 7-bit, with lines that SMTP allows and no
/// header or boundary of somebody else's making.
#[test]
fn hostile_text_stays_text() {
    let long = "x".repeat(5000);
    let headers = format!("A: {long}\r\n.B: dot\r\nC: \rforged\nD: \u{e9}\r\n");
    let text = notification(headers.as_bytes(), &format!("550 a\r\nStatus: 2.0.0\n{long}\u{0}"));
    assert!(text.is_ascii());
    assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
    assert_eq!(text.matches("\r\nStatus: ").count(), 2);
}

/// The header section ends before the empty line, is unstuffed, and a line that was cut off is left out.
#[test]
fn header_sections() {
    assert_eq!(header_section(b"A: 1\r\n..B: 2\r\n\r\nbody\r\n"), b"A: 1\r\n.B: 2\r\n");
    assert_eq!(header_section(b"A: 1\r\nB: cut"), b"A: 1\r\n");
    assert_eq!(header_section(b"\r\nbody\r\n"), b"");
    assert_eq!(header_section(b""), b"");
}

/// Everything RFC 3464 and the client's parameters ask for stands in its field, and each action has its own words.
#[test]
fn fields_of_a_notification() {
    let dsn = Parameters {
        mail: MailParameters { ret: None, envelope_id: EnvelopeId::parse(b"QQ+2B1") },
        recipients: vec![
            RcptParameters::default(),
            RcptParameters { notify: None, original: OriginalRecipient::parse(b"rfc822;Old+20Name@x") },
        ],
    };
    let envelope = Envelope {
        reverse_path: "s@example.org".into(),
        recipients: vec!["u1@d1.test".into(), "u2@d2.test".into()],
        arrived_ms: 784_903_526_000,
        lead_ms: 0,
        size: 1000,
        eight_bit: true,
        form: Default::default(),
        dsn: Some(Box::new(dsn)),
    };
    let reason = |status: &'static str, text: &str| Reason {
        status: status.into(),
        text: text.into(),
        remote: Some("mx.test".into()),
    };
    let notices = [
        Notice { recipient: 1, action: Action::Delayed, reason: reason("4.4.1", "cannot connect") },
        Notice { recipient: 0, action: Action::Relayed, reason: reason("2.0.0", "250 2.0.0 Ok") },
    ];
    let report = Report {
        hostname: "relay.test",
        postmaster: "postmaster@relay.test",
        id: MessageId::from(1),
        envelope: &envelope,
        notices: &notices,
        original: Original::Whole("S: \u{e9}\r\n\r\n\u{e9}\r\n".into()),
        eight_bit: true,
        random: 7,
        now: Duration::from_secs(784_903_600),
        max_age: Duration::from_secs(86_400),
    };
    let text = String::from_utf8(report.write()).expect("UTF-8, as the message is");
    let status = text.split("Content-Type: message/delivery-status\r\n\r\n").nth(1).expect("a status part");
    assert!(status.starts_with(
        "Original-Envelope-Id: QQ+1\r\nReporting-MTA: dns; relay.test\r\n\
         Arrival-Date: Tue, 15 Nov 1994 12:45:26 +0000\r\n\r\n\
         Original-Recipient: rfc822; Old Name@x\r\nFinal-Recipient: rfc822; u2@d2.test\r\nAction: delayed\r\n\
         Status: 4.4.1\r\nRemote-MTA: dns; mx.test\r\nDiagnostic-Code: x-chasqui; cannot connect\r\n\
         Last-Attempt-Date: Tue, 15 Nov 1994 12:46:40 +0000\r\n\
         Will-Retry-Until: Wed, 16 Nov 1994 12:45:26 +0000\r\n\r\n\
         Final-Recipient: rfc822; u1@d1.test\r\nAction: relayed\r\nStatus: 2.0.0\r\nRemote-MTA: dns; mx.test\r\n\
         Diagnostic-Code: smtp; 250 2.0.0 Ok\r\nLast-Attempt-Date: Tue, 15 Nov 1994 12:46:40 +0000\r\n\r\n--"
    ), "{status}");
    assert!(text.contains("\r\nSubject: Delayed mail, still being tried\r\n"));
    assert_eq!(text.matches("Content-Transfer-Encoding: 8bit\r\n").count(), 2);
    assert!(text.contains("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nS: \u{e9}\r\n\r\n\u{e9}\r\n\r\n--"));
}
