//! Converts events about peers into input for the detectors. The events come from a capture or from
//! running gossip.

use consensus::Slot;
use detect::{PeerFact, PeerNews};
use sources::capture::PeerEventEntry;
use sources::gossip::PeerEventKind;
use verify::PeerBytes;

/// Converts a peer event of a capture. Returns `None` for events that the detectors do not use, and
/// for events that cannot be decoded. Anybody may have written the capture, so a malformed event is
/// not an error.
pub fn peer_news(entry: &PeerEventEntry) -> Option<PeerNews> {
    let text = |key: &str| entry.json.get(key).and_then(|value| value.as_str());
    // Captures contain numbers both as decimal strings and as JSON numbers.
    let number = |key: &str| entry.json.get(key).and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    let peer = text("peer")?;
    let what = match text("event")? {
        "connected" => PeerFact::Connected,
        "disconnected" => PeerFact::Disconnected,
        "agent" => PeerFact::Agent(text("agent")?.to_owned()),
        "status" => PeerFact::Status {
            head_slot: Slot::new(number("head_slot")?),
            head_root: text("head_root").and_then(|root| root.parse().ok()),
        },
        "goodbye" if entry.json.get("sent").and_then(|sent| sent.as_bool()) != Some(true) => {
            PeerFact::Goodbye { code: number("code").unwrap_or_default() }
        }
        _ => return None,
    };
    Some(PeerNews { at: entry.at, peer: PeerBytes::from(peer.as_bytes()), what })
}

/// Converts a peer event of running gossip. Returns `None` for events that the detectors do not
/// use.
pub fn of_event(event: &sources::gossip::PeerEvent) -> Option<PeerNews> {
    let what = match &event.what {
        PeerEventKind::Connected { .. } => PeerFact::Connected,
        PeerEventKind::Disconnected { .. } => PeerFact::Disconnected,
        PeerEventKind::Agent { agent } => PeerFact::Agent(agent.clone()),
        PeerEventKind::Status { head_slot, head_root, .. } => {
            PeerFact::Status { head_slot: Slot::new(head_slot.parse().ok()?), head_root: head_root.parse().ok() }
        }
        PeerEventKind::Goodbye { sent: false, code, .. } => PeerFact::Goodbye { code: *code },
        PeerEventKind::Goodbye { sent: true, .. } | PeerEventKind::Metadata { .. } => return None,
    };
    Some(PeerNews { at: event.at, peer: event.peer_bytes(), what })
}
