//! Decodes messages from bytes to typed values: a real block, and the votes of a capture.

use crate::Ratio;
use consensus::{ForkName, Preset, SignedAggregate, SignedBlock, SingleAttestation, sha256};
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use test_support::capture::Capture;

pub fn run(criterion: &mut Criterion) -> Vec<Ratio> {
    let block = test_support::bytes("vectors/mainnet_blocks/el_15537397.signed_block.ssz");
    let capture = Capture::read(&test_support::capture("electra_6"));
    let preset = capture.spec.preset.clone();
    let packed = capture.gossip.iter().find(|message| message.topic.starts_with("beacon_attestation_")).unwrap();
    let single = packed.ssz().unwrap();
    let aggregate = capture.named("beacon_aggregate_and_proof").next().unwrap();

    let mut group = criterion.benchmark_group("decode");
    let bytes = |bytes: &[u8]| Throughput::Bytes(bytes.len() as u64);
    group.throughput(bytes(&block));
    group.bench_function("block_of_mainnet", |bencher| {
        bencher.iter(|| SignedBlock::from_ssz(ForkName::Bellatrix, &Preset::MAINNET, black_box(&block)).unwrap());
    });
    group.bench_function("sha256_of_its_bytes", |bencher| bencher.iter(|| sha256(black_box(&block))));
    group.throughput(bytes(&single));
    group.bench_function("single_vote", |bencher| {
        bencher.iter(|| SingleAttestation::from_ssz(black_box(&single)).unwrap());
    });
    group.bench_function("single_vote_with_snappy_and_root", |bencher| {
        bencher.iter(|| SingleAttestation::from_ssz(&black_box(packed).ssz().unwrap()).unwrap().data.root());
    });
    group.throughput(bytes(&aggregate));
    group.bench_function("aggregate", |bencher| {
        bencher.iter(|| SignedAggregate::from_ssz(ForkName::Electra, &preset, black_box(&aggregate)).unwrap());
    });
    group.finish();
    vec![Ratio {
        group: "decode",
        slow: ("block_of_mainnet", 1),
        fast: ("sha256_of_its_bytes", 1),
        says: "times as long as hashing its bytes once takes a block to be read, checked and hashed as a tree",
    }]
}
