//! Deletes the group's keys from validator clients, by the keymanager API that every client has, or
//! from a Web3Signer, which has the part of it for local keys.
//!
//! ```text
//! DELETE /eth/v1/keystores   {"pubkeys":["0x..", ..]}
//!        -> {"data":[{"status":"deleted"}, ..], "slashing_protection":"<EIP-3076 JSON as text>"}
//! DELETE /eth/v1/remotekeys  {"pubkeys":[..]}           not of a Web3Signer
//! GET    /eth/v1/keystores, /eth/v1/remotekeys          to see that the keys are gone
//! ```
//!
//! - All clients are asked at the same time, and each is tried again until the timeout while it is
//!   away, hangs or has an internal problem. To delete what is deleted changes nothing.
//! - What a client answers is not believed: keys count as stopped when its list lacks them. A key
//!   that is still listed is deleted again, the first time without a pause.
//! - The slashing-protection data that a client hands over is kept in the data directory, in a file
//!   that only the watcher's user can read, beside one that says what became of each key. Whoever
//!   moves the keys elsewhere needs the data. It is written before anything is reported.
//!
//! Source: <https://ethereum.github.io/keymanager-APIs/>, EIP-3076.

use super::{MAX_NAMED, SwitchOrder, joined};
use crate::retry::RetryPolicy;
use crate::sink::http::{join, parse_url, place_of, read_bounded};
use crate::{AlertError, Secret, SecretSource};
use base::http;
use consensus::PubkeyBytes;
use evidence::Time;
use futures::future::join_all;
use reqwest::{Client, Method, StatusCode, Url};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Limit on an answer in bytes. A complete record of a thousand keys over a year has 60 MB, and
/// clients hand over minimal ones.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
/// Largest number of keys of one DELETE. Clients and proxies have limits on a body: a megabyte is
/// usual, and some have 100 kB.
const KEYS_AT_A_TIME: usize = 500;
/// Limit on the files with protection data of one client, one for each DELETE. A client that is
/// asked again and again hands over the same records again.
const MAX_FILES: usize = 256;
/// Folder below the data directory in which protection data is kept.
const FOLDER: &str = "killswitch";

/// Where the keys are, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeymanagerConfig {
    pub clients: Vec<ClientConfig>,
    /// Whether clients may also have keys of a remote signer. A Web3Signer has none.
    pub has_remote_keys: bool,
    pub keys: KeysToDelete,
}

/// A validator client or a Web3Signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    pub url: String,
    pub token: Option<SecretSource>,
}

/// Which keys an order deletes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeysToDelete {
    /// Those of the group.
    #[default]
    Group,
    /// All that a client has.
    All,
}

/// Clients that are ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Keymanager {
    clients: Vec<ValidatorClient>,
    has_remote_keys: bool,
    keys: KeysToDelete,
    timeout: Duration,
}

#[derive(Clone, Debug)]
struct ValidatorClient {
    client: Client,
    url: Url,
    token: Option<Secret>,
}

/// The two lists of keys of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum KeyList {
    Keystores,
    #[serde(rename = "remotekeys")]
    RemoteKeys,
}

/// What a client answers to a DELETE.
#[derive(Deserialize)]
struct Deleted {
    data: Vec<KeyStatus>,
    /// EIP-3076 as a text of JSON. Absent for remote keys, and null from some clients.
    slashing_protection: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct KeyStatus {
    status: String,
    #[serde(default)]
    message: Option<String>,
}

/// What a client answers to a GET.
#[derive(Deserialize)]
struct Listed {
    data: Vec<ListedKey>,
}

#[derive(Deserialize)]
struct ListedKey {
    #[serde(alias = "validating_pubkey")]
    pubkey: PubkeyBytes,
}

/// Why a request did not succeed.
enum AskError {
    /// It may succeed when it is repeated.
    Unavailable(String),
    /// The client took the request and still lists so many of the keys.
    StillListed(usize),
    /// It does not.
    Refused { status: StatusCode, reason: String },
}

/// What became of the keys of one client.
#[derive(Default)]
struct Outcome {
    /// The last status of each key, by list.
    keys: BTreeMap<(KeyList, PubkeyBytes), KeyStatus>,
    saved: Vec<PathBuf>,
    /// Why protection data that was handed over could not be kept. A client may hand it over once.
    unkept: Option<String>,
    /// What went wrong last.
    trouble: Option<String>,
}

/// A line of the file that says what became of each key.
#[derive(Serialize)]
struct KeyReport<'a> {
    client: &'a str,
    pubkey: PubkeyBytes,
    list: KeyList,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl KeyList {
    fn path(self) -> &'static str {
        match self {
            Self::Keystores => "keystores",
            Self::RemoteKeys => "remotekeys",
        }
    }
}

impl AskError {
    /// Of two failures the one that may pass, or else the first.
    fn hopeful(first: Option<Self>, second: Self) -> Option<Self> {
        match (first, second) {
            (None, second) | (Some(Self::Refused { .. }), second @ (Self::Unavailable(_) | Self::StillListed(_))) => Some(second),
            (first, _) => first,
        }
    }

    fn reason(self) -> String {
        match self {
            Self::Unavailable(reason) | Self::Refused { reason, .. } => reason,
            Self::StillListed(n_keys) => format!("it still lists {n_keys} of the keys"),
        }
    }
}

/// What one client is asked to do.
#[derive(Clone, Copy)]
struct ClientOrder<'a> {
    client: &'a ValidatorClient,
    order: &'a SwitchOrder<'a>,
    /// Where the slashing protection that the client hands over is kept.
    folder: Option<&'a Path>,
    now: Time,
}

impl Keymanager {
    pub(super) fn new(group: &str, config: KeymanagerConfig, timeout: Duration) -> Result<Self, AlertError> {
        let KeymanagerConfig { clients, has_remote_keys, keys } = config;
        // A client that hangs must leave time for another attempt.
        // An order has no business with a proxy, which would see the tokens.
        let client = http::client_builder(true).no_proxy().timeout(timeout / 2).build();
        let client = client.map_err(|error| AlertError::Client(http::failure_reason(error)))?;
        let open = |ClientConfig { url, token }: ClientConfig| -> Result<ValidatorClient, AlertError> {
            let token = token.as_ref().map(Secret::load).transpose()?;
            Ok(ValidatorClient { client: client.clone(), url: parse_url(group, &url)?, token })
        };
        let clients = clients.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { clients, has_remote_keys, keys, timeout })
    }

    pub(super) fn place(&self) -> String {
        self.clients.iter().map(|client| place_of(&client.url)).collect::<Vec<_>>().join(", ")
    }

    /// Deletes the keys from all clients at once. In a test it counts them. `folder` is the data
    /// directory.
    pub(super) async fn order(&self, order: SwitchOrder<'_>, folder: Option<&Path>, now: Time) -> Result<String, String> {
        if order.keys.is_empty() && self.keys == KeysToDelete::Group {
            return Err("no public key of the group is known yet: name public keys, or start the watcher once".into());
        }
        if order.test {
            let looks = self.clients.iter().map(|client| self.look(client, order.keys));
            return joined(join_all(looks).await);
        }
        let stops = self.clients.iter().map(|client| self.stop(ClientOrder { client, order: &order, folder, now }));
        let outcomes: Vec<(String, Outcome)> = join_all(stops).await;
        let written = folder.map_or(Ok(()), |folder| write_report(folder, order.kill_switch, now, &outcomes));
        let n_stopped: usize = outcomes.iter().map(|(_, outcome)| outcome.n_with(&["deleted", "not_active"])).sum();
        let mut reports: Vec<Result<String, String>> =
            outcomes.into_iter().map(|(place, outcome)| outcome.report(&place)).collect();
        reports.extend(written.err().map(Err));
        if n_stopped == 0 && reports.iter().all(Result::is_ok) {
            reports.push(Err("no client has any of these keys, so nothing was stopped".into()));
        }
        joined(reports)
    }

    /// The lists of keys that clients have.
    fn lists(&self) -> &'static [KeyList] {
        if self.has_remote_keys { &[KeyList::Keystores, KeyList::RemoteKeys] } else { &[KeyList::Keystores] }
    }

    async fn look(&self, client: &ValidatorClient, keys: &[PubkeyBytes]) -> Result<String, String> {
        let place = place_of(&client.url);
        let wanted: BTreeSet<&PubkeyBytes> = keys.iter().collect();
        let looking = async {
            let (mut n_own, mut n_all) = (0, 0);
            for list in self.lists() {
                let listed = client.list(*list).await.map_err(|error| format!("{place}: {}", error.reason()))?;
                n_all += listed.len();
                n_own += listed.iter().filter(|key| wanted.contains(key)).count();
            }
            let n = if self.keys == KeysToDelete::All { n_all } else { n_own };
            let text = format!("{place}: has {n_own} keys of the group and {} others, {n} would be deleted", n_all - n_own);
            if n == 0 { Err(text) } else { Ok(text) }
        };
        let late = || Err(format!("{place} did not answer within {:?}", self.timeout));
        tokio::time::timeout(self.timeout, looking).await.unwrap_or_else(|_| late())
    }

    /// Deletes the keys from one client until its lists lack them.
    async fn stop(&self, order: ClientOrder<'_>) -> (String, Outcome) {
        let place = place_of(&order.client.url);
        let mut outcome = Outcome::default();
        let mut n_failures = 0;
        let mut was_listed = false;
        let stopping = async {
            loop {
                match self.stop_once(order, &mut outcome).await {
                    Ok(()) => {
                        outcome.trouble = outcome.unkept.take();
                        return;
                    }
                    Err(AskError::Refused { reason, .. }) => {
                        outcome.trouble = Some(reason);
                        return;
                    }
                    Err(AskError::Unavailable(reason)) => outcome.trouble = Some(reason),
                    Err(error @ AskError::StillListed(_)) => {
                        outcome.trouble = Some(error.reason());
                        // Lodestar removes a key that has signed only at the second DELETE, and
                        // can finish a signature until then. So the first repetition comes at once.
                        if !std::mem::replace(&mut was_listed, true) {
                            continue;
                        }
                    }
                }
                n_failures += 1;
                tokio::time::sleep(RetryPolicy::DEFAULT.order_pauses.pause(n_failures)).await;
            }
        };
        if tokio::time::timeout(self.timeout, stopping).await.is_err() {
            let last = outcome.trouble.take().map_or(String::new(), |last| format!("; last: {last}"));
            outcome.trouble = Some(format!("not done within {:?}{last}", self.timeout));
        }
        (place, outcome)
    }

    async fn stop_once(&self, order: ClientOrder<'_>, outcome: &mut Outcome) -> Result<(), AskError> {
        let mut asked = 0;
        let mut error = None;
        // What is wrong with one list must not leave the keys of the other one signing.
        for list in self.lists() {
            match self.delete_from(*list, order, outcome).await {
                Ok(was_asked) => asked += usize::from(was_asked),
                Err(next) => error = AskError::hopeful(error, next),
            }
        }
        if asked == 0 && error.is_none() && self.keys == KeysToDelete::Group {
            error = Some(AskError::Unavailable("it has neither of the lists of keys".into()));
        }
        if let Err(next) = self.confirm(order.client, order.order.keys, outcome).await {
            error = AskError::hopeful(error, next);
        }
        error.map_or(Ok(()), Err)
    }

    /// Deletes the keys from one list of a client. Returns false if nothing was to delete.
    async fn delete_from(&self, list: KeyList, order: ClientOrder<'_>, outcome: &mut Outcome) -> Result<bool, AskError> {
        let keys: Vec<PubkeyBytes> = match self.keys {
            KeysToDelete::Group => order.order.keys.to_vec(),
            KeysToDelete::All => match order.client.list(list).await {
                Ok(listed) => listed.into_iter().collect(),
                Err(error) => self.without_list(list, error)?,
            },
        };
        let (mut was_asked, mut error) = (false, None);
        // As with the lists: what is wrong with some of the keys must not leave the others signing.
        for some in keys.chunks(KEYS_AT_A_TIME) {
            match self.delete_some(some, list, order, outcome).await {
                Ok(asked) => was_asked |= asked,
                Err(next) => error = AskError::hopeful(error, next),
            }
        }
        error.map_or(Ok(was_asked), Err)
    }

    /// Deletes some keys in one request. Returns false if the client does not have the list.
    async fn delete_some(
        &self,
        keys: &[PubkeyBytes],
        list: KeyList,
        ClientOrder { client, order, folder, now }: ClientOrder<'_>,
        outcome: &mut Outcome,
    ) -> Result<bool, AskError> {
        let deleted = match client.delete(list, keys).await {
            Ok(deleted) => deleted,
            Err(error) => return self.without_list(list, error),
        };
        for (key, status) in keys.iter().zip(&deleted.data) {
            outcome.note(list, *key, status);
        }
        // What a client hands over is kept before its statuses are judged.
        let protection = deleted.slashing_protection.as_deref().filter(|text| has_records(text));
        if let (Some(text), Some(folder)) = (protection, folder) {
            let nth = outcome.saved.len().min(MAX_FILES - 1);
            let path = file_in(folder, order.kill_switch, &client.url, now, nth);
            match evidence::replace_private_file(&path, text.as_bytes()) {
                Ok(()) => {
                    outcome.unkept = None;
                    if !outcome.saved.contains(&path) {
                        outcome.saved.push(path);
                    }
                }
                Err(error) => {
                    let reason = format!("its slashing-protection data cannot be kept in {}: {error}", path.display());
                    outcome.unkept = Some(reason.clone());
                    return Err(AskError::Unavailable(reason));
                }
            }
        }
        match deleted.data.len() == keys.len() {
            true => Ok(true),
            false => Err(AskError::Unavailable(format!("it answered for {} of {} keys", deleted.data.len(), keys.len()))),
        }
    }

    /// A client may not have one of the lists: one that only signs remotely has no keystores. That
    /// is no failure.
    fn without_list<T: Default>(&self, list: KeyList, error: AskError) -> Result<T, AskError> {
        match error {
            AskError::Refused { status: StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, .. }
                if self.has_remote_keys || list == KeyList::RemoteKeys =>
            {
                Ok(T::default())
            }
            error => Err(error),
        }
    }

    /// Looks whether the keys are gone.
    async fn confirm(&self, client: &ValidatorClient, keys: &[PubkeyBytes], outcome: &mut Outcome) -> Result<(), AskError> {
        let wanted: BTreeSet<&PubkeyBytes> = keys.iter().collect();
        let mut error = None;
        for list in self.lists() {
            let listed = match client.list(*list).await.or_else(|error| self.without_list(*list, error)) {
                Ok(listed) => listed,
                Err(next) => {
                    error = AskError::hopeful(error, next);
                    continue;
                }
            };
            let left: Vec<&PubkeyBytes> =
                listed.iter().filter(|key| self.keys == KeysToDelete::All || wanted.contains(key)).collect();
            for key in &left {
                // A client that said why keeps its own words.
                let said = outcome.keys.get(&(*list, **key)).is_some_and(|known| known.status == "error");
                if !said {
                    let message = Some("the client still lists it".to_owned());
                    outcome.keys.insert((*list, **key), KeyStatus { status: "error".into(), message });
                }
            }
            if !left.is_empty() {
                error = AskError::hopeful(error, AskError::StillListed(left.len()));
            }
        }
        error.map_or(Ok(()), Err)
    }
}

impl ValidatorClient {
    async fn list(&self, list: KeyList) -> Result<BTreeSet<PubkeyBytes>, AskError> {
        let answer: Listed = self.ask(Method::GET, list, None).await?;
        Ok(answer.data.into_iter().map(|key| key.pubkey).collect())
    }

    async fn delete(&self, list: KeyList, keys: &[PubkeyBytes]) -> Result<Deleted, AskError> {
        self.ask(Method::DELETE, list, Some(serde_json::json!({ "pubkeys": keys }))).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        list: KeyList,
        body: Option<serde_json::Value>,
    ) -> Result<T, AskError> {
        let mut request = self.client.request(method, join(self.url.clone(), &["eth", "v1", list.path()]));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.as_str());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| AskError::Unavailable(http::failure_reason(error)))?;
        let status = answer.status();
        let bytes = read_bounded(answer, MAX_ANSWER_BYTES).await.map_err(AskError::Unavailable)?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                AskError::Unavailable(format!("its list of {} is not what the API says: {error}", list.path()))
            });
        }
        let reason = format!("it answered {status}{}", crate::sink::http::first_words(&bytes));
        let is_passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        // 501: the client has no such list.
        match is_passing && status != StatusCode::NOT_IMPLEMENTED {
            true => Err(AskError::Unavailable(reason)),
            false if status == StatusCode::NOT_IMPLEMENTED => Err(AskError::Refused { status: StatusCode::NOT_FOUND, reason }),
            false if matches!(status.as_u16(), 401 | 403) => {
                Err(AskError::Refused { status, reason: format!("{reason}; check the file with its token") })
            }
            false => Err(AskError::Refused { status, reason }),
        }
    }
}

impl Outcome {
    /// Notes a status. A key that an earlier attempt deleted stays deleted.
    fn note(&mut self, list: KeyList, key: PubkeyBytes, status: &KeyStatus) {
        let known = self.keys.get(&(list, key)).is_some_and(|known| known.status == "deleted");
        if !known || status.status == "error" {
            self.keys.insert((list, key), status.clone());
        }
    }

    fn n_with(&self, statuses: &[&str]) -> usize {
        self.keys.values().filter(|key| statuses.contains(&key.status.as_str())).count()
    }

    /// Number of keys that neither of the lists has. A local key is in one of the two.
    fn n_not_there(&self) -> usize {
        let with = |is_there: bool| -> BTreeSet<PubkeyBytes> {
            let keys = self.keys.iter().filter(|(_, key)| (key.status != "not_found") == is_there);
            keys.map(|((_, pubkey), _)| *pubkey).collect()
        };
        with(false).difference(&with(true)).count()
    }

    fn report(&self, place: &str) -> Result<String, String> {
        let words = [("deleted", "deleted"), ("not_active", "not active"), ("not_found", "not there")];
        let mut parts: Vec<String> = Vec::new();
        for (status, word) in words {
            let n = if status == "not_found" { self.n_not_there() } else { self.n_with(&[status]) };
            if n > 0 {
                parts.push(format!("{n} {word}"));
            }
        }
        let mut failed: Vec<String> = Vec::new();
        for ((_, key), status) in &self.keys {
            if words.iter().all(|(word, _)| status.status != *word) {
                let message = status.message.as_deref().unwrap_or(&status.status);
                failed.push(format!("{key}: {}", crate::sink::cut(message, 200)));
            }
        }
        let saved: Vec<String> = self.saved.iter().map(|path| path.display().to_string()).collect();
        let saved = if saved.is_empty() { String::new() } else { format!("; protection data in {}", saved.join(", ")) };
        let done = format!("{place}: keys {}{saved}", if parts.is_empty() { "none".to_owned() } else { parts.join(", ") });
        let more = failed.len().saturating_sub(MAX_NAMED);
        failed.truncate(MAX_NAMED);
        if more > 0 {
            failed.push(format!("and {more} more"));
        }
        match (&self.trouble, failed.is_empty()) {
            (None, true) => Ok(done),
            (None, false) => Err(format!("{done}; not deleted: {}", failed.join(", "))),
            (Some(trouble), true) => Err(format!("{done}; {trouble}")),
            (Some(trouble), false) => Err(format!("{done}; {trouble}; not deleted: {}", failed.join(", "))),
        }
    }
}

/// Whether a text is protection data with at least one key.
fn has_records(text: &str) -> bool {
    let parsed: Option<serde_json::Value> = serde_json::from_str(text).ok();
    // What cannot be read is kept, because a person may be able to.
    parsed.is_none_or(|parsed| parsed["data"].as_array().is_some_and(|data| !data.is_empty()))
}

/// The file for the protection data of one answer. Group names and hosts may contain characters
/// that are no part of a file's name.
fn file_in(folder: &Path, group: &str, url: &Url, now: Time, nth: usize) -> PathBuf {
    let host = format!("{}-{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let name = format!("{group}-{}-{host}-{nth}.slashing-protection", now.as_unix_ns() / 1_000_000_000);
    folder.join(FOLDER).join(format!("{}.json", as_file_name(&name)))
}

fn as_file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}

/// Writes what became of each key.
fn write_report(folder: &Path, group: &str, now: Time, outcomes: &[(String, Outcome)]) -> Result<(), String> {
    let mut rows: Vec<KeyReport<'_>> = Vec::new();
    for (client, outcome) in outcomes {
        for ((list, pubkey), KeyStatus { status, message }) in &outcome.keys {
            rows.push(KeyReport { client, pubkey: *pubkey, list: *list, status, message: message.as_deref() });
        }
    }
    let name = as_file_name(&format!("{group}-{}.keys", now.as_unix_ns() / 1_000_000_000));
    let path = folder.join(FOLDER).join(format!("{name}.json"));
    let bytes = serde_json::to_vec_pretty(&rows).expect("names and numbers");
    evidence::replace_private_file(&path, &bytes).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}
