//! Incidents in the store: the last state of each, and the order in which they last changed.
//!
//! Every change gets the next *revision*. A reader that knows revision n asks for what came after it and gets each incident
//! that changed since, once, as it is now: so a reader can fall behind by any number of changes and miss none.

use crate::incident::Incident;
use crate::keys::{INCIDENT_REVISIONS, INCIDENTS, Key};
use crate::store::Writer;
use crate::{Changes, Store, StoreError};
use consensus::Root;
use rocksdb::{Direction, IteratorMode, WriteBatch};

impl Store {
    /// Stores the new state of incidents, in one atomic, synced write. Those that did not change get no new revision.
    pub fn put_incidents(&self, incidents: &[Incident]) -> Result<(), StoreError> {
        self.apply(Changes { incidents: incidents.to_vec(), ..Changes::default() }, &[]).map(|_| ())
    }

    pub(crate) fn stage_incidents(
        &self,
        incidents: &[Incident],
        batch: &mut WriteBatch,
        next: &mut Writer,
    ) -> Result<(), StoreError> {
        for (nth, incident) in incidents.iter().enumerate() {
            // Of several states of one incident in a call, the last.
            if incidents[nth + 1..].iter().any(|later| later.id == incident.id) {
                continue;
            }
            match self.stored_incident(incident.id)? {
                Some((_, stored)) if stored == *incident => continue,
                Some((revision, _)) => batch.delete_cf(&self.family(INCIDENT_REVISIONS), Key::seq(revision)),
                None => {}
            }
            next.last_revision += 1;
            let json = serde_json::to_vec(incident).expect("an incident has string keys only");
            let value = [&Key::seq(next.last_revision)[..], &json].concat();
            batch.put_cf(&self.family(INCIDENTS), incident.id, value);
            batch.put_cf(&self.family(INCIDENT_REVISIONS), Key::seq(next.last_revision), incident.id);
        }
        Ok(())
    }

    /// An incident as it is now.
    pub fn incident(&self, id: Root) -> Result<Option<Incident>, StoreError> {
        Ok(self.stored_incident(id)?.map(|(_, incident)| incident))
    }

    /// Incidents that changed after `revision`, in the order of their last change, `limit` at most, with its revision.
    pub fn incidents_after(&self, revision: u64, limit: usize) -> Result<Vec<(u64, Incident)>, StoreError> {
        let (Some(first), Some(family)) = (revision.checked_add(1), self.family_if_there(INCIDENT_REVISIONS)) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        let mode = IteratorMode::From(&Key::seq(first), Direction::Forward);
        for row in self.shared.db.iterator_cf(&family, mode).take(limit) {
            let (key, id) = row.map_err(|source| self.read_error(source))?;
            let revision = Key::trailing_seq(&key).ok_or_else(|| self.damaged("the revision of an incident"))?;
            let id = Root::try_from(&id[..]).map_err(|_| self.damaged("the id of an incident"))?;
            // One that changes between the two reads comes again under its newer revision.
            if let Some((found, incident)) = self.stored_incident(id)?
                && found == revision
            {
                rows.push((revision, incident));
            }
        }
        Ok(rows)
    }

    /// All incidents, by first slot and kind.
    pub fn all_incidents(&self) -> Result<Vec<Incident>, StoreError> {
        let mut incidents: Vec<Incident> =
            self.incidents_after(0, usize::MAX)?.into_iter().map(|(_, incident)| incident).collect();
        incidents.sort_by(|a, b| (a.first_slot, &a.kind, a.id).cmp(&(b.first_slot, &b.kind, b.id)));
        Ok(incidents)
    }

    /// Number of the latest change of any incident; 0 before the first.
    pub fn last_incident_revision(&self) -> u64 {
        self.writer_now().last_revision
    }

    pub(crate) fn stored_last_revision(&self) -> Result<u64, StoreError> {
        let Some(family) = self.family_if_there(INCIDENT_REVISIONS) else { return Ok(0) };
        match self.shared.db.iterator_cf(&family, IteratorMode::End).next() {
            Some(row) => {
                let (key, _) = row.map_err(|source| self.read_error(source))?;
                Key::trailing_seq(&key).ok_or_else(|| self.damaged("the revision of an incident"))
            }
            None => Ok(0),
        }
    }

    fn stored_incident(&self, id: Root) -> Result<Option<(u64, Incident)>, StoreError> {
        let Some(family) = self.family_if_there(INCIDENTS) else { return Ok(None) };
        let value = self.shared.db.get_cf(&family, id).map_err(|source| self.read_error(source))?;
        let Some(value) = value else { return Ok(None) };
        let damaged = |what: &str| self.damaged(&format!("incident {id}: {what}"));
        let (revision, json) = value.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut"))?;
        let incident = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        Ok(Some((u64::from_be_bytes(*revision), incident)))
    }
}
