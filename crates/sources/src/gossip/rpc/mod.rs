//! Requests and responses between nodes: what a peer must answer to be kept.
//!
//! A client drops a peer within a minute that does not speak `status`, `ping`, `metadata` and `goodbye`. Blocks, sidecars
//! and envelopes are asked for too. This listener keeps none, and must still know each request: one that is not known costs
//! points at some clients. `answers.rs` has what is answered instead. Everything is SSZ in *framed* snappy behind its length as a varint, and a
//! response chunk begins with a result byte:
//!
//! ```text
//! request   varint length | frames                 (metadata: nothing at all)
//! response  0 | varint length | frames             success
//!           n | varint length <= 256 | frames      an error, with a message
//! ```
//!
//! Lengths are known per message, so anything else than the expected length is refused before it is read.
//! Source: consensus-specs, phase0/p2p-interface.md "The Req/Resp domain", fulu/p2p-interface.md for status/2, metadata/3.

mod answers;
mod codec;
mod messages;
mod quota;

pub(super) use answers::to_data_request;
pub(super) use codec::RpcCodec;
pub use messages::{DataProtocol, Metadata, Protocol, StatusMessage};
pub(super) use messages::{Request, Response, goodbye, result_code};
pub(super) use quota::Quotas;

use libp2p::request_response::{Behaviour, Config, ProtocolSupport};
use std::time::Duration;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one peer and protocol answered at the same time.
const CONCURRENT_STREAMS: usize = 8;

/// A behaviour for the versions of one protocol, the preferred first.
pub(super) fn behaviour(versions: &[Protocol], support: ProtocolSupport) -> Behaviour<RpcCodec> {
    let config = Config::default().with_request_timeout(REQUEST_TIMEOUT).with_max_concurrent_streams(CONCURRENT_STREAMS);
    Behaviour::with_codec(RpcCodec, versions.iter().map(|version| (*version, support.clone())), config)
}
