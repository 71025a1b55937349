//! Runs a program of the operator's, for a kill switch or an alert: fixed arguments, no shell, JSON
//! on its standard input. The beginning of its output is kept.
//!
//! The program's environment has our `PATH`, `HOME`, `USER` and `LANG`, and the variables of the
//! caller. It has no secrets of ours.

use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// Number of bytes that are kept of the output of a program.
const MAX_OUTPUT_BYTES: usize = 2048;
/// How long to read what is still in the pipes after the program has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);
const INHERITED: [&str; 4] = ["PATH", "HOME", "USER", "LANG"];

/// Why a program did not succeed.
#[derive(Debug)]
pub(crate) struct ExecError {
    /// Its exit code. `None` if it did not run, or was ended by a signal.
    pub(crate) code: Option<i32>,
    /// One line of text with the beginning of its output.
    pub(crate) reason: String,
}

/// Runs the program. Returns the beginning of its output as one line. Dropping the future before
/// its end (after a timeout) kills the program.
pub(crate) async fn run(
    program: &str,
    arguments: &[String],
    variables: &[(&str, String)],
    input: &[u8],
) -> Result<String, ExecError> {
    let failed = |reason: String| ExecError { code: None, reason };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear();
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let spawned = command.spawn();
    let mut child = spawned.map_err(|error| failed(format!("{program} cannot be run: {error}; check the path and chmod +x")))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let status = {
        let write_input = async {
            if let Some(mut stdin) = stdin {
                // A program does not have to read its input.
                let _ = stdin.write_all(input).await;
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
    let status = status.map_err(|error| failed(format!("{program}: {error}")))?;
    let words = [one_line(&output), one_line(&errors)].into_iter().filter(|text| !text.is_empty());
    let words = words.collect::<Vec<_>>().join(" | ");
    let summary = if words.is_empty() { format!("{program}: {status}") } else { format!("{program}: {status}: {words}") };
    if status.success() { Ok(summary) } else { Err(ExecError { code: status.code(), reason: summary }) }
}

/// Keeps the beginning of a stream. The rest is read and dropped, so that the program never blocks
/// on its output.
async fn beginning(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0u8; 1024];
    while let Ok(n) = stream.read(&mut buffer).await
        && n > 0
    {
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
