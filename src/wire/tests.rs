use super::*;
use crate::Refusal;

fn decode_all(bytes: &[u8], limit: usize) -> Result<Vec<Inbound>, Error> {
    let mut codec = Codec::new(Version::V311, limit);
    let mut buf = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = codec.decode(&mut buf)? {
        packets.push(packet);
    }
    Ok(packets)
}

fn encode_publish(topic: &str, payload: &[u8], qos: QoS, id: PacketId) -> BytesMut {
    let topic = Topic::new(topic).unwrap();
    let payload = Bytes::copy_from_slice(payload);
    let publish = Publish { topic, payload, qos, retain: false, properties: None, lenient: false };
    let mut output = Output::new(true);
    let mut codec = Codec::new(Version::V311, 1024);
    codec.encode(Outbound::Publish { publish: &publish, id, dup: false, expiry: None }, &mut output);
    assert_eq!(output.len(), publish_size(&publish, Version::V311));
    output.to_bytes()
}

#[test]
fn a_publish_comes_back_as_it_went_out() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let id = if qos == QoS::AtMostOnce { 0 } else { 7 };
        let bytes = encode_publish("température/é", b"21.5", qos, id);
        let topic = Topic::new("température/é").unwrap();
        let payload = Bytes::from_static(b"21.5");
        let expected = peer::plain(topic, payload, qos, id);
        assert_eq!(decode_all(&bytes, 1024).unwrap(), [Inbound::Publish(expected)]);
    }
}

#[test]
fn one_byte_at_a_time_gives_the_same_packets() {
    let mut bytes = encode_publish("a/b", &[7; 300], QoS::AtLeastOnce, 1);
    bytes.extend_from_slice(&[0xd0, 0, 0x40, 2, 0, 9]);
    let whole = decode_all(&bytes, 1024).unwrap();
    assert_eq!(whole.len(), 3);
    let mut codec = Codec::new(Version::V311, 1024);
    let mut buf = BytesMut::new();
    let mut packets = Vec::new();
    for byte in bytes {
        buf.extend_from_slice(&[byte]);
        packets.extend(codec.decode(&mut buf).unwrap());
    }
    assert_eq!(packets, whole);
}

#[test]
fn an_oversized_message_is_skipped_and_the_next_packet_read() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let id = if qos == QoS::AtMostOnce { 0 } else { 3 };
        let mut bytes = encode_publish("big", &[1; 5000], qos, id);
        let size = bytes.len();
        bytes.extend_from_slice(&[0xd0, 0]);
        let expected = [Inbound::Oversized { qos, id, size }, Inbound::PingResp];
        assert_eq!(decode_all(&bytes, 100).unwrap(), expected);

        let mut codec = Codec::new(Version::V311, 100);
        let mut buf = BytesMut::new();
        let mut packets = Vec::new();
        for byte in &bytes {
            buf.extend_from_slice(&[*byte]);
            packets.extend(codec.decode(&mut buf).unwrap());
            assert!(buf.len() < 16, "nothing of the payload is kept");
        }
        assert_eq!(packets, expected);
    }
}

#[test]
fn what_is_not_mqtt_is_an_error() {
    let bad: &[(&str, &[u8])] = &[
        ("remaining length of five bytes", &[0x30, 0xff, 0xff, 0xff, 0xff, 1]),
        ("packet type 0", &[0x00, 0]),
        ("packet type 15", &[0xf0, 0]),
        ("a packet only clients send", &[0x82, 6, 0, 1, 0, 1, b'a', 0]),
        ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
        ("packet identifier 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
        ("topic with a wildcard", &[0x30, 3, 0, 1, b'#']),
        ("topic with a NUL", &[0x30, 3, 0, 1, 0]),
        ("empty topic", &[0x30, 2, 0, 0]),
        ("topic that is not UTF-8", &[0x30, 3, 0, 1, 0xff]),
        ("topic longer than the packet", &[0x30, 3, 0, 9, b'a']),
        ("PUBACK without an identifier", &[0x40, 0]),
        ("PUBACK of one byte", &[0x40, 1, 0]),
        ("PUBACK with identifier 0", &[0x40, 2, 0, 0]),
        ("PUBREC of one byte", &[0x50, 1, 0]),
        ("PUBREL with wrong flags", &[0x60, 2, 0, 1]),
        ("SUBACK with an unknown code", &[0x90, 3, 0, 1, 7]),
        ("SUBACK without codes", &[0x90, 2, 0, 1]),
        ("a SUBACK larger than any SUBSCRIBE asks for", &[0x90, 0xff, 0x7f]),
        ("topic longer than a packet over the limit", &[0x32, 0x81, 0x08, 0xff, 0xff]),
    ];
    for (what, bytes) in bad {
        assert!(decode_all(bytes, 1024).is_err(), "{what}");
    }
}

#[test]
fn the_limit_on_messages_leaves_answers_alone() {
    assert!(decode_all(&[0x20, 2, 0, 0], 1).is_ok());
    assert_eq!(decode_all(&[0x90, 4, 0, 1, 0, 1], 1).unwrap().len(), 1);
}

#[test]
fn an_acknowledgement_may_carry_the_reason_of_a_later_version() {
    let refused = |bytes: &[u8]| decode_all(bytes, 1024).unwrap();
    let reason = |code| Reason::from(ReasonCode(code));
    assert_eq!(refused(&[0x40, 2, 0, 1]), [Inbound::PubAck { id: 1, reason: reason(0) }]);
    assert_eq!(refused(&[0x40, 3, 0, 1, 0x10]), [Inbound::PubAck { id: 1, reason: reason(0x10) }]);
    assert_eq!(refused(&[0x40, 4, 0, 1, 0x87, 0]), [Inbound::PubAck { id: 1, reason: reason(0x87) }]);
    assert_eq!(refused(&[0x50, 3, 0, 1, 0x97]), [Inbound::PubRec { id: 1, reason: reason(0x97) }]);
    assert_eq!(refused(&[0x70, 4, 0, 1, 0x92, 0]), [Inbound::PubComp(1)]);
}

#[test]
fn every_refusal_of_a_connection_has_a_name() {
    let refusal = |code| match decode_all(&[0x20, 2, 0, code], 1024).unwrap().remove(0) {
        Inbound::ConnAck(Err(refused)) => Refusal::from(refused.reason.code),
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(1), Refusal::UnacceptableProtocolVersion);
    assert_eq!(refusal(2), Refusal::IdentifierRejected);
    assert_eq!(refusal(3), Refusal::ServerUnavailable);
    assert_eq!(refusal(4), Refusal::BadUserNameOrPassword);
    assert_eq!(refusal(5), Refusal::NotAuthorized);
    assert_eq!(refusal(200), Refusal::Other(ReasonCode(200)));
    // A length of two, in two bytes.
    let long = decode_all(&[0x20, 0x82, 0, 9, 0, 0x20, 0x82, 0, 0, 9], 1024).unwrap();
    let [Inbound::ConnAck(Ok(_)), Inbound::ConnAck(Err(refused))] = &long[..] else { panic!("{long:?}") };
    assert_eq!(refused.reason.code, ReasonCode(9));
}

#[test]
fn connect_speaks_each_version() {
    let will = Publish {
        topic: Topic::new("w").unwrap(),
        payload: Bytes::from_static(b"x"),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: None,
        lenient: false,
    };
    let connect = Connect {
        client_id: "c",
        clean_session: true,
        keep_alive: 30,
        username: Some("u"),
        password: Some("p"),
        last_will: Some(&will),
        ..Connect::PLAIN
    };
    let rest = [0xee, 0, 30, 0, 1, b'c', 0, 1, b'w', 0, 1, b'x', 0, 1, b'u', 0, 1, b'p'];
    for (version, head) in [
        (Version::V311, &[0x10, 25, 0, 4, b'M', b'Q', b'T', b'T', 4][..]),
        (Version::V31, &[0x10, 27, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3][..]),
    ] {
        let mut buf = BytesMut::new();
        Codec::new(version, 1024).encode_connect(&connect, &mut buf);
        assert_eq!(buf, [head, &rest].concat());
    }
}

#[test]
fn no_payload_and_no_authentication_data_is_shown_by_debug() {
    let (topic, payload) = (Topic::new("a").unwrap(), Bytes::from_static(b"hunter2"));
    let incoming = peer::plain(topic.clone(), payload.clone(), QoS::AtMostOnce, 0);
    let publish = Publish { topic, payload, qos: QoS::AtMostOnce, retain: false, properties: None, lenient: false };
    let outbound = Outbound::Publish { publish: &publish, id: 0, dup: false, expiry: None };
    let shown = format!("{:?} {outbound:?}", Inbound::Publish(incoming));
    assert!(!shown.contains("hunter2") && shown.contains("payload_bytes: 7"), "{shown}");
    let data = Some(Challenge(Bytes::from_static(b"hunter2")));
    let shown = format!("{:?}", Inbound::Auth { code: ReasonCode::SUCCESS, data });
    assert!(!shown.contains("hunter2") && shown.contains("bytes: 7"), "{shown}");
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    /// Packets of any type and length, of which not all comes, so that a next one begins in the middle.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let packet = (any::<u8>(), 0_usize..400_000, any::<[u8; 6]>(), 0_usize..400_000).prop_map(
            |(first, remaining, body, sent)| {
                let mut bytes = BytesMut::new();
                bytes.put_u8(first);
                put_length(remaining, &mut bytes);
                bytes.extend(body.into_iter().cycle().take(remaining.min(sent)));
                bytes.to_vec()
            },
        );
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..600),
            proptest::collection::vec(packet, 1..4).prop_map(|packets| packets.concat()),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_are_held_beyond_the_limit(
            bytes in packets(),
            size in 1_usize..70_000,
            is_v5 in any::<bool>(),
        ) {
            const LIMIT: usize = 64;
            let (version, max_answer) =
                if is_v5 { (Version::V5, MAX_ANSWER_V5) } else { (Version::V311, MAX_ANSWER) };
            // Of a message that is too large, the topic and the identifier are needed.
            let most = 5 + max_answer.max(2 + usize::from(u16::MAX) + 2).max(LIMIT);
            let mut codec = Codec::new(version, LIMIT);
            let mut buf = BytesMut::new();
            for chunk in bytes.chunks(size) {
                buf.extend_from_slice(chunk);
                loop {
                    match codec.decode(&mut buf) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(buf.len() <= most, "{version:?}: {} bytes are held", buf.len());
            }
        }
    }
}
