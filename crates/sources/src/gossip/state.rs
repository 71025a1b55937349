//! What the connections of this node look like as a whole, for status pages and metrics.

use super::fork_poll::AnnouncedFork;
use crate::discovery::DiscoveryState;
use serde::Serialize;
use std::collections::BTreeMap;
use verify::Time;

/// The state of the node's connections. It is about one second old at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConnectionState {
    /// Connected peers that dialled us, without configured ones.
    pub n_inbound: usize,
    /// Connected peers that we dialled, without configured ones.
    pub n_outbound: usize,
    /// Connections that peers have opened to us from outside since the start, without configured
    /// peers. From outside means from a public address, or from any where private ones are allowed.
    /// While this is 0, a firewall or router may keep everybody away.
    pub n_reached: u64,
    /// When the last of them was opened.
    pub last_reached: Option<Time>,
    /// Our peer id.
    pub peer_id: String,
    /// Multiaddrs at which this node listens, without the peer id.
    pub listen: Vec<String>,
    /// What discovery is doing. None if it is switched off, or has ended by itself and is started
    /// again in a minute.
    pub discovery: Option<DiscoveryState>,
    /// The topics of the current fork that this node is subscribed to, with their peers. A topic
    /// without peers is silent.
    pub topics: Vec<TopicPeers>,
    /// A fork that most nodes name and that is not in our schedule.
    pub announced_fork: Option<AnnouncedFork>,
    /// Records of nodes that discovery did not keep, by reason.
    pub refused_records: BTreeMap<&'static str, u64>,
    /// Connections that were refused, by reason.
    pub refused_connections: BTreeMap<&'static str, u64>,
}

/// The peers of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicPeers {
    /// The topic's name without digest and encoding, such as `beacon_attestation_7`.
    pub name: String,
    /// Connected peers that are subscribed to it.
    pub n_peers: usize,
    /// Those of them that send every message of it to us.
    pub n_mesh: usize,
}
