//! Reads and writes the configuration of a network: `config.yaml`, and the response of the beacon
//! API's `/eth/v1/config/spec`, which has the same keys.
//!
//! - A missing key has the value of its preset.
//! - A fork whose epoch is missing or is 18446744073709551615 never happens, not even at that
//!   epoch.
//! - A fork with a name that is not known is a later fork ([`LaterFork`]) if it ever comes, has a
//!   version that is higher than that of the last known fork, and does not begin before that one.
//! - Other unknown keys are ignored. So are the keys of features: a configuration names a feature
//!   beside the fork that brings it (`EIP7594_FORK_EPOCH`), or with an epoch that nobody means.
//! - Keys that belong to the preset also take effect if a file has them. Networks before 2021 wrote
//!   the preset and the configuration into one file, and Medalla's preset differs from the preset
//!   of today.

use crate::{BlobParameters, Epoch, Fork, ForkName, LaterFork, Preset, PresetName, Spec, SpecError};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

impl Spec {
    /// Reads a network's `config.yaml`.
    pub fn from_yaml(text: &str) -> Result<Self, SpecError> {
        // Files that were assembled from several parts contain some keys twice. Clients use the
        // last value.
        let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins };
        let keys: BTreeMap<String, Value> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| SpecError::NotYaml(error.to_string()))?;
        Keys(keys).into_spec()
    }

    /// Reads the response of `/eth/v1/config/spec`, with or without the envelope `{"data": ..}`.
    pub fn from_api_json(json: &serde_json::Value) -> Result<Self, SpecError> {
        let keys = json.get("data").unwrap_or(json);
        let keys = BTreeMap::<String, Value>::deserialize(keys).map_err(|error| SpecError::NotJson(error.to_string()))?;
        Keys(keys).into_spec()
    }

    /// Returns the configuration as a `config.yaml`. [`Spec::from_yaml`] reads it back to an equal
    /// value.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        // Writing to a `String` cannot fail, so the results are ignored.
        let _ = writeln!(out, "PRESET_BASE: '{}'", self.preset.name.as_str());
        let _ = writeln!(out, "CONFIG_NAME: {}", serde_json::Value::from(self.config_name.as_str()));
        let published = Preset::by_name(self.preset.name);
        for size in &SIZES {
            let value = (size.get)(&self.preset);
            if value != (size.get)(&published) {
                let _ = writeln!(out, "{}: {value}", size.key);
            }
        }
        if self.slot_duration.subsec_millis() == 0 {
            let _ = writeln!(out, "SECONDS_PER_SLOT: {}", self.slot_duration.as_secs());
        }
        let _ = writeln!(out, "SLOT_DURATION_MS: {}", self.slot_duration.as_millis());
        for fork in &self.forks {
            let _ = writeln!(out, "{}: 0x{}", version_key(fork.name), hex::encode(fork.version));
            if fork.name != ForkName::Phase0 {
                let _ = writeln!(out, "{}: {}", epoch_key(fork.name), fork.epoch);
            }
        }
        for LaterFork { name, epoch, version } in &self.later_forks {
            let name = name.to_uppercase();
            let _ = writeln!(out, "{name}{VERSION_KEY}: 0x{}", hex::encode(version));
            let _ = writeln!(out, "{name}{EPOCH_KEY}: {epoch}");
        }
        if self.forks.iter().all(|fork| fork.name != ForkName::Electra) {
            let _ = writeln!(out, "{}: {}", epoch_key(ForkName::Electra), self.blob_default.epoch);
        }
        let _ = writeln!(out, "MAX_BLOBS_PER_BLOCK_ELECTRA: {}", self.blob_default.max_blobs_per_block);
        let _ = writeln!(out, "BLOB_SCHEDULE:{}", if self.blob_schedule.is_empty() { " []" } else { "" });
        for step in &self.blob_schedule {
            let _ = writeln!(out, "  - EPOCH: {}\n    MAX_BLOBS_PER_BLOCK: {}", step.epoch, step.max_blobs_per_block);
        }
        out
    }
}

/// A size of the preset that a configuration can change.
struct Size {
    key: &'static str,
    get: fn(&Preset) -> u64,
    set: fn(&mut Preset, u64),
    /// Smallest accepted value: 1 for what something is divided by or made of.
    least: u64,
    /// Largest accepted value. The bound keeps the sizes of containers within what memory can hold.
    most: u64,
}

macro_rules! size {
    ($key:literal, $field:ident, $most:expr) => {
        size!($key, $field, 1, $most)
    };
    ($key:literal, $field:ident, $least:literal, $most:expr) => {
        Size {
            key: $key,
            get: |preset| u64::from(preset.$field),
            set: |preset, value| preset.$field = value as _,
            least: $least,
            most: $most,
        }
    };
}

const SIZES: [Size; 26] = [
    size!("SLOTS_PER_EPOCH", slots_per_epoch, 1 << 16),
    size!("SLOTS_PER_HISTORICAL_ROOT", slots_per_historical_root, 1 << 20),
    size!("EPOCHS_PER_HISTORICAL_VECTOR", epochs_per_historical_vector, 1 << 20),
    size!("EPOCHS_PER_SLASHINGS_VECTOR", epochs_per_slashings_vector, 1 << 20),
    size!("EPOCHS_PER_ETH1_VOTING_PERIOD", epochs_per_eth1_voting_period, 1 << 16),
    size!("MAX_COMMITTEES_PER_SLOT", max_committees_per_slot, 64),
    size!("TARGET_COMMITTEE_SIZE", target_committee_size, 1 << 20),
    size!("SHUFFLE_ROUND_COUNT", shuffle_round_count, 255),
    size!("SYNC_COMMITTEE_SIZE", sync_committee_size, 1 << 16),
    size!("EPOCHS_PER_SYNC_COMMITTEE_PERIOD", epochs_per_sync_committee_period, 1 << 32),
    size!("MAX_WITHDRAWALS_PER_PAYLOAD", max_withdrawals_per_payload, 1 << 16),
    size!("PENDING_PARTIAL_WITHDRAWALS_LIMIT", pending_partial_withdrawals_limit, 1 << 40),
    size!("PENDING_CONSOLIDATIONS_LIMIT", pending_consolidations_limit, 1 << 40),
    size!("PTC_SIZE", ptc_size, 1 << 16),
    size!("INCLUSION_LIST_COMMITTEE_SIZE", inclusion_list_committee_size, 1 << 16),
    size!("MIN_PER_EPOCH_CHURN_LIMIT", min_per_epoch_churn_limit, 1 << 32),
    size!("CHURN_LIMIT_QUOTIENT", churn_limit_quotient, 1 << 60),
    size!("MIN_PER_EPOCH_CHURN_LIMIT_ELECTRA", min_per_epoch_churn_limit_electra, 1 << 60),
    size!("MAX_PER_EPOCH_ACTIVATION_EXIT_CHURN_LIMIT", max_per_epoch_activation_exit_churn_limit, 1 << 60),
    size!("MAX_PER_EPOCH_ACTIVATION_CHURN_LIMIT", max_per_epoch_activation_churn_limit, 1 << 32),
    size!("CHURN_LIMIT_QUOTIENT_GLOAS", churn_limit_quotient_gloas, 1 << 60),
    size!("CONSOLIDATION_CHURN_LIMIT_QUOTIENT", consolidation_churn_limit_quotient, 1 << 60),
    size!("MAX_PER_EPOCH_ACTIVATION_CHURN_LIMIT_GLOAS", max_per_epoch_activation_churn_limit_gloas, 1 << 60),
    size!("SHARD_COMMITTEE_PERIOD", shard_committee_period, 0, 1 << 32),
    size!("EJECTION_BALANCE", ejection_balance, 0, 1 << 60),
    size!("MIN_VALIDATOR_WITHDRAWABILITY_DELAY", min_validator_withdrawability_delay, 0, 1 << 32),
];

/// Maximum number of steps in a blob schedule. A longer schedule is refused. Real networks have two
/// or three steps.
const MAX_BLOB_STEPS: usize = 1024;
/// How the keys of a fork end, after its name in upper case.
const VERSION_KEY: &str = "_FORK_VERSION";
const EPOCH_KEY: &str = "_FORK_EPOCH";
/// Maximum number of forks that are not known. The earliest ones are kept.
const MAX_LATER_FORKS: usize = 16;
/// Greatest length of their names.
const MAX_FORK_NAME: usize = 32;
/// Features that consensus-specs, or a test network, gave a fork epoch of their own. Others are
/// named by the number of their proposal (`EIP7594`, `EIP7805`).
const FEATURES: [&str; 5] = ["WHISK", "SHARDING", "CUSTODY_GAME", "DAS", "VERKLE"];
const NUMBERED_FEATURE: &str = "EIP";

struct Keys(BTreeMap<String, Value>);

impl Keys {
    fn into_spec(self) -> Result<Spec, SpecError> {
        let preset = self.preset()?;
        let forks = self.forks(preset.name)?;
        let slot_ms = match self.number("SLOT_DURATION_MS")? {
            Some(ms) => ms,
            None => match self.number("SECONDS_PER_SLOT")? {
                Some(seconds) => seconds.saturating_mul(1000),
                None => default_slot_ms(preset.name),
            },
        };
        if slot_ms == 0 || slot_ms > DAY_MS {
            return Err(bad("SLOT_DURATION_MS", &slot_ms.to_string(), "a slot's length, up to a day"));
        }
        let default_blobs = if preset.name == PresetName::Gnosis { 2 } else { 9 };
        let mut spec = Spec {
            config_name: plain_name(self.text("CONFIG_NAME").unwrap_or_else(|| preset.name.as_str())),
            blob_schedule: self.blob_schedule()?,
            blob_default: BlobParameters {
                epoch: self.number(epoch_key(ForkName::Electra))?.map_or(Epoch::FAR_FUTURE, Epoch::new),
                max_blobs_per_block: self.number("MAX_BLOBS_PER_BLOCK_ELECTRA")?.unwrap_or(default_blobs),
            },
            slot_duration: Duration::from_millis(slot_ms),
            forks,
            later_forks: Vec::new(),
            preset,
        };
        spec.later_forks = self.later_forks(&spec);
        Ok(spec)
    }

    fn preset(&self) -> Result<Preset, SpecError> {
        let name = match self.text("PRESET_BASE") {
            None | Some("mainnet") => PresetName::Mainnet,
            Some("minimal") => PresetName::Minimal,
            Some("gnosis") => PresetName::Gnosis,
            Some(other) => return Err(SpecError::UnknownPreset(other.to_owned())),
        };
        let mut preset = Preset::by_name(name);
        for size in &SIZES {
            if let Some(value) = self.number(size.key)? {
                if value < size.least || value > size.most {
                    return Err(bad(size.key, &value.to_string(), "a size this program can work with"));
                }
                (size.set)(&mut preset, value);
            }
        }
        Ok(preset)
    }

    /// Returns the forks that happen, ascending by epoch. A fork is in force from its own epoch
    /// until the epoch of a later fork. A fork is dropped if a later fork begins before it, because
    /// it would never be in force.
    fn forks(&self, preset: PresetName) -> Result<Vec<Fork>, SpecError> {
        let mut forks: Vec<Fork> = Vec::new();
        for name in ForkName::ALL {
            let epoch = match name {
                ForkName::Phase0 => Some(0),
                _ => self.number(epoch_key(name))?,
            };
            let version = self.version(version_key(name))?.unwrap_or_else(|| default_version(name, preset));
            if let Some(epoch) = epoch.map(Epoch::new).filter(|epoch| *epoch != Epoch::FAR_FUTURE) {
                forks.retain(|earlier| earlier.epoch <= epoch);
                forks.push(Fork { name, epoch, version });
            }
        }
        Ok(forks)
    }

    /// Returns the forks that happen after the known ones of `spec`, ascending by epoch. What
    /// cannot be read is ignored, as any unknown key is.
    fn later_forks(&self, spec: &Spec) -> Vec<LaterFork> {
        let is_name = |name: &str| {
            (1..=MAX_FORK_NAME).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        };
        let is_known = |name: &str| ForkName::ALL.iter().any(|fork| fork.as_str().eq_ignore_ascii_case(name));
        let names = self.0.keys().filter_map(|key| key.strip_suffix(EPOCH_KEY));
        let mut later: Vec<LaterFork> = names
            .filter(|name| is_name(name) && !is_known(name) && !is_feature(name))
            .filter_map(|name| {
                let epoch = self.number(&format!("{name}{EPOCH_KEY}")).ok()?.map(Epoch::new)?;
                let version = self.version(&format!("{name}{VERSION_KEY}")).ok()??;
                Some(LaterFork { name: name.to_lowercase(), epoch, version })
            })
            .filter(|fork| fork.epoch != Epoch::FAR_FUTURE && spec.is_after_known(fork))
            .collect();
        later.sort_by_key(|fork| (fork.epoch, fork.version));
        later.truncate(MAX_LATER_FORKS);
        later
    }

    fn blob_schedule(&self) -> Result<Vec<BlobParameters>, SpecError> {
        const KEY: &str = "BLOB_SCHEDULE";
        let steps = match self.0.get(KEY) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Text(text)) if text.is_empty() || text == "[]" => return Ok(Vec::new()),
            Some(Value::List(steps)) if steps.len() <= MAX_BLOB_STEPS => steps,
            Some(other) => return Err(bad(KEY, &format!("{other:?}"), "a list of at most 1024 steps")),
        };
        let mut schedule = Vec::with_capacity(steps.len());
        for step in steps {
            let Value::Map(step) = step else {
                return Err(bad(KEY, &format!("{step:?}"), "a step with EPOCH and MAX_BLOBS_PER_BLOCK"));
            };
            let number = |key: &str| match step.get(key) {
                Some(Value::Text(text)) => parse_number(&format!("{KEY}.{key}"), text),
                other => Err(bad(&format!("{KEY}.{key}"), &format!("{other:?}"), "a whole number")),
            };
            let epoch = Epoch::new(number("EPOCH")?);
            if epoch != Epoch::FAR_FUTURE {
                schedule.push(BlobParameters { epoch, max_blobs_per_block: number("MAX_BLOBS_PER_BLOCK")? });
            }
        }
        schedule.sort_by_key(|step| step.epoch);
        Ok(schedule)
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn number(&self, key: &str) -> Result<Option<u64>, SpecError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => parse_number(key, text).map(Some),
            Some(other) => Err(bad(key, &format!("{other:?}"), "a whole number")),
        }
    }

    /// Reads a version of four bytes, written like `0x01000000`. YAML readers turn it into a
    /// number, so a decimal number is accepted too.
    fn version(&self, key: &str) -> Result<Option<[u8; 4]>, SpecError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let version = match text.strip_prefix("0x") {
            Some(digits) => hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok()),
            None => text.parse::<u32>().ok().map(u32::to_be_bytes),
        };
        version.map(Some).ok_or_else(|| bad(key, text, "four bytes like 0x01000000"))
    }
}

/// Whether a name in upper case is that of a feature, which some fork brings, and of no fork.
fn is_feature(name: &str) -> bool {
    let number = name.strip_prefix(NUMBERED_FEATURE);
    FEATURES.contains(&name) || number.is_some_and(|number| number.starts_with(|digit: char| digit.is_ascii_digit()))
}

const DAY_MS: u64 = 86_400_000;

fn parse_number(key: &str, text: &str) -> Result<u64, SpecError> {
    text.parse().map_err(|_| bad(key, text, "a whole number"))
}

fn bad(key: &str, value: &str, wanted: &'static str) -> SpecError {
    SpecError::BadValue { key: key.to_owned(), value: value.chars().take(100).collect(), wanted }
}

fn version_key(fork: ForkName) -> &'static str {
    match fork {
        ForkName::Phase0 => "GENESIS_FORK_VERSION",
        ForkName::Altair => "ALTAIR_FORK_VERSION",
        ForkName::Bellatrix => "BELLATRIX_FORK_VERSION",
        ForkName::Capella => "CAPELLA_FORK_VERSION",
        ForkName::Deneb => "DENEB_FORK_VERSION",
        ForkName::Electra => "ELECTRA_FORK_VERSION",
        ForkName::Fulu => "FULU_FORK_VERSION",
        ForkName::Gloas => "GLOAS_FORK_VERSION",
        ForkName::Heze => "HEZE_FORK_VERSION",
    }
}

fn epoch_key(fork: ForkName) -> &'static str {
    match fork {
        ForkName::Phase0 => "GENESIS_EPOCH",
        ForkName::Altair => "ALTAIR_FORK_EPOCH",
        ForkName::Bellatrix => "BELLATRIX_FORK_EPOCH",
        ForkName::Capella => "CAPELLA_FORK_EPOCH",
        ForkName::Deneb => "DENEB_FORK_EPOCH",
        ForkName::Electra => "ELECTRA_FORK_EPOCH",
        ForkName::Fulu => "FULU_FORK_EPOCH",
        ForkName::Gloas => "GLOAS_FORK_EPOCH",
        ForkName::Heze => "HEZE_FORK_EPOCH",
    }
}

/// Returns the fork version of consensus-specs' `configs/` or of Gnosis Chain.
fn default_version(fork: ForkName, preset: PresetName) -> [u8; 4] {
    let last = match preset {
        PresetName::Mainnet => 0,
        PresetName::Minimal => 1,
        PresetName::Gnosis => 0x64,
    };
    [fork as u8, 0, 0, last]
}

fn default_slot_ms(preset: PresetName) -> u64 {
    match preset {
        PresetName::Mainnet => 12_000,
        PresetName::Minimal => 6_000,
        PresetName::Gnosis => 5_000,
    }
}

/// Any YAML or JSON value. Scalars are kept as text, because no Rust number type can hold both a
/// fork version and a terminal total difficulty.
#[derive(Debug)]
enum Value {
    Null,
    Text(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Longest name of a network, in bytes.
const MAX_NAME_LEN: usize = 64;

/// A network's name without what is special to terminals, feeds or the environment of programs: it
/// may come from somebody else's node or folder.
fn plain_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    text.chars().take(MAX_NAME_LEN).map(plain).collect()
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry()? {
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}
