//! How peers are scored: what lowers a score, and at which score a peer is ignored.
//!
//! A listener has other interests than a validator. It wants peers that send what others do not
//! send, so it does not penalize silence (P3 is off: a devnet's subnet may be silent for hours, and
//! no rate is known in advance). It penalizes invalid messages (P4): messages that do not
//! decompress, are malformed, or have no valid signature. It also penalizes broken promises (P7).
//!
//! | invalid messages on one topic | score | consequence |
//! |---|---|---|
//! | 1 | -10 | |
//! | 2 | -40 | no more gossip is exchanged |
//! | 3 | -90 | |
//! | 4 | -160 | all its RPCs are ignored |
//!
//! Counters decay to nothing within [`FORGIVEN_AFTER`]. Positive scores (time in the mesh, first
//! deliveries) reach 20 at most, so they compensate for one invalid message but not for four. The
//! thresholds (-30, -70, -120) lie between the rows, because counters also decay between two
//! messages.

use libp2p::gossipsub::{PeerScoreParams, PeerScoreThresholds, TopicScoreParams};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// 40 minutes. A node that was restarted with a repaired client is soon accepted again.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(2400);
/// Below this score a peer's RPCs are ignored.
pub(super) const GRAYLIST: f64 = -120.0;
/// What each peer has from the start. gossipsub forgets a peer that leaves with a score above zero,
/// and keeps the counters of all others ([`RETAINED_FOR`]). So
/// whoever connects, does nothing wrong and leaves, again and again with new ids, takes no memory.
pub(super) const BLAMELESS: f64 = 1e-6;
/// How long gossipsub keeps the counters of a peer that has left with a score below zero: some 60
/// kilobytes, if it was subscribed to all subnets. Banned peers are refused longer, without them;
/// who was not bad enough for that gains no more by coming back than by taking a new id.
const RETAINED_FOR: Duration = Duration::from_secs(120);
/// Number of nodes behind one IP address that is still considered normal.
const PEERS_PER_IP: f64 = 8.0;

pub(super) fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -30.0,
        publish_threshold: -70.0,
        graylist_threshold: GRAYLIST,
        // Peer exchange is off.
        accept_px_threshold: 1000.0,
        opportunistic_graft_threshold: 1.0,
    }
}

/// `ban` is how long a peer with a bad score is refused. Its score is forgotten before, so that it
/// begins anew.
pub(super) fn params(ban: Duration) -> PeerScoreParams {
    let interval = Duration::from_secs(1);
    PeerScoreParams {
        topic_score_cap: 20.0,
        app_specific_weight: 1.0,
        ip_colocation_factor_weight: -5.0,
        ip_colocation_factor_threshold: PEERS_PER_IP,
        ip_colocation_factor_whitelist: HashSet::from([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]),
        // A client that moves between subnets at each slot grafts again before the backoff is over.
        // It does so in good faith.
        behaviour_penalty_weight: -0.5,
        behaviour_penalty_threshold: 20.0,
        behaviour_penalty_decay: decay(Duration::from_secs(600), interval),
        // Who reads slowly has not lied. A listener that sends it away hears nothing more from it.
        slow_peer_weight: 0.0,
        decay_interval: interval,
        decay_to_zero: DECAY_TO_ZERO,
        retain_score: (ban / 2).min(RETAINED_FOR),
        ..PeerScoreParams::default()
    }
}

pub(super) fn topic_params() -> TopicScoreParams {
    let interval = Duration::from_secs(1);
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(12),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.01,
        first_message_deliveries_decay: decay(Duration::from_secs(600), interval),
        first_message_deliveries_cap: 100.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: decay(FORGIVEN_AFTER, interval),
        ..TopicScoreParams::default()
    }
}

/// Counters below this value become 0.
const DECAY_TO_ZERO: f64 = 0.01;

/// Returns the factor that, applied once every `interval`, brings a counter from 1 to
/// `DECAY_TO_ZERO` in `time`.
fn decay(time: Duration, interval: Duration) -> f64 {
    DECAY_TO_ZERO.powf(interval.as_secs_f64() / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_valid() {
        params(FORGIVEN_AFTER).validate().unwrap();
        thresholds().validate().unwrap();
        topic_params().validate().unwrap();
        // Four invalid messages on one topic suffice, because positive scores are capped below the
        // difference.
        assert!(topic_params().invalid_message_deliveries_weight * 16.0 + params(FORGIVEN_AFTER).topic_score_cap < GRAYLIST);
    }
}
