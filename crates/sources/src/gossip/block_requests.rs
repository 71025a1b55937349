//! Blocks between this node and its peers: it asks for some, and it answers peers that ask.
//!
//! **Asking.** One request goes to one peer whose status says that it has the blocks. The answer is
//! checked by the caller's task, which then reports what it was worth ([`BlockClient`]). A peer
//! that fails, or that sends what was not asked for, is left alone for a growing time. What it
//! knows of a peer stays when the peer reconnects.
//!
//! ```text
//! caller -> Ask(query, peers that were tried) -> this task -> one peer
//!        <- the answer, or why there is none  <-           <-
//!        -> Judge(peer, worth)
//! ```
//!
//! **Bounds.** [`MAX_OUTSTANDING`] requests at a time, one to a peer. [`BLOCKS_PER_WINDOW`] blocks
//! of a peer in ten seconds, which is less than any client allows. An answer has at most as many
//! blocks as were asked for, and about 18 MiB.
//!
//! **Answering.** What is in the store is sent, within a budget for each peer, for each address
//! prefix, and for all together (`rpc/blocks.rs`). Whatever is not in it gets the answer that the
//! asking client penalizes least, and so does what only others leave no room for.

use super::Clock;
use super::peer_book::Prefix;
use super::peers::public_prefix;
use super::rpc::{
    self, BlockChunk, BlockQuery, DataProtocol, Protocol, Request, Response, ServedBlocks, ServingBudget, StatusMessage, TooMuch,
    UnderWay, result_code,
};
use super::task::GossipTask;
use crate::convert::peer_block;
use crate::metrics::SourceMetrics;
use base::{Backoff, BoundedMap};
use consensus::{ForkDigests, Network, Root, SignedBlock, Slot, block_prefix};
use libp2p::PeerId;
use libp2p::request_response::{Event, InboundRequestId, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;
use verify::{RawMessage, Time};

/// Requests of this node that may be under way.
const MAX_OUTSTANDING: usize = 4;
/// Commands that may wait for the task.
const COMMANDS: usize = 64;
/// Greatest number of blocks of one request.
pub const MAX_ASKED_BLOCKS: usize = 16;
/// Blocks that one peer is asked for in [`WINDOW`]. Lighthouse allows 128, and Teku 500 in a
/// minute.
const BLOCKS_PER_WINDOW: usize = 96;
const WINDOW: Duration = Duration::from_secs(10);
/// Peers whose conduct is remembered.
const MAX_PEERS: usize = 1024;
/// How long a peer is left alone after its first and its further failures.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(3600));
/// An answer without a block that takes this long counts as a failure.
const SLOW: Duration = Duration::from_secs(5);
/// A peer that gave this many empty answers in a row is not asked because of what it sent.
const MAX_MISSES: u32 = 8;
/// How long a peer is left alone that does not know the request.
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(3600);
/// Peers that are asked for a block, one after the other.
const MAX_PEERS_ASKED: usize = 4;

type BlockEvent = Event<Request, Response>;

/// Which of the two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ByWhat {
    Range,
    Root,
}

/// What a caller wants of the task.
#[derive(Debug)]
pub(super) enum BlockCommand {
    Ask(BlockAsk),
    /// What an answer was worth.
    Judge(PeerId, AnswerWorth),
}

/// A request for one peer.
#[derive(Debug)]
pub(super) struct BlockAsk {
    query: BlockQuery,
    /// The peer to ask. `None`: whoever is likeliest to have the blocks.
    only: Option<PeerId>,
    /// Peers that are not asked.
    avoided: Vec<PeerId>,
    done: oneshot::Sender<Result<(PeerId, Vec<BlockChunk>), NoAnswer>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// No connected peer is known to have the blocks, or all that are were to be avoided.
    NoPeer,
    /// Peers that may have the blocks cannot be asked now, because they were asked for much already
    /// or have failed lately.
    Later,
    /// This peer gave no answer, or a wrong one.
    Failed(PeerId),
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerWorth {
    Useful,
    /// It held no block that this program can read.
    Empty,
    /// It held what was not asked for, or what is no block.
    Wrong,
}

impl AnswerWorth {
    /// The worth of an answer in which these blocks were read, and nothing wrong.
    fn of(blocks: &[PeerBlock]) -> Self {
        if blocks.is_empty() { Self::Empty } else { Self::Useful }
    }
}

/// What is remembered of a peer.
#[derive(Clone, Copy, Debug)]
struct AnswerRecord {
    /// Failures since the last useful answer.
    failures: u32,
    /// Empty answers since the last useful answer.
    misses: u32,
    not_before: Instant,
    window_began: Instant,
    asked_in_window: usize,
    /// What may still be sent to it.
    budget: ServingBudget,
}

impl AnswerRecord {
    fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            misses: 0,
            not_before: now,
            window_began: now,
            asked_in_window: 0,
            budget: ServingBudget::of_peer(now),
        }
    }

    fn may_be_asked(&self, n_blocks: usize, now: Instant) -> bool {
        let asked = if now.duration_since(self.window_began) < WINDOW { self.asked_in_window } else { 0 };
        self.not_before <= now && asked + n_blocks <= BLOCKS_PER_WINDOW
    }

    fn asked(&mut self, n_blocks: usize, now: Instant) {
        if now.duration_since(self.window_began) >= WINDOW {
            (self.window_began, self.asked_in_window) = (now, 0);
        }
        self.asked_in_window += n_blocks;
    }

    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + PAUSES.pause(self.failures);
    }
}

struct Outstanding {
    peer: PeerId,
    since: Instant,
    done: oneshot::Sender<Result<(PeerId, Vec<BlockChunk>), NoAnswer>>,
}

/// The requests for blocks that are under way, in both directions.
pub(super) struct BlockExchange {
    pub commands: mpsc::Receiver<BlockCommand>,
    outstanding: HashMap<(ByWhat, OutboundRequestId), Outstanding>,
    /// Who gets the answers that are under way.
    serving: HashMap<(ByWhat, InboundRequestId), (PeerId, Option<Prefix>)>,
    conduct: BoundedMap<PeerId, AnswerRecord>,
    budget: ServingBudget,
    prefix_budgets: BoundedMap<Prefix, ServingBudget>,
    digests: Arc<ForkDigests>,
}

impl BlockExchange {
    pub fn new(commands: mpsc::Receiver<BlockCommand>, digests: Arc<ForkDigests>, now: Instant) -> Self {
        Self {
            commands,
            outstanding: HashMap::new(),
            serving: HashMap::new(),
            conduct: BoundedMap::new(MAX_PEERS),
            budget: ServingBudget::of_all(now),
            prefix_budgets: BoundedMap::new(MAX_PEERS),
            digests,
        }
    }

    fn conduct(&self, peer: &PeerId, now: Instant) -> AnswerRecord {
        self.conduct.get(peer).copied().unwrap_or_else(|| AnswerRecord::new(now))
    }

    /// Takes what an answer needs of the budgets.
    fn afford(
        &mut self,
        peer: PeerId,
        prefix: Option<Prefix>,
        by: ByWhat,
        needed: (u64, u64),
        now: Instant,
    ) -> Result<(), TooMuch> {
        let count = |is_counted: &dyn Fn(ByWhat, &PeerId, &Option<Prefix>) -> bool| {
            self.serving.iter().filter(|((by, _), (peer, prefix))| is_counted(*by, peer, prefix)).count()
        };
        let under_way = UnderWay {
            all: self.serving.len(),
            of_prefix: count(&|_, _, other| prefix.is_some() && *other == prefix),
            of_peer: count(&|kind, other, _| kind == by && *other == peer),
        };
        let mut conduct = self.conduct(&peer, now);
        let mut of_prefix = prefix.map(|prefix| {
            let budget = self.prefix_budgets.get(&prefix).copied().unwrap_or_else(|| ServingBudget::of_prefix(now));
            (prefix, budget)
        });
        let of_prefix_budget = of_prefix.as_mut().map(|(_, budget)| budget);
        let afforded = self.budget.take(of_prefix_budget, &mut conduct.budget, under_way, needed, now);
        self.conduct.insert(peer, conduct);
        if let Some((prefix, budget)) = of_prefix {
            self.prefix_budgets.insert(prefix, budget);
        }
        afforded
    }

    fn change(&mut self, peer: PeerId, now: Instant, change: impl FnOnce(&mut AnswerRecord)) {
        let mut conduct = self.conduct(&peer, now);
        change(&mut conduct);
        self.conduct.insert(peer, conduct);
    }
}

/// Whether a peer may have what is asked for, by its status. A listener like this one names no head
/// and says only from which slot on it has blocks.
fn may_have(status: &StatusMessage, query: &BlockQuery, clock_slot: Slot) -> bool {
    let earliest = status.earliest_available_slot.unwrap_or(Slot::new(0));
    let is_listener = status.head_root.is_zero() && earliest > Slot::new(0);
    match query {
        BlockQuery::Range { start, .. } => earliest <= *start && (*start <= status.head_slot || is_listener),
        BlockQuery::Roots(_) => earliest <= clock_slot && (!status.head_root.is_zero() || is_listener),
    }
}

impl GossipTask {
    pub(super) fn on_block_command(&mut self, command: BlockCommand) {
        let now = Instant::now();
        match command {
            BlockCommand::Ask(ask) => match self.choose(&ask, now) {
                Ok(peer) => self.ask(peer, ask, now),
                Err(none) => {
                    self.metrics.block_requests.with_label_values(&["no_peer"]).inc();
                    // The caller may have stopped waiting.
                    let _ = ask.done.send(Err(none));
                }
            },
            BlockCommand::Judge(peer, worth) => {
                self.blocks.change(peer, now, |conduct| match worth {
                    AnswerWorth::Useful => (conduct.failures, conduct.misses) = (0, 0),
                    AnswerWorth::Empty => conduct.misses = conduct.misses.saturating_add(1),
                    AnswerWorth::Wrong => conduct.failed(now),
                });
            }
        }
    }

    /// Chooses a peer: of those that may have the blocks, one with the fewest failures and empty
    /// answers, at random.
    fn choose(&self, ask: &BlockAsk, now: Instant) -> Result<PeerId, NoAnswer> {
        let clock_slot = self.network.slot_at(self.config.clock.now().0);
        let candidates: Vec<PeerId> = self
            .peers
            .connected
            .iter()
            .filter(|(id, peer)| {
                let has_blocks = peer.status.is_some_and(|status| may_have(&status, &ask.query, clock_slot));
                let is_meant = ask.only.is_none_or(|only| only == **id) && !ask.avoided.contains(id);
                has_blocks && peer.closing.is_none() && is_meant
            })
            .map(|(id, _)| *id)
            .collect();
        if candidates.is_empty() {
            return Err(NoAnswer::NoPeer);
        }
        let blocks = &self.blocks;
        let is_free = |peer: &PeerId| {
            let conduct = blocks.conduct(peer, now);
            (ask.only.is_none() || conduct.misses < MAX_MISSES)
                && conduct.may_be_asked(ask.query.n_blocks(), now)
                && blocks.outstanding.values().all(|other| other.peer != *peer)
        };
        let rank = |peer: &PeerId| {
            let conduct = blocks.conduct(peer, now);
            (conduct.failures, conduct.misses, rand::random::<u32>())
        };
        let free = candidates.into_iter().filter(is_free).min_by_key(rank);
        free.filter(|_| blocks.outstanding.len() < MAX_OUTSTANDING).ok_or(NoAnswer::Later)
    }

    fn ask(&mut self, peer: PeerId, ask: BlockAsk, now: Instant) {
        let BlockAsk { query, done, .. } = ask;
        self.blocks.change(peer, now, |conduct| conduct.asked(query.n_blocks(), now));
        let node = self.swarm.behaviour_mut();
        let (by, behaviour, protocol) = match query {
            BlockQuery::Range { .. } => (ByWhat::Range, &mut node.blocks_by_range, DataProtocol::BlocksByRangeV2),
            BlockQuery::Roots(_) => (ByWhat::Root, &mut node.blocks_by_root, DataProtocol::BlocksByRootV2),
        };
        let id = behaviour.send_request(&peer, Request::Blocks(protocol, query));
        self.blocks.outstanding.insert((by, id), Outstanding { peer, since: now, done });
    }

    pub(super) fn on_blocks(&mut self, by: ByWhat, event: BlockEvent) {
        match event {
            Event::Message { peer, message: Message::Request { request_id, request, channel }, .. } => {
                if let Request::Blocks(protocol, query) = request {
                    self.serve_blocks(peer, (by, request_id), protocol, &query, channel);
                }
            }
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                let (label, answer) = match response {
                    Response::Blocks(blocks) => ("blocks", Some(blocks)),
                    Response::Nothing => ("empty", Some(Vec::new())),
                    Response::Error { code: result_code::RATE_LIMITED, .. } => ("rate_limited", None),
                    Response::Error { .. }
                    | Response::Served(_)
                    | Response::Status(_)
                    | Response::Pong { .. }
                    | Response::Metadata(_) => ("error", None),
                };
                self.answered((by, request_id), label, answer, None);
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                debug!(%peer, %error, "no blocks from a peer");
                let (label, pause) = match error {
                    OutboundFailure::UnsupportedProtocols => ("unsupported", Some(UNSUPPORTED_PAUSE)),
                    OutboundFailure::Timeout => ("timeout", None),
                    OutboundFailure::ConnectionClosed | OutboundFailure::DialFailure => ("closed", None),
                    OutboundFailure::Io(_) => ("broken", None),
                };
                self.answered((by, request_id), label, None, pause);
            }
            Event::InboundFailure { request_id, .. } | Event::ResponseSent { request_id, .. } => {
                self.blocks.serving.remove(&(by, request_id));
            }
        }
    }

    /// Hands an answer to who waits for it, or counts a failure against the peer.
    fn answered(
        &mut self,
        id: (ByWhat, OutboundRequestId),
        label: &'static str,
        answer: Option<Vec<BlockChunk>>,
        pause: Option<Duration>,
    ) {
        let Some(Outstanding { peer, since, done }) = self.blocks.outstanding.remove(&id) else { return };
        self.metrics.block_requests.with_label_values(&[label]).inc();
        let now = Instant::now();
        // Who takes long to say that it has nothing holds up the search.
        let is_slow = now.duration_since(since) >= SLOW && answer.as_ref().is_some_and(Vec::is_empty);
        if answer.is_none() || is_slow {
            self.blocks.change(peer, now, |conduct| {
                conduct.failed(now);
                conduct.not_before = pause.map_or(conduct.not_before, |pause| now + pause);
            });
        }
        // The caller may have stopped waiting.
        let _ = done.send(answer.map(|blocks| (peer, blocks)).ok_or(NoAnswer::Failed(peer)));
    }

    fn serve_blocks(
        &mut self,
        peer: PeerId,
        id: (ByWhat, InboundRequestId),
        protocol: DataProtocol,
        query: &BlockQuery,
        channel: ResponseChannel<Response>,
    ) {
        let now = Instant::now();
        if !self.is_within_quota(peer, Protocol::Data(protocol), now) {
            return self.refuse(Protocol::Data(protocol), channel);
        }
        let digests = self.blocks.digests.clone();
        let store = self.config.blocks.as_ref();
        let Some(found) = store.and_then(|store| ServedBlocks::find(store, protocol, query, |digest| digests.fork_of(digest)))
        else {
            return self.has_nothing(peer, protocol, channel);
        };
        let (n_blocks, n_bytes) = (found.blocks.len() as u64, found.n_bytes());
        let prefix = self.peers.connected.get(&peer).and_then(public_prefix);
        match self.blocks.afford(peer, prefix, id.0, (n_blocks, n_bytes), now) {
            Ok(()) => {}
            Err(TooMuch::OfPeer) => return self.refuse(Protocol::Data(protocol), channel),
            // A client penalizes the answer that it asks too much, and this one does not.
            Err(TooMuch::Shared) => return self.has_nothing(peer, protocol, channel),
        }
        // If the peer no longer waits, nothing reports the end of this answer.
        if self.respond(Protocol::Data(protocol), channel, found.response()) && n_blocks > 0 {
            self.blocks.serving.insert(id, (peer, prefix));
            self.metrics.served_blocks.inc_by(n_blocks);
            self.metrics.served_bytes.inc_by(n_bytes);
        }
    }

    /// Answers that the blocks are not here.
    fn has_nothing(&mut self, peer: PeerId, protocol: DataProtocol, channel: ResponseChannel<Response>) {
        let agent = self.peers.connected.get(&peer).and_then(|peer| peer.agent.as_deref());
        let answer = rpc::to_data_request(protocol, agent);
        self.respond(Protocol::Data(protocol), channel, answer);
    }
}

/// A block that a peer sent, as it was asked for. Its signature is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerBlock {
    pub peer: PeerId,
    pub root: Root,
    pub slot: Slot,
    pub parent: Root,
    pub message: RawMessage,
}

/// Asks peers for blocks and checks the answers. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct BlockClient {
    commands: mpsc::Sender<BlockCommand>,
    network: Arc<Network>,
    digests: Arc<ForkDigests>,
    clock: Clock,
    metrics: SourceMetrics,
}

impl BlockClient {
    pub(super) fn new(network: Arc<Network>, clock: Clock, metrics: SourceMetrics) -> (Self, mpsc::Receiver<BlockCommand>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let digests = Arc::new(network.fork_digests());
        (Self { commands, network, digests, clock, metrics }, received)
    }

    /// Asks one peer for the blocks of one branch in `count` slots from `start` on, at most
    /// [`MAX_ASKED_BLOCKS`]. The peers in `avoided` are not asked. Each block of the answer is the
    /// child of the one before. The answer may end before the range does, and it has no block if
    /// the peer says that all slots are empty.
    ///
    /// # Errors
    ///
    /// No peer could be asked, or the one that was gave no right answer.
    pub async fn by_range(&self, start: Slot, count: u64, avoided: &[PeerId]) -> Result<(PeerId, Vec<PeerBlock>), NoAnswer> {
        self.ask(BlockQuery::Range { start, count: count.min(MAX_ASKED_BLOCKS as u64) }, None, avoided).await
    }

    /// Asks one peer for blocks by root, at most [`MAX_ASKED_BLOCKS`].
    ///
    /// # Errors
    ///
    /// The same as of [`Self::by_range`].
    pub async fn by_root(&self, roots: &[Root], avoided: &[PeerId]) -> Result<(PeerId, Vec<PeerBlock>), NoAnswer> {
        self.ask(BlockQuery::Roots(roots[..roots.len().min(MAX_ASKED_BLOCKS)].to_vec()), None, avoided).await
    }

    /// Asks this peer for a block by root.
    ///
    /// # Errors
    ///
    /// [`NoAnswer::NoPeer`]: it is not connected, or its status says that it has no blocks. Others
    /// as of [`Self::by_range`].
    pub async fn by_root_from(&self, peer: PeerId, root: Root) -> Result<(PeerId, Vec<PeerBlock>), NoAnswer> {
        self.ask(BlockQuery::Roots(vec![root]), Some(peer), &[]).await
    }

    /// Asks several peers for blocks by root, one after the other, until all are there or one of
    /// them fails. Returns the blocks, and how many peers answered.
    pub async fn by_root_of_several(&self, roots: &[Root]) -> (Vec<PeerBlock>, usize) {
        let (mut blocks, mut asked, mut n_answers) = (Vec::new(), Vec::new(), 0);
        let mut wanted = roots[..roots.len().min(MAX_ASKED_BLOCKS)].to_vec();
        while !wanted.is_empty() && asked.len() < MAX_PEERS_ASKED {
            match self.by_root(&wanted, &asked).await {
                Ok((peer, found)) => {
                    wanted.retain(|root| found.iter().all(|block| block.root != *root));
                    blocks.extend(found);
                    asked.push(peer);
                    n_answers += 1;
                }
                // A peer that failed may have taken its time, and the caller has other things to
                // do.
                Err(NoAnswer::Failed(_) | NoAnswer::NoPeer | NoAnswer::Later) => break,
            }
        }
        (blocks, n_answers)
    }

    /// Counts against a peer that blocks which it sent turned out to be false.
    pub fn blame(&self, peer: PeerId) {
        self.judge(peer, AnswerWorth::Wrong);
    }

    async fn ask(
        &self,
        query: BlockQuery,
        only: Option<PeerId>,
        avoided: &[PeerId],
    ) -> Result<(PeerId, Vec<PeerBlock>), NoAnswer> {
        let (done, answer) = oneshot::channel();
        let ask = BlockAsk { query: query.clone(), only, avoided: avoided.to_vec(), done };
        self.commands.try_send(BlockCommand::Ask(ask)).map_err(|_| NoAnswer::Later)?;
        let (peer, chunks) = answer.await.unwrap_or(Err(NoAnswer::NoPeer))?;
        let (network, digests, at) = (self.network.clone(), self.digests.clone(), self.clock.now());
        // Decoding and hashing some blocks takes tens of milliseconds.
        let checked = tokio::task::spawn_blocking(move || check(&network, &digests, &query, chunks, peer, at)).await;
        match checked.unwrap_or(Err("the check has failed")) {
            Ok(blocks) => {
                self.judge(peer, AnswerWorth::of(&blocks));
                Ok((peer, blocks))
            }
            Err(reason) => {
                debug!(%peer, reason, "a peer sent blocks that were not asked for");
                self.metrics.block_requests.with_label_values(&["wrong"]).inc();
                self.judge(peer, AnswerWorth::Wrong);
                Err(NoAnswer::Failed(peer))
            }
        }
    }

    fn judge(&self, peer: PeerId, worth: AnswerWorth) {
        // If the task has no time for it, the peer is asked as before.
        let _ = self.commands.try_send(BlockCommand::Judge(peer, worth));
    }
}

/// Checks that an answer is what was asked for. The signatures are not checked.
fn check(
    network: &Network,
    digests: &ForkDigests,
    query: &BlockQuery,
    chunks: Vec<BlockChunk>,
    peer: PeerId,
    at: Time,
) -> Result<Vec<PeerBlock>, &'static str> {
    let fork_at = |slot: Slot| network.spec.fork_name_at(slot.epoch(network.preset()));
    let mut blocks: Vec<PeerBlock> = Vec::with_capacity(chunks.len());
    for BlockChunk { digest, ssz } in chunks {
        let Some(begins) = digests.begins(digest) else { return Err("a fork digest is not of this network") };
        // Clocks differ.
        if begins > network.slot_at(at.0).epoch(network.preset()).saturating_add(1) {
            return Err("a fork digest is of a fork to come");
        }
        // Nobody is to blame for a block of a fork that this program does not know.
        let Some(fork) = digests.fork_of(digest) else { break };
        let block = match SignedBlock::from_ssz(fork, network.preset(), &ssz) {
            Ok(block) => block,
            // Nor for one of another draft.
            Err(_) if fork.is_draft() && block_prefix(&ssz).is_some_and(|block| fork_at(block.slot) == fork) => break,
            Err(_) => return Err("the bytes are no block of that fork"),
        };
        let header = block.signed_header.message;
        if fork_at(header.slot) != fork {
            return Err("a fork digest is that of another slot");
        }
        let is_asked_for = match query {
            BlockQuery::Range { start, count } => {
                let is_next = blocks.last().is_none_or(|last| last.slot < header.slot && last.root == header.parent_root);
                is_next && *start <= header.slot && header.slot < start.saturating_add(*count)
            }
            BlockQuery::Roots(roots) => roots.contains(&block.root) && blocks.iter().all(|other| other.root != block.root),
        };
        if !is_asked_for {
            return Err("a block was not asked for, or it does not follow the one before");
        }
        let message = peer_block(ssz, fork, peer, at).map_err(|_| "a block is longer than a block may be")?;
        blocks.push(PeerBlock { peer, root: block.root, slot: header.slot, parent: header.parent_root, message });
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Epoch, ForkDigest, Spec};

    /// Heze from epoch 5 on, and from 9 on a fork that this program does not know.
    fn network() -> Network {
        let forks = "PRESET_BASE: minimal\nFULU_FORK_EPOCH: 0\nHEZE_FORK_EPOCH: 5\n\
                     I_STAR_FORK_EPOCH: 9\nI_STAR_FORK_VERSION: 0x09000001\n";
        Network { spec: Spec::from_yaml(forks).unwrap(), genesis_time: 0, genesis_validators_root: Root::ZERO }
    }

    /// Bytes that begin like a block of a slot.
    fn like_a_block(slot: u64) -> Vec<u8> {
        let mut ssz = vec![9; 400];
        ssz[..4].copy_from_slice(&100u32.to_le_bytes());
        ssz[100..108].copy_from_slice(&slot.to_le_bytes());
        ssz
    }

    /// A peer answers with junk under the digest of a fork that this program cannot read. Before
    /// that fork nobody has such a block, and later the answer is worth nothing.
    #[test]
    fn junk_under_a_digest_that_cannot_be_read_is_of_no_use() {
        let network = network();
        let digests = network.fork_digests();
        let answered_in = |epoch: u64, digest: ForkDigest, ssz: Vec<u8>| {
            let at = Time(network.slot_start_ns(Epoch::new(epoch).start_slot(network.preset())));
            let query = BlockQuery::Range { start: Slot::new(1), count: 16 };
            let checked = check(&network, &digests, &query, vec![BlockChunk { digest, ssz }], PeerId::random(), at);
            checked.map(|blocks| AnswerWorth::of(&blocks))
        };
        let [heze, later] = [5, 9].map(|epoch| network.fork_digest_at(Epoch::new(epoch)));
        assert_eq!((digests.fork_of(later), digests.begins(later)), (None, Some(Epoch::new(9))));
        let to_come = Err("a fork digest is of a fork to come");
        for (digest, first_slot, begins) in [(heze, 40, 5), (later, 72, 9)] {
            assert_eq!(answered_in(begins - 2, digest, like_a_block(first_slot)), to_come);
            assert_eq!(answered_in(begins - 1, digest, like_a_block(first_slot)), Ok(AnswerWorth::Empty));
            assert_eq!(answered_in(begins + 9, digest, like_a_block(first_slot)), Ok(AnswerWorth::Empty));
        }
        let no_block = Err("the bytes are no block of that fork");
        assert_eq!(answered_in(6, heze, like_a_block(39)), no_block, "a slot before the fork");
        assert_eq!(answered_in(6, heze, vec![9; 400]), no_block);
        assert_eq!(answered_in(6, ForkDigest([1; 4]), vec![9; 400]), Err("a fork digest is not of this network"));
    }
}
