//! Options from a URL.

use std::borrow::Cow;
use std::str::FromStr;

use ::url::{form_urlencoded, Url};

use super::settings::is_option;
use super::{Credentials, Login, Options};
use crate::transport::{parse, percent_decode, Endpoint};
use crate::Error;

impl Options {
    /// From a URL: `scheme://[user[:password]@]host[:port][/path][?option=value&…]`, user name and password
    /// percent-encoded (`@ : / ? # %` and spaces above all).
    ///
    /// | scheme | what it is | default port |
    /// |---|---|---|
    /// | `mqtt`, `tcp` | plain TCP | 1883 |
    /// | `mqtts`, `ssl`, `tls` | TLS | 8883 |
    /// | `ws` | WebSocket, with a path (most brokers expect `/mqtt`) | 80 |
    /// | `wss` | WebSocket over TLS | 443 |
    /// | `unix` | a socket in the file system: `unix:/run/broker.sock` | |
    ///
    /// The options in the query have the names of the setters, times in seconds (fractions allowed), lists separated by
    /// commas: `address_timeout`, `alpn`, `ca_file`, `cert_file`, `clean_session` (`true`, `false`), `client_id`,
    /// `connect_timeout`, `danger_accept_invalid_certs`, `failover`, `keep_alive`, `key_file`,
    /// `max_filters_per_subscribe`, `max_in_flight`, `max_packet_size`, `max_queued`, `max_queued_bytes`, `offline`
    /// (`fail`, `wait`, `queue`), `proxy`, `receive_maximum`, `reply_linger`,
    /// `request_response_information`, `server_name`, `session_expiry`, `shuffle`, `stream_capacity`, `timeout`,
    /// `topic_alias_maximum`, `topic_aliases`, `version` (`3.1`, `3.1.1`, `5`, `auto`), `write_timeout`.
    ///
    /// In a `ws` or `wss` URL anything else in the query goes to the server as it is, as signed URLs need (an `@` in a
    /// name is written `%40`); to send one of the names above to the server, begin with an [`Endpoint`].
    ///
    /// ```
    /// use mqtt_agent::Options;
    ///
    /// let plain = Options::from_url("mqtt://user:p%40ss@localhost:1884?client_id=web-1&keep_alive=20")?;
    /// let encrypted = Options::from_url("wss://localhost/mqtt?version=5&ca_file=/etc/mqtt/ca.pem")?;
    /// # Ok::<(), mqtt_agent::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) for a text that is no URL, an unknown scheme, an
    /// unknown option or a value that does not fit. The text never repeats the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let url = parse(url)?;
        let mut options = Self::from(Endpoint::of(&url)?);
        options.credentials = credentials(&url)?;
        options.with_query(url.query().unwrap_or_default())
    }

    fn with_query(mut self, query: &str) -> Result<Self, Error> {
        let mut for_the_server = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                form_urlencoded::parse(pair.as_bytes()).next().unwrap_or((Cow::Borrowed(""), "".into()));
            match self.endpoint.scheme().is_websocket() {
                _ if is_option(&name) => self = self.set(&name, &name, &value)?,
                true => for_the_server.push(pair),
                false => return Err(unknown(&name, query)),
            }
        }
        self.endpoint.set_query(for_the_server.join("&"));
        Ok(self)
    }
}

/// A query with an `@` may be the end of a password, and is then not to be shown.
fn unknown(name: &str, query: &str) -> Error {
    Error::invalid_options(match query.contains('@') {
        false => format!("the option {name:?} is unknown"),
        true => "the URL has an unknown option: is there a `?` in the password? Write %3F for it".to_owned(),
    })
}

fn credentials(url: &Url) -> Result<Credentials, Error> {
    match (url.username(), url.password()) {
        ("", None) => Ok(Credentials::None),
        ("", Some(_)) => Err(Error::invalid_options("the URL has a password but no user name")),
        (username, password) => Ok(Credentials::Fixed(Login {
            username: percent_decode("user name", username)?,
            password: password.map(|password| percent_decode("password", password)).transpose()?,
        })),
    }
}

impl FromStr for Options {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<&str> for Options {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<String> for Options {
    type Error = Error;

    fn try_from(url: String) -> Result<Self, Error> {
        Self::from_url(&url)
    }
}

impl TryFrom<&String> for Options {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Offline;
    use crate::{ErrorKind, Version};
    use std::time::Duration;

    fn refusal(url: &str) -> String {
        let error = Options::from_url(url).and_then(|options| options.check()).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{url}");
        error.to_string()
    }

    #[test]
    fn a_url_sets_what_it_names() {
        let url = "mqtt://us%40er:p%2B+a%26ss@[::1]:2883?client_id=web-1&version=3.1&keep_alive=7.0&timeout=0.5\
                   &clean_session=false&max_in_flight=9&max_queued=8&max_packet_size=7&stream_capacity=6&offline=fail";
        let options = Options::from_url(url).unwrap();
        assert_eq!(options.endpoint.to_string(), "mqtt://[::1]:2883");
        let Credentials::Fixed(login) = &options.credentials else { panic!("no credentials") };
        assert_eq!((login.username.as_str(), login.password.as_deref()), ("us@er", Some("p++a&ss")));
        assert_eq!(options.client_id.as_deref(), Some("web-1"));
        assert_eq!(options.version, Version::V31);
        assert_eq!(options.keep_alive, Duration::from_secs(7));
        assert_eq!(options.timeout, Duration::from_millis(500));
        assert!(!options.clean_session);
        assert_eq!(options.offline, Offline::Fail);
        assert_eq!((options.max_in_flight, options.max_queued), (9, 8));
        assert_eq!((options.max_packet_size, options.stream_capacity), (7, 6));
        options.check().unwrap();
    }

    #[test]
    fn what_a_url_cannot_say_is_refused_with_a_reason() {
        assert!(refusal("localhost:1883").contains("scheme"));
        assert!(refusal("not a url").contains("mqtt://host:port"));
        assert!(refusal("amqp://localhost").contains("amqp"));
        assert!(refusal("mqtt://").contains("host"));
        assert!(refusal("mqtt://localhost:70000").contains("URL"));
        assert!(refusal("mqtt://localhost:0").contains("port 0"));
        assert!(refusal("mqtt://localhost/a/topic").contains("path"));
        assert!(refusal("mqtt://localhost?cleint_id=x").contains("cleint_id"));
        assert!(refusal("mqtt://localhost?keep_alive=soon").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?keep_alive=-1").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?keep_alive=0.5").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?keep_alive=65536").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?max_in_flight=0").contains("max_in_flight"));
        assert!(refusal("mqtt://localhost?max_queued=0").contains("max_queued"));
        assert!(refusal("mqtt://localhost?stream_capacity=0").contains("stream_capacity"));
        assert!(refusal("mqtt://localhost?clean_session=false").contains("client_id"));
        assert!(refusal("mqtt://localhost?version=3.1&client_id=").contains("23"));
        assert!(refusal("mqtt://:secret@localhost").contains("user name"));
        assert!(refusal(&format!("mqtt://localhost?client_id={}", "x".repeat(65_536))).contains("65,535"));
    }

    #[test]
    fn no_refusal_repeats_a_password() {
        for url in ["mqtt://u:hunter2@localhost:99999", "mqtt://u:hunter2@localhost?x=1", "x://u:hunter2@localhost"] {
            let error = Options::from_url(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        for url in [
            "mqtt://user:?hunter2@localhost",
            "mqtt://user:42?hunter2@localhost",
            "mqtt://user:42?hunter2=@localhost",
            "mqtt://me@home:42?hunter2@localhost",
            "mqtt://user:42/hunter2@localhost",
            "mqtt://user:42#hunter2@localhost",
            "mqtt://user:hunter2?x@localhost",
            "ws://user:42/hunter2@localhost",
            "ws://user:42?hunter2@localhost",
            r"ws://user:42\hunter2@localhost",
            "ws://user:42#hunter2@localhost",
        ] {
            assert!(!refusal(url).contains("hunter2"), "{url}");
            let error = url.parse::<Endpoint>().expect_err(url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
        assert!(refusal("mqtt://user:42?hunter2@localhost").contains("%3F"));
        assert!(Options::from_url("wss://localhost/mqtt?user=me@home").is_ok());
        let options = Options::from_url("mqtt://u:hunter2@localhost").unwrap();
        assert!(!format!("{options:?} {:?}", Login::new("u", "hunter2")).contains("hunter2"));
    }
}
