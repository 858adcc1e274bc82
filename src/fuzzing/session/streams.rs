//! Those who read streams, and what becomes of the messages that they hold.

use std::collections::BTreeSet;

use tokio::sync::broadcast::{self, error::TryRecvError};

use super::World;
use crate::command::{Event, Feed, SubscriberGuard};
use crate::fuzzing::input::Input;
use crate::{Filter, Message};

pub(super) struct Streams {
    /// Messages are acknowledged one by one, not as they are taken.
    is_manual: bool,
    /// The one subscription of a session that holds was made.
    has_begun: bool,
    open: Vec<Stream>,
    /// Messages that are neither acknowledged nor dropped.
    kept: Vec<Message>,
    /// The numbers of messages that may be acknowledged: taken, acknowledged by a reader, or for nobody.
    may_be_acknowledged: BTreeSet<u32>,
    /// Of these, the ones that nothing keeps back but what came before them.
    must_be_acknowledged: BTreeSet<u32>,
}

struct Stream {
    filters: Vec<Filter>,
    guard: SubscriberGuard,
    channel: broadcast::WeakSender<Event>,
    readers: Vec<Reader>,
    /// It had more than one reader.
    is_shared: bool,
}

struct Reader {
    events: broadcast::Receiver<Event>,
    /// The number of the last message.
    last: u32,
}

impl World {
    pub(super) fn read_stream(&mut self, input: &mut Input<'_>) {
        let (which, how) = (input.byte(), input.byte());
        let is_holding = self.options.holds.is_some();
        let Some(stream) = pick(&mut self.streams.open, which) else { return };
        let Some(reader) = pick(&mut stream.readers, how >> 4) else { return };
        let message = match reader.events.try_recv() {
            Ok(Ok(message)) => message,
            Ok(Err(_)) | Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            Err(TryRecvError::Lagged(_)) => {
                // Where one reader acknowledges, those beside it may be behind.
                let may_lose = !is_holding || (self.streams.is_manual && stream.is_shared);
                return assert!(may_lose, "a stream that loses nothing lost a message");
            }
        };
        let is_asked_for = stream.filters.iter().any(|filter| filter.matches(message.topic()));
        assert!(is_asked_for, "{message:?} is none of {:?}", stream.filters);
        let number = number(&message);
        assert!(number > reader.last, "a message came twice, or before one that came first");
        reader.last = number;
        self.streams.treat(message, how);
    }

    /// One of the messages that are held is acknowledged, or dropped, or both.
    pub(super) fn let_go(&mut self, input: &mut Input<'_>) {
        let (which, how) = (usize::from(input.byte()), input.byte());
        if self.streams.kept.is_empty() {
            return;
        }
        let message = self.streams.kept.swap_remove(which % self.streams.kept.len());
        if how % 4 != 0 {
            self.streams.acknowledge(&message);
        }
        if how % 4 == 3 {
            self.streams.kept.push(message);
        }
    }

    /// What cloning a subscription does, and dropping a clone.
    pub(super) fn share_stream(&mut self, input: &mut Input<'_>) {
        let (which, how) = (input.byte(), input.byte());
        let Some(stream) = pick(&mut self.streams.open, which) else { return };
        if how % 4 == 0 && stream.readers.len() > 1 {
            stream.readers.swap_remove(usize::from(how) % stream.readers.len());
        } else if let Some(channel) = stream.channel.upgrade() {
            stream.readers.push(Reader { events: channel.subscribe(), last: 0 });
            stream.is_shared = true;
        }
    }

    pub(super) fn end_stream(&mut self, input: &mut Input<'_>) {
        let (which, calls) = (usize::from(input.byte()), input.bool());
        if self.streams.open.is_empty() {
            return;
        }
        let stream = self.streams.open.swap_remove(which % self.streams.open.len());
        if calls {
            self.wait_for_unsubscribe(stream.guard.unsubscribe());
        }
    }
}

impl Streams {
    pub(super) fn new(is_manual: bool) -> Self {
        Self {
            is_manual,
            has_begun: false,
            open: Vec::new(),
            kept: Vec::new(),
            may_be_acknowledged: BTreeSet::new(),
            must_be_acknowledged: BTreeSet::new(),
        }
    }

    /// Whether the one subscription of a session that holds may be made.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.has_begun, true)
    }

    pub(super) fn open(&mut self, filters: Vec<Filter>, feed: Feed) {
        let Feed { events, channel, guard, granted } = feed;
        assert!(granted.iter().all(|(filter, _)| filters.contains(filter)));
        let readers = vec![Reader { events, last: 0 }];
        self.open.push(Stream { filters, guard, channel, readers, is_shared: false });
    }

    /// Everyone leaves.
    pub(super) fn clear(&mut self) {
        self.open.clear();
        self.kept.clear();
    }

    fn treat(&mut self, mut message: Message, how: u8) {
        if !self.is_manual {
            self.may_be_acknowledged.insert(number(&message));
            return message.take();
        }
        match how % 4 {
            0 => self.acknowledge(&message),
            1 => {}
            _ => self.kept.push(message),
        }
    }

    fn acknowledge(&mut self, message: &Message) {
        message.ack();
        self.note_settled(number(message));
    }

    /// This message may be acknowledged, whoever takes it.
    pub(super) fn note_free(&mut self, number: u32) {
        self.may_be_acknowledged.insert(number);
    }

    /// Nothing keeps back the acknowledgement of this message.
    pub(super) fn note_settled(&mut self, number: u32) {
        self.may_be_acknowledged.insert(number);
        self.must_be_acknowledged.insert(number);
    }

    pub(super) fn may_be_acknowledged(&self, number: u32) -> bool {
        self.may_be_acknowledged.contains(&number)
    }

    pub(super) fn must_be_acknowledged(&self, number: u32) -> bool {
        self.must_be_acknowledged.contains(&number)
    }

    /// The agent is at its end, and each stream behind what it still holds.
    pub(super) fn check_ended(&mut self) {
        for reader in self.open.iter_mut().flat_map(|stream| &mut stream.readers) {
            loop {
                match reader.events.try_recv() {
                    Err(TryRecvError::Closed) => break,
                    Err(TryRecvError::Empty) => panic!("a stream goes on without its agent"),
                    Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                }
            }
        }
    }
}

/// The number that the world gave to a message as it arrived, behind the first byte of its payload.
fn number(message: &Message) -> u32 {
    let digits = message.payload().get(1..5).and_then(|digits| digits.try_into().ok());
    digits.map(u32::from_be_bytes).expect("a message that was numbered")
}

fn pick<T>(from: &mut [T], which: u8) -> Option<&mut T> {
    let at = usize::from(which) % from.len().max(1);
    from.get_mut(at)
}
