//! The database's column families and keys. They are a format, so a change needs a new [`FORMAT`]
//! and a fixture of the old one.
//!
//! Numbers are u64 unless the table says otherwise. They are big-endian, so byte order is number
//! order. A dot joins the parts of a key. "Padded" means padded with zeros.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `meta` | `format`, `genesis_validators_root`, `outbox_counts` | u32; 32 B; three u64 |
//! | `findings` | seq | the finding's JSON |
//! | `finding_ids` | finding id, 32 B | seq |
//! | `by_validator` | validator . seq | empty |
//! | `by_kind` | kind, 32 B, padded . seq | empty |
//! | `by_slot` (from format 3) | slot . seq | empty |
//! | `by_severity` (from format 3) | severity, u8 . seq | empty |
//! | `by_label` (from format 3) | first 16 B of SHA-256(label) . seq | empty |
//! | `evidence` | evidence id, 32 B | see [`crate::proof`] |
//! | `deliveries` | seq . route name | the delivery's JSON |
//! | `pending` (from format 4) | route, 64 B, padded . priority, u8 . time in ns . seq | empty |
//! | `due` (up to format 3) | route, 64 B, padded . time in ns . seq | empty |
//! | `checkpoints` | name | chosen by the source |
//! | `incidents` (from format 2) | incident id, 32 B | revision . JSON |
//! | `incident_revisions` (from format 2) | revision | incident id, 32 B |
//!
//! Who scans which column family:
//!
//! - Readers that go in the order of recording scan `findings`.
//! - The filters of a query scan the families `by_*`. A label is written as in
//!   `operator=acme`. The severity is 0 for info, 1 for warning and 2 for critical.
//! - `deliveries` is scanned for the deliveries of one finding.
//! - `pending` is scanned for the pending deliveries of a route and priority, in the order of the
//!   time of the next attempt.
//! - Readers that follow the changes of incidents scan `incident_revisions`. The latest change
//!   comes last.
//! - `checkpoints` is scanned by prefix of the name, and `evidence` for the export of all proofs.
//! - `due` is scanned only to move its rows to `pending`. The other families are not scanned in
//!   operation.
//!
//! Seq numbers start at 1 and are given without gaps. Gaps come only from findings that cannot be
//! punished, which are deleted after a time. 0 means "before the first". The route comes first in
//! `pending`, so a receiver that is down, with 100 000 deliveries waiting, costs the other routes
//! one seek. Revisions grow and have gaps, because an incident that changes gives up its old
//! revision. From format 5 on, the JSON of an incident contains its `tracking`.
//!
//! Older formats:
//!
//! - Format 1 has no incidents. If it is opened for writing, it gets an empty list of them. If it
//!   is opened for reading, it has none.
//! - If a format older than 3 is opened for writing, all its findings are listed in the families of
//!   format 3, which takes 10 us for each finding. Only then is the format number raised, so after
//!   a crash in between the listing begins again. If such a format is opened for reading, filters
//!   parse the findings instead.
//! - Up to format 3, deliveries wait in `due`, without a priority. They are moved when the database
//!   is opened for writing. If it is opened for reading, it shows no pending deliveries.
//! - Up to format 4, an incident's key and peak are among its `details`. Reading takes them out of
//!   there. When the incident is written again, they are stored as `tracking`.

use crate::kind::MAX_KIND_LEN;
use crate::outbox::{MAX_ROUTE_LEN, Priority, RouteName};
use crate::{Kind, Severity, Time};
use consensus::{Slot, ValidatorIndex};
use sha2::{Digest as _, Sha256};

/// The number of the format above.
pub const FORMAT: u32 = 5;

/// Column family that holds facts about the database itself.
pub(crate) const META: &str = "meta";
/// Column family that holds findings, keyed by seq.
pub(crate) const FINDINGS: &str = "findings";
/// Column family that holds the seq of each finding, keyed by id.
pub(crate) const FINDING_IDS: &str = "finding_ids";
pub(crate) const BY_VALIDATOR: &str = "by_validator";
pub(crate) const BY_KIND: &str = "by_kind";
/// Column family that holds proofs, keyed by id.
pub(crate) const EVIDENCE: &str = "evidence";
/// Column family that holds all deliveries, keyed by seq and route.
pub(crate) const DELIVERIES: &str = "deliveries";
/// Column family that held pending deliveries up to format 3.
pub(crate) const DUE: &str = "due";
/// Column family that lists pending deliveries by route, priority and time.
pub(crate) const PENDING: &str = "pending";
/// Column family that holds checkpoints, keyed by name.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// Column family that holds incidents, keyed by id.
pub(crate) const INCIDENTS: &str = "incidents";
/// Column family that lists incidents by the revision of their last change.
pub(crate) const INCIDENT_REVISIONS: &str = "incident_revisions";
pub(crate) const BY_SLOT: &str = "by_slot";
pub(crate) const BY_SEVERITY: &str = "by_severity";
pub(crate) const BY_LABEL: &str = "by_label";

/// The families of format 1, which every database has.
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

/// Builds and reads all keys that are more than a name or an id.
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

    /// Reads the slot from a key of `by_slot`.
    pub(crate) fn slot_of(key: &[u8]) -> Option<Slot> {
        Some(Slot::new(u64::from_be_bytes(*key.first_chunk()?)))
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

    /// Number of bytes of a label's hash in a key. A hash is used because labels have any length.
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

    /// A key after all keys of a route in `pending`.
    pub(crate) fn after_route(route: &RouteName) -> [u8; MAX_ROUTE_LEN + 1] {
        let mut key = [u8::MAX; MAX_ROUTE_LEN + 1];
        key[..MAX_ROUTE_LEN].fill(0);
        key[..route.as_str().len()].copy_from_slice(route.as_str().as_bytes());
        key
    }

    /// Reads the last eight bytes of a key that ends in a seq or a revision.
    pub(crate) fn trailing_seq(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(*key.last_chunk()?))
    }

    /// Reads route, priority, time and seq from a key of `pending`.
    pub(crate) fn read_pending(key: &[u8]) -> Option<(RouteName, Priority, Time, u64)> {
        let (route, rest) = key.split_at_checked(MAX_ROUTE_LEN)?;
        let (priority, rest) = rest.split_first()?;
        let priority = Priority::ALL.into_iter().find(|known| *known as u8 == *priority)?;
        let at = Time::from_unix_ns(u64::from_be_bytes(*rest.first_chunk()?));
        (rest.len() == 16).then_some(())?;
        Some((read_route(route)?, priority, at, Self::trailing_seq(rest)?))
    }

    /// Reads route, time and seq from a key of `due`, as in formats 1 to 3.
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
