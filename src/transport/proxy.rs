//! Through a proxy: HTTP CONNECT or SOCKS5.

use std::fmt;
use std::time::Duration;

use super::{host, parse, percent_decode, Endpoint, Stream};
use crate::Error;

#[cfg(feature = "proxy")]
mod http;
#[cfg(feature = "proxy")]
mod socks;

#[derive(Clone)]
pub(crate) struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    #[cfg_attr(not(feature = "proxy"), allow(dead_code))]
    login: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

impl Proxy {
    /// The text of the error never repeats the URL.
    pub(crate) fn from_url(url: &str) -> Result<Self, Error> {
        let url = parse(url).map_err(|_| refuse("this is no URL: write http://host:port or socks5://host:port"))?;
        let (kind, default_port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => return Err(refuse("its scheme is neither http nor socks5")),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("its URL has neither path nor query"));
        }
        let host = host::of(&url).ok_or_else(|| refuse("its URL names no host"))?;
        let decode = |text| percent_decode("proxy's login", text);
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err(refuse("its URL has a password but no user name")),
            (user, password) => Some((decode(user)?, decode(password.unwrap_or_default())?)),
        };
        Ok(Self { kind, host, port: url.port().unwrap_or(default_port), login })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match cfg!(feature = "proxy") {
            true => Ok(()),
            false => Err(Error::missing_feature(self, "proxy")),
        }
    }
}

fn refuse(why: &str) -> Error {
    Error::invalid_options(format!("proxy: {why}"))
}

/// The proxy resolves the broker's name.
#[cfg(feature = "proxy")]
pub(super) async fn connect(proxy: &Proxy, endpoint: &Endpoint, address_timeout: Duration) -> Result<Stream, Error> {
    let stream = super::tcp::connect(&proxy.host, proxy.port, address_timeout).await?;
    match proxy.kind {
        Kind::Http => http::connect(stream, proxy, endpoint).await,
        Kind::Socks5 => socks::connect(stream, proxy, endpoint).await,
    }
}

#[cfg(not(feature = "proxy"))]
pub(super) async fn connect(proxy: &Proxy, _: &Endpoint, _: Duration) -> Result<Stream, Error> {
    Err(Error::missing_feature(proxy, "proxy"))
}

/// Without the login.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", host::with_port(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}
