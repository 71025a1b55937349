//! From configured routes to those of the dispatcher, which follows their changes.

use crate::config::{AlertsConfig, Config, MinSeverity, RouteConfig};
use crate::datadir;
use crate::error::PipelineError;
use crate::watch::reload::InForce;
use crate::{bootstrap, clock, replay};
use alert::{Context, Dispatcher, NetworkName, Policy, Routes, SecretSource, SinkConfig};
use consensus::Network;
use evidence::{Severity, Store, Time};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Loads secrets and checks addresses.
pub fn routes(config: &AlertsConfig) -> Result<Routes, PipelineError> {
    let configs: Vec<alert::RouteConfig> = config.routes.iter().filter_map(route).collect();
    Routes::new(&configs, Policy::default()).map_err(|problems| {
        let list: Vec<String> = problems.iter().map(|problem| replay::error_chain(problem)).collect();
        PipelineError::Usage(format!("alerts cannot start:\n  {}", list.join("\n  ")))
    })
}

/// Delivers over the routes in force until cancelled, and then ends what is under way. Other routes take over where the outbox stands.
pub async fn deliver(store: Store, context: Context, mut changed: watch::Receiver<Arc<InForce>>, cancel: CancellationToken) {
    let mut follows = true;
    loop {
        let routes = changed.borrow_and_update().routes.clone();
        let dispatcher =
            (!routes.is_empty()).then(|| Dispatcher::start(store.clone(), routes.clone().about(context.clone()), now));
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => {}
                // Who followed the files has ended: nothing changes any more.
                followed = changed.changed(), if follows => follows = followed.is_ok(),
            }
            if !changed.borrow_and_update().routes.are(&routes) {
                break;
            }
        }
        if let Some(dispatcher) = dispatcher {
            dispatcher.stop().await;
        }
        if cancel.is_cancelled() {
            return;
        }
        tracing::info!("alert routes have changed");
    }
}

/// A network as deliveries name it.
pub fn name_of(network: &Network) -> NetworkName {
    NetworkName { name: network.spec.config_name.clone(), genesis_validators_root: Some(network.genesis_validators_root) }
}

/// As far as it is known before a start: from the data directory, else from the configuration, else from a node.
pub async fn name_before_start(config: &Config) -> NetworkName {
    if let Ok(Some(network)) = datadir::read_network(&config.data_dir) {
        return name_of(&network);
    }
    let spec = bootstrap::spec_of_config(config).ok().flatten();
    let mut known = NetworkName { name: spec.map(|spec| spec.config_name).unwrap_or_default(), genesis_validators_root: None };
    if let Ok(Some(nodes)) = bootstrap::nodes(config) {
        if known.name.is_empty() {
            known.name = nodes.config_spec().await.map(|spec| spec.config_name).unwrap_or_default();
        }
        known.genesis_validators_root = nodes.genesis().await.ok().map(|genesis| genesis.genesis_validators_root);
    }
    known
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
