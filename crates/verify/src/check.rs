//! Checks one message alone, in the plain way of the specification. It is used for the second proof
//! of a finding, and tests compare the batch verifier with it.
//!
//! This file shares only the public keys with the batch verifier, so that a mistake in one of them
//! is not repeated in the other.

use blst::BLST_ERROR;
use blst::min_pk::{PublicKey, Signature};
use chain::Chain;
use consensus::{
    DomainType, Epoch, ForkVersion, IndexedAttestation, Network, Root, SignatureBytes, SignedBeaconBlockHeader, signing_root,
};

const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// Checks `is_valid_indexed_attestation`: there is at least one index, the indices are ascending
/// and unique, all of them are in the registry, and the signature is valid for exactly these
/// validators.
///
/// Returns the fork version with which the signature is valid. This is the version that is
/// scheduled at the target's epoch, or an earlier one if the attestation was signed before that
/// fork happened. The check takes about 1 ms, and longer only if the scheduled version does not
/// match.
pub fn version_of_indexed_attestation(chain: &Chain, attestation: &IndexedAttestation) -> Option<ForkVersion> {
    let indices = &attestation.attesting_indices;
    if indices.is_empty() || !indices.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let keys: Vec<&PublicKey> = indices.iter().map(|index| chain.registry().pubkey(*index)).collect::<Option<_>>()?;
    let (epoch, root) = (attestation.data.target.epoch, attestation.data.root());
    version(chain.network(), DomainType::BeaconAttester, epoch, |domain| {
        holds(&keys, signing_root(root, domain), &attestation.signature)
    })
}

/// Checks the proposer's signature on a header in the same way as `process_proposer_slashing`.
/// Returns the fork version with which it is valid, as [`version_of_indexed_attestation`] does.
pub fn version_of_signed_header(chain: &Chain, header: &SignedBeaconBlockHeader) -> Option<ForkVersion> {
    let network = chain.network();
    let message = &header.message;
    let key = chain.registry().pubkey(message.proposer_index)?;
    version(network, DomainType::BeaconProposer, message.slot.epoch(network.preset()), |domain| {
        holds(&[key], signing_root(message.root(), domain), &header.signature)
    })
}

/// Checks a header and a randao reveal with a key that no state has named yet, with the scheduled
/// version only.
pub(crate) fn is_block_of(key: &PublicKey, network: &Network, header: &SignedBeaconBlockHeader, reveal: &SignatureBytes) -> bool {
    let epoch = header.message.slot.epoch(network.preset());
    let mut epoch_root = Root::ZERO;
    epoch_root.0[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
    let signed = |root: Root, kind: DomainType, signature: &SignatureBytes| {
        holds(&[key], signing_root(root, network.domain(kind, epoch)), signature)
    };
    signed(header.message.root(), DomainType::BeaconProposer, &header.signature) && signed(epoch_root, DomainType::Randao, reveal)
}

/// Tries the scheduled version first, then the versions of the earlier forks, newest first.
fn version(network: &Network, kind: DomainType, epoch: Epoch, holds: impl Fn([u8; 32]) -> bool) -> Option<ForkVersion> {
    let forks = network.spec.forks.iter().rev().filter(|fork| fork.epoch <= epoch);
    forks.map(|fork| fork.version).find(|version| holds(network.domain_of(kind, *version)))
}

fn holds(keys: &[&PublicKey], message: Root, signature: &SignatureBytes) -> bool {
    // `uncompress` alone would accept the point at infinity. `sig_validate` refuses it together
    // with the group check.
    let Ok(signature) = Signature::sig_validate(signature.as_slice(), true) else { return false };
    signature.fast_aggregate_verify(false, message.as_slice(), DST, keys) == BLST_ERROR::BLST_SUCCESS
}
