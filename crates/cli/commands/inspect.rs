//! `slashwatch inspect`: prints JSON to stdout, and a finding as text for people.

use super::progress;
use crate::exit::{FAILED, UsageError};
use crate::output;
use consensus::ValidatorIndex;
use offline::inspect::Inspection;
use serde_json::json;
use std::path::Path;

/// Maximum number of findings that are listed for one validator.
const MAX_FINDINGS: usize = 1000;

/// Maximum number of incidents that the overview lists.
const MAX_INCIDENTS: usize = 100;

/// Prints what `what` asks for, or an overview. The exit code is 1 if the finding does not exist.
/// `as_text` says whether a finding is printed for people or for programs.
pub fn inspect(data_dir: &Path, what: &[String], as_text: bool) -> anyhow::Result<u8> {
    let words: Vec<&str> = what.iter().map(String::as_str).collect();
    let wanted = match words.as_slice() {
        [] => Wanted::Overview,
        ["validator", index] => Wanted::Validator(parse(index, "a validator index")?),
        ["finding", id] => Wanted::Finding(checked_id(id)?),
        [id] if id.starts_with("0x") => Wanted::Finding(checked_id(id)?),
        _ => return Err(UsageError(format!("cannot inspect {:?}: write `validator N` or `finding ID`", what.join(" "))).into()),
    };
    let opening = progress::spinner("opening the data directory");
    let inspection = Inspection::open(data_dir)?;
    opening.finish_and_clear();
    let shown = match wanted {
        Wanted::Overview => overview(&inspection)?,
        Wanted::Validator(index) => validator(&inspection, index)?,
        Wanted::Finding(id) => {
            let found = inspection.finding_named(id)?.map(|id| inspection.finding(id)).transpose()?.flatten();
            let Some((finding, evidence)) = found else {
                eprintln!(
                    "slashwatch: no finding {id} in {}; `slashwatch inspect --data-dir` lists what is there",
                    data_dir.display()
                );
                return Ok(FAILED);
            };
            let submission = match &evidence {
                Some(evidence) => inspection.submission_of(evidence.id)?,
                None => None,
            };
            if as_text {
                let data_dir = data_dir.display().to_string();
                output::text(offline::finding_text(&finding, evidence.as_ref(), submission.as_ref(), &data_dir))?;
                return Ok(0);
            }
            json!({ "finding": finding, "evidence": evidence.map(|evidence| evidence.json), "submission": submission })
        }
    };
    output::line(serde_json::to_string_pretty(&shown)?)?;
    Ok(0)
}

enum Wanted<'a> {
    Overview,
    Validator(ValidatorIndex),
    /// Its id, or the beginning of it.
    Finding(&'a str),
}

fn checked_id(text: &str) -> Result<&str, UsageError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let is_id = (1..=64).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id
        .then_some(text)
        .ok_or_else(|| UsageError(format!("{text:?} is not a finding's id, or its beginning: 0x and up to 64 hex digits")))
}

fn parse<T: std::str::FromStr>(text: &str, wanted: &str) -> Result<T, UsageError> {
    text.parse().map_err(|_| UsageError(format!("{text:?} is not {wanted}")))
}

fn overview(inspection: &Inspection) -> anyhow::Result<serde_json::Value> {
    let network = &inspection.network;
    let mut by_kind = std::collections::BTreeMap::<String, u64>::new();
    let bar = progress::bar("findings", "findings");
    bar.set_length(inspection.store().count());
    for row in inspection.store().all_findings() {
        *by_kind.entry(row?.1.kind.to_string()).or_default() += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut newest = inspection.store().all_incidents()?;
    newest.sort_by_key(|incident| std::cmp::Reverse((incident.last_slot, incident.first_slot, incident.id)));
    newest.truncate(MAX_INCIDENTS);
    Ok(json!({
        "network": network.spec.config_name,
        "genesis_validators_root": network.genesis_validators_root,
        "findings": by_kind,
        "incidents": inspection.incident_counts()?,
        "newest_incidents": newest.iter().map(|incident| json!({
            "id": incident.id,
            "kind": incident.kind,
            "state": incident.state,
            "first_slot": incident.first_slot,
            "last_slot": incident.last_slot,
            "validators": incident.validators,
        })).collect::<Vec<_>>(),
        "outbox": inspection.store().outbox_counts(),
        "submissions": inspection.submission_counts()?,
        "kill_switches": actions::killswitch::KillSwitchState::read(inspection.store())?,
        "index": inspection.index().map(|index| index.holdings()),
    }))
}

fn validator(inspection: &Inspection, index: ValidatorIndex) -> anyhow::Result<serde_json::Value> {
    let Some(store) = inspection.index() else {
        anyhow::bail!("this data directory has no vote index; start the watcher or `replay` captures to make one");
    };
    let bar = progress::bar("votes", "epochs");
    let votes = store.votes_of(index, &mut |walked| progress::show(&bar, walked))?;
    bar.finish_and_clear();
    let bar = progress::bar("blocks", "epochs");
    let proposals = store.proposals_of(index, &mut |walked| progress::show(&bar, walked))?;
    bar.finish_and_clear();
    Ok(json!({
        "validator": index,
        "offender": votes.offender,
        "votes": votes.votes.iter().map(|vote| json!({
            "slot": vote.data.slot,
            "source": vote.data.source.epoch,
            "target": vote.data.target.epoch,
            "data_root": vote.data_root,
            "beacon_block_root": vote.data.beacon_block_root,
            "outside_chain": vote.outside_chain,
        })).collect::<Vec<_>>(),
        "gaps": votes.gaps.iter().map(|gap| json!({ "first": gap.first, "last": gap.last })).collect::<Vec<_>>(),
        "proposals": proposals.iter().map(|proposal| json!({ "slot": proposal.header.slot, "root": proposal.root })).collect::<Vec<_>>(),
        "findings": inspection.findings_of(index, MAX_FINDINGS)?,
    }))
}
