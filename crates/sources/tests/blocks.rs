//! Blocks between nodes on loopback: a node that has 70 slots of a simulated network, one that asks
//! for them, and peers whose answers are wrong. Nothing sleeps.

#![allow(clippy::unwrap_used)]

mod common;

use common::packed;
use consensus::{ForkDigest, MessageKind, Network, Root, SignedBlock, Slot, Spec};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::request_response::{self, Codec, Message, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use simulator::Scenario;
use sources::block_store::{BlockStore, Kept, NewBlock, StoreLimits};
use sources::capture::{CaptureReader, Entry};
use sources::gossip::{
    Clock, GossipConfig, GossipHandle, GossipService, MAX_ASKED_BLOCKS, NoAnswer, PeerAddress, PeerBlock, StatusView,
};
use sources::limits;
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use sources::topic::Topic;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::watch;
use verify::{SourceKind, Time};

const PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: u64 = 70;
const BY_RANGE: &str = "beacon_blocks_by_range/2";
const BY_ROOT: &str = "beacon_blocks_by_root/2";

/// A block of the simulated network.
struct Made {
    block: SignedBlock,
    ssz: Vec<u8>,
}

impl Made {
    fn slot(&self) -> u64 {
        self.block.signed_header.message.slot.as_u64()
    }
}

struct Played {
    network: Arc<Network>,
    /// By slot. Some slots have none.
    blocks: Vec<Made>,
}

static PLAYED: LazyLock<Played> = LazyLock::new(|| {
    let scenario = Scenario { slots: SLOTS, missed_blocks_percent: 8, ..Scenario::quiet(32) };
    println!("seed {}", scenario.seed);
    let (bytes, _) = simulator::record::capture_bytes(&scenario).unwrap();
    let entries: Vec<Entry> = CaptureReader::new(&bytes[..]).map(|entry| entry.unwrap().entry).collect();
    let config =
        entries.iter().find_map(|entry| if let Entry::Config(text) = entry { Some(text.clone()) } else { None }).unwrap();
    let state = entries.iter().find_map(|entry| if let Entry::State(ssz) = entry { Some(ssz.clone()) } else { None }).unwrap();
    let mut keys = chain::PubkeyCache::in_memory();
    let chain = chain::Chain::from_state(Spec::from_yaml(&config).unwrap(), &state, &mut keys, &mut |_| ()).unwrap();
    let network = chain.network().clone();
    let mut blocks = Vec::new();
    for entry in entries {
        let Entry::Gossip(entry) = entry else { continue };
        let topic = Topic::parse(&entry.topic).unwrap();
        if topic.kind == MessageKind::Block {
            let ssz = limits::unpack(&entry.payload, consensus::MAX_PAYLOAD_SIZE).unwrap();
            let fork = network.fork_of_digest(topic.digest).unwrap();
            blocks.push(Made { block: SignedBlock::from_ssz(fork, network.preset(), &ssz).unwrap(), ssz });
        }
    }
    blocks.sort_by_key(Made::slot);
    blocks.dedup_by_key(|made| made.slot());
    assert!((55..SLOTS as usize).contains(&blocks.len()), "{} blocks", blocks.len());
    Played { network, blocks }
});

fn digest(slot: Slot) -> ForkDigest {
    PLAYED.network.fork_digest_at(slot.epoch(PLAYED.network.preset()))
}

fn store(dir: &Path) -> BlockStore {
    let limits = StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: PLAYED.network.preset().slots_per_epoch };
    BlockStore::open(dir, limits).unwrap()
}

fn keep_all(store: &BlockStore) {
    for Made { block, ssz } in &PLAYED.blocks {
        let header = block.signed_header.message;
        let (slot, root, parent, proposer) = (header.slot, block.root, header.parent_root, header.proposer_index);
        let new = NewBlock { slot, root, parent, proposer, is_in_turn: true, digest: digest(slot), ssz };
        assert_eq!(store.keep(&new, Slot::new(SLOTS)).unwrap(), Kept::New);
    }
}

/// The clock stands in the last slot.
fn clock() -> Clock {
    Clock::new(|| Time(PLAYED.network.slot_start_ns(Slot::new(SLOTS)) + 1))
}

struct Node {
    handle: GossipHandle,
    address: Option<Multiaddr>,
    metrics: SourceMetrics,
    _status: watch::Sender<StatusView>,
}

async fn node(config: GossipConfig, status: StatusView) -> Node {
    let (status_in, status) = watch::channel(status);
    let metrics = SourceMetrics::unregistered();
    let config = GossipConfig {
        clock: clock(),
        reconnect: base::Backoff::new(Duration::from_millis(50), Duration::from_millis(400)),
        ..config
    };
    let listens = !config.listen.is_empty();
    let mut handle = GossipService::start(config, PLAYED.network.clone(), status, metrics.clone()).unwrap();
    let mut address = None;
    while listens && address.is_none() {
        if let Some(SourceEvent::ListeningOn(found)) = handle.events.recv().await {
            address = Some(found);
        }
    }
    Node { handle, address, metrics, _status: status_in }
}

fn listening() -> GossipConfig {
    GossipConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..GossipConfig::default() }
}

fn dialling(address: &Multiaddr) -> GossipConfig {
    let peer: PeerAddress = address.to_string().parse().unwrap();
    GossipConfig { peers: vec![peer], block_timeout: Duration::from_secs(2), ..GossipConfig::default() }
}

impl Node {
    /// Waits until the only peer has sent its status.
    async fn meet(&mut self) {
        let mut views = self.handle.control.watch_peers();
        while !views.borrow_and_update().iter().any(|info| info.head_slot.is_some()) {
            views.changed().await.unwrap();
        }
    }

    async fn by_range(&self, start: u64, count: u64) -> Result<Vec<PeerBlock>, NoAnswer> {
        self.handle.control.blocks().by_range(Slot::new(start), count, &[]).await.map(|(_, blocks)| blocks)
    }

    fn results(&self, result: &str) -> u64 {
        self.metrics.block_requests.with_label_values(&[result]).get()
    }
}

#[tokio::test]
async fn a_node_gets_all_blocks_from_another_by_range_and_by_root() {
    let dir = tempfile::tempdir().unwrap();
    keep_all(&store(dir.path()));
    // The store is opened again, as after a restart.
    let kept = store(dir.path());
    let head = &PLAYED.blocks.last().unwrap().block;
    kept.set_head(head.root);
    let test = async {
        let view = StatusView { head_root: head.root, head_slot: head.signed_header.message.slot, ..StatusView::default() };
        let serving = node(GossipConfig { blocks: Some(kept.clone()), ..listening() }, view).await;
        let mut asking = node(dialling(serving.address.as_ref().unwrap()), StatusView::default()).await;
        asking.meet().await;
        let (mut got, mut at) = (Vec::new(), 1);
        while at <= SLOTS {
            got.extend(asking.by_range(at, MAX_ASKED_BLOCKS as u64).await.unwrap());
            at += MAX_ASKED_BLOCKS as u64;
        }
        assert_eq!(got.len(), PLAYED.blocks.len());
        for (got, made) in got.iter().zip(&PLAYED.blocks) {
            assert_eq!((got.root, got.slot.as_u64(), &got.message.bytes), (made.block.root, made.slot(), &made.ssz));
            assert_eq!(got.message.origin.source, SourceKind::Api);
            assert_eq!(got.message.origin.peer.as_deref(), Some(&serving.handle.peer_id.to_bytes()[..]), "it is blamed");
        }
        let wanted: Vec<Root> = [9, 3, 40].into_iter().map(|nth| PLAYED.blocks[nth].block.root).collect();
        let unknown = [Root::repeat_byte(0x77), wanted[0], wanted[1], wanted[2]];
        let (found, n_answers) = asking.handle.control.blocks().by_root_of_several(&unknown).await;
        assert_eq!((found.iter().map(|block| block.root).collect::<Vec<_>>(), n_answers), (wanted, 1));
        // No peer is asked for more than its limiter allows, and none before what it has.
        assert_eq!(asking.by_range(1, 16).await, Err(NoAnswer::Later));
        assert_eq!(asking.by_range(0, 1).await, Err(NoAnswer::NoPeer));
        assert_eq!(serving.metrics.served_blocks.get(), PLAYED.blocks.len() as u64 + 3);
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// What a hostile peer does after the bytes that it sends.
#[derive(Clone, Copy, Debug)]
enum Then {
    End,
    Hang,
    /// It sends the same bytes again, for ever.
    Again,
}

/// Answers with given bytes, and gives every request as it is.
#[derive(Clone, Default)]
struct Hostile;

impl Codec for Hostile {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = (Vec<u8>, Then);

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io.take(1 << 20).read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Self::Response> {
        Err(io::Error::other("asks for nothing"))
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(&mut self, _: &StreamProtocol, _: &mut T, _: Vec<u8>) -> io::Result<()> {
        Err(io::Error::other("asks for nothing"))
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        (bytes, then): Self::Response,
    ) -> io::Result<()> {
        loop {
            io.write_all(&bytes).await?;
            io.flush().await?;
            match then {
                Then::End => return Ok(()),
                Then::Hang => futures::future::pending().await,
                Then::Again => {}
            }
        }
    }
}

#[derive(NetworkBehaviour)]
struct HostileNode {
    status: request_response::Behaviour<Hostile>,
    blocks: request_response::Behaviour<Hostile>,
}

fn protocol(name: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/eth2/beacon_chain/req/{name}/ssz_snappy")).unwrap()
}

/// A chunk with a block.
fn chunk(made: &Made) -> Vec<u8> {
    [&[0], &digest(made.block.signed_header.message.slot).0[..], &packed(&made.ssz)].concat()
}

fn chunks(slots: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    PLAYED.blocks.iter().filter(|made| slots.contains(&made.slot())).flat_map(chunk).collect()
}

/// Starts a peer that claims to have every block, and answers every request for blocks with these
/// bytes. Returns its address.
async fn hostile(answer: (Vec<u8>, Then)) -> Multiaddr {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| {
            let inbound = |name| (protocol(name), ProtocolSupport::Inbound);
            let patient = request_response::Config::default().with_request_timeout(PATIENCE);
            HostileNode {
                status: request_response::Behaviour::new([inbound("status/2")], patient.clone()),
                blocks: request_response::Behaviour::new([inbound(BY_RANGE), inbound(BY_ROOT)], patient),
            }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let id: PeerId = *swarm.local_peer_id();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.with(libp2p::multiaddr::Protocol::P2p(id));
        }
    };
    tokio::spawn(async move {
        let mut status = digest(Slot::new(SLOTS)).0.to_vec();
        status.extend([0; 40]);
        status.extend([7; 32]);
        status.extend(SLOTS.to_le_bytes());
        status.extend(0u64.to_le_bytes());
        let status = [&[0][..], &packed(&status)].concat();
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(HostileNodeEvent::Status(request_response::Event::Message {
                    message: Message::Request { channel, .. },
                    ..
                })) => drop(swarm.behaviour_mut().status.send_response(channel, (status.clone(), Then::End))),
                SwarmEvent::Behaviour(HostileNodeEvent::Blocks(request_response::Event::Message {
                    message: Message::Request { channel, .. },
                    ..
                })) => drop(swarm.behaviour_mut().blocks.send_response(channel, answer.clone())),
                _ => {}
            }
        }
    });
    address
}

/// The result of a request, that of the next one, and which results were counted.
type Results = (Result<usize, NoAnswer>, Result<usize, NoAnswer>, Vec<&'static str>);

/// Asks for slots 17 to 32.
async fn asked_of(answer: (Vec<u8>, Then)) -> Results {
    asked_for(17, 16, answer).await
}

async fn asked_for(start: u64, count: u64, answer: (Vec<u8>, Then)) -> Results {
    let address = hostile(answer).await;
    let mut asking = node(dialling(&address), StatusView::default()).await;
    asking.meet().await;
    let first = asking.by_range(start, count).await.map(|blocks| blocks.len());
    let second = asking.by_range(start, count).await.map(|blocks| blocks.len());
    let labels = ["blocks", "empty", "wrong", "error", "rate_limited", "timeout", "closed", "broken"];
    let counted = labels.into_iter().filter(|label| asking.results(label) > 0).collect();
    (first, second, counted)
}

#[tokio::test]
async fn a_peer_that_answers_wrongly_is_left_alone() {
    let right = chunks(17..=32);
    let n_right = PLAYED.blocks.iter().filter(|made| (17..=32).contains(&made.slot())).count();
    let mut other_digest = right.clone();
    other_digest[1] ^= 1;
    let mut skipped: Vec<&Made> = PLAYED.blocks.iter().filter(|made| (17..=32).contains(&made.slot())).collect();
    skipped.remove(3);
    let oversized = [&[0][..], &digest(Slot::new(17)).0, &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0; 64]].concat();
    let error = |code| [&[code][..], &packed(b"no")].concat();
    let cases = [
        ("blocks of other slots", chunks(33..=48), Then::End, "wrong"),
        ("one block too early", chunks(16..=32), Then::End, "wrong"),
        ("a block left out", skipped.into_iter().flat_map(chunk).collect(), Then::End, "wrong"),
        ("another digest", other_digest, Then::End, "wrong"),
        ("one block for ever", chunks(17..=17), Then::Again, "wrong"),
        ("junk instead of a block", [&[0][..], &digest(Slot::new(17)).0, &packed(&[9; 300])].concat(), Then::End, "wrong"),
        ("junk", vec![0x55; 4000], Then::End, "error"),
        ("a length of four gigabytes", oversized, Then::Hang, "broken"),
        ("silence", Vec::new(), Then::Hang, "timeout"),
        ("silence after some blocks", chunks(17..=20), Then::Hang, "timeout"),
        ("an error", error(3), Then::End, "error"),
        ("too often", error(139), Then::End, "rate_limited"),
    ];
    let test = async {
        for (name, bytes, then, counted) in cases {
            let (first, second, results) = asked_of((bytes, then)).await;
            assert!(matches!(first, Err(NoAnswer::Failed(_))), "{name}: {first:?}");
            assert_eq!(second, Err(NoAnswer::Later), "{name}: it is not asked again at once");
            assert!(results.contains(&counted), "{name}: {results:?}");
        }
        // What is more than was asked for is not read, and a broken end spoils nothing.
        let full =
            PLAYED.blocks.windows(4).find(|four| four[3].slot() == four[0].slot() + 3 && four[0].slot() > 8).unwrap()[0].slot();
        for (name, bytes, then) in [
            ("all, and silence", chunks(full..=full + 3), Then::Hang),
            ("all, and for ever", chunks(full..=full + 3), Then::Again),
            ("the next ones too", chunks(full..=full + 20), Then::End),
        ] {
            assert_eq!(asked_for(full, 4, (bytes, then)).await.0, Ok(4), "{name}");
        }
        let cut = [chunks(17..=32), chunks(33..=60)[..90].to_vec()].concat();
        assert_eq!(asked_of((cut, Then::End)).await.0, Ok(n_right), "cut in the middle of the next one");
        // An empty answer is right if the slots are empty, so it does not count as a failure.
        let (first, second, results) = asked_of((Vec::new(), Then::End)).await;
        assert_eq!((first, second, results), (Ok(0), Ok(0), vec!["empty"]));
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// Somebody names a thousand roots that nobody has, and the caller asks for all of them, as fast as
/// it can. Two peers are asked for no more than their budget each, and in the end nobody is asked.
#[tokio::test]
async fn a_thousand_named_roots_make_us_ask_each_peer_for_no_more_than_its_budget() {
    /// Blocks that one peer is asked for in ten seconds (`BLOCKS_PER_WINDOW`).
    const BUDGET: usize = 96;
    let dir = tempfile::tempdir().unwrap();
    keep_all(&store(dir.path()));
    let head = &PLAYED.blocks.last().unwrap().block;
    let view = StatusView { head_root: head.root, head_slot: head.signed_header.message.slot, ..StatusView::default() };
    let test = async {
        let mut serving = Vec::new();
        for _ in 0..2 {
            let kept = store(dir.path());
            kept.set_head(head.root);
            serving.push(node(GossipConfig { blocks: Some(kept), ..listening() }, view).await);
        }
        let peers = serving.iter().map(|node| node.address.as_ref().unwrap().to_string().parse().unwrap()).collect();
        let asking = node(GossipConfig { peers, ..GossipConfig::default() }, StatusView::default()).await;
        let mut views = asking.handle.control.watch_peers();
        while views.borrow_and_update().iter().filter(|info| info.head_slot.is_some()).count() < 2 {
            views.changed().await.unwrap();
        }
        let roots: Vec<Root> = (0..1000u32).map(|n| Root::from(consensus::sha256(&n.to_le_bytes()))).collect();
        let blocks = asking.handle.control.blocks();
        let began = std::time::Instant::now();
        let (mut n_asked, mut n_refused) = (0, 0);
        for some in roots.chunks(MAX_ASKED_BLOCKS) {
            match blocks.by_root(some, &[]).await {
                Ok((_, found)) => {
                    assert!(found.is_empty());
                    n_asked += some.len();
                }
                Err(NoAnswer::Later) => n_refused += some.len(),
                Err(other) => panic!("{other:?}"),
            }
        }
        let seconds = began.elapsed().as_secs();
        assert!(seconds < 10, "{seconds} s: one window only");
        println!("1000 roots named: {n_asked} asked of two peers, {n_refused} not asked");
        assert_eq!((n_asked, n_refused), (2 * BUDGET, 1000 - 2 * BUDGET));
        assert_eq!(asking.results("empty"), (2 * BUDGET / MAX_ASKED_BLOCKS) as u64);
        let received = |node: &Node| -> u64 {
            ["answered", "unavailable", "rate_limited"]
                .iter()
                .map(|what| node.metrics.requests.with_label_values(&["blocks_by_root", what]).get())
                .sum()
        };
        assert_eq!(serving.iter().map(received).collect::<Vec<_>>(), [6, 6], "six requests of sixteen roots");
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}
