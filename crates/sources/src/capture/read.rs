//! Reading of capture files: an iterator over entries, and a file that can be read more than once.

use super::frame::{self, Body};
use super::{
    ApiEventEntry, CaptureError, Damage, Entry, EntryType, GossipEntry, HEADER_LEN, MAX_BLOCK_LEN, MAX_STATE_LEN, PeerEventEntry,
};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use verify::Time;

/// An entry and the offset in bytes where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    pub offset: u64,
    pub entry: Entry,
}

/// Iterates over the entries of any reader. The iterator ends after an error that is not
/// recoverable.
#[derive(Debug)]
pub struct CaptureReader<R> {
    input: R,
    path: Option<PathBuf>,
    /// Where the next entry begins.
    offset: u64,
    ended: bool,
    n_unknown: u64,
}

impl<R: Read> CaptureReader<R> {
    pub fn new(input: R) -> Self {
        Self { input, path: None, offset: 0, ended: false, n_unknown: 0 }
    }

    /// Adds the file's path to errors.
    pub fn with_path(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Offset in bytes of the next entry. Everything before it has been read. After a damaged tail,
    /// this is where the damage begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of entries read so far whose type is unknown.
    pub fn n_unknown(&self) -> u64 {
        self.n_unknown
    }

    fn read_next(&mut self) -> Result<Option<Entry>, Damage> {
        let Some((entry_type, len)) = self.read_header()? else { return Ok(None) };
        let body = match entry_type {
            EntryType::STATE => frame::read_framed(&mut self.input, len, MAX_STATE_LEN)?,
            EntryType::BLOCK => frame::read_framed(&mut self.input, len, MAX_BLOCK_LEN)?,
            EntryType::CONFIG | EntryType::GOSSIP | EntryType::PEER_EVENT | EntryType::API_EVENT => {
                frame::read_plain(&mut self.input, len)?
            }
            _ => match frame::skip(&mut self.input, len)? {
                have if have < len => Body::Cut(have),
                _ => Body::Whole(Vec::new()),
            },
        };
        let bytes = match body {
            Body::Whole(bytes) => bytes,
            Body::Cut(have) => return Err(Damage::CutEntry { entry_type, wanted: len, have }),
            Body::Bad(reason) => {
                self.offset += HEADER_LEN + len;
                return Err(Damage::BadEntry { entry_type, reason });
            }
        };
        self.offset += HEADER_LEN + len;
        self.interpret(entry_type, len as u32, bytes).map(Some).map_err(|reason| Damage::BadEntry { entry_type, reason })
    }

    /// Reads the type and length of the next entry. Returns `None` at the end of the file.
    fn read_header(&mut self) -> Result<Option<(EntryType, u64)>, Damage> {
        let mut header = [0u8; HEADER_LEN as usize];
        let have = read_up_to(&mut self.input, &mut header)?;
        if self.offset == 0 {
            match have {
                0 => return Err(Damage::Empty),
                _ if header[..have] != VERSION_ENTRY[..have] => {
                    return Err(Damage::NotE2store { found: header[..have].to_vec() });
                }
                _ => {}
            }
        }
        match have {
            0 => return Ok(None),
            8 => {}
            _ => return Err(Damage::CutHeader { have: have as u64 }),
        }
        let [type_0, type_1, len @ .., reserved_0, reserved_1] = header;
        let entry_type = EntryType([type_0, type_1]);
        if [reserved_0, reserved_1] != [0, 0] {
            return Err(Damage::Reserved { found: [reserved_0, reserved_1] });
        }
        let (claimed, limit) = (u64::from(u32::from_le_bytes(len)), entry_type.max_len());
        if claimed > limit {
            return Err(Damage::TooLong { entry_type, claimed, limit });
        }
        Ok(Some((entry_type, claimed)))
    }

    fn interpret(&mut self, entry_type: EntryType, len: u32, bytes: Vec<u8>) -> Result<Entry, String> {
        Ok(match entry_type {
            EntryType::VERSION => Entry::Version,
            EntryType::CONFIG => Entry::Config(String::from_utf8(bytes).map_err(|error| error.to_string())?),
            EntryType::STATE => Entry::State(bytes),
            EntryType::BLOCK => Entry::Block(bytes),
            EntryType::GOSSIP => Entry::Gossip(gossip(&bytes)?),
            EntryType::PEER_EVENT => Entry::PeerEvent(peer_event(&bytes)?),
            EntryType::API_EVENT => Entry::ApiEvent(api_event(&bytes)?),
            EntryType::EMPTY | EntryType::SLOT_INDEX => Entry::Skipped { entry_type, len },
            _ => {
                self.n_unknown += 1;
                Entry::Skipped { entry_type, len }
            }
        })
    }
}

impl<R: Read> Iterator for CaptureReader<R> {
    type Item = Result<Located, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let offset = self.offset;
        match self.read_next() {
            Ok(Some(entry)) => Some(Ok(Located { offset, entry })),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(damage) => {
                let error = CaptureError { path: self.path.clone(), offset, damage };
                self.ended = !error.is_recoverable();
                Some(Err(error))
            }
        }
    }
}

/// The Version entry, which begins every e2store file. It alone identifies the format.
const VERSION_ENTRY: [u8; 8] = [0x65, 0x32, 0, 0, 0, 0, 0, 0];

impl CaptureReader<BufReader<File>> {
    /// Seeks over the next entry of a file with `end` bytes, without reading its data.
    fn leap(&mut self, end: u64) -> Result<Option<EntryType>, Damage> {
        let Some((entry_type, wanted)) = self.read_header()? else { return Ok(None) };
        let have = end.saturating_sub(self.offset + HEADER_LEN);
        if have < wanted {
            return Err(Damage::CutEntry { entry_type, wanted, have });
        }
        self.input.seek_relative(wanted as i64)?;
        self.offset += HEADER_LEN + wanted;
        Ok(Some(entry_type))
    }
}

/// A capture or ERA file on disk.
#[derive(Debug)]
pub struct CaptureFile {
    path: PathBuf,
}

impl CaptureFile {
    /// Opens a file and checks that it is an e2store file. Empty files and files of other formats
    /// are errors.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = Self { path: path.to_owned() };
        match file.entries()?.next() {
            Some(Ok(_)) => Ok(file),
            Some(Err(error)) => Err(error),
            None => Err(file.error(0, Damage::Empty)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns all entries, from the beginning.
    pub fn entries(&self) -> Result<CaptureReader<BufReader<File>>, CaptureError> {
        let file = File::open(&self.path).map_err(|error| self.error(0, Damage::Io(error)))?;
        Ok(CaptureReader::new(BufReader::with_capacity(READ_BUFFER, file)).with_path(&self.path))
    }

    /// Returns the first config, wherever it is. An ERA file has none.
    pub fn first_config(&self) -> Result<Option<String>, CaptureError> {
        Ok(self.find(EntryType::CONFIG)?.and_then(|located| match located.entry {
            Entry::Config(text) => Some(text),
            _ => None,
        }))
    }

    /// Returns the SSZ of the first state, wherever it is. An ERA file has its state near the end,
    /// before the slot indices. Damage after the state is not reported here, but by
    /// [`CaptureFile::entries`]. Damage before it is an error here too.
    pub fn first_state(&self) -> Result<Option<Vec<u8>>, CaptureError> {
        Ok(self.find(EntryType::STATE)?.and_then(|located| match located.entry {
            Entry::State(ssz) => Some(ssz),
            _ => None,
        }))
    }

    fn find(&self, wanted: EntryType) -> Result<Option<Located>, CaptureError> {
        self.each(wanted)?.next().transpose()
    }

    /// Returns all entries of a type, by seeking from header to header. The iterator ends without
    /// an error at a tail that ends inside an entry. It skips an entry that is damaged inside and
    /// continues with the next one of its type. [`CaptureFile::entries`] reports such damage.
    pub fn each(&self, wanted: EntryType) -> Result<impl Iterator<Item = Result<Located, CaptureError>>, CaptureError> {
        let mut reader = self.entries()?;
        let end = reader.input.get_ref().metadata().map_err(|error| self.error(0, Damage::Io(error)))?.len();
        let mut ended = false;
        Ok(std::iter::from_fn(move || {
            let found = if ended { None } else { self.next_of(&mut reader, wanted, end).transpose() };
            ended = !matches!(found, Some(Ok(_)));
            found
        }))
    }

    fn next_of(
        &self,
        reader: &mut CaptureReader<BufReader<File>>,
        wanted: EntryType,
        end: u64,
    ) -> Result<Option<Located>, CaptureError> {
        loop {
            let offset = reader.offset;
            match reader.leap(end) {
                Ok(Some(found)) if found == wanted => {
                    let back = reader.input.seek(SeekFrom::Start(offset));
                    back.map_err(|error| self.error(offset, Damage::Io(error)))?;
                    reader.offset = offset;
                    match reader.next() {
                        Some(Err(error)) if error.is_recoverable() => {}
                        found => return found.transpose(),
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(Damage::CutHeader { .. } | Damage::CutEntry { .. }) => return Ok(None),
                Err(damage) => return Err(self.error(offset, damage)),
            }
        }
    }

    fn error(&self, offset: u64, damage: Damage) -> CaptureError {
        CaptureError { path: Some(self.path.clone()), offset, damage }
    }
}

const READ_BUFFER: usize = 1 << 20;

/// Fills `buffer` until it is full or the input ends. Returns the number of bytes that were read.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match input.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// Takes fields from the front of an entry's data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        let (field, rest) = self.0.split_at_checked(n).ok_or_else(|| format!("it ends inside its {what}"))?;
        self.0 = rest;
        Ok(field)
    }

    fn u8(&mut self, what: &str) -> Result<u8, String> {
        Ok(self.bytes(1, what)?[0])
    }

    fn u16(&mut self, what: &str) -> Result<u16, String> {
        let mut le = [0u8; 2];
        le.copy_from_slice(self.bytes(2, what)?);
        Ok(u16::from_le_bytes(le))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        let mut le = [0u8; 8];
        le.copy_from_slice(self.bytes(8, what)?);
        Ok(u64::from_le_bytes(le))
    }

    fn text(&mut self, n: usize, what: &str) -> Result<String, String> {
        let bytes = self.bytes(n, what)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| format!("its {what} is not UTF-8"))?.to_owned())
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

fn gossip(bytes: &[u8]) -> Result<GossipEntry, String> {
    let mut fields = Fields(bytes);
    let received_at = Time(fields.u64("time")?);
    let peer_len = fields.u8("peer length")?;
    let peer = fields.bytes(peer_len.into(), "peer id")?.to_vec();
    let topic_len = fields.u16("topic length")?;
    let topic = fields.text(topic_len.into(), "topic")?;
    Ok(GossipEntry { received_at, peer, topic, payload: fields.rest().to_vec() })
}

fn peer_event(bytes: &[u8]) -> Result<PeerEventEntry, String> {
    let mut fields = Fields(bytes);
    let at = Time(fields.u64("time")?);
    let json = serde_json::from_slice(fields.rest()).map_err(|error| format!("its JSON: {error}"))?;
    Ok(PeerEventEntry { at, json })
}

fn api_event(bytes: &[u8]) -> Result<ApiEventEntry, String> {
    let mut fields = Fields(bytes);
    let at = Time(fields.u64("time")?);
    let node_len = fields.u16("node length")?;
    let node = fields.text(node_len.into(), "node")?;
    let topic_len = fields.u16("topic length")?;
    let topic = fields.text(topic_len.into(), "event topic")?;
    let rest = fields.0.len();
    let json = fields.text(rest, "JSON")?;
    Ok(ApiEventEntry { at, node, topic, json })
}
