//! Node records (ENR, EIP-778) of beacon nodes: what ours says, and what we read in others'.
//!
//! Source: consensus-specs, phase0, altair and fulu `p2p-interface.md`, "The discovery domain".

use consensus::{Epoch, ForkDigest, ForkVersion, Network};
use discv5::Enr;
use enr::{CombinedKey, EnrKey, EnrPublicKey};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Keys of the record.
const ETH2: &str = "eth2";
const ATTNETS: &str = "attnets";
const SYNCNETS: &str = "syncnets";
const CUSTODY_GROUP_COUNT: &str = "cgc";
const NEXT_FORK_DIGEST: &str = "nfd";
const QUIC: &str = "quic";
const QUIC_6: &str = "quic6";
/// Size of `ENRForkID` in SSZ.
const FORK_ID_LEN: usize = 16;

/// `ENRForkID`: which network and fork a node follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkId {
    pub fork_digest: ForkDigest,
    /// The version of the next fork that is scheduled, or the current one if none is.
    pub next_fork_version: ForkVersion,
    /// The epoch of that fork. `FAR_FUTURE_EPOCH` if none is scheduled.
    pub next_fork_epoch: Epoch,
}

impl ForkId {
    pub fn at(network: &Network, epoch: Epoch) -> Self {
        let next = network.spec.schedule().into_iter().find(|(begins, _)| *begins > epoch);
        let (next_fork_epoch, next_fork_version) = next.unwrap_or((Epoch::FAR_FUTURE, network.spec.version_at(epoch)));
        Self { fork_digest: network.fork_digest_at(epoch), next_fork_version, next_fork_epoch }
    }

    /// Whether the next fork is one of our schedule. Lighthouse names the epoch at which the next
    /// digest begins, be it that of a fork or of a blob step, beside the version of the next fork.
    pub(crate) fn is_scheduled(&self, network: &Network) -> bool {
        let spec = &network.spec;
        let is_known_version = spec.schedule().iter().any(|(_, version)| *version == self.next_fork_version);
        let is_known_epoch = spec.digest_epochs().contains(&self.next_fork_epoch);
        self.next_fork_epoch == Epoch::FAR_FUTURE || (is_known_version && is_known_epoch)
    }

    /// The container in SSZ, as `eth2` of a record holds it.
    pub fn to_ssz(self) -> [u8; FORK_ID_LEN] {
        let mut bytes = [0; FORK_ID_LEN];
        bytes[..4].copy_from_slice(&self.fork_digest.0);
        bytes[4..8].copy_from_slice(&self.next_fork_version);
        bytes[8..].copy_from_slice(&self.next_fork_epoch.as_u64().to_le_bytes());
        bytes
    }

    fn from_ssz(bytes: [u8; FORK_ID_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, epoch @ ..] = bytes;
        Self {
            fork_digest: ForkDigest([a, b, c, d]),
            next_fork_version: [e, f, g, h],
            next_fork_epoch: Epoch::new(u64::from_le_bytes(epoch)),
        }
    }
}

/// `nfd`: the digest that comes next, be it of a fork or of a step of the blob schedule. Zero if
/// none is scheduled.
fn next_fork_digest(network: &Network, epoch: Epoch) -> ForkDigest {
    network.digests().into_iter().find(|(_, begins, _)| *begins > epoch).map_or(ForkDigest([0; 4]), |(digest, _, _)| digest)
}

/// What our record says besides the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advertised {
    fork_id: ForkId,
    next_fork_digest: ForkDigest,
    custody_group_count: u64,
}

impl Advertised {
    pub(super) fn at(network: &Network, epoch: Epoch, custody_group_count: u64) -> Self {
        let (fork_id, next_fork_digest) = (ForkId::at(network, epoch), next_fork_digest(network, epoch));
        Self { fork_id, next_fork_digest, custody_group_count }
    }

    /// Writes the fields into our record. We are subscribed to all attestation subnets, and to no
    /// sync committee's. A field that is right already is left alone, so that the sequence number
    /// of the record goes up only when something changes.
    pub(super) fn write(&self, record: &mut Enr, key: &CombinedKey) -> Result<(), String> {
        let fields = [
            (ETH2, alloy_rlp::encode(self.fork_id.to_ssz())),
            (ATTNETS, alloy_rlp::encode([0xffu8; 8])),
            (SYNCNETS, alloy_rlp::encode([0u8; 1])),
            (NEXT_FORK_DIGEST, alloy_rlp::encode(self.next_fork_digest.0)),
            (CUSTODY_GROUP_COUNT, alloy_rlp::encode(self.custody_group_count)),
        ];
        for (name, value) in fields {
            if record.get_raw_rlp(name) != Some(value.as_slice()) {
                record.insert_raw_rlp(name, value.into(), key).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

/// Ports at which this node can be reached over one family of addresses. The IP address and the
/// UDP port of discovery stand in the record already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GossipPorts {
    pub tcp: Option<u16>,
    pub quic: Option<u16>,
}

/// Writes the ports of gossip into our record: those of IPv4 and those of IPv6.
pub(super) fn write_ports(record: &mut Enr, ports: [GossipPorts; 2], key: &CombinedKey) -> Result<(), String> {
    let fields = [("tcp", ports[0].tcp), (QUIC, ports[0].quic), ("tcp6", ports[1].tcp), (QUIC_6, ports[1].quic)];
    for (name, port) in fields {
        let Some(port) = port else { continue };
        if record.get_decodable(name).and_then(Result::ok) != Some(port) {
            record.insert(name, &port, key).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Where a record says that its node takes connections, without `/p2p/`: IPv4 before IPv6, and
/// QUIC before TCP, as clients dial.
pub(crate) fn addresses_of<K: EnrKey>(record: &enr::Enr<K>) -> Vec<Multiaddr> {
    let port = |name: &str| record.get_decodable::<u16>(name).and_then(Result::ok).filter(|port| *port != 0);
    let mut addresses = Vec::new();
    for (ip, quic, tcp) in
        [(record.ip4().map(IpAddr::V4), port(QUIC), port("tcp")), (record.ip6().map(IpAddr::V6), port(QUIC_6), port("tcp6"))]
    {
        let Some(ip) = ip else { continue };
        addresses.extend(quic.map(|port| Multiaddr::from(ip).with(Protocol::Udp(port)).with(Protocol::QuicV1)));
        addresses.extend(tcp.map(|port| Multiaddr::from(ip).with(Protocol::Tcp(port))));
    }
    addresses
}

/// The peer id that belongs to a record's key. None if the key is not one of secp256k1, which the
/// specification demands.
pub(crate) fn peer_id_of<K: EnrKey>(record: &enr::Enr<K>) -> Option<PeerId> {
    let key = libp2p::identity::secp256k1::PublicKey::try_from_bytes(record.public_key().encode().as_ref()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// The IP address of a multiaddr that begins with one. An IPv4 address in IPv6 form is IPv4.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    let ip = match address.iter().next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    Some(ip.to_canonical())
}

/// A node that discovery found: what its record says. Its key has signed the record. Nothing else
/// in it has been checked, so it may name the address of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundNode {
    pub peer: PeerId,
    /// The addresses to dial, in this order. There is at least one.
    pub addresses: Vec<Multiaddr>,
    /// Their IP address. It is one, because each owner of addresses is dialled only so often, and a
    /// record could name a second one of somebody else.
    pub ip: IpAddr,
    /// The record's sequence number: a higher one replaces a lower one.
    pub sequence: u64,
    pub fork_id: ForkId,
    /// Bit n of `attnets`: subscribed to attestation subnet n for long.
    pub attestation_subnets: u64,
    /// Whether the node has answered us by UDP from this IP address with its key. Then the record
    /// is no invention.
    pub has_answered: bool,
    /// The record as text, `enr:...`.
    pub record: String,
}

/// Why a record is of no use to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableRecord {
    /// It says no `eth2`, or a malformed one, or it has a key of another kind: no beacon node.
    NoBeaconNode,
    /// Its fork digest is not ours now, nor of the epoch before or after.
    OtherNetwork,
    /// It names no IP address with a QUIC or TCP port.
    NoAddress,
    /// All its addresses are private, and those are not taken.
    PrivateAddress,
}

impl UnusableRecord {
    pub const LABELS: [&str; 4] = ["no_beacon_node", "other_network", "no_address", "private_address"];

    pub const fn label(self) -> &'static str {
        match self {
            Self::NoBeaconNode => "no_beacon_node",
            Self::OtherNetwork => "other_network",
            Self::NoAddress => "no_address",
            Self::PrivateAddress => "private_address",
        }
    }
}

/// Reads `eth2` of a record.
pub(crate) fn fork_id_of(record: &Enr) -> Option<ForkId> {
    record.get_decodable(ETH2)?.ok().map(ForkId::from_ssz)
}

impl FoundNode {
    /// Reads a record. `digests` are the fork digests of nodes that can be of use. `answered_from`
    /// is the address at which its node has just answered us.
    pub(crate) fn read(
        record: &Enr,
        digests: &[ForkDigest],
        allow_private: bool,
        answered_from: Option<IpAddr>,
    ) -> Result<Self, UnusableRecord> {
        let fork_id = fork_id_of(record).ok_or(UnusableRecord::NoBeaconNode)?;
        if !digests.contains(&fork_id.fork_digest) {
            return Err(UnusableRecord::OtherNetwork);
        }
        let peer = peer_id_of(record).ok_or(UnusableRecord::NoBeaconNode)?;
        let mut addresses = addresses_of(record);
        if addresses.is_empty() {
            return Err(UnusableRecord::NoAddress);
        }
        addresses.retain(|address| allow_private || ip_of(address).is_some_and(is_public));
        let has_answered = answered_from.is_some_and(|from| addresses.iter().any(|address| ip_of(address) == Some(from)));
        let answered_at = answered_from.filter(|_| has_answered);
        let Some(ip) = answered_at.or_else(|| ip_of(addresses.first()?)) else { return Err(UnusableRecord::PrivateAddress) };
        addresses.retain(|address| ip_of(address) == Some(ip));
        Ok(Self {
            peer,
            ip,
            sequence: record.seq(),
            fork_id,
            attestation_subnets: record.get_decodable(ATTNETS).and_then(Result::ok).map_or(0, u64::from_le_bytes),
            has_answered,
            record: record.to_base64(),
            addresses,
        })
    }
}

/// Whether an address can be reached from everywhere, as far as the address tells.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    // 100.64/10 is shared by customers of a provider, 198.18/15 is for benchmarks, 192.0.0/24 for
    // protocols, and 0/8 and 240/4 are reserved.
    let is_special = (a == 100 && (64..128).contains(&b)) || (a == 198 && b & 0xfe == 18) || [a, b, c] == [192, 0, 0];
    let is_reserved = is_special || a == 0 || a >= 240 || ip.is_documentation() || ip.is_multicast();
    let is_local = ip.is_private() || ip.is_loopback() || ip.is_link_local();
    !is_reserved && !is_local
}

/// Only 2000::/3 is routed. Of it, 2001::/32 and 2002::/16 are tunnels that contain an IPv4
/// address, which may be any, and 2001:db8::/32 and 3fff::/20 are for documentation.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    let is_tunnel = first == 0x2002 || (first == 0x2001 && second == 0);
    let is_documentation = (first == 0x2001 && second == 0x0db8) || (first == 0x3fff && second < 0x1000);
    first & 0xe000 == 0x2000 && !is_tunnel && !is_documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_ids_of_the_boot_nodes_of_plataberget() {
        let network = Network::builtin("plataberget").unwrap();
        // Records of August 2026, when Fulu was in force and Gloas scheduled.
        for text in Network::builtin_boot_nodes("plataberget") {
            let record: Enr = text.parse().unwrap();
            assert_eq!(fork_id_of(&record), Some(ForkId::at(&network, Epoch::new(0))), "{text}");
            let next: [u8; 4] = record.get_decodable(NEXT_FORK_DIGEST).unwrap().unwrap();
            assert_eq!(next, next_fork_digest(&network, Epoch::new(0)).0, "{text}");
        }
        let after = ForkId::at(&network, Epoch::new(1536));
        assert_eq!((after.next_fork_version, after.next_fork_epoch.as_u64()), ([0x80, 0x73, 0x31, 0x83], u64::MAX));
        assert_eq!(next_fork_digest(&network, Epoch::new(1536)), ForkDigest([0; 4]));
    }

    /// Lighthouse announces each blob step as if it were a fork.
    #[test]
    fn a_blob_step_is_no_unknown_fork() {
        let mut network = Network::builtin("mainnet").unwrap();
        let step = network.spec.blob_schedule.last().unwrap().epoch;
        let next = network.spec.forks.last().unwrap().version;
        let announces = |network: &Network, next_fork_version, next_fork_epoch| {
            let fork_id = ForkId { fork_digest: ForkDigest([1; 4]), next_fork_version, next_fork_epoch };
            fork_id.is_scheduled(network)
        };
        assert!(announces(&network, next, step) && announces(&network, next, Epoch::FAR_FUTURE));
        assert!(!announces(&network, next, step.saturating_add(1)), "no step of ours");
        assert!(!announces(&network, [99, 0, 0, 0], step), "no fork of ours");
        network.spec.blob_schedule.pop();
        assert!(!announces(&network, next, step));
    }

    #[test]
    fn what_we_write_is_what_others_read() {
        let network = Network::builtin("plataberget").unwrap();
        let key = CombinedKey::generate_secp256k1();
        let mut record = Enr::builder().ip4(Ipv4Addr::new(8, 8, 8, 8)).tcp4(9000).udp4(9000).build(&key).unwrap();
        let ours = Advertised::at(&network, Epoch::new(7), 4);
        ours.write(&mut record, &key).unwrap();
        let sequence = record.seq();
        ours.write(&mut record, &key).unwrap();
        assert_eq!(record.seq(), sequence, "nothing has changed");
        let digests = [network.fork_digest_at(Epoch::new(7))];
        let node = FoundNode::read(&record, &digests, false, None).unwrap();
        assert_eq!((node.addresses[0].to_string().as_str(), node.attestation_subnets), ("/ip4/8.8.8.8/tcp/9000", u64::MAX));
        assert_eq!(node.fork_id, ForkId::at(&network, Epoch::new(7)));
        assert_eq!(record.get_decodable::<u64>(CUSTODY_GROUP_COUNT).unwrap().unwrap(), 4);
        assert_eq!(FoundNode::read(&record, &[ForkDigest([1; 4])], false, None), Err(UnusableRecord::OtherNetwork));
    }

    #[test]
    fn records_of_no_use_are_told_apart() {
        let network = Network::builtin("plataberget").unwrap();
        let digests = [network.fork_digest_at(Epoch::new(7))];
        let key = CombinedKey::generate_secp256k1();
        let read = |ip: Ipv4Addr, tcp: Option<u16>, is_beacon_node: bool| {
            let mut builder = Enr::builder();
            builder.ip4(ip).udp4(9000);
            if let Some(port) = tcp {
                builder.tcp4(port);
            }
            let mut record = builder.build(&key).unwrap();
            if is_beacon_node {
                Advertised::at(&network, Epoch::new(7), 4).write(&mut record, &key).unwrap();
            }
            [false, true].map(|allow_private| FoundNode::read(&record, &digests, allow_private, None).err())
        };
        let public = Ipv4Addr::new(8, 8, 8, 8);
        assert_eq!(read(public, Some(9000), true), [None, None]);
        assert_eq!(read(public, None, true), [Some(UnusableRecord::NoAddress); 2]);
        assert_eq!(read(public, Some(0), true), [Some(UnusableRecord::NoAddress); 2]);
        assert_eq!(read(public, Some(9000), false), [Some(UnusableRecord::NoBeaconNode); 2]);
        for private in [
            "10.1.2.3",
            "127.0.0.1",
            "192.168.0.9",
            "169.254.1.1",
            "100.100.1.1",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "198.19.0.1",
            "192.0.0.8",
            "203.0.113.1",
        ] {
            assert_eq!(
                read(private.parse().unwrap(), Some(9000), true),
                [Some(UnusableRecord::PrivateAddress), None],
                "{private}"
            );
        }
        for (ip, public) in [
            ("fe80::1", false),
            ("fd00::1", false),
            ("::1", false),
            ("::ffff:10.0.0.1", false),
            ("2a03:b0c0::1", true),
            ("2002:0a00:0001::1", false),
            ("2001::1", false),
            ("64:ff9b::7f00:1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }

    #[test]
    fn a_malformed_fork_id_is_none() {
        let key = CombinedKey::generate_secp256k1();
        for length in [0, 15, 17, 100] {
            let mut record = Enr::builder().ip4(Ipv4Addr::LOCALHOST).tcp4(1).build(&key).unwrap();
            record.insert(ETH2, &vec![7u8; length].as_slice(), &key).unwrap();
            assert_eq!(fork_id_of(&record), None, "{length}");
        }
    }

    #[test]
    fn quic_comes_before_tcp_and_one_family_is_taken() {
        let network = Network::builtin("plataberget").unwrap();
        let digests = [network.fork_digest_at(Epoch::new(7))];
        let key = CombinedKey::generate_secp256k1();
        let mut builder = Enr::builder();
        builder.ip4(Ipv4Addr::new(10, 0, 0, 1)).ip6("2a03:b0c0::1".parse().unwrap());
        let mut record = builder.build(&key).unwrap();
        Advertised::at(&network, Epoch::new(7), 4).write(&mut record, &key).unwrap();
        let ports = [GossipPorts { tcp: Some(9000), quic: None }, GossipPorts { tcp: Some(9003), quic: Some(9004) }];
        write_ports(&mut record, ports, &key).unwrap();
        let sequence = record.seq();
        write_ports(&mut record, ports, &key).unwrap();
        assert_eq!(record.seq(), sequence, "nothing has changed");
        let read = |allow_private, from: &str| {
            let node = FoundNode::read(&record, &digests, allow_private, Some(from.parse().unwrap())).unwrap();
            (node.addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>().join(" "), node.has_answered)
        };
        let v6 = "/ip6/2a03:b0c0::1/udp/9004/quic-v1 /ip6/2a03:b0c0::1/tcp/9003";
        assert_eq!(read(false, "2a03:b0c0::1"), (v6.to_owned(), true));
        assert_eq!(read(true, "2a03:b0c0::1"), (v6.to_owned(), true), "it has answered from there");
        assert_eq!(read(true, "9.9.9.9"), ("/ip4/10.0.0.1/tcp/9000".to_owned(), false), "one owner of addresses");
    }

    #[test]
    fn a_key_of_another_kind_is_no_beacon_node() {
        let network = Network::builtin("plataberget").unwrap();
        let digests = [network.fork_digest_at(Epoch::new(7))];
        let key = CombinedKey::generate_ed25519();
        let mut record = Enr::builder().ip4(Ipv4Addr::new(8, 8, 8, 8)).tcp4(9000).build(&key).unwrap();
        Advertised::at(&network, Epoch::new(7), 4).write(&mut record, &key).unwrap();
        assert_eq!(FoundNode::read(&record, &digests, false, None), Err(UnusableRecord::NoBeaconNode));
    }
}
