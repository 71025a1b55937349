//! The text of an error with its causes. An error's own text does not repeat its cause
//! (`std::error::Error::source`), so whoever shows an error shows the chain, once.

use std::error::Error;
use std::io;

/// Returns an error and all its causes in one line. A cause that the text before it contains
/// already is left out.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for text in causes(error).map(ToString::to_string) {
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// Returns the text of the innermost cause, such as "Connection refused (os error 111)". Errors of
/// network libraries say more in their causes than in their own text, which repeats the address.
pub fn innermost_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// Returns the error itself, then its cause, and so on to the innermost one.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        // An `io::Error` that wraps another error names the cause of that one as its own, and would
        // so skip it.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn every_cause_is_named_once() {
        let refused = || io::Error::other(Outer("handshake", io::Error::other("refused")));
        let error = Outer("no connection", refused());
        assert_eq!(error_chain(&error), "no connection: handshake: refused");
        assert_eq!(innermost_cause(&error), "refused");
        assert_eq!(error_chain(&Outer("handshake, refused", refused())), "handshake, refused");
        assert_eq!(error_chain(&Outer("", refused())), "handshake: refused");
        assert_eq!(innermost_cause(&io::Error::other("alone")), "alone");
    }
}
