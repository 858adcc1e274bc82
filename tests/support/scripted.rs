//! A peer that sends and expects exactly what a test tells it, byte by byte if need be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, PubComp, PubRec, PubRel, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use rumqttc::mqttbytes::{check, Error};
use tokio::io::{empty, join, sink, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Empty, Join, Sink};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::{v5, within, LIMIT};

/// Listens in place of a broker.
pub struct Scripted {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Scripted {
    pub async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound listener");
        Self { listener, addr }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        super::url(self.addr)
    }

    pub async fn accept(&self) -> Peer {
        let (stream, _) = within(LIMIT, "a connection", self.listener.accept()).await.expect("the listener accepts");
        stream.set_nodelay(true).expect("a connected socket");
        Peer::new(stream)
    }

    /// As long as it takes.
    pub async fn try_accept(&self) -> io::Result<Peer> {
        self.listener.accept().await.map(|(stream, _)| Peer::new(stream))
    }

    /// Accepts a connection, reads its CONNECT and answers it with success.
    pub async fn accept_session(&self, session_present: bool) -> (Peer, Connect) {
        let mut peer = self.accept().await;
        let connect = peer.expect_connect().await;
        peer.connack(ConnectReturnCode::Success, session_present).await;
        (peer, connect)
    }

    /// Panics if anyone connects meanwhile.
    pub async fn expect_no_connection(&self, during: Duration) {
        let accepted = tokio::time::timeout(during, self.listener.accept()).await;
        assert!(accepted.is_err(), "expected no connection, got one");
    }
}

/// The far end of one connection.
pub struct Peer<S = TcpStream> {
    stream: S,
    received: BytesMut,
    /// The client speaks MQTT 5, as its CONNECT said.
    is_v5: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, received: BytesMut::new(), is_v5: false }
    }

    pub async fn recv(&mut self) -> Packet {
        self.recv_as("a packet").await
    }

    pub async fn expect_connect(&mut self) -> Connect {
        match self.recv_as("CONNECT").await {
            Packet::Connect(connect) => connect,
            other => panic!("expected CONNECT, got {other:?}"),
        }
    }

    pub async fn expect_publish(&mut self) -> Publish {
        match self.recv_as("PUBLISH").await {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    pub async fn expect_subscribe(&mut self) -> Subscribe {
        match self.recv_as("SUBSCRIBE").await {
            Packet::Subscribe(subscribe) => subscribe,
            other => panic!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    pub async fn expect_unsubscribe(&mut self) -> Unsubscribe {
        match self.recv_as("UNSUBSCRIBE").await {
            Packet::Unsubscribe(unsubscribe) => unsubscribe,
            other => panic!("expected UNSUBSCRIBE, got {other:?}"),
        }
    }

    /// The packet id of the PUBACK.
    pub async fn expect_puback(&mut self) -> u16 {
        match self.recv_as("PUBACK").await {
            Packet::PubAck(ack) => ack.pkid,
            other => panic!("expected PUBACK, got {other:?}"),
        }
    }

    /// The packet id of the PUBREC.
    pub async fn expect_pubrec(&mut self) -> u16 {
        match self.recv_as("PUBREC").await {
            Packet::PubRec(received) => received.pkid,
            other => panic!("expected PUBREC, got {other:?}"),
        }
    }

    /// The packet id of the PUBREL.
    pub async fn expect_pubrel(&mut self) -> u16 {
        match self.recv_as("PUBREL").await {
            Packet::PubRel(release) => release.pkid,
            other => panic!("expected PUBREL, got {other:?}"),
        }
    }

    /// The packet id of the PUBCOMP.
    pub async fn expect_pubcomp(&mut self) -> u16 {
        match self.recv_as("PUBCOMP").await {
            Packet::PubComp(complete) => complete.pkid,
            other => panic!("expected PUBCOMP, got {other:?}"),
        }
    }

    pub async fn expect_ping(&mut self) {
        let packet = self.recv_as("PINGREQ").await;
        assert_eq!(packet, Packet::PingReq, "expected PINGREQ");
    }

    pub async fn expect_disconnect(&mut self) {
        let packet = self.recv_as("DISCONNECT").await;
        assert_eq!(packet, Packet::Disconnect, "expected DISCONNECT");
    }

    /// Waits until there is something to read.
    pub async fn readable(&mut self) {
        if self.received.is_empty() {
            self.fill_or_panic("something to read").await;
        }
    }

    /// Panics if a byte or the end of the connection arrives meanwhile.
    pub async fn expect_nothing(&mut self, during: Duration) {
        assert!(self.received.is_empty(), "expected nothing, got {:02x?}", &self.received[..]);
        match tokio::time::timeout(during, self.fill()).await {
            Err(_) => {}
            Ok(Ok(0)) => panic!("expected nothing, got the end of the connection"),
            Ok(Ok(_)) => panic!("expected nothing, got {:02x?}", &self.received[..]),
            Ok(Err(error)) => panic!("expected nothing, got {error}"),
        }
    }

    /// Exactly `count` bytes.
    pub async fn recv_raw(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            self.fill_or_panic(&format!("{count} bytes")).await;
        }
        self.received.split_to(count).to_vec()
    }

    /// So many bytes, or None at the end of the connection.
    pub async fn try_recv_raw(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.received.len() < count {
            if !matches!(self.fill().await, Ok(1..)) {
                return None;
            }
        }
        Some(self.received.split_to(count).to_vec())
    }

    /// One packet as bytes: the codec refuses what is not 3.1.1, such as the CONNECT of 3.1.
    pub async fn recv_raw_packet(&mut self) -> Vec<u8> {
        loop {
            match check(self.received.iter(), MAX_SIZE) {
                Ok(header) => return self.received.split_to(header.frame_length()).to_vec(),
                Err(Error::InsufficientBytes(_)) => self.fill_or_panic("a packet").await,
                Err(error) => panic!("expected a packet, got {error}"),
            }
        }
    }

    /// Waits for the end of the connection, clean or not; the packets that came before it.
    pub async fn closed(&mut self) -> Vec<Packet> {
        while matches!(within(LIMIT, "the end of the connection", self.fill()).await, Ok(1..)) {}
        let mut packets = Vec::new();
        while let Some(packet) = self.read("the end of the connection") {
            packets.push(packet);
        }
        packets
    }

    /// The next packet of those that are there, in the words of 3.1.1.
    fn read(&mut self, expected: &str) -> Option<Packet> {
        if self.is_v5 {
            return match v5::read(&mut self.received) {
                Ok(packet) => Some(packet),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => None,
                Err(error) => panic!("expected {expected}, got {error}"),
            };
        }
        match Packet::read(&mut self.received, MAX_SIZE) {
            Ok(packet) => Some(packet),
            Err(Error::InsufficientBytes(_)) => None,
            Err(error) => panic!("expected {expected}, got {error}"),
        }
    }

    pub async fn send(&mut self, packet: Packet) {
        self.send_together([packet]).await;
    }

    /// In one segment.
    pub async fn send_together(&mut self, packets: impl IntoIterator<Item = Packet>) {
        let mut bytes = BytesMut::new();
        for packet in packets {
            if self.is_v5 {
                v5::write(packet, &mut bytes);
            } else {
                packet.write(&mut bytes, MAX_SIZE).expect("a packet that can be written");
            }
        }
        self.send_raw(&bytes).await;
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        within(LIMIT, "room to send", async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
        .expect("the connection is open");
    }

    /// Whether the far end has taken it all.
    pub async fn try_send_raw(&mut self, bytes: &[u8]) -> bool {
        within(LIMIT, "room to send", self.stream.write_all(bytes)).await.is_ok()
    }

    pub async fn connack(&mut self, code: ConnectReturnCode, session_present: bool) {
        self.send(Packet::ConnAck(ConnAck::new(code, session_present))).await;
    }

    pub async fn suback(&mut self, pkid: u16, codes: &[SubscribeReasonCode]) {
        self.send(Packet::SubAck(SubAck::new(pkid, codes.to_vec()))).await;
    }

    pub async fn unsuback(&mut self, pkid: u16) {
        self.send(Packet::UnsubAck(UnsubAck::new(pkid))).await;
    }

    pub async fn publish(&mut self, publish: Publish) {
        self.send(Packet::Publish(publish)).await;
    }

    pub async fn puback(&mut self, pkid: u16) {
        self.send(Packet::PubAck(PubAck::new(pkid))).await;
    }

    pub async fn pubrec(&mut self, pkid: u16) {
        self.send(Packet::PubRec(PubRec::new(pkid))).await;
    }

    pub async fn pubrel(&mut self, pkid: u16) {
        self.send(Packet::PubRel(PubRel::new(pkid))).await;
    }

    pub async fn pubcomp(&mut self, pkid: u16) {
        self.send(Packet::PubComp(PubComp::new(pkid))).await;
    }

    pub async fn pingresp(&mut self) {
        self.send(Packet::PingResp).await;
    }

    /// Ends this direction of the connection cleanly; what still arrives can be read.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.ok();
    }

    async fn recv_as(&mut self, expected: &str) -> Packet {
        loop {
            match self.read(expected) {
                Some(packet) => return packet,
                None => self.fill_or_panic(expected).await,
            }
        }
    }

    async fn fill_or_panic(&mut self, expected: &str) {
        match within(LIMIT, expected, self.fill()).await {
            Ok(0) => panic!("expected {expected}, got the end of the connection"),
            Ok(_) => {}
            Err(error) => panic!("expected {expected}, got {error}"),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let count = self.stream.read_buf(&mut self.received).await?;
        self.is_v5 |= self.received.first() == Some(&0x10) && self.received.windows(5).any(|name| name == b"MQTT\x05");
        Ok(count)
    }
}

type Reader = Peer<Join<OwnedReadHalf, Sink>>;
type Writer = Peer<Join<Empty, OwnedWriteHalf>>;

impl Peer {
    /// The two directions, to be used at the same time.
    pub fn split(self) -> (Reader, Writer) {
        let (reader, writer) = self.stream.into_split();
        let reader = Peer { stream: join(reader, sink()), received: self.received, is_v5: self.is_v5 };
        (reader, Peer::new(join(empty(), writer)))
    }

    /// Ends the connection with a TCP reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("a connected socket");
    }
}

const MAX_SIZE: usize = 256 << 20;
