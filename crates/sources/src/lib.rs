//! Where messages come from: gossip over libp2p, a beacon node's event stream, capture and ERA files.
//!
//! Every source ends in the same thing, a [`verify::RawMessage`]: bytes whose size was checked against the limit of their
//! kind *before* they were decompressed or copied, with the time they arrived and who sent them. Nothing here judges a
//! message; what became of it comes back by [`gossip::GossipHandle::report`], and only then does the mesh hear more of it.
//!
//! | module | subject |
//! |---|---|
//! | [`topic`] | names on the wire, and the fork behind a digest |
//! | [`limits`] | how large each kind may be; bounded snappy |
//! | [`intake`] | capture entries and API events become raw messages, or a [`intake::Refusal`] with its reason |
//! | [`capture`] | the `.e2s` file: reader (ERA files too) and writer |
//! | [`gossip`] | a listening post in the p2p network |
//! | [`api_stream`] | a beacon node's server-sent events |
//! | [`queue`] | the queue behind a source: bounded in messages and bytes |
//! | [`metrics`] | the catalogue of counters |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api_stream;
pub mod capture;
pub mod gossip;
pub mod intake;
pub mod limits;
pub mod metrics;
pub mod queue;
pub mod topic;
