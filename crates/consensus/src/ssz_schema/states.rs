//! The type `BeaconState` of every fork. Source: consensus-specs `specs/*/beacon-chain.md`.

use super::catalogue::Draft;
use super::*;
use crate::ForkName::{Altair, Bellatrix, Capella, Electra, Fulu, Gloas, Heze};
use crate::MIN_SEED_LOOKAHEAD;

const VALIDATOR_REGISTRY_LIMIT: u64 = 1 << 40;
const HISTORICAL_ROOTS_LIMIT: u64 = 1 << 24;
const PENDING_DEPOSITS_LIMIT: u64 = 1 << 27;
const MAX_PENDING_ATTESTATIONS_PER_SLOT: u64 = 128;
const JUSTIFICATION_BITS: u64 = 4;

pub(super) fn add(d: &mut Draft<'_>) {
    add_parts(d);
    let mut fields = until_participation(d);
    participation(d, &mut fields);
    if d.since(Gloas) {
        fields.push(("latest_block_hash", bytes32()));
    } else if d.since(Bellatrix) {
        fields.push(("latest_execution_payload_header", d.get("ExecutionPayloadHeader")));
    }
    if d.since(Capella) {
        fields.extend([
            ("next_withdrawal_index", uint64()),
            ("next_withdrawal_validator_index", uint64()),
            ("historical_summaries", list(d.get("HistoricalSummary"), Some(HISTORICAL_ROOTS_LIMIT))),
        ]);
    }
    if d.since(Electra) {
        fields.extend([
            ("deposit_requests_start_index", uint64()),
            ("deposit_balance_to_consume", uint64()),
            ("exit_balance_to_consume", uint64()),
            ("earliest_exit_epoch", uint64()),
            ("consolidation_balance_to_consume", uint64()),
            ("earliest_consolidation_epoch", uint64()),
            ("pending_deposits", list(d.get("PendingDeposit"), d.limit(PENDING_DEPOSITS_LIMIT))),
            (
                "pending_partial_withdrawals",
                list(d.get("PendingPartialWithdrawal"), d.limit(d.preset.pending_partial_withdrawals_limit)),
            ),
            ("pending_consolidations", list(d.get("PendingConsolidation"), d.limit(d.preset.pending_consolidations_limit))),
        ]);
    }
    if d.since(Fulu) {
        fields.push(("proposer_lookahead", vector(uint64(), (MIN_SEED_LOOKAHEAD + 1) * d.preset.slots_per_epoch)));
    }
    if d.since(Gloas) {
        builders(d, &mut fields);
    }
    // EIP-8015 removes the old deposits.
    let removed: &[&str] =
        if d.since(Heze) { &["eth1_data", "eth1_data_votes", "eth1_deposit_index", "deposit_requests_start_index"] } else { &[] };
    d.add_stable_without("BeaconState", fields, removed);
}

fn add_parts(d: &mut Draft<'_>) {
    if d.since(Capella) {
        d.add("HistoricalSummary", vec![("block_summary_root", bytes32()), ("state_summary_root", bytes32())]);
    }
    if d.since(Electra) {
        d.add(
            "PendingDeposit",
            vec![
                ("pubkey", pubkey()),
                ("withdrawal_credentials", bytes32()),
                ("amount", uint64()),
                ("signature", signature()),
                ("slot", uint64()),
            ],
        );
        d.add(
            "PendingPartialWithdrawal",
            vec![("validator_index", uint64()), ("amount", uint64()), ("withdrawable_epoch", uint64())],
        );
        d.add("PendingConsolidation", vec![("source_index", uint64()), ("target_index", uint64())]);
    }
    if d.since(Gloas) {
        d.add(
            "Builder",
            vec![
                ("pubkey", pubkey()),
                ("version", uint(1)),
                ("execution_address", bytes(20)),
                ("balance", uint64()),
                ("deposit_epoch", uint64()),
                ("withdrawable_epoch", uint64()),
            ],
        );
        d.add("BuilderPendingWithdrawal", vec![("fee_recipient", bytes(20)), ("amount", uint64()), ("builder_index", uint64())]);
        d.add(
            "BuilderPendingPayment",
            vec![("weight", uint64()), ("withdrawal", d.get("BuilderPendingWithdrawal")), ("proposer_index", uint64())],
        );
    }
}

type StateFields = Vec<(&'static str, TypeRef)>;

fn until_participation(d: &Draft<'_>) -> StateFields {
    let p = d.preset;
    let registry = d.limit(VALIDATOR_REGISTRY_LIMIT);
    vec![
        ("genesis_time", uint64()),
        ("genesis_validators_root", bytes32()),
        ("slot", uint64()),
        ("fork", d.get("Fork")),
        ("latest_block_header", d.get("BeaconBlockHeader")),
        ("block_roots", vector(bytes32(), p.slots_per_historical_root)),
        ("state_roots", vector(bytes32(), p.slots_per_historical_root)),
        ("historical_roots", list(bytes32(), Some(HISTORICAL_ROOTS_LIMIT))),
        ("eth1_data", d.get("Eth1Data")),
        ("eth1_data_votes", list(d.get("Eth1Data"), Some(p.epochs_per_eth1_voting_period * p.slots_per_epoch))),
        ("eth1_deposit_index", uint64()),
        ("validators", list(d.get("Validator"), registry)),
        ("balances", list(uint64(), registry)),
        ("randao_mixes", vector(bytes32(), p.epochs_per_historical_vector)),
        ("slashings", vector(uint64(), p.epochs_per_slashings_vector)),
    ]
}

fn participation(d: &Draft<'_>, fields: &mut StateFields) {
    let registry = d.limit(VALIDATOR_REGISTRY_LIMIT);
    if d.since(Altair) {
        fields.push(("previous_epoch_participation", list(uint(1), registry)));
        fields.push(("current_epoch_participation", list(uint(1), registry)));
    } else {
        let most = MAX_PENDING_ATTESTATIONS_PER_SLOT * d.preset.slots_per_epoch;
        fields.push(("previous_epoch_attestations", list(d.get("PendingAttestation"), Some(most))));
        fields.push(("current_epoch_attestations", list(d.get("PendingAttestation"), Some(most))));
    }
    fields.push(("justification_bits", bitvector(JUSTIFICATION_BITS)));
    for name in ["previous_justified_checkpoint", "current_justified_checkpoint", "finalized_checkpoint"] {
        fields.push((name, d.get("Checkpoint")));
    }
    if d.since(Altair) {
        fields.push(("inactivity_scores", list(uint64(), registry)));
        fields.push(("current_sync_committee", d.get("SyncCommittee")));
        fields.push(("next_sync_committee", d.get("SyncCommittee")));
    }
}

/// The fields that EIP-7732 adds.
fn builders(d: &Draft<'_>, fields: &mut StateFields) {
    let p = d.preset;
    let committee = vector(uint64(), p.ptc_size);
    fields.extend([
        ("builders", list(d.get("Builder"), None)),
        ("next_withdrawal_builder_index", uint64()),
        ("execution_payload_availability", bitvector(p.slots_per_historical_root)),
        ("builder_pending_payments", vector(d.get("BuilderPendingPayment"), 2 * p.slots_per_epoch)),
        ("builder_pending_withdrawals", list(d.get("BuilderPendingWithdrawal"), None)),
        ("latest_execution_payload_bid", d.get("ExecutionPayloadBid")),
        ("payload_expected_withdrawals", list(d.get("Withdrawal"), None)),
        ("ptc_window", vector(committee, (2 + MIN_SEED_LOOKAHEAD) * p.slots_per_epoch)),
    ]);
}
