//! The wall clock. Only the outermost code reads it; everything below gets the time as a parameter.

use std::time::{SystemTime, UNIX_EPOCH};
use verify::UnixNs;

/// Returns the current time in nanoseconds since 1970, or 0 if the machine's clock is set to a time
/// before 1970.
pub fn now() -> UnixNs {
    UnixNs(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64))
}
