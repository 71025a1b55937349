//! Tests the equation against checking one by one, against published vectors and against attacks on
//! it.

use super::claim::{ClaimSubject, ClaimedSigners, ForkVersionChoice, SignatureClaim};
use super::prove::{BatchResult, ClaimResult, KeySource, prove_claims};
use super::proven_claims::ProvenClaims;
use crate::bls::tests::{secret, sign};
use crate::peer_reputation::PeerReputations;
use crate::workers::Workers;
use crate::{FirstSeen, PeerBytes, SinglesProof, SourceKind, Time, bls};
use blst::min_pk::{PublicKey, SecretKey, Signature};
use consensus::{AttestationData, BuilderIndex, Checkpoint, Epoch, Network, Root, SignatureBytes, Slot, ValidatorIndex};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeSet;

const MODES: [SinglesProof; 3] = [SinglesProof::Sums, SinglesProof::RandomCombination, SinglesProof::Mixed { alone_percent: 40 }];

struct Keys(Vec<Option<PublicKey>>);

impl KeySource for Keys {
    fn key(&self, validator: ValidatorIndex) -> Option<&PublicKey> {
        self.0.get(usize::try_from(validator.as_u64()).ok()?)?.as_ref()
    }

    fn builder_key(&self, _: BuilderIndex) -> Option<&PublicKey> {
        None
    }
}

fn keys(n: u64) -> (Vec<SecretKey>, Keys) {
    let secrets: Vec<SecretKey> = (0..n).map(secret).collect();
    let publics = Keys(secrets.iter().map(|key| Some(key.sk_to_pk())).collect());
    (secrets, publics)
}

fn network() -> Network {
    let yaml = "PRESET_BASE: minimal\nCONFIG_NAME: test\nGENESIS_FORK_VERSION: 0x00000001\nSECONDS_PER_SLOT: 6\n";
    Network { spec: consensus::Spec::from_yaml(yaml).unwrap(), genesis_time: 0, genesis_validators_root: Root::repeat_byte(9) }
}

fn data(n: u64) -> AttestationData {
    AttestationData {
        slot: Slot::new(8 + n),
        beacon_block_root: Root::repeat_byte(n as u8),
        target: Checkpoint { epoch: Epoch::new(1), root: Root::ZERO },
        ..AttestationData::default()
    }
}

fn heard(peer: u8, at: u64) -> FirstSeen {
    FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: Some(PeerBytes::from([peer])) }
}

/// A single vote with a valid signature.
fn single(secrets: &[SecretKey], about: u64, validator: u64, peer: u8) -> SignatureClaim {
    let network = network();
    let data = data(about);
    let mut claim = SignatureClaim::single(
        &network,
        data,
        data.root(),
        ValidatorIndex::new(validator),
        SignatureBytes::ZERO,
        None,
        heard(peer, validator),
    );
    claim.signature = bls::compress(&sign(&secrets[validator as usize], claim.signing_root));
    claim
}

fn aggregate(secrets: &[SecretKey], about: u64, validators: &[u64], peer: u8) -> SignatureClaim {
    let data = data(about);
    let members = ClaimedSigners::from_sorted(validators.iter().copied().map(ValidatorIndex::new).collect()).unwrap();
    let mut claim = SignatureClaim::aggregate(&network(), data, data.root(), members, SignatureBytes::ZERO, None, heard(peer, 1));
    let each: Vec<Signature> = validators.iter().map(|v| sign(&secrets[*v as usize], claim.signing_root)).collect();
    claim.signature = bls::compress(&bls::sum_signatures(&each).unwrap());
    claim
}

/// Adds a point of the group to a signature, or subtracts it.
fn shift(claim: &mut SignatureClaim, by: &Signature, minus: bool) {
    let mut by = bls::compress(by);
    if minus {
        by[0] ^= 0x20;
    }
    let parts = [bls::decompress(&claim.signature).unwrap(), bls::decompress(&by).unwrap()];
    claim.signature = bls::compress(&bls::sum_signatures(&parts).unwrap());
}

fn prove_all(claims: Vec<SignatureClaim>, keys: &Keys, singles: SinglesProof, threads: usize, seed: u64) -> BatchResult {
    let (workers, reputations) = (Workers::new(threads), PeerReputations::new(8));
    prove_claims(claims, keys, singles, &workers, &reputations, &mut StdRng::seed_from_u64(seed))
}

fn is_proven(proofs: &BatchResult) -> Vec<bool> {
    (0..proofs.claims.len()).map(|i| matches!(proofs.of(i), ClaimResult::Proven { .. })).collect()
}

/// Checks a claim with plain `FastAggregateVerify`, without any part of the batch verifier.
fn holds_by_itself(claim: &SignatureClaim, keys: &Keys) -> bool {
    let Ok(signature) = Signature::uncompress(claim.signature.as_slice()) else { return false };
    let Some(keys) = claim.members().iter().map(|member| keys.key(*member)).collect::<Option<Vec<_>>>() else { return false };
    let dst = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
    signature.fast_aggregate_verify(true, claim.signing_root.as_slice(), dst, &keys) == blst::BLST_ERROR::BLST_SUCCESS
}

/// Checks the votes that are returned: the signature of each vote is the sum over exactly its
/// indices.
fn check_votes(proofs: &BatchResult, keys: &Keys) {
    for vote in proofs.collect_proven(&Workers::new(1)).votes {
        assert!(vote.indices.is_sorted() && vote.indices.len() == vote.arrivals.len());
        let members = ClaimedSigners::from_sorted(vote.indices.clone()).expect("unique");
        let claim =
            SignatureClaim::aggregate(&network(), vote.data, vote.data_root, members, vote.signature, None, vote.heard.clone());
        assert!(holds_by_itself(&claim, keys), "vote of {:?}", vote.indices);
    }
}

#[test]
fn batch_equals_one_by_one() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (secrets, publics) = keys(12);
    for round in 0..12 {
        let mut claims = Vec::new();
        for _ in 0..rng.random_range(1..14) {
            let about = rng.random_range(0..3);
            let peer = rng.random_range(0..4);
            let mut claim = if rng.random_bool(0.7) {
                single(&secrets, about, rng.random_range(0..12), peer)
            } else {
                let from = rng.random_range(0..9);
                aggregate(&secrets, about, &(from..from + 3).collect::<Vec<_>>(), peer)
            };
            match rng.random_range(0..if round % 3 == 0 { 3 } else { 12 }) {
                0 => claim.signature = single(&secrets, about + 1, claim.members()[0].as_u64(), peer).signature,
                1 => shift(&mut claim, &sign(&secrets[0], Root::repeat_byte(7)), rng.random()),
                2 => claim.signature = SignatureBytes::repeat_byte(0xa5),
                _ => {}
            }
            claims.push(claim);
        }
        let alone: Vec<bool> = claims.iter().map(|claim| holds_by_itself(claim, &publics)).collect();
        let proofs = prove_all(claims.clone(), &publics, SinglesProof::RandomCombination, 2, rng.random());
        assert_eq!(is_proven(&proofs), alone, "round {round}");
        check_votes(&proofs, &publics);
        // Within a unit two errors may cancel out in a sum. So here it is only checked that every
        // claim that is valid by itself is proven, and that every proven validator did sign.
        let sums = prove_all(claims.clone(), &publics, SinglesProof::Sums, 1, rng.random());
        for (i, alone) in alone.iter().enumerate() {
            assert!(!alone || is_proven(&sums)[i], "round {round}: claim {i} is good and was refused");
        }
        check_votes(&sums, &publics);
        // The result depends neither on the weights nor on the number of threads.
        let again = prove_all(claims, &publics, SinglesProof::RandomCombination, 1, rng.random());
        assert_eq!(
            format!("{:?}", proofs.collect_proven(&Workers::new(1))),
            format!("{:?}", again.collect_proven(&Workers::new(1))),
            "round {round}"
        );
    }
}

#[test]
fn singles_become_one_vote() {
    let (secrets, publics) = keys(6);
    for mode in MODES {
        let claims: Vec<SignatureClaim> = [4, 1, 3, 0].into_iter().map(|v| single(&secrets, 1, v, 0)).collect();
        let proofs = prove_all(claims, &publics, mode, 1, 1);
        let votes = proofs.collect_proven(&Workers::new(1)).votes;
        assert_eq!(votes.len(), 1);
        assert_eq!(votes[0].indices, [0, 1, 3, 4].map(ValidatorIndex::new));
        assert_eq!(votes[0].arrivals, [0, 1, 3, 4].map(|at| heard(0, at).arrival()));
        assert_eq!(votes[0].heard.at, Time(0));
        check_votes(&proofs, &publics);
        let alone = matches!(mode, SinglesProof::RandomCombination);
        assert_eq!(proofs.of(0), ClaimResult::Proven { alone }, "{mode:?}");
    }
}

/// A point D is added to a signature of one committee and subtracted in another. Plain sums over
/// the batch would pass, and two stored proofs would be invalid.
#[test]
fn offsets_do_not_cancel_across_units() {
    let (secrets, publics) = keys(6);
    let offset = sign(&secrets[5], Root::repeat_byte(77));
    for mode in MODES {
        let mut claims: Vec<SignatureClaim> = (0..4).map(|v| single(&secrets, v / 2, v, 0)).collect();
        shift(&mut claims[0], &offset, false);
        shift(&mut claims[2], &offset, true);
        let proofs = prove_all(claims, &publics, mode, 2, 3);
        assert_eq!(is_proven(&proofs), [false, true, false, true], "{mode:?}");
        check_votes(&proofs, &publics);
    }
    // The same attack on aggregates of equal data, which have one message but are stored as two
    // proofs.
    let mut claims = vec![aggregate(&secrets, 1, &[0, 1], 0), aggregate(&secrets, 1, &[2, 3], 0)];
    shift(&mut claims[0], &offset, false);
    shift(&mut claims[1], &offset, true);
    for mode in MODES {
        assert_eq!(is_proven(&prove_all(claims.clone(), &publics, mode, 1, 4)), [false, false], "{mode:?}");
    }
}

/// Inside one unit the errors do cancel out. The sum is a proof and its parts are not, so no part
/// counts as proven by itself.
#[test]
fn offsets_inside_a_sum_prove_the_sum_only() {
    let (secrets, publics) = keys(6);
    let offset = sign(&secrets[5], Root::repeat_byte(77));
    let mut claims: Vec<SignatureClaim> = (0..3).map(|v| single(&secrets, 1, v, 0)).collect();
    shift(&mut claims[0], &offset, false);
    shift(&mut claims[1], &offset, true);
    let sums = prove_all(claims.clone(), &publics, SinglesProof::Sums, 1, 5);
    assert!((0..3).all(|i| sums.of(i) == ClaimResult::Proven { alone: false }));
    check_votes(&sums, &publics);
    let each = prove_all(claims, &publics, SinglesProof::RandomCombination, 1, 5);
    assert_eq!(is_proven(&each), [false, false, true]);
}

/// A point outside the group that is added or subtracted must not pass either.
#[test]
fn points_outside_the_group_are_refused() {
    let (secrets, publics) = keys(4);
    // About half of all x coordinates give a point on the curve. Almost none of those points is in
    // the group.
    let stray = (0..=255u8)
        .find_map(|byte| {
            let mut bytes = SignatureBytes::repeat_byte(0);
            bytes[0] = 0x80;
            bytes[50] = byte;
            bytes[95] = 3;
            bls::decompress(&bytes).filter(|point| !bls::in_group(point))
        })
        .expect("some x is on the curve");
    for mode in MODES {
        let mut claims: Vec<SignatureClaim> = (0..3).map(|v| single(&secrets, 1, v, v as u8)).collect();
        shift(&mut claims[1], &stray, false);
        let proofs = prove_all(claims, &publics, mode, 1, 6);
        assert_eq!(is_proven(&proofs), [true, false, true], "{mode:?}");
        check_votes(&proofs, &publics);
    }
}

/// Two signatures of one validator over the same data. One of them is forged. It never hides the
/// valid one, whichever comes first.
#[test]
fn a_forged_copy_hides_nothing() {
    let (secrets, publics) = keys(4);
    for mode in MODES {
        for forged_first in [true, false] {
            let good = single(&secrets, 1, 0, 1);
            let mut forged = single(&secrets, 1, 0, 2);
            shift(&mut forged, &sign(&secrets[3], Root::repeat_byte(1)), false);
            let mut claims = vec![good, single(&secrets, 1, 1, 1)];
            claims.insert(if forged_first { 0 } else { 2 }, forged);
            let proofs = prove_all(claims, &publics, mode, 1, 7);
            let expected = if forged_first { [false, true, true] } else { [true, true, false] };
            assert_eq!(is_proven(&proofs), expected, "{mode:?}, forged first: {forged_first}");
            let votes = proofs.collect_proven(&Workers::new(1)).votes;
            let named: BTreeSet<u64> = votes.iter().flat_map(|vote| vote.indices.iter().map(|index| index.as_u64())).collect();
            assert_eq!(named, BTreeSet::from([0, 1]));
            check_votes(&proofs, &publics);
        }
    }
}

/// Two validators own a key and its negative. The sum of the keys is the point at infinity, which
/// no client accepts, so each vote is returned by itself.
#[test]
fn opposite_keys_do_not_escape() {
    let (mut secrets, mut publics) = keys(3);
    let mut negative = publics.0[0].unwrap().compress();
    negative[0] ^= 0x20;
    publics.0[1] = Some(PublicKey::uncompress(&negative).unwrap());
    secrets[1] = secrets[0].clone();
    for mode in MODES {
        let mut claims = vec![single(&secrets, 1, 0, 0), single(&secrets, 1, 1, 0)];
        // The signature by the negative key is the negative point.
        claims[1].signature[0] ^= 0x20;
        let proofs = prove_all(claims, &publics, mode, 1, 8);
        assert_eq!(is_proven(&proofs), [true, true], "{mode:?}");
        assert_eq!(proofs.collect_proven(&Workers::new(1)).votes.len(), 2, "{mode:?}");
        check_votes(&proofs, &publics);
    }
}

#[test]
fn unknown_validators_are_nobodys_forgery() {
    let (secrets, publics) = keys(2);
    let mut huge = single(&secrets, 1, 0, 0);
    huge.members = ClaimedSigners::One(ValidatorIndex::new(1 << 63));
    let mut claims = vec![huge, single(&secrets, 1, 1, 0)];
    let mut among = aggregate(&secrets, 1, &[0, 1], 0);
    among.members = ClaimedSigners::Many(vec![ValidatorIndex::new(0), ValidatorIndex::MAX]);
    claims.push(among);
    let proofs = prove_all(claims, &publics, SinglesProof::RandomCombination, 1, 9);
    assert_eq!([0, 1, 2].map(|i| proofs.of(i)), [ClaimResult::NoKey, ClaimResult::Proven { alone: true }, ClaimResult::NoKey]);
}

#[test]
fn an_empty_batch_is_fine() {
    let (_, publics) = keys(0);
    assert!(prove_all(Vec::new(), &publics, SinglesProof::Sums, 3, 0).collect_proven(&Workers::new(1)).votes.is_empty());
}

/// A claim over a message without a domain, for the published vectors.
fn bare(message: &str, members: Vec<ValidatorIndex>, signature: &str) -> Option<SignatureClaim> {
    let signature: [u8; 96] = unhex(signature).try_into().ok()?;
    Some(SignatureClaim {
        subject: ClaimSubject::Attribute,
        signing_root: Root::from_slice(&unhex(message)),
        members: ClaimedSigners::from_sorted(members)?,
        signature: signature.into(),
        heard: heard(0, 0),
        version: ForkVersionChoice::Scheduled,
        block_epoch: None,
    })
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text.trim_start_matches("0x")).unwrap()
}

fn strings(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Array(items) => items.iter().map(|item| item.as_str().unwrap().to_owned()).collect(),
        serde_json::Value::String(one) => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// Checks every case in a folder of `bls12-381-tests`, with one claim for each message, or one
/// claim for all public keys.
fn published(folder: &str, fields: [&str; 3], all_in_one: bool) {
    let mut n_cases = [0, 0];
    for (name, text) in test_support::files(&format!("vectors/bls12-381-tests/{folder}")) {
        let case: serde_json::Value = serde_saphyr::from_slice(&text).unwrap();
        let [pubkeys, messages, signatures] = fields.map(|field| strings(&case["input"][field]));
        let publics = Keys(pubkeys.iter().map(|key| PublicKey::key_validate(&unhex(key)).ok()).collect());
        let all: Vec<ValidatorIndex> = (0..pubkeys.len() as u64).map(ValidatorIndex::new).collect();
        let claims: Option<Vec<SignatureClaim>> = if all_in_one {
            Some(vec![bare(&messages[0], all, &signatures[0])]).and_then(|claims| claims.into_iter().collect())
        } else {
            let each = messages.iter().zip(&signatures).enumerate();
            each.map(|(i, (message, signature))| bare(message, vec![ValidatorIndex::new(i as u64)], signature)).collect()
        };
        // An empty set of signers makes no claim.
        let verdict = claims
            .is_some_and(|claims| is_proven(&prove_all(claims, &publics, SinglesProof::Sums, 1, 0)).iter().all(|proven| *proven));
        let expected = case["output"].as_bool().unwrap();
        assert_eq!(verdict, expected, "{name}");
        n_cases[usize::from(expected)] += 1;
    }
    assert!(n_cases.iter().all(|n| *n > 0), "{folder}: {n_cases:?} refused and accepted cases");
}

#[test]
fn published_verify_cases() {
    published("verify", ["pubkey", "message", "signature"], true);
}

#[test]
fn published_fast_aggregate_verify_cases() {
    published("fast_aggregate_verify", ["pubkeys", "message", "signature"], true);
}

#[test]
fn published_batch_verify_cases() {
    published("batch_verify", ["pubkeys", "messages", "signatures"], false);
}

#[test]
fn published_signatures_decode_or_not() {
    let mut n_cases = 0;
    for (name, text) in test_support::files("vectors/bls12-381-tests/deserialization_G2") {
        let case: serde_json::Value = serde_saphyr::from_slice(&text).unwrap();
        let bytes = unhex(case["input"]["signature"].as_str().unwrap());
        let Ok(bytes) = <[u8; 96]>::try_from(bytes) else { continue };
        let infinity = name.contains("succeeds_infinity");
        let expected = case["output"].as_bool().unwrap() && !infinity;
        // A point outside the group is refused by the group check, which every unit has.
        let verdict = bls::decompress(&bytes.into()).is_some_and(|point| bls::in_group(&point));
        assert_eq!(verdict, expected, "{name}");
        n_cases += 1;
    }
    assert!(n_cases > 0);
}

/// Real headers and block attestations of Sepolia, in Electra.
#[test]
fn sepolia_signatures_verify() {
    let json = |name: &str| test_support::json(&format!("vectors/sepolia_live_2025-05-23/{name}"));
    let validators = json("validators_7687968.json");
    let publics = Keys(
        validators["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| PublicKey::key_validate(&unhex(record["validator"]["pubkey"].as_str().unwrap())).ok())
            .collect(),
    );
    let spec = json("spec.json");
    let yaml: String =
        spec["data"].as_object().unwrap().iter().filter_map(|(k, v)| Some(format!("{k}: {}\n", v.as_str()?))).collect();
    let genesis = json("genesis.json");
    let network = Network {
        spec: consensus::Spec::from_yaml(&yaml).unwrap(),
        genesis_time: genesis["data"]["genesis_time"].as_str().unwrap().parse().unwrap(),
        genesis_validators_root: genesis["data"]["genesis_validators_root"].as_str().unwrap().parse().unwrap(),
    };
    let mut claims = Vec::new();
    for header in json("headers_by_slot.json").as_object().unwrap().values() {
        let Some(signed) = header["data"].get("header") else { continue };
        let signed: consensus::SignedBeaconBlockHeader = serde_json::from_value(signed.clone()).unwrap();
        let root = signed.message.root();
        assert_eq!(header["data"]["root"].as_str().unwrap(), root.to_string());
        claims.push(SignatureClaim::proposal(&network, signed.message, root, signed.signature, heard(0, 0)));
    }
    let n_headers = claims.len();
    let committees = json("committees_by_slot.json");
    for block in json("block_attestations_by_block_slot.json").as_object().unwrap().values() {
        for attestation in block["data"].as_array().unwrap() {
            let data: AttestationData = serde_json::from_value(attestation["data"].clone()).unwrap();
            let Some(seats) = committees[data.slot.to_string()]["data"].as_array() else { continue };
            let bits = unhex(attestation["aggregation_bits"].as_str().unwrap());
            let committee_bits = unhex(attestation["committee_bits"].as_str().unwrap());
            let members: Vec<u64> = seats
                .iter()
                .filter(|seat| {
                    let index: usize = seat["index"].as_str().unwrap().parse().unwrap();
                    committee_bits[index / 8] >> (index % 8) & 1 == 1
                })
                .flat_map(|seat| strings(&seat["validators"]).into_iter().map(|index| index.parse::<u64>().unwrap()))
                .collect();
            let mut signers: Vec<ValidatorIndex> =
                (0..members.len()).filter(|i| bits[i / 8] >> (i % 8) & 1 == 1).map(|i| ValidatorIndex::new(members[i])).collect();
            signers.sort_unstable();
            let signature = attestation["signature"].as_str().unwrap().parse().unwrap();
            let members = ClaimedSigners::from_sorted(signers).unwrap();
            claims.push(SignatureClaim::aggregate(&network, data, data.root(), members, signature, None, heard(0, 0)));
        }
    }
    let n_attestations = claims.len() - n_headers;
    println!("{n_headers} headers, {n_attestations} attestations");
    assert!(n_headers > 20 && n_attestations > 20);
    let proofs = prove_all(claims, &publics, SinglesProof::Sums, 2, 0);
    assert!(is_proven(&proofs).iter().all(|proven| *proven));
    let ProvenClaims { votes, proposals, .. } = proofs.collect_proven(&Workers::new(1));
    assert_eq!((votes.len(), proposals.len()), (n_attestations, n_headers));
}

/// The claims of peers of bad reputation are proven one by one, and those of other peers together.
/// The results are the same.
#[test]
fn reputation_changes_the_order_and_not_the_outcome() {
    let (secrets, keys) = keys(12);
    let mut claims: Vec<SignatureClaim> = (0..12).map(|v| single(&secrets, v % 2, v, (v % 3) as u8)).collect();
    let foreign = [claims[4].signature, claims[7].signature];
    claims[1].signature = foreign[0];
    claims[2].signature = foreign[1];
    let mut reputations = PeerReputations::new(8);
    (0..100).for_each(|_| reputations.proven(&PeerBytes::from([0u8])));
    reputations.forged(&PeerBytes::from([1u8]));
    for singles in MODES {
        let workers = Workers::new(2);
        let proofs = prove_claims(claims.clone(), &keys, singles, &workers, &reputations, &mut StdRng::seed_from_u64(1));
        let proven: Vec<bool> = (0..12).map(|i| matches!(proofs.of(i), ClaimResult::Proven { .. })).collect();
        let expected: Vec<bool> = (0..12).map(|i| i != 1 && i != 2).collect();
        assert_eq!(proven, expected, "{singles:?}");
    }
}
