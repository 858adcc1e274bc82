//! Those who call, and those who leave.

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::{topic, World, QOS, STEPS, TOPICS};
use crate::allowance::weight;
use crate::command::{
    Close, Command, Feed, Notice, Publish, Reply, ReplyPaths, Request, RequestId, Subscribe, Unfinished, Wanted, Wish,
};
use crate::fuzzing::input::Input;
use crate::options::Offline;
use crate::publish::Delivery;
use crate::rpc::{Correlation, Key};
use crate::subscribe::Retained;
use crate::{wire, Error, Filter, Message};

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// Someone who waits for an answer.
pub(super) struct Caller {
    pub(super) waiting: Waiting,
    /// When it must be there.
    pub(super) deadline: Option<Instant>,
}

pub(super) enum Waiting {
    Publish(Answer<Delivery>),
    Subscribe(Answer<Feed>),
    Request(RequestId, Answer<Vec<Message>>),
    Unsubscribe(Answer<()>),
    Close(Answer<Unfinished>),
}

const FILTERS: [&str; 8] = ["a", "a/+", "a/#", "+", "#", "$share/g/a", "b/c", "+/c"];
const OFFLINE: [Offline; 3] = [Offline::Wait, Offline::Fail, Offline::Queue];
const RETAINED: [Retained; 4] = [Retained::IfFirst, Retained::Include, Retained::Ignore, Retained::Only];
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

impl World {
    pub(super) fn publish(&mut self, input: &mut Input<'_>) {
        let topic = topic(input.pick(&TOPICS));
        let payload = Bytes::from_static(&ZEROS[..usize::from(input.byte()) * 400]);
        let (qos, offline, retain) = (input.pick(&QOS), input.pick(&OFFLINE), input.byte() % 2 == 1);
        let publish = wire::Publish { topic, payload, qos, retain, properties: None, lenient: false };
        let timeout = input.byte();
        let (mut deadline, mut reply, mut share) = (None, None, None);
        if timeout == 0xff {
            share = self.allowance.take(weight(&publish));
            if share.is_none() {
                return;
            }
        } else {
            let (sender, answer) = Reply::channel();
            let until = self.now + STEPS[usize::from(timeout) % STEPS.len()];
            self.callers.push(Caller { waiting: Waiting::Publish(answer), deadline: Some(until) });
            (deadline, reply) = (Some(until), Some(sender));
        }
        let publish = Publish { publish, expires: deadline, offline, deadline, reply, share };
        self.session.handle_command(Command::Publish(publish), self.now);
    }

    pub(super) fn subscribe(&mut self, input: &mut Input<'_>) {
        let chosen = input.byte();
        // A bit for each filter; with none, one that nobody else has.
        let mut filters: Vec<_> = FILTERS
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| chosen >> bit & 1 == 1)
            .map(|(_, text)| filter(text))
            .collect();
        if filters.is_empty() {
            self.requests += 1;
            filters.push(filter(&format!("only/{}", self.requests)));
        }
        let (reply, answer) = Reply::channel();
        let (qos, retained, offline) = (input.pick(&QOS), input.pick(&RETAINED), input.pick(&OFFLINE));
        let deadline = self.now + input.pick(&STEPS);
        self.callers.push(Caller { waiting: Waiting::Subscribe(answer), deadline: Some(deadline) });
        let wish = Wish::new(qos, retained);
        let subscribe = Subscribe { filters, wish, capacity: 4, offline, deadline, reply };
        self.session.handle_command(Command::Subscribe(subscribe), self.now);
    }

    pub(super) fn request(&mut self, input: &mut Input<'_>) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let (reply, answer) = Reply::channel();
        let deadline = self.now + input.pick(&STEPS);
        self.callers.push(Caller { waiting: Waiting::Request(id, answer), deadline: Some(deadline) });
        let (topic, payload) = (topic(input.pick(&TOPICS)), Bytes::from_static(b"question"));
        let request = Request {
            id,
            publish: wire::Publish {
                topic,
                payload,
                qos: input.pick(&QOS),
                retain: false,
                properties: None,
                lenient: false,
            },
            reply_to: reply_paths(input),
            key: reply_key(input),
            wanted: match input.byte() {
                count @ 0x80.. => Wanted::UpTo(usize::from(count % 4) + 1),
                count @ 0x70.. => Wanted::Each(broadcast::channel(usize::from(count % 4) + 1).0),
                count => Wanted::Exactly(usize::from(count % 4) + 1),
            },
            offline: input.pick(&OFFLINE),
            deadline,
            reply,
        };
        self.session.handle_command(Command::Request(request), self.now);
    }

    /// What dropping a future does.
    pub(super) fn leave(&mut self, caller: Caller) {
        if let Waiting::Request(id, answer) = caller.waiting {
            drop(answer);
            let _ = self.notices.send(Notice::RequestGone(id));
        }
    }

    pub(super) fn end_feed(&mut self, input: &mut Input<'_>) {
        let (which, calls) = (usize::from(input.byte()), input.byte() % 2 == 1);
        if self.feeds.is_empty() {
            return;
        }
        let feed = self.feeds.swap_remove(which % self.feeds.len());
        if calls {
            let answer = feed.guard.unsubscribe();
            self.callers.push(Caller { waiting: Waiting::Unsubscribe(answer), deadline: None });
        }
    }

    pub(super) fn take_message(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.byte());
        if self.feeds.is_empty() {
            return;
        }
        let which = which % self.feeds.len();
        if let Ok(Ok(mut message)) = self.feeds[which].events.try_recv() {
            message.take();
        }
    }

    pub(super) fn close(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let until = self.now + input.pick(&STEPS);
        match kind % 8 {
            0 => {
                for caller in std::mem::take(&mut self.callers) {
                    self.leave(caller);
                }
                self.session.handle_abandoned(until);
            }
            kind @ 1..=4 => {
                let (reply, answer) = Reply::channel();
                self.callers.push(Caller { waiting: Waiting::Close(answer), deadline: None });
                let drain_until = (kind > 1).then_some(until);
                let _ = self.notices.send(Notice::Close(Close { drain_until, reply }));
                self.take_notices();
            }
            // The end should not be what most inputs come to.
            _ => {}
        }
    }

    pub(in crate::fuzzing) fn take_answers(&mut self) {
        let Self { callers, feeds, .. } = self;
        callers.retain_mut(|caller| match &mut caller.waiting {
            Waiting::Publish(answer) => answered(answer).is_none(),
            Waiting::Request(_, answer) => answered(answer).is_none(),
            Waiting::Unsubscribe(answer) => answered(answer).is_none(),
            Waiting::Close(answer) => answered(answer).is_none(),
            Waiting::Subscribe(answer) => match answered(answer) {
                None => true,
                Some(feed) => {
                    feeds.extend(feed);
                    false
                }
            },
        });
    }
}

/// Where the replies of a call come: mostly by one filter, sometimes by a second, sometimes to the agent's own topic.
fn reply_paths(input: &mut Input<'_>) -> Option<ReplyPaths> {
    let kind = input.byte();
    let reply_to = filter(input.pick(&FILTERS));
    let rejected_by = (kind & 7 == 1).then(|| filter(input.pick(&FILTERS)));
    (kind & 7 != 2).then_some(ReplyPaths { reply_to, rejected_by })
}

/// What the replies of a call are known by.
fn reply_key(input: &mut Input<'_>) -> Option<Box<Key>> {
    let key = [input.byte() % 4];
    let rule = match input.byte() % 8 {
        0 => Correlation::data(),
        1 => Correlation::topic("b"),
        2 => Correlation::topic("c"),
        3 => Correlation::by_key(key.to_vec(), |reply: &Message| {
            Some(reply.payload().slice(..1.min(reply.payload().len())))
        }),
        _ => Correlation::by_turns(),
    };
    rule.key(b"", || [key[0]; 16]).expect("a rule that needs no payload")
}

fn answered<T>(answer: &mut Answer<T>) -> Option<Result<T, Error>> {
    match answer.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => panic!("an answer slot was dropped in silence"),
    }
}

fn filter(text: &str) -> Filter {
    Filter::new(text).expect("a valid filter")
}
