//! JSON payloads.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
        match pointer.seek(self.payload(), PhantomData) {
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
        self.seek(payload, PhantomData::<Value>).ok()?.as_ref().and_then(scalar)
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
        while let Some(is_next) = map.next_key_seed(Is(token))? {
            match seed.take_if(|_| is_next) {
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

/// Tells whether a key is this one, which need not be kept for that.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// What an identifier can be; None of all else. No number starts with a quotation mark.
fn scalar(value: &Value) -> Option<Bytes> {
    Some(match value {
        Value::Bool(value) => value.to_string().into(),
        Value::String(text) => ["\"", text].concat().into(),
        // Not as it was written: 17 and 17.0 are the same.
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.to_string().into(),
            (None, Some(number)) => number.to_string().into(),
            (None, None) => number.as_f64()?.to_string().into(),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    })
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
    fn a_number_is_found_whatever_it_is() {
        let numbers = ["0", "17", "-17", "18446744073709551615", "-9223372036854775808", "0.5", "-1.25"];
        for number in numbers {
            assert_eq!(find("/id", &format!("{{\"id\":{number}}}")).as_deref(), Some(number));
        }
        assert_eq!(find("/id/x", "{\"id\":17}"), None, "nothing is within a number");
    }

    #[test]
    fn keys_are_compared_as_what_they_say() {
        assert_eq!(find("/a", r#"{"\u0061":1}"#).as_deref(), Some("1"));
        assert_eq!(find("/é", r#"{"é":1}"#).as_deref(), Some("1"));
        assert_eq!(find("/a", r#"{"aa":1,"":2,"A":3}"#), None);
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
