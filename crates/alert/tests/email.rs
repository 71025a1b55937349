//! Email over TLS: the password goes only to a server whose certificate is vouched for. And what is
//! wrong with the configuration is told.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use alert::{RetryPolicy, RouteConfig, Routes, SinkConfig};
use evidence::Time;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use test_support::http::anywhere;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How a mail server offers TLS.
#[derive(Clone, Copy, PartialEq)]
enum Offer {
    Starttls,
    FromTheFirstByte,
    /// Somebody on the way removes the offer.
    Nothing,
}

/// A mail server with a certificate of its own, which is written to `certificate`. Returns its
/// address and the commands that it gets.
async fn server(offer: Offer, certificate: &Path) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(certificate, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let commands = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut plain = BufReader::new(stream);
            let to_tls = match offer {
                Offer::FromTheFirstByte => true,
                Offer::Starttls | Offer::Nothing => converse(&mut plain, true, offer == Offer::Starttls, &commands).await,
            };
            if to_tls && let Ok(stream) = acceptor.accept(plain.into_inner()).await {
                converse(&mut BufReader::new(stream), offer == Offer::FromTheFirstByte, false, &commands).await;
            }
        }
    });
    (address, seen)
}

/// Answers commands to the end. Returns early, with `true`, where the client begins TLS.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    greets: bool,
    offers: bool,
    seen: &Mutex<Vec<String>>,
) -> bool {
    if greets {
        stream.get_mut().write_all(b"220 mail.test ESMTP\r\n").await.unwrap();
    }
    let mut line = String::new();
    while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
        let command = std::mem::take(&mut line).trim_end().to_owned();
        seen.lock().unwrap().push(command.clone());
        let answer = match command.as_str() {
            "EHLO [127.0.0.1]" if offers => "250-mail.test\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n",
            "EHLO [127.0.0.1]" => "250-mail.test\r\n250 AUTH PLAIN\r\n",
            "STARTTLS" => "220 go on\r\n",
            "DATA" => "354 go on\r\n",
            "." | "QUIT" => "221 done\r\n",
            _ if command.contains(": ") || command.is_empty() || command.ends_with("has happened.") => continue,
            _ => "250 ok\r\n",
        };
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        if command == "STARTTLS" {
            return true;
        }
    }
    false
}

fn config(change: Value) -> SinkConfig {
    let mut keys = json!({ "type": "email", "server": "localhost", "from": "watch@acme.test", "to": ["oncall@acme.test"] });
    keys.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(keys).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_goes_only_to_a_server_that_is_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    let (password, certificate) = (dir.path().join("password"), dir.path().join("mail.pem"));
    std::fs::write(&password, "hunter2").unwrap();
    for (offer, encryption, vouched, wanted) in [
        (Offer::Starttls, "starttls", true, Ok(())),
        (Offer::FromTheFirstByte, "tls", true, Ok(())),
        (Offer::Starttls, "starttls", false, Err("certificate")),
        (Offer::FromTheFirstByte, "tls", false, Err("certificate")),
        (Offer::Nothing, "starttls", true, Err("STARTTLS is not supported")),
    ] {
        let (address, seen) = server(offer, &certificate).await;
        let mut keys = json!({ "port": address.port(), "encryption": encryption, "user": "watch", "secret_file": password });
        if vouched {
            keys["ca_file"] = json!(certificate);
        }
        let routes = Routes::new(&[RouteConfig::new("mail", config(keys))], RetryPolicy::DEFAULT).unwrap();
        let report = routes.test("mail", Time::now()).await.unwrap();
        let seen = seen.lock().unwrap().clone();
        let has_password = seen.iter().any(|command| command.starts_with("AUTH"));
        match wanted {
            Ok(()) => assert!(report.result.is_ok() && has_password, "{encryption}: {:?}, {seen:?}", report.result),
            Err(word) => {
                let reason = report.result.unwrap_err();
                assert!(reason.contains(word) && !reason.contains("hunter2"), "{encryption}: {reason}");
                assert!(!has_password, "{encryption}: {seen:?}");
            }
        }
    }
}

#[test]
fn what_is_wrong_with_the_keys_is_told_with_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.pem");
    std::fs::write(&junk, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let many = vec!["a@acme.test"; 33];
    for (keys, wrong) in [
        (json!({}), vec![]),
        (json!({ "server": "mail.acme.test", "encryption": "none", "allow_plaintext": true }), vec![]),
        (json!({ "server": "::1", "encryption": "none" }), vec![]),
        (json!({ "server": "mail.acme.test", "encryption": "none" }), vec!["encryption"]),
        (json!({ "server": "smtp://mail.acme.test", "port": 0 }), vec!["server", "port"]),
        (json!({ "server": "" }), vec!["server"]),
        (json!({ "from": "nobody", "to": ["a@acme.test", "x\ny@acme.test", "jörg@acme.test"] }), vec!["from", "to[1]", "to[2]"]),
        (json!({ "to": [] }), vec!["to"]),
        (json!({ "to": many }), vec!["to"]),
        (json!({ "user": "watch" }), vec!["secret_file"]),
        (json!({ "secret_file": junk }), vec!["user"]),
        (json!({ "ca_file": "/no/such/file.pem" }), vec!["ca_file"]),
        (json!({ "ca_file": junk }), vec!["ca_file"]),
        (json!({ "encryption": "none", "ca_file": junk }), vec!["ca_file"]),
        (json!({ "timeout": "1h" }), vec!["timeout"]),
    ] {
        let mut told = Vec::new();
        config(keys.clone()).problems(&mut |key, _| told.push(key.to_owned()));
        assert_eq!(told, wrong, "{keys}");
    }
}
