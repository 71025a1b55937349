//! Records of proofs that were sent to beacon nodes: which proof, how many attempts, and the
//! result.
//!
//! There is one record per proof. They are numbered in the order of the first attempt. A record is
//! written before anything is sent, and again when the node has answered. So a process that is
//! killed in between leaves the record `pending`, and it is unknown whether the node has the proof.
//!
//! Records are checkpoints named `submission:` and the number in 20 digits, so the order of names
//! is the order of numbers. The checkpoint `submissions` says up to which finding the submitter has
//! looked. Programs that do not know these names leave them alone.

use crate::outbox::shortened;
use crate::{Evidence, EvidenceKind, Store, StoreError, Time};
use consensus::{ForkName, Root};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const PREFIX: &str = "submission:";
const LOOKED_AT: &str = "submissions";
/// The version of the JSON below. Any other shape needs another number.
pub const SUBMISSION_SCHEMA: u64 = 1;

/// A proof that is sent to beacon nodes. The order of the fields is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submission {
    /// Version of this JSON.
    pub schema: u64,
    /// Starts with 1, in the order of the first attempt.
    pub number: u64,
    /// The id of the proof.
    #[schema(value_type = String)]
    pub evidence: Root,
    #[serde(rename = "type")]
    pub kind: EvidenceKind,
    /// The fork of the proof.
    #[schema(value_type = String)]
    pub fork: ForkName,
    /// The id of the first finding that it proves.
    #[schema(value_type = String)]
    pub finding: Root,
    pub state: SubmissionState,
    /// Number of attempts begun so far.
    pub attempts: u32,
    /// When the first attempt began.
    #[schema(value_type = String)]
    pub first_attempt: Time,
    /// When the latest attempt began.
    #[schema(value_type = String)]
    pub last_attempt: Time,
    /// Base addresses of the nodes that accepted it.
    pub nodes: Vec<String>,
    /// The answer of a node that refused it, the reason why it was not needed, or the error of the
    /// last attempt.
    pub answer: Option<String>,
}

/// The state of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubmissionState {
    /// An attempt is being made, or will be repeated.
    Pending,
    /// A node has it in its pool.
    Accepted,
    /// A node refused it. It is not tried again.
    Refused,
    /// Everyone whom it accuses was punished, or could not be punished any more, before it was
    /// sent.
    NotNeeded,
}

impl SubmissionState {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Accepted, Self::Refused, Self::NotNeeded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::NotNeeded => "not_needed",
        }
    }
}

impl Submission {
    /// Creates a record before its first attempt.
    pub fn new(number: u64, finding: Root, evidence: &Evidence, now: Time) -> Self {
        Self {
            schema: SUBMISSION_SCHEMA,
            number,
            evidence: evidence.id,
            kind: evidence.kind,
            fork: evidence.fork,
            finding,
            state: SubmissionState::Pending,
            attempts: 0,
            first_attempt: now,
            last_attempt: now,
            nodes: Vec::new(),
            answer: None,
        }
    }

    /// Sets the state, which may still be pending, and the answer.
    pub fn ends(&mut self, state: SubmissionState, answer: Option<&str>) {
        self.state = state;
        self.answer = answer.map(shortened);
    }
}

impl Store {
    /// Writes a record, synced.
    pub fn put_submission(&self, submission: &Submission) -> Result<(), StoreError> {
        let json = serde_json::to_vec(submission).expect("a submission has string keys only");
        self.put_checkpoint(&name(submission.number), &json)
    }

    /// Returns the records after this number, in order, `limit` at most.
    pub fn submissions_after(&self, number: u64, limit: usize) -> Result<Vec<Submission>, StoreError> {
        let Some(first) = number.checked_add(1) else { return Ok(Vec::new()) };
        let rows = self.checkpoints(PREFIX, &name(first), limit)?.into_iter();
        let record = |(_, value): (String, Vec<u8>)| serde_json::from_slice(&value);
        rows.map(record).collect::<Result<_, _>>().map_err(|error| self.damaged(&format!("the record of a submission: {error}")))
    }

    /// Stores that the submitter need not look again at findings up to this number.
    pub fn put_submissions_looked_at(&self, seq: u64) -> Result<(), StoreError> {
        self.put_checkpoint(LOOKED_AT, &seq.to_be_bytes())
    }

    /// The number of the last finding that the submitter has looked at. 0 if it has not looked yet.
    pub fn submissions_looked_at(&self) -> Result<u64, StoreError> {
        let Some(bytes) = self.checkpoint(LOOKED_AT)? else { return Ok(0) };
        let seq = bytes.as_slice().try_into().map_err(|_| self.damaged("how far findings were looked at for submission"))?;
        Ok(u64::from_be_bytes(seq))
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}
