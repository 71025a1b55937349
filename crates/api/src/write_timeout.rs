//! A stream with a time limit for writes. Without it, a client that sends a request and does not
//! read the answer would keep its connection forever.
//!
//! While data waits to be written, the client must accept [`STEP`] bytes within the limit,
//! repeatedly. Any client that reads is fast enough for that. While nothing waits to be written,
//! there is no limit.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that the client must accept within the limit.
const STEP: usize = 64 << 10;

/// A stream with a time limit for writes, see the module.
pub(crate) struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Bytes that the client accepted since the timer was started. `None` while nothing waits.
    taken: Option<usize>,
}

impl<S> WriteTimeout<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, deadline: Box::pin(tokio::time::sleep(limit)), taken: None }
    }

    fn restart_timer(&mut self) {
        self.taken = Some(0);
        self.deadline.as_mut().reset(Instant::now() + self.limit);
    }

    /// Updates the timer after a write. Returns the result of the write, or an error if the time is
    /// over.
    fn check_deadline(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&written, self.taken) {
            (Poll::Ready(Ok(n)), Some(taken)) if taken + n >= STEP => self.restart_timer(),
            (Poll::Ready(Ok(n)), Some(taken)) => self.taken = Some(taken + n),
            (Poll::Ready(_), _) => {}
            (Poll::Pending, taken) => {
                if taken.is_none() {
                    self.restart_timer();
                }
                ready!(self.deadline.as_mut().poll(cx));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read the response")));
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check_deadline(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.check_deadline(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        // The caller flushes after it has written everything.
        self.taken = None;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LIMIT: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut ours = WriteTimeout::new(ours, LIMIT);
        ours.write_all(&[0; 64]).await.unwrap();
        ours.flush().await.unwrap();
        let error = ours.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// A client that reads one byte at a time is also disconnected.
    #[tokio::test]
    async fn a_client_that_reads_too_slowly_is_disconnected() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = WriteTimeout::new(ours, LIMIT);
        let slow_reader = async {
            let mut every = tokio::time::interval(LIMIT / 8);
            while theirs.read_u8().await.is_ok() {
                every.tick().await;
            }
        };
        let wrote = tokio::select! {
            wrote = ours.write_all(&[0; STEP]) => wrote,
            () = slow_reader => unreachable!("it reads until the writer gives up"),
        };
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_everything_and_a_pause_is_no_timeout() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = WriteTimeout::new(ours, LIMIT);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        for _ in 0..3 {
            ours.write_all(&[7; 4 * STEP]).await.unwrap();
            ours.flush().await.unwrap();
            // The pause is longer than the limit, as it may be between two events.
            tokio::time::sleep(LIMIT * 2).await;
        }
        drop(ours);
        assert_eq!(reader.await.unwrap(), 12 * STEP);
    }
}
