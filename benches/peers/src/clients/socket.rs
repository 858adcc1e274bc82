//! The floor: a blocking socket with no client in between. It writes what was encoded before, and looks at nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rustls::{ClientConnection, StreamOwned};

use super::{Client, Device};
use crate::endpoint::Endpoint;
use crate::tls::client_config;

pub(crate) struct Socket(Mutex<Box<dyn Line>>);

trait Line: Read + Write + Send {}

impl<L: Read + Write + Send> Line for L {}

/// Protocol level 4, clean session, no keep alive, client id "floor".
pub(super) const CONNECT: &[u8] = b"\x10\x11\0\x04MQTT\x04\x02\0\0\0\x05floor";
/// To "dev/0/rpc/res", at QoS 0.
pub(super) const SUBSCRIBE: &[u8] = b"\x82\x12\0\x01\0\x0Ddev/0/rpc/res\0";
const BATCH: usize = 64 * 1024;

impl Client for Socket {
    async fn connect(broker: &Endpoint) -> Self {
        let socket = TcpStream::connect(broker.address).expect("the broker listens");
        socket.set_nodelay(true).expect("a TCP socket");
        let mut socket: Box<dyn Line> = match &broker.ca {
            Some(ca) => {
                let name = broker.address.ip().into();
                let connection = ClientConnection::new(client_config(ca), name).expect("a valid configuration");
                Box::new(StreamOwned::new(connection, socket))
            }
            None => Box::new(socket),
        };
        socket.write_all(CONNECT).expect("CONNECT");
        socket.read_exact(&mut [0; 4]).expect("CONNACK");
        socket.write_all(SUBSCRIBE).expect("SUBSCRIBE");
        socket.read_exact(&mut [0; 5]).expect("SUBACK");
        Self(Mutex::new(socket))
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let request = publish(&device.command_topic, &payload);
        let mut reply = vec![0; publish(&device.reply_topic, &payload).len()];
        let mut socket = self.0.lock().expect("not poisoned");
        socket.write_all(&request).expect("PUBLISH");
        socket.read_exact(&mut reply).expect("the reply");
    }

    async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
        if qos > 0 {
            return false;
        }
        let packet = publish("bench/data", &payload);
        let per_batch = (BATCH / packet.len()).max(1);
        let batch = packet.repeat(per_batch);
        let mut socket = self.0.lock().expect("not poisoned");
        for first in (0..count).step_by(per_batch) {
            let now = per_batch.min(count - first);
            socket.write_all(&batch[..now * packet.len()]).expect("PUBLISH");
        }
        true
    }

    async fn call_each(&self, _: &[Device], _: Bytes) -> bool {
        false
    }

    async fn receive(&self, _: String, _: usize) -> Duration {
        Duration::ZERO
    }
}

pub(super) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut length = 2 + topic.len() + payload.len();
    let mut packet = vec![0x30];
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(payload);
    packet
}
