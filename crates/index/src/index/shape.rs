//! The parameters that shape the data. They are stored with it and compared when the index is
//! opened.

use super::state::State;
use crate::IndexError;
use crate::storage::{ByteReader, Cf, Db, WriteBuffer};
use consensus::{Preset, Root};

/// The format that this program writes. It is raised with every change of a key or value. Older
/// formats are listed in docs/formats.md.
pub(super) const FORMAT: u32 = 4;

const SHAPE_KEY: &[u8] = b"shape";

/// The parameters that shape the data. Those of the network are stored with the data and must not
/// change. The length of history is an ordinary setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub genesis_validators_root: Root,
    pub slots_per_epoch: u64,
    /// How many epochs to keep. Older ones are deleted by [`crate::Index::prune`]. The number may
    /// be raised and lowered at any time.
    pub history_epochs: u64,
}

impl Shape {
    /// 54 000 epochs, which are 240 days on mainnet.
    pub const DEFAULT_HISTORY_EPOCHS: u64 = 54_000;

    /// The preset with this number of slots per epoch.
    pub(super) fn preset(&self) -> Result<Preset, IndexError> {
        match self.slots_per_epoch {
            8 => Ok(Preset::MINIMAL),
            16 => Ok(Preset::GNOSIS),
            32 => Ok(Preset::MAINNET),
            slots_per_epoch => Err(IndexError::UnknownPreset { slots_per_epoch }),
        }
    }
}

/// Checks the stored shape, or stores it if the index is new. Returns the format of the index. An
/// earlier format is raised by the first commit ([`put_shape`]), and not here.
pub(super) fn check_shape(db: &Db, shape: &Shape) -> Result<u32, IndexError> {
    let stored = db.get(Cf::Meta, SHAPE_KEY)?.map(|value| value.to_vec());
    let Some(stored) = stored else {
        // The shape is the first thing that is written to a new index. If a process was killed
        // before that, all tables are empty.
        if db.last_key(Cf::Votes)?.is_some() || db.last_key(Cf::Proposals)?.is_some() || db.get(Cf::Meta, State::key())?.is_some()
        {
            return Err(db.corrupt("it has rows but no shape"));
        }
        let mut batch = db.batch();
        put_shape(&mut batch, shape);
        batch.write()?;
        return Ok(FORMAT);
    };
    let format = compare_shape(db, shape, &stored)?;
    if format == FORMAT && encode_shape(shape) != stored {
        let mut batch = db.batch();
        put_shape(&mut batch, shape);
        batch.write()?;
    }
    Ok(format)
}

/// Writes the shape, with the newest format.
pub(super) fn put_shape(batch: &mut WriteBuffer<'_>, shape: &Shape) {
    batch.put(Cf::Meta, SHAPE_KEY, &encode_shape(shape));
}

/// Checks the stored shape of an index that is only read. Returns its format.
pub(super) fn check_shape_of_view(db: &Db, shape: &Shape) -> Result<u32, IndexError> {
    match db.get(Cf::Meta, SHAPE_KEY)? {
        Some(stored) => compare_shape(db, shape, &stored),
        None => Err(IndexError::NotAnIndex { path: db.path().to_owned(), reason: "it has no shape".into() }),
    }
}

/// Returns the format.
fn compare_shape(db: &Db, shape: &Shape, stored: &[u8]) -> Result<u32, IndexError> {
    let path = db.path().to_owned();
    let mut reader = ByteReader(stored);
    let short = || db.corrupt("its shape row does not parse");
    let found = u32::from_be_bytes(reader.array().ok_or_else(short)?);
    if found > FORMAT {
        return Err(IndexError::NewerVersion { path, found, known: FORMAT });
    }
    let root = Root::from(reader.array::<32>().ok_or_else(short)?);
    if root != shape.genesis_validators_root {
        return Err(IndexError::ForeignNetwork { path, found: root, wanted: shape.genesis_validators_root });
    }
    let slots = u64::from_be_bytes(reader.array().ok_or_else(short)?);
    if slots != shape.slots_per_epoch {
        return Err(IndexError::ShapeDiffers { path, found: slots, wanted: shape.slots_per_epoch });
    }
    Ok(found)
}

fn encode_shape(shape: &Shape) -> Vec<u8> {
    let mut out = FORMAT.to_be_bytes().to_vec();
    out.extend_from_slice(shape.genesis_validators_root.as_slice());
    out.extend_from_slice(&shape.slots_per_epoch.to_be_bytes());
    out.extend_from_slice(&shape.history_epochs.to_be_bytes());
    out
}
