//! Claims: which validators claim to have signed what. The signing roots are computed here, from
//! the same values that become [`crate::Signed`].

use crate::{FirstSeen, PeerBytes, SourceKind, Statement, Time};
use consensus::{
    AttestationData, BeaconBlockHeader, BuilderIndex, CommitteeIndex, DomainType, Epoch, ForkName, Network, Root, Shuffling,
    ShufflingId, SignatureBytes, Slot, ValidatorIndex, sha256, signing_root,
};
use std::sync::Arc;

/// The validators that are claimed to have signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClaimedSigners {
    One(ValidatorIndex),
    /// In ascending order, without repetition, not empty.
    Many(Vec<ValidatorIndex>),
}

impl ClaimedSigners {
    /// Makes the set. `None` unless the indices are ascending, without repetition, and not empty.
    pub(crate) fn from_sorted(indices: Vec<ValidatorIndex>) -> Option<Self> {
        match indices.as_slice() {
            [] => None,
            [one] => Some(Self::One(*one)),
            many if many.windows(2).all(|pair| pair[0] < pair[1]) => Some(Self::Many(indices)),
            _ => None,
        }
    }

    pub(crate) fn as_slice(&self) -> &[ValidatorIndex] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The signed thing.
#[derive(Clone, Debug)]
pub(super) enum ClaimSubject {
    Vote {
        data: AttestationData,
        data_root: Root,
        shuffling: Option<Arc<Shuffling>>,
        /// Set for single votes: with which other single votes it may be summed.
        merges: Option<MergeKey>,
    },
    Proposal {
        header: BeaconBlockHeader,
        root: Root,
    },
    /// The member is the validator that signed it. For a builder it is a number that stands for the
    /// builder ([`builder_member`]), whose key is looked up among the builders' keys.
    Statement(Statement),
    /// Something that is not returned as a result of its own: a randao reveal, a selection proof,
    /// or the signature of an aggregator.
    Attribute,
}

/// Single votes over equal data with equal keys of this type become one vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum MergeKey {
    /// The vote's validator is in this committee at the vote's slot.
    Seat(ShufflingId, CommitteeIndex),
    /// The vote's validator has no seat at the vote's slot, or the shuffling is not known.
    Listed,
}

/// The fork version that a claim's signature is checked with. This is the version that is scheduled
/// at the claim's epoch. If that fork has not happened yet, a chain accepts what is signed with
/// today's version, so that version is tried as well, and nobody is blamed if neither is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForkVersionChoice {
    Scheduled,
    /// The scheduled version is tried first, then the version of this fork.
    InDoubt(ForkName, Root),
    /// As before, but it is not tried, because its sender already had many claims that were valid
    /// with neither version.
    Skipped,
    /// The version of this fork, and not the scheduled one.
    Of(ForkName),
}

/// A claim that certain validators signed a certain thing.
#[derive(Clone, Debug)]
pub(crate) struct SignatureClaim {
    pub(super) subject: ClaimSubject,
    pub(super) signing_root: Root,
    pub(super) members: ClaimedSigners,
    pub(super) signature: SignatureBytes,
    pub(super) heard: FirstSeen,
    pub(super) version: ForkVersionChoice,
    /// The epoch of the block that contains it. The block's state was used to check the signature.
    pub(super) block_epoch: Option<Epoch>,
}

impl SignatureClaim {
    /// Sets the epoch of the block that contains the claim.
    pub(crate) fn in_block_of(mut self, epoch: Option<Epoch>) -> Self {
        self.block_epoch = epoch;
        self
    }

    /// Decides whether the claim's version is in doubt, as of the epoch `now`.
    pub(crate) fn decide_version(&mut self, network: &Network, now: Epoch) {
        let (kind, epoch, object) = match &self.subject {
            ClaimSubject::Vote { data, data_root, .. } => (DomainType::BeaconAttester, data.target.epoch, *data_root),
            ClaimSubject::Proposal { header, root } => (DomainType::BeaconProposer, header.slot.epoch(network.preset()), *root),
            ClaimSubject::Statement(_) | ClaimSubject::Attribute => return,
        };
        let now = self.block_epoch.unwrap_or(now);
        if network.spec.is_version_uncertain(epoch, now) {
            let fork = network.spec.fork_at(now);
            self.version = ForkVersionChoice::InDoubt(fork.name, signing_root(object, network.domain_of(kind, fork.version)));
        }
    }

    pub(crate) fn is_version_in_doubt(&self) -> bool {
        matches!(self.version, ForkVersionChoice::InDoubt(..))
    }

    /// Marks the claim so that it is not tried.
    pub(crate) fn skip(&mut self) {
        self.version = ForkVersionChoice::Skipped;
    }

    /// The same claim with the other possible version.
    pub(super) fn with_other_version(&self) -> Option<Self> {
        let ForkVersionChoice::InDoubt(fork, signing_root) = self.version else { return None };
        Some(Self { signing_root, version: ForkVersionChoice::Of(fork), ..self.clone() })
    }

    /// The fork whose version was found to be the one it is signed with, if that is not the
    /// scheduled one.
    pub(crate) fn signed_with(&self) -> Option<ForkName> {
        match self.version {
            ForkVersionChoice::Of(fork) => Some(fork),
            ForkVersionChoice::Scheduled | ForkVersionChoice::InDoubt(..) | ForkVersionChoice::Skipped => None,
        }
    }

    /// One validator's own vote. `shuffling` must be that of the target's epoch. Whether the
    /// validator has a seat at `data.slot` is looked up.
    pub(crate) fn single(
        network: &Network,
        data: AttestationData,
        data_root: Root,
        validator: ValidatorIndex,
        signature: SignatureBytes,
        shuffling: Option<Arc<Shuffling>>,
        heard: FirstSeen,
    ) -> Self {
        let seat = shuffling.as_ref().and_then(|s| s.seat(validator)).filter(|seat| seat.slot == data.slot);
        let shuffling = shuffling.filter(|_| seat.is_some());
        let merges = match (&shuffling, seat) {
            (Some(shuffling), Some(seat)) => MergeKey::Seat(shuffling.id(), seat.committee),
            (None, _) | (_, None) => MergeKey::Listed,
        };
        Self {
            subject: ClaimSubject::Vote { data, data_root, shuffling, merges: Some(merges) },
            signing_root: vote_root(network, &data, data_root),
            members: ClaimedSigners::One(validator),
            signature,
            heard,
            version: ForkVersionChoice::Scheduled,
            block_epoch: None,
        }
    }

    /// A sum that somebody else made. `shuffling` is one in which every member has a seat at
    /// `data.slot`, if it is known.
    pub(crate) fn aggregate(
        network: &Network,
        data: AttestationData,
        data_root: Root,
        members: ClaimedSigners,
        signature: SignatureBytes,
        shuffling: Option<Arc<Shuffling>>,
        heard: FirstSeen,
    ) -> Self {
        Self {
            subject: ClaimSubject::Vote { data, data_root, shuffling, merges: None },
            signing_root: vote_root(network, &data, data_root),
            members,
            signature,
            heard,
            version: ForkVersionChoice::Scheduled,
            block_epoch: None,
        }
    }

    /// A header that is signed by the proposer in it. The domain is that of the fork at the
    /// header's slot.
    pub(crate) fn proposal(
        network: &Network,
        header: BeaconBlockHeader,
        root: Root,
        signature: SignatureBytes,
        heard: FirstSeen,
    ) -> Self {
        let domain = network.domain(DomainType::BeaconProposer, header.slot.epoch(network.preset()));
        Self {
            subject: ClaimSubject::Proposal { header, root },
            signing_root: signing_root(root, domain),
            members: ClaimedSigners::One(header.proposer_index),
            signature,
            heard,
            version: ForkVersionChoice::Scheduled,
            block_epoch: None,
        }
    }

    /// A statement. The domain is that of the fork at its slot.
    pub(crate) fn statement(network: &Network, statement: Statement, signature: SignatureBytes, heard: FirstSeen) -> Self {
        let (kind, member) = match &statement {
            Statement::PayloadVote { validator, .. } => (DomainType::PtcAttester, *validator),
            Statement::Bid { bid, .. } => (DomainType::BeaconBuilder, builder_member(bid.builder_index)),
            Statement::InclusionList { list, .. } => (DomainType::InclusionListCommittee, list.validator_index),
        };
        let domain = network.domain(kind, statement.slot().epoch(network.preset()));
        Self {
            signing_root: signing_root(statement.root(), domain),
            subject: ClaimSubject::Statement(statement),
            members: ClaimedSigners::One(member),
            signature,
            heard,
            version: ForkVersionChoice::Scheduled,
            block_epoch: None,
        }
    }

    pub(crate) fn randao_reveal(
        network: &Network,
        proposer: ValidatorIndex,
        epoch: Epoch,
        signature: SignatureBytes,
        heard: FirstSeen,
    ) -> Self {
        let domain = network.domain(DomainType::Randao, epoch);
        Self::attribute(u64_root(epoch.as_u64()), domain, proposer, signature, heard)
    }

    pub(crate) fn selection_proof(
        network: &Network,
        aggregator: ValidatorIndex,
        slot: Slot,
        signature: SignatureBytes,
        heard: FirstSeen,
    ) -> Self {
        let domain = network.domain(DomainType::SelectionProof, slot.epoch(network.preset()));
        Self::attribute(u64_root(slot.as_u64()), domain, aggregator, signature, heard)
    }

    /// The aggregator's own signature around an aggregate of `slot`.
    pub(crate) fn aggregate_and_proof(
        network: &Network,
        aggregator: ValidatorIndex,
        slot: Slot,
        message_root: Root,
        signature: SignatureBytes,
        heard: FirstSeen,
    ) -> Self {
        let domain = network.domain(DomainType::AggregateAndProof, slot.epoch(network.preset()));
        Self::attribute(message_root, domain, aggregator, signature, heard)
    }

    fn attribute(
        object_root: Root,
        domain: [u8; 32],
        signer: ValidatorIndex,
        signature: SignatureBytes,
        heard: FirstSeen,
    ) -> Self {
        Self {
            subject: ClaimSubject::Attribute,
            signing_root: signing_root(object_root, domain),
            members: ClaimedSigners::One(signer),
            signature,
            heard,
            version: ForkVersionChoice::Scheduled,
            block_epoch: None,
        }
    }

    /// What distinguishes claims, apart from their members.
    pub(crate) fn content(&self) -> (Root, SignatureBytes) {
        (self.signing_root, self.signature)
    }

    /// A hash of the signers and of what they signed. Claims with the same hash have the same
    /// result.
    pub(crate) fn fingerprint(&self) -> Root {
        let mut bytes = self.signing_root.to_vec();
        bytes.extend_from_slice(self.signature.as_slice());
        for member in self.members() {
            bytes.extend_from_slice(&member.as_u64().to_le_bytes());
        }
        Root::from(sha256(&bytes))
    }

    /// The peer that is credited or blamed for the claim. This is the peer that sent a vote, a
    /// block or a statement on its own topic. What is inside other validators' blocks, or what only
    /// a full node checks before it forwards it, shows nothing about the peer that forwarded it.
    pub(crate) fn responsible_peer(&self) -> Option<&PeerBytes> {
        match (&self.subject, self.heard.source) {
            (ClaimSubject::Vote { .. } | ClaimSubject::Proposal { .. } | ClaimSubject::Statement(_), SourceKind::Gossip) => {
                self.heard.peer.as_ref()
            }
            (
                ClaimSubject::Vote { .. } | ClaimSubject::Proposal { .. } | ClaimSubject::Statement(_) | ClaimSubject::Attribute,
                _,
            ) => None,
        }
    }

    /// Whose budget it takes while a fork is to come: the peer that sent it on its own topic, as
    /// part of a slashing operation also. What a block carries is bounded by the block.
    pub(crate) fn version_budget_peer(&self) -> Option<&PeerBytes> {
        match self.heard.source {
            SourceKind::Gossip | SourceKind::SlashingOp if self.block_epoch.is_none() => self.heard.peer.as_ref(),
            SourceKind::Gossip | SourceKind::SlashingOp | SourceKind::Block | SourceKind::Api => None,
        }
    }

    /// An equal claim: what one of them gives out is given out, and the earlier time counts.
    pub(crate) fn absorb(&mut self, other: Self) {
        if other.heard.at < self.heard.at {
            self.heard = other.heard;
        }
        if matches!(self.subject, ClaimSubject::Attribute) {
            self.subject = other.subject;
        }
        // What a block of an earlier epoch carries was checked with that epoch's version.
        self.block_epoch = self.block_epoch.into_iter().chain(other.block_epoch).min();
    }

    /// The data and its root, if the claim is a vote that is returned.
    pub(crate) fn vote(&self) -> Option<(Root, &AttestationData)> {
        match &self.subject {
            ClaimSubject::Vote { data, data_root, .. } => Some((*data_root, data)),
            ClaimSubject::Proposal { .. } | ClaimSubject::Statement(_) | ClaimSubject::Attribute => None,
        }
    }

    /// The root and the signature, if the claim is a proposal that is returned.
    pub(crate) fn proposal_root(&self) -> Option<(Root, SignatureBytes)> {
        match &self.subject {
            ClaimSubject::Proposal { root, .. } => Some((*root, self.signature)),
            ClaimSubject::Vote { .. } | ClaimSubject::Statement(_) | ClaimSubject::Attribute => None,
        }
    }

    /// The signer, if it is a builder. Its key is among the builders' keys.
    pub(super) fn builder(&self) -> Option<BuilderIndex> {
        match &self.subject {
            ClaimSubject::Statement(Statement::Bid { bid, .. }) => Some(bid.builder_index),
            ClaimSubject::Statement(Statement::PayloadVote { .. } | Statement::InclusionList { .. })
            | ClaimSubject::Vote { .. }
            | ClaimSubject::Proposal { .. }
            | ClaimSubject::Attribute => None,
        }
    }

    pub(crate) fn signature_bytes(&self) -> SignatureBytes {
        self.signature
    }

    pub(crate) fn members(&self) -> &[ValidatorIndex] {
        self.members.as_slice()
    }

    /// The arrival of the earliest message that made this claim.
    pub(crate) fn arrival(&self) -> Time {
        self.heard.at
    }
}

/// `convert_builder_index_to_validator_index`: a number that no validator has. It distinguishes
/// claims.
fn builder_member(builder: BuilderIndex) -> ValidatorIndex {
    const BUILDER_INDEX_FLAG: u64 = 1 << 40;
    ValidatorIndex::new(builder.as_u64() | BUILDER_INDEX_FLAG)
}

/// The signing root of a vote. The domain uses the fork version at the *target's* epoch, whatever
/// the slot is.
fn vote_root(network: &Network, data: &AttestationData, data_root: Root) -> Root {
    signing_root(data_root, network.domain(DomainType::BeaconAttester, data.target.epoch))
}

/// Hash-tree-root of a `uint64`.
fn u64_root(value: u64) -> Root {
    let mut root = Root::ZERO;
    root[..8].copy_from_slice(&value.to_le_bytes());
    root
}
