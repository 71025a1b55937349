use super::*;
use consensus::Spec;
use sources::capture::CaptureFile;
use std::path::Path;
use verify::VerifyConfig;

/// Over the small capture's state.
fn engine(dir: &DataDir, history_epochs: u64) -> Engine {
    let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
    let spec = Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
    let state = file.first_state().unwrap().unwrap();
    let mut keys = PubkeyCache::in_memory();
    let chain = Chain::from_state(spec, &state, &mut keys, &mut |_| ()).unwrap();
    dir.bind(chain.network()).unwrap();
    let parts = EngineParts {
        chain,
        keys,
        verifier: Verifier::new(VerifyConfig::replay()),
        history_epochs,
        fold_after_epochs: 0,
        detect: DetectConfig::default(),
        watch: WatchParts::default(),
        routes: Vec::new(),
        metrics: Metrics::new(),
        clock: || UnixNs(0),
    };
    Engine::open(dir, parts).unwrap()
}

/// A clock that is ten years ahead costs no history: what is pruned must be old by the chain as well.
#[test]
fn a_wrong_clock_erases_nothing() {
    let path = tempfile::tempdir().unwrap();
    let dir = DataDir::open(path.path()).unwrap();
    let mut engine = engine(&dir, 4_096);
    let network = engine.chain().network().clone();
    let ten_years = UnixNs(network.slot_start_ns(consensus::Slot::new(10)) + 10 * 365 * 86_400 * 1_000_000_000);
    engine.process(Vec::new(), ten_years).unwrap();
    assert!(network.slot_at(ten_years.0).epoch(network.preset()) > Epoch::new(2 * 4_096));
    assert_eq!(engine.pruned_before, Epoch::new(0));
}
