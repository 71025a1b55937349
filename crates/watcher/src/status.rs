//! The watcher's status, for the API and for the gauges on the metrics page.

use crate::clock;
use crate::coverage;
use crate::datadir;
use crate::listen;
use actions::killswitch::KillSwitchState;
use actions::lists::reload::RejectedConfig;
use api::{Connections, Gap, GoodbyeView, Head, NodeState, PeerView, Readiness, Status, StatusSource};
use chain::HeadView;
use consensus::{Checkpoint, Epoch, Network, Slot};
use detect::coverage::SharedCoverage;
use engine::metrics::Metrics;
use engine::silence::Reception;
use engine::{Engine, OlderStore};
use evidence::Time;
use index::Stats;
use prometheus::core::Collector as _;
use sources::gossip::{GossipControl, PeerInfo};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long others may take to find and dial this node before that is worth a notice.
const REACHED_WITHIN: Duration = Duration::from_secs(30 * 60);
/// Below this share of the votes, in percent, hardly anything is heard.
const LITTLE_PERCENT: u64 = 10;
/// Largest number of peers in `/v1/status`. Further peers are only counted.
const MAX_PEERS_SHOWN: usize = 256;

/// The state of the engine between two batches.
#[derive(Clone, Debug)]
pub struct EngineSnapshot {
    pub head: HeadView,
    pub finalized: Checkpoint,
    /// Number of validators in the registry.
    pub validators: usize,
    /// Number of active validators whose keys no state has named yet.
    pub newcomers: usize,
    /// The epoch of the latest state, and that of the head.
    pub state_and_head: [Epoch; 2],
    /// Number of messages that wait for their committees.
    pub parked: usize,
    /// Number of missing parents of waiting blocks, as far as they can be requested from a node.
    pub missing_blocks: usize,
    pub index: Stats,
    pub reception: Reception,
    /// Share of the votes of the last epoch's slots that were heard, in percent. `None` until there
    /// were so many slots.
    pub heard_percent: Option<u64>,
    /// Since when the disk refuses writes. `None` while it accepts them.
    pub writes_refused_since: Option<Time>,
    /// Whether the network follows another draft of its fork than this program.
    pub other_draft: bool,
    /// Findings are missing that the vote index knew of at the start.
    pub older_store: Option<OlderStore>,
    /// Slots that were not watched, or in which nothing was received.
    pub gaps: Arc<Vec<Gap>>,
}

impl EngineSnapshot {
    /// Takes a snapshot of the engine.
    pub fn of(engine: &Engine, reception: Reception, gaps: &Arc<Vec<Gap>>) -> Self {
        let chain = engine.chain();
        Self {
            head: chain.backed_head(),
            finalized: chain.finalized(),
            validators: chain.registry().len(),
            newcomers: chain.n_newcomers(),
            state_and_head: [chain.registry().slot(), chain.backed_head().slot].map(|slot| slot.epoch(chain.network().preset())),
            parked: engine.n_parked(),
            missing_blocks: chain.missing_blocks().len(),
            index: engine.index().stats(),
            reception,
            heard_percent: heard_percent(engine),
            older_store: engine.older_store(),
            writes_refused_since: None,
            other_draft: engine.sees_other_draft(),
            gaps: gaps.clone(),
        }
    }
}

/// Answers requests of the API from data that is already in memory.
pub struct StatusPage {
    pub network: Arc<Network>,
    pub snapshot: watch::Receiver<Arc<EngineSnapshot>>,
    /// Why no node answers, or `None` while a node answers.
    pub node_away: watch::Receiver<Option<String>>,
    pub has_nodes: bool,
    pub gossip: Option<GossipControl>,
    pub metrics: Metrics,
    /// Number of configured gossip peers.
    pub n_configured_peers: usize,
    pub started: Time,
    pub has_event_streams: bool,
    pub data_dir: PathBuf,
    /// Whether readers may see addresses and paths of this machine.
    pub shows_addresses: bool,
    /// `None` if the API must not show kill switches and watched keys.
    pub switches: Option<watch::Receiver<Arc<KillSwitchState>>>,
    /// The reason why a changed configuration cannot be used.
    pub refused_lists: watch::Receiver<Option<RejectedConfig>>,
    /// Notices about lists that could not be fetched.
    pub failed_lists: watch::Receiver<Vec<String>>,
    /// Notices about scheduled audits of own groups.
    pub audits: watch::Receiver<Vec<String>>,
    pub coverage: SharedCoverage,
    /// Is cancelled when the watched network is known to have ended, as a simulated one does.
    pub ended: CancellationToken,
}

impl StatusPage {
    /// Whether `/readyz` is 200: the watcher receives the network, and what it needs is loaded.
    pub fn is_ready(&self) -> bool {
        let readiness = self.readiness();
        readiness.listening && readiness.context_loaded && readiness.index_open
    }

    /// Returns the number of connected peers.
    pub fn n_peers(&self) -> u64 {
        self.gossip.as_ref().map_or(0, listen::n_connected)
    }

    /// Returns what the operator can do about a silence.
    fn advice(&self) -> String {
        let n_connected = self.n_peers();
        let text = if self.gossip.is_none() {
            "the nodes' event streams bring nothing: check that the nodes of `nodes.urls` answer and are synced"
        } else if n_connected > 0 {
            "gossip peers are connected but send nothing: check that their nodes are synced, that `network` is theirs, and that this \
             machine's clock is right; add peers of other operators"
        } else if self.gossip.as_ref().is_some_and(|gossip| gossip.state().discovery.is_some()) {
            "no peer is connected yet: discovery needs outgoing UDP, and gossip outgoing TCP or UDP; check the firewall, that \
             `network` is right, and this machine's clock"
        } else if self.n_configured_peers == 0 && !self.has_event_streams {
            "there is nobody to listen to: `gossip.peers` is empty and nobody has dialled us; give peers \
             (`curl http://NODE/eth/v1/node/identity` prints a node's own), or set `event_stream.enabled`"
        } else {
            "no gossip peer is connected: check the notices for each peer's reason, then its address, the firewall and the network"
        };
        text.to_owned()
    }

    /// Returns the notice that the network has, or will have, rules that this version does not
    /// know.
    fn fork_notice(&self, snapshot: &EngineSnapshot) -> Option<String> {
        let now = self.network.slot_at(clock::now().0).epoch(self.network.preset());
        let scheduled = self.network.spec.later_fork_from(now).map(consensus::LaterFork::notice);
        let other_draft = || snapshot.other_draft.then(|| verify::OTHER_DRAFT_NOTICE.to_owned());
        let announced = || Some(self.gossip.as_ref()?.state().announced_fork?.notice());
        scheduled.or_else(other_draft).or_else(announced)
    }

    fn notices(&self, snapshot: &EngineSnapshot) -> Vec<String> {
        let mut notices = Vec::new();
        let readiness = self.readiness();
        if self.ended.is_cancelled() {
            notices.push("the watched network has ended: nothing is received or judged any more".to_owned());
        } else if let Some(since) = readiness.since.filter(|_| !readiness.listening) {
            notices.push(format!("no vote or block has come since {since}: {}", readiness.advice.join("; ")));
        } else {
            notices.extend(readiness.advice);
        }
        if let Some(gossip) = &self.gossip {
            notices.extend(gossip.peers().iter().filter(|peer| peer.configured && !peer.connected).map(missing_peer));
        }
        notices.extend(self.gossip.as_ref().and_then(|gossip| unreached(&gossip.state(), self.started, clock::now())));
        notices.extend(snapshot.older_store.map(|older| older.to_string()));
        notices.extend(hears_little(snapshot));
        notices.extend(needed_state(snapshot));
        if snapshot.missing_blocks > 0 {
            notices.push(format!(
                "{} blocks that others build on are missing; nodes and peers are asked for them",
                snapshot.missing_blocks
            ));
        }
        if self.metrics.unproven.get() > 0 {
            notices.push(
                "a conflict was not confirmed by its second check; this is a defect of slashwatch, please report it with the log"
                    .into(),
            );
        }
        if let Some(refused) = &*self.refused_lists.borrow() {
            // The reason contains paths, and names of groups and keys.
            notices.push(if self.shows_addresses { refused.notice() } else { refused.notice_without_reason() });
        }
        notices.extend(self.failed_lists.borrow().iter().cloned());
        if let Some(switches) = &self.switches {
            // They name groups and files.
            notices.extend(self.audits.borrow().iter().cloned());
            let ledger = switches.borrow();
            notices.extend(ledger.fired.iter().map(|(group, fired)| fired.notice(group)));
            notices.extend(ledger.unconfirmed.iter().map(|(group, unconfirmed)| unconfirmed.notice(group)));
            notices.extend(ledger.held_back.iter().map(|(group, held)| held.notice(group)));
        }
        notices
    }
}

impl StatusSource for StatusPage {
    fn status(&self) -> Status {
        let snapshot = self.snapshot.borrow().clone();
        let mut stages = BTreeMap::new();
        stages.insert("messages".to_owned(), by_outcome(&self.metrics));
        stages.insert("parked".to_owned(), BTreeMap::from([("now".to_owned(), snapshot.parked as u64)]));
        let node = match &*self.node_away.borrow() {
            _ if !self.has_nodes => NodeState::NotConfigured,
            Some(reason) => NodeState::Away { reason: reason.clone() },
            None => NodeState::Connected,
        };
        let clock_slot = self.network.slot_at(clock::now().0);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            network: self.network.spec.config_name.clone(),
            genesis_validators_root: self.network.genesis_validators_root,
            clock_slot,
            head: Head { slot: snapshot.head.slot, root: snapshot.head.root },
            finalized: Some(snapshot.finalized),
            peers: self.n_peers(),
            gossip_peers: self.gossip.iter().flat_map(|gossip| peer_views(&gossip.peers())).collect(),
            connections: self.gossip.as_ref().map(|gossip| connections(&gossip.state(), self.shows_addresses)),
            validators: snapshot.validators as u64,
            stages,
            index: numbers(&snapshot.index),
            gaps: snapshot.gaps.to_vec(),
            node,
            notices: self.notices(&snapshot),
            recording: self.ended.is_cancelled(),
            data_dir: Some(datadir::absolute(&self.data_dir)),
        }
    }

    fn coverage(&self) -> Option<api::Coverage> {
        let state = self.gossip.as_ref().map(GossipControl::state);
        Some(coverage::view(&self.coverage, state.as_deref()))
    }

    fn readiness(&self) -> Readiness {
        let snapshot = self.snapshot.borrow().clone();
        let reception = snapshot.reception;
        let now = clock::now();
        let listening = reception.is_current(now, self.network.spec.slot_duration);
        let context_loaded = snapshot.validators > 0;
        let time = |at: Time| Time::from_unix_ns(at.0);
        let mut advice = Vec::new();
        if let Some(since) = snapshot.writes_refused_since {
            advice.push(format!(
                "the disk refuses writes since {}, so nothing is recorded and only kill switches act; the log says why",
                time(since)
            ));
        }
        advice.extend(self.fork_notice(&snapshot));
        if !listening {
            advice.push(self.advice());
        }
        advice.extend(hears_little(&snapshot));
        if !context_loaded {
            advice.push(
                "registry and committees come from a beacon node or a state: check that the nodes of `nodes.urls` answer"
                    .to_owned(),
            );
        }
        Readiness {
            listening,
            context_loaded,
            // The API is served only after the index is open. Any failure other than refused writes
            // ends the process.
            index_open: snapshot.writes_refused_since.is_none(),
            last_message: reception.last_message.map(time),
            since: match (snapshot.writes_refused_since, listening, context_loaded) {
                (None, true, true) => None,
                (Some(since), true, true) => Some(time(since)),
                (_, true, false) => Some(time(reception.started)),
                (_, false, _) => Some(time(reception.silent_since())),
            },
            advice,
        }
    }
}

/// Share of the votes for the last slots of one epoch's length. The slot that is being voted for
/// and the one before are not counted.
fn heard_percent(engine: &Engine) -> Option<u64> {
    let (facts, n_slots) = (engine.facts(), engine.chain().network().preset().slots_per_epoch);
    let until = facts.now().as_u64().checked_sub(2)?;
    let known: Vec<_> = facts.last_slots(Slot::new(until), n_slots).filter(|(_, slot)| slot.expected > 0).collect();
    let (voters, expected) =
        known.iter().fold((0, 0), |(voters, expected), (_, slot)| (voters + slot.voters, expected + slot.expected));
    (known.len() as u64 >= n_slots).then(|| (voters * 100).checked_div(expected)).flatten()
}

/// Returns the notice that hardly anything is heard. A single vote in each slot, which anybody with
/// a key can send, is no sign of health.
fn hears_little(snapshot: &EngineSnapshot) -> Option<String> {
    let percent = snapshot.heard_percent.filter(|percent| *percent < LITTLE_PERCENT)?;
    Some(format!(
        "of the votes of the last epoch's slots {percent} % were heard: either the network hardly votes, or this watcher hears hardly \
anything of it; compare with another node, and check the peers, `gossip.listen` and the ports"
    ))
}

/// Returns the notice about a state that is needed, because blocks do not tell enough.
fn needed_state(snapshot: &EngineSnapshot) -> Option<String> {
    let [of_state, of_head] = snapshot.state_and_head;
    (snapshot.newcomers > 0).then(|| {
        format!(
            "{} validators became active after the latest state, which is of epoch {of_state}: their votes cannot be proven, and from \
             others' only the single ones; give a state of epoch {of_head} or later (--checkpoint URL, or a state file at the next start)",
            snapshot.newcomers
        )
    })
}

/// Returns the notice about a configured peer that is not connected.
fn missing_peer(peer: &PeerInfo) -> String {
    let agent = peer.agent.as_ref().map_or_else(String::new, |agent| format!(" ({agent})"));
    let mut notice = format!("configured peer {}{agent} is not connected: ", peer.address);
    match &peer.goodbye {
        Some(goodbye) => {
            notice += &format!("it said goodbye: {} ({})", goodbye.reason, goodbye.code);
            if goodbye.times > 1 {
                notice += &format!(", {} times in a row", goodbye.times);
            }
        }
        None => notice += peer.last_problem.as_deref().unwrap_or("not yet reached"),
    }
    match peer.next_attempt_seconds {
        Some(seconds @ 0..60) => notice += &format!("; next attempt in {seconds} s"),
        Some(seconds) => notice += &format!("; next attempt in {} min", seconds.div_ceil(60)),
        None => {}
    }
    notice
}

/// Returns a notice if this node looks for peers and nobody has ever reached it.
fn unreached(state: &sources::gossip::ConnectionState, started: Time, now: Time) -> Option<String> {
    let waited = now.as_unix_ns().saturating_sub(started.as_unix_ns());
    if state.discovery.is_none() || state.n_reached > 0 || waited < REACHED_WITHIN.as_nanos() as u64 {
        return None;
    }
    Some(
        "nobody has reached this node from outside since the start, and peers keep longest whom they have dialled: open the ports of \
         `gossip.listen` and `gossip.discovery.listen` in firewall and router, or give the router's address as `gossip.discovery.external`"
            .into(),
    )
}

/// When a slot begins.
pub(crate) fn as_time(network: &Network, slot: Slot) -> Time {
    Time::from_unix_ns(network.slot_start_ns(slot))
}

/// `shows_addresses` is whether the readers may see where this node is.
fn connections(state: &sources::gossip::ConnectionState, shows_addresses: bool) -> Connections {
    let discovery = state.discovery.as_ref();
    let shown = discovery.filter(|_| shows_addresses);
    let silent = state.topics.iter().filter(|topic| topic.n_peers == 0);
    Connections {
        inbound: state.n_inbound as u64,
        outbound: state.n_outbound as u64,
        reached_from_outside: state.n_reached,
        last_reached: state.last_reached,
        known_nodes: discovery.map(|discovery| discovery.n_known as u64),
        record: shown.map(|discovery| discovery.record.clone()),
        external: shown.map_or_else(Vec::new, |discovery| discovery.external.iter().map(ToString::to_string).collect()),
        silent_topics: silent.map(|topic| topic.name.clone()).collect(),
        topics: state.topics.iter().map(|topic| (topic.name.clone(), topic.n_peers as u64)).collect(),
    }
}

/// Configured peers come first.
fn peer_views(peers: &[PeerInfo]) -> Vec<PeerView> {
    let view = |peer: &PeerInfo| PeerView {
        peer: if peer.peer.is_empty() { peer.address.clone() } else { peer.peer.clone() },
        agent: peer.agent.clone(),
        configured: peer.configured,
        connected: peer.connected,
        goodbye: peer.goodbye.as_ref().map(|goodbye| GoodbyeView {
            code: goodbye.code.to_string(),
            reason: goodbye.reason.to_owned(),
            times: goodbye.times,
        }),
        next_attempt_seconds: peer.next_attempt_seconds,
    };
    peers.iter().take(MAX_PEERS_SHOWN).map(view).collect()
}

fn by_outcome(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for family in metrics.messages.collect() {
        for metric in family.get_metric() {
            let outcome = metric.get_label().iter().find(|label| label.name() == "outcome").map_or("", |label| label.value());
            *sums.entry(outcome.to_owned()).or_default() += metric.get_counter().get_value() as u64;
        }
    }
    sums
}

/// Returns the fields of a struct of numbers by name.
pub fn numbers(stats: &impl serde::Serialize) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(stats).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(name, number)| Some((name.clone(), number.as_u64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sources::gossip::PeerGoodbye;

    fn peer() -> PeerInfo {
        PeerInfo {
            peer: String::new(),
            address: "/ip4/192.0.2.1/tcp/9000".into(),
            configured: true,
            connected: false,
            agent: None,
            head_slot: None,
            score: 0.0,
            messages: 0,
            topics: 0,
            failed_attempts: 1,
            last_problem: None,
            goodbye: None,
            next_attempt_seconds: Some(7),
        }
    }

    #[test]
    fn a_missing_peer_is_shown_with_its_client_its_reason_and_the_next_attempt() {
        let unknown = peer();
        assert_eq!(
            missing_peer(&unknown),
            "configured peer /ip4/192.0.2.1/tcp/9000 is not connected: not yet reached; next attempt in 7 s"
        );
        let goodbye = Some(PeerGoodbye { code: 250, reason: "bad score", times: 3 });
        let banned = PeerInfo {
            peer: "16Uiu2HAm".into(),
            agent: Some("Lighthouse/v8.1.2".into()),
            last_problem: Some("closed".into()),
            goodbye,
            next_attempt_seconds: Some(1195),
            ..peer()
        };
        assert_eq!(
            missing_peer(&banned),
            "configured peer /ip4/192.0.2.1/tcp/9000 (Lighthouse/v8.1.2) is not connected: it said goodbye: bad score (250), \
             3 times in a row; next attempt in 20 min"
        );
        let views = serde_json::to_value(peer_views(&[banned, unknown])).unwrap();
        assert_eq!(
            views[0],
            serde_json::json!({
                "peer": "16Uiu2HAm", "agent": "Lighthouse/v8.1.2", "configured": true, "connected": false,
                "goodbye": {"code": "250", "reason": "bad score", "times": 3}, "next_attempt_seconds": 1195,
            })
        );
        assert_eq!(views[1]["peer"], "/ip4/192.0.2.1/tcp/9000", "its id is not known before it has answered");
        assert_eq!(peer_views(&vec![peer(); 1000]).len(), MAX_PEERS_SHOWN);
    }
}
