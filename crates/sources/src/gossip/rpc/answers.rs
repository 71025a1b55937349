//! What a peer is told that asks for blocks, sidecars or envelopes, of which none are kept here.
//!
//! The specification leaves several answers to who has nothing: an empty stream, or code 3, ResourceUnavailable. Clients count
//! some of them against the peer, and each counts others: code 3 for blocks is a ban at Lighthouse, any error costs a third of
//! what a new peer has at Nimbus, an empty stream for columns is a ban at Lodestar. So the answer goes by the client's
//! name. `docs/peers.md` has the table with the place in each client's source.

use super::messages::{DataProtocol, Response, result_code};

/// A client as its agent string begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Lighthouse,
    Grandine,
    Nimbus,
    Lodestar,
    Prysm,
    Teku,
    /// Without a name, or with one that is not known.
    Other,
}

impl Client {
    fn of_agent(agent: &str) -> Self {
        let names = [
            ("lighthouse", Self::Lighthouse),
            ("grandine", Self::Grandine),
            ("nimbus", Self::Nimbus),
            ("lodestar", Self::Lodestar),
            ("js-libp2p", Self::Lodestar),
            ("prysm", Self::Prysm),
            ("teku", Self::Teku),
        ];
        let is_named = |name: &str| agent.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        names.into_iter().find(|(name, _)| is_named(name)).map_or(Self::Other, |(_, client)| client)
    }
}

/// The answer that costs least at the client that calls itself `agent`.
pub(in crate::gossip) fn to_data_request(data: DataProtocol, agent: Option<&str>) -> Response {
    use DataProtocol::{
        BlobsByRange, BlobsByRoot, BlocksByHead, BlocksByRangeV1, BlocksByRangeV2, BlocksByRootV1, BlocksByRootV2,
        ColumnsByRange, ColumnsByRoot, EnvelopesByRange, EnvelopesByRoot, InclusionLists,
    };
    let error = |code| Response::Error { code, message: "a listener, nothing is kept here".to_owned() };
    let unavailable = error(result_code::RESOURCE_UNAVAILABLE);
    match Client::of_agent(agent.unwrap_or_default()) {
        Client::Lodestar | Client::Prysm | Client::Teku => unavailable,
        // Any error is a missing answer there.
        Client::Nimbus => Response::Nothing,
        Client::Lighthouse => match data {
            BlobsByRoot | ColumnsByRoot => unavailable,
            BlocksByRangeV1 | BlocksByRangeV2 | BlocksByHead => Response::Nothing,
            // Who was asked by root claimed to have it, so an empty stream costs 10 points of 20; an unknown code costs 1.
            BlocksByRootV1 | BlocksByRootV2 | BlobsByRange | ColumnsByRange | EnvelopesByRange | EnvelopesByRoot
            | InclusionLists => error(result_code::NOT_KEPT),
        },
        Client::Grandine => match data {
            BlobsByRoot | ColumnsByRoot => unavailable,
            BlocksByRangeV1 | BlocksByRangeV2 | BlocksByRootV1 | BlocksByRootV2 | BlocksByHead | BlobsByRange
            | ColumnsByRange | EnvelopesByRange | EnvelopesByRoot | InclusionLists => Response::Nothing,
        },
        // Whoever of them it is under another name: what none of them bans for at once.
        Client::Other => match data {
            BlobsByRoot | ColumnsByRoot => unavailable,
            ColumnsByRange => error(result_code::NOT_KEPT),
            BlocksByRangeV1 | BlocksByRangeV2 | BlocksByRootV1 | BlocksByRootV2 | BlocksByHead | BlobsByRange
            | EnvelopesByRange | EnvelopesByRoot | InclusionLists => Response::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_known_by_the_beginning_of_their_agent() {
        let agents = [
            ("Lighthouse/v8.1.2-1a68631/x86_64-linux", Client::Lighthouse),
            ("Grandine/2.0.4", Client::Grandine),
            ("nimbus", Client::Nimbus),
            ("lodestar/v1.39.1", Client::Lodestar),
            ("js-libp2p/1.0.0", Client::Lodestar),
            ("Prysm/v7.1.6/c40b59a", Client::Prysm),
            ("teku/teku/v26.8.0", Client::Teku),
            ("slashwatch/0.1.0", Client::Other),
            ("tek\u{fc}", Client::Other),
            ("", Client::Other),
        ];
        for (agent, client) in agents {
            assert_eq!(Client::of_agent(agent), client, "{agent}");
        }
    }

    /// Of each client the answers that its source punishes at once.
    #[test]
    fn nobody_is_given_what_it_bans_for() {
        let code = |agent: &str, data| match to_data_request(data, Some(agent)) {
            Response::Error { code, .. } => Some(code),
            Response::Nothing => None,
            other => panic!("{other:?}"),
        };
        for data in DataProtocol::ALL {
            let by_root = matches!(data, DataProtocol::BlobsByRoot | DataProtocol::ColumnsByRoot);
            for rust in ["Lighthouse/v8", "Grandine/2"] {
                assert_eq!(code(rust, data) == Some(3), by_root, "{rust}: code 3 bans, but for sidecars by root ({data:?})");
            }
            assert_eq!(code("nimbus", data), None, "nimbus: errors cost 100 of 300 points ({data:?})");
            assert_eq!(code("lodestar/v1.39.1", data), Some(3), "lodestar: code 3 costs nothing ({data:?})");
            for agent in ["Lighthouse/v8", "Grandine/2", "nimbus", "lodestar/v1", "Prysm/v7", "teku/teku/v26", "", "?"] {
                assert!(!matches!(code(agent, data), Some(1 | 2 | 139 | 140)), "{agent} {data:?}");
            }
        }
    }
}
