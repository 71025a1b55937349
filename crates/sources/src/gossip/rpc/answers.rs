//! Answers to requests for blocks, sidecars or envelopes. This node keeps none of them.
//!
//! The specification allows several answers for a node that has nothing: an empty stream, or code
//! 3, ResourceUnavailable. Clients penalize some of these answers, and each client penalizes
//! different ones. Lighthouse bans a peer that answers a request for blocks with code 3. At Nimbus
//! any error costs a third of the points of a new peer. Lodestar bans a peer that answers a request
//! for columns with an empty stream. So the answer depends on the client's name. `docs/peers.md`
//! has the table, with the place in each client's source.

use super::messages::{DataProtocol, Response, result_code};
use crate::gossip::client::Client;

/// Returns the answer that costs least at the client whose agent string is `agent`.
pub(in crate::gossip) fn to_data_request(data: DataProtocol, agent: Option<&str>) -> Response {
    use DataProtocol::{
        BlobsByRange, BlobsByRoot, BlocksByHead, BlocksByRangeV1, BlocksByRangeV2, BlocksByRootV1, BlocksByRootV2,
        ColumnsByRange, ColumnsByRoot, EnvelopesByRange, EnvelopesByRoot, InclusionLists,
    };
    let error = |code| Response::Error { code, message: "a listener, nothing is kept here".to_owned() };
    let unavailable = error(result_code::RESOURCE_UNAVAILABLE);
    match Client::of_agent(agent) {
        Client::Lodestar | Client::Prysm | Client::Teku => unavailable,
        // Nimbus treats any error as a missing answer.
        Client::Nimbus => Response::Nothing,
        Client::Lighthouse => match data {
            BlobsByRoot | ColumnsByRoot => unavailable,
            BlocksByRangeV1 | BlocksByRangeV2 | BlocksByHead => Response::Nothing,
            // Lighthouse asks by root only a peer that claimed to have the block, so an empty
            // stream costs 10 of 20 points. An unknown code costs 1 point.
            BlocksByRootV1 | BlocksByRootV2 | BlobsByRange | ColumnsByRange | EnvelopesByRange | EnvelopesByRoot
            | InclusionLists => error(result_code::NOT_KEPT),
        },
        Client::Grandine => match data {
            BlobsByRoot | ColumnsByRoot => unavailable,
            BlocksByRangeV1 | BlocksByRangeV2 | BlocksByRootV1 | BlocksByRootV2 | BlocksByHead | BlobsByRange
            | ColumnsByRange | EnvelopesByRange | EnvelopesByRoot | InclusionLists => Response::Nothing,
        },
        // This may be any client under another name, so it gets answers for which no client bans at
        // once.
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

    /// Checks for each client that it does not get an answer that its source punishes at once.
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
