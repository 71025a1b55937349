//! The public keys of the builders (Gloas). They are a short list of their own in the state. The
//! index of a builder that has left can be given to another builder.

use blst::min_pk::PublicKey;
use consensus::{BuilderIndex, PubkeyBytes};

/// Maximum number of builders that are kept. Checking one key takes 62 us. A builder stakes at
/// least 1 ETH, and there are dozens of them.
pub(crate) const MAX_BUILDERS: usize = 16_384;

#[derive(Debug, Default)]
pub(crate) struct Builders(Vec<(PubkeyBytes, Option<PublicKey>)>);

impl Builders {
    pub(crate) fn key(&self, builder: BuilderIndex) -> Option<&PublicKey> {
        self.0.get(usize::try_from(builder.as_u64()).ok()?)?.1.as_ref()
    }

    /// Replaces the list by the list of a newer state. A key that has not changed at its index is
    /// not checked again.
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
