//! Publishes a load from its capture file on loopback. Publishers send every honest message each.
//! Forgers and vandals have nodes of their own.
//!
//! ```text
//! capture -> reader thread -> one bounded channel for each node -> at each message's time: publish
//! ```
//!
//! Forged votes and junk come from separate nodes, because watchers ignore peers that send invalid
//! messages, and honest publishers must not be affected. Messages on topics without subscribers
//! reach nobody and are counted.
//!
//! Instead of the publishers there may be many light peers (`crowd.rs`), which send what a network
//! of nodes would have them send.

use super::crowd::{Beginning, Crowd, CrowdOptions, CrowdReport};
use crate::error::SimError;
use crate::honest::HonestNodes;
use crate::node::{self, Node};
use base::Time;
use consensus::{Network, Spec};
use sources::capture::{CaptureFile, Entry};
use sources::gossip::{GossipControl, PublishError, StatusView};
use sources::topic::Topic;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Messages that are read before they are due, for each node.
const READ_AHEAD: usize = 4096;
/// Greatest number of messages that are given to a node at the same time.
const TOGETHER: usize = 64;
/// How long to wait for a node that accepts no more messages.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two attempts to give a message to such a node.
const RETRY: Duration = Duration::from_millis(5);
/// Greatest number of nodes that forge. More forgers share these nodes.
const MAX_FORGER_NODES: u64 = 16;

/// Options of [`publish_load`].
#[derive(Clone, Debug)]
pub struct PublishOptions {
    pub capture: PathBuf,
    /// The genesis time in seconds since the Unix epoch. It replaces the one in the capture.
    pub genesis_time: u64,
    /// Number of nodes that each send every honest message.
    pub publishers: usize,
    /// Light peers that take the place of the publishers.
    pub crowd: Option<CrowdOptions>,
    /// How long the first message waits until each node has a listener.
    pub patience: Duration,
}

/// The result of publishing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Published {
    /// What the light peers did. The other fields are about the other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crowd: Option<CrowdReport>,
    /// Messages that reached at least one listener, counted for each node.
    pub heard: u64,
    /// Messages that reached nobody: nobody subscribes to their topic, they were known already, or
    /// their node is ignored.
    pub unheard: u64,
    /// Messages that were lost because a send queue was full, or our own queue was full for too
    /// long. The machine or the listener is too slow, and the result of the run is not usable.
    pub gave_up: u64,
    /// The greatest delay of a message, in milliseconds.
    pub greatest_delay_ms: u64,
}

impl std::ops::AddAssign for Published {
    fn add_assign(&mut self, other: Self) {
        self.heard += other.heard;
        self.unheard += other.unheard;
        self.gave_up += other.gave_up;
        self.greatest_delay_ms = self.greatest_delay_ms.max(other.greatest_delay_ms);
    }
}

/// One message for one node.
struct ScheduledMessage {
    at_unix_ns: u64,
    topic: Topic,
    payload: Arc<[u8]>,
}

/// Publishes a load. `ready` is called with the addresses of the nodes when all of them listen.
///
/// # Errors
/// The capture cannot be read, or loopback sockets are not available.
pub async fn publish_load(options: PublishOptions, ready: impl FnOnce(&[String])) -> Result<Published, SimError> {
    let capture = options.capture.clone();
    let Survey { network, invalid_senders } = tokio::task::spawn_blocking(move || survey(&capture))
        .await
        .map_err(|error| SimError::Thread(std::io::Error::other(error)))??;
    let genesis_of_capture = network.genesis_time;
    let network = Arc::new(Network { genesis_time: options.genesis_time, ..network });
    let (status, status_seen) = watch::channel(StatusView::default());
    // Dropping the guard, at the end or on an early return, stops the nodes.
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let mut nodes: Vec<Node> = Vec::new();
    let publishers = if options.crowd.is_some() { 0 } else { options.publishers };
    let n_liars = invalid_senders.values().max().map_or(0, |last| last + 1);
    for number in 0..publishers + n_liars {
        let secret = consensus::sha256(format!("load node {number}").as_bytes());
        let who = (number, secret, format!("slashwatch-load/{number}"));
        nodes.push(Node::start(who, network.clone(), status_seen.clone(), HonestNodes::default(), stop.clone()).await?);
    }
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    ready(&addresses);
    let controls = nodes.iter().map(|node| &node.control);
    if tokio::time::timeout(options.patience, node::somebody_listens(controls)).await.is_err() {
        tracing::warn!("nobody listens to some of the publishers, going on");
    }
    let (mut queues, mut tasks) = (Vec::new(), Vec::new());
    for node in &nodes {
        let (queue, due) = mpsc::channel(READ_AHEAD);
        queues.push(queue);
        tasks.push(tokio::spawn(send(node.control.clone(), due)));
    }
    let (mut begin, mut crowd) = (None, None);
    if let Some(wanted) = options.crowd {
        let gathered = Crowd::gather(wanted, &network, options.patience, &stop).await?;
        let (queue, due) = mpsc::channel(READ_AHEAD);
        begin = Some(queue);
        crowd = Some(tokio::spawn(gathered.play(due)));
    }
    let senders = Senders { publishers, invalid_senders, queues, begin };
    let shift = (options.genesis_time as i128 - genesis_of_capture as i128) * 1_000_000_000;
    let reader = move || pass_messages(&options.capture, shift, &senders);
    let reader = std::thread::Builder::new().name("load-reader".to_owned()).spawn(reader).map_err(SimError::Thread)?;
    let mut published = Published::default();
    for task in tasks {
        published += task.await.unwrap_or_default();
    }
    if let Some(crowd) = crowd {
        published.crowd = Some(crowd.await.map_err(|_| SimError::BrokenOff)?);
    }
    reader.join().map_err(|_| SimError::BrokenOff)??;
    drop(status);
    Ok(published)
}

fn unreadable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SimError {
    SimError::Unreadable { path: path.to_owned(), source: error.into() }
}

/// What must be known about a capture before it is played.
struct Survey {
    network: Network,
    /// The node of each sender of invalid messages.
    invalid_senders: BTreeMap<Vec<u8>, usize>,
}

fn survey(path: &Path) -> Result<Survey, SimError> {
    let file = CaptureFile::open(path).map_err(|error| unreadable(path, error))?;
    let config = file.first_config().map_err(|error| unreadable(path, error))?;
    let spec = Spec::from_yaml(&config.unwrap_or_default()).map_err(SimError::Config)?;
    let state = file.first_state().map_err(|error| unreadable(path, error))?.unwrap_or_default();
    // `genesis_time` and `genesis_validators_root` are the first fields of every `BeaconState`.
    let head: [u8; 40] = state.get(..40).and_then(|head| head.try_into().ok()).unwrap_or([0; 40]);
    let genesis_time = u64::from_le_bytes(head[..8].try_into().expect("eight of forty"));
    let genesis_validators_root = consensus::Root::from_slice(&head[8..]);
    drop(state);
    let mut invalid_senders: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut nodes: BTreeMap<(bool, u64), usize> = BTreeMap::new();
    for entry in file.entries().map_err(|error| unreadable(path, error))? {
        let Ok(Entry::Gossip(gossip)) = entry.map(|located| located.entry) else { continue };
        let name = String::from_utf8_lossy(&gossip.peer).into_owned();
        let Some((kind, number)) = name.rsplit_once('-') else { continue };
        if kind == "publisher" || invalid_senders.contains_key(&gossip.peer) {
            continue;
        }
        let number = number.parse::<u64>().unwrap_or(0) % MAX_FORGER_NODES;
        let next = nodes.len();
        let node = *nodes.entry((kind == "forger", number)).or_insert(next);
        invalid_senders.insert(gossip.peer, node);
    }
    Ok(Survey { network: Network { spec, genesis_time, genesis_validators_root }, invalid_senders })
}

/// Who sends what.
struct Senders {
    /// The first of the nodes. Each sends all honest messages.
    publishers: usize,
    /// The node of each sender of invalid messages, counted after the publishers.
    invalid_senders: BTreeMap<Vec<u8>, usize>,
    /// One of each node.
    queues: Vec<mpsc::Sender<ScheduledMessage>>,
    /// That of the light peers.
    begin: Option<mpsc::Sender<Beginning>>,
}

/// Reads the capture and passes each message to the nodes that are to send it.
fn pass_messages(path: &Path, shift: i128, senders: &Senders) -> Result<(), SimError> {
    let Senders { publishers, invalid_senders, queues, begin } = senders;
    let file = CaptureFile::open(path).map_err(|error| unreadable(path, error))?;
    for entry in file.entries().map_err(|error| unreadable(path, error))? {
        let Entry::Gossip(gossip) = entry.map_err(|error| unreadable(path, error))?.entry else { continue };
        // A message on a topic that this program does not know cannot be sent by it.
        let Ok(topic) = Topic::parse(&gossip.topic) else { continue };
        let payload: Arc<[u8]> = Arc::from(gossip.payload);
        let at_unix_ns = u64::try_from(i128::from(gossip.received_at.0) + shift).unwrap_or(0);
        let is_first_copy = gossip.peer == b"publisher-0";
        if let Some(begin) = begin.as_ref().filter(|_| is_first_copy)
            && begin.blocking_send(Beginning { at_unix_ns, topic, payload: payload.clone() }).is_err()
        {
            return Ok(());
        }
        let to: Vec<usize> = match invalid_senders.get(&gossip.peer) {
            Some(node) => vec![*publishers + node],
            // Other publishers' copies are left out, because every publisher sends all messages
            // itself.
            None if is_first_copy => (0..*publishers).collect(),
            None => Vec::new(),
        };
        for node in to {
            let due = ScheduledMessage { at_unix_ns, topic, payload: payload.clone() };
            if queues[node].blocking_send(due).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Publishes messages in order when they are due, several at the same time.
async fn send(control: GossipControl, mut due: mpsc::Receiver<ScheduledMessage>) -> Published {
    let mut published = Published::default();
    let mut waiting = Vec::with_capacity(TOGETHER);
    while due.recv_many(&mut waiting, TOGETHER).await > 0 {
        let mut sending = tokio::task::JoinSet::new();
        for message in waiting.drain(..) {
            let now = Time::now().0;
            if message.at_unix_ns > now {
                // The messages before it are being sent already.
                tokio::time::sleep(Duration::from_nanos(message.at_unix_ns - now)).await;
            }
            let control = control.clone();
            sending.spawn(async move { publish(&control, &message).await });
        }
        while let Some(one) = sending.join_next().await {
            published += one.unwrap_or_default();
        }
    }
    published
}

async fn publish(control: &GossipControl, message: &ScheduledMessage) -> Published {
    let late = Time::now().since(Time(message.at_unix_ns));
    let mut published = Published { greatest_delay_ms: late.as_millis() as u64, ..Published::default() };
    let mut waited = Duration::ZERO;
    loop {
        match control.publish_payload(message.topic, &message.payload).await {
            Ok(()) => published.heard = 1,
            Err(PublishError::Unavailable) if waited < PATIENCE => {
                tokio::time::sleep(RETRY).await;
                waited += RETRY;
                continue;
            }
            Err(PublishError::Unavailable) => published.gave_up = 1,
            // gossipsub counts the message as published from then on, so a second attempt would be
            // refused as a duplicate.
            Err(PublishError::Refused(reason)) if reason.to_lowercase().contains("queue") => published.gave_up = 1,
            Err(PublishError::Refused(_) | PublishError::TooLong(_)) => published.unheard = 1,
        }
        return published;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_cannot_be_read_is_named_as_that() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = dir.path().join("damaged.e2s");
        std::fs::write(&damaged, b"no capture").unwrap();
        for path in [dir.path().join("missing.e2s"), damaged] {
            let Err(error) = survey(&path) else { panic!("{} is read", path.display()) };
            assert!(error.to_string().starts_with(&format!("cannot read the capture {}", path.display())), "{error}");
        }
    }
}
