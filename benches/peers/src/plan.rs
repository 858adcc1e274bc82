//! Who does what, and where.

use crate::work::Work;

pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    /// How many times fewer operations it is given, so that it takes about as long as the others.
    pub(crate) slower: usize,
    /// Run by Python.
    pub(crate) is_python: bool,
}

const fn rust(name: &'static str, label: &'static str, slower: usize) -> Contender {
    Contender { name, label, slower, is_python: false }
}

const fn python(name: &'static str, label: &'static str, slower: usize) -> Contender {
    Contender { name, label, slower, is_python: true }
}

pub(crate) fn contender(name: &str) -> &'static Contender {
    CONTENDERS.iter().find(|contender| contender.name == name).expect("a name of the list")
}

pub(crate) const CONTENDERS: [Contender; 11] = [
    rust("agent-311", "mqtt-agent, 3.1.1", 1),
    rust("agent-5", "mqtt-agent, 5", 1),
    rust("socket", "blocking socket, no client", 1),
    rust("bare", "Tokio task, no client", 1),
    rust("event-loop", "rumqttc EventLoop + own table", 1),
    rust("azure", "azure_iot_operations_mqtt", 4),
    rust("mqtt5", "mqtt5", 8),
    rust("typed", "mqtt-typed-client", 8),
    python("paho-event", "paho-mqtt, woken by an event", 40),
    python("paho-poll", "paho-mqtt, looking every 0.1 s", 200),
    python("aiomqtt", "aiomqtt", 40),
];

/// What a client is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Setting {
    Null,
    Mosquitto,
    NullTls,
    MosquittoTls,
}

impl Setting {
    pub(crate) const ALL: [Self; 4] = [Self::Null, Self::Mosquitto, Self::NullTls, Self::MosquittoTls];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null broker",
            Self::Mosquitto => "mosquitto",
            Self::NullTls => "null broker, TLS",
            Self::MosquittoTls => "mosquitto, TLS",
        }
    }

    /// How many times fewer operations are done there, so that there is time for more than one round.
    pub(crate) fn slower(self) -> usize {
        match self {
            Self::Null | Self::NullTls => 1,
            Self::Mosquitto | Self::MosquittoTls => 3,
        }
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::NullTls | Self::MosquittoTls)
    }
}

/// What a column of a table is taken from.
pub(crate) struct Item {
    pub(crate) key: &'static str,
    pub(crate) work: Work,
    /// Done over TLS too.
    pub(crate) over_tls: bool,
    /// Filters held besides, by those that can.
    pub(crate) held: usize,
    /// How many times as many rounds it has as others, but for the clients that take longest.
    pub(crate) times: usize,
}

const fn item(key: &'static str, work: Work) -> Item {
    Item { key, work, over_tls: false, held: 0, times: 1 }
}

const fn also_over_tls(key: &'static str, work: Work) -> Item {
    Item { over_tls: true, ..item(key, work) }
}

/// Where clients are told apart by a few of a hundred, which a few rounds do not show.
const fn often(item: Item) -> Item {
    Item { times: 3, ..item }
}

const fn holding(key: &'static str, held: usize) -> Item {
    Item { held, ..item(key, Work::Receive { count: 200_000, size: 64 }) }
}

pub(crate) const ITEMS: [Item; 18] = [
    often(also_over_tls("call", Work::Call { count: 2_000, size: 64 })),
    item("each-100", Work::CallEach { count: 100 }),
    also_over_tls("each-1000", Work::CallEach { count: 1_000 }),
    item("each-10000", Work::CallEach { count: 10_000 }),
    item("publish-0", Work::Publish { count: 100_000, qos: 0, size: 64 }),
    also_over_tls("publish-1", Work::Publish { count: 50_000, qos: 1, size: 64 }),
    item("publish-2", Work::Publish { count: 20_000, qos: 2, size: 64 }),
    item("publish-1k", Work::Publish { count: 30_000, qos: 1, size: 1 << 10 }),
    also_over_tls("publish-64k", Work::Publish { count: 1_000, qos: 1, size: 64 << 10 }),
    also_over_tls("receive", Work::Receive { count: 200_000, size: 64 }),
    item("receive-1k", Work::Receive { count: 100_000, size: 1 << 10 }),
    item("receive-64k", Work::Receive { count: 2_000, size: 64 << 10 }),
    item("streams", Work::ReceiveEach { streams: 1_000, count: 100_000 }),
    item("call-1k", Work::Call { count: 1_000, size: 1 << 10 }),
    item("call-64k", Work::Call { count: 500, size: 64 << 10 }),
    holding("held-10", 10),
    holding("held-1000", 1_000),
    holding("held-100000", 100_000),
];

/// Counted rather than timed: what a change of the code changes, on any machine.
pub(crate) const COUNTED: [(&str, Work); 4] = [
    ("call", Work::Call { count: 1_000, size: 64 }),
    ("publish, QoS 0", Work::Publish { count: 10_000, qos: 0, size: 64 }),
    ("publish, QoS 1", Work::Publish { count: 10_000, qos: 1, size: 64 }),
    ("receive", Work::Receive { count: 10_000, size: 64 }),
];
