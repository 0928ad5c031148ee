//! SASL: exchanges of both ends, and the files and texts around them.

use super::Program;
use crate::sasl::accounts::{self, Account};
use crate::sasl::base64;
use crate::sasl::binding::ChannelBinding;
use crate::sasl::line;
use crate::sasl::mechanism::{Mechanism, Mechanisms};
use crate::sasl::mistake::MISTAKES_MAX;
use crate::sasl::prepare::{self, Password};
use crate::sasl::scram::{ITERATIONS_MIN, ScramVerifier};
use crate::sasl::stored::{Fake, Stored};
use crate::sasl::{MESSAGE_MAX, Nonce, client, server};
use crate::users::Users;

/// What nobody but its owner knows: no fuzzer finds it.
const SECRET: &str = "q8#Lw2-vTz0!mK6~";
const USER: &str = "user";
const SALT: &[u8] = b"0123456789abcdef";
/// Messages of an exchange and some more.
const TURNS_MAX: usize = 8;

/// The first byte chooses what the rest is.
pub fn sasl(input: &[u8]) {
    let mut program = Program(input);
    match program.byte() % 6 {
        0 => honest(&mut program),
        1 => meddled(&mut program),
        2 => hostile_client(&mut program),
        3 => hostile_server(&mut program),
        4 => files(program.0),
        _ => texts(program.0),
    }
}

fn mechanism(choice: u8) -> Mechanism {
    Mechanism::ALL[usize::from(choice) % Mechanism::ALL.len()]
}

/// With channel binding where the mechanism needs it, or where it is there unused.
fn options(choice: u8) -> client::Options {
    let mechanism = mechanism(choice);
    let is_bound = mechanism.needs_channel_binding() || choice & 0x40 != 0;
    let channel_binding = is_bound.then_some(ChannelBinding::TlsExporter([7; 32]));
    client::Options { offered: Mechanisms::NONE.with(mechanism), channel_binding, may_show_password: true }
}

fn server_of(options: &client::Options, mechanism: Mechanism) -> server::Exchange {
    // A server that has binding offers it: a client that could use it and says that it was not offered is being deceived.
    let binding = options.channel_binding.clone().filter(|_| mechanism.needs_channel_binding());
    server::Exchange::new(mechanism, binding, Nonce([b's'; 18]))
}

fn verifier(password: &Password) -> ScramVerifier {
    ScramVerifier::derive(password, SALT, ITERATIONS_MIN)
}

/// Runs an exchange; `passes` says what arrives of each message. `Some`: the user that the server believes to be there, and whether the
/// client believes that it is the server.
fn converse(
    client: &mut client::Exchange,
    server: &mut server::Exchange,
    password: &Password,
    with_initial: bool,
    mut passes: impl FnMut(Vec<u8>) -> Vec<u8>,
) -> Option<(String, bool)> {
    let initial = if with_initial { client.initial() } else { None };
    let mut step = server.start(initial.map(&mut passes).as_deref());
    for _ in 0..TURNS_MAX {
        let challenge = match step.ok()? {
            server::Step::Challenge(challenge) => passes(challenge),
            server::Step::Lookup { .. } => {
                step = server.use_verifier(&verifier(password));
                continue;
            }
            server::Step::Password(shown) => {
                let is_right = shown.password.as_bytes() == password.as_bytes();
                return is_right.then(|| (shown.user, client.handle_success(None).is_ok()));
            }
            server::Step::Done { user } => return Some((user, client.handle_success(None).is_ok())),
        };
        let response = match client.handle_challenge(&challenge).ok()? {
            client::Step::Response(response) => response,
            // More would be as right, and take a fuzzer's time.
            client::Step::Derive(derivation) if derivation.iterations() > ITERATIONS_MIN => return None,
            client::Step::Derive(derivation) => client.use_keys(&derivation.derive()).ok()?,
        };
        step = server.handle_response(&passes(response));
    }
    panic!("no end");
}

/// What a client says that knows the password is accepted.
fn honest(program: &mut Program<'_>) {
    let (choice, initial) = (program.byte(), program.byte());
    let (Ok(user), Ok(text)) = (str::from_utf8(program.bytes()), str::from_utf8(program.bytes())) else {
        return;
    };
    let Ok(account) = Account::new(user, text) else { return };
    let prepared = (prepare::name(user.as_bytes()), Password::prepare(text.as_bytes()));
    let options = options(choice);
    let Ok(mut client) = client::Exchange::new(&options, &account, Nonce([b'c'; 18]), None) else {
        assert!(prepared.0.is_err() || prepared.1.is_err(), "an account that a server takes");
        return;
    };
    let (Ok(name), Ok(password)) = prepared else { return };
    let mut server = server_of(&options, client.mechanism());
    let ended = converse(&mut client, &mut server, &password, initial & 1 == 0, |message| message);
    assert_eq!(ended, Some((name, true)), "{} for {user:?}", client.mechanism());
}

/// Without the password nobody is accepted, whatever becomes of the messages on their way; nor is a server believed that does not know it.
fn meddled(program: &mut Program<'_>) {
    let (choice, initial) = (program.byte(), program.byte());
    let account = Account::new(USER, "another").expect("an account");
    let options = options(choice);
    let mut client = client::Exchange::new(&options, &account, Nonce([b'c'; 18]), None).expect("an exchange");
    let mut server = server_of(&options, client.mechanism());
    let secret = Password::prepare(SECRET.as_bytes()).expect("a password");
    let ended = converse(&mut client, &mut server, &secret, initial & 1 == 0, |mut message| {
        match program.byte() % 5 {
            0 => {}
            1 => message = program.bytes().to_vec(),
            2 => {
                let at = usize::from(program.byte()) % (message.len() + 1);
                message.splice(at..at, program.bytes().iter().copied());
            }
            3 => message.truncate(usize::from(program.byte())),
            _ => {
                let at = usize::from(program.byte());
                if let Some(octet) = message.get_mut(at) {
                    *octet ^= program.byte();
                }
            }
        }
        message
    });
    assert_eq!(ended, None, "accepted without the password");
}

/// Responses of all kinds.
fn hostile_client(program: &mut Program<'_>) {
    let choice = program.byte();
    let mut server = server_of(&options(choice), mechanism(choice));
    let secret = Password::prepare(SECRET.as_bytes()).expect("a password");
    let initial = program.byte();
    let mut step = server.start((initial & 1 == 0).then(|| program.bytes()));
    for _ in 0..TURNS_MAX {
        step = match step {
            Ok(server::Step::Challenge(challenge)) => {
                assert!(challenge.len() <= MESSAGE_MAX);
                server.handle_response(program.bytes())
            }
            Ok(server::Step::Lookup { user }) => {
                assert_eq!(prepare::name(user.as_bytes()).as_ref(), Ok(&user));
                server.use_verifier(&verifier(&secret))
            }
            Ok(server::Step::Password(shown)) => {
                assert_ne!(shown.password.as_bytes(), SECRET.as_bytes());
                assert_eq!(prepare::name(shown.user.as_bytes()).as_ref(), Ok(&shown.user));
                return;
            }
            Ok(server::Step::Done { user }) => panic!("{user} was accepted without the password"),
            Err(_) => {
                assert!(server.handle_response(b"").is_err(), "an exchange that is over goes on");
                return;
            }
        };
    }
    panic!("no end");
}

/// Challenges of all kinds: a client ends, and with SCRAM believes nobody.
fn hostile_server(program: &mut Program<'_>) {
    let choice = program.byte();
    let account = Account::new(USER, SECRET).expect("an account");
    let mut client =
        client::Exchange::new(&options(choice), &account, Nonce([b'c'; 18]), None).expect("an exchange");
    let initial = program.byte();
    if initial & 1 == 0 {
        client.initial();
    }
    for _ in 0..usize::from(program.byte()) % TURNS_MAX {
        match client.handle_challenge(program.bytes()) {
            Ok(client::Step::Response(response)) => assert!(response.len() <= MESSAGE_MAX),
            Ok(client::Step::Derive(derivation)) if derivation.iterations() > ITERATIONS_MIN => return,
            Ok(client::Step::Derive(derivation)) => drop(client.use_keys(&derivation.derive())),
            Err(_) => break,
        }
    }
    let is_believed = client.handle_success((initial & 2 == 0).then(|| program.bytes())).is_ok();
    assert!(!is_believed || client.mechanism().shows_password(), "a server that knows nothing is believed");
}

/// The files of users and accounts: whoever gets in is found, and stands for himself.
fn files(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    match Users::parse(text) {
        Ok(users) => {
            let fake = users.fake([7; 32]);
            for (name, user) in users.iter() {
                assert_eq!(prepare::name(name.as_bytes()).as_deref(), Ok(name));
                assert_eq!(users.stored(name, &fake), user.stored);
                assert_eq!(user.stored.to_string().parse(), Ok(user.stored.clone()));
            }
        }
        Err(mistakes) => assert!((1..=MISTAKES_MAX).contains(&mistakes.len())),
    }
    match accounts::parse(text) {
        Ok(accounts) => {
            let again: String =
                accounts.iter().map(|it| format!("{}:{}\n", it.user(), it.password().as_str())).collect();
            let count = accounts::parse(&again).map(|accounts| accounts.len());
            assert_eq!(count, Ok(accounts.len()), "what was read is written and read again");
        }
        Err(mistakes) => assert!((1..=MISTAKES_MAX).contains(&mistakes.len())),
    }
}

/// Base64, lines, what is prepared, and what is stored.
fn texts(octets: &[u8]) {
    let said = base64::encode(octets);
    assert_eq!(base64::decode(said.as_bytes(), octets.len()).as_deref(), Ok(octets));
    if let Ok(decoded) = base64::decode(octets, MESSAGE_MAX) {
        assert_eq!(base64::encode(&decoded).as_bytes(), octets, "there is one way to write it");
    }
    if octets.len() <= MESSAGE_MAX {
        assert_eq!(line::initial(line::initial_text(octets).as_bytes()).as_deref(), Ok(octets));
    }
    drop((line::response(octets), line::initial(octets), Mechanisms::parse(octets)));
    if let Ok(name) = prepare::name(octets) {
        assert_eq!(prepare::name(name.as_bytes()), Ok(name.clone()), "prepared again");
        // What stands for a user that there is not is made of any name.
        drop(Fake::new([7; 32], std::iter::empty()).scram(&name));
    }
    if let Ok(password) = Password::prepare(octets)
        && password.as_bytes().len() <= prepare::PASSWORD_MAX
    {
        let again = Password::prepare(password.as_bytes()).expect("prepared again");
        assert_eq!(again.as_bytes(), password.as_bytes());
    }
    if let Ok(text) = str::from_utf8(octets)
        && let Ok(stored) = text.parse::<Stored>()
    {
        assert_eq!(stored.to_string().parse(), Ok(stored));
    }
}
