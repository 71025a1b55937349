//! Writes zip files: deflated entries with names in UTF-8, no encryption, no extensions.
//!
//! Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory)
//! and 4.3.16 (its end). Limits: 65 535 files and 4 GiB.

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use std::fmt::Write as _;
use std::io::Write as _;

/// Version 2.0: deflate and folders.
const VERSION: u16 = 20;
/// The names are UTF-8.
const FLAGS: u16 = 1 << 11;
const DEFLATED: u16 = 8;
/// The first of January 1980, the earliest date of the format. The same contents give the same
/// bytes.
const DATE: u16 = 0x21;

/// A zip file that is being written.
pub(super) struct ZipFile {
    /// The folder in which everything is.
    folder: String,
    bytes: Vec<u8>,
    directory: Vec<u8>,
    n_files: u16,
    /// Lines of `SHA256SUMS`.
    sums: String,
}

impl ZipFile {
    pub fn new(folder: &str) -> Self {
        Self { folder: folder.to_owned(), bytes: Vec::new(), directory: Vec::new(), n_files: 0, sums: String::new() }
    }

    pub fn add(&mut self, name: &str, content: &[u8]) {
        let hash = consensus::Root::from(consensus::sha256(content)).to_string();
        let _ = writeln!(self.sums, "{}  {name}", hash.trim_start_matches("0x"));
        let name = format!("{}/{name}", self.folder);
        let mut sum = Crc::new();
        sum.update(content);
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        let packed = encoder.write_all(content).and_then(|()| encoder.finish()).expect("a Vec takes every byte");
        let offset = size(self.bytes.len());
        // What both headers have in common.
        let mut common = Vec::with_capacity(26);
        for field in [VERSION, FLAGS, DEFLATED, 0, DATE] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        for field in [sum.sum(), size(packed.len()), size(content.len())] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        for field in [name.len() as u16, 0] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        self.bytes.extend_from_slice(b"PK\x03\x04");
        self.bytes.extend_from_slice(&common);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(&packed);
        self.directory.extend_from_slice(b"PK\x01\x02");
        self.directory.extend_from_slice(&VERSION.to_le_bytes());
        self.directory.extend_from_slice(&common);
        // No comment, the first disk, no attributes.
        self.directory.extend_from_slice(&[0; 10]);
        self.directory.extend_from_slice(&offset.to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.n_files += 1;
    }

    /// Writes the directory and returns the file.
    /// Adds `SHA256SUMS` and ends the file.
    pub fn finish(mut self) -> Vec<u8> {
        let sums = std::mem::take(&mut self.sums);
        self.add("SHA256SUMS", sums.as_bytes());
        let (offset, length) = (size(self.bytes.len()), size(self.directory.len()));
        self.bytes.append(&mut self.directory);
        self.bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        for _ in 0..2 {
            self.bytes.extend_from_slice(&self.n_files.to_le_bytes());
        }
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes
    }
}

/// A length in the format. The limits of a pack keep it far below 4 GiB.
fn size(length: usize) -> u32 {
    u32::try_from(length).expect("a pack is smaller than 4 GiB")
}
