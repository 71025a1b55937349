//! Tokens: who may see more than everybody, and who may read at all where reading needs one.
//!
//! A token is 256 random bits. Only its SHA-256 is kept, in `DIR/tokens.json`, so a copy of the
//! data directory gives nobody access. A slow hash such as Argon2 would gain nothing: it protects
//! passwords that can be guessed, and nobody guesses 256 bits. It would cost milliseconds for each
//! request.
//!
//! `slashwatch token` writes the file, and a running API reads it again when it has changed. So a
//! token that is revoked stops working within [`RECHECK`], without a restart. While there is no
//! such file, tokens are not in use, and an `Authorization` header is ignored: it may be for a
//! reverse proxy. The file stays when its last token is revoked.
//!
//! ```text
//! {"schema":1,"tokens":[{"name":"grafana","scope":"read","sha256":"0x..","created_at":"2026-..Z","expires_at":null}]}
//! ```

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consensus::Root;
use evidence::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

/// How often a running API looks whether the file has changed.
const RECHECK: Duration = Duration::from_secs(1);
/// Largest number of tokens. All of them are compared with each token that a client sends.
const MAX_TOKENS: usize = 256;
/// Largest length of a token's name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Largest length of the file. 256 tokens with the longest names need a third of it.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// First letters of each token, so that programs that look for leaked secrets can find it.
const PREFIX: &str = "slashwatch_";
/// Version of the file.
const SCHEMA: u64 = 1;
/// Name of the file in the data directory.
const FILE: &str = "tokens.json";

/// What a token allows. Each scope includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To read what everybody may see.
    Read,
    /// To see watched keys, groups and kill switches.
    Watch,
    /// To see the addresses of nodes, peers and receivers too, and to change things. Nothing can be
    /// changed through this version of the API.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Watch, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Watch => "watch",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is no scope; there are read, watch and admin"))
    }
}

/// A token as it is kept: without the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    pub name: String,
    pub scope: Scope,
    /// SHA-256 of the whole token, prefix included.
    pub(crate) sha256: Root,
    pub created_at: Time,
    /// `None` if it is valid until it is revoked.
    pub expires_at: Option<Time>,
}

impl TokenRecord {
    pub fn is_expired(&self, now: Time) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

/// Why the tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot use {path}: {source}. Check that the data directory exists and that you may write to it")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is damaged: {reason}. Restore it, or delete it, which ends the use of tokens, and make new ones with `slashwatch token new`"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("there is a token {0:?} already; revoke it, or give another --name")]
    NameTaken(String),
    #[error("{0:?} cannot be the name of a token; use 1 to {MAX_NAME_BYTES} letters, digits, '.', '-' and '_'")]
    Name(String),
    #[error("there is no token {0:?}; `slashwatch token list` shows all")]
    Unknown(String),
    #[error("there are {MAX_TOKENS} tokens, and no more are possible; revoke those that nobody uses")]
    TooMany,
    #[error("the system gives no random numbers: {0}; try again")]
    Random(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    schema: u64,
    tokens: Vec<TokenRecord>,
}

/// The file of a data directory that holds its tokens.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE) }
    }

    /// All tokens, in the order of their creation. `None` if tokens are not in use.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn read(&self) -> Result<Option<Vec<TokenRecord>>, TokenError> {
        let damaged = |reason: String| TokenError::Damaged { path: self.path.clone(), reason };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| self.io(error))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(damaged(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if content.schema != SCHEMA {
            return Err(damaged(format!("it has schema {}, this program knows {SCHEMA}", content.schema)));
        }
        if content.tokens.len() > MAX_TOKENS {
            return Err(damaged(format!("it has more than {MAX_TOKENS} tokens")));
        }
        Ok(Some(content.tokens))
    }

    /// Makes a token and returns it. It is shown this once, and only its hash is kept. Without a
    /// name it is called after its scope and a number.
    ///
    /// # Errors
    /// The name is taken or cannot be a name, or the file cannot be read or written.
    pub fn create(
        &self,
        scope: Scope,
        name: Option<&str>,
        now: Time,
        valid_for: Option<Duration>,
    ) -> Result<(String, TokenRecord), TokenError> {
        self.change(|tokens| {
            let is_taken = |name: &str| tokens.iter().any(|token| token.name == name);
            let free = || (1..).map(|number| format!("{scope}-{number}")).find(|name| !is_taken(name));
            let name = name.map(str::to_owned).or_else(free).expect("numbers do not end");
            let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_letter) {
                return Err(TokenError::Name(name));
            }
            if is_taken(&name) {
                return Err(TokenError::NameTaken(name));
            }
            if tokens.len() >= MAX_TOKENS {
                return Err(TokenError::TooMany);
            }
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(|error| TokenError::Random(error.to_string()))?;
            let token = format!("{PREFIX}{}", hex::encode(secret));
            let expires_at = valid_for.map(|valid_for| now.after(valid_for));
            let record = TokenRecord { name, scope, sha256: hash(&token), created_at: now, expires_at };
            tokens.push(record.clone());
            Ok((token, record))
        })
    }

    /// Removes a token.
    ///
    /// # Errors
    /// There is none of this name, or the file cannot be read or written.
    pub fn revoke(&self, name: &str) -> Result<TokenRecord, TokenError> {
        self.change(|tokens| {
            let nth = tokens.iter().position(|token| token.name == name);
            nth.map(|nth| tokens.remove(nth)).ok_or_else(|| TokenError::Unknown(name.to_owned()))
        })
    }

    /// Changes the file in one step. Two commands at the same time wait for each other.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<TokenRecord>) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let lock = self.path.with_extension("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).map_err(|error| self.io(error))?;
        lock.lock().map_err(|error| self.io(error))?;
        let mut tokens = self.read()?.unwrap_or_default();
        let changed = change(&mut tokens)?;
        let text = serde_json::to_vec_pretty(&Content { schema: SCHEMA, tokens }).expect("a struct of numbers and strings");
        evidence::replace_file(&self.path, &text).map_err(|error| self.io(error))?;
        Ok(changed)
    }

    fn io(&self, source: io::Error) -> TokenError {
        TokenError::Io { path: self.path.clone(), source }
    }
}

/// What the token of a request is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    /// No token, or tokens are not in use.
    Missing,
    Wrong,
    Expired,
    Valid(TokenRecord),
}

/// The tokens that a running API knows.
pub(crate) struct Tokens {
    file: TokenFile,
    known: Mutex<Known>,
}

/// What was read last. A file that cannot be read makes all tokens wrong, until it can be read.
struct Known {
    checked: Instant,
    stamp: Option<(SystemTime, u64)>,
    /// `None` if tokens are not in use.
    tokens: Option<Arc<[TokenRecord]>>,
}

impl Tokens {
    pub(crate) fn new(file: TokenFile) -> Self {
        let known = Known { checked: Instant::now(), stamp: file.stamp(), tokens: file.read_or_none_valid() };
        Self { file, known: Mutex::new(known) }
    }

    /// Whether there is a file of tokens.
    pub(crate) fn are_in_use(&self) -> bool {
        self.current().is_some()
    }

    pub(crate) fn check(&self, headers: &HeaderMap, now: Time) -> Presented {
        if !headers.contains_key(header::AUTHORIZATION) {
            return Presented::Missing;
        }
        let Some(tokens) = self.current() else { return Presented::Missing };
        let Some(token) = token_of(headers) else { return Presented::Wrong };
        let sha256 = hash(&token);
        // All are compared, and each in constant time.
        let mut found = None;
        for record in tokens.iter() {
            if bool::from(record.sha256.as_slice().ct_eq(sha256.as_slice())) {
                found = Some(record);
            }
        }
        match found {
            None => Presented::Wrong,
            Some(record) if record.is_expired(now) => Presented::Expired,
            Some(record) => Presented::Valid(record.clone()),
        }
    }

    /// The tokens, read again if the file has changed.
    fn current(&self) -> Option<Arc<[TokenRecord]>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.checked.elapsed() >= RECHECK {
            known.checked = Instant::now();
            let stamp = self.file.stamp();
            if stamp != known.stamp {
                *known = Known { checked: known.checked, stamp, tokens: self.file.read_or_none_valid() };
            }
        }
        known.tokens.clone()
    }
}

impl TokenFile {
    /// Time of the last change and length. They differ after each change, because each change has
    /// another number of tokens.
    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let of = |file: Metadata| Some((file.modified().ok()?, file.len()));
        fs::metadata(&self.path).ok().and_then(of)
    }

    fn read_or_none_valid(&self) -> Option<Arc<[TokenRecord]>> {
        match self.read() {
            Ok(tokens) => tokens.map(Arc::from),
            Err(error) => {
                tracing::error!(%error, "the tokens cannot be read, and no token is accepted until they can");
                Some(Arc::from([]))
            }
        }
    }
}

/// The token in `Authorization`: as a bearer token, or as the password of a user with any name, for
/// browsers, which ask for a password and cannot send bearer tokens by themselves.
fn token_of(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let text = String::from_utf8(BASE64.decode(credentials).ok()?).ok()?;
        return Some(text.split_once(':')?.1.to_owned());
    }
    None
}

fn hash(token: &str) -> Root {
    Root::from_slice(&Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_unix_ns(1_700_000_000_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn with(scheme: &str, credentials: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("{scheme} {credentials}").parse().unwrap())])
    }

    #[test]
    fn a_token_is_accepted_as_bearer_and_as_password_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::in_data_dir(dir.path());
        let (token, record) = file.create(Scope::Watch, Some("ops"), NOW, Some(DAY)).unwrap();
        let tokens = Tokens::new(file);
        let valid = Presented::Valid(record.clone());
        let password = |text: String| BASE64.encode(text);
        for headers in [
            with("Bearer", &token),
            with("bearer", &token),
            with("Basic", &password(format!("anybody:{token}"))),
            with("basic", &password(format!(":{token}"))),
        ] {
            assert_eq!(tokens.check(&headers, NOW), valid, "{headers:?}");
            assert_eq!(tokens.check(&headers, NOW.after(DAY)), Presented::Expired, "{headers:?}");
        }
        let mut twice = with("Bearer", &token);
        twice.append(header::AUTHORIZATION, twice[header::AUTHORIZATION].clone());
        for headers in [
            with("Bearer", &token[..token.len() - 1]),
            with("Bearer", &format!("{token}0")),
            with("Bearer", ""),
            with("Bearer", &record.sha256.to_string()),
            with("Digest", &token),
            with("Basic", &password(token.clone())),
            with("Basic", "%%%"),
            twice,
        ] {
            assert_eq!(tokens.check(&headers, NOW), Presented::Wrong, "{headers:?}");
        }
        assert_eq!(tokens.check(&HeaderMap::new(), NOW), Presented::Missing);
    }

    #[test]
    fn the_file_has_hashes_only_and_names_are_unique() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::in_data_dir(dir.path());
        assert!(file.read().unwrap().is_none());
        assert_eq!(Tokens::new(file.clone()).check(&with("Bearer", "x"), NOW), Presented::Missing, "tokens are not in use");
        let (token, _) = file.create(Scope::Read, None, NOW, None).unwrap();
        let (other, second) = file.create(Scope::Read, None, NOW, None).unwrap();
        assert_eq!((second.name.as_str(), token == other, token.len()), ("read-2", false, PREFIX.len() + 64));
        let text = fs::read_to_string(&file.path).unwrap();
        assert!(!text.contains(&token[PREFIX.len()..]) && text.contains(&hash(&token).to_string()), "{text}");
        for (name, wanted) in [("read-1", "already"), ("", "cannot be"), ("a b", "cannot be"), ("ä", "cannot be")] {
            let error = file.create(Scope::Admin, Some(name), NOW, None).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(file.revoke("read-1").unwrap().name, "read-1");
        assert!(matches!(file.revoke("read-1"), Err(TokenError::Unknown(_))));
        file.revoke("read-2").unwrap();
        assert_eq!(file.read().unwrap(), Some(Vec::new()));
        assert_eq!(Tokens::new(file).check(&with("Bearer", &token), NOW), Presented::Wrong, "tokens stay in use");
    }

    #[test]
    fn a_damaged_file_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::in_data_dir(dir.path());
        let (token, _) = file.create(Scope::Read, None, NOW, None).unwrap();
        let whole = fs::read_to_string(&file.path).unwrap();
        let long = format!("{whole}{}", " ".repeat(MAX_FILE_BYTES as usize));
        for text in ["", "{}", &whole[..whole.len() / 2], &whole.replace("\"schema\": 1", "\"schema\": 2"), &long] {
            fs::write(&file.path, text).unwrap();
            assert!(matches!(file.read(), Err(TokenError::Damaged { .. })), "{text}");
            assert_eq!(Tokens::new(file.clone()).check(&with("Bearer", &token), NOW), Presented::Wrong, "{text}");
            assert!(file.create(Scope::Read, None, NOW, None).is_err(), "nothing is overwritten");
        }
    }
}
