//! The bytes of gossipsub's RPCs, of identify and of the few answers of a light peer.
//!
//! An RPC is one protobuf message after its length as a varint. protobuf adds up what follows one
//! another: two encoded RPCs, written one behind the other, are one RPC with the content of both.
//! So an RPC is put together from parts that are encoded once and sent to many.
//!
//! ```text
//! RPC      1 subscription { 1 subscribe, 2 topic }     2 message { 2 data, 4 topic }
//!          3 control { 1 IHAVE { 1 topic, 2 id... }    2 IWANT { 1 id... }
//!                      3 GRAFT { 1 topic }             4 PRUNE { 1 topic, 3 backoff in s }
//!                      5 IDONTWANT { 1 id... } }
//! ```
//!
//! Source: libp2p specs, pubsub/gossipsub/gossipsub-v1.2.md.

use std::io::Write as _;

/// The id of a message, as Ethereum computes it.
pub(crate) type GossipId = [u8; 20];

/// Wire type of a number, and of bytes.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The part of an RPC that subscribes to a topic.
pub(crate) fn subscription(topic: &str) -> Vec<u8> {
    let mut inner = vec![(1 << 3 | NUMBER) as u8, 1];
    put_bytes(&mut inner, 2, topic.as_bytes());
    let mut out = Vec::with_capacity(inner.len() + 4);
    put_bytes(&mut out, 1, &inner);
    out
}

/// The part of an RPC that carries a message.
pub(crate) fn message(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut inner = Vec::with_capacity(payload.len() + topic.len() + 12);
    put_bytes(&mut inner, 2, payload);
    put_bytes(&mut inner, 4, topic.as_bytes());
    let mut out = Vec::with_capacity(inner.len() + 8);
    put_bytes(&mut out, 2, &inner);
    out
}

/// The part of an RPC that says which messages of a topic its sender has.
pub(crate) fn ihave(topic: &str, ids: &[GossipId]) -> Vec<u8> {
    let mut inner = Vec::with_capacity(ids.len() * 22 + topic.len() + 4);
    put_bytes(&mut inner, 1, topic.as_bytes());
    ids.iter().for_each(|id| put_bytes(&mut inner, 2, id));
    let mut control = Vec::with_capacity(inner.len() + 8);
    put_bytes(&mut control, 1, &inner);
    let mut out = Vec::with_capacity(control.len() + 8);
    put_bytes(&mut out, 3, &control);
    out
}

/// An RPC as it is sent: its parts after their length.
pub(crate) fn with_length(parts: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.len() + 4);
    put_varint(&mut out, parts.len() as u64);
    out.extend_from_slice(parts);
    out
}

/// What a light peer reads of an RPC.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceivedRpc {
    /// The payloads of messages.
    pub(crate) payloads: Vec<Vec<u8>>,
    pub(crate) grafted: Vec<String>,
    pub(crate) pruned: Vec<String>,
    pub(crate) wanted: Vec<GossipId>,
    pub(crate) not_wanted: Vec<GossipId>,
}

impl ReceivedRpc {
    /// Reads an RPC without its length. Returns `None` if it is not protobuf.
    pub(crate) fn read(rpc: &[u8]) -> Option<Self> {
        let mut received = Self::default();
        for (field, value) in fields(rpc)? {
            match field {
                2 => received
                    .payloads
                    .extend(fields(value)?.into_iter().find(|(field, _)| *field == 2).map(|(_, data)| data.to_vec())),
                3 => received.read_control(value)?,
                _ => {}
            }
        }
        Some(received)
    }

    fn read_control(&mut self, control: &[u8]) -> Option<()> {
        for (kind, value) in fields(control)? {
            let parts = fields(value)?;
            let topics =
                || parts.iter().filter(|(field, _)| *field == 1).filter_map(|(_, topic)| String::from_utf8(topic.to_vec()).ok());
            let ids = || parts.iter().filter(|(field, _)| *field == 1).filter_map(|(_, id)| GossipId::try_from(*id).ok());
            match kind {
                2 => self.wanted.extend(ids()),
                3 => self.grafted.extend(topics()),
                4 => self.pruned.extend(topics()),
                5 => self.not_wanted.extend(ids()),
                _ => {}
            }
        }
        Some(())
    }
}

/// The fields of a protobuf message that are bytes, in order.
fn fields(mut rest: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            NUMBER => {
                varint(&mut rest)?;
            }
            BYTES => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                found.push((key >> 3, value));
                rest = after;
            }
            1 => rest = rest.get(8..)?,
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(found)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The message of identify, after its length. `key` is the public key as protobuf.
pub(crate) fn identify(key: &[u8], agent: &str, protocols: &[&str]) -> Vec<u8> {
    let mut inner = Vec::new();
    put_bytes(&mut inner, 1, key);
    protocols.iter().for_each(|protocol| put_bytes(&mut inner, 3, protocol.as_bytes()));
    put_bytes(&mut inner, 5, b"eth2/1.0.0");
    put_bytes(&mut inner, 6, agent.as_bytes());
    with_length(&inner)
}

/// A successful answer to a request: result 0, the length of the SSZ, and its snappy frames.
pub(crate) fn answer(ssz: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = vec![0];
    put_varint(&mut out, ssz.len() as u64);
    let mut encoder = snap::write::FrameEncoder::new(out);
    encoder.write_all(ssz)?;
    encoder.into_inner().map_err(|error| std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_one_rpc() {
        let rpc = [
            subscription("/eth2/00000000/beacon_block/ssz_snappy"),
            message("a", b"first"),
            ihave("a", &[[1; 20], [2; 20]]),
            message("b", &[7; 300]),
        ]
        .concat();
        let read = ReceivedRpc::read(&rpc).unwrap();
        assert_eq!(read.payloads, [b"first".to_vec(), vec![7; 300]]);
        assert_eq!(with_length(&rpc).len(), rpc.len() + 2);
        for cut in 1..rpc.len() {
            // It must not panic. A cut between two parts is an RPC too.
            let _ = ReceivedRpc::read(&rpc[..cut]);
        }
    }

    /// The bytes of a node of libp2p: GRAFT `t`, PRUNE `u` with a backoff, IWANT and IDONTWANT.
    #[test]
    fn control_messages_are_read() {
        let control = [
            &[0x12, 22, 0x0a, 20][..],
            &[9; 20],
            &[0x1a, 3, 0x0a, 1, b't'],
            &[0x22, 5, 0x0a, 1, b'u', 0x18, 60],
            &[0x2a, 22, 0x0a, 20],
            &[8; 20],
        ]
        .concat();
        let rpc = [&[0x1a, control.len() as u8][..], &control].concat();
        let wanted = ReceivedRpc {
            grafted: vec!["t".into()],
            pruned: vec!["u".into()],
            wanted: vec![[9; 20]],
            not_wanted: vec![[8; 20]],
            ..ReceivedRpc::default()
        };
        assert_eq!(ReceivedRpc::read(&rpc), Some(wanted));
    }
}
