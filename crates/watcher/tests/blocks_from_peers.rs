//! A watcher that starts from a state, without any beacon node: it gets the blocks since then from
//! a peer, keeps them, and serves them. Real libp2p on loopback. Nothing sleeps.

#![allow(clippy::unwrap_used)]

use consensus::{
    DomainType, MessageKind, Network, Root, SignedBlock, SingleAttestation, Slot, Spec, ValidatorIndex, signing_root,
};
use simulator::keys::Keyring;
use simulator::{Act, Deed, Scenario, Who};
use sources::block_store::{BlockStore, NewBlock, StoreLimits};
use sources::capture::{CaptureReader, Entry};
use sources::gossip::{GossipConfig, GossipHandle, GossipService, MAX_ASKED_BLOCKS, StatusView, listen_address};
use sources::limits;
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use sources::topic::Topic;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use test_support::http::free_port;
use test_support::program::WatcherFolder;
use tokio::sync::watch;
use watcher::config::Config;
use watcher::run::Watcher;

const PATIENCE: Duration = Duration::from_secs(120);
const SLOTS: u64 = 70;
const SLOT_SECONDS: u64 = 12;
/// A peer that keeps more than a watcher: its epochs are longer.
const PEER_LIMITS: StoreLimits = StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: 64 };

struct Played {
    network: Arc<Network>,
    config_yaml: String,
    state: Vec<u8>,
    blocks: Vec<(SignedBlock, Vec<u8>)>,
    second_blocks: Vec<(SignedBlock, Vec<u8>)>,
    /// The votes of the last slot.
    votes: Vec<(Topic, SingleAttestation)>,
    keys: Keyring,
}

/// Plays a network whose last slot is the present one.
fn play() -> Played {
    play_before(0, Vec::new())
}

/// Plays a network in which no block has come for some slots. Second blocks and the votes of the
/// last slot are kept apart.
fn play_before(silent_slots: u64, acts: Vec<Act>) -> Played {
    let scenario = Scenario { slots: SLOTS, slot_duration: Duration::from_secs(SLOT_SECONDS), acts, ..Scenario::quiet(32) };
    println!("seed {}", scenario.seed);
    let genesis_time = base::Time::now().0 / 1_000_000_000 - (SLOTS + silent_slots) * SLOT_SECONDS;
    let (bytes, _) = simulator::record::capture_bytes_since(&scenario, genesis_time).unwrap();
    let entries: Vec<Entry> = CaptureReader::new(&bytes[..]).map(|entry| entry.unwrap().entry).collect();
    let config_yaml =
        entries.iter().find_map(|entry| if let Entry::Config(text) = entry { Some(text.clone()) } else { None }).unwrap();
    let state = entries.iter().find_map(|entry| if let Entry::State(ssz) = entry { Some(ssz.clone()) } else { None }).unwrap();
    let spec = Spec::from_yaml(&config_yaml).unwrap();
    let mut keys = chain::PubkeyCache::in_memory();
    let network = chain::Chain::from_state(spec, &state, &mut keys, &mut |_| ()).unwrap().network().clone();
    let (mut blocks, mut second_blocks, mut votes) = (Vec::<(SignedBlock, Vec<u8>)>::new(), Vec::new(), Vec::new());
    for entry in entries {
        let Entry::Gossip(entry) = entry else { continue };
        let topic = Topic::parse(&entry.topic).unwrap();
        if topic.kind == MessageKind::Block {
            let ssz = limits::unpack(&entry.payload, consensus::MAX_PAYLOAD_SIZE).unwrap();
            let fork = network.fork_of_digest(topic.digest).unwrap();
            let block = SignedBlock::from_ssz(fork, network.preset(), &ssz).unwrap();
            let slot = block.signed_header.message.slot;
            let is_second = blocks.iter().any(|(first, _)| first.signed_header.message.slot == slot);
            if is_second { second_blocks.push((block, ssz)) } else { blocks.push((block, ssz)) }
        } else if let MessageKind::Attestation { .. } = topic.kind {
            let vote =
                SingleAttestation::from_ssz(&limits::unpack(&entry.payload, consensus::MAX_PAYLOAD_SIZE).unwrap()).unwrap();
            if vote.data.slot == Slot::new(SLOTS) {
                votes.push((topic, vote));
            }
        }
    }
    blocks.sort_by_key(|(block, _)| block.signed_header.message.slot);
    assert_eq!(blocks.len() as u64, SLOTS);
    Played { network, config_yaml, state, blocks, second_blocks, votes, keys: Keyring::from_seed(scenario.seed) }
}

impl Played {
    fn head(&self) -> &SignedBlock {
        &self.blocks.last().unwrap().0
    }

    /// A store with all blocks.
    fn store(&self, dir: &Path) -> BlockStore {
        self.false_store(dir, |_| false, |_| false)
    }

    /// A store that lacks some blocks and says that it does not, and that has forged signatures in
    /// others.
    fn false_store(&self, dir: &Path, lacks: impl Fn(u64) -> bool, is_forged: impl Fn(u64) -> bool) -> BlockStore {
        let mut last = Root::ZERO;
        let store = BlockStore::open(dir, PEER_LIMITS).unwrap();
        for (block, ssz) in &self.blocks {
            let header = block.signed_header.message;
            let (slot, root, proposer) = (header.slot, block.root, header.proposer_index);
            if lacks(slot.as_u64()) {
                continue;
            }
            let mut ssz = ssz.clone();
            if is_forged(slot.as_u64()) {
                // The signature of another block is a point of the curve.
                ssz[4..100].copy_from_slice(self.blocks[0].0.signed_header.signature.as_slice());
            }
            let digest = self.network.fork_digest_at(slot.epoch(self.network.preset()));
            let new = NewBlock { slot, root, parent: last, proposer, is_in_turn: true, digest, ssz: &ssz };
            store.keep(&new, Slot::new(SLOTS)).unwrap();
            last = root;
        }
        store.set_head(self.head().root);
        store
    }

    /// A store with a chain of `n` blocks that one validator signed, out of turn.
    fn false_past(&self, dir: &Path, by: ValidatorIndex, n: usize) -> BlockStore {
        let store = BlockStore::open(dir, PEER_LIMITS).unwrap();
        let secret = simulator::keys::Keyring::from_seed(Scenario::quiet(32).seed).secret(by);
        let sign = |root: Root, kind: DomainType, slot: Slot| {
            let root = signing_root(root, self.network.domain(kind, slot.epoch(self.network.preset())));
            secret.sign(root.as_slice(), b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_", &[]).to_bytes()
        };
        let mut parent = self.blocks[0].0.signed_header.message.parent_root;
        for (block, ssz) in &self.blocks[..n] {
            let slot = block.signed_header.message.slot;
            let epoch = slot.epoch(self.network.preset());
            let digest = self.network.fork_digest_at(epoch);
            let mut ssz = ssz.clone();
            // A message begins with slot, proposer and parent, and a body with the randao reveal.
            ssz[108..116].copy_from_slice(&by.as_u64().to_le_bytes());
            ssz[116..148].copy_from_slice(parent.as_slice());
            let mut epoch_root = [0; 32];
            epoch_root[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
            ssz[184..280].copy_from_slice(&sign(Root::from(epoch_root), DomainType::Randao, slot));
            let fork = self.network.fork_of_digest(digest).unwrap();
            let root = SignedBlock::from_ssz(fork, self.network.preset(), &ssz).unwrap().root;
            ssz[4..100].copy_from_slice(&sign(root, DomainType::BeaconProposer, slot));
            let new = NewBlock { slot, root, parent, proposer: by, is_in_turn: true, digest, ssz: &ssz };
            store.keep(&new, Slot::new(SLOTS)).unwrap();
            parent = root;
        }
        store.set_head(parent);
        store
    }

    /// A gossip node, with its address.
    async fn node(&self, config: GossipConfig) -> (GossipHandle, String) {
        let (_, status) = watch::channel(StatusView::default());
        let config = GossipConfig { listen: vec![listen_address("/ip4/127.0.0.1/tcp/0").unwrap()], ..config };
        let mut handle = GossipService::start(config, self.network.clone(), status, SourceMetrics::unregistered()).unwrap();
        loop {
            if let Some(SourceEvent::ListeningOn(address)) = handle.events.recv().await {
                return (handle, address.to_string());
            }
        }
    }
}

async fn until_head(watcher: &Watcher, root: Root) {
    let mut snapshots = watcher.snapshots();
    let reached = async { snapshots.wait_for(|snapshot| snapshot.head.root == root).await.unwrap().head.slot };
    assert_eq!(reached.await, Slot::new(SLOTS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_without_a_node_gets_the_blocks_since_its_state_from_a_peer_and_serves_them() {
    let played = tokio::task::spawn_blocking(play).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let blocks = Some(played.store(dir.path()));
        let (serving, address) = played.node(GossipConfig { blocks, ..GossipConfig::default() }).await;
        let stage = WatcherFolder::new(&played.config_yaml, &played.state, &[address], "");
        let port = free_port().port();
        let text = std::fs::read_to_string(&stage.config).unwrap().replace("tcp/0", &format!("tcp/{port}"));
        std::fs::write(&stage.config, &text).unwrap();
        let watcher = Watcher::start(Config::load(&stage.config).unwrap()).await.unwrap();
        until_head(&watcher, played.head().root).await;

        // The peer goes. Whoever asks the watcher now gets all of it.
        serving.shutdown().await;
        let peer = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        let (asking, _) = played.node(GossipConfig { peers: vec![peer], ..GossipConfig::default() }).await;
        let mut views = asking.control.watch_peers();
        views.wait_for(|views| views.iter().any(|view| view.head_slot.is_some())).await.unwrap();
        let mut got = Vec::new();
        for start in (1..=SLOTS).step_by(MAX_ASKED_BLOCKS) {
            got.extend(asking.control.blocks().by_range(Slot::new(start), MAX_ASKED_BLOCKS as u64, &[]).await.unwrap().1);
        }
        let roots = |blocks: &[(SignedBlock, Vec<u8>)]| blocks.iter().map(|(block, _)| block.root).collect::<Vec<_>>();
        assert_eq!(got.iter().map(|block| block.root).collect::<Vec<_>>(), roots(&played.blocks));
        watcher.stop().await.unwrap();

        // After a restart the blocks are there, without any peer.
        let watcher = Watcher::start(Config::load(&stage.config).unwrap()).await.unwrap();
        until_head(&watcher, played.head().root).await;
        watcher.stop().await.unwrap();
        asking.shutdown().await;
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// One peer leaves an epoch out, one has forged signatures, and one is honest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_leaves_blocks_out_or_forges_them_holds_nothing_up() {
    let played = tokio::task::spawn_blocking(play).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let gap = played.false_store(&dir.path().join("gap"), |slot| (14..40).contains(&slot), |_| false);
        let forged = played.false_store(&dir.path().join("forged"), |_| false, |slot| (20..=SLOTS).contains(&slot));
        let honest = played.store(&dir.path().join("honest"));
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for blocks in [gap, forged, honest] {
            let (node, address) = played.node(GossipConfig { blocks: Some(blocks), ..GossipConfig::default() }).await;
            nodes.push(node);
            addresses.push(address);
        }
        let stage = WatcherFolder::new(&played.config_yaml, &played.state, &addresses, "");
        let watcher = Watcher::start(Config::load(&stage.config).unwrap()).await.unwrap();
        until_head(&watcher, played.head().root).await;
        watcher.stop().await.unwrap();
        let limits = StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: played.network.preset().slots_per_epoch };
        let kept = BlockStore::open(&stage.dir.path().join("data/blocks"), limits).unwrap();
        let missing: Vec<u64> = (1..=SLOTS).filter(|slot| !kept.contains(&played.blocks[*slot as usize - 1].0.root)).collect();
        assert_eq!(missing, [0u64; 0]);
        for node in nodes {
            node.shutdown().await;
        }
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// A proposer makes two blocks for one slot. Gossip brings the first. The second reaches nobody
/// that we hear, but one vote names it. It is asked for, and both blocks prove the offence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_block_that_only_a_vote_names_is_asked_for() {
    let act = Act { deed: Deed::DoubleProposal, who: Who::OnDuty(1), from: Slot::new(SLOTS) };
    let played = tokio::task::spawn_blocking(|| play_before(0, vec![act])).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let store = played.store(dir.path());
        let [(second, ssz)] = &played.second_blocks[..] else { panic!("one second block") };
        let header = second.signed_header.message;
        let (slot, root, parent, proposer) = (header.slot, second.root, header.parent_root, header.proposer_index);
        let digest = played.network.fork_digest_at(slot.epoch(played.network.preset()));
        store.keep(&NewBlock { slot, root, parent, proposer, is_in_turn: true, digest, ssz }, slot).unwrap();
        let (sending, address) = played.node(GossipConfig { blocks: Some(store), ..GossipConfig::default() }).await;
        let stage = WatcherFolder::new(&played.config_yaml, &played.state, &[address], "");
        let watcher = Watcher::start(Config::load(&stage.config).unwrap()).await.unwrap();
        until_head(&watcher, played.head().root).await;
        assert_eq!(watcher.store().all_findings().count(), 0);

        let (topic, mut vote) = played.votes[0];
        vote.data.beacon_block_root = root;
        let domain = played.network.domain(DomainType::BeaconAttester, vote.data.target.epoch);
        vote.signature = played.keys.sign(vote.attester_index, signing_root(vote.data.root(), domain));
        let mut views = sending.control.watch_peers();
        while sending.control.publish(topic, &vote.to_ssz()).await.is_err() {
            views.changed().await.unwrap();
        }
        let mut snapshots = watcher.snapshots();
        while watcher.store().all_findings().count() == 0 {
            snapshots.changed().await.unwrap();
        }
        let finding = watcher.store().all_findings().next().unwrap().unwrap().1;
        assert_eq!((finding.kind.as_str(), finding.slot), ("double_proposal", slot));
        watcher.stop().await.unwrap();
        sending.shutdown().await;
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// The state is older than what is kept, so nothing of an answer is kept either. The block that was
/// made up is signed by a key that the network has, but not in its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_to_be_kept_counts_only_if_it_was_built_in_turn() {
    // Kept are 66 epochs of 8 slots.
    let played = tokio::task::spawn_blocking(|| play_before(66 * 8, Vec::new())).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let false_past = played.false_past(&dir.path().join("false"), ValidatorIndex::new(5), 16);
        let honest = played.store(&dir.path().join("honest"));
        // The watcher hears of the honest peer after it has asked the other one.
        let (liar, address) = played.node(GossipConfig { blocks: Some(false_past), ..GossipConfig::default() }).await;
        let (honest, honest_address) = played.node(GossipConfig { blocks: Some(honest), ..GossipConfig::default() }).await;
        let stage = WatcherFolder::new(&played.config_yaml, &played.state, &[address, honest_address], "");
        let watcher = Watcher::start(Config::load(&stage.config).unwrap()).await.unwrap();
        until_head(&watcher, played.head().root).await;
        watcher.stop().await.unwrap();
        liar.shutdown().await;
        honest.shutdown().await;
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}
