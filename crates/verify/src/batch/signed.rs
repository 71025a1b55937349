//! The type for a thing whose signers are proven.

use std::ops::Deref;

/// A value whose signers did sign it. Its only constructor is private to the batch verifier, so
/// holding a `Signed` proves this.
#[derive(Clone, Debug)]
pub struct Signed<T>(T);

impl<T> Signed<T> {
    pub(in crate::batch) fn proven(inner: T) -> Self {
        Self(inner)
    }

    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }

    /// Makes a vote or proposal that nobody checked, for tests and benches of the crates that use
    /// this one.
    #[cfg(feature = "test-support")]
    pub fn for_tests(inner: T) -> Self {
        Self(inner)
    }
}

impl<T> Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
