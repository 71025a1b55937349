//! Commands around the watcher: the first configuration, shell completions, man pages.

mod common;

use common::slashwatch;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use test_support::program::{run, stderr};

const USAGE: i32 = 64;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Names of the commands in `--help`.
fn commands() -> Vec<String> {
    let help = stdout(&run(slashwatch().arg("--help")));
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn completions_and_man_pages_have_every_command() {
    let commands = commands();
    assert!(commands.iter().any(|name| name == "run"), "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = run(slashwatch().args(["completions", shell]));
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        let lacking: Vec<_> = commands.iter().filter(|name| !text.contains(name.as_str())).collect();
        assert!(lacking.is_empty(), "{shell}: {lacking:?}");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), run(slashwatch().args(["completions", "bash"])).stdout).unwrap();
    let completes =
        "COMP_WORDS=(slashwatch config ''); COMP_CWORD=2; _slashwatch slashwatch '' config; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let bash = run(Command::new("bash").args(["-c", &format!("source {}; {completes}", script.path().display())]));
    let answer = stdout(&bash);
    assert!(answer.lines().any(|word| word == "show-defaults"), "{answer}{}", stderr(&bash));

    let folder = tempfile::tempdir().unwrap();
    let output = run(slashwatch().args(["man", "--out"]).arg(folder.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    let page = fs::read_to_string(folder.path().join("slashwatch.1")).unwrap();
    assert_eq!(page, stdout(&run(slashwatch().arg("man"))));
    for name in commands.iter().filter(|name| *name != "help") {
        assert!(page.contains(&name.replace('-', "\\-")), "{name} is not in slashwatch(1)");
        assert!(folder.path().join(format!("slashwatch-{name}.1")).exists(), "{name} has no page");
    }
}

fn init(folder: &Path, more: &[&str]) -> Output {
    let out = folder.join("slashwatch.toml");
    run(slashwatch().arg("init").args(["--network", "hoodi", "--out"]).arg(out).args(more).stdin(Stdio::null()))
}

#[test]
fn init_writes_what_config_check_accepts() {
    let answers: [&[&str]; 4] = [
        &["--node", "http://127.0.0.1:5052"],
        &["--checkpoint", "https://a.example", "--checkpoint", "https://b.example", "--keys", "100-199,7"],
        &["--node", "http://127.0.0.1:5052", "--alert", "https://example.org/hook", "--data-dir", "/var/lib/slashwatch"],
        &["--node", "http://127.0.0.1:5052", "--keys", "1-9", "--kill-switch", "/bin/true", "--kill-switch", "eu \"1\""],
    ];
    for more in answers {
        let folder = tempfile::tempdir().unwrap();
        let output = init(folder.path(), more);
        assert!(output.status.success(), "{more:?}: {}", stderr(&output));
        let config = folder.path().join("slashwatch.toml");
        assert_eq!(stdout(&output), format!("slashwatch run --config {}\n", config.display()));
        let check = run(slashwatch().args(["config", "check"]).arg(&config));
        assert!(check.status.success() && !stderr(&check).contains("warning"), "{more:?}: {}", stderr(&check));
        let text = fs::read_to_string(&config).unwrap();
        assert!(more.iter().filter(|word| word.contains("://")).all(|word| text.contains(word)), "{text}");
        let secret = folder.path().join("slashwatch.secret");
        assert_eq!(secret.exists(), more.contains(&"--alert"), "a secret only where something is signed");
        if secret.exists() {
            assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let again = init(folder.path(), more);
        assert_eq!(again.status.code(), Some(USAGE), "an existing file is kept: {}", stderr(&again));
        assert_eq!(fs::read_to_string(&config).unwrap(), text);
    }
}

#[test]
fn init_with_wrong_answers_leaves_nothing_behind() {
    let wrong: [&[&str]; 4] = [
        &[],
        &["--node", "http://127.0.0.1:5052", "--keys", "100-x"],
        &["--node", "http://127.0.0.1:5052", "--alert", "not an address"],
        &["--node", "http://127.0.0.1:5052", "--keys", "7", "--kill-switch", "stop-validators"],
    ];
    for more in wrong {
        let folder = tempfile::tempdir().unwrap();
        let output = init(folder.path(), more);
        assert_eq!(output.status.code(), Some(USAGE), "{more:?}: {}", stderr(&output));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{more:?}");
    }
}
