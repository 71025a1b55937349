//! Writes the report as Markdown. It has the same facts as the HTML page, except the list of each
//! incident's details. Charts are drawn with characters.

use super::sections::{Cell, ReportBlock, ReportContents, newest};
use super::{MAX_ROWS, Report};
use evidence::Incident;
use std::fmt::Write as _;

/// Length of the longest bar in characters.
const BAR: u64 = 48;

pub(super) fn page(report: &Report, contents: &ReportContents) -> String {
    let head = format!("# {}\n\n*{}*\n\n{}\n", plain(&contents.title), super::DRAFT, contents.when);
    let blocks = contents.blocks.iter().filter_map(|one| block(report, one));
    std::iter::once(head).chain(blocks.map(|block| format!("\n{block}\n"))).collect()
}

/// Returns a block without the lines around it, or `None` if Markdown has no form for it.
fn block(report: &Report, block: &ReportBlock) -> Option<String> {
    Some(match block {
        ReportBlock::Heading(text) => format!("## {text}"),
        ReportBlock::Text(text) => text.clone(),
        ReportBlock::Warning(text) => format!("**{text}**"),
        ReportBlock::Incident { incident, known, suspected } => item(incident, known, suspected.as_ref()),
        // The table that follows shows the same.
        ReportBlock::IncidentChart => return None,
        ReportBlock::OffenceChart => bars(report),
        ReportBlock::Story(sentences) => sentences.iter().map(|one| plain(one)).collect::<Vec<_>>().join("\n\n"),
        ReportBlock::Table { heads, rows } => table(heads, rows),
        ReportBlock::List(items) => items.iter().map(|item| format!("- {item}")).collect::<Vec<_>>().join("\n"),
    })
}

fn item(incident: &Incident, known: &str, suspected: Option<&(String, Vec<String>)>) -> String {
    let mut text = format!("- **{}** ({}). {}", plain(&incident.kind.words()), incident.severity, plain(known));
    if let Some((cause, because)) = suspected {
        let because: String = because.iter().map(|because| format!(" {}.", plain(because))).collect();
        let _ = write!(text, " Suspected: {}.{because}", plain(cause));
    }
    text
}

fn table(heads: &[&str], rows: &[Vec<Cell>]) -> String {
    let rows = rows.iter().map(|row| format!("\n| {} |", row.iter().map(cell).collect::<Vec<_>>().join(" | ")));
    format!("| {} |\n|{}{}", heads.join(" | "), "---|".repeat(heads.len()), rows.collect::<String>())
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) | Cell::Number(text) | Cell::Key(text) => plain(text),
        Cell::ProofLink(id) => id.to_string(),
        Cell::Proof(proof) => proof.id.to_string(),
    }
}

/// Draws the contradictions by epoch, one line for each epoch that has any.
fn bars(report: &Report) -> String {
    let epochs: Vec<_> = report.by_epoch.iter().collect();
    let (epochs, left_out) = newest(&epochs, MAX_ROWS);
    let mut out = "Contradicting pairs by epoch (D double vote, S surround, P double proposal):\n\n".to_owned();
    if left_out > 0 {
        let _ = write!(out, "{left_out} earlier epochs are left out.\n\n");
    }
    out.push_str("```\n");
    let most = report.by_epoch.values().map(|counts| counts.iter().sum::<u64>()).max().unwrap_or(1).max(1);
    for (epoch, counts) in epochs {
        let _ = write!(out, "{epoch:>8} {:>6} ", counts.iter().sum::<u64>());
        for (letter, count) in ["D", "S", "P"].into_iter().zip(*counts) {
            let length = (count * BAR).div_ceil(most);
            out.push_str(&letter.repeat(usize::try_from(length).unwrap_or_default()));
        }
        out.push('\n');
    }
    out + "```"
}

/// Escapes text from elsewhere, so that it cannot become markup or break a table.
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
