//! Proofs that were handed to beacon nodes: which, how often it was tried, and how it ended.
//!
//! One record per proof, numbered in the order of the first attempt. It is written before anything is sent, and again when the node
//! has answered, so a process that is killed in between leaves `pending` behind: nobody knows whether the node has it.
//!
//! Records are checkpoints named `submission:` and the number in 20 digits, so that the order of names is that of numbers; how far
//! the findings were looked at is the checkpoint `submissions`. Programs that know neither leave them alone.

use crate::outbox::shortened;
use crate::{Evidence, EvidenceKind, Store, StoreError, Time};
use consensus::{ForkName, Root};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "submission:";
const LOOKED_AT: &str = "submissions";
/// The version of the JSON below. Another shape is another number.
pub const SUBMISSION_SCHEMA: u64 = 1;

/// A proof on its way to the beacon nodes, or there. The order of the fields is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// [`SUBMISSION_SCHEMA`].
    pub schema: u64,
    /// From 1, in the order of the first attempt.
    pub number: u64,
    /// The proof.
    pub evidence: Root,
    #[serde(rename = "type")]
    pub kind: EvidenceKind,
    pub fork: ForkName,
    /// The first finding that it proves.
    pub finding: Root,
    pub state: SubmissionState,
    /// Attempts begun so far.
    pub attempts: u32,
    pub first_attempt: Time,
    pub last_attempt: Time,
    /// Base addresses of the nodes that took it.
    pub nodes: Vec<String>,
    /// A refusing node's words, why it was not needed, or what the last attempt met.
    pub answer: Option<String>,
}

/// Where a submission stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubmissionState {
    /// An attempt is under way, or is to be repeated.
    Pending,
    /// A node has it in its pool.
    Accepted,
    /// A node does not want it; not tried again.
    Refused,
    /// Everybody whom it accuses was punished, or out of reach, before it was sent.
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
    /// Before its first attempt.
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

    /// Ends it, or leaves it pending, with what was said.
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

    /// Records after this number, in order, `limit` at most.
    pub fn submissions_after(&self, number: u64, limit: usize) -> Result<Vec<Submission>, StoreError> {
        let Some(first) = number.checked_add(1) else { return Ok(Vec::new()) };
        let rows = self.checkpoints(PREFIX, &name(first), limit)?.into_iter();
        let record = |(_, value): (String, Vec<u8>)| serde_json::from_slice(&value);
        rows.map(record).collect::<Result<_, _>>().map_err(|error| self.damaged(&format!("the record of a submission: {error}")))
    }

    /// Findings up to this number need not be looked at again by who submits proofs.
    pub fn put_submissions_looked_at(&self, seq: u64) -> Result<(), StoreError> {
        self.put_checkpoint(LOOKED_AT, &seq.to_be_bytes())
    }

    /// 0 before the first look.
    pub fn submissions_looked_at(&self) -> Result<u64, StoreError> {
        let Some(bytes) = self.checkpoint(LOOKED_AT)? else { return Ok(0) };
        let seq = bytes.as_slice().try_into().map_err(|_| self.damaged("how far findings were looked at for submission"))?;
        Ok(u64::from_be_bytes(seq))
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}
