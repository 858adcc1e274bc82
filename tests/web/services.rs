//! The two services: the same routes, the same answers.

use mqtt_agent::testing::{within, Broker, Device, Response};
use mqtt_agent::{Agent, Message};
use reqwest::RequestBuilder;
use serde_json::{json, Value};

use crate::server::{answer, read_until, send, Server, LIMIT};
use crate::support::{self, millis, MosquittoConfig};

/// The tests `$name::axum` and `$name::actix` out of one body that takes the name of the example.
macro_rules! service_test {
    ($name:ident, |$example:ident| $body:expr) => {
        mod $name {
            use super::*;

            async fn run($example: &str) {
                $body
            }

            #[tokio::test]
            async fn axum() {
                run("axum").await;
            }

            #[tokio::test]
            async fn actix() {
                run("actix").await;
            }
        }
    };
}

/// A service that is connected to this broker and waits half a second for a reply.
async fn connected(example: &str, url: &str) -> Server {
    let server = Server::start(example, &[("MQTT_URL", url), ("MQTT_TIMEOUT", "0.5")]).await;
    server.until_ready(true).await;
    server
}

/// The same, but patient.
async fn patient(example: &str, broker: &Broker) -> Server {
    let server = Server::start(example, &[("MQTT_URL", &broker.url())]).await;
    server.until_ready(true).await;
    server
}

async fn device<R>(broker: &Broker, id: &str, respond: R) -> Device
where
    R: Fn(&Message, String) -> Response + Send + 'static,
{
    let mut device = Device::connect(broker.url()).await.unwrap();
    let res = format!("devices/{id}/rpc/res");
    device.respond_to(format!("devices/{id}/rpc"), move |call| respond(call, res.clone())).await.unwrap();
    device
}

/// Answers with what it was asked.
fn echo(call: &Message, res: String) -> Response {
    Response::reply(res, call.payload().clone())
}

fn mute(_call: &Message, _res: String) -> Response {
    Response::silence()
}

fn broken(_call: &Message, res: String) -> Response {
    Response::reply(res, r#"{"error":"the bulb is loose"}"#)
}

/// The problem that the server answers with; its status is that of the answer.
async fn problem(request: RequestBuilder) -> Value {
    let response = send(request).await;
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{response:?}");
    let status = response.status().as_u16();
    let problem: Value = within(LIMIT, "a body", response.json()).await.unwrap();
    assert_eq!(problem["status"], status, "{problem}");
    problem
}

service_test!(a_call_is_answered_with_the_devices_reply, |example| {
    let broker = Broker::start().await.unwrap();
    let _device = device(&broker, "1", echo).await;
    let server = connected(example, &broker.url()).await;
    let reply = answer(server.post("/devices/1/rpc").body(r#"{"on":true}"#)).await;
    assert_eq!(reply, (200, json!({ "on": true })));
    server.stop().await;
});

service_test!(failures_have_the_statuses_that_they_are_documented_with, |example| {
    let broker = Broker::builder().refuse("devices/secret").max_packet_size(2048).start().await.unwrap();
    let _devices = [device(&broker, "mute", mute).await, device(&broker, "broken", broken).await];
    let server = connected(example, &format!("{}?version=5", broker.url())).await;

    let failure = problem(server.post("/devices/mute/rpc").body("ping")).await;
    assert_eq!((&failure["status"], &failure["outcome"]), (&json!(504), &json!("unknown")), "{failure}");
    assert_eq!((&failure["title"], &failure["type"]), (&json!("Gateway Timeout"), &json!("about:blank")));

    let failure = problem(server.post("/devices/broken/rpc").body("ping")).await;
    assert_eq!((&failure["status"], &failure["outcome"]), (&json!(502), &json!("refused")), "{failure}");
    assert!(failure["detail"].as_str().unwrap().contains("the bulb is loose"), "{failure}");

    let failure = problem(server.post("/devices/secret/rpc").body("ping")).await;
    assert_eq!((&failure["status"], &failure["outcome"]), (&json!(403), &json!("not_sent")), "{failure}");

    for wild in [server.post("/devices/+/rpc"), server.get("/devices/+/events"), server.get("/devices/%23/events")] {
        let failure = problem(wild).await;
        assert_eq!((&failure["status"], &failure["outcome"]), (&json!(400), &json!("not_sent")), "{failure}");
    }

    let failure = problem(server.post("/devices/1/rpc").body("x".repeat(4096))).await;
    assert_eq!((&failure["status"], &failure["outcome"]), (&json!(413), &json!("not_sent")), "{failure}");
    server.stop().await;
});

service_test!(a_refusal_without_a_reason_is_a_bad_gateway, |example| {
    let broker = Broker::builder().refuse("devices/secret").start().await.unwrap();
    let server = connected(example, &format!("{}?version=3.1.1", broker.url())).await;
    assert_eq!(problem(server.get("/devices/secret/events")).await["status"], 502);
    server.stop().await;
});

service_test!(a_device_that_is_not_there_is_not_found_where_the_broker_says_so, |example| {
    let Some(broker) = support::mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    let server = connected(example, &format!("mqtt://{}?version=5", broker.addr())).await;
    let failure = problem(server.post("/devices/nobody/rpc").body("ping")).await;
    assert_eq!(failure["status"], 404, "{failure}");
    server.stop().await;
});

service_test!(without_a_broker_it_lives_but_is_not_ready_and_calls_fail_at_once, |example| {
    let broker = Broker::start().await.unwrap();
    let (url, port) = (broker.url(), broker.addr().port());
    broker.stop().await.unwrap();
    let server = Server::start(example, &[("MQTT_URL", &url)]).await;

    assert_eq!(send(server.get("/healthz")).await.status(), 200);
    let state = server.until_ready(false).await;
    assert_ne!(state["state"], "connected", "{state}");
    let response = send(server.post("/devices/1/rpc").body("ping")).await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(problem(server.post("/devices/1/rpc").body("ping")).await["status"], 503);

    let broker = Broker::builder().port(port).start().await.unwrap();
    assert_eq!(server.until_ready(true).await["state"], "connected");
    broker.stop().await.unwrap();
    server.until_ready(false).await;
    server.stop().await;
});

service_test!(many_devices_are_called_with_a_result_for_each, |example| {
    let broker = Broker::start().await.unwrap();
    let mut fleet = vec![device(&broker, "mute", mute).await, device(&broker, "broken", broken).await];
    for id in 0..20 {
        fleet.push(device(&broker, &format!("lamp-{id}"), echo).await);
    }
    let server = connected(example, &broker.url()).await;

    let lamps = (0..20).map(|id| format!("lamp-{id}"));
    let devices: Vec<String> = lamps.chain(["mute", "broken", "+"].map(str::to_owned)).collect();
    let many = json!({ "devices": devices, "body": { "on": true } });
    let (status, answers) = answer(server.post("/devices/rpc").json(&many)).await;
    assert_eq!((status, answers.as_object().unwrap().len()), (200, devices.len()), "{answers}");
    for id in 0..20 {
        assert_eq!(answers[format!("lamp-{id}")], json!({ "reply": { "on": true } }), "{answers}");
    }
    let failures = ["mute", "broken", "+"].map(|id| answers[id]["error"]["status"].as_u64());
    assert_eq!(failures, [Some(504), Some(502), Some(400)], "{answers}");
    server.stop().await;
});

service_test!(a_client_that_hangs_up_takes_its_calls_with_it, |example| {
    let broker = Broker::start().await.unwrap();
    let _device = device(&broker, "mute", mute).await;
    let server = patient(example, &broker).await;

    let one = tokio::spawn(server.post("/devices/mute/rpc").body("ping").send());
    let many = json!({ "devices": ["a", "b", "c"], "body": 1 });
    let many = tokio::spawn(server.post("/devices/rpc").json(&many).send());
    server.until_pending(4).await;
    many.abort();
    server.until_pending(1).await;
    one.abort();
    server.until_pending(0).await;
    server.stop().await;
});

service_test!(events_are_streamed_and_what_is_lost_is_told, |example| {
    let broker = Broker::start().await.unwrap();
    let server = Server::start(example, &[("MQTT_URL", &broker.url()), ("MQTT_STREAM_CAPACITY", "4")]).await;
    server.until_ready(true).await;
    let mut events = send(server.get("/devices/1/events")).await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");

    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("devices/2/events", "of another").await.unwrap();
    agent.publish("devices/1/events", "line\r\nbreak").await.unwrap();
    let read = read_until(&mut events, r"line\r\nbreak").await;
    assert!(read.contains("event: message\n") && !read.contains("of another"), "{read}");

    // More than the sockets on the way hold while nobody reads.
    for _ in 0..400 {
        agent.publish("devices/1/events", vec![b'x'; 64 << 10]).await.unwrap();
    }
    read_until(&mut events, "event: lagged").await;
    agent.publish("devices/1/events", "the last").await.unwrap();
    read_until(&mut events, "the last").await;
    drop(events);
    server.stop().await;
});

service_test!(told_to_stop_it_finishes_its_calls_ends_its_streams_and_exits_well, |example| {
    let broker = Broker::start().await.unwrap();
    let slow = |call: &Message, res: String| Response::reply(res, call.payload().clone()).after(millis(700));
    let _device = device(&broker, "slow", slow).await;
    let mut server = patient(example, &broker).await;
    let mut events = send(server.get("/devices/slow/events")).await;
    let call = tokio::spawn(server.post("/devices/slow/rpc").body("1").send());
    server.until_pending(1).await;

    server.terminate();
    let reply = within(LIMIT, "the reply", call).await.unwrap().expect("an answer");
    assert_eq!((reply.status().as_u16(), reply.text().await.unwrap().as_str()), (200, "1"));
    let ending = async { while events.chunk().await.expect("an orderly end").is_some() {} };
    within(LIMIT, "the end of the events", ending).await;
    assert_eq!(server.exit().await.code(), Some(0));
});

service_test!(it_works_out_of_the_box, |example| {
    let server = Server::start(example, &[]).await;
    server.until_ready(true).await;
    server.stop().await;
    // Also where the environment names a broker, if that is asked for.
    let server = Server::start_with(example, &[("MQTT_URL", "mqtt://127.0.0.1:1")], &["--embedded"]).await;
    server.until_ready(true).await;
    let many = json!({ "devices": ["lamp-1", "broken"], "body": "ping" });
    let (_, answers) = answer(server.post("/devices/rpc").json(&many)).await;
    assert_eq!(answers["lamp-1"]["reply"]["result"], "pong", "{answers}");
    assert_eq!(answers["broken"]["error"]["status"], 502, "{answers}");
    let mut events = send(server.get("/devices/lamp-1/events")).await;
    read_until(&mut events, "uptime").await;
    drop(events);
    server.stop().await;
});
