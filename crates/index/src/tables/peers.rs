//! Numbers for peers, so that a row can name its sender in one or two bytes.
//!
//! There are [`MAX_PEERS`] numbers. When all of them are assigned, a new peer gets the number of
//! the peer that has sent nothing for the longest time. So the table never becomes full, however
//! many peer ids an attacker makes up. Rows of the former owner stay on disk with this number. They
//! are told apart from rows of the new owner by time. A number that was assigned again belongs to
//! its new owner only for messages that arrived at or after `since`, which is later than everything
//! stored before. For earlier rows no peer is named, and never a wrong one.
//!
//! Worked example: number 7 belongs to peer A. The last stored row arrived at time 50. Peer B gets
//! number 7, since 51. A row of A with time 30 and number 7 now has an unknown peer. A row of B
//! with time 60 has peer B.

use crate::IndexError;
use crate::storage::{Cf, Db, WriteBuffer};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use verify::{FirstSeen, Time};

/// How many peers are remembered at a time, at 64 bytes each.
pub(crate) const MAX_PEERS: usize = 1 << 16;
/// How many numbers are selected at a time to be assigned again. Selecting them takes a pass over
/// the table.
const PICKED: usize = 1024;
/// Follows a number in the key of the row that stores since when the number belongs to its owner.
const SINCE: u8 = 1;

/// The table of peers and their numbers.
#[derive(Default)]
pub(crate) struct PeerTable {
    numbers: HashMap<Arc<[u8]>, u32>,
    /// The owner of number n is at n - 1. Number 0 means no peer.
    owners: Vec<Owner>,
    /// Numbers whose owners are not on disk yet.
    changed: BTreeSet<u32>,
    /// Numbers that can be assigned again, with the commit in which they were last used. The next
    /// one to be assigned is at the end.
    picked: Vec<(u64, u32)>,
    n_commits: u64,
    /// The latest arrival of a message whose peer got a number.
    pub newest: Time,
    /// Number of rows that were stored without the peer that they came from.
    pub n_refused: u64,
}

struct Owner {
    peer: Arc<[u8]>,
    /// What arrived earlier is not from this peer.
    since: Time,
    /// The commit in which the number was last used.
    used: u64,
}

impl PeerTable {
    /// Reads the table. `newest` is its value at the last commit.
    pub fn load(db: &Db, newest: Time) -> Result<Self, IndexError> {
        let mut peers = Self { newest, ..Self::default() };
        db.scan_all(Cf::PeerTable, |key, value| {
            if let Some((number, [SINCE])) = key.split_at_checked(4)
                && let (Some(owner), Ok(since)) = (peers.owners.last_mut(), value.try_into())
                && number == (peers.numbers.len() as u32).to_be_bytes()
            {
                owner.since = Time(u64::from_be_bytes(since));
                return Ok(());
            }
            let expected = peers.owners.len() as u32 + 1;
            if key != expected.to_be_bytes() {
                return Err(db.corrupt(format!("peer number {expected} is missing")));
            }
            peers.push(Arc::from(value));
            Ok(())
        })?;
        peers.changed.clear();
        Ok(peers)
    }

    /// The number to store for the sender of something. 0 if there is no peer, or if the number
    /// belongs to this peer only since a later time.
    pub fn number(&mut self, heard: &FirstSeen) -> u32 {
        let Some(peer) = &heard.peer else { return 0 };
        let number = match self.numbers.get(peer) {
            Some(number) => *number,
            None if self.owners.len() < MAX_PEERS => self.push(peer.clone()),
            None => self.give_again(peer.clone()),
        };
        self.newest = self.newest.max(heard.at);
        let n_commits = self.n_commits;
        let owner = self.owners.get_mut(number.saturating_sub(1) as usize);
        match owner.filter(|owner| owner.since <= heard.at) {
            Some(owner) => {
                owner.used = n_commits;
                number
            }
            // By its arrival time it is older than the peer's number.
            None => {
                self.n_refused += 1;
                0
            }
        }
    }

    /// The peer that owned this number when something arrived.
    pub fn peer(&self, number: u32, at: Time) -> Option<Arc<[u8]>> {
        let owner = self.owners.get(number.checked_sub(1)? as usize)?;
        (owner.since <= at).then(|| owner.peer.clone())
    }

    pub fn stage(&self, batch: &mut WriteBuffer<'_>) {
        for number in &self.changed {
            let Some(owner) = self.owners.get(*number as usize - 1) else { continue };
            let key = number.to_be_bytes();
            batch.put(Cf::PeerTable, &key, &owner.peer);
            if owner.since > Time(0) {
                let since_key = [key.as_slice(), &[SINCE]].concat();
                batch.put(Cf::PeerTable, &since_key, &owner.since.0.to_be_bytes());
            }
        }
    }

    pub fn committed(&mut self) {
        self.changed.clear();
        self.n_commits += 1;
    }

    fn push(&mut self, peer: Arc<[u8]>) -> u32 {
        self.owners.push(Owner { peer: peer.clone(), since: Time(0), used: self.n_commits });
        let number = self.owners.len() as u32;
        self.numbers.insert(peer, number);
        self.changed.insert(number);
        number
    }

    /// Assigns the number of the peer that has sent nothing for the longest time.
    fn give_again(&mut self, peer: Arc<[u8]>) -> u32 {
        let number = loop {
            match self.picked.pop() {
                // This number was used again after it was selected.
                Some((used, number)) if self.owners[number as usize - 1].used != used => {}
                Some((_, number)) => break number,
                None => self.pick(),
            }
        };
        let since = Time(self.newest.0.saturating_add(1));
        let owner = Owner { peer: peer.clone(), since, used: self.n_commits };
        let former = std::mem::replace(&mut self.owners[number as usize - 1], owner);
        self.numbers.remove(&former.peer);
        self.numbers.insert(peer, number);
        self.changed.insert(number);
        number
    }

    fn pick(&mut self) {
        let mut by_use: Vec<(u64, u32)> = self.owners.iter().map(|owner| owner.used).zip(1..).collect();
        if by_use.len() > PICKED {
            by_use.select_nth_unstable(PICKED);
            by_use.truncate(PICKED);
        }
        by_use.sort_unstable_by(|a, b| b.cmp(a));
        self.picked = by_use;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verify::SourceKind;

    fn heard(peer: u64, at: u64) -> FirstSeen {
        FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: Some(Arc::from(peer.to_be_bytes().as_slice())) }
    }

    fn reopened(db: Db, peers: &mut PeerTable, dir: &std::path::Path) -> (Db, PeerTable) {
        let mut batch = db.batch();
        peers.stage(&mut batch);
        batch.write().unwrap();
        peers.committed();
        drop(db);
        let db = Db::open(dir, false).unwrap();
        let loaded = PeerTable::load(&db, peers.newest).unwrap();
        (db, loaded)
    }

    /// An attacker makes up more peer ids than there are numbers. Peers that come later are still
    /// named, and no peer is named for another.
    #[test]
    fn a_flood_of_peer_ids_takes_nobodys_place_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path(), false).unwrap();
        let mut peers = PeerTable::default();
        let regular = heard(1 << 40, 1);
        let n_flood = MAX_PEERS as u64 + 5000;
        let mut numbers = Vec::new();
        for nth in 0..n_flood {
            if nth % 1000 == 0 {
                peers.number(&FirstSeen { at: Time(10 + nth), ..regular.clone() });
                peers.committed();
            }
            numbers.push(peers.number(&heard(nth, 10 + nth)));
        }
        assert_eq!((peers.owners.len(), peers.numbers.len()), (MAX_PEERS, MAX_PEERS));
        // A peer that keeps sending keeps its number.
        assert_eq!(peers.number(&FirstSeen { at: Time(20 + n_flood), ..regular.clone() }), 1);
        let late = heard(1 << 41, 30 + n_flood);
        let number = peers.number(&late);
        assert_ne!(number, 0, "a peer that comes after the flood has a number");
        // `changed` is empty after a commit without a batch, so all numbers are written here.
        peers.changed = (1..=MAX_PEERS as u32).collect();
        let (_db, loaded) = reopened(db, &mut peers, dir.path());
        assert_eq!(loaded.peer(number, late.at), late.peer);
        assert_eq!(loaded.peer(1, Time(11)), regular.peer);
        let mut named = 0;
        for (nth, number) in (0u64..).zip(&numbers) {
            let row = heard(nth, 10 + nth);
            let peer = loaded.peer(*number, row.at);
            assert!(peer.is_none() || peer == row.peer, "the row of {nth} is taken for another's");
            named += u64::from(peer.is_some());
        }
        assert!(named >= MAX_PEERS as u64 - 2 * PICKED as u64, "{named} rows still name their peer");
    }

    /// A message that arrived before its peer got the number is stored without a peer, and not with
    /// the former owner of the number.
    #[test]
    fn a_message_from_before_its_peers_number_names_nobody() {
        let mut peers = PeerTable::default();
        (0..MAX_PEERS as u64).for_each(|nth| _ = peers.number(&heard(nth, 100)));
        let newcomer = |at| heard(1 << 40, at);
        assert_eq!((peers.number(&newcomer(100)), peers.n_refused), (0, 1));
        let number = peers.number(&newcomer(101));
        assert_eq!((peers.peer(number, Time(101)), peers.peer(number, Time(100))), (newcomer(0).peer, None));
        assert_eq!(peers.number(&FirstSeen { peer: None, ..newcomer(102) }), 0);
    }
}
