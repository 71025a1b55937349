//! When each validator's last votes came, exactly.
//!
//! The index keeps one time per sum of signatures, that of its earliest message. A finding says when the offender's own two
//! messages arrived, so the last few votes of each validator are remembered here with their own times. What is no longer remembered (older, or from before a
//! restart) has the sum's time.
//!
//! Price: 16 bytes for each of [`VOTES`] votes, spread over the validators that vote: 34 MB.

use consensus::{Root, ValidatorIndex};
use evidence::{Finding, Time};
use index::Conflict;
use std::collections::BTreeSet;
use verify::{Heard, Signed, SourceKind, UnixNs, Vote};

/// Remembered in all, if there are fewer validators than half of it.
const VOTES: usize = 1 << 21;
const LEAST_PER_VALIDATOR: usize = 2;
const MOST_PER_VALIDATOR: usize = 16;

#[derive(Clone, Copy)]
struct Arrival {
    at: UnixNs,
    /// The first bytes of the data's root: among the few votes of one validator it tells them apart.
    tag: u32,
    source: SourceKind,
}

/// Rings of equal length, one per validator.
pub(crate) struct Arrivals {
    per_validator: usize,
    rows: Vec<Option<Arrival>>,
}

impl Arrivals {
    pub(crate) fn new(n_validators: usize) -> Self {
        let per_validator = (VOTES / n_validators.max(1)).clamp(LEAST_PER_VALIDATOR, MOST_PER_VALIDATOR);
        Self { per_validator, rows: Vec::new() }
    }

    /// Proven votes, before they are judged.
    pub(crate) fn note(&mut self, votes: &[Signed<Vote>]) {
        for vote in votes.iter().map(Signed::get) {
            // Ascending, and of the registry: it bounds what is made room for.
            let Some(last) = vote.indices.last().and_then(|last| usize::try_from(last.as_u64()).ok()) else { continue };
            let needed = (last + 1).saturating_mul(self.per_validator);
            if self.rows.len() < needed {
                self.rows.resize(needed, None);
            }
            let tag = tag(vote.data_root);
            for (validator, at) in vote.indices.iter().zip(&vote.arrivals) {
                self.note_one(*validator, Arrival { at: *at, tag, source: vote.heard.source });
            }
        }
    }

    /// Says of a finding when the offender's own messages came, and by which way.
    pub(crate) fn correct(&self, conflict: &Conflict, finding: &mut Finding) {
        let (validator, sides) = match conflict {
            Conflict::DoubleVote { validator, first, second } => (validator, [first, second]),
            Conflict::Surround { validator, surrounding, surrounded } => (validator, [surrounding, surrounded]),
            // One message each: what is stored is exact.
            Conflict::DoubleProposal { .. } => return,
        };
        let [one, other] = sides.map(|side| self.of(*validator, side.data_root).unwrap_or_else(|| stored(&side.heard)));
        finding.first_seen = Time::from_unix_ns(one.0.min(other.0).0);
        finding.second_seen = Some(Time::from_unix_ns(one.0.max(other.0).0));
        let sources: BTreeSet<&str> = [one.1.label(), other.1.label()].into();
        finding.sources = sources.into_iter().map(str::to_owned).collect();
    }

    /// The newest is the last of its ring. A vote that comes again came when it came first.
    fn note_one(&mut self, validator: ValidatorIndex, arrival: Arrival) {
        let Some(ring) = self.ring_mut(validator) else { return };
        match ring.iter_mut().flatten().find(|known| known.tag == arrival.tag) {
            Some(known) if arrival.at < known.at => *known = arrival,
            Some(_) => {}
            None => {
                ring.rotate_left(1);
                if let Some(last) = ring.last_mut() {
                    *last = Some(arrival);
                }
            }
        }
    }

    fn of(&self, validator: ValidatorIndex, data_root: Root) -> Option<(UnixNs, SourceKind)> {
        let tag = tag(data_root);
        let start = usize::try_from(validator.as_u64()).ok()?.checked_mul(self.per_validator)?;
        let ring = self.rows.get(start..start.checked_add(self.per_validator)?)?;
        ring.iter().flatten().find(|arrival| arrival.tag == tag).map(|arrival| (arrival.at, arrival.source))
    }

    fn ring_mut(&mut self, validator: ValidatorIndex) -> Option<&mut [Option<Arrival>]> {
        let start = usize::try_from(validator.as_u64()).ok()?.checked_mul(self.per_validator)?;
        self.rows.get_mut(start..start.checked_add(self.per_validator)?)
    }
}

fn tag(data_root: Root) -> u32 {
    let mut tag = [0u8; 4];
    tag.copy_from_slice(&data_root[..4]);
    u32::from_le_bytes(tag)
}

fn stored(heard: &Heard) -> (UnixNs, SourceKind) {
    (heard.at, heard.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(tag: u32, at: u64) -> Arrival {
        Arrival { at: UnixNs(at), tag, source: SourceKind::Gossip }
    }

    fn root(tag: u32) -> Root {
        let mut root = Root::ZERO;
        root[..4].copy_from_slice(&tag.to_le_bytes());
        root
    }

    #[test]
    fn the_last_votes_are_remembered_each_with_its_own_time() {
        let mut arrivals = Arrivals::new(2_000_000);
        arrivals.rows.resize(3 * arrivals.per_validator, None);
        let validator = ValidatorIndex::new(2);
        let at = |arrivals: &Arrivals, tag| arrivals.of(validator, root(tag)).map(|(at, _)| at.0);
        arrivals.note_one(validator, arrival(1, 10));
        arrivals.note_one(validator, arrival(2, 20));
        // Again, later and earlier.
        arrivals.note_one(validator, arrival(1, 30));
        arrivals.note_one(validator, arrival(2, 15));
        assert_eq!([1, 2].map(|tag| at(&arrivals, tag)), [Some(10), Some(15)]);
        arrivals.note_one(validator, arrival(3, 40));
        assert_eq!([1, 2, 3].map(|tag| at(&arrivals, tag)), [None, Some(15), Some(40)]);
        assert_eq!(arrivals.of(ValidatorIndex::new(1), root(3)), None);
        assert_eq!(arrivals.of(ValidatorIndex::MAX, root(3)), None);
        // Room for nobody who never voted.
        arrivals.note_one(ValidatorIndex::new(1 << 40), arrival(1, 1));
    }
}
