//! Defines the contents of a report and their order. A [`ReportWriter`] writes them as HTML or
//! Markdown.

use super::{MAX_ROWS, Member, Report, eth, of_32_eth, plural, punishable_text, short};
use detect::detectors::slashing_wave::SlashingWaveDetails;
use detect::monitor::Details as _;
use evidence::{Incident, Kind};

/// Writes the parts of a report in order. Arguments that are not `'static` may contain text from
/// the network, and the writer escapes them. The exceptions are `when` and [`ReportWriter::text`],
/// which only get our own text.
pub(super) trait ReportWriter {
    /// Writes the title and the time that the report is about.
    fn begin(&mut self, title: &str, when: &str);
    fn heading(&mut self, text: &'static str);
    /// Writes our own text. Code is between backticks.
    fn text(&mut self, text: &str);
    /// Writes our own text that the reader must see before the rest.
    fn warning(&mut self, text: &'static str);
    fn incident(&mut self, incident: &Incident, story: &Story);
    fn chart(&mut self, chart: Chart, report: &Report);
    fn table(&mut self, heads: &[&'static str], rows: &mut dyn Iterator<Item = Vec<Cell>>);
    fn list(&mut self, items: &[&'static str]);
}

/// The description of an incident.
pub(super) struct Story {
    pub known: String,
    /// The suspected cause, and the reasons for it.
    pub suspected: Option<(String, Vec<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chart {
    /// Incidents over time.
    Incidents,
    /// Contradictions by epoch.
    Offences,
}

/// A cell of a table.
pub(super) enum Cell {
    Text(String),
    /// A number or a time, which must not be broken into lines.
    Number(String),
    /// A hash.
    Hash(String),
    /// A public key, of which only a part may be shown.
    Key(String),
}

pub(super) fn write(report: &Report, out: &mut dyn ReportWriter) {
    let when = format!(
        "{} UTC to {} UTC, slots {} to {}.",
        short(report.at(report.from)),
        short(report.at(report.to)),
        report.from,
        report.to
    );
    out.begin(&report.title(), &when);
    if report.is_cut {
        out.warning("There are more findings than a report reads; give a shorter time with --from and --to.");
    }
    what(report, out);
    when_it_was(report, out);
    if !report.members.is_empty() {
        out.heading("How many");
        out.chart(Chart::Offences, report);
    }
    penalties(report, out);
    members(report, out);
    proofs(report, out);
    out.heading("To be written by people");
    out.list(&[
        "What was the cause, and how is that known?",
        "What was done, when, by whom, and did it help?",
        "What would have stopped it sooner?",
        "What is changed so that it does not happen again?",
    ]);
}

fn what(report: &Report, out: &mut dyn ReportWriter) {
    out.heading("What");
    if report.incidents.is_empty() {
        out.text("No incident in this time.");
    }
    for incident in report.incidents.iter().take(MAX_ROWS) {
        let wave = SlashingWaveDetails::of_stored(&incident.details).filter(|_| incident.kind == Kind::SlashingWave);
        let suspected = wave.map(|wave| (wave.suspected_cause.replace('_', " "), wave.because));
        out.incident(incident, &Story { known: report.sentence(incident), suspected });
    }
}

fn when_it_was(report: &Report, out: &mut dyn ReportWriter) {
    out.heading("When");
    out.chart(Chart::Incidents, report);
    let events = report.timeline();
    let mut rows = events.into_iter().take(MAX_ROWS).map(|event| vec![Cell::Number(short(event.at)), Cell::Text(event.text)]);
    out.table(&["UTC", "What"], &mut rows);
}

fn penalties(report: &Report, out: &mut dyn ReportWriter) {
    let waves: Vec<_> = report.incidents.iter().filter_map(|one| Some((one, one.penalty?))).collect();
    if waves.is_empty() {
        return;
    }
    out.heading("What it costs");
    let mut rows = waves.into_iter().map(|(wave, penalty)| {
        let n = plural(wave.validators.unwrap_or_default().0, "validator");
        let sums = [penalty.initial_gwei, penalty.correlation_gwei_now, penalty.correlation_gwei_if_doubled];
        let wave = Cell::Text(format!("{n} from slot {}", wave.first_slot));
        let each = Cell::Number(of_32_eth(penalty.per_32_eth_gwei.0));
        std::iter::once(wave).chain(sums.map(|gwei| Cell::Number(eth(gwei.0)))).chain([each]).collect()
    });
    out.table(&["Wave", "At once", "Later, for being many", "If it doubles", "Per 32 ETH, both"], &mut rows);
    out.text("By the specification's integers, for all members together, if all of them are slashed; duties missed until withdrawal come on top.");
}

fn members(report: &Report, out: &mut dyn ReportWriter) {
    if report.members.is_empty() {
        return;
    }
    out.heading("Who");
    out.text(&format!("{}.", plural(report.members.len() as u64, "validator")));
    let heads = [
        "Validator",
        "Key",
        "Labels",
        "First seen, UTC",
        "Slot of the message",
        "Double votes",
        "Surrounds",
        "Double proposals",
        "Punished",
    ];
    out.table(&heads, &mut report.members.iter().take(MAX_ROWS).map(member));
    more(report.members.len(), out);
}

fn member(member: &Member) -> Vec<Cell> {
    let [double_votes, surrounds, double_proposals] = member.offences.map(|n| Cell::Number(n.to_string()));
    vec![
        Cell::Number(member.validator.to_string()),
        Cell::Key(member.pubkey.to_string()),
        Cell::Text(member.labels.join(", ")),
        Cell::Number(short(member.seen)),
        Cell::Number(member.slot.to_string()),
        double_votes,
        surrounds,
        double_proposals,
        Cell::Text(punishable_text(member.punishable, member.included)),
    ]
}

fn proofs(report: &Report, out: &mut dyn ReportWriter) {
    if report.proofs.is_empty() {
        return;
    }
    out.heading("Evidence");
    out.text(&format!(
        "{}. Each is accepted as it is by a beacon node's pool; `slashwatch inspect --data-dir DIR finding ID` prints one, \
         the API serves them at `/v1/evidence/ID.json`.",
        plural(report.proofs.len() as u64, "proof")
    ));
    let mut rows = report.proofs.iter().take(MAX_ROWS).map(|proof| {
        vec![Cell::Hash(proof.id.to_string()), Cell::Text(proof.kind.replace('_', " ")), Cell::Number(proof.accuses.to_string())]
    });
    out.table(&["Id", "Kind", "Findings it proves"], &mut rows);
    more(report.proofs.len(), out);
}

fn more(n: usize, out: &mut dyn ReportWriter) {
    if n > MAX_ROWS {
        out.text(&format!("And {} more, in the data directory.", n - MAX_ROWS));
    }
}
