//! `slashwatch report`: makes a draft of a post-mortem from a data directory, with timeline,
//! members, charts, evidence, and penalties.
//!
//! It only reads, and it also works while a watcher runs. [`Report`] collects the facts,
//! [`sections`] defines their order, and [`html`] and [`markdown`] write them. Everything that came
//! from the network (graffiti, labels, agent strings) is escaped.
//!
//! The newest [`MAX_FINDINGS`] findings are read, and tables have at most [`MAX_ROWS`] rows. The
//! report says what is left out.

mod chart;
mod html;
mod markdown;
mod sections;

use crate::counted;
use actions::killswitch::KillSwitchState;
use consensus::{Epoch, Network, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Finding, Incident, Kind, Punishable, Store, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use watcher::datadir::{self, DataDirError};
use watcher::{WatcherError, kill_switch_view};

/// Maximum number of findings that are read.
const MAX_FINDINGS: usize = 500_000;
/// Maximum number of rows of a table.
const MAX_ROWS: usize = 300;
/// Maximum size of the proofs in a report, in bytes of JSON.
const MAX_PROOF_BYTES: usize = 8 << 20;
/// Maximum number of incidents in the chart of incidents.
const MAX_BARS: usize = 24;
/// What the first paragraph of a report says.
const DRAFT: &str = "Draft of a post-mortem, made by slashwatch from what it saw. Figures and proofs are facts; what is called suspected is a guess.";

/// A limit of the report's time: a slot number or an RFC 3339 time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    Slot(Slot),
    Time(Time),
}

impl std::str::FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<Slot>() {
            Ok(slot) => Ok(Self::Slot(slot)),
            Err(_) => text
                .parse()
                .map(Self::Time)
                .map_err(|error: String| format!("{error}; give a slot number or a time like 2020-08-14T13:10:00Z")),
        }
    }
}

impl TimeLimit {
    fn slot(self, network: &Network) -> Slot {
        match self {
            Self::Slot(slot) => slot,
            Self::Time(time) => network.slot_at(time.as_unix_ns()),
        }
    }
}

/// Output format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    Html,
    Markdown,
}

/// All facts of a report.
#[derive(Debug)]
pub struct Report {
    network: Network,
    from: Slot,
    to: Slot,
    incidents: Vec<Incident>,
    /// Number of double votes, surround votes and double proposals, by the epoch in which the
    /// offence could be known.
    by_epoch: BTreeMap<Epoch, [u64; 3]>,
    /// Number of validators that offended for the first time, by epoch.
    joined: BTreeMap<Epoch, u64>,
    members: Vec<Member>,
    anomalies: Vec<Finding>,
    proofs: Vec<ReportProof>,
    /// What kill switches did in this time, in sentences.
    switches: Vec<String>,
    /// Number of findings that are not read, because newer ones reach the limit.
    findings_left_out: u64,
}

/// A validator that offended.
#[derive(Clone, Debug)]
struct Member {
    validator: ValidatorIndex,
    pubkey: PubkeyBytes,
    labels: Vec<String>,
    offences: [u64; 3],
    /// Slot of the message of its first offence.
    slot: Slot,
    seen: Time,
    punishable: Option<Punishable>,
    included: Option<Slot>,
    /// The proof of its first offence.
    proof: Option<Root>,
}

/// One piece of evidence.
#[derive(Clone, Debug)]
struct ReportProof {
    id: Root,
    kind: &'static str,
    accuses: u64,
    /// As JSON. `None` beyond [`MAX_PROOF_BYTES`].
    json: Option<String>,
}

impl Report {
    /// Collects what a data directory has about a time. Without limits it collects everything.
    pub fn gather(data_dir: &Path, from: Option<TimeLimit>, to: Option<TimeLimit>) -> Result<Self, WatcherError> {
        Self::gather_newest(MAX_FINDINGS, data_dir, from, to)
    }

    fn gather_newest(
        max_findings: usize,
        data_dir: &Path,
        from: Option<TimeLimit>,
        to: Option<TimeLimit>,
    ) -> Result<Self, WatcherError> {
        let network = datadir::read_network(data_dir)?.ok_or_else(|| DataDirError::NotOne(data_dir.into()))?;
        let store = Store::open_read_only(&data_dir.join("evidence"))?;
        let first = from.map(|moment| moment.slot(&network));
        let last = to.map(|moment| moment.slot(&network));
        let within = |slot: Slot| first.is_none_or(|first| first <= slot) && last.is_none_or(|last| slot <= last);
        let mut findings = VecDeque::new();
        let mut findings_left_out = 0;
        for row in store.all_findings() {
            let (_, finding) = row?;
            if within(known_in(&finding, &network)) {
                findings.push_back(finding);
                if findings.len() > max_findings {
                    findings.pop_front();
                    findings_left_out += 1;
                }
            }
        }
        let mut incidents = store.all_incidents()?;
        incidents
            .retain(|one| first.is_none_or(|first| first <= one.last_slot) && last.is_none_or(|last| one.first_slot <= last));
        let mut report = Self {
            from: Slot::new(0),
            to: Slot::new(0),
            incidents,
            by_epoch: BTreeMap::new(),
            joined: BTreeMap::new(),
            members: Vec::new(),
            anomalies: Vec::new(),
            proofs: Vec::new(),
            switches: Vec::new(),
            findings_left_out,
            network,
        };
        report.count(findings.into());
        report.read_switches(&store, &within)?;
        report.read_proofs(&store)?;
        let slots = report.members.iter().map(|member| report.network.slot_at(member.seen.as_unix_ns()));
        let anomalies = report.anomalies.iter().map(|finding| finding.slot);
        let incidents = report.incidents.iter().flat_map(|one| [one.first_slot, one.last_slot]);
        let slots: BTreeSet<Slot> = slots.chain(anomalies).chain(incidents).collect();
        report.from = first.or_else(|| slots.first().copied()).unwrap_or_default();
        report.to = last.or_else(|| slots.last().copied()).unwrap_or_default().max(report.from);
        Ok(report)
    }

    /// Returns the report as text.
    pub fn write(&self, format: ReportFormat) -> String {
        let contents = sections::contents(self);
        match format {
            ReportFormat::Html => html::page(self, &contents),
            ReportFormat::Markdown => markdown::page(self, &contents),
        }
    }

    /// Whether there is neither an incident nor a finding.
    fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.members.is_empty() && self.anomalies.is_empty()
    }

    pub fn n_incidents(&self) -> usize {
        self.incidents.len()
    }

    pub fn n_members(&self) -> usize {
        self.members.len()
    }

    /// Fills everything that is derived from findings.
    fn count(&mut self, mut findings: Vec<Finding>) {
        findings.sort_by_key(|finding| (finding.second_seen.unwrap_or(finding.first_seen), finding.id));
        let mut members: BTreeMap<ValidatorIndex, Member> = BTreeMap::new();
        let mut proofs: BTreeMap<Root, ReportProof> = BTreeMap::new();
        for finding in findings {
            let (Some(offence), Some(subject)) = (finding.offence(), finding.validator.clone()) else {
                self.anomalies.push(finding);
                continue;
            };
            let epoch = known_in(&finding, &self.network).epoch(self.network.preset());
            let kind = match offence {
                Offence::DoubleVote => 0,
                Offence::SurroundVote => 1,
                Offence::DoubleProposal => 2,
            };
            self.by_epoch.entry(epoch).or_default()[kind] += 1;
            let member = members.entry(subject.index).or_insert_with(|| {
                *self.joined.entry(epoch).or_default() += 1;
                Member {
                    validator: subject.index,
                    pubkey: subject.pubkey,
                    labels: subject.labels.clone(),
                    offences: [0; 3],
                    slot: finding.slot,
                    seen: finding.second_seen.unwrap_or(finding.first_seen),
                    punishable: finding.punishable,
                    included: None,
                    proof: finding.evidence.as_ref().map(|reference| reference.id),
                }
            });
            member.offences[kind] += 1;
            member.included = member.included.or(finding.included.map(|included| included.slot));
            if let Some(reference) = &finding.evidence {
                let new = ReportProof { id: reference.id, kind: reference.kind.as_str(), accuses: 0, json: None };
                proofs.entry(reference.id).or_insert(new).accuses += 1;
            }
        }
        self.members = members.into_values().collect();
        self.members.sort_by_key(|member| (member.seen, member.validator));
        self.proofs = proofs.into_values().collect();
        self.proofs.sort_by_key(|proof| (std::cmp::Reverse(proof.accuses), proof.id));
    }

    /// Reads what became of the kill switches that fired in this time. Orders before the last two
    /// of a group are not recorded.
    fn read_switches(&mut self, store: &Store, within: &dyn Fn(Slot) -> bool) -> Result<(), WatcherError> {
        let state = KillSwitchState::read(store)?;
        let groups: BTreeSet<&String> = state.fired.keys().chain(state.earlier.keys()).collect();
        for group in groups {
            let switch = kill_switch_view(&state, group);
            if switch.orders().iter().any(|order| within(self.network.slot_at(order.ordered_at.as_unix_ns()))) {
                self.switches.extend(switch.story(group));
            }
        }
        Ok(())
    }

    /// Reads the proofs that have a row, as far as there is room for them.
    fn read_proofs(&mut self, store: &Store) -> Result<(), WatcherError> {
        let mut room = MAX_PROOF_BYTES;
        for proof in self.proofs.iter_mut().take(MAX_ROWS) {
            let Some(evidence) = store.evidence(proof.id)? else { continue };
            let json = evidence.json.to_string();
            if json.len() <= room {
                room -= json.len();
                proof.json = Some(json);
            }
        }
        Ok(())
    }

    /// The moment to which times are relative: the first contradiction, or else the beginning of
    /// the first incident, or else the first anomaly.
    fn onset(&self) -> Option<Time> {
        let first_incident = || self.incidents.iter().map(|one| self.at(one.first_slot)).min();
        let first_anomaly = || self.anomalies.iter().map(|finding| finding.first_seen).min();
        self.members.first().map(|member| member.seen).or_else(first_incident).or_else(first_anomaly)
    }

    /// A time as it lies before or after the onset.
    fn after_onset(&self, at: Time) -> String {
        self.onset().map_or_else(String::new, |onset| after(onset, at))
    }

    /// Returns the events with their time, oldest first.
    fn timeline(&self) -> Vec<(Time, String)> {
        let mut events = Vec::new();
        for incident in &self.incidents {
            let begins = Time::from_unix_ns(self.network.slot_start_ns(incident.first_slot));
            let name = incident.kind.words();
            events.push((begins, format!("{name}: begins, slot {}", incident.first_slot)));
            let late =
                self.network.slot_at(incident.opened_at.as_unix_ns()).as_u64().saturating_sub(incident.first_slot.as_u64());
            events.push((incident.opened_at, format!("{name}: noticed, {} after it began", plural(late, "slot"))));
            if let Some(at) = incident.closed_at {
                events.push((at, format!("{name}: over; last seen in slot {}", incident.last_slot)));
            }
        }
        for (nth, what) in [(1, "first"), (10, "tenth"), (100, "hundredth"), (1000, "thousandth")] {
            if let Some(member) = self.members.get(nth - 1) {
                events
                    .push((member.seen, format!("the {what} validator has signed contradicting messages: {}", member.validator)));
            }
        }
        if let Some(member) = self.members.last().filter(|_| self.members.len() > 1) {
            events.push((member.seen, format!("the last of {} validators: {}", self.members.len(), member.validator)));
        }
        for anomaly in &self.anomalies {
            events.push((anomaly.first_seen, format!("{} in slot {}", anomaly.kind.words(), anomaly.slot)));
        }
        events.sort();
        events
    }

    fn title(&self) -> String {
        match self.incidents.iter().find(|one| one.kind == Kind::SlashingWave) {
            Some(wave) => {
                let n = wave.validators.unwrap_or_default().0;
                format!("Slashing wave on {}: {n} validators", self.network.spec.config_name)
            }
            None => format!("{} on {}", plural(self.incidents.len() as u64, "incident"), self.network.spec.config_name),
        }
    }

    fn at(&self, slot: Slot) -> Time {
        Time::from_unix_ns(self.network.slot_start_ns(slot))
    }

    /// Returns the known facts about an incident in a few sentences.
    fn sentence(&self, incident: &Incident) -> String {
        let mut text = format!(
            "From slot {} ({}) to slot {}; {}.",
            incident.first_slot,
            short(self.at(incident.first_slot)),
            incident.last_slot,
            incident.state.as_str()
        );
        if let Some(n) = incident.validators {
            text.push_str(&format!(" About {} concerned.", plural(n.0, "validator")));
        }
        let n_validators = incident.validators.map(|n| n.0);
        text.extend(detect::sentence(&incident.kind, &incident.details, n_validators).map(|words| format!(" {words}")));
        for one in incident.shared.iter().take(3) {
            text.push_str(&format!(" {} share {} {}.", one.members.0, one.what.replace('_', " "), one.value));
        }
        text
    }
}

/// Returns the slot in which the offence could be known first.
fn known_in(finding: &Finding, network: &Network) -> Slot {
    network.slot_at(finding.second_seen.unwrap_or(finding.first_seen).as_unix_ns())
}

fn plural(n: u64, what: &str) -> String {
    counted(n, what, &format!("{what}s"))
}

/// Formats a time to the second, without the letter T.
fn short(time: Time) -> String {
    let text = time.to_string();
    format!("{} {}", &text[..10], &text[11..19])
}

/// Formats the time from `onset` to `at`, such as `+10 m 37 s` or `-12 s`.
fn after(onset: Time, at: Time) -> String {
    let apart = i128::from(at.as_unix_ns()) - i128::from(onset.as_unix_ns());
    let seconds = apart.unsigned_abs() / 1_000_000_000;
    let sign = if apart < 0 { '-' } else { '+' };
    match seconds {
        0..60 => format!("{sign}{seconds} s"),
        60..3_600 => format!("{sign}{} m {:02} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{sign}{} h {:02} m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{sign}{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Formats an amount in ETH with three decimals.
fn eth(gwei: u64) -> String {
    format!("{}.{:03} ETH", gwei / 1_000_000_000, gwei / 1_000_000 % 1_000)
}

/// Formats the part of 32 ETH that is lost. Two penalties together can ask for more than the
/// balance.
fn of_32_eth(gwei: u64) -> String {
    if gwei >= 32_000_000_000 { "all of it".to_owned() } else { eth(gwei) }
}

fn punishable_text(punishable: Option<Punishable>, included: Option<Slot>) -> String {
    match (included, punishable) {
        (Some(slot), _) => format!("slashed in block of slot {slot}"),
        (None, Some(Punishable::Yes)) => "not yet slashed".into(),
        (None, Some(other)) => {
            serde_json::to_value(other).ok().and_then(|v| v.as_str().map(|s| s.replace('_', " "))).unwrap_or_default()
        }
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::{Anomaly, Severity, anomaly_id};
    use serde_json::Map;

    const N: u64 = MAX_ROWS as u64 + 50;

    fn empty_data_dir() -> (tempfile::TempDir, Store, Network) {
        let dir = tempfile::tempdir().unwrap();
        let genesis_validators_root = Root::repeat_byte(7);
        let network = Network { spec: consensus::Spec::builtin("mainnet").unwrap(), genesis_time: 0, genesis_validators_root };
        let of_dir = datadir::DataDir::open(dir.path()).unwrap();
        of_dir.bind(&network).unwrap();
        let store = Store::open(&of_dir.evidence_path(), genesis_validators_root).unwrap();
        (dir, store, network)
    }

    fn anomaly(network: &Network, slot: u64) -> Finding {
        let at = Time::from_unix_ns(network.slot_start_ns(Slot::new(slot)));
        Finding::anomaly(Anomaly {
            id: anomaly_id(network.genesis_validators_root, &Kind::DeepReorg, &slot.to_le_bytes()),
            severity: Severity::Warning,
            slot: Slot::new(slot),
            first_seen: at,
            recorded_at: at,
            details: Map::new(),
            ..Anomaly::sample(Kind::DeepReorg)
        })
    }

    /// A data directory of mainnet with an anomaly and an incident in each of `N` slots.
    fn data_dir() -> tempfile::TempDir {
        let (dir, store, network) = empty_data_dir();
        let genesis_validators_root = network.genesis_validators_root;
        store.record_anomalies((1..=N).map(|slot| anomaly(&network, slot)).collect(), &[]).unwrap();
        let incident = |slot: u64| Incident {
            id: anomaly_id(genesis_validators_root, &Kind::LateBlocks, &slot.to_le_bytes()),
            first_slot: Slot::new(slot),
            last_slot: Slot::new(slot),
            opened_at: Time::from_unix_ns(network.slot_start_ns(Slot::new(slot))),
            kind: Kind::LateBlocks,
            ..Incident::sample()
        };
        store.put_incidents(&(1..=N).map(incident).collect::<Vec<_>>()).unwrap();
        dir
    }

    #[test]
    fn times_are_told_from_the_onset() {
        let at = |seconds: u64| Time::from_unix_ns(seconds * 1_000_000_000);
        let told = [988, 1_000, 1_059, 1_637, 4_780, 1_000 + 2 * 86_400 + 4 * 3_600].map(|seconds| after(at(1_000), at(seconds)));
        assert_eq!(told, ["-12 s", "+0 s", "+59 s", "+10 m 37 s", "+1 h 03 m", "+2 d 4 h"]);
    }

    #[test]
    fn the_oldest_is_left_out_and_the_report_says_so() {
        let dir = data_dir();
        let report = Report::gather_newest(10, dir.path(), None, None).unwrap();
        for format in [ReportFormat::Html, ReportFormat::Markdown] {
            let text = report.write(format);
            assert!(text.contains(&format!("The {} oldest findings of this time are left out", N - 10)), "{text}");
            assert!(text.contains(&format!("deep reorg in slot {N}")) && text.contains(&format!("deep reorg in slot {}", N - 9)));
            assert!(!text.contains(&format!("deep reorg in slot {}", N - 10)), "not the newest ten");
        }
    }

    #[test]
    fn a_report_about_nothing_names_no_slots_and_one_about_an_anomaly_names_its_slot() {
        let (dir, store, network) = empty_data_dir();
        let text = |dir: &Path| Report::gather(dir, None, None).unwrap().write(ReportFormat::Markdown);
        let empty = text(dir.path());
        assert!(empty.contains("Nothing is recorded.") && !empty.contains("slots 0"), "{empty}");
        store.record_anomalies(vec![anomaly(&network, 77)], &[]).unwrap();
        assert!(text(dir.path()).contains("slots 77 to 77."), "{}", text(dir.path()));
    }

    #[test]
    fn lists_keep_the_newest_and_say_what_is_left_out() {
        let dir = data_dir();
        let report = Report::gather(dir.path(), None, None).unwrap();
        for format in [ReportFormat::Html, ReportFormat::Markdown] {
            let text = report.write(format);
            assert!(text.contains("50 earlier incidents are left out"), "{text}");
            assert!(text.contains(&format!("From slot {N} (")) && !text.contains("From slot 50 ("), "{text}");
            assert!(text.contains(&format!("shows the last {MAX_BARS} incidents; {} earlier", N as usize - MAX_BARS)), "{text}");
            assert!(text.contains("earlier events are left out") && text.contains(&format!("deep reorg in slot {N}")), "{text}");
        }
    }
}
