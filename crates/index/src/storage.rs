//! RocksDB, the keys of its column families, and the encoding of values.

mod codec;
mod db;
mod first_seen;
mod keys;

pub(crate) use codec::{ByteReader, ones, put_ascending, put_stretch, put_varint, read_ascending, read_stretch, stretch_has};
pub(crate) use db::{Cf, Db, WriteBuffer};
pub(crate) use first_seen::{SOURCE_BITS, SOURCE_BITS_BEFORE_4, StoredFirstSeen, source_number, source_of};
pub(crate) use keys::{
    SetKey, data_key, is_storable, last_of_epoch, proposal_prefix, shuffling_key, summary_key, validator_key, validator_of,
};
