//! Topics and filters: checked when built, so nothing behind them checks again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytestring::ByteString;

use crate::error::Error;

/// The name a message is published under: levels parted by `/`.
///
/// A `Topic` is valid once built, by the rules every MQTT version shares (clauses of MQTT 3.1.1):
///
/// - 1 to 65,535 bytes of UTF-8 (MQTT-4.7.3-1, MQTT-4.7.3-3);
/// - no NUL character (MQTT-4.7.3-2);
/// - no `+` or `#`: these belong to a [`Filter`] (MQTT-4.7.1-1, MQTT-3.3.2-2).
///
/// Levels may be empty, letter case counts, and a leading `/` makes another topic.
///
/// # Examples
///
/// ```
/// use mqtt_agent::Topic;
///
/// # fn main() -> Result<(), mqtt_agent::Error> {
/// let topic = Topic::new("devices/42/led")?;
/// assert_eq!(topic.levels().collect::<Vec<_>>(), ["devices", "42", "led"]);
/// assert!(Topic::new("devices/+/led").is_err());
/// # Ok(())
/// # }
/// ```
///
/// The topic of a [`Message`](crate::Message) shares the buffer it was read into, as the payload does. A clone has memory
/// of its own, so that topics may be kept for long.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(ByteString);

impl Topic {
    /// Checks `text` and makes it a topic.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTopic`](crate::ErrorKind::InvalidTopic) if `text` breaks one of the rules [above](Topic);
    /// the error says which.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        Self::from_wire(text.into().into())
    }

    /// The topic of a received message.
    pub(crate) fn from_wire(text: ByteString) -> Result<Self, Error> {
        match check_topic(&text) {
            Ok(()) => Ok(Self(text)),
            Err(why) => Err(Error::invalid_topic(&text, why)),
        }
    }

    /// One more of the same text, at no cost.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels, first to last; there is at least one, and any may be empty.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> + Clone + '_ {
        self.0.split('/')
    }
}

impl Clone for Topic {
    fn clone(&self) -> Self {
        Self(self.as_str().into())
    }
}

/// What a subscription asks for: a topic in which levels may be wildcards.
///
/// `+` stands for one whole level, even an empty one; `#`, only as the last level, for any number
/// of levels, none included: `a/#` matches `a`. A filter that starts with a wildcard does not
/// match topics that start with `$` (MQTT-4.7.2-1).
///
/// `$share/<group>/<filter>` is a shared subscription: the broker hands each message to one member
/// of the group. It matches what `<filter>` alone matches. Text that only begins alike, such as
/// `$shared/x`, is an ordinary filter.
///
/// A `Filter` is valid once built (clauses of MQTT 3.1.1; the last of MQTT 5):
///
/// - 1 to 65,535 bytes of UTF-8 (MQTT-4.7.3-1, MQTT-4.7.3-3), without NUL (MQTT-4.7.3-2);
/// - `#` only as the whole last level (MQTT-4.7.1-2), `+` only as a whole level (MQTT-4.7.1-3);
/// - a share group is not empty and holds no `+` or `#`, and a filter follows it (MQTT-4.8.2-1,
///   MQTT-4.8.2-2).
///
/// A clone is cheap: it shares the text.
///
/// # Examples
///
/// ```
/// use mqtt_agent::Filter;
///
/// # fn main() -> Result<(), mqtt_agent::Error> {
/// let filter = Filter::new("sensors/+/temp")?;
/// assert!(filter.matches("sensors/kitchen/temp"));
/// assert!(!filter.matches("sensors/kitchen/oven/temp"));
///
/// let shared = Filter::new("$share/workers/jobs/#")?;
/// assert_eq!(shared.share_group(), Some("workers"));
/// assert!(shared.matches("jobs/7"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(Arc<str>);

impl Filter {
    /// Checks `text` and makes it a filter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidFilter`](crate::ErrorKind::InvalidFilter) if `text` breaks one of the rules [above](Filter);
    /// the error says which.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        match check_filter(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(why) => Err(Error::invalid_filter(text, why)),
        }
    }

    /// The whole filter as text, with `$share/<group>/` if it has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels of the part that is matched, first to last: those after `$share/<group>/`.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> + Clone + '_ {
        self.matched().split('/')
    }

    /// Whether there is a topic that both match; true also for some that only a topic starting with `$` could decide.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.levels(), other.levels());
        loop {
            match (ours.next(), theirs.next()) {
                // It also matches its parent.
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(our), Some(their)) if our == their || our == "+" || their == "+" => {}
                _ => return false,
            }
        }
    }

    /// The group of a shared subscription.
    pub fn share_group(&self) -> Option<&str> {
        split_share(&self.0).map(|(group, _)| group)
    }

    /// Whether any level is `+` or `#`. Without one, the filter matches a single topic.
    pub fn has_wildcards(&self) -> bool {
        // In a valid filter these two characters are nothing but wildcards, and in no group.
        self.0.contains(['+', '#'])
    }

    /// Whether a message published to `topic` belongs to this subscription.
    ///
    /// Takes text or a [`Topic`]; the text is compared as it is, without a check.
    pub fn matches(&self, topic: impl AsRef<str>) -> bool {
        let (filter, topic) = (self.matched(), topic.as_ref());
        // [MQTT-4.7.2-1]: a leading wildcard does not see topics that start with '$'.
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in filter.split('/') {
            // Asked before a level is taken: '#' also matches its parent, where none is left.
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// The part that is matched: behind `$share/<group>/`.
    pub(crate) fn matched(&self) -> &str {
        split_share(&self.0).map_or(&self.0, |(_, matched)| matched)
    }
}

/// A topic is the filter that matches this topic alone.
///
/// Fails with [`ErrorKind::InvalidFilter`](crate::ErrorKind::InvalidFilter) for topics under `$share/`: as a filter, the
/// same text is a shared subscription.
impl TryFrom<&Topic> for Filter {
    type Error = Error;

    fn try_from(topic: &Topic) -> Result<Self, Error> {
        if is_share(&topic.0) {
            return Err(Error::invalid_filter(&topic.0, SHARE_TOPIC));
        }
        // Any other topic keeps the rules of a filter.
        Ok(Self(topic.as_str().into()))
    }
}

/// As for `&Topic`.
impl TryFrom<Topic> for Filter {
    type Error = Error;

    fn try_from(topic: Topic) -> Result<Self, Error> {
        Self::try_from(&topic)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.as_str().into()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.as_str().into()
    }
}

macro_rules! text_traits {
    ($name:ident from $($text:ty),+) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<&$name> for $name {
            fn from(other: &$name) -> Self {
                other.clone()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        $(impl TryFrom<$text> for $name {
            type Error = Error;

            fn try_from(text: $text) -> Result<Self, Error> {
                Self::new(text)
            }
        })+
    };
}

text_traits!(Topic from &str, String, &String);
text_traits!(Filter from &str, String, &String);

pub(crate) fn check_topic(text: &str) -> Result<(), &'static str> {
    check_length(text)?;
    match is_plain(text) {
        true => Ok(()),
        false if text.contains('\0') => Err(NUL),
        false => Err(WILDCARD),
    }
}

/// Whether it has no wildcard and no NUL character.
fn is_plain(text: &str) -> bool {
    // Without an early exit the compiler checks many bytes at once.
    let suspect = |byte| u8::from((byte == 0) | (byte == b'+') | (byte == b'#'));
    text.bytes().fold(0, |found, byte| found | suspect(byte)) == 0
}

pub(crate) fn check_filter(text: &str) -> Result<(), &'static str> {
    check_length(text)?;
    // Most are, and need no look at their levels.
    if is_plain(text) && !is_share(text) {
        return Ok(());
    }
    if text.contains('\0') {
        return Err(NUL);
    }
    let mut matched = text;
    if is_share(text) {
        let (group, rest) = split_share(text).ok_or(SHARE)?;
        if group.is_empty() || rest.is_empty() || group.contains(['+', '#']) {
            return Err(SHARE);
        }
        matched = rest;
    }
    let mut levels = matched.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(HASH);
        }
        if level.contains('+') && level != "+" {
            return Err(PLUS);
        }
    }
    Ok(())
}

fn check_length(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => Err(EMPTY),
        1..=MAX_BYTES => Ok(()),
        _ => Err(LONG),
    }
}

fn is_share(text: &str) -> bool {
    text.strip_prefix("$share").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The group and the matched part of `$share/<group>/<filter>`.
fn split_share(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("$share/")?.split_once('/')
}

/// A string on the wire has a length of two bytes.
const MAX_BYTES: usize = u16::MAX as usize;

const EMPTY: &str = "it needs at least one character";
const LONG: &str = "shorten it to 65,535 bytes at most";
const NUL: &str = "take out the NUL character";
const WILDCARD: &str = "'+' and '#' belong in filters: name one topic, such as a/b";
const HASH: &str = "'#' must be the last level, alone: a/#";
const PLUS: &str = "'+' must be a whole level: a/+/b";
const SHARE: &str = "a shared filter is $share/<group>/<filter>, the group without '+' or '#': $share/workers/a/#";
const SHARE_TOPIC: &str = "as a filter, a topic under $share/ is a shared subscription: \
    build the filter from text, $share/<group>/<filter>";

#[cfg(test)]
mod tests;
