//! What is not shown to everybody: who watches which keys.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use api::OwnKeys;
use common::*;
use eventsource_stream::Eventsource as _;
use evidence::{Finding, Incident, Severity};
use futures::StreamExt as _;
use reqwest::StatusCode;
use serde_json::json;

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

/// An offence of a watched key, what is said besides because it is watched, and two incidents.
fn fill(api: &Api) -> Finding {
    let (mut finding, evidence) = double_vote(7, 100);
    finding.validator.as_mut().unwrap().labels = vec!["group=acme".into(), "pool=blue".into()];
    api.store.record(vec![(finding.clone(), evidence)], &[]).unwrap();
    let about_keys = ["missed_duties", "flapping_keys", "dormant_key_signed", "second_signer"];
    let told = about_keys.map(|kind| anomaly(kind, Severity::Critical, 101)).to_vec();
    api.store.record_anomalies([told, vec![anomaly("clock_skew", Severity::Warning, 102)]].concat(), &[]).unwrap();
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
    let second_signer = anomaly("second_signer", Severity::Critical, 101).id;
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
    // An incident has no id of its own: the last one stays.
    assert_eq!(told, [("finding", "1"), ("finding", "6"), ("incident", "6")]);
    assert!(events.iter().all(|event| !event.data.contains("acme")), "{events:?}");
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
