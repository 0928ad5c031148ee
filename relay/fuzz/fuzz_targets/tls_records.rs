//! TLS with somebody between both ends: transport/src/tls/fuzzing.rs says what the input means and what must hold.
#![no_main]

use std::sync::LazyLock;

use chasqui_transport::tls::fuzzing::hostile_records;
use chasqui_transport::tls::{Certificates, ClientTls, ServerTls};

static ENDS: LazyLock<(ServerTls, ClientTls)> = LazyLock::new(|| {
    let certified = rcgen::generate_simple_self_signed(["server.test".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (chain, key) = (folder.path().join("chain"), folder.path().join("key"));
    std::fs::write(&chain, certified.cert.pem()).expect("written");
    std::fs::write(&key, certified.signing_key.serialize_pem()).expect("written");
    let certificates = Certificates::read([(chain.as_path(), key.as_path())]).expect("read");
    (ServerTls::new(certificates).expect("a server"), ClientTls::new(None, false).expect("a client"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile_records(&ENDS.0, &ENDS.1, input));
