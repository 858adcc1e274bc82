//! HTTP CONNECT (RFC 9110, section 9.3.6).

use bytes::BytesMut;
use data_encoding::BASE64;
use httparse::{Response, Status, EMPTY_HEADER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Proxy;
use crate::transport::{Endpoint, Stream};
use crate::Error;

/// The largest answer taken, in bytes, and the most headers in it.
const MAX_ANSWER: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

pub(super) async fn connect(mut stream: TcpStream, proxy: &Proxy, endpoint: &Endpoint) -> Result<Stream, Error> {
    let lost = |source| Error::proxy(format!("the connection to the proxy {proxy} was lost")).with_source(source);
    stream.write_all(request(proxy, endpoint).as_bytes()).await.map_err(lost)?;
    let mut answer = BytesMut::new();
    loop {
        match stream.read_buf(&mut answer).await.map_err(lost)? {
            0 => return Err(Error::proxy(format!("the proxy {proxy} closed the connection before it answered"))),
            _ if answer.len() > MAX_ANSWER => {
                return Err(Error::proxy(format!("the proxy {proxy} sent over {MAX_ANSWER} bytes of headers")))
            }
            _ => {}
        }
        if is_open(&answer, proxy, endpoint)? {
            return Ok(Box::new(stream));
        }
    }
}

fn request(proxy: &Proxy, endpoint: &Endpoint) -> String {
    let authority = endpoint.authority();
    let login = proxy.login.as_ref().map(|(user, password)| {
        format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(format!("{user}:{password}").as_bytes()))
    });
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n", login.unwrap_or_default())
}

/// False until the answer is whole.
fn is_open(answer: &[u8], proxy: &Proxy, endpoint: &Endpoint) -> Result<bool, Error> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    let parsed = response
        .parse(answer)
        .map_err(|source| Error::proxy(format!("the proxy {proxy} did not answer in HTTP")).with_source(source))?;
    let Status::Complete(length) = parsed else { return Ok(false) };
    match response.code.unwrap_or_default() {
        // A broker speaks when it has been spoken to: these bytes would be the proxy's own.
        200..=299 if answer.len() > length => {
            Err(Error::proxy(format!("the proxy {proxy} sent bytes that the broker cannot have sent")))
        }
        200..=299 => Ok(true),
        407 => Err(Error::proxy(format!("the proxy {proxy} wants another user name and password (HTTP status 407)"))),
        code => Err(Error::proxy(format!("the proxy {proxy} did not connect to {endpoint}: HTTP status {code}"))),
    }
}
