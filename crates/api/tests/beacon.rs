//! Slashings in the form of the beacon API, as programs that are written for a node read them.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::*;
use consensus::{ForkName, Offence, Root, Slot};
use evidence::{Changes, Evidence, EvidenceKind, Finding, Included, Kind, Punishable, Severity};
use futures::StreamExt as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A double vote of `accused`, next to `others` who signed only one of the two.
fn double_vote_of(accused: &[u64], others: &[u64], slot: u64) -> (Finding, Arc<Evidence>) {
    let vote = |indices: BTreeSet<u64>, byte: u8| {
        let indices: Vec<String> = indices.iter().map(u64::to_string).collect();
        let checkpoint = json!({"epoch": (slot / 32).to_string(), "root": Root::repeat_byte(1).to_string()});
        let data = json!({"slot": slot.to_string(), "index": "0", "beacon_block_root": Root::repeat_byte(byte).to_string(),
            "source": checkpoint, "target": checkpoint});
        json!({"attesting_indices": indices, "data": data, "signature": format!("0x{}", "ab".repeat(96))})
    };
    let json = json!({
        "attestation_1": vote(accused.iter().chain(others).copied().collect(), 2),
        "attestation_2": vote(accused.iter().copied().collect(), 3),
    });
    let ssz = serde_json::to_vec(&json).unwrap();
    let evidence = Arc::new(Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Electra, ssz, json));
    let (finding, _) = labelled_offence(Offence::DoubleVote, accused[0], slot, &[]);
    (Finding { evidence: Some(evidence.reference()), ..finding }, evidence)
}

fn double_proposal_of(proposer: u64, slot: u64) -> (Finding, Arc<Evidence>) {
    let header = |byte: u8| {
        let root = Root::repeat_byte(byte).to_string();
        json!({"message": {"slot": slot.to_string(), "proposer_index": proposer.to_string(), "parent_root": root,
            "state_root": root, "body_root": root}, "signature": format!("0x{}", "ab".repeat(96))})
    };
    let json = json!({"signed_header_1": header(1), "signed_header_2": header(2)});
    let ssz = serde_json::to_vec(&json).unwrap();
    let evidence = Arc::new(Evidence::new(EvidenceKind::ProposerSlashing, ForkName::Electra, ssz, json));
    let (finding, _) = labelled_offence(Offence::DoubleProposal, proposer, slot, &[]);
    (Finding { evidence: Some(evidence.reference()), ..finding }, evidence)
}

fn indices(vote: &Value) -> BTreeSet<u64> {
    vote["attesting_indices"].as_array().unwrap().iter().map(|index| index.as_str().unwrap().parse().unwrap()).collect()
}

/// The lines of a stream, one by one.
struct Lines<S> {
    pieces: S,
    left: Vec<u8>,
}

impl<S: futures::Stream<Item = reqwest::Result<axum::body::Bytes>> + Unpin> Lines<S> {
    async fn next(&mut self) -> String {
        loop {
            if let Some(end) = self.left.iter().position(|byte| *byte == b'\n') {
                return String::from_utf8(self.left.drain(..=end).collect()).unwrap();
            }
            self.left.extend(self.pieces.next().await.expect("the stream goes on").unwrap());
        }
    }
}

/// What Vero's `subscribe_to_events`, event consumer and validator status tracker do (version
/// 1.4.1): subscribe to four topics of a node, read the stream by lines of their own making, and
/// stop all duties when a slashing names one of the own validators. Returns the event that stopped
/// it, and how many it had read before.
///
/// It is stricter than a reader of server-sent events: nothing may come between `event:` and
/// `data:`, the data is one line without another `data:`, and the JSON has these fields at least.
async fn stops_on(answer: reqwest::Response, own: &BTreeSet<u64>) -> (String, usize) {
    let mut lines = Lines { pieces: answer.bytes_stream(), left: Vec::new() };
    let mut n_read = 0;
    loop {
        let line = lines.next().await;
        if line.starts_with(':') || line.trim().is_empty() {
            continue;
        }
        assert!(line.starts_with("event:"), "Vero does not expect this line: {line:?}");
        let event = line.split(':').nth(1).unwrap().trim().to_owned();
        let mut of_event = Vec::new();
        loop {
            match lines.next().await {
                end if end == "\n" || end == "\r\n" => break,
                line => of_event.push(line),
            }
        }
        let data: Value = serde_json::from_str(of_event[0].split("data:").nth(1).unwrap()).unwrap();
        let accused: BTreeSet<u64> = match event.as_str() {
            "attester_slashing" => {
                indices(&data["attestation_1"]).intersection(&indices(&data["attestation_2"])).copied().collect()
            }
            "proposer_slashing" => {
                let proposer = |header: &str| data[header]["message"]["proposer_index"].as_str().unwrap().parse().unwrap();
                [proposer("signed_header_1"), proposer("signed_header_2")].into()
            }
            other => panic!("an event that Vero cannot process: {other}"),
        };
        if accused.iter().any(|validator| own.contains(validator)) {
            return (event, n_read);
        }
        n_read += 1;
    }
}

const VERO: &str = "/eth/v1/events?topics=head&topics=chain_reorg&topics=attester_slashing&topics=proposer_slashing";

#[tokio::test]
async fn a_validator_client_stops_at_our_event_and_at_no_other() {
    let api = Api::start().await;
    // What was recorded before is not sent, as a node would not.
    api.store.record(vec![double_vote_of(&[1], &[], 90)], &[]).unwrap();
    let own: BTreeSet<u64> = [1, 7, 8].into();
    let (votes, proposals) = (api.get(VERO).await, api.get(VERO).await);
    assert_eq!((votes.status(), &votes.headers()["content-type"]), (StatusCode::OK, &"text/event-stream".parse().unwrap()));
    let signed_once = double_vote_of(&[9], &[1, 7, 8], 91);
    let (mut expired, old_proof) = double_vote_of(&[7], &[], 92);
    expired.set_punishable(Punishable::AlreadySlashed);
    api.store.record(vec![signed_once, (expired, old_proof)], &[]).unwrap();
    api.store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Critical, 93)], &[]).unwrap();
    // Two findings with one proof are one event.
    let (first, shared) = double_vote_of(&[20, 21], &[], 94);
    let (second, _) = labelled_offence(Offence::DoubleVote, 21, 94, &[]);
    let second = Finding { evidence: Some(shared.reference()), ..second };
    api.store.record(vec![(first, shared.clone())], &[]).unwrap();
    api.store.record(vec![(second, shared)], &[]).unwrap();
    api.store.record(vec![double_vote_of(&[8, 30], &[5], 95)], &[]).unwrap();
    assert_eq!(stops_on(votes, &own).await, ("attester_slashing".to_owned(), 2));
    api.store.record(vec![double_proposal_of(40, 96), double_proposal_of(41, 96)], &[]).unwrap();
    assert_eq!(stops_on(proposals, &[41].into()).await, ("proposer_slashing".to_owned(), 4));

    for wrong in ["", "?topics=head", "?topics=none", "?topics=attester_slashing&after=0"] {
        assert_problem(api.get(&format!("/eth/v1/events{wrong}")).await, StatusCode::BAD_REQUEST, "topic").await;
    }
}

#[tokio::test]
async fn the_pool_has_what_no_block_has_once_per_validator() {
    let api = Api::start().await;
    assert_eq!(api.json("/eth/v1/beacon/pool/attester_slashings").await, json!({"data": []}));
    let included = double_vote_of(&[1], &[], 90);
    let other_of_included = double_vote_of(&[1], &[2], 91);
    let (older, newer) = (double_vote_of(&[3, 4], &[], 92), double_vote_of(&[4, 3, 5], &[], 93));
    let (mut expired, old_proof) = double_vote_of(&[6], &[], 94);
    expired.set_punishable(Punishable::Withdrawable);
    let proposal = double_proposal_of(7, 95);
    let inclusion = Included { slot: Slot::new(99), block_root: Root::repeat_byte(5) };
    let inclusions: HashMap<Root, Option<Included>> = [(included.0.id, Some(inclusion))].into();
    let rows = [included, other_of_included, older, newer.clone(), (expired, old_proof), proposal.clone()];
    let findings = rows.into_iter().map(|(finding, evidence)| (finding, Some(evidence))).collect();
    api.store.apply(Changes { findings, inclusions, ..Changes::default() }, &[]).unwrap();
    let pool = api.json("/eth/v1/beacon/pool/attester_slashings").await;
    assert_eq!(pool, json!({"data": [newer.1.json]}), "the newest proof of validators 3 and 4, none of 1 and 6");
    assert_eq!(api.json("/eth/v1/beacon/pool/proposer_slashings").await, json!({"data": [proposal.1.json]}));
    // The clock of this network is in its first fork.
    let answer = api.get("/eth/v2/beacon/pool/attester_slashings").await;
    assert_eq!(answer.headers()["eth-consensus-version"], "phase0");
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"version": "phase0", "data": [newer.1.json]}));
    assert_eq!(api.json("/eth/v2/beacon/pool/proposer_slashings").await["data"], json!([proposal.1.json]));
    let posted = api.client.post(api.url("/eth/v2/beacon/pool/attester_slashings")).send().await.unwrap();
    assert_problem(posted, StatusCode::METHOD_NOT_ALLOWED, "reads").await;
}
