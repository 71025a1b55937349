//! A long run: many honest nodes and hostile peers around one watcher, for hours.
//!
//! The honest nodes are those of a simulated network ([`SimNetwork`]), which the watcher dials, and
//! visitors that dial the watcher and leave after a while. Whatever a hostile peer has made, honest
//! nodes reject if the watcher passes it on, and who passes on much of it is sent away. In the
//! middle quarter of the run half of the validators follows another branch. Some validators vote
//! twice, now and then.

use crate::conditions::{Condition, Group, TimedCondition};
use crate::containers::single_attestation;
use crate::error::SimError;
use crate::honest::{HonestCounts, HonestNodes};
use crate::network::SimNetwork;
use crate::scenario::{Act, Deed, Noise, Scenario, Who};
use crate::seeded_random::SeededRandom;
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, MessageKind, Network, Root, SignatureBytes, Slot, Spec, ValidatorIndex,
};
use sources::gossip::{GossipConfig, GossipHandle, GossipService, Identity, PeerAddress, StatusView};
use sources::metrics::SourceMetrics;
use sources::topic::Topic;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const SLOT: Duration = Duration::from_secs(6);
const VALIDATORS: usize = 128;
/// One in this many peers is hostile.
const HOSTILE: usize = 4;
/// One in this many peers is an honest visitor.
const VISITORS: usize = 4;
/// How long a visitor and a hostile peer stay before they come again with another key.
const STAY: Duration = Duration::from_secs(120);
/// Time between two offences.
const OFFENCE_EVERY: Duration = Duration::from_secs(300);

/// What is to be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPlan {
    pub seed: u64,
    pub minutes: u64,
    /// Peers of the watcher, hostile ones included.
    pub nodes: usize,
}

/// What a hostile peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hostile {
    /// Sends a hundred forged votes in a second.
    Flood,
    /// Sends what cannot be read, twenty times in a second.
    Junk,
    /// Connects and leaves at once, again and again.
    Refuse,
    /// Claims to know a chain that is far ahead and finalized another root.
    Lie,
}

impl Hostile {
    const ALL: [Self; 4] = [Self::Flood, Self::Junk, Self::Refuse, Self::Lie];
}

/// A network that runs around a watcher. Dropping it stops it.
pub struct LongNetwork {
    network: SimNetwork,
    honest: HonestNodes,
    /// How many of the network's nodes are honest.
    n_honest: usize,
    _stop: DropGuard,
}

/// How the honest nodes that the watcher dials see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HonestView {
    pub connected: usize,
    pub of: usize,
    /// The lowest score that one of them gives the watcher. Below -120 it is ignored.
    pub least_score: f64,
    pub counts: HonestCounts,
    /// Offences so far.
    pub crimes: usize,
}

impl LongPlan {
    fn scenario(&self) -> Scenario {
        let slots = self.minutes * 60 / SLOT.as_secs() + 64;
        let every = OFFENCE_EVERY.as_secs() / SLOT.as_secs();
        let act = |nth: u64| Act {
            deed: if nth.is_multiple_of(2) { Deed::DoubleVote } else { Deed::DoubleProposal },
            who: Who::OnDuty(1),
            from: Slot::new(nth * every),
        };
        let (from, until) = self.split();
        Scenario {
            seed: self.seed,
            slot_duration: SLOT,
            slots,
            genesis_delay: Duration::from_secs(30),
            // The last node sends noise. It is one of the hostile peers.
            n_nodes: self.nodes - self.nodes / HOSTILE - self.nodes / VISITORS + 1,
            acts: (1..slots / every).map(act).collect(),
            noise: Noise { forged: 4, junk: 2, duplicates: 8, altered: 4 },
            conditions: vec![TimedCondition { what: Condition::OtherBranch, who: Group::Percent(50), from, until }],
            ..Scenario::quiet(VALIDATORS)
        }
    }

    /// The first slot of the split, and the first one after it.
    fn split(&self) -> (u64, u64) {
        let slots = self.minutes * 60 / SLOT.as_secs();
        (slots * 3 / 8, slots * 5 / 8)
    }

    /// Whether the network is split, that many minutes after the genesis.
    pub fn is_split(&self, minute: u64) -> bool {
        let (from, until) = self.split();
        (from..until).contains(&(minute * 60 / SLOT.as_secs()))
    }
}

impl LongNetwork {
    /// Starts the network. `watcher` is where the watcher will listen.
    ///
    /// # Errors
    /// The plan cannot be played, or loopback sockets are not available.
    pub async fn start(plan: &LongPlan, watcher: SocketAddr) -> Result<Self, SimError> {
        if !(12..=80).contains(&plan.nodes) || !(1..=1440).contains(&plan.minutes) {
            let found = format!("{} nodes and {} minutes", plan.nodes, plan.minutes);
            let possible = "12 to 80 nodes and 1 to 1440 minutes".to_owned();
            return Err(SimError::Scenario { what: "the long run", found, possible });
        }
        let honest = HonestNodes::default();
        let scenario = plan.scenario();
        let n_honest = scenario.n_nodes - 1;
        let network = SimNetwork::start_among(scenario, base::Time::now(), honest.clone()).await?;
        let stop = CancellationToken::new();
        let random = SeededRandom::new(plan.seed);
        let spec = Spec::from_yaml(network.config_yaml()).map_err(SimError::Config)?;
        let (genesis_time, genesis_validators_root) = (network.genesis_time(), network.genesis_validators_root());
        let shared = Arc::new(Network { spec, genesis_time, genesis_validators_root });
        let target: PeerAddress =
            format!("/ip4/{}/tcp/{}", watcher.ip(), watcher.port()).parse().expect("an address and a port are a multiaddr");
        let (n_visitors, n_hostile) = (plan.nodes / VISITORS, plan.nodes / HOSTILE - 1);
        for number in 0..n_visitors + n_hostile {
            let guest = Guest {
                number,
                // Not all of them leave at the same time.
                first_stay: STAY.mul_f64((number + 1) as f64 / (n_visitors + n_hostile) as f64),
                conduct: number.checked_sub(n_visitors).map(|nth| Hostile::ALL[nth % Hostile::ALL.len()]),
                random,
                network: shared.clone(),
                target: target.clone(),
                honest: honest.clone(),
            };
            tokio::spawn(guest.run(stop.clone()));
        }
        Ok(Self { network, honest, n_honest, _stop: stop.drop_guard() })
    }

    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// How the watcher is seen now.
    pub fn view(&self) -> HonestView {
        let peers: Vec<_> = self.network.peers_of_nodes().take(self.n_honest).collect();
        let of_watcher = peers.iter().flat_map(|peers| peers.iter().filter(|peer| peer.connected));
        HonestView {
            connected: peers.iter().filter(|peers| peers.iter().any(|peer| peer.connected)).count(),
            of: self.n_honest,
            least_score: of_watcher.map(|peer| peer.score).fold(f64::INFINITY, f64::min),
            counts: self.honest.counts(),
            crimes: self.network.truth().crimes.len(),
        }
    }
}

/// A peer that dials the watcher, stays for a while, and comes again with another key.
struct Guest {
    number: usize,
    first_stay: Duration,
    /// `None`: it is honest.
    conduct: Option<Hostile>,
    random: SeededRandom,
    network: Arc<Network>,
    target: PeerAddress,
    honest: HonestNodes,
}

impl Guest {
    async fn run(self, stop: CancellationToken) {
        let mut life = 0;
        while !stop.is_cancelled() {
            if let Err(error) = self.live(life, &stop).await {
                tracing::warn!(%error, number = self.number, "a guest of the laboratory did not start");
                tokio::time::sleep(STAY).await;
            }
            life += 1;
        }
    }

    async fn live(&self, life: u64, stop: &CancellationToken) -> Result<(), sources::gossip::GossipError> {
        let root = |what: &str| Root::from(self.random.hash(what, &[self.number as u64, life]));
        let status = match self.conduct {
            Some(Hostile::Lie) => StatusView {
                finalized: Checkpoint { epoch: Epoch::new(1_000_000), root: root("finalized") },
                head_root: root("head"),
                head_slot: Slot::new(40_000_000),
            },
            _ => StatusView::default(),
        };
        let config = GossipConfig {
            peers: vec![self.target.clone()],
            identity: Identity::Secret(self.random.hash("guest", &[self.number as u64, life])),
            agent: format!("guest/{}", self.number),
            ..GossipConfig::default()
        };
        // The sender of the status must live as long as the node.
        let (_status_in, status) = watch::channel(status);
        let handle = GossipService::start(config, self.network.clone(), status, SourceMetrics::unregistered())?;
        let stay = if life == 0 { self.first_stay } else { STAY };
        let leave = stop.child_token();
        let timer = leave.clone();
        tokio::spawn(async move {
            tokio::time::sleep(stay).await;
            timer.cancel();
        });
        match self.conduct {
            None => self.honest.clone().run(handle, leave).await,
            Some(Hostile::Lie) => ignore(handle, leave, None).await,
            Some(Hostile::Refuse) => {
                let moment = tokio::time::sleep(Duration::from_secs(1));
                let _ = tokio::time::timeout(Duration::from_secs(1), crate::node::somebody_listens([&handle.control()])).await;
                handle.shutdown().await;
                moment.await;
            }
            Some(conduct @ (Hostile::Flood | Hostile::Junk)) => ignore(handle, leave, Some((self, conduct, life))).await,
        }
        Ok(())
    }

    /// A hostile message: its topic, and its payload or its SSZ.
    fn message(&self, conduct: Hostile, life: u64, nth: u64) -> (Topic, Vec<u8>) {
        let about = [self.number as u64, life, nth];
        let slot = self.network.slot_at(base::Time::now().0);
        let epoch = slot.epoch(self.network.preset());
        let subnet = self.random.below(64, "subnet", &about);
        let topic = Topic { digest: self.network.fork_digest_at(epoch), kind: MessageKind::Attestation { subnet } };
        if conduct == Hostile::Junk {
            return (topic, self.random.bytes(200, "junk", &about));
        }
        let data = AttestationData {
            slot,
            index: CommitteeIndex::new(0),
            beacon_block_root: Root::from(self.random.hash("flood: head", &about)),
            source: Checkpoint { epoch: epoch.saturating_sub(1), root: Root::repeat_byte(1) },
            target: Checkpoint { epoch, root: Root::repeat_byte(2) },
        };
        let validator = ValidatorIndex::new(self.random.below(VALIDATORS as u64, "flood: validator", &about));
        let signature = SignatureBytes::from([0x5a; 96]);
        let ssz = single_attestation(CommitteeIndex::new(0), validator, &data, &signature).to_ssz();
        (topic, snap::raw::Encoder::new().compress_vec(&ssz).unwrap_or_default())
    }
}

/// Drops all events until the peer leaves, and sends hostile messages if it is to send any.
async fn ignore(mut handle: GossipHandle, leave: CancellationToken, sends: Option<(&Guest, Hostile, u64)>) {
    let per_second = if matches!(sends, Some((_, Hostile::Flood, _))) { 100 } else { 20 };
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let control = handle.control();
    let mut nth = 0;
    loop {
        tokio::select! {
            () = leave.cancelled() => break,
            event = handle.events.recv() => if event.is_none() { break },
            _ = tick.tick(), if sends.is_some() => {
                let Some((guest, conduct, life)) = sends else { continue };
                let (topic, payload) = guest.message(conduct, life, nth);
                guest.honest.forge(&payload);
                nth += 1;
                // It is refused while the watcher does not listen to this peer.
                let _ = control.publish_payload(topic, &payload).await;
            }
        }
    }
    handle.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_time_is_split_and_offences_go_on_meanwhile() {
        let plan = LongPlan { seed: 1, minutes: 120, nodes: 32 };
        let n_split = (0..plan.minutes).filter(|minute| plan.is_split(*minute)).count();
        assert_eq!(n_split, 30);
        let scenario = plan.scenario();
        assert!(scenario.check().is_ok());
        let (from, until) = plan.split();
        let during = scenario.acts.iter().filter(|act| (from..until).contains(&act.from.as_u64())).count();
        assert!(during >= 5 && scenario.acts.len() >= 20, "{during} of {}", scenario.acts.len());
    }
}
