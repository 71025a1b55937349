//! From configured routes to those of the dispatcher.

use crate::config::{Config, MinSeverity, RouteConfig};
use crate::error::PipelineError;
use crate::{clock, replay};
use alert::{Policy, Routes, SecretSource, SinkConfig};
use evidence::{Severity, Time};

/// Loads secrets and checks addresses.
pub fn routes(config: &Config) -> Result<Routes, PipelineError> {
    let configs: Vec<alert::RouteConfig> = config.alerts.routes.iter().filter_map(route).collect();
    Routes::new(&configs, Policy::default()).map_err(|problems| {
        let list: Vec<String> = problems.iter().map(|problem| replay::error_chain(problem)).collect();
        PipelineError::Usage(format!("alerts cannot start:\n  {}", list.join("\n  ")))
    })
}

/// Sends a test message; the answer says what happened.
pub async fn test(routes: &Routes, name: &str) -> Result<String, PipelineError> {
    let report = routes.test(name, now()).await.map_err(|error| PipelineError::Usage(replay::error_chain(&error)))?;
    match report.result {
        Ok(answer) => Ok(format!("{} at {} took it in {:.0?}: {answer}", report.route.as_str(), report.place, report.took)),
        Err(reason) => {
            Err(PipelineError::Failed(format!("{} at {} did not take it: {reason}", report.route.as_str(), report.place)))
        }
    }
}

/// The wall clock as alerts and findings carry it.
pub fn now() -> Time {
    Time::from_unix_ns(clock::now().0)
}

/// `None` only for a route without a secret, which the configuration's check refuses.
fn route(config: &RouteConfig) -> Option<alert::RouteConfig> {
    let secret = match (&config.secret_file, &config.secret_env) {
        (Some(file), _) => SecretSource::File(file.clone()),
        (None, Some(name)) => SecretSource::Variable(name.clone()),
        (None, None) => return None,
    };
    Some(alert::RouteConfig {
        name: config.name.clone(),
        min_severity: match config.min_severity {
            MinSeverity::Info => Severity::Info,
            MinSeverity::Warning => Severity::Warning,
            MinSeverity::Critical => Severity::Critical,
        },
        labels: config.labels.clone(),
        sink: SinkConfig::Webhook { url: config.url.clone(), secret },
    })
}
