//! Capture and ERA files through the same engine as live traffic, as fast as it goes.
//!
//! Damage ends a file (or costs one entry, where its end is known); what was read before it is processed and kept, and
//! the first problem of all files is what the command ends with.

use crate::bootstrap;
use crate::datadir::DataDir;
use crate::engine::{Engine, EngineParts, Processed};
use crate::error::PipelineError;
use crate::metrics::Metrics;
use crate::peer_news::peer_news;
use chain::PubkeyCache;
use consensus::{Network, Spec};
use detect::DetectConfig;
use detect::watch::Desk;
use evidence::Store;
use sources::capture::{CaptureError, CaptureFile, Entry, Located};
use sources::intake::{ApiContent, Intake, Refusal};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use verify::{RawMessage, UnixNs, Verifier, VerifyConfig};

/// Entries read together, and how many such lots lie ready.
const READ_TOGETHER: usize = 256;
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
    pub watch: crate::config::WatchConfig,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            data_dir: PathBuf::new(),
            network: None,
            // An eighth of a mainnet slot: each equation costs 2 ms beside its votes.
            batch_messages: 4096,
            history_epochs: crate::config::IndexConfig::default().history_epochs,
            detect: DetectConfig::default(),
            watch: crate::config::WatchConfig::default(),
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
}

/// A replay: [`Self::open`], [`Self::run`], then what it found.
pub struct Replay {
    options: ReplayOptions,
    dir: DataDir,
    session: Option<Session>,
    summary: Summary,
}

/// What exists once the network is known.
struct Session {
    engine: Engine,
    intake: Intake,
    network: Arc<Network>,
    batch: Vec<RawMessage>,
    now: UnixNs,
}

impl Replay {
    /// Takes the data directory.
    pub fn open(options: ReplayOptions) -> Result<Self, PipelineError> {
        let dir = DataDir::open(&options.data_dir)?;
        Ok(Self { options, dir, session: None, summary: Summary::default() })
    }

    /// Reads all files. `progress` hears bytes done, bytes in all, and messages. The first damage is returned after
    /// everything that could be read was processed.
    pub fn run(&mut self, progress: &mut dyn FnMut(u64, u64, u64)) -> Result<(), PipelineError> {
        let files = self.options.files.clone();
        let total = files.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
        let mut done = 0;
        let mut first_problem = None;
        for path in &files {
            let mut tell = |offset, messages| progress(done + offset, total, messages);
            match self.file(path, &mut tell) {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    tracing::warn!(%problem, "capture is damaged");
                    first_problem.get_or_insert(input_error(path, &problem));
                }
                // Another file may still be readable; an engine that fails is the end.
                Err(error @ PipelineError::Input { .. }) => {
                    first_problem.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
            done += std::fs::metadata(path).map_or(0, |file| file.len());
        }
        if let Some(session) = &mut self.session {
            let processed = session.flush()?;
            note_processed(&mut self.summary, &processed);
            let processed = session.engine.finish(session.now)?;
            note_processed(&mut self.summary, &processed);
        }
        self.count_findings()?;
        first_problem.map_or(Ok(()), Err)
    }

    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }

    /// All findings of the data directory, one JSON object a line, in the order they were recorded.
    pub fn write_findings(&self, out: &mut dyn Write) -> Result<(), PipelineError> {
        let Some(store) = self.store()? else { return Ok(()) };
        for row in store.all_findings() {
            let (_, finding) = row?;
            serde_json::to_writer(&mut *out, &finding)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|source| PipelineError::Write { path: "the findings".into(), source })?;
        }
        Ok(())
    }

    /// All incidents of the data directory, one JSON object a line, by first slot.
    pub fn write_incidents(&self, out: &mut dyn Write) -> Result<(), PipelineError> {
        let Some(store) = self.store()? else { return Ok(()) };
        for incident in store.all_incidents()? {
            serde_json::to_writer(&mut *out, &incident)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|source| PipelineError::Write { path: "the incidents".into(), source })?;
        }
        Ok(())
    }

    /// Every proof as files named by its id.
    pub fn write_evidence(&self, folder: &Path) -> Result<(), PipelineError> {
        if let Some(store) = self.store()? {
            store.export_evidence(folder)?;
        }
        Ok(())
    }

    fn store(&self) -> Result<Option<Store>, PipelineError> {
        if let Some(session) = &self.session {
            return Ok(Some(session.engine.store().clone()));
        }
        match self.dir.network()? {
            Some(network) => Ok(Some(Store::open(&self.dir.evidence_path(), network.genesis_validators_root)?)),
            None => Ok(None),
        }
    }

    fn count_findings(&mut self) -> Result<(), PipelineError> {
        let Some(store) = self.store()? else { return Ok(()) };
        self.summary.findings = store.count();
        self.summary.by_kind.clear();
        for row in store.all_findings() {
            *self.summary.by_kind.entry(row?.1.kind).or_default() += 1;
        }
        Ok(())
    }

    /// One file to its end or its damage, which is returned.
    fn file(&mut self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<CaptureError>, PipelineError> {
        let capture = CaptureFile::open(path).map_err(|error| input_error(path, &error))?;
        let mut loaded_state = false;
        if self.session.is_none() {
            self.begin(path, &capture)?;
            loaded_state = true;
        }
        let entries = capture.entries().map_err(|error| input_error(path, &error))?;
        std::thread::scope(|scope| {
            // Read and unpacked ahead, on a thread that ends with its channel.
            let (ahead, read) = std::sync::mpsc::sync_channel(READ_AHEAD);
            scope.spawn(move || {
                let mut entries = entries.peekable();
                while entries.peek().is_some() {
                    let some: Vec<_> = entries.by_ref().take(READ_TOGETHER).collect();
                    if ahead.send(some).is_err() {
                        return;
                    }
                }
            });
            self.entries(path, read.into_iter().flatten(), &mut loaded_state, progress)
        })
    }

    fn entries(
        &mut self,
        path: &Path,
        entries: impl Iterator<Item = Result<Located, CaptureError>>,
        loaded_state: &mut bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<CaptureError>, PipelineError> {
        let mut damage = None;
        for entry in entries {
            match entry {
                Ok(located) => {
                    self.summary.entries += 1;
                    let offset = located.offset;
                    self.entry(path, located, loaded_state)?;
                    progress(offset, self.summary.messages);
                }
                Err(error) => {
                    let label = if error.is_recoverable() { "refused: damaged entry" } else { "refused: damaged tail" };
                    *self.summary.outcomes.entry(label.into()).or_default() += 1;
                    damage.get_or_insert(error);
                }
            }
        }
        Ok(damage)
    }

    /// `loaded_state`: the file's first state is the one the chain was made from.
    fn entry(&mut self, path: &Path, located: Located, loaded_state: &mut bool) -> Result<(), PipelineError> {
        let session = self.session.as_mut().expect("a file begins with it");
        let raw = match located.entry {
            Entry::State(_) if *loaded_state => {
                *loaded_state = false;
                return Ok(());
            }
            Entry::State(ssz) => {
                let processed = session.flush()?;
                note_processed(&mut self.summary, &processed);
                return session.engine.add_state(&ssz).map_err(|error| PipelineError::Input {
                    path: path.into(),
                    reason: format!("offset {}: {error}", located.offset),
                });
            }
            Entry::Gossip(entry) => session.intake.gossip(&entry),
            Entry::Block(ssz) => session.intake.block(ssz),
            Entry::ApiEvent(event) => match session.intake.api_event(&event) {
                Ok(ApiContent::Message(message)) => Ok(message),
                // The block itself is elsewhere in the capture, or nowhere.
                Ok(ApiContent::BlockAnnounced { .. }) => return Ok(()),
                Err(refusal) => Err(refusal),
            },
            Entry::PeerEvent(event) => {
                if let Some(news) = peer_news(&event) {
                    // What a peer says in a slot is not known in the one before it.
                    if session.network.slot_at(event.at.0) > session.network.slot_at(session.now.0) {
                        let processed = session.flush()?;
                        note_processed(&mut self.summary, &processed);
                        session.now = session.now.max(event.at);
                    }
                    session.engine.note_peer(news);
                }
                return Ok(());
            }
            Entry::Version | Entry::Config(_) | Entry::Skipped { .. } => return Ok(()),
        };
        self.summary.messages += 1;
        match raw {
            Ok(message) => {
                // No batch spans two slots: then what is known at the end of a slot does not depend on how large batches are.
                if session.network.slot_at(message.received_at.0) > session.network.slot_at(session.now.0) {
                    let processed = session.flush()?;
                    note_processed(&mut self.summary, &processed);
                }
                session.now = session.now.max(message.received_at);
                session.batch.push(message);
            }
            Err(refusal) => refused(&mut self.summary, &refusal, path, located.offset),
        }
        if session.batch.len() >= self.options.batch_messages {
            let processed = session.flush()?;
            note_processed(&mut self.summary, &processed);
        }
        Ok(())
    }

    fn begin(&mut self, path: &Path, capture: &CaptureFile) -> Result<(), PipelineError> {
        let input = |reason: String| PipelineError::Input { path: path.into(), reason };
        let config = capture.first_config().map_err(|error| input_error(path, &error))?;
        let spec = match (config, &self.options.network) {
            (Some(text), _) => Spec::from_yaml(&text).map_err(|error| input(error.to_string()))?,
            (None, Some(network)) => spec_by_name(network)?,
            (None, None) => {
                return Err(PipelineError::Usage(format!(
                    "{} carries no network configuration (ERA files do not): give --network with a built-in name or a folder with config.yaml",
                    path.display()
                )));
            }
        };
        let state = capture.first_state().map_err(|error| input_error(path, &error))?;
        let state = state.ok_or_else(|| {
            input("holds no beacon state, so nobody's key is known; record one with `slashwatch capture`".into())
        })?;
        let mut keys = PubkeyCache::open(&self.dir.pubkeys_path())?;
        let chain = bootstrap::load(spec, &state, &mut keys).map_err(|error| match error {
            PipelineError::Chain(error) => input(error_chain(&error)),
            other => other,
        })?;
        self.dir.bind(chain.network())?;
        let network = chain.network().clone();
        let in_force = crate::run::watch_lists(&self.options.watch, None)?;
        let engine = Engine::open(
            &self.dir,
            EngineParts {
                chain,
                keys,
                verifier: Verifier::new(VerifyConfig::replay()),
                history_epochs: self.options.history_epochs,
                fold_after_epochs: 0,
                detect: self.options.detect.clone(),
                routes: Vec::new(),
                metrics: Metrics::new(),
                clock: crate::clock::now,
                watch: in_force.parts(&Desk::default()),
            },
        )?;
        self.session = Some(Session { engine, intake: Intake::new(network.clone()), network, batch: Vec::new(), now: UnixNs(0) });
        Ok(())
    }
}

impl Session {
    fn flush(&mut self) -> Result<Processed, PipelineError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(Processed::default());
        }
        Ok(self.engine.process(batch, self.now)?)
    }
}

fn spec_by_name(network: &str) -> Result<Spec, PipelineError> {
    if let Some(spec) = Spec::builtin(network) {
        return Ok(spec);
    }
    let file = Path::new(network).join("config.yaml");
    if file.is_file() {
        return bootstrap::read_spec(&file);
    }
    Err(PipelineError::Usage(format!("--network {network:?} is neither a built-in network nor a folder with config.yaml")))
}

fn note_processed(summary: &mut Summary, processed: &Processed) {
    for (_, _, _, outcome) in processed.reports.iter().filter(|row| row.3.is_final()) {
        *summary.outcomes.entry(outcome.label().into()).or_default() += 1;
    }
    summary.new_findings += processed.recorded.iter().filter(|one| one.first_time).count() as u64;
}

fn refused(summary: &mut Summary, refusal: &Refusal, path: &Path, offset: u64) {
    *summary.outcomes.entry(format!("refused: {}", refusal.label())).or_default() += 1;
    tracing::debug!(path = %path.display(), offset, reason = %refusal, "message refused");
}

fn input_error(path: &Path, error: &CaptureError) -> PipelineError {
    PipelineError::Input { path: path.into(), reason: format!("offset {}: {}", error.offset, error.damage) }
}

/// An error with its causes, for messages that are printed in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
