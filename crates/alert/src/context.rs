//! The data that all deliveries of a watcher share: the network's name, the address of the page,
//! and the decisions of kill switches.

use consensus::Root;
use evidence::{Finding, Time};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// The network that a delivery is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkName {
    /// `CONFIG_NAME`.
    pub name: String,
    /// Null only in a test message that is sent before the first start.
    pub genesis_validators_root: Option<Root>,
}

/// The decision of a group's kill switch about a finding, or what became of its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchNote {
    pub group: String,
    pub fires: bool,
    /// Why the switch does not fire, or that it has fired before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a finding about an order: what became of the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// Returns the kill switches that a finding concerns, with their decisions at this time.
pub type SwitchNotes = Arc<dyn Fn(&Finding, Time) -> Vec<SwitchNote> + Send + Sync>;

/// Returns whether a finding is about a key that a watched group names. Withdrawal credentials and
/// fee recipients name whoever claims them.
pub type NamedKeys = Arc<dyn Fn(&Finding) -> bool + Send + Sync>;

/// The data that all deliveries of a watcher share.
#[derive(Clone, Default)]
pub struct Context {
    pub network: NetworkName,
    /// The address at which people reach the web page and the API. `None` produces no links.
    pub public_url: Option<String>,
    /// `None` if there are no kill switches.
    pub switches: Option<SwitchNotes>,
    /// `None` if every key of a group counts as named.
    pub named: Option<NamedKeys>,
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

    /// Whether a finding is about a key that a watched group names.
    pub(crate) fn names(&self, finding: &Finding) -> bool {
        self.named.as_ref().is_none_or(|named| named(finding))
    }

    /// The finding's view of the page.
    pub(crate) fn link(&self, finding: &Finding) -> Option<String> {
        let base = self.public_url.as_deref()?.trim_end_matches('/');
        Some(format!("{base}/findings/{}", finding.id))
    }
}
