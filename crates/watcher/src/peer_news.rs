//! What peers do and say of themselves, for the detectors: from a capture's entries, or as it happens.

use consensus::Slot;
use detect::{PeerFact, PeerNews};
use sources::capture::PeerEventEntry;
use sources::gossip::PeerEventKind;

/// An event of a capture. `None` for what the detectors do not look at, and for what cannot be read: a capture may be anybody's.
pub fn peer_news(entry: &PeerEventEntry) -> Option<PeerNews> {
    let text = |key: &str| entry.json.get(key).and_then(|value| value.as_str());
    // As a decimal string or as a number: both are found in captures.
    let number = |key: &str| entry.json.get(key).and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    let peer = text("peer")?.to_owned();
    let what = match text("event")? {
        "connected" => PeerFact::Connected,
        "disconnected" => PeerFact::Disconnected,
        "agent" => PeerFact::Agent(text("agent")?.to_owned()),
        "status" => PeerFact::Status { head_slot: Slot::new(number("head_slot")?) },
        "goodbye" if entry.json.get("sent").and_then(|sent| sent.as_bool()) != Some(true) => {
            PeerFact::Goodbye { code: number("code").unwrap_or_default() }
        }
        _ => return None,
    };
    Some(PeerNews { at: entry.at, peer, what })
}

/// An event as it happens.
pub fn of_event(event: &sources::gossip::PeerEvent) -> Option<PeerNews> {
    let what = match &event.what {
        PeerEventKind::Connected { .. } => PeerFact::Connected,
        PeerEventKind::Disconnected { .. } => PeerFact::Disconnected,
        PeerEventKind::Agent { agent } => PeerFact::Agent(agent.clone()),
        PeerEventKind::Status { head_slot, .. } => PeerFact::Status { head_slot: Slot::new(head_slot.parse().ok()?) },
        PeerEventKind::Goodbye { sent: false, code, .. } => PeerFact::Goodbye { code: *code },
        PeerEventKind::Goodbye { sent: true, .. } | PeerEventKind::Metadata { .. } => return None,
    };
    Some(PeerNews { at: event.at, peer: event.peer.to_string(), what })
}
