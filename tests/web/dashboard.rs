//! The dashboard, by its routes and in a browser.

use std::env;
use std::path::PathBuf;

use mqtt_agent::testing::{Broker, Device};
use serde_json::{json, Value};

use crate::browser::Browser;
use crate::server::{read_until, send, Server};

#[tokio::test]
async fn the_server_tells_what_it_knows_and_what_is_new() {
    let broker = Broker::start().await.unwrap();
    let mut device = Device::connect(broker.url()).await.unwrap();
    device.respond_to("devices/a/rpc", |_| ("devices/a/rpc/res", "pong")).await.unwrap();
    device.agent().publish("devices/a/status", "online").retain(true).await.unwrap();
    let server = Server::start("fleet_dashboard", &[("MQTT_URL", &broker.url())]).await;
    server.until_ready(true).await;

    let mut events = send(server.get("/events")).await;
    let read = read_until(&mut events, r#""connected":true"#).await;
    assert!(read.contains("event: fleet"), "{read}");
    // Of the retained message, whether the browser or the server was the first.
    if !read.contains(r#""a""#) {
        read_until(&mut events, r#""a""#).await;
    }
    device.agent().publish("devices/<b>/telemetry", r#"{"celsius":21.5}"#).await.unwrap();
    read_until(&mut events, r#""celsius":21.5"#).await;

    let lost = send(server.post("/ping").json(&json!({ "id": "<b>" }))).await;
    assert_eq!(lost.status(), 504);
    let answers = send(server.post("/ping/all")).await.text().await.unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((answers.len(), &answers[0]["total"]), (3, &Value::from(2)), "{answers:?}");
    let of = |id: &str| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert!(of("a")["ms"].as_f64().unwrap() > 0.0, "{answers:?}");
    assert_eq!(of("<b>")["problem"]["status"], 504, "{answers:?}");

    broker.stop().await.unwrap();
    read_until(&mut events, r#""connected":false"#).await;
    server.stop().await;
}

#[tokio::test]
async fn the_page_shows_the_fleet_and_pings_it() {
    let Some(browser) = Browser::open_or_skip(1280, 1340).await else { return };
    let server = Server::start("fleet_dashboard", &[]).await;
    browser.go(server.url()).await;
    browser.until("document.querySelectorAll('.card').length === 12").await;
    browser.until("document.querySelector('#count').textContent === '11 of 12 devices online'").await;
    browser.until("document.querySelector('[data-id=office] .line').getAttribute('d')").await;
    browser.until("document.querySelector('[data-id=office] .seen').textContent.startsWith('last seen ')").await;

    browser.run("document.querySelector('button[aria-label=\"Ping office\"]').click()").await;
    browser.until(r"/^\d+\.\d ms$/.test(document.querySelector('[data-id=office] output').textContent)").await;

    browser.run("document.querySelector('#ping-all').click()").await;
    let result = "document.querySelector('#ping-all-result').textContent";
    browser.until(&format!("{result} === '100 % (12 of 12), 2 without an answer'")).await;
    let counts = "[...document.querySelectorAll('#histogram .times')].map((times) => Number(times.textContent))";
    let counts: Vec<u64> = serde_json::from_value(browser.run(&format!("return {counts}")).await).unwrap();
    assert_eq!((counts.iter().sum(), counts.last()), (12, Some(&2)), "{counts:?}");
    assert_eq!(browser.run("return document.querySelector('#progress').position").await, 1);

    let focused = "document.querySelector('#ping-all').focus(), document.querySelector('#ping-all').click()";
    browser.run(focused).await;
    assert_eq!(browser.run("return document.activeElement.id").await, "ping-all", "the keyboard keeps its place");

    let nameless = "[...document.querySelectorAll('button, progress, [role=img]')]
        .filter((element) => !(element.getAttribute('aria-label') ?? element.textContent))";
    assert_eq!(browser.run(&format!("return {nameless}.length")).await, 0);
    assert_eq!(browser.complaints().await, Vec::<Value>::new());

    // For docs/fleet_dashboard.png, which no test run changes by itself.
    if let Some(file) = env::var_os("MQTT_AGENT_SCREENSHOT").map(PathBuf::from) {
        browser.until("cards.get('office').readings.length > 30").await;
        browser.save_screenshot(&file).await;
    }
    drop(browser);
    server.stop().await;
}

#[tokio::test]
async fn the_page_says_what_is_wrong() {
    let Some(browser) = Browser::open_or_skip(800, 900).await else { return };
    let broker = Broker::start().await.unwrap();
    let (url, port) = (broker.url(), broker.addr().port());
    let device = Device::connect(url.as_str()).await.unwrap();
    let server = Server::start("fleet_dashboard", &[("MQTT_URL", &url)]).await;
    server.until_ready(true).await;
    browser.go(server.url()).await;
    let cannot_ping = "document.querySelector('#ping-all').ariaDisabled === 'true'";
    browser.until(&format!("!document.querySelector('#none').hidden && {cannot_ping}")).await;

    // Of the kind that would run if it were taken for more than text.
    let hostile = "<img src=x onerror=document.title='broken'>";
    let reading = r#"{"celsius":21.5}"#;
    device.agent().publish(format!("devices/{hostile}/telemetry"), reading).retain(true).await.unwrap();
    browser.until("document.querySelector('.card h3')?.textContent.startsWith('<img ')").await;
    browser.until(&format!("!({cannot_ping})")).await;
    assert_eq!(browser.run("return document.title").await, "Fleet");

    // And one that would lead elsewhere if it were put into a path.
    device.agent().publish("devices/../telemetry", reading).retain(true).await.unwrap();
    browser.until("cards.has('..')").await;
    browser.run("document.querySelector('button[aria-label=\"Ping ..\"]').click()").await;
    browser.until("document.querySelector('[data-id=\"..\"] output').textContent === 'no reply'").await;

    let banner = "document.querySelector('#banner')";
    broker.stop().await.unwrap();
    browser.until(&format!("!{banner}.hidden && {banner}.textContent.includes('no connection to the broker')")).await;
    browser.until(cannot_ping).await;
    let broker = Broker::builder().port(port).start().await.unwrap();
    browser.until(&format!("{banner}.hidden && !({cannot_ping})")).await;

    server.stop().await;
    browser.until(&format!("!{banner}.hidden && {banner}.textContent.includes('does not answer')")).await;
    broker.stop().await.unwrap();
}
