//! One connection to a broker: made by a handshake, then bytes both ways.

use std::io::{self, IoSlice};
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::TlsFailure;
use crate::options::{Authentication, Credentials, LastWill, Login, Options};
use crate::telemetry::TARGET;
use crate::terms::Terms;
use crate::transport::{self, Endpoint, Stream, Transport};
use crate::wire::{Codec, ConnAck, Connect, Inbound, Output, Refused};
use crate::{Error, ErrorKind, ReasonCode, Refusal, Version};

pub(crate) struct Connection {
    stream: Stream,
    pub(crate) codec: Codec,
    pub(crate) session_present: bool,
    pub(crate) terms: Arc<Terms>,
    pub(crate) input: BytesMut,
    pub(crate) output: Output,
    /// Whether anything was written since the last flush.
    unflushed: bool,
    /// The size of the next block to read into.
    block: usize,
    /// Whether the block under `input` is not to be used again, because it is larger than that of small packets may be.
    is_large: bool,
}

/// The blocks that reads go into; a message that is kept keeps the block it was read into.
const READ_BLOCK: usize = 8 * 1024;
/// What the blocks grow to while reads fill them. A larger packet has a block of its own.
const READ_BURST: usize = 64 * 1024;
/// The most that one write is made of; what is behind them goes with the next.
const SLICES: usize = 32;
/// The start of an alert record, which TLS servers answer with when they are spoken to in plain MQTT.
const TLS_ALERT: [u8; 2] = [21, 3];

impl Connection {
    /// Reads what is there into `input`; the number of bytes, never zero.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let space = self.make_room();
        let mut input = (&mut self.input).limit(space);
        // `read_buf` keeps nothing between polls, so a fresh one each time loses nothing.
        let read = pin!(self.stream.read_buf(&mut input));
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

    /// Makes room in `input`; how much of it the next read may fill. A large packet is read to its end and not beyond, so
    /// that no small one keeps its block.
    fn make_room(&mut self) -> usize {
        let held = self.input.len();
        let missing = self.codec.missing(&self.input);
        let room = self.input.capacity() - held;
        let packet = held + missing;
        if packet > READ_BURST {
            if room < missing.min(READ_BLOCK) {
                // As it comes, not as it is announced.
                self.renew_block(packet.min(held + held.max(READ_BURST)));
                self.is_large = true;
            }
            return missing.min(self.input.capacity() - held);
        }
        let block = self.block.max(packet);
        if self.is_large || room < self.block / 4 && !self.input.try_reclaim(block - held) {
            self.renew_block(block);
            self.is_large = false;
        }
        self.input.capacity() - held
    }

    fn renew_block(&mut self, size: usize) {
        let mut block = BytesMut::with_capacity(size);
        block.extend_from_slice(&self.input);
        self.input = block;
    }

    /// Writes what `output` holds, as far as the peer takes it; the number of bytes, never zero.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let stream = Pin::new(&mut self.stream);
        let written = match self.output.one_slice() {
            Some(slice) => stream.poll_write(cx, slice),
            None => {
                let mut places = [IoSlice::new(&[]); SLICES];
                let used = self.output.slices(&mut places);
                stream.poll_write_vectored(cx, &places[..used])
            }
        };
        let written = ready!(written).map_err(lost)?;
        if written == 0 {
            return Poll::Ready(Err(closed()));
        }
        self.unflushed = true;
        self.output.advance(written);
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

/// What there is to know to open a connection.
pub(crate) struct Opening<'a> {
    pub(crate) options: &'a Options,
    pub(crate) client_id: &'a str,
    /// Whether the agent was never connected.
    pub(crate) is_first: bool,
}

impl Opening<'_> {
    /// Dials and shakes hands, all within the connect timeout.
    pub(crate) async fn connect(&self, transport: &Transport, endpoint: &Endpoint) -> Result<Connection, Error> {
        timeout(self.options.connect_timeout, self.connect_as_asked(transport, endpoint))
            .await
            .unwrap_or_else(|_| Err(Error::timeout("the broker did not answer CONNECT within the connect timeout")))
    }

    async fn connect_as_asked(&self, transport: &Transport, endpoint: &Endpoint) -> Result<Connection, Error> {
        let login = match &self.options.credentials {
            Credentials::None => None,
            Credentials::Fixed(login) => Some(login.clone()),
            Credentials::Fresh(login) => Some(login().await?),
        };
        if let Some(login) = &login {
            login.check()?;
        }
        let shake = |version| Handshake { version, opening: self, login: login.as_ref() };
        if self.options.version != Version::Auto {
            return shake(self.options.version).run(transport.connect(endpoint).await?).await;
        }
        match shake(Version::V5).run(transport.connect(endpoint).await?).await {
            Err(error) if may_not_know_v5(&error) && self.options.mqtt5.authentication.is_none() => {
                tracing::debug!(name: "mqtt.downgraded", target: TARGET, %error, "the broker may not know MQTT 5: trying 3.1.1");
                shake(Version::V311).run(transport.connect(endpoint).await?).await
            }
            outcome => outcome,
        }
    }
}

/// What there is to say in CONNECT.
struct Handshake<'a> {
    version: Version,
    opening: &'a Opening<'a>,
    login: Option<&'a Login>,
}

impl Handshake<'_> {
    async fn run(&self, stream: Stream) -> Result<Connection, Error> {
        let options = self.opening.options;
        let mut peer = Peer {
            stream,
            codec: Codec::new(self.version, options.max_packet_size),
            input: BytesMut::with_capacity(READ_BLOCK),
            output: BytesMut::new(),
        };
        let authentication = options.mqtt5.authentication.as_ref();
        let mut exchange = authentication.map(Authentication::start);
        let first = match &mut exchange {
            Some(exchange) => Some(exchange.answer(None).await?),
            None => None,
        };
        self.encode_connect(first, &mut peer)?;
        loop {
            match peer.ask().await? {
                Inbound::ConnAck(Ok(ack)) => {
                    if let (Some(exchange), Some(data)) = (&mut exchange, &ack.authentication_data) {
                        exchange.conclude(data.0.clone()).await?;
                    }
                    return self.accept(*ack, peer);
                }
                Inbound::ConnAck(Err(refused)) => {
                    let Refused { reason, server_reference } = *refused;
                    return Err(Error::refused(&reason).with_server_reference(server_reference));
                }
                Inbound::Auth { code: ReasonCode::CONTINUE_AUTHENTICATION, data } => {
                    let (Some(exchange), Some(authentication)) = (&mut exchange, authentication) else {
                        return Err(Error::protocol("the broker sent an AUTH that nobody asked for"));
                    };
                    let data = data.map_or_else(Bytes::new, |challenge| challenge.0);
                    let answer = exchange.answer(Some(data)).await?;
                    peer.codec.encode_auth(&authentication.method, answer, &mut peer.output);
                }
                _ => return Err(Error::protocol("the broker's first packet is not a CONNACK")),
            }
        }
    }

    fn encode_connect(&self, data: Option<Bytes>, peer: &mut Peer) -> Result<(), Error> {
        let Self { opening: Opening { options, client_id, is_first }, login, .. } = self;
        let last_will = options.last_will.as_ref().map(LastWill::to_publish).transpose()?;
        let authentication = options.mqtt5.authentication.as_ref();
        let connect = Connect {
            client_id,
            clean_session: options.starts_clean(self.version, *is_first),
            keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            username: login.map(|login| login.username.as_str()),
            password: login.and_then(|login| login.password.as_deref()),
            last_will: last_will.as_ref(),
            will_delay: options.last_will.as_ref().map_or(0, LastWill::delay_seconds),
            session_expiry: options.session_expiry_seconds(),
            receive_maximum: options.mqtt5.receive_maximum(),
            // It counts the fixed header, of at most 5 bytes, too (MQTT 5, section 3.1.2.11.4).
            maximum_packet_size: u32::try_from(options.max_packet_size.saturating_add(5)).unwrap_or(u32::MAX),
            topic_alias_maximum: options.mqtt5.topic_alias_maximum(),
            request_response_information: options.mqtt5.request_response_information(),
            user_properties: &options.mqtt5.user_properties,
            authentication: authentication.map(|held| held.method.as_str()).zip(data),
        };
        peer.codec.encode_connect(&connect, &mut peer.output);
        Ok(())
    }

    fn accept(&self, ack: ConnAck, peer: Peer) -> Result<Connection, Error> {
        let Opening { options, client_id, is_first } = self.opening;
        let ConnAck { session_present, mut terms, .. } = ack;
        if session_present && options.starts_clean(self.version, *is_first) {
            // MQTT-3.2.2-1 (3.2.2-2 of MQTT 5). Believed, it would keep the agent from subscribing again.
            return Err(Error::protocol("the broker resumed a session that it was asked to forget"));
        }
        // As asked for: a CONNACK of 3.1 looks like one of 3.1.1.
        terms.version = self.version;
        if terms.client_id.is_empty() {
            (*client_id).clone_into(&mut terms.client_id);
        }
        let Peer { stream, mut codec, input, .. } = peer;
        if options.mqtt5.topic_aliases() {
            codec.assign_aliases(terms.topic_alias_maximum);
        }
        let terms = Arc::new(terms);
        let output = Output::new(stream.is_write_vectored());
        let (unflushed, block) = (false, READ_BLOCK);
        // A CONNACK can be large.
        let is_large = true;
        Ok(Connection { stream, codec, session_present, terms, input, output, unflushed, block, is_large })
    }
}

/// The other side of a handshake.
struct Peer {
    stream: Stream,
    codec: Codec,
    input: BytesMut,
    output: BytesMut,
}

impl Peer {
    /// Sends what there is to send; the packet that answers it.
    async fn ask(&mut self) -> Result<Inbound, Error> {
        let sent = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        // A peer that refuses may hang up before it has taken all; why it did can still be read.
        let unsent = sent.await.err().map(unanswered);
        self.output.clear();
        loop {
            if self.input.starts_with(&TLS_ALERT) {
                return Err(Error::tls(TlsFailure::Required, TlsFailure::Required.to_string()));
            }
            if let Some(inbound) = self.codec.decode(&mut self.input)? {
                return Ok(inbound);
            }
            if self.stream.read_buf(&mut self.input).await.map_err(unanswered)? == 0 {
                return Err(unsent.unwrap_or_else(|| Error::connection(UNANSWERED)));
            }
        }
    }
}

/// Whether a handshake ended in one of the ways in which brokers answer a version that they do not speak: they say so, as
/// MQTT-3.1.2-2 of 3.1.1 demands, or close the connection without a word, which MQTT-3.1.2-2 of MQTT 5 allows too.
fn may_not_know_v5(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused(Refusal::UnacceptableProtocolVersion) | ErrorKind::Connection)
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
