//! Incidents in the store: the last state of each, and the order in which they last changed.
//!
//! Every change gets the next *revision*. A reader that knows revision n asks for everything after
//! it. It gets each incident that changed since then, once, in its current state. So a reader can
//! fall behind by any number of changes and miss no incident.

use crate::incident::{Incident, Tracking};
use crate::keys::{INCIDENT_REVISIONS, INCIDENTS, Key};
use crate::store::StoreWriter;
use crate::{Store, StoreError};
use consensus::Root;
use rocksdb::{Direction, IteratorMode, Snapshot, WriteBatch};
use serde::Serialize;

/// An incident as it is stored, with its tracking, which is not shown.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    incident: &'a Incident,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracking: Option<&'a Tracking>,
}

impl Store {
    pub(crate) fn stage_incidents(
        &self,
        incidents: &[Incident],
        batch: &mut WriteBatch,
        next: &mut StoreWriter,
    ) -> Result<(), StoreError> {
        for (nth, incident) in incidents.iter().enumerate() {
            // If a call has several states of one incident, only the last one is stored.
            if incidents[nth + 1..].iter().any(|later| later.id == incident.id) {
                continue;
            }
            match self.stored_incident(incident.id)? {
                Some((_, stored)) if stored == *incident => continue,
                Some((revision, _)) => batch.delete_cf(&self.family(INCIDENT_REVISIONS), Key::seq(revision)),
                None => {}
            }
            next.last_revision += 1;
            let stored = Stored { incident, tracking: incident.tracking.as_ref() };
            let json = serde_json::to_vec(&stored).expect("an incident has string keys only");
            let value = [&Key::seq(next.last_revision)[..], &json].concat();
            batch.put_cf(&self.family(INCIDENTS), incident.id, value);
            batch.put_cf(&self.family(INCIDENT_REVISIONS), Key::seq(next.last_revision), incident.id);
        }
        Ok(())
    }

    /// The current state of an incident.
    pub fn incident(&self, id: Root) -> Result<Option<Incident>, StoreError> {
        Ok(self.stored_incident(id)?.map(|(_, incident)| incident))
    }

    /// Returns incidents that changed after `revision`, each with its revision, in the order of
    /// their last change, `limit` at most. All are read from one snapshot. Fewer than `limit` rows
    /// mean that there are no more.
    pub fn incidents_after(&self, revision: u64, limit: usize) -> Result<Vec<(u64, Incident)>, StoreError> {
        self.incidents_of(&self.shared.db.snapshot(), revision, limit)
    }

    fn incidents_of(&self, moment: &Snapshot<'_>, revision: u64, limit: usize) -> Result<Vec<(u64, Incident)>, StoreError> {
        let (Some(first), Some(family)) = (revision.checked_add(1), self.family_if_there(INCIDENT_REVISIONS)) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        let mode = IteratorMode::From(&Key::seq(first), Direction::Forward);
        for row in moment.iterator_cf(&family, mode).take(limit) {
            let (key, id) = row.map_err(|source| self.read_error(source))?;
            let revision = self.revision(&key)?;
            let id = Root::try_from(&id[..]).map_err(|_| self.damaged("the id of an incident"))?;
            let value = moment.get_cf(&self.family(INCIDENTS), id).map_err(|source| self.read_error(source))?;
            let value = value.ok_or_else(|| self.damaged("an incident that is listed but has no content"))?;
            rows.push((revision, self.incident_from(id, &value)?.1));
        }
        Ok(rows)
    }

    /// The revision after which exactly `n` incidents changed. If there are fewer than `n`
    /// incidents, it is 0.
    pub fn revision_before_last(&self, n: usize) -> Result<u64, StoreError> {
        let Some(family) = self.family_if_there(INCIDENT_REVISIONS) else { return Ok(0) };
        match self.shared.db.iterator_cf(&family, IteratorMode::End).nth(n) {
            Some(row) => self.revision(&row.map_err(|source| self.read_error(source))?.0),
            None => Ok(0),
        }
    }

    /// All incidents, sorted by first slot and kind.
    pub fn all_incidents(&self) -> Result<Vec<Incident>, StoreError> {
        let mut incidents: Vec<Incident> =
            self.incidents_after(0, usize::MAX)?.into_iter().map(|(_, incident)| incident).collect();
        incidents.sort_by(|a, b| (a.first_slot, &a.kind, a.id).cmp(&(b.first_slot, &b.kind, b.id)));
        Ok(incidents)
    }

    /// The revision of the latest change of any incident. 0 if there was no change.
    pub fn last_incident_revision(&self) -> u64 {
        self.writer_now().last_revision
    }

    pub(crate) fn stored_last_revision(&self) -> Result<u64, StoreError> {
        let Some(family) = self.family_if_there(INCIDENT_REVISIONS) else { return Ok(0) };
        match self.shared.db.iterator_cf(&family, IteratorMode::End).next() {
            Some(row) => self.revision(&row.map_err(|source| self.read_error(source))?.0),
            None => Ok(0),
        }
    }

    fn revision(&self, key: &[u8]) -> Result<u64, StoreError> {
        Key::trailing_seq(key).ok_or_else(|| self.damaged("the revision of an incident"))
    }

    fn stored_incident(&self, id: Root) -> Result<Option<(u64, Incident)>, StoreError> {
        let Some(family) = self.family_if_there(INCIDENTS) else { return Ok(None) };
        let value = self.shared.db.get_cf(&family, id).map_err(|source| self.read_error(source))?;
        value.map(|value| self.incident_from(id, &value)).transpose()
    }

    fn incident_from(&self, id: Root, value: &[u8]) -> Result<(u64, Incident), StoreError> {
        let damaged = |what: &str| self.damaged(&format!("incident {id}: {what}"));
        let (revision, json) = value.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut"))?;
        let mut incident: Incident = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        if incident.tracking.is_none() {
            incident.tracking = Tracking::of_older_format(&mut incident.details);
        }
        Ok((u64::from_be_bytes(*revision), incident))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IncidentState;

    fn incident(byte: u8, state: IncidentState) -> Incident {
        Incident { id: Root::repeat_byte(byte), state, ..Incident::sample() }
    }

    #[test]
    fn one_that_changes_while_a_page_is_read_does_not_end_the_list_early() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        store.put_incidents(&[1, 2, 3].map(|byte| incident(byte, IncidentState::Open))).unwrap();
        let moment = store.shared.db.snapshot();
        store.put_incidents(&[incident(1, IncidentState::Growing)]).unwrap();
        let page: Vec<u64> = store.incidents_of(&moment, 0, 2).unwrap().into_iter().map(|(revision, _)| revision).collect();
        assert_eq!(page, [1, 2], "whole, as of its moment");
        let next: Vec<_> = store.incidents_after(2, 2).unwrap();
        assert_eq!(next.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(next[1].1.state, IncidentState::Growing, "and what changed comes again");
    }

    #[test]
    fn the_last_ones_are_counted_by_incidents_not_by_changes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        assert_eq!(store.revision_before_last(2).unwrap(), 0);
        store.put_incidents(&[1, 2, 3].map(|byte| incident(byte, IncidentState::Open))).unwrap();
        for _ in 0..50 {
            for state in [IncidentState::Growing, IncidentState::Waning] {
                store.put_incidents(&[incident(1, state)]).unwrap();
            }
        }
        let last = |n| {
            let after = store.revision_before_last(n).unwrap();
            store.incidents_after(after, 10).unwrap().into_iter().map(|(_, incident)| incident.id).collect::<Vec<_>>()
        };
        assert_eq!(last(2), [3, 1].map(Root::repeat_byte));
        assert_eq!(last(3).len(), 3);
        assert_eq!(last(100).len(), 3);
        assert!(last(0).is_empty());
    }
}
