//! The configuration of a simulated network, and which validators commit which offences when.
//!
//! A scenario is data. The same scenario gives the same bytes, whether it is played into a file or,
//! apart from the times of arrival, over sockets. What really happened is not derived from the
//! scenario: the [history](crate::ground_truth) records it as messages are sent. So an act that
//! found no opportunity is not an offence.

use crate::conditions::{Condition, Peers, TimedCondition, Wear};
use crate::error::SimError;
use crate::expected::Expected;
use crate::registry::RegistryPlan;
use crate::seeded_random::SeededRandom;
use consensus::{Epoch, ForkName, Preset, PresetName, Slot, ValidatorIndex};
use serde::Deserialize;
use std::time::Duration;

/// Greatest number of validators, a little more than mainnet's registry has.
const MAX_VALIDATORS: usize = 2_500_000;
/// Greatest number of slots. A longer run would take decades.
const MAX_SLOTS: u64 = 100_000_000;
/// Greatest number of nodes, because each has sockets and tasks in this process.
const MAX_NODES: usize = 64;
/// Number of keys that signed twice on 2 February 2021.
pub const STAKED_KEYS: usize = 75;

/// A kind of offence. Each chosen validator commits it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A second machine with the same key votes for the previous head, on the same subnet, near
    /// another node.
    DoubleVote,
    /// As `DoubleVote`, but the second vote is sent only as part of an aggregate.
    DoubleVoteInAggregate,
    /// As `DoubleVote`, but the second vote is sent only in a block's attestations.
    DoubleVoteInBlock,
    /// As `DoubleVote`, but the second vote is sent only in an attester slashing on its topic.
    DoubleVoteInOperation,
    /// As `DoubleVote`, but only a slasher receives the second vote. It becomes public with the
    /// slashing in a block. This needs [`Scenario::slashings_after`].
    DoubleVoteUnheard,
    /// Instead of an honest vote, the validator sends one with an older source than its previous
    /// vote, so that it surrounds that vote.
    Surround,
    /// As `Surround`, but the surrounded vote is held back. It arrives after the surrounding one,
    /// more than an epoch late.
    LateSurround,
    /// The second machine sends a second block for the same slot.
    DoubleProposal,
    /// The second block itself is never sent. Its signed header is sent in a data column. Fulu
    /// only.
    DoubleProposalInColumn,
    /// The second block itself is never sent. Its signed header is sent in a proposer slashing on
    /// its topic.
    DoubleProposalInOperation,
}

impl Deed {
    pub const ALL: [Self; 10] = [
        Self::DoubleVote,
        Self::DoubleVoteInAggregate,
        Self::DoubleVoteInBlock,
        Self::DoubleVoteInOperation,
        Self::DoubleVoteUnheard,
        Self::Surround,
        Self::LateSurround,
        Self::DoubleProposal,
        Self::DoubleProposalInColumn,
        Self::DoubleProposalInOperation,
    ];

    /// Whether proposers commit it, and not voters.
    pub fn is_proposal(self) -> bool {
        match self {
            Self::DoubleProposal | Self::DoubleProposalInColumn | Self::DoubleProposalInOperation => true,
            Self::DoubleVote
            | Self::DoubleVoteInAggregate
            | Self::DoubleVoteInBlock
            | Self::DoubleVoteInOperation
            | Self::DoubleVoteUnheard
            | Self::Surround
            | Self::LateSurround => false,
        }
    }
}

/// The validators that commit an offence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// These validators, each at its first opportunity.
    Validators(Vec<ValidatorIndex>),
    /// This many of the validators that have a duty when the act begins: voters in the order of
    /// their committees, or the next proposers.
    OnDuty(usize),
}

/// An offence together with the validators that commit it and its first slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub deed: Deed,
    pub who: Who,
    /// The first slot in which it may happen.
    pub from: Slot,
}

/// Messages in each slot that contain no offence. The vandal's node sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// Second votes and blocks in the names of other validators. Their signatures are either valid
    /// points by another key, or not points at all.
    pub forged: u64,
    /// Random bytes on random topics.
    pub junk: u64,
    /// Honest messages that are repeated unchanged.
    pub duplicates: u64,
    /// Honest messages that are repeated with a change in a field that no signature covers.
    pub altered: u64,
}

/// A network to simulate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The seed of the keys, the randao and every choice.
    pub seed: u64,
    pub preset: PresetName,
    /// The fork at genesis, from phase0 to Fulu.
    pub fork: ForkName,
    /// A fork during the run, with its epoch.
    pub next_fork: Option<(ForkName, Epoch)>,
    pub slot_duration: Duration,
    /// Number of slots that are played after genesis, from slot 1 on.
    pub slots: u64,
    pub n_validators: usize,
    /// Number of nodes. The last one is the vandal's, the one before is the second machine's, and
    /// those before are honest. With fewer than three nodes, roles share a node.
    pub n_nodes: usize,
    /// Live only: the time from start to genesis, in which watchers connect.
    pub genesis_delay: Duration,
    /// Live only: how long the first message waits until each node has a listener.
    pub patience: Duration,
    /// Percentage of slots without a block.
    pub missed_blocks_percent: u8,
    /// One operator's validators, for labels and watch lists. Their blocks have one client's
    /// graffiti.
    pub operator: Vec<ValidatorIndex>,
    pub acts: Vec<Act>,
    pub noise: Noise,
    /// Clients with their shares in percent, distributed at random over the validators. If empty,
    /// there are six clients, assigned to the validators in turn.
    pub clients: Vec<(String, u8)>,
    /// Percentage of validators whose blocks have a graffiti that names no client.
    pub custom_graffiti: u8,
    pub conditions: Vec<TimedCondition>,
    pub wear: Wear,
    /// `(n, epoch)`: the `n` validators with the highest indices become active in `epoch`.
    pub fresh: Option<(u64, Epoch)>,
    pub peers: Peers,
    /// Deposits, exits and requests in blocks, and a later state to begin with.
    pub registry: Option<RegistryPlan>,
    /// Number of slots after the second message of an offence until blocks begin to include its
    /// slashing. `None` means never.
    pub slashings_after: Option<u64>,
    /// The incidents that a watcher must report.
    pub incidents: Vec<Expected>,
    /// Kinds of incidents that a watcher may report as well, from the first onset in `incidents`
    /// on. They are consequences that are too small or too random to be required.
    pub may_follow: Vec<String>,
}

/// The clients of a scenario that names none.
const CLIENTS: [&str; 6] = ["lighthouse", "prysm", "teku", "nimbus", "lodestar", "grandine"];

impl Scenario {
    /// A network of honest validators only: Fulu, minimal preset, slots of 2 seconds.
    pub fn quiet(n_validators: usize) -> Self {
        Self {
            seed: 1,
            preset: PresetName::Minimal,
            fork: ForkName::Fulu,
            next_fork: None,
            slot_duration: Duration::from_secs(2),
            slots: 24,
            n_validators,
            n_nodes: 3,
            genesis_delay: Duration::from_secs(5),
            patience: Duration::from_secs(60),
            missed_blocks_percent: 0,
            operator: Vec::new(),
            acts: Vec::new(),
            noise: Noise::default(),
            clients: Vec::new(),
            custom_graffiti: 0,
            conditions: Vec::new(),
            wear: Wear::default(),
            fresh: None,
            peers: Peers::default(),
            registry: None,
            slashings_after: None,
            incidents: Vec::new(),
            may_follow: Vec::new(),
        }
    }

    /// The client that a validator runs.
    pub fn client_of(&self, validator: ValidatorIndex) -> &str {
        let index = validator.as_u64();
        if self.clients.is_empty() {
            return CLIENTS[(index % 6) as usize];
        }
        let lot = self.random().below(100, "client", &[index]);
        let mut sum = 0;
        for (client, percent) in &self.clients {
            sum += u64::from(*percent);
            if lot < sum {
                return client;
            }
        }
        "another"
    }

    /// The epoch in which a validator becomes active.
    pub fn activation_of(&self, validator: ValidatorIndex) -> Epoch {
        match self.fresh {
            Some((n, epoch)) if validator.as_u64() + n >= self.n_validators as u64 => epoch,
            _ => Epoch::new(0),
        }
    }

    /// The indices that are active in an epoch, in ascending order.
    pub(crate) fn active(&self, epoch: Epoch) -> Vec<u32> {
        let fresh = self.fresh.filter(|(_, from)| epoch < *from).map_or(0, |(n, _)| n as usize);
        (0..self.n_validators.saturating_sub(fresh) as u32).collect()
    }

    /// The incident of 2 February 2021: an operator's validator clients restart without their
    /// protection database, and one key after the other signs a second version of its vote,
    /// beginning in slot 4. With the minimal preset the last key does so by slot 15. In the
    /// meantime a vandal forges and repeats a few messages.
    pub fn staked(n_validators: usize, operator_keys: usize) -> Self {
        let first = n_validators / 4;
        let operator: Vec<ValidatorIndex> = (first..first + operator_keys).map(|i| ValidatorIndex::new(i as u64)).collect();
        Self {
            seed: 2021,
            acts: vec![Act { deed: Deed::DoubleVote, who: Who::Validators(operator.clone()), from: Slot::new(4) }],
            operator,
            noise: Noise { forged: 1, junk: 1, duplicates: 3, altered: 1 },
            ..Self::quiet(n_validators)
        }
    }

    /// Every kind of offence that the fork has, and every kind of noise, over seven epochs.
    pub fn every_crime(fork: ForkName, preset: PresetName, n_validators: usize) -> Self {
        let slots_per_epoch = Preset::by_name(preset).slots_per_epoch;
        let mut acts = Vec::new();
        for (n, deed) in Deed::ALL.into_iter().enumerate() {
            if deed == Deed::DoubleProposalInColumn && fork < ForkName::Fulu {
                continue;
            }
            let from = Slot::new(slots_per_epoch + n as u64);
            acts.push(Act { deed, who: Who::OnDuty(if deed.is_proposal() { 1 } else { 2 }), from });
        }
        Self {
            preset,
            fork,
            slots: 7 * slots_per_epoch,
            slashings_after: Some(2),
            missed_blocks_percent: 6,
            acts,
            noise: Noise { forged: 2, junk: 1, duplicates: 1, altered: 1 },
            ..Self::quiet(n_validators)
        }
    }

    /// The sizes of the preset.
    pub fn preset(&self) -> Preset {
        Preset::by_name(self.preset)
    }

    /// The epoch in which `fork` begins, or `None` if it does not happen.
    pub fn fork_epoch(&self, fork: ForkName) -> Option<Epoch> {
        match self.next_fork {
            _ if fork <= self.fork => Some(Epoch::new(0)),
            Some((next, epoch)) if fork <= next => Some(epoch),
            _ => None,
        }
    }

    /// Checks that the scenario can be played.
    pub fn check(&self) -> Result<(), SimError> {
        let wrong = |what, found: String, possible: String| Err(SimError::Scenario { what, found, possible });
        let least = self.preset().slots_per_epoch as usize;
        if self.n_validators < least || self.n_validators > MAX_VALIDATORS {
            return wrong("n_validators", self.n_validators.to_string(), format!("{least} (one per slot) to {MAX_VALIDATORS}"));
        }
        if self.slots == 0 || self.slots > MAX_SLOTS {
            return wrong("slots", self.slots.to_string(), format!("1 to {MAX_SLOTS}"));
        }
        if self.n_nodes == 0 || self.n_nodes > MAX_NODES {
            return wrong("n_nodes", self.n_nodes.to_string(), format!("1 to {MAX_NODES}"));
        }
        if self.slot_duration.as_millis() == 0 || !self.slot_duration.subsec_nanos().is_multiple_of(1_000_000) {
            return wrong("slot_duration", format!("{:?}", self.slot_duration), "whole milliseconds from 1 on".to_owned());
        }
        if self.fork > ForkName::Fulu {
            return wrong("fork", self.fork.to_string(), "phase0 to fulu".to_owned());
        }
        if let Some((next, epoch)) = self.next_fork
            && (next <= self.fork || next > ForkName::Fulu || epoch == Epoch::new(0))
        {
            return wrong("next_fork", format!("{next} at epoch {epoch}"), "a later one up to fulu, from epoch 1 on".to_owned());
        }
        for condition in &self.conditions {
            condition.check()?;
        }
        if self.clients.iter().map(|(_, percent)| u64::from(*percent)).sum::<u64>() > 100 {
            return wrong("clients", "more than 100 percent".to_owned(), "shares that add up to 100 or less".to_owned());
        }
        if let Some((n, _)) = self.fresh
            && n as usize + least > self.n_validators
        {
            return wrong("fresh", n.to_string(), format!("at most {}", self.n_validators - least));
        }
        if let Some(plan) = &self.registry {
            let alone = |one: &TimedCondition| !matches!(one.what, Condition::OtherBranch | Condition::ClockAhead(_));
            if plan.every == 0 || self.fresh.is_some() || !self.conditions.iter().all(alone) {
                return wrong(
                    "registry",
                    "not possible".to_owned(),
                    "one branch, no fresh validators, every 1 slot or more".to_owned(),
                );
            }
        }
        let named = self.acts.iter().filter_map(|act| match &act.who {
            Who::Validators(validators) => Some(validators),
            Who::OnDuty(_) => None,
        });
        let outside = |v: &&ValidatorIndex| v.as_u64() >= self.n_validators as u64;
        if let Some(stranger) = named.flatten().chain(&self.operator).find(outside) {
            return wrong("a validator", stranger.to_string(), format!("0 to {}", self.n_validators - 1));
        }
        Ok(())
    }

    pub(crate) fn random(&self) -> SeededRandom {
        SeededRandom::new(self.seed)
    }

    /// The node that sends an honest message of validator `of`.
    pub(crate) fn honest_node(&self, of: u64) -> usize {
        (of % (self.n_nodes.saturating_sub(2).max(1)) as u64) as usize
    }

    /// The node near the second machine.
    pub(crate) fn second_node(&self) -> usize {
        if self.n_nodes >= 3 { self.n_nodes - 2 } else { self.n_nodes - 1 }
    }

    /// The node that forges and repeats messages.
    pub(crate) fn vandal_node(&self) -> usize {
        self.n_nodes - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_played_is_refused() {
        let refused = |change: fn(&mut Scenario)| {
            let mut scenario = Scenario::staked(256, STAKED_KEYS);
            assert!(scenario.check().is_ok());
            change(&mut scenario);
            scenario.check().expect_err("refused").to_string()
        };
        assert!(refused(|s| s.n_validators = 7).contains("n_validators is 7, possible is 8 (one per slot)"));
        assert!(refused(|s| s.n_validators = 100).contains("a validator is 100"));
        assert!(refused(|s| s.slots = 0).contains("slots"));
        assert!(refused(|s| s.n_nodes = 0).contains("n_nodes"));
        assert!(refused(|s| s.slot_duration = Duration::from_micros(1)).contains("slot_duration"));
        assert!(refused(|s| s.fork = ForkName::Gloas).contains("fork is gloas"));
        assert!(refused(|s| s.next_fork = Some((ForkName::Electra, Epoch::new(3)))).contains("next_fork"));
    }

    #[test]
    fn roles_share_nodes_where_there_are_few() {
        let roles = |n_nodes| {
            let scenario = Scenario { n_nodes, ..Scenario::quiet(64) };
            (scenario.honest_node(5), scenario.second_node(), scenario.vandal_node())
        };
        assert_eq!(roles(1), (0, 0, 0));
        assert_eq!(roles(2), (0, 1, 1));
        assert_eq!(roles(3), (0, 1, 2));
        assert_eq!(roles(5), (2, 3, 4));
    }
}
