//! Which peers are kept when the places are taken.
//!
//! A tenth of the places is for newcomers, so that they can show what they are worth. When these
//! places are taken too, one rule, the trait [`PeerSelection`], says who goes.

use super::client::Client;
use consensus::Gwei;
use libp2p::PeerId;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Peers on a subnet that are enough: further ones of it are not rare.
pub(super) const ENOUGH_PEERS: usize = 4;
/// A peer on more attestation subnets than this shows too little of what it publishes.
const MOST_SUBNETS: u32 = 32;
/// The trial of a peer of which nothing can be seen is this many times as long.
const UNSEEN_TRIALS: u32 = 4;
/// Attestation subnets of the network.
const N_SUBNETS: usize = 64;

/// What is known of a connected peer that may have to go.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerCandidate {
    pub peer: PeerId,
    /// Whether we dialled. We have chosen such a peer, and not it us.
    pub is_outbound: bool,
    pub connected_for: Duration,
    /// gossipsub's score.
    pub score: f64,
    /// Whether it has sent a status. Who has not, takes a place and gives nothing.
    pub has_status: bool,
    /// Bit n: subscribed to attestation subnet n.
    pub attestation_subnets: u64,
    pub client: Client,
    /// The network of its public address: a /24, or a /48 of IPv6.
    pub prefix: Option<IpAddr>,
    /// How many times it has had the time in which a peer shows whether it publishes votes of its
    /// own ([`n_trials`]). 0 if nobody measures that.
    pub n_trials: u32,
    /// Effective balances of the validators whose votes come from this peer and no other, in Gwei.
    /// 0 if that is not known.
    pub first_hand: Gwei,
}

/// How many trials a peer has had that has been connected for so long.
///
/// A peer publishes on subnets of which it is not a subscriber, so of one that is on most of them
/// nothing can be seen. Nor is anything known of a peer with a `stake` of 0, whose votes are also
/// those of others. Such peers get more time, and then give others a turn as well. Otherwise
/// whoever subscribes to everything would keep its place for ever.
pub(super) fn n_trials(connected_for: Duration, trial: Duration, subnets: u64, stake: Option<Gwei>) -> u32 {
    let is_seen = subnets.count_ones() <= MOST_SUBNETS && stake != Some(Gwei::new(0));
    let trial = if is_seen { trial } else { trial * UNSEEN_TRIALS };
    (connected_for.as_secs_f64() / trial.as_secs_f64()) as u32
}

/// Chooses who goes when the places are taken.
pub trait PeerSelection: fmt::Debug + Send + Sync {
    /// Returns up to `n_surplus` of the candidates, which are then disconnected. Configured peers
    /// and peers that have just connected are no candidates.
    fn surplus(&self, candidates: &[PeerCandidate], n_surplus: usize) -> Vec<PeerId>;
}

/// Keeps peers that bring what few others bring, and lets the rest take turns.
///
/// These go, in this order:
///
/// 1. peers with a score below zero;
/// 2. peers that have sent no status;
/// 3. peers that bring no stake first-hand, or less than half of the others do;
/// 4. peers on subnets of which we have enough, so that no subnet loses its last peers;
/// 5. peers that have had their trial, those with the least stake first, of equal ones those with
///    the most trials;
/// 6. of these, peers of the prefix and of the client that most of the others have;
/// 7. of peers on trial the youngest, so that an attacker that comes with many peers displaces none
///    that is older; of the rest the oldest;
/// 8. peers with a lower score.
///
/// Half of the candidates at most are kept for their stake, because those who bring more are found
/// among the others. A little stake does not keep a place for ever: in a network where almost every
/// node has some validators, all places would soon be taken by whoever came first. A quarter of the
/// candidates is kept for either direction. If peers that dialled us could displace all that we
/// have chosen, whoever dials most would own all places. If the peers that we have dialled filled
/// all places, we would lose those to whom being dialled matters (see `docs/peers.md`).
///
/// A peer says itself which client it runs, so that decides only between peers with equally many
/// trials.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepUseful;

impl KeepUseful {
    /// The part of the candidates that is kept for either direction: one in this number.
    const SHARE: usize = 4;

    /// The peers that are kept for their stake.
    fn kept_for_stake(candidates: &[PeerCandidate]) -> HashSet<PeerId> {
        let mut bringing: Vec<&PeerCandidate> = candidates.iter().filter(|one| one.first_hand > Gwei::new(0)).collect();
        bringing.sort_unstable_by_key(|one| Reverse((one.first_hand, one.connected_for, one.peer)));
        bringing.iter().take(candidates.len() / 2).map(|one| one.peer).collect()
    }
}

impl PeerSelection for KeepUseful {
    fn surplus(&self, candidates: &[PeerCandidate], n_surplus: usize) -> Vec<PeerId> {
        let mut per_subnet = [0usize; N_SUBNETS];
        let (mut per_client, mut per_prefix) = (HashMap::<Client, usize>::new(), HashMap::<IpAddr, usize>::new());
        for candidate in candidates {
            subnets(candidate).for_each(|subnet| per_subnet[subnet] += 1);
            *per_client.entry(candidate.client).or_default() += 1;
            candidate.prefix.into_iter().for_each(|prefix| *per_prefix.entry(prefix).or_default() += 1);
        }
        let kept_for_stake = Self::kept_for_stake(candidates);
        let share = candidates.len() / Self::SHARE;
        let mut kept: Vec<&PeerCandidate> = candidates.iter().collect();
        let mut surplus = Vec::new();
        while surplus.len() < n_surplus {
            let n_outbound = kept.iter().filter(|candidate| candidate.is_outbound).count();
            let n_inbound = kept.len() - n_outbound;
            let may_go = |candidate: &PeerCandidate| {
                candidate.score < 0.0 || if candidate.is_outbound { n_outbound > share } else { n_inbound > share }
            };
            // Bit n of entry k: subnet n has k peers at most.
            let with_at_most: [u64; ENOUGH_PEERS] = std::array::from_fn(|k| {
                (0..N_SUBNETS).filter(|subnet| per_subnet[*subnet] <= k).fold(0, |bits, subnet| bits | 1 << subnet)
            });
            // The fewest peers of any of its subnets, itself among them.
            let rarity = |candidate: &PeerCandidate| match candidate.attestation_subnets {
                0 => usize::MAX,
                bits => with_at_most.iter().position(|rare| bits & rare != 0).unwrap_or(ENOUGH_PEERS),
            };
            let turn = |candidate: &PeerCandidate| {
                let age = candidate.connected_for.as_nanos() as i128;
                let (n_trials, least) = (candidate.n_trials, Reverse(candidate.first_hand));
                let n_of_prefix = candidate.prefix.and_then(|prefix| per_prefix.get(&prefix)).copied().unwrap_or(1);
                let n_of_client = per_client.get(&candidate.client).copied().unwrap_or(1);
                match n_trials {
                    0 => (false, Reverse(Gwei::new(0)), 0, 0, 0, -age),
                    _ => (true, least, n_trials, n_of_prefix, n_of_client, age),
                }
            };
            let first_to_go = kept.iter().enumerate().filter(|(_, candidate)| may_go(candidate)).max_by(|(_, a), (_, b)| {
                let key = |candidate: &PeerCandidate| {
                    let is_free = !kept_for_stake.contains(&candidate.peer);
                    (candidate.score < 0.0, !candidate.has_status, is_free, rarity(candidate), turn(candidate))
                };
                key(a).cmp(&key(b)).then(b.score.total_cmp(&a.score))
            });
            let Some((nth, _)) = first_to_go else { break };
            let gone = kept.swap_remove(nth);
            subnets(gone).for_each(|subnet| per_subnet[subnet] -= 1);
            per_client.entry(gone.client).and_modify(|n| *n -= 1);
            gone.prefix.into_iter().for_each(|prefix| *per_prefix.entry(prefix).or_default() -= 1);
            surplus.push(gone.peer);
        }
        surplus
    }
}

fn subnets(candidate: &PeerCandidate) -> impl Iterator<Item = usize> + use<> {
    let bits = candidate.attestation_subnets;
    (0..N_SUBNETS).filter(move |subnet| bits >> subnet & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(is_outbound: bool, connected_for: u64) -> PeerCandidate {
        PeerCandidate {
            peer: PeerId::random(),
            is_outbound,
            connected_for: Duration::from_secs(connected_for),
            score: 0.0,
            has_status: true,
            attestation_subnets: 1,
            client: Client::Other,
            prefix: None,
            n_trials: 0,
            first_hand: Gwei::new(0),
        }
    }

    fn peers(candidates: &[PeerCandidate]) -> Vec<PeerId> {
        candidates.iter().map(|candidate| candidate.peer).collect()
    }

    #[test]
    fn the_youngest_go_and_the_rare_stay() {
        let mut all: Vec<PeerCandidate> = (0..20).map(|nth| candidate(nth % 2 == 0, 1000 - nth)).collect();
        all[19].attestation_subnets = 1 << 63;
        all[18].score = 5.0;
        assert_eq!(KeepUseful.surplus(&all, 2), [all[18].peer, all[17].peer]);
        all[3].score = -0.1;
        all[4].has_status = false;
        all[5].attestation_subnets = 0;
        assert_eq!(KeepUseful.surplus(&all, 3), [all[3].peer, all[4].peer, all[5].peer]);
        assert_eq!(KeepUseful.surplus(&all, 0), []);
        assert_eq!(KeepUseful.surplus(&[], 9), []);
    }

    #[test]
    fn the_last_peers_of_a_subnet_go_after_all_others() {
        // Six peers on subnet 7 are more than enough: two of them may go, the youngest.
        let mut all: Vec<PeerCandidate> = (0..8).map(|nth| candidate(true, 100 - nth)).collect();
        for one in &mut all[..6] {
            one.attestation_subnets = 1 << 7;
        }
        for one in &mut all[6..] {
            one.attestation_subnets = 1 << 8;
        }
        let gone = KeepUseful.surplus(&all, 3);
        assert_eq!(gone[..2], [all[5].peer, all[4].peer]);
        assert!(peers(&all[..4]).contains(&gone[2]), "two peers are fewer than four");
    }

    /// An attacker with as many addresses as it likes dials until all places are full.
    #[test]
    fn whoever_dials_most_does_not_get_all_places() {
        let ours: Vec<PeerCandidate> = (0..60).map(|nth| candidate(true, 10 + nth)).collect();
        let mut all = ours.clone();
        all.extend((0..160).map(|nth| PeerCandidate { attestation_subnets: u64::MAX, ..candidate(false, 10_000 + nth) }));
        let gone = KeepUseful.surplus(&all, 20);
        assert_eq!(gone.len(), 20);
        let n_ours = gone.iter().filter(|peer| peers(&ours).contains(peer)).count();
        assert!(n_ours <= 5, "{n_ours}: a quarter of 220 is 55");
    }

    #[test]
    fn who_dials_us_is_not_displaced_by_whom_we_dial() {
        let inbound: Vec<PeerCandidate> = (0..10).map(|nth| candidate(false, nth)).collect();
        let mut all = inbound.clone();
        all.extend((0..30).map(|nth| candidate(true, 1000 + nth)));
        let gone = KeepUseful.surplus(&all, 40);
        assert_eq!(gone.len(), 20, "ten of either direction stay");
        assert!(gone.iter().all(|peer| !peers(&inbound).contains(peer)));
        all[0].score = -1.0;
        assert!(KeepUseful.surplus(&all, 1) == [all[0].peer], "the share protects no offender");
    }

    fn with_stake(stake: u64, connected_for: u64) -> PeerCandidate {
        PeerCandidate { first_hand: Gwei::new(stake), ..candidate(connected_for.is_multiple_of(2), connected_for) }
    }

    #[test]
    fn who_brings_stake_that_no_other_brings_stays_however_young_it_is() {
        let mut all: Vec<PeerCandidate> = (0..30).map(|nth| candidate(nth % 2 == 0, 1_000 + nth)).collect();
        all.extend((0..10).map(|nth| with_stake(32, nth)));
        let gone = KeepUseful.surplus(&all, 20);
        assert_eq!(gone.len(), 20);
        assert!(gone.iter().all(|peer| peers(&all[..30]).contains(peer)));
    }

    /// If everybody brings stake, those who bring least go, and the better half stays.
    #[test]
    fn half_of_the_places_change_hands_even_if_everybody_brings_stake() {
        let all: Vec<PeerCandidate> = (0..40).map(|nth| with_stake(1_000 + nth, 5_000 + nth)).collect();
        let gone = KeepUseful.surplus(&all, 20);
        assert!(gone.iter().all(|peer| peers(&all[..20]).contains(peer)), "the lower half");
        let equal: Vec<PeerCandidate> = (0..40).map(|nth| with_stake(32, 5_000 + nth)).collect();
        let gone = KeepUseful.surplus(&equal, 20);
        assert!(gone.iter().all(|peer| peers(&equal[..20]).contains(peer)), "of equal ones the older half stays");
    }

    #[test]
    fn after_its_trial_who_brings_nothing_gives_way_to_those_who_are_on_trial() {
        let tried = |nth: u64| PeerCandidate { n_trials: 1, ..candidate(nth.is_multiple_of(2), 5_000 + 10 * nth) };
        let mut all: Vec<PeerCandidate> = (0..10).map(tried).collect();
        all.extend((0..30).map(|nth| candidate(nth % 2 == 0, 4_000 - nth)));
        let gone = KeepUseful.surplus(&all, 11);
        let oldest_first: Vec<PeerId> = peers(&all[..10]).into_iter().rev().collect();
        assert_eq!(gone[..10], oldest_first);
        assert_eq!(gone[10], all[39].peer, "then the youngest");
    }

    /// Peers that are on every subnet, and peers whose votes are also those of others, have been
    /// here for as long as anybody can see.
    #[test]
    fn of_whom_nothing_can_be_seen_gives_way_too_after_a_longer_time() {
        let trial = Duration::from_secs(3_000);
        let hidden = |nth: u64| {
            let age = Duration::from_secs(4 * 3_000 + nth);
            let (subnets, stake) = if nth < 20 { (u64::MAX, None) } else { (1, Some(Gwei::new(0))) };
            let n_trials = n_trials(age, trial, subnets, stake);
            PeerCandidate { n_trials, attestation_subnets: subnets, ..candidate(nth.is_multiple_of(2), age.as_secs()) }
        };
        let mut all: Vec<PeerCandidate> = (0..30).map(hidden).collect();
        all.extend((0..30).map(|nth| PeerCandidate { attestation_subnets: 1, ..candidate(nth % 2 == 0, nth) }));
        let gone = KeepUseful.surplus(&all, 12);
        assert_eq!(gone.len(), 12);
        assert!(gone.iter().all(|peer| peers(&all[..30]).contains(peer)), "and not those on trial");
        let n =
            |age: u64, subnets: u64, stake: Option<u64>| n_trials(Duration::from_secs(age), trial, subnets, stake.map(Gwei::new));
        assert_eq!([n(2_999, 1, None), n(3_000, 1, None), n(11_999, 1, None)], [0, 1, 3]);
        assert_eq!([n(11_999, u64::MAX, None), n(11_999, 1, Some(0)), n(12_000, 1, Some(0))], [0, 0, 1]);
    }

    /// All places are taken by peers with some stake. Those who bring least give way to a newcomer,
    /// so that somebody who brings more can be found.
    #[test]
    fn after_its_trial_who_brings_little_gives_way_to_who_is_on_trial() {
        let tried = |nth: u64| PeerCandidate { n_trials: 1 + (nth % 3) as u32, ..with_stake(1_000 + nth, 5_000 + nth) };
        let mut all: Vec<PeerCandidate> = (0..22).map(tried).collect();
        all.extend((0..4).map(|nth| candidate(nth % 2 == 0, nth)));
        assert_eq!(KeepUseful.surplus(&all, 4), peers(&all[..4]));
        // Thirteen of them are kept for their stake, and then the youngest newcomers go.
        let gone = KeepUseful.surplus(&all, 11);
        assert_eq!(gone[..9], peers(&all[..9]));
        assert_eq!(gone[9..], [all[22].peer, all[23].peer]);
    }

    /// A network in which every node has some validators, and one in eleven has half of the
    /// stake. There are places for 90 of 400 nodes, the others get turns, and a peer's stake is
    /// known after a quarter of its trial. By and by all large nodes are found and kept.
    #[test]
    fn turns_find_the_large_nodes_although_everybody_has_some_stake() {
        const TRIAL: u64 = 2_700;
        let stake = |node: usize| if node.is_multiple_of(11) { 40 } else { 4 };
        let all: Vec<PeerId> = (0..400).map(|_| PeerId::random()).collect();
        let mut connected: Vec<(usize, u64)> = (300..390).map(|node| (node, 0)).collect();
        let share = |connected: &[(usize, u64)]| {
            let sum: u64 = connected.iter().map(|(node, _)| stake(*node)).sum();
            sum as f64 / (0..400).map(stake).sum::<u64>() as f64
        };
        assert!((0.2..0.25).contains(&share(&connected)), "as many as there are places");
        for (turn, node) in (0..800).map(|turn| (turn, turn % 400)) {
            // Half of the places for those on trial, as the watcher dials.
            let now = TRIAL / 45 * turn as u64;
            if connected.iter().all(|(other, _)| *other != node) {
                connected.push((node, now));
            }
            let candidates: Vec<PeerCandidate> = connected
                .iter()
                .map(|(node, since)| PeerCandidate {
                    peer: all[*node],
                    n_trials: ((now - since) / TRIAL) as u32,
                    first_hand: Gwei::new(if now - since > TRIAL / 4 { stake(*node) } else { 0 }),
                    ..candidate(node.is_multiple_of(3), now - since)
                })
                .collect();
            let gone = KeepUseful.surplus(&candidates, candidates.len().saturating_sub(90));
            connected.retain(|(node, _)| !gone.contains(&all[*node]));
        }
        assert!(share(&connected) > 0.55, "{}", share(&connected));
    }

    #[test]
    fn of_equally_many_trials_the_common_client_and_the_crowded_prefix_go_first() {
        let of = |client, prefix: u8, nth: u64| PeerCandidate {
            client,
            prefix: Some(IpAddr::from([9, 9, prefix, 0])),
            n_trials: 1,
            ..candidate(nth.is_multiple_of(2), 5_000 + nth)
        };
        let mut all: Vec<PeerCandidate> = (0..30).map(|nth| of(Client::Lighthouse, nth as u8, nth)).collect();
        all.extend((0..4).map(|nth| of(Client::Nimbus, 100 + nth as u8, 1_000 + nth)));
        all.extend((0..4).map(|nth| of(Client::Nimbus, 200, nth)));
        let gone = KeepUseful.surplus(&all, 10);
        let n_crowded = gone[..3].iter().filter(|peer| peers(&all[34..]).contains(peer)).count();
        assert_eq!(n_crowded, 3, "one of the prefix may stay");
        assert!(gone[3..].iter().all(|peer| peers(&all[..30]).contains(peer)), "though those of the rare client are older");
        // A rare client is worth no more than a trial.
        let mut all: Vec<PeerCandidate> = (0..30).map(|nth| of(Client::Lighthouse, nth as u8, nth)).collect();
        all.extend((0..4).map(|nth| PeerCandidate { n_trials: 2, ..of(Client::Nimbus, 100 + nth as u8, nth) }));
        assert!(KeepUseful.surplus(&all, 4).iter().all(|peer| peers(&all[30..]).contains(peer)));
    }

    /// Many peers come that claim a client which few others run.
    #[test]
    fn a_claimed_client_displaces_nobody_who_is_older() {
        let mut all: Vec<PeerCandidate> =
            (0..30).map(|nth| PeerCandidate { client: Client::Lighthouse, ..candidate(nth % 2 == 0, 900 + nth) }).collect();
        all.extend((0..20).map(|nth| PeerCandidate { client: Client::Nimbus, ..candidate(nth % 2 == 0, nth) }));
        let gone = KeepUseful.surplus(&all, 20);
        assert!(gone.iter().all(|peer| peers(&all[30..]).contains(peer)));
    }
}
