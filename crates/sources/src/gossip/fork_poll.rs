//! What other nodes say about forks that are not in our schedule.
//!
//! A node says which fork it follows in its status, and which one comes next in its record. If most
//! nodes name a fork that we do not know, this program or its configuration is too old, and the
//! operator must hear of it. One stranger must not be able to raise that alarm. So each prefix of
//! addresses has one voice, more than half of the voices must name the same fork, and a voice that
//! is not renewed expires.

use super::peer_book::Prefix;
use consensus::{Epoch, ForkDigest, ForkVersion};
use libp2p::PeerId;
use serde::Serialize;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Voices that are remembered. The one that was silent for longest gives its place to a new one.
const MAX_VOICES: usize = 2048;
/// Voices that must name the same fork, however few others there are.
const MIN_VOICES: usize = 3;
/// How long a voice counts. A status comes every few minutes, and records are found again.
const VOICE_LASTS: Duration = Duration::from_secs(30 * 60);

/// A fork that most nodes name and that is not in our schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AnnouncedFork {
    /// Most peers follow it already.
    InForce { digest: ForkDigest },
    /// Most nodes announce it.
    Ahead { version: ForkVersion, epoch: Epoch },
}

impl AnnouncedFork {
    /// What the operator is told.
    pub fn notice(&self) -> String {
        match self {
            Self::InForce { digest } => format!(
                "most peers follow a fork that is not in the schedule of this network (digest 0x{digest}): update slashwatch, or \
                 correct `network`; until then messages are not heard and offences are missed"
            ),
            Self::Ahead { version, epoch } => format!(
                "most nodes announce a fork at epoch {epoch} that is not in the schedule of this network (version 0x{}): update \
                 slashwatch before then; afterwards messages are not heard and offences are missed",
                hex::encode(version)
            ),
        }
    }
}

/// Whose opinion counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Voice {
    Prefix(Prefix),
    /// In a network of private addresses, where all nodes may have one prefix.
    Peer(PeerId),
}

impl Voice {
    pub(super) fn of(peer: PeerId, ip: Option<IpAddr>, by_peer: bool) -> Self {
        match ip {
            Some(ip) if !by_peer => Self::Prefix(Prefix::of(ip)),
            Some(_) | None => Self::Peer(peer),
        }
    }
}

/// The voices about the fork in force, and those about the next one.
#[derive(Debug, Default)]
pub(super) struct ForkVoices {
    in_force: Poll<ForkDigest>,
    ahead: Poll<(ForkVersion, Epoch)>,
}

impl ForkVoices {
    /// Takes what a status says. `unknown` is the digest if it is not of our schedule.
    pub(super) fn follows(&mut self, voice: Voice, unknown: Option<ForkDigest>, now: Instant) {
        self.in_force.says(voice, unknown, now);
    }

    /// Takes what the record of a node of our network says. `unknown` is the next fork if it is not
    /// of our schedule.
    pub(super) fn announces(&mut self, voice: Voice, unknown: Option<(ForkVersion, Epoch)>, now: Instant) {
        self.ahead.says(voice, unknown, now);
    }

    pub(super) fn follow(&self, digest: ForkDigest, now: Instant) -> bool {
        self.in_force.majority(now) == Some(digest)
    }

    /// The fork that most nodes name, if it is not in our schedule.
    pub(super) fn announced(&self, now: Instant) -> Option<AnnouncedFork> {
        let in_force = self.in_force.majority(now).map(|digest| AnnouncedFork::InForce { digest });
        in_force.or_else(|| self.ahead.majority(now).map(|(version, epoch)| AnnouncedFork::Ahead { version, epoch }))
    }
}

/// The last word of each voice: a fork that we do not know, or `None` for one that we know.
#[derive(Debug)]
struct Poll<T>(HashMap<Voice, (Option<T>, Instant)>);

impl<T> Default for Poll<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy + Eq + Hash> Poll<T> {
    fn says(&mut self, voice: Voice, unknown: Option<T>, now: Instant) {
        if self.0.len() >= MAX_VOICES
            && !self.0.contains_key(&voice)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(voice, _)| *voice)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(voice, (unknown, now));
    }

    fn majority(&self, now: Instant) -> Option<T> {
        let current = self.0.values().filter(|(_, at)| now.duration_since(*at) < VOICE_LASTS);
        let (mut n_voices, mut by_fork) = (0, HashMap::new());
        for (unknown, _) in current {
            n_voices += 1;
            if let Some(fork) = unknown {
                *by_fork.entry(*fork).or_insert(0usize) += 1;
            }
        }
        let (fork, n) = by_fork.into_iter().max_by_key(|(_, n)| *n)?;
        (n >= MIN_VOICES && 2 * n > n_voices).then_some(fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGE: ForkDigest = ForkDigest([9; 4]);

    fn voice(a: u8, d: u8) -> Voice {
        Voice::of(PeerId::random(), Some([9, 9, a, d].into()), false)
    }

    #[test]
    fn one_prefix_has_one_voice() {
        let (mut voices, now) = (ForkVoices::default(), Instant::now());
        for nth in 0..200 {
            voices.follows(voice(1, nth), Some(STRANGE), now);
            voices.announces(voice(1, nth), Some(([9; 4], Epoch::new(7))), now);
        }
        assert_eq!(voices.announced(now), None, "two hundred nodes of one prefix alone");
        for nth in 2..4 {
            voices.follows(voice(nth, 1), None, now);
        }
        voices.follows(voice(5, 1), Some(STRANGE), now);
        voices.follows(voice(6, 1), Some(STRANGE), now);
        assert_eq!(voices.announced(now), Some(AnnouncedFork::InForce { digest: STRANGE }), "three of five");
        voices.follows(voice(7, 1), None, now);
        assert_eq!(voices.announced(now), None, "three of six are no majority");
        voices.follows(voice(7, 2), Some(STRANGE), now);
        assert!(voices.follow(STRANGE, now), "the last word of a prefix counts");
        assert_eq!(voices.announced(now + VOICE_LASTS), None);
    }

    #[test]
    fn a_majority_names_one_fork() {
        let (mut voices, now) = (ForkVoices::default(), Instant::now());
        for nth in 0..20 {
            voices.announces(voice(nth, 1), Some(([nth; 4], Epoch::new(7))), now);
        }
        assert_eq!(voices.announced(now), None, "each invents another");
        for nth in 0..11 {
            voices.announces(voice(nth, 1), Some(([9; 4], Epoch::new(7))), now);
        }
        assert_eq!(voices.announced(now), Some(AnnouncedFork::Ahead { version: [9; 4], epoch: Epoch::new(7) }));
    }

    #[test]
    fn voices_are_bounded() {
        let (mut voices, now) = (ForkVoices::default(), Instant::now());
        for nth in 0..3 * MAX_VOICES as u32 {
            let ip = IpAddr::from((0x0900_0000 + (nth << 8)).to_be_bytes());
            voices.follows(Voice::of(PeerId::random(), Some(ip), false), Some(STRANGE), now + Duration::from_millis(nth.into()));
        }
        assert_eq!(voices.in_force.0.len(), MAX_VOICES);
    }
}
