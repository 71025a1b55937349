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
//!   one peer. The roots that most validators name go first;
//! - votes whose committees are not known are not proven. Anybody can send them, and they bring up
//!   [`UNPROVEN_PER_SLOT`] of these roots, after the others.

use chain::Chain;
use consensus::{Epoch, Root, Slot, ValidatorIndex};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;
use verify::{PeerBytes, Statement, Time, Verified};

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

/// A block that peers are to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedBlock {
    pub root: Root,
    /// Peers that sent messages which name it, the first one first.
    pub senders: Vec<PeerBytes>,
}

/// What happens to a root that was brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    GivenUp,
    Waiting,
    Asked,
}

#[derive(Debug)]
struct NamedBlock {
    /// The slot of the first message that names it.
    slot: Slot,
    since: Time,
    /// Number of signatures that name it. 0 if nothing that names it is proven.
    n_signers: u64,
    senders: Vec<PeerBytes>,
    stage: Stage,
}

/// The roots that were brought up, and what was asked for in the present slot.
#[derive(Debug, Default)]
pub(crate) struct NamedBlocks {
    roots: HashMap<Root, NamedBlock>,
    /// How many roots each validator has brought up in the epoch.
    by_validator: HashMap<ValidatorIndex, u8>,
    epoch: Epoch,
    slot: Slot,
    n_asked: usize,
    n_unproven: usize,
    by_sender: HashMap<Option<PeerBytes>, usize>,
}

impl NamedBlocks {
    /// Notes the roots of unknown blocks that the messages of a batch name.
    pub(crate) fn note(&mut self, verified: &Verified, chain: &Chain, now: Time) {
        self.turn_to(chain);
        for vote in &verified.votes {
            self.name(vote.data.beacon_block_root, vote.data.slot, &vote.indices, vote.heard.peer.as_ref(), chain, now);
        }
        for proposal in &verified.proposals {
            let (header, sender) = (&proposal.header, proposal.heard.peer.as_ref());
            for root in [proposal.root, header.parent_root] {
                self.name(root, header.slot, &[header.proposer_index], sender, chain, now);
            }
        }
        for stated in &verified.statements {
            let (root, slot, signer) = match &stated.statement {
                Statement::PayloadVote { validator, data, .. } => (data.beacon_block_root, data.slot, Some(*validator)),
                // The signer of a bid is a builder, and anybody can be one.
                Statement::Bid { bid, .. } => (bid.parent_block_root, bid.slot, None),
                Statement::InclusionList { .. } => continue,
            };
            self.name(root, slot, signer.as_slice(), stated.heard.peer.as_ref(), chain, now);
        }
        for vote in &verified.unproven {
            self.name(vote.block, vote.slot, &[], vote.heard.peer.as_ref(), chain, now);
        }
    }

    fn name(&mut self, root: Root, slot: Slot, signers: &[ValidatorIndex], sender: Option<&PeerBytes>, chain: &Chain, now: Time) {
        if root.is_zero() || !is_recent(slot, chain) || chain.has_block(&root) {
            return;
        }
        if !self.roots.contains_key(&root) {
            if !signers.is_empty() && !self.is_allowed(signers) {
                return;
            }
            if self.roots.len() >= MAX_ROOTS && !self.make_room(!signers.is_empty()) {
                return;
            }
            self.roots.insert(root, NamedBlock { slot, since: now, n_signers: 0, senders: Vec::new(), stage: Stage::Waiting });
        }
        let Some(named) = self.roots.get_mut(&root) else { return };
        named.n_signers = named.n_signers.saturating_add(signers.len() as u64);
        if let Some(sender) = sender.filter(|sender| named.senders.len() < MAX_SENDERS && !named.senders.contains(sender)) {
            named.senders.push(sender.clone());
        }
    }

    /// Charges a new root to one of its signers that may bring up one more.
    fn is_allowed(&mut self, signers: &[ValidatorIndex]) -> bool {
        let may = |signer: &&ValidatorIndex| self.by_validator.get(signer).is_none_or(|n| *n < ROOTS_PER_VALIDATOR);
        let Some(signer) = signers.iter().find(may).copied() else { return false };
        *self.by_validator.entry(signer).or_default() += 1;
        true
    }

    /// Forgets the root that matters least: one that was given up, or else the oldest of those with
    /// the fewest signers. A root that nothing proven names displaces only roots of its kind.
    fn make_room(&mut self, is_proven: bool) -> bool {
        let least = self.roots.iter().min_by_key(|(root, named)| (named.stage, named.n_signers, named.since, **root));
        let gone = least.filter(|(_, named)| is_proven || named.n_signers == 0 || named.stage == Stage::GivenUp);
        let Some(root) = gone.map(|(root, _)| *root) else { return false };
        self.roots.remove(&root);
        true
    }

    fn turn_to(&mut self, chain: &Chain) {
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

    /// Returns the blocks that peers are to be asked for now, in the order of their roots.
    pub(crate) fn wanted(&mut self, chain: &Chain, now: Time) -> Vec<WantedBlock> {
        self.turn_to(chain);
        self.roots.retain(|root, named| is_recent(named.slot, chain) && !chain.has_block(root));
        let mut due: Vec<(Reverse<u64>, Time, Root)> = self
            .roots
            .iter()
            .filter(|(_, named)| named.stage == Stage::Waiting && now.since(named.since) >= WAIT)
            .map(|(root, named)| (Reverse(named.n_signers), named.since, *root))
            .collect();
        due.sort_unstable();
        for (Reverse(n_signers), _, root) in due {
            let Some(named) = self.roots.get_mut(&root) else { continue };
            let of_sender = self.by_sender.entry(named.senders.first().cloned()).or_default();
            let is_spent = n_signers == 0 && self.n_unproven >= UNPROVEN_PER_SLOT;
            if is_spent || *of_sender >= ROOTS_PER_SENDER || self.n_asked >= ROOTS_PER_SLOT {
                continue;
            }
            named.stage = Stage::Asked;
            *of_sender += 1;
            self.n_asked += 1;
            self.n_unproven += usize::from(n_signers == 0);
        }
        let asked = self.roots.iter().filter(|(_, named)| named.stage == Stage::Asked);
        let mut wanted: Vec<WantedBlock> =
            asked.map(|(root, named)| WantedBlock { root: *root, senders: named.senders.clone() }).collect();
        wanted.sort_unstable_by_key(|block| block.root);
        wanted
    }

    /// Stops asking for a block that nobody has.
    pub(crate) fn give_up(&mut self, root: &Root) {
        if let Some(named) = self.roots.get_mut(root) {
            named.stage = Stage::GivenUp;
        }
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

    fn roots(wanted: &[WantedBlock]) -> Vec<Root> {
        wanted.iter().map(|block| block.root).collect()
    }

    const DUE: Time = Time(WAIT.as_nanos() as u64);

    #[test]
    fn a_block_is_asked_for_when_it_has_not_come_and_its_senders_are_known() {
        let (chain, mut named) = (chain(), NamedBlocks::default());
        let known = chain.head().root;
        named.note(
            &votes(vec![vote(root(1), 40, &[1], 7), vote(known, 40, &[2], 7), vote(root(1), 40, &[3], 8)]),
            &chain,
            Time(0),
        );
        assert_eq!(named.wanted(&chain, Time(DUE.0 - 1)), [], "it may be on its way");
        let senders = [7u64, 8].map(|peer| PeerBytes::from(peer.to_le_bytes().as_slice())).to_vec();
        assert_eq!(named.wanted(&chain, DUE), [WantedBlock { root: root(1), senders }]);
        named.give_up(&root(1));
        named.note(&votes(vec![vote(root(1), 40, &[4], 9)]), &chain, DUE);
        assert_eq!(named.wanted(&chain, Time(u64::MAX)), [], "nobody has it");
    }

    #[test]
    fn old_and_future_votes_name_nothing() {
        let (mut chain, mut named) = (chain(), NamedBlocks::default());
        chain.tick(Slot::new(200));
        named.note(&votes(vec![vote(root(1), 135, &[1], 7), vote(root(2), 202, &[1], 7)]), &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE), []);
        named.note(&votes(vec![vote(root(3), 136, &[1], 7), vote(root(4), 201, &[1], 7)]), &chain, Time(0));
        assert_eq!(named.wanted(&chain, DUE).len(), 2);
    }

    /// One key signs votes for a thousand invented blocks, and its owner has a hundred peers.
    #[test]
    fn a_key_brings_up_two_blocks_in_an_epoch_whatever_it_signs() {
        let (mut chain, mut named) = (chain(), NamedBlocks::default());
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
        let (mut chain, mut named) = (chain(), NamedBlocks::default());
        named.note(&votes((0..1_000).map(|nth| vote(root(nth), 40, &[nth / 2], nth % 100)).collect()), &chain, Time(0));
        assert_eq!(named.roots.len(), MAX_ROOTS);
        let branch = root(5_000);
        let others: Vec<u64> = (600..610).collect();
        named.note(&votes(vec![vote(branch, 40, &others, 200)]), &chain, Time(0));
        let wanted = named.wanted(&chain, DUE);
        assert_eq!(wanted.len(), ROOTS_PER_SLOT);
        assert!(roots(&wanted).contains(&branch));
        assert_eq!(named.wanted(&chain, Time(2 * DUE.0)).len(), ROOTS_PER_SLOT, "not more in the same slot");
        for root in roots(&wanted) {
            named.give_up(&root);
        }
        chain.tick(Slot::new(41));
        assert_eq!(named.wanted(&chain, Time(3 * DUE.0)).len(), ROOTS_PER_SLOT, "the next slot has a budget of its own");
        // What was given up gives way to new roots.
        named.note(&votes(vec![vote(root(6_000), 41, &[700], 201)]), &chain, Time(0));
        assert!(named.roots.contains_key(&root(6_000)) && named.roots.len() == MAX_ROOTS);
    }

    #[test]
    fn one_peer_uses_up_a_quarter_of_a_slots_budget() {
        let (chain, mut named) = (chain(), NamedBlocks::default());
        named.note(&votes((0..100).map(|nth| vote(root(nth), 40, &[nth], 7)).collect()), &chain, Time(0));
        named.note(&votes(vec![vote(root(500), 40, &[500], 8)]), &chain, Time(1));
        let wanted = named.wanted(&chain, Time(2 * DUE.0));
        assert_eq!(wanted.len(), ROOTS_PER_SENDER + 1);
        assert!(roots(&wanted).contains(&root(500)));
    }

    /// Anybody can send votes whose committees are not known.
    #[test]
    fn what_is_not_proven_comes_last_and_is_little() {
        let (chain, mut named) = (chain(), NamedBlocks::default());
        let unproven = |range: std::ops::Range<u64>| {
            let unproven = range.map(|nth| UnprovenVote { block: root(nth), slot: Slot::new(40), heard: heard(nth) }).collect();
            Verified { unproven, ..Verified::default() }
        };
        for nth in 0..10 {
            named.note(&unproven(nth * 50..(nth + 1) * 50), &chain, Time(0));
        }
        assert_eq!(named.roots.len(), MAX_ROOTS);
        named.note(&votes((1_000..1_002).map(|nth| vote(root(nth), 40, &[nth], nth)).collect()), &chain, Time(0));
        named.note(&unproven(2_000..2_050), &chain, Time(0));
        let wanted = named.wanted(&chain, DUE);
        assert_eq!(wanted.len(), 2 + UNPROVEN_PER_SLOT);
        assert!([1_000, 1_001].iter().all(|nth| roots(&wanted).contains(&root(*nth))), "what is proven displaces the rest");
    }
}
