//! What a simulated network looks like and who misbehaves when.
//!
//! A scenario is data: the same one gives the same bytes, whether played into a file or, apart from the arrival times, over
//! sockets. What really happened is not read off the scenario but written down by the [ledger](crate::ledger) as messages
//! leave, so an act that found no opportunity is no crime.

use crate::circumstances::{Circumstance, Peers, Wear};
use crate::dice::Dice;
use crate::error::SimError;
use crate::expected::Expected;
use consensus::{Epoch, ForkName, Preset, PresetName, Slot, ValidatorIndex};
use serde::Deserialize;
use std::time::Duration;

/// More validators than mainnet's registry are not simulated.
const MAX_VALIDATORS: usize = 2_500_000;
/// A longer run would be decades.
const MAX_SLOTS: u64 = 100_000_000;
/// Simulated nodes are sockets and tasks of this process.
const MAX_NODES: usize = 64;
/// Keys that signed twice on 2 February 2021.
pub const STAKED_KEYS: usize = 75;

/// One offence, done once by each of those who are to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A second machine with the same key votes for the previous head, on the same subnet, near another node.
    DoubleVote,
    /// As before, but the second vote is heard only as part of an aggregate.
    DoubleVoteInAggregate,
    /// As before, but the second vote is heard only in a block's attestations.
    DoubleVoteInBlock,
    /// As before, but the second vote is heard only in an attester slashing on its topic.
    DoubleVoteInOperation,
    /// As before, but only somebody's slasher hears the second vote: the public learns of it from a block's slashing. Needs
    /// [`Scenario::slashings_after`].
    DoubleVoteUnheard,
    /// In place of an honest vote, one whose source is older than that of the vote before, and so surrounds it.
    Surround,
    /// As before, but the surrounded vote is held back and arrives after the surrounding one, more than an epoch late.
    LateSurround,
    /// A second block for the same slot from the second machine.
    DoubleProposal,
    /// The second block itself is never heard; its signed header is, in a data column. Fulu only.
    DoubleProposalInColumn,
    /// The second block itself is never heard; its signed header is, in a proposer slashing on its topic.
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

    /// Done by proposers rather than by voters.
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

/// Who does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// These, each at its first opportunity.
    Validators(Vec<ValidatorIndex>),
    /// So many of those who have a duty when it begins: voters in the order of their committees, or the next proposers.
    OnDuty(usize),
}

/// A part in the play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub deed: Deed,
    pub who: Who,
    /// Not before this slot.
    pub from: Slot,
}

/// Messages per slot that accuse nobody, sent by a vandal's node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// Second votes and blocks in other people's names, with signatures that are points but not theirs, or no points.
    pub forged: u64,
    /// Random bytes on random topics.
    pub junk: u64,
    /// Honest messages once more, unchanged.
    pub duplicates: u64,
    /// Honest messages once more, a field changed that is not signed.
    pub altered: u64,
}

/// A network to simulate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Keys, randao and every choice follow from it.
    pub seed: u64,
    pub preset: PresetName,
    /// The fork at genesis, phase0 to Fulu.
    pub fork: ForkName,
    /// A fork during the run.
    pub next_fork: Option<(ForkName, Epoch)>,
    pub slot_duration: Duration,
    /// Slots played after genesis, slot 1 to this one.
    pub slots: u64,
    pub n_validators: usize,
    /// Nodes on the wire: the last is the vandal's, the one before the second machine's, those before are honest. With fewer
    /// than three, roles share a node.
    pub n_nodes: usize,
    /// Live only: from start to genesis, in which watchers connect.
    pub genesis_delay: Duration,
    /// Live only: how long the first message waits for somebody to listen to each node.
    pub patience: Duration,
    /// Percent of slots without a block.
    pub missed_blocks_percent: u8,
    /// One operator's keys, for labels and watch lists; their blocks bear one client's graffiti.
    pub operator: Vec<ValidatorIndex>,
    pub acts: Vec<Act>,
    pub noise: Noise,
    /// Clients and their share in percent, by chance over the validators. Empty: six clients, one validator each in turn.
    pub clients: Vec<(String, u8)>,
    /// Percent of validators whose blocks bear a text of their own, which names no client.
    pub custom_graffiti: u8,
    pub circumstances: Vec<Circumstance>,
    pub wear: Wear,
    /// The last so many validators become active in this epoch only.
    pub fresh: Option<(u64, Epoch)>,
    pub peers: Peers,
    /// So many slots after the second message blocks begin to include slashings; `None`: never.
    pub slashings_after: Option<u64>,
    /// What is to be said of it.
    pub incidents: Vec<Expected>,
    /// What may be said besides, from the first of these on: its consequences, too small or too much a matter of chance to be
    /// asked for.
    pub may_follow: Vec<String>,
}

/// Who runs what where a scenario does not say.
const CLIENTS: [&str; 6] = ["lighthouse", "prysm", "teku", "nimbus", "lodestar", "grandine"];

impl Scenario {
    /// Honest validators, nothing else: Fulu, minimal preset, 2-second slots.
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
            circumstances: Vec::new(),
            wear: Wear::default(),
            fresh: None,
            peers: Peers::default(),
            slashings_after: None,
            incidents: Vec::new(),
            may_follow: Vec::new(),
        }
    }

    /// The client a validator runs.
    pub fn client_of(&self, validator: ValidatorIndex) -> &str {
        let index = validator.as_u64();
        if self.clients.is_empty() {
            return CLIENTS[(index % 6) as usize];
        }
        let lot = self.dice().below(100, "client", &[index]);
        let mut sum = 0;
        for (client, percent) in &self.clients {
            sum += u64::from(*percent);
            if lot < sum {
                return client;
            }
        }
        "another"
    }

    /// When a validator becomes active.
    pub fn activation_of(&self, validator: ValidatorIndex) -> Epoch {
        match self.fresh {
            Some((n, epoch)) if validator.as_u64() + n >= self.n_validators as u64 => epoch,
            _ => Epoch::new(0),
        }
    }

    /// Indices active in an epoch, ascending.
    pub(crate) fn active(&self, epoch: Epoch) -> Vec<u32> {
        let fresh = self.fresh.filter(|(_, from)| epoch < *from).map_or(0, |(n, _)| n as usize);
        (0..self.n_validators.saturating_sub(fresh) as u32).collect()
    }

    /// 2 February 2021: an operator's validator clients restart without their protection database, and one key after the
    /// other signs a second version of its vote, beginning in slot 4; with the minimal preset the last is done by slot 15.
    /// A vandal forges and repeats a few messages meanwhile.
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

    /// Every deed that the fork knows, and every kind of noise, over seven epochs.
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

    /// Sizes by preset.
    pub fn preset(&self) -> Preset {
        Preset::by_name(self.preset)
    }

    /// The epoch in which `fork` begins; `None` if it does not happen.
    pub fn fork_epoch(&self, fork: ForkName) -> Option<Epoch> {
        match self.next_fork {
            _ if fork <= self.fork => Some(Epoch::new(0)),
            Some((next, epoch)) if fork <= next => Some(epoch),
            _ => None,
        }
    }

    /// Refuses what cannot be played.
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
        for circumstance in &self.circumstances {
            circumstance.check()?;
        }
        if self.clients.iter().map(|(_, percent)| u64::from(*percent)).sum::<u64>() > 100 {
            return wrong("clients", "more than 100 percent".to_owned(), "shares that add up to 100 or less".to_owned());
        }
        if let Some((n, _)) = self.fresh
            && n as usize + least > self.n_validators
        {
            return wrong("fresh", n.to_string(), format!("at most {}", self.n_validators - least));
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

    pub(crate) fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }

    /// The node that carries an honest message.
    pub(crate) fn honest_node(&self, of: u64) -> usize {
        (of % (self.n_nodes.saturating_sub(2).max(1)) as u64) as usize
    }

    /// The node near the second machine.
    pub(crate) fn second_node(&self) -> usize {
        if self.n_nodes >= 3 { self.n_nodes - 2 } else { self.n_nodes - 1 }
    }

    /// The node of those who forge and repeat.
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
