//! `slashwatch capture`: what the sources hear, into a file that `replay` reads.
//!
//! Nothing is judged, so nothing is forwarded and nobody is blamed: every message is reported back as `Ignore`.

use crate::config::Config;
use crate::error::PipelineError;
use crate::{bootstrap, clock, listen, run};
use consensus::Network;
use sources::capture::CaptureWriter;
use sources::gossip::{GossipEvent, GossipHandle};
use sources::metrics::SourceMetrics;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use verify::Verdict;

/// A crash loses at most this much.
const FLUSH: Duration = Duration::from_secs(1);

/// What was recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureSummary {
    pub blocks: u64,
    pub messages: u64,
    pub peer_events: u64,
    pub bytes: u64,
}

impl fmt::Display for CaptureSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, messages, peer_events, bytes } = self;
        write!(f, "{messages} messages, {blocks} earlier blocks and {peer_events} peer events in {bytes} bytes")
    }
}

type Writer = CaptureWriter<BufWriter<File>>;

/// Records until `stop` resolves.
pub fn capture<F: Future<Output = ()>>(config: Config, out: &Path, stop: fn() -> F) -> Result<CaptureSummary, PipelineError> {
    run::runtime()?.block_on(record(config, out, stop()))
}

async fn record(config: Config, out: &Path, stop: impl Future<Output = ()>) -> Result<CaptureSummary, PipelineError> {
    let nodes = bootstrap::nodes(&config)?;
    let start = bootstrap::start(&config, None, nodes.as_ref()).await?;
    let network = start.chain.network().clone();
    let failed = |source: sources::capture::WriteError| PipelineError::Failed(format!("{}: {source}", out.display()));
    let mut writer = CaptureWriter::create(out).map_err(failed)?;
    let mut summary = CaptureSummary::default();
    writer.config(&network.spec.to_yaml()).map_err(failed)?;
    writer.state(&start.state_ssz).map_err(failed)?;
    // Gossip first, so that nothing is missed while the blocks since the state are fetched; what comes waits in its queue.
    let Some(gossip) = listen::start_gossip(&config, &network, SourceMetrics::unregistered())? else {
        return Err(PipelineError::Usage("a capture records gossip: set `gossip.enabled = true`".into()));
    };
    if let Some(nodes) = &nodes {
        for block in bootstrap::blocks_since(nodes, &network, start.chain.head().slot, clock::now()).await {
            writer.block(&block.bytes).map_err(failed)?;
            summary.blocks += 1;
        }
    }
    writer.flush().map_err(failed)?;
    tracing::info!(out = %out.display(), "recording");
    let outcome = record_gossip(gossip, &network, &mut writer, &mut summary, out, stop).await;
    writer.sync().map_err(failed)?;
    summary.bytes = writer.n_bytes();
    outcome.map(|()| summary)
}

async fn record_gossip(
    mut gossip: GossipHandle,
    network: &Arc<Network>,
    writer: &mut Writer,
    summary: &mut CaptureSummary,
    out: &Path,
    stop: impl Future<Output = ()>,
) -> Result<(), PipelineError> {
    let path: PathBuf = out.into();
    let failed = |source: sources::capture::WriteError| PipelineError::Failed(format!("{}: {source}", path.display()));
    let mut flush = tokio::time::interval(FLUSH);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = flush.tick() => {
                writer.flush().map_err(failed)?;
                tracing::debug!(slot = %network.slot_at(clock::now().0), messages = summary.messages, "recording");
            }
            event = gossip.events.recv() => match event {
                Some(GossipEvent::Message(message)) => {
                    writer.gossip(&message.capture_entry()).map_err(failed)?;
                    summary.messages += 1;
                    if let Some(ticket) = message.raw.ticket {
                        gossip.report(ticket, Verdict::Ignore);
                    }
                }
                Some(GossipEvent::Peer(event)) => {
                    listen::log_peer(&event);
                    writer.peer_event(&event.capture_entry()).map_err(failed)?;
                    summary.peer_events += 1;
                }
                Some(GossipEvent::ListeningOn(address)) => tracing::info!(%address, "gossip listens"),
                None => break,
            },
        }
    }
    gossip.shutdown().await;
    Ok(())
}
