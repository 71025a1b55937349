//! The parking place, where votes wait for the committees of their epoch. It is bounded in messages
//! and in bytes, in total and by peer ([`ParkingLimits`]). When it is full, the peer with the
//! largest share loses its oldest vote. A share is counted in messages or in bytes, whichever gives
//! more. So one peer cannot keep the others out.

use crate::decode::VoteByBits;
use crate::verifier::PendingOutcome;
use crate::{FirstSeen, NoRoom, ParkingLimits, PeerBytes, Time};
use consensus::{Root, ShufflingId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A vote by bits on its way through the verifier. It may be parked several times.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) item: PendingOutcome,
    pub(crate) heard: FirstSeen,
    pub(crate) vote: VoteByBits,
    pub(crate) data_root: Root,
    pub(crate) n_bytes: usize,
    /// When the vote came to us, by the time that was given to `process`. The waiting time counts
    /// from here, also for a message that a replay or backfill delivers late.
    pub(crate) since: Time,
    /// The shufflings with which the vote was tried and failed.
    pub(crate) tried: Vec<ShufflingId>,
}

impl Job {
    /// The peer whose share of the parking place the job uses. A part of a proven block counts for
    /// no peer, because it came only once, whichever peer forwarded the block.
    fn holder(&self) -> Option<PeerBytes> {
        self.asker().cloned()
    }

    /// The peer whose budget pays for what has to be computed for this job.
    pub(crate) fn asker(&self) -> Option<&PeerBytes> {
        self.heard.peer.as_ref().filter(|_| self.item.is_message())
    }
}

/// The result of parking a job.
pub(crate) struct Parked {
    /// The jobs that were removed to make room.
    pub(crate) evicted: Vec<Job>,
    /// The job itself and the reason, if there was no room for it.
    pub(crate) refused: Option<(Job, NoRoom)>,
}

/// What one peer holds in the parking place.
#[derive(Debug, Default)]
struct Holding {
    ids: BTreeSet<u64>,
    n_bytes: usize,
}

/// The jobs that wait, by number, with the share of each peer.
#[derive(Debug)]
pub(crate) struct Parking {
    limits: ParkingLimits,
    jobs: BTreeMap<u64, Job>,
    by_peer: HashMap<Option<PeerBytes>, Holding>,
    n_bytes: usize,
    /// Number of jobs that are messages of their own, not parts of a block.
    n_messages: usize,
    next: u64,
}

impl Parking {
    pub(crate) fn new(limits: ParkingLimits) -> Self {
        Self { limits, jobs: BTreeMap::new(), by_peer: HashMap::new(), n_bytes: 0, n_messages: 0, next: 0 }
    }

    /// Number of all jobs that wait, including parts of blocks.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Bytes of SSZ of all jobs that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.n_bytes
    }

    /// Number of jobs that are messages of their own, not parts of a block.
    pub(crate) fn n_messages(&self) -> usize {
        self.n_messages
    }

    /// The arrival time of the job that has waited longest.
    pub(crate) fn waits_since(&self) -> Option<Time> {
        // The map is not in order of arrival: a job that was tried in between is behind jobs that
        // came later.
        self.jobs.values().map(|job| job.since).min()
    }

    /// Parks a job, if there is room or room can be made.
    pub(crate) fn park(&mut self, job: Job) -> Parked {
        let peer = job.holder();
        let (n_held, bytes_held) = self.by_peer.get(&peer).map_or((0, 0), |holding| (holding.ids.len(), holding.n_bytes));
        let mut evicted = Vec::new();
        if peer.is_some() && n_held >= self.limits.messages_per_peer {
            return Parked { evicted, refused: Some((job, NoRoom::PeerMessages)) };
        }
        if peer.is_some() && bytes_held + job.n_bytes > self.limits.bytes_per_peer {
            return Parked { evicted, refused: Some((job, NoRoom::PeerBytes)) };
        }
        while self.jobs.len() >= self.limits.messages || self.n_bytes + job.n_bytes > self.limits.bytes {
            // The peer with the largest share gives way, unless that is the peer of the new job.
            let shares = self.by_peer.iter().map(|(peer, holding)| (self.share(holding.ids.len(), holding.n_bytes), peer));
            let oldest = match shares.max() {
                Some((most, largest)) if most > self.share(n_held, bytes_held) && *largest != peer => {
                    self.by_peer.get(largest).and_then(|holding| holding.ids.first().copied())
                }
                Some(_) | None => None,
            };
            match oldest.and_then(|id| self.take(id)) {
                Some(job) => evicted.push(job),
                None => return Parked { evicted, refused: Some((job, NoRoom::Full)) },
            }
        }
        let id = self.next;
        self.next += 1;
        self.n_bytes += job.n_bytes;
        self.n_messages += usize::from(job.item.is_message());
        let holding = self.by_peer.entry(peer).or_default();
        holding.ids.insert(id);
        holding.n_bytes += job.n_bytes;
        self.jobs.insert(id, job);
        Parked { evicted, refused: None }
    }

    /// The share of the parking place that this many messages and bytes use. The scale is the same
    /// for both, so shares can be compared.
    fn share(&self, n_messages: usize, n_bytes: usize) -> u128 {
        (n_messages as u128 * self.limits.bytes as u128).max(n_bytes as u128 * self.limits.messages as u128)
    }

    /// Removes and returns the jobs that have waited since before `oldest`.
    pub(crate) fn expire(&mut self, oldest: Time) -> Vec<Job> {
        self.take_if(|job| job.since < oldest)
    }

    /// Removes and returns the jobs for which `wanted` returns true.
    pub(crate) fn take_if(&mut self, mut wanted: impl FnMut(&Job) -> bool) -> Vec<Job> {
        let ids: Vec<u64> = self.jobs.iter().filter(|(_, job)| wanted(job)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    fn take(&mut self, id: u64) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.n_bytes -= job.n_bytes;
        self.n_messages -= usize::from(job.item.is_message());
        let holder = job.holder();
        if let Some(holding) = self.by_peer.get_mut(&holder) {
            holding.ids.remove(&id);
            holding.n_bytes -= job.n_bytes;
            if holding.ids.is_empty() {
                self.by_peer.remove(&holder);
            }
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Origin, SourceKind};
    use consensus::{AggregationBits, Attestation, AttestationData, MessageKind, SignatureBytes};

    fn job(peer: Option<u8>, number: u64) -> Job {
        let vote = VoteByBits::Alone(Box::new(Attestation {
            aggregation_bits: AggregationBits::with_capacity(1).unwrap(),
            data: AttestationData::default(),
            committee_bits: None,
            signature: SignatureBytes::ZERO,
        }));
        let peer: Option<PeerBytes> = peer.map(|peer| PeerBytes::from([peer]));
        let origin = Origin { source: SourceKind::Gossip, peer: peer.clone(), fork: None, subscribed: None };
        Job {
            item: PendingOutcome::message(number, None, origin, MessageKind::AttestationByBits),
            heard: FirstSeen { at: Time(number), source: SourceKind::Gossip, peer },
            vote,
            data_root: Root::ZERO,
            n_bytes: 100,
            since: Time(number),
            tried: Vec::new(),
        }
    }

    fn limits() -> ParkingLimits {
        ParkingLimits { messages: 10, bytes: 1000, messages_per_peer: 8, bytes_per_peer: 800, wait_epochs: 1, tries: 1 }
    }

    #[test]
    fn who_holds_most_gives_way() {
        let mut parking = Parking::new(limits());
        for number in 0..8 {
            assert!(parking.park(job(Some(1), number)).refused.is_none());
        }
        // Peer 1 has used up its share of 8 messages.
        assert!(parking.park(job(Some(1), 8)).refused.is_some());
        assert!(parking.park(job(Some(2), 9)).refused.is_none());
        assert!(parking.park(job(Some(2), 10)).refused.is_none());
        // The place is full, so peer 1 loses its oldest job.
        let parked = parking.park(job(Some(3), 11));
        assert!(parked.refused.is_none());
        assert_eq!(parked.evicted.iter().map(|job| job.heard.at.0).collect::<Vec<_>>(), [0]);
        assert_eq!((parking.len(), parking.n_messages(), parking.bytes()), (10, 10, 1000));
        // The largest holder makes nobody else give way.
        assert!(parking.park(job(Some(1), 12)).refused.is_some());
        assert_eq!(parking.waits_since(), Some(Time(1)));
        assert_eq!(parking.expire(Time(9)).len(), 7);
        assert_eq!(parking.waits_since(), Some(Time(9)));
        assert_eq!(parking.take_if(|_| true).len(), 3);
        assert_eq!(parking.waits_since(), None);
        assert_eq!((parking.len(), parking.n_messages(), parking.bytes(), parking.by_peer.len()), (0, 0, 0, 0));
    }

    #[test]
    fn parts_of_blocks_take_nobodys_share() {
        let mut parking = Parking::new(limits());
        for number in 0..10 {
            let mut part = job(Some(1), number);
            part.item = part.item.inside(crate::InnerKind::Attestation);
            assert!(parking.park(part).refused.is_none(), "part {number}");
        }
        // Parts of blocks give way like the jobs of any peer.
        let parked = parking.park(job(Some(1), 10));
        assert_eq!((parked.refused.is_none(), parked.evicted.len()), (true, 1));
        assert_eq!(parking.take_if(|_| true).len(), 10);
        assert_eq!((parking.n_messages(), parking.by_peer.len()), (0, 0));
    }

    /// Peers that send votes of the largest size do not keep out a peer that sends more votes of a
    /// small size.
    #[test]
    fn bytes_count_by_peer_too() {
        let bytes = 100_000;
        let mut parking =
            Parking::new(ParkingLimits { messages: 1000, bytes, messages_per_peer: 100, bytes_per_peer: 50_000, ..limits() });
        let large = |peer, number| Job { n_bytes: 20_000, ..job(Some(peer), number) };
        let taken = |peer| {
            let mut taken = 0;
            for number in 0..3 {
                taken += usize::from(parking.park(large(peer, number)).refused.is_none());
            }
            taken
        };
        let taken: Vec<usize> = [1, 2].map(taken).into();
        assert_eq!(taken, [2, 2], "each has half of the bytes");
        assert_eq!(parking.park(large(1, 9)).refused.map(|(_, why)| why), Some(NoRoom::PeerBytes));
        // 100 votes of 100 bytes fit beside them. 100 more fit after one large vote is removed.
        for number in 0..100 {
            assert!(parking.park(job(Some(3), number)).refused.is_none(), "small vote {number}");
        }
        assert_eq!(parking.park(job(Some(3), 100)).refused.map(|(_, why)| why), Some(NoRoom::PeerMessages));
        let mut evicted = Vec::new();
        for number in 0..100 {
            let parked = parking.park(Job { n_bytes: 150, ..job(Some(4), number) });
            assert!(parked.refused.is_none(), "small vote {number} of another peer");
            evicted.extend(parked.evicted);
        }
        assert_eq!(evicted.iter().map(|job| job.n_bytes).collect::<Vec<_>>(), [20_000]);
        assert!(parking.bytes() <= bytes);
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let mut parking = Parking::new(ParkingLimits { bytes: 250, ..limits() });
        let kept = (0..5).filter(|number| parking.park(job(None, *number)).refused.is_none()).count();
        assert_eq!((kept, parking.bytes()), (2, 200));
    }
}
