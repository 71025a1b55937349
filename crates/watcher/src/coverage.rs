//! The API's view of the coverage: how much of the network is heard first-hand.

use crate::status::as_time;
use api::{ClientShare, Coverage, GroupHeard, LabelShare, Peering, Punished, share};
use consensus::Network;
use detect::client::client_name;
use detect::coverage::{CoverageReport, PUNISHED_DAYS, SharedCoverage, VOTES_NEEDED, WINDOW_EPOCHS};
use sources::gossip::ConnectionState;
use std::net::IpAddr;

/// Largest number of our own addresses that are shown.
const MAX_ADDRESSES: usize = 8;

/// Returns the figures. `connections` is `None` without gossip.
pub fn view(coverage: &SharedCoverage, connections: Option<&ConnectionState>) -> Coverage {
    let report = coverage.report();
    let punished = coverage.punished();
    let attested = report.measured.as_ref().map_or_else(Default::default, |measured| measured.attested);
    let clients = report.sums.by_client.iter().enumerate().filter(|(_, sum)| sum.n_peers > 0);
    let labels = report.measured.iter().flat_map(|measured| measured.by_label.iter());
    Coverage {
        epoch: report.measured.as_ref().map(|measured| measured.epoch),
        attested_gwei: attested,
        first_hand: share(report.sums.first_hand, attested),
        last_epoch: share(report.sums.last_epoch, attested),
        claimed: share(report.sums.claimed, attested),
        votes_needed: VOTES_NEEDED,
        epochs: WINDOW_EPOCHS,
        peers: report.sums.n_peers,
        peers_discarded: report.sums.n_discarded,
        by_client: clients
            .map(|(client, sum)| ClientShare {
                client: client_name(client).to_owned(),
                peers: sum.n_peers,
                first_hand: share(sum.first_hand, attested).unwrap_or(0.0),
            })
            .collect(),
        by_label: labels
            .map(|row| LabelShare {
                label: row.label.clone(),
                validators: row.n_validators,
                first_hand: share(row.first_hand, row.attested).unwrap_or(0.0),
            })
            .collect(),
        punished: Punished { days: PUNISHED_DAYS, validators: punished.n_validators, heard: punished.n_heard },
        peering: connections.map(|state| Peering::new(&state.peer_id, &own_addresses(state))),
    }
}

/// Returns whether the keys of a group are heard. `None` before the first slot has ended.
pub fn group_view(report: &CoverageReport, name: &str, network: &Network) -> Option<GroupHeard> {
    let group = report.groups.iter().find(|group| group.name == name)?;
    Some(GroupHeard {
        heard: group.n_heard,
        since: group.since.map(|slot| as_time(network, slot)),
        peers: group.n_peers,
        missing: group.missing.clone(),
    })
}

/// Returns our own TCP addresses, as multiaddrs: those at which others see us first, those that
/// only this machine can reach last.
fn own_addresses(state: &ConnectionState) -> Vec<String> {
    let listen: Vec<(IpAddr, u16)> = state.listen.iter().filter_map(|address| tcp_address(address)).collect();
    let external = state.discovery.iter().flat_map(|discovery| &discovery.external).map(std::net::SocketAddr::ip);
    // The record names the UDP port of discovery. The port of gossip is the one that we listen on.
    let port_of = |ip: &IpAddr| listen.iter().find(|(own, _)| own.is_ipv4() == ip.is_ipv4()).map(|(_, port)| *port);
    let mut addresses: Vec<(IpAddr, u16)> = external.filter_map(|ip| Some((ip, port_of(&ip)?))).collect();
    let (loopback, others): (Vec<_>, Vec<_>) = listen.iter().copied().partition(|(ip, _)| ip.is_loopback());
    for address in others.into_iter().chain(loopback) {
        if !addresses.contains(&address) && !address.0.is_unspecified() {
            addresses.push(address);
        }
    }
    addresses.truncate(MAX_ADDRESSES);
    let text = |(ip, port): (IpAddr, u16)| format!("/{}/{ip}/tcp/{port}", if ip.is_ipv4() { "ip4" } else { "ip6" });
    addresses.into_iter().map(text).collect()
}

/// Reads `/ip4/192.0.2.1/tcp/9000` or the same with `ip6`.
fn tcp_address(multiaddr: &str) -> Option<(IpAddr, u16)> {
    let mut parts = multiaddr.strip_prefix('/')?.split('/');
    let (family, ip, transport, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_plain = matches!(family, "ip4" | "ip6") && transport == "tcp" && parts.next().is_none();
    is_plain.then(|| Some((ip.parse().ok()?, port.parse().ok()?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sources::discovery::DiscoveryState;

    #[test]
    fn addresses_that_others_can_reach_come_first() {
        let listen =
            ["/ip4/127.0.0.1/tcp/9000", "/ip4/192.168.1.7/tcp/9000", "/ip4/192.168.1.7/udp/9001/quic-v1", "/ip6/::1/tcp/9090"];
        let state = ConnectionState { listen: listen.map(str::to_owned).to_vec(), ..ConnectionState::default() };
        assert_eq!(own_addresses(&state), ["/ip4/192.168.1.7/tcp/9000", "/ip4/127.0.0.1/tcp/9000", "/ip6/::1/tcp/9090"]);
        let external = vec!["198.51.100.4:9100".parse().unwrap(), "[2001:db8::7]:9100".parse().unwrap()];
        let state = ConnectionState { discovery: Some(DiscoveryState { external, ..DiscoveryState::default() }), ..state };
        let first: Vec<String> = own_addresses(&state).into_iter().take(2).collect();
        assert_eq!(first, ["/ip4/198.51.100.4/tcp/9000", "/ip6/2001:db8::7/tcp/9090"]);
    }

    /// Whatever the report has, no answer names a peer or says which validator has which publisher.
    #[test]
    fn the_view_names_no_peer_and_no_validator() {
        let view = view(&SharedCoverage::default(), None);
        assert_eq!((view.first_hand, view.epoch, view.peering), (None, None, None));
        let text = serde_json::to_string(&api::Coverage { peering: None, ..view }).unwrap();
        assert!(!text.contains("16Uiu2"), "{text}");
    }
}
