//! The floor on Tokio: a task that owns the socket and a timer for the keep alive, as every asynchronous client has
//! them, and callers that ask it. It writes what was encoded before, and looks at nothing.
//!
//! What it takes over the blocking socket is what a runtime, a second task and a timer cost.

use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, Sleep};
use tokio_rustls::TlsConnector;

use super::socket::{publish, CONNECT, SUBSCRIBE};
use super::{Client, Device, KEEP_ALIVE};
use crate::endpoint::Endpoint;
use crate::tls::client_config;

pub(crate) struct Bare(mpsc::Sender<Call>);

struct Call {
    request: Vec<u8>,
    reply_length: usize,
    reply: oneshot::Sender<()>,
}

struct Loop<L> {
    line: L,
    calls: mpsc::Receiver<Call>,
    waiting: Option<Call>,
    input: BytesMut,
    output: BytesMut,
    keep_alive: Pin<Box<Sleep>>,
}

/// More than a reply of the usual size: a read that fills its buffer is followed by one that finds nothing.
const BLOCK: usize = 4 * 1024;

impl Client for Bare {
    async fn connect(broker: &Endpoint) -> Self {
        let line = TcpStream::connect(broker.address).await.expect("the broker listens");
        line.set_nodelay(true).expect("a TCP socket");
        match &broker.ca {
            Some(ca) => {
                let connected = TlsConnector::from(client_config(ca)).connect(broker.address.ip().into(), line);
                Self::start(connected.await.expect("a certificate that is accepted")).await
            }
            None => Self::start(line).await,
        }
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let request = publish(&device.command_topic, &payload);
        let reply_length = publish(&device.reply_topic, &payload).len();
        let (reply, replied) = oneshot::channel();
        // One at a time.
        let _ = self.0.try_send(Call { request, reply_length, reply });
        replied.await.expect("the loop runs");
    }

    async fn call_each(&self, _: &[Device], _: Bytes) -> bool {
        false
    }

    async fn publish(&self, _: usize, _: u8, _: Bytes) -> bool {
        false
    }

    async fn receive(&self, _: String, _: usize) -> Duration {
        Duration::ZERO
    }
}

impl Bare {
    async fn start(mut line: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        line.write_all(CONNECT).await.expect("CONNECT");
        line.read_exact(&mut [0; 4]).await.expect("CONNACK");
        line.write_all(SUBSCRIBE).await.expect("SUBSCRIBE");
        line.read_exact(&mut [0; 5]).await.expect("SUBACK");
        let (sender, calls) = mpsc::channel(1);
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let keep_alive = Box::pin(sleep(KEEP_ALIVE));
        let mut looping = Loop { line, calls, waiting: None, input, output, keep_alive };
        tokio::spawn(async move { poll_fn(|cx| looping.poll(cx)).await });
        Self(sender)
    }
}

impl<L: AsyncRead + AsyncWrite + Unpin> Loop<L> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(call) = self.calls.poll_recv(cx) {
            let Some(call) = call else { return Poll::Ready(()) };
            self.output.extend_from_slice(&call.request);
            self.waiting = Some(call);
        }
        while !self.output.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.line).poll_write(cx, &self.output) else { break };
            self.output.advance(written.expect("PUBLISH"));
        }
        let _ = Pin::new(&mut self.line).poll_flush(cx);
        loop {
            self.input.reserve(self.waiting.as_ref().map_or(0, |call| call.reply_length).max(BLOCK));
            let read = pin!(self.line.read_buf(&mut self.input));
            let Poll::Ready(read) = read.poll(cx) else { return self.keep_alive.as_mut().poll(cx) };
            if read.expect("the reply") == 0 {
                return Poll::Ready(());
            }
            if let Some(call) = self.waiting.take_if(|call| self.input.len() >= call.reply_length) {
                self.input.advance(call.reply_length);
                let _ = call.reply.send(());
            }
        }
    }
}
