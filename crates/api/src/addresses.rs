//! Removes addresses from texts. The addresses of the operator's nodes, peers and receivers are
//! shown only on the watcher's own machine.

use std::net::{IpAddr, SocketAddr};

/// The text that replaces an address.
const HIDDEN: &str = "[address]";

/// Returns the text without URLs, multiaddrs, node records, IP addresses, and host names with a
/// port.
pub(crate) fn without_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let is_edge =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '(' | ')' | '<' | '>' | ',' | ';' | '{' | '}' | '|');
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_edge).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let bare = word.trim_end_matches(['.', ':', '!', '?']);
        if is_address(bare) {
            out.push_str(HIDDEN);
            out.push_str(&word[bare.len()..]);
        } else {
            out.push_str(word);
        }
        let edge = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..edge]);
        rest = &after[edge..];
    }
    out
}

fn is_address(word: &str) -> bool {
    let has_port =
        |word: &str| word.rsplit_once(':').is_some_and(|(host, port)| host.contains(['.', '-']) && port.parse::<u16>().is_ok());
    word.contains("://")
        || ["/ip4/", "/ip6/", "/dns", "enr:", "enode:"].iter().any(|start| word.starts_with(start))
        || word.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || word.parse::<SocketAddr>().is_ok()
        || has_port(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_and_the_rest_stays() {
        for (text, wanted) in [
            ("http://10.0.0.5:5052: timed out", "[address]: timed out"),
            (
                "error sending request for url (http://user:key@node.lan:5052/eth/v1/x?y=z): refused",
                "error sending request for url ([address]): refused",
            ),
            (
                "configured peer /ip4/10.0.0.5/tcp/9000/p2p/16Uiu2 is not connected: enr:-abc",
                "configured peer [address] is not connected: [address]",
            ),
            ("ask 10.0.0.5, [::1]:9000 or node-1.lan:5052.", "ask [address], [address] or [address]."),
            ("12 blocks are missing; slot 1:2, 16:30:05 UTC", "12 blocks are missing; slot 1:2, 16:30:05 UTC"),
            (
                "since 2026-11-28T13:39:53.000000000Z: `gossip.peers` is empty",
                "since 2026-11-28T13:39:53.000000000Z: `gossip.peers` is empty",
            ),
            ("", ""),
        ] {
            assert_eq!(without_addresses(text), wanted);
        }
    }
}
