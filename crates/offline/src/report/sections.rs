//! Defines the contents of a report and their order. [`html`](super::html) and
//! [`markdown`](super::markdown) write the same [`ReportContents`].

use super::{MAX_BARS, MAX_ROWS, Member, Report, ReportProof, after, eth, of_32_eth, plural, punishable_text, short};
use consensus::{Root, Slot};
use detect::detectors::slashing_wave::SlashingWaveDetails;
use detect::monitor::Details as _;
use evidence::{Incident, Kind, Punishable};

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
    /// What happened, in sentences. They may name labels and other text from elsewhere.
    Story(Vec<String>),
    Table {
        heads: Vec<&'static str>,
        rows: Vec<Vec<Cell>>,
    },
    List(&'static [&'static str]),
}

/// A cell of a table.
pub(super) enum Cell {
    Text(String),
    /// A number or a time, which must not be broken into lines.
    Number(String),
    /// A public key, of which only a part may be shown.
    Key(String),
    /// The id of a proof that the report has further down.
    ProofLink(Root),
    /// A proof, with its content where there is room for it.
    Proof(ReportProof),
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
    blocks.extend([ReportBlock::Heading("In short"), ReportBlock::Story(story(report))]);
    what(report, &mut blocks);
    when_it_was(report, &mut blocks);
    if !report.members.is_empty() {
        blocks.extend([ReportBlock::Heading("How many"), ReportBlock::OffenceChart]);
    }
    if !report.switches.is_empty() {
        blocks.extend([ReportBlock::Heading("Kill switches"), ReportBlock::Story(report.switches.clone())]);
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

/// What happened, in the order in which somebody asks.
fn story(report: &Report) -> Vec<String> {
    let mut out = Vec::new();
    let onset = report.onset();
    match (report.members.first(), report.members.last()) {
        (Some(first), Some(last)) => {
            let mut text = format!(
                "The first contradiction was complete at {} UTC, in slot {}: validator {} had signed both of two messages of which an honest \
                 signer signs one.",
                short(first.seen),
                report.network.slot_at(first.seen.as_unix_ns()),
                first.validator
            );
            if report.members.len() > 1 {
                let within = after(first.seen, last.seen);
                let n = plural(report.members.len() as u64, "validator");
                text += &format!(" {} later {n} had contradicted themselves.", within.trim_start_matches('+'));
            }
            let sums =
                report.by_epoch.values().fold([0; 3], |sums: [u64; 3], more| [0, 1, 2].map(|kind| sums[kind] + more[kind]));
            let kinds = [(sums[0], "double vote"), (sums[1], "surround vote"), (sums[2], "double proposal")];
            let kinds: Vec<String> = kinds.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| plural(n, what)).collect();
            out.push(format!("{text} They were found guilty of {}.", in_words(&kinds)));
        }
        _ if report.is_empty() => out.push("Nothing happened that this report knows of.".to_owned()),
        _ if report.incidents.is_empty() => out.push(format!(
            "No validator contradicted itself, and there was no incident. The table below has {} of something unusual.",
            plural(report.anomalies.len() as u64, "observation")
        )),
        _ => out.push("No validator contradicted itself in this time.".to_owned()),
    }
    let begins = |incident: &Incident| report.at(incident.first_slot);
    let named = |incidents: &[&Incident]| {
        let all: Vec<String> = incidents
            .iter()
            .take(MAX_BARS)
            .map(|one| format!("{} ({})", one.kind.words(), report.after_onset(begins(one))))
            .collect();
        in_words(&all)
    };
    let others = || report.incidents.iter().filter(|one| one.kind != Kind::SlashingWave);
    let (before, since): (Vec<&Incident>, Vec<&Incident>) =
        others().partition(|one| onset.is_some_and(|onset| begins(one) < onset));
    if !report.members.is_empty() && !before.is_empty() {
        out.push(format!("It did not come without a sign. Before it there was {}.", named(&before)));
    }
    if !since.is_empty() {
        out.push(format!(
            "{} there was {}.",
            if report.members.is_empty() { "From the onset on" } else { "With it and after it" },
            named(&since)
        ));
    }
    for wave in report.incidents.iter().filter(|one| one.kind == Kind::SlashingWave).take(MAX_BARS) {
        let mut text = format!(
            "slashwatch called it a slashing wave {} after the onset.",
            report.after_onset(wave.opened_at).trim_start_matches('+')
        );
        if let Some(details) = SlashingWaveDetails::of_stored(&wave.details) {
            text += &match &*details.suspected_cause {
                "unknown" => " Nothing that was heard tells why.".to_owned(),
                cause => format!(" The suspected cause is {}: {}.", cause.replace('_', " "), reasons(&details).join("; ")),
            };
        }
        out.push(text);
    }
    if !report.members.is_empty() {
        let n = report.members.len();
        let slashed = report.members.iter().filter(|member| member.included.is_some()).count();
        let open = report
            .members
            .iter()
            .filter(|member| member.included.is_none() && member.punishable.is_some_and(Punishable::is_possible))
            .count();
        out.push(format!(
            "Blocks that were heard have slashed {slashed} of the {}; {open} more could be slashed when they were found, and {} could not.",
            plural(n as u64, "validator"),
            n - slashed - open
        ));
    }
    out
}

/// The reasons for a suspected cause. Labels keep their underscores, what they are has words.
fn reasons(wave: &SlashingWaveDetails) -> Vec<String> {
    wave.because.iter().map(|reason| reason.replace("withdrawal_credential", "withdrawal credential")).collect()
}

/// A list in words: `a, b and c`.
fn in_words(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
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
        let suspected = wave.map(|wave| (wave.suspected_cause.replace('_', " "), reasons(&wave)));
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
    let rows = events
        .iter()
        .map(|(at, text)| vec![Cell::Number(report.after_onset(*at)), Cell::Number(short(*at)), Cell::Text(text.clone())]);
    out.push(ReportBlock::Table { heads: vec!["After onset", "UTC", "What"], rows: rows.collect() });
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
    let heads = vec!["Wave", "Initial penalty", "Correlation", "Correlation if it doubles", "Both, for 32 ETH"];
    out.push(ReportBlock::Table { heads, rows: rows.collect() });
    out.push(ReportBlock::Text(
        "Computed with the specification's integers for all members together, if all of them are slashed: the penalty at once, the correlation penalty half way to the withdrawal as it is now and if twice as many are slashed, and both together for a validator with 32 ETH. Penalties for duties that they miss until withdrawal are not included.".into(),
    ));
}

fn members(report: &Report, out: &mut Vec<ReportBlock>) {
    if report.members.is_empty() {
        return;
    }
    out.push(ReportBlock::Heading("Who"));
    out.push(ReportBlock::Text(format!("{}.", plural(report.members.len() as u64, "validator"))));
    let members: Vec<&Member> = report.members.iter().take(MAX_ROWS).collect();
    // Columns that would say nothing make a table wide for nothing.
    let has_labels = members.iter().any(|member| !member.labels.is_empty());
    let kinds = [(0, "Double votes"), (1, "Surrounds"), (2, "Double proposals")];
    let kinds: Vec<_> = kinds.into_iter().filter(|(kind, _)| members.iter().any(|member| member.offences[*kind] > 0)).collect();
    let mut heads = vec!["Validator", "Key"];
    heads.extend(has_labels.then_some("Labels"));
    heads.extend(["After onset", "First seen, UTC", "Slot"]);
    heads.extend(kinds.iter().map(|(_, name)| *name));
    heads.extend(["Punished", "Proof"]);
    let row = |member: &&Member| {
        let mut row = vec![Cell::Number(member.validator.to_string()), Cell::Key(member.pubkey.to_string())];
        row.extend(has_labels.then(|| Cell::Text(member.labels.join(", "))));
        row.extend([report.after_onset(member.seen), short(member.seen), member.slot.to_string()].map(Cell::Number));
        row.extend(kinds.iter().map(|(kind, _)| Cell::Number(member.offences[*kind].to_string())));
        row.push(Cell::Text(punishable_text(member.punishable, member.included)));
        let listed = member.proof.filter(|id| report.proofs.iter().take(MAX_ROWS).any(|proof| proof.id == *id));
        row.push(listed.map_or_else(|| Cell::Text(String::new()), Cell::ProofLink));
        row
    };
    out.push(ReportBlock::Table { heads, rows: members.iter().map(row).collect() });
    more(report.members.len(), out);
}

fn proofs(report: &Report, out: &mut Vec<ReportBlock>) {
    if report.proofs.is_empty() {
        return;
    }
    out.push(ReportBlock::Heading("Evidence"));
    out.push(ReportBlock::Text(format!(
        "{}. Each is in the form that the pool of a beacon node accepts; `slashwatch verify-proof FILE --network NAME` checks one. The API \
         serves them at `/v1/evidence/ID.json`, and `slashwatch inspect --data-dir DIR finding ID` prints one.",
        plural(report.proofs.len() as u64, "proof")
    )));
    let rows = report.proofs.iter().take(MAX_ROWS).map(|proof| {
        vec![Cell::Proof(proof.clone()), Cell::Text(proof.kind.replace('_', " ")), Cell::Number(proof.accuses.to_string())]
    });
    out.push(ReportBlock::Table { heads: vec!["Id", "Kind", "Findings it proves"], rows: rows.collect() });
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
