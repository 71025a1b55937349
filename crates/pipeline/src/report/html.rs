//! The report as one HTML page that needs nothing from elsewhere.

use super::{MAX_ROWS, Report, chart, eth, plural, punishable_text, short};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let title = escaped(&report.title());
    let _ = write!(
        out,
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\n<p class='draft'>Draft of a post-mortem, made by slashwatch from what it saw. \
         Figures and proofs are facts; what is called suspected is not.</p>\n<h1>{title}</h1>\n<p>{} UTC to {} UTC, slots {} to {}.</p>\n",
        short(report.at(report.from)),
        short(report.at(report.to)),
        report.from,
        report.to
    );
    if report.is_cut {
        out.push_str(
            "<p class='warning'>There are more findings than a report reads; give a shorter time with --from and --to.</p>\n",
        );
    }
    summary(report, &mut out);
    let _ = write!(
        out,
        "<h2>When</h2>\n<figure>{}<figcaption>The dark mark is when slashwatch noticed.</figcaption></figure>\n",
        chart::incidents(report)
    );
    out.push_str("<table><thead><tr><th>UTC</th><th>What</th></tr></thead><tbody>\n");
    for event in report.timeline().iter().take(MAX_ROWS) {
        let _ = writeln!(out, "<tr><td class='n'>{}</td><td>{}</td></tr>", short(event.at), escaped(&event.text));
    }
    out.push_str("</tbody></table>\n");
    if !report.members.is_empty() {
        let _ = write!(out, "<h2>How many</h2>\n<figure>{}</figure>\n", chart::offences(report));
    }
    penalties(report, &mut out);
    members(report, &mut out);
    proofs(report, &mut out);
    out.push_str(
        "<h2>To be written by people</h2>\n<ul><li>What was the cause, and how is that known?</li><li>What was done, when, by whom, and did it help?</li>\
         <li>What would have stopped it sooner?</li><li>What is changed so that it does not happen again?</li></ul>\n</main></body></html>\n",
    );
    out
}

fn summary(report: &Report, out: &mut String) {
    out.push_str("<h2>What</h2>\n");
    if report.incidents.is_empty() {
        out.push_str("<p>No incident in this time.</p>\n");
    }
    for incident in report.incidents.iter().take(MAX_ROWS) {
        let _ = write!(
            out,
            "<article class='{}'><h3>{} <span>{}</span></h3><p>{}</p>",
            incident.severity.as_str(),
            escaped(&incident.kind.replace('_', " ")),
            incident.state.as_str(),
            escaped(&report.sentence(incident))
        );
        if let Some(cause) = incident.details.get("suspected_cause").and_then(|cause| cause.as_str()) {
            let _ = write!(out, "<p><strong>Suspected: {}.</strong> ", escaped(&cause.replace('_', " ")));
            for because in incident.details.get("because").and_then(|list| list.as_array()).into_iter().flatten() {
                let _ = write!(out, "{}. ", escaped(because.as_str().unwrap_or_default()));
            }
            out.push_str("</p>");
        }
        out.push_str("<details><summary>Details</summary><dl>");
        for (key, value) in &incident.details {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escaped(&key.replace('_', " ")), escaped(&text));
        }
        let _ = writeln!(out, "<dt>id</dt><dd>{}</dd></dl></details></article>", incident.id);
    }
}

fn penalties(report: &Report, out: &mut String) {
    let waves: Vec<_> = report.incidents.iter().filter_map(|one| Some((one, one.penalty?))).collect();
    if waves.is_empty() {
        return;
    }
    out.push_str("<h2>What it costs</h2>\n<table><thead><tr><th>Wave</th><th>At once</th><th>Later, for being many</th><th>If it doubles</th><th>Per 32 ETH, both</th></tr></thead><tbody>\n");
    for (wave, penalty) in waves {
        let _ = writeln!(
            out,
            "<tr><td>{} validators from slot {}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td></tr>",
            wave.validators.unwrap_or_default().0,
            wave.first_slot,
            eth(penalty.initial_gwei.0),
            eth(penalty.correlation_gwei_now.0),
            eth(penalty.correlation_gwei_if_doubled.0),
            eth(penalty.per_32_eth_gwei.0)
        );
    }
    out.push_str("</tbody></table>\n<p>By the specification's integers, for all members together, if all of them are slashed; duties missed until withdrawal come on top.</p>\n");
}

fn members(report: &Report, out: &mut String) {
    if report.members.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<h2>Who</h2>\n<p>{}.</p>\n<table><thead><tr><th>Validator</th><th>Key</th><th>Labels</th><th>First seen, UTC</th><th>Slot of the message</th><th>Double votes</th><th>Surrounds</th><th>Double proposals</th><th>Punished</th></tr></thead><tbody>\n",
        plural(report.members.len() as u64, "validator")
    );
    for member in report.members.iter().take(MAX_ROWS) {
        let key = member.pubkey.to_string();
        let _ = writeln!(
            out,
            "<tr><td class='n'>{}</td><td title='{key}'>{}…</td><td>{}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td><td>{}</td></tr>",
            member.validator,
            &key[..12],
            escaped(&member.labels.join(", ")),
            short(member.seen),
            member.slot,
            member.offences[0],
            member.offences[1],
            member.offences[2],
            escaped(&punishable_text(member.punishable, member.included))
        );
    }
    out.push_str("</tbody></table>\n");
    more(report.members.len(), out);
}

fn proofs(report: &Report, out: &mut String) {
    if report.proofs.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<h2>Evidence</h2>\n<p>{}. Each is accepted as it is by a beacon node's pool; <code>slashwatch inspect --data-dir DIR finding ID</code> prints one, \
         the API serves them at <code>/v1/evidence/ID.json</code>.</p>\n<table><thead><tr><th>Id</th><th>Kind</th><th>Findings it proves</th></tr></thead><tbody>\n",
        plural(report.proofs.len() as u64, "proof")
    );
    for proof in report.proofs.iter().take(MAX_ROWS) {
        let _ = writeln!(
            out,
            "<tr><td><code>{}</code></td><td>{}</td><td class='n'>{}</td></tr>",
            proof.id,
            proof.kind.replace('_', " "),
            proof.accuses
        );
    }
    out.push_str("</tbody></table>\n");
    more(report.proofs.len(), out);
}

fn more(n: usize, out: &mut String) {
    if n > MAX_ROWS {
        let _ = writeln!(out, "<p>And {} more, in the data directory.</p>", n - MAX_ROWS);
    }
}

/// For text and for attributes in either quotes.
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
