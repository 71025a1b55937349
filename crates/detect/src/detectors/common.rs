//! Arithmetic that several detectors share.

use crate::client::{ByClient, N_CLIENTS, UNKNOWN, client_name};
use evidence::{Count, SharedTrait};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fmt::Display;

/// The latest rows of something that grows, oldest first.
#[derive(Debug)]
pub(super) struct LatestRows<T>(VecDeque<T>);

impl<T> Default for LatestRows<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> LatestRows<T> {
    /// Adds a row. If there are more than `most` then, the oldest is dropped.
    pub(super) fn push(&mut self, row: T, most: usize) {
        self.0.push_back(row);
        if self.0.len() > most {
            self.0.pop_front();
        }
    }

    /// Drops the oldest rows for as long as `is_old` holds.
    pub(super) fn forget_while(&mut self, is_old: impl Fn(&T) -> bool) {
        while self.0.front().is_some_and(&is_old) {
            self.0.pop_front();
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter()
    }
}

/// A share that is summed over several slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    part: u64,
    whole: u64,
}

impl Mean {
    pub(super) fn add(self, part: u64, whole: u64) -> Self {
        Self { part: self.part + part, whole: self.whole + whole }
    }

    /// The share in percent, at most 100; `None` if the whole is 0.
    pub(super) fn percent(self) -> Option<u64> {
        (self.part * 100).checked_div(self.whole).map(|percent| percent.min(100))
    }
}

/// Adds `more` to `sums`, client by client.
pub(super) fn add(sums: &mut ByClient, more: &ByClient) {
    for (sum, n) in sums.iter_mut().zip(more) {
        *sum += n;
    }
}

/// The JSON form of counts by client: only clients with a count above 0, by name.
pub(super) mod by_client {
    use super::*;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(by_client: &ByClient, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = by_client.iter().enumerate().filter(|(_, n)| **n > 0);
        let rows: Map<_, _> = rows.map(|(client, n)| (client_name(client).to_owned(), Value::from(*n))).collect();
        rows.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByClient, D::Error> {
        let rows = Map::deserialize(deserializer)?;
        Ok(std::array::from_fn(|client| rows.get(client_name(client)).and_then(Value::as_u64).unwrap_or(0)))
    }
}

/// A text such as `prysm (18), teku (2)`, the largest first; `None` if all counts are 0.
pub(super) fn clients_in_words(by_client: &ByClient) -> Option<String> {
    let mut rows: Vec<(u64, &str)> = (0..N_CLIENTS).map(|client| (by_client[client], client_name(client))).collect();
    rows.retain(|(n, _)| *n > 0);
    rows.sort_by_key(|(n, client)| (std::cmp::Reverse(*n), *client));
    (!rows.is_empty()).then(|| listed(rows.iter().map(|(n, client)| format!("{client} ({n})")), ", "))
}

pub(super) fn listed(items: impl IntoIterator<Item = impl Display>, separator: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator)
}

/// The client as a trait that these validators or blocks share.
pub(super) fn shared_client((client, members): (usize, u64)) -> SharedTrait {
    SharedTrait { what: "client".into(), value: client_name(client).into(), members: Count(members) }
}

/// The named client that has at least `percent` of the sum, if there is one. The sum includes
/// unknown clients.
pub(super) fn one_client(by_client: &ByClient, percent: u64) -> Option<(usize, u64)> {
    let all: u64 = by_client.iter().sum();
    let (client, most) = by_client.iter().enumerate().filter(|(client, _)| *client != UNKNOWN).max_by_key(|(_, n)| **n)?;
    (all > 0 && *most * 100 >= all * percent).then_some((client, *most))
}
