//! Arbitrary and mutated bytes. Every decoder of every fork returns without a panic, and whatever
//! it accepts is canonical.

use consensus::ssz_schema::{Catalogue, json_to_ssz};
use consensus::state::{StateView, fork_of_state};
use consensus::*;
use proptest::prelude::*;
use test_support::spec_tests::{SSZ_STATIC, cases};

/// Runs every decoder on these bytes. A value that `validate` accepts must hash, and must be
/// unchanged after a conversion to JSON and back.
fn read_with_everything(fork: ForkName, preset: &Preset, bytes: &[u8]) {
    let catalogue = Catalogue::of(fork, preset);
    for name in catalogue.names() {
        let Ok(ty) = catalogue.get(name) else { continue };
        match ty.validate(bytes) {
            Ok(view) => {
                view.hash_tree_root();
                assert_eq!(json_to_ssz(fork, preset, name, &view.to_json()).as_deref(), Ok(bytes), "{fork} {name}");
            }
            Err(error) => assert!(error.to_string().contains(name), "{error}"),
        }
    }
    let _ = SingleAttestation::from_ssz(bytes).map(|value| assert_eq!(value.to_ssz(), bytes));
    let _ = Attestation::from_ssz(fork, preset, bytes).map(|value| assert_eq!(value.to_ssz(preset), bytes));
    let _ = SignedAggregate::from_ssz(fork, preset, bytes).map(|value| assert_eq!(value.to_ssz(preset), bytes));
    let _ = IndexedAttestation::from_ssz(fork, preset, bytes).map(|value| assert_eq!(value.to_ssz(), bytes));
    let _ = AttesterSlashing::from_ssz(fork, preset, bytes).map(|value| assert_eq!(value.to_ssz(), bytes));
    let _ = ProposerSlashing::from_ssz(bytes).map(|value| assert_eq!(value.to_ssz(), bytes));
    let _ = SignedBeaconBlockHeader::from_ssz(bytes).map(|value| assert_eq!(value.to_ssz(), bytes));
    let _ = SignedInclusionList::from_ssz(fork, preset, bytes).map(|SignedInclusionList { message, .. }| {
        assert_eq!(152 + 4 * message.n_transactions + message.transactions_bytes, bytes.len())
    });
    let block = SignedBlock::from_ssz(fork, preset, bytes);
    assert!(block.is_err() || block_prefix(bytes).is_some());
    for kind in [SidecarKind::Blob, SidecarKind::DataColumn] {
        let _ = sidecar_header(fork, preset, kind, bytes);
    }
    let _ = StateView::parse(fork, preset, bytes).map(|state| (state.latest_block_root(), state.validators().count()));
    let _ = fork_of_state(&Spec::builtin("mainnet").expect("known"), bytes);
}

fn any_fork() -> impl Strategy<Value = ForkName> {
    (0..ForkName::ALL.len()).prop_map(|i| ForkName::ALL[i])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(fork in any_fork(), bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        read_with_everything(fork, &Preset::MINIMAL, &bytes);
        read_with_everything(fork, &Preset::MAINNET, &bytes);
    }

    #[test]
    fn arbitrary_configurations(text in "[ -~\n]{0,200}", key in 0usize..6, value in "[ -~]{0,30}") {
        let _ = Spec::from_yaml(&text);
        let key = ["PRESET_BASE", "BLOB_SCHEDULE", "SLOTS_PER_EPOCH", "FULU_FORK_VERSION", "ELECTRA_FORK_EPOCH", "CONFIG_NAME"][key];
        let _ = Spec::from_yaml(&format!("{key}: {value}\n")).map(|spec| assert_eq!(Spec::from_yaml(&spec.to_yaml()).expect("own"), spec));
    }
}

/// Takes real cases and changes, cuts or appends bytes. Many changes hit offsets.
#[test]
fn mutated_valid_bytes() {
    let cases = cases(SSZ_STATIC, |path| path.first() == Some(&"minimal") && path.last() == Some(&"case_0"));
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let mut n = 0;
    for case in &cases {
        let (preset, fork) = (case.preset(), case.fork());
        let valid = case.ssz("serialized");
        if valid.len() > 100_000 {
            continue;
        }
        for round in 0..12 {
            let mut bytes = valid.clone();
            match round % 4 {
                0 => bytes.truncate(random(valid.len())),
                1 => (0..=random(8)).for_each(|_| bytes.push(random(256) as u8)),
                2 if !bytes.is_empty() => {
                    for _ in 0..=random(4) {
                        let at = random(bytes.len());
                        bytes[at] = [0, 1, 4, 0x7f, 0x80, 0xff, random(256) as u8][random(7)];
                    }
                }
                _ if bytes.len() > 8 => {
                    let at = random(bytes.len().min(400) - 4);
                    let offset =
                        [0, 1, bytes.len() as u32, bytes.len() as u32 + 1, u32::MAX, random(bytes.len()) as u32][random(6)];
                    bytes[at..at + 4].copy_from_slice(&offset.to_le_bytes());
                }
                _ => {}
            }
            read_with_everything(fork, &preset, &bytes);
            n += 1;
        }
    }
    println!("mutated messages: {n} from {} cases", cases.len());
    assert!(n > 100);
}

/// A number that a message claims must not cost memory or time. 16 MiB of offsets are refused or
/// read in linear time.
#[test]
fn claims_cost_nothing() {
    let started = std::time::Instant::now();
    for fork in ForkName::ALL {
        for fill in [0u32, 4, 100, 0x0100_0000, u32::MAX] {
            let mut bytes = fill.to_le_bytes().repeat(1 << 22);
            read_with_everything_of_a_message(fork, &bytes);
            bytes[..4].copy_from_slice(&100u32.to_le_bytes());
            read_with_everything_of_a_message(fork, &bytes);
        }
    }
    println!("80 messages of 16 MiB in {:?}", started.elapsed());
    assert!(started.elapsed().as_secs() < 60);
}

fn read_with_everything_of_a_message(fork: ForkName, bytes: &[u8]) {
    let preset = Preset::MAINNET;
    let _ = SignedBlock::from_ssz(fork, &preset, bytes);
    let _ = Attestation::from_ssz(fork, &preset, bytes);
    let _ = AttesterSlashing::from_ssz(fork, &preset, bytes);
    let _ = StateView::parse(fork, &preset, bytes);
}
