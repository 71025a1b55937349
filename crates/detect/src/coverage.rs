//! How much of the network is heard first-hand: the stake whose nodes we are directly connected to.
//!
//! Gossip does not relay the second message of an equivocation. Only who is connected to its
//! publisher hears it for certain. So this share says how much of what happens we would hear.
//!
//! **The inference.** A peer forwards messages only on topics that it is subscribed to. It sends
//! its own votes on the other attestation subnets too. So a vote that comes *first* from a peer
//! that is not subscribed to its subnet is the vote of a validator of that peer
//! ([`verify::FirstHandVote`]). A validator is heard first-hand if in [`VOTES_NEEDED`] of the last
//! [`WINDOW_EPOCHS`] epochs its vote came so from one and the same peer, and this peer is connected
//! now.
//!
//! **Why these numbers.** A client sends a vote to some of its peers on the topic, not to all. Let
//! p be the chance that we are among them and get it before others forward it. Two votes in eight
//! epochs are reached with a chance of 63 % at p = 0.25, 96 % at 0.5, and more than 99.9 % at 0.8.
//! One vote alone may be an accident of a subscription that has just ended. Two of the same peer in
//! different epochs, so on different subnets, are not: at one accident in a thousand votes, fewer
//! than 3 validators in 100 000 would be counted wrongly. A longer window would follow peers that
//! come and go too slowly.
//!
//! **What it misses**, so that the share is too low: nodes that are subscribed to all subnets, the
//! two subnets of each node (one vote in 32), aggregators, who subscribe to the subnet of their
//! committee (one vote in 30), and nodes that choose other peers than us. Votes before Electra do
//! not name their validator and are not used.
//!
//! **How a peer could inflate it**: by forwarding other validators' votes, faster than anybody
//! else, on subnets that it does not announce.
//!
//! - It must stay connected, and be first twice in eight epochs for each validator that it claims.
//! - Whoever claims validators at random claims those of other peers too. A peer that brings votes
//!   of validators which are known to be those of at least [`RIVALS_TO_DISCARD`] other peers is
//!   discarded, if these votes are at least one in [`CONTESTED_TO_DISCARD`] of its own validators.
//!   So forwarding everything is recognised as soon as four honest peers with some 2 % of the stake
//!   are connected.
//! - Whatever it does, one peer counts with at most 1 % of the stake that attested
//!   ([`LARGEST_SHARE`]), or with [`FREE_STAKE`] if that is more. So n hostile peers add at most n
//!   times that. [`Sums::claimed`] is the share without limits.
//!
//! Who wins such races can also take validators away from honest peers. This makes the share too
//! low, never too high. The nodes of one operator that all publish the same votes are rivals, too:
//! of six nodes that are first equally often, somewhat less than half of the validators is counted.
//!
//! **Privacy.** Which peer publishes whose votes shows where a validator runs. This never leaves
//! this module: reports have sums by client and by label. Only of keys that the user names as his
//! own it is reported whether each is heard, and by how many peers.
//!
//! **Cost.** A vote costs a look into two tables. Twice per epoch there is one pass over the
//! validators. Memory: four bytes for a validator, and a bounded number of peers.

mod publishers;
mod punished;
#[cfg(test)]
mod tests;

pub use publishers::{
    CONTESTED_TO_DISCARD, ClientSum, FREE_STAKE, LARGEST_SHARE, Publishers, RIVALS_TO_DISCARD, Sums, VOTES_NEEDED, WINDOW_EPOCHS,
};
pub use punished::{PUNISHED_DAYS, PunishedCounts, PunishedOffences};

use crate::monitor::{Detector, DetectorView, MonitorInput, Signal};
use crate::watch::Labels;
use consensus::{Epoch, Gwei, Slot, ValidatorIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use verify::PeerBytes;

/// A label is reported if at least this many of its validators attested. Fewer would say too much
/// about each of them.
pub const VALIDATORS_OF_LABEL: u64 = 16;
/// ... and if at least this many peers publish the votes of some of them. Whoever saw the share of
/// a label fall when a peer leaves would know whose validators that peer has.
const PEERS_OF_LABEL: usize = 3;
/// Largest number of labels that are reported, those with the most stake.
const MAX_LABELS: usize = 256;
/// Largest number of keys of a group that are named as not heard.
const MAX_MISSING: usize = 64;

/// The state of the coverage at the end of a slot.
#[derive(Clone, Debug, Default)]
pub struct CoverageReport {
    /// The slot that ended last.
    pub slot: Slot,
    /// The last complete epoch, whose voters are measured. `None` before the first one.
    pub measured: Option<MeasuredEpoch>,
    pub sums: Sums,
    /// Own groups, in the order of the configuration.
    pub groups: Vec<GroupCoverage>,
    /// Each connected peer that counts, with the stake of its validators within its limit. This is
    /// for the choice of peers and is shown nowhere.
    pub by_peer: Arc<BTreeMap<PeerBytes, Gwei>>,
}

/// What was measured once, after the end of an epoch.
#[derive(Clone, Debug, Default)]
pub struct MeasuredEpoch {
    pub epoch: Epoch,
    /// Effective balances of all validators whose vote was received.
    pub attested: Gwei,
    /// By the user's labels, the most stake first.
    pub by_label: Arc<Vec<LabelCoverage>>,
}

/// The validators of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelCoverage {
    /// Such as `operator=acme`.
    pub label: String,
    /// Validators of this label that attested.
    pub n_validators: u64,
    pub attested: Gwei,
    /// Rounded to tenths of `attested`.
    pub first_hand: Gwei,
}

/// Whether the keys of one of the user's groups are heard first-hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupCoverage {
    pub name: String,
    pub n_keys: u64,
    pub n_heard: u64,
    /// The slot since which all heard keys have been heard. `None` if none is.
    pub since: Option<Slot>,
    /// Number of peers that publish the votes of the heard keys.
    pub n_peers: u64,
    /// The first keys that are not heard.
    pub missing: Vec<ValidatorIndex>,
}

/// The latest report, and what blocks punished. All clones share one content.
///
/// The page reads it on its own threads. Each lock is held only while a pointer or two numbers are
/// copied.
#[derive(Clone, Debug, Default)]
pub struct SharedCoverage {
    report: Arc<Mutex<Arc<CoverageReport>>>,
    punished: Arc<Mutex<PunishedCounts>>,
}

impl SharedCoverage {
    /// The latest report.
    pub fn report(&self) -> Arc<CoverageReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The validators that blocks punished in the last [`PUNISHED_DAYS`] days.
    pub fn punished(&self) -> PunishedCounts {
        *self.punished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the counts of punished validators.
    pub fn set_punished(&self, counts: PunishedCounts) {
        *self.punished.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    fn publish(&self, report: CoverageReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }
}

/// The validators of one label while they are summed up.
#[derive(Debug, Default)]
struct LabelSum {
    n_validators: u64,
    attested: Gwei,
    first_hand: Gwei,
    publishers: BTreeSet<u16>,
}

impl LabelSum {
    fn add(&mut self, balance: Gwei, publisher: Option<u16>) {
        self.n_validators += 1;
        self.attested = self.attested.saturating_add(balance.as_u64());
        if let Some(publisher) = publisher {
            self.first_hand = self.first_hand.saturating_add(balance.as_u64());
            self.publishers.insert(publisher);
        }
    }

    fn add_all(&mut self, other: &Self) {
        self.n_validators += other.n_validators;
        self.attested = self.attested.saturating_add(other.attested.as_u64());
        self.first_hand = self.first_hand.saturating_add(other.first_hand.as_u64());
        self.publishers.extend(&other.publishers);
    }

    /// The row that is reported, in tenths. None if it would say too much about a validator or a
    /// peer.
    fn row(self, label: String) -> Option<LabelCoverage> {
        if self.n_validators < VALIDATORS_OF_LABEL || self.publishers.len() < PEERS_OF_LABEL {
            return None;
        }
        let (attested, first_hand) = (u128::from(self.attested.as_u64()), u128::from(self.first_hand.as_u64()));
        let tenths = (20 * first_hand + attested) / (2 * attested).max(1);
        let first_hand = Gwei::new(u64::try_from(attested * tenths / 10).unwrap_or(u64::MAX));
        Some(LabelCoverage { label, n_validators: self.n_validators, attested: self.attested, first_hand })
    }
}

/// Measures the coverage: see the documentation of this module. It reports no incidents.
#[derive(Default)]
pub struct CoverageDetector {
    state: SharedCoverage,
    publishers: Publishers,
    measured: Option<MeasuredEpoch>,
    sums: Sums,
    by_peer: Arc<BTreeMap<PeerBytes, Gwei>>,
    /// The user's own keys that are heard, with the slot since which they are.
    heard_since: BTreeMap<ValidatorIndex, Slot>,
}

impl CoverageDetector {
    /// Makes the detector. It publishes its report in `state`.
    pub fn new(state: SharedCoverage) -> Self {
        Self { state, ..Self::default() }
    }

    fn measure(&mut self, epoch: Epoch, view: &DetectorView<'_>) {
        let Some(voters) = view.facts.voters(epoch) else { return };
        let registry = view.chain.registry();
        let attesters = (0..registry.len() as u64).map(ValidatorIndex::new).filter(|validator| voters.contains(*validator));
        let with_balance = attesters.filter_map(|validator| Some((validator, registry.record(validator)?.effective_balance)));
        let attested = self.publishers.measure(epoch, with_balance);
        let by_label = self.by_label(view.labels, |validator| {
            let balance = registry.record(validator).map(|record| record.effective_balance);
            balance.filter(|_| voters.contains(validator))
        });
        // Once in an epoch: whoever saw the sums change when a peer leaves would know what it
        // brings.
        self.sums = self.publishers.sums(attested);
        self.by_peer = Arc::new(self.publishers.stake_by_peer(attested));
        self.measured = Some(MeasuredEpoch { epoch, attested, by_label: Arc::new(by_label) });
    }

    /// Sums by label. `balance_of` gives the effective balance of a validator that attested.
    fn by_label(&self, labels: &Labels, balance_of: impl Fn(ValidatorIndex) -> Option<Gwei>) -> Vec<LabelCoverage> {
        // Many validators have the same set of labels, so they are first summed up by set.
        let mut by_set: BTreeMap<usize, LabelSum> = BTreeMap::new();
        for (validator, set) in labels.labelled() {
            let Some(balance) = balance_of(validator) else { continue };
            by_set.entry(set).or_default().add(balance, self.publishers.publisher_number(validator));
        }
        let mut sums: BTreeMap<String, LabelSum> = BTreeMap::new();
        for (set, sum) in by_set {
            for label in labels.set(set).map_or(&[][..], |set| &set.labels) {
                sums.entry(label.to_string()).or_default().add_all(&sum);
            }
        }
        let mut rows: Vec<LabelCoverage> = sums.into_iter().filter_map(|(label, sum)| sum.row(label)).collect();
        rows.sort_by(|a, b| b.attested.cmp(&a.attested).then_with(|| a.label.cmp(&b.label)));
        rows.truncate(MAX_LABELS);
        rows
    }

    fn groups(&mut self, slot: Slot, labels: &Labels) -> Vec<GroupCoverage> {
        let heard: BTreeMap<ValidatorIndex, Slot> = labels
            .watched()
            .map(|(validator, _)| validator)
            .filter(|validator| self.publishers.is_heard(*validator))
            .map(|validator| (validator, self.heard_since.get(&validator).copied().unwrap_or(slot)))
            .collect();
        self.heard_since = heard;
        let of_group = |group: &crate::watch::Members| {
            let (heard, missing): (Vec<_>, Vec<_>) =
                group.validators.iter().copied().partition(|validator| self.heard_since.contains_key(validator));
            GroupCoverage {
                name: group.name.to_string(),
                n_keys: group.validators.len() as u64,
                n_heard: heard.len() as u64,
                since: heard.iter().filter_map(|validator| self.heard_since.get(validator)).max().copied(),
                n_peers: self.publishers.n_publishers(&heard),
                missing: missing.into_iter().take(MAX_MISSING).collect(),
            }
        };
        labels.groups().iter().map(of_group).collect()
    }
}

impl Detector for CoverageDetector {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        self.publishers.advance_to(view.facts.now().epoch(view.network().preset()));
        let n_validators = view.chain.registry().len();
        for vote in &batch.verified.first_hand {
            if view.facts.peer(&vote.peer).is_some() {
                self.publishers.record(vote.validator, &vote.peer, vote.epoch, n_validators);
            }
        }
    }

    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        let preset = view.network().preset();
        let epoch = slot.epoch(preset);
        self.publishers.follow_connections(|peer| Some(view.facts.peer(peer)?.client));
        // By then the last votes of the epoch have arrived.
        if slot.as_u64() % preset.slots_per_epoch == preset.slots_per_epoch / 4
            && let Some(complete) = epoch.checked_sub(1)
        {
            self.measure(complete, view);
        }
        let groups = self.groups(slot, view.labels);
        self.state.publish(CoverageReport {
            slot,
            measured: self.measured.clone(),
            sums: self.sums,
            groups,
            by_peer: self.by_peer.clone(),
        });
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.state.clone());
    }
}
