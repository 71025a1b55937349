//! Arithmetic that several detectors share.

use crate::client::{ByClient, UNKNOWN, client_name};
use serde_json::{Map, Value};

/// A share over several slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    part: u64,
    whole: u64,
}

impl Mean {
    pub(super) fn add(self, part: u64, whole: u64) -> Self {
        Self { part: self.part + part, whole: self.whole + whole }
    }

    /// `None` of nothing.
    pub(super) fn percent(self) -> Option<u64> {
        (self.part * 100).checked_div(self.whole).map(|percent| percent.min(100))
    }
}

/// Adds up by client.
pub(super) fn add(sums: &mut ByClient, more: &ByClient) {
    for (sum, n) in sums.iter_mut().zip(more) {
        *sum += n;
    }
}

/// What [`clients_json`] wrote.
pub(super) fn clients_of_json(json: &Value) -> ByClient {
    std::array::from_fn(|client| json.get(client_name(client)).and_then(Value::as_u64).unwrap_or(0))
}

/// The clients that have any, by name.
pub(super) fn clients_json(by_client: &ByClient) -> Value {
    let rows = by_client.iter().enumerate().filter(|(_, n)| **n > 0);
    Value::Object(rows.map(|(client, n)| (client_name(client).to_owned(), Value::from(*n))).collect::<Map<_, _>>())
}

/// The client that has at least `percent` of all that is known, if one has.
pub(super) fn one_client(by_client: &ByClient, percent: u64) -> Option<(usize, u64)> {
    let all: u64 = by_client.iter().sum();
    let (client, most) = by_client.iter().enumerate().filter(|(client, _)| *client != UNKNOWN).max_by_key(|(_, n)| **n)?;
    (all > 0 && *most * 100 >= all * percent).then_some((client, *most))
}
