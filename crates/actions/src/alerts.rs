//! Makes the dispatcher's alert routes from the configuration, and replaces the dispatcher when
//! they change.

use crate::config::AlertsConfig;
use crate::error::ActionError;
use crate::lists::reload::ActiveConfig;
use alert::{Context, Dispatcher, Heartbeat, NetworkName, RetryPolicy, Routes};
use base::error_chain;
use consensus::Network;
use evidence::{Store, Time};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Makes the alert routes of a configuration: loads their secrets and checks their addresses.
pub fn routes(config: &AlertsConfig) -> Result<Routes, ActionError> {
    Routes::new(&config.routes, RetryPolicy::DEFAULT).map_err(|problems| {
        let list: Vec<String> = problems.iter().map(|problem| error_chain(problem)).collect();
        ActionError::Usage(format!("alerts cannot start:\n  {}", list.join("\n  ")))
    })
}

/// Delivers alerts over the routes in force until cancelled, and then finishes the deliveries that
/// are under way. When the routes change, a new dispatcher continues from the outbox's current
/// state.
pub async fn deliver(
    store: Store,
    context: Context,
    mut changed: watch::Receiver<Arc<ActiveConfig>>,
    now: fn() -> Time,
    cancel: CancellationToken,
) {
    let mut follows = true;
    loop {
        let routes = changed.borrow_and_update().routes.clone();
        let dispatcher =
            (!routes.is_empty()).then(|| Dispatcher::start(store.clone(), routes.clone().about(context.clone()), now));
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => {}
                // The sender is gone, so the configuration does not change any more.
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

/// Makes the heartbeat of a configuration, if it has one.
pub fn heartbeat(config: &AlertsConfig) -> Result<Option<Heartbeat>, ActionError> {
    let opened = config.heartbeat.as_ref().map(Heartbeat::new).transpose();
    opened.map_err(|error| ActionError::Usage(format!("alerts.heartbeat: {}", error_chain(&error))))
}

/// Returns the network's name and root in the form that deliveries contain.
pub fn name_of(network: &Network) -> NetworkName {
    NetworkName { name: network.spec.config_name.clone(), genesis_validators_root: Some(network.genesis_validators_root) }
}

/// Sends a test message over one route and returns a text that says what happened.
pub async fn test(routes: &Routes, name: &str, now: Time) -> Result<String, ActionError> {
    let report = routes.test(name, now).await.map_err(|error| ActionError::Usage(error_chain(&error)))?;
    match report.result {
        Ok(answer) => Ok(format!("{} at {} took it in {:.0?}: {answer}", report.route.as_str(), report.place, report.took)),
        Err(reason) => {
            Err(ActionError::Failed(format!("{} at {} did not take it: {reason}", report.route.as_str(), report.place)))
        }
    }
}
