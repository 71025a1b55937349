//! Reads a [`Config`] from text and reports all misfits at once: unknown keys, and values of a
//! wrong type.
//!
//! `serde` stops at the first misfit, and `serde_path_to_error` says where it is. That part is
//! removed and the rest is read again, until everything that is left fits. So the rest can be
//! checked in the same run.

use super::Config;
use actions::config::Problem;
use serde_path_to_error::Segment;
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// Maximum number of misfits that are reported at once. The file is read again for each of them.
const MAX_MISFITS: usize = 100;

/// A configuration without the parts that do not fit, and the problems of these parts.
pub(super) struct Read {
    /// `None` if there are more misfits than are reported.
    pub(super) config: Option<Config>,
    pub(super) problems: Vec<Problem>,
    pub(super) dropped: DroppedElements,
}

/// Positions in the file of the elements that were left out of lists, by path of the list.
#[derive(Default)]
pub(super) struct DroppedElements(BTreeMap<String, BTreeSet<usize>>);

impl DroppedElements {
    /// Converts a path in the configuration that was read into the path in the file.
    pub(super) fn in_file(&self, path: &str) -> String {
        let mut parts = path.split('[');
        let mut in_file = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let position = part.split_once(']').and_then(|(nth, below)| Some((nth.parse::<usize>().ok()?, below)));
            in_file = match position {
                Some((mut nth, below)) => {
                    for dropped in self.0.get(&in_file).into_iter().flatten() {
                        nth += usize::from(*dropped <= nth);
                    }
                    format!("{in_file}[{nth}]{below}")
                }
                None => format!("{in_file}[{part}"),
            };
        }
        in_file
    }

    fn add(&mut self, path_in_file: &str) {
        if let Some((list, nth)) = path_in_file.strip_suffix(']').and_then(|path| path.rsplit_once('['))
            && let Ok(nth) = nth.parse()
        {
            self.0.entry(list.to_owned()).or_default().insert(nth);
        }
    }
}

/// Reads a text and collects the parts that do not fit.
///
/// # Errors
/// The text is not TOML.
pub(super) fn read(text: &str) -> Result<Read, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut given = Value::Table(table);
    let (mut problems, mut dropped) = (Vec::<Problem>::new(), DroppedElements::default());
    loop {
        let misfit = match Misfit::first_in(&given) {
            Ok(config) => return Ok(Read { config: Some(config), problems, dropped }),
            Err(misfit) => misfit,
        };
        let path = dropped.in_file(&path_text(&misfit.path));
        // A part that was removed is missing now. That follows from its own problem, so it is not
        // reported again.
        let missing = misfit.missing_key().map(|key| format!("{path}.{key}"));
        if !missing.is_some_and(|missing| problems.iter().any(|problem| problem.path == missing)) {
            problems.push(Problem { path: path.clone(), text: in_words(&misfit.text) });
        }
        if problems.len() >= MAX_MISFITS {
            problems.push(Problem { path, text: "what follows is not checked; correct these problems first".into() });
            return Ok(Read { config: None, problems, dropped });
        }
        if !remove(&mut given, &misfit.path) {
            return Err(misfit.text);
        }
        dropped.add(&path);
    }
}

/// A part of the file that does not fit, and the reason.
struct Misfit {
    path: Vec<Segment>,
    text: String,
}

impl Misfit {
    /// Reads the configuration. Returns its first misfit if there is one.
    fn first_in(given: &Value) -> Result<Config, Self> {
        let error = match serde_path_to_error::deserialize(given.clone()) {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        let steps = error.path().iter().take_while(|step| matches!(step, Segment::Map { .. } | Segment::Seq { .. }));
        let mut misfit = Self { path: steps.cloned().collect(), text: message(error.inner()) };
        misfit.path.extend(misfit.key_in_section(given).map(|key| Segment::Map { key }));
        Err(misfit)
    }

    /// Finds the key of a section whose removal changes the error. An error about a flattened
    /// struct, as in `[watch]` and in `[[alerts.routes]]`, names only the section. `type` decides
    /// how other keys are read, so it is tried last.
    fn key_in_section(&self, given: &Value) -> Option<String> {
        let section = self.path.iter().try_fold(given, |value, step| match step {
            Segment::Map { key } => value.get(key),
            Segment::Seq { index } => value.get(index),
            Segment::Enum { .. } | Segment::Unknown => None,
        })?;
        let mut keys: Vec<&String> = section.as_table().filter(|_| self.missing_key().is_none())?.keys().collect();
        keys.sort_by_key(|key| *key == "type");
        let is_cause = |key: &&String| {
            let (mut rest, mut path) = (given.clone(), self.path.clone());
            path.push(Segment::Map { key: (*key).clone() });
            remove(&mut rest, &path);
            serde_path_to_error::deserialize::<_, Config>(rest).err().is_none_or(|error| message(error.inner()) != self.text)
        };
        keys.into_iter().find(is_cause).cloned()
    }

    /// Returns the name of the key that is missing, if that is the problem. A missing key has no
    /// position in the file, so the path of the problem is that of its section.
    fn missing_key(&self) -> Option<&str> {
        self.text.strip_prefix("missing field `")?.strip_suffix('`')
    }
}

/// Removes the value at a path. Returns false if there is none.
fn remove(value: &mut Value, path: &[Segment]) -> bool {
    match (path, value) {
        ([Segment::Map { key }], Value::Table(table)) => table.remove(key).is_some(),
        ([Segment::Seq { index }], Value::Array(list)) if *index < list.len() => {
            list.remove(*index);
            true
        }
        ([Segment::Map { key }, below @ ..], Value::Table(table)) => table.get_mut(key).is_some_and(|value| remove(value, below)),
        ([Segment::Seq { index }, below @ ..], Value::Array(list)) => {
            list.get_mut(*index).is_some_and(|value| remove(value, below))
        }
        _ => false,
    }
}

/// Writes a path as in `alerts.routes[0].url`.
fn path_text(path: &[Segment]) -> String {
    let mut text = String::new();
    for step in path {
        let dot = if text.is_empty() { "" } else { "." };
        match step {
            Segment::Seq { index } => text += &format!("[{index}]"),
            step => text += &format!("{dot}{step}"),
        }
    }
    text
}

fn message(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', " ")
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
    if let Some(unknown) = misfit.strip_prefix("unknown field ") {
        let known = unknown.split_once(", expected ").map(|(_, known)| format!("expected {known}; ")).unwrap_or_default();
        return format!("unknown; {known}see `slashwatch config show-defaults`");
    }
    let Some((found, expected)) = misfit.split_once(", expected ") else { return misfit.to_owned() };
    if matches!(expected, "u8" | "u16" | "u32" | "u64" | "usize") {
        return format!("{found}, expected a whole number, 0 or more, without quotes such as 10");
    }
    let expected = if expected.starts_with("struct ") { "a map" } else { expected };
    match WORDS.iter().find(|(called, _)| *called == expected) {
        Some((_, words)) => format!("{found}, expected {words}"),
        None => misfit.to_owned(),
    }
}
