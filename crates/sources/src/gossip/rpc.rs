//! Requests and responses between nodes, which a node must answer so that its peers keep it.
//!
//! A client drops a peer within a minute if that peer does not support `status`, `ping`, `metadata`
//! and `goodbye`. Clients also request blocks, sidecars and envelopes. This listener keeps the
//! blocks of the last epochs and nothing else (`blocks.rs`), but it must support each of these
//! requests, because an unsupported one costs points at some clients. `answers.rs` decides what to
//! answer instead. All bodies are SSZ in *framed* snappy, after their length as a varint. A
//! response chunk begins with a result byte:
//!
//! ```text
//! request   varint length | frames                     (metadata: nothing at all)
//! response  0 | varint length | frames                 success
//!           0 | fork digest | varint length | frames   a block, as often as there are blocks
//!           n | varint length <= 256 | frames          an error, with a message
//! ```
//!
//! The length of each message is known, so a body of another length is refused before it is read.
//! Source: consensus-specs, phase0/p2p-interface.md, "The Req/Resp domain", and
//! fulu/p2p-interface.md for status/2 and metadata/3.

mod answers;
mod blocks;
mod codec;
mod messages;
mod quota;

pub(super) use answers::to_data_request;
pub(super) use blocks::{BlockChunk, ServedBlocks, ServingBudget, TooMuch, UnderWay};
pub(super) use codec::RpcCodec;
pub(crate) use messages::goodbye;
pub use messages::{BlockQuery, DataProtocol, Metadata, Protocol, StatusMessage};
pub(super) use messages::{Request, Response, result_code};
pub(super) use quota::Quotas;

use libp2p::request_response::{Behaviour, Config, ProtocolSupport};
use std::time::Duration;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one peer for one protocol that are answered at the same time.
const CONCURRENT_STREAMS: usize = 8;
/// Requests for blocks by range, or by root, that may be under way on one connection.
/// `MAX_CONCURRENT_REQUESTS` is 2 for each side.
const CONCURRENT_BLOCK_STREAMS: usize = 4;

/// Creates a behaviour for the versions of one protocol, with the preferred version first.
pub(super) fn behaviour(versions: &[Protocol], support: ProtocolSupport) -> Behaviour<RpcCodec> {
    let config = Config::default().with_request_timeout(REQUEST_TIMEOUT).with_max_concurrent_streams(CONCURRENT_STREAMS);
    Behaviour::with_codec(RpcCodec::default(), versions.iter().map(|version| (*version, support.clone())), config)
}

/// Creates a behaviour for requests for blocks. This node asks with the first version only, because
/// the older one names no fork.
pub(super) fn block_behaviour(versions: [DataProtocol; 2], timeout: Duration) -> Behaviour<RpcCodec> {
    let config = Config::default().with_request_timeout(timeout).with_max_concurrent_streams(CONCURRENT_BLOCK_STREAMS);
    let support = [ProtocolSupport::Full, ProtocolSupport::Inbound];
    let protocols = versions.map(Protocol::Data).into_iter().zip(support);
    Behaviour::with_codec(RpcCodec::default(), protocols, config)
}
