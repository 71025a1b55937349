//! Writes the report as Markdown. It has the same facts as the HTML page, except the list of each
//! incident's details. Charts are drawn with characters.

use super::sections::{Cell, Chart, ReportWriter, Story};
use super::{MAX_ROWS, Report};
use evidence::Incident;
use std::fmt::Write as _;

/// Length of the longest bar in characters.
const BAR: u64 = 48;

#[derive(Default)]
pub(super) struct Markdown(String);

impl Markdown {
    pub fn end(self) -> String {
        self.0
    }

    /// Writes a block with an empty line before it.
    fn block(&mut self, text: &str) {
        self.0.push('\n');
        self.0.push_str(text);
        self.0.push('\n');
    }
}

impl ReportWriter for Markdown {
    fn begin(&mut self, title: &str, when: &str) {
        let _ = writeln!(
            self.0,
            "# {}\n\n*Draft of a post-mortem, made by slashwatch from what it saw. Figures and proofs are facts; what is called suspected \
             is not.*\n\n{when}",
            plain(title)
        );
    }

    fn heading(&mut self, text: &'static str) {
        self.block(&format!("## {text}"));
    }

    fn text(&mut self, text: &str) {
        self.block(text);
    }

    fn warning(&mut self, text: &'static str) {
        self.block(&format!("**{text}**"));
    }

    fn incident(&mut self, incident: &Incident, story: &Story) {
        let mut text = format!("- **{}** ({}). {}", plain(&incident.kind.words()), incident.severity, plain(&story.known));
        if let Some((cause, because)) = &story.suspected {
            let because: String = because.iter().map(|because| format!(" {}.", plain(because))).collect();
            let _ = write!(text, " Suspected: {}.{because}", plain(cause));
        }
        self.block(&text);
    }

    fn chart(&mut self, chart: Chart, report: &Report) {
        match chart {
            // The table that follows shows the same.
            Chart::Incidents => {}
            Chart::Offences => {
                self.block("Contradicting pairs by epoch (D double vote, S surround, P double proposal):");
                self.block(&format!("```\n{}```", bars(report)));
            }
        }
    }

    fn table(&mut self, heads: &[&'static str], rows: &mut dyn Iterator<Item = Vec<Cell>>) {
        self.block(&format!("| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len())));
        for row in rows {
            let cells: Vec<String> = row.iter().map(cell).collect();
            let _ = writeln!(self.0, "| {} |", cells.join(" | "));
        }
    }

    fn list(&mut self, items: &[&'static str]) {
        let items: Vec<String> = items.iter().map(|item| format!("- {item}")).collect();
        self.block(&items.join("\n"));
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) | Cell::Number(text) | Cell::Hash(text) | Cell::Key(text) => plain(text),
    }
}

fn bars(report: &Report) -> String {
    let mut out = String::new();
    let most = report.by_epoch.values().map(|counts| counts.iter().sum::<u64>()).max().unwrap_or(1).max(1);
    for (epoch, counts) in report.by_epoch.iter().take(MAX_ROWS) {
        let _ = write!(out, "{epoch:>8} {:>6} ", counts.iter().sum::<u64>());
        for (letter, count) in ["D", "S", "P"].into_iter().zip(counts) {
            let length = (count * BAR).div_ceil(most);
            out.push_str(&letter.repeat(usize::try_from(length).unwrap_or_default()));
        }
        out.push('\n');
    }
    out
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
