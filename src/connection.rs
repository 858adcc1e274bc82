//! One connection to a broker: made by a handshake, then bytes both ways.

use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::options::{Authentication, Credentials, LastWill, Login, Options};
use crate::telemetry::TARGET;
use crate::terms::Terms;
use crate::transport::{self, Stream};
use crate::wire::{Codec, ConnAck, Connect, Inbound, Refused};
use crate::{Error, ErrorKind, ReasonCode, Refusal, Version};

pub(crate) struct Connection {
    stream: Stream,
    pub(crate) codec: Codec,
    pub(crate) session_present: bool,
    pub(crate) terms: Arc<Terms>,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    /// The size of the next block to read into.
    block: usize,
}

/// The blocks that reads go into; a message that is kept keeps the block it was read into.
const READ_BLOCK: usize = 8 * 1024;
/// What the blocks grow to while reads fill them.
const READ_BURST: usize = 64 * 1024;
/// A buffer that grew beyond this for one large packet is given back.
const KEPT_OUTPUT: usize = 256 * 1024;

impl Connection {
    /// Dials and shakes hands, all within the connect timeout. `client_id` is the same for the life of the agent;
    /// `is_first` tells whether it was never connected.
    pub(crate) async fn open(options: &Options, client_id: &str, is_first: bool) -> Result<Self, Error> {
        let opening = async {
            let login = match &options.credentials {
                Credentials::None => None,
                Credentials::Fixed(login) => Some(login.clone()),
                Credentials::Fresh(login) => Some(login().await?),
            };
            if let Some(login) = &login {
                login.check()?;
            }
            let shake = |version| Handshake { version, options, client_id, login: login.as_ref(), is_first };
            if options.version != Version::Auto {
                return shake(options.version).run(dial(options).await?).await;
            }
            match shake(Version::V5).run(dial(options).await?).await {
                Err(error) if may_not_know_v5(&error) && options.mqtt5.authentication.is_none() => {
                    tracing::debug!(name: "mqtt.downgraded", target: TARGET, %error, "the broker may not know MQTT 5: trying 3.1.1");
                    shake(Version::V311).run(dial(options).await?).await
                }
                outcome => outcome,
            }
        };
        timeout(options.connect_timeout, opening)
            .await
            .unwrap_or_else(|_| Err(Error::timeout("the broker did not answer CONNECT within the connect timeout")))
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
        self.output.advance(written);
        if self.output.is_empty() && self.output.capacity() > KEPT_OUTPUT {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(written))
    }

    /// Tells the peer that no more will come. Errors do not matter any more.
    pub(crate) async fn shutdown(mut self) {
        let _ = self.stream.shutdown().await;
    }
}

/// What there is to say in CONNECT.
struct Handshake<'a> {
    version: Version,
    options: &'a Options,
    client_id: &'a str,
    login: Option<&'a Login>,
    is_first: bool,
}

impl Handshake<'_> {
    async fn run(&self, mut stream: Stream) -> Result<Connection, Error> {
        let mut codec = Codec::new(self.version, self.options.max_packet_size);
        let authentication = self.options.mqtt5.authentication.as_ref();
        let mut exchange = authentication.map(Authentication::start);
        let (mut input, mut output) = (BytesMut::with_capacity(READ_BLOCK), BytesMut::new());
        let first = match &mut exchange {
            Some(exchange) => Some(exchange.step(None).await?),
            None => None,
        };
        self.encode_connect(first, &mut codec, &mut output)?;
        loop {
            stream.write_all(&output).await.map_err(lost)?;
            stream.flush().await.map_err(lost)?;
            output.clear();
            match receive(&mut stream, &mut codec, &mut input).await? {
                Inbound::ConnAck(Ok(ack)) => {
                    if let (Some(exchange), Some(data)) = (&mut exchange, &ack.authentication_data) {
                        exchange.step(Some(data.clone())).await?;
                    }
                    return self.accept(*ack, stream, codec, input, output);
                }
                Inbound::ConnAck(Err(refused)) => {
                    let Refused { reason, server_reference } = *refused;
                    return Err(Error::refused(&reason).with_server_reference(server_reference));
                }
                Inbound::Auth { code: ReasonCode::CONTINUE_AUTHENTICATION, data } => {
                    let (Some(exchange), Some(authentication)) = (&mut exchange, authentication) else {
                        return Err(Error::protocol("the broker sent an AUTH that nobody asked for"));
                    };
                    let answer = exchange.step(Some(data.unwrap_or_default())).await?;
                    codec.encode_auth(&authentication.method, answer, &mut output);
                }
                _ => return Err(Error::protocol("the broker's first packet is not a CONNACK")),
            }
        }
    }

    fn encode_connect(&self, data: Option<Bytes>, codec: &mut Codec, output: &mut BytesMut) -> Result<(), Error> {
        let Self { options, login, .. } = self;
        let last_will = options.last_will.as_ref().map(LastWill::to_publish).transpose()?;
        let authentication = options.mqtt5.authentication.as_ref();
        let connect = Connect {
            client_id: self.client_id,
            clean_session: options.starts_clean(self.version, self.is_first),
            keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            username: login.map(|login| login.username.as_str()),
            password: login.and_then(|login| login.password.as_deref()),
            last_will: last_will.as_ref(),
            will_delay: options.last_will.as_ref().map_or(0, LastWill::delay_seconds),
            session_expiry: options.session_expiry_seconds(),
            receive_maximum: options.mqtt5.receive_maximum(),
            maximum_packet_size: u32::try_from(options.max_packet_size).unwrap_or(u32::MAX),
            topic_alias_maximum: options.mqtt5.topic_alias_maximum(),
            request_response_information: options.mqtt5.request_response_information(),
            user_properties: &options.mqtt5.user_properties,
            authentication: authentication.map(|held| held.method.as_str()).zip(data),
        };
        codec.encode_connect(&connect, output);
        Ok(())
    }

    fn accept(
        &self,
        ack: ConnAck,
        stream: Stream,
        mut codec: Codec,
        input: BytesMut,
        output: BytesMut,
    ) -> Result<Connection, Error> {
        let ConnAck { session_present, mut terms, .. } = ack;
        if session_present && self.options.starts_clean(self.version, self.is_first) {
            return Err(Error::protocol("the broker says it kept a session that it was told to forget [MQTT-3.2.2-2]"));
        }
        // As asked for: a CONNACK of 3.1 looks like one of 3.1.1.
        terms.version = self.version;
        if terms.client_id.is_empty() {
            self.client_id.clone_into(&mut terms.client_id);
        }
        if self.options.mqtt5.topic_aliases() {
            codec.assign_aliases(terms.topic_alias_maximum);
        }
        Ok(Connection { stream, codec, session_present, terms: Arc::new(terms), input, output, block: READ_BLOCK })
    }
}

async fn dial(options: &Options) -> Result<Stream, Error> {
    transport::connect(&options.host, options.port, options.address_timeout).await
}

/// The next packet of a handshake.
async fn receive(stream: &mut Stream, codec: &mut Codec, input: &mut BytesMut) -> Result<Inbound, Error> {
    loop {
        if let Some(inbound) = codec.decode(input)? {
            return Ok(inbound);
        }
        if stream.read_buf(input).await.map_err(lost)? == 0 {
            return Err(closed());
        }
    }
}

/// Whether a handshake ended in one of the ways in which brokers answer a version that they do not speak: they say so, or
/// close the connection without a word (MQTT-3.1.2-2 of 3.1.1 allows both).
fn may_not_know_v5(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused(Refusal::UnacceptableProtocolVersion) | ErrorKind::Connection)
}

fn lost(source: std::io::Error) -> Error {
    Error::connection("the connection to the broker was lost").with_source(source)
}

fn closed() -> Error {
    Error::connection("the broker closed the connection")
}
