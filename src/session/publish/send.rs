//! Messages that go out for the first time, as far as the window and the broker's terms allow.

use tokio::time::Instant;

use super::{Owner, Publishes, Unwritten};
use crate::publish::Delivery;
use crate::room::Room;
use crate::session::in_flight::On;
use crate::session::{Entry, Session, WRITE_AHEAD};
use crate::telemetry::TARGET;
use crate::wire::{Codec, Output};
use crate::{Error, Outcome, QoS};

impl Session {
    /// Sends the queue, as far as it may go out and there is room. `written_base` added to a position in `output` counts
    /// from the start of the connection.
    pub(in crate::session) fn transmit_queued(
        &mut self,
        codec: &mut Codec,
        output: &mut Output,
        written_base: u64,
        now: Instant,
    ) -> bool {
        let mut sent = false;
        while let Some(front) = self.publishes.queue.front().filter(|_| output.len() < WRITE_AHEAD) {
            let owner = front.owner;
            // A caller that waits hears of its deadline by itself; one that left after a first sending does not.
            let expired = front.is_expired(now) && matches!(owner, Owner::Nobody);
            let left = self.publishes.is_abandoned(owner);
            let refused = self.terms().and_then(|terms| terms.check_publish(&front.publish).err());
            if !left && !expired && refused.is_none() {
                // SUBSCRIBEs may hold the last identifiers; an acknowledgement frees one.
                if front.publish.qos != QoS::AtMostOnce && (self.is_window_full() || self.in_flight.is_full()) {
                    break;
                }
                self.transmit_front(codec, output, written_base, now);
                sent = true;
                continue;
            }
            self.publishes.queue.drop_front();
            if left {
                if let Owner::Call(call) = owner {
                    self.publishes.calls.remove(call);
                }
            } else if let Some(error) = refused {
                self.give_up(owner, error, now);
            }
        }
        sent
    }

    /// Whether as many QoS 1 and 2 publishes are unacknowledged on this connection as may be. What is still to be
    /// repeated on it is not among them yet.
    pub(super) fn is_window_full(&self) -> bool {
        let unacked = self.in_flight.len(On::Published) + self.in_flight.len(On::Released) - self.publishes.repeating;
        let allowed = self.terms().map_or(usize::MAX, |terms| terms.receive_maximum.into());
        unacked >= self.limits.max_in_flight.min(allowed)
    }

    /// This connection cannot carry a message.
    pub(super) fn give_up(&mut self, owner: Owner, error: Error, now: Instant) {
        match owner {
            Owner::Nobody => {
                tracing::warn!(name: "mqtt.given_up", target: TARGET, %error, "a message that was handed over is given up");
                self.counters.given_up().add(1);
            }
            Owner::Request(request) => self.fail_request(request, error, now),
            Owner::Call(call) => {
                let sent = self.publishes.calls.get(call).is_some_and(|call| call.sent);
                let outcome = if sent { Outcome::Unknown } else { Outcome::NotSent };
                self.publishes.settle(owner, Err(error.with_outcome(outcome)));
            }
        }
    }

    fn transmit_front(&mut self, codec: &mut Codec, output: &mut Output, written_base: u64, now: Instant) {
        let Publishes { queue, sent, .. } = &mut self.publishes;
        let Some(outgoing) = queue.front_mut() else { return };
        let (owner, qos) = (outgoing.owner, outgoing.publish.qos);
        let start = output.len() as u64;
        *sent += 1;
        if outgoing.rank == 0 {
            outgoing.rank = *sent;
            outgoing.sent_at = Some(now);
        }
        if qos == QoS::AtMostOnce {
            codec.encode(outgoing.packet(0, false, now), output);
            queue.drop_front();
        } else {
            let Some(outgoing) = queue.pop_front() else { return };
            // There is a free one, or it would still wait.
            let Ok(id) = self.in_flight.insert(On::Published, Entry::Publish(outgoing)) else { return };
            if let Some((_, Entry::Publish(outgoing))) = self.in_flight.get_mut(id) {
                codec.encode(outgoing.packet(id, false, now), output);
            }
        }
        self.counters.published().add(1);
        self.note_place(owner, None);
        match owner {
            Owner::Nobody => {}
            Owner::Request(request) => self.requests.mark_sent(request, now),
            Owner::Call(call) => {
                if let Some(pending) = self.publishes.calls.get_mut(call) {
                    pending.sent = true;
                }
            }
        }
        if qos == QoS::AtMostOnce && !matches!(owner, Owner::Nobody) {
            let end = written_base.wrapping_add(output.len() as u64);
            let start = written_base.wrapping_add(start);
            self.publishes.unwritten.push_back(Unwritten { start, end, owner });
        }
    }

    /// QoS 0 is done when its last byte is written.
    pub(in crate::session) fn settle_written(&mut self, written: u64) {
        while self.publishes.unwritten.front().is_some_and(|publish| publish.end <= written) {
            if let Some(Unwritten { owner, .. }) = self.publishes.unwritten.pop_front() {
                self.publishes.settle(owner, Ok(Delivery::Sent));
            }
        }
        self.publishes.unwritten.give_back();
    }
}
