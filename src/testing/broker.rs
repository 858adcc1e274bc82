//! An MQTT broker inside the process, on a loopback port of its own.

use std::fmt;
use std::future::{ready, Future};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::{
    AuthProvider, AuthResult, BrokerConfig, BrokerEventHandler, BrokerShutdownHandle, ClientPublishEvent, MqttBroker,
    PublishAction, StorageBackendType, StorageConfig,
};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Error;

/// A broker inside the process, on a free loopback port: MQTT 3.1.1 and 5, retained messages, sessions, shared
/// subscriptions. It holds what it keeps in memory, and stops when dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::{testing, Agent};
///
/// let broker = testing::Broker::start().await?;
/// let agent = Agent::connect(broker.url()).await?;
/// # Ok(())
/// # }
/// ```
pub struct Broker {
    addr: SocketAddr,
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<mqtt5::Result<()>>,
}

impl Broker {
    /// Starts a broker that allows everything, and returns when it takes connections.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`](crate::ErrorKind::Connection) if it cannot be started.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// A broker with settings.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same, as a URL for an agent.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.addr)
    }

    /// Closes every connection, and returns when the port is free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`](crate::ErrorKind::Connection) if it had failed, or does not end.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.shutdown.shutdown();
        let ended = timeout(START_STOP_LIMIT, &mut self.task).await.map_err(|late| failed("stopped", late))?;
        ended.map_err(|panic| failed("stopped", panic))?.map_err(|error| failed("stopped", error))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shutdown.shutdown();
        self.task.abort();
    }
}

fn failed(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::connection(format!("the embedded broker cannot be {what}")).with_source(source)
}

/// What a [`Broker`] allows and where it listens; made by [`Broker::builder`].
///
/// ```no_run
/// # async fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::{testing::Broker, Agent};
///
/// let broker = Broker::builder().login("web", "secret").refuse("admin").start().await?;
/// let agent = Agent::builder(&broker.url())?.credentials("web", "secret").connect().await?;
/// assert!(agent.subscribe("admin/#").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "nothing runs until it is started"]
pub struct BrokerBuilder {
    port: u16,
    max_packet_size: Option<usize>,
    window: Option<u16>,
    storage_dir: Option<PathBuf>,
    access: Access,
}

impl BrokerBuilder {
    /// Listens on this port instead of a free one: for a restart.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Closes the connection of a client that sends a larger packet; in bytes, at least 1024. Default: 10 MiB.
    pub fn max_packet_size(mut self, bytes: usize) -> Self {
        self.max_packet_size = Some(bytes);
        self
    }

    /// Refuses every client that does not show this login. Default: everybody may come.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.access.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Sends a client at most so many messages that it has not acknowledged. Default: 20,000.
    pub fn window(mut self, messages: u16) -> Self {
        self.window = Some(messages);
        self
    }

    /// Refuses to subscribe at or below `prefix`, and acknowledges but discards what is published there. May be called
    /// again for another prefix.
    pub fn refuse(mut self, prefix: &str) -> Self {
        self.access.refused.push(prefix.to_owned());
        self
    }

    /// Keeps sessions and retained messages in files, so that they outlive a restart. Default: in memory.
    pub fn storage_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.storage_dir = Some(dir.into());
        self
    }

    /// Starts it, and returns when it takes connections.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`](crate::ErrorKind::Connection) if it cannot be started.
    pub async fn start(self) -> Result<Broker, Error> {
        let mut broker = self.bind().await?.with_auth_provider(Arc::new(self.access));
        let none = || failed("started", io::Error::from(io::ErrorKind::AddrNotAvailable));
        let addr = broker.local_addr().ok_or_else(none)?;
        let shutdown = broker.shutdown_handle();
        let mut ready = broker.ready_receiver();
        let task = tokio::spawn(async move { broker.run().await });
        let broker = Broker { addr, shutdown, task };
        let ready = timeout(START_STOP_LIMIT, ready.wait_for(|ready| *ready)).await;
        ready.map_err(|late| failed("started", late))?.map_err(|gone| failed("started", gone))?;
        Ok(broker)
    }

    /// The listener of a predecessor that was dropped rather than stopped closes a little later.
    async fn bind(&self) -> Result<MqttBroker, Error> {
        let mut attempts = 0;
        loop {
            match MqttBroker::with_config(self.config()).await {
                Ok(broker) => return Ok(broker),
                Err(error) if attempts == BIND_ATTEMPTS => return Err(failed("started", error)),
                Err(_) => attempts += 1,
            }
            tokio::time::sleep(BIND_PAUSE).await;
        }
    }

    fn config(&self) -> BrokerConfig {
        // The default storage is a directory in the current one; switching persistence off
        // instead would switch offline queues off with it.
        let storage = match &self.storage_dir {
            Some(dir) => StorageConfig::default().with_backend(StorageBackendType::File).with_base_dir(dir.clone()),
            None => StorageConfig::default().with_backend(StorageBackendType::Memory),
        };
        let config = BrokerConfig::default()
            .with_bind_address(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
            .with_max_packet_size(self.max_packet_size.unwrap_or(MAX_PACKET_SIZE))
            .with_sys_topics_enabled(false)
            .with_max_clients(20_000)
            // A full channel drops QoS 0 messages silently and slows the others down.
            .with_client_channel_capacity(50_000)
            .with_max_outbound_inflight(self.window.unwrap_or(20_000))
            .with_storage(
                storage.with_max_queued_messages_per_client(200_000).with_max_queued_bytes_per_client(1 << 30),
            );
        if self.access.refused.is_empty() {
            config
        } else {
            config.with_event_handler(Arc::new(self.access.clone()))
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl fmt::Debug for BrokerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerBuilder").field("port", &self.port).finish_non_exhaustive()
    }
}

/// Given to the broker as its provider, because its own password check slows every connection down
/// by a costly hash and locks a client out after five failures.
#[derive(Clone, Default)]
struct Access {
    login: Option<(String, String)>,
    refused: Vec<String>,
}

impl Access {
    fn knows(&self, connect: &ConnectPacket) -> bool {
        self.login.as_ref().is_none_or(|(user, password)| {
            connect.username.as_deref() == Some(user) && connect.password.as_deref() == Some(password.as_bytes())
        })
    }

    fn allows(&self, topic: &str) -> bool {
        !self.refused.iter().any(|prefix| {
            topic.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl AuthProvider for Access {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _client_addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::Result<AuthResult>> + Send + 'a>> {
        let result = if self.knows(connect) {
            AuthResult::success()
        } else {
            AuthResult::fail(ReasonCode::BadUsernameOrPassword)
        };
        Box::pin(ready(Ok(result)))
    }

    /// Refused by the event handler: a refusal here is answered in the form of MQTT 5, with a
    /// reason and properties, to a client of 3.1.1 too.
    fn authorize_publish<'a>(
        &'a self,
        _client_id: &str,
        _user_id: Option<&'a str>,
        _topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(ready(true))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user_id: Option<&'a str>,
        topic_filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(ready(self.allows(topic_filter)))
    }
}

impl BrokerEventHandler for Access {
    fn on_client_publish<'a>(
        &'a self,
        event: ClientPublishEvent,
    ) -> Pin<Box<dyn Future<Output = PublishAction> + Send + 'a>> {
        let action = if self.allows(&event.topic) { PublishAction::Continue } else { PublishAction::Handled };
        Box::pin(ready(action))
    }
}

const START_STOP_LIMIT: Duration = Duration::from_secs(10);
const BIND_ATTEMPTS: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Some clients refuse a broker that announces the default of 256 MiB.
const MAX_PACKET_SIZE: usize = 10 << 20;
