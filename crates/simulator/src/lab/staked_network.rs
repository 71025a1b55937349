//! A network of nodes on several subnets, with unequal stake, that can be found by discv5.
//!
//! Each node is subscribed to one of four subnets and publishes on all of them, so three of four
//! votes go out by fanout. Every validator votes once in an epoch, on a subnet that is drawn anew.
//! Epochs are short: what a watcher does over hours then takes minutes.

use super::client::ClientKind;
use super::full_node::{FullNode, NodePlan, NodeRecord, Publish, Where};
use super::{DIALLED, network, vote};
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use base::Time;
use consensus::{Epoch, MessageKind, Network, PresetName};
use discv5::{ConfigBuilder, Discv5, Enr, ListenConfig};
use enr::{CombinedKey, NodeId};
use libp2p::PeerId;
use libp2p::multiaddr::Protocol;
use sources::discovery::{BootNode, ForkId};
use sources::topic::Topic;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Subnets on which votes are published.
pub(super) const SUBNETS: usize = 4;
/// Nodes of each other subnet that a node dials: at least, and at most. As many dial it.
const DIALLED_OF_OTHER: (u64, u64) = (1, 3);
/// Pause between two searches of a node for others. A node that searched at its start alone would
/// be known to its boot node only, and not even to that one once a bucket of its table is full.
const SEARCH_PAUSE: Duration = Duration::from_secs(10);

/// How the validators are spread over the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StakeOf {
    /// Half of them are on a tenth of the nodes, the others on six tenths, and three tenths have
    /// none.
    Few,
    /// Each node has equally many.
    All,
}

/// A network that runs.
pub(super) struct StakedNetwork {
    pub(super) network: Arc<Network>,
    pub(super) random: SeededRandom,
    pub(super) nodes: Vec<FullNode>,
    /// The node of each validator.
    pub(super) home: Vec<usize>,
    pub(super) record: Arc<NodeRecord>,
    topics: Vec<String>,
    /// What makes the nodes known. It ends with this.
    discovery: Vec<Arc<Discv5>>,
    /// The first epoch of which votes are published.
    first_epoch: Epoch,
}

/// Something that is published at a time.
pub(super) struct Due {
    pub(super) at: Duration,
    pub(super) node: usize,
    pub(super) publish: Publish,
}

impl StakedNetwork {
    /// Starts nodes with `n_validators` validators, in epochs of this duration. `n_messages` is the
    /// greatest number of messages that will be published.
    pub(super) async fn start(
        random: SeededRandom,
        n_nodes: usize,
        epoch: Duration,
        (stake, n_validators): (StakeOf, usize),
        n_messages: usize,
        stop: &CancellationToken,
    ) -> Result<Self, SimError> {
        // The minimal preset has eight slots in an epoch.
        let network = network(PresetName::Minimal, epoch / 8)?;
        let first_epoch = network.slot_at(Time::now().0).epoch(network.preset());
        let topic = |subnet: usize| {
            let kind = MessageKind::Attestation { subnet: subnet as u64 };
            Topic { digest: network.fork_digest_at(first_epoch), kind }.to_string()
        };
        let topics: Vec<String> = (0..SUBNETS).map(topic).collect();
        let record = Arc::new(NodeRecord::without_seconds(n_messages));
        let home = homes(&random, n_nodes, stake, n_validators);
        let (nodes, discovery) = (Vec::new(), Vec::new());
        let mut started = Self { network, random, nodes, home, record, topics, discovery, first_epoch };
        for number in 0..n_nodes {
            let plan = NodePlan { subscribed: vec![number % SUBNETS], ..started.plan_of(number) };
            started.nodes.push(FullNode::start(plan, stop.clone()).await?);
        }
        started.connect().await;
        Ok(started)
    }

    /// A node that is subscribed to nothing.
    pub(super) fn plan_of(&self, number: usize) -> NodePlan {
        NodePlan {
            number,
            secret: self.secret(number),
            client: ClientKind::of_node(&self.random, number),
            subnets: self.topics.clone(),
            subscribed: Vec::new(),
            blocks: None,
            random: self.random,
            record: self.record.clone(),
            copies: None,
        }
    }

    fn secret(&self, number: usize) -> [u8; 32] {
        self.random.hash("node key", &[number as u64])
    }

    async fn connect(&self) {
        let n = self.nodes.len();
        for (number, node) in self.nodes.iter().enumerate() {
            let mut dialled = BTreeSet::new();
            for subnet in 0..SUBNETS {
                let mut others: Vec<usize> = (subnet..n).step_by(SUBNETS).filter(|other| *other != number).collect();
                others.sort_by_cached_key(|other| self.random.hash("dials", &[number as u64, *other as u64]));
                let (least, most) = DIALLED_OF_OTHER;
                let about = [number as u64, subnet as u64];
                let of_other = least + self.random.below(most - least + 1, "number of dials", &about);
                dialled.extend(others.into_iter().take(if number % SUBNETS == subnet { DIALLED } else { of_other as usize }));
            }
            for other in dialled {
                // The queue has room for all that a node dials.
                let _ = node.dial.send(self.nodes[other].address.clone()).await;
            }
        }
    }

    /// Makes the nodes known by discv5. The first of them is the boot node, which the others and
    /// the listener know from the start.
    pub(super) async fn announce(&mut self) -> Result<BootNode, SimError> {
        let mut boot: Option<Enr> = None;
        for number in 0..self.nodes.len() {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| SimError::Node { node: number, source };
            let mut node = self.discovery_of(number).await.map_err(failed)?;
            node.start().await.map_err(|error| failed(format!("{error:?}").into()))?;
            match &boot {
                None => boot = Some(node.local_enr()),
                Some(boot) => {
                    node.add_enr(boot.clone()).map_err(|reason| failed(reason.into()))?;
                }
            }
            let node = Arc::new(node);
            tokio::spawn(search_while_held(Arc::downgrade(&node)));
            self.discovery.push(node);
        }
        let boot = boot.map(|record| record.to_base64().parse());
        boot.and_then(Result::ok).ok_or(SimError::BrokenOff)
    }

    async fn discovery_of(&self, number: usize) -> Result<Discv5, Box<dyn std::error::Error + Send + Sync>> {
        let key = CombinedKey::secp256k1_from_bytes(&mut self.secret(number))?;
        let (mut ip, mut tcp) = (Ipv4Addr::LOCALHOST, 0);
        for part in &self.nodes[number].address {
            match part {
                Protocol::Ip4(found) => ip = found,
                Protocol::Tcp(found) => tcp = found,
                _ => {}
            }
        }
        let socket = tokio::net::UdpSocket::bind((ip, 0)).await?;
        let mut record = Enr::builder().ip4(ip).udp4(socket.local_addr()?.port()).tcp4(tcp).build(&key)?;
        record.insert("eth2", &ForkId::at(&self.network, self.first_epoch).to_ssz(), &key)?;
        record.insert("attnets", &(1u64 << (number % SUBNETS)).to_le_bytes(), &key)?;
        let sockets = ListenConfig::FromSockets { ipv4: Some(Arc::new(socket)), ipv6: None };
        let mut options = ConfigBuilder::new(sockets);
        options.disable_enr_update();
        Ok(Discv5::new(record, key, options.build())?)
    }

    /// The votes of all validators in so many epochs, in order. The position of each is the number
    /// of its message.
    pub(super) fn votes(&self, n_epochs: u64, epoch: Duration) -> Result<Vec<Due>, SimError> {
        let mut due = Vec::new();
        for nth in 0..n_epochs {
            let mut order: Vec<usize> = (0..self.home.len()).collect();
            order.sort_by_cached_key(|validator| self.random.hash("turn", &[nth, *validator as u64]));
            for (position, validator) in order.into_iter().enumerate() {
                let at = epoch.mul_f64(nth as f64 + position as f64 / self.home.len() as f64);
                let publish = self.vote(validator as u64, 0, nth, due.len())?;
                due.push(Due { at, node: self.home[validator], publish });
            }
        }
        Ok(due)
    }

    /// A vote of the epoch after so many. `which` tells contradicting votes apart.
    pub(super) fn vote(&self, validator: u64, which: u64, nth_epoch: u64, message: usize) -> Result<Publish, SimError> {
        let subnet = self.random.below(SUBNETS as u64, "subnet", &[nth_epoch, validator]) as usize;
        let head = self.random.hash("head", &[nth_epoch, validator, which]);
        let slot = self.epoch(nth_epoch).start_slot(self.network.preset());
        Ok(Publish { trial: message, topic: Where::Subnet(subnet), payload: vote(validator, head, slot, &self.network)? })
    }

    pub(super) fn epoch(&self, nth: u64) -> Epoch {
        self.first_epoch.saturating_add(nth)
    }

    /// The node of a peer.
    pub(super) fn node_of(&self, peer: &[u8]) -> Option<usize> {
        let peer = PeerId::from_bytes(peer).ok()?;
        self.nodes.iter().position(|node| node.peer_id == peer)
    }

    /// The part of the validators whose nodes are among these peers.
    pub(super) fn stake_of<'a>(&self, peers: impl IntoIterator<Item = &'a Arc<[u8]>>) -> f64 {
        let nodes: BTreeSet<usize> = peers.into_iter().filter_map(|peer| self.node_of(peer)).collect();
        self.home.iter().filter(|node| nodes.contains(node)).count() as f64 / self.home.len().max(1) as f64
    }
}

/// The node of each validator.
fn homes(random: &SeededRandom, n_nodes: usize, stake: StakeOf, n_validators: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n_nodes).collect();
    order.sort_by_cached_key(|node| random.hash("stake", &[*node as u64]));
    let n_large = n_nodes.div_ceil(10);
    let n_without = n_nodes * 3 / 10;
    let n_small = n_nodes - n_large - n_without;
    (0..n_validators)
        .map(|validator| match stake {
            StakeOf::All => order[validator % n_nodes],
            StakeOf::Few if validator.is_multiple_of(2) => order[validator / 2 % n_large],
            StakeOf::Few => order[n_large + validator / 2 % n_small],
        })
        .collect()
}

/// Looks for random places in the network, as all clients do, until the node is dropped.
async fn search_while_held(node: Weak<Discv5>) {
    while let Some(search) = node.upgrade().map(|node| node.find_node(NodeId::random())) {
        // A search that fails finds nobody.
        let _ = search.await;
        tokio::time::sleep(SEARCH_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_stake_is_on_a_tenth_of_the_nodes_and_some_have_none() {
        let home = homes(&SeededRandom::new(4), 100, StakeOf::Few, 240);
        let mut of_node = vec![0; 100];
        home.iter().for_each(|node| of_node[*node] += 1);
        of_node.sort_unstable();
        assert_eq!((of_node[29], of_node[30], of_node[89], of_node[90], of_node[99]), (0, 2, 2, 12, 12));
        let mut all = homes(&SeededRandom::new(4), 100, StakeOf::All, 300);
        all.sort_unstable();
        assert!(all.chunks(3).enumerate().all(|(node, of)| of == [node; 3]));
    }
}
