//! Two sections of the configuration file: `[alerts]` says who receives findings, and `[watch]`
//! says which keys are watched and what stops their validator clients.

mod alerts;
mod watch;

pub use alert::{RouteConfig, SinkConfig, WebhookConfig};
pub use alerts::AlertsConfig;
pub use watch::{
    DEFAULT_MAX_AGE_EPOCHS, EntityList, GroupConfig, KillSwitchConfig, MembersConfig, RemoteList, TriggerConfig, WatchConfig,
};

/// One problem in a configuration: where it is, what it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path in the file, as in `alerts.routes[0].url`.
    pub path: String,
    pub text: String,
}
