//! The trace that a message belongs to.

use std::fmt;
use std::sync::Arc;

use super::Options;
use crate::properties::Properties;

/// Asked for each message that is published.
#[derive(Clone)]
pub(crate) struct TraceContext(Arc<dyn Fn() -> Option<String> + Send + Sync>);

/// The name that W3C Trace Context gives it, in MQTT 5 a user property.
pub(crate) const TRACEPARENT: &str = "traceparent";

impl Options {
    /// Where the `traceparent` (W3C Trace Context, version 2) of a message comes from: it goes with each publish,
    /// request and reply as a user property of that name, and [`serve`](crate::Agent::serve) shows it to the handler.
    /// `current` is run where the call is made a future, so that it sees the caller's span; None sends nothing. A
    /// message that has a `traceparent` already keeps it. Needs MQTT 5; on a connection of an earlier version, which has
    /// no place for it, it is left out without a word. Default: nothing.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::{Agent, Version};
    ///
    /// fn current_span() -> Option<String> {
    ///     Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned())
    /// }
    ///
    /// let options = Agent::builder("mqtt://localhost")?.version(Version::V5).trace_context(current_span);
    /// let agent = options.connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn trace_context(mut self, current: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.trace_context = Some(TraceContext(Arc::new(current)));
        self
    }

    /// Adds the trace that the message belongs to.
    pub(crate) fn trace(&self, properties: &mut Option<Box<Properties>>) {
        let Some(TraceContext(current)) = &self.trace_context else { return };
        if properties.as_ref().is_some_and(|properties| properties.user_property(TRACEPARENT).is_some()) {
            return;
        }
        if let Some(trace) = current() {
            properties.get_or_insert_default().user_properties.push((TRACEPARENT.to_owned(), trace));
        }
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceContext")
    }
}
