//! Options as pairs of a name and a text: what URLs, the environment and configuration files have in common.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Credentials, Login, Offline, Options};
use crate::error::Short;
use crate::transport::Scheme;
use crate::{Error, Version};

/// What was set outside of the program. The names are those of the setters, and `url`, `host`, `port`, `tls`, `username`,
/// `password`, `password_file`, which together say where to connect and as whom.
pub(super) struct Settings {
    /// Before each name in messages, which is then in capitals.
    prefix: String,
    values: BTreeMap<String, String>,
}

/// The name of an option as its author wrote it.
struct Name<'a> {
    prefix: &'a str,
    name: &'a str,
}

impl Settings {
    pub(super) fn new(prefix: &str, values: BTreeMap<String, String>) -> Self {
        Self { prefix: prefix.to_owned(), values }
    }

    pub(super) fn into_options(mut self) -> Result<Options, Error> {
        let options = self.take_place()?;
        let mut options = self.take_login(options)?;
        for (name, value) in &self.values {
            options.forget_list(name);
            options = options.set(&self.name(name).to_string(), name, value)?;
        }
        Ok(options)
    }

    fn take_place(&mut self) -> Result<Options, Error> {
        let (url, host, port) = (self.take("url"), self.take("host"), self.take("port"));
        let by_url = url.is_some();
        let mut options = match (url, host) {
            (Some(_), Some(_)) => return Err(self.both("url", "host")),
            (Some(_), None) if port.is_some() => return Err(self.both("url", "port")),
            (Some(url), None) => Options::from_url(&url)
                .map_err(|error| Error::invalid_options(format!("{}: {error}", self.name("url"))))?,
            (None, Some(host)) => Options::new(host),
            (None, None) => {
                let (url, host) = (self.name("url"), self.name("host"));
                return Err(Error::invalid_options(format!("there is no broker to connect to: set {url} or {host}")));
            }
        };
        if let Some(tls) = self.take("tls") {
            let (name, url) = (self.name("tls").to_string(), self.name("url"));
            match (options.endpoint.scheme().is_tls(), parse::<bool>(&name, &tls)?) {
                (is, wanted) if is == wanted => {}
                // A URL has said it already.
                (_, wanted) if by_url => {
                    let endpoint = &options.endpoint;
                    return Err(Error::invalid_options(format!("{name} is {wanted}, but {url} names {endpoint}")));
                }
                _ => options.endpoint.set_scheme(Scheme::Mqtts),
            }
        }
        if let Some(port) = port {
            options = options.port(parse(&self.name("port").to_string(), &port)?);
        }
        Ok(options)
    }

    fn take_login(&mut self, options: Options) -> Result<Options, Error> {
        let (username, password) = (self.take("username"), self.take("password"));
        let file = self.take("password_file");
        if username.is_some() && !matches!(options.credentials, Credentials::None) {
            return Err(Error::invalid_options(format!(
                "{} is set, but {} names a user already",
                self.name("username"),
                self.name("url")
            )));
        }
        match (username, password, file) {
            (None, None, None) => Ok(options),
            (None, Some(_), _) => Err(self.without("password", "username")),
            (None, _, Some(_)) => Err(self.without("password_file", "username")),
            (Some(_), Some(_), Some(_)) => Err(self.both("password", "password_file")),
            (Some(username), None, Some(file)) => Ok(options.password_file(username, file)),
            (Some(username), password, None) => {
                let login = Login { username, password };
                Ok(Options { credentials: Credentials::Fixed(login), ..options })
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    fn name<'a>(&'a self, name: &'a str) -> Name<'a> {
        Name { prefix: &self.prefix, name }
    }

    fn both(&self, one: &str, other: &str) -> Error {
        Error::invalid_options(format!("{} and {} are both set", self.name(one), self.name(other)))
    }

    fn without(&self, one: &str, other: &str) -> Error {
        Error::invalid_options(format!("{} is set, but {} is not", self.name(one), self.name(other)))
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            "" => f.write_str(self.name),
            prefix => write!(f, "{prefix}{}", self.name.to_ascii_uppercase()),
        }
    }
}

/// The options that are a text by themselves.
const NAMES: [&str; 30] = [
    "address_timeout",
    "alpn",
    "ca_file",
    "cert_file",
    "clean_session",
    "client_id",
    "connect_timeout",
    "danger_accept_invalid_certs",
    "failover",
    "keep_alive",
    "key_file",
    "max_filters_per_subscribe",
    "max_in_flight",
    "max_packet_size",
    "max_queued",
    "max_queued_bytes",
    "offline",
    "proxy",
    "receive_maximum",
    "reply_linger",
    "request_response_information",
    "server_name",
    "session_expiry",
    "shuffle",
    "stream_capacity",
    "timeout",
    "topic_alias_maximum",
    "topic_aliases",
    "version",
    "write_timeout",
];

/// Whether there is such an option, other than those of place and login.
pub(super) fn is_option(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Those of place and login.
pub(super) const PLACE_AND_LOGIN: [&str; 7] = ["url", "host", "port", "tls", "username", "password", "password_file"];

impl Options {
    /// What is said by name stands in place of what a URL said; these setters alone would add to it.
    fn forget_list(&mut self, name: &str) {
        match name {
            "ca_file" => self.transport.tls.ca.clear(),
            "failover" => self.failover.clear(),
            _ => {}
        }
    }

    /// Sets the option `name`; `shown` is its name in messages.
    pub(super) fn set(self, shown: &str, name: &str, value: &str) -> Result<Self, Error> {
        let seconds = || seconds(shown, value);
        let list = || value.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(match name {
            "address_timeout" => self.address_timeout(seconds()?),
            "alpn" => self.alpn(list()),
            "ca_file" => self.ca_file(value),
            "cert_file" => self.cert_file(value),
            "clean_session" => self.clean_session(parse(shown, value)?),
            "client_id" => self.client_id(value),
            "connect_timeout" => self.connect_timeout(seconds()?),
            "danger_accept_invalid_certs" => self.danger_accept_invalid_certs(parse(shown, value)?),
            "failover" => self.failover(list()),
            "keep_alive" => self.keep_alive(seconds()?),
            "key_file" => self.key_file(value),
            "max_filters_per_subscribe" => self.max_filters_per_subscribe(parse(shown, value)?),
            "max_in_flight" => self.max_in_flight(parse(shown, value)?),
            "max_packet_size" => self.max_packet_size(parse(shown, value)?),
            "max_queued" => self.max_queued(parse(shown, value)?),
            "max_queued_bytes" => self.max_queued_bytes(parse(shown, value)?),
            "offline" => self.offline(offline(shown, value)?),
            "proxy" => self.proxy(value),
            "receive_maximum" => self.receive_maximum(parse(shown, value)?),
            "reply_linger" => self.reply_linger(seconds()?),
            "request_response_information" => self.request_response_information(parse(shown, value)?),
            "server_name" => self.server_name(value),
            "session_expiry" => self.session_expiry(seconds()?),
            "shuffle" => self.shuffle(parse(shown, value)?),
            "stream_capacity" => self.stream_capacity(parse(shown, value)?),
            "timeout" => self.timeout(seconds()?),
            "topic_alias_maximum" => self.topic_alias_maximum(parse(shown, value)?),
            "topic_aliases" => self.topic_aliases(parse(shown, value)?),
            "version" => self.version(version(shown, value)?),
            "write_timeout" => self.write_timeout(seconds()?),
            _ => return Err(Error::invalid_options(format!("the option {shown:?} is unknown"))),
        })
    }
}

fn version(shown: &str, value: &str) -> Result<Version, Error> {
    match value {
        "3.1" => Ok(Version::V31),
        "3.1.1" | "4" => Ok(Version::V311),
        "5" | "5.0" => Ok(Version::V5),
        "auto" => Ok(Version::Auto),
        _ => Err(Error::invalid_options(format!("{shown}: {value:?} is not 3.1, 3.1.1, 5 or auto"))),
    }
}

fn offline(shown: &str, value: &str) -> Result<Offline, Error> {
    match value {
        "fail" => Ok(Offline::Fail),
        "wait" => Ok(Offline::Wait),
        "queue" => Ok(Offline::Queue),
        _ => Err(Error::invalid_options(format!("{shown}: {} is not fail, wait or queue", Short(value)))),
    }
}

fn seconds(shown: &str, value: &str) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(parse(shown, value)?)
        .map_err(|_| Error::invalid_options(format!("{shown}: {} is no number of seconds", Short(value))))
}

fn parse<T: FromStr>(shown: &str, value: &str) -> Result<T, Error> {
    let refuse = |_| Error::invalid_options(format!("{shown}: {} is not a value it can have", Short(value)));
    value.parse().map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_an_option_and_no_other_is() {
        let samples = ["1", "true", "fail", "3.1"];
        for name in NAMES {
            let set = |value: &&str| Options::new("h").set(name, name, value).is_ok();
            assert!(samples.iter().any(set), "{name}");
        }
        for name in PLACE_AND_LOGIN {
            assert!(!is_option(name), "{name}");
        }
        assert!(Options::new("h").set("x", "x", "1").is_err());
    }
}
