//! A connection that takes time: whatever is written at one end can be read at the other end after
//! a delay, in order.

use futures::AsyncReadExt as _;
use futures::future::Either;
use libp2p::tcp::tokio::TcpStream;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, FuturesAsyncWriteCompatExt as _, TokioAsyncReadCompatExt as _};

/// Bytes that one read takes.
const CHUNK: usize = 16 << 10;
/// Reads that may be under way in one direction: 16 MiB.
const UNDER_WAY: usize = 1024;

/// A connection with or without a delay.
pub(super) type Line = Either<TcpStream, Compat<DuplexStream>>;

/// Delays both directions of a connection. The other end need not know of it.
pub(super) fn delayed(stream: TcpStream, delay: Duration) -> Line {
    if delay.is_zero() {
        return Either::Left(stream);
    }
    let (ours, theirs) = tokio::io::duplex(CHUNK * 4);
    let (from_peer, to_peer) = stream.split();
    let (from_us, to_us) = tokio::io::split(theirs);
    tokio::spawn(async move {
        // A direction ends with its connection, and then so does the other one.
        tokio::join!(pass(from_peer.compat(), to_us, delay), pass(from_us, to_peer.compat_write(), delay))
    });
    Either::Right(ours.compat())
}

/// Passes bytes on after a delay, until there are no more.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) -> io::Result<()> {
    let (sent, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = from.read(&mut chunk).await?;
            // The writing half ends first if its end of the connection is closed.
            if n == 0 || sent.send((Instant::now() + delay, chunk[..n].to_vec())).await.is_err() {
                drop(sent);
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((at, chunk)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            to.write_all(&chunk).await?;
            to.flush().await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_in_order_and_not_before_the_delay() {
        let (mut near, from) = tokio::io::duplex(64);
        let (to, mut far) = tokio::io::duplex(64);
        let began = Instant::now();
        let passing = tokio::spawn(pass(from, to, Duration::from_millis(50)));
        near.write_all(b"first").await.unwrap();
        near.write_all(b"second").await.unwrap();
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"firstsecond");
        assert!(began.elapsed() >= Duration::from_millis(50), "{:?}", began.elapsed());
        passing.await.unwrap().unwrap();
    }
}
