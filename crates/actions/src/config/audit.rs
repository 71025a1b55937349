//! The `audit` of a group: the files to which its clients export their signing records.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Shortest and longest time between two audits.
const EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Largest number of files of a group.
const MAX_FILES: usize = 64;

/// Files with the signing records of a group's clients, which are compared with what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// EIP-3076 files, one of each client. Together they are the record of the group.
    pub files: Vec<PathBuf>,
    #[serde(with = "humantime_serde", default = "default_interval")]
    pub every: Duration,
    /// A file that was not renewed for so many intervals is told.
    #[serde(default = "default_stale_after")]
    pub stale_after: u32,
    /// Whether the clients prune: messages that are older than the record are not told.
    #[serde(default)]
    pub pruned_ok: bool,
}

fn default_interval() -> Duration {
    Duration::from_secs(3600)
}

fn default_stale_after() -> u32 {
    3
}

impl AuditConfig {
    /// Tells `wrong` each problem. `at` makes the path of a key.
    pub(super) fn problems(&self, at: &dyn Fn(&str) -> String, wrong: &mut dyn FnMut(String, String)) {
        if self.files.is_empty() || self.files.len() > MAX_FILES {
            wrong(at(".files"), format!("give 1 to {MAX_FILES} files: those that the group's clients export to"));
        }
        if !EVERY.contains(&self.every) {
            wrong(at(".every"), "is not between 1s and 7days; use a value in this range".into());
        }
        if self.stale_after == 0 {
            wrong(at(".stale_after"), "must be at least 1, or every file would be too old".into());
        }
    }

    /// The age from which on a file is too old.
    pub fn stale_age(&self) -> Duration {
        self.every.saturating_mul(self.stale_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        let wrong = |text: &str| -> Vec<String> {
            let config: AuditConfig = toml::from_str(text).unwrap();
            let mut told = Vec::new();
            config.problems(&|key| key.to_owned(), &mut |key, _| told.push(key));
            told
        };
        assert_eq!(wrong("files = [\"a.json\"]"), [""; 0]);
        assert_eq!(wrong("files = []\nevery = \"0s\"\nstale_after = 0"), [".files", ".every", ".stale_after"]);
        assert_eq!(wrong("files = [\"a.json\"]\nevery = \"8days\""), [".every"]);
        assert!(toml::from_str::<AuditConfig>("files = [\"a.json\"]\nevry = \"1h\"").is_err(), "a wrong key is refused");
        let config: AuditConfig = toml::from_str("files = [\"a.json\"]").unwrap();
        assert_eq!(config.stale_age(), Duration::from_secs(3 * 3600));
    }
}
