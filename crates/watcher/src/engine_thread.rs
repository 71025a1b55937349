//! The thread that owns the engine while the watcher runs. It takes the queued inputs, sorts the
//! messages into [`PriorityQueues`], processes what is due, and reports the results.
//!
//! Contradictions and blocks are processed as soon as the thread looks at them. Other votes are
//! gathered first. Under light load this delays them by a moment; under heavy load many of them
//! share one equation. The thread also wakes with the clock, so that parked messages are tried
//! again or reach the end of their wait.
//!
//! If the disk refuses writes, the thread ends, but not at once. It continues for
//! [`CONTINUE_WITHOUT_WRITES`], because what it proves still triggers kill switches (see
//! [`engine::Engine`]), and because somebody may free disk space meanwhile.

use crate::clock;
use crate::downtime::DowntimeLog;
use crate::inputs::InputReceiver;
use crate::observed::RecentBuilder;
use crate::status::EngineSnapshot;
use consensus::{Checkpoint, ForkName, Root, Slot};
use detect::monitor::SingleAnomaly;
use detect::watch::WatchList;
use engine::priority_queues::{Batch, PriorityQueues, QueueLimits};
use engine::silence::{SilenceChange, SilenceTracker};
use engine::{Engine, EngineError, WantedBlock};
use evidence::RouteFilter;
use sources::block_store::{BlockStore, Kept, NewBlock};
use sources::gossip::StatusView;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};
use verify::{MessageOutcome, ProvenBlock, RawMessage, Ticket, Time, Verdict};

/// While votes are gathered, the thread checks this often whether a new message contradicts
/// something. Waking up for each message would cost more than processing the messages.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long the thread continues while writes are refused. What it proves meanwhile is kept in
/// memory only, about 50 MB per epoch on mainnet.
const CONTINUE_WITHOUT_WRITES: Duration = Duration::from_secs(600);
/// How often the thread logs that writes are still refused.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Largest number of inputs that are sorted before the messages that are due are processed.
const MAX_SORTED: usize = 8192;

/// Input of the engine thread.
pub enum Input {
    Message(RawMessage),
    /// A beacon state with newer validators.
    State(Vec<u8>),
    /// The justified and finalized checkpoints that a beacon node reports.
    Finality {
        justified: Checkpoint,
        finalized: Checkpoint,
    },
    /// The root of the head block that a beacon node reports.
    NodeHead(Root),
    /// No beacon node has this block, although they were asked several times.
    NoBlock(Root),
    /// No peer has a block that messages name.
    NoNamedBlock(Root),
    /// An event about a peer.
    Peer(detect::PeerNews),
    /// New groups and labels of watched keys.
    Watch(Arc<WatchList>),
    /// New addressees of findings.
    Routes(Vec<RouteFilter>),
    /// Anomalies that were found outside of the traffic.
    Anomalies(Vec<SingleAnomaly>),
    /// A reader's question. It takes a few milliseconds at most, and whoever sends it limits how
    /// often.
    Question(Question),
    /// The clock has advanced. `late` is how long the clock's task waited for its turn after the
    /// planned time. Tasks that read from connections wait about as long.
    Tick {
        late: Duration,
    },
}

/// Reads from the engine between two batches.
pub type Question = Box<dyn FnOnce(&Engine) + Send>;

/// The outputs of the engine thread. A receiver may be slow: the thread never waits for one.
pub struct Effects {
    /// Verdicts on gossip messages. If the channel is full, the verdict is dropped and the ticket
    /// expires, so gossipsub gets no verdict on that message.
    pub verdicts: mpsc::Sender<(Ticket, Verdict)>,
    /// Roots of blocks that other blocks build on and that no source has sent.
    pub wanted_blocks: watch::Sender<Vec<Root>>,
    /// Blocks that signed messages name. Peers are asked for them, first those that sent the
    /// messages.
    pub named_blocks: watch::Sender<Vec<WantedBlock>>,
    /// True while the registry is out of date and the engine needs a newer beacon state.
    pub wants_state: watch::Sender<bool>,
    /// The state of the engine after the last batch.
    pub snapshot: watch::Sender<Arc<EngineSnapshot>>,
    /// What was heard in the last epochs.
    pub recent: watch::Sender<Arc<api::Recent>>,
    /// Where proven blocks are kept for peers that ask.
    pub blocks: BlockStore,
    /// What gossip peers are told of the chain.
    pub status: watch::Sender<StatusView>,
}

/// Runs until the queue is closed and empty. Then it returns the engine, which still has to finish,
/// and the value that records how far the watcher has come.
pub fn run(
    engine: Engine,
    downtime: DowntimeLog,
    silence: SilenceTracker,
    mut queue: InputReceiver,
    effects: &Effects,
    limits: QueueLimits,
) -> Result<(Engine, DowntimeLog), EngineError> {
    let mut state = EngineLoop {
        engine,
        downtime,
        silence,
        unstored_change: None,
        queues: PriorityQueues::new(limits),
        effects,
        clock_ticked: false,
        tick_delay: Duration::ZERO,
        recorded_slot: Slot::new(0),
        reported_newcomers: 0,
        block_error_slot: Slot::new(0),
        emptied_at: clock::now(),
        refused: None,
        recent: RecentBuilder::default(),
    };
    let mut open = true;
    while open || !state.queues.is_empty() {
        let now = clock::now();
        match state.queues.due_in(now) {
            None if open => match queue.blocking_recv() {
                Some(input) => state.accept(input),
                None => open = false,
            },
            Some(wait) if open && !wait.is_zero() => std::thread::sleep(wait.min(POLL_INTERVAL)),
            None | Some(_) => {}
        }
        let looked_at = clock::now();
        for _ in 0..MAX_SORTED {
            if !state.queues.has_room() {
                break;
            }
            match queue.try_recv() {
                Ok(input) => state.accept(input),
                Err(TryRecvError::Empty) => {
                    state.emptied_at = looked_at;
                    break;
                }
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        state.process_due(open)?;
    }
    Ok((state.engine, state.downtime))
}

struct EngineLoop<'a> {
    engine: Engine,
    downtime: DowntimeLog,
    silence: SilenceTracker,
    /// The last change of a silence that is not stored yet.
    unstored_change: Option<SilenceChange>,
    queues: PriorityQueues,
    effects: &'a Effects,
    clock_ticked: bool,
    /// The longest time that the clock's task waited for its turn since the last batch.
    tick_delay: Duration,
    /// The slot in which the progress was recorded last.
    recorded_slot: Slot,
    /// Number of validators without a key that the log has told.
    reported_newcomers: usize,
    /// The slot in which a block could not be kept last.
    block_error_slot: Slot,
    /// The last time at which the queue was empty. What came earlier is in the priority queues or
    /// is processed.
    emptied_at: Time,
    /// Is set while the disk refuses writes.
    refused: Option<Refused>,
    /// Makes what is shown of the last epochs.
    recent: RecentBuilder,
}

/// State of the thread while the disk refuses writes.
struct Refused {
    since: Time,
    /// When the refusal was logged last.
    logged_at: Time,
}

impl EngineLoop<'_> {
    fn accept(&mut self, input: Input) {
        match input {
            Input::Message(message) => {
                let triage = self.engine.triage(&message);
                let repute = self.engine.repute(message.origin.peer.as_ref());
                if let Some((message, why)) = self.queues.push(message, triage, repute) {
                    let report = self.engine.report_dropped(message, why);
                    self.report(&[report]);
                }
            }
            Input::Peer(news) => self.engine.note_peer(news),
            Input::Tick { late } => {
                self.clock_ticked = true;
                self.tick_delay = self.tick_delay.max(late);
            }
            Input::Watch(list) => self.engine.set_watch(list),
            Input::Routes(routes) => self.engine.set_routes(routes),
            Input::Question(ask) => ask(&self.engine),
            Input::Anomalies(found) => {
                if let Err(error) = self.engine.record_anomalies(found) {
                    tracing::error!(%error, "what an audit found cannot be written now; it is written with the next findings");
                }
            }
            Input::NodeHead(root) => self.engine.note_node_head(root),
            Input::NoBlock(root) => self.engine.give_up_block(&root),
            Input::NoNamedBlock(root) => self.engine.give_up_named_block(&root),
            Input::Finality { justified, finalized } => self.engine.note_finality(justified, finalized),
            Input::State(ssz) => match self.engine.add_state(&ssz) {
                Ok(()) => tracing::info!(validators = self.engine.chain().registry().len(), "a newer state is in use"),
                // A bad answer of a beacon node is no reason to stop. The known validators are
                // kept.
                Err(error) => tracing::warn!(%error, "a beacon node's state cannot be used; the known validators are kept"),
            },
        }
    }

    /// Processes one batch if one is due or if the clock has advanced. When the queue is closed
    /// (`open` is false), it takes whatever is left.
    fn process_due(&mut self, open: bool) -> Result<(), EngineError> {
        let now = clock::now();
        let until = if open { now } else { Time(u64::MAX) };
        let engine = &self.engine;
        let Batch { messages: batch, dropped } = self.queues.take(until, |peer| engine.repute(peer));
        for (message, why) in dropped {
            let report = self.engine.report_dropped(message, why);
            self.report(&[report]);
        }
        if batch.is_empty() && !std::mem::take(&mut self.clock_ticked) {
            return Ok(());
        }
        self.engine.set_pressed(self.queues.is_pressed());
        let oldest = batch.iter().map(|message| message.received_at).min();
        let waits_since = oldest.map_or(self.emptied_at, |oldest| oldest.min(self.emptied_at));
        let waited = Duration::from_nanos(now.0.saturating_sub(waits_since.0));
        self.engine.note_delay(now, waited.max(std::mem::take(&mut self.tick_delay)));
        let processed = match self.engine.process(batch, now) {
            Ok(processed) => {
                self.report(&processed.reports);
                self.keep_blocks(&processed.blocks, now);
                self.record_silence(now).and_then(|()| self.record_progress(now))
            }
            // Silence is tracked even if the disk refuses writes, because messages may still
            // arrive.
            Err(error) => {
                self.silence_change(now);
                Err(error)
            }
        };
        match processed {
            Ok(()) => self.refused = None,
            Err(error) => self.continue_after(error, now)?,
        }
        self.engine.show_waiting(self.queues.len());
        self.publish(now);
        Ok(())
    }

    /// Records whether anything arrives from the network. A silence is a gap that grows with each
    /// slot.
    fn record_silence(&mut self, now: Time) -> Result<(), EngineError> {
        let change = self.silence_change(now);
        let network = self.engine.chain().network();
        let slot = network.slot_at(now.0);
        // A silence that ended while the disk refused writes has its gap recorded now.
        let silent = match self.unstored_change {
            Some(SilenceChange::Ended { since, until }) => Some((network.slot_at(since.0), network.slot_at(until.0))),
            _ => self
                .silence
                .silent_since()
                .filter(|_| change.is_some() || slot > self.recorded_slot)
                .map(|since| (network.slot_at(since.0), slot)),
        };
        if let Some((from, to)) = silent {
            self.downtime.silent(from, to)?;
        }
        if let Some(change) = self.unstored_change {
            self.engine.record_silence(change, now)?;
            self.unstored_change = None;
        }
        Ok(())
    }

    /// Returns whether a silence begins, continues or ends. If the last change could not be stored,
    /// it is kept.
    fn silence_change(&mut self, now: Time) -> Option<SilenceChange> {
        if let Some(at) = self.engine.last_reception() {
            self.silence.received(at);
        }
        let change = self.silence.tick(now);
        match change {
            Some(SilenceChange::Began { .. }) => {
                tracing::error!("no vote or block came from the network for two slots; /readyz shows since when and what to do");
            }
            Some(SilenceChange::Ended { .. }) => tracing::info!("votes or blocks come from the network again"),
            Some(SilenceChange::GoesOn { .. }) | None => {}
        }
        // A change that a full disk refused is stored and reported when the disk accepts writes
        // again. `GoesOn` never replaces a change that still waits to be stored.
        let goes_on = matches!(change, Some(SilenceChange::GoesOn { .. }));
        if self.unstored_change.is_none() || !goes_on {
            self.unstored_change = change.or(self.unstored_change);
        }
        change
    }

    /// Lets the thread continue for a while although the disk refuses writes. Any other error is
    /// returned and ends the thread.
    fn continue_after(&mut self, error: EngineError, now: Time) -> Result<(), EngineError> {
        let (since, mut logged_at) = self.refused.as_ref().map_or((now, Time(0)), |refused| (refused.since, refused.logged_at));
        let lasts = |from: Time| Duration::from_nanos(now.0.saturating_sub(from.0));
        if !error.is_refused_write() || lasts(since) > CONTINUE_WITHOUT_WRITES {
            return Err(error);
        }
        if lasts(logged_at) >= REFUSED_LOG_INTERVAL {
            tracing::error!(
                %error,
                ends_after_s = CONTINUE_WITHOUT_WRITES.saturating_sub(lasts(since)).as_secs(),
                "nothing can be written: only kill switches still act on what is proven; free disk space, then restart"
            );
            logged_at = now;
        }
        self.refused = Some(Refused { since, logged_at });
        Ok(())
    }

    /// Records once per slot how far the watcher has come. Messages that wait for their committees
    /// or for their turn are lost in a crash. So the record goes only as far as the oldest of them.
    fn record_progress(&mut self, now: Time) -> Result<(), EngineError> {
        let network = self.engine.chain().network();
        let slot = network.slot_at(now.0);
        if slot > self.recorded_slot {
            let oldest = [self.engine.parked_since(), self.queues.oldest(), Some(self.emptied_at)].into_iter().flatten().min();
            // A message that came in the current slot is not late yet.
            let waiting = oldest.map(|since| network.slot_at(since.0)).filter(|since| *since < slot);
            self.downtime.watched(slot, waiting)?;
            self.recorded_slot = slot;
            self.report_newcomers();
        }
        Ok(())
    }

    /// Says in the log when more validators have become active whose keys no state has named.
    fn report_newcomers(&mut self) {
        let chain = self.engine.chain();
        let n = chain.n_newcomers();
        if n > self.reported_newcomers {
            let state_epoch = chain.registry().slot().epoch(chain.network().preset());
            tracing::warn!(validators = n, %state_epoch, "validators became active after the latest state: their votes cannot be proven until a newer state names their keys");
        }
        self.reported_newcomers = n;
    }

    /// Keeps proven blocks for peers that ask. Nothing else depends on them, so a disk that refuses
    /// them is only logged, once in a while.
    fn keep_blocks(&mut self, blocks: &[ProvenBlock], now: Time) {
        let network = self.engine.chain().network();
        let slot = network.slot_at(now.0);
        for proven in blocks.iter().filter(|proven| proven.randao_proven) {
            let header = proven.block.signed_header.message;
            let new = NewBlock {
                slot: header.slot,
                root: proven.block.root,
                parent: header.parent_root,
                proposer: header.proposer_index,
                is_in_turn: self.engine.chain().is_in_turn(&proven.block.root),
                digest: network.fork_digest_at(header.slot.epoch(network.preset())),
                ssz: &proven.ssz,
            };
            match self.effects.blocks.keep(&new, slot) {
                Ok(Kept::New | Kept::Known | Kept::OutOfRange) => {}
                Ok(Kept::TooMany) => {
                    tracing::debug!(slot = %new.slot, root = %new.root, "a block is not kept: there are too many of its slot")
                }
                Err(error) => {
                    if slot > self.block_error_slot {
                        tracing::warn!(%error, "a block cannot be kept for peers that ask; check that the disk has room");
                    }
                    self.block_error_slot = slot;
                }
            }
        }
    }

    fn publish(&mut self, now: Time) {
        let named = self.engine.named_blocks(now);
        self.effects.named_blocks.send_if_modified(|wanted| replace(wanted, named));
        let (chain, effects) = (self.engine.chain(), self.effects);
        effects.blocks.set_head(chain.backed_head().root);
        effects.status.send_if_modified(|status| replace(status, self.status_view()));
        effects.wanted_blocks.send_if_modified(|wanted| replace(wanted, chain.missing_blocks()));
        effects.wants_state.send_if_modified(|wants| replace(wants, chain.needs_registry_refresh()));
        let writes_refused_since = self.refused.as_ref().map(|refused| refused.since);
        let snapshot = EngineSnapshot {
            writes_refused_since,
            ..EngineSnapshot::of(&self.engine, self.silence.reception(), self.downtime.gaps())
        };
        effects.snapshot.send_replace(Arc::new(snapshot));
        if let Some(recent) = self.recent.of(&self.engine, now) {
            effects.recent.send_replace(Arc::new(recent));
        }
    }

    /// What gossip peers are told of the chain.
    ///
    /// A node that is behind asks those that claim a later head for the blocks and for everything
    /// that belongs to them. From Deneb on that includes blobs or data columns, which the watcher
    /// does not keep. So it then claims genesis as its head, and nobody tries to catch up with it.
    /// Otherwise a node of the other branch in a split would stop its validators, fail to get what
    /// it asks for, and send the watcher away. Its blocks are served all the same, and the status
    /// says from which slot on.
    fn status_view(&self) -> StatusView {
        let chain = self.engine.chain();
        let network = chain.network();
        let has_sidecars = network.spec.fork_name_at(chain.now().epoch(network.preset())) >= ForkName::Deneb;
        match self.effects.blocks.head().filter(|_| !has_sidecars) {
            Some(head) => StatusView { finalized: chain.finalized(), head_root: head.root, head_slot: head.slot },
            None => StatusView::default(),
        }
    }

    fn report(&self, reports: &[MessageOutcome]) {
        for (ticket, _, _, outcome) in reports {
            if let Some(ticket) = ticket.filter(|_| outcome.is_final()) {
                // If the channel is full, the ticket expires, and the source counts that.
                let _ = self.effects.verdicts.try_send((ticket, outcome.verdict()));
            }
        }
    }
}

fn replace<T: PartialEq>(slot: &mut T, value: T) -> bool {
    let differs = *slot != value;
    *slot = value;
    differs
}
