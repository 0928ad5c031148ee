//! What others have stored is read and verified, and what is stored here is read by others' rules.

use super::*;
use crate::sasl::scram::ITERATIONS_MIN;

fn password(text: &str) -> Password {
    Password::prepare(text.as_bytes()).expect("a password")
}

/// Little work, for tests of other things.
const CHEAP: Argon2Options = Argon2Options { memory_kib: 64, passes: 1, lanes: 1 };

#[test]
fn what_other_programs_store_is_verified() {
    // Proves: hashes and verifiers that these commands have made fit their passwords and no others:
    // echo -n pencil | argon2 saltsaltsaltsalt -id -t 2 -k 19456 -p 1 -l 32 -e (and -t 3 -k 64 -p 4 -l 24), of libargon2;
    // gsasl --mkpasswd --mechanism SCRAM-SHA-256 --password pencil --iteration-count 5000 --salt c2FsdHNhbHRzYWx0c2FsdA==;
    // the two after it by Python: s = hashlib.pbkdf2_hmac("sha256", "pässword".encode(), bytes(range(16)), 15000), c =
    // hmac.digest(s, b"Client Key", "sha256"), then base64 of hashlib.sha256(c).digest() and hmac.digest(s, b"Server Key", "sha256").
    for (text, word) in [
        (
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$kJa3764BDCbRaqsA6kPR946Pw83dbuP/beG+9z5NRwk",
            "pencil",
        ),
        (
            "{ARGON2ID}$argon2id$v=19$m=64,t=3,p=4$c2FsdHNhbHRzYWx0c2FsdA$Yy6Xfyg0mclfcJzThlBxZXL/bzatGWF5",
            "pencil",
        ),
        (
            "{SCRAM-SHA-256}5000,c2FsdHNhbHRzYWx0c2FsdA==,eqUCwrTNtyS66Aq/vjrTRGEi2It20AcYU1yuF3kaxr0=,\
             Y3zcSioAo1fr+HelC2G7Ik1NWa9yGPrlgbSjh2tKxQo=",
            "pencil",
        ),
        (
            "SCRAM-SHA-256$15000:AAECAwQFBgcICQoLDA0ODw==$mIhtoSPxZXZfLhJ00DrrGR2v3qYiNmjNuw2+wrESa9c=:\
             uKL8Xip1zAQEsPwrHLAjK48cv7jf/PjN3lM3wRCm3e4=",
            "p\u{e4}ssword",
        ),
    ] {
        let stored: Stored = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(stored.verify(&password(word)), "{text}");
        assert!(!stored.verify(&password("pencil2")), "{text}");
        assert_eq!(stored.to_string().parse(), Ok(stored), "{text}");
    }
}

#[test]
fn new_ones_are_written_as_others_write_them() {
    // Proves: the octets that libargon2, PostgreSQL's form and the Python of the test above have.
    let options = Argon2Options { memory_kib: 19456, passes: 2, lanes: 1 };
    assert_eq!(options, Argon2Options::default());
    let stored = Stored::argon2id(&password("pencil"), options, *b"saltsaltsaltsalt").unwrap();
    assert_eq!(
        stored.to_string(),
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$kJa3764BDCbRaqsA6kPR946Pw83dbuP/beG+9z5NRwk"
    );
    let salt = std::array::from_fn(|at| at as u8);
    let stored = Stored::scram(&password("pa\u{308}ssword"), 15_000, salt);
    assert_eq!(
        stored.to_string(),
        "SCRAM-SHA-256$15000:AAECAwQFBgcICQoLDA0ODw==$mIhtoSPxZXZfLhJ00DrrGR2v3qYiNmjNuw2+wrESa9c=:\
         uKL8Xip1zAQEsPwrHLAjK48cv7jf/PjN3lM3wRCm3e4="
    );
    assert!(stored.as_scram().is_some_and(|verifier| verifier.iterations() == 15_000));
    let Stored::Scram(least) = Stored::scram(&password("p"), 1, salt) else { panic!() };
    assert_eq!(least.iterations(), ITERATIONS_MIN);
}

#[test]
fn what_is_damaged_is_refused() {
    // Proves: no part that is missing, wrong, old, too costly or too cheap is taken, and the errors show nothing of it.
    let key = "eqUCwrTNtyS66Aq/vjrTRGEi2It20AcYU1yuF3kaxr0=";
    let argon2 = |rest: &str| format!("$argon2id$v=19{rest}");
    let salted = "$c2FsdHNhbHRzYWx0c2FsdA$Yy6Xfyg0mclfcJzThlBxZXL/bzatGWF5";
    for (text, error) in [
        (String::new(), StoredError::Scheme),
        ("hunter2".to_owned(), StoredError::Scheme),
        ("$2b$12$abcdefghijklmnopqrstuv".to_owned(), StoredError::Scheme),
        (format!("$argon2i$v=19$m=64,t=3,p=4{salted}"), StoredError::Scheme),
        (format!("$argon2id$v=16$m=64,t=3,p=4{salted}"), StoredError::Version),
        (format!("$argon2id$m=64,t=3,p=4{salted}"), StoredError::Version),
        (argon2(&format!("$m=64,t=3{salted}")), StoredError::Damaged),
        (argon2(&format!("$m=64,t=3,p=4,keyid=AAAA{salted}")), StoredError::Damaged),
        (argon2("$m=64,t=3,p=4$c2FsdHNhbHRzYWx0c2FsdA"), StoredError::Damaged),
        (argon2(&format!("$m=64,t=0,p=4{salted}")), StoredError::Bounds),
        (argon2(&format!("$m=4000000000,t=3,p=4{salted}")), StoredError::Bounds),
        (argon2(&format!("$m=64,t=65,p=4{salted}")), StoredError::Bounds),
        (argon2(&format!("$m=64,t=3,p=17{salted}")), StoredError::Bounds),
        (format!("SCRAM-SHA-256$4096:AAAA${key}"), StoredError::Damaged),
        (format!("SCRAM-SHA-256$4096:AAAA${key}:{key}:"), StoredError::Damaged),
        (format!("SCRAM-SHA-256$4096:AAAA${key}:AAAA"), StoredError::Damaged),
        (format!("SCRAM-SHA-256$4095:AAAA${key}:{key}"), StoredError::Bounds),
        (format!("SCRAM-SHA-256$1000001:AAAA${key}:{key}"), StoredError::Bounds),
        (format!("SCRAM-SHA-256$4096:${key}:{key}"), StoredError::Bounds),
        (format!("{{SCRAM-SHA-256}}4096,AAAA,{key}"), StoredError::Damaged),
    ] {
        assert_eq!(text.parse::<Stored>(), Err(error), "{text}");
    }
    let shown: Stored = format!("SCRAM-SHA-256$4096:AAAA${key}:{key}").parse().unwrap();
    assert_eq!(format!("{shown:?}"), "Scram(ScramVerifier(4096 iterations, ..))");
    let shown = Stored::argon2id(&password("p"), CHEAP, [9; 16]).unwrap();
    assert!(!format!("{shown:?}").contains("hash") && !format!("{shown:?}").contains('9'), "{shown:?}");
}

#[test]
fn a_fake_is_like_the_others_and_stays_the_same() {
    // Proves: costs and salts of users that there are not are those of real ones, in their proportions, the same at each try,
    // others for another name or secret; and no password fits.
    let real = [
        Stored::argon2id(&password("p"), CHEAP, [1; 16]).unwrap(),
        Stored::scram(&password("p"), 5000, [1; 16]),
        Stored::scram(&password("p"), 5000, [2; 16]),
        Stored::scram(&password("p"), 5000, [3; 16]),
    ];
    let fake = Fake::new([1; 32], real.iter());
    let mut argon2 = 0;
    for number in 0..400 {
        let name = format!("user{number}");
        let stored = fake.stored(&name);
        assert_eq!(stored, Fake::new([1; 32], real.iter()).stored(&name));
        argon2 += u32::from(stored.as_scram().is_none());
        let scram = fake.scram(&name);
        assert_eq!((scram.iterations, scram.salt.len()), (5000, 16));
        assert!(stored.as_scram().is_none_or(|verifier| *verifier == scram));
        assert_ne!(scram, fake.scram("other"));
        assert_ne!(scram, Fake::new([2; 32], real.iter()).scram(&name));
    }
    assert!((70..130).contains(&argon2), "a quarter of 400: {argon2}");
    for name in ["a", "b", "c", "d", "e"] {
        assert!(!fake.stored(name).verify(&password("p")) && !fake.scram(name).verify(&password("p")));
    }
    assert!(!format!("{fake:?}").contains("secret"));
}

#[test]
fn without_users_a_fake_is_like_a_new_password() {
    // Proves: an empty file, and one without verifiers of SCRAM, have fakes of the usual costs.
    let fake = Fake::new([1; 32], [].into_iter());
    let Stored::Argon2(hash) = fake.stored("a") else { panic!("no Argon2") };
    assert_eq!(hash.options(), Argon2Options::default());
    assert_eq!(fake.scram("a").iterations(), crate::sasl::scram::ITERATIONS_DEFAULT);
    let argon2 = Stored::argon2id(&password("p"), CHEAP, [1; 16]).unwrap();
    assert_eq!(Fake::new([1; 32], [&argon2].into_iter()).scram("a").salt.len(), 16);
    let Stored::Argon2(hash) = Fake::new([1; 32], [&argon2].into_iter()).stored("a") else { panic!() };
    assert_eq!(hash.options(), CHEAP);
    assert!(Stored::Argon2(hash).to_string().starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
}
