//! Tests of what is posted to a node on loopback, and of the records that are kept.

use super::*;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use chain::node::NodeConfig;
use consensus::{ForkName, Offence, PubkeyBytes, Spec, ValidatorIndex};
use evidence::{Included, OffenceFacts};
use serde_json::{Value, json};
use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1_700_000_000) };
}

fn now() -> Time {
    Time::from_unix_ns(NOW.get() * 1_000_000_000)
}

/// Advances the time by some seconds.
fn pass(seconds: u64) {
    NOW.set(NOW.get() + seconds);
}

#[derive(Clone, Debug, PartialEq)]
struct Post {
    path: String,
    fork: String,
    body: Value,
}

type Answer = fn(&str) -> (StatusCode, &'static str);

/// A beacon node that stores the requests it gets and gives prepared answers.
#[derive(Clone)]
struct Node {
    posts: Arc<Mutex<Vec<Post>>>,
    /// Answer to a POST request, by path.
    answer: Arc<Mutex<Answer>>,
    /// Indices of the validators that the node reports as slashed.
    slashed: Arc<Mutex<Vec<u64>>>,
    url: String,
}

impl Node {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let node =
            Self { posts: Arc::default(), answer: Arc::new(Mutex::new(|_| (StatusCode::OK, ""))), slashed: Arc::default(), url };
        let router = Router::new().fallback(Self::serve).with_state(node.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        node
    }

    async fn serve(State(node): State<Self>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
        if method == Method::GET {
            return node.validators(&uri);
        }
        let fork = headers["eth-consensus-version"].to_str().unwrap().to_owned();
        let post = Post { path: uri.path().to_owned(), fork, body: serde_json::from_slice(&body).unwrap() };
        node.posts.lock().unwrap().push(post);
        let (status, words) = (*node.answer.lock().unwrap())(uri.path());
        (status, words.to_owned())
    }

    fn validators(&self, uri: &Uri) -> (StatusCode, String) {
        let Some(ids) = uri.query().and_then(|query| query.strip_prefix("id=")) else {
            return (StatusCode::NOT_FOUND, String::new());
        };
        let slashed = self.slashed.lock().unwrap();
        let row = |id: &str| {
            let is_slashed = slashed.contains(&id.parse().unwrap());
            json!({"index": id, "balance": "32000000000", "status": "active_ongoing", "validator": {
                "pubkey": PubkeyBytes::ZERO, "withdrawal_credentials": Root::ZERO, "effective_balance": "32000000000",
                "slashed": is_slashed, "activation_eligibility_epoch": "0", "activation_epoch": "0", "exit_epoch": "18446744073709551615", "withdrawable_epoch": "18446744073709551615"}})
        };
        (StatusCode::OK, json!({"data": ids.split(',').map(row).collect::<Vec<_>>()}).to_string())
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }
}

fn network() -> Arc<Network> {
    // The network stays in phase0, where two attester slashings fit into a block.
    let spec = Spec::from_yaml("PRESET_BASE: minimal\nSECONDS_PER_SLOT: 6\n").unwrap();
    Arc::new(Network { spec, genesis_time: 1_600_000_000, genesis_validators_root: Root::ZERO })
}

fn double_vote(validator: u64) -> (Finding, Arc<Evidence>) {
    let vote = json!({"attesting_indices": [validator.to_string()]});
    let json = json!({"attestation_1": vote, "attestation_2": vote});
    offence(
        Offence::DoubleVote,
        validator,
        Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Deneb, vec![validator as u8; 9], json),
    )
}

fn double_proposal(validator: u64) -> (Finding, Arc<Evidence>) {
    let json = json!({"signed_header_1": {"message": {"proposer_index": validator.to_string()}}});
    let evidence = Evidence::new(EvidenceKind::ProposerSlashing, ForkName::Deneb, vec![validator as u8; 8], json);
    offence(Offence::DoubleProposal, validator, evidence)
}

fn offence(offence: Offence, validator: u64, evidence: Evidence) -> (Finding, Arc<Evidence>) {
    let validator = ValidatorIndex::new(validator);
    let facts = OffenceFacts { offence, validator, fork: ForkName::Deneb, ..OffenceFacts::sample() };
    (Finding::slashable(facts, &evidence), Arc::new(evidence))
}

struct Stage {
    _dir: tempfile::TempDir,
    store: Store,
    node: Node,
}

impl Stage {
    async fn new(findings: Vec<(Finding, Arc<Evidence>)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        store.record(findings, &[]).unwrap();
        Self { _dir: dir, store, node: Node::start().await }
    }

    /// Makes a submitter, as after a start of the process.
    fn submitter(&self) -> Submitter {
        let config = NodeConfig {
            rounds: 1,
            pauses: base::Backoff::new(Duration::from_millis(1), Duration::from_millis(1)),
            ..NodeConfig::default()
        };
        let nodes = Arc::new(NodeSet::new(std::slice::from_ref(&self.node.url), config).unwrap());
        Submitter::new(self.store.clone(), nodes, network(), Metrics::new(), now).unwrap()
    }

    fn records(&self) -> Vec<Submission> {
        self.store.submissions_after(0, 100).unwrap()
    }

    /// Returns the state and the number of attempts of each record.
    fn states(&self) -> Vec<(&'static str, u32)> {
        self.records().iter().map(|record| (record.state.as_str(), record.attempts)).collect()
    }
}

#[tokio::test]
async fn each_proof_goes_once_over_restarts_and_as_a_node_wants_it() {
    let (vote, proposal) = (double_vote(5), double_proposal(6));
    let stage = Stage::new(vec![vote.clone(), proposal.clone()]).await;
    let mut submitter = stage.submitter();
    submitter.submit_ready().await.unwrap();
    submitter.submit_ready().await.unwrap();
    let post = |path: &str, proof: &Evidence| Post { path: path.into(), fork: "deneb".into(), body: proof.json.clone() };
    let wanted =
        [post("/eth/v2/beacon/pool/attester_slashings", &vote.1), post("/eth/v1/beacon/pool/proposer_slashings", &proposal.1)];
    let posts = stage.node.posts();
    assert!(posts.len() == 2 && wanted.iter().all(|one| posts.contains(one)), "{posts:?}");
    assert_eq!(stage.states(), [("accepted", 1), ("accepted", 1)]);
    assert_eq!(stage.records()[0].nodes, *std::slice::from_ref(&stage.node.url));
    let mut again = stage.submitter();
    again.submit_ready().await.unwrap();
    assert_eq!(stage.node.posts().len(), 2, "not again after a restart");
    // A later finding with a proof that is already accepted is no reason to send it again.
    let mut sharing = double_vote(5);
    sharing.0.id = Root::repeat_byte(9);
    stage.store.record(vec![sharing, double_vote(7)], &[]).unwrap();
    pass(60);
    again.submit_ready().await.unwrap();
    assert_eq!(stage.node.posts().len(), 3);
    assert_eq!(submitter.metrics.submissions.with_label_values(&["accepted"]).get(), 2);
}

#[tokio::test]
async fn a_node_that_knows_v1_only_gets_v1() {
    let stage = Stage::new(vec![double_vote(5)]).await;
    stage.node.answers(|path| if path.contains("/v2/") { (StatusCode::NOT_FOUND, "no route") } else { (StatusCode::OK, "") });
    stage.submitter().submit_ready().await.unwrap();
    let paths: Vec<String> = stage.node.posts().into_iter().map(|post| post.path).collect();
    assert_eq!(paths, ["/eth/v2/beacon/pool/attester_slashings", "/eth/v1/beacon/pool/attester_slashings"]);
    assert_eq!(stage.states(), [("accepted", 1)]);
}

#[tokio::test]
async fn a_refusal_is_kept_with_the_nodes_words_and_not_repeated() {
    let stage = Stage::new(vec![double_vote(5)]).await;
    stage.node.answers(|_| (StatusCode::BAD_REQUEST, "{\"message\":\"ATTESTATIONS_NOT_SLASHABLE\"}"));
    stage.submitter().submit_ready().await.unwrap();
    pass(1000);
    stage.submitter().submit_ready().await.unwrap();
    assert_eq!((stage.states(), stage.node.posts().len()), (vec![("refused", 1)], 1));
    let answer_text = stage.records()[0].answer.clone().unwrap();
    assert!(answer_text.contains("ATTESTATIONS_NOT_SLASHABLE") && answer_text.contains("400"), "{answer_text}");
}

#[tokio::test]
async fn a_node_that_is_away_is_tried_again_later_and_later() {
    let stage = Stage::new(vec![double_vote(5)]).await;
    stage.node.answers(|_| (StatusCode::SERVICE_UNAVAILABLE, "syncing"));
    let mut submitter = stage.submitter();
    for (seconds, attempts) in [(0, 1), (1, 1), (1, 2), (3, 2), (1, 3), (7, 3)] {
        pass(seconds);
        submitter.submit_ready().await.unwrap();
        assert_eq!(stage.states(), [("pending", attempts)]);
    }
    assert!(stage.records()[0].answer.as_ref().unwrap().contains("syncing"));
    stage.node.answers(|_| (StatusCode::OK, ""));
    pass(1);
    submitter.submit_ready().await.unwrap();
    assert_eq!((stage.states(), stage.records()[0].answer.clone()), (vec![("accepted", 4)], None));
}

#[tokio::test]
async fn who_breaks_down_over_a_proof_holds_up_no_other_and_is_left_in_the_end() {
    let stage = Stage::new(vec![double_vote(5)]).await;
    stage.node.answers(|_| (StatusCode::INTERNAL_SERVER_ERROR, "database is locked"));
    let mut submitter = stage.submitter();
    submitter.submit_ready().await.unwrap();
    stage.node.answers(|_| (StatusCode::OK, ""));
    stage.store.record(vec![double_proposal(6)], &[]).unwrap();
    submitter.submit_ready().await.unwrap();
    assert_eq!(stage.states(), [("pending", 1), ("accepted", 1)]);
    stage.node.answers(|_| (StatusCode::INTERNAL_SERVER_ERROR, "database is locked"));
    for _ in 0..20 {
        pass(300);
        submitter.submit_ready().await.unwrap();
    }
    assert_eq!(stage.states(), [("refused", RetryPolicy::DEFAULT.max_refusals), ("accepted", 1)]);
}

#[tokio::test]
async fn what_the_node_has_already_is_not_needed() {
    let stage = Stage::new(vec![double_vote(5)]).await;
    stage.node.answers(|_| (StatusCode::INTERNAL_SERVER_ERROR, "ATTESTATION_SLASHING_ERROR_ALREADY_EXISTS"));
    let mut submitter = stage.submitter();
    submitter.submit_ready().await.unwrap();
    pass(300);
    submitter.submit_ready().await.unwrap();
    assert_eq!(stage.states(), [("not_needed", 1)]);
    assert!(stage.records()[0].answer.as_ref().unwrap().contains("ALREADY_EXISTS"));
}

#[tokio::test]
async fn what_a_crash_left_open_is_sent_again() {
    let (finding, evidence) = double_vote(5);
    let stage = Stage::new(vec![(finding.clone(), evidence.clone())]).await;
    let open = Submission { attempts: 1, ..Submission::new(1, finding.id, &evidence, now()) };
    stage.store.put_submission(&open).unwrap();
    stage.submitter().submit_ready().await.unwrap();
    assert_eq!((stage.states(), stage.node.posts().len()), (vec![("accepted", 2)], 1));
}

#[tokio::test]
async fn nothing_is_sent_that_no_block_could_use() {
    let slashed = (Finding { punishable: Some(Punishable::AlreadySlashed), ..double_vote(5).0 }, double_vote(5).1);
    let stage = Stage::new(vec![slashed, double_vote(6), double_vote(7), double_vote(8)]).await;
    include(&stage.store, double_vote(6).0.id, Included { slot: Slot::new(9), block_root: Root::ZERO });
    stage.node.slashed.lock().unwrap().push(7);
    stage.submitter().submit_ready().await.unwrap();
    let bodies: Vec<Value> = stage.node.posts().into_iter().map(|post| post.body).collect();
    assert_eq!(bodies, [double_vote(8).1.json.clone()]);
    assert_eq!(stage.states(), [("not_needed", 0), ("accepted", 1)], "7 by the node's state; of 5 and 6 we knew");
}

#[tokio::test]
async fn no_more_are_sent_than_fit_into_a_block() {
    let stage = Stage::new((0..5).map(double_vote).collect()).await;
    let mut submitter = stage.submitter();
    let mut after = Vec::new();
    for _ in 0..3 {
        submitter.submit_ready().await.unwrap();
        after.push(stage.node.posts().len());
        pass(6);
    }
    assert_eq!(after, [2, 2, 2], "none of them is in a block yet");
    // After a restart the proofs at the node still count.
    let mut submitter = stage.submitter();
    submitter.submit_ready().await.unwrap();
    assert_eq!(stage.node.posts().len(), 2);
    for record in stage.records() {
        include(&stage.store, record.finding, Included { slot: Slot::new(9), block_root: Root::ZERO });
    }
    submitter.submit_ready().await.unwrap();
    assert_eq!(stage.node.posts().len(), 4);
}

fn include(store: &Store, finding: consensus::Root, included: Included) {
    let inclusions = [(finding, Some(included))].into();
    store.apply(evidence::Changes { inclusions, ..Default::default() }, &[]).unwrap();
}
