//! The `kill_switch` of a group: what stops the validator clients, and what fires it.

use alert::killswitch::containers::ContainersConfig;
use alert::killswitch::keymanager::{ClientConfig, KeymanagerConfig, KeysToDelete};
use alert::killswitch::kubernetes::KubernetesConfig;
use alert::killswitch::systemd::SystemdConfig;
use alert::killswitch::{ActionConfig, KillSwitchParts};
use alert::{SecretSource, is_http, program_problem, secret_problem};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest timeout that a kill switch may have.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// Where Kubernetes puts the credentials of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What stops a group's validator clients. It is only read from the configuration and never from
/// the list files, because those files may come from somebody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSwitchConfig {
    /// How the clients are stopped. Without it `command` or `url` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionKind>,
    /// `program`: the program and its arguments. They are passed as they are, without a shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// `url`: the address that receives a POST request. `kubernetes`: the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `url`: what signs the request. `kubernetes`: the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// `keymanager` and `web3signer`: where the keys are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<KeymanagerClientConfig>,
    /// `keymanager` and `web3signer`: the keys of the group (`group`), or all that are there
    /// (`all`).
    #[serde(default)]
    pub keys: KeysToDelete,
    /// `systemd`: units, such as `validator.service`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// `systemd`: the program.
    #[serde(default = "systemctl")]
    pub systemctl: PathBuf,
    /// `docker` and `podman`: names or ids of containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// `docker` and `podman`: the unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// `kubernetes`: `statefulset/NAME` or `deployment/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `kubernetes`: the certificate of the API server, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// File that is written before anything is stopped, and removed when the switch is made ready
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_file: Option<PathBuf>,
    /// Whether orders only say what they would do.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether another implementation of BLS checks the proof of an offence before an order.
    #[serde(default)]
    pub second_check: bool,
    #[serde(with = "humantime_serde", default = "default_timeout")]
    pub timeout: Duration,
    /// Events that fire the switch: `offence`, `kin_offence`, `dormant_key_signed`, `two_origins`.
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

/// The ways to stop validator clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    Program,
    Url,
    Keymanager,
    Web3signer,
    Systemd,
    Docker,
    Podman,
    Kubernetes,
}

/// A validator client or a Web3Signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeymanagerClientConfig {
    pub url: String,
    /// The file with the token of its keymanager API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
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
    /// Votes of a key of the group come from two nodes in turn.
    TwoOrigins,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn systemctl() -> PathBuf {
    "/usr/bin/systemctl".into()
}

/// One day of mainnet. A machine whose clock is set to another time zone signs for slots that are
/// up to 14 hours old.
const DEFAULT_MAX_AGE_EPOCHS: u64 = 225;
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

impl ActionKind {
    /// The keys of the configuration that say what this action does. Those of other actions are
    /// refused, so that nobody relies on one that is not used.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Program => &["command"],
            Self::Url => &["url", "secret_file", "secret_env"],
            Self::Keymanager | Self::Web3signer => &["clients", "keys"],
            Self::Systemd => &["units", "systemctl"],
            Self::Docker | Self::Podman => &["containers", "socket"],
            Self::Kubernetes => &["url", "secret_file", "secret_env", "workloads", "namespace", "ca_file"],
        }
    }

    fn socket(self) -> PathBuf {
        if self == Self::Podman { "/run/podman/podman.sock".into() } else { "/var/run/docker.sock".into() }
    }
}

impl KillSwitchConfig {
    /// A switch that runs a program, with the defaults of everything else.
    pub fn of_command(command: Vec<String>) -> Self {
        Self {
            action: None,
            command,
            url: None,
            secret_file: None,
            secret_env: None,
            clients: Vec::new(),
            keys: KeysToDelete::default(),
            units: Vec::new(),
            systemctl: systemctl(),
            containers: Vec::new(),
            socket: None,
            workloads: Vec::new(),
            namespace: None,
            ca_file: None,
            lock_file: None,
            dry_run: false,
            second_check: false,
            timeout: default_timeout(),
            on: default_triggers(),
            members: MembersConfig::default(),
            max_age_epochs: DEFAULT_MAX_AGE_EPOCHS,
        }
    }

    /// How the clients are stopped.
    fn kind(&self) -> ActionKind {
        match (self.action, &self.url) {
            (Some(action), _) => action,
            (None, Some(_)) if self.command.is_empty() => ActionKind::Url,
            (None, _) => ActionKind::Program,
        }
    }

    /// The parts from which the switch is made. The check of the configuration has found no
    /// problem, so the defaults here are never used.
    pub(crate) fn parts(&self, group: &str) -> Result<KillSwitchParts, String> {
        let secret = SecretSource::of(self.secret_file.as_deref(), self.secret_env.as_deref());
        let kind = self.kind();
        let action = match kind {
            ActionKind::Program => ActionConfig::Command(self.command.clone()),
            ActionKind::Url => ActionConfig::Call {
                url: self.url.clone().unwrap_or_default(),
                secret: secret.ok_or("no secret: give `secret_file` or `secret_env`")?,
            },
            ActionKind::Keymanager | ActionKind::Web3signer => ActionConfig::Keymanager(KeymanagerConfig {
                clients: self.clients.iter().map(KeymanagerClientConfig::open).collect(),
                has_remote_keys: kind == ActionKind::Keymanager,
                keys: self.keys,
            }),
            ActionKind::Systemd => {
                ActionConfig::Systemd(SystemdConfig { units: self.units.clone(), systemctl: self.systemctl.clone() })
            }
            ActionKind::Docker | ActionKind::Podman => ActionConfig::Containers(ContainersConfig {
                containers: self.containers.clone(),
                socket: self.socket.clone().unwrap_or_else(|| kind.socket()),
            }),
            ActionKind::Kubernetes => ActionConfig::Kubernetes(KubernetesConfig {
                url: self.url.clone().unwrap_or_else(|| "https://kubernetes.default.svc".into()),
                token: secret.unwrap_or_else(|| SecretSource::File(Path::new(SERVICE_ACCOUNT).join("token"))),
                ca_file: self.ca_file.clone().or_else(|| self.url.is_none().then(|| Path::new(SERVICE_ACCOUNT).join("ca.crt"))),
                namespace: self.namespace.clone().unwrap_or_default(),
                workloads: self.workloads.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            }),
        };
        let (lock_file, dry_run) = (self.lock_file.clone(), self.dry_run);
        Ok(KillSwitchParts { group: group.to_owned(), action, timeout: self.timeout, lock_file, dry_run })
    }

    /// The files that the switch needs. It is made anew when one of them changes.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let tokens = self.clients.iter().filter_map(|client| client.token_file.as_deref());
        let program = self.command.first().map(Path::new);
        self.secret_file.as_deref().into_iter().chain(self.ca_file.as_deref()).chain(tokens).chain(program)
    }

    /// The paths that may be relative to the configuration file.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tokens = self.clients.iter_mut().filter_map(|client| client.token_file.as_mut());
        let own = [&mut self.secret_file, &mut self.ca_file, &mut self.socket, &mut self.lock_file];
        own.into_iter().filter_map(Option::as_mut).chain(tokens)
    }

    /// The lock file, with the links in the path of its folder followed: two spellings of one file
    /// are the same.
    pub(super) fn lock_place(&self) -> Option<PathBuf> {
        let path = self.lock_file.as_deref()?;
        let folder = folder_of(path);
        let place = |folder: PathBuf| Some(folder.join(path.file_name()?));
        folder.canonicalize().ok().and_then(place).or_else(|| Some(path.to_owned()))
    }

    pub(super) fn problems(&self, at: &dyn Fn(&str) -> String, wrong: &mut dyn FnMut(String, String)) {
        match (self.action, self.command.first(), &self.url) {
            (None, None, None) => wrong(at(""), "does nothing; give `command`, `url` or `action`".into()),
            (None, Some(_), Some(_)) => {
                wrong(at(".url"), "both `command` and `url`; keep one, a program may call an address too".into());
            }
            _ => self.action_problems(at, wrong),
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            wrong(at(".timeout"), "must be more than 0 and at most 10m".into());
        }
        if !MAX_AGE_EPOCHS.contains(&self.max_age_epochs) {
            let (least, most) = MAX_AGE_EPOCHS.into_inner();
            wrong(at(".max_age_epochs"), format!("{} is not between {least} and {most}", self.max_age_epochs));
        }
        if self.on.is_empty() {
            wrong(at(".on"), "nothing fires it; leave `on` out for [\"offence\"]".into());
        }
        if let Some(folder) = self.lock_file.as_deref().map(folder_of).filter(|folder| !folder.is_dir()) {
            wrong(
                at(".lock_file"),
                format!("{} is not a folder; create it, and let the watcher's user write to it", folder.display()),
            );
        }
    }

    fn action_problems(&self, at: &dyn Fn(&str) -> String, wrong: &mut dyn FnMut(String, String)) {
        let kind = self.kind();
        let defaults = Self::of_command(Vec::new());
        let given = [
            ("command", !self.command.is_empty()),
            ("url", self.url.is_some()),
            ("secret_file", self.secret_file.is_some()),
            ("secret_env", self.secret_env.is_some()),
            ("clients", !self.clients.is_empty()),
            ("keys", self.keys != defaults.keys),
            ("units", !self.units.is_empty()),
            ("systemctl", self.systemctl != defaults.systemctl),
            ("containers", !self.containers.is_empty()),
            ("socket", self.socket.is_some()),
            ("workloads", !self.workloads.is_empty()),
            ("namespace", self.namespace.is_some()),
            ("ca_file", self.ca_file.is_some()),
        ];
        for (key, _) in given.iter().filter(|(key, is_given)| *is_given && !kind.keys().contains(key)) {
            let text = match *key {
                "secret_file" | "secret_env" if kind == ActionKind::Program => "a program gets no secret; leave it out",
                _ => "is not a key of this action; leave it out",
            };
            wrong(at(&format!(".{key}")), text.into());
        }
        let mut needs = |key: &str, is_given: bool, what: &str| {
            if !is_given {
                wrong(at(&format!(".{key}")), format!("is missing: {what}"));
            }
        };
        match kind {
            ActionKind::Program => needs("command", !self.command.is_empty(), "the program and its arguments"),
            ActionKind::Url => needs("url", self.url.is_some(), "the address to call"),
            ActionKind::Keymanager | ActionKind::Web3signer => {
                needs(
                    "clients",
                    !self.clients.is_empty(),
                    "addresses, such as [{ url = \"http://127.0.0.1:5062\", token_file = \"api-token.txt\" }]",
                );
            }
            ActionKind::Systemd => needs("units", !self.units.is_empty(), "units, such as [\"validator.service\"]"),
            ActionKind::Docker | ActionKind::Podman => needs("containers", !self.containers.is_empty(), "names or ids"),
            ActionKind::Kubernetes => {
                needs("workloads", !self.workloads.is_empty(), "workloads, such as [\"statefulset/validator\"]");
                needs("namespace", self.namespace.is_some(), "where the workloads are");
            }
        }
        if let Some(text) = self.command.first().and_then(|program| program_problem(program)) {
            wrong(at(".command[0]"), text);
        }
        if self.url.as_ref().is_some_and(|url| !is_http(url)) {
            wrong(at(".url"), "is not an http(s) address".into());
        }
        let has_secret = self.secret_file.is_some() || self.secret_env.is_some();
        let secret = match kind {
            ActionKind::Url => secret_problem(self.secret_file.as_deref(), self.secret_env.as_deref(), "calls are signed"),
            ActionKind::Kubernetes if has_secret => secret_problem(self.secret_file.as_deref(), self.secret_env.as_deref(), ""),
            _ => None,
        };
        if let Some((key, text)) = secret {
            wrong(at(&format!(".{key}")), text);
        }
        if kind == ActionKind::Systemd
            && let Some(text) = program_problem(&self.systemctl.display().to_string())
        {
            wrong(at(".systemctl"), text);
        }
        // A name that begins with a dash would be an option, and one with a slash another address.
        for (key, names) in [("units", &self.units), ("containers", &self.containers)] {
            for (nth, _) in
                names.iter().enumerate().filter(|(_, name)| name.is_empty() || name.starts_with('-') || name.contains('/'))
            {
                wrong(at(&format!(".{key}[{nth}]")), "is not a name".into());
            }
        }
        for (nth, client) in self.clients.iter().enumerate() {
            if !is_http(&client.url) {
                wrong(at(&format!(".clients[{nth}].url")), "is not an http(s) address".into());
            }
            let problem = client.token_file.as_deref().and_then(|file| secret_problem(Some(file), None, ""));
            if let Some((_, text)) = problem {
                wrong(at(&format!(".clients[{nth}].token_file")), text);
            }
        }
        for (nth, workload) in self.workloads.iter().enumerate() {
            if let Err(text) = workload.parse::<alert::killswitch::kubernetes::Workload>() {
                wrong(at(&format!(".workloads[{nth}]")), text);
            }
        }
    }
}

impl KeymanagerClientConfig {
    fn open(&self) -> ClientConfig {
        ClientConfig { url: self.url.clone(), token: self.token_file.clone().map(SecretSource::File) }
    }
}

/// The folder of a file, which is the current one if the path names none.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a switch, by key.
    fn wrong(text: &str) -> Vec<String> {
        let config: KillSwitchConfig = toml::from_str(text).unwrap();
        let mut told = Vec::new();
        config.problems(&|key| key.to_owned(), &mut |key, _| told.push(key));
        told
    }

    #[test]
    fn each_action_has_its_own_keys_and_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "x").unwrap();
        let token = token.display();
        let clients = format!("clients = [{{ url = \"http://vc:5062\", token_file = \"{token}\" }}]");
        for right in [
            "command = [\"/bin/true\"]".to_owned(),
            format!("url = \"http://x/\"\nsecret_file = \"{token}\""),
            format!("action = \"keymanager\"\nkeys = \"all\"\n{clients}"),
            "action = \"web3signer\"\nclients = [{ url = \"http://signer:9000\" }]".to_owned(),
            "action = \"systemd\"\nunits = [\"validator@1.service\"]\nsystemctl = \"/bin/true\"".to_owned(),
            "action = \"docker\"\ncontainers = [\"validator\"]".to_owned(),
            "action = \"podman\"\ncontainers = [\"validator\"]\nsocket = \"/run/x.sock\"".to_owned(),
            "action = \"kubernetes\"\nnamespace = \"eth\"\nworkloads = [\"statefulset/vc\"]".to_owned(),
            // In the folder of a configuration that is named without one.
            "command = [\"/bin/true\"]\nlock_file = \"acme.lock\"".to_owned(),
        ] {
            assert_eq!(wrong(&right), [""; 0], "{right}");
            let config: KillSwitchConfig = toml::from_str(&right).unwrap();
            assert!(config.parts("acme").is_ok(), "{right}");
        }
        for (text, keys) in [
            ("", vec![""]),
            ("command = [\"/bin/true\"]\nurl = \"http://x/\"", vec![".url"]),
            ("command = [\"/bin/true\"]\nsecret_file = \"x\"", vec![".secret_file"]),
            ("action = \"keymanager\"", vec![".clients"]),
            (
                "action = \"systemd\"\nsystemctl = \"/bin/true\"\nunits = [\"--now\"]\ncontainers = [\"x\"]",
                vec![".containers", ".units[0]"],
            ),
            ("action = \"docker\"\ncontainers = [\"../x\"]", vec![".containers[0]"]),
            ("action = \"kubernetes\"\nworkloads = [\"pod/x\"]", vec![".namespace", ".workloads[0]"]),
            ("command = [\"/bin/true\"]\nlock_file = \"/no/such/folder/lock\"", vec![".lock_file"]),
        ] {
            assert_eq!(wrong(text), keys, "{text}");
        }
        assert!(toml::from_str::<KillSwitchConfig>("action = \"keymanager\"\nclient = []").is_err(), "a wrong key is refused");
    }

    #[test]
    fn relative_paths_are_those_of_the_configuration() {
        let text = "action = \"keymanager\"\nclients = [{ url = \"http://x\", token_file = \"t\" }]\nlock_file = \"l\"";
        let mut config: KillSwitchConfig = toml::from_str(text).unwrap();
        let paths: Vec<PathBuf> = config.paths_mut().map(|path| path.clone()).collect();
        assert_eq!(paths, ["l", "t"].map(PathBuf::from));
        assert_eq!(config.files().collect::<Vec<_>>(), [Path::new("t")]);
    }
}
