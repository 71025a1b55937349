//! `client_dominance`, `sync_storm`, `subnet_silent`: conditions of the network's nodes rather than
//! of its validators.
//!
//! - *dominance*: one client makes a third, a half or two thirds of the last `window_blocks`
//!   blocks, or of our peers. A defect of a client with a third can stop finality. A defect of one
//!   with two thirds can finalize a wrong chain.
//! - *storm*: there are at least `min_peers` peers with a recent Status, and `behind_percent` of
//!   them are `behind_slots` back. It is also a storm if as many peers say goodbye within an epoch
//!   because they shut down or have a fault. Such peers all sync at once or cannot keep up
//!   (Medalla, after the clocks).
//! - *silent*: subnets on which committees vote, but from which we received no single vote for two
//!   epochs, while we receive votes on others. They are blind spots of ours: a second message there
//!   would not reach us.
//!
//! **False alarms considered.** A sample is not the whole: of 1 024 blocks a client with a quarter
//! makes a third by chance once in 10^8. So half of `window_blocks` must have a known client, or
//! four times `min_peers` nodes. Peers that have just connected and still sync: only a share of all
//! peers counts. An old Status: one older than `status_epochs` does not count. Sources without
//! subnets, such as files of blocks: without any single vote nothing is reported. Committees that
//! did not vote: nothing is reported while participation is below `silent_votes_percent`.

use super::common::{LatestRows, by_client, listed};
use crate::client::{ByClient, N_CLIENTS, UNKNOWN, client_name};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::facts::N_SUBNETS;
use crate::monitor::{Described, Details, Detector, DetectorView, Observation, Signal};
use consensus::{CommitteeIndex, Slot};
use evidence::{Kind, Severity, Time};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// `[detect.network]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    pub enabled: bool,
    /// Number of blocks over which a client's share is taken.
    pub window_blocks: u64,
    /// Nothing is reported about nodes with fewer peers.
    pub min_peers: u64,
    /// A peer is far behind when its head is more than this number of slots old.
    pub behind_slots: u64,
    /// Percentage of the peers that must be far behind, or leave.
    pub behind_percent: u64,
    /// A Status older than this number of epochs does not count.
    pub status_epochs: u64,
    /// Percentage of blocks or peers from which on one client is reported.
    pub dominance_percent: u64,
    /// Percentage points below that at which the report ends.
    pub dominance_slack: u64,
    /// Silence is reported only if this percentage of all votes was received.
    pub silent_votes_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_blocks: 1024,
            min_peers: 16,
            behind_slots: 32,
            behind_percent: 25,
            status_epochs: 2,
            dominance_percent: 33,
            dominance_slack: 3,
            silent_votes_percent: 80,
            closes_after_epochs: 2,
        }
    }
}

impl DetectorConfig for NetworkConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(Network::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("window_blocks", self.window_blocks, 32, 65_536);
        problems.at_least("min_peers", self.min_peers, 1);
        problems.at_least("behind_slots", self.behind_slots, 1);
        problems.between("behind_percent", self.behind_percent, 1, 100);
        problems.between("status_epochs", self.status_epochs, 1, 1_024);
        problems.between("silent_votes_percent", self.silent_votes_percent, 1, 100);
        problems.between("dominance_percent", self.dominance_percent, 1, 50);
        problems.between("dominance_slack", self.dominance_slack, 0, self.dominance_percent.saturating_sub(1));
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct ClientDominanceDetails {
    client: Cow<'static, str>,
    /// `a third`, `half` or `two thirds`.
    at_least: Cow<'static, str>,
    percent: u64,
    #[serde(with = "by_client")]
    by_client: ByClient,
}

impl Details for ClientDominanceDetails {
    const KIND: Kind = Kind::ClientDominance;

    fn sentence(&self, _validators: Option<u64>) -> String {
        format!("{} has {} percent", self.client, self.percent)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SyncStormDetails {
    peers: u64,
    far_behind: u64,
    #[serde(with = "by_client")]
    far_behind_by_client: ByClient,
    goodbyes_in_an_epoch: u64,
}

impl Details for SyncStormDetails {
    const KIND: Kind = Kind::SyncStorm;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { peers, far_behind, goodbyes_in_an_epoch, .. } = self;
        format!("{far_behind} of {peers} peers were far behind, {goodbyes_in_an_epoch} said goodbye within an epoch")
    }
}

/// Written by this detector, which knows the silent subnets, or by the watcher itself while no
/// message arrives at all.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub enum SubnetSilentDetails {
    Some {
        subnets: Vec<usize>,
    },
    All {
        subnets: AllSubnets,
        silent_since: Time,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silent_until: Option<Time>,
        /// Number of peers that were connected when this was written.
        peers: u64,
    },
}

/// The text `all`, in place of the subnets' numbers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllSubnets {
    All,
}

impl Details for SubnetSilentDetails {
    const KIND: Kind = Kind::SubnetSilent;

    fn sentence(&self, _validators: Option<u64>) -> String {
        match self {
            Self::Some { subnets } => {
                format!("Nothing was heard on subnets {}: second messages there would not reach us", listed(subnets, ", "))
            }
            Self::All { .. } => "Nothing came from the network at all: nothing that happened meanwhile was seen".into(),
        }
    }
}

pub(crate) struct Network {
    config: NetworkConfig,
    blocks: LatestRows<usize>,
    since: [Option<Slot>; PeerCondition::COUNT],
    /// Subnets that were silent in the last complete epoch.
    silent: Vec<usize>,
    /// Subnets that were silent in the last complete epoch and in the one before it.
    silent_twice: Vec<usize>,
}

impl Network {
    pub(crate) fn new(config: NetworkConfig) -> Self {
        Self {
            config,
            blocks: LatestRows::default(),
            since: [None; PeerCondition::COUNT],
            silent: Vec::new(),
            silent_twice: Vec::new(),
        }
    }

    fn observation(&mut self, condition: PeerCondition, slot: Slot, seen: Seen, per_epoch: u64) -> Signal {
        let until = match condition {
            PeerCondition::Proposals | PeerCondition::Nodes | PeerCondition::Storm => slot,
            // Silence is evaluated at the end of an epoch and reported during the whole next one.
            PeerCondition::Silent => Slot::new((slot.as_u64() + 1) / per_epoch * per_epoch).saturating_sub(1),
        };
        let since = *self.since[condition as usize].get_or_insert(slot);
        Signal::Observation(Observation {
            what: seen.what,
            key: condition.key().to_owned(),
            slot,
            since,
            until,
            severity: seen.severity,
            measure: seen.measure,
            validators: None,
            shared: Vec::new(),
            closes_after: self.config.closes_after_epochs * per_epoch,
        })
    }

    /// The dominance of one client, if there is one. Once reported, it stays so until the share is
    /// more than `dominance_slack` points below the threshold, because shares vary. `least` is how
    /// many members with a known client are needed.
    fn dominance(&self, condition: PeerCondition, by_client: &ByClient, least: u64) -> Option<Seen> {
        let known: u64 = by_client.iter().skip(1).sum();
        let (client, most) = by_client.iter().enumerate().filter(|(client, _)| *client != UNKNOWN).max_by_key(|(_, n)| **n)?;
        let is_reported = self.since[condition as usize].is_some();
        let from = self.config.dominance_percent - if is_reported { self.config.dominance_slack } else { 0 };
        if known < least || most * 100 < known * from {
            return None;
        }
        let (share, severity) = match (most * 3 >= known * 2, most * 2 >= known) {
            (true, _) => ("two thirds", Severity::Warning),
            (false, true) => ("half", Severity::Warning),
            (false, false) => ("a third", Severity::Info),
        };
        let percent = most * 100 / known;
        let details =
            ClientDominanceDetails { client: client_name(client).into(), at_least: share.into(), percent, by_client: *by_client };
        Some(Seen { severity, measure: percent, what: details.into() })
    }

    fn storm(&self, slot: Slot, view: &DetectorView<'_>) -> Option<Seen> {
        let network = view.network();
        let per_epoch = network.preset().slots_per_epoch;
        let (mut n_peers, mut behind, mut by_client) = (0, 0, [0; N_CLIENTS]);
        for peer in view.facts.peers() {
            let Some((head, at)) = peer.head else { continue };
            let at = network.slot_at(at.0);
            if at.saturating_add(self.config.status_epochs * per_epoch) < slot {
                continue;
            }
            n_peers += 1;
            if head.saturating_add(self.config.behind_slots) < at {
                behind += 1;
                by_client[peer.client] += 1;
            }
        }
        let goodbyes = view.facts.goodbyes(slot, per_epoch);
        let peers = n_peers.max(view.facts.peers().len() as u64);
        let storm = behind * 100 >= n_peers * self.config.behind_percent || goodbyes * 100 >= peers * self.config.behind_percent;
        if n_peers < self.config.min_peers || !storm {
            return None;
        }
        let details = SyncStormDetails {
            peers: n_peers,
            far_behind: behind,
            far_behind_by_client: by_client,
            goodbyes_in_an_epoch: goodbyes,
        };
        let measure = behind.max(goodbyes) * 100 / peers.max(1);
        Some(Seen { severity: Severity::Warning, measure, what: details.into() })
    }

    /// The subnets of the epoch that ends with `slot` on which nothing was received.
    fn silent_subnets(&self, slot: Slot, view: &DetectorView<'_>) -> Vec<usize> {
        let per_epoch = view.network().preset().slots_per_epoch;
        let mut heard = [0u64; N_SUBNETS];
        let mut singles = 0;
        for (_, arrivals) in view.facts.last_arrivals(slot, per_epoch) {
            singles += arrivals.singles;
            for (sum, n) in heard.iter_mut().zip(arrivals.by_subnet) {
                *sum += n;
            }
        }
        let (voters, expected) =
            view.facts.last_slots(slot, per_epoch).fold((0, 0), |sum, (_, facts)| (sum.0 + facts.voters, sum.1 + facts.expected));
        if singles == 0 || expected == 0 || voters * 100 < expected * self.config.silent_votes_percent {
            return Vec::new();
        }
        // The number of committees per slot follows from the number of seats, as in
        // `get_committee_count_per_slot`. `compute_subnet_for_attestation` assigns committees to
        // subnets in turn.
        let preset = view.network().preset();
        let a_slot = expected / per_epoch;
        let committees = (a_slot / preset.target_committee_size).clamp(1, preset.max_committees_per_slot);
        let used = (CommitteeIndex::new(committees).as_u64() * per_epoch).min(N_SUBNETS as u64) as usize;
        let silent: Vec<usize> = (0..used).filter(|subnet| heard[*subnet] == 0).collect();
        // If more than half of the subnets are silent, the source is of another kind: it does not
        // listen on all subnets.
        if silent.len() * 2 > used { Vec::new() } else { silent }
    }
}

/// The conditions that are tracked separately, each with its own beginning.
#[derive(Clone, Copy)]
enum PeerCondition {
    Proposals,
    Nodes,
    Storm,
    Silent,
}

impl PeerCondition {
    const COUNT: usize = Self::Silent as usize + 1;

    /// The key of the incident. It distinguishes the two incidents of one kind.
    fn key(self) -> &'static str {
        match self {
            Self::Proposals => "proposals",
            Self::Nodes => "nodes",
            Self::Storm | Self::Silent => "",
        }
    }
}

struct Seen {
    severity: Severity,
    measure: u64,
    what: Described,
}

impl Detector for Network {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let per_epoch = view.network().preset().slots_per_epoch;
        if let Some(block) =
            view.facts.slot(slot).and_then(|facts| facts.blocks.iter().find(|block| view.facts.is_backed(slot, block)))
        {
            self.blocks.push(block.client, self.config.window_blocks as usize);
        }
        let mut by_blocks = [0; N_CLIENTS];
        self.blocks.iter().for_each(|client| by_blocks[*client] += 1);
        let mut by_peers = [0; N_CLIENTS];
        view.facts.peers().for_each(|peer| by_peers[peer.client] += 1);
        let seen = [
            (PeerCondition::Proposals, self.dominance(PeerCondition::Proposals, &by_blocks, self.config.window_blocks / 2)),
            (PeerCondition::Nodes, self.dominance(PeerCondition::Nodes, &by_peers, self.config.min_peers.saturating_mul(4))),
            (PeerCondition::Storm, self.storm(slot, view)),
        ];
        for (condition, seen) in seen {
            match seen {
                Some(seen) => out.push(self.observation(condition, slot, seen, per_epoch)),
                None => self.since[condition as usize] = None,
            }
        }
        if slot.as_u64() % per_epoch == per_epoch - 1 {
            let now = self.silent_subnets(slot, view);
            self.silent_twice = now.iter().filter(|subnet| self.silent.contains(subnet)).copied().collect();
            self.silent = now;
        }
        if self.silent_twice.is_empty() {
            self.since[PeerCondition::Silent as usize] = None;
        } else {
            let details = SubnetSilentDetails::Some { subnets: self.silent_twice.clone() };
            let seen = Seen { severity: Severity::Warning, measure: self.silent_twice.len() as u64, what: details.into() };
            out.push(self.observation(PeerCondition::Silent, slot, seen, per_epoch));
        }
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
