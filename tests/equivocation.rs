//! Two payload-timeliness votes about one slot, two bids of a builder on one parent: through a capture and the binary, signed by the
//! keys that the state names. What is forged says nothing.

mod common;

use common::{captures, findings, run, slashwatch, stderr, stem};
use consensus::ssz_schema::{Catalogue, json_to_ssz, ssz_to_json};
use consensus::state::StateView;
use consensus::{DomainType, ForkName, Network, Root, SignatureBytes, Slot, Spec, ValidatorIndex, signing_root};
use serde_json::{Value, json};
use simulator::keys::Keyring;
use sources::capture::{CaptureFile, CaptureWriter, GossipEntry};
use sources::limits::pack;
use verify::UnixNs;

const FORK: ForkName = ForkName::Gloas;
/// Nobody's in the registry: the builder's.
const BUILDER_KEY: u64 = 1000;
const SLOT: u64 = 4;

struct Stage {
    network: Network,
    state: Vec<u8>,
    config: String,
    keys: Keyring,
}

impl Stage {
    /// A Gloas network whose keys are 1, 2, 3 and so on, with one builder more.
    fn new() -> Option<Self> {
        let Some(path) = captures().into_iter().find(|path| stem(path).starts_with("gloas")) else {
            eprintln!("no capture of Gloas in ../shared/captures: nothing to sign for");
            return None;
        };
        let file = CaptureFile::open(&path).expect("opens");
        let config = file.first_config().expect("reads").expect("has one");
        let ssz = file.first_state().expect("reads").expect("has one");
        let spec = Spec::from_yaml(&config).expect("valid");
        let keys = Keyring::of_the_specification();
        let mut state = ssz_to_json(FORK, &spec.preset, "BeaconState", &ssz).expect("a state");
        let builder = json!({
            "pubkey": keys.pubkeys(BUILDER_KEY as usize + 1)[BUILDER_KEY as usize],
            "version": "0",
            "execution_address": format!("0x{}", "11".repeat(20)),
            "balance": "32000000000",
            "deposit_epoch": "0",
            "withdrawable_epoch": u64::MAX.to_string(),
        });
        state["builders"] = json!([builder]);
        let ssz = json_to_ssz(FORK, &spec.preset, "BeaconState", &state).expect("a state");
        let view = StateView::parse(FORK, &spec.preset, &ssz).expect("a state");
        assert_eq!(view.validator(ValidatorIndex::new(3)).map(|v| v.pubkey), keys.pubkeys(4).pop(), "keys by number");
        let (genesis_time, genesis_validators_root) = (view.genesis_time(), view.genesis_validators_root());
        Some(Self { network: Network { spec, genesis_time, genesis_validators_root }, config, keys, state: ssz })
    }

    /// Signs what stands under `part` of a message by `key`, and gives the message's SSZ.
    fn signed(&self, container: &'static str, part: &'static str, mut message: Value, kind: DomainType, key: u64) -> Vec<u8> {
        let preset = &self.network.spec.preset;
        message["signature"] = json!(SignatureBytes::ZERO);
        let unsigned = json_to_ssz(FORK, preset, container, &message).expect("a message");
        let catalogue = Catalogue::of(FORK, preset);
        let view = catalogue.get(container).expect("known").validate(&unsigned).expect("a message");
        let root = view.field(part).expect("a field").hash_tree_root();
        let domain = self.network.domain(kind, Slot::new(SLOT).epoch(preset));
        message["signature"] = json!(self.keys.sign(ValidatorIndex::new(key), signing_root(root, domain)));
        json_to_ssz(FORK, preset, container, &message).expect("a message")
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
        let bid = json!({
            "parent_block_hash": Root::repeat_byte(parent), "parent_block_root": Root::repeat_byte(parent), "block_hash": zero,
            "prev_randao": zero, "fee_recipient": format!("0x{}", "22".repeat(20)), "gas_limit": "30000000", "builder_index": "0",
            "slot": SLOT.to_string(), "value": value.to_string(), "execution_payment": "0", "blob_kzg_commitments": [],
            "execution_requests_root": zero,
        });
        let ssz = self.signed("SignedExecutionPayloadBid", "message", json!({"message": bid}), DomainType::BeaconBuilder, key);
        ("execution_payload_bid", ssz)
    }

    fn capture(&self, path: &std::path::Path, messages: &[(&str, Vec<u8>)]) {
        let mut writer = CaptureWriter::create(path).expect("a new file");
        writer.config(&self.config).expect("written");
        writer.state(&self.state).expect("written");
        let digest = self.network.fork_digest_at(Slot::new(SLOT).epoch(&self.network.spec.preset));
        let start = self.network.slot_start_ns(Slot::new(SLOT));
        for ((topic, ssz), n) in messages.iter().zip(1..) {
            let entry = GossipEntry {
                received_at: UnixNs(start + n),
                peer: b"peer".to_vec(),
                topic: format!("/eth2/{digest}/{topic}/ssz_snappy"),
                payload: pack(ssz).expect("short"),
            };
            writer.gossip(&entry).expect("written");
        }
        writer.flush().expect("written");
    }
}

#[test]
fn contradictions_that_no_rule_punishes_are_told_and_forged_ones_are_not() {
    let Some(stage) = Stage::new() else { return };
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (capture, out) = (dir.path().join("x.e2s"), dir.path().join("found.jsonl"));
    stage.capture(
        &capture,
        &[
            stage.vote(3, true, 3),
            stage.vote(3, true, 3),
            stage.vote(3, false, 3),
            stage.vote(4, true, 4),
            stage.vote(5, true, 5),
            // In another's name.
            stage.vote(5, false, 6),
            stage.bid(1, 10, BUILDER_KEY),
            // On another parent.
            stage.bid(2, 11, BUILDER_KEY),
            stage.bid(1, 12, BUILDER_KEY),
            // By validator 0, whose key is no builder's.
            stage.bid(2, 13, 0),
        ],
    );
    let replayed = run(slashwatch().arg("replay").arg(&capture).arg("--findings").arg(&out));
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    let told = stderr(&replayed);
    let counted = |what: &str, n: usize| {
        assert!(told.lines().any(|line| line.split_whitespace().eq([n.to_string().as_str(), what])), "{n} {what}:\n{told}");
    };
    counted("proven", 7);
    counted("duplicate", 1);
    counted("bad_signature", 2);
    let found = findings(&out);
    let mut said: Vec<(&str, Option<&str>, &str)> = found
        .iter()
        .map(|finding| {
            assert!(finding["evidence"].is_null() && finding["severity"] == "warning", "{finding}");
            let what = finding["details"]["what"].as_str().expect("what");
            (finding["kind"].as_str().expect("kind"), finding["validator"]["index"].as_str(), what)
        })
        .collect();
    said.sort();
    let kind = "equivocation_not_slashable";
    assert_eq!(said, [(kind, None, "execution_payload_bid"), (kind, Some("3"), "payload_attestation_message")]);
}
