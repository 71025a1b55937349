//! The report as Markdown: the same facts, charts drawn with characters.

use super::{MAX_ROWS, Report, eth, plural, punishable_text, short};
use std::fmt::Write as _;

const BAR: u64 = 48;

pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "# {}\n\n*Draft of a post-mortem, made by slashwatch from what it saw. Figures and proofs are facts; what is called suspected is not.*\n\n\
         {} UTC to {} UTC, slots {} to {}.\n\n## What\n\n",
        plain(&report.title()),
        short(report.at(report.from)),
        short(report.at(report.to)),
        report.from,
        report.to
    );
    if report.incidents.is_empty() {
        out.push_str("No incident in this time.\n");
    }
    for incident in report.incidents.iter().take(MAX_ROWS) {
        let _ = write!(
            out,
            "- **{}** ({}, {}). {}",
            incident.kind,
            incident.severity,
            incident.state.as_str(),
            plain(&report.sentence(incident))
        );
        if let Some(cause) = incident.details.get("suspected_cause").and_then(|cause| cause.as_str()) {
            let _ = write!(out, " Suspected: {}.", plain(&cause.replace('_', " ")));
            for because in incident.details.get("because").and_then(|list| list.as_array()).into_iter().flatten() {
                let _ = write!(out, " {}.", plain(because.as_str().unwrap_or_default()));
            }
        }
        out.push('\n');
    }
    out.push_str("\n## When\n\n| UTC | What |\n|---|---|\n");
    for event in report.timeline().iter().take(MAX_ROWS) {
        let _ = writeln!(out, "| {} | {} |", short(event.at), plain(&event.text));
    }
    if !report.members.is_empty() {
        out.push_str("\n## How many\n\nContradicting pairs by epoch (D double vote, S surround, P double proposal):\n\n```\n");
        let most = report.by_epoch.values().map(|counts| counts.iter().sum::<u64>()).max().unwrap_or(1).max(1);
        for (epoch, counts) in report.by_epoch.iter().take(MAX_ROWS) {
            let _ = write!(out, "{epoch:>8} {:>6} ", counts.iter().sum::<u64>());
            for (letter, count) in ['D', 'S', 'P'].into_iter().zip(counts) {
                for _ in 0..(count * BAR).div_ceil(most) {
                    out.push(letter);
                }
            }
            out.push('\n');
        }
        out.push_str("```\n");
    }
    let waves: Vec<_> = report.incidents.iter().filter_map(|one| Some((one, one.penalty?))).collect();
    if !waves.is_empty() {
        out.push_str("\n## What it costs\n\n| Wave | At once | Later, for being many | If it doubles | Per 32 ETH, both |\n|---|---|---|---|---|\n");
        for (wave, penalty) in waves {
            let _ = writeln!(
                out,
                "| {} validators from slot {} | {} | {} | {} | {} |",
                wave.validators.unwrap_or_default().0,
                wave.first_slot,
                eth(penalty.initial_gwei.0),
                eth(penalty.correlation_gwei_now.0),
                eth(penalty.correlation_gwei_if_doubled.0),
                eth(penalty.per_32_eth_gwei.0)
            );
        }
    }
    if !report.members.is_empty() {
        let _ = write!(
            out,
            "\n## Who\n\n{}.\n\n| Validator | Key | Labels | First seen, UTC | Slot | Double votes | Surrounds | Double proposals | Punished |\n|---|---|---|---|---|---|---|---|---|\n",
            plural(report.members.len() as u64, "validator")
        );
        for member in report.members.iter().take(MAX_ROWS) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                member.validator,
                member.pubkey,
                plain(&member.labels.join(", ")),
                short(member.seen),
                member.slot,
                member.offences[0],
                member.offences[1],
                member.offences[2],
                punishable_text(member.punishable, member.included)
            );
        }
        let _ = write!(
            out,
            "\n## Evidence\n\n{}.\n\n| Id | Kind | Findings it proves |\n|---|---|---|\n",
            plural(report.proofs.len() as u64, "proof")
        );
        for proof in report.proofs.iter().take(MAX_ROWS) {
            let _ = writeln!(out, "| {} | {} | {} |", proof.id, proof.kind, proof.accuses);
        }
        if report.members.len() > MAX_ROWS || report.proofs.len() > MAX_ROWS {
            let _ = writeln!(out, "\nTables are cut at {MAX_ROWS} rows; the rest is in the data directory.");
        }
    }
    out.push_str(
        "\n## To be written by people\n\n- What was the cause, and how is that known?\n- What was done, when, by whom, and did it help?\n\
         - What would have stopped it sooner?\n- What is changed so that it does not happen again?\n",
    );
    out
}

/// Text from elsewhere must not become markup or break a table.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
