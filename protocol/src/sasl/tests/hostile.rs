//! Messages that were changed, are too long, come out of turn, or are anything at all.

use super::*;
use crate::sasl::MESSAGE_MAX;
use proptest::prelude::*;

/// Runs an exchange in which one octet of one message is changed, or the message cut there.
fn tampered(mechanism: Mechanism, message: usize, change: impl Fn(&mut Vec<u8>) -> bool) -> Option<Ended> {
    let (options, verifier) = (options(mechanism), verifier("p"));
    let mut done = false;
    let mut passes = |at, mut octets: Vec<u8>| {
        if at == message {
            done = change(&mut octets);
        }
        octets
    };
    let mut wire = Wire { with_initial: true, verifier: &verifier, passes: &mut passes, messages: 0 };
    let ended = wire.run(&mut client_of(&options, "user", "p"), &mut server_of(&options));
    done.then_some(ended)
}

#[test]
fn a_change_of_any_octet_is_noticed() {
    // Proves: whatever octet of whatever message of SCRAM is changed, neither end is content.
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha256Plus] {
        for message in 0..4 {
            let mut at = 0;
            loop {
                let flip = |octets: &mut Vec<u8>| {
                    let Some(octet) = octets.get_mut(at) else { return false };
                    *octet ^= 1;
                    true
                };
                let Some(ended) = tampered(mechanism, message, flip) else { break };
                assert!(ended.client.is_err(), "{mechanism} message {message} octet {at}");
                assert!(ended.server.is_err(), "{mechanism} message {message} octet {at}");
                at += 1;
            }
            assert!(at > 10, "{mechanism} message {message} was not changed");
        }
    }
}

#[test]
fn a_message_that_is_cut_is_noticed() {
    // Proves: no part of a message of SCRAM passes for the whole.
    for message in 0..4 {
        let mut keep = 0;
        loop {
            let cut = |octets: &mut Vec<u8>| {
                let is_cut = keep < octets.len();
                octets.truncate(keep);
                is_cut
            };
            let Some(ended) = tampered(Mechanism::ScramSha256, message, cut) else { break };
            assert!(ended.server.is_err() && ended.client.is_err(), "message {message} cut to {keep}");
            keep += 1;
        }
    }
}

#[test]
fn a_change_of_plain_gives_another_user_or_password() {
    // Proves: no octet of PLAIN can be changed so that name and password stay as they are.
    let response = b"user\0user\0pencil";
    for at in 0..response.len() {
        for bit in 0..8 {
            let mut changed = response.to_vec();
            changed[at] ^= 1 << bit;
            let mut server = server::Exchange::new(Mechanism::Plain, None, SERVER_NONCE);
            if let Ok(server::Step::Password(given)) = server.start(Some(&changed)) {
                let same = given.user == "user" && given.password.as_bytes() == b"pencil";
                assert!(!same, "octet {at} bit {bit}");
            }
        }
    }
}

#[test]
fn a_server_that_does_not_know_the_user_is_noticed() {
    // Proves: a success without the signature, with another's, with an error or before its time does not count.
    let (options, real) = (options(Mechanism::ScramSha256), verifier("p"));
    let until_proof = || {
        let (mut client, mut server) = (client_of(&options, "u", "p"), server_of(&options));
        server.start(client.initial().as_deref()).unwrap();
        let server::Step::Challenge(first) = server.use_verifier(&real).unwrap() else { panic!() };
        let client::Step::Derive(work) = client.handle_challenge(&first).unwrap() else { panic!() };
        let response = client.use_keys(&work.derive()).unwrap();
        let server::Step::Challenge(last) = server.handle_response(&response).unwrap() else { panic!() };
        (client, last)
    };
    let (mut client, last) = until_proof();
    assert_eq!(client.handle_success(Some(&last)), Ok(()));
    assert_eq!(client.handle_success(Some(&last)), Err(client::Failure::OutOfTurn));
    let (mut client, last) = until_proof();
    assert!(matches!(client.handle_challenge(&last), Ok(client::Step::Response(empty)) if empty.is_empty()));
    assert_eq!(client.handle_success(None), Ok(()));
    let (mut client, _) = until_proof();
    assert_eq!(client.handle_success(None), Err(client::Failure::OutOfTurn));
    let wrong = format!("v={}", crate::sasl::base64::encode([0; 32]));
    let (mut client, _) = until_proof();
    assert_eq!(client.handle_challenge(wrong.as_bytes()).unwrap_err(), client::Failure::Signature);
    assert_eq!(client.handle_success(None), Err(client::Failure::OutOfTurn));
    let (mut client, _) = until_proof();
    let refused = client::Failure::Refused("invalid-proof".to_owned());
    assert_eq!(client.handle_success(Some(b"e=invalid-\x1bproof\n")), Err(refused));
    let mut client = client_of(&options, "u", "p");
    client.initial();
    assert_eq!(client.handle_success(None), Err(client::Failure::OutOfTurn));
}

#[test]
fn a_client_takes_no_strange_challenge() {
    // Proves: another's nonce, a nonce without the server's part, and too few or too many rounds end the exchange.
    let nonce = "Y2NjY2NjY2NjY2NjY2NjY2Nj";
    for (challenge, failure) in [
        (format!("r={nonce},s=AAAA,i=4096"), client::Failure::Nonce),
        (format!("r=x{nonce}x,s=AAAA,i=4096"), client::Failure::Nonce),
        (format!("r={nonce}x,s=AAAA,i=4095"), client::Failure::Iterations),
        (format!("r={nonce}x,s=AAAA,i=1000001"), client::Failure::Iterations),
        (format!("r={nonce}x,s=AAAA,i=4294967297"), client::Failure::Iterations),
        (format!("m=x,r={nonce}x,s=AAAA,i=4096"), client::Failure::Malformed),
        ("e=other-error".to_owned(), client::Failure::Refused("other-error".to_owned())),
        (String::new(), client::Failure::Malformed),
        ("x".repeat(MESSAGE_MAX + 1), client::Failure::TooLong),
    ] {
        let mut client = client_of(&options(Mechanism::ScramSha256), "u", "p");
        assert!(client.initial().is_some());
        assert_eq!(client.handle_challenge(challenge.as_bytes()).unwrap_err(), failure, "{challenge}");
        assert_eq!(client.handle_challenge(b"").unwrap_err(), client::Failure::OutOfTurn);
    }
}

#[test]
fn a_client_shows_its_password_to_no_server_that_asks_out_of_turn() {
    // Proves: PLAIN answers one empty challenge, LOGIN two of any text, and nothing more.
    let mut client = client_of(&options(Mechanism::Plain), "u", "p");
    assert_eq!(client.handle_challenge(b"more").unwrap_err(), client::Failure::Malformed);
    let mut client = client_of(&options(Mechanism::Plain), "u", "p");
    assert!(client.handle_challenge(b"").is_ok());
    assert_eq!(client.handle_challenge(b"").unwrap_err(), client::Failure::OutOfTurn);
    let mut client = client_of(&options(Mechanism::Login), "u", "p");
    assert_eq!(client.initial(), None);
    assert!(
        matches!(client.handle_challenge(b"User Name\0"), Ok(client::Step::Response(user)) if user == b"u")
    );
    assert_eq!(
        client_of(&options(Mechanism::Login), "u", "p").handle_success(None),
        Err(client::Failure::OutOfTurn)
    );
    assert!(matches!(client.handle_challenge(b""), Ok(client::Step::Response(word)) if word == b"p"));
    assert_eq!(client.handle_challenge(b"").unwrap_err(), client::Failure::OutOfTurn);
}

#[test]
fn a_server_takes_no_strange_response() {
    // Proves: each response that is no right one has its failure, and the exchange is over then.
    let long = vec![b'x'; MESSAGE_MAX + 1];
    let name = [b"\0", &[b'n'; 256][..], b"\0p"].concat();
    let mechanisms = [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256];
    let [plain, login, scram] = mechanisms;
    use crate::sasl::prepare::Unprepared;
    for (mechanism, response, failure) in [
        (plain, &b""[..], server::Failure::Malformed),
        (plain, b"user", server::Failure::Malformed),
        (plain, b"\0user", server::Failure::Malformed),
        (plain, b"\0\0p", server::Failure::Unprepared(Unprepared::Empty)),
        (plain, b"\0user\0", server::Failure::Unprepared(Unprepared::Empty)),
        (plain, b"\0user\0p\0", server::Failure::Unprepared(Unprepared::Prohibited)),
        (plain, b"\0user\0\xff", server::Failure::Unprepared(Unprepared::NotUtf8)),
        (plain, b"admin\0user\0p", server::Failure::Authorization),
        (plain, &name, server::Failure::Unprepared(Unprepared::TooLong)),
        (plain, &long, server::Failure::TooLong),
        (login, b"", server::Failure::Unprepared(Unprepared::Empty)),
        (login, &long, server::Failure::TooLong),
        (scram, b"", server::Failure::Malformed),
        (scram, b"n,a=admin,n=user,r=abc", server::Failure::Authorization),
        (scram, b"n,,n=\xc2\xad,r=abc", server::Failure::Unprepared(Unprepared::Empty)),
        (scram, &long, server::Failure::TooLong),
    ] {
        let mut server = server::Exchange::new(mechanism, None, SERVER_NONCE);
        assert_eq!(server.start(Some(response)).unwrap_err(), failure, "{mechanism} {response:?}");
        assert_eq!(server.handle_response(b"").unwrap_err(), server::Failure::OutOfTurn);
        assert_eq!(server.use_verifier(&verifier("p")).unwrap_err(), server::Failure::OutOfTurn);
        assert_eq!(server.start(None).unwrap_err(), server::Failure::OutOfTurn);
    }
}

#[test]
fn a_proof_counts_for_its_nonce_alone() {
    // Proves: a client that knows the password and repeats another nonce than it was given is refused.
    use crate::sasl::base64::encode;
    use crate::sasl::scram::{Salted, auth_message, client_proof};
    let real = verifier("p");
    let keys = Salted::derive(&password("p"), &real.salt, real.iterations());
    let given = format!("abc{}", encode(SERVER_NONCE.0));
    for (nonce, is_taken) in [(given.as_str(), true), ("abc", false), (&given[..20], false)] {
        let mut server = server::Exchange::new(Mechanism::ScramSha256, None, SERVER_NONCE);
        server.start(Some(b"n,,n=user,r=abc")).unwrap();
        let server::Step::Challenge(first) = server.use_verifier(&real).unwrap() else { panic!() };
        let without_proof = format!("c=biws,r={nonce}");
        let first = String::from_utf8(first).unwrap();
        let message = auth_message("n=user,r=abc", &first, &without_proof);
        let last = format!("{without_proof},p={}", encode(client_proof(&keys.client_key(), &message)));
        match server.handle_response(last.as_bytes()) {
            Ok(server::Step::Challenge(_)) => assert!(is_taken, "{nonce}"),
            other => assert!(!is_taken && other.unwrap_err() == server::Failure::Proof, "{nonce}"),
        }
    }
}

proptest! {
    #[test]
    fn no_response_panics_or_passes(
        mechanism in prop::sample::select(&Mechanism::ALL[..]),
        responses in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "[nyp=,acrv\\x00-]{0,40}".prop_map(String::into_bytes),
            "(n|y|p=tls-exporter),,n=[a-z=,]{0,8},r=[a-z]{0,8}(,[a-z]=[a-z]?)?".prop_map(String::into_bytes),
            "c=[A-Za-z0-9+/]{0,8}=?,r=[a-zA-Z0-9]{0,40},p=[A-Za-z0-9+/]{43}=".prop_map(String::into_bytes),
        ], 1..5),
    ) {
        // Proves: no octets make a server panic, and none that know no password end in Done.
        let verifier = verifier("p");
        let mut server = server::Exchange::new(mechanism, Some(BINDING), SERVER_NONCE);
        let mut step = server.start(None);
        for response in &responses {
            if matches!(step, Ok(server::Step::Lookup { .. })) {
                step = server.use_verifier(&verifier);
            }
            let done = matches!(step, Ok(server::Step::Done { .. }));
            prop_assert!(!done);
            step = server.handle_response(response);
        }
    }

    #[test]
    fn no_challenge_panics_or_passes(
        mechanism in prop::sample::select(&Mechanism::ALL[..]),
        challenges in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "r=Y2NjY2NjY2NjY2NjY2NjY2Nj[a-z]{0,8},s=[A-Za-z0-9+/]{4},i=4[0-9]{3}".prop_map(String::into_bytes),
            "[ev]=[A-Za-z0-9+/]{43}=".prop_map(String::into_bytes),
        ], 1..5),
    ) {
        // Proves: no octets make a client panic, and SCRAM believes no success without the signature.
        let mut client = client_of(&options(mechanism), "u", "p");
        client.initial();
        for challenge in &challenges {
            if let Ok(client::Step::Derive(_)) = client.handle_challenge(challenge) {
                break;
            }
        }
        let content = client.handle_success(Some(&challenges[0])).is_ok();
        prop_assert!(!content || mechanism.shows_password());
    }
}
