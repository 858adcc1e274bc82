use super::*;
use crate::wire::{Ask, Codec, Output};
use crate::{ErrorKind, Filter, Topic};

fn decode_all(bytes: &[u8]) -> Result<Vec<Inbound>, Error> {
    let mut codec = Codec::new(Version::V5, 1024);
    codec.known = Known::new(2);
    let mut buf = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = codec.decode(&mut buf)? {
        packets.push(packet);
    }
    assert!(buf.is_empty(), "half a packet is left");
    Ok(packets)
}

fn decode_one(bytes: &[u8]) -> Inbound {
    let mut packets = decode_all(bytes).unwrap();
    assert_eq!(packets.len(), 1);
    packets.remove(0)
}

fn encoded(outbound: Outbound<'_>) -> BytesMut {
    let mut output = Output::new(true);
    encode(outbound, &mut Assigned::default(), &mut BytesMut::new(), &mut output);
    output.to_bytes()
}

fn reason(code: u8, text: &str) -> Reason {
    Reason { code: ReasonCode(code), text: Some(text.into()) }
}

#[test]
fn acknowledgements_are_read_in_each_of_their_forms() {
    let plain = |code| Reason::from(ReasonCode(code));
    assert_eq!(decode_one(&[0x40, 2, 0, 7]), Inbound::PubAck { id: 7, reason: plain(0) });
    assert_eq!(decode_one(&[0x40, 3, 0, 7, 0x10]), Inbound::PubAck { id: 7, reason: plain(0x10) });
    assert_eq!(decode_one(&[0x50, 4, 0, 7, 0x97, 0]), Inbound::PubRec { id: 7, reason: plain(0x97) });
    let with_text = [0x40, 9, 0, 7, 0x87, 5, 0x1f, 0, 2, b'n', b'o'];
    assert_eq!(decode_one(&with_text), Inbound::PubAck { id: 7, reason: reason(0x87, "no") });
    assert_eq!(decode_one(&[0x62, 3, 0, 7, 0x92]), Inbound::PubRel(7));
    assert_eq!(decode_one(&[0x70, 2, 0, 7]), Inbound::PubComp(7));
    // A code that is new.
    assert_eq!(decode_one(&[0x40, 3, 0, 7, 0xee]), Inbound::PubAck { id: 7, reason: plain(0xee) });
    assert_eq!(decode_one(&[0xd0, 0]), Inbound::PingResp);
}

#[test]
fn a_suback_grants_and_refuses_filter_by_filter() {
    let granted = |bytes: &[u8]| match decode_one(bytes) {
        Inbound::SubAck { id: 1, granted } => granted,
        other => panic!("{other:?}"),
    };
    let plain = granted(&[0x90, 6, 0, 1, 0, 2, 0x87, 0]);
    assert_eq!(plain, [Ok(QoS::ExactlyOnce), Err(ReasonCode::NOT_AUTHORIZED.into()), Ok(QoS::AtMostOnce)]);
    let with_text = granted(&[0x90, 9, 0, 1, 5, 0x1f, 0, 2, b'n', b'o', 0xf0]);
    assert_eq!(with_text, [Err(reason(0xf0, "no"))]);
    assert!(decode_all(&[0x90, 4, 0, 1, 0, 3]).is_err(), "there is no QoS 3");
    let unsubscribed = Inbound::UnsubAck { id: 1, reasons: vec![ReasonCode::NO_SUBSCRIPTION_EXISTED] };
    assert_eq!(decode_one(&[0xb0, 4, 0, 1, 0, 0x11]), unsubscribed);
}

#[test]
fn a_connack_states_its_terms_and_leaves_the_rest_as_the_protocol_has_it() {
    let accepted = |bytes: &[u8]| match decode_one(bytes) {
        Inbound::ConnAck(Ok(ack)) => *ack,
        other => panic!("{other:?}"),
    };
    let plain = accepted(&[0x20, 3, 0, 0, 0]);
    assert_eq!(plain.terms, Terms::implied(Version::V5, ""));
    let properties = [
        &[0x11, 0xff, 0xff, 0xff, 0xff][..],
        &[0x21, 0, 20],
        &[0x24, 1],
        &[0x25, 0],
        &[0x27, 0, 0, 4, 0],
        &[0x12, 0, 2, b'i', b'd'],
        &[0x22, 0, 10],
        &[0x26, 0, 1, b'a', 0, 1, b'b'],
        &[0x28, 0],
        &[0x29, 0],
        &[0x2a, 0],
        &[0x13, 0, 0],
        &[0x1a, 0, 2, b'r', b'/'],
        &[0x1c, 0, 1, b's'],
        &[0x1f, 0, 2, b'o', b'k'],
        &[0x16, 0, 1, b'd'],
    ]
    .concat();
    let head = [0x20, 3 + properties.len() as u8, 1, 0, properties.len() as u8];
    let ack = accepted(&[&head[..], &properties].concat());
    assert!(ack.session_present);
    assert_eq!(ack.authentication_data, Some(Challenge(Bytes::from_static(b"d"))));
    let expected = Terms {
        session_expiry: Some(Duration::MAX),
        receive_maximum: 20,
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        maximum_packet_size: Some(1024),
        topic_alias_maximum: 10,
        user_properties: vec![("a".into(), "b".into())],
        wildcard_subscriptions_available: false,
        subscription_identifiers_available: false,
        shared_subscriptions_available: false,
        keep_alive: Some(Duration::ZERO),
        response_information: Some("r/".into()),
        server_reference: Some("s".into()),
        reason_string: Some("ok".into()),
        ..Terms::implied(Version::V5, "id")
    };
    assert_eq!(ack.terms, expected);
}

#[test]
fn terms_with_which_nothing_could_be_sent_are_an_error() {
    let decode_terms = |properties: &[u8]| {
        let length = properties.len() as u8;
        decode_all(&[&[0x20, length + 3, 0, 0, length], properties].concat())
    };
    assert!(decode_terms(&[0x21, 0, 1]).is_ok(), "a receive maximum of 1");
    assert!(decode_terms(&[0x21, 0, 0]).is_err(), "a receive maximum of 0");
    assert!(decode_terms(&[0x27, 0, 0, 0, 1]).is_ok(), "a maximum packet size of 1");
    assert!(decode_terms(&[0x27, 0, 0, 0, 0]).is_err(), "a maximum packet size of 0");
}

#[test]
fn a_refusal_brings_its_reason_and_the_other_server_also_in_the_words_of_an_older_broker() {
    let refused = |bytes: &[u8]| match decode_one(bytes) {
        Inbound::ConnAck(Err(refused)) => *refused,
        other => panic!("{other:?}"),
    };
    let moved = refused(&[0x20, 12, 0, 0x9d, 9, 0x1f, 0, 2, b'n', b'o', 0x1c, 0, 1, b's']);
    assert_eq!(moved, Refused { reason: reason(0x9d, "no"), server_reference: Some("s".into()) });
    assert_eq!(refused(&[0x20, 3, 0, 0xee, 0]).reason.code, ReasonCode(0xee));
    assert_eq!(refused(&[0x20, 2, 0, 1]).reason.code, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    assert_eq!(decode_all(&[0x20, 2, 0, 0]).unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn a_disconnect_is_read_with_and_without_reason_and_properties() {
    let disconnect = |bytes: &[u8]| match decode_one(bytes) {
        Inbound::Disconnect(refused) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(disconnect(&[0xe0, 0]).reason.code, ReasonCode::SUCCESS);
    assert_eq!(disconnect(&[0xe0, 1, 0x8e]).reason.code, ReasonCode::SESSION_TAKEN_OVER);
    assert_eq!(disconnect(&[0xe0, 2, 0x8b, 0]).reason.code, ReasonCode::SERVER_SHUTTING_DOWN);
    let full = disconnect(&[0xe0, 11, 0xee, 9, 0x1f, 0, 2, b'n', b'o', 0x1c, 0, 1, b's']);
    assert_eq!(full, Refused { reason: reason(0xee, "no"), server_reference: Some("s".into()) });
}

#[test]
fn an_auth_goes_both_ways() {
    let mut buf = BytesMut::new();
    encode_auth("M", Bytes::from_static(b"yes"), &mut buf);
    assert_eq!(&buf[..], [0xf0, 12, 0x18, 10, 0x15, 0, 1, b'M', 0x16, 0, 3, b'y', b'e', b's']);
    let data = Some(Challenge(Bytes::from_static(b"yes")));
    assert_eq!(decode_one(&buf), Inbound::Auth { code: ReasonCode::CONTINUE_AUTHENTICATION, data });
    assert_eq!(decode_one(&[0xf0, 0]), Inbound::Auth { code: ReasonCode::SUCCESS, data: None });
}

fn full_properties() -> Properties {
    Properties {
        message_expiry: Some(Duration::from_secs(7)),
        content_type: Some("text/plain".into()),
        payload_is_utf8: true,
        response_topic: Some(Topic::new("re/1").unwrap()),
        correlation_data: Some(Bytes::from_static(b"\0\x01")),
        user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
    }
}

#[test]
fn a_publish_comes_back_as_it_went_out_with_all_its_properties() {
    for properties in [None, Some(Box::new(full_properties()))] {
        let (topic, payload) = (Topic::new("température").unwrap(), Bytes::from_static(b"21"));
        let publish = Publish { topic, payload, qos: QoS::AtLeastOnce, retain: true, properties, lenient: false };
        let expiry = publish.properties.as_ref().map(|_| 7);
        let buf = encoded(Outbound::Publish { publish: &publish, id: 9, dup: true, expiry });
        assert!(buf.len() <= super::super::publish_size(&publish, Version::V5));
        let Inbound::Publish(incoming) = decode_one(&buf) else { panic!("no publish") };
        assert_eq!(
            (incoming.topic, incoming.payload, incoming.qos),
            (publish.topic, publish.payload, QoS::AtLeastOnce)
        );
        assert_eq!((incoming.properties, incoming.id), (publish.properties, 9));
        assert!(incoming.retain && incoming.dup);
    }
}

fn message(bytes: &[u8]) -> Incoming {
    match decode_one(bytes) {
        Inbound::Publish(incoming) => incoming,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_payload_begins_where_the_properties_end_however_many_there_are() {
    let three = message(b"\x30\x0b\0\x01a\x06\x0b\x01\x0b\x02\x0b\x03x");
    assert_eq!((three.subscriptions, &three.payload[..]), (vec![1, 2, 3], &b"x"[..]));
    let with_format = message(b"\x30\x0c\0\x01a\x06\x0b\x01\x0b\x02\x01\x01xy");
    assert_eq!((with_format.subscriptions, &with_format.payload[..]), (vec![1, 2], &b"xy"[..]));
    assert!(with_format.properties.unwrap().payload_is_utf8);
    let with_alias = message(b"\x30\x10\0\x01a\x0a\x0b\x01\x0b\x80\x01\x0b\x03\x23\0\x02xy");
    assert_eq!((with_alias.subscriptions, &with_alias.payload[..]), (vec![1, 128, 3], &b"xy"[..]));
    let many = [&[0x30, 0xce, 1, 0, 1, b'a', 0xc8, 1][..], &[0x0b, 7].repeat(100), b"x"].concat();
    let many = message(&many);
    assert_eq!((many.subscriptions, &many.payload[..]), (vec![7; 100], &b"x"[..]));
}

#[test]
fn an_incoming_message_names_its_subscriptions_and_resolves_its_alias() {
    let named = message(&[0x30, 9, 0, 1, b'a', 5, 0x0b, 3, 0x0b, 0x80, 1]);
    assert_eq!((named.subscriptions, named.properties), (vec![3, 128], None));
    let both = decode_all(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 2, 0x30, 6, 0, 0, 3, 0x23, 0, 2]).unwrap();
    let topics: Vec<_> = both
        .iter()
        .map(|packet| match packet {
            Inbound::Publish(incoming) => incoming.topic.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["a", "a"]);
    // A wildcard in it is the other client's fault.
    assert_eq!(message(&[0x30, 8, 0, 1, b'a', 4, 0x08, 0, 1, b'#']).properties, None);
}

#[test]
fn a_message_by_many_subscriptions_keeps_its_properties_and_payload_apart() {
    let publish = |properties: &[u8]| {
        let mut packet = vec![0x30, 5 + properties.len() as u8, 0, 1, b'a', properties.len() as u8];
        packet.extend_from_slice(properties);
        packet.push(b'x');
        match decode_all(&packet) {
            Ok(mut packets) => match packets.remove(0) {
                Inbound::Publish(incoming) => Ok(incoming),
                other => panic!("{other:?}"),
            },
            Err(error) => Err(error.kind()),
        }
    };
    // Five identifiers, one of them of two bytes, then the payload format and a user property.
    let identifiers = [0x0b, 1, 0x0b, 0xac, 2, 0x0b, 2, 0x0b, 3, 0x0b, 4];
    let incoming = publish(&[&identifiers[..], &[0x01, 1, 0x26, 0, 1, b'k', 0, 1, b'v']].concat()).unwrap();
    assert_eq!((incoming.subscriptions, &incoming.payload[..]), (vec![1, 300, 2, 3, 4], &b"x"[..]));
    let properties = incoming.properties.unwrap();
    assert_eq!((properties.payload_is_utf8, properties.user_property("k")), (true, Some("v")));
    // Each of them cut short, a text that is none, and a property that is not one of a message.
    let broken: [&[u8]; 9] = [
        &[0x01],
        &[0x02, 0, 0, 0],
        &[0x03, 0, 2, b'a'],
        &[0x08, 0],
        &[0x09, 0xff, 0xff],
        &[0x0b, 0x80],
        &[0x26, 0, 1, b'k'],
        &[0x03, 0, 1, 0xff],
        &[0x21, 0, 1],
    ];
    for properties in broken {
        assert_eq!(publish(properties).unwrap_err(), ErrorKind::Protocol, "{properties:02x?}");
    }
}

#[test]
fn what_the_protocol_forbids_is_an_error() {
    let bad: &[(&str, &[u8])] = &[
        ("alias 0", &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0]),
        ("an alias over the maximum", &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 3]),
        ("an alias that is unknown", &[0x30, 6, 0, 0, 3, 0x23, 0, 1]),
        ("an empty topic without an alias", &[0x30, 3, 0, 0, 0]),
        ("a topic with a wildcard", &[0x30, 4, 0, 1, b'#', 0]),
        ("a topic with a NUL", &[0x30, 4, 0, 1, 0, 0]),
        ("a publish without a property length", &[0x30, 3, 0, 1, b'a']),
        ("a property of another packet", &[0x30, 9, 0, 1, b'a', 5, 0x11, 0, 0, 0, 1]),
        ("a property that ends beyond the packet", &[0x30, 5, 0, 1, b'a', 5, 0x03]),
        ("a property that ends in the payload", &[0x30, 9, 0, 1, b'a', 3, 0x03, 0, 2, b'x', b'y']),
        ("a number that ends in the payload", &[0x30, 7, 0, 1, b'a', 2, 0x0b, 0x80, 1]),
        ("properties without an end", &[0x30, 7, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff]),
        ("two aliases", &[0x30, 10, 0, 1, b'a', 6, 0x23, 0, 1, 0x23, 0, 1]),
        ("a property that there is not", &[0x30, 6, 0, 1, b'a', 2, 0x7f, 0]),
        ("a content type that is not UTF-8", &[0x30, 8, 0, 1, b'a', 4, 0x03, 0, 1, 0xff]),
        ("a suback whose text ends in its codes", &[0x90, 8, 0, 1, 3, 0x1f, 0, 2, 0, 0]),
        ("a connack that goes on after its properties", &[0x20, 4, 0, 0, 0, 0]),
        ("a connack whose text is longer than its properties", &[0x20, 8, 0, 0, 3, 0x1f, 0, 2, b'n', b'o']),
        ("a puback that goes on after its properties", &[0x40, 5, 0, 7, 0x87, 0, 0]),
        ("a disconnect with authentication data", &[0xe0, 5, 0, 3, 0x16, 0, 0]),
        ("an auth that goes on after its properties", &[0xf0, 3, 0x18, 0, 0]),
        ("a suback without a property length", &[0x90, 2, 0, 1]),
        ("a suback without codes", &[0x90, 3, 0, 1, 0]),
        ("a connack of one byte", &[0x20, 1, 0]),
        ("an acknowledgement with identifier 0", &[0x40, 2, 0, 0]),
        ("a packet that only clients send", &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0]),
        ("a disconnect with flags", &[0xe1, 0]),
        ("a property length without an end", &[0xe0, 6, 0, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ];
    for (what, bytes) in bad {
        assert_eq!(decode_all(bytes).map_err(|error| error.kind()), Err(ErrorKind::Protocol), "{what}");
    }
}

#[test]
fn topics_that_come_again_go_by_their_alias() {
    let mut aliases = Assigned::new(1);
    let publish = Publish {
        topic: Topic::new("devices/42").unwrap(),
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: None,
        lenient: false,
    };
    let mut codec = Codec::new(Version::V5, 1024);
    codec.known = Known::new(1);
    let lengths: Vec<_> = (0..3)
        .map(|_| {
            let mut output = Output::new(true);
            let outbound = Outbound::Publish { publish: &publish, id: 0, dup: false, expiry: None };
            encode(outbound, &mut aliases, &mut BytesMut::new(), &mut output);
            let (length, mut buf) = (output.len(), output.to_bytes());
            let Ok(Some(Inbound::Publish(incoming))) = codec.decode(&mut buf) else { panic!("no publish") };
            assert_eq!(incoming.topic.as_str(), "devices/42");
            length
        })
        .collect();
    assert_eq!(lengths, [15, 18, 8]);
}

#[test]
fn a_subscribe_carries_its_identifier_and_options() {
    let ask = Ask {
        filter: Filter::new("a").unwrap(),
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retained: false,
    };
    let plain = Ask { no_local: false, retain_as_published: false, retained: true, ..ask.clone() };
    let buf = encoded(Outbound::Subscribe { id: 1, identifier: Some(200), filters: &[ask, plain] });
    assert_eq!(buf[..], [0x82, 14, 0, 1, 3, 0x0b, 0xc8, 1, 0, 1, b'a', 0b10_1110, 0, 1, b'a', 0b00_0010]);
}

#[test]
fn a_goodbye_is_as_short_as_it_can_be() {
    assert_eq!(encoded(Outbound::Disconnect(ReasonCode::SUCCESS))[..], [0xe0, 0]);
    assert_eq!(encoded(Outbound::Disconnect(ReasonCode::PROTOCOL_ERROR))[..], [0xe0, 1, 0x82]);
}

#[test]
fn a_connect_says_what_differs_from_the_defaults() {
    let plain = || Connect { client_id: "c", keep_alive: 30, maximum_packet_size: 1, ..Connect::PLAIN };
    let connected = |connect: &Connect<'_>| {
        let mut buf = BytesMut::new();
        encode_connect(connect, &mut buf);
        buf
    };
    let head = |flags: u8| [0, 4, b'M', b'Q', b'T', b'T', 5, flags, 0, 30];
    let expected = [&[0x10, 19][..], &head(2), &[5, 0x27, 0, 0, 0, 1], &[0, 1, b'c']].concat();
    assert_eq!(connected(&plain())[..], expected[..]);
    let user_properties = [("a".to_owned(), "b".to_owned())];
    let full = Connect {
        session_expiry: 60,
        receive_maximum: 10,
        topic_alias_maximum: 16,
        request_response_information: true,
        user_properties: &user_properties,
        authentication: Some(("M", Bytes::from_static(b"d"))),
        ..plain()
    };
    let properties = [
        &[0x11, 0, 0, 0, 60][..],
        &[0x21, 0, 10],
        &[0x27, 0, 0, 0, 1],
        &[0x22, 0, 16],
        &[0x19, 1],
        &[0x26, 0, 1, b'a', 0, 1, b'b'],
        &[0x15, 0, 1, b'M', 0x16, 0, 1, b'd'],
    ]
    .concat();
    let length = properties.len() as u8;
    let expected = [&[0x10, 14 + length][..], &head(2), &[length], &properties, &[0, 1, b'c']].concat();
    assert_eq!(connected(&full)[..], expected[..]);
}

#[test]
fn a_will_carries_its_properties_and_delay() {
    let will = Publish {
        topic: Topic::new("w").unwrap(),
        payload: Bytes::from_static(b"x"),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Some(Box::new(Properties { content_type: Some("t".into()), ..Properties::default() })),
        lenient: false,
    };
    let connect = Connect { last_will: Some(&will), will_delay: 5, maximum_packet_size: 1, ..Connect::PLAIN };
    let mut buf = BytesMut::new();
    encode_connect(&connect, &mut buf);
    let tail = [9, 0x18, 0, 0, 0, 5, 0x03, 0, 1, b't', 0, 1, b'w', 0, 1, b'x'];
    assert_eq!(buf[buf.len() - tail.len()..], tail);
}
