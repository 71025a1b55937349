//! Asks the API of a running watcher.

use base::http::{Client, client_builder, failure_reason};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use watcher::WatcherError;

/// How long the watcher may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Largest file with a token in bytes.
const MAX_TOKEN: usize = 4096;
/// How often a request is repeated that came too soon after others.
const MAX_WAITS: u32 = 30;
/// The longest pause before such a repetition.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The API of one watcher.
pub struct ApiClient {
    client: Client,
    /// Its address, without a slash at the end.
    base: String,
    /// The command's option with the address, for errors.
    option: &'static str,
    token: Option<String>,
}

/// What the API answers.
pub(crate) enum ApiAnswer {
    Found(Value),
    /// It is not shown on this address.
    NotShown,
    /// There is no such thing.
    Unknown,
}

impl ApiClient {
    /// Prepares requests to `url`, such as `http://127.0.0.1:5080`, which was given by `option`.
    /// The file has a token for the API.
    ///
    /// # Errors
    /// It is no address, or the file cannot be read.
    pub fn new(url: &str, option: &'static str, token_file: Option<&Path>) -> Result<Self, WatcherError> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(WatcherError::Usage(format!("{url:?} is no address; write it like http://127.0.0.1:5080")));
        }
        let token = token_file.map(read_token).transpose()?;
        let client = client_builder(base.starts_with("https:"))
            .timeout(TIMEOUT)
            // The token is for the watcher only.
            .no_proxy()
            .build()
            .map_err(|error| WatcherError::Failed(failure_reason(error)))?;
        Ok(Self { client, base, option, token })
    }

    pub(crate) fn address(&self) -> &str {
        &self.base
    }

    /// Asks for an address that every watcher has, and reads the answer.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, WatcherError> {
        match self.get(path).await? {
            ApiAnswer::Found(value) => self.parse(path, value),
            ApiAnswer::NotShown => Err(self.failed(&format!("{path} is not shown on this address"))),
            ApiAnswer::Unknown => Err(self.failed(&format!("{path} is unknown there: the watcher is of another version"))),
        }
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self, path: &str, value: Value) -> Result<T, WatcherError> {
        serde_json::from_value(value).map_err(|error| {
            self.failed(&format!("{path} does not answer as this version expects ({error}): use the watcher's version"))
        })
    }

    /// The answer as JSON. A watcher that has had too many requests is asked again when it says.
    pub(crate) async fn get(&self, path: &str) -> Result<ApiAnswer, WatcherError> {
        let mut waits = 0;
        let (status, body) = loop {
            let (status, wait, body) = self.ask(path).await?;
            if status != 429 || waits == MAX_WAITS {
                break (status, body);
            }
            waits += 1;
            tokio::time::sleep(wait).await;
        };
        let value = serde_json::from_slice::<Value>(&body)
            .map_err(|_| self.failed(&format!("{path} answers {status}, and not as a watcher does")));
        match status {
            200 => Ok(ApiAnswer::Found(value?)),
            403 => Ok(ApiAnswer::NotShown),
            404 => value.map(|_| ApiAnswer::Unknown),
            401 => Err(WatcherError::Failed(format!(
                "{}: reading needs a token there; make one with `slashwatch token new read` and give it with --token-file",
                self.base
            ))),
            _ => Err(self.failed(&format!("{path} answers {status}: {}", value?["detail"].as_str().unwrap_or_default()))),
        }
    }

    /// The status, the pause that is asked for, and the body.
    async fn ask(&self, path: &str) -> Result<(u16, Duration, Vec<u8>), WatcherError> {
        let failed = |error| self.failed(&failure_reason(error));
        let mut request = self.client.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let seconds = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = Duration::from_secs(seconds.unwrap_or(1)).clamp(Duration::from_secs(1), LONGEST_WAIT);
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&part);
            if body.len() > MAX_ANSWER {
                return Err(self.failed(&format!("the answer to {path} is too long")));
            }
        }
        Ok((status, wait, body))
    }

    pub(crate) fn failed(&self, reason: &str) -> WatcherError {
        WatcherError::Failed(format!(
            "{}: {reason}; check that a watcher runs and that its `api.listen` is this address ({})",
            self.base, self.option
        ))
    }
}

fn read_token(path: &Path) -> Result<String, WatcherError> {
    use std::io::Read as _;
    let input = |reason: String| WatcherError::Input { path: path.into(), reason };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| input(error.to_string()))?;
    file.take(MAX_TOKEN as u64 + 1).read_to_end(&mut bytes).map_err(|error| input(error.to_string()))?;
    let token = String::from_utf8(bytes).unwrap_or_default().trim().to_owned();
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(input("it has no token; write what `slashwatch token new read` printed into it".into()));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    /// Answers one request for each answer, and returns the tokens that came with them.
    fn serve(answers: &'static [&'static str]) -> (String, std::thread::JoinHandle<Vec<Option<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let answered = answers.iter().map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                write!(stream, "HTTP/1.1 {answer}").unwrap();
                head.iter().find_map(|line| line.strip_prefix("authorization: Bearer ").map(str::to_owned))
            });
            answered.collect()
        });
        (address, served)
    }

    fn get(api: &ApiClient) -> Result<Value, WatcherError> {
        watcher::run::runtime().unwrap().block_on(api.read("/v1/status"))
    }

    #[test]
    fn a_token_is_sent_and_its_lack_is_reported_with_what_to_do() {
        const REFUSED: &str = "401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        const FOUND: &str = "200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n{\"a\":1}";
        const GARBAGE: &str = "200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n<p>";
        let (address, served) = serve(&[REFUSED, FOUND, GARBAGE]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "abc\n").unwrap();
        let without = ApiClient::new(&address, "--watcher", None).unwrap();
        let told = get(&without).unwrap_err().to_string();
        assert!(told.contains("slashwatch token new read") && told.contains("--token-file"), "{told}");
        let with = ApiClient::new(&address, "--watcher", Some(&file)).unwrap();
        assert_eq!(get(&with).unwrap(), serde_json::json!({"a": 1}));
        let told = get(&without).unwrap_err().to_string();
        assert!(told.contains("not as a watcher does") && told.contains("(--watcher)"), "{told}");
        assert_eq!(served.join().unwrap(), [None, Some("abc".to_owned()), None]);
    }

    #[test]
    fn what_is_no_address_and_no_token_is_refused() {
        assert!(matches!(ApiClient::new("localhost:5080", "--url", None), Err(WatcherError::Usage(_))));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        for content in ["", "two words", &"x".repeat(MAX_TOKEN + 1)] {
            std::fs::write(&file, content).unwrap();
            let refused = ApiClient::new("http://127.0.0.1:1", "--url", Some(&file));
            assert!(matches!(refused, Err(WatcherError::Input { .. })), "{content:.20}");
        }
    }
}
