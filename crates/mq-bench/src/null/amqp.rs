//! A null broker that speaks AMQP 0-9-1, and says that it is a RabbitMQ.
//!
//! Every queue and exchange is there, whatever its name. What is published is swallowed, and confirmed with one
//! `basic.ack` for all that one read of the socket completed. A queue delivers its messages from number 0 on, shared among
//! its consumers; it begins again when the last of them has left. What comes back unsettled is not delivered again.
//!
//! The count that a queue tells is of the messages that it had at first and those that were published by its name, without
//! those that were acknowledged.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    mem,
    net::{TcpListener, TcpStream},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::Deliveries;

/// Serves whoever connects, for ever.
///
/// # Errors
/// Those of accepting a connection, and of starting a thread. What goes wrong with one connection ends that one alone.
pub(super) fn serve(listener: TcpListener, deliveries: Deliveries) -> io::Result<()> {
    let broker = Arc::new(Broker::new(deliveries));
    loop {
        let (socket, _) = listener.accept()?;
        let broker = Arc::clone(&broker);
        let serve = move || match converse(socket, &broker) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                eprintln!("null broker: AMQP: {error}");
            }
            // Clients come and go, and some do not say good-bye.
            Ok(()) | Err(_) => {}
        };
        thread::Builder::new()
            .name("null-amqp".into())
            .spawn(serve)?;
    }
}

/// What the connections share.
struct Broker {
    deliveries: Deliveries,
    queues: Mutex<HashMap<Vec<u8>, Queue>>,
    /// For the names that the broker makes up.
    names: AtomicU64,
}

type Queue = Arc<Mutex<Progress>>;

/// How far the consumers of a queue are, and its publishers.
#[derive(Default)]
struct Progress {
    next: u64,
    consumers: u32,
    published: u64,
    acked: u64,
}

impl Broker {
    fn new(deliveries: Deliveries) -> Self {
        let (queues, names) = (Mutex::default(), AtomicU64::new(1));
        Self {
            deliveries,
            queues,
            names,
        }
    }

    fn queue(&self, name: &[u8]) -> Queue {
        let mut queues = lock(&self.queues);
        match queues.get(name) {
            Some(queue) => Arc::clone(queue),
            None => Arc::clone(queues.entry(name.to_owned()).or_default()),
        }
    }

    /// The count that a queue tells of its messages.
    fn ready(&self, name: &[u8]) -> [u8; 4] {
        let queue = self.queue(name);
        let progress = lock(&queue);
        let all = self.deliveries.count.saturating_add(progress.published);
        u32::try_from(all.saturating_sub(progress.acked))
            .unwrap_or(u32::MAX)
            .to_be_bytes()
    }

    /// The name, or a new one where there is none.
    fn named(&self, name: &[u8], prefix: &str) -> Vec<u8> {
        match name {
            [] => format!("{prefix}{}", self.names.fetch_add(1, Ordering::Relaxed)).into_bytes(),
            _ => name.to_owned(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A consumer's place at a queue, which it leaves with this.
struct Seat(Queue);

impl Seat {
    fn at(queue: Queue) -> Self {
        lock(&queue).consumers += 1;
        Self(queue)
    }

    /// The next messages, no more than that, of a queue that has `count` in all.
    fn take(&self, most: u64, count: u64) -> Range<u64> {
        let mut progress = lock(&self.0);
        let begin = progress.next;
        progress.next = begin.saturating_add(most).min(count).max(begin);
        begin..progress.next
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut progress = lock(&self.0);
        progress.consumers -= 1;
        if progress.consumers == 0 {
            progress.next = 0;
        }
    }
}

/// One connection, to its end.
fn converse(mut socket: TcpStream, broker: &Broker) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut session = Session::new(broker);
    let mut buffer = vec![0; READ];
    let (mut held, mut more) = (0, false);
    loop {
        // While there is more to deliver the client's settlements are only looked for.
        if let Some(read) = read(&mut socket, &mut buffer[held..], !more)? {
            if read == 0 {
                return Ok(());
            }
            held += read;
            let taken = session.take(&buffer[..held])?;
            buffer.copy_within(taken..held, 0);
            held -= taken;
        }
        if !session.out.is_empty() {
            socket.write_all(&session.out)?;
            session.out.clear();
        }
        if session.over {
            return Ok(());
        }
        more = session.deliver(&mut socket)?;
    }
}

/// Reads what is there; `None` if that is nothing, and it shall not be waited for.
fn read(socket: &mut TcpStream, into: &mut [u8], wait: bool) -> io::Result<Option<usize>> {
    if !wait {
        socket.set_nonblocking(true)?;
    }
    let read = loop {
        match socket.read(into) {
            Ok(read) => break Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(None),
            Err(error) => break Err(error),
        }
    };
    if !wait {
        socket.set_nonblocking(false)?;
    }
    read
}

/// What one connection has said so far. It knows no socket.
struct Session<'a> {
    broker: &'a Broker,
    greeted: bool,
    over: bool,
    /// Bytes of payload that a frame may have.
    frame: usize,
    channels: Vec<Option<Channel>>,
    /// Channels with publishes to be confirmed.
    owing: Vec<u16>,
    /// Channels with consumers.
    consuming: Vec<u16>,
    /// Answers that are to be written.
    out: Vec<u8>,
}

#[derive(Default)]
struct Channel {
    confirms: bool,
    owes: bool,
    published: u64,
    /// The routing key of the last publish, and how many were published by it that its queue does not know of yet.
    key: Vec<u8>,
    untold: u64,
    incoming: Incoming,
    /// Of each consumer that is opened from now on; 0 for no limit.
    prefetch: u16,
    /// Of all its consumers together; 0 for no limit.
    shared_prefetch: u16,
    shared_held: u64,
    unsettled: Unsettled,
    consumers: Vec<Consumer>,
}

/// What has to come next of a publish.
#[derive(Default, Clone, Copy)]
enum Incoming {
    #[default]
    Nothing,
    Header,
    Body(u64),
}

struct Consumer {
    tag: Vec<u8>,
    queue: Queue,
    /// Acknowledgements that its queue does not know of yet.
    untold: u64,
    /// Gone when it is cancelled.
    seat: Option<Seat>,
    no_ack: bool,
    prefetch: u16,
    held: u64,
    batch: Batch,
}

impl<'a> Session<'a> {
    fn new(broker: &'a Broker) -> Self {
        Self {
            broker,
            greeted: false,
            over: false,
            frame: FRAME_MAX as usize - OVERHEAD,
            channels: Vec::new(),
            owing: Vec::new(),
            consuming: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Takes what one read brought, as far as it is complete. Returns how far.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        if !self.greeted {
            let Some(header) = bytes.first_chunk::<8>() else {
                return Ok(0);
            };
            if header != HEADER {
                self.out.extend_from_slice(HEADER);
                self.over = true;
                return Ok(bytes.len());
            }
            self.greeted = true;
            self.start();
            at = HEADER.len();
        }
        while !self.over
            && let Some((frame, length)) = Frame::first(&bytes[at..])?
        {
            self.frame(&frame)?;
            at += length;
        }
        self.confirm();
        self.channels
            .iter_mut()
            .flatten()
            .for_each(|channel| channel.tell(self.broker));
        Ok(at)
    }

    fn frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        match frame.kind {
            BODY => self
                .channel(frame.channel)?
                .body(frame.payload.len() as u64)?,
            CONTENT => self.channel(frame.channel)?.header(frame.payload)?,
            METHOD => return self.method(frame.channel, frame.payload),
            HEARTBEAT => {
                // A client may want heartbeats all the same: it hears one for each of its own.
                put_frame(&mut self.out, HEARTBEAT, 0, &[]);
                return Ok(());
            }
            kind => return Err(wrong(format!("a frame of type {kind}"))),
        }
        // The frames of content complete publishes, nothing else does.
        let channel = self.channel(frame.channel)?;
        if channel.confirms && !channel.owes && matches!(channel.incoming, Incoming::Nothing) {
            channel.owes = true;
            self.owing.push(frame.channel);
        }
        Ok(())
    }

    /// One confirmation for each channel, of all that is complete.
    fn confirm(&mut self) {
        for number in self.owing.drain(..) {
            if let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) {
                channel.owes = false;
                let tag = channel.published.to_be_bytes();
                put_method(&mut self.out, number, BASIC_ACK, &[&tag, &[MULTIPLE]]);
            }
        }
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> io::Result<()> {
        let mut args = Args(payload);
        let method = (args.u16()?, args.u16()?);
        match method {
            BASIC_PUBLISH => self.publish(channel, args),
            BASIC_ACK | BASIC_NACK => {
                let (tag, multiple) = (args.u64()?, args.u8()? & MULTIPLE != 0);
                let acked = method == BASIC_ACK;
                self.channel(channel)?.settle(tag, multiple, acked)
            }
            BASIC_REJECT => {
                let tag = args.u64()?;
                self.channel(channel)?.settle(tag, false, false)
            }
            (CONNECTION, _) => self.on_connection(method, args),
            (CHANNEL, _) => self.on_channel(channel, method, args),
            (EXCHANGE, _) => self.on_exchange(channel, method, args),
            (QUEUE, _) => self.on_queue(channel, method, args),
            (BASIC, _) => self.on_basic(channel, method, args),
            CONFIRM_SELECT => {
                self.channel(channel)?.confirms = true;
                let no_wait = args.u8()? & 1 != 0;
                self.answer(channel, method, no_wait, &[]);
                Ok(())
            }
            _ => Err(unknown(method)),
        }
    }

    fn publish(&mut self, number: u16, mut args: Args<'_>) -> io::Result<()> {
        args.u16()?;
        args.short()?;
        let (key, broker) = (args.short()?, self.broker);
        let channel = self.channel(number)?;
        if channel.key != key {
            channel.tell(broker);
            channel.key.clear();
            channel.key.extend_from_slice(key);
        }
        channel.publish()
    }

    fn start(&mut self) {
        let yes = |table: &mut Vec<u8>, name: &str| {
            short(table, name.as_bytes());
            table.extend_from_slice(b"t\x01");
        };
        let text = |table: &mut Vec<u8>, name: &str, value: &str| {
            short(table, name.as_bytes());
            table.push(b'S');
            long(table, value.as_bytes());
        };
        let mut capabilities = Vec::new();
        for name in CAPABILITIES {
            yes(&mut capabilities, name);
        }
        let mut properties = Vec::new();
        short(&mut properties, b"capabilities");
        properties.push(b'F');
        long(&mut properties, &capabilities);
        text(&mut properties, "product", "RabbitMQ");
        text(&mut properties, "version", "4.3.1");
        text(&mut properties, "platform", "none");
        let mut args = vec![0, 9];
        for one in [&*properties, b"PLAIN", b"en_US"] {
            long(&mut args, one);
        }
        put_method(&mut self.out, 0, (CONNECTION, 10), &[&args]);
    }

    fn on_connection(&mut self, method: (u16, u16), mut args: Args<'_>) -> io::Result<()> {
        match method.1 {
            // start-ok: any login will do.
            11 => {
                let (channels, frame) = (CHANNEL_MAX.to_be_bytes(), FRAME_MAX.to_be_bytes());
                put_method(
                    &mut self.out,
                    0,
                    (CONNECTION, 30),
                    &[&channels, &frame, &[0, 0]],
                );
            }
            // tune-ok
            31 => {
                args.u16()?;
                // 0 is no limit.
                if let Some(frame @ 1..) = (args.u32()? as usize).checked_sub(OVERHEAD) {
                    self.frame = self.frame.min(frame);
                }
            }
            // open
            40 => put_method(&mut self.out, 0, (CONNECTION, 41), &[&[0]]),
            // close
            50 => {
                put_method(&mut self.out, 0, (CONNECTION, 51), &[]);
                self.over = true;
            }
            // update-secret
            70 => put_method(&mut self.out, 0, (CONNECTION, 71), &[]),
            _ => return Err(unknown(method)),
        }
        Ok(())
    }

    fn on_channel(
        &mut self,
        channel: u16,
        method: (u16, u16),
        mut args: Args<'_>,
    ) -> io::Result<()> {
        let at = usize::from(channel);
        match method.1 {
            // open
            10 if channel > 0 && channel <= CHANNEL_MAX => {
                if self.channels.len() <= at {
                    self.channels.resize_with(at + 1, || None);
                }
                self.channels[at] = Some(Channel::default());
                put_method(&mut self.out, channel, (CHANNEL, 11), &[&[0; 4]]);
            }
            // flow
            20 => {
                let active = args.u8()?;
                put_method(&mut self.out, channel, (CHANNEL, 21), &[&[active]]);
            }
            // close
            40 => {
                // Its last publishes are confirmed before, and its last acknowledgements count.
                self.confirm();
                if let Some(closed) = self.channels.get_mut(at)
                    && let Some(mut closed) = closed.take()
                {
                    closed.tell(self.broker);
                }
                self.consuming.retain(|one| *one != channel);
                put_method(&mut self.out, channel, (CHANNEL, 41), &[]);
            }
            _ => return Err(unknown(method)),
        }
        Ok(())
    }

    fn on_exchange(
        &mut self,
        channel: u16,
        method: (u16, u16),
        mut args: Args<'_>,
    ) -> io::Result<()> {
        args.u16()?;
        args.short()?;
        let no_wait = match method.1 {
            // declare: its kind, and then its flags.
            10 => {
                args.short()?;
                args.u8()? & 0b1_0000 != 0
            }
            // delete
            20 => args.u8()? & 0b10 != 0,
            // bind and unbind: from where, by which key.
            30 | 40 => {
                args.short()?;
                args.short()?;
                args.u8()? & 1 != 0
            }
            _ => return Err(unknown(method)),
        };
        self.answer(channel, method, no_wait, &[]);
        Ok(())
    }

    fn on_queue(&mut self, channel: u16, method: (u16, u16), mut args: Args<'_>) -> io::Result<()> {
        args.u16()?;
        let name = args.short()?;
        let ready = self.broker.ready(name);
        match method.1 {
            // declare, passive or not.
            10 => {
                let no_wait = args.u8()? & 0b1_0000 != 0;
                let name = self.broker.named(name, "amq.gen-");
                let ready = self.broker.ready(&name);
                let consumers = lock(&self.broker.queue(&name)).consumers.to_be_bytes();
                let length = [name.len() as u8];
                self.answer(
                    channel,
                    method,
                    no_wait,
                    &[&length, &name, &ready, &consumers],
                );
            }
            // bind: to which exchange, by which key.
            20 => {
                args.short()?;
                args.short()?;
                let no_wait = args.u8()? & 1 != 0;
                self.answer(channel, method, no_wait, &[]);
            }
            // purge
            30 => {
                let no_wait = args.u8()? & 1 != 0;
                self.answer(channel, method, no_wait, &[&ready]);
            }
            // delete
            40 => {
                let no_wait = args.u8()? & 0b100 != 0;
                self.answer(channel, method, no_wait, &[&ready]);
            }
            // unbind
            50 => self.answer(channel, method, false, &[]),
            _ => return Err(unknown(method)),
        }
        Ok(())
    }

    fn on_basic(&mut self, channel: u16, method: (u16, u16), mut args: Args<'_>) -> io::Result<()> {
        match method.1 {
            // qos
            10 => {
                args.u32()?;
                let (prefetch, shared) = (args.u16()?, args.u8()? & 1 != 0);
                let settings = self.channel(channel)?;
                match shared {
                    true => settings.shared_prefetch = prefetch,
                    false => settings.prefetch = prefetch,
                }
                self.answer(channel, method, false, &[]);
            }
            // consume
            20 => {
                args.u16()?;
                let (queue, tag, flags) = (args.short()?, args.short()?, args.u8()?);
                let (no_ack, no_wait) = (flags & 0b10 != 0, flags & 0b1000 != 0);
                let tag = self.broker.named(tag, "amq.ctag-");
                self.consume(channel, queue, &tag, no_ack)?;
                self.answer(channel, method, no_wait, &[&[tag.len() as u8], &tag]);
            }
            // cancel
            30 => {
                let (tag, no_wait) = (args.short()?, args.u8()? & 1 != 0);
                let consumers = &mut self.channel(channel)?.consumers;
                for consumer in consumers.iter_mut().filter(|consumer| consumer.tag == tag) {
                    consumer.seat = None;
                }
                self.answer(channel, method, no_wait, &[&[tag.len() as u8], tag]);
            }
            // get: the messages are for consumers.
            70 => put_method(&mut self.out, channel, (BASIC, 72), &[&[0]]),
            // recover-async
            100 => {}
            // recover
            110 => self.answer(channel, method, false, &[]),
            _ => return Err(unknown(method)),
        }
        Ok(())
    }

    fn consume(&mut self, number: u16, queue: &[u8], tag: &[u8], no_ack: bool) -> io::Result<()> {
        let (size, frame) = (self.broker.deliveries.size, self.frame);
        let own = self.broker.queue(queue);
        let channel = self.channel(number)?;
        let prefetch = if no_ack { 0 } else { channel.prefetch };
        let batch = Batch::new(number, queue, tag, size, frame, prefetch);
        channel.consumers.push(Consumer {
            tag: tag.to_owned(),
            seat: Some(Seat::at(Arc::clone(&own))),
            queue: own,
            untold: 0,
            no_ack,
            prefetch,
            held: 0,
            batch,
        });
        if !self.consuming.contains(&number) {
            self.consuming.push(number);
        }
        Ok(())
    }

    /// Lets each consumer have what it has room for, in one write. True if one of them has room for more.
    fn deliver(&mut self, to: &mut impl Write) -> io::Result<bool> {
        let mut more = false;
        for number in &self.consuming {
            if let Some(Some(channel)) = self.channels.get_mut(usize::from(*number)) {
                more |= channel.deliver(self.broker.deliveries.count, to)?;
            }
        }
        Ok(more)
    }

    /// Answers by the method that comes after the one that asked, as all of them but two do.
    fn answer(&mut self, channel: u16, asked: (u16, u16), no_wait: bool, args: &[&[u8]]) {
        let step = if asked == EXCHANGE_UNBIND { 11 } else { 1 };
        if !no_wait {
            put_method(&mut self.out, channel, (asked.0, asked.1 + step), args);
        }
    }

    fn channel(&mut self, number: u16) -> io::Result<&mut Channel> {
        let channel = self.channels.get_mut(usize::from(number));
        let channel = channel.and_then(Option::as_mut);
        channel.ok_or_else(|| wrong(format!("channel {number} is not open")))
    }
}

impl Channel {
    fn publish(&mut self) -> io::Result<()> {
        match self.incoming {
            Incoming::Nothing => self.incoming = Incoming::Header,
            Incoming::Header | Incoming::Body(_) => {
                return Err(wrong("a publish before the last one was complete"));
            }
        }
        Ok(())
    }

    fn header(&mut self, payload: &[u8]) -> io::Result<()> {
        let Incoming::Header = self.incoming else {
            return Err(wrong("a content header without a publish"));
        };
        let mut args = Args(payload);
        // Class and weight.
        args.u32()?;
        let size = args.u64()?;
        self.await_body(size);
        Ok(())
    }

    fn body(&mut self, size: u64) -> io::Result<()> {
        let left = match self.incoming {
            Incoming::Body(left) => left.checked_sub(size),
            Incoming::Nothing | Incoming::Header => None,
        };
        let left = left.ok_or_else(|| wrong("a body that was not announced"))?;
        self.await_body(left);
        Ok(())
    }

    fn await_body(&mut self, size: u64) {
        self.incoming = match size {
            0 => {
                self.published += 1;
                self.untold += 1;
                Incoming::Nothing
            }
            _ => Incoming::Body(size),
        };
    }

    /// Lets the queues know of what was published and acknowledged.
    fn tell(&mut self, broker: &Broker) {
        if self.untold > 0 {
            lock(&broker.queue(&self.key)).published += mem::take(&mut self.untold);
        }
        for consumer in self
            .consumers
            .iter_mut()
            .filter(|consumer| consumer.untold > 0)
        {
            lock(&consumer.queue).acked += mem::take(&mut consumer.untold);
        }
    }

    fn settle(&mut self, tag: u64, multiple: bool, acked: bool) -> io::Result<()> {
        let Self {
            unsettled,
            consumers,
            shared_held,
            ..
        } = self;
        let settled = |owner: usize| {
            *shared_held -= 1;
            if let Some(consumer) = consumers.get_mut(owner) {
                consumer.held -= 1;
                consumer.untold += u64::from(acked);
            }
        };
        match unsettled.settle(tag, multiple, settled) {
            true => Ok(()),
            false => Err(wrong(format!("delivery tag {tag} is unknown"))),
        }
    }

    fn deliver(&mut self, count: u64, to: &mut impl Write) -> io::Result<bool> {
        let mut more = false;
        for at in 0..self.consumers.len() {
            let shared = room(self.shared_prefetch, self.shared_held);
            let consumer = &mut self.consumers[at];
            let Some(seat) = &consumer.seat else {
                continue;
            };
            let mut most = consumer.batch.most();
            if !consumer.no_ack {
                most = most.min(shared).min(room(consumer.prefetch, consumer.held));
            }
            let numbers = match most {
                0 => continue,
                _ => seat.take(most, count),
            };
            let taken = numbers.end - numbers.start;
            if taken == 0 {
                continue;
            }
            to.write_all(consumer.batch.fill(self.unsettled.next(), numbers))?;
            if consumer.no_ack {
                self.unsettled.push(None, taken);
            } else {
                self.unsettled.push(Some(at), taken);
                consumer.held += taken;
                self.shared_held += taken;
            }
            let own = room(consumer.prefetch, consumer.held);
            let shared = room(self.shared_prefetch, self.shared_held);
            more |= consumer.no_ack || own.min(shared) > 0;
        }
        Ok(more)
    }
}

/// How many messages may be delivered by this prefetch. None while less than a quarter of it is free, so that single
/// acknowledgements are not answered by single messages. A client that holds less than a whole window without settling it
/// frees a quarter before it waits.
fn room(prefetch: u16, held: u64) -> u64 {
    if prefetch == 0 {
        return u64::MAX;
    }
    let free = u64::from(prefetch).saturating_sub(held);
    if free < u64::from(prefetch / 4) {
        0
    } else {
        free
    }
}

/// Which consumers hold what was delivered on a channel, by delivery tag.
struct Unsettled {
    /// The tag of the first owner.
    first: u64,
    /// `None` for what is settled.
    owners: VecDeque<Option<u16>>,
}

impl Default for Unsettled {
    fn default() -> Self {
        let owners = VecDeque::new();
        Self { first: 1, owners }
    }
}

impl Unsettled {
    fn next(&self) -> u64 {
        self.first + self.owners.len() as u64
    }

    fn push(&mut self, owner: Option<usize>, count: u64) {
        // With more consumers on one channel than that, the last ones have no limit.
        let owner = owner.and_then(|owner| u16::try_from(owner).ok());
        if owner.is_none() && self.owners.is_empty() {
            self.first += count;
        } else {
            self.owners.extend((0..count).map(|_| owner));
        }
    }

    /// False if there was no such delivery. What is settled again, or with others, is no error.
    fn settle(&mut self, tag: u64, multiple: bool, mut settled: impl FnMut(usize)) -> bool {
        let next = self.next();
        // 0 is all of them.
        let last = if multiple && tag == 0 { next - 1 } else { tag };
        if last >= next || (last == 0 && !multiple) {
            return false;
        }
        if multiple {
            while self.first <= last
                && let Some(owner) = self.owners.pop_front()
            {
                self.first += 1;
                owner
                    .into_iter()
                    .for_each(|owner| settled(usize::from(owner)));
            }
        } else {
            let at = last
                .checked_sub(self.first)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(owner) = at.and_then(|at| self.owners.get_mut(at)?.take()) {
                settled(usize::from(owner));
            }
        }
        while let Some(None) = self.owners.front() {
            self.owners.pop_front();
            self.first += 1;
        }
        true
    }
}

/// Deliveries as they are written, one after the other. Nothing but two numbers differs among them.
struct Batch {
    bytes: Vec<u8>,
    /// Bytes of one delivery.
    one: usize,
    /// Where its delivery tag is.
    tag: usize,
    /// Where its payload begins.
    number: usize,
}

impl Batch {
    fn new(
        channel: u16,
        queue: &[u8],
        tag: &[u8],
        size: usize,
        frame: usize,
        prefetch: u16,
    ) -> Self {
        let size = size.max(8);
        let mut bytes = Vec::new();
        let consumer = [&[tag.len() as u8][..], tag].concat();
        // Not redelivered, and by the exchange without a name.
        let rest = [&[0, 0, queue.len() as u8][..], queue].concat();
        put_method(
            &mut bytes,
            channel,
            BASIC_DELIVER,
            &[&consumer, &[0; 8], &rest],
        );
        let method = 4;
        let tag = FRAME_HEADER + method + consumer.len();
        let mut header = vec![0, BASIC as u8, 0, 0];
        header.extend_from_slice(&(size as u64).to_be_bytes());
        // The delivery mode is the only property: persistent.
        header.extend_from_slice(&[0x10, 0, 2]);
        put_frame(&mut bytes, CONTENT, channel, &[&header]);
        let number = bytes.len() + FRAME_HEADER;
        for part in vec![FILLING; size].chunks(frame) {
            put_frame(&mut bytes, BODY, channel, &[part]);
        }
        let one = bytes.len();
        let window = if prefetch == 0 {
            usize::MAX
        } else {
            usize::from(prefetch)
        };
        let bytes = bytes.repeat((WRITE / one).clamp(1, window));
        Self {
            bytes,
            one,
            tag,
            number,
        }
    }

    fn most(&self) -> u64 {
        (self.bytes.len() / self.one) as u64
    }

    /// Deliveries from this tag on, with these numbers; no more than [`Batch::most`].
    fn fill(&mut self, tag: u64, numbers: Range<u64>) -> &[u8] {
        let count = (numbers.end - numbers.start) as usize;
        let deliveries = self.bytes.chunks_exact_mut(self.one);
        for ((delivery, number), tag) in deliveries.zip(numbers).zip(tag..) {
            delivery[self.tag..][..8].copy_from_slice(&tag.to_be_bytes());
            delivery[self.number..][..8].copy_from_slice(&number.to_be_bytes());
        }
        &self.bytes[..count * self.one]
    }
}

/// One frame (AMQP 0-9-1, section 4.2.3).
struct Frame<'a> {
    kind: u8,
    channel: u16,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame, and its length, if it is complete.
    fn first(bytes: &'a [u8]) -> io::Result<Option<(Self, usize)>> {
        let Some(&[kind, c0, c1, s0, s1, s2, s3]) = bytes.first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        // More would not fit into the buffer.
        if size > FRAME_MAX as usize - OVERHEAD {
            return Err(wrong(format!("a frame of {size} bytes")));
        }
        let length = size + OVERHEAD;
        let Some(&end) = bytes.get(length - 1) else {
            return Ok(None);
        };
        if end != FRAME_END {
            return Err(wrong("a frame without its end"));
        }
        let channel = u16::from_be_bytes([c0, c1]);
        let payload = &bytes[FRAME_HEADER..length - 1];
        Ok(Some((
            Self {
                kind,
                channel,
                payload,
            },
            length,
        )))
    }
}

/// What is left of the arguments of a method.
struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    fn chunk<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*chunk)
    }

    fn u8(&mut self) -> io::Result<u8> {
        self.chunk().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// A short string.
    fn short(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
        self.0 = rest;
        Ok(text)
    }
}

fn put_method(out: &mut Vec<u8>, channel: u16, method: (u16, u16), args: &[&[u8]]) {
    let begin = out.len();
    put_frame(
        out,
        METHOD,
        channel,
        &[&method.0.to_be_bytes(), &method.1.to_be_bytes()],
    );
    // The arguments go before the end of the frame, and into its size.
    out.pop();
    args.iter().for_each(|arg| out.extend_from_slice(arg));
    let size = (out.len() - begin - FRAME_HEADER) as u32;
    out[begin + 3..begin + FRAME_HEADER].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[&[u8]]) {
    let size = payload.iter().map(|part| part.len()).sum::<usize>() as u32;
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    out.push(FRAME_END);
}

/// A short string; those that are made here are short.
fn short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// A long string, and also a table of this content.
fn long(out: &mut Vec<u8>, content: &[u8]) {
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    out.extend_from_slice(content);
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.into())
}

fn cut() -> io::Error {
    wrong("a method is cut short")
}

fn unknown((class, method): (u16, u16)) -> io::Error {
    wrong(format!("method {class}.{method} is not known here"))
}

const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
const CAPABILITIES: [&str; 7] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
    "per_consumer_qos",
];
const CHANNEL_MAX: u16 = 2047;
const FRAME_MAX: u32 = 131_072;

const FRAME_HEADER: usize = 7;
/// Of a frame, beside its payload.
const OVERHEAD: usize = FRAME_HEADER + 1;
const FRAME_END: u8 = 0xCE;
const METHOD: u8 = 1;
const CONTENT: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

const CONNECTION: u16 = 10;
const CHANNEL: u16 = 20;
const EXCHANGE: u16 = 40;
const QUEUE: u16 = 50;
const BASIC: u16 = 60;
const EXCHANGE_UNBIND: (u16, u16) = (EXCHANGE, 40);
const BASIC_PUBLISH: (u16, u16) = (BASIC, 40);
const BASIC_DELIVER: (u16, u16) = (BASIC, 60);
const BASIC_ACK: (u16, u16) = (BASIC, 80);
const BASIC_REJECT: (u16, u16) = (BASIC, 90);
const BASIC_NACK: (u16, u16) = (BASIC, 120);
const CONFIRM_SELECT: (u16, u16) = (85, 10);
const MULTIPLE: u8 = 1;

/// As in the payloads that are published.
const FILLING: u8 = 0xA5;
/// Bytes that are read at once: a whole frame fits in.
const READ: usize = 512 * 1024;
/// Bytes that are delivered at once, before it is looked what the client says.
const WRITE: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(count: u64, size: usize) -> Broker {
        Broker::new(Deliveries { count, size })
    }

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, kind, channel, &[payload]);
        out
    }

    fn method(channel: u16, method: (u16, u16), args: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_method(&mut out, channel, method, &[args]);
        out
    }

    /// Kind, channel and payload of each frame.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some((frame, length)) = Frame::first(bytes).expect("whole frames") {
            found.push((frame.kind, frame.channel, frame.payload.to_vec()));
            bytes = &bytes[length..];
        }
        assert!(bytes.is_empty(), "half a frame is left");
        found
    }

    /// The methods that were answered, each with its arguments.
    fn methods(session: &mut Session<'_>) -> Vec<((u16, u16), Vec<u8>)> {
        let out = std::mem::take(&mut session.out);
        let read = |(kind, _, payload): (u8, u16, Vec<u8>)| {
            assert_eq!(kind, METHOD);
            let mut args = Args(&payload);
            let method = (args.u16().expect("a class"), args.u16().expect("a method"));
            (method, args.0.to_vec())
        };
        frames(&out).into_iter().map(read).collect()
    }

    /// The methods that were answered, by number.
    fn answers(session: &mut Session<'_>) -> Vec<(u16, u16)> {
        methods(session)
            .into_iter()
            .map(|(method, _)| method)
            .collect()
    }

    fn say(session: &mut Session<'_>, bytes: &[u8]) {
        assert_eq!(session.take(bytes).expect("it is understood"), bytes.len());
    }

    /// Logged in, with channel 1 open.
    fn session(broker: &Broker) -> Session<'_> {
        let mut session = Session::new(broker);
        say(&mut session, HEADER);
        say(
            &mut session,
            &method(
                0,
                (CONNECTION, 11),
                b"\0\0\0\0\x05PLAIN\0\0\0\x04\0a\0b\x05en_US",
            ),
        );
        say(
            &mut session,
            &method(0, (CONNECTION, 31), &[7, 255, 0, 2, 0, 0, 0, 0]),
        );
        say(&mut session, &method(0, (CONNECTION, 40), b"\x01/\0\0"));
        assert_eq!(
            answers(&mut session),
            [(CONNECTION, 10), (CONNECTION, 30), (CONNECTION, 41)]
        );
        say(&mut session, &method(1, (CHANNEL, 10), &[0]));
        assert_eq!(answers(&mut session), [(CHANNEL, 11)]);
        session
    }

    fn qos(session: &mut Session<'_>, prefetch: u16) {
        let [high, low] = prefetch.to_be_bytes();
        say(
            session,
            &method(1, (BASIC, 10), &[0, 0, 0, 0, high, low, 0]),
        );
        assert_eq!(answers(session), [(BASIC, 11)]);
    }

    fn consume(session: &mut Session<'_>, flags: u8) {
        let args = [&b"\0\0\x01q\x01t"[..], &[flags], &[0; 4]].concat();
        say(session, &method(1, (BASIC, 20), &args));
        assert_eq!(methods(session), [((BASIC, 21), b"\x01t".to_vec())]);
    }

    fn ack(session: &mut Session<'_>, by: (u16, u16), tag: u64, flags: u8) {
        let args = [&tag.to_be_bytes()[..], &[flags]].concat();
        say(session, &method(1, by, &args));
        assert!(session.out.is_empty());
    }

    /// Delivery tag and number of each message that is delivered, and whether there may be more.
    fn deliver(session: &mut Session<'_>) -> (Vec<(u64, u64)>, bool) {
        let mut out = Vec::new();
        let more = session.deliver(&mut out).expect("a Vec takes all");
        let mut found = Vec::new();
        let size = session.broker.deliveries.size as u64;
        let mut left = 0;
        for (kind, channel, payload) in frames(&out) {
            assert_eq!(channel, 1);
            let mut args = Args(&payload);
            match kind {
                METHOD => {
                    assert_eq!(left, 0);
                    assert_eq!((args.u16().unwrap(), args.u16().unwrap()), BASIC_DELIVER);
                    assert_eq!(args.short().unwrap(), b"t");
                    found.push((args.u64().unwrap(), u64::MAX));
                    assert_eq!(args.u8().unwrap(), 0);
                    assert_eq!(
                        (args.short().unwrap(), args.short().unwrap()),
                        (&b""[..], &b"q"[..])
                    );
                    assert!(args.0.is_empty());
                }
                CONTENT => {
                    assert_eq!(args.u32().unwrap(), u32::from(BASIC) << 16);
                    left = args.u64().unwrap();
                    assert_eq!(left, size);
                    assert_eq!(args.0, [0x10, 0, 2]);
                }
                BODY => {
                    if left == size {
                        found.last_mut().unwrap().1 = args.u64().unwrap();
                    }
                    assert!(args.0.iter().all(|byte| *byte == FILLING));
                    assert!(payload.len() <= session.frame);
                    left -= payload.len() as u64;
                }
                other => panic!("a frame of type {other}"),
            }
        }
        assert_eq!(left, 0);
        (found, more)
    }

    #[test]
    fn it_greets_as_a_rabbitmq_and_lets_everybody_in() {
        let broker = broker(0, 8);
        let mut session = Session::new(&broker);
        assert_eq!(session.take(&HEADER[..7]).unwrap(), 0);
        say(&mut session, HEADER);
        let (start, args) = methods(&mut session).remove(0);
        assert_eq!((start, &args[..2]), ((CONNECTION, 10), &[0, 9][..]));
        let has = |text: &[u8]| args.windows(text.len()).any(|window| window == text);
        assert!(has(
            b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x054.3.1"
        ));
        assert!(has(b"\x0abasic.nackt\x01"));
        assert!(args.ends_with(b"\0\0\0\x05PLAIN\0\0\0\x05en_US"));
        let table = u32::from_be_bytes(*args[2..].first_chunk().unwrap()) as usize;
        assert_eq!(args.len(), 2 + 4 + table + 9 + 9);
    }

    #[test]
    fn another_protocol_is_told_which_one_is_spoken() {
        let broker = broker(0, 8);
        let mut session = Session::new(&broker);
        say(&mut session, b"GET / HTTP/1.1");
        assert_eq!((&*session.out, session.over), (&HEADER[..], true));
    }

    #[test]
    fn the_smaller_frame_size_counts() {
        let broker = broker(1, 10_000);
        let mut session = session(&broker);
        say(
            &mut session,
            &method(0, (CONNECTION, 31), &[7, 255, 0, 0, 16, 0, 0, 0]),
        );
        assert_eq!(session.frame, 4088);
        consume(&mut session, 0);
        assert_eq!(deliver(&mut session).0, [(1, 0)]);
    }

    #[test]
    fn what_is_asked_for_is_answered() {
        let broker = broker(7, 8);
        let mut session = session(&broker);
        let mut ask = |by: (u16, u16), args: &[u8]| {
            say(&mut session, &method(1, by, args));
            methods(&mut session)
        };
        let declared = b"\x01q\0\0\0\x07\0\0\0\0".to_vec();
        for flags in [1, 2] {
            let args = [&b"\0\0\x01q"[..], &[flags], &[0; 4]].concat();
            assert_eq!(ask((QUEUE, 10), &args), [((QUEUE, 11), declared.clone())]);
        }
        let named = ask((QUEUE, 10), b"\0\0\0\0\0\0\0\0");
        assert!(named[0].1.starts_with(b"\x09amq.gen-1\0\0\0\x07"));
        assert_eq!(
            ask((QUEUE, 20), b"\0\0\x01q\x01e\x01k\0\0\0\0\0"),
            [((QUEUE, 21), vec![])]
        );
        assert_eq!(
            ask((QUEUE, 30), b"\0\0\x01q\0"),
            [((QUEUE, 31), vec![0, 0, 0, 7])]
        );
        assert_eq!(
            ask((QUEUE, 40), b"\0\0\x01q\0"),
            [((QUEUE, 41), vec![0, 0, 0, 7])]
        );
        assert_eq!(
            ask((QUEUE, 50), b"\0\0\x01q\x01e\x01k\0\0\0\0"),
            [((QUEUE, 51), vec![])]
        );
        assert_eq!(
            ask((EXCHANGE, 10), b"\0\0\x01e\x05topic\x02\0\0\0\0"),
            [((EXCHANGE, 11), vec![])]
        );
        assert_eq!(
            ask((EXCHANGE, 20), b"\0\0\x01e\0"),
            [((EXCHANGE, 21), vec![])]
        );
        assert_eq!(
            ask((EXCHANGE, 30), b"\0\0\x01e\x01f\x01k\0\0\0\0\0"),
            [((EXCHANGE, 31), vec![])]
        );
        assert_eq!(
            ask((EXCHANGE, 40), b"\0\0\x01e\x01f\x01k\0\0\0\0\0"),
            [((EXCHANGE, 51), vec![])]
        );
        assert_eq!(ask(CONFIRM_SELECT, &[0]), [((85, 11), vec![])]);
        assert_eq!(ask((BASIC, 70), b"\0\0\x01q\0"), [((BASIC, 72), vec![0])]);
        assert_eq!(
            ask((CHANNEL, 40), b"\0\xC8\x00\0\0\0\0"),
            [((CHANNEL, 41), vec![])]
        );
        // Nobody waits for an answer to these.
        say(&mut session, &method(2, (CHANNEL, 10), &[0]));
        answers(&mut session);
        say(
            &mut session,
            &method(2, (QUEUE, 10), b"\0\0\x01q\x10\0\0\0\0"),
        );
        say(&mut session, &method(2, CONFIRM_SELECT, &[1]));
        assert!(session.out.is_empty());
    }

    #[test]
    fn what_is_not_known_or_broken_is_an_error() {
        let broker = broker(0, 8);
        for bytes in [
            method(1, (90, 10), &[]),
            method(1, (QUEUE, 10), b"\0\0\x09q"),
            method(9, BASIC_PUBLISH, &[]),
            method(1, BASIC_ACK, &[0, 0, 0, 0, 0, 0, 0, 1, 0]),
            frame(BODY, 1, b"x"),
            frame(CONTENT, 1, &[0; 14]),
            frame(9, 1, &[]),
            vec![METHOD, 0, 1, 0xFF, 0, 0, 0],
            b"\x01\0\0\0\0\0\0\0".to_vec(),
        ] {
            let error = session(&broker).take(&bytes).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }

    #[test]
    fn one_ack_confirms_all_that_a_read_completed() {
        let broker = broker(0, 8);
        let mut session = session(&broker);
        say(&mut session, &method(1, CONFIRM_SELECT, &[0]));
        answers(&mut session);
        let publish = |sizes: &[usize]| {
            let mut bytes = method(1, BASIC_PUBLISH, b"\0\0\0\x01q\0");
            let size = sizes.iter().sum::<usize>() as u64;
            let header = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat();
            bytes.extend(frame(CONTENT, 1, &header));
            for size in sizes {
                bytes.extend(frame(BODY, 1, &vec![1; *size]));
            }
            bytes
        };
        let three = [publish(&[5]), publish(&[]), publish(&[3, 4])].concat();
        let confirmed = |tag: u64| (BASIC_ACK, [&tag.to_be_bytes()[..], &[1]].concat());
        say(&mut session, &three);
        assert_eq!(methods(&mut session), [confirmed(3)]);
        // However the bytes come.
        let (mut held, mut seen) = (Vec::new(), Vec::new());
        for byte in three {
            held.push(byte);
            let taken = session.take(&held).expect("understood");
            held.drain(..taken);
            seen.extend(methods(&mut session));
        }
        assert_eq!(seen, [confirmed(4), confirmed(5), confirmed(6)]);
        // The last ones of a channel are confirmed before it is closed.
        let last = [
            publish(&[1]),
            method(1, (CHANNEL, 40), b"\0\xC8\x00\0\0\0\0"),
        ]
        .concat();
        say(&mut session, &last);
        assert_eq!(answers(&mut session), [BASIC_ACK, (CHANNEL, 41)]);
    }

    #[test]
    fn without_confirms_a_publish_is_swallowed() {
        let broker = broker(0, 8);
        let mut session = session(&broker);
        say(&mut session, &method(1, BASIC_PUBLISH, b"\0\0\0\x01q\0"));
        say(
            &mut session,
            &frame(CONTENT, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]),
        );
        say(&mut session, &frame(BODY, 1, b"ab"));
        assert!(session.out.is_empty());
    }

    #[test]
    fn the_window_is_kept_and_opened_by_every_settlement() {
        let broker = broker(u64::MAX, 16);
        let mut session = session(&broker);
        qos(&mut session, 8);
        consume(&mut session, 0);
        let numbers = |tags: Range<u64>| tags.map(|tag| (tag, tag - 1)).collect::<Vec<_>>();
        assert_eq!(deliver(&mut session), (numbers(1..9), false));
        assert_eq!(deliver(&mut session), (vec![], false));
        ack(&mut session, BASIC_ACK, 3, 1);
        assert_eq!(deliver(&mut session), (numbers(9..12), false));
        // Less than a quarter of the window is not worth a write.
        ack(&mut session, BASIC_ACK, 5, 0);
        assert_eq!(deliver(&mut session), (vec![], false));
        ack(&mut session, BASIC_REJECT, 4, 1);
        assert_eq!(deliver(&mut session), (numbers(12..14), false));
        // A nack of many, among them what is settled already.
        ack(&mut session, BASIC_NACK, 8, 0b11);
        assert_eq!(deliver(&mut session), (numbers(14..17), false));
        ack(&mut session, BASIC_ACK, 8, 0);
        ack(&mut session, BASIC_ACK, 0, 1);
        assert_eq!(deliver(&mut session), (numbers(17..25), false));
    }

    #[test]
    fn a_queue_tells_how_many_were_published_and_not_acknowledged() {
        let broker = broker(8, 8);
        let mut session = session(&broker);
        let count = |session: &mut Session<'_>, name: u8| {
            say(
                session,
                &method(1, (QUEUE, 10), &[0, 0, 1, name, 1, 0, 0, 0, 0]),
            );
            let told = methods(session).remove(0).1;
            u32::from_be_bytes(*told[2..].first_chunk().unwrap())
        };
        consume(&mut session, 0);
        deliver(&mut session);
        ack(&mut session, BASIC_ACK, 3, 1);
        ack(&mut session, BASIC_NACK, 4, 0b10);
        ack(&mut session, BASIC_ACK, 6, 0);
        assert_eq!(count(&mut session, b'q'), 4);
        for (name, times) in [(b'r', 2), (b's', 1), (b'r', 1)] {
            for _ in 0..times {
                say(
                    &mut session,
                    &method(1, BASIC_PUBLISH, &[0, 0, 0, 1, name, 0]),
                );
                say(
                    &mut session,
                    &frame(CONTENT, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                );
            }
        }
        assert_eq!([b'r', b's'].map(|name| count(&mut session, name)), [11, 9]);
    }

    #[test]
    fn without_a_window_it_delivers_to_the_end() {
        for flags in [0, 0b10] {
            let broker = broker(10_000, 256);
            let mut session = session(&broker);
            consume(&mut session, flags);
            let mut all = Vec::new();
            loop {
                let (some, more) = deliver(&mut session);
                all.extend(some);
                if !more {
                    break;
                }
            }
            assert!(
                all.into_iter()
                    .eq((0..10_000).map(|number| (number + 1, number)))
            );
        }
    }

    #[test]
    fn consumers_share_a_queue_until_the_last_one_leaves() {
        let broker = broker(u64::MAX, 8);
        let mut one = session(&broker);
        let mut other = session(&broker);
        for session in [&mut one, &mut other] {
            qos(session, 4);
            consume(session, 0);
        }
        assert_eq!(deliver(&mut one).0.last(), Some(&(4, 3)));
        assert_eq!(deliver(&mut other).0.last(), Some(&(4, 7)));
        let declare = method(1, (QUEUE, 10), b"\0\0\x01q\x01\0\0\0\0");
        say(&mut one, &declare);
        assert!(methods(&mut one)[0].1.ends_with(&[0, 0, 0, 2]));
        say(&mut other, &method(1, (BASIC, 30), b"\x01t\0"));
        assert_eq!(methods(&mut other), [((BASIC, 31), b"\x01t".to_vec())]);
        // What it holds can still be settled.
        ack(&mut other, BASIC_ACK, 4, 1);
        assert_eq!(deliver(&mut other), (vec![], false));
        ack(&mut one, BASIC_ACK, 4, 1);
        assert_eq!(deliver(&mut one).0.last(), Some(&(8, 11)));
        drop(one);
        consume(&mut other, 0);
        assert_eq!(deliver(&mut other).0, [(5, 0), (6, 1), (7, 2), (8, 3)]);
    }

    #[test]
    fn a_heartbeat_is_answered_and_a_close_ends_it() {
        let broker = broker(0, 8);
        let mut session = session(&broker);
        say(&mut session, &frame(HEARTBEAT, 0, &[]));
        assert_eq!(
            frames(&std::mem::take(&mut session.out)),
            [(HEARTBEAT, 0, vec![])]
        );
        say(
            &mut session,
            &method(0, (CONNECTION, 50), b"\0\xC8\x00\0\0\0\0"),
        );
        assert_eq!(answers(&mut session), [(CONNECTION, 51)]);
        assert!(session.over);
    }
}
