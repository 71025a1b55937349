//! The texts of a pack: how to check it, the timeline, and the draft of a post-mortem.

use super::Contents;
use crate::slots::start;
use evidence::{Finding, Kind, Time};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Rows of a table in the texts. `members.csv` has all.
const MAX_ROWS: usize = 40;
/// Rows of the timeline for single findings. Further ones are summed up by slot.
const MAX_SINGLE: usize = 25;

impl Contents<'_> {
    /// How to use the pack.
    pub(super) fn readme(&self) -> String {
        let (incident, network) = (self.incident, &self.network.spec.config_name);
        let words = incident.kind.words();
        let mut out = format!(
            "# Evidence: {words} on {network}\n\n\
             Incident `{}`, {}, {} since slot {} ({}).\n\n",
            incident.id,
            incident.severity,
            incident.state.as_str(),
            incident.first_slot,
            date(start(self.network, incident.first_slot)),
        );
        let _ = writeln!(
            out,
            "Made by slashwatch {} from what it heard. The times are those of the machine that heard the messages.\n",
            env!("CARGO_PKG_VERSION")
        );
        if self.proofs.is_empty() && incident.offences.is_some() {
            out += "This incident is made of proven offences, but none of its findings could be read for this pack. Its details are in \
                    `incident.json`; the findings of the watcher have the proofs.\n";
            return out;
        }
        if self.proofs.is_empty() {
            out += "There is no proof of an offence in these slots: this incident is something unusual that no rule punishes. Its details are \
                    in `incident.json`.\n";
            return out;
        }
        let _ = write!(
            out,
            "{} validators signed messages that contradict each other. {} proofs here accuse {} of them.\n\n\
             ## Is it real?\n\n\
             Each proof has two signed messages. Whoever has the public keys of the signers can check it, without trusting whoever sent this \
             file. Unpack the archive, and check each proof:\n\n\
             ```\n",
            self.members.len(),
            self.proofs.len(),
            self.n_accused(),
        );
        for proof in self.proofs.iter().take(5) {
            let _ = writeln!(out, "slashwatch verify-proof proofs/{} --network .", proof.file_name("json"));
        }
        if self.proofs.len() > 5 {
            let _ = writeln!(
                out,
                "for proof in proofs/*.json; do slashwatch verify-proof $proof --network . || echo NOT GENUINE; done"
            );
        }
        let _ = write!(
            out,
            "```\n\n\
             It exits with 0 if the proof is genuine and with 1 if not. The signatures are checked with another library than the one with \
             which the watcher found them. `keys.json` has the public keys of the signers, by index. They come from the watcher: compare \
             those of your own keys with your own records, or give a state or a data directory with `--network` instead.\n\n\
             A beacon node checks a proof too, when it is submitted. **Submitting it slashes the accused validators.**\n\n\
             ```\n{}```\n\n\
             ## Whose keys\n\n\
             `members.csv` lists all {} validators: key, labels, groups, offences, what differs, and whether a block has slashed them already.\n\n",
            self.submit_commands(),
            self.members.len(),
        );
        if self.next.is_empty() {
            out += "Which keys are next is not known: no list of keys was given, or it has no further validators with the same labels. The pack of a watcher \
                    that runs with your groups has them.\n\n";
        } else {
            let _ = write!(
                out,
                "`next.csv` lists {} further validators of {} that have not offended. They are next, if the cause goes on.\n\n",
                self.next.len(),
                self.next_labels.iter().map(|label| escaped(label)).collect::<Vec<_>>().join(", "),
            );
        }
        out += &self.about_capture();
        out += "## Files\n\n| file | what |\n|---|---|\n\
                | `post-mortem.md` | a draft |\n\
                | `timeline.md` | what happened when, in UTC |\n\
                | `members.csv` | whose keys |\n\
                | `proofs/` | each proof as JSON and SSZ, as a beacon node's pool accepts it |\n\
                | `config.yaml`, `network.json` | the network, for `--network .` |\n\
                | `SHA256SUMS` | for `sha256sum -c SHA256SUMS` |\n\
                | `keys.json` | public keys of the signers |\n";
        if self.capture.is_some() {
            out += "| `capture.e2s` | the messages of the proofs as a capture (above) |\n";
        }
        if !self.next.is_empty() {
            out += "| `next.csv` | which keys are next |\n";
        }
        if self.interchange.is_some() {
            let form = if self.is_minimal { "the highest slot, source and target of each key" } else { "every message" };
            let _ = writeln!(
                out,
                "| `interchange.json` | EIP-3076: {form} that the network saw the members sign. Not complete protection: a message that nobody heard is not in it |"
            );
        }
        out += "| `incident.json`, `findings.jsonl` | the records of the watcher |\n";
        out
    }

    /// What the capture has, what it lacks, and how to replay it.
    fn about_capture(&self) -> String {
        let Some(capture) = &self.capture else { return String::new() };
        let mut out = String::from(
            "## Find it again\n\n\
             `capture.e2s` has the signed messages of the proofs here, each pair as a slashing operation on its gossip topic, at the time \
             at which the later message came. A replay verifies them anew, and comes to the findings that these proofs prove, with the same \
             ids:\n\n```\n",
        );
        let files = if capture.has_state { "capture.e2s" } else { "CAPTURE-WITH-STATE.e2s capture.e2s" };
        let _ = writeln!(out, "slashwatch replay {files} --findings found.jsonl\n```\n");
        if !capture.has_state {
            let why = if capture.is_too_large { "is too large to be sent with it" } else { "is not at hand" };
            let _ = writeln!(
                out,
                "**It has no beacon state**, which {why}. A replay needs the keys in one: give a capture of this network that has a \
                 state before it (`slashwatch capture` records one).\n"
            );
        }
        out += "It has no blocks, no other votes, and not the messages as they first came: those are not kept. Times are those of the \
                operations, so both messages of a pair seem to come at once.\n\n";
        out
    }

    fn n_accused(&self) -> usize {
        let proofs: std::collections::BTreeSet<_> = self.proofs.iter().map(|proof| proof.id).collect();
        let accused = self.proofs.iter().flat_map(evidence::Evidence::accused).collect::<std::collections::BTreeSet<_>>();
        let known = self.members.iter().filter(|(index, member)| accused.contains(index) || !member.proofs.is_disjoint(&proofs));
        known.count()
    }

    fn submit_commands(&self) -> String {
        let Some(proof) = self.proofs.first() else { return String::new() };
        let (version, pool) = match proof.kind {
            evidence::EvidenceKind::AttesterSlashing => ("v2", "attester_slashings"),
            evidence::EvidenceKind::ProposerSlashing => ("v1", "proposer_slashings"),
        };
        format!(
            "curl -X POST http://127.0.0.1:5052/eth/{version}/beacon/pool/{pool} -H 'content-type: application/json' \\\n     \
             -H 'Eth-Consensus-Version: {}' --data-binary @proofs/{}\n",
            proof.fork,
            proof.file_name("json"),
        )
    }

    /// What happened when, in UTC and relative to the first finding.
    pub(super) fn timeline(&self) -> String {
        let incident = self.incident;
        let mut rows: Vec<(Time, String)> =
            vec![(incident.opened_at, format!("the incident ({}) was noticed", incident.kind.words()))];
        rows.extend(incident.closed_at.map(|at| (at, "the incident was over".to_owned())));
        for finding in self.findings.iter().take(MAX_SINGLE) {
            rows.push((seen(finding), told(finding)));
        }
        for (group, switch) in &self.switches {
            let orders = switch.orders();
            rows.extend(
                orders.iter().map(|order| (order.ordered_at, format!("the kill switch of group {group} {}", order.verb()))),
            );
            rows.extend(switch.armed_again_at.map(|at| (at, format!("the kill switch of group {group} was made ready again"))));
        }
        let mut by_slot: BTreeMap<u64, u64> = BTreeMap::new();
        for finding in self.findings.iter().skip(MAX_SINGLE) {
            *by_slot.entry(self.network.slot_at(seen(finding).as_unix_ns()).as_u64()).or_default() += 1;
        }
        for (slot, n) in by_slot.iter().take(MAX_ROWS) {
            let slot = consensus::Slot::new(*slot);
            rows.push((start(self.network, slot), format!("{}, known in slot {slot}", further(*n))));
        }
        let mut included: BTreeMap<consensus::Slot, u64> = BTreeMap::new();
        for finding in &self.findings {
            if let Some(block) = &finding.included {
                *included.entry(block.slot).or_default() += 1;
            }
        }
        for (slot, n) in included.iter().take(MAX_ROWS) {
            rows.push((start(self.network, *slot), format!("the block of slot {slot} includes the slashing of {n} findings")));
        }
        rows.sort();
        let onset = self.findings.first().map_or(incident.opened_at, seen);
        let mut out = String::from(
            "# Timeline\n\nTimes are UTC. The second column is relative to the first proven contradiction.\n\n| UTC | after | what |\n|---|---|---|\n",
        );
        for (at, what) in rows {
            let seconds = (i128::from(at.as_unix_ns()) - i128::from(onset.as_unix_ns())) as f64 / 1e9;
            let _ = writeln!(out, "| {} | {seconds:+.1} s | {} |", date(at), escaped(&what));
        }
        if by_slot.len() > MAX_ROWS || included.len() > MAX_ROWS {
            out += "\nLater slots are left out; `findings.jsonl` has all.\n";
        }
        out
    }

    /// The draft of a post-mortem.
    pub(super) fn post_mortem(&self) -> String {
        let incident = self.incident;
        let details = &incident.details;
        let texts = |name: &str| -> Vec<String> {
            let list = details.get(name).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(escaped).collect()
        };
        let mut out = format!(
            "# Post-mortem (draft): {} on {}\n\n\
             *Made by slashwatch from what it heard. Figures and proofs are facts; what is called suspected is a guess. Fill in what is in \
             brackets.*\n\n\
             ## Summary\n\n",
            incident.kind.words(),
            escaped(&self.network.spec.config_name),
        );
        let _ = writeln!(
            out,
            "Between slot {} ({}) and slot {}, {} validators signed messages that contradict each other: {}.",
            incident.first_slot,
            date(start(self.network, incident.first_slot)),
            incident.last_slot,
            self.members.len(),
            self.kinds(),
        );
        let slashed = self.members.values().filter(|member| member.included.is_some()).count();
        let _ = writeln!(out, "Blocks have slashed {slashed} of them so far. [Impact on delegators, users, rewards]\n");
        out += "## Suspected cause\n\n";
        match details.get("suspected_cause").and_then(Value::as_str) {
            Some(cause) => {
                let _ = writeln!(out, "{}. The reasons:\n", escaped(&cause.replace('_', " ")));
                texts("because").iter().for_each(|reason| out += &format!("- {reason}\n"));
            }
            None => out += "Not known.\n",
        }
        out += "\n[Confirmed cause]\n\n## What they have in common\n\n";
        if incident.shared.is_empty() {
            out += "Nothing that is known here.\n";
        }
        for shared in incident.shared.iter().take(MAX_ROWS) {
            let _ = writeln!(out, "- {} of them: {} {}", shared.members.0, escaped(&shared.what), escaped(&shared.value));
        }
        if !self.switches.is_empty() {
            out += "\n## Kill switches\n\n";
            for sentence in self.switches.iter().flat_map(|(group, switch)| switch.story(group)) {
                let _ = writeln!(out, "- {}", escaped(&sentence));
            }
        }
        out += "\n## What the messages differ in\n\n";
        let mut differs: BTreeMap<String, u64> = BTreeMap::new();
        for member in self.members.values().filter(|member| !member.differs.is_empty()) {
            *differs.entry(member.differs.iter().copied().collect::<Vec<_>>().join(", ")).or_default() += 1;
        }
        for (fields, n) in &differs {
            let _ = writeln!(out, "- {n} validators: `{fields}`");
        }
        if let Some(penalty) = &incident.penalty {
            let eth = |gwei: u64| gwei as f64 / 1e9;
            let _ = write!(
                out,
                "\n## Penalty\n\nOf these validators together: {:.3} ETH at once, and half way to their withdrawal {:.3} ETH if no more are \
                 slashed, or {:.3} ETH if it is twice as much stake in the end. A validator with 32 ETH loses {:.3} ETH.\n",
                eth(penalty.initial_gwei.0),
                eth(penalty.correlation_gwei_now.0),
                eth(penalty.correlation_gwei_if_doubled.0),
                eth(penalty.per_32_eth_gwei.0),
            );
        }
        out += "\n## Validators\n\n| validator | labels | offences | contradicted itself (UTC) | slashed in slot |\n|---|---|---|---|---|\n";
        for (index, member) in self.members.iter().take(MAX_ROWS) {
            let kinds: Vec<String> =
                member.kinds.iter().map(|(kind, n)| format!("{} x{n}", kind.as_str().replace('_', " "))).collect();
            let _ = writeln!(
                out,
                "| {index} | {} | {} | {} | {} |",
                escaped(&member.labels.join(", ")),
                kinds.join(", "),
                date(member.first),
                member.included.as_ref().map(consensus::Slot::to_string).unwrap_or_default(),
            );
        }
        if self.members.len() > MAX_ROWS {
            let _ = writeln!(out, "\n{} more are in `members.csv`.", self.members.len() - MAX_ROWS);
        }
        if self.findings_left_out {
            out += "\nThere are more findings in these slots than were read.\n";
        }
        out += "\n## Timeline\n\nSee `timeline.md`. [Detection, decisions, actions of the team]\n\n## What went well, what did not\n\n[..]\n\n## Actions\n\n[..]\n";
        out
    }

    fn kinds(&self) -> String {
        let mut kinds: BTreeMap<&Kind, u64> = BTreeMap::new();
        for finding in &self.findings {
            *kinds.entry(&finding.kind).or_default() += 1;
        }
        if kinds.is_empty() {
            return "no contradiction is on record".to_owned();
        }
        kinds.iter().map(|(kind, n)| format!("{n} {}s", kind.words())).collect::<Vec<_>>().join(", ")
    }
}

/// When an offence could be known.
fn seen(finding: &Finding) -> Time {
    finding.second_seen.unwrap_or(finding.first_seen)
}

fn further(n: u64) -> String {
    if n == 1 { "1 further finding".to_owned() } else { format!("{n} further findings") }
}

fn told(finding: &Finding) -> String {
    let who = finding.validator.as_ref().map_or_else(String::new, |subject| format!(" of validator {}", subject.index));
    format!("{}{who}, message of slot {}", finding.kind.words(), finding.slot)
}

/// Date and time to the millisecond, without the T and the Z that are hard to read.
fn date(at: Time) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..23)) {
        (Some(date), Some(time)) => format!("{date} {time}"),
        _ => text,
    }
}

/// Text from outside, so that it is no Markdown and no HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '&' => out += "&amp;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A field of a CSV file. A spreadsheet must not take it for a formula.
pub(super) fn csv_field(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text };
    if text.contains([',', '"', ' ']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_the_network_are_no_markup_and_no_formula() {
        assert_eq!(escaped("<b>a|b</b>\n[x](y)"), "&lt;b>a\\|b&lt;/b> \\[x\\](y)");
        assert_eq!(csv_field("=1+1"), "'=1+1");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(date(Time::from_unix_ns(1_606_824_023_250_000_000)), "2020-12-01 12:00:23.250");
    }
}
