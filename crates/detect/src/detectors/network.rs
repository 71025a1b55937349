//! `client_dominance`, `sync_storm`, `subnet_silent`: the network's machines rather than its validators.
//!
//! - *dominance*: one client makes a third, a half, two thirds of the last `window_blocks` blocks, or of our peers. A defect of a client
//!   with a third can stop finality; of one with two thirds it can finalize a wrong chain.
//! - *storm*: `behind_percent` of at least `min_peers` connected peers say in their Status that they are `behind_slots` back, or as many say
//!   goodbye within an epoch: they sync all at once, or cannot keep up (Medalla, after the clocks).
//! - *silent*: subnets on which committees vote, and of which we heard no single vote for two epochs, while we hear others: our own deaf
//!   spots. A second message there would not reach us.
//!
//! **False alarms considered.** A sample is not the whole: of 1 024 blocks a client with a quarter makes a third by chance once in 10^8 (half
//! that many must be known, and four times `min_peers` nodes); peers that have just connected and sync (a
//! share is asked for); Status told long ago (older than two epochs does not count); sources without subnets, such as files of
//! blocks (no single vote at all: nothing is said); committees that did not vote (participation below 80 percent: nothing is said).

use super::common::clients_json;
use crate::client::{ByClient, N_CLIENTS, UNKNOWN, client_name};
use crate::config::Problems;
use crate::monitor::facts::N_SUBNETS;
use crate::monitor::{Detector, Sighting, Signal, View};
use consensus::{CommitteeIndex, Slot};
use evidence::Severity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

pub const DOMINANCE: &str = "client_dominance";
pub const STORM: &str = "sync_storm";
pub const SILENT: &str = "subnet_silent";

/// `[detect.network]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    pub enabled: bool,
    pub window_blocks: u64,
    pub min_peers: u64,
    pub behind_slots: u64,
    pub behind_percent: u64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { enabled: true, window_blocks: 1024, min_peers: 16, behind_slots: 32, behind_percent: 25 }
    }
}

impl NetworkConfig {
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("window_blocks", self.window_blocks, 32);
        problems.at_least("behind_percent", self.behind_percent, 1);
    }
}

pub(crate) struct Network {
    config: NetworkConfig,
    blocks: VecDeque<usize>,
    since: [Option<Slot>; 4],
    /// Silent in the epoch before.
    silent: Vec<usize>,
    /// And in the one before that.
    silent_twice: Vec<usize>,
}

impl Network {
    pub(crate) fn new(config: NetworkConfig) -> Self {
        Self { config, blocks: VecDeque::new(), since: [None; 4], silent: Vec::new(), silent_twice: Vec::new() }
    }

    /// `place`: which of the conditions, for its beginning.
    fn sighting(&mut self, place: usize, kind: &'static str, key: &str, slot: Slot, seen: Seen, per_epoch: u64) -> Signal {
        let since = *self.since[place].get_or_insert(slot);
        Signal::Sighting(Sighting {
            kind,
            key: key.to_owned(),
            slot,
            since,
            severity: seen.severity,
            measure: seen.measure,
            validators: None,
            shared: Vec::new(),
            details: seen.details,
            closes_after: 2 * per_epoch,
        })
    }

    /// `place`: as for [`Self::sighting`]. What is said stays said until it is three points below a third: shares vary.
    fn dominance(&self, place: usize, by_client: &ByClient, least: u64) -> Option<Seen> {
        let known: u64 = by_client.iter().skip(1).sum();
        let (client, most) = by_client.iter().enumerate().filter(|(client, _)| *client != UNKNOWN).max_by_key(|(_, n)| **n)?;
        let is_said = self.since[place].is_some();
        if known < least || most * 3 < known && !(is_said && most * 10 >= known * 3) {
            return None;
        }
        let (share, severity) = match (most * 3 >= known * 2, most * 2 >= known) {
            (true, _) => ("two thirds", Severity::Warning),
            (false, true) => ("half", Severity::Warning),
            (false, false) => ("a third", Severity::Info),
        };
        let mut details = Map::new();
        details.insert("client".into(), client_name(client).into());
        details.insert("at_least".into(), share.into());
        details.insert("percent".into(), (most * 100 / known).into());
        details.insert("by_client".into(), clients_json(by_client));
        Some(Seen { severity, measure: most * 100 / known, details })
    }

    fn storm(&self, slot: Slot, view: &View<'_>) -> Option<Seen> {
        let network = view.network();
        let per_epoch = network.preset().slots_per_epoch;
        let (mut said, mut behind, mut by_client) = (0, 0, [0; N_CLIENTS]);
        for peer in view.facts.peers() {
            let Some((head, at)) = peer.head else { continue };
            let at = network.slot_at(at.0);
            if at.saturating_add(2 * per_epoch) < slot {
                continue;
            }
            said += 1;
            if head.saturating_add(self.config.behind_slots) < at {
                behind += 1;
                by_client[peer.client] += 1;
            }
        }
        let goodbyes = view.facts.goodbyes(slot, per_epoch);
        let peers = said.max(view.facts.peers().len() as u64);
        let storm = behind * 100 >= said * self.config.behind_percent || goodbyes * 100 >= peers * self.config.behind_percent;
        if said < self.config.min_peers || !storm {
            return None;
        }
        let mut details = Map::new();
        details.insert("peers".into(), said.into());
        details.insert("far_behind".into(), behind.into());
        details.insert("far_behind_by_client".into(), clients_json(&by_client));
        details.insert("goodbyes_in_an_epoch".into(), goodbyes.into());
        Some(Seen { severity: Severity::Warning, measure: behind.max(goodbyes) * 100 / peers.max(1), details })
    }

    /// Subnets of the epoch that ends with `slot` on which nothing was heard.
    fn silent_subnets(slot: Slot, view: &View<'_>) -> Vec<usize> {
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
        if singles == 0 || expected == 0 || voters * 100 < expected * 80 {
            return Vec::new();
        }
        // As many committees a slot as there are seats for; `compute_subnet_for_attestation` goes through them in turn.
        let preset = view.network().preset();
        let a_slot = expected / per_epoch;
        let committees = (a_slot / preset.target_committee_size).clamp(1, preset.max_committees_per_slot);
        let used = (CommitteeIndex::new(committees).as_u64() * per_epoch).min(N_SUBNETS as u64) as usize;
        let silent: Vec<usize> = (0..used).filter(|subnet| heard[*subnet] == 0).collect();
        // Hearing less than half of them is not a silent subnet, it is another kind of source.
        if silent.len() * 2 > used { Vec::new() } else { silent }
    }
}

struct Seen {
    severity: Severity,
    measure: u64,
    details: Map<String, Value>,
}

impl Detector for Network {
    fn slot_ended(&mut self, slot: Slot, view: &View<'_>, out: &mut Vec<Signal>) {
        let per_epoch = view.network().preset().slots_per_epoch;
        if let Some(block) = view.facts.slot(slot).and_then(|facts| facts.blocks.first()) {
            self.blocks.push_back(block.client);
            if self.blocks.len() as u64 > self.config.window_blocks {
                self.blocks.pop_front();
            }
        }
        let mut by_blocks = [0; N_CLIENTS];
        self.blocks.iter().for_each(|client| by_blocks[*client] += 1);
        let mut by_peers = [0; N_CLIENTS];
        view.facts.peers().for_each(|peer| by_peers[peer.client] += 1);
        let seen = [
            (DOMINANCE, "proposals", self.dominance(0, &by_blocks, self.config.window_blocks / 2)),
            (DOMINANCE, "nodes", self.dominance(1, &by_peers, 4 * self.config.min_peers)),
            (STORM, "", self.storm(slot, view)),
        ];
        for (place, (kind, key, seen)) in seen.into_iter().enumerate() {
            match seen {
                Some(seen) => out.push(self.sighting(place, kind, key, slot, seen, per_epoch)),
                None => self.since[place] = None,
            }
        }
        if slot.as_u64() % per_epoch == per_epoch - 1 {
            let now = Self::silent_subnets(slot, view);
            self.silent_twice = now.iter().filter(|subnet| self.silent.contains(subnet)).copied().collect();
            self.silent = now;
        }
        if self.silent_twice.is_empty() {
            self.since[3] = None;
        } else {
            let mut details = Map::new();
            details.insert("subnets".into(), json!(self.silent_twice));
            let seen = Seen { severity: Severity::Warning, measure: self.silent_twice.len() as u64, details };
            out.push(self.sighting(3, SILENT, "", slot, seen, per_epoch));
        }
    }
}
