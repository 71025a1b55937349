//! Which client made a block, concluded from the block's own shape, where its graffiti names none.
//!
//! Each client packs attestations in its own way: how many, in which order, and whether several may
//! have the same data. These ways are not written down here, because they change with releases.
//! They are learnt from the blocks of this network whose graffiti names the client, and old counts
//! fade.
//!
//! The [`Shape`] of a block is five features of its list of attestations, taken together:
//!
//! | feature | values |
//! |---|---|
//! | how many | none, 1, 2 to 4, 5 to 8, more |
//! | order by slot, by committee, by number of votes | each: flat, rising, falling, neither |
//! | two with the same data | yes, no |
//!
//! An order is flat if all values are equal or if there are fewer than two.
//!
//! **When a client is named.** At least [`MIN_NAMED`] blocks of this shape had a client's name in
//! the graffiti, and fewer than one in [`MIN_NAMED`] of them had another name. With 32 of 32 the
//! true share is above nine tenths (95 percent confidence). A shape that several clients make names
//! no client. A wrong name is worse than none. So the shape of a block is used for this block only;
//! it is used for its proposer only while neither the proposer's blocks nor those of its
//! credentials name a client.
//!
//! **Limits.** Clients whose blocks look alike are not distinguished. Operators who write no
//! graffiti, and run something that nobody else names, are not recognised. A plugin that packs
//! attestations for a client makes it look like another one, while most named blocks of that shape
//! have the names of the plugin's users. The table has a row per shape, fewer than 700.

use super::{ByClient, N_CLIENTS, UNKNOWN};
use consensus::{Attestation, SignedBlock};
use std::collections::{HashMap, HashSet};

/// Number of named blocks of a shape that are needed before it names a client.
pub const MIN_NAMED: u64 = 32;
/// All counts are halved when this number of named blocks was counted, because releases change
/// shapes.
const FADE_AFTER: u64 = 8_192;

/// The order of a sequence of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Run {
    /// All numbers are equal, or there are fewer than two.
    Flat,
    Rising,
    Falling,
    Neither,
}

impl Run {
    fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        let pairs = || values.clone().zip(values.clone().skip(1));
        match (pairs().any(|(a, b)| a < b), pairs().any(|(a, b)| a > b)) {
            (false, false) => Self::Flat,
            (true, false) => Self::Rising,
            (false, true) => Self::Falling,
            (true, true) => Self::Neither,
        }
    }
}

/// What a block's list of attestations looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    size: u8,
    by_slot: Run,
    by_committee: Run,
    by_votes: Run,
    repeats_data: bool,
}

impl Shape {
    /// The shape of a block's list of attestations.
    pub fn of(block: &SignedBlock) -> Self {
        let attestations = &block.attestations;
        let first_committee = |a: &Attestation| a.committees().first().map_or(0, |committee| committee.as_u64());
        let data: HashSet<_> = attestations.iter().map(|attestation| attestation.data).collect();
        Self {
            size: match attestations.len() {
                0 => 0,
                1 => 1,
                2..=4 => 2,
                5..=8 => 3,
                _ => 4,
            },
            by_slot: Run::of(attestations.iter().map(|a| a.data.slot.as_u64())),
            by_committee: Run::of(attestations.iter().map(first_committee)),
            by_votes: Run::of(attestations.iter().map(|a| a.aggregation_bits.num_set_bits() as u64)),
            repeats_data: data.len() < attestations.len(),
        }
    }
}

/// How often blocks of each shape named each client.
#[derive(Debug, Default)]
pub struct Fingerprints {
    named: HashMap<Shape, ByClient>,
    n: u64,
}

impl Fingerprints {
    /// Counts a block whose graffiti names its client.
    pub fn learn(&mut self, shape: Shape, client: usize) {
        if client == UNKNOWN || client >= N_CLIENTS {
            return;
        }
        self.named.entry(shape).or_default()[client] += 1;
        self.n += 1;
        if self.n >= FADE_AFTER {
            self.fade();
        }
    }

    /// The client that makes blocks of this shape; [`UNKNOWN`] unless it is nearly the only one.
    pub fn client_of(&self, shape: &Shape) -> usize {
        let Some(named) = self.named.get(shape) else { return UNKNOWN };
        let all: u64 = named.iter().sum();
        let (client, most) = named.iter().enumerate().max_by_key(|(_, n)| **n).unwrap_or((UNKNOWN, &0));
        if all >= MIN_NAMED && all - most < all / MIN_NAMED { client } else { UNKNOWN }
    }

    fn fade(&mut self) {
        self.named.values_mut().flatten().for_each(|n| *n /= 2);
        self.named.retain(|_, named| named.iter().any(|n| *n > 0));
        self.n = self.named.values().flatten().sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(by_votes: Run) -> Shape {
        Shape { size: 2, by_slot: Run::Flat, by_committee: Run::Neither, by_votes, repeats_data: false }
    }

    #[test]
    fn runs() {
        let run = |values: &[u64]| Run::of(values.iter().copied());
        assert_eq!((run(&[]), run(&[3]), run(&[3, 3])), (Run::Flat, Run::Flat, Run::Flat));
        assert_eq!((run(&[1, 1, 2]), run(&[2, 1, 1]), run(&[1, 2, 1])), (Run::Rising, Run::Falling, Run::Neither));
    }

    #[test]
    fn one_client_among_enough_names_and_no_other() {
        let mut known = Fingerprints::default();
        for n in 0..40 {
            let expected = if n >= 32 { 2 } else { UNKNOWN };
            assert_eq!(known.client_of(&shape(Run::Falling)), expected, "after {n}");
            known.learn(shape(Run::Falling), 2);
        }
        assert_eq!(known.client_of(&shape(Run::Rising)), UNKNOWN, "another shape");
        known.learn(shape(Run::Falling), 1);
        assert_eq!(known.client_of(&shape(Run::Falling)), UNKNOWN, "two clients make it: 1 in 41");
        (0..23).for_each(|_| known.learn(shape(Run::Falling), 2));
        assert_eq!(known.client_of(&shape(Run::Falling)), 2, "1 in 64");
        known.learn(shape(Run::Rising), UNKNOWN);
        assert!(!known.named.contains_key(&shape(Run::Rising)), "a block without a name teaches nothing");
    }

    #[test]
    fn what_was_learnt_fades() {
        let mut known = Fingerprints::default();
        known.learn(shape(Run::Rising), 1);
        (0..FADE_AFTER).for_each(|_| known.learn(shape(Run::Falling), 2));
        assert!(!known.named.contains_key(&shape(Run::Rising)));
        assert!(known.n <= FADE_AFTER / 2 + 1);
        assert_eq!(known.client_of(&shape(Run::Falling)), 2);
    }
}
