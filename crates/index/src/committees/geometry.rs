//! How the active validators of an epoch are divided into slots and committees.
//!
//! A *position* is counted from the start of a slot. The committees of the slot follow one after
//! another, each in committee order. The source is `compute_committee` in phase0/beacon-chain.md:
//! committee n of N is `n_active * n / N .. n_active * (n + 1) / N`.

/// How the active validators of an epoch are divided into slots and committees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub n_active: u64,
    pub committees_per_slot: u64,
    pub slots_per_epoch: u64,
}

impl Geometry {
    fn boundary(&self, nth: u64) -> u32 {
        (self.n_active * nth / (self.committees_per_slot * self.slots_per_epoch)) as u32
    }

    /// The index at which a slot begins in the epoch's order.
    pub fn slot_start(&self, slot: u16) -> u32 {
        self.boundary(u64::from(slot) * self.committees_per_slot)
    }

    /// Number of seats in a slot.
    pub fn slot_len(&self, slot: u16) -> u32 {
        self.boundary((u64::from(slot) + 1) * self.committees_per_slot) - self.slot_start(slot)
    }

    /// Start and length of a committee within its slot.
    pub fn committee_span(&self, slot: u16, committee: u16) -> (u32, u32) {
        let nth = u64::from(slot) * self.committees_per_slot + u64::from(committee);
        let start = self.boundary(nth);
        (start - self.slot_start(slot), self.boundary(nth + 1) - start)
    }

    /// The committee that a position in a slot belongs to.
    pub fn committee_of(&self, slot: u16, position: u32) -> u16 {
        let at = self.slot_start(slot) + position;
        (self.nth_of(at) - u64::from(slot) * self.committees_per_slot) as u16
    }

    /// The committee that an index in the epoch's order belongs to. Committees are counted over the
    /// whole epoch.
    pub fn nth_of(&self, at: u32) -> u64 {
        // `boundary` rounds down, so this inverse is at most one too small.
        let mut nth = u64::from(at) * self.committees_per_slot * self.slots_per_epoch / self.n_active;
        while self.boundary(nth + 1) <= at {
            nth += 1;
        }
        nth
    }
}
