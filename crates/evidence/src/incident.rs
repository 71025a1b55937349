//! Incidents: what many messages mean together, with the fields that the contract ("Incidents")
//! fixes.
//!
//! A finding does not change once it is recorded, apart from its inclusion and its count of further
//! pairs. An incident goes through several states, and only its last state is kept:
//!
//! ```text
//! open -> growing <-> waning -> closed
//! ```
//!
//! Its id is SHA-256(genesis validators root | kind in ASCII | first slot, u64 BE | key). The key
//! distinguishes incidents of one kind and slot (by a client's name or a subnet's number; it is
//! mostly empty). The same traffic gives the same incident in every replay, whatever the batches.

use crate::{Kind, Severity, Time, anomaly_id};
use consensus::{Root, Slot};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The version of the JSON below. Fields may be added. A changed or removed one needs another
/// number.
pub const INCIDENT_SCHEMA: u64 = 1;

/// A number that may be greater than 2^53. It is written as a decimal string, as in the beacon API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String)]
pub struct Count(pub u64);

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// The state of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// It was noticed.
    Open,
    /// It is larger than before.
    Growing,
    /// It is smaller than before, or nothing new was seen for a while.
    Waning,
    /// It is over. It never opens again. The next incident has another first slot.
    Closed,
}

impl IncidentState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Growing => "growing",
            Self::Waning => "waning",
            Self::Closed => "closed",
        }
    }
}

/// Number of offences of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OffenceCounts {
    pub double_vote: Count,
    pub surround_vote: Count,
    pub double_proposal: Count,
}

/// A property that several members of an incident have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedTrait {
    /// `label:<key>`, `client`, `withdrawal_credential`, `activation_epoch` or `fork_side`.
    pub what: String,
    pub value: String,
    /// Number of members that have it.
    pub members: Count,
}

/// What the members lose by the rules of the protocol. Amounts are for all members together unless
/// the field says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Penalty {
    /// The initial penalty, which is due at once.
    pub initial_gwei: Count,
    /// The correlation penalty. It is due half way to the withdrawable epoch and depends on the
    /// stake that is slashed within the same 8 192 epochs.
    pub correlation_gwei_now: Count,
    /// The correlation penalty if twice as much stake is slashed in the end.
    pub correlation_gwei_if_doubled: Count,
    /// The initial and the correlation penalty of one validator with 32 ETH.
    pub per_32_eth_gwei: Count,
}

/// An event that goes on for some time. The order of the fields is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// Version of this JSON.
    pub schema: u64,
    /// It is the same on every machine that received the same.
    #[schema(value_type = String)]
    pub id: Root,
    /// `slashing_wave`, or the name of an anomaly.
    #[schema(value_type = String)]
    pub kind: Kind,
    pub state: IncidentState,
    pub severity: Severity,
    /// Slot of the first message that belongs to it.
    #[schema(value_type = String)]
    pub first_slot: Slot,
    /// Slot of the latest message that belongs to it.
    #[schema(value_type = String)]
    pub last_slot: Slot,
    /// Arrival time of the message that made it an incident.
    #[schema(value_type = String)]
    pub opened_at: Time,
    /// The time when it was over, by the time of the messages. Null before.
    #[schema(value_type = Option<String>)]
    pub closed_at: Option<Time>,
    /// Number of validators concerned. Null where a number has no meaning.
    pub validators: Option<Count>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offences: Option<OffenceCounts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedTrait>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<Penalty>,
    /// Details that depend on the kind. See docs/detection.md.
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
    /// Stored, but not part of the JSON that is shown. `None` for incidents whose detector keeps
    /// its state in a note.
    #[serde(default, skip_serializing)]
    pub tracking: Option<Tracking>,
}

/// What a restarted watcher needs to go on with an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Distinguishes incidents of one kind, for example by a group's name. It is mostly empty and
    /// is part of the id.
    pub key: String,
    /// The greatest measure so far, in the unit of the detector.
    pub peak: u64,
}

impl Tracking {
    /// Reads the tracking of formats up to 4, which kept it among the details. It is removed from
    /// the details.
    pub(crate) fn of_older_format(details: &mut Map<String, Value>) -> Option<Self> {
        let (key, peak) = (details.remove("key"), details.remove("peak"));
        (key.is_some() || peak.is_some()).then(|| Self {
            key: key.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
            peak: peak.as_ref().and_then(Value::as_u64).unwrap_or_default(),
        })
    }
}

/// The id of an incident. The header of this module has the preimage.
pub fn incident_id(genesis_validators_root: Root, kind: &Kind, first_slot: Slot, key: &str) -> Root {
    let content = [&first_slot.as_u64().to_be_bytes(), key.as_bytes()].concat();
    anomaly_id(genesis_validators_root, kind, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_the_contracts() {
        let incident = Incident {
            schema: INCIDENT_SCHEMA,
            id: incident_id(Root::ZERO, &Kind::SlashingWave, Slot::new(7), ""),
            kind: Kind::SlashingWave,
            state: IncidentState::Growing,
            severity: Severity::Critical,
            first_slot: Slot::new(7),
            last_slot: Slot::new(9),
            opened_at: Time::from_unix_ns(1),
            closed_at: None,
            validators: Some(Count(3)),
            offences: Some(OffenceCounts { double_vote: Count(3), ..OffenceCounts::default() }),
            shared: vec![SharedTrait { what: "client".into(), value: "prysm".into(), members: Count(2) }],
            penalty: Some(Penalty { initial_gwei: Count(1 << 60), ..Penalty::default() }),
            details: Map::new(),
            tracking: None,
        };
        let json = serde_json::to_string(&incident).unwrap();
        let id = incident.id;
        assert_eq!(
            json,
            format!(
                "{{\"schema\":1,\"id\":\"{id}\",\"kind\":\"slashing_wave\",\"state\":\"growing\",\"severity\":\"critical\",\
                 \"first_slot\":\"7\",\"last_slot\":\"9\",\"opened_at\":\"1970-01-01T00:00:00.000000001Z\",\"closed_at\":null,\
                 \"validators\":\"3\",\"offences\":{{\"double_vote\":\"3\",\"surround_vote\":\"0\",\"double_proposal\":\"0\"}},\
                 \"shared\":[{{\"what\":\"client\",\"value\":\"prysm\",\"members\":\"2\"}}],\
                 \"penalty\":{{\"initial_gwei\":\"1152921504606846976\",\"correlation_gwei_now\":\"0\",\
                 \"correlation_gwei_if_doubled\":\"0\",\"per_32_eth_gwei\":\"0\"}},\"details\":{{}}}}"
            )
        );
        assert_eq!(serde_json::from_str::<Incident>(&json).unwrap(), incident);
    }
}
