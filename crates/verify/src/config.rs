//! What can be chosen, with every bound of this crate in one place.

/// How singles (one validator, one signature) with equal data are proven together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SinglesProof {
    /// Plain sums, 35 microseconds a signature: proves that each validator signed, not that each 96 bytes received are its
    /// signature (two offset ones can cancel), so nothing of it may be forwarded. For replay, backfill and bursts.
    Sums,
    /// Each single in a random 64-bit combination with its own group check, 107 microseconds a signature: each is proven by
    /// itself and may be forwarded. The default for a live node.
    RandomCombination,
    /// So many percent of the singles (chosen by a byte of their signature) as in `RandomCombination`, the others as in `Sums`: what is
    /// forwarded is a share of all, and so is its price.
    Mixed { alone_percent: u8 },
}

/// Bounds of the place where messages wait for the committees of their epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkingLimits {
    pub messages: usize,
    pub bytes: usize,
    /// Of `messages`, by one peer. Messages without a peer (captures, own node) are bound by the whole only.
    pub messages_per_peer: usize,
    /// Of `bytes`, by one peer: their SSZ.
    pub bytes_per_peer: usize,
    /// How long one waits, in epochs of the network's time since it was handed to the verifier.
    pub wait_epochs: u64,
    /// Under so many shufflings a message is tried at most.
    pub tries: usize,
}

impl Default for ParkingLimits {
    /// 64 MiB: an epoch of mainnet's aggregates (32 x 1 024 of 0.5 kB) four times over.
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

/// How the verifier works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyConfig {
    /// Worker threads; 0 = as many as the machine offers.
    pub threads: usize,
    pub singles: SinglesProof,
    /// Whether to check what only forwarding asks for: the selection proof and outer signature of aggregates (two more
    /// claims each). Without it no aggregate is ever `forwardable`.
    pub check_aggregators: bool,
    pub parking: ParkingLimits,
    /// How many votes of one peer are tried per slot whose committees are not certain. Nobody can be blamed when such a vote
    /// fails, so this is what bounds the price; more of them wait for the next slot. No bound for what has no peer.
    pub uncertain_tries: usize,
    /// Proven (validator, data) pairs that are remembered, so that a repeat costs no pairing: 8 bytes each. When full, the
    /// data that was not met for longest is forgotten.
    pub remembered_votes: usize,
    /// Different data that are remembered.
    pub remembered_data: usize,
    /// Proven proposals, blocks and slashing operations that are remembered, each.
    pub remembered_roots: usize,
    /// Peers of whom it is remembered what their messages turned out to be.
    pub remembered_peers: usize,
    /// Forged votes that are remembered, so that the same one again costs nothing: 40 bytes each.
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
    /// For captures and ERA files: nothing is forwarded, so nothing is proven for forwarding. Time is not short, and what is
    /// found must not depend on how many messages make a batch, so tries are not rationed. Blocks and states may come long after
    /// the votes that need them.
    pub fn replay() -> Self {
        let parking = ParkingLimits { wait_epochs: 64, ..ParkingLimits::default() };
        Self { singles: SinglesProof::Sums, check_aggregators: false, uncertain_tries: usize::MAX, parking, ..Self::default() }
    }
}
