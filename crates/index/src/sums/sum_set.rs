//! Sums. A sum is one signature over one attestation data, with exactly its signers. Sums are both
//! history and proof.
//!
//! A [`SumSet`] contains all sums over one data by members of one slot of one shuffling, or by
//! explicitly listed members. What the verifier proved arrives as sums. When the set is closed,
//! disjoint sums are added together, so that a committee ends up as one signature:
//!
//! ```text
//! in:  {1,4} s1    {2} s2    {4,5} s3    {1,2} s4      (s4 covers nobody new: dropped)
//! out: {1,2,4} s1+s2         {4,5} s3                  (s3 overlaps and only it proves 5: kept)
//! ```
//!
//! A sum over several committees cannot be divided. It is kept as a whole as long as it is the only
//! proof of some vote. It is dropped when the sums of the single committees cover it.
//!
//! Data with few votes are summed over all committees at once, which gives one signature and one
//! list instead of 64 rows. An example is another head, for which 1 % of the votes are spread over
//! nearly every committee.

use super::members::{Bits, SetMembers};
use crate::committees::Geometry;
use crate::storage::{
    ByteReader, SOURCE_BITS, SOURCE_BITS_BEFORE_4, SetKey, StoredFirstSeen, put_ascending, put_stretch, put_varint,
    read_ascending, read_stretch, stretch_has,
};
use blst::blst_p2;
use blst::min_pk::{AggregateSignature, Signature};
use consensus::SignatureBytes;
use verify::SourceKind;

/// Sums over several committees are merged up to this number of signers. An attestation of any fork
/// can contain them.
const MAX_MERGED_MEMBERS: u32 = 2048;
/// A data is summed over all committees if its votes are less than one in this many of its slot's
/// seats.
const MINORITY: u32 = 8;
/// A set with more unmerged sums than this is merged before it is closed. So many take about 2 MB.
const MAX_UNMERGED: usize = 8192;

/// The first bytes of a row since format 4. A row of an earlier format begins with its number of
/// sums, and one without sums consists of two zeros. So no such row begins with these bytes. Rows
/// are not rewritten when an index of an earlier format is opened; each keeps its format until it
/// is written again.
const ROW_MARK: [u8; 2] = [0, 1];

/// One signature with exactly its signers.
#[derive(Clone, Debug)]
pub(crate) struct Sum {
    pub members: SetMembers,
    pub n_members: u32,
    /// The committee, if all members are in the same one.
    pub committee: Option<u16>,
    pub signature: SignatureBytes,
    pub heard: StoredFirstSeen,
}

/// All sums over one data that name their members in the same way.
#[derive(Clone, Debug)]
pub(crate) struct SumSet {
    pub sums: Vec<Sum>,
    covered: SetMembers,
    /// Number of sums that were added since the last merge.
    n_unmerged: usize,
    /// True if the row on disk differs from this set or there is no row.
    pub changed: bool,
    pub on_disk: bool,
    /// The sums that were added since the last commit, unchanged. They are written to the log,
    /// unless the row is written at once.
    pub staged: Vec<Sum>,
    /// Sequence number of the first log entry that contains a part of this set.
    pub logged_from: Option<u64>,
    /// The commit at which something was last added to the set.
    pub touched: u64,
}

impl SumSet {
    /// An empty set, for members with seats or for listed members.
    pub fn new(seated: bool) -> Self {
        let covered = if seated { SetMembers::Seats(Bits::default()) } else { SetMembers::Listed(Vec::new()) };
        Self {
            sums: Vec::new(),
            covered,
            n_unmerged: 0,
            changed: false,
            on_disk: false,
            staged: Vec::new(),
            logged_from: None,
            touched: 0,
        }
    }

    /// Whether the set contains the same as its row and no part of it is in the log.
    pub fn is_copy_of_row(&self) -> bool {
        self.on_disk && !self.changed && self.staged.is_empty() && self.logged_from.is_none()
    }

    /// Whether any sum contains `member`.
    pub fn covers(&self, member: u32) -> bool {
        self.covered.contains(member)
    }

    /// Whether it is certain that none of `members` is covered. The check is cheap for a committee,
    /// whatever is covered in the rest of its slot. Lists are not compared, so for a list the
    /// result is true only if nothing is covered.
    pub fn covers_none(&self, members: &SetMembers) -> bool {
        match members {
            SetMembers::Seats(_) => members.is_disjoint(&self.covered),
            SetMembers::Listed(_) => self.covered == SetMembers::Listed(Vec::new()),
        }
    }

    /// The members that no sum covers yet, in ascending order.
    pub fn without_covered(&self, members: &SetMembers) -> Vec<u32> {
        members.without(&self.covered)
    }

    pub fn covers_all(&self, members: &SetMembers) -> bool {
        members.is_subset(&self.covered)
    }

    pub fn n_covered(&self) -> u32 {
        self.covered.len()
    }

    /// The index of the smallest sum that contains `member`.
    pub fn proof_of(&self, member: u32) -> Option<usize> {
        let with = self.sums.iter().enumerate().filter(|(_, sum)| sum.members.contains(member));
        with.min_by_key(|(_, sum)| sum.n_members).map(|(at, _)| at)
    }

    /// Adds a sum that covers somebody new, and keeps it for the next commit.
    pub fn stage(&mut self, sum: Sum) {
        self.staged.push(sum.clone());
        self.add(sum);
    }

    /// Adds a sum that covers somebody new and is already on disk.
    pub fn add(&mut self, mut sum: Sum) {
        self.covered.union_with(&sum.members);
        self.sums.retain(|old| {
            let replaced = old.committee == sum.committee && old.members.is_subset(&sum.members);
            if replaced {
                sum.heard = sum.heard.earlier(old.heard);
            }
            !replaced
        });
        self.sums.push(sum);
        self.n_unmerged += 1;
        self.changed = true;
    }

    /// Whether the set has so many unmerged sums that it must be merged before it is closed.
    pub fn wants_merging(&self) -> bool {
        self.n_unmerged > MAX_UNMERGED
    }

    /// Adds disjoint sums together and drops sums that are covered by others. `slot_len` is the
    /// number of seats in the slot, or 0 for listed members.
    pub fn merge(&mut self, slot_len: u32) {
        if self.n_unmerged == 0 {
            return;
        }
        self.n_unmerged = 0;
        self.sums.sort_by_key(|sum| (sum.committee, u32::MAX - sum.n_members));
        let mut merged: Vec<Sum> = Vec::with_capacity(self.sums.len());
        let mut sums = std::mem::take(&mut self.sums).into_iter().peekable();
        while let Some(first) = sums.next() {
            let committee = first.committee;
            let mut group = vec![first];
            while let Some(next) = sums.next_if(|next| next.committee == committee) {
                group.push(next);
            }
            let bound = if committee.is_some() { u32::MAX } else { MAX_MERGED_MEMBERS };
            merge_group(group, bound, &mut merged);
        }
        if merged.len() > 1 && slot_len > 0 && self.covered.len() < slot_len / MINORITY {
            merged.sort_by_key(|sum| u32::MAX - sum.n_members);
            let group = std::mem::take(&mut merged);
            merge_group(group, MAX_MERGED_MEMBERS, &mut merged);
        }
        drop_covered(&mut merged);
        merged.sort_by_key(|sum| sum.committee);
        self.sums = merged;
    }

    /// Adds all disjoint sums together, also of different committees, to get as few signatures as
    /// possible.
    pub fn fold(&mut self) {
        let mut group = std::mem::take(&mut self.sums);
        group.sort_by_key(|sum| u32::MAX - sum.n_members);
        let mut merged = Vec::new();
        merge_group(group, u32::MAX, &mut merged);
        drop_covered(&mut merged);
        self.sums = merged;
        self.changed = true;
    }

    /// Writes the row: [`ROW_MARK`], then committees, members, arrivals and signatures, each for
    /// all sums.
    pub fn encode(&self, key: &SetKey, geometry: Option<&Geometry>) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.sums.len() * 112);
        let base_ns = self.sums.iter().map(|sum| sum.heard.at_ns).min().unwrap_or(0);
        out.extend_from_slice(&ROW_MARK);
        put_varint(&mut out, self.sums.len() as u64);
        put_varint(&mut out, base_ns);
        let mut next = 0;
        for sum in &self.sums {
            // The committees are mostly 0, 1, 2, ..., so the number written here is mostly the
            // same.
            let number = sum.committee.map_or(0, |committee| u64::from(committee) + 1);
            put_varint(&mut out, if number >= next { (number - next) << 1 } else { number << 1 | 1 });
            next = number;
        }
        self.sums.iter().for_each(|sum| put_members(&mut out, sum, key, geometry));
        for sum in &self.sums {
            put_varint(&mut out, (sum.heard.at_ns - base_ns) / 1000);
        }
        for sum in &self.sums {
            put_varint(&mut out, sum.heard.packed());
        }
        self.sums.iter().for_each(|sum| out.extend_from_slice(sum.signature.as_slice()));
        out
    }

    /// Reads a row. `None` if it does not parse.
    pub fn decode(value: &[u8], key: &SetKey, geometry: Option<&Geometry>) -> Option<Self> {
        let RowHead { mut reader, numbers, base_ns, source_bits } = read_head(value)?;
        let mut set = Self::new(key.shuffling.is_some());
        for number in &numbers {
            let committee = number.checked_sub(1);
            let members = read_members(&mut reader, committee, key, geometry)?;
            let n_members = members.len();
            let heard = StoredFirstSeen { at_ns: base_ns, source: SourceKind::Gossip, peer: 0 };
            set.sums.push(Sum { members, n_members, committee, signature: SignatureBytes::ZERO, heard });
        }
        for sum in &mut set.sums {
            sum.heard.at_ns = base_ns.checked_add(reader.varint()?.checked_mul(1000)?)?;
        }
        for sum in &mut set.sums {
            sum.heard = StoredFirstSeen::unpack(sum.heard.at_ns, reader.varint()?, source_bits)?;
        }
        for sum in &mut set.sums {
            sum.signature = SignatureBytes::from(reader.array::<96>()?);
        }
        // Earlier versions added up signatures of opposite keys. Such a sum proves nobody's vote
        // and is dropped. If the vote is received again, it is stored with its proof.
        set.sums.retain(|sum| !is_infinity(&sum.signature));
        set.sums.iter().for_each(|sum| set.covered.union_with(&sum.members));
        set.on_disk = true;
        reader.is_empty().then_some(set)
    }
}

/// Whether a stored row covers `member`. The row is not decoded completely; other committees are
/// skipped.
pub(crate) fn row_covers(value: &[u8], key: &SetKey, geometry: Option<&Geometry>, member: u32) -> Option<bool> {
    let RowHead { mut reader, numbers, .. } = read_head(value)?;
    for number in numbers {
        let (start, len) = span(number.checked_sub(1), key, geometry)?;
        let found = match geometry {
            Some(_) => stretch_has(&mut reader, len, member.wrapping_sub(start))?,
            None => {
                let n = reader.varint()?;
                let mut found = false;
                read_ascending(&mut reader, n, |listed| found |= listed == member)?;
                found
            }
        };
        if found {
            return Some(true);
        }
    }
    Some(false)
}

/// Writes one sum as a record of the log.
pub(crate) fn put_record(out: &mut Vec<u8>, sum: &Sum, key: &SetKey, geometry: Option<&Geometry>) {
    put_varint(out, sum.committee.map_or(0, |committee| u64::from(committee) + 1));
    put_members(out, sum, key, geometry);
    put_varint(out, sum.heard.at_ns);
    put_varint(out, sum.heard.packed());
    out.extend_from_slice(sum.signature.as_slice());
}

/// Reads one sum from a record of the log, in which the source has `source_bits` bits.
pub(crate) fn read_record(
    reader: &mut ByteReader<'_>,
    key: &SetKey,
    geometry: Option<&Geometry>,
    source_bits: u32,
) -> Option<Sum> {
    let committee = u16::try_from(reader.varint()?).ok()?.checked_sub(1);
    let members = read_members(reader, committee, key, geometry)?;
    let n_members = members.len();
    let at_ns = reader.varint()?;
    let heard = StoredFirstSeen::unpack(at_ns, reader.varint()?, source_bits)?;
    let signature = SignatureBytes::from(reader.array::<96>()?);
    Some(Sum { members, n_members, committee, signature, heard })
}

/// The beginning of a row.
struct RowHead<'a> {
    /// What follows.
    reader: ByteReader<'a>,
    /// The committee of each sum + 1, or 0 for several committees.
    numbers: Vec<u16>,
    base_ns: u64,
    source_bits: u32,
}

fn read_head(value: &[u8]) -> Option<RowHead<'_>> {
    let (mut reader, source_bits) = match value.strip_prefix(&ROW_MARK) {
        Some(rest) => (ByteReader(rest), SOURCE_BITS),
        None => (ByteReader(value), SOURCE_BITS_BEFORE_4),
    };
    // Each sum takes at least the bytes of its signature, which bounds what is allocated.
    let n_sums = reader.varint().filter(|n| *n <= value.len() as u64 / 96)?;
    let base_ns = reader.varint()?;
    let mut numbers = Vec::with_capacity(n_sums as usize);
    let mut next = 0u64;
    for _ in 0..n_sums {
        let word = reader.varint()?;
        next = if word & 1 == 0 { next.checked_add(word >> 1)? } else { word >> 1 };
        numbers.push(u16::try_from(next).ok()?);
    }
    Some(RowHead { reader, numbers, base_ns, source_bits })
}

/// Start and length of the stretch of positions in which a sum's members lie. (0, 0) for listed
/// members.
fn span(committee: Option<u16>, key: &SetKey, geometry: Option<&Geometry>) -> Option<(u32, u32)> {
    let Some(geometry) = geometry else { return Some((0, 0)) };
    match committee {
        None => Some((0, geometry.slot_len(key.slot))),
        Some(committee) if u64::from(committee) < geometry.committees_per_slot => {
            Some(geometry.committee_span(key.slot, committee))
        }
        Some(_) => None,
    }
}

fn put_members(out: &mut Vec<u8>, sum: &Sum, key: &SetKey, geometry: Option<&Geometry>) {
    match &sum.members {
        SetMembers::Seats(bits) => {
            let (start, len) = span(sum.committee, key, geometry).expect("seated members were placed by this geometry");
            let words: Vec<u64> = bits.stretch(start, len).collect();
            put_stretch(out, len, &words);
        }
        SetMembers::Listed(list) => {
            put_varint(out, list.len() as u64);
            put_ascending(out, list.iter().copied());
        }
    }
}

fn read_members(
    reader: &mut ByteReader<'_>,
    committee: Option<u16>,
    key: &SetKey,
    geometry: Option<&Geometry>,
) -> Option<SetMembers> {
    let (start, len) = span(committee, key, geometry)?;
    if geometry.is_some() {
        let mut bits = Bits::with_span(start, len);
        read_stretch(reader, len, |at| bits.insert(start + at))?;
        return Some(SetMembers::Seats(bits));
    }
    let n = reader.varint()?;
    let mut list = Vec::new();
    read_ascending(reader, n, |member| list.push(member))?;
    Some(SetMembers::Listed(list))
}

/// Adds disjoint sums of `group` (ordered with the largest first) together, and appends the
/// resulting sums to `out`.
fn merge_group(group: Vec<Sum>, bound: u32, out: &mut Vec<Sum>) {
    let begin = out.len();
    let mut totals: Vec<Option<AggregateSignature>> = Vec::new();
    for sum in group {
        let place = out[begin..]
            .iter()
            .position(|into| into.n_members.saturating_add(sum.n_members) <= bound && into.members.is_disjoint(&sum.members));
        match place {
            Some(place) if add_signature(&mut totals[place], &out[begin + place].signature, &sum.signature) => {
                let into = &mut out[begin + place];
                into.members.union_with(&sum.members);
                into.n_members += sum.n_members;
                into.committee = into.committee.filter(|_| into.committee == sum.committee);
                into.heard = into.heard.earlier(sum.heard);
            }
            Some(_) => {
                totals.push(None);
                out.push(sum);
            }
            None => match out[begin..].iter_mut().find(|into| sum.members.is_subset(&into.members)) {
                Some(into) => into.heard = into.heard.earlier(sum.heard),
                None => {
                    totals.push(None);
                    out.push(sum);
                }
            },
        }
    }
    for (sum, total) in out[begin..].iter_mut().zip(totals) {
        if let Some(total) = total {
            sum.signature = SignatureBytes::from(total.to_signature().to_bytes());
        }
    }
}

/// Adds a proven signature to a total that begins with `first`. Returns `false` and changes nothing
/// if the sums must stay apart, because:
/// - their sum is the point at infinity, as with opposite keys. Each of them proves its signers,
///   but together they prove nothing;
/// - the bytes are not a point. Then they were not proven by our verifier.
///
/// The groups of both signatures were checked when they were proven.
fn add_signature(total: &mut Option<AggregateSignature>, first: &SignatureBytes, more: &SignatureBytes) -> bool {
    let Ok(more) = Signature::from_bytes(more.as_slice()) else { return false };
    let before =
        total.or_else(|| Signature::from_bytes(first.as_slice()).ok().map(|first| AggregateSignature::from_signature(&first)));
    let Some(mut sum) = before else { return false };
    if sum.add_signature(&more, false).is_err() || blst_p2::from(sum) == blst_p2::default() {
        return false;
    }
    *total = Some(sum);
    true
}

/// Whether this is the compressed point at infinity, which is nobody's signature.
fn is_infinity(signature: &SignatureBytes) -> bool {
    matches!(signature.as_slice(), [0xc0, rest @ ..] if rest.iter().all(|byte| *byte == 0))
}

/// Drops sums over several committees if all their members are covered by sums of single
/// committees.
fn drop_covered(sums: &mut Vec<Sum>) {
    if sums.iter().all(|sum| sum.committee.is_some()) {
        return;
    }
    let mut own = SetMembers::Seats(Bits::default());
    for sum in sums.iter().filter(|sum| sum.committee.is_some()) {
        own.union_with(&sum.members);
    }
    let (kept, dropped): (Vec<Sum>, Vec<Sum>) =
        std::mem::take(sums).into_iter().partition(|sum| sum.committee.is_some() || !sum.members.is_subset(&own));
    *sums = kept;
    for sum in sums.iter_mut().filter(|sum| sum.committee.is_some()) {
        let covered = dropped.iter().filter(|dropped| !dropped.members.is_disjoint(&sum.members));
        sum.heard = covered.fold(sum.heard, |earliest, dropped| earliest.earlier(dropped.heard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source_number;
    use consensus::Epoch;

    /// A row with one sum of each source, each by one listed validator.
    fn row(sources: impl Iterator<Item = SourceKind>) -> SumSet {
        let mut set = SumSet::new(false);
        for (nth, source) in (0u32..).zip(sources) {
            set.add(Sum {
                members: SetMembers::Listed(vec![nth]),
                n_members: 1,
                committee: None,
                signature: SignatureBytes::repeat_byte(nth as u8 + 1),
                heard: StoredFirstSeen { at_ns: 5_000 + 1_000 * u64::from(nth), source, peer: 70_000 - nth },
            });
        }
        set
    }

    fn first_seen(set: &SumSet) -> Vec<StoredFirstSeen> {
        set.sums.iter().map(|sum| sum.heard).collect()
    }

    #[test]
    fn every_source_comes_back_from_a_row_and_from_the_log() {
        let (key, set) = (SetKey::listed(Epoch::new(9), 3), row(SourceKind::ALL.into_iter()));
        let read = SumSet::decode(&set.encode(&key, None), &key, None).unwrap();
        assert_eq!(first_seen(&read), first_seen(&set));
        for sum in &set.sums {
            let mut record = Vec::new();
            put_record(&mut record, sum, &key, None);
            let read = read_record(&mut ByteReader(&record), &key, None, SOURCE_BITS).unwrap();
            assert_eq!(read.heard, sum.heard);
        }
        let source_9 = 70_000 << SOURCE_BITS | 7;
        assert_eq!(StoredFirstSeen::unpack(1, source_9, SOURCE_BITS), None, "no source has this number");
    }

    /// Before format 4 a row had no mark, and the source had two bits.
    #[test]
    fn a_row_of_an_earlier_format_is_read_with_its_sources() {
        let (key, set) = (SetKey::listed(Epoch::new(9), 3), row(SourceKind::ALL.into_iter()));
        let n_sums = set.sums.len();
        let mut old = Vec::new();
        put_varint(&mut old, n_sums as u64);
        put_varint(&mut old, 5_000);
        (0..n_sums).for_each(|_| put_varint(&mut old, 0));
        set.sums.iter().for_each(|sum| put_members(&mut old, sum, &key, None));
        (0..n_sums as u64).for_each(|nth| put_varint(&mut old, nth));
        for sum in &set.sums {
            put_varint(&mut old, u64::from(sum.heard.peer) << 2 | u64::from(source_number(sum.heard.source)));
        }
        set.sums.iter().for_each(|sum| old.extend_from_slice(sum.signature.as_slice()));
        let read = SumSet::decode(&old, &key, None).unwrap();
        assert_eq!(first_seen(&read), first_seen(&set));
        assert_eq!((row_covers(&old, &key, None, 3), row_covers(&old, &key, None, 4)), (Some(true), Some(false)));
        assert!(SumSet::decode(&[0, 0], &key, None).unwrap().sums.is_empty(), "an earlier row without sums");
    }
}
