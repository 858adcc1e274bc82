//! Where a broker is.

use std::fmt;
use std::str::FromStr;

use ::url::Url;
use percent_encoding::percent_decode_str;

use super::host;
use crate::Error;

/// Where a broker is: `mqtt://host:port`, `mqtts://…`, `ws://host:port/path?query`, `wss://…` or `unix:/path`.
///
/// An endpoint holds no user name, no password and no options: those are the agent's, for all of its endpoints. Its text
/// leaves out the query, which may be signed and so a secret.
///
/// ```
/// use mqtt_agent::{Endpoint, Scheme};
///
/// let endpoint = Endpoint::from_url("wss://localhost/mqtt?token=secret")?;
/// assert_eq!((endpoint.scheme(), endpoint.port()), (Scheme::Wss, Some(443)));
/// assert_eq!(endpoint.to_string(), "wss://localhost:443/mqtt");
/// # Ok::<(), mqtt_agent::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    scheme: Scheme,
    /// An IPv6 address without brackets; empty where there is none.
    host: String,
    /// None for a socket in the file system only, so that endpoints are equal that lead to the same place.
    port: Option<u16>,
    /// Of the WebSocket request, or of the socket in the file system.
    path: String,
    query: Option<String>,
}

/// How a broker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `mqtt` or `tcp`: plain TCP. Default port: 1883.
    Mqtt,
    /// `mqtts`, `ssl` or `tls`: TLS over TCP. Default port: 8883.
    Mqtts,
    /// `ws`: WebSocket over TCP. Default port: 80.
    Ws,
    /// `wss`: WebSocket over TLS. Default port: 443.
    Wss,
    /// `unix`: a socket in the file system.
    Unix,
}

impl Scheme {
    /// Its first name in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Unix => "unix",
        }
    }

    /// Whether what is sent is encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    fn default_port(self) -> Option<u16> {
        match self {
            Self::Mqtt => Some(1883),
            Self::Mqtts => Some(8883),
            Self::Ws => Some(80),
            Self::Wss => Some(443),
            Self::Unix => None,
        }
    }

    fn of(url: &Url) -> Result<Self, Error> {
        Ok(match url.scheme() {
            "mqtt" | "tcp" => Self::Mqtt,
            "mqtts" | "ssl" | "tls" => Self::Mqtts,
            "ws" => Self::Ws,
            "wss" => Self::Wss,
            "unix" => Self::Unix,
            other => {
                return Err(Error::invalid_options(format!(
                    "the scheme {other:?} is unknown: use mqtt, mqtts, ws, wss or unix"
                )))
            }
        })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Endpoint {
    /// From a URL without user name and password. The query of a `ws` or `wss` URL goes to the server as it is; other
    /// URLs have none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions); the text never repeats the URL.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let url = parse(url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid_options(
                "an endpoint has no user name or password: they are set for all of them",
            ));
        }
        let mut endpoint = Self::of(&url)?;
        endpoint.query = url.query().map(str::to_owned);
        if endpoint.query.is_some() && !endpoint.scheme.is_websocket() {
            return Err(Error::invalid_options("an endpoint has no options: they are set for all of them"));
        }
        Ok(endpoint)
    }

    /// A host that is spoken to in plain TCP. A text that is no host may hold a password, and is not kept: the
    /// [`check`](Self::check) refuses what is left.
    pub(crate) fn plain(host: impl Into<String>) -> Self {
        let (scheme, host) = (Scheme::Mqtt, Some(host.into()).filter(|host| host::is_host(host)).unwrap_or_default());
        Self { scheme, host, port: scheme.default_port(), path: String::new(), query: None }
    }

    /// What a URL says of the place: all but user name, password and query.
    pub(crate) fn of(url: &Url) -> Result<Self, Error> {
        let scheme = Scheme::of(url)?;
        if ends_early(url) {
            return Err(Error::invalid_options(
                "the URL has an `@` behind its host: is there a `/`, `?` or `#` in the password? Write %2F, %3F, %23 for \
                 these, and %40 for an `@`",
            ));
        }
        if url.fragment().is_some() {
            return Err(Error::invalid_options("the URL of a broker has no fragment"));
        }
        let host = host::of(url).unwrap_or_default();
        let path = match scheme {
            Scheme::Ws | Scheme::Wss => url.path().to_owned(),
            Scheme::Unix => percent_decode("path", url.path())?,
            Scheme::Mqtt | Scheme::Mqtts if matches!(url.path(), "" | "/") => String::new(),
            Scheme::Mqtt | Scheme::Mqtts => {
                return Err(Error::invalid_options(format!(
                    "a URL of the scheme {scheme} has no path: topics go into the calls"
                )))
            }
        };
        match scheme {
            Scheme::Unix if !host.is_empty() || !path.starts_with('/') => {
                Err(Error::invalid_options("a unix URL names a path, and no host: unix:/run/broker.sock"))
            }
            Scheme::Unix => Ok(Self { scheme, host, port: None, path, query: None }),
            _ if host.is_empty() => Err(Error::invalid_options("the URL names no host")),
            _ => Ok(Self { scheme, host, port: url.port().or_else(|| scheme.default_port()), path, query: None }),
        }
    }

    /// How the broker is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host name or address, an IPv6 one without brackets; empty for a socket in the file system.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; None for a socket in the file system.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The path of the WebSocket request or of the socket in the file system; otherwise empty.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `host:port` as URLs and the HTTP header Host write it.
    pub(crate) fn authority(&self) -> String {
        host::with_port(&self.host, self.port.unwrap_or_default())
    }

    /// With the query, which may be a secret: for the request line only.
    #[cfg(feature = "websocket")]
    pub(crate) fn request_target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// The port becomes that of the scheme.
    pub(crate) fn set_scheme(&mut self, scheme: Scheme) {
        self.scheme = scheme;
        self.port = scheme.default_port();
    }

    pub(crate) fn set_port(&mut self, port: u16) {
        self.port = Some(port);
    }

    pub(crate) fn set_query(&mut self, query: String) {
        self.query = Some(query).filter(|query| !query.is_empty());
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.scheme == Scheme::Unix {
            return match cfg!(unix) {
                true if self.port.is_some() => Err(Error::invalid_options(format!("port is set, but {self} has none"))),
                true => Ok(()),
                false => Err(Error::invalid_options(format!("{self}: this platform has no such sockets"))),
            };
        }
        if self.host.is_empty() {
            return Err(Error::invalid_options(
                "there is no host, or what was given is none: it is a name or an address alone; the port has an option \
                 of its own, and what has a scheme is a URL",
            ));
        }
        if self.port == Some(0) {
            return Err(Error::invalid_options("port 0 cannot be connected to"));
        }
        let missing = match self.scheme {
            scheme if scheme.is_tls() && !cfg!(feature = "tls-no-provider") => "tls",
            scheme if scheme.is_websocket() && !cfg!(feature = "websocket") => "websocket",
            _ => return Ok(()),
        };
        Err(Error::missing_feature(self, missing))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Unix => write!(f, "unix:{}", self.path),
            scheme => write!(f, "{scheme}://{}{}", self.authority(), self.path),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Error;

    fn try_from(url: String) -> Result<Self, Error> {
        Self::from_url(&url)
    }
}

impl TryFrom<&String> for Endpoint {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

/// Whether a user name or password may have ended early, by a character that had to be percent-encoded: the rest would
/// go on as a path, an option or the query for a server, and be shown.
fn ends_early(url: &Url) -> bool {
    let names = url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split('=').next());
    let mut parts = names.chain([url.path(), url.fragment().unwrap_or_default()]);
    url.scheme() != "unix" && parts.any(|part| part.contains('@'))
}

/// The text of the error never repeats the URL, which may hold a password.
pub(crate) fn parse(url: &str) -> Result<Url, Error> {
    Url::parse(url)
        .map_err(|source| Error::invalid_options("this is no URL: write mqtt://host:port").with_source(source))
}

pub(crate) fn percent_decode(what: &str, text: &str) -> Result<String, Error> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|source| {
        Error::invalid_options(format!("the {what} in the URL is not percent-encoded UTF-8")).with_source(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_url_names_a_place_and_its_text_leads_there_again() {
        for (url, text) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            ("tcp://[::1]:2883/", "mqtt://[::1]:2883"),
            ("mqtts://h", "mqtts://h:8883"),
            ("ssl://h:1", "mqtts://h:1"),
            ("tls://h", "mqtts://h:8883"),
            ("ws://h", "ws://h:80/"),
            ("ws://h:9001/a/b", "ws://h:9001/a/b"),
            ("wss://h/mqtt?sig=secret", "wss://h:443/mqtt"),
            ("unix:/run/broker.sock", "unix:/run/broker.sock"),
            ("unix:///run/a%20b.sock", "unix:/run/a b.sock"),
        ] {
            let endpoint = Endpoint::from_url(url).unwrap();
            assert_eq!(endpoint.to_string(), text, "{url}");
            assert!(!format!("{endpoint:?}").contains("secret"));
        }
    }

    #[test]
    fn endpoints_that_lead_to_the_same_place_are_equal() {
        let urls = ["mqtt://h", "mqtt://h:1883", "tcp://h/"];
        let set: std::collections::HashSet<_> = urls.iter().map(|url| Endpoint::from_url(url).unwrap()).collect();
        assert_eq!(set.len(), 1);
        assert!(set.contains(&Endpoint::plain("h")));
        assert_ne!(Endpoint::from_url("mqtt://h").unwrap(), Endpoint::from_url("mqtts://h:1883").unwrap());
    }

    #[test]
    fn a_scheme_without_its_feature_is_an_error_that_names_it() {
        let with = [
            ("tls", "mqtts://h", cfg!(feature = "tls-no-provider")),
            ("websocket", "ws://h", cfg!(feature = "websocket")),
        ];
        for (feature, url, is_on) in with {
            match Endpoint::from_url(url).unwrap().check() {
                Ok(()) => assert!(is_on, "{url}"),
                Err(error) => assert!(!is_on && error.to_string().contains(feature), "{error}"),
            }
        }
        Endpoint::from_url("mqtt://h").unwrap().check().unwrap();
    }

    #[test]
    fn what_an_endpoint_cannot_hold_is_refused() {
        for url in [
            "mqtt://u@h",
            "mqtt://u:secret@h",
            "mqtt://h?client_id=a",
            "mqtts://h/topic",
            "mqtt://h#a",
            "ws://",
            "unix://host/path",
            "unix:",
            "unix:relative",
            "http://h",
        ] {
            let error = Endpoint::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{url}");
        }
    }
}
