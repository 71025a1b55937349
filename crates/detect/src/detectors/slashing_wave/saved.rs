//! What a restarted watcher takes over from its waves. These are counts that cannot be computed
//! again from the findings alone, because the graffiti and the branches that they were made from
//! are gone.
//!
//! It is a JSON object. It is stored beside the findings under [`NOTE`] and written together with
//! the incident. Findings recorded after it are handled as if they were new. A note that does not
//! parse, or that has another version, is ignored; then only the findings count.

use super::past::Past;
use super::recent::Suspect;
use super::wave::Wave;
use evidence::Time;
use serde::{Deserialize, Serialize};

/// Name of the note.
pub const NOTE: &str = "slashing_wave";
const VERSION: u32 = 1;

#[derive(Deserialize)]
pub(super) struct Saved {
    version: u32,
    /// `recorded_at` of the latest finding that is counted in it.
    pub(super) until: Time,
    pub(super) past: Past,
    pub(super) recent: Vec<Suspect>,
    pub(super) wave: Option<Wave>,
}

impl Saved {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|saved: &Self| saved.version == VERSION)
    }
}

pub(super) fn write<'a>(until: Time, past: &Past, recent: impl Iterator<Item = &'a Suspect>, wave: Option<&Wave>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        version: u32,
        until: Time,
        past: &'a Past,
        recent: Vec<&'a Suspect>,
        wave: Option<&'a Wave>,
    }
    let saved = Borrowed { version: VERSION, until, past, recent: recent.collect(), wave };
    serde_json::to_vec(&saved).expect("numbers and texts with text keys")
}
