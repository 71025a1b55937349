//! The content of a delivery beside its finding: the network's name, the decisions of kill
//! switches, and a summary as text.

use consensus::Root;
use evidence::{Finding, Punishable, Time};
use serde::Serialize;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

/// Digits of a public key that a text shows at each end.
const KEY_DIGITS: usize = 6;
/// Greatest number of labels that a text contains.
const MAX_LABELS: usize = 6;

/// The network that a delivery is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkName {
    /// `CONFIG_NAME`.
    pub name: String,
    /// Null only in a test message that is sent before the first start.
    pub genesis_validators_root: Option<Root>,
}

/// The decision of a group's kill switch about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchNote {
    pub group: String,
    pub fires: bool,
    /// Why the switch does not fire, or that it has fired before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Returns the kill switches that a finding concerns, with their decisions at this time.
pub type SwitchNotes = Arc<dyn Fn(&Finding, Time) -> Vec<SwitchNote> + Send + Sync>;

/// The data that all deliveries of a watcher share.
#[derive(Clone, Default)]
pub struct Context {
    pub network: NetworkName,
    /// The address at which people reach the web page and the API. `None` produces no links.
    pub public_url: Option<String>,
    /// `None` if there are no kill switches.
    pub switches: Option<SwitchNotes>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("network", &self.network).field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn notes(&self, finding: &Finding, now: Time) -> Vec<SwitchNote> {
        self.switches.as_ref().map_or_else(Vec::new, |notes| notes(finding, now))
    }

    /// The finding's view of the page.
    pub(crate) fn link(&self, finding: &Finding) -> Option<String> {
        let base = self.public_url.as_deref()?.trim_end_matches('/');
        Some(format!("{base}/findings/{}", finding.id))
    }

    /// Describes a finding in one paragraph of plain text.
    pub(crate) fn text(&self, finding: &Finding, notes: &[SwitchNote]) -> String {
        let detail = |name: &str| finding.details.as_ref().and_then(|details| details.get(name)?.as_str());
        let news = match detail("news") {
            Some("over") => "OVER: ",
            Some("worse") => "WORSE: ",
            Some(_) | None => "",
        };
        let mut text = format!("{}: {news}{}", self.network.name, finding.kind.words());
        if detail("subnets") == Some("all") {
            text.push_str(", of all subnets: this watcher hears nothing of the network. `/readyz` and the page say what to do");
        }
        if let Some(state) = detail("state") {
            let _ = write!(text, " ({state})");
        }
        if let Some(n) = detail("validators") {
            let _ = write!(text, " of {n} validators");
        }
        if let Some(subject) = &finding.validator {
            let key = subject.pubkey.to_string();
            let (first, last) = (&key[..2 + KEY_DIGITS], &key[key.len() - KEY_DIGITS..]);
            let _ = write!(text, " by validator {} ({first}..{last}", subject.index);
            for label in subject.labels.iter().take(MAX_LABELS) {
                let _ = write!(text, ", {label}");
            }
            text.push(')');
        }
        let _ = write!(text, " in slot {}, epoch {}. Severity: {}.", finding.slot, finding.epoch, finding.severity);
        if let Some(punishable) = finding.punishable {
            let _ = write!(text, " {}", in_words(punishable));
        }
        for note in notes {
            let what = if note.fires { "fires" } else { "does not fire" };
            let _ = write!(text, " The kill switch of group {} {what}", note.group);
            if let Some(reason) = &note.reason {
                let _ = write!(text, ": {reason}");
            }
            text.push('.');
        }
        text
    }
}

fn in_words(punishable: Punishable) -> &'static str {
    match punishable {
        Punishable::Yes => "A block can still punish it.",
        Punishable::AlreadySlashed => "The validator is slashed already, so that nobody can punish it again.",
        Punishable::NotActive => "The validator is not active yet, so that no block can punish it.",
        Punishable::Withdrawable => "The validator has left, so that no block can punish it any more.",
        Punishable::ForkExpired => "It is of a fork so old that no block can punish it any more.",
        Punishable::Unknown => "Whether a block can punish it is not known.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::ForkName;
    use evidence::{Evidence, EvidenceKind, OffenceFacts};

    #[test]
    fn a_text_says_who_where_and_what_the_switches_do() {
        let facts =
            OffenceFacts { labels: vec!["group=acme".into()], punishable: Punishable::AlreadySlashed, ..OffenceFacts::sample() };
        let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![1], ().into());
        let finding = Finding::slashable(facts, &evidence);
        let network = NetworkName { name: "hoodi".into(), genesis_validators_root: Some(Root::ZERO) };
        let context = Context { network, public_url: Some("https://watch.example.org/".into()), switches: None };
        let note = SwitchNote { group: "acme".into(), fires: false, reason: Some("because".into()) };
        assert_eq!(
            context.text(&finding, &[note]),
            "hoodi: double vote by validator 5 (0x000000..000000, group=acme) in slot 1, epoch 0. Severity: info. \
             The validator is slashed already, so that nobody can punish it again. The kill switch of group acme does not fire: because."
        );
        let link = context.link(&finding).unwrap();
        assert_eq!(link, format!("https://watch.example.org/findings/{}", finding.id));
    }
}
