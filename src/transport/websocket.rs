//! WebSocket: the bytes of MQTT in binary messages, which may be split anywhere (MQTT 3.1.1, section 6).

use std::future::ready;
use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HeaderName, HeaderValue, LOCATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::{Endpoint, Stream};
use crate::error::{Short, WebSocketFailure};
use crate::Error;

/// [MQTT-6.0.0-3]: the client offers this subprotocol, [MQTT-6.0.0-4]: and the server answers with it.
const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("mqtt");
/// A server may put several packets into one message; this much more than the largest is taken.
const PACKETS_AROUND: usize = 1024 * 1024;

pub(super) async fn connect(
    headers: &[(String, String)],
    max_packet_size: usize,
    endpoint: &Endpoint,
    stream: Stream,
) -> Result<Stream, Error> {
    let request = request(headers, endpoint)?;
    // A message is held until it is whole.
    let bound = max_packet_size.saturating_add(PACKETS_AROUND);
    let config = WebSocketConfig::default().max_message_size(Some(bound)).max_frame_size(Some(bound));
    let (socket, _) =
        client_async_with_config(request, stream, Some(config)).await.map_err(|source| failure(endpoint, source))?;
    let (sink, stream) = socket.split();
    let reader = StreamReader::new(stream.map_err(into_io).try_filter_map(|message| ready(payload(message))));
    let writer = sink.with(|bytes: Bytes| ready(Ok(Message::Binary(bytes)))).sink_map_err(into_io);
    Ok(Box::new(tokio::io::join(reader, SinkWriter::new(CopyToBytes::new(writer)))))
}

fn request(headers: &[(String, String)], endpoint: &Endpoint) -> Result<Request, Error> {
    let url = format!("{}://{}{}", endpoint.scheme(), endpoint.authority(), endpoint.request_target());
    let mut request = url.into_client_request().map_err(|source| {
        Error::invalid_options(format!("{endpoint} cannot be asked for in an HTTP request")).with_source(source)
    })?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    for (name, value) in headers {
        let (name, value) = header(name, value)?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

/// The text of the error holds the name only.
pub(crate) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    const OURS: [&str; 3] = ["connection", "host", "upgrade"];
    let refuse = |why: &str| Error::invalid_options(format!("websocket_header {}: {why}", Short(name)));
    let name = HeaderName::try_from(name).map_err(|_| refuse("this is no name of an HTTP header"))?;
    if OURS.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-") {
        return Err(refuse("this header belongs to the handshake itself"));
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| refuse("this is no value of an HTTP header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The bytes of MQTT in a message, if it has any. [MQTT-6.0.0-1]: anything but binary data ends the connection.
fn payload(message: Message) -> io::Result<Option<Bytes>> {
    match message {
        Message::Binary(bytes) => Ok(Some(bytes)),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        // A peer that says goodbye need not hang up as well.
        Message::Close(_) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the broker closed the WebSocket")),
        Message::Text(_) => Err(no_mqtt(io::Error::other("the broker sent text, not binary data"))),
    }
}

fn into_io(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::ConnectionAborted.into(),
        error => no_mqtt(error),
    }
}

/// An error that says itself what it is: see [`lost`](super::lost).
fn no_mqtt(source: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let error = Error::protocol("what came is no WebSocket with MQTT in it").with_source(source);
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn failure(endpoint: &Endpoint, error: WsError) -> Error {
    match error {
        WsError::Io(source) => super::lost(source, "the connection was lost in the WebSocket handshake"),
        WsError::Http(response) => refusal(endpoint, &response),
        WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => Error::websocket(
            WebSocketFailure::Subprotocol,
            format!("{endpoint} answered without the subprotocol mqtt: this is no path of a broker"),
        )
        .with_source(error),
        error => Error::websocket(
            WebSocketFailure::Handshake,
            format!("{endpoint} did not answer with a WebSocket handshake"),
        )
        .with_source(error),
    }
}

fn refusal(endpoint: &Endpoint, response: &Response) -> Error {
    let status = response.status();
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let advice = match (status, location) {
        (_, Some(to)) if status.is_redirection() => {
            // Its query may be signed, and so a secret.
            let place = to.split(['?', '#']).next().unwrap_or_default();
            format!(": it redirects to {}, which is not followed; use that URL", Short(place))
        }
        (StatusCode::NOT_FOUND, _) => ": most brokers expect the path /mqtt".to_owned(),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => ": does it expect a websocket_header?".to_owned(),
        _ => String::new(),
    };
    Error::websocket(
        WebSocketFailure::Status(status.as_u16()),
        format!("{endpoint} refused the WebSocket handshake with HTTP status {}{advice}", status.as_u16()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_ours_only_by_its_whole_name() {
        for name in ["Connection-Id", "Host-Override", "Upgrade-Insecure-Requests", "X-Host"] {
            assert!(header(name, "a").is_ok(), "{name}");
        }
        for name in ["Connection", "HOST", "upgrade", "Sec-WebSocket-Protocol"] {
            assert!(header(name, "a").is_err(), "{name}");
        }
    }
}
