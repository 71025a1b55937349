//! The network key of this listener: a new one at each start, or one that is kept in a file so that
//! peers recognise the listener after a restart.

use consensus::{DATA_COLUMN_SIDECAR_SUBNET_COUNT, sha256};
use enr::NodeId;
use enr::k256::ecdsa::SigningKey;
use libp2p::identity::{Keypair, secp256k1};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The source of the network key.
#[derive(Clone, Debug, Default)]
pub enum Identity {
    /// A new key at each start.
    #[default]
    Ephemeral,
    /// A file with 32 bytes in hex. If it does not exist, it is created, readable by its owner
    /// only.
    File(PathBuf),
    /// A given secret, for tests and simulated nodes.
    Secret([u8; 32]),
}

/// Why the network key cannot be loaded or created.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("network key file {path}: {source}; check the path and its permissions", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("network key file {path} does not hold 32 bytes in hex; delete it to have a new key made", path = path.display())]
    NotAKey { path: PathBuf },
    #[error("the secret is no secp256k1 key; use another one")]
    BadSecret,
}

impl Identity {
    pub(super) fn load(&self) -> Result<Keypair, IdentityError> {
        match self {
            Self::Ephemeral => Ok(Keypair::generate_secp256k1()),
            Self::Secret(secret) => keypair(*secret).ok_or(IdentityError::BadSecret),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => {
                    let mut secret = [0u8; 32];
                    let read = hex::decode_to_slice(text.trim(), &mut secret).ok().and_then(|()| keypair(secret));
                    read.ok_or_else(|| IdentityError::NotAKey { path: path.clone() })
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let key = secp256k1::Keypair::generate();
                    let text = hex::encode(key.secret().to_bytes());
                    save(path, text.as_bytes()).map_err(|source| IdentityError::Io { path: path.clone(), source })?;
                    Ok(key.into())
                }
                Err(source) => Err(IdentityError::Io { path: path.clone(), source }),
            },
        }
    }
}

fn keypair(mut secret: [u8; 32]) -> Option<Keypair> {
    let secret = secp256k1::SecretKey::try_from_bytes(&mut secret).ok()?;
    Some(secp256k1::Keypair::from(secret).into())
}

/// Writes a file atomically, readable by its owner only. A crash leaves no part of it.
#[expect(clippy::disallowed_methods, reason = "the folder is synced below; the crate that does both is not at hand here")]
pub(super) fn save(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The column subnets that a node with this key must custody. Peers expect a node on exactly these
/// subnets. Source: fulu/das-core.md, `get_custody_groups`. There are 128 groups, 128 columns and
/// 128 subnets, and they correspond one to one.
pub(super) fn column_subnets(key: &Keypair, count: u64) -> Vec<u64> {
    let count = count.min(DATA_COLUMN_SIDECAR_SUBNET_COUNT);
    if count == DATA_COLUMN_SIDECAR_SUBNET_COUNT {
        return (0..count).collect();
    }
    let Some(node_id) = node_id(key) else { return (0..count).collect() };
    custody_groups(node_id, count)
}

/// The secret of a node key. None if the key is of another kind than secp256k1, which no
/// [`Identity`] makes.
pub(super) fn secret(key: &Keypair) -> Option<[u8; 32]> {
    Some(key.clone().try_into_secp256k1().ok()?.secret().to_bytes())
}

fn node_id(key: &Keypair) -> Option<[u8; 32]> {
    let signing = SigningKey::from_slice(&secret(key)?).ok()?;
    Some(NodeId::from(*signing.verifying_key()).raw())
}

/// `node_id` is big-endian. The number that is hashed is little-endian.
fn custody_groups(node_id: [u8; 32], count: u64) -> Vec<u64> {
    let mut id = node_id;
    id.reverse();
    let mut groups = Vec::new();
    while (groups.len() as u64) < count {
        let hash = sha256(&id);
        let mut first = [0u8; 8];
        first.copy_from_slice(&hash[..8]);
        let group = u64::from_le_bytes(first) % DATA_COLUMN_SIDECAR_SUBNET_COUNT;
        if !groups.contains(&group) {
            groups.push(group);
        }
        // Add 1 modulo 2^256.
        for byte in &mut id {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_file_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.key");
        let identity = Identity::File(path.clone());
        let first = identity.load().unwrap().public().to_peer_id();
        assert_eq!(identity.load().unwrap().public().to_peer_id(), first);
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["network.key"]);
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        std::fs::write(&path, "not a key").unwrap();
        assert!(matches!(identity.load(), Err(IdentityError::NotAKey { .. })));
        assert!(matches!(Identity::Secret([0; 32]).load(), Err(IdentityError::BadSecret)));
    }

    #[test]
    fn columns_follow_from_the_key() {
        let key = Identity::Secret([7; 32]).load().unwrap();
        let four = column_subnets(&key, 4);
        assert_eq!(four.len(), 4);
        let eight = column_subnets(&key, 8);
        assert!(four.iter().all(|subnet| eight.contains(subnet)), "more columns keep the first ones: {four:?} {eight:?}");
        assert_eq!(column_subnets(&key, 1000), (0..128).collect::<Vec<u64>>());
        // The largest id wraps to zero.
        assert_eq!(custody_groups([0xff; 32], 128).len(), 128);
    }
}
