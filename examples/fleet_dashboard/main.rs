//! A fleet of devices in the browser: what they measure, when they were last heard of, and how fast they answer.
//!
//! ```text
//! cargo run --example fleet_dashboard                                       a broker and devices in this process
//! MQTT_URL=mqtt://localhost cargo run --example fleet_dashboard             the broker that the environment names
//! ```
//!
//! A device says `online` on `devices/{id}/status`, retained, with `offline` as its last will; sends what it measures on
//! `devices/{id}/telemetry`; and answers a ping on `devices/{id}/rpc` by `devices/{id}/rpc/res`.
//!
//! `fleet.rs` is what the server knows of the devices, `devices.rs` simulates some, `page.*` is what the browser shows.

mod devices;
mod fleet;
#[path = "../stop/mod.rs"]
mod stop;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use futures::{stream, FutureExt, Stream, StreamExt};
use mqtt_agent::{Agent, Error, Offline, Options, Request};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokio::net::TcpListener;
use tokio_stream::wrappers::WatchStream;

use devices::Simulation;
use fleet::{Changes, Fleet};
use stop::{stop_signal, Stop};

/// A page that shows a fleet of devices. The broker is named by MQTT_URL, or MQTT_HOST and others.
#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Use a broker and devices in this process, as without MQTT_URL and MQTT_HOST.
    #[arg(long)]
    embedded: bool,
    /// How many devices to simulate there.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=500))]
    devices: u16,
}

#[derive(Clone)]
struct Dashboard {
    agent: Agent,
    fleet: Arc<Fleet>,
    stop: Stop,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let stop = stop_signal()?;
    let is_named = ["MQTT_URL", "MQTT_HOST"].iter().any(|name| std::env::var_os(name).is_some());
    let simulation = if args.embedded || !is_named { Some(Simulation::start(args.devices).await?) } else { None };
    let options = match &simulation {
        Some(simulation) => Options::from_url(&simulation.url())?,
        None => Options::from_env("MQTT")?,
    };
    let agent = options.offline(Offline::Fail).connect_lazy()?;
    let fleet = Arc::new(Fleet::default());
    let following = tokio::spawn(fleet.clone().follow(agent.clone()));

    let listener = TcpListener::bind(args.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, Dashboard { agent: agent.clone(), fleet, stop }).await?;

    agent.drain(Duration::from_secs(5)).await?;
    // Its stream has ended with the agent.
    following.await?;
    if let Some(simulation) = simulation {
        simulation.stop().await?;
    }
    Ok(())
}

/// Until it is told to stop; then no more is accepted, and what is under way has a while to end.
async fn serve(listener: TcpListener, dashboard: Dashboard) -> std::io::Result<()> {
    const GRACE: Duration = Duration::from_secs(5);

    let stop = dashboard.stop.clone();
    let server = axum::serve(listener, router(dashboard)).with_graceful_shutdown(stop.clone());
    tokio::select! {
        ended = server => ended,
        () = stop.then(|()| tokio::time::sleep(GRACE)) => Ok(()),
    }
}

fn router(dashboard: Dashboard) -> Router {
    Router::new()
        .route("/", get(|| page("text/html; charset=utf-8", include_str!("page.html"))))
        .route("/page.css", get(|| page("text/css", include_str!("page.css"))))
        .route("/page.js", get(|| page("text/javascript", include_str!("page.js"))))
        .route("/events", get(events))
        .route("/ping", post(ping))
        .route("/ping/all", post(ping_all))
        .route("/readyz", get(ready))
        .with_state(dashboard)
}

/// The browser loads and runs nothing that is not from here, whatever a device calls itself.
async fn page(content_type: &'static str, content: &'static str) -> impl IntoResponse {
    let policy = "default-src 'self'; img-src data:";
    ([("content-type", content_type), ("content-security-policy", policy)], content)
}

/// What is known of the fleet, then each change, and the state of the connection to the broker.
async fn events(State(dashboard): State<Dashboard>) -> impl IntoResponse {
    let Dashboard { agent, fleet, stop } = dashboard;
    let broker = WatchStream::new(agent.state())
        .map(|state| event("broker", &json!({ "connected": state.is_connected(), "state": state.to_string() })));
    let events = stream::select(news(fleet), broker).take_until(stop);
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// A browser that is slow and misses some changes begins anew: those that still wait for it are older than what is known
/// by then.
fn news(fleet: Arc<Fleet>) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((fleet, None), |(fleet, changes): (_, Option<Changes>)| async move {
        if let Some(mut changes) = changes {
            if let Ok(change) = changes.recv().await {
                return Some((event("change", &change), (fleet, Some(changes))));
            }
        }
        let (known, changes) = fleet.watch();
        Some((event("fleet", &known), (fleet, Some(changes))))
    })
}

fn event(name: &str, data: &impl Serialize) -> Result<Event, Infallible> {
    // Texts, numbers and lists of them: they can always be written.
    Ok(Event::default().event(name).json_data(data).unwrap_or_default())
}

/// In the body, for a device may call itself what a path cannot hold, such as `..`.
#[derive(Deserialize)]
struct Ping {
    id: String,
}

async fn ping(State(dashboard): State<Dashboard>, Json(Ping { id }): Json<Ping>) -> Result<Json<Value>, Error> {
    let started = Instant::now();
    ping_request(&dashboard.agent, &id).await?;
    Ok(Json(json!({ "id": id, "ms": millis(started) })))
}

/// Pings every device that is known, 50 at a time; a line for each answer as it comes, after one that says how many
/// there will be.
async fn ping_all(State(dashboard): State<Dashboard>) -> impl IntoResponse {
    let Dashboard { agent, fleet, stop } = dashboard;
    let ids = fleet.ids();
    let total = json!({ "total": ids.len() });
    let caller = agent.clone();
    // The iterator makes a call when its turn has come: its time runs from then.
    let calls = ids.into_iter().map(move |id| ((id.clone(), Instant::now()), ping_request(&caller, &id)));
    let answers = agent.request_each(calls).concurrency(50).map(|((id, started), answer)| match answer {
        Ok(_) => json!({ "id": id, "ms": millis(started) }),
        Err(error) => json!({ "id": id, "problem": error.problem() }),
    });
    let lines = stream::once(async { total }).chain(answers).map(|line| Ok::<_, Infallible>(format!("{line}\n")));
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines.take_until(stop)))
}

fn ping_request(agent: &Agent, id: &str) -> Request {
    const PATIENCE: Duration = Duration::from_secs(2);

    agent.request(format!("devices/{id}/rpc"), "ping").reply_to(format!("devices/{id}/rpc/res")).timeout(PATIENCE)
}

fn millis(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

async fn ready(State(dashboard): State<Dashboard>) -> impl IntoResponse {
    let state = dashboard.agent.state().borrow().clone();
    let status = if state.is_connected() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "state": state.to_string(), "devices": dashboard.fleet.ids().len() })))
}
