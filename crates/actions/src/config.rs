//! Two sections of the configuration file: `[alerts]` says who receives findings, and `[watch]`
//! says which keys are watched and what stops their validator clients.

mod alerts;
mod audit;
mod switch;
mod watch;

pub use alert::{RouteConfig, SinkConfig, WebhookConfig};
pub use alerts::AlertsConfig;
pub use audit::AuditConfig;
pub use switch::{ActionKind, KeymanagerClientConfig, KillSwitchConfig, MembersConfig, TriggerConfig};
pub use watch::{EntityList, GroupConfig, RemoteList, TwoOriginsSection, WatchConfig};

/// One problem in a configuration: where it is, what it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path in the file, as in `alerts.routes[0].url`.
    pub path: String,
    pub text: String,
}
