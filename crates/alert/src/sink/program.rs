//! The program sink: runs a program for each message, without a shell, with the body of a
//! [`super::webhook`] on its standard input and the text in its environment.

use super::webhook::WebhookBody;
use super::{AlertState, Message, SecretKeys, SecretNeed, Sink, SinkSettings};
use crate::AlertError;
use crate::exec::{self, ExecError};
use crate::retry::{Failure, FailureKind, RetryPolicy};
use crate::secret::Secret;
use evidence::Time;
use futures::future::BoxFuture;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The exit code `EX_TEMPFAIL` of `sysexits.h`: try again later, as long as it takes. Any other
/// code but 0 counts as a refusal.
const TRY_LATER: i32 = 75;

/// The keys of a route to a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramConfig {
    /// Program and its arguments. They are passed as they are, without a shell.
    pub command: Vec<String>,
}

impl SinkSettings for ProgramConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        match self.command.first() {
            None => wrong("command", "names no program".into()),
            Some(program) => {
                if let Some(text) = program_problem(program) {
                    wrong("command[0]", text);
                }
            }
        }
    }

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys { file: None, variable: None, need: SecretNeed::None }
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        None
    }

    fn open(&self, route: &str, _client: &Client, _secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let (program, arguments) = self.command.split_first().ok_or(AlertError::NoProgram { route: route.into() })?;
        Ok(Arc::new(Program { program: program.clone(), arguments: arguments.to_vec() }))
    }
}

#[derive(Debug)]
struct Program {
    program: String,
    arguments: Vec<String>,
}

impl Sink for Program {
    fn place(&self) -> String {
        self.program.clone()
    }

    fn send<'a>(&'a self, message: &'a Message<'a>, _now: Time) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            let state = match message.state {
                AlertState::Firing => "firing",
                AlertState::Resolved => "resolved",
            };
            let mut variables = vec![
                ("SLASHWATCH_NETWORK", message.network.name.clone()),
                ("SLASHWATCH_KIND", message.kind.to_owned()),
                ("SLASHWATCH_SEVERITY", message.severity.to_string()),
                ("SLASHWATCH_STATE", state.to_owned()),
                ("SLASHWATCH_TEST", if message.finding.is_none() { "1" } else { "0" }.to_owned()),
                ("SLASHWATCH_TEXT", message.text.clone()),
            ];
            variables.extend(message.link.iter().map(|link| ("SLASHWATCH_LINK", link.clone())));
            let mut body = WebhookBody::new(message).to_json();
            body.push(b'\n');
            let running = exec::run(&self.program, &self.arguments, &variables, &body);
            let timeout = RetryPolicy::DEFAULT.timeout;
            match tokio::time::timeout(timeout, running).await {
                Ok(Ok(summary)) => Ok(summary),
                Ok(Err(ExecError { code, reason })) => {
                    let kind =
                        if code.is_none_or(|code| code == TRY_LATER) { FailureKind::Unavailable } else { FailureKind::Refused };
                    Err(Failure { kind, reason })
                }
                Err(_) => {
                    let reason = format!("{} did not end within {timeout:?} and was broken off", self.program);
                    Err(Failure { kind: FailureKind::Unavailable, reason })
                }
            }
        })
    }

    fn preview(&self, message: &Message<'_>) -> String {
        serde_json::to_string_pretty(&WebhookBody::new(message)).expect("a finding has string keys only")
    }
}

/// Returns what is wrong with the path of a program: it must be absolute and executable.
pub fn program_problem(program: &str) -> Option<String> {
    let path = Path::new(program);
    if !path.is_absolute() {
        return Some(format!("{program:?} is not an absolute path; it must not depend on PATH or folder"));
    }
    use std::os::unix::fs::PermissionsExt as _;
    let is_executable = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    (!is_executable).then(|| format!("{program:?} is not an executable file; check the path and chmod +x"))
}
