//! One message checked alone, the spec's plain way: for the second proof, and as the oracle of the batch.
//!
//! Shares nothing with the batch verifier but the keys: a mistake there must not repeat itself here.

use blst::BLST_ERROR;
use blst::min_pk::{PublicKey, Signature};
use chain::Chain;
use consensus::{DomainType, IndexedAttestation, Root, SignatureBytes, SignedBeaconBlockHeader, signing_root};

const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// `is_valid_indexed_attestation`: indices ascending and unique, at least one, all in the registry, and the signature holds for
/// exactly them. About 1 ms.
pub fn is_valid_indexed_attestation(chain: &Chain, attestation: &IndexedAttestation) -> bool {
    let indices = &attestation.attesting_indices;
    if indices.is_empty() || !indices.is_sorted_by(|a, b| a < b) {
        return false;
    }
    let keys: Option<Vec<&PublicKey>> = indices.iter().map(|index| chain.registry().pubkey(*index)).collect();
    let domain = chain.network().domain(DomainType::BeaconAttester, attestation.data.target.epoch);
    keys.is_some_and(|keys| holds(&keys, signing_root(attestation.data.root(), domain), &attestation.signature))
}

/// A header's signature by its proposer, as `process_proposer_slashing` checks it. About 1 ms.
pub fn is_valid_signed_header(chain: &Chain, header: &SignedBeaconBlockHeader) -> bool {
    let network = chain.network();
    let message = &header.message;
    let domain = network.domain(DomainType::BeaconProposer, message.slot.epoch(network.preset()));
    let key = chain.registry().pubkey(message.proposer_index);
    key.is_some_and(|key| holds(&[key], signing_root(message.root(), domain), &header.signature))
}

fn holds(keys: &[&PublicKey], message: Root, signature: &SignatureBytes) -> bool {
    // Uncompressing alone would take the point at infinity; the check below refuses it with the group check.
    let Ok(signature) = Signature::sig_validate(signature.as_slice(), true) else { return false };
    signature.fast_aggregate_verify(false, message.as_slice(), DST, keys) == BLST_ERROR::BLST_SUCCESS
}
