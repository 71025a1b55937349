//! Reads a [`Config`] from text and reports all misfits at once: unknown keys, and values of a
//! wrong type.
//!
//! The smallest possible part that does not fit is left out, so that the rest can be checked in the
//! same run.

use super::Config;
use actions::config::Problem;
use serde::Deserialize as _;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Keys that the reference file shows only in comments.
const OPTIONAL: [&str; 6] =
    ["network.name", "network.config", "network.state", "gossip.identity_file", "alerts.routes", "api.public_url"];
const UNKNOWN: &str = "unknown; see `slashwatch config show-defaults`";

/// A configuration without the parts that do not fit, and the problems of these parts.
pub(super) struct Read {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    pub(super) dropped: DroppedElements,
}

/// The elements that were left out of lists. For each path of a list: their positions in the file,
/// ascending.
#[derive(Default)]
pub(super) struct DroppedElements(BTreeMap<String, Vec<usize>>);

impl DroppedElements {
    /// Converts a path in the configuration that was read into the path in the file.
    pub(super) fn in_file(&self, path: &str) -> String {
        for (list, dropped) in &self.0 {
            let Some((nth, below)) = path.strip_prefix(list).and_then(|rest| rest.strip_prefix('[')?.split_once(']')) else {
                continue;
            };
            let Ok(mut nth) = nth.parse::<usize>() else { continue };
            for gone in dropped {
                nth += usize::from(*gone <= nth);
            }
            return format!("{list}[{nth}]{below}");
        }
        path.to_owned()
    }
}

/// Reads a text and collects the parts that do not fit.
///
/// # Errors
/// The text is not TOML.
pub(super) fn read(text: &str) -> Result<Read, String> {
    let mut given: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let known: Table = Config::defaults_toml().parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut misfits = Misfits::default();
    drop_unknown("", &mut given, &known, &mut misfits.problems);
    let config = match Config::deserialize(given.clone()) {
        Ok(config) => config,
        Err(_) => {
            misfits.drop_below(&mut Vec::new(), &mut given);
            Config::deserialize(given).map_err(|error| error.to_string())?
        }
    };
    Ok(Read { config, problems: misfits.problems, dropped: misfits.dropped })
}

/// Removes the keys that the reference file does not have, and reports them.
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

#[derive(Default)]
struct Misfits {
    problems: Vec<Problem>,
    dropped: DroppedElements,
}

impl Misfits {
    /// Removes the values that do not fit. Each value is tried as the only value of a file. Every
    /// option has a default, so an error can only come from that value.
    fn drop_below(&mut self, at: &mut Vec<String>, given: &mut Table) {
        given.retain(|key, value| {
            at.push(key.to_string());
            let path = at.join(".");
            let fits = match value {
                // If the key must not be a section, the section is reported as a whole.
                Value::Table(table) if misfit(at, Value::Table(Table::new())).is_none() => {
                    self.drop_below(at, table);
                    true
                }
                Value::Array(list) => {
                    let (mut nth, mut gone) = (0, Vec::new());
                    list.retain_mut(|element| {
                        let misfit = |element: &Value| misfit(at, Value::Array(vec![element.clone()]));
                        let fits = self.drop_blamed(&format!("{path}[{nth}]"), element, &misfit);
                        if !fits {
                            gone.push(nth);
                        }
                        nth += 1;
                        fits
                    });
                    self.dropped.0.insert(path.clone(), gone);
                    self.tell(path, misfit(at, value.clone()))
                }
                _ => self.tell(path, misfit(at, value.clone())),
            };
            at.pop();
            fits
        });
    }

    /// Returns true if the value fits. Otherwise it reports the problem.
    fn tell(&mut self, path: String, misfit: Option<String>) -> bool {
        let fits = misfit.is_none();
        self.problems.extend(misfit.map(|text| Problem { path, text: in_words(&text) }));
        fits
    }

    /// Removes from a value the parts that do not fit, one after the other. Returns true if the
    /// rest fits.
    fn drop_blamed(&mut self, path: &str, value: &mut Value, misfit: &dyn Fn(&Value) -> Option<String>) -> bool {
        let mut told = Vec::new();
        while let Some(error) = misfit(value) {
            let is_cured = |value: &Value| misfit(value).as_ref() != Some(&error);
            // A missing key has no position in the file, so the whole value is reported instead.
            let blamed = if error.contains("missing field") { None } else { blame(value, &is_cured) };
            let Some((below, rest)) = blamed else {
                // A part that was left out is missing now. That follows from its own problem, so it
                // is not reported again.
                if !told.iter().any(|key: &String| error.contains(&format!("missing field `{key}`"))) {
                    self.tell(path.to_owned(), Some(error));
                }
                return false;
            };
            told.extend(below.rsplit('.').next().map(str::to_owned));
            self.tell(format!("{path}{below}"), Some(error));
            *value = rest;
        }
        true
    }
}

/// Finds the smallest part of a value whose removal cures the error. Returns the path of the part,
/// relative to the value, and the value without it.
fn blame(value: &Value, is_cured: &dyn Fn(&Value) -> bool) -> Option<(String, Value)> {
    let Value::Table(table) = value else { return None };
    for (key, part) in table {
        let mut rest = table.clone();
        rest.remove(key);
        if !is_cured(&Value::Table(rest.clone())) {
            continue;
        }
        let with = |part: Value| {
            let mut whole = table.clone();
            whole.insert(key.clone(), part);
            Value::Table(whole)
        };
        let smaller = blame(part, &|part| is_cured(&with(part.clone())));
        return Some(match smaller {
            Some((below, part)) => (format!(".{key}{below}"), with(part)),
            None => (format!(".{key}"), Value::Table(rest)),
        });
    }
    None
}

/// Returns why a file with only this value cannot be read, or `None` if it can.
fn misfit(at: &[String], value: Value) -> Option<String> {
    let nested = at.iter().rev().fold(value, |inner, key| Value::Table(Table::from_iter([(key.clone(), inner)])));
    let error = Config::deserialize(nested).err()?;
    Some(error.message().trim().replace('\n', " "))
}

/// Rewrites an error so that it describes what a value must look like, instead of naming Rust
/// types.
fn in_words(misfit: &str) -> String {
    const WORDS: [(&str, &str); 7] = [
        ("a duration", "a duration in quotes such as \"30s\", \"5m\" or \"1h\""),
        ("a boolean", "true or false, without quotes"),
        ("a sequence", "a list in brackets such as [\"a\", \"b\"]"),
        ("a map", "a section such as [name], or { key = \"value\" }"),
        ("path string", "a path in quotes such as \"/var/lib/slashwatch\""),
        ("a string", "text in quotes such as \"abc\""),
        ("socket address", "an address and a port in quotes such as \"127.0.0.1:5080\""),
    ];
    if misfit == "invalid socket address syntax" {
        return "expected an address and a port in quotes such as \"127.0.0.1:5080\"".into();
    }
    let Some((found, expected)) = misfit.split_once(", expected ") else { return misfit.to_owned() };
    if matches!(expected, "u8" | "u16" | "u32" | "u64" | "usize") {
        return format!("{found}, expected a whole number, 0 or more, without quotes such as 10");
    }
    match WORDS.iter().find(|(called, _)| *called == expected) {
        Some((_, words)) => format!("{found}, expected {words}"),
        None => misfit.to_owned(),
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}
