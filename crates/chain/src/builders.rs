//! Builders' keys (Gloas): a list of their own in the state, short, and with places that are given to somebody else later.

use blst::min_pk::PublicKey;
use consensus::{BuilderIndex, PubkeyBytes};

/// Builders known at most: 62 us each to check. A builder stakes 1 ETH or more; there are dozens.
pub(crate) const MAX_BUILDERS: usize = 16_384;

#[derive(Debug, Default)]
pub(crate) struct Builders(Vec<(PubkeyBytes, Option<PublicKey>)>);

impl Builders {
    pub(crate) fn key(&self, builder: BuilderIndex) -> Option<&PublicKey> {
        self.0.get(usize::try_from(builder.as_u64()).ok()?)?.1.as_ref()
    }

    /// What is known already is not checked again.
    pub(crate) fn take(&mut self, keys: Vec<PubkeyBytes>) {
        let mut known = std::mem::take(&mut self.0).into_iter();
        self.0 = keys
            .into_iter()
            .take(MAX_BUILDERS)
            .map(|bytes| match known.next() {
                Some(row) if row.0 == bytes => row,
                _ => (bytes, PublicKey::key_validate(bytes.as_slice()).ok()),
            })
            .collect();
    }
}
