//! Blocks that are sent to peers and received from them, and how much is sent to whom.
//!
//! What a peer may have is counted in blocks and bytes, in buckets that fill up again with time:
//! one bucket for each peer, one for each address prefix, and one for all. The same holds for the
//! answers under way, which a peer can prolong by reading slowly. A request that does not fit is
//! refused before anything is read from disk. Clients ask for 64 blocks at a time when they sync,
//! so a bucket holds two of the greatest requests of mainnet.

use super::messages::{BlockQuery, DataProtocol, Response};
use crate::block_store::{BlockLocation, BlockStore};
use consensus::{ForkDigest, ForkName, MAX_PAYLOAD_SIZE};
use std::io;
use std::time::{Duration, Instant};

/// Greatest length of a block's SSZ in bytes.
pub(super) const MAX_BLOCK_LEN: usize = MAX_PAYLOAD_SIZE;
/// No further block is read from an answer that has this many bytes. With the last block it may
/// have [`MAX_BLOCK_LEN`] more.
pub(super) const MAX_RESPONSE_BYTES: usize = 8 << 20;
/// `MAX_REQUEST_BLOCKS_DENEB`. It was 1024 before Deneb, but no client asks for more.
const MAX_REQUEST_BLOCKS: u64 = 128;
/// Greatest number of bytes of one answer. Further blocks are left out, which the specification
/// allows.
const MAX_SERVED_BYTES: usize = 32 << 20;
/// Answers that may be under way at the same time.
const MAX_SERVING: usize = 32;
/// The same to peers of one address prefix, who may all be one.
const MAX_SERVING_PREFIX: usize = 4;
/// The same to one peer, of requests by range and of requests by root. `MAX_CONCURRENT_REQUESTS`.
const MAX_SERVING_PEER: usize = 2;

/// A block as a peer sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gossip) struct BlockChunk {
    pub digest: ForkDigest,
    pub ssz: Vec<u8>,
}

/// The blocks of an answer. They are read one by one while they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gossip) struct ServedBlocks {
    pub store: BlockStore,
    pub blocks: Vec<BlockLocation>,
}

impl ServedBlocks {
    /// Finds the blocks of a request. `None` if the request is about blocks that this node does not
    /// advertise. An answer without blocks is right if the slots are empty or after the head.
    /// `fork_of` gives the fork of a digest.
    pub fn find(
        store: &BlockStore,
        protocol: DataProtocol,
        query: &BlockQuery,
        fork_of: impl Fn(ForkDigest) -> Option<ForkName>,
    ) -> Option<Self> {
        let mut blocks = match query {
            BlockQuery::Range { start, count } => store.range(*start, (*count).min(MAX_REQUEST_BLOCKS))?,
            BlockQuery::Roots(roots) => {
                let roots = &roots[..roots.len().min(MAX_REQUEST_BLOCKS as usize)];
                Some(store.by_root(roots)).filter(|blocks| !blocks.is_empty())?
            }
        };
        let mut n_bytes = 0;
        let n_fit = blocks.iter().take_while(|block| {
            n_bytes += block.chunk_len();
            n_bytes <= MAX_SERVED_BYTES
        });
        blocks.truncate(n_fit.count());
        // The first version of the requests has no room for a fork, so it carries blocks of the
        // first fork only.
        if matches!(protocol, DataProtocol::BlocksByRangeV1 | DataProtocol::BlocksByRootV1) {
            blocks.retain(|block| fork_of(block.digest) == Some(ForkName::Phase0));
            if blocks.is_empty() {
                return None;
            }
        }
        Some(Self { store: store.clone(), blocks })
    }

    pub fn n_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.chunk_len() as u64).sum()
    }

    pub fn response(self) -> Response {
        if self.blocks.is_empty() { Response::Nothing } else { Response::Served(self) }
    }

    /// Reads one block, on a thread for work that waits.
    pub(super) async fn read(&self, block: BlockLocation) -> io::Result<Vec<u8>> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.read(&block)).await.map_err(io::Error::other)?
    }
}

/// Units that are used up and come back with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    filled_at: Instant,
    capacity: f64,
    per_second: f64,
}

impl Bucket {
    fn new(capacity: u64, full_after: Duration, now: Instant) -> Self {
        let capacity = capacity as f64;
        Self { level: capacity, filled_at: now, capacity, per_second: capacity / full_after.as_secs_f64() }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.capacity);
        self.filled_at = now;
    }

    fn has(&self, n: u64) -> bool {
        n as f64 <= self.level
    }
}

/// Answers that are under way.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gossip) struct UnderWay {
    pub all: usize,
    /// To peers of the same address prefix.
    pub of_prefix: usize,
    /// To the same peer and of the same kind.
    pub of_peer: usize,
}

/// Whose limit a request is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gossip) enum TooMuch {
    /// The peer's own.
    OfPeer,
    /// One that it shares with others, who may have used it up.
    Shared,
}

/// What may still be sent: to one peer, to one address prefix, or to all together.
#[derive(Clone, Copy, Debug)]
pub(in crate::gossip) struct ServingBudget {
    blocks: Bucket,
    bytes: Bucket,
}

impl ServingBudget {
    /// The time after which an empty bucket is full again.
    const FULL_AFTER: Duration = Duration::from_secs(20);

    /// For one peer: two of the greatest requests in 20 s. Lighthouse itself allows half of that.
    pub fn of_peer(now: Instant) -> Self {
        Self {
            blocks: Bucket::new(2 * MAX_REQUEST_BLOCKS, Self::FULL_AFTER, now),
            bytes: Bucket::new(40 << 20, Self::FULL_AFTER, now),
        }
    }

    /// For all peers of one address prefix: as much as for one peer, because an id costs nothing.
    pub fn of_prefix(now: Instant) -> Self {
        Self::of_peer(now)
    }

    /// For all peers: four times as many blocks and twice as many bytes, which is 4 MiB/s.
    pub fn of_all(now: Instant) -> Self {
        Self {
            blocks: Bucket::new(8 * MAX_REQUEST_BLOCKS, Self::FULL_AFTER, now),
            bytes: Bucket::new(80 << 20, Self::FULL_AFTER, now),
        }
    }

    /// Uses up what an answer needs, of all budgets or of none.
    ///
    /// # Errors
    ///
    /// Says whose limit the answer is above.
    pub fn take(
        &mut self,
        prefix: Option<&mut Self>,
        peer: &mut Self,
        under_way: UnderWay,
        (n_blocks, n_bytes): (u64, u64),
        now: Instant,
    ) -> Result<(), TooMuch> {
        let fits = |budget: &mut Self| {
            let mut buckets = [(&mut budget.blocks, n_blocks), (&mut budget.bytes, n_bytes)];
            buckets.iter_mut().for_each(|(bucket, _)| bucket.fill(now));
            buckets.iter().all(|(bucket, n)| bucket.has(*n))
        };
        if under_way.of_peer >= MAX_SERVING_PEER || !fits(peer) {
            return Err(TooMuch::OfPeer);
        }
        let mut shared = [Some(self), prefix];
        let fits_together = shared.iter_mut().flatten().all(|budget| fits(budget));
        if under_way.all >= MAX_SERVING || under_way.of_prefix >= MAX_SERVING_PREFIX || !fits_together {
            return Err(TooMuch::Shared);
        }
        for budget in shared.into_iter().flatten().chain([peer]) {
            budget.blocks.level -= n_blocks as f64;
            budget.bytes.level -= n_bytes as f64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_gets_its_share_and_the_others_theirs() {
        let now = Instant::now();
        let mut all = ServingBudget::of_all(now);
        let mut flood = ServingBudget::of_peer(now);
        let none = UnderWay::default();
        let mut got = 0;
        // A flood of requests for 64 blocks of 100 kB each, over a minute.
        for nth in 0..6_000u64 {
            let later = now + Duration::from_millis(10 * nth);
            got += u64::from(all.take(None, &mut flood, none, (64, 6_400_000), later).is_ok()) * 64;
        }
        assert!((900..=1100).contains(&got), "{got} blocks: 256 at once, and 12.8 a second");
        let later = now + Duration::from_secs(60);
        assert_eq!(all.take(None, &mut flood, none, (256, 1), later), Err(TooMuch::OfPeer));
        let mut ask = |prefix: Option<&mut ServingBudget>, under_way| {
            all.take(prefix, &mut ServingBudget::of_peer(later), under_way, (128, 12_800_000), later)
        };
        // Many ids at one address get what one peer gets.
        let mut prefix = ServingBudget::of_prefix(later);
        let of_prefix: Vec<_> = (0..10).map(|_| ask(Some(&mut prefix), none)).collect();
        assert_eq!(of_prefix, [[Ok(()); 2].as_slice(), &[Err(TooMuch::Shared); 8]].concat());
        for _ in 0..2 {
            assert_eq!(ask(Some(&mut ServingBudget::of_prefix(later)), none), Ok(()), "another peer is served");
        }
        let too_many = [
            (UnderWay { all: MAX_SERVING, ..none }, TooMuch::Shared),
            (UnderWay { all: 9, of_prefix: MAX_SERVING_PREFIX, of_peer: 0 }, TooMuch::Shared),
            (UnderWay { all: 9, of_prefix: 2, of_peer: MAX_SERVING_PEER }, TooMuch::OfPeer),
        ];
        for (under_way, why) in too_many {
            assert_eq!(ask(None, under_way), Err(why), "{under_way:?}");
        }
        // Many peers together stay within the total.
        let served = (0..100).filter(|_| ask(None, none).is_ok()).count();
        assert!(served <= 16, "{served}");
    }
}
