//! Reading findings by filter, in the order of recording or newest first.
//!
//! Each filter is a list of sequence numbers in the database (`by_validator`, `by_kind`, `by_label`, `by_severity`, `by_slot`). A query
//! walks those lists together: each one is asked for its next number at or beyond the number that another one is at, and a number that all
//! of them have is a match. So a query costs what its narrowest filter costs, and only findings that match are read and parsed.
//!
//! Example: validator 7 has the numbers 3, 40 000 and 40 002; critical are 1 to 39 999. Both lists meet at 3; then the second has no number
//! at or beyond 40 000, and the query is over after three seeks.
//!
//! Slots are not recorded in order, so a range of slots is read into a sorted list first, [`MAX_SLOT_ROWS`] numbers at most. A range with
//! more findings in it is not read: its findings are dense enough to be found by parsing.
//!
//! **Bounds.** One call makes [`MAX_SCANNED`] seeks and parses [`MAX_PARSED`] findings that do not match; a page that ends because of
//! them says where to go on.

use crate::keys::{BY_KIND, BY_LABEL, BY_SEVERITY, BY_SLOT, BY_VALIDATOR, FINDINGS, Key};
use crate::kind::MAX_KIND_LEN;
use crate::{Finding, Kind, Severity, Store, StoreError};
use consensus::{Slot, ValidatorIndex};
use rocksdb::{DBRawIteratorWithThreadMode, Direction, IteratorMode, Snapshot};
use std::collections::BTreeMap;

/// Numbers that one call to [`Store::find`] or [`Store::count_by_kind`] looks at: a filter that matches little still answers soon, with a
/// cursor.
pub const MAX_SCANNED: usize = 20_000;
/// Findings without a match that one call parses, some 10 us each. Needed only where a list cannot be used.
pub const MAX_PARSED: usize = 2_000;
/// Findings in a range of slots whose numbers are read into memory, at 8 bytes each.
const MAX_SLOT_ROWS: usize = 20_000;

/// In which order findings come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In the order of recording.
    #[default]
    OldestFirst,
    NewestFirst,
}

/// Which findings to read. The default is all of them, oldest first; all that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only those that come behind this seq in the order asked for; 0: from the beginning of it.
    pub after: u64,
    pub order: Order,
    pub kind: Option<Kind>,
    pub validator: Option<ValidatorIndex>,
    pub severity: Option<Severity>,
    /// Each of these labels, as in `operator=acme`: of the validator, or in the finding's details.
    pub labels: Vec<String>,
    /// First slot wanted.
    pub from_slot: Option<Slot>,
    /// Last slot wanted.
    pub to_slot: Option<Slot>,
}

/// Some findings, in the order asked for.
#[derive(Clone, Debug)]
pub struct Page {
    pub findings: Vec<(u64, Finding)>,
    /// Where to go on, as the next query's `after`; `None` at the end. A page may be short, even empty, and still have more
    /// after it: see [`MAX_SCANNED`].
    pub next: Option<u64>,
}

/// How many findings of each kind there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    pub by_kind: BTreeMap<Kind, u64>,
    /// Of the worst of them; `None` where there is none.
    pub worst: Option<Severity>,
    /// There are more than were counted.
    pub is_partial: bool,
}

impl Store {
    /// Findings that match, `limit` at most.
    pub fn find(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let mut findings = Vec::new();
        let next = self.walk(query, limit, |seq, finding, _| findings.push((seq, finding)))?;
        Ok(Page { findings, next })
    }

    /// As [`Self::find`], each finding as the JSON that was stored, which is the contract's.
    pub fn find_json(&self, query: &Query, limit: usize) -> Result<(Vec<Vec<u8>>, Option<u64>), StoreError> {
        let mut rows = Vec::new();
        let next = self.walk(query, limit, |_, _, json| rows.push(json))?;
        Ok((rows, next))
    }

    /// Counts the findings that match and are worse than `info`, the newest `limit` of each severity.
    pub fn count_by_kind(&self, query: &Query, limit: usize) -> Result<KindCounts, StoreError> {
        let mut counts = KindCounts::default();
        for severity in [Severity::Critical, Severity::Warning] {
            let query = Query { severity: Some(severity), order: Order::NewestFirst, ..query.clone() };
            let next = self.walk(&query, limit, |_, finding, _| {
                *counts.by_kind.entry(finding.kind).or_default() += 1;
                counts.worst = counts.worst.max(Some(severity));
            })?;
            counts.is_partial |= next.is_some();
        }
        Ok(counts)
    }

    /// Calls `found` with each match, with its JSON; where to go on.
    fn walk(&self, query: &Query, limit: usize, mut found: impl FnMut(u64, Finding, Vec<u8>)) -> Result<Option<u64>, StoreError> {
        let newest_first = query.order == Order::NewestFirst;
        let start = match (query.order, query.after) {
            (Order::NewestFirst, 0) => Some(u64::MAX),
            (Order::NewestFirst, after) => Some(after - 1),
            (Order::OldestFirst, after) => after.checked_add(1),
        };
        let Some(mut at) = start else { return Ok(None) };
        let moment = self.shared.db.snapshot();
        let mut lists = self.lists(&moment, query)?;
        let n_lists = lists.len();
        let (mut n_found, mut n_seeks, mut n_parsed, mut last) = (0, 0, 0, query.after);
        loop {
            // All lists at or beyond `at`, until none moves it any further.
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
                    // Nothing between the last number that was decided on and this one matches.
                    return Ok(Some(if newest_first { at.saturating_add(1) } else { at - 1 }));
                }
            }
            if n_found == limit {
                return Ok(Some(last));
            }
            let json = moment.get_cf(&self.family(FINDINGS), Key::seq(at)).map_err(|source| self.read_error(source))?;
            let json = json.ok_or_else(|| self.damaged("a finding that is listed but has no content"))?;
            let finding = self.finding_from_json(at, &json)?;
            last = at;
            if query.matches(&finding) {
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

    /// The lists whose common numbers match. A database that was only opened for reading may have an older format
    /// without some of them: then what matches is told by parsing.
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

    /// Ascending numbers of the findings in the wanted slots; `None` if all slots are wanted, or too many findings are in them.
    fn numbers_in_slots(&self, moment: &Snapshot<'_>, query: &Query) -> Result<Option<Vec<u64>>, StoreError> {
        let Some(family) = self.family_if_there(BY_SLOT).filter(|_| query.from_slot.is_some() || query.to_slot.is_some()) else {
            return Ok(None);
        };
        let (first, last) = (query.from_slot.unwrap_or(Slot::new(0)), query.to_slot.unwrap_or(Slot::new(u64::MAX)));
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

/// Ascending numbers of the findings that pass one filter.
enum List<'a> {
    /// Keys of a family: the prefix, then the number.
    Stored {
        rows: DBRawIteratorWithThreadMode<'a, rocksdb::DB>,
        prefix: Vec<u8>,
    },
    Read(Vec<u64>),
}

impl List<'_> {
    /// The first number at or beyond `seq` in the order asked for.
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
    fn matches(&self, finding: &Finding) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == finding.kind)
            && self.validator.is_none_or(|wanted| finding.validator.as_ref().is_some_and(|subject| subject.index == wanted))
            && self.severity.is_none_or(|wanted| wanted == finding.severity)
            && self.labels.iter().all(|label| finding.has_label(label))
            && self.from_slot.is_none_or(|slot| slot <= finding.slot)
            && self.to_slot.is_none_or(|slot| finding.slot <= slot)
    }
}
