//! Replaces files in one step. This is the only place where a file is renamed, so that the folder
//! is always synced afterwards. Until the folder is on disk, a power cut may leave it with the old
//! file, or with none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Part of the names of temporary files, followed by the process id, because several processes may
/// export the same proof.
const PARTIAL: &str = ".partial-";
/// Permissions of new files, before the process's mask is applied.
const EVERYBODY: u32 = 0o666;
const OWNER_ONLY: u32 = 0o600;

/// Writes `bytes` to `path`. After a crash, the file is the old one or the new one. Once this
/// returns `Ok`, it is the new one. The bytes go to a temporary file in the same folder, which is
/// synced and renamed. Then the folder is synced.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_and_sync(path, bytes, EVERYBODY, |folder| File::open(folder)?.sync_all())
}

/// Same as [`replace_file`], for a file that only its owner can read. Its folder is made if it is
/// not there.
pub fn replace_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    replace_owners_file(path, bytes)
}

/// Same as [`replace_file`], for a file that only its owner can read. Others see that it is there,
/// as far as they may search its folder.
pub fn replace_owners_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_and_sync(path, bytes, OWNER_ONLY, |folder| File::open(folder)?.sync_all())
}

/// Whether a file is a temporary file that [`replace_file`] leaves behind after a crash.
pub fn is_partial(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(PARTIAL))
}

fn replace_and_sync(path: &Path, bytes: &[u8], mode: u32, sync_folder: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    // A device or a pipe is written to, and not replaced by a file.
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let partial = folder.join(format!("{}{PARTIAL}{}", name.to_string_lossy(), std::process::id()));
    // One that an earlier process of this id left behind. A new file is never somebody else's link.
    let _ = fs::remove_file(&partial);
    let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial);
    let written = created.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    #[expect(clippy::disallowed_methods, reason = "this is what is to be used instead")]
    let renamed = written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        // This is best effort, because the error that matters is the one that is returned.
        let _ = fs::remove_file(&partial);
    });
    renamed.and_then(|()| sync_folder(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        replace_file(&path, b"nothing").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn the_folder_is_synced_after_the_rename() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.ssz");
        replace_file(&path, b"old").unwrap();
        let mut synced = Vec::new();
        replace_and_sync(&path, b"new", EVERYBODY, |folder| {
            synced.push((folder.to_owned(), fs::read(&path)?));
            Ok(())
        })
        .unwrap();
        assert_eq!(synced, [(dir.path().to_owned(), b"new".to_vec())]);
        // If the folder cannot be synced, the caller gets the error and must not take the file for
        // stored.
        let failed = replace_and_sync(&path, b"newer", EVERYBODY, |_| Err(io::Error::other("no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no partial files stay");
        let secret = dir.path().join("new").join("secret");
        replace_private_file(&secret, b"x").unwrap();
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(replace_file(&dir.path().join("away").join("x"), b"").is_err());
        assert!(replace_file(Path::new("/"), b"").is_err());
    }
}
