//! MQTT for Humans.

mod actor;
mod agent;
mod call;
mod collect;
mod command;
mod connection;
mod error;
mod message;
mod options;
mod publish;
mod reconnect;
mod request;
mod router;
mod session;
mod state;
mod stats;
mod subscribe;
mod topic;
mod transport;
mod wire;

pub use agent::Agent;
pub use collect::{Collect, CollectFuture};
pub use command::Unfinished;
pub use error::{Error, ErrorKind, Outcome, Refusal};
pub use message::{Message, QoS};
pub use options::{LastWill, Login, Offline, Options};
pub use publish::{Delivery, Publish, PublishFuture};
pub use reconnect::{Backoff, Lost, ReconnectPolicy};
pub use request::{Request, RequestFuture, RequestMany, RequestManyFuture};
pub use state::State;
pub use stats::Stats;
pub use subscribe::{IntoFilters, Retained, Subscribe, SubscribeFuture, Subscription};
pub use topic::{Filter, Topic};
pub use wire::Version;
