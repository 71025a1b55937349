//! `slashwatch token`: makes, lists and revokes the tokens of the API of a data directory.

pub use api::Scope;
use api::{TokenError, TokenFile, TokenRecord};
use evidence::Time;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use watcher::WatcherError;

/// Makes a token. Returns it, and a line about it.
///
/// # Errors
/// The name is taken or cannot be a name, or the data directory cannot be written.
pub fn create(
    data_dir: &Path,
    scope: Scope,
    name: Option<&str>,
    valid_for: Option<Duration>,
) -> Result<(String, String), WatcherError> {
    let (token, record) = TokenFile::in_data_dir(data_dir).create(scope, name, Time::now(), valid_for).map_err(error)?;
    let about = format!(
        "token {}, scope {}, {}. It is shown this once; send it as `Authorization: Bearer TOKEN`",
        record.name,
        record.scope,
        validity(&record)
    );
    Ok((token, about))
}

/// A table of all tokens.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn list(data_dir: &Path) -> Result<String, WatcherError> {
    let tokens = TokenFile::in_data_dir(data_dir).read().map_err(error)?.unwrap_or_default();
    let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or_default().max("name".len());
    let mut table = format!("{:width$}  scope  valid\n", "name");
    for token in &tokens {
        let _ = writeln!(table, "{:width$}  {:5}  {}", token.name, token.scope.as_str(), validity(token));
    }
    Ok(table)
}

/// Removes a token, and returns a line about it.
///
/// # Errors
/// There is no such token, or the data directory cannot be written.
pub fn revoke(data_dir: &Path, name: &str) -> Result<String, WatcherError> {
    let record = TokenFile::in_data_dir(data_dir).revoke(name).map_err(error)?;
    Ok(format!("token {} is revoked; a running watcher refuses it within a second", record.name))
}

fn validity(record: &TokenRecord) -> String {
    match record.expires_at {
        Some(at) if record.is_expired(Time::now()) => format!("expired since {at}"),
        Some(at) => format!("until {at}"),
        None => "until it is revoked".into(),
    }
}

fn error(error: TokenError) -> WatcherError {
    let text = error.to_string();
    match error {
        TokenError::NameTaken(_) | TokenError::Name(_) | TokenError::Unknown(_) | TokenError::TooMany => {
            WatcherError::Usage(text)
        }
        TokenError::Io { .. } | TokenError::Damaged { .. } | TokenError::Random(_) => WatcherError::Failed(text),
    }
}
