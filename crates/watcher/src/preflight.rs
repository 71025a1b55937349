//! Whether it is safe to start a set of keys now: `slashwatch preflight`.
//!
//! It is safe if all of this is known, and "not known" is not safe:
//!
//! - Nobody signs with the keys: no vote and no block of them is for one of the slots of the last
//!   two epochs, or for a later slot.
//! - We would have heard it: a watcher ran in all of these slots, no gap is recorded in them, and
//!   two thirds of the seats of each epoch were heard, half of those of each slot.
//! - The keys are not lost: no offence of them is recorded, and the last state does not have them
//!   as slashed.
//! - The client's record is complete: it has every message that was seen, as `audit` compares it.
//!
//! **Why two epochs.** A validator votes once in an epoch. Two epochs of slots contain a whole
//! epoch wherever they begin, so each key had a duty in them. And what was signed before them has
//! lower targets than every duty that comes now.
//!
//! **Why shares of seats.** A vote that nobody of ours heard on its subnet comes in an aggregate or
//! in a block. Where most of a slot's voters were heard, these ways are open.

use crate::datadir::{self, state_path};
use crate::downtime;
use crate::error::WatcherError;
use crate::history::{Audit, AuditedKey, History, Walked, read_interchange};
use api::Gap;
use consensus::interchange::{Interchange, SigningHistory};
use consensus::state::{StateView, fork_of_state};
use consensus::{Epoch, PubkeyBytes, Slot, ValidatorIndex};
use evidence::{Query, Store, StoreError, Time};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// The keys must have been silent for so many epochs.
pub const SILENT_EPOCHS: u64 = 2;
/// How many slots the record of what was watched may be behind the clock. It waits for messages
/// whose committees are not known yet.
const MAX_BEHIND: u64 = 8;
/// Share of an epoch's seats, in percent, whose votes must have been heard. A network in which
/// fewer vote does not finalize.
const EPOCH_HEARD_PERCENT: u64 = 67;
/// The same for each slot.
const SLOT_HEARD_PERCENT: u64 = 50;
/// Largest number of keys of a problem that are listed.
const MAX_LISTED: usize = 100;
/// Keys that are named in a problem's text.
const NAMED: usize = 5;
/// Findings of a key that are read at once.
const FINDINGS_AT_ONCE: usize = 100;

/// The answer: whether the keys may be started, and why not.
#[derive(Clone, Debug, Serialize)]
pub struct Preflight {
    pub schema: u64,
    pub network: String,
    pub safe: bool,
    pub checked_at: Time,
    /// The slots in which nobody may have signed. `None` if the chain is younger than two epochs.
    pub window: Option<SlotWindow>,
    /// When the last message that was seen of these keys is two epochs ago. `None` if it is.
    pub not_before: Option<Time>,
    /// Keys of the file, and those that were expected in it.
    pub keys: u64,
    pub problems: Vec<PreflightProblem>,
    /// What does not stand against a start, and should be known.
    pub notes: Vec<String>,
    /// What `slashwatch audit` says of the file.
    pub audit: Audit,
}

/// A range of slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SlotWindow {
    pub first_slot: Slot,
    pub last_slot: Slot,
}

/// One reason against a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreflightProblem {
    pub what: ProblemKind,
    /// Number of keys that it is about; 0 if it is about all of them.
    pub n_keys: u64,
    /// The first of them.
    pub keys: Vec<ValidatorIndex>,
    /// The reason, in a sentence.
    pub reason: String,
    /// What to do next.
    pub todo: String,
}

/// The kinds of problems, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Somebody signed with the keys a moment ago.
    Signing,
    /// The keys contradicted themselves.
    Offence,
    Slashed,
    /// The file has no key, or lacks some that were expected.
    KeysMissing,
    /// The file has nothing about keys that can vote.
    EmptyRecord,
    /// The file lacks messages that were seen.
    RecordLacks,
    /// Messages were seen that are older than the record.
    BeforeRecord,
    /// No watcher listened, or not for two epochs.
    NotListening,
    /// The watcher heard too little.
    NotHeard,
    /// Keys of the file that the watcher does not know.
    UnknownKeys,
    /// There is no state that says whether the keys are slashed.
    NoState,
}

/// What was heard of one slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotHeard {
    pub slot: Slot,
    pub voters: u64,
    /// `None` if no vote came whose committee is known.
    pub seats: Option<u64>,
}

/// What is known of one key, besides its audit.
#[derive(Clone, Debug, Default)]
pub struct KeyFacts {
    /// The newest slot that a vote or block of it is for.
    pub last_signed: Option<Slot>,
    pub has_offence: bool,
    pub is_slashed: bool,
    /// Whether it was active at some time. A key that never was has nothing to record.
    pub was_active: bool,
    /// Whether the file has nothing about it.
    pub is_empty: bool,
}

/// Everything that the answer depends on. It comes from a data directory, or from the API of a
/// running watcher.
pub struct PreflightFacts {
    /// The slot by this machine's clock.
    pub now: Slot,
    pub slots_per_epoch: u64,
    /// The slot up to which a watcher has listened. `None` if none has.
    pub watched_until: Option<Slot>,
    pub gaps: Vec<Gap>,
    /// The slots of the window, in order.
    pub heard: Vec<SlotHeard>,
    pub keys: BTreeMap<ValidatorIndex, KeyFacts>,
    /// Whether there is a state that says who is slashed.
    pub has_state: bool,
    pub is_pruned: bool,
    pub audit: Audit,
}

/// The interchange file of the client that is to be started.
pub struct ClientRecord {
    /// The keys that are checked.
    pub file: Interchange,
    /// Number of keys of the file that are not among those that are to start.
    n_others: usize,
    names_keys: bool,
}

impl ClientRecord {
    /// Takes a whole file. If it is known which keys are `to_start`, the others do not count.
    pub fn new(mut file: Interchange, to_start: Option<&BTreeSet<PubkeyBytes>>) -> Self {
        let n_in_file = file.data.len();
        if let Some(to_start) = to_start {
            file.data.retain(|one| to_start.contains(&one.pubkey));
        }
        Self { n_others: n_in_file - file.data.len(), names_keys: to_start.is_some(), file }
    }

    /// The keys of which the file has at least one message.
    pub fn recorded(&self) -> BTreeSet<PubkeyBytes> {
        let has_some = |one: &&SigningHistory| !one.signed_attestations.is_empty() || !one.signed_blocks.is_empty();
        self.file.data.iter().filter(has_some).map(|one| one.pubkey).collect()
    }
}

impl SlotWindow {
    /// The two epochs before now, or before the slot up to which a watcher that is hardly behind has
    /// watched. The current slot's votes and those of the slot before may still be under way.
    pub fn before(now: Slot, watched_until: Option<Slot>, slots_per_epoch: u64) -> Option<Self> {
        let current = watched_until.filter(|until| until.saturating_add(MAX_BEHIND) >= now);
        let watched = current.map_or(now, |until| until.min(now));
        let last = watched.as_u64().checked_sub(2)?;
        let first = (last + 1).checked_sub(SILENT_EPOCHS * slots_per_epoch)?;
        Some(Self { first_slot: Slot::new(first), last_slot: Slot::new(last) })
    }
}

/// Checks the keys of a file. If `expected` names any, these are the keys that are to start: they
/// must be in the file, and its other keys do not count. `now` is the clock.
/// `is_pruned` is as in [`History::audit`].
///
/// # Errors
/// The file cannot be read, or the data directory is damaged.
pub fn preflight(
    history: &History,
    path: &Path,
    expected: &BTreeSet<ValidatorIndex>,
    is_pruned: bool,
    now: Time,
    on_progress: &mut dyn FnMut(Walked),
) -> Result<Preflight, WatcherError> {
    let file = read_interchange(path, history.network.genesis_validators_root)?;
    let to_start: BTreeSet<PubkeyBytes> = expected.iter().filter_map(|index| history.key(*index).ok()).collect();
    let record = ClientRecord::new(file, (!expected.is_empty()).then_some(&to_start));
    let facts = history.facts(&record, expected, is_pruned, history.network.slot_at(now.as_unix_ns()), on_progress)?;
    let data_dir = datadir::absolute(&history.data_dir);
    let fired = actions::killswitch::KillSwitchState::read(&history.store)?.fired.into_keys();
    let fired = fired
        .map(|group| {
            let command = format!("slashwatch killswitch rearm {group} --data-dir {data_dir}");
            (group, command)
        })
        .collect();
    Ok(facts.answer(&record, &fired, now, |slot| Time::from_unix_ns(history.network.slot_start_ns(slot))))
}

/// Whether an offence of the validator is recorded, however many other findings about it are.
fn has_offence(store: &Store, validator: ValidatorIndex) -> Result<bool, StoreError> {
    let mut query = Query { validator: Some(validator), ..Query::default() };
    loop {
        let page = store.find(&query, FINDINGS_AT_ONCE)?;
        if page.findings.iter().any(|(_, finding)| finding.offence().is_some()) {
            return Ok(true);
        }
        let Some(next) = page.next else { return Ok(false) };
        query.after = next;
    }
}

impl History {
    fn facts(
        &self,
        record: &ClientRecord,
        expected: &BTreeSet<ValidatorIndex>,
        is_pruned: bool,
        now: Slot,
        on_progress: &mut dyn FnMut(Walked),
    ) -> Result<PreflightFacts, WatcherError> {
        let slots_per_epoch = self.network.preset().slots_per_epoch;
        let audit = self.audit_file(&record.file, expected, is_pruned, on_progress)?;
        let watched_until = downtime::watched_until(&self.store)?;
        let window = SlotWindow::before(now, watched_until, slots_per_epoch);
        let mut heard = Vec::new();
        for slot in window.iter().flat_map(|window| window.first_slot.as_u64()..=window.last_slot.as_u64()).map(Slot::new) {
            let votes = self.index.index().votes_of_slot(slot)?;
            heard.push(SlotHeard { slot, voters: votes.voters, seats: votes.seats });
        }
        let recorded = record.recorded();
        let from = window.map_or(Slot::new(0), |window| window.first_slot);
        let mut blocks: BTreeMap<ValidatorIndex, Slot> = BTreeMap::new();
        for proposal in self.index.index().proposals_in(from, Slot::MAX, usize::MAX)? {
            let newest = blocks.entry(proposal.header.proposer_index).or_default();
            *newest = (*newest).max(proposal.header.slot);
        }
        let registry = self.registry(now)?;
        let mut keys = BTreeMap::new();
        for AuditedKey { index, pubkey, .. } in &audit.validators {
            let newest = self.index.index().votes_before(*index, Epoch::MAX, 1)?.votes;
            let voted = newest.iter().map(|vote| vote.data.slot).max();
            let state = registry.as_ref().and_then(|registry| registry.get(index).copied());
            keys.insert(
                *index,
                KeyFacts {
                    last_signed: voted.max(blocks.get(index).copied()),
                    has_offence: has_offence(&self.store, *index)?,
                    is_slashed: state.is_some_and(|state| state.slashed),
                    was_active: state.is_none_or(|state| state.was_active),
                    is_empty: !recorded.contains(pubkey),
                },
            );
        }
        let gaps = downtime::known(&self.store)?;
        let has_state = registry.is_some();
        Ok(PreflightFacts { now, slots_per_epoch, watched_until, gaps, heard, keys, has_state, is_pruned, audit })
    }

    /// What the last state in the data directory says of each validator. `None` if there is none.
    fn registry(&self, now: Slot) -> Result<Option<BTreeMap<ValidatorIndex, RegistryFacts>>, WatcherError> {
        let path = state_path(&self.data_dir);
        if !path.is_file() {
            return Ok(None);
        }
        let bad = |reason: String| WatcherError::Input { path: path.clone(), reason };
        let ssz = crate::bootstrap::read_state(&path)?;
        let spec = &self.network.spec;
        let fork = fork_of_state(spec, &ssz).map_err(|error| bad(error.to_string()))?;
        let view = StateView::parse(fork, &spec.preset, &ssz).map_err(|error| bad(error.to_string()))?;
        let epoch = now.epoch(self.network.preset());
        let facts = |validator: consensus::Validator| RegistryFacts {
            slashed: validator.slashed,
            was_active: validator.activation_epoch <= epoch,
        };
        Ok(Some((0u64..).map(ValidatorIndex::new).zip(view.validators().map(facts)).collect()))
    }
}

#[derive(Clone, Copy)]
struct RegistryFacts {
    slashed: bool,
    was_active: bool,
}

impl PreflightFacts {
    /// Says whether the keys of the record may be started. `fired` are the groups whose kill switch
    /// has fired, with the command that makes it ready. `time_of` says when a slot begins.
    pub fn answer(
        self,
        record: &ClientRecord,
        fired: &BTreeMap<String, String>,
        checked_at: Time,
        time_of: impl Fn(Slot) -> Time,
    ) -> Preflight {
        let mut answer = self.judge(record.names_keys, checked_at, time_of);
        if !record.names_keys {
            answer.notes.push(
                "only the keys of the file were checked: a key that the file has lost is not noticed. Name your keys with --validators".into(),
            );
        }
        if record.n_others > 0 {
            answer.notes.push(format!(
                "{} keys of the file are not in --validators and were not checked: see that the client does not start them",
                record.n_others
            ));
        }
        if !fired.is_empty() {
            let groups = fired.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let commands = fired.values().map(|command| format!("`{command}`")).collect::<Vec<_>>().join(", ");
            answer.notes.push(format!(
                "the kill switch of {groups} has fired: lock files stay and it does not fire again until it is made ready. When this says SAFE, \
                 and before a client starts: {commands}"
            ));
        }
        answer
    }

    /// `names_keys` is whether the keys that are to start were named.
    fn judge(self, names_keys: bool, checked_at: Time, time_of: impl Fn(Slot) -> Time) -> Preflight {
        let window = SlotWindow::before(self.now, self.watched_until, self.slots_per_epoch);
        let mut problems = Vec::new();
        let from = window.map_or(Slot::new(0), |window| window.first_slot);
        let last_signed = self.keys.values().filter_map(|key| key.last_signed).max();
        let is_signing = |key: &KeyFacts| key.last_signed.is_some_and(|slot| slot >= from);
        let silent_from = |slot: Slot| slot.saturating_add(SILENT_EPOCHS * self.slots_per_epoch + 3);
        let not_before = last_signed.filter(|slot| *slot >= from).map(|slot| time_of(silent_from(slot)));
        let signing = self.with(is_signing);
        if let Some((last, not_before)) = last_signed.zip(not_before).filter(|_| !signing.is_empty()) {
            problems.push(problem(
                ProblemKind::Signing,
                &signing,
                format!("were seen signing within the last two epochs, the last time for slot {last}"),
                format!(
                    "find out which machine that was and that it is off; if it was yours and is off, ask again after {not_before}. If they go \
                     on signing, somebody else has them: docs/restart.md, step 3"
                ),
            ));
        }
        let offenders = self.with(|key| key.has_offence);
        if !offenders.is_empty() {
            problems.push(problem(
                ProblemKind::Offence,
                &offenders,
                "contradicted themselves, which is on record here".into(),
                "never start these keys again: take them out of the client, and leave them out of --validators; the others can go on without them".into(),
            ));
        }
        let slashed = self.with(|key| key.is_slashed);
        if !slashed.is_empty() {
            problems.push(problem(
                ProblemKind::Slashed,
                &slashed,
                "are slashed".into(),
                "take them out of the client, and leave them out of --validators; they have no duties any more".into(),
            ));
        }
        self.record_problems(names_keys, &mut problems);
        self.listening_problems(window, &mut problems);
        if !self.has_state {
            problems.push(problem(
                ProblemKind::NoState,
                &[],
                "the data directory has no state, so it is not known whether these keys are slashed".into(),
                "start the watcher once with a node or `--checkpoint`; it keeps the state".into(),
            ));
        }
        problems.sort_by_key(|problem| problem.what);
        Preflight {
            schema: 1,
            network: self.audit.network.clone(),
            safe: problems.is_empty(),
            checked_at,
            window,
            not_before,
            keys: self.audit.totals.keys,
            problems,
            notes: self.notes(),
            audit: self.audit,
        }
    }

    /// The keys for which something holds.
    fn with(&self, holds: impl Fn(&KeyFacts) -> bool) -> Vec<ValidatorIndex> {
        self.keys.iter().filter(|(_, key)| holds(key)).map(|(index, _)| *index).collect()
    }

    /// What is wrong with the client's record.
    fn record_problems(&self, names_keys: bool, problems: &mut Vec<PreflightProblem>) {
        let totals = &self.audit.totals;
        let of = |holds: &dyn Fn(&AuditedKey) -> bool| -> Vec<ValidatorIndex> {
            self.audit.validators.iter().filter(|key| holds(key)).map(|key| key.index).collect()
        };
        let complete = "export the record again from the machine that signed last; if it is lost, docs/lost-database.md";
        if totals.keys == totals.keys_not_in_file {
            let reason = match names_keys {
                true => format!("the file has none of the {} keys of --validators, so it does not protect them", totals.keys),
                false => format!("the file has no key that is known on {}, so it protects nothing", self.audit.network),
            };
            problems.push(problem(ProblemKind::KeysMissing, &[], reason, complete.into()));
        } else if totals.keys_not_in_file > 0 {
            let missing = of(&|key| !key.in_file);
            let reason = "are named by --validators and are not in the file".into();
            problems.push(problem(ProblemKind::KeysMissing, &missing, reason, complete.into()));
        }
        let is_empty =
            |key: &AuditedKey| key.in_file && self.keys.get(&key.index).is_some_and(|facts| facts.is_empty && facts.was_active);
        let empty = of(&is_empty);
        if !empty.is_empty() {
            problems.push(problem(
                ProblemKind::EmptyRecord,
                &empty,
                "are in the file without a single message, although they could have voted".into(),
                complete.into(),
            ));
        }
        let lacking = of(&|key| key.in_file && key.audit.lacks_something(true));
        if !lacking.is_empty() {
            problems.push(problem(
                ProblemKind::RecordLacks,
                &lacking,
                format!(
                    "signed messages that the file does not have: {} votes and {} blocks; with messages of the file they make {} contradictions",
                    totals.absent_votes, totals.absent_blocks, totals.contradictions
                ),
                "`slashwatch audit` lists them. Somebody else signed, or the record is not the last one: docs/restart.md, steps 3 to 5".into(),
            ));
        }
        let before = of(&|key| key.in_file && key.audit.before_record > 0);
        if !self.is_pruned && !before.is_empty() {
            problems.push(problem(
                ProblemKind::BeforeRecord,
                &before,
                "have messages that are older than the file's record: it was pruned, or lost and made anew".into(),
                "if your client prunes its record, say so with --pruned-ok; if you do not know, docs/lost-database.md".into(),
            ));
        }
        if !self.audit.unknown_keys.is_empty() {
            problems.push(problem(
                ProblemKind::UnknownKeys,
                &[],
                format!(
                    "{} keys of the file belong to no validator that this watcher knows, so it cannot know who signs with them: {}{}",
                    self.audit.unknown_keys.len(),
                    self.audit.unknown_keys[0],
                    if self.audit.unknown_keys.len() > 1 { ", .." } else { "" }
                ),
                "wait until the watcher has a newer state, or leave them out of the file if they are not deposited yet".into(),
            ));
        }
    }

    /// Whether we would have heard the keys.
    fn listening_problems(&self, window: Option<SlotWindow>, problems: &mut Vec<PreflightProblem>) {
        let mut not_listening = |reason: String, todo: &str| {
            problems.push(problem(ProblemKind::NotListening, &[], reason, todo.into()));
        };
        let wait = "keep the keys off, let the watcher listen for two epochs without a break, and ask again";
        let Some(until) = self.watched_until else {
            return not_listening(
                "no watcher listens, so nobody knows who signs now".into(),
                "run the watcher (`slashwatch run`) for two epochs, and give its data directory or address; a recording, or a demo that is over, \
                 hears nothing",
            );
        };
        if until.saturating_add(MAX_BEHIND) < self.now {
            return not_listening(
                format!("the watcher has listened up to slot {until} only, and now is slot {}", self.now),
                "start the watcher, or see why it is behind (`slashwatch status`); then let it listen for two epochs, and ask again",
            );
        }
        let Some(window) = window else {
            return not_listening("the chain is younger than two epochs".into(), wait);
        };
        let overlaps = |gap: &&Gap| gap.from_slot <= window.last_slot && gap.to_slot >= window.first_slot;
        if let Some(gap) = self.gaps.iter().rev().find(overlaps) {
            return not_listening(
                format!("slots {} to {} are a gap ({}), within the last two epochs", gap.from_slot, gap.to_slot, gap.reason),
                wait,
            );
        }
        let percent = |voters: u64, seats: u64| (voters * 100).checked_div(seats).unwrap_or(0);
        let is_deaf = |slot: &&SlotHeard| slot.seats.is_none_or(|seats| percent(slot.voters, seats) < SLOT_HEARD_PERCENT);
        let deaf: Vec<&SlotHeard> = self.heard.iter().filter(is_deaf).collect();
        let per_epoch = usize::try_from(self.slots_per_epoch).unwrap_or(usize::MAX);
        let least = self.heard.chunks(per_epoch).map(|slots| {
            let sum = |of: &dyn Fn(&SlotHeard) -> u64| slots.iter().map(of).sum::<u64>();
            percent(sum(&|slot| slot.voters), sum(&|slot| slot.seats.unwrap_or(0)))
        });
        let least = least.min().unwrap_or(0);
        let reason = match deaf.first() {
            Some(first) => Some(format!(
                "in {} of the last {} slots less than half of the voters were heard, first in slot {}",
                deaf.len(),
                self.heard.len(),
                first.slot
            )),
            None if least < EPOCH_HEARD_PERCENT => {
                Some(format!("only {least} % of an epoch's voters were heard, and {EPOCH_HEARD_PERCENT} % are needed"))
            }
            None => None,
        };
        if let Some(reason) = reason {
            problems.push(problem(
                ProblemKind::NotHeard,
                &[],
                format!("{reason}: a vote of these keys could have been missed"),
                "see that the watcher has peers and hears the network (`slashwatch status`), and ask again after two epochs"
                    .into(),
            ));
        }
    }

    fn notes(&self) -> Vec<String> {
        let totals = &self.audit.totals;
        let mut notes = Vec::new();
        let in_file = totals.keys.saturating_sub(totals.keys_not_in_file);
        if totals.keys_never_heard > 0 {
            notes.push(format!(
                "no message of {} keys was ever seen here, so their record was compared with nothing",
                totals.keys_never_heard
            ));
        }
        if let Some(epochs) = &self.audit.coverage.epochs {
            notes.push(format!(
                "the record of {in_file} keys was compared with the votes of epochs {} to {}; nothing is known about other times",
                epochs.first, epochs.last
            ));
        }
        notes
    }
}

fn problem(what: ProblemKind, keys: &[ValidatorIndex], reason: String, todo: String) -> PreflightProblem {
    let reason = if keys.is_empty() {
        reason
    } else {
        let named: Vec<String> = keys.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if keys.len() > NAMED { ", .." } else { "" };
        format!("{} keys {reason} (validators {}{more})", keys.len(), named.join(", "))
    };
    PreflightProblem { what, n_keys: keys.len() as u64, keys: keys.iter().copied().take(MAX_LISTED).collect(), reason, todo }
}

impl Preflight {
    /// The verdict first, then each problem with what to do next.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let window =
            self.window.map_or_else(String::new, |window| format!(" (slots {} to {})", window.first_slot, window.last_slot));
        // Writing to a string cannot fail.
        let _ = match self.safe {
            true => writeln!(
                out,
                "SAFE to start {} keys on {}, one machine only: nobody signed with them for two epochs{window}, and the file has every \
                 message that was seen of them",
                self.keys, self.network
            ),
            false => writeln!(out, "NOT SAFE to start {} keys on {}: {} problems", self.keys, self.network, self.problems.len()),
        };
        for (nth, problem) in self.problems.iter().enumerate() {
            let _ = writeln!(out, "{}. {}\n   -> {}", nth + 1, problem.reason, problem.todo);
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Totals;
    use consensus::{ForkName, Root};
    use evidence::{Anomaly, Evidence, EvidenceKind, Finding, Kind, OffenceFacts, Subject};
    use std::sync::Arc;

    const PER_EPOCH: u64 = 8;
    const NOW: u64 = 100;

    fn facts() -> PreflightFacts {
        let window = SlotWindow::before(Slot::new(NOW), Some(Slot::new(NOW)), PER_EPOCH).unwrap();
        let heard = (window.first_slot.as_u64()..=window.last_slot.as_u64())
            .map(|slot| SlotHeard { slot: Slot::new(slot), voters: 8, seats: Some(10) })
            .collect();
        let index = ValidatorIndex::new(3);
        let key = KeyFacts { last_signed: Some(Slot::new(80)), was_active: true, ..KeyFacts::default() };
        let audited = AuditedKey { index, pubkey: PubkeyBytes::ZERO, in_file: true, audit: Default::default() };
        let audit = Audit { totals: Totals { keys: 1, ..Totals::default() }, validators: vec![audited], ..Audit::default() };
        PreflightFacts {
            now: Slot::new(NOW),
            slots_per_epoch: PER_EPOCH,
            watched_until: Some(Slot::new(NOW)),
            gaps: Vec::new(),
            heard,
            keys: BTreeMap::from([(index, key)]),
            has_state: true,
            is_pruned: false,
            audit,
        }
    }

    fn key(facts: &mut PreflightFacts) -> &mut KeyFacts {
        facts.keys.values_mut().next().unwrap()
    }

    /// The kinds of problems after a change of what is known.
    fn problems(change: impl FnOnce(&mut PreflightFacts)) -> Vec<ProblemKind> {
        let mut facts = facts();
        change(&mut facts);
        let answer =
            facts.judge(false, Time::from_unix_ns(0), |slot| Time::from_unix_ns(slot.as_u64().saturating_mul(1_000_000_000)));
        assert_eq!(answer.safe, answer.problems.is_empty());
        answer.problems.iter().map(|problem| problem.what).collect()
    }

    fn gap(from: u64, to: u64) -> Gap {
        Gap { from_slot: Slot::new(from), to_slot: Slot::new(to), reason: "silence".into() }
    }

    #[test]
    fn keys_that_were_silent_for_two_epochs_and_whose_record_is_complete_are_safe() {
        assert_eq!(problems(|_| ()), []);
        // Slot 82 is the last one before the window, which ends two slots before now.
        assert_eq!(problems(|facts| key(facts).last_signed = Some(Slot::new(82))), []);
        assert_eq!(problems(|facts| key(facts).last_signed = None), []);
        assert_eq!(problems(|facts| facts.gaps.push(gap(10, 82))), [], "it is over");
        let behind = |facts: &mut PreflightFacts| {
            facts.watched_until = Some(Slot::new(NOW - MAX_BEHIND));
            key(facts).last_signed = Some(Slot::new(74));
        };
        assert_eq!(problems(behind), [], "messages wait for their committees, and the window is earlier");
    }

    #[test]
    fn each_thing_that_is_wrong_is_not_safe() {
        use ProblemKind::*;
        assert_eq!(problems(|facts| key(facts).last_signed = Some(Slot::new(83))), [Signing]);
        assert_eq!(problems(|facts| key(facts).last_signed = Some(Slot::MAX)), [Signing], "a clock that is ahead");
        assert_eq!(problems(|facts| key(facts).has_offence = true), [Offence]);
        assert_eq!(problems(|facts| key(facts).is_slashed = true), [Slashed]);
        assert_eq!(problems(|facts| key(facts).is_empty = true), [EmptyRecord]);
        assert_eq!(problems(|facts| (key(facts).is_empty, key(facts).was_active) = (true, false)), [], "a new key");
        assert_eq!(problems(|facts| facts.has_state = false), [NoState]);
        assert_eq!(problems(|facts| facts.audit.unknown_keys.push(PubkeyBytes::ZERO)), [UnknownKeys]);
        assert_eq!(problems(|facts| facts.audit.validators[0].audit.absent_votes.count = 1), [RecordLacks]);
        assert_eq!(problems(|facts| facts.audit.validators[0].audit.before_record = 1), [BeforeRecord]);
        assert_eq!(
            problems(|facts| (facts.audit.validators[0].audit.before_record, facts.is_pruned) = (1, true)),
            [],
            "the owner says that the client prunes"
        );
        let not_in_file = |facts: &mut PreflightFacts| {
            facts.audit.totals.keys_not_in_file = 1;
            facts.audit.validators[0].in_file = false;
        };
        assert_eq!(problems(not_in_file), [KeysMissing]);
        assert_eq!(problems(|facts| facts.audit = Audit::default()), [KeysMissing], "an empty file");
        let none_of = |names_keys| {
            let mut facts = facts();
            not_in_file(&mut facts);
            facts.judge(names_keys, Time::from_unix_ns(0), |_| Time::from_unix_ns(0)).problems.remove(0).reason
        };
        assert!(none_of(true).contains("none of the 1 keys of --validators"), "{}", none_of(true));
        assert!(none_of(false).contains("no key that is known"), "{}", none_of(false));
    }

    #[test]
    fn what_was_not_heard_is_not_safe() {
        use ProblemKind::*;
        assert_eq!(problems(|facts| facts.watched_until = None), [NotListening]);
        assert_eq!(problems(|facts| facts.watched_until = Some(Slot::new(NOW - 9))), [NotListening]);
        assert_eq!(problems(|facts| facts.gaps.push(gap(83, 83))), [NotListening]);
        assert_eq!(problems(|facts| facts.gaps.push(gap(98, 200))), [NotListening]);
        assert_eq!(problems(|facts| facts.heard[7].voters = 4), [NotHeard]);
        assert_eq!(problems(|facts| facts.heard[7].seats = None), [NotHeard], "nobody's committee is known");
        assert_eq!(problems(|facts| facts.heard[..8].iter_mut().for_each(|slot| slot.voters = 6)), [NotHeard]);
        let young = |facts: &mut PreflightFacts| (facts.now, facts.watched_until) = (Slot::new(16), Some(Slot::new(16)));
        assert_eq!(problems(young), [Signing, NotListening]);
    }

    #[test]
    fn the_time_from_which_on_it_may_be_safe_is_told() {
        let mut facts = facts();
        key(&mut facts).last_signed = Some(Slot::new(90));
        let answer = facts.judge(false, Time::from_unix_ns(0), |slot| Time::from_unix_ns(slot.as_u64() * 1_000_000_000));
        assert_eq!(answer.not_before, Some(Time::from_unix_ns(109_000_000_000)), "16 slots after slot 90, and what is under way");
        let text = answer.to_text();
        assert!(text.starts_with("NOT SAFE to start 1 keys"), "{text}");
        assert!(text.contains("(validators 3)\n   -> find out which machine"), "{text}");
    }

    #[test]
    fn an_offence_after_hundreds_of_other_findings_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let offence = OffenceFacts::sample();
        let store = Store::open(dir.path(), offence.genesis_validators_root).unwrap();
        let (validator, pubkey) = (offence.validator, offence.pubkey);
        let subject = Subject { index: validator, pubkey, labels: Vec::new() };
        let anomalies = (0..2 * FINDINGS_AT_ONCE as u64).map(|nth| {
            let id = Root::repeat_byte(nth as u8);
            let sample = Anomaly::sample(Kind::SignedElsewhere);
            Finding::anomaly(Anomaly { id, validator: Some(subject.clone()), ..sample })
        });
        store.record_anomalies(anomalies.collect(), &[]).unwrap();
        assert!(!has_offence(&store, validator).unwrap());
        let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![1], serde_json::json!({}));
        store.record(vec![(Finding::slashable(offence, &evidence), Arc::new(evidence))], &[]).unwrap();
        assert!(has_offence(&store, validator).unwrap());
    }
}
