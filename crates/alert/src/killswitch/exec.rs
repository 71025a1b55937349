//! A kill switch that runs a program: fixed arguments, no shell, and the order on its standard
//! input. The beginning of its output is kept.
//!
//! The program's environment has our `PATH`, `HOME`, `USER` and `LANG`, and variables that describe
//! the order. It has no secrets of ours.

use super::{MAX_ANSWER_BYTES, SwitchOrder};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// How long to read what is still in the pipes after the program has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);
const INHERITED: [&str; 4] = ["PATH", "HOME", "USER", "LANG"];

/// Runs the program. Dropping the future before its end (after a timeout) kills the program.
pub(super) async fn run(program: &str, arguments: &[String], order: &SwitchOrder<'_>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear();
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("SLASHWATCH_GROUP", order.kill_switch);
    command.env("SLASHWATCH_ATTEMPT", order.attempt.to_string());
    command.env("SLASHWATCH_NETWORK", &order.network.name);
    command.env("SLASHWATCH_TEST", if order.test { "1" } else { "0" });
    if let Some(finding) = order.finding {
        command.env("SLASHWATCH_FINDING", finding.id.to_string()).env("SLASHWATCH_KIND", finding.kind.as_str());
        if let Some(subject) = &finding.validator {
            command.env("SLASHWATCH_VALIDATOR", subject.index.to_string());
            command.env("SLASHWATCH_PUBKEY", subject.pubkey.to_string());
        }
    }
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}; check the path and chmod +x"))?;
    let mut body = serde_json::to_vec(order).expect("a finding has string keys only");
    body.push(b'\n');
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let status = {
        let write_input = async {
            if let Some(mut stdin) = stdin {
                // A program does not have to read its input.
                let _ = stdin.write_all(&body).await;
            }
        };
        let exchange = async { tokio::join!(write_input, beginning(stdout, &mut output), beginning(stderr, &mut errors)) };
        tokio::pin!(exchange);
        let mut is_drained = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut exchange, if !is_drained => is_drained = true,
            }
        };
        // Processes that the program leaves in the background may keep its output open without end.
        if !is_drained {
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, exchange).await;
        }
        status
    };
    let status = status.map_err(|error| format!("{program}: {error}"))?;
    let words = [one_line(&output), one_line(&errors)].into_iter().filter(|text| !text.is_empty());
    let words = words.collect::<Vec<_>>().join(" | ");
    let summary = if words.is_empty() { format!("{program}: {status}") } else { format!("{program}: {status}: {words}") };
    if status.success() { Ok(summary) } else { Err(summary) }
}

/// Keeps the beginning of a stream. The rest is read and dropped, so that the program never blocks
/// on its output.
async fn beginning(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0u8; 1024];
    while let Ok(n) = stream.read(&mut buffer).await
        && n > 0
    {
        let room = MAX_ANSWER_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
