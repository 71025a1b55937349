//! How an honest node of a simulated network treats what it receives, and what it does to those who
//! send it.

use sources::gossip::{GossipHandle, PeerEventKind, Verdict};
use sources::source::{ReceivedAs, SourceEvent};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// What honest nodes share: the payloads that are not genuine, and counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct HonestNodes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Hashes of payloads that hostile peers have made. An honest node rejects them, as if it had
    /// checked their signatures.
    forged: Mutex<HashSet<[u8; 32]>>,
    rejected: AtomicU64,
    left: AtomicU64,
    sent_away: AtomicU64,
}

/// What has happened to all honest nodes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HonestCounts {
    /// Forged messages that a peer has passed on to them.
    pub rejected: u64,
    /// Goodbyes that they have sent while they were running.
    pub left: u64,
    /// Goodbyes that they have received.
    pub sent_away: u64,
}

impl HonestNodes {
    /// Notes a payload that is not genuine, before it is sent.
    pub(crate) fn forge(&self, payload: &[u8]) {
        self.forged().insert(consensus::sha256(payload));
    }

    pub(crate) fn counts(&self) -> HonestCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HonestCounts { rejected: read(&self.0.rejected), left: read(&self.0.left), sent_away: read(&self.0.sent_away) }
    }

    fn forged(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.0.forged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all events of a node until it is stopped, and rejects what is forged. A message
    /// without a verdict is not forwarded.
    pub(crate) async fn run(self, mut handle: GossipHandle, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => break,
                event = handle.events.recv() => event,
            };
            let Some(event) = event else { break };
            match event {
                SourceEvent::Message(message) => {
                    let ReceivedAs::Gossip { payload, .. } = &message.received_as else { continue };
                    if let Some(ticket) = message.raw.ticket
                        && self.forged().contains(&consensus::sha256(payload))
                    {
                        self.0.rejected.fetch_add(1, Ordering::Relaxed);
                        handle.report(ticket, Verdict::Reject);
                    }
                }
                SourceEvent::Peer(event) => match event.what {
                    PeerEventKind::Goodbye { sent: true, .. } => drop(self.0.left.fetch_add(1, Ordering::Relaxed)),
                    PeerEventKind::Goodbye { sent: false, .. } => drop(self.0.sent_away.fetch_add(1, Ordering::Relaxed)),
                    PeerEventKind::Connected { .. }
                    | PeerEventKind::Disconnected { .. }
                    | PeerEventKind::Agent { .. }
                    | PeerEventKind::Status { .. }
                    | PeerEventKind::Metadata { .. } => {}
                },
                SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => {}
            }
        }
        handle.shutdown().await;
    }
}
