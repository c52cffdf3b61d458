//! A connection through the proxy, from accept to its end.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{
    Direction, ProxyError,
    pump::{Pump, Stop, Tap},
    registry::{End, Line, Shared},
};

/// Accepts for as long as the proxy lives.
pub(super) async fn accept<M, U, D>(
    shared: Arc<Shared>,
    listener: TcpListener,
    upstream: String,
    taps: M,
) where
    M: Fn() -> (U, D) + Send + 'static,
    U: Tap + 'static,
    D: Tap + 'static,
{
    let handle = Handle::current();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (up, down) = taps();
                let carried = Carried::new(&shared, client);
                shared.spawn(&handle, carried.run(upstream.clone(), up, down));
            }
            // Out of file descriptors, most of all: it may get better.
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Counts the connection out when it ends, in whatever way.
struct Carried {
    shared: Arc<Shared>,
    /// None if it is to be refused.
    line: Option<Arc<Line>>,
    client: TcpStream,
}

impl Carried {
    /// Counted before the task runs, so that a connection that is accepted is seen.
    fn new(shared: &Arc<Shared>, client: TcpStream) -> Self {
        Self {
            line: shared.open(),
            shared: Arc::clone(shared),
            client,
        }
    }

    async fn run(mut self, upstream: String, up: impl Tap, down: impl Tap) {
        let Some(line) = self.line.clone() else {
            return self.refuse();
        };
        let mut asked = line.end.subscribe();
        let connected = timeout(CONNECT, TcpStream::connect(&upstream));
        let connected = tokio::select! {
            end = ended(&mut asked) => {
                if end == End::Regular || matches!(end, End::Reset(direction) if direction.to_client()) {
                    reset(&self.client);
                }
                self.shared.count.cut();
                return;
            }
            connected = connected => connected.unwrap_or_else(|late| Err(late.into())),
        };
        let mut broker = match connected {
            Ok(broker) => broker,
            Err(source) => {
                self.shared
                    .failed(ProxyError::Upstream { upstream, source });
                return self.refuse();
            }
        };
        // Slices are to go out one by one.
        let _ = self.client.set_nodelay(true);
        let _ = broker.set_nodelay(true);
        let end = self.pass(&line, &mut broker, &mut asked, up, down).await;
        // No fault can reach it any more.
        self.shared.forget(line.number);
        match end {
            None => {}
            Some(End::Reset(direction)) => {
                if direction.to_client() {
                    reset(&self.client);
                }
                if direction.to_broker() {
                    reset(&broker);
                }
            }
            Some(End::Regular) => linger(&mut self.client, &mut broker).await,
        }
    }

    /// Passes bytes both ways until the end, and says how to end it if that is not done.
    async fn pass(
        &mut self,
        line: &Line,
        broker: &mut TcpStream,
        asked: &mut tokio::sync::watch::Receiver<Option<End>>,
        up: impl Tap,
        down: impl Tap,
    ) -> Option<End> {
        let count = &self.shared.count;
        let (from_client, to_client) = self.client.split();
        let (from_broker, to_broker) = broker.split();
        let faults = line.to_broker.subscribe();
        let up = Pump::new(from_client, to_broker, faults, count, true, line.number, up);
        let faults = line.to_client.subscribe();
        let down = Pump::new(
            from_broker,
            to_client,
            faults,
            count,
            false,
            line.number,
            down,
        );
        let stop = tokio::select! {
            biased;
            end = ended(asked) => {
                count.cut();
                return Some(end);
            }
            passed = async { tokio::try_join!(up.run(), down.run()) } => passed,
        };
        match stop {
            Ok(_) => None,
            Err(Stop::Cut) => {
                count.cut();
                Some(End::Regular)
            }
            Err(Stop::Broken) => Some(End::Reset(Direction::Both)),
            Err(Stop::Failed(error)) => {
                self.shared.failed(error);
                Some(End::Reset(Direction::Both))
            }
        }
    }

    fn refuse(self) {
        self.shared.count.refused();
        reset(&self.client);
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            self.shared.forget(line.number);
        }
        self.shared.count.ended();
    }
}

/// When and how it was asked to end.
async fn ended(asked: &mut tokio::sync::watch::Receiver<Option<End>>) -> End {
    match asked.wait_for(Option::is_some).await.map(|end| *end) {
        Ok(Some(end)) => end,
        // The line is held by the connection itself.
        _ => std::future::pending().await,
    }
}

fn reset(stream: &TcpStream) {
    // Fails only where there is nothing left to reset.
    let _ = stream.set_zero_linger();
}

/// Ends both sides in a way that lets them read what was sent: a socket that is closed with bytes
/// unread would reset, and take them away.
async fn linger(client: &mut TcpStream, broker: &mut TcpStream) {
    let both = async { tokio::join!(drain(client), drain(broker)) };
    let _ = timeout(LINGER, both).await;
}

async fn drain(stream: &mut TcpStream) {
    use tokio::io::AsyncWriteExt;
    if stream.shutdown().await.is_ok() {
        let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
    }
}

const CONNECT: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(1);
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
