//! Routes: who receives alerts, from which severity on, and by which sink.

use crate::retry::{Failure, RetryPolicy};
use crate::sink::{Message, Sink, SinkConfig, webhook};
use crate::{AlertError, Context};
use evidence::{DueDelivery, RouteFilter, RouteName, Severity, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A route, as configured in `[[alerts.routes]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RouteKeys")]
pub struct RouteConfig {
    /// Name of the route. The outbox uses it as the key, so a renamed route is a new route.
    pub name: String,
    /// Lowest severity of the findings that the route delivers.
    pub min_severity: Severity,
    /// If not empty, only findings about validators with one of these labels are delivered. A label
    /// is written like `operator=acme` or `group=acme-1`.
    pub labels: Vec<String>,
    #[serde(flatten)]
    pub sink: SinkConfig,
}

/// The keys of a route. Those that are not of every route belong to its sink, which refuses the
/// keys that it does not know.
#[derive(Deserialize)]
struct RouteKeys {
    name: Option<String>,
    #[serde(default)]
    min_severity: Severity,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(flatten)]
    sink: Map<String, Value>,
}

impl TryFrom<RouteKeys> for RouteConfig {
    type Error = String;

    fn try_from(keys: RouteKeys) -> Result<Self, String> {
        let RouteKeys { name, min_severity, labels, mut sink } = keys;
        sink.entry("type").or_insert_with(|| SinkConfig::DEFAULT.into());
        let sink = SinkConfig::deserialize(Value::Object(sink)).map_err(|error| match error.to_string() {
            text if text.starts_with("unknown field") => {
                format!("{text}, or one of every route: `name`, `type`, `min_severity`, `labels`")
            }
            text => text,
        })?;
        // After the sink: without a name, the sink's problems are the same.
        let name = name.ok_or("missing field `name`")?;
        Ok(Self { name, min_severity, labels, sink })
    }
}

/// A route that is ready: its secret is loaded and its address is valid.
#[derive(Clone, Debug)]
pub struct Route {
    filter: RouteFilter,
    sink: Arc<dyn Sink>,
}

/// All routes. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: Arc<Vec<Route>>,
    policy: RetryPolicy,
    context: Arc<Context>,
}

/// The result of a test message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestReport {
    pub route: RouteName,
    /// Scheme, host and port of the receiver.
    pub place: String,
    pub took: Duration,
    /// The receiver's successful answer, or the reason of the failure and what to do.
    pub result: Result<String, String>,
}

impl Routes {
    /// Loads secrets and checks addresses. Returns all problems together.
    pub fn new(configs: &[RouteConfig], policy: RetryPolicy) -> Result<Self, Vec<AlertError>> {
        let client = webhook::client(policy.timeout).map_err(|error| vec![error])?;
        let mut routes: Vec<Route> = Vec::new();
        let mut problems = Vec::new();
        for config in configs {
            if routes.iter().any(|other| other.filter.route.as_str() == config.name) {
                problems.push(AlertError::NameTwice { route: config.name.clone() });
                continue;
            }
            match Route::new(config, &client) {
                Ok(route) => routes.push(route),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self { routes: Arc::new(routes), policy, context: Arc::default() }) } else { Err(problems) }
    }

    /// Returns the same routes, with this context in their deliveries.
    pub fn about(self, context: Context) -> Self {
        Self { context: Arc::new(context), ..self }
    }

    /// Whether these are the same routes as `other`, and not newly created ones.
    pub fn are(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.routes, &other.routes)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The input of [`evidence::Store::apply`]: each route's name, and from which severity on it
    /// receives findings.
    pub fn names(&self) -> Vec<RouteFilter> {
        self.routes.iter().map(|route| route.filter.clone()).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Returns the route with this name.
    pub fn get(&self, name: &str) -> Result<&Route, AlertError> {
        self.iter().find(|route| route.name().as_str() == name).ok_or_else(|| AlertError::NoSuchRoute {
            route: name.into(),
            known: match self.routes.as_slice() {
                [] => "none".into(),
                routes => routes.iter().map(|route| route.name().as_str()).collect::<Vec<_>>().join(", "),
            },
        })
    }

    /// Sends a test message over a route, once, and returns the result. `now` is the wall clock.
    pub async fn test(&self, name: &str, now: Time) -> Result<TestReport, AlertError> {
        let route = self.get(name)?;
        let started = Instant::now();
        let result = match route.send_test(&self.context, now).await {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                Err(format!("{}; check the route's address, its secret, and that the receiver is up", failure.reason))
            }
        };
        Ok(TestReport { route: route.name().clone(), place: route.place(), took: started.elapsed(), result })
    }
}

impl Route {
    fn new(config: &RouteConfig, client: &reqwest::Client) -> Result<Self, AlertError> {
        let filter = RouteFilter {
            route: RouteName::new(&config.name)?,
            min_severity: config.min_severity,
            labels: config.labels.clone(),
        };
        let sink = config.sink.open(&config.name, client)?;
        Ok(Self { filter, sink })
    }

    pub fn name(&self) -> &RouteName {
        &self.filter.route
    }

    /// The lowest severity of the findings that the route sends.
    pub fn min_severity(&self) -> Severity {
        self.filter.min_severity
    }

    /// Scheme, host and port of the receiver. It contains nothing secret.
    pub fn place(&self) -> String {
        self.sink.place()
    }

    /// Sends a delivery once. Returns the receiver's successful answer.
    pub(crate) async fn send(&self, due: &DueDelivery, context: &Context, now: Time) -> Result<String, Failure> {
        let finding = &due.finding;
        let switches = context.notes(finding, now);
        let message = Message {
            delivery: format!("{}:{}", finding.id, self.name()),
            idempotency_key: finding.id.to_string(),
            attempt: due.attempts.saturating_add(1),
            network: &context.network,
            text: context.text(finding, &switches),
            link: context.link(finding),
            switches,
            finding: Some(finding),
        };
        self.sink.send(&message, now).await
    }

    async fn send_test(&self, context: &Context, now: Time) -> Result<String, Failure> {
        let message = Message {
            delivery: format!("test:{}", self.name()),
            idempotency_key: format!("test-{}", now.as_unix_ns()),
            attempt: 1,
            network: &context.network,
            text: format!(
                "{}: a test message of slashwatch over route {}; nothing has happened.",
                context.network.name,
                self.name()
            ),
            link: context.public_url.clone(),
            switches: Vec::new(),
            finding: None,
        };
        self.sink.send(&message, now).await
    }
}
