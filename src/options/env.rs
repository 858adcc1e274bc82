//! Options from the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::settings::{is_option, Settings, PLACE_AND_LOGIN};
use super::Options;
use crate::telemetry::TARGET;
use crate::Error;

impl Options {
    /// From the environment: the variables that begin with `prefix` and an underscore. For the prefix `MQTT`:
    ///
    /// | variable | what it says |
    /// |---|---|
    /// | `MQTT_URL` | all that a URL can say: see [`from_url`](Self::from_url) |
    /// | `MQTT_HOST` | or else the host |
    /// | `MQTT_PORT` | with a host: the port; default: 1883, 8883 with TLS |
    /// | `MQTT_TLS` | with a host: `true` for TLS; default: `false` |
    /// | `MQTT_USERNAME` | the user name; default: none |
    /// | `MQTT_PASSWORD` | the password; default: none |
    /// | `MQTT_PASSWORD_FILE` | or else a file with the password, see [`password_file`](Self::password_file) |
    /// | `MQTT_CLIENT_ID`, `MQTT_CA_FILE`, `MQTT_CERT_FILE`, `MQTT_KEY_FILE`, `MQTT_KEEP_ALIVE`, `MQTT_CLEAN_SESSION`, `MQTT_VERSION`, … | the option of that name, as in a URL's query |
    ///
    /// A variable without a value counts as not set; an option in `MQTT_URL` gives way to its variable. Other variables
    /// with the prefix are left alone, and named in a warning in the log: not all of them need be for this crate.
    /// (Kubernetes sets `MQTT_PORT` and others for a service of the name `mqtt`, which is an error here: choose another
    /// prefix, or `enableServiceLinks: false`.)
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), mqtt_agent::Error> {
    /// let agent = mqtt_agent::Options::from_env("MQTT")?.client_id("web-1").connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) naming the variables: neither URL nor host, two
    /// that exclude each other, a value that does not fit. The text never repeats a password or a URL.
    pub fn from_env(prefix: &str) -> Result<Self, Error> {
        Self::from_variables(prefix, std::env::vars_os())
    }

    fn from_variables(prefix: &str, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Error> {
        let prefix = format!("{prefix}_");
        let mut values = BTreeMap::new();
        let mut unknown = Vec::new();
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|name| name.starts_with(&prefix)) else { continue };
            let name = variable[prefix.len()..].to_ascii_lowercase();
            if !is_option(&name) && !PLACE_AND_LOGIN.contains(&name.as_str()) {
                unknown.push(variable.to_owned());
            } else if !value.is_empty() {
                let not_text = |_| Error::invalid_options(format!("the value of {variable} is not UTF-8"));
                values.insert(name, value.into_string().map_err(not_text)?);
            }
        }
        if !unknown.is_empty() {
            let variables = unknown.join(", ");
            tracing::warn!(name: "mqtt.unknown_variables", target: TARGET, variables, "these are no options");
        }
        Settings::new(&prefix, values).into_options()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Credentials;
    use crate::transport::{Endpoint, Pem};
    use crate::{ErrorKind, Version};
    use std::time::Duration;

    fn from(variables: &[(&str, &str)]) -> Result<Options, Error> {
        let others = [("PATH", "/bin"), ("MQTTX_HOST", "other"), ("HOST", "other")];
        Options::from_variables("MQTT", others.iter().chain(variables).map(|(name, value)| (name.into(), value.into())))
    }

    fn refusal(variables: &[(&str, &str)]) -> String {
        let error = from(variables).and_then(|options| options.check()).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{variables:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        error.to_string()
    }

    #[test]
    fn variables_set_what_they_name() {
        let options = from(&[
            ("MQTT_HOST", "broker"),
            ("MQTT_TLS", "true"),
            ("MQTT_USERNAME", "me"),
            ("MQTT_PASSWORD", "hunter2"),
            ("MQTT_CLIENT_ID", "web-1"),
            ("MQTT_CA_FILE", "/ca.pem"),
            ("MQTT_CERT_FILE", "/cert.pem"),
            ("MQTT_KEY_FILE", "/key.pem"),
            ("MQTT_KEEP_ALIVE", "7"),
            ("MQTT_CLEAN_SESSION", "false"),
            ("MQTT_VERSION", "3.1"),
            ("MQTT_FAILOVER", "mqtts://second, mqtts://third:1"),
            ("MQTT_PROXY", ""),
            ("MQTT_SERVICE_HOST", "10.0.0.1"),
        ])
        .unwrap();
        let endpoints: Vec<_> = options.endpoints().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["mqtts://broker:8883", "mqtts://second:8883", "mqtts://third:1"]);
        let Credentials::Fixed(login) = &options.credentials else { panic!("no credentials") };
        assert_eq!((login.username.as_str(), login.password.as_deref()), ("me", Some("hunter2")));
        assert_eq!(options.client_id.as_deref(), Some("web-1"));
        assert_eq!(options.transport.tls.names(), ["ca_file", "cert_file", "key_file"]);
        assert_eq!((options.keep_alive, options.clean_session), (Duration::from_secs(7), false));
        assert_eq!(options.version, Version::V31);
        assert!(!format!("{options:?}").contains("hunter2"));
        #[cfg(feature = "tls-no-provider")]
        options.check().unwrap();
    }

    #[test]
    fn a_url_says_it_all_and_gives_way_to_variables() {
        let url = ("MQTT_URL", "mqtt://u:hunter2@h:1?keep_alive=5&timeout=1");
        let options = from(&[url, ("MQTT_KEEP_ALIVE", "6"), ("MQTT_TLS", "false")]).unwrap();
        assert_eq!(options.endpoint.to_string(), "mqtt://h:1");
        assert_eq!((options.keep_alive, options.timeout), (Duration::from_secs(6), Duration::from_secs(1)));
    }

    #[test]
    fn a_list_in_a_url_gives_way_too() {
        let url = ("MQTT_URL", "mqtts://h?ca_file=/old.pem&failover=mqtts://old");
        let options = from(&[url, ("MQTT_CA_FILE", "/new.pem"), ("MQTT_FAILOVER", "mqtts://new")]).unwrap();
        assert!(options.transport.tls.ca == [Pem::File("/new.pem".into())]);
        assert_eq!(options.endpoints().unwrap()[1..], [&Endpoint::from_url("mqtts://new").unwrap()]);
    }

    #[test]
    fn what_does_not_go_together_is_named_from_both_sides() {
        let (url, host, user) = (("MQTT_URL", "mqtt://h"), ("MQTT_HOST", "h"), ("MQTT_USERNAME", "u"));
        let (password, file) = (("MQTT_PASSWORD", "hunter2"), ("MQTT_PASSWORD_FILE", "/hunter"));
        for (variables, named) in [
            (&[][..], ["MQTT_URL", "MQTT_HOST"]),
            (&[url, host], ["MQTT_URL", "MQTT_HOST"]),
            (&[url, ("MQTT_PORT", "1")], ["MQTT_URL", "MQTT_PORT"]),
            (&[url, ("MQTT_TLS", "true")], ["MQTT_TLS", "MQTT_URL"]),
            (&[("MQTT_URL", "mqtts://h"), ("MQTT_TLS", "false")], ["MQTT_TLS", "MQTT_URL"]),
            (&[("MQTT_URL", "mqtt://u:hunter2@h"), user], ["MQTT_USERNAME", "MQTT_URL"]),
            (&[host, password], ["MQTT_PASSWORD", "MQTT_USERNAME"]),
            (&[host, file], ["MQTT_PASSWORD_FILE", "MQTT_USERNAME"]),
            (&[host, user, password, file], ["MQTT_PASSWORD", "MQTT_PASSWORD_FILE"]),
            (&[("MQTT_HOST", "mqtt://u:hunter2@h")], ["host", "URL"]),
            (&[host, ("MQTT_PORT", "tcp://10.0.0.1:1883")], ["MQTT_PORT", "value"]),
            (&[host, ("MQTT_TLS", "maybe")], ["MQTT_TLS", "value"]),
            (&[host, ("MQTT_KEEP_ALIVE", "soon")], ["MQTT_KEEP_ALIVE", "soon"]),
            (&[("MQTT_URL", "amqp://u:hunter2@h")], ["MQTT_URL", "amqp"]),
            (&[host, ("MQTT_CA_FILE", "/ca")], ["ca_file", "mqtt://h:1883"]),
            (&[host, ("MQTT_PROXY", "http://u:hunter2@")], ["proxy", "URL"]),
        ] {
            let text = refusal(variables);
            assert!(named.iter().all(|name| text.contains(name)), "{text}");
        }
    }
}
