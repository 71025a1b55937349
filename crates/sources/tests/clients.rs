//! What clients ask of a peer, and how the listener answers. A bare libp2p node plays the client,
//! so that these tests share no code with the listener's own requests and answers. The tests use
//! real sockets on loopback, and nothing sleeps.

#![allow(clippy::unwrap_used)]

mod common;

use common::packed;
use consensus::{BlobParameters, Epoch, Fork, ForkName, Network, Preset, Root, Slot, Spec, ValidatorIndex};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::request_response::{self, Codec, Message, OutboundFailure, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use sources::block_store::{BlockStore, Kept, NewBlock, StoreLimits};
use sources::gossip::{GossipConfig, GossipHandle, GossipService, Identity, StatusView};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);
const METADATA: &str = "metadata/3";
const CLIENTS: [&str; 6] = [
    "Lighthouse/v8.1.2-1a68631",
    "Grandine/2.0.4-eeb33a9/x86_64-linux",
    "Prysm/v7.1.6/c40b59a",
    "teku/teku/v26.8.0/linux-x86_64/openjdk",
    "nimbus",
    "lodestar/v1.39.1",
];
/// Requests for data, each with a body length that the specification allows.
const DATA: [(&str, usize); 12] = [
    ("beacon_blocks_by_range/1", 24),
    ("beacon_blocks_by_range/2", 24),
    ("beacon_blocks_by_root/1", 32),
    ("beacon_blocks_by_root/2", 64),
    ("beacon_blocks_by_head/1", 40),
    ("blob_sidecars_by_range/1", 16),
    ("blob_sidecars_by_root/1", 80),
    ("data_column_sidecars_by_range/1", 52),
    ("data_column_sidecars_by_root/1", 48),
    ("execution_payload_envelopes_by_range/1", 16),
    ("execution_payload_envelopes_by_root/1", 32),
    ("inclusion_lists_by_indices/1", 42),
];

fn network(forks: &[(ForkName, u64)]) -> Arc<Network> {
    let spec = Spec {
        config_name: "loopback".into(),
        preset: Preset::MAINNET,
        forks: forks
            .iter()
            .map(|(name, epoch)| Fork { name: *name, epoch: Epoch::new(*epoch), version: [*name as u8, 0, 0, 7] })
            .collect(),
        later_forks: Vec::new(),
        slot_duration: Duration::from_secs(12),
        blob_schedule: Vec::new(),
        blob_default: BlobParameters { epoch: Epoch::new(0), max_blobs_per_block: 9 },
    };
    // The network is in its fourth epoch, which has number 3.
    let genesis_time = base::Time::now().0 / 1_000_000_000 - 3 * 32 * 12;
    Arc::new(Network { spec, genesis_time, genesis_validators_root: Root::repeat_byte(1) })
}

fn protocol(name: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/eth2/beacon_chain/req/{name}/ssz_snappy")).unwrap()
}

/// A codec that passes bytes unchanged, up to the end of the stream.
#[derive(Clone, Default)]
struct Bytes;

impl Codec for Bytes {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>> {
        to_end(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>> {
        to_end(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }
}

async fn to_end<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(64 << 20).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[derive(NetworkBehaviour)]
struct ClientNode {
    identify: identify::Behaviour,
    rpc: request_response::Behaviour<Bytes>,
}

/// A client that sends requests of one protocol.
struct Client {
    swarm: Swarm<ClientNode>,
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The stream ended without a chunk.
    Empty,
    /// Result code and body.
    Chunk(u8, Vec<u8>),
    Unsupported,
}

impl Client {
    fn new(agent: &str, asks: &str) -> Self {
        let swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| ClientNode {
                identify: identify::Behaviour::new(
                    identify::Config::new("eth2/1.0.0".into(), key.public()).with_agent_version(agent.into()),
                ),
                rpc: request_response::Behaviour::new(
                    [(protocol(asks), ProtocolSupport::Outbound)],
                    request_response::Config::default(),
                ),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        Self { swarm }
    }

    /// Connects, and waits until both sides know the other's agent string.
    async fn connect(&mut self, address: &Multiaddr) -> PeerId {
        self.swarm.dial(address.clone()).unwrap();
        let (mut sent, mut received) = (false, None);
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(ClientNodeEvent::Identify(identify::Event::Sent { .. })) => sent = true,
                SwarmEvent::Behaviour(ClientNodeEvent::Identify(identify::Event::Received { peer_id, .. })) => {
                    received = Some(peer_id);
                }
                _ => {}
            }
            if let (true, Some(peer)) = (sent, received) {
                return peer;
            }
        }
    }

    async fn ask(&mut self, peer: PeerId, request: Vec<u8>) -> Answer {
        match self.ask_raw(peer, request).await {
            None => Answer::Unsupported,
            Some(response) => match response.split_first() {
                None => Answer::Empty,
                Some((code, body)) => Answer::Chunk(*code, unpacked(body)),
            },
        }
    }

    /// Asks for blocks. Returns the fork digest and the bytes of each, or the code of an error.
    async fn ask_for_blocks(&mut self, peer: PeerId, request: Vec<u8>) -> Result<Vec<([u8; 4], Vec<u8>)>, u8> {
        let response = self.ask_raw(peer, request).await.expect("the request is known");
        let (mut blocks, mut rest) = (Vec::new(), &response[..]);
        while let Some((code, after)) = rest.split_first() {
            if *code != 0 {
                return Err(*code);
            }
            let (digest, after) = after.split_first_chunk::<4>().unwrap();
            let (ssz, after) = unpacked_first(after);
            blocks.push((*digest, ssz));
            rest = after;
        }
        Ok(blocks)
    }

    /// Returns the bytes of the answer. `None` if the protocol is not supported.
    async fn ask_raw(&mut self, peer: PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
        self.swarm.behaviour_mut().rpc.send_request(&peer, request);
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(ClientNodeEvent::Rpc(request_response::Event::Message {
                    message: Message::Response { response, .. },
                    ..
                })) => {
                    return Some(response);
                }
                SwarmEvent::Behaviour(ClientNodeEvent::Rpc(request_response::Event::OutboundFailure {
                    error: OutboundFailure::UnsupportedProtocols,
                    ..
                })) => return None,
                SwarmEvent::Behaviour(ClientNodeEvent::Rpc(request_response::Event::OutboundFailure { error, .. })) => {
                    panic!("{error}")
                }
                _ => {}
            }
        }
    }
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let (len, frames) = unsigned_varint::decode::usize(bytes).unwrap();
    let mut body = Vec::new();
    snap::read::FrameDecoder::new(frames).read_to_end(&mut body).unwrap();
    assert_eq!(body.len(), len);
    body
}

/// Decodes the first body, and returns what follows it.
fn unpacked_first(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let (len, frames) = unsigned_varint::decode::usize(bytes).unwrap();
    let (mut at, mut held) = (0, 0);
    while held < len {
        let n = usize::from(frames[at + 1]) | usize::from(frames[at + 2]) << 8 | usize::from(frames[at + 3]) << 16;
        let body = &frames[at + 4..at + 4 + n];
        held += match frames[at] {
            0 => snap::raw::decompress_len(&body[4..]).unwrap(),
            1 => n - 4,
            _ => 0,
        };
        at += 4 + n;
    }
    let mut body = Vec::new();
    snap::read::FrameDecoder::new(&frames[..at]).read_to_end(&mut body).unwrap();
    assert_eq!(body.len(), len);
    (body, &frames[at..])
}

struct Listener {
    handle: GossipHandle,
    address: Multiaddr,
    _status: watch::Sender<StatusView>,
}

async fn listener(config: GossipConfig, network: &Arc<Network>) -> Listener {
    let (status_in, status) = watch::channel(StatusView::default());
    let config = GossipConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..config };
    let mut handle = GossipService::start(config, network.clone(), status, SourceMetrics::unregistered()).unwrap();
    loop {
        if let Some(SourceEvent::ListeningOn(address)) = handle.events.recv().await {
            return Listener { handle, address, _status: status_in };
        }
    }
}

/// Slots of the blocks that a listener keeps. The clock is in slot 96 or soon after.
const KEPT: std::ops::RangeInclusive<u64> = 40..=95;
/// A slot without a block.
const EMPTY_SLOT: u64 = 50;

fn root(slot: u64) -> Root {
    Root::repeat_byte(slot as u8)
}

/// The bytes of a block. The listener does not look into them.
fn ssz(slot: u64) -> Vec<u8> {
    (0..20_000u64).map(|i| (i.wrapping_mul(i).wrapping_mul(slot + 7) >> 9) as u8).collect()
}

fn kept_blocks(dir: &std::path::Path, network: &Network) -> BlockStore {
    let store = BlockStore::open(dir, StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: 32 }).unwrap();
    for slot in KEPT.filter(|slot| *slot != EMPTY_SLOT) {
        let parent = if slot - 1 == EMPTY_SLOT { slot - 2 } else { slot - 1 };
        let new = NewBlock {
            slot: Slot::new(slot),
            root: root(slot),
            parent: root(parent),
            proposer: ValidatorIndex::new(slot),
            is_in_turn: true,
            digest: network.fork_digest_at(Epoch::new(slot / 32)),
            ssz: &ssz(slot),
        };
        assert_eq!(store.keep(&new, Slot::new(96)).unwrap(), Kept::New);
    }
    store.set_head(root(*KEPT.end()));
    store
}

fn range(start: u64, count: u64) -> Vec<u8> {
    packed(&[start, count, 1].into_iter().flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

fn roots(slots: &[u64]) -> Vec<u8> {
    packed(&slots.iter().flat_map(|slot| root(*slot).0).collect::<Vec<u8>>())
}

/// Returns the sequence number and the custody group count of metadata/3.
async fn metadata(network: &Arc<Network>, data_column_subnets: u64) -> (u64, u64) {
    let listener =
        listener(GossipConfig { data_column_subnets, identity: Identity::Secret([5; 32]), ..GossipConfig::default() }, network)
            .await;
    let mut client = Client::new(CLIENTS[1], METADATA);
    let peer = client.connect(&listener.address).await;
    let Answer::Chunk(0, body) = client.ask(peer, Vec::new()).await else { panic!("metadata is known") };
    assert_eq!(body.len(), 25);
    listener.handle.shutdown().await;
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
    (number(0), number(17))
}

/// Grandine sends a peer that claims less than `CUSTODY_REQUIREMENT` (4) the goodbye Fault and bans
/// it for 12 hours. It does so as soon as Fulu is scheduled, even before it is active. Prysm
/// penalizes a sequence number that went down, and no client asks for the metadata again while the
/// number stays the same.
#[tokio::test]
async fn metadata_claims_the_custody_that_everybody_must_have() {
    let test = async {
        let before_fulu = network(&[(ForkName::Electra, 0), (ForkName::Fulu, 100)]);
        let (fulu, never) = (network(&[(ForkName::Fulu, 0)]), network(&[(ForkName::Electra, 0)]));
        let mut last = 0;
        for (network, columns) in
            [(&before_fulu, 4), (&before_fulu, 0), (&fulu, 0), (&fulu, 2), (&fulu, 4), (&fulu, 500), (&never, 4)]
        {
            let (seq_number, custody) = metadata(network, columns).await;
            assert!((4..=128).contains(&custody), "{columns} column subnets: custody group count {custody}");
            assert!(seq_number > last, "what changed between two runs has a higher number: {seq_number} after {last}");
            last = seq_number;
        }
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// Lodestar deducts 10 points for each request whose protocol a peer does not support. It
/// disconnects after 60 s and bans after 104 s.
#[tokio::test]
async fn every_request_for_data_is_known() {
    let network = network(&[(ForkName::Fulu, 0)]);
    let test = async {
        let listener = listener(GossipConfig::default(), &network).await;
        let mut unknown = Vec::new();
        for (name, len) in DATA {
            let mut client = Client::new(CLIENTS[5], name);
            let peer = client.connect(&listener.address).await;
            if client.ask(peer, packed(&vec![1; len])).await == Answer::Unsupported {
                unknown.push(name);
            }
        }
        assert_eq!(unknown, Vec::<&str>::new(), "requests that are not known");
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// The answers that cost least at each client, as in `docs/peers.md`. `.` is an empty stream, 3 is
/// ResourceUnavailable, and 200 is a code that no client knows.
#[tokio::test]
async fn each_client_is_answered_as_it_forgives() {
    let network = network(&[(ForkName::Fulu, 0)]);
    let test = async {
        let listener = listener(GossipConfig::default(), &network).await;
        let mut table = String::new();
        for (name, len) in DATA {
            let mut row = Vec::new();
            for agent in CLIENTS.into_iter().chain(["unheard-of/1"]) {
                let mut client = Client::new(agent, name);
                let peer = client.connect(&listener.address).await;
                row.push(match client.ask(peer, packed(&vec![1; len])).await {
                    Answer::Empty => ".".to_owned(),
                    Answer::Chunk(code, message) => {
                        assert!(!message.is_empty() && message.len() <= 256);
                        code.to_string()
                    }
                    Answer::Unsupported => "unsupported".to_owned(),
                });
            }
            table += &format!("{name} {}\n", row.join(" "));
        }
        let wanted = "\
beacon_blocks_by_range/1 . . 3 3 . 3 .
beacon_blocks_by_range/2 . . 3 3 . 3 .
beacon_blocks_by_root/1 200 . 3 3 . 3 .
beacon_blocks_by_root/2 200 . 3 3 . 3 .
beacon_blocks_by_head/1 . . 3 3 . 3 .
blob_sidecars_by_range/1 200 . 3 3 . 3 .
blob_sidecars_by_root/1 3 3 3 3 . 3 3
data_column_sidecars_by_range/1 200 . 3 3 . 3 200
data_column_sidecars_by_root/1 3 3 3 3 . 3 3
execution_payload_envelopes_by_range/1 200 . 3 3 . 3 .
execution_payload_envelopes_by_root/1 200 . 3 3 . 3 .
inclusion_lists_by_indices/1 200 . 3 3 . 3 .
";
        assert_eq!(table, wanted);
        // Requests above the quota are refused.
        let mut client = Client::new(CLIENTS[5], "blob_sidecars_by_root/1");
        let peer = client.connect(&listener.address).await;
        let mut limited = 0;
        for _ in 0..60 {
            match client.ask(peer, packed(&[1; 40])).await {
                Answer::Chunk(3, _) => {}
                Answer::Chunk(139, _) => limited += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(limited, 10);
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// A node that keeps no blocks has no available slot: neither a past one, nor one before the next
/// exchange of statuses.
#[tokio::test]
async fn status_promises_no_slot() {
    let network = network(&[(ForkName::Fulu, 0)]);
    let test = async {
        let listener = listener(GossipConfig::default(), &network).await;
        let mut client = Client::new(CLIENTS[0], "status/2");
        let peer = client.connect(&listener.address).await;
        let Answer::Chunk(0, body) = client.ask(peer, packed(&[0; 92])).await else { panic!("status is known") };
        let earliest = u64::from_le_bytes(body[84..92].try_into().unwrap());
        let clock = base::Time::now().0;
        let now = network.slot_at(clock).as_u64();
        assert!(earliest > now + 32, "earliest available slot {earliest} at slot {now}");
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// Whoever asks for blocks that the status promises gets them. No client is given an error for
/// them, because Lighthouse bans for some and Nimbus takes a third of its points for any.
#[tokio::test]
async fn kept_blocks_are_sent_to_every_client() {
    let network = network(&[(ForkName::Fulu, 0)]);
    let dir = tempfile::tempdir().unwrap();
    let store = kept_blocks(dir.path(), &network);
    let slots_of = |blocks: &[([u8; 4], Vec<u8>)]| -> Vec<u64> {
        blocks
            .iter()
            .map(|(digest, bytes)| {
                let slot = KEPT.into_iter().find(|slot| ssz(*slot) == *bytes).expect("a kept block");
                assert_eq!(*digest, network.fork_digest_at(Epoch::new(slot / 32)).0);
                slot
            })
            .collect()
    };
    let test = async {
        let listener = listener(GossipConfig { blocks: Some(store.clone()), ..GossipConfig::default() }, &network).await;
        for agent in CLIENTS.into_iter().chain(["unheard-of/1"]) {
            let mut client = Client::new(agent, "beacon_blocks_by_range/2");
            let peer = client.connect(&listener.address).await;
            let got = client.ask_for_blocks(peer, range(48, 6)).await.unwrap();
            assert_eq!(slots_of(&got), [48, 49, 51, 52, 53], "{agent}");
            // The promised range ends with the head. The rest is empty so far.
            let got = client.ask_for_blocks(peer, range(94, 64)).await.unwrap();
            assert_eq!(slots_of(&got), [94, 95], "{agent}");
            assert_eq!(client.ask_for_blocks(peer, range(EMPTY_SLOT, 1)).await, Ok(vec![]), "{agent}: an empty slot");
            assert_eq!(client.ask_for_blocks(peer, range(96, u64::MAX)).await, Ok(vec![]), "{agent}: after the head");
            let mut client = Client::new(agent, "beacon_blocks_by_root/2");
            let peer = client.connect(&listener.address).await;
            let got = client.ask_for_blocks(peer, roots(&[60, 200, 41])).await.unwrap();
            assert_eq!(slots_of(&got), [60, 41], "{agent}");
        }
        let mut client = Client::new(CLIENTS[0], "status/2");
        let peer = client.connect(&listener.address).await;
        let Answer::Chunk(0, body) = client.ask(peer, packed(&[0; 92])).await else { panic!("status is known") };
        assert_eq!(u64::from_le_bytes(body[84..92].try_into().unwrap()), *KEPT.start(), "earliest available slot");
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// For blocks before the earliest available slot, and for unknown roots, each client gets the
/// answer that it forgives, as if no blocks were kept. The first version of the requests cannot
/// name a fork, so it has no block for anybody.
#[tokio::test]
async fn blocks_that_are_not_kept_are_refused_as_each_client_forgives() {
    let network = network(&[(ForkName::Fulu, 0)]);
    let dir = tempfile::tempdir().unwrap();
    let store = kept_blocks(dir.path(), &network);
    let test = async {
        let listener = listener(GossipConfig { blocks: Some(store.clone()), ..GossipConfig::default() }, &network).await;
        let mut table = String::new();
        for (name, request) in [
            ("beacon_blocks_by_range/2", range(1, 64)),
            ("beacon_blocks_by_root/2", roots(&[200, 201])),
            ("beacon_blocks_by_range/1", range(48, 6)),
            ("beacon_blocks_by_root/1", roots(&[60])),
        ] {
            let mut row = Vec::new();
            for agent in CLIENTS.into_iter().chain(["unheard-of/1"]) {
                let mut client = Client::new(agent, name);
                let peer = client.connect(&listener.address).await;
                row.push(match client.ask_for_blocks(peer, request.clone()).await {
                    Ok(blocks) if blocks.is_empty() => ".".to_owned(),
                    Ok(blocks) => format!("{} blocks", blocks.len()),
                    Err(code) => code.to_string(),
                });
            }
            table += &format!("{name} {}\n", row.join(" "));
        }
        let wanted = "\
beacon_blocks_by_range/2 . . 3 3 . 3 .
beacon_blocks_by_root/2 200 . 3 3 . 3 .
beacon_blocks_by_range/1 . . 3 3 . 3 .
beacon_blocks_by_root/1 200 . 3 3 . 3 .
";
        assert_eq!(table, wanted);
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

/// A peer that asks without end gets what its budget allows, and the next peer gets its blocks.
#[tokio::test]
async fn a_flood_of_requests_for_blocks_is_bounded_and_others_are_served() {
    let network = network(&[(ForkName::Fulu, 0)]);
    let dir = tempfile::tempdir().unwrap();
    let store = kept_blocks(dir.path(), &network);
    let test = async {
        let listener = listener(GossipConfig { blocks: Some(store.clone()), ..GossipConfig::default() }, &network).await;
        let started = std::time::Instant::now();
        let (mut n_blocks, mut n_refused) = (0, 0);
        for asks in ["beacon_blocks_by_range/2", "beacon_blocks_by_root/2"] {
            let mut flood = Client::new(CLIENTS[0], asks);
            let peer = flood.connect(&listener.address).await;
            let request = if asks.contains("range") { range(40, 56) } else { roots(&(51..=95).collect::<Vec<u64>>()) };
            for _ in 0..40 {
                match flood.ask_for_blocks(peer, request.clone()).await {
                    Ok(blocks) => n_blocks += blocks.len() as u64,
                    Err(139) => n_refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        // Two peers, because each client has a key of its own: 256 blocks at once for each, and
        // 12.8 in a second.
        let allowed = 512 + (2.0 * 12.8 * started.elapsed().as_secs_f64()).ceil() as u64;
        assert!(n_blocks <= allowed && n_refused >= 50, "{n_blocks} blocks of {allowed}, {n_refused} requests refused");
        let mut other = Client::new(CLIENTS[1], "beacon_blocks_by_range/2");
        let peer = other.connect(&listener.address).await;
        assert_eq!(other.ask_for_blocks(peer, range(40, 56)).await.unwrap().len(), 55);
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}
