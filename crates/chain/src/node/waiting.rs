//! What is logged while a node keeps us waiting: its name every [`LOG_EVERY`], with the amount that
//! has arrived and the speed. A node that has sent nothing for [`HANGS_AFTER`] is logged as a
//! warning.

use super::transport::shown;
use reqwest::Url;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Time between two log lines about a response that is still awaited.
const LOG_EVERY: Duration = Duration::from_secs(3);
/// A node that has sent nothing for this long is worth a warning.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// A response that is awaited, and the time of the last log line about it.
pub(super) struct Wait<'a> {
    url: &'a Url,
    path: &'a str,
    began: Instant,
    logged: Instant,
    received: u64,
    /// The announced length in bytes.
    expected: Option<u64>,
}

impl<'a> Wait<'a> {
    pub fn begin(url: &'a Url, path: &'a str) -> Self {
        let now = Instant::now();
        Self { url, path, began: now, logged: now, received: 0, expected: None }
    }

    /// Sets the announced length of the response in bytes.
    pub fn expect(&mut self, length: Option<u64>) {
        self.expected = length;
    }

    /// Sets how many bytes have arrived.
    pub fn received(&mut self, n_bytes: usize) {
        self.received = n_bytes as u64;
    }

    /// Waits for a future and returns its output. While this takes long, a line is logged from time
    /// to time.
    pub async fn for_this<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            let left = LOG_EVERY.saturating_sub(self.logged.elapsed());
            if left.is_zero() {
                self.log();
                continue;
            }
            if let Ok(output) = tokio::time::timeout(left, &mut future).await {
                return output;
            }
        }
    }

    fn log(&mut self) {
        self.logged = Instant::now();
        let seconds = self.began.elapsed().as_secs();
        let (node, path) = (shown(self.url), self.path);
        if self.received == 0 {
            if self.began.elapsed() >= HANGS_AFTER {
                warn!(
                    node,
                    path, seconds, "waiting for a beacon node's answer: nothing has come; look at that node, or give another one"
                );
            } else {
                info!(node, path, seconds, "waiting for a beacon node's answer");
            }
            return;
        }
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let rate = megabytes(self.received / seconds.max(1));
        let (received, expected) = (megabytes(self.received), self.expected.map(megabytes));
        info!(
            node,
            path,
            seconds,
            received_mb = received,
            of_mb = expected,
            mb_per_second = rate,
            "reading a beacon node's answer"
        );
    }
}
