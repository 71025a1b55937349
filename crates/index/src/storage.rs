//! RocksDB, the keys of its column families, and the encoding of values.

mod codec;
mod db;
mod first_seen;
mod keys;

pub(crate) use codec::{ByteReader, ones, put_ascending, put_stretch, put_varint, read_ascending, read_stretch, stretch_has};
pub(crate) use db::{Cf, Db, WriteBuffer};
pub(crate) use first_seen::{StoredFirstSeen, source_number};
pub(crate) use keys::{SetKey, data_key, last_of_epoch, proposal_prefix, shuffling_key, summary_key};
