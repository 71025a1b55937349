//! Two signed messages where an honest signer signs one, and no rule against it. Each pair is
//! reported once, with both messages, and nothing else is reported.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use chain::Chain;
use consensus::{BuilderIndex, Gwei, InclusionList, PayloadAttestationData, PayloadBid, Root, Slot, ValidatorIndex};
use detect::{DetectConfig, Monitor, MonitorInput};
use evidence::{Finding, Kind, Severity};
use simulator::Scenario;
use verify::{FirstSeen, Signed, SourceKind, Stated, Statement, Time, Verified};

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

    /// Observes statements in a slot. Each statement is identified by its root.
    fn hear(&mut self, now: u64, statements: &[Statement]) -> Vec<Finding> {
        let at = Time(self.chain.network().slot_start_ns(Slot::new(now)) + 1);
        let heard = FirstSeen { at, source: SourceKind::Gossip, peer: None };
        let state = |statement: &Statement| {
            Signed::for_tests(Stated { statement: *statement, signature: Default::default(), heard: heard.clone() })
        };
        let verified = Verified { statements: statements.iter().map(state).collect(), ..Verified::default() };
        let mut said = self.monitor.turn_to(at, &self.chain, &std::sync::Arc::default()).anomalies;
        let batch = MonitorInput {
            verified: &verified,
            offenders: &[],
            included: &[],
            reopened: &[],
            peers: &[],
            chain: &self.chain,
            labels: &std::sync::Arc::default(),
            received_until: at,
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

/// A list of `n_transactions` transactions of 100 bytes each, on one of the branches.
fn list(validator: u64, slot: u64, branch: u8, n_transactions: usize) -> Statement {
    let list = InclusionList {
        slot: Slot::new(slot),
        validator_index: ValidatorIndex::new(validator),
        dependent_root: Root::repeat_byte(branch),
        n_transactions,
        transactions_bytes: 100 * n_transactions,
    };
    let mut root = Root::repeat_byte(branch);
    root[0] = n_transactions as u8;
    Statement::InclusionList { list, root }
}

#[test]
fn two_votes_about_one_payload_are_told_once() {
    let mut listener = Listener::new();
    assert_eq!(listener.hear(5, &[vote(3, 5, true), vote(4, 5, false), vote(3, 6, false)]), []);
    let said = listener.hear(6, &[vote(3, 5, true), vote(3, 5, false), vote(3, 5, false)]);
    assert_eq!(said.len(), 1);
    let finding = &said[0];
    assert_eq!((&finding.kind, finding.slot), (&Kind::EquivocationNotSlashable, Slot::new(5)));
    assert_eq!(finding.validator.as_ref().unwrap().index, ValidatorIndex::new(3));
    assert!(finding.evidence.is_none());
    let details = serde_json::to_value(&finding.details).unwrap();
    assert_eq!(details["what"], "payload_attestation_message");
    assert_eq!(details["messages"][0]["data"]["payload_present"], true);
    assert_eq!(details["messages"][1]["data"]["payload_present"], false);
    assert_eq!(listener.hear(6, &[vote(3, 5, false)]), [], "told already");
}

/// The id of a finding depends on what was signed, not on which message came first.
#[test]
fn the_order_of_arrival_changes_no_id() {
    let id = |statements: [Statement; 2]| Listener::new().hear(5, &statements)[0].id;
    assert_eq!(id([vote(3, 5, true), vote(3, 5, false)]), id([vote(3, 5, false), vote(3, 5, true)]));
    assert_ne!(id([vote(3, 5, true), vote(3, 5, false)]), id([vote(2, 5, true), vote(2, 5, false)]));
    assert_eq!(id([list(3, 5, 1, 10), list(3, 5, 1, 20)]), id([list(3, 5, 1, 20), list(3, 5, 1, 10)]));
    assert_ne!(id([list(3, 5, 1, 10), list(3, 5, 1, 20)]), id([list(3, 5, 1, 10), list(3, 5, 1, 30)]));
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
fn one_inclusion_list_a_slot_is_honest_however_often_it_comes() {
    let mut listener = Listener::new();
    assert_eq!(listener.hear(5, &[list(3, 5, 1, 10), list(3, 5, 1, 10), list(4, 5, 1, 11), list(3, 6, 1, 12)]), []);
    assert_eq!(listener.hear(6, &[list(3, 5, 1, 10), list(3, 6, 1, 12), list(3, 7, 2, 12), vote(3, 5, true)]), []);
}

#[test]
fn two_inclusion_lists_of_a_slot_are_told_once() {
    let mut listener = Listener::new();
    let said = listener.hear(5, &[list(3, 5, 1, 10), list(4, 5, 1, 10), list(3, 5, 1, 20), list(3, 5, 1, 10)]);
    assert_eq!(said.len(), 1);
    let finding = &said[0];
    assert_eq!((&finding.kind, finding.slot), (&Kind::EquivocationNotSlashable, Slot::new(5)));
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.validator.as_ref().unwrap().index, ValidatorIndex::new(3));
    assert!(finding.evidence.is_none());
    let details = serde_json::to_value(&finding.details).unwrap();
    assert_eq!((&details["what"], &details["same_branch"]), (&"inclusion_list".into(), &true.into()));
    for (message, n) in [(&details["messages"][0], 10), (&details["messages"][1], 20)] {
        let Statement::InclusionList { list, root } = list(3, 5, 1, n) else { panic!("a list") };
        assert_eq!(message["root"], serde_json::to_value(root).unwrap());
        assert_eq!(message["dependent_root"], serde_json::to_value(list.dependent_root).unwrap());
        assert_eq!((&message["transactions"], &message["transactions_bytes"]), (&n.into(), &(100 * n).into()));
    }
    assert_eq!(listener.hear(6, &[list(3, 5, 1, 20)]), [], "told already");
}

/// Nodes compare only lists of one branch, so a pair from two branches is reported as information
/// and not as a fault.
#[test]
fn inclusion_lists_of_two_branches_are_told_as_info() {
    let said = Listener::new().hear(5, &[list(3, 5, 1, 10), list(3, 5, 2, 10)]);
    assert_eq!(said.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Info]);
    assert_eq!(serde_json::to_value(&said[0].details).unwrap()["same_branch"], false);
    let said = Listener::new().hear(5, &[vote(3, 5, true), vote(3, 5, false)]);
    assert!(serde_json::to_value(&said[0].details).unwrap().get("same_branch").is_none());
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
