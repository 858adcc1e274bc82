//! Properties, subscription options, identifiers, aliases and refusals with a reason.

use std::time::Duration;

use mqtt_agent::{
    Agent, Delivery, ErrorKind, LastWill, Options, Outcome, QoS, ReasonCode, Retained, Subscription, Version,
};
use rumqttc::mqttbytes::v4::SubscribeReasonCode;

use crate::common::{linked, options, stats};
use crate::support::{broker_test, secs, within, BrokerKind, BrokerOptions, Scripted, LIMIT};

async fn text(stream: &mut Subscription) -> String {
    let message = within(LIMIT, "a message", stream.recv()).await.unwrap().unwrap();
    message.text().unwrap().to_owned()
}

broker_test!(every_property_of_a_message_arrives, |broker| async move {
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    agent
        .publish("a", "21.5")
        .message_expiry(Duration::from_millis(59_001))
        .content_type("text/plain")
        .payload_is_utf8(true)
        .response_topic("re/1")
        .correlation_data(&b"\0\xff"[..])
        .user_property("a", "1")
        .user_property("b", "2")
        .user_property("a", "3")
        .await
        .unwrap();
    let message = within(LIMIT, "the message", stream.recv()).await.unwrap().unwrap();
    let properties = message.properties();
    let expiry = properties.message_expiry.unwrap();
    assert!(expiry <= secs(60) && expiry > secs(50), "{expiry:?}");
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert!(properties.payload_is_utf8);
    assert_eq!(properties.response_topic.as_ref().unwrap().as_str(), "re/1");
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\0\xff"[..]));
    // The embedded broker adds some of its own.
    let user: Vec<_> = properties.user_properties.iter().filter(|(name, _)| !name.starts_with("x-mqtt-")).collect();
    let user: Vec<_> = user.into_iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(user, [("a", "1"), ("b", "2"), ("a", "3")]);
});

broker_test!(overlapping_filters_give_each_subscriber_one_copy, |broker| async move {
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut wide = agent.subscribe("a/#").await.unwrap();
    let mut both = agent.subscribe(["a/+", "+/b", "a/b"]).qos(QoS::ExactlyOnce).await.unwrap();
    let mut narrow = agent.subscribe("a/b").await.unwrap();
    for n in 0..50 {
        agent.publish("a/b", n.to_string()).await.unwrap();
    }
    agent.publish("a/end", "end").await.unwrap();
    agent.publish("a/b", "end").await.unwrap();
    for stream in [&mut both, &mut narrow, &mut wide] {
        for n in 0..50 {
            assert_eq!(text(stream).await, n.to_string());
        }
    }
    assert_eq!(text(&mut narrow).await, "end");
});

broker_test!(with_no_local_only_the_messages_of_others_come, |broker| async move {
    let agent = options(&broker.url()).connect().await.unwrap();
    let other = options(&broker.url()).connect().await.unwrap();
    let mut stream = agent.subscribe("a").no_local(true).await.unwrap();
    agent.publish("a", "own").await.unwrap();
    other.publish("a", "other").await.unwrap();
    assert_eq!(text(&mut stream).await, "other");
    let error = agent.subscribe("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(agent.subscribe("$share/g/a").no_local(true).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
});

broker_test!(with_retain_as_published_the_flag_stays, |broker| async move {
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut raw = agent.subscribe("a/+").retain_as_published(true).await.unwrap();
    let mut plain = agent.subscribe("a/b").await.unwrap();
    for retain in [true, false] {
        agent.publish("a/b", retain.to_string()).retain(retain).await.unwrap();
        let message = within(LIMIT, "the message", raw.recv()).await.unwrap().unwrap();
        assert_eq!((message.text().unwrap(), message.is_retained()), (retain.to_string().as_str(), retain));
        let message = within(LIMIT, "the message", plain.recv()).await.unwrap().unwrap();
        assert!(!message.is_retained());
    }
    assert_eq!(
        agent.subscribe("b").retain_as_published(true).retained(Retained::Only).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
});

broker_test!(topics_sent_as_aliases_arrive_in_full_after_a_reconnect_too, |broker| async move {
    let proxy = crate::support::Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).connect().await.unwrap();
    let listener = options(&broker.url()).connect().await.unwrap();
    let mut stream = listener.subscribe("devices/+/telemetry").capacity(4096).await.unwrap();
    for round in 0..2 {
        for n in 0..200 {
            agent.publish(format!("devices/{}/telemetry", n % 5), format!("{round} {n}")).await.unwrap();
            let message = within(LIMIT, "the message", stream.recv()).await.unwrap().unwrap();
            assert_eq!(message.topic().as_str(), format!("devices/{}/telemetry", n % 5));
            assert_eq!(message.text().unwrap(), format!("{round} {n}"));
        }
        proxy.cut().await;
    }
});

#[tokio::test]
async fn an_alias_of_the_broker_is_resolved_and_an_unknown_one_ends_the_connection() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let (stream, ()) = tokio::join!(async { agent.subscribe("a").await }, async {
        let id = peer.expect_subscribe().await.pkid;
        peer.suback(id, &[SubscribeReasonCode::Success(rumqttc::mqttbytes::QoS::AtMostOnce)]).await;
    });
    let mut stream = stream.unwrap();
    peer.send_raw(&[0x30, 8, 0, 1, b'a', 3, 0x23, 0, 1, b'1', 0x30, 7, 0, 0, 3, 0x23, 0, 1, b'2']).await;
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
    peer.send_raw(&[0x30, 7, 0, 0, 3, 0x23, 0, 2, b'3']).await;
    assert_eq!(peer.recv_raw_packet().await, [0xe0, 1, 0x82], "it is told why");
    peer.closed().await;
    let (_peer, _) = server.accept_session(false).await;
    stats(&agent, "a reconnect", |stats| stats.reconnects == 1).await;
}

broker_test!(
    refusals_come_with_their_reason,
    options = BrokerOptions { refused: vec!["secret".into()], ..Default::default() },
    |broker| async move {
        let agent = options(&broker.url()).connect().await.unwrap();
        let error = agent.subscribe("secret/a").await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::SubscribeRefused, Outcome::NotSent));
        assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED));
        // The embedded broker acknowledges what it does not pass on.
        let refusing =
            [QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().filter(|_| broker.kind() == BrokerKind::Mosquitto);
        for qos in refusing {
            let error = agent.publish("secret/a", "x").qos(qos).await.unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::PublishRefused, Outcome::Refused));
            assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED));
        }
        agent.publish("open", "x").await.unwrap();
    }
);

broker_test!(a_request_to_nobody_fails_at_once_where_the_broker_says_so, |broker| async move {
    let agent = options(&broker.url()).connect().await.unwrap();
    // The embedded broker never says it.
    if broker.kind() == BrokerKind::Mosquitto {
        assert_eq!(agent.publish("nobody", "x").await.unwrap(), Delivery::NoSubscribers);
        let call = agent.request("nobody", "x").reply_to("re").timeout(secs(60)).await;
        assert_eq!(call.unwrap_err().kind(), ErrorKind::NoResponders);
    }
    let _somebody = agent.subscribe("somebody").await.unwrap();
    assert_eq!(agent.publish("somebody", "x").await.unwrap(), Delivery::Acknowledged);
});

#[tokio::test]
async fn what_belongs_to_mqtt_5_is_an_error_on_an_earlier_version() {
    let lazy = |options: Options| options.version(Version::V311).connect_lazy();
    let agent = lazy(Options::new("localhost")).unwrap();
    let publish = || agent.publish("a", "x");
    let asked = [
        publish().message_expiry(secs(1)),
        publish().content_type("text/plain"),
        publish().payload_is_utf8(true),
        publish().response_topic("a"),
        publish().correlation_data("x"),
        publish().user_property("a", "b"),
    ];
    for publish in asked {
        assert_eq!(publish.clone().try_send().unwrap_err().kind(), ErrorKind::Unsupported);
        let error = publish.await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::NotSent));
    }
    let error = publish().response_topic("a/#").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidTopic);
    assert_eq!(agent.subscribe("a").no_local(true).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(agent.subscribe("a").retain_as_published(true).await.unwrap_err().kind(), ErrorKind::Unsupported);
    for options in [
        Options::new("localhost").session_expiry(secs(1)),
        Options::new("localhost").last_will(LastWill::new("a", "x").delay(secs(1))),
    ] {
        assert_eq!(lazy(options).unwrap_err().kind(), ErrorKind::InvalidOptions);
    }
}

broker_test!(what_has_expired_is_not_sent, |broker| async move {
    let proxy = crate::support::Proxy::start(broker.addr()).await;
    proxy.refuse(true);
    let agent = options(&proxy.url()).connect_lazy().unwrap();
    let expired = agent.publish("a", "old").message_expiry(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((expired.kind(), expired.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    let listener = Agent::connect(broker.url()).await.unwrap();
    let mut stream = listener.subscribe("a").await.unwrap();
    proxy.refuse(false);
    agent.publish("a", "new").await.unwrap();
    assert_eq!(text(&mut stream).await, "new");
});
