//! Answers that are kept: made once for all who ask at the same time, and never older than what
//! they are made from.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use api::{LabelledValidator, ObservedSlot, ObservedSource, ObservedValidator, ReadError, Recent, RegistryView, ValidatorQuery};
use common::*;
use consensus::{Network, Slot, ValidatorIndex};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What was heard is replaced only when a test does so, and it is counted how often the registry is
/// asked for records. An answer of `/v1/slashings` asks for them once when it is made.
struct Counting {
    recent: Mutex<Arc<Recent>>,
    asked: AtomicU64,
    /// While a test holds it, no answer of `/v1/slashings` gets ready.
    gate: tokio::sync::Mutex<()>,
}

impl Counting {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            recent: Mutex::new(TestObserved.recent()),
            asked: AtomicU64::new(0),
            gate: tokio::sync::Mutex::default(),
        })
    }

    fn set_now(&self, slot: u64) {
        *self.recent.lock().unwrap() = Arc::new(Recent { now: Slot::new(slot), ..(*TestObserved.recent()).clone() });
    }
}

impl ObservedSource for Counting {
    fn network(&self) -> Arc<Network> {
        TestObserved.network()
    }

    fn recent(&self) -> Arc<Recent> {
        self.recent.lock().unwrap().clone()
    }

    fn stored_slots(&self, first: Slot, last: Slot) -> Result<Vec<ObservedSlot>, ReadError> {
        TestObserved.stored_slots(first, last)
    }

    fn validator(&self, query: &ValidatorQuery) -> Result<Option<ObservedValidator>, ReadError> {
        TestObserved.validator(query)
    }

    fn labelled(&self, label: &str, after: Option<ValidatorIndex>, limit: usize) -> Vec<LabelledValidator> {
        TestObserved.labelled(label, after, limit)
    }

    fn records(&self, _: &BTreeSet<ValidatorIndex>) -> Result<BTreeMap<ValidatorIndex, RegistryView>, ReadError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.blocking_lock());
        Ok(BTreeMap::new())
    }
}

async fn start(observed: &Arc<Counting>) -> Api {
    Api::start_as(Options { observed: observed.clone(), max_connections: 128, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_many_ask_for_is_made_once() {
    const N: usize = 64;
    let observed = Counting::new();
    let api = start(&observed).await;
    api.store.record((1..=300).map(|nth| double_vote(nth, nth)).collect(), &[]).unwrap();
    let path = "/v1/slashings?limit=1000";
    let answers = futures::future::join_all((0..N).map(|_| api.get(path))).await;
    let mut bodies = BTreeSet::new();
    for answer in answers {
        assert_eq!(answer.status(), StatusCode::OK);
        bodies.insert(answer.text().await.unwrap());
    }
    assert_eq!(bodies.len(), 1);
    // An answer is kept for a second, and a slow machine may need several.
    let asked = observed.asked.load(Ordering::SeqCst);
    assert!((1..=N as u64 / 4).contains(&asked), "made {asked} times for {N} requests");
    // Other parameters are another answer.
    let one: Value = api.json("/v1/slashings?limit=1").await;
    assert_eq!(one["slashings"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_changes_shows_at_once() {
    let observed = Counting::new();
    let api = start(&observed).await;
    let heads = async || api.json("/v1/heads").await["now_slot"].clone();
    for slot in 1001..=1050 {
        api.store.record(vec![double_vote(slot, slot)], &[]).unwrap();
        let rows = |answer: Value| answer["slashings"].as_array().unwrap().len() as u64;
        assert_eq!(rows(api.json("/v1/slashings?limit=1000").await), slot - 1000, "a new finding");
        let waiting = api.json("/v1/slashings?order=asc&limit=1").await["slashings"][0]["waiting_slots"].clone();
        observed.set_now(slot);
        let later = api.json("/v1/slashings?order=asc&limit=1").await["slashings"][0]["waiting_slots"].clone();
        assert_eq!(later.as_u64().unwrap(), waiting.as_u64().unwrap() + 1, "a new slot");
        assert_eq!(heads().await, json!(slot.to_string()));
        assert_eq!(heads().await, json!(slot.to_string()), "the second answer is the kept one");
    }
}

/// A reader of an answer that has not changed does not wait until it is made anew, unless that
/// takes too long.
#[tokio::test]
async fn an_old_answer_is_sent_while_the_next_one_is_made() {
    const LONG: Duration = Duration::from_secs(30);
    let observed = Counting::new();
    let api = start(&observed).await;
    api.store.record(vec![double_vote(1, 1)], &[]).unwrap();
    let began = Instant::now();
    let first = api.json("/v1/slashings").await;
    let gate = observed.gate.lock().await;
    while observed.asked.load(Ordering::SeqCst) < 2 {
        assert!(began.elapsed() < LONG, "a kept answer is made anew at some time");
        let answer = tokio::time::timeout(LONG, api.json("/v1/slashings")).await;
        assert_eq!(answer.expect("the old answer is sent"), first);
    }
    // The next one does not get ready, so in the end readers wait for it.
    while tokio::time::timeout(Duration::from_millis(200), api.json("/v1/slashings")).await.is_ok() {
        assert!(began.elapsed() < LONG, "an answer is not sent for ever");
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(observed.asked.load(Ordering::SeqCst), 2, "it is made once for all who wait");
    drop(gate);
    assert_eq!(api.json("/v1/slashings").await, first);
}
