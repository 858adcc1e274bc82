//! The connections of the broker in memory, and what is done to them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::sync::watch;

use super::routes::Routes;
use super::session::Session;
use crate::testing::packets::{Fate, Packet, Plans};
use crate::wire::peer::{decode_client_packet, decode_hello, encode_answer, Answer};
use crate::{Error, ReasonCode, Version};

/// All there is of the broker. It acts in the calls of its clients: none of it runs by itself.
pub(super) struct Hub {
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) sessions: BTreeMap<u64, Session>,
    /// By client identifier.
    pub(super) names: HashMap<String, u64>,
    pub(super) routes: Routes,
    pub(super) plans: Plans,
    /// What the next CONNECT packets are refused for.
    pub(super) refusals: VecDeque<ReasonCode>,
    pub(super) refuse: bool,
    /// Whether what clients send vanishes.
    pub(super) hole_up: bool,
    /// Whether what is sent to clients vanishes.
    pub(super) hole_down: bool,
    pub(super) counts: watch::Sender<Counts>,
    /// Messages that found no room in a session, or that were too large for a client.
    pub(super) lost: u64,
    /// The last number given to a link or a session.
    last: u64,
}

/// One connection.
pub(super) struct Link {
    input: BytesMut,
    output: BytesMut,
    reader: Option<Waker>,
    writer: Option<Waker>,
    end: Option<End>,
    /// From CONNECT on.
    pub(super) session: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// What was sent before still arrives.
    Close,
    Reset,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) accepted: usize,
    pub(super) live: usize,
}

/// While a client has not read so much, it is sent nothing and may not write, in bytes.
const OUTPUT: usize = 64 * 1024;
/// What one write takes at most.
const INPUT: usize = 16 * 1024;

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            names: HashMap::new(),
            routes: Routes::new(),
            plans: Plans::default(),
            refusals: VecDeque::new(),
            refuse: false,
            hole_up: false,
            hole_down: false,
            counts: watch::Sender::new(Counts::default()),
            lost: 0,
            last: 0,
        }
    }

    /// The number of a new connection; None where there is to be none.
    pub(super) fn accept(&mut self) -> Option<u64> {
        let is_live = !self.refuse;
        self.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.live += usize::from(is_live);
        });
        is_live.then(|| {
            let link = self.next_number();
            self.links.insert(link, Link::new());
            link
        })
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What the client is sent, at most so many bytes; nothing at the end.
    pub(super) fn poll_read(&mut self, link: u64, most: usize, cx: &Context<'_>) -> Poll<Result<BytesMut, End>> {
        let Some(held) = self.links.get_mut(&link) else { return Poll::Ready(Err(End::Reset)) };
        if held.output.is_empty() {
            return match held.end {
                Some(End::Close) => Poll::Ready(Ok(BytesMut::new())),
                Some(End::Reset) => Poll::Ready(Err(End::Reset)),
                None => {
                    held.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let bytes = held.output.split_to(held.output.len().min(most));
        wake(&mut held.writer);
        if let Some(session) = held.session {
            self.pump(session);
        }
        Poll::Ready(Ok(bytes))
    }

    /// Takes what the client sends, and acts on it; how many bytes.
    pub(super) fn poll_write(&mut self, link: u64, bytes: &[u8], cx: &Context<'_>) -> Poll<Result<usize, End>> {
        let Some(held) = self.links.get_mut(&link).filter(|held| held.end.is_none()) else {
            return Poll::Ready(Err(End::Reset));
        };
        if held.output.len() >= OUTPUT {
            held.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(INPUT);
        held.input.extend_from_slice(&bytes[..taken]);
        while self.take_packet(link).unwrap_or_else(|_| {
            self.detach(link, End::Close);
            false
        }) {}
        Poll::Ready(Ok(taken))
    }

    /// Whether there was one.
    fn take_packet(&mut self, link: u64) -> Result<bool, Error> {
        let Some(held) = self.links.get_mut(&link).filter(|held| held.end.is_none()) else { return Ok(false) };
        let Some(session) = held.session else {
            let Some(hello) = decode_hello(&mut held.input)? else { return Ok(false) };
            if !self.hole_up {
                self.handle_hello(link, hello);
            }
            return Ok(true);
        };
        let Some(version) = self.sessions.get(&session).map(|session| session.version) else { return Ok(false) };
        let Some((sent, carried)) = decode_client_packet(version, &mut held.input)? else { return Ok(false) };
        if !self.hole_up {
            self.handle_packet(link, session, sent, carried)?;
        }
        Ok(true)
    }

    /// The client has hung up.
    pub(super) fn hang_up(&mut self, link: u64) {
        self.detach(link, End::Close);
        self.links.remove(&link);
    }

    pub(super) fn end_all(&mut self, end: End) {
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.detach(link, end);
        }
    }

    /// Nobody has the broker any more.
    pub(super) fn stop(&mut self) {
        let connected: Vec<_> = self.sessions.values().filter_map(|session| session.link).collect();
        for link in connected {
            self.answer(link, Answer::Disconnect(ReasonCode::SERVER_SHUTTING_DOWN));
        }
        self.refuse = true;
        self.end_all(End::Close);
        self.sessions.clear();
        self.names.clear();
        self.routes = Routes::new();
    }

    /// Ends a connection on this side.
    pub(super) fn detach(&mut self, link: u64, end: End) {
        let Some(held) = self.links.get_mut(&link).filter(|held| held.end.is_none()) else { return };
        held.end = Some(end);
        held.input.clear();
        if end == End::Reset {
            held.output.clear();
        }
        wake(&mut held.reader);
        wake(&mut held.writer);
        let session = held.session.take();
        self.counts.send_modify(|counts| counts.live -= 1);
        if let Some(session) = session {
            self.leave(session);
        }
    }

    /// What happens to a packet of this kind on its way to a client.
    pub(super) fn fate(&mut self, packet: Packet) -> Fate {
        match self.hole_down {
            true => Fate::Drop,
            false => self.plans.take(packet as u8),
        }
    }

    pub(super) fn answer(&mut self, link: u64, answer: Answer<'_>) {
        let fate = match kind(&answer) {
            Some(packet) => self.fate(packet),
            None if self.hole_down => Fate::Drop,
            None => Fate::Pass,
        };
        if fate != Fate::Drop {
            self.put_answer(link, answer);
        }
    }

    /// One whose fate is known.
    pub(super) fn put_answer(&mut self, link: u64, answer: Answer<'_>) {
        let Some(held) = self.links.get_mut(&link) else { return };
        let session = held.session.and_then(|session| self.sessions.get(&session));
        encode_answer(session.map_or(Version::V311, |session| session.version), answer, &mut held.output);
        wake(&mut held.reader);
    }

    /// Refuses a CONNECT.
    pub(super) fn refuse(&mut self, link: u64, version: Version, code: ReasonCode) {
        if let Some(held) = self.links.get_mut(&link) {
            encode_answer(version, Answer::ConnAck { session_present: false, code, client_id: None }, &mut held.output);
        }
        self.detach(link, End::Close);
    }

    /// Sends a client what waits for it, as far as it takes it.
    pub(super) fn pump(&mut self, session: u64) {
        let Some(held) = self.sessions.get_mut(&session) else { return };
        let Some(link) = held.link.and_then(|link| self.links.get_mut(&link)) else { return };
        while link.output.len() < OUTPUT {
            let Some((delivery, was_sent)) = held.poll_send() else { return };
            let kind = if delivery.is_released { Packet::PubRel } else { Packet::Publish };
            if self.hole_down || self.plans.take(kind as u8) == Fate::Drop {
                continue;
            }
            let before = link.output.len();
            delivery.encode(held.version, was_sent, &mut link.output);
            if link.output.len() - before > held.maximum_packet_size {
                // As if it had been sent and acknowledged (MQTT-3.1.2-25 of MQTT 5).
                link.output.truncate(before);
                held.handle_done(delivery.id);
                self.lost += 1;
            }
            wake(&mut link.reader);
        }
    }
}

impl Link {
    fn new() -> Self {
        Self { input: BytesMut::new(), output: BytesMut::new(), reader: None, writer: None, end: None, session: None }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn kind(answer: &Answer<'_>) -> Option<Packet> {
    Some(match answer {
        Answer::ConnAck { .. } => Packet::ConnAck,
        Answer::PubAck(..) => Packet::PubAck,
        Answer::PubRec(..) => Packet::PubRec,
        Answer::PubRel(_) => Packet::PubRel,
        Answer::PubComp(_) => Packet::PubComp,
        Answer::SubAck(..) => Packet::SubAck,
        Answer::UnsubAck(..) => Packet::UnsubAck,
        Answer::PingResp => Packet::PingResp,
        Answer::Disconnect(_) => return None,
    })
}
