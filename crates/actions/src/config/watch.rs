//! `[watch]`: groups of keys, lists in files, what is worth an alarm, and kill switches.

use super::{Problem, is_http, secret_problem};
use detect::watch::KeeperConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time a kill switch may take.
const MAX_KILL_SWITCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Keys that it does not know are refused by `raw`, as everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchConfig {
    /// Files with groups, CSV or TOML.
    pub files: Vec<PathBuf>,
    /// Files that label validators without watching them, CSV or TOML.
    pub entities: Vec<PathBuf>,
    /// How often the configuration and these files are looked at for changes; 0: only on SIGHUP.
    #[serde(with = "humantime_serde")]
    pub reload: Duration,
    /// From when on something is worth an alarm; keys of `[watch]` itself.
    #[serde(flatten)]
    pub keeper: KeeperConfig,
    /// Names of labels whose holders' offences concern everybody who has the same value.
    pub kin_labels: Vec<String>,
    pub groups: Vec<GroupConfig>,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            entities: Vec::new(),
            reload: Duration::from_secs(10),
            keeper: KeeperConfig::default(),
            kin_labels: vec!["operator".into(), "cluster".into()],
            groups: Vec::new(),
        }
    }
}

/// A group. Several with one name, here and in files, add up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    pub name: String,
    /// Indices, ranges, public keys, withdrawal credentials, fee recipients.
    #[serde(default)]
    pub keys: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `active`, `migrating`, `exited` or `offline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duty: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_switch: Option<KillSwitchConfig>,
}

/// What stops a group's validator clients. Only here, never in the files of `files`: those may come from elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSwitchConfig {
    /// Program and arguments, handed over as they are, without a shell.
    #[serde(default)]
    pub command: Vec<String>,
    /// Address to POST to, instead of a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    #[serde(with = "humantime_serde", default = "default_timeout")]
    pub timeout: Duration,
    /// What fires it: `offence`, `kin_offence`, `dormant_key_signed`.
    #[serde(default = "default_triggers")]
    pub on: Vec<TriggerConfig>,
    /// Whose doings fire it: `named` or `all`.
    #[serde(default)]
    pub members: MembersConfig,
    /// An offence whose later message is for a slot longer ago fires nothing: epochs.
    #[serde(default = "default_max_age_epochs")]
    pub max_age_epochs: u64,
}

/// Whose doings fire a kill switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembersConfig {
    /// Of keys that are named by index, range or public key.
    #[default]
    Named,
    /// Also of those that are members by withdrawal credentials or a fee recipient, which a stranger's key can be at will.
    All,
}

/// What fires a kill switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerConfig {
    /// A slashable message of a key of the group.
    Offence,
    /// A slashable message of anybody with the same value of one of `kin_labels`.
    KinOffence,
    /// A key of the group that should be silent has signed.
    DormantKeySigned,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

/// A day of mainnet: a machine whose clock is set to another time zone signs for slots up to 14 hours ago.
pub const DEFAULT_MAX_AGE_EPOCHS: u64 = 225;
/// A block may take two epochs to bring a vote; longer than the history that is kept means nothing.
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
        for path in self.files.iter_mut().chain(&mut self.entities).chain(secrets) {
            if path.is_relative() {
                *path = folder.join(&path);
            }
        }
    }

    /// Adds what is wrong with the section.
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
