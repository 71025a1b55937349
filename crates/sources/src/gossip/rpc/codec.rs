//! The encoding of requests and responses on a stream: a varint length, snappy frames, and in a
//! response a result byte. The reader never reads more than the length allows.

use super::blocks::{BlockChunk, MAX_BLOCK_LEN, MAX_RESPONSE_BYTES, ServedBlocks};
use super::messages::{BlockQuery, BodyLen, DataProtocol, Metadata, Protocol, Request, Response, StatusMessage};
use consensus::ForkDigest;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::request_response::Codec;
use std::io::{self, Read};

/// Greatest length of an error message in bytes (`List[byte, 256]`).
const MAX_ERROR_LEN: usize = 256;
/// Greatest decompressed size of a frame's content in bytes.
const MAX_FRAME_CONTENT: usize = 65_536;
/// Length of a frame's head in bytes: a type byte and a length of 3 bytes.
const FRAME_HEAD_LEN: usize = 4;
/// Greatest length of a frame's body in bytes: a checksum, and 64 kB that compression has made
/// longer.
const MAX_FRAME_BODY: usize = 4 + 32 + MAX_FRAME_CONTENT + MAX_FRAME_CONTENT / 6;
/// Frames without content that are accepted in one body. A peer that sends more of them is wasting
/// time.
const MAX_IDLE_FRAMES: usize = 16;
/// What the frames of each 64 kB of a body may add to it, in bytes: their heads and checksums, and
/// frames that hold less than they could.
const FRAMES_ALLOWANCE: usize = 1024;

/// One codec reads and writes one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gossip) struct RpcCodec {
    /// Number of blocks that were asked for on this stream. No more are read.
    n_blocks: usize,
}

impl Codec for RpcCodec {
    type Protocol = Protocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, protocol: &Protocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let body = match protocol.request_len() {
            BodyLen::Nothing => Vec::new(),
            allowed => read_body(io, allowed).await?,
        };
        match protocol {
            Protocol::StatusV1 | Protocol::StatusV2 => StatusMessage::from_ssz(&body).map(Request::Status),
            Protocol::Ping => number(&body).map(|seq_number| Request::Ping { seq_number }),
            Protocol::Goodbye => number(&body).map(|code| Request::Goodbye { code }),
            Protocol::MetadataV1 | Protocol::MetadataV2 | Protocol::MetadataV3 => Some(Request::Metadata),
            Protocol::Data(data) if data.is_served() => {
                BlockQuery::from_ssz(*data, &body).map(|query| Request::Blocks(*data, query))
            }
            Protocol::Data(data) => Some(Request::Data(*data)),
        }
        .ok_or_else(|| invalid("request has the wrong length"))
    }

    async fn read_response<T>(&mut self, protocol: &Protocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        if let Protocol::Data(data) = protocol
            && data.is_served()
        {
            return read_blocks(io, self.n_blocks).await;
        }
        let mut result = [0u8; 1];
        if io.read(&mut result).await? == 0 {
            return Ok(Response::Nothing);
        }
        if result[0] != 0 {
            return Ok(read_error(io, result[0]).await);
        }
        let body = read_body(io, protocol.response_len()).await?;
        match protocol {
            Protocol::StatusV1 | Protocol::StatusV2 => StatusMessage::from_ssz(&body).map(Response::Status),
            Protocol::Ping => number(&body).map(|seq_number| Response::Pong { seq_number }),
            Protocol::MetadataV1 | Protocol::MetadataV2 | Protocol::MetadataV3 => {
                Metadata::from_ssz(&body).map(Response::Metadata)
            }
            Protocol::Goodbye | Protocol::Data(_) => Some(Response::Nothing),
        }
        .ok_or_else(|| invalid("response has the wrong length"))
    }

    async fn write_request<T>(&mut self, protocol: &Protocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let body = match request {
            Request::Status(status) => status.to_ssz(*protocol),
            Request::Ping { seq_number } => seq_number.to_le_bytes().to_vec(),
            Request::Goodbye { code } => code.to_le_bytes().to_vec(),
            Request::Metadata => return Ok(()),
            Request::Blocks(_, query) => {
                self.n_blocks = query.n_blocks();
                query.to_ssz()
            }
            Request::Data(_) => return Err(invalid("other data than blocks is never asked for")),
        };
        io.write_all(&packed(&body)?).await
    }

    async fn write_response<T>(&mut self, protocol: &Protocol, io: &mut T, response: Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let (result, body) = match response {
            Response::Nothing => return Ok(()),
            Response::Served(blocks) => return write_blocks(io, *protocol, blocks).await,
            Response::Blocks(_) => return Err(invalid("blocks are sent from the store")),
            Response::Status(status) => (0, status.to_ssz(*protocol)),
            Response::Pong { seq_number } => (0, seq_number.to_le_bytes().to_vec()),
            Response::Metadata(metadata) => (0, metadata.to_ssz(*protocol)),
            Response::Error { code, message } => {
                let mut message = message.into_bytes();
                message.truncate(MAX_ERROR_LEN);
                (code, message)
            }
        };
        let mut chunk = vec![result];
        chunk.extend(packed(&body)?);
        io.write_all(&chunk).await
    }
}

/// Encodes a body as varint length and frames.
fn packed(body: &[u8]) -> io::Result<Vec<u8>> {
    crate::block_store::chunk_of(body)
}

async fn read_error<T: AsyncRead + Unpin + Send>(io: &mut T, code: u8) -> Response {
    let message = read_body(io, BodyLen::AtMost(MAX_ERROR_LEN)).await.unwrap_or_default();
    Response::Error { code, message: String::from_utf8_lossy(&message).into_owned() }
}

/// Reads blocks until the stream ends, until there are as many as were asked for, or until they
/// have more than [`MAX_RESPONSE_BYTES`]. What a peer sends beyond that is not read. If the stream
/// breaks after some blocks, these count.
async fn read_blocks<T: AsyncRead + Unpin + Send>(io: &mut T, n_wanted: usize) -> io::Result<Response> {
    let (mut blocks, mut n_bytes) = (Vec::new(), 0);
    while blocks.len() < n_wanted && n_bytes < MAX_RESPONSE_BYTES {
        let mut result = [0u8; 1];
        match io.read(&mut result).await {
            Ok(0) => break,
            Ok(_) if result[0] == 0 => {}
            Ok(_) if blocks.is_empty() => return Ok(read_error(io, result[0]).await),
            Err(error) if blocks.is_empty() => return Err(error),
            Ok(_) | Err(_) => break,
        }
        match read_block(io).await {
            Ok(block) => {
                n_bytes += block.ssz.len();
                blocks.push(block);
            }
            // A stream that was closed in the middle of a block may have been closed in good faith.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !blocks.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(if blocks.is_empty() { Response::Nothing } else { Response::Blocks(blocks) })
}

async fn read_block<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<BlockChunk> {
    let mut digest = [0u8; 4];
    io.read_exact(&mut digest).await?;
    let ssz = read_body(io, BodyLen::AtMost(MAX_BLOCK_LEN)).await?;
    Ok(BlockChunk { digest: ForkDigest(digest), ssz })
}

/// Sends blocks one by one. Only one of them is in memory at a time, however slowly the peer reads.
async fn write_blocks<T>(io: &mut T, protocol: Protocol, blocks: ServedBlocks) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let names_fork = matches!(protocol, Protocol::Data(DataProtocol::BlocksByRangeV2 | DataProtocol::BlocksByRootV2));
    for location in &blocks.blocks {
        let chunk = blocks.read(*location).await?;
        io.write_all(&[0]).await?;
        if names_fork {
            io.write_all(&location.digest.0).await?;
        }
        io.write_all(&chunk).await?;
    }
    Ok(())
}

/// Reads a body whose length is allowed. It takes frames from the stream one by one until they hold
/// that length. Then it decompresses them together and checks their checksums.
async fn read_body<T: AsyncRead + Unpin + Send>(io: &mut T, allowed: BodyLen) -> io::Result<Vec<u8>> {
    let len = unsigned_varint::aio::read_usize(&mut *io).await.map_err(|error| invalid(&error.to_string()))?;
    if !allowed.allows(len) {
        return Err(invalid("length is not that of the message"));
    }
    if len == 0 {
        return Ok(Vec::new());
    }
    let max_frames_len = max_frames_len(len);
    let (mut frames, mut held, mut idle) = (Vec::new(), 0, 0);
    while held < len {
        let start = frames.len();
        frames.resize(start + FRAME_HEAD_LEN, 0);
        io.read_exact(&mut frames[start..]).await?;
        let head = &frames[start..];
        let body_len = usize::from(head[1]) | usize::from(head[2]) << 8 | usize::from(head[3]) << 16;
        let kind = head[0];
        let body_start = frames.len();
        if body_len > MAX_FRAME_BODY || body_start + body_len > max_frames_len {
            return Err(invalid("snappy frame is too long"));
        }
        frames.resize(body_start + body_len, 0);
        io.read_exact(&mut frames[body_start..]).await?;
        let content = match (kind, frames.get(body_start + 4..)) {
            (0x00, Some(block)) => snap::raw::decompress_len(block).map_err(|error| invalid(&error.to_string()))?,
            (0x01, Some(plain)) => plain.len(),
            (0x80..=0xff, _) => 0,
            _ => return Err(invalid("unknown snappy frame")),
        };
        idle += usize::from(content == 0);
        held += content;
        if content > MAX_FRAME_CONTENT || held > len || idle > MAX_IDLE_FRAMES {
            return Err(invalid("snappy frames do not hold what their length says"));
        }
    }
    let mut body = Vec::with_capacity(len);
    snap::read::FrameDecoder::new(&frames[..]).take(len as u64 + 1).read_to_end(&mut body)?;
    if body.len() == len { Ok(body) } else { Err(invalid("snappy frames do not hold what their length says")) }
}

/// Greatest length of the frames of a body of `len` bytes. What a frame says it holds is not known
/// to be true before it is decompressed, so this bounds what is kept of a body.
///
/// Source: consensus-specs, `phase0/p2p-interface.md`, "Encoding strategies", `max_encoded_len`.
const fn max_frames_len(len: usize) -> usize {
    32 + len + len / 6 + FRAMES_ALLOWANCE * (1 + len / MAX_FRAME_CONTENT)
}

fn number(body: &[u8]) -> Option<u64> {
    body.try_into().ok().map(u64::from_le_bytes)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::super::messages::DataProtocol;
    use super::*;
    use consensus::{Checkpoint, Epoch, ForkDigest, Root, Slot};
    use futures::executor::block_on;
    use futures::io::Cursor;

    fn status() -> StatusMessage {
        StatusMessage {
            fork_digest: ForkDigest([1, 2, 3, 4]),
            finalized: Checkpoint { epoch: Epoch::new(7), root: Root::repeat_byte(9) },
            head_root: Root::repeat_byte(8),
            head_slot: Slot::new(70),
            earliest_available_slot: None,
        }
    }

    fn all() -> impl Iterator<Item = Protocol> {
        use Protocol::*;
        let ours = [StatusV1, StatusV2, Ping, MetadataV1, MetadataV2, MetadataV3, Goodbye];
        ours.into_iter().chain(DataProtocol::ALL.map(Data))
    }

    fn blocks(protocol: DataProtocol, query: BlockQuery) -> (Protocol, Request) {
        (Protocol::Data(protocol), Request::Blocks(protocol, query))
    }

    fn write_request(protocol: Protocol, request: Request) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        block_on(RpcCodec::default().write_request(&protocol, &mut out, request)).unwrap();
        out.into_inner()
    }

    fn write_response(protocol: Protocol, response: Response) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        block_on(RpcCodec::default().write_response(&protocol, &mut out, response)).unwrap();
        out.into_inner()
    }

    fn read_request(protocol: Protocol, bytes: &[u8]) -> io::Result<Request> {
        block_on(RpcCodec::default().read_request(&protocol, &mut Cursor::new(bytes)))
    }

    fn read_response(protocol: Protocol, bytes: &[u8]) -> io::Result<Response> {
        block_on(RpcCodec::default().read_response(&protocol, &mut Cursor::new(bytes)))
    }

    #[test]
    fn requests_and_responses_are_read_as_written() {
        let fulu = StatusMessage { earliest_available_slot: Some(Slot::new(5)), ..status() };
        let requests = [
            (Protocol::StatusV1, Request::Status(status())),
            (Protocol::StatusV2, Request::Status(fulu)),
            (Protocol::Ping, Request::Ping { seq_number: 3 }),
            (Protocol::Goodbye, Request::Goodbye { code: 250 }),
            (Protocol::MetadataV2, Request::Metadata),
            blocks(DataProtocol::BlocksByRangeV2, BlockQuery::Range { start: Slot::new(9), count: 16 }),
            blocks(DataProtocol::BlocksByRootV2, BlockQuery::Roots(vec![Root::repeat_byte(3), Root::repeat_byte(4)])),
        ];
        for (protocol, request) in requests {
            assert_eq!(read_request(protocol, &write_request(protocol, request.clone())).unwrap(), request);
        }
        let metadata = Metadata { seq_number: 1, attnets: [0xff; 8], syncnets: 0, custody_group_count: 0 };
        let responses = [
            (Protocol::StatusV1, Response::Status(status())),
            (Protocol::StatusV2, Response::Status(fulu)),
            (Protocol::Ping, Response::Pong { seq_number: 9 }),
            (Protocol::MetadataV1, Response::Metadata(metadata)),
            (Protocol::MetadataV2, Response::Metadata(Metadata { syncnets: 5, ..metadata })),
            (Protocol::MetadataV3, Response::Metadata(Metadata { syncnets: 5, custody_group_count: 4, ..metadata })),
            (Protocol::Data(DataProtocol::BlobsByRoot), Response::Nothing),
            (Protocol::Data(DataProtocol::BlobsByRange), Response::Error { code: 3, message: "no blocks here".into() }),
        ];
        for (protocol, response) in responses {
            assert_eq!(read_response(protocol, &write_response(protocol, response.clone())).unwrap(), response);
        }
    }

    /// The bytes of a ping as other clients write it: the length 8, then the stream identifier and
    /// one frame.
    #[test]
    fn a_ping_is_what_others_expect() {
        let bytes = write_request(Protocol::Ping, Request::Ping { seq_number: 0 });
        assert_eq!(bytes[0], 8);
        assert_eq!(&bytes[1..11], b"\xff\x06\x00\x00sNaPpY");
        assert_eq!(write_request(Protocol::MetadataV1, Request::Metadata), b"");
    }

    #[test]
    fn cut_and_changed_bytes_are_errors_and_never_panics() {
        for protocol in all() {
            let bytes = match protocol {
                Protocol::StatusV1 | Protocol::StatusV2 => write_request(protocol, Request::Status(status())),
                _ => write_request(Protocol::Ping, Request::Ping { seq_number: 1 }),
            };
            for cut in 0..bytes.len() {
                let read = read_request(protocol, &bytes[..cut]);
                assert!(read.is_err() || protocol.request_len() == BodyLen::Nothing, "{protocol:?} cut at {cut}");
                let _ = read_response(protocol, &bytes[..cut]);
            }
            for at in 0..bytes.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    let _ = read_request(protocol, &changed);
                    let _ = read_response(protocol, &changed);
                }
            }
        }
    }

    #[test]
    fn a_great_length_is_refused_before_anything_is_read() {
        let mut bytes = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
        bytes.extend([0u8; 64]);
        for data in DataProtocol::ALL {
            assert!(read_request(Protocol::Data(data), &bytes).unwrap_err().to_string().contains("length"), "{data:?}");
        }
        // Frames without content that never end.
        let mut idle = vec![8u8];
        for _ in 0..1000 {
            idle.extend(b"\xfe\x00\x00\x00");
        }
        assert!(read_request(Protocol::Ping, &idle).is_err());
    }

    #[test]
    fn no_more_is_read_than_a_body_of_this_length_can_need() {
        let read = |bytes: &[u8]| {
            let mut io = Cursor::new(bytes);
            let body = block_on(read_body(&mut io, BodyLen::AtMost(MAX_BLOCK_LEN)));
            (body, io.position() as usize)
        };
        // Each frame says that it holds one byte, and has 70 kB.
        let mut frame = vec![0u8; FRAME_HEAD_LEN + 70_000];
        frame[1..4].copy_from_slice(&70_000u32.to_le_bytes()[..3]);
        frame[8] = 1;
        let bytes = [&[0xe8u8, 0x07][..], &frame.repeat(1000)].concat();
        let (body, n_read) = read(&bytes);
        assert!(body.is_err() && n_read < 4096, "{n_read} bytes were read");
        // Whatever does not compress is read.
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(300_000)
        .collect();
        for len in [1, 8, 1000, 65_536, 65_537, 300_000] {
            assert_eq!(read(&packed(&noise[..len]).unwrap()).0.unwrap(), &noise[..len], "{len}");
        }
    }

    #[test]
    fn long_error_messages_are_cut() {
        let long = Response::Error { code: 3, message: "x".repeat(1000) };
        match read_response(Protocol::StatusV1, &write_response(Protocol::StatusV1, long)).unwrap() {
            Response::Error { message, .. } => assert_eq!(message.len(), MAX_ERROR_LEN),
            other => panic!("{other:?}"),
        }
    }
}
