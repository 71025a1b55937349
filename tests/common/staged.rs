//! A simulated network on loopback, a configuration that watches it, and the API of the watcher that runs on it.

use super::running::{PATIENCE, free_port};
use serde_json::Value;
use simulator::SimNetwork;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

pub struct Stage {
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    pub api: SocketAddr,
}

impl Stage {
    /// A fresh directory with the network's files and a configuration, to which `more` is added.
    pub fn new(network: &SimNetwork, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let api = free_port();
        std::fs::write(dir.path().join("network.yaml"), network.config_yaml()).expect("writable");
        std::fs::write(dir.path().join("genesis.ssz"), network.state_ssz()).expect("writable");
        let text = format!(
            "data_dir = \"data\"\n[network]\nconfig = \"network.yaml\"\nstate = \"genesis.ssz\"\n[gossip]\n\
             listen = [\"/ip4/127.0.0.1/tcp/0\"]\npeers = {:?}\n[api]\nlisten = \"{api}\"\n{more}",
            network.peers()
        );
        let config = dir.path().join("slashwatch.toml");
        std::fs::write(&config, text).expect("writable");
        Self { dir, config, api }
    }

    /// All rows of a list of the API (`findings`, `incidents`), page by page.
    pub fn all(&self, list: &str) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(self.api, &format!("/v1/{list}?limit=500{cursor}")).expect("the API answers");
            rows.extend(page[list].as_array().expect("a list").iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
}

/// One GET, one body.
pub fn get(address: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let body = text.split_once("\r\n\r\n")?.1;
    serde_json::from_str(body.get(body.find('{')?..=body.rfind('}')?)?).ok()
}

/// Asks again until the answer is as wanted.
pub fn wait_until(address: SocketAddr, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    let mut last = Value::Null;
    while Instant::now() < until {
        if let Some(answer) = get(address, path) {
            if wanted(&answer) {
                return answer;
            }
            last = answer;
        }
        std::thread::yield_now();
    }
    let n = last["findings"].as_array().map_or(0, Vec::len);
    panic!("{path} never was as wanted; last, with {n} findings: {last}");
}
