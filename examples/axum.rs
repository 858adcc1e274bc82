//! A web service in front of a fleet of devices, with axum.
//!
//! ```text
//! cargo run --example axum                                 a broker and some devices in this process
//! MQTT_URL=mqtt://localhost cargo run --example axum       the broker that the environment names
//! ```
//!
//! | route | what it does |
//! |---|---|
//! | `POST /devices/{id}/rpc` | forwards the body to the device and answers with the device's reply |
//! | `POST /devices/rpc` | `{"devices":[…],"body":…}`: the same for many devices, with a result for each |
//! | `GET /devices/{id}/events` | what the device sends, as server-sent events |
//! | `GET /healthz` | 200: the process is alive |
//! | `GET /readyz` | 200 with a connection to the broker, else 503 |
//!
//! A call goes out on `devices/{id}/rpc`, the reply comes on `devices/{id}/rpc/res`, events come on
//! `devices/{id}/events`. `examples/actix.rs` is the same service with actix-web.

mod sandbox;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use futures::{FutureExt, StreamExt};
use mqtt_agent::{Agent, Error, Message, Offline, Options, Problem, RemoteError, Request, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokio::net::TcpListener;

use sandbox::Sandbox;
use stop::{stop_signal, Stop};

/// A web service in front of a fleet of devices. The broker is named by MQTT_URL, or MQTT_HOST and others.
#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Use a broker and some devices in this process, as without MQTT_URL and MQTT_HOST.
    #[arg(long)]
    embedded: bool,
}

#[derive(Clone)]
struct Service {
    agent: Agent,
    /// Resolves when the service is to end.
    stop: Stop,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let stop = stop_signal()?;
    let is_named = ["MQTT_URL", "MQTT_HOST"].iter().any(|name| std::env::var_os(name).is_some());
    let sandbox = if args.embedded || !is_named { Some(Sandbox::start().await?) } else { None };
    let options = match &sandbox {
        Some(sandbox) => Options::from_url(&sandbox.url())?,
        None => Options::from_env("MQTT")?,
    };
    // One agent for the whole life of the process. It connects in the background, so that the service starts whether
    // the broker is there or not, and without a connection it answers 503 at once.
    let agent = options.offline(Offline::Fail).connect_lazy()?;

    let listener = TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    if sandbox.is_some() {
        println!("try: curl -d ping http://{address}/devices/lamp-1/rpc");
        println!("     curl -N http://{address}/devices/lamp-1/events");
        println!("     curl --json '{{\"devices\":[\"lamp-1\",\"mute\"],\"body\":1}}' http://{address}/devices/rpc");
        println!("     (takes 10 s, for the device `mute` does not answer)");
    }
    serve(listener, Service { agent: agent.clone(), stop }).await?;

    // Nobody calls any more: what is on its way to the broker may finish.
    let unfinished = agent.drain(Duration::from_secs(5)).await?;
    if !unfinished.is_empty() {
        eprintln!("not finished: {unfinished:?}");
    }
    if let Some(sandbox) = sandbox {
        sandbox.stop().await?;
    }
    Ok(())
}

/// Until it is told to stop; then no more is accepted, and what is under way has a while to end.
async fn serve(listener: TcpListener, service: Service) -> std::io::Result<()> {
    const GRACE: Duration = Duration::from_secs(15);

    let stop = service.stop.clone();
    let server = axum::serve(listener, router(service)).with_graceful_shutdown(stop.clone());
    tokio::select! {
        ended = server => ended,
        // A client that sends its body byte by byte, or reads no answer, does not hold the process.
        () = stop.then(|()| tokio::time::sleep(GRACE)) => Ok(()),
    }
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/devices/{id}/rpc", post(call))
        .route("/devices/rpc", post(call_many))
        .route("/devices/{id}/events", get(events))
        .route("/healthz", get(|| async { "alive" }))
        .route("/readyz", get(ready))
        .with_state(service)
}

/// One call. When the HTTP client hangs up, this future is dropped, and the call with it.
async fn call(State(service): State<Service>, Path(id): Path<String>, body: Bytes) -> Result<impl IntoResponse, Error> {
    let reply = request(&service.agent, &id, body).await?;
    Ok(([("content-type", "application/json")], reply.payload().clone()))
}

/// What a call is for these devices. An id that fits into no topic, such as `+`, fails when the request is awaited.
fn request(agent: &Agent, id: &str, body: Bytes) -> Request {
    agent.request(format!("devices/{id}/rpc"), body).reply_to(format!("devices/{id}/rpc/res")).error_from(remote_error)
}

/// A reply of the form `{"error":"…"}` is an error of the device.
fn remote_error(reply: &Message) -> Option<RemoteError> {
    reply.json_at("/error").ok().map(|text: String| RemoteError::new(text))
}

#[derive(Deserialize)]
struct Many {
    devices: BTreeSet<String>,
    body: Value,
}

/// What became of one of many calls.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Reply(Value),
    Error(Problem),
}

/// Many calls, a hundred at a time, none after half a minute.
async fn call_many(State(service): State<Service>, Json(many): Json<Many>) -> Json<BTreeMap<String, Answer>> {
    let body = Bytes::from(many.body.to_string());
    let calls = many.devices.into_iter().map(|id| {
        let call = request(&service.agent, &id, body.clone());
        (id, call)
    });
    let answers = service.agent.request_each(calls).concurrency(100).timeout(Duration::from_secs(30));
    let answers = answers.map(|(id, answer)| match answer.and_then(|reply| reply.json()) {
        Ok(reply) => (id, Answer::Reply(reply)),
        Err(error) => (id, Answer::Error(error.problem())),
    });
    Json(answers.collect().await)
}

/// Follows a device. A client that reads slowly loses the oldest events, and is told how many.
async fn events(State(service): State<Service>, Path(id): Path<String>) -> Result<impl IntoResponse, Error> {
    // A topic has no wildcards: the id `+` is refused, and not the whole fleet.
    let topic = Topic::new(format!("devices/{id}/events"))?;
    let events = service.agent.subscribe(topic).await?;
    let events = events.map(|item| match item {
        Ok(message) => event("message", &json!({ "topic": message.topic().as_str(), "payload": text(&message) })),
        Err(error) => match error.lagged() {
            Some(lost) => event("lagged", &json!({ "lost": lost })),
            // Such as a broker that does not let us follow the device any more.
            None => event("problem", &json!(error.problem())),
        },
    });
    Ok(Sse::new(events.take_until(service.stop)).keep_alive(KeepAlive::default()))
}

fn event(name: &str, data: &Value) -> Result<Event, Infallible> {
    // JSON has no line breaks of its own.
    Ok(Event::default().event(name).data(data.to_string()))
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.payload()).into_owned()
}

async fn ready(State(service): State<Service>) -> impl IntoResponse {
    let state = service.agent.state().borrow().clone();
    let status = if state.is_connected() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let calls = service.agent.stats().pending_requests;
    (status, Json(json!({ "state": state.to_string(), "pending_requests": calls })))
}
