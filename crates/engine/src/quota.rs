//! Limits how many findings are listed for one validator.
//!
//! A validator that signs n different votes for one target contradicts itself in n (n - 1) / 2
//! pairs. Each pair would cost two pairings and a row, so one key could cost hours of computing
//! time. Therefore the quota is asked before a pair is proven a second time:
//!
//! | pairs of one validator and kind | listed |
//! |---|---|
//! | the first | always: every offender has a finding in each kind that it committed |
//! | the first that can be punished | always, even if others that cannot be punished came before |
//! | that can be punished | [`MAX_LISTED`] in an epoch, [`MAX_IN_TOTAL`] in total |
//! | that cannot be punished | one a day |
//!
//! Epochs and days are those of the network at the time when the pair became known. They are never
//! the epochs that a message claims. [`MAX_FURTHER`] bounds all findings beyond first pairs in one
//! epoch, over all validators. Pairs that cannot be punished take no room from those that can.
//! Pairs that are not listed are counted. If they cannot be punished, they are also counted in the
//! finding of their day.
//!
//! Findings that are already stored count too, so a second run over the same messages lists no
//! more. The same limits apply to slashing operations that others made from such votes. Operations
//! in a block have as much room again. So an offence that the chain punished is listed even if
//! gossip was full of other pairs.

use consensus::{Epoch, Network, Offence, Root, Slot, ValidatorIndex};
use detect::Candidate;
use evidence::{Kind, Punishable, Query, Store, StoreError};
use std::collections::{HashMap, HashSet};

/// Limit on findings per validator, kind and epoch of the network.
pub const MAX_LISTED: usize = 64;
/// Limit on findings per validator and kind.
pub const MAX_IN_TOTAL: usize = 1_024;
/// Limit on findings beyond the first of their validator and kind, over all validators in one epoch
/// of the network. This many findings take 50 MB.
pub const MAX_FURTHER: usize = 16_384;
/// Limit on findings that cannot be punished, per validator, kind and day.
const MAX_WORTHLESS: usize = 1;
const SECONDS_PER_DAY: u64 = 86_400;
/// Limit on entries of each map and set in memory. When `listed` or `admitted` is full it is
/// cleared, and its entries are read again from the store. When `counted` is full it is written
/// before its slot is over.
const MAX_COUNTED: usize = 65_536;
/// Number of findings that are read from the store at once.
const PAGE: usize = 256;

type QuotaKey = (ValidatorIndex, Offence);

#[derive(Default)]
pub(crate) struct Quota {
    now: NetworkTime,
    listed: HashMap<QuotaKey, ListedFindings>,
    /// Ids of the findings that were given room. Each takes its room only once.
    admitted: HashSet<Root>,
    /// Number of findings beyond first pairs in this epoch, over all validators.
    n_further: usize,
    /// Number of pairs that were counted since the counts were last written, by the id of the
    /// finding that stands for them.
    counted: HashMap<Root, u64>,
    written: Slot,
}

/// An epoch and a day of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NetworkTime {
    epoch: Epoch,
    day: u64,
}

impl NetworkTime {
    fn of(slot: Slot, network: &Network) -> Self {
        let since_genesis = u128::from(slot.as_u64()) * network.spec.slot_duration.as_nanos();
        let day = since_genesis / (u128::from(SECONDS_PER_DAY) * 1_000_000_000);
        Self { epoch: slot.epoch(network.preset()), day: u64::try_from(day).unwrap_or(u64::MAX) }
    }
}

/// The findings that are listed for one validator and kind.
#[derive(Debug, Default)]
struct ListedFindings {
    /// Number of findings that can be punished.
    in_total: usize,
    /// The time of the latest update of the counts below.
    latest: NetworkTime,
    /// Number of findings in the epoch of `latest` that can be punished.
    in_epoch: usize,
    /// Whether a finding that cannot be punished is listed, on any day.
    has_worthless: bool,
    /// Number of findings on the day of `latest` that cannot be punished.
    worthless: usize,
    /// The first finding of that day that cannot be punished. It stands for the pairs that are not
    /// listed.
    stands_for_day: Option<Root>,
}

/// How a pair became known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenIn {
    Messages,
    /// From an operation in a block.
    InBlock,
}

/// The quota's answer for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaAnswer {
    /// The pair has a finding, or it is given one.
    Listed,
    /// The pair is only counted. If it cannot be punished, this is the id of the finding that
    /// stands for it.
    Counted(Option<Root>),
}

impl Quota {
    /// Sets the current time. It is called before the pairs of a batch are asked about.
    pub(crate) fn turn_to(&mut self, slot: Slot, network: &Network) {
        let now = NetworkTime::of(slot, network);
        if now.epoch != self.now.epoch {
            self.n_further = 0;
        }
        self.now = now;
    }

    /// Decides whether a pair is listed. `worthless` means that it cannot be punished.
    pub(crate) fn ask(
        &mut self,
        candidate: &Candidate,
        worthless: bool,
        seen: SeenIn,
        network: &Network,
        store: &Store,
    ) -> Result<QuotaAnswer, StoreError> {
        let id = candidate.id(store.genesis_validators_root());
        if self.admitted.contains(&id) || store.is_known(id)? {
            return Ok(QuotaAnswer::Listed);
        }
        if self.admitted.len() >= MAX_COUNTED {
            self.admitted.clear();
        }
        let now = self.now;
        let n_further = self.n_further;
        let listed = self.listed((candidate.validator, candidate.offence), network, store)?;
        listed.turn_to(now);
        let share = if seen == SeenIn::InBlock { 2 } else { 1 };
        let is_first = listed.in_total == 0 && !(worthless && listed.has_worthless);
        let has_room = if worthless {
            listed.worthless < MAX_WORTHLESS * share
        } else {
            listed.in_epoch < MAX_LISTED * share && listed.in_total < MAX_IN_TOTAL * share
        };
        if !is_first && (!has_room || n_further >= MAX_FURTHER) {
            return Ok(QuotaAnswer::Counted(listed.stands_for_day.filter(|_| worthless)));
        }
        listed.add(id, worthless);
        self.n_further += usize::from(!is_first && !worthless);
        self.admitted.insert(id);
        Ok(QuotaAnswer::Listed)
    }

    /// Returns for how many more pairs of a validator and kind a `Conflict` should be built. It
    /// does not read the store.
    pub(crate) fn room(&self, validator: ValidatorIndex, offence: Offence, worthless: bool) -> usize {
        let Some(listed) = self.listed.get(&(validator, offence)) else { return MAX_LISTED };
        match (listed.is_full(self.now, worthless), worthless) {
            (true, _) => 0,
            (false, true) => MAX_LISTED,
            (false, false) if listed.latest.epoch == self.now.epoch => MAX_LISTED - listed.in_epoch.min(MAX_LISTED),
            (false, false) => MAX_LISTED,
        }
    }

    /// Returns whether further pairs of this validator and kind would only be counted. It does not
    /// read the store.
    pub(crate) fn is_full(&self, validator: ValidatorIndex, offence: Offence) -> bool {
        self.listed.get(&(validator, offence)).is_some_and(|listed| listed.is_full(self.now, false))
    }

    /// Returns the finding that stands for pairs that cannot be punished and for which no
    /// `Conflict` was built.
    pub(crate) fn stands_for(&self, validator: ValidatorIndex, offence: Offence) -> Option<Root> {
        self.listed.get(&(validator, offence)).filter(|listed| listed.latest.day == self.now.day)?.stands_for_day
    }

    /// Adds `n` pairs that were counted and not listed.
    pub(crate) fn count(&mut self, stands_for: Root, n: u64) {
        *self.counted.entry(stands_for).or_default() += n;
    }

    /// Returns the counts to write to the store: once in each slot, and earlier if there are many.
    pub(crate) fn take_counted(&mut self, slot: Slot) -> HashMap<Root, u64> {
        if self.written == slot && self.counted.len() < MAX_COUNTED {
            return HashMap::new();
        }
        self.written = slot;
        self.take_all_counted()
    }

    /// Returns all counts that are not written yet, at the end of a source.
    pub(crate) fn take_all_counted(&mut self) -> HashMap<Root, u64> {
        std::mem::take(&mut self.counted)
    }

    fn listed(&mut self, key: QuotaKey, network: &Network, store: &Store) -> Result<&mut ListedFindings, StoreError> {
        if self.listed.len() >= MAX_COUNTED && !self.listed.contains_key(&key) {
            self.listed.clear();
        }
        if !self.listed.contains_key(&key) {
            self.listed.insert(key, ListedFindings::stored(key, self.now, network, store)?);
        }
        Ok(self.listed.get_mut(&key).expect("inserted above"))
    }
}

impl ListedFindings {
    /// Counts the findings in the store.
    fn stored((validator, offence): QuotaKey, now: NetworkTime, network: &Network, store: &Store) -> Result<Self, StoreError> {
        let mut listed = Self { latest: now, ..Self::default() };
        let mut query = Query { validator: Some(validator), kind: Some(Kind::Offence(offence)), ..Query::default() };
        loop {
            let page = store.find(&query, PAGE)?;
            for (_, finding) in &page.findings {
                let seen = finding.second_seen.unwrap_or(finding.first_seen);
                let moment = NetworkTime::of(network.slot_at(seen.as_unix_ns()), network);
                if finding.punishable.is_none_or(Punishable::is_possible) {
                    listed.in_total += 1;
                    listed.in_epoch += usize::from(moment.epoch == now.epoch);
                } else {
                    listed.has_worthless = true;
                    if moment.day == now.day {
                        listed.worthless += 1;
                        listed.stands_for_day.get_or_insert(finding.id);
                    }
                }
            }
            match page.next {
                Some(next) if listed.in_total < 2 * MAX_IN_TOTAL => query.after = next,
                Some(_) | None => return Ok(listed),
            }
        }
    }

    fn turn_to(&mut self, now: NetworkTime) {
        if self.latest.epoch != now.epoch {
            self.in_epoch = 0;
        }
        if self.latest.day != now.day {
            (self.worthless, self.stands_for_day) = (0, None);
        }
        self.latest = now;
    }

    fn is_full(&self, now: NetworkTime, worthless: bool) -> bool {
        if worthless {
            return self.latest.day == now.day && self.worthless >= MAX_WORTHLESS;
        }
        self.in_total >= MAX_IN_TOTAL || (self.latest.epoch == now.epoch && self.in_epoch >= MAX_LISTED)
    }

    fn add(&mut self, id: Root, worthless: bool) {
        if worthless {
            self.has_worthless = true;
            self.worthless += 1;
            self.stands_for_day.get_or_insert(id);
        } else {
            self.in_total += 1;
            self.in_epoch += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{ForkName, Spec};
    use evidence::{Evidence, EvidenceKind, Finding, Slashable, Time};
    use std::sync::Arc;
    use verify::{Arrival, SourceKind, UnixNs};

    const GENESIS: Root = Root::repeat_byte(9);
    /// Slots in an epoch of mainnet.
    const EPOCH: u64 = 32;
    /// Slots in a day of mainnet.
    const DAY: u64 = 7_200;

    fn network() -> Network {
        Network { spec: Spec::builtin("mainnet").unwrap(), genesis_time: 0, genesis_validators_root: GENESIS }
    }

    struct Court {
        quota: Quota,
        store: Store,
        network: Network,
        _dir: tempfile::TempDir,
    }

    impl Court {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), GENESIS).unwrap();
            Self { quota: Quota::default(), store, network: network(), _dir: dir }
        }

        fn at(&mut self, slot: u64) -> &mut Self {
            self.quota.turn_to(Slot::new(slot), &self.network);
            self
        }

        fn ask(&mut self, candidate: &Candidate, worthless: bool, seen: SeenIn) -> QuotaAnswer {
            self.quota.ask(candidate, worthless, seen, &self.network, &self.store).unwrap()
        }

        /// Returns how many of these pairs of a validator are listed.
        fn n_listed(&mut self, offence: Offence, validator: u64, pairs: std::ops::Range<u64>, worthless: bool) -> usize {
            let is_listed =
                |nth: &u64| self.ask(&pair(offence, validator, *nth), worthless, SeenIn::Messages) == QuotaAnswer::Listed;
            pairs.filter(is_listed).count()
        }

        fn record(&self, nth: u64, slot: u64, punishable: Punishable) -> Root {
            let candidate = pair(Offence::DoubleVote, 5, nth);
            let facts = Slashable {
                genesis_validators_root: GENESIS,
                roots: candidate.roots,
                seen: [Time::from_unix_ns(self.network.slot_start_ns(Slot::new(slot))); 2],
                punishable,
                ..Slashable::sample()
            };
            let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, nth.to_le_bytes().into(), ().into());
            self.store.record(vec![(Finding::slashable(facts, &evidence), Arc::new(evidence))], &[]).unwrap();
            candidate.id(GENESIS)
        }
    }

    /// The `nth` pair of a validator. Each pair claims another epoch.
    fn pair(offence: Offence, validator: u64, nth: u64) -> Candidate {
        let mut root = Root::ZERO;
        root[..8].copy_from_slice(&nth.to_be_bytes());
        Candidate {
            offence,
            validator: ValidatorIndex::new(validator),
            roots: [Root::repeat_byte(0xff), root],
            epochs: [Epoch::new(0), Epoch::new(nth)],
            arrivals: [Arrival { at: UnixNs(0), source: SourceKind::Gossip }; 2],
        }
    }

    #[test]
    fn so_many_of_each_validator_kind_and_epoch_of_the_network_whatever_epoch_a_message_claims() {
        let mut court = Court::new();
        court.at(100 * EPOCH);
        assert_eq!(court.n_listed(Offence::DoubleVote, 5, 0..500, false), MAX_LISTED);
        assert_eq!(court.n_listed(Offence::DoubleVote, 5, 0..500, false), MAX_LISTED, "each takes its room once");
        assert_eq!(court.n_listed(Offence::SurroundVote, 5, 0..500, false), MAX_LISTED, "another kind has room of its own");
        assert_eq!(court.n_listed(Offence::DoubleVote, 6, 0..500, false), MAX_LISTED);
        assert!(court.quota.is_full(ValidatorIndex::new(5), Offence::DoubleVote));
        assert_eq!(court.at(101 * EPOCH).n_listed(Offence::DoubleVote, 5, 500..900, false), MAX_LISTED);
        let in_total: usize = (102..200)
            .map(|epoch| court.at(epoch * EPOCH).n_listed(Offence::DoubleVote, 5, epoch * 1000..epoch * 1000 + 100, false))
            .sum();
        assert_eq!(in_total, MAX_IN_TOTAL - 2 * MAX_LISTED);
        assert_eq!(court.quota.room(ValidatorIndex::new(5), Offence::DoubleVote, false), 0);
        assert_eq!(court.ask(&pair(Offence::DoubleVote, 5, 777_777), false, SeenIn::Messages), QuotaAnswer::Counted(None));
    }

    #[test]
    fn of_what_cannot_be_punished_one_a_day_is_listed_and_stands_for_the_others() {
        let mut court = Court::new();
        court.at(10 * DAY);
        let (first, second) = (pair(Offence::DoubleVote, 5, 1), pair(Offence::DoubleVote, 5, 2));
        assert_eq!(court.ask(&first, true, SeenIn::Messages), QuotaAnswer::Listed);
        assert_eq!(court.ask(&second, true, SeenIn::Messages), QuotaAnswer::Counted(Some(first.id(GENESIS))));
        assert_eq!(court.n_listed(Offence::SurroundVote, 5, 0..100, true), 1);
        assert_eq!(court.ask(&second, true, SeenIn::InBlock), QuotaAnswer::Listed, "what a block carries has room of its own");
        assert_eq!(court.at(10 * DAY + 500).n_listed(Offence::DoubleVote, 5, 10..100, true), 0);
        assert_eq!(court.quota.stands_for(ValidatorIndex::new(5), Offence::DoubleVote), Some(first.id(GENESIS)));
        assert_eq!(court.at(11 * DAY).n_listed(Offence::DoubleVote, 5, 10..100, true), 1);
    }

    #[test]
    fn what_is_stored_counts_so_a_second_run_lists_no_more() {
        let mut court = Court::new();
        for nth in 0..59 {
            court.record(nth, 100 * EPOCH, Punishable::Yes);
        }
        court.record(60, 99 * EPOCH, Punishable::Yes);
        assert_eq!(court.at(100 * EPOCH).n_listed(Offence::DoubleVote, 5, 0..500, false), 60 + MAX_LISTED - 59);
        let mut court = Court::new();
        let id = court.record(1, 10 * DAY, Punishable::Withdrawable);
        assert_eq!(
            court.at(10 * DAY).ask(&pair(Offence::DoubleVote, 5, 2), true, SeenIn::Messages),
            QuotaAnswer::Counted(Some(id))
        );
        assert_eq!(court.ask(&pair(Offence::DoubleVote, 5, 1), true, SeenIn::Messages), QuotaAnswer::Listed);
    }

    #[test]
    fn first_pairs_are_listed_of_everybody_and_all_others_together_are_bounded() {
        let mut court = Court::new();
        court.at(100 * EPOCH);
        let n: usize = (0..400).map(|validator| court.n_listed(Offence::DoubleVote, validator, 0..100, false)).sum();
        assert_eq!(n, MAX_FURTHER + 400);
        assert_eq!(court.at(101 * EPOCH).n_listed(Offence::DoubleVote, 5, 500..600, false), MAX_LISTED);
    }

    /// A validator cannot hide an offence that can be punished behind earlier ones that cannot.
    #[test]
    fn the_first_that_can_be_punished_is_listed_whatever_was_listed_before() {
        let mut court = Court::new();
        court.at(100 * EPOCH);
        let early = ValidatorIndex::new(1_000);
        assert_eq!(court.n_listed(Offence::DoubleVote, early.as_u64(), 0..1, true), 1);
        for validator in 0..400 {
            court.n_listed(Offence::DoubleVote, validator, 0..100, false);
        }
        let used_up = court.ask(&pair(Offence::DoubleVote, 0, 777_777), false, SeenIn::Messages);
        assert_eq!(used_up, QuotaAnswer::Counted(None), "nothing is left of what all share");
        assert_eq!(court.n_listed(Offence::DoubleVote, early.as_u64(), 1..100, true), 0);
        assert_eq!(court.n_listed(Offence::DoubleVote, early.as_u64(), 100..200, false), 1);
        // The same holds for findings that are already stored.
        let mut court = Court::new();
        for nth in 0..70 {
            court.record(nth, 100 * EPOCH, Punishable::ForkExpired);
        }
        court.at(100 * EPOCH);
        assert_eq!(court.n_listed(Offence::DoubleVote, 5, 70..80, true), 0);
        assert_eq!(court.n_listed(Offence::DoubleVote, 5, 100..200, false), MAX_LISTED);
        assert_eq!(court.quota.room(ValidatorIndex::new(5), Offence::DoubleVote, false), 0);
    }

    #[test]
    fn what_was_counted_is_written_once_a_slot() {
        let mut quota = Quota::default();
        quota.count(GENESIS, 3);
        quota.count(GENESIS, 2);
        assert_eq!(quota.take_counted(Slot::new(1)), HashMap::from([(GENESIS, 5)]));
        quota.count(GENESIS, 1);
        assert!(quota.take_counted(Slot::new(1)).is_empty());
        assert_eq!(quota.take_counted(Slot::new(2)), HashMap::from([(GENESIS, 1)]));
    }
}
