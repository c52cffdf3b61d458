//! A client and a server with a proxy between them.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use mq_testkit::proxy::Proxy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Both ends of a connection through a proxy.
pub(crate) struct Pair {
    pub(crate) proxy: Proxy,
    pub(crate) listener: TcpListener,
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = listener.local_addr().expect("its address").to_string();
        let proxy = Proxy::start(upstream).await.expect("a proxy");
        let (client, server) = connect(&proxy, &listener).await;
        Self {
            proxy,
            listener,
            client,
            server,
        }
    }

    /// One more connection.
    pub(crate) async fn another(&self) -> (TcpStream, TcpStream) {
        connect(&self.proxy, &self.listener).await
    }
}

async fn connect(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = soon(TcpStream::connect(proxy.address()))
        .await
        .expect("connected");
    let (server, _) = soon(listener.accept()).await.expect("accepted");
    // As many small writes as the test makes.
    client.set_nodelay(true).expect("set");
    server.set_nodelay(true).expect("set");
    (client, server)
}

/// A deadline for what must come.
pub(crate) async fn soon<T>(wait: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), wait)
        .await
        .expect("it came within 20 s")
}

/// Nothing can be read for a moment.
pub(crate) async fn silent(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    timeout(Duration::from_millis(60), stream.peek(&mut byte))
        .await
        .is_err()
}

/// Sends from one side, reads all of it at the other, and says how long that took.
pub(crate) async fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    let mut read = vec![0; bytes.len()];
    let (written, arrived) =
        soon(async { tokio::join!(from.write_all(bytes), to.read_exact(&mut read)) }).await;
    written.expect("written");
    arrived.expect("it arrives");
    assert!(read == bytes, "changed on the way");
    start.elapsed()
}

/// Bytes of which no two neighbours are equal.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    (0..count)
        .map(|at| u8::try_from(at % 251).expect("a byte"))
        .collect()
}
