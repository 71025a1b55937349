//! A network of mainnet's size that is created in seconds: state, votes, aggregates and blocks,
//! together with offenders, forgers and vandals.
//!
//! A [`Scenario`] plays a story with every kind of offence, and a load plays mainnet's quantity.
//! The votes of a million validators are real, because with keys in arithmetic progression each
//! signature costs one addition ([`Keyring::sign_each`]). The committees come from the real
//! shuffling, and every block contains the votes of the previous slot.
//!
//! | in each slot | number at a million validators | when |
//! |---|---|---|
//! | block, with the previous slot's votes in one aggregate | 1 | 0.3 s |
//! | single votes, each on its subnet (the burst) | 31 250 | 4 s to 8 s, evenly |
//! | offenders' second votes, for the head's parent | as planned | after the first, up to 8.5 s |
//! | surrounders' pairs of votes for later epochs | as planned | as those |
//! | aggregates, 16 for each committee, each without a few members | 1 024 | 8 s to 9.5 s |
//! | forged votes and junk | as planned | during the burst |
//!
//! Messages of attackers who own keys are created by the module [`hostile`].
//!
//! A forged vote is the worst one that is cheap to create: its signature is a point of the group,
//! over the right data, but by another validator. Every second one is for other data, so that it
//! looks like the second half of a double vote. The state's `genesis_validators_root` is not the
//! root of its registry, and the state has no other information about the past. So no listener can
//! notice this.

mod aggregates;
mod capture;
mod crowd;
pub mod hostile;
mod noise;
mod offences;
mod publish;
mod slot;
mod state;
#[cfg(test)]
mod tests;

pub use capture::{LoadTruth, OFFENCES_FROM, PlantedCrime, write_load};
pub use crowd::{CrowdOptions, CrowdReport};
pub use publish::{PublishOptions, Published, publish_load};
pub use slot::LoadMessage;

use crate::error::SimError;
use crate::keys::Keyring;
use crate::scenario::{Noise, Scenario};
use crate::wire;
use blst::min_pk::PublicKey;
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, DomainType, Epoch, ForkName, Network, Preset, PresetName, Root, Shuffling, Slot,
    Spec, ValidatorIndex, compute_seed, sha256,
};
use std::sync::Arc;
use std::time::Duration;

/// Greatest number of registered validators, above the size of mainnet's registry.
const MAX_REGISTERED: usize = 4_000_000;
/// Greatest number of slots: one day of mainnet.
const MAX_SLOTS: u64 = 7200;
/// Greatest number of epochs before a load: five years.
const MAX_EPOCHS_BEFORE: u64 = 410_000;
/// Number of blocks that are kept. Nothing reads older ones.
const KEPT_BLOCKS: usize = 256;

/// The size and content of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// The seed of the keys, the randao and every choice.
    pub seed: u64,
    /// Number of validators that vote.
    pub n_active: usize,
    /// Number of validators with a key. Those that are not active have exited long ago.
    pub n_registered: usize,
    /// Number of epochs before the load, in which nothing happened.
    pub epochs_before: u64,
    /// Number of slots with messages. The first one is slot 1 after [`Self::epochs_before`].
    pub slots: u64,
    /// Number of exited validators that were slashed. They are those with the lowest indices.
    pub slashed: usize,
    /// Number of copies of each honest message, each from another peer.
    pub copies: u32,
    /// Number of forged votes for each 100 honest votes.
    pub forged_percent: u32,
    /// Number of peers that send the forged votes.
    pub n_forgers: u32,
    /// Number of junk messages for each 100 honest votes.
    pub junk_percent: u32,
    /// Number of validators that vote twice, each once. They begin in slot [`OFFENCES_FROM`] and
    /// are spread over the following slots.
    pub offenders: usize,
    /// Number of validators that sign two votes of which one surrounds the other, spread in the
    /// same way. These votes are up to two epochs ahead, and honest votes of the same validators
    /// would later contradict them. So surrounders are allowed only in loads of less than an epoch.
    pub surrounders: usize,
}

impl LoadPlan {
    /// A load of honest votes only, in which all of `n_validators` are active.
    pub fn quiet(n_validators: usize, slots: u64) -> Self {
        Self {
            seed: 1,
            n_active: n_validators,
            n_registered: n_validators,
            epochs_before: 0,
            slots,
            slashed: 0,
            copies: 1,
            forged_percent: 0,
            n_forgers: 4,
            junk_percent: 0,
            offenders: 0,
            surrounders: 0,
        }
    }

    /// The slot of the block on which the load builds.
    fn slot_before(&self) -> Slot {
        Epoch::new(self.epochs_before).start_slot(&Preset::MAINNET)
    }

    /// The slots with messages, in order.
    pub fn each_slot(&self) -> impl Iterator<Item = Slot> + use<> {
        let before = self.slot_before();
        (1..=self.slots).map(move |nth| before.saturating_add(nth))
    }

    fn check(&self) -> Result<(), SimError> {
        let wrong = |what, found: String, possible: String| Err(SimError::Scenario { what, found, possible });
        let least = Preset::MAINNET.slots_per_epoch as usize;
        if self.n_active < least || self.n_active > self.n_registered || self.n_registered > MAX_REGISTERED {
            let found = format!("{} of {}", self.n_active, self.n_registered);
            return wrong("the number of validators", found, format!("{least} (one per slot) to {MAX_REGISTERED}"));
        }
        if self.slots == 0 || self.slots > MAX_SLOTS {
            return wrong("slots", self.slots.to_string(), format!("1 to {MAX_SLOTS}"));
        }
        if self.epochs_before > MAX_EPOCHS_BEFORE {
            return wrong("epochs before", self.epochs_before.to_string(), format!("0 to {MAX_EPOCHS_BEFORE}"));
        }
        if self.copies == 0 || self.copies > 64 {
            return wrong("copies", self.copies.to_string(), "1 to 64".into());
        }
        if self.forged_percent > 1000 || self.junk_percent > 1000 || self.n_forgers == 0 {
            let found = format!("{} % forged by {}, {} % junk", self.forged_percent, self.n_forgers, self.junk_percent);
            return wrong("forged and junk", found, "0 to 1000 %, by at least one forger".into());
        }
        let voters = self.n_active as u64 / Preset::MAINNET.slots_per_epoch * self.slots.saturating_sub(OFFENCES_FROM - 1);
        for (what, n) in [("offenders", self.offenders), ("surrounders", self.surrounders)] {
            if n as u64 > voters {
                let possible = format!("0 to {voters}: those who vote in these slots from slot {OFFENCES_FROM} on");
                return wrong(what, n.to_string(), possible);
            }
        }
        if self.surrounders > 0 && self.slots >= Preset::MAINNET.slots_per_epoch {
            let possible = format!("fewer than {} with surrounders in the load", Preset::MAINNET.slots_per_epoch);
            return wrong("slots", self.slots.to_string(), possible);
        }
        Ok(())
    }

    /// The same network as a scenario, for its config.yaml and its randomness.
    fn scenario(&self) -> Scenario {
        Scenario {
            seed: self.seed,
            preset: PresetName::Mainnet,
            fork: ForkName::Fulu,
            slot_duration: Duration::from_secs(12),
            slots: self.slots,
            n_validators: self.n_active,
            noise: Noise::default(),
            ..Scenario::quiet(self.n_active)
        }
    }
}

/// A network under load. [`Load::play`] advances it by one slot.
pub struct Load {
    plan: LoadPlan,
    preset: Preset,
    network: Network,
    keys: Keyring,
    /// Indices of active validators, in ascending order.
    active: Arc<Vec<u32>>,
    genesis_mix: Root,
    /// In ascending order. First comes the parent of the block on which the load builds, if it has
    /// one, then that block. Only the last [`KEPT_BLOCKS`] are kept.
    blocks: Vec<(Slot, Root)>,
    /// The randao mix of each epoch. The last one still changes.
    mixes: Vec<Root>,
    /// The committees of the current epoch.
    shuffling: Arc<Shuffling>,
    /// The votes that the next block contains.
    votes_of_last_slot: Option<crate::containers::VotesByBits>,
    offenders_left: usize,
    surrounders_left: usize,
}

impl Load {
    /// Creates the network. `genesis_time` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// The plan cannot be played.
    pub fn new(plan: LoadPlan, genesis_time: u64) -> Result<Self, SimError> {
        plan.check()?;
        let scenario = plan.scenario();
        let preset = scenario.preset();
        let random = scenario.random();
        let spec = Spec::from_yaml(&crate::genesis::config_yaml(&scenario)).map_err(SimError::Config)?;
        let network = Network { spec, genesis_time, genesis_validators_root: Root::from(random.hash("registry", &[])) };
        let genesis_mix = Root::from(random.hash("eth1 block", &[]));
        let active = Arc::new(spread(plan.n_active, plan.n_registered));
        let first_root = state::first_block(&plan, &preset).root();
        let epoch = Epoch::new(plan.epochs_before);
        let seed = compute_seed(DomainType::BeaconAttester, epoch, genesis_mix);
        let mut blocks = vec![(plan.slot_before(), first_root)];
        if plan.epochs_before > 0 {
            blocks.insert(0, (Slot::new(0), state::parent_of_first(random)));
        }
        Ok(Self {
            shuffling: Arc::new(Shuffling::new(epoch, blocks[0].1, seed, active.clone(), &preset)),
            plan,
            preset,
            network,
            keys: Keyring::from_seed(plan.seed),
            active,
            genesis_mix,
            blocks,
            mixes: vec![genesis_mix],
            votes_of_last_slot: None,
            offenders_left: plan.offenders,
            surrounders_left: plan.surrounders,
        })
    }

    /// The network's `config.yaml`.
    pub fn config_yaml(&self) -> String {
        crate::genesis::config_yaml(&self.plan.scenario())
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn plan(&self) -> &LoadPlan {
        &self.plan
    }

    /// The slot and root of the newest block.
    pub fn head(&self) -> (Slot, Root) {
        self.blocks[self.blocks.len() - 1]
    }

    /// Indices of active validators, in ascending order.
    pub fn active(&self) -> &[u32] {
        &self.active
    }

    /// The public keys of all registered validators, in order. They are valid by construction.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.public_keys(self.plan.n_registered)
    }

    /// Enters a new epoch: continues the randao mix and computes the committees.
    fn record(&mut self, epoch: Epoch) {
        while (self.mixes.len() as u64) <= epoch.as_u64() {
            self.mixes.push(self.mixes[self.mixes.len() - 1]);
        }
        if self.shuffling.epoch() != epoch {
            let seed = compute_seed(DomainType::BeaconAttester, epoch, self.seed_mix(epoch));
            let decided_by = epoch.saturating_sub(1).start_slot(&self.preset);
            let decision = self.blocks.iter().rev().find(|(slot, _)| *slot < decided_by).unwrap_or(&self.blocks[0]).1;
            self.shuffling = Arc::new(Shuffling::new(epoch, decision, seed, self.active.clone(), &self.preset));
        }
    }

    /// The randao mix at the end of the epoch before the previous one, or at genesis for the first
    /// two epochs.
    fn seed_mix(&self, epoch: Epoch) -> Root {
        epoch.checked_sub(2).map_or(self.genesis_mix, |end| self.mixes[end.as_u64() as usize])
    }

    /// Adds a block: it becomes the head, and its reveal is mixed into the randao mix.
    fn extend(&mut self, slot: Slot, root: Root, randao_reveal: &[u8]) {
        self.blocks.push((slot, root));
        if self.blocks.len() > KEPT_BLOCKS {
            self.blocks.remove(0);
        }
        let epoch = slot.epoch(&self.preset).as_u64() as usize;
        for (byte, mask) in self.mixes[epoch].0.iter_mut().zip(sha256(randao_reveal)) {
            *byte ^= mask;
        }
    }

    /// The data that a validator signs that has received the chain up to the block `behind` blocks
    /// before the newest.
    fn data(&self, slot: Slot, behind: usize) -> AttestationData {
        let head_at = self.blocks.len().saturating_sub(1 + behind);
        let epoch = slot.epoch(&self.preset);
        let justified = if epoch < Epoch::new(3) { Epoch::new(0) } else { epoch.saturating_sub(1) };
        let boundary = |epoch: Epoch| {
            let start = epoch.start_slot(&self.preset);
            self.blocks[..=head_at].iter().rev().find(|(slot, _)| *slot <= start).unwrap_or(&self.blocks[0]).1
        };
        let justified_root = if justified == Epoch::new(0) { Root::ZERO } else { boundary(justified) };
        AttestationData {
            slot,
            index: CommitteeIndex::new(0),
            beacon_block_root: self.blocks[head_at].1,
            source: Checkpoint { epoch: justified, root: justified_root },
            target: Checkpoint { epoch, root: boundary(epoch) },
        }
    }

    fn signing_root(&self, root: Root, kind: DomainType, slot: Slot) -> Root {
        wire::root_to_sign(&self.network, root, kind, slot.epoch(&self.preset))
    }

    fn validator(index: u32) -> ValidatorIndex {
        ValidatorIndex::new(u64::from(index))
    }
}

/// Returns `n` numbers below `of`, spread as evenly as possible, so that exited validators are in
/// all parts of the registry.
fn spread(n: usize, of: usize) -> Vec<u32> {
    let share = |i: usize| (i as u64 * n as u64 / of as u64) as u32;
    (0..of).filter(|i| share(*i) != share(*i + 1)).map(|i| i as u32).collect()
}
