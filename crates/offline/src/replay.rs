//! Capture and ERA files through the same engine as live traffic, as fast as it goes.
//!
//! Damage ends a file (or costs one entry, where its end is known); what was read before it is processed and kept, and
//! the first problem of all files is what the command ends with.

mod clock;
mod session;
mod strangers;

use crate::inspect::count_incidents;
use actions::error_chain;
use chain::{Progress, PubkeyCache};
use clock::Clock;
use consensus::Spec;
use detect::DetectConfig;
use detect::watch::Desk;
use engine::metrics::Metrics;
use engine::{Engine, EngineParts, Processed};
use evidence::Store;
use session::{Session, Unusable};
use sources::capture::{CaptureError, CaptureFile, Entry, EntryType, Located};
use sources::intake::{ApiContent, Intake, Refusal};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use strangers::Strangers;
use verify::{Verifier, VerifyConfig};
use watcher::WatcherError;
use watcher::bootstrap;
use watcher::datadir::DataDir;
use watcher::peer_news::peer_news;

/// Entries read together, in lots of so many bytes unpacked, and how many lots lie ready.
const READ_TOGETHER: usize = 256;
const LOT_BYTES: usize = 8 << 20;
const READ_AHEAD: usize = 8;

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    pub files: Vec<PathBuf>,
    pub data_dir: PathBuf,
    /// A built-in name or a folder with config.yaml, for files without a config.
    pub network: Option<String>,
    /// Verified together at most; changes speed, never findings.
    pub batch_messages: usize,
    pub history_epochs: u64,
    pub detect: DetectConfig,
    /// Groups and labels, as in the configuration's `[watch]`.
    pub watch: actions::config::WatchConfig,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            data_dir: PathBuf::new(),
            network: None,
            // An eighth of a mainnet slot: each equation costs 2 ms beside its votes.
            batch_messages: 4096,
            history_epochs: watcher::config::IndexConfig::default().history_epochs,
            detect: DetectConfig::default(),
            watch: actions::config::WatchConfig::default(),
        }
    }
}

/// What a replay did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub entries: u64,
    pub messages: u64,
    /// Every message and refused input once, by what became of it.
    pub outcomes: BTreeMap<String, u64>,
    /// In the data directory at the end, earlier runs included.
    pub findings: u64,
    pub new_findings: u64,
    pub by_kind: BTreeMap<String, u64>,
    /// In the data directory at the end, by kind and then by state.
    pub incidents: BTreeMap<evidence::Kind, BTreeMap<&'static str, u64>>,
    /// Contradicting pairs beyond those listed per validator, epoch and kind.
    pub not_listed: u64,
}

/// A replay: [`Self::open`], [`Self::run`], then what it found.
pub struct Replay {
    options: ReplayOptions,
    dir: DataDir,
    session: Option<Session>,
    summary: Summary,
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Public keys of the state it begins with.
    Keys(Progress),
    /// Bytes done, bytes in all, and messages.
    Files { done: u64, total: u64, messages: u64 },
}

impl Replay {
    /// Takes the data directory.
    pub fn open(options: ReplayOptions) -> Result<Self, WatcherError> {
        let dir = DataDir::open(&options.data_dir)?;
        Ok(Self { options, dir, session: None, summary: Summary::default() })
    }

    /// Reads all files. The first damage is returned after everything that could be read was processed.
    pub fn run(&mut self, progress: &mut dyn FnMut(Step)) -> Result<(), WatcherError> {
        // A name that is none is told, though files with a configuration of their own do not need one.
        self.options.network.as_deref().map(spec_by_name).transpose()?;
        let files = self.options.files.clone();
        let total = files.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
        let mut done = 0;
        let begun_with = Some(self.begin_with_any(&files, &mut |keys| progress(Step::Keys(keys)))?);
        let mut first_problem = None;
        for (nth, path) in files.iter().enumerate() {
            let mut tell = |step| {
                progress(match step {
                    Step::Files { done: offset, messages, .. } => Step::Files { done: done + offset, total, messages },
                    keys @ Step::Keys(_) => keys,
                })
            };
            match self.file(path, begun_with.filter(|(first, _)| *first == nth).map(|(_, state)| state), &mut tell) {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    tracing::warn!(%problem, "capture is damaged");
                    first_problem.get_or_insert(problem);
                }
                // Another file may still be readable; an engine that fails is the end.
                Err(error @ WatcherError::Input { .. }) => {
                    tracing::warn!(%error, "a file cannot be used");
                    first_problem.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
            done += std::fs::metadata(path).map_or(0, |file| file.len());
        }
        if let Some(session) = &mut self.session {
            // No more will come that these could wait for.
            for message in session.clock.rest().into_iter().chain(session.strangers.take()) {
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

    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }

    /// All findings of the data directory, one JSON object a line, in the order they were recorded.
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

    /// All incidents of the data directory, one JSON object a line, by first slot.
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

    /// Every proof as files named by its id.
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

    /// Begins with the first file that has all that is needed: parts of a capture may come in any order. Which one it was, and the
    /// offset of its state.
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
        // What earlier runs found is shown all the same.
        self.count_findings()?;
        Err(first_problem.unwrap_or_else(|| WatcherError::Usage("name a capture or an ERA file".into())))
    }

    /// One file to its end or its damage; the first problem is returned. `begun_with`: offset of its state that is known already.
    fn file(
        &mut self,
        path: &Path,
        begun_with: Option<u64>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Option<WatcherError>, WatcherError> {
        let capture = CaptureFile::open(path).map_err(|error| input_error(path, &error))?;
        let mut known_state = begun_with;
        if let Some(session) = self.session.as_mut().filter(|_| begun_with.is_none()) {
            known_state = session.look_ahead(path, &capture, &mut self.summary)?;
        }
        let entries = capture.entries().map_err(|error| input_error(path, &error))?;
        std::thread::scope(|scope| {
            // Read and unpacked ahead, on a thread that ends with its channel.
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
                    // Empty lots behind a great one: with so many waiting it must have been taken before the next is unpacked.
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
        progress: &mut dyn FnMut(Step),
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
                    progress(Step::Files { done: offset, total: 0, messages: self.summary.messages });
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

    /// `known_state`: offset of a state of this file that is known already. A state or configuration that cannot be used is returned as a
    /// problem; what comes behind it is judged with what is known.
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
                    // The first of a file says what network the file is of.
                    Err(Unusable::OtherNetwork(reason)) if known_state.is_none() => Err(at_offset(path, offset, reason)),
                    Err(Unusable::OtherNetwork(reason) | Unusable::Bad(reason)) => Ok(Some(at_offset(path, offset, reason))),
                };
            }
            Entry::Config(text) => {
                return Ok(Spec::from_yaml(&text).err().map(|error| at_offset(path, offset, error.to_string())));
            }
            Entry::Gossip(entry) => session.intake.gossip(&entry),
            Entry::Block(ssz) => session.intake.block(ssz),
            Entry::ApiEvent(event) => match session.intake.api_event(&event) {
                Ok(ApiContent::Message(message)) => Ok(message),
                // The block itself is elsewhere in the capture, or nowhere.
                Ok(ApiContent::BlockAnnounced { .. }) => return Ok(None),
                Err(refusal) => Err(refusal),
            },
            Entry::PeerEvent(event) => {
                if let Some(news) = peer_news(&event) {
                    // What a peer says in a slot is not known in the one before it.
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

    /// With the first configuration and the first state of a file that can be used; the offset of that state.
    fn begin(&mut self, path: &Path, capture: &CaptureFile, progress: &mut dyn FnMut(Progress)) -> Result<u64, WatcherError> {
        // What is missing may lie behind a cut: then that is what is wrong.
        let damage = || capture.entries().ok()?.find_map(Result::err).map(|error| input_error(path, &error));
        let (mut spec, mut problem) = (None, None);
        for located in capture.each(EntryType::CONFIG).map_err(|error| input_error(path, &error))? {
            let Located { offset, entry: Entry::Config(text) } = located.map_err(|error| input_error(path, &error))? else {
                break;
            };
            match Spec::from_yaml(&text) {
                Ok(read) => {
                    spec = Some(read);
                    break;
                }
                Err(error) => problem = problem.or_else(|| Some(at_offset(path, offset, error.to_string()))),
            }
        }
        let spec = match (spec, problem, &self.options.network) {
            (Some(spec), _, _) => spec,
            (None, Some(problem), _) => return Err(problem),
            (None, None, Some(network)) => spec_by_name(network)?,
            (None, None, None) => {
                return Err(damage().unwrap_or_else(|| WatcherError::Usage(format!(
                    "{} carries no network configuration (ERA files do not): give --network with a built-in name or a folder with config.yaml",
                    path.display()
                ))));
            }
        };
        let mut keys = PubkeyCache::open(&self.dir.pubkeys_path())?;
        let (mut begun, mut problem) = (None, None);
        for located in capture.each(EntryType::STATE).map_err(|error| input_error(path, &error))? {
            let Located { offset, entry: Entry::State(ssz) } = located.map_err(|error| input_error(path, &error))? else { break };
            match bootstrap::load(spec.clone(), &ssz, &mut keys, progress) {
                Ok(chain) => {
                    begun = Some((chain, offset));
                    break;
                }
                Err(WatcherError::Chain(error)) => {
                    problem = problem.or_else(|| Some(at_offset(path, offset, error_chain(&error))))
                }
                Err(error) => return Err(error),
            }
        }
        let (chain, state_offset) = begun.ok_or_else(|| {
            let none =
                "the file ends here and holds no beacon state, so nobody's key is known; record one with `slashwatch capture`";
            let end = std::fs::metadata(path).map_or(0, |file| file.len());
            problem.or_else(damage).unwrap_or_else(|| at_offset(path, end, none.into()))
        })?;
        self.dir.bind(chain.network())?;
        let network = chain.network().clone();
        let in_force = actions::lists::reload::read_lists(&self.options.watch).map_err(WatcherError::Usage)?;
        let engine = Engine::open(
            &self.dir.index_path(),
            &self.dir.evidence_path(),
            EngineParts {
                chain,
                keys,
                verifier: Verifier::new(VerifyConfig::replay()),
                history_epochs: self.options.history_epochs,
                fold_after_epochs: 0,
                detect: self.options.detect.clone(),
                routes: Vec::new(),
                unrecorded: None,
                metrics: Metrics::new(),
                clock: watcher::clock::now,
                watch: in_force.parts(&Desk::default()),
            },
        )?;
        let epoch_ns = network.spec.slot_duration.as_nanos() as u64 * network.preset().slots_per_epoch;
        let mut session = Session {
            engine,
            intake: Intake::new(network.clone()),
            network,
            clock: Clock::new(epoch_ns),
            strangers: Strangers::default(),
            batch: Vec::new(),
            batch_messages: self.options.batch_messages,
        };
        session.note_state();
        self.session = Some(session);
        Ok(state_offset)
    }
}

impl Summary {
    fn count(&mut self, what: &str) {
        *self.outcomes.entry(what.into()).or_default() += 1;
    }
}

/// Types that the format has, whether they are of use here or not.
fn is_known(entry_type: EntryType) -> bool {
    [EntryType::EMPTY, EntryType::SLOT_INDEX].contains(&entry_type)
}

fn spec_by_name(network: &str) -> Result<Spec, WatcherError> {
    if let Some(spec) = Spec::builtin(network) {
        return Ok(spec);
    }
    let file = Path::new(network).join("config.yaml");
    if file.is_file() {
        return bootstrap::read_spec(&file);
    }
    Err(WatcherError::Usage(format!(
        "--network {network:?} is neither a built-in network ({}) nor a folder with config.yaml",
        consensus::Network::builtin_names().collect::<Vec<_>>().join(", ")
    )))
}

fn note_processed(summary: &mut Summary, processed: &Processed) {
    for (_, _, _, outcome) in processed.reports.iter().filter(|row| row.3.is_final()) {
        summary.count(outcome.label());
    }
    summary.new_findings += processed.recorded.iter().filter(|one| one.first_time).count() as u64;
}

fn refused(summary: &mut Summary, refusal: &Refusal, path: &Path, offset: u64) {
    summary.count(&format!("refused: {}", refusal.label()));
    tracing::debug!(path = %path.display(), offset, reason = %refusal, "message refused");
}

fn input_error(path: &Path, error: &CaptureError) -> WatcherError {
    at_offset(path, error.offset, error.damage.to_string())
}

fn at_offset(path: &Path, offset: u64, reason: String) -> WatcherError {
    WatcherError::Input { path: path.into(), reason: format!("offset {offset}: {reason}") }
}
