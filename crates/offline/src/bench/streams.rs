//! Measures event streams: how long a finding takes from its record to each of many open streams.
//!
//! The API listens on loopback. One thread holds all clients and does nothing but find the ends of
//! events in what arrives, so that the clients are not what is measured. For each of the two
//! addresses of streams it records single findings, each after the one before has arrived
//! everywhere, and then a burst of findings, one after the other as fast as the store takes them.

use super::Latency;
use api::ApiParts;
use consensus::{Epoch, ForkName, Network, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Changes, Evidence, EvidenceKind, Finding, OffenceFacts, Punishable, Store, Time};
use memchr::memmem::Finder;
use serde::Serialize;
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use watcher::{WatcherError, file_handles};

/// How long the clients may take to get what was recorded.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients that connect at the same time. The queue of a listening socket is not longer.
const CONNECTING: usize = 64;
/// Bytes that a client reads at once.
const READ_BYTES: usize = 256 << 10;
/// The end of an event. A comment has none, because it is no JSON.
const END_OF_EVENT: &[u8] = b"}\n\n";

/// Size of a run.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Streams that are open at once.
    pub streams: usize,
    /// Findings that are recorded one by one.
    pub singles: u64,
    /// Findings that are recorded at once.
    pub burst: u64,
}

/// Measurements of a run.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    pub streams: usize,
    pub singles: u64,
    pub burst: u64,
    /// `/v1/events`.
    pub findings: StreamTimes,
    /// `/eth/v1/events`.
    pub slashings: StreamTimes,
}

/// Milliseconds from the record of a finding, when it is on disk, to its arrival on a stream. `max`
/// is that of the last stream.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StreamTimes {
    pub single_ms: Latency,
    pub burst_ms: Latency,
}

/// Runs the benchmark. Its store of findings is made in `data_dir`, an empty folder.
pub fn streams(options: StreamOptions, data_dir: &Path) -> Result<StreamReport, WatcherError> {
    file_handles::raise_for(2 * options.streams);
    let network = Network::builtin("mainnet").ok_or_else(|| WatcherError::Internal("mainnet is not built in".into()))?;
    let store = Store::open(&data_dir.join("evidence"), network.genesis_validators_root)?;
    let stop = CancellationToken::new();
    let runtime = watcher::run::runtime()?;
    let address = runtime.block_on(serve(&store, network, options.streams, stop.clone()))?;
    let measured = [("/v1/events", 1), ("/eth/v1/events?topics=attester_slashing", 2)].map(
        |(route, nth)| -> Result<StreamTimes, WatcherError> {
            let clients = Clients::connect(address, route, options.streams)?;
            let mut record = Recorder { store: &store, next: nth << 32, recorded: Vec::new() };
            for _ in 0..options.singles {
                record.one()?;
                clients.wait_for(record.recorded.len())?;
            }
            let singles = clients.latencies(&record.recorded);
            let first_of_burst = record.recorded.len();
            for _ in 0..options.burst {
                record.one()?;
            }
            clients.wait_for(record.recorded.len())?;
            let all = clients.latencies(&record.recorded);
            let of_burst = all.into_iter().filter(|(nth, _)| *nth >= first_of_burst);
            let times = |rows: Vec<f64>| Latency::of(rows).unwrap_or_default();
            Ok(StreamTimes {
                single_ms: times(singles.into_iter().map(|(_, ms)| ms).collect()),
                burst_ms: times(of_burst.map(|(_, ms)| ms).collect()),
            })
        },
    );
    stop.cancel();
    runtime.shutdown_timeout(Duration::from_secs(5));
    let [findings, slashings] = measured;
    let StreamOptions { streams, singles, burst } = options;
    Ok(StreamReport { streams, singles, burst, findings: findings?, slashings: slashings? })
}

async fn serve(store: &Store, network: Network, streams: usize, stop: CancellationToken) -> Result<SocketAddr, WatcherError> {
    let listener = api::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.address();
    // The streams of the address that was measured before may not have ended.
    let most = 2 * streams;
    let parts = ApiParts { max_streams: most, max_connections: most, ..ApiParts::of_store(store.clone(), network) };
    tokio::spawn(api::serve(listener, parts, stop));
    Ok(address)
}

/// Records findings and remembers when each was on disk.
struct Recorder<'a> {
    store: &'a Store,
    /// The validator of the next finding, so that all findings differ.
    next: u64,
    recorded: Vec<Instant>,
}

impl Recorder<'_> {
    fn one(&mut self) -> Result<(), WatcherError> {
        self.next += 1;
        let (finding, proof) = double_vote(self.store.genesis_validators_root(), ValidatorIndex::new(self.next));
        self.store.apply(Changes { findings: vec![(finding, Some(proof))], ..Changes::default() }, &[])?;
        self.recorded.push(Instant::now());
        Ok(())
    }
}

/// A double vote as large as those of real validators. Its signatures are not real.
fn double_vote(genesis_validators_root: Root, validator: ValidatorIndex) -> (Finding, Arc<Evidence>) {
    let (slot, epoch, now) = (Slot::new(64), Epoch::new(2), Time::now());
    let vote = |head: u8| {
        let checkpoint = |epoch: u64| json!({"epoch": epoch.to_string(), "root": Root::repeat_byte(7)});
        let data = json!({"slot": slot, "index": "0", "beacon_block_root": Root::repeat_byte(head),
            "source": checkpoint(1), "target": checkpoint(2)});
        json!({"attesting_indices": [validator], "data": data, "signature": format!("0x{}", "ab".repeat(96))})
    };
    let proof = json!({"attestation_1": vote(1), "attestation_2": vote(2)});
    let ssz = serde_json::to_vec(&proof).unwrap_or_default();
    let evidence = Arc::new(Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, ssz, proof));
    let facts = OffenceFacts {
        genesis_validators_root,
        offence: Offence::DoubleVote,
        validator,
        pubkey: PubkeyBytes::repeat_byte(0xaa),
        labels: vec!["operator=acme".into()],
        roots: [Root::repeat_byte(1), Root::repeat_byte(2)],
        slot,
        epoch,
        seen: [now; 2],
        recorded_at: now,
        sources: vec!["gossip".into()],
        fork: ForkName::Fulu,
        punishable: Punishable::Yes,
    };
    (Finding::slashable(facts, &evidence), evidence)
}

/// Arrival of each event, in the order of arrival, for each client.
type Arrivals = Vec<Mutex<Vec<Instant>>>;

/// Readers of event streams, on a thread of their own. They end when this is dropped.
struct Clients {
    arrivals: Arc<Arrivals>,
    /// Number of events that all clients got together.
    n_arrived: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<String>>>,
    stop: CancellationToken,
}

impl Clients {
    /// Returns when all streams are open.
    fn connect(address: SocketAddr, route: &'static str, streams: usize) -> Result<Self, WatcherError> {
        let clients = Self {
            arrivals: Arc::new((0..streams).map(|_| Mutex::default()).collect()),
            n_arrived: Arc::default(),
            failed: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (arrivals, n_arrived, failed, stop) =
            (clients.arrivals.clone(), clients.n_arrived.clone(), clients.failed.clone(), clients.stop.clone());
        let (ready, opened) = std::sync::mpsc::sync_channel(streams);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let connecting = Arc::new(Semaphore::new(CONNECTING));
                for nth in 0..streams {
                    let (arrivals, n_arrived, failed) = (arrivals.clone(), n_arrived.clone(), failed.clone());
                    let (connecting, ready) = (connecting.clone(), ready.clone());
                    tokio::spawn(async move {
                        if let Err(error) = read_events(address, route, &connecting, ready, &arrivals[nth], &n_arrived).await {
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                        }
                    });
                }
                drop(ready);
                stop.cancelled().await;
            });
        };
        std::thread::Builder::new().name("stream clients".into()).spawn(body).map_err(|error| failed_with(&error))?;
        for _ in 0..streams {
            if opened.recv_timeout(PATIENCE).is_err() {
                return Err(clients.failure("not all streams were opened"));
            }
        }
        Ok(clients)
    }

    /// Waits until every client has this many events.
    fn wait_for(&self, events: usize) -> Result<(), WatcherError> {
        let wanted = (events * self.arrivals.len()) as u64;
        let began = Instant::now();
        while self.n_arrived.load(Ordering::Acquire) < wanted {
            if began.elapsed() > PATIENCE || self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return Err(self.failure("not all events arrived"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The number of each event among those recorded, and the milliseconds that it took, for all
    /// clients.
    fn latencies(&self, recorded: &[Instant]) -> Vec<(usize, f64)> {
        let mut rows = Vec::with_capacity(recorded.len() * self.arrivals.len());
        for arrivals in self.arrivals.iter() {
            let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            let took = |(nth, at): (usize, &Instant)| Some((nth, at.saturating_duration_since(*recorded.get(nth)?)));
            rows.extend(arrivals.iter().enumerate().filter_map(took).map(|(nth, took)| (nth, took.as_secs_f64() * 1e3)));
        }
        rows
    }

    fn failure(&self, what: &str) -> WatcherError {
        let reason = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reason = reason.unwrap_or_else(|| format!("{} s were not enough", PATIENCE.as_secs()));
        WatcherError::Failed(format!("{what}: {reason}; try fewer --streams"))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn failed_with(error: &std::io::Error) -> WatcherError {
    WatcherError::Failed(format!("the clients of the benchmark cannot be started: {error}"))
}

/// Opens one stream and notes when each event has arrived.
async fn read_events(
    address: SocketAddr,
    route: &str,
    connecting: &Semaphore,
    ready: std::sync::mpsc::SyncSender<()>,
    arrivals: &Mutex<Vec<Instant>>,
    n_arrived: &AtomicU64,
) -> std::io::Result<()> {
    let turn = connecting.acquire().await.map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {route} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let finder = Finder::new(END_OF_EVENT);
    let mut ready = Some(ready);
    let mut turn = Some(turn);
    // What was read last, as far as it can be the beginning of an end of an event.
    let mut tail: Vec<u8> = Vec::new();
    loop {
        stream.readable().await?;
        let mut n_events = 0;
        // Nothing waits while the buffer is in use, so a stack of it is enough for all clients.
        let n_read = BUFFER.with_borrow_mut(|buffer| -> std::io::Result<usize> {
            let n_read = stream.try_read(buffer)?;
            let read = &buffer[..n_read];
            let overlap = END_OF_EVENT.len() - 1;
            tail.extend(&read[..n_read.min(overlap)]);
            n_events = finder.find_iter(&tail).count() + finder.find_iter(read).count();
            if n_read >= overlap {
                tail = read[n_read - overlap..].to_vec();
            } else {
                tail.drain(..tail.len().saturating_sub(overlap));
            }
            Ok(n_read)
        });
        match n_read {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
            Ok(0) => return Err(std::io::Error::other("the server has ended a stream")),
            Ok(_) => {}
        }
        if let Some(ready) = ready.take() {
            // The head of the answer is here, so the stream is open.
            let _ = ready.send(());
            drop(turn.take());
        }
        if n_events > 0 {
            let now = Instant::now();
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).extend(std::iter::repeat_n(now, n_events));
            n_arrived.fetch_add(n_events as u64, Ordering::Release);
        }
    }
}

thread_local! {
    static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES]);
}
