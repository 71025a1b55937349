//! The text of an alert, for a person who reads it on a phone: what happened, whose keys, how many,
//! since when, and what to do now.
//!
//! The text comes from a template in the language of minijinja
//! (<https://docs.rs/minijinja/latest/minijinja/syntax/>). `alert.txt.j2` beside this file is the
//! default, and `template_file` of a route replaces it. The first line is the headline: receivers
//! that have a field for a title put it there. [`TextFacts`] is what a template can use.

use crate::merge::{Alert, Bundle};
use crate::sink::AlertState;
use crate::{AlertError, NetworkName, SwitchNote};
use consensus::{Offence, Punishable};
use evidence::{DueDelivery, Finding, Kind, Severity, Time};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Digits of a public key that a text shows at each end.
const KEY_DIGITS: usize = 6;
/// Limit on the labels that a text names.
const MAX_LABELS: usize = 6;
/// Limit on the validators that a text names.
const MAX_INDICES: usize = 5;
/// Limit on the kinds that a headline names.
const MAX_KINDS: usize = 3;
/// Limit on the steps of a template. The default template takes some hundreds.
const MAX_STEPS: u64 = 100_000;
/// Limit on the result of a kill switch's order in a text, in bytes.
const MAX_RESULT_BYTES: usize = 2000;
/// Limit on the length of a text in bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Largest template file.
const MAX_TEMPLATE_BYTES: u64 = 256 << 10;
const NAME: &str = "alert";

/// What a template can use.
#[derive(Debug, Serialize)]
pub(crate) struct TextFacts<'a> {
    /// Name of the network, such as `hoodi`.
    pub(crate) network: &'a str,
    /// `UPDATE`, `WORSE` or `OVER`; empty in the first message about something. The end of what is
    /// said of a kill switch is `STOPPED AFTER ALL`, `SILENT NOW` or `MADE READY AGAIN`.
    pub(crate) news: &'static str,
    pub(crate) severity: Severity,
    /// The kind in words, such as `double vote`; several kinds with commas.
    pub(crate) what: String,
    /// How `what` goes on to its validator: `by`, or `for` if it is not the validator that acts.
    pub(crate) preposition: &'static str,
    /// How `what` goes on to several validators, such as ` of 3000 validators`.
    pub(crate) counted: String,
    /// The kind's name, such as `double_vote`.
    pub(crate) kind: &'a str,
    /// State of an incident whose kind has states. Otherwise empty.
    pub(crate) state: &'a str,
    /// The validator, if the message is about one.
    pub(crate) validator: Option<ValidatorFacts>,
    /// Number of validators that this alert has told of so far.
    pub(crate) validators: u64,
    pub(crate) findings: u64,
    pub(crate) new_findings: u64,
    /// The first validators of this message, and how many more there are.
    pub(crate) indices: Vec<String>,
    pub(crate) more_indices: usize,
    pub(crate) labels: Vec<String>,
    /// Whether a watched key is among them.
    pub(crate) own: bool,
    /// Arrival of the first message, or when an incident was noticed, in UTC.
    pub(crate) since: String,
    /// Whether `since` is when an incident was noticed. Its first slot may be much earlier.
    pub(crate) is_noticed: bool,
    /// The suspected cause of a slashing wave. Empty if none is known.
    pub(crate) cause: String,
    pub(crate) slot: String,
    pub(crate) epoch: String,
    /// Whether a block can punish it, as a sentence.
    pub(crate) punishable: &'static str,
    /// What to do now.
    pub(crate) advice: &'static str,
    /// What the kill switches do about it, a sentence each.
    pub(crate) switches: Vec<String>,
    pub(crate) link: &'a str,
    /// The first finding of the message, as in the API.
    pub(crate) finding: &'a Finding,
}

#[derive(Debug, Serialize)]
pub(crate) struct ValidatorFacts {
    pub(crate) index: String,
    pub(crate) pubkey: String,
    /// The first and the last digits of the key.
    pub(crate) short_pubkey: String,
}

impl<'a> TextFacts<'a> {
    pub(crate) fn new(network: &'a NetworkName, bundle: &'a Bundle, switches: &[SwitchNote], link: Option<&'a str>) -> Self {
        let finding = &bundle.members[0].finding;
        let last = &bundle.members[bundle.members.len() - 1].finding;
        let mut kinds: Vec<String> = Vec::new();
        let mut indices: BTreeSet<u64> = BTreeSet::new();
        for DueDelivery { finding, .. } in &bundle.members {
            let words = headline(finding);
            if !kinds.contains(&words) {
                kinds.push(words);
            }
            indices.extend(finding.validator.as_ref().map(|subject| subject.index.as_u64()));
        }
        if kinds.len() > MAX_KINDS {
            let more = kinds.len() - MAX_KINDS;
            kinds.truncate(MAX_KINDS);
            kinds.push(format!("and {more} other kinds"));
        }
        // An announcement of an incident knows how many validators are concerned. Without one, what
        // this alert has told of is counted.
        let announced = bundle.members.iter().rev().find_map(|one| count_in(&one.finding));
        let told = bundle.alerts.iter().map(|(_, alert)| alert.validators).sum::<u64>();
        let mut labels: Vec<&str> = match bundle.alerts.as_slice() {
            [] => finding.labels().collect(),
            alerts => alerts.iter().flat_map(|(_, alert)| alert.labels.iter().map(String::as_str)).collect(),
        };
        // The announcement of a wave knows whose keys are among its members, and what to do.
        let wave = bundle.members.iter().map(|one| &one.finding).rfind(|finding| finding.kind == Kind::SlashingWave);
        labels.extend(wave.iter().flat_map(|wave| wave.labels()).filter(|label| label.starts_with("group=")));
        // Whose key it is comes first.
        labels.sort_unstable_by_key(|label| (!label.starts_with("group="), *label));
        labels.dedup();
        let since = bundle.alerts.iter().map(|(_, alert)| alert.since).min().unwrap_or(finding.first_seen);
        let own = labels.iter().any(|label| label.starts_with("group="));
        let is_over = bundle.state == AlertState::Resolved;
        let news = match detail(last, "news") {
            _ if is_over => match detail(last, "ended") {
                Some("stopped") => "STOPPED AFTER ALL",
                Some("silent") => "SILENT NOW",
                Some("rearmed") => "MADE READY AGAIN",
                Some(_) | None => "OVER",
            },
            Some("worse") => "WORSE",
            Some(_) | None if bundle.is_update => "UPDATE",
            Some(_) | None => "",
        };
        let validators = announced.unwrap_or(told).max(indices.len() as u64);
        let validator = finding.validator.as_ref().filter(|_| validators <= 1).map(|subject| {
            let pubkey = subject.pubkey.to_string();
            let short_pubkey = format!("{}..{}", &pubkey[..2 + KEY_DIGITS], &pubkey[pubkey.len() - KEY_DIGITS..]);
            ValidatorFacts { index: subject.index.to_string(), pubkey, short_pubkey }
        });
        Self {
            network: &network.name,
            news,
            severity: bundle.severity(),
            what: kinds.join(", "),
            preposition: match finding.kind {
                Kind::SecondSigner | Kind::SignedElsewhere => "for",
                _ => "by",
            },
            counted: match finding.kind {
                Kind::SignsAfterStop => format!(": {validators} so far"),
                Kind::SecondSigner | Kind::SignedElsewhere => format!(" for {validators} validators"),
                _ => format!(" of {validators} validators"),
            },
            kind: finding.kind.as_str(),
            state: detail(finding, "state").unwrap_or_default(),
            validator,
            validators,
            findings: bundle.alerts.iter().map(|(_, alert)| alert.findings).sum::<u64>().max(bundle.members.len() as u64),
            new_findings: bundle.members.len() as u64,
            more_indices: indices.len().saturating_sub(MAX_INDICES),
            indices: indices.iter().take(MAX_INDICES).map(u64::to_string).collect(),
            labels: labels.into_iter().take(MAX_LABELS).map(str::to_owned).collect(),
            own,
            since: in_seconds(since),
            is_noticed: detail(finding, "incident").is_some() && finding.validator.is_none(),
            cause: wave.and_then(|wave| detail(wave, "suspected_cause")).map_or_else(String::new, cause_in_words),
            slot: finding.slot.to_string(),
            epoch: finding.epoch.to_string(),
            punishable: finding.punishable.map_or("", punishable_in_words),
            advice: match detail(last, "ended") {
                Some("stopped" | "silent") => {
                    "find the cause, and run `slashwatch killswitch rearm` only when `slashwatch preflight` says SAFE."
                }
                Some("rearmed") => {
                    "start no client before `slashwatch preflight` says SAFE. The switch was made ready again by hand, which does not say that \
                     the keys are silent."
                }
                _ if is_over => advice_afterwards(finding),
                _ => advice(wave.unwrap_or(finding), own),
            },
            switches: switches.iter().map(switch_in_words).collect(),
            link: link.unwrap_or_default(),
            finding,
        }
    }
}

impl Bundle {
    pub(crate) fn severity(&self) -> Severity {
        let of_members = self.members.iter().map(|one| one.finding.severity);
        of_members.chain(self.alerts.iter().map(|(_, Alert { severity, .. })| *severity)).max().unwrap_or_default()
    }
}

/// A text among the details of a finding.
fn detail<'a>(finding: &'a Finding, name: &str) -> Option<&'a str> {
    finding.details.as_ref()?.get(name)?.as_str()
}

/// Number of validators of an incident, as its announcement has it.
fn count_in(finding: &Finding) -> Option<u64> {
    if finding.kind == Kind::SignsAfterStop {
        return finding.details.as_ref()?.get("keys_signing")?.as_u64();
    }
    detail(finding, "validators")?.parse().ok()
}

/// The kind as the headline has it. Most names of kinds are words that people use.
fn headline(finding: &Finding) -> String {
    match finding.kind {
        Kind::SecondSigner => "a second machine signs".to_owned(),
        Kind::SignedElsewhere => "a message that the client's record lacks".to_owned(),
        Kind::TwoOrigins => "keys signed from two machines in turn".to_owned(),
        Kind::DormantKeySigned => "a signature that should not be".to_owned(),
        Kind::KillSwitchFailed => "a kill switch failed".to_owned(),
        Kind::SignsAfterStop => "keys sign after the stop".to_owned(),
        Kind::ProofNotConfirmed => "a proof was not confirmed".to_owned(),
        Kind::SubnetSilent if detail(finding, "subnets") == Some("all") => "nothing is heard".to_owned(),
        Kind::SubnetSilent => "a subnet is silent".to_owned(),
        _ => finding.kind.words(),
    }
}

fn cause_in_words(cause: &str) -> String {
    match cause {
        "same_keys_in_two_places" => "the same keys run in two places, or lost their signing record",
        "payload_status" => "two nodes disagreed about a payload, and the same keys voted with both",
        "clocks" => "clocks ran ahead and came back",
        "return_from_a_branch" => "they came back from a branch that had justified another checkpoint",
        "fresh_keys" => "keys that were activated together",
        "unknown" => "not known yet",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// As `2026-11-29 11:30:05 UTC`.
fn in_seconds(time: Time) -> String {
    let text = time.to_string();
    let seconds = text.split_once('.').map_or(text.as_str(), |(seconds, _)| seconds);
    format!("{} UTC", seconds.replace('T', " "))
}

fn punishable_in_words(punishable: Punishable) -> &'static str {
    match punishable {
        Punishable::Yes => "A block can still punish it.",
        Punishable::AlreadySlashed => "The validator is slashed already, so that nobody can punish it again.",
        Punishable::NotActive => "The validator is not active yet, so that no block can punish it.",
        Punishable::Withdrawable => "The validator has left, so that no block can punish it any more.",
        Punishable::ForkExpired => "It is of a fork so old that no block can punish it any more.",
        Punishable::Unknown => "Whether a block can punish it is not known.",
    }
}

fn switch_in_words(note: &SwitchNote) -> String {
    if let Some(result) = &note.result {
        return format!("The kill switch of group {}: {}.", note.group, crate::sink::cut(result, MAX_RESULT_BYTES));
    }
    let what = if note.fires { "fires" } else { "does not fire" };
    let reason = note.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("The kill switch of group {} {what}{reason}.", note.group)
}

/// What the reader should do when an incident is over.
fn advice_afterwards(finding: &Finding) -> &'static str {
    match finding.kind {
        Kind::ClockSkew => {
            "nothing, if your clocks were right. A key that signed ahead of time must not start again before the network has passed those \
             epochs."
        }
        Kind::SlashingWave | Kind::Offence(_) => {
            "what is stopped stays so until you know the cause. The docs say how to start again."
        }
        Kind::HeadSplit | Kind::CheckpointSplit => {
            "nothing, if your keys followed this side. Those that voted on the other one can be slashed for coming back: look first."
        }
        _ => "nothing. It is over.",
    }
}

/// What the reader should do. `own` is whether a watched key is concerned.
fn advice(finding: &Finding, own: bool) -> &'static str {
    match &finding.kind {
        Kind::Offence(_) if finding.punishable.is_some_and(|punishable| !punishable.is_possible()) => {
            "nothing for this key: it has nothing more to lose. Find out who holds it, if it is yours."
        }
        Kind::Offence(_) if own => {
            "stop every machine that may sign with your keys. Start none before `slashwatch audit` and `slashwatch preflight` know its record."
        }
        Kind::Offence(_) => "nothing for your keys, unless they share software or setup with this one.",
        Kind::SlashingWave if own => {
            "keys of yours are among them. Stop every machine that may sign with your keys, also where none has offended yet. Start none before \
             `slashwatch audit` and `slashwatch preflight` know its record."
        }
        Kind::SlashingWave => "see what the offenders have in common, and stop your keys if they share it.",
        Kind::SecondSigner => {
            "two machines sign with this key, or one lost its memory: stop both, and the keys that share its setup. What the kill switch of its \
             group does, if there is one, is in the message about the offence, and on the page at /watch."
        }
        Kind::SignedElsewhere => {
            "somebody else signs with this key, or its client lost its record: stop both, and the keys that share its setup."
        }
        Kind::TwoOrigins => {
            "see whether this node is yours. If not, stop every machine with these keys, and find the second one."
        }
        Kind::DormantKeySigned => "find the machine that signs with this key, and start no other one before.",
        Kind::KillSwitchFailed => {
            "keys may go on signing. Stop by hand what is named below: end the client or switch its machine off, and see that nothing \
             starts it again. The order is repeated for a day, until it is done or `slashwatch killswitch rearm`."
        }
        Kind::SignsAfterStop => {
            "a machine that the kill switch does not reach signs with these keys. Find it and switch it off. Start nothing before."
        }
        Kind::ProofNotConfirmed if detail(finding, "outcome") == Some("not_genuine") => {
            "two implementations disagree about a signature, and nothing was stopped. Check the proof with a node of your own \
             (`slashwatch verify-proof`), stop the clients by hand if it holds, and report this as a defect."
        }
        Kind::ProofNotConfirmed => "the clients are stopped. See why the second check did not work, and check the proof by hand.",
        Kind::MissedDuties | Kind::FlappingKeys => "check the validator client, its beacon node and their machine.",
        Kind::SubnetSilent if detail(finding, "subnets") == Some("all") => {
            "this watcher hears nothing of the network. `/readyz` and the page say what to do."
        }
        Kind::OwnClock => "set this machine's clock.",
        Kind::SubnetSilent | Kind::BlindSpot => "look at the peers of this watcher: a part of the network is not heard.",
        Kind::HeadSplit | Kind::CheckpointSplit => {
            "move no validator to another branch, node or client: a key that voted on one side can be slashed for changing to the other. \
             See which side yours are on; the page knows."
        }
        Kind::ClockSkew => {
            "check the clocks of your machines. Stop a validator client before you set its clock back: it has signed for epochs to come, \
             and must not sign for them again."
        }
        Kind::FinalityDelay | Kind::DeepReorg | Kind::ParticipationDrop => {
            "check that your nodes follow the same head as the network, and change nothing else in a hurry."
        }
        Kind::PayloadStatusSplit => {
            "let no key sign with two nodes that disagree about a payload: a vote of each for one target is a slashable offence."
        }
        Kind::UnpunishedOffence => "nothing for your keys. Proofs can be handed in: see `submission`.",
        Kind::CompetingBlocks
        | Kind::StaleVotes
        | Kind::MissedProposals
        | Kind::LateBlocks
        | Kind::ClientDominance
        | Kind::SyncStorm
        | Kind::EquivocationNotSlashable
        | Kind::Unknown(_) => "nothing at once. The page shows what was seen.",
    }
}

/// A template that is ready.
#[derive(Clone, Debug)]
pub(crate) struct Template(Arc<Environment<'static>>);

impl Default for Template {
    fn default() -> Self {
        Self::new(include_str!("alert.txt.j2")).expect("the default template is tested")
    }
}

impl Template {
    pub(crate) fn load(path: &Path) -> Result<Self, AlertError> {
        let bad = |reason: String| AlertError::Template { path: path.into(), reason };
        let text = base::read_text_file(path, MAX_TEMPLATE_BYTES).map_err(|error| bad(error.to_string()))?;
        let template = Self::new(&text).map_err(|error| bad(error.to_string()))?;
        // A name that does not exist shows only when the template is used.
        let network = NetworkName::default();
        let kinds = [Kind::Offence(Offence::DoubleVote), Kind::SlashingWave];
        for bundle in kinds.iter().flat_map(|kind| crate::preview::samples(kind, true)) {
            let facts = TextFacts::new(&network, &bundle, &[], None);
            template.try_render(&facts).map_err(|error| bad(error.to_string()))?;
        }
        Ok(template)
    }

    fn new(text: &str) -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).build()?);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(MAX_STEPS));
        environment.add_template_owned(NAME, text.to_owned())?;
        Ok(Self(Arc::new(environment)))
    }

    /// Renders the text. Receivers refuse an empty one, so it is a failure too.
    fn try_render(&self, facts: &TextFacts<'_>) -> Result<String, minijinja::Error> {
        let text = self.0.get_template(NAME)?.render(Serde(facts))?;
        match text.trim() {
            "" => Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, "the text is empty")),
            _ => Ok(text),
        }
    }

    /// Renders the text. A template that fails must not cost an alert, so the default one is used
    /// in its place.
    pub(crate) fn render(&self, facts: &TextFacts<'_>) -> String {
        let text = self.try_render(facts).unwrap_or_else(|error| {
            tracing::error!(%error, "the template of a route fails, the default text is sent");
            Self::default().try_render(facts).unwrap_or_else(|_| format!("{}: {}", facts.network, facts.what))
        });
        crate::sink::cut(text.trim(), MAX_TEXT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preview::samples;

    fn texts(kind: &Kind, notes: &[SwitchNote]) -> Vec<String> {
        let network = NetworkName { name: "hoodi".into(), genesis_validators_root: None };
        let text = |bundle: &Bundle| Template::default().render(&TextFacts::new(&network, bundle, notes, None));
        samples(kind, true).iter().map(text).collect()
    }

    #[test]
    fn a_text_says_what_whose_since_when_and_what_to_do() {
        let note = SwitchNote { group: "acme-1".into(), fires: false, reason: Some("because".into()), result: None };
        let texts = texts(&Kind::Offence(Offence::DoubleVote), &[note]);
        assert_eq!(
            texts[0],
            "hoodi: double vote by validator 100 (0xababab..ababab, group=acme-1, operator=acme)\n\
             Severity: critical. Since 2026-01-01 00:00:00 UTC, slot 1000, epoch 31.\n\
             A block can still punish it.\n\
             What now: stop every machine that may sign with your keys. Start none before `slashwatch audit` and `slashwatch \
             preflight` know its record.\n\
             The kill switch of group acme-1 does not fire: because."
        );
        assert!(texts[1].starts_with("hoodi: double vote by validator 7 (0xababab..ababab)\n"), "{}", texts[1]);
        let update: Vec<&str> = texts[2].lines().collect();
        assert_eq!(update[0], "hoodi: UPDATE: double vote of 4 validators");
        assert_eq!(update[2], "4 findings so far, 3 of them in this message. Validators: 500, 501, 502.");
        assert_eq!(update[3], "Labels: operator=other.");
    }

    #[test]
    fn an_incident_has_its_number_and_its_end() {
        let texts = texts(&Kind::SlashingWave, &[]);
        assert!(texts[0].starts_with("hoodi: slashing wave of 3000 validators\nSeverity: critical. Noticed "), "{}", texts[0]);
        assert!(texts[1].starts_with("hoodi: OVER: slashing wave of 3000 validators\n"), "{}", texts[1]);
        assert!(texts[1].contains("What now: what is stopped stays so until you know the cause."), "{}", texts[1]);
        let second: Vec<&str> = texts[0].lines().skip(1).take(2).collect();
        assert_eq!(
            second,
            [
                "Severity: critical. Noticed 2026-01-01 00:00:00 UTC, begun in slot 1000, epoch 31.",
                "Suspected cause: the same keys run in two places, or lost their signing record."
            ]
        );
    }

    #[test]
    fn the_number_of_keys_that_sign_after_a_stop_tells_its_messages_apart() {
        let told = texts(&Kind::SignsAfterStop, &[]);
        assert!(told[0].starts_with("hoodi: keys sign after the stop: 3 so far (group=acme-1)\n"), "{}", told[0]);
        let mut bundle = samples(&Kind::SignsAfterStop, true).remove(0);
        let details = bundle.members[0].finding.details.as_mut().unwrap();
        details.extend([("news".to_owned(), "worse".into()), ("keys_signing".to_owned(), 46.into())]);
        let text = |bundle: &Bundle| Template::default().render(&TextFacts::new(&NetworkName::default(), bundle, &[], None));
        assert!(text(&bundle).contains("WORSE: keys sign after the stop: 46 so far"), "{}", text(&bundle));
        // Made ready by hand says nothing of the keys: what to do first is to ask.
        let mut over = samples(&Kind::SignsAfterStop, true).remove(1);
        over.members[0].finding.details.as_mut().unwrap().insert("ended".to_owned(), "rearmed".into());
        assert!(text(&over).contains("MADE READY AGAIN"), "{}", text(&over));
        assert!(text(&over).contains("What now: start no client before `slashwatch preflight` says SAFE."), "{}", text(&over));
    }

    #[test]
    fn every_kind_has_a_text() {
        for kind in Kind::all() {
            for text in texts(&kind, &[]) {
                let lines: Vec<&str> = text.lines().collect();
                let first = samples(&kind, true).remove(0);
                assert!(lines[0].contains(&headline(&first.members[0].finding)) && !lines[0].contains('_'), "{text}");
                assert!(lines.iter().any(|line| line.starts_with("What now: ")), "{text}");
                assert!(lines.iter().all(|line| !line.is_empty()), "{text}");
            }
        }
    }

    #[test]
    fn a_template_of_ones_own_is_checked_and_never_costs_an_alert() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alert.txt.j2");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Template::load(&path)
        };
        let bundles = samples(&Kind::Offence(Offence::DoubleVote), true);
        let network = NetworkName { name: "hoodi".into(), genesis_validators_root: None };
        let facts = TextFacts::new(&network, &bundles[0], &[], Some("https://x"));
        let own = load("{{ severity | upper }} {{ what }} {{ validator.index if validator else labels }} {{ link }}").unwrap();
        assert_eq!(own.render(&facts), "CRITICAL double vote 100 https://x");
        for (bad, word) in [
            ("{% if %}", "alert.txt.j2"),
            ("{{ nothing_like_this }}", "undefined"),
            ("{% if findings > 99 %}x{% endif %}", "the text is empty"),
            ("{% for x in range(9999999) %}x{% endfor %}", ""),
        ] {
            let told = load(bad).unwrap_err().to_string();
            assert!(told.contains(word) && told.contains("cannot be used"), "{told}");
        }
        // It passes the check, and fails for a kind that the check does not try.
        let later = load("{% if kind == \"late_blocks\" %}{{ nothing.at_all }}{% endif %}x").unwrap();
        assert_eq!(later.render(&facts), "x");
        let bundles = samples(&Kind::LateBlocks, true);
        let text = later.render(&TextFacts::new(&network, &bundles[0], &[], None));
        assert!(text.starts_with("hoodi: late blocks\n"), "the default text: {text}");
    }
}
