//! Where test data made by others lies: a folder next to the repository. Tests say so and pass over it where it is missing.

use std::path::PathBuf;

pub(crate) fn shared() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !path.join("vectors").is_dir() {
        println!("no test data at {}: the published vectors were not run", path.display());
        return None;
    }
    Some(path)
}
