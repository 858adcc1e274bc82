//! The one agent of a process. Each test is a process of its own.

use std::process::Command;

use mqtt_agent::{global, ErrorKind, State};

use crate::common::state;
use crate::support::{within, EmbeddedBroker, LIMIT};

/// Runs the test of this name, which is ignored otherwise, in a new process.
async fn in_a_new_process(test: &'static str, url: Option<String>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let (_crate, module) = module_path!().split_once("::").unwrap();
    command.args(["--exact", "--ignored", "--nocapture", &format!("{module}::{test}")]).env_remove("MQTT_URL");
    if let Some(url) = url {
        command.env("MQTT_URL", url);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn without_a_set_the_environment_says_where_the_broker_is() {
    let broker = EmbeddedBroker::start().await;
    in_a_new_process("uses_the_environment", Some(broker.url())).await;
}

#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn uses_the_environment() {
    let agent = global::agent().unwrap();
    state(&agent, "a connection", State::is_connected).await;
    within(LIMIT, "the publish", async { global::agent().unwrap().publish("a", "x").await }).await.unwrap();
    assert_eq!(agent.stats().published, 1);
    assert_eq!(global::set(agent).unwrap_err().kind(), ErrorKind::AlreadySet);
}

#[tokio::test]
async fn with_neither_a_set_nor_an_environment_the_error_says_so() {
    in_a_new_process("has_nothing_to_go_by", None).await;
}

#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn has_nothing_to_go_by() {
    let error = global::agent().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOptions);
    assert!(error.to_string().contains("MQTT_URL"), "{error}");
    // Not too late.
    let broker = EmbeddedBroker::start().await;
    global::set_options(broker.url()).unwrap();
    within(LIMIT, "the publish", async { global::agent().unwrap().publish("a", "x").await }).await.unwrap();
    global::agent().unwrap().drain(LIMIT).await.unwrap();
    assert!(global::agent().unwrap_err().is_closed());
}
