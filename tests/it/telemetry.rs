//! What operators see: spans and events under stable names, and nothing secret in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use mqtt_agent::testing::Device;

use mqtt_agent::{Acks, QoS, RemoteError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Instrument, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::common::{options, refusing_address, state, stats};
use crate::support::{millis, within, EmbeddedBroker, LIMIT};

/// One span or event.
#[derive(Debug, Default, Clone)]
struct Seen {
    name: String,
    target: String,
    level: String,
    parent: Option<String>,
    fields: BTreeMap<&'static str, String>,
    is_closed: bool,
}

/// Writes down what the crate tells, on this thread, as long as the guard lives.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Entries>>);

/// The identifiers are those of spans.
type Entries = Vec<(Option<Id>, Seen)>;

impl Journal {
    fn start() -> (Self, DefaultGuard) {
        let journal = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(journal.clone()));
        (journal, guard)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap()
    }

    fn all(&self, name: &str) -> Vec<Seen> {
        self.entries().iter().map(|(_, seen)| seen).filter(|seen| seen.name == name).cloned().collect()
    }

    /// The only one of this name.
    fn one(&self, name: &str) -> Seen {
        let mut all = self.all(name);
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        all.remove(0)
    }

    fn note(&self, id: Option<Id>, metadata: &Metadata<'_>, parent: Option<String>, record: impl FnOnce(&mut Seen)) {
        if !metadata.target().starts_with("mqtt_agent") {
            return;
        }
        let (name, target, level) = (metadata.name().into(), metadata.target().into(), metadata.level().to_string());
        let mut seen = Seen { name, target, level, parent, ..Seen::default() };
        record(&mut seen);
        self.entries().push((id, seen));
    }

    fn update(&self, id: &Id, change: impl FnOnce(&mut Seen)) {
        // An identifier is used again after its span was closed.
        if let Some((_, seen)) = self.entries().iter_mut().rev().find(|(other, _)| other.as_ref() == Some(id)) {
            change(seen);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context.span(id).and_then(|span| span.parent()).map(|span| span.name().to_owned());
        self.note(Some(id.clone()), attributes.metadata(), parent, |seen| attributes.record(seen));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.update(id, |seen| values.record(seen));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.note(None, event.metadata(), None, |seen| event.record(seen));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.update(&id, |seen| seen.is_closed = true);
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

fn fields<'a>(of: &'a Seen, names: &[&'a str]) -> Vec<&'a str> {
    names.iter().map(|name| of.fields.get(name).map_or("", String::as_str)).collect()
}

#[tokio::test]
async fn each_request_that_is_served_has_a_span_of_its_own() {
    let broker = EmbeddedBroker::start().await;
    let (server, agent) =
        (options(&broker.url()).connect().await.unwrap(), options(&broker.url()).connect().await.unwrap());
    let (journal, _guard) = Journal::start();
    let handler = |request: mqtt_agent::IncomingRequest| async move {
        match request.text() {
            Ok("open") => Ok("opened"),
            _ => Err("what?"),
        }
    };
    let service = server.serve("door/{id}", handler).reply_to("door/{id}/res").await.unwrap();
    agent.request("door/1", "open").reply_to("door/1/res").await.unwrap();
    agent.request("door/1", "swordfish").reply_to("door/1/res").await.ok();
    service.stop(LIMIT).await;
    let spans = journal.all("mqtt.serve");
    let names = ["topic", "payload_bytes", "failed"];
    assert_eq!(fields(&spans[0], &names), ["door/1", "4", ""]);
    assert_eq!(fields(&spans[1], &names), ["door/1", "9", "true"]);
    assert!(spans.len() == 2 && spans.iter().all(|span| span.is_closed && span.parent.is_none()));
    assert!(!format!("{spans:?}").contains("swordfish"));
}

#[tokio::test]
async fn every_call_has_a_span_within_that_of_its_caller() {
    let broker = EmbeddedBroker::start().await;
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut device = Device::connect(broker.url()).await.unwrap();
    device.respond_to("rpc", |_| ("res", "pong")).await.unwrap();
    let (journal, _guard) = Journal::start();
    let handler = tracing::info_span!(target: "mqtt_agent_test", "handler");
    let calls = async {
        agent.publish("a", "12345").qos(QoS::ExactlyOnce).retain(true).await.unwrap();
        drop(agent.subscribe(["b", "c"]).await.unwrap());
        agent.request("rpc", "ping").reply_to("res").await.unwrap();
    };
    calls.instrument(handler).await;

    let publishes = journal.all("mqtt.publish");
    let publish = publishes.iter().find(|publish| publish.parent.is_some()).unwrap();
    assert_eq!(fields(publish, &["topic", "qos", "retain", "payload_bytes", "error"]), ["a", "2", "true", "5", ""]);
    let subscribe = journal.one("mqtt.subscribe");
    assert!(subscribe.fields["filters"].contains("\"b\""), "{subscribe:?}");
    let request = journal.one("mqtt.request");
    let names = ["topic", "reply_to", "qos", "payload_bytes", "error"];
    assert_eq!(fields(&request, &names), ["rpc", "res", "1", "4", ""]);
    for span in [publish, &subscribe, &request] {
        assert_eq!((span.target.as_str(), span.level.as_str()), ("mqtt_agent", Level::DEBUG.as_str()));
        assert_eq!(span.parent.as_deref(), Some("handler"));
        assert!(span.is_closed);
    }
}

#[tokio::test]
async fn a_call_that_fails_or_is_given_up_closes_its_span_and_a_failure_says_why() {
    let (_port, addr) = refusing_address();
    let agent = options(&crate::support::url(addr)).connect_lazy().unwrap();
    let (journal, _guard) = Journal::start();
    agent.publish("failed", "x").timeout(millis(20)).await.unwrap_err();
    let mut call = Box::pin(agent.publish("dropped", "x").into_future());
    assert!(futures::poll!(&mut call).is_pending());
    let [failed, dropped] = journal.all("mqtt.publish").try_into().unwrap();
    assert_eq!((failed.is_closed, dropped.is_closed), (true, false));
    assert!(failed.fields["error"].contains("deadline"), "{failed:?}");
    drop(call);
    let [_, dropped] = journal.all("mqtt.publish").try_into().unwrap();
    assert!(dropped.is_closed && !dropped.fields.contains_key("error"), "{dropped:?}");
}

#[tokio::test]
async fn a_call_that_the_other_side_refuses_says_so_without_its_words() {
    let broker = EmbeddedBroker::start().await;
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut device = Device::connect(broker.url()).await.unwrap();
    device.respond_to("rpc", |_| ("res", "swordfish")).await.unwrap();
    let (journal, _guard) = Journal::start();
    let call = || agent.request("rpc", "ping").reply_to("res").error_from(|_| Some(RemoteError::new("swordfish")));
    call().await.unwrap_err();
    call().replies(1).await.unwrap_err();
    let spans = journal.all("mqtt.request");
    assert!(spans.len() == 2 && spans.iter().all(|span| span.is_closed));
    assert!(spans.iter().all(|span| span.fields["error"] == "the other side answered with an error"), "{spans:?}");
    assert!(!format!("{:?}", journal.entries()).contains("swordfish"));
}

#[tokio::test]
async fn the_life_of_a_connection_is_told_by_events() {
    let (journal, _guard) = Journal::start();
    let broker = EmbeddedBroker::start().await;
    let agent = options(&broker.url()).connect().await.unwrap();
    let address = format!("mqtt://{}", broker.addr());
    broker.stop().await;
    let failed = async {
        while journal.all("mqtt.disconnected").len() < 2 {
            tokio::time::sleep(millis(1)).await;
        }
    };
    within(LIMIT, "the loss and a failure", failed).await;
    let mut watch = agent.state();
    drop(agent);
    within(LIMIT, "the end", async { while watch.changed().await.is_ok() {} }).await;

    let connected = journal.one("mqtt.connected");
    assert_eq!(fields(&connected, &["broker", "session_present"]), [&address, "false"]);
    assert_eq!((connected.target.as_str(), connected.level.as_str()), ("mqtt_agent", Level::INFO.as_str()));
    let lost = journal.all("mqtt.disconnected");
    assert_eq!(fields(&lost[0], &["broker", "attempt", "retry_in_ms"]), [&address, "1", "10"]);
    assert_eq!(fields(&lost[1], &["broker", "attempt", "retry_in_ms"]), ["", "2", "10"]);
    assert!(lost.iter().all(|lost| !lost.fields["error"].is_empty() && !lost.fields["client_id"].is_empty()));
    assert_eq!(fields(&journal.all("mqtt.connect_failed")[0], &["broker"]), [&address]);
    let attempts = journal.all("mqtt.connect");
    assert!(attempts.len() >= 2 && attempts.iter().all(|attempt| attempt.parent.is_none()));
    assert!(!attempts[0].fields.contains_key("error"));
    assert!(attempts[1].fields["error"].contains("connect"), "{:?}", attempts[1]);
    journal.one("mqtt.abandoned");
    journal.one("mqtt.closed");
}

#[tokio::test]
async fn no_payload_and_no_password_is_told() {
    let (journal, _guard) = Journal::start();
    let broker = EmbeddedBroker::start_with(EmbeddedBroker::builder().login("user", "hunter2")).await;
    let wrong = broker.url().replace("mqtt://", "mqtt://user:hunter3@");
    options(&wrong).connect().await.unwrap_err();
    let url = broker.url().replace("mqtt://", "mqtt://user:hunter2@");
    let agent = options(&url).connect().await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    agent.publish("a", "swordfish").await.unwrap();
    agent.request("a", "swordfish").reply_to("a").await.unwrap();
    stream.recv().await.unwrap().unwrap();
    agent.close().await;
    state(&agent, "the end", mqtt_agent::State::is_closed).await;
    let told = format!("{:?}", journal.entries());
    assert!(told.contains("mqtt.request") && told.contains("mqtt.connected"));
    for secret in ["hunter2", "hunter3", "swordfish"] {
        assert!(!told.contains(secret), "{told}");
    }
}

/// The files of a folder and of those in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_span_and_event_has_the_target_and_a_name_that_is_listed() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let listed = fs::read_to_string(source.join("telemetry.rs")).unwrap();
    let levels = ["trace", "debug", "info", "warn", "error"];
    let macros = levels.map(|level| [format!("tracing::{level}!("), format!("{level}_span!(")]).concat();
    let mut named = 0;
    for file in files(&source) {
        let text = fs::read_to_string(&file).unwrap();
        for (at, start) in macros.iter().flat_map(|start| text.match_indices(start)) {
            let told: String = text[at + start.len()..].chars().take_while(|letter| *letter != ';').collect();
            let name = told.split('"').nth(1).unwrap();
            assert!(told.contains("target: TARGET") && name.starts_with("mqtt."), "{}: {told}", file.display());
            assert!(listed.contains(&format!("//! | `{name}` |")), "{}: {name}", file.display());
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

/// What a recorder holds after `record`, by name; of a histogram, its values.
fn exported(record: impl FnOnce()) -> BTreeMap<String, DebugValue> {
    let recorder = DebuggingRecorder::new();
    let snapshot = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, record);
    let snapshot = snapshot.snapshot().into_vec().into_iter();
    snapshot
        .map(|(key, _, help, value)| {
            let key = key.key();
            let labels: Vec<_> = key.labels().map(|label| (label.key(), label.value())).collect();
            assert_eq!(labels, [("agent", "main")]);
            assert!(help.is_some_and(|help| !help.starts_with(' ')), "{key:?}");
            (key.name().to_owned(), value)
        })
        .collect()
}

#[tokio::test]
async fn metrics_export_every_counter_and_each_round_trip_once() {
    let broker = EmbeddedBroker::start().await;
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut metrics = agent.metrics("main");
    for _ in 0..3 {
        agent.publish("a", "x").await.unwrap();
    }
    agent.request("b", "x").reply_to("b").await.unwrap();
    stats(&agent, "all acknowledgements", |stats| stats.ack_times.count() == 4 && stats.in_flight == 0).await;

    let first = exported(|| metrics.record());
    let shown = format!("{:?}", agent.stats());
    let names = shown.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':')).collect::<BTreeSet<_>>();
    for name in names.difference(&BTreeSet::from(["ack_times", "reply_times", "count", "mean", "p50", "p99"])) {
        let names = ["_total", ""].map(|suffix| format!("mqtt_agent_{name}{suffix}"));
        assert!(names.iter().any(|name| first.contains_key(name)), "{name}");
    }
    assert_eq!(first["mqtt_agent_acked_total"], DebugValue::Counter(4));
    assert_eq!(first["mqtt_agent_filters"], DebugValue::Gauge(1.0.into()));
    assert_eq!(first["mqtt_agent_connected"], DebugValue::Gauge(1.0.into()));
    let count = |values: &DebugValue| match values {
        DebugValue::Histogram(values) => {
            assert!(values.iter().all(|value| value.0 > 0.0 && value.0 < LIMIT.as_secs_f64()), "{values:?}");
            values.len()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((count(&first["mqtt_agent_ack_seconds"]), count(&first["mqtt_agent_reply_seconds"])), (4, 1));

    agent.publish("a", "x").await.unwrap();
    let mut state = agent.state();
    drop(agent);
    within(LIMIT, "the end", async { while state.changed().await.is_ok() {} }).await;
    let second = exported(|| metrics.record());
    assert_eq!(second["mqtt_agent_acked_total"], DebugValue::Counter(5));
    assert_eq!(second["mqtt_agent_connected"], DebugValue::Gauge(0.0.into()));
    assert_eq!((count(&second["mqtt_agent_ack_seconds"]), count(&second["mqtt_agent_reply_seconds"])), (1, 0));
}

#[tokio::test]
async fn metrics_count_the_sessions_of_subscriptions_that_acknowledge_late() {
    let broker = EmbeddedBroker::start().await;
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut metrics = agent.metrics("main");
    let mut jobs = agent.subscribe("jobs").acks(Acks::OnTake).await.unwrap();
    agent.publish("jobs", "x").await.unwrap();
    within(LIMIT, "the job", jobs.recv()).await.unwrap().unwrap();
    let shown = exported(|| metrics.record());
    assert_eq!(shown["mqtt_agent_received_total"], DebugValue::Counter(1));
    assert_eq!(shown["mqtt_agent_subscribers"], DebugValue::Gauge(1.0.into()));

    // What is gone has counted, and holds nothing.
    let mut state = agent.state();
    drop(agent);
    within(LIMIT, "the end", async { while state.changed().await.is_ok() {} }).await;
    let shown = exported(|| metrics.record());
    assert_eq!(shown["mqtt_agent_received_total"], DebugValue::Counter(1));
    assert_eq!(shown["mqtt_agent_subscribers"], DebugValue::Gauge(0.0.into()));
}
