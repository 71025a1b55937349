//! The thread that owns the engine while the watcher runs: takes what has queued up, sorts it into [`Lanes`], judges what is due,
//! says what followed.
//!
//! Contradictions and blocks are judged as soon as the thread looks, other votes when some have gathered: under light load
//! that is a moment later, under heavy load many share one equation. With the clock it wakes too, so that what is parked is
//! tried again or ends its waiting.
//!
//! A disk that refuses writes ends the thread, but not at once: for [`REFUSED_FOR`] it goes on judging, because what it proves still fires
//! kill switches (see [`engine::Engine`]), and somebody may make room meanwhile.

use crate::clock;
use crate::gaps::Watchkeeper;
use crate::inputs::InputReceiver;
use crate::status::{RefusedWrites, Snapshot};
use consensus::{Checkpoint, Root, Slot};
use detect::watch::WatchList;
use engine::lanes::{LaneLimits, Lanes, Shed};
use engine::silence::{SilenceChange, SilenceTracker};
use engine::{Engine, EngineError};
use evidence::Addressee;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};
use verify::{MessageOutcome, Outcome, RawMessage, Ticket, UnixNs, Verdict};

/// While messages gather, the thread looks this often for a contradiction among the new ones. A wake-up for each message would cost
/// more than the messages do.
const LOOK: Duration = Duration::from_millis(5);
/// So long it goes on while writes are refused. What it heard meanwhile is in memory only, some 50 MB an epoch on mainnet.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// While it goes on, it says so this often.
const REFUSED_SAID_EVERY: Duration = Duration::from_secs(60);
/// Inputs sorted before what is due gets its turn.
const MAX_SORTED: usize = 8192;
const OVERLOAD: &str = "shed: more votes than can be judged";
const LIAR: &str = "shed: more from peers that forge than can be judged";
const SETTLED: &str = "shed: more from validators that cannot be punished or are on record than can be judged";
const BYTES: &str = "shed: more bytes than may wait";

/// What the thread is told.
pub enum Input {
    Message(RawMessage),
    /// A state with newer validators.
    State(Vec<u8>),
    /// What a node says is justified and finalized.
    Finality {
        justified: Checkpoint,
        finalized: Checkpoint,
    },
    /// What a node says is its head.
    NodeHead(Root),
    /// No node has this block, though it was asked for several times.
    NoBlock(Root),
    /// Something about a peer.
    Peer(detect::PeerNews),
    /// Other groups and labels.
    Watch(Arc<WatchList>),
    /// Others who are told of findings.
    Routes(Vec<Addressee>),
    /// Time goes on. `late`: how long after its time the clock's task got its turn; whoever reads from connections waits as long.
    Tick {
        late: Duration,
    },
}

/// What the thread tells others. Each receiver may be slow: nothing here waits for one.
pub struct Effects {
    /// Gossip messages whose fate is known. When full, the mesh hears nothing of the message, as with an expired ticket.
    pub verdicts: mpsc::Sender<(Ticket, Verdict)>,
    /// Blocks that others build on and that nobody sent us.
    pub wanted_blocks: watch::Sender<Vec<Root>>,
    pub wants_state: watch::Sender<bool>,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
}

/// Runs until the queue is closed and empty; gives the engine back for its last words, and who notes them.
pub fn run(
    engine: Engine,
    watch: Watchkeeper,
    silence: SilenceTracker,
    mut queue: InputReceiver,
    effects: &Effects,
    limits: LaneLimits,
) -> Result<(Engine, Watchkeeper), EngineError> {
    let mut judge = Judge {
        engine,
        watch,
        silence,
        untold: None,
        lanes: Lanes::new(limits),
        effects,
        ticked: false,
        late: Duration::ZERO,
        noted: Slot::new(0),
        emptied_at: clock::now(),
        refused: None,
    };
    let mut open = true;
    while open || !judge.lanes.is_empty() {
        let now = clock::now();
        match judge.lanes.due_in(now) {
            None if open => match queue.blocking_recv() {
                Some(input) => judge.take_in(input),
                None => open = false,
            },
            Some(wait) if open && !wait.is_zero() => std::thread::sleep(wait.min(LOOK)),
            None | Some(_) => {}
        }
        let looked_at = clock::now();
        for _ in 0..MAX_SORTED {
            if !judge.lanes.has_room() {
                break;
            }
            match queue.try_recv() {
                Ok(input) => judge.take_in(input),
                Err(TryRecvError::Empty) => {
                    judge.emptied_at = looked_at;
                    break;
                }
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        judge.judge(open)?;
    }
    Ok((judge.engine, judge.watch))
}

struct Judge<'a> {
    engine: Engine,
    watch: Watchkeeper,
    silence: SilenceTracker,
    /// What became of a silence and is not stored yet.
    untold: Option<SilenceChange>,
    lanes: Lanes,
    effects: &'a Effects,
    ticked: bool,
    /// The longest that the clock's task waited for its turn since the last batch.
    late: Duration,
    /// The slot in which it was last noted how far we are.
    noted: Slot,
    /// Then nothing was left in the queue: what came earlier is in the lanes, or judged.
    emptied_at: UnixNs,
    /// While the disk refuses writes.
    refused: Option<Refused>,
}

/// A disk that refuses writes.
struct Refused {
    since: UnixNs,
    /// When the log was told last.
    said: UnixNs,
    error: Arc<str>,
}

impl Judge<'_> {
    fn take_in(&mut self, input: Input) {
        match input {
            Input::Message(message) => {
                let triage = self.engine.triage(&message);
                let repute = self.engine.repute(message.origin.peer.as_ref());
                if let Some((message, why)) = self.lanes.push(message, triage, repute) {
                    let outcome = match why {
                        Shed::Known => Outcome::Duplicate,
                        Shed::Overload => Outcome::Refused(OVERLOAD),
                        Shed::Liar => Outcome::Refused(LIAR),
                        Shed::Settled => Outcome::Refused(SETTLED),
                        Shed::Bytes | Shed::PeerBytes => Outcome::Refused(BYTES),
                    };
                    let report = self.engine.turn_away(message, outcome, why);
                    self.report(&[report]);
                }
            }
            Input::Peer(news) => self.engine.note_peer(news),
            Input::Tick { late } => {
                self.ticked = true;
                self.late = self.late.max(late);
            }
            Input::Watch(list) => self.engine.set_watch(list),
            Input::Routes(routes) => self.engine.set_routes(routes),
            Input::NodeHead(root) => self.engine.note_node_head(root),
            Input::NoBlock(root) => self.engine.give_up_block(&root),
            Input::Finality { justified, finalized } => self.engine.note_finality(justified, finalized),
            Input::State(ssz) => match self.engine.add_state(&ssz) {
                Ok(()) => tracing::info!(validators = self.engine.chain().registry().len(), "newer state taken over"),
                // A node's bad answer is no reason to stop; what is known stays.
                Err(error) => tracing::warn!(%error, "a node's state is refused"),
            },
        }
    }

    /// One batch, if one is due, or if time went on; at the end whatever is left.
    fn judge(&mut self, open: bool) -> Result<(), EngineError> {
        let now = clock::now();
        let until = if open { now } else { UnixNs(u64::MAX) };
        let engine = &self.engine;
        let batch = self.lanes.take(until, |peer| engine.repute(peer));
        if batch.is_empty() && !std::mem::take(&mut self.ticked) {
            return Ok(());
        }
        self.engine.set_pressed(self.lanes.is_pressed());
        let oldest = batch.iter().map(|message| message.received_at).min();
        let waits_since = oldest.map_or(self.emptied_at, |oldest| oldest.min(self.emptied_at));
        let waited = Duration::from_nanos(now.0.saturating_sub(waits_since.0));
        self.engine.note_delay(now, waited.max(std::mem::take(&mut self.late)));
        let processed = match self.engine.process(batch, now) {
            Ok(processed) => {
                self.report(&processed.reports);
                self.listen_for_silence(now).and_then(|()| self.note(now))
            }
            // A disk that refuses does not mean that nothing comes.
            Err(error) => {
                self.silence_change(now);
                Err(error)
            }
        };
        match processed {
            Ok(()) => self.refused = None,
            Err(error) => self.go_on_after(error, now)?,
        }
        self.engine.show_waiting(self.lanes.len());
        self.tell();
        Ok(())
    }

    /// Whether the network is received at all. A silence is a gap that grows with each slot.
    fn listen_for_silence(&mut self, now: UnixNs) -> Result<(), EngineError> {
        let change = self.silence_change(now);
        let network = self.engine.chain().network();
        let slot = network.slot_at(now.0);
        let silent = match change {
            Some(SilenceChange::Ended { since, until }) => Some((network.slot_at(since.0), network.slot_at(until.0))),
            _ => self
                .silence
                .silent_since()
                .filter(|_| change.is_some() || slot > self.noted)
                .map(|since| (network.slot_at(since.0), slot)),
        };
        if let Some((from, to)) = silent {
            self.watch.silent(from, to)?;
        }
        if let Some(change) = self.untold {
            self.engine.record_silence(change, now)?;
            self.untold = None;
        }
        Ok(())
    }

    /// Whether a silence begins, goes on or is over. What could not be stored of the last change is
    /// kept.
    fn silence_change(&mut self, now: UnixNs) -> Option<SilenceChange> {
        if let Some(at) = self.engine.last_reception() {
            self.silence.received(at);
        }
        let change = self.silence.tick(now);
        match change {
            Some(SilenceChange::Began { .. }) => {
                tracing::error!("no vote or block came from the network for two slots; /readyz says since when and what to do");
            }
            Some(SilenceChange::Ended { .. }) => tracing::info!("votes or blocks come from the network again"),
            Some(SilenceChange::GoesOn { .. }) | None => {}
        }
        // What a full disk refused is stored, and told, once it takes it. That it goes on is not worth more than that it began.
        let goes_on = matches!(change, Some(SilenceChange::GoesOn { .. }));
        if self.untold.is_none() || !goes_on {
            self.untold = change.or(self.untold);
        }
        change
    }

    /// Goes on although the disk refuses, for a while; any other error ends it.
    fn go_on_after(&mut self, error: EngineError, now: UnixNs) -> Result<(), EngineError> {
        let (since, said) = self.refused.as_ref().map_or((now, UnixNs(0)), |refused| (refused.since, refused.said));
        let lasts = |from: UnixNs| Duration::from_nanos(now.0.saturating_sub(from.0));
        if !error.is_refused_write() || lasts(since) > REFUSED_FOR {
            return Err(error);
        }
        let mut last_said = said;
        if lasts(said) >= REFUSED_SAID_EVERY {
            tracing::error!(
                %error,
                ends_after_s = REFUSED_FOR.saturating_sub(lasts(since)).as_secs(),
                "nothing can be written: only kill switches still act on what is proven; make room and restart"
            );
            last_said = now;
        }
        self.refused = Some(Refused { since, said: last_said, error: error.to_string().into() });
        Ok(())
    }

    /// Once a slot: how far we are. What waits, for its committees or for its turn, is lost in a crash, so that is as far as it came.
    fn note(&mut self, now: UnixNs) -> Result<(), EngineError> {
        let network = self.engine.chain().network();
        let slot = network.slot_at(now.0);
        if slot > self.noted {
            let oldest = [self.engine.parked_since(), self.lanes.oldest(), Some(self.emptied_at)].into_iter().flatten().min();
            // What came in this slot is not late yet.
            let waiting = oldest.map(|since| network.slot_at(since.0)).filter(|since| *since < slot);
            self.watch.watched(slot, waiting)?;
            self.noted = slot;
        }
        Ok(())
    }

    fn tell(&self) {
        let (chain, effects) = (self.engine.chain(), self.effects);
        effects.wanted_blocks.send_if_modified(|wanted| replace(wanted, chain.missing_blocks()));
        effects.wants_state.send_if_modified(|wants| replace(wants, chain.needs_registry_refresh()));
        let refused = self.refused.as_ref().map(|refused| RefusedWrites { since: refused.since, error: refused.error.clone() });
        let snapshot = Snapshot { refused, ..Snapshot::of(&self.engine, self.silence.reception(), self.watch.gaps()) };
        effects.snapshot.send_replace(Arc::new(snapshot));
    }

    fn report(&self, reports: &[MessageOutcome]) {
        for (ticket, _, _, outcome) in reports {
            if let Some(ticket) = ticket.filter(|_| outcome.is_final()) {
                // A full channel leaves the ticket to expire, which the source counts.
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
