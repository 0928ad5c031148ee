//! An attempt goes on at the next host when one puts the message off, and no further than it may.

use std::time::Duration;

use chasqui_runtime::sleep;

use super::receiver::{Answer, Receiver, Stage};
use super::{HOST, MESSAGE, TABLES, stat, with_relay};
use crate::tests::simulated::{ask, submit_as};

const SECOND: [u8; 4] = [127, 0, 2, 2];
const THIRD: [u8; 4] = [127, 0, 2, 3];

/// A receiver that answers so at one stage, or takes everything.
fn receiver(host: [u8; 4], deviation: Option<(Stage, Answer)>) -> Receiver {
    Receiver::start(host, move |asked, _| match &deviation {
        Some((stage, answer)) if asked == *stage => answer.clone(),
        _ => Answer::Usual,
    })
}

/// Proves that 4xx at each stage, 421 included, and a loss before the message was sent lead to the next host in the same
/// attempt.
#[test]
fn the_next_host_is_tried_when_one_defers() {
    for stage in [Stage::Mail, Stage::Rcpt(0), Stage::Data, Stage::Dot] {
        let answers = [
            Answer::Say("451 4.3.0 not now\r\n"),
            Answer::Say("421 4.3.2 not now\r\n"),
            Answer::Close("421 4.3.2 not now\r\n"),
            Answer::Close("450 4.2.0 not now\r\n"),
        ];
        let lost = (stage != Stage::Dot).then_some(Answer::Close(""));
        for answer in answers.into_iter().chain(lost) {
            with_relay(TABLES, &[HOST, SECOND], move || async move {
                let what = format!("{stage:?} {answer:?}");
                let (first, second) = (receiver(HOST, Some((stage, answer))), receiver(SECOND, None));
                submit_as("s@a.test", &["b@b.test"], MESSAGE).await.unwrap();
                sleep(Duration::from_secs(5)).await;
                assert_eq!(first.log.borrow().mails.len(), 1, "{what}");
                assert_eq!(second.log.borrow().taken.len(), 1, "{what}");
                assert_eq!((stat("delivered").await, stat("deferred").await), (1, 0), "{what}");
            });
        }
    }
}

/// Proves that each host is tried once in an attempt, and that the message is sent whole to two of them at most.
#[test]
fn an_attempt_ends() {
    const HOSTS: &[[u8; 4]] = &[HOST, SECOND, THIRD];
    for (stage, tried) in [(Stage::Mail, [1, 1, 1]), (Stage::Dot, [1, 1, 0])] {
        with_relay(TABLES, HOSTS, move || async move {
            let answer = Answer::Say("451 4.3.0 not now\r\n");
            let hosts = [HOST, SECOND, THIRD].map(|host| receiver(host, Some((stage, answer.clone()))));
            submit_as("s@a.test", &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(10)).await;
            assert_eq!(hosts.map(|host| host.log.borrow().mails.len()), tried, "{stage:?}");
            assert_eq!(stat("deferred").await, 1, "it is one attempt");
        });
    }
}

/// Proves that a message whose reply was lost is sent to no other host in that attempt: it may have been taken.
#[test]
fn no_other_host_after_a_lost_reply() {
    for answer in [Answer::Close(""), Answer::Silence] {
        with_relay(TABLES, &[HOST, SECOND], move || async move {
            let (first, second) = (receiver(HOST, Some((Stage::Dot, answer))), receiver(SECOND, None));
            submit_as("s@a.test", &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(60)).await;
            assert_eq!((first.log.borrow().bodies.len(), second.log.borrow().connections), (1, 0));
            assert_eq!((stat("lost_replies").await, stat("deferred").await), (1, 1));
        });
    }
}

/// Proves that the next host gets those recipients alone that the first has put off, and that a refusal stands.
#[test]
fn the_next_host_gets_what_was_put_off() {
    with_relay(TABLES, &[HOST, SECOND], || async {
        let first = Receiver::start(HOST, |stage, _| match stage {
            Stage::Rcpt(1) => Answer::Say("450 4.2.1 later\r\n"),
            Stage::Rcpt(2) => Answer::Say("550 5.1.1 no such user\r\n"),
            _ => Answer::Usual,
        });
        let second = receiver(SECOND, None);
        submit_as("", &["a@b.test", "b@b.test", "c@b.test"], MESSAGE).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        let recipients = |receiver: &Receiver| receiver.log.borrow().taken[0].recipients.clone();
        assert_eq!(
            (recipients(&first), recipients(&second)),
            (vec!["a@b.test".into()], vec!["b@b.test".into()])
        );
        assert_eq!((stat("delivered").await, stat("bounced").await, stat("deferred").await), (2, 1, 0));
    });
}

/// Proves that mail for hosts that take none, and say so by 521 (RFC 7504), goes back, all of it, and that one that may take it
/// later keeps it waiting.
#[test]
fn hosts_that_take_no_mail() {
    let refusing =
        |host| receiver(host, Some((Stage::Greeting, Answer::Close("220-mx\r\n521 no mail here\r\n"))));
    with_relay(TABLES, &[HOST, SECOND], move || async move {
        let _hosts = [HOST, SECOND].map(refusing);
        for _ in 0..10 {
            submit_as("", &["b@b.test"], MESSAGE).await.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
        assert_eq!((stat("bounced").await, stat("queued").await), (10, 0));
    });
    with_relay(TABLES, &[HOST, SECOND, THIRD], move || async move {
        let _hosts = [HOST, THIRD].map(refusing);
        let _busy = receiver(SECOND, Some((Stage::Greeting, Answer::Close("554 no service\r\n"))));
        submit_as("", &["b@b.test"], MESSAGE).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!((stat("bounced").await, stat("queued").await), (0, 1));
    });
}

/// Proves that a message which one host has put off is not given up because the next one cannot take it.
#[test]
fn a_next_host_without_8bitmime_bounces_nothing() {
    with_relay(TABLES, &[HOST, SECOND], || async {
        let _first = Receiver::start(HOST, |stage, _| match stage {
            Stage::Ehlo => Answer::Say("250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
            Stage::Rcpt(_) => Answer::Say("450 4.2.1 later\r\n"),
            _ => Answer::Usual,
        });
        let second = receiver(SECOND, None);
        submit_as("s@a.test", &["b@b.test"], "Subject: a\r\n\r\n\u{e9}\r\n").await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!((second.log.borrow().connections, second.log.borrow().mails.len()), (1, 0));
        assert_eq!((stat("bounced").await, stat("deferred").await), (0, 1));
    });
}

/// Proves that what a host said at greeting or EHLO before it closed is told, and not that it closed.
#[test]
fn a_refusal_before_a_transaction_is_told() {
    for (stage, refusal) in [
        (Stage::Ehlo, "550 5.7.1 blocked by a list\r\n"),
        (Stage::Greeting, "554 5.7.1 blocked by a list"),
        (Stage::Greeting, "554-5.7.1 blocked by a list\r\n"),
    ] {
        with_relay(TABLES, &[HOST], move || async move {
            let _host = receiver(HOST, Some((stage, Answer::Close(refusal))));
            submit_as("", &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            let trouble = ask("sites").await[0]["trouble"].to_string();
            assert!(trouble.contains("blocked by a list"), "{stage:?} {refusal}: {trouble}");
        });
    }
}
