//! Adds votes to the index: votes on time, late votes, and votes of a validator that has already
//! contradicted itself. The commit is not measured, because it depends on the disk.
//!
//! The index holds [`EPOCHS`] epochs of [`N_VALIDATORS`] validators. One validator in
//! [`ABSENT_SHARE`] was absent from the second epoch on. Its votes for those epochs are the late
//! votes.

use crate::Ratio;
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, Preset, Root, Shuffling, SignatureBytes, SingleAttestation, Slot,
    ValidatorIndex,
};
use criterion::{Criterion, Throughput};
use index::{Index, Shape};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::capture::Capture;
use verify::{FirstSeen, Signed, SourceKind, Time, Vote};

const N_VALIDATORS: u64 = 8192;
const FIRST_EPOCH: u64 = 1000;
const EPOCHS: u64 = 48;
const END: u64 = FIRST_EPOCH + EPOCHS;
const ABSENT_SHARE: u64 = 4;
const N_OFFENDERS: u64 = 256;
const SLOTS: u64 = 32;

pub fn run(criterion: &mut Criterion) -> Vec<Ratio> {
    let mut group = criterion.benchmark_group("index");
    group.measurement_time(Duration::from_secs(2));

    let mut votes = Votes::new();
    let mut history = History::new(&mut votes);
    let per_slot = N_VALIDATORS / SLOTS;
    group.throughput(Throughput::Elements(per_slot));
    let mut slot = END * SLOTS;
    group.bench_function("slot_on_time_in_sums", |bencher| {
        bencher.iter_custom(|n| {
            history.timed(n, || {
                slot += 1;
                votes.committees_of(slot, |_| true)
            })
        });
    });

    group.throughput(Throughput::Elements(1));
    let mut history = History::new(&mut votes);
    let mut nth = 0;
    group.bench_function("single_on_time", |bencher| {
        bencher.iter_custom(|n| {
            history.timed(n, || {
                let validator = 1 + nth % (ABSENT_SHARE - 1) + ABSENT_SHARE * (nth / 3 % (N_VALIDATORS / ABSENT_SHARE));
                let epoch = END + nth / 3 / (N_VALIDATORS / ABSENT_SHARE);
                nth += 1;
                vec![votes.single(validator, epoch, 0)]
            })
        });
    });

    // Each late vote can be used once. When all of them are used, the history is built again.
    let n_absent = N_VALIDATORS / ABSENT_SHARE;
    let n_late = n_absent * (EPOCHS - 4);
    let mut history = History::new(&mut votes);
    let mut nth = 0;
    group.bench_function("single_late", |bencher| {
        bencher.iter_custom(|mut n| {
            let mut took = Duration::ZERO;
            while n > 0 {
                if nth == n_late {
                    history = History::new(&mut votes);
                    nth = 0;
                }
                let now = n.min(n_late - nth);
                n -= now;
                took += history.timed(now, || {
                    // The epochs are not in order.
                    let epoch = FIRST_EPOCH + 2 + nth * 7 % (EPOCHS - 4);
                    let validator = nth / (EPOCHS - 4) % n_absent * ABSENT_SHARE;
                    nth += 1;
                    vec![votes.single(validator, epoch, 0)]
                });
            }
            took
        });
    });

    let mut history = History::new(&mut votes);
    for validator in (0..N_OFFENDERS).map(offender) {
        let second = votes.single(validator, END - 1, 1);
        let conflicts = history.index.stage_votes(&[second]).unwrap();
        assert_eq!(conflicts.len(), 1, "a second vote for the target");
    }
    history.index.commit().unwrap();
    let mut nth = 0;
    group.bench_function("single_of_an_offender", |bencher| {
        bencher.iter_custom(|n| {
            history.timed(n, || {
                let vote = votes.single(offender(nth % N_OFFENDERS), END + nth / N_OFFENDERS, 0);
                nth += 1;
                vec![vote]
            })
        });
    });
    group.finish();
    let ratio = |slow, fast, says| Ratio { group: "index", slow, fast, says };
    vec![
        ratio(("single_on_time", 1), ("slot_on_time_in_sums", per_slot), "times as fast as a vote by itself is a vote in a sum"),
        ratio(("single_late", 1), ("single_on_time", 1), "times as long as a vote on time takes a late one"),
        ratio(("single_of_an_offender", 1), ("single_on_time", 1), "times as long as others' takes an offender's vote on time"),
    ]
}

/// A validator that was not absent.
fn offender(nth: u64) -> u64 {
    nth * ABSENT_SHARE + 1
}

/// An index that contains the earlier epochs.
struct History {
    index: Index,
    _dir: TempDir,
}

impl History {
    fn new(votes: &mut Votes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape { genesis_validators_root: Root::repeat_byte(7), slots_per_epoch: SLOTS, history_epochs: 54_000 };
        let mut index = Index::open(dir.path(), shape).unwrap();
        for epoch in FIRST_EPOCH..END {
            for slot in epoch * SLOTS..(epoch + 1) * SLOTS {
                let is_there = |validator: u64| epoch < FIRST_EPOCH + 2 || !validator.is_multiple_of(ABSENT_SHARE);
                assert!(index.stage_votes(&votes.committees_of(slot, is_there)).unwrap().is_empty(), "honest votes");
            }
            index.commit().unwrap();
        }
        Self { index, _dir: dir }
    }

    /// Stages `n` batches and returns the time. Building and committing the batches is not counted.
    fn timed(&mut self, n: u64, mut batch: impl FnMut() -> Vec<Signed<Vote>>) -> Duration {
        let mut took = Duration::ZERO;
        for nth in 0..n {
            let batch = batch();
            let started = Instant::now();
            let conflicts = self.index.stage_votes(&batch).unwrap();
            took += started.elapsed();
            assert!(conflicts.is_empty(), "none of these contradicts another");
            if nth % 512 == 511 {
                self.index.commit().unwrap();
            }
        }
        self.index.commit().unwrap();
        took
    }
}

/// Makes votes. Each signature is a real point of the curve, so adding signatures has its real
/// cost. It is not a valid signature of the vote, because the index does not check it.
struct Votes {
    active: Arc<Vec<u32>>,
    shuffling: Arc<Shuffling>,
    signature: SignatureBytes,
}

impl Votes {
    fn new() -> Self {
        let active = Arc::new((0..N_VALIDATORS as u32).collect::<Vec<u32>>());
        let capture = Capture::read(&test_support::capture("electra_6"));
        let of_somebody = capture.named("beacon_attestation_").next().unwrap();
        let signature = SingleAttestation::from_ssz(&of_somebody).unwrap().signature;
        Self { shuffling: shuffling(FIRST_EPOCH, &active), active, signature }
    }

    /// One aggregate for each committee of the slot.
    fn committees_of(&mut self, slot: u64, is_there: impl Fn(u64) -> bool) -> Vec<Signed<Vote>> {
        let epoch = slot / SLOTS;
        if self.shuffling.epoch().as_u64() != epoch {
            self.shuffling = shuffling(epoch, &self.active);
        }
        let shuffling = self.shuffling.clone();
        (0..shuffling.committees_per_slot())
            .map(|committee| {
                let members = shuffling.committee(Slot::new(slot), CommitteeIndex::new(committee)).unwrap();
                let members = members.iter().map(|member| u64::from(*member)).filter(|member| is_there(*member));
                self.vote(members.collect(), slot, 0, Some(shuffling.clone()))
            })
            .collect()
    }

    /// A single vote from a verifier that does not know the committees.
    fn single(&self, validator: u64, epoch: u64, head: u8) -> Signed<Vote> {
        self.vote(vec![validator], epoch * SLOTS + validator % SLOTS, head, None)
    }

    fn vote(&self, mut members: Vec<u64>, slot: u64, head: u8, shuffling: Option<Arc<Shuffling>>) -> Signed<Vote> {
        members.sort_unstable();
        let epoch = slot / SLOTS;
        let data = AttestationData {
            slot: Slot::new(slot),
            index: CommitteeIndex::new(0),
            beacon_block_root: Root::repeat_byte(head),
            source: Checkpoint { epoch: Epoch::new(epoch - 1), root: Root::repeat_byte(1) },
            target: Checkpoint { epoch: Epoch::new(epoch), root: Root::repeat_byte(2) },
        };
        let heard = FirstSeen { at: Time(slot * 12_000_000_000), source: SourceKind::Gossip, peer: None };
        Signed::for_tests(Vote {
            data,
            data_root: data.root(),
            arrivals: vec![heard.arrival(); members.len()],
            indices: members.into_iter().map(ValidatorIndex::new).collect(),
            signature: self.signature,
            shuffling,
            signed_with: None,
            heard,
        })
    }
}

fn shuffling(epoch: u64, active: &Arc<Vec<u32>>) -> Arc<Shuffling> {
    let seed = Root::from(consensus::sha256(&epoch.to_le_bytes()));
    let shuffling = Shuffling::new(Epoch::new(epoch), seed, seed, active.clone(), &Preset::MAINNET);
    // In operation, the verifier has already built the seats to resolve the votes.
    let _ = shuffling.seat(ValidatorIndex::new(0));
    Arc::new(shuffling)
}
