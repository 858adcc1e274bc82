//! MQTT for Humans: commands to devices that feel like function calls.
//!
//! A web server or a worker keeps one [`Agent`] per broker for its whole life. From any handler or task it publishes,
//! waits for some messages, calls a device and awaits its reply, or follows topics as a stream. One task owns the
//! connection; the handles are cheap to clone and send it commands.
//!
//! ```no_run
//! use mqtt_agent::Agent;
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), mqtt_agent::Error> {
//! let agent = Agent::connect("mqtt://user:secret@localhost:1883").await?;
//!
//! agent.publish("devices/42/led", "on").await?;
//!
//! let readings = agent.collect("sensors/+/temp", 3, Duration::from_secs(5)).await?;
//!
//! let pong = agent.request("dev/42/rpc", r#"{"id":1,"method":"RPC.Ping"}"#).reply_to("dev/42/rpc/res").await?;
//! println!("{}", pong.text().unwrap_or("not text"));
//!
//! let mut alarms = agent.subscribe(["alarms/#", "devices/+/alarm"]).await?;
//! while let Some(item) = alarms.recv().await {
//!     match item {
//!         Ok(message) => println!("{}", message.topic()),
//!         Err(gap) => eprintln!("{gap}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The package also holds a manual, in `docs/manual`: from the first program to production, with tables of outcomes,
//! promises, options and symptoms, and a cookbook.
//!
//! # Many devices at once
//!
//! A call is a future like any other. They share one connection, and the calls to different devices do not wait for
//! each other. [`Agent::request_each`] makes any number of them, a part at a time:
//!
//! ```no_run
//! use mqtt_agent::rpc::Correlation;
//!
//! # async fn example(agent: mqtt_agent::Agent) {
//! let calls = (0..10_000).map(|id| {
//!     let call = agent.request(format!("dev/{id}/rpc"), "ping").reply_to("dev/+/rpc/res");
//!     (id, call.correlation(Correlation::topic(id.to_string()))) // one subscription for all
//! });
//! let (replies, failures) = agent.request_each(calls).concurrency(500).partition().await;
//! # }
//! ```
//!
//! # Which reply is whose
//!
//! Devices have many conventions for that, and most speak MQTT 3.1.1. With [`Request::reply_to`] alone, calls with one
//! reply topic take turns; a [`Correlation`](rpc::Correlation) lets them share it at the same time: by an id in the
//! topic, a JSON pointer (feature `json`), the correlation data of MQTT 5, or a closure. [`rpc`] has ready-made
//! conventions. On MQTT 5 nothing has to be said: `agent.request(topic, payload).await` is enough. The other side of a
//! call is [`Agent::serve`].
//!
//! # What happens …
//!
//! **… when the connection is lost.** The agent reconnects for ever, with growing, randomised delays, unless
//! [`Options::reconnect`] says otherwise. Messages of QoS 1 and 2 that were not acknowledged are sent again in their
//! first order; filters are subscribed again where the broker has forgotten them; calls in progress go on. Streams
//! go on too: what was published while the agent was away is missing from them, unless the broker kept it for a
//! persistent session ([`Options::clean_session`]).
//!
//! **… while there is no connection.** Each call chooses by [`Offline`]: fail at once, wait for a connection until its
//! deadline (the default), or hand the message over to be sent later. Every call has a deadline
//! ([`Options::timeout`], 10 s, unless it sets its own), so nobody waits for ever; what has passed its deadline is not
//! sent any more.
//!
//! **… when a call fails.** [`Error::kind`] says why, and [`Error::outcome`] what became of the message: not sent (safe
//! to try again), refused, or unknown (sent, but no answer came).
//!
//! **… when a future is dropped.** Every future may be dropped at any await, as handlers are when their HTTP peer hangs
//! up. What was not sent is not sent; a subscription that nobody else wants is given up; a request frees its place.
//!
//! **… when a subscriber is slow.** Nobody else notices. Its stream holds a fixed number of messages
//! ([`Options::stream_capacity`]), then loses the oldest, and says how many in its next item. One that must lose nothing
//! chooses to acknowledge its messages as it takes them, or one by one ([`Acks`]): the broker then keeps what it has no
//! room for, and sends again what was not acknowledged.
//!
//! **… at the end.** [`Agent::drain`] finishes what was accepted, within a deadline, and reports the rest;
//! [`Agent::close`] ends at once; dropping the last handle sends what was accepted and then disconnects. Everyone who
//! waits gets an answer in each case.
//!
//! # Other faces
//!
//! **Several brokers.** [`Brokers`] keeps an agent for each by name, connected when it is first used, with one state and
//! one stream over all.
//!
//! **One for the process.** [`global::agent`] is set once and used anywhere, or connects by itself to what the environment
//! names.
//!
//! **Without async.** [`blocking::Agent`] has the same verbs for scripts, worker processes and tests, on a thread of its
//! own (feature `blocking`).
//!
//! **In a web server.** [`Error::http_status`] and [`Error::problem`] say what to answer with, and with the feature `axum` a
//! handler returns the [`Error`] itself.
//!
//! **In tests.** [`testing`] has a broker in the process, devices that answer as they are told, and a faulty line (feature
//! `testing`).
//!
//! **For operators.** [`telemetry`] names the spans and events that go to `tracing`, and the metrics that go to the
//! `metrics` facade (feature `metrics`).
//!
//! # Protocol versions
//!
//! MQTT 3.1.1 by default, which every broker and most devices speak; MQTT 3.1 and 5 by [`Options::version`], or
//! [`Version::Auto`] for the newest of the last two that the broker takes. The calls are the same. MQTT 5 adds
//! properties to messages ([`Properties`]), reasons to refusals ([`Error::reason_code`]), sessions that outlive a
//! connection without a fixed name ([`Options::session_expiry`]), the broker's terms ([`Terms`]), and an answer at once
//! to a request that nobody is there for ([`ErrorKind::NoResponders`]). What a call asks for and only MQTT 5 can do is
//! an [`ErrorKind::Unsupported`] on a connection of an earlier version, and never dropped without a word; what goes
//! along by itself, the content type of JSON and a `traceparent`, is left out there.
//!
//! **Overlapping filters**, such as `a/+` and `+/b`, give each subscriber one copy of a message with MQTT 5, by its
//! subscription identifiers, which the agent sets and reads by itself. Before that, one copy where one filter covers the
//! other, as `a/#` does `a/+`; else as many as the broker sends.
//!
//! # Ways to a broker
//!
//! By the scheme of the URL: TCP, TLS, WebSocket, both, or a socket in the file system ([`Options::from_url`]); through a
//! proxy ([`Options::proxy`]) or a stream of one's own ([`Options::connector`]); to one of several brokers
//! ([`Options::failover`]). The options can come from the environment ([`Options::from_env`]) and, with the feature
//! `serde`, from a file.
//!
//! TLS checks the broker's certificate, chain and name, against what the platform trusts or what
//! [`Options::ca_file`] names; it never falls back to plain MQTT. What fails says what to do about it
//! ([`ErrorKind::Tls`]). Passwords, keys, headers and the queries of WebSocket URLs are in no text that this crate writes:
//! no error, no `Debug`, no log. (The WebSocket library writes its requests and frames at the level `trace` of the `log`
//! crate: do not switch that on for `tungstenite`.)
//!
//! # Features
//!
//! - `tls` (default): TLS by rustls with aws-lc-rs. `tls-ring`: with ring. `tls-no-provider`: with the provider that the
//!   program installs or hands in ([`Options::crypto_provider`]). Where several are on, the first of them counts.
//! - `websocket` (default): `ws` and `wss`.
//! - `proxy`: HTTP CONNECT and SOCKS5.
//! - `serde`: `Deserialize` for [`Options`], `Serialize` for [`Problem`]. `axum`: an [`Error`] is an answer of a handler.
//! - `json`: JSON payloads, and the conventions of devices that speak it. `trace-context`: W3C `traceparent` in user
//!   properties.
//! - `blocking`: the same verbs without async. `metrics`: counters and histograms for the facade of that name. `testing`:
//!   a broker, devices and a faulty line for tests.
//!
//! Without its feature a URL or an option is an [`ErrorKind::InvalidOptions`] that names it.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod actor;
mod agent;
mod allowance;
#[cfg(feature = "blocking")]
pub mod blocking;
mod brokers;
mod call;
mod collect;
mod command;
mod connection;
mod dial;
mod error;
mod events;
mod field;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
pub mod global;
mod histogram;
#[cfg(feature = "json")]
mod json;
mod message;
mod options;
mod properties;
mod publish;
mod random;
mod reason;
mod reconnect;
mod request;
mod room;
mod router;
pub mod rpc;
mod runtime;
mod serve;
mod session;
mod siblings;
mod slots;
mod sources;
mod state;
mod stats;
mod subscribe;
pub mod telemetry;
mod terms;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;
mod transport;
mod wire;

pub use agent::Agent;
pub use brokers::{Brokers, BrokersState, BrokersSubscription};
pub use collect::{Collect, CollectFuture};
pub use command::Unfinished;
pub use error::{Error, ErrorKind, Outcome, Problem, Refusal, RemoteError, TlsFailure, WebSocketFailure};
pub use histogram::Histogram;
#[cfg(feature = "json")]
pub use json::Json;
pub use message::{Message, QoS};
pub use options::{Exchange, ExchangeFuture, LastWill, Login, Offline, Options};
pub use properties::Properties;
pub use publish::{Delivery, Publish, PublishFuture};
pub use reason::ReasonCode;
pub use reconnect::{Backoff, Lost, ReconnectPolicy};
pub use request::{Progress, Replies, Request, RequestEach, RequestFuture, RequestMany, RequestManyFuture};
pub use serve::{IncomingRequest, IntoReply, ReplyBody, Serve, ServeFuture, Service, ServiceStats};
pub use state::State;
pub use stats::Stats;
pub use subscribe::{Acks, IntoFilters, Retained, Subscribe, SubscribeFuture, Subscription};
pub use terms::{Terms, Version};
pub use topic::{Filter, Topic};
pub use transport::{Endpoint, Scheme};

/// The TLS library that [`Options::tls_config`] and [`Options::crypto_provider`] speak of.
#[cfg(feature = "tls-no-provider")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "tls", feature = "tls-ring", feature = "tls-no-provider"))))]
pub use tokio_rustls::rustls;

/// The examples of the pages, compiled. One module each, so that a failure names its page.
#[cfg(doctest)]
mod pages {
    macro_rules! pages {
        ($($name:ident $path:literal,)*) => {$(
            #[doc = include_str!($path)]
            mod $name {}
        )*};
    }

    pages! {
        readme "../README.md",
        manual "../docs/manual/README.md",
        connecting "../docs/manual/connecting.md",
        publishing "../docs/manual/publishing.md",
        subscribing "../docs/manual/subscribing.md",
        requests "../docs/manual/requests.md",
        serving "../docs/manual/serving.md",
        sync "../docs/manual/sync.md",
        brokers "../docs/manual/brokers.md",
        promises "../docs/manual/promises.md",
        testing "../docs/manual/testing.md",
        observability "../docs/manual/observability.md",
        tuning "../docs/manual/tuning.md",
        cookbook "../docs/manual/cookbook.md",
        paho_python "../docs/migrating/paho-python.md",
        event_loop "../docs/migrating/event-loop.md",
        mqtt_async_client "../docs/migrating/mqtt-async-client.md",
    }
}
