//! `equivocation_not_slashable`: somebody signed two different messages where an honest signer
//! signs one, and no rule punishes it.
//!
//! - A member of the payload-timeliness committee signs two different statements about one slot.
//!   Its vote counts once. With two votes it can tell one half of the network that the payload
//!   came, and the other half that it did not.
//! - A builder bids twice for one slot on one parent. Gossip forwards the first bid, so different
//!   proposers may see different bids.
//! - A member of the inclusion list committee (Heze) signs two lists for one slot. Nodes forward
//!   the first two, and then count neither.
//!
//! All messages are proven to be signed with their signer's key before they come here. Each pair is
//! reported once, as a finding without proof, with its content. A validator's labels are on its
//! finding. A builder has none, and its index is in the details.
//!
//! **False alarms considered.** The same message again, from other peers, has an equal root and is
//! ignored. Bids on different parents after a reorganisation are not compared. A message of a
//! validator that does not sit in the committee still makes two signatures of one key over one
//! slot, and is reported. Two inclusion lists with different dependent roots show that their signer
//! was on two branches: nodes keep such lists apart and count both. An honest validator has one
//! head at a time and signs once per slot, but one whose beacon node changes meanwhile might sign
//! twice. So such a pair is reported as `info`, with `same_branch` false; all other pairs are a
//! `warning`.
//!
//! **Bounds.** Messages of [`KEPT_EPOCHS`] epochs are kept, [`MAX_REMEMBERED`] in total, and
//! [`MAX_EACH`] for each signer and slot. Further ones are not compared. Messages from before a
//! restart are not known.
//!
//! Not seen: messages that are only in a block's aggregates of payload votes, and messages of sync
//! committees.

use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, MonitorInput, Signal, SingleAnomaly};
use consensus::{BuilderIndex, Root, Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use verify::{FirstSeen, Stated, Statement};

/// Number of epochs for which a message is compared with later ones.
const KEPT_EPOCHS: u64 = 2;
/// Largest number of messages that are kept. It has room for all 512 members of a committee, 16
/// inclusion lists and some bids in each of 64 slots.
const MAX_REMEMBERED: usize = 65_536;
/// Largest number of different messages of one signer that are kept for one slot.
const MAX_EACH: usize = 4;

/// `[detect.equivocation]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EquivocationConfig {
    pub enabled: bool,
}

impl Default for EquivocationConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl DetectorConfig for EquivocationConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::<Equivocation>::default() as _)
    }

    fn problems(&self, _problems: &mut Problems<'_>) {}
}

#[derive(Serialize, Deserialize)]
pub(super) struct EquivocationDetails {
    /// Name of the message's container in the specification.
    what: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    builder_index: Option<BuilderIndex>,
    /// The content of the two messages, as far as it is reported.
    messages: Vec<Value>,
    /// For inclusion lists: whether both have the same dependent root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    same_branch: Option<bool>,
    punished_by: Cow<'static, str>,
}

impl Details for EquivocationDetails {
    const KIND: Kind = Kind::EquivocationNotSlashable;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let what = self.what.replace('_', " ");
        let who = self.builder_index.map_or_else(|| "A validator".to_owned(), |builder| format!("Builder {builder}"));
        format!("{who} signed two different messages ({what}) where an honest signer has one; no rule punishes it")
    }
}

/// Within a slot, an honest signer signs at most one message for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StatementKey {
    PayloadVote(ValidatorIndex),
    /// The builder, and the hash and root of the parent: `parent_block_hash` and
    /// `parent_block_root`.
    Bid(BuilderIndex, Root, Root),
    InclusionList(ValidatorIndex),
}

#[derive(Default)]
pub(crate) struct Equivocation {
    statements: BTreeMap<(Slot, StatementKey), Vec<(Statement, FirstSeen)>>,
    n_statements: usize,
}

impl Equivocation {
    fn take(&mut self, stated: &Stated, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let statement = stated.statement;
        let slot = statement.slot();
        let kept = KEPT_EPOCHS * view.network().preset().slots_per_epoch;
        let now = view.facts.now();
        if slot.saturating_add(kept) < now || slot > now.saturating_add(kept) || self.n_statements >= MAX_REMEMBERED {
            return;
        }
        let known = self.statements.entry((slot, key_of(&statement))).or_default();
        if known.len() >= MAX_EACH || known.iter().any(|(other, _)| other.root() == statement.root()) {
            return;
        }
        for (other, heard) in known.iter() {
            out.push(Signal::Anomaly(anomaly((other, heard), (&statement, &stated.heard))));
        }
        known.push((statement, stated.heard.clone()));
        self.n_statements += 1;
    }
}

impl Detector for Equivocation {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        for stated in &batch.verified.statements {
            self.take(stated.get(), view, out);
        }
    }

    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        let oldest = slot.saturating_sub(KEPT_EPOCHS * view.network().preset().slots_per_epoch);
        let kept = self.statements.split_off(&(oldest, StatementKey::PayloadVote(ValidatorIndex::new(0))));
        let gone = std::mem::replace(&mut self.statements, kept);
        self.n_statements -= gone.values().map(Vec::len).sum::<usize>();
    }
}

fn key_of(statement: &Statement) -> StatementKey {
    match statement {
        Statement::PayloadVote { validator, .. } => StatementKey::PayloadVote(*validator),
        Statement::Bid { bid, .. } => StatementKey::Bid(bid.builder_index, bid.parent_block_hash, bid.parent_block_root),
        Statement::InclusionList { list, .. } => StatementKey::InclusionList(list.validator_index),
    }
}

fn anomaly(earlier: (&Statement, &FirstSeen), later: (&Statement, &FirstSeen)) -> SingleAnomaly {
    let (what, validator, builder) = match earlier.0 {
        Statement::PayloadVote { validator, .. } => ("payload_attestation_message", Some(*validator), None),
        Statement::Bid { bid, .. } => ("execution_payload_bid", None, Some(bid.builder_index)),
        Statement::InclusionList { list, .. } => ("inclusion_list", Some(list.validator_index), None),
    };
    let signer = validator.map(ValidatorIndex::as_u64).or(builder.map(BuilderIndex::as_u64)).unwrap_or_default();
    let mut roots = [earlier.0.root(), later.0.root()];
    roots.sort();
    let same_branch = on_one_branch(earlier.0, later.0);
    let details = EquivocationDetails {
        what: what.into(),
        builder_index: builder,
        messages: [earlier, later].map(|(statement, _)| statement_json(statement)).to_vec(),
        same_branch,
        punished_by: "no rule: it is told and cannot be slashed for".into(),
    };
    let mut sources: Vec<String> = [earlier.1, later.1].map(|heard| heard.source.label().to_owned()).to_vec();
    sources.dedup();
    SingleAnomaly {
        what: details.into(),
        key: format!("{what} {signer} {} {}", roots[0], roots[1]),
        severity: if same_branch == Some(false) { Severity::Info } else { Severity::Warning },
        slot: earlier.0.slot(),
        validator,
        first_seen: earlier.1.at,
        second_seen: Some(later.1.at),
        sources,
    }
}

fn statement_json(statement: &Statement) -> Value {
    match statement {
        Statement::PayloadVote { data, root, .. } => json!({"root": root, "data": data}),
        Statement::Bid { bid, root } => json!({"root": root, "bid": bid}),
        Statement::InclusionList { list, root } => json!({
            "root": root,
            "dependent_root": list.dependent_root,
            "transactions": list.n_transactions,
            "transactions_bytes": list.transactions_bytes,
        }),
    }
}

/// For two inclusion lists: whether nodes compare them. `None` for messages that do not name their
/// branch or are not compared across branches.
fn on_one_branch(one: &Statement, other: &Statement) -> Option<bool> {
    match (one, other) {
        (Statement::InclusionList { list: one, .. }, Statement::InclusionList { list: other, .. }) => {
            Some(one.dependent_root == other.dependent_root)
        }
        (Statement::PayloadVote { .. } | Statement::Bid { .. } | Statement::InclusionList { .. }, _) => None,
    }
}
