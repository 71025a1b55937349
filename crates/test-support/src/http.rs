//! A minimal HTTP client and server for tests of the running program.

use crate::program::TEST_TIMEOUT;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Loopback with any free port.
pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Loopback with a port that was free a moment ago, for a program that cannot say which one it has
/// taken. It is below the ports that the system gives to outgoing connections, which would take it
/// again at once, and each call of a process returns another one.
pub fn free_port() -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(7_919);
    for _ in PORTS {
        let nth = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], (PORTS.start + nth) as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// Sends a GET and returns the JSON of a 200 answer. It returns `None` for any other status, such
/// as the 503 while the program starts.
pub fn get(address: SocketAddr, path: &str) -> Option<Value> {
    let (status, text) = get_any(address, path)?;
    if status != 200 {
        return None;
    }
    serde_json::from_str(text.get(text.find('{')?..=text.rfind('}')?)?).ok()
}

/// Sends a GET and returns the body.
pub fn get_text(address: SocketAddr, path: &str) -> Option<String> {
    get_any(address, path).map(|(_, text)| text)
}

/// Sends a GET and returns the status code and the body.
pub fn get_any(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    get_with(address, path, "")
}

/// As [`get_any`], with further lines in the head of the request, each ending in `\r\n`.
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Repeats a GET until it is answered with 200 and the answer is as `wanted`.
pub fn wait_until(address: SocketAddr, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + TEST_TIMEOUT;
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
    panic!("{path} never was as wanted; last: {last}");
}

/// A request that the server received.
pub struct Request {
    pub method: String,
    pub path: String,
    /// Headers by name, in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }
}

/// Answers requests until the test ends. `answer` returns the status code and the reason of each
/// answer. Answers have no body.
pub fn serve(address: SocketAddr, answer: impl Fn(Request) -> &'static str + Send + Sync + 'static) -> SocketAddr {
    serve_raw(address, move |request| {
        let status = answer(request);
        // An answer with status 204 must not have a length.
        let length = if status.starts_with("204") { "" } else { "Content-Length: 0\r\n" };
        format!("HTTP/1.1 {status}\r\n{length}\r\n").into_bytes()
    })
}

/// Answers requests until the test ends: with 200 and what `answer` returns, or with 404. A body
/// that begins with a brace is JSON, any other one is SSZ.
pub fn serve_bodies(address: SocketAddr, answer: impl Fn(Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> SocketAddr {
    serve_raw(address, move |request| {
        let (status, body) = answer(request).map_or(("404 Not Found", b"{}".to_vec()), |body| ("200 OK", body));
        let kind = if body.starts_with(b"{") { "application/json" } else { "application/octet-stream" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    })
}

fn serve_raw(address: SocketAddr, answer: impl Fn(Request) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while let Some(request) = read_request(&mut reader) {
                    if reader.get_mut().write_all(&answer(request)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let (method, path) = (method.to_owned(), rest.split(' ').next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}
