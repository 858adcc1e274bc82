//! The broker and the proxy of `mqtt_agent::testing`, with URLs for agents of the version under test.

use std::net::SocketAddr;
use std::ops::Deref;

use mqtt_agent::testing::{self, BrokerBuilder};

use super::url;

pub struct EmbeddedBroker(testing::Broker);

impl EmbeddedBroker {
    /// A broker that allows everything.
    pub async fn start() -> Self {
        Self::start_with(Self::builder()).await
    }

    pub async fn start_with(builder: BrokerBuilder) -> Self {
        Self(builder.start().await.expect("the embedded broker starts"))
    }

    pub fn builder() -> BrokerBuilder {
        testing::Broker::builder()
    }

    pub fn url(&self) -> String {
        url(self.addr())
    }

    pub async fn stop(self) {
        self.0.stop().await.expect("the embedded broker stops");
    }
}

impl Deref for EmbeddedBroker {
    type Target = testing::Broker;

    fn deref(&self) -> &testing::Broker {
        &self.0
    }
}

pub struct Proxy(testing::Proxy);

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        Self(testing::Proxy::start(target).await.expect("a free loopback port"))
    }

    pub fn url(&self) -> String {
        url(self.addr())
    }
}

impl Deref for Proxy {
    type Target = testing::Proxy;

    fn deref(&self) -> &testing::Proxy {
        &self.0
    }
}
