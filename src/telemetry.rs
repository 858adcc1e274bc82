//! What an agent tells `tracing` and the `metrics` facade. The names are stable: filters, dashboards and alerts may rely on them.
//!
//! Everything has the target `mqtt_agent`. Payloads and passwords never appear; topics and filters do. Where no subscriber
//! wants a span or an event, it costs a comparison.
//!
//! # Spans
//!
//! A call's span begins when the call is first polled, within the span of its caller, and ends with the call, also when
//! its future is dropped. `error` is recorded when it fails; that the other side answered with an error is told, but not
//! in its words. What is handed over without waiting has no span.
//!
//! | name | level | fields |
//! |---|---|---|
//! | `mqtt.publish` | debug | `topic`, `qos`, `retain`, `payload_bytes`, `error` |
//! | `mqtt.subscribe` | debug | `filters`, `qos`, `error` |
//! | `mqtt.request` | debug | `topic`, `reply_to` where it is given, `qos`, `payload_bytes`, `error` |
//! | `mqtt.serve` | debug | `topic`, `payload_bytes`, `failed` where the answer is an error: one request in its handler; a root |
//! | `mqtt.connect` | debug | `broker`, `error`: one attempt, from the name look-up to the CONNACK; a root |
//!
//! # Events
//!
//! | name | level | fields |
//! |---|---|---|
//! | `mqtt.connected` | info | `broker`, `client_id`, `session_present`, `version` |
//! | `mqtt.disconnected` | info | `client_id`, `error`, `attempt`; `broker` if a connection was lost, none if none could be made; `retry_in_ms` unless it gave up |
//! | `mqtt.connect_failed` | debug | `broker`, `error`: the next broker is tried, if there is one |
//! | `mqtt.closed` | info | `client_id`: the agent has ended |
//! | `mqtt.abandoned` | debug | `client_id`: the last handle was dropped |
//! | `mqtt.address_failed` | debug | `address`, `error`: another address of the host is tried, if there is one |
//! | `mqtt.downgraded` | debug | `error`: the broker may not know MQTT 5, and 3.1.1 is tried |
//! | `mqtt.unknown_variables` | warn | `variables`: see [`Options::from_env`](crate::Options::from_env) |
//! | `mqtt.given_up` | warn | `topic` or `error`: see [`Stats::given_up`](crate::Stats::given_up) |
//! | `mqtt.oversized` | warn | `size`: see [`Stats::oversized`](crate::Stats::oversized) |
//! | `mqtt.requests_lost` | warn | `filter`, `error`: see [`ServiceStats::lost`](crate::ServiceStats::lost) |
//! | `mqtt.no_reply_topic` | warn | `topic`, `error`: what says where the answer to a request goes gave no valid topic |
//! | `mqtt.answer_unsent` | warn | `topic`, `error`: see [`ServiceStats::unsent`](crate::ServiceStats::unsent) |
//! | `mqtt.policy_panicked` | error | none: the [`ReconnectPolicy`](crate::ReconnectPolicy) panicked, and the default is used |
//! | `mqtt.closure_panicked` | error | `topic`: a closure given to [`Serve`](crate::Serve) or [`Correlation`](crate::rpc::Correlation) panicked on this message |
//!
//! # Metrics
//!
//! With the feature `metrics`, `Agent::metrics` hands the counters of [`Stats`](crate::Stats) to the recorder of the
//! `metrics` facade, each with the label `agent`: the name that the call gives it.
//!
//! | name | type |
//! |---|---|
//! | `mqtt_agent_published_total`, `…_acked_total`, `…_received_total`, `…_unclaimed_total`, `…_oversized_total`, `…_lagged_total`, `…_given_up_total`, `…_late_replies_total`, `…_reconnects_total` | counter |
//! | `mqtt_agent_queued`, `…_in_flight`, `…_pending_requests`, `…_filters`, `…_subscribers` | gauge |
//! | `mqtt_agent_connected` | gauge: 1 or 0 |
//! | `mqtt_agent_ack_seconds`, `mqtt_agent_reply_seconds` | histogram |
//!
//! Every counter of [`Stats`](crate::Stats) is there under its own name.

use std::future::Future;

use tracing::field::{display, Empty};
use tracing::{debug_span, Instrument, Span};

use crate::command::Command;
use crate::{Endpoint, Error, ErrorKind, Message};

#[cfg(feature = "metrics")]
mod metrics;

#[cfg(feature = "metrics")]
pub use metrics::Metrics;

pub(crate) const TARGET: &str = "mqtt_agent";

/// The span of a call, within that of its caller.
pub(crate) fn call(command: &Command) -> Span {
    match command {
        Command::Publish(command) => {
            let publish = &command.publish;
            debug_span!(
                target: TARGET,
                "mqtt.publish",
                topic = publish.topic.as_str(),
                qos = publish.qos as u8,
                retain = publish.retain,
                payload_bytes = publish.payload.len(),
                error = Empty
            )
        }
        Command::Subscribe(command) => debug_span!(
            target: TARGET,
            "mqtt.subscribe",
            filters = ?command.filters,
            qos = command.wish.qos as u8,
            error = Empty
        ),
        Command::Request(command) => {
            let publish = command.publish.as_ref();
            debug_span!(
                target: TARGET,
                "mqtt.request",
                topic = publish.map(|publish| publish.topic.as_str()),
                reply_to = command.reply_to.as_ref().map(|paths| paths.reply_to.as_str()),
                qos = publish.map(|publish| publish.qos as u8),
                payload_bytes = publish.map(|publish| publish.payload.len()),
                error = Empty
            )
        }
    }
}

/// One request in its handler. What asked for it is elsewhere: see `IncomingRequest::traceparent`.
pub(crate) fn serving(request: &Message) -> Span {
    debug_span!(
        target: TARGET,
        parent: None,
        "mqtt.serve",
        topic = request.topic().as_str(),
        payload_bytes = request.payload().len(),
        failed = Empty
    )
}

/// Ends a span with what came of it.
pub(crate) fn finish<T>(span: &mut Span, outcome: &Result<T, Error>) {
    match outcome {
        Ok(_) => {}
        // The text has the beginning of what the other side said, which is payload.
        Err(error) if error.kind() == ErrorKind::Remote => {
            span.record("error", "the other side answered with an error");
        }
        Err(error) => {
            span.record("error", display(error));
        }
    }
    *span = Span::none();
}

/// An attempt to connect, in a span of its own.
pub(crate) async fn connecting<T>(
    broker: &Endpoint,
    attempt: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut span = debug_span!(target: TARGET, parent: None, "mqtt.connect", %broker, error = Empty);
    let outcome = attempt.instrument(span.clone()).await;
    finish(&mut span, &outcome);
    outcome
}
