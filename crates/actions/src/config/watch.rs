//! The `[watch]` section: groups of keys, list files, alarm thresholds, and kill switches.

use super::Problem;
use super::audit::AuditConfig;
use super::switch::{KillSwitchConfig, MembersConfig};
use detect::watch::{TwoOriginsConfig, WatchedKeysConfig, parse_peer_id};
use evidence::Severity;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    pub two_origins: TwoOriginsSection,
}

/// `[watch.two_origins]`: groups whose keys should sign on one machine only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TwoOriginsSection {
    /// Names of the groups. Without any it is off.
    pub groups: Vec<String>,
    /// Peer ids of the operator's own nodes.
    pub nodes: Vec<String>,
    pub learn_epochs: u64,
    pub again_epochs: u64,
    /// `warning` or `critical`.
    pub severity: Severity,
}

impl Default for TwoOriginsSection {
    fn default() -> Self {
        let TwoOriginsConfig { learn_epochs, again_epochs, severity, .. } = TwoOriginsConfig::default();
        Self { groups: Vec::new(), nodes: Vec::new(), learn_epochs, again_epochs, severity }
    }
}

impl TwoOriginsSection {
    /// What the detector needs. The check of the configuration has found no problem, so all peer
    /// ids are ones.
    pub fn parts(&self) -> TwoOriginsConfig {
        TwoOriginsConfig {
            groups: self.groups.iter().cloned().collect(),
            nodes: self.nodes.iter().filter_map(|node| parse_peer_id(node).ok()).collect(),
            learn_epochs: self.learn_epochs,
            severity: self.severity,
            again_epochs: self.again_epochs,
        }
    }

    fn problems(&self, has_group: impl Fn(&str) -> bool, wrong: &mut dyn FnMut(String, String)) {
        for (nth, node) in self.nodes.iter().enumerate() {
            if let Err(text) = parse_peer_id(node) {
                wrong(format!("watch.two_origins.nodes[{nth}]"), text);
            }
        }
        for (nth, group) in self.groups.iter().enumerate().filter(|(_, group)| !has_group(group)) {
            wrong(
                format!("watch.two_origins.groups[{nth}]"),
                format!("there is no group {group:?}; write a name of `watch.groups`"),
            );
        }
        if self.severity == Severity::Info {
            wrong("watch.two_origins.severity".into(), "is \"warning\" or \"critical\"".into());
        }
        for (path, text) in self.parts().problems() {
            wrong(path, text);
        }
    }
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            entities: Vec::new(),
            reload: Duration::from_secs(10),
            keeper: WatchedKeysConfig::default(),
            kin_labels: vec!["operator".into(), "cluster".into()],
            two_origins: TwoOriginsSection::default(),
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditConfig>,
}

impl WatchConfig {
    /// Makes relative paths relative to `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        let of_groups = self.groups.iter_mut().flat_map(|group| {
            let of_switch = group.kill_switch.iter_mut().flat_map(KillSwitchConfig::paths_mut);
            of_switch.chain(group.audit.iter_mut().flat_map(|audit| &mut audit.files))
        });
        let entities = self.entities.iter_mut().map(EntityList::path_mut);
        for path in self.files.iter_mut().chain(entities).chain(of_groups) {
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
        let has_group = |name: &str| loaded.list.groups().any(|known| &**known == name);
        self.two_origins.problems(has_group, &mut wrong);
        let mut audits: Vec<&str> = Vec::new();
        for (nth, group) in self.groups.iter().enumerate() {
            let Some(audit) = &group.audit else { continue };
            let at = |key: &str| format!("watch.groups[{nth}].audit{key}");
            if audits.contains(&group.name.as_str()) {
                wrong(at(""), format!("group {:?} has a second audit; keep one, with all files", group.name));
            }
            audits.push(&group.name);
            audit.problems(&at, &mut wrong);
        }
        let mut switches: Vec<&str> = Vec::new();
        let mut locks: BTreeMap<PathBuf, &str> = BTreeMap::new();
        for (nth, group) in self.groups.iter().enumerate() {
            let Some(switch) = &group.kill_switch else { continue };
            let at = |key: &str| format!("watch.groups[{nth}].kill_switch{key}");
            if switches.contains(&group.name.as_str()) {
                wrong(at(""), format!("group {:?} has a second kill switch; keep one", group.name));
            }
            switches.push(&group.name);
            switch.problems(&at, &mut wrong);
            if let Some(other) = switch.lock_place().and_then(|place| locks.insert(place, &group.name)) {
                let text = format!(
                    "is the lock file of group {other:?} too, and whoever makes one ready would unlock the other; give each its own"
                );
                wrong(at(".lock_file"), text);
            }
            if switch.members == MembersConfig::Named && crate::killswitch::names_nobody(&loaded.list, &group.name) {
                let text = "fires for keys named by index, range or public key, and the group has none; name them, or set members = \"all\" after reading what docs/watching.md says of it";
                wrong(at(".members"), text.into());
            }
        }
        problems.extend(loaded.problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_a_lock_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        let problems = |locks: [&str; 2]| {
            let group = |name: &str, lock: &str| {
                format!(
                    "[[groups]]\nname = \"{name}\"\nkeys = [\"1\"]\nkill_switch = {{ command = [\"/bin/true\"], lock_file = \"{lock}\" }}\n"
                )
            };
            let mut config: WatchConfig = toml::from_str(&(group("acme", locks[0]) + &group("blue", locks[1]))).unwrap();
            config.anchor(dir.path());
            let mut problems = Vec::new();
            config.problems(&mut problems);
            problems.iter().map(|Problem { path, text }| format!("{path} {text}\n")).collect::<String>()
        };
        assert_eq!(problems(["acme.lock", "blue.lock"]), "");
        for same in ["a.lock", "./a.lock", "link/a.lock"] {
            let told = problems(["a.lock", same]);
            assert!(told.contains("watch.groups[1].kill_switch.lock_file") && told.contains("of group \"acme\" too"), "{told}");
        }
    }

    #[test]
    fn groups_and_nodes_of_two_origins_must_be_ones() {
        let text = "[[groups]]\nname = \"ours\"\nkeys = [\"1-3\"]\naudit = { files = [\"a.json\"] }\n\
                    [[groups]]\nname = \"ours\"\naudit = { files = [] }\n\
                    [two_origins]\ngroups = [\"ours\", \"theirs\"]\nnodes = [\"16Uiu2\"]\nseverity = \"info\"\nlearn_epochs = 0\n";
        let mut config: WatchConfig = toml::from_str(text).unwrap();
        config.anchor(Path::new("/etc/slashwatch"));
        assert_eq!(config.groups[0].audit.as_ref().unwrap().files, [Path::new("/etc/slashwatch/a.json")]);
        let mut problems = Vec::new();
        config.problems(&mut problems);
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "watch.two_origins.nodes[0]",
                "watch.two_origins.groups[1]",
                "watch.two_origins.severity",
                "watch.two_origins.learn_epochs",
                "watch.groups[1].audit",
                "watch.groups[1].audit.files",
            ]
        );
    }
}
