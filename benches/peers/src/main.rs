//! The same work through this crate and through others, on a broker that does nothing but answer and on mosquitto.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` measures and writes docs/benchmarks.md, its charts and
//! the figures of docs/scaling.md. `-- --quick` is a fast look, written to benches/peers/target/quick.

mod broker;
mod chart;
mod child;
mod clients;
mod endpoint;
mod heap;
mod lab;
mod machine;
mod plan;
mod process;
mod report;
mod tls;
mod work;

use std::path::Path;
use std::time::Instant;

use endpoint::Endpoint;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", name, ref broker @ ..] => child::serve(name, &Endpoint::parse(broker).expect("an endpoint")),
        [] | ["--quick"] => {
            let started = Instant::now();
            let quick = !arguments.is_empty();
            let core = broker::cores::reserve_last();
            let results = lab::Lab::new(core, quick).run();
            // A fast look must not take the place of what was measured with care.
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let docs = if quick { root.join("target/quick") } else { root.join("../../docs") };
            report::write(&results, &docs, started.elapsed().as_secs()).expect("the pages can be written");
            eprintln!("written: {}", docs.join("benchmarks.md").display());
        }
        _ => {
            eprintln!("usage: peers [--quick]");
            std::process::exit(2);
        }
    }
}
