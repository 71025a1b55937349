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
//! | recent ones among them | [`MAX_RECENT`] for each claimed epoch, beside the row above |
//! | that cannot be punished | one a day |
//!
//! Epochs and days are those of the network at the time when the pair became known. They are not
//! the epochs that a message claims, but for recent pairs. Those claim one of the last
//! [`RECENT_EPOCHS`] epochs, the current or a later one. Whoever has old pairs of a key can use up
//! the other limits, and must not hide what a machine signs with this key now: kill switches and
//! pages act on findings. [`MAX_FURTHER`] bounds all findings beyond first pairs in one epoch, over
//! all validators, and as many again that have only the room of recent ones. Pairs that cannot be
//! punished take no room from those that can. Pairs that are not listed are counted. If they cannot
//! be punished, they are also counted in the finding of their day.
//!
//! Findings that are already stored count too, so a second run over the same messages lists no
//! more. The same limits apply to slashing operations that others made from such votes. Operations
//! in a block have as much room again. So an offence that the chain punished is listed even if
//! gossip was full of other pairs.

use super::Candidate;
use consensus::{Epoch, Network, Offence, Root, Slot, ValidatorIndex};
use evidence::{Finding, Punishable};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Limit on findings per validator, kind and epoch of the network.
pub const MAX_LISTED: usize = 64;
/// Limit on findings per validator and kind.
pub const MAX_IN_TOTAL: usize = 1_024;
/// Limit on findings beyond the first of their validator and kind, over all validators in one epoch
/// of the network. This many findings take 50 MB.
pub const MAX_FURTHER: usize = 16_384;
/// Limit on recent findings per validator, kind and claimed epoch, beside the other limits. All
/// claims of epochs after the next one count as one epoch.
pub const MAX_RECENT: usize = 2;
/// A pair is recent if the later epoch that it claims is at most this many epochs ago.
const RECENT_EPOCHS: u64 = 2;
/// Limit on findings that cannot be punished, per validator, kind and day.
const MAX_WORTHLESS: usize = 1;
const SECONDS_PER_DAY: u64 = 86_400;
/// Limit on entries of each map and set in memory. When `listed` or `admitted` is full it is
/// cleared, and its entries are read again from the store. When `counted` is full it is written
/// before its slot is over.
const MAX_COUNTED: usize = 65_536;

#[derive(Default)]
pub struct Quota {
    now: NetworkTime,
    listed: HashMap<(ValidatorIndex, Offence), ListedFindings>,
    /// Ids of the findings that were given room. Each takes its room only once.
    admitted: HashSet<Root>,
    /// Number of findings beyond first pairs in this epoch, over all validators.
    n_further: usize,
    /// Number of findings in this epoch that only the room of recent ones admitted.
    n_recent: usize,
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

    /// The epoch as which a recent pair counts. `None` if the pair is not recent.
    fn recent(self, claimed: [Epoch; 2]) -> Option<Epoch> {
        let [one, two] = claimed;
        let later = one.max(two);
        if later.saturating_add(RECENT_EPOCHS) < self.epoch {
            return None;
        }
        Some(if later > self.epoch.saturating_add(1) { Epoch::FAR_FUTURE } else { later })
    }
}

/// The findings that are listed for one validator and kind.
#[derive(Debug, Default)]
pub struct ListedFindings {
    /// Number of findings that can be punished.
    in_total: usize,
    /// The time of the latest update of the counts below.
    latest: NetworkTime,
    /// Number of findings in the epoch of `latest` that can be punished.
    in_epoch: usize,
    /// Number of recent findings that can be punished, by the epoch as which they count. There are
    /// few epochs, because [`Self::turn_to`] forgets those that are over.
    recent: BTreeMap<Epoch, usize>,
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
pub enum SeenIn {
    Messages,
    /// From an operation in a block.
    InBlock,
}

/// The quota's answer for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaAnswer {
    /// The pair has a finding, or it is given one.
    Listed,
    /// The pair is only counted. If it cannot be punished, this is the id of the finding that
    /// stands for it.
    Counted(Option<Root>),
}

impl Quota {
    /// Sets the current time. It is called before the pairs of a batch are asked about.
    pub fn turn_to(&mut self, slot: Slot, network: &Network) {
        let now = NetworkTime::of(slot, network);
        if now.epoch != self.now.epoch {
            (self.n_further, self.n_recent) = (0, 0);
        }
        self.now = now;
    }

    /// Whether the pair was already given room.
    pub fn is_admitted(&self, id: Root) -> bool {
        self.admitted.contains(&id)
    }

    /// Returns an empty count if the stored findings of this validator and kind must be counted
    /// before [`Self::ask`]. The caller adds them ([`ListedFindings::add_stored`]) and gives the
    /// count back ([`Self::set_listed`]).
    pub fn missing_count(&self, validator: ValidatorIndex, offence: Offence) -> Option<ListedFindings> {
        let is_known = self.listed.contains_key(&(validator, offence));
        (!is_known).then(|| ListedFindings { latest: self.now, ..ListedFindings::default() })
    }

    /// Takes over the count of the stored findings of a validator and kind.
    pub fn set_listed(&mut self, validator: ValidatorIndex, offence: Offence, listed: ListedFindings) {
        if self.listed.len() >= MAX_COUNTED {
            self.listed.clear();
        }
        self.listed.insert((validator, offence), listed);
    }

    /// Decides whether a pair is listed that is neither admitted nor stored yet. `id` is the id
    /// that its finding would have. `worthless` means that it cannot be punished. The stored
    /// findings of its validator and kind must have been counted ([`Self::missing_count`]).
    pub fn ask(&mut self, candidate: &Candidate, id: Root, worthless: bool, seen: SeenIn) -> QuotaAnswer {
        if self.admitted.len() >= MAX_COUNTED {
            self.admitted.clear();
        }
        let listed = self.listed.entry((candidate.validator, candidate.offence)).or_default();
        listed.turn_to(self.now);
        let share = if seen == SeenIn::InBlock { 2 } else { 1 };
        let is_first = listed.in_total == 0 && !(worthless && listed.has_worthless);
        let has_room = if worthless {
            listed.worthless < MAX_WORTHLESS * share
        } else {
            listed.in_epoch < MAX_LISTED * share && listed.in_total < MAX_IN_TOTAL * share
        };
        let recent = self.now.recent(candidate.epochs).filter(|_| !worthless);
        let is_admitted_with_others = has_room && self.n_further < MAX_FURTHER;
        let is_admitted_as_recent =
            recent.is_some_and(|epoch| listed.n_recent(epoch) < MAX_RECENT * share) && self.n_recent < MAX_FURTHER;
        if !is_first && !is_admitted_with_others && !is_admitted_as_recent {
            return QuotaAnswer::Counted(listed.stands_for_day.filter(|_| worthless));
        }
        listed.add(id, worthless, recent);
        match (is_first || worthless, is_admitted_with_others) {
            (true, _) => {}
            (false, true) => self.n_further += 1,
            (false, false) => self.n_recent += 1,
        }
        self.admitted.insert(id);
        QuotaAnswer::Listed
    }

    /// Returns for how many more pairs of a validator and kind a `Conflict` should be built.
    /// `recent` is the epoch as which they count ([`Self::recent`]). It does not read the store.
    pub fn room(&self, validator: ValidatorIndex, offence: Offence, worthless: bool, recent: Option<Epoch>) -> usize {
        let Some(listed) = self.listed.get(&(validator, offence)) else { return MAX_LISTED };
        let as_recent = recent.filter(|_| !worthless).map_or(0, |epoch| MAX_RECENT.saturating_sub(listed.n_recent(epoch)));
        match (listed.is_full(self.now, worthless), worthless) {
            (true, _) => as_recent,
            (false, true) => MAX_LISTED,
            (false, false) if listed.latest.epoch == self.now.epoch => MAX_LISTED - listed.in_epoch.min(MAX_LISTED),
            (false, false) => MAX_LISTED,
        }
    }

    /// The epoch as which a pair with these claimed epochs counts, if it is recent.
    pub fn recent(&self, claimed: [Epoch; 2]) -> Option<Epoch> {
        self.now.recent(claimed)
    }

    /// Returns whether further pairs of this validator and kind would only be counted, unless they
    /// are recent. It does not read the store.
    pub fn is_full(&self, validator: ValidatorIndex, offence: Offence) -> bool {
        self.listed.get(&(validator, offence)).is_some_and(|listed| listed.is_full(self.now, false))
    }

    /// Returns the finding that stands for pairs that cannot be punished and for which no
    /// `Conflict` was built.
    pub fn stands_for(&self, validator: ValidatorIndex, offence: Offence) -> Option<Root> {
        self.listed.get(&(validator, offence)).filter(|listed| listed.latest.day == self.now.day)?.stands_for_day
    }

    /// Adds `n` pairs that were counted and not listed.
    pub fn count(&mut self, stands_for: Root, n: u64) {
        *self.counted.entry(stands_for).or_default() += n;
    }

    /// Returns the counts to write to the store: once in each slot, and earlier if there are many.
    pub fn take_counted(&mut self, slot: Slot) -> HashMap<Root, u64> {
        if self.written == slot && self.counted.len() < MAX_COUNTED {
            return HashMap::new();
        }
        self.written = slot;
        self.take_all_counted()
    }

    /// Returns all counts that are not written yet, at the end of a source.
    pub fn take_all_counted(&mut self) -> HashMap<Root, u64> {
        std::mem::take(&mut self.counted)
    }
}

impl ListedFindings {
    /// Counts a stored finding.
    pub fn add_stored(&mut self, finding: &Finding, network: &Network) {
        let seen = finding.second_seen.unwrap_or(finding.first_seen);
        let moment = NetworkTime::of(network.slot_at(seen.as_unix_ns()), network);
        if finding.punishable.is_none_or(Punishable::is_possible) {
            self.in_total += 1;
            self.in_epoch += usize::from(moment.epoch == self.latest.epoch);
            let claimed = [finding.epoch, finding.slot.epoch(network.preset())];
            if let Some(epoch) = self.latest.recent(claimed) {
                *self.recent.entry(epoch).or_default() += 1;
            }
        } else {
            self.has_worthless = true;
            if moment.day == self.latest.day {
                self.worthless += 1;
                self.stands_for_day.get_or_insert(finding.id);
            }
        }
    }

    /// Whether further stored findings would change nothing.
    pub fn is_complete(&self) -> bool {
        self.in_total >= 2 * MAX_IN_TOTAL
    }

    fn turn_to(&mut self, now: NetworkTime) {
        if self.latest.epoch != now.epoch {
            self.in_epoch = 0;
            // The next epoch is another one, so later claims begin anew.
            self.recent.retain(|epoch, _| *epoch != Epoch::FAR_FUTURE && now.recent([*epoch; 2]).is_some());
        }
        if self.latest.day != now.day {
            (self.worthless, self.stands_for_day) = (0, None);
        }
        self.latest = now;
    }

    fn n_recent(&self, epoch: Epoch) -> usize {
        self.recent.get(&epoch).copied().unwrap_or_default()
    }

    fn is_full(&self, now: NetworkTime, worthless: bool) -> bool {
        if worthless {
            return self.latest.day == now.day && self.worthless >= MAX_WORTHLESS;
        }
        self.in_total >= MAX_IN_TOTAL || (self.latest.epoch == now.epoch && self.in_epoch >= MAX_LISTED)
    }

    fn add(&mut self, id: Root, worthless: bool, recent: Option<Epoch>) {
        if worthless {
            self.has_worthless = true;
            self.worthless += 1;
            self.stands_for_day.get_or_insert(id);
        } else {
            self.in_total += 1;
            self.in_epoch += 1;
            if let Some(epoch) = recent {
                *self.recent.entry(epoch).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{ForkName, Spec};
    use evidence::{Evidence, EvidenceKind, OffenceFacts, Time};
    use verify::{Arrival, SourceKind};

    const GENESIS: Root = Root::repeat_byte(9);
    /// Slots in an epoch of mainnet.
    const EPOCH: u64 = 32;
    /// Slots in a day of mainnet.
    const DAY: u64 = 7_200;

    fn network() -> Network {
        Network { spec: Spec::builtin("mainnet").unwrap(), genesis_time: 0, genesis_validators_root: GENESIS }
    }

    /// A quota, and the findings that are stored.
    struct Setup {
        quota: Quota,
        stored: Vec<Finding>,
        network: Network,
    }

    impl Setup {
        fn new() -> Self {
            Self { quota: Quota::default(), stored: Vec::new(), network: network() }
        }

        fn at(&mut self, slot: u64) -> &mut Self {
            self.quota.turn_to(Slot::new(slot), &self.network);
            self
        }

        fn ask(&mut self, candidate: &Candidate, worthless: bool, seen: SeenIn) -> QuotaAnswer {
            let Candidate { validator, offence, .. } = *candidate;
            let id = candidate.id(GENESIS);
            if self.quota.is_admitted(id) || self.stored.iter().any(|finding| finding.id == id) {
                return QuotaAnswer::Listed;
            }
            if let Some(mut listed) = self.quota.missing_count(validator, offence) {
                let is_of = |finding: &&Finding| {
                    finding.offence() == Some(offence) && finding.validator.as_ref().is_some_and(|one| one.index == validator)
                };
                self.stored.iter().filter(is_of).for_each(|finding| listed.add_stored(finding, &self.network));
                self.quota.set_listed(validator, offence, listed);
            }
            self.quota.ask(candidate, id, worthless, seen)
        }

        /// Returns how many of these pairs of a validator are listed.
        fn n_listed(&mut self, offence: Offence, validator: u64, pairs: std::ops::Range<u64>, worthless: bool) -> usize {
            let is_listed =
                |nth: &u64| self.ask(&pair(offence, validator, *nth), worthless, SeenIn::Messages) == QuotaAnswer::Listed;
            pairs.filter(is_listed).count()
        }

        fn record(&mut self, nth: u64, slot: u64, punishable: Punishable) -> Root {
            let candidate = pair(Offence::DoubleVote, 5, nth);
            let facts = OffenceFacts {
                genesis_validators_root: GENESIS,
                roots: candidate.roots,
                seen: [Time::from_unix_ns(self.network.slot_start_ns(Slot::new(slot))); 2],
                punishable,
                ..OffenceFacts::sample()
            };
            let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, nth.to_le_bytes().into(), ().into());
            self.stored.push(Finding::slashable(facts, &evidence));
            candidate.id(GENESIS)
        }
    }

    /// The `nth` pair of a validator. It claims an epoch that is long over in all tests.
    fn pair(offence: Offence, validator: u64, nth: u64) -> Candidate {
        claiming(offence, validator, nth, nth % 90)
    }

    /// The same, with the later of the two claimed epochs.
    fn claiming(offence: Offence, validator: u64, nth: u64, epoch: u64) -> Candidate {
        let mut root = Root::ZERO;
        root[..8].copy_from_slice(&nth.to_be_bytes());
        Candidate {
            offence,
            validator: ValidatorIndex::new(validator),
            roots: [Root::repeat_byte(0xff), root],
            epochs: [Epoch::new(0), Epoch::new(epoch)],
            arrivals: [Arrival { at: Time(0), source: SourceKind::Gossip }; 2],
        }
    }

    #[test]
    fn so_many_of_each_validator_kind_and_epoch_of_the_network_whatever_epoch_a_message_claims() {
        let mut setup = Setup::new();
        setup.at(100 * EPOCH);
        assert_eq!(setup.n_listed(Offence::DoubleVote, 5, 0..500, false), MAX_LISTED);
        assert_eq!(setup.n_listed(Offence::DoubleVote, 5, 0..500, false), MAX_LISTED, "each takes its room once");
        assert_eq!(setup.n_listed(Offence::SurroundVote, 5, 0..500, false), MAX_LISTED, "another kind has room of its own");
        assert_eq!(setup.n_listed(Offence::DoubleVote, 6, 0..500, false), MAX_LISTED);
        assert!(setup.quota.is_full(ValidatorIndex::new(5), Offence::DoubleVote));
        assert_eq!(setup.at(101 * EPOCH).n_listed(Offence::DoubleVote, 5, 500..900, false), MAX_LISTED);
        let in_total: usize = (102..200)
            .map(|epoch| setup.at(epoch * EPOCH).n_listed(Offence::DoubleVote, 5, epoch * 1000..epoch * 1000 + 100, false))
            .sum();
        assert_eq!(in_total, MAX_IN_TOTAL - 2 * MAX_LISTED);
        assert_eq!(setup.quota.room(ValidatorIndex::new(5), Offence::DoubleVote, false, None), 0);
        assert_eq!(setup.ask(&pair(Offence::DoubleVote, 5, 777_777), false, SeenIn::Messages), QuotaAnswer::Counted(None));
    }

    #[test]
    fn of_what_cannot_be_punished_one_a_day_is_listed_and_stands_for_the_others() {
        let mut setup = Setup::new();
        setup.at(10 * DAY);
        let (first, second) = (pair(Offence::DoubleVote, 5, 1), pair(Offence::DoubleVote, 5, 2));
        assert_eq!(setup.ask(&first, true, SeenIn::Messages), QuotaAnswer::Listed);
        assert_eq!(setup.ask(&second, true, SeenIn::Messages), QuotaAnswer::Counted(Some(first.id(GENESIS))));
        assert_eq!(setup.n_listed(Offence::SurroundVote, 5, 0..100, true), 1);
        assert_eq!(setup.ask(&second, true, SeenIn::InBlock), QuotaAnswer::Listed, "what a block carries has room of its own");
        assert_eq!(setup.at(10 * DAY + 500).n_listed(Offence::DoubleVote, 5, 10..100, true), 0);
        assert_eq!(setup.quota.stands_for(ValidatorIndex::new(5), Offence::DoubleVote), Some(first.id(GENESIS)));
        assert_eq!(setup.at(11 * DAY).n_listed(Offence::DoubleVote, 5, 10..100, true), 1);
    }

    #[test]
    fn what_is_stored_counts_so_a_second_run_lists_no_more() {
        let mut setup = Setup::new();
        for nth in 0..59 {
            setup.record(nth, 100 * EPOCH, Punishable::Yes);
        }
        setup.record(60, 99 * EPOCH, Punishable::Yes);
        assert_eq!(setup.at(100 * EPOCH).n_listed(Offence::DoubleVote, 5, 0..500, false), 60 + MAX_LISTED - 59);
        let mut setup = Setup::new();
        let id = setup.record(1, 10 * DAY, Punishable::Withdrawable);
        assert_eq!(
            setup.at(10 * DAY).ask(&pair(Offence::DoubleVote, 5, 2), true, SeenIn::Messages),
            QuotaAnswer::Counted(Some(id))
        );
        assert_eq!(setup.ask(&pair(Offence::DoubleVote, 5, 1), true, SeenIn::Messages), QuotaAnswer::Listed);
    }

    #[test]
    fn first_pairs_are_listed_of_everybody_and_all_others_together_are_bounded() {
        let mut setup = Setup::new();
        setup.at(100 * EPOCH);
        let n: usize = (0..400).map(|validator| setup.n_listed(Offence::DoubleVote, validator, 0..100, false)).sum();
        assert_eq!(n, MAX_FURTHER + 400);
        assert_eq!(setup.at(101 * EPOCH).n_listed(Offence::DoubleVote, 5, 500..600, false), MAX_LISTED);
    }

    /// A thief has thousands of old pairs of a key, and the operator's second machine signs now.
    #[test]
    fn old_pairs_hide_no_recent_one_and_recent_ones_are_bounded() {
        let of_key = |nth: u64, epoch: u64| claiming(Offence::DoubleVote, 5, 1_000_000 + nth, epoch);
        let mut setup = Setup::new();
        for epoch in 100..116 {
            setup.at(epoch * EPOCH).n_listed(Offence::DoubleVote, 5, epoch * 1000..epoch * 1000 + 100, false);
        }
        assert_eq!(
            setup.at(116 * EPOCH).ask(&pair(Offence::DoubleVote, 5, 116_000), false, SeenIn::Messages),
            QuotaAnswer::Counted(None)
        );
        let n_of = |setup: &mut Setup, first: u64, epoch: u64| {
            (first..first + 10)
                .filter(|nth| setup.ask(&of_key(*nth, epoch), false, SeenIn::Messages) == QuotaAnswer::Listed)
                .count()
        };
        let room = |setup: &Setup, epoch: u64| {
            let recent = setup.quota.recent([Epoch::new(0), Epoch::new(epoch)]);
            setup.quota.room(ValidatorIndex::new(5), Offence::DoubleVote, false, recent)
        };
        assert_eq!((room(&setup, 113), room(&setup, 114), room(&setup, 116)), (0, MAX_RECENT, MAX_RECENT));
        let listed: Vec<usize> =
            (0..).zip([113, 114, 116, 117, 118, 119, u64::MAX]).map(|(nth, epoch)| n_of(&mut setup, nth * 10, epoch)).collect();
        assert_eq!(listed, [0, MAX_RECENT, MAX_RECENT, MAX_RECENT, MAX_RECENT, 0, 0], "those that are far ahead share a place");
        assert_eq!(room(&setup, 116), 0);
        setup.at(117 * EPOCH);
        assert_eq!(
            (n_of(&mut setup, 100, 117), n_of(&mut setup, 200, 118)),
            (0, MAX_RECENT),
            "each claimed epoch has its room once"
        );
        // Many stolen keys use up in an epoch what all share.
        for validator in 1_000..1_300 {
            setup.n_listed(Offence::DoubleVote, validator, 0..100, false);
        }
        setup.n_listed(Offence::DoubleVote, 6, 0..1, false);
        assert_eq!(setup.ask(&pair(Offence::DoubleVote, 6, 1), false, SeenIn::Messages), QuotaAnswer::Counted(None));
        assert_eq!(setup.ask(&claiming(Offence::DoubleVote, 6, 2, 117), false, SeenIn::Messages), QuotaAnswer::Listed);
        // What nobody can be punished for has no room as a recent one.
        assert_eq!(setup.quota.room(ValidatorIndex::new(5), Offence::DoubleVote, true, Some(Epoch::new(117))), MAX_LISTED);
        assert_eq!(setup.ask(&of_key(300, 117), true, SeenIn::Messages), QuotaAnswer::Counted(None));
    }

    /// A validator cannot hide an offence that can be punished behind earlier ones that cannot.
    #[test]
    fn the_first_that_can_be_punished_is_listed_whatever_was_listed_before() {
        let mut setup = Setup::new();
        setup.at(100 * EPOCH);
        let early = ValidatorIndex::new(1_000);
        assert_eq!(setup.n_listed(Offence::DoubleVote, early.as_u64(), 0..1, true), 1);
        for validator in 0..400 {
            setup.n_listed(Offence::DoubleVote, validator, 0..100, false);
        }
        let used_up = setup.ask(&pair(Offence::DoubleVote, 0, 777_777), false, SeenIn::Messages);
        assert_eq!(used_up, QuotaAnswer::Counted(None), "nothing is left of what all share");
        assert_eq!(setup.n_listed(Offence::DoubleVote, early.as_u64(), 1..100, true), 0);
        assert_eq!(setup.n_listed(Offence::DoubleVote, early.as_u64(), 100..200, false), 1);
        // The same holds for findings that are already stored.
        let mut setup = Setup::new();
        for nth in 0..70 {
            setup.record(nth, 100 * EPOCH, Punishable::ForkExpired);
        }
        setup.at(100 * EPOCH);
        assert_eq!(setup.n_listed(Offence::DoubleVote, 5, 70..80, true), 0);
        assert_eq!(setup.n_listed(Offence::DoubleVote, 5, 100..200, false), MAX_LISTED);
        assert_eq!(setup.quota.room(ValidatorIndex::new(5), Offence::DoubleVote, false, None), 0);
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
