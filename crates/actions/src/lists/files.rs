//! Reads lists from CSV and TOML files, and the lists of validator ranges of test networks.
//!
//! A CSV file has a header and then one row for each entry. A column `key` is required; what others
//! call it is taken too, see [`KEY_COLUMNS`]. The column `group` is required in lists of watched
//! keys. The column `duty` is optional. Every other column is a label with the column's name. A row
//! where it is empty does not have that label.
//!
//! ```text
//! group,key,operator,client,duty
//! acme-1,100-199,acme,teku,
//! acme-1,0x8f2c..,acme,lighthouse,migrating
//! ```
//!
//! A TOML file has `[[groups]]` like the configuration, but without kill switches. A list of other
//! people's keys has `[[entities]]` with `keys` and `labels` instead.
//!
//! Test networks publish who runs which indices as `validator-ranges.yaml`, a line `0-63: name` for
//! each range, or as JSON with the same in `ranges`. The name becomes the label `node`. A client in
//! the name, as in `01-geth-lighthouse-lighthouse`, becomes the label `client`.

use super::ListBuilder;
use crate::config::GroupConfig;
use detect::client::{N_CLIENTS, UNKNOWN, client_name};
use detect::watch::{Duty, Entry, Label, MAX_ENTRIES_OF, Selector};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Largest list that is read: two million rows of 128 bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Names of the column with the keys, the best first. Published lists of pools use all of them; the
/// further ones of a file are left out.
const KEY_COLUMNS: [&str; 6] = ["key", "index", "validator_index", "pubkey", "public_key", "withdrawal_credentials"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct TomlFile {
    groups: Vec<TomlGroup>,
    entities: Vec<TomlEntity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlGroup {
    name: String,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    duty: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlEntity {
    keys: Vec<String>,
    labels: BTreeMap<String, String>,
}

/// Endings of names of lists.
const ENDINGS: [&str; 5] = ["csv", "toml", "yaml", "yml", "json"];

/// Adds the entries of a file. If `watches` is true, the file defines groups. Otherwise it only
/// adds labels.
pub(super) fn read(at: &str, path: &Path, watches: bool, into: &mut ListBuilder) {
    let at = format!("{at} ({})", path.display());
    let text = match read_text(path) {
        Ok(text) => text,
        Err(reason) => return into.wrong(at, reason),
    };
    parse(&at, path, &text, watches, into);
}

/// Whether the name of a file says what kind of list it is.
pub(super) fn has_known_ending(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
}

/// Adds the entries of a text. The name of its file says what kind of list it is.
pub(super) fn parse(at: &str, path: &Path, text: &str, watches: bool, into: &mut ListBuilder) {
    let n_before = into.list.entries().len();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => csv(at, text, watches, into),
        Some("toml") => toml(at, text, watches, into),
        Some("yaml" | "yml" | "json") if !watches => ranges(at, text, into),
        Some("yaml" | "yml" | "json") => {
            into.wrong(at, "is a list of validator ranges, which gives labels only; move it to `watch.entities`");
        }
        _ => into.wrong(at, "is neither .csv nor .toml, nor validator ranges as .yaml or .json; name it by what is in it"),
    }
    let n_named = most_named(&into.list.entries()[n_before..]);
    if n_named > MAX_ENTRIES_OF {
        into.wrong(
            at,
            format!(
                "names a validator {n_named} times by ranges, or by one address; {MAX_ENTRIES_OF} count: merge what overlaps"
            ),
        );
    }
}

/// How often ranges, or one address, name a validator at most. To find their validators takes time
/// in proportion to it, and that must not be in the hands of whoever publishes a list.
fn most_named(entries: &[Entry]) -> usize {
    let mut by_address: HashMap<&Selector, usize> = HashMap::new();
    // Where ranges begin and end. At one index, ends come first.
    let mut borders: Vec<(u64, bool)> = Vec::new();
    for entry in entries {
        match &entry.selector {
            Selector::Range { first, last } => {
                borders.extend([(first.as_u64(), true), (last.as_u64().saturating_add(1), false)]);
            }
            address @ (Selector::WithdrawalCredentials(_) | Selector::FeeRecipient(_)) => {
                *by_address.entry(address).or_default() += 1;
            }
            Selector::Index(_) | Selector::Pubkey(_) => {}
        }
    }
    borders.sort_unstable();
    let (mut open, mut most) = (0usize, by_address.into_values().max().unwrap_or_default());
    for (_, begins) in borders {
        open = if begins { open + 1 } else { open.saturating_sub(1) };
        most = most.max(open);
    }
    most
}

fn read_text(path: &Path) -> Result<String, String> {
    base::read_text_file(path, MAX_FILE_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => format!("cannot be read: {error}; use ranges or split it"),
        _ => format!("cannot be read: {error}; check the path and its permissions"),
    })
}

fn toml(at: &str, text: &str, watches: bool, into: &mut ListBuilder) {
    let file: TomlFile = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => return into.wrong(at, error.to_string().trim_end().replace('\n', " ")),
    };
    let misplaced = if watches { !file.entities.is_empty() } else { !file.groups.is_empty() };
    if misplaced {
        return into.wrong(
            at,
            "has [[groups]] among `watch.entities`, or [[entities]] among `watch.files`; move the file to the other list",
        );
    }
    for (nth, TomlGroup { name, keys, labels, duty }) in file.groups.into_iter().enumerate() {
        into.group(
            &format!("{at} groups[{nth}]"),
            &GroupConfig { name, keys, labels, duty, kill_switch: None, audit: None },
            true,
        );
    }
    for (nth, TomlEntity { keys, labels }) in file.entities.into_iter().enumerate() {
        let entity = GroupConfig { name: String::new(), keys, labels, duty: None, kill_switch: None, audit: None };
        into.group(&format!("{at} entities[{nth}]"), &entity, false);
    }
}

/// A list of validator ranges as JSON.
#[derive(Deserialize)]
struct RangesFile {
    ranges: BTreeMap<String, String>,
}

fn ranges(at: &str, text: &str, into: &mut ListBuilder) {
    if text.trim_start().starts_with('{') {
        match serde_json::from_str::<RangesFile>(text) {
            Ok(file) => file.ranges.iter().for_each(|(keys, name)| range(&format!("{at} ranges.{keys}"), keys, name, into)),
            Err(error) => into.wrong(at, format!("{error}; wanted is {{\"ranges\": {{\"0-63\": \"name\"}}}}")),
        }
        return;
    }
    // The published files have one such line for each range and nothing else of YAML.
    for (nth, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || matches!(line, "---" | "ranges:" | "{}") {
            continue;
        }
        let at = format!("{at} line {}", nth + 1);
        match line.split_once(':') {
            Some((keys, name)) => range(&at, unquoted(keys), unquoted(name), into),
            None => into.wrong(at, "is no line such as \"0-63: name\""),
        }
    }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

fn range(at: &str, keys: &str, name: &str, into: &mut ListBuilder) {
    let selector = match keys.parse::<Selector>() {
        Ok(selector) => selector,
        Err(error) => return into.wrong(at, error.to_string()),
    };
    // The beacon node decides what a vote says. Its client comes before that of the validator
    // client.
    let clients = || (0..N_CLIENTS).filter(|client| *client != UNKNOWN).map(client_name);
    let client = name.split(['-', '_']).find_map(|part| clients().find(|client| part.eq_ignore_ascii_case(client)));
    let labels = [("node", Some(name)), ("client", client)];
    let labels: Result<Vec<Label>, _> = labels.into_iter().filter_map(|(key, value)| Some(Label::new(key, value?))).collect();
    match labels {
        Ok(labels) => into.add(at, None, selector, &labels, Duty::Active),
        Err(error) => into.wrong(at, error.to_string()),
    }
}

/// Positions of the columns.
struct Columns {
    group: Option<usize>,
    key: usize,
    duty: Option<usize>,
    /// Position of each label column, with the label's name.
    labels: Vec<(usize, String)>,
}

fn csv(at: &str, text: &str, watches: bool, into: &mut ListBuilder) {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(text.as_bytes());
    let columns = match reader.headers() {
        Ok(header) => columns(header, watches),
        Err(error) => Err(error.to_string()),
    };
    let columns = match columns {
        Ok(columns) => columns,
        Err(reason) => return into.wrong(format!("{at} line 1"), reason),
    };
    let mut row = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut row) {
            Ok(false) => return,
            Ok(true) => {
                let line = row.position().map_or(0, csv::Position::line);
                if let Err(reason) = entry(&format!("{at} line {line}"), &row, &columns, into) {
                    into.wrong(format!("{at} line {line}"), reason);
                }
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                into.wrong(format!("{at} line {line}"), error.to_string());
                // A row with a wrong number of columns only loses itself. After any other error the
                // rest cannot be read as a table.
                if !matches!(error.kind(), csv::ErrorKind::UnequalLengths { .. }) {
                    return;
                }
            }
        }
    }
}

fn columns(header: &csv::StringRecord, watches: bool) -> Result<Columns, String> {
    let at = |name: &str| header.iter().position(|column| column == name);
    let missing = |name: &str| format!("has no column {name:?}; the first line names the columns, as in \"group,key,operator\"");
    let group = match (watches, at("group")) {
        (true, None) => return Err(missing("group")),
        (false, Some(_)) => {
            return Err("has a column \"group\" among `watch.entities`; move the file to `watch.files` or drop the column".into());
        }
        (_, group) => group,
    };
    let key = KEY_COLUMNS.iter().find_map(|name| at(name)).ok_or_else(|| missing("key"))?;
    let mut labels = Vec::new();
    for (position, name) in header.iter().enumerate() {
        if !matches!(name, "group" | "duty") && !KEY_COLUMNS.contains(&name) {
            Label::new(name, "x").map_err(|error| error.to_string())?;
            labels.push((position, name.to_owned()));
        }
    }
    Ok(Columns { group, key, duty: at("duty"), labels })
}

fn entry(at: &str, row: &csv::StringRecord, columns: &Columns, into: &mut ListBuilder) -> Result<(), String> {
    let selector: Selector = row.get(columns.key).unwrap_or_default().parse().map_err(|error| format!("{error}"))?;
    let group = columns.group.map(|position| row.get(position).unwrap_or_default());
    if let Some(name) = group {
        into.list.add_group(name).map_err(|error| format!("column \"group\": {error}"))?;
    }
    let duty = match columns.duty.and_then(|position| row.get(position)).filter(|text| !text.is_empty()) {
        Some(text) => text.parse::<Duty>()?,
        None => Duty::Active,
    };
    let mut labels = Vec::new();
    for (position, name) in &columns.labels {
        match row.get(*position) {
            None | Some("") => {}
            Some(value) => labels.push(Label::new(name, value).map_err(|error| error.to_string())?),
        }
    }
    into.add(at, group, selector, &labels, duty);
    Ok(())
}
