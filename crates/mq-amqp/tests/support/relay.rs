//! A TCP relay between client and broker that can be cut, stopped, and read.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use mq_testkit::{Check, Failure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A relay on a port of its own.
pub struct Relay {
    address: SocketAddr,
    url: String,
    state: Arc<State>,
    accept: JoinHandle<()>,
}

struct State {
    flow: watch::Sender<Flow>,
    /// So many times all connections of the moment were cut.
    cuts: watch::Sender<u32>,
    /// What each connection wrote to the broker.
    written: Mutex<Vec<Vec<u8>>>,
    /// A client wrote while nothing passes.
    held: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// Nothing passes, and nobody is told.
    Frozen,
    /// The broker is sent bytes that are no frame, so that it closes the connection by its rules.
    Garbage,
    /// Both sides are cut off.
    Cut,
}

/// A settlement that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Ack { tag: u64, multiple: bool },
    Reject { tag: u64, requeue: bool },
    Nack { tag: u64, requeue: bool },
}

impl Relay {
    /// A relay to the broker of a URL.
    pub async fn start(url: &str) -> Check<Self> {
        let broker = url::Url::parse(url)?;
        let host = broker
            .host_str()
            .ok_or_else(|| Failure::new("the URL has no host"))?;
        let upstream = format!("{host}:{}", broker.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let own = url.replacen(&upstream, &address.to_string(), 1);
        let state = Arc::new(State {
            flow: watch::channel(Flow::Open).0,
            cuts: watch::channel(0).0,
            written: Mutex::default(),
            held: watch::channel(false).0,
        });
        let shared = Arc::clone(&state);
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cuts = shared.cuts.subscribe();
                let carried = carry(client, upstream.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    tokio::select! {
                        () = carried => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            url: own,
            state,
            accept,
        })
    }

    /// The broker's URL through this relay.
    pub fn url(&self) -> &str {
        assert!(
            self.url.contains(&self.address.port().to_string()),
            "the port is in the URL"
        );
        &self.url
    }

    pub fn set(&self, flow: Flow) {
        self.state.held.send_replace(false);
        self.state.flow.send_replace(flow);
    }

    /// Cuts the connections of the moment; new ones pass.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a client has written something that a frozen relay does not pass on.
    pub async fn until_held(&self) {
        let mut held = self.state.held.subscribe();
        // The sender is in `self`.
        let _ = held.wait_for(|held| *held).await;
    }

    /// What clients settled, in order, connection by connection.
    pub fn settlements(&self) -> Vec<Settled> {
        let written = self.state.written.lock().expect("no panic inside");
        written
            .iter()
            .flat_map(|bytes| settlements(bytes))
            .collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn carry(mut client: TcpStream, upstream: String, state: Arc<State>) {
    let Ok(mut broker) = TcpStream::connect(upstream).await else {
        return;
    };
    let index = {
        let mut written = state.written.lock().expect("no panic inside");
        written.push(Vec::new());
        written.len() - 1
    };
    let mut flow = state.flow.subscribe();
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    let (mut held, mut byte) = (false, [0]);
    loop {
        let now = *flow.borrow_and_update();
        let moved = match now {
            Flow::Cut => return,
            Flow::Frozen => tokio::select! {
                changed = flow.changed() => changed.is_ok(),
                // `readable` alone may speak of what was read before.
                waiting = client.peek(&mut byte), if !held => {
                    held = true;
                    state.held.send_replace(true);
                    waiting.is_ok()
                }
            },
            Flow::Garbage => {
                let _ = broker.write_all(&[0xff; 64]).await;
                // Only the broker's word passes from here on.
                tokio::io::copy(&mut broker, &mut client).await.is_err()
            }
            Flow::Open => tokio::select! {
                // A fault that is set comes before what is written after it.
                biased;
                changed = flow.changed() => changed.is_ok(),
                read = client.read(&mut up) => match read {
                    Ok(n) if n > 0 => {
                        state.written.lock().expect("no panic inside")[index].extend(&up[..n]);
                        broker.write_all(&up[..n]).await.is_ok()
                    }
                    _ => false,
                },
                read = broker.read(&mut down) => match read {
                    Ok(n) if n > 0 => client.write_all(&down[..n]).await.is_ok(),
                    _ => false,
                },
            },
        };
        if !moved {
            return;
        }
    }
}

/// The basic class's settlements among the frames of a connection (AMQP 0-9-1, section 2.3.5).
fn settlements(bytes: &[u8]) -> Vec<Settled> {
    let mut found = Vec::new();
    let mut rest = bytes.get(8..).unwrap_or_default();
    while rest.len() > 7 {
        let size = u32::from_be_bytes([rest[3], rest[4], rest[5], rest[6]]) as usize;
        let Some(body) = rest.get(7..7 + size) else {
            break;
        };
        if rest[0] == 1 && body.len() >= 13 && body[..2] == [0, 60] {
            let tag = u64::from_be_bytes(body[4..12].try_into().expect("eight bytes"));
            let bits = body[12];
            match u16::from_be_bytes([body[2], body[3]]) {
                80 => found.push(Settled::Ack {
                    tag,
                    multiple: bits & 1 == 1,
                }),
                90 => found.push(Settled::Reject {
                    tag,
                    requeue: bits & 1 == 1,
                }),
                120 => found.push(Settled::Nack {
                    tag,
                    requeue: bits & 2 == 2,
                }),
                _ => {}
            }
        }
        rest = &rest[7 + size + 1..];
    }
    found
}
