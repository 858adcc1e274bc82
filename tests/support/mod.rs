//! What the tests share: brokers, faults on the way to them, scripted peers and cancellation.

// Not every test uses every helper.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod certificates;
pub mod embedded;
pub mod fronts;
pub mod mosquitto;
pub mod polls;
pub mod scripted;
pub mod v5;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use mqtt_agent::testing::BrokerBuilder;
use mqtt_agent::{Agent, Message, Version};

pub use certificates::{file, self_signed, Authority, Identity, KeyForm};
pub use embedded::{EmbeddedBroker, Proxy};
pub use fronts::{Front, TlsSide};
pub use mosquitto::{Mosquitto, MosquittoConfig, Persistence};
pub use mqtt_agent::testing::{within, Device, Direction};
pub use polls::{drop_after_polls, drop_when_woken_after_polls};
pub use scripted::{Peer, Scripted};

/// The version that agents speak in these tests, which are built once for each: as `it` for 3.1.1, as `it_v5` for MQTT 5.
pub const VERSION: Version = if is_v5() { Version::V5 } else { Version::V311 };

pub const fn is_v5() -> bool {
    matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"it_v5")
}

/// The URL of a broker at this address, for an agent of that version.
pub fn url(addr: SocketAddr) -> String {
    match is_v5() {
        true => format!("mqtt://{addr}?version=5"),
        false => format!("mqtt://{addr}"),
    }
}

/// A device that answers each call on `…/rpc` by the same payload on `…/res`.
pub async fn echo(url: &str, calls: &str) -> Device {
    // Room for all that a test asks at once.
    let options = Agent::builder(url).expect("a URL").stream_capacity(4096);
    let mut device = Device::connect(options).await.expect("a connection for the device");
    let answer = |call: &Message| (call.topic().as_str().replace("/rpc", "/res"), call.payload().clone());
    device.respond_to(calls, answer).await.expect("the calls of the device");
    device
}

/// How long a test waits for something that is to happen at once.
pub const LIMIT: Duration = Duration::from_secs(5);

pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    Embedded,
    Mosquitto,
}

/// What a [`Broker`] allows; everything by default.
#[derive(Clone, Default)]
pub struct BrokerOptions {
    /// Refuses every client that does not show this user and password.
    pub login: Option<(String, String)>,
    /// Refuses to subscribe at or below these prefixes. Of the two answers [MQTT-3.3.5-2] allows
    /// to what is published there, the embedded broker acknowledges and discards it, and mosquitto
    /// closes the connection. Not together with `login`.
    pub refused: Vec<String>,
    /// At least 1024.
    pub max_packet_size: Option<usize>,
    /// How many messages that it has not acknowledged a client is sent.
    pub window: Option<u16>,
}

/// A running broker of either kind. Ends when dropped.
pub struct Broker {
    addr: SocketAddr,
    inner: Inner,
}

enum Inner {
    Embedded(BrokerBuilder, Option<EmbeddedBroker>),
    Mosquitto(Mosquitto),
}

impl Broker {
    /// `None` if the broker is not installed.
    pub async fn start(kind: BrokerKind) -> Option<Self> {
        Self::start_with(kind, BrokerOptions::default()).await
    }

    /// `None` if the broker is not installed.
    pub async fn start_with(kind: BrokerKind, options: BrokerOptions) -> Option<Self> {
        match kind {
            BrokerKind::Embedded => Some(Self::start_embedded(options).await),
            BrokerKind::Mosquitto => Self::start_mosquitto(options).await,
        }
    }

    pub fn kind(&self) -> BrokerKind {
        match self.inner {
            Inner::Embedded(..) => BrokerKind::Embedded,
            Inner::Mosquitto(_) => BrokerKind::Mosquitto,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        url(self.addr)
    }

    /// Ends it and every connection. Sessions and retained messages are lost.
    pub async fn stop(&mut self) {
        match &mut self.inner {
            Inner::Embedded(_, broker) => broker.take().expect("the broker runs").stop().await,
            Inner::Mosquitto(broker) => broker.terminate().await,
        }
    }

    /// Starts it on the same port after it was stopped.
    pub async fn start_again(&mut self) {
        match &mut self.inner {
            Inner::Embedded(builder, broker) => {
                assert!(broker.is_none(), "the broker runs already");
                *broker = Some(EmbeddedBroker::start_with(builder.clone().port(self.addr.port())).await);
            }
            Inner::Mosquitto(broker) => broker.start_again().await,
        }
    }

    async fn start_embedded(options: BrokerOptions) -> Self {
        let mut builder = EmbeddedBroker::builder();
        if let Some((user, password)) = &options.login {
            builder = builder.login(user, password);
        }
        for prefix in &options.refused {
            builder = builder.refuse(prefix);
        }
        if let Some(bytes) = options.max_packet_size {
            builder = builder.max_packet_size(bytes);
        }
        if let Some(messages) = options.window {
            builder = builder.window(messages);
        }
        let broker = EmbeddedBroker::start_with(builder.clone()).await;
        Self { addr: broker.addr(), inner: Inner::Embedded(builder, Some(broker)) }
    }

    async fn start_mosquitto(options: BrokerOptions) -> Option<Self> {
        let config = MosquittoConfig {
            login: options.login,
            refused: options.refused,
            max_packet_size: options.max_packet_size,
            window: options.window,
            ..MosquittoConfig::default()
        };
        let broker = mosquitto_or_skip(config).await?;
        Some(Self { addr: broker.addr(), inner: Inner::Mosquitto(broker) })
    }
}

/// `None`, and one line per test run that says so, if mosquitto is not installed. Panics instead
/// if `MQTT_AGENT_REQUIRE_MOSQUITTO` is 1, so that CI cannot skip these tests unnoticed.
pub async fn mosquitto_or_skip(config: MosquittoConfig) -> Option<Mosquitto> {
    static SAID: Once = Once::new();
    let broker = Mosquitto::start(config).await;
    if broker.is_none() {
        let required = std::env::var("MQTT_AGENT_REQUIRE_MOSQUITTO").is_ok_and(|set| set == "1");
        assert!(!required, "{MISSING}");
        // `eprintln!` would be captured with the output of the test, which passes.
        SAID.call_once(|| writeln!(io::stderr(), "{MISSING}").unwrap_or_default());
    }
    broker
}

const MISSING: &str = "mosquitto not found: its tests are skipped; apt-get install mosquitto";

/// The tests `$name::embedded` and `$name::mosquitto` out of one body that takes a [`Broker`].
///
/// ```ignore
/// broker_test!(a_publish_comes_back, |broker| async move { ... });
/// broker_test!(
///     a_refused_subscribe_fails,
///     options = BrokerOptions { refused: vec!["secret".into()], ..Default::default() },
///     flavor = "multi_thread",
///     worker_threads = 2,
///     |broker| async move { ... }
/// );
/// ```
#[allow(unused_macros)]
macro_rules! broker_test {
    (
        $(#[$attribute:meta])*
        $name:ident,
        $(options = $options:expr,)?
        $(flavor = $flavor:tt, worker_threads = $threads:tt,)?
        |$broker:pat_param| $body:expr $(,)?
    ) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn run(kind: $crate::support::BrokerKind) {
                #[allow(unused_mut, unused_assignments)]
                let mut options = $crate::support::BrokerOptions::default();
                $(options = $options;)?
                let Some($broker) = $crate::support::Broker::start_with(kind, options).await
                else {
                    return;
                };
                let outcome: () = $crate::support::within(
                    $crate::support::TEST_LIMIT,
                    "the end of the test",
                    $body,
                )
                .await;
                outcome
            }

            $(#[$attribute])*
            #[tokio::test $((flavor = $flavor, worker_threads = $threads))?]
            async fn embedded() {
                run($crate::support::BrokerKind::Embedded).await;
            }

            $(#[$attribute])*
            #[tokio::test $((flavor = $flavor, worker_threads = $threads))?]
            async fn mosquitto() {
                run($crate::support::BrokerKind::Mosquitto).await;
            }
        }
    };
}
pub(crate) use broker_test;

/// How long one test body may take.
pub const TEST_LIMIT: Duration = Duration::from_secs(300);
