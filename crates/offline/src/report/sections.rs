//! Defines the contents of a report and their order. [`html`](super::html) and
//! [`markdown`](super::markdown) write the same [`ReportContents`].

use super::{MAX_BARS, MAX_ROWS, Member, Report, eth, of_32_eth, plural, punishable_text, short};
use consensus::Slot;
use detect::detectors::slashing_wave::SlashingWaveDetails;
use detect::monitor::Details as _;
use evidence::{Incident, Kind};

/// A report without a format. Its texts may contain text from the network, so a writer escapes all
/// of them.
pub(super) struct ReportContents<'a> {
    pub title: String,
    /// The time that the report is about.
    pub when: String,
    pub blocks: Vec<ReportBlock<'a>>,
}

pub(super) enum ReportBlock<'a> {
    Heading(&'static str),
    /// Our own text. Code is between backticks.
    Text(String),
    /// Our own text that the reader must see before the rest.
    Warning(String),
    Incident {
        incident: &'a Incident,
        known: String,
        /// The suspected cause, and the reasons for it.
        suspected: Option<(String, Vec<String>)>,
    },
    /// Incidents over time.
    IncidentChart,
    /// Contradictions by epoch.
    OffenceChart,
    Table {
        heads: &'static [&'static str],
        rows: Vec<Vec<Cell>>,
    },
    List(&'static [&'static str]),
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

pub(super) fn contents(report: &Report) -> ReportContents<'_> {
    let when = match report.is_empty() && report.to == Slot::new(0) {
        true => "Nothing is recorded.".to_owned(),
        false => format!(
            "{} UTC to {} UTC, slots {} to {}.",
            short(report.at(report.from)),
            short(report.at(report.to)),
            report.from,
            report.to
        ),
    };
    let mut blocks = Vec::new();
    if report.findings_left_out > 0 {
        blocks.push(ReportBlock::Warning(format!(
            "The {} oldest findings of this time are left out, because a report reads a limited number; give a shorter time with \
             --from and --to.",
            report.findings_left_out
        )));
    }
    what(report, &mut blocks);
    when_it_was(report, &mut blocks);
    if !report.members.is_empty() {
        blocks.extend([ReportBlock::Heading("How many"), ReportBlock::OffenceChart]);
    }
    penalties(report, &mut blocks);
    members(report, &mut blocks);
    proofs(report, &mut blocks);
    blocks.push(ReportBlock::Heading("To be added by the authors"));
    blocks.push(ReportBlock::List(&[
        "What was the cause, and how is that known?",
        "What was done, when, by whom, and did it help?",
        "What would have stopped it sooner?",
        "What is changed so that it does not happen again?",
    ]));
    ReportContents { title: report.title(), when, blocks }
}

fn what<'a>(report: &'a Report, out: &mut Vec<ReportBlock<'a>>) {
    out.push(ReportBlock::Heading("What"));
    if report.incidents.is_empty() {
        out.push(ReportBlock::Text("No incident in this time.".into()));
    }
    let (incidents, left_out) = newest(&report.incidents, MAX_ROWS);
    out.extend(earlier(left_out, "incidents"));
    for incident in incidents {
        let wave = SlashingWaveDetails::of_stored(&incident.details).filter(|_| incident.kind == Kind::SlashingWave);
        let suspected = wave.map(|wave| (wave.suspected_cause.replace('_', " "), wave.because));
        out.push(ReportBlock::Incident { incident, known: report.sentence(incident), suspected });
    }
}

fn when_it_was(report: &Report, out: &mut Vec<ReportBlock>) {
    out.extend([ReportBlock::Heading("When"), ReportBlock::IncidentChart]);
    let not_drawn = report.incidents.len().saturating_sub(MAX_BARS);
    if not_drawn > 0 {
        out.push(ReportBlock::Text(format!(
            "The chart shows the last {MAX_BARS} incidents; {not_drawn} earlier ones are not drawn."
        )));
    }
    let events = report.timeline();
    let (events, left_out) = newest(&events, MAX_ROWS);
    out.extend(earlier(left_out, "events"));
    let rows = events.iter().map(|(at, text)| vec![Cell::Number(short(*at)), Cell::Text(text.clone())]);
    out.push(ReportBlock::Table { heads: &["UTC", "What"], rows: rows.collect() });
}

fn penalties(report: &Report, out: &mut Vec<ReportBlock>) {
    let waves: Vec<_> = report.incidents.iter().filter_map(|one| Some((one, one.penalty?))).collect();
    let (waves, left_out) = newest(&waves, MAX_ROWS);
    if waves.is_empty() {
        return;
    }
    out.push(ReportBlock::Heading("What it costs"));
    out.extend(earlier(left_out, "waves"));
    let rows = waves.iter().map(|(wave, penalty)| {
        let n = plural(wave.validators.unwrap_or_default().0, "validator");
        let sums = [penalty.initial_gwei, penalty.correlation_gwei_now, penalty.correlation_gwei_if_doubled];
        let wave = Cell::Text(format!("{n} from slot {}", wave.first_slot));
        let each = Cell::Number(of_32_eth(penalty.per_32_eth_gwei.0));
        std::iter::once(wave).chain(sums.map(|gwei| Cell::Number(eth(gwei.0)))).chain([each]).collect()
    });
    let heads = &["Wave", "Initial penalty", "Correlation penalty", "If twice as many are slashed", "Both, for 32 ETH"];
    out.push(ReportBlock::Table { heads, rows: rows.collect() });
    out.push(ReportBlock::Text(
        "Computed with the specification's integers for all members together, if all of them are slashed. Penalties for duties that they miss until withdrawal are not included.".into(),
    ));
}

fn members(report: &Report, out: &mut Vec<ReportBlock>) {
    if report.members.is_empty() {
        return;
    }
    out.push(ReportBlock::Heading("Who"));
    out.push(ReportBlock::Text(format!("{}.", plural(report.members.len() as u64, "validator"))));
    let heads = &[
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
    out.push(ReportBlock::Table { heads, rows: report.members.iter().take(MAX_ROWS).map(member).collect() });
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

fn proofs(report: &Report, out: &mut Vec<ReportBlock>) {
    if report.proofs.is_empty() {
        return;
    }
    out.push(ReportBlock::Heading("Evidence"));
    out.push(ReportBlock::Text(format!(
        "{}. Each is in the form that the pool of a beacon node accepts; `slashwatch inspect --data-dir DIR finding ID` prints one, \
         and the API serves them at `/v1/evidence/ID.json`.",
        plural(report.proofs.len() as u64, "proof")
    )));
    let rows = report.proofs.iter().take(MAX_ROWS).map(|proof| {
        vec![Cell::Hash(proof.id.to_string()), Cell::Text(proof.kind.replace('_', " ")), Cell::Number(proof.accuses.to_string())]
    });
    out.push(ReportBlock::Table { heads: &["Id", "Kind", "Findings it proves"], rows: rows.collect() });
    more(report.proofs.len(), out);
}

/// Returns the last `limit` items of a list that is sorted by time, and how many are left out.
pub(super) fn newest<T>(items: &[T], limit: usize) -> (&[T], usize) {
    let left_out = items.len().saturating_sub(limit);
    (&items[left_out..], left_out)
}

/// Returns the text about what is left out at the beginning of a list, if anything is.
fn earlier(left_out: usize, what: &str) -> Option<ReportBlock<'static>> {
    (left_out > 0).then(|| {
        ReportBlock::Text(format!("{left_out} earlier {what} are left out; give a shorter time with `--from` and `--to`."))
    })
}

fn more(n: usize, out: &mut Vec<ReportBlock>) {
    if n > MAX_ROWS {
        out.push(ReportBlock::Text(format!("And {} more, in the data directory.", n - MAX_ROWS)));
    }
}
