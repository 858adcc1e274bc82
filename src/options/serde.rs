//! Options from a configuration file, of any format that serde knows.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::settings::Settings;
use super::{LastWill, Options};
use crate::{Error, QoS};

/// With the feature `serde`. The names are those of the setters and of [`Options::from_url`], and `url` or else `host`,
/// `port` and `tls`; `username` and `password` or `password_file`; a table `last_will` with `topic`, `payload`, `qos` (0,
/// 1, 2) and `retain`; a table `websocket_headers`. Times are seconds, fractions allowed. An option in the `url` gives way
/// to the one that is set by name. An unknown name is an error.
///
/// Options cannot be serialized: nothing writes a password into a file.
///
/// ```
/// let options: mqtt_agent::Options = toml::from_str(
///     r#"
///     url = "mqtt://localhost"
///     client_id = "web-1"
///     keep_alive = 20
///     last_will = { topic = "web/1/state", payload = "gone", retain = true }
///     "#,
/// )?;
/// # Ok::<(), toml::de::Error>(())
/// ```
impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
        from_values(values).map_err(D::Error::custom)
    }
}

fn from_values(values: BTreeMap<String, Value>) -> Result<Options, Error> {
    let mut texts = BTreeMap::new();
    let mut tables = BTreeMap::new();
    for (name, value) in values {
        match value {
            Value::Text(text) => drop(texts.insert(name, text)),
            Value::Table(table) => drop(tables.insert(name, table)),
        }
    }
    let mut options = Settings::new("", texts).into_options()?;
    for (name, table) in tables {
        options = match name.as_str() {
            "last_will" => options.last_will(last_will(table)?),
            "websocket_headers" => {
                table.into_iter().fold(options, |options, (name, value)| options.websocket_header(name, value))
            }
            _ => return Err(Error::invalid_options(format!("the table {name:?} is unknown"))),
        };
    }
    Ok(options)
}

fn last_will(mut table: BTreeMap<String, String>) -> Result<LastWill, Error> {
    let topic = table.remove("topic").ok_or_else(|| Error::invalid_options("last_will: there is no topic"))?;
    let mut will = LastWill::new(topic, table.remove("payload").unwrap_or_default());
    for (name, value) in table {
        let refuse = || Error::invalid_options(format!("last_will: {name} cannot be {value:?}"));
        will = match (name.as_str(), value.as_str()) {
            ("qos", "0") => will.qos(QoS::AtMostOnce),
            ("qos", "1") => will.qos(QoS::AtLeastOnce),
            ("qos", "2") => will.qos(QoS::ExactlyOnce),
            ("retain", value) => will.retain(value.parse().map_err(|_| refuse())?),
            _ => return Err(refuse()),
        };
    }
    Ok(will)
}

/// A value as the text it would be in a URL, or a table of such.
enum Value {
    Text(String),
    Table(BTreeMap<String, String>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true, false, a list or a table of them")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<String>()? {
            items.push(item);
        }
        Ok(Value::Text(items.join(",")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            match value {
                Value::Text(text) => drop(table.insert(name, text)),
                Value::Table(_) => return Err(A::Error::custom(format!("{name} cannot be a table"))),
            }
        }
        Ok(Value::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Credentials;
    use crate::transport::Pem;
    use std::time::Duration;

    #[test]
    fn a_file_sets_what_it_names() {
        let json = r#"{"host": "broker", "port": 2883, "username": "me", "password": "hunter2", "keep_alive": 7,
            "timeout": 0.5, "clean_session": true, "failover": ["mqtt://second"],
            "last_will": {"topic": "a", "payload": "gone", "qos": 2, "retain": true}}"#;
        let options: Options = serde_json::from_str(json).unwrap();
        let endpoints: Vec<_> = options.endpoints().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["mqtt://broker:2883", "mqtt://second:1883"]);
        assert!(matches!(&options.credentials, Credentials::Fixed(login) if login.username == "me"));
        assert_eq!((options.keep_alive, options.timeout), (Duration::from_secs(7), Duration::from_millis(500)));
        let will = options.last_will.as_ref().unwrap().to_publish().unwrap();
        assert_eq!((will.topic.as_str(), will.qos, will.retain), ("a", QoS::ExactlyOnce, true));
        assert!(!format!("{options:?}").contains("hunter2"));
        options.check().unwrap();
    }

    #[test]
    fn what_a_file_says_by_name_stands_in_place_of_what_its_url_says() {
        let json =
            r#"{"url": "mqtts://h?ca_file=/old.pem&failover=mqtts://old", "ca_file": "/new.pem", "failover": []}"#;
        let options: Options = serde_json::from_str(json).unwrap();
        assert!(options.transport.tls.ca == [Pem::File("/new.pem".into())]);
        assert_eq!(options.endpoints().unwrap().len(), 1);
    }

    #[test]
    fn what_a_file_cannot_say_is_refused_by_name_and_never_repeated() {
        for (toml, named) in [
            ("host = 'h'\npassword = 'hunter2'", "username"),
            ("url = 'mqtt://u:hunter2@h'\nhost = 'h'", "url and host"),
            ("url = 'amqp://u:hunter2@h'", "amqp"),
            ("host = 'h'\nkeep_alife = 3", "keep_alife"),
            ("host = 'h'\nkeep_alive = 'soon'", "keep_alive"),
            ("host = 'h'\n[last_wish]\ntopic = 'a'", "last_wish"),
            ("host = 'h'\n[last_will]\npayload = 'a'", "topic"),
            ("host = 'h'\n[last_will]\ntopic = 'a'\nqos = 3", "qos"),
            ("host = 'h'\n[websocket_headers.a]\nb = 'c'", "a cannot be a table"),
        ] {
            let error = toml::from_str::<Options>(toml).unwrap_err();
            assert!(error.message().contains(named), "{toml}: {error}");
            assert!(!error.message().contains("hunter2"), "{error}");
        }
    }
}
