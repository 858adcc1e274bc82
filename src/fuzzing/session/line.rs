//! One connection: what is on its way in either direction.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::referee::Referee;
use super::World;
use crate::fuzzing::codec::codec;
use crate::fuzzing::input::Input;
use crate::terms::Terms;
use crate::wire::peer::{decode_client_packet, Sent};
use crate::wire::{Codec, Inbound, Output, PacketId};
use crate::{Error, QoS, Version};

pub(super) struct Line {
    pub(super) terms: Arc<Terms>,
    pub(super) referee: Referee,
    codec: Codec,
    /// What came and is not decoded; what is encoded and not written.
    input: BytesMut,
    output: Output,
    /// What the broker has not answered.
    pub(super) sent: VecDeque<Sent>,
}

/// A message that comes in.
#[derive(Clone, Copy)]
struct Arrival {
    qos: QoS,
    id: PacketId,
    number: u32,
}

/// As many as are handed on before anything else is looked at.
const PACKETS: usize = 512;
/// Where the session stops encoding.
const WRITE_AHEAD: usize = 64 * 1024;
/// Payloads of this length are not copied.
const LARGE: usize = 2;

impl World {
    pub(super) fn connect(&mut self, input: &mut Input<'_>) {
        if self.session.is_finished(self.now) {
            return self.finish();
        }
        let kind = input.byte();
        let version = match self.options.version {
            Version::Auto if kind & 2 == 0 => Version::V311,
            Version::Auto => Version::V5,
            version => version,
        };
        let terms = super::broker::terms(version, input);
        self.connect_with(kind & 1 == 1, terms);
    }

    /// To a broker that allows everything, and lets go of what it has sent.
    pub(super) fn connect_at_last(&mut self) {
        let version = if self.options.version == Version::V311 { Version::V311 } else { Version::V5 };
        // A session that holds does not answer any more, with nobody there who could take what comes.
        let session_present = self.broker.keeps_session && self.options.holds.is_none();
        self.connect_with(session_present, Terms::implied(version, "fuzz"));
        for id in self.broker.unreleased() {
            self.receive(&[0x62, 2, (id >> 8) as u8, id as u8]);
            self.transmit();
            self.write(usize::MAX);
        }
    }

    fn connect_with(&mut self, session_present: bool, terms: Terms) {
        let mut codec = codec(terms.version, self.options.max_packet_size);
        codec.assign_aliases(terms.topic_alias_maximum);
        let terms = Arc::new(terms);
        self.session.handle_connected(session_present, terms.clone(), self.now);
        self.broker.handle_connected(session_present, &terms);
        self.line = Some(Line {
            referee: Referee::new(terms.clone(), &self.options, session_present),
            terms,
            codec,
            input: BytesMut::new(),
            output: Output::parting(LARGE),
            sent: VecDeque::new(),
        });
    }

    pub(super) fn lose(&mut self) {
        self.line = None;
        self.session.handle_disconnected(self.now);
    }

    /// Bytes from the broker. Where no more may be read they stay with it.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        let Some(line) = self.line.as_mut().filter(|_| self.session.wants_read()) else { return };
        line.input.extend_from_slice(bytes);
        self.session.handle_received(self.now);
        self.read();
    }

    /// Hands on what has come, as far as it is wanted.
    pub(super) fn read(&mut self) {
        for _ in 0..PACKETS {
            let Some(line) = self.line.as_mut().filter(|_| self.session.wants_read()) else { return };
            let handled = match line.codec.decode(&mut line.input) {
                Ok(None) => return,
                Ok(Some(inbound)) => self.handle_inbound(inbound),
                Err(error) => Err(error),
            };
            if handled.is_err() {
                return self.lose();
            }
        }
    }

    fn handle_inbound(&mut self, mut inbound: Inbound) -> Result<(), Error> {
        let arrival = self.number(&mut inbound);
        if let Some(line) = &mut self.line {
            line.referee.note_answer(&inbound);
        }
        if let Inbound::PubRel(id) = inbound {
            self.broker.note_released(id);
        }
        let is_leaving =
            self.options.holds.is_some() && (self.session.is_closing() || self.session.census().subscribers == 0);
        let before = self.counters.snapshot();
        self.session.handle_inbound(inbound, self.now)?;
        let Some(arrival) = arrival.filter(|_| !is_leaving) else { return Ok(()) };
        let after = self.counters.snapshot();
        let is_fresh = after.received + after.oversized > before.received + before.oversized;
        if after.unclaimed + after.oversized > before.unclaimed + before.oversized {
            self.streams.note_settled(arrival.number);
        }
        self.note_owed(arrival, is_fresh);
        Ok(())
    }

    /// Gives each message that comes in a number of its own, and leaves no more of its payload than a key.
    fn number(&mut self, inbound: &mut Inbound) -> Option<Arrival> {
        let (qos, id) = match inbound {
            Inbound::Publish(incoming) => (incoming.qos, incoming.id),
            Inbound::Oversized { qos, id, .. } => (*qos, *id),
            _ => return None,
        };
        let number = self.broker.next_number();
        if let Inbound::Publish(incoming) = inbound {
            if !incoming.subscriptions.is_empty() {
                // It may be left for the copy that comes by another filter.
                self.streams.note_free(number);
            }
            let key = incoming.payload.first().copied().unwrap_or_default();
            incoming.payload = Bytes::copy_from_slice(&[&[key][..], &number.to_be_bytes()].concat());
        }
        Some(Arrival { qos, id, number })
    }

    /// The acknowledgement that a message is to get.
    fn note_owed(&mut self, Arrival { qos, id, number }: Arrival, is_fresh: bool) {
        let Some(line) = &mut self.line else { return };
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => line.referee.note_owed(qos, id, number, true),
            QoS::ExactlyOnce if is_fresh => {
                self.broker.note_unreleased(id, number);
                line.referee.note_owed(qos, id, number, true);
            }
            QoS::ExactlyOnce => {
                // It is the message that came first. If that waits for its turn on this connection, they share one.
                let first = self.broker.number_of(id).expect("a repetition of something");
                line.referee.note_owed(qos, id, first, self.options.holds.is_none());
            }
        }
    }

    pub(super) fn transmit(&mut self) {
        let Some(line) = &mut self.line else {
            let (mut codec, mut output) = (codec(Version::V5, 0), Output::parting(LARGE));
            self.session.poll_transmit(&mut codec, &mut output, self.now);
            return assert!(output.is_empty(), "bytes for nobody");
        };
        let before = line.output.len();
        self.session.poll_transmit(&mut line.codec, &mut line.output, self.now);
        let mut fresh = line.output.to_bytes().split_off(before);
        loop {
            let left = fresh.len();
            let packet = decode_client_packet(line.terms.version, &mut fresh).expect("what was encoded");
            let Some((sent, carried)) = packet else { break };
            let acknowledged = line.referee.check(&sent, &carried, left - fresh.len());
            if let Some(number) = acknowledged.filter(|_| self.options.holds.is_some()) {
                assert!(self.streams.may_be_acknowledged(number), "{sent:?} is for a message that nobody has taken");
            }
            if let Some(asked) = self.callers.asked(&carried.properties) {
                line.referee.check_asked(asked, &sent, &carried, self.now);
            }
            self.broker.note_sent(&sent, &carried);
            line.sent.push_back(sent);
        }
        assert!(fresh.is_empty(), "half a packet was encoded");
    }

    /// All that may go out has, as far as there is room: nobody looks again before something else happens.
    pub(super) fn check_transmitted(&mut self) {
        let is_open = |line: &&mut Line| line.output.len() < WRITE_AHEAD;
        let Some(line) = self.line.as_mut().filter(is_open) else { return };
        let before = line.output.len();
        self.session.poll_transmit(&mut line.codec, &mut line.output, self.now);
        assert_eq!(line.output.len(), before, "something was kept back by nothing");
        let is_due = |number| self.options.holds.is_none() || self.streams.must_be_acknowledged(number);
        line.referee.check_nothing_due(is_due);
    }

    pub(super) fn write(&mut self, bytes: usize) {
        let Some(line) = &mut self.line else { return };
        let bytes = bytes.min(line.output.len());
        if bytes > 0 {
            line.output.advance(bytes);
            self.session.handle_written(bytes, self.now);
        }
    }
}
