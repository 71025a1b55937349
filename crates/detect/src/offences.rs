//! From a contradiction to a finding: which pairs are worth a finding, their second proof, and who
//! was punished.
//!
//! | module | what |
//! |---|---|
//! | [`prove`] | the specification's predicate, both signatures once more, the finding |
//! | [`punishable`] | whether a block could still include the slashing |
//! | [`quota`] | how many findings are listed for one validator |
//! | [`inclusions`] | which blocks carry a slashing, and whether the chain keeps them |
//! | [`slashed_by_block`] | whom such a block has slashed |
//! | [`registry_status`] | who has nothing to lose, and who can have no turn |
//!
//! Nothing here reads or writes a database. The engine reads what was recorded before and passes it
//! in.

mod inclusions;
mod prove;
mod punishable;
mod quota;
mod registry_status;
mod slashed_by_block;

pub use inclusions::{InclusionChanges, InclusionRows, Inclusions, SourceState};
pub use prove::{Candidate, Proofs, ProvenConflict, Unproven, accused, merge, prove_conflict, prove_operation};
pub use punishable::punishable;
pub use quota::{ListedFindings, Quota, QuotaAnswer, SeenIn};
pub use registry_status::{cannot_be_punished, cannot_propose};
pub use slashed_by_block::SlashedByBlock;
