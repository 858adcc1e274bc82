//! Those who call, wait for an answer, and may leave before it comes.

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::{World, STEPS};
use crate::allowance::weight;
use crate::command::{
    Close, Command, Feed, Notice, Publish, Replies, Reply, ReplyPaths, Request, RequestId, Subscribe, Unfinished,
    Wanted, Wish,
};
use crate::fuzzing::input::{Bits, Input};
use crate::options::Offline;
use crate::publish::Delivery;
use crate::rpc::{Correlation, Key};
use crate::subscribe::Retained;
use crate::wire;
use crate::{Error, Filter, Message, Properties, QoS, Topic};

#[derive(Default)]
pub(super) struct Callers {
    waiting: Vec<Caller>,
    requests: u64,
    /// Names of filters that nobody else has.
    names: u64,
    /// What was asked for of MQTT 5, each with its number in a user property.
    asked: Vec<Asked>,
}

/// Someone who waits for an answer.
struct Caller {
    waiting: Waiting,
    /// When it must be there.
    deadline: Option<Instant>,
}

enum Waiting {
    Publish(Answer<Delivery>),
    Subscribe(Vec<Filter>, Answer<Feed>),
    Request(RequestId, Answer<Replies>),
    Unsubscribe(Answer<()>),
    Close(Answer<Unfinished>),
}

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// A message with properties, as it must go out.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) publish: wire::Publish,
    pub(super) expires: Option<Instant>,
}

const FILTERS: [&str; 8] = ["a", "a/+", "a/#", "+", "#", "$share/g/a", "b/c", "+/c"];
pub(super) const TOPICS: [&str; 8] = ["a", "a/b", "b", "b/c", "$SYS/x", "/", "devices/1/led", "devices/2/led"];
pub(super) const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const OFFLINE: [Offline; 3] = [Offline::Wait, Offline::Fail, Offline::Queue];
const RETAINED: [Retained; 4] = [Retained::IfFirst, Retained::Include, Retained::Ignore, Retained::Only];
/// The user property that has the number of a message.
const NUMBER: &str = "n";
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

impl World {
    pub(super) fn publish(&mut self, input: &mut Input<'_>) {
        // A session that holds is that of one subscription, and of nothing else.
        if self.options.holds.is_some() {
            return self.read_stream(input);
        }
        let topic = topic(input.pick(&TOPICS));
        let payload = Bytes::from_static(&ZEROS[..usize::from(input.byte()) * 400]);
        let (qos, offline, retain) = (input.pick(&QOS), input.pick(&OFFLINE), input.bool());
        let timeout = input.byte();
        let properties = self.properties(input);
        let expires = properties.as_ref().and_then(|properties| Some(self.now + properties.message_expiry?));
        let lenient = properties.is_some() && input.bool();
        let publish = wire::Publish { topic, payload, qos, retain, properties, lenient };
        self.callers.note_asked(&publish, expires);
        let (deadline, reply, share) = if timeout == 0xff {
            let Some(share) = self.allowance.take(weight(&publish)) else { return };
            (expires, None, Some(share))
        } else {
            let (sender, answer) = Reply::channel();
            let until = self.now + STEPS[usize::from(timeout) % STEPS.len()];
            self.callers.push(Waiting::Publish(answer), Some(until));
            (Some(until), Some(sender), None)
        };
        let publish = Publish { publish, expires, offline, deadline, reply, share };
        self.session.handle_command(Command::Publish(publish), self.now);
    }

    /// Those of a message, mostly none.
    fn properties(&mut self, input: &mut Input<'_>) -> Option<Box<Properties>> {
        let chosen = Bits(input.byte());
        if !self.options.version.may_be_5() || !chosen.has(7) {
            return None;
        }
        let mut properties = self.callers.numbered();
        properties.payload_is_utf8 = chosen.has(0);
        if chosen.has(1) {
            properties.message_expiry = Some(input.pick(&STEPS));
        }
        if chosen.has(2) {
            properties.content_type = Some("x".repeat(input.byte().into()));
        }
        if chosen.has(3) {
            properties.response_topic = Some(topic(input.pick(&TOPICS)));
        }
        if chosen.has(4) {
            properties.correlation_data = Some(Bytes::from_static(&ZEROS[..input.byte().into()]));
        }
        if chosen.has(5) {
            properties = properties.with_user_property("long", "x".repeat(usize::from(input.byte()) * 100));
        }
        Some(Box::new(properties))
    }

    pub(super) fn subscribe(&mut self, input: &mut Input<'_>) {
        let chosen = Bits(input.byte());
        let mut filters: Vec<_> =
            (0..8).zip(FILTERS).filter(|(bit, _)| chosen.has(*bit)).map(|(_, text)| filter(text)).collect();
        if filters.is_empty() {
            // Too long for some brokers.
            filters.push(filter(&format!("only/{:030}", self.callers.names)));
            self.callers.names += 1;
        }
        let (qos, kind, offline) = (input.pick(&QOS), input.byte(), input.pick(&OFFLINE));
        let deadline = self.now + input.pick(&STEPS);
        if self.options.holds.is_some() && !self.streams.begin() {
            return;
        }
        let mut wish = Wish::new(qos, RETAINED[usize::from(kind) % RETAINED.len()]);
        if self.options.version.may_be_5() {
            wish.no_local = kind & 0x40 != 0 && filters.iter().all(|filter| filter.share_group().is_none());
            wish.retain_as_published = kind & 0x80 != 0 && wish.retained != Retained::Only;
        }
        let (reply, answer) = Reply::channel();
        self.callers.push(Waiting::Subscribe(filters.clone(), answer), Some(deadline));
        let capacity = self.options.holds.unwrap_or(4);
        let subscribe = Subscribe { filters, wish, capacity, offline, deadline, reply };
        self.session.handle_command(Command::Subscribe(subscribe), self.now);
    }

    pub(super) fn request(&mut self, input: &mut Input<'_>) {
        if self.options.holds.is_some() {
            return self.read_stream(input);
        }
        self.callers.requests += 1;
        let id = RequestId(self.callers.requests);
        let (reply, answer) = Reply::channel();
        let deadline = self.now + input.pick(&STEPS);
        self.callers.push(Waiting::Request(id, answer), Some(deadline));
        let (topic, payload, qos) = (topic(input.pick(&TOPICS)), Bytes::from_static(b"question"), input.pick(&QOS));
        let (reply_to, key) = (reply_paths(input), reply_key(input));
        let mut publish = wire::Publish { topic, payload, qos, retain: false, properties: None, lenient: false };
        if let Some(key) = key.as_ref().filter(|_| self.options.version.may_be_5()) {
            // Asked for by name only where the replies are known by it; what others say nobody looks at.
            let properties = self.callers.numbered().with_correlation_data(key.value.clone());
            (publish.properties, publish.lenient) = (Some(Box::new(properties)), input.bool());
            self.callers.note_asked(&publish, Some(deadline));
        }
        let wanted = match input.byte() {
            count @ 0x80.. => Wanted::UpTo(usize::from(count % 4) + 1),
            count @ 0x70.. => Wanted::Each(broadcast::channel(usize::from(count % 4) + 1).0),
            count => Wanted::Exactly(usize::from(count % 4) + 1),
        };
        let offline = input.pick(&OFFLINE);
        let publish = Some(publish);
        let request = Request { id, publish, reply_to, key, wanted, offline, deadline, reply };
        self.session.handle_command(Command::Request(Box::new(request)), self.now);
    }

    pub(super) fn wait_for_unsubscribe(&mut self, answer: Answer<()>) {
        self.callers.push(Waiting::Unsubscribe(answer), None);
    }

    pub(super) fn leave_one(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.byte());
        if !self.callers.waiting.is_empty() {
            let caller = self.callers.waiting.swap_remove(which % self.callers.waiting.len());
            self.leave(caller);
        }
    }

    /// Who waits for the end stays.
    pub(super) fn leave_all(&mut self) {
        for caller in std::mem::take(&mut self.callers.waiting) {
            match caller.waiting {
                Waiting::Close(_) => self.callers.waiting.push(caller),
                _ => self.leave(caller),
            }
        }
    }

    /// What dropping a future does.
    fn leave(&mut self, caller: Caller) {
        if let Waiting::Request(id, answer) = caller.waiting {
            drop(answer);
            let _ = self.notices.send(Notice::RequestGone(id));
        }
    }

    pub(super) fn close(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let until = self.now + input.pick(&STEPS);
        match kind % 8 {
            0 => {
                for caller in std::mem::take(&mut self.callers.waiting) {
                    self.leave(caller);
                }
                self.session.handle_abandoned(until);
            }
            kind @ 1..=3 => {
                let (reply, answer) = Reply::channel();
                self.callers.push(Waiting::Close(answer), None);
                let drain_until = (kind > 1).then_some(until);
                let _ = self.notices.send(Notice::Close(Close { drain_until, reply }));
                self.take_notices();
            }
            4 => self.give_up(),
            // The end should not be what most inputs come to.
            _ => {}
        }
    }

    pub(super) fn take_answers(&mut self) {
        let Self { callers, streams, .. } = self;
        callers.waiting.retain_mut(|caller| match &mut caller.waiting {
            Waiting::Publish(answer) => answered(answer).is_none(),
            Waiting::Request(_, answer) => answered(answer).is_none(),
            Waiting::Unsubscribe(answer) => answered(answer).is_none(),
            Waiting::Close(answer) => answered(answer).is_none(),
            Waiting::Subscribe(filters, answer) => match answered(answer) {
                None => true,
                Some(Ok(feed)) => {
                    streams.open(std::mem::take(filters), feed);
                    false
                }
                Some(Err(_)) => false,
            },
        });
    }

    pub(super) fn check_deadlines(&self) {
        let is_late = |caller: &&Caller| caller.deadline.is_some_and(|deadline| deadline <= self.now);
        let late = self.callers.waiting.iter().filter(is_late);
        assert_eq!(late.count(), 0, "a caller waits beyond its deadline");
    }

    pub(super) fn check_all_answered(&self) {
        assert!(self.callers.waiting.is_empty(), "someone had no answer");
    }
}

impl Callers {
    fn push(&mut self, waiting: Waiting, deadline: Option<Instant>) {
        self.waiting.push(Caller { waiting, deadline });
    }

    fn numbered(&self) -> Properties {
        Properties::default().with_user_property(NUMBER, self.asked.len().to_string())
    }

    fn note_asked(&mut self, publish: &wire::Publish, expires: Option<Instant>) {
        if publish.properties.is_some() {
            self.asked.push(Asked { publish: publish.clone(), expires });
        }
    }

    /// What was asked for where these properties went out.
    pub(super) fn asked(&self, properties: &Properties) -> Option<&Asked> {
        self.asked.get(properties.user_property(NUMBER)?.parse::<usize>().ok()?)
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

pub(super) fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a valid topic")
}

fn filter(text: &str) -> Filter {
    Filter::new(text).expect("a valid filter")
}
