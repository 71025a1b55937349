//! Packages and examples name the ports, options, commands and fields that the program has. What
//! cannot run on a developer's machine (containers, Kubernetes, Kurtosis) is checked here only.

mod common;

use common::slashwatch;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use test_support::capture;
use test_support::http::{free_port, wait_until};
use test_support::program::{Running, run, stderr};
use watcher::config::{CommandLine, Config};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All texts of a list.
fn texts(value: &Value) -> Vec<String> {
    let each = value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter();
    each.map(|one| one.as_str().unwrap_or_else(|| panic!("{one} is no text")).to_owned()).collect()
}

/// The ports that the watcher listens on by default, such as `9010/udp`.
fn default_ports() -> BTreeSet<String> {
    let config = Config::default();
    let mut ports: BTreeSet<String> = config.gossip.discovery.listen.iter().map(|at| format!("{}/udp", at.port())).collect();
    ports.insert(format!("{}/tcp", config.api.listen.port()));
    for address in &config.gossip.listen {
        let parts: Vec<&str> = address.split('/').collect();
        let at = parts.iter().position(|part| ["tcp", "udp"].contains(part)).expect("a transport");
        ports.insert(format!("{}/{}", parts[at + 1], parts[at]));
    }
    assert_eq!(ports.len(), 4, "{ports:?}");
    ports
}

/// The ports of a container that a list of published ports names.
fn published(ports: &Value) -> BTreeSet<String> {
    let inner = |port: &String| {
        let inner = port.rsplit(':').next().expect("a port").to_owned();
        if inner.contains('/') { inner } else { format!("{inner}/tcp") }
    };
    texts(ports).iter().map(inner).collect()
}

#[test]
fn every_package_has_the_ports_of_the_program() {
    let ports = default_ports();
    let dockerfile = read("packaging/docker/Dockerfile");
    let exposed = dockerfile.lines().find_map(|line| line.strip_prefix("EXPOSE ")).expect("EXPOSE");
    assert_eq!(exposed.split(' ').map(str::to_owned).collect::<BTreeSet<_>>(), ports, "Dockerfile");
    let compose = yaml("packaging/docker/compose.yml");
    assert_eq!(published(&compose["services"]["slashwatch"]["ports"]), ports, "compose.yml");
    let eth_docker = yaml("packaging/eth-docker/slashwatch.yml");
    assert_eq!(published(&eth_docker["services"]["slashwatch"]["ports"]), ports, "eth-docker");
    let variables = read("packaging/eth-docker/default.env");
    for port in texts(&eth_docker["services"]["slashwatch"]["ports"]) {
        let variable = port.split("${").find(|part| part.starts_with("SLASHWATCH_")).expect("a variable of ours");
        let (name, default) = variable.split_once(":-").expect("a default");
        let default = default.split('}').next().expect("an end");
        assert!(variables.lines().any(|line| line == format!("{name}={default}")), "default.env lacks {name}={default}");
    }
    let chart = yaml("packaging/helm/slashwatch/Chart.yaml");
    assert_eq!([&chart["version"], &chart["appVersion"]], [env!("CARGO_PKG_VERSION"); 2], "Chart.yaml");
    let statefulset = read("packaging/helm/slashwatch/templates/statefulset.yaml");
    let kurtosis = read("packaging/kurtosis/main.star");
    for port in &ports {
        let (number, transport) = port.split_once('/').expect("a transport");
        let container = format!("containerPort: {number}, protocol: {}", transport.to_uppercase());
        assert!(statefulset.contains(&container), "the Helm chart lacks {container}");
        assert!(kurtosis.contains(&format!("_PORT = {number}")), "the Kurtosis package lacks {port}");
    }
    let api = Config::default().api.listen.port();
    assert!(read("packaging/helm/slashwatch/templates/service.yaml").contains(&format!("port: {api}, targetPort: http")));
    assert_eq!(eth_docker["services"]["slashwatch"]["labels"][2], format!("metrics.port={api}"));
    for (path, target) in [
        ("monitoring/prometheus.yml", format!("127.0.0.1:{api}")),
        ("packaging/docker/prometheus.yml", format!("slashwatch:{api}")),
    ] {
        let jobs = yaml(path);
        assert_eq!(jobs["scrape_configs"][0]["job_name"], "slashwatch", "{path}: rules and dashboards name the job");
        assert_eq!(jobs["scrape_configs"][0]["static_configs"][0]["targets"][0], target.as_str(), "{path}");
        assert_eq!(jobs["rule_files"][0], "rules.yml", "{path}");
    }
}

/// The command and the options of a call, as words.
fn assert_is_a_command(place: &str, words: &[&str]) {
    let help = run(slashwatch().arg(words[0]).arg("--help"));
    assert!(help.status.success(), "{place}: there is no command {}", words[0]);
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    for option in words.iter().filter(|word| word.starts_with("--")) {
        assert!(
            help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
            "{place}: {} has no {option}",
            words[0]
        );
    }
}

#[test]
fn every_package_calls_commands_and_options_that_there_are() {
    let dockerfile = read("packaging/docker/Dockerfile");
    for start in ["CMD [", "HEALTHCHECK "] {
        let line = dockerfile.lines().find(|line| line.starts_with(start)).expect(start);
        let list: Vec<String> = serde_json::from_str(&line[line.find('[').expect("exec form")..]).expect("JSON");
        let words: Vec<&str> = list.iter().map(String::as_str).filter(|word| *word != "/usr/local/bin/slashwatch").collect();
        assert_is_a_command("Dockerfile", &words);
    }
    for path in ["packaging/docker/compose.yml", "packaging/eth-docker/slashwatch.yml"] {
        let command = texts(&yaml(path)["services"]["slashwatch"]["command"]);
        assert_is_a_command(path, &command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let statefulset = read("packaging/helm/slashwatch/templates/statefulset.yaml");
    let (_, args) = statefulset.split_once("args:\n").expect("args");
    let args = args.split("ports:").next().expect("ports follow");
    let words: Vec<&str> = args.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    assert_is_a_command("Helm chart", &words);
    let unit = read("packaging/debian/slashwatch.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/slashwatch ")).expect("ExecStart");
    assert_is_a_command("slashwatch.service", &start.split(' ').collect::<Vec<_>>());
    let config = start.split(' ').next_back().expect("a file");
    assert!(unit.contains(&format!("ConditionPathExists={config}")));
    assert_is_a_command("slashwatch.service", &["init", "--out", "--data-dir"]);
    let kurtosis = read("packaging/kurtosis/main.star");
    let cmd = kurtosis.lines().find_map(|line| line.trim().strip_prefix("cmd = ")).expect("cmd");
    let words: Vec<String> = serde_json::from_str(cmd.trim_end_matches(',')).expect("a list");
    assert_is_a_command("Kurtosis", &words.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn every_configuration_in_a_package_is_valid() {
    let given =
        CommandLine { network: Some("hoodi".into()), checkpoints: vec!["https://a.example".into()], ..CommandLine::default() };
    for path in ["packaging/docker/slashwatch.toml", "packaging/eth-docker/slashwatch.toml"] {
        let config =
            Config::load_with(Some(&Path::new(ROOT).join(path)), &given).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(!config.api.listen.ip().is_loopback(), "{path}: a container's loopback cannot be published");
    }
    let chart = read("packaging/helm/slashwatch/templates/configmap.yaml");
    let (_, text) = chart.split_once("slashwatch.toml: |\n").expect("a file");
    let text: String = text.lines().filter(|line| !line.contains("{{")).map(|line| line.trim_start().to_owned() + "\n").collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slashwatch.toml");
    fs::write(&file, text).unwrap();
    Config::load_with(Some(&file), &given).unwrap_or_else(|error| panic!("Helm chart: {error}"));

    // As Kurtosis renders it, with the folders that it mounts.
    let kurtosis = read("packaging/kurtosis/main.star");
    let (_, template) = kurtosis.split_once("CONFIG = \"\"\"").expect("a template");
    let template = template.split("\"\"\"").next().expect("an end");
    let mut text = String::new();
    for line in template.lines() {
        let value = match line.split_once(" = [{{") {
            Some(("urls", _)) => Some("urls = [\"http://172.16.0.12:4000\"]"),
            Some(("peers", _)) => Some("peers = []"),
            Some((other, _)) => panic!("{other} is filled with nothing"),
            None => None,
        };
        text.push_str(value.unwrap_or(line));
        text.push('\n');
    }
    for (mounted, name) in [("/network", "network"), ("/validator-ranges", "ranges")] {
        fs::create_dir(folder.path().join(name)).unwrap();
        text = text.replace(&format!("\"{mounted}"), &format!("\"{}", folder.path().join(name).display()));
    }
    let recorded = sources::capture::CaptureFile::open(&capture("fulu_4")).expect("readable");
    let yaml = recorded.first_config().expect("readable").expect("every capture has one");
    fs::write(folder.path().join("network/config.yaml"), yaml).unwrap();
    fs::write(folder.path().join("ranges/validator-ranges.yaml"), "0-63: 01-geth-lighthouse-lighthouse\n").unwrap();
    fs::write(&file, &text).unwrap();
    let config = Config::load(&file).unwrap_or_else(|error| panic!("Kurtosis: {error}\n{text}"));
    assert!(config.gossip.discovery.private_addresses, "containers have private addresses");
}

/// The field at `path`, such as `findings[].evidence.type`. `[]` is the first item of a list.
fn field<'a>(answer: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(answer, |at, name| match name.strip_suffix("[]") {
        Some(list) => &at[list][0],
        None => &at[name],
    })
}

/// Every field that an example asks for is in an answer of the API.
#[test]
fn the_examples_for_assertoor_ask_for_fields_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let replay = run(slashwatch().arg("replay").arg(capture("electra_6")).arg("--data-dir").arg(&data));
    assert!(replay.status.success(), "{}", stderr(&replay));
    let api: SocketAddr = free_port();
    let mut serve = slashwatch();
    serve.arg("serve").arg("--data-dir").arg(&data).args(["--listen", &api.to_string()]).stdin(Stdio::null());
    let _serving = Running::of(serve);
    let status = wait_until(api, "/v1/status", |_| true);
    let mut n_queries = 0;
    for name in ["no-slashable-message", "slashing-is-found"] {
        let path = format!("packaging/assertoor/{name}.yaml");
        let playbook = yaml(&path);
        assert_eq!(playbook["id"], format!("slashwatch-{name}"));
        let url = playbook["config"]["slashwatchUrl"].as_str().expect("an address");
        assert_eq!(url, format!("http://slashwatch:{}", Config::default().api.listen.port()));
        for task in playbook["tasks"].as_array().expect("tasks").iter().filter(|task| task["name"] == "check_http_json") {
            let address = task["configVars"]["url"].as_str().expect("an address");
            let address = address.split('"').nth(1).expect("a path in quotes");
            // A recording is never ready: the status has the same fields.
            let answer = match address {
                "/readyz" => status["readiness"].clone(),
                other => wait_until(api, other, |_| true),
            };
            for assertion in task["config"]["assertions"].as_array().expect("assertions") {
                let query = assertion["query"].as_str().expect("a query");
                for word in query.split(|c: char| " ()|[]".contains(c) && c != '[').filter(|word| word.starts_with('.')) {
                    let inner = word.trim_start_matches('.').trim_end_matches(['[', ']']);
                    if inner.is_empty() {
                        continue;
                    }
                    let of_item = ["evidence.type", "included"].contains(&inner);
                    let at = if of_item { format!("findings[].{inner}") } else { inner.to_owned() };
                    let parent = at.rsplit_once('.').map_or(&answer, |(parent, _)| field(&answer, parent));
                    let last = at.rsplit('.').next().expect("a name");
                    assert!(parent.get(last).is_some(), "{path}: {address} has no {at}: {answer}");
                    n_queries += 1;
                }
            }
        }
    }
    assert!(n_queries >= 6, "only {n_queries} fields were asked for");
}

/// Scripts of esd are run with its only argument, and by a test only if that is wanted.
#[test]
fn scripts_of_esd_are_run_as_esd_runs_them() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let scripts = ["attester", "proposer"].map(|name| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$#\" \"$1\"\n")).expect("written");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("executable");
        path
    });
    let adapter = Path::new(ROOT).join("packaging/esd/run-esd-script");
    let run_for = |kind: &str, test: &str, options: &[&str]| {
        let mut command = std::process::Command::new(&adapter);
        command.args(options).args(&scripts);
        command.env("SLASHWATCH_KIND", kind).env("SLASHWATCH_TEST", test).env("SLASHWATCH_VALIDATOR", "77");
        let output = run(&mut command);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(run_for("double_vote", "0", &[]), "attester 1 77\n");
    assert_eq!(run_for("surround_vote", "0", &[]), "attester 1 77\n");
    assert_eq!(run_for("double_proposal", "0", &[]), "proposer 1 77\n");
    let said = run_for("double_proposal", "1", &[]);
    assert!(said.starts_with("would run ") && said.contains("proposer 77"), "{said}");
    assert_eq!(run_for("double_vote", "1", &["--run-in-test"]), "attester 1 12345\nproposer 1 12345\n");
    let mut without = std::process::Command::new(&adapter);
    assert_eq!(run(without.arg("one")).status.code(), Some(64));
}
