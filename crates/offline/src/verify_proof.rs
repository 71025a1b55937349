//! `slashwatch verify-proof`: checks a proof of a slashing by itself, without a watcher and without
//! a node.
//!
//! It shares the specification's predicates and domains with the watcher, and nothing else: the
//! signatures are checked with arkworks, not with blst. So a defect of the library with which the
//! watcher and most clients check signatures does not go unnoticed.
//!
//! A proof names its signers by index only, so their public keys are needed: from a state
//! (`genesis.ssz` of a network's folder), from a data directory, or from a file `keys.json` like
//! the one in an evidence pack. The last one is only as good as where it comes from, so the answer
//! says which was used.

use ark_bls12_381::{Bls12_381, G1Affine, G1Projective, G2Affine, G2Projective, g2};
use ark_ec::hashing::HashToCurve as _;
use ark_ec::hashing::curve_maps::wb::WBMap;
use ark_ec::hashing::map_to_curve_hasher::MapToCurveBasedHasher;
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr as _, CurveGroup as _};
use ark_ff::Field as _;
use ark_ff::field_hashers::DefaultFieldHasher;
use ark_serialize::CanonicalDeserialize as _;
use chain::PubkeyCache;
use consensus::state::StateView;
use consensus::{
    AttesterSlashing, DomainType, Epoch, ForkName, ForkVersion, IndexedAttestation, Network, ProposerSlashing, PubkeyBytes, Root,
    SignatureBytes, SignedBeaconBlockHeader, Spec, ValidatorIndex, is_double_proposal, is_double_vote, signing_root, surrounds,
};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use watcher::WatcherError;
use watcher::datadir;
use watcher::network_folder::{config_file, genesis_state};

/// The ciphersuite of the specification's signatures.
const SUITE: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// Largest proof: two lists of all signers of a slot, as JSON.
const MAX_PROOF_BYTES: u64 = 16 << 20;
/// Largest list of keys.
const MAX_KEYS_BYTES: u64 = 64 << 20;
/// Largest genesis state that is read.
const MAX_STATE_BYTES: u64 = 2 << 30;

/// A proof that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenuineProof {
    /// `double_vote`, `surround_vote` or `double_proposal`.
    pub kind: &'static str,
    /// Who signed both messages.
    pub accused: Vec<ValidatorIndex>,
    /// What differs, such as `beacon_block_root`.
    pub differs: Vec<&'static str>,
    /// Where the public keys come from.
    pub keys: String,
    /// Signatures that hold with another fork's version than the one that is scheduled. Whether a
    /// block can punish the offence then depends on its fork.
    pub other_versions: Vec<ForkVersion>,
}

impl fmt::Display for GenuineProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accused: Vec<String> = self.accused.iter().map(ValidatorIndex::to_string).collect();
        write!(
            f,
            "genuine: {} of {}; the messages differ in {}; public keys from {}",
            self.kind.replace('_', " "),
            accused.join(", "),
            self.differs.join(", "),
            self.keys
        )?;
        if !self.other_versions.is_empty() {
            write!(f, "; a signature is for another fork version than the scheduled one, so only some states can punish it")?;
        }
        Ok(())
    }
}

/// Checks the proof in `file`: JSON as of the beacon API, or SSZ. `network` is the name of a public
/// network, a network's folder, or a data directory. `keys` is a file with public keys by index.
///
/// The inner error says why the proof is not genuine.
///
/// # Errors
/// A file cannot be read, or a signer's key is not known. That says nothing about the proof.
pub fn verify_proof(file: &Path, network: &str, keys: Option<&Path>) -> Result<Result<GenuineProof, String>, WatcherError> {
    let folder = Path::new(network);
    let known = match Network::builtin(network) {
        Some(builtin) => builtin,
        None if folder.is_dir() => network_of(folder)?,
        None => {
            let names: Vec<&str> = Network::builtin_names().collect();
            return Err(WatcherError::Usage(format!(
                "--network {network:?} is neither a folder nor one of {}",
                names.join(", ")
            )));
        }
    };
    let bytes = read(file, MAX_PROOF_BYTES)?;
    let proof = match Proof::parse(&bytes, &known) {
        Ok(proof) => proof,
        Err(reason) => return Err(WatcherError::Input { path: file.into(), reason }),
    };
    let keys = Keys::find(&proof.signers(), file, folder, keys, &known)?;
    Ok(proof.check(&known, &keys))
}

/// The network of a data directory, or of a folder with `config.yaml` and `genesis.ssz`.
fn network_of(folder: &Path) -> Result<Network, WatcherError> {
    if let Some(network) = datadir::read_network(folder)? {
        return Ok(network);
    }
    let config = config_file(folder);
    let text = String::from_utf8_lossy(&read(&config, 1 << 20)?).into_owned();
    let spec = Spec::from_yaml(&text).map_err(|error| WatcherError::Input { path: config, reason: error.to_string() })?;
    with_genesis(folder, &spec, |state| {
        Ok(Network {
            spec: spec.clone(),
            genesis_time: state.genesis_time(),
            genesis_validators_root: state.genesis_validators_root(),
        })
    })
}

/// Reads the genesis state of a network's folder.
fn with_genesis<T>(
    folder: &Path,
    spec: &Spec,
    work: impl FnOnce(&StateView<'_>) -> Result<T, WatcherError>,
) -> Result<T, WatcherError> {
    let path = genesis_state(folder);
    let bytes = read(&path, MAX_STATE_BYTES)?;
    let wrong = |error: consensus::DecodeError| WatcherError::Input { path: path.clone(), reason: error.to_string() };
    let fork = consensus::state::fork_of_state(spec, &bytes).map_err(wrong)?;
    let state = StateView::parse(fork, &spec.preset, &bytes).map_err(wrong)?;
    work(&state)
}

/// Reads a file that may be a pipe.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, WatcherError> {
    let input = |reason: String| WatcherError::Input { path: path.into(), reason };
    std::fs::File::open(path).and_then(|file| base::read_bounded(file, limit)).map_err(|error| input(error.to_string()))
}

/// A slashing operation.
#[derive(Debug)]
enum Proof {
    Attester(AttesterSlashing),
    Proposer(ProposerSlashing),
}

/// The public keys of all signers of a proof, by validator index.
struct Keys {
    /// Each is a point of the group, and not zero.
    by_index: BTreeMap<ValidatorIndex, G1Affine>,
    source: String,
}

impl Proof {
    /// Reads JSON, also as an answer of a node's pool with one slashing in it, or SSZ.
    fn parse(bytes: &[u8], network: &Network) -> Result<Self, String> {
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) {
            let parsed = match json.get("attestation_1") {
                Some(_) => serde_json::from_value(json).map(Self::Attester),
                None => serde_json::from_value(json).map(Self::Proposer),
            };
            return parsed.map_err(|error| format!("it is neither an AttesterSlashing nor a ProposerSlashing: {error}"));
        }
        if let Ok(slashing) = ProposerSlashing::from_ssz(bytes) {
            return Ok(Self::Proposer(slashing));
        }
        // The lists of signers are longest from Electra on. Otherwise the encoding is the same.
        let decoded = AttesterSlashing::from_ssz(ForkName::Electra, network.preset(), bytes);
        decoded.map(Self::Attester).map_err(|error| format!("it is neither JSON nor SSZ of a slashing: {error}"))
    }

    fn signers(&self) -> BTreeSet<ValidatorIndex> {
        match self {
            Self::Attester(slashing) => {
                let votes = [&slashing.attestation_1, &slashing.attestation_2];
                votes.into_iter().flat_map(|vote| &vote.attesting_indices).copied().collect()
            }
            Self::Proposer(slashing) => {
                [slashing.signed_header_1, slashing.signed_header_2].map(|header| header.message.proposer_index).into()
            }
        }
    }

    /// `process_attester_slashing` and `process_proposer_slashing`, without what depends on a
    /// state.
    fn check(&self, network: &Network, keys: &Keys) -> Result<GenuineProof, String> {
        let (kind, accused, differs, versions) = match self {
            Self::Attester(AttesterSlashing { attestation_1: one, attestation_2: two }) => {
                let kind = if is_double_vote(&one.data, &two.data) {
                    "double_vote"
                } else if surrounds(&one.data, &two.data) {
                    "surround_vote"
                } else {
                    return Err("the two votes do not contradict each other (attestation_1 must be the surrounding one)".into());
                };
                let signers = |vote: &IndexedAttestation| vote.attesting_indices.iter().copied().collect::<BTreeSet<_>>();
                let accused: Vec<ValidatorIndex> = signers(one).intersection(&signers(two)).copied().collect();
                if accused.is_empty() {
                    return Err("nobody signed both votes".into());
                }
                let versions =
                    [vote_version("attestation_1", one, network, keys)?, vote_version("attestation_2", two, network, keys)?];
                (kind, accused, api::differing_fields(&one.data, &two.data), versions)
            }
            Self::Proposer(ProposerSlashing { signed_header_1: one, signed_header_2: two }) => {
                if !is_double_proposal(&one.message, &two.message) {
                    return Err("the headers are not two different ones of one proposer for one slot".into());
                }
                let versions = [
                    header_version("signed_header_1", one, network, keys)?,
                    header_version("signed_header_2", two, network, keys)?,
                ];
                let differs = api::differing_header_fields(&one.message, &two.message);
                ("double_proposal", vec![one.message.proposer_index], differs, versions)
            }
        };
        Ok(GenuineProof {
            kind,
            accused,
            differs,
            keys: keys.source.clone(),
            other_versions: versions.into_iter().flatten().collect(),
        })
    }
}

fn vote_version(side: &str, vote: &IndexedAttestation, network: &Network, keys: &Keys) -> Result<Option<ForkVersion>, String> {
    if !vote.attesting_indices.is_sorted_by(|a, b| a < b) {
        return Err(format!("the indices of {side} are not ascending, or not unique"));
    }
    let (epoch, root) = (vote.data.target.epoch, vote.data.root());
    version_of(side, DomainType::BeaconAttester, epoch, root, &vote.attesting_indices, &vote.signature, network, keys)
}

fn header_version(
    side: &str,
    header: &SignedBeaconBlockHeader,
    network: &Network,
    keys: &Keys,
) -> Result<Option<ForkVersion>, String> {
    let (epoch, root) = (header.message.slot.epoch(network.preset()), header.message.root());
    let signer = [header.message.proposer_index];
    version_of(side, DomainType::BeaconProposer, epoch, root, &signer, &header.signature, network, keys)
}

/// The version with which a signature holds, if it is not the scheduled one.
#[expect(clippy::too_many_arguments, reason = "each is a part of what was signed")]
fn version_of(
    side: &str,
    kind: DomainType,
    epoch: Epoch,
    root: Root,
    signers: &[ValidatorIndex],
    signature: &SignatureBytes,
    network: &Network,
    keys: &Keys,
) -> Result<Option<ForkVersion>, String> {
    let sum = keys.sum(signers).map_err(|reason| format!("{side}: {reason}"))?;
    let signature = G2Affine::deserialize_compressed(signature.as_slice())
        .map_err(|error| format!("the signature of {side} is no point of the group: {error}"))?;
    let scheduled = network.spec.version_at(epoch);
    let others = network.spec.schedule().into_iter().map(|(_, version)| version).filter(|version| *version != scheduled);
    for version in std::iter::once(scheduled).chain(others) {
        if holds(&sum, signing_root(root, network.domain_of(kind, version)), &signature)? {
            return Ok((version != scheduled).then_some(version));
        }
    }
    Err(format!("the signature of {side} does not hold for its signers on this network"))
}

/// Whether e(key, H(message)) = e(generator, signature).
fn holds(key: &G1Affine, message: Root, signature: &G2Affine) -> Result<bool, String> {
    type Hasher = MapToCurveBasedHasher<G2Projective, DefaultFieldHasher<Sha256, 128>, WBMap<g2::Config>>;
    let failed = |error: ark_ec::hashing::HashToCurveError| format!("hash to curve: {error}");
    let point = Hasher::new(SUITE).map_err(failed)?.hash(message.as_slice()).map_err(failed)?;
    let generator = -G1Affine::generator();
    let product = Bls12_381::multi_pairing([*key, generator], [point, *signature]);
    Ok(product.0 == <Bls12_381 as Pairing>::TargetField::ONE)
}

impl Keys {
    /// Finds the keys of the signers: in the given file, in the network's folder, or beside the
    /// proof.
    ///
    /// # Errors
    /// A key is missing, or is no public key. That says nothing about the proof.
    fn find(
        signers: &BTreeSet<ValidatorIndex>,
        proof: &Path,
        folder: &Path,
        given: Option<&Path>,
        network: &Network,
    ) -> Result<Self, WatcherError> {
        if let Some(path) = given {
            return Self::of_file(signers, path);
        }
        let cache = folder.join("pubkeys");
        if cache.is_file() {
            let all = PubkeyCache::compressed_in(&cache)?;
            return Self::of(signers, &cache, |index| all.get(usize::try_from(index.as_u64()).ok()?).copied());
        }
        let genesis = genesis_state(folder);
        if genesis.is_file() {
            let by_index = with_genesis(folder, &network.spec, |state| {
                let key = |index: &ValidatorIndex| Some((*index, state.validator(*index)?.pubkey));
                Ok(signers.iter().filter_map(key).collect::<BTreeMap<_, _>>())
            })?;
            // Validators that came later are not in the genesis state.
            if by_index.len() == signers.len() {
                return Self::of(signers, &genesis, |index| by_index.get(&index).copied());
            }
        }
        let parent = proof.parent().unwrap_or_else(|| Path::new("."));
        let beside: [PathBuf; 2] = [parent.join("keys.json"), parent.join("../keys.json")];
        match beside.iter().find(|path| path.is_file()) {
            Some(path) => Self::of_file(signers, path),
            None => Err(WatcherError::Usage(
                "the public keys of the signers are not known: give --keys FILE (keys.json of an evidence pack), or as --network a \
                 folder with genesis.ssz or a data directory"
                    .into(),
            )),
        }
    }

    fn of_file(signers: &BTreeSet<ValidatorIndex>, path: &Path) -> Result<Self, WatcherError> {
        let input = |reason: String| WatcherError::Input { path: path.into(), reason };
        let by_index: BTreeMap<String, PubkeyBytes> =
            serde_json::from_slice(&read(path, MAX_KEYS_BYTES)?).map_err(|error| input(error.to_string()))?;
        let parse = |(index, key): (String, PubkeyBytes)| {
            index.parse().map(|index| (index, key)).map_err(|_| input(format!("{index:?} is no validator index")))
        };
        let by_index = by_index.into_iter().map(parse).collect::<Result<BTreeMap<ValidatorIndex, _>, _>>()?;
        Self::of(signers, path, |index| by_index.get(&index).copied())
    }

    fn of(
        signers: &BTreeSet<ValidatorIndex>,
        source: &Path,
        key_of: impl Fn(ValidatorIndex) -> Option<PubkeyBytes>,
    ) -> Result<Self, WatcherError> {
        let input = |reason: String| WatcherError::Input { path: source.into(), reason };
        let key = |index: ValidatorIndex| {
            let bytes = key_of(index).ok_or_else(|| {
                input(format!("it lacks the public key of validator {index}; give --keys FILE with the keys of all signers"))
            })?;
            let key = G1Affine::deserialize_compressed(bytes.0.as_slice()).ok().filter(|key| !key.is_zero());
            key.map(|key| (index, key)).ok_or_else(|| input(format!("the public key of validator {index} is not valid")))
        };
        let by_index = signers.iter().copied().map(key).collect::<Result<_, _>>()?;
        Ok(Self { by_index, source: source.display().to_string() })
    }

    /// The sum of the signers' keys.
    fn sum(&self, signers: &[ValidatorIndex]) -> Result<G1Affine, String> {
        let sum: G1Projective = signers.iter().map(|signer| self.by_index[signer]).sum();
        let sum = sum.into_affine();
        // `KeyValidate` of the sum. Two keys of one owner may add up to zero, and then the empty
        // signature holds for every message.
        if sum.is_zero() { Err("the public keys of the signers add up to zero".into()) } else { Ok(sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator, which is a public key.
    const VALID: &str = "0x97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb";

    /// A key that a file lacks, or that is damaged in it, says nothing about the proof.
    #[test]
    fn keys_that_are_missing_or_damaged_are_an_error_and_no_false_proof() {
        let dir = tempfile::tempdir().unwrap();
        let data = |root: u8| {
            let (source, target) =
                (serde_json::json!({"epoch": "2", "root": Root::ZERO}), serde_json::json!({"epoch": "4", "root": Root::ZERO}));
            serde_json::json!({
                "slot": "128", "index": "0", "beacon_block_root": Root::repeat_byte(root), "source": source, "target": target,
            })
        };
        let vote = |root: u8| {
            let signature = format!("0x{}", "00".repeat(96));
            serde_json::json!({"attesting_indices": ["5", "6"], "data": data(root), "signature": signature})
        };
        let proof = dir.path().join("proof.json");
        let slashing = serde_json::json!({"attestation_1": vote(1), "attestation_2": vote(2)});
        std::fs::write(&proof, slashing.to_string()).unwrap();
        let keys = dir.path().join("own.json");
        let with = |content: serde_json::Value| {
            std::fs::write(&keys, content.to_string()).unwrap();
            verify_proof(&proof, "mainnet", Some(&keys))
        };
        let told = with(serde_json::json!({"5": VALID, "6": VALID})).unwrap().unwrap_err();
        assert!(told.contains("no point of the group"), "the proof itself is wrong: {told}");
        let told = with(serde_json::json!({"5": VALID})).unwrap_err().to_string();
        assert!(told.contains("lacks the public key of validator 6") && told.contains("own.json"), "{told}");
        let told = with(serde_json::json!({"5": VALID, "6": PubkeyBytes::repeat_byte(1)})).unwrap_err().to_string();
        assert!(told.contains("the public key of validator 6 is not valid"), "{told}");
        // A data directory on a full disk.
        let folder = dir.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        PubkeyCache::open(&folder.join("pubkeys")).unwrap();
        let mainnet = Network::builtin("mainnet").unwrap();
        let signers = BTreeSet::from([ValidatorIndex::new(5)]);
        let found = Keys::find(&signers, &proof, &folder, None, &mainnet);
        assert!(found.err().unwrap().to_string().contains("lacks the public key of validator 5"));
    }
}
