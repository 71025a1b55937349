//! The process's limit of open files, which every connection needs one of.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files beside connections of gossip and of the API: the databases have up to some hundred
/// tables open, alerts have connections of their own, and there are handshakes under way.
const OTHER_FILES: u64 = 1_500;

/// How many files may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileLimit {
    /// What holds now. `None`: any number.
    soft: Option<u64>,
    /// Up to here the process may raise it itself.
    hard: Option<u64>,
}

impl FileLimit {
    /// The limit to set for `needed` files, if the present one does not suffice, and whether that
    /// is enough.
    fn raised_for(self, needed: u64) -> (Option<u64>, bool) {
        match (self.soft, self.hard) {
            (None, _) => (None, true),
            (Some(soft), _) if soft >= needed => (None, true),
            (Some(soft), Some(hard)) if hard < needed => (Some(hard).filter(|hard| *hard > soft), false),
            (Some(_), _) => (Some(needed), true),
        }
    }
}

/// Raises the limit of open files as far as this many connections need it. If the system does not
/// allow as much, the log says so: connections beyond the limit would fail, and so would the
/// databases.
pub fn raise_for(connections: usize) {
    let needed = (connections as u64).saturating_add(OTHER_FILES);
    let found = getrlimit(Resource::Nofile);
    let (raised, is_enough) = FileLimit { soft: found.current, hard: found.maximum }.raised_for(needed);
    if let Some(raised) = raised {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: found.maximum }) {
            Ok(()) => tracing::debug!(raised, "the limit of open files is raised"),
            Err(error) => {
                tracing::warn!(%error, needed, "the limit of open files cannot be raised; raise it with ulimit -n or LimitNOFILE")
            }
        }
    }
    if !is_enough {
        tracing::warn!(
            needed,
            allowed = found.maximum,
            "gossip.max_peers and api.max_connections need more open files than the system allows; raise the limit (ulimit -Hn, LimitNOFILE) or have \
             fewer of them"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_is_needed_and_allowed() {
        let limit = |soft, hard| FileLimit { soft, hard };
        assert_eq!(limit(Some(4096), Some(4096)).raised_for(1700), (None, true));
        assert_eq!(limit(Some(1024), Some(1 << 20)).raised_for(3500), (Some(3500), true), "no more than is needed");
        assert_eq!(limit(Some(1024), None).raised_for(3500), (Some(3500), true));
        assert_eq!(limit(Some(1024), Some(2048)).raised_for(3500), (Some(2048), false));
        assert_eq!(limit(Some(1024), Some(1024)).raised_for(3500), (None, false));
        assert_eq!(limit(None, None).raised_for(u64::MAX), (None, true));
    }

    #[test]
    fn the_process_can_raise_its_own() {
        let found = getrlimit(Resource::Nofile);
        let Some(before) = found.current else { panic!("an unlimited number of files is not the case on any build machine") };
        raise_for(0);
        let after = getrlimit(Resource::Nofile);
        assert!(after.current >= Some(before.max(OTHER_FILES).min(found.maximum.unwrap_or(u64::MAX))), "{after:?}");
        assert_eq!(after.maximum, found.maximum);
    }
}
