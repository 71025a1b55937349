//! What was heard of the network: blocks and votes by slot, branches, and what single validators
//! signed. Other parts of the process know it and hand it over through [`ObservedSource`].

use crate::privacy::{OwnKeys, Privacy};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::status::Head;
use consensus::interchange::SigningHistory;
use consensus::{Checkpoint, Epoch, Gwei, Network, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Evidence, Time};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// Knows what was heard of the network.
pub trait ObservedSource: Send + Sync + 'static {
    fn network(&self) -> Arc<Network>;

    /// The last epochs, as they are kept in memory. It must not wait.
    fn recent(&self) -> Arc<Recent>;

    /// What is stored of the slots `first..=last`. It may wait for the disk.
    fn stored_slots(&self, first: Slot, last: Slot) -> Result<Vec<ObservedSlot>, ReadError>;

    /// What is known of a validator. `None` if nothing is. It may wait for the disk.
    fn validator(&self, query: &ValidatorQuery) -> Result<Option<ObservedValidator>, ReadError>;

    /// Validators with a label, such as `operator=acme`, that come after `after`, in ascending
    /// order, `limit` at most. It may take some milliseconds.
    fn labelled(&self, label: &str, after: Option<ValidatorIndex>, limit: usize) -> Vec<LabelledValidator>;

    /// The public keys of these validators, as far as they are known. It may wait for the disk.
    fn pubkeys(&self, _: &BTreeSet<ValidatorIndex>) -> Result<BTreeMap<ValidatorIndex, PubkeyBytes>, ReadError> {
        Ok(BTreeMap::new())
    }

    /// The records of these validators in the registry as of now, as far as they are known. It may
    /// wait for the engine.
    fn records(&self, _: &BTreeSet<ValidatorIndex>) -> Result<BTreeMap<ValidatorIndex, RegistryView>, ReadError> {
        Ok(BTreeMap::new())
    }

    /// A capture of the messages of these proofs, which are in the order of arrival. `None` if this
    /// source cannot make one. It reads from the disk.
    fn capture(&self, _: &[CapturedProof<'_>]) -> Result<Option<PackCapture>, ReadError> {
        Ok(None)
    }

    /// What the network saw these keys sign, for an EIP-3076 file. With `minimal` it is the highest
    /// slot, source and target of each. `None` if nothing is stored. It waits for the disk, up to
    /// seconds.
    fn histories(
        &self,
        _: &BTreeMap<ValidatorIndex, PubkeyBytes>,
        _minimal: bool,
    ) -> Result<Option<Vec<SigningHistory>>, ReadError> {
        Ok(None)
    }
}

/// A proof, with the arrival of the later of its two messages.
#[derive(Clone, Copy, Debug)]
pub struct CapturedProof<'a> {
    pub evidence: &'a Evidence,
    pub at: Time,
}

/// A capture file (`.e2s`) for an evidence pack.
#[derive(Clone, Debug)]
pub struct PackCapture {
    pub bytes: Vec<u8>,
    /// It begins with a beacon state, so it can be replayed by itself.
    pub has_state: bool,
    /// There is a state, but it is too large for a pack.
    pub is_too_large: bool,
}

/// A source that has heard nothing.
pub struct NothingObserved(pub Arc<Network>);

impl ObservedSource for NothingObserved {
    fn network(&self) -> Arc<Network> {
        self.0.clone()
    }

    fn recent(&self) -> Arc<Recent> {
        Arc::default()
    }

    fn stored_slots(&self, _: Slot, _: Slot) -> Result<Vec<ObservedSlot>, ReadError> {
        Ok(Vec::new())
    }

    fn validator(&self, _: &ValidatorQuery) -> Result<Option<ObservedValidator>, ReadError> {
        Ok(None)
    }

    fn labelled(&self, _: &str, _: Option<ValidatorIndex>, _: usize) -> Vec<LabelledValidator> {
        Vec::new()
    }
}

/// Why something that is stored cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is too much else to do. Asking again in a second may help.
    #[error("the watcher is busy")]
    Busy,
    #[error("{0}")]
    Failed(String),
}

impl From<ReadError> for ProblemDetails {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Busy => Self::busy(),
            ReadError::Failed(_) => Self::internal(&error),
        }
    }
}

/// The last epochs.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// The current slot, or the last one of a recording.
    pub now: Slot,
    pub head: Head,
    pub justified: Option<Checkpoint>,
    pub finalized: Option<Checkpoint>,
    /// The first slot that began after this process listened. Of earlier slots only what came late,
    /// and blocks that were fetched, is in `slots`.
    pub complete_from: Slot,
    pub slots: BTreeMap<Slot, Arc<ObservedSlot>>,
    /// Blocks of the last epochs, of all branches. The number is bounded.
    pub blocks: Vec<TreeBlock>,
    /// Connected peers by client and by the head that they last reported.
    pub peers: Vec<PeersAtHead>,
    pub traffic: Traffic,
}

/// A block in the tree of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeBlock {
    pub root: Root,
    pub parent: Option<Root>,
    pub slot: Slot,
    pub proposer: Option<ValidatorIndex>,
    /// Whether its proposer was drawn for its slot. `None` while that is not known.
    pub in_turn: Option<bool>,
}

/// Connected peers of one client that report the same head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeersAtHead {
    pub client: &'static str,
    #[schema(value_type = Option<String>)]
    pub head_root: Option<Root>,
    /// Null before a peer has reported any.
    #[schema(value_type = Option<String>)]
    pub head_slot: Option<Slot>,
    pub peers: u64,
}

/// What arrived in the last epoch's slots, by the time of arrival.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Number of slots that are summed up.
    pub slots: u64,
    /// Attestations by subnet.
    pub by_subnet: Vec<u64>,
    /// Votes by how long after the start of their own slot they arrived. Each bucket is as long as
    /// `bucket`. The first one begins one slot before the start.
    pub offsets: Vec<u64>,
    pub bucket: Duration,
    /// The longest time that messages waited for this program.
    pub longest_wait: Duration,
    /// Votes and blocks for slots that had not begun.
    pub early_votes: u64,
    pub early_blocks: u64,
}

/// Where something about a slot was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlotSource {
    #[default]
    Memory,
    Index,
}

/// What was heard of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSlot {
    pub slot: Slot,
    /// In the order of arrival.
    pub blocks: Vec<ObservedBlock>,
    /// Most votes first.
    pub votes: Vec<ObservedVotes>,
    /// Voters of votes that are not listed.
    pub further_voters: u64,
    pub voters: u64,
    /// Validators with several different votes may be in `voters` more than once.
    pub voters_partial: bool,
    /// Voters whose vote was received in a block.
    pub voters_in_blocks: Option<u64>,
    pub by_client: Vec<ClientVotes>,
    /// Seats of the slot's committees.
    pub seats: Option<u64>,
    pub origin: SlotSource,
}

/// A proven block, or a proven header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBlock {
    pub root: Root,
    pub parent: Root,
    pub proposer: ValidatorIndex,
    pub client: Option<&'static str>,
    pub heard: Heard,
    pub attestations: Option<u64>,
    /// Whether others than its proposer vote for it or build on it.
    pub is_backed: Option<bool>,
}

/// When and how something first arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub at: Time,
    /// `gossip`, `block`, `slashing_op` or `api`.
    pub source: &'static str,
}

/// Votes of one slot for the same head, source and target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVotes {
    pub head: Root,
    pub source: Checkpoint,
    pub target: Checkpoint,
    pub tally: VoteTally,
}

/// Votes in sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct VoteTally {
    pub votes: u64,
    /// Effective balances of the voters. Null if they are not known.
    #[schema(value_type = Option<String>)]
    pub stake_gwei: Option<Gwei>,
    /// By the client that the validator seems to run, most votes first.
    pub by_client: Vec<ClientVotes>,
    /// By label of the configuration, most votes first.
    pub by_label: Vec<LabelVotes>,
    /// Labelled voters are missing in `by_label`: they have more than 256 different combinations of
    /// labels, or the lists changed after they had voted.
    pub labels_partial: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClientVotes {
    pub client: &'static str,
    pub votes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LabelVotes {
    /// Such as `operator=acme`.
    pub label: String,
    pub votes: u64,
}

impl VoteTally {
    /// All of these votes together.
    pub(crate) fn sum<'a>(tallies: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut sum, mut by_client, mut by_label) = (Self::default(), BTreeMap::new(), BTreeMap::new());
        for tally in tallies {
            sum.votes += tally.votes;
            sum.stake_gwei = match (sum.stake_gwei, tally.stake_gwei) {
                (Some(own), Some(more)) => Some(own.saturating_add(more.as_u64())),
                (None, stake) | (stake, None) => stake,
            };
            sum.labels_partial |= tally.labels_partial;
            for row in &tally.by_client {
                *by_client.entry(row.client).or_default() += row.votes;
            }
            for row in &tally.by_label {
                *by_label.entry(row.label.as_str()).or_default() += row.votes;
            }
        }
        sum.by_client = by_client.into_iter().map(|(client, votes)| ClientVotes { client, votes }).collect();
        sum.by_label = by_label.into_iter().map(|(label, votes)| LabelVotes { label: label.to_owned(), votes }).collect();
        sum.sort();
        sum
    }

    /// Puts the rows with the most votes first.
    pub fn sort(&mut self) {
        self.by_client.sort_by_key(|row| (std::cmp::Reverse(row.votes), row.client));
        self.by_label.sort_by(|a, b| b.votes.cmp(&a.votes).then_with(|| a.label.cmp(&b.label)));
    }
}

/// Which validator to read, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidatorQuery {
    pub key: ValidatorKey,
    /// Only votes with targets before this epoch. `Epoch::MAX` for the newest.
    pub before_epoch: Epoch,
    pub limit: usize,
}

/// A validator by its index or by its public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidatorKey {
    Index(ValidatorIndex),
    Pubkey(PubkeyBytes),
}

/// What is known of a validator.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedValidator {
    pub index: ValidatorIndex,
    pub pubkey: Option<PubkeyBytes>,
    pub registry: Option<RegistryView>,
    pub client: Option<&'static str>,
    pub labels: Vec<String>,
    pub groups: Vec<String>,
    pub first_epoch: Option<Epoch>,
    pub last_epoch: Option<Epoch>,
    /// Arrival of the newest vote.
    pub last_heard: Option<(Slot, Heard)>,
    /// Newest first.
    pub votes: Vec<ObservedVote>,
    /// Where the next page of votes begins.
    pub next: Option<Epoch>,
    /// Newest first.
    pub proposals: Vec<ObservedProposal>,
}

/// A validator's record in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RegistryView {
    /// In the terms of the beacon API.
    pub state: &'static str,
    pub slashed: bool,
    #[schema(value_type = String)]
    pub effective_balance: Gwei,
    /// Epochs that never come are null.
    #[schema(value_type = Option<String>)]
    pub activation_epoch: Option<Epoch>,
    #[schema(value_type = Option<String>)]
    pub exit_epoch: Option<Epoch>,
    #[schema(value_type = Option<String>)]
    pub withdrawable_epoch: Option<Epoch>,
}

/// A stored vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedVote {
    pub slot: Slot,
    pub source: Checkpoint,
    pub target: Checkpoint,
    pub head: Root,
    pub data_root: Root,
    pub heard: Option<Heard>,
    /// The vote contradicted another one when it came.
    pub contradicts: bool,
}

/// A stored proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedProposal {
    pub slot: Slot,
    pub root: Root,
    pub parent: Root,
    pub heard: Heard,
}

/// A validator with its labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LabelledValidator {
    #[schema(value_type = String)]
    pub index: ValidatorIndex,
    /// Null if it is not kept, and where own keys are not shown.
    #[schema(value_type = Option<String>)]
    pub pubkey: Option<PubkeyBytes>,
    pub labels: Vec<String>,
    pub groups: Vec<String>,
}

/// [`Heard`] as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Heard)]
pub(crate) struct HeardView {
    #[schema(value_type = String)]
    at: Time,
    /// Milliseconds after the start of the slot that the message is about; negative if it came
    /// before.
    after_slot_start_ms: f64,
    /// `gossip`, `block`, `slashing_op` or `api`.
    source: &'static str,
}

impl HeardView {
    pub(crate) fn new(heard: &Heard, slot: Slot, network: &Network) -> Self {
        Self { at: heard.at, after_slot_start_ms: after_start_ms(heard, slot, network), source: heard.source }
    }
}

/// How long after the start of its slot something arrived, in milliseconds.
pub(crate) fn after_start_ms(heard: &Heard, slot: Slot, network: &Network) -> f64 {
    let offset = i128::from(heard.at.as_unix_ns()) - i128::from(network.slot_start_ns(slot));
    (offset / 1000) as f64 / 1000.0
}

impl Privacy {
    /// Votes without the labels that readers may not see.
    pub fn tally(&self, mut tally: VoteTally) -> VoteTally {
        if self.own_keys == OwnKeys::Hidden {
            tally.by_label.retain(|row| !self.watch.is_private(&row.label));
        }
        tally
    }

    /// The labels of a validator as readers may see them.
    pub fn labels(&self, validator: ValidatorIndex, labels: Vec<String>) -> Vec<String> {
        match self.own_keys {
            OwnKeys::Shown => labels,
            OwnKeys::Hidden => self.watch.listed_labels(validator),
        }
    }

    /// Groups, if readers may see them.
    pub fn groups(&self, groups: Vec<String>) -> Vec<String> {
        match self.own_keys {
            OwnKeys::Shown => groups,
            OwnKeys::Hidden => Vec::new(),
        }
    }
}

/// Reads from the source on a thread that may wait for the disk.
pub(crate) async fn read_observed<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&dyn ObservedSource) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ProblemDetails> {
    let source = shared.observed.clone();
    match tokio::task::spawn_blocking(move || work(&*source)).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(ProblemDetails::internal(&error)),
    }
}
