//! A TCP proxy on the way to a broker that breaks connections in the ways networks do.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::packets::{Packet, Plans};
use super::{within, LIMIT};
use crate::Error;

mod lane;

use lane::carry;

/// A direction through a [`Proxy`], or to and from a [`MemoryBroker`](super::MemoryBroker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    Up,
    /// From the broker to the client.
    Down,
    /// Each of them.
    Both,
}

/// A proxy on the way to a broker, which does on command what networks and brokers do at the worst moment. It ends, with
/// every connection, when dropped.
///
/// ```no_run
/// # async fn example(broker: mqtt_agent::testing::Broker) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::testing::{Packet, Proxy};
/// use mqtt_agent::Agent;
///
/// let line = Proxy::start(broker.addr()).await?;
/// let agent = Agent::connect(line.url()).await?;
/// line.drop_next(Packet::PubAck);
/// let publish = tokio::spawn(async move { agent.publish("a", "x").await });
/// line.wait_for_dropped(1).await;
/// line.cut().await; // The agent reconnects and sends again.
/// publish.await.expect("no panic")?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// What waits here panics after a few seconds.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port, and leads each connection to `target`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`](crate::ErrorKind::Connection) if there is no port for it.
    pub async fn start(target: SocketAddr) -> Result<Self, Error> {
        let none = |source: io::Error| Error::connection("there is no port for the proxy").with_source(source);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(none)?;
        let addr = listener.local_addr().map_err(none)?;
        let shared = Arc::new(Shared {
            controls: watch::Sender::new(Controls::to(target)),
            counts: watch::Sender::new(Counts::default()),
            allowances: Mutex::new([None; 2]),
            plans: Mutex::new(Plans::default()),
        });
        let task = tokio::spawn(accept_all(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same, as a URL for an agent.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.addr)
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

    /// Drops the next packet of this kind from the broker, on whichever connection it comes. Called again, it drops one
    /// more.
    pub fn drop_next(&self, packet: Packet) {
        self.shared.plans().drop_next(packet);
    }

    /// Makes a refusal of the next SUBACK, of each of its filters. The broker knows nothing of it.
    pub fn refuse_next_suback(&self) {
        self.shared.plans().refuse_next_suback();
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

    /// How many packets were dropped so far, as [`drop_next`](Self::drop_next) asked.
    pub fn dropped(&self) -> usize {
        self.shared.counts.borrow().dropped
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

    /// Waits until [`dropped`](Self::dropped) is at least `count`: the broker has sent them, and nobody will see them.
    pub async fn wait_for_dropped(&self, count: usize) {
        let what = format!("{count} packets dropped by the proxy");
        self.wait_until(&what, |counts| counts.dropped >= count).await;
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
    plans: Mutex<Plans>,
}

impl Shared {
    fn allowances(&self) -> MutexGuard<'_, [Option<u64>; 2]> {
        self.allowances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
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
    dropped: usize,
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
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(_) => {
                    // That one is gone already, or the process has too many files open for a moment.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
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

async fn discard(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Before the next connection, after one that could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);

const UP: usize = 0;
const DOWN: usize = 1;
