//! Endpoints for checkpoint sync are other people's machines. A wrong one could show the watcher
//! another chain. So all of them are asked what is finalized, two that disagree stop the start, and
//! a state counts only if the finalized block commits to it.

use crate::clock;
use crate::error::WatcherError;
use chain::node::{NodeError, NodeSet, StateId};
use chain::{StateBlock, block_of_state};
use consensus::{Checkpoint, Preset, Root, Slot, Spec};

/// What to do about endpoints that contradict each other.
const ADVICE: &str = "at least one of them is wrong or follows another chain: compare with a beacon node or a block explorer \
                      that you trust, and leave the wrong one out";

/// What one endpoint calls finalized.
struct Finalized {
    nth: usize,
    label: String,
    checkpoint: Checkpoint,
    /// Whether another endpoint has the same block.
    is_confirmed: bool,
}

/// A finalized state, with the block that commits to it.
pub struct FinalizedState {
    pub ssz: Vec<u8>,
    pub block: StateBlock,
}

/// Fetches a finalized state: the latest one that a second endpoint confirms, if there are several.
///
/// # Errors
/// Two endpoints disagree; or no endpoint gives a state of the block that it calls finalized.
pub async fn finalized_state(endpoints: &NodeSet, spec: &Spec) -> Result<FinalizedState, WatcherError> {
    let mut failure = None;
    for one in finalized(endpoints, &spec.preset).await? {
        match state_of(endpoints, spec, &one).await {
            Ok(state) => return Ok(state),
            Err(error) => {
                tracing::warn!(endpoint = one.label, %error, "a checkpoint endpoint gives no usable state");
                failure.get_or_insert(error);
            }
        }
    }
    Err(failure.unwrap_or_else(|| WatcherError::Usage("no checkpoint endpoint is given".into())))
}

/// The latest epoch that an endpoint calls finalized, after the endpoints were compared.
pub async fn finalized_epoch(endpoints: &NodeSet, preset: &Preset) -> Result<consensus::Epoch, WatcherError> {
    Ok(finalized(endpoints, preset).await?.first().map(|best| best.checkpoint.epoch).unwrap_or_default())
}

/// Whether an endpoint has another block than this one in its slot.
pub async fn is_contradicted(endpoints: &NodeSet, slot: Slot, root: Root) -> bool {
    for nth in 0..endpoints.len() {
        if let Ok(Some(theirs)) = endpoints.block_root_of(nth, slot).await
            && theirs != root
        {
            tracing::warn!(endpoint = endpoints.label(nth), %slot, ours = %root, %theirs, "a checkpoint endpoint has another block");
            return true;
        }
    }
    false
}

/// Asks all endpoints what is finalized and compares the answers. Returns confirmed ones first, and
/// among these the latest first. An endpoint that does not answer is left out, with a warning.
///
/// Endpoints are rarely at the same epoch, so an earlier checkpoint is compared with the block that
/// the others have in its first slot. If they have none there, nothing can be compared.
async fn finalized(endpoints: &NodeSet, preset: &Preset) -> Result<Vec<Finalized>, WatcherError> {
    let mut known: Vec<Finalized> = Vec::new();
    let mut failure: Option<NodeError> = None;
    for (nth, (label, finalized)) in endpoints.finalized_of_each().await.into_iter().enumerate() {
        match finalized {
            Ok(checkpoint) => known.push(Finalized { nth, label, checkpoint, is_confirmed: false }),
            Err(error) => {
                tracing::warn!(endpoint = label, %error, "a checkpoint endpoint does not say what is finalized; it is not compared");
                failure = Some(error);
            }
        }
    }
    if known.is_empty() {
        return Err(failure.map_or_else(|| WatcherError::Usage("no checkpoint endpoint is given".into()), WatcherError::Node));
    }
    known.sort_by_key(|one| one.checkpoint.epoch);
    for at in 0..known.len() {
        for later in at + 1..known.len() {
            let (earlier, other) = (&known[at], &known[later]);
            let epoch = earlier.checkpoint.epoch;
            let theirs = match other.checkpoint.epoch == epoch {
                true => Some(other.checkpoint.root),
                // An endpoint that cannot answer this is no contradiction.
                false => endpoints.block_root_of(other.nth, epoch.start_slot(preset)).await.ok().flatten(),
            };
            // Before the first finality the root is zero, and stands for the genesis block.
            let Some(theirs) = theirs.filter(|theirs| theirs.is_zero() == earlier.checkpoint.root.is_zero()) else { continue };
            if theirs != earlier.checkpoint.root {
                return Err(WatcherError::Usage(format!(
                    "two checkpoint endpoints disagree about the finalized block of epoch {epoch}: {} has {}, {} has {theirs}; {ADVICE}",
                    earlier.label, earlier.checkpoint.root, other.label
                )));
            }
            let same_epoch = other.checkpoint.epoch == epoch;
            known[at].is_confirmed = true;
            known[later].is_confirmed |= same_epoch;
        }
    }
    if known.len() > 1 {
        match known.iter().rfind(|one| one.is_confirmed) {
            Some(best) => {
                tracing::info!(epoch = %best.checkpoint.epoch, root = %best.checkpoint.root, "checkpoint endpoints agree")
            }
            None => {
                let all: Vec<String> =
                    known.iter().map(|one| format!("{} (epoch {})", one.label, one.checkpoint.epoch)).collect();
                return Err(WatcherError::Usage(format!(
                    "the checkpoint endpoints finalized different epochs and do not know each other's blocks, so they cannot be \
                     compared: {}; start again in some minutes, or give one that you trust",
                    all.join(", ")
                )));
            }
        }
    }
    known.sort_by_key(|one| std::cmp::Reverse((one.is_confirmed, one.checkpoint.epoch)));
    Ok(known)
}

/// Fetches the finalized state of one endpoint, and checks that its finalized block commits to it.
async fn state_of(endpoints: &NodeSet, spec: &Spec, finalized: &Finalized) -> Result<FinalizedState, WatcherError> {
    let ssz = endpoints.state_ssz_of(finalized.nth, StateId::Finalized).await?;
    let spec_of_task = spec.clone();
    let hashed = tokio::task::spawn_blocking(move || (block_of_state(&spec_of_task, &ssz), ssz)).await;
    let (block, ssz) = hashed.map_err(|error| WatcherError::Internal(format!("the hash of a state: {error}")))?;
    let block = block?;
    let slot_ms = spec.slot_duration.as_millis().max(1) as u64;
    let now_ms = clock::now().0 / 1_000_000;
    let clock_slot = now_ms.saturating_sub(block.genesis_time.saturating_mul(1000)) / slot_ms;
    if block.slot.as_u64() > clock_slot {
        return Err(WatcherError::Usage(format!(
            "the state of {} is of slot {}, which is in the future by this machine's clock: correct the clock, or leave the endpoint out",
            finalized.label, block.slot
        )));
    }
    if !block.is_bound {
        return Err(WatcherError::Usage(format!(
            "the state of {} was carried on over empty slots, so its block does not commit to it: start again in an epoch, or ask your own node",
            finalized.label
        )));
    }
    // Before the first finality the checkpoint is the genesis block, and its root is zero.
    let is_genesis = finalized.checkpoint.root.is_zero() && block.slot == Slot::new(0);
    // Finality may have moved on while the state was fetched.
    let is_finalized = is_genesis
        || block.root == finalized.checkpoint.root
        || self::finalized(endpoints, &spec.preset).await?.iter().any(|one| one.checkpoint.root == block.root);
    if !is_finalized {
        return Err(WatcherError::Usage(format!(
            "the state of {} belongs to block {}, but block {} of epoch {} is finalized there; {ADVICE}",
            finalized.label, block.root, finalized.checkpoint.root, finalized.checkpoint.epoch
        )));
    }
    Ok(FinalizedState { ssz, block })
}
