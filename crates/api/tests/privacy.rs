//! Data that not everybody may see: who watches which keys.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use api::OwnKeys;
use common::*;
use eventsource_stream::Eventsource as _;
use evidence::{Audience, Finding, Incident, Kind, Severity};
use futures::StreamExt as _;
use reqwest::StatusCode;
use serde_json::{Value, json};

fn incident(kind: &str, byte: u8) -> Incident {
    serde_json::from_value(json!({
        "schema": 1, "id": consensus::Root::repeat_byte(byte), "kind": kind, "state": "open", "severity": "critical",
        "first_slot": "7", "last_slot": "9", "opened_at": "2026-01-01T00:00:00.000000000Z", "closed_at": null, "validators": "3",
        "shared": [{"what": "label:group", "value": "acme", "members": "3"}, {"what": "label:pool", "value": "blue", "members": "3"},
                   {"what": "client", "value": "group=x", "members": "3"}],
        "details": {"suspected_cause": "same_keys_in_two_places", "because": ["3 of 3 share label:group acme", "lost"], "rate": 3,
                    "labels": ["group=acme", "pool=blue"]},
    }))
    .unwrap()
}

/// Records an offence of a watched key, anomalies that exist only because the key is watched, and
/// two incidents.
fn fill(api: &Api) -> Finding {
    let (mut finding, evidence) = double_vote(7, 100);
    finding.validator.as_mut().unwrap().labels = vec!["group=acme".into(), "pool=blue".into()];
    api.store.record(vec![(finding.clone(), evidence)], &[]).unwrap();
    let about_keys = [Kind::MissedDuties, Kind::FlappingKeys, Kind::DormantKeySigned, Kind::SecondSigner];
    let told = about_keys.map(|kind| anomaly(kind, Severity::Critical, 101)).to_vec();
    api.store.record_anomalies([told, vec![anomaly(Kind::ClockSkew, Severity::Warning, 102)]].concat(), &[]).unwrap();
    api.store.put_incidents(&[incident("missed_duties", 1), incident("slashing_wave", 2)]).unwrap();
    finding
}

#[tokio::test]
async fn beyond_loopback_nobody_learns_whose_keys_are_whose() {
    let api = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Hidden).await;
    let finding = fill(&api);
    for address in ["/v1/watch/groups", "/v1/watch/validators"] {
        assert_problem(api.get(address).await, StatusCode::FORBIDDEN, "api.show_watched").await;
    }
    let shown = api.json("/v1/findings").await;
    let kinds: Vec<&str> = shown["findings"].as_array().unwrap().iter().map(|found| found["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["double_vote", "clock_skew"]);
    assert_eq!(shown["findings"][0]["validator"]["labels"], json!(["pool=blue"]), "what a public list says is public");
    let one = api.json(&format!("/v1/findings/{}", finding.id)).await;
    assert_eq!(one["validator"]["labels"], json!(["pool=blue"]));
    let second_signer = anomaly(Kind::SecondSigner, Severity::Critical, 101).id;
    assert_eq!(api.get(&format!("/v1/findings/{second_signer}")).await.status(), StatusCode::NOT_FOUND);

    let incidents = api.json("/v1/incidents").await;
    assert_eq!(incidents["incidents"].as_array().unwrap().len(), 1);
    let shared =
        json!([{"what": "label:pool", "value": "blue", "members": "3"}, {"what": "client", "value": "group=x", "members": "3"}]);
    assert_eq!(incidents["incidents"][0]["shared"], shared);
    let details = json!({"suspected_cause": "same_keys_in_two_places", "because": ["lost"], "rate": 3, "labels": ["pool=blue"]});
    assert_eq!(incidents["incidents"][0]["details"], details);
    let hidden = incident("missed_duties", 1).id;
    assert_eq!(api.get(&format!("/v1/incidents/{hidden}")).await.status(), StatusCode::NOT_FOUND);

    let stream = api.get("/v1/events?after=0").await.bytes_stream().eventsource();
    let events: Vec<_> =
        stream.filter_map(async |event| event.ok().filter(|event| !event.data.is_empty())).take(3).collect().await;
    let told: Vec<(&str, &str)> = events.iter().map(|event| (event.event.as_str(), event.id.as_str())).collect();
    // An incident has no event id of its own, so the last id stays.
    assert_eq!(told, [("finding", "1"), ("finding", "2"), ("incident", "2")]);
    assert!(events.iter().all(|event| !event.data.contains("acme")), "{events:?}");
}

/// Everything that a stranger can see of numbers and pages is the same whether or not there are
/// findings about watched keys. One such finding comes right after the offence of its key, so a gap
/// would tell whose key it is.
#[tokio::test]
async fn what_is_hidden_leaves_no_gap() {
    let transcript = async |is_watched: bool| -> Vec<Value> {
        let api = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Hidden).await;
        let mut seen = Vec::new();
        for round in 0..4u64 {
            let (offence, evidence) = double_vote(7 + round, 100 + round);
            let own = [Kind::SecondSigner, Kind::MissedDuties, Kind::FlappingKeys].map(|kind| {
                let mut anomaly = anomaly(kind, Severity::Critical, 100 + round);
                anomaly.validator = offence.validator.clone();
                anomaly
            });
            api.store.put_incidents(&[incident("slashing_wave", 10 + round as u8)]).unwrap();
            if is_watched {
                api.store.put_incidents(&[incident("missed_duties", 20 + round as u8)]).unwrap();
            }
            let own =
                |n: usize| api.store.record_anomalies(if is_watched { own[..n].to_vec() } else { Vec::new() }, &[]).unwrap();
            let public = anomaly(Kind::ClockSkew, Severity::Warning, 100 + round);
            // The first and the last of all findings are hidden ones.
            own(1);
            api.store.record_anomalies(vec![public], &[]).unwrap();
            api.store.record(vec![(offence, evidence)], &[]).unwrap();
            own(3);
            // Also in between, so that what is known of hidden findings grows.
            seen.push(api.json("/v1/status").await["findings"].clone());
        }
        for path in ["/v1/findings?order=asc", "/v1/findings?order=desc", "/v1/slashings?order=asc", "/v1/slashings?order=desc"] {
            for limit in [1, 2, 3, 8, 100] {
                let mut cursor = "0".to_owned();
                for _ in 0..20 {
                    let page = api.json(&format!("{path}&limit={limit}&cursor={cursor}")).await;
                    seen.push(page.clone());
                    match page["next"].as_str() {
                        Some(next) => cursor = next.to_owned(),
                        None => break,
                    }
                }
            }
        }
        for path in ["/v1/findings?validator=8&limit=1", "/v1/findings?kind=second_signer&limit=1", "/v1/slots/101"] {
            seen.push(api.json(path).await);
        }
        let incidents = api.json("/v1/incidents?limit=4").await;
        seen.push(json!([incidents["incidents"].as_array().unwrap().len(), incidents["next"]]));
        for after in [0, 3] {
            let stream = api.get(&format!("/v1/events?after={after}")).await.bytes_stream().eventsource();
            let findings = stream.filter_map(async |event| event.ok().filter(|event| event.event == "finding"));
            let events: Vec<_> = findings.take(8 - after).collect().await;
            seen.extend(events.iter().map(|event| json!([event.id, event.data])));
        }
        seen
    };
    let (alone, watched) = (transcript(false).await, transcript(true).await);
    assert!(alone.len() > 50, "{}", alone.len());
    assert_eq!(alone, watched);
}

/// Strangers are told of every public kind, and of none that another version of the program knew.
#[tokio::test]
async fn strangers_are_told_of_public_kinds_only() {
    let unknown: Kind = serde_json::from_value(json!("keys_of_tomorrow")).unwrap();
    let kinds: Vec<Kind> = Kind::ANOMALIES.iter().cloned().chain([unknown]).collect();
    for (own_keys, is_told) in [(OwnKeys::Hidden, false), (OwnKeys::Shown, true)] {
        let api = Api::start_with(api::HEADER_TIMEOUT, own_keys).await;
        api.store.record_anomalies(kinds.iter().map(|kind| anomaly(kind.clone(), Severity::Warning, 9)).collect(), &[]).unwrap();
        let incidents: Vec<_> = kinds.iter().zip(1..).map(|(kind, byte)| incident(kind.as_str(), byte)).collect();
        api.store.put_incidents(&incidents).unwrap();
        let wanted: Vec<&Kind> = kinds.iter().filter(|kind| is_told || kind.audience() == Audience::Public).collect();
        for list in ["findings", "incidents"] {
            let shown = api.json(&format!("/v1/{list}")).await;
            let shown: Vec<_> = shown[list].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
            assert_eq!(json!(shown), json!(wanted), "{list}");
        }
    }
}

#[tokio::test]
async fn where_they_may_be_shown_all_of_it_is() {
    let api = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Shown).await;
    let finding = fill(&api);
    assert_eq!(api.json("/v1/findings").await["findings"].as_array().unwrap().len(), 6);
    assert_eq!(api.json(&format!("/v1/findings/{}", finding.id)).await, serde_json::to_value(&finding).unwrap());
    assert_eq!(api.json("/v1/incidents").await["incidents"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/v1/watch/groups").await.status(), StatusCode::OK);
}

/// An incident about labels is shown with those that are public, and not at all if none is.
#[tokio::test]
async fn an_incident_about_private_labels_only_is_not_shown() {
    let divided = |labels: &[&str], byte: u8| {
        let rows: Vec<_> =
            labels.iter().map(|label| json!({"label": label, "payload_present": 2, "payload_absent": 3, "slots": 1})).collect();
        let mut one = incident("payload_status_split", byte);
        one.details = serde_json::from_value(json!({"divided": rows, "further_labels": 0, "labels": labels})).unwrap();
        one.shared = Vec::new();
        one
    };
    for (own_keys, shown) in
        [(OwnKeys::Hidden, vec![vec!["pool=blue"]]), (OwnKeys::Shown, vec![vec!["group=acme"], vec!["group=acme", "pool=blue"]])]
    {
        let api = Api::start_with(api::HEADER_TIMEOUT, own_keys).await;
        api.store.put_incidents(&[divided(&["group=acme"], 1), divided(&["group=acme", "pool=blue"], 2)]).unwrap();
        let incidents = api.json("/v1/incidents").await["incidents"].take();
        let labels: Vec<_> = incidents.as_array().unwrap().iter().map(|one| one["details"]["labels"].clone()).collect();
        assert_eq!(json!(labels), json!(shown));
        let rows: Vec<_> =
            incidents.as_array().unwrap().iter().flat_map(|one| one["details"]["divided"].as_array().unwrap()).collect();
        assert_eq!(rows.len(), shown.concat().len(), "a row for each label that is shown");
        assert_eq!(incidents.to_string().contains("acme"), own_keys == OwnKeys::Shown);
    }
}

/// A submission whose node answered with its own address, and a status with a node and a peer.
#[tokio::test]
async fn addresses_of_nodes_and_peers_are_told_on_loopback_only() {
    let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    for (listen, own_keys, shows) in [
        (anywhere(), OwnKeys::Shown, true),
        (anywhere(), OwnKeys::Hidden, false),
        (everywhere, OwnKeys::Shown, false),
        (everywhere, OwnKeys::Hidden, false),
    ] {
        let api = Api::start_at(listen, api::HEADER_TIMEOUT, own_keys).await;
        let (finding, evidence) = double_vote(7, 100);
        api.store.record(vec![(finding.clone(), evidence.clone())], &[]).unwrap();
        let submission = evidence::Submission {
            schema: evidence::SUBMISSION_SCHEMA,
            number: 1,
            evidence: evidence.id,
            kind: evidence.kind,
            fork: evidence.fork,
            finding: finding.id,
            state: evidence::SubmissionState::Refused,
            attempts: 1,
            first_attempt: evidence::Time::from_unix_ns(1),
            last_attempt: evidence::Time::from_unix_ns(1),
            nodes: vec!["http://10.0.0.5:5052".into()],
            answer: Some("http://10.0.0.5:5052 said 400".into()),
        };
        api.store.put_submission(&submission).unwrap();
        api.status.set_listening(false);
        let shown = if shows { json!("/var/lib/slashwatch") } else { Value::Null };
        assert_eq!(api.json("/v1/status").await["data_dir"], shown, "{listen} {own_keys:?}");
        for path in ["/v1/submissions", "/v1/status", "/readyz"] {
            let text = api.get(path).await.text().await.unwrap();
            assert_eq!(text.contains("10.0.0.5"), shows, "{listen} {own_keys:?} {path}: {text}");
            assert_eq!(text.contains("[address]"), !shows, "{listen} {own_keys:?} {path}: {text}");
        }
    }
}

#[tokio::test]
async fn who_has_a_private_label_cannot_be_found_out_by_asking_for_it() {
    let api = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Hidden).await;
    fill(&api);
    for filter in ["group=acme", "label=group%3Dacme", "group=nobody"] {
        assert_problem(api.get(&format!("/v1/findings?{filter}")).await, StatusCode::FORBIDDEN, "api.show_watched").await;
    }
    assert_eq!(api.json("/v1/findings?label=pool%3Dblue").await["findings"].as_array().unwrap().len(), 1);
}

/// An offence of a watched key is critical even if it cannot be punished any more. That of others
/// is not, so the severity would tell whose it is.
#[tokio::test]
async fn the_severity_does_not_tell_that_a_key_is_watched() {
    let severities = async |own_keys, query: &str| -> Vec<String> {
        let api = Api::start_with(api::HEADER_TIMEOUT, own_keys).await;
        let offences = [(7, Severity::Critical), (8, Severity::Info)].map(|(validator, severity)| {
            let (mut finding, evidence) = double_vote(validator, 100);
            finding.set_punishable(evidence::Punishable::AlreadySlashed);
            finding.severity = severity;
            (finding, evidence)
        });
        api.store.record(offences.to_vec(), &[]).unwrap();
        let shown = api.json(&format!("/v1/findings?{query}")).await;
        shown["findings"].as_array().unwrap().iter().map(|found| found["severity"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(severities(OwnKeys::Shown, "").await, ["critical", "info"]);
    assert_eq!(severities(OwnKeys::Shown, "severity=critical").await, ["critical"]);
    assert_eq!(severities(OwnKeys::Hidden, "").await, ["info", "info"]);
    assert_eq!(severities(OwnKeys::Hidden, "severity=critical").await, Vec::<String>::new());
    assert_eq!(severities(OwnKeys::Hidden, "severity=info").await, ["info", "info"]);
}

/// A label that a group gives is not shown, whoever else has it: a finding has the labels that it
/// would have if nobody watched its key.
#[tokio::test]
async fn a_finding_has_the_labels_that_lists_of_others_give_its_key() {
    let api = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Hidden).await;
    for validator in [7, 8] {
        let (mut finding, evidence) = double_vote(validator, 100);
        finding.validator.as_mut().unwrap().labels = vec!["group=acme".into(), "operator=acme".into(), "pool=blue".into()];
        api.store.record(vec![(finding, evidence)], &[]).unwrap();
    }
    let shown = api.json("/v1/findings").await;
    let labels: Vec<_> = shown["findings"].as_array().unwrap().iter().map(|found| &found["validator"]["labels"]).collect();
    assert_eq!(labels, [&json!(["pool=blue"]), &json!([])]);
}

/// The coverage is in sums for everybody. Addresses and the labels of own groups are not.
#[tokio::test]
async fn the_coverage_is_shown_in_sums_and_without_what_is_private() {
    let other =
        json!([{"client": "lighthouse", "peers": 8, "first_hand": 0.25}, {"client": "other", "peers": 1, "first_hand": 0.0625}]);
    for (own_keys, labels, is_shown) in
        [(OwnKeys::Hidden, vec!["pool=b"], false), (OwnKeys::Shown, vec!["pool=b", "group=acme"], true)]
    {
        let api = Api::start_with(api::HEADER_TIMEOUT, own_keys).await;
        let coverage = api.json("/v1/coverage").await["coverage"].take();
        assert_eq!((&coverage["first_hand"], &coverage["by_client"]), (&json!(0.3125), &other));
        let shown: Vec<&str> =
            coverage["by_label"].as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap()).collect();
        assert_eq!(shown, labels);
        assert_eq!(coverage["peering"].is_object(), is_shown, "{coverage}");
        assert_eq!(coverage.to_string().contains("10.0.0.9"), is_shown);
        let status = api.json("/v1/status").await;
        assert_eq!(status["coverage"], json!({"first_hand": 0.3125, "last_epoch": 0.25, "punished": coverage["punished"]}));
    }
}
