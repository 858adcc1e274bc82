//! TLS over any stream, by rustls.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use self::config::Material;
use super::settings::TlsSettings;
use super::{Endpoint, Stream};
use crate::Error;

mod config;
mod failure;

pub(super) use failure::failure_of_stream;

/// The configuration of the last connection. As long as the files have not changed the next one uses it again, and with
/// it the sessions it has kept.
#[derive(Default)]
pub(super) struct Configs(Mutex<Option<(Arc<Material>, Arc<ClientConfig>)>>);

impl Configs {
    pub(super) async fn connect(
        &self,
        settings: &TlsSettings,
        endpoint: &Endpoint,
        stream: Stream,
    ) -> Result<Stream, Error> {
        let config = match &settings.config {
            Some(config) => config.clone(),
            None => self.current(settings).await?,
        };
        let name = server_name(settings.server_name.as_deref().unwrap_or(endpoint.host()))?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|source| failure::failure_of_handshake(endpoint, source))?;
        Ok(Box::new(stream))
    }

    /// Files and the platform's certificates are read where that may block.
    async fn current(&self, settings: &TlsSettings) -> Result<Arc<ClientConfig>, Error> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let settings = settings.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let material = Arc::new(Material::read(&settings)?);
            match kept {
                Some(kept) if kept.0 == material => Ok(kept),
                _ => config::build(&settings, &material).map(|config| (material, Arc::new(config))),
            }
        });
        let ended = |source| Error::connection("the runtime ended while TLS was prepared").with_source(source);
        let (material, config) = reading.await.map_err(ended)??;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((material, config.clone()));
        Ok(config)
    }
}

/// Also for addresses, which certificates may name too.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|source| {
        Error::invalid_options(format!("a certificate cannot be checked for the name {name:?}")).with_source(source)
    })
}

/// The rustls error within an error of a stream.
fn rustls_error(error: &io::Error) -> Option<&tokio_rustls::rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
