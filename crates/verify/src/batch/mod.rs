//! The batch verifier: the only place where a [`Signed`] is made.

mod signed;

pub use signed::Signed;
