//! Blocks that signed messages name by their root and that are not here.
//!
//! Clients do not relay the second block of a proposer for one slot. But a vote, a payload vote, a
//! bid, the header of a column and a child block name a block by its root, and the peer that sent
//! such a message probably has the block. [`NamedBlocks`] decides which of these blocks peers are
//! asked for. What they send is judged like any other message.
//!
//! The owner of a key can sign any number of messages with invented roots, so requests are bounded:
//!
//! - a validator brings up [`ROOTS_PER_VALIDATOR`] roots in an epoch;
//! - [`ROOTS_PER_SLOT`] roots are asked for in a slot, [`ROOTS_PER_SENDER`] of them brought up by
//!   one peer. Roots that were asked for in vain go last, and those that most validators name
//!   first;
//! - votes whose committees are not known are not proven. Anybody can send them, and they bring up
//!   [`UNPROVEN_PER_SLOT`] of these roots, after the others.

use chain::Chain;
use consensus::{Epoch, Root, Slot, ValidatorIndex};
use prometheus::IntCounterVec;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use verify::{PeerBytes, Statement, Time, Verified, Verifier};

/// Votes often arrive a little before their block. It is asked for when it has not come by then.
const WAIT: Duration = Duration::from_millis(1_500);
/// Roots that are remembered.
const MAX_ROOTS: usize = 256;
/// Roots are forgotten this many slots after the message that names them: two epochs of mainnet.
const KEPT_SLOTS: u64 = 64;
/// Peers that are remembered for each root.
const MAX_SENDERS: usize = 4;
const ROOTS_PER_VALIDATOR: u8 = 2;
const ROOTS_PER_SLOT: usize = 16;
const ROOTS_PER_SENDER: usize = 4;
const UNPROVEN_PER_SLOT: usize = 4;

/// Signers that are counted for each root.
const MAX_SIGNERS: usize = 64;

/// A block that peers are to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedBlock {
    pub root: Root,
    /// The latest slot of the proven messages that name it, or that of the first message if none is
    /// proven.
    pub slot: Slot,
    /// Whether a proven message names it.
    pub is_proven: bool,
    /// Peers that sent messages which name it, the first one first.
    pub senders: Vec<PeerBytes>,
}

impl WantedBlock {
    /// Whether a block of this slot is of use. A message names a block that is not much older than
    /// it, unless its signer has lost track of the chain or wants us to fetch old blocks.
    pub fn may_be_of(&self, slot: Slot) -> bool {
        slot <= self.slot.saturating_add(1) && self.slot <= slot.saturating_add(KEPT_SLOTS)
    }
}

/// What happens to a root that was brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Asked,
    GivenUp,
}

#[derive(Debug)]
struct NamedBlock {
    /// As in [`WantedBlock::slot`].
    slot: Slot,
    since: Time,
    /// Who signed messages that name it. Nobody, if nothing that names it is proven.
    signers: BTreeSet<ValidatorIndex>,
    senders: Vec<PeerBytes>,
    stage: Stage,
    /// How many times nobody had it.
    n_given_up: u32,
}

impl NamedBlock {
    /// Which roots are asked for first: the smallest.
    fn order(&self) -> (bool, u32, Reverse<usize>, Time) {
        (self.signers.is_empty(), self.n_given_up, Reverse(self.signers.len()), self.since)
    }
}

/// The roots that were brought up, and what was asked for in the present slot.
#[derive(Debug)]
pub(crate) struct NamedBlocks {
    roots: HashMap<Root, NamedBlock>,
    /// How many roots each validator has brought up in the epoch.
    by_validator: HashMap<ValidatorIndex, u8>,
    epoch: Epoch,
    slot: Slot,
    n_asked: usize,
    n_unproven: usize,
    by_sender: HashMap<Option<PeerBytes>, usize>,
    counts: IntCounterVec,
}

impl NamedBlocks {
    /// Outcomes that are counted: the root is asked for, nobody has the block, there is no place
    /// for the root, or its signers have brought up others in this epoch.
    pub(crate) const OUTCOMES: [&str; 4] = ["asked", "given_up", "no_place", "too_many"];

    pub(crate) fn new(counts: IntCounterVec) -> Self {
        Self {
            roots: HashMap::new(),
            by_validator: HashMap::new(),
            epoch: Epoch::new(0),
            slot: Slot::new(0),
            n_asked: 0,
            n_unproven: 0,
            by_sender: HashMap::new(),
            counts,
        }
    }

    /// Notes the roots of unknown blocks that the messages of a batch name.
    pub(crate) fn note(&mut self, verified: &Verified, chain: &Chain, verifier: &Verifier, now: Time) {
        self.begin(chain);
        let is_here = |root: &Root| chain.has_block(root) || verifier.has_proven_block(root);
        let mut note = |root: Root, slot, signers: &[ValidatorIndex], sender| {
            if !root.is_zero() && is_recent(slot, chain) && !is_here(&root) {
                self.note_root(root, slot, signers, sender, now);
            }
        };
        for vote in &verified.votes {
            note(vote.data.beacon_block_root, vote.data.slot, &vote.indices, vote.heard.peer.as_ref());
        }
        for proposal in &verified.proposals {
            let (header, sender) = (&proposal.header, proposal.heard.peer.as_ref());
            for root in [proposal.root, header.parent_root] {
                note(root, header.slot, &[header.proposer_index], sender);
            }
        }
        for stated in &verified.statements {
            let (root, slot, signer) = match &stated.statement {
                Statement::PayloadVote { validator, data, .. } => (data.beacon_block_root, data.slot, Some(*validator)),
                // The signer of a bid is a builder, and anybody can be one.
                Statement::Bid { bid, .. } => (bid.parent_block_root, bid.slot, None),
                Statement::InclusionList { .. } => continue,
            };
            note(root, slot, signer.as_slice(), stated.heard.peer.as_ref());
        }
        for vote in &verified.unproven {
            note(vote.block, vote.slot, &[], vote.heard.peer.as_ref());
        }
    }

    fn note_root(&mut self, root: Root, slot: Slot, signers: &[ValidatorIndex], sender: Option<&PeerBytes>, now: Time) {
        let stage = self.roots.get(&root).map(|named| named.stage);
        // Whoever names a block before it exists must not prevent that it is found later. So
        // another proven message brings it up again, at its signer's expense.
        let is_brought_up = stage.is_none() || (stage == Some(Stage::GivenUp) && !signers.is_empty());
        if is_brought_up {
            if !signers.is_empty() && !self.may_bring_up(signers) {
                return self.count("too_many");
            }
            if stage.is_none() && self.roots.len() >= MAX_ROOTS && !self.make_room(!signers.is_empty()) {
                return self.count("no_place");
            }
            let (signers, senders) = (BTreeSet::new(), Vec::new());
            let new = NamedBlock { slot, since: now, signers, senders, stage: Stage::Waiting, n_given_up: 0 };
            let named = self.roots.entry(root).or_insert(new);
            (named.stage, named.since) = (Stage::Waiting, now);
        }
        let Some(named) = self.roots.get_mut(&root) else { return };
        // Whoever names it first may name a wrong slot.
        if !signers.is_empty() {
            named.slot = named.slot.max(slot);
        }
        let n_free = MAX_SIGNERS.saturating_sub(named.signers.len());
        named.signers.extend(signers.iter().take(n_free));
        if let Some(sender) = sender.filter(|sender| named.senders.len() < MAX_SENDERS && !named.senders.contains(sender)) {
            named.senders.push(sender.clone());
        }
    }

    /// Charges a root to one of its signers that may bring up one more.
    fn may_bring_up(&mut self, signers: &[ValidatorIndex]) -> bool {
        let may = |signer: &&ValidatorIndex| self.by_validator.get(signer).is_none_or(|n| *n < ROOTS_PER_VALIDATOR);
        let Some(signer) = signers.iter().find(may).copied() else { return false };
        *self.by_validator.entry(signer).or_default() += 1;
        true
    }

    /// Forgets the root that matters least: one that was given up, or else the last in the order of
    /// requests. A root that nothing proven names displaces only roots of its kind.
    fn make_room(&mut self, is_proven: bool) -> bool {
        let least = self.roots.iter().max_by_key(|(root, named)| (named.stage == Stage::GivenUp, named.order(), **root));
        let gone = least.filter(|(_, named)| is_proven || named.signers.is_empty() || named.stage == Stage::GivenUp);
        let Some(root) = gone.map(|(root, _)| *root) else { return false };
        self.roots.remove(&root);
        true
    }

    /// Begins a new slot or epoch, with a new budget.
    fn begin(&mut self, chain: &Chain) {
        let slot = chain.now();
        if slot != self.slot {
            (self.slot, self.n_asked, self.n_unproven) = (slot, 0, 0);
            self.by_sender.clear();
        }
        let epoch = slot.epoch(chain.network().preset());
        if epoch != self.epoch {
            self.epoch = epoch;
            self.by_validator.clear();
        }
    }

    /// Returns the blocks that peers are to be asked for now, the most important first.
    pub(crate) fn wanted(&mut self, chain: &Chain, verifier: &Verifier, now: Time) -> Vec<WantedBlock> {
        self.begin(chain);
        let is_here = |root: &Root| chain.has_block(root) || verifier.has_proven_block(root);
        self.roots.retain(|root, named| is_recent(named.slot, chain) && !is_here(root));
        let is_due = |named: &NamedBlock| named.stage == Stage::Waiting && now.since(named.since) >= WAIT;
        let due = self.roots.iter().filter(|(_, named)| is_due(named));
        let mut due: Vec<_> = due.map(|(root, named)| (named.order(), *root)).collect();
        due.sort_unstable();
        for (_, root) in due {
            let Some(named) = self.roots.get_mut(&root) else { continue };
            let is_unproven = named.signers.is_empty();
            let of_sender = self.by_sender.entry(named.senders.first().cloned()).or_default();
            let is_spent = is_unproven && self.n_unproven >= UNPROVEN_PER_SLOT;
            if is_spent || *of_sender >= ROOTS_PER_SENDER || self.n_asked >= ROOTS_PER_SLOT {
                continue;
            }
            named.stage = Stage::Asked;
            *of_sender += 1;
            self.n_asked += 1;
            self.n_unproven += usize::from(is_unproven);
            self.counts.with_label_values(&["asked"]).inc();
        }
        let asked = self.roots.iter().filter(|(_, named)| named.stage == Stage::Asked);
        let mut asked: Vec<_> = asked.map(|(root, named)| (named.order(), *root, named)).collect();
        asked.sort_unstable_by_key(|(order, root, _)| (*order, *root));
        let wanted = asked.into_iter().map(|(_, root, named)| WantedBlock {
            root,
            slot: named.slot,
            is_proven: !named.signers.is_empty(),
            senders: named.senders.clone(),
        });
        wanted.collect()
    }

    /// Stops asking for a block that nobody has.
    pub(crate) fn give_up(&mut self, root: &Root) {
        if let Some(named) = self.roots.get_mut(root) {
            (named.stage, named.n_given_up) = (Stage::GivenUp, named.n_given_up.saturating_add(1));
            self.count("given_up");
        }
    }

    fn count(&self, outcome: &str) {
        self.counts.with_label_values(&[outcome]).inc();
    }
}

/// Whether a message of this slot may name a block that is still of use.
fn is_recent(slot: Slot, chain: &Chain) -> bool {
    slot <= chain.now().saturating_add(1) && chain.now() <= slot.saturating_add(KEPT_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::PubkeyCache;
    use consensus::{AttestationData, Checkpoint, CommitteeIndex, SignatureBytes, Spec};
    use sources::capture::CaptureFile;
    use std::path::Path;
    use std::sync::Arc;
    use verify::{Arrival, FirstSeen, Signed, SourceKind, UnprovenVote, Vote};

    /// A chain in its slot 40.
    fn chain() -> Chain {
        let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
        let spec = Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
        let state = file.first_state().unwrap().unwrap();
        let mut chain = Chain::from_state(spec, &state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap();
        chain.tick(Slot::new(40));
        chain
    }

    fn root(nth: u64) -> Root {
        Root::from(consensus::sha256(&nth.to_le_bytes()))
    }

    fn heard(peer: u64) -> FirstSeen {
        FirstSeen { at: Time(0), source: SourceKind::Gossip, peer: Some(Arc::from(peer.to_le_bytes().as_slice())) }
    }

    fn vote(block: Root, slot: u64, signers: &[u64], peer: u64) -> Signed<Vote> {
        let checkpoint = Checkpoint { epoch: Epoch::new(slot / 32), root: Root::ZERO };
        let slot = Slot::new(slot);
        let data = AttestationData {
            slot,
            index: CommitteeIndex::new(0),
            beacon_block_root: block,
            source: checkpoint,
            target: checkpoint,
        };
        let heard = heard(peer);
        Signed::for_tests(Vote {
            data,
            data_root: root(u64::MAX),
            indices: signers.iter().map(|signer| ValidatorIndex::new(*signer)).collect(),
            arrivals: vec![Arrival { at: heard.at, source: heard.source }; signers.len()],
            signature: SignatureBytes::ZERO,
            shuffling: None,
            signed_with: None,
            heard,
        })
    }

    fn votes(votes: Vec<Signed<Vote>>) -> Verified {
        Verified { votes, ..Verified::default() }
    }

    /// The roots that are named by messages, with an empty verifier.
    struct Named(NamedBlocks, Verifier);

    impl Named {
        fn new() -> Self {
            let counts = IntCounterVec::new(prometheus::Opts::new("named", "named"), &["outcome"]).unwrap();
            Self(NamedBlocks::new(counts), Verifier::new(verify::VerifyConfig::replay()))
        }

        fn note(&mut self, verified: &Verified, chain: &Chain, now: Time) {
            self.0.note(verified, chain, &self.1, now);
        }

        fn wanted(&mut self, chain: &Chain, now: Time) -> Vec<WantedBlock> {
            self.0.wanted(chain, &self.1, now)
        }

        fn roots(&self) -> &HashMap<Root, NamedBlock> {
            &self.0.roots
        }
    }

    fn roots(wanted: &[WantedBlock]) -> Vec<Root> {
        wanted.iter().map(|block| block.root).collect()
    }

    const DUE: Time = Time(WAIT.as_nanos() as u64);

    #[test]
    fn a_block_is_asked_for_when_it_has_not_come_and_its_senders_are_known() {
        let (chain, mut named) = (chain(), Named::new());
        let known = chain.head().root;
        named.note(
            &votes(vec![vote(root(1), 40, &[1], 7), vote(known, 40, &[2], 7), vote(root(1), 40, &[3], 8)]),
            &chain,
            Time(0),
        );
        assert_eq!(named.wanted(&chain, Time(DUE.0 - 1)), [], "it may be on its way");
        let senders = [7u64, 8].map(|peer| PeerBytes::from(peer.to_le_bytes().as_slice())).to_vec();
        let wanted = WantedBlock { root: root(1), slot: Slot::new(40), is_proven: true, senders };
        assert_eq!(named.wanted(&chain, DUE), std::slice::from_ref(&wanted));
        assert!([0, 41].map(|slot| wanted.may_be_of(Slot::new(slot))) == [true, true]);
        assert!(!wanted.may_be_of(Slot::new(42)));
        let late = WantedBlock { slot: Slot::new(65), ..wanted };
        assert!(!late.may_be_of(Slot::new(0)) && late.may_be_of(Slot::new(1)));
    }

    /// A peer names the block before it is published, and nobody has it yet.
    #[test]
    fn a_block_that_nobody_had_is_asked_for_again_when_somebody_else_votes_for_it() {
        let (chain, mut named) = (chain(), Named::new());
        let unproven = vec![UnprovenVote { block: root(1), slot: Slot::new(40), heard: heard(7) }];
        named.note(&Verified { unproven: unproven.clone(), ..Verified::default() }, &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE).len(), 1);
        named.0.give_up(&root(1));
        named.note(&Verified { unproven, ..Verified::default() }, &chain, DUE);
        assert_eq!(named.wanted(&chain, Time(u64::MAX)), [], "not because the same is said again");
        for nth in 0..10 {
            named.note(&votes(vec![vote(root(1), 40, &[4], 9)]), &chain, DUE);
            let n = named.wanted(&chain, Time(u64::MAX)).len();
            assert_eq!(n, usize::from(nth < ROOTS_PER_VALIDATOR), "{nth}: at the voter's expense");
            named.0.give_up(&root(1));
        }
    }

    /// An equivocating proposer has its second block named first, with a slot before it.
    #[test]
    fn a_wrong_slot_of_the_first_message_does_not_make_the_block_useless() {
        let (chain, mut named) = (chain(), Named::new());
        let unproven = vec![UnprovenVote { block: root(1), slot: Slot::new(20), heard: heard(7) }];
        named.note(&Verified { unproven, ..Verified::default() }, &chain, Time(0));
        named.note(&votes(vec![vote(root(1), 38, &[1], 7)]), &chain, Time(0));
        named.note(&votes(vec![vote(root(1), 40, &[2], 8)]), &chain, Time(0));
        assert!(named.wanted(&chain, DUE)[0].may_be_of(Slot::new(40)));
    }

    #[test]
    fn one_signer_counts_once_however_much_it_signs() {
        let (chain, mut named) = (chain(), Named::new());
        named.note(&votes((0..50).map(|nth| vote(root(1), nth, &[1], 7)).collect()), &chain, Time(0));
        named.note(&votes(vec![vote(root(2), 40, &[2, 3], 8)]), &chain, Time(0));
        assert_eq!(roots(&named.wanted(&chain, DUE)), [root(2), root(1)]);
    }

    #[test]
    fn old_and_future_votes_name_nothing() {
        let (mut chain, mut named) = (chain(), Named::new());
        chain.tick(Slot::new(200));
        named.note(&votes(vec![vote(root(1), 135, &[1], 7), vote(root(2), 202, &[1], 7)]), &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE), []);
        named.note(&votes(vec![vote(root(3), 136, &[1], 7), vote(root(4), 201, &[1], 7)]), &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE).len(), 2);
    }

    /// One key signs votes for a thousand invented blocks, and its owner has a hundred peers.
    #[test]
    fn a_key_brings_up_two_blocks_in_an_epoch_whatever_it_signs() {
        let (mut chain, mut named) = (chain(), Named::new());
        named.note(&votes((0..1_000).map(|nth| vote(root(nth), 40, &[5], nth % 100)).collect()), &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE).len(), usize::from(ROOTS_PER_VALIDATOR));
        chain.tick(Slot::new(41));
        named.note(&votes((2_000..3_000).map(|nth| vote(root(nth), 41, &[5], nth % 100)).collect()), &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE).len(), usize::from(ROOTS_PER_VALIDATOR));
    }

    /// An attacker with five hundred keys and a hundred peers names a thousand invented blocks. A
    /// branch that ten others vote for is asked for first.
    #[test]
    fn a_thousand_invented_blocks_use_up_no_more_than_the_budget_of_each_slot() {
        let (mut chain, mut named) = (chain(), Named::new());
        named.note(&votes((0..1_000).map(|nth| vote(root(nth), 40, &[nth / 2], nth % 100)).collect()), &chain, Time(0));
        assert_eq!(named.roots().len(), MAX_ROOTS);
        let branch = root(5_000);
        let others: Vec<u64> = (600..610).collect();
        named.note(&votes(vec![vote(branch, 40, &others, 200)]), &chain, Time(0));
        let wanted = named.wanted(&chain, DUE);
        assert_eq!(wanted.len(), ROOTS_PER_SLOT);
        assert!(roots(&wanted).contains(&branch));
        assert_eq!(named.wanted(&chain, Time(2 * DUE.0)).len(), ROOTS_PER_SLOT, "not more in the same slot");
        for root in roots(&wanted) {
            named.0.give_up(&root);
        }
        chain.tick(Slot::new(41));
        assert_eq!(named.wanted(&chain, Time(3 * DUE.0)).len(), ROOTS_PER_SLOT, "the next slot has a budget of its own");
        // What was given up gives way to new roots.
        named.note(&votes(vec![vote(root(6_000), 41, &[700], 201)]), &chain, Time(0));
        assert!(named.roots().contains_key(&root(6_000)) && named.roots().len() == MAX_ROOTS);
    }

    #[test]
    fn one_peer_uses_up_a_quarter_of_a_slots_budget() {
        let (chain, mut named) = (chain(), Named::new());
        named.note(&votes((0..100).map(|nth| vote(root(nth), 40, &[nth], 7)).collect()), &chain, Time(0));
        named.note(&votes(vec![vote(root(500), 40, &[500], 8)]), &chain, Time(1));
        let wanted = named.wanted(&chain, Time(2 * DUE.0));
        assert_eq!(wanted.len(), ROOTS_PER_SENDER + 1);
        assert!(roots(&wanted).contains(&root(500)));
    }

    /// Anybody can send votes whose committees are not known.
    #[test]
    fn what_is_not_proven_comes_last_and_is_little() {
        let (chain, mut named) = (chain(), Named::new());
        let unproven = |range: std::ops::Range<u64>| {
            let unproven = range.map(|nth| UnprovenVote { block: root(nth), slot: Slot::new(40), heard: heard(nth) }).collect();
            Verified { unproven, ..Verified::default() }
        };
        for nth in 0..10 {
            named.note(&unproven(nth * 50..(nth + 1) * 50), &chain, Time(0));
        }
        assert_eq!(named.roots().len(), MAX_ROOTS);
        named.note(&votes((1_000..1_002).map(|nth| vote(root(nth), 40, &[nth], nth)).collect()), &chain, Time(0));
        named.note(&unproven(2_000..2_050), &chain, Time(0));
        let wanted = named.wanted(&chain, DUE);
        assert_eq!(wanted.len(), 2 + UNPROVEN_PER_SLOT);
        assert!([1_000, 1_001].iter().all(|nth| roots(&wanted).contains(&root(*nth))), "what is proven displaces the rest");
    }
}
