//! Requests that come twice, and what was answered the first time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::reply::ReplyBody;
use crate::Topic;

/// Two requests with the same of these are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Same {
    reply_to: Topic,
    key: Bytes,
}

impl Same {
    /// The key is copied: a slice would keep the block it was read into for as long as the request is remembered.
    pub(super) fn new(reply_to: Topic, key: &[u8]) -> Self {
        Self { reply_to, key: Bytes::copy_from_slice(key) }
    }
}

/// The answers of the last requests, and which requests have none yet.
pub(super) struct Answered {
    entries: HashMap<Same, Option<ReplyBody>>,
    /// Those that have an answer, oldest first.
    order: VecDeque<(Instant, Same)>,
    bytes: usize,
    most: usize,
    age: Duration,
}

/// What is known of a request that came.
pub(super) enum Known {
    New,
    /// Its answer is on its way.
    Running,
    Answered(ReplyBody),
}

/// Answers are remembered up to this size together.
const MAX_BYTES: usize = 16 << 20;

impl Answered {
    pub(super) fn new(most: usize, age: Duration) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, most, age }
    }

    /// Notes a request that came.
    pub(super) fn note(&mut self, same: &Same, now: Instant) -> Known {
        self.forget_old(now);
        match self.entries.get(same) {
            Some(Some(reply)) => Known::Answered(reply.clone()),
            Some(None) => Known::Running,
            None => {
                self.entries.insert(same.clone(), None);
                Known::New
            }
        }
    }

    /// The request has its answer; None where it is to be handled anew if it comes again.
    pub(super) fn settle(&mut self, same: Same, reply: Option<ReplyBody>, now: Instant) {
        let Some(mut reply) = reply.filter(|reply| self.most > 0 && weight(&same, reply) <= MAX_BYTES) else {
            self.entries.remove(&same);
            return;
        };
        // For the same reason as the key: it may be a slice of the request.
        reply.payload = Bytes::copy_from_slice(&reply.payload);
        self.bytes += weight(&same, &reply);
        self.entries.insert(same.clone(), Some(reply));
        self.order.push_back((now, same));
        while self.order.len() > self.most || self.bytes > MAX_BYTES {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| now - *at > self.age) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, same)) = self.order.pop_front() else { return };
        if let Some(Some(reply)) = self.entries.remove(&same) {
            self.bytes -= weight(&same, &reply);
        }
    }
}

/// What an answer takes while it is remembered: in the table, and in the order.
fn weight(same: &Same, reply: &ReplyBody) -> usize {
    const PLACES: usize = size_of::<(Same, Option<ReplyBody>)>() + size_of::<(Instant, Same)>();
    // A clone of a topic is a copy, one of the key is not.
    PLACES + 2 * same.reply_to.as_str().len() + same.key.len() + reply.payload.len() + reply.properties.size()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(n: usize) -> Same {
        Same::new(Topic::new("r").unwrap(), n.to_string().as_bytes())
    }

    fn is_new(answered: &mut Answered, n: usize, now: Instant) -> bool {
        matches!(answered.note(&same(n), now), Known::New)
    }

    #[test]
    fn answers_are_remembered_up_to_their_number_age_and_size() {
        let now = Instant::now();
        let mut answered = Answered::new(2, Duration::from_secs(60));
        for n in 0..3 {
            assert!(is_new(&mut answered, n, now));
            assert!(matches!(answered.note(&same(n), now), Known::Running));
            answered.settle(same(n), Some(ReplyBody::new("x")), now);
        }
        assert!(matches!(answered.note(&same(2), now), Known::Answered(_)));
        assert!(is_new(&mut answered, 0, now), "one too many");
        answered.settle(same(0), None, now);
        let later = now + Duration::from_secs(61);
        assert!(is_new(&mut answered, 2, later), "too old");
        for n in 3..5 {
            is_new(&mut answered, n, later);
            answered.settle(same(n), Some(ReplyBody::new(vec![0; MAX_BYTES / 2])), later);
        }
        assert!(is_new(&mut answered, 3, later), "too large together");
        assert!(answered.bytes <= MAX_BYTES && answered.order.len() <= 2);
    }

    #[test]
    fn all_that_is_kept_of_an_answer_counts() {
        const LONG: usize = 60_000;
        let now = Instant::now();
        let large: [fn(Same) -> (Same, ReplyBody); 4] = [
            |same| (same, ReplyBody::new(vec![0; LONG])),
            |same| (same, ReplyBody::new("x").user_property("error", "x".repeat(LONG))),
            |same| (Same::new(same.reply_to, &[&same.key, &[0; LONG][..]].concat()), ReplyBody::new("x")),
            |same| (Same::new(Topic::new("r".repeat(LONG)).unwrap(), &same.key), ReplyBody::new("x")),
        ];
        for large in large {
            let mut answered = Answered::new(usize::MAX, Duration::MAX);
            for n in 0..2 * MAX_BYTES / LONG {
                let (same, reply) = large(same(n));
                assert!(matches!(answered.note(&same, now), Known::New));
                answered.settle(same, Some(reply), now);
            }
            assert!(answered.order.len() <= MAX_BYTES / LONG && answered.order.len() == answered.entries.len());
            (0..answered.order.len()).for_each(|_| answered.forget_oldest());
            assert_eq!((answered.bytes, answered.entries.len()), (0, 0));
        }
    }

    #[test]
    fn an_answer_that_is_kept_holds_no_block_that_was_read_into() {
        let now = Instant::now();
        let mut answered = Answered::new(1, Duration::MAX);
        let block = Bytes::from(vec![0; 1 << 16]);
        let request = || Same::new(Topic::new("r").unwrap(), &block.slice(..8));
        answered.note(&request(), now);
        answered.settle(request(), Some(ReplyBody::new(block.slice(..9))), now);
        assert!(matches!(answered.note(&request(), now), Known::Answered(reply) if reply.payload.len() == 9));
        assert!(block.is_unique());
    }

    #[test]
    fn nothing_is_remembered_where_nothing_is_to_be() {
        let now = Instant::now();
        let mut answered = Answered::new(0, Duration::from_secs(60));
        assert!(is_new(&mut answered, 1, now));
        answered.settle(same(1), Some(ReplyBody::new("x")), now);
        assert!(is_new(&mut answered, 1, now));
        assert_eq!((answered.order.len(), answered.bytes), (0, 0));
    }
}
