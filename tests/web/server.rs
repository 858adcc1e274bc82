//! An example as a process of its own, and a client for it.

use std::env;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mqtt_agent::testing::within;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::sleep;

use crate::support::{millis, secs};

/// How long a test waits for what a server does at once, on a machine that does much else.
pub(crate) const LIMIT: Duration = secs(20);

/// A running example. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Open as long as the server: it may print.
    _output: BufReader<ChildStdout>,
    url: String,
    client: Client,
}

impl Server {
    /// Runs an example with these variables, and returns when it listens, on a port of its own.
    pub(crate) async fn start(example: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_with(example, variables, &[]).await
    }

    pub(crate) async fn start_with(example: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut command = Command::new(binary(example));
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MQTT_")) {
            command.env_remove(name);
        }
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the example starts");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        within(LIMIT, "a line of the server", output.read_line(&mut line)).await.unwrap();
        let url = line.trim_end().strip_prefix("listening on ").expect("the address of the server").to_owned();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { child, _output: output, url, client }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    /// Waits until the server is ready, or is not, and returns what it says of itself.
    pub(crate) async fn until_ready(&self, is_ready: bool) -> Value {
        self.until(|status, _| (status == 200) == is_ready).await
    }

    pub(crate) async fn until_pending(&self, calls: u64) {
        self.until(|_, state| state["pending_requests"] == calls).await;
    }

    async fn until(&self, holds: impl Fn(u16, &Value) -> bool) -> Value {
        let asking = async {
            loop {
                let (status, state) = answer(self.get("/readyz")).await;
                if holds(status, &state) {
                    return state;
                }
                sleep(millis(20)).await;
            }
        };
        within(LIMIT, "the state of the server", asking).await
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().expect("the server runs");
        // The shell has `kill` built in; not every container has the program.
        let shell = std::process::Command::new("sh").arg("-c").arg(format!("kill -TERM {pid}")).status();
        assert!(shell.expect("a shell").success());
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        within(LIMIT, "the end of the server", self.child.wait()).await.unwrap()
    }

    /// It ends by SIGTERM, and as if nothing had gone wrong.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        assert_eq!(self.exit().await.code(), Some(0));
    }
}

/// Cargo puts examples beside the folder of test binaries.
fn binary(example: &str) -> PathBuf {
    let mut path = env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", example]);
    path.set_extension(env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is missing: `cargo test` builds it, or `cargo build --examples`", path.display());
    path
}

pub(crate) async fn send(request: RequestBuilder) -> Response {
    within(LIMIT, "an answer of the server", request.send()).await.expect("an answer")
}

/// The status and the JSON of an answer.
pub(crate) async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = send(request).await;
    let status = response.status().as_u16();
    (status, within(LIMIT, "a body", response.json()).await.expect("JSON"))
}

/// What of a stream came until it held this text.
pub(crate) async fn read_until(stream: &mut Response, text: &str) -> String {
    let reading = async {
        let mut read = String::new();
        while !read.contains(text) {
            let chunk = stream.chunk().await.expect("a stream").unwrap_or_else(|| panic!("ended after {read:?}"));
            read.push_str(&String::from_utf8_lossy(&chunk));
        }
        read
    };
    within(LIMIT, "a part of the stream", reading).await
}
