//! Where and when this was measured, and of which versions.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

/// What a program says in its first line.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

pub(crate) fn date() -> String {
    first_line("date", &["-u", "+%F"]).unwrap_or_else(|| "an unknown day".to_owned())
}

pub(crate) fn describe() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = available_on_machine();
    let kernel = kernel();
    let rust = first_line("rustc", &["--version"]).unwrap_or_default();
    format!("{}, {cores} cores; {kernel}; {rust}", processor.unwrap_or_else(|| "an unknown processor".to_owned()))
}

/// Major and minor: what comes behind names a build, of which nobody else knows.
fn kernel() -> String {
    let Some(name) = first_line("uname", &["-sr"]) else { return String::new() };
    let end = name.match_indices('.').nth(1).map_or(name.len(), |(at, _)| at);
    name[..end].to_owned()
}

/// Not those that this process was given: it leaves one to the broker.
fn available_on_machine() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match text.lines().filter(|line| line.starts_with("processor")).count() {
        0 => available_parallelism().map_or(1, std::num::NonZero::get),
        count => count,
    }
}

/// Names and versions, as they were built or found.
pub(crate) fn versions() -> Vec<(String, String)> {
    const LOCK: &str = include_str!("../Cargo.lock");
    let mut versions = Vec::new();
    for name in ["mqtt-agent", "rumqttc", "azure_iot_operations_mqtt", "mqtt5", "mqtt-typed-client", "rustls", "tokio"]
    {
        let version = LOCK.split("[[package]]").find_map(|package| {
            let named = package.contains(&format!("name = \"{name}\"\n"));
            named.then(|| package.split("version = \"").nth(1)?.split('"').next()).flatten()
        });
        versions.extend(version.map(|version| (name.to_owned(), version.to_owned())));
    }
    versions.extend(first_line("python3", &["--version"]).map(|line| split(&line)));
    for name in ["paho-mqtt", "aiomqtt"] {
        let script = format!("import importlib.metadata as m; print(m.version('{name}'))");
        let line = first_line("python3", &["-c", &script]).filter(|line| !line.contains("Traceback"));
        versions.extend(line.map(|line| (name.to_owned(), line)));
    }
    let mosquitto = ["/usr/sbin/mosquitto", "mosquitto"].iter().find_map(|program| first_line(program, &["-h"]));
    versions.extend(mosquitto.map(|line| split(&line)));
    versions.extend(first_line("valgrind", &["--version"]).map(|line| ("valgrind".to_owned(), line)));
    versions
}

fn split(line: &str) -> (String, String) {
    let (name, version) = line.split_once(' ').unwrap_or((line, ""));
    (name.to_owned(), version.trim_start_matches("version ").to_owned())
}
