//! How a connection reaches its broker: by TCP, and by TLS over it where that is asked for. There is
//! no way from one to the other.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Runtime, Tokio,
    traits::Reactor,
    util::{RuntimeParts, SocketAddrs},
};
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, uri::AMQPUri};
use tokio::{net::lookup_host, sync::oneshot};

use super::{
    greeting::{Greeting, Product},
    login::Login,
};
use crate::config::{Address, Connector, Settings};

/// Opens a connection of the client library; over TLS if there is a connector. Sockets are of this
/// reactor.
///
/// Not as the library itself does: it adds an own authority to the public ones, leaves out what it
/// cannot read of it, and has to know the password.
pub(super) async fn connect<R>(
    settings: &Settings,
    address: &Address,
    connector: Option<Connector>,
    properties: ConnectionProperties,
    reactor: R,
    product: Arc<Product>,
) -> lapin::Result<Connection>
where
    R: Reactor + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let uri = settings.uri(address);
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Wired(reactor)));
    let name = settings.server_name(address);
    let mut wire = reach(&uri, &runtime, connector, name).await?;
    let (user, password) = settings.login();
    wire.login = Some(Login::new(user, password));
    wire.greeting = Some(Greeting::new(product));
    let (answered, waited_for) = oneshot::channel();
    wire.waited_for = Some(waited_for);
    // The library keeps a task for ever of each connection that it could not open itself (lapin 4.12.3), so it gets an open one.
    // It asks once: it is not told to try again, which would be a connection that it cannot open.
    let wire = Mutex::new(Some(wire));
    let open = async move |_: AMQPUri, _: Runtime<_>| {
        let wire = wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        let wire = wire.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok(AsyncTcpStream::Plain(wire))
    };
    let connected = Connection::connector(uri, runtime, open, properties).await;
    let _ = answered.send(());
    connected
}

/// A socket to the broker; with TLS if there is a connector.
async fn reach<R>(
    uri: &AMQPUri,
    runtime: &Runtime<RuntimeParts<Tokio, Wired<R>>>,
    connector: Option<Connector>,
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "TLS alone asks for the name")
    )]
    name: &str,
) -> io::Result<Wire<R::TcpStream>>
where
    R: Reactor + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    // The library's own look-up panics where the runtime ends meanwhile.
    let found = lookup_host((uri.authority.host.as_str(), uri.authority.port)).await?;
    let found: Vec<SocketAddr> = found.collect();
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_mut, reason = "TLS alone changes it")
    )]
    let mut wire = runtime.tcp_connect(SocketAddrs(found)).await?;
    match &connector {
        None => {}
        #[cfg(feature = "tls")]
        Some(connector) => wire.inner = wire.inner.into_rustls(connector, name).await?,
        #[cfg(not(feature = "tls"))]
        Some(never) => match *never {},
    }
    Ok(wire)
}

/// Makes wires of another reactor's sockets.
#[derive(Debug, Clone)]
struct Wired<R>(R);

/// A socket, with or without TLS, that puts the password in, and hears the broker's name.
struct Wire<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> {
    inner: AsyncTcpStream<S>,
    /// Until the broker has greeted.
    greeting: Option<Greeting>,
    /// Until the login is written.
    login: Option<Login>,
    /// What was taken from the client and not yet written.
    out: Vec<u8>,
    /// Until the handshake has an outcome. Ends in vain if nobody waits for one any more: the library would wait for ever for a peer
    /// that says nothing, with a thread and this socket.
    waited_for: Option<oneshot::Receiver<()>>,
}

impl<R: Reactor> Reactor for Wired<R> {
    type TcpStream = Wire<R::TcpStream>;
    type Sleep = R::Sleep;

    /// The client connects by address alone.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            let inner = AsyncTcpStream::Plain(connecting.await?);
            Ok(Wire {
                inner,
                greeting: None,
                login: None,
                out: Vec::new(),
                waited_for: None,
            })
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire<S> {
    fn inner(&mut self) -> Pin<&mut AsyncTcpStream<S>> {
        Pin::new(&mut self.inner)
    }

    /// Lets the broker's greeting be read.
    fn greeted(&mut self, bytes: &[u8]) {
        if let Some(greeting) = &mut self.greeting
            && greeting.read(bytes)
        {
            self.greeting = None;
        }
    }

    /// Fails once nobody waits for the outcome of the handshake any more.
    fn still_waited_for(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(waited_for) = &mut self.waited_for else {
            return Ok(());
        };
        // What has ended in vain stays so, and is not polled again.
        if !waited_for.is_terminated() {
            match Pin::new(waited_for).poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {
                    self.waited_for = None;
                    return Ok(());
                }
                Poll::Ready(Err(_)) => {}
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Writes what was taken.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.drain(..written);
        }
        if self.login.as_ref().is_some_and(Login::is_done) {
            self.login = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.still_waited_for(cx)?;
        let read = ready!(self.inner().poll_read(cx, buffer))?;
        self.greeted(buffer.get(..read).unwrap_or_default());
        Poll::Ready(Ok(read))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.greeting.is_none() && self.waited_for.is_none() {
            return self.inner().poll_read_vectored(cx, buffers);
        }
        let first = buffers.iter_mut().find(|buffer| !buffer.is_empty());
        self.poll_read(cx, first.map_or(&mut [], |buffer| buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        let Some(login) = &mut wire.login else {
            return wire.inner().poll_write(cx, buffer);
        };
        login.pass(buffer, &mut wire.out);
        // It is taken; what the socket does not take now goes with the next write or flush.
        match wire.poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(buffer.len())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.login.is_none() {
            return self.inner().poll_write_vectored(cx, buffers);
        }
        let first = buffers.iter().find(|buffer| !buffer.is_empty());
        self.poll_write(cx, first.map_or(&[], |buffer| buffer))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library flushes whenever it wakes, but reads only while it has room for what it reads.
        self.still_waited_for(cx)?;
        ready!(self.poll_out(cx))?;
        self.inner().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_close(cx)
    }
}
