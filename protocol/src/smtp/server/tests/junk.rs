//! Commands that bring no mail end a session.

use super::*;

/// Commands that bring no mail end the session, each kind of them; an accepted message pays for those before it.
#[test]
fn junk_ends_the_session() {
    for line in
        ["NOOP", "RSET", "VRFY x", "HELP", "EHLO x", "HELO x", "RCPT TO:<no@d>", "MAIL FROM:<a@b>\r\nRSET"]
    {
        let mut talk = Talk::greeted(Options { max_junk: 10, ..lenient() });
        talk.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        talk.rejections.extend((0..20).map(|_| ("Rcpt", Reply::new(550, "5.7.1", "No"))));
        if line.starts_with("MAIL") {
            talk.say("RSET\r\n");
        }
        let replies = talk.say(format!("{line}\r\n").repeat(20));
        assert!(replies.ends_with("421 4.7.0 Too many commands that bring no mail\r\n"), "{line}: {replies}");
        assert!(replies.matches("\r\n").count() >= 10, "{line}: {replies}");
        assert_eq!(talk.events.last().unwrap(), "TooManyErrors", "{line}");
        assert_eq!(talk.say("NOOP\r\n"), "", "{line}");
    }
    let mut talk = Talk::greeted(Options { max_junk: 10, ..lenient() });
    for _ in 0..10 {
        let replies = talk.say(format!("{}{ENVELOPE}.\r\n", "NOOP\r\n".repeat(9)));
        assert!(replies.ends_with("250 2.0.0 Ok\r\n"), "{replies}");
    }
    // Bodies that are refused are no mail either.
    let mut talk = Talk::greeted(Options { max_junk: 10, ..lenient() });
    let replies = talk.say(format!("{ENVELOPE}a\nb\r\n.\r\n").repeat(20));
    assert_eq!(
        (replies.matches("\r\n554 ").count(), replies.matches("\r\n421 ").count()),
        (10, 1),
        "{replies}"
    );
}

/// Too many recipients, and those put off, are what a list server meets: they cost nothing.
#[test]
fn recipients_that_are_put_off_are_no_junk() {
    let mut talk = Talk::greeted(Options { max_junk: 3, max_recipients: 5, ..lenient() });
    talk.rejections.extend((0..20).map(|_| ("Rcpt", Reply::new(452, "4.3.1", "Later"))));
    let replies = talk.say(format!("MAIL FROM:<a@b>\r\n{}", "RCPT TO:<c@d>\r\n".repeat(50)));
    assert_eq!(replies.matches("452 4.5.3").count(), 25, "{replies}");
}

/// MAIL over the size, and what follows a refused MAIL without end, are junk; one group behind a refusal is none.
#[test]
fn what_is_refused_over_and_over_is_junk() {
    let options = || Options { max_junk: 10, max_recipients: 20, max_message_size: 9, ..lenient() };
    let too_large = "MAIL FROM:<a@b> SIZE=10\r\n";
    let mut talk = Talk::greeted(options());
    let group = format!("{too_large}{}DATA\r\n", "RCPT TO:<c@d>\r\n".repeat(20));
    let replies = talk.say(group.repeat(20));
    let count = |code: &str| replies.matches(code).count();
    assert_eq!((count("552 5.3.4"), count("503 5.5.1"), count("421 4.7.0")), (10, 210, 1), "{replies}");
    for (code, status, lines) in
        [(552, "5.3.4", "RCPT TO:<c@d>\r\n"), (452, "4.3.1", "RCPT TO:<c@d>\r\n"), (452, "4.3.1", "DATA\r\n")]
    {
        let mut talk = Talk::greeted(options());
        talk.rejections.push(("Mail", Reply::new(code, status, "No")));
        let replies = talk.say(format!("MAIL FROM:<a@b>\r\n{}", lines.repeat(100)));
        let refused = replies.matches("503 5.5.1").count();
        assert!((30..=31).contains(&refused) && replies.contains("421 4.7.0"), "{replies}");
    }
}

/// DATA behind a refused recipient is excused once.
#[test]
fn data_in_vain_is_junk() {
    let mut talk = Talk::greeted(Options { max_junk: 3, ..lenient() });
    talk.rejections.push(("Rcpt", Reply::new(450, "4.2.0", "Later")));
    let replies = talk.say(format!("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n{}", "DATA\r\n".repeat(9)));
    assert_eq!(replies.matches("554 5.5.1").count(), 4, "{replies}");
    assert_eq!(talk.events.last().unwrap(), "TooManyErrors");
}
