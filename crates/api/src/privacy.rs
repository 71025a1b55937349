//! Hides from the public which keys the operator watches, unless the configuration says that they
//! may be shown.
//!
//! Findings and incidents are about all validators and are shown to everybody, but without the
//! labels and the severity that come from the operator's groups. Kinds that exist only for watched
//! keys ([`Audience::WatchedKeys`]) are left out.

use crate::WatchSource;
use crate::addresses::without_addresses;
use crate::problem::ProblemDetails;
use crate::status::{NodeState, Readiness, Status};
use crate::tokens::Scope;
use evidence::{Audience, Finding, Incident, Kind, Submission};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::sync::Arc;

/// Whether readers may see the operator's own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKeys {
    Shown,
    Hidden,
}

/// Returns whether readers may see the addresses of the operator's nodes, peers and receivers, and
/// the paths of its files: only on the watcher's own machine.
pub fn shows_addresses(own_keys: OwnKeys, listen: IpAddr) -> bool {
    own_keys == OwnKeys::Shown && listen.is_loopback()
}

/// What readers may see.
#[derive(Clone)]
pub(crate) struct Privacy {
    pub own_keys: OwnKeys,
    pub watch: Arc<dyn WatchSource>,
    /// See [`shows_addresses`].
    pub shows_addresses: bool,
}

impl Privacy {
    /// What the holder of a token sees: with `read` what everybody sees, with `watch` the watched
    /// keys too, with `admin` also the addresses.
    pub fn for_scope(&self, scope: Scope) -> Self {
        let mut view = self.clone();
        if scope >= Scope::Watch {
            view.own_keys = OwnKeys::Shown;
        }
        if scope >= Scope::Admin {
            view.shows_addresses = true;
        }
        view
    }

    /// Whether findings and incidents of kinds that only some may see are left out.
    pub fn only_public(&self) -> bool {
        self.own_keys == OwnKeys::Hidden
    }

    /// The source of watched keys. An error if readers may not see them.
    pub fn watch(&self) -> Result<Arc<dyn WatchSource>, ProblemDetails> {
        match self.own_keys {
            OwnKeys::Shown => Ok(self.watch.clone()),
            OwnKeys::Hidden => Err(ProblemDetails::not_shown()),
        }
    }

    /// A text without the addresses that readers may not see.
    pub fn text(&self, text: String) -> String {
        if self.shows_addresses { text } else { without_addresses(&text) }
    }

    pub fn status(&self, mut status: Status) -> Status {
        if let NodeState::Away { reason } = status.node {
            status.node = NodeState::Away { reason: self.text(reason) };
        }
        // For a configured peer that has not answered yet, only its address is known.
        for peer in &mut status.gossip_peers {
            peer.peer = self.text(std::mem::take(&mut peer.peer));
        }
        status.data_dir = status.data_dir.filter(|_| self.shows_addresses);
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

    /// Checks a label that is used as a filter. A reader who may not see a label may not find out
    /// either who has it.
    pub fn label(&self, label: String) -> Result<String, ProblemDetails> {
        if self.own_keys == OwnKeys::Hidden && self.watch.is_private(&label) {
            return Err(ProblemDetails::not_shown());
        }
        Ok(label)
    }

    /// Whether readers see findings otherwise than they are stored.
    pub fn changes_findings(&self) -> bool {
        self.own_keys == OwnKeys::Hidden || self.watch.has_groups()
    }

    /// Whose a key is goes by the groups of now. A finding keeps those of the time when it was
    /// recorded, and a key may have been named after the incident only.
    fn name_current_groups(&self, finding: &mut Finding) {
        if !self.watch.has_groups() {
            return;
        }
        let Some(subject) = &mut finding.validator else { return };
        let is_group = |label: &str| label.strip_prefix("group").is_some_and(|rest| rest.starts_with('='));
        subject.labels.retain(|label| !is_group(label));
        subject.labels.extend(self.watch.groups_of(subject.index).into_iter().map(|group| format!("group={group}")));
        subject.labels.sort();
    }

    /// A finding as readers may see it. `None` if they may not see it at all.
    pub fn finding(&self, mut finding: Finding) -> Option<Finding> {
        if self.own_keys == OwnKeys::Shown {
            self.name_current_groups(&mut finding);
            return Some(finding);
        }
        if let Some(subject) = &mut finding.validator {
            subject.labels = self.watch.listed_labels(subject.index);
        }
        // An offence of a watched key is always critical; that of others only if it can be
        // punished.
        if let Some(punishable) = finding.punishable {
            finding.set_punishable(punishable);
        }
        let is_private = finding.details.as_ref().is_some_and(|details| self.is_about_private_labels(&finding.kind, details));
        finding.details.iter_mut().for_each(|details| self.without_labels(details));
        (is_public(&finding.kind) && !is_private).then_some(finding)
    }

    /// An incident as readers may see it. `None` if they may not see it at all.
    pub fn incident(&self, mut incident: Incident) -> Option<Incident> {
        if self.own_keys == OwnKeys::Shown {
            return Some(incident);
        }
        incident.shared.retain(|shared| {
            let key = shared.what.strip_prefix("label:");
            key.is_none_or(|key| !self.watch.is_private(&format!("{key}={}", shared.value)))
        });
        let is_private = self.is_about_private_labels(&incident.kind, &incident.details);
        self.without_labels(&mut incident.details);
        (is_public(&incident.kind) && !is_private).then_some(incident)
    }

    /// Whether something is about private labels only: readers may not learn that it exists.
    fn is_about_private_labels(&self, kind: &Kind, details: &Map<String, Value>) -> bool {
        let labels = details.get("labels").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let (private, public): (Vec<&str>, Vec<&str>) = labels.partition(|label| self.watch.is_private(label));
        *kind == Kind::PayloadStatusSplit && !private.is_empty() && public.is_empty()
    }

    /// Removes the private labels of members, rows about private labels, and all sentences that
    /// name a label, such as the reasons for a wave's suspected cause.
    fn without_labels(&self, details: &mut Map<String, Value>) {
        for (key, value) in details {
            match value {
                Value::Array(items) if key == "labels" => {
                    items.retain(|item| item.as_str().is_none_or(|label| !self.watch.is_private(label)));
                }
                Value::Array(items) => items.retain(|item| match item {
                    Value::String(text) => !text.contains("label:"),
                    Value::Object(row) => {
                        row.get("label").and_then(Value::as_str).is_none_or(|label| !self.watch.is_private(label))
                    }
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => true,
                }),
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
