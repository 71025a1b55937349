//! `slashwatch run` as a child process whose log the test reads.

use super::slashwatch;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long the tests wait for an event before they fail.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Running {
    child: Child,
    log: Receiver<String>,
}

impl Running {
    pub fn start(config: &Path) -> Self {
        let mut command = slashwatch();
        command.arg("run").arg("--config").arg(config);
        Self::of(command)
    }

    /// Starts the program so that [`Self::fill_disk`] can make its writes fail later, like on a
    /// full disk.
    pub fn start_on_a_small_disk(config: &Path) -> Self {
        let mut command = Command::new("bash");
        // Without this trap, the signal that comes with the failing write would end the process.
        command.args(["-c", "trap '' XFSZ; exec \"$0\" run --config \"$1\""]).arg(env!("CARGO_BIN_EXE_slashwatch")).arg(config);
        command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
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
        let until = Instant::now() + 10 * PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(PATIENCE.min(until.saturating_duration_since(Instant::now()))) {
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

pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
