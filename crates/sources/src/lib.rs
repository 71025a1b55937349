//! Sources of messages: gossip over libp2p, a beacon node's event stream, capture files and ERA
//! files.
//!
//! Every source produces the same type, [`verify::RawMessage`]. It holds the bytes of one message,
//! the time of its arrival, and its sender. The size of the bytes is checked against the limit of
//! the message's kind *before* they are decompressed or copied. This crate does not judge messages.
//! The verifier's verdict comes back through [`gossip::GossipHandle::report`], and only then is a
//! message forwarded to the mesh.
//!
//! | module | subject |
//! |---|---|
//! | [`topic`] | names of gossip topics, and the fork that a digest stands for |
//! | [`limits`] | the greatest size of each kind of message; bounded snappy decompression |
//! | [`convert`] | capture entries and API events become raw messages or an [`convert::Refusal`] |
//! | [`capture`] | the `.e2s` file: reader (for ERA files too) and writer |
//! | [`discovery`] | finds peers by discv5, and lets peers find us |
//! | [`gossip`] | a listener in the p2p network |
//! | [`api_stream`] | a beacon node's server-sent events |
//! | [`source`] | what live sources have in common: the trait [`source::Source`] and its events |
//! | [`queue`] | the queue behind a source: bounded in messages and bytes |
//! | [`metrics`] | all counters of this crate |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api_stream;
pub mod capture;
pub mod convert;
pub mod discovery;
pub mod gossip;
pub mod limits;
pub mod metrics;
pub mod queue;
pub mod source;
pub mod topic;
