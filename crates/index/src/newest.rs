//! What a validator's two newest votes say about a new one.
//!
//! With both neighbours of a new vote among them, they decide (see the crate's documentation):
//!
//! ```text
//! newest (7,8), second (5,6)
//! (8,9): newer, 7 <= 8: joins      (7,8) same data: known           (3,5): older than both: ask
//! (6,9): 6 < 7: ask                (6,7): between, 5 <= 6 <= 7: joins
//! ```

use crate::summary::same_block;

/// No vote.
pub(crate) const NONE: u32 = u32::MAX;

/// One remembered vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub source: u32,
    pub target: u32,
    pub handle: u32,
}

impl Remembered {
    pub const NONE: Self = Self { source: 0, target: NONE, handle: 0 };

    pub fn exists(&self) -> bool {
        self.target != NONE
    }

    pub fn get(self) -> Option<Self> {
        self.exists().then_some(self)
    }
}

/// The two newest votes of a validator's chain, `newest.target > second.target`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    newest: Remembered,
    second: Remembered,
    has_exceptions: bool,
}

impl Head {
    pub fn new(newest: Remembered, second: Remembered, has_exceptions: bool) -> Self {
        Self { newest, second, has_exceptions }
    }

    #[inline]
    pub fn newest(&self) -> Remembered {
        self.newest
    }

    #[inline]
    pub fn second(&self) -> Remembered {
        self.second
    }

    /// The validator has an entry in `offenders`: votes outside its chain.
    #[inline]
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    #[inline]
    pub fn quick(&self, vote: Remembered) -> Quick {
        let (newest, second) = (self.newest(), self.second());
        if !newest.exists() {
            return self.joins(vote);
        }
        if vote.target >= newest.target {
            return match vote.target == newest.target {
                true if vote.handle == newest.handle => Quick::Same,
                false if vote.source >= newest.source => self.joins(vote),
                true | false => Quick::Ask,
            };
        }
        if !second.exists() {
            return if vote.source <= newest.source { self.joins(vote) } else { Quick::Ask };
        }
        if vote.target == second.target && vote.handle == second.handle {
            return Quick::Same;
        }
        if vote.target > second.target && second.source <= vote.source && vote.source <= newest.source {
            return self.joins(vote);
        }
        Quick::Ask
    }

    #[inline]
    fn joins(&self, vote: Remembered) -> Quick {
        Quick::Joins { first_of_block: !self.newest.exists() || !same_block(self.newest.target, vote.target) }
    }

    /// Reading the epochs from `tail_from` on gives this head.
    pub fn is_told_by(&self, tail_from: u32) -> bool {
        let told = |vote: Remembered| !vote.exists() || vote.target >= tail_from;
        told(self.newest) && told(self.second)
    }

    /// The newest and second vote once `vote` of the chain is taken in; `None` if it is not among the two newest.
    #[inline]
    pub fn with(&self, vote: Remembered) -> Option<[Remembered; 2]> {
        let is_newer = |than: Remembered| !than.exists() || vote.target > than.target;
        if is_newer(self.newest) {
            return Some([vote, self.newest]);
        }
        (vote.target < self.newest.target && is_newer(self.second)).then_some([self.newest, vote])
    }
}

/// What the two newest votes say about a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// It is one of them.
    Same,
    /// It fits the chain. `first_of_block`: the newest vote so far is not of the same smallest block of the summary.
    Joins { first_of_block: bool },
    /// It contradicts one, or is older than both, or the validator has votes outside its chain.
    Ask,
}
