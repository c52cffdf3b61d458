//! Connecting to what is not there: a typed error, in bounded time, without any broker.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

use std::time::{Duration, Instant};

use mq_kafka::{Kafka, Tls, core::ErrorKind};
use tokio::{net::TcpListener, time::timeout};

async fn fails(servers: &str, tls: bool) -> (ErrorKind, String) {
    let mut builder = Kafka::builder(servers)
        .connect_timeout(Duration::from_millis(800))
        .publish_timeout(Duration::from_secs(1));
    if tls {
        builder = builder.tls(Tls::new());
    }
    let start = Instant::now();
    let error = timeout(Duration::from_secs(10), builder.connect())
        .await
        .expect("it ends by itself")
        .expect_err("nobody is there");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(error.context("servers"), Some(servers), "{error}");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn a_refused_connection_is_told() {
    let (kind, text) = fails("127.0.0.1:1", false).await;
    assert_eq!(kind, ErrorKind::Connect);
    assert!(
        text.contains("127.0.0.1:1") && text.contains("check the addresses"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unknown_host_is_told() {
    let (kind, _) = fails("no.such.host.invalid:9092", false).await;
    assert_eq!(kind, ErrorKind::Connect);
}

#[tokio::test]
async fn a_listener_that_never_answers_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    for tls in [false, true] {
        let silent = async {
            let mut open = Vec::new();
            loop {
                open.push(listener.accept().await);
            }
        };
        let (kind, _) = tokio::select! {
            failed = fails(&address, tls) => failed,
            () = silent => unreachable!("it accepts for ever"),
        };
        assert!(
            matches!(kind, ErrorKind::Connect | ErrorKind::Timeout),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn a_listener_that_speaks_something_else_is_told() {
    use tokio::io::AsyncWriteExt;

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let web = async {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a client");
            // It may have hung up already.
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    };
    let (kind, _) = tokio::select! {
        failed = fails(&address, false) => failed,
        () = web => unreachable!("it answers for ever"),
    };
    assert!(
        matches!(kind, ErrorKind::Connect | ErrorKind::Broker),
        "{kind:?}"
    );
}
