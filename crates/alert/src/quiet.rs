//! Quiet hours of a route: what is not severe waits for the morning.

use evidence::{Severity, Time};
use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// The hours, as configured in `quiet_hours` of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietHoursConfig {
    /// First minute, as `22:00`.
    pub from: String,
    /// The minute at which they end, as `07:00`. It may be on the next day.
    pub to: String,
    /// Name in the IANA time zone database, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Findings below this severity wait.
    #[serde(default = "critical")]
    pub below: Severity,
}

fn utc() -> String {
    "UTC".into()
}

fn critical() -> Severity {
    Severity::Critical
}

impl QuietHoursConfig {
    /// Reports what is wrong: the key, and a text that says what to do.
    pub fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        for (key, text) in [("quiet_hours.from", &self.from), ("quiet_hours.to", &self.to)] {
            if minute(text).is_none() {
                wrong(key, format!("{text:?} is not a time of the day such as \"22:00\""));
            }
        }
        if self.from == self.to {
            wrong("quiet_hours.to", "is the same as `from`, so that they never end".into());
        }
        if TimeZone::get(&self.timezone).is_err() {
            let text = format!(
                "{:?} is not in this system's time zone database; use a name such as \"Europe/Berlin\" or \"UTC\", and check that the package tzdata is installed",
                self.timezone
            );
            wrong("quiet_hours.timezone", text);
        }
        if self.below == Severity::Info {
            wrong("quiet_hours.below", "nothing is below `info`; choose `warning` or `critical`".into());
        }
    }

    /// `None` if there is a problem.
    pub(crate) fn open(&self) -> Option<QuietHours> {
        let (from, to) = (minute(&self.from)?, minute(&self.to)?);
        Some(QuietHours { from, to, timezone: TimeZone::get(&self.timezone).ok()?, below: self.below })
    }
}

fn minute(text: &str) -> Option<civil::Time> {
    let (hour, minute) = text.split_once(':')?;
    civil::Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

/// Quiet hours that are ready.
#[derive(Clone, Debug)]
pub(crate) struct QuietHours {
    from: civil::Time,
    to: civil::Time,
    timezone: TimeZone,
    pub(crate) below: Severity,
}

impl QuietHours {
    /// When the quiet hours end, if `now` is within them.
    pub(crate) fn ends_after(&self, now: Time) -> Option<Time> {
        let now = Timestamp::from_nanosecond(i128::from(now.as_unix_ns())).ok()?.to_zoned(self.timezone.clone());
        let (date, time) = (now.date(), now.time());
        let is_overnight = self.from > self.to;
        let is_quiet = if is_overnight { time >= self.from || time < self.to } else { time >= self.from && time < self.to };
        if !is_quiet {
            return None;
        }
        let last_day = if is_overnight && time >= self.from { date.tomorrow().ok()? } else { date };
        let end = last_day.to_datetime(self.to).to_zoned(self.timezone.clone()).ok()?;
        Some(Time::from_unix_ns(u64::try_from(end.timestamp().as_nanosecond()).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(from: &str, to: &str, timezone: &str) -> QuietHoursConfig {
        QuietHoursConfig { from: from.into(), to: to.into(), timezone: timezone.into(), below: Severity::Critical }
    }

    #[test]
    fn quiet_hours_end_in_the_morning_of_their_own_time_zone() {
        let night = hours("22:00", "07:00", "Europe/Berlin").open().unwrap();
        let ends = |now: &str| night.ends_after(now.parse().unwrap()).map(|end| end.to_string());
        let morning = Some("2026-11-30T06:00:00.000000000Z".to_owned());
        assert_eq!(ends("2026-11-29T21:00:00Z"), morning, "22:00 in winter");
        assert_eq!(ends("2026-11-30T05:59:59Z"), morning);
        assert_eq!(ends("2026-11-30T06:00:00Z"), None);
        assert_eq!(ends("2026-11-29T20:59:59Z"), None);
        assert_eq!(ends("2026-07-01T20:00:00Z"), Some("2026-07-02T05:00:00.000000000Z".to_owned()), "22:00 in summer");
        let noon = hours("12:00", "13:30", "UTC").open().unwrap();
        assert_eq!(noon.ends_after("2026-11-29T12:00:00Z".parse().unwrap()), "2026-11-29T13:30:00Z".parse().ok());
        assert_eq!(noon.ends_after("2026-11-29T13:30:00Z".parse().unwrap()), None);
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let mut told = Vec::new();
        let config = QuietHoursConfig { below: Severity::Info, ..hours("25:00", "25:00", "Mars/Olympus") };
        config.problems(&mut |key, _| told.push(key.to_owned()));
        let wanted = ["from", "to", "to", "timezone", "below"].map(|key| format!("quiet_hours.{key}"));
        assert_eq!(told, wanted);
        assert!(config.open().is_none());
    }
}
