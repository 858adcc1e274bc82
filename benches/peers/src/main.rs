//! The same work through this crate and through others, on a broker that does nothing but answer and on mosquitto.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` measures and writes docs/benchmarks.md, its charts and
//! the figures of docs/scaling.md; `-- --help` tells more.

mod broker;
mod chart;
mod child;
mod clients;
#[path = "../../throughput/cores.rs"]
mod cores;
mod endpoint;
mod heap;
mod lab;
mod machine;
// The criterion benches use more of it.
#[allow(dead_code)]
#[path = "../../throughput/null_broker.rs"]
mod null_broker;
mod numbers;
mod plan;
mod process;
mod report;
mod scaling;
mod tables;
mod tls;
mod work;

use std::path::Path;
use std::process::exit;
use std::time::Instant;

use endpoint::Endpoint;
use lab::{Lab, Scope};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", name, ref broker @ ..] => child::serve(name, &Endpoint::parse(broker).expect("an endpoint")),
        [] => measure(Scope::Whole),
        ["--quick"] => measure(Scope::Quick),
        ["--only", items] => measure(Scope::Only(items.split(',').map(str::to_owned).collect())),
        ["--help" | "-h"] => print!("{}", help()),
        _ => {
            eprint!("{}", help());
            exit(2);
        }
    }
}

fn measure(scope: Scope) {
    let started = Instant::now();
    let core = cores::reserve_last();
    // A fast look must not take the place of what was measured with care.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = root.join(if scope == Scope::Whole { "../../docs" } else { "target/quick" });
    let results = Lab::new(core, scope).run();
    report::write(&results, &docs, started.elapsed().as_secs()).expect("the pages can be written");
    eprintln!("written: {}", docs.join("benchmarks.md").display());
}

fn help() -> String {
    let items: Vec<_> = plan::ITEMS.iter().map(|item| item.key).collect();
    format!("{HELP}\nITEM is one of {}.\n", items.join(", "))
}

const HELP: &str = "\
Does the same work through this crate and through other MQTT clients, and writes what it measured.

usage: peers [--quick | --only ITEM,ITEM...]

  (none)     writes docs/benchmarks.md, its charts, and the figures in docs/scaling.md: ten minutes on a quiet machine
  --quick    one round of less work and no instructions: a minute or two, to see that all of it runs; the pages go to
             benches/peers/target/quick
  --only     these items alone, with all rounds; the pages go there too
  --help     this text

Takes part where it is installed: mosquitto; Python with paho-mqtt and aiomqtt; valgrind, which counts instructions;
taskset, which gives the broker a core of its own. What is missing is named on the page.
";
