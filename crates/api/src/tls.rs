//! TLS for the API, with a certificate and a key from PEM files.
//!
//! The files are looked at every [`RECHECK`], so a certificate that certbot or another program
//! renews is used without a restart. New files that cannot be used change nothing: the old
//! certificate stays, and the log says why.

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const RECHECK: Duration = Duration::from_secs(60);
/// Largest length of one of the files.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files of the server's certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those of the authorities between it and a root, in PEM.
    pub certificate: PathBuf,
    /// Its secret key in PEM: PKCS#8, PKCS#1 or SEC1, without a passphrase.
    pub key: PathBuf,
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} cannot be read: {source}. `api.tls` needs PEM files that this user may read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} has no {wanted} in PEM form ({reason}). {advice}")]
    Pem { path: PathBuf, wanted: &'static str, reason: String, advice: &'static str },
    #[error(
        "the key in {key} does not belong to the certificate in {certificate}, or is of a kind that is not supported: {reason}. Give both files of one certificate"
    )]
    Mismatch { certificate: PathBuf, key: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// The certificate that is used now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// TLS with a certificate that can be renewed.
#[derive(Clone)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Arc<Current>,
    pub(crate) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let current = Arc::new(Current(RwLock::new(Arc::new(read(files)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { files: files.clone(), current, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Uses a renewed certificate, for as long as this runs.
    pub(crate) async fn follow(&self) {
        let mut known = self.stamps();
        loop {
            tokio::time::sleep(RECHECK).await;
            let stamps = self.stamps();
            if stamps != known {
                known = stamps;
                self.reload();
            }
        }
    }

    fn reload(&self) {
        match read(&self.files) {
            Ok(renewed) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
                tracing::info!(certificate = %self.files.certificate.display(), "the renewed certificate is used");
            }
            Err(error) => tracing::error!(%error, "the renewed certificate cannot be used, so the old one stays"),
        }
    }

    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.files.certificate, &self.files.key].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let unreadable = |source| TlsError::Unreadable { path: path.into(), source };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            // Reading a pipe could take for ever.
            return Err(unreadable(std::io::Error::other("it is not a regular file")));
        }
        let length = metadata.len();
        if length > MAX_FILE_BYTES {
            return Err(unreadable(std::io::Error::other(format!("it has {length} bytes, more than any certificate"))));
        }
        fs::read(path).map_err(unreadable)
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(&files.certificate)?).collect();
    let no_certificate = |reason: String| TlsError::Pem {
        path: files.certificate.clone(),
        wanted: "certificate",
        reason,
        advice: "Give the file that begins with -----BEGIN CERTIFICATE-----, such as fullchain.pem",
    };
    let chain = chain.map_err(|error| no_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("no such block in it".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem(&files.key)?).map_err(|error| TlsError::Pem {
        path: files.key.clone(),
        wanted: "secret key",
        reason: error.to_string(),
        advice: "Give the file that begins with -----BEGIN PRIVATE KEY-----, such as privkey.pem, without a passphrase",
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| TlsError::Mismatch {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    })
}
