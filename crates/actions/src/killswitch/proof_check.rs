//! The second check of a proof before an order (`second_check`): `slashwatch verify-proof` in a
//! process of its own. It checks signatures with arkworks, and not with blst as the watcher does.
//! So a defect of one library stops nobody's validators.
//!
//! What it costs is the time of that process: some tenths of a second. If it cannot be run, or
//! takes longer than [`TIMEOUT`], the order is given nevertheless, and alert routes are told: a
//! needless stop costs minutes of rewards, a missed one costs stake.

use evidence::{Evidence, Finding};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Longest time that the check may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Limit on the answer that is repeated, in bytes.
const MAX_REASON_BYTES: usize = 400;

/// A check that is ready to run.
pub(super) struct ProofCheck {
    program: PathBuf,
    /// The data directory, which has the network and the public keys.
    dir: PathBuf,
    file: PathBuf,
    /// The proof as SSZ. `None` if it could not be read.
    proof: Option<Vec<u8>>,
}

/// What the check gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckResult {
    Genuine,
    NotGenuine(String),
    NotChecked(String),
}

impl ProofCheck {
    /// `program` is the executable of slashwatch.
    pub fn new(program: &Path, dir: &Path, finding: &Finding, evidence: Option<Evidence>) -> Self {
        Self {
            program: program.to_owned(),
            dir: dir.to_owned(),
            file: dir.join("killswitch").join(format!("{}.proof.ssz", finding.id)),
            proof: evidence.map(|evidence| evidence.ssz),
        }
    }

    pub async fn run(self) -> CheckResult {
        let file = self.file.clone();
        let result = match tokio::time::timeout(TIMEOUT, self.ask()).await {
            Ok(result) => result,
            Err(_) => CheckResult::NotChecked(format!("it took more than {TIMEOUT:?}")),
        };
        // It may not have been written, and the store has the proof.
        let _ = std::fs::remove_file(file);
        result
    }

    async fn ask(self) -> CheckResult {
        let Self { program, dir, file, proof } = self;
        let Some(proof) = proof else {
            return CheckResult::NotChecked("the proof is not in the data directory".into());
        };
        let (path, written) = (file.clone(), move || evidence::replace_private_file(&file, &proof));
        match tokio::task::spawn_blocking(written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return CheckResult::NotChecked(format!("{} cannot be written: {error}", path.display())),
            Err(error) => return CheckResult::NotChecked(error.to_string()),
        }
        let mut command = Command::new(&program);
        command.arg("verify-proof").arg(&path).arg("--network").arg(&dir);
        command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
        match command.output().await {
            Ok(output) => judge(output.status.code(), &first_line(&output.stdout), &first_line(&output.stderr)),
            Err(error) => CheckResult::NotChecked(format!("{} cannot be run: {error}", program.display())),
        }
    }
}

/// Reads an answer of `verify-proof`: exit code 0 for a genuine proof, and 1 with a text that says
/// so for one that is not. Everything else means that it could not tell.
fn judge(code: Option<i32>, answer: &str, errors: &str) -> CheckResult {
    match (code, answer.strip_prefix("NOT genuine: ")) {
        (Some(0), None) if answer.starts_with("genuine") => CheckResult::Genuine,
        (Some(1), Some(reason)) => CheckResult::NotGenuine(reason.to_owned()),
        (code, _) => {
            let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
            CheckResult::NotChecked(format!(
                "verify-proof ended with {code}: {}",
                if errors.is_empty() { answer } else { errors }
            ))
        }
    }
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_REASON_BYTES)]);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_no_is_a_no() {
        let not_checked = |result: CheckResult| matches!(result, CheckResult::NotChecked(_));
        assert_eq!(judge(Some(0), "genuine: double vote of 5; ..", ""), CheckResult::Genuine);
        assert_eq!(
            judge(Some(1), "NOT genuine: a signature does not hold", ""),
            CheckResult::NotGenuine("a signature does not hold".into())
        );
        assert!(not_checked(judge(Some(1), "", "error: the keys are not known")));
        assert!(not_checked(judge(Some(0), "", "")), "another program");
        assert!(not_checked(judge(Some(64), "NOT genuine: x", "")));
        assert!(not_checked(judge(None, "NOT genuine: x", "")));
    }
}
