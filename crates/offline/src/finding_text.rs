//! A finding for people: what, whose, when, what differs, and what became of it.

use api::{differing_fields, differing_header_fields};
use consensus::{AttestationData, AttesterSlashing, BeaconBlockHeader, ProposerSlashing};
use evidence::{Evidence, EvidenceKind, Finding, Submission};
use std::fmt::Write as _;

/// Labels that are named.
const MAX_LABELS: usize = 16;
/// Characters of a text from elsewhere that are shown.
const MAX_TEXT: usize = 400;

/// The finding in lines of plain text. `data_dir` is written into its commands.
pub fn finding_text(finding: &Finding, proof: Option<&Evidence>, submission: Option<&Submission>, data_dir: &str) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<12}{}", plain(&text));
    };
    line("finding", finding.id.to_string());
    line("what", format!("{}, {}", finding.kind.words(), finding.severity));
    if let Some(subject) = &finding.validator {
        line("whose", format!("validator {}, {}", subject.index, subject.pubkey));
        if !subject.labels.is_empty() {
            let more = subject.labels.len().saturating_sub(MAX_LABELS);
            let labels = subject.labels.iter().take(MAX_LABELS).map(String::as_str).collect::<Vec<_>>().join(", ");
            line("labels", if more > 0 { format!("{labels} and {more} more") } else { labels });
        }
    }
    line("slot", format!("{}, epoch {}, {}", finding.slot, finding.epoch, finding.fork));
    line("first seen", finding.first_seen.to_string());
    if let Some(second) = finding.second_seen {
        let apart = second.since(finding.first_seen).as_millis();
        line("second seen", format!("{second}, {}.{:03} s later", apart / 1000, apart % 1000));
    }
    line("sources", finding.sources.join(", "));
    let details = finding.details.clone().unwrap_or_default();
    if let Some(sentence) = detect::sentence(&finding.kind, &details, None) {
        line("in short", sentence);
    }
    if let Some(punishable) = finding.punishable.and_then(|punishable| serde_json::to_value(punishable).ok()) {
        line("punishable", punishable.as_str().unwrap_or_default().replace('_', " "));
    }
    if finding.evidence.is_some() {
        let included = finding.included.as_ref();
        line(
            "slashed",
            included.map_or_else(|| "not yet, as far as is known".into(), |block| format!("in the block of slot {}", block.slot)),
        );
    }
    if let Some(submission) = submission {
        let answer = submission.answer.as_deref().map_or_else(String::new, |answer| format!(": {answer}"));
        line("submitted", format!("{}, attempt {}{answer}", submission.state.as_str(), submission.attempts));
    }
    match (proof.and_then(compared), proof) {
        (Some(rows), _) => {
            let _ = writeln!(out, "\nthe two messages; * differs");
            for Row { name, values: [one, two], differs } in rows {
                let _ = writeln!(out, "{} {name:<20}{one}", if differs { '*' } else { ' ' });
                if differs {
                    let _ = writeln!(out, "  {:<20}{two}", "");
                }
            }
        }
        (None, Some(_)) => {
            let _ = writeln!(out, "\nthe proof is of a form that is not known here; --json has it");
        }
        (None, None) if !details.is_empty() => {
            let _ = writeln!(out, "\ndetails");
            for (name, value) in &details {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let _ = writeln!(out, "  {:<30}{}", plain(name), plain(&value));
            }
        }
        (None, None) => {}
    }
    if let Some(proof) = proof {
        let _ = writeln!(
            out,
            "\ncheck the proof: slashwatch inspect --data-dir {data_dir} finding {} --json | jq .evidence > proof.json &&\n    \
             slashwatch verify-proof proof.json --network {data_dir}\nproof {} ({})",
            finding.id,
            proof.id,
            proof.kind.as_str()
        );
    }
    out
}

/// A field of the two messages of a proof.
struct Row {
    name: &'static str,
    values: [String; 2],
    differs: bool,
}

/// The fields of the two messages. `None` if the proof cannot be read.
fn compared(proof: &Evidence) -> Option<Vec<Row>> {
    let rows = |fields: Vec<(&'static str, [String; 2])>, differing: &[&str]| {
        fields.into_iter().map(|(name, values)| Row { name, values, differs: differing.contains(&name) }).collect()
    };
    match proof.kind {
        EvidenceKind::AttesterSlashing => {
            let slashing: AttesterSlashing = serde_json::from_value(proof.json.clone()).ok()?;
            let both = [&slashing.attestation_1.data, &slashing.attestation_2.data];
            let field = |of: &dyn Fn(&AttestationData) -> String| both.map(of);
            let fields = vec![
                ("slot", field(&|data| data.slot.to_string())),
                ("index", field(&|data| data.index.to_string())),
                ("beacon_block_root", field(&|data| data.beacon_block_root.to_string())),
                ("source.epoch", field(&|data| data.source.epoch.to_string())),
                ("source.root", field(&|data| data.source.root.to_string())),
                ("target.epoch", field(&|data| data.target.epoch.to_string())),
                ("target.root", field(&|data| data.target.root.to_string())),
            ];
            Some(rows(fields, &differing_fields(both[0], both[1])))
        }
        EvidenceKind::ProposerSlashing => {
            let slashing: ProposerSlashing = serde_json::from_value(proof.json.clone()).ok()?;
            let both = [&slashing.signed_header_1.message, &slashing.signed_header_2.message];
            let field = |of: &dyn Fn(&BeaconBlockHeader) -> String| both.map(of);
            let fields = vec![
                ("slot", field(&|header| header.slot.to_string())),
                ("parent_root", field(&|header| header.parent_root.to_string())),
                ("state_root", field(&|header| header.state_root.to_string())),
                ("body_root", field(&|header| header.body_root.to_string())),
            ];
            Some(rows(fields, &differing_header_fields(both[0], both[1])))
        }
    }
}

/// Text that may come from elsewhere, without what a terminal would obey.
fn plain(text: &str) -> String {
    let shown: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_TEXT).is_some() { format!("{shown}..") } else { shown }
}
