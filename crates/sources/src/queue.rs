//! The queue behind a source: bounded in messages and in bytes, and in both of each sender.
//!
//! A message may be 10 MiB long, so a bound on their number alone bounds no memory. And whoever
//! sends the largest ones, or the most, must not take the room of the others, so each sender has a
//! budget of bytes, and one that has half of the places gets more only while more than a quarter of
//! them is free. Nothing waits for room here: a source cannot hold the network up. What does not
//! fit is refused with its reason, for the caller to count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use verify::PeerBytes;

/// Bytes that a message needs beside its own: the structures around it, and its place in the
/// channel.
const OVERHEAD_BYTES: usize = 512;

/// Greatest number of bytes that may wait in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBytes {
    pub total: usize,
    /// The part of `total` that one sender may use. If nothing else waits, one message of any size
    /// is accepted.
    pub per_peer: usize,
}

impl QueueBytes {
    /// Two slots of mainnet have about 60 MiB of attestations, which may all come from one peer.
    /// 256 MiB hold 12 of the largest blocks, each compressed and decompressed.
    pub const DEFAULT: Self = Self { total: 256 << 20, per_peer: 64 << 20 };
}

impl Default for QueueBytes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a message does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueFull {
    /// The queue has as many messages as it may have, or its receiver is gone.
    Places,
    /// Its sender has half of the places, and a quarter of them is free at most.
    PlacesOfPeer,
    Bytes,
    /// The sender has as many bytes waiting as one sender may have.
    BytesOfPeer,
}

impl QueueFull {
    pub const ALL: [Self; 4] = [Self::Places, Self::PlacesOfPeer, Self::Bytes, Self::BytesOfPeer];

    /// The label of this reason in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Places => "message",
            Self::PlacesOfPeer => "message_of_peer",
            Self::Bytes => "message_bytes",
            Self::BytesOfPeer => "message_bytes_of_peer",
        }
    }
}

/// Creates a queue with this number of places and bytes.
pub fn queue<T>(places: usize, bytes: QueueBytes) -> (QueueSender<T>, QueueReceiver<T>) {
    let (items, received) = mpsc::channel(places.max(1));
    let held = Held { bytes, places: places.max(1), n_messages: 0, total: 0, by_peer: HashMap::new() };
    let held = Arc::new(Mutex::new(held));
    (QueueSender { items, held }, QueueReceiver { items: received })
}

/// The sending end of a queue.
#[derive(Debug)]
pub struct QueueSender<T> {
    items: mpsc::Sender<(T, Option<Reservation>)>,
    held: Arc<Mutex<Held>>,
}

impl<T> Clone for QueueSender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), held: self.held.clone() }
    }
}

impl<T> QueueSender<T> {
    /// Reserves space for `n_bytes` from a sender, before they are copied. Dropping the
    /// [`Reservation`], or taking the message out of the queue, gives the space back.
    pub fn room(&self, peer: &PeerBytes, n_bytes: usize) -> Result<Reservation, QueueFull> {
        let n_bytes = n_bytes.saturating_add(OVERHEAD_BYTES);
        lock(&self.held).take(peer, n_bytes)?;
        Ok(Reservation { held: self.held.clone(), peer: peer.clone(), n_bytes })
    }

    /// Puts a message into the queue.
    pub fn try_send(&self, item: T, room: Reservation) -> Result<(), QueueFull> {
        self.items.try_send((item, Some(room))).map_err(|_| QueueFull::Places)
    }

    /// Puts an event that is not a message into the queue. Such events are few and small, so they
    /// need no space.
    pub fn try_send_note(&self, item: T) -> Result<(), QueueFull> {
        self.items.try_send((item, None)).map_err(|_| QueueFull::Places)
    }

    /// Number of free places.
    pub fn capacity(&self) -> usize {
        self.items.capacity()
    }
}

/// The receiving end of a queue.
#[derive(Debug)]
pub struct QueueReceiver<T> {
    items: mpsc::Receiver<(T, Option<Reservation>)>,
}

impl<T> QueueReceiver<T> {
    /// Takes the next item. Returns `None` when all senders are gone. Cancelling the future loses
    /// nothing.
    pub async fn recv(&mut self) -> Option<T> {
        self.items.recv().await.map(|(item, _)| item)
    }

    /// Number of items that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// A place and bytes set aside for a message.
#[derive(Debug)]
pub struct Reservation {
    held: Arc<Mutex<Held>>,
    peer: PeerBytes,
    n_bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.held).give_back(&self.peer, self.n_bytes);
    }
}

#[derive(Debug)]
struct Held {
    bytes: QueueBytes,
    places: usize,
    n_messages: usize,
    /// Bytes.
    total: usize,
    by_peer: HashMap<PeerBytes, HeldByPeer>,
}

/// What waits of one sender.
#[derive(Clone, Copy, Debug, Default)]
struct HeldByPeer {
    n_messages: usize,
    n_bytes: usize,
}

impl Held {
    fn take(&mut self, peer: &PeerBytes, n_bytes: usize) -> Result<(), QueueFull> {
        let of_peer = self.by_peer.get(peer).copied().unwrap_or_default();
        let is_scarce = self.places.saturating_sub(self.n_messages) <= self.places / 4;
        if is_scarce && of_peer.n_messages >= self.places.div_ceil(2) {
            return Err(QueueFull::PlacesOfPeer);
        }
        if of_peer.n_messages > 0 && of_peer.n_bytes.saturating_add(n_bytes) > self.bytes.per_peer {
            return Err(QueueFull::BytesOfPeer);
        }
        if self.total > 0 && self.total.saturating_add(n_bytes) > self.bytes.total {
            return Err(QueueFull::Bytes);
        }
        self.total += n_bytes;
        self.n_messages += 1;
        let of_peer = self.by_peer.entry(peer.clone()).or_default();
        of_peer.n_messages += 1;
        of_peer.n_bytes += n_bytes;
        Ok(())
    }

    fn give_back(&mut self, peer: &PeerBytes, n_bytes: usize) {
        self.total -= n_bytes;
        self.n_messages -= 1;
        if let Some(of_peer) = self.by_peer.get_mut(peer) {
            of_peer.n_messages -= 1;
            of_peer.n_bytes -= n_bytes;
            if of_peer.n_messages == 0 {
                self.by_peer.remove(peer);
            }
        }
    }
}

/// A panic in another thread cannot leave the numbers in an invalid state, so a poisoned lock is
/// used as it is.
fn lock(held: &Mutex<Held>) -> std::sync::MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerBytes {
        PeerBytes::from([number])
    }

    /// There are places for 65 536 messages, and peers send 10 MiB each. The memory stays within
    /// the budget, each peer stays within its share, and small messages still get through.
    #[tokio::test]
    async fn large_messages_fill_their_senders_share_and_no_more() {
        let bytes = QueueBytes { total: 100 << 20, per_peer: 32 << 20 };
        let (sender, mut receiver) = queue(65_536, bytes);
        let send =
            |number: u8, n_bytes: usize| sender.room(&peer(number), n_bytes).and_then(|room| sender.try_send(number, room));
        let sent: Vec<usize> = (1..=3).map(|number| (0..50).filter(|_| send(number, 10 << 20).is_ok()).count()).collect();
        assert_eq!((sent, send(1, 10 << 20)), (vec![3, 3, 3], Err(QueueFull::BytesOfPeer)));
        // 90 MiB wait. There is no space for a fourth message of this size, but there is for an
        // attestation of 240 bytes.
        assert_eq!((send(4, 11 << 20), send(4, 240)), (Err(QueueFull::Bytes), Ok(())));
        let small = (0..10_000).filter(|_| send(5, 240).is_ok()).count();
        assert_eq!((small, receiver.len()), (10_000, 10_010));
        // A message that is taken out makes space again.
        for _ in 0..3 {
            assert_eq!(receiver.recv().await, Some(1));
        }
        assert_eq!((send(1, 10 << 20), send(1, 23 << 20)), (Ok(()), Err(QueueFull::BytesOfPeer)));
        while !receiver.is_empty() {
            receiver.recv().await;
        }
        assert!(lock(&sender.held).by_peer.is_empty() && lock(&sender.held).total == 0);
        // A message larger than any budget is accepted when it is alone.
        assert_eq!(send(6, 200 << 20), Ok(()));
    }

    /// A sender of many small messages leaves room, so that others still get through.
    #[tokio::test]
    async fn the_last_quarter_of_the_places_is_for_senders_that_have_less_than_half() {
        let (sender, mut receiver) = queue(100, QueueBytes::DEFAULT);
        let send = |number: u8| {
            let sent = sender.room(&peer(number), 10).and_then(|room| sender.try_send(number, room));
            sent.map_err(QueueFull::label)
        };
        // A single sender is not bound to half of the places while there is room.
        let taken = (0..1000).filter(|_| send(1).is_ok()).count();
        assert_eq!((taken, send(1), send(2)), (75, Err("message_of_peer"), Ok(())));
        assert_eq!((0..1000).filter(|_| send(2).is_ok()).count(), 24);
        assert_eq!((send(1), send(2)), (Err("message_of_peer"), Err("message")));
        // What is taken out makes room again, first for the one that has less.
        assert_eq!((receiver.recv().await, send(1), send(2)), (Some(1), Err("message_of_peer"), Ok(())));
        let (single, _receiver) = queue::<u8>(1, QueueBytes::DEFAULT);
        assert!(single.room(&peer(1), 10).is_ok(), "one place is for whoever comes first");
    }

    #[tokio::test]
    async fn places_are_bounded_as_well() {
        let (sender, mut receiver) = queue(2, QueueBytes::DEFAULT);
        let send = |number: u8| sender.room(&peer(number), 10).and_then(|room| sender.try_send(number, room));
        assert_eq!([send(1), send(2), send(3)], [Ok(()), Ok(()), Err(QueueFull::Places)]);
        assert_eq!(sender.try_send_note(4), Err(QueueFull::Places));
        assert_eq!((receiver.recv().await, sender.try_send_note(4), sender.capacity()), (Some(1), Ok(()), 0));
        assert_eq!(lock(&sender.held).by_peer.len(), 1, "a refused message holds nothing");
    }
}
