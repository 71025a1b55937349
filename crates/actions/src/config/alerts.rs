//! The `[alerts]` section: the routes over which findings are delivered.

use super::Problem;
use alert::{HeartbeatConfig, RouteConfig};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The `[alerts]` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// The address that is called while the watcher receives the network, so that somebody else
    /// notices when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatConfig>,
    pub routes: Vec<RouteConfig>,
}

impl AlertsConfig {
    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        for route in &mut self.routes {
            route.anchor(folder);
        }
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.anchor(folder);
        }
    }

    /// Adds the problems of this section to `problems`.
    pub fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |path: String, text: String| problems.push(Problem { path, text });
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.problems(&mut |key, text| wrong(format!("alerts.heartbeat.{key}"), text));
        }
        for (nth, route) in self.routes.iter().enumerate() {
            let at = |key: &str| format!("alerts.routes[{nth}].{key}");
            if route.name.is_empty() {
                wrong(at("name"), "is empty".into());
            }
            if self.routes[..nth].iter().any(|other| other.name == route.name) {
                wrong(at("name"), format!("{:?} is used twice", route.name));
            }
            for (nth, label) in route.labels.iter().enumerate() {
                if let Err(error) = label.parse::<detect::watch::Label>() {
                    wrong(at(&format!("labels[{nth}]")), error.to_string());
                }
            }
            route.problems(&mut |key, text| wrong(at(key), text));
        }
    }
}
