//! Scales workloads of Kubernetes to zero, by its API:
//!
//! ```text
//! PATCH /apis/apps/v1/namespaces/NS/statefulsets/NAME/scale   {"spec":{"replicas":0}}
//! GET   the same, until status.replicas is 0
//! ```
//!
//! In a pod the token and the certificate of the service account are in
//! `/var/run/secrets/kubernetes.io/serviceaccount`. The account needs `get` and `patch` on
//! `statefulsets/scale` or `deployments/scale` of that namespace and nothing else.
//! Source: <https://kubernetes.io/docs/reference/kubernetes-api/autoscaling-resources/scale-v1/>.

use super::{joined, passing, repeated};
use crate::retry::{Failure, FailureKind};
use crate::sink::http::{join, parse_url, place_of, read_bounded, read_certificates};
use crate::{AlertError, Secret, SecretSource};
use base::http;
use futures::future::join_all;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Pause between two looks whether the pods are gone.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks before the workload is scaled again.
const LOOKS: u32 = 5;
/// Limit on an answer in bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// What is sent. It is constant, so it needs no builder.
const ZERO: &str = r#"{"spec":{"replicas":0}}"#;

/// What to stop, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// Address of the API server.
    pub url: String,
    pub token: SecretSource,
    /// The certificate of the API server, PEM. `None` trusts the system's.
    pub ca_file: Option<PathBuf>,
    pub namespace: String,
    pub workloads: Vec<Workload>,
}

/// A workload, written as `statefulset/NAME` or `deployment/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    kind: WorkloadKind,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkloadKind {
    StatefulSet,
    Deployment,
}

impl std::str::FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').filter(|(_, name)| !name.is_empty() && !name.contains('/'));
        let (kind, name) = parts.ok_or_else(|| format!("{text:?} is not like \"statefulset/validator\""))?;
        let kind = match kind {
            "statefulset" => WorkloadKind::StatefulSet,
            "deployment" => WorkloadKind::Deployment,
            other => return Err(format!("{other:?} cannot be scaled; use `statefulset` or `deployment`")),
        };
        Ok(Self { kind, name: name.into() })
    }
}

/// Workloads that are ready to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Kubernetes {
    client: Client,
    url: Url,
    /// Read for each request: in a pod it is replaced every hour.
    token: SecretSource,
    namespace: String,
    workloads: Vec<Workload>,
    timeout: Duration,
}

impl Kubernetes {
    pub(super) fn new(group: &str, config: KubernetesConfig, timeout: Duration) -> Result<Self, AlertError> {
        let KubernetesConfig { url, token, ca_file, namespace, workloads } = config;
        // An order has no business with a proxy, which would see the token.
        let mut builder = http::client_builder(true).no_proxy().timeout(timeout);
        if let Some(path) = ca_file {
            let bad = |reason: String| AlertError::Certificate { path: path.clone(), reason };
            let pem = read_certificates(&path)?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(http::failure_reason(error)))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| AlertError::Client(http::failure_reason(error)))?;
        let url = parse_url(group, &url)?;
        // That it can be read is checked before it is needed.
        Secret::load(&token)?;
        Ok(Self { client, url, token, namespace, workloads, timeout })
    }

    pub(super) fn place(&self) -> String {
        place_of(&self.url)
    }

    /// Scales all workloads to zero at once. In a test it looks whether they are there.
    pub(super) async fn order(&self, is_test: bool) -> Result<String, String> {
        let orders = self.workloads.iter().map(|workload| async move {
            let name = &workload.name;
            let mut last = None;
            let acting = async {
                match is_test {
                    true => self.look(workload).await.map_err(|failure| failure.reason),
                    false => repeated(|| self.stop(workload), &mut last).await,
                }
            };
            match tokio::time::timeout(self.timeout, acting).await {
                Ok(report) => report.map_err(|reason| format!("{name}: {reason}")),
                Err(_) => {
                    let last = last.unwrap_or_else(|| format!("{} did not answer", self.place()));
                    Err(format!("{name}: not done within {:?}; last: {last}", self.timeout))
                }
            }
        });
        joined(join_all(orders).await)
    }

    /// Scales a workload to zero. It fails while there are pods, and is then asked for again:
    /// something may scale it up meanwhile.
    async fn stop(&self, workload: &Workload) -> Result<String, Failure> {
        let patch = self.client.patch(self.scale(workload)).header(CONTENT_TYPE, "application/merge-patch+json").body(ZERO);
        self.ask(patch).await?;
        for _ in 0..LOOKS {
            let scale = self.ask(self.client.get(self.scale(workload))).await?;
            if scale["spec"]["replicas"].as_u64().unwrap_or(0) > 0 {
                return Err(passing("something scaled it up again"));
            }
            // An absent number is one that was not looked at yet.
            if scale["status"]["replicas"].as_u64() == Some(0) {
                return Ok(format!("{}: scaled to 0", workload.name));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(passing("scaled to 0, and its pods are still there"))
    }

    async fn look(&self, workload: &Workload) -> Result<String, Failure> {
        let scale = self.ask(self.client.get(self.scale(workload))).await?;
        let pods = scale["status"]["replicas"].as_u64();
        let pods = pods.ok_or_else(|| passing("its scale does not say how many pods there are"))?;
        Ok(format!("{}: has {pods} pods and would be scaled to 0", workload.name))
    }

    fn scale(&self, workload: &Workload) -> Url {
        let kind = match workload.kind {
            WorkloadKind::StatefulSet => "statefulsets",
            WorkloadKind::Deployment => "deployments",
        };
        join(self.url.clone(), &["apis", "apps", "v1", "namespaces", &self.namespace, kind, &workload.name, "scale"])
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let token = Secret::load(&self.token).map_err(|error| passing(base::error_chain(&error)))?;
        let sent = request.bearer_auth(token.as_str()).send().await;
        let answer = sent.map_err(|error| passing(format!("{}: {}", self.place(), http::failure_reason(error))))?;
        let status = answer.status();
        let bytes = read_bounded(answer, MAX_ANSWER_BYTES).await.map_err(passing)?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() && value.is_object() {
            return Ok(value);
        }
        let said = value["message"].as_str().map_or(String::new(), |text| format!(": {}", crate::sink::cut(text, 200)));
        let reason = format!("{} answered {status}{said}", self.place());
        // 401 may be a token that is just being replaced.
        let kind = match status {
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => FailureKind::Refused,
            _ => FailureKind::Unavailable,
        };
        Err(Failure { kind, reason })
    }
}
