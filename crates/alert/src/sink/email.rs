//! The email sink: one plain-text message by SMTP to a mail server (RFC 5321, RFC 5322).
//!
//! ```text
//! From, To                    as configured
//! Subject                     the first line of the text
//! Message-ID                  <finding.number-of-new-findings.route@domain of `from`>
//! In-Reply-To, References     <alert.route@domain of `from`>
//! Auto-Submitted              auto-generated (RFC 3834), so that no holiday notice answers
//! ```
//!
//! - The `Message-ID` depends on what the message tells and not on the attempt. A message that
//!   comes twice, because the server's answer to the first one was lost, has the same one, and mail
//!   programs show it once.
//! - All messages of one alert, from the first one to the recovery, refer to the same parent, which
//!   was never sent. Mail programs show them as one thread.
//! - One message goes to all recipients. A recipient whom the server refuses for good does not keep
//!   it from the others and is named in the answer. If the server defers a recipient, nothing is
//!   sent yet and all of it is tried again: so nobody gets it twice, and nobody is left out.
//! - An answer of 4xx, and no answer at all, asks for another attempt. An answer of 5xx is a
//!   refusal.
//!
//! The name and the password are sent only over TLS, with a certificate that the system's roots (or
//! `ca_file`) vouch for, or to this machine itself.

use super::http::{first_words, read_certificates};
use super::{Message, SecretKeys, SecretNeed, Sink, SinkSettings, cut};
use crate::AlertError;
use crate::retry::{Failure, FailureKind};
use crate::secret::Secret;
use evidence::Time;
use futures::future::BoxFuture;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use lettre::message::{Mailbox, Message as Mail};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Limit on the recipients of a route. Each is asked for in a round trip of its own.
const MAX_RECIPIENTS: usize = 32;
/// Limit on the subject in bytes. Mail programs show less.
const MAX_SUBJECT_BYTES: usize = 200;
/// Bounds of `timeout`. RFC 5321 lets a server take minutes.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// How long to wait for the server's goodbye after it has accepted a message.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

/// The keys of a route to a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// Host name or address of the mail server.
    pub server: String,
    /// Without it the port that belongs to `encryption`: 587, 465 or 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default)]
    pub encryption: Encryption,
    /// Whether a server on another machine may be used without encryption.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_plaintext: bool,
    /// Certificates in PEM that vouch for the server, beside the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    pub from: String,
    pub to: Vec<String>,
    /// The name for the server, if it asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the password of `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// Greatest duration of an attempt, from connecting to the server's answer to the message. It
    /// is longer than that of other sinks, because mail servers let strangers wait on purpose.
    #[serde(with = "humantime_serde", default = "one_minute")]
    pub timeout: Duration,
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

/// How the connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// The connection begins in plain text, and must switch to TLS before anything is sent.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Tls,
    None,
}

impl Encryption {
    const fn port(self) -> u16 {
        match self {
            Self::Starttls => SUBMISSION_PORT,
            Self::Tls => SUBMISSIONS_PORT,
            Self::None => SMTP_PORT,
        }
    }
}

impl EmailConfig {
    fn port(&self) -> u16 {
        self.port.unwrap_or(self.encryption.port())
    }

    /// Whether the server is this machine.
    fn is_local(&self) -> bool {
        self.server == "localhost" || self.server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// What TLS needs. `None` without encryption.
    fn tls(&self) -> Result<Option<TlsParameters>, AlertError> {
        if self.encryption == Encryption::None {
            return Ok(None);
        }
        let mut builder = TlsParameters::builder(self.server.clone());
        if let Some(path) = &self.ca_file {
            let bad = |error: Error| AlertError::Certificate { path: path.clone(), reason: error.to_string() };
            let certificates = Certificate::from_pem(&read_certificates(path)?).map_err(bad)?;
            builder = builder.add_root_certificate(certificates);
        }
        builder.build().map(Some).map_err(|error| AlertError::Client(base::innermost_cause(&error)))
    }
}

impl SinkSettings for EmailConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if self.server.is_empty() || !self.server.chars().all(is_host) {
            wrong("server", format!("{:?} is not the name or address of a host, such as \"mail.example.org\"", self.server));
        }
        if self.port == Some(0) {
            wrong("port", "must be at least 1; leave it out for 587, 465 or 25".into());
        }
        if self.encryption == Encryption::None && !self.is_local() && !self.allow_plaintext {
            let text = "\"none\" sends messages, and the password, so that everybody on the way can read them; use \"starttls\" or \
                        \"tls\", or set `allow_plaintext = true` if that is fine";
            wrong("encryption", text.into());
        }
        if self.encryption == Encryption::None && self.ca_file.is_some() {
            wrong("ca_file", "is not used without encryption; leave it out".into());
        } else if let Err(error) = self.tls() {
            wrong("ca_file", error.to_string());
        }
        if let Err(reason) = mailbox(&self.from) {
            wrong("from", reason);
        }
        if self.to.is_empty() {
            wrong("to", "names nobody; give addresses, such as [\"oncall@example.org\"]".into());
        }
        if self.to.len() > MAX_RECIPIENTS {
            wrong("to", format!("names more than {MAX_RECIPIENTS} recipients; use a mailing list"));
        }
        for (nth, recipient) in self.to.iter().take(MAX_RECIPIENTS).enumerate() {
            if let Err(reason) = mailbox(recipient) {
                wrong(&format!("to[{nth}]"), reason);
            }
        }
        if self.user.is_none() && (self.secret_file.is_some() || self.secret_env.is_some()) {
            wrong("user", "is missing: the secret is the password of a user".into());
        }
        if !TIMEOUTS.contains(&self.timeout) {
            wrong("timeout", "must be between 100ms and 10m".into());
        }
    }

    fn secret(&self) -> SecretKeys<'_> {
        let need = match self.user {
            Some(_) => SecretNeed::Required("the password of `user` is the secret"),
            None => SecretNeed::Optional,
        };
        SecretKeys::new(&self.secret_file, &self.secret_env, need)
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    fn ca_file_mut(&mut self) -> Option<&mut PathBuf> {
        self.ca_file.as_mut()
    }

    fn open(&self, route: &str, _client: &Client, secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let bad = |reason: String| AlertError::BadMailbox { route: route.into(), reason };
        let from = mailbox(&self.from).map_err(bad)?;
        let to = self.to.iter().take(MAX_RECIPIENTS).map(|text| mailbox(text).map_err(bad)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            return Err(bad("`to` names nobody".into()));
        }
        let credentials = match (&self.user, secret) {
            (Some(user), Some(password)) => Some(Credentials::new(user.clone(), password.as_str().to_owned())),
            (Some(_), None) => return Err(AlertError::NoSecret { name: route.into() }),
            (None, _) => None,
        };
        Ok(Arc::new(Email {
            route: route.into(),
            server: self.server.clone(),
            port: self.port(),
            encryption: self.encryption,
            tls: self.tls()?,
            from,
            to,
            credentials,
            timeout: self.timeout,
        }))
    }
}

/// Reads an address, such as `ops@example.org` or `Ops <ops@example.org>`. Only ASCII: few servers
/// take anything else.
fn mailbox(text: &str) -> Result<Mailbox, String> {
    let bad = |why: &str| format!("{text:?} is not an email address ({why}); write it like \"ops@example.org\"");
    let parsed: Mailbox = text.parse().map_err(|error: lettre::address::AddressError| bad(&error.to_string()))?;
    if AsRef::<str>::as_ref(&parsed.email).is_ascii() { Ok(parsed) } else { Err(bad("it is not ASCII")) }
}

struct Email {
    route: String,
    server: String,
    port: u16,
    encryption: Encryption,
    /// There unless `encryption` is `None`.
    tls: Option<TlsParameters>,
    from: Mailbox,
    to: Vec<Mailbox>,
    credentials: Option<Credentials>,
    timeout: Duration,
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Email").field("place", &self.place()).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Email {
    fn mail(&self, message: &Message<'_>) -> Mail {
        let n_new = message.merged.map_or(1, |merged| merged.new_findings);
        let id = self.id(&format!("{}.{n_new}", message.idempotency_key));
        let thread = self.id(&message.alert_key);
        let sent_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(message.now.as_unix_ns());
        let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into());
        let mut builder = Mail::builder()
            .from(self.from.clone())
            .subject(subject(message))
            .message_id(Some(id))
            .in_reply_to(thread.clone())
            .references(thread)
            .date(sent_at)
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN)
            .raw_header(automatic);
        for recipient in &self.to {
            builder = builder.to(recipient.clone());
        }
        builder.body(message.text_with_link()).expect("sender and recipients are there, and text can be encoded")
    }

    /// An id of RFC 5322. Other characters than those of names become dashes.
    fn id(&self, what: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let name = |text: &str| text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect::<String>();
        format!("<{}.{}@{}>", name(what), name(&self.route), self.from.email.domain())
    }

    /// One transaction, from connecting to the server's answer to the message.
    async fn deliver(&self, mail: &Mail) -> Result<String, Failure> {
        let failed = |error: Error| self.failure(&error);
        let hello = ClientId::default();
        let first_tls = self.tls.clone().filter(|_| self.encryption == Encryption::Tls);
        let server = (self.server.as_str(), self.port);
        let connected = AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &hello, first_tls, None).await;
        let mut connection = connected.map_err(failed)?;
        if let Some(tls) = self.tls.clone().filter(|_| self.encryption == Encryption::Starttls) {
            connection.starttls(tls, &hello).await.map_err(failed)?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await.map_err(failed)?;
        }
        connection.command(MailFrom::new(Some(self.from.email.clone()), Vec::new())).await.map_err(failed)?;
        let mut refused: Vec<(String, Failure)> = Vec::new();
        for recipient in &self.to {
            match connection.command(Rcpt::new(recipient.email.clone(), Vec::new())).await {
                Ok(_) => {}
                Err(error) if error.is_permanent() => refused.push((recipient.email.to_string(), self.failure(&error))),
                Err(error) => return Err(self.failure(&error)),
            }
        }
        if refused.len() == self.to.len() {
            return Err(refused.swap_remove(0).1);
        }
        connection.command(Data).await.map_err(failed)?;
        connection.message(&mail.formatted()).await.map_err(failed)?;
        // The message is accepted. How the connection ends does not matter any more.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
        let mut answer =
            format!("{} accepted it for {} of {} recipients", self.place(), self.to.len() - refused.len(), self.to.len());
        for (recipient, failure) in refused {
            let reason = failure.reason;
            tracing::warn!(
                route = self.route,
                recipient,
                reason,
                "the mail server refuses a recipient; the others get the alert"
            );
            answer.push_str(&format!("; not for {recipient}: {reason}"));
        }
        Ok(answer)
    }

    fn failure(&self, error: &Error) -> Failure {
        let kind = if error.is_permanent() { FailureKind::Refused } else { FailureKind::Unavailable };
        Failure { kind, reason: format!("{}{}", self.place(), first_words(error.to_string().as_bytes())) }
    }
}

/// The first line of the text, without what could begin another header.
fn subject(message: &Message<'_>) -> String {
    let line: String = message.title().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(&line, MAX_SUBJECT_BYTES)
}

impl Sink for Email {
    fn place(&self) -> String {
        format!("smtp://{}:{}", self.server, self.port)
    }

    fn send<'a>(&'a self, message: &'a Message<'a>, _now: Time) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            let mail = self.mail(message);
            tokio::time::timeout(self.timeout, self.deliver(&mail)).await.unwrap_or_else(|_| {
                let reason = format!("{} did not take it within {:?}", self.place(), self.timeout);
                Err(Failure { kind: FailureKind::Unavailable, reason })
            })
        })
    }

    fn preview(&self, message: &Message<'_>) -> String {
        let headers = self.mail(message).headers().to_string();
        format!("{}\n{}", headers.replace("\r\n", "\n"), message.text_with_link())
    }
}
