//! A small network with votes that can be checked. Validator v has the secret key v + 1, but one
//! validator in seven has the opposite of the key before it. So the sum of the signatures of
//! several signers is the message's point times the sum of their keys, and a wrong list of signers
//! gives a wrong signature.
#![allow(clippy::unwrap_used, dead_code)]

use blst::min_pk::SecretKey;
use consensus::{
    AttestationData, BeaconBlockHeader, Checkpoint, CommitteeIndex, Epoch, Offence, Preset, Root, Shuffling, SignatureBytes,
    Slot, ValidatorIndex, is_double_proposal, is_double_vote, surrounds,
};
use index::{Conflict, Index, Shape, StoredVote};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use verify::{FirstSeen, Proposal, Signed, SourceKind, Time, Vote};

pub const N_VALIDATORS: u32 = 96;
pub const SLOTS: u64 = 8;

pub fn shape() -> Shape {
    Shape { genesis_validators_root: Root::repeat_byte(7), slots_per_epoch: SLOTS, history_epochs: 54_000 }
}

pub fn open(dir: &Path) -> Index {
    Index::open(dir, shape()).unwrap()
}

thread_local! {
    static SHUFFLINGS: RefCell<HashMap<(u64, u8), Arc<Shuffling>>> = RefCell::default();
    static SIGNATURES: RefCell<HashMap<(Root, i128), SignatureBytes>> = RefCell::default();
}

/// The shuffling of an epoch on a branch. Branches differ in their seed, and branch 2 also differs
/// in its active validators.
pub fn shuffling(epoch: u64, branch: u8) -> Arc<Shuffling> {
    SHUFFLINGS.with_borrow_mut(|known| {
        known
            .entry((epoch, branch))
            .or_insert_with(|| {
                let mut seed = [branch; 32];
                seed[..8].copy_from_slice(&epoch.to_be_bytes());
                let active = (0..N_VALIDATORS).filter(|v| branch != 2 || !(u64::from(*v) + epoch).is_multiple_of(11)).collect();
                let decision = Root::repeat_byte(branch + 100);
                Arc::new(Shuffling::new(Epoch::new(epoch), decision, Root::from(seed), Arc::new(active), &Preset::MINIMAL))
            })
            .clone()
    })
}

/// Attestation data. Different values of `head` give different data.
pub fn data(source: u64, target: u64, slot: u64, head: u8) -> AttestationData {
    AttestationData {
        slot: Slot::new(slot),
        index: CommitteeIndex::new(0),
        beacon_block_root: Root::repeat_byte(head),
        source: Checkpoint { epoch: Epoch::new(source), root: Root::repeat_byte(1) },
        target: Checkpoint { epoch: Epoch::new(target), root: Root::repeat_byte(2) },
    }
}

/// A validator's secret key. Validator 5 has the opposite of 4's key, 12 the opposite of 11's, and
/// so on: one operator may register both.
fn key(validator: u64) -> i128 {
    let number = i128::from(validator) + 1;
    if validator < u64::from(N_VALIDATORS) && validator % 7 == 5 { 1 - number } else { number }
}

/// Whether the keys of these signers add up to zero. No signature proves that they signed, so no
/// verifier produces such a sum.
pub fn cancel_out(signers: impl Iterator<Item = u64>) -> bool {
    signers.map(key).sum::<i128>() == 0
}

pub fn signature(root: Root, signers: impl Iterator<Item = u64>) -> SignatureBytes {
    let key: i128 = signers.map(key).sum();
    assert!(key != 0, "a sum over opposite keys proves nothing");
    SIGNATURES.with_borrow_mut(|known| {
        *known.entry((root, key)).or_insert_with(|| {
            let mut bytes = [0; 32];
            bytes[16..].copy_from_slice(&key.unsigned_abs().to_be_bytes());
            let secret = SecretKey::from_bytes(&bytes).unwrap();
            let mut signature = secret.sign(root.as_slice(), b"TEST", &[]).to_bytes();
            if key < 0 {
                // This bit is the sign of a compressed point.
                signature[0] ^= 0x20;
            }
            SignatureBytes::from(signature)
        })
    })
}

pub fn heard(at: u64) -> FirstSeen {
    FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: Some(Arc::from(format!("peer {}", at % 5).as_bytes())) }
}

/// A vote of listed validators.
pub fn vote(data: AttestationData, signers: &[u64]) -> Signed<Vote> {
    vote_in(data, signers, None)
}

pub fn vote_in(data: AttestationData, signers: &[u64], shuffling: Option<Arc<Shuffling>>) -> Signed<Vote> {
    let root = data.root();
    let signers: BTreeSet<u64> = signers.iter().copied().collect();
    Signed::for_tests(Vote {
        data,
        data_root: root,
        arrivals: vec![heard(1_000).arrival(); signers.len()],
        signature: signature(root, signers.iter().copied()),
        indices: signers.into_iter().map(ValidatorIndex::new).collect(),
        shuffling,
        signed_with: None,
        heard: heard(1_000),
    })
}

pub fn proposal(slot: u64, proposer: u64, body: u8) -> Signed<Proposal> {
    let header = BeaconBlockHeader {
        slot: Slot::new(slot),
        proposer_index: ValidatorIndex::new(proposer),
        parent_root: Root::repeat_byte(3),
        state_root: Root::repeat_byte(4),
        body_root: Root::repeat_byte(body),
    };
    let root = header.root();
    Signed::for_tests(Proposal { header, root, signature: signature(root, std::iter::once(proposer)), heard: heard(slot) })
}

/// Kind, validator, and the two roots: for a surround the surrounding vote first, otherwise in
/// ascending order.
pub type Pair = (Offence, u64, Root, Root);

/// The pair of a conflict, after checking that each side is proof by itself.
pub fn pair(conflict: &Conflict) -> Pair {
    let check = |vote: &StoredVote, validator: ValidatorIndex| {
        assert!(vote.indices.is_sorted_by(|a, b| a < b), "signers ascending and unique");
        assert!(vote.indices.contains(&validator), "the offender signed it");
        assert_eq!(vote.data.root(), vote.data_root);
        let expected = signature(vote.data_root, vote.indices.iter().map(|v| v.as_u64()));
        assert_eq!(vote.signature, expected, "the signature is by exactly the listed signers");
    };
    match conflict {
        Conflict::DoubleVote { validator, first, second, .. } => {
            check(first, *validator);
            check(second, *validator);
            assert!(is_double_vote(&first.data, &second.data));
            let (a, b) = (first.data_root.min(second.data_root), first.data_root.max(second.data_root));
            (Offence::DoubleVote, validator.as_u64(), a, b)
        }
        Conflict::Surround { validator, surrounding, surrounded, .. } => {
            check(surrounding, *validator);
            check(surrounded, *validator);
            assert!(surrounds(&surrounding.data, &surrounded.data));
            (Offence::SurroundVote, validator.as_u64(), surrounding.data_root, surrounded.data_root)
        }
        Conflict::DoubleProposal { validator, first, second } => {
            assert!(is_double_proposal(&first.header, &second.header));
            assert_eq!(first.signature, signature(first.root, std::iter::once(validator.as_u64())));
            assert_eq!(second.signature, signature(second.root, std::iter::once(validator.as_u64())));
            (Offence::DoubleProposal, validator.as_u64(), first.root.min(second.root), first.root.max(second.root))
        }
    }
}

pub fn pairs(conflicts: &[Conflict]) -> Vec<Pair> {
    conflicts.iter().map(pair).collect()
}

/// A short form for individual cases: `double 3 at 4`, `surround 3: 3->7 over 4->6`.
pub fn told(conflicts: &[Conflict]) -> BTreeSet<String> {
    let span = |vote: &StoredVote| format!("{}->{}", vote.data.source.epoch, vote.data.target.epoch);
    let one = |conflict: &Conflict| {
        pair(conflict);
        match conflict {
            Conflict::DoubleVote { validator, first, .. } => format!("double {validator} at {}", first.data.target.epoch),
            Conflict::Surround { validator, surrounding, surrounded, .. } => {
                format!("surround {validator}: {} over {}", span(surrounding), span(surrounded))
            }
            Conflict::DoubleProposal { validator, first, .. } => format!("proposal {validator} at {}", first.header.slot),
        }
    };
    conflicts.iter().map(one).collect()
}

/// The loop over all pairs, which gives what the index must find.
#[derive(Default)]
pub struct Oracle {
    pub votes: BTreeMap<u64, BTreeMap<Root, AttestationData>>,
    pub pairs: BTreeSet<Pair>,
}

impl Oracle {
    pub fn add(&mut self, vote: &Vote) {
        for validator in &vote.indices {
            let validator = validator.as_u64();
            let known = self.votes.entry(validator).or_default();
            if known.contains_key(&vote.data_root) {
                continue;
            }
            for (root, other) in known.iter() {
                if is_double_vote(&vote.data, other) {
                    let (a, b) = (vote.data_root.min(*root), vote.data_root.max(*root));
                    self.pairs.insert((Offence::DoubleVote, validator, a, b));
                }
                if surrounds(&vote.data, other) {
                    self.pairs.insert((Offence::SurroundVote, validator, vote.data_root, *root));
                }
                if surrounds(other, &vote.data) {
                    self.pairs.insert((Offence::SurroundVote, validator, *root, vote.data_root));
                }
            }
            known.insert(vote.data_root, vote.data);
        }
    }

    pub fn prune(&mut self, before: u64) {
        for known in self.votes.values_mut() {
            known.retain(|_, data| data.target.epoch.as_u64() >= before);
        }
    }
}
