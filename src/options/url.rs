//! Options from a URL.

use std::str::FromStr;
use std::time::Duration;

use ::url::Url;
use percent_encoding::percent_decode_str;

use super::{Credentials, Login, Offline, Options};
use crate::{Error, Version};

impl Options {
    /// From a URL: `mqtt://[user[:password]@]host[:port][?option=value&…]`, user name and password percent-encoded.
    ///
    /// The options in the query have the names of the setters: `client_id`, `version` (`3.1`, `3.1.1`, `5`, `auto`),
    /// `clean_session` (`true`, `false`), `keep_alive`, `connect_timeout`, `timeout` (seconds, fractions allowed),
    /// `session_expiry` (seconds), `receive_maximum`, `max_in_flight`, `max_queued`, `max_packet_size`, `stream_capacity`, `offline` (`fail`, `wait`, `queue`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) for a text that is no URL, an unknown scheme, an
    /// unknown option or a value that does not fit. The text never repeats the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let url = Url::parse(url)
            .map_err(|source| Error::invalid_options("this is no URL: write mqtt://host:port").with_source(source))?;
        match url.scheme() {
            "mqtt" | "tcp" => {}
            other => {
                return Err(Error::invalid_options(format!("the scheme {other:?} is unknown: use mqtt:// (or tcp://)")))
            }
        }
        let host = url.host().ok_or_else(|| Error::invalid_options("the URL names no host"))?;
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(Error::invalid_options("an mqtt:// URL has no path or fragment: topics go into the calls"));
        }
        // Without the brackets that a URL puts around an IPv6 address.
        let mut options = Self::new(match host {
            ::url::Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        });
        options.port = url.port().unwrap_or(options.port);
        if !url.username().is_empty() {
            options.credentials = Credentials::Fixed(Login {
                username: percent_decode("user name", url.username())?,
                password: url.password().map(|password| percent_decode("password", password)).transpose()?,
            });
        } else if url.password().is_some() {
            return Err(Error::invalid_options("the URL has a password but no user name"));
        }
        for (name, value) in url.query_pairs() {
            options = options.query(&name, &value)?;
        }
        Ok(options)
    }

    fn query(self, name: &str, value: &str) -> Result<Self, Error> {
        let seconds = || {
            parse::<f64>(name, value).and_then(|seconds| {
                Duration::try_from_secs_f64(seconds)
                    .map_err(|_| Error::invalid_options(format!("{name}: {value:?} is no number of seconds")))
            })
        };
        Ok(match name {
            "client_id" => self.client_id(value),
            "version" => match value {
                "3.1" => self.version(Version::V31),
                "3.1.1" | "4" => self.version(Version::V311),
                "5" | "5.0" => self.version(Version::V5),
                "auto" => self.version(Version::Auto),
                _ => return Err(Error::invalid_options(format!("version: {value:?} is not 3.1, 3.1.1, 5 or auto"))),
            },
            "clean_session" => self.clean_session(parse(name, value)?),
            "keep_alive" => self.keep_alive(seconds()?),
            "connect_timeout" => self.connect_timeout(seconds()?),
            "timeout" => self.timeout(seconds()?),
            "session_expiry" => self.session_expiry(seconds()?),
            "receive_maximum" => self.receive_maximum(parse(name, value)?),
            "max_in_flight" => self.max_in_flight(parse(name, value)?),
            "max_queued" => self.max_queued(parse(name, value)?),
            "max_packet_size" => self.max_packet_size(parse(name, value)?),
            "stream_capacity" => self.stream_capacity(parse(name, value)?),
            "offline" => match value {
                "fail" => self.offline(Offline::Fail),
                "wait" => self.offline(Offline::Wait),
                "queue" => self.offline(Offline::Queue),
                _ => return Err(Error::invalid_options(format!("offline: {value:?} is not fail, wait or queue"))),
            },
            _ => return Err(Error::invalid_options(format!("the option {name:?} is unknown"))),
        })
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

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::invalid_options(format!("{name}: {value:?} is not a value it can have")))
}

fn percent_decode(what: &str, text: &str) -> Result<String, Error> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|source| {
        Error::invalid_options(format!("the {what} in the URL is not percent-encoded UTF-8")).with_source(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

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
        assert_eq!(options.address(), "::1:2883");
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
        let options = Options::from_url("mqtt://u:hunter2@localhost").unwrap();
        assert!(!format!("{options:?} {:?}", Login::new("u", "hunter2")).contains("hunter2"));
    }
}
