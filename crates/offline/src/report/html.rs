//! Writes the report as one HTML page that loads nothing from elsewhere. The templates escape all
//! text.

use super::sections::{Cell, ReportBlock, ReportContents};
use super::{Report, chart};
use evidence::Incident;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");
/// Number of characters of a public key that are shown. The title attribute has all of it.
const KEY_SHOWN: usize = 12;

pub(super) fn page(report: &Report, contents: &ReportContents) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (contents.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    p.draft { (super::DRAFT) }
                    h1 { (contents.title) }
                    p { (contents.when) }
                    @for one in &contents.blocks { (block(report, one)) }
                }
            }
        }
    };
    page.into_string()
}

fn block(report: &Report, block: &ReportBlock) -> Markup {
    match block {
        ReportBlock::Heading(text) => html! { h2 { (text) } },
        ReportBlock::Text(text) => html! { p { (with_code(text)) } },
        ReportBlock::Warning(text) => html! { p.warning { (text) } },
        ReportBlock::Incident { incident, known, suspected } => article(incident, known, suspected.as_ref()),
        ReportBlock::IncidentChart => figure(&chart::incidents(report), "The dark mark is when slashwatch noticed."),
        ReportBlock::OffenceChart => {
            figure(&chart::offences(report), "Contradicting pairs by epoch; the line counts validators.")
        }
        ReportBlock::Table { heads, rows } => html! {
            table {
                thead { tr { @for head in *heads { th { (head) } } } }
                tbody { @for row in rows { tr { @for one in row { (cell(one)) } } } }
            }
        },
        ReportBlock::List(items) => html! { ul { @for item in *items { li { (item) } } } },
    }
}

fn article(incident: &Incident, known: &str, suspected: Option<&(String, Vec<String>)>) -> Markup {
    html! {
        article class=(incident.severity) {
            h3 { (incident.kind.words()) " " span { (incident.state.as_str()) } }
            p { (known) }
            @if let Some((cause, because)) = suspected {
                p {
                    strong { "Suspected: " (cause) "." }
                    @for reason in because { " " (reason) "." }
                }
            }
            details {
                summary { "Details" }
                dl {
                    @for (key, value) in &incident.details {
                        dt { (key.replace('_', " ")) }
                        dd { @if let Some(text) = value.as_str() { (text) } @else { (value) } }
                    }
                    dt { "id" }
                    dd { (incident.id) }
                }
            }
        }
    }
}

fn figure(chart: &Markup, caption: &str) -> Markup {
    html! { figure { (chart) figcaption { (caption) } } }
}

fn cell(cell: &Cell) -> Markup {
    html! {
        @match cell {
            Cell::Text(text) => td { (text) },
            Cell::Number(text) => td.n { (text) },
            Cell::Hash(text) => td { code { (text) } },
            Cell::Key(text) => td title=(text) { (text.chars().take(KEY_SHOWN).collect::<String>()) "…" },
        }
    }
}

/// Marks what is between backticks as code.
fn with_code(text: &str) -> Markup {
    html! {
        @for (nth, part) in text.split('`').enumerate() {
            @if nth % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}
