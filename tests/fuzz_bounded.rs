//! The part of fuzzing that always runs: the targets of `fuzz/`, on the stable compiler, for a
//! short time, on mutated real messages.
//!
//! The inputs are real messages, because random bytes fail at the first offset. They are mutated,
//! because unchanged ones are well-formed. A failure prints the seed and the input. `FUZZ_SEED`
//! repeats a run, and `FUZZ_SECONDS` makes it longer.

#[allow(unused, reason = "made for the fuzzers' crate; the tables and targets are used here")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use consensus::ssz_schema::Catalogue;
use consensus::{ForkName, Preset};
use sources::capture::{CaptureReader, Entry};
use sources::limits;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use targets::{N_KINDS, TARGETS};

/// Seconds for each target. This is enough for some tens of thousands of inputs.
const DEFAULT_SECONDS: f64 = 1.0;
/// Whole capture files are cut to this length. Otherwise they would use all the time.
const MAX_CAPTURE_SEED: usize = 64 << 10;
const MAX_SEEDS: usize = 400;
const N_FORKS: u8 = ForkName::ALL.len() as u8;

#[test]
fn no_mutation_of_real_messages_makes_a_decoder_panic() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SECONDS);
    let now = base::Time::now().0;
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(now);
    println!("FUZZ_SEED={seed}");
    let mut dice = Dice(seed);
    for target in &TARGETS {
        let seeds = seeds_for(target.name);
        assert!(!seeds.is_empty(), "no seeds for {}", target.name);
        // The unchanged seeds come first. They must pass too.
        for whole in &seeds {
            run(target.name, target.run, whole, seed);
        }
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let mut n_inputs = 0;
        while Instant::now() < until {
            let input = mutated(&seeds, &mut dice);
            run(target.name, target.run, &input, seed);
            n_inputs += 1;
        }
        println!("{}: {n_inputs} inputs from {} seeds", target.name, seeds.len());
    }
}

#[test]
fn cargo_fuzz_has_a_file_for_each_target() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    for target in &TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
        let path = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let body = std::fs::read_to_string(&path).unwrap();
        assert!(body.contains(&format!("slashwatch_fuzz::{name}(data)")), "{path} runs something else");
    }
}

fn run(name: &str, target: fn(&[u8]), input: &[u8], seed: u64) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let shown: String = input.iter().take(2048).map(|byte| format!("{byte:02x}")).collect();
        panic!("target {name} failed; FUZZ_SEED={seed}; {} bytes of input: {shown}", input.len());
    }
}

/// Makes a few changes that often break decoders: flipped bits, integers at offsets, cuts,
/// repetitions, parts of other inputs.
fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = dice.below(bytes.len());
        match dice.below(7) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.next() as u8,
            2 => overwrite(&mut bytes, at, &[0u32, 1, 4, 100, u32::MAX, u32::MAX >> 1][dice.below(6)].to_le_bytes()),
            3 => overwrite(&mut bytes, at, &[0u64, 1 << 63, u64::MAX, 1 << 32][dice.below(4)].to_le_bytes()),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + 1 + dice.below(64)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len().max(1)).min(other.len());
                let part = &other[from..(from + 64).min(other.len())];
                overwrite(&mut bytes, at, part);
            }
        }
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
}

/// Returns well-formed inputs of a target, made from the captures.
fn seeds_for(target: &str) -> Vec<Vec<u8>> {
    let prefixed = |prefix: &[u8], bytes: &[u8]| [prefix, bytes].concat();
    let captures: Vec<Vec<u8>> = test_support::captures().iter().map(|path| std::fs::read(path).expect("readable")).collect();
    let entries = captures.iter().flat_map(|bytes| CaptureReader::new(bytes.as_slice()).flatten().map(|located| located.entry));
    // The first byte is the fork's position in `ForkName::ALL`. Presets are 0 mainnet, 1 minimal, 2
    // gnosis. The captures use the minimal preset, except for one with mainnet's.
    let mut seeds = Vec::new();
    match target {
        "message" | "container" => {
            // Every fourth message of every capture is tried as each kind of a fork. Most fail at
            // once, and the right kind is decoded to its end.
            let payloads = entries.filter_map(|entry| match entry {
                Entry::Gossip(gossip) => limits::unpack(&gossip.payload, consensus::MAX_PAYLOAD_SIZE).ok(),
                _ => None,
            });
            for (nth, ssz) in payloads.step_by(4).enumerate() {
                seeds.push(prefixed(&[nth as u8 % N_FORKS, 1, (nth / usize::from(N_FORKS)) as u8 % N_KINDS], &ssz));
                seeds.push(prefixed(&[6, (nth % 2) as u8, nth as u8 % N_KINDS], &ssz));
            }
            // No capture has an inclusion list. 8 is its kind among the messages; the other number
            // is its position among the containers.
            let lists = Catalogue::of(ForkName::Heze, &Preset::MINIMAL).names().position(|name| name == "SignedInclusionList");
            for which in [8, lists.expect("Heze has it") as u8] {
                seeds.insert(0, prefixed(&[ForkName::Heze as u8, 1, which], &inclusion_list()));
            }
        }
        "state" => {
            let states = entries.filter_map(|entry| match entry {
                Entry::State(ssz) => Some(ssz),
                _ => None,
            });
            seeds.extend(
                states
                    .filter(|ssz| ssz.len() < 1 << 20)
                    .zip(0u8..)
                    .flat_map(|(ssz, _)| (0..N_FORKS).map(move |fork| prefixed(&[fork, 1], &ssz))),
            );
        }
        "block_json" => seeds.extend((0..N_FORKS).map(|fork| prefixed(&[fork, 1], BLOCK_JSON.as_bytes()))),
        "capture" => seeds.extend(captures.iter().map(|bytes| bytes[..bytes.len().min(MAX_CAPTURE_SEED)].to_vec())),
        "topic" => seeds.extend(entries.filter_map(|entry| match entry {
            Entry::Gossip(gossip) => Some(gossip.topic.into_bytes()),
            _ => None,
        })),
        "snappy" => seeds.extend(entries.filter_map(|entry| match entry {
            Entry::Gossip(gossip) => Some(prefixed(&[0xff, 0x3f], &gossip.payload)),
            _ => None,
        })),
        "spec_yaml" => seeds.extend(entries.filter_map(|entry| match entry {
            Entry::Config(yaml) => Some(yaml.into_bytes()),
            _ => None,
        })),
        "config" => {
            seeds.push(include_bytes!("../config/reference.toml").to_vec());
            seeds.push(include_bytes!("../config/minimal.toml").to_vec());
        }
        other => panic!("no seeds are known for target {other}"),
    }
    seeds.truncate(MAX_SEEDS);
    seeds
}

/// An inclusion list with three transactions.
fn inclusion_list() -> Vec<u8> {
    let message = [[0u8; 48].as_slice(), &52u32.to_le_bytes()].concat();
    let offsets: Vec<u8> = [12u32, 13, 45].into_iter().flat_map(u32::to_le_bytes).collect();
    [&100u32.to_le_bytes(), [0u8; 96].as_slice(), &message, &offsets, &[7; 78]].concat()
}

/// The beginning of a phase0 block as nodes send it. It only needs to reach the JSON decoder.
const BLOCK_JSON: &str = r#"{"version":"phase0","data":{"message":{"slot":"1","proposer_index":"2","parent_root":"0x00","state_root":"0x00",
"body":{"randao_reveal":"0x00","eth1_data":{"deposit_root":"0x00","deposit_count":"0","block_hash":"0x00"},"graffiti":"0x00",
"proposer_slashings":[],"attester_slashings":[],"attestations":[],"deposits":[],"voluntary_exits":[]}},"signature":"0x00"}}"#;

/// The pseudorandom generator SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
