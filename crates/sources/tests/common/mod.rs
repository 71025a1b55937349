//! What several tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it, and an unwrap is an assertion")]

use sources::gossip::{ConnectionState, GossipControl, PeerInfo};
use std::io::Write as _;
use std::time::Duration;

/// How long a test waits for what it expects.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until the peers and the state of a node are as wanted.
pub async fn until<T>(control: &GossipControl, what: &str, wanted: impl Fn(&[PeerInfo], &ConnectionState) -> Option<T>) -> T {
    let mut views = control.watch_peers();
    let found = async {
        loop {
            let peers = views.borrow_and_update().clone();
            if let Some(found) = wanted(&peers, &control.state()) {
                return found;
            }
            views.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => panic!("not so: {what}; {:?} {:?}", control.peers(), control.state()),
    }
}

/// Encodes a body as varint length and snappy frames.
pub fn packed(body: &[u8]) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let mut out = unsigned_varint::encode::usize(body.len(), &mut buffer).to_vec();
    let mut frames = snap::write::FrameEncoder::new(Vec::new());
    frames.write_all(body).unwrap();
    out.extend(frames.into_inner().unwrap());
    out
}
