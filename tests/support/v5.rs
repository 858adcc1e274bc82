//! MQTT 5 in the words of 3.1.1, so that one script serves both: what a client sends is read as the packet of 3.1.1 that
//! says the same, and what the script sends is written as one of MQTT 5. Properties are left out.

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::mqttbytes::{self, Protocol, QoS};
use rumqttc::v5::mqttbytes::v5;
use rumqttc::v5::mqttbytes::{self as mqttbytes5, Error};

/// Takes the next whole packet out of `buf`.
pub fn read(buf: &mut BytesMut) -> Result<v4::Packet, Error> {
    // The codec does not take a DISCONNECT without a reason.
    if buf.starts_with(&[0xe0, 0]) {
        let _ = buf.split_to(2);
        return Ok(v4::Packet::Disconnect);
    }
    if buf.first() == Some(&0xe0) && buf.len() >= 3 && buf[1] == 1 {
        let packet = buf.split_to(3);
        assert_eq!(packet[2], 0, "a DISCONNECT that says more than one of 3.1.1: {:#04x}", packet[2]);
        return Ok(v4::Packet::Disconnect);
    }
    Ok(match v5::Packet::read(buf, None)? {
        v5::Packet::Connect(connect, last_will, login) => v4::Packet::Connect(connect_to_v4(connect, last_will, login)),
        v5::Packet::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: qos_to_v4(publish.qos),
            retain: publish.retain,
            topic: text(&publish.topic),
            pkid: publish.pkid,
            payload: publish.payload,
        }),
        v5::Packet::PubAck(ack) => v4::Packet::PubAck(v4::PubAck::new(ack.pkid)),
        v5::Packet::PubRec(ack) => v4::Packet::PubRec(v4::PubRec::new(ack.pkid)),
        v5::Packet::PubRel(ack) => v4::Packet::PubRel(v4::PubRel::new(ack.pkid)),
        v5::Packet::PubComp(ack) => v4::Packet::PubComp(v4::PubComp::new(ack.pkid)),
        v5::Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.into_iter();
            let filters = filters.map(|filter| v4::SubscribeFilter::new(filter.path, qos_to_v4(filter.qos)));
            v4::Packet::Subscribe(v4::Subscribe { pkid: subscribe.pkid, filters: filters.collect() })
        }
        v5::Packet::Unsubscribe(unsubscribe) => {
            v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: unsubscribe.pkid, topics: unsubscribe.filters })
        }
        v5::Packet::PingReq(_) => v4::Packet::PingReq,
        other => panic!("a client does not send {other:?}"),
    })
}

fn connect_to_v4(connect: v5::Connect, last_will: Option<v5::LastWill>, login: Option<v5::Login>) -> v4::Connect {
    v4::Connect {
        protocol: Protocol::V5,
        keep_alive: connect.keep_alive,
        client_id: connect.client_id,
        clean_session: connect.clean_start,
        last_will: last_will.map(|will| v4::LastWill {
            topic: text(&will.topic),
            message: will.message,
            qos: qos_to_v4(will.qos),
            retain: will.retain,
        }),
        login: login.map(|login| v4::Login { username: login.username, password: login.password }),
    }
}

/// Writes what `packet` says.
pub fn write(packet: v4::Packet, buf: &mut BytesMut) {
    let packet = match packet {
        v4::Packet::ConnAck(ack) => {
            // The codec has no public way to make one with the code of 3.1.1.
            let code = match ack.code {
                v4::ConnectReturnCode::Success => 0,
                v4::ConnectReturnCode::RefusedProtocolVersion => 0x84,
                v4::ConnectReturnCode::BadClientId => 0x85,
                v4::ConnectReturnCode::ServiceUnavailable => 0x88,
                v4::ConnectReturnCode::BadUserNamePassword => 0x86,
                v4::ConnectReturnCode::NotAuthorized => 0x87,
            };
            return buf.put_slice(&[0x20, 3, u8::from(ack.session_present), code, 0]);
        }
        v4::Packet::Publish(publish) => v5::Packet::Publish(v5::Publish {
            dup: publish.dup,
            qos: qos_to_v5(publish.qos),
            retain: publish.retain,
            topic: Bytes::from(publish.topic),
            pkid: publish.pkid,
            payload: publish.payload,
            properties: None,
        }),
        v4::Packet::PubAck(ack) => v5::Packet::PubAck(v5::PubAck::new(ack.pkid, None)),
        v4::Packet::PubRec(ack) => v5::Packet::PubRec(v5::PubRec::new(ack.pkid, None)),
        v4::Packet::PubRel(ack) => v5::Packet::PubRel(v5::PubRel::new(ack.pkid, None)),
        v4::Packet::PubComp(ack) => v5::Packet::PubComp(v5::PubComp::new(ack.pkid, None)),
        v4::Packet::SubAck(ack) => v5::Packet::SubAck(v5::SubAck {
            pkid: ack.pkid,
            return_codes: ack
                .return_codes
                .into_iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => v5::SubscribeReasonCode::Success(qos_to_v5(qos)),
                    v4::SubscribeReasonCode::Failure => v5::SubscribeReasonCode::Unspecified,
                })
                .collect(),
            properties: None,
        }),
        v4::Packet::UnsubAck(ack) => {
            // One success; the agents under test ask for one filter where the answer matters.
            return buf.put_slice(&[0xb0, 4, (ack.pkid >> 8) as u8, ack.pkid as u8, 0, 0]);
        }
        v4::Packet::PingResp => v5::Packet::PingResp(v5::PingResp),
        other => panic!("a broker does not send {other:?}"),
    };
    packet.write(buf, None).expect("a packet that can be written");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn qos_to_v4(qos: mqttbytes5::QoS) -> QoS {
    mqttbytes::qos(qos as u8).expect("a QoS")
}

fn qos_to_v5(qos: QoS) -> mqttbytes5::QoS {
    mqttbytes5::qos(qos as u8).expect("a QoS")
}
