//! Listens to a network through its beacon nodes, and prints what arrives.
//!
//! ```text
//! cargo run --release -p sources --example listen -- \
//!     SECONDS http://127.0.0.1:9596 http://127.0.0.1:9597 [FILE.e2s]
//! ```
//!
//! The nodes supply the config, the genesis and the peers: each node's own p2p address becomes a
//! configured peer. Nothing is verified, so every message is reported back as `Ignore`. With
//! `ACCEPT=1` in the environment every message is accepted and forwarded. This does no harm on a
//! healthy network. On a split network it shows what happens to a peer that forwards without
//! checks.

use chain::node::{NodeConfig, NodeSet, StateId};
use consensus::{Network, Root};
use sources::api_stream::{self, StreamConfig};
use sources::capture::CaptureWriter;
use sources::gossip::{GossipConfig, GossipService, PeerAddress, StatusView};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use verify::Verdict;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::task::LocalSet::new().run_until(listen()).await
}

async fn listen() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().ok_or("give a number of seconds, then the nodes' URLs")?.parse()?;
    let (urls, files): (Vec<String>, Vec<String>) = arguments.partition(|argument| argument.starts_with("http"));
    let nodes = Arc::new(NodeSet::new(&urls, NodeConfig::default())?);
    let (spec, genesis) = (nodes.config_spec().await?, nodes.genesis().await?);
    let network =
        Arc::new(Network { spec, genesis_time: genesis.genesis_time, genesis_validators_root: genesis.genesis_validators_root });
    let mut peers = Vec::new();
    for (url, identity) in nodes.identities().await {
        let identity = identity?;
        let address = identity.enr.parse::<PeerAddress>();
        println!("{url} is {} at {address:?}", identity.peer_id);
        peers.push(address?);
    }
    let (status_in, status) = watch::channel(StatusView::default());
    tokio::task::spawn_local(follow_head(nodes.clone(), status_in));
    let metrics = SourceMetrics::unregistered();
    let mut stream = api_stream::start(&nodes, StreamConfig::default(), network.clone(), metrics.clone())?;
    let config = GossipConfig { peers, ..GossipConfig::default() };
    let mut gossip = GossipService::start(config, network.clone(), status, metrics.clone())?;
    let mut writer = match files.first() {
        Some(path) => {
            let mut writer = CaptureWriter::create(path.as_ref())?;
            writer.config(&network.spec.to_yaml())?;
            writer.state(&nodes.state_ssz(StateId::Head).await?)?;
            Some(writer)
        }
        None => None,
    };
    let digests = network.fork_digests();
    let verdict = if std::env::var_os("ACCEPT").is_some() { Verdict::Accept } else { Verdict::Ignore };
    let (began, mut counts, mut drops) = (Instant::now(), BTreeMap::<String, u64>::new(), 0u64);
    let mut every = tokio::time::interval(Duration::from_secs(30));
    while began.elapsed() < Duration::from_secs(seconds) {
        let event = tokio::select! {
            event = gossip.events.recv() => event.ok_or("the listener ended")?,
            event = stream.events.recv() => event.ok_or("the streams ended")?,
            _ = every.tick() => {
                println!("{:6.1} s  {drops} disconnections  {counts:?}", began.elapsed().as_secs_f64());
                for peer in gossip.control.peers().iter() {
                    println!("          {} connected {} score {:.1} topics {} messages {} head {:?} {:?}",
                        peer.peer, peer.connected, peer.score, peer.topics, peer.messages, peer.head_slot, peer.last_problem);
                }
                continue;
            }
        };
        match event {
            SourceEvent::Message(message) => {
                let kind = message.raw.kind.label();
                let sender = message.raw.origin.peer.as_deref().map(sources::convert::peer_text).unwrap_or_default();
                let short = sender.get(sender.len().saturating_sub(6)..).unwrap_or_default().to_owned();
                *counts.entry(format!("{kind} from {short}")).or_default() += 1;
                if let Some(ticket) = message.raw.ticket {
                    gossip.report(ticket, verdict);
                }
                if let (Some(writer), Some(entry)) = (&mut writer, message.capture_entry(&digests)) {
                    writer.entry(&entry)?;
                }
            }
            SourceEvent::Peer(event) => {
                println!("{:6.1} s  {} {:?}", began.elapsed().as_secs_f64(), event.peer, event.what);
                drops += u64::from(event.what.label() == "disconnected");
                if let Some(writer) = &mut writer {
                    writer.peer_event(&event.capture_entry())?;
                }
            }
            SourceEvent::ListeningOn(address) => println!("listening on {address}"),
            SourceEvent::Connection { node, up, problem } => println!("stream of {node}: up {up} {problem:?}"),
        }
    }
    if let Some(writer) = &mut writer {
        writer.sync()?;
    }
    println!("{} disconnections in {seconds} s, {counts:?}", drops);
    gossip.shutdown().await;
    Ok(())
}

/// Publishes the first node's head as our status, so that peers see a true head.
async fn follow_head(nodes: Arc<NodeSet>, status: watch::Sender<StatusView>) {
    let mut every = tokio::time::interval(Duration::from_secs(3));
    loop {
        every.tick().await;
        let (Ok(Some(head)), Ok(finality)) = (nodes.header(chain::node::BlockId::Head).await, nodes.finality().await) else {
            continue;
        };
        let finalized = finality.finalized;
        let view = StatusView { finalized, head_root: head.root, head_slot: head.header.message.slot };
        if view.head_root != Root::ZERO && status.send(view).is_err() {
            return;
        }
    }
}
