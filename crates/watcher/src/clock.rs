//! The wall clock, read at the edge only.

use std::time::{SystemTime, UNIX_EPOCH};
use verify::UnixNs;

/// Now; 0 if the machine's clock is before 1970.
pub fn now() -> UnixNs {
    UnixNs(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64))
}
