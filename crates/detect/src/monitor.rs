//! What many messages mean together: detectors over everything that was proven, and the incidents they see.
//!
//! ```text
//! Batch (votes, blocks, offences, peers) --> Facts (counts by slot, bounded)
//!        |                                      |
//!        +--> Detector::observe                 +--> Detector::slot_ended, once for each slot, in order
//!                     |                                        |
//!                     +--------------> Signal <----------------+
//!                                        |
//!              Anomaly -> a finding without proof        Observation -> book -> Incident, and a finding that announces it
//! ```
//!
//! **Time** is that of the messages. A slot is evaluated once a message (or, live, the clock when nothing waits) is from the
//! slot after the next, before that message is looked at ([`Monitor::turn_to`]), in order and exactly once, however the batches were
//! cut: so a replay says what the watcher said.
//! What only becomes provable after its slot was evaluated counts where it still fits and changes no verdict.
//!
//! A clock that was set back by more than [`MAX_STEP_BACK`] begins anew: windows and facts of the wrong time are dropped, or nothing would
//! be evaluated until that time comes.
//!
//! **Cost.** One pass over a batch's votes fills the [`Facts`]: per validator a bit, and a byte looked up; detectors then read
//! a few numbers per slot. **Bounds** are in [`facts`]; incidents of a kind open at once: [`MAX_OPEN`].

mod book;
pub mod facts;
mod signal;

pub use book::{MAX_OPEN, announcement};
pub use facts::{Arrivals, BlockFact, Facts, SlotFacts, Tally};
pub use signal::{Described, Details, News, Observation, Signal, SingleAnomaly};

use crate::detectors::{DetectConfig, slashing_wave};
use book::IncidentTracker;
use chain::Chain;
use consensus::{Network, Root, Slot, ValidatorIndex};
use evidence::{Evidence, Finding, Incident, Included, Kind};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use verify::{UnixNs, Verified};

/// Notes that detectors keep with the store, by name: see [`DetectorOutput::notes`].
pub const NOTES: [&str; 1] = [slashing_wave::NOTE];
/// Slots that time may go back without beginning anew: within them messages and clock are merely out of step.
pub const MAX_STEP_BACK: u64 = 8;
/// Slots evaluated one by one after a pause; what lies further back was not heard by us and is skipped.
const MAX_CATCH_UP: u64 = 256;
/// How long after its end a slot is evaluated, in slots: its aggregates and the block that carries its votes are in.
pub const LAG: u64 = 1;

/// What operators and public lists say about validators.
pub trait LabelSource {
    /// Key and value, as in `operator` and `acme`; few, mostly none.
    fn labels(&self, validator: ValidatorIndex) -> Vec<(String, String)>;

    /// How many validators have this label; `None` if that is not known.
    fn n_labelled(&self, key: &str, value: &str) -> Option<u64>;
}

/// Nobody said anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLabels;

impl LabelSource for NoLabels {
    fn labels(&self, _: ValidatorIndex) -> Vec<(String, String)> {
        Vec::new()
    }

    fn n_labelled(&self, _: &str, _: &str) -> Option<u64> {
        None
    }
}

/// A slashable finding that was recorded for the first time, with its proof.
#[derive(Clone, Debug)]
pub struct Offender {
    pub finding: Finding,
    pub evidence: Arc<Evidence>,
}

/// Something about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNews {
    pub at: UnixNs,
    /// However the source names it; only compared.
    pub peer: String,
    pub what: PeerFact,
}

/// What is known of a peer now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFact {
    Connected,
    Disconnected,
    /// Its name for its software.
    Agent(String),
    Status {
        head_slot: Slot,
    },
    /// It left, saying so.
    Goodbye {
        code: u64,
    },
}

/// What one call of the verifier proved, and what was recorded because of it.
pub struct Batch<'a> {
    pub verified: &'a Verified,
    /// Those recorded for the first time, in the order of recording.
    pub offenders: &'a [Offender],
    /// Findings whose slashing is in a block of the chain, as is known now, by id.
    pub included: &'a [(Root, Included)],
    /// Findings that were included until now: the chain has left the block.
    pub reopened: &'a [Finding],
    pub peers: &'a [PeerNews],
    pub chain: &'a Chain,
    pub labels: &'a dyn LabelSource,
    /// Everything that arrived before this moment is in this batch or an earlier one.
    pub heard_until: UnixNs,
}

/// What a detector may look at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub facts: &'a Facts,
    pub chain: &'a Chain,
    pub labels: &'a dyn LabelSource,
}

impl View<'_> {
    pub fn network(&self) -> &Network {
        self.chain.network()
    }
}

/// Looks for one kind of trouble. No clock, no I/O; the same calls give the same signals.
pub trait Detector: Send {
    /// A batch as it comes. For what cannot wait for the end of a slot or is not in the facts; most need none of it.
    fn observe(&mut self, _batch: &Batch<'_>, _view: &View<'_>, _out: &mut Vec<Signal>) {}

    /// A slot is over: called once for each, ascending.
    fn slot_ended(&mut self, _slot: Slot, _view: &View<'_>, _out: &mut Vec<Signal>) {}

    /// No more batches come: what was not yet said for want of a slot's end.
    fn finish(&mut self, _view: &View<'_>, _out: &mut Vec<Signal>) {}

    /// What an earlier run left. Before the first batch, and before the first [`Self::recall`].
    fn restore(&mut self, _left: &Left<'_>, _view: &View<'_>, _out: &mut Vec<Signal>) {}

    /// An offence that an earlier run recorded; called for each of its last epochs, in the order of recording. Says again what may
    /// not have been stored; saying it twice is harmless.
    fn recall(&mut self, _finding: &Finding, _proofs: &dyn EvidenceSource, _view: &View<'_>, _out: &mut Vec<Signal>) {}

    /// Whether this detector goes on telling an incident that an earlier run left open.
    fn tells(&self, _incident: &Incident, _view: &View<'_>) -> bool {
        false
    }

    /// Time went back: whatever is remembered by slot is of a time that was none.
    fn time_went_back(&mut self) {}
}

/// What an earlier run left, besides its findings.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// Every incident that is stored.
    pub incidents: &'a [Incident],
    /// [`DetectorOutput::notes`], as they were written last.
    pub notes: &'a BTreeMap<String, Vec<u8>>,
}

/// Where the proofs of recorded findings are. One proof may be asked for many times in a row.
pub trait EvidenceSource {
    fn evidence(&self, id: Root) -> Option<Arc<Evidence>>;
}

/// What the detectors have to say about a batch.
#[derive(Debug, Default)]
pub struct DetectorOutput {
    /// Findings without proof; `recorded_at` is for whoever writes them down.
    pub anomalies: Vec<Finding>,
    /// Findings that say that an incident opened (with its incident's id), got worse or is over: for those who are alerted by findings.
    pub announcements: Vec<Finding>,
    /// Incidents that are new or changed.
    pub incidents: Vec<Incident>,
    /// What detectors want to find again after a restart, by name, instead of what stood there: to be written together with the
    /// rest, in one piece.
    pub notes: BTreeMap<&'static str, Vec<u8>>,
    /// Sightings of conditions that became no incident because too many of their kind are open, by kind.
    pub refused: BTreeMap<Kind, u64>,
}

/// All detectors and what they share. One owner, no threads.
pub struct Monitor {
    facts: Facts,
    detectors: Vec<Box<dyn Detector>>,
    book: IncidentTracker,
    /// The next slot to be evaluated; `None` before the first message.
    next: Option<Slot>,
}

impl Monitor {
    pub fn new(config: &DetectConfig, network: &Arc<Network>) -> Self {
        Self {
            facts: Facts::new(network.clone(), &config.blocks),
            detectors: config.detectors(),
            book: IncidentTracker::new(network.clone()),
            next: None,
        }
    }

    /// One more detector.
    pub fn add(&mut self, detector: Box<dyn Detector>) {
        self.detectors.push(detector);
    }

    /// Takes over what an earlier run left, so that its incidents go on instead of opening again. `findings`: its last ones, in the
    /// order of recording. An incident that nobody goes on telling (its detector is switched off, its offences are gone) is closed.
    pub fn restore(
        &mut self,
        left: &Left<'_>,
        findings: &mut dyn Iterator<Item = Finding>,
        proofs: &dyn EvidenceSource,
        chain: &Chain,
        labels: &dyn LabelSource,
    ) -> DetectorOutput {
        let view = View { facts: &self.facts, chain, labels };
        let mut signals = Vec::new();
        for detector in &mut self.detectors {
            detector.restore(left, &view, &mut signals);
        }
        for finding in findings.filter(|finding| finding.offence().is_some()) {
            for detector in &mut self.detectors {
                detector.recall(&finding, proofs, &view, &mut signals);
            }
        }
        self.book.restore(left.incidents);
        let mut heard = DetectorOutput::default();
        self.book.take(signals.drain(..), &view, &mut heard);
        let told_now: HashSet<Root> = heard.incidents.iter().map(|incident| incident.id).collect();
        for incident in left.incidents.iter().filter(|incident| incident.state != evidence::IncidentState::Closed) {
            let goes_on = self.book.tells(incident) || self.detectors.iter().any(|detector| detector.tells(incident, &view));
            if !goes_on && !told_now.contains(&incident.id) {
                self.book.close_orphan(incident, &mut heard);
            }
        }
        heard
    }

    /// Everything detectors share.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Messages that are looked at in this moment have waited for us for so long, since they arrived or since they could have been read.
    /// Lateness that may be our own says nothing about clocks.
    pub fn note_delay(&mut self, now: UnixNs, delay: Duration) {
        self.facts.note_delay(now, delay);
    }

    /// The clock was set back by more than [`MAX_STEP_BACK`], to this slot.
    pub fn go_back(&mut self, now: Slot) {
        self.next = Some(now);
        self.facts.go_back(now);
        self.book.go_back(now);
        for detector in &mut self.detectors {
            detector.time_went_back();
        }
    }

    /// Messages that arrived at `until` are about to be looked at, and none from before waits: evaluates the slots that are over by then.
    pub fn turn_to(&mut self, until: UnixNs, chain: &Chain, labels: &dyn LabelSource) -> DetectorOutput {
        let mut heard = DetectorOutput::default();
        let mut signals = Vec::new();
        for slot in self.slots_that_ended(chain.network().slot_at(until.0)) {
            self.facts.prepare(slot, chain);
            let view = View { facts: &self.facts, chain, labels };
            for detector in &mut self.detectors {
                detector.slot_ended(slot, &view, &mut signals);
            }
            self.book.take(signals.drain(..), &view, &mut heard);
            self.book.slot_ended(slot, &mut heard);
            self.facts.forget(slot);
        }
        heard
    }

    /// One batch, after it was recorded.
    pub fn observe(&mut self, batch: &Batch<'_>) -> DetectorOutput {
        let (chain, labels) = (batch.chain, batch.labels);
        self.facts.take(batch);
        let mut signals = Vec::new();
        let view = View { facts: &self.facts, chain, labels };
        for detector in &mut self.detectors {
            detector.observe(batch, &view, &mut signals);
        }
        let mut heard = DetectorOutput::default();
        self.book.take(signals.drain(..), &view, &mut heard);
        heard
    }

    /// No more batches come. Nothing more is evaluated; what had changed is told.
    pub fn finish(&mut self, chain: &Chain, labels: &dyn LabelSource) -> DetectorOutput {
        let view = View { facts: &self.facts, chain, labels };
        let mut signals = Vec::new();
        for detector in &mut self.detectors {
            detector.finish(&view, &mut signals);
        }
        let mut heard = DetectorOutput::default();
        self.book.take(signals.drain(..), &view, &mut heard);
        self.book.finish(&mut heard);
        heard
    }

    fn slots_that_ended(&mut self, now: Slot) -> impl Iterator<Item = Slot> + use<> {
        let next = self.next.unwrap_or(now);
        // After a pause in which nothing was heard there is nothing to say about most of it.
        let next = next.max(now.saturating_sub(MAX_CATCH_UP));
        let end = now.saturating_sub(LAG).max(next);
        self.next = Some(end);
        (next.as_u64()..end.as_u64()).map(Slot::new)
    }
}
