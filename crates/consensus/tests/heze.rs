//! Heze: inclusion lists, and the containers that the fork changes. No published test vectors
//! contain them yet. So bytes are written by hand here, and roots are computed recursively by the
//! definitions of SSZ, EIP-7495 and EIP-7916, without regard to speed.

use consensus::ssz_schema::{Catalogue, SszView, json_to_ssz, ssz_to_json};
use consensus::state::StateView;
use consensus::{
    DomainType, Epoch, ForkName, MAX_SIGNED_INCLUSION_LIST_SIZE, Network, Preset, Root, SignedBlock, SignedInclusionList,
    SignedPayloadBid, Slot, Spec, ValidatorIndex, sha256,
};
use serde_json::{Value, json};
use test_support::spec_tests::{SSZ_STATIC, cases, hex_value};

const HEZE: ForkName = ForkName::Heze;
const GLOAS: ForkName = ForkName::Gloas;
const MINIMAL: Preset = Preset::MINIMAL;

type Node = [u8; 32];

fn hash(left: Node, right: Node) -> Node {
    sha256(&[left, right].concat())
}

/// The specification's `merkleize`, for a number of leaves that is a power of two. Missing leaves
/// are zero.
fn merkleize(leaves: &[Node], width: usize) -> Node {
    match (width, leaves) {
        (1, []) => [0; 32],
        (1, [leaf]) => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().min(width / 2));
            hash(merkleize(left, width / 2), merkleize(right, width / 2))
        }
    }
}

/// The specification's `merkleize_progressive`.
fn progressive(leaves: &[Node], width: usize) -> Node {
    if leaves.is_empty() {
        return [0; 32];
    }
    let (now, later) = leaves.split_at(leaves.len().min(width));
    hash(merkleize(now, width), progressive(later, width * 4))
}

fn leaf(bytes: &[u8]) -> Node {
    let mut node = [0; 32];
    node[..bytes.len()].copy_from_slice(bytes);
    node
}

fn number(n: usize) -> Node {
    leaf(&(n as u64).to_le_bytes())
}

/// The root of a `ProgressiveByteList`.
fn transaction_root(transaction: &[u8]) -> Node {
    let leaves: Vec<Node> = transaction.chunks(32).map(leaf).collect();
    hash(progressive(&leaves, 1), number(transaction.len()))
}

struct List {
    slot: u64,
    validator: u64,
    dependent_root: Node,
    transactions: Vec<Vec<u8>>,
    signature: [u8; 96],
}

impl List {
    fn of_lengths(lengths: &[usize]) -> Self {
        let transaction = |(i, len): (usize, &usize)| (0..*len).map(|byte| (7 * i + byte) as u8).collect();
        Self {
            slot: 77,
            validator: 1_000_003,
            dependent_root: [9; 32],
            transactions: lengths.iter().enumerate().map(transaction).collect(),
            signature: [5; 96],
        }
    }

    fn ssz(&self) -> Vec<u8> {
        let mut out = 100u32.to_le_bytes().to_vec();
        out.extend(self.signature);
        out.extend(self.slot.to_le_bytes());
        out.extend(self.validator.to_le_bytes());
        out.extend(self.dependent_root);
        out.extend(52u32.to_le_bytes());
        let mut offset = 4 * self.transactions.len() as u32;
        for transaction in &self.transactions {
            out.extend(offset.to_le_bytes());
            offset += transaction.len() as u32;
        }
        out.extend(self.transactions.concat());
        out
    }

    fn message_root(&self) -> Node {
        let transactions: Vec<Node> = self.transactions.iter().map(|bytes| transaction_root(bytes)).collect();
        let transactions = hash(progressive(&transactions, 1), number(transactions.len()));
        merkleize(&[number(self.slot as usize), number(self.validator as usize), self.dependent_root, transactions], 4)
    }

    /// The root of the `SignedInclusionList`. The signature has three leaves.
    fn root(&self) -> Node {
        let signature: Vec<Node> = self.signature.chunks(32).map(leaf).collect();
        hash(self.message_root(), merkleize(&signature, 4))
    }
}

fn read(bytes: &[u8]) -> Result<SignedInclusionList, String> {
    SignedInclusionList::from_ssz(HEZE, &MINIMAL, bytes).map_err(|error| error.to_string())
}

#[test]
fn lists_are_read_and_hashed() {
    let many: Vec<usize> = (0..100).map(|i| i % 70).collect();
    for lengths in [vec![], vec![1], vec![32, 33], vec![0, 31, 500, 8, 1000], vec![8192], vec![1; 8192], many] {
        let list = List::of_lengths(&lengths);
        let ssz = list.ssz();
        let read = read(&ssz).unwrap_or_else(|error| panic!("{} transactions: {error}", lengths.len()));
        assert_eq!((read.message.slot, read.message.validator_index), (Slot::new(77), ValidatorIndex::new(1_000_003)));
        assert_eq!(read.message.dependent_root, Root::from(list.dependent_root));
        assert_eq!(read.message.n_transactions, lengths.len());
        assert_eq!(read.message.transactions_bytes, lengths.iter().sum::<usize>());
        assert_eq!((read.root, read.signature.0), (Root::from(list.message_root()), list.signature));
        let catalogue = Catalogue::of(HEZE, &Preset::MAINNET);
        let view = catalogue.get("SignedInclusionList").and_then(|ty| ty.validate(&ssz)).expect("alike in all presets");
        assert_eq!(view.hash_tree_root(), Root::from(list.root()));
        assert_eq!(json_to_ssz(HEZE, &MINIMAL, "SignedInclusionList", &view.to_json()).as_ref(), Ok(&ssz));
    }
}

/// Every part of a list is in the root that is signed. No other list has the same root.
#[test]
fn each_part_of_a_list_is_in_its_root() {
    let list = || List::of_lengths(&[3, 40]);
    let base = read(&list().ssz()).expect("a list").root;
    let changed = [
        List { slot: 78, ..list() },
        List { validator: 4, ..list() },
        List { dependent_root: [8; 32], ..list() },
        List::of_lengths(&[3, 41]),
        List::of_lengths(&[40, 3]),
        List::of_lengths(&[3, 40, 0]),
        List::of_lengths(&[43]),
    ];
    for other in changed {
        assert_ne!(read(&other.ssz()).expect("a list").root, base);
    }
    assert_eq!(read(&List { signature: [6; 96], ..list() }.ssz()).expect("a list").root, base);
}

#[test]
fn lists_out_of_bounds_are_refused_with_a_reason() {
    let refused = |bytes: &[u8]| read(bytes).expect_err("refused");
    assert_eq!(List::of_lengths(&[1; 8192]).ssz().len(), MAX_SIGNED_INCLUSION_LIST_SIZE);
    for (lengths, reason) in [
        (vec![8193], "8193 bytes of transactions where 8192 are allowed"),
        (vec![4096, 4097], "8193 bytes of transactions where 8192 are allowed"),
        (vec![0; 10_241], "41116 bytes where 41112 are allowed"),
        (vec![1 << 20], "bytes where 41112 are allowed"),
    ] {
        let error = refused(&List::of_lengths(&lengths).ssz());
        assert!(error.contains(reason) && error.contains("SignedInclusionList"), "{error}");
    }
    let good = List::of_lengths(&[3, 40]).ssz();
    // The position of each offset, and its value.
    for (at, offset) in [(0, 100), (148, 52), (152, 8), (156, 11)] {
        assert_eq!(good[at..at + 4], u32::to_le_bytes(offset));
        for wrong in [0, 1, offset - 1, offset + 1, good.len() as u32, u32::MAX] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&wrong.to_le_bytes());
            // The offset of the second transaction may have any value after that of the first.
            if at == 156 && (10..=51).contains(&wrong) {
                assert_ne!(read(&bad).expect("another list").root, read(&good).expect("a list").root);
                continue;
            }
            let error = refused(&bad);
            assert!(error.contains("offset") || error.contains("bytes"), "{at} -> {wrong}: {error}");
        }
    }
    for len in 0..152 {
        refused(&good[..len]);
    }
    assert!(
        SignedInclusionList::from_ssz(GLOAS, &MINIMAL, &good)
            .expect_err("no such thing")
            .to_string()
            .contains("no such container")
    );
}

/// Values of Gloas from the specification's vectors, in SSZ and in JSON.
fn gloas(container: &'static str) -> Vec<(Vec<u8>, Value)> {
    let wanted = ["minimal", "gloas", "ssz_static", container];
    let cases = cases(SSZ_STATIC, |path| path.starts_with(&wanted));
    println!("{container}: {} cases", cases.len());
    let read = |ssz: Vec<u8>| {
        let json = ssz_to_json(GLOAS, &MINIMAL, container, &ssz).expect("a valid case");
        (ssz, json)
    };
    cases.iter().map(|case| read(case.ssz("serialized"))).collect()
}

fn without(json: &mut Value, removed: &[&str]) {
    let fields = json.as_object_mut().expect("a container");
    removed.iter().for_each(|name| assert!(fields.remove(*name).is_some(), "{name}"));
}

/// The root by EIP-7495: the roots of the fields at their positions, and zero at `None`.
fn container_root(view: &SszView<'_, '_>, positions: &[Option<&str>]) -> Node {
    let field = |name: &&str| view.field(name).unwrap_or_else(|| panic!("no {name}")).hash_tree_root().0;
    let leaves: Vec<Node> = positions.iter().map(|name| name.as_ref().map_or([0; 32], field)).collect();
    let mut active = [0u8; 32];
    for (i, _) in positions.iter().enumerate().filter(|(_, name)| name.is_some()) {
        active[i / 8] |= 1 << (i % 8);
    }
    assert_eq!(view.len(), positions.iter().flatten().count(), "no other fields");
    hash(progressive(&leaves, 1), active)
}

const BID: [&str; 13] = [
    "parent_block_hash",
    "parent_block_root",
    "block_hash",
    "prev_randao",
    "fee_recipient",
    "gas_limit",
    "builder_index",
    "slot",
    "value",
    "execution_payment",
    "blob_kzg_commitments",
    "execution_requests_root",
    "inclusion_list_bits",
];

#[test]
fn bids_carry_the_committees_bits() {
    for (gloas_ssz, mut bid) in gloas("SignedExecutionPayloadBid") {
        bid["message"]["inclusion_list_bits"] = json!("0x0180");
        let ssz = json_to_ssz(HEZE, &MINIMAL, "SignedExecutionPayloadBid", &bid).expect("a bid");
        assert_eq!(ssz.len(), gloas_ssz.len() + 2);
        let catalogue = Catalogue::of(HEZE, &MINIMAL);
        let view = catalogue.get("SignedExecutionPayloadBid").and_then(|ty| ty.validate(&ssz)).expect("a bid");
        let message = view.field("message").expect("a field");
        assert_eq!(message.field("inclusion_list_bits").expect("a field").hash_tree_root().0, leaf(&[1, 0x80]));
        let root = container_root(&message, &BID.map(Some));
        let read = SignedPayloadBid::from_ssz(HEZE, &MINIMAL, &ssz).expect("a bid");
        assert_eq!(read.root, Root::from(root));
        let before = SignedPayloadBid::from_ssz(GLOAS, &MINIMAL, &gloas_ssz).expect("a bid");
        assert_eq!(read.message, before.message);
        assert!(SignedPayloadBid::from_ssz(HEZE, &MINIMAL, &gloas_ssz).is_err());
        assert!(SignedPayloadBid::from_ssz(GLOAS, &MINIMAL, &ssz).is_err());
    }
}

#[test]
fn blocks_have_gaps_where_the_old_deposits_were() {
    for (gloas_ssz, mut block) in gloas("SignedBeaconBlock") {
        let body = &mut block["message"]["body"];
        without(body, &["eth1_data", "deposits"]);
        body["signed_execution_payload_bid"]["message"]["inclusion_list_bits"] = json!("0xffff");
        let ssz = json_to_ssz(HEZE, &MINIMAL, "SignedBeaconBlock", &block).expect("a block");
        let catalogue = Catalogue::of(HEZE, &MINIMAL);
        let view = catalogue.get("SignedBeaconBlock").and_then(|ty| ty.validate(&ssz)).expect("a block");
        let positions = [
            Some("randao_reveal"),
            None,
            Some("graffiti"),
            Some("proposer_slashings"),
            Some("attester_slashings"),
            Some("attestations"),
            None,
            Some("voluntary_exits"),
            Some("sync_aggregate"),
            Some("bls_to_execution_changes"),
            Some("signed_execution_payload_bid"),
            Some("payload_attestations"),
            Some("parent_execution_requests"),
        ];
        let body_root = container_root(&view.path("message.body").expect("a body"), &positions);
        let (read, before) = (SignedBlock::from_ssz(HEZE, &MINIMAL, &ssz), SignedBlock::from_ssz(GLOAS, &MINIMAL, &gloas_ssz));
        let (read, before) = (read.expect("a block"), before.expect("a block"));
        assert_eq!(read.signed_header.message.body_root, Root::from(body_root));
        assert_eq!(
            (read.graffiti, read.fee_recipient, read.randao_reveal),
            (before.graffiti, before.fee_recipient, before.randao_reveal)
        );
        assert_eq!((read.attestations, read.attester_slashings), (before.attestations, before.attester_slashings));
        assert!(SignedBlock::from_ssz(HEZE, &MINIMAL, &gloas_ssz).is_err());
    }
}

#[test]
fn states_have_gaps_where_the_old_deposits_were() {
    for (gloas_ssz, mut state) in gloas("BeaconState") {
        without(&mut state, &["eth1_data", "eth1_data_votes", "eth1_deposit_index", "deposit_requests_start_index"]);
        state["latest_execution_payload_bid"]["inclusion_list_bits"] = json!("0x0000");
        let ssz = json_to_ssz(HEZE, &MINIMAL, "BeaconState", &state).expect("a state");
        let catalogue = Catalogue::of(HEZE, &MINIMAL);
        let view = catalogue.get("BeaconState").and_then(|ty| ty.validate(&ssz)).expect("a state");
        const STATE: &str = "genesis_time genesis_validators_root slot fork latest_block_header block_roots state_roots historical_roots - - - \
            validators balances randao_mixes slashings previous_epoch_participation current_epoch_participation justification_bits \
            previous_justified_checkpoint current_justified_checkpoint finalized_checkpoint inactivity_scores current_sync_committee \
            next_sync_committee latest_block_hash next_withdrawal_index next_withdrawal_validator_index historical_summaries - \
            deposit_balance_to_consume exit_balance_to_consume earliest_exit_epoch consolidation_balance_to_consume \
            earliest_consolidation_epoch pending_deposits pending_partial_withdrawals pending_consolidations proposer_lookahead builders \
            next_withdrawal_builder_index execution_payload_availability builder_pending_payments builder_pending_withdrawals \
            latest_execution_payload_bid payload_expected_withdrawals ptc_window";
        let positions: Vec<Option<&str>> = STATE.split_whitespace().map(|name| Some(name).filter(|name| *name != "-")).collect();
        assert_eq!(positions.len(), 46);
        let read = StateView::parse(HEZE, &MINIMAL, &ssz).expect("a state");
        assert_eq!(read.root(), Root::from(container_root(&view, &positions)));
        let before = StateView::parse(GLOAS, &MINIMAL, &gloas_ssz).expect("a state");
        assert_eq!((read.slot(), read.fork(), read.n_validators()), (before.slot(), before.fork(), before.n_validators()));
        assert_eq!(read.builder_pubkeys(9), before.builder_pubkeys(9));
        assert!(read.validators().eq(before.validators()));
    }
}

/// Checks the roots of this file against those of the specification's generator: a progressive
/// container without gaps, and a signature.
#[test]
fn the_oracle_agrees_with_the_specifications_vectors() {
    let wanted = ["minimal", "gloas", "ssz_static", "SignedExecutionPayloadBid"];
    let all = cases(SSZ_STATIC, |path| path.starts_with(&wanted));
    for case in all {
        let ssz = case.ssz("serialized");
        let catalogue = Catalogue::of(GLOAS, &MINIMAL);
        let view = catalogue.get("SignedExecutionPayloadBid").and_then(|ty| ty.validate(&ssz)).expect("a valid case");
        let positions: Vec<Option<&str>> = BID[..12].iter().copied().map(Some).collect();
        let message = container_root(&view.field("message").expect("a field"), &positions);
        let signature: Vec<Node> = view.field("signature").expect("a field").bytes().chunks(32).map(leaf).collect();
        let root = hex_value(&case.text("roots.yaml"), "root");
        assert_eq!(hash(message, merkleize(&signature, 4)).as_slice(), root, "{}", case.name());
    }
}

#[test]
fn it_is_scheduled_and_signed_for_like_any_fork() {
    let forks = "ELECTRA_FORK_EPOCH: 0\nFULU_FORK_EPOCH: 0\nGLOAS_FORK_EPOCH: 2\nHEZE_FORK_EPOCH: 5\n";
    let spec = Spec::from_yaml(forks).expect("valid");
    assert_eq!((spec.fork_name_at(Epoch::new(4)), spec.fork_name_at(Epoch::new(5))), (GLOAS, HEZE));
    assert_eq!(spec.fork_at(Epoch::new(5)).version, [8, 0, 0, 0]);
    let minimal = Spec::from_yaml(&format!("PRESET_BASE: minimal\n{forks}")).expect("valid");
    assert_eq!(minimal.fork_at(Epoch::MAX).version, [8, 0, 0, 1]);
    let own =
        Spec::from_yaml(&format!("{forks}HEZE_FORK_VERSION: 0x80000038\nINCLUSION_LIST_COMMITTEE_SIZE: 24\n")).expect("valid");
    assert_eq!((own.fork_at(Epoch::new(9)).version, own.preset.inclusion_list_committee_size), ([0x80, 0, 0, 0x38], 24));
    assert_eq!(Spec::from_yaml(&own.to_yaml()).expect("our own"), own);
    // A later fork that is not known changes nothing before it.
    let later = Spec::from_yaml(&format!("{forks}I_STAR_FORK_VERSION: 0x09000000\nI_STAR_FORK_EPOCH: 7\n")).expect("valid");
    assert_eq!(later.forks, spec.forks);
    assert_eq!((later.known_fork_at(Epoch::new(6)), later.known_fork_at(Epoch::new(7))), (Some(HEZE), None));

    let network = Network { spec, genesis_time: 0, genesis_validators_root: Root::repeat_byte(3) };
    let domain = |epoch| network.domain(DomainType::InclusionListCommittee, Epoch::new(epoch));
    // `compute_fork_data_root` by hand. The version has a leaf of its own.
    let fork_data_root = hash(leaf(&[8, 0, 0, 0]), [3; 32]);
    assert_eq!(domain(5)[..], [&[0x10, 0, 0, 0], &fork_data_root[..28]].concat());
    assert_ne!(domain(4), domain(5));
    assert_eq!(domain(5), domain(1 << 40));
}
