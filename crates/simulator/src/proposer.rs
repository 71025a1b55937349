//! Who proposes. Source: consensus-specs, `compute_proposer_index` (phase0, Electra) and `get_beacon_proposer_index`.

use consensus::{DomainType, ForkName, Preset, Root, Slot, ValidatorIndex, compute_shuffled_index, sha256};

/// The proposer of a slot where every active validator has 32 ETH. `mix` is the randao mix at the end of the epoch before
/// the previous one, as for attesters.
///
/// Balances are equal, so the sampling accepts everybody before Electra (effective balance = maximum) and one in 64 after
/// (32 of 2 048 ETH).
pub(crate) fn proposer(fork: ForkName, preset: &Preset, active: &[u32], mix: Root, slot: Slot) -> ValidatorIndex {
    let seed = slot_seed(preset, mix, slot);
    let n = active.len() as u64;
    for i in 0u64.. {
        let Some(at) = compute_shuffled_index(i % n.max(1), n, seed, preset.shuffle_round_count) else { break };
        let candidate = ValidatorIndex::new(u64::from(active[at as usize]));
        if !fork.has_single_attestations() || accepted_from_electra(seed, i) {
            return candidate;
        }
    }
    ValidatorIndex::new(0)
}

/// `hash(get_seed(state, epoch, DOMAIN_BEACON_PROPOSER) + slot)`.
fn slot_seed(preset: &Preset, mix: Root, slot: Slot) -> Root {
    let mut preimage = [0u8; 44];
    preimage[..4].copy_from_slice(&DomainType::BeaconProposer.bytes());
    preimage[4..12].copy_from_slice(&slot.epoch(preset).as_u64().to_le_bytes());
    preimage[12..].copy_from_slice(mix.as_slice());
    let mut preimage = sha256(&preimage).to_vec();
    preimage.extend_from_slice(&slot.as_u64().to_le_bytes());
    Root::from(sha256(&preimage))
}

/// `effective_balance * MAX_RANDOM_VALUE >= MAX_EFFECTIVE_BALANCE_ELECTRA * random_value` with 32 and 2 048 ETH.
fn accepted_from_electra(seed: Root, i: u64) -> bool {
    let mut preimage = seed.to_vec();
    preimage.extend_from_slice(&(i / 16).to_le_bytes());
    let random = sha256(&preimage);
    let at = (i % 16 * 2) as usize;
    let value = u64::from(u16::from_le_bytes([random[at], random[at + 1]]));
    32 * u64::from(u16::MAX) >= 2048 * value
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::state::{StateView, fork_of_state};
    use consensus::{Epoch, SignedBlock, Spec};
    use sources::capture::{CaptureFile, Entry};
    use std::path::PathBuf;

    /// Captures made with the executable specification; the small set of the repository where the full one is missing.
    fn captures() -> Vec<PathBuf> {
        let folders =
            ["/../../../shared/captures", "/../../tests/data"].map(|end| format!("{}{end}", env!("CARGO_MANIFEST_DIR")));
        let list = |folder: &String| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.filter(|path| path.extension().is_some_and(|end| end == "e2s")).collect()
        };
        let full = list(&folders[0]);
        if full.is_empty() {
            println!("no {}: the small set is used", folders[0]);
            return list(&folders[1]);
        }
        full
    }

    #[test]
    fn proposers_are_those_of_the_specification() {
        let mut n_blocks = 0;
        for path in captures() {
            let file = CaptureFile::open(&path).unwrap();
            let spec = Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
            let ssz = file.first_state().unwrap().unwrap();
            let fork = fork_of_state(&spec, &ssz).unwrap();
            if fork > ForkName::Fulu {
                continue;
            }
            let state = StateView::parse(fork, &spec.preset, &ssz).unwrap();
            let active: Vec<u32> = (0..state.n_validators() as u32).collect();
            let mix = state.randao_mix(Epoch::new(0));
            for located in file.entries().unwrap() {
                let Entry::Gossip(gossip) = located.unwrap().entry else { continue };
                if !gossip.topic.ends_with("/beacon_block/ssz_snappy") {
                    continue;
                }
                let Ok(ssz) = snap::raw::Decoder::new().decompress_vec(&gossip.payload) else { continue };
                let Ok(block) = SignedBlock::from_ssz(fork, &spec.preset, &ssz) else { continue };
                let header = block.signed_header.message;
                // Epochs 0 and 1 are seeded by the genesis state's mixes.
                if header.slot.epoch(&spec.preset) <= Epoch::new(1) {
                    let expected = proposer(fork, &spec.preset, &active, mix, header.slot);
                    assert_eq!(header.proposer_index, expected, "{} slot {}", path.display(), header.slot);
                    n_blocks += 1;
                }
            }
        }
        assert!(n_blocks >= 10, "blocks to compare with: {n_blocks}");
    }
}
