//! Which connected peer publishes which validator's votes: a table with a row per validator.
//!
//! The rule and its limits are in the documentation of [`super`]. This file has no clock and no
//! chain: it gets votes, epochs, and the validators that attested.

use crate::client::{N_CLIENTS, UNKNOWN};
use consensus::{Epoch, Gwei, ValidatorIndex};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use verify::PeerBytes;

/// Number of epochs that count, the running one included. One bit of a row stands for each.
pub const WINDOW_EPOCHS: u64 = 8;
/// In so many of these epochs a validator's vote must have come first-hand from the same peer.
pub const VOTES_NEEDED: u32 = 2;
/// One peer counts with at most one part in this many of the stake that attested, or with
/// [`FREE_STAKE`] if that is more.
pub const LARGEST_SHARE: u64 = 100;
/// 1 000 validators of 32 ETH. A devnet has few nodes, and each of them has a large share.
pub const FREE_STAKE: Gwei = Gwei::new(32_000_000_000_000);
/// A peer that brings votes of validators of at least this many others is discarded.
pub const RIVALS_TO_DISCARD: usize = 4;
/// ... if these votes are at least one in this many of its own validators.
pub const CONTESTED_TO_DISCARD: u64 = 64;

/// Votes of another peer's validators that a peer must have brought to be its rival.
const CONTESTED_BY_RIVAL: u32 = 2;
/// Largest number of peers in the table. Numbers of peers fit in 16 bits.
const MAX_PEERS: usize = 16_384;
/// Largest number of pairs of peers that are counted.
const MAX_PAIRS: usize = 65_536;
/// A validator's new publisher takes over when the old one brought nothing in this and the two
/// earlier epochs. A peer that is discarded takes over from nobody.
const RECENT: u8 = 0b111;

/// Position of a peer in the table, plus one. 0 stands for none.
type PeerNumber = u16;

/// What is known of a validator, in four bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    publisher: PeerNumber,
    /// Bit n: its vote of the epoch n before the running one came first-hand from `publisher`.
    epochs: u8,
}

#[derive(Debug)]
struct Publisher {
    id: PeerBytes,
    /// The epoch of the last vote that it brought first-hand.
    last: Epoch,
    /// Position of its client in [`crate::client`], while it is connected.
    client: Option<usize>,
    /// Whether it brings the votes of so many other peers' validators that it does not count.
    is_discarded: bool,
    /// Its validators at the last measurement.
    n_validators: u64,
    /// Their effective balances.
    stake: u64,
    /// The effective balances of the validators whose vote of the last complete epoch it brought.
    last_epoch_stake: u64,
}

impl Publisher {
    fn counts(&self) -> bool {
        self.client.is_some() && !self.is_discarded
    }
}

/// What all connected peers bring first-hand, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Stake of the counted peers, each within its limit ([`LARGEST_SHARE`]).
    pub first_hand: Gwei,
    /// Stake of all connected peers, without limits.
    pub claimed: Gwei,
    /// Stake whose vote of the last complete epoch came first-hand, of the counted peers and each
    /// within its limit.
    pub last_epoch: Gwei,
    /// `first_hand` by the peers' client.
    pub by_client: [ClientSum; N_CLIENTS],
    /// Connected peers with a part in `first_hand`.
    pub n_peers: u64,
    /// Connected peers that are discarded.
    pub n_discarded: u64,
}

/// The sums of the peers of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientSum {
    pub n_peers: u64,
    pub first_hand: Gwei,
}

/// The table. It takes four bytes for a validator, and some 150 bytes for a peer.
#[derive(Debug, Default)]
pub struct Publishers {
    /// The running epoch.
    epoch: Epoch,
    rows: Vec<Row>,
    peers: Vec<Option<Publisher>>,
    numbers: HashMap<PeerBytes, PeerNumber>,
    /// How often the second peer brought votes of validators of the first. Halved with each epoch.
    contested: HashMap<(PeerNumber, PeerNumber), u32>,
    n_refused: u64,
}

impl Publishers {
    /// Begins a new epoch. What is older than the window is forgotten. Takes one pass over the
    /// table.
    pub fn advance_to(&mut self, epoch: Epoch) {
        let Some(n) = epoch.as_u64().checked_sub(self.epoch.as_u64()).filter(|n| *n > 0) else { return };
        self.epoch = epoch;
        for row in self.rows.iter_mut().filter(|row| row.publisher != 0) {
            row.epochs = if n < WINDOW_EPOCHS { row.epochs << n } else { 0 };
            if row.epochs == 0 {
                *row = Row::default();
            }
        }
        self.contested.retain(|_, times| {
            *times = u32::try_from(n).ok().and_then(|n| times.checked_shr(n)).unwrap_or(0);
            *times > 0
        });
        // No row names such a peer any more, so its number can be given to another.
        for place in &mut self.peers {
            if let Some(peer) = place.take_if(|peer| peer.last.saturating_add(WINDOW_EPOCHS) <= epoch) {
                self.numbers.remove(&peer.id);
            }
        }
        self.contested.retain(|(one, other), _| {
            [one, other].into_iter().all(|number| self.peers.get(usize::from(*number) - 1).is_some_and(Option::is_some))
        });
    }

    /// Records that a vote of this epoch came first-hand from a peer. `n_validators` is the size of
    /// the registry, which bounds the table. Votes of other epochs than the running one and the one
    /// before do not count, because anybody may send them again.
    pub fn record(&mut self, validator: ValidatorIndex, peer: &PeerBytes, epoch: Epoch, n_validators: usize) {
        let age = self.epoch.as_u64().checked_sub(epoch.as_u64()).filter(|age| *age <= 1);
        let index = usize::try_from(validator.as_u64()).ok().filter(|index| *index < n_validators);
        let (Some(age), Some(index)) = (age, index) else { return };
        let Some(number) = self.number_of(peer, epoch) else { return };
        if self.rows.len() <= index {
            self.rows.resize(n_validators, Row::default());
        }
        let row = self.rows[index];
        let bit = 1 << age;
        if row.publisher == 0 || row.publisher == number {
            self.rows[index] = Row { publisher: number, epochs: row.epochs | bit };
            return;
        }
        // Whose validator it is, is known after two epochs. Until then nobody is to blame.
        if row.epochs.count_ones() >= VOTES_NEEDED {
            self.contest(row.publisher, number);
        }
        let gives_way = row.epochs & RECENT == 0 || self.is_discarded(row.publisher);
        if gives_way && !self.is_discarded(number) {
            self.rows[index] = Row { publisher: number, epochs: bit };
        }
    }

    /// Learns which peers are connected. `client_of` gives the position of a connected peer's
    /// client.
    pub fn follow_connections(&mut self, client_of: impl Fn(&PeerBytes) -> Option<usize>) {
        for peer in self.peers.iter_mut().flatten() {
            peer.client = client_of(&peer.id);
        }
    }

    /// Sums up what the validators that attested in the epoch `measured` have at stake, by their
    /// publishers, and discards peers that bring too many others' votes. Returns the stake of all
    /// of `attesters`, each with its effective balance.
    pub fn measure(&mut self, measured: Epoch, attesters: impl Iterator<Item = (ValidatorIndex, Gwei)>) -> Gwei {
        for peer in self.peers.iter_mut().flatten() {
            (peer.n_validators, peer.stake, peer.last_epoch_stake) = (0, 0, 0);
        }
        let age = self.epoch.as_u64().saturating_sub(measured.as_u64());
        let bit = u32::try_from(age).ok().and_then(|age| 1u8.checked_shl(age)).unwrap_or(0);
        let mut all = 0;
        for (validator, balance) in attesters {
            all += balance.as_u64();
            let Some(row) = self.row(validator) else { continue };
            let Some(peer) = self.peers.get_mut(usize::from(row.publisher) - 1).and_then(Option::as_mut) else { continue };
            if row.epochs & bit != 0 {
                peer.last_epoch_stake += balance.as_u64();
            }
            if row.epochs.count_ones() >= VOTES_NEEDED {
                peer.n_validators += 1;
                peer.stake += balance.as_u64();
            }
        }
        self.discard();
        Gwei::new(all)
    }

    /// The sums of the last measurement, of the peers that are connected now. `attested` is what
    /// the measurement returned.
    pub fn sums(&self, attested: Gwei) -> Sums {
        let mut sums = Sums::default();
        let most = largest_stake(attested);
        let add = |sum: &mut Gwei, stake: u64| *sum = sum.saturating_add(stake);
        for peer in self.peers.iter().flatten() {
            let Some(client) = peer.client else { continue };
            add(&mut sums.claimed, peer.stake);
            if peer.is_discarded {
                sums.n_discarded += 1;
                continue;
            }
            add(&mut sums.first_hand, peer.stake.min(most));
            add(&mut sums.last_epoch, peer.last_epoch_stake.min(most));
            let of_client = &mut sums.by_client[if client < N_CLIENTS { client } else { UNKNOWN }];
            sums.n_peers += u64::from(peer.stake > 0);
            of_client.n_peers += u64::from(peer.stake > 0);
            add(&mut of_client.first_hand, peer.stake.min(most));
        }
        sums
    }

    /// Each connected peer that counts, with its stake of the last measurement, within its limit.
    /// Discarded peers have 0: it is not known what they publish.
    pub fn stake_by_peer(&self, attested: Gwei) -> BTreeMap<PeerBytes, Gwei> {
        let most = largest_stake(attested);
        let connected = self.peers.iter().flatten().filter(|peer| peer.client.is_some() && peer.stake > 0);
        let stake_of = |peer: &Publisher| if peer.is_discarded { 0 } else { peer.stake.min(most) };
        connected.map(|peer| (peer.id.clone(), Gwei::new(stake_of(peer)))).collect()
    }

    /// Whether the votes of a validator come first-hand from a connected peer that counts.
    pub fn is_heard(&self, validator: ValidatorIndex) -> bool {
        self.publisher(validator).is_some()
    }

    /// The peer that publishes the votes of a validator, as a number that says nothing about it.
    pub(super) fn publisher_number(&self, validator: ValidatorIndex) -> Option<u16> {
        self.publisher(validator)
    }

    /// Number of peers that publish the votes of these validators. Validators that nobody publishes
    /// do not count.
    pub fn n_publishers(&self, validators: &[ValidatorIndex]) -> u64 {
        let publishers: BTreeSet<PeerNumber> = validators.iter().filter_map(|validator| self.publisher(*validator)).collect();
        publishers.len() as u64
    }

    /// Number of votes that were not recorded because too many peers are known.
    pub fn n_refused(&self) -> u64 {
        self.n_refused
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> TableMemory {
        let rows = self.rows.len() * size_of::<Row>();
        TableMemory { rows, peers: self.numbers.len(), pairs: self.contested.len() }
    }

    fn row(&self, validator: ValidatorIndex) -> Option<Row> {
        let index = usize::try_from(validator.as_u64()).ok()?;
        self.rows.get(index).copied().filter(|row| row.publisher != 0)
    }

    fn publisher(&self, validator: ValidatorIndex) -> Option<PeerNumber> {
        let row = self.row(validator).filter(|row| row.epochs.count_ones() >= VOTES_NEEDED)?;
        let peer = self.peers.get(usize::from(row.publisher) - 1)?.as_ref()?;
        peer.counts().then_some(row.publisher)
    }

    fn is_discarded(&self, number: PeerNumber) -> bool {
        self.peers.get(usize::from(number) - 1).and_then(Option::as_ref).is_some_and(|peer| peer.is_discarded)
    }

    fn number_of(&mut self, id: &PeerBytes, epoch: Epoch) -> Option<PeerNumber> {
        if let Some(number) = self.numbers.get(id).copied() {
            if let Some(peer) = self.peers.get_mut(usize::from(number) - 1).and_then(Option::as_mut) {
                peer.last = peer.last.max(epoch);
            }
            return Some(number);
        }
        if self.numbers.len() >= MAX_PEERS {
            self.n_refused += 1;
            return None;
        }
        let place = match self.peers.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.peers.push(None);
                self.peers.len() - 1
            }
        };
        self.peers[place] = Some(Publisher {
            id: id.clone(),
            last: epoch,
            client: Some(UNKNOWN),
            is_discarded: false,
            n_validators: 0,
            stake: 0,
            last_epoch_stake: 0,
        });
        let number = PeerNumber::try_from(place + 1).ok()?;
        self.numbers.insert(id.clone(), number);
        Some(number)
    }

    fn contest(&mut self, publisher: PeerNumber, other: PeerNumber) {
        let pair = (publisher, other);
        if self.contested.len() < MAX_PAIRS || self.contested.contains_key(&pair) {
            let times = self.contested.entry(pair).or_default();
            *times = times.saturating_add(1);
        }
    }

    /// Discards peers that bring the votes of other peers' validators, those that do it to the most
    /// peers first. What they were robbed of does not count against the others. So a few peers that
    /// forward everything do not take all others with them.
    fn discard(&mut self) {
        let mut rivals: BTreeMap<PeerNumber, BTreeMap<PeerNumber, u64>> = BTreeMap::new();
        for ((publisher, other), times) in self.contested.iter().filter(|(_, times)| **times >= CONTESTED_BY_RIVAL) {
            rivals.entry(*other).or_default().insert(*publisher, u64::from(*times));
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.is_discarded = false;
        }
        loop {
            let is_surplus = |number: PeerNumber, of: &BTreeMap<PeerNumber, u64>| {
                let peer = self.peers.get(usize::from(number) - 1).and_then(Option::as_ref);
                let n_validators = peer.map_or(0, |peer| peer.n_validators);
                of.len() >= RIVALS_TO_DISCARD && of.values().sum::<u64>() * CONTESTED_TO_DISCARD >= n_validators
            };
            let worst =
                rivals.iter().filter(|(number, of)| is_surplus(**number, of)).max_by_key(|(number, of)| (of.len(), **number));
            let Some(worst) = worst.map(|(number, _)| *number) else { break };
            if let Some(peer) = self.peers.get_mut(usize::from(worst) - 1).and_then(Option::as_mut) {
                peer.is_discarded = true;
            }
            rivals.remove(&worst);
            for of in rivals.values_mut() {
                of.remove(&worst);
            }
        }
    }
}

/// Bytes of rows, number of peers and of pairs.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct TableMemory {
    pub rows: usize,
    pub peers: usize,
    pub pairs: usize,
}

/// The most stake with which one peer counts.
fn largest_stake(attested: Gwei) -> u64 {
    (attested.as_u64() / LARGEST_SHARE).max(FREE_STAKE.as_u64())
}
