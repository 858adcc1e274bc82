//! What only MQTT 5 has.

use super::*;

mod requesting;
mod subscribing;

type Bench = super::Bench<5>;

fn publish_command<const LEVEL: u8>(
    bench: &super::Bench<LEVEL>,
    publish: wire::Publish,
) -> (Publish, Answer<Delivery>) {
    let (reply, answer) = Reply::channel();
    let deadline = Some(bench.now + LONG);
    let reply = Some(reply);
    (Publish { publish, expires: None, offline: Offline::Wait, deadline, reply, share: None }, answer)
}

#[test]
fn no_more_than_the_receive_maximum_is_unacknowledged_also_when_it_shrinks() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms { receive_maximum: 3, ..terms });
    let _answers: Vec<_> = (0..5).map(|n| bench.publish(&n.to_string(), QOS1)).collect();
    assert_eq!(bench.sent().len(), 3);
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { receive_maximum: 1, ..terms });
    assert_eq!(bench.sent(), [published("0", QOS1, 1, true)]);
    bench.receive(puback(1));
    assert_eq!(bench.sent(), [published("1", QOS1, 2, true)]);
    bench.receive(puback(2));
    assert_eq!(bench.sent(), [published("2", QOS1, 3, true)]);
    bench.receive(puback(3));
    assert_eq!(bench.sent(), [published("3", QOS1, 1, false)]);
}

#[test]
fn the_keep_alive_of_the_broker_counts_and_zero_switches_it_off() {
    let mut bench = Bench::with(|options| options.keep_alive(60 * SECOND));
    bench.connect_with(false, |terms| Terms { keep_alive: Some(5 * SECOND), ..terms });
    bench.advance(5 * SECOND);
    assert_eq!(bench.write(usize::MAX), [Sent::PingReq]);
    bench.lose_connection();
    bench.connect_with(false, |terms| Terms { keep_alive: Some(Duration::ZERO), ..terms });
    bench.advance(LONG);
    assert_eq!(bench.sent(), []);
}

#[test]
fn what_the_broker_does_not_take_fails_unsent() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms {
        maximum_qos: QOS1,
        retain_available: false,
        maximum_packet_size: Some(100),
        ..terms
    });
    let plain = || wire_publish("t", "x".into(), QOS1);
    let cases = [
        (wire::Publish { qos: QOS2, ..plain() }, ErrorKind::Unsupported),
        (wire::Publish { retain: true, ..plain() }, ErrorKind::Unsupported),
        (wire::Publish { payload: vec![0; 100].into(), ..plain() }, ErrorKind::TooLarge),
    ];
    for (publish, kind) in cases {
        let (command, mut receiver) = publish_command(&bench, publish);
        bench.command(Command::Publish(command));
        assert_eq!(bench.sent(), []);
        assert_eq!(fails(&mut receiver), (kind, Outcome::NotSent));
    }
    bench.has_nothing();
}

#[test]
fn a_message_that_no_longer_fits_is_not_repeated_and_its_identifier_is_free() {
    let mut bench = Bench::connected();
    let mut large = bench.publish(&"x".repeat(200), QOS1);
    let mut small = bench.publish("y", QOS1);
    bench.sent();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(100), ..terms });
    assert_eq!(bench.sent(), [published("y", QOS1, 2, true)]);
    assert_eq!(fails(&mut large), (ErrorKind::TooLarge, Outcome::Unknown));
    bench.receive(puback(2));
    answered(&mut small).unwrap();
    bench.has_nothing();
}

#[test]
fn properties_on_a_connection_of_an_earlier_version_are_an_error_and_not_dropped() {
    let mut bench = super::Bench::<4>::new();
    bench.connect(false);
    let properties = Some(Box::new(Properties { content_type: Some("text/plain".into()), ..Properties::default() }));
    let publish = wire::Publish { properties, ..wire_publish("t", "x".into(), QOS1) };
    let (command, mut receiver) = publish_command(&bench, publish);
    bench.command(Command::Publish(command));
    assert_eq!(bench.sent(), []);
    assert_eq!(answered(&mut receiver).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn the_expiry_on_the_wire_is_what_is_left_of_it() {
    let mut bench = Bench::new();
    let (command, _receiver) = publish_command(&bench, wire_publish("t", "x".into(), QOS1));
    bench.command(Command::Publish(Publish { expires: Some(bench.now + 60 * SECOND), ..command }));
    bench.advance(20 * SECOND);
    bench.connect(false);
    bench.sent();
    assert_eq!(bench.carried[0].properties.message_expiry, Some(40 * SECOND));
    bench.lose_connection();
    bench.advance(Duration::from_millis(29_500));
    bench.connect(true);
    assert_eq!(bench.sent(), [published("x", QOS1, 1, true)]);
    assert_eq!(bench.carried[1].properties.message_expiry, Some(11 * SECOND), "rounded up");
}

#[test]
fn a_message_that_nobody_is_subscribed_to_says_so() {
    let mut bench = Bench::connected();
    let none = || Reason::from(ReasonCode::NO_MATCHING_SUBSCRIBERS);
    let (mut one, mut two) = (bench.publish("1", QOS1), bench.publish("2", QOS2));
    bench.sent();
    bench.receive(Inbound::PubAck { id: 1, reason: none() });
    assert_eq!(answered(&mut one).unwrap(), Delivery::NoSubscribers);
    bench.receive(Inbound::PubRec { id: 2, reason: none() });
    bench.sent();
    bench.receive(Inbound::PubComp(2));
    assert_eq!(answered(&mut two).unwrap(), Delivery::NoSubscribers);
    let (_, mut call) = bench.request("q", "r");
    bench.grant_all();
    assert_eq!(bench.sent(), [requested("q", 2, false)]);
    bench.receive(Inbound::PubAck { id: 2, reason: none() });
    assert_eq!(fails(&mut call), (ErrorKind::NoResponders, Outcome::Refused));
}

#[test]
fn refusals_bring_the_reason_and_the_words_of_the_broker() {
    let mut bench = Bench::connected();
    let reason = || Reason { code: ReasonCode::NOT_AUTHORIZED, text: Some("not you".into()) };
    let check = |error: Error, kind| {
        assert_eq!((error.kind(), error.reason_code()), (kind, Some(ReasonCode::NOT_AUTHORIZED)));
        assert!(error.to_string().contains("not you"), "{error}");
    };
    let mut publish = bench.publish("x", QOS1);
    bench.sent();
    bench.receive(Inbound::PubAck { id: 1, reason: reason() });
    check(answered(&mut publish).unwrap_err(), ErrorKind::PublishRefused);
    let mut feed = bench.subscribe(&["f"]);
    bench.sent();
    bench.receive(Inbound::SubAck { id: 1, granted: vec![Err(reason())] });
    check(answered(&mut feed).unwrap_err(), ErrorKind::SubscribeRefused);
    let refused = Refused { reason: reason(), server_reference: Some("elsewhere:1883".into()) };
    let error = bench.session.handle_inbound(Inbound::Disconnect(refused), bench.now).unwrap_err();
    assert_eq!(error.server_reference(), Some("elsewhere:1883"));
    check(error, ErrorKind::Disconnected);
}

#[test]
fn properties_that_nobody_asked_for_by_name_are_left_out_where_the_version_has_none() {
    let mut bench = super::Bench::<4>::new();
    bench.connect(false);
    let properties = Some(Box::new(Properties { content_type: Some("text/plain".into()), ..Properties::default() }));
    let publish = wire::Publish { properties, lenient: true, ..wire_publish("t", "x".into(), QOS1) };
    let (command, mut receiver) = publish_command(&bench, publish);
    bench.command(Command::Publish(command));
    assert_eq!(bench.sent(), [published("x", QOS1, 1, false)]);
    bench.receive(puback(1));
    answered(&mut receiver).unwrap();
}

#[test]
fn a_qos_2_message_that_was_given_up_is_not_sent_to_a_broker_that_has_forgotten_it() {
    let mut bench = Bench::connected();
    let mut large = bench.publish(&"x".repeat(200), QOS2);
    bench.sent();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(100), ..terms });
    assert_eq!(bench.sent(), [Sent::PubRel(1)]);
    assert_eq!(fails(&mut large), (ErrorKind::TooLarge, Outcome::Unknown));
    bench.lose_connection();
    bench.connect(false);
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}

#[test]
fn a_filter_that_no_longer_fits_is_not_unsubscribed_and_its_caller_is_told() {
    let mut bench = Bench::connected();
    let long = "x".repeat(100);
    let mut feed = bench.subscribe(&[&long]);
    bench.grant_all();
    let feed = answered(&mut feed).unwrap();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(64), ..terms });
    let mut gone = feed.guard.unsubscribe();
    assert_eq!(bench.sent(), []);
    assert_eq!(answered(&mut gone).unwrap_err().kind(), ErrorKind::UnsubscribeRefused);
    drop(feed);
    bench.take_notices();
    bench.has_nothing();
}

#[test]
fn what_a_connection_cannot_carry_keeps_no_filter_behind_it_back() {
    let mut bench = Bench::connected();
    let (mut gone, long) = (bench.subscribe(&["gone"]), "x".repeat(100));
    bench.grant_all();
    let gone = answered(&mut gone).unwrap();
    bench.lose_connection();
    let mut too_long = bench.subscribe(&[&long]);
    drop(gone);
    bench.take_notices();
    let _wanted = bench.subscribe(&["wanted"]);
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(64), ..terms });
    bench.transmit();
    let sent: Vec<_> = bench.unwritten.iter().map(|(packet, _)| packet.clone()).collect();
    assert!(matches!(sent[..], [Sent::Unsubscribe(..), Sent::Subscribe(..)]), "{sent:?}");
    assert_eq!(answered(&mut too_long).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn what_the_broker_may_hold_from_an_earlier_connection_is_unsubscribed_where_it_cannot_be_asked_for() {
    let mut bench = Bench::connected();
    let mut wild = bench.subscribe(&["+"]);
    bench.sent();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { wildcard_subscriptions_available: false, ..terms });
    assert!(matches!(&bench.sent()[..], [Sent::Unsubscribe(_, filters)] if filters == &["+"]));
    assert_eq!(answered(&mut wild).unwrap_err().kind(), ErrorKind::Unsupported);
}
