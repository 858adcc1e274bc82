use super::*;

fn feed(bench: &mut Bench) -> Feed {
    let mut feed = bench.subscribe_as(&["#"], QOS2, Retained::IfFirst);
    assert_eq!(bench.sent(), [subscribed(1, &[("#", QOS2)])]);
    bench.grant(1, &[QOS2]);
    answered(&mut feed).unwrap()
}

fn taken(feed: &mut Feed) -> Vec<String> {
    std::iter::from_fn(|| feed.events.try_recv().ok()).map(|event| event.unwrap().text().unwrap().to_owned()).collect()
}

#[test]
fn each_quality_of_service_is_acknowledged_in_its_way_and_in_order() {
    let mut bench = Bench::connected();
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "0", QOS0, 0);
    bench.receive_publish("t", "1", QOS1, 5);
    bench.receive_publish("t", "2", QOS2, 6);
    bench.receive_publish("t", "3", QOS1, 7);
    assert_eq!(taken(&mut feed), ["0", "1", "2", "3"]);
    assert_eq!(bench.sent(), [Sent::PubAck(5), Sent::PubRec(6), Sent::PubAck(7)]);
    bench.receive(Inbound::PubRel(6));
    assert_eq!(bench.sent(), [Sent::PubComp(6)]);
    bench.session.receiving.assert_empty();
}

#[test]
fn a_qos_2_message_is_delivered_once_however_often_it_comes() {
    let mut bench = Bench::connected();
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "x", QOS2, 6);
    bench.receive_publish("t", "x", QOS2, 6);
    bench.lose_connection();
    // The acknowledgements of the old connection are not sent on the next.
    bench.connect(true);
    assert_eq!(bench.sent(), []);
    bench.receive_publish("t", "x", QOS2, 6);
    assert_eq!(bench.sent(), [Sent::PubRec(6)]);
    bench.receive(Inbound::PubRel(6));
    bench.receive(Inbound::PubRel(6));
    assert_eq!(bench.sent(), [Sent::PubComp(6), Sent::PubComp(6)]);
    assert_eq!(taken(&mut feed), ["x"]);
    // Released, the identifier stands for another message.
    bench.receive_publish("t", "y", QOS2, 6);
    assert_eq!(taken(&mut feed), ["y"]);
    // A broker that forgot the session starts its identifiers anew.
    bench.lose_connection();
    bench.connect(false);
    bench.receive_publish("t", "z", QOS2, 6);
    assert_eq!(taken(&mut feed), ["z"]);
}

#[test]
fn an_oversized_message_is_acknowledged_and_counted() {
    let mut bench = Bench::connected();
    bench.receive(Inbound::Oversized { qos: QOS1, id: 3, size: 1 << 24 });
    bench.receive(Inbound::Oversized { qos: QOS2, id: 4, size: 1 << 24 });
    bench.receive(Inbound::Oversized { qos: QOS2, id: 4, size: 1 << 24 });
    bench.receive(Inbound::Oversized { qos: QOS0, id: 0, size: 1 << 24 });
    assert_eq!(bench.sent(), [Sent::PubAck(3), Sent::PubRec(4), Sent::PubRec(4)]);
    assert_eq!(bench.session.counters.snapshot().oversized, 3);
}

#[test]
fn a_peer_that_never_reads_is_not_read_from_for_ever() {
    let mut bench = Bench::connected();
    let mut received = 0_u32;
    while bench.session.wants_read() {
        bench.receive_publish("t", "x", QOS1, (received % 65_535 + 1) as PacketId);
        received += 1;
    }
    assert!(received < 100_000);
    bench.sent();
    assert!(bench.session.wants_read());
    bench.session.receiving.assert_empty();
}

#[test]
fn a_second_connack_ends_the_connection() {
    let mut bench = Bench::connected();
    let terms = Terms::implied(Version::V311, "");
    let connack = wire::ConnAck { session_present: false, terms, authentication_data: None };
    let connack = Inbound::ConnAck(Ok(Box::new(connack)));
    assert!(bench.session.handle_inbound(connack, bench.now).is_err());
}
