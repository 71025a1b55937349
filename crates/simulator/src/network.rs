//! A scenario played live: simulated nodes on loopback, with real libp2p in real time.
//!
//! ```text
//! player thread: World::play(slot) -> batches (two at most ahead) -> crier task:
//!     waits for each message's time, publishes it on its node,
//!     enters what was received by somebody into the history
//! nodes: honest ... | second machine | vandal
//!     the watcher dials all of them; they do not know each other
//! ```
//!
//! A real node would not forward the second message of an equivocation. So the second machine has
//! its own node, and only a listener that is connected to both nodes receives both messages. The
//! vandal has its own node too, because watchers ignore peers that send invalid messages.
//!
//! Only messages that at least one listener received are entered into the history. An offence that
//! nobody could observe does not count.

use crate::error::SimError;
use crate::expected::Seen;
use crate::genesis::config_yaml;
use crate::ground_truth::{Claim, GroundTruth, MessageHistory};
use crate::honest::HonestNodes;
use crate::message::Sent;
use crate::node::{self, Node};
use crate::scenario::Scenario;
use crate::world::World;
use base::Time;
use consensus::{Root, Slot, ValidatorIndex};
use sources::gossip::{GossipControl, PeerInfo, StatusView};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Number of slots that are computed before they are due.
const SLOTS_AHEAD: usize = 2;
/// The progress of a live simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimProgress {
    /// Slots whose messages have all been sent.
    pub slots: u64,
    /// Messages that were sent.
    pub messages: u64,
    pub crimes: usize,
    /// The scenario has been played to its end, or was stopped.
    pub done: bool,
}

/// A running simulated network. Dropping it stops it. [`SimNetwork::stop`] also waits until it has
/// ended.
#[derive(Debug)]
pub struct SimNetwork {
    state_ssz: Vec<u8>,
    config_yaml: String,
    genesis_time: u64,
    genesis_validators_root: Root,
    peers: Vec<String>,
    truth: Arc<Mutex<GroundTruth>>,
    progress: watch::Receiver<SimProgress>,
    second_machine: SecondMachine,
    nodes: Vec<Node>,
    crier: JoinHandle<()>,
    stop: DropGuard,
}

/// The machine that signs with keys that are in use elsewhere. Clones refer to the same machine.
#[derive(Clone, Debug, Default)]
pub struct SecondMachine(Arc<AtomicBool>);

impl SecondMachine {
    /// Switches the machine off. The messages that it would have sent from now on are not sent and
    /// are not offences.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl SimNetwork {
    /// Sets the network up and starts it at the current time. See [`SimNetwork::start_at`].
    ///
    /// # Errors
    /// The scenario cannot be played, or loopback sockets or threads are not available.
    pub async fn start(scenario: Scenario) -> Result<Self, SimError> {
        Self::start_at(scenario, Time::now()).await
    }

    /// Sets the network up and starts it. Genesis is the first whole second after `now` plus the
    /// scenario's delay. This needs a tokio runtime. The first message waits, within the scenario's
    /// patience, until each node has a listener.
    ///
    /// # Errors
    /// The same as for [`SimNetwork::start`].
    pub async fn start_at(scenario: Scenario, now: Time) -> Result<Self, SimError> {
        Self::start_among(scenario, now, HonestNodes::default()).await
    }

    /// The same for a network that shares with others what is forged.
    pub(crate) async fn start_among(scenario: Scenario, now: Time, honest: HonestNodes) -> Result<Self, SimError> {
        scenario.check()?;
        let genesis_time = first_second_after(now.after(scenario.genesis_delay));
        let config_yaml = config_yaml(&scenario);
        let patience = scenario.patience;
        // Keys and state of a large network take a while.
        let world = tokio::task::spawn_blocking(move || World::new(scenario, genesis_time))
            .await
            .map_err(|error| SimError::Thread(std::io::Error::other(error)))??;
        // If this function returns early, dropping the guard stops the nodes that have already
        // started.
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let head = StatusView { head_root: world.head(), ..StatusView::default() };
        let (status, status_seen) = watch::channel(head);
        let mut nodes = Vec::new();
        for number in 0..world.scenario.n_nodes {
            let secret = world.scenario.random().hash("node key", &[number as u64]);
            let agent = format!("slashwatch-simulator/{number}");
            let network = Arc::new(world.network.clone());
            nodes.push(Node::start((number, secret, agent), network, status_seen.clone(), honest.clone(), stop.clone()).await?);
        }
        let truth = GroundTruth::of(&world.scenario, |expected| expected.seen == Seen::Everywhere);
        let truth = Arc::new(Mutex::new(truth));
        let (progress_in, progress) = watch::channel(SimProgress::default());
        let (state_ssz, genesis_validators_root) = (world.genesis.state_ssz.clone(), world.genesis.validators_root);
        let second_machine = SecondMachine::default();
        let crier = Crier {
            second_machine: (world.scenario.second_node(), second_machine.clone()),
            unsaid: Vec::new(),
            genesis_ns: genesis_time.saturating_mul(1_000_000_000),
            history: MessageHistory::new(genesis_validators_root, world.preset.slots_per_epoch),
            controls: nodes.iter().map(|node| node.control.clone()).collect(),
            truth: truth.clone(),
            progress: progress_in,
            status,
        };
        let batches = play_ahead(world)?;
        let crier = tokio::spawn(crier.run(batches, patience, stop));
        let peers = nodes.iter().map(|node| node.address.clone()).collect();
        Ok(Self {
            state_ssz,
            config_yaml,
            genesis_time,
            genesis_validators_root,
            peers,
            truth,
            progress,
            second_machine,
            nodes,
            crier,
            stop: guard,
        })
    }

    /// The genesis state in SSZ.
    pub fn state_ssz(&self) -> &[u8] {
        &self.state_ssz
    }

    /// The network's `config.yaml`.
    pub fn config_yaml(&self) -> &str {
        &self.config_yaml
    }

    /// The genesis time in seconds since the Unix epoch.
    pub fn genesis_time(&self) -> u64 {
        self.genesis_time
    }

    pub fn genesis_validators_root(&self) -> Root {
        self.genesis_validators_root
    }

    /// Multiaddrs with `/p2p/`, one for each node. The watcher dials all of them.
    pub fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The peers of each node.
    pub(crate) fn peers_of_nodes(&self) -> impl Iterator<Item = Arc<Vec<PeerInfo>>> {
        self.nodes.iter().map(|node| node.control.peers())
    }

    /// The machine that an operator's kill switch would stop.
    pub fn second_machine(&self) -> SecondMachine {
        self.second_machine.clone()
    }

    /// Everything that there was to find until now.
    pub fn truth(&self) -> GroundTruth {
        lock(&self.truth).clone()
    }

    /// The progress. It changes with every slot and every offence.
    pub fn progress(&self) -> watch::Receiver<SimProgress> {
        self.progress.clone()
    }

    /// Waits until the scenario has been played, and returns what there was to find. The nodes run
    /// until [`SimNetwork::stop`].
    ///
    /// # Errors
    /// The simulation ended early.
    pub async fn run(&self) -> Result<GroundTruth, SimError> {
        let mut progress = self.progress.clone();
        let played = progress.wait_for(|progress| progress.done).await;
        played.map(|_| self.truth()).map_err(|_| SimError::BrokenOff)
    }

    /// Stops the network, whether or not the scenario has been played to its end. Nodes say goodbye
    /// and close their sockets. Returns what there was to find.
    pub async fn stop(self) -> GroundTruth {
        drop(self.stop);
        // The runtime reports a panic of the task.
        let _ = self.crier.await;
        for node in self.nodes {
            let _ = node.task.await;
        }
        let truth = lock(&self.truth);
        truth.clone()
    }
}

/// The messages of a slot, and the head after it.
struct Batch {
    slot: Slot,
    messages: Vec<Sent>,
    head: Root,
    slashed: BTreeMap<ValidatorIndex, Slot>,
}

/// Plays the world ahead of the clock in a separate thread, because signing takes time that async
/// threads do not have. The thread ends when its channel is closed.
fn play_ahead(mut world: World) -> Result<mpsc::Receiver<Batch>, SimError> {
    let (batches, receiver) = mpsc::channel(SLOTS_AHEAD);
    let play = move || {
        for slot in (1..=world.scenario.slots).map(Slot::new) {
            let messages = world.play(slot);
            if batches.blocking_send(Batch { slot, messages, head: world.head(), slashed: world.slashed() }).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("simulated-world".to_owned()).spawn(play).map_err(SimError::Thread)?;
    Ok(receiver)
}

/// Sends messages at their time and enters them into the history.
struct Crier {
    /// The node of the second machine, and the switch that tells whether it still runs.
    second_machine: (usize, SecondMachine),
    /// What the second machine would have sent since it was stopped.
    unsaid: Vec<Vec<Claim>>,
    genesis_ns: u64,
    history: MessageHistory,
    controls: Vec<GossipControl>,
    truth: Arc<Mutex<GroundTruth>>,
    progress: watch::Sender<SimProgress>,
    status: watch::Sender<StatusView>,
}

impl Crier {
    async fn run(mut self, mut batches: mpsc::Receiver<Batch>, patience: Duration, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.cry(&mut batches, patience) => {}
        }
        self.progress.send_modify(|progress| progress.done = true);
    }

    async fn cry(&mut self, batches: &mut mpsc::Receiver<Batch>, patience: Duration) {
        if tokio::time::timeout(patience, node::somebody_listens(&self.controls)).await.is_err() {
            tracing::warn!("nobody listens to some of the simulated nodes, going on");
        }
        while let Some(batch) = batches.recv().await {
            for message in batch.messages {
                tokio::time::sleep(until(self.genesis_ns.saturating_add(message.at_ns))).await;
                self.send(&message).await;
            }
            lock(&self.truth).slashed = batch.slashed;
            self.status.send_modify(|status| {
                status.head_slot = batch.slot;
                status.head_root = batch.head;
            });
            self.progress.send_modify(|progress| progress.slots = batch.slot.as_u64());
        }
    }

    async fn send(&mut self, message: &Sent) {
        let (node, second_machine) = &self.second_machine;
        if message.node == *node && second_machine.is_stopped() {
            self.unsaid.push(message.claims.clone());
            return;
        }
        // A message that was never sent cannot be repeated.
        if !message.claims.is_empty() && self.unsaid.contains(&message.claims) {
            return;
        }
        let sent_at = Time::now().0;
        let published = self.controls[message.node].publish(message.topic, &message.ssz).await;
        let mut truth = lock(&self.truth);
        if let Err(error) = published {
            tracing::debug!(topic = %message.topic, %error, "a simulated message was not heard");
            truth.unheard += 1;
            return;
        }
        truth.count(message.nature);
        truth.crimes.extend(self.history.record(&message.claims, sent_at));
        let (messages, crimes) = (truth.messages, truth.crimes.len());
        drop(truth);
        self.progress.send_modify(|progress| {
            progress.messages = messages;
            progress.crimes = crimes;
        });
    }
}

fn lock(truth: &Mutex<GroundTruth>) -> std::sync::MutexGuard<'_, GroundTruth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time until `at_ns`, or zero if it has passed.
fn until(at_ns: u64) -> Duration {
    Time(at_ns).since(Time::now())
}

fn first_second_after(time: Time) -> u64 {
    time.0.div_ceil(1_000_000_000)
}
