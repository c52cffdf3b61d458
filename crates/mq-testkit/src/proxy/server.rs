//! The proxy: its listeners, its switches, its end.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use tokio::{net::TcpListener, runtime::Handle};

use super::{
    Connection, Counters, Direction, Fault, ProxyError, Run, Script, carry, pump::Tap,
    registry::Shared,
};
use crate::history::Recorder;

/// A TCP proxy on a port of its own on 127.0.0.1, with faults.
///
/// Dropping it ends its tasks and closes its sockets, when the runtime gets to it;
/// [`close`](Proxy::close) waits until that is done.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    handle: Handle,
}

impl Proxy {
    /// A proxy in front of a server, `host:port`. The server need not be there: each connection is
    /// made when a client comes, and a client whose connection cannot be made is reset.
    ///
    /// # Errors
    /// [`ProxyError::Address`], [`ProxyError::Listen`].
    ///
    /// # Cancel safety
    /// Safe: dropped, it leaves no listener behind.
    ///
    /// # Panics
    /// Outside a Tokio runtime with its drivers on.
    pub async fn start(upstream: impl Into<String>) -> Result<Self, ProxyError> {
        let (upstream, _) = checked(upstream.into())?;
        let listener = listen().await?;
        let mut proxy = Self::new();
        proxy.add(&listener)?;
        let shared = Arc::clone(&proxy.shared);
        let accept = carry::accept(shared, listener, upstream, || (Plain, Plain));
        proxy.shared.spawn(&proxy.handle, accept);
        Ok(proxy)
    }

    /// A proxy in front of a Kafka cluster: `host:port` of some of its brokers, separated by commas,
    /// with listeners without TLS.
    ///
    /// There is a port for each of them, and one more for each broker whose address an answer tells
    /// to a client (Metadata, FindCoordinator, DescribeCluster, and the new leaders in answers to
    /// Produce, Fetch, ShareFetch and ShareAcknowledge): the answer is changed to that port. All are
    /// under the same faults. SASL passes.
    ///
    /// So that no address slips through, ApiVersions answers are changed to name no version that the
    /// proxy does not understand. A client that uses one all the same, TLS, or SaslHandshake version 0
    /// is reset, and [`failure`](Proxy::failure) says why. DescribeQuorum is held to version 1, which
    /// names no addresses. An answer that holds addresses is kept until it is whole, up to 128 MiB.
    ///
    /// # Errors
    /// [`ProxyError::Address`], [`ProxyError::Listen`].
    ///
    /// # Cancel safety
    /// As [`start`](Proxy::start).
    ///
    /// # Panics
    /// As [`start`](Proxy::start).
    #[cfg(feature = "kafka-proxy")]
    pub async fn start_kafka(servers: &str) -> Result<Self, ProxyError> {
        use super::kafka::Nodes;

        let servers = servers.split(',').map(|server| checked(server.to_owned()));
        let servers: Vec<(String, u16)> = servers.collect::<Result<_, _>>()?;
        let mut proxy = Self::new();
        let nodes = Nodes::new(&proxy.shared, proxy.handle.clone());
        for (server, port) in servers {
            let host = server.rsplit_once(':').map_or("", |(host, _)| host);
            proxy
                .addresses
                .push(nodes.address_of(host, i32::from(port))?);
        }
        Ok(proxy)
    }

    /// Where clients connect; in front of Kafka, the first server's.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where Kafka clients connect: one address for each server given, separated by commas.
    #[cfg(feature = "kafka-proxy")]
    pub fn servers(&self) -> String {
        let servers: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        servers.join(",")
    }

    /// Sets a fault for the connections there are and those to come, beside the faults of other kinds
    /// that are on; one of the same kind is replaced.
    pub fn set(&self, direction: Direction, fault: Fault) {
        self.shared.set(direction, fault);
    }

    /// Clears all faults and sets this one, in one step: nothing passes between the two.
    pub fn replace(&self, direction: Direction, fault: Fault) {
        self.shared.replace(direction, fault);
    }

    /// Clears all faults, of all connections. What waited passes.
    pub fn clear(&self) {
        self.shared.clear();
    }

    /// Ends all connections there are at once, both ways, in the regular way (FIN). What a fault kept
    /// waiting is lost.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// The connections there are, in the order in which they came.
    pub fn connections(&self) -> Vec<Connection> {
        self.shared.connections()
    }

    /// What passed so far, and how often a fault acted.
    pub fn counters(&self) -> Counters {
        self.shared.count.now()
    }

    /// Waits until the counters are as wanted, and returns them. It has no deadline of its own.
    ///
    /// # Cancel safety
    /// Dropped, nothing has changed.
    pub async fn until(&self, wanted: impl FnMut(Counters) -> bool) -> Counters {
        self.shared.count.until(wanted).await
    }

    /// Runs a script in the background, and seeds the jitter of all connections with its seed. After
    /// each step it clears all faults of the proxy, so set no others meanwhile.
    pub fn run(&self, script: Script) -> Run {
        Run::start(&self.shared, &self.handle, script)
    }

    /// From now on, records when a fault begins (before it is on) and when it is healed (after it
    /// is off), by the name of its direction and its text: `both ways: black hole`. A write that
    /// fails is told by [`failure`](Proxy::failure).
    pub fn record_to(&self, recorder: Arc<Recorder>) {
        self.shared.record_to(recorder);
    }

    /// What went wrong first in the background, if something did: the server could not be reached,
    /// the history could not be written, or the connection's protocol could not be followed. A test
    /// that expects none of them asks for it at its end.
    pub fn failure(&self) -> Option<Arc<ProxyError>> {
        self.shared.failure()
    }

    /// Ends all connections and waits until no task and no socket is left.
    ///
    /// # Cancel safety
    /// Dropped, it is the same as dropping the proxy.
    pub async fn close(self) {
        let mut tasks = self.shared.close();
        tasks.shutdown().await;
    }

    fn new() -> Self {
        Self {
            shared: Arc::default(),
            addresses: Vec::new(),
            handle: Handle::current(),
        }
    }

    fn add(&mut self, listener: &TcpListener) -> Result<(), ProxyError> {
        let address = listener.local_addr().map_err(ProxyError::Listen)?;
        self.addresses.push(address);
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.shared.close());
    }
}

/// What passes is of no interest.
struct Plain;

impl Tap for Plain {
    fn pass(&mut self, bytes: &[u8], to: &mut BytesMut) -> Result<(), ProxyError> {
        to.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, _: &mut BytesMut) {}
}

async fn listen() -> Result<TcpListener, ProxyError> {
    TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(ProxyError::Listen)
}

/// The address without blanks, and its port.
fn checked(address: String) -> Result<(String, u16), ProxyError> {
    let address = address.trim();
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse().ok())
        .filter(|port| *port != 0);
    match port {
        Some(port) => Ok((address.to_owned(), port)),
        None => Err(ProxyError::Address(address.to_owned())),
    }
}
