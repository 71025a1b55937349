#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slashwatch_fuzz::capture(data));
