//! Addresses of peers: a multiaddr, or an ENR from which the address and the peer id follow.

use crate::discovery::{addresses_of, peer_id_of};
use enr::Enr;
use enr::k256::ecdsa::SigningKey;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::fmt;
use std::str::FromStr;

/// A peer to keep a connection to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The address, without `/p2p/`.
    pub address: Multiaddr,
    /// The peer id. A multiaddr without `/p2p/` has none, and then any peer that answers there is
    /// accepted.
    pub peer: Option<PeerId>,
}

/// Why a text is not an address of a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("{text:?} is no multiaddr ({reason}); write it like /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2HA..., or give an ENR")]
    NotMultiaddr { text: String, reason: String },
    #[error(
        "{text:?} has no tcp port and is no quic-v1 address, and nothing else is spoken here; write it like \
         /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2HA... or /ip4/192.0.2.1/udp/9001/quic-v1/p2p/16Uiu2HA..."
    )]
    NoTransport { text: String },
    #[error("{text:?} is no valid ENR ({reason}); copy it again, whole, from the node's /eth/v1/node/identity")]
    NotEnr { text: String, reason: String },
    #[error("ENR {text:?} names no IP address with a tcp or quic port; give the node's multiaddr instead")]
    EnrWithoutAddress { text: String },
}

impl FromStr for PeerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.starts_with("enr:") { Self::from_enr(text) } else { Self::from_multiaddr(text) }
    }
}

/// Parses an address to listen on: a multiaddr of TCP or of QUIC.
pub fn listen_address(text: &str) -> Result<Multiaddr, AddressError> {
    PeerAddress::from_multiaddr(text.trim()).map(|address| address.address)
}

impl PeerAddress {
    fn from_multiaddr(text: &str) -> Result<Self, AddressError> {
        let not_multiaddr = |reason: String| AddressError::NotMultiaddr { text: text.to_owned(), reason };
        let mut address: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| not_multiaddr(error.to_string()))?;
        let peer = match address.iter().last() {
            Some(Protocol::P2p(peer)) => {
                address.pop();
                Some(peer)
            }
            _ => None,
        };
        if !address.iter().any(|part| matches!(part, Protocol::Tcp(_) | Protocol::QuicV1)) {
            return Err(AddressError::NoTransport { text: text.to_owned() });
        }
        Ok(Self { address, peer })
    }

    fn from_enr(text: &str) -> Result<Self, AddressError> {
        let not_enr = |reason: String| AddressError::NotEnr { text: text.to_owned(), reason };
        let record: Enr<SigningKey> = text.parse().map_err(not_enr)?;
        let peer = peer_id_of(&record).ok_or_else(|| not_enr("its key is no secp256k1 key".to_owned()))?;
        let addresses = addresses_of(&record);
        let is_tcp = |address: &&Multiaddr| address.iter().any(|part| matches!(part, Protocol::Tcp(_)));
        let address = addresses.iter().find(is_tcp).or(addresses.first());
        let address = address.cloned().ok_or_else(|| AddressError::EnrWithoutAddress { text: text.to_owned() })?;
        Ok(Self { address, peer: Some(peer) })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            Some(peer) => write!(f, "{}/p2p/{peer}", self.address),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Teku's bootnode on mainnet, from eth-clients/mainnet (CC0): 3.147.37.0, tcp 9000.
    const TEKU: &str = "enr:-Iu4QLm7bZGdAt9NSeJG0cEnJohWcQTQaI9wFLu3Q7eHIDfrI4cwtzvEW3F3VbG9XdFXlrHyFGeXPn9snTCQJ9bnMRABgmlkgnY0gmlwhAOTJQCJc2VjcDI1NmsxoQIZdZD6tDYpkpEfVo5bgiU8MGRjhcOmHGD2nErK0UKRrIN0Y3CCIyiDdWRwgiMo";
    /// Prysm's bootnode on mainnet. It has no tcp port.
    const PRYSM: &str = "enr:-Ku4QImhMc1z8yCiNJ1TyUxdcfNucje3BGwEHzodEZUan8PherEo4sF7pPHPSIB1NNuSg5fZy7qFsjmUKs2ea1Whi0EBh2F0dG5ldHOIAAAAAAAAAACEZXRoMpD1pf1CAAAAAP__________gmlkgnY0gmlwhBLf22SJc2VjcDI1NmsxoQOVphkDqal4QzPMksc5wnpuC3gvSC8AfbFOnZY_On34wIN1ZHCCIyg";

    #[test]
    fn an_enr_gives_address_and_peer_id() {
        let teku: PeerAddress = TEKU.parse().unwrap();
        assert_eq!(teku.address.to_string(), "/ip4/3.147.37.0/tcp/9000");
        assert!(teku.peer.unwrap().to_base58().starts_with("16Uiu2HA"));
        assert!(matches!(PRYSM.parse::<PeerAddress>(), Err(AddressError::EnrWithoutAddress { .. })));
        assert!(matches!("enr:-abc".parse::<PeerAddress>(), Err(AddressError::NotEnr { .. })));
    }

    #[test]
    fn a_multiaddr_may_name_the_peer() {
        let peer = PeerId::random();
        let named: PeerAddress = format!("/dns4/node.example/tcp/9000/p2p/{peer}").parse().unwrap();
        assert_eq!((named.address.to_string().as_str(), named.peer), ("/dns4/node.example/tcp/9000", Some(peer)));
        assert_eq!(named.to_string().parse::<PeerAddress>().unwrap(), named);
        assert_eq!("/ip6/::1/tcp/9000".parse::<PeerAddress>().unwrap().peer, None);
        assert!(listen_address("/ip6/::/udp/9001/quic-v1").is_ok());
        assert!(matches!("/ip4/127.0.0.1/udp/9000".parse::<PeerAddress>(), Err(AddressError::NoTransport { .. })));
        let error = "127.0.0.1:9000".parse::<PeerAddress>().unwrap_err().to_string();
        assert!(error.contains("write it like /ip4/"), "{error}");
    }
}
