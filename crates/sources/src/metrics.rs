//! All metrics of this crate. Names have the form `slashwatch_sources_<thing>_<unit>`, and the
//! values of labels come from enums.
//!
//! Each counter exists with the value 0 for each value of its labels from the start, so that
//! `increase()` sees the first event.

use crate::convert::Refusal;
use crate::discovery::UnusableRecord;
use crate::gossip::{Client, Learned, PeerEventKind, goodbye};
use crate::queue::QueueFull;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use verify::MessageKind;

/// Counters of all sources of one process. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Messages that were handed on, by kind.
    pub received: IntCounterVec,
    /// Inputs that did not become a message, by reason.
    pub refused: IntCounterVec,
    /// Messages and other events that were dropped because the queue, or their sender's share of
    /// it, was full. The label names the bound, or the kind of the event.
    pub shed: IntCounterVec,
    /// Verdicts on gossip messages, by verdict and fate. A verdict is `applied`, or it is `late`
    /// because gossipsub no longer keeps the message. A message without a verdict is `expired` or
    /// `given_up`.
    pub verdicts: IntCounterVec,
    /// Peer events, by kind.
    pub peer_events: IntCounterVec,
    /// Requests that peers sent, by protocol and answer.
    pub requests: IntCounterVec,
    /// Blocks that were sent to peers that asked, and their bytes.
    pub served_blocks: IntCounter,
    pub served_bytes: IntCounter,
    /// Requests for blocks that this node sent, by result. An answer that was `wrong` is counted as
    /// `blocks` before.
    pub block_requests: IntCounterVec,
    /// Messages that were published, by result.
    pub published: IntCounterVec,
    /// How often event streams were opened again.
    pub stream_reconnects: IntCounter,
    /// Blocks that an event stream announced, by the result of fetching them.
    pub fetched_blocks: IntCounterVec,
    /// Records of nodes that discovery saw, by what became of them.
    pub found_records: IntCounterVec,
    /// Connections that peers opened to us, and that were refused, by reason.
    pub refused_connections: IntCounterVec,
    /// Connections that peers opened to us from outside, without configured peers. While this is 0
    /// nobody has reached us, perhaps because of a firewall or router.
    pub inbound_connections: IntCounter,
    /// Goodbyes, by the client of the peer, the reason, and whether we sent or received them.
    pub goodbyes: IntCounterVec,
    /// Connected peers of each topic of the current fork, and those of them in its mesh.
    pub topic_peers: IntGaugeVec,
    pub connected_peers: IntGauge,
    pub pending_tickets: IntGauge,
}

impl SourceMetrics {
    /// Outcomes of `found_records` in which a record was not kept.
    pub const REFUSED_RECORDS: [&str; 7] = {
        let [no_beacon_node, other_network, no_address, private_address] = UnusableRecord::LABELS;
        [no_beacon_node, other_network, no_address, private_address, "prefix_full", "full", "shed"]
    };
    /// Reasons of `refused_connections`.
    pub const REFUSED_CONNECTIONS: [&str; 4] = ["address", "banned", "pace", "places"];

    /// Creates all metrics and registers them.
    ///
    /// # Errors
    ///
    /// Fails if `registry` has them already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::unregistered();
        let Self {
            received,
            refused,
            shed,
            verdicts,
            peer_events,
            requests,
            served_blocks,
            served_bytes,
            block_requests,
            published,
            stream_reconnects,
            fetched_blocks,
            found_records,
            refused_connections,
            inbound_connections,
            goodbyes,
            topic_peers,
            connected_peers,
            pending_tickets,
        } = metrics.clone();
        metrics.start_at_zero();
        for counters in [
            received,
            refused,
            shed,
            verdicts,
            peer_events,
            requests,
            block_requests,
            published,
            fetched_blocks,
            found_records,
            refused_connections,
            goodbyes,
        ] {
            registry.register(Box::new(counters))?;
        }
        for counter in [stream_reconnects, inbound_connections, served_blocks, served_bytes] {
            registry.register(Box::new(counter))?;
        }
        registry.register(Box::new(topic_peers))?;
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
        each(&self.block_requests, &BLOCK_RESULTS);
        each(&self.published, &["published", "refused"]);
        each(&self.fetched_blocks, &["fetched", "not_there", "failed", "not_asked"]);
        each(&self.found_records, &Learned::LABELS);
        each(&self.found_records, &Self::REFUSED_RECORDS);
        each(&self.refused_connections, &Self::REFUSED_CONNECTIONS);
        for client in Client::LABELS {
            for reason in goodbye::LABELS {
                for direction in ["sent", "received"] {
                    self.goodbyes.with_label_values(&[client, reason, direction]).inc_by(0);
                }
            }
        }
        for verdict in ["accept", "withheld", "ignore", "reject"] {
            for fate in ["applied", "late"] {
                self.verdicts.with_label_values(&[verdict, fate]).inc_by(0);
            }
        }
        for fate in ["expired", "given_up"] {
            self.verdicts.with_label_values(&["none", fate]).inc_by(0);
        }
    }

    /// Creates metrics that no registry has, for tests and for commands without a metrics page.
    pub fn unregistered() -> Self {
        Self {
            received: counters("received_messages_total", "Messages handed on, by kind", &["kind"]),
            refused: counters("refused_inputs_total", "Inputs that never became a message, by reason", &["reason"]),
            shed: shed(),
            verdicts: counters(
                "verdicts_total",
                "Verdicts on gossip messages, by verdict and whether in time",
                &["verdict", "fate"],
            ),
            peer_events: counters("peer_events_total", "What happened with peers", &["event"]),
            requests: counters("requests_total", "Requests of peers, by protocol and answer", &["protocol", "answer"]),
            served_blocks: counter("served_blocks_total", "Blocks sent to peers that asked"),
            served_bytes: counter("served_block_bytes_total", "Bytes of blocks sent to peers that asked"),
            block_requests: counters("block_requests_total", "Requests for blocks sent to peers, by result", &["result"]),
            published: counters("published_messages_total", "Messages published, by result", &["result"]),
            stream_reconnects: counter("stream_reconnects_total", "Times an event stream was opened again"),
            fetched_blocks: counters("fetched_blocks_total", "Announced blocks, by what became of fetching them", &["result"]),
            found_records: counters(
                "found_records_total",
                "Records of nodes that discovery saw, by what became of them",
                &["outcome"],
            ),
            refused_connections: counters(
                "refused_connections_total",
                "Connections of peers that were refused, by reason",
                &["reason"],
            ),
            inbound_connections: counter(
                "inbound_connections_total",
                "Connections that peers opened to us from outside, without configured peers",
            ),
            goodbyes: counters(
                "goodbyes_total",
                "Goodbyes, by client of the peer, reason and direction",
                &["client", "reason", "direction"],
            ),
            topic_peers: IntGaugeVec::new(
                Opts::new("slashwatch_sources_topic_peers", "Connected peers of each topic, and those in its mesh"),
                &["topic", "which"],
            )
            .expect("a constant, valid name"),
            connected_peers: gauge("connected_peers", "Peers connected now"),
            pending_tickets: gauge("pending_tickets", "Gossip messages whose verdict is awaited"),
        }
    }
}

/// The results of a request for blocks.
const BLOCK_RESULTS: [&str; 10] =
    ["blocks", "empty", "wrong", "error", "rate_limited", "unsupported", "timeout", "closed", "broken", "no_peer"];

/// The counter starts at 0 for every bound of the queue.
fn shed() -> IntCounterVec {
    let shed =
        counters("shed_events_total", "Events dropped because the queue was full, by what they were or which bound", &["what"]);
    for full in QueueFull::ALL {
        shed.with_label_values(&[full.label()]).inc_by(0);
    }
    shed
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(format!("slashwatch_sources_{name}"), help), labels).expect("a constant, valid name")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(format!("slashwatch_sources_{name}"), help).expect("a constant, valid name")
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
