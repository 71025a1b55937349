//! What all live sources have in common: a name, one bounded queue of events, and an end.
//!
//! Capture and ERA files are no [`Source`]: a replay reads them as fast as the engine takes them,
//! and they also hold configurations and states.

use crate::capture::{ApiEventEntry, Entry, GossipEntry};
use crate::gossip::PeerEvent;
use crate::limits;
use crate::queue::QueueReceiver;
use crate::topic::Topic;
use consensus::{ForkDigests, MessageKind};
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use verify::RawMessage;

/// A running source. It ends when it is dropped.
pub trait Source: Send {
    /// Its name for the log.
    fn name(&self) -> &'static str;

    /// The events that it has received. The queue ends when the source has ended by itself.
    fn events(&mut self) -> &mut QueueReceiver<SourceEvent>;

    /// Ends it in good order. Events that still wait are dropped.
    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What a source reports.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    Message(Box<SourceMessage>),
    Peer(PeerEvent),
    /// An address at which this program can be reached, with the actual port and the peer id.
    ListeningOn(Multiaddr),
    /// The connection to a server of messages was opened or has ended.
    Connection {
        node: String,
        up: bool,
        problem: Option<String>,
    },
}

/// A message for the verifier, and how it was received, for a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMessage {
    pub raw: RawMessage,
    pub received_as: ReceivedAs,
}

/// The form in which a message was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceivedAs {
    Gossip {
        topic: Topic,
        /// Snappy block, as received.
        payload: Vec<u8>,
    },
    ApiEvent(ApiEventEntry),
    /// The bytes of the message itself.
    Ssz,
}

impl SourceMessage {
    /// Returns the message as an entry of a capture. A block that was received as SSZ is an entry
    /// without a time of arrival. Another message that was received as SSZ is written as if it had
    /// come by gossip. `None` if it has no topic, or a fork that the network does not know.
    pub fn capture_entry(&self, digests: &ForkDigests) -> Option<Entry> {
        let raw = &self.raw;
        let (topic, payload) = match &self.received_as {
            ReceivedAs::ApiEvent(entry) => return Some(Entry::ApiEvent(entry.clone())),
            ReceivedAs::Ssz if raw.kind == MessageKind::Block => return Some(Entry::Block(raw.bytes.clone())),
            ReceivedAs::Gossip { topic, payload } => (*topic, payload.clone()),
            ReceivedAs::Ssz => {
                raw.kind.topic_name()?;
                (Topic { digest: digests.digest_of(raw.origin.fork?)?, kind: raw.kind }, limits::pack(&raw.bytes)?)
            }
        };
        let peer = raw.origin.peer.as_ref().map(|peer| peer.to_vec()).unwrap_or_default();
        Some(Entry::Gossip(GossipEntry { received_at: raw.received_at, peer, topic: topic.to_string(), payload }))
    }
}
