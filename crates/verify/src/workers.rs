//! The threads that decode and prove.

use rayon::prelude::*;
use std::fmt;

/// A pool of threads, or none if one thread is enough.
pub(crate) struct Workers(Option<rayon::ThreadPool>);

impl Workers {
    /// The configured number of threads. For 0, the number that the machine offers. If the system
    /// starts no threads, everything runs on the thread of the caller.
    pub(crate) fn new(configured: usize) -> Self {
        let n_threads = match configured {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(n_threads).thread_name(|nth| format!("verify-{nth}")).build();
        let pool = (n_threads > 1).then(pool).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, n_threads, "no threads for verification: one must do; check the process limits (ulimit -u)");
            None
        });
        Self(pool)
    }

    /// Maps `items` with `f`. The results are in the order of the items.
    pub(crate) fn map<T: Sync, R: Send>(&self, items: &[T], f: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
        match &self.0 {
            // Every item is worth a thread, so none waits behind another one.
            Some(pool) if items.len() > 1 => pool.install(|| items.par_iter().with_max_len(1).map(f).collect()),
            Some(_) | None => items.iter().map(f).collect(),
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_items() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [1, 2, 7] {
            let workers = Workers::new(threads);
            assert_eq!(workers.map(&items, |i| i * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
            // A task may use the same threads for its own parts.
            let sums: Vec<u32> = workers.map(&items[..50], |i| workers.map(&items[..10], |j| i + j).iter().sum());
            assert_eq!(sums[49], 49 * 10 + 45);
        }
        assert!(Workers::new(3).map(&[] as &[u32], |i| *i).is_empty());
    }
}
