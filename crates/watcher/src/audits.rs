//! Scheduled audits: the files to which a group's clients export their signing records (EIP-3076)
//! are compared with what was seen, as `slashwatch audit` does it by hand.
//!
//! The clients run meanwhile, so messages that are newer than a file are not judged. A file is
//! complete up to the newest target that it has, that one left out: a client votes with all of its
//! keys in every epoch. The newest epoch may be missing when the export begins, so it is complete
//! up to [`MARGIN_EPOCHS`] before the time of the file, which is when it was exported. If its
//! newest target is older still, its client has stopped, or the file was only touched or copied
//! while its export is stuck. Nobody can tell these apart, so what was signed since then is not
//! judged, and that is told.
//!
//! One audit runs at a time, on a thread for blocking work, over a read-only view of the vote
//! index. Only [`EPOCHS_BEFORE`] epochs and two intervals are compared: what is older was compared
//! before.

use crate::engine_thread::Input;
use crate::inputs::Inputs;
use actions::config::AuditConfig;
use actions::lists::reload::ActiveConfig;
use consensus::interchange::{Interchange, SignedEpochs, SignedSlot, SigningHistory};
use consensus::{DomainType, Epoch, Network, PubkeyBytes, Slot, ValidatorIndex, signing_root};
use detect::audit::{Seen, audit};
use detect::monitor::SingleAnomaly;
use detect::watch::{SharedWatchState, SignedElsewhere};
use engine::metrics::{AuditOutcome, Metrics};
use evidence::Time;
use index::{IndexError, IndexView, Shape, StoredProposal};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use verify::{Arrival, SourceKind};

/// How often it is looked whether an audit is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Largest file. One is in memory at a time, with what was read of it.
const MAX_FILE_BYTES: u64 = 512 << 20;
/// How long before its time a file is complete at the latest. An export takes a while.
const MARGIN_EPOCHS: u64 = 2;
/// Epochs that are compared in any case.
const EPOCHS_BEFORE: u64 = 64;
/// Limit on the epochs that are compared.
const MAX_EPOCHS: u64 = 4_096;
/// Messages of a key that one audit reports, the newest ones.
const MAX_OF_KEY: usize = 8;
/// Messages that one audit reports. Further ones are counted in the notice.
const MAX_REPORTED: usize = 1_024;

/// The task that runs the audits.
pub(crate) struct AuditTask {
    pub network: Arc<Network>,
    /// The folder of the vote index.
    pub index_path: PathBuf,
    pub active: watch::Receiver<Arc<ActiveConfig>>,
    pub watched: SharedWatchState,
    pub queue: Inputs,
    pub metrics: Metrics,
    /// Receives the notices of all groups.
    pub notices: watch::Sender<Vec<String>>,
    pub now: fn() -> Time,
}

impl AuditTask {
    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut notices: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let active = self.active.borrow().clone();
            let groups: Vec<(&String, &AuditConfig)> =
                active.config.groups.iter().filter_map(|group| Some((&group.name, group.audit.as_ref()?))).collect();
            let is_configured = |name: &String| groups.iter().any(|(group, _)| *group == name);
            due.retain(|name, _| is_configured(name));
            let n_groups = notices.len();
            notices.retain(|name, _| is_configured(name));
            let mut is_changed = notices.len() != n_groups;
            for (name, config) in groups {
                if due.get(name).is_some_and(|due| *due > Instant::now()) {
                    continue;
                }
                due.insert(name.clone(), Instant::now() + config.every);
                let work = self.group(name, config, cancel.clone());
                // The thread looks at `cancel` itself. Waiting for it would hold up the stop.
                let done = tokio::select! {
                    () = cancel.cancelled() => return,
                    done = tokio::task::spawn_blocking(move || work.run()) => done,
                };
                let Ok(done) = done else {
                    tracing::error!(group = name, "an audit broke off; please report what the log says above");
                    continue;
                };
                self.metrics.audits.with_label_values(&[done.outcome.label()]).inc();
                if notices.get(name) != Some(&done.notices) {
                    done.notices.iter().for_each(|notice| tracing::warn!(group = name, "{notice}"));
                    notices.insert(name.clone(), done.notices);
                    is_changed = true;
                }
                if !done.found.is_empty() && self.queue.send(Input::Anomalies(done.found)).await.is_err() {
                    return;
                }
            }
            if is_changed {
                self.notices.send_replace(notices.values().flatten().cloned().collect());
            }
        }
    }

    fn group(&self, name: &str, config: &AuditConfig, cancel: CancellationToken) -> GroupAudit {
        let labels = self.watched.labels();
        let members = labels.groups().iter().find(|group| &*group.name == name);
        let keys = members.iter().flat_map(|group| &group.validators);
        GroupAudit {
            name: name.to_owned(),
            config: config.clone(),
            keys: keys.filter_map(|index| Some((*index, labels.pubkey(*index)?))).collect(),
            network: self.network.clone(),
            index_path: self.index_path.clone(),
            now: (self.now)(),
            cancel,
        }
    }
}

/// One audit of one group.
struct GroupAudit {
    name: String,
    config: AuditConfig,
    keys: BTreeMap<ValidatorIndex, PubkeyBytes>,
    network: Arc<Network>,
    index_path: PathBuf,
    now: Time,
    cancel: CancellationToken,
}

/// What an audit found.
struct AuditDone {
    outcome: AuditOutcome,
    /// Lines for `/v1/status` and the log.
    notices: Vec<String>,
    found: Vec<SingleAnomaly>,
}

/// The record of a key in all files.
#[derive(Default)]
struct KeyRecord {
    histories: Vec<SigningHistory>,
    n_files: usize,
    /// Messages before this epoch are in the files, if they are the client's.
    complete_before: Epoch,
}

impl GroupAudit {
    fn run(self) -> AuditDone {
        let mut outcome = AuditOutcome::Whole;
        let mut notices = Vec::new();
        let mut records: BTreeMap<PubkeyBytes, KeyRecord> = BTreeMap::new();
        let mut all_before: Option<Epoch> = None;
        let mut is_whole = true;
        for path in &self.config.files {
            let (file, exported_at) = match self.read(path) {
                Ok(read) => read,
                Err(reason) => {
                    notices.push(self.notice(format!("{} cannot be used: {reason}", path.display())));
                    outcome = outcome.max(AuditOutcome::Unreadable);
                    is_whole = false;
                    continue;
                }
            };
            if self.now.since(exported_at) > self.config.stale_age() {
                notices.push(self.notice(format!(
                    "{} was not renewed since {exported_at}; see why the export of its client does not run",
                    path.display()
                )));
                outcome = outcome.max(AuditOutcome::Stale);
            }
            let (before, n_behind) = complete_before(&file, self.epoch_at(exported_at));
            if n_behind > 0 {
                notices.push(self.notice(format!(
                    "the newest vote in {} is {n_behind} epochs older than the file: its client has stopped, or its export is \
                     stuck. What was signed since then is not judged",
                    path.display()
                )));
                outcome = outcome.max(AuditOutcome::Stale);
            }
            all_before = Some(all_before.map_or(before, |all| all.min(before)));
            let mut in_file = BTreeSet::new();
            for history in file.data {
                let record = records.entry(history.pubkey).or_default();
                record.n_files += usize::from(in_file.insert(history.pubkey));
                record.complete_before = record.complete_before.max(before);
                record.histories.push(history);
            }
        }
        let Some(all_before) = all_before else { return AuditDone { outcome, notices, found: Vec::new() } };
        // A key may be in the file that cannot be read.
        let without_record = is_whole.then_some(all_before);
        match self.compare(&records, without_record, &mut notices) {
            Ok(found) => {
                if !found.is_empty() {
                    outcome = AuditOutcome::Lacking;
                }
                AuditDone { outcome, notices, found }
            }
            Err(error) => {
                notices.push(self.notice(format!("what was seen cannot be read: {error}")));
                AuditDone { outcome: AuditOutcome::Failed, notices, found: Vec::new() }
            }
        }
    }

    fn notice(&self, text: String) -> String {
        format!("audit of group {}: {text}", self.name)
    }

    fn epoch_at(&self, time: Time) -> Epoch {
        self.network.slot_at(time.as_unix_ns()).epoch(self.network.preset())
    }

    /// Reads a file, and when it was written.
    fn read(&self, path: &Path) -> Result<(Interchange, Time), String> {
        let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(|error| error.to_string())?;
        let since_1970 = written.duration_since(UNIX_EPOCH).unwrap_or_default();
        // The clock of the machine that wrote it may be ahead.
        let exported_at = Time::from_unix_ns(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)).min(self.now);
        let bytes = base::read_file(path, MAX_FILE_BYTES).map_err(|error| error.to_string())?;
        let file = Interchange::parse(&bytes, self.network.genesis_validators_root).map_err(|error| error.to_string())?;
        Ok((file, exported_at))
    }

    /// Compares the records with what was seen of the group's keys. Keys without a record are
    /// judged before the epoch `without_record`, or not at all.
    fn compare(
        &self,
        records: &BTreeMap<PubkeyBytes, KeyRecord>,
        without_record: Option<Epoch>,
        notices: &mut Vec<String>,
    ) -> Result<Vec<SingleAnomaly>, IndexError> {
        let preset = self.network.preset();
        let shape = Shape {
            genesis_validators_root: self.network.genesis_validators_root,
            slots_per_epoch: preset.slots_per_epoch,
            history_epochs: Shape::DEFAULT_HISTORY_EPOCHS,
        };
        let view = IndexView::open(&self.index_path, shape)?;
        let epoch_length = self.network.spec.slot_duration.saturating_mul(preset.slots_per_epoch as u32).as_secs().max(1);
        let n_epochs = (EPOCHS_BEFORE + 2 * self.config.every.as_secs() / epoch_length).min(MAX_EPOCHS);
        let before_of = |pubkey: &PubkeyBytes| records.get(pubkey).map(|record| record.complete_before).or(without_record);
        let newest = self.keys.values().filter_map(before_of).max().unwrap_or_default();
        let oldest = self.keys.values().filter_map(before_of).min().unwrap_or_default().saturating_sub(n_epochs);
        let mut blocks: BTreeMap<ValidatorIndex, Vec<StoredProposal>> = BTreeMap::new();
        for proposal in view.index().proposals_in(oldest.start_slot(preset), newest.start_slot(preset), usize::MAX)? {
            if self.keys.contains_key(&proposal.header.proposer_index) {
                blocks.entry(proposal.header.proposer_index).or_default().push(proposal);
            }
        }
        let (mut found, mut n_lacking, mut n_messages): (Vec<SingleAnomaly>, u64, u64) = (Vec::new(), 0, 0);
        let (mut n_pruned, mut n_twice, mut n_without) = (0u64, 0u64, 0u64);
        for (index, pubkey) in &self.keys {
            if self.cancel.is_cancelled() {
                break;
            }
            let record = records.get(pubkey);
            n_without += u64::from(record.is_none());
            n_twice += u64::from(record.is_some_and(|record| record.n_files > 1));
            let Some(before) = before_of(pubkey) else { continue };
            let from = before.saturating_sub(n_epochs);
            let seen = self.seen(&view, *index, blocks.get(index).map_or(&[][..], Vec::as_slice), from..before)?;
            let histories: Vec<&SigningHistory> = record.iter().flat_map(|record| &record.histories).collect();
            let report = audit(&histories, &seen.messages());
            n_pruned += u64::from(report.before_record > 0);
            let n_absent = report.absent_votes.count + report.absent_blocks.count;
            n_lacking += u64::from(n_absent > 0);
            n_messages += n_absent;
            let votes = report
                .absent_votes
                .listed
                .iter()
                .filter_map(|vote| seen.votes.get(vote).map(|at| (*at, Some(*vote), vote.signing_root)));
            let of_blocks = report.absent_blocks.listed.iter();
            let of_blocks = of_blocks.filter_map(|block| seen.blocks.get(block).map(|at| (*at, None, block.signing_root)));
            let mut absent: Vec<_> = votes.chain(of_blocks).collect();
            absent.sort_by_key(|((slot, _), ..): &((Slot, Arrival), _, _)| std::cmp::Reverse(*slot));
            let room = MAX_REPORTED.saturating_sub(found.len()).min(MAX_OF_KEY);
            found.extend(absent.into_iter().take(room).map(|((slot, arrival), epochs, root)| {
                let signing_root = root.unwrap_or_default();
                let (validator, in_file, groups) = (*index, record.is_some(), vec![self.name.clone()]);
                SingleAnomaly::from(SignedElsewhere { validator, slot, epochs, signing_root, in_file, groups, arrival })
            }));
        }
        if n_messages > 0 {
            notices.push(self.notice(format!(
                "{n_messages} messages of {n_lacking} keys are in no file: somebody else signs with these keys, or a record was lost. See the \
                 findings `signed_elsewhere`, and compare with `slashwatch audit`"
            )));
        }
        if n_pruned > 0 && !self.config.pruned_ok {
            notices.push(self.notice(format!(
                "messages of {n_pruned} keys are older than their record: it was pruned, or lost and made anew; `pruned_ok = true` if \
                 these clients prune"
            )));
        }
        if n_without > 0 {
            notices.push(
                self.notice(format!("{n_without} of {} keys are in no file; give the files of all clients", self.keys.len())),
            );
        }
        if n_twice > 0 {
            notices
                .push(self.notice(format!("{n_twice} keys are in several files: see that only one of these clients runs them")));
        }
        Ok(found)
    }

    /// What was seen of a key, for targets in `epochs`.
    fn seen(
        &self,
        view: &IndexView,
        index: ValidatorIndex,
        blocks: &[StoredProposal],
        epochs: std::ops::Range<Epoch>,
    ) -> Result<SeenOfKey, IndexError> {
        let mut seen = SeenOfKey::default();
        let n_epochs = usize::try_from(epochs.end.as_u64() - epochs.start.as_u64()).unwrap_or(usize::MAX);
        for vote in view.index().votes_before(index, epochs.end, n_epochs)?.votes {
            let (source_epoch, target_epoch) = (vote.data.source.epoch, vote.data.target.epoch);
            if target_epoch < epochs.start {
                continue;
            }
            // Where the arrival is not known any more, the beginning of its slot stands for it.
            let slot_start = verify::Time(self.network.slot_start_ns(vote.data.slot));
            let arrival = vote.arrival.unwrap_or(Arrival { at: slot_start, source: SourceKind::Gossip });
            let root = signing_root(vote.data_root, self.network.domain(DomainType::BeaconAttester, target_epoch));
            let signed = SignedEpochs { source_epoch, target_epoch, signing_root: Some(root) };
            seen.votes.insert(signed, (vote.data.slot, arrival));
        }
        let preset = self.network.preset();
        for block in blocks.iter().filter(|block| epochs.contains(&block.header.slot.epoch(preset))) {
            let slot = block.header.slot;
            let root = signing_root(block.root, self.network.domain(DomainType::BeaconProposer, slot.epoch(preset)));
            seen.blocks.insert(SignedSlot { slot, signing_root: Some(root) }, (slot, block.heard.arrival()));
        }
        Ok(seen)
    }
}

/// What was seen of a key, with the slot and arrival of each message.
#[derive(Default)]
struct SeenOfKey {
    votes: HashMap<SignedEpochs, (Slot, Arrival)>,
    blocks: HashMap<SignedSlot, (Slot, Arrival)>,
}

impl SeenOfKey {
    fn messages(&self) -> Seen {
        Seen { votes: self.votes.keys().copied().collect(), blocks: self.blocks.keys().copied().collect() }
    }
}

/// The epoch before which a file has everything that its client signed, and by how many epochs its
/// newest vote is too old for its time, or 0.
fn complete_before(file: &Interchange, exported_in: Epoch) -> (Epoch, u64) {
    let targets = file.data.iter().flat_map(|history| &history.signed_attestations).map(|vote| vote.target_epoch);
    let newest = targets.max().unwrap_or_default();
    let n_behind = exported_in.as_u64().saturating_sub(newest.as_u64());
    if n_behind > MARGIN_EPOCHS + 1 {
        return (newest, n_behind);
    }
    (newest.min(exported_in).max(exported_in.saturating_sub(MARGIN_EPOCHS)), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::Root;

    fn file(targets: &[u64]) -> Interchange {
        let vote =
            |target: &u64| SignedEpochs { source_epoch: Epoch::new(0), target_epoch: Epoch::new(*target), signing_root: None };
        let signed_attestations = targets.iter().map(vote).collect();
        let mut file = Interchange::new(Root::ZERO);
        file.data = vec![SigningHistory { pubkey: PubkeyBytes::ZERO, signed_blocks: Vec::new(), signed_attestations }];
        file
    }

    #[test]
    fn a_file_is_complete_before_its_newest_target() {
        let before = |targets: &[u64], exported_in| {
            let (epoch, n_behind) = complete_before(&file(targets), Epoch::new(exported_in));
            (epoch.as_u64(), n_behind)
        };
        assert_eq!(before(&[8, 9, 10], 10), (10, 0), "votes of epoch 10 may follow");
        assert_eq!(before(&[8, 9], 10), (9, 0), "exported at the beginning of epoch 10");
        assert_eq!(before(&[7], 10), (8, 0), "an export takes a while");
        assert_eq!(before(&[6], 10), (6, 4), "a client that has stopped, or an export that is stuck");
        assert_eq!(before(&[], 10), (0, 10));
        assert_eq!(before(&[99], 10), (10, 0), "a clock that was ahead");
        assert_eq!(before(&[], 1), (0, 0));
    }

    fn read(path: &Path) -> Result<(Interchange, Time), String> {
        let spec = consensus::Spec::builtin("mainnet").unwrap();
        let network = Arc::new(Network { spec, genesis_time: 7, genesis_validators_root: Root::ZERO });
        let text = format!("files = [{path:?}]");
        let work = GroupAudit {
            name: "ours".into(),
            config: toml::from_str(&text).unwrap(),
            keys: BTreeMap::new(),
            network,
            index_path: PathBuf::new(),
            now: Time::from_unix_ns(0),
            cancel: CancellationToken::new(),
        };
        work.read(path)
    }

    #[test]
    fn what_is_no_file_of_this_network_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("junk"), "{").unwrap();
        let other = Interchange::new(Root::repeat_byte(9));
        std::fs::write(at("other"), serde_json::to_vec(&other).unwrap()).unwrap();
        std::fs::write(at("ours"), serde_json::to_vec(&Interchange::new(Root::ZERO)).unwrap()).unwrap();
        for (name, word) in
            [("none", "No such file"), ("junk", "EIP-3076"), ("other", "another network"), ("", "not a regular file")]
        {
            assert!(read(&at(name)).unwrap_err().contains(word), "{name}");
        }
        assert!(read(&at("ours")).unwrap().0.data.is_empty());
        let long = at("long");
        std::fs::File::create(&long).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(read(&long).unwrap_err().contains("more than"));
    }
}
