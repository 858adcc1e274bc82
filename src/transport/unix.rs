//! Sockets in the file system.

use tokio::net::UnixStream;

use super::{Endpoint, Stream};
use crate::Error;

pub(super) async fn connect(endpoint: &Endpoint) -> Result<Stream, Error> {
    match UnixStream::connect(endpoint.path()).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => {
            Err(Error::connection(format!("cannot connect to {endpoint}: does a broker listen there?"))
                .with_source(source))
        }
    }
}
