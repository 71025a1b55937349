//! The options of this crate. Every limit of the crate is in this file.

/// How single votes (one validator, one signature) with equal data are proven together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SinglesProof {
    /// The signatures are added up, which costs 35 microseconds per signature. This proves that
    /// each validator signed. It does not prove that each received signature of 96 bytes is valid
    /// by itself, because two wrong signatures whose errors cancel out pass together. So no vote
    /// that is proven this way may be forwarded. Use it for replay, backfill and bursts.
    Sums,
    /// Each vote gets a random 64-bit weight and its own group check, which costs 107 microseconds
    /// per signature. Each vote is proven by itself and may be forwarded. This is the default for a
    /// live node.
    RandomCombination,
    /// This percentage of the votes (chosen by a byte of the signature) is proven as in
    /// `RandomCombination`, and the rest as in `Sums`. So only a share of the votes is forwarded,
    /// and only that share costs the higher price.
    Mixed { alone_percent: u8 },
}

/// Limits of the parking place, where messages wait for the committees of their epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkingLimits {
    pub messages: usize,
    pub bytes: usize,
    /// The part of `messages` that one peer may use. Messages without a peer (from captures and
    /// from our own node) are limited only by the total.
    pub messages_per_peer: usize,
    /// The part of `bytes` that one peer may use, counted in bytes of SSZ.
    pub bytes_per_peer: usize,
    /// How long a message waits, in epochs of the network's time, counted from when it was given to
    /// the verifier.
    pub wait_epochs: u64,
    /// The largest number of shufflings with which one message is tried.
    pub tries: usize,
}

impl Default for ParkingLimits {
    /// 64 MiB hold four times the aggregates of one mainnet epoch (32 x 1 024 aggregates of 0.5 kB
    /// each).
    fn default() -> Self {
        Self {
            messages: 131_072,
            bytes: 64 << 20,
            messages_per_peer: 16_384,
            bytes_per_peer: 16 << 20,
            wait_epochs: 4,
            tries: 64,
        }
    }
}

/// Configuration of the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyConfig {
    /// Number of worker threads. 0 means as many as the machine offers.
    pub threads: usize,
    pub singles: SinglesProof,
    /// Whether to check the signatures that matter only for forwarding: the selection proof and the
    /// outer signature of aggregates. These are two more claims for each aggregate. Without this
    /// check no aggregate is ever `forwardable`.
    pub check_aggregators: bool,
    pub parking: ParkingLimits,
    /// How many votes of one peer are tried in each slot while their committees are not certain.
    /// When such a vote fails, nobody can be blamed, so this limit bounds the cost. Further votes
    /// wait for the next slot. Messages without a peer have no limit.
    pub uncertain_tries: usize,
    /// How many proven (validator, data) pairs are remembered, so that a repeated vote costs no
    /// pairing. Each pair takes 8 bytes. When the memory is full, the data that was not seen for
    /// the longest time is forgotten.
    pub remembered_votes: usize,
    /// How many different attestation data are remembered.
    pub remembered_data: usize,
    /// How many proven proposals, blocks and slashing operations are remembered. The limit applies
    /// to each of the three.
    pub remembered_roots: usize,
    /// For how many peers the results of their messages are remembered.
    pub remembered_peers: usize,
    /// How many forged messages are remembered, so that a repeated forgery costs nothing. Each one
    /// takes 40 bytes.
    pub remembered_forgeries: usize,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            singles: SinglesProof::RandomCombination,
            check_aggregators: true,
            parking: ParkingLimits::default(),
            uncertain_tries: 256,
            remembered_votes: 8_000_000,
            remembered_data: 65_536,
            remembered_roots: 65_536,
            remembered_peers: 4096,
            remembered_forgeries: 65_536,
        }
    }
}

impl VerifyConfig {
    /// The configuration for captures and ERA files. Nothing is forwarded, so nothing is proven for
    /// forwarding. There is enough time, and the results must not depend on the size of the
    /// batches, so the number of tries is not limited. Blocks and states may come long after the
    /// votes that need them.
    pub fn replay() -> Self {
        let parking = ParkingLimits { wait_epochs: 64, ..ParkingLimits::default() };
        Self { singles: SinglesProof::Sums, check_aggregators: false, uncertain_tries: usize::MAX, parking, ..Self::default() }
    }
}
