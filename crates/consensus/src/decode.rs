//! Decodes SSZ bytes into the containers of [`crate::containers`].
//!
//! Decoding is strict: bytes that are not exactly one well-formed value are a [`DecodeError`].
//! Memory for a value is allocated only after its bytes are there.
//!
//! Containers with one layout in every fork and preset are decoded directly. All others are decoded
//! through [`crate::ssz_schema`].

use crate::ssz_schema::{Catalogue, SszView, json_to_ssz};
use crate::{
    AggregationBits, Attestation, AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, CommitteeIndex,
    ConsolidationRequest, DecodeError, DepositData, Epoch, ExecutionAddress, ForkName, Gwei, IndexedAttestation, Preset,
    ProposerSlashing, PubkeyBytes, RegistryChange, RegistryRequests, Root, Shuffling, SignatureBytes, SignedAggregate,
    SignedBeaconBlockHeader, SignedBlock, SingleAttestation, Slot, ValidatorIndex, WithdrawalRequest,
};
use ssz::{Decode as _, Encode as _};

/// The kind of sidecar that carries a signed block header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SidecarKind {
    Blob,
    DataColumn,
}

/// The fields at fixed offsets of every `SignedBeaconBlock`. They are at the same place also in
/// forks that this program does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPrefix {
    pub slot: Slot,
    pub proposer_index: ValidatorIndex,
    pub parent_root: Root,
    pub state_root: Root,
    /// The proposer's signature. It is over the root of the block, which cannot be computed from
    /// these fields.
    pub signature: SignatureBytes,
}

impl AttestationData {
    /// Decodes the fixed number of bytes that it has.
    pub fn from_ssz(bytes: &[u8; Self::SSZ_LEN]) -> Self {
        Fixed(bytes).attestation_data()
    }
}

impl SingleAttestation {
    /// Decodes the 240 bytes of a vote on a subnet, from Electra on.
    pub fn from_ssz(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fixed = Fixed::of("SingleAttestation", bytes, Self::SSZ_LEN)?;
        Ok(Self {
            committee_index: CommitteeIndex::new(fixed.u64()),
            attester_index: ValidatorIndex::new(fixed.u64()),
            data: fixed.attestation_data(),
            signature: SignatureBytes::from(fixed.array()),
        })
    }

    /// Encodes it as SSZ.
    pub fn to_ssz(&self) -> Vec<u8> {
        self.as_ssz_bytes()
    }
}

impl Attestation {
    /// Decodes an `Attestation`. This is the form in blocks, in aggregates and, before Electra, on
    /// the subnets.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_view(&Catalogue::of(fork, preset).attestation.validate(bytes)?)
    }

    /// Encodes it as SSZ. The preset determines the width of `committee_bits`. Before Electra the
    /// preset has no effect.
    pub fn to_ssz(&self, preset: &Preset) -> Vec<u8> {
        let width = self.committee_bits.map_or(0, |_| preset.max_committees_per_slot.div_ceil(8) as usize).min(8);
        let offset = 4 + AttestationData::SSZ_LEN + 96 + width;
        let mut out = Vec::with_capacity(offset + self.aggregation_bits.len() / 8 + 1);
        out.extend_from_slice(&(offset as u32).to_le_bytes());
        self.data.ssz_append(&mut out);
        out.extend_from_slice(self.signature.as_slice());
        if let Some(bits) = self.committee_bits {
            out.extend_from_slice(&bits.to_le_bytes()[..width]);
        }
        out.extend_from_slice(&self.aggregation_bits.clone().into_bytes());
        out
    }

    /// Returns the committees of its signers, ascending. They are those in `committee_bits`; before
    /// Electra it is the one in `data.index`.
    pub fn committees(&self) -> Vec<CommitteeIndex> {
        match self.committee_bits {
            Some(bits) => (0..64).filter(|i| bits >> i & 1 == 1).map(CommitteeIndex::new).collect(),
            None => vec![self.data.index],
        }
    }

    /// `get_attesting_indices` of the specification: the signers, ascending. `shuffling` must be
    /// the one of the vote's epoch on its branch.
    ///
    /// Returns `None` if a committee does not exist in the shuffling, if no committee is named, or
    /// if the number of bits differs from the number of the committees' members.
    pub fn attesting_indices(&self, shuffling: &Shuffling) -> Option<Vec<ValidatorIndex>> {
        let committees = self.committees();
        let mut indices = Vec::with_capacity(self.aggregation_bits.num_set_bits());
        let mut offset = 0;
        for committee in &committees {
            let members = shuffling.committee(self.data.slot, *committee)?;
            if offset + members.len() > self.aggregation_bits.len() {
                return None;
            }
            for (i, member) in members.iter().enumerate() {
                if self.aggregation_bits.get(offset + i).unwrap_or(false) {
                    indices.push(ValidatorIndex::new(u64::from(*member)));
                }
            }
            offset += members.len();
        }
        if committees.is_empty() || offset != self.aggregation_bits.len() {
            return None;
        }
        indices.sort_unstable();
        Some(indices)
    }

    fn from_view(view: &SszView<'_, '_>) -> Result<Self, DecodeError> {
        let bits = view.need("aggregation_bits")?;
        let committee_bits = view.field("committee_bits").map(|bits| {
            let mut wide = [0u8; 8];
            let width = bits.bytes().len().min(8);
            wide[..width].copy_from_slice(&bits.bytes()[..width]);
            u64::from_le_bytes(wide)
        });
        Ok(Self {
            aggregation_bits: AggregationBits::from_ssz_bytes(bits.bytes())
                .map_err(|error| DecodeError::new("Attestation", "aggregation_bits", 0, format!("{error:?}")))?,
            data: attestation_data(&view.need("data")?),
            committee_bits,
            signature: signature(&view.need("signature")?),
        })
    }
}

impl SignedAggregate {
    /// Decodes a `SignedAggregateAndProof`.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        let catalogue = Catalogue::of(fork, preset);
        let view = catalogue.signed_aggregate.validate(bytes)?;
        let message = view.need("message")?;
        Ok(Self {
            aggregator_index: ValidatorIndex::new(message.need("aggregator_index")?.as_u64()),
            aggregate: Attestation::from_view(&message.need("aggregate")?)?,
            selection_proof: signature(&message.need("selection_proof")?),
            signature: signature(&view.need("signature")?),
            message_root: message.hash_tree_root(),
        })
    }

    /// Encodes it as SSZ. `message_root` is not part of it.
    pub fn to_ssz(&self, preset: &Preset) -> Vec<u8> {
        let aggregate = self.aggregate.to_ssz(preset);
        let mut out = Vec::with_capacity(208 + aggregate.len());
        out.extend_from_slice(&100u32.to_le_bytes());
        out.extend_from_slice(self.signature.as_slice());
        self.aggregator_index.ssz_append(&mut out);
        out.extend_from_slice(&108u32.to_le_bytes());
        out.extend_from_slice(self.selection_proof.as_slice());
        out.extend_from_slice(&aggregate);
        out
    }
}

impl IndexedAttestation {
    /// Decodes an `IndexedAttestation`.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_view(&Catalogue::of(fork, preset).indexed_attestation.validate(bytes)?)
    }

    /// Encodes it as SSZ. The encoding is the same in all forks.
    pub fn to_ssz(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(INDEXED_HEAD_LEN + self.attesting_indices.len() * 8);
        out.extend_from_slice(&(INDEXED_HEAD_LEN as u32).to_le_bytes());
        self.data.ssz_append(&mut out);
        out.extend_from_slice(self.signature.as_slice());
        for index in &self.attesting_indices {
            index.ssz_append(&mut out);
        }
        out
    }

    fn from_view(view: &SszView<'_, '_>) -> Result<Self, DecodeError> {
        let indices = view.need("attesting_indices")?;
        Ok(Self {
            attesting_indices: indices
                .bytes()
                .as_chunks::<8>()
                .0
                .iter()
                .map(|i| ValidatorIndex::new(u64::from_le_bytes(*i)))
                .collect(),
            data: attestation_data(&view.need("data")?),
            signature: signature(&view.need("signature")?),
        })
    }
}

/// Length in bytes of the part before the indices: offset, data and signature.
const INDEXED_HEAD_LEN: usize = 4 + AttestationData::SSZ_LEN + 96;

impl AttesterSlashing {
    /// Decodes an `AttesterSlashing`.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_view(&Catalogue::of(fork, preset).attester_slashing.validate(bytes)?)
    }

    /// Reads the attestation data of both sides directly from the SSZ. The lists of signers, which
    /// can be long, are skipped. The SSZ must be valid; `None` is returned if it is too short.
    pub fn data_in_ssz(bytes: &[u8]) -> Option<[AttestationData; 2]> {
        let side = |at: usize| {
            let offset = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
            Some(AttestationData::from_ssz(bytes.get(offset..)?.get(4..)?.first_chunk()?))
        };
        Some([side(0)?, side(4)?])
    }

    /// Encodes it as SSZ. The encoding is the same in all forks.
    pub fn to_ssz(&self) -> Vec<u8> {
        let (first, second) = (self.attestation_1.to_ssz(), self.attestation_2.to_ssz());
        let mut out = Vec::with_capacity(8 + first.len() + second.len());
        out.extend_from_slice(&8u32.to_le_bytes());
        out.extend_from_slice(&((8 + first.len()) as u32).to_le_bytes());
        out.extend_from_slice(&first);
        out.extend_from_slice(&second);
        out
    }

    fn from_view(view: &SszView<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            attestation_1: IndexedAttestation::from_view(&view.need("attestation_1")?)?,
            attestation_2: IndexedAttestation::from_view(&view.need("attestation_2")?)?,
        })
    }
}

impl ProposerSlashing {
    /// Length of its SSZ in bytes.
    pub const SSZ_LEN: usize = 2 * SignedBeaconBlockHeader::SSZ_LEN;

    /// Decodes a `ProposerSlashing`.
    pub fn from_ssz(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fixed = Fixed::of("ProposerSlashing", bytes, Self::SSZ_LEN)?;
        Ok(Self { signed_header_1: fixed.signed_header(), signed_header_2: fixed.signed_header() })
    }

    /// Encodes it as SSZ.
    pub fn to_ssz(&self) -> Vec<u8> {
        self.as_ssz_bytes()
    }
}

impl SignedBeaconBlockHeader {
    /// Length of its SSZ in bytes.
    pub const SSZ_LEN: usize = 208;

    /// Decodes a `SignedBeaconBlockHeader`.
    pub fn from_ssz(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Fixed::of("SignedBeaconBlockHeader", bytes, Self::SSZ_LEN)?.signed_header())
    }

    /// Encodes it as SSZ.
    pub fn to_ssz(&self) -> Vec<u8> {
        self.as_ssz_bytes()
    }
}

impl SignedBlock {
    /// Decodes a `SignedBeaconBlock` and computes its root.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        let catalogue = Catalogue::of(fork, preset);
        let view = catalogue.signed_block.validate(bytes)?;
        let message = view.need("message")?;
        let body = message.need("body")?;
        let header = BeaconBlockHeader {
            slot: Slot::new(message.need("slot")?.as_u64()),
            proposer_index: ValidatorIndex::new(message.need("proposer_index")?.as_u64()),
            parent_root: message.need("parent_root")?.as_root(),
            state_root: message.need("state_root")?.as_root(),
            body_root: body.hash_tree_root(),
        };
        Ok(Self {
            signed_header: SignedBeaconBlockHeader { message: header, signature: signature(&view.need("signature")?) },
            root: header.root(),
            randao_reveal: signature(&body.need("randao_reveal")?),
            graffiti: body.need("graffiti")?.as_array(),
            fee_recipient: fee_recipient(&body),
            attestations: body.need("attestations")?.elements().map(|a| Attestation::from_view(&a)).collect::<Result<_, _>>()?,
            attester_slashings: body
                .need("attester_slashings")?
                .elements()
                .map(|slashing| AttesterSlashing::from_view(&slashing))
                .collect::<Result<_, _>>()?,
            proposer_slashings: body
                .need("proposer_slashings")?
                .elements()
                .map(|slashing| ProposerSlashing::from_ssz(slashing.bytes()))
                .collect::<Result<_, _>>()?,
            voluntary_exits: body
                .need("voluntary_exits")?
                .elements()
                .map(|exit| Ok(ValidatorIndex::new(exit.need("message.validator_index")?.as_u64())))
                .collect::<Result<_, DecodeError>>()?,
            registry_change: registry_change(&body),
            registry_requests: registry_requests(&body),
        })
    }

    /// Encodes as SSZ a block that a beacon node served as JSON. `json` is the block itself or the
    /// node's response around it (`{"version":..,"data":..}`).
    pub fn ssz_from_json(fork: ForkName, preset: &Preset, json: &serde_json::Value) -> Result<Vec<u8>, DecodeError> {
        let block = json.get("data").filter(|_| json.get("message").is_none()).unwrap_or(json);
        json_to_ssz(fork, preset, "SignedBeaconBlock", block)
    }
}

/// Returns the fee recipient if the body names one. It is zero in blocks before the merge's first
/// payload, and nobody watches for that address.
fn fee_recipient(body: &SszView<'_, '_>) -> Option<ExecutionAddress> {
    let payload = body.path("execution_payload.fee_recipient");
    let named = payload.or_else(|| body.path("signed_execution_payload_bid.message.fee_recipient"))?;
    Some(ExecutionAddress::from(named.as_array::<20>()))
}

/// States whether the body has an operation that adds a validator or can set an activation, exit or
/// withdrawable epoch.
fn registry_change(body: &SszView<'_, '_>) -> RegistryChange {
    const LISTS: [&str; 10] = [
        "deposits",
        "voluntary_exits",
        "attester_slashings",
        "proposer_slashings",
        "execution_requests.deposits",
        "execution_requests.withdrawals",
        "execution_requests.consolidations",
        "parent_execution_requests.deposits",
        "parent_execution_requests.withdrawals",
        "parent_execution_requests.consolidations",
    ];
    match LISTS.iter().filter_map(|path| body.path(path)).any(|list| !list.is_empty()) {
        true => RegistryChange::Possible,
        false => RegistryChange::None,
    }
}

/// Reads the deposits and the requests of the execution layer that the block processes.
fn registry_requests(body: &SszView<'_, '_>) -> RegistryRequests {
    fn all<T>(body: &SszView<'_, '_>, path: &str, read: impl Fn(&SszView<'_, '_>) -> T) -> Vec<T> {
        body.path(path).into_iter().flat_map(|list| list.elements()).map(|element| read(&element)).collect()
    }
    fn field<const N: usize>(view: &SszView<'_, '_>, name: &str) -> [u8; N] {
        view.field(name).map_or([0; N], |field| field.as_array())
    }
    let pubkey = |view: &SszView<'_, '_>, name: &str| PubkeyBytes::from(field::<48>(view, name));
    let address = |view: &SszView<'_, '_>| ExecutionAddress::from(field::<20>(view, "source_address"));
    let amount = |view: &SszView<'_, '_>| Gwei::new(u64::from_le_bytes(field(view, "amount")));
    let deposit = |view: &SszView<'_, '_>| DepositData {
        pubkey: pubkey(view, "pubkey"),
        withdrawal_credentials: Root::from(field::<32>(view, "withdrawal_credentials")),
        amount: amount(view),
        signature: SignatureBytes::from(field::<96>(view, "signature")),
    };
    let of_parent = body.field("parent_execution_requests").is_some();
    let requests = if of_parent { "parent_execution_requests" } else { "execution_requests" };
    RegistryRequests {
        deposits: all(body, "deposits", |one| one.field("data").map(|data| deposit(&data))).into_iter().flatten().collect(),
        deposit_requests: all(body, &format!("{requests}.deposits"), |one| {
            (deposit(one), u64::from_le_bytes(field(one, "index")))
        }),
        withdrawals: all(body, &format!("{requests}.withdrawals"), |one| WithdrawalRequest {
            source_address: address(one),
            validator_pubkey: pubkey(one, "validator_pubkey"),
            amount: amount(one),
        }),
        consolidations: all(body, &format!("{requests}.consolidations"), |one| ConsolidationRequest {
            source_address: address(one),
            source_pubkey: pubkey(one, "source_pubkey"),
            target_pubkey: pubkey(one, "target_pubkey"),
        }),
    }
}

/// Decodes the signed block header of a blob sidecar (from Deneb on) or of a data column sidecar
/// (Fulu only; Gloas removes the header from it).
pub fn sidecar_header(
    fork: ForkName,
    preset: &Preset,
    kind: SidecarKind,
    bytes: &[u8],
) -> Result<SignedBeaconBlockHeader, DecodeError> {
    let name = match kind {
        SidecarKind::Blob => "BlobSidecar",
        SidecarKind::DataColumn => "DataColumnSidecar",
    };
    let catalogue = Catalogue::of(fork, preset);
    let view = catalogue.get(name)?.validate(bytes)?;
    SignedBeaconBlockHeader::from_ssz(view.need("signed_block_header")?.bytes())
}

/// Reads the fields at fixed offsets of a signed block whose fork this program does not know. Such
/// a block can be reported as seen, but its signature cannot be checked. Returns `None` if the
/// bytes do not begin like a signed block.
pub fn block_prefix(bytes: &[u8]) -> Option<BlockPrefix> {
    const MESSAGE: usize = 4 + 96;
    const PREFIX_LEN: usize = MESSAGE + 8 + 8 + 32 + 32 + 4;
    let mut fixed = Fixed(bytes.get(..PREFIX_LEN)?);
    if u32::from_le_bytes(fixed.array()) as usize != MESSAGE {
        return None;
    }
    let signature = SignatureBytes::from(fixed.array());
    Some(BlockPrefix {
        slot: Slot::new(fixed.u64()),
        proposer_index: ValidatorIndex::new(fixed.u64()),
        parent_root: fixed.root(),
        state_root: fixed.root(),
        signature,
    })
}

fn attestation_data(view: &SszView<'_, '_>) -> AttestationData {
    Fixed(view.bytes()).attestation_data()
}

fn signature(view: &SszView<'_, '_>) -> SignatureBytes {
    SignatureBytes::from(view.as_array::<96>())
}

/// Reads fields of fixed size one after the other. The caller has checked that there are enough
/// bytes.
pub(crate) struct Fixed<'a>(pub(crate) &'a [u8]);

impl<'a> Fixed<'a> {
    fn of(container: &'static str, bytes: &'a [u8], len: usize) -> Result<Self, DecodeError> {
        if bytes.len() == len {
            return Ok(Self(bytes));
        }
        Err(DecodeError::new(container, "", 0, format!("{} bytes where {container} has {len}", bytes.len())))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk::<N>().expect("the length checked is the sum of the fields read");
        self.0 = rest;
        *head
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn root(&mut self) -> Root {
        Root::from(self.array::<32>())
    }

    pub(crate) fn epoch(&mut self) -> Epoch {
        Epoch::new(self.u64())
    }

    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        Checkpoint { epoch: self.epoch(), root: self.root() }
    }

    fn attestation_data(&mut self) -> AttestationData {
        AttestationData {
            slot: Slot::new(self.u64()),
            index: CommitteeIndex::new(self.u64()),
            beacon_block_root: self.root(),
            source: self.checkpoint(),
            target: self.checkpoint(),
        }
    }

    pub(crate) fn header(&mut self) -> BeaconBlockHeader {
        BeaconBlockHeader {
            slot: Slot::new(self.u64()),
            proposer_index: ValidatorIndex::new(self.u64()),
            parent_root: self.root(),
            state_root: self.root(),
            body_root: self.root(),
        }
    }

    fn signed_header(&mut self) -> SignedBeaconBlockHeader {
        SignedBeaconBlockHeader { message: self.header(), signature: SignatureBytes::from(self.array()) }
    }
}
