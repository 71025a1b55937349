//! What strangers are not told: whose keys are whose, where the operator has not said that it may be shown.
//!
//! Findings and incidents are about everybody and are shown to everybody, without the labels that only the operator's groups give.
//! Those of which there are none without a watched key ([`Audience::WatchedKeys`]) are left out.

use crate::WatchSource;
use crate::addresses::without_addresses;
use crate::problem::Problem;
use crate::view::{NodeState, Readiness, Status};
use evidence::{Audience, Finding, Incident, Kind, Submission};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Whether readers are told of the operator's own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKeys {
    Shown,
    Hidden,
}

/// What is known of watched keys, and to whom it is told.
#[derive(Clone)]
pub(crate) struct Privacy {
    pub own_keys: OwnKeys,
    pub watch: Arc<dyn WatchSource>,
    /// Whether readers are told where the operator's nodes, peers and receivers are.
    pub shows_addresses: bool,
}

impl Privacy {
    /// What is known of watched keys, for those who may be told.
    pub fn watch(&self) -> Result<Arc<dyn WatchSource>, Problem> {
        match self.own_keys {
            OwnKeys::Shown => Ok(self.watch.clone()),
            OwnKeys::Hidden => Err(Problem::not_shown()),
        }
    }

    /// A text as it may be told.
    pub fn text(&self, text: String) -> String {
        if self.shows_addresses { text } else { without_addresses(&text) }
    }

    pub fn status(&self, mut status: Status) -> Status {
        if let NodeState::Away { reason } = status.node {
            status.node = NodeState::Away { reason: self.text(reason) };
        }
        // Of a configured peer that has not answered yet only its address is known.
        for peer in &mut status.gossip_peers {
            peer.peer = self.text(std::mem::take(&mut peer.peer));
        }
        status.notices = status.notices.into_iter().map(|notice| self.text(notice)).collect();
        status
    }

    pub fn readiness(&self, mut readiness: Readiness) -> Readiness {
        readiness.advice = readiness.advice.into_iter().map(|advice| self.text(advice)).collect();
        readiness
    }

    pub fn submission(&self, mut submission: Submission) -> Submission {
        submission.nodes = submission.nodes.into_iter().map(|node| self.text(node)).collect();
        submission.answer = submission.answer.map(|answer| self.text(answer));
        submission
    }

    /// A label to filter by, if it may be asked for: who may not see a label may not find out who has it either.
    pub fn label(&self, label: String) -> Result<String, Problem> {
        if self.own_keys == OwnKeys::Hidden && self.watch.is_private(&label) {
            return Err(Problem::not_shown());
        }
        Ok(label)
    }

    /// A finding as it may be told; `None` if it may not.
    pub fn finding(&self, mut finding: Finding) -> Option<Finding> {
        if self.own_keys == OwnKeys::Shown {
            return Some(finding);
        }
        if let Some(subject) = &mut finding.validator {
            subject.labels.retain(|label| !self.watch.is_private(label));
        }
        finding.details.iter_mut().for_each(|details| self.without_labels(details));
        is_public(&finding.kind).then_some(finding)
    }

    /// An incident as it may be told; `None` if it may not.
    pub fn incident(&self, mut incident: Incident) -> Option<Incident> {
        if self.own_keys == OwnKeys::Shown {
            return Some(incident);
        }
        incident.shared.retain(|shared| {
            let key = shared.what.strip_prefix("label:");
            key.is_none_or(|key| !self.watch.is_private(&format!("{key}={}", shared.value)))
        });
        self.without_labels(&mut incident.details);
        is_public(&incident.kind).then_some(incident)
    }

    /// Takes out the labels of members, and sentences that name a label, as in what speaks for a wave's suspected cause.
    fn without_labels(&self, details: &mut Map<String, Value>) {
        for (key, value) in details {
            match value {
                Value::Array(items) if key == "labels" => {
                    items.retain(|item| item.as_str().is_none_or(|label| !self.watch.is_private(label)));
                }
                Value::Array(items) => items.retain(|item| item.as_str().is_none_or(|text| !text.contains("label:"))),
                Value::Object(inner) => self.without_labels(inner),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }
}

fn is_public(kind: &Kind) -> bool {
    match kind.audience() {
        Audience::Public => true,
        Audience::WatchedKeys => false,
    }
}
