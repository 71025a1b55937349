//! What the event streams have in common: whatever is new is read and written into bytes once, for
//! all streams that show the same.
//!
//! A stream is only a position in the store. While it is behind, it reads what comes after its
//! position, in batches. Once it has caught up, it sends what a [`Feed`] has read. The feed is one
//! task: it waits for the notification that follows each recording, reads what is new, and hands
//! the bytes to all streams at once. So a finding is serialised once and wakes each stream once,
//! however many streams are open, and findings that come in quick succession travel together.
//!
//! A batch says after which position it was read. A stream with another position, because it was
//! just opened or was too slow for the feed, reads from the store again. So no finding can be
//! missed between old and live ones, and a slow client costs one batch.

use crate::findings::read;
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use evidence::StoreError;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

/// How long the rows that one stream has read are good for the others that catch up. Findings
/// change a little after they were recorded, when a block includes their slashing.
const READ_IS_FRESH: Duration = Duration::from_millis(250);
/// Findings of a batch.
pub(crate) const BATCH: usize = 64;
/// A batch ends with the event with which it has this many bytes.
pub(crate) const BATCH_BYTES: usize = 256 << 10;
/// Batches that a feed keeps for streams that are busy with earlier ones. A stream that is further
/// behind reads from the store.
const KEPT_BATCHES: usize = 16;
/// How often a comment is sent. It makes proxies keep the connection and shows whether the
/// connection is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_COMMENT: &[u8] = b": keep-alive\n\n";

/// How far a stream, or what it reads, has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Number of the last finding that was read.
    pub(crate) seq: u64,
    /// Revision of the last incident that was read.
    pub(crate) revision: u64,
}

impl Position {
    fn is_past(self, other: Self) -> bool {
        self.seq >= other.seq && self.revision >= other.revision
    }
}

/// What was read in one go.
pub(crate) struct EventBatch<T> {
    /// Everything between these two positions is in it.
    pub(crate) after: Position,
    pub(crate) until: Position,
    pub(crate) events: Vec<Piece<T>>,
}

/// Bytes of a stream, with what a stream must know to decide whether it sends them.
pub(crate) struct Piece<T> {
    pub(crate) about: T,
    pub(crate) bytes: Bytes,
}

/// Reads the next batch after a position from the store. If nothing comes after it, the batch ends
/// where it began.
type ReadBatch<T> = fn(&Shared, Position) -> Result<EventBatch<T>, StoreError>;

enum Message<T> {
    Batch(Arc<EventBatch<T>>),
    KeepAlive,
}

impl<T> Clone for Message<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Batch(batch) => Self::Batch(batch.clone()),
            Self::KeepAlive => Self::KeepAlive,
        }
    }
}

/// Reads what is new for all streams that show the same. It does so while there are streams.
pub(crate) struct Feed<T> {
    newest: fn(&Shared) -> Position,
    read_batch: ReadBatch<T>,
    /// Where to streams are handed what is new. `None` while nobody reads.
    live: Mutex<Option<broadcast::Sender<Message<T>>>>,
    /// The last batch that a stream has read which was behind. After a restart thousands of clients
    /// come back and are behind by the same.
    last: tokio::sync::Mutex<Option<LastRead<T>>>,
}

struct LastRead<T> {
    /// Number of recordings when the batch was read.
    recordings: u64,
    at: Instant,
    batch: Arc<EventBatch<T>>,
}

impl<T: Send + Sync + 'static> Feed<T> {
    /// `newest` says where a stream begins that shows nothing of the past.
    pub(crate) fn new(newest: fn(&Shared) -> Position, read_batch: ReadBatch<T>) -> Self {
        Self { newest, read_batch, live: Mutex::default(), last: tokio::sync::Mutex::default() }
    }

    /// Joins the streams that are handed what is new from now on.
    fn join(self: &Arc<Self>, shared: &Arc<Shared>) -> broadcast::Receiver<Message<T>> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*live {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(KEPT_BATCHES);
        *live = Some(sender.clone());
        tokio::spawn(self.clone().run(shared.clone(), sender, (self.newest)(shared)));
        receiver
    }

    /// Reads what comes after the position and hands it on, until there is no stream left, or the
    /// API stops, or the store cannot be read. At the end all streams end.
    async fn run(self: Arc<Self>, shared: Arc<Shared>, sender: broadcast::Sender<Message<T>>, mut position: Position) {
        let mut recordings = shared.recordings.clone();
        let mut keep_alive = tokio::time::interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        loop {
            // This must come before reading, so that anything recorded later notifies again.
            recordings.mark_unchanged();
            let Ok(batch) = self.read(&shared, position).await else { break };
            if batch.until != position {
                position = batch.until;
                let _ = sender.send(Message::Batch(Arc::new(batch)));
                continue;
            }
            tokio::select! {
                () = shared.stop.cancelled() => break,
                recorded = recordings.changed() => if recorded.is_err() { break },
                _ = keep_alive.tick() => {
                    let _ = sender.send(Message::KeepAlive);
                }
            }
            let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever joins holds the lock, so nobody joins a feed that ends here.
            if sender.receiver_count() == 0 {
                *live = None;
                return;
            }
        }
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn read(&self, shared: &Arc<Shared>, after: Position) -> Result<EventBatch<T>, ProblemDetails> {
        let (reader, read_batch) = (shared.clone(), self.read_batch);
        read(shared, move |_| read_batch(&reader, after)).await
    }

    /// The batch after a position, from the last read if it is fresh and read the same.
    async fn catch_up(&self, shared: &Arc<Shared>, after: Position) -> Result<Arc<EventBatch<T>>, ProblemDetails> {
        let recordings = *shared.recordings.borrow();
        // Whoever reads holds the lock, so that the others wait for this batch and read none.
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && (last.batch.after, last.recordings) == (after, recordings)
            && last.at.elapsed() < READ_IS_FRESH
        {
            return Ok(last.batch.clone());
        }
        let batch = Arc::new(self.read(shared, after).await?);
        *last = Some(LastRead { recordings, at: Instant::now(), batch: batch.clone() });
        Ok(batch)
    }
}

/// Answers with a stream that goes on after the position. `sends` decides what is sent and returns
/// the number of events in it; 0 is sent to nobody.
pub(crate) fn answer<T: Send + Sync + 'static>(
    shared: Arc<Shared>,
    feed: Arc<Feed<T>>,
    position: Position,
    greeting: &'static [u8],
    live: JoinedStream<T>,
    sends: impl FnMut(&T) -> u64 + Send + 'static,
) -> Response {
    let JoinedStream { live, place } = live;
    let stream = EventStream {
        shared,
        feed,
        live,
        position,
        is_behind: true,
        batch: None,
        greeting: Some(Bytes::from_static(greeting)),
        sends,
        _place: place,
    };
    let bytes = futures::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), stream))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from_stream(bytes)).into_response()
}

/// A place among the streams. Whoever has it misses nothing that is recorded from then on.
pub(crate) struct JoinedStream<T> {
    live: broadcast::Receiver<Message<T>>,
    place: StreamPlace,
}

/// Takes a place among the open streams. The position of the stream must be read afterwards.
pub(crate) fn join<T: Send + Sync + 'static>(
    shared: &Arc<Shared>,
    feed: &Arc<Feed<T>>,
) -> Result<JoinedStream<T>, ProblemDetails> {
    let permit = shared.free_streams.clone().try_acquire_owned().map_err(|_| {
        shared.metrics.streams_refused.inc();
        ProblemDetails::too_many_streams(shared.max_streams)
    })?;
    shared.metrics.streams.inc();
    let place = StreamPlace { open: shared.metrics.streams.clone(), _permit: permit };
    Ok(JoinedStream { live: feed.join(shared), place })
}

/// Counted as an open stream until it is dropped.
struct StreamPlace {
    open: prometheus::IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The stream of one client.
struct EventStream<T, F> {
    shared: Arc<Shared>,
    feed: Arc<Feed<T>>,
    live: broadcast::Receiver<Message<T>>,
    position: Position,
    /// It reads from the store until nothing is left.
    is_behind: bool,
    /// What is being sent, and the number of its next event.
    batch: Option<(Arc<EventBatch<T>>, usize)>,
    /// Headers are sent with the first bytes, so the client knows that it is connected before
    /// anything happens.
    greeting: Option<Bytes>,
    sends: F,
    _place: StreamPlace,
}

impl<T: Send + Sync + 'static, F: FnMut(&T) -> u64> EventStream<T, F> {
    /// Returns the next bytes. `None` ends the stream, at shutdown or when the store cannot be
    /// read.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            if self.shared.stop.is_cancelled() {
                return None;
            }
            if let Some((batch, next)) = &mut self.batch {
                while let Some(piece) = batch.events.get(*next) {
                    *next += 1;
                    let n_events = (self.sends)(&piece.about);
                    if n_events > 0 {
                        self.shared.metrics.stream_events.inc_by(n_events);
                        return Some(piece.bytes.clone());
                    }
                }
                self.batch = None;
            }
            if self.is_behind {
                let batch = self.feed.catch_up(&self.shared, self.position).await.ok()?;
                self.is_behind = batch.until != self.position;
                self.position = batch.until;
                self.batch = Some((batch, 0));
                continue;
            }
            match self.live.recv().await {
                Ok(Message::KeepAlive) => return Some(Bytes::from_static(KEEP_ALIVE_COMMENT)),
                Ok(Message::Batch(batch)) if batch.after == self.position => {
                    self.position = batch.until;
                    self.batch = Some((batch, 0));
                }
                // It has read this itself.
                Ok(Message::Batch(batch)) if self.position.is_past(batch.until) => {}
                Ok(Message::Batch(_)) | Err(broadcast::error::RecvError::Lagged(_)) => self.is_behind = true,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
