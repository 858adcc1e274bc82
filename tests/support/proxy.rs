//! A TCP proxy on the way to a broker that breaks connections in the ways networks do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{within, LIMIT};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    Up,
    /// From the broker to the client.
    Down,
    Both,
}

/// A running proxy. Ends with every connection when dropped.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared {
            controls: watch::Sender::new(Controls::to(target)),
            counts: watch::Sender::new(Counts::default()),
            allowances: Mutex::new([None; 2]),
        });
        let task = tokio::spawn(accept_all(listener, Arc::clone(&shared)));
        Self { addr, shared, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        super::url(self.addr)
    }

    /// Resets the connections there are, and returns once they are gone.
    pub async fn cut(&self) {
        self.end_all(|controls| controls.cuts += 1).await;
    }

    /// Closes the connections there are cleanly, and returns once both sides were told.
    pub async fn close(&self) {
        self.end_all(|controls| controls.closes += 1).await;
    }

    /// While on, every new connection is reset as soon as it is accepted.
    pub fn refuse(&self, on: bool) {
        self.control(|controls| controls.refuse = on);
    }

    /// While on, what is sent in this direction vanishes, a close or a reset included, and the
    /// connections stay open. A hidden close is passed on once it is off again.
    pub fn black_hole(&self, direction: Direction, on: bool) {
        self.control(|controls| {
            for &lane in direction.lanes() {
                controls.hole[lane] = on;
            }
        });
    }

    /// Resets the connection, this or the next one, that has carried `bytes` more in this
    /// direction. The other side has received these and not one more. Happens once.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        let mut allowances = self.shared.allowances();
        for &lane in direction.lanes() {
            allowances[lane] = Some(bytes);
        }
    }

    /// Hands on at most so many bytes at a time.
    pub fn chunk(&self, bytes: Option<usize>) {
        self.control(|controls| controls.chunk = bytes);
    }

    /// Holds back everything for so long, in each direction. What arrives while something is held
    /// back is held back for as long again.
    pub fn delay(&self, delay: Duration) {
        self.control(|controls| controls.delay = delay);
    }

    /// Leads new connections elsewhere.
    pub fn retarget(&self, target: SocketAddr) {
        self.control(|controls| controls.target = target);
    }

    /// How many connections were accepted so far, the refused ones included.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().accepted
    }

    /// How many connections there are now.
    pub fn live(&self) -> usize {
        self.shared.counts.borrow().live.len()
    }

    /// How many bytes were handed on so far, over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.counts.borrow().bytes_in(direction)
    }

    /// Waits until [`connections`](Self::connections) is at least `count`.
    pub async fn wait_for_connections(&self, count: usize) {
        let what = format!("connection {count} to the proxy");
        self.wait_until(&what, |counts| counts.accepted >= count).await;
    }

    /// Waits until [`live`](Self::live) is exactly `count`.
    pub async fn wait_for_live(&self, count: usize) {
        let what = format!("{count} live connections through the proxy");
        self.wait_until(&what, |counts| counts.live.len() == count).await;
    }

    /// Waits until [`bytes`](Self::bytes) is at least `count`.
    pub async fn wait_for_bytes(&self, direction: Direction, count: u64) {
        let what = format!("{count} bytes {direction:?} through the proxy");
        self.wait_until(&what, |counts| counts.bytes_in(direction) >= count).await;
    }

    fn control(&self, change: impl FnOnce(&mut Controls)) {
        self.shared.controls.send_modify(change);
    }

    async fn end_all(&self, change: impl FnOnce(&mut Controls)) {
        let ending = self.shared.counts.borrow().live.clone();
        self.control(change);
        self.wait_until("end of the connections", |counts| counts.live.is_disjoint(&ending)).await;
    }

    async fn wait_until(&self, what: &str, reached: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        within(LIMIT, what, counts.wait_for(reached)).await.expect("the sender is alive");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Direction {
    fn lanes(self) -> &'static [usize] {
        match self {
            Self::Up => &[UP],
            Self::Down => &[DOWN],
            Self::Both => &[UP, DOWN],
        }
    }
}

struct Shared {
    controls: watch::Sender<Controls>,
    counts: watch::Sender<Counts>,
    /// What may still pass in each direction before a cut.
    allowances: Mutex<[Option<u64>; 2]>,
}

impl Shared {
    fn allowances(&self) -> std::sync::MutexGuard<'_, [Option<u64>; 2]> {
        self.allowances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of `wanted` may pass, and whether the connection is cut after it.
    fn take_allowance(&self, lane: usize, wanted: usize) -> (usize, bool) {
        let mut allowances = self.allowances();
        let Some(left) = allowances[lane] else {
            return (wanted, false);
        };
        let granted = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
        let left = left - granted as u64;
        allowances[lane] = (left > 0).then_some(left);
        (granted, left == 0)
    }
}

#[derive(Clone, Copy)]
struct Controls {
    target: SocketAddr,
    cuts: u64,
    closes: u64,
    refuse: bool,
    hole: [bool; 2],
    chunk: Option<usize>,
    delay: Duration,
}

impl Controls {
    fn to(target: SocketAddr) -> Self {
        Self { target, cuts: 0, closes: 0, refuse: false, hole: [false; 2], chunk: None, delay: Duration::ZERO }
    }
}

#[derive(Default)]
struct Counts {
    accepted: usize,
    live: BTreeSet<usize>,
    bytes: [u64; 2],
}

impl Counts {
    fn bytes_in(&self, direction: Direction) -> u64 {
        direction.lanes().iter().map(|&lane| self.bytes[lane]).sum()
    }
}

/// Counts a connection as live until it is dropped.
struct Live {
    shared: Arc<Shared>,
    id: usize,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.counts.send_modify(|counts| {
            counts.live.remove(&self.id);
        });
    }
}

enum End {
    Reset,
    Close,
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted.expect("the listener accepts").0,
            Some(_) = connections.join_next() => continue,
        };
        let controls = *shared.controls.borrow();
        let mut id = 0;
        if controls.refuse {
            client.set_zero_linger().ok();
            drop(client);
            shared.counts.send_modify(|counts| counts.accepted += 1);
        } else {
            shared.counts.send_modify(|counts| {
                counts.accepted += 1;
                id = counts.accepted;
                counts.live.insert(id);
            });
            let shared = Arc::clone(&shared);
            connections.spawn(serve(client, controls, Live { shared, id }));
        }
    }
}

async fn serve(mut client: TcpStream, accepted_under: Controls, live: Live) {
    let shared = Arc::clone(&live.shared);
    // Not abandoned for a cut: an abandoned connect ends cleanly on the side of the broker.
    let connect = tokio::time::timeout(LIMIT, TcpStream::connect(accepted_under.target));
    let Ok(Ok(mut broker)) = connect.await else {
        client.set_zero_linger().ok();
        return;
    };
    let end = tokio::select! {
        biased;
        end = told_to_end(&shared, accepted_under) => end,
        end = carry(&mut client, &mut broker, &shared) => end,
    };
    match end {
        End::Reset => {
            client.set_zero_linger().ok();
            broker.set_zero_linger().ok();
            drop((client, broker));
        }
        End::Close => {
            client.shutdown().await.ok();
            broker.shutdown().await.ok();
            drop(live);
            // Closing a socket with unread bytes sends a reset after the clean end.
            let both = async { tokio::join!(discard(&mut client), discard(&mut broker)) };
            tokio::time::timeout(LIMIT, both).await.ok();
        }
    }
}

async fn told_to_end(shared: &Shared, accepted_under: Controls) -> End {
    let mut controls = shared.controls.subscribe();
    let cut = controls
        .wait_for(|now| now.cuts != accepted_under.cuts || now.closes != accepted_under.closes)
        .await
        .map_or(true, |now| now.cuts != accepted_under.cuts);
    if cut {
        End::Reset
    } else {
        End::Close
    }
}

async fn carry(client: &mut TcpStream, broker: &mut TcpStream, shared: &Shared) -> End {
    client.set_nodelay(true).ok();
    broker.set_nodelay(true).ok();
    let (client_read, client_write) = client.split();
    let (broker_read, broker_write) = broker.split();
    let carried = tokio::try_join!(
        Lane::new(UP, client_read, broker_write, shared).carry(),
        Lane::new(DOWN, broker_read, client_write, shared).carry(),
    );
    match carried {
        Ok(_) => End::Close,
        Err(Reset) => End::Reset,
    }
}

/// One direction of one connection.
struct Lane<'a> {
    lane: usize,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    shared: &'a Shared,
    source_end: Option<End>,
    sink_gone: bool,
}

struct Reset;

impl<'a> Lane<'a> {
    fn new(lane: usize, from: ReadHalf<'a>, to: WriteHalf<'a>, shared: &'a Shared) -> Self {
        Self { lane, from, to, shared, source_end: None, sink_gone: false }
    }

    async fn carry(mut self) -> Result<(), Reset> {
        let mut controls = self.shared.controls.subscribe();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let hole = controls.borrow_and_update().hole;
            // The end of the sink travels the other way, so it is the other hole that hides it.
            if self.sink_gone && !hole[1 - self.lane] {
                return Err(Reset);
            }
            match self.source_end {
                Some(End::Reset) if !hole[self.lane] => return Err(Reset),
                Some(End::Close) if !hole[self.lane] => {
                    self.to.shutdown().await.ok();
                    return Ok(());
                }
                _ => {}
            }
            let read = tokio::select! {
                read = self.from.read(&mut buffer), if self.source_end.is_none() => read,
                changed = controls.changed() => {
                    changed.map_err(|_| Reset)?;
                    continue;
                }
            };
            match read {
                Ok(0) => self.source_end = Some(End::Close),
                Ok(count) => self.hand_on(&buffer[..count]).await?,
                Err(_) => self.source_end = Some(End::Reset),
            }
        }
    }

    async fn hand_on(&mut self, mut bytes: &[u8]) -> Result<(), Reset> {
        let delay = self.shared.controls.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        while !bytes.is_empty() {
            let controls = *self.shared.controls.borrow();
            if controls.hole[self.lane] || self.sink_gone {
                return Ok(());
            }
            let wanted = controls.chunk.map_or(bytes.len(), |chunk| bytes.len().min(chunk.max(1)));
            let (granted, cut) = self.shared.take_allowance(self.lane, wanted);
            if self.to.write_all(&bytes[..granted]).await.is_err() {
                self.sink_gone = true;
                return Ok(());
            }
            self.shared.counts.send_modify(|counts| counts.bytes[self.lane] += granted as u64);
            if cut {
                return Err(Reset);
            }
            bytes = &bytes[granted..];
            if controls.chunk.is_some() {
                // Lets the reader see this piece alone.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

async fn discard(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

const UP: usize = 0;
const DOWN: usize = 1;
