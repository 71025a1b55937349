//! Two sections of the configuration file: `[alerts]` says who receives findings, and `[watch]`
//! says which keys are watched and what stops their validator clients.

mod alerts;
mod watch;

use alert::{Secret, SecretSource};
use std::path::Path;

pub use alerts::{AlertsConfig, MinSeverity, RouteSection};
pub use watch::{DEFAULT_MAX_AGE_EPOCHS, GroupConfig, KillSwitchConfig, MembersConfig, TriggerConfig, WatchConfig};

/// One problem in a configuration: where it is, what it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path in the file, as in `alerts.routes[0].url`.
    pub path: String,
    pub text: String,
}

/// Checks the two keys that say where a secret is. Returns the key that is wrong and a text about
/// it. `whose` names what is signed with the secret.
fn secret_problem(file: Option<&Path>, variable: Option<&str>, whose: &str) -> Option<(&'static str, String)> {
    let (key, source) = match (file, variable) {
        (None, None) => {
            return Some(("secret_file", format!("no secret: give `secret_file` or `secret_env`; {whose} are signed")));
        }
        (Some(_), Some(_)) => return Some(("secret_env", "both `secret_file` and `secret_env`: keep one".into())),
        (Some(file), None) if !file.is_file() => return Some(("secret_file", format!("{} is not a file", file.display()))),
        (Some(file), None) => ("secret_file", SecretSource::File(file.into())),
        (None, Some(name)) => ("secret_env", SecretSource::Variable(name.into())),
    };
    Secret::load(&source).err().map(|error| (key, error.to_string()))
}

/// Returns whether a text is an `http` or `https` address with a host.
pub fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}
