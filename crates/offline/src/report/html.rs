//! Writes the report as one HTML page that loads nothing from elsewhere.

use super::sections::{Cell, Chart, ReportWriter, Story};
use super::{Report, chart};
use evidence::Incident;
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");
/// Number of characters of a public key that are shown. The title attribute has all of it.
const KEY_SHOWN: usize = 12;

#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    pub fn end(mut self) -> String {
        self.0.push_str("</main></body></html>\n");
        self.0
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

impl ReportWriter for Html {
    fn begin(&mut self, title: &str, when: &str) {
        let title = escaped(title);
        self.line(&format!(
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>\
             <title>{title}</title><style>{STYLE}</style></head><body><main>\n<p class='draft'>Draft of a post-mortem, made by slashwatch from what it \
             saw. Figures and proofs are facts; what is called suspected is not.</p>\n<h1>{title}</h1>\n<p>{when}</p>"
        ));
    }

    fn heading(&mut self, text: &'static str) {
        self.line(&format!("<h2>{text}</h2>"));
    }

    fn text(&mut self, text: &str) {
        let mut parts = text.split('`');
        let mut out = escaped(parts.next().unwrap_or_default());
        for (part, tag) in parts.zip(["<code>", "</code>"].into_iter().cycle()) {
            out.push_str(tag);
            out.push_str(&escaped(part));
        }
        self.line(&format!("<p>{out}</p>"));
    }

    fn warning(&mut self, text: &'static str) {
        self.line(&format!("<p class='warning'>{text}</p>"));
    }

    fn incident(&mut self, incident: &Incident, story: &Story) {
        let mut out = format!(
            "<article class='{}'><h3>{} <span>{}</span></h3><p>{}</p>",
            incident.severity.as_str(),
            escaped(&incident.kind.words()),
            incident.state.as_str(),
            escaped(&story.known)
        );
        if let Some((cause, because)) = &story.suspected {
            let because: String = because.iter().map(|because| format!(" {}.", escaped(because))).collect();
            let _ = write!(out, "<p><strong>Suspected: {}.</strong>{because}</p>", escaped(cause));
        }
        out.push_str("<details><summary>Details</summary><dl>");
        for (key, value) in &incident.details {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escaped(&key.replace('_', " ")), escaped(&text));
        }
        let _ = write!(out, "<dt>id</dt><dd>{}</dd></dl></details></article>", incident.id);
        self.line(&out);
    }

    fn chart(&mut self, chart: Chart, report: &Report) {
        let (svg, caption) = match chart {
            Chart::Incidents => (chart::incidents(report), "The dark mark is when slashwatch noticed."),
            Chart::Offences => (chart::offences(report), "Contradicting pairs by epoch; the line counts validators."),
        };
        self.line(&format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>"));
    }

    fn table(&mut self, heads: &[&'static str], rows: &mut dyn Iterator<Item = Vec<Cell>>) {
        let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
        self.line(&format!("<table><thead><tr>{heads}</tr></thead><tbody>"));
        for row in rows {
            let cells: String = row.iter().map(cell).collect();
            self.line(&format!("<tr>{cells}</tr>"));
        }
        self.line("</tbody></table>");
    }

    fn list(&mut self, items: &[&'static str]) {
        let items: String = items.iter().map(|item| format!("<li>{item}</li>")).collect();
        self.line(&format!("<ul>{items}</ul>"));
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => format!("<td>{}</td>", escaped(text)),
        Cell::Number(text) => format!("<td class='n'>{}</td>", escaped(text)),
        Cell::Hash(text) => format!("<td><code>{}</code></td>", escaped(text)),
        Cell::Key(text) => {
            let shown: String = text.chars().take(KEY_SHOWN).collect();
            format!("<td title='{}'>{}…</td>", escaped(text), escaped(&shown))
        }
    }
}

/// Escapes text for use in elements, and in attributes with either kind of quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
