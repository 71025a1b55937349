//! How the clients publish: the parameters of their meshes.
//!
//! | client | flood publish | D (low to high) | lazy | heartbeat | share of nodes (assumed) |
//! |---|---|---|---|---|---|
//! | Lighthouse, Grandine | no | 5 (3 to 10) | 3 | 1 s | 48 % |
//! | Prysm | no | 8 (6 to 12) | 6 | 0.7 s | 28 % |
//! | Teku | yes | 8 (6 to 12) | 6 | 0.7 s | 12 % |
//! | Nimbus | yes | 8 (6 to 12) | 6 | 0.7 s | 8 % |
//! | Lodestar | no | 8 (6 to 12) | 6 | 0.7 s | 4 % |

use crate::seeded_random::SeededRandom;
use std::time::Duration;

/// A client, as far as its gossip differs from that of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientKind {
    /// Grandine too.
    Lighthouse,
    Prysm,
    Teku,
    Nimbus,
    Lodestar,
}

/// gossipsub's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MeshParameters {
    pub(super) d: usize,
    pub(super) low: usize,
    pub(super) high: usize,
    /// Peers that are told by IHAVE, at least.
    pub(super) lazy: usize,
    pub(super) heartbeat: Duration,
    /// Whether a node sends its own votes to all its peers on the topic.
    pub(super) flood_publish: bool,
}

impl ClientKind {
    /// In percent of the nodes.
    const SHARES: [(Self, u64); 5] =
        [(Self::Lighthouse, 48), (Self::Prysm, 28), (Self::Teku, 12), (Self::Nimbus, 8), (Self::Lodestar, 4)];

    /// The client of a node.
    pub(super) fn of_node(random: &SeededRandom, number: usize) -> Self {
        let drawn = random.below(100, "client", &[number as u64]);
        let mut sum = 0;
        for (client, share) in Self::SHARES {
            sum += share;
            if drawn < sum {
                return client;
            }
        }
        Self::Lighthouse
    }

    pub(super) fn mesh(self) -> MeshParameters {
        let specified = MeshParameters {
            d: 8,
            low: 6,
            high: 12,
            lazy: 6,
            heartbeat: Duration::from_millis(700),
            flood_publish: matches!(self, Self::Teku | Self::Nimbus),
        };
        match self {
            Self::Lighthouse => {
                MeshParameters { d: 5, low: 3, high: 10, lazy: 3, heartbeat: Duration::from_secs(1), ..specified }
            }
            Self::Prysm | Self::Teku | Self::Nimbus | Self::Lodestar => specified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_client_and_the_shares_are_kept() {
        assert_eq!(ClientKind::SHARES.iter().map(|(_, share)| share).sum::<u64>(), 100);
        let random = SeededRandom::new(3);
        let n = (0..5000).filter(|number| ClientKind::of_node(&random, *number) == ClientKind::Teku).count();
        assert!((500..700).contains(&n), "{n}");
    }
}
