//! Both ends as they are.

use super::*;
use crate::sasl::stored::Fake;

#[test]
fn the_right_password_is_taken_by_every_mechanism() {
    // Proves: with and without an initial response, both ends come to the same end, and the name is prepared.
    let verifier = verifier("p\u{e4}ss, w=rd");
    for mechanism in Mechanism::ALL {
        for with_initial in [true, false] {
            let options = options(mechanism);
            let mut client = client_of(&options, "u\u{ad}s,e=r", "pa\u{308}ss, w=rd");
            assert_eq!(client.mechanism(), mechanism);
            let passes = &mut |_, message| message;
            let mut wire = Wire { with_initial, verifier: &verifier, passes, messages: 0 };
            let ended = wire.run(&mut client, &mut server_of(&options));
            assert_eq!(ended, Ended { server: Ok("us,e=r".to_owned()), client: Ok(()) }, "{mechanism}");
        }
    }
}

#[test]
fn a_wrong_password_and_an_unknown_user_end_alike() {
    // Proves: neither is taken, and the server's failure is the same; with SCRAM the challenge has the same shape.
    let real = verifier("right");
    let stored = crate::sasl::stored::Stored::Scram(real.clone());
    let fake = Fake::new([1; 32], [&stored].into_iter());
    for mechanism in Mechanism::ALL {
        let options = options(mechanism);
        let mut lengths = Vec::new();
        for verifier in [real.clone(), fake.scram("user")] {
            let mut client = client_of(&options, "user", "wrong");
            let mut passes = |_, message: Vec<u8>| {
                lengths.push(message.len());
                message
            };
            let mut wire = Wire { with_initial: true, verifier: &verifier, passes: &mut passes, messages: 0 };
            let ended = wire.run(&mut client, &mut server_of(&options));
            let shown = mechanism.shows_password();
            let why = if shown { Why::Password } else { Why::Failure(server::Failure::Proof) };
            assert_eq!(ended.server, Err(why), "{mechanism}");
        }
        let (known, unknown) = lengths.split_at(lengths.len() / 2);
        assert_eq!(known, unknown, "{mechanism}");
    }
}

#[test]
fn only_the_connection_that_was_proved_counts() {
    // Proves: -PLUS fails between two ends whose TLS connections differ, and between kinds of binding.
    let options = options(Mechanism::ScramSha256Plus);
    for other in [ChannelBinding::TlsExporter([8; 32]), ChannelBinding::TlsServerEndPoint([7; 32].into())] {
        let mut server = server::Exchange::new(Mechanism::ScramSha256Plus, Some(other), SERVER_NONCE);
        let ended = converse(&verifier("p"), &mut client_of(&options, "u", "p"), &mut server);
        assert_eq!(ended.server, Err(Why::Failure(server::Failure::ChannelBinding)));
    }
}

#[test]
fn an_offer_that_was_hidden_is_noticed() {
    // Proves: a client that could be bound, and does not see the offer, is refused by a server that made it, and by no other.
    let bound = client::Options { channel_binding: Some(BINDING), ..options(Mechanism::ScramSha256) };
    let mut server = server::Exchange::new(Mechanism::ScramSha256, Some(BINDING), SERVER_NONCE);
    let ended = converse(&verifier("p"), &mut client_of(&bound, "u", "p"), &mut server);
    assert_eq!(ended.server, Err(Why::Failure(server::Failure::ChannelBinding)));
    let mut server = server::Exchange::new(Mechanism::ScramSha256, None, SERVER_NONCE);
    let ended = converse(&verifier("p"), &mut client_of(&bound, "u", "p"), &mut server);
    assert_eq!(ended.server, Ok("u".to_owned()));
    let unbound = options(Mechanism::ScramSha256);
    let mut server = server::Exchange::new(Mechanism::ScramSha256, Some(BINDING), SERVER_NONCE);
    let ended = converse(&verifier("p"), &mut client_of(&unbound, "u", "p"), &mut server);
    assert_eq!(ended.server, Ok("u".to_owned()));
}

#[test]
fn flags_fit_their_mechanism() {
    // Proves: -PLUS takes no unbound client, and SCRAM-SHA-256 no bound one.
    for (mechanism, first) in [
        (Mechanism::ScramSha256Plus, &b"n,,n=u,r=abc"[..]),
        (Mechanism::ScramSha256Plus, b"y,,n=u,r=abc"),
        (Mechanism::ScramSha256Plus, b"p=tls-unique,,n=u,r=abc"),
        (Mechanism::ScramSha256, b"p=tls-exporter,,n=u,r=abc"),
        (Mechanism::ScramSha256, b"y,,n=u,r=abc"),
    ] {
        let mut server = server::Exchange::new(mechanism, Some(BINDING), SERVER_NONCE);
        assert_eq!(server.start(Some(first)).unwrap_err(), server::Failure::ChannelBinding);
        assert_eq!(server.handle_response(b"").unwrap_err(), server::Failure::OutOfTurn);
    }
}

#[test]
fn the_best_usable_mechanism_is_chosen() {
    // Proves: the order of preference, and that a password is shown, and a binding used, only where it may.
    for (offered, bound, may_show_password, chosen) in [
        ("LOGIN PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", true, true, Some(Mechanism::ScramSha256Plus)),
        ("LOGIN PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", false, true, Some(Mechanism::ScramSha256)),
        ("LOGIN PLAIN", true, true, Some(Mechanism::Plain)),
        ("LOGIN", true, true, Some(Mechanism::Login)),
        ("LOGIN PLAIN", true, false, None),
        ("LOGIN SCRAM-SHA-256", false, false, Some(Mechanism::ScramSha256)),
        ("SCRAM-SHA-256-PLUS", false, true, None),
        ("", true, true, None),
    ] {
        let channel_binding = bound.then_some(BINDING);
        let offered = Mechanisms::parse(offered.as_bytes());
        let options = client::Options { offered, channel_binding, may_show_password };
        assert_eq!(options.mechanism(), chosen, "{options:?}");
        let account = Account::new("u", "p").unwrap();
        let made = client::Exchange::new(&options, &account, CLIENT_NONCE, None);
        assert_eq!(made.map(|it| it.mechanism()).ok(), chosen);
    }
}

#[test]
fn keys_serve_many_exchanges() {
    // Proves: keys of an earlier exchange save the derivation, those of another salt do not, and are not used.
    let options = options(Mechanism::ScramSha256);
    let account = Account::new("u", "p").unwrap();
    let real = verifier("p");
    let derived = |keys: Option<client::ClientKeys>, verifier: &ScramVerifier| {
        let mut client = client::Exchange::new(&options, &account, CLIENT_NONCE, keys).unwrap();
        let mut server = server_of(&options);
        server.start(client.initial().as_deref()).unwrap();
        let server::Step::Challenge(challenge) = server.use_verifier(verifier).unwrap() else { panic!() };
        (client.handle_challenge(&challenge).unwrap(), client, server)
    };
    let (client::Step::Derive(derivation), ..) = derived(None, &real) else { panic!("keys from nowhere") };
    assert_eq!(derivation.iterations(), ITERATIONS_MIN);
    let keys = derivation.derive();
    let (client::Step::Response(response), _, mut server) = derived(Some(keys.clone()), &real) else {
        panic!("derived again")
    };
    assert!(matches!(server.handle_response(&response), Ok(server::Step::Challenge(_))));
    let other = ScramVerifier::derive(&password("p"), b"another salt", ITERATIONS_MIN);
    let (step, mut client, _) = derived(Some(keys.clone()), &other);
    assert!(matches!(step, client::Step::Derive(_)));
    assert_eq!(client.use_keys(&keys).unwrap_err(), client::Failure::OutOfTurn);
}

#[test]
fn nothing_secret_is_shown_by_debug() {
    // Proves: no state of either end shows the password or a key, in whatever form.
    for mechanism in Mechanism::ALL {
        let options = options(mechanism);
        let mut client = client_of(&options, "user", "hunter2");
        let mut server = server_of(&options);
        let mut texts = vec![format!("{client:?}")];
        let mut step = server.start(None);
        for _ in 0..6 {
            texts.push(format!("{step:?} {server:?} {client:?}"));
            let Ok(server::Step::Challenge(challenge)) = step else { break };
            match client.handle_challenge(&challenge).unwrap() {
                client::Step::Response(response) => step = server.handle_response(&response),
                client::Step::Derive(derivation) => {
                    texts.push(format!("{derivation:?} {:?}", derivation.clone().derive()));
                    break;
                }
            }
            if matches!(step, Ok(server::Step::Lookup { .. })) {
                step = server.use_verifier(&verifier("hunter2"));
            }
        }
        let text = texts.join("\n");
        assert!(!text.contains("hunter") && !text.contains("104, 117, 110"), "{text}");
    }
}
