//! Blocks of every fork from phase0 to Fulu: valid SSZ in which only the few fields are set that a
//! watcher reads.
//!
//! Payloads and sync committees are empty, and the state root is an arbitrary hash, because nothing
//! is executed. Randao reveals, signatures, parent links, attestations, slashings and what moves
//! the registry are real.

use crate::containers::{VotesByBits, attestation, attester_slashing, proposer_slashing, root, signature};
use crate::keys::infinity_signature;
use crate::registry::Operation;
use crate::slasher::{MAX_PROPOSER_SLASHINGS, Operations, max_attester_slashings};
use crate::ssz::SszValue;
use consensus::{ForkName, Preset, Root, SignatureBytes, SignedBeaconBlockHeader};

pub(crate) const MAX_BLOB_COMMITMENTS_PER_BLOCK: u64 = 4096;
const MAX_DEPOSITS: u64 = 16;
const MAX_VOLUNTARY_EXITS: u64 = 16;
const MAX_BLS_TO_EXECUTION_CHANGES: u64 = 16;
const MAX_TRANSACTIONS_PER_PAYLOAD: u64 = 1 << 20;
const MAX_EXTRA_DATA_BYTES: u64 = 32;
const MAX_DEPOSIT_REQUESTS_PER_PAYLOAD: u64 = 8192;
const MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD: u64 = 16;
const MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD: u64 = 2;

/// The fields of a body that differ between blocks.
#[derive(Clone, Debug)]
pub(crate) struct BlockBody {
    pub(crate) randao_reveal: SignatureBytes,
    pub(crate) graffiti: [u8; 32],
    pub(crate) attestations: Vec<VotesByBits>,
    pub(crate) slashings: Operations,
    /// What else moves the registry.
    pub(crate) operations: Vec<Operation>,
}

impl BlockBody {
    /// The default body, whose root is in the header of a genesis state.
    pub(crate) fn empty() -> Self {
        Self {
            randao_reveal: SignatureBytes::ZERO,
            graffiti: [0; 32],
            attestations: Vec::new(),
            slashings: Operations::default(),
            operations: Vec::new(),
        }
    }

    /// `BeaconBlockBody`. `sync_signature` is the point at infinity in blocks, and zero in the
    /// default body.
    pub(crate) fn to_value(&self, fork: ForkName, preset: &Preset, sync_signature: &SignatureBytes) -> SszValue {
        let [deposits, exits, deposit_requests, withdrawals, consolidations] = Operation::lists(&self.operations, fork);
        let list = |items, limit| SszValue::List { items, limit };
        let mut fields = vec![
            signature(&self.randao_reveal),
            SszValue::Container(vec![root(Root::ZERO), SszValue::u64(0), root(Root::ZERO)]),
            SszValue::bytes(&self.graffiti),
            SszValue::List {
                items: self.slashings.proposer.iter().map(|[first, second]| proposer_slashing(first, second)).collect(),
                limit: MAX_PROPOSER_SLASHINGS as u64,
            },
            SszValue::List {
                items: self
                    .slashings
                    .attester
                    .iter()
                    .map(|[first, second]| attester_slashing(fork, preset, first, second))
                    .collect(),
                limit: max_attester_slashings(fork) as u64,
            },
            SszValue::List {
                items: self.attestations.iter().map(|votes| attestation(fork, preset, votes)).collect(),
                limit: max_attestations(fork),
            },
            list(deposits, MAX_DEPOSITS),
            list(exits, MAX_VOLUNTARY_EXITS),
        ];
        if fork >= ForkName::Altair {
            fields.push(SszValue::Container(vec![SszValue::zeros(preset.sync_committee_size / 8), signature(sync_signature)]));
        }
        if fork >= ForkName::Bellatrix {
            fields.push(empty_payload(fork, preset));
        }
        if fork >= ForkName::Capella {
            fields.push(SszValue::empty(MAX_BLS_TO_EXECUTION_CHANGES));
        }
        if fork >= ForkName::Deneb {
            fields.push(SszValue::empty(MAX_BLOB_COMMITMENTS_PER_BLOCK));
        }
        if fork >= ForkName::Electra {
            fields.push(SszValue::Container(vec![
                list(deposit_requests, MAX_DEPOSIT_REQUESTS_PER_PAYLOAD),
                list(withdrawals, MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD),
                list(consolidations, MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD),
            ]));
        }
        SszValue::Container(fields)
    }

    /// `SignedBeaconBlock` with this body. The header must contain the body's root.
    pub(crate) fn signed_block(&self, fork: ForkName, preset: &Preset, signed: &SignedBeaconBlockHeader) -> SszValue {
        let header = &signed.message;
        let body = self.to_value(fork, preset, &infinity_signature());
        debug_assert_eq!(body.root(), header.body_root);
        let block = SszValue::Container(vec![
            SszValue::u64(header.slot.as_u64()),
            SszValue::u64(header.proposer_index.as_u64()),
            root(header.parent_root),
            root(header.state_root),
            body,
        ]);
        crate::containers::signed(block, &signed.signature)
    }

    /// The root of the body as part of a block.
    pub(crate) fn root(&self, fork: ForkName, preset: &Preset) -> Root {
        self.to_value(fork, preset, &infinity_signature()).root()
    }
}

/// `MAX_ATTESTATIONS` or `MAX_ATTESTATIONS_ELECTRA`.
pub(crate) fn max_attestations(fork: ForkName) -> u64 {
    if fork.has_single_attestations() { 8 } else { 128 }
}

fn empty_payload(fork: ForkName, preset: &Preset) -> SszValue {
    let mut fields = payload_start();
    fields.push(SszValue::empty(MAX_TRANSACTIONS_PER_PAYLOAD));
    if fork >= ForkName::Capella {
        fields.push(SszValue::empty(preset.max_withdrawals_per_payload));
    }
    if fork >= ForkName::Deneb {
        fields.extend([SszValue::u64(0), SszValue::u64(0)]);
    }
    SszValue::Container(fields)
}

/// `ExecutionPayloadHeader` with all fields zero, as in a state before the first payload.
pub(crate) fn empty_payload_header(fork: ForkName) -> SszValue {
    let mut fields = payload_start();
    fields.push(root(Root::ZERO));
    if fork >= ForkName::Capella {
        fields.push(root(Root::ZERO));
    }
    if fork >= ForkName::Deneb {
        fields.extend([SszValue::u64(0), SszValue::u64(0)]);
    }
    SszValue::Container(fields)
}

/// The fields with which both payload and payload header begin.
fn payload_start() -> Vec<SszValue> {
    vec![
        root(Root::ZERO),                               // parent_hash
        SszValue::zeros(20),                            // fee_recipient
        root(Root::ZERO),                               // state_root
        root(Root::ZERO),                               // receipts_root
        SszValue::zeros(256),                           // logs_bloom
        root(Root::ZERO),                               // prev_randao
        SszValue::u64(0),                               // block_number
        SszValue::u64(0),                               // gas_limit
        SszValue::u64(0),                               // gas_used
        SszValue::u64(0),                               // timestamp
        SszValue::byte_list(&[], MAX_EXTRA_DATA_BYTES), // extra_data
        SszValue::zeros(32),                            // base_fee_per_gas
        root(Root::ZERO),                               // block_hash
    ]
}
