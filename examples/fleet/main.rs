//! A web server's agent and a fleet of devices, each on a connection of its own, with the broker in the same process:
//!
//! ```text
//! cargo run --release --example fleet -- --devices 500
//! ```
//!
//! `story.rs` is what a server does with its agent, `device.rs` is the other end, `report.rs` prints the times.

mod device;
mod report;
mod story;

use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::future::join_all;
use futures::{stream, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget};
use mqtt_agent::testing::Broker;
use mqtt_agent::{Agent, Offline};

use device::Device;
use report::{describe, Report};

/// Calls a fleet of simulated devices, one by one and all at once, and prints the times.
#[derive(Parser)]
struct Args {
    /// How many devices to simulate, each on a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    devices: u16,
    /// A broker to use instead of the one in this process: mqtt://[user[:password]@]host[:port]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Print failures only.
    #[arg(long)]
    quiet: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let failures = run(&args).await.unwrap_or_else(|error| vec![error]);
    for failure in &failures {
        eprintln!("{failure}");
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

async fn run(args: &Args) -> Result<Vec<String>, String> {
    check_open_files(args)?;
    if let Some(url) = &args.broker {
        return run_with(args, url).await;
    }
    let broker = Broker::start().await.map_err(|error| describe("no broker", &error))?;
    let mut failures = run_with(args, &broker.url()).await?;
    if let Err(error) = broker.stop().await {
        failures.push(describe("the broker", &error));
    }
    Ok(failures)
}

async fn run_with(args: &Args, url: &str) -> Result<Vec<String>, String> {
    // First, so that a broker that cannot be reached is reported once and not by every device.
    // Its calls fail at once while there is no connection, where a device's wait for one.
    let agent = async { Agent::builder(url)?.offline(Offline::Fail).connect().await }
        .await
        .map_err(|error| describe("no connection", &error))?;

    let mut report = Report::new(args.quiet);
    let fleet = start_fleet(args.devices, url, &mut report).await;
    if report.failures.is_empty() {
        let ids: Vec<&str> = fleet.iter().map(Device::id).collect();
        story::tell(&agent, &ids, &mut report).await;
    }

    // What was accepted is finished before the agent disconnects.
    if let Err(error) = agent.drain(Duration::from_secs(5)).await {
        report.failures.push(describe("the end", &error));
    }
    let stops = fleet.into_iter().map(|device| async { (device.id().to_owned(), device.stop().await) });
    for (id, outcome) in join_all(stops).await {
        if let Err(error) = outcome {
            report.failures.push(describe(&format!("device {id}"), &error));
        }
    }
    Ok(report.failures)
}

async fn start_fleet(count: u16, url: &str, report: &mut Report) -> Vec<Device> {
    const AT_ONCE: usize = 64;

    let started = Instant::now();
    let bar = ProgressBar::with_draw_target(Some(count.into()), ProgressDrawTarget::hidden());
    let mut starting = stream::iter(0..count)
        .map(|number| async move {
            let id = format!("{number:04}");
            // Spreads the telemetry of the fleet over its period.
            let phase = f64::from(number) / f64::from(count);
            Device::start(url, &id, phase).await.map_err(|error| describe(&format!("device {id}"), &error))
        })
        .buffer_unordered(AT_ONCE);

    let mut fleet = Vec::new();
    while let Some(outcome) = starting.next().await {
        match outcome {
            Ok(device) => fleet.push(device),
            Err(failure) => report.failures.push(failure),
        }
        // Draws nothing where stderr is not a terminal.
        if bar.is_hidden() && started.elapsed() > Duration::from_secs(1) {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.time(&format!("connect {} devices, subscribed", fleet.len()), started.elapsed());
    fleet
}

/// Finds the limit by reaching it, the one way that every system knows: a broker that runs out of files turns deaf.
fn check_open_files(args: &Args) -> Result<(), String> {
    let ends = if args.broker.is_some() { 1 } else { 2 };
    let sockets = usize::from(args.devices) * ends;
    let probe = || -> io::Result<Vec<File>> {
        let path = std::env::current_exe()?;
        // And some for the listener, the server's agent and a name look-up.
        (0..sockets + 16).map(|_| File::open(&path)).collect()
    };
    match probe() {
        Ok(_) => Ok(()),
        // And some that the process has open already.
        Err(error) => {
            Err(format!("too few open files allowed: raise the limit by `ulimit -n {}` ({error})", sockets + 64))
        }
    }
}
