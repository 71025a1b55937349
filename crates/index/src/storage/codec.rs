//! Encodes and decodes the values of rows. Decoding never panics on foreign bytes: a value that is
//! too short or impossible gives `None`.

/// Reads from a value. Every read returns `None` if the value is too short.
pub(crate) struct ByteReader<'a>(pub &'a [u8]);

impl<'a> ByteReader<'a> {
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// LEB128, at most ten bytes.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).filter(|v| v >> shift == u64::from(byte & 0x7f))?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub fn varint_u32(&mut self) -> Option<u32> {
        self.varint()?.try_into().ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a number as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes ascending numbers as differences. The first number is written as it is; each later one is
/// written as the difference to its predecessor, minus one.
pub(crate) fn put_ascending(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>) {
    let mut next = 0u64;
    for number in numbers {
        put_varint(out, u64::from(number) - next);
        next = u64::from(number) + 1;
    }
}

/// Visits `n` ascending numbers.
pub(crate) fn read_ascending(reader: &mut ByteReader<'_>, n: u64, mut visit: impl FnMut(u32)) -> Option<()> {
    let mut next = 0u64;
    for _ in 0..n {
        let number = next.checked_add(reader.varint()?)?;
        visit(number.try_into().ok()?);
        next = number + 1;
    }
    Some(())
}

/// The ways in which a stretch can be written. The shortest one is used.
const FULL: u8 = 0;
const MISSING: u8 = 1;
const PRESENT: u8 = 2;
const RAW: u8 = 3;

/// Writes which of the numbers `0..len` are present. Number n is bit n of `words`, with the lowest
/// bit first. There are exactly as many words as `len` needs, and no bit beyond `len` is set.
pub(crate) fn put_stretch(out: &mut Vec<u8>, len: u32, words: &[u64]) {
    debug_assert_eq!(words.len(), len.div_ceil(64) as usize);
    let n_present: u32 = words.iter().map(|word| word.count_ones()).sum();
    let n_missing = len - n_present;
    let raw_len = len.div_ceil(8);
    if n_missing == 0 {
        put_varint(out, u64::from(FULL));
    } else if n_missing.min(n_present) > raw_len {
        put_varint(out, u64::from(RAW));
        out.extend(words.iter().flat_map(|word| word.to_le_bytes()).take(raw_len as usize));
    } else if n_missing < n_present {
        put_varint(out, u64::from(n_missing) << 2 | u64::from(MISSING));
        // Inverted bits beyond `len` come last and are not taken.
        put_ascending(out, ones(words.iter().map(|word| !word)).take(n_missing as usize));
    } else {
        put_varint(out, u64::from(n_present) << 2 | u64::from(PRESENT));
        put_ascending(out, ones(words.iter().copied()));
    }
}

/// The numbers of the bits that are set, in ascending order. Within a word the lowest bit comes
/// first.
pub(crate) fn ones(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    (0u32..).zip(words).flat_map(|(at, word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                at * 64 + bit
            })
        })
    })
}

/// Visits the numbers that are present in a stretch of `len` numbers, in ascending order.
pub(crate) fn read_stretch(reader: &mut ByteReader<'_>, len: u32, mut visit: impl FnMut(u32)) -> Option<()> {
    let head = reader.varint()?;
    match (head & 3) as u8 {
        FULL => (0..len).for_each(visit),
        MISSING => {
            let mut at = 0;
            let mut in_range = true;
            read_ascending(reader, head >> 2, |missing| {
                in_range &= missing < len;
                if in_range {
                    (at..missing).for_each(&mut visit);
                    at = missing + 1;
                }
            })?;
            in_range.then_some(())?;
            (at..len).for_each(visit);
        }
        PRESENT => {
            let mut in_range = true;
            read_ascending(reader, head >> 2, |at| {
                in_range &= at < len;
                if in_range {
                    visit(at);
                }
            })?;
            in_range.then_some(())?;
        }
        _ => {
            let bytes = reader.bytes(len.div_ceil(8) as usize)?;
            (0..len).filter(|at| bytes[*at as usize / 8] >> (at % 8) & 1 == 1).for_each(visit);
        }
    }
    Some(())
}

/// Whether `member` is present in a stretch of `len` numbers. Reads past the stretch at the cost of
/// its bytes, without decoding it.
pub(crate) fn stretch_has(reader: &mut ByteReader<'_>, len: u32, member: u32) -> Option<bool> {
    let head = reader.varint()?;
    let mut listed = false;
    let inside = member < len;
    Some(match (head & 3) as u8 {
        FULL => inside,
        MISSING => {
            read_ascending(reader, head >> 2, |at| listed |= at == member)?;
            inside && !listed
        }
        PRESENT => {
            read_ascending(reader, head >> 2, |at| listed |= at == member)?;
            inside && listed
        }
        _ => {
            let bytes = reader.bytes(len.div_ceil(8) as usize)?;
            inside && bytes[member as usize / 8] >> (member % 8) & 1 == 1
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn stretches_come_back(len in 0u32..600, seed: BTreeSet<u16>, invert: bool) {
            let present: Vec<u32> = (0..len).filter(|at| seed.contains(&(*at as u16)) != invert).collect();
            let mut words = vec![0u64; len.div_ceil(64) as usize];
            present.iter().for_each(|at| words[*at as usize / 64] |= 1 << (at % 64));
            prop_assert_eq!(ones(words.iter().copied()).collect::<Vec<_>>(), present.clone());
            let mut out = Vec::new();
            put_stretch(&mut out, len, &words);
            let mut back = Vec::new();
            let mut reader = ByteReader(&out);
            prop_assert_eq!(read_stretch(&mut reader, len, |at| back.push(at)), Some(()));
            prop_assert!(reader.is_empty());
            for member in 0..len + 3 {
                prop_assert_eq!(stretch_has(&mut ByteReader(&out), len, member), Some(present.contains(&member)));
            }
            prop_assert_eq!(back, present);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, len in 0u32..5000, n in 0u64..100) {
            let _ = read_stretch(&mut ByteReader(&bytes), len, |at| assert!(at < len));
            let _ = read_ascending(&mut ByteReader(&bytes), n, |_| ());
        }

        #[test]
        fn numbers_come_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = ByteReader(&out);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert!(reader.is_empty());
        }
    }
}
