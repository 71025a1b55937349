//! CPU time, block I/O and memory of this process, from `/proc`. They are zero on systems other
//! than Linux.

use std::fs;
use std::path::Path;

/// The CPU time that the calling thread spends inside [`CpuClock::run`], in nanoseconds.
#[derive(Default)]
pub struct CpuClock {
    pub ns: u64,
}

impl CpuClock {
    /// Runs `work` and adds its CPU time.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = this_thread_ns();
        let result = work();
        self.ns += this_thread_ns().saturating_sub(before);
        result
    }
}

/// The size of the files of an index, and all bytes that this process has written to disk.
pub struct Usage {
    pub disk_bytes: u64,
    pub written_bytes: u64,
}

impl Usage {
    pub fn now(path: &Path) -> Self {
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Self { disk_bytes: disk_bytes(path), written_bytes: written.and_then(|n| n.parse().ok()).unwrap_or(0) }
    }
}

/// The size of all files except the log, in bytes. After a flush nothing in the log is needed, and
/// RocksDB decides when it is deleted.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let entries = entries.flatten().filter(|entry| !entry.file_name().to_string_lossy().ends_with(".log"));
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn this_thread_ns() -> u64 {
    on_cpu_ns("/proc/thread-self/schedstat")
}

/// CPU time of all threads except the calling one, in nanoseconds. Threads that have ended are not
/// included.
pub fn other_threads_ns() -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    let all: u64 = tasks.flatten().map(|task| on_cpu_ns(&task.path().join("schedstat").to_string_lossy())).sum();
    all.saturating_sub(this_thread_ns())
}

/// CPU time of the whole process in seconds, including threads that have ended, in steps of 10 ms.
pub fn process_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15 are user and system time in hundredths of a second. The second field is a
    // name in brackets that may contain anything, so the fields are counted from its end.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn on_cpu_ns(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// For how long in its whole life this thread was ready to run while other threads ran, in
/// nanoseconds.
pub fn waited_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The largest resident memory that the process had, in bytes.
pub fn peak_rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A percentile of durations, in microseconds. 0 if there are none.
pub fn percentile_us(nanoseconds: &[u64], percent: usize) -> f64 {
    let mut sorted = nanoseconds.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(0.0, |ns| *ns as f64 / 1e3)
}
