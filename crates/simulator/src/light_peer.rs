//! A peer that costs little: one libp2p connection, and gossipsub's RPCs written by hand.
//!
//! A load of mainnet's rate needs two thousand peers in one process, beside the watcher that is
//! measured. As many full gossipsub nodes would cost more than the watcher. A light peer has a key,
//! an address on loopback and a TCP connection of its own, with noise and yamux. It subscribes to
//! topics, accepts GRAFT, sends what it is given, answers IWANT from a store that all light peers
//! share, and answers `status`, `ping`, `metadata` and identify. It has one peer: the watcher. What
//! the rest of its network would do, [`super::load`] decides and hands over as RPCs.

mod wire;

pub(crate) use wire::{GossipId, ihave, message, with_length};

use consensus::ForkDigest;
use futures::future::{BoxFuture, poll_fn};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use futures::stream::FuturesUnordered;
use futures::{AsyncRead, StreamExt as _};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::upgrade::{OutboundConnectionUpgrade as _, Version};
use libp2p::identity::Keypair;
use libp2p::{noise, yamux};
use multistream_select::{dialer_select_proto, listener_select_proto};
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;

const GOSSIP: &str = "/meshsub/1.2.0";
const IDENTIFY: &str = "/ipfs/id/1.0.0";
const STATUS: &str = "/eth2/beacon_chain/req/status/2/ssz_snappy";
const PING: &str = "/eth2/beacon_chain/req/ping/1/ssz_snappy";
const METADATA: &str = "/eth2/beacon_chain/req/metadata/3/ssz_snappy";
const GOODBYE: &str = "/eth2/beacon_chain/req/goodbye/1/ssz_snappy";
const PROTOCOLS: [&str; 6] = [GOSSIP, IDENTIFY, STATUS, PING, METADATA, GOODBYE];

/// Greatest length in bytes of an RPC that is read.
const MAX_RPC_LEN: usize = 12 << 20;
/// Greatest length in bytes of a request that is read.
const MAX_REQUEST_LEN: u64 = 1024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Payloads, or ids, that a peer remembers to have been sent, or not to be wanted. When there are
/// more, the older half is forgotten.
const MEMORY: usize = 2048;

/// A message as light peers hand it on.
#[derive(Debug)]
pub(crate) struct LightMessage {
    pub(crate) id: GossipId,
    /// A hash of the payload, of this process only.
    pub(crate) payload_key: u64,
    /// The part of an RPC.
    pub(crate) part: Vec<u8>,
}

/// Something to send.
#[derive(Clone, Debug)]
pub(crate) enum LightSend {
    /// Unless the watcher has sent it to this peer, or does not want it.
    Message(Arc<LightMessage>),
    /// Parts of an RPC, such as several IHAVE.
    Parts(Arc<[u8]>),
}

/// What all light peers of a load report to and ask.
pub(crate) trait LightHost: Send + Sync + 'static {
    /// The watcher has grafted this peer, or pruned it.
    fn in_mesh(&self, peer: usize, topic: &str, is_in: bool);
    /// Returns the messages that the watcher asks for, as far as the peer has them.
    fn wanted(&self, peer: usize, ids: &[GossipId]) -> Vec<Arc<LightMessage>>;
    /// The watcher has sent messages to this peer.
    fn received(&self, n_messages: usize);
    /// This message was left out, because the watcher has it.
    fn spared(&self);
    /// The hash function of payloads.
    fn hasher(&self) -> &RandomState;
}

/// Who a light peer is.
#[derive(Clone, Debug)]
pub(crate) struct LightIdentity {
    pub(crate) number: usize,
    /// It dials from this address.
    pub(crate) address: Ipv4Addr,
    pub(crate) secret: [u8; 32],
    pub(crate) agent: String,
    pub(crate) topics: Vec<String>,
    pub(crate) digest: ForkDigest,
    pub(crate) attnets: u64,
}

/// A connection to the watcher, before anything is sent over it.
pub(crate) struct LightConnection {
    muxer: StreamMuxerBox,
    who: LightIdentity,
    public_key: Vec<u8>,
}

impl LightIdentity {
    /// Dials the watcher.
    pub(crate) async fn connect(self, target: SocketAddr) -> io::Result<LightConnection> {
        let handshake = async {
            let mut secret = self.secret;
            let key = libp2p::identity::secp256k1::SecretKey::try_from_bytes(&mut secret).map_err(io::Error::other)?;
            let key = Keypair::from(libp2p::identity::secp256k1::Keypair::from(key));
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((self.address, 0)))?;
            let stream = socket.connect(target).await?;
            stream.set_nodelay(true)?;
            let (_, secured) = dialer_select_proto(stream.compat(), ["/noise"], Version::V1).await.map_err(io::Error::other)?;
            let noise = noise::Config::new(&key).map_err(io::Error::other)?;
            let (_, channel): (PeerId, _) = noise.upgrade_outbound(secured, "/noise").await.map_err(io::Error::other)?;
            let (_, channel) = dialer_select_proto(channel, ["/yamux/1.0.0"], Version::V1).await.map_err(io::Error::other)?;
            let muxer = yamux::Config::default().upgrade_outbound(channel, "/yamux/1.0.0").await?;
            Ok::<_, io::Error>((StreamMuxerBox::new(muxer), key.public().encode_protobuf()))
        };
        let (muxer, public_key) = tokio::time::timeout(HANDSHAKE, handshake).await??;
        Ok(LightConnection { muxer, who: self, public_key })
    }
}

impl LightConnection {
    /// Sends and answers until the connection ends, which is an error, or until it is stopped.
    pub(crate) async fn run(
        self,
        host: Arc<dyn LightHost>,
        sends: mpsc::Receiver<LightSend>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let Self { mut muxer, who, public_key } = self;
        let (answers_in, answers) = mpsc::channel(64);
        let who = Arc::new(who);
        let peer = Arc::new(Conversation { who: who.clone(), public_key, host, known: Mutex::default(), answers: answers_in });
        let mut streams: FuturesUnordered<BoxFuture<'static, io::Result<()>>> = FuturesUnordered::new();
        let gossip = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await.map_err(io::Error::other)?;
        streams.push(Box::pin(peer.clone().send_gossip(gossip, sends, answers)));
        let conversation = poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
                    return Poll::Ready(io::Error::other(error));
                }
                match muxer.poll_inbound_unpin(cx) {
                    Poll::Ready(Ok(stream)) => {
                        streams.push(Box::pin(peer.clone().serve(stream)));
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(io::Error::other(error)),
                    Poll::Pending => {}
                }
                match streams.poll_next_unpin(cx) {
                    // A stream that fails is the watcher's affair. A connection that fails ends
                    // all.
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
        });
        tokio::select! {
            error = conversation => Err(error),
            () = stop.cancelled() => Ok(()),
        }
    }
}

/// What all streams of a connection share.
struct Conversation {
    who: Arc<LightIdentity>,
    public_key: Vec<u8>,
    host: Arc<dyn LightHost>,
    known: Mutex<Known>,
    /// Answers to IWANT.
    answers: mpsc::Sender<Arc<LightMessage>>,
}

/// What the watcher has, as far as this peer knows.
#[derive(Default)]
struct Known {
    payloads: Recent<u64>,
    not_wanted: Recent<GossipId>,
}

/// A set that forgets.
struct Recent<T> {
    newer: HashSet<T>,
    older: HashSet<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { newer: HashSet::new(), older: HashSet::new() }
    }
}

impl<T: Eq + std::hash::Hash> Recent<T> {
    fn insert(&mut self, one: T) {
        if self.newer.len() >= MEMORY {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(one);
    }

    fn contains(&self, one: &T) -> bool {
        self.newer.contains(one) || self.older.contains(one)
    }
}

impl Conversation {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the subscriptions, and then what there is to send.
    async fn send_gossip(
        self: Arc<Self>,
        stream: SubstreamBox,
        mut sends: mpsc::Receiver<LightSend>,
        mut answers: mpsc::Receiver<Arc<LightMessage>>,
    ) -> io::Result<()> {
        let (_, mut stream) = dialer_select_proto(stream, [GOSSIP], Version::V1).await.map_err(io::Error::other)?;
        let subscriptions: Vec<u8> = self.who.topics.iter().flat_map(|topic| wire::subscription(topic)).collect();
        stream.write_all(&with_length(&subscriptions)).await?;
        stream.flush().await?;
        loop {
            let mut next = tokio::select! {
                Some(answer) = answers.recv() => Some(Asked::Wanted(answer)),
                Some(send) = sends.recv() => Some(Asked::Send(send)),
                else => return Ok(()),
            };
            // What waits is written together.
            while let Some(send) = next {
                match &send {
                    Asked::Wanted(message) => stream.write_all(&with_length(&message.part)).await?,
                    Asked::Send(LightSend::Parts(parts)) => stream.write_all(&with_length(parts)).await?,
                    Asked::Send(LightSend::Message(message)) if self.watcher_has(message) => self.host.spared(),
                    Asked::Send(LightSend::Message(message)) => stream.write_all(&with_length(&message.part)).await?,
                }
                next = answers.try_recv().map(Asked::Wanted).or_else(|_| sends.try_recv().map(Asked::Send)).ok();
            }
            stream.flush().await?;
        }
    }

    fn watcher_has(&self, message: &LightMessage) -> bool {
        let known = self.known();
        known.payloads.contains(&message.payload_key) || known.not_wanted.contains(&message.id)
    }

    /// Serves a stream that the watcher has opened.
    async fn serve(self: Arc<Self>, stream: SubstreamBox) -> io::Result<()> {
        let (protocol, mut stream) = listener_select_proto(stream, PROTOCOLS).await.map_err(io::Error::other)?;
        let answer = match protocol {
            GOSSIP => return self.read_gossip(stream).await,
            IDENTIFY => wire::identify(&self.public_key, &self.who.agent, &PROTOCOLS),
            STATUS => wire::answer(&self.status())?,
            // A sequence number of 1 that never rises: the metadata does not change.
            PING => wire::answer(&1u64.to_le_bytes())?,
            METADATA => wire::answer(&self.metadata())?,
            _ => Vec::new(),
        };
        if protocol != IDENTIFY {
            // The request itself changes no answer.
            (&mut stream).take(MAX_REQUEST_LEN).read_to_end(&mut Vec::new()).await?;
        }
        stream.write_all(&answer).await?;
        stream.close().await
    }

    /// `status/2` of a node that claims no chain, so that nobody asks it for blocks.
    fn status(&self) -> [u8; 92] {
        let mut ssz = [0; 92];
        ssz[..4].copy_from_slice(&self.who.digest.0);
        ssz
    }

    /// `metadata/3`: sequence number, attnets, syncnets, custody group count.
    fn metadata(&self) -> [u8; 25] {
        let mut ssz = [0; 25];
        ssz[0] = 1;
        ssz[8..16].copy_from_slice(&self.who.attnets.to_le_bytes());
        ssz[17] = 4;
        ssz
    }

    /// Reads the watcher's RPCs.
    async fn read_gossip(self: Arc<Self>, stream: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut rpc = Vec::new();
        loop {
            let length = read_length(&mut stream).await?;
            rpc.resize(length, 0);
            stream.read_exact(&mut rpc).await?;
            let Some(received) = wire::ReceivedRpc::read(&rpc) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an RPC is no protobuf"));
            };
            received.grafted.iter().for_each(|topic| self.host.in_mesh(self.who.number, topic, true));
            received.pruned.iter().for_each(|topic| self.host.in_mesh(self.who.number, topic, false));
            if !received.payloads.is_empty() {
                self.host.received(received.payloads.len());
                let mut known = self.known();
                received
                    .payloads
                    .iter()
                    .for_each(|payload| known.payloads.insert(self.host.hasher().hash_one(payload.as_slice())));
            }
            if !received.not_wanted.is_empty() {
                let mut known = self.known();
                received.not_wanted.iter().for_each(|id| known.not_wanted.insert(*id));
            }
            if !received.wanted.is_empty() {
                for message in self.host.wanted(self.who.number, &received.wanted) {
                    // An error means that the other stream has ended, and with it the connection.
                    let _ = self.answers.send(message).await;
                }
            }
        }
    }
}

/// Something to send, and why.
enum Asked {
    /// The watcher has asked for it.
    Wanted(Arc<LightMessage>),
    Send(LightSend),
}

/// Reads the length of an RPC.
async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    let mut length = 0usize;
    for shift in [0, 7, 14, 21] {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 && length <= MAX_RPC_LEN {
            return Ok(length);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "an RPC is too long"))
}
