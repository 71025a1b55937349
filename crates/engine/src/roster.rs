//! Who is meant by the lists now: resolved anew when the lists change, when a state brings validators, and when blocks show
//! new payers of fees, which is looked at once an epoch because it costs a pass over the registry.

use chain::{Chain, Registry};
use consensus::{Epoch, ExecutionAddress};
use detect::watch::{FeePayers, Labels, Selector, WatchList};
use evidence::{Store, StoreError};
use std::sync::Arc;
use verify::Verified;

/// Where fee payers are remembered over restarts, as JSON.
const FEE_PAYERS: &str = "watch_fee_payers";

/// The lists, and who they mean.
pub struct Roster {
    list: Arc<WatchList>,
    payers: FeePayers,
    labels: Arc<Labels>,
    /// Somebody new pays fees to a watched address.
    has_news: bool,
    looked_at: Epoch,
    store: Store,
}

impl Roster {
    /// Takes over the payers of fees that earlier runs learned.
    pub fn new(store: Store) -> Result<Self, StoreError> {
        // A note that does not parse costs learning it again.
        let payers = store.checkpoint(FEE_PAYERS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Self { list: Arc::default(), payers, labels: Arc::default(), has_news: false, looked_at: Epoch::new(0), store })
    }

    /// Who is who, of this moment.
    pub fn labels(&self) -> &Arc<Labels> {
        &self.labels
    }

    /// New lists.
    pub fn set(&mut self, list: Arc<WatchList>, registry: &Registry) {
        self.payers.watch(list.entries().iter().filter_map(|entry| match &entry.selector {
            Selector::FeeRecipient(address) => Some(*address),
            Selector::Index(_) | Selector::Range { .. } | Selector::Pubkey(_) | Selector::WithdrawalCredentials(_) => None,
        }));
        self.list = list;
        self.resolve(registry);
    }

    /// The registry may have changed.
    pub fn resolve(&mut self, registry: &Registry) {
        self.has_news = false;
        if self.list.is_empty() && self.labels.is_empty() {
            return;
        }
        self.labels = Arc::new(Labels::resolve(&self.list, registry, &self.payers));
        if self.labels.n_refused() > 0 {
            tracing::warn!(
                watched = self.labels.n_watched(),
                refused = self.labels.n_refused(),
                "more keys than can be watched: these are only labelled; split them over several watchers"
            );
        }
    }

    /// Proven blocks: learns who pays fees to whom. Whether who is meant has changed.
    pub fn observe(&mut self, verified: &Verified, chain: &Chain, now: Epoch) -> Result<bool, StoreError> {
        if self.payers.is_empty() {
            return Ok(false);
        }
        for block in &verified.blocks {
            if let Some(address) = block.block.fee_recipient.filter(|address| *address != ExecutionAddress::ZERO) {
                self.has_news |= self.payers.seen(block.block.signed_header.message.proposer_index, address);
            }
        }
        if !self.has_news || now == self.looked_at {
            return Ok(false);
        }
        self.looked_at = now;
        self.store.put_checkpoint(FEE_PAYERS, &serde_json::to_vec(&self.payers).expect("addresses and numbers"))?;
        self.resolve(chain.registry());
        Ok(true)
    }
}
