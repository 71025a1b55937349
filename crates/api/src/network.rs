//! The network as a whole: its forks, what its clients do, and how its messages arrive.

use crate::coverage::CoverageSummary;
use crate::findings::read;
use crate::observed::{ObservedBlock, ObservedSlot, Recent, after_start_ms};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::slots::{millis, start};
use axum::Json;
use axum::extract::State;
use consensus::{Epoch, LaterFork, Network, Root, Slot};
use evidence::{IncidentState, Kind, Time};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Incidents that are searched for one about our own clock, the latest ones.
const MAX_INCIDENTS: usize = 256;

/// The forks of the network.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForksView {
    schema: u64,
    #[schema(value_type = String)]
    now_epoch: Epoch,
    /// Name of the fork that is in force.
    current: String,
    /// Each fork and each step of the blob schedule, in the order in which they begin.
    forks: Vec<ForkView>,
    /// A sentence about a fork that this version does not know. Null if there is none.
    unknown_fork: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ForkView {
    /// Name of the fork that is in force from then on.
    name: String,
    /// True if only the number of blobs changes, not the fork.
    blob_parameters: bool,
    #[schema(value_type = String)]
    epoch: Epoch,
    version: String,
    digest: String,
    /// When it begins.
    #[schema(value_type = String)]
    time: Time,
    /// Largest number of blobs in a block, where the digest depends on it: from Fulu on.
    max_blobs: Option<u64>,
    /// `past`, `current`, `next` or `future`.
    state: &'static str,
}

/// What the network does.
#[derive(Serialize, ToSchema)]
pub(crate) struct NetworkView {
    schema: u64,
    network: NetworkName,
    /// The figures below are of this many slots, the latest ones.
    slots_measured: u64,
    peers: PeersView,
    /// By the client that validators seem to run, most votes first.
    clients: Vec<ClientView>,
    /// Empty in a recording.
    subnets: Vec<SubnetView>,
    arrival: ArrivalView,
    blocks: BlocksView,
    clock: ClockView,
    /// As in `/v1/status`; `/v1/coverage` has all of it.
    coverage: Option<CoverageSummary>,
}

#[derive(Serialize, ToSchema)]
struct NetworkName {
    name: String,
    #[schema(value_type = String)]
    genesis_validators_root: Root,
    #[schema(value_type = String)]
    genesis_time: Time,
    slot_ms: u64,
    slots_per_epoch: u64,
}

#[derive(Serialize, ToSchema)]
struct PeersView {
    connected: u64,
    by_client: Vec<PeersOfClient>,
}

#[derive(Serialize, ToSchema)]
struct PeersOfClient {
    client: &'static str,
    peers: u64,
}

#[derive(Serialize, ToSchema)]
struct ClientView {
    client: &'static str,
    votes: u64,
    blocks: u64,
    /// Median of its blocks' arrivals after the start of their slots. Null without blocks.
    block_arrival_ms_median: Option<f64>,
}

#[derive(Serialize, ToSchema)]
struct SubnetView {
    subnet: u64,
    /// Attestations that arrived on it.
    votes: u64,
    /// Connected peers that are subscribed to it. Null if this node is not.
    peers: Option<u64>,
}

/// Votes by how long after the start of their own slot they arrived.
#[derive(Serialize, ToSchema)]
struct ArrivalView {
    bucket_ms: f64,
    /// Where the first bucket begins. It also has everything earlier, and the last one everything
    /// later.
    first_bucket_ms: f64,
    votes: Vec<u64>,
}

#[derive(Serialize, ToSchema)]
struct BlocksView {
    heard: u64,
    /// Null without blocks.
    arrival_ms: Option<ArrivalQuantiles>,
}

#[derive(Serialize, ToSchema)]
struct ArrivalQuantiles {
    p50: f64,
    p95: f64,
    max: f64,
}

/// How well the own clock fits that of the network.
#[derive(Serialize, ToSchema)]
struct ClockView {
    /// The longest time that messages waited for this program.
    longest_wait_ms: f64,
    /// Votes and blocks for slots that had not begun.
    early_votes: u64,
    early_blocks: u64,
    /// The open incident about the own clock. Null if there is none.
    #[schema(value_type = Option<String>)]
    incident: Option<Root>,
}

/// The schedule of forks, with their digests.
#[utoipa::path(get, path = "/v1/forks", operation_id = "forks", tag = "network", responses((status = 200, description = "the schedule", body = ForksView)))]
pub(crate) async fn forks(State(shared): State<Arc<Shared>>) -> Json<ForksView> {
    let network = shared.observed.network();
    let now = shared.observed.recent().now.epoch(network.preset());
    Json(forks_view(&network, now))
}

fn forks_view(network: &Network, now: Epoch) -> ForksView {
    let spec = &network.spec;
    let epochs = spec.digest_epochs();
    let current = epochs.iter().rposition(|epoch| *epoch <= now);
    let schedule = spec.schedule();
    let name_at =
        |epoch| spec.later_fork_at(epoch).map_or_else(|| spec.fork_name_at(epoch).to_string(), |fork| fork.name.clone());
    let forks = epochs.iter().enumerate().map(|(nth, epoch)| ForkView {
        name: name_at(*epoch),
        blob_parameters: schedule.iter().all(|(begins, _)| begins != epoch),
        epoch: *epoch,
        version: format!("0x{}", hex(&spec.version_at(*epoch))),
        digest: format!("0x{}", hex(&network.fork_digest_at(*epoch).0)),
        time: start(network, epoch.start_slot(network.preset())),
        max_blobs: (spec.fork_name_at(*epoch) >= consensus::ForkName::Fulu)
            .then(|| spec.blob_parameters_at(*epoch).max_blobs_per_block),
        state: match current {
            Some(current) if nth < current => "past",
            Some(current) if nth == current => "current",
            Some(current) if nth == current + 1 => "next",
            None if nth == 0 => "next",
            Some(_) | None => "future",
        },
    });
    ForksView {
        schema: 1,
        now_epoch: now,
        current: name_at(now),
        forks: forks.collect(),
        unknown_fork: spec.later_fork_from(now).map(LaterFork::notice),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Clients, subnets, arrival of votes and blocks, the own clock, and how much is heard.
#[utoipa::path(get, path = "/v1/network", operation_id = "network", tag = "network", responses((status = 200, description = "the network", body = NetworkView)))]
pub(crate) async fn network(State(shared): State<Arc<Shared>>) -> Result<Json<NetworkView>, ProblemDetails> {
    let (network, recent, status) = (shared.observed.network(), shared.observed.recent(), shared.status.status());
    let incident = read(&shared, |store| {
        let after = store.revision_before_last(MAX_INCIDENTS)?;
        let latest = store.incidents_after(after, MAX_INCIDENTS)?;
        let mut open = latest.into_iter().filter(|(_, one)| one.kind == Kind::OwnClock && one.state != IncidentState::Closed);
        Ok(open.next_back().map(|(_, one)| one.id))
    })
    .await?;
    let since = recent.now.saturating_sub(network.preset().slots_per_epoch);
    let slots: Vec<&ObservedSlot> = recent.slots.range(since..=recent.now).map(|(_, slot)| &**slot).collect();
    let topics = status.connections.map(|connections| connections.topics).unwrap_or_default();
    let traffic = &recent.traffic;
    let bucket_ms = traffic.bucket.as_secs_f64() * 1000.0;
    let subnets = traffic.by_subnet.iter().zip(0u64..);
    Ok(Json(NetworkView {
        schema: 1,
        network: NetworkName {
            name: network.spec.config_name.clone(),
            genesis_validators_root: network.genesis_validators_root,
            genesis_time: Time::from_unix_ns(network.genesis_time.saturating_mul(1_000_000_000)),
            slot_ms: millis(network.spec.slot_duration),
            slots_per_epoch: network.preset().slots_per_epoch,
        },
        slots_measured: slots.len() as u64,
        peers: PeersView { connected: status.peers, by_client: peers_by_client(&recent) },
        clients: clients(&slots, &network),
        subnets: subnets
            .map(|(votes, subnet)| SubnetView { subnet, votes: *votes, peers: topics.get(&topic(subnet)).copied() })
            .collect(),
        arrival: ArrivalView {
            bucket_ms,
            first_bucket_ms: if traffic.offsets.is_empty() { 0.0 } else { -(millis(network.spec.slot_duration) as f64) },
            votes: traffic.offsets.clone(),
        },
        blocks: blocks(&slots, &network),
        clock: ClockView {
            longest_wait_ms: (traffic.longest_wait.as_secs_f64() * 1_000_000.0).round() / 1000.0,
            early_votes: traffic.early_votes,
            early_blocks: traffic.early_blocks,
            incident,
        },
        coverage: shared.status.coverage().map(|coverage| CoverageSummary {
            first_hand: coverage.first_hand,
            last_epoch: coverage.last_epoch,
            punished: coverage.punished,
        }),
    }))
}

fn topic(subnet: u64) -> String {
    format!("beacon_attestation_{subnet}")
}

fn peers_by_client(recent: &Recent) -> Vec<PeersOfClient> {
    let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
    for row in &recent.peers {
        *sums.entry(row.client).or_default() += row.peers;
    }
    let mut rows: Vec<PeersOfClient> = sums.into_iter().map(|(client, peers)| PeersOfClient { client, peers }).collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.peers), row.client));
    rows
}

fn clients(slots: &[&ObservedSlot], network: &Network) -> Vec<ClientView> {
    let mut sums: BTreeMap<&'static str, (u64, u64, Vec<f64>)> = BTreeMap::new();
    for slot in slots {
        for row in &slot.by_client {
            sums.entry(row.client).or_default().0 += row.votes;
        }
        for block in &slot.blocks {
            let (_, n_blocks, arrivals) = sums.entry(block.client.unwrap_or("unknown")).or_default();
            *n_blocks += 1;
            arrivals.extend(gossip_arrival_ms(block, slot.slot, network));
        }
    }
    let view = |(client, (votes, blocks, mut arrivals)): (&'static str, (u64, u64, Vec<f64>))| ClientView {
        client,
        votes,
        blocks,
        block_arrival_ms_median: quantile(&mut arrivals, 50),
    };
    let mut rows: Vec<ClientView> = sums.into_iter().map(view).collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.votes), row.client));
    rows
}

fn blocks(slots: &[&ObservedSlot], network: &Network) -> BlocksView {
    let all = || slots.iter().flat_map(|slot| slot.blocks.iter().map(move |block| (slot.slot, block)));
    let mut arrivals: Vec<f64> = all().filter_map(|(slot, block)| gossip_arrival_ms(block, slot, network)).collect();
    let quantiles = |arrivals: &mut Vec<f64>| {
        Some(ArrivalQuantiles { p50: quantile(arrivals, 50)?, p95: quantile(arrivals, 95)?, max: quantile(arrivals, 100)? })
    };
    BlocksView { heard: all().count() as u64, arrival_ms: quantiles(&mut arrivals) }
}

/// When a block came by gossip, in milliseconds after the start of its slot. The time at which a
/// block was fetched says nothing about the network.
fn gossip_arrival_ms(block: &ObservedBlock, slot: Slot, network: &Network) -> Option<f64> {
    (block.heard.source == "gossip").then(|| after_start_ms(&block.heard, slot, network))
}

/// The smallest value that `percent` of the values do not exceed. `None` without values.
fn quantile(values: &mut [f64], percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_of_a_real_network_has_blob_steps_between_its_forks() {
        let network = Network::builtin("mainnet").unwrap();
        let fulu = network.spec.forks.iter().find(|fork| fork.name == consensus::ForkName::Fulu).unwrap().epoch;
        let view = forks_view(&network, fulu);
        let row = |name: &str| view.forks.iter().find(|fork| fork.name == name).unwrap();
        assert_eq!((row("phase0").digest.as_str(), row("phase0").state), ("0xb5303f2a", "past"));
        assert_eq!((row("deneb").digest.as_str(), row("deneb").max_blobs), ("0x6a95a1a9", None));
        assert_eq!((row("fulu").state, row("fulu").blob_parameters, view.current.as_str()), ("current", false, "fulu"));
        assert!(view.forks.iter().any(|fork| fork.blob_parameters && fork.max_blobs == Some(21)));
        assert_eq!(view.forks.iter().filter(|fork| fork.state == "next").count(), 1);
        assert_eq!(row("phase0").time.to_string(), "2020-12-01T12:00:23.000000000Z");
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let mut values = [3.0, 1.0, 2.0, 4.0];
        assert_eq!([50, 95, 100].map(|percent| quantile(&mut values, percent)), [Some(2.0), Some(4.0), Some(4.0)]);
        assert_eq!(quantile(&mut [], 50), None);
    }
}
