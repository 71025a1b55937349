//! Why an address cannot be dialled.

use libp2p::TransportError;
use std::io::{self, ErrorKind};

/// What went wrong with one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialFault {
    Refused,
    TimedOut,
    Unreachable,
    /// The connection was closed before it was secured.
    ClosedEarly,
    NotSupported,
    Other,
}

impl DialFault {
    pub(super) fn of(error: &TransportError<io::Error>) -> Self {
        let TransportError::Other(error) = error else { return Self::NotSupported };
        let mut kinds = base::causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>().map(io::Error::kind));
        let by_kind = kinds.find_map(|kind| match kind {
            ErrorKind::ConnectionRefused => Some(Self::Refused),
            ErrorKind::TimedOut => Some(Self::TimedOut),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(Self::Unreachable),
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Some(Self::ClosedEarly),
            _ => None,
        });
        by_kind.unwrap_or_else(|| Self::of_text(&base::innermost_cause(error).to_lowercase()))
    }
}

impl DialFault {
    /// Some wrappers of libp2p name no cause, so that only the text of the system's error is left.
    fn of_text(text: &str) -> Self {
        let texts = [
            ("refused", Self::Refused),
            ("timed out", Self::TimedOut),
            ("timeout", Self::TimedOut),
            ("unreachable", Self::Unreachable),
            ("no route", Self::Unreachable),
            ("reset", Self::ClosedEarly),
            ("end of file", Self::ClosedEarly),
        ];
        texts.into_iter().find(|(part, _)| text.contains(part)).map_or(Self::Other, |(_, fault)| fault)
    }
}

/// The fault, for people.
pub(super) fn in_words(error: &TransportError<io::Error>) -> String {
    let words = match DialFault::of(error) {
        DialFault::Refused => "nobody listens there (connection refused)",
        DialFault::TimedOut => "no answer in time: look at the address and at firewalls",
        DialFault::Unreachable => "there is no way to this address",
        DialFault::ClosedEarly => "it closed the connection before the handshake was done",
        DialFault::NotSupported => "this kind of address is not spoken: TCP and QUIC over IP or DNS are",
        DialFault::Other => return base::innermost_cause(error),
    };
    words.to_owned()
}
