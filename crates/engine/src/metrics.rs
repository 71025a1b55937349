//! All metrics that the watcher exports, except those of its sources and of its API. Labels come
//! from enums and never name a peer or a validator.
//!
//! Each counter exists with the value 0 from the start, for each value of its labels. Prometheus'
//! `increase()` counts from the first sample that it knows, so a counter that appears with its
//! first finding would hide that finding.

use crate::named_blocks::NamedBlocks;
use crate::priority_queues::Dropped;
use consensus::Root;
use detect::coverage::{CoverageReport, PunishedCounts};
use evidence::{Incident, IncidentState, Kind, SubmissionState};
use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::collections::HashMap;
use verify::{MessageKind, NotProvable, Outcome};

/// Counters and gauges of one process, registered with `registry`.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    /// Messages by kind and final outcome. The sum of all outcomes plus `parked` is the number of
    /// received messages.
    pub messages: IntCounterVec,
    /// The messages of `messages` that were dropped before verification, by reason: already known,
    /// or no capacity.
    pub shed: IntCounterVec,
    /// Messages and parts of blocks that a limit of the verifier refused, by reason. Such messages
    /// are counted in `messages` too.
    pub refused: IntCounterVec,
    /// Messages that were seen and cannot be proven, by reason. They are counted in `messages` too.
    pub unprovable: IntCounterVec,
    /// Findings that were recorded for the first time, by kind.
    pub findings: IntCounterVec,
    /// Open incidents, by kind.
    pub incidents_open: IntGaugeVec,
    /// Incidents that opened since the start, by kind.
    pub incidents: IntCounterVec,
    /// Observations that opened no incident because too many incidents of their kind are open.
    pub incidents_refused: IntCounterVec,
    /// Voters whose vote was not tallied because their slot already had too many different votes.
    pub untallied: IntCounter,
    /// Blocks that messages name and that were not here, by what became of them.
    pub named_blocks: IntCounterVec,
    /// Later states that were compared with the registry that blocks told, by result.
    pub registry_states: IntCounterVec,
    /// Time from the arrival of the second message to the finding on disk, in seconds.
    pub finding_latency: Histogram,
    /// Conflicts that the second proof did not confirm. A value above 0 means a defect of this
    /// program.
    pub unproven: IntCounter,
    /// Contradicting pairs of a validator that are not listed because it already has too many.
    pub not_listed: IntCounter,
    /// Number of connected peers.
    pub peers: IntGauge,
    /// Unix time in seconds, or 0 before the first vote or block since the start.
    pub last_message: IntGauge,
    /// Messages that wait for their committees.
    pub parked: IntGauge,
    /// Deliveries of alerts that are not made yet.
    pub outbox_pending: IntGauge,
    /// Slot of the newest block that is known.
    pub head_slot: IntGauge,
    /// Current slot by this machine's clock.
    pub clock_slot: IntGauge,
    /// Waiting messages, by queue.
    pub queue: IntGaugeVec,
    /// 1 while a beacon node answers, otherwise 0.
    pub node_up: IntGauge,
    /// Proofs whose submission has ended, by result.
    pub submissions: IntCounterVec,
    /// Attempts to submit that will be repeated.
    pub submission_retries: IntCounter,
    /// Proofs that wait for a beacon node or a block.
    pub submissions_waiting: IntGauge,
    /// Scheduled audits of groups, by their result.
    pub audits: IntCounterVec,
    /// Kill switches, by [`SwitchStage`].
    pub kill_switches: IntGaugeVec,
    coverage: CoverageMetrics,
}

/// How far a group's kill switch is. This is what the metrics count and what alarms go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchStage {
    /// It has not fired. A dry run counts as this, because it stops nothing.
    Ready,
    /// The order runs, or the process ended while it ran.
    Ordered,
    /// The order was done, or the keys are silent.
    Done,
    /// The order did not stop all that it should, and the keys are not known to be silent.
    Failed,
    /// The order was done, and keys sign after it.
    Signing,
}

impl SwitchStage {
    pub const ALL: [Self; 5] = [Self::Ready, Self::Ordered, Self::Done, Self::Failed, Self::Signing];

    /// The value of the metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Ordered => "ordered",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Signing => "signing",
        }
    }
}

/// The result of a scheduled audit of a group's signing records, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditOutcome {
    /// The files have everything that was seen.
    Whole,
    /// The same, and one of them was not renewed in time.
    Stale,
    /// A file is missing or cannot be read.
    Unreadable,
    /// What was seen cannot be read.
    Failed,
    /// Something was seen that no file has.
    Lacking,
}

impl AuditOutcome {
    pub const ALL: [Self; 5] = [Self::Whole, Self::Stale, Self::Unreadable, Self::Failed, Self::Lacking];

    /// The value of the metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Stale => "stale",
            Self::Unreadable => "unreadable",
            Self::Failed => "failed",
            Self::Lacking => "lacking",
        }
    }
}

/// How much of the network is heard first-hand.
#[derive(Clone)]
struct CoverageMetrics {
    /// Shares of the stake that attested, by what is counted.
    stake: GaugeVec,
    /// Peers that publish votes which come first-hand, by whether they count.
    peers: IntGaugeVec,
    /// Share of the keys of own groups.
    watched: Gauge,
    /// Validators that blocks punished in the last days, by whether their offence had been heard.
    punished: IntGaugeVec,
}

impl CoverageMetrics {
    fn new(registry: &Registry) -> Self {
        let stake = "Share of the stake that attested: whose nodes are connected (first_hand), without limits for a single peer \
                     (claimed), and whose last vote came first-hand (last_epoch)";
        let stake = registered(registry, GaugeVec::new(Opts::new("slashwatch_coverage_stake_ratio", stake), &["what"]));
        let watched = "Share of the keys of own groups that are heard first-hand, 1 without groups";
        let metrics = Self {
            stake,
            peers: gauges(
                registry,
                "slashwatch_coverage_peers",
                "Peers whose own votes are heard, by whether they count",
                "counted",
            ),
            watched: registered(registry, Gauge::new("slashwatch_coverage_watched_ratio", watched)),
            punished: gauges(
                registry,
                "slashwatch_coverage_punished_validators",
                "Validators that blocks punished in the last 30 days, by whether their offence had been heard before",
                "heard",
            ),
        };
        metrics.show(&CoverageReport::default(), PunishedCounts::default());
        metrics
    }

    fn show(&self, report: &CoverageReport, punished: PunishedCounts) {
        let attested = report.measured.as_ref().map_or(0, |measured| measured.attested.as_u64());
        let sums = &report.sums;
        for (what, part) in [("first_hand", sums.first_hand), ("claimed", sums.claimed), ("last_epoch", sums.last_epoch)] {
            self.stake.with_label_values(&[what]).set(part.as_u64() as f64 / attested.max(1) as f64);
        }
        self.peers.with_label_values(&["yes"]).set(sums.n_peers as i64);
        self.peers.with_label_values(&["no"]).set(sums.n_discarded as i64);
        let (heard, keys) =
            report.groups.iter().fold((0, 0), |(heard, keys), group| (heard + group.n_heard, keys + group.n_keys));
        self.watched.set(if keys == 0 { 1.0 } else { heard as f64 / keys as f64 });
        self.punished.with_label_values(&["yes"]).set(punished.n_heard as i64);
        self.punished.with_label_values(&["no"]).set(punished.n_validators.saturating_sub(punished.n_heard) as i64);
    }
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let anomalies = || Kind::ANOMALIES.iter().map(Kind::as_str);
        let kinds: Vec<Kind> = Kind::all().collect();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("registered once");
        Self {
            messages: messages(&registry),
            shed: counters(
                &registry,
                "slashwatch_shed_messages_total",
                "Messages not judged, by reason; part of slashwatch_messages_total",
                "reason",
                Dropped::ALL.map(Dropped::label),
            ),
            refused: refused(&registry),
            unprovable: counters(
                &registry,
                "slashwatch_unprovable_messages_total",
                "Messages of a fork, or of a draft of it, that this version does not know, by reason",
                "reason",
                NotProvable::ALL.map(NotProvable::label),
            ),
            findings: counters(
                &registry,
                "slashwatch_findings_total",
                "Findings recorded for the first time, by kind",
                "kind",
                kinds.iter().map(Kind::as_str),
            ),
            incidents_open: incidents_open(&registry),
            incidents: counters(&registry, "slashwatch_incidents_total", "Incidents that opened, by kind", "kind", anomalies()),
            incidents_refused: counters(
                &registry,
                "slashwatch_incident_sightings_refused_total",
                "Sightings that opened no incident because too many of their kind are open",
                "kind",
                anomalies(),
            ),
            untallied: counter(
                "slashwatch_votes_untallied_total",
                "Voters whose vote was one of too many different ones in its slot to be told apart",
            ),
            named_blocks: counters(
                &registry,
                "slashwatch_named_blocks_total",
                "Blocks that messages name and that were not here: asked for, given up, or not asked for",
                "outcome",
                NamedBlocks::OUTCOMES,
            ),
            registry_states: counters(
                &registry,
                "slashwatch_registry_states_total",
                "Later states, by whether they are equal to the registry that blocks told",
                "result",
                ["equal", "different"],
            ),
            finding_latency: finding_latency(&registry),
            unproven: counter("slashwatch_unproven_conflicts_total", "Conflicts the second proof did not confirm"),
            submissions: submissions(&registry),
            submission_retries: counter(
                "slashwatch_submission_retries_total",
                "Attempts to submit a proof that are to be repeated",
            ),
            submissions_waiting: gauge("slashwatch_submissions_waiting", "Proofs that wait for a beacon node or a block"),
            audits: counters(
                &registry,
                "slashwatch_audits_total",
                "Scheduled audits of the signing records of own groups, by their result",
                "outcome",
                AuditOutcome::ALL.map(AuditOutcome::label),
            ),
            kill_switches: kill_switches(&registry),
            not_listed: counter(
                "slashwatch_pairs_not_listed_total",
                "Contradicting pairs beyond those listed per validator, epoch and kind",
            ),
            peers: gauge("slashwatch_peers", "Connected peers"),
            last_message: gauge(
                "slashwatch_last_message_timestamp_seconds",
                "Unix time of the last proven vote or block, 0 before the first since the start",
            ),
            parked: gauge("slashwatch_parked_messages", "Messages waiting for their committees"),
            outbox_pending: gauge("slashwatch_outbox_pending", "Deliveries not yet made"),
            head_slot: gauge("slashwatch_head_slot", "Slot of the newest block we hold"),
            clock_slot: gauge("slashwatch_clock_slot", "Slot by our own clock"),
            queue: gauges(&registry, "slashwatch_queue_messages", "Messages waiting, by queue", "queue"),
            node_up: gauge("slashwatch_node_up", "1 while a beacon node answers"),
            coverage: CoverageMetrics::new(&registry),
            registry,
        }
    }

    /// Sets how many kill switches are in each stage.
    pub fn show_switches(&self, stages: &[SwitchStage]) {
        for stage in SwitchStage::ALL {
            let n_switches = stages.iter().filter(|one| **one == stage).count();
            self.kill_switches.with_label_values(&[stage.label()]).set(n_switches as i64);
        }
    }

    /// Updates the metrics of what is heard first-hand.
    pub fn show_coverage(&self, report: &CoverageReport, punished: PunishedCounts) {
        self.coverage.show(report, punished);
    }
}

fn messages(registry: &Registry) -> IntCounterVec {
    let options = Opts::new("slashwatch_messages_total", "Messages by kind and final outcome");
    let messages = registered(registry, IntCounterVec::new(options, &["kind", "outcome"]));
    for kind in MessageKind::LABELS {
        // A parked message is counted when its wait ends, with its final outcome.
        for outcome in Outcome::LABELS.into_iter().filter(|outcome| *outcome != Outcome::Parked.label()) {
            messages.with_label_values(&[kind, outcome]).inc_by(0);
        }
    }
    messages
}

fn refused(registry: &Registry) -> IntCounterVec {
    let reasons = verify::NoRoom::ALL.map(verify::NoRoom::label).into_iter().chain([verify::NO_SIGNED_HEADER]);
    let help = "Messages, and parts of blocks, that the verifier has no room or no rule for, by reason";
    counters(registry, "slashwatch_refused_messages_total", help, "reason", reasons)
}

fn submissions(registry: &Registry) -> IntCounterVec {
    let ended = SubmissionState::ALL.into_iter().filter(|state| *state != SubmissionState::Pending);
    let help = "Proofs submitted to beacon nodes, by how it ended";
    counters(registry, "slashwatch_submissions_total", help, "outcome", ended.map(SubmissionState::as_str))
}

fn kill_switches(registry: &Registry) -> IntGaugeVec {
    let help = "Kill switches of groups by state: failed if not all was stopped, signing while keys sign after the stop";
    let switches = gauges(registry, "slashwatch_kill_switches", help, "state");
    for stage in SwitchStage::ALL {
        switches.with_label_values(&[stage.label()]).set(0);
    }
    switches
}

fn incidents_open(registry: &Registry) -> IntGaugeVec {
    let open = gauges(registry, "slashwatch_incidents_open", "Incidents that are not closed, by kind", "kind");
    for kind in Kind::ANOMALIES {
        open.with_label_values(&[kind.as_str()]).set(0);
    }
    open
}

fn finding_latency(registry: &Registry) -> Histogram {
    let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let options = HistogramOpts::new("slashwatch_finding_latency_seconds", "Second message's arrival to finding on disk");
    registered(registry, Histogram::with_opts(options.buckets(buckets)))
}

/// Counters with one label, each at 0 for these values of it.
fn counters<'a>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> IntCounterVec {
    let counters = registered(registry, IntCounterVec::new(Opts::new(name, help), &[label]));
    for value in values {
        counters.with_label_values(&[value]).inc_by(0);
    }
    counters
}

fn gauges(registry: &Registry, name: &str, help: &str, label: &str) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label]))
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("constant, valid options");
    registry.register(Box::new(metric.clone())).expect("registered once");
    metric
}

/// Maintains the metrics of incidents.
pub struct OpenIncidents {
    metrics: Metrics,
    kinds: HashMap<Root, Kind>,
}

impl OpenIncidents {
    pub fn new(metrics: &Metrics) -> Self {
        Self { metrics: metrics.clone(), kinds: HashMap::new() }
    }

    /// Counts the open incidents of earlier runs. They are open, but they did not open now.
    pub fn restore(&mut self, incidents: &[Incident]) {
        for incident in incidents.iter().filter(|incident| incident.state != IncidentState::Closed) {
            self.opened(incident);
        }
    }

    /// Updates the metrics with new states of incidents.
    pub fn count(&mut self, incidents: &[Incident]) {
        for incident in incidents {
            let is_open = self.kinds.contains_key(&incident.id);
            if incident.state == IncidentState::Closed {
                if let Some(kind) = self.kinds.remove(&incident.id) {
                    self.metrics.incidents_open.with_label_values(&[kind.as_str()]).dec();
                }
            } else if !is_open {
                self.opened(incident);
                self.metrics.incidents.with_label_values(&[incident.kind.as_str()]).inc();
            }
        }
    }

    fn opened(&mut self, incident: &Incident) {
        self.kinds.insert(incident.id, incident.kind.clone());
        self.metrics.incidents_open.with_label_values(&[incident.kind.as_str()]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder as _, TextEncoder};

    /// Returns the text of a scrape before the first finding.
    fn scraped() -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&Metrics::new().registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn counters_are_there_at_zero_before_anything_is_found() {
        let text = scraped();
        let is_there = |series: &str| assert!(text.lines().any(|line| line == format!("{series} 0")), "{series} in {text}");
        for kind in Kind::all() {
            is_there(&format!("slashwatch_findings_total{{kind=\"{kind}\"}}"));
        }
        for kind in Kind::ANOMALIES {
            is_there(&format!("slashwatch_incidents_total{{kind=\"{kind}\"}}"));
            is_there(&format!("slashwatch_incidents_open{{kind=\"{kind}\"}}"));
        }
        is_there("slashwatch_messages_total{kind=\"attestation\",outcome=\"bad_signature\"}");
        is_there("slashwatch_submissions_total{outcome=\"accepted\"}");
        is_there("slashwatch_kill_switches{state=\"failed\"}");
        is_there("slashwatch_unprovable_messages_total{reason=\"later_fork\"}");
        is_there("slashwatch_shed_messages_total{reason=\"overload\"}");
    }
}
