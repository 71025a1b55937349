//! Which peers are kept when the places are taken.
//!
//! A tenth of the places is for newcomers, so that they can show what they are worth. When these
//! places are taken too, one rule, the trait [`PeerSelection`], says who goes.

use super::client::Client;
use consensus::Gwei;
use libp2p::PeerId;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Peers on a subnet that are enough: further ones of it are not rare.
pub(super) const ENOUGH_PEERS: usize = 4;
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
    /// Effective balances of the validators whose votes come from this peer and no other, in Gwei.
    /// 0 if that is not known.
    pub first_hand: Gwei,
}

/// Chooses who goes when the places are taken.
pub trait PeerSelection: fmt::Debug + Send + Sync {
    /// Returns up to `n_surplus` of the candidates, which are then disconnected. Configured peers
    /// and peers that have just connected are no candidates.
    fn surplus(&self, candidates: &[PeerCandidate], n_surplus: usize) -> Vec<PeerId>;
}

/// Keeps peers that bring what no other brings, and lets the rest take turns.
///
/// These go, in this order:
///
/// 1. peers with a score below zero;
/// 2. peers that have sent no status;
/// 3. peers that bring no stake first-hand, or less than half of the others do;
/// 4. peers on subnets of which we have enough, so that no subnet loses its last peers;
/// 5. peers that were connected for [`Self::trial`] and brought no stake: they have shown what they
///    are worth, and others may have their place;
/// 6. peers of the client that most of the peers run, because each client publishes in its own way;
/// 7. of the peers on trial the youngest, so that an attacker that comes with many peers displaces
///    none of the others; of the rest the oldest;
/// 8. peers with a lower score.
///
/// Half of the candidates at most are kept for their stake, because the others find those who bring
/// more. A quarter of the candidates is kept for either direction. If peers that dialled us could
/// displace all that we have chosen, whoever dials most would own all places. If the peers that we
/// have dialled filled all places, we would lose those to whom being dialled matters (see
/// `docs/peers.md`).
#[derive(Clone, Copy, Debug)]
pub struct KeepUseful {
    /// How long a peer may show whether it publishes votes of its own. Its validators vote once in
    /// an epoch, and two votes are needed.
    pub trial: Duration,
}

impl Default for KeepUseful {
    /// A trial of three epochs of mainnet.
    fn default() -> Self {
        Self { trial: Duration::from_secs(1200) }
    }
}

impl KeepUseful {
    /// The part of the candidates that is kept for either direction: one in this number.
    const SHARE: usize = 4;

    /// The least stake for which a peer is kept, so that no more than half of the candidates are.
    fn least_stake(candidates: &[PeerCandidate]) -> Gwei {
        let mut stakes: Vec<Gwei> = candidates.iter().map(|candidate| candidate.first_hand).collect();
        stakes.sort_unstable_by_key(|stake| Reverse(*stake));
        // As many as half of them have more than this, or as much.
        let median = stakes.get(candidates.len() / 2).copied().unwrap_or_default();
        median.saturating_add(1)
    }
}

impl PeerSelection for KeepUseful {
    fn surplus(&self, candidates: &[PeerCandidate], n_surplus: usize) -> Vec<PeerId> {
        let mut per_subnet = [0usize; N_SUBNETS];
        let mut per_client: HashMap<Client, usize> = HashMap::new();
        for candidate in candidates {
            subnets(candidate).for_each(|subnet| per_subnet[subnet] += 1);
            *per_client.entry(candidate.client).or_default() += 1;
        }
        let least_stake = Self::least_stake(candidates);
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
            let age = |candidate: &PeerCandidate| {
                let is_over = candidate.connected_for >= self.trial && candidate.first_hand == Gwei::new(0);
                let age = candidate.connected_for.as_nanos() as i128;
                (is_over, per_client.get(&candidate.client).copied(), if is_over { age } else { -age })
            };
            let first_to_go = kept.iter().enumerate().filter(|(_, candidate)| may_go(candidate)).max_by(|(_, a), (_, b)| {
                let key = |candidate: &PeerCandidate| {
                    let brings_little = candidate.first_hand < least_stake;
                    (candidate.score < 0.0, !candidate.has_status, brings_little, rarity(candidate), age(candidate))
                };
                key(a).cmp(&key(b)).then(b.score.total_cmp(&a.score))
            });
            let Some((nth, _)) = first_to_go else { break };
            let gone = kept.swap_remove(nth);
            subnets(gone).for_each(|subnet| per_subnet[subnet] -= 1);
            per_client.entry(gone.client).and_modify(|n| *n -= 1);
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
        assert_eq!(KeepUseful::default().surplus(&all, 2), [all[18].peer, all[17].peer]);
        all[3].score = -0.1;
        all[4].has_status = false;
        all[5].attestation_subnets = 0;
        assert_eq!(KeepUseful::default().surplus(&all, 3), [all[3].peer, all[4].peer, all[5].peer]);
        assert_eq!(KeepUseful::default().surplus(&all, 0), []);
        assert_eq!(KeepUseful::default().surplus(&[], 9), []);
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
        let gone = KeepUseful::default().surplus(&all, 3);
        assert_eq!(gone[..2], [all[5].peer, all[4].peer]);
        assert!(peers(&all[..4]).contains(&gone[2]), "two peers are fewer than four");
    }

    /// An attacker with as many addresses as it likes dials until all places are full.
    #[test]
    fn whoever_dials_most_does_not_get_all_places() {
        let ours: Vec<PeerCandidate> = (0..60).map(|nth| candidate(true, 10 + nth)).collect();
        let mut all = ours.clone();
        all.extend((0..160).map(|nth| PeerCandidate { attestation_subnets: u64::MAX, ..candidate(false, 10_000 + nth) }));
        let gone = KeepUseful::default().surplus(&all, 20);
        assert_eq!(gone.len(), 20);
        let n_ours = gone.iter().filter(|peer| peers(&ours).contains(peer)).count();
        assert!(n_ours <= 5, "{n_ours}: a quarter of 220 is 55");
    }

    #[test]
    fn who_dials_us_is_not_displaced_by_whom_we_dial() {
        let inbound: Vec<PeerCandidate> = (0..10).map(|nth| candidate(false, nth)).collect();
        let mut all = inbound.clone();
        all.extend((0..30).map(|nth| candidate(true, 1000 + nth)));
        let gone = KeepUseful::default().surplus(&all, 40);
        assert_eq!(gone.len(), 20, "ten of either direction stay");
        assert!(gone.iter().all(|peer| !peers(&inbound).contains(peer)));
        all[0].score = -1.0;
        assert!(KeepUseful::default().surplus(&all, 1) == [all[0].peer], "the share protects no offender");
    }

    fn with_stake(stake: u64, connected_for: u64) -> PeerCandidate {
        PeerCandidate { first_hand: Gwei::new(stake), ..candidate(connected_for % 2 == 0, connected_for) }
    }

    #[test]
    fn who_brings_stake_that_no_other_brings_stays_however_young_it_is() {
        let mut all: Vec<PeerCandidate> = (0..30).map(|nth| candidate(nth % 2 == 0, 1_000 + nth)).collect();
        all.extend((0..10).map(|nth| with_stake(32, nth)));
        let gone = KeepUseful::default().surplus(&all, 20);
        assert_eq!(gone.len(), 20);
        assert!(gone.iter().all(|peer| peers(&all[..30]).contains(peer)));
    }

    /// If everybody brings stake, those who bring least go, and the better half stays.
    #[test]
    fn half_of_the_places_change_hands_even_if_everybody_brings_stake() {
        let all: Vec<PeerCandidate> = (0..40).map(|nth| with_stake(1_000 + nth, 5_000 + nth)).collect();
        let gone = KeepUseful::default().surplus(&all, 20);
        assert!(gone.iter().all(|peer| peers(&all[..21]).contains(peer)), "of the lower half");
        let equal: Vec<PeerCandidate> = (0..40).map(|nth| with_stake(32, 5_000 + nth)).collect();
        assert_eq!(KeepUseful::default().surplus(&equal, 20).len(), 20, "equal stake protects nobody from the other");
    }

    #[test]
    fn after_its_trial_who_brings_nothing_gives_way_to_those_who_are_on_trial() {
        let selection = KeepUseful::default();
        let over = selection.trial.as_secs();
        let mut all: Vec<PeerCandidate> = (0..10).map(|nth| candidate(nth % 2 == 0, over + 10 * nth)).collect();
        all.extend((0..30).map(|nth| candidate(nth % 2 == 0, over - 1 - nth)));
        let gone = selection.surplus(&all, 11);
        let oldest_first: Vec<PeerId> = peers(&all[..10]).into_iter().rev().collect();
        assert_eq!(gone[..10], oldest_first);
        assert_eq!(gone[10], all[39].peer, "then the youngest");
    }

    #[test]
    fn of_many_peers_of_one_client_some_go_before_the_few_of_another() {
        let over = KeepUseful::default().trial.as_secs();
        let of = |client, nth| PeerCandidate { client, ..candidate(nth % 2 == 0, over + nth) };
        let mut all: Vec<PeerCandidate> = (0..30).map(|nth| of(Client::Lighthouse, nth)).collect();
        all.extend((0..4).map(|nth| of(Client::Nimbus, 1_000 + nth)));
        let gone = KeepUseful::default().surplus(&all, 10);
        assert!(gone.iter().all(|peer| peers(&all[..30]).contains(peer)), "though those are older");
    }
}
