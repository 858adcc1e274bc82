//! One round of attempts to connect: each endpoint in turn, until one accepts.

use std::sync::Arc;

use crate::connection::Connection;
use crate::options::Options;
use crate::transport::{Endpoint, Transport};
use crate::Error;

pub(crate) struct Dialer {
    options: Arc<Options>,
    client_id: Box<str>,
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
    /// The client identifier is the same for the life of the agent.
    pub(crate) fn new(options: Arc<Options>) -> Self {
        let client_id = options.effective_client_id().into();
        let transport = Transport::new(options.transport.clone(), options.max_packet_size);
        Self { options, client_id, transport }
    }

    /// Tries each endpoint once, beginning with number `first`, or in random order where that was asked for. The error
    /// is that of the last.
    pub(crate) async fn dial(&self, first: usize) -> Result<Dialed, Error> {
        let endpoints = self.options.endpoints()?;
        let mut order: Vec<_> = (0..endpoints.len()).collect();
        match self.options.shuffle {
            true => fastrand::shuffle(&mut order),
            false => order.rotate_left(first % endpoints.len()),
        }
        let mut failure = None;
        for index in order {
            let endpoint = endpoints[index].clone();
            match Connection::open(&self.options, &self.client_id, &self.transport, &endpoint).await {
                Ok(connection) => return Ok(Dialed { connection, endpoint, index }),
                Err(error) => {
                    let cause = &error as &(dyn std::error::Error + 'static);
                    tracing::info!(broker = %endpoint, error = cause, "cannot connect");
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::invalid_options("there is no broker to connect to")))
    }
}
