//! Endpoints for checkpoint sync are other people's machines. A wrong one could show the watcher
//! another chain. So all of them are asked what is finalized, and two that disagree stop the start.

use crate::error::WatcherError;
use chain::node::{NodeError, NodeSet};
use consensus::{Checkpoint, Network, Preset, Root};

/// What to do about endpoints that contradict each other.
const ADVICE: &str = "at least one of them is wrong or follows another chain: compare with a beacon node or a block explorer \
                      that you trust, and leave the wrong one out";

/// Returns the latest checkpoint that an endpoint calls finalized, if no other endpoint contradicts
/// it. An endpoint that does not answer is left out, with a warning.
///
/// Endpoints are rarely at the same epoch, so an earlier checkpoint is compared with the block that
/// the others have in its first slot. If they have none there, nothing can be compared.
pub async fn agreed(endpoints: &NodeSet, preset: &Preset) -> Result<Checkpoint, WatcherError> {
    let mut known: Vec<(usize, String, Checkpoint)> = Vec::new();
    let mut failure: Option<NodeError> = None;
    for (nth, (label, finalized)) in endpoints.finalized_of_each().await.into_iter().enumerate() {
        match finalized {
            Ok(checkpoint) => known.push((nth, label, checkpoint)),
            Err(error) => {
                tracing::warn!(endpoint = label, %error, "a checkpoint endpoint does not say what is finalized; it is not compared");
                failure = Some(error);
            }
        }
    }
    known.sort_by_key(|(_, _, checkpoint)| checkpoint.epoch);
    let Some((_, _, latest)) = known.last() else {
        return Err(failure.map_or_else(|| WatcherError::Usage("no checkpoint endpoint is given".into()), WatcherError::Node));
    };
    for (at, (_, earlier, checkpoint)) in known.iter().enumerate() {
        for (nth, later, other) in &known[at + 1..] {
            let theirs = match other.epoch == checkpoint.epoch {
                true => Some(other.root),
                // An endpoint that cannot answer this is no contradiction.
                false => endpoints.block_root_of(*nth, checkpoint.epoch.start_slot(preset)).await.ok().flatten(),
            };
            if let Some(theirs) = theirs.filter(|theirs| *theirs != checkpoint.root) {
                return Err(WatcherError::Usage(format!(
                    "two checkpoint endpoints disagree about the finalized block of epoch {}: {earlier} has {}, {later} has {theirs}; {ADVICE}",
                    checkpoint.epoch, checkpoint.root
                )));
            }
        }
    }
    if known.len() > 1 {
        tracing::info!(endpoints = known.len(), epoch = %latest.epoch, root = %latest.root, "the checkpoint endpoints agree");
    }
    Ok(*latest)
}

/// Checks that a fetched state belongs to the finalized block. Finality may have moved on while the
/// state was fetched, so the endpoints are asked once more before the state is refused.
pub async fn expect_block(endpoints: &NodeSet, network: &Network, wanted: Checkpoint, found: Root) -> Result<(), WatcherError> {
    if found == wanted.root || agreed(endpoints, network.preset()).await?.root == found {
        return Ok(());
    }
    Err(WatcherError::Usage(format!(
        "the state of a checkpoint endpoint belongs to block {found}, but block {} of epoch {} is finalized there; {ADVICE}",
        wanted.root, wanted.epoch
    )))
}
