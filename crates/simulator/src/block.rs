//! Blocks of every fork from phase0 to Fulu: valid SSZ in which only the few fields are set that a
//! watcher reads.
//!
//! Payloads, deposits and sync committees are empty, and the state root is an arbitrary hash,
//! because nothing is executed. Randao reveals, signatures, parent links, attestations and
//! slashings are real.

use crate::containers::{Bits, attestation, attester_slashing, proposer_slashing, root, signature};
use crate::keys::infinity_signature;
use crate::slasher::{MAX_PROPOSER_SLASHINGS, Operations, max_attester_slashings};
use crate::ssz::Value;
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
pub(crate) struct Body {
    pub(crate) randao_reveal: SignatureBytes,
    pub(crate) graffiti: [u8; 32],
    pub(crate) attestations: Vec<Bits>,
    pub(crate) slashings: Operations,
}

impl Body {
    /// The default body, whose root is in the header of a genesis state.
    pub(crate) fn empty() -> Self {
        Self {
            randao_reveal: SignatureBytes::ZERO,
            graffiti: [0; 32],
            attestations: Vec::new(),
            slashings: Operations::default(),
        }
    }

    /// `BeaconBlockBody`. `sync_signature` is the point at infinity in blocks, and zero in the
    /// default body.
    pub(crate) fn to_value(&self, fork: ForkName, preset: &Preset, sync_signature: &SignatureBytes) -> Value {
        let mut fields = vec![
            signature(&self.randao_reveal),
            Value::Container(vec![root(Root::ZERO), Value::u64(0), root(Root::ZERO)]),
            Value::bytes(&self.graffiti),
            Value::List {
                items: self.slashings.proposer.iter().map(|[first, second]| proposer_slashing(first, second)).collect(),
                limit: MAX_PROPOSER_SLASHINGS as u64,
            },
            Value::List {
                items: self
                    .slashings
                    .attester
                    .iter()
                    .map(|[first, second]| attester_slashing(fork, preset, first, second))
                    .collect(),
                limit: max_attester_slashings(fork) as u64,
            },
            Value::List {
                items: self.attestations.iter().map(|votes| attestation(fork, preset, votes)).collect(),
                limit: max_attestations(fork),
            },
            Value::empty(MAX_DEPOSITS),
            Value::empty(MAX_VOLUNTARY_EXITS),
        ];
        if fork >= ForkName::Altair {
            fields.push(Value::Container(vec![Value::zeros(preset.sync_committee_size / 8), signature(sync_signature)]));
        }
        if fork >= ForkName::Bellatrix {
            fields.push(empty_payload(fork, preset));
        }
        if fork >= ForkName::Capella {
            fields.push(Value::empty(MAX_BLS_TO_EXECUTION_CHANGES));
        }
        if fork >= ForkName::Deneb {
            fields.push(Value::empty(MAX_BLOB_COMMITMENTS_PER_BLOCK));
        }
        if fork >= ForkName::Electra {
            fields.push(Value::Container(vec![
                Value::empty(MAX_DEPOSIT_REQUESTS_PER_PAYLOAD),
                Value::empty(MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD),
                Value::empty(MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD),
            ]));
        }
        Value::Container(fields)
    }

    /// `SignedBeaconBlock` with this body. The header must contain the body's root.
    pub(crate) fn signed_block(&self, fork: ForkName, preset: &Preset, signed: &SignedBeaconBlockHeader) -> Value {
        let header = &signed.message;
        let body = self.to_value(fork, preset, &infinity_signature());
        debug_assert_eq!(body.root(), header.body_root);
        let block = Value::Container(vec![
            Value::u64(header.slot.as_u64()),
            Value::u64(header.proposer_index.as_u64()),
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

fn empty_payload(fork: ForkName, preset: &Preset) -> Value {
    let mut fields = payload_start();
    fields.push(Value::empty(MAX_TRANSACTIONS_PER_PAYLOAD));
    if fork >= ForkName::Capella {
        fields.push(Value::empty(preset.max_withdrawals_per_payload));
    }
    if fork >= ForkName::Deneb {
        fields.extend([Value::u64(0), Value::u64(0)]);
    }
    Value::Container(fields)
}

/// `ExecutionPayloadHeader` with all fields zero, as in a state before the first payload.
pub(crate) fn empty_payload_header(fork: ForkName) -> Value {
    let mut fields = payload_start();
    fields.push(root(Root::ZERO));
    if fork >= ForkName::Capella {
        fields.push(root(Root::ZERO));
    }
    if fork >= ForkName::Deneb {
        fields.extend([Value::u64(0), Value::u64(0)]);
    }
    Value::Container(fields)
}

/// The fields with which both payload and payload header begin.
fn payload_start() -> Vec<Value> {
    vec![
        root(Root::ZERO),                            // parent_hash
        Value::zeros(20),                            // fee_recipient
        root(Root::ZERO),                            // state_root
        root(Root::ZERO),                            // receipts_root
        Value::zeros(256),                           // logs_bloom
        root(Root::ZERO),                            // prev_randao
        Value::u64(0),                               // block_number
        Value::u64(0),                               // gas_limit
        Value::u64(0),                               // gas_used
        Value::u64(0),                               // timestamp
        Value::byte_list(&[], MAX_EXTRA_DATA_BYTES), // extra_data
        Value::zeros(32),                            // base_fee_per_gas
        root(Root::ZERO),                            // block_hash
    ]
}
