//! The thread that owns the engine while the watcher runs: takes what has queued up, processes it, says what followed.
//!
//! A batch is whatever waits, up to a bound: under light load a message is judged at once, under heavy load many share one
//! pairing. Between two messages the thread wakes with the clock, so that what is parked is tried again or ends its waiting.

use crate::clock;
use crate::engine::{Engine, EngineError};
use crate::gaps::Watchkeeper;
use crate::status::Snapshot;
use consensus::{Checkpoint, Root};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use verify::{RawMessage, Ticket, Verdict};

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
    /// Time goes on.
    Tick,
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

/// Runs until the queue is closed and empty; gives the engine back for its last words.
pub fn run(
    mut engine: Engine,
    mut watch: Watchkeeper,
    mut queue: mpsc::Receiver<Input>,
    effects: &Effects,
    batch_messages: usize,
) -> Result<Engine, EngineError> {
    let mut waiting = Vec::with_capacity(batch_messages);
    loop {
        if queue.blocking_recv_many(&mut waiting, batch_messages) == 0 {
            return Ok(engine);
        }
        let mut batch = Vec::with_capacity(waiting.len());
        for input in waiting.drain(..) {
            match input {
                Input::Message(message) => batch.push(message),
                Input::Tick => {}
                Input::Finality { justified, finalized } => engine.note_finality(justified, finalized),
                Input::State(ssz) => match engine.add_state(&ssz) {
                    Ok(()) => tracing::info!(validators = engine.chain().registry().len(), "newer state taken over"),
                    // A node's bad answer is no reason to stop; what is known stays.
                    Err(error) => tracing::warn!(%error, "a node's state is refused"),
                },
            }
        }
        let now = clock::now();
        let processed = engine.process(batch, now)?;
        for (ticket, _, _, outcome) in &processed.reports {
            if let Some(ticket) = ticket.filter(|_| outcome.is_final()) {
                // A full channel leaves the ticket to expire, which the source counts.
                let _ = effects.verdicts.try_send((ticket, outcome.verdict()));
            }
        }
        watch.watched(engine.chain().network().slot_at(now.0))?;
        tell(&engine, effects);
    }
}

fn tell(engine: &Engine, effects: &Effects) {
    let chain = engine.chain();
    effects.wanted_blocks.send_if_modified(|wanted| replace(wanted, chain.missing_blocks()));
    effects.wants_state.send_if_modified(|wants| replace(wants, chain.needs_registry_refresh()));
    effects.snapshot.send_replace(Arc::new(Snapshot::of(engine)));
}

fn replace<T: PartialEq>(slot: &mut T, value: T) -> bool {
    let differs = *slot != value;
    *slot = value;
    differs
}
