//! Tests what a quick look at the history says about a vote that is not proven yet.
#![allow(clippy::unwrap_used)]

mod common;

use common::{data, open, vote};
use consensus::ValidatorIndex;
use index::Index;
use verify::HistoryCheck;

/// A message is urgent before it is proven only because of the history of the validator that it
/// names, and not because of anything else in it.
#[test]
fn a_quick_check_sees_what_the_next_vote_would_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.stage_votes(&[vote(data(2, 3, 24, 0), &[7, 8]), vote(data(3, 6, 48, 0), &[7])]).unwrap();
    let quick_check = |index: &Index, validator: u64, source: u64, target: u64, head: u8| {
        let data = data(source, target, target * 8, head);
        index.quick_check(ValidatorIndex::new(validator), &data, data.root())
    };
    let expected = [
        (7, 4, 5, HistoryCheck::Contradicts), // surrounded by 3->6
        (7, 2, 7, HistoryCheck::Contradicts), // surrounds it
        (7, 3, 7, HistoryCheck::Fits),
        (7, 3, 5, HistoryCheck::Fits),
        (7, 1, 2, HistoryCheck::Unclear),
        (8, 4, 5, HistoryCheck::Fits),
        (9, 0, 900, HistoryCheck::Fits),
        (u64::MAX, 0, 900, HistoryCheck::Fits),
    ];
    for (validator, source, target, expected) in expected {
        assert_eq!(quick_check(&index, validator, source, target, 0), expected, "{validator}: {source}->{target}");
    }
    assert_eq!(quick_check(&index, 7, 3, 6, 0), HistoryCheck::Fits, "it is known");
    assert_eq!(quick_check(&index, 7, 3, 6, 1), HistoryCheck::Contradicts, "other data for its target");
    // A vote outside the chain counts too.
    index.stage_votes(&[vote(data(1, 9, 72, 0), &[7])]).unwrap();
    assert_eq!(quick_check(&index, 7, 3, 8, 0), HistoryCheck::Contradicts, "surrounded by 1->9");
    assert_eq!(quick_check(&index, 7, 3, 10, 0), HistoryCheck::Fits);
}
