//! Every metric of this crate. Names are `slashwatch_sources_<thing>_<unit>`, labels come from enums.
//!
//! Each counter exists at 0 for each value of its labels from the start, so that `increase()` sees its first event.

use crate::gossip::PeerEventKind;
use crate::intake::Refusal;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use verify::MessageKind;

/// Counters of all sources of one process; clones share them.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Messages handed on, by kind.
    pub received: IntCounterVec,
    /// Inputs that never became a message, by reason.
    pub refused: IntCounterVec,
    /// Messages and peer events dropped because the queue was full.
    pub shed: IntCounterVec,
    /// Verdicts, by what became of them: passed on to the mesh, or too late for it.
    pub verdicts: IntCounterVec,
    /// Peer events, by what happened.
    pub peer_events: IntCounterVec,
    /// Requests of peers, by protocol and answer.
    pub requests: IntCounterVec,
    /// Messages published, by result.
    pub published: IntCounterVec,
    /// Reconnections of event streams.
    pub stream_reconnects: IntCounter,
    /// Blocks that an event stream announced, by what became of fetching them.
    pub fetched_blocks: IntCounterVec,
    pub connected_peers: IntGauge,
    pub pending_tickets: IntGauge,
}

impl SourceMetrics {
    /// All of them, registered. Fails if `registry` has them already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::unregistered();
        let Self {
            received,
            refused,
            shed,
            verdicts,
            peer_events,
            requests,
            published,
            stream_reconnects,
            fetched_blocks,
            connected_peers,
            pending_tickets,
        } = metrics.clone();
        metrics.start_at_zero();
        for counters in [received, refused, shed, verdicts, peer_events, requests, published, fetched_blocks] {
            registry.register(Box::new(counters))?;
        }
        registry.register(Box::new(stream_reconnects))?;
        registry.register(Box::new(connected_peers))?;
        registry.register(Box::new(pending_tickets))?;
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        let each = |counters: &IntCounterVec, values: &[&str]| {
            values.iter().for_each(|value| counters.with_label_values(&[value]).inc_by(0));
        };
        each(&self.received, &MessageKind::LABELS);
        each(&self.refused, &Refusal::LABELS);
        each(&self.refused, &["unknown_digest"]);
        each(&self.shed, &["message", "peer_event", "address", "connection", "verdict"]);
        each(&self.peer_events, &PeerEventKind::LABELS);
        each(&self.published, &["published", "refused"]);
        each(&self.fetched_blocks, &["fetched", "not_there", "failed"]);
        for verdict in ["accept", "withheld", "ignore", "reject"] {
            for fate in ["applied", "late"] {
                self.verdicts.with_label_values(&[verdict, fate]).inc_by(0);
            }
        }
        for fate in ["expired", "given_up"] {
            self.verdicts.with_label_values(&["none", fate]).inc_by(0);
        }
    }

    /// For tests, and for commands without a metrics page.
    pub fn unregistered() -> Self {
        Self {
            received: counters("received_messages_total", "Messages handed on, by kind", &["kind"]),
            refused: counters("refused_inputs_total", "Inputs that never became a message, by reason", &["reason"]),
            shed: counters("shed_events_total", "Events dropped because the queue was full, by what they were", &["what"]),
            verdicts: counters(
                "verdicts_total",
                "Verdicts on gossip messages, by verdict and whether in time",
                &["verdict", "fate"],
            ),
            peer_events: counters("peer_events_total", "What happened with peers", &["event"]),
            requests: counters("requests_total", "Requests of peers, by protocol and answer", &["protocol", "answer"]),
            published: counters("published_messages_total", "Messages published, by result", &["result"]),
            stream_reconnects: IntCounter::new(
                "slashwatch_sources_stream_reconnects_total",
                "Times an event stream was opened again",
            )
            .expect("a constant, valid name"),
            fetched_blocks: counters("fetched_blocks_total", "Announced blocks, by what became of fetching them", &["result"]),
            connected_peers: gauge("connected_peers", "Peers connected now"),
            pending_tickets: gauge("pending_tickets", "Gossip messages whose verdict is awaited"),
        }
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(format!("slashwatch_sources_{name}"), help), labels).expect("a constant, valid name")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(format!("slashwatch_sources_{name}"), help).expect("a constant, valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_registered_once() {
        let registry = Registry::new();
        let metrics = SourceMetrics::register(&registry).unwrap();
        let received = |kind: &str| metrics.received.with_label_values(&[kind]);
        received("block").inc();
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "slashwatch_sources_received_messages_total").unwrap();
        assert_eq!(family.get_metric().len(), MessageKind::LABELS.len(), "all kinds are there before they come");
        assert!(registry.gather().iter().any(|family| family.name() == "slashwatch_sources_received_messages_total"));
        assert!(SourceMetrics::register(&registry).is_err());
    }
}
