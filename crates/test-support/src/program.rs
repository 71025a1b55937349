//! The program as a child process: once to its end, or running while the test reads its log.

use crate::http::{free_port, get};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long the tests wait for an event before they fail.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

/// What a command wrote to stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A tokio runtime for the test's own side.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
}

/// `slashwatch run` as a child process. It is killed when this is dropped.
pub struct Running {
    child: Child,
    log: Receiver<String>,
}

impl Running {
    /// Starts the program, which is given as a command without arguments.
    pub fn start(mut program: Command, config: &Path) -> Self {
        program.arg("run").arg("--config").arg(config);
        Self::of(program)
    }

    /// Starts the program so that [`Self::fill_disk`] can make its writes fail later, like on a
    /// full disk.
    pub fn start_on_a_small_disk(program: &Command, config: &Path) -> Self {
        let mut command = Command::new("bash");
        // Without this trap, the signal that comes with the failing write would end the process.
        command.args(["-c", "trap '' XFSZ; exec \"$0\" run --config \"$1\""]).arg(program.get_program()).arg(config);
        command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        Self::of(command)
    }

    /// Starts any command.
    pub fn of(mut command: Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, log) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log }
    }

    /// Waits for the next line that contains `text`. A process that reports its progress is waited
    /// for longer: loading the two million keys of the long campaign takes two minutes.
    pub fn wait_for(&self, text: &str) -> String {
        let until = Instant::now() + 10 * TEST_TIMEOUT;
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(TEST_TIMEOUT.min(until.saturating_duration_since(Instant::now()))) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("{text:?} did not come; the log was:\n{}", seen.join("\n"));
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
    }

    /// From now on, no file of the process can grow, as on a full disk.
    pub fn fill_disk(&self) {
        let pid = self.child.id().to_string();
        let done = Command::new("prlimit").args(["--fsize=1", "--pid", &pid]).status().expect("prlimit is there");
        assert!(done.success());
    }

    pub fn terminate(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("it ends").code()
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a configuration for a network that the test plays.
pub struct WatcherFolder {
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    pub api: SocketAddr,
}

impl WatcherFolder {
    /// Writes the configuration of a watcher that listens to `peers` and has a free port for its
    /// API. `more` is added to it. The file `secret` is in the same folder.
    pub fn new(config_yaml: &str, state_ssz: &[u8], peers: &[String], more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let api = free_port();
        std::fs::write(dir.path().join("network.yaml"), config_yaml).expect("writable");
        std::fs::write(dir.path().join("genesis.ssz"), state_ssz).expect("writable");
        std::fs::write(dir.path().join("secret"), "hunter2").expect("writable");
        let text = format!(
            "data_dir = \"data\"\n[network]\nconfig = \"network.yaml\"\nstate = \"genesis.ssz\"\n[gossip]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
             peers = {peers:?}\n[api]\nlisten = \"{api}\"\n{more}"
        );
        let config = dir.path().join("slashwatch.toml");
        std::fs::write(&config, text).expect("writable");
        Self { dir, config, api }
    }

    /// Returns all rows of a list of the API (`findings`, `incidents`), page by page.
    pub fn all(&self, list: &str) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(self.api, &format!("/v1/{list}?limit=500{cursor}")).expect("the API answers");
            rows.extend(page[list].as_array().expect("a list").iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}
