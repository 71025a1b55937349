//! Stops containers of Docker or Podman over their unix socket, and takes their restart policy
//! away.
//!
//! Both speak the Docker Engine API. Whoever may write to the socket may do anything on that
//! machine, so the watcher's user should get no more than a proxy of the socket that allows these
//! requests:
//!
//! ```text
//! POST /containers/NAME/stop?t=2
//! POST /containers/NAME/update   {"RestartPolicy":{"Name":"no"}}
//! GET  /containers/NAME/json
//! ```
//!
//! Source: <https://docs.docker.com/reference/api/engine/version/v1.51/>. Podman takes `update`
//! from version 5.1 on. An older one keeps the policy, which the report says.

use super::{joined, passing, repeated};
use crate::AlertError;
use crate::retry::{Failure, FailureKind};
use crate::sink::cut;
use crate::sink::http::{join, read_bounded};
use base::http;
use futures::future::join_all;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// How long a client may take to end before it is killed, in seconds.
const STOP_SECONDS: u64 = 2;
/// Limit on an answer in bytes. The description of a container has some kilobytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What to stop, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainersConfig {
    /// Names or ids.
    pub containers: Vec<String>,
    pub socket: PathBuf,
}

/// Containers that are ready to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Containers {
    containers: Vec<String>,
    socket: PathBuf,
    client: Client,
    timeout: Duration,
}

impl Containers {
    pub(super) fn new(config: ContainersConfig, timeout: Duration) -> Result<Self, AlertError> {
        let ContainersConfig { containers, socket } = config;
        let client = http::client_builder(false).unix_socket(socket.clone()).timeout(timeout).build();
        let client = client.map_err(|error| AlertError::Client(http::failure_reason(error)))?;
        Ok(Self { containers, socket, client, timeout })
    }

    pub(super) fn place(&self) -> String {
        format!("{}: {}", self.socket.display(), self.containers.join(", "))
    }

    /// Stops all containers at once. In a test it looks whether they are there.
    pub(super) async fn order(&self, is_test: bool) -> Result<String, String> {
        let orders = self.containers.iter().map(|name| async move {
            let mut last = None;
            let acting = async {
                match is_test {
                    true => self.look(name).await.map_err(|failure| failure.reason),
                    false => repeated(|| self.stop(name), &mut last).await,
                }
            };
            match tokio::time::timeout(self.timeout, acting).await {
                Ok(report) => report.map_err(|reason| format!("{name}: {reason}")),
                Err(_) => {
                    let last = last.unwrap_or_else(|| format!("{} did not answer", self.socket.display()));
                    Err(format!("{name}: not done within {:?}; last: {last}", self.timeout))
                }
            }
        });
        joined(join_all(orders).await)
    }

    async fn stop(&self, name: &str) -> Result<String, Failure> {
        let mut stop = self.address(name, "stop");
        stop.set_query(Some(&format!("t={STOP_SECONDS}")));
        let stopped = self.ask(Method::POST, stop, None).await;
        // The policy is taken away whatever became of the stop: it may be what starts it again.
        let policy = json!({ "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 } });
        let kept = match self.ask(Method::POST, self.address(name, "update"), Some(policy)).await {
            Ok((status, _)) if status.is_success() => String::new(),
            Ok((status, answer)) => format!(" ({})", refusal("taking its restart policy away", status, &answer).reason),
            Err(failure) => format!(" (its restart policy may still be there: {})", failure.reason),
        };
        let (status, answer) = stopped?;
        // 304: it was not running.
        if !status.is_success() && status != StatusCode::NOT_MODIFIED {
            return Err(refusal("stop", status, &answer));
        }
        match self.is_running(name).await? {
            true => Err(passing(format!("it runs although it was stopped{kept}"))),
            false if kept.is_empty() => Ok(format!("{name}: stopped, and is not restarted")),
            false => Ok(format!("{name}: stopped{kept}")),
        }
    }

    async fn look(&self, name: &str) -> Result<String, Failure> {
        let state = if self.is_running(name).await? { "runs" } else { "does not run" };
        Ok(format!("{name}: {state} and would be stopped"))
    }

    async fn is_running(&self, name: &str) -> Result<bool, Failure> {
        let (status, answer) = self.ask(Method::GET, self.address(name, "json"), None).await?;
        if !status.is_success() {
            return Err(refusal("asking for its state", status, &answer));
        }
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| passing(format!("its state is no JSON: {error}")))?;
        answer["State"]["Running"].as_bool().ok_or_else(|| passing("its state does not say whether it runs"))
    }

    /// The host of the address does not matter on a unix socket.
    fn address(&self, name: &str, what: &str) -> Url {
        let base = Url::parse("http://localhost").expect("a fixed address");
        join(base, &["containers", name, what])
    }

    async fn ask(&self, method: Method, url: Url, body: Option<Value>) -> Result<(StatusCode, Vec<u8>), Failure> {
        let request = self.client.request(method, url);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let failed = |error| passing(format!("{}: {}", self.socket.display(), http::failure_reason(error)));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let bytes = read_bounded(answer, MAX_ANSWER_BYTES).await.map_err(passing)?;
        Ok((status, bytes))
    }
}

/// A status that is no success. Only a name that is unknown, or a forbidden request, stays so.
fn refusal(what: &str, status: StatusCode, answer: &[u8]) -> Failure {
    let said: Option<Value> = serde_json::from_slice(answer).ok();
    let said = said.and_then(|said| said["message"].as_str().map(|text| format!(": {}", cut(text, 200))));
    let kind = match status {
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => FailureKind::Refused,
        _ => FailureKind::Unavailable,
    };
    Failure { kind, reason: format!("{what} was answered with {status}{}", said.unwrap_or_default()) }
}
