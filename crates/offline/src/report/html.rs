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
        ReportBlock::Story(sentences) => html! { div.story { @for one in sentences { p { (capital(one)) } } } },
        // On a narrow screen each row becomes a list with the heads as names.
        ReportBlock::Table { heads, rows } => html! {
            table {
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { @for row in rows { tr { @for (head, one) in heads.iter().zip(row) { (cell(head, one)) } } } }
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
                    @for reason in because { " " (capital(reason)) "." }
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
    // On a phone it scrolls, so the keyboard has to reach it.
    html! { figure tabindex="0" { (chart) figcaption { (caption) } } }
}

fn cell(head: &str, cell: &Cell) -> Markup {
    html! {
        @match cell {
            Cell::Text(text) => td data-head=(head) { (text) },
            Cell::Number(text) => td.n data-head=(head) { (text) },
            Cell::Key(text) => td data-head=(head) title=(text) { (shortened(text)) },
            Cell::ProofLink(id) => td data-head=(head) { a href={ "#proof-" (id) } { (shortened(&id.to_string())) } },
            Cell::Proof(proof) => td data-head=(head) id={ "proof-" (proof.id) } {
                code.id { (proof.id) }
                @if let Some(json) = &proof.json {
                    " "
                    a download={ (proof.id) ".json" } href={ "data:application/json," (percent_encoded(json)) } { "download" }
                } @else {
                    " in the data directory"
                }
            },
        }
    }
}

fn shortened(text: &str) -> String {
    format!("{}…", text.chars().take(KEY_SHOWN).collect::<String>())
}

/// A text with a capital letter at its beginning.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A text as a part of an address (RFC 3986): letters and digits stay, also those signs of JSON
/// that an address may have.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b',' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Marks what is between backticks as code.
fn with_code(text: &str) -> Markup {
    html! {
        @for (nth, part) in text.split('`').enumerate() {
            @if nth % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}
