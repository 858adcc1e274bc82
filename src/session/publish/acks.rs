//! What the broker says of messages that were sent.

use tokio::time::Instant;

use super::{Owner, Suspicion};
use crate::publish::Delivery;
use crate::reason::{Reason, ReasonCode};
use crate::session::in_flight::On;
use crate::session::{Entry, Session};
use crate::wire::PacketId;
use crate::{Error, Outcome, QoS};

impl Session {
    pub(in crate::session) fn handle_puback(&mut self, id: PacketId, reason: &Reason, now: Instant) {
        // Some brokers answer a QoS 2 publish this way; it has arrived, so it counts as acknowledged.
        if let Some((On::Published, Entry::Publish(_))) = self.in_flight.get_mut(id) {
            let answer = match reason.code {
                ReasonCode::NO_MATCHING_SUBSCRIBERS => Ok(Delivery::NoSubscribers),
                _ if reason.is_failure() => refuse(reason),
                _ => Ok(Delivery::Acknowledged),
            };
            self.settle_acked(id, answer, now);
        }
    }

    pub(in crate::session) fn handle_pubrec(&mut self, id: PacketId, reason: &Reason, now: Instant) {
        match self.in_flight.get_mut(id) {
            // A refusal ends the handshake: there is nothing to release.
            Some((On::Published, Entry::Publish(_))) if reason.is_failure() => {
                return self.settle_acked(id, refuse(reason), now);
            }
            Some((On::Published, Entry::Publish(outgoing))) if outgoing.publish.qos == QoS::ExactlyOnce => {
                outgoing.unmatched = reason.code == ReasonCode::NO_MATCHING_SUBSCRIBERS;
                self.publishes.repeating -= usize::from(std::mem::take(&mut outgoing.repeat));
                self.in_flight.move_to(id, On::Released);
            }
            Some((On::Asked | On::Published, _)) => return,
            // A repetition, or one of a session that only the broker remembers: it needs the PUBREL to let go.
            Some((On::Released, _)) | None => {}
        }
        self.receiving.release(id);
    }

    pub(in crate::session) fn handle_pubcomp(&mut self, id: PacketId, now: Instant) {
        let Some((On::Released, Entry::Publish(outgoing))) = self.in_flight.get_mut(id) else { return };
        let delivery = if outgoing.unmatched { Delivery::NoSubscribers } else { Delivery::Completed };
        self.settle_acked(id, Ok(delivery), now);
    }

    fn settle_acked(&mut self, id: PacketId, answer: Result<Delivery, Error>, now: Instant) {
        let Some(Entry::Publish(outgoing)) = self.in_flight.remove(id) else { return };
        self.publishes.repeating -= usize::from(outgoing.repeat);
        self.counters.acked().add(u64::from(answer.is_ok()));
        if let Some(sent_at) = outgoing.sent_at {
            self.counters.ack_times.add(now - sent_at);
        }
        self.publishes.suspicion = Suspicion::default();
        match (outgoing.owner, answer) {
            (Owner::Request(request), Err(error)) => self.refuse_request(request, error, now),
            (Owner::Request(request), Ok(Delivery::NoSubscribers)) => {
                let error = Error::no_responders(&ReasonCode::NO_MATCHING_SUBSCRIBERS.into());
                self.refuse_request(request, error.with_outcome(Outcome::Refused), now);
            }
            (owner, answer) => self.publishes.settle(owner, answer),
        }
    }
}

fn refuse(reason: &Reason) -> Result<Delivery, Error> {
    Err(Error::publish_refused(reason).with_outcome(Outcome::Refused))
}
