//! Publish: when it resolves, and what its errors say.

use futures::StreamExt;
use mqtt_agent::{Agent, Delivery, QoS};

use crate::support::broker_test;

broker_test!(a_publish_resolves_when_the_broker_has_it_and_a_subscriber_gets_it, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe("a/+").qos(QoS::ExactlyOnce).await.unwrap();
    for (qos, delivery) in [
        (QoS::AtMostOnce, Delivery::Sent),
        (QoS::AtLeastOnce, Delivery::Acknowledged),
        (QoS::ExactlyOnce, Delivery::Completed),
    ] {
        assert_eq!(agent.publish("a/b", "hello").qos(qos).await.unwrap(), delivery);
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message.topic(), "a/b");
        assert_eq!(message.text().unwrap(), "hello");
        assert_eq!(message.qos(), qos);
    }
});
