//! SASL at both ends, and the texts around it: protocol/src/fuzzing says what the input means and what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    chasqui_protocol::fuzzing::sasl(input);
    chasqui_relay::fuzz_credentials(input);
});
