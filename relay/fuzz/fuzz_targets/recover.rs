//! Recovery of a spool: relay/src/spool/fuzzing says what the input means and what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| chasqui_relay::fuzz_recovery(input));
