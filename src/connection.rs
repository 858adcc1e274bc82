//! One connection to a broker: made by a handshake, then bytes both ways.

use std::io;
use std::pin::{pin, Pin};
use std::task::{ready, Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::TlsFailure;
use crate::options::{Credentials, LastWill, Login, Options};
use crate::transport::{self, Endpoint, Stream, Transport};
use crate::wire::{Codec, Connect, Inbound};
use crate::Error;

pub(crate) struct Connection {
    stream: Stream,
    pub(crate) codec: Codec,
    pub(crate) session_present: bool,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    /// Whether anything was written since the last flush.
    unflushed: bool,
    /// The size of the next block to read into.
    block: usize,
}

/// The blocks that reads go into; a message that is kept keeps the block it was read into.
const READ_BLOCK: usize = 8 * 1024;
/// What the blocks grow to while reads fill them.
const READ_BURST: usize = 64 * 1024;
/// A buffer that grew beyond this for one large packet is given back.
const KEPT_OUTPUT: usize = 256 * 1024;
/// The start of an alert record, which TLS servers answer with when they are spoken to in plain MQTT.
const TLS_ALERT: [u8; 2] = [21, 3];

impl Connection {
    /// Dials and shakes hands, all within the connect timeout.
    pub(crate) async fn open(
        options: &Options,
        client_id: &str,
        transport: &Transport,
        endpoint: &Endpoint,
    ) -> Result<Self, Error> {
        let opening = async {
            let login = match &options.credentials {
                Credentials::None => None,
                Credentials::Fixed(login) => Some(login.clone()),
                Credentials::Fresh(login) => Some(login().await?),
            };
            if let Some(login) = &login {
                login.check()?;
            }
            let stream = transport.connect(endpoint).await?;
            Self::handshake(stream, options, client_id, login.as_ref()).await
        };
        timeout(options.connect_timeout, opening)
            .await
            .unwrap_or_else(|_| Err(Error::timeout("the broker did not answer CONNECT within the connect timeout")))
    }

    pub(crate) async fn handshake(
        mut stream: Stream,
        options: &Options,
        client_id: &str,
        login: Option<&Login>,
    ) -> Result<Self, Error> {
        let mut codec = Codec::new(options.version, options.max_packet_size);
        let last_will = options.last_will.as_ref().map(LastWill::to_publish).transpose()?;
        let connect = Connect {
            client_id,
            clean_session: options.clean_session,
            keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            username: login.map(|login| login.username.as_str()),
            password: login.and_then(|login| login.password.as_deref()),
            last_will: last_will.as_ref(),
        };
        let mut output = BytesMut::new();
        codec.encode_connect(&connect, &mut output);
        let sent = async {
            stream.write_all(&output).await?;
            stream.flush().await
        };
        // A peer that refuses may hang up before it has taken all; why it did can still be read.
        let unsent = sent.await.err().map(unanswered);
        output.clear();
        let mut input = BytesMut::with_capacity(READ_BLOCK);
        loop {
            if input.starts_with(&TLS_ALERT) {
                return Err(Error::tls(TlsFailure::Required, TlsFailure::Required.to_string()));
            }
            match codec.decode(&mut input)? {
                Some(Inbound::ConnAck(answer)) => {
                    let session_present = answer.map_err(Error::refused)?.session_present;
                    if session_present && options.clean_session {
                        // [MQTT-3.2.2-1]. Believed, it would keep the agent from subscribing again.
                        return Err(Error::protocol("the broker resumed a session that it was asked to forget"));
                    }
                    return Ok(Self {
                        stream,
                        codec,
                        session_present,
                        input,
                        output,
                        unflushed: false,
                        block: READ_BLOCK,
                    });
                }
                Some(_) => return Err(Error::protocol("the broker's first packet is not a CONNACK")),
                None => {}
            }
            if stream.read_buf(&mut input).await.map_err(unanswered)? == 0 {
                return Err(unsent.unwrap_or_else(|| Error::connection(UNANSWERED)));
            }
        }
    }

    /// Reads what is there into `input`; the number of bytes, never zero.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if self.input.capacity() - self.input.len() < self.block / 4 {
            self.input.reserve(self.block);
        }
        let space = self.input.capacity() - self.input.len();
        // `read_buf` keeps nothing between polls, so a fresh one each time loses nothing.
        let read = pin!(self.stream.read_buf(&mut self.input));
        match ready!(std::future::Future::poll(read, cx)) {
            Ok(0) => Poll::Ready(Err(closed())),
            Ok(bytes) => {
                // A full block means that more is to come, a nearly empty one that the rush is over.
                if bytes == space {
                    self.block = (self.block * 2).min(READ_BURST);
                } else if bytes < READ_BLOCK / 4 {
                    self.block = READ_BLOCK;
                }
                Poll::Ready(Ok(bytes))
            }
            Err(error) => Poll::Ready(Err(lost(error))),
        }
    }

    /// Writes what `output` holds, as far as the peer takes it; the number of bytes, never zero.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output)).map_err(lost)?;
        if written == 0 {
            return Poll::Ready(Err(closed()));
        }
        self.unflushed = true;
        self.output.advance(written);
        if self.output.is_empty() && self.output.capacity() > KEPT_OUTPUT {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(written))
    }

    /// Moves on what layers below hold of what was written: TLS and WebSocket keep what the socket does not take.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(lost)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that no more will come. Errors do not matter any more.
    pub(crate) async fn shutdown(mut self) {
        let _ = self.stream.shutdown().await;
    }
}

/// Many a port for TLS hangs up on plain MQTT without a word.
const UNANSWERED: &str =
    "the broker closed the connection before it answered CONNECT: is this a port for TLS (mqtts, wss)?";

fn unanswered(source: io::Error) -> Error {
    transport::lost(source, UNANSWERED)
}

fn lost(source: io::Error) -> Error {
    transport::lost(source, "the connection to the broker was lost")
}

fn closed() -> Error {
    Error::connection("the broker closed the connection")
}
