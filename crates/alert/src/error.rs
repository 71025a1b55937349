//! Errors of routes and kill switches. No error message contains a secret, nor the path or query of
//! a URL, which often are secrets.

use evidence::RouteNameError;

/// What is wrong with a route, a secret or a kill switch.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    #[error("route name: {0}")]
    Name(#[from] RouteNameError),
    #[error("route {route:?} is there twice; give each route its own name")]
    NameTwice { route: String },
    #[error("route {route:?} does not exist; there are: {known}. Add it under `alerts.routes`")]
    NoSuchRoute { route: String, known: String },
    #[error("route {route:?}: its address is not valid: {reason}; give one like https://example.org/hook")]
    BadUrl { route: String, reason: String },
    #[error("route {route:?}: {reason}")]
    BadMailbox { route: String, reason: String },
    #[error("{name:?} has no secret; give `secret_file` or `secret_env`")]
    NoSecret { name: String },
    #[error("secret file {path} cannot be read: {source}; check the path and its permissions")]
    SecretFile { path: std::path::PathBuf, source: std::io::Error },
    #[error("environment variable {name} is not set or not UTF-8; set it, or give the secret by file")]
    SecretVariable { name: String },
    #[error("the secret from {from} is empty; put the secret that you share with the receiver there")]
    SecretEmpty { from: String },
    #[error("the kill switch of group {group:?} has no program; give `command` or `url`")]
    NoCommand { group: String },
    #[error("route {route:?} has no program; give `command`")]
    NoProgram { route: String },
    #[error("template {path} cannot be used: {reason}; `slashwatch alert preview` shows what a template gives")]
    Template { path: std::path::PathBuf, reason: String },
    #[error("certificate file {path} cannot be used: {reason}; give a file with certificates in PEM")]
    Certificate { path: std::path::PathBuf, reason: String },
    #[error("the HTTPS client cannot be set up: {0}; check that the system has root certificates (package ca-certificates)")]
    Client(String),
}
