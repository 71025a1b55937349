//! The shuffling vectors of the specification, for one index at a time and for the whole list.

use consensus::{CommitteeIndex, Epoch, Root, Shuffling, Slot, compute_shuffled_index};
use std::sync::Arc;
use test_support::spec_tests::{REFTESTS, cases, hex_value};

#[test]
fn mapping_is_the_specs() {
    let cases = cases(REFTESTS, |path| path.get(2) == Some(&"shuffling"));
    for case in &cases {
        let preset = case.preset();
        let text = case.text("mapping.yaml");
        let seed = Root::from_slice(&hex_value(&text, "seed"));
        let list = text.split("mapping:").nth(1).expect("mapping").trim().trim_start_matches('[').trim_end_matches(']');
        let mapping: Vec<u64> =
            list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| item.parse().expect("index")).collect();
        let count = mapping.len() as u64;
        for (i, to) in mapping.iter().enumerate().take(300) {
            assert_eq!(compute_shuffled_index(i as u64, count, seed, preset.shuffle_round_count), Some(*to), "{}", case.name());
        }
        assert_eq!(compute_shuffled_index(count, count, seed, preset.shuffle_round_count), None);
        // The members of all committees, in order, are the whole shuffled list.
        let active: Arc<Vec<u32>> = Arc::new((0..count as u32).collect());
        let shuffling = Shuffling::new(Epoch::new(0), Root::ZERO, seed, active, &preset);
        let order: Vec<u64> = (0..preset.slots_per_epoch)
            .flat_map(|slot| (0..shuffling.committees_per_slot()).map(move |committee| (slot, committee)))
            .flat_map(|(slot, committee)| {
                let members = shuffling.committee(Slot::new(slot), CommitteeIndex::new(committee)).expect("exists");
                members.iter().map(|index| u64::from(*index)).collect::<Vec<u64>>()
            })
            .collect();
        assert_eq!(order, mapping, "{}", case.name());
    }
    println!("shuffling cases: {}", cases.len());
    if test_support::has_full_set() {
        assert_eq!(cases.len(), 400, "200 of each preset");
    }
}
