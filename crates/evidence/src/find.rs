//! Reads findings by filter, in the order of recording or newest first.
//!
//! Each filter has a list of sequence numbers in the database (`by_validator`, `by_kind`,
//! `by_label`, `by_severity`, `by_slot`). A query walks these lists together. It asks each list for
//! its first number at or after the current number of another list. A number that all lists contain
//! is a match. So a query costs as much as its narrowest filter, and only findings that match are
//! read and parsed.
//!
//! Example: validator 7 has the numbers 3, 40 000 and 40 002. Critical findings have the numbers 1
//! to 39 999. Both lists contain 3. Then the second list has no number at or after 40 000, and the
//! query ends after three seeks.
//!
//! Slots are not recorded in order. So a range of slots is first read into a sorted list of at most
//! [`MAX_SLOT_ROWS`] numbers. A range with more findings is not read into a list. Its findings are
//! dense enough to be found by parsing.
//!
//! **Bounds.** One call makes at most [`MAX_SCANNED`] seeks and parses at most [`MAX_PARSED`]
//! findings that do not match. A page that ends because of these bounds says where to go on.

use crate::keys::{BY_KIND, BY_LABEL, BY_SEVERITY, BY_SLOT, BY_VALIDATOR, FINDINGS, Key};
use crate::kind::MAX_KIND_LEN;
use crate::{Audience, Finding, Kind, Severity, Store, StoreError, Time};
use consensus::{Slot, ValidatorIndex};
use rocksdb::{DBRawIteratorWithThreadMode, Direction, IteratorMode, Snapshot};
use std::collections::BTreeMap;

/// Limit on the numbers that one call to [`Store::find`] or [`Store::count_by_kind`] looks at. A
/// filter that matches little still answers soon, and gives a cursor.
pub const MAX_SCANNED: usize = 20_000;
/// Limit on the findings without a match that one call parses. Each takes about 10 us. Parsing is
/// needed only where a list cannot be used.
pub const MAX_PARSED: usize = 2_000;
/// Limit on the findings in a range of slots whose numbers are read into memory, at 8 bytes each.
const MAX_SLOT_ROWS: usize = 20_000;

/// How far beyond [`Query::to_slot`] the slot of a message may lie that [`Query::heard_before`]
/// includes: a day of mainnet's slots. Clocks that are wrong by more are not seen in practice.
const MAX_SLOTS_AHEAD: u64 = 7200;

/// The order in which findings are returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// The order of recording.
    #[default]
    OldestFirst,
    NewestFirst,
}

/// Which findings to read. All conditions that are given must hold. The default is all findings,
/// oldest first.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only findings that come after this number in the order of the query. 0 means from the start.
    pub after: u64,
    pub order: SortOrder,
    pub kind: Option<Kind>,
    pub validator: Option<ValidatorIndex>,
    pub severity: Option<Severity>,
    /// Only findings that have all of these labels, such as `operator=acme`. A label belongs to the
    /// validator or is named in the finding's details.
    pub labels: Vec<String>,
    /// The first slot, inclusive.
    pub from_slot: Option<Slot>,
    /// The last slot, inclusive.
    pub to_slot: Option<Slot>,
    /// Only findings of kinds that everybody may see.
    pub only_public: bool,
    /// With `to_slot`: also findings of later slots that were known before this time. Their
    /// signer's clock was ahead.
    pub heard_before: Option<Time>,
}

/// A page of findings, in the order of the query.
#[derive(Clone, Debug)]
pub struct Page {
    /// Sequence numbers and findings.
    pub findings: Vec<(u64, Finding)>,
    /// Where to go on, as the next query's `after`. `None` at the end. A page may be short or even
    /// empty although more findings follow. See [`MAX_SCANNED`].
    pub next: Option<u64>,
}

/// The number of findings of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    /// Kinds without findings are not listed.
    pub by_kind: BTreeMap<Kind, u64>,
    /// The highest severity among them. `None` if there are no findings.
    pub worst: Option<Severity>,
    /// Whether there are more findings than were counted.
    pub is_partial: bool,
}

impl Store {
    /// Returns findings that match, `limit` at most.
    pub fn find(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let mut findings = Vec::new();
        let next = self.walk(query, limit, |seq, finding, _| findings.push((seq, finding)))?;
        Ok(Page { findings, next })
    }

    /// Same as [`Self::find`], but each finding is the JSON as stored, which is the JSON of the
    /// contract. The second value says where to go on.
    pub fn find_json(&self, query: &Query, limit: usize) -> Result<(Vec<Vec<u8>>, Option<u64>), StoreError> {
        let mut rows = Vec::new();
        let next = self.walk(query, limit, |_, _, json| rows.push(json))?;
        Ok((rows, next))
    }

    /// Counts the findings that match and are more severe than `info`. It counts the newest `limit`
    /// findings of each severity.
    pub fn count_by_kind(&self, query: &Query, limit: usize) -> Result<KindCounts, StoreError> {
        let mut counts = KindCounts::default();
        for severity in [Severity::Critical, Severity::Warning] {
            let query = Query { severity: Some(severity), order: SortOrder::NewestFirst, ..query.clone() };
            let next = self.walk(&query, limit, |_, finding, _| {
                *counts.by_kind.entry(finding.kind).or_default() += 1;
                counts.worst = counts.worst.max(Some(severity));
            })?;
            counts.is_partial |= next.is_some();
        }
        Ok(counts)
    }

    /// Calls `found` with each match and its JSON. Returns where to go on.
    fn walk(&self, query: &Query, limit: usize, mut found: impl FnMut(u64, Finding, Vec<u8>)) -> Result<Option<u64>, StoreError> {
        let newest_first = query.order == SortOrder::NewestFirst;
        let start = match (query.order, query.after) {
            (SortOrder::NewestFirst, 0) => Some(u64::MAX),
            (SortOrder::NewestFirst, after) => Some(after - 1),
            (SortOrder::OldestFirst, after) => after.checked_add(1),
        };
        let Some(mut at) = start else { return Ok(None) };
        let moment = self.shared.db.snapshot();
        let mut lists = self.lists(&moment, query)?;
        let n_lists = lists.len();
        let (mut n_found, mut n_seeks, mut n_parsed, mut last) = (0, 0, 0, query.after);
        loop {
            // Moves all lists to `at` or beyond, until none of them moves it any further.
            let mut n_agree = 0;
            while n_agree < n_lists {
                for list in &mut lists {
                    let Some(seq) = list.seek(self, at, newest_first)? else { return Ok(None) };
                    n_agree = if seq == at { n_agree + 1 } else { 1 };
                    at = seq;
                    n_seeks += 1;
                    if n_agree == n_lists {
                        break;
                    }
                }
                if n_seeks >= MAX_SCANNED && n_agree < n_lists {
                    // No number between the last one that was decided and this one matches.
                    return Ok(Some(if newest_first { at.saturating_add(1) } else { at - 1 }));
                }
            }
            let json = moment.get_cf(&self.family(FINDINGS), Key::seq(at)).map_err(|source| self.read_error(source))?;
            let json = json.ok_or_else(|| self.damaged("a finding that is listed but has no content"))?;
            let finding = self.finding_from_json(at, &json)?;
            let is_match = query.matches(&finding);
            // Only a further match makes a further page. What does not match leaves no trace.
            if is_match && n_found == limit {
                return Ok(Some(last));
            }
            last = at;
            if is_match {
                found(at, finding, json);
                n_found += 1;
            } else {
                n_parsed += 1;
            }
            if n_seeks >= MAX_SCANNED || n_parsed >= MAX_PARSED {
                return Ok(Some(last));
            }
            let beyond = if newest_first { at.checked_sub(1) } else { at.checked_add(1) };
            match beyond {
                Some(beyond) => at = beyond,
                None => return Ok(None),
            }
        }
    }

    /// The numbers in `first..=last` of the findings of kinds that not everybody may see,
    /// ascending. No finding is read.
    pub fn numbers_of_private_kinds(&self, first: u64, last: u64) -> Result<Vec<u64>, StoreError> {
        let mut rows = self.shared.db.raw_iterator_cf(&self.family(BY_KIND));
        let mut numbers = Vec::new();
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let kind = key.get(..MAX_KIND_LEN).ok_or_else(|| self.damaged("the key of a finding's kind"))?.to_vec();
            let name = String::from_utf8_lossy(&kind);
            // A kind that this version does not know counts as private, as in `Kind::audience`.
            let is_public = Kind::known(name.trim_end_matches('\0')).is_some_and(|kind| kind.audience() == Audience::Public);
            if !is_public {
                rows.seek([&kind[..], &Key::seq(first)].concat());
                while let Some(key) = rows.key().filter(|key| key.starts_with(&kind)) {
                    let number = Key::trailing_seq(key).ok_or_else(|| self.damaged("the key of a finding's kind"))?;
                    if number > last {
                        break;
                    }
                    numbers.push(number);
                    rows.next();
                }
            }
            // To the next kind.
            rows.seek([&kind[..], &Key::seq(u64::MAX), &[0]].concat());
        }
        rows.status().map_err(|source| self.read_error(source))?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns the lists whose common numbers match. A database of an older format that is opened
    /// for reading may lack some lists. Then parsing decides what matches.
    fn lists<'a>(&'a self, moment: &'a Snapshot<'a>, query: &Query) -> Result<Vec<List<'a>>, StoreError> {
        let mut lists = Vec::new();
        let mut add = |family: &str, prefix: Vec<u8>| {
            if let Some(family) = self.family_if_there(family) {
                lists.push(List::Stored { rows: moment.raw_iterator_cf(&family), prefix });
            }
        };
        if let Some(validator) = query.validator {
            add(BY_VALIDATOR, Key::by_validator(validator, 0)[..8].to_vec());
        }
        for label in &query.labels {
            add(BY_LABEL, Key::by_label(label, 0)[..Key::LABEL_BYTES].to_vec());
        }
        if let Some(kind) = &query.kind {
            add(BY_KIND, Key::by_kind(kind, 0)[..MAX_KIND_LEN].to_vec());
        }
        if let Some(severity) = query.severity {
            add(BY_SEVERITY, Key::by_severity(severity, 0)[..1].to_vec());
        }
        if let Some(numbers) = self.numbers_in_slots(moment, query)? {
            lists.push(List::Read(numbers));
        }
        if lists.is_empty() {
            lists.push(List::Stored { rows: moment.raw_iterator_cf(&self.family(FINDINGS)), prefix: Vec::new() });
        }
        Ok(lists)
    }

    /// The number of findings of each slot in `first..=last` that has some, of all kinds. `None` if
    /// they are too many to count. No finding is read.
    pub fn count_by_slot(&self, first: Slot, last: Slot) -> Result<Option<BTreeMap<Slot, u64>>, StoreError> {
        let Some(family) = self.family_if_there(BY_SLOT) else { return Ok(None) };
        let mut counts = BTreeMap::new();
        let rows = self.shared.db.iterator_cf(&family, IteratorMode::From(&Key::by_slot(first, 0), Direction::Forward));
        for (nth, row) in rows.enumerate() {
            let (key, _) = row.map_err(|source| self.read_error(source))?;
            if *key > Key::by_slot(last, u64::MAX)[..] {
                break;
            }
            if nth == MAX_SLOT_ROWS {
                return Ok(None);
            }
            let slot = Key::slot_of(&key).ok_or_else(|| self.damaged("the key of a finding's slot"))?;
            *counts.entry(slot).or_default() += 1;
        }
        Ok(Some(counts))
    }

    /// Ascending numbers of the findings in the wanted slots. `None` if all slots are wanted, or if
    /// the range has too many findings.
    fn numbers_in_slots(&self, moment: &Snapshot<'_>, query: &Query) -> Result<Option<Vec<u64>>, StoreError> {
        let Some(family) = self.family_if_there(BY_SLOT).filter(|_| query.from_slot.is_some() || query.to_slot.is_some()) else {
            return Ok(None);
        };
        let ahead = if query.heard_before.is_some() { MAX_SLOTS_AHEAD } else { 0 };
        let first = query.from_slot.unwrap_or(Slot::new(0));
        let last = query.to_slot.map_or(Slot::MAX, |slot| slot.saturating_add(ahead));
        let end = Key::by_slot(last, u64::MAX);
        let mut numbers = Vec::new();
        for row in moment.iterator_cf(&family, IteratorMode::From(&Key::by_slot(first, 0), Direction::Forward)) {
            let (key, _) = row.map_err(|source| self.read_error(source))?;
            if *key > end[..] {
                break;
            }
            if numbers.len() == MAX_SLOT_ROWS {
                return Ok(None);
            }
            numbers.push(Key::trailing_seq(&key).ok_or_else(|| self.damaged("the key of a finding's slot"))?);
        }
        numbers.sort_unstable();
        Ok(Some(numbers))
    }
}

/// The ascending numbers of the findings that pass one filter.
enum List<'a> {
    /// Keys of a column family, which consist of the prefix and the number.
    Stored {
        rows: DBRawIteratorWithThreadMode<'a, rocksdb::DB>,
        prefix: Vec<u8>,
    },
    Read(Vec<u64>),
}

impl List<'_> {
    /// Returns the first number at or after `seq` in the order of the query.
    fn seek(&mut self, store: &Store, seq: u64, newest_first: bool) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Read(numbers) if newest_first => {
                Ok(numbers.partition_point(|number| *number <= seq).checked_sub(1).map(|nth| numbers[nth]))
            }
            Self::Read(numbers) => Ok(numbers.get(numbers.partition_point(|number| *number < seq)).copied()),
            Self::Stored { rows, prefix } => {
                let key = [&prefix[..], &Key::seq(seq)].concat();
                if newest_first {
                    rows.seek_for_prev(&key);
                } else {
                    rows.seek(&key);
                }
                rows.status().map_err(|source| store.read_error(source))?;
                let Some(key) = rows.key().filter(|key| key.starts_with(prefix)) else { return Ok(None) };
                Key::trailing_seq(key).map(Some).ok_or_else(|| store.damaged("the key of a finding"))
            }
        }
    }
}

impl Query {
    /// Whether the signer of a message after `to_slot` was ahead of the time at which it was known.
    fn has_early(&self, to_slot: Slot, finding: &Finding) -> bool {
        let known_at = finding.second_seen.unwrap_or(finding.first_seen);
        finding.slot <= to_slot.saturating_add(MAX_SLOTS_AHEAD) && self.heard_before.is_some_and(|time| known_at < time)
    }

    fn matches(&self, finding: &Finding) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == finding.kind)
            && (!self.only_public || finding.kind.audience() == Audience::Public)
            && self.validator.is_none_or(|wanted| finding.validator.as_ref().is_some_and(|subject| subject.index == wanted))
            && self.severity.is_none_or(|wanted| wanted == finding.severity)
            && self.labels.iter().all(|label| finding.has_label(label))
            && self.from_slot.is_none_or(|slot| slot <= finding.slot)
            && self.to_slot.is_none_or(|slot| finding.slot <= slot || self.has_early(slot, finding))
    }
}
