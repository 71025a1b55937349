//! One message checked alone, the spec's plain way: for the second proof, and as the oracle of the batch.
//!
//! Shares nothing with the batch verifier but the keys: a mistake there must not repeat itself here.

use blst::BLST_ERROR;
use blst::min_pk::{PublicKey, Signature};
use chain::Chain;
use consensus::{
    DomainType, Epoch, ForkVersion, IndexedAttestation, Network, Root, SignatureBytes, SignedBeaconBlockHeader, signing_root,
};

const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// `is_valid_indexed_attestation`: indices ascending and unique, at least one, all in the registry, and the signature holds for
/// exactly them. Gives the version with which it does: the one scheduled at the target, or an earlier one, with which it was signed before
/// that fork happened. About 1 ms, more only for what does not hold at once.
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

/// A header's signature by its proposer, as `process_proposer_slashing` checks it: the version with which it holds, as of
/// [`version_of_indexed_attestation`].
pub fn version_of_signed_header(chain: &Chain, header: &SignedBeaconBlockHeader) -> Option<ForkVersion> {
    let network = chain.network();
    let message = &header.message;
    let key = chain.registry().pubkey(message.proposer_index)?;
    version(network, DomainType::BeaconProposer, message.slot.epoch(network.preset()), |domain| {
        holds(&[key], signing_root(message.root(), domain), &header.signature)
    })
}

/// The scheduled version first, then those of the forks before.
fn version(network: &Network, kind: DomainType, epoch: Epoch, holds: impl Fn([u8; 32]) -> bool) -> Option<ForkVersion> {
    let forks = network.spec.forks.iter().rev().filter(|fork| fork.epoch <= epoch);
    forks.map(|fork| fork.version).find(|version| holds(network.domain_of(kind, *version)))
}

fn holds(keys: &[&PublicKey], message: Root, signature: &SignatureBytes) -> bool {
    // Uncompressing alone would take the point at infinity; the check below refuses it with the group check.
    let Ok(signature) = Signature::sig_validate(signature.as_slice(), true) else { return false };
    signature.fast_aggregate_verify(false, message.as_slice(), DST, keys) == BLST_ERROR::BLST_SUCCESS
}
