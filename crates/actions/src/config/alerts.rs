//! The `[alerts]` section: the routes over which findings are delivered.

use super::{Problem, is_http, secret_problem};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The `[alerts]` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    pub routes: Vec<RouteSection>,
}

/// Lowest severity of the findings that a route delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MinSeverity {
    #[default]
    Info,
    Warning,
    Critical,
}

/// One webhook that receives findings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSection {
    /// Name of the route. The outbox uses it as the key, so a renamed route is a new route.
    pub name: String,
    /// Address of the webhook.
    pub url: String,
    /// File with the secret that signs each delivery.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Environment variable with the secret, instead of a file.
    #[serde(default)]
    pub secret_env: Option<String>,
    #[serde(default)]
    pub min_severity: MinSeverity,
    /// If not empty, only findings about validators with one of these labels are delivered. A label
    /// is written like `operator=acme` or `group=acme-1`.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl AlertsConfig {
    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        for path in self.routes.iter_mut().filter_map(|route| route.secret_file.as_mut()).filter(|path| path.is_relative()) {
            *path = folder.join(&path);
        }
    }

    /// Adds the problems of this section to `problems`.
    pub fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |path: String, text: String| problems.push(Problem { path, text });
        for (nth, route) in self.routes.iter().enumerate() {
            let at = |key: &str| format!("alerts.routes[{nth}].{key}");
            if route.name.is_empty() {
                wrong(at("name"), "is empty".into());
            }
            if self.routes[..nth].iter().any(|other| other.name == route.name) {
                wrong(at("name"), format!("{:?} is used twice", route.name));
            }
            if !is_http(&route.url) {
                wrong(at("url"), "is not an http(s) address".into());
            }
            for (nth, label) in route.labels.iter().enumerate() {
                if let Err(error) = label.parse::<detect::watch::Label>() {
                    wrong(at(&format!("labels[{nth}]")), error.to_string());
                }
            }
            let secret = secret_problem(route.secret_file.as_deref(), route.secret_env.as_deref(), "deliveries");
            if let Some((key, text)) = secret {
                wrong(at(key), text);
            }
        }
    }
}
