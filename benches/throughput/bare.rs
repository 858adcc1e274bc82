//! The floor on Tokio: a task that owns the socket and a timer for the keep alive, as every client has them, and callers
//! that ask it; no MQTT in between.
//!
//! What the agent takes over this is its own doing; what this takes over the blocking socket is what a runtime, a second
//! task and a timer cost.

use std::future::{poll_fn, Future};
use std::net::SocketAddr;
use std::pin::{pin, Pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, Sleep};

use crate::contender::{QoS, KEEP_ALIVE};
use crate::floor::Floor;

#[derive(Clone)]
pub(crate) struct Bare {
    calls: mpsc::Sender<oneshot::Sender<()>>,
}

struct Loop {
    socket: TcpStream,
    calls: mpsc::Receiver<oneshot::Sender<()>>,
    request: Vec<u8>,
    reply_length: usize,
    waiting: Option<oneshot::Sender<()>>,
    input: BytesMut,
    output: BytesMut,
    keep_alive: Pin<Box<Sleep>>,
}

/// More than a reply: a read that fills its buffer is followed by one that finds nothing.
const BLOCK: usize = 4 * 1024;

impl Bare {
    pub(crate) fn connect(runtime: &Runtime, broker: SocketAddr, qos: QoS) -> Self {
        let Floor { socket, request, reply } = Floor::connect(broker, qos);
        let (calls, calls_in) = mpsc::channel(1);
        runtime.block_on(async {
            socket.set_nonblocking(true).expect("a TCP socket");
            let socket = TcpStream::from_std(socket).expect("a TCP socket");
            let (input, output) = (BytesMut::new(), BytesMut::new());
            let reply_length = reply.len();
            let keep_alive = Box::pin(sleep(KEEP_ALIVE));
            let mut looping =
                Loop { socket, calls: calls_in, request, reply_length, waiting: None, input, output, keep_alive };
            tokio::spawn(async move { poll_fn(|cx| looping.poll(cx)).await });
        });
        Self { calls }
    }

    async fn call(&self) {
        let (reply, replied) = oneshot::channel();
        self.calls.try_send(reply).expect("one at a time");
        replied.await.expect("the loop runs");
    }

    pub(crate) async fn calls(self, count: usize) -> Vec<Duration> {
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.call().await;
            taken.push(start.elapsed());
        }
        taken
    }
}

impl Loop {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(call) = self.calls.poll_recv(cx) {
            let Some(call) = call else { return Poll::Ready(()) };
            self.waiting = Some(call);
            self.output.extend_from_slice(&self.request);
        }
        while !self.output.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.socket).poll_write(cx, &self.output) else { break };
            self.output.advance(written.expect("PUBLISH"));
        }
        loop {
            self.input.reserve(BLOCK);
            let read = pin!(self.socket.read_buf(&mut self.input));
            let Poll::Ready(read) = read.poll(cx) else { return self.keep_alive.as_mut().poll(cx) };
            if read.expect("the reply") == 0 {
                return Poll::Ready(());
            }
            if self.input.len() >= self.reply_length {
                self.input.advance(self.reply_length);
                if let Some(call) = self.waiting.take() {
                    let _ = call.send(());
                }
            }
        }
    }
}
