//! What many messages mean together: detectors read everything that was proven, and the incidents
//! that they see are tracked here.
//!
//! ```text
//! Batch (votes, blocks, offences, peers) --> Facts (counts by slot, bounded)
//!        |                                      |
//!        +--> Detector::observe                 +--> Detector::slot_ended, once for each slot
//!                     |                                        |
//!                     +--------------> Signal <----------------+
//!                                        |
//!              Anomaly -> a finding     Observation -> IncidentTracker -> Incident,
//!              without proof                           and a finding that announces it
//! ```
//!
//! **Time** is the time of the messages. A slot is evaluated when a message from the slot after the
//! next one is about to be looked at ([`Monitor::turn_to`]). In live operation the clock has the
//! same effect when no message waits. Slots are evaluated in order and exactly once, however the
//! batches were cut. A replay therefore gives the same results as the live watcher. A message that
//! becomes provable only after its slot was evaluated is still counted where it fits, but it
//! changes no verdict.
//!
//! If the clock is set back by more than [`MAX_STEP_BACK`] slots, evaluation begins anew: windows
//! and facts of the wrong time are dropped. Otherwise nothing would be evaluated until that time
//! comes.
//!
//! **Cost.** One pass over a batch's votes fills the [`Facts`]. For each validator it sets a bit
//! and looks up a byte. Detectors then read a few numbers per slot. **Bounds** are stated in
//! [`facts`]. At most [`MAX_OPEN`] incidents of a kind are open at once.

pub mod facts;
mod incident_tracker;
mod signal;

pub use facts::{Arrivals, BlockFact, Facts, SlotFacts, Tally};
pub use incident_tracker::{MAX_OPEN, announcement};
pub use signal::{Described, Details, News, Observation, Signal, SingleAnomaly};

use crate::detectors::{DetectConfig, slashing_wave};
use crate::watch::Labels;
use chain::Chain;
use consensus::{Network, Root, Slot};
use evidence::{Evidence, Finding, Incident, Included, Kind};
use incident_tracker::IncidentTracker;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use verify::{PeerBytes, Time, Verified};

/// Names of the notes that detectors keep in the store: see [`DetectorOutput::notes`].
pub const NOTES: [&str; 1] = [slashing_wave::NOTE];
/// Number of slots by which time may go back without a new beginning. Within it, messages and clock
/// are only out of step.
pub const MAX_STEP_BACK: u64 = 8;
/// Largest number of slots that are evaluated one by one after a pause. Older slots are skipped,
/// because nothing was received in them.
const MAX_CATCH_UP: u64 = 256;
/// How long after its end a slot is evaluated, in slots. By then its aggregates have arrived, and
/// so has the block that carries its votes.
pub const LAG: u64 = 1;

/// A slashable finding that is not stored yet, with its proof. It is recorded with this batch.
#[derive(Clone, Debug)]
pub struct Offender {
    pub finding: Finding,
    pub evidence: Arc<Evidence>,
}

/// One event about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNews {
    pub at: Time,
    /// The peer, as its messages name their sender. It is only compared.
    pub peer: PeerBytes,
    pub what: PeerFact,
}

/// What happened to a peer, or what it reported about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFact {
    Connected,
    Disconnected,
    /// The name that it gives for its software.
    Agent(String),
    Status {
        head_slot: Slot,
        head_root: Option<Root>,
    },
    /// It sent a Goodbye message, with this reason code.
    Goodbye {
        code: u64,
    },
}

/// What one call of the verifier proved, and what will be recorded because of it.
pub struct MonitorInput<'a> {
    pub verified: &'a Verified,
    /// The findings that are not stored yet and are recorded with this batch, in this order.
    pub offenders: &'a [Offender],
    /// Findings whose slashing is in a block of the chain, as far as is known now, by the finding's
    /// id.
    pub included: &'a [(Root, Included)],
    /// Findings that were included until now. The chain has left the block that included them.
    pub reopened: &'a [Finding],
    pub peers: &'a [PeerNews],
    pub chain: &'a Chain,
    pub labels: &'a Arc<Labels>,
    /// Everything that arrived before this moment is in this batch or in an earlier one.
    pub received_until: Time,
}

/// What a detector may look at.
#[derive(Clone, Copy)]
pub struct DetectorView<'a> {
    pub facts: &'a Facts,
    pub chain: &'a Chain,
    pub labels: &'a Arc<Labels>,
}

impl DetectorView<'_> {
    pub fn network(&self) -> &Network {
        self.chain.network()
    }
}

/// Looks for one kind of trouble. A detector reads no clock and does no I/O; the same calls give
/// the same signals.
pub trait Detector: Send {
    /// Called for each batch. It is for what cannot wait for the end of a slot, or is not in the
    /// facts. Most detectors do not need it.
    fn observe(&mut self, _batch: &MonitorInput<'_>, _view: &DetectorView<'_>, _out: &mut Vec<Signal>) {}

    /// Called when a slot is over: once for each slot, in ascending order.
    fn slot_ended(&mut self, _slot: Slot, _view: &DetectorView<'_>, _out: &mut Vec<Signal>) {}

    /// Called when no more batches come. The detector reports what it held back until the end of a
    /// slot.
    fn finish(&mut self, _view: &DetectorView<'_>, _out: &mut Vec<Signal>) {}

    /// Called with what an earlier run left, before the first batch and before the first call of
    /// [`Self::recall`].
    fn restore(&mut self, _left: &Left<'_>, _view: &DetectorView<'_>, _out: &mut Vec<Signal>) {}

    /// Called for each offence of the last epochs that an earlier run recorded, in the order of
    /// recording. The detector reports again what may not have been stored; a repeated report is
    /// harmless.
    fn recall(&mut self, _finding: &Finding, _proof_of: ProofLookup<'_>, _view: &DetectorView<'_>, _out: &mut Vec<Signal>) {}

    /// Whether this detector continues an incident that an earlier run left open.
    fn continues(&self, _incident: &Incident, _view: &DetectorView<'_>) -> bool {
        false
    }

    /// The clock was set back. Everything remembered by slot is discarded, because those slots have
    /// not happened yet.
    fn time_went_back(&mut self) {}
}

/// What an earlier run left, besides its findings.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// Every incident that is stored.
    pub incidents: &'a [Incident],
    /// The latest stored version of [`DetectorOutput::notes`], by name.
    pub notes: &'a BTreeMap<String, Vec<u8>>,
}

/// Finds the proof of a recorded finding by its evidence id. One proof may be requested many times
/// in a row.
pub type ProofLookup<'a> = &'a dyn Fn(Root) -> Option<Arc<Evidence>>;

/// What the detectors report about a batch or about the slots that ended.
#[derive(Debug, Default)]
pub struct DetectorOutput {
    /// Findings without proof. Whoever stores them sets `recorded_at`.
    pub anomalies: Vec<Finding>,
    /// Findings that announce that an incident opened, got worse or is over. They exist for those
    /// who receive alerts by findings. The one for an opening has the incident's own id.
    pub announcements: Vec<Finding>,
    /// Incidents that are new or changed.
    pub incidents: Vec<Incident>,
    /// What detectors need to find again after a restart, by name. Each note replaces the stored
    /// one of that name. The notes must be written together with the rest, in one atomic write.
    pub notes: BTreeMap<&'static str, Vec<u8>>,
    /// Number of observations, by kind, that became no incident because too many incidents of their
    /// kind are open.
    pub refused: BTreeMap<Kind, u64>,
}

/// All detectors, and the state that they share. It has one owner and uses no threads.
pub struct Monitor {
    facts: Facts,
    detectors: Vec<Box<dyn Detector>>,
    incidents: IncidentTracker,
    /// The next slot to evaluate; `None` before the first message.
    next: Option<Slot>,
}

impl Monitor {
    /// Makes a monitor with the detectors that are switched on in `config`.
    pub fn new(config: &DetectConfig, network: &Arc<Network>) -> Self {
        Self {
            facts: Facts::new(network.clone(), &config.blocks),
            detectors: config.detectors(),
            incidents: IncidentTracker::new(network.clone()),
            next: None,
        }
    }

    /// Adds one more detector.
    pub fn add(&mut self, detector: Box<dyn Detector>) {
        self.detectors.push(detector);
    }

    /// Takes over what an earlier run left, so that its incidents continue instead of opening
    /// again. `findings` are the last ones of that run, in the order of recording. An incident that
    /// nobody continues is closed: its detector may be switched off, or its offences may be
    /// deleted.
    pub fn restore(
        &mut self,
        left: &Left<'_>,
        findings: &mut dyn Iterator<Item = Finding>,
        proof_of: ProofLookup<'_>,
        chain: &Chain,
        labels: &Arc<Labels>,
    ) -> DetectorOutput {
        let view = DetectorView { facts: &self.facts, chain, labels };
        let mut signals = Vec::new();
        for detector in &mut self.detectors {
            detector.restore(left, &view, &mut signals);
        }
        for finding in findings.filter(|finding| finding.offence().is_some()) {
            for detector in &mut self.detectors {
                detector.recall(&finding, proof_of, &view, &mut signals);
            }
        }
        self.incidents.restore(left.incidents);
        let mut output = DetectorOutput::default();
        self.incidents.take(signals.drain(..), &view, &mut output);
        let reported_now: HashSet<Root> = output.incidents.iter().map(|incident| incident.id).collect();
        for incident in left.incidents.iter().filter(|incident| incident.state != evidence::IncidentState::Closed) {
            let goes_on =
                self.incidents.continues(incident) || self.detectors.iter().any(|detector| detector.continues(incident, &view));
            if !goes_on && !reported_now.contains(&incident.id) {
                self.incidents.close_orphan(incident, &mut output);
            }
        }
        output
    }

    /// The facts that all detectors share.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Records how long messages that are looked at now have waited for us: since they arrived, or
    /// since they could have been read. A delay that may be our own gives no information about
    /// other clocks.
    pub fn note_delay(&mut self, now: Time, delay: Duration) {
        self.facts.note_delay(now, delay);
    }

    /// The clock was set back by more than [`MAX_STEP_BACK`] slots, to the slot `now`.
    pub fn go_back(&mut self, now: Slot) {
        self.next = Some(now);
        self.facts.go_back(now);
        self.incidents.go_back(now);
        for detector in &mut self.detectors {
            detector.time_went_back();
        }
    }

    /// Evaluates the slots that are over by `until`. Call it when messages that arrived at `until`
    /// are about to be looked at, and no earlier message waits.
    pub fn turn_to(&mut self, until: Time, chain: &Chain, labels: &Arc<Labels>) -> DetectorOutput {
        let mut output = DetectorOutput::default();
        let mut signals = Vec::new();
        for slot in self.slots_that_ended(chain.network().slot_at(until.0)) {
            self.facts.prepare(slot, chain);
            let view = DetectorView { facts: &self.facts, chain, labels };
            for detector in &mut self.detectors {
                detector.slot_ended(slot, &view, &mut signals);
            }
            self.incidents.take(signals.drain(..), &view, &mut output);
            self.incidents.slot_ended(slot, &mut output);
            self.facts.forget(slot);
        }
        output
    }

    /// Reads one batch, before it is recorded: what the detectors report goes into the same atomic
    /// write.
    pub fn observe(&mut self, batch: &MonitorInput<'_>) -> DetectorOutput {
        let (chain, labels) = (batch.chain, batch.labels);
        self.facts.take(batch);
        let mut signals = Vec::new();
        let view = DetectorView { facts: &self.facts, chain, labels };
        for detector in &mut self.detectors {
            detector.observe(batch, &view, &mut signals);
        }
        let mut output = DetectorOutput::default();
        self.incidents.take(signals.drain(..), &view, &mut output);
        output
    }

    /// Makes findings of anomalies that no detector has seen, because they are not in the traffic.
    pub fn report(&self, anomalies: Vec<SingleAnomaly>, chain: &Chain, labels: &Arc<Labels>) -> DetectorOutput {
        let view = DetectorView { facts: &self.facts, chain, labels };
        let anomalies = anomalies.into_iter().map(|anomaly| self.incidents.anomaly(anomaly, &view)).collect();
        DetectorOutput { anomalies, ..DetectorOutput::default() }
    }

    /// Called when no more batches come. No more slots are evaluated, but changes that were not yet
    /// reported are reported.
    pub fn finish(&mut self, chain: &Chain, labels: &Arc<Labels>) -> DetectorOutput {
        let view = DetectorView { facts: &self.facts, chain, labels };
        let mut signals = Vec::new();
        for detector in &mut self.detectors {
            detector.finish(&view, &mut signals);
        }
        let mut output = DetectorOutput::default();
        self.incidents.take(signals.drain(..), &view, &mut output);
        self.incidents.finish(&mut output);
        output
    }

    fn slots_that_ended(&mut self, now: Slot) -> impl Iterator<Item = Slot> + use<> {
        let next = self.next.unwrap_or(now);
        // After a pause nothing was received for most of its slots, so there is nothing to report
        // about them.
        let next = next.max(now.saturating_sub(MAX_CATCH_UP));
        let end = now.saturating_sub(LAG).max(next);
        self.next = Some(end);
        (next.as_u64()..end.as_u64()).map(Slot::new)
    }
}
