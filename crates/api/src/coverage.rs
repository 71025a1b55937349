//! How much of the network is heard first-hand: shares of the stake, in sums only.
//!
//! Nothing here says which validator runs where. A client's sum is shown only if several peers have
//! a part in it, and a label's only if it has many validators and several peers have a part in it.
//! Shares are rounded, so that their difference from one epoch to the next names nobody either.

use crate::privacy::{OwnKeys, Privacy};
use crate::server::Shared;
use axum::Json;
use axum::extract::State;
use consensus::{Epoch, Gwei, ValidatorIndex};
use evidence::Time;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A client's sum is shown on its own if at least this many of its peers have a part in it.
const PEERS_OF_CLIENT: u64 = 3;
/// The client under which the others are summed up.
const OTHER: &str = "other";

/// How much of the network is heard first-hand, as the watcher measures it.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Coverage {
    /// The last complete epoch, whose votes are measured. Null before the first one.
    #[schema(value_type = Option<String>)]
    pub epoch: Option<Epoch>,
    /// Effective balances of the validators whose votes for this epoch were received, in Gwei.
    #[schema(value_type = String)]
    pub attested_gwei: Gwei,
    /// Share of this stake whose nodes are connected: its votes came first-hand from one and the
    /// same connected peer in at least `votes_needed` of the last `epochs` epochs. 0 to 1. Null
    /// before the first measurement.
    pub first_hand: Option<f64>,
    /// Share of this stake whose vote for this one epoch came first-hand.
    pub last_epoch: Option<f64>,
    /// `first_hand` without the limits that a single peer has. Much more than `first_hand` means
    /// that a peer forwards the votes of others as if they were its own, or that the network has
    /// few nodes.
    pub claimed: Option<f64>,
    pub votes_needed: u32,
    pub epochs: u64,
    /// Connected peers with a part in `first_hand`.
    pub peers: u64,
    /// Connected peers that are not counted, because they bring the votes of many other peers'
    /// validators.
    pub peers_discarded: u64,
    /// `first_hand` by the peers' client. Clients with few peers are summed up as `other`.
    pub by_client: Vec<ClientShare>,
    /// Share within each label of the configuration, the labels with the most stake first.
    pub by_label: Vec<LabelShare>,
    pub punished: Punished,
    /// How a node of one's own can be made to send everything to this watcher. Null for readers who
    /// may not see addresses, and without gossip.
    pub peering: Option<Peering>,
}

/// The stake heard from the peers of one client.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ClientShare {
    pub client: String,
    pub peers: u64,
    /// Of all stake that attested.
    pub first_hand: f64,
}

/// The stake of one label that is heard.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LabelShare {
    /// Such as `operator=acme`.
    pub label: String,
    /// Validators of this label that attested.
    pub validators: u64,
    /// Of the label's stake that attested, in tenths.
    pub first_hand: f64,
}

/// Offences that blocks punished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Punished {
    /// How many days are counted back.
    pub days: u64,
    /// Validators that a block slashed in this time.
    pub validators: u64,
    /// Those of them whose contradicting messages had been received before the slashing was.
    pub heard: u64,
}

/// Whether the keys of a group are heard first-hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupHeard {
    /// Members that are heard first-hand.
    pub heard: u64,
    /// Since when all of these have been. Null if there is none.
    #[schema(value_type = Option<String>)]
    pub since: Option<Time>,
    /// Number of peers that publish their votes.
    pub peers: u64,
    /// The first members that are not heard.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<ValidatorIndex>,
}

/// How other nodes name this one as a direct peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Peering {
    pub peer_id: String,
    /// Multiaddrs of this node, those that others have confirmed first.
    pub addresses: Vec<String>,
    pub flags: Vec<PeeringFlag>,
}

/// Options of a client's command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeeringFlag {
    pub client: String,
    pub options: String,
}

impl Peering {
    /// The options for each client. `addresses` are multiaddrs without a peer id. If there is none,
    /// there are no options, because nobody can reach this node.
    pub fn new(peer_id: &str, addresses: &[String]) -> Self {
        let addresses: Vec<String> = addresses.iter().map(|address| format!("{address}/p2p/{peer_id}")).collect();
        let flags = addresses.first().map_or_else(Vec::new, |address| {
            let flags = [
                ("Lighthouse", format!("--trusted-peers {peer_id} --libp2p-addresses {address}")),
                ("Prysm", format!("--peer {address}")),
                ("Teku", format!("--p2p-direct-peers={address}")),
                ("Nimbus", format!("--direct-peer={address}")),
                ("Lodestar", format!("--directPeers {address}")),
                ("Grandine", format!("--trusted-peers {peer_id} --libp2p-nodes {address}")),
            ];
            flags.map(|(client, options)| PeeringFlag { client: client.to_owned(), options }).to_vec()
        });
        Self { peer_id: peer_id.to_owned(), addresses, flags }
    }
}

/// A share of the whole, rounded to one part in 10 000. `None` if there is nothing to have a part
/// of.
pub fn share(part: Gwei, of: Gwei) -> Option<f64> {
    (of.as_u64() > 0).then(|| (part.as_u64() as f64 / of.as_u64() as f64 * 10_000.0).round() / 10_000.0)
}

impl Coverage {
    /// Sums up the clients with few peers.
    pub(crate) fn with_large_sums_only(mut self) -> Self {
        let (mut shown, few): (Vec<_>, Vec<_>) = self.by_client.into_iter().partition(|row| row.peers >= PEERS_OF_CLIENT);
        if !few.is_empty() {
            shown.push(ClientShare {
                client: OTHER.to_owned(),
                peers: few.iter().map(|row| row.peers).sum(),
                first_hand: few.iter().map(|row| row.first_hand).sum(),
            });
        }
        self.by_client = shown;
        for row in &mut self.by_label {
            row.first_hand = (row.first_hand * 10.0).round() / 10.0;
        }
        self
    }
}

impl Privacy {
    /// The coverage as readers may see it.
    pub fn coverage(&self, coverage: Coverage) -> Coverage {
        let mut coverage = coverage.with_large_sums_only();
        if self.own_keys == OwnKeys::Hidden {
            coverage.by_label.retain(|row| !self.watch.is_private(&row.label));
        }
        coverage.peering = coverage.peering.filter(|_| self.shows_addresses);
        coverage
    }
}

/// The figures of [`Coverage`] that `/v1/status` shows.
#[derive(Serialize, ToSchema)]
pub(crate) struct CoverageSummary {
    /// Share of the stake that is heard first-hand. Null before the first measurement.
    pub(crate) first_hand: Option<f64>,
    /// Share of the stake whose vote for the last complete epoch came first-hand.
    pub(crate) last_epoch: Option<f64>,
    pub(crate) punished: Punished,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CoverageAnswer {
    schema: u64,
    /// Null for a recording.
    coverage: Option<Coverage>,
}

/// How much of the network is heard first-hand, in sums.
#[utoipa::path(get, path = "/v1/coverage", operation_id = "coverage", tag = "process", responses((status = 200, description = "coverage", body = CoverageAnswer)))]
pub(crate) async fn coverage(State(shared): State<Arc<Shared>>) -> Json<CoverageAnswer> {
    let coverage = shared.status.coverage().map(|coverage| shared.privacy.coverage(coverage));
    Json(CoverageAnswer { schema: 1, coverage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_told_how_to_name_us() {
        let peering =
            Peering::new("16Uiu2", &["/ip4/192.0.2.1/tcp/9000".to_owned(), "/ip4/192.0.2.1/udp/9000/quic-v1".to_owned()]);
        let options: Vec<String> = peering.flags.iter().map(|flag| format!("{} {}", flag.client, flag.options)).collect();
        assert_eq!(
            options,
            [
                "Lighthouse --trusted-peers 16Uiu2 --libp2p-addresses /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2",
                "Prysm --peer /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2",
                "Teku --p2p-direct-peers=/ip4/192.0.2.1/tcp/9000/p2p/16Uiu2",
                "Nimbus --direct-peer=/ip4/192.0.2.1/tcp/9000/p2p/16Uiu2",
                "Lodestar --directPeers /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2",
                "Grandine --trusted-peers 16Uiu2 --libp2p-nodes /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2",
            ]
        );
        assert_eq!(Peering::new("16Uiu2", &[]).flags, []);
    }

    #[test]
    fn few_peers_of_a_client_are_not_shown_on_their_own() {
        let row = |client: &str, peers, first_hand| ClientShare { client: client.into(), peers, first_hand };
        let coverage = Coverage {
            by_client: vec![row("lighthouse", 3, 0.25), row("lodestar", 1, 0.125), row("teku", 2, 0.5)],
            by_label: vec![LabelShare { label: "pool=a".into(), validators: 16, first_hand: 0.123_456 }],
            ..Coverage::default()
        };
        let shown = coverage.with_large_sums_only();
        assert_eq!(shown.by_client, [row("lighthouse", 3, 0.25), row("other", 3, 0.625)]);
        assert!((shown.by_label[0].first_hand - 0.1).abs() < 1e-9);
        assert_eq!(share(Gwei::new(1), Gwei::new(0)), None);
        assert_eq!(share(Gwei::new(1), Gwei::new(3)), Some(0.3333));
    }
}
