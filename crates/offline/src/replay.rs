//! Sends capture and ERA files through the same engine as live traffic, as fast as possible.
//!
//! Damage ends a file. If the end of a damaged entry is known, only that entry is lost. Everything
//! that was read before is processed and kept. The command ends with the first problem of all
//! files.

mod clock;
mod late_validators;
mod session;

use crate::inspect::count_incidents;
use base::error_chain;
use chain::{Chain, Progress, PubkeyCache};
use clock::ReplayClock;
use consensus::state::StateView;
use consensus::{Epoch, Spec};
use detect::DetectConfig;
use detect::watch::SharedWatchState;
use engine::metrics::Metrics;
use engine::{Engine, EngineParts, Processed};
use evidence::Store;
use late_validators::{COPY, LateValidators};
use session::{Session, Unusable};
use sources::capture::{CaptureError, CaptureFile, Entry, EntryType, Located};
use sources::convert::{ApiContent, MessageConverter, Refusal};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use verify::{Verifier, VerifyConfig, slot_claimed};
use watcher::WatcherError;
use watcher::bootstrap;
use watcher::datadir::DataDir;
use watcher::network_folder;
use watcher::pack_capture::MAX_STATE_BYTES;
use watcher::peer_news::peer_news;

/// Maximum number of entries in one lot. The reading thread passes entries on in lots.
const READ_TOGETHER: usize = 256;
/// Unpacked bytes after which a lot is complete.
const LOT_BYTES: usize = 8 << 20;
/// Maximum number of lots that wait to be processed.
const READ_AHEAD: usize = 8;

/// The files to replay, and the options.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    pub files: Vec<PathBuf>,
    pub data_dir: PathBuf,
    /// Name of a built-in network, or a folder with config.yaml. It is used for files without a
    /// configuration.
    pub network: Option<String>,
    /// Maximum number of messages that are verified together. It changes the speed but never the
    /// findings.
    pub batch_messages: usize,
    pub history_epochs: u64,
    pub detect: DetectConfig,
    /// Groups and labels, as in the `[watch]` section of the configuration.
    pub watch: actions::config::WatchConfig,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            data_dir: PathBuf::new(),
            network: None,
            // An eighth of a mainnet slot. Each check of a batch costs 2 ms in addition to its
            // votes.
            batch_messages: 4096,
            history_epochs: watcher::config::IndexConfig::default().history_epochs,
            detect: DetectConfig::default(),
            watch: actions::config::WatchConfig::default(),
        }
    }
}

/// Result of a replay.
#[derive(Clone, Debug, Default)]
pub struct ReplaySummary {
    pub entries: u64,
    pub messages: u64,
    /// Number of messages and refused inputs by outcome. Each is counted once.
    pub outcomes: BTreeMap<String, u64>,
    /// Findings in the data directory at the end, including those of earlier runs.
    pub findings: u64,
    pub new_findings: u64,
    pub by_kind: BTreeMap<String, u64>,
    /// Incidents in the data directory at the end, by kind and then by state.
    pub incidents: BTreeMap<evidence::Kind, BTreeMap<&'static str, u64>>,
    /// Number of messages, and of votes in blocks, that were not judged because a state or blocks
    /// are missing, by the epoch that they are about.
    pub unjudged_in: BTreeMap<Epoch, u64>,
    /// Contradicting pairs beyond the number that is listed for one validator, epoch and kind.
    pub not_listed: u64,
}

/// A replay. Call [`Self::open`], then [`Self::run`], then read the results.
pub struct Replay {
    options: ReplayOptions,
    dir: DataDir,
    session: Option<Session>,
    summary: ReplaySummary,
}

/// Progress of a replay.
#[derive(Clone, Copy, Debug)]
pub enum ReplayStep {
    /// Public keys of the state that the replay begins with.
    Keys(Progress),
    /// Bytes processed, bytes in total, and messages.
    Files { done: u64, total: u64, messages: u64 },
}

impl Replay {
    /// Opens the data directory and takes its lock.
    pub fn open(options: ReplayOptions) -> Result<Self, WatcherError> {
        let dir = DataDir::open(&options.data_dir)?;
        Ok(Self { options, dir, session: None, summary: ReplaySummary::default() })
    }

    /// Reads all files. It processes everything that can be read, and then returns the first
    /// problem.
    pub fn run(&mut self, progress: &mut dyn FnMut(ReplayStep)) -> Result<(), WatcherError> {
        // A wrong network name is reported, even if no file needs the name.
        self.options.network.as_deref().map(spec_by_name).transpose()?;
        let files = self.options.files.clone();
        let total = files.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
        let mut done = 0;
        let begun_with = Some(self.begin_with_any(&files, &mut |keys| progress(ReplayStep::Keys(keys)))?);
        let mut first_problem = None;
        for (nth, path) in files.iter().enumerate() {
            let mut report_step = |step| {
                progress(match step {
                    ReplayStep::Files { done: offset, messages, .. } => {
                        ReplayStep::Files { done: done + offset, total, messages }
                    }
                    keys @ ReplayStep::Keys(_) => keys,
                })
            };
            match self.file(path, begun_with.filter(|(first, _)| *first == nth).map(|(_, state)| state), &mut report_step) {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    tracing::warn!(%problem, "capture is damaged");
                    first_problem.get_or_insert(problem);
                }
                // Another file may still be readable. An error of the engine ends the replay.
                Err(error @ WatcherError::Input { .. }) => {
                    tracing::warn!(%error, "a file cannot be used");
                    first_problem.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
            done += std::fs::metadata(path).map_or(0, |file| file.len());
        }
        if let Some(session) = &mut self.session {
            // No more messages will come, so nothing can wait any longer.
            let without_key = session.late_validators.take();
            for slot in without_key.iter().filter_map(slot_claimed) {
                *self.summary.unjudged_in.entry(slot.epoch(session.network.preset())).or_default() += 1;
            }
            for message in session.clock.rest().into_iter().chain(without_key) {
                session.put(message, &mut self.summary)?;
            }
            session.flush(&mut self.summary)?;
            let processed = session.engine.finish(session.clock.now())?;
            note_processed(&mut self.summary, &processed);
            self.summary.not_listed = session.engine.n_not_listed();
        }
        self.count_findings()?;
        first_problem.map_or(Ok(()), Err)
    }

    /// Returns the result so far.
    pub fn summary(&self) -> ReplaySummary {
        self.summary.clone()
    }

    /// Writes all findings of the data directory, one JSON object per line, in the order of
    /// recording.
    pub fn write_findings(&self, out: &mut dyn Write) -> Result<(), WatcherError> {
        let Some(store) = self.store()? else { return Ok(()) };
        for row in store.all_findings() {
            let (_, finding) = row?;
            serde_json::to_writer(&mut *out, &finding)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|source| WatcherError::Write { path: "the findings".into(), source })?;
        }
        Ok(())
    }

    /// Writes all incidents of the data directory, one JSON object per line, ordered by first slot.
    pub fn write_incidents(&self, out: &mut dyn Write) -> Result<(), WatcherError> {
        let Some(store) = self.store()? else { return Ok(()) };
        for incident in store.all_incidents()? {
            serde_json::to_writer(&mut *out, &incident)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|source| WatcherError::Write { path: "the incidents".into(), source })?;
        }
        Ok(())
    }

    /// Writes every proof to files that are named by its id.
    pub fn write_evidence(&self, folder: &Path) -> Result<(), WatcherError> {
        if let Some(store) = self.store()? {
            store.export_evidence(folder)?;
        }
        Ok(())
    }

    fn store(&self) -> Result<Option<Store>, WatcherError> {
        if let Some(session) = &self.session {
            return Ok(Some(session.engine.store().clone()));
        }
        match self.dir.network()? {
            Some(network) => Ok(Some(Store::open(&self.dir.evidence_path(), network.genesis_validators_root)?)),
            None => Ok(None),
        }
    }

    fn count_findings(&mut self) -> Result<(), WatcherError> {
        let Some(store) = self.store()? else { return Ok(()) };
        self.summary.findings = store.count();
        self.summary.by_kind.clear();
        for row in store.all_findings() {
            *self.summary.by_kind.entry(row?.1.kind.to_string()).or_default() += 1;
        }
        self.summary.incidents = count_incidents(&store.all_incidents()?);
        Ok(())
    }

    /// Begins with the first file that has everything that is needed, because the parts of a
    /// capture may come in any order. Returns the position of that file and the offset of its
    /// state.
    fn begin_with_any(&mut self, files: &[PathBuf], progress: &mut dyn FnMut(Progress)) -> Result<(usize, u64), WatcherError> {
        let mut first_problem = None;
        for (nth, path) in files.iter().enumerate() {
            let opened = CaptureFile::open(path).map_err(|error| input_error(path, &error));
            match opened.and_then(|capture| self.begin(path, &capture, progress)) {
                Ok(state) => return Ok((nth, state)),
                Err(error @ (WatcherError::Input { .. } | WatcherError::Usage(_))) => {
                    first_problem.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        // The findings of earlier runs are shown anyway.
        self.count_findings()?;
        Err(first_problem.unwrap_or_else(|| WatcherError::Usage("give a capture or an ERA file".into())))
    }

    /// Reads one file to its end or to its damage, and returns the first problem. `begun_with` is
    /// the offset of a state in it that is already loaded.
    fn file(
        &mut self,
        path: &Path,
        begun_with: Option<u64>,
        progress: &mut dyn FnMut(ReplayStep),
    ) -> Result<Option<WatcherError>, WatcherError> {
        let capture = CaptureFile::open(path).map_err(|error| input_error(path, &error))?;
        let mut known_state = begun_with;
        if let Some(session) = self.session.as_mut().filter(|_| begun_with.is_none()) {
            known_state = session.look_ahead(path, &capture, &mut self.summary)?;
        }
        let entries = capture.entries().map_err(|error| input_error(path, &error))?;
        std::thread::scope(|scope| {
            // A second thread reads and unpacks ahead. It ends when its channel is closed.
            let (ahead, read) = std::sync::mpsc::sync_channel(READ_AHEAD);
            scope.spawn(move || {
                let mut entries = entries.peekable();
                while entries.peek().is_some() {
                    let (mut lot, mut bytes) = (Vec::new(), 0);
                    while lot.len() < READ_TOGETHER
                        && bytes < LOT_BYTES
                        && let Some(entry) = entries.next()
                    {
                        bytes += entry.as_ref().map_or(0, |located| located.entry.n_bytes());
                        lot.push(entry);
                    }
                    // After a very large lot, empty lots follow. They fill the channel, so the
                    // large lot must be taken before the next one is unpacked.
                    let fence = if bytes < 2 * LOT_BYTES { 0 } else { READ_AHEAD };
                    for lot in std::iter::once(lot).chain((0..fence).map(|_| Vec::new())) {
                        if ahead.send(lot).is_err() {
                            return;
                        }
                    }
                }
            });
            self.entries(path, read.into_iter().flatten(), &mut known_state, progress)
        })
    }

    fn entries(
        &mut self,
        path: &Path,
        entries: impl Iterator<Item = Result<Located, CaptureError>>,
        known_state: &mut Option<u64>,
        progress: &mut dyn FnMut(ReplayStep),
    ) -> Result<Option<WatcherError>, WatcherError> {
        let mut first_problem = None;
        for entry in entries {
            match entry {
                Ok(located) => {
                    self.summary.entries += 1;
                    let offset = located.offset;
                    if let Some(problem) = self.entry(path, located, known_state)? {
                        self.summary.count("refused: unusable state or configuration");
                        first_problem.get_or_insert(problem);
                    }
                    progress(ReplayStep::Files { done: offset, total: 0, messages: self.summary.messages });
                }
                Err(error) => {
                    self.summary.count(match error.is_recoverable() {
                        true => "refused: damaged entry",
                        false => "refused: damaged tail",
                    });
                    first_problem.get_or_insert(input_error(path, &error));
                }
            }
        }
        Ok(first_problem)
    }

    /// Processes one entry. `known_state` is the offset of a state of this file that is already
    /// loaded. A state or configuration that cannot be used is returned as a problem, and later
    /// entries are judged with what is known.
    fn entry(
        &mut self,
        path: &Path,
        located: Located,
        known_state: &mut Option<u64>,
    ) -> Result<Option<WatcherError>, WatcherError> {
        let session = self.session.as_mut().expect("a file begins with it");
        let offset = located.offset;
        let raw = match located.entry {
            Entry::State(_) if *known_state == Some(offset) => return Ok(None),
            Entry::State(ssz) => {
                return match session.add_state(&ssz, &mut self.summary)? {
                    Ok(()) => {
                        known_state.get_or_insert(offset);
                        Ok(None)
                    }
                    // The first state of a file shows which network the file belongs to.
                    Err(Unusable::OtherNetwork(reason)) if known_state.is_none() => Err(at_offset(path, offset, reason)),
                    Err(Unusable::OtherNetwork(reason) | Unusable::Bad(reason)) => Ok(Some(at_offset(path, offset, reason))),
                };
            }
            Entry::Config(text) => {
                return Ok(Spec::from_yaml(&text).err().map(|error| at_offset(path, offset, error.to_string())));
            }
            Entry::Gossip(entry) => session.converter.gossip(&entry),
            Entry::Block(ssz) => session.converter.block(ssz),
            Entry::ApiEvent(event) => match session.converter.api_event(&event) {
                Ok(ApiContent::Message(message)) => Ok(message),
                // The block itself is elsewhere in the capture, or it is missing.
                Ok(ApiContent::BlockAnnounced { .. }) => return Ok(None),
                Err(refusal) => Err(refusal),
            },
            Entry::PeerEvent(event) => {
                if let Some(news) = peer_news(&event) {
                    // What a peer reports in a slot must not affect the slot before it.
                    session.go_on_to(event.at, &mut self.summary)?;
                    session.engine.note_peer(news);
                }
                return Ok(None);
            }
            Entry::Skipped { entry_type, .. } if !is_known(entry_type) => {
                self.summary.count("skipped: unknown entry type");
                return Ok(None);
            }
            Entry::Version | Entry::Skipped { .. } => return Ok(None),
        };
        self.summary.messages += 1;
        match raw {
            Ok(message) => session.take(message, &mut self.summary)?,
            Err(refusal) => refused(&mut self.summary, &refusal, path, located.offset),
        }
        Ok(None)
    }

    /// Opens the engine with the first configuration and the first state of the file that can be
    /// used. Returns the offset of that state.
    fn begin(&mut self, path: &Path, capture: &CaptureFile, progress: &mut dyn FnMut(Progress)) -> Result<u64, WatcherError> {
        let spec = self.first_spec(path, capture)?;
        let mut keys = PubkeyCache::open(&self.dir.pubkeys_path())?;
        let (chain, state, state_offset) = first_chain(&self.dir, path, capture, &spec, &mut keys, progress)?;
        self.dir.bind(chain.network())?;
        // Evidence packs of this directory begin their captures with it.
        if state.len() as u64 <= MAX_STATE_BYTES {
            self.dir.write_state(&state)?;
        }
        let network = chain.network().clone();
        let (history_epochs, detect) = (self.options.history_epochs, self.options.detect.clone());
        let engine = open_engine(&self.dir, chain, keys, history_epochs, detect, &self.options.watch)?;
        let epoch_ns = network.spec.slot_duration.as_nanos() as u64 * network.preset().slots_per_epoch;
        let mut session = Session {
            engine,
            converter: MessageConverter::new(network.clone()),
            network,
            clock: ReplayClock::new(epoch_ns),
            late_validators: LateValidators::default(),
            batch: Vec::new(),
            batch_messages: self.options.batch_messages,
            batch_bytes: 0,
        };
        session.note_state();
        self.session = Some(session);
        Ok(state_offset)
    }

    /// The first configuration of the file that can be used, or else the one of the options.
    fn first_spec(&self, path: &Path, capture: &CaptureFile) -> Result<Spec, WatcherError> {
        let mut problem = None;
        for located in capture.each(EntryType::CONFIG).map_err(|error| input_error(path, &error))? {
            let Located { offset, entry: Entry::Config(text) } = located.map_err(|error| input_error(path, &error))? else {
                break;
            };
            match Spec::from_yaml(&text) {
                Ok(spec) => return Ok(spec),
                Err(error) => problem = problem.or_else(|| Some(at_offset(path, offset, error.to_string()))),
            }
        }
        match (problem, &self.options.network) {
            (Some(problem), _) => Err(problem),
            (None, Some(network)) => spec_by_name(network),
            (None, None) => Err(first_damage(path, capture).unwrap_or_else(|| {
                WatcherError::Usage(format!(
                    "{} contains no network configuration (ERA files never do): give --network with a built-in name or a folder with config.yaml",
                    path.display()
                ))
            })),
        }
    }
}

/// Opens the engine of a data directory for work without alerts.
pub(crate) fn open_engine(
    dir: &DataDir,
    chain: Chain,
    keys: PubkeyCache,
    history_epochs: u64,
    detect: DetectConfig,
    watch: &actions::config::WatchConfig,
) -> Result<Engine, WatcherError> {
    let lists = actions::lists::reload::read_lists(watch).map_err(WatcherError::Usage)?;
    let parts = EngineParts {
        chain,
        keys,
        verifier: Verifier::new(VerifyConfig::replay()),
        history_epochs,
        fold_after_epochs: 0,
        detect,
        routes: Vec::new(),
        unrecorded: None,
        metrics: Metrics::new(),
        clock: watcher::clock::now,
        watch: lists.parts(&SharedWatchState::default()),
    };
    Ok(Engine::open(&dir.index_path(), &dir.evidence_path(), parts)?)
}

/// The chain of the first state of the file that can be used, and the offset of that state.
fn first_chain(
    dir: &DataDir,
    path: &Path,
    capture: &CaptureFile,
    spec: &Spec,
    keys: &mut PubkeyCache,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Chain, Vec<u8>, u64), WatcherError> {
    let mut problem = None;
    for located in capture.each(EntryType::STATE).map_err(|error| input_error(path, &error))? {
        let Located { offset, entry: Entry::State(ssz) } = located.map_err(|error| input_error(path, &error))? else { break };
        let fork = consensus::state::fork_of_state(spec, &ssz);
        if fork.and_then(|fork| StateView::parse(fork, &spec.preset, &ssz)).is_ok() {
            dir.check_state(&ssz)?;
        }
        match bootstrap::load(spec.clone(), &ssz, keys, progress) {
            Ok(chain) => return Ok((chain, ssz, offset)),
            Err(WatcherError::Chain(error)) => {
                problem = problem.or_else(|| Some(at_offset(path, offset, error_chain(&error))));
            }
            Err(error) => return Err(error),
        }
    }
    let none = "the file ends here and contains no beacon state, so no validator's key is known; record a new one with `slashwatch capture`";
    let end = std::fs::metadata(path).map_or(0, |file| file.len());
    Err(problem.or_else(|| first_damage(path, capture)).unwrap_or_else(|| at_offset(path, end, none.into())))
}

/// The first damage in the file. Something may be missing because the file is cut. Then the damage
/// is the reported problem.
fn first_damage(path: &Path, capture: &CaptureFile) -> Option<WatcherError> {
    capture.entries().ok()?.find_map(Result::err).map(|error| input_error(path, &error))
}

impl ReplaySummary {
    /// The number of messages and votes in blocks that were not judged, and the first and the last
    /// epoch whose state could tell the committees or validators that they need. `None` if all were
    /// judged.
    pub fn unjudged(&self) -> Option<(u64, Epoch, Epoch)> {
        let (first, last) = (self.unjudged_in.first_key_value()?.0, self.unjudged_in.last_key_value()?.0);
        Some((self.unjudged_in.values().sum(), *first, *last))
    }

    fn count(&mut self, what: &str) {
        *self.outcomes.entry(what.into()).or_default() += 1;
    }
}

/// Returns whether the format defines this type, even if a replay does not use it.
fn is_known(entry_type: EntryType) -> bool {
    [EntryType::EMPTY, EntryType::SLOT_INDEX].contains(&entry_type)
}

fn spec_by_name(network: &str) -> Result<Spec, WatcherError> {
    if let Some(spec) = Spec::builtin(network) {
        return Ok(spec);
    }
    let file = network_folder::config_file(Path::new(network));
    if file.is_file() {
        return bootstrap::read_spec(&file);
    }
    Err(network_folder::unknown_network(network))
}

pub(crate) fn note_processed(summary: &mut ReplaySummary, processed: &Processed) {
    for (_, _, _, outcome) in processed.reports.iter().filter(|row| row.3.is_final() && row.0 != Some(COPY)) {
        summary.count(outcome.label());
    }
    for (epoch, count) in &processed.expired_in {
        *summary.unjudged_in.entry(*epoch).or_default() += count;
    }
    summary.new_findings += processed.recorded.iter().filter(|one| one.first_time).count() as u64;
}

fn refused(summary: &mut ReplaySummary, refusal: &Refusal, path: &Path, offset: u64) {
    summary.count(&format!("refused: {}", refusal.label()));
    tracing::debug!(path = %path.display(), offset, reason = %refusal, "message refused");
}

fn input_error(path: &Path, error: &CaptureError) -> WatcherError {
    at_offset(path, error.offset, error.damage.to_string())
}

fn at_offset(path: &Path, offset: u64, reason: String) -> WatcherError {
    WatcherError::Input { path: path.into(), reason: format!("offset {offset}: {reason}") }
}
