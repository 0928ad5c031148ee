//! Messages of the standards, and those that GNU SASL has sent.

use super::*;

#[test]
fn the_example_of_rfc_7677() {
    // Proves: messages, keys, proof and signature of section 3 of RFC 7677. Its nonces are not of 18 octets, as ours are, so the
    // parts are compared.
    use crate::sasl::base64::{decode, decode_array};
    use crate::sasl::scram::{
        ClientFinal, ClientFirst, Salted, ServerFinal, ServerFirst, auth_message, client_proof, is_proof,
        server_signature,
    };
    let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
    let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let server_first = ServerFirst::parse(challenge.as_bytes()).unwrap();
    assert_eq!(server_first.to_string(), challenge);
    assert_eq!(decode(b"W22ZaJ0SNY7soEsUEjb6gQ==", 16).unwrap(), server_first.salt);
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let last = ClientFinal::parse(last.as_bytes()).unwrap();
    assert_eq!(ClientFinal::without_proof(first.header, b"", server_first.nonce), last.without_proof);
    let message = auth_message(first.bare, challenge, last.without_proof);
    let salted = Salted::derive(&password("pencil"), &server_first.salt, server_first.iterations);
    assert_eq!(client_proof(&salted.client_key(), &message), last.proof);
    assert!(is_proof(&last.proof, &salted.stored_key(), &message));
    let signature = server_signature(&salted.server_key(), &message);
    let expected = decode_array(b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    assert_eq!(signature, expected);
    assert_eq!(ServerFinal::signed(&signature), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn the_examples_of_rfc_4616() {
    // Proves: section 4 of RFC 4616: an initial response, one after an empty challenge, and one that asks to act as another.
    let mut server = server::Exchange::new(Mechanism::Plain, None, SERVER_NONCE);
    let Ok(server::Step::Password(given)) = server.start(Some(b"\0tim\0tanstaaftanstaaf")) else { panic!() };
    assert_eq!((given.user.as_str(), given.password.as_bytes()), ("tim", &b"tanstaaftanstaaf"[..]));
    let mut server = server::Exchange::new(Mechanism::Plain, None, SERVER_NONCE);
    assert!(matches!(server.start(None), Ok(server::Step::Challenge(empty)) if empty.is_empty()));
    let failure = server.handle_response(b"Ursel\0Kurt\0xipj3plmq").unwrap_err();
    assert_eq!(failure, server::Failure::Authorization);
    let mut client = client_of(&options(Mechanism::Plain), "tim", "tanstaaftanstaaf");
    assert_eq!(client.initial().as_deref(), Some(&b"\0tim\0tanstaaftanstaaf"[..]));
}

/// What GNU SASL 2.2.0 has answered to this client, with `gsasl --server -m SCRAM-SHA-256 --password pencil --no-cb`.
const OF_SERVER: [&str; 2] = [
    "r=Y2hhc3F1aS1jbGllbnQtMThiX6lpK+1Ya/D1ohTqZXZ/+8rE,s=9D9IiKEoNTKq1fpi,i=4096",
    "v=jt2vKPpndERZNPHhcoGJ2dcSyF218MGBlX+evC9t0FA=",
];

/// What it has sent to this server as the client, with `gsasl --client -m SCRAM-SHA-256 --authentication-id user,=x --password
/// pencil --no-cb`.
const OF_CLIENT: [&str; 2] = [
    "n,,n=user=2C=3Dx,r=LgodQn3wPsbsunzhvOw0hGoR",
    "c=biws,r=LgodQn3wPsbsunzhvOw0hGoRY2hhc3F1aS1zZXJ2ZXItMThi,p=l/xyzkAmXY28cZ8MNrcRrGBop0y6jH/jmUqqj2jLWtE=",
];

#[test]
fn the_server_of_gnu_sasl_is_understood() {
    // Proves: the answers of another's server are taken by this client, its signature among them.
    let options = options(Mechanism::ScramSha256);
    let account = Account::new("user,=x", "pencil").unwrap();
    let nonce = Nonce(*b"chasqui-client-18b");
    let mut client = client::Exchange::new(&options, &account, nonce, None).unwrap();
    assert_eq!(client.initial().as_deref(), Some(&b"n,,n=user=2C=3Dx,r=Y2hhc3F1aS1jbGllbnQtMThi"[..]));
    let Ok(client::Step::Derive(work)) = client.handle_challenge(OF_SERVER[0].as_bytes()) else { panic!() };
    assert_eq!(
        String::from_utf8(client.use_keys(&work.derive()).unwrap()).unwrap(),
        "c=biws,r=Y2hhc3F1aS1jbGllbnQtMThiX6lpK+1Ya/D1ohTqZXZ/+8rE,p=ko626ccV/JZeCdCHcgFs55mioinUHI8zAhNsmuvWB0I="
    );
    assert_eq!(client.handle_success(Some(OF_SERVER[1].as_bytes())), Ok(()));
}

#[test]
fn the_client_of_gnu_sasl_is_understood() {
    // Proves: the responses of another's client are taken by this server, with escapes in its name; and by a wrong verifier not.
    for (word, is_right) in [("pencil", true), ("pencils", false)] {
        let nonce = Nonce(*b"chasqui-server-18b");
        let mut server = server::Exchange::new(Mechanism::ScramSha256, None, nonce);
        let step = server.start(Some(OF_CLIENT[0].as_bytes()));
        assert!(matches!(step, Ok(server::Step::Lookup { user }) if user == "user,=x"));
        let verifier = ScramVerifier::derive(&password(word), b"saltsaltsaltsalt", 4096);
        let Ok(server::Step::Challenge(first)) = server.use_verifier(&verifier) else { panic!() };
        let expected = "r=LgodQn3wPsbsunzhvOw0hGoRY2hhc3F1aS1zZXJ2ZXItMThi,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096";
        assert_eq!(String::from_utf8(first).unwrap(), expected);
        match server.handle_response(OF_CLIENT[1].as_bytes()) {
            Ok(server::Step::Challenge(last)) if is_right => {
                assert_eq!(last, b"v=rIMyoCLqvfhIz5+meTzOKntStwJXD+pmkcr3oJW6OVM=");
                assert!(
                    matches!(server.handle_response(b""), Ok(server::Step::Done { user }) if user == "user,=x")
                );
            }
            Err(failure) => assert!(!is_right && failure == server::Failure::Proof),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nobody_in_particular_is_the_user_itself() {
    // Proves: an authorization identity that is there and empty, as GNU SASL sends it, and the name itself are no other user.
    for first in ["n,a=,n=user,r=abc", "n,a=user,n=user,r=abc", "n,a=u\u{ad}ser,n=user,r=abc"] {
        let mut server = server::Exchange::new(Mechanism::ScramSha256, None, SERVER_NONCE);
        assert!(matches!(server.start(Some(first.as_bytes())), Ok(server::Step::Lookup { .. })), "{first}");
    }
}
