//! A gate in front of a socket: it holds back a broker that pushes without waiting for an answer.
//!
//! A consumer without acknowledgements has no prefetch, and the client library reads whatever comes
//! into a buffer without bound. So the reading itself stops while enough messages wait. The sockets
//! fill up, and what is left stays with the broker.

use std::{
    fmt,
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use async_rs::{Tokio, traits::Reactor};
use futures::{AsyncRead, AsyncWrite, Stream};

/// Counts the messages that wait, and stops the reading when they are too many. A clone is the same
/// gate.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Mutex<State>>);

#[derive(Debug, Clone)]
pub(crate) struct GatedReactor {
    tokio: Tokio,
    gate: Gate,
}

/// A socket that is read when its gate lets it.
pub(crate) struct GatedStream<T> {
    inner: T,
    gate: Gate,
}

struct State {
    phase: Phase,
    /// The most messages that shall wait.
    room: usize,
    waiting: usize,
    full: bool,
    /// Bytes that may be read although it is full.
    breath: usize,
    /// What was read last may not have been counted yet.
    uncounted: bool,
    reader: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is held back: while connecting, and while closing.
    Free,
    /// So many bytes, until messages are counted.
    Arming(usize),
    Counting,
}

impl Gate {
    /// An open gate that will hold back more than `room` messages.
    pub(crate) fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::Free,
            room,
            waiting: 0,
            full: false,
            breath: 0,
            uncounted: false,
            reader: None,
        })))
    }

    /// What the client library's sockets are made by, so that they are behind this gate.
    pub(crate) fn reactor(&self) -> GatedReactor {
        GatedReactor {
            tokio: Tokio::current(),
            gate: self.clone(),
        }
    }

    /// Lets no more than one chunk through until [`count`](Self::count).
    pub(crate) fn arm(&self) {
        self.lock().phase = Phase::Arming(CHUNK);
    }

    /// From now on every message is told by [`enter`](Self::enter).
    pub(crate) fn count(&self) {
        self.go(|state| state.phase = Phase::Counting);
    }

    /// Holds nothing back any more, and counts nothing: what is read now, nobody takes.
    pub(crate) fn free(&self) {
        self.go(|state| state.phase = Phase::Free);
    }

    /// Counts a message that was read; false if the gate is given up, and the message with it.
    pub(crate) fn enter(&self) -> bool {
        let mut state = self.lock();
        if state.phase == Phase::Free {
            return false;
        }
        state.waiting += 1;
        state.full |= state.waiting >= state.room;
        true
    }

    /// Counts a message that was taken. Reading goes on when half of them are.
    pub(crate) fn leave(&self) {
        self.go(|state| {
            state.waiting = state.waiting.saturating_sub(1);
            state.full &= state.waiting > state.room / 2;
        });
    }

    /// Lets a few bytes through a full gate: who reads nothing takes the broker for dead.
    pub(crate) fn breathe(&self, bytes: usize) {
        self.go(|state| state.breath = if state.full { bytes } else { 0 });
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Changes the state, and wakes the reader if it may go on.
    fn go(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let reader = if state.allowed() > 0 {
            state.reader.take()
        } else {
            None
        };
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// How many bytes may be read now.
    fn admit(&self, cx: &Context<'_>) -> Poll<usize> {
        let mut state = self.lock();
        let allowed = state.allowed();
        if allowed == 0 {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // The client reads on as long as there is something, and looks at it only then.
        if std::mem::take(&mut state.uncounted) && state.phase != Phase::Free {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(allowed)
    }

    fn read(&self, bytes: usize) {
        let mut state = self.lock();
        match &mut state.phase {
            Phase::Free => {}
            Phase::Arming(left) => *left = left.saturating_sub(bytes),
            Phase::Counting => {
                state.uncounted = true;
                state.breath = state.breath.saturating_sub(bytes);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is behind this lock is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn allowed(&self) -> usize {
        match self.phase {
            Phase::Free => usize::MAX,
            Phase::Arming(left) => left,
            Phase::Counting if self.full => self.breath,
            Phase::Counting => CHUNK,
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Gate")
            .field("phase", &state.phase)
            .field("waiting", &state.waiting)
            .field("full", &state.full)
            .finish_non_exhaustive()
    }
}

impl Reactor for GatedReactor {
    type TcpStream = GatedStream<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// The client connects by address alone.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (connecting, gate) = (self.tokio.tcp_connect_addr(address), self.gate.clone());
        async move {
            let inner = connecting.await?;
            Ok(GatedStream { inner, gate })
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GatedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.gate.admit(cx)).min(buffer.len());
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer[..allowed]))?;
        self.gate.read(read);
        Poll::Ready(Ok(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GatedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// The most bytes that are read before the messages in them are counted. A TLS record fits.
pub(crate) const CHUNK: usize = 32 * 1024;
