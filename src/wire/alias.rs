//! Topic aliases of one connection (MQTT 5, section 3.3.2.3.4): numbers that stand for topics that come again.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::{Error, Topic};

/// The aliases the broker has told us.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Grown as they come; the first stands for alias 1.
    topics: Vec<Option<Topic>>,
    maximum: usize,
}

impl Known {
    pub(super) fn new(maximum: u16) -> Self {
        Self { topics: Vec::new(), maximum: maximum.into() }
    }

    /// The topic of a message that has this alias; `topic` is None where the alias stands alone.
    pub(super) fn resolve(&mut self, alias: u16, topic: Option<Topic>) -> Result<Topic, Error> {
        let index = usize::from(alias).wrapping_sub(1);
        if index >= self.maximum {
            return Err(Error::protocol(format!("the broker sent topic alias {alias}, which it may not use")));
        }
        let Some(topic) = topic else {
            let known = self.topics.get(index).and_then(Option::as_ref).map(Topic::share);
            return known
                .ok_or_else(|| Error::protocol(format!("the broker sent topic alias {alias} without a topic")));
        };
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        self.topics[index] = Some(topic.clone());
        Ok(topic)
    }
}

/// The aliases we have told the broker. Each topic has one place, which others may have too: a topic takes it over when
/// it comes twice in a row there, so that topics that come once cost nothing.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    places: Vec<Place>,
    maximum: u16,
    hasher: RandomState,
}

#[derive(Debug, Clone, Default)]
struct Place {
    topic: Option<Topic>,
    /// The hash of a topic that came last, and may come again.
    candidate: Option<u64>,
}

/// How a topic goes out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Plain,
    /// With its topic, so that the broker knows the alias from now on.
    Introduced(u16),
    /// By the alias alone.
    Known(u16),
}

/// An alias takes three bytes; a topic as short as that is sent as it is.
const SHORT: usize = 3;
/// However many the broker takes: each holds a topic here and there.
const MOST: u16 = 256;

impl Assigned {
    pub(super) fn new(maximum: u16) -> Self {
        Self { places: Vec::new(), maximum: maximum.min(MOST), hasher: RandomState::default() }
    }

    pub(super) fn assign(&mut self, topic: &Topic) -> Sending {
        if self.maximum == 0 || topic.as_str().len() <= SHORT {
            return Sending::Plain;
        }
        let hash = self.hasher.hash_one(topic.as_str());
        let index = (hash % u64::from(self.maximum)) as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, Place::default());
        }
        let place = &mut self.places[index];
        let alias = index as u16 + 1;
        if place.topic.as_ref() == Some(topic) {
            return Sending::Known(alias);
        }
        if place.candidate.replace(hash) != Some(hash) {
            return Sending::Plain;
        }
        place.topic = Some(topic.clone());
        Sending::Introduced(alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    #[test]
    fn an_alias_is_known_once_it_came_with_a_topic() {
        let mut known = Known::new(2);
        assert_eq!(known.resolve(2, Some(topic("a"))).unwrap(), topic("a"));
        assert_eq!(known.resolve(2, None).unwrap(), topic("a"));
        assert_eq!(known.resolve(2, Some(topic("b"))).unwrap(), topic("b"));
        assert_eq!(known.resolve(2, None).unwrap(), topic("b"));
    }

    #[test]
    fn an_alias_that_is_unknown_or_out_of_bounds_is_an_error() {
        let mut known = Known::new(2);
        for alias in [0, 1, 2, 3, u16::MAX] {
            assert_eq!(known.resolve(alias, None).unwrap_err().kind(), ErrorKind::Protocol);
        }
        assert!(known.resolve(3, Some(topic("a"))).is_err());
        assert!(known.resolve(0, Some(topic("a"))).is_err());
    }

    #[test]
    fn a_topic_is_introduced_when_it_comes_again_and_then_goes_by_its_alias() {
        let mut assigned = Assigned::new(1);
        let (first, second) = (topic("devices/1"), topic("devices/2"));
        assert_eq!(assigned.assign(&first), Sending::Plain);
        assert_eq!(assigned.assign(&first), Sending::Introduced(1));
        assert_eq!(assigned.assign(&first), Sending::Known(1));
        assert_eq!(assigned.assign(&second), Sending::Plain);
        assert_eq!(assigned.assign(&first), Sending::Known(1));
        assert_eq!(assigned.assign(&second), Sending::Introduced(1));
        assert_eq!(assigned.assign(&first), Sending::Plain);
    }

    #[test]
    fn no_alias_is_beyond_what_the_broker_takes_or_what_is_worth_its_memory() {
        for (announced, most) in [(7, 7), (u16::MAX, MOST)] {
            let mut assigned = Assigned::new(announced);
            for n in (0..1000).chain(0..1000).chain(0..1000) {
                match assigned.assign(&topic(&format!("devices/{n}"))) {
                    Sending::Plain => {}
                    Sending::Introduced(alias) | Sending::Known(alias) => assert!((1..=most).contains(&alias)),
                }
            }
            assert!(assigned.places.len() <= most.into(), "{}", assigned.places.len());
        }
        let mut none = Assigned::new(0);
        assert!((0..3).all(|_| none.assign(&topic("devices/1")) == Sending::Plain));
    }
}
