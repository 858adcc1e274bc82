//! The floor under every call: one write and one read on a blocking socket, with no client in between.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::contender::{QoS, PAYLOAD};

const TOPIC: &str = "dev/0/rpc";
const REPLY_TOPIC: &str = "dev/0/rpc/res";

pub(crate) struct Floor {
    pub(crate) socket: TcpStream,
    pub(crate) request: Vec<u8>,
    /// As long as what comes back.
    pub(crate) reply: Vec<u8>,
}

impl Floor {
    pub(crate) fn connect(broker: SocketAddr, qos: QoS) -> Self {
        let mut socket = TcpStream::connect(broker).expect("the broker listens");
        socket.set_nodelay(true).expect("a TCP socket");
        // Protocol level 4, clean session, keep alive 60 s, client id "floor".
        socket.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3C\x00\x05floor").expect("CONNECT");
        socket.read_exact(&mut [0; 4]).expect("CONNACK");

        let (flags, id, ack): (u8, &[u8], usize) = match qos {
            QoS::AtMostOnce => (0x30, &[], 0),
            QoS::AtLeastOnce => (0x32, &[0, 1], 4),
        };
        let request = publish(flags, TOPIC, id);
        let reply = vec![0; ack + publish(0x30, REPLY_TOPIC, &[]).len()];
        Self { socket, request, reply }
    }

    pub(crate) fn call(&mut self) {
        self.socket.write_all(&self.request).expect("PUBLISH");
        self.socket.read_exact(&mut self.reply).expect("the reply");
    }

    pub(crate) fn calls(&mut self, count: usize) -> Vec<Duration> {
        let one = |_| {
            let start = Instant::now();
            self.call();
            start.elapsed()
        };
        (0..count).map(one).collect()
    }
}

fn publish(flags: u8, topic: &str, id: &[u8]) -> Vec<u8> {
    let length = 2 + topic.len() + id.len() + PAYLOAD.len();
    let mut packet = vec![flags, u8::try_from(length).expect("a short packet")];
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(id);
    packet.extend_from_slice(&PAYLOAD);
    packet
}
