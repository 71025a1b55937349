//! Two signed messages where an honest signer has one, and no rule against it: told once, with both, and nothing else is.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use chain::Chain;
use consensus::{BuilderIndex, Gwei, PayloadAttestationData, PayloadBid, Root, Slot, ValidatorIndex};
use detect::{Batch, DetectConfig, Monitor, NoLabels};
use evidence::Finding;
use simulator::Scenario;
use verify::{Heard, Signed, SourceKind, Stated, Statement, UnixNs, Verified};

struct Listener {
    chain: Chain,
    monitor: Monitor,
}

impl Listener {
    fn new() -> Self {
        let chain = common::quiet_chain(&Scenario::quiet(64));
        let monitor = Monitor::new(&DetectConfig::default(), chain.network());
        Self { chain, monitor }
    }

    /// Hears statements, each by the name of its root, in a slot.
    fn hear(&mut self, now: u64, statements: &[Statement]) -> Vec<Finding> {
        let at = UnixNs(self.chain.network().slot_start_ns(Slot::new(now)) + 1);
        let heard = Heard { at, source: SourceKind::Gossip, peer: None };
        let state = |statement: &Statement| {
            Signed::for_tests(Stated { statement: *statement, signature: Default::default(), heard: heard.clone() })
        };
        let verified = Verified { statements: statements.iter().map(state).collect(), ..Verified::default() };
        let mut said = self.monitor.turn_to(at, &self.chain, &NoLabels).anomalies;
        let batch = Batch {
            verified: &verified,
            offenders: &[],
            included: &[],
            reopened: &[],
            peers: &[],
            chain: &self.chain,
            labels: &NoLabels,
            heard_until: at,
        };
        said.extend(self.monitor.observe(&batch).anomalies);
        said
    }
}

fn vote(validator: u64, slot: u64, payload_present: bool) -> Statement {
    let data = PayloadAttestationData {
        beacon_block_root: Root::repeat_byte(7),
        slot: Slot::new(slot),
        payload_present,
        blob_data_available: true,
    };
    let root = Root::repeat_byte(if payload_present { 1 } else { 2 });
    Statement::PayloadVote { validator: ValidatorIndex::new(validator), data, root }
}

fn bid(builder: u64, slot: u64, parent: u8, value: u64) -> Statement {
    let bid = PayloadBid {
        builder_index: BuilderIndex::new(builder),
        slot: Slot::new(slot),
        parent_block_hash: Root::repeat_byte(parent),
        parent_block_root: Root::repeat_byte(parent),
        block_hash: Root::ZERO,
        value: Gwei::new(value),
    };
    Statement::Bid { bid, root: Root::repeat_byte(value as u8) }
}

#[test]
fn two_votes_about_one_payload_are_told_once() {
    let mut listener = Listener::new();
    assert_eq!(listener.hear(5, &[vote(3, 5, true), vote(4, 5, false), vote(3, 6, false)]), []);
    let said = listener.hear(6, &[vote(3, 5, true), vote(3, 5, false), vote(3, 5, false)]);
    assert_eq!(said.len(), 1);
    let finding = &said[0];
    assert_eq!((finding.kind.as_str(), finding.slot), ("equivocation_not_slashable", Slot::new(5)));
    assert_eq!(finding.validator.as_ref().unwrap().index, ValidatorIndex::new(3));
    assert!(finding.evidence.is_none());
    let details = serde_json::to_value(&finding.details).unwrap();
    assert_eq!(details["what"], "payload_attestation_message");
    assert_eq!(details["messages"][0]["data"]["payload_present"], true);
    assert_eq!(details["messages"][1]["data"]["payload_present"], false);
    assert_eq!(listener.hear(6, &[vote(3, 5, false)]), [], "told already");
}

/// The name of what is told depends on what was said, not on which came first.
#[test]
fn the_order_of_arrival_changes_no_id() {
    let id = |statements: [Statement; 2]| Listener::new().hear(5, &statements)[0].id;
    assert_eq!(id([vote(3, 5, true), vote(3, 5, false)]), id([vote(3, 5, false), vote(3, 5, true)]));
    assert_ne!(id([vote(3, 5, true), vote(3, 5, false)]), id([vote(2, 5, true), vote(2, 5, false)]));
}

#[test]
fn two_bids_of_a_builder_on_one_parent_are_told() {
    let mut listener = Listener::new();
    assert_eq!(listener.hear(5, &[bid(3, 5, 1, 10), bid(3, 5, 2, 11), bid(4, 5, 1, 12), bid(3, 6, 1, 13)]), []);
    let said = listener.hear(5, &[bid(3, 5, 1, 14)]);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].validator, None);
    let details = serde_json::to_value(&said[0].details).unwrap();
    assert_eq!((&details["what"], &details["builder_index"]), (&"execution_payload_bid".into(), &"3".into()));
}

#[test]
fn memory_is_bounded_by_time_and_number() {
    let mut listener = Listener::new();
    assert_eq!(listener.hear(5, &[vote(3, 5, true)]), []);
    assert_eq!(listener.hear(40, &[vote(3, 5, false)]), [], "more than two epochs later");
    assert_eq!(listener.hear(40, &[vote(3, 90, true), vote(3, 90, false)]), [], "far ahead of now");
    let many: Vec<Statement> = (1..100).map(|value| bid(1, 40, 9, value)).collect();
    assert_eq!(listener.hear(40, &many).len(), 6, "four messages make six pairs; more are not compared");
}
