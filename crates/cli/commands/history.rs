//! `slashwatch export interchange`, `slashwatch audit` and `slashwatch preflight`: write and check
//! EIP-3076 files.

use super::progress;
use crate::args::RecordArgs;
use crate::exit::FAILED;
use crate::output;
use consensus::interchange::{SignedEpochs, SignedSlot, SigningHistory};
use detect::audit::{Contradiction, Counted, KeyAudit};
use offline::{ApiClient, counted};
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use watcher::history::{Audit, AuditedKey, Form, History, KnownTimes};
use watcher::preflight::{self, Preflight};

/// Maximum number of messages per key and kind in the text report. `--json` lists more.
const NAMED: usize = 5;
/// Maximum number of keys per kind in the text report.
const MAX_KEYS: usize = 10;

/// Writes the interchange file to stdout, and a summary to stderr.
pub fn export(data_dir: &Path, validators: &str, form: Form) -> anyhow::Result<u8> {
    let history = open(data_dir)?;
    let validators = history.validators(validators)?;
    let bar = progress::bar("votes", "epochs");
    let file = history.export(&validators, form, &mut |walked| progress::show(&bar, walked))?;
    bar.finish_and_clear();
    print_json(&file)?;
    let blocks: usize = file.data.iter().map(|key| key.signed_blocks.len()).sum();
    let votes: usize = file.data.iter().map(|key| key.signed_attestations.len()).sum();
    eprintln!(
        "{}, {}, {}: the messages that were received, which may not be all that were signed",
        counted(file.data.len(), "key", "keys"),
        counted(votes, "attestation", "attestations"),
        counted(blocks, "block", "blocks")
    );
    eprintln!("{}", covered(&history.coverage()?));
    let empty = |key: &&SigningHistory| key.signed_blocks.is_empty() && key.signed_attestations.is_empty();
    let never_received: Vec<String> = file.data.iter().filter(empty).map(|key| key.pubkey.to_string()).collect();
    if !never_received.is_empty() {
        let more = if never_received.len() > NAMED { ", .." } else { "" };
        eprintln!(
            "WARNING: no message of {} was received; an empty entry protects from nothing: {}{more}",
            counted(never_received.len(), "key", "keys"),
            never_received[..never_received.len().min(NAMED)].join(", ")
        );
    }
    Ok(0)
}

/// Compares the file with what was seen. The exit code is 1 if the file lacks something.
pub fn audit(data_dir: &Path, record: &RecordArgs) -> anyhow::Result<u8> {
    let RecordArgs { interchange, validators, pruned_ok, json } = record;
    let history = open(data_dir)?;
    let expected = validators.as_deref().map(|list| history.validators(list)).transpose()?.unwrap_or_default();
    let bar = progress::bar("votes", "epochs");
    let report = history.audit(interchange, &expected, *pruned_ok, &mut |walked| progress::show(&bar, walked))?;
    bar.finish_and_clear();
    match *json {
        true => print_json(&report)?,
        false => output::text(text(&report, validators.is_some()))?,
    }
    Ok(if report.lacks_something() { FAILED } else { 0 })
}

/// Says whether the keys of the file may be started now. The exit code is 1 if not.
pub fn preflight(data_dir: &Path, record: &RecordArgs) -> anyhow::Result<u8> {
    let RecordArgs { interchange, validators, pruned_ok, json } = record;
    let history = open(data_dir)?;
    let expected = validators.as_deref().map(|list| history.validators(list)).transpose()?.unwrap_or_default();
    let bar = progress::bar("votes", "epochs");
    let show = &mut |walked| progress::show(&bar, walked);
    let answer = preflight::preflight(&history, interchange, &expected, *pruned_ok, watcher::run::now(), show)?;
    bar.finish_and_clear();
    print_verdict(&answer, *json)
}

/// The same, by what the API of a running watcher says.
pub fn preflight_by_api(api: &ApiClient, record: &RecordArgs) -> anyhow::Result<u8> {
    let RecordArgs { interchange, validators, pruned_ok, json } = record;
    let bar = progress::bar("keys", "keys");
    let show = &mut |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let now = watcher::run::now();
    let answer = offline::api_preflight::preflight(api, interchange, validators.as_deref(), *pruned_ok, now, show)?;
    bar.finish_and_clear();
    print_verdict(&answer, *json)
}

fn print_verdict(answer: &Preflight, json: bool) -> anyhow::Result<u8> {
    match json {
        true => print_json(answer)?,
        false => output::text(answer.to_text())?,
    }
    Ok(if answer.safe { 0 } else { FAILED })
}

fn open(data_dir: &Path) -> anyhow::Result<History> {
    let opening = progress::spinner("opening the vote index");
    let history = History::open(data_dir)?;
    opening.finish_and_clear();
    Ok(history)
}

/// The verdict comes first, and once more at the end of a report that names keys. `names_keys`
/// is whether the keys that must be in the file are known.
fn text(report: &Audit, names_keys: bool) -> String {
    let verdict = verdict(report).join("\n") + "\n";
    let mut out = verdict.clone();
    let totals = &report.totals;
    let _ = writeln!(
        out,
        "{} on {}: {}, {} and {} seen and not in the file, {} against the file, {} against each other",
        counted(totals.keys, "key", "keys"),
        report.network,
        counted(totals.agreeing, "message agrees", "messages agree"),
        counted(totals.absent_votes, "vote", "votes"),
        counted(totals.absent_blocks, "block", "blocks"),
        totals.contradictions,
        totals.slashable
    );
    let _ = writeln!(
        out,
        "seen before the file's record begins: {}; in the file and never seen: {}, {}",
        counted(totals.before_record, "message", "messages"),
        counted(totals.unheard_votes, "vote", "votes"),
        counted(totals.unheard_blocks, "block", "blocks")
    );
    let _ = writeln!(out, "{}", covered(&report.coverage));
    if totals.keys_never_heard > 0 {
        let _ = writeln!(
            out,
            "no message of {} was received, so nothing can be said about that",
            counted(totals.keys_never_heard, "key", "keys")
        );
    }
    let key_lines = key_lines(report);
    let has_keys = key_lines.iter().any(|(_, lines)| !lines.is_empty());
    for (what, lines) in key_lines {
        for line in lines.iter().take(MAX_KEYS) {
            let _ = writeln!(out, "{line}");
        }
        if let Some(more) = lines.len().checked_sub(MAX_KEYS).filter(|more| *more > 0) {
            let _ = writeln!(out, "{}: {what}; all of them: --json", counted(more as u64, "more key", "more keys"));
        }
    }
    if !names_keys {
        out.push_str(
            "only keys in the file were compared: a file that has lost keys passes; name all of yours with --validators\n",
        );
    }
    if has_keys {
        out.push('\n');
        out.push_str(&verdict);
    }
    out
}

/// What the owner of the keys must know, the worst first.
fn verdict(report: &Audit) -> Vec<String> {
    let totals = &report.totals;
    let n_in_file = totals.keys - totals.keys_not_in_file;
    let mut lines = Vec::new();
    if n_in_file == 0 {
        lines.push(format!(
            "the file has NO KEY that is known on {}, so it protects nothing. Do not start a validator client with it",
            report.network
        ));
    } else if report.lacks_something() {
        lines.push(format!(
            "the file LACKS something for {}: somebody else may be signing, or the record was lost. Do not start a validator \
             client with this file; find the second signer, then complete it with `slashwatch export interchange --minimal`",
            counted(totals.keys_lacking, "key", "keys")
        ));
    }
    if totals.keys_not_in_file > 0 {
        let seen = |key: &&AuditedKey| !key.in_file && key.audit.lacks_something(false);
        let seen: Vec<String> = report.validators.iter().filter(seen).map(|key| key.index.to_string()).collect();
        let more = if seen.len() > NAMED { ", .." } else { "" };
        lines.push(format!(
            "{} NOT IN THE FILE, and {} seen signing{}{}{more}",
            counted(totals.keys_not_in_file, "key of --validators is", "keys of --validators are"),
            counted(seen.len(), "of them was", "of them were"),
            if seen.is_empty() { "" } else { ": " },
            seen[..seen.len().min(NAMED)].join(", ")
        ));
    }
    if totals.keys_behind > 0 {
        lines.push(format!(
            "for {} the file ENDS BEFORE the last message that was seen",
            counted(totals.keys_behind, "key", "keys")
        ));
    }
    if totals.before_record > 0 {
        lines.push(format!(
            "{} older than the file's record: it was pruned, or lost and made anew. If you do not know which, do not start; \
             if your client prunes, --pruned-ok says so",
            counted(totals.before_record, "message is", "messages are")
        ));
    }
    if totals.keys_slashable > 0 {
        lines.push(format!(
            "{} of these keys CAN BE SLASHED whatever the file says, because of messages that contradict each other: do not start those",
            totals.keys_slashable
        ));
    }
    if !report.lacks_something() {
        lines.push(match totals.keys == totals.keys_never_heard {
            true => "nothing was seen of these keys, so nothing was compared".into(),
            false => "the file contains everything that was seen in these epochs; nothing is known about other times".into(),
        });
    }
    lines
}

/// Describes the epochs of which votes are known, and the times in which no watcher ran.
fn covered(coverage: &KnownTimes) -> String {
    let mut out = match &coverage.epochs {
        Some(epochs) => format!("what is known: votes of epochs {} to {}", epochs.first, epochs.last),
        None => "what is known: no votes".into(),
    };
    if !coverage.gaps.is_empty() {
        let named = coverage.gaps.iter().rev().take(NAMED).map(|gap| format!("{}-{}", gap.from_slot, gap.to_slot));
        let more = if coverage.gaps.len() > NAMED { ", and earlier ones" } else { "" };
        let named = named.collect::<Vec<_>>().join(", ");
        let _ = write!(out, "; no watcher ran in slots {named}{more}, so of these only votes in later blocks are known");
    }
    out
}

/// What is said of single keys, the worst first: what it is, and a line for each key.
fn key_lines(report: &Audit) -> [(&'static str, Vec<String>); 6] {
    let lines = |what: &'static str, of: &dyn Fn(&KeyAudit) -> (u64, Vec<String>)| {
        let line = |key: &AuditedKey| {
            let (count, listed) = of(&key.audit);
            let more = if count > listed.len() as u64 { ", .." } else { "" };
            let name = format!("validator {} ({})", key.index, short(&key.pubkey.to_string()));
            (count > 0).then(|| format!("{name}: {count} {what}: {}{more}", listed.join(", ")))
        };
        (what, report.validators.iter().filter_map(line).collect())
    };
    let unknown = report.unknown_keys.iter().map(|key| format!("key {key}: not a known validator of this network"));
    [
        lines("seen that contradict each other", &|key| (key.slashable.count, first(&key.slashable, contradiction))),
        lines("seen that contradict the file", &|key| (key.contradictions.count, first(&key.contradictions, contradiction))),
        lines("votes seen, not in the file", &|key| (key.absent_votes.count, first(&key.absent_votes, vote))),
        lines("blocks seen, not in the file", &|key| (key.absent_blocks.count, first(&key.absent_blocks, block))),
        lines("stretches without a vote", &|key| {
            (key.gaps.count, first(&key.gaps, |gap| format!("epochs {}-{}", gap.first, gap.last)))
        }),
        ("not a known validator of this network", unknown.collect()),
    ]
}

/// The ends of a public key; `--json` has all of it.
fn short(pubkey: &str) -> String {
    match (pubkey.get(..6), pubkey.get(pubkey.len().saturating_sub(4)..)) {
        (Some(first), Some(last)) => format!("{first}..{last}"),
        _ => pubkey.to_owned(),
    }
}

fn first<T>(list: &Counted<T>, show: impl Fn(&T) -> String) -> Vec<String> {
    list.listed.iter().take(NAMED).map(show).collect()
}

fn vote(vote: &SignedEpochs) -> String {
    format!("{}->{}", vote.source_epoch, vote.target_epoch)
}

fn block(block: &SignedSlot) -> String {
    format!("slot {}", block.slot)
}

fn contradiction(pair: &Contradiction) -> String {
    match pair {
        Contradiction::DoubleVote { seen, other } => format!("{} against {} (double vote)", vote(seen), vote(other)),
        Contradiction::SurroundVote { seen, other } => format!("{} against {} (surround vote)", vote(seen), vote(other)),
        Contradiction::DoubleProposal { seen, .. } => format!("{} twice (double proposal)", block(seen)),
    }
}

/// Writes the JSON in pieces, because a complete file has gigabytes.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = BufWriter::new(output::stdout());
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
