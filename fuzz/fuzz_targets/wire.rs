#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mqtt_agent::fuzzing::wire(data));
