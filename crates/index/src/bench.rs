//! `slashwatch bench index`: measures what a machine can do with the load that the verifier would
//! produce.
//!
//! Committees are shuffled anew in every epoch. Each slot comes in one or several batches, and each
//! batch is committed. Signatures are real points of the curve (a pool that is made by adding one
//! point again and again), so adding signatures has its real cost. They are not the sums that they
//! claim to be, because the index does not check that. No verifier could produce such votes. They
//! enter through [`Index::stage_unproven_votes`], which works only for an index of the benchmark's
//! own network.
//!
//! What is measured:
//!
//! - CPU time is the time of the calling thread inside the index's calls, plus the time of
//!   RocksDB's threads. Making the load is not counted.
//! - Written bytes are all block I/O of the process until the tables are flushed and settled.
//!   Growth is the size on disk after that.
//! - Times of single votes are wall time in the index, without the time in which the thread waited
//!   for a processor that another program used.

mod compare;
mod load;
mod measure;

pub use compare::{Comparison, Variant, compare};

use crate::{Conflict, Index, IndexError, Shape};
use consensus::{Root, ValidatorIndex};
use load::{IndexLoad, SLEEPER_SHARE};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use verify::Vote;

/// The genesis validators root of the benchmark's indices. Their votes are not really signed, so no
/// real network may open them.
pub(crate) const NETWORK: Root = Root::repeat_byte(0xbe);
/// Limit on the late votes, and on the votes of offenders, that are timed.
const MAX_SAMPLES: u64 = 2000;
const SLOTS: u64 = 32;
/// Number of epochs that are stored before older history is filled in.
const STORED_EPOCHS: u64 = 6;
/// Epochs that are added between a flush and opening. One more would move the tail.
const TAIL_GROWTH: u64 = 3;
/// Number of keys whose whole history is read at once, as an export does.
const HISTORY_KEYS: u32 = 10_000;
/// Number of validators that commit offences.
const OFFENDERS: u64 = 256;

/// The form in which votes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteShape {
    /// Single votes. The verifier adds them up per data, committee and batch.
    Singles,
    /// One aggregate per data and committee. Later batches bring larger ones.
    Aggregates,
    /// One aggregate per data over all committees, as in blocks.
    Blocks,
}

impl std::str::FromStr for VoteShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "singles" => Ok(Self::Singles),
            "aggregates" => Ok(Self::Aggregates),
            "blocks" => Ok(Self::Blocks),
            _ => Err(format!("{text:?} is none of singles, aggregates, blocks")),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub validators: u32,
    /// Number of epochs that are measured, after one for warming up.
    pub epochs: u64,
    pub batches_per_slot: u32,
    /// Percentage of validators that vote in an epoch.
    pub participation: f64,
    /// Percentage of votes that are for another head.
    pub minority: f64,
    pub shape: VoteShape,
    /// Epochs between source and target.
    pub source_distance: u64,
    /// Epochs without any vote between the warm-up and the rest.
    pub absent_epochs: u64,
    /// Whether history is filled in: the epochs before the stored ones are added, with one commit
    /// for each.
    pub bulk: bool,
    /// The folder for the index. It must be empty or must not exist. `None` means a temporary
    /// folder that is removed afterwards.
    pub data_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            validators: 1_000_000,
            epochs: 8,
            batches_per_slot: 1,
            participation: 99.5,
            minority: 0.0,
            shape: VoteShape::Singles,
            source_distance: 1,
            absent_epochs: 0,
            bulk: false,
            data_dir: None,
        }
    }
}

/// The results. Field names are those of the JSON.
#[derive(Clone, Debug, serde::Serialize)]
pub struct IndexReport {
    pub validators: u32,
    pub epochs: u64,
    pub votes: u64,
    pub cpu_seconds: f64,
    pub cpu_seconds_per_epoch: f64,
    pub votes_per_cpu_second: f64,
    pub growth_bytes_per_epoch: u64,
    pub written_bytes_per_epoch: u64,
    pub peak_rss_bytes: u64,
    pub disk_bytes: u64,
    pub reopen_wall_seconds: f64,
    pub reopen_cpu_seconds: f64,
    /// The same, but opened from the files as they are while the index is running. A killed process
    /// leaves such files behind.
    pub reopen_killed_wall_seconds: f64,
    pub reopen_killed_cpu_seconds: f64,
    pub late_vote_p50_us: f64,
    pub late_vote_p99_us: f64,
    pub offender_vote_p50_us: f64,
    pub offender_vote_p99_us: f64,
    /// Number of keys whose votes were all read. The CPU time is given per epoch of history.
    pub history_keys: u32,
    pub history_cpu_ms_per_epoch: f64,
    /// Number of offenders that were found, of offenders that were missed, and of other validators
    /// that were accused.
    pub found: u64,
    pub missed: u64,
    #[serde(rename = "false")]
    pub falsely: u64,
    /// Filled in by [`compare`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compared: Vec<Comparison>,
}

/// Runs the load. `progress` gets the number of epochs that are done.
pub fn run(options: &Options, progress: &mut dyn FnMut(u64)) -> Result<IndexReport, IndexError> {
    match &options.data_dir {
        Some(path) => run_in(path, options, progress),
        None => in_temporary("", |path| run_in(path, options, progress)),
    }
}

fn in_temporary<T>(suffix: &str, work: impl FnOnce(&Path) -> T) -> T {
    let path = std::env::temp_dir().join(format!("slashwatch-bench-{}{suffix}", std::process::id()));
    let result = work(&path);
    // Files that stay in the temporary directory are no reason to lose the report.
    let _ = std::fs::remove_dir_all(&path);
    result
}

fn run_in(path: &Path, options: &Options, progress: &mut dyn FnMut(u64)) -> Result<IndexReport, IndexError> {
    let mut feed = VoteFeed::new(path, options)?;
    feed.epoch(0)?;
    if options.bulk {
        // These epochs are stored before history is filled in.
        (1..STORED_EPOCHS).try_for_each(|more| feed.epoch(options.epochs + more))?;
    }
    feed.index.flush()?;
    let before = measure::Usage::now(path);
    (feed.clock, feed.n_votes) = (measure::CpuClock::default(), 0);
    let background = measure::other_threads_ns();
    for epoch in 1..=options.epochs {
        feed.epoch(epoch)?;
        progress(epoch);
    }
    let VoteFeed { mut index, mut load, mut clock, mut named, n_votes: votes, .. } = feed;
    clock.run(|| index.flush())?;
    let after = measure::Usage::now(path);
    let cpu_seconds = (clock.ns + measure::other_threads_ns().saturating_sub(background)) as f64 / 1e9;

    let late = late_votes(&mut index, &mut load, options, &mut named)?;
    let (offending, found, missed) = offences(&mut index, &mut load, options)?;
    index.commit()?;
    let peak_rss_bytes = measure::peak_rss_bytes();
    let mut feed = VoteFeed { index, load, bulk: options.bulk, clock, named: BTreeSet::new(), n_votes: 0 };
    // The flush has moved the tail up to the last epochs. Here the tail is as long as it can get
    // before it is moved again.
    let last = options.epochs + if options.bulk { STORED_EPOCHS } else { 0 };
    (1..=TAIL_GROWTH).try_for_each(|more| feed.epoch(last + more))?;
    let killed = in_temporary("-killed", |copy| reopen(&copied(path, copy)?))?;
    drop(feed);
    let closed = reopen(path)?;
    let (history_keys, history_cpu_ms_per_epoch) = read_history(path, options)?;

    let epochs = options.epochs.max(1);
    Ok(IndexReport {
        validators: options.validators,
        epochs: options.epochs,
        votes,
        cpu_seconds,
        cpu_seconds_per_epoch: cpu_seconds / epochs as f64,
        votes_per_cpu_second: votes as f64 / cpu_seconds.max(1e-9),
        growth_bytes_per_epoch: after.disk_bytes.saturating_sub(before.disk_bytes) / epochs,
        written_bytes_per_epoch: after.written_bytes.saturating_sub(before.written_bytes) / epochs,
        peak_rss_bytes,
        disk_bytes: after.disk_bytes,
        reopen_wall_seconds: closed.0,
        reopen_cpu_seconds: closed.1,
        reopen_killed_wall_seconds: killed.0,
        reopen_killed_cpu_seconds: killed.1,
        late_vote_p50_us: measure::percentile_us(&late, 50),
        late_vote_p99_us: measure::percentile_us(&late, 99),
        offender_vote_p50_us: measure::percentile_us(&offending, 50),
        offender_vote_p99_us: measure::percentile_us(&offending, 99),
        history_keys,
        history_cpu_ms_per_epoch,
        found,
        missed,
        falsely: named.len() as u64,
        compared: Vec::new(),
    })
}

fn shape() -> Shape {
    Shape { genesis_validators_root: NETWORK, slots_per_epoch: 32, history_epochs: 54_000 }
}

/// Wall and CPU seconds for opening an index that this benchmark left behind.
pub fn reopen(path: &Path) -> Result<(f64, f64), IndexError> {
    let (started, cpu) = (Instant::now(), measure::process_seconds());
    let index = Index::open(path, shape())?;
    let taken = (started.elapsed().as_secs_f64(), measure::process_seconds() - cpu);
    drop(index);
    Ok(taken)
}

/// The number of keys, and the CPU milliseconds per epoch to read all their votes.
fn read_history(path: &Path, options: &Options) -> Result<(u32, f64), IndexError> {
    let index = Index::open(path, shape())?;
    let n_keys = HISTORY_KEYS.min(options.validators);
    let keys = (0..u64::from(n_keys)).map(ValidatorIndex::new).collect();
    let (mut n_votes, mut epochs) = (0u64, 0);
    let cpu = measure::process_seconds();
    index.votes_of_several(&keys, &mut |_, _| n_votes += 1, &mut |walked| epochs = walked.total)?;
    let seconds = measure::process_seconds() - cpu;
    std::hint::black_box(n_votes);
    Ok((n_keys, seconds * 1000.0 / epochs.max(1) as f64))
}

/// Copies the files of an index that is not being written to.
fn copied(from: &Path, to: &Path) -> Result<PathBuf, IndexError> {
    let copy = || {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            // Table files never change, so a hard link is enough.
            let name = entry.file_name();
            if !name.to_string_lossy().ends_with(".sst") || std::fs::hard_link(entry.path(), to.join(&name)).is_err() {
                std::fs::copy(entry.path(), to.join(&name))?;
            }
        }
        Ok(to.to_owned())
    };
    copy().map_err(|error: std::io::Error| IndexError::Storage { path: to.to_owned(), reason: error.to_string() })
}

/// A load and the index that receives it, with the CPU time of the index.
struct VoteFeed {
    index: Index,
    load: IndexLoad,
    bulk: bool,
    clock: measure::CpuClock,
    /// Validators that the index accused. The load has no offenders.
    named: BTreeSet<ValidatorIndex>,
    n_votes: u64,
}

impl VoteFeed {
    fn new(path: &Path, options: &Options) -> Result<Self, IndexError> {
        Ok(Self {
            index: Index::open(path, shape())?,
            load: IndexLoad::new(options),
            bulk: options.bulk,
            clock: measure::CpuClock::default(),
            named: BTreeSet::new(),
            n_votes: 0,
        })
    }

    fn epoch(&mut self, epoch: u64) -> Result<(), IndexError> {
        self.load.begin_epoch(epoch);
        (0..SLOTS).try_for_each(|slot| self.slot(slot))
    }

    /// Adds a slot of the current epoch. In bulk, the last slot commits the whole epoch.
    fn slot(&mut self, slot: u64) -> Result<(), IndexError> {
        for batch in self.load.slot(slot) {
            self.n_votes += batch.iter().map(|vote| vote.indices.len() as u64).sum::<u64>();
            self.named.extend(validators(&self.clock.run(|| self.index.stage_unproven_votes(&batch))?));
            if !self.bulk {
                self.clock.run(|| self.index.commit())?;
            }
        }
        if slot + 1 == SLOTS {
            self.clock.run(|| self.index.commit())?;
        }
        Ok(())
    }
}

/// Times late votes: votes of validators for the epochs in which they were absent, validator by
/// validator.
fn late_votes(
    index: &mut Index,
    load: &mut IndexLoad,
    options: &Options,
    named: &mut BTreeSet<ValidatorIndex>,
) -> Result<Vec<u64>, IndexError> {
    let sleepers = u64::from(options.validators) / SLEEPER_SHARE;
    let mut times = Vec::new();
    if options.epochs < 6 {
        return Ok(times);
    }
    for n in 0..sleepers.min(MAX_SAMPLES) {
        // These are spread over all epochs of the absence, and not in order.
        let epoch = 2 + (n * 7919) % (options.epochs - 5);
        let vote = load.single(n * SLEEPER_SHARE, epoch, 0);
        times.push(timed(index, &vote, |conflicts| named.extend(validators(conflicts)))?);
        if n % 64 == 63 {
            index.commit()?;
        }
    }
    index.commit()?;
    Ok(times)
}

/// Times the votes of validators that vote twice for the last epoch and then go on voting, with and
/// without contradictions.
fn offences(index: &mut Index, load: &mut IndexLoad, options: &Options) -> Result<(Vec<u64>, u64, u64), IndexError> {
    let n_offenders = OFFENDERS.min(u64::from(options.validators) / SLEEPER_SHARE);
    let last = options.epochs;
    let mut named = BTreeSet::new();
    let mut times = Vec::new();
    for n in 0..n_offenders {
        let validator = n * SLEEPER_SHARE + 1;
        // The first vote is already known, unless the validator happened to be absent.
        for head in [0, 1] {
            let vote = load.single(validator, last, head);
            timed(index, &vote, |conflicts| named.extend(validators(conflicts)))?;
        }
    }
    index.commit()?;
    for n in 0..n_offenders {
        let validator = n * SLEEPER_SHARE + 1;
        for step in 1..=4 {
            // An ordinary vote, and a vote for a third head in a stored epoch.
            let plain = load.single(validator, last + step, 0);
            times.push(timed(index, &plain, |_| ())?);
            let again = load.single(validator, last.saturating_sub(step), 2);
            times.push(timed(index, &again, |_| ())?);
        }
        if n % 64 == 63 {
            index.commit()?;
        }
    }
    let expected: BTreeSet<ValidatorIndex> = (0..n_offenders).map(|n| ValidatorIndex::new(n * SLEEPER_SHARE + 1)).collect();
    Ok((times, expected.intersection(&named).count() as u64, expected.difference(&named).count() as u64))
}

/// Wall time of one vote in nanoseconds, without the time in which its thread was ready but other
/// threads had the processor.
fn timed(index: &mut Index, vote: &Vote, mut found: impl FnMut(&[Conflict])) -> Result<u64, IndexError> {
    let waited = measure::waited_ns();
    let started = Instant::now();
    let conflicts = index.stage_unproven_votes(std::slice::from_ref(vote))?;
    let nanoseconds = started.elapsed().as_nanos() as u64;
    found(&conflicts);
    Ok(nanoseconds.saturating_sub(measure::waited_ns() - waited))
}

fn validators(conflicts: &[Conflict]) -> impl Iterator<Item = ValidatorIndex> + '_ {
    conflicts.iter().map(|conflict| match conflict {
        Conflict::DoubleVote { validator, .. }
        | Conflict::Surround { validator, .. }
        | Conflict::DoubleProposal { validator, .. } => *validator,
    })
}
