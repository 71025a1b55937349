use super::*;
use chain::BlockFacts;
use consensus::{SignatureBytes, ValidatorIndex};
use evidence::{Store, StoreError};
use sources::capture::CaptureFile;
use std::path::Path;

fn genesis() -> Chain {
    let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
    let spec = consensus::Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
    let state = file.first_state().unwrap().unwrap();
    Chain::from_state(spec, &state, &mut chain::PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

/// The claims that are stored, as the engine reads them.
fn load(store: &Store) -> Result<Inclusions, StoreError> {
    let rows = store.checkpoints(Inclusions::PREFIX, Inclusions::PREFIX, Inclusions::MAX_ROWS)?;
    Ok(Inclusions::restore(&rows, store.checkpoint(Inclusions::NOTE)?.as_deref()))
}

fn root(slot: u64, branch: u8) -> Root {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&slot.to_le_bytes());
    Root::from(bytes)
}

fn block(root: Root, slot: u64, parent_root: Root, proposer: u64) -> BlockFacts {
    BlockFacts {
        root,
        slot: Slot::new(slot),
        parent_root,
        proposer_index: ValidatorIndex::new(proposer),
        randao_reveal: SignatureBytes::ZERO,
    }
}

/// Adds blocks of a branch in `slots`. Each block comes from the proposer of its slot.
fn grow(chain: &mut Chain, branch: u8, slots: std::ops::Range<u64>, mut parent_root: Root) {
    for slot in slots {
        let root = root(slot, branch);
        chain.tick(Slot::new(slot));
        let proposer = chain.proposer_on(&parent_root, Slot::new(slot)).unwrap();
        chain.extend(&block(root, slot, parent_root, proposer.as_u64()));
        parent_root = root;
    }
}

/// A slashing in a block that nobody builds on punishes nobody. A slashing in a block that the
/// chain keeps counts until the chain leaves that block.
#[test]
fn a_claim_counts_when_the_chain_has_built_on_it() {
    let mut chain = genesis();
    let per_epoch = chain.network().preset().slots_per_epoch;
    let start = chain.head().root;
    grow(&mut chain, 1, 1..5, start);
    // One orphan, and one block of the chain.
    let (orphan, good) = (root(4, 9), root(4, 1));
    let proposer = chain.proposer_on(&root(3, 1), Slot::new(4)).unwrap();
    chain.extend(&block(orphan, 4, root(3, 1), proposer.as_u64()));
    let (finding, other) = (Root::repeat_byte(1), Root::repeat_byte(2));
    let included = |block_root| Included { slot: Slot::new(4), block_root };
    let mut inclusions = Inclusions::default();
    inclusions.claim(finding, included(good), &chain);
    inclusions.claim(other, included(orphan), &chain);
    assert_eq!(inclusions.check_claims(&chain, SourceState::Open), InclusionChanges::default(), "it is too early");
    let end = 5 + CONFIRMED_AFTER_EPOCHS * per_epoch;
    grow(&mut chain, 1, 5..end, good);
    let changes = inclusions.check_claims(&chain, SourceState::Open);
    assert_eq!(changes, InclusionChanges { included: vec![(finding, included(good))], reopened: Vec::new() });
    assert_eq!(inclusions.check_claims(&chain, SourceState::Open), InclusionChanges::default(), "said once");
    // The watcher restarts. Then a longer branch appears that starts before the block.
    let rows = inclusions.rows();
    assert_eq!((rows.changed.len(), rows.dropped.len(), inclusions.rows()), (2, 0, InclusionRows::default()));
    let mut inclusions = Inclusions::restore(&rows.changed, None);
    grow(&mut chain, 2, 4..end + 20, root(3, 1));
    assert_eq!(chain.head().root, root(end + 19, 2));
    assert_eq!(
        inclusions.check_claims(&chain, SourceState::Open),
        InclusionChanges { included: Vec::new(), reopened: vec![finding] }
    );
}

/// Anyone with a key can sign the latest block, with any parent, and blocks for future slots.
#[test]
fn who_signs_the_latest_block_decides_nothing() {
    let mut chain = genesis();
    let per_epoch = chain.network().preset().slots_per_epoch;
    let start = chain.head().root;
    grow(&mut chain, 1, 1..10, start);
    let mut inclusions = Inclusions::default();
    let (good, forged) = (Root::repeat_byte(1), Root::repeat_byte(2));
    let included = |slot, block_root| Included { slot: Slot::new(slot), block_root };
    inclusions.claim(good, included(5, root(5, 1)), &chain);
    let lonely = |slot, parent_root| block(root(slot, 9), slot, parent_root, 3);
    chain.extend(&lonely(9, root(8, 1)));
    inclusions.claim(forged, included(9, root(9, 9)), &chain);
    let end = 10 + CONFIRMED_AFTER_EPOCHS * per_epoch;
    grow(&mut chain, 1, 10..end, root(9, 1));
    chain.tick(Slot::new(end));
    chain.extend(&lonely(end, root(9, 9)));
    assert_eq!(chain.head().root, root(end, 9), "it is the latest");
    let changes = inclusions.check_claims(&chain, SourceState::Open);
    assert_eq!(changes, InclusionChanges { included: vec![(good, included(5, root(5, 1)))], reopened: Vec::new() });
    // Claims of the far future would displace all others, so they are ignored.
    let n_before = inclusions.claims.len();
    (0..10).for_each(|nth| inclusions.claim(forged, included((1 << 60) + nth, root(nth, 8)), &chain));
    assert_eq!(inclusions.claims.len(), n_before);
}

#[test]
fn too_many_claims_push_out_those_that_the_head_does_not_stand_on() {
    let mut chain = genesis();
    let start = chain.head().root;
    grow(&mut chain, 1, 1..10, start);
    let mut inclusions = Inclusions::default();
    let good = Included { slot: Slot::new(3), block_root: root(3, 1) };
    inclusions.claim(Root::repeat_byte(1), good, &chain);
    for nth in 0..=MAX_BLOCKS as u64 {
        let mut block_root = [7; 32];
        block_root[..8].copy_from_slice(&nth.to_le_bytes());
        inclusions.claim(Root::repeat_byte(2), Included { slot: Slot::new(9), block_root: Root::from(block_root) }, &chain);
    }
    inclusions.check_claims(&chain, SourceState::Open);
    assert_eq!(inclusions.claims.len(), MAX_BLOCKS);
    assert!(inclusions.claims.contains_key(&(good.slot, good.block_root)));
}

/// A checkpoint of version 1, with a block on each of two branches, is converted to rows. Later
/// changes write only the rows that they concern.
#[test]
fn the_one_note_of_version_1_becomes_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = genesis();
    let store = Store::open(dir.path(), chain.network().genesis_validators_root).unwrap();
    let ids: Vec<String> = (1..=3).map(|byte| Root::repeat_byte(byte).to_string()).collect();
    let (kept, left) = (root(4, 1), root(4, 9));
    let note = serde_json::json!([
        ["4", kept, {"findings": [ids[0], ids[1]], "holds": true}],
        ["4", left, {"findings": [ids[2]], "holds": false}],
    ]);
    store.put_checkpoint(Inclusions::NOTE, note.to_string().as_bytes()).unwrap();
    let apply = |rows: InclusionRows| {
        let changes = evidence::Changes { checkpoints: rows.changed, dropped_checkpoints: rows.dropped, ..Default::default() };
        store.apply(changes, &[]).unwrap();
    };
    let mut inclusions = load(&store).unwrap();
    assert_eq!((inclusions.claims.len(), inclusions.n_findings), (2, 3));
    apply(inclusions.rows());
    assert_eq!(store.checkpoint(Inclusions::NOTE).unwrap(), None);
    let loaded = load(&store).unwrap();
    assert_eq!((&loaded.claims, loaded.n_findings, loaded.has_note), (&inclusions.claims, 3, false));
    // There are a thousand blocks with a slashing each. One more block is one more row.
    let start = chain.head().root;
    grow(&mut chain, 1, 1..10, start);
    let claim = |inclusions: &mut Inclusions, nth: u64| {
        inclusions.claim(Root::repeat_byte(7), Included { slot: Slot::new(9), block_root: root(nth, 7) }, &chain);
    };
    (0..1000).for_each(|nth| claim(&mut inclusions, nth));
    apply(inclusions.rows());
    claim(&mut inclusions, 1000);
    let rows = inclusions.rows();
    let n_bytes: usize = rows.changed.iter().map(|(_, value)| value.len()).sum();
    assert!((rows.changed.len(), rows.dropped.len()) == (1, 0) && n_bytes < 400, "{n_bytes} bytes for one more claim");
    apply(rows);
    // Rows that are too old are dropped one by one.
    let end = 12 + KEPT_EPOCHS * chain.network().preset().slots_per_epoch;
    grow(&mut chain, 1, 10..end, root(9, 1));
    inclusions.check_claims(&chain, SourceState::Open);
    let rows = inclusions.rows();
    assert_eq!((rows.changed.len(), rows.dropped.len()), (0, 1003));
    apply(rows);
    assert!(store.checkpoints(Inclusions::PREFIX, Inclusions::PREFIX, 10).unwrap().is_empty());
}
