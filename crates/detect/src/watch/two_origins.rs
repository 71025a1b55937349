//! `two_origins`: a named key's votes come first-hand from two peers in turn, although one machine
//! should sign with it. Off unless a group asks for it.
//!
//! Two machines that see the same chain sign the same bytes, and gossip carries them once. What
//! shows them is who brings them: a vote that comes first from a peer that is not subscribed to its
//! subnet was published by that peer ([`verify::FirstHandVote`]). With two machines this is now the
//! one, now the other.
//!
//! **Home and others.** The peers that bring a key's votes in the first
//! [`TwoOriginsConfig::learn_epochs`] epochs are its *home*, together with the operator's own nodes
//! that the configuration names. A client with several beacon nodes has several. Any other peer is
//! a *new origin*.
//!
//! **The rule.** For each new origin those keys are followed that it has brought a vote of. Their
//! next votes are put in the order of their slots: from home, or from the new origin. A change from
//! the one to the other is a *turn*, at most one in a slot. The alarm is given at [`TURNS`] turns
//! within the last [`WINDOW_SLOTS`] of these slots, if they lie within [`WINDOW_EPOCHS`] epochs and
//! each side has at least a quarter of them.
//!
//! **False alarms considered.**
//!
//! - A client with several nodes: their alternation is learnt, or the nodes are named. A node that
//!   is first rarely belongs to home if it was learnt for an eighth of the keys of a node of home,
//!   or if it shows up again after `learn_epochs` without an alarm.
//! - Failover to another node, and back: one turn, or two if it lasts longer than an epoch, however
//!   many keys there are. Votes of the other node do not count while no node of home is connected.
//! - A move to another machine: no turn. After [`PURE_SLOTS`] slots without a vote from home the
//!   new origin is the home. So a machine that comes back after its replacement took over is a new
//!   origin beside it.
//! - A peer that forwards votes of others as if they were its own: whoever brings many more votes
//!   of other validators than of these keys is no origin ([`FOREIGN_TIMES`]).
//! - Not excluded: a slow node whose client publishes again through another one in slot after slot,
//!   and the other one is neither learnt nor named. Name all own nodes.
//!
//! **Bounds.** [`MAX_ORIGINS`] new origins, each with [`MAX_KEYS_OF_ORIGIN`] keys; some 50 bytes
//! for each named key of the groups that ask for it.

use super::Labels;
use crate::config::Problems;
use crate::monitor::{Details, Detector, DetectorView, MonitorInput, Signal, SingleAnomaly};
use consensus::{Epoch, Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use verify::PeerBytes;

/// Turns that make an alarm.
pub const TURNS: usize = 6;
/// Number of the last slots with votes of a new origin's keys that are looked at.
pub const WINDOW_SLOTS: usize = 16;
/// ... and they must lie within so many epochs. A lone key has one vote in an epoch.
pub const WINDOW_EPOCHS: u64 = 16;
/// After so many slots with votes of a new origin, and none of home, it is the home.
pub const PURE_SLOTS: usize = 12;
/// A peer is no origin if it brings more than so many times as many votes of other validators.
pub const FOREIGN_TIMES: u64 = 4;
/// Votes of other validators that any origin may bring.
const FOREIGN_FREE: u64 = 8;
/// Largest number of new origins that are followed. The one that was seen longest ago gives way.
const MAX_ORIGINS: usize = 256;
/// Largest number of peers that were ever first with a vote of a followed key. Further ones are not
/// followed until the next start.
const MAX_PEERS: usize = 65_536;
/// Largest number of keys of one new origin.
const MAX_KEYS_OF_ORIGIN: usize = 1_024;
/// Two nodes that were learnt together for so many keys are those of one client, if these are at
/// least one in [`TOGETHER_OF`] of the keys of the one.
const TOGETHER: u32 = 2;
const TOGETHER_OF: u32 = 8;
/// Largest number of pairs of nodes that are counted.
const MAX_PAIRS: usize = 65_536;
/// Largest number of peers that a key's home has. A key with more is not followed.
const MAX_HOME: usize = 16;
/// Keys that are listed in an alarm.
const MAX_LISTED: usize = 32;
/// Length in bytes that a peer id may have.
const PEER_ID_BYTES: std::ops::RangeInclusive<usize> = 34..=42;

/// `[watch.two_origins]`, with the peer ids decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoOriginsConfig {
    /// Groups whose named keys are followed. Without any nothing is.
    pub groups: BTreeSet<String>,
    /// Peer ids of the operator's own nodes.
    pub nodes: Vec<PeerBytes>,
    /// Number of epochs from a key's first first-hand vote in which its nodes are learnt.
    pub learn_epochs: u64,
    /// Severity of the finding.
    pub severity: Severity,
    /// An alarm about the same new origin is repeated after this number of epochs.
    pub again_epochs: u64,
}

impl Default for TwoOriginsConfig {
    fn default() -> Self {
        Self { groups: BTreeSet::new(), nodes: Vec::new(), learn_epochs: 32, severity: Severity::Warning, again_epochs: 225 }
    }
}

impl TwoOriginsConfig {
    /// Everything that is wrong with the numbers, as pairs of path in the file and text.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut problems = Problems::of("watch.two_origins", &mut found);
        let least = u64::from(self.nodes.is_empty());
        problems.between("learn_epochs", self.learn_epochs, least, 100_000);
        problems.between("again_epochs", self.again_epochs, 1, 100_000);
        found
    }
}

/// The bytes of a peer id as it is written, such as `16Uiu2..`.
///
/// # Errors
/// It is no peer id; the text says what to write.
pub fn parse_peer_id(text: &str) -> Result<PeerBytes, String> {
    let wrong = || format!("{text:?} is no peer id; write it like 16Uiu2.., as /eth/v1/node/identity of the node shows it");
    if text.len() > 2 * PEER_ID_BYTES.end() {
        return Err(wrong());
    }
    let bytes = bs58::decode(text).into_vec().map_err(|_| wrong())?;
    if PEER_ID_BYTES.contains(&bytes.len()) { Ok(bytes.into()) } else { Err(wrong()) }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TwoOriginsDetails {
    /// Peer id of the new origin.
    origin: String,
    /// Number of keys whose votes come from it and from home.
    keys: u64,
    /// The first of them.
    validators: Vec<ValidatorIndex>,
    /// The slot of its first vote in the window.
    since_slot: Slot,
    groups: Vec<String>,
}

impl Details for TwoOriginsDetails {
    const KIND: Kind = Kind::TwoOrigins;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { origin, keys, since_slot, .. } = self;
        format!(
            "Votes of {keys} keys come from your node and from {origin} in turn since slot {since_slot}: two machines may be signing"
        )
    }
}

/// Number of a peer in [`TwoOrigins::numbers`].
type Origin = u32;

/// Stands for the learnt and the named nodes together.
const LEARNT: Origin = 0;

#[derive(Clone, Debug, Default)]
struct KeyOrigins {
    /// The epoch of its first first-hand vote.
    first: Option<Epoch>,
    learnt: Vec<Origin>,
    /// Other peers that were first with a vote of it, and when that was for the first time. The
    /// last [`MAX_HOME`] of them.
    met: VecDeque<(Origin, Epoch)>,
    /// Where its votes come from: [`LEARNT`], or a peer that took over later.
    home: Origin,
    /// Too many peers were first with its votes, so nothing is said about it.
    is_lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Home,
    New,
}

/// The votes of one slot.
#[derive(Clone, Copy, Debug)]
struct SlotVotes {
    slot: Slot,
    has_home: bool,
    has_new: bool,
    is_turn: bool,
}

/// A key of a new origin.
#[derive(Clone, Copy, Debug)]
struct KeyOfOrigin {
    /// The slot of the first vote that the new origin brought.
    since: Slot,
    /// Whether home has brought a vote since then.
    vote_of_home: bool,
}

/// What is known of a new origin.
#[derive(Debug)]
struct NewOrigin {
    peer: PeerBytes,
    keys: BTreeMap<ValidatorIndex, KeyOfOrigin>,
    slots: VecDeque<SlotVotes>,
    last_side: Side,
    /// Number of slots with votes of the new origin since the last one from home.
    pure_slots: usize,
    last_pure: Slot,
    last_seen: Epoch,
    reported: Option<Epoch>,
    /// Votes of the keys that are followed, and of other validators, halved with each epoch.
    own: u64,
    foreign: u64,
}

impl NewOrigin {
    fn new(peer: PeerBytes, epoch: Epoch) -> Self {
        Self {
            peer,
            keys: BTreeMap::new(),
            slots: VecDeque::new(),
            last_side: Side::New,
            pure_slots: 0,
            last_pure: Slot::new(0),
            last_seen: epoch,
            reported: None,
            own: 0,
            foreign: 0,
        }
    }

    /// Enters a vote. A late one counts in the last slot that is known.
    fn enter(&mut self, slot: Slot, side: Side) {
        let slot = self.slots.back().map_or(slot, |last| last.slot.max(slot));
        if self.slots.back().is_none_or(|last| last.slot < slot) {
            self.slots.push_back(SlotVotes { slot, has_home: false, has_new: false, is_turn: false });
        }
        if self.slots.len() > WINDOW_SLOTS {
            self.slots.pop_front();
        }
        let changes = std::mem::replace(&mut self.last_side, side) != side;
        let last = self.slots.back_mut().expect("entered above");
        last.is_turn |= changes;
        match side {
            Side::Home => last.has_home = true,
            Side::New => last.has_new = true,
        }
    }

    fn is_alarm(&self, slots_per_epoch: u64) -> bool {
        let last = self.slots.back().map_or(Slot::new(0), |last| last.slot);
        let within = |votes: &&SlotVotes| votes.slot.saturating_add(WINDOW_EPOCHS * slots_per_epoch) > last;
        let count = |of: &dyn Fn(&SlotVotes) -> bool| self.slots.iter().filter(within).filter(|votes| of(votes)).count();
        let all = count(&|_| true);
        count(&|votes| votes.is_turn) >= TURNS
            && count(&|votes| votes.has_home) * 4 >= all
            && count(&|votes| votes.has_new) * 4 >= all
            && self.foreign <= FOREIGN_TIMES * self.own + FOREIGN_FREE
    }
}

/// A first-hand vote of a key that is followed.
#[derive(Clone, Copy, Debug)]
pub struct OriginVote<'a> {
    pub key: ValidatorIndex,
    pub slot: Slot,
    pub epoch: Epoch,
    pub peer: &'a PeerBytes,
}

/// An alarm about a new origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondOrigin {
    pub peer: PeerBytes,
    /// The keys whose votes it brings, and home too, ascending.
    pub keys: Vec<ValidatorIndex>,
    /// The first slot of the window.
    pub since: Slot,
}

/// Who brings the votes of the keys that are followed. It has no clock and no chain.
#[derive(Debug)]
pub struct TwoOrigins {
    config: TwoOriginsConfig,
    slots_per_epoch: u64,
    keys: HashMap<ValidatorIndex, KeyOrigins>,
    /// Peers that were ever first with a vote of a key that is followed. Named nodes are
    /// [`LEARNT`].
    numbers: HashMap<PeerBytes, Origin>,
    peers: Vec<PeerBytes>,
    new: BTreeMap<Origin, NewOrigin>,
    /// For how many keys two nodes were learnt, the lower number first. With one number twice: for
    /// how many keys that node was.
    together: HashMap<(Origin, Origin), u32>,
    epoch: Epoch,
}

impl TwoOrigins {
    /// Makes the table, with nothing learnt.
    pub fn new(config: TwoOriginsConfig, slots_per_epoch: u64) -> Self {
        let numbers = config.nodes.iter().map(|node| (node.clone(), LEARNT)).collect();
        Self {
            config,
            slots_per_epoch,
            keys: HashMap::new(),
            numbers,
            peers: Vec::new(),
            new: BTreeMap::new(),
            together: HashMap::new(),
            epoch: Epoch::new(0),
        }
    }

    /// Follows exactly these keys. What was learnt of keys that stay is kept.
    pub fn follow(&mut self, keys: impl Iterator<Item = ValidatorIndex>) {
        let mut known = std::mem::take(&mut self.keys);
        self.keys = keys.map(|key| (key, known.remove(&key).unwrap_or_default())).collect();
        for origin in self.new.values_mut() {
            origin.keys.retain(|key, _| self.keys.contains_key(key));
        }
    }

    /// Whether no key is followed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes in a vote that came first-hand. `is_connected` says whether a peer is connected now.
    /// Returns an alarm when there is one.
    pub fn observe(&mut self, vote: OriginVote<'_>, is_connected: impl Fn(&PeerBytes) -> bool) -> Option<SecondOrigin> {
        let OriginVote { key, slot, epoch, peer } = vote;
        self.advance_to(epoch);
        if !self.keys.contains_key(&key) {
            if let Some(origin) = self.numbers.get(peer).and_then(|number| self.new.get_mut(number)) {
                origin.foreign += 1;
            }
            return None;
        }
        let number = self.number_of(peer)?;
        let known = self.keys.get_mut(&key).filter(|known| !known.is_lost)?;
        let is_learning = epoch < known.first.get_or_insert(epoch).saturating_add(self.config.learn_epochs);
        if number != LEARNT && !known.learnt.contains(&number) && (is_learning || self.belongs(key, number, epoch)) {
            self.learn(key, number);
        }
        let known = self.keys.get_mut(&key).filter(|known| !known.is_lost)?;
        // The learnt nodes count as one, also where they come back together after a move.
        let origin = if known.learnt.contains(&number) { LEARNT } else { number };
        if origin == known.home {
            return self.vote_of_home(key, slot);
        }
        let is_there = |number: &Origin| self.peers.get(*number as usize - 1).is_some_and(&is_connected);
        let home_is_connected = match known.home {
            LEARNT => known.learnt.iter().any(is_there) || self.config.nodes.iter().any(&is_connected),
            moved => is_there(&moved),
        };
        self.vote_of_other(origin, vote, home_is_connected)
    }

    /// A vote from home counts beside each new origin that has brought this key before.
    fn vote_of_home(&mut self, key: ValidatorIndex, slot: Slot) -> Option<SecondOrigin> {
        let mut beside = Vec::new();
        for (number, origin) in &mut self.new {
            if let Some(of_origin) = origin.keys.get_mut(&key).filter(|of_origin| of_origin.since < slot) {
                of_origin.vote_of_home = true;
                origin.pure_slots = 0;
                origin.enter(slot, Side::Home);
                beside.push(*number);
            }
        }
        beside.into_iter().find_map(|number| self.alarm(number))
    }

    fn vote_of_other(&mut self, number: Origin, vote: OriginVote<'_>, home_is_connected: bool) -> Option<SecondOrigin> {
        let OriginVote { key, slot, epoch, peer } = vote;
        if !self.new.contains_key(&number) && self.new.len() >= MAX_ORIGINS {
            let oldest = self.new.iter().min_by_key(|(_, origin)| origin.last_seen).map(|(number, _)| *number);
            oldest.and_then(|oldest| self.new.remove(&oldest));
        }
        let origin = self.new.entry(number).or_insert_with(|| NewOrigin::new(peer.clone(), epoch));
        origin.peer = peer.clone();
        origin.last_seen = origin.last_seen.max(epoch);
        origin.own += 1;
        let Some(of_origin) = origin.keys.get(&key).copied() else {
            if origin.keys.len() < MAX_KEYS_OF_ORIGIN {
                origin.keys.insert(key, KeyOfOrigin { since: slot, vote_of_home: false });
            }
            return None;
        };
        if of_origin.since >= slot {
            return None;
        }
        origin.pure_slots += usize::from(origin.pure_slots == 0 || origin.last_pure < slot);
        origin.last_pure = origin.last_pure.max(slot);
        if home_is_connected {
            origin.enter(slot, Side::New);
        }
        if origin.pure_slots >= PURE_SLOTS {
            self.move_home(number);
            return None;
        }
        self.alarm(number)
    }

    /// All keys of a new origin are at home there from now on.
    fn move_home(&mut self, number: Origin) {
        let Some(moved) = self.new.remove(&number) else { return };
        for key in moved.keys.keys() {
            if let Some(known) = self.keys.get_mut(key) {
                known.home = number;
            }
            for other in self.new.values_mut() {
                other.keys.remove(key);
            }
        }
    }

    /// Whether a peer that was not learnt is a node of the key's client all the same.
    fn belongs(&mut self, key: ValidatorIndex, number: Origin, epoch: Epoch) -> bool {
        let is_reported = self.new.get(&number).is_some_and(|origin| origin.reported.is_some());
        let Some(known) = self.keys.get_mut(&key).filter(|known| known.home == LEARNT && !is_reported) else { return false };
        let pair = |home: &Origin| (number.min(*home), number.max(*home));
        let count = |pair: (Origin, Origin)| self.together.get(&pair).copied().unwrap_or(0);
        let is_of_client = |home: &Origin| {
            let both = count(pair(home));
            both >= TOGETHER && both.saturating_mul(TOGETHER_OF) >= count((*home, *home))
        };
        if known.learnt.iter().any(is_of_client) {
            return true;
        }
        let Some((_, met)) = known.met.iter().find(|(met, _)| *met == number) else {
            known.met.push_back((number, epoch));
            if known.met.len() > MAX_HOME {
                known.met.pop_front();
            }
            return false;
        };
        met.saturating_add(self.config.learn_epochs.max(WINDOW_EPOCHS)) <= epoch
    }

    fn learn(&mut self, key: ValidatorIndex, number: Origin) {
        let Some(known) = self.keys.get_mut(&key) else { return };
        known.learnt.push(number);
        for home in &known.learnt {
            let pair = (number.min(*home), number.max(*home));
            if self.together.len() < MAX_PAIRS || self.together.contains_key(&pair) {
                *self.together.entry(pair).or_default() += 1;
            }
        }
        known.is_lost = known.learnt.len() > MAX_HOME;
        if let Some(origin) = self.new.get_mut(&number) {
            origin.keys.remove(&key);
        }
    }

    fn alarm(&mut self, number: Origin) -> Option<SecondOrigin> {
        let (epoch, again) = (self.epoch, self.config.again_epochs);
        let origin = self.new.get_mut(&number).filter(|origin| origin.is_alarm(self.slots_per_epoch))?;
        if origin.reported.is_some_and(|reported| epoch < reported.saturating_add(again)) {
            return None;
        }
        origin.reported = Some(epoch);
        let keys = origin.keys.iter().filter(|(_, of_origin)| of_origin.vote_of_home).map(|(key, _)| *key).collect();
        Some(SecondOrigin { peer: origin.peer.clone(), keys, since: origin.slots.front()?.slot })
    }

    /// Begins a new epoch: forgets new origins that have gone, and halves the counts.
    fn advance_to(&mut self, epoch: Epoch) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.new.retain(|_, origin| origin.last_seen.saturating_add(WINDOW_EPOCHS) >= epoch);
        for origin in self.new.values_mut() {
            (origin.own, origin.foreign) = (origin.own / 2, origin.foreign / 2);
        }
    }

    /// The number of a peer. `None` if there are too many.
    fn number_of(&mut self, peer: &PeerBytes) -> Option<Origin> {
        if let Some(number) = self.numbers.get(peer) {
            return Some(*number);
        }
        if self.peers.len() >= MAX_PEERS {
            return None;
        }
        self.peers.push(peer.clone());
        let number = Origin::try_from(self.peers.len()).ok()?;
        self.numbers.insert(peer.clone(), number);
        Some(number)
    }
}

/// Follows the named keys of the groups that ask for it.
pub struct TwoOriginsDetector {
    table: TwoOrigins,
    labels: Arc<Labels>,
}

impl TwoOriginsDetector {
    /// Makes the detector for a network with epochs of this length.
    pub fn new(config: TwoOriginsConfig, slots_per_epoch: u64) -> Self {
        Self { table: TwoOrigins::new(config, slots_per_epoch), labels: Arc::default() }
    }

    fn update_labels(&mut self, labels: &Arc<Labels>) {
        if Arc::ptr_eq(labels, &self.labels) {
            return;
        }
        self.labels = labels.clone();
        let groups = &self.table.config.groups;
        let is_followed = |validator: ValidatorIndex, is_named: bool| {
            is_named && labels.group_names(validator).iter().any(|name| groups.contains(name))
        };
        let keys: Vec<ValidatorIndex> = labels
            .watched()
            .filter(|(validator, set)| is_followed(*validator, set.is_named))
            .map(|(validator, _)| validator)
            .collect();
        self.table.follow(keys.into_iter());
    }
}

impl Detector for TwoOriginsDetector {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.update_labels(view.labels);
        if self.table.is_empty() {
            return;
        }
        for vote in &batch.verified.first_hand {
            let is_connected = |peer: &PeerBytes| view.facts.peer(peer).is_some();
            let of_origin = OriginVote { key: vote.validator, slot: vote.slot, epoch: vote.epoch, peer: &vote.peer };
            let Some(found) = self.table.observe(of_origin, is_connected) else { continue };
            let groups: BTreeSet<String> = found.keys.iter().flat_map(|key| self.labels.group_names(*key)).collect();
            let details = TwoOriginsDetails {
                origin: bs58::encode(&found.peer).into_string(),
                keys: found.keys.len() as u64,
                validators: found.keys.iter().copied().take(MAX_LISTED).collect(),
                since_slot: found.since,
                groups: groups.into_iter().collect(),
            };
            out.push(Signal::Anomaly(SingleAnomaly {
                what: details.into(),
                key: vote.validator.to_string(),
                severity: self.table.config.severity,
                slot: vote.slot,
                validator: Some(vote.validator),
                first_seen: batch.received_until,
                second_seen: None,
                sources: vec![verify::SourceKind::Gossip.label().to_owned()],
            }));
        }
    }

    fn time_went_back(&mut self) {
        let (config, slots_per_epoch) = (self.table.config.clone(), self.table.slots_per_epoch);
        *self = Self::new(config, slots_per_epoch);
    }
}

#[cfg(test)]
mod tests;
