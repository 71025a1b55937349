//! Two payload-timeliness votes for one slot, two bids of a builder on one parent, and two
//! inclusion lists. They go through a capture and the binary, and are signed by the keys that the
//! state names. Forged messages prove nothing.

mod common;

use common::slashwatch;
use consensus::ssz_schema::{Catalogue, json_to_ssz, ssz_to_json};
use consensus::state::StateView;
use consensus::{DomainType, ForkName, Network, Root, SignatureBytes, Slot, Spec, ValidatorIndex, signing_root};
use serde_json::{Value, json};
use simulator::keys::Keyring;
use sources::capture::{CaptureFile, CaptureWriter, GossipEntry};
use sources::limits::pack;
use test_support::capture;
use test_support::findings::findings;
use test_support::program::{run, stderr};
use verify::Time;

/// The key of the builder. No validator in the registry has it.
const BUILDER_KEY: u64 = 1000;
const SLOT: u64 = 4;

struct Stage {
    fork: ForkName,
    network: Network,
    state: Vec<u8>,
    config: String,
    keys: Keyring,
}

impl Stage {
    /// A Gloas network with the keys 1, 2, 3 and so on, and one more for a builder. With `fork`
    /// Heze, it is the same network after the upgrade.
    fn new(fork: ForkName) -> Self {
        let file = CaptureFile::open(&capture("gloas_12")).expect("opens");
        let mut config = file.first_config().expect("reads").expect("has one");
        let ssz = file.first_state().expect("reads").expect("has one");
        let keys = Keyring::of_the_specification();
        let preset = Spec::from_yaml(&config).expect("valid").preset;
        let mut state = ssz_to_json(ForkName::Gloas, &preset, "BeaconState", &ssz).expect("a state");
        if fork == ForkName::Heze {
            config.push_str("\nHEZE_FORK_VERSION: 0x08000001\nHEZE_FORK_EPOCH: 0\n");
            upgrade_to_heze(&mut state);
        }
        let spec = Spec::from_yaml(&config).expect("valid");
        assert_eq!(spec.fork_name_at(Slot::new(SLOT).epoch(&preset)), fork);
        let builder = json!({
            "pubkey": keys.pubkeys(BUILDER_KEY as usize + 1)[BUILDER_KEY as usize],
            "version": "0",
            "execution_address": format!("0x{}", "11".repeat(20)),
            "balance": "32000000000",
            "deposit_epoch": "0",
            "withdrawable_epoch": u64::MAX.to_string(),
        });
        state["builders"] = json!([builder]);
        let ssz = json_to_ssz(fork, &spec.preset, "BeaconState", &state).expect("a state");
        let view = StateView::parse(fork, &spec.preset, &ssz).expect("a state");
        assert_eq!(view.validator(ValidatorIndex::new(3)).map(|v| v.pubkey), keys.pubkeys(4).pop(), "keys by number");
        let (genesis_time, genesis_validators_root) = (view.genesis_time(), view.genesis_validators_root());
        Self { fork, network: Network { spec, genesis_time, genesis_validators_root }, config, keys, state: ssz }
    }

    /// Signs the field `part` of a message with `key` and returns the SSZ of the message.
    fn signed(&self, container: &'static str, part: &'static str, mut message: Value, kind: DomainType, key: u64) -> Vec<u8> {
        let preset = &self.network.spec.preset;
        message["signature"] = json!(SignatureBytes::ZERO);
        let unsigned = json_to_ssz(self.fork, preset, container, &message).expect("a message");
        let catalogue = Catalogue::of(self.fork, preset);
        let view = catalogue.get(container).expect("known").validate(&unsigned).expect("a message");
        let root = view.field(part).expect("a field").hash_tree_root();
        let domain = self.network.domain(kind, Slot::new(SLOT).epoch(preset));
        message["signature"] = json!(self.keys.sign(ValidatorIndex::new(key), signing_root(root, domain)));
        json_to_ssz(self.fork, preset, container, &message).expect("a message")
    }

    fn vote(&self, validator: u64, payload_present: bool, key: u64) -> (&'static str, Vec<u8>) {
        let data = json!({
            "beacon_block_root": Root::repeat_byte(7), "slot": SLOT.to_string(),
            "payload_present": payload_present, "blob_data_available": true,
        });
        let message = json!({"validator_index": validator.to_string(), "data": data});
        let ssz = self.signed("PayloadAttestationMessage", "data", message, DomainType::PtcAttester, key);
        ("payload_attestation_message", ssz)
    }

    fn bid(&self, parent: u8, value: u64, key: u64) -> (&'static str, Vec<u8>) {
        let zero = Root::ZERO;
        let mut bid = json!({
            "parent_block_hash": Root::repeat_byte(parent), "parent_block_root": Root::repeat_byte(parent), "block_hash": zero,
            "prev_randao": zero, "fee_recipient": format!("0x{}", "22".repeat(20)), "gas_limit": "30000000", "builder_index": "0",
            "slot": SLOT.to_string(), "value": value.to_string(), "execution_payment": "0", "blob_kzg_commitments": [],
            "execution_requests_root": zero,
        });
        if self.fork == ForkName::Heze {
            bid["inclusion_list_bits"] = json!("0x0300");
        }
        let ssz = self.signed("SignedExecutionPayloadBid", "message", json!({"message": bid}), DomainType::BeaconBuilder, key);
        ("execution_payload_bid", ssz)
    }

    /// An inclusion list with transactions of these lengths.
    fn list(&self, validator: u64, slot: u64, branch: u8, lengths: &[usize]) -> Value {
        let transactions: Vec<String> = lengths.iter().map(|len| format!("0x{}", "07".repeat(*len))).collect();
        json!({"message": {
            "slot": slot.to_string(), "validator_index": validator.to_string(),
            "dependent_root": Root::repeat_byte(branch), "transactions": transactions,
        }})
    }

    fn signed_list(&self, list: Value, kind: DomainType, key: u64) -> (&'static str, Vec<u8>) {
        ("inclusion_list", self.signed("SignedInclusionList", "message", list, kind, key))
    }

    fn capture(&self, path: &std::path::Path, messages: &[(&str, Vec<u8>)]) {
        let mut writer = CaptureWriter::create(path).expect("a new file");
        writer.config(&self.config).expect("written");
        writer.state(&self.state).expect("written");
        let digest = self.network.fork_digest_at(Slot::new(SLOT).epoch(&self.network.spec.preset));
        let start = self.network.slot_start_ns(Slot::new(SLOT));
        for ((topic, ssz), n) in messages.iter().zip(1..) {
            let entry = GossipEntry {
                received_at: Time(start + n),
                peer: b"peer".to_vec(),
                topic: format!("/eth2/{digest}/{topic}/ssz_snappy"),
                payload: pack(ssz).expect("short"),
            };
            writer.gossip(&entry).expect("written");
        }
        writer.flush().expect("written");
    }
}

/// The specification's `upgrade_to_heze`, as far as the containers differ.
fn upgrade_to_heze(state: &mut Value) {
    let fields = state.as_object_mut().expect("a state");
    for removed in ["eth1_data", "eth1_data_votes", "eth1_deposit_index", "deposit_requests_start_index"] {
        assert!(fields.remove(removed).is_some(), "{removed}");
    }
    state["latest_execution_payload_bid"]["inclusion_list_bits"] = json!("0x0000");
    state["fork"] = json!({"previous_version": "0x08000001", "current_version": "0x08000001", "epoch": "0"});
}

/// Runs `replay` and returns its outcomes by number, and its findings.
fn replay(stage: &Stage, messages: &[(&str, Vec<u8>)]) -> (String, Vec<Value>) {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (capture, out) = (dir.path().join("x.e2s"), dir.path().join("found.jsonl"));
    stage.capture(&capture, messages);
    let replayed = run(slashwatch().arg("replay").arg(&capture).arg("--findings").arg(&out));
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    (stderr(&replayed), findings(&out))
}

fn assert_counted(told: &str, what: &str, n: usize) {
    assert!(told.lines().any(|line| line.split_whitespace().eq([n.to_string().as_str(), what])), "{n} {what}:\n{told}");
}

#[test]
fn contradictions_that_no_rule_punishes_are_told_and_forged_ones_are_not() {
    for fork in [ForkName::Gloas, ForkName::Heze] {
        let stage = Stage::new(fork);
        payloads_and_bids(&stage);
    }
}

fn payloads_and_bids(stage: &Stage) {
    let (told, found) = replay(
        stage,
        &[
            stage.vote(3, true, 3),
            stage.vote(3, true, 3),
            stage.vote(3, false, 3),
            stage.vote(4, true, 4),
            stage.vote(5, true, 5),
            // Signed with the key of another validator.
            stage.vote(5, false, 6),
            stage.bid(1, 10, BUILDER_KEY),
            // On another parent.
            stage.bid(2, 11, BUILDER_KEY),
            stage.bid(1, 12, BUILDER_KEY),
            // By validator 0, whose key does not belong to a builder.
            stage.bid(2, 13, 0),
        ],
    );
    assert_counted(&told, "proven", 7);
    assert_counted(&told, "duplicate", 1);
    assert_counted(&told, "bad_signature", 2);
    let mut reported: Vec<(&str, Option<&str>, &str)> = found
        .iter()
        .map(|finding| {
            assert!(finding["evidence"].is_null() && finding["severity"] == "warning", "{finding}");
            let what = finding["details"]["what"].as_str().expect("what");
            (finding["kind"].as_str().expect("kind"), finding["validator"]["index"].as_str(), what)
        })
        .collect();
    reported.sort();
    let kind = "equivocation_not_slashable";
    assert_eq!(reported, [(kind, None, "execution_payload_bid"), (kind, Some("3"), "payload_attestation_message")]);
}

#[test]
fn two_inclusion_lists_are_told_and_forged_ones_are_not() {
    let stage = Stage::new(ForkName::Heze);
    let signed = |list: Value, key| stage.signed_list(list, DomainType::InclusionListCommittee, key);
    let honest = stage.list(4, SLOT, 1, &[60]);
    let (told, found) = replay(
        &stage,
        &[
            signed(stage.list(3, SLOT, 1, &[100, 200]), 3),
            signed(stage.list(3, SLOT, 1, &[100, 200]), 3),
            signed(stage.list(3, SLOT, 1, &[100]), 3),
            signed(honest.clone(), 4),
            // For another slot.
            signed(stage.list(4, SLOT + 1, 1, &[61]), 4),
            // Signed with the key of another validator.
            signed(stage.list(4, SLOT, 1, &[62]), 5),
            // Signed for another domain.
            stage.signed_list(stage.list(4, SLOT, 1, &[63]), DomainType::PtcAttester, 4),
            stage.signed_list(stage.list(4, SLOT, 1, &[64]), DomainType::BeaconAttester, 4),
            // By an index that no deposit can have created.
            signed(stage.list(1 << 40, SLOT, 1, &[65]), 4),
            // More bytes than a list may hold. In another draft of the fork it may hold more.
            signed(stage.list(4, SLOT, 1, &[8000, 193]), 4),
        ],
    );
    for (what, n) in [("proven", 4), ("duplicate", 1), ("bad_signature", 3), ("malformed", 1), ("seen_not_provable", 1)] {
        assert_counted(&told, what, n);
    }
    let [finding] = found.as_slice() else { panic!("one finding: {found:?}") };
    assert_eq!((&finding["kind"], &finding["severity"]), (&"equivocation_not_slashable".into(), &"warning".into()));
    assert_eq!((&finding["validator"]["index"], &finding["slot"]), (&"3".into(), &SLOT.to_string().into()));
    assert_eq!((&finding["fork"], &finding["evidence"]), (&"heze".into(), &Value::Null));
    let details = &finding["details"];
    assert_eq!((&details["what"], &details["same_branch"]), (&"inclusion_list".into(), &true.into()));
    let reported: Vec<_> = details["messages"].as_array().expect("two").iter().collect();
    assert_eq!(reported.iter().map(|list| &list["transactions"]).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(reported.iter().map(|list| &list["transactions_bytes"]).collect::<Vec<_>>(), [300, 100]);
    assert!(reported.iter().all(|list| list["dependent_root"] == Root::repeat_byte(1).to_string()), "{details}");
    assert!(!finding.to_string().contains("0707"), "no transaction is kept: {finding}");
}

/// Before Heze, nobody signs such a list. For a later fork that is not known, lists are only
/// counted.
#[test]
fn inclusion_lists_of_other_forks_are_counted_only() {
    let (gloas, heze) = (Stage::new(ForkName::Gloas), Stage::new(ForkName::Heze));
    let lists = [1, 2].map(|n| heze.signed_list(heze.list(3, SLOT, 1, &[n]), DomainType::InclusionListCommittee, 3));
    let (told, found) = replay(&gloas, &lists);
    assert_counted(&told, "malformed", 2);
    assert!(found.is_empty());
    // The same network after its next fork, whose digest is not in the configuration.
    let mut later = heze;
    let spec = later.config.replace("HEZE_FORK_VERSION: 0x08000001", "HEZE_FORK_VERSION: 0x09000001");
    later.network.spec = Spec::from_yaml(&spec).expect("valid");
    let (told, found) = replay(&later, &lists);
    assert_counted(&told, "unknown_fork", 2);
    assert!(found.is_empty());
}
