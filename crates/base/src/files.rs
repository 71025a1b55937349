//! Reading files that users name. What a path leads to is not known before, so each read has a
//! bound.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Reads a regular file of at most `limit` bytes, also if it grows meanwhile.
///
/// # Errors
/// The file cannot be read, or it is longer. Something that is no regular file is refused: a pipe
/// could keep the reader waiting for ever, and a device may have no end.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file; give the path of a file"));
    }
    if metadata.len() > limit {
        return Err(too_long(limit));
    }
    read_bounded(File::open(path)?, limit)
}

/// Same as [`read_file`], for text.
///
/// # Errors
/// Those of [`read_file`], or the file is not UTF-8.
pub fn read_text_file(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read_file(path, limit)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Reads everything, `limit` bytes at most. For what may be a pipe, because it is read once and on
/// behalf of somebody who waits for it.
///
/// # Errors
/// It cannot be read, or there is more.
pub fn read_bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_long(limit)) } else { Ok(bytes) }
}

fn too_long(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes, which are not read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "seven..").unwrap();
        assert_eq!(read_text_file(&path, 7).unwrap(), "seven..");
        let reason = |path: &Path, limit| read_text_file(path, limit).unwrap_err().to_string();
        assert_eq!(reason(&path, 6), "it has more than 6 bytes, which are not read");
        assert_eq!(read_bounded(io::repeat(0), 6).unwrap_err().to_string(), "it has more than 6 bytes, which are not read");
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(reason(&path, 7), "it is not UTF-8 text");
        assert_eq!(read_file(&dir.path().join("none"), 7).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Neither has an end.
        let (pipe, _writer) = io::pipe().unwrap();
        let pipe = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe));
        for endless in ["/dev/zero", &pipe] {
            assert_eq!(reason(Path::new(endless), 7), "it is not a regular file; give the path of a file", "{endless}");
        }
    }
}
