//! `slashwatch init`: five questions, and a commented configuration with the answers.
//!
//! The options of the command line are the first answers. What they leave open is asked on a
//! terminal and keeps its default elsewhere. The file is checked as `config check` does it before
//! it is there, so a wrong answer leaves no file.

use crate::args::InitArgs;
use crate::exit::UsageError;
use crate::output;
use actions::config::WatchConfig;
use anyhow::Context as _;
use std::fmt::Write as _;
use std::io::{BufRead, ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;
use watcher::config::{Config, ConfigError};

/// Name of the file with the secret that signs what is sent. It is in the configuration's folder.
const SECRET_FILE: &str = "slashwatch.secret";

pub fn init(args: InitArgs) -> anyhow::Result<u8> {
    if args.out.exists() {
        let text = format!("{} is there already; give another --out, or change the file by hand", args.out.display());
        return Err(UsageError(text).into());
    }
    let mut stdin = std::io::stdin().lock();
    let terminal: Option<&mut dyn BufRead> = if std::io::stdin().is_terminal() { Some(&mut stdin) } else { None };
    write_config(args, terminal)
}

/// Asks until the answers make a valid configuration. Without a terminal, the first problem is an
/// error.
fn write_config(mut answers: InitArgs, mut terminal: Option<&mut dyn BufRead>) -> anyhow::Result<u8> {
    let out = answers.out.clone();
    loop {
        if let Some(terminal) = &mut terminal {
            ask(&mut answers, *terminal)?;
        }
        let secret = out.with_file_name(SECRET_FILE);
        let has_made_secret = answers.sends() && make_secret(&secret)?;
        match Config::parse(&answers.to_toml(), &out) {
            Ok(_) => break,
            Err(error) => {
                if has_made_secret {
                    std::fs::remove_file(&secret).with_context(|| format!("cannot remove {}", secret.display()))?;
                }
                if terminal.is_none() {
                    return Err(error.into());
                }
                eprintln!("{}\n", problems(&error));
            }
        }
    }
    create_new(&out, &answers.to_toml(), 0o644)?;
    eprintln!("wrote {}; start the watcher with", out.display());
    output::line(format_args!("slashwatch run --config {}", out.display()))?;
    Ok(0)
}

fn problems(error: &ConfigError) -> String {
    match error {
        ConfigError::Invalid { problems, .. } => {
            problems.iter().map(|problem| format!("{}: {}", problem.path, problem.text)).collect::<Vec<_>>().join("\n")
        }
        other => other.to_string(),
    }
}

/// The five questions. An empty answer keeps what stands in brackets.
fn ask(answers: &mut InitArgs, terminal: &mut dyn BufRead) -> anyhow::Result<()> {
    let mut one = |text: &str, given: Vec<String>| -> anyhow::Result<Vec<String>> {
        eprint!("{text} [{}] ", given.join(" "));
        std::io::stderr().flush()?;
        let mut line = String::new();
        if terminal.read_line(&mut line)? == 0 {
            return Err(UsageError("the answers ended before the questions; no file was written".into()).into());
        }
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Ok(match words.first().map(String::as_str) {
            None => given,
            Some("-") => Vec::new(),
            Some(_) => words,
        })
    };
    eprintln!("Enter keeps what is in brackets, - empties it.\n");
    let network = one("1. Which network? A name (mainnet, hoodi, gnosis, ..) or a folder:", vec![answers.network.clone()])?;
    answers.network = network.into_iter().next().unwrap_or_default();
    answers.node =
        one("2. Addresses of your own beacon nodes, such as http://127.0.0.1:5052:", std::mem::take(&mut answers.node))?;
    if answers.node.is_empty() {
        let text = "   Without one: endpoints for checkpoint sync (two or more are compared), or a state file:";
        answers.checkpoint = one(text, std::mem::take(&mut answers.checkpoint))?;
    }
    let text = "3. Which keys are yours? Indices, ranges, public keys, .csv or .toml files:";
    answers.keys = one(text, std::mem::take(&mut answers.keys))?;
    answers.alert =
        one("4. Where do alerts go? Address of a webhook:", answers.alert.iter().cloned().collect())?.into_iter().next();
    if !answers.keys.is_empty() {
        let text = "5. What stops your validators when one of them signs twice? A program, or an address:";
        answers.kill_switch = one(text, std::mem::take(&mut answers.kill_switch))?;
    }
    Ok(())
}

impl InitArgs {
    /// Whether a webhook or an address is called, so that a secret is needed.
    fn sends(&self) -> bool {
        self.alert.is_some() || self.kill_switch_url().is_some()
    }

    fn kill_switch_url(&self) -> Option<&str> {
        self.kill_switch.first().filter(|first| first.contains("://")).map(String::as_str)
    }

    fn to_toml(&self) -> String {
        let mut text = format!(
            "# Configuration of slashwatch, written by `slashwatch init`.\n\
             # Every option, its default and the reason for it: slashwatch config show-defaults\n\
             # After a change: slashwatch config check {}\n\n\
             # Folder of the index, the findings and the outbox. Relative paths are relative to the folder of this file.\n\
             data_dir = {}\n\n",
            self.out.display(),
            quoted(&self.data_dir.to_string_lossy()),
        );
        let network = if consensus::Spec::builtin(&self.network).is_some() { "name" } else { "folder" };
        let (urls, files): (Vec<&String>, Vec<&String>) = self.checkpoint.iter().partition(|one| one.contains("://"));
        let _ = writeln!(text, "[network]\n{network} = {}", quoted(&self.network));
        for file in files {
            let _ = writeln!(text, "# The beacon state to start from.\nstate = {}", quoted(file));
        }
        let _ = write!(
            text,
            "\n[nodes]\n# Your own beacon nodes: asked for states, blocks and finality. If one does not answer, the next one is asked.\n\
             urls = {}\n\
             # Endpoints from which only states are taken. Two that disagree about the finalized block stop the start.\n\
             checkpoints = {}\n\n\
             [gossip]\n# Open these ports, and UDP 9010 for discovery: who dials the watcher keeps it longer than whom it dials.\n\
             listen = [\"/ip4/0.0.0.0/tcp/9010\", \"/ip4/0.0.0.0/udp/9011/quic-v1\"]\n\
             # Your own nodes, as multiaddr with /p2p/ or ENR, so that the votes of your keys are heard first-hand.\npeers = []\n\n\
             [api]\n# The page, the API and /metrics. Keep it on a loopback address, or put a reverse proxy in front of it.\nlisten = {}\n\
             # public_url = \"https://watch.example.org\"   # then alerts contain a link\n\n",
            list(&self.node),
            list(&urls),
            quoted(&self.listen.to_string()),
        );
        self.write_watch(&mut text);
        self.write_alerts(&mut text);
        text
    }

    fn write_watch(&self, text: &mut String) {
        let is_file = |key: &&String| key.ends_with(".csv") || key.ends_with(".toml");
        let files: Vec<&String> = self.keys.iter().filter(is_file).collect();
        let keys: Vec<&String> = self.keys.iter().filter(|key| !is_file(key)).collect();
        let _ = write!(text, "[watch]\n# Groups of your keys, as files: docs/watching.md\nfiles = {}\n\n", list(&files));
        if keys.is_empty() && self.kill_switch.is_empty() {
            text.push_str(
                "# Keys to watch: an offence of one of them is an alarm of its own.\n# [[watch.groups]]\n# name = \"ours\"\n# keys = [\"100-199\"]\n\n",
            );
            return;
        }
        // A switch belongs to a group, and what a file names are groups of its own.
        for group in self.groups_of(&files) {
            let _ = writeln!(text, "# Its keys are in the files above.\n[[watch.groups]]\nname = {}\nkeys = []", quoted(&group));
            self.write_switch(&group, text);
        }
        if !keys.is_empty() {
            let _ = writeln!(text, "[[watch.groups]]\nname = {}\nkeys = {}", quoted(&self.group), list(&keys));
            self.write_switch(&self.group, text);
        }
    }

    /// Names of the groups in files. A file that cannot be read is told when the configuration is
    /// checked.
    fn groups_of(&self, files: &[&String]) -> Vec<String> {
        let folder = self.out.parent().unwrap_or_else(|| Path::new(""));
        let files = files.iter().map(|file| folder.join(file)).collect();
        let loaded = actions::lists::load(&WatchConfig { files, ..WatchConfig::default() });
        loaded.list.groups().map(ToString::to_string).collect()
    }

    fn write_switch(&self, group: &str, text: &mut String) {
        match self.kill_switch_url() {
            Some(url) => {
                let _ = writeln!(
                    text,
                    "# Called once, on the first offence in the group. Try it: slashwatch killswitch test {group}\n\
                     kill_switch = {{ url = {}, secret_file = {} }}",
                    quoted(url),
                    quoted(SECRET_FILE)
                );
            }
            None if !self.kill_switch.is_empty() => {
                let _ = writeln!(
                    text,
                    "# Run once, on the first offence in the group, without a shell. Try it: slashwatch killswitch test {group}\n\
                     kill_switch = {{ command = {} }}",
                    list(&self.kill_switch)
                );
            }
            None => text.push_str(
                "# What stops the validators on the first offence: docs/watching.md\n# kill_switch = { command = [\"/usr/local/bin/stop-validators\"] }\n",
            ),
        }
        text.push('\n');
    }

    fn write_alerts(&self, text: &mut String) {
        let Some(alert) = &self.alert else {
            text.push_str(
                "# Where findings are sent. Try it: slashwatch alert test ops\n# [[alerts.routes]]\n# name = \"ops\"\n# url = \"https://example.org/hook\"\n\
                 # secret_file = \"slashwatch.secret\"   # signs each delivery\n",
            );
            return;
        };
        let _ = write!(
            text,
            "# What is of this severity or worse is sent, and repeated until it has arrived. Try it: slashwatch alert test ops\n\
             [[alerts.routes]]\nname = \"ops\"\nurl = {}\nsecret_file = {}   # signs each delivery\nmin_severity = \"critical\"\n\
             merge = true               # what belongs together is one message and updates\n",
            quoted(alert),
            quoted(SECRET_FILE)
        );
    }
}

/// A TOML string. JSON's escapes are TOML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<T: AsRef<str>>(texts: &[T]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>().join(", "))
}

/// Makes a file with a random secret. A file that is there is kept. Returns whether it was made.
fn make_secret(path: &Path) -> anyhow::Result<bool> {
    if path.exists() {
        return Ok(false);
    }
    let secret: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    create_new(path, &secret, 0o600)?;
    Ok(true)
}

/// Writes a file that was not there.
fn create_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(UsageError(format!("{} is there already; give another --out", path.display())).into());
        }
        other => other.with_context(|| format!("cannot write {}; check that its folder exists", path.display()))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn answered(folder: &Path, answers: &str) -> anyhow::Result<Config> {
        let out = folder.join("slashwatch.toml");
        let args = crate::args::Args::try_parse_from(["slashwatch", "init", "--out", &out.to_string_lossy()])?;
        let crate::args::Command::Init(args) = args.command else { panic!("init") };
        write_config(args, Some(&mut answers.as_bytes()))?;
        Ok(Config::load(&out)?)
    }

    #[test]
    fn five_answers_make_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            answered(folder.path(), "hoodi\nhttp://127.0.0.1:5052\n100-199 7\nhttps://example.org/hook\n/bin/true eu-1\n")
                .unwrap();
        assert_eq!(config.network.name.as_deref(), Some("hoodi"));
        assert_eq!(config.nodes.urls, ["http://127.0.0.1:5052"]);
        assert_eq!(config.watch.groups[0].keys, ["100-199", "7"]);
        assert_eq!(config.watch.groups[0].kill_switch.as_ref().unwrap().command, ["/bin/true", "eu-1"]);
        assert_eq!(config.alerts.routes[0].name, "ops");
    }

    /// A switch of a group without keys would protect nobody.
    #[test]
    fn each_group_of_a_file_gets_the_switch() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys.csv"), "group,key\neu-1,100-119\neu-2,7\n").unwrap();
        let config = answered(folder.path(), "hoodi\nhttp://127.0.0.1:5052\nkeys.csv\n\n/bin/true\n").unwrap();
        let groups: Vec<(&str, bool)> =
            config.watch.groups.iter().map(|group| (group.name.as_str(), group.kill_switch.is_some())).collect();
        assert_eq!(groups, [("eu-1", true), ("eu-2", true)]);
    }

    #[test]
    fn a_wrong_answer_is_asked_again_and_the_right_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = "hoodi\n\nhttps://a.example https://b.example\n100-x\n\n\n";
        let second = "\n\n\n100-199\n\n/bin/true\n";
        let config = answered(folder.path(), &format!("{first}{second}")).unwrap();
        assert_eq!(config.nodes.checkpoints, ["https://a.example", "https://b.example"]);
        assert_eq!(config.watch.groups[0].keys, ["100-199"]);
    }

    #[test]
    fn answers_that_end_early_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = answered(folder.path(), "hoodi\n").unwrap_err();
        assert!(error.to_string().contains("ended"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
