//! What a crawl has found, as JSON and as a table.

use consensus::{Epoch, ForkDigest, Slot};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Rows of each part of the table. The JSON has all.
const MAX_ROWS: usize = 24;

/// What came of a node. Each node has exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// It told its status, and is on our network.
    Answered,
    /// It told the status of another network or fork, though its record is of ours.
    OtherNetwork,
    /// It said goodbye before it told its status.
    Goodbye,
    /// It was connected and told no status.
    NoStatus,
    Refused,
    TimedOut,
    Unreachable,
    /// Another node answered at its address.
    OtherNode,
    /// The connection failed in another way.
    Failed,
    /// Not visited: its record is of another network or fork.
    OtherNetworkByRecord,
    /// Not visited: its record names no address with a port of TCP or QUIC.
    NoAddress,
    /// Not visited: its record names private addresses only.
    PrivateAddress,
    /// Not visited: enough nodes of its address prefix were.
    PrefixFull,
    /// Not visited, because the crawl ended.
    NotVisited,
}

impl Reached {
    const ALL: [Self; 14] = [
        Self::Answered,
        Self::OtherNetwork,
        Self::Goodbye,
        Self::NoStatus,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::OtherNode,
        Self::Failed,
        Self::OtherNetworkByRecord,
        Self::NoAddress,
        Self::PrivateAddress,
        Self::PrefixFull,
        Self::NotVisited,
    ];

    const fn text(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::OtherNetwork => "answered, on another network or fork",
            Self::Goodbye => "said goodbye at once",
            Self::NoStatus => "connected, told no status",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Unreachable => "no way to its address",
            Self::OtherNode => "another node at its address",
            Self::Failed => "failed otherwise",
            Self::OtherNetworkByRecord => "not visited: another network or fork",
            Self::NoAddress => "not visited: no address",
            Self::PrivateAddress => "not visited: private address",
            Self::PrefixFull => "not visited: enough of its prefix",
            Self::NotVisited => "not visited: no time left",
        }
    }
}

/// How a node is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Ip4Quic,
    Ip4Tcp,
    Ip6Quic,
    Ip6Tcp,
}

impl Transport {
    const ALL: [Self; 4] = [Self::Ip4Quic, Self::Ip4Tcp, Self::Ip6Quic, Self::Ip6Tcp];

    const fn text(self) -> &'static str {
        match self {
            Self::Ip4Quic => "QUIC over IPv4",
            Self::Ip4Tcp => "TCP over IPv4",
            Self::Ip6Quic => "QUIC over IPv6",
            Self::Ip6Tcp => "TCP over IPv6",
        }
    }
}

/// Nodes of one transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TransportRow {
    /// Whose record names it.
    pub advertised: usize,
    pub tried: usize,
    pub connected: usize,
}

/// Nodes of one fork digest, by their records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForkRow {
    pub digest: ForkDigest,
    /// `ours`, `next`, `earlier` or `other`.
    pub fork: &'static str,
    pub nodes: usize,
}

/// Visited nodes of one client and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientRow {
    pub client: &'static str,
    /// As the agent string says it. For an unknown client, all of the agent string.
    pub version: String,
    pub nodes: usize,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrawledNode {
    pub peer: String,
    /// Where it was dialled, in this order.
    pub addresses: Vec<String>,
    /// By its record.
    pub fork_digest: ForkDigest,
    pub next_fork_version: String,
    pub next_fork_epoch: Epoch,
    pub answered_by_udp: bool,
    pub reached: Reached,
    /// How it was connected.
    pub via: Option<Transport>,
    #[serde(skip)]
    pub advertised: Vec<Transport>,
    #[serde(skip)]
    pub tried: Vec<Transport>,
    pub client: Option<&'static str>,
    pub agent: Option<String>,
    pub head_slot: Option<Slot>,
    /// Number of attestation subnets, by its metadata.
    pub attestation_subnets: Option<u32>,
    pub custody_groups: Option<u64>,
    /// The reason of its goodbye.
    pub goodbye: Option<&'static str>,
}

/// What a crawl has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrawlReport {
    pub schema: u32,
    pub network: String,
    pub fork_digest: ForkDigest,
    pub seconds: u64,
    /// Whether the crawl ended because nothing new came.
    pub complete: bool,
    /// Nodes of other protocols, whose records say nothing of a beacon chain.
    pub no_beacon_nodes: usize,
    pub beacon_nodes: usize,
    /// Those of them that have answered us by UDP.
    pub answered_by_udp: usize,
    pub forks: Vec<ForkRow>,
    /// What nodes on our fork announce as the next fork: `version@epoch`, or `none`.
    pub announced: BTreeMap<String, usize>,
    pub reached: BTreeMap<Reached, usize>,
    pub goodbyes: BTreeMap<&'static str, usize>,
    pub transports: BTreeMap<Transport, TransportRow>,
    pub clients: Vec<ClientRow>,
    /// How many nodes are on how many attestation subnets, and have how many custody groups.
    pub attestation_subnets: BTreeMap<u32, usize>,
    pub custody_groups: BTreeMap<u64, usize>,
    pub nodes: Vec<CrawledNode>,
}

impl CrawlReport {
    pub(super) fn new(
        network: &str,
        fork_digest: ForkDigest,
        took: Duration,
        complete: bool,
        no_beacon_nodes: usize,
        forks: Vec<ForkRow>,
        nodes: Vec<CrawledNode>,
    ) -> Self {
        let mut report = Self {
            schema: 1,
            network: network.to_owned(),
            fork_digest,
            seconds: took.as_secs(),
            complete,
            no_beacon_nodes,
            beacon_nodes: nodes.len(),
            answered_by_udp: nodes.iter().filter(|node| node.answered_by_udp).count(),
            forks,
            announced: BTreeMap::new(),
            reached: Reached::ALL.into_iter().map(|reached| (reached, 0)).collect(),
            goodbyes: BTreeMap::new(),
            transports: Transport::ALL.into_iter().map(|transport| (transport, TransportRow::default())).collect(),
            clients: Vec::new(),
            attestation_subnets: BTreeMap::new(),
            custody_groups: BTreeMap::new(),
            nodes,
        };
        let mut clients: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
        for node in &report.nodes {
            *report.reached.entry(node.reached).or_default() += 1;
            if node.fork_digest == fork_digest {
                let next = match node.next_fork_epoch {
                    Epoch::FAR_FUTURE => "none".to_owned(),
                    epoch => format!("{}@{epoch}", node.next_fork_version),
                };
                *report.announced.entry(next).or_default() += 1;
            }
            let mut count = |transports: &[Transport], add: fn(&mut TransportRow)| {
                transports.iter().for_each(|transport| add(report.transports.entry(*transport).or_default()));
            };
            count(&node.advertised, |row| row.advertised += 1);
            count(&node.tried, |row| row.tried += 1);
            count(node.via.as_slice(), |row| row.connected += 1);
            if let Some(goodbye) = node.goodbye {
                *report.goodbyes.entry(goodbye).or_default() += 1;
            }
            if let (Some(client), Some(agent)) = (node.client, &node.agent) {
                *clients.entry((client, version(client, agent))).or_default() += 1;
            }
            if let Some(subnets) = node.attestation_subnets {
                *report.attestation_subnets.entry(subnets).or_default() += 1;
            }
            if let Some(groups) = node.custody_groups {
                *report.custody_groups.entry(groups).or_default() += 1;
            }
        }
        let rows = clients.into_iter().map(|((client, version), nodes)| ClientRow { client, version, nodes });
        report.clients = rows.collect();
        report.clients.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| (a.client, &a.version).cmp(&(b.client, &b.version))));
        report
    }
}

/// The version in an agent string: the first part that begins like one. An unknown client has all
/// of its agent string.
fn version(client: &str, agent: &str) -> String {
    if client == "other" {
        return agent.to_owned();
    }
    let is_version = |part: &&str| part.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    agent.split('/').skip(1).find(is_version).unwrap_or("").to_owned()
}

/// The table for people.
impl fmt::Display for CrawlReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, fork digest 0x{}", self.network, self.fork_digest)?;
        let counts = [
            (self.beacon_nodes, "beacon nodes by their records".to_owned()),
            (self.answered_by_udp, "of them answered by UDP".to_owned()),
            (self.no_beacon_nodes, "other nodes".to_owned()),
        ];
        rows(f, counts)?;
        if !self.complete {
            writeln!(f, "\nThe crawl ended before everything was seen.")?;
        }
        writeln!(f, "\nFork digests")?;
        rows(f, self.forks.iter().map(|fork| (fork.nodes, format!("0x{}  {}", fork.digest, fork.fork))))?;
        writeln!(f, "\nNext fork, as nodes on our fork announce it")?;
        rows(f, by_number(&self.announced).into_iter().map(|(next, nodes)| (nodes, next.clone())))?;
        writeln!(f, "\nReached")?;
        let reached = self.reached.iter().filter(|(_, nodes)| **nodes > 0);
        rows(f, reached.map(|(reached, nodes)| (*nodes, reached.text().to_owned())))?;
        if !self.goodbyes.is_empty() {
            writeln!(f, "\nGoodbyes")?;
            rows(f, self.goodbyes.iter().map(|(reason, nodes)| (*nodes, reason.replace('_', " "))))?;
        }
        writeln!(f, "\nTransport        advertised   tried  connected")?;
        for (transport, TransportRow { advertised, tried, connected }) in &self.transports {
            writeln!(f, "{:<15}  {advertised:>10}  {tried:>6}  {connected:>9}", transport.text())?;
        }
        writeln!(f, "\nClients")?;
        let client = |row: &ClientRow| format!("{} {}", row.client, row.version).trim_end().to_owned();
        rows(f, self.clients.iter().map(|row| (row.nodes, client(row))))?;
        writeln!(f, "\nAttestation subnets")?;
        rows(f, by_number(&self.attestation_subnets).into_iter().map(|(subnets, nodes)| (nodes, format!("on {subnets}"))))?;
        writeln!(f, "\nCustody groups")?;
        rows(f, by_number(&self.custody_groups).into_iter().map(|(groups, nodes)| (nodes, format!("with {groups}"))))
    }
}

/// The largest number first. What strangers invent stands alone, and so at the end.
fn by_number<K: Ord>(counts: &BTreeMap<K, usize>) -> Vec<(&K, usize)> {
    let mut counts: Vec<(&K, usize)> = counts.iter().map(|(key, nodes)| (key, *nodes)).collect();
    counts.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    counts
}

/// Writes the first rows, and one for all others together.
fn rows(f: &mut fmt::Formatter<'_>, rows: impl IntoIterator<Item = (usize, String)>) -> fmt::Result {
    let mut rows = rows.into_iter();
    for (nodes, what) in rows.by_ref().take(MAX_ROWS) {
        writeln!(f, "{nodes:>7}  {what}")?;
    }
    let more: usize = rows.map(|(nodes, _)| nodes).sum();
    if more > 0 {
        writeln!(f, "{more:>7}  further ones")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_each_client_writes_them() {
        let agents = [
            ("lighthouse", "Lighthouse/v8.1.2-1a68631/x86_64-linux", "v8.1.2-1a68631"),
            ("teku", "teku/teku/v26.8.0/linux-x86_64/-eclipse", "v26.8.0"),
            ("prysm", "Prysm/v7.1.6/c40b59a", "v7.1.6"),
            ("grandine", "Grandine/2.0.4", "2.0.4"),
            ("nimbus", "nimbus", ""),
            ("other", "rust-libp2p/0.4", "rust-libp2p/0.4"),
        ];
        for (client, agent, wanted) in agents {
            assert_eq!(version(client, agent), wanted, "{agent}");
        }
    }

    /// However much strangers invent, the table has few rows, and what is common comes first.
    #[test]
    fn tables_are_bounded() {
        struct Table(BTreeMap<u64, usize>);
        impl fmt::Display for Table {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                rows(f, by_number(&self.0).into_iter().map(|(groups, nodes)| (nodes, groups.to_string())))
            }
        }
        let mut counts: BTreeMap<u64, usize> = (1000..2000).map(|invented| (invented, 1)).collect();
        counts.insert(7_000, 50);
        let table = Table(counts).to_string();
        assert_eq!(table.lines().count(), MAX_ROWS + 1);
        assert!(table.starts_with("     50  7000\n") && table.ends_with("    977  further ones\n"), "{table}");
    }
}
