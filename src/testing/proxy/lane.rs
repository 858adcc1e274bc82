//! The bytes of one connection through the proxy, in each direction.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use super::{End, Shared, DOWN, UP};
use crate::testing::packets::{is_v5, Packets};

/// Hands on in both directions until one of them ends.
pub(super) async fn carry(client: &mut TcpStream, broker: &mut TcpStream, shared: &Shared) -> End {
    client.set_nodelay(true).ok();
    broker.set_nodelay(true).ok();
    let (client_read, client_write) = client.split();
    let (broker_read, broker_write) = broker.split();
    let is_v5 = AtomicBool::new(false);
    let carried = tokio::try_join!(
        Lane::new(UP, client_read, broker_write, shared, &is_v5).carry(),
        Lane::new(DOWN, broker_read, client_write, shared, &is_v5).carry(),
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
    /// What the client said in its CONNECT.
    is_v5: &'a AtomicBool,
    /// The first bytes of the client, until they say that.
    connect: Option<Vec<u8>>,
    packets: Packets,
    source_end: Option<End>,
    sink_gone: bool,
}

struct Reset;

impl<'a> Lane<'a> {
    fn new(lane: usize, from: ReadHalf<'a>, to: WriteHalf<'a>, shared: &'a Shared, is_v5: &'a AtomicBool) -> Self {
        let connect = (lane == UP).then(Vec::new);
        let packets = Packets::default();
        Self { lane, from, to, shared, is_v5, connect, packets, source_end: None, sink_gone: false }
    }

    async fn carry(mut self) -> Result<(), Reset> {
        let mut controls = self.shared.controls.subscribe();
        let (mut buffer, mut passed) = (vec![0; 64 << 10], Vec::new());
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
                Ok(count) => {
                    passed.clear();
                    self.look_at(&buffer[..count], &mut passed);
                    self.hand_on(&passed).await?;
                }
                Err(_) => self.source_end = Some(End::Reset),
            }
        }
    }

    /// Appends what is to be handed on to `passed`.
    fn look_at(&mut self, bytes: &[u8], passed: &mut Vec<u8>) {
        if self.lane == DOWN {
            let is_v5 = self.is_v5.load(Ordering::Relaxed);
            let dropped = {
                let mut plans = self.shared.plans();
                self.packets.pass(bytes, is_v5, &mut plans, passed);
                plans.take_dropped()
            };
            if dropped > 0 {
                self.shared.counts.send_modify(|counts| counts.dropped += dropped);
            }
            return;
        }
        passed.extend_from_slice(bytes);
        if let Some(connect) = &mut self.connect {
            connect.extend_from_slice(&bytes[..bytes.len().min(CONNECT)]);
            let is_v5 = is_v5(connect);
            self.is_v5.store(is_v5 == Some(true), Ordering::Relaxed);
            if is_v5.is_some() || connect.len() >= CONNECT {
                self.connect = None;
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

/// The bytes of a CONNECT that say its version.
const CONNECT: usize = 16;
