//! The API over real connections on loopback.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::*;
use evidence::{Kind, Severity};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_support::samples::everyone;

#[tokio::test]
async fn findings_are_shown_as_they_are_stored() {
    let api = Api::start().await;
    let (finding, _) = double_vote(7, 100);
    api.store.record(vec![double_vote(7, 100)], &[]).unwrap();
    let shown = api.json("/v1/findings").await;
    assert_eq!(shown, json!({"schema": 1, "findings": [serde_json::to_value(&finding).unwrap()], "next": null}));
    assert_eq!(api.json(&format!("/v1/findings/{}", finding.id)).await, serde_json::to_value(&finding).unwrap());
}

#[tokio::test]
async fn pages_and_filters() {
    let api = Api::start().await;
    api.store.record((1..=30).map(|nth| double_vote(nth % 3, nth)).collect(), &[]).unwrap();
    let mut address = "/v1/findings?validator=1&since_slot=5&until_slot=25&kind=double_vote&limit=3".to_string();
    let first = address.clone();
    let mut slots = Vec::new();
    loop {
        let page = api.json(&address).await;
        slots.extend(page["findings"].as_array().unwrap().iter().map(|finding| finding["slot"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        address = format!("{first}&cursor={next}");
    }
    assert_eq!(slots, ["7", "10", "13", "16", "19", "22", "25"]);
    assert_eq!(api.json("/v1/findings?kind=clock_skew").await["findings"], json!([]));
    for (filters, wanted) in [
        ("order=desc&limit=3", vec!["30", "29", "28"]),
        ("order=desc&limit=3&cursor=28", vec!["27", "26", "25"]),
        ("order=desc&validator=2&until_slot=9", vec!["8", "5", "2"]),
        ("severity=critical&since_slot=29", vec!["29", "30"]),
        ("severity=info", vec![]),
        ("label=%3Cb%3Eours%3D1%3C/b%3E&since_slot=29", vec!["29", "30"]),
        ("label=operator%3Dnobody", vec![]),
        ("group=nobody", vec![]),
    ] {
        let page = api.json(&format!("/v1/findings?{filters}")).await;
        let slots: Vec<&str> =
            page["findings"].as_array().unwrap().iter().map(|finding| finding["slot"].as_str().unwrap()).collect();
        assert_eq!(slots, wanted, "{filters}");
    }
}

#[tokio::test]
async fn ten_thousand_findings_are_paged_from_end_to_end() {
    const N_FINDINGS: u64 = 10_000;
    let api = Api::start().await;
    api.store.record((0..N_FINDINGS).map(|nth| double_vote(nth % 3000, nth)).collect(), &[]).unwrap();
    for (order, limit) in [("asc", 1000), ("desc", 1000), ("asc", 100)] {
        let first = format!("/v1/findings?order={order}&limit={limit}");
        let (mut address, mut slots) = (first.clone(), Vec::new());
        loop {
            let page = api.json(&address).await;
            slots.extend(page["findings"].as_array().unwrap().iter().map(|finding| finding["slot"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            address = format!("{first}&cursor={next}");
        }
        let mut wanted: Vec<String> = (0..N_FINDINGS).map(|slot| slot.to_string()).collect();
        if order == "desc" {
            wanted.reverse();
        }
        assert!(slots == wanted, "{order} {limit}: {} findings", slots.len());
    }
}

#[tokio::test]
async fn evidence_comes_as_json_and_as_ssz_with_its_fork() {
    let api = Api::start().await;
    let (finding, evidence) = double_vote(7, 100);
    api.store.record(vec![double_vote(7, 100)], &[]).unwrap();
    api.store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Warning, 9)], &[]).unwrap();

    let by_finding = format!("/v1/findings/{}/evidence", finding.id);
    let by_id = format!("/v1/evidence/{}", evidence.id);
    let reference = finding.evidence.unwrap();
    for address in [&by_finding, &by_id, &format!("{by_finding}?format=json"), &format!("/v1/evidence/{}", reference.json)] {
        let answer = api.get(address).await;
        assert_eq!(answer.headers()["eth-consensus-version"], "fulu", "{address}");
        assert_eq!(answer.headers()["content-type"], "application/json", "{address}");
        assert_eq!(answer.json::<Value>().await.unwrap(), evidence.json, "{address}");
    }
    for address in [
        &format!("{by_finding}.ssz"),
        &format!("{by_finding}?format=ssz"),
        &format!("{by_id}?format=ssz"),
        &format!("/v1/evidence/{}", reference.ssz),
    ] {
        let answer = api.get(address).await;
        assert_eq!(answer.headers()["eth-consensus-version"], "fulu", "{address}");
        assert_eq!(answer.headers()["content-type"], "application/octet-stream", "{address}");
        assert_eq!(answer.bytes().await.unwrap(), evidence.ssz, "{address}");
    }
    for (accept, content_type) in [
        ("application/octet-stream", "application/octet-stream"),
        ("application/octet-stream;q=1,application/json;q=0.9", "application/octet-stream"),
        ("text/plain, */*", "application/json"),
    ] {
        let answer = api.client.get(api.url(&by_finding)).header("accept", accept).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], content_type, "{accept}");
    }
    let picky = api.client.get(api.url(&by_id)).header("accept", "text/csv").send().await.unwrap();
    assert_problem(picky, StatusCode::NOT_ACCEPTABLE, "octet-stream").await;

    let harmless = anomaly(Kind::ClockSkew, Severity::Warning, 9).id;
    assert_problem(api.get(&format!("/v1/findings/{harmless}/evidence")).await, StatusCode::NOT_FOUND, "no offence").await;
}

#[tokio::test]
async fn every_error_is_a_problem_that_says_what_to_do() {
    let api = Api::start().await;
    let nobody = format!("0x{}", "00".repeat(32));
    for (address, status, word) in [
        ("/nothing".to_string(), 404, "/openapi.json"),
        ("/v1".into(), 404, "/openapi.json"),
        ("/v1/findings/".into(), 404, "/openapi.json"),
        (format!("/v1/findings/{nobody}"), 404, "/v1/findings lists them"),
        (format!("/v1/findings/{nobody}/evidence"), 404, "/v1/findings"),
        (format!("/v1/evidence/{nobody}.ssz"), 404, "findings name theirs"),
        (format!("/v1/evidence/{nobody}?format=xml"), 400, "json and ssz"),
        ("/v1/findings/0x12".into(), 400, "64 hex digits"),
        (format!("/v1/findings/{}", "00".repeat(32)), 400, "64 hex digits"),
        ("/v1/findings/%ff".into(), 400, "UTF-8"),
        ("/v1/findings?limit=0".into(), 400, "1 to 1000"),
        ("/v1/findings?limit=1001".into(), 400, "1 to 1000"),
        ("/v1/findings?limit=99999999999999999999".into(), 400, "limit must be a whole number"),
        ("/v1/findings?validator=-1".into(), 400, "validator must be a whole number"),
        ("/v1/findings?cursor=x".into(), 400, "cursor must be"),
        ("/v1/findings?order=newest".into(), 400, "asc or desc"),
        ("/v1/findings?kind=nonsense".into(), 400, "nonsense"),
        ("/v1/findings?severity=bad".into(), 400, "critical, warning or info"),
        ("/v1/findings?label=acme".into(), 400, "key=value"),
        ("/v1/findings?colour=red".into(), 400, "colour"),
        ("/v1/events?after=never".into(), 400, "after must be"),
        (format!("/v1/findings?kind={}", "k".repeat(3000)), 414, "2048"),
    ] {
        assert_problem(api.get(&address).await, StatusCode::from_u16(status).unwrap(), word).await;
    }
    for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
        let answer = api.client.request(method, api.url("/v1/findings")).send().await.unwrap();
        assert_eq!(answer.headers().get("allow").unwrap(), "GET,HEAD");
        assert_problem(answer, StatusCode::METHOD_NOT_ALLOWED, "only reads").await;
    }
    let big = api.client.get(api.url("/healthz")).body(vec![0; 5000]).send().await.unwrap();
    assert_problem(big, StatusCode::PAYLOAD_TOO_LARGE, "1024").await;
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let api = Api::start().await;
    for address in ["/", "/healthz", "/v1/status", "/v1/findings", "/metrics", "/openapi.json"] {
        let answer = api.client.head(api.url(address)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{address}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(answer.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn ready_when_all_parts_are() {
    let api = Api::start().await;
    assert_eq!(api.get("/healthz").await.text().await.unwrap(), "ok\n");
    assert_eq!(api.get("/readyz").await.status(), StatusCode::OK);
    api.status.set_listening(false);
    let missing = "no vote or block has come from the network since 1970-01-01T00:00:07.000000000Z; give peers; http://10.0.0.5:5052 answers nothing";
    assert_problem(api.get("/readyz").await, StatusCode::SERVICE_UNAVAILABLE, missing).await;
    let status = api.json("/v1/status").await;
    assert_eq!((&status["ready"], &status["readiness"]["listening"]), (&json!(false), &json!(false)));
    assert_eq!(status["readiness"]["advice"], json!(["give peers; http://10.0.0.5:5052 answers nothing"]));
}

#[tokio::test]
async fn the_status_has_what_the_parts_say_and_the_store_knows() {
    let api = Api::start().await;
    api.store.record(vec![double_vote(7, 100)], &everyone(&["ops", "pager"])).unwrap();
    let shown = api.json("/v1/status").await;
    assert_eq!(shown["network"], "testnet");
    assert_eq!(shown["genesis_validators_root"], json!(NETWORK));
    assert_eq!((&shown["clock_slot"], &shown["head"]["slot"]), (&json!("1000"), &json!("999")));
    assert_eq!(shown["finalized"], json!({"epoch": "29", "root": NETWORK}));
    assert_eq!(shown["stages"]["verify"]["proven"], 5);
    assert_eq!(shown["node"], json!({"state": "away", "reason": "http://10.0.0.5:5052: timed out"}));
    assert_eq!(shown["gaps"], json!([{"from_slot": "10", "to_slot": "20", "reason": "not running"}]));
    assert_eq!(shown["findings"], 1);
    assert_eq!(shown["deliveries"], json!({"pending": 2, "delivered": 0, "given_up": 0}));
}

#[tokio::test]
async fn metrics_have_ours_and_the_processs() {
    let api = Api::start().await;
    api.get("/v1/status").await;
    api.get("/nothing").await;
    let text = api.get("/metrics").await.text().await.unwrap();
    assert!(text.contains("test_counter 3"), "the registry's own: {text}");
    assert!(text.contains(r#"slashwatch_api_requests_total{class="2xx",route="/v1/status"} 1"#), "{text}");
    assert!(text.contains(r#"slashwatch_api_requests_total{class="4xx",route="none"} 1"#), "{text}");
    assert!(text.contains(r#"slashwatch_api_requests_total{class="5xx",route="/v1/incidents"} 0"#), "before the first: {text}");
}

/// The files that a file of the page names: `src` and `href` of the document, imports of a script.
fn named_files(of: &str, text: &str) -> Vec<String> {
    let folder = of.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut named = Vec::new();
    for (opening, is_relative) in [("src=\"/page/", false), ("href=\"/page/", false), (" from \"", true)] {
        for (at, _) in text.match_indices(opening) {
            let rest = &text[at + opening.len()..];
            let name = &rest[..rest.find('"').unwrap()];
            named.push(match (is_relative, name.strip_prefix("./"), name.strip_prefix("../")) {
                (false, ..) => format!("/page/{name}"),
                (true, Some(name), _) => format!("{folder}/{name}"),
                (true, _, Some(name)) => format!("{}/{name}", folder.rsplit_once('/').unwrap().0),
                (true, None, None) => panic!("{of} imports {name}"),
            });
        }
    }
    named
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let api = Api::start().await;
    let page = api.get("/").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let html = page.text().await.unwrap();
    // The content security policy forbids inline scripts, styles and handlers.
    for inline in ["<style", " style=", " onclick=", "<script>"] {
        assert!(!html.contains(inline), "{inline}");
    }
    let mut waiting = named_files("/", &html);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(file) = waiting.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let answer = api.get(&file).await;
        assert_eq!(answer.status(), StatusCode::OK, "{file}");
        // Licences are read and not run.
        if file.ends_with(".txt") {
            continue;
        }
        // The names of XML namespaces are no addresses.
        let text = answer.text().await.unwrap().replace("http://www.w3.org/2000/svg", "");
        for elsewhere in ["http://", "https://", "@import", "eval(", "new Function", " style="] {
            assert!(!text.contains(elsewhere), "{file}: {elsewhere}");
        }
        if !file.contains("/vendor/") {
            assert!(!text.contains("innerHTML") && !text.contains("dangerouslySet"), "{file}");
        }
        waiting.extend(named_files(&file, &text));
    }
    assert!(seen.contains("/page/views/finding.js") && seen.contains("/page/page.css"), "{seen:?}");
}

/// `/docs`. That it works in a browser under this policy is for `scripts/page-test.sh`.
#[tokio::test]
async fn the_reader_of_the_description_runs_no_inline_scripts_and_asks_this_server_only() {
    let api = Api::start().await;
    let page = api.get("/docs").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.contains("script-src 'self';") && policy.contains("connect-src 'self';") && !policy.contains("http"),
        "{policy}"
    );
    let html = page.text().await.unwrap();
    assert!(!html.contains("<script>") && !html.contains("http"), "{html}");
    for file in named_files("/docs", &html).into_iter().chain(["/page/icon.svg".into()]) {
        for encoding in ["identity", "gzip"] {
            let answer = api.client.get(api.url(&file)).header("accept-encoding", encoding).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{file}");
            let is_compressed = answer.headers().get("content-encoding").is_some();
            assert!(encoding == "gzip" || !is_compressed, "{file}");
        }
    }
    let script = api.get("/page/docs.js").await.text().await.unwrap();
    assert!(script.contains("url: \"/openapi.json\"") && script.contains("validatorUrl: null"), "{script}");
    let bundle = async |encoding: &str| {
        let plain = reqwest::Client::builder().no_gzip().build().unwrap();
        let asked = plain.get(api.url("/page/vendor/swagger-ui-bundle.js")).header("accept-encoding", encoding);
        asked.send().await.unwrap().bytes().await.unwrap()
    };
    let (whole, compressed) = (bundle("identity").await, bundle("gzip").await);
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&compressed[..]), &mut unpacked).unwrap();
    assert!(compressed.len() < whole.len() / 2 && unpacked == whole);
}

/// Answers are kept until the store changes. Who changes it sees the change at once.
#[tokio::test]
async fn an_answer_that_is_kept_is_never_older_than_the_store() {
    let api = Api::start().await;
    for nth in 1..=50 {
        let (finding, proof) = double_vote(nth, nth);
        let id = finding.id;
        assert_eq!(api.get(&format!("/v1/findings/{id}")).await.status(), StatusCode::NOT_FOUND);
        api.store.record(vec![(finding, proof)], &[]).unwrap();
        let shown = api.json("/v1/findings?limit=1000").await;
        assert_eq!(shown["findings"].as_array().unwrap().len() as u64, nth);
        assert_eq!(api.json("/v1/findings?limit=1000").await, shown, "the second answer is the kept one");
        assert_eq!(api.json(&format!("/v1/findings/{id}")).await["included"], Value::Null);
        // A change of what is stored counts too.
        let included = evidence::Included { slot: consensus::Slot::new(nth + 9), block_root: NETWORK };
        let changes = evidence::Changes { inclusions: [(id, Some(included))].into(), ..Default::default() };
        api.store.apply(changes, &[]).unwrap();
        assert_eq!(api.json(&format!("/v1/findings/{id}")).await["included"]["slot"], json!((nth + 9).to_string()));
    }
    let plain = reqwest::Client::builder().no_gzip().build().unwrap();
    let ask = async |encoding: &str| {
        plain.get(api.url("/v1/findings?limit=9")).header("accept-encoding", encoding).send().await.unwrap()
    };
    for _ in 0..2 {
        let (whole, compressed) = (ask("identity").await, ask("gzip").await);
        assert_eq!(
            (whole.headers().get("content-encoding"), &compressed.headers()["content-encoding"]),
            (None, &"gzip".parse().unwrap())
        );
        assert_eq!(whole.headers()["etag"], compressed.headers()["etag"]);
        let mut unpacked = Vec::new();
        let compressed = compressed.bytes().await.unwrap();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&compressed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, whole.bytes().await.unwrap());
    }
}

#[tokio::test]
async fn every_view_has_an_address_and_others_do_not() {
    let api = Api::start().await;
    let html = api.get("/").await.text().await.unwrap();
    for view in [
        "/findings/0x01",
        "/incidents",
        "/incidents/0x01",
        "/validators/7",
        "/slots/7",
        "/epochs/7",
        "/heads",
        "/network",
        "/slashings",
        "/watch",
    ] {
        let answer = api.get(view).await;
        assert_eq!(answer.status(), StatusCode::OK, "{view}");
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8", "{view}");
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("script-src 'self'"), "{view}");
        assert_eq!(answer.text().await.unwrap(), html, "{view}");
    }
    for other in ["/findings", "/head", "/heads/1", "/validators", "/page/", "/page/none.js", "/page/../page.rs"] {
        assert_eq!(api.get(other).await.status(), StatusCode::NOT_FOUND, "{other}");
    }
}

#[tokio::test]
async fn the_document_describes_every_address_and_findings_as_they_are() {
    let api = Api::start().await;
    let document = api.json("/openapi.json").await;
    assert_eq!(document, serde_json::from_str::<Value>(&api::openapi_json()).unwrap());
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in
        ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/status", "/v1/findings", "/v1/findings/{id}", "/v1/events"]
    {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    // Generated clients have one function per operation, so the ids must differ.
    let operations: Vec<&str> =
        document["paths"].as_object().unwrap().values().map(|path| path["get"]["operationId"].as_str().unwrap()).collect();
    let different: std::collections::BTreeSet<&&str> = operations.iter().collect();
    assert_eq!(different.len(), operations.len(), "{operations:?}");

    // Whatever may happen to any request is described for each.
    for (path, operations) in document["paths"].as_object().unwrap() {
        for status in ["401", "403", "429"] {
            let problem = &operations["get"]["responses"][status]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{path} {status}");
        }
    }
    // Every parameter says which values it takes, if not all texts are possible.
    let parameter = |path: &str, name: &str| {
        let all = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        all.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"].clone()
    };
    assert_eq!(parameter("/v1/findings", "limit")["maximum"], 1000);
    assert_eq!(parameter("/v1/findings", "order")["enum"], json!(["asc", "desc"]));
    assert_eq!(parameter("/v1/findings", "kind")["enum"].as_array().unwrap().len(), Kind::all().count());
    for (path, name) in [("/v1/findings/{id}", "id"), ("/v1/findings", "incident"), ("/v1/roots/{root}", "root")] {
        assert_eq!(parameter(path, name)["pattern"], "^0x[0-9a-fA-F]{64}$", "{path}");
    }
    assert!(document["paths"]["/v1/findings"]["get"]["responses"]["404"].is_object(), "an incident may be unknown");
    assert_eq!(parameter("/v1/validators/{validator}", "limit")["maximum"], 64);
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(document["security"], json!([{}, {"token": []}, {"password": []}]), "a token is not always needed");

    let schemas = &document["components"]["schemas"];
    let mut slashable = serde_json::to_value(double_vote(7, 100).0).unwrap();
    let harmless = serde_json::to_value(anomaly(Kind::ClockSkew, Severity::Info, 9)).unwrap();
    let described: Vec<&String> = schemas["Finding"]["properties"].as_object().unwrap().keys().collect();
    for shown in slashable.as_object().unwrap().keys().chain(harmless.as_object().unwrap().keys()) {
        assert!(described.contains(&shown), "{shown} is not described");
    }
    for required in schemas["Finding"]["required"].as_array().unwrap() {
        let required = required.as_str().unwrap();
        assert!(slashable.get(required).is_some() && harmless.get(required).is_some(), "{required} is not always there");
    }
    slashable["details"] = harmless["details"].clone();
    let shown: Vec<&String> = slashable.as_object().unwrap().keys().collect();
    assert!(described.iter().all(|key| shown.contains(key)), "{described:?} describes what is not there");

    // Numbers of 64 bits and hashes are text in the JSON, whatever their Rust types are.
    let incident = evidence::Incident {
        offences: Some(evidence::OffenceCounts::default()),
        penalty: Some(evidence::Penalty::default()),
        shared: vec![evidence::SharedTrait { what: "client".into(), value: "x".into(), members: evidence::Count(1) }],
        tracking: Some(evidence::Tracking { key: String::new(), peak: 1 }),
        ..evidence::Incident::sample()
    };
    let slashable = serde_json::to_value(double_vote(7, 100).0).unwrap();
    for (name, json) in [("Finding", slashable), ("Incident", serde_json::to_value(incident).unwrap())] {
        for (key, value) in json.as_object().unwrap() {
            let described = &schemas[name]["properties"][key];
            assert!(!described.is_null(), "{name}.{key} is not described");
            assert!(!value.is_string() || !described.to_string().contains("integer"), "{name}.{key}: {value} is {described}");
        }
    }
    assert!(schemas["Incident"]["properties"]["tracking"].is_null(), "it is stored and not shown");
}

#[tokio::test]
async fn a_port_in_use_is_told_by_name() {
    let first = api::bind(anywhere()).await.unwrap();
    let error = api::bind(first.address()).await.unwrap_err();
    assert!(matches!(error, api::ApiError::PortInUse { .. }), "{error}");
    assert!(error.to_string().contains(&first.address().to_string()), "{error}");
}

#[tokio::test]
async fn watched_keys_come_in_pages_and_groups_with_their_kill_switches() {
    let api = Api::start().await;
    let groups = api.json("/v1/watch/groups").await;
    assert_eq!((&groups["groups"][0]["name"], &groups["groups"][0]["kill_switch"]["state"]), (&"acme".into(), &"ready".into()));
    let heard = json!({"heard": 24, "since": "1970-01-01T00:00:07.000000000Z", "peers": 9, "missing": ["7"]});
    assert_eq!(groups["groups"][0]["first_hand"], heard);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.json(&format!("/v1/watch/validators?limit=10{cursor}")).await;
        seen.extend(page["validators"].as_array().unwrap().iter().map(|key| key["index"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, (0..25).map(|index| index.to_string()).collect::<Vec<_>>());
    assert_eq!((&groups["groups"][0]["indices"], &groups["groups"][0]["labels"]), (&"0-24".into(), &json!(["operator=a"])));
    // Epoch 33 has been voted for in epoch 31. The next one begins in slot 34 * 32.
    let start = |epoch: u64| {
        let slot = consensus::Slot::new(epoch * 32);
        evidence::Time::from_unix_ns(api::ObservedSource::network(&TestObserved).slot_start_ns(slot))
    };
    let signed = json!({
        "voted": 3, "ahead": 1, "highest_target": "33", "free_from": start(34), "restart_from": start(36), "highest_source": "30",
    });
    assert_eq!(groups["groups"][0]["signed"], signed);
    assert_eq!(groups["groups"][0]["cannot_change_sides"], Value::Null);
    assert_eq!(groups["groups"][0]["offences"], json!({"keys": 0, "lost": 0, "is_partial": false, "newest": null}));
    assert_eq!(groups["groups"][0]["startable"], "0-24");
    // The API counts the alarms, so that the page does not have to.
    assert_eq!(groups["groups"][0]["alarms"], json!({"by_kind": {}, "worst": null, "is_partial": false}));
    let mut findings: Vec<_> = (1..=300).map(|slot| double_vote(7, slot)).collect();
    // A key that was in the group when this was recorded, and is not any more.
    findings.push(double_vote(40, 301));
    findings.iter_mut().for_each(|(finding, _)| finding.validator.as_mut().unwrap().labels = vec!["group=acme".into()]);
    api.store.record(findings, &[]).unwrap();
    let mut clock_skew =
        evidence::Incident { kind: Kind::ClockSkew, severity: Severity::Warning, ..evidence::Incident::sample() };
    clock_skew.details.insert("labels".into(), json!(["group=acme"]));
    // The alert about an incident is a finding too, and is not counted beside the incident.
    let mut alert = anomaly(Kind::ClockSkew, Severity::Warning, 9);
    let of_incident = [("incident".into(), json!(clock_skew.id)), ("labels".into(), json!(["group=acme"]))];
    alert.details.as_mut().unwrap().extend(of_incident);
    api.store.record_anomalies(vec![alert], &[]).unwrap();
    let mut split = evidence::Incident {
        kind: Kind::CheckpointSplit,
        severity: Severity::Critical,
        id: consensus::Root::repeat_byte(0x77),
        ..evidence::Incident::sample()
    };
    split.details.insert("oldest_source".into(), json!("29"));
    api.store.put_incidents(&[clock_skew, split]).unwrap();
    let groups = api.json("/v1/watch/groups").await;
    let alarms = json!({"by_kind": {"clock_skew": 1, "double_vote": 199}, "worst": "critical", "is_partial": true});
    assert_eq!(groups["groups"][0]["alarms"], alarms);
    // One key contradicted itself 300 times.
    let newest = double_vote(7, 300).0;
    let newest = json!({"finding": newest.id, "kind": "double_vote", "validator": "7", "slot": "300", "at": newest.second_seen});
    assert_eq!(groups["groups"][0]["offences"], json!({"keys": 1, "lost": 1, "is_partial": false, "newest": newest}));
    assert_eq!(groups["groups"][0]["startable"], "0-6,8-24", "the lost key is left out");
    assert_eq!(groups["groups"][0]["cannot_change_sides"], 2, "those whose source is newer than 29");
    let keys = api.json("/v1/watch/validators?limit=10").await;
    assert_eq!(keys["validators"][7]["alarms"], json!({"by_kind": {"double_vote": 20}, "worst": "critical", "is_partial": true}));
    assert_eq!(keys["validators"][8]["alarms"]["worst"], Value::Null);
    let missing = api.json("/v1/watch/validators?missed_in_a_row=1").await;
    assert_eq!(missing["validators"].as_array().unwrap().len(), 5);
    let of_group = api.json("/v1/watch/validators?group=acme&label=group%3Dacme").await;
    assert_eq!(of_group["validators"].as_array().unwrap().len(), 25);
    // A label that a list gives is known before anything is reported of its keys.
    let not_reported = api.json("/v1/watch/validators?label=operator%3Dnew").await;
    assert_eq!(not_reported["validators"], json!([]));
    for (query, word) in [
        ("limit=0", "limit"),
        ("label=acme", "key=value"),
        ("cursor=x", "cursor"),
        ("nonsense=1", "nonsense"),
        ("group=nope", "there are acme"),
        ("label=group%3Dnope", "no watched key"),
    ] {
        let answer = api.get(&format!("/v1/watch/validators?{query}")).await;
        assert_problem(answer, StatusCode::BAD_REQUEST, word).await;
    }
}

/// Hundreds of newer findings of another kind do not hide what happened once, and a key whose
/// offence cannot be punished any more is lost like the others.
#[tokio::test]
async fn every_kind_of_a_group_is_named_and_every_lost_key_is_left_out() {
    let api = Api::start().await;
    let of_group = |mut finding: evidence::Finding| {
        finding.validator.as_mut().unwrap().labels = vec!["group=acme".into()];
        finding
    };
    let (mut not_punishable, proof) = double_vote(3, 1);
    not_punishable.severity = Severity::Info;
    api.store.record(vec![(of_group(not_punishable), proof)], &[]).unwrap();
    let (finding, proof) = double_vote(7, 2);
    api.store.record(vec![(of_group(finding), proof)], &[]).unwrap();
    let second_signers = (1..=400u64).map(|slot| {
        let mut finding = anomaly(Kind::SecondSigner, Severity::Critical, 1000 + slot);
        finding.id = consensus::Root::from_slice(&[[0xaa; 24].as_slice(), &slot.to_be_bytes()].concat());
        finding.validator = double_vote(9, slot).0.validator;
        of_group(finding)
    });
    api.store.record_anomalies(second_signers.collect(), &[]).unwrap();
    let group = api.json("/v1/watch/groups").await["groups"][0].clone();
    assert_eq!(group["alarms"]["by_kind"], json!({"double_vote": 1, "second_signer": 200}));
    assert_eq!((&group["offences"]["lost"], &group["startable"]), (&2.into(), &"0-2,4-6,8-24".into()), "{group}");
}

/// The kill switch of the group was made ready again at 200 ns. Findings are recorded at as many
/// nanoseconds as their slot.
#[tokio::test]
async fn a_group_is_armed_again_until_something_critical_is_recorded() {
    let api = Api::start().await;
    let of_group = |mut finding: evidence::Finding| {
        finding.validator.as_mut().unwrap().labels = vec!["group=acme".into()];
        finding
    };
    let (finding, proof) = double_vote(7, 100);
    api.store.record(vec![(of_group(finding), proof)], &[]).unwrap();
    // The alert about an order that failed, and was over because of the rearming.
    let mut over = anomaly(Kind::KillSwitchFailed, Severity::Critical, 201);
    let details = [("incident".into(), json!("0x01")), ("labels".into(), json!(["group=acme"])), ("news".into(), json!("over"))];
    over.details.as_mut().unwrap().extend(details);
    api.store.record_anomalies(vec![over, anomaly(Kind::MissedDuties, Severity::Warning, 300)], &[]).unwrap();
    let group = api.json("/v1/watch/groups").await["groups"][0].clone();
    assert_eq!(group["kill_switch"]["armed_again_at"], "1970-01-01T00:00:00.000000200Z");
    assert_eq!((&group["is_armed_again"], &group["offences"]["newest"]["kind"]), (&true.into(), &"double_vote".into()));
    assert_eq!(group["alarms"]["worst"], "critical", "it is not hidden: {group}");
    // It has no proof, and is news all the same.
    let mut second_signer = anomaly(Kind::SecondSigner, Severity::Critical, 201);
    second_signer.validator = double_vote(8, 201).0.validator;
    api.store.record_anomalies(vec![of_group(second_signer)], &[]).unwrap();
    let group = api.json("/v1/watch/groups").await["groups"][0].clone();
    assert_eq!((&group["is_armed_again"], &group["offences"]["newest"]["kind"]), (&false.into(), &"second_signer".into()));
}
