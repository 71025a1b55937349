//! Describes an incident's details in one sentence, for somebody who is on call at night. Details
//! have no fixed form, so a missing detail is left out.

use evidence::Incident;
use serde_json::Value;

/// Returns the sentence. It is `None` for kinds without further details, and for incidents of which
/// too little is known.
pub(super) fn in_words(incident: &Incident) -> Option<String> {
    let detail = |key: &str| incident.details.get(key);
    let text = |key: &str| detail(key).map(plain).filter(|text| !text.is_empty());
    let flag = |key: &str| detail(key).and_then(Value::as_bool).unwrap_or(false);
    let sentence = match incident.kind.as_str() {
        "clock_skew" => {
            let together = if flag("together") { ", all by the same distance" } else { "" };
            let n = text("votes_from_the_future")?;
            format!(
                "{n} votes in a slot ({} percent) were for slots that had not begun, {} seconds ahead{together}; their signers will contradict \
                 themselves when the clocks are right again",
                text("percent_of_votes")?,
                text("seconds_ahead")?
            )
        }
        "own_clock" => format!(
            "The network's votes arrive {} ms after the start of their slots, {} is usual: our own clock is {}",
            text("median_arrival_ms_after_slot_start")?,
            text("usual_ms")?,
            text("our_clock_is")?
        ),
        "participation_drop" => {
            let finality = if flag("finality_possible") { "" } else { ", too few to justify anything" };
            format!("{} percent voted, {} before{finality}", text("participation_percent")?, text("before_percent")?)
        }
        "finality_delay" => {
            let leak = if flag("inactivity_leak") { "; the inactivity leak runs" } else { "" };
            format!("Nothing was justified after epoch {} for {} epochs{leak}", text("justified_epoch")?, text("peak")?)
        }
        "head_split" => {
            let shares = shares(detail("sides")?)?;
            let parted =
                text("parted_after_slot").map_or_else(String::new, |slot| format!("; the branches parted after slot {slot}"));
            format!("Votes for heads that exclude each other, in percent: {shares}{parted}")
        }
        "checkpoint_split" => {
            let justified = if flag("two_justified_checkpoints") {
                "Two branches are justified"
            } else {
                "Votes for checkpoints that exclude each other"
            };
            let stuck = text("would_surround_by_joining_the_other_side").map_or_else(String::new, |n| {
                format!("; {n} validators cannot change sides without surrounding their own votes")
            });
            format!("{justified}, targets in percent: {}{stuck}", shares(detail("targets")?)?)
        }
        "stale_votes" => format!(
            "{} percent of a slot's votes were out of date: {} for old heads, {} for old targets",
            text("percent_of_votes")?,
            text("stale_heads")?,
            text("stale_targets")?
        ),
        "missed_proposals" => format!(
            "{} of {} slots had no block{}",
            text("missed")?,
            text("of_slots")?,
            by_client(detail("blocks_missing_by_client"))
                .map_or_else(String::new, |list| format!("; missing were those of {list}"))
        ),
        "late_blocks" => format!("{} of {} blocks came after the votes", text("late")?, text("of_blocks")?),
        "client_dominance" => format!("{} has {} percent", text("client")?, text("percent")?),
        "sync_storm" => format!(
            "{} of {} peers were far behind, {} said goodbye within an epoch",
            text("far_behind")?,
            text("peers")?,
            text("goodbyes_in_an_epoch")?
        ),
        "subnet_silent" if text("subnets")? == "all" => {
            "Nothing came from the network at all: nothing that happened meanwhile was seen".to_owned()
        }
        "subnet_silent" => format!("Nothing was heard on subnets {}: second messages there would not reach us", text("subnets")?),
        "unpunished_offence" => {
            let oldest = detail("oldest")?;
            let oldest = |key: &str| oldest.get(key).map(plain);
            let validators = incident.validators.map_or_else(String::new, |n| format!(" of {} validators", n.0));
            format!(
                "{} proven offences{validators} are in no block; the oldest is validator {}'s, {} slots ago",
                text("offences")?,
                oldest("validator")?,
                oldest("age_slots")?
            )
        }
        "blind_spot" => format!("A block punished validators {}, of whom we knew nothing: {}", text("validators")?, text("why")?),
        _ => return None,
    };
    Some(format!("{sentence}."))
}

/// Returns numbers and texts as they are, and lists with commas. Other values give an empty text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Object(_) => String::new(),
    }
}

/// Returns percentages like `52 : 47`.
fn shares(sides: &Value) -> Option<String> {
    let sides = sides.as_array()?.iter().filter_map(|side| side.get("percent")).map(plain);
    Some(sides.collect::<Vec<_>>().join(" : ")).filter(|text| !text.is_empty())
}

/// Returns a list like `prysm (18), teku (2)`, highest number first.
fn by_client(counts: Option<&Value>) -> Option<String> {
    let mut rows: Vec<(u64, &String)> =
        counts?.as_object()?.iter().filter_map(|(client, n)| Some((n.as_u64()?, client))).collect();
    rows.sort_by_key(|(n, client)| (std::cmp::Reverse(*n), *client));
    let list: Vec<String> = rows.into_iter().map(|(n, client)| format!("{client} ({n})")).collect();
    Some(list.join(", ")).filter(|text| !text.is_empty())
}
