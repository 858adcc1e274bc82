//! A broker that only acknowledges: what is measured against it is the client.
//!
//! It speaks raw MQTT 3.1.1 and 5 on blocking sockets, one thread per connection, and answers all packets of one read with
//! one write. It shares no code with the crate under test. Some topics are special:
//!
//! - a PUBLISH to `<x>/rpc` is answered, as a device would, by the same payload on `<x>/rpc/res`, or where MQTT 5 says
//!   that the answer is awaited, with the correlation data that it came with;
//! - a PUBLISH to `flood/<n>` is answered by n PUBLISHes of 64 bytes on `flood/data`; the payload may be given in another
//!   size, as `flood/<n>/<bytes>`;
//! - a PUBLISH to `spread/<m>/<n>` is answered by n of them on `spread/0/data` to `spread/<m-1>/data`, each in its turn
//!   in an order that no cache can guess;
//! - nothing else is delivered to anyone; it is counted, see [`NullBroker::wait_published`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::cores;

const FLOOD_TOPIC: &str = "flood/data";
const FLOOD_PAYLOAD: usize = 64;
const BUFFER: usize = 64 * 1024;

/// On a core of its own a connection looks for more before it sleeps: the client then pays for its own packets and not for
/// waking the broker, as with a broker on another machine.
const SPIN: Duration = Duration::from_micros(500);

/// A running broker; dropping it closes its connections and joins its threads.
pub(crate) struct NullBroker {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a connection reads and writes: a socket, or what encrypts on the way to one.
pub(crate) trait Line: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Line for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

struct Shared {
    core: Option<usize>,
    published: AtomicU64,
    awaited: AtomicU64,
    arrival: Condvar,
    waiter: Mutex<()>,
    stopping: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn new(core: Option<usize>) -> Self {
        Self {
            core,
            published: AtomicU64::new(0),
            awaited: AtomicU64::new(u64::MAX),
            arrival: Condvar::new(),
            waiter: Mutex::new(()),
            stopping: AtomicBool::new(false),
            sockets: Mutex::new(Vec::new()),
        }
    }
}

impl NullBroker {
    /// With a core, its threads run there and nowhere else.
    pub(crate) fn start(core: Option<usize>) -> Self {
        Self::start_over(core, Ok)
    }

    /// Over what `open` makes of each socket.
    pub(crate) fn start_over<L: Line>(
        core: Option<usize>,
        open: impl Fn(TcpStream) -> std::io::Result<L> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("the bound address");
        let shared = Arc::new(Shared::new(core));
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Some(core) = shared.core {
                    cores::pin_current_thread(&core.to_string());
                }
                accept(&listener, &shared, &Arc::new(open));
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of PUBLISHes that have arrived so far, at any QoS.
    pub(crate) fn published(&self) -> u64 {
        self.shared.published.load(Ordering::SeqCst)
    }

    /// Blocks the calling thread until [`published`](Self::published) has reached `total`.
    pub(crate) fn wait_published(&self, total: u64) {
        let mut guard = self.shared.waiter.lock().expect("not poisoned");
        self.shared.awaited.store(total, Ordering::SeqCst);
        while self.published() < total {
            guard = self.shared.arrival.wait(guard).expect("not poisoned");
        }
        self.shared.awaited.store(u64::MAX, Ordering::SeqCst);
    }
}

/// Connects to another broker and does there what the null broker does by itself: answers requests, and floods. Returns
/// when that is ready; ends with the connection.
#[allow(dead_code, reason = "not every bench has a broker of another kind")]
pub(crate) fn serve_devices(broker: SocketAddr, core: Option<usize>) -> std::io::Result<()> {
    // MQTT 5, clean start, no keep alive, client id "device"; then four filters, each without what it publishes itself.
    const CONNECT: &[u8] = b"\x10\x13\0\x04MQTT\x05\x02\0\0\0\0\x06device";
    const SUBSCRIBE: &[u8] =
        b"\x82\x32\0\x01\0\0\x09dev/+/rpc\x04\0\x07flood/+\x04\0\x09flood/+/+\x04\0\x0Aspread/+/+\x04";
    let mut socket = TcpStream::connect(broker)?;
    socket.write_all(CONNECT)?;
    socket.write_all(SUBSCRIBE)?;
    for _ in ["CONNACK", "SUBACK"] {
        let mut header = [0; 2];
        socket.read_exact(&mut header)?;
        socket.read_exact(&mut vec![0; header[1].into()])?;
    }
    thread::spawn(move || {
        if let Some(core) = core {
            cores::pin_current_thread(&core.to_string());
        }
        // It shares its core with the broker, and must not spin there.
        let shared = Shared::new(None);
        let _ = Connection::new(socket, &shared).and_then(|connection| Connection { is_v5: true, ..connection }.run());
    });
    Ok(())
}

impl Drop for NullBroker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // `accept` cannot be interrupted, but it can be given a last connection to look at.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept<L: Line>(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    open: &Arc<impl Fn(TcpStream) -> std::io::Result<L> + Send + Sync + 'static>,
) {
    let mut connections = Vec::new();
    for socket in listener.incoming().map_while(Result::ok) {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let Ok(handle) = socket.try_clone() else { break };
        shared.sockets.lock().expect("not poisoned").push(handle);
        let (shared, open) = (Arc::clone(shared), Arc::clone(open));
        connections.push(thread::spawn(move || {
            // A client that goes away ends its thread and nothing else.
            let _ = open(socket).and_then(|line| Connection::new(line, &shared)?.run());
        }));
    }
    for socket in shared.sockets.lock().expect("not poisoned").drain(..) {
        let _ = socket.shutdown(Shutdown::Both);
    }
    for connection in connections {
        let _ = connection.join();
    }
}

struct Connection<'a, L> {
    line: L,
    /// Whether MQTT 5 is spoken.
    is_v5: bool,
    shared: &'a Shared,
    replies: Vec<u8>,
    arrived: u64,
}

impl<'a, L: Line> Connection<'a, L> {
    fn new(line: L, shared: &'a Shared) -> std::io::Result<Self> {
        line.socket().set_nodelay(true)?;
        line.socket().set_nonblocking(shared.core.is_some())?;
        Ok(Self { line, is_v5: false, shared, replies: Vec::with_capacity(2 * BUFFER), arrived: 0 })
    }

    fn run(&mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        loop {
            let read = self.read(&mut buffer[filled..])?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            let mut taken = 0;
            while let Some((header, length)) = frame(&buffer[taken..filled]) {
                let start = taken + header;
                self.answer(buffer[taken], &buffer[start..start + length])?;
                taken = start + length;
            }
            buffer.copy_within(taken..filled, 0);
            filled -= taken;
            if filled == buffer.len() {
                buffer.resize(2 * filled, 0);
            }
            self.flush()?;
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.shared.core.is_some() {
            let start = Instant::now();
            while start.elapsed() < SPIN {
                match self.line.read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                    done => return done,
                }
            }
            self.line.socket().set_nonblocking(false)?;
            let done = self.line.read(buffer);
            self.line.socket().set_nonblocking(true)?;
            return done;
        }
        self.line.read(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.arrived > 0 {
            let arrived = std::mem::take(&mut self.arrived);
            let total = self.shared.published.fetch_add(arrived, Ordering::SeqCst) + arrived;
            if total >= self.shared.awaited.load(Ordering::SeqCst) {
                drop(self.shared.waiter.lock());
                self.shared.arrival.notify_all();
            }
        }
        if !self.replies.is_empty() {
            write_all(&mut self.line, &self.replies)?;
            self.replies.clear();
        }
        Ok(())
    }

    fn answer(&mut self, first: u8, body: &[u8]) -> std::io::Result<()> {
        match first >> 4 {
            1 => self.connect(body),
            3 => self.publish(first, body)?,
            6 => self.replies.extend_from_slice(&[0x70, 2, body[0], body[1]]),
            8 => self.subscribe(body),
            10 => self.unsubscribe(body),
            12 => self.replies.extend_from_slice(&[0xD0, 0]),
            14 => self.line.socket().shutdown(Shutdown::Both)?,
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, body: &[u8]) {
        // Behind the name of the protocol.
        self.is_v5 = body[2 + length(body)] == 5;
        let accepted: &[u8] = if self.is_v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
        self.replies.extend_from_slice(accepted);
    }

    fn publish(&mut self, first: u8, body: &[u8]) -> std::io::Result<()> {
        self.arrived += 1;
        let (topic, rest) = body[2..].split_at(length(body));
        let payload = match (first >> 1) & 3 {
            0 => rest,
            qos => {
                let ack = if qos == 1 { 0x40 } else { 0x50 };
                self.replies.extend_from_slice(&[ack, 2, rest[0], rest[1]]);
                &rest[2..]
            }
        };
        let (properties, payload) = if self.is_v5 { split_properties(payload) } else { (&[][..], payload) };
        if topic.ends_with(b"/rpc") {
            let (reply_to, correlation) = response(properties);
            let properties = self.is_v5.then_some(correlation);
            match reply_to {
                Some(reply_to) => encode_publish(&mut self.replies, &[reply_to], properties, payload),
                None => encode_publish(&mut self.replies, &[topic, b"/res"], properties, payload),
            }
        } else if let Some(numbers) = topic.strip_prefix(b"flood/") {
            let mut numbers = numbers.split(|byte| *byte == b'/').map(number);
            let count = numbers.next().flatten().unwrap_or(0);
            let payload = numbers.next().flatten().unwrap_or(FLOOD_PAYLOAD);
            self.flood(std::iter::once(FLOOD_TOPIC.to_owned()), count, payload)?;
        } else if let Some(numbers) = topic.strip_prefix(b"spread/") {
            let numbers = std::str::from_utf8(numbers).ok().and_then(|numbers| numbers.split_once('/'));
            let parsed = numbers.and_then(|(topics, count)| Some((topics.parse::<usize>().ok()?, count.parse().ok()?)));
            if let Some((topics, count)) = parsed {
                // Any step that has no factor in common with the number of topics visits each of them.
                let step = (topics * 5 / 8..).find(|step| greatest_common_divisor(*step, topics) == 1).unwrap_or(1);
                self.flood((0..topics).map(|n| format!("spread/{}/data", n * step % topics)), count, FLOOD_PAYLOAD)?;
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, body: &[u8]) {
        let (id, filters) = body.split_at(2);
        let mut filters = if self.is_v5 { split_properties(filters).1 } else { filters };
        let mut granted = id.to_vec();
        granted.extend_from_slice(if self.is_v5 { &[0] } else { &[] });
        while !filters.is_empty() {
            let qos = 2 + length(filters);
            granted.push(filters[qos] & 3);
            filters = &filters[qos + 1..];
        }
        self.reply(0x90, &granted);
    }

    fn unsubscribe(&mut self, body: &[u8]) {
        let (id, filters) = body.split_at(2);
        let mut done = id.to_vec();
        if self.is_v5 {
            let mut filters = split_properties(filters).1;
            done.push(0);
            while !filters.is_empty() {
                done.push(0);
                filters = &filters[2 + length(filters)..];
            }
        }
        self.reply(0xB0, &done);
    }

    fn reply(&mut self, first: u8, body: &[u8]) {
        self.replies.push(first);
        encode_length(&mut self.replies, body.len());
        self.replies.extend_from_slice(body);
    }

    /// `count` messages on these topics in turn, with one write for as many as a buffer holds.
    fn flood(&mut self, topics: impl Iterator<Item = String>, mut count: usize, payload: usize) -> std::io::Result<()> {
        self.flush()?;
        let payload = vec![b'x'; payload];
        let properties = self.is_v5.then_some(&[][..]);
        let mut packets = Vec::new();
        let mut ends = vec![0];
        for topic in topics {
            encode_publish(&mut packets, &[topic.as_bytes()], properties, &payload);
            ends.push(packets.len());
        }
        let times = (BUFFER / packets.len()).max(1);
        let (length, packets) = (packets.len(), packets.repeat(times));
        ends = (0..times).flat_map(|time| ends[1..].iter().map(move |end| time * length + end)).collect();
        while count > 0 {
            let now = count.min(ends.len());
            for part in packets[..ends[now - 1]].chunks(BUFFER) {
                write_all(&mut self.line, part)?;
            }
            count -= now;
        }
        Ok(())
    }
}

fn write_all(line: &mut impl Line, mut bytes: &[u8]) -> std::io::Result<()> {
    loop {
        let done = if bytes.is_empty() { line.flush().map(|()| 0) } else { line.write(bytes) };
        match done {
            Ok(_) if bytes.is_empty() => return Ok(()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        b => greatest_common_divisor(b, a % b),
    }
}

/// The sizes of the fixed header and of the rest of the packet, once all of it has arrived.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let header = index + 2;
            return (bytes.len() >= header + length).then_some((header, length));
        }
    }
    None
}

fn length(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn encode_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// `properties` where MQTT 5 is spoken.
fn encode_publish(out: &mut Vec<u8>, topic: &[&[u8]], properties: Option<&[u8]>, payload: &[u8]) {
    let topic_length: usize = topic.iter().map(|part| part.len()).sum();
    let mut header = Vec::new();
    if let Some(properties) = properties {
        encode_length(&mut header, properties.len());
        header.extend_from_slice(properties);
    }
    out.push(0x30);
    encode_length(out, 2 + topic_length + header.len() + payload.len());
    out.extend_from_slice(&(topic_length as u16).to_be_bytes());
    topic.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

/// The properties at the start of `bytes`, without their length, and what is behind them.
fn split_properties(bytes: &[u8]) -> (&[u8], &[u8]) {
    let size = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap_or(0) + 1;
    let length = bytes[..size].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    bytes[size..].split_at(length)
}

/// Where the answer to a PUBLISH is awaited, and the property that it must carry.
fn response(mut properties: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let (mut topic, mut correlation) = (None, &[][..]);
    while let Some(tag) = properties.first() {
        let size = 1 + match tag {
            0x01 => 1,
            0x02 => 4,
            0x23 => 2,
            0x03 | 0x08 | 0x09 => 2 + length(&properties[1..]),
            0x26 => {
                let name = 2 + length(&properties[1..]);
                name + 2 + length(&properties[1 + name..])
            }
            _ => break,
        };
        match tag {
            0x08 => topic = Some(&properties[3..size]),
            0x09 => correlation = &properties[..size],
            _ => {}
        }
        properties = &properties[size..];
    }
    (topic, correlation)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
