//! `slashwatch demo`: runs the watcher live against a simulated network on loopback. The incident
//! is that of February 2021, or that of any scenario file.
//!
//! The network is real libp2p between nodes of this process, and the watcher is the same as in
//! `run`. At the end the offences found are compared with those that the simulator committed, and
//! the reported incidents with those that the scenario lists. The two sides share no code.

use crate::args::DemoArgs;
use crate::exit::{FAILED, UsageError};
use crate::output;
use actions::config::{GroupConfig, KillSwitchConfig, RouteConfig, SinkConfig, WebhookConfig};
use actions::killswitch::KillSwitchState;
use anyhow::Context as _;
use consensus::{Network, ValidatorIndex};
use engine::silence::is_silence;
use evidence::{Audience, Finding, Incident, Kind, OutboxCounts};
use simulator::{Crime, GroundTruth, Reported, STAKED_KEYS, Scenario, SimNetwork, TruthComparison};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use watcher::config::Config;
use watcher::datadir;
use watcher::run::Watcher;

/// Number of slots after the last one in which an incident may still be reported.
const LAST_SLOTS: u32 = 4;
/// Longest time after the last slot until the last messages are judged.
const GRACE: Duration = Duration::from_secs(5);

/// The scenario that a name stands for, because packages of the program have no files of scenarios.
const REHEARSAL: &str = include_str!("../../../scenarios/rehearsal.toml");

/// Runs the demo. The exit code is 1 if an offence or an incident was missed or was reported
/// wrongly.
pub fn demo(options: DemoArgs) -> anyhow::Result<u8> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads; check ulimit -u")?;
    runtime.block_on(run(options))
}

async fn run(options: DemoArgs) -> anyhow::Result<u8> {
    let (scenario, story) = scenario(&options)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    eprintln!(
        "a network of {} validators, {} nodes on loopback, {} slots of {} ms; {story}",
        scenario.n_validators, scenario.n_nodes, scenario.slots, options.slot_ms
    );
    let operator = scenario.operator.clone();
    let network = SimNetwork::start(scenario).await?;
    let spec = consensus::Spec::from_yaml(network.config_yaml()).context("the simulator's config.yaml")?;
    let clock =
        Network { spec, genesis_time: network.genesis_time(), genesis_validators_root: network.genesis_validators_root() };
    let mut config = config(&network, folder.path(), &options)?;
    match &options.config {
        Some(file) => rehearse(&mut config, Config::load(file)?, &operator)?,
        None => {
            let ends = operator.first().zip(operator.last());
            config.watch.groups.extend(ends.map(|(first, last)| watched(format!("{first}-{last}"))));
        }
    }
    let (groups, data_dir) = (config.watch.groups.clone(), config.data_dir.clone());
    let watcher = Watcher::start(config).await?;
    if options.config.is_some() {
        tell_groups(&groups, &data_dir)?;
    }
    if let Some(address) = watcher.api_address() {
        output::line(format_args!("page and API: http://{address}"))?;
    }
    let outcome = watch(&watcher, network, &clock, &options).await;
    watcher.stop().await?;
    outcome
}

/// Returns the scenario, and a short description of what happens in it.
fn scenario(options: &DemoArgs) -> anyhow::Result<(Scenario, String)> {
    let slot_duration = Duration::from_millis(options.slot_ms);
    if let Some(path) = &options.scenario {
        let scenario = match path.as_os_str() == "rehearsal" {
            true => Scenario::from_toml(REHEARSAL)?,
            false => super::simulate::read_scenario(path)?,
        };
        let n = scenario.incidents.len();
        let story = format!("{}: {n} incidents are to be seen in it", path.display());
        return Ok((Scenario { slot_duration, ..scenario }, story));
    }
    let operator_keys = STAKED_KEYS.min(options.validators as usize / 2);
    let staked = Scenario::staked(options.validators as usize, operator_keys);
    let scenario = Scenario { seed: options.seed, slots: options.slots, slot_duration, ..staked };
    Ok((scenario, format!("an operator of {operator_keys} keys starts a second machine")))
}

/// Makes the watcher's configuration. It uses the network's own files and has all of its nodes as
/// peers. The webhook, if given, is the only alert route.
fn config(network: &SimNetwork, folder: &Path, options: &DemoArgs) -> anyhow::Result<Config> {
    let (yaml, state) = (folder.join("config.yaml"), folder.join("genesis.ssz"));
    std::fs::write(&yaml, network.config_yaml()).context("cannot write to the temporary folder")?;
    std::fs::write(&state, network.state_ssz()).context("cannot write to the temporary folder")?;
    let mut config = Config { data_dir: options.data_dir.clone().unwrap_or_else(|| folder.join("data")), ..Config::default() };
    config.network.config = Some(yaml);
    config.network.state = Some(state);
    config.gossip.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    config.gossip.peers = network.peers().to_vec();
    config.api.listen = options.listen;
    if let Some(url) = &options.webhook {
        let secret = folder.join("secret");
        std::fs::write(&secret, "demo").context("cannot write to the temporary folder")?;
        let sink = WebhookConfig { url: url.clone(), secret_file: Some(secret), secret_env: None };
        config.alerts.routes.push(RouteConfig::new("demo", SinkConfig::Webhook(sink)));
    }
    Ok(config)
}

/// Makes a group of watched keys from the operator's keys. Its kill switch only prints a text, so
/// that the incident continues.
fn watched(keys: String) -> GroupConfig {
    GroupConfig {
        name: "staked".into(),
        keys: vec![keys],
        labels: BTreeMap::from([("operator".into(), "staked".into())]),
        duty: None,
        audit: None,
        kill_switch: Some(KillSwitchConfig {
            timeout: Duration::from_secs(5),
            ..KillSwitchConfig::of_command(vec![
                "/bin/echo".into(),
                "here the validator clients would be stopped; the demo lets them go on".into(),
            ])
        }),
    }
}

/// Takes alert routes and groups from the operator's own configuration. The simulated keys of the
/// operator are shared out among the groups, those with a kill switch first. No kill switch stops
/// anything, and no lock file is written.
fn rehearse(config: &mut Config, own: Config, operator: &[ValidatorIndex]) -> anyhow::Result<()> {
    let mut groups = own.watch.groups;
    if operator.is_empty() {
        let missing = "--scenario: it has no `operator`, whose keys stand for yours; `--scenario rehearsal` has one";
        return Err(UsageError(missing.into()).into());
    }
    if own.alerts.routes.is_empty() && groups.is_empty() {
        return Err(UsageError("--config: it has neither alert routes nor groups, so there is nothing to rehearse".into()).into());
    }
    groups.sort_by_key(|group| group.kill_switch.is_none());
    let share = operator.len().div_ceil(groups.len().max(1)).max(1);
    let left_out: Vec<&str> = groups.iter().skip(operator.chunks(share).len()).map(|group| group.name.as_str()).collect();
    if !left_out.is_empty() {
        eprintln!(
            "there are too few simulated keys for these groups, which are left out: {} (--validators)",
            left_out.join(", ")
        );
    }
    let with_keys = groups.into_iter().zip(operator.chunks(share)).map(|(group, keys)| GroupConfig {
        keys: keys.iter().map(ToString::to_string).collect(),
        duty: None,
        audit: None,
        kill_switch: group.kill_switch.map(|switch| KillSwitchConfig { dry_run: true, lock_file: None, ..switch }),
        ..group
    });
    config.watch.groups = with_keys.collect();
    config.watch.kin_labels = own.watch.kin_labels;
    config.alerts.routes = own.alerts.routes;
    Ok(())
}

/// Says which simulated keys stand for which group, and writes them to a list that `--validators`
/// and `--watch` take.
fn tell_groups(groups: &[GroupConfig], data_dir: &Path) -> anyhow::Result<()> {
    // A name may have what separates columns.
    let name = |group: &GroupConfig| group.name.replace('"', "\"\"");
    let rows = groups.iter().flat_map(|group| group.keys.iter().map(move |key| format!("\"{}\",{key}\n", name(group))));
    let file = data_dir.join("keys.csv");
    std::fs::write(&file, format!("group,key\n{}", rows.collect::<String>())).with_context(|| super::could_not_write(&file))?;
    for group in groups {
        let (first, last) = (group.keys.first(), group.keys.last());
        let ends = first.zip(last).map_or_else(String::new, |(first, last)| format!(": validators {first} to {last}"));
        output::line(format_args!("group {} has {} simulated keys{ends}", group.name, group.keys.len()))?;
    }
    let file = datadir::absolute(&file);
    Ok(output::line(format_args!("list of these keys: {file}, as in --validators @{file},group=NAME"))?)
}

/// Says what the routes and kill switches of a rehearsal did.
fn tell_rehearsal(watcher: &Watcher) -> anyhow::Result<()> {
    let OutboxCounts { pending, delivered, given_up } = watcher.store().outbox_counts();
    output::line(format_args!("alerts: {delivered} findings delivered, {pending} waiting, {given_up} given up"))?;
    for (group, fired) in KillSwitchState::read(watcher.store())?.fired {
        let answer = fired.result.map_or_else(|| "it has not ended yet".to_owned(), |result| result.answer);
        output::line(format_args!("kill switch of {group}: {answer}"))?;
    }
    Ok(())
}

async fn watch(watcher: &Watcher, network: SimNetwork, clock: &Network, options: &DemoArgs) -> anyhow::Result<u8> {
    let (new, mut news) = tokio::sync::watch::channel(0);
    let _subscription = watcher.store().subscribe(move |seq| {
        new.send_replace(seq);
    });
    let (mut reported, mut n_offences) = (0, 0);
    let run = network.run();
    tokio::pin!(run);
    // A signal ends the demo at once, and the temporary folder is removed on the way out.
    let stopped = super::stop_signal();
    tokio::pin!(stopped);
    let truth = loop {
        tokio::select! {
            truth = &mut run => break truth?,
            _ = news.changed() => n_offences += tell(watcher, &mut reported)?,
            () = &mut stopped => {
                eprintln!("stopped before the end: offences and incidents were not compared");
                return Ok(0);
            }
        }
    };
    // The last messages may still be on their way.
    let all = async {
        loop {
            n_offences += tell(watcher, &mut reported)?;
            if n_offences >= truth.crimes.len() && said(watcher, &truth, clock)?.missed.is_empty() {
                break;
            }
            news.changed().await?;
        }
        anyhow::Ok(())
    };
    let grace = GRACE.max(LAST_SLOTS * clock.spec.slot_duration);
    // Offences that are still missing after this time are reported below.
    let is_stopped = tokio::select! {
        _ = tokio::time::timeout(grace, all) => false,
        () = &mut stopped => true,
    };
    let found = watcher.store().findings_after(0, usize::MAX)?.into_iter().map(|(_, finding)| finding);
    let found: Vec<Finding> = found.filter(|finding| finding.offence().is_some()).collect();
    let comparison = said(watcher, &truth, clock)?;
    let complete = reckon(&truth.crimes, &found)? && (truth.incidents.is_empty() || comparison.is_complete());
    if !truth.incidents.is_empty() {
        output::line(&comparison)?;
    }
    if options.config.is_some() {
        tell_rehearsal(watcher)?;
    }
    if options.stay && !is_stopped {
        watcher.network_ended();
        eprintln!("the page stays available until Ctrl-C");
        stopped.await;
    }
    Ok(if complete { 0 } else { FAILED })
}

/// Compares the incidents that the watcher has reported so far with those that the scenario lists.
fn said(watcher: &Watcher, truth: &GroundTruth, clock: &Network) -> anyhow::Result<TruthComparison> {
    let opened =
        |incident: &Incident| Reported { kind: incident.kind.to_string(), slot: clock.slot_at(incident.opened_at.as_unix_ns()) };
    // The demo watches some keys; scenarios know of the network only.
    let is_public = |kind: &Kind| kind.audience() == Audience::Public;
    let incidents = watcher.store().all_incidents()?;
    let incidents = incidents.iter().filter(|incident| is_public(&incident.kind) && !is_silence(incident));
    let mut said: Vec<Reported> = incidents.map(opened).collect();
    let findings = watcher.store().findings_after(0, usize::MAX)?;
    // The announcement of an incident is a finding too. The incident itself is compared.
    let is_announcement = |finding: &Finding| finding.details.as_ref().is_some_and(|details| details.contains_key("incident"));
    let is_single = |finding: &Finding| finding.evidence.is_none() && is_public(&finding.kind) && !is_announcement(finding);
    let anomalies = findings.into_iter().filter(|(_, finding)| is_single(finding));
    said.extend(anomalies.map(|(_, finding)| Reported { kind: finding.kind.to_string(), slot: finding.slot }));
    Ok(truth.compare(&said))
}

/// Prints the offences after the finding with number `reported`, and sets `reported` to the last
/// number. Returns how many there were. What detectors conclude from them is on the page.
fn tell(watcher: &Watcher, reported: &mut u64) -> anyhow::Result<usize> {
    let mut n_offences = 0;
    for (seq, finding) in watcher.store().findings_after(*reported, usize::MAX)? {
        *reported = seq;
        if finding.offence().is_none() {
            continue;
        }
        n_offences += 1;
        let validator = finding.validator.as_ref().map_or_else(String::new, |subject| subject.index.to_string());
        let latency = finding.second_seen.map_or(Duration::ZERO, |seen| finding.recorded_at.since(seen));
        output::line(format_args!(
            "slot {:>4}  {:<15}  validator {validator:>5}  {:>4} ms after the second message",
            finding.slot,
            finding.kind,
            latency.as_millis()
        ))?;
    }
    Ok(n_offences)
}

/// Compares offences with findings, and prints the result. Returns true if they are the same.
fn reckon(crimes: &[Crime], found: &[Finding]) -> anyhow::Result<bool> {
    let committed: BTreeMap<_, _> = crimes.iter().map(|crime| (crime.finding_id, crime)).collect();
    // Anomalies accuse nobody. They are compared with the scenario's incidents instead.
    let ids: BTreeSet<_> = found.iter().filter(|finding| finding.evidence.is_some()).map(|finding| finding.id).collect();
    let missed = committed.keys().filter(|id| !ids.contains(*id)).count();
    let invented = ids.iter().filter(|id| !committed.contains_key(*id)).count();
    let mut latencies: Vec<Duration> = found
        .iter()
        .filter_map(|finding| {
            let crime = committed.get(&finding.id)?;
            Some(Duration::from_nanos(finding.recorded_at.as_unix_ns().saturating_sub(crime.second_message_sent_at)))
        })
        .collect();
    latencies.sort();
    let n_found = committed.len() - missed;
    output::line(format_args!("crimes committed {}, found {n_found}, missed {missed}, false {invented}", committed.len()))?;
    if let (Some(median), Some(worst)) = (latencies.get(latencies.len() / 2), latencies.last()) {
        let (median, worst) = (median.as_millis(), worst.as_millis());
        output::line(format_args!("second message sent to finding on disk: median {median} ms, worst {worst} ms"))?;
    }
    Ok(missed == 0 && invented == 0)
}
