//! Asks peers for blocks that signed messages name and that gossip has not brought
//! (`engine::WantedBlock`): first the peers that sent such messages, then others.
//!
//! Two blocks are asked for at the same time, and only one of them may be named by nothing but
//! votes that are not proven. How often a peer may be asked, and what a slow or empty answer costs
//! it, is decided where the requests are sent (`sources::gossip::BlockClient`). Whether a block is
//! genuine, and what a false one costs its sender, the verifier decides, as with any other message.

use crate::engine_thread::Input;
use crate::inputs::Inputs;
use consensus::Root;
use engine::WantedBlock;
use sources::gossip::{BlockClient, NoAnswer, PeerBlock, PeerId};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Blocks that are asked for at the same time.
const AT_ONCE: usize = 2;
/// Peers that are asked in one round, beside those that sent messages which name the block.
const OTHERS_ASKED: usize = 4;
/// Rounds of questions after which the block is given up.
const ROUNDS: u32 = 3;
/// Time between two rounds.
const NEXT_ROUND: Duration = Duration::from_secs(20);
/// How long to wait while the peers that could be asked have been asked for much already.
const LATER: Duration = Duration::from_secs(2);
/// How long the engine may take to prove a block. If it is still wanted then, another peer is
/// asked.
const PROOF_TIME: Duration = Duration::from_secs(10);

/// The task, with what it needs.
pub struct NamedBlocksTask {
    pub peers: BlockClient,
    pub queue: Inputs,
}

/// How far the search for one block is.
#[derive(Debug)]
struct Search {
    senders: Vec<PeerId>,
    /// The peers that were asked in this round.
    asked: Vec<PeerId>,
    rounds: u32,
    not_before: Instant,
    is_running: bool,
}

/// The answer to one request.
type Answered = (WantedBlock, Result<(PeerId, Vec<PeerBlock>), NoAnswer>);

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The search goes on.
    Search,
    /// Nobody has the block.
    GiveUp,
}

impl Search {
    fn new(wanted: &WantedBlock, now: Instant) -> Self {
        Self { senders: senders(wanted), asked: Vec::new(), rounds: 0, not_before: now, is_running: false }
    }

    /// The sender to ask next. `None`: all were asked in this round.
    fn next_sender(&self) -> Option<PeerId> {
        self.senders.iter().find(|sender| !self.asked.contains(sender)).copied()
    }

    /// Takes the answer of one request. `sender` is the peer that was meant, if one was.
    fn answered(&mut self, answer: &Result<(PeerId, Vec<PeerBlock>), NoAnswer>, sender: Option<PeerId>, now: Instant) -> Next {
        match answer {
            Ok((peer, blocks)) if !blocks.is_empty() => {
                self.not_before = now + PROOF_TIME;
                self.asked.push(*peer);
            }
            Ok((peer, _)) | Err(NoAnswer::Failed(peer)) => self.asked.push(*peer),
            // A sender that cannot be asked now must not keep others from being asked.
            Err(NoAnswer::Later | NoAnswer::NoPeer) if sender.is_some() => self.asked.extend(sender),
            Err(NoAnswer::Later) => self.not_before = now + LATER,
            Err(NoAnswer::NoPeer) => return self.end_round(now),
        }
        if self.asked.len() >= self.senders.len() + OTHERS_ASKED { self.end_round(now) } else { Next::Search }
    }

    fn end_round(&mut self, now: Instant) -> Next {
        // If nobody could be asked, nobody lacks the block.
        self.rounds += u32::from(!self.asked.is_empty());
        self.asked.clear();
        self.not_before = self.not_before.max(now + NEXT_ROUND);
        if self.rounds >= ROUNDS { Next::GiveUp } else { Next::Search }
    }
}

impl NamedBlocksTask {
    /// Runs until cancelled.
    pub async fn run(self, wanted: watch::Receiver<Vec<WantedBlock>>, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow(wanted)).await;
    }

    async fn follow(self, mut wanted: watch::Receiver<Vec<WantedBlock>>) {
        let mut searches: HashMap<Root, Search> = HashMap::new();
        let mut running: JoinSet<(Option<PeerId>, Answered)> = JoinSet::new();
        let mut again = tokio::time::interval(LATER);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                _ = again.tick() => {}
                Some(done) = running.join_next() => {
                    let Ok((sender, (block, answer))) = done else { continue };
                    let root = block.root;
                    let mut next = searches.get_mut(&root).map(|search| {
                        search.is_running = false;
                        search.answered(&answer, sender, Instant::now())
                    });
                    for found in answer.into_iter().flat_map(|(_, blocks)| blocks) {
                        tracing::debug!(%root, slot = %found.slot, peer = %found.peer, "a block that messages name");
                        if block.may_be_of(found.slot) {
                            let _ = self.queue.send(Input::Message(found.message)).await;
                        } else {
                            next = Some(Next::GiveUp);
                        }
                    }
                    if next == Some(Next::GiveUp) {
                        tracing::debug!(%root, "nobody has a block that messages name, or it is far too old");
                        searches.remove(&root);
                        let _ = self.queue.send(Input::NoNamedBlock(root)).await;
                    }
                }
            }
            self.start(&wanted.borrow_and_update(), &mut searches, &mut running);
        }
    }

    /// Sends the next requests.
    fn start(
        &self,
        wanted: &[WantedBlock],
        searches: &mut HashMap<Root, Search>,
        running: &mut JoinSet<(Option<PeerId>, Answered)>,
    ) {
        let now = Instant::now();
        searches.retain(|root, search| search.is_running || wanted.iter().any(|block| block.root == *root));
        let mut n_unproven = wanted.iter().filter(|block| !block.is_proven && is_running(searches, &block.root)).count();
        for block in wanted {
            let search = searches.entry(block.root).or_insert_with(|| Search::new(block, now));
            search.senders = senders(block);
            let is_too_much = running.len() >= AT_ONCE || (!block.is_proven && n_unproven > 0);
            if search.is_running || search.not_before > now || is_too_much {
                continue;
            }
            n_unproven += usize::from(!block.is_proven);
            search.is_running = true;
            let (peers, block, sender, asked) = (self.peers.clone(), block.clone(), search.next_sender(), search.asked.clone());
            running.spawn(async move {
                let answer = match sender {
                    Some(sender) => peers.by_root_from(sender, block.root).await,
                    None => peers.by_root(&[block.root], &asked).await,
                };
                (sender, (block, answer))
            });
        }
    }
}

fn is_running(searches: &HashMap<Root, Search>, root: &Root) -> bool {
    searches.get(root).is_some_and(|search| search.is_running)
}

fn senders(wanted: &WantedBlock) -> Vec<PeerId> {
    wanted.senders.iter().filter_map(|sender| PeerId::from_bytes(sender).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::Slot;

    fn wanted(senders: &[PeerId]) -> WantedBlock {
        let senders = senders.iter().map(|peer| peer.to_bytes().into()).collect();
        WantedBlock { root: Root::repeat_byte(1), slot: Slot::new(1), is_proven: true, senders }
    }

    #[test]
    fn senders_are_asked_first_and_then_a_few_others_three_times() {
        let [first, second]: [PeerId; 2] = std::array::from_fn(|_| PeerId::random());
        let mut now = Instant::now();
        let mut search = Search::new(&wanted(&[first, second]), now);
        for round in 1..=ROUNDS {
            assert_eq!(search.next_sender(), Some(first));
            // It has left, or it makes us wait.
            let none = [NoAnswer::NoPeer, NoAnswer::Later][round as usize % 2];
            assert_eq!(search.answered(&Err(none), Some(first), now), Next::Search);
            assert_eq!(search.next_sender(), Some(second), "and that holds nobody up");
            assert_eq!(search.answered(&Ok((second, Vec::new())), search.next_sender(), now), Next::Search);
            assert_eq!(search.next_sender(), None);
            for nth in 1..OTHERS_ASKED {
                assert_eq!(search.answered(&Err(NoAnswer::Failed(PeerId::random())), None, now), Next::Search, "{nth}");
            }
            let last = search.answered(&Ok((PeerId::random(), Vec::new())), None, now);
            assert_eq!(last, if round == ROUNDS { Next::GiveUp } else { Next::Search });
            assert!(search.not_before >= now + NEXT_ROUND);
            now += NEXT_ROUND;
        }
    }

    #[test]
    fn a_block_is_not_given_up_because_nobody_is_connected() {
        let now = Instant::now();
        let mut search = Search::new(&wanted(&[]), now);
        for _ in 0..3 * ROUNDS {
            assert_eq!(search.answered(&Err(NoAnswer::NoPeer), None, now), Next::Search);
        }
        assert_eq!(search.answered(&Err(NoAnswer::Later), None, now + NEXT_ROUND), Next::Search);
        assert_eq!(search.not_before, now + NEXT_ROUND + LATER);
    }
}
