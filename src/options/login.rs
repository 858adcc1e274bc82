//! User name and password, fixed or fresh for each connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::{field, Error};

/// A user name and a password.
///
/// Given back by the function of [`Options::credentials_from`](crate::Options::credentials_from).
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
