//! Errors of the store. Every message says what to do next.

use consensus::Root;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path} is in use by another process; stop that one, or use another data directory (`inspect` and `report` only read and need no lock)"
    )]
    Locked { path: PathBuf },
    #[error(
        "{path} holds findings of the network with genesis validators root {found}, this one is {wanted}; use another data directory"
    )]
    ForeignNetwork { path: PathBuf, found: Root, wanted: Root },
    #[error("{path} has format {found}, this program knows {known}; run the newer slashwatch that wrote it")]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is a database, but not one of findings; use another data directory")]
    NotOurs { path: PathBuf },
    #[error("{path} holds no findings yet; check the path, or run slashwatch once to fill it")]
    Missing { path: PathBuf },
    #[error("{path} cannot be opened: {source}; check that the disk has room and that the folder may be written")]
    Open { path: PathBuf, source: rocksdb::Error },
    #[error("{path} cannot be created: {source}; check that the disk has room and that the folder may be written")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("{path} is damaged at {what}; restore it from a copy, or move it away and replay the captures into a new one")]
    Damaged { path: PathBuf, what: String },
    #[error("{path} cannot be read: {source}; check the disk")]
    Read { path: PathBuf, source: rocksdb::Error },
    #[error("{path} cannot be written, so nothing of this batch is stored: {source}; make room on the disk and start again")]
    Write { path: PathBuf, source: rocksdb::Error },
    #[error("{path} was opened for reading only; open it with `Store::open` to write")]
    ReadOnly { path: PathBuf },
    #[error("there is no delivery {id} in the outbox; it was made by another store")]
    NoSuchDelivery { id: String },
    #[error("delivery {id} has already ended as {state}; this is a defect, please report it")]
    DeliveryEnded { id: String, state: &'static str },
    #[error("{path} cannot be written: {source}; check that the disk has room and that the folder may be written")]
    Export { path: PathBuf, source: std::io::Error },
}
