//! Walks through the discv5 network once: asks for nodes near random targets until nothing new
//! comes, and hands on every record of it. Nothing is kept, and our own record names no address.

use super::{DiscoveryConfig, DiscoveryError, QUERY_TIMEOUT, Sockets, options};
use consensus::Network;
use discv5::{Discv5, Enr, Event};
use enr::{CombinedKey, NodeId};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Queries at a time. Each asks five nodes at a time.
const QUERIES: usize = 3;
/// Queries in a row without a new node after which all of the network has been seen.
const QUIET_QUERIES: usize = 12;
/// Records that may wait for the reader. The walk waits for it.
const WALKED_QUEUE: usize = 256;

/// A record that the walk came across.
pub(crate) struct WalkedRecord {
    pub record: Enr,
    /// The address from which its node has answered us, if it has.
    pub answered_from: Option<IpAddr>,
}

/// A walk under way. It ends when this is dropped.
pub(crate) struct Walk {
    /// Closed at the end of the walk. A record comes again when it is newer, or when its node
    /// answers.
    pub records: mpsc::Receiver<WalkedRecord>,
    is_cut: Arc<AtomicBool>,
    _stop: DropGuard,
}

impl Walk {
    /// Whether there were more nodes than it may hand on.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Begins in a task on the current tokio runtime. It ends after `max_nodes` nodes at the
    /// latest.
    pub(crate) async fn start(
        config: &DiscoveryConfig,
        secret: [u8; 32],
        network: &Network,
        now: consensus::Epoch,
        max_nodes: usize,
    ) -> Result<Self, DiscoveryError> {
        let setup = |reason: String| DiscoveryError::Setup(reason);
        let key = || CombinedKey::secp256k1_from_bytes(&mut secret.clone()).map_err(|_| setup("the node key".to_owned()));
        let any: [SocketAddr; 2] = [(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
        // A machine without IPv6 walks over IPv4 alone.
        let sockets = Sockets::bind(&any).or_else(|_| Sockets::bind(&any[..1]))?;
        // Our record says which network we are on, and nothing else that is not true.
        let mut record = Enr::builder().build(&key()?).map_err(|error| setup(error.to_string()))?;
        let fork_id = super::ForkId::at(network, now);
        record.insert("eth2", &fork_id.to_ssz(), &key()?).map_err(|error| setup(error.to_string()))?;
        let mut options = options(config, sockets.listen_config()?);
        options.enr_update = false;
        let mut protocol = Discv5::new(record, key()?, options).map_err(|reason| setup(reason.to_owned()))?;
        for node in &config.boot_nodes {
            if let Err(reason) = protocol.add_enr(node.0.clone()) {
                tracing::debug!(reason, record = %node.0, "a boot node is not used");
            }
        }
        protocol.start().await.map_err(|error| setup(format!("{error:?}")))?;
        let events = protocol.event_stream().await.map_err(|error| setup(format!("{error:?}")))?;
        let (records_in, records) = mpsc::channel(WALKED_QUEUE);
        let stop = CancellationToken::new();
        let boot_nodes = config.boot_nodes.iter().map(|node| node.0.clone()).collect();
        let is_cut = Arc::new(AtomicBool::new(false));
        let task =
            Task { protocol: Arc::new(protocol), records: records_in, known: HashMap::new(), max_nodes, is_cut: is_cut.clone() };
        let until = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task.run(events, boot_nodes) => {}
                () = until.cancelled() => {}
            }
        });
        Ok(Self { records, is_cut, _stop: stop.drop_guard() })
    }
}

struct Task {
    protocol: Arc<Discv5>,
    records: mpsc::Sender<WalkedRecord>,
    /// The highest sequence number of each node, and whether it has answered.
    known: HashMap<NodeId, (u64, bool)>,
    max_nodes: usize,
    is_cut: Arc<AtomicBool>,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, boot_nodes: Vec<Enr>) {
        for record in boot_nodes {
            self.hand_on(record, None).await;
        }
        let mut queries = JoinSet::new();
        let (mut n_quiet, mut n_before) = (0, self.known.len());
        while n_quiet < QUIET_QUERIES && !self.is_cut.load(Ordering::Relaxed) {
            while queries.len() < QUERIES {
                queries.spawn(tokio::time::timeout(2 * QUERY_TIMEOUT, self.protocol.find_node(NodeId::random())));
            }
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Discovered(record)) => self.hand_on(record, None).await,
                    Some(Event::SessionEstablished(record, address)) => {
                        self.hand_on(record, Some(address.ip().to_canonical())).await;
                    }
                    Some(_) => {}
                    None => return,
                },
                found = queries.join_next() => {
                    if let Some(Ok(Ok(Ok(records)))) = found {
                        for record in records {
                            self.hand_on(record, None).await;
                        }
                    }
                    n_quiet = if self.known.len() == n_before { n_quiet + 1 } else { 0 };
                    n_before = self.known.len();
                }
            }
            if self.records.is_closed() {
                return;
            }
        }
    }

    /// Hands on what is new of a record.
    async fn hand_on(&mut self, record: Enr, answered_from: Option<IpAddr>) {
        let (known_seq, has_answered) = match self.known.get(&record.node_id()) {
            Some((seq, has_answered)) => (Some(*seq), *has_answered),
            None if self.known.len() >= self.max_nodes => return self.is_cut.store(true, Ordering::Relaxed),
            None => (None, false),
        };
        let is_newer = known_seq.is_none_or(|seq| seq < record.seq());
        if !is_newer && (has_answered || answered_from.is_none()) {
            return;
        }
        let seq = known_seq.map_or(record.seq(), |seq| seq.max(record.seq()));
        self.known.insert(record.node_id(), (seq, has_answered || answered_from.is_some()));
        // The reader may have enough.
        let _ = self.records.send(WalkedRecord { record, answered_from }).await;
    }
}
