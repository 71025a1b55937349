//! The registry of a million validators, followed through blocks: what a block and an epoch cost,
//! with the greatest number of requests and without any.

use crate::Ratio;
use chain::{BlockFacts, Chain, PubkeyCache};
use consensus::{
    ConsolidationRequest, DepositData, ExecutionAddress, ForkName, Gwei, PubkeyBytes, RegistryChange, RegistryRequests, Root,
    SignatureBytes, SignedBeaconBlockHeader, SignedBlock, Slot, Spec, ValidatorIndex, WithdrawalRequest, sha256,
};
use criterion::Criterion;
use simulator::load::{Load, LoadPlan};
use std::time::{Duration, Instant};

const VALIDATORS: usize = 1_000_000;
/// `MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD`, and as many deposits.
const REQUESTS: usize = 16;

/// A chain that grows by blocks in turn.
struct Growing {
    chain: Chain,
    keys: Vec<PubkeyBytes>,
    head: (Slot, Root),
    n_asked: usize,
}

pub fn run(criterion: &mut Criterion) -> Vec<Ratio> {
    let mut group = criterion.benchmark_group("registry");
    group.sample_size(10);
    let mut growing: Option<Growing> = None;
    for (name, n_requests) in [("block_without_requests", 0), ("block_with_requests", REQUESTS)] {
        group.bench_function(name, |bencher| {
            let growing = growing.get_or_insert_with(Growing::new);
            bencher.iter_custom(|n| (0..n).map(|_| growing.block(n_requests)).sum());
        });
    }
    group.bench_function("first_block_of_an_epoch", |bencher| {
        let growing = growing.get_or_insert_with(Growing::new);
        bencher.iter_custom(|n| (0..n).map(|_| growing.first_of_epoch()).sum());
    });
    group.finish();
    if let Some(growing) = &growing {
        let stats = growing.chain.stats();
        println!("registry: {} blocks are kept, {} bytes are resident", stats.blocks, resident_bytes());
    }
    vec![Ratio {
        group: "registry",
        slow: ("block_with_requests", 1),
        fast: ("block_without_requests", 1),
        says: "times as long as a block without requests takes one with 16 exits, deposits and consolidations to be followed",
    }]
}

impl Growing {
    fn new() -> Self {
        let load = Load::new(LoadPlan::quiet(VALIDATORS, 1), 0).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (path, all) = (dir.path().join("pubkeys"), load.public_keys());
        PubkeyCache::write_known(&path, &all).unwrap();
        let mut cache = PubkeyCache::open(&path).unwrap();
        let spec = Spec::from_yaml(&load.config_yaml()).unwrap();
        let before = resident_bytes();
        let chain = Chain::from_state(spec, &load.state_ssz(), &mut cache, &mut |_| ()).unwrap();
        println!("registry: the chain of a state of {VALIDATORS} validators takes {} bytes", resident_bytes() - before);
        let keys = all.iter().step_by(7).map(|key| PubkeyBytes::from(key.compress())).collect();
        let mut growing = Self { chain, keys, head: load.head(), n_asked: 0 };
        // The first look-up of a key sorts all of them.
        let started = Instant::now();
        growing.block(1);
        println!("registry: the first request after a state takes {:?}", started.elapsed());
        growing
    }

    /// Adds a block in the next slot, and returns the time that this takes.
    fn block(&mut self, n_requests: usize) -> Duration {
        let slot = self.head.0.saturating_add(1);
        self.chain.tick(slot);
        // The proposers of an epoch are drawn once, whether the registry is followed or not.
        let proposer = self.chain.proposer_on(&self.head.1, slot).unwrap();
        let mut block = empty_block(slot, self.head.1, proposer);
        for _ in 0..n_requests {
            self.n_asked += 1;
            let key = |nth: usize| self.keys[nth % self.keys.len()];
            let source_address = ExecutionAddress::from(<[u8; 20]>::try_from(&key(self.n_asked).as_slice()[..20]).unwrap());
            let requests = &mut block.registry_requests;
            requests.withdrawals.push(WithdrawalRequest {
                source_address,
                validator_pubkey: key(self.n_asked),
                amount: Gwei::new(0),
            });
            requests.deposit_requests.push((
                DepositData {
                    pubkey: key(self.n_asked + 1),
                    withdrawal_credentials: Root::ZERO,
                    amount: Gwei::new(1_000_000_000),
                    signature: SignatureBytes::ZERO,
                },
                self.n_asked as u64,
            ));
            if requests.consolidations.len() < 2 {
                requests.consolidations.push(ConsolidationRequest {
                    source_address,
                    source_pubkey: key(self.n_asked + 2),
                    target_pubkey: key(self.n_asked + 3),
                });
            }
        }
        let facts = BlockFacts {
            root: block.root,
            slot,
            parent_root: self.head.1,
            proposer_index: proposer,
            randao_reveal: block.randao_reveal,
        };
        let started = Instant::now();
        self.chain.extend(&facts);
        self.chain.note_registry_moves(&block, ForkName::Fulu);
        let took = started.elapsed();
        self.head = (slot, block.root);
        assert!(self.chain.followed_record(ValidatorIndex::new(0)).is_some(), "the head is followed");
        took
    }

    /// Goes on to the next epoch, and returns the time that its first block takes.
    fn first_of_epoch(&mut self) -> Duration {
        loop {
            let took = self.block(0);
            if self.head.0.as_u64().is_multiple_of(32) {
                return took;
            }
        }
    }
}

fn empty_block(slot: Slot, parent: Root, proposer: ValidatorIndex) -> SignedBlock {
    let root = Root::from(sha256(&[parent.as_slice(), &slot.as_u64().to_le_bytes()].concat()));
    let mut signed_header = SignedBeaconBlockHeader { message: Default::default(), signature: SignatureBytes::ZERO };
    signed_header.message.slot = slot;
    signed_header.message.parent_root = parent;
    signed_header.message.proposer_index = proposer;
    SignedBlock {
        signed_header,
        root,
        randao_reveal: SignatureBytes::ZERO,
        graffiti: [0; 32],
        fee_recipient: None,
        attestations: Vec::new(),
        attester_slashings: Vec::new(),
        proposer_slashings: Vec::new(),
        voluntary_exits: Vec::new(),
        registry_change: RegistryChange::Possible,
        registry_requests: RegistryRequests::default(),
    }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap() * 4096
}
