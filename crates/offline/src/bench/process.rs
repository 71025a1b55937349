//! Resources that this process has used, read from `/proc`. On systems other than Linux they are
//! zero.

use std::fs;

/// The kernel's unit for times in `/proc` (USER_HZ). It is the same on all architectures of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the CPU time of all threads, including those that have ended.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may contain any characters. User and system time are fields 14 and
    // 15, and the first field after the name is field 3.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) as f64 / TICKS_PER_SECOND
}

/// Returns the largest amount of memory that was resident at any time.
pub fn peak_rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
