use super::*;
use serde_json::json;

/// The preimage is written out by hand and was hashed with `sha256sum`.
#[test]
fn id_is_the_hash_of_content_in_the_contracts_order() {
    let root = Root::repeat_byte(0x11);
    let (small, great) = (Root::repeat_byte(0x22), Root::repeat_byte(0x33));
    let id = finding_id(root, Offence::DoubleVote, ValidatorIndex::new(0x0102), great, small);
    // ( printf '\x11%.0s' {1..32}; printf double_vote; printf '\x02\x01\0\0\0\0\0\0';
    //   printf '\x22%.0s' {1..32}; printf '\x33%.0s' {1..32} ) | sha256sum
    assert_eq!(id.to_string(), "0x48e875f51bd44c2019a4ae387ea34c18bea5dd37fe08ca8b8cd0d782b1586547");
    assert_eq!(id, finding_id(root, Offence::DoubleVote, ValidatorIndex::new(0x0102), small, great), "order of roots");
    assert_ne!(id, finding_id(root, Offence::SurroundVote, ValidatorIndex::new(0x0102), small, great));
    assert_ne!(id, finding_id(Root::ZERO, Offence::DoubleVote, ValidatorIndex::new(0x0102), small, great));
}

fn proof() -> Evidence {
    Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Electra, vec![1, 2, 3], json!({}))
}

fn double_vote() -> Finding {
    let facts = OffenceFacts {
        genesis_validators_root: Root::repeat_byte(0x11),
        offence: Offence::DoubleVote,
        validator: ValidatorIndex::new(0x0102),
        pubkey: PubkeyBytes::repeat_byte(0xaa),
        labels: vec!["ours".into()],
        roots: [Root::repeat_byte(0x33), Root::repeat_byte(0x22)],
        slot: Slot::new(100),
        epoch: Epoch::new(u64::MAX),
        seen: [Time::from_unix_ns(1_606_824_024_000_000_000), Time::from_unix_ns(1_606_824_023_000_000_001)],
        recorded_at: Time::from_unix_ns(1_606_824_025_000_000_000),
        sources: vec!["gossip".into(), "block".into(), "gossip".into()],
        fork: ForkName::Electra,
        punishable: Punishable::AlreadySlashed,
    };
    Finding::slashable(facts, &proof())
}

/// The JSON matches byte for byte, with the fields in the contract's order.
#[test]
fn a_slashable_finding_reads_as_the_contract_has_it() {
    let evidence_id = "0x039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81";
    let wanted = format!(
        concat!(
            r#"{{"schema":1,"id":"0x48e875f51bd44c2019a4ae387ea34c18bea5dd37fe08ca8b8cd0d782b1586547","kind":"double_vote","#,
            r#""severity":"info","slot":"100","epoch":"18446744073709551615","#,
            r#""validator":{{"index":"258","pubkey":"0x{pubkey}","labels":["ours"]}},"#,
            r#""first_seen":"2020-12-01T12:00:23.000000001Z","second_seen":"2020-12-01T12:00:24.000000000Z","#,
            r#""recorded_at":"2020-12-01T12:00:25.000000000Z","sources":["block","gossip"],"fork":"electra","#,
            r#""punishable":"already_slashed","included":null,"#,
            r#""evidence":{{"type":"attester_slashing","id":"{id}","ssz":"{id}.ssz","json":"{id}.json"}}}}"#
        ),
        pubkey = "aa".repeat(48),
        id = evidence_id,
    );
    let text = serde_json::to_string(&double_vote()).unwrap();
    assert_eq!(text, wanted);
    assert_eq!(serde_json::from_str::<Finding>(&text).unwrap(), double_vote());
    assert_eq!(double_vote().offence(), Some(Offence::DoubleVote));
}

#[test]
fn an_anomaly_has_details_and_null_evidence_and_no_invented_validator() {
    let finding = Finding::anomaly(Anomaly {
        id: anomaly_id(Root::ZERO, &Kind::ClockSkew, b"7"),
        kind: Kind::ClockSkew,
        severity: Severity::Warning,
        slot: Slot::new(7),
        epoch: Epoch::new(0),
        validator: None,
        first_seen: Time::from_unix_ns(0),
        second_seen: None,
        recorded_at: Time::from_unix_ns(0),
        sources: vec!["gossip".into()],
        fork: ForkName::Phase0,
        details: Map::from_iter([("ahead_slots".into(), json!("1200"))]),
    });
    let text = serde_json::to_string(&finding).unwrap();
    assert!(text.ends_with(r#""fork":"phase0","included":null,"evidence":null,"details":{"ahead_slots":"1200"}}"#), "{text}");
    assert!(!text.contains("validator") && text.contains(r#""severity":"warning""#), "{text}");
    assert_eq!(serde_json::from_str::<Finding>(&text).unwrap(), finding);
    assert_eq!(finding.offence(), None);
}

#[test]
fn punishable_has_the_contracts_words() {
    use Punishable::*;
    let words = [Yes, AlreadySlashed, NotActive, Withdrawable, ForkExpired, Unknown].map(|word| json!(word));
    assert_eq!(json!(words), json!(["yes", "already_slashed", "not_active", "withdrawable", "fork_expired", "unknown"]));
    assert!(Severity::Info < Severity::Warning && Severity::Warning < Severity::Critical);
}
