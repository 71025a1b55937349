//! Reading of an entry's data: framed snappy (states, blocks) and plain bytes. The bounds hold
//! whatever length the data claims.

use std::io::{self, Read};

/// The result of reading an entry's data to its end.
pub(super) enum Body {
    Whole(Vec<u8>),
    /// The entry has its full length, but its content is invalid.
    Bad(String),
    /// The input ended inside the entry, after this many bytes of its data.
    Cut(u64),
}

/// Reads `len` bytes. Memory grows with the bytes that arrive, not with `len`.
pub(super) fn read_plain(input: &mut impl Read, len: u64) -> io::Result<Body> {
    let mut bytes = Vec::with_capacity(len.min(FIRST_ALLOCATION) as usize);
    let have = input.take(len).read_to_end(&mut bytes)? as u64;
    Ok(if have < len { Body::Cut(have) } else { Body::Whole(bytes) })
}

/// Decompresses `len` bytes of framed snappy into at most `limit` bytes. It holds one compressed
/// frame of 64 kB at a time.
pub(super) fn read_framed(input: &mut impl Read, len: u64, limit: u64) -> io::Result<Body> {
    let mut packed = input.take(len);
    let mut bytes = Vec::with_capacity(len.min(FIRST_ALLOCATION) as usize);
    let unpacked = snap::read::FrameDecoder::new(&mut packed).take(limit + 1).read_to_end(&mut bytes);
    // Skip what the decoder left, up to the entry's end, and check that the input is long enough.
    let rest = packed.limit();
    let skipped = io::copy(&mut packed, &mut io::sink())?;
    if skipped < rest {
        return Ok(Body::Cut(len - rest + skipped));
    }
    Ok(match unpacked {
        Ok(_) if bytes.len() as u64 > limit => Body::Bad(format!("unpacks to more than {limit} bytes")),
        Ok(_) => Body::Whole(bytes),
        Err(error) => Body::Bad(format!("is not framed snappy: {error}")),
    })
}

/// Skips `len` bytes. Returns how many bytes the input had.
pub(super) fn skip(input: &mut impl Read, len: u64) -> io::Result<u64> {
    io::copy(&mut input.take(len), &mut io::sink())
}

/// Greatest number of bytes that are allocated before any data has arrived.
const FIRST_ALLOCATION: u64 = 64 << 10;
