//! What becomes of messages when a connection is lost, and when the next is made.

use tokio::time::Instant;

use super::{Outgoing, Owner, Publishes, Unwritten};
use crate::allowance::weight;
use crate::options::Offline;
use crate::publish::Delivery;
use crate::session::in_flight::On;
use crate::session::request::Requests;
use crate::session::{Entry, Session};
use crate::telemetry::TARGET;
use crate::wire::{Codec, Outbound, Output};
use crate::{Error, Outcome, QoS};

/// Some brokers answer a message that they do not allow by closing the connection. Nobody waits for a message that was
/// handed over, so it would be sent again for ever, and nothing behind it would get through.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// The first message that was unacknowledged when the last connections ended, and how many that were, one after the
    /// other, without any acknowledgement.
    rank: u64,
    connections: u32,
}

/// After so many the message is given up. A line that is merely bad gets an acknowledgement through before that.
const GIVE_UP_AFTER: u32 = 10;

impl Outgoing {
    /// Nothing is sent again after its deadline, so that no door opens minutes later, nor a request that is over, whose
    /// reply would be taken for the next one's.
    fn is_over(&self, requests: &Requests, now: Instant) -> bool {
        self.is_expired(now) || matches!(self.owner, Owner::Request(request) if !requests.is_pending(request))
    }
}

impl Session {
    /// The connection is lost: what was encoded at QoS 0 will not be sent again, so its fate is decided now.
    pub(in crate::session) fn suspend_publishes(&mut self, written: u64, now: Instant) {
        self.publishes.repeat.clear();
        self.publishes.repeating = 0;
        for Unwritten { start, owner, .. } in std::mem::take(&mut self.publishes.unwritten) {
            let (text, outcome) = match start < written {
                true => ("the connection was lost while the message was written", Outcome::Unknown),
                false => ("the connection was lost before the message was written: try again", Outcome::NotSent),
            };
            let error = Error::connection(text).with_outcome(outcome);
            match owner {
                Owner::Request(request) => self.refuse_request(request, error, now),
                owner => self.publishes.settle(owner, Err(error)),
            }
        }
        self.suspect_first(now);
        // What waits unsent is taken back, or handed over, as its caller chose for times without a connection. What
        // was sent before stays in doubt, as it was in flight.
        let Publishes { queue, calls, allowance, .. } = &mut self.publishes;
        queue.take(|outgoing| {
            let Owner::Call(key) = outgoing.owner else { return false };
            let unsent = calls.get(key).filter(|call| !call.sent);
            let Some(offline) = unsent.map(|call| call.offline).filter(|offline| *offline != Offline::Wait) else {
                return false;
            };
            let Some(call) = calls.remove(key) else { return false };
            if call.reply.is_abandoned() {
                return true;
            }
            if offline == Offline::Fail {
                call.reply.send(Err(Error::offline()));
                return true;
            }
            outgoing.share = allowance.take(weight(&outgoing.publish));
            if outgoing.share.is_none() {
                call.reply.send(Err(Error::queue_full()));
                return true;
            }
            call.reply.send(Ok(Delivery::Queued));
            outgoing.owner = Owner::Nobody;
            outgoing.deadline = outgoing.expires;
            false
        });
    }

    /// A connection ended: was it because of the first message that it should have acknowledged?
    fn suspect_first(&mut self, now: Instant) {
        let Some(id) = self.in_flight.ids(On::Published).next() else { return };
        let Some((_, Entry::Publish(first))) = self.in_flight.get_mut(id) else { return };
        if first.repeat {
            // It was not sent on this one.
            return;
        }
        let suspicion = &mut self.publishes.suspicion;
        if suspicion.rank != first.rank {
            *suspicion = Suspicion { rank: first.rank, connections: 0 };
        }
        suspicion.connections += 1;
        // One with a deadline is not sent again for ever.
        if suspicion.connections < GIVE_UP_AFTER || first.deadline.is_some() {
            return;
        }
        let topic = first.publish.topic.as_str();
        tracing::warn!(name: "mqtt.given_up", target: TARGET, topic, "{GIVE_UP_AFTER} connections ended on this message");
        self.counters.given_up().add(1);
        // What has passed its deadline is not sent again.
        first.deadline = Some(now);
        self.publishes.suspicion = Suspicion::default();
    }

    /// A new connection. With the session everything unacknowledged goes out again under its identifier; without it,
    /// the same messages are new publishes, ahead of those that waited.
    pub(in crate::session) fn resume_publishes(&mut self, session_present: bool, now: Instant) {
        if session_present {
            let released = self.in_flight.ids(On::Released);
            self.publishes.repeat = released.chain(self.in_flight.ids(On::Published)).collect();
            for id in &self.publishes.repeat {
                if let Some((_, Entry::Publish(outgoing))) = self.in_flight.get_mut(*id) {
                    outgoing.repeat = true;
                }
            }
            self.publishes.repeating = self.publishes.repeat.len();
            return;
        }
        // A released message is among them: whether the broker passed it on before it forgot us cannot be known, and
        // once more is better than not at all.
        let mut unacked: Vec<_> = [self.in_flight.clear(On::Released), self.in_flight.clear(On::Published)]
            .into_iter()
            .flatten()
            .filter_map(|entry| match entry {
                Entry::Publish(outgoing) => Some(outgoing),
                Entry::Subscribe(_) | Entry::Unsubscribe(_) => None,
            })
            .collect();
        unacked.sort_unstable_by_key(|outgoing| std::cmp::Reverse(outgoing.rank));
        for mut outgoing in unacked {
            let owner = outgoing.owner;
            // A message whose caller left after a first sending is still owed to the broker, until its deadline.
            if outgoing.is_over(&self.requests, now) {
                continue;
            }
            outgoing.repeat = false;
            let place = self.publishes.queue.push_front(outgoing);
            self.note_place(owner, Some(place));
        }
    }

    /// Sends again what was in flight when the last connection was lost.
    pub(in crate::session) fn transmit_repeated(
        &mut self,
        codec: &mut Codec,
        output: &mut Output,
        now: Instant,
    ) -> bool {
        while let Some(&id) = self.publishes.repeat.front() {
            if self.is_window_full() {
                // It may be smaller than on the last connection.
                return false;
            }
            self.publishes.repeat.pop_front();
            match self.in_flight.get_mut(id) {
                Some((on, Entry::Publish(outgoing))) if outgoing.repeat => {
                    outgoing.repeat = false;
                    self.publishes.repeating -= 1;
                    let terms = self.connection.as_ref().map(|connection| &connection.terms);
                    let refused = terms.and_then(|terms| terms.check_publish(&outgoing.publish).err());
                    let (owner, qos) = (outgoing.owner, outgoing.publish.qos);
                    if on == On::Published && (refused.is_some() || outgoing.is_over(&self.requests, now)) {
                        // Nor is it a new message to a broker that has forgotten the session.
                        outgoing.deadline = Some(now);
                        if let Some(error) = refused {
                            self.give_up(owner, error, now);
                        }
                        if qos == QoS::AtLeastOnce {
                            self.in_flight.remove(id);
                            continue;
                        }
                        // The broker may hold the identifier, and would take the next message under it for a
                        // repetition. A PUBREL makes it let go without bringing the message once more.
                        self.in_flight.move_to(id, On::Released);
                        codec.encode(Outbound::PubRel(id), output);
                        return true;
                    }
                    // MQTT-3.3.1-1: a publish that is sent again carries DUP.
                    let outbound = match on {
                        On::Released => Outbound::PubRel(id),
                        _ => outgoing.packet(id, true, now),
                    };
                    codec.encode(outbound, output);
                    self.counters.published().add(u64::from(on == On::Published));
                    return true;
                }
                _ => {}
            }
        }
        false
    }
}
