//! What keys were seen to sign, read from a vote index: for EIP-3076 files.

use crate::error::WatcherError;
use consensus::interchange::{SignedEpochs, SignedSlot, SigningHistory};
use consensus::{DomainType, Network, PubkeyBytes, ValidatorIndex, signing_root};
use index::{IndexView, KnownVote, Walked};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of votes in memory, which need 1.5 GB. A complete file with this many has about 5
/// GB, which is more than clients accept.
const MAX_VOTES: usize = 25_000_000;

/// The form of an interchange file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Contains every message.
    Complete,
    /// Contains the highest slot, source and target of each key.
    Minimal,
}

/// The histories of these keys, in the order of the validator index.
pub fn histories(
    index: &IndexView,
    network: &Network,
    keys: &BTreeMap<ValidatorIndex, PubkeyBytes>,
    form: Form,
    on_progress: &mut dyn FnMut(Walked),
) -> Result<Vec<SigningHistory>, WatcherError> {
    let validators: BTreeSet<ValidatorIndex> = keys.keys().copied().collect();
    let mut blocks = blocks(index, network, &validators)?;
    let mut votes = votes(index, network, &validators, form, on_progress)?;
    let history = |(validator, pubkey): (&ValidatorIndex, &PubkeyBytes)| {
        let history = SigningHistory {
            pubkey: *pubkey,
            signed_blocks: blocks.remove(validator).unwrap_or_default(),
            signed_attestations: votes.remove(validator).unwrap_or_default(),
        };
        match form {
            Form::Complete => history,
            Form::Minimal => history.minimal(),
        }
    };
    Ok(keys.iter().map(history).collect())
}

/// Returns the votes by validator, ascending by target. For the minimal form it only keeps the
/// highest source and the highest target, because nothing else matters for that form.
pub fn votes(
    index: &IndexView,
    network: &Network,
    of: &BTreeSet<ValidatorIndex>,
    form: Form,
    on_progress: &mut dyn FnMut(Walked),
) -> Result<BTreeMap<ValidatorIndex, Vec<SignedEpochs>>, WatcherError> {
    let mut votes: BTreeMap<ValidatorIndex, Vec<SignedEpochs>> = BTreeMap::new();
    let mut n_kept = 0usize;
    let mut keep = |validator: ValidatorIndex, vote: &KnownVote| {
        let (source_epoch, target_epoch) = (vote.data.source.epoch, vote.data.target.epoch);
        let kept = votes.entry(validator).or_default();
        match (form, kept.first_mut()) {
            (Form::Minimal, Some(highest)) => {
                highest.source_epoch = highest.source_epoch.max(source_epoch);
                highest.target_epoch = highest.target_epoch.max(target_epoch);
            }
            (Form::Minimal, None) => kept.push(SignedEpochs { source_epoch, target_epoch, signing_root: None }),
            (Form::Complete, _) => {
                n_kept += 1;
                if n_kept <= MAX_VOTES {
                    let domain = network.domain(DomainType::BeaconAttester, target_epoch);
                    let signing_root = Some(signing_root(vote.data_root, domain));
                    kept.push(SignedEpochs { source_epoch, target_epoch, signing_root });
                }
            }
        }
    };
    index.votes_of_several(of, &mut keep, on_progress)?;
    if n_kept > MAX_VOTES {
        return Err(WatcherError::Failed(format!(
            "these {} keys have {n_kept} votes; {MAX_VOTES} are kept in memory. Name fewer keys at a time, or use --minimal",
            of.len()
        )));
    }
    Ok(votes)
}

/// Returns the blocks by validator. It reads all proposals once, however many keys are asked
/// about.
pub fn blocks(
    index: &IndexView,
    network: &Network,
    of: &BTreeSet<ValidatorIndex>,
) -> Result<BTreeMap<ValidatorIndex, Vec<SignedSlot>>, WatcherError> {
    let mut blocks: BTreeMap<ValidatorIndex, Vec<SignedSlot>> = BTreeMap::new();
    for proposal in index.proposals_where(|proposer| of.contains(&proposer), &mut |_| {})? {
        let slot = proposal.header.slot;
        let domain = network.domain(DomainType::BeaconProposer, slot.epoch(network.preset()));
        let signed = SignedSlot { slot, signing_root: Some(signing_root(proposal.root, domain)) };
        blocks.entry(proposal.header.proposer_index).or_default().push(signed);
    }
    Ok(blocks)
}
