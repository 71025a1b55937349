//! The part of a replay that starts when the network is known. It sends messages to the engine in
//! batches that never cross the end of a slot.

use super::clock::ReplayClock;
use super::late_validators::LateValidators;
use super::{ReplaySummary, note_processed};
use base::error_chain;
use chain::ChainError;
use consensus::Network;
use engine::{Engine, EngineError};
use sources::capture::{CaptureFile, Entry, EntryType, Located};
use sources::convert::MessageConverter;
use std::path::Path;
use std::sync::Arc;
use verify::{RawMessage, Time, slot_claimed};
use watcher::WatcherError;

/// State that exists when the network is known.
pub(super) struct Session {
    pub(super) engine: Engine,
    pub(super) converter: MessageConverter,
    pub(super) network: Arc<Network>,
    pub(super) clock: ReplayClock,
    pub(super) late_validators: LateValidators,
    pub(super) batch: Vec<RawMessage>,
    /// Maximum number of messages that are verified together.
    pub(super) batch_messages: usize,
    /// Length of the messages in `batch`.
    pub(super) batch_bytes: usize,
}

/// Length of messages at which a batch is processed. A capture may have thousands of blocks of one
/// slot that are as long as blocks may be.
const BATCH_BYTES: usize = 64 << 20;

/// Why a state cannot be used.
pub(super) enum Unusable {
    /// The state belongs to another network. The file is then refused, unless an earlier state
    /// showed that it belongs to ours.
    OtherNetwork(String),
    /// The state itself is bad.
    Bad(String),
}

impl Session {
    /// Loads the state of a file before the rest of the file. A file without a configuration is an
    /// ERA file, which ends with its state. That state has the committees of the file's blocks.
    /// Returns the state's offset if there is one and it was added.
    pub(super) fn look_ahead(
        &mut self,
        path: &Path,
        capture: &CaptureFile,
        summary: &mut ReplaySummary,
    ) -> Result<Option<u64>, WatcherError> {
        if !matches!(capture.first_config(), Ok(None)) {
            return Ok(None);
        }
        let first = capture.each(EntryType::STATE).ok().and_then(|mut states| states.next()?.ok());
        let Some(Located { offset, entry: Entry::State(state) }) = first else { return Ok(None) };
        match self.add_state(&state, summary)? {
            Ok(()) => Ok(Some(offset)),
            Err(Unusable::OtherNetwork(reason)) => Err(WatcherError::Input { path: path.into(), reason }),
            // The problem is reported when the replay reaches this entry.
            Err(Unusable::Bad(_)) => Ok(None),
        }
    }

    /// Adds a later state, and judges the messages that waited for it.
    pub(super) fn add_state(&mut self, ssz: &[u8], summary: &mut ReplaySummary) -> Result<Result<(), Unusable>, WatcherError> {
        self.flush(summary)?;
        let n_known = self.engine.chain().registry().len();
        match self.engine.add_state(ssz) {
            Ok(()) => {}
            Err(EngineError::Chain(error @ ChainError::OtherNetwork { .. })) => {
                return Ok(Err(Unusable::OtherNetwork(error_chain(&error))));
            }
            Err(EngineError::Chain(error)) => return Ok(Err(Unusable::Bad(error_chain(&error)))),
            Err(error) => return Err(error.into()),
        }
        self.note_state();
        if self.engine.chain().registry().len() > n_known {
            for message in self.late_validators.take() {
                self.put(message, summary)?;
            }
        }
        Ok(Ok(()))
    }

    pub(super) fn note_state(&mut self) {
        let slot = self.engine.chain().registry().slot();
        self.clock.know(Time(self.network.slot_start_ns(slot)));
    }

    /// Takes a message as the capture has it.
    pub(super) fn take(&mut self, message: RawMessage, summary: &mut ReplaySummary) -> Result<(), WatcherError> {
        let about = slot_claimed(&message).map(|slot| Time(self.network.slot_start_ns(slot)));
        for message in self.clock.turn(message, about) {
            if let Some(message) = self.late_validators.keep(message, self.engine.chain().registry().len()) {
                self.put(message, summary)?;
            }
        }
        Ok(())
    }

    /// Adds a message to the batch. No batch contains two slots, so the knowledge at the end of a
    /// slot does not depend on the size of batches.
    pub(super) fn put(&mut self, message: RawMessage, summary: &mut ReplaySummary) -> Result<(), WatcherError> {
        self.go_on_to(message.received_at, summary)?;
        self.batch_bytes += message.bytes.len();
        self.batch.push(message);
        if self.batch.len() >= self.batch_messages || self.batch_bytes >= BATCH_BYTES {
            self.flush(summary)?;
        }
        Ok(())
    }

    /// Advances the time if `at` is in time. At the end of a slot everything received in it is
    /// processed.
    pub(super) fn go_on_to(&mut self, at: Time, summary: &mut ReplaySummary) -> Result<(), WatcherError> {
        if self.clock.is_in_time(at) && self.network.slot_at(at.0) > self.network.slot_at(self.clock.now().0) {
            self.flush(summary)?;
        }
        self.clock.reach(at);
        Ok(())
    }

    pub(super) fn flush(&mut self, summary: &mut ReplaySummary) -> Result<(), WatcherError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if !batch.is_empty() {
            let processed = self.engine.process(batch, self.clock.now())?;
            note_processed(summary, &processed);
        }
        Ok(())
    }
}
