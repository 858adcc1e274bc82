//! Chromium without a window, driven by the WebDriver protocol.

use std::env;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Once;

use mqtt_agent::testing::within;
use reqwest::{Client, Method};
use serde_json::{json, Value};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::sleep;

use crate::server::LIMIT;
use crate::support::{millis, secs};

/// A window. Closed when dropped.
pub(crate) struct Browser {
    driver: Driver,
    session: String,
    client: Client,
    _profile: TempDir,
}

/// Opens and ends the browser.
struct Driver {
    port: u16,
    child: Child,
    /// Open as long as the driver: it may print.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// `None`, and a line that says so, if Chromium is not installed. Panics instead if `MQTT_AGENT_REQUIRE_CHROMIUM`
    /// is 1, so that CI cannot skip these tests unnoticed.
    pub(crate) async fn open_or_skip(width: u32, height: u32) -> Option<Self> {
        static SAID: Once = Once::new();

        let Some(driver) = Driver::start().await else {
            let required = env::var("MQTT_AGENT_REQUIRE_CHROMIUM").is_ok_and(|set| set == "1");
            assert!(!required, "{MISSING}");
            // `eprintln!` would be captured with the output of the test, which passes.
            SAID.call_once(|| writeln!(io::stderr(), "{MISSING}").unwrap_or_default());
            return None;
        };
        let profile = TempDir::new().unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        let mut browser = Self { driver, session: String::new(), client, _profile: profile };
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(|argument| format!("--{argument}")).collect();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        arguments.push(format!("--window-size={width},{height}"));
        let wanted = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let opened = browser.tell("", json!({ "capabilities": { "alwaysMatch": wanted } })).await;
        browser.session = format!("/{}", opened["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    pub(crate) async fn go(&self, url: &str) {
        self.tell("/url", json!({ "url": url })).await;
    }

    /// What a piece of JavaScript returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.tell("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression holds.
    pub(crate) async fn until(&self, expression: &str) {
        let asking = async {
            while self.run(&format!("return !!({expression})")).await != true {
                sleep(millis(50)).await;
            }
        };
        within(LIMIT * 2, expression, asking).await;
    }

    /// What the page complained about.
    pub(crate) async fn complaints(&self) -> Vec<Value> {
        let log = self.tell("/se/log", json!({ "type": "browser" })).await;
        let lines = log.as_array().expect("a log").iter();
        lines.filter(|line| line["level"] == "SEVERE").cloned().collect()
    }

    pub(crate) async fn save_screenshot(&self, file: &Path) {
        let image = self.call(Method::GET, "/screenshot", &Value::Null).await;
        let image = data_encoding::BASE64.decode(image.as_str().expect("an image").as_bytes()).unwrap();
        std::fs::write(file, image).unwrap();
    }

    async fn tell(&self, path: &str, what: Value) -> Value {
        self.call(Method::POST, path, &what).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let url = format!("http://127.0.0.1:{}/session{}{path}", self.driver.port, self.session);
        let mut request = self.client.request(method, url);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = async { request.send().await?.json::<Value>().await };
        let mut answer = within(LIMIT * 3, "an answer of the browser", answer).await.expect("an answer");
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }
}

impl Driver {
    async fn start() -> Option<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().ok()?;
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let finding = async {
            while let Some(line) = output.next_line().await.unwrap() {
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    return port.trim_end_matches('.').parse().expect("a port");
                }
            }
            panic!("chromedriver ended");
        };
        let port = within(LIMIT, "the port of chromedriver", finding).await;
        Some(Self { port, child, _output: output })
    }
}

/// Killed, the driver would leave the browser behind: it is asked to end both.
impl Drop for Driver {
    fn drop(&mut self) {
        let ask = || -> io::Result<()> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(secs(10)))?;
            stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        };
        let _ = ask();
        let _ = self.child.start_kill();
    }
}

const MISSING: &str =
    "chromedriver not found: the tests in a browser are skipped; apt-get install chromium chromium-driver";

const ARGUMENTS: [&str; 9] = [
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-dev-shm-usage",
    "disable-sync",
];
