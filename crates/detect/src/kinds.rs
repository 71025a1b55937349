//! What findings and incidents can be called, in one list: counters exist for each kind from the start, and questions about others are refused.

use crate::detectors::{
    blocks, checkpoint_split, clock_skew, equivocation, finality_delay, head_split, network, own_clock, participation_drop,
    proposals, punishment, slashing_wave, stale_votes,
};
use crate::watch::keeper;
use consensus::Offence;

/// Kinds of incidents, also used for single anomalies.
pub const ANOMALIES: [&str; 22] = [
    slashing_wave::KIND,
    clock_skew::KIND,
    own_clock::KIND,
    participation_drop::KIND,
    finality_delay::KIND,
    head_split::KIND,
    checkpoint_split::KIND,
    blocks::COMPETING,
    blocks::REORG,
    stale_votes::KIND,
    proposals::MISSED,
    proposals::LATE,
    network::DOMINANCE,
    network::STORM,
    network::SILENT,
    punishment::UNPUNISHED,
    punishment::BLIND_SPOT,
    keeper::MISSED_DUTIES,
    keeper::FLAPPING_KEYS,
    keeper::DORMANT_KEY_SIGNED,
    keeper::SECOND_SIGNER,
    equivocation::KIND,
];

/// Kinds of findings: offences, then anomalies.
pub fn of_findings() -> impl Iterator<Item = &'static str> {
    Offence::ALL.iter().map(|offence| offence.as_str()).chain(ANOMALIES)
}
