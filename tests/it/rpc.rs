//! Conventions of real devices, in their own words.

use std::future::IntoFuture;

use futures::future::join_all;
use mqtt_agent::rpc::{AwsShadow, Shelly, ThingsBoard, Zigbee2Mqtt};
use mqtt_agent::{Agent, ErrorKind, Json, Message, Outcome, RemoteError, Request, Service};
use serde_json::{json, Value};
use tokio::task::JoinHandle;

use crate::script::*;
use crate::support::{broker_test, within, Peer, LIMIT};

fn start(call: Request) -> JoinHandle<Result<Message, mqtt_agent::Error>> {
    tokio::spawn(call.into_future())
}

/// The next request: its topic and payload.
async fn asked_for(peer: &mut Peer) -> (String, Value) {
    let request = peer.expect_publish().await;
    peer.puback(request.pkid).await;
    (request.topic, serde_json::from_slice(&request.payload).unwrap())
}

async fn answer(peer: &mut Peer, topic: &str, payload: &Value) {
    peer.publish(message(topic, &payload.to_string())).await;
}

async fn ended(call: JoinHandle<Result<Message, mqtt_agent::Error>>) -> Result<Message, mqtt_agent::Error> {
    within(LIMIT, "the answer", call).await.unwrap()
}

fn remote(answer: Result<Message, mqtt_agent::Error>) -> RemoteError {
    let error = answer.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Remote, Outcome::Refused));
    assert_eq!(error.messages().len(), 1);
    error.remote().unwrap().clone()
}

#[tokio::test]
async fn a_shelly_is_called_by_its_rpc_topic_and_answers_at_that_of_the_caller() {
    let (_scripted, agent, mut peer) = pair().await;
    let lamp = Shelly::new("shellyplus1-a8032abe54dc").src("web-1");
    let set = start(lamp.call(&agent, "Switch.Set", &json!({ "id": 0, "on": true })));
    let get = start(lamp.call(&agent, "Switch.GetStatus", &json!({ "id": 10 })));
    assert_eq!(asked(&grant(&mut peer).await), [("web-1/rpc", 1)]);
    let (topic, frame) = asked_for(&mut peer).await;
    assert_eq!(topic, "shellyplus1-a8032abe54dc/rpc");
    let params = json!({ "id": 0, "on": true });
    assert_eq!(frame, json!({ "id": frame["id"], "src": "web-1", "method": "Switch.Set", "params": params }));
    let (_, second) = asked_for(&mut peer).await;
    assert_ne!(frame["id"], second["id"]);
    let device = "shellyplus1-a8032abe54dc";
    let error = json!({ "code": -105, "message": "Argument 'id', value 10 not found!" });
    answer(&mut peer, "web-1/rpc", &json!({ "id": second["id"], "src": device, "dst": "web-1", "error": error })).await;
    let result = json!({ "was_on": false });
    answer(&mut peer, "web-1/rpc", &json!({ "id": frame["id"], "src": device, "dst": "web-1", "result": result }))
        .await;
    assert!(!ended(set).await.unwrap().json_at::<bool>("/result/was_on").unwrap());
    let refused = RemoteError::new("Argument 'id', value 10 not found!").with_code(-105);
    assert_eq!(remote(ended(get).await), refused);
}

/// A device that speaks the JSON-RPC of Shelly.
async fn shelly(device: &Agent, name: &'static str) -> Service {
    device
        .serve(format!("{name}/rpc"), move |request| async move {
            let frame: Value = request.json().map_err(|error| error.to_string())?;
            let answer = match frame["method"].as_str() {
                Some("Shelly.GetDeviceInfo") => json!({ "result": { "id": name, "gen": 2, "echo": frame["params"] } }),
                _ => json!({ "error": { "code": 404, "message": "No handler for method" } }),
            };
            let mut answer = answer;
            answer["id"] = frame["id"].clone();
            answer["src"] = name.into();
            answer["dst"] = frame["src"].clone();
            Ok::<_, String>(Json(answer))
        })
        .reply_by(|request| Some(format!("{}/rpc", request.json_at::<String>("/src").ok()?)))
        .same_by(|request| Some(request.json_at::<u64>("/id").ok()?.to_string()))
        .await
        .unwrap()
}

broker_test!(two_shellies_are_called_at_once_by_way_of_one_subscription, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let _services = (shelly(&device, "shelly-a").await, shelly(&device, "shelly-b").await);
    let agent = Agent::connect(broker.url()).await.unwrap();
    let call = |n: usize| {
        let device = Shelly::new(["shelly-a", "shelly-b"][n % 2]);
        device.call(&agent, "Shelly.GetDeviceInfo", &n).into_future()
    };
    for (n, reply) in join_all((0..50).map(call)).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().json_at::<usize>("/result/echo").unwrap(), n);
    }
    assert_eq!(agent.stats().filters, 1);
    let unknown = Shelly::new("shelly-a").call(&agent, "Fly", &json!({})).await;
    assert_eq!(remote(unknown), RemoteError::new("No handler for method").with_code(404));
});

#[tokio::test]
async fn thingsboard_has_the_number_of_a_call_in_its_topic() {
    for (rpc, request, response) in [
        (ThingsBoard::standard(), "v1/devices/me/rpc/request", "v1/devices/me/rpc/response"),
        (ThingsBoard::short(), "v2/r/req", "v2/r/res"),
    ] {
        let (_scripted, agent, mut peer) = pair().await;
        let calls = [1, 2].map(|n| start(rpc.call(&agent, "getTime", &json!({ "n": n }))));
        assert_eq!(asked(&grant(&mut peer).await), [(&*format!("{response}/+"), 1)]);
        let mut ids = Vec::new();
        for n in [1, 2] {
            let (topic, payload) = asked_for(&mut peer).await;
            assert_eq!(payload, json!({ "method": "getTime", "params": { "n": n } }));
            ids.push(topic.strip_prefix(&format!("{request}/")).unwrap().to_owned());
        }
        for (n, id) in ids.iter().enumerate().rev() {
            answer(&mut peer, &format!("{response}/{id}"), &json!({ "time": n })).await;
        }
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(ended(call).await.unwrap().json_at::<usize>("/time").unwrap(), n);
        }

        // And the other way round: the platform asks the device.
        let serve = agent.serve(rpc.pattern(), |request| async move { request.json_at::<Value>("/params").map(Json) });
        let _service = granted(&mut peer, serve.reply_to(rpc.reply_to()).into_future()).await.unwrap();
        answer(&mut peer, &format!("{request}/17"), &json!({ "method": "setGpio", "params": { "pin": 4 } })).await;
        assert_eq!(asked_for(&mut peer).await, (format!("{response}/17"), json!({ "pin": 4 })));
    }
}

broker_test!(a_platform_calls_a_thingsboard_device, |broker| async move {
    let rpc = ThingsBoard::standard();
    let device = Agent::connect(broker.url()).await.unwrap();
    let serve = device.serve(rpc.pattern(), |request| async move { request.json_at::<Value>("/params").map(Json) });
    let _service = serve.reply_to(rpc.reply_to()).await.unwrap();
    let platform = Agent::connect(broker.url()).await.unwrap();
    let calls = (0..50).map(|n| rpc.call(&platform, "echo", &n).into_future());
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().json::<usize>().unwrap(), n);
    }
});

#[tokio::test]
async fn a_shadow_accepts_or_rejects_each_on_its_own_topic() {
    let (_scripted, agent, mut peer) = pair().await;
    let shadow = AwsShadow::new("pump");
    let calls = [start(shadow.get(&agent)), start(shadow.get(&agent))];
    let prefix = "$aws/things/pump/shadow/get";
    let subscribe = grant(&mut peer).await;
    assert_eq!(asked(&subscribe), [(&*format!("{prefix}/accepted"), 1), (&*format!("{prefix}/rejected"), 1)]);
    let (topic, first) = asked_for(&mut peer).await;
    let (_, second) = asked_for(&mut peer).await;
    assert_eq!((topic.as_str(), &first), (prefix, &json!({ "clientToken": first["clientToken"] })));
    assert!(first["clientToken"].as_str().unwrap().len() <= 64);
    let rejection = json!({
        "code": 404, "message": "No shadow exists with name: 'pump'",
        "timestamp": 1_714_000_000, "clientToken": second["clientToken"],
    });
    answer(&mut peer, &format!("{prefix}/rejected"), &rejection).await;
    let document = json!({
        "state": { "desired": { "speed": 3 }, "reported": { "speed": 2 }, "delta": { "speed": 3 } },
        "metadata": { "desired": { "speed": { "timestamp": 1_714_000_000 } } },
        "version": 7, "timestamp": 1_714_000_001, "clientToken": first["clientToken"],
    });
    answer(&mut peer, &format!("{prefix}/accepted"), &document).await;
    let [accepted, rejected] = calls;
    assert_eq!(ended(accepted).await.unwrap().json_at::<u32>("/state/desired/speed").unwrap(), 3);
    let refused = RemoteError::new("No shadow exists with name: 'pump'").with_code(404);
    assert_eq!(remote(ended(rejected).await), refused);

    let update = start(AwsShadow::named("pump", "limits").update(&agent, &json!({ "state": { "desired": {} } })));
    let subscribe = grant(&mut peer).await;
    assert_eq!(asked(&subscribe)[0].0, "$aws/things/pump/shadow/name/limits/update/accepted");
    let (_, document) = asked_for(&mut peer).await;
    assert_eq!(document, json!({ "state": { "desired": {} }, "clientToken": document["clientToken"] }));
    drop(update);
    let error = shadow.update(&agent, "no object").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

broker_test!(a_simulated_shadow_is_read_and_changed, |broker| async move {
    let cloud = Agent::connect(broker.url()).await.unwrap();
    let _service = cloud
        .serve("$aws/things/{thing}/shadow/{verb}", |request| async move {
            let token: String = request.json_at("/clientToken").map_err(|error| error.to_string())?;
            Ok::<_, String>(Json(match request.param("verb") {
                Some("delete") => json!({ "code": 404, "message": "No shadow", "clientToken": token }),
                _ => json!({ "state": { "thing": request.param("thing") }, "clientToken": token }),
            }))
        })
        .reply_by(|request| {
            let answer = if request.param("verb") == Some("delete") { "rejected" } else { "accepted" };
            Some(format!("{}/{answer}", request.topic()))
        })
        .await
        .unwrap();
    let agent = Agent::connect(broker.url()).await.unwrap();
    let shadow = AwsShadow::new("pump");
    let state = shadow.get(&agent).await.unwrap();
    assert_eq!(state.json_at::<&str>("/state/thing").unwrap(), "pump");
    assert_eq!(remote(shadow.delete(&agent).await), RemoteError::new("No shadow").with_code(404));
});

#[tokio::test]
async fn the_bridge_of_zigbee2mqtt_answers_with_a_status_and_the_transaction() {
    let (_scripted, agent, mut peer) = pair().await;
    let bridge = Zigbee2Mqtt::new("zigbee2mqtt");
    let calls = [254, 0].map(|time| start(bridge.request(&agent, "permit_join", &json!({ "time": time }))));
    assert_eq!(asked(&grant(&mut peer).await), [("zigbee2mqtt/bridge/response/permit_join", 1)]);
    let (topic, first) = asked_for(&mut peer).await;
    assert_eq!(topic, "zigbee2mqtt/bridge/request/permit_join");
    assert_eq!(first, json!({ "time": 254, "transaction": first["transaction"] }));
    let (_, second) = asked_for(&mut peer).await;
    let topic = "zigbee2mqtt/bridge/response/permit_join";
    let failed =
        json!({ "data": {}, "status": "error", "error": "Failed to join", "transaction": second["transaction"] });
    answer(&mut peer, topic, &failed).await;
    let done = json!({ "data": { "time": 254 }, "status": "ok", "transaction": first["transaction"] });
    answer(&mut peer, topic, &done).await;
    let [first, second] = calls;
    assert_eq!(ended(first).await.unwrap().json_at::<u32>("/data/time").unwrap(), 254);
    assert_eq!(remote(ended(second).await), RemoteError::new("Failed to join"));
}

broker_test!(a_simulated_bridge_is_asked, |broker| async move {
    let zigbee = Agent::connect(broker.url()).await.unwrap();
    let _service = zigbee
        .serve("zigbee2mqtt/bridge/request/{name#}", |request| async move {
            let asked: Value = request.json().map_err(|error| error.to_string())?;
            Ok::<_, String>(Json(match request.param("name") {
                Some("device/rename") => json!({ "data": asked, "status": "ok", "transaction": asked["transaction"] }),
                _ => json!({ "data": {}, "status": "error", "error": "unknown", "transaction": asked["transaction"] }),
            }))
        })
        .reply_to("zigbee2mqtt/bridge/response/{name}")
        .await
        .unwrap();
    let agent = Agent::connect(broker.url()).await.unwrap();
    let bridge = Zigbee2Mqtt::new("zigbee2mqtt");
    let renamed = bridge.request(&agent, "device/rename", &json!({ "from": "0x1", "to": "door" })).await.unwrap();
    assert_eq!(renamed.json_at::<&str>("/data/to").unwrap(), "door");
    assert_eq!(remote(bridge.request(&agent, "explode", &json!({})).await), RemoteError::new("unknown"));
});
