//! One listener for each broker, made when its address is first told.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpListener, runtime::Handle};

use super::{answers::Answers, requests::Requests};
use crate::proxy::{ProxyError, carry, registry::Shared};

#[derive(Clone)]
pub(in crate::proxy) struct Nodes {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    handle: Handle,
    addresses: Mutex<HashMap<(String, i32), SocketAddr>>,
}

impl Nodes {
    pub(in crate::proxy) fn new(shared: &Arc<Shared>, handle: Handle) -> Self {
        let shared = Arc::clone(shared);
        let addresses = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                shared,
                handle,
                addresses,
            }),
        }
    }

    /// The proxy's address for a broker.
    pub(in crate::proxy) fn address_of(
        &self,
        host: &str,
        port: i32,
    ) -> Result<SocketAddr, ProxyError> {
        let mut addresses = self
            .inner
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = addresses.get(&(host.to_owned(), port)) {
            return Ok(*address);
        }
        if addresses.len() >= MOST_NODES {
            let why = format!("more than {MOST_NODES} brokers in one cluster");
            return Err(ProxyError::Kafka(why));
        }
        let (listener, address) = self.listen().map_err(ProxyError::Listen)?;
        let nodes = self.clone();
        let taps = move || {
            let requests = Requests::default();
            let answers = Answers::new(nodes.clone(), requests.pending());
            (requests, answers)
        };
        let shared = Arc::clone(&self.inner.shared);
        let accept = carry::accept(shared, listener, format!("{host}:{port}"), taps);
        self.inner.shared.spawn(&self.inner.handle, accept);
        addresses.insert((host.to_owned(), port), address);
        Ok(address)
    }

    fn listen(&self) -> std::io::Result<(TcpListener, SocketAddr)> {
        let listener = StdListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _inside = self.inner.handle.enter();
        Ok((TcpListener::from_std(listener)?, address))
    }
}

const MOST_NODES: usize = 1000;
