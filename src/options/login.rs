//! User name and password, fixed or fresh for each connection.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use super::{Boxed, Options};
use crate::{field, Error};

/// A user name and a password.
///
/// Given to [`Options::login`], or back by the function of [`Options::credentials_from`]. Each is at most 65,535 bytes;
/// the password is in no text that this crate writes.
///
/// ```
/// use mqtt_agent::{Login, Options};
///
/// let options = Options::new("localhost").login(Login::username("sensor-7")); // no password
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(crate) username: String,
    pub(crate) password: Option<String>,
}

impl Login {
    /// With a user name and a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Some(password.into()) }
    }

    /// With a user name alone.
    pub fn username(username: impl Into<String>) -> Self {
        Self { username: username.into(), password: None }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.username.is_empty() {
            // MQTT 3.1.1 forbids a password without a user name, and brokers refuse an empty one.
            return Err(Error::invalid_options("the user name is empty"));
        }
        field::check_text("user name", &self.username)
            .and_then(|()| field::check_text("password", self.password.as_deref().unwrap_or_default()))
            .map_err(Error::invalid_options)
    }
}

/// As whom the agent connects. The last of these counts.
impl Options {
    /// User name and password, fixed. Default: none.
    #[must_use]
    pub fn credentials(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.login(Login::new(username, password))
    }

    /// The same as a [`Login`], which may be a user name alone. Default: none.
    #[must_use]
    pub fn login(mut self, login: Login) -> Self {
        self.credentials = Credentials::Fixed(login);
        self
    }

    /// User name and password from an async function that is called before each CONNECT: for tokens that expire.
    /// Its error counts as a failed attempt to connect. The attempt's [`connect_timeout`](Self::connect_timeout)
    /// includes it.
    ///
    /// ```
    /// use mqtt_agent::{Login, Options};
    ///
    /// # async fn fresh_token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let options = Options::new("localhost").credentials_from(|| async {
    ///     let token = fresh_token().await?;
    ///     Ok(Login::new("web", token))
    /// });
    /// ```
    #[must_use]
    pub fn credentials_from<F, R>(mut self, login: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Login, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        self.credentials = Credentials::Fresh(Arc::new(move || {
            let login = login();
            Box::pin(async move {
                login.await.map_err(|source| {
                    Error::connection("no credentials: the function that gives them failed").with_source(Boxed(source))
                })
            })
        }));
        self
    }

    /// User name, and the password from a file that is read anew before each CONNECT, as secrets are mounted into
    /// containers; the end of its last line does not count. A file that cannot be read is a failed attempt to connect.
    ///
    /// ```
    /// use mqtt_agent::Options;
    ///
    /// let options = Options::new("localhost").password_file("web", "/run/secrets/mqtt");
    /// ```
    #[must_use]
    pub fn password_file(self, username: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let (username, path) = (username.into(), path.into());
        self.credentials_from(move || {
            let (username, path) = (username.clone(), path.clone());
            async move {
                let text = path.display().to_string();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await?;
                let password = read.map_err(|error| format!("password_file {text}: {error}"))?;
                Ok(Login::new(username, password.trim_end_matches(['\r', '\n'])))
            }
        })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

type LoginFuture = Pin<Box<dyn Future<Output = Result<Login, Error>> + Send>>;

#[derive(Clone)]
pub(crate) enum Credentials {
    None,
    Fixed(Login),
    /// Asked before each CONNECT.
    Fresh(Arc<dyn Fn() -> LoginFuture + Send + Sync>),
}
