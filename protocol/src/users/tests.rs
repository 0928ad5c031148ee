//! Files of users, good and bad.

use super::*;

/// A verifier, its parts without meaning.
const STORED: &str = "SCRAM-SHA-256$4096:c2FsdA==$eqUCwrTNtyS66Aq/vjrTRGEi2It20AcYU1yuF3kaxr0=:\
                      Y3zcSioAo1fr+HelC2G7Ik1NWa9yGPrlgbSjh2tKxQo=";

fn path(text: &str) -> ReversePath<'static> {
    text.parse().expect("a reverse-path")
}

#[test]
fn a_file_says_who_may_do_what() {
    // Proves: comments, blanks and tabs, senders by address and domain, limits, and what is left out.
    let text = format!(
        "# users\n\nann\t{STORED} sender=Ann@Example.ORG  sender=@Example.net\r\n\
         bob {STORED}\tmessages_per_minute=10 recipients_per_minute=20 connections=2\n  eve@d.test {STORED}\n"
    );
    let users = Users::parse(&text).unwrap();
    assert_eq!((users.len(), users.is_empty()), (3, false));
    assert_eq!(users.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["ann", "bob", "eve@d.test"]);
    let (ann, bob) = (users.find("ann").unwrap(), users.find("bob").unwrap());
    for (sender, may) in [
        ("Ann@example.org", true),
        ("ann@example.org", false),
        ("x@EXAMPLE.net", true),
        ("x@sub.example.net", false),
        ("x@example.org", false),
        ("", true),
    ] {
        assert_eq!(ann.may_send_as(&path(sender)), may, "{sender}");
        assert!(bob.may_send_as(&path(sender)));
    }
    let limits = [bob.limits.messages_per_minute, bob.limits.recipients_per_minute, bob.limits.connections];
    assert_eq!(limits.map(|limit| limit.map(NonZeroU32::get)), [Some(10), Some(20), Some(2)]);
    assert_eq!(ann.limits, Limits::default());
    assert!(users.find("Ann").is_none() && users.find("").is_none());
    assert_eq!(users.fake([0; 32]).scram("nobody").iterations(), 4096);
}

#[test]
fn mistakes_are_told_and_nothing_that_is_stored() {
    // Proves: each kind of mistake is one line with its number, what is wrong and what to write, and shows no part of a secret.
    let cut = &STORED[..40];
    for (line, told) in [
        (
            STORED.to_owned(),
            "a name begins with neither `$`, `{` nor `SCRAM-SHA-256$`: write the name, a blank, and what is stored",
        ),
        ("bob".to_owned(), "user `bob` has nothing stored: write what `chasqui password bob` prints"),
        (
            "bob hunter2".to_owned(),
            "what is stored of user `bob` begins with neither $argon2id$ nor SCRAM-SHA-256$: write what `chasqui password bob` \
             prints",
        ),
        (
            format!("bob {cut}"),
            "what is stored of user `bob` is cut off or damaged: write what `chasqui password bob` prints",
        ),
        (
            format!("bob {STORED} hunter2=2"),
            "user `bob`: a field is no key=value: there are sender, messages_per_minute, recipients_per_minute and connections",
        ),
        (
            format!("bob {STORED} senders=a@b"),
            "user `bob`: there is no key `senders`: there are sender, messages_per_minute, recipients_per_minute and connections",
        ),
        (format!("bob {STORED} sender=ann"), "user `bob`: `sender` is no ADDRESS and no @DOMAIN: correct it"),
        (format!("bob {STORED} sender=@"), "user `bob`: `sender` is no ADDRESS and no @DOMAIN: correct it"),
        (
            format!("bob {STORED} connections=0"),
            "user `bob`: `connections` is no number from 1: write connections=N, or leave it out",
        ),
        (
            format!("bob {STORED} connections=1 connections=2"),
            "user `bob`: `connections` stands there twice: remove one of the two",
        ),
        (format!("ann {STORED}"), "user `ann` stands in a line above too: remove one of the two"),
        (format!("b\u{ad}ob {STORED}"), "the name `b\\u{ad}ob` is not as SASLprep has it: write `bob`"),
        (
            format!("b\u{7}ob {STORED}"),
            "the name `b\\u{7}ob` has a character that RFC 4013 (SASLprep) does not allow: choose another",
        ),
    ] {
        let mistakes = Users::parse(&format!("ann {STORED}\n\n{line}\n")).unwrap_err();
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [format!("line 3: {told}")]);
    }
    let senders = "sender=a@b ".repeat(SENDERS_MAX + 1);
    assert!(Users::parse(&format!("ann {STORED} {senders}")).is_err());
    assert_eq!(Users::parse(&"bob\n".repeat(100)).unwrap_err().len(), MISTAKES_MAX);
    assert!(check_name("a b").is_err() && check_name("#a").is_err() && check_name("ann").is_ok());
}

#[test]
fn everybody_has_something_that_is_verified() {
    // Proves: a user has what is stored of it, for SCRAM only a verifier of that; all others have what stands for them.
    let argon2 = "$argon2id$v=19$m=64,t=3,p=4$c2FsdHNhbHRzYWx0c2FsdA$Yy6Xfyg0mclfcJzThlBxZXL/bzatGWF5";
    let users = Users::parse(&format!("ann {STORED}\nbob {argon2}\n")).unwrap();
    let fake = users.fake([1; 32]);
    let stored: Stored = STORED.parse().unwrap();
    assert_eq!(users.stored("ann", &fake), stored);
    assert_eq!(Some(&users.scram_verifier("ann", &fake)), stored.as_scram());
    assert_eq!(users.stored("bob", &fake), argon2.parse().unwrap());
    assert_eq!(users.scram_verifier("bob", &fake), fake.scram("bob"));
    assert_eq!(users.stored("eve", &fake), fake.stored("eve"));
    assert_eq!(users.scram_verifier("eve", &fake), fake.scram("eve"));
}

#[test]
fn many_users_are_no_trouble() {
    // Proves: 100,000 users are read and each is found.
    let text: String = (0..100_000).map(|number| format!("user{number} {STORED}\n")).collect();
    let users = Users::parse(&text).unwrap();
    assert_eq!(users.len(), 100_000);
    assert!((0..100_000).all(|number| users.find(&format!("user{number}")).is_some()));
}
