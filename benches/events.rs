//! Sends findings through the event stream, over a loopback socket. It measures a client that
//! connects late and reads a backlog, and one live finding from its record to the client.

use crate::Ratio;
use api::ApiParts;
use consensus::{Epoch, ForkName, Network, Root, Slot, ValidatorIndex};
use criterion::{Criterion, Throughput};
use evidence::{Evidence, EvidenceKind, Finding, OffenceFacts, Store, Time};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const NETWORK: Root = Root::repeat_byte(0x4e);
const BACKLOG: u64 = 1000;

pub fn run(criterion: &mut Criterion) -> Vec<Ratio> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), NETWORK).unwrap();
    store.record((1..=BACKLOG).map(finding).collect(), &[]).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let address = runtime.block_on(serve(store.clone(), stop.clone()));

    let mut group = criterion.benchmark_group("events");
    group.throughput(Throughput::Elements(BACKLOG));
    group.bench_function("backlog_over_the_stream", |bencher| {
        bencher.iter(|| Client::connect(address, 0).read(BACKLOG));
    });
    group.bench_function("backlog_read_from_the_store", |bencher| {
        bencher.iter(|| {
            let found = store.findings_after(0, BACKLOG as usize).unwrap();
            found.iter().map(|(_, finding)| serde_json::to_string(finding).unwrap().len()).sum::<usize>()
        });
    });
    group.throughput(Throughput::Elements(1));
    let mut nth = BACKLOG;
    let mut live = |is_read: bool, n: u64| {
        let mut client = Client::connect(address, store.last_seq() - 1);
        client.read(1);
        let mut took = Duration::ZERO;
        for _ in 0..n {
            nth += 1;
            let one = vec![finding(nth)];
            let started = Instant::now();
            store.record(one, &[]).unwrap();
            if is_read {
                client.read(1);
            }
            took += started.elapsed();
        }
        took
    };
    group.bench_function("one_recorded_and_read_live", |bencher| bencher.iter_custom(|n| live(true, n)));
    group.bench_function("one_recorded", |bencher| bencher.iter_custom(|n| live(false, n)));
    group.finish();
    stop.cancel();
    runtime.shutdown_timeout(Duration::from_secs(5));
    let ratio = |slow, fast, n, says| Ratio { group: "events", slow: (slow, n), fast: (fast, n), says };
    vec![
        ratio(
            "backlog_over_the_stream",
            "backlog_read_from_the_store",
            BACKLOG,
            "times as long as reading them from the store takes a backlog of findings to a client of the stream",
        ),
        ratio(
            "one_recorded_and_read_live",
            "one_recorded",
            1,
            "times as long as recording it takes a finding to a client's hands",
        ),
    ]
}

/// A reader of the event stream.
struct Client {
    lines: BufReader<TcpStream>,
}

impl Client {
    /// Connects and asks for the events after this number.
    fn connect(address: SocketAddr, after: u64) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET /v1/events?after={after} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        Self { lines: BufReader::new(stream) }
    }

    /// Reads `n` findings.
    fn read(&mut self, n: u64) {
        let mut line = String::new();
        let mut n_read = 0;
        while n_read < n {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the stream goes on");
            n_read += u64::from(line.starts_with("id:"));
        }
    }
}

async fn serve(store: Store, stop: CancellationToken) -> SocketAddr {
    let listener = api::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.address();
    let mainnet = Network::builtin("mainnet").expect("it is built in");
    let parts = ApiParts::of_store(store, Network { genesis_validators_root: NETWORK, ..mainnet });
    tokio::spawn(api::serve(listener, parts, stop));
    address
}

fn finding(slot: u64) -> (Finding, Arc<Evidence>) {
    let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![slot as u8; 700], serde_json::json!({}));
    let mut root = [0; 32];
    root[..8].copy_from_slice(&slot.to_le_bytes());
    let facts = OffenceFacts {
        genesis_validators_root: NETWORK,
        validator: ValidatorIndex::new(slot),
        roots: [Root::from(root), Root::repeat_byte(0xff)],
        slot: Slot::new(slot),
        epoch: Epoch::new(slot / 32),
        seen: [Time::from_unix_ns(slot); 2],
        recorded_at: Time::from_unix_ns(slot),
        ..OffenceFacts::sample()
    };
    (Finding::slashable(facts, &evidence), Arc::new(evidence))
}
