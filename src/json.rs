//! JSON payloads.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::{Error, Message};

/// What is sent as JSON: the answer of a handler of [`Agent::serve`](crate::Agent::serve).
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::Json;
///
/// let service = agent.serve("dev/42/uptime", |_| async { Json([("seconds", 17)]) }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

pub(crate) const CONTENT_TYPE: &str = "application/json";

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Into::into).map_err(unwritable)
}

pub(crate) fn unwritable(error: serde_json::Error) -> Error {
    Error::invalid_argument("the value cannot be written as JSON").with_source(error)
}

impl Message {
    /// Reads the payload as JSON. What is borrowed from it, such as a `&str`, borrows from the message.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// #[derive(serde::Deserialize)]
    /// struct Reading {
    ///     celsius: f64,
    /// }
    ///
    /// let reading: Reading = agent.request("sensor/1/read", "").reply_to("sensor/1/value").await?.json()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode), with the message in [`Error::messages`].
    pub fn json<'m, T: Deserialize<'m>>(&'m self) -> Result<T, Error> {
        serde_json::from_slice(self.payload())
            .map_err(|error| Error::decode("the payload is not the JSON expected", self).with_source(error))
    }

    /// Reads the part of a JSON payload that is at this pointer (RFC 6901), such as `/result`.
    ///
    /// # Errors
    ///
    /// As [`json`](Self::json), also where there is nothing at the pointer;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a text that is no pointer.
    pub fn json_at<'m, T: Deserialize<'m>>(&'m self, pointer: &str) -> Result<T, Error> {
        let pointer = Pointer::new(pointer)?;
        match pointer.seek(self.payload(), std::marker::PhantomData) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Error::decode(format!("the payload has nothing at {pointer}"), self)),
            Err(error) => {
                let what = format!("the payload is not JSON with what is expected at {pointer}");
                Err(Error::decode(what, self).with_source(error))
            }
        }
    }
}

/// A place in a JSON document (RFC 6901). It is looked up without building the document: what a peer sends is thrown
/// away as it is read, but for the value asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl Pointer {
    pub(crate) fn new(text: &str) -> Result<Self, Error> {
        let mut tokens = text.split('/');
        if tokens.next() != Some("") {
            return Err(Error::invalid_argument(format!("a JSON pointer starts with '/', and {text:?} does not")));
        }
        Ok(Self(tokens.map(|token| token.replace("~1", "/").replace("~0", "~")).collect()))
    }

    /// The number, text or truth value at this place, in a form that is the same for the same value and no other.
    pub(crate) fn find(&self, payload: &[u8]) -> Option<Bytes> {
        self.seek(payload, Scalar).ok()??
    }

    /// The first value at this place.
    fn seek<'de, S: DeserializeSeed<'de>>(
        &self,
        payload: &'de [u8],
        seed: S,
    ) -> Result<Option<S::Value>, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(payload);
        let found = Seek { path: &self.0, seed }.deserialize(&mut json)?;
        json.end()?;
        Ok(found)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.0.iter().map(|token| token.replace('~', "~0").replace('/', "~1"));
        f.write_str("\"")?;
        tokens.into_iter().try_for_each(|token| write!(f, "/{token}"))?;
        f.write_str("\"")
    }
}

/// The rest of the way to a value.
struct Seek<'p, S> {
    path: &'p [String],
    seed: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seek<'_, S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        match self.path {
            [] => self.seed.deserialize(json).map(Some),
            _ => json.deserialize_any(self),
        }
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Seek<'_, S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut seed, mut found) = (Some(self.seed), None);
        let Some((token, path)) = self.path.split_first() else { return Ok(None) };
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match seed.take_if(|_| *key == **token) {
                Some(seed) => found = map.next_value_seed(Seek { path, seed })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((token, path)) = self.path.split_first() else { return Ok(None) };
        let mut found = None;
        if let Some(index) = index(token) {
            for _ in 0..index {
                if seq.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(None);
                }
            }
            found = seq.next_element_seed(Seek { path, seed: self.seed })?.flatten();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// RFC 6901, section 4: digits, without zeros in front.
fn index(token: &str) -> Option<usize> {
    let is_plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    is_plain.then(|| token.parse().ok()).flatten()
}

/// Reads what an identifier can be, and nothing else.
struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = Option<Bytes>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Option<Bytes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Bytes::from_static(if value { b"true" } else { b"false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        // No number starts with a quotation mark.
        Ok(Some(["\"", value].concat().into()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::plain;
    use crate::{ErrorKind, QoS, Topic};

    fn message(payload: &'static str) -> Message {
        Message::new(plain(Topic::new("t").unwrap(), payload.into(), QoS::AtMostOnce, 0))
    }

    fn find(pointer: &str, json: &str) -> Option<String> {
        let found = Pointer::new(pointer).unwrap().find(json.as_bytes())?;
        Some(String::from_utf8(found.to_vec()).unwrap())
    }

    #[test]
    fn a_pointer_finds_what_the_specification_says() {
        let json = r#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"deep":{"er":[1,{"id":17}]},"t":true,"n":null}"#;
        let found = [
            ("/foo/0", "\"bar"),
            ("/foo/1", "\"baz"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/m~0n", "8"),
            ("/deep/er/1/id", "17"),
            ("/t", "true"),
        ];
        for (pointer, value) in found {
            assert_eq!(find(pointer, json).as_deref(), Some(value), "{pointer}");
        }
        for pointer in ["/foo", "/foo/2", "/foo/00", "/foo/-", "/foo/x", "/n", "/deep/er/0/id", "/t/x", "/nothing", ""]
        {
            assert_eq!(find(pointer, json), None, "{pointer}");
        }
        assert_eq!(Pointer::new("id").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn values_that_differ_are_different_keys() {
        assert_ne!(find("/id", r#"{"id":17}"#), find("/id", r#"{"id":"17"}"#));
        assert_eq!(find("/id", r#"{"id":"\u0061"}"#), find("/id", r#"{"id":"a"}"#));
        assert_eq!(find("/id", r#"{"id":17.0}"#), find("/id", r#"{"id":17}"#));
        assert_eq!(find("/id", r#"{"id":1,"id":2}"#).as_deref(), Some("1"), "the first of several");
    }

    #[test]
    fn what_is_not_json_has_nothing_in_it() {
        for payload in ["", "{", "{\"id\":1", "{\"id\":1} x", "\u{0}", &"[".repeat(100_000)] {
            assert_eq!(find("/id", payload), None);
        }
    }

    #[test]
    fn a_payload_that_cannot_be_decoded_is_in_the_error() {
        let wrong = message("{\"id\":");
        for error in [wrong.json::<u32>().unwrap_err(), wrong.json_at::<u32>("/id").unwrap_err()] {
            assert_eq!((error.kind(), error.messages()[0].payload()), (ErrorKind::Decode, wrong.payload()));
            assert!(std::error::Error::source(&error).is_some());
        }
        let right = message(r#"{"id":1,"result":{"text":"a"}}"#);
        assert_eq!(right.json_at::<&str>("/result/text").unwrap(), "a");
        assert_eq!(right.json_at::<u32>("/nothing").unwrap_err().kind(), ErrorKind::Decode);
    }
}
