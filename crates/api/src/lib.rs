//! The read-only HTTP interface: REST, an event stream, metrics and a web page.
//!
//! This crate knows the [`Store`](evidence::Store) of the findings and a Prometheus registry.
//! Through [`StatusSource`], [`WatchSource`] and [`ObservedSource`] it shows what other parts of
//! the process report about themselves and about the network. It knows no queues and no detectors.
//! No request changes anything, so reading needs no token unless that is configured. A token shows
//! more, see [`Scope`]. The API listens on the configured address, which is a loopback address by
//! default.
//!
//! In the JSON, numbers that are u64 in Ethereum's specification are decimal strings, and bytes are
//! 0x-hex. Counts of incidents and `further_pairs` are decimal strings too, durations and attempts
//! are numbers. Findings and submissions are shown as they are stored, incidents without
//! `tracking`.
//!
//! - [`problem`]: errors, RFC 9457
//! - `findings`, `incidents`, `submissions`, `events`, `watch`, `coverage`, `process`, `slots`,
//!   `heads`, `validators`, `network`, `slashings`, `beacon`: the handlers
//! - `numbers`: cursors and ids of events that tell nothing of what is hidden
//! - `streams`: what the event streams have in common
//! - `access`, `tokens`, `rate_limit`, `hosts`, `cors`, `tls`: who is answered
//! - `observed`: what was heard of the network
//! - `pack`: the evidence of an incident in one file
//! - `status`: what the process reports about itself
//! - [`metrics`]: the API's own metrics
//! - `page`, `docs`: the web page and the reader of the description, files that are compiled in
//!
//! ```no_run
//! # async fn example(
//! #     store: evidence::Store,
//! #     network: consensus::Network,
//! #     status: std::sync::Arc<dyn api::StatusSource>,
//! #     observed: std::sync::Arc<dyn api::ObservedSource>,
//! # ) -> Result<(), api::ApiError> {
//! let listener = api::bind("127.0.0.1:5080".parse().expect("an address")).await?;
//! // Everything else as for an API that shows the findings only.
//! let parts = api::ApiParts { status, observed, ..api::ApiParts::of_store(store, network) };
//! api::serve(listener, parts, tokio_util::sync::CancellationToken::new()).await
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod addresses;
mod beacon;
mod book;
mod boost;
mod caching;
mod connections;
mod cors;
mod coverage;
mod docs;
mod events;
mod findings;
mod heads;
mod hosts;
mod incidents;
pub mod metrics;
mod middleware;
mod network;
mod numbers;
mod observed;
mod pack;
mod page;
mod privacy;
pub mod problem;
mod process;
mod rate_limit;
mod roots;
mod server;
mod slashings;
mod slots;
mod status;
mod streams;
mod submissions;
mod tls;
mod tokens;
mod validators;
mod watch;
mod write_timeout;

pub use connections::{HEADER_TIMEOUT, PROBE_CONNECTIONS};
pub use cors::is_origin;
pub use coverage::{ClientShare, Coverage, GroupHeard, LabelShare, Peering, PeeringFlag, Punished, share};
pub use hosts::{host_of, is_host};
pub use observed::{
    CapturedProof, ClientVotes, Heard, LabelVotes, LabelledValidator, NothingObserved, ObservedBlock, ObservedProposal,
    ObservedSlot, ObservedSource, ObservedValidator, ObservedVote, ObservedVotes, PackCapture, PeersAtHead, ReadError, Recent,
    RegistryView, SlotSource, Traffic, TreeBlock, ValidatorKey, ValidatorQuery, VoteTally,
};
pub use pack::{PackError, differing_fields, differing_header_fields, incident_pack};
pub use privacy::{OwnKeys, shows_addresses};
pub use server::{ApiError, ApiParts, Listener, answer_while, bind, openapi_json, serve};
pub use status::{Connections, Gap, GoodbyeView, Head, NodeState, NothingReported, PeerView, Readiness, Status, StatusSource};
pub use tls::{TlsError, TlsFiles};
pub use tokens::{Scope, TokenError, TokenFile, TokenRecord};
pub use watch::{
    AfterStopView, HeldBackView, KeyFilter, KillSwitchView, MAX_GROUP_LABELS, NoKeys, OrderView, SignedView, WatchGroup,
    WatchPage, WatchSource, WatchedKey, index_ranges,
};
