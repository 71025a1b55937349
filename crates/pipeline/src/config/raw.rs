//! From text to a [`Config`], with everything that does not fit told at once: keys that nobody knows, and values of another type.
//!
//! What does not fit is left out, so that the rest can be checked in the same run.

use super::{Config, Problem};
use serde::Deserialize as _;
use toml::{Table, Value};

/// Keys that the reference shows commented out.
const OPTIONAL: [&str; 5] = ["network.name", "network.config", "network.state", "gossip.identity_file", "alerts.routes"];
const UNKNOWN: &str = "unknown; see `slashwatch config show-defaults`";

/// The configuration without what does not fit, and what that is.
///
/// # Errors
/// The text is no TOML.
pub(super) fn read(text: &str) -> Result<(Config, Vec<Problem>), String> {
    let mut given: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let known: Table = Config::defaults_toml().parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut problems = Vec::new();
    drop_unknown("", &mut given, &known, &mut problems);
    let config = match Config::deserialize(given.clone()) {
        Ok(config) => config,
        Err(_) => {
            drop_misfits(&mut given, &mut problems);
            Config::deserialize(given).map_err(|error| error.to_string())?
        }
    };
    Ok((config, problems))
}

/// Compares the file's keys with those the reference has.
fn drop_unknown(path: &str, given: &mut Table, known: &Table, problems: &mut Vec<Problem>) {
    given.retain(|key, value| {
        let path = below(path, key);
        match (known.get(key), value) {
            (Some(Value::Table(known)), Value::Table(given)) => drop_unknown(&path, given, known, problems),
            (Some(_), _) => {}
            (None, _) if OPTIONAL.contains(&path.as_str()) => {}
            (None, _) => {
                problems.push(Problem { path, text: UNKNOWN.into() });
                return false;
            }
        }
        true
    });
}

/// Tries each value as the only one of a file: everything has a default, so that only it can be what is wrong.
fn drop_misfits(given: &mut Table, problems: &mut Vec<Problem>) {
    let mut at = Vec::new();
    drop_misfits_below(&mut at, given, problems);
}

fn drop_misfits_below(at: &mut Vec<String>, given: &mut Table, problems: &mut Vec<Problem>) {
    given.retain(|key, value| {
        at.push(key.to_string());
        let fits = match value {
            // A section that should be none is told as a whole.
            Value::Table(table) if misfit(at, Value::Table(Table::new())).is_none() => {
                drop_misfits_below(at, table, problems);
                true
            }
            Value::Array(list) => {
                let mut nth = 0;
                list.retain(|element| {
                    let misfit = misfit(at, Value::Array(vec![element.clone()]));
                    nth += 1;
                    tell(format!("{}[{}]", at.join("."), nth - 1), misfit, problems)
                });
                tell(at.join("."), misfit(at, value.clone()), problems)
            }
            _ => tell(at.join("."), misfit(at, value.clone()), problems),
        };
        at.pop();
        fits
    });
}

/// Whether it fits; if not, that is a problem.
fn tell(path: String, misfit: Option<String>, problems: &mut Vec<Problem>) -> bool {
    let fits = misfit.is_none();
    problems.extend(misfit.map(|text| Problem { path, text }));
    fits
}

/// Why a file with nothing but this value cannot be read.
fn misfit(at: &[String], value: Value) -> Option<String> {
    let nested = at.iter().rev().fold(value, |inner, key| Value::Table(Table::from_iter([(key.clone(), inner)])));
    let error = Config::deserialize(nested).err()?;
    Some(error.message().trim().replace('\n', " "))
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}
