//! Asks peers for blocks that signed messages name and that gossip has not brought
//! (`engine::WantedBlock`): first the peers that sent such messages, then others.
//!
//! A peer that holds an answer back delays only the block that it was asked for: two are asked for
//! at the same time, and each by its own request. How often a peer may be asked at all is decided
//! where the requests are sent (`sources::gossip::BlockClient`).

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
/// How long the engine may take to prove a block. If it is still wanted then, its proposer has not
/// signed it.
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
    sent_by: Option<PeerId>,
}

/// The answer to one request.
type Answered = (Root, Result<(PeerId, Vec<PeerBlock>), NoAnswer>);

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
        let senders = wanted.senders.iter().filter_map(|sender| PeerId::from_bytes(sender).ok()).collect();
        Self { senders, asked: Vec::new(), rounds: 0, not_before: now, is_running: false, sent_by: None }
    }

    /// The sender to ask next. `None`: all were asked in this round.
    fn next_sender(&self) -> Option<PeerId> {
        self.senders.iter().find(|sender| !self.asked.contains(sender)).copied()
    }

    /// Takes the answer of one request. `sender` is the peer that was meant, if one was.
    fn answered(&mut self, answer: &Result<(PeerId, Vec<PeerBlock>), NoAnswer>, sender: Option<PeerId>, now: Instant) -> Next {
        match answer {
            Ok((peer, blocks)) if !blocks.is_empty() => {
                (self.sent_by, self.not_before) = (Some(*peer), now + PROOF_TIME);
                self.asked.push(*peer);
            }
            Ok((peer, _)) | Err(NoAnswer::Failed(peer)) => self.asked.push(*peer),
            Err(NoAnswer::Later) => self.not_before = now + LATER,
            Err(NoAnswer::NoPeer) => match sender {
                Some(sender) => self.asked.push(sender),
                None => return self.end_round(now),
            },
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
                    let Ok((sender, (root, answer))) = done else { continue };
                    let next = searches.get_mut(&root).map(|search| {
                        search.is_running = false;
                        search.answered(&answer, sender, Instant::now())
                    });
                    for block in answer.into_iter().flat_map(|(_, blocks)| blocks) {
                        tracing::debug!(%root, slot = %block.slot, peer = %block.peer, "a block that messages name");
                        let _ = self.queue.send(Input::Message(block.message)).await;
                    }
                    if next == Some(Next::GiveUp) {
                        tracing::debug!(%root, "nobody has a block that messages name; it is not requested again");
                        let _ = self.queue.send(Input::NoBlock(root)).await;
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
        for block in wanted {
            let search = searches.entry(block.root).or_insert_with(|| Search::new(block, now));
            if search.is_running || search.not_before > now || running.len() >= AT_ONCE {
                continue;
            }
            // The root of a block does not depend on its signature, so a block that is still wanted
            // was not signed by its proposer.
            if let Some(peer) = search.sent_by.take() {
                self.peers.blame(peer);
            }
            search.is_running = true;
            let (peers, root, sender, asked) = (self.peers.clone(), block.root, search.next_sender(), search.asked.clone());
            running.spawn(async move {
                let answer = match sender {
                    Some(sender) => peers.by_root_from(sender, root).await,
                    None => peers.by_root(&[root], &asked).await,
                };
                (sender, (root, answer))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_asked_first_and_then_a_few_others_three_times() {
        let [first, second]: [PeerId; 2] = std::array::from_fn(|_| PeerId::random());
        let senders = [first, second].map(|peer| peer.to_bytes().into()).to_vec();
        let mut now = Instant::now();
        let mut search = Search::new(&WantedBlock { root: Root::repeat_byte(1), senders }, now);
        for round in 1..=ROUNDS {
            assert_eq!(search.next_sender(), Some(first));
            assert_eq!(search.answered(&Err(NoAnswer::NoPeer), Some(first), now), Next::Search, "it has left");
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
        let mut search = Search::new(&WantedBlock { root: Root::repeat_byte(1), senders: Vec::new() }, now);
        for _ in 0..3 * ROUNDS {
            assert_eq!(search.answered(&Err(NoAnswer::NoPeer), None, now), Next::Search);
        }
        assert_eq!(search.answered(&Err(NoAnswer::Later), None, now + NEXT_ROUND), Next::Search);
        assert_eq!(search.not_before, now + NEXT_ROUND + LATER);
    }
}
