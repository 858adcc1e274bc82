//! A web service in front of a fleet of devices, with actix-web.
//!
//! ```text
//! cargo run --example actix                                 a broker and some devices in this process
//! MQTT_URL=mqtt://localhost cargo run --example actix       the broker that the environment names
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
//! `devices/{id}/events`. `examples/axum.rs` is the same service with axum.

mod sandbox;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, Json, Path};
use actix_web::{App, HttpResponse, HttpServer, ResponseError};
use clap::Parser;
use futures::{stream, FutureExt, StreamExt};
use mqtt_agent::{Agent, Error, Message, Offline, Options, Problem, RemoteError, Request, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;

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

/// The agent lives on Tokio's threads. Actix starts threads of its own, and they all use it.
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

    let has_sandbox = sandbox.is_some();
    serve(args.listen, Service { agent: agent.clone(), stop }, has_sandbox).await?;

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
async fn serve(listen: SocketAddr, service: Service, has_sandbox: bool) -> std::io::Result<()> {
    const GRACE_SECONDS: u64 = 15;

    let stop = service.stop.clone();
    let server = HttpServer::new(move || App::new().app_data(Data::new(service.clone())).configure(routes))
        // Of the signals the one who calls this takes care: the agent is to outlive the server.
        .disable_signals()
        // Without this a client that hangs up goes unnoticed until its call is over.
        .h1_allow_half_closed(false)
        .shutdown_timeout(GRACE_SECONDS)
        .bind(listen)?;
    for address in server.addrs() {
        println!("listening on http://{address}");
        if has_sandbox {
            println!("try: curl -d ping http://{address}/devices/lamp-1/rpc");
            println!("     curl -N http://{address}/devices/lamp-1/events");
            println!(
                "     curl --json '{{\"devices\":[\"lamp-1\",\"mute\"],\"body\":1}}' http://{address}/devices/rpc"
            );
            println!("     (takes 10 s, for the device `mute` does not answer)");
        }
    }
    let server = server.run();
    let handle = server.handle();
    let (ended, ()) = tokio::join!(server, stop.then(|()| handle.stop(true)));
    ended
}

fn routes(routes: &mut web::ServiceConfig) {
    routes
        .route("/devices/rpc", web::post().to(call_many))
        .route("/devices/{id}/rpc", web::post().to(call))
        .route("/devices/{id}/events", web::get().to(events))
        .route("/healthz", web::get().to(|| async { "alive" }))
        .route("/readyz", web::get().to(ready));
}

/// A failed call, as actix wants it: with the status and the body that the crate knows for it.
#[derive(Debug)]
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let problem = self.0.problem();
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(Problem::CONTENT_TYPE);
        if let Some(delay) = problem.retry_after {
            response.insert_header(("retry-after", delay.as_secs()));
        }
        response.json(problem)
    }
}

/// One call. When the HTTP client hangs up, this future is dropped, and the call with it.
async fn call(service: Data<Service>, id: Path<String>, body: Bytes) -> Result<HttpResponse, Failure> {
    let reply = request(&service.agent, &id, body).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(reply.payload().clone()))
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
async fn call_many(service: Data<Service>, Json(many): Json<Many>) -> Json<BTreeMap<String, Answer>> {
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
async fn events(service: Data<Service>, id: Path<String>) -> Result<HttpResponse, Failure> {
    const KEEP_ALIVE: Duration = Duration::from_secs(15);

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
    // A comment now and then, so that proxies keep the connection and a client that is gone is noticed.
    let keep_alive = IntervalStream::new(interval(KEEP_ALIVE)).map(|_| Bytes::from_static(b":\n\n"));
    let lines = stream::select(events, keep_alive).take_until(service.stop.clone());
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream").insert_header(("cache-control", "no-cache"));
    Ok(response.streaming(lines.map(Ok::<_, Infallible>)))
}

fn event(name: &str, data: &Value) -> Bytes {
    // JSON has no line breaks of its own.
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.payload()).into_owned()
}

async fn ready(service: Data<Service>) -> HttpResponse {
    let state = service.agent.state().borrow().clone();
    let status = if state.is_connected() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let calls = service.agent.stats().pending_requests;
    HttpResponse::build(status).json(json!({ "state": state.to_string(), "pending_requests": calls }))
}
