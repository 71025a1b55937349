//! The slashing operations of the specification: decoding, and all conditions of validity except
//! the signatures.

use consensus::state::StateView;
use consensus::{
    AttesterSlashing, IndexedAttestation, Offence, ProposerSlashing, is_double_proposal, is_double_vote,
    is_slashable_attestation_data, surrounds,
};
use std::collections::BTreeMap;
use test_support::spec_tests::{REFTESTS, cases};

#[test]
fn attester_slashings_are_valid_as_the_spec_says() {
    let cases = cases(REFTESTS, |path| path.get(2) == Some(&"operations") && path.get(3) == Some(&"attester_slashing"));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &cases {
        let (preset, fork) = (case.preset(), case.fork());
        let pre = case.ssz("pre");
        let state = StateView::parse(fork, &preset, &pre).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        let slashing = AttesterSlashing::from_ssz(fork, &preset, &case.ssz("attester_slashing"));
        let slashing = slashing.unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        let (first, second) = (&slashing.attestation_1, &slashing.attestation_2);
        let someone_punishable = first
            .attesting_indices
            .iter()
            .filter(|index| second.attesting_indices.contains(index))
            .filter_map(|index| state.validator(*index))
            .any(|validator| validator.is_slashable(state.epoch()));
        let valid = is_slashable_attestation_data(&first.data, &second.data)
            && [first, second].iter().all(|attestation| sorted_and_known(attestation, &state))
            && someone_punishable;
        let by_signature_only = ["sig", "bad_extra_index", "bad_replaced_index"].iter().any(|part| case.name().contains(part));
        let accepted = case.files.contains_key("post.ssz_snappy");
        assert_eq!(valid, accepted || (by_signature_only && valid), "{}", case.name());
        if accepted {
            let kind = if is_double_vote(&first.data, &second.data) { Offence::DoubleVote } else { Offence::SurroundVote };
            assert_eq!(kind == Offence::SurroundVote, surrounds(&first.data, &second.data), "{}", case.name());
            *counts.entry(kind.as_str()).or_default() += 1;
        } else {
            *counts.entry(if by_signature_only { "refused by signature" } else { "refused by structure" }).or_default() += 1;
        }
    }
    println!("attester slashings: {counts:?}");
    assert!(counts.len() == 4 && cases.len() > 150, "{counts:?}");
}

#[test]
fn proposer_slashings_are_valid_as_the_spec_says() {
    let cases = cases(REFTESTS, |path| path.get(2) == Some(&"operations") && path.get(3) == Some(&"proposer_slashing"));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &cases {
        let (preset, fork) = (case.preset(), case.fork());
        let pre = case.ssz("pre");
        let state = StateView::parse(fork, &preset, &pre).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        let slashing = ProposerSlashing::from_ssz(&case.ssz("proposer_slashing")).expect("208 bytes twice");
        let (first, second) = (slashing.signed_header_1.message, slashing.signed_header_2.message);
        let punishable = state.validator(first.proposer_index).is_some_and(|validator| validator.is_slashable(state.epoch()));
        let valid = is_double_proposal(&first, &second) && punishable;
        let by_signature_only = case.name().contains("incorrect_sig");
        let accepted = case.files.contains_key("post.ssz_snappy");
        assert_eq!(valid, accepted || (by_signature_only && valid), "{}", case.name());
        *counts.entry(if accepted { "double_proposal" } else { "refused" }).or_default() += 1;
    }
    println!("proposer slashings: {counts:?}");
    assert!(counts.len() == 2 && cases.len() > 150, "{counts:?}");
}

/// `is_valid_indexed_attestation` of the specification, without the signature.
fn sorted_and_known(attestation: &IndexedAttestation, state: &StateView<'_>) -> bool {
    let indices = &attestation.attesting_indices;
    !indices.is_empty()
        && indices.windows(2).all(|pair| pair[0] < pair[1])
        && indices.iter().all(|index| state.validator(*index).is_some())
}
