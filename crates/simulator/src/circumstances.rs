//! What happens to some validators for a while: clocks that jump, machines that stop, views that stand still, a wrong branch.
//!
//! Unlike a [`Deed`](crate::scenario::Deed) none of it is an offence by itself; offences follow from it where they followed in
//! reality: clocks that come back contradict what they signed ahead, who leaves a wrongly justified branch surrounds its votes.

use crate::dice::Dice;
use crate::error::SimError;
use crate::scenario::Scenario;
use consensus::{Slot, ValidatorIndex};
use serde::{Deserialize, Serialize};

/// What is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No votes, no blocks.
    Offline,
    /// No blocks; votes as ever.
    NoBlocks,
    /// Blocks leave so many thousandths of a slot after its start.
    LateBlocks(u64),
    /// Everything is done so many slots too early: votes for the committees of then, as seen from the head of now.
    ClockAhead(u64),
    /// Votes for head and target as they stood so many slots ago.
    StaleView(u64),
    /// Follows a branch of its own, which begins at the first slot of the first circumstance of this sort and has all who ever
    /// follow it.
    OtherBranch,
}

/// Whom it happens to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Everybody,
    /// From this index on, so many.
    Range(u64, u64),
    /// Who runs this client.
    Client(String),
    /// So many percent of those who run this client.
    PartOfClient(String, u8),
    /// So many percent of all, picked by chance.
    Percent(u8),
    /// All but the first so many percent picked by the same chance.
    AllButPercent(u8),
}

/// Something that is so for some, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circumstance {
    pub what: Condition,
    pub who: Group,
    pub from: u64,
    /// First slot in which it is over.
    pub until: u64,
}

/// Chance of ordinary trouble, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wear {
    /// Votes that are not cast.
    pub missed_votes: u8,
    /// Blocks that come after the votes of their slot.
    pub late_blocks: u8,
    /// Blocks that come late and that the next proposer does not build on.
    pub reorged_blocks: u8,
}

/// What peers say of themselves in a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peers {
    /// Connected, by client as validators are.
    pub n: u64,
    /// From this slot on so many percent say that they are so many slots behind; until another.
    pub storm: Option<Storm>,
}

/// Many peers that have to catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    pub from: u64,
    pub until: u64,
    pub percent: u8,
    pub behind: u64,
    /// Of those behind, so many percent say goodbye each epoch.
    pub goodbyes: u8,
}

impl Group {
    pub(crate) fn has(&self, validator: ValidatorIndex, scenario: &Scenario) -> bool {
        let index = validator.as_u64();
        let lot = |question: &str| Dice::new(scenario.seed).below(100, question, &[index]);
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

impl Circumstance {
    pub(crate) fn holds(&self, slot: Slot, validator: ValidatorIndex, scenario: &Scenario) -> bool {
        (self.from..self.until).contains(&slot.as_u64()) && self.who.has(validator, scenario)
    }

    pub(crate) fn check(&self) -> Result<(), SimError> {
        let wrong = |found: String, possible: &str| {
            Err(SimError::Scenario { what: "a circumstance", found, possible: possible.to_owned() })
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
