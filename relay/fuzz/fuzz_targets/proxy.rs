//! Headers of the PROXY protocol: protocol/src/fuzzing says what the input means and what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| chasqui_protocol::fuzzing::proxy(input));
