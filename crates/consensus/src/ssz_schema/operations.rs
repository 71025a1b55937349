//! The types of votes, slashings, payloads and blocks in every fork.
//!
//! Sources: consensus-specs `specs/*/beacon-chain.md`, `p2p-interface.md`, `validator.md`, and
//! `presets/`.
//!
//! Heze follows consensus-specs a5ab894edd2c22494dfe46dc880946d636f5cdf7 (October 2026) and is not
//! final. It has the inclusion lists of EIP-7805, which name a dependent root and use progressive
//! lists as in Gloas. It also has EIP-8015, which removes the old deposits.

use super::catalogue::Draft;
use super::*;
use crate::ForkName::{Altair, Bellatrix, Capella, Deneb, Electra, Fulu, Gloas, Heze};
use crate::{MAX_PROPOSER_SLASHINGS, MAX_VALIDATORS_PER_COMMITTEE};

const MAX_DEPOSITS: u64 = 16;
const MAX_VOLUNTARY_EXITS: u64 = 16;
const MAX_BLS_TO_EXECUTION_CHANGES: u64 = 16;
const DEPOSIT_PROOF_LEN: u64 = 33;
const SYNC_COMMITTEE_SUBNET_COUNT: u64 = 4;
const MAX_BYTES_PER_TRANSACTION: u64 = 1 << 30;
const MAX_TRANSACTIONS_PER_PAYLOAD: u64 = 1 << 20;
const MAX_EXTRA_DATA_BYTES: u64 = 32;
const BYTES_PER_LOGS_BLOOM: usize = 256;
pub(super) const MAX_BLOB_COMMITMENTS_PER_BLOCK: u64 = 4096;
const BYTES_PER_BLOB: usize = 131_072;
const BYTES_PER_CELL: usize = 2048;
const BLOB_INCLUSION_PROOF_LEN: u64 = 17;
const COLUMN_INCLUSION_PROOF_LEN: u64 = 4;
const MAX_DEPOSIT_REQUESTS_PER_PAYLOAD: u64 = 8192;
const MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD: u64 = 16;
const MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD: u64 = 2;

pub(super) fn add(d: &mut Draft<'_>) {
    add_basics(d);
    add_votes(d);
    add_operations(d);
    if d.since(Altair) {
        add_sync_committee(d);
    }
    if d.since(Bellatrix) {
        add_execution_payload(d);
    }
    if d.since(Electra) {
        add_execution_requests(d);
    }
    if d.since(Gloas) {
        add_builder_messages(d);
    }
    if d.since(Heze) {
        add_inclusion_list(d);
    }
    add_blocks(d);
    add_sidecars(d);
}

fn add_basics(d: &mut Draft<'_>) {
    d.add("Fork", vec![("previous_version", bytes(4)), ("current_version", bytes(4)), ("epoch", uint64())]);
    d.add("ForkData", vec![("current_version", bytes(4)), ("genesis_validators_root", bytes32())]);
    d.add("SigningData", vec![("object_root", bytes32()), ("domain", bytes32())]);
    d.add("Checkpoint", vec![("epoch", uint64()), ("root", bytes32())]);
    d.add("Eth1Data", vec![("deposit_root", bytes32()), ("deposit_count", uint64()), ("block_hash", bytes32())]);
    d.add(
        "Validator",
        vec![
            ("pubkey", pubkey()),
            ("withdrawal_credentials", bytes32()),
            ("effective_balance", uint64()),
            ("slashed", boolean()),
            ("activation_eligibility_epoch", uint64()),
            ("activation_epoch", uint64()),
            ("exit_epoch", uint64()),
            ("withdrawable_epoch", uint64()),
        ],
    );
    d.add(
        "BeaconBlockHeader",
        vec![
            ("slot", uint64()),
            ("proposer_index", uint64()),
            ("parent_root", bytes32()),
            ("state_root", bytes32()),
            ("body_root", bytes32()),
        ],
    );
    let header = d.get("BeaconBlockHeader");
    signed(d, "SignedBeaconBlockHeader", header);
}

fn add_votes(d: &mut Draft<'_>) {
    d.add(
        "AttestationData",
        vec![
            ("slot", uint64()),
            ("index", uint64()),
            ("beacon_block_root", bytes32()),
            ("source", d.get("Checkpoint")),
            ("target", d.get("Checkpoint")),
        ],
    );
    let data = d.get("AttestationData");
    let voters = match d.since(Electra) {
        true => d.preset.max_validators_per_slot(),
        false => MAX_VALIDATORS_PER_COMMITTEE,
    };
    let mut attestation =
        vec![("aggregation_bits", bitlist(d.limit(voters))), ("data", data.clone()), ("signature", signature())];
    if d.since(Electra) {
        attestation.push(("committee_bits", bitvector(d.preset.max_committees_per_slot)));
        d.add(
            "SingleAttestation",
            vec![("committee_index", uint64()), ("attester_index", uint64()), ("data", data.clone()), ("signature", signature())],
        );
    }
    d.add_stable("Attestation", attestation);
    let indices = list(uint64(), d.limit(voters));
    d.add_stable("IndexedAttestation", vec![("attesting_indices", indices), ("data", data.clone()), ("signature", signature())]);
    d.add(
        "PendingAttestation",
        vec![
            ("aggregation_bits", bitlist(Some(MAX_VALIDATORS_PER_COMMITTEE))),
            ("data", data),
            ("inclusion_delay", uint64()),
            ("proposer_index", uint64()),
        ],
    );
    d.add(
        "AggregateAndProof",
        vec![("aggregator_index", uint64()), ("aggregate", d.get("Attestation")), ("selection_proof", signature())],
    );
    let message = d.get("AggregateAndProof");
    signed(d, "SignedAggregateAndProof", message);
}

fn add_operations(d: &mut Draft<'_>) {
    let header = d.get("SignedBeaconBlockHeader");
    d.add("ProposerSlashing", vec![("signed_header_1", header.clone()), ("signed_header_2", header)]);
    let indexed = d.get("IndexedAttestation");
    d.add("AttesterSlashing", vec![("attestation_1", indexed.clone()), ("attestation_2", indexed)]);
    d.add(
        "DepositData",
        vec![("pubkey", pubkey()), ("withdrawal_credentials", bytes32()), ("amount", uint64()), ("signature", signature())],
    );
    d.add("Deposit", vec![("proof", vector(bytes32(), DEPOSIT_PROOF_LEN)), ("data", d.get("DepositData"))]);
    d.add("VoluntaryExit", vec![("epoch", uint64()), ("validator_index", uint64())]);
    let exit = d.get("VoluntaryExit");
    signed(d, "SignedVoluntaryExit", exit);
    if d.since(Capella) {
        d.add(
            "BLSToExecutionChange",
            vec![("validator_index", uint64()), ("from_bls_pubkey", pubkey()), ("to_execution_address", bytes(20))],
        );
        let change = d.get("BLSToExecutionChange");
        signed(d, "SignedBLSToExecutionChange", change);
        d.add(
            "Withdrawal",
            vec![("index", uint64()), ("validator_index", uint64()), ("address", bytes(20)), ("amount", uint64())],
        );
    }
}

fn add_sync_committee(d: &mut Draft<'_>) {
    let size = d.preset.sync_committee_size;
    d.add("SyncAggregate", vec![("sync_committee_bits", bitvector(size)), ("sync_committee_signature", signature())]);
    d.add("SyncCommittee", vec![("pubkeys", vector(pubkey(), size)), ("aggregate_pubkey", pubkey())]);
    d.add(
        "SyncCommitteeMessage",
        vec![("slot", uint64()), ("beacon_block_root", bytes32()), ("validator_index", uint64()), ("signature", signature())],
    );
    d.add(
        "SyncCommitteeContribution",
        vec![
            ("slot", uint64()),
            ("beacon_block_root", bytes32()),
            ("subcommittee_index", uint64()),
            ("aggregation_bits", bitvector(size / SYNC_COMMITTEE_SUBNET_COUNT)),
            ("signature", signature()),
        ],
    );
    d.add(
        "ContributionAndProof",
        vec![
            ("aggregator_index", uint64()),
            ("contribution", d.get("SyncCommitteeContribution")),
            ("selection_proof", signature()),
        ],
    );
    let message = d.get("ContributionAndProof");
    signed(d, "SignedContributionAndProof", message);
}

fn add_execution_payload(d: &mut Draft<'_>) {
    let common = || {
        vec![
            ("parent_hash", bytes32()),
            ("fee_recipient", bytes(20)),
            ("state_root", bytes32()),
            ("receipts_root", bytes32()),
            ("logs_bloom", bytes(BYTES_PER_LOGS_BLOOM)),
            ("prev_randao", bytes32()),
            ("block_number", uint64()),
            ("gas_limit", uint64()),
            ("gas_used", uint64()),
            ("timestamp", uint64()),
            ("extra_data", byte_list(Some(MAX_EXTRA_DATA_BYTES))),
            ("base_fee_per_gas", uint(32)),
            ("block_hash", bytes32()),
        ]
    };
    let mut payload = common();
    let mut header = common();
    let transaction = byte_list(d.limit(MAX_BYTES_PER_TRANSACTION));
    payload.push(("transactions", list(transaction, d.limit(MAX_TRANSACTIONS_PER_PAYLOAD))));
    header.push(("transactions_root", bytes32()));
    if d.since(Capella) {
        payload.push(("withdrawals", list(d.get("Withdrawal"), d.limit(d.preset.max_withdrawals_per_payload))));
        header.push(("withdrawals_root", bytes32()));
    }
    if d.since(Deneb) {
        for fields in [&mut payload, &mut header] {
            fields.extend([("blob_gas_used", uint64()), ("excess_blob_gas", uint64())]);
        }
    }
    if d.since(Gloas) {
        payload.extend([("block_access_list", byte_list(None)), ("slot_number", uint64())]);
    } else {
        d.add("ExecutionPayloadHeader", header);
    }
    d.add_stable("ExecutionPayload", payload);
}

fn add_execution_requests(d: &mut Draft<'_>) {
    let deposit = |with_index: bool| {
        let mut fields =
            vec![("pubkey", pubkey()), ("withdrawal_credentials", bytes32()), ("amount", uint64()), ("signature", signature())];
        if with_index {
            fields.push(("index", uint64()));
        }
        fields
    };
    d.add("DepositRequest", deposit(true));
    d.add("WithdrawalRequest", vec![("source_address", bytes(20)), ("validator_pubkey", pubkey()), ("amount", uint64())]);
    d.add("ConsolidationRequest", vec![("source_address", bytes(20)), ("source_pubkey", pubkey()), ("target_pubkey", pubkey())]);
    let mut requests = vec![
        ("deposits", list(d.get("DepositRequest"), d.limit(MAX_DEPOSIT_REQUESTS_PER_PAYLOAD))),
        ("withdrawals", list(d.get("WithdrawalRequest"), d.limit(MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD))),
        ("consolidations", list(d.get("ConsolidationRequest"), d.limit(MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD))),
    ];
    if d.since(Gloas) {
        d.add("BuilderDepositRequest", deposit(false));
        d.add("BuilderExitRequest", vec![("source_address", bytes(20)), ("pubkey", pubkey())]);
        requests.push(("builder_deposits", list(d.get("BuilderDepositRequest"), None)));
        requests.push(("builder_exits", list(d.get("BuilderExitRequest"), None)));
    }
    d.add_stable("ExecutionRequests", requests);
}

/// EIP-7732: bids, envelopes and the votes of the payload-timeliness committee.
fn add_builder_messages(d: &mut Draft<'_>) {
    d.add(
        "PayloadAttestationData",
        vec![
            ("beacon_block_root", bytes32()),
            ("slot", uint64()),
            ("payload_present", boolean()),
            ("blob_data_available", boolean()),
        ],
    );
    let data = d.get("PayloadAttestationData");
    let bits = bitvector(d.preset.ptc_size);
    d.add_stable("PayloadAttestation", vec![("aggregation_bits", bits), ("data", data.clone()), ("signature", signature())]);
    d.add("PayloadAttestationMessage", vec![("validator_index", uint64()), ("data", data), ("signature", signature())]);
    let mut bid = vec![
        ("parent_block_hash", bytes32()),
        ("parent_block_root", bytes32()),
        ("block_hash", bytes32()),
        ("prev_randao", bytes32()),
        ("fee_recipient", bytes(20)),
        ("gas_limit", uint64()),
        ("builder_index", uint64()),
        ("slot", uint64()),
        ("value", uint64()),
        ("execution_payment", uint64()),
        ("blob_kzg_commitments", list(bytes(48), None)),
        ("execution_requests_root", bytes32()),
    ];
    if d.since(Heze) {
        bid.push(("inclusion_list_bits", bitvector(d.preset.inclusion_list_committee_size)));
    }
    d.add_stable("ExecutionPayloadBid", bid);
    let bid = d.get("ExecutionPayloadBid");
    signed(d, "SignedExecutionPayloadBid", bid);
    d.add_stable(
        "ExecutionPayloadEnvelope",
        vec![
            ("payload", d.get("ExecutionPayload")),
            ("execution_requests", d.get("ExecutionRequests")),
            ("builder_index", uint64()),
            ("beacon_block_root", bytes32()),
            ("parent_beacon_block_root", bytes32()),
        ],
    );
    let envelope = d.get("ExecutionPayloadEnvelope");
    signed(d, "SignedExecutionPayloadEnvelope", envelope);
}

/// EIP-7805. The container itself is plain, but its list of transactions is progressive.
fn add_inclusion_list(d: &mut Draft<'_>) {
    let transactions = list(byte_list(None), None);
    d.add(
        "InclusionList",
        vec![("slot", uint64()), ("validator_index", uint64()), ("dependent_root", bytes32()), ("transactions", transactions)],
    );
    let inclusion_list = d.get("InclusionList");
    signed(d, "SignedInclusionList", inclusion_list);
}

fn add_blocks(d: &mut Draft<'_>) {
    let attestations = if d.since(Electra) { 8 } else { 128 };
    let mut body = vec![
        ("randao_reveal", signature()),
        ("eth1_data", d.get("Eth1Data")),
        ("graffiti", bytes32()),
        ("proposer_slashings", list(d.get("ProposerSlashing"), d.limit(MAX_PROPOSER_SLASHINGS))),
        ("attester_slashings", list(d.get("AttesterSlashing"), d.limit(d.fork.max_attester_slashings()))),
        ("attestations", list(d.get("Attestation"), d.limit(attestations))),
        ("deposits", list(d.get("Deposit"), d.limit(MAX_DEPOSITS))),
        ("voluntary_exits", list(d.get("SignedVoluntaryExit"), d.limit(MAX_VOLUNTARY_EXITS))),
    ];
    if d.since(Altair) {
        body.push(("sync_aggregate", d.get("SyncAggregate")));
    }
    let with_payload = !d.since(Gloas);
    if d.since(Bellatrix) && with_payload {
        body.push(("execution_payload", d.get("ExecutionPayload")));
    }
    if d.since(Capella) {
        let changes = list(d.get("SignedBLSToExecutionChange"), d.limit(MAX_BLS_TO_EXECUTION_CHANGES));
        body.push(("bls_to_execution_changes", changes));
    }
    if d.since(Deneb) && with_payload {
        body.push(("blob_kzg_commitments", list(bytes(48), Some(MAX_BLOB_COMMITMENTS_PER_BLOCK))));
    }
    if d.since(Electra) && with_payload {
        body.push(("execution_requests", d.get("ExecutionRequests")));
    }
    if d.since(Gloas) {
        body.push(("signed_execution_payload_bid", d.get("SignedExecutionPayloadBid")));
        body.push(("payload_attestations", list(d.get("PayloadAttestation"), None)));
        body.push(("parent_execution_requests", d.get("ExecutionRequests")));
    }
    // EIP-8015 removes the old deposits.
    let removed: &[&str] = if d.since(Heze) { &["eth1_data", "deposits"] } else { &[] };
    d.add_stable_without("BeaconBlockBody", body, removed);
    d.add(
        "BeaconBlock",
        vec![
            ("slot", uint64()),
            ("proposer_index", uint64()),
            ("parent_root", bytes32()),
            ("state_root", bytes32()),
            ("body", d.get("BeaconBlockBody")),
        ],
    );
    let block = d.get("BeaconBlock");
    signed(d, "SignedBeaconBlock", block);
}

/// Blob sidecars (Deneb to Fulu) and data column sidecars (from Fulu on, from Gloas on without a
/// signed header).
fn add_sidecars(d: &mut Draft<'_>) {
    let header = d.get("SignedBeaconBlockHeader");
    if d.since(Deneb) && !d.since(Gloas) {
        d.add(
            "BlobSidecar",
            vec![
                ("index", uint64()),
                ("blob", bytes(BYTES_PER_BLOB)),
                ("kzg_commitment", bytes(48)),
                ("kzg_proof", bytes(48)),
                ("signed_block_header", header.clone()),
                ("kzg_commitment_inclusion_proof", vector(bytes32(), BLOB_INCLUSION_PROOF_LEN)),
            ],
        );
    }
    let many = d.limit(MAX_BLOB_COMMITMENTS_PER_BLOCK);
    if d.since(Gloas) {
        d.add(
            "DataColumnSidecar",
            vec![
                ("index", uint64()),
                ("column", list(bytes(BYTES_PER_CELL), many)),
                ("kzg_proofs", list(bytes(48), many)),
                ("slot", uint64()),
                ("beacon_block_root", bytes32()),
            ],
        );
    } else if d.since(Fulu) {
        d.add(
            "DataColumnSidecar",
            vec![
                ("index", uint64()),
                ("column", list(bytes(BYTES_PER_CELL), many)),
                ("kzg_commitments", list(bytes(48), many)),
                ("kzg_proofs", list(bytes(48), many)),
                ("signed_block_header", header),
                ("kzg_commitments_inclusion_proof", vector(bytes32(), COLUMN_INCLUSION_PROOF_LEN)),
            ],
        );
    }
}

fn signed(d: &mut Draft<'_>, name: &'static str, message: TypeRef) {
    d.add(name, vec![("message", message), ("signature", signature())]);
}
