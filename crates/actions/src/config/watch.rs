//! The `[watch]` section: groups of keys, list files, alarm thresholds, and kill switches.

use super::Problem;
use alert::{is_http, secret_problem};
use detect::watch::WatchedKeysConfig;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest timeout that a kill switch may have.
const MAX_KILL_SWITCH_TIMEOUT: Duration = Duration::from_secs(600);

/// The `[watch]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// CSV or TOML files with groups of watched keys.
    pub files: Vec<PathBuf>,
    /// Lists that label validators without watching them.
    pub entities: Vec<EntityList>,
    /// Interval at which the configuration file and the list files are checked for changes. With 0
    /// they are only read again on SIGHUP.
    #[serde(with = "humantime_serde")]
    pub reload: Duration,
    /// Thresholds from which an observation is worth an alarm. In the file they are keys of
    /// `[watch]` itself.
    #[serde(flatten)]
    pub keeper: WatchedKeysConfig,
    /// Names of labels that connect validators. An offence of a validator with such a label
    /// concerns every group that has the same value of it.
    pub kin_labels: Vec<String>,
    pub groups: Vec<GroupConfig>,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            entities: Vec::new(),
            reload: Duration::from_secs(10),
            keeper: WatchedKeysConfig::default(),
            kin_labels: vec!["operator".into(), "cluster".into()],
            groups: Vec::new(),
        }
    }
}

/// A list of labels: a file, or a URL with a file for its copy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EntityList {
    File(PathBuf),
    Url(RemoteList),
}

/// A list that is fetched again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteList {
    pub url: String,
    /// The file of the last good copy. Its ending says what kind of list it is.
    pub file: PathBuf,
    /// Interval between downloads.
    #[serde(with = "humantime_serde", default = "default_interval")]
    pub every: Duration,
}

fn default_interval() -> Duration {
    Duration::from_secs(3600)
}

impl EntityList {
    /// The file that is read.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::File(path) => path,
            Self::Url(list) => &list.file,
        }
    }

    fn path_mut(&mut self) -> &mut PathBuf {
        match self {
            Self::File(path) => path,
            Self::Url(list) => &mut list.file,
        }
    }
}

/// An untagged enum would not say which field is wrong.
impl<'de> Deserialize<'de> for EntityList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = EntityList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file, or a table with `url` and `file`")
            }

            fn visit_str<E>(self, path: &str) -> Result<EntityList, E> {
                Ok(EntityList::File(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EntityList, A::Error> {
                RemoteList::deserialize(MapAccessDeserializer::new(map)).map(EntityList::Url)
            }
        }
        deserializer.deserialize_any(ListVisitor)
    }
}

/// A group of watched keys. Groups with the same name, here and in list files, are merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    pub name: String,
    /// Indices, ranges, public keys, withdrawal credentials, and fee recipients.
    #[serde(default)]
    pub keys: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `active`, `migrating`, `exited` or `offline`. The default is `active`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duty: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_switch: Option<KillSwitchConfig>,
}

/// What stops a group's validator clients. It is only read from the configuration and never from
/// the list files, because those files may come from somebody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSwitchConfig {
    /// Program and its arguments. They are passed as they are, without a shell.
    #[serde(default)]
    pub command: Vec<String>,
    /// Address that receives a POST request, used instead of a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    #[serde(with = "humantime_serde", default = "default_timeout")]
    pub timeout: Duration,
    /// Events that fire the switch: `offence`, `kin_offence`, `dormant_key_signed`.
    #[serde(default = "default_triggers")]
    pub on: Vec<TriggerConfig>,
    /// Members whose messages fire the switch: `named` or `all`.
    #[serde(default)]
    pub members: MembersConfig,
    /// Maximum age of an offence in epochs. An offence does not fire the switch if the slot of its
    /// later message is longer ago.
    #[serde(default = "default_max_age_epochs")]
    pub max_age_epochs: u64,
}

/// Members whose messages fire a kill switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembersConfig {
    /// Only keys that are named by index, range or public key.
    #[default]
    Named,
    /// Also keys that are members by withdrawal credentials or by a fee recipient. Anybody can give
    /// their own key these properties.
    All,
}

/// Event that fires a kill switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerConfig {
    /// A key of the group signed a slashable message.
    Offence,
    /// A validator that has the same value of one of the `kin_labels` signed a slashable message.
    KinOffence,
    /// A key of the group that should be silent signed a message.
    DormantKeySigned,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

/// One day of mainnet. A machine whose clock is set to another time zone signs for slots that are
/// up to 14 hours old.
pub const DEFAULT_MAX_AGE_EPOCHS: u64 = 225;
/// Range that is allowed for `max_age_epochs`. The lower bound is 2, because a block may bring a
/// vote two epochs late. Beyond the upper bound the limit has no meaning, because no history is
/// kept that long.
const MAX_AGE_EPOCHS: std::ops::RangeInclusive<u64> = 2..=100_000;

fn default_max_age_epochs() -> u64 {
    DEFAULT_MAX_AGE_EPOCHS
}

fn default_triggers() -> Vec<TriggerConfig> {
    vec![TriggerConfig::Offence]
}

impl WatchConfig {
    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        let secrets = self.groups.iter_mut().filter_map(|group| group.kill_switch.as_mut()?.secret_file.as_mut());
        let entities = self.entities.iter_mut().map(EntityList::path_mut);
        for path in self.files.iter_mut().chain(entities).chain(secrets) {
            if path.is_relative() {
                *path = folder.join(&path);
            }
        }
    }

    /// The lists that are fetched.
    pub fn remote_lists(&self) -> impl Iterator<Item = &RemoteList> {
        self.entities.iter().filter_map(|list| match list {
            EntityList::File(_) => None,
            EntityList::Url(list) => Some(list),
        })
    }

    /// Adds the problems of this section to `problems`.
    pub fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |path: String, text: String| problems.push(Problem { path, text });
        for (path, text) in self.keeper.problems() {
            wrong(path, text);
        }
        let loaded = crate::lists::load(self);
        let mut switches: Vec<&str> = Vec::new();
        for (nth, group) in self.groups.iter().enumerate() {
            let Some(switch) = &group.kill_switch else { continue };
            let at = |key: &str| format!("watch.groups[{nth}].kill_switch{key}");
            if switches.contains(&group.name.as_str()) {
                wrong(at(""), format!("group {:?} has a second kill switch; keep one", group.name));
            }
            switches.push(&group.name);
            switch.problems(&at, &mut wrong);
            if switch.members == MembersConfig::Named && crate::killswitch::names_nobody(&loaded.list, &group.name) {
                let text = "fires for keys named by index, range or public key, and the group has none; name them, or set members = \"all\" after reading what docs/watching.md says of it";
                wrong(at(".members"), text.into());
            }
        }
        problems.extend(loaded.problems);
    }
}

impl KillSwitchConfig {
    fn problems(&self, at: &dyn Fn(&str) -> String, wrong: &mut dyn FnMut(String, String)) {
        match (self.command.first(), &self.url) {
            (None, None) => wrong(at(""), "does nothing; give `command` or `url`".into()),
            (Some(_), Some(_)) => {
                wrong(at(".url"), "both `command` and `url`; keep one, a program may call an address too".into())
            }
            (Some(program), None) => {
                let path = Path::new(program);
                if !path.is_absolute() {
                    wrong(
                        at(".command[0]"),
                        format!("{program:?} is not an absolute path; it must not depend on PATH or folder"),
                    );
                } else if !is_executable(path) {
                    wrong(at(".command[0]"), format!("{program:?} is not an executable file; check the path and chmod +x"));
                }
                if self.secret_file.is_some() || self.secret_env.is_some() {
                    wrong(at(".secret_file"), "a program gets no secret; leave it out".into());
                }
            }
            (None, Some(url)) => {
                if !is_http(url) {
                    wrong(at(".url"), "is not an http(s) address".into());
                }
                let secret = secret_problem(self.secret_file.as_deref(), self.secret_env.as_deref(), "calls");
                if let Some((key, text)) = secret {
                    wrong(at(&format!(".{key}")), text);
                }
            }
        }
        if self.timeout.is_zero() || self.timeout > MAX_KILL_SWITCH_TIMEOUT {
            wrong(at(".timeout"), "must be more than 0 and at most 10m".into());
        }
        if !MAX_AGE_EPOCHS.contains(&self.max_age_epochs) {
            let (least, most) = MAX_AGE_EPOCHS.into_inner();
            wrong(at(".max_age_epochs"), format!("{} is not between {least} and {most}", self.max_age_epochs));
        }
        if self.on.is_empty() {
            wrong(at(".on"), "nothing fires it; leave `on` out for [\"offence\"]".into());
        }
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
