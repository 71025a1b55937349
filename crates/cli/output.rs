//! Writes to stdout. The reader may stop reading early, as `head` does. Then the command ends at
//! once and with success, while `println!` would panic.

use std::fmt::Display;
use std::io::{self, Write};

/// Marks an error as caused by the missing reader of stdout.
#[derive(Debug)]
struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reader of stdout has closed it")
    }
}

impl std::error::Error for ReaderGone {}

/// Stdout as a writer.
pub struct Stdout(io::StdoutLock<'static>);

/// Locks stdout and returns it.
pub fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(marked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(marked)
    }
}

fn marked(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe { io::Error::new(error.kind(), ReaderGone) } else { error }
}

/// Writes a line.
pub fn line(text: impl Display) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes text as it is.
pub fn text(text: impl Display) -> io::Result<()> {
    let mut out = stdout();
    write!(out, "{text}")?;
    out.flush()
}

/// Returns whether a command ended because nobody reads its output any more.
pub fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        // serde_json only keeps the kind of a writer's error. It writes to files and to stdout, and
        // only stdout can be a pipe.
        let of_json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        inner.is_some_and(|inner| inner.is::<ReaderGone>()) || of_json == Some(io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_no_failure() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_reader_gone(&marked(broken()).into()));
        assert!(is_reader_gone(&anyhow::Error::from(serde_json::Error::io(marked(broken()))).context("writing")));
        assert!(!is_reader_gone(&broken().into()), "another pipe, that of a node's connection");
        assert!(!is_reader_gone(&marked(io::Error::other("disk full")).into()));
    }
}
