//! Reads lists from CSV and TOML files.
//!
//! A CSV file has a header and then one row for each entry. The column `key` is required. The
//! column `group` is required in lists of watched keys. The column `duty` is optional. Every other
//! column is a label with the column's name. A row where it is empty does not have that label.
//!
//! ```text
//! group,key,operator,client,duty
//! acme-1,100-199,acme,teku,
//! acme-1,0x8f2c..,acme,lighthouse,migrating
//! ```
//!
//! A TOML file has `[[groups]]` like the configuration, but without kill switches. A list of other
//! people's keys has `[[entities]]` with `keys` and `labels` instead.

use super::ListBuilder;
use crate::config::GroupConfig;
use detect::watch::{Duty, Label, Selector};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest list that is read: two million rows of 128 bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

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

/// Adds the entries of a file. If `watches` is true, the file defines groups. Otherwise it only
/// adds labels.
pub(super) fn read(at: &str, path: &Path, watches: bool, into: &mut ListBuilder) {
    let at = format!("{at} ({})", path.display());
    let text = match read_text(path) {
        Ok(text) => text,
        Err(reason) => return into.wrong(at, reason),
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => csv(&at, &text, watches, into),
        Some("toml") => toml(&at, &text, watches, into),
        _ => into.wrong(at, "is neither .csv nor .toml; name it by what is in it"),
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}; check the path and its permissions");
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("has {length} bytes; more than {MAX_FILE_BYTES} are not read, use ranges or split it"));
    }
    std::fs::read_to_string(path).map_err(unreadable)
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
        into.group(&format!("{at} groups[{nth}]"), &GroupConfig { name, keys, labels, duty, kill_switch: None }, true);
    }
    for (nth, TomlEntity { keys, labels }) in file.entities.into_iter().enumerate() {
        let entity = GroupConfig { name: String::new(), keys, labels, duty: None, kill_switch: None };
        into.group(&format!("{at} entities[{nth}]"), &entity, false);
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
    let key = at("key").ok_or_else(|| missing("key"))?;
    let mut labels = Vec::new();
    for (position, name) in header.iter().enumerate() {
        if !matches!(name, "group" | "key" | "duty") {
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
