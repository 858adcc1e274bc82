//! What cannot work is refused before anything is dialled.

use std::time::Duration;

use super::{Credentials, Options};
use crate::transport::{Endpoint, Scheme};
use crate::{field, Error, Version};

impl Options {
    /// Refuses what cannot work, before anything is dialled.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_way()?;
        self.check_client_id()?;
        self.mqtt5.check(self.version)?;
        if let Credentials::Fixed(login) = &self.credentials {
            login.check()?;
        }
        if let Some(will) = &self.last_will {
            will.check(self.version)?;
        }
        if self.keep_alive > Duration::from_secs(u16::MAX.into()) {
            return Err(Error::invalid_options("keep_alive is over 65,535 seconds"));
        }
        if !self.keep_alive.is_zero() && self.keep_alive < Duration::from_secs(1) {
            return Err(Error::invalid_options("keep_alive is under a second; zero switches it off"));
        }
        let at_least_one = [
            ("max_in_flight", self.max_in_flight.into()),
            ("max_queued", self.max_queued),
            ("max_queued_bytes", self.max_queued_bytes),
            ("max_packet_size", self.max_packet_size),
            ("max_filters_per_subscribe", self.max_filters_per_subscribe),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(Error::invalid_options(format!("{name} must be at least 1")));
            }
        }
        check_capacity(self.stream_capacity)
            .map_err(|why| Error::invalid_options(format!("stream_capacity: {why}")))?;
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("address_timeout", self.transport.address_timeout),
            ("write_timeout", self.write_timeout),
        ];
        for (name, value) in timeouts {
            if value.is_zero() {
                return Err(Error::invalid_options(format!("{name} must be more than zero")));
            }
        }
        Ok(())
    }

    /// The way to the brokers: what does not go together is named from both sides.
    fn check_way(&self) -> Result<(), Error> {
        let endpoints = self.endpoints()?;
        for endpoint in &endpoints {
            endpoint.check()?;
        }
        check_encryption(&endpoints)?;
        self.check_tls(&endpoints)?;
        let any = |suits: fn(Scheme) -> bool| endpoints.iter().any(|endpoint| suits(endpoint.scheme()));
        if let Some((name, _)) = self.transport.websocket_headers.first() {
            if !any(Scheme::is_websocket) {
                let endpoint = &self.endpoint;
                return Err(conflict(
                    &format!("websocket_header {name:?}"),
                    endpoint,
                    "is no WebSocket: use ws or wss",
                ));
            }
        }
        for (name, value) in &self.transport.websocket_headers {
            check_header(name, value)?;
        }
        let Some(proxy) = &self.transport.proxy else { return Ok(()) };
        let proxy = proxy.as_ref().map_err(Clone::clone)?;
        proxy.check()?;
        if self.transport.connector.is_some() {
            return Err(Error::invalid_options("proxy and connector are both set: the connector makes the connection"));
        }
        match endpoints.iter().find(|endpoint| endpoint.scheme() == Scheme::Unix) {
            Some(endpoint) => Err(conflict("proxy", endpoint, "is on this machine")),
            None => Ok(()),
        }
    }

    fn check_tls(&self, endpoints: &[&Endpoint]) -> Result<(), Error> {
        let tls = &self.transport.tls;
        let Some(name) = tls.names().first().copied() else { return Ok(()) };
        let parts = tls.names_of_parts();
        if !endpoints.iter().any(|endpoint| endpoint.scheme().is_tls()) {
            return Err(conflict(name, &self.endpoint, "does not speak TLS: use mqtts or wss"));
        }
        if let Some(part) = parts.first().filter(|_| tls.has_config()) {
            return Err(Error::invalid_options(format!("{part} and tls_config are both set: put it into the latter")));
        }
        if let Some(ca) = parts.iter().find(|name| name.starts_with("ca_") && tls.accept_invalid_certs) {
            return Err(Error::invalid_options(format!(
                "{ca} and danger_accept_invalid_certs are both set: the latter accepts whatever the former would not"
            )));
        }
        match (&tls.cert, &tls.key) {
            (Some(_), None) => Err(Error::invalid_options("there is a client certificate (cert_file) but no key_file")),
            (None, Some(_)) => Err(Error::invalid_options("there is a client's key (key_file) but no cert_file")),
            _ => check_server_name(tls.server_name.as_deref()),
        }
    }

    fn check_client_id(&self) -> Result<(), Error> {
        match self.client_id.as_deref() {
            None if self.clean_session => Ok(()),
            None => Err(Error::invalid_options("clean_session(false) needs a client_id to find the session again by")),
            Some(id) => {
                field::check_text("client_id", id).map_err(Error::invalid_options)?;
                if id.is_empty() && !self.clean_session {
                    return Err(Error::invalid_options("an empty client_id needs clean_session(true) [MQTT-3.1.3-7]"));
                }
                if self.version == Version::V31 && !fits_v31(id) {
                    return Err(Error::invalid_options("MQTT 3.1 allows client_ids of 1 to 23 characters only"));
                }
                Ok(())
            }
        }
    }
}

/// The lengths that MQTT 3.1 allows a client identifier (section 3.1).
pub(crate) fn fits_v31(client_id: &str) -> bool {
    (1..=23).contains(&client_id.chars().count())
}

fn conflict(option: &str, endpoint: &Endpoint, why: &str) -> Error {
    Error::invalid_options(format!("{option} is set, but {endpoint} {why}"))
}

/// Whoever can keep the encrypted one from answering would read what was meant for it.
fn check_encryption(endpoints: &[&Endpoint]) -> Result<(), Error> {
    let encrypted = endpoints.iter().find(|endpoint| endpoint.scheme().is_tls());
    let open = endpoints.iter().find(|endpoint| matches!(endpoint.scheme(), Scheme::Mqtt | Scheme::Ws));
    match (encrypted, open) {
        (Some(encrypted), Some(open)) => {
            Err(Error::invalid_options(format!("failover between {encrypted} and {open} would not stay encrypted")))
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "tls-no-provider")]
fn check_server_name(name: Option<&str>) -> Result<(), Error> {
    name.map_or(Ok(()), |name| crate::transport::server_name(name).map(drop))
}

#[cfg(not(feature = "tls-no-provider"))]
fn check_server_name(_: Option<&str>) -> Result<(), Error> {
    Ok(())
}

#[cfg(feature = "websocket")]
fn check_header(name: &str, value: &str) -> Result<(), Error> {
    crate::transport::header(name, value).map(drop)
}

#[cfg(not(feature = "websocket"))]
fn check_header(_: &str, _: &str) -> Result<(), Error> {
    Ok(())
}

/// The channel of a stream takes its slots at once, so a capacity has an upper bound too.
pub(crate) fn check_capacity(capacity: usize) -> Result<(), &'static str> {
    match capacity {
        0 => Err("a stream must hold at least 1 message"),
        1..=MAX_CAPACITY => Ok(()),
        _ => Err("a stream may hold 1,048,576 messages at most"),
    }
}

const MAX_CAPACITY: usize = 1 << 20;
