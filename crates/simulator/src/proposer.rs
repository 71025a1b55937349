//! The proposer of a slot.

use consensus::{ForkName, Gwei, Preset, Root, Slot, ValidatorIndex, compute_proposer};

const EFFECTIVE_BALANCE: Gwei = Gwei::new(32_000_000_000);

/// The proposer of a slot if every active validator has 32 ETH, or the first validator if none is
/// active. `mix` is the randao mix at the
/// end of the epoch before the previous one.
pub(crate) fn proposer(fork: ForkName, preset: &Preset, active: &[u32], mix: Root, slot: Slot) -> ValidatorIndex {
    drawn(fork, preset, active, |_| EFFECTIVE_BALANCE, mix, slot)
}

/// Does the same for other effective balances.
pub(crate) fn drawn(
    fork: ForkName,
    preset: &Preset,
    active: &[u32],
    effective: impl Fn(ValidatorIndex) -> Gwei,
    mix: Root,
    slot: Slot,
) -> ValidatorIndex {
    compute_proposer(fork, preset, active, effective, mix, slot).unwrap_or(ValidatorIndex::new(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::state::{StateView, fork_of_state};
    use consensus::{Epoch, SignedBlock, Spec};
    use sources::capture::{CaptureFile, Entry};
    use std::path::PathBuf;

    /// Captures made with the executable specification.
    fn captures() -> Vec<PathBuf> {
        let mut captures = test_support::captures();
        // The network of a real client starts with a state that the client made in its own way. Its
        // proposers are not those of the specification.
        captures.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with("lodestar")));
        captures
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
            let mix = state.randao_mix(Epoch::new(0));
            for located in file.entries().unwrap() {
                let Entry::Gossip(gossip) = located.unwrap().entry else { continue };
                if !gossip.topic.ends_with("/beacon_block/ssz_snappy") {
                    continue;
                }
                let Ok(ssz) = snap::raw::Decoder::new().decompress_vec(&gossip.payload) else { continue };
                let Ok(block) = SignedBlock::from_ssz(fork, &spec.preset, &ssz) else { continue };
                let header = block.signed_header.message;
                // Epochs 0 and 1 use the mixes of the genesis state as their seeds.
                if header.slot.epoch(&spec.preset) <= Epoch::new(1) {
                    let epoch = header.slot.epoch(&spec.preset);
                    let active: Vec<u32> =
                        (0..).zip(state.validators()).filter(|(_, one)| one.is_active(epoch)).map(|(index, _)| index).collect();
                    let expected = proposer(fork, &spec.preset, &active, mix, header.slot);
                    assert_eq!(header.proposer_index, expected, "{} slot {}", path.display(), header.slot);
                    n_blocks += 1;
                }
            }
        }
        assert!(n_blocks >= 10, "blocks to compare with: {n_blocks}");
    }
}
