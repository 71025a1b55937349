//! Why a node's response cannot be used.

use super::MAX_NODES;
use std::time::Duration;

/// Characters of a path that are shown.
const SHOWN_PATH: usize = 80;
/// Text by which Lodestar reports that its pool already has slashings of all validators in a
/// submitted slashing. It sends it with status 500.
const ALREADY_THERE: &str = "ALREADY_EXISTS";

/// The reason why a node's response cannot be used. Each message names the node and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("node URL {url:?} is not usable: {reason}; write it like http://127.0.0.1:5052")]
    BadUrl { url: String, reason: String },
    #[error("a set of nodes needs 1 to {MAX_NODES} URLs, got {found}; correct the list of nodes in the config")]
    WrongCount { found: usize },
    #[error("the HTTP client cannot be made: {reason}; check the system's certificates, or use http on a trusted network")]
    Client { reason: String },
    #[error(
        "node {node} does not answer {at}: {reason}; check that it runs, that its REST API is switched on, and the address",
        at = short(path)
    )]
    Unreachable { node: String, path: String, reason: String },
    #[error("node {node} answers {at} with status {status}: {message}; {advice}", at = short(path))]
    Status { node: String, path: String, status: u16, message: String, advice: &'static str },
    #[error("node {node} sends more than {limit} bytes for {at}; it is refused, use another node or raise the limit", at = short(path))]
    TooLarge { node: String, path: String, limit: usize },
    #[error(
        "node {node} sends {at} too slowly: {received} bytes in {within:?}, and {least} are the least; use another node, or one nearer by",
        at = short(path)
    )]
    TooSlow { node: String, path: String, received: usize, least: usize, within: Duration },
    #[error("node {node} sends something else than asked for at {at}: {reason}; use another node or version of it", at = short(path))]
    Malformed { node: String, path: String, reason: String },
    #[error(
        "node {node} answers {at} with a web page: this is another server's address (an explorer, a proxy, a login page); \
         give that of a beacon node's REST API, like http://127.0.0.1:5052",
        at = short(path)
    )]
    WebPage { node: String, path: String },
    #[error("no node answers {at}; last: {last}{}", others(errors), at = short(path))]
    AllFailed { path: String, last: Box<NodeError>, errors: Vec<NodeError> },
}

/// A path as people read it: what is asked of 64 validators by their indices is longer than all the
/// rest.
fn short(path: &str) -> String {
    match path.char_indices().nth(SHOWN_PATH) {
        Some((end, _)) => format!("{}...", &path[..end]),
        None => path.to_owned(),
    }
}

fn others(errors: &[NodeError]) -> String {
    errors.iter().map(|error| format!("; before: {error}")).collect()
}

impl NodeError {
    pub(super) fn malformed(node: &str, path: &str, reason: String) -> Self {
        Self::Malformed { node: node.to_owned(), path: path.to_owned(), reason }
    }

    /// Combines the errors of all nodes into one. If there is only one error, it is returned
    /// itself.
    pub(super) fn all_failed(path: &str, mut errors: Vec<NodeError>) -> Self {
        match (errors.pop(), errors.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => Self::AllFailed { path: path.to_owned(), last: Box::new(last), errors },
            (None, _) => Self::WrongCount { found: 0 },
        }
    }

    /// Returns whether a node reports that the object does not exist, and no node contradicts this.
    /// Some nodes may be unreachable.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status == 404,
            Self::AllFailed { last, errors, .. } => {
                let mut all = errors.iter().chain(std::iter::once(last.as_ref()));
                all.clone().any(Self::is_not_found) && all.all(|error| error.is_not_found() || error.is_transient())
            }
            _ => false,
        }
    }

    /// Returns whether a node has examined the submitted message and refuses it. Repeating the
    /// request would not help. Wrong credentials and missing endpoints are not refusals, because
    /// they are problems of the node and not of the message.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 400 | 409 | 413 | 422),
            Self::AllFailed { last, errors, .. } => last.is_refusal() || errors.iter().any(Self::is_refusal),
            _ => false,
        }
    }

    /// Returns whether a node reports that it already has the submitted message. Its text decides
    /// this, because its status can be that of a failure.
    pub fn is_already_there(&self) -> bool {
        match self {
            Self::Status { message, .. } => message.contains(ALREADY_THERE),
            Self::AllFailed { last, errors, .. } => last.is_already_there() || errors.iter().any(Self::is_already_there),
            _ => false,
        }
    }

    /// Returns whether a node failed while it handled the submitted message. The cause can be the
    /// node or the message.
    pub fn is_breakdown(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 && *status != 503,
            Self::AllFailed { last, errors, .. } => last.is_breakdown() || errors.iter().any(Self::is_breakdown),
            _ => false,
        }
    }

    /// Returns whether the node does not support this path, method or media type.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 405 | 406 | 415 | 501, .. })
    }

    /// Returns whether a node does not accept the requested media type.
    pub(super) fn is_about_format(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 400 | 406 | 415),
            Self::AllFailed { last, errors, .. } => last.is_about_format() || errors.iter().any(Self::is_about_format),
            _ => false,
        }
    }

    /// Returns whether the request should be repeated after a pause.
    pub(super) fn is_worth_retry(&self) -> bool {
        self.is_transient() && !self.is_not_found()
    }

    /// Returns whether the node is unreachable or busy, so that a later request may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::AllFailed { last, errors, .. } => last.is_transient() || errors.iter().any(Self::is_transient),
            Self::BadUrl { .. }
            | Self::WrongCount { .. }
            | Self::Client { .. }
            | Self::TooLarge { .. }
            | Self::TooSlow { .. }
            | Self::WebPage { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, message: &str) -> NodeError {
        NodeError::Status { node: "one".into(), path: "/pool".into(), status, message: message.into(), advice: "" }
    }

    #[test]
    fn a_long_path_is_cut_where_people_read_it() {
        let ids: Vec<String> = (100_000..100_064).map(|index: u64| index.to_string()).collect();
        let path = format!("/eth/v1/beacon/states/head/validators?id={}", ids.join(","));
        let away = NodeError::Unreachable { node: "one".into(), path: path.clone(), reason: "refused".into() };
        let all = NodeError::AllFailed { path, last: Box::new(away), errors: Vec::new() }.to_string();
        assert!(all.contains("validators?id=100000,") && all.contains("refused") && all.len() < 400, "{all}");
    }

    #[test]
    fn one_node_that_has_it_already_is_enough() {
        let has = || answer(500, "ATTESTATION_SLASHING_ERROR_ALREADY_EXISTS");
        let breaks = || answer(500, "database is locked");
        let refuses = || answer(400, "not slashable");
        let away = || NodeError::Unreachable { node: "ALREADY_EXISTS.example".into(), path: "/pool".into(), reason: "".into() };
        let together = |errors| NodeError::all_failed("/pool", errors);
        let cases = [
            (has(), true),
            (answer(400, "ALREADY_EXISTS"), true),
            (breaks(), false),
            (refuses(), false),
            (away(), false),
            (together(vec![has(), away()]), true),
            (together(vec![away(), breaks(), has()]), true),
            (together(vec![together(vec![has(), refuses()]), away()]), true),
            (together(vec![refuses(), breaks(), away()]), false),
        ];
        for (error, wanted) in cases {
            assert_eq!(error.is_already_there(), wanted, "{error}");
        }
    }
}
