//! The validators that the lists of watched keys mean at the moment.
//!
//! They are resolved again when the lists change, when a state brings new validators, and when
//! blocks show new fee payers. New fee payers are checked only once per epoch, because that costs a
//! pass over the registry.

use chain::{Chain, Registry};
use consensus::{Epoch, ExecutionAddress};
use detect::watch::{FeePayers, Labels, Selector, WatchList};
use evidence::{Store, StoreError};
use std::sync::Arc;
use verify::Verified;

/// Name of the checkpoint that keeps fee payers over restarts, as JSON.
const FEE_PAYERS: &str = "watch_fee_payers";

/// The lists, and the validators that they mean.
pub struct LabelResolver {
    list: Arc<WatchList>,
    payers: FeePayers,
    labels: Arc<Labels>,
    /// True if a validator was seen that had not paid fees to this watched address before.
    has_news: bool,
    looked_at: Epoch,
    store: Store,
}

impl LabelResolver {
    /// Loads the fee payers that earlier runs learned.
    pub fn new(store: Store) -> Result<Self, StoreError> {
        // If the checkpoint cannot be parsed, the fee payers are learned again.
        let payers = store.checkpoint(FEE_PAYERS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Self { list: Arc::default(), payers, labels: Arc::default(), has_news: false, looked_at: Epoch::new(0), store })
    }

    /// Returns the current groups and labels.
    pub fn labels(&self) -> &Arc<Labels> {
        &self.labels
    }

    /// Takes new lists and resolves them.
    pub fn set(&mut self, list: Arc<WatchList>, registry: &Registry) {
        self.payers.watch(list.entries().iter().filter_map(|entry| match &entry.selector {
            Selector::FeeRecipient(address) => Some(*address),
            Selector::Index(_) | Selector::Range { .. } | Selector::Pubkey(_) | Selector::WithdrawalCredentials(_) => None,
        }));
        self.list = list;
        self.resolve(registry);
    }

    /// Resolves the lists again, because the registry may have changed.
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
        if self.labels.n_cut() > 0 {
            tracing::warn!(
                validators = self.labels.n_cut(),
                "the lists say more about these validators than counts; what groups say counts first: remove lists or labels"
            );
        }
    }

    /// Learns from proven blocks which proposer pays fees to which address. Returns true if the
    /// lists were resolved again.
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
