//! Secrets. They come from a file or an environment variable, never from a command line, and they
//! are never printed.

use crate::AlertError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Largest file with a secret. A token has some hundred bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Where a secret is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    Variable(String),
}

impl SecretSource {
    /// The source that the keys `secret_file` and `secret_env` name. `None` if both are missing.
    pub fn of(file: Option<&Path>, variable: Option<&str>) -> Option<Self> {
        file.map(|file| Self::File(file.into())).or_else(|| variable.map(|name| Self::Variable(name.into())))
    }
}

/// Checks the keys `secret_file` and `secret_env`. Returns the key that is wrong and a text about
/// it. `what_for` says why there must be a secret, as in "deliveries are signed".
pub fn problem(file: Option<&Path>, variable: Option<&str>, what_for: &str) -> Option<(&'static str, String)> {
    let key = match (file, variable) {
        (Some(_), Some(_)) => return Some(("secret_env", "both `secret_file` and `secret_env`: keep one".into())),
        (Some(file), None) if !file.is_file() => return Some(("secret_file", format!("{} is not a file", file.display()))),
        (None, Some(_)) => "secret_env",
        (_, None) => "secret_file",
    };
    let Some(source) = SecretSource::of(file, variable) else {
        return Some((key, format!("no secret: give `secret_file` or `secret_env`; {what_for}")));
    };
    Secret::load(&source).err().map(|error| (key, error.to_string()))
}

/// A shared secret. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Reads the secret. White space around it, such as a file's last line break, is removed.
    pub fn load(source: &SecretSource) -> Result<Self, AlertError> {
        let (text, from) = match source {
            SecretSource::File(path) => {
                let text = base::read_text_file(path, MAX_SECRET_BYTES)
                    .map_err(|source| AlertError::SecretFile { path: path.clone(), source })?;
                (text, path.display().to_string())
            }
            SecretSource::Variable(name) => {
                let text = std::env::var(name).map_err(|_| AlertError::SecretVariable { name: name.clone() })?;
                (text, name.clone())
            }
        };
        match text.trim() {
            "" => Err(AlertError::SecretEmpty { from }),
            secret => Ok(Self(secret.into())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_from_a_file_and_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        let secret = Secret::load(&SecretSource::File(path.clone())).unwrap();
        assert_eq!(secret, Secret::new("hunter2"));
        assert_eq!(format!("{secret:?}"), "***");
        std::fs::write(&path, " \n").unwrap();
        let empty = Secret::load(&SecretSource::File(path)).unwrap_err().to_string();
        assert!(empty.contains("is empty"), "{empty}");
        let unset = Secret::load(&SecretSource::Variable("SLASHWATCH_TEST_NO_SUCH_VARIABLE".into())).unwrap_err();
        assert!(unset.to_string().contains("SLASHWATCH_TEST_NO_SUCH_VARIABLE"), "{unset}");
    }
}
