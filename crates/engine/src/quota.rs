//! How many findings are listed of one validator.
//!
//! Whoever signs n different votes for one target contradicts itself in n (n - 1) / 2 pairs, and each would cost two pairings and a row:
//! one key could buy hours of our time. So the quota is asked before anything is proven a second time:
//!
//! | pairs of one validator and kind | listed |
//! |---|---|
//! | the first | always: every offender has a finding in each kind that it committed |
//! | the first that can be punished | always, whatever was listed before that cannot be |
//! | that can be punished | [`MAX_LISTED`] in an epoch, [`MAX_IN_TOTAL`] in total |
//! | that cannot be punished | one a day |
//!
//! Epochs and days are those of the network when the pair became known, never those that a message claims. [`MAX_FURTHER`] bounds all that
//! is listed beyond first pairs in one epoch. Pairs that cannot be punished take no room from those
//! that can. Further pairs are counted; where they cannot be punished, also in the finding of their
//! day.
//!
//! What is stored already counts, so that a second run over the same messages lists no more. The same holds for slashing operations that
//! others made of such votes; those that a block carries have as much room again, so that what the chain punished is listed though
//! gossip was full of others.

use consensus::{Epoch, Network, Offence, Root, Slot, ValidatorIndex};
use detect::Candidate;
use evidence::{Kind, Punishable, Query, Store, StoreError};
use std::collections::{HashMap, HashSet};

/// Findings listed per validator, kind and epoch of the network.
pub const MAX_LISTED: usize = 64;
/// Findings listed per validator and kind.
pub const MAX_IN_TOTAL: usize = 1_024;
/// Findings beyond the first of their validator and kind, of all validators in one epoch of the network: 50 MB.
pub const MAX_FURTHER: usize = 16_384;
/// Findings listed per validator, kind and day that cannot be punished.
const MAX_WORTHLESS: usize = 1;
const SECONDS_PER_DAY: u64 = 86_400;
/// Validators and kinds counted at hand; then they are counted anew from the store.
const MAX_COUNTED: usize = 65_536;
/// Findings of the store that are read at once.
const PAGE: usize = 256;

type QuotaKey = (ValidatorIndex, Offence);

#[derive(Default)]
pub(crate) struct Quota {
    now: NetworkTime,
    listed: HashMap<QuotaKey, ListedFindings>,
    /// Pairs that were given room, by finding: each takes it once.
    admitted: HashSet<Root>,
    /// Of all validators in this epoch.
    n_further: usize,
    /// Pairs that were counted since they were last written down, by the finding that stands for them.
    counted: HashMap<Root, u64>,
    written: Slot,
}

/// The network's epoch and day.
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

/// What is listed of one validator and kind.
#[derive(Debug, Default)]
struct ListedFindings {
    /// That can be punished.
    in_total: usize,
    /// When the latest was.
    latest: NetworkTime,
    /// That can be punished, in that epoch.
    in_epoch: usize,
    /// Whether one is listed that cannot be punished, on whichever day.
    has_worthless: bool,
    /// That cannot be punished, on that day.
    worthless: usize,
    /// The first of these: it stands for those that are not listed.
    stands_for_day: Option<Root>,
}

/// How a pair became known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenIn {
    Messages,
    /// By an operation that a block carries.
    InBlock,
}

/// What becomes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaAnswer {
    /// It has a finding, or is to have one.
    Listed,
    /// It is counted. With the finding that stands for it, if it cannot be punished.
    Counted(Option<Root>),
}

impl Quota {
    /// Before the pairs of a batch are asked about.
    pub(crate) fn turn_to(&mut self, slot: Slot, network: &Network) {
        let now = NetworkTime::of(slot, network);
        if now.epoch != self.now.epoch {
            self.n_further = 0;
        }
        self.now = now;
    }

    /// Whether a pair is to be listed. `worthless`: it cannot be punished.
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
        self.n_further += usize::from(!is_first);
        self.admitted.insert(id);
        Ok(QuotaAnswer::Listed)
    }

    /// How many more pairs of a validator and kind are worth naming. Reads nothing.
    pub(crate) fn room(&self, validator: ValidatorIndex, offence: Offence, worthless: bool) -> usize {
        let Some(listed) = self.listed.get(&(validator, offence)) else { return MAX_LISTED };
        match (listed.is_full(self.now, worthless), worthless) {
            (true, _) => 0,
            (false, true) => MAX_LISTED,
            (false, false) if listed.latest.epoch == self.now.epoch => MAX_LISTED - listed.in_epoch.min(MAX_LISTED),
            (false, false) => MAX_LISTED,
        }
    }

    /// Whether further pairs of this validator and kind would only be counted, as far as is known without reading.
    pub(crate) fn is_full(&self, validator: ValidatorIndex, offence: Offence) -> bool {
        self.listed.get(&(validator, offence)).is_some_and(|listed| listed.is_full(self.now, false))
    }

    /// The finding that stands for pairs that were not named, if they cannot be punished.
    pub(crate) fn stands_for(&self, validator: ValidatorIndex, offence: Offence) -> Option<Root> {
        self.listed.get(&(validator, offence)).filter(|listed| listed.latest.day == self.now.day)?.stands_for_day
    }

    /// A number of pairs was counted and not listed.
    pub(crate) fn count(&mut self, stands_for: Root, n: u64) {
        *self.counted.entry(stands_for).or_default() += n;
    }

    /// What is to be written down, once a slot and when it is much.
    pub(crate) fn take_counted(&mut self, slot: Slot) -> HashMap<Root, u64> {
        if self.written == slot && self.counted.len() < MAX_COUNTED {
            return HashMap::new();
        }
        self.written = slot;
        self.take_all_counted()
    }

    /// The same at the end.
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
    /// What the store has.
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
    /// Slots of mainnet.
    const EPOCH: u64 = 32;
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

        /// How many of so many pairs of a validator are listed.
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

    /// The `nth` pair of a validator. Each claims another epoch.
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

    /// Whoever first commits what cannot be punished must not hide behind it what can.
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
        // The same of what is stored.
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
