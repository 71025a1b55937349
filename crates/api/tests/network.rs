//! What the API shows of the network: slots, epochs, branches, forks, validators and slashings.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use api::OwnKeys;
use common::*;
use consensus::{Root, Slot};
use evidence::{Changes, Included, Kind, Punishable, Severity};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;

#[tokio::test]
async fn a_slot_shows_its_blocks_against_its_deadlines_and_who_voted_for_what() {
    let api = Api::start().await;
    api.store.record(vec![double_vote(7, 1000)], &[]).unwrap();
    let slot = api.json("/v1/slots/1000").await;
    assert_eq!((&slot["slot"], &slot["epoch"], &slot["source"]), (&json!("1000"), &json!("31"), &json!("memory")));
    assert_eq!(slot["start"], "2020-12-01T15:20:23.000000000Z");
    assert_eq!(slot["deadlines_ms"], json!({"attestation": 4000, "aggregate": 8000, "payload": null}));
    let heard = json!({"at": "2020-12-01T15:20:24.500000000Z", "after_slot_start_ms": 1500.0, "source": "gossip"});
    assert_eq!(slot["blocks"][0]["heard"], heard);
    assert_eq!((&slot["blocks"][0]["client"], &slot["blocks"][0]["proposer"]), (&json!("teku"), &json!("7")));
    assert_eq!((&slot["is_double_proposal"], &slot["is_over"]), (&json!(true), &json!(false)));
    assert_eq!((&slot["seats"], &slot["voters"], &slot["participation"]), (&json!(4), &json!(3), &json!(0.75)));
    assert_eq!(slot["votes"][0]["head"], Root::repeat_byte(2).to_string());
    assert_eq!((&slot["votes"][0]["head_slot"], &slot["votes"][1]["head_slot"]), (&json!("1000"), &Value::Null));
    assert_eq!((&slot["votes"][0]["votes"], &slot["votes"][0]["stake_gwei"]), (&json!(2), &json!("64000000000")));
    assert_eq!(slot["votes"][0]["target"], json!({"epoch": "30", "root": NETWORK.to_string()}));
    assert_eq!(slot["findings"], json!({"by_kind": {"double_vote": 1}, "is_partial": false}));

    assert_eq!(api.json("/v1/slots/200").await["source"], "index");
    assert_problem(api.get("/v1/slots/7").await, StatusCode::NOT_FOUND, "slot 7").await;
    assert_problem(api.get("/v1/slots/1001").await, StatusCode::NOT_FOUND, "slot 1001").await;
    assert_problem(api.get("/v1/slots/seven").await, StatusCode::BAD_REQUEST, "seven").await;
    let busy = api.get("/v1/slots/64").await;
    assert_eq!(busy.headers()["retry-after"], "1");
    assert_problem(busy, StatusCode::SERVICE_UNAVAILABLE, "again").await;
}

#[tokio::test]
async fn an_epoch_has_a_row_for_each_slot() {
    let api = Api::start().await;
    api.store.record(vec![double_vote(7, 970), double_vote(8, 970), double_vote(9, 9)], &[]).unwrap();
    let epoch = api.json("/v1/epochs/30").await;
    assert_eq!((&epoch["first_slot"], &epoch["last_slot"], &epoch["is_over"]), (&json!("960"), &json!("991"), &json!(true)));
    let slots = epoch["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 32);
    assert_eq!(
        slots[10],
        json!({"slot": "970", "blocks": 2, "seats": 4, "voters": 3, "participation": 0.75, "heads": 2,
               "leading_head": Root::repeat_byte(2).to_string(), "leading_votes": 2, "findings": 2})
    );
    assert_eq!((&epoch["participation"], &epoch["findings"]["by_kind"]), (&json!(0.75), &json!({"double_vote": 2})));
    assert_eq!((&epoch["justified"]["epoch"], &epoch["finalized"]), (&json!("30"), &Value::Null));
    // The running epoch has the slots that have begun.
    assert_eq!(api.json("/v1/epochs/31").await["slots"].as_array().unwrap().len(), 9);
    assert_eq!(api.json("/v1/epochs/9").await["source"], "index");
    for (epoch, word) in [("0", "epoch 0"), ("32", "epoch 32"), ("18446744073709551615", "epoch 1844")] {
        assert_problem(api.get(&format!("/v1/epochs/{epoch}")).await, StatusCode::NOT_FOUND, word).await;
    }
    let rows = api.json("/v1/participation?slots=3").await;
    assert_eq!((&rows["now_slot"], &rows["slots"][0]["slot"]), (&json!("1000"), &json!("998")));
    assert_eq!(api.json("/v1/participation").await["slots"].as_array().unwrap().len(), 64);
    // A clock that runs ahead signs for a slot that has not begun. It became known in slot 999.
    let (mut early, proof) = double_vote(8, 1100);
    let in_slot_999 = api::ObservedSource::network(&TestObserved).slot_start_ns(Slot::new(999)) + 1_000_000_000;
    early.second_seen = Some(evidence::Time::from_unix_ns(in_slot_999));
    api.store.record(vec![(early, proof), double_vote(9, 998)], &[]).unwrap();
    let rows = api.json("/v1/participation?slots=3").await;
    let findings: Vec<u64> = rows["slots"].as_array().unwrap().iter().map(|row| row["findings"].as_u64().unwrap()).collect();
    assert_eq!(findings, [1, 1, 0]);
    for slots in ["0", "129", "x"] {
        assert_problem(api.get(&format!("/v1/participation?slots={slots}")).await, StatusCode::BAD_REQUEST, "slots").await;
    }
}

#[tokio::test]
async fn branches_have_their_weight_and_the_peers_on_them() {
    let api = Api::start().await;
    let heads = api.json("/v1/heads").await;
    assert_eq!((&heads["since_slot"], &heads["head"]["slot"]), (&json!("936"), &json!("1000")));
    // 65 slots with two votes for block 2 and one for a block that nobody has.
    assert_eq!(heads["branches"][0]["votes"]["votes"], 130);
    assert_eq!(
        heads["branches"][1],
        json!({"end": Root::repeat_byte(3).to_string(), "slot": "1000",
        "from": Root::repeat_byte(1).to_string(), "from_slot": "999", "blocks": 1,
        "votes": {"votes": 0, "stake_gwei": null, "by_client": [], "by_label": [], "labels_partial": false}, "weight_share": 0.0})
    );
    assert_eq!(heads["unknown_heads"], json!([{"root": Root::repeat_byte(9).to_string(), "votes": 65}]));
    assert_eq!(heads["peers"][0]["peers"], 3);
    assert_eq!(heads["is_split"], false);
}

#[tokio::test]
async fn a_root_says_what_it_names() {
    let api = Api::start().await;
    let (finding, evidence) = double_vote(7, 1000);
    api.store.record(vec![(finding.clone(), evidence.clone())], &[]).unwrap();
    api.store.record_anomalies(vec![anomaly(Kind::MissedDuties, Severity::Warning, 1)], &[]).unwrap();
    let named = async |api: &Api, root: Root| {
        let answer = api.json(&format!("/v1/roots/{root}")).await;
        (answer["finding"].clone(), answer["evidence"].clone(), answer["block_slot"].clone())
    };
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(named(&api, finding.id).await, (yes.clone(), no.clone(), Value::Null));
    assert_eq!(named(&api, evidence.id).await, (no.clone(), yes.clone(), Value::Null));
    assert_eq!(named(&api, Root::repeat_byte(2)).await, (no.clone(), no.clone(), json!("1000")), "a block of the last epochs");
    assert_eq!(named(&api, Root::repeat_byte(0xee)).await, (no.clone(), no.clone(), Value::Null), "nothing is no error");
    assert_problem(api.get("/v1/roots/0x1").await, StatusCode::BAD_REQUEST, "id").await;
    // What may not be shown is not named either.
    let hidden = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Hidden).await;
    let private = anomaly(Kind::MissedDuties, Severity::Warning, 1);
    hidden.store.record_anomalies(vec![private.clone()], &[]).unwrap();
    assert_eq!(named(&hidden, private.id).await.0, no);
}

#[tokio::test]
async fn the_network_shows_forks_traffic_and_clients() {
    let api = Api::start().await;
    let forks = api.json("/v1/forks").await;
    assert_eq!(
        (&forks["current"], &forks["forks"][0]["state"], &forks["forks"][1]["state"]),
        (&json!("phase0"), &json!("current"), &json!("next"))
    );
    let network = api.json("/v1/network").await;
    assert_eq!(network["network"]["name"], "mainnet");
    assert_eq!(network["peers"]["by_client"], json!([{"client": "teku", "peers": 3}]));
    assert_eq!(network["clients"], json!([{"client": "teku", "votes": 99, "blocks": 66, "block_arrival_ms_median": 1500.0}]));
    assert_eq!(network["subnets"][1], json!({"subnet": 1, "votes": 6, "peers": null}));
    assert_eq!(network["arrival"], json!({"bucket_ms": 500.0, "first_bucket_ms": -12000.0, "votes": [0, 1, 2]}));
    assert_eq!(network["blocks"], json!({"heard": 66, "arrival_ms": {"p50": 1500.0, "p95": 4500.0, "max": 4500.0}}));
    assert_eq!(network["clock"], json!({"longest_wait_ms": 12.0, "early_votes": 1, "early_blocks": 2, "incident": null}));
    assert_eq!(network["coverage"]["first_hand"], 0.3125);
    let text = network.to_string();
    assert!(!text.contains("16Uiu2") && !text.contains("10.0.0"), "no peer and no address: {text}");
}

#[tokio::test]
async fn a_validator_shows_its_votes_gaps_and_contradictions_page_by_page() {
    let api = Api::start().await;
    api.store.record((1..=33).map(|slot| double_vote(7, slot)).collect(), &[]).unwrap();
    for address in ["/v1/validators/7?limit=2", &format!("/v1/validators/0x{}?limit=2", "07".repeat(48))] {
        let shown = api.json(address).await;
        assert_eq!((&shown["index"], &shown["first_epoch"], &shown["last_epoch"]), (&json!("7"), &json!("25"), &json!("30")));
        let votes: Vec<&str> =
            shown["votes"].as_array().unwrap().iter().map(|vote| vote["target"]["epoch"].as_str().unwrap()).collect();
        assert_eq!(votes, ["30", "28"]);
        assert_eq!((&shown["votes"][1]["contradicts"], &shown["next"]), (&json!(true), &json!("28")));
        assert_eq!(shown["gaps"], json!([{"first_epoch": "29", "last_epoch": "29"}]));
        assert_eq!(shown["last_heard"]["after_slot_start_ms"], 500.0);
        assert_eq!((shown["findings"].as_array().unwrap().len(), &shown["has_more_findings"]), (32, &json!(true)));
        assert_eq!(shown["findings"][0]["slot"], "33", "newest first");
        assert_eq!((&shown["watched"]["index"], &shown["groups"]), (&json!("7"), &json!(["acme"])));
        assert_eq!(shown["labels"], json!(["group=acme", "pool=blue"]));
        assert_eq!(shown["proposals"][0]["root"], Root::repeat_byte(2).to_string());
    }
    let last = api.json("/v1/validators/7?before_epoch=28").await;
    assert_eq!((&last["votes"][0]["target"]["epoch"], &last["next"]), (&json!("25"), &Value::Null));
    assert_problem(api.get("/v1/validators/8").await, StatusCode::NOT_FOUND, "8").await;
    for (wrong, word) in [("seven", "index"), ("0x07", "key"), ("7?limit=65", "limit"), ("7?before_epoch=x", "before_epoch")] {
        assert_problem(api.get(&format!("/v1/validators/{wrong}")).await, StatusCode::BAD_REQUEST, word).await;
    }
    let page = api.json("/v1/validators?group=acme&limit=2").await;
    assert_eq!((page["validators"].as_array().unwrap().len(), &page["next"]), (2, &json!("1")));
    let page = api.json("/v1/validators?label=pool%3Dblue&cursor=1").await;
    assert_eq!((&page["validators"][0]["index"], &page["next"]), (&json!("2"), &Value::Null));
    for wrong in ["", "?label=blue", "?label=a%3Db&group=c"] {
        assert_problem(api.get(&format!("/v1/validators{wrong}")).await, StatusCode::BAD_REQUEST, "label").await;
    }
}

#[tokio::test]
async fn where_groups_are_hidden_nothing_names_them() {
    let api = Api::start_with(api::HEADER_TIMEOUT, OwnKeys::Hidden).await;
    api.store
        .record(vec![common::labelled_offence(consensus::Offence::DoubleVote, 7, 1000, &["group=acme", "pool=blue"])], &[])
        .unwrap();
    for address in ["/v1/slots/1000", "/v1/heads", "/v1/validators/7", "/v1/validators?label=pool%3Dblue", "/v1/slashings"] {
        let text = api.json(address).await.to_string();
        assert!(!text.contains("acme"), "{address}: {text}");
        assert!(text.contains("pool=blue"), "what a public list says is public: {address}");
    }
    assert_problem(api.get("/v1/validators?group=acme").await, StatusCode::FORBIDDEN, "api.show_watched").await;
    assert_problem(api.get("/v1/validators?label=group%3Dacme").await, StatusCode::FORBIDDEN, "api.show_watched").await;
}

#[tokio::test]
async fn slashings_say_whether_a_block_has_them_and_after_how_long() {
    let api = Api::start().await;
    let slot_of = |slot: u64| api::ObservedSource::network(&TestObserved).slot_start_ns(Slot::new(slot));
    let offence = |validator: u64, slot: u64, punishable: Punishable| {
        let (mut finding, evidence) = double_vote(validator, slot);
        finding.first_seen = evidence::Time::from_unix_ns(slot_of(slot));
        finding.second_seen = Some(evidence::Time::from_unix_ns(slot_of(slot) + 1));
        finding.set_punishable(punishable);
        (finding, evidence)
    };
    // The first two are in a block, by one of the two proofs of each.
    let rows = vec![
        offence(1, 900, Punishable::Yes),
        offence(2, 910, Punishable::Yes),
        offence(2, 911, Punishable::Yes),
        offence(3, 920, Punishable::Yes),
        offence(4, 930, Punishable::Withdrawable),
    ];
    let included = Included { slot: Slot::new(915), block_root: Root::repeat_byte(5) };
    let inclusions: HashMap<Root, Option<Included>> =
        [&rows[0], &rows[1]].map(|(finding, _)| (finding.id, Some(included))).into();
    let findings = rows.into_iter().map(|(finding, evidence)| (finding, Some(evidence))).collect();
    api.store.apply(Changes { findings, inclusions, ..Changes::default() }, &[]).unwrap();
    api.store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Warning, 940)], &[]).unwrap();

    let page = api.json("/v1/slashings").await;
    let rows: Vec<(&str, &str, &Value, &Value)> = page["slashings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["slot"].as_str().unwrap(), row["state"].as_str().unwrap(), &row["delay_slots"], &row["waiting_slots"]))
        .collect();
    let (none, n) = (&Value::Null, |n: u64| json!(n));
    assert_eq!(
        rows,
        [
            ("930", "expired", none, none),
            ("920", "unpublished", none, &n(80)),
            ("911", "slashed_by_another", none, none),
            ("910", "included", &n(5), none),
            ("900", "included", &n(15), none),
        ]
    );
    let row = &page["slashings"][1];
    assert_eq!((&row["type"], &row["validators"], &row["n_validators"]), (&json!("attester_slashing"), &json!(["3"]), &n(1)));
    assert_eq!((&row["kinds"], &row["fork"]), (&json!(["double_vote"]), &json!("fulu")));
    let evidence = format!("/v1/evidence/{}", row["evidence"].as_str().unwrap());
    assert_eq!(api.get(&evidence).await.status(), StatusCode::OK);

    let mut address = "/v1/slashings?included=false&order=asc&limit=1".to_owned();
    let mut slots = Vec::new();
    loop {
        let page = api.json(&address).await;
        slots.extend(page["slashings"].as_array().unwrap().iter().map(|row| row["slot"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        address = format!("/v1/slashings?included=false&order=asc&limit=1&cursor={next}");
    }
    assert_eq!(slots, ["911", "920", "930"]);
    for wrong in ["order=up", "included=1", "limit=0", "cursor=x"] {
        let word = wrong.split('=').next().unwrap();
        assert_problem(api.get(&format!("/v1/slashings?{wrong}")).await, StatusCode::BAD_REQUEST, word).await;
    }

    let feed = api.get("/v1/slashings.rss").await;
    assert_eq!(feed.headers()["content-type"], "application/rss+xml; charset=utf-8");
    let feed = feed.text().await.unwrap();
    assert_eq!(feed.matches("<item>").count(), 5);
    assert!(feed.contains("double vote by validator 1 in slot 900, in the block of slot 915, after 15 slots"), "{feed}");
    assert!(feed.contains("<pubDate>Tue, 01 Dec 2020 15:04:23 +0000</pubDate><category>unpublished</category>"), "{feed}");
}

#[tokio::test]
async fn whoever_has_an_answer_is_not_sent_it_again() {
    let api = Api::start().await;
    let with = async |path: &str, tag: &str| api.client.get(api.url(path)).header("if-none-match", tag).send().await.unwrap();
    for path in ["/v1/findings", "/v1/heads", "/v1/slots/1000", "/v1/slashings.rss", "/openapi.json"] {
        let first = api.get(path).await;
        assert_eq!(first.headers()["cache-control"], "no-cache", "{path}");
        let tag = first.headers()["etag"].to_str().unwrap().to_owned();
        assert!(!first.bytes().await.unwrap().is_empty());
        let again = with(path, &format!("\"other\", {tag}")).await;
        assert_eq!((again.status(), again.headers()["etag"].to_str().unwrap()), (StatusCode::NOT_MODIFIED, &*tag), "{path}");
        assert!(again.bytes().await.unwrap().is_empty());
        assert_eq!(with(path, "\"other\"").await.status(), StatusCode::OK);
    }
    let tag = api.get("/v1/findings").await.headers()["etag"].to_str().unwrap().to_owned();
    api.store.record(vec![double_vote(7, 1000)], &[]).unwrap();
    let changed = with("/v1/findings", &tag).await;
    assert!(changed.status() == StatusCode::OK && changed.headers()["etag"] != *tag, "something is new");
    // Errors and streams have no tag.
    for path in ["/v1/slots/7", "/healthz"] {
        let answer = api.get(path).await;
        assert!(!answer.headers().contains_key("etag") && answer.headers()["cache-control"] == "no-store", "{path}");
    }
    assert!(!api.get("/v1/events").await.headers().contains_key("etag"));
}

#[tokio::test]
async fn the_pack_of_an_incident_is_a_zip_file() {
    let api = Api::start().await;
    api.store.record(vec![double_vote(7, 8)], &[]).unwrap();
    let incident: evidence::Incident = serde_json::from_value(json!({
        "schema": 1, "id": Root::repeat_byte(1), "kind": "slashing_wave", "state": "open", "severity": "critical",
        "first_slot": "7", "last_slot": "9", "opened_at": "2026-01-01T00:00:00.000000000Z", "closed_at": null, "validators": "1",
        "details": {},
    }))
    .unwrap();
    api.store.put_incidents(&[incident]).unwrap();
    let answer = api.get(&format!("/v1/incidents/{}/pack", Root::repeat_byte(1))).await;
    assert_eq!((answer.status(), &answer.headers()["content-type"]), (StatusCode::OK, &"application/zip".parse().unwrap()));
    assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"incident-01010101.zip\"");
    let bytes = answer.bytes().await.unwrap();
    assert!(bytes.starts_with(b"PK\x03\x04"));
    assert!(bytes.windows(10).any(|name| name == b"README.md\x00" || name.ends_with(b"README.md")));
    assert_problem(api.get(&format!("/v1/incidents/{}/pack", Root::repeat_byte(2))).await, StatusCode::NOT_FOUND, "incident")
        .await;
    assert_problem(api.get("/v1/incidents/0x1/pack").await, StatusCode::BAD_REQUEST, "id").await;
}
