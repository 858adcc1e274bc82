//! What cannot be used is refused with its own kind of error before anything is sent.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::FutureExt;
use mqtt_agent::{Agent, Error, ErrorKind, LastWill, Options, Outcome, QoS, Topic, Version};

use crate::common::{linked, options};
use crate::support::{is_v5, millis, secs, within, Scripted, LIMIT};

const BAD_TOPICS: [&str; 8] = ["", "+", "#", "a/+/b", "a/#", "a+", "\0", "a\0b"];

const BAD_FILTERS: [&str; 15] = [
    "",
    "\0",
    "a/#/b",
    "#/a",
    "a#",
    "a/b#",
    "a+",
    "+a/b",
    "a/++",
    "$share",
    "$share/",
    "$share/g",
    "$share/g/",
    "$share//a",
    "$share/+/a",
];

#[tokio::test]
async fn a_bad_argument_of_a_call_has_its_kind_and_nothing_is_sent() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let long = "t".repeat(65_536);
    for topic in BAD_TOPICS.into_iter().chain([long.as_str()]) {
        let publish = agent.publish(topic, "x");
        refuses(ErrorKind::InvalidTopic, topic, publish.clone()).await;
        refuses(ErrorKind::InvalidTopic, topic, publish.clone().qos(QoS::AtMostOnce)).await;
        refuses(ErrorKind::InvalidTopic, topic, agent.request(topic, "x").reply_to("a")).await;
        assert_eq!(publish.try_send().unwrap_err().kind(), ErrorKind::InvalidTopic, "{topic:.20?}");
        assert_eq!(agent.try_publish(topic, "x").unwrap_err().kind(), ErrorKind::InvalidTopic, "{topic:.20?}");
    }
    for filter in BAD_FILTERS.into_iter().chain([long.as_str()]) {
        refuses(ErrorKind::InvalidFilter, filter, agent.subscribe(filter)).await;
        refuses(ErrorKind::InvalidFilter, filter, agent.subscribe(["good", filter])).await;
        refuses(ErrorKind::InvalidFilter, filter, agent.collect(vec![filter], 1, LIMIT)).await;
        refuses(ErrorKind::InvalidFilter, filter, agent.request("a", "x").reply_to(filter)).await;
    }
    let shared = Topic::new("$share/g/a").unwrap();
    refuses(ErrorKind::InvalidFilter, "a topic that means a share", agent.subscribe([shared])).await;

    let invalid = ErrorKind::InvalidArgument;
    refuses(invalid, "no filters", agent.subscribe(Vec::<String>::new())).await;
    refuses(invalid, "no filters to collect", agent.collect([""; 0], 1, LIMIT)).await;
    refuses(invalid, "capacity 0", agent.subscribe("a").capacity(0)).await;
    refuses(invalid, "a capacity no memory has", agent.subscribe("a").capacity(usize::MAX)).await;
    refuses(invalid, "collect 0", agent.collect("a", 0, LIMIT)).await;
    refuses(invalid, "0 replies", agent.request("a", "x").reply_to("b").replies(0)).await;
    if !is_v5() {
        // With MQTT 5 the agent has a topic of its own for replies.
        refuses(invalid, "no reply_to", agent.request("a", "x")).await;
        refuses(invalid, "no reply_to for several", agent.request("a", "x").replies(2)).await;
    }

    let (zero, timeout) = (Duration::ZERO, ErrorKind::Timeout);
    refuses(timeout, "publish", agent.publish("a", "x").timeout(zero)).await;
    refuses(timeout, "subscribe", agent.subscribe("a").timeout(zero)).await;
    refuses(timeout, "collect", agent.collect("a", 1, zero)).await;
    refuses(timeout, "request", agent.request("a", "x").reply_to("b").timeout(zero)).await;

    peer.expect_nothing(millis(20)).await;
    assert!(agent.is_connected());
    agent.publish("good", "x").qos(QoS::AtMostOnce).await.unwrap();
    assert_eq!(peer.expect_publish().await.topic, "good");
    let stats = agent.stats();
    assert_eq!((stats.published, stats.filters, stats.pending_requests), (1, 0, 0));
}

#[tokio::test]
async fn a_topic_and_a_filter_of_the_longest_length_are_sent() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let long = "t".repeat(65_535);
    agent.publish(long.as_str(), "x").qos(QoS::AtMostOnce).await.unwrap();
    assert_eq!(peer.expect_publish().await.topic, long);
    let _subscribing = tokio::spawn(agent.subscribe(&long).into_future());
    assert_eq!(peer.expect_subscribe().await.filters[0].path, long);
}

#[tokio::test]
async fn a_bad_option_has_its_kind_and_nothing_is_dialled() {
    let server = Scripted::listen().await;
    let long = "c".repeat(65_536);
    let good = || options(&server.url());
    let bad: Vec<(&str, Options)> = vec![
        ("no host", Options::new("")),
        ("port 0", good().port(0)),
        ("a client id over the limit", good().client_id(&long)),
        ("a NUL in the client id", good().client_id("a\0b")),
        ("a kept session without a name", good().clean_session(false)),
        ("a kept session with an empty name", good().clean_session(false).client_id("")),
        ("an empty name in 3.1", good().version(Version::V31).client_id("")),
        ("24 characters in 3.1", good().version(Version::V31).client_id("c".repeat(24))),
        ("an empty user name", good().credentials("", "secret")),
        ("a user name over the limit", good().credentials(&long, "secret")),
        ("a password over the limit", good().credentials("u", &long)),
        ("a NUL in the user name", good().credentials("u\0", "secret")),
        ("a will without a topic", good().last_will(LastWill::new("", "x"))),
        ("a will to a wildcard", good().last_will(LastWill::new("a/#", "x"))),
        ("a will over the limit", good().last_will(LastWill::new("a", vec![0; 65_536]))),
        ("a keep-alive over the limit", good().keep_alive(secs(65_536))),
        ("a keep-alive under a second", good().keep_alive(millis(999))),
        ("no packets in flight", good().max_in_flight(0)),
        ("no place in the queue", good().max_queued(0)),
        ("no bytes in the queue", good().max_queued_bytes(0)),
        ("no packet size", good().max_packet_size(0)),
        ("no filter in a packet", good().max_filters_per_subscribe(0)),
        ("no place in a stream", good().stream_capacity(0)),
        ("too many places in a stream", good().stream_capacity(usize::MAX)),
        ("no time to connect", good().connect_timeout(Duration::ZERO)),
        ("no time for an address", good().address_timeout(Duration::ZERO)),
        ("no time to write", good().write_timeout(Duration::ZERO)),
    ];
    for (what, options) in bad {
        let lazily = options.clone().connect_lazy().unwrap_err();
        let error = within(LIMIT, what, options.connect()).await.unwrap_err();
        // The topic of a will is a topic like any other.
        let expected = match what {
            "a will without a topic" | "a will to a wildcard" => ErrorKind::InvalidTopic,
            _ => ErrorKind::InvalidOptions,
        };
        assert_eq!(error.kind(), expected, "{what}: {error:?}");
        assert_eq!(lazily.kind(), error.kind(), "{what}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{what}: {error:?}");
    }
    server.expect_no_connection(millis(20)).await;
}

#[tokio::test]
async fn a_bad_url_is_refused_and_never_repeated() {
    for url in [
        "",
        "localhost",
        "localhost:1883",
        "http://u:secret@localhost",
        "mqtts5://u:secret@localhost",
        "mqtt://",
        "mqtt:///a",
        "mqtt://u:secret@localhost:99999",
        "mqtt://u:secret@localhost:port",
        "mqtt://u:secret@localhost:0",
        "mqtt://u:secret@localhost/topic",
        "mqtt://u:secret@localhost#a",
        "mqtt://:secret@localhost",
        "mqtt://u:secret%ff@localhost",
        "mqtt://u:secret%00@localhost",
        "mqtt://u:secret@localhost?unknown=1",
        "mqtt://u:secret@localhost?client-id=a",
        "mqtt://u:secret@localhost?version=6",
        "mqtt://u:secret@localhost?keep_alive=-1",
        "mqtt://u:secret@localhost?keep_alive=soon",
        "mqtt://u:secret@localhost?timeout=inf",
        "mqtt://u:secret@localhost?max_in_flight=65536",
        "mqtt://u:secret@localhost?max_queued=0",
        "mqtt://u:secret@localhost?clean_session=maybe",
        "mqtt://u:secret@localhost?clean_session=false",
        "mqtt://u:secret@localhost?offline=never",
    ] {
        let error = within(LIMIT, url, Agent::connect(url)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{url}: {error:?}");
        assert_eq!(Agent::connect_lazy(url).unwrap_err().kind(), ErrorKind::InvalidOptions, "{url}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{url}: {error:?}");
    }
}

/// The call is answered at once, by this kind of error, and had no message to send.
async fn refuses<C, T>(kind: ErrorKind, what: &str, call: C)
where
    C: IntoFuture<Output = Result<T, Error>>,
    C::IntoFuture: Send + 'static,
{
    let call: BoxFuture<'static, _> = call.into_future().boxed();
    let short: String = what.chars().take(30).collect();
    match within(LIMIT, &short, call).await {
        Ok(_) => panic!("{short:?} was not refused"),
        Err(error) => assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotSent), "{short:?}"),
    }
}
