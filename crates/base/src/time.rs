//! Moments on the wall clock: when a message arrived, when a finding was recorded.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch. It is written as RFC 3339 in UTC, always with nine digits, so
/// texts sort like times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The current time of the machine, or 0 if its clock is set to a time before 1970. Only the
    /// outermost code asks for it. Everything else gets the time as a parameter.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    pub const fn from_unix_ns(unix_ns: u64) -> Self {
        Self(unix_ns)
    }

    pub const fn as_unix_ns(self) -> u64 {
        self.0
    }

    /// The time `later` after this one. It saturates.
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time that passed since `earlier`. It is zero if `earlier` is later, as after a clock was
    /// set back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Time {
    /// The time as RSS feeds and mails write it, to the second: `Tue, 01 Dec 2020 12:00:23 +0000`.
    pub fn rfc2822(self) -> String {
        let moment =
            jiff::Timestamp::from_nanosecond(i128::from(self.0)).expect("2^64 ns end in the year 2554, jiff's time in 9999");
        moment.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment =
            jiff::Timestamp::from_nanosecond(i128::from(self.0)).expect("2^64 ns end in the year 2554, jiff's time in 9999");
        write!(f, "{moment:.9}")
    }
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment: jiff::Timestamp =
            text.parse().map_err(|error: jiff::Error| format!("{text:?} is no RFC 3339 time: {error}"))?;
        u64::try_from(moment.as_nanosecond()).map(Self).map_err(|_| format!("{text:?} is not between 1970 and 2554"))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_digits_always_and_back() {
        for (unix_ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_606_824_023_000_000_001, "2020-12-01T12:00:23.000000001Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(Time::from_unix_ns(unix_ns).to_string(), text);
            assert_eq!(text.parse::<Time>().unwrap(), Time::from_unix_ns(unix_ns));
        }
        assert_eq!(Time::from_unix_ns(1_606_824_023_999_999_999).rfc2822(), "Tue, 01 Dec 2020 12:00:23 +0000");
        assert!("1969-12-31T23:59:59Z".parse::<Time>().is_err());
        assert!("yesterday".parse::<Time>().is_err());
    }
}
