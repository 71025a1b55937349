//! Conditions of some validators for a while: clocks that are ahead, machines that stop, views that
//! do not advance, a wrong branch.
//!
//! Unlike a [`Deed`](crate::scenario::Deed), none of them is an offence by itself. Offences follow
//! from them as they did in reality. A validator whose clock is set back contradicts what it signed
//! ahead of time. A validator that leaves a wrongly justified branch surrounds its votes on that
//! branch.

use crate::error::SimError;
use crate::scenario::Scenario;
use crate::seeded_random::SeededRandom;
use consensus::{Slot, ValidatorIndex};
use serde::{Deserialize, Serialize};

/// A condition of a validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The validator sends no votes and no blocks.
    Offline,
    /// The validator sends no blocks. It votes as usual.
    NoBlocks,
    /// Its blocks are sent this many thousandths of a slot after the slot's start.
    LateBlocks(u64),
    /// Its votes are sent this many slots too early: they are for the committees of the later slot,
    /// with the current head. The validator sends no blocks.
    ClockAhead(u64),
    /// Its votes are for the head and target of this many slots ago.
    StaleView(u64),
    /// The validator follows the second branch. That branch begins when the first such condition
    /// begins, and all validators with this condition follow it.
    OtherBranch,
}

/// The validators with a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Everybody,
    /// `Range(first, n)`: `n` validators from index `first` on.
    Range(u64, u64),
    /// Validators that run this client.
    Client(String),
    /// This percentage of the validators that run this client.
    PartOfClient(String, u8),
    /// This percentage of all validators, chosen at random.
    Percent(u8),
    /// All validators except those that `Percent` with the same number chooses.
    AllButPercent(u8),
}

/// A condition of some validators for some slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimedCondition {
    pub what: Condition,
    pub who: Group,
    /// First slot in which the condition holds.
    pub from: u64,
    /// First slot in which the condition no longer holds.
    pub until: u64,
}

/// The probability of ordinary problems, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wear {
    /// Votes that are not cast.
    pub missed_votes: u8,
    /// Blocks that come after the votes of their slot.
    pub late_blocks: u8,
    /// Blocks that come late and on which the next proposer does not build.
    pub reorged_blocks: u8,
}

/// What peers report about themselves in a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peers {
    /// Number of connected peers. Their clients are distributed as those of the validators.
    pub n: u64,
    /// A time in which some of the peers report that they are behind.
    pub storm: Option<Storm>,
}

/// A time in which many peers are behind and have to sync. `percent` of the peers report a head
/// that is `behind` slots old, from slot `from` until slot `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    pub from: u64,
    pub until: u64,
    pub percent: u8,
    pub behind: u64,
    /// The percentage of those peers that send a goodbye, in each epoch.
    pub goodbyes: u8,
}

impl Group {
    pub(crate) fn has(&self, validator: ValidatorIndex, scenario: &Scenario) -> bool {
        let index = validator.as_u64();
        let lot = |question: &str| SeededRandom::new(scenario.seed).below(100, question, &[index]);
        match self {
            Self::Everybody => true,
            Self::Range(first, n) => index >= *first && index - first < *n,
            Self::Client(client) => scenario.client_of(validator) == client,
            Self::PartOfClient(client, percent) => {
                scenario.client_of(validator) == client && lot("part of a client") < u64::from(*percent)
            }
            Self::Percent(percent) => lot("a group by chance") < u64::from(*percent),
            Self::AllButPercent(percent) => lot("a group by chance") >= u64::from(*percent),
        }
    }
}

impl TimedCondition {
    pub(crate) fn holds(&self, slot: Slot, validator: ValidatorIndex, scenario: &Scenario) -> bool {
        (self.from..self.until).contains(&slot.as_u64()) && self.who.has(validator, scenario)
    }

    pub(crate) fn check(&self) -> Result<(), SimError> {
        let wrong = |found: String, possible: &str| {
            Err(SimError::Scenario { what: "one of the `circumstances`", found, possible: possible.to_owned() })
        };
        if self.from >= self.until {
            return wrong(format!("from {} until {}", self.from, self.until), "from before until");
        }
        match self.what {
            Condition::LateBlocks(thousandths) if thousandths >= 1000 => {
                wrong(format!("late by {thousandths} thousandths"), "below 1000: within the slot")
            }
            Condition::ClockAhead(0) | Condition::StaleView(0) => wrong("0 slots".to_owned(), "1 slot or more"),
            _ => Ok(()),
        }
    }
}
