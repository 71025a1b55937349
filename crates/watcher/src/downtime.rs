//! The slots that were not watched: the slots between two runs, and the slots in which nothing came
//! from the network. They are stored with the findings.
//!
//! Live gossip cannot be requested again, so missed slots must at least be known. A running watcher
//! records once per slot how far it has come. At its start, the slots between that record and the
//! current slot are a gap. Received messages that wait in memory for their committees are not
//! verified yet, and a crash loses them. So the record goes only as far as the arrival of the
//! oldest waiting message.

use api::Gap;
use consensus::Slot;
use evidence::{Store, StoreError};
use std::sync::Arc;

const WATCHED_UNTIL: &str = "watched_until";
const GAPS: &str = "gaps";
/// Largest number of stored gaps. The oldest gaps are dropped first.
const MAX_GAPS: usize = 256;
/// Number of slots that a restart may take without being recorded as a gap. Messages of these slots
/// still arrive later, or in blocks.
const TOLERATED: u64 = 1;

/// The reason of a gap in which nothing came from the network.
const SILENT: &str = "no vote or block came from the network";

/// The known gaps, and the record of how far the watcher has come.
pub struct DowntimeLog {
    store: Store,
    noted: Slot,
    /// Shared with the parts that show the gaps.
    gaps: Arc<Vec<Gap>>,
}

impl DowntimeLog {
    /// Adds the gap between the last run and `now` if there is one.
    pub fn start(store: Store, now: Slot) -> Result<Self, StoreError> {
        let gaps = known(&store)?;
        let mut missed = None;
        if let Some(until) = watched_until(&store)?
            && now.as_u64() > until.as_u64().saturating_add(1 + TOLERATED)
        {
            let gap = Gap {
                from_slot: until.saturating_add(1),
                to_slot: now.saturating_sub(1),
                reason: "slashwatch was not running, or it ended before it had processed everything that it received".into(),
            };
            tracing::warn!(from = %gap.from_slot, to = %gap.to_slot, "slots were not watched; votes of these slots are known only if later blocks contain them");
            missed = Some(gap);
        }
        let mut log = Self { store, noted: Slot::new(0), gaps: Arc::new(gaps) };
        missed.map_or(Ok(()), |gap| log.add(gap))?;
        log.watched(now, None)?;
        Ok(log)
    }

    fn add(&mut self, gap: Gap) -> Result<(), StoreError> {
        let gaps = Arc::make_mut(&mut self.gaps);
        gaps.push(gap);
        let surplus = gaps.len().saturating_sub(MAX_GAPS);
        gaps.drain(..surplus);
        self.store.put_checkpoint(GAPS, &encode(&self.gaps))
    }

    /// Records that everything up to and including `slot` was watched. `waiting` is the slot in
    /// which the oldest message arrived that is not processed yet.
    ///
    /// If the clock was set back, a gap is added at the slot where this was noticed, because
    /// everything before used a wrong time.
    pub fn watched(&mut self, slot: Slot, waiting: Option<Slot>) -> Result<(), StoreError> {
        if slot.saturating_add(detect::monitor::MAX_STEP_BACK) < self.noted {
            let ahead = self.noted.as_u64() - slot.as_u64();
            self.add(Gap {
                from_slot: slot,
                to_slot: slot,
                reason: format!("this machine's clock was {ahead} slots ahead until now"),
            })?;
            self.noted = Slot::new(0);
        }
        let slot = waiting.map_or(slot, |waiting| slot.min(waiting.saturating_sub(1)));
        if slot > self.noted {
            self.noted = slot;
            self.store.put_checkpoint(WATCHED_UNTIL, &slot.as_u64().to_be_bytes())?;
        }
        Ok(())
    }

    /// Records that nothing came from the network from `from` up to `to`. The caller calls it in
    /// each slot of a silence and at its end.
    pub fn silent(&mut self, from: Slot, to: Slot) -> Result<(), StoreError> {
        match self.gaps.iter().rposition(|gap| gap.from_slot == from && gap.reason == SILENT) {
            Some(nth) if self.gaps[nth].to_slot >= to => Ok(()),
            Some(nth) => {
                Arc::make_mut(&mut self.gaps)[nth].to_slot = to;
                self.store.put_checkpoint(GAPS, &encode(&self.gaps))
            }
            None => self.add(Gap { from_slot: from, to_slot: to.max(from), reason: SILENT.into() }),
        }
    }

    /// Returns the stored gaps of all runs, oldest first.
    pub fn gaps(&self) -> &Arc<Vec<Gap>> {
        &self.gaps
    }
}

/// Returns how far the last watcher came, or `None` if no watcher has used the store, for example
/// in a directory of replays.
pub fn watched_until(store: &Store) -> Result<Option<Slot>, StoreError> {
    let bytes = store.checkpoint(WATCHED_UNTIL)?;
    Ok(bytes.and_then(|bytes| Some(Slot::new(u64::from_be_bytes(bytes.try_into().ok()?)))))
}

/// Returns the stored gaps of all runs, oldest first.
pub fn known(store: &Store) -> Result<Vec<Gap>, StoreError> {
    Ok(store.checkpoint(GAPS)?.map(|bytes| decode(&bytes)).unwrap_or_default())
}

/// Encodes gaps as `from u64 BE | to u64 BE | length u16 BE | reason`, one after the other.
fn encode(gaps: &[Gap]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for gap in gaps {
        bytes.extend_from_slice(&gap.from_slot.as_u64().to_be_bytes());
        bytes.extend_from_slice(&gap.to_slot.as_u64().to_be_bytes());
        let reason = &gap.reason.as_bytes()[..gap.reason.len().min(usize::from(u16::MAX))];
        bytes.extend_from_slice(&(reason.len() as u16).to_be_bytes());
        bytes.extend_from_slice(reason);
    }
    bytes
}

/// Decodes gaps up to the first damaged one. A damaged record is no reason to stop.
fn decode(mut bytes: &[u8]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<18>() {
        let number = |at: usize| Slot::new(u64::from_be_bytes(head[at..at + 8].try_into().expect("8 of 18 bytes")));
        let length = usize::from(u16::from_be_bytes([head[16], head[17]]));
        let Some((reason, rest)) = rest.split_at_checked(length) else { break };
        gaps.push(Gap { from_slot: number(0), to_slot: number(8), reason: String::from_utf8_lossy(reason).into_owned() });
        bytes = rest;
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::Root;

    #[test]
    fn what_lies_between_two_runs_is_a_gap_and_stays_known() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        let mut log = DowntimeLog::start(store.clone(), Slot::new(10)).unwrap();
        assert!(log.gaps().is_empty(), "the first run has no gap before it");
        log.watched(Slot::new(20), None).unwrap();
        let log = DowntimeLog::start(store.clone(), Slot::new(22)).unwrap();
        assert!(log.gaps().is_empty(), "a quick restart is none");
        let log = DowntimeLog::start(store.clone(), Slot::new(100)).unwrap();
        assert_eq!(log.gaps().len(), 1);
        assert_eq!((log.gaps()[0].from_slot, log.gaps()[0].to_slot), (Slot::new(23), Slot::new(99)));
        let log = DowntimeLog::start(store, Slot::new(101)).unwrap();
        assert_eq!(log.gaps().len(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_is_noted_and_watching_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        let mut log = DowntimeLog::start(store.clone(), Slot::new(10)).unwrap();
        log.watched(Slot::new(1_210), None).unwrap();
        log.watched(Slot::new(11), None).unwrap();
        log.watched(Slot::new(12), None).unwrap();
        assert_eq!(log.gaps().iter().map(|gap| gap.from_slot).collect::<Vec<_>>(), [Slot::new(11)]);
        let log = DowntimeLog::start(store, Slot::new(30)).unwrap();
        assert_eq!(log.gaps()[1].from_slot, Slot::new(13), "the next gap is measured from the right time");
    }

    #[test]
    fn a_silence_is_one_gap_that_grows_and_outlives_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        let mut log = DowntimeLog::start(store.clone(), Slot::new(10)).unwrap();
        for slot in 12..=30 {
            log.watched(Slot::new(slot), None).unwrap();
            log.silent(Slot::new(10), Slot::new(slot)).unwrap();
        }
        log.silent(Slot::new(40), Slot::new(42)).unwrap();
        let ends = |gaps: &[Gap]| gaps.iter().map(|gap| (gap.from_slot.as_u64(), gap.to_slot.as_u64())).collect::<Vec<_>>();
        assert_eq!(ends(log.gaps()), [(10, 30), (40, 42)]);
        let log = DowntimeLog::start(store, Slot::new(31)).unwrap();
        assert_eq!(ends(log.gaps()), [(10, 30), (40, 42)]);
    }

    #[test]
    fn what_waited_for_its_committees_is_in_the_gap() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        let mut log = DowntimeLog::start(store.clone(), Slot::new(10)).unwrap();
        log.watched(Slot::new(20), None).unwrap();
        log.watched(Slot::new(60), Some(Slot::new(31))).unwrap();
        let log = DowntimeLog::start(store, Slot::new(61)).unwrap();
        assert_eq!(log.gaps().len(), 1, "however quick the restart");
        assert_eq!((log.gaps()[0].from_slot, log.gaps()[0].to_slot), (Slot::new(31), Slot::new(60)));
    }

    #[test]
    fn damaged_notes_are_read_as_far_as_they_go() {
        let gap = Gap { from_slot: Slot::new(1), to_slot: Slot::new(2), reason: "x".into() };
        let bytes = encode(&[gap.clone(), gap.clone()]);
        assert_eq!(decode(&bytes), vec![gap.clone(), gap.clone()]);
        assert_eq!(decode(&bytes[..bytes.len() - 1]), vec![gap]);
    }
}
