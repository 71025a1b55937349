//! Finds the published test data, which is in a folder next to the repository. If the folder is
//! missing, a test prints that and is skipped.

use std::path::PathBuf;

/// The folder, or `None` after printing that it is missing.
pub(crate) fn shared() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !path.join("vectors").is_dir() {
        println!("no test data at {}: the published vectors were not run", path.display());
        return None;
    }
    Some(path)
}
