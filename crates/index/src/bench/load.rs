//! The load: which validator votes for what, and in which batch.

use super::{Options, VoteShape};
use blst::min_pk::{AggregateSignature, SecretKey, Signature};
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, Preset, Root, Shuffling, SignatureBytes, Slot, ValidatorIndex,
};
use std::sync::Arc;
use verify::{FirstSeen, SourceKind, Time, Vote};

/// One validator in this many is absent from the third epoch to the third last one. Its votes come
/// late.
pub const SLEEPER_SHARE: u64 = 256;
/// The first target epoch. It is far enough from zero for any source distance.
const FIRST_EPOCH: u64 = 400_000;
const POOL: usize = 1 << 14;
const PEERS: u64 = 128;

pub struct IndexLoad {
    options: Options,
    active: Arc<Vec<u32>>,
    shuffling: Arc<Shuffling>,
    epoch: u64,
    pool: Vec<SignatureBytes>,
    next: usize,
    peers: Vec<Arc<[u8]>>,
}

impl IndexLoad {
    pub fn new(options: &Options) -> Self {
        let active = Arc::new((0..options.validators).collect::<Vec<u32>>());
        let peers = (0..PEERS).map(|n| {
            let id: Vec<u8> = (0..5).flat_map(|part| mix(n, part).to_be_bytes()).take(38).collect();
            Arc::from(id)
        });
        Self {
            options: options.clone(),
            shuffling: shuffling(FIRST_EPOCH, &active),
            active,
            epoch: 0,
            pool: pool(),
            next: 0,
            peers: peers.collect(),
        }
    }

    pub fn begin_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.shuffling = shuffling(self.number(epoch), &self.active);
        // The seats are built here so that they count as part of the load. In operation, the
        // verifier has already built them to resolve the votes.
        let _ = self.shuffling.seat(ValidatorIndex::new(0));
    }

    /// The batches of one slot of the current epoch, which is the one that was begun last.
    pub fn slot(&mut self, slot: u64) -> Vec<Vec<Vote>> {
        let n_batches = if self.options.shape == VoteShape::Blocks { 1 } else { self.options.batches_per_slot.max(1) };
        let mut batches: Vec<Vec<Vote>> = (0..n_batches).map(|_| Vec::new()).collect();
        let mut whole: [Vec<u32>; 2] = Default::default();
        let first_slot = self.number(self.epoch) * 32;
        for committee in 0..self.shuffling.committees_per_slot() {
            let shuffling = self.shuffling.clone();
            let members = shuffling.committee(Slot::new(first_slot + slot), CommitteeIndex::new(committee)).unwrap_or_default();
            let mut parts: Vec<[Vec<u32>; 2]> = (0..n_batches).map(|_| Default::default()).collect();
            for member in members {
                let luck = mix(u64::from(*member), self.epoch);
                if !self.votes(u64::from(*member), luck) {
                    continue;
                }
                let head = usize::from(((luck >> 20) % 10_000) < (self.options.minority * 100.0) as u64);
                let batch = (luck >> 40) as usize % n_batches as usize;
                if self.options.shape == VoteShape::Blocks {
                    whole[head].push(*member);
                } else {
                    parts[batch][head].push(*member);
                }
            }
            let mut so_far: [Vec<u32>; 2] = Default::default();
            for (batch, part) in batches.iter_mut().zip(parts) {
                for (head, members) in part.into_iter().enumerate().filter(|(_, members)| !members.is_empty()) {
                    let members = if self.options.shape == VoteShape::Aggregates {
                        so_far[head].extend(members);
                        so_far[head].clone()
                    } else {
                        members
                    };
                    batch.push(self.vote(self.epoch, slot, head as u8, members, true));
                }
            }
        }
        for (head, members) in whole.into_iter().enumerate().filter(|(_, members)| !members.is_empty()) {
            batches[0].push(self.vote(self.epoch, slot, head as u8, members, true));
        }
        batches
    }

    /// A vote of one validator, from a verifier that no longer knows the committees.
    pub fn single(&mut self, validator: u64, epoch: u64, head: u8) -> Vote {
        self.vote(epoch, validator % 32, head, vec![validator as u32], false)
    }

    fn votes(&self, validator: u64, luck: u64) -> bool {
        let away = validator.is_multiple_of(SLEEPER_SHARE)
            && self.options.epochs >= 6
            && (2..=self.options.epochs - 3).contains(&self.epoch);
        !away && (luck % 100_000) as f64 / 1000.0 < self.options.participation
    }

    fn number(&self, epoch: u64) -> u64 {
        match epoch {
            0 => FIRST_EPOCH,
            // History before the first epoch, in ascending order. Later epochs come after it.
            filled if self.options.bulk && filled <= self.options.epochs => FIRST_EPOCH - 1 - self.options.epochs + filled,
            later if self.options.bulk => FIRST_EPOCH + later - self.options.epochs,
            later => FIRST_EPOCH + later + self.options.absent_epochs,
        }
    }

    fn vote(&mut self, epoch: u64, slot: u64, head: u8, mut members: Vec<u32>, seated: bool) -> Vote {
        members.sort_unstable();
        let target = self.number(epoch);
        let data = AttestationData {
            slot: Slot::new(target * 32 + slot),
            index: CommitteeIndex::new(0),
            beacon_block_root: root(target * 32 + slot, u64::from(head) + 1),
            source: checkpoint(target.saturating_sub(self.options.source_distance)),
            target: checkpoint(target),
        };
        self.next += 1;
        let at = data.slot.as_u64() * 12_000_000_000 + mix(self.next as u64, 3) % 4_000_000_000;
        let peer = self.peers[(mix(self.next as u64, 5) % PEERS) as usize].clone();
        let heard = FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: Some(peer) };
        Vote {
            data,
            data_root: data.root(),
            arrivals: vec![heard.arrival(); members.len()],
            indices: members.into_iter().map(|v| ValidatorIndex::new(u64::from(v))).collect(),
            signature: self.pool[self.next % POOL],
            shuffling: seated.then(|| self.shuffling.clone()),
            signed_with: None,
            heard,
        }
    }
}

fn shuffling(epoch: u64, active: &Arc<Vec<u32>>) -> Arc<Shuffling> {
    let (decision, seed) = (root(epoch, 100), root(epoch, 101));
    Arc::new(Shuffling::new(Epoch::new(epoch), decision, seed, active.clone(), &Preset::MAINNET))
}

fn checkpoint(epoch: u64) -> Checkpoint {
    Checkpoint { epoch: Epoch::new(epoch), root: root(epoch, 0) }
}

fn root(n: u64, salt: u64) -> Root {
    let mut bytes = [0; 32];
    for (part, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(n, salt * 4 + part as u64).to_be_bytes());
    }
    Root::from(bytes)
}

/// Point i + 1 is point i + H, as for the secret keys k + i.
fn pool() -> Vec<SignatureBytes> {
    let mut one = [0; 32];
    one[31] = 1;
    let key = SecretKey::from_bytes(&one).expect("one is a key");
    let step: Signature = key.sign(b"bench", b"slashwatch", &[]);
    let mut point = AggregateSignature::from_signature(&step);
    let mut pool = Vec::with_capacity(POOL);
    for _ in 0..POOL {
        pool.push(SignatureBytes::from(point.to_signature().to_bytes()));
        point.add_signature(&step, false).expect("no check was asked for");
    }
    pool
}

/// SplitMix64 over two numbers, so that the load is the same every time.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b.wrapping_mul(0xd134_2543_de82_ef95)).wrapping_add(1);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
