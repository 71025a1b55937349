//! The wall clock. Only the outermost code reads it; everything below gets the time as a parameter.

use verify::Time;

/// Returns the current time, or 0 if the machine's clock is set to a time before 1970.
pub fn now() -> Time {
    Time::now()
}
