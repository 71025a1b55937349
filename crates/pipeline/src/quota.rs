//! How many findings are listed of one validator.
//!
//! Whoever signs n different votes for one target contradicts itself in n (n - 1) / 2 pairs, and each would cost two pairings and a row:
//! one key could buy hours of our time. So of each validator, epoch and kind [`MAX_LISTED`] pairs are listed, the first that come, and
//! further ones are counted. What is stored already counts, so that a second run over the same messages lists no more. The same holds for
//! slashing operations that others made of such votes; those that a block carries have as much room again, so that what the chain
//! punished is listed though gossip was full of others.

use consensus::{Epoch, Offence, Preset, Root, ValidatorIndex};
use evidence::{Finding, Query, Store, StoreError, finding_id};
use index::Conflict;
use std::collections::{HashMap, HashSet};

/// Findings listed per validator, epoch and kind.
pub const MAX_LISTED: usize = 64;
/// The same where some are in blocks.
pub const MAX_LISTED_WITH_BLOCKS: usize = 2 * MAX_LISTED;
/// Validators, epochs and kinds counted at hand; then they are counted anew from the store.
const MAX_COUNTED: usize = 65_536;

#[derive(Default)]
pub(crate) struct Quota {
    listed: HashMap<(ValidatorIndex, Epoch, Offence), usize>,
    /// Pairs that were given room, by finding: each takes it once.
    admitted: HashSet<Root>,
}

/// What a finding would be about, before it is proven.
struct Case {
    offence: Offence,
    validator: ValidatorIndex,
    epoch: Epoch,
    roots: [Root; 2],
}

impl Quota {
    /// Whether a conflict is to be listed: it is stored already, or there is room.
    pub(crate) fn admits(&mut self, conflict: &Conflict, preset: &Preset, store: &Store) -> Result<bool, StoreError> {
        let Case { offence, validator, epoch, roots } = Case::of(conflict, preset);
        let id = finding_id(store.genesis_validators_root(), offence, validator, roots[0], roots[1]);
        self.has_room(id, (validator, epoch, offence), MAX_LISTED, store)
    }

    /// The same of what an operation shows. `most`: [`MAX_LISTED`] or [`MAX_LISTED_WITH_BLOCKS`].
    pub(crate) fn admits_finding(&mut self, finding: &Finding, most: usize, store: &Store) -> Result<bool, StoreError> {
        let offence = Offence::ALL.into_iter().find(|offence| offence.as_str() == finding.kind);
        match (offence, &finding.validator) {
            (Some(offence), Some(subject)) => self.has_room(finding.id, (subject.index, finding.epoch, offence), most, store),
            // Nobody is accused.
            _ => Ok(true),
        }
    }

    fn has_room(
        &mut self,
        id: Root,
        key: (ValidatorIndex, Epoch, Offence),
        most: usize,
        store: &Store,
    ) -> Result<bool, StoreError> {
        if self.admitted.contains(&id) || store.finding(id)?.is_some() {
            return Ok(true);
        }
        if self.listed.len() >= MAX_COUNTED {
            self.listed.clear();
        }
        if self.admitted.len() >= MAX_COUNTED {
            self.admitted.clear();
        }
        let (validator, epoch, offence) = key;
        let listed = match self.listed.get_mut(&key) {
            Some(listed) => listed,
            None => self.listed.entry(key).or_insert(stored(store, validator, epoch, offence)?),
        };
        let has_room = *listed < most;
        if has_room {
            *listed += 1;
            self.admitted.insert(id);
        }
        Ok(has_room)
    }
}

/// Findings of this validator, epoch and kind that are stored, up to [`MAX_LISTED_WITH_BLOCKS`].
fn stored(store: &Store, validator: ValidatorIndex, epoch: Epoch, offence: Offence) -> Result<usize, StoreError> {
    let mut query = Query { validator: Some(validator), kind: Some(offence.as_str().into()), ..Query::default() };
    let mut n = 0;
    loop {
        let page = store.find(&query, MAX_LISTED)?;
        n += page.findings.iter().filter(|(_, finding)| finding.epoch == epoch).count();
        match page.next {
            Some(next) if n < MAX_LISTED_WITH_BLOCKS => query.after = next,
            Some(_) | None => return Ok(n),
        }
    }
}

impl Case {
    fn of(conflict: &Conflict, preset: &Preset) -> Self {
        match conflict {
            Conflict::DoubleVote { validator, first, second, .. } => Self {
                offence: Offence::DoubleVote,
                validator: *validator,
                epoch: first.data.target.epoch,
                roots: [first.data_root, second.data_root],
            },
            Conflict::Surround { validator, surrounding, surrounded, .. } => {
                let later = [surrounding, surrounded].into_iter().max_by_key(|side| (side.data.slot, side.data.target.epoch));
                Self {
                    offence: Offence::SurroundVote,
                    validator: *validator,
                    epoch: later.map_or(surrounding.data.target.epoch, |side| side.data.target.epoch),
                    roots: [surrounding.data_root, surrounded.data_root],
                }
            }
            Conflict::DoubleProposal { validator, first, second } => Self {
                offence: Offence::DoubleProposal,
                validator: *validator,
                epoch: first.header.slot.epoch(preset),
                roots: [first.root, second.root],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{AttestationData, Checkpoint, ForkName, SignatureBytes};
    use evidence::{Evidence, EvidenceKind, Slashable};
    use index::StoredVote;
    use std::sync::Arc;
    use verify::{Heard, SourceKind, UnixNs};

    const GENESIS: Root = Root::repeat_byte(9);
    const HEARD: Heard = Heard { at: UnixNs(0), source: SourceKind::Gossip, peer: None };

    fn vote(epoch: u64, nth: u8) -> Arc<StoredVote> {
        let target = Checkpoint { epoch: Epoch::new(epoch), root: Root::ZERO };
        let data = AttestationData { target, beacon_block_root: Root::repeat_byte(nth), ..AttestationData::default() };
        Arc::new(StoredVote {
            data,
            data_root: data.root(),
            indices: vec![ValidatorIndex::new(5)],
            signature: SignatureBytes::ZERO,
            heard: HEARD,
        })
    }

    fn double(validator: u64, epoch: u64, nth: u8) -> Conflict {
        Conflict::DoubleVote {
            validator: ValidatorIndex::new(validator),
            first: vote(epoch, 0),
            second: vote(epoch, nth),
            arrivals: [HEARD.arrival(); 2],
        }
    }

    fn record(store: &Store, epoch: u64, nth: u8) {
        let facts = Slashable {
            genesis_validators_root: GENESIS,
            roots: [vote(epoch, 0).data_root, vote(epoch, nth).data_root],
            epoch: Epoch::new(epoch),
            ..Slashable::sample()
        };
        let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![nth], serde_json::json!({}));
        store.record(vec![(Finding::slashable(facts, &evidence), Arc::new(evidence))], &[]).unwrap();
    }

    #[test]
    fn so_many_of_each_validator_epoch_and_kind_and_a_second_run_lists_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), GENESIS).unwrap();
        let admitted = |quota: &mut Quota, validator, epoch| {
            let admits = |quota: &mut Quota, nth| quota.admits(&double(validator, epoch, nth), &Preset::MINIMAL, &store).unwrap();
            (1..=100).filter(|nth| admits(quota, *nth)).count()
        };
        let mut quota = Quota::default();
        assert_eq!([(5, 3), (5, 4), (6, 3)].map(|(validator, epoch)| admitted(&mut quota, validator, epoch)), [MAX_LISTED; 3]);
        let surround = Conflict::Surround {
            validator: ValidatorIndex::new(5),
            surrounding: vote(3, 1),
            surrounded: vote(2, 1),
            arrivals: [HEARD.arrival(); 2],
        };
        assert!(quota.admits(&surround, &Preset::MINIMAL, &store).unwrap(), "another kind has room of its own");
        // Sixty are stored, of them one in another epoch: five more of this one, and those again that are there.
        (41..=99).for_each(|nth| record(&store, 3, nth));
        record(&store, 7, 1);
        let mut again = Quota::default();
        assert_eq!(admitted(&mut again, 5, 3), 59 + 5);
        assert_eq!(admitted(&mut Quota::default(), 5, 7), MAX_LISTED);
    }
    #[test]
    fn operations_take_room_too_and_those_in_blocks_have_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), GENESIS).unwrap();
        let shown = |nth: u8| {
            let facts = Slashable {
                genesis_validators_root: GENESIS,
                roots: [vote(3, 0).data_root, vote(3, nth).data_root],
                epoch: Epoch::new(3),
                ..Slashable::sample()
            };
            Finding::slashable(facts, &Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![nth], ().into()))
        };
        let mut quota = Quota::default();
        let mut admitted =
            |from: u8, most| (from..from + 100).filter(|nth| quota.admits_finding(&shown(*nth), most, &store).unwrap()).count();
        assert_eq!(admitted(1, MAX_LISTED), MAX_LISTED);
        assert_eq!(admitted(1, MAX_LISTED), MAX_LISTED, "each takes its room once");
        assert_eq!(admitted(101, MAX_LISTED), 0);
        assert_eq!(admitted(101, MAX_LISTED_WITH_BLOCKS), MAX_LISTED_WITH_BLOCKS - MAX_LISTED);
        // Of the index: the pair is known by the operation.
        assert!(quota.admits(&double(5, 3, 1), &Preset::MINIMAL, &store).unwrap());
        assert!(!quota.admits(&double(5, 3, 250), &Preset::MINIMAL, &store).unwrap());
    }
}
