//! Routes: who receives alerts, from which severity on, by which sink, merged or one by one.

use crate::merge::Bundle;
use crate::quiet::{QuietHours, QuietHoursConfig};
use crate::retry::{Failure, RetryPolicy};
use crate::sink::{AlertState, Merged, Message, Sink, SinkConfig, http};
use crate::text::{Template, TextFacts};
use crate::{AlertError, Context, preview};
use evidence::{Kind, RouteFilter, RouteName, Severity, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Limit on the messages of a merging route in an hour, if its configuration names none.
const DEFAULT_MAX_PER_HOUR: u32 = 20;

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
    /// Whether findings that belong together make one message. `None` means what the sink does by
    /// default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<bool>,
    /// Limit on the messages in an hour, if the route merges. More are merged into one, and none is
    /// dropped.
    pub max_per_hour: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHoursConfig>,
    /// File with the template of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_file: Option<PathBuf>,
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
    merge: Option<bool>,
    #[serde(default = "default_max_per_hour")]
    max_per_hour: u32,
    quiet_hours: Option<QuietHoursConfig>,
    template_file: Option<PathBuf>,
    #[serde(flatten)]
    sink: Map<String, Value>,
}

fn default_max_per_hour() -> u32 {
    DEFAULT_MAX_PER_HOUR
}

impl TryFrom<RouteKeys> for RouteConfig {
    type Error = String;

    fn try_from(keys: RouteKeys) -> Result<Self, String> {
        let RouteKeys { name, min_severity, labels, merge, max_per_hour, quiet_hours, template_file, mut sink } = keys;
        sink.entry("type").or_insert_with(|| SinkConfig::DEFAULT.into());
        let sink = SinkConfig::deserialize(Value::Object(sink)).map_err(|error| match error.to_string() {
            text if text.starts_with("unknown field") => {
                format!(
                    "{text}, or one of every route: `name`, `type`, `min_severity`, `labels`, `merge`, `max_per_hour`, \
                     `quiet_hours`, `template_file`"
                )
            }
            text => text,
        })?;
        // After the sink: without a name, the sink's problems are the same.
        let name = name.ok_or("missing field `name`")?;
        Ok(Self { name, min_severity, labels, merge, max_per_hour, quiet_hours, template_file, sink })
    }
}

impl RouteConfig {
    /// A route of all findings, with the defaults of its sink.
    pub fn new(name: &str, sink: SinkConfig) -> Self {
        Self {
            name: name.into(),
            min_severity: Severity::default(),
            labels: Vec::new(),
            merge: None,
            max_per_hour: DEFAULT_MAX_PER_HOUR,
            quiet_hours: None,
            template_file: None,
            sink,
        }
    }

    /// Whether findings that belong together make one message.
    pub fn merges(&self) -> bool {
        self.merge.unwrap_or_else(|| self.sink.merges_by_default())
    }

    /// Reports what is wrong with the keys beside `name` and `labels`: the key, and a text that
    /// says what to do.
    pub fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        self.sink.problems(wrong);
        if let Some(hours) = &self.quiet_hours {
            hours.problems(wrong);
        }
        if self.quiet_hours.is_some() && !self.merges() {
            wrong("quiet_hours", "needs `merge = true`: what waits is told in one message".into());
        }
        if self.max_per_hour == 0 {
            wrong("max_per_hour", "must be at least 1".into());
        }
        if let Some(Err(error)) = self.template_file.as_deref().map(Template::load) {
            wrong("template_file", error.to_string());
        }
    }

    /// The files beside the configuration that the route needs. It is opened again when one of them
    /// changes.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sink.files().chain(self.template_file.as_deref())
    }

    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        self.sink.anchor(folder);
        if let Some(path) = self.template_file.as_mut().filter(|path| path.is_relative()) {
            *path = folder.join(&path);
        }
    }
}

/// A route that is ready: its secret is loaded and its address is valid.
#[derive(Clone, Debug)]
pub struct Route {
    filter: RouteFilter,
    /// `None` if each finding is a message of its own.
    merging: Option<Merging>,
    template: Template,
    sink: Arc<dyn Sink>,
}

/// How a route merges.
#[derive(Clone, Debug)]
pub(crate) struct Merging {
    pub(crate) max_per_hour: u32,
    pub(crate) quiet: Option<QuietHours>,
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
        let client = http::client(policy.timeout).map_err(|error| vec![error])?;
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
        let quiet = config.quiet_hours.as_ref().and_then(QuietHoursConfig::open);
        let merging = config.merges().then_some(Merging { max_per_hour: config.max_per_hour, quiet });
        let template = config.template_file.as_deref().map(Template::load).transpose()?.unwrap_or_default();
        let sink = config.sink.open(&config.name, client)?;
        Ok(Self { filter, merging, template, sink })
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

    pub(crate) fn merging(&self) -> Option<&Merging> {
        self.merging.as_ref()
    }

    /// Sends a message once. Returns the receiver's successful answer.
    pub(crate) async fn send(&self, bundle: &Bundle, context: &Context, now: Time) -> Result<String, Failure> {
        self.sink.send(&self.message(bundle, context, now), now).await
    }

    fn message<'a>(&'a self, bundle: &'a Bundle, context: &'a Context, now: Time) -> Message<'a> {
        let first = &bundle.members[0];
        let finding = &first.finding;
        let switches = context.notes(finding, now);
        let link = context.link(finding);
        let facts = TextFacts::new(&context.network, bundle, &switches, link.as_deref());
        let text = self.template.render(&facts);
        let TextFacts { findings, validators, new_findings, .. } = facts;
        let alert = bundle.alerts.first().map(|(_, alert)| alert);
        Message {
            delivery: format!("{}:{}", finding.id, self.name()),
            idempotency_key: finding.id.to_string(),
            attempt: bundle.members.iter().map(|one| one.attempts).max().unwrap_or_default().saturating_add(1),
            now,
            network: &context.network,
            text,
            link,
            severity: bundle.severity(),
            kind: alert.map_or(finding.kind.as_str(), |alert| &alert.kind),
            alert_key: alert.map_or_else(|| finding.id.to_string(), |alert| alert.key.clone()),
            state: bundle.state,
            since: alert.map_or(finding.first_seen, |alert| alert.since),
            labels: match alert {
                Some(alert) => alert.labels.iter().cloned().collect(),
                None => finding.labels().map(str::to_owned).collect(),
            },
            switches,
            finding: Some(finding),
            merged: alert.map(|_| Merged { findings, validators, new_findings }),
        }
    }

    /// The messages that the route would send about a kind, as text and as the body of a request.
    pub fn preview(&self, kind: &Kind, context: &Context) -> String {
        let mut shown = Vec::new();
        for bundle in preview::samples(kind, self.merging.is_some()) {
            let message = self.message(&bundle, context, bundle.members[0].created_at);
            shown.push(format!("{}\n\n{}", message.text_with_link(), self.sink.preview(&message)));
        }
        shown.join("\n\n---\n\n")
    }

    async fn send_test(&self, context: &Context, now: Time) -> Result<String, Failure> {
        let message = Message {
            delivery: format!("test:{}", self.name()),
            idempotency_key: format!("test-{}", now.as_unix_ns()),
            attempt: 1,
            now,
            network: &context.network,
            text: format!(
                "{}: a test message of slashwatch over route {}; nothing has happened.",
                context.network.name,
                self.name()
            ),
            link: context.public_url.clone(),
            severity: Severity::Info,
            kind: "test",
            alert_key: format!("test-{}", self.name()),
            state: AlertState::Firing,
            since: now,
            labels: Vec::new(),
            switches: Vec::new(),
            finding: None,
            merged: None,
        };
        self.sink.send(&message, now).await
    }
}

/// The text about a kind that people get if nothing else is configured.
pub fn preview_text(kind: &Kind, context: &Context) -> String {
    let template = Template::default();
    let texts = preview::samples(kind, true).into_iter().map(|bundle| {
        let link = context.link(&bundle.members[0].finding);
        template.render(&TextFacts::new(&context.network, &bundle, &[], link.as_deref()))
    });
    texts.collect::<Vec<_>>().join("\n\n---\n\n")
}
