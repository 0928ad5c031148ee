//! What senders are told of their mail, as they ask for it (RFC 3461), in a form that a second parser reads.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use chasqui_protocol::smtp::dsn::{
    EnvelopeId, MailParameters, Notify, OriginalRecipient, Parameters, RcptParameters, Return,
};
use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::{Threads, on_thread};
use chasqui_testkit::{Answer, Stage, Transaction};
use mail_parser::{MessageParser, MimeHeaders, PartType};
use serde_json::json;

use crate::support::{Relay, route_to, with_dsn};

const MESSAGE: &[u8] = b"Subject: a\r\nX: b\r\n\r\nbody\r\n..dots\r\n";

/// What a client says of notifications: RET, and NOTIFY of each recipient (empty: none).
fn said(ret: Option<Return>, notify: &[&str]) -> Parameters {
    let of = |(index, value): (usize, &&str)| RcptParameters {
        notify: Notify::parse(value.as_bytes()),
        original: OriginalRecipient::parse(format!("rfc822;first+2B{index}@old.test").as_bytes()),
    };
    Parameters {
        mail: MailParameters { ret, envelope_id: EnvelopeId::parse(b"id+20one") },
        recipients: notify.iter().enumerate().map(of).collect(),
    }
}

fn submit(relay: &Relay, from: &str, to: &[&str], dsn: &Parameters, message: &[u8]) {
    let MailParameters { ret, envelope_id } = &dsn.mail;
    let (ret, id) =
        (ret.map(|ret| format!(" RET={ret}")), envelope_id.as_ref().expect("it is given").as_xtext());
    let body = if message.is_ascii() { "" } else { " BODY=8BITMIME" };
    let mail = format!("MAIL FROM:<{from}>{body}{} ENVID={id}", ret.unwrap_or_default());
    let recipients: Vec<String> = to
        .iter()
        .zip(&dsn.recipients)
        .map(|(recipient, RcptParameters { notify, original })| {
            let notify = notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
            let original = original.as_ref().expect("it is given").as_xtext();
            format!("RCPT TO:<{recipient}>{notify} ORCPT={original}")
        })
        .collect();
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    assert!(sender.has("DSN"));
    let replies = sender.transact(&mail, &recipients, message).expect("an answer");
    assert!(replies.iter().all(|reply| reply.starts_with("250 ")), "{replies:?}");
}

type Fields = BTreeMap<String, String>;

/// A notification, taken apart by a parser that is not ours.
#[derive(Debug)]
struct Notification {
    message: Fields,
    recipients: Vec<Fields>,
    returned_kind: String,
    returned: Vec<u8>,
}

impl Notification {
    /// Checks what every notification has, and gives what differs.
    fn of(arrival: &Transaction) -> Notification {
        assert_eq!(
            (arrival.reverse_path.as_str(), &arrival.recipients[..]),
            ("", &["s@x.test".to_owned()][..])
        );
        let raw = &arrival.message;
        let parsed = MessageParser::default().parse(raw).expect("a message");
        assert!(parsed.date().is_some() && parsed.message_id().is_some());
        let kind = parsed.content_type().expect("a content type");
        assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
        assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
        let PartType::Multipart(parts) = &parsed.root_part().body else { panic!("a multipart") };
        let parts: Vec<_> = parts.iter().map(|&part| parsed.part(part).expect("a part")).collect();
        let kinds: Vec<String> = parts
            .iter()
            .map(|part| {
                let kind = part.content_type().expect("a content type");
                format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default())
            })
            .collect();
        assert_eq!(kinds[..2], ["text/plain", "message/delivery-status"], "{kinds:?}");
        let contents = |part: &mail_parser::MessagePart<'_>| {
            raw[part.raw_body_offset() as usize..part.raw_end_offset() as usize].to_vec()
        };
        let status = String::from_utf8(contents(parts[1])).expect("7-bit");
        let mut groups = status.split("\r\n\r\n").filter(|group| !group.trim().is_empty()).map(fields);
        Notification {
            message: groups.next().expect("fields of the message"),
            recipients: groups.collect(),
            returned_kind: kinds[2].clone(),
            returned: contents(parts[2]),
        }
    }

    /// Each recipient with its action.
    fn actions(&self) -> Vec<(&str, &str)> {
        self.recipients
            .iter()
            .map(|fields| {
                let address = fields["Final-Recipient"].strip_prefix("rfc822; ").expect("an address");
                (address, fields["Action"].as_str())
            })
            .collect()
    }
}

fn fields(group: &str) -> Fields {
    let lines = group.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| line.split_once(": ").map(|(name, value)| (name.into(), value.into())).expect(line))
        .collect()
}

fn refuse_nobody(stage: Stage, it: &Transaction) -> Answer {
    match stage {
        Stage::Rcpt(_) if it.recipient.starts_with("no") => Answer::say("550 5.1.1 No such user\r\n"),
        _ => Answer::Usual,
    }
}

/// A next hop that has DSN gets everything that was said, octet by octet, and the sender gets nothing from us; across
/// a restart too.
#[test]
fn a_capable_next_hop_gets_the_parameters() {
    let sink = with_dsn();
    let mut relay = Relay::start(&format!(
        "retry.first = \"20ms\"\nroutes.\"late.test\" = [\"127.0.0.1:1\"]\n{}",
        route_to(&sink)
    ));
    let dsn = said(Some(Return::Full), &["SUCCESS,FAILURE,DELAY", "NEVER", ""]);
    submit(&relay, "s@x.test", &["a@y.test", "b@y.test", "c@y.test"], &dsn, MESSAGE);
    assert_eq!(sink.next().dsn, dsn);
    submit(&relay, "s@x.test", &["d@late.test"], &said(None, &["SUCCESS"]), MESSAGE);
    relay.stop();
    relay.restart(1, |config| drop(config.routes.remove("late.test")));
    assert_eq!(sink.next().dsn, said(None, &["SUCCESS"]));
    relay.await_empty();
    assert_eq!(relay.stats()["notifications"], 0);
    assert_eq!(sink.rest(), []);
}

/// A next hop without DSN gets no parameters; who wants to know of success is told `relayed`, and nobody else.
#[test]
fn an_incapable_next_hop_has_us_tell_relayed() {
    let sink = Threads::taking();
    let relay = Relay::start(&route_to(&sink));
    let dsn = said(Some(Return::Full), &["FAILURE", "SUCCESS", "NEVER", ""]);
    submit(&relay, "s@x.test", &["a@y.test", "b@y.test", "c@y.test", "d@y.test"], &dsn, MESSAGE);
    assert_eq!(sink.next().recipients.len(), 4);
    let told = Notification::of(&sink.next());
    assert_eq!(told.actions(), [("b@y.test", "relayed")]);
    assert_eq!(told.message["Original-Envelope-Id"], "id one");
    assert_eq!(told.message["Reporting-MTA"], "dns; relay.test");
    let fields = &told.recipients[0];
    assert_eq!(fields["Original-Recipient"], "rfc822; first+1@old.test");
    assert_eq!((fields["Status"].as_str(), fields["Remote-MTA"].as_str()), ("2.0.0", "dns; [127.0.0.1]"));
    assert_eq!(fields["Diagnostic-Code"], "smtp; 250 2.0.0 Ok");
    // RET speaks of failures only (RFC 3461 section 4.3).
    assert_eq!(told.returned_kind, "text/rfc822-headers");
    relay.await_empty();
    assert_eq!((&relay.stats()["notifications"], &relay.stats()["delivered"]), (&1.into(), &5.into()));
    assert_eq!(sink.rest(), []);
}

/// Failures of one round share one notification, with those relayed in it; who did not ask for failures is not told.
#[test]
fn a_round_is_told_at_once_and_never_is_silent() {
    let sink = Threads::scripted(refuse_nobody);
    let relay = Relay::start(&route_to(&sink));
    let notify = ["", "NEVER", "SUCCESS", "FAILURE", "SUCCESS", "DELAY"];
    let to = ["no1@y.test", "no2@y.test", "yes3@y.test", "no4@y.test", "no5@y.test", "no6@y.test"];
    submit(&relay, "s@x.test", &to, &said(None, &notify), MESSAGE);
    assert_eq!(sink.next().recipients, ["yes3@y.test"]);
    let told = Notification::of(&sink.next());
    assert_eq!(
        told.actions(),
        [("no1@y.test", "failed"), ("no4@y.test", "failed"), ("yes3@y.test", "relayed")]
    );
    assert_eq!(told.recipients[0]["Diagnostic-Code"], "smtp; 550 5.1.1 No such user");
    submit(&relay, "s@x.test", &["no7@y.test"], &said(None, &["NEVER"]), MESSAGE);
    relay.await_empty();
    assert_eq!((&relay.stats()["notifications"], &relay.stats()["bounced"]), (&1.into(), &6.into()));
    assert_eq!(sink.rest(), []);
}

/// RET=FULL returns the message octet by octet, 8-bit too; HDRS, a message over the limit and a client that says
/// nothing get the header section.
#[test]
fn what_is_returned() {
    let sink = Threads::scripted(refuse_nobody);
    let relay = Relay::start(&format!("bounce.return_size = \"2KiB\"\n{}", route_to(&sink)));
    let large = [MESSAGE, &b"0123456789\r\n".repeat(200)].concat();
    let eight_bit = "S: \u{e9}\r\n\r\n\u{e9}\r\n".as_bytes();
    for (ret, message, whole) in [
        (Some(Return::Full), MESSAGE, true),
        (Some(Return::Full), eight_bit, true),
        (Some(Return::Full), &b"\r\n.\r\n"[..], true),
        (Some(Return::Full), &large, false),
        (Some(Return::Headers), MESSAGE, false),
        (None, MESSAGE, false),
    ] {
        submit(&relay, "s@x.test", &["no@y.test"], &said(ret, &[""]), message);
        let arrival = sink.next();
        let told = Notification::of(&arrival);
        assert_eq!(told.actions(), [("no@y.test", "failed")]);
        let returned = Transaction { message: told.returned, ..arrival };
        if whole {
            assert_eq!(told.returned_kind, "message/rfc822");
            assert_eq!(returned.original(), message);
        } else {
            assert_eq!(told.returned_kind, "text/rfc822-headers");
            assert_eq!(returned.original(), b"Subject: a\r\nX: b\r\n");
        }
    }
}

/// The sender of a message that is late is warned once, unless NOTIFY says otherwise, however often it is tried after
/// that and whatever restarts; then it arrives.
#[test]
fn a_delay_is_told_once() {
    let mut refusals = 12_usize;
    let sink = Threads::scripted(move |stage, it| match stage {
        Stage::Rcpt(_) if refusals > 0 && it.recipient.ends_with("@y.test") => {
            // The last of each attempt.
            refusals -= usize::from(it.recipient == "d@y.test");
            Answer::say("450 4.2.0 Later\r\n")
        }
        _ => Answer::Usual,
    });
    let often = "retry.first = \"20ms\"\nretry.max = \"30ms\"\nbounce.delay_warning = \"100ms\"";
    let mut relay = Relay::start(&format!("{often}\n{}", route_to(&sink)));
    let to = ["a@y.test", "b@y.test", "c@y.test", "d@y.test"];
    submit(&relay, "s@x.test", &to, &said(Some(Return::Full), &["", "FAILURE", "NEVER", "DELAY"]), MESSAGE);
    let told = Notification::of(&sink.next());
    assert_eq!(told.actions(), [("a@y.test", "delayed"), ("d@y.test", "delayed")]);
    assert!(told.recipients.iter().all(|fields| {
        fields["Status"] == "4.2.0"
            && fields["Diagnostic-Code"] == "smtp; 450 4.2.0 Later"
            && fields.contains_key("Will-Retry-Until")
            && fields.contains_key("Last-Attempt-Date")
    }));
    assert_eq!(told.returned_kind, "text/rfc822-headers");
    assert_eq!(relay.stats()["notifications"], 1);
    relay.stop();
    relay.restart(1, |_| {});
    assert_eq!(sink.next().recipients, to);
    relay.await_empty();
    assert_eq!(relay.stats()["notifications"], 0);
    assert_eq!(sink.rest(), []);
}

/// Messages that wait at a site which nobody reaches are told late too, each once, without an attempt of their own.
#[test]
fn a_dead_site_is_told_of() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!(
        "retry.first = \"20ms\"\nretry.max = \"50ms\"\nbounce.delay_warning = \"200ms\"\n\
         routes.\"dead.test\" = [\"127.0.0.1:1\"]\n{}",
        route_to(&sink)
    ));
    let to: Vec<String> = (0..10).map(|number| format!("u{number}@dead.test")).collect();
    for recipient in &to {
        submit(&relay, "s@x.test", &[recipient], &said(None, &[""]), MESSAGE);
    }
    let mut told: Vec<String> = Vec::new();
    for _ in &to {
        let notification = Notification::of(&sink.next());
        let [(address, "delayed")] = notification.actions()[..] else { panic!("{notification:?}") };
        told.push(address.to_owned());
    }
    told.sort();
    assert_eq!(told, to);
    // The reply to the last notification may still be on its way.
    let waiting = relay.queue().into_iter().filter(|(_, recipient)| recipient.ends_with("@dead.test"));
    assert_eq!(waiting.count(), 10);
}

/// Who waits for a suspended domain, or at a suspended site, is told of the delay like anybody else, once.
#[test]
fn a_delay_by_suspension_is_told() {
    let (sink, other) = (Threads::taking(), Threads::taking());
    let relay = Relay::start(&format!(
        "bounce.delay_warning = \"200ms\"\nroutes.\"site.test\" = [\"{}\"]\n{}",
        other.address,
        route_to(&sink)
    ));
    submit(&relay, "s@x.test", &["first@site.test"], &said(None, &[""]), MESSAGE);
    other.next();
    let sites = relay.tell(json!({"command": "sites"}));
    let site = sites[0]["site"].as_str().expect("a name").to_owned();
    relay.tell(json!({"command": "suspend", "site": site}));
    relay.tell(json!({"command": "suspend", "domain": "domain.test"}));
    let to = ["a@domain.test", "b@domain.test", "c@site.test", "d@site.test"];
    for recipient in to {
        submit(&relay, "s@x.test", &[recipient], &said(None, &[""]), MESSAGE);
    }
    let mut told: Vec<String> = Vec::new();
    for _ in to {
        let notification = Notification::of(&sink.next());
        let [(address, "delayed")] = notification.actions()[..] else { panic!("{notification:?}") };
        told.push(address.to_owned());
        let why = &notification.recipients[0]["Diagnostic-Code"];
        assert!(why.ends_with("delivery was suspended by the operator"), "{why}");
    }
    told.sort();
    assert_eq!(told, to);
    // They wait on, and go out when they may.
    relay.tell(json!({"command": "resume", "site": site}));
    relay.tell(json!({"command": "resume", "domain": "domain.test"}));
    let mut arrived: Vec<String> = (0..4)
        .map(|number| if number < 2 { other.next() } else { sink.next() }.recipients.remove(0))
        .collect();
    arrived.sort();
    assert_eq!(arrived, to);
    relay.await_empty();
    assert_eq!(relay.stats()["notifications"], 4);
}

/// A name server to which no name exists.
fn empty_dns() -> SocketAddr {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let address = socket.local_addr().unwrap();
    on_thread(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let question_end = 12 + query[12..length].iter().position(|&byte| byte == 0).unwrap() + 5;
            let mut answer = query[..question_end].to_vec();
            // Authoritative, NXDOMAIN; one question, one record: the root's SOA, all numbers 60.
            answer[2..12].copy_from_slice(&[0x85, 0x83, 0, 1, 0, 0, 0, 1, 0, 0]);
            answer.extend([0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0]);
            answer.extend([0, 0, 0, 60].repeat(5));
            let _ = socket.send_to(&answer, client);
        }
    });
    address
}

/// Recipients that will never have a route share a notification, each with its own reason, and other recipients of
/// the message are not held up.
#[test]
fn recipients_without_a_route_are_told_of_together() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!(
        "dns.servers = [\"{}\"]\nroutes.\"x.test\" = [\"{address}\"]\nroutes.\"y.test\" = [\"{address}\"]",
        empty_dns(),
        address = sink.address
    ));
    let to = ["a@gone.test", "b@lost.test", "c@y.test", "d@gone.test"];
    submit(&relay, "s@x.test", &to, &said(None, &["", "", "", ""]), MESSAGE);
    let mut arrivals = [sink.next(), sink.next()];
    arrivals.sort_by_key(|arrival| arrival.reverse_path.is_empty());
    assert_eq!(arrivals[0].recipients, ["c@y.test"]);
    let told = Notification::of(&arrivals[1]);
    assert_eq!(
        told.actions(),
        [("a@gone.test", "failed"), ("b@lost.test", "failed"), ("d@gone.test", "failed")]
    );
    for (fields, domain) in told.recipients.iter().zip(["gone.test", "lost.test", "gone.test"]) {
        assert!(fields["Status"] == "5.1.2" && fields["Diagnostic-Code"].contains(domain), "{fields:?}");
    }
    relay.await_empty();
    assert_eq!((&relay.stats()["notifications"], &relay.stats()["bounced"]), (&1.into(), &3.into()));
    assert_eq!(sink.rest(), []);
}

/// Mail from the null reverse-path may say what it likes: it is passed on, and nobody is told anything.
#[test]
fn nobody_is_told_of_mail_from_nobody() {
    let sink = Threads::scripted(refuse_nobody);
    let capable = with_dsn();
    let relay = Relay::start(&format!("routes.\"z.test\" = [\"{}\"]\n{}", capable.address, route_to(&sink)));
    let dsn = said(Some(Return::Full), &["SUCCESS,FAILURE,DELAY", "SUCCESS", "SUCCESS"]);
    submit(&relay, "", &["no@y.test", "yes@y.test", "yes@z.test"], &dsn, MESSAGE);
    assert_eq!(sink.next().recipients, ["yes@y.test"]);
    let arrival = capable.next();
    assert_eq!((arrival.dsn.mail, &arrival.dsn.recipients[..]), (dsn.mail.clone(), &dsn.recipients[2..]));
    relay.await_empty();
    assert_eq!((&relay.stats()["notifications"], &relay.stats()["bounced"]), (&0.into(), &1.into()));
}

/// A notification is not to be notified of: a next hop with DSN is told NEVER.
#[test]
fn notifications_ask_for_none() {
    let (sink, capable) = (Threads::scripted(refuse_nobody), with_dsn());
    let relay = Relay::start(&format!("routes.\"x.test\" = [\"{}\"]\n{}", capable.address, route_to(&sink)));
    submit(&relay, "s@x.test", &["no@y.test"], &said(None, &[""]), MESSAGE);
    let arrival = capable.next();
    assert_eq!(arrival.dsn.recipients, [RcptParameters { notify: Some(Notify::NEVER), original: None }]);
    assert!(arrival.dsn.mail.is_empty());
    assert_eq!(Notification::of(&arrival).actions(), [("no@y.test", "failed")]);
}

/// A relay that sends no notifications does not advertise DSN.
#[test]
fn what_is_not_done_is_not_advertised() {
    let sink = Threads::scripted(refuse_nobody);
    let relay = Relay::start(&format!("bounce.enabled = false\n{}", route_to(&sink)));
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    assert!(!sender.has("DSN"));
    sender.send("s@x.test", &["no@y.test"], MESSAGE);
    relay.await_empty();
    assert_eq!((&relay.stats()["notifications"], &relay.stats()["bounced"]), (&0.into(), &1.into()));
}
