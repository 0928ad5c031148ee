//! What a receiver answers to a message, in whatever way, is that message's: others go on, and nothing that it said is lost.

use std::time::Duration;

use chasqui_runtime::{now, sleep};

use super::receiver::{Answer, Dialogue, Receiver, Stage};
use super::{HOST, MESSAGE, TABLES, stat, with_relay};
use crate::tests::simulated::submit_as;

const GOOD: &str = "good@a.test";
const BAD: &str = "bad@a.test";

/// Answers those of the bad sender at one stage, and takes everything else.
fn at(stage: Stage, answer: Answer) -> impl Fn(Stage, &Dialogue) -> Answer {
    move |asked, dialogue| {
        if asked == stage && dialogue.sender == BAD { answer.clone() } else { Answer::Usual }
    }
}

/// The only notification that the receiver took: its text.
fn notification(receiver: &Receiver) -> String {
    let notifications = receiver.log.borrow().taken_from("");
    assert_eq!(notifications.len(), 1, "one notification");
    notifications[0].text()
}

/// Proves that 421, a close, silence and nonsense in answer to some messages, at every stage, are counted as attempts at
/// those messages and delay no other, and that no message is sent twice to a host in one attempt.
#[test]
fn refused_messages_delay_no_others() {
    for stage in [Stage::Mail, Stage::Rcpt(0), Stage::Data, Stage::Dot] {
        for answer in [
            Answer::Say("421 4.7.28 too much of this\r\n"),
            Answer::Close("421 4.7.28 too much of this\r\n"),
            Answer::Close(""),
            Answer::Silence,
            Answer::Say("what is this\r\n"),
            Answer::Close("451 4.3.0 not now\r\n"),
            Answer::Say("451 4.3.0 not now\r\n"),
        ] {
            with_relay(TABLES, &[HOST], move || async move {
                let what = format!("{stage:?} {answer:?}");
                let receiver = Receiver::start(HOST, at(stage, answer));
                for _ in 0..30 {
                    submit_as(BAD, &["b@b.test"], MESSAGE).await.unwrap();
                }
                for _ in 0..20 {
                    submit_as(GOOD, &["b@b.test"], MESSAGE).await.unwrap();
                }
                // Thirty on which the only host closes are tried fast at first, then one a second; where it is silent, five
                // at a time for as long as they may be.
                sleep(Duration::from_secs(200)).await;
                assert_eq!(stat("deferred").await, 30, "{what}");
                let log = receiver.log.borrow();
                assert_eq!(log.taken_from(GOOD).len(), 20, "{what}");
                let tried = log.mails.iter().filter(|(sender, _)| sender == BAD).count();
                // Once each; where a good one went before on the connection, that may have gone stale.
                let stale = if stage == Stage::Mail { 10 } else { 0 };
                assert!((30..=30 + stale).contains(&tried), "{what}: {tried}");
                assert!(log.bodies.iter().filter(|sender| *sender == BAD).count() <= 30, "{what}");
            });
        }
    }
}

/// Proves that a host which closes on everything gets one message a second after the first few, another each time.
#[test]
fn a_host_that_refuses_all_is_tried_once_a_second() {
    with_relay(TABLES, &[HOST], || async {
        let receiver = Receiver::start(HOST, |stage, _| match stage {
            Stage::Mail => Answer::Close("421 4.3.2 not now\r\n"),
            _ => Answer::Usual,
        });
        for number in 0..100 {
            submit_as(&format!("s{number}@a.test"), &["b@b.test"], MESSAGE).await.unwrap();
        }
        sleep(Duration::from_secs(30)).await;
        let log = receiver.log.borrow();
        let mut senders: Vec<_> = log.mails.iter().map(|(sender, _)| sender).collect();
        senders.dedup();
        let tried = senders.len();
        assert!((30..60).contains(&tried), "{tried}");
        assert_eq!((log.mails.len(), log.connections), (tried, tried), "each once");
        let last = &log.mails[tried - 10..];
        assert!(last.windows(2).all(|two| two[1].1 - two[0].1 >= Duration::from_millis(900)), "{last:?}");
    });
}

/// Proves that a connection which has carried mail and is closed, by 421 or without a word, before the next message is
/// answered costs that message nothing: it goes at once over a new one.
#[test]
fn a_stale_connection_costs_no_attempt() {
    for answer in [
        Answer::Close("421 4.4.2 idle for too long\r\n"),
        Answer::Close(""),
        Answer::Say("421 4.7.0 enough\r\n"),
        Answer::Silence,
    ] {
        with_relay(TABLES, &[HOST], move || async move {
            let what = format!("{answer:?}");
            let receiver = Receiver::start(HOST, move |stage, dialogue| {
                if stage == Stage::Mail && dialogue.transactions > 1 { answer.clone() } else { Answer::Usual }
            });
            for _ in 0..3 {
                submit_as(GOOD, &["b@b.test"], MESSAGE).await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
            sleep(Duration::from_secs(60)).await;
            assert_eq!(receiver.log.borrow().taken.len(), 3, "{what}");
            assert_eq!(stat("deferred").await, 0, "{what}");
        });
    }
}

/// Proves that the next message goes over a new connection, undeferred, when RSET is refused.
#[test]
fn a_refused_reset_defers_nothing() {
    for answer in [Answer::Say("500 5.5.1 what\r\n"), Answer::Close("421 bye\r\n"), Answer::Close("")] {
        with_relay(TABLES, &[HOST], move || async move {
            let refused = at(Stage::Rcpt(0), Answer::Say("550 5.1.1 no such user\r\n"));
            let receiver = Receiver::start(HOST, move |stage, dialogue| {
                if stage == Stage::Reset { answer.clone() } else { refused(stage, dialogue) }
            });
            submit_as(BAD, &["b@b.test"], MESSAGE).await.unwrap();
            submit_as(GOOD, &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            assert_eq!(receiver.log.borrow().taken_from(GOOD).len(), 1);
            assert_eq!((stat("deferred").await, stat("bounced").await), (0, 1));
        });
    }
}

/// Proves that a refusal of pipelined commands counts, with its text, when the connection ends before the other replies.
#[test]
fn a_refusal_before_a_close_counts() {
    for (stage, answer, text) in [
        (Stage::Mail, Answer::Close("550 5.7.1 blocked here\r\n"), "550 5.7.1 blocked here"),
        (Stage::Rcpt(0), Answer::Close("550 5.7.1 blocked here\r\n"), "550 5.7.1 blocked here"),
        (Stage::Rcpt(0), Answer::Close("550 5.7.1 blocked he"), "550 5.7.1 blocked he"),
        (Stage::Data, Answer::Close("554-5.7.1 blocked\r\n554-5.7.1 here\r\n"), "554 5.7.1 blocked"),
    ] {
        with_relay(TABLES, &[HOST], move || async move {
            let receiver = Receiver::start(HOST, at(stage, answer));
            submit_as(BAD, &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            let told = notification(&receiver);
            assert!(told.contains(text), "{stage:?} {text}: {told}");
            assert_eq!((stat("deferred").await, stat("bounced").await), (0, 1), "{stage:?}");
        });
    }
}

/// Proves that of several recipients those are settled that were answered before a close, and only those.
#[test]
fn replies_before_a_close_settle_their_recipients() {
    with_relay(TABLES, &[HOST], || async {
        let receiver = Receiver::start(HOST, |stage, _| match stage {
            Stage::Rcpt(0) => Answer::Say("550 5.1.1 no such user\r\n"),
            Stage::Rcpt(1) => Answer::Close("550 5.2.1 closed\r\n"),
            _ => Answer::Usual,
        });
        submit_as("", &["a@b.test", "b@b.test", "c@b.test"], MESSAGE).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!((stat("bounced").await, stat("deferred").await), (2, 1));
        assert_eq!(receiver.log.borrow().mails.len(), 1);
    });
}

/// Proves that a refusal in the middle of the message is read and counts, whether the server then closes, goes on reading, or
/// does nothing more.
#[test]
fn a_refusal_in_mid_body_counts() {
    for answer in [
        Answer::Close("552 5.3.4 too large for us\r\n"),
        Answer::Say("552 5.3.4 too large for us\r\n"),
        Answer::Close("552-5.3.4 too large for us\r\n"),
    ] {
        with_relay(TABLES, &[HOST], move || async move {
            let what = format!("{answer:?}");
            let receiver = Receiver::start(HOST, move |stage, dialogue| {
                let is_large = dialogue.message.len() > 50_000;
                if stage == Stage::Body && is_large { answer.clone() } else { Answer::Usual }
            });
            let line = "0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
            let large = format!("Subject: large\r\n\r\n{}", line.repeat(20_000));
            submit_as(BAD, &["b@b.test"], &large).await.unwrap();
            sleep(Duration::from_secs(10)).await;
            let told = notification(&receiver);
            assert!(told.contains("5.3.4 too large for us"), "{what}: {told}");
            assert_eq!((stat("deferred").await, stat("bounced").await), (0, 1), "{what}");
        });
    }
}

/// Proves that a receiver which takes few recipients of a message, and says so by 452 or 552, gets the others in the next
/// transactions, at once.
#[test]
fn too_many_recipients_are_sent_in_turn() {
    for answer in ["452 4.5.3 too many\r\n", "552 5.5.3 too many\r\n", "552 too many\r\n", "452 too many\r\n"]
    {
        with_relay(TABLES, &[HOST], move || async move {
            let receiver = Receiver::start(HOST, move |stage, dialogue| match stage {
                Stage::Rcpt(_) if dialogue.recipients.len() == 3 => Answer::Say(answer),
                _ => Answer::Usual,
            });
            let recipients: Vec<String> = (0..10).map(|number| format!("u{number}@b.test")).collect();
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            submit_as(GOOD, &recipients, MESSAGE).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            assert_eq!((stat("deferred").await, stat("bounced").await), (0, 0), "{answer}");
            let log = receiver.log.borrow();
            let mut served: Vec<_> = log.taken.iter().flat_map(|taken| &taken.recipients).collect();
            served.sort();
            assert_eq!(served, recipients.iter().collect::<Vec<_>>(), "{answer}");
            assert_eq!(log.taken.len(), 4, "{answer}");
        });
    }
}

/// Proves that 552 which means something else is a refusal, and that a receiver which takes nobody because of too many is
/// tried again on schedule and not at once.
#[test]
fn other_552_is_a_refusal() {
    for (answer, bounced) in
        [("552 5.2.2 mailbox full\r\n", 1), ("552 full\r\n", 1), ("552 5.5.3 many\r\n", 0)]
    {
        with_relay(TABLES, &[HOST], move || async move {
            let receiver = Receiver::start(HOST, at(Stage::Rcpt(0), Answer::Say(answer)));
            submit_as(BAD, &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            assert_eq!((stat("bounced").await, stat("deferred").await), (bounced, 1 - bounced), "{answer}");
            assert_eq!(receiver.log.borrow().mails.iter().filter(|(sender, _)| sender == BAD).count(), 1);
        });
    }
}

/// Proves that odd forms of an acceptance are one: no second copy is sent.
#[test]
fn odd_acceptances_are_believed() {
    for answer in [
        Answer::Say("250OK\r\n"),
        Answer::Say("250\tok\r\n"),
        Answer::Say("\r\n250 ok\r\n"),
        Answer::Say("250-one\r\n251 two\r\n"),
        Answer::Close("250 taken"),
        Answer::Close("250-one\r\n250 two"),
    ] {
        with_relay(TABLES, &[HOST], move || async move {
            let what = format!("{answer:?}");
            let receiver = Receiver::start(HOST, at(Stage::Dot, answer));
            submit_as(BAD, &["b@b.test"], MESSAGE).await.unwrap();
            sleep(Duration::from_secs(3 * 3600)).await;
            assert_eq!(receiver.log.borrow().bodies, [BAD], "{what}");
            assert_eq!((stat("delivered").await, stat("queued").await), (1, 0), "{what}");
        });
    }
}

/// Proves that a reply has one time limit, however its octets come: a connection that drips is left after it.
#[test]
fn a_dripping_reply_has_one_limit() {
    const DRIPPED: &str = "250 2.1.0 fine, but it takes its time to say so\r\n";
    for stage in [Stage::Greeting, Stage::Ehlo, Stage::Mail] {
        with_relay(TABLES, &[HOST], move || async move {
            let begun = now();
            let receiver = Receiver::start(HOST, move |asked, dialogue| {
                let is_slow = asked == stage && (stage != Stage::Mail || dialogue.sender == BAD);
                if is_slow { Answer::Drip(DRIPPED) } else { Answer::Usual }
            });
            submit_as(BAD, &["b@b.test"], MESSAGE).await.unwrap();
            while stat("deferred").await == 0 {
                sleep(Duration::from_millis(100)).await;
                assert!(now() - begun < Duration::from_secs(25), "{stage:?}");
            }
            assert!(now() - begun >= Duration::from_secs(20), "{stage:?}");
            assert_eq!(receiver.log.borrow().taken.len(), 0);
        });
    }
}
