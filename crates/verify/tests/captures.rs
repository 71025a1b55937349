//! Replays captures that the executable specification made, from end to end. The expected offences
//! come from a plain loop over all pairs of what was proven. If a vote were missed or a forgery
//! accepted, the result would differ.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::Capture;
use consensus::{AttestationData, BeaconBlockHeader, Offence, is_double_proposal, is_double_vote, surrounds};
use std::collections::{BTreeMap, BTreeSet};
use verify::{MessageOutcome, Outcome, SinglesProof, Time, Verified, Verifier, VerifyConfig};

/// Everything that a replay proved, and its outcomes.
#[derive(Default)]
struct Replay {
    votes: BTreeMap<u64, BTreeSet<VoteKey>>,
    proposals: BTreeMap<u64, Vec<BeaconBlockHeader>>,
    outcomes: Vec<MessageOutcome>,
    n_blocks: usize,
    n_operations: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct VoteKey(consensus::Root);

struct Run {
    replay: Replay,
    data: BTreeMap<consensus::Root, AttestationData>,
}

impl Run {
    fn take(&mut self, verified: Verified) {
        let order = |vote: &verify::Signed<verify::Vote>| (vote.heard.at, vote.data_root, vote.indices[0]);
        assert!(verified.votes.is_sorted_by_key(order), "what is listed of too many pairs must not depend on batches");
        assert!(verified.proposals.is_sorted_by_key(|proposal| (proposal.heard.at, proposal.root)));
        for vote in &verified.votes {
            assert_eq!(vote.indices.len(), vote.arrivals.len());
            assert!(vote.indices.windows(2).all(|pair| pair[0] < pair[1]) && !vote.indices.is_empty());
            assert_eq!(vote.heard.at, vote.arrivals.iter().min().unwrap().at);
            assert_eq!(vote.data_root, vote.data.root());
            if let Some(shuffling) = &vote.shuffling {
                assert_eq!(shuffling.epoch(), vote.data.target.epoch);
                assert!(vote.indices.iter().all(|index| shuffling.seat(*index).is_some_and(|seat| seat.slot == vote.data.slot)));
            }
            self.data.insert(vote.data_root, vote.data);
            for index in &vote.indices {
                self.replay.votes.entry(index.as_u64()).or_default().insert(VoteKey(vote.data_root));
            }
        }
        for proposal in &verified.proposals {
            self.replay.proposals.entry(proposal.header.proposer_index.as_u64()).or_default().push(proposal.header);
        }
        self.replay.n_blocks += verified.blocks.iter().filter(|block| block.randao_proven).count();
        self.replay.n_operations += verified.slashings.len();
        self.replay.outcomes.extend(verified.outcomes);
    }

    fn findings(&self) -> BTreeSet<(String, u64)> {
        let mut found = BTreeSet::new();
        for (validator, votes) in &self.replay.votes {
            let votes: Vec<&AttestationData> = votes.iter().map(|key| &self.data[&key.0]).collect();
            for a in &votes {
                for b in &votes {
                    if is_double_vote(a, b) {
                        found.insert((Offence::DoubleVote.as_str().to_owned(), *validator));
                    }
                    if surrounds(a, b) {
                        found.insert((Offence::SurroundVote.as_str().to_owned(), *validator));
                    }
                }
            }
        }
        for (validator, headers) in &self.replay.proposals {
            if headers.iter().any(|a| headers.iter().any(|b| is_double_proposal(a, b))) {
                found.insert((Offence::DoubleProposal.as_str().to_owned(), *validator));
            }
        }
        found
    }

    /// The final outcomes, counted by label.
    fn outcomes(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (_, _, _, outcome) in self.replay.outcomes.iter().filter(|(.., outcome)| outcome.is_final()) {
            *counts.entry(outcome.label()).or_default() += 1;
        }
        counts
    }
}

fn replay(capture: &Capture, config: VerifyConfig, batch: usize) -> Run {
    let mut chain = capture.chain();
    let mut verifier = Verifier::seeded(config, 1);
    let mut run = Run { replay: Replay::default(), data: BTreeMap::new() };
    let mut received = 0;
    let mut last = Time(0);
    for messages in capture.messages.chunks(batch) {
        let now = messages.iter().map(|message| message.received_at).max().unwrap();
        last = now;
        chain.tick(chain.network().slot_at(now.0));
        received += messages.len();
        run.take(verifier.process(&mut chain, messages.to_vec(), now));
        let settled = run.replay.outcomes.iter().filter(|(.., outcome)| outcome.is_final()).count();
        assert_eq!(received, settled + verifier.parked(), "{}: received = final outcomes + parked", capture.name);
    }
    run.take(verifier.finish(&mut chain, last));
    assert_eq!(verifier.parked(), 0);
    // Every message has exactly one final outcome.
    let mut tickets: Vec<u64> =
        run.replay.outcomes.iter().filter(|(.., outcome)| outcome.is_final()).map(|(ticket, ..)| ticket.unwrap().0).collect();
    tickets.sort_unstable();
    assert_eq!(tickets, (0..capture.messages.len() as u64).collect::<Vec<_>>(), "{}", capture.name);
    run
}

/// Those whose truth can be found from their first state. Of `newcomers_state_after` the messages
/// that name newcomers stand before the state that knows them: the verifier is right to settle them
/// as unknown, and the replay, which keeps them and gives them once more, is held to that truth by
/// the program's own test of captures.
fn captures() -> Vec<Capture> {
    common::captures().into_iter().filter(|capture| capture.name != "newcomers_state_after").collect()
}

/// The (offence, validator) pairs in one of the capture's own lists.
fn pairs(capture: &Capture, list: &str) -> BTreeSet<(String, u64)> {
    let rows = capture.expected[list].as_array().into_iter().flatten();
    rows.map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].as_u64().unwrap())).collect()
}

/// True contradictions that rest on one good side of an invalid operation may be found or not:
/// proven one by one, none of the cancelling signatures is, while the good header of
/// `headers_deneb` is.
fn without_optional(capture: &Capture, found: BTreeSet<(String, u64)>) -> BTreeSet<(String, u64)> {
    let expected = pairs(capture, "findings");
    let optional = pairs(capture, "optional");
    found.into_iter().filter(|pair| expected.contains(pair) || !optional.contains(pair)).collect()
}

fn check(capture: &Capture, config: VerifyConfig, batch: usize) -> Run {
    let run = replay(capture, config, batch);
    let expected = pairs(capture, "findings");
    assert!(!expected.is_empty());
    let found = without_optional(capture, run.findings());
    println!("{} in batches of {batch}, {:?}: {:?}", capture.name, config.singles, run.outcomes());
    assert_eq!(found, expected, "{} in batches of {batch}, {:?}", capture.name, config.singles);
    run
}

#[test]
fn captures_replayed_in_sums() {
    for capture in captures() {
        check(&capture, VerifyConfig::replay(), 1 << 20);
        check(&capture, VerifyConfig { threads: 1, ..VerifyConfig::replay() }, 37);
    }
}

#[test]
fn captures_as_if_live() {
    for capture in captures() {
        let run = check(&capture, VerifyConfig::default(), 20);
        // Captures with statistics count everything that the specification refuses as invalid. Here
        // each reason has its own count, so they are not compared.
        let Some(invalid) = capture.expected["invalid_signatures"].as_u64().filter(|_| capture.expected["stats"].is_null())
        else {
            continue;
        };
        let forged = run.outcomes().get("bad_signature").copied().unwrap_or_default() as u64;
        assert_eq!(forged, invalid, "{}: forged messages", capture.name);
        let forwardable = run.replay.outcomes.iter().filter(|(.., o)| *o == Outcome::Proven { forwardable: true }).count();
        assert!(forwardable * 2 > capture.messages.len(), "{}: only {forwardable} may be forwarded", capture.name);
    }
}

#[test]
fn captures_message_by_message() {
    let shapes = ["phase0_2", "fulu_52_ops", "gloas_12"];
    for capture in captures().iter().filter(|capture| shapes.contains(&capture.name.as_str())) {
        check(capture, VerifyConfig { singles: SinglesProof::Sums, ..VerifyConfig::default() }, 1);
    }
}

/// Replays captures backwards, so that every message comes before its context. What can be proven
/// later is proven, and the rest is counted.
#[test]
fn captures_backwards() {
    // In these captures the current time cannot be known without the order of the messages, or the
    // times are wrong.
    let in_time = |capture: &&Capture| capture.expected["preset"] == "minimal" && capture.name != "wrong_times";
    for capture in captures().iter().filter(in_time) {
        let mut backwards = capture.messages.clone();
        backwards.reverse();
        let mut chain = capture.chain();
        let mut verifier = Verifier::seeded(VerifyConfig::replay(), 1);
        let mut run = Run { replay: Replay::default(), data: BTreeMap::new() };
        let now = capture.messages.iter().map(|message| message.received_at).max().unwrap();
        // Whether the fork has already happened decides which fork version a message is signed
        // with.
        chain.tick(chain.network().slot_at(now.0));
        for messages in backwards.chunks(29) {
            run.take(verifier.process(&mut chain, messages.to_vec(), now));
        }
        run.take(verifier.process(&mut chain, Vec::new(), Time(now.0 + 6_000_000_000)));
        run.take(verifier.finish(&mut chain, now));
        println!("{} backwards: {:?}, {} blocks", capture.name, run.outcomes(), run.replay.n_blocks);
        let expected = replay(capture, VerifyConfig::replay(), 29);
        let [found, expected] = [run, expected].map(|run| without_optional(capture, run.findings()));
        assert_eq!(found, expected, "{}", capture.name);
    }
}
