//! The database's column families and keys. They are a format: a change needs a new [`FORMAT`] and a fixture of the old.
//!
//! Numbers are big-endian, so that byte order is number order.
//!
//! | family | key | value | scanned by |
//! |---|---|---|---|
//! | `meta` | `format`, `genesis_validators_root`, `outbox_counts` | u32; 32 bytes; three u64 | nobody |
//! | `findings` | seq, u64 | the finding's JSON | everyone who reads in order |
//! | `finding_ids` | finding id, 32 B | seq, u64 | nobody |
//! | `by_validator` | validator, u64, then seq, u64 | empty | filter by validator: its findings, oldest first |
//! | `by_kind` | kind, 32 B, padded with zeros, then seq, u64 | empty | filter by kind: its findings, oldest first |
//! | `by_slot` (from format 3) | slot, u64, then seq, u64 | empty | filter by slots |
//! | `by_severity` (from format 3) | 0 info, 1 warning, 2 critical, one byte, then seq, u64 | empty | filter by severity |
//! | `by_label` (from format 3) | first 16 B of SHA-256(label), then seq, u64 | empty | filter by label, as in `operator=acme` |
//! | `evidence` | evidence id, 32 B | see [`crate::proof`] | nobody |
//! | `deliveries` | seq, u64, then route name | the delivery's JSON | one finding's deliveries |
//! | `pending` (from format 4) | route name, 64 B, padded with zeros, then priority, u8, then time, u64 ns, then seq, u64 | empty | a route's pending deliveries, those of one priority by time of next attempt |
//! | `due` (up to format 3) | as `pending`, without the priority | empty | nobody any more |
//! | `checkpoints` | name | the source's own | nobody |
//! | `incidents` (from format 2) | incident id, 32 B | revision, u64, then the incident's JSON, from format 5 with its `tracking` | nobody |
//! | `incident_revisions` (from format 2) | revision, u64 | incident id, 32 B | who follows their changes, the latest change last |
//!
//! Seq numbers start at 1 and are given without gaps; findings that cannot be punished are deleted after a time. 0 is "before the first".
//! A route comes first in `pending`, so that a receiver that
//! is down, with 100 000 deliveries waiting, costs the others one seek. Revisions grow and have gaps: an incident that changes
//! gives up its old one. Format 1 had no incidents; opened for writing it has an empty list of them, opened for reading it has none.
//! Opening an older format for writing lists all its findings in the families of format 3, which takes 10 us for each of them, and only then
//! raises the number: a crash in between begins again. Opened for reading, it is filtered by parsing instead.
//! Up to format 3 deliveries waited in `due`, without a priority. What waits there is moved when the database is opened for writing; opened for
//! reading it has nothing that waits to be delivered.
//! Up to format 4 an incident's key and peak stood among its `details`. Reading takes them out of
//! there, and writing the incident again stores them as `tracking`.

use crate::kind::MAX_KIND_LEN;
use crate::outbox::{MAX_ROUTE_LEN, Priority, RouteName};
use crate::{Kind, Severity, Time};
use consensus::{Slot, ValidatorIndex};
use sha2::{Digest as _, Sha256};

/// The number of the format above.
pub const FORMAT: u32 = 5;

pub(crate) const META: &str = "meta";
pub(crate) const FINDINGS: &str = "findings";
pub(crate) const FINDING_IDS: &str = "finding_ids";
pub(crate) const BY_VALIDATOR: &str = "by_validator";
pub(crate) const BY_KIND: &str = "by_kind";
pub(crate) const EVIDENCE: &str = "evidence";
pub(crate) const DELIVERIES: &str = "deliveries";
pub(crate) const DUE: &str = "due";
pub(crate) const PENDING: &str = "pending";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const INCIDENTS: &str = "incidents";
pub(crate) const INCIDENT_REVISIONS: &str = "incident_revisions";
pub(crate) const BY_SLOT: &str = "by_slot";
pub(crate) const BY_SEVERITY: &str = "by_severity";
pub(crate) const BY_LABEL: &str = "by_label";

/// Those of format 1, which every database has.
pub(crate) const FIRST_FAMILIES: [&str; 9] =
    [META, FINDINGS, FINDING_IDS, BY_VALIDATOR, BY_KIND, EVIDENCE, DELIVERIES, DUE, CHECKPOINTS];
pub(crate) const FAMILIES: [&str; 15] = [
    META,
    FINDINGS,
    FINDING_IDS,
    BY_VALIDATOR,
    BY_KIND,
    EVIDENCE,
    DELIVERIES,
    DUE,
    CHECKPOINTS,
    INCIDENTS,
    INCIDENT_REVISIONS,
    BY_SLOT,
    BY_SEVERITY,
    BY_LABEL,
    PENDING,
];

pub(crate) const META_FORMAT: &[u8] = b"format";
pub(crate) const META_ROOT: &[u8] = b"genesis_validators_root";
pub(crate) const META_COUNTS: &[u8] = b"outbox_counts";

/// Builds and reads every key that is more than a name or an id.
pub(crate) struct Key;

impl Key {
    pub(crate) fn seq(seq: u64) -> [u8; 8] {
        seq.to_be_bytes()
    }

    pub(crate) fn by_validator(validator: ValidatorIndex, seq: u64) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&validator.as_u64().to_be_bytes());
        key[8..].copy_from_slice(&seq.to_be_bytes());
        key
    }

    pub(crate) fn by_kind(kind: &Kind, seq: u64) -> [u8; MAX_KIND_LEN + 8] {
        let mut key = [0; MAX_KIND_LEN + 8];
        key[..kind.as_str().len()].copy_from_slice(kind.as_str().as_bytes());
        key[MAX_KIND_LEN..].copy_from_slice(&seq.to_be_bytes());
        key
    }

    pub(crate) fn by_slot(slot: Slot, seq: u64) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&slot.as_u64().to_be_bytes());
        key[8..].copy_from_slice(&seq.to_be_bytes());
        key
    }

    pub(crate) fn by_severity(severity: Severity, seq: u64) -> [u8; 9] {
        let mut key = [0; 9];
        key[0] = match severity {
            Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Critical => 2,
        };
        key[1..].copy_from_slice(&seq.to_be_bytes());
        key
    }

    /// Bytes that stand for a label in a key: labels have any length.
    pub(crate) const LABEL_BYTES: usize = 16;

    pub(crate) fn by_label(label: &str, seq: u64) -> [u8; Self::LABEL_BYTES + 8] {
        let mut key = [0; Self::LABEL_BYTES + 8];
        key[..Self::LABEL_BYTES].copy_from_slice(&Sha256::digest(label)[..Self::LABEL_BYTES]);
        key[Self::LABEL_BYTES..].copy_from_slice(&seq.to_be_bytes());
        key
    }

    pub(crate) fn delivery(seq: u64, route: &RouteName) -> Vec<u8> {
        [&seq.to_be_bytes(), route.as_str().as_bytes()].concat()
    }

    pub(crate) fn pending(route: &RouteName, priority: Priority, at: Time, seq: u64) -> [u8; MAX_ROUTE_LEN + 17] {
        let mut key = [0; MAX_ROUTE_LEN + 17];
        key[..route.as_str().len()].copy_from_slice(route.as_str().as_bytes());
        key[MAX_ROUTE_LEN] = priority as u8;
        key[MAX_ROUTE_LEN + 1..MAX_ROUTE_LEN + 9].copy_from_slice(&at.as_unix_ns().to_be_bytes());
        key[MAX_ROUTE_LEN + 9..].copy_from_slice(&seq.to_be_bytes());
        key
    }

    /// Past all keys of a route in `pending`.
    pub(crate) fn after_route(route: &RouteName) -> [u8; MAX_ROUTE_LEN + 1] {
        let mut key = [u8::MAX; MAX_ROUTE_LEN + 1];
        key[..MAX_ROUTE_LEN].fill(0);
        key[..route.as_str().len()].copy_from_slice(route.as_str().as_bytes());
        key
    }

    /// The last eight bytes of a key that ends in a seq.
    pub(crate) fn trailing_seq(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(*key.last_chunk()?))
    }

    /// Route, priority, time and seq of a key of `pending`.
    pub(crate) fn read_pending(key: &[u8]) -> Option<(RouteName, Priority, Time, u64)> {
        let (route, rest) = key.split_at_checked(MAX_ROUTE_LEN)?;
        let (priority, rest) = rest.split_first()?;
        let priority = Priority::ALL.into_iter().find(|known| *known as u8 == *priority)?;
        let at = Time::from_unix_ns(u64::from_be_bytes(*rest.first_chunk()?));
        (rest.len() == 16).then_some(())?;
        Some((read_route(route)?, priority, at, Self::trailing_seq(rest)?))
    }

    /// Route, time and seq of a key of `due`, as formats 1 to 3 have them.
    pub(crate) fn read_due(key: &[u8]) -> Option<(RouteName, Time, u64)> {
        let (route, rest) = key.split_at_checked(MAX_ROUTE_LEN)?;
        let at = Time::from_unix_ns(u64::from_be_bytes(*rest.first_chunk()?));
        (rest.len() == 16).then_some(())?;
        Some((read_route(route)?, at, Self::trailing_seq(rest)?))
    }
}

fn read_route(padded: &[u8]) -> Option<RouteName> {
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    RouteName::new(std::str::from_utf8(&padded[..end]).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_number_order() {
        assert!(Key::seq(255) < Key::seq(256));
        assert!(Key::by_validator(ValidatorIndex::new(1), u64::MAX) < Key::by_validator(ValidatorIndex::new(2), 0));
        assert!(Key::by_validator(ValidatorIndex::new(256), 1) > Key::by_validator(ValidatorIndex::new(255), 9));
        let kind = |name: &str| serde_json::from_value::<Kind>(name.into()).unwrap();
        assert!(Key::by_kind(&kind("double"), 9) < Key::by_kind(&kind("double_vote"), 0), "a prefix is another kind");
        assert!(Key::by_slot(Slot::new(1), u64::MAX) < Key::by_slot(Slot::new(2), 0));
        assert!(Key::by_severity(Severity::Info, u64::MAX) < Key::by_severity(Severity::Warning, 0));
        assert_ne!(Key::by_label("operator=a", 1)[..16], Key::by_label("operator=b", 1)[..16]);
        let route = RouteName::new("ops").unwrap();
        let key = |priority, at, seq| Key::pending(&route, priority, Time::from_unix_ns(at), seq);
        assert!(key(Priority::Watched, 255, 7) < key(Priority::Watched, 256, 1));
        assert!(key(Priority::Watched, 256, 7) < key(Priority::NewOffender, 255, 1), "priority goes before time");
        assert!(key(Priority::Worthless, u64::MAX, u64::MAX)[..] < Key::after_route(&route)[..]);
        let read = Key::read_pending(&key(Priority::Ordinary, 256, 1));
        assert_eq!(read, Some((route.clone(), Priority::Ordinary, Time::from_unix_ns(256), 1)));
    }
}
