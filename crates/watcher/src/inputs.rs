//! The queue in front of the engine, bounded in messages and in bytes.
//!
//! Sources wait for room in this queue. While they wait, their own queues fill up. Those are
//! bounded for each sender ([`sources::queue`]).

use crate::engine_thread::Input;
use std::sync::Arc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The queue counts bytes in units of this size. One semaphore permit stands for one unit.
const UNIT: usize = 1024;

/// Creates a queue for at most `places` inputs and at most `bytes` bytes of messages. A message
/// that is longer than `bytes` is accepted when no other message waits.
pub fn inputs(places: usize, bytes: usize) -> (Inputs, InputReceiver) {
    let (items, received) = mpsc::channel(places.max(1));
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, MAX_UNITS);
    let inputs = Inputs { items, room: Arc::new(Semaphore::new(units as usize)), units };
    (inputs, InputReceiver { items: received })
}

/// Upper limit for the size of the queue, in units: 512 GiB.
const MAX_UNITS: u32 = u32::MAX >> 3;

type QueuedInput = (Input, Option<OwnedSemaphorePermit>);

/// The engine has ended, or the queue is full and the caller does not wait.
#[derive(Debug)]
pub struct InputRefused;

/// The sending end of the queue. It is cheap to clone.
#[derive(Clone)]
pub struct Inputs {
    items: mpsc::Sender<QueuedInput>,
    room: Arc<Semaphore>,
    units: u32,
}

impl Inputs {
    /// Sends an input and waits for room if the queue is full.
    pub async fn send(&self, input: Input) -> Result<(), InputRefused> {
        let room = match self.units_of(&input) {
            0 => None,
            units => Some(self.room.clone().acquire_many_owned(units).await.map_err(|_| InputRefused)?),
        };
        self.items.send((input, room)).await.map_err(|_| InputRefused)
    }

    /// Sends an input only if the queue has room now.
    pub fn try_send(&self, input: Input) -> Result<(), InputRefused> {
        let room = match self.units_of(&input) {
            0 => None,
            units => Some(self.room.clone().try_acquire_many_owned(units).map_err(|_| InputRefused)?),
        };
        self.items.try_send((input, room)).map_err(|_| InputRefused)
    }

    /// Number of inputs that wait in the queue.
    pub fn len(&self) -> usize {
        self.items.max_capacity() - self.items.capacity()
    }

    /// Returns a sending end that does not keep the engine running.
    pub fn downgrade(&self) -> WeakInputs {
        WeakInputs { items: self.items.downgrade(), room: self.room.clone(), units: self.units }
    }

    fn units_of(&self, input: &Input) -> u32 {
        let n_bytes = match input {
            Input::Message(message) => message.bytes.len().max(1),
            // Only the task that fetches states sends them, one at a time, so their bytes are not
            // counted.
            Input::State(_) => 0,
            Input::Finality { .. }
            | Input::NodeHead(_)
            | Input::NoBlock(_)
            | Input::NoNamedBlock(_)
            | Input::Peer(_)
            | Input::Watch(_)
            | Input::Routes(_)
            | Input::Question(_)
            | Input::Anomalies(_)
            | Input::Tick { .. } => 0,
        };
        u32::try_from(n_bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
    }
}

/// A sending end that does not keep the engine running.
pub struct WeakInputs {
    items: mpsc::WeakSender<QueuedInput>,
    room: Arc<Semaphore>,
    units: u32,
}

impl WeakInputs {
    /// Returns a sending end, or `None` if all others are gone.
    pub fn upgrade(&self) -> Option<Inputs> {
        Some(Inputs { items: self.items.upgrade()?, room: self.room.clone(), units: self.units })
    }
}

/// The receiving end of the queue. The engine thread holds it.
pub struct InputReceiver {
    items: mpsc::Receiver<QueuedInput>,
}

impl InputReceiver {
    /// Waits for the next input. Returns `None` when the queue is closed and empty.
    pub fn blocking_recv(&mut self) -> Option<Input> {
        self.items.blocking_recv().map(|(input, _)| input)
    }

    pub fn try_recv(&mut self) -> Result<Input, TryRecvError> {
        self.items.try_recv().map(|(input, _)| input)
    }
}

impl Drop for InputReceiver {
    /// Closes the queue and empties it, so that senders that wait for room get an error.
    fn drop(&mut self) {
        self.items.close();
        while self.items.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verify::{MessageKind, MessageParts, Origin, RawMessage, SourceKind, Time};

    fn message(n_bytes: usize) -> Input {
        let parts = MessageParts {
            origin: Origin { source: SourceKind::Gossip, peer: None, fork: None, subscribed: None },
            kind: MessageKind::Block,
            received_at: Time(0),
            bytes: vec![0; n_bytes],
            ticket: None,
        };
        Input::Message(RawMessage::new(parts).unwrap())
    }

    /// The queue has 65 536 places, and each message has 1 MiB. The waiting messages stay within
    /// the limit for bytes. An input without bytes is not held up.
    #[tokio::test]
    async fn large_messages_wait_for_bytes_and_not_for_places() {
        let (inputs, mut receiver) = inputs(65_536, 6_400 << 10);
        let taken = (0..1000).filter(|_| inputs.try_send(message(1 << 20)).is_ok()).count();
        assert_eq!((taken, inputs.len()), (6, 6));
        inputs.send(Input::Tick { late: std::time::Duration::ZERO }).await.unwrap();
        let waiting = {
            let inputs = inputs.clone();
            tokio::spawn(async move { inputs.send(message(10 << 20)).await })
        };
        for _ in 0..6 {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "it is longer than all there is room for");
            assert!(matches!(receiver.try_recv(), Ok(Input::Message(_))));
        }
        // This message is longer than the whole limit for bytes. It is accepted when no other
        // message waits.
        waiting.await.unwrap().unwrap();
        assert!(matches!(receiver.try_recv(), Ok(Input::Tick { .. })));
        assert!(inputs.try_send(message(1)).is_err());
        let weak = inputs.downgrade();
        let waiting = tokio::spawn(async move { inputs.send(message(1)).await });
        drop(receiver);
        assert!(waiting.await.unwrap().is_err(), "nobody reads any more");
        assert!(weak.upgrade().is_none());
    }
}
