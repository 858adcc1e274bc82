//! One round of attempts to connect: each endpoint in turn, until one accepts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::connection::{Connection, Opening};
use crate::options::Options;
use crate::random::rng;
use crate::telemetry::{self, TARGET};
use crate::transport::{Endpoint, Transport};
use crate::Error;

pub(crate) struct Dialer {
    options: Arc<Options>,
    transport: Transport,
}

/// A connection, and where it leads.
pub(crate) struct Dialed {
    pub(crate) connection: Connection,
    pub(crate) endpoint: Endpoint,
    /// The number of that endpoint.
    pub(crate) index: usize,
}

impl Dialer {
    pub(crate) fn new(options: Arc<Options>) -> Self {
        let transport = Transport::new(options.transport.clone(), options.max_packet_size);
        Self { options, transport }
    }

    /// Tries each endpoint once, beginning with number `first`, or in random order where that was asked for. The error
    /// is that of the last. `is_first` tells whether the agent was never connected.
    pub(crate) async fn dial(&self, client_id: &str, is_first: bool, first: usize) -> Result<Dialed, Error> {
        let endpoints = self.options.endpoints()?;
        let mut order: Vec<_> = (0..endpoints.len()).collect();
        match self.options.shuffle {
            true => rng().shuffle(&mut order),
            false => order.rotate_left(first % endpoints.len()),
        }
        let mut failure = None;
        for index in order {
            let endpoint = endpoints[index].clone();
            let opening = Opening { options: &self.options, client_id, is_first };
            // Functions of the application run in it. What they leave half done is theirs alone.
            let attempt = AssertUnwindSafe(opening.connect(&self.transport, &endpoint)).catch_unwind();
            let attempt = attempt.map(|outcome| outcome.unwrap_or_else(|_| Err(panicked())));
            match telemetry::connecting(&endpoint, attempt).await {
                Ok(connection) => return Ok(Dialed { connection, endpoint, index }),
                Err(error) => {
                    let cause = &error as &(dyn std::error::Error + 'static);
                    tracing::debug!(name: "mqtt.connect_failed", target: TARGET, broker = %endpoint, error = cause, "cannot connect");
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::invalid_options("there is no broker to connect to")))
    }
}

fn panicked() -> Error {
    Error::connection("the function for credentials, the connector or the authentication exchange panicked")
}
