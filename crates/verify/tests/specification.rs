//! Runs the specification's own test cases for slashing operations and gossip messages, from phase0
//! to Gloas, with the minimal preset.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use chain::{Chain, PubkeyCache};
use common::{kind, minimal_spec};
use consensus::ForkName;
use std::collections::BTreeMap;
use test_support::spec_tests::{Case, REFTESTS};
use verify::{
    MessageKind, MessageParts, Origin, Outcome, RawMessage, SourceKind, Ticket, Time, Verdict, Verified, Verifier, VerifyConfig,
};

fn chain_of(fork: ForkName, state: &[u8]) -> Chain {
    Chain::from_state(minimal_spec(fork), state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

fn message(fork: ForkName, kind: MessageKind, bytes: &[u8], at: Time) -> RawMessage {
    let origin = Origin { source: SourceKind::Gossip, peer: None, fork: Some(fork), subscribed: None };
    let bytes = bytes.to_vec();
    RawMessage::new(MessageParts { origin, kind, received_at: at, bytes, ticket: Some(Ticket(7)) }).unwrap()
}

/// Cases of the minimal preset under these runners and handlers, all forks.
fn cases(handlers: &[&str]) -> Vec<Case> {
    let is_wanted = |path: &[&str]| path.len() > 4 && path[0] == "minimal" && handlers.contains(&path[2..4].join("/").as_str());
    test_support::spec_tests::cases(REFTESTS, is_wanted)
}

fn only_outcome(verified: &Verified) -> &Outcome {
    let [(Some(Ticket(7)), None, _, outcome)] = verified.outcomes.as_slice() else {
        panic!("one outcome: {:?}", verified.outcomes)
    };
    outcome
}

fn count(counts: &mut BTreeMap<String, usize>, case: &Case, outcome: &Outcome) {
    *counts.entry(format!("{} {}", case.handler(), outcome.label())).or_default() += 1;
}

#[test]
fn slashing_operations() {
    let mut counts = BTreeMap::new();
    let all = cases(&["operations/attester_slashing", "operations/proposer_slashing"]);
    for case in &all {
        let (stem, kind) = match case.handler().as_str() {
            "operations/attester_slashing" => ("attester_slashing", MessageKind::AttesterSlashing),
            _ => ("proposer_slashing", MessageKind::ProposerSlashing),
        };
        let mut chain = chain_of(case.fork(), &case.ssz("pre"));
        let now = Time(chain.network().slot_start_ns(chain.head().slot));
        let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
        let verified = verifier.process(&mut chain, vec![message(case.fork(), kind, &case.ssz(stem), now)], now);
        let outcome = only_outcome(&verified);
        count(&mut counts, case, outcome);
        let label = format!("{} {}: {outcome:?}", case.fork(), case.name());
        let valid = case.find_ssz("post").is_some();
        if valid {
            assert!(matches!(outcome, Outcome::Proven { .. }), "{label}");
            assert_eq!(verified.slashings.len(), 1, "{label}");
            assert_eq!(verified.votes.len() + verified.proposals.len(), 2, "{label}");
        } else if case.name().contains("incorrect_sig") || case.name().contains("invalid_sig") || case.name().contains("bad_") {
            assert!(verified.slashings.is_empty(), "{label}");
            assert!(!matches!(outcome, Outcome::Proven { .. }), "{label}");
        }
        if !valid {
            assert_ne!(outcome.verdict(), Verdict::Accept, "{label}");
        }
    }
    println!("{counts:?}");
    assert!(counts["operations/attester_slashing bad_signature"] > 0 && counts["operations/proposer_slashing bad_signature"] > 0);
}

#[test]
fn gossip_messages() {
    let handlers = [
        "networking/gossip_beacon_block",
        "networking/gossip_beacon_attestation",
        "networking/gossip_beacon_aggregate_and_proof",
        "networking/gossip_attester_slashing",
        "networking/gossip_proposer_slashing",
        "networking/gossip_payload_attestation_message",
    ];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases(&handlers) {
        let handler = case.handler();
        let meta = case.yaml("meta.yaml");
        let topic = handler.rsplit("gossip_").next().unwrap();
        let mut chain = chain_of(case.fork(), &case.ssz("state"));
        let mut verifier = Verifier::seeded(VerifyConfig::default(), 1);
        let base_ms = meta["current_time_ms"].as_u64().unwrap_or_default();
        let at = |ms: u64| Time((chain_genesis_ms(&case) + base_ms + ms) * 1_000_000);
        for block in meta["blocks"].as_array().into_iter().flatten() {
            let failed = block["failed"].as_bool().unwrap_or(false);
            let bytes = case.ssz(block["block"].as_str().unwrap());
            if !failed {
                verifier.process(&mut chain, vec![message(case.fork(), MessageKind::Block, &bytes, at(0))], at(0));
            }
        }
        for (i, step) in meta["messages"].as_array().unwrap().iter().enumerate() {
            let now = at(step["offset_ms"].as_u64().unwrap_or_default());
            let kind = match topic {
                "beacon_attestation" => MessageKind::Attestation { subnet: step["subnet_id"].as_u64().unwrap_or_default() },
                other => kind(other).unwrap(),
            };
            let bytes = case.ssz(step["message"].as_str().unwrap());
            let verified = verifier.process(&mut chain, vec![message(case.fork(), kind, &bytes, now)], now);
            let outcome = only_outcome(&verified);
            let expected = step["expected"].as_str().unwrap();
            *counts.entry(format!("{topic} {expected}: {} {:?}", outcome.label(), outcome.verdict())).or_default() += 1;
            let label = format!("{} {} message {i}, expected {expected}: {outcome:?}", case.fork(), case.name());
            match expected {
                "valid" => assert!(matches!(outcome, Outcome::Proven { .. }), "{label}"),
                // This crate does not check whether a proposer's block is valid, so a few blocks
                // are forwarded that other clients refuse.
                "reject" => {
                    let about_validity =
                        ["too_many_", "failed_el_validation", "bid_parent_root", "contains_deposits", "finalized_checkpoint_not"];
                    let known = about_validity.iter().any(|word| case.name().contains(word));
                    assert!(known || outcome.verdict() != Verdict::Accept, "{label}: {}", step["reason"]);
                }
                _ => {}
            }
        }
    }
    for (what, n) in &counts {
        println!("{n:5} {what}");
    }
    let accepted = |topic: &str| counts.get(&format!("{topic} valid: proven Accept")).copied().unwrap_or_default();
    // The members of the payload-timeliness committee are not known here, so none of these messages
    // is forwarded.
    let others = handlers.iter().filter(|handler| !handler.ends_with("payload_attestation_message"));
    for topic in others.filter_map(|handler| handler.rsplit("gossip_").next()) {
        assert!(accepted(topic) > 0, "{topic}: nothing valid may be forwarded");
    }
}

fn chain_genesis_ms(case: &Case) -> u64 {
    chain_of(case.fork(), &case.ssz("state")).network().genesis_time * 1000
}
