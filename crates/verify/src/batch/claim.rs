//! Who claims to have signed what. Signing roots are computed here, from the very thing that becomes [`crate::Signed`].

use crate::{Heard, PeerBytes, SourceKind, Statement, UnixNs};
use consensus::{
    AttestationData, BeaconBlockHeader, BuilderIndex, CommitteeIndex, DomainType, Epoch, ForkName, Network, Root, Shuffling,
    ShufflingId, SignatureBytes, Slot, ValidatorIndex, sha256, signing_root,
};
use std::sync::Arc;

/// The claimed signers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Members {
    One(ValidatorIndex),
    /// Ascending, unique, not empty.
    Many(Vec<ValidatorIndex>),
}

impl Members {
    /// `None` unless they are ascending and unique, and there are some.
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

/// What is signed.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Vote {
        data: AttestationData,
        data_root: Root,
        shuffling: Option<Arc<Shuffling>>,
        /// Set for singles: which other singles it may be summed with.
        merges: Option<MergeKey>,
    },
    Proposal {
        header: BeaconBlockHeader,
        root: Root,
    },
    /// Its member is the validator that says it, or stands for a builder, whose key is then looked up as one ([`builder_member`]).
    Statement(Statement),
    /// Nothing comes of it by itself: randao reveals, selection proofs, what is proven a second time.
    Attribute,
}

/// Singles over equal data with equal keys here become one vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum MergeKey {
    /// Of one committee, at their true seats.
    Seat(ShufflingId, CommitteeIndex),
    /// Out of their committee, or its shuffling is not known.
    Listed,
}

/// Which version a claim's signature is checked with: the one that is scheduled at the epoch it is about, unless that fork is still to come.
/// Until then a chain takes what is signed with today's version, so that one is tried as well, and nobody is blamed if neither holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Scheduled,
    /// The scheduled one first, then this fork's.
    InDoubt(ForkName, Root),
    /// As before, but its sender has had its share of what holds with neither: not tried.
    GivenUp,
    /// This fork's, and not the scheduled one.
    Of(ForkName),
}

/// A claim: these validators signed this.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(super) subject: Subject,
    pub(super) signing_root: Root,
    pub(super) members: Members,
    pub(super) signature: SignatureBytes,
    pub(super) heard: Heard,
    pub(super) version: Version,
    /// Of the block that carries it: its state checked the signature.
    pub(super) block_epoch: Option<Epoch>,
}

impl Claim {
    /// It is in a block of this epoch.
    pub(crate) fn in_block_of(mut self, epoch: Option<Epoch>) -> Self {
        self.block_epoch = epoch;
        self
    }

    /// Finds out whether its version is in doubt, as of the epoch `now`.
    pub(crate) fn consider_versions(&mut self, network: &Network, now: Epoch) {
        let (kind, epoch, object) = match &self.subject {
            Subject::Vote { data, data_root, .. } => (DomainType::BeaconAttester, data.target.epoch, *data_root),
            Subject::Proposal { header, root } => (DomainType::BeaconProposer, header.slot.epoch(network.preset()), *root),
            Subject::Statement(_) | Subject::Attribute => return,
        };
        let now = self.block_epoch.unwrap_or(now);
        if network.spec.is_version_uncertain(epoch, now) {
            let fork = network.spec.fork_at(now);
            self.version = Version::InDoubt(fork.name, signing_root(object, network.domain_of(kind, fork.version)));
        }
    }

    pub(crate) fn is_version_in_doubt(&self) -> bool {
        matches!(self.version, Version::InDoubt(..))
    }

    /// It is not tried at all.
    pub(crate) fn give_up(&mut self) {
        self.version = Version::GivenUp;
    }

    /// The same, signed with the other version that is possible.
    pub(super) fn with_other_version(&self) -> Option<Self> {
        let Version::InDoubt(fork, signing_root) = self.version else { return None };
        Some(Self { signing_root, version: Version::Of(fork), ..self.clone() })
    }

    /// The fork whose version it was found to be signed with, where that is not the scheduled one.
    pub(crate) fn signed_with(&self) -> Option<ForkName> {
        match self.version {
            Version::Of(fork) => Some(fork),
            Version::Scheduled | Version::InDoubt(..) | Version::GivenUp => None,
        }
    }

    /// One validator's own vote. `shuffling` must be of the target epoch; whether it sits at `data.slot` is looked up.
    pub(crate) fn single(
        network: &Network,
        data: AttestationData,
        data_root: Root,
        validator: ValidatorIndex,
        signature: SignatureBytes,
        shuffling: Option<Arc<Shuffling>>,
        heard: Heard,
    ) -> Self {
        let seat = shuffling.as_ref().and_then(|s| s.seat(validator)).filter(|seat| seat.slot == data.slot);
        let shuffling = shuffling.filter(|_| seat.is_some());
        let merges = match (&shuffling, seat) {
            (Some(shuffling), Some(seat)) => MergeKey::Seat(shuffling.id(), seat.committee),
            (None, _) | (_, None) => MergeKey::Listed,
        };
        Self {
            subject: Subject::Vote { data, data_root, shuffling, merges: Some(merges) },
            signing_root: vote_root(network, &data, data_root),
            members: Members::One(validator),
            signature,
            heard,
            version: Version::Scheduled,
            block_epoch: None,
        }
    }

    /// A sum that somebody else made. `shuffling`: one in which every member sits at `data.slot`, if known.
    pub(crate) fn aggregate(
        network: &Network,
        data: AttestationData,
        data_root: Root,
        members: Members,
        signature: SignatureBytes,
        shuffling: Option<Arc<Shuffling>>,
        heard: Heard,
    ) -> Self {
        Self {
            subject: Subject::Vote { data, data_root, shuffling, merges: None },
            signing_root: vote_root(network, &data, data_root),
            members,
            signature,
            heard,
            version: Version::Scheduled,
            block_epoch: None,
        }
    }

    /// A header, signed by the proposer it names. Domain of the fork at its slot.
    pub(crate) fn proposal(
        network: &Network,
        header: BeaconBlockHeader,
        root: Root,
        signature: SignatureBytes,
        heard: Heard,
    ) -> Self {
        let domain = network.domain(DomainType::BeaconProposer, header.slot.epoch(network.preset()));
        Self {
            subject: Subject::Proposal { header, root },
            signing_root: signing_root(root, domain),
            members: Members::One(header.proposer_index),
            signature,
            heard,
            version: Version::Scheduled,
            block_epoch: None,
        }
    }

    /// Domain of the fork at its slot.
    pub(crate) fn statement(network: &Network, statement: Statement, signature: SignatureBytes, heard: Heard) -> Self {
        let (kind, member) = match &statement {
            Statement::PayloadVote { validator, .. } => (DomainType::PtcAttester, *validator),
            Statement::Bid { bid, .. } => (DomainType::BeaconBuilder, builder_member(bid.builder_index)),
            Statement::InclusionList { list, .. } => (DomainType::InclusionListCommittee, list.validator_index),
        };
        let domain = network.domain(kind, statement.slot().epoch(network.preset()));
        Self {
            signing_root: signing_root(statement.root(), domain),
            subject: Subject::Statement(statement),
            members: Members::One(member),
            signature,
            heard,
            version: Version::Scheduled,
            block_epoch: None,
        }
    }

    pub(crate) fn randao_reveal(
        network: &Network,
        proposer: ValidatorIndex,
        epoch: Epoch,
        signature: SignatureBytes,
        heard: Heard,
    ) -> Self {
        let domain = network.domain(DomainType::Randao, epoch);
        Self::attribute(u64_root(epoch.as_u64()), domain, proposer, signature, heard)
    }

    pub(crate) fn selection_proof(
        network: &Network,
        aggregator: ValidatorIndex,
        slot: Slot,
        signature: SignatureBytes,
        heard: Heard,
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
        heard: Heard,
    ) -> Self {
        let domain = network.domain(DomainType::AggregateAndProof, slot.epoch(network.preset()));
        Self::attribute(message_root, domain, aggregator, signature, heard)
    }

    fn attribute(object_root: Root, domain: [u8; 32], signer: ValidatorIndex, signature: SignatureBytes, heard: Heard) -> Self {
        Self {
            subject: Subject::Attribute,
            signing_root: signing_root(object_root, domain),
            members: Members::One(signer),
            signature,
            heard,
            version: Version::Scheduled,
            block_epoch: None,
        }
    }

    /// What tells claims apart, beside the members.
    pub(crate) fn content(&self) -> (Root, SignatureBytes) {
        (self.signing_root, self.signature)
    }

    /// Who and what, in one hash: the same again has the same judgement.
    pub(crate) fn fingerprint(&self) -> Root {
        let mut bytes = self.signing_root.to_vec();
        bytes.extend_from_slice(self.signature.as_slice());
        for member in self.members() {
            bytes.extend_from_slice(&member.as_u64().to_le_bytes());
        }
        Root::from(sha256(&bytes))
    }

    /// Whose merit or fault it is: the peer that sent a vote or block on its own topic. What is inside others' blocks, and what only
    /// a full node checks before it forwards, says nothing about who forwarded it.
    pub(crate) fn answerable(&self) -> Option<&PeerBytes> {
        match (&self.subject, self.heard.source) {
            (Subject::Vote { .. } | Subject::Proposal { .. } | Subject::Statement(_), SourceKind::Gossip) => {
                self.heard.peer.as_ref()
            }
            (Subject::Vote { .. } | Subject::Proposal { .. } | Subject::Statement(_) | Subject::Attribute, _) => None,
        }
    }

    /// Whose budget it takes while a fork is to come: the peer that sent it on its own topic, as
    /// part of a slashing operation also. What a block carries is bounded by the block.
    pub(crate) fn doubtful_sender(&self) -> Option<&PeerBytes> {
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
        if matches!(self.subject, Subject::Attribute) {
            self.subject = other.subject;
        }
        // What a block of an earlier epoch carries was checked with that epoch's version.
        self.block_epoch = self.block_epoch.into_iter().chain(other.block_epoch).min();
    }

    /// The data and its root, if it is a vote that is given out.
    pub(crate) fn vote(&self) -> Option<(Root, &AttestationData)> {
        match &self.subject {
            Subject::Vote { data, data_root, .. } => Some((*data_root, data)),
            Subject::Proposal { .. } | Subject::Statement(_) | Subject::Attribute => None,
        }
    }

    /// Root and signature, if it is a proposal that is given out.
    pub(crate) fn proposal_root(&self) -> Option<(Root, SignatureBytes)> {
        match &self.subject {
            Subject::Proposal { root, .. } => Some((*root, self.signature)),
            Subject::Vote { .. } | Subject::Statement(_) | Subject::Attribute => None,
        }
    }

    /// Its signer, where that is a builder: its key is among the builders'.
    pub(super) fn builder(&self) -> Option<BuilderIndex> {
        match &self.subject {
            Subject::Statement(Statement::Bid { bid, .. }) => Some(bid.builder_index),
            Subject::Statement(Statement::PayloadVote { .. } | Statement::InclusionList { .. })
            | Subject::Vote { .. }
            | Subject::Proposal { .. }
            | Subject::Attribute => None,
        }
    }

    pub(crate) fn signature_bytes(&self) -> SignatureBytes {
        self.signature
    }

    pub(crate) fn members(&self) -> &[ValidatorIndex] {
        self.members.as_slice()
    }

    /// Of the earliest message that made it.
    pub(crate) fn arrival(&self) -> UnixNs {
        self.heard.at
    }
}

/// `convert_builder_index_to_validator_index`: a number that no validator has, to tell claims apart by.
fn builder_member(builder: BuilderIndex) -> ValidatorIndex {
    const BUILDER_INDEX_FLAG: u64 = 1 << 40;
    ValidatorIndex::new(builder.as_u64() | BUILDER_INDEX_FLAG)
}

/// Domain by the fork version at the *target's* epoch, whatever the slot says.
fn vote_root(network: &Network, data: &AttestationData, data_root: Root) -> Root {
    signing_root(data_root, network.domain(DomainType::BeaconAttester, data.target.epoch))
}

/// Hash-tree-root of a `uint64`.
fn u64_root(value: u64) -> Root {
    let mut root = Root::ZERO;
    root[..8].copy_from_slice(&value.to_le_bytes());
    root
}
